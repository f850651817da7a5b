/* SPDX-License-Identifier: Apache-2.0
 *
 * Kernels for attention of generated rows, written once over a vector of LANES floats: few queries
 * over keys and values as the cache has them. Included after kernels_vector.h, by levels that
 * define one primitive more:
 *
 *     v_sums(a) -> vec    lane i: the sum of a[i]'s lanes, always in the same order
 *     v_load_i8(p) -> vec LANES signed bytes as floats
 */
#ifndef LLAVA_KERNELS_ATTENTION_H
#define LLAVA_KERNELS_ATTENTION_H

#include "device/cpu/kernels_vector.h"

INLINE vec v_load_i8_n(const void *p, int64_t n) {
    int8_t codes[LANES] = {0};
    memcpy(codes, p, (size_t)n);
    return v_load_i8(codes);
}

static void NAME(widen_i8)(float *dst, const void *row, int64_t n) {
    const uint8_t *codes = row;
    const vec scale = v_set(i8_row_scale(row, n));
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) v_store(dst + i, v_mul(v_load_i8(codes + i), scale));
    if (i < n) v_store_n(dst + i, v_mul(v_load_i8_n(codes + i, n - i), scale), n - i);
}

/* ---------------------------------------------------------------- queries times keys */

/** LANES sums at a time, of `slots` queries and LANES / slots keys; n_q of the queries exist. A
 *  score is one sum over vectors of dim in rising order, then over lanes: the same in any tile. */
