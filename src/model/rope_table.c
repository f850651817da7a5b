/* SPDX-License-Identifier: Apache-2.0
 *
 * Rotary frequencies, cosines and sines, and ALiBi slopes: host-side tables.
 *
 * The frequencies and the angle position * f are float32, as in the reference; cosine and sine are
 * of that float32 angle (transformers 4.40, LlamaRotaryEmbedding; llama3: 4.43,
 * _compute_llama3_parameters).
 */
#include <math.h>

#include "model_internal.h"

/** Dynamic NTK: the base grows once the sequence is longer than the model was trained for. */
static float rope_base(const lm_config *lm, int64_t length) {
    if (lm->rope != ROPE_DYNAMIC || length <= lm->max_position_embeddings) return lm->rope_theta;
    const double factor = lm->rope_factor, d = (double)lm->head_dim;
    const double stretch =
        factor * (double)length / (double)lm->max_position_embeddings - (factor - 1.0);
    return (float)((double)lm->rope_theta * pow(stretch, d / (d - 2.0)));
}

/** Llama 3.1: long wavelengths are stretched, short ones kept, those between blended. */
static float rope_llama3(const lm_config *lm, float f) {
    const float original = (float)lm->rope_original_max_position;
    const float low = lm->rope_low_freq_factor, high = lm->rope_high_freq_factor;
    const float wavelength = (float)(2.0 * M_PI) / f;
    if (wavelength < original / high) return f;
    if (wavelength > original / low) return f / lm->rope_factor;
    const float t = (original / wavelength - low) / (high - low);
    return (1.0f - t) * f / lm->rope_factor + t * f;
}

void rope_frequencies(const lm_config *lm, int64_t length, float *frequencies) {
    const float base = rope_base(lm, length), d = (float)lm->head_dim;
    for (int64_t j = 0; j < lm->head_dim / 2; j++) {
        const float f = 1.0f / powf(base, (float)(2 * j) / d);
        frequencies[j] = lm->rope == ROPE_LLAMA3 ? rope_llama3(lm, f) : f;
    }
}

void rope_angles(const lm_config *lm, const float *frequencies, int64_t position, float *cos_out,
                 float *sin_out) {
    float p = (float)position;
    if (lm->rope == ROPE_LINEAR) p /= lm->rope_factor;
    for (int64_t j = 0; j < lm->head_dim / 2; j++) {
        const float angle = p * frequencies[j];
        double s, c;
        sincos((double)angle, &s, &c);
        cos_out[j] = (float)c;
        sin_out[j] = (float)s;
    }
}

void alibi_slopes(int64_t n_heads, float *slopes) {
    int64_t n = 1;
    while (n < n_heads) n *= 2;
    /* n not equal to n_heads: the entries at odd places first, then those at even places */
    const bool interleave = n != n_heads;
    for (int64_t i = 0; i < n_heads; i++) {
        int64_t t = i;
        if (interleave) t = i < n / 2 ? 2 * i + 1 : 2 * (i - n / 2);
        slopes[i] = 1.0f / powf(2.0f, (float)(t + 1) * (8.0f / (float)n));
    }
}
