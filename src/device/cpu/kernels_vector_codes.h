/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of rows of 4-bit codes in float32, written once over vectors of 4 or 8 floats. Included
 * after kernels_vector_quant.h, by levels that define
 *
 *     code_table, code_table_load(float[16])
 *     look_up(w[8], codes, table)    8 LANES weights from 4 LANES bytes, in the order of
 *                                    arrange_4bit(): lane i of w[j] belongs to its x at 16 j + i
 */
#ifndef LLAVA_KERNELS_VECTOR_CODES_H
#define LLAVA_KERNELS_VECTOR_CODES_H

#include "device/cpu/kernels_vector_quant.h"

typedef struct code_product {
    const dot_4bit_args *args;
    scale_table map;
    scale_stream scales;
} code_product;

/** One weight row times activation rows [i, i + nx). */
V void tile_4bit(code_product *p, int64_t row, int64_t i, const int nx) {
    const dot_4bit_args *args = p->args;
    const int64_t per_block = 8 / LANES; /* of 64 */
    const int64_t blocks = args->k / 64, stride = args->x_stride;
    const int64_t at = args->first + row * args->k;
    const float *x = (const float *)args->x + i * stride;
    const uint8_t *codes = args->codes + at / 2;
    const code_table table = code_table_load(args->q->table);
    vec sum[2];
    UNROLL for (int j = 0; j < nx; j++) sum[j] = v_set(0);
    for (int64_t b = 0; b < blocks; b += SCALES_AT_ONCE) {
        const int64_t n = i64_min(SCALES_AT_ONCE, blocks - b);
        const float *scales = scale_stream_at(&p->scales, args->q, &p->map, at / 64 + b, n);
        for (int64_t c = b * per_block; c < (b + n) * per_block; c++) {
            const float *in = x + c * LANES / 16 * KERNEL_ARRANGED + c * LANES % 16;
            const vec scale = v_set(scales[c / per_block - b]);
            vec w[8], u[2];
            __builtin_prefetch(codes + c * 4 * LANES + PREFETCH_AHEAD);
            look_up(w, codes + c * 4 * LANES, &table);
            UNROLL for (int j = 0; j < nx; j++) {
                u[j] = v_mul(w[0], v_load(in + j * stride));
                UNROLL for (int t = 1; t < 8; t++) {
                    u[j] = v_fma(w[t], v_load(in + j * stride + 16 * t), u[j]);
                }
                sum[j] = v_fma(u[j], scale, sum[j]);
            }
        }
    }
    UNROLL for (int j = 0; j < nx; j++) {
        args->dst[(i + j) * args->dst_stride + row] = v_sum(sum[j]);
    }
}

static void NAME(dot_4bit)(const dot_4bit_args *args) {
    code_product p = {.args = args};
    scale_table_load(&p.map, args->q);
    p.scales.n = 0;
    p.scales.end = (args->first + args->n_w * args->k) / 64;
    for (int64_t r = 0; r < args->n_w; r++)
        for (int64_t i = 0; i < args->n_x; i += 2) {
            if (i + 1 < args->n_x)
                tile_4bit(&p, r, i, 2);
            else
                tile_4bit(&p, r, i, 1);
        }
}

#endif
