/* SPDX-License-Identifier: Apache-2.0
 *
 * Rescaling and normalising, exactly as the reference's numpy computes them: the product in double
 * precision rounded to float32, then difference and quotient in float32.
 */
#include "pixel_values.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

void value_table_fill(const processor_config *c, value_table *table) {
    for (int channel = 0; channel < 3; channel++)
        for (int v = 0; v < 256; v++) {
            float x = c->do_rescale ? (float)((double)v * c->rescale_factor) : (float)v;
            if (c->do_normalize) x = (x - (float)c->mean[channel]) / (float)c->std[channel];
            table->value[channel][v] = x;
        }
}

/** Pixels [x, n). */
static void value_row_plain(const value_table *table, const uint8_t *rgb, int64_t n, float *out,
                            int64_t plane, int64_t x) {
    for (; x < n; x++) {
        out[x] = table->value[0][rgb[3 * x]];
        out[x + plane] = table->value[1][rgb[3 * x + 1]];
        out[x + 2 * plane] = table->value[2][rgb[3 * x + 2]];
    }
}

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2")))

/** Bytes 0, 3, 6, 9 of each half to 32 bits, from `first` on. */
AVX2 static inline __m256i channel_order(char first) {
    const __m256i red =
        _mm256_setr_epi8(0, -1, -1, -1, 3, -1, -1, -1, 6, -1, -1, -1, 9, -1, -1, -1, 0, -1, -1, -1,
                         3, -1, -1, -1, 6, -1, -1, -1, 9, -1, -1, -1);
    const __m256i step = _mm256_set1_epi32((uint8_t)first);
    return _mm256_add_epi8(red, step);
}

/** Eight pixels at a time; reads 28 bytes for them, so ten must be left. */
AVX2 static int64_t value_row_avx2(const value_table *table, const uint8_t *rgb, int64_t n,
                                   float *out, int64_t plane) {
    const __m256i order[3] = {channel_order(0), channel_order(1), channel_order(2)};
    int64_t x = 0;
    for (; x + 10 <= n; x += 8) {
        const __m128i first = _mm_loadu_si128((const __m128i *)(const void *)(rgb + 3 * x));
        const __m128i second = _mm_loadu_si128((const __m128i *)(const void *)(rgb + 3 * x + 12));
        const __m256i pixels = _mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1);
        for (int c = 0; c < 3; c++) {
            const __m256i index = _mm256_shuffle_epi8(pixels, order[c]);
            _mm256_storeu_ps(out + c * plane + x,
                             _mm256_i32gather_ps(table->value[c], index, sizeof(float)));
        }
    }
    return x;
}
#endif

void value_row(const value_table *table, const uint8_t *rgb, int64_t n, float *out, int64_t plane) {
    int64_t x = 0;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) x = value_row_avx2(table, rgb, n, out, plane);
#endif
    value_row_plain(table, rgb, n, out, plane, x);
}