#define TILE_SCORES(name, size, load)                                                              \
    INLINE void tile_##name(const key_scores_args *args, int64_t i, int64_t t, const int slots,    \
                            const int n_q) {                                                       \
        const int keys = LANES / slots;                                                            \
        const float *q = args->q + i * args->q_stride;                                             \
        const ptrdiff_t ahead =                                                                    \
            args->next ? (const uint8_t *)args->next - (const uint8_t *)args->k : 0;               \
        const uint8_t *k[LANES];                                                                   \
        vec sum[LANES];                                                                            \
        UNROLL for (int j = 0; j < keys; j++) { /* what lies behind the last key is not read */    \
            k[j] = (const uint8_t *)args->k + i64_min(t + j, args->n_keys - 1) * args->row_bytes;  \
        }                                                                                          \
        UNROLL for (int s = 0; s < LANES; s++) sum[s] = v_set(0);                                  \
        int64_t d = 0;                                                                             \
        for (; d + LANES <= args->dim; d += LANES) {                                               \
            vec x[4];                                                                              \
            UNROLL for (int r = 0; r < n_q; r++) x[r] = v_load(q + r * args->q_stride + d);        \
            UNROLL for (int j = 0; j < keys; j++) {                                                \
                const vec w = load(k[j] + d * (size));                                             \
                if (i == 0) __builtin_prefetch(k[j] + ahead + d * (size), 0, 2);                   \
                UNROLL for (int r = 0; r < n_q; r++) {                                             \
                    sum[r * keys + j] = v_fma(w, x[r], sum[r * keys + j]);                         \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
        if (d < args->dim) {                                                                       \
            const int64_t n = args->dim - d;                                                       \
            UNROLL for (int j = 0; j < keys; j++) {                                                \
                const vec w = load##_n(k[j] + d * (size), n);                                      \
                UNROLL for (int r = 0; r < n_q; r++) {                                             \
                    const vec x = v_load_n(q + r * args->q_stride + d, n);                         \
                    sum[r * keys + j] = v_fma(w, x, sum[r * keys + j]);                            \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
        float scores[LANES];                                                                       \
        v_store(scores, v_sums(sum));                                                              \
        if ((size) == 1) {                                                                         \
            UNROLL for (int j = 0; j < keys; j++) {                                                \
                const float scale = i8_row_scale(k[j], args->dim);                                 \
                UNROLL for (int r = 0; r < n_q; r++) scores[r * keys + j] *= scale;                \
            }                                                                                      \
        }                                                                                          \
        float *dst = args->dst + i * KERNEL_KEYS + t;                                              \
        if (t + keys <= args->n_keys) {                                                            \
            UNROLL for (int r = 0; r < n_q; r++) {                                                 \
                memcpy(dst + r * KERNEL_KEYS, scores + r * keys, (size_t)keys * sizeof *dst);      \
            }                                                                                      \
            return;                                                                                \
        }                                                                                          \
        for (int r = 0; r < n_q; r++)                                                              \
            for (int64_t j = 0; j < args->n_keys - t; j++)                                         \
                dst[r * KERNEL_KEYS + j] = scores[r * keys + j];                                   \
    }

/** Each piece of keys is used for all queries while it is in L1. */
#define KEY_SCORES(name, size, load)                                                               \
    TILE_SCORES(name, size, load)                                                                  \
    static void NAME(name)(const key_scores_args *args) {                                          \
        for (int64_t t = 0; t < args->n_keys; t += LANES) {                                        \
            const int64_t end = i64_min(t + LANES, args->n_keys);                                  \
            for (int64_t i = 0; i < args->n_queries; i += 4) {                                     \
                const int64_t left = args->n_queries - i;                                          \
                const int64_t keys = left > 2 ? LANES / 4 : left == 2 ? LANES / 2 : LANES;         \
                for (int64_t j = t; j < end; j += keys) {                                          \
                    switch (left) {                                                                \
                    case 1: tile_##name(args, i, j, 1, 1); break;                                  \
                    case 2: tile_##name(args, i, j, 2, 2); break;                                  \
                    case 3: tile_##name(args, i, j, 4, 3); break;                                  \
                    default: tile_##name(args, i, j, 4, 4); break;                                 \
                    }                                                                              \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }

KEY_SCORES(key_scores_f32, 4, load_f32)
KEY_SCORES(key_scores_f16, 2, v_load_f16)
KEY_SCORES(key_scores_bf16, 2, v_load_bf16)
KEY_SCORES(key_scores_i8, 1, v_load_i8)

/* ---------------------------------------------------------------- weights times values */

/** Queries whose sums fit the registers beside four vectors of values, or two. */
#define VALUE_QUERIES (LANES == 16 ? 7 : 6)
#define VALUE_VECTORS (LANES == 8 ? 2 : 4)

#define TILE_VALUES(name, size, load)                                                              \
    INLINE void tile_##name(const value_sums_args *args, int64_t i, int64_t d, const int n_q,      \
                            const int nv) {                                                        \
        vec sum[VALUE_QUERIES][VALUE_VECTORS];                                                     \
        float *dst = args->dst + i * args->dst_stride + d;                                         \
        const float *p = args->weights + i * KERNEL_KEYS;                                          \
        const uint8_t *v = (const uint8_t *)args->v + d * (size);                                  \
        const ptrdiff_t ahead =                                                                    \
            args->next && i == 0 ? (const uint8_t *)args->next - (const uint8_t *)args->v : 0;     \
        UNROLL for (int r = 0; r < n_q; r++) {                                                     \
            const vec factor = v_set(args->factors ? args->factors[i + r] : 1);                    \
            UNROLL for (int j = 0; j < nv; j++) {                                                  \
                sum[r][j] = v_mul(factor, v_load(dst + r * args->dst_stride + j * LANES));         \
            }                                                                                      \
        }                                                                                          \
        for (int64_t t = 0; t < args->n_keys; t++) {                                               \
            const float scale = (size) == 1 ? i8_row_scale(v, args->dim - d) : 1;                  \
            vec w[VALUE_VECTORS];                                                                  \
            UNROLL for (int j = 0; j < nv; j++) w[j] = load(v + j * LANES * (size));               \
            UNROLL for (int line = 0; line < nv * LANES * (size); line += 64) {                    \
                __builtin_prefetch(v + ahead + line, 0, 2);                                        \
            }                                                                                      \
            UNROLL for (int r = 0; r < n_q; r++) {                                                 \
                const vec x = v_set(p[r * KERNEL_KEYS] * scale);                                   \
                UNROLL for (int j = 0; j < nv; j++) sum[r][j] = v_fma(x, w[j], sum[r][j]);         \
            }                                                                                      \
            v += args->row_bytes;                                                                  \
            p++;                                                                                   \
        }                                                                                          \
        UNROLL for (int r = 0; r < n_q; r++) {                                                     \
            UNROLL for (int j = 0; j < nv; j++) {                                                  \
                v_store(dst + r * args->dst_stride + j * LANES, sum[r][j]);                        \
            }                                                                                      \
        }                                                                                          \
    }

/** Fewer than LANES elements from d on; dst is padded, values are not. */
#define REST_VALUES(name, size, load)                                                              \
    INLINE void rest_##name(const value_sums_args *args, int64_t i, int64_t d) {                   \
        float *dst = args->dst + i * args->dst_stride + d;                                         \
        const float *p = args->weights + i * KERNEL_KEYS;                                          \
        const uint8_t *v = (const uint8_t *)args->v + d * (size);                                  \
        const int64_t n = args->dim - d;                                                           \
        vec sum = v_mul(v_set(args->factors ? args->factors[i] : 1), v_load_n(dst, n));            \
        for (int64_t t = 0; t < args->n_keys; t++) {                                               \
            const uint8_t *row = v + t * args->row_bytes;                                          \
            const float scale = (size) == 1 ? i8_row_scale(row, n) : 1;                            \
            sum = v_fma(v_set(p[t] * scale), load##_n(row, n), sum);                               \
        }                                                                                          \
        v_store_n(dst, sum, n);                                                                    \
    }

#define VALUE_CASE(name, n)                                                                        \
    case n:                                                                                        \
        tile_##name(args, i, d, n, nv);                                                            \
        break;

#define VALUE_SUMS(name, size, load)                                                               \
    TILE_VALUES(name, size, load)                                                                  \
    REST_VALUES(name, size, load)                                                                  \
    INLINE void columns_##name(const value_sums_args *args, int64_t d, const int nv) {             \
        int64_t i = 0;                                                                             \
        for (; i + VALUE_QUERIES <= args->n_queries; i += VALUE_QUERIES)                           \
            tile_##name(args, i, d, VALUE_QUERIES, nv);                                            \
        switch (args->n_queries - i) {                                                             \
            VALUE_CASE(name, 6)                                                                    \
            VALUE_CASE(name, 5)                                                                    \
            VALUE_CASE(name, 4)                                                                    \
            VALUE_CASE(name, 3)                                                                    \
            VALUE_CASE(name, 2)                                                                    \
            VALUE_CASE(name, 1)                                                                    \
        default: break;                                                                            \
        }                                                                                          \
    }                                                                                              \
    static void NAME(name)(const value_sums_args *args) {                                          \
        int64_t d = 0;                                                                             \
        for (; d + VALUE_VECTORS * LANES <= args->dim; d += VALUE_VECTORS * LANES)                 \
            columns_##name(args, d, VALUE_VECTORS);                                                \
        for (; d + LANES <= args->dim; d += LANES) columns_##name(args, d, 1);                     \
        for (int64_t i = 0; d < args->dim && i < args->n_queries; i++) rest_##name(args, i, d);    \
    }

VALUE_SUMS(value_sums_f32, 4, load_f32)
VALUE_SUMS(value_sums_f16, 2, v_load_f16)
VALUE_SUMS(value_sums_bf16, 2, v_load_bf16)
VALUE_SUMS(value_sums_i8, 1, v_load_i8)

#endif
