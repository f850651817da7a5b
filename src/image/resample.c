/* SPDX-License-Identifier: Apache-2.0
 *
 * The inner loops of resizing. Sums of 8-bit samples times 22-bit weights are exact in 32 bits,
 * so every version gives the same result. The bodies are compiled twice: for any processor, and
 * on x86-64 for AVX2.
 */
#include "resample.h"

#define RESAMPLE_HALF (1 << (RESAMPLE_BITS - 1))
#define BLOCK         32 /* columns whose sums stay in registers */

typedef int32_t lanes4 __attribute__((vector_size(16)));
typedef uint8_t bytes4 __attribute__((vector_size(4)));

static inline __attribute__((always_inline)) uint8_t clip_sum(int32_t sum) {
    const int32_t value = sum >> RESAMPLE_BITS;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/** A pixel's channels and the byte behind them as four lanes; the fourth is not used. */
static inline __attribute__((always_inline)) lanes4 load_pixel(const uint8_t *p) {
    bytes4 four;
    memcpy(&four, p, 4);
    return __builtin_convertvector(four, lanes4);
}

static inline __attribute__((always_inline)) void row_body(const resample_axis *axis,
                                                           const uint8_t *row, uint8_t *target) {
    for (int64_t x = 0; x < axis->out; x++, target += 3) {
        const resample_span span = axis->spans[x];
        const int32_t *taps = axis->taps + (size_t)x * axis->stride;
        const uint8_t *p = row + 3 * (size_t)span.first;
        lanes4 even = {RESAMPLE_HALF, RESAMPLE_HALF, RESAMPLE_HALF, 0}, odd = {0};
        int32_t k = 0;
        for (; k + 1 < span.count; k += 2, p += 6) {
            even += load_pixel(p) * taps[k];
            odd += load_pixel(p + 3) * taps[k + 1];
        }
        if (k < span.count) even += load_pixel(p) * taps[k];
        even += odd;
        for (int c = 0; c < 3; c++) target[c] = clip_sum(even[c]);
    }
}

static inline __attribute__((always_inline)) void column_body(const uint8_t *rows, size_t n_bytes,
                                                              const int32_t *taps, int32_t count,
                                                              uint8_t *target) {
    size_t x = 0;
    for (; x + BLOCK <= n_bytes; x += BLOCK) {
        int32_t sums[BLOCK];
        for (int i = 0; i < BLOCK; i++) sums[i] = RESAMPLE_HALF;
        for (int32_t k = 0; k < count; k++) {
            const uint8_t *p = rows + (size_t)k * n_bytes + x;
            const int32_t tap = taps[k];
            for (int i = 0; i < BLOCK; i++) sums[i] += p[i] * tap;
        }
        for (int i = 0; i < BLOCK; i++) target[x + (size_t)i] = clip_sum(sums[i]);
    }
    for (; x < n_bytes; x++) {
        int32_t sum = RESAMPLE_HALF;
        for (int32_t k = 0; k < count; k++) sum += rows[(size_t)k * n_bytes + x] * taps[k];
        target[x] = clip_sum(sum);
    }
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void row_avx2(const resample_axis *axis, const uint8_t *row,
                                                     uint8_t *target) {
    row_body(axis, row, target);
}

__attribute__((target("avx2"))) static void column_avx2(const uint8_t *rows, size_t n_bytes,
                                                        const int32_t *taps, int32_t count,
                                                        uint8_t *target) {
    column_body(rows, n_bytes, taps, count, target);
}
#endif

void resample_row(const resample_axis *axis, const uint8_t *row, uint8_t *target) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        row_avx2(axis, row, target);
        return;
    }
#endif
    row_body(axis, row, target);
}

void resample_column(const uint8_t *rows, size_t n_bytes, const int32_t *taps, int32_t count,
                     uint8_t *target) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        column_avx2(rows, n_bytes, taps, count, target);
        return;
    }
#endif
    column_body(rows, n_bytes, taps, count, target);
}
