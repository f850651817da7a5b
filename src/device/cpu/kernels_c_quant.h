/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernels of quantized weights in plain C; a part of kernels_c.c.
 */
#ifndef LLAVA_KERNELS_C_QUANT_H
#define LLAVA_KERNELS_C_QUANT_H

#include <math.h>

#include "device/cpu/kernels.h"

/* ---------------------------------------------------------------- 4 bit */

static void c_encode_4bit(const encode_4bit_args *args) {
    quant_encode_4bit(args->format, args->x, args->n, args->block, args->codes, args->absmax);
}

static void c_expand_4bit(const expand_4bit_args *args) {
    quant_decode_4bit(args->q, args->codes, args->first, args->n, args->dst);
}

/** Where element `at` of a row lies among arranged ones. */
static int64_t arranged(int64_t at) {
    const int64_t in = at % KERNEL_ARRANGED;
    return at - in + 16 * ((in % 8) ^ 1) + in / 8;
}

static void c_arrange_4bit(float *dst, const float *src, int64_t n) {
    for (int64_t i = 0; i < round_up(n, KERNEL_ARRANGED); i++)
        dst[arranged(i)] = i < n ? src[i] : 0;
}

/** A unit of 64 elements; the scale is applied to their sum. */
static float dot_unit(const float table[16], const uint8_t *codes, const float *x, int64_t at) {
    float lane[8] = {0};
    for (int64_t i = 0; i < 64; i++) {
        const uint8_t pair = codes[i / 2];
        lane[i / 8] += table[i % 2 ? pair & 15 : pair >> 4] * x[arranged(at + i)];
    }
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) +
           ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

static void c_dot_4bit(const dot_4bit_args *args) {
    for (int64_t r = 0; r < args->n_w; r++) {
        const int64_t first = args->first + r * args->k;
        for (int64_t i = 0; i < args->n_x; i++) {
            const float *x = (const float *)args->x + i * args->x_stride;
            float sum = 0;
            for (int64_t k = 0; k < args->k; k += 64) {
                float scale;
                quant_decode_absmax(args->q, (first + k) / args->q->block, 1, &scale);
                sum += dot_unit(args->q->table, args->codes + (first + k) / 2, x, k) * scale;
            }
            args->dst[i * args->dst_stride + r] = sum;
        }
    }
}

static void c_code_inputs(int16_t *dst, const float *src, int64_t n) {
    float *scales = (float *)(dst + n);
    for (int64_t first = 0; first < n; first += KERNEL_ARRANGED) {
        const float *x = src + first;
        float largest = 0, sick = 0; /* becomes not a number when an element is none */
        for (int i = 0; i < KERNEL_ARRANGED; i++) {
            largest = fmaxf(largest, fabsf(x[i]));
            sick += x[i] * 0.0f;
        }
        const bool counts = sick == 0 && largest >= KERNEL_CODE_TINY;
        const float factor = counts ? KERNEL_CODE_MAX / largest : 0;
        for (int at = 0; at < KERNEL_ARRANGED; at++) {
            const int from = 16 * (at / 32 + 4 * (at % 2)) + at % 32 / 2;
            dst[first + at] = counts ? (int16_t)rintf(x[from] * factor) : 0;
        }
        *scales++ = sick != 0 ? sick : counts ? largest / KERNEL_CODE_MAX : 0;
    }
}

