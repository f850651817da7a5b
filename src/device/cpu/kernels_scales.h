/* SPDX-License-Identifier: Apache-2.0
 *
 * Scales of 4-bit weights, decoded ahead of a product; static, for the levels that multiply from
 * the codes. A level may define HAS_DECODE_SCALES and its own decode_scales() before.
 */
#ifndef LLAVA_KERNELS_SCALES_H
#define LLAVA_KERNELS_SCALES_H

#include "device/cpu/kernels.h"

#define SCALES_AT_ONCE 128 /* even */
#define SCALES_SLACK   64  /* what decode_scales() may write behind */

#ifndef HAS_DECODE_SCALES
typedef struct scale_table {
    const float *map;
} scale_table;

static inline void scale_table_load(scale_table *t, const quant *q) { t->map = q->map; }

/** scales[i] = map[codes[i]] * nested + offset, each step rounded. */
static inline void decode_scales(const scale_table *t, const uint8_t *codes, int64_t n,
                                 float nested, float offset, float *scales) {
    const float *map = t->map;
    for (int64_t i = 0; i < n; i++) {
        scales[i] = map[codes[i]];
        __asm__ volatile("" : : : "memory"); /* one by one: gathering is slower */
    }
    for (int64_t i = 0; i < n; i++) scales[i] = scales[i] * nested + offset;
}
#endif

/** The scales of 64 weights each, where a product reads rows one behind the other: those of
 *  several short rows are decoded together. Values have the bits of quant_decode_absmax(). */
typedef struct scale_stream {
    int64_t first, n, end; /* what is decoded; the last there is */
    float values[SCALES_AT_ONCE + SCALES_SLACK];
} scale_stream;

static inline void scale_stream_fill(scale_stream *s, const quant *q, const scale_table *t) {
    const int64_t repeat = q->block / 64;
    for (int64_t at = 0, end; at < s->n; at = end) {
        float *values = s->values + at;
        if (repeat > 1) { /* what shares a block */
            const int64_t block = (s->first + at) / repeat;
            end = i64_min(s->n, (block + 1) * repeat - s->first);
            quant_decode_absmax(q, block, 1, values);
            for (int64_t i = 1; i < end - at; i++) values[i] = values[0];
        } else if (q->absmax) {
            end = s->n;
            memcpy(values, (const uint8_t *)q->absmax + 4 * (s->first + at),
                   4 * (size_t)(end - at));
        } else { /* what shares a nested absmax */
            const int64_t block = (s->first + at) / q->nested_block;
            end = i64_min(s->n, (block + 1) * q->nested_block - s->first);
            float nested;
            memcpy(&nested, (const uint8_t *)q->nested_absmax + 4 * block, sizeof nested);
            decode_scales(t, q->codes + s->first + at, end - at, nested, q->offset, values);
        }
    }
}

/** Scales [first, first + n), n <= SCALES_AT_ONCE; one more may be overwritten. */
static inline float *scale_stream_at(scale_stream *s, const quant *q, const scale_table *t,
                                     int64_t first, int64_t n) {
    if (first < s->first || first + n > s->first + s->n) {
        s->first = first;
        s->n = i64_min(SCALES_AT_ONCE, s->end - first);
        scale_stream_fill(s, q, t);
    }
    return s->values + (first - s->first);
}

#endif
