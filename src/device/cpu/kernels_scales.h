/* SPDX-License-Identifier: Apache-2.0
 *
 * Decoding the scales of 4-bit weights ahead of a product; static, for the levels that multiply
 * from the codes.
 */
#ifndef LLAVA_KERNELS_SCALES_H
#define LLAVA_KERNELS_SCALES_H

#include "device/cpu/kernels.h"

#define SCALES_AT_ONCE 128 /* even */

/** Blocks [first, first + n) that share a nested absmax; the bits of quant_decode_absmax(). */
static inline void decode_scales(const quant *q, int64_t first, int64_t n, float *scales) {
    const float *map = q->map, offset = q->offset;
    const uint8_t *codes = q->codes + first;
    float nested;
    memcpy(&nested, (const uint8_t *)q->nested_absmax + 4 * (first / q->nested_block), 4);
    for (int64_t i = 0; i < n; i++) {
        scales[i] = map[codes[i]];
        __asm__ volatile("" : : : "memory"); /* one by one: gathering is slower */
    }
    for (int64_t i = 0; i < n; i++) scales[i] = scales[i] * nested + offset;
}

/** The scales of runs of 64 weights [first, first + n); a block has one or more of them. */
static inline void unit_scales(const quant *q, int64_t first, int64_t n, float *scales) {
    const int64_t repeat = q->block / 64;
    if (q->absmax && repeat == 1) {
        memcpy(scales, (const uint8_t *)q->absmax + 4 * first, (size_t)n * sizeof *scales);
        return;
    }
    for (int64_t at = 0, end; at < n; at = end) {
        if (repeat > 1) { /* what shares a block */
            const int64_t block = (first + at) / repeat;
            end = i64_min(n, (block + 1) * repeat - first);
            quant_decode_absmax(q, block, 1, scales + at);
            for (int64_t i = at + 1; i < end; i++) scales[i] = scales[at];
        } else {
            const int64_t nested = (first + at) / q->nested_block;
            end = i64_min(n, (nested + 1) * q->nested_block - first);
            decode_scales(q, first + at, end - at, scales + at);
        }
    }
}

#endif
