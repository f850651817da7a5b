/* SPDX-License-Identifier: Apache-2.0
 *
 * Scale-free distances between what was recorded and what was computed.
 */
#include <math.h>

#include "verify/verify.h"

/* Level A: float32 against float32 on the same weights differs by summation order and the
 * mathematical library only; errors grow as sqrt(layers * width) * 2^-24. Measured between two
 * ways of running the reference itself: 7e-6 of sigma, 1 - cosine 1.3e-12, divergence 1e-11.
 * A beam's score is a mean of log-probabilities, each off by at most the logits' bound. */
const verify_level verify_level_float32 = {"float32", 1e-9, 1e-4, 1e-8, 1e-6, false, 1e-4};

/* Level C: half precision against float32 is dominated by about six roundings a layer of relative
 * size 2^-9 (bfloat16) or 2^-11 (float16). Inner stages have no common scale, so only their
 * direction is judged; a search has no bound at all and is not compared. */
const verify_level verify_level_half = {"half", 1e-3, 0.15, 5e-3, 5e-2, true, 0};

/* Levels D and E: quantized weights against float32. */
const verify_level verify_level_int8 = {"int8", 5e-3, 0.4, 2e-2, 0.2, true, 0};
const verify_level verify_level_4bit = {"4 bit", 3e-2, 1, 0.1, 1, true, 0};

/* Below this a row counts as zero: squares of smaller float32 values leave double's range. */
#define TINY_NORM 1e-150

double standard_deviation(const float *values, int64_t count) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < count; i++) sum += values[i];
    const double mean = count ? sum / (double)count : 0;
    for (int64_t i = 0; i < count; i++) squares += (values[i] - mean) * (values[i] - mean);
    return count > 1 ? sqrt(squares / (double)(count - 1)) : 0;
}

int64_t count_differing(const float *own, const float *reference, int64_t count) {
    int64_t n = 0;
    for (int64_t i = 0; i < count; i++) n += f32_to_bits(own[i]) != f32_to_bits(reference[i]);
    return n;
}

static double row_cosine_gap(const float *own, const float *reference, int64_t n) {
    double dot = 0, a = 0, b = 0;
    for (int64_t i = 0; i < n; i++) {
        dot += (double)own[i] * reference[i];
        a += (double)own[i] * own[i];
        b += (double)reference[i] * reference[i];
    }
    if (a < TINY_NORM && b < TINY_NORM) return 0;
    if (a < TINY_NORM || b < TINY_NORM) return 1;
    /* rounding can put the quotient a hair above 1 */
    return fmax(0, 1 - dot / (sqrt(a) * sqrt(b)));
}

static double row_max_abs(const float *own, const float *reference, int64_t n) {
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        const double difference = fabs((double)own[i] - reference[i]);
        /* written so that a NaN on either side is kept as the worst there is */
        if (!(difference <= worst)) worst = isnan(difference) ? INFINITY : difference;
    }
    return worst;
}

static double log_sum_exp(const float *x, int64_t n) {
    /* in float, which is exact: gcc 12 for arm64 fails on a maximum of floats kept in double */
    float largest = -INFINITY;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) largest = fmaxf(largest, x[i]);
    for (int64_t i = 0; i < n; i++) sum += exp((double)x[i] - largest);
    return sum > 0 ? largest + log(sum) : largest;
}

/** KL(reference || own) of the softmaxes of two rows of logits. */
static double row_divergence(const float *own, const float *reference, int64_t n) {
    const double norm_own = log_sum_exp(own, n), norm_reference = log_sum_exp(reference, n);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const double log_p = reference[i] - norm_reference, log_q = own[i] - norm_own;
        if (isfinite(log_p)) sum += exp(log_p) * (log_p - log_q);
    }
    return fmax(0, sum);
}

static double keep_worst(double worst, double value) {
    if (isnan(value)) return INFINITY;
    return fmax(worst, value);
}

row_metrics compare_rows(const float *own, const float *reference, int64_t n_rows, int64_t n_cols,
                         bool are_logits) {
    row_metrics m = {0};
    double sigma = are_logits ? 0 : standard_deviation(reference, n_rows * n_cols);
    for (int64_t i = 0; i < n_rows; i++) {
        const float *a = own + i * n_cols, *b = reference + i * n_cols;
        if (are_logits) sigma = standard_deviation(b, n_cols);
        const double difference = row_max_abs(a, b, n_cols);
        m.one_minus_cosine = keep_worst(m.one_minus_cosine, row_cosine_gap(a, b, n_cols));
        m.max_abs_sigma = keep_worst(m.max_abs_sigma, difference == 0 ? 0 : difference / sigma);
        if (!are_logits) continue;
        const double divergence = row_divergence(a, b, n_cols);
        m.kl_max = keep_worst(m.kl_max, divergence);
        m.kl_mean += isnan(divergence) ? INFINITY : divergence / (double)n_rows;
    }
    return m;
}
