/* SPDX-License-Identifier: Apache-2.0
 *
 * The inner loops of resizing, for any processor and for AVX2. Sums of 8-bit samples times 22-bit
 * weights are exact in 32 bits (parts may wrap, the whole does not), so both give the same result.
 */
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "resample.h"

#define RESAMPLE_HALF (1 << (RESAMPLE_BITS - 1))

static inline uint8_t clip_sum(int32_t sum) {
    const int32_t value = sum >> RESAMPLE_BITS;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* ---------------------------------------------------------------- any processor */

void resample_row_plain(const resample_axis *axis, const uint8_t *row, uint8_t *target) {
    for (int64_t x = 0; x < axis->out; x++, target += 3) {
        const resample_span span = axis->spans[x];
        const int32_t *taps = axis->taps + (size_t)x * axis->stride;
        const uint8_t *p = row + 3 * (size_t)span.first;
        int32_t red = RESAMPLE_HALF, green = RESAMPLE_HALF, blue = RESAMPLE_HALF;
        for (int32_t k = 0; k < span.count; k++, p += 3) {
            red += p[0] * taps[k];
            green += p[1] * taps[k];
            blue += p[2] * taps[k];
        }
        target[0] = clip_sum(red);
        target[1] = clip_sum(green);
        target[2] = clip_sum(blue);
    }
}

void resample_column_plain(const uint8_t *rows, size_t n_bytes, const int32_t *taps, int32_t count,
                           uint8_t *target, size_t first) {
    for (size_t x = first; x < n_bytes; x++) {
        int32_t sum = RESAMPLE_HALF;
        for (int32_t k = 0; k < count; k++) sum += rows[(size_t)k * n_bytes + x] * taps[k];
        target[x] = clip_sum(sum);
    }
}

/* ---------------------------------------------------------------- AVX2 */

#if defined(__x86_64__)

#define AVX2 __attribute__((target("avx2")))

/** Four pixels p0 p1 p2 p3 of 3 bytes, in both halves of a register, to 16-bit pairs: first half
 *  R01 R23 G01 G23, second half B01 B23 and zeros. */
AVX2 static inline __m256i pair_pixels(const uint8_t *p) {
    const __m256i order = _mm256_setr_epi8(
        0, -1, 3, -1, 6, -1, 9, -1, 1, -1, 4, -1, 7, -1, 10, -1, /* R0 R1 R2 R3 G0 G1 G2 G3 */
        2, -1, 5, -1, 8, -1, 11, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m128i bytes16 = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes16), order);
}

/** The same four 16-bit taps in every quarter of a register. */
AVX2 static inline __m256i load_parts(const int16_t *parts) {
    int64_t four;
    memcpy(&four, parts, sizeof four);
    return _mm256_set1_epi64x(four);
}

AVX2 static void row_avx2(const resample_axis *axis, const uint8_t *row, uint8_t *target) {
    const __m128i half = _mm_set1_epi32(RESAMPLE_HALF);
    for (int64_t x = 0; x < axis->out; x++, target += 3) {
        const resample_span span = axis->spans[x];
        const int16_t *parts = axis->parts + (size_t)x * axis->stride * 2;
        const uint8_t *p = row + 3 * (size_t)span.first;
        __m256i high = _mm256_setzero_si256(), low = _mm256_setzero_si256();
        for (int32_t k = 0; k < span.count; k += RESAMPLE_GROUP) {
            const __m256i pixels = pair_pixels(p);
            high = _mm256_add_epi32(high, _mm256_madd_epi16(pixels, load_parts(parts)));
            low = _mm256_add_epi32(low,
                                   _mm256_madd_epi16(pixels, load_parts(parts + RESAMPLE_GROUP)));
            p += 3 * RESAMPLE_GROUP;
            parts += 2 * RESAMPLE_GROUP;
        }
        const __m256i sums = _mm256_add_epi32(_mm256_slli_epi32(high, RESAMPLE_LOW), low);
        __m128i rgb =
            _mm_hadd_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
        rgb = _mm_srai_epi32(_mm_add_epi32(rgb, half), RESAMPLE_BITS);
        rgb = _mm_packus_epi16(_mm_packs_epi32(rgb, rgb), rgb);
        const uint32_t packed = (uint32_t)_mm_cvtsi128_si32(rgb);
        target[0] = (uint8_t)packed;
        target[1] = (uint8_t)(packed >> 8);
        target[2] = (uint8_t)(packed >> 16);
    }
}

/** Eight columns of one row times a tap. */
AVX2 static inline __m256i column_product(const uint8_t *p, __m256i tap) {
    const __m128i bytes8 = _mm_loadl_epi64((const __m128i *)(const void *)p);
    return _mm256_mullo_epi32(_mm256_cvtepu8_epi32(bytes8), tap);
}

AVX2 static void column_avx2(const uint8_t *rows, size_t n_bytes, const int32_t *taps,
                             int32_t count, uint8_t *target) {
    const __m256i half = _mm256_set1_epi32(RESAMPLE_HALF);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    size_t x = 0;
    for (; x + 32 <= n_bytes; x += 32) {
        __m256i a = half, b = half, c = half, d = half;
        const uint8_t *p = rows + x;
        for (int32_t k = 0; k < count; k++, p += n_bytes) {
            const __m256i tap = _mm256_set1_epi32(taps[k]);
            a = _mm256_add_epi32(a, column_product(p, tap));
            b = _mm256_add_epi32(b, column_product(p + 8, tap));
            c = _mm256_add_epi32(c, column_product(p + 16, tap));
            d = _mm256_add_epi32(d, column_product(p + 24, tap));
        }
        a = _mm256_packs_epi32(_mm256_srai_epi32(a, RESAMPLE_BITS),
                               _mm256_srai_epi32(b, RESAMPLE_BITS));
        c = _mm256_packs_epi32(_mm256_srai_epi32(c, RESAMPLE_BITS),
                               _mm256_srai_epi32(d, RESAMPLE_BITS));
        const __m256i all = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, c), order);
        _mm256_storeu_si256((__m256i *)(void *)(target + x), all);
    }
    resample_column_plain(rows, n_bytes, taps, count, target, x);
}

#endif

/* ---------------------------------------------------------------- choice */

void resample_row(const resample_axis *axis, const uint8_t *row, uint8_t *target) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        row_avx2(axis, row, target);
        return;
    }
#endif
    resample_row_plain(axis, row, target);
}

void resample_column(const uint8_t *rows, size_t n_bytes, const int32_t *taps, int32_t count,
                     uint8_t *target) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        column_avx2(rows, n_bytes, taps, count, target);
        return;
    }
#endif
    resample_column_plain(rows, n_bytes, taps, count, target, 0);
}