static void c_dot_4bit_i16(const dot_4bit_args *args) {
    int16_t table[16];
    const float table_scale = quant_code_table(args->q->table, table);
    for (int64_t r = 0; r < args->n_w; r++) {
        const int64_t first = args->first + r * args->k;
        for (int64_t i = 0; i < args->n_x; i++) {
            const int16_t *x = (const int16_t *)args->x + i * args->x_stride;
            const float *scales = (const float *)(x + round_up(args->k, KERNEL_ARRANGED));
            float sum = 0;
            for (int64_t k = 0; k < args->k; k += 64) {
                float scale;
                int64_t exact = 0;
                for (int64_t e = k; e < k + 64; e++) {
                    const uint8_t pair = args->codes[(first + e) / 2];
                    const int64_t in = arranged(e) % KERNEL_ARRANGED, row = in / 16;
                    const int64_t at = e / KERNEL_ARRANGED * KERNEL_ARRANGED + 32 * (row % 4) +
                                       2 * (in % 16) + row / 4;
                    exact += table[e % 2 ? pair & 15 : pair >> 4] * x[at];
                }
                quant_decode_absmax(args->q, (first + k) / args->q->block, 1, &scale);
                sum += (float)exact * (scale * scales[k / KERNEL_ARRANGED]);
            }
            args->dst[i * args->dst_stride + r] = sum * table_scale;
        }
    }
}

/* ---------------------------------------------------------------- int8 */

static float c_encode_i8(const encode_i8_args *args) {
    const float threshold = args->threshold > 0 ? args->threshold : INFINITY;
    float largest = 0;
    for (int64_t i = 0; i < args->n; i++) {
        const float magnitude = fabsf(args->x[i]);
        if (magnitude < threshold) largest = fmaxf(largest, magnitude);
    }
    const float factor = quant_int8_factor(largest);
    for (int64_t i = 0; i < args->n; i++) {
        const float x = fabsf(args->x[i]) < threshold ? args->x[i] : 0;
        args->codes[i] = (uint8_t)quant_int8_code(x, factor) ^ args->flip;
    }
    return largest;
}

static void c_mark_outliers(uint8_t *flags, const float *x, int64_t n, float limit) {
    for (int64_t i = 0; i < n; i++) flags[i] |= fabsf(x[i]) >= limit;
}

static void c_dot_i8(const dot_i8_args *args) {
    for (int64_t r = 0; r < args->n_w; r++)
        for (int64_t i = 0; i < args->n_x; i++) {
            const int8_t *w = args->w + r * args->k;
            const uint8_t *x = args->x + i * args->x_stride;
            int32_t sum = 0;
            for (int64_t k = 0; k < args->k; k++) sum += w[k] * ((int32_t)x[k] - 128);
            args->dst[i * args->dst_stride + r] = sum;
        }
}

static void c_pack_i8(const pack_i8_args *args) {
    for (int64_t k = 0; k < round_up(args->k, 4); k++)
        for (int64_t j = 0; j < args->ld; j++) {
            const bool inside = j < args->n && k < args->k;
            const int8_t value = inside ? args->src[j * args->row_bytes + k] : 0;
            args->dst[k / 4 * 4 * args->ld + 4 * j + k % 4] = value;
            args->sums[j] += value;
        }
}

static void c_gemm_i8(const gemm_i8_args *args) {
    for (int64_t i = 0; i < args->m; i++) {
        const uint8_t *a = args->a + i * args->lda;
        int32_t *c = args->c + i * args->ldc;
        for (int64_t j = 0; j < args->n; j++) {
            uint32_t sum = args->accumulate ? (uint32_t)c[j] : 0; /* may wrap on the way */
            for (int64_t k = 0; k < args->k; k++)
                sum += (uint32_t)(a[k] * args->b[k / 4 * args->ldb + 4 * j + k % 4]);
            c[j] = (int32_t)sum;
        }
    }
}

static void c_scale_i32(const scale_i32_args *args) {
    for (int64_t i = 0; i < args->m; i++) {
        const int32_t *c = args->c + i * args->ldc;
        float *dst = args->dst + i * args->ldd;
        for (int64_t j = 0; j < args->n; j++) {
            float scale;
            memcpy(&scale, (const uint8_t *)args->column_scales + 4 * j, sizeof scale);
            const uint32_t shift = args->sums ? 128u * (uint32_t)args->sums[j] : 0;
            const int32_t sum = (int32_t)((uint32_t)c[j] - shift);
            dst[j] = (float)sum * KERNEL_INT8_PRODUCT * args->row_scales[i] * scale;
        }
    }
}

#endif
