/* SPDX-License-Identifier: Apache-2.0
 *
 * Kernels written once over a vector of LANES floats. A level's file defines, before including
 * this, the type `vec` and its primitives:
 *
 *     LANES, TILE_VECTORS (vectors of a panel), DOT_ROWS_MAX (activation rows taken together, 1
 *     or 2)
 *     v_set(x) v_load(p) v_load_n(p, n) v_store(p, v) v_store_n(p, v, n)    n in [1, LANES)
 *     v_load_f16 v_load_f16_n v_load_bf16 v_load_bf16_n                     widened
 *     v_add v_sub v_mul v_div v_fma(a, b, c) = a * b + c  v_fnma = c - a * b
 *     v_min(a, b) v_max(a, b)                   b when either is not a number
 *     v_less(a, b, x, y)                        a < b ? x : y in each lane
 *     v_round(a)  v_exp2(a, n) = a * 2^n        n integral, |n| < 160
 *     v_index()                                 0, 1, 2, ...
 *     v_sum(a)  v_maximum(a)                    over the lanes, in a fixed order
 *
 * and NAME(kernel) for the level's prefix. Everything here is static.
 */
#ifndef LLAVA_KERNELS_VECTOR_H
#define LLAVA_KERNELS_VECTOR_H

#include <math.h>

#include "device/cpu/kernels.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* ---------------------------------------------------------------- functions of a vector */

/** e^x within 1.0 units in the last place; subnormal results within one subnormal step.
 *  x = n ln 2 + r, |r| <= ln 2 / 2, minimax polynomial of degree 6 for e^r (3e-9 relative). */
INLINE vec v_exp(vec x) {
    x = v_max(v_set(-104.5f), v_min(v_set(89.5f), x)); /* 0 and infinity lie inside */
    const vec n = v_round(v_mul(x, v_set(1.44269504f)));
    vec r = v_fnma(n, v_set(0x1.62e4p-1f), x); /* 17 bits: n times it is exact */
    r = v_fnma(n, v_set(1.42860682e-6f), r);
    vec p = v_set(0.001381460245f);
    p = v_fma(p, r, v_set(0.008368717157f));
    p = v_fma(p, r, v_set(0.04166838799f));
    p = v_fma(p, r, v_set(0.1666652063f));
    p = v_fma(p, r, v_set(0.4999999345f));
    p = v_fma(p, v_mul(r, r), r);
    return v_exp2(v_add(p, v_set(1)), n);
}

INLINE vec v_neg(vec x) { return v_mul(x, v_set(-1)); }
INLINE vec v_abs(vec x) { return v_max(v_neg(x), x); }

INLINE vec v_sigmoid(vec x) { return v_div(v_set(1), v_add(v_set(1), v_exp(v_neg(x)))); }

INLINE vec v_silu(vec x) { return v_div(x, v_add(v_set(1), v_exp(v_neg(x)))); }

INLINE vec v_quick_gelu(vec x) {
    return v_div(x, v_add(v_set(1), v_exp(v_mul(x, v_set(-1.702f)))));
}

/** 0.5 (1 + tanh u) = 1 / (1 + e^(-2u)): accurate also where the sum cancels. */
INLINE vec v_gelu_tanh(vec x) {
    const vec inner = v_fma(v_mul(v_mul(v_set(0.044715f), x), x), x, x);
    return v_div(x, v_add(v_set(1), v_exp(v_mul(inner, v_set(-1.59576912f)))));
}

/** x Phi(x); with z = |x| / sqrt 2, erfc(z) = e^(-z^2) t P(t), t = 1 / (1 + 0.35 z), P minimax of
 *  degree 9 on z <= 11 (8e-9 relative). */
INLINE vec v_gelu(vec x) {
    const vec t = v_div(v_set(1), v_fma(v_abs(x), v_set(0.35f * 0.70710678f), v_set(1)));
    vec p = v_set(0.03966800103f);
    p = v_fma(p, t, v_set(-0.1659864167f));
    p = v_fma(p, t, v_set(0.1985277765f));
    p = v_fma(p, t, v_set(-0.05117186642f));
    p = v_fma(p, t, v_set(0.1072007694f));
    p = v_fma(p, t, v_set(0.1348044998f));
    p = v_fma(p, t, v_set(0.1552297983f));
    p = v_fma(p, t, v_set(0.186997309f));
    p = v_fma(p, t, v_set(0.1972525379f));
    p = v_fma(p, t, v_set(0.1974775994f));
    const vec half_square = v_mul(v_mul(x, v_set(-0.5f)), x);
    const vec tail = v_mul(v_mul(v_mul(p, t), v_set(0.5f)), v_mul(v_exp(half_square), x));
    return v_less(x, v_set(0), tail, v_sub(x, tail));
}

/** Odd polynomial near zero (5e-9 relative), 1 - 2 / (e^(2x) + 1) elsewhere. */
INLINE vec v_tanh(vec x) {
    const vec square = v_mul(x, x);
    vec p = v_set(-0.005660787429f);
    p = v_fma(p, square, v_set(0.0206020064f));
    p = v_fma(p, square, v_set(-0.05372922969f));
    p = v_fma(p, square, v_set(0.1333132896f));
    p = v_fma(p, square, v_set(-0.3333327832f));
    const vec near = v_fma(v_mul(p, square), x, x);
    const vec power = v_exp(v_add(x, x));
    const vec far = v_sub(v_set(1), v_div(v_set(2), v_add(power, v_set(1))));
    return v_less(square, v_set(0.39f), near, far);
}

INLINE vec v_relu(vec x) { return v_less(x, v_set(0), v_set(0), x); }
INLINE vec v_relu2(vec x) { return v_less(x, v_set(0), v_set(0), v_mul(x, x)); }

/* ---------------------------------------------------------------- element by element */

#define EACH(name)                                                                                 \
    static void NAME(name)(float *dst, const float *x, int64_t n) {                                \
        int64_t i = 0;                                                                             \
        for (; i + LANES <= n; i += LANES) v_store(dst + i, v_##name(v_load(x + i)));              \
        if (i < n) v_store_n(dst + i, v_##name(v_load_n(x + i, n - i)), n - i);                    \
    }
EACH(silu)
EACH(gelu)
EACH(gelu_tanh)
EACH(quick_gelu)
EACH(relu)
EACH(relu2)
EACH(tanh)
EACH(sigmoid)

static void NAME(multiply)(float *dst, const float *x, const float *y, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) v_store(dst + i, v_mul(v_load(x + i), v_load(y + i)));
    if (i < n) v_store_n(dst + i, v_mul(v_load_n(x + i, n - i), v_load_n(y + i, n - i)), n - i);
}

static void NAME(add_scaled)(float *dst, const float *x, int64_t n, float scale) {
    const vec s = v_set(scale);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v_store(dst + i, v_add(v_load(dst + i), v_mul(s, v_load(x + i))));
    if (i < n) {
        const vec sum = v_add(v_load_n(dst + i, n - i), v_mul(s, v_load_n(x + i, n - i)));
        v_store_n(dst + i, sum, n - i);
    }
}

static void NAME(scale)(float *dst, const float *x, int64_t n, float factor) {
    const vec f = v_set(factor);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) v_store(dst + i, v_mul(v_load(x + i), f));
    if (i < n) v_store_n(dst + i, v_mul(v_load_n(x + i, n - i), f), n - i);
}

/* ---------------------------------------------------------------- conversions */

#define WIDEN(name, load)                                                                          \
    static void NAME(name)(float *dst, const void *src, int64_t n) {                               \
        const uint8_t *p = src;                                                                    \
        int64_t i = 0;                                                                             \
        for (; i + LANES <= n; i += LANES) v_store(dst + i, load(p + 2 * i));                      \
        if (i < n) v_store_n(dst + i, load##_n(p + 2 * i, n - i), n - i);                          \
    }
WIDEN(widen_f16, v_load_f16)
WIDEN(widen_bf16, v_load_bf16)

/* ---------------------------------------------------------------- rows */

/** Four accumulators; the order depends on n alone. */
static float NAME(sum)(const float *x, int64_t n) {
    vec a = v_set(0), b = a, c = a, d = a;
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        a = v_add(a, v_load(x + i));
        b = v_add(b, v_load(x + i + LANES));
        c = v_add(c, v_load(x + i + 2 * LANES));
        d = v_add(d, v_load(x + i + 3 * LANES));
    }
    for (; i + LANES <= n; i += LANES) a = v_add(a, v_load(x + i));
    if (i < n) b = v_add(b, v_load_n(x + i, n - i));
    return v_sum(v_add(v_add(a, b), v_add(c, d)));
}

static float NAME(sum_squares)(const float *x, int64_t n, float center) {
    const vec mean = v_set(center);
    vec a = v_set(0), b = a, c = a, d = a;
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        const vec x0 = v_sub(v_load(x + i), mean), x1 = v_sub(v_load(x + i + LANES), mean);
        const vec x2 = v_sub(v_load(x + i + 2 * LANES), mean);
        const vec x3 = v_sub(v_load(x + i + 3 * LANES), mean);
        a = v_fma(x0, x0, a);
        b = v_fma(x1, x1, b);
        c = v_fma(x2, x2, c);
        d = v_fma(x3, x3, d);
    }
    for (; i + LANES <= n; i += LANES) {
        const vec x0 = v_sub(v_load(x + i), mean);
        a = v_fma(x0, x0, a);
    }
    float rest = 0;
    for (; i < n; i++) rest += (x[i] - center) * (x[i] - center);
    return v_sum(v_add(v_add(a, b), v_add(c, d))) + rest;
}

INLINE vec normal(vec x, vec mean, vec inverse, vec w) {
    return v_mul(v_mul(v_sub(x, mean), inverse), w);
}

static void NAME(normalize)(const normalize_args *args) {
    const vec mean = v_set(args->mean), inverse = v_set(args->inverse);
    const float *x = args->x, *w = args->w, *b = args->b;
    float *dst = args->dst;
    const int64_t n = args->n;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const vec y = normal(v_load(x + i), mean, inverse, v_load(w + i));
        v_store(dst + i, b ? v_add(y, v_load(b + i)) : y);
    }
    if (i == n) return;
    const vec y = normal(v_load_n(x + i, n - i), mean, inverse, v_load_n(w + i, n - i));
    v_store_n(dst + i, b ? v_add(y, v_load_n(b + i, n - i)) : y, n - i);
}

static void NAME(rope)(float *x, const float *cos, const float *sin, int64_t half) {
    float *y = x + half;
    int64_t i = 0;
    for (; i + LANES <= half; i += LANES) {
        const vec a = v_load(x + i), b = v_load(y + i), c = v_load(cos + i), s = v_load(sin + i);
        v_store(x + i, v_sub(v_mul(a, c), v_mul(b, s)));
        v_store(y + i, v_add(v_mul(b, c), v_mul(a, s)));
    }
    if (i == half) return;
    const int64_t n = half - i;
    const vec a = v_load_n(x + i, n), b = v_load_n(y + i, n);
    const vec c = v_load_n(cos + i, n), s = v_load_n(sin + i, n);
    v_store_n(x + i, v_sub(v_mul(a, c), v_mul(b, s)), n);
    v_store_n(y + i, v_add(v_mul(b, c), v_mul(a, s)), n);
}

/* ---------------------------------------------------------------- attention */

/** Scores as they compare, where a scale alone does not make them so. */
static void NAME(weigh)(const softmax_args *args) {
    const vec scale = v_set(args->scale), slope = v_set(args->slope), offset = v_set(args->offset);
    for (int64_t j = 0; j < args->n; j += LANES) {
        const vec index = v_add(v_index(), v_set((float)j));
        const vec s = v_mul(v_load(args->scores + j), scale);
        v_store(args->scores + j, v_add(s, v_mul(slope, v_add(index, offset))));
    }
}

INLINE float highest_score(const float *scores, int64_t n, vec scale, float before) {
    vec highest[4];
    UNROLL for (int i = 0; i < 4; i++) highest[i] = v_set(before);
    for (int64_t j = 0; j < n; j += 4 * LANES) {
        UNROLL for (int i = 0; i < 4; i++) {
            highest[i] = v_max(v_mul(v_load(scores + j + i * LANES), scale), highest[i]);
        }
    }
    return v_maximum(v_max(v_max(highest[0], highest[1]), v_max(highest[2], highest[3])));
}

static float NAME(softmax_step)(const softmax_args *args) {
    float *scores = args->scores;
    const bool plain = args->slope == 0 && args->scale > 0;
    if (!plain) NAME(weigh)(args);
    for (int64_t j = 0; j < args->first; j++) scores[j] = -INFINITY;
    for (int64_t j = args->last; j < args->n; j++) scores[j] = -INFINITY;
    const vec scale = v_set(plain ? args->scale : 1);
    const float before = *args->maximum;
    const float maximum = highest_score(scores, args->n, scale, before);
    if (maximum == -INFINITY) { /* nothing seen so far */
        for (int64_t j = 0; j < args->n; j += LANES) v_store(scores + j, v_set(0));
        return 1;
    }
    vec sum = v_set(0);
    const vec shift = v_set(maximum);
    for (int64_t j = 0; j < args->n; j += 4 * LANES) {
        UNROLL for (int i = 0; i < 4; i++) {
            float *at = scores + j + i * LANES;
            const vec p = v_exp(v_sub(v_mul(v_load(at), scale), shift));
            sum = v_add(sum, p);
            v_store(at, p);
        }
    }
    float factor = 1;
    if (before != maximum) {
        float change[LANES];
        v_store(change, v_exp(v_set(before - maximum)));
        factor = change[0];
    }
    *args->maximum = maximum;
    *args->sum = *args->sum * factor + v_sum(sum);
    return factor;
}

/* ---------------------------------------------------------------- products */

static void NAME(epilogue)(const epilogue_args *args) {
    const int64_t n = args->n;
    for (int64_t i = 0; i < args->m; i++) {
        const float *c = args->c + i * args->ldc, *bias = args->bias;
        const float *residual = args->residual ? args->residual + i * args->ldr : NULL;
        float *dst = args->dst + i * args->ldd;
        int64_t j = 0;
        for (; j + LANES <= n; j += LANES) {
            vec sum = v_load(c + j);
            if (bias) sum = v_add(sum, v_load(bias + j));
            if (residual) sum = v_add(sum, v_load(residual + j));
            v_store(dst + j, sum);
        }
        if (j == n) continue;
        vec sum = v_load_n(c + j, n - j);
        if (bias) sum = v_add(sum, v_load_n(bias + j, n - j));
        if (residual) sum = v_add(sum, v_load_n(residual + j, n - j));
        v_store_n(dst + j, sum, n - j);
    }
}

#define TILE_ROWS 6

/** mr x nv vectors of c; both are constants where this is inlined. */
INLINE void tile_f32(const gemm_f32_args *args, int64_t row, int64_t column, const int mr,
                     const int nv) {
    vec sum[TILE_ROWS][TILE_VECTORS];
    float *c = args->c + row * args->ldc + column;
    const float *b = args->b + column;
    const float *a0 = args->a + row * args->lda, *a1 = a0 + mr / 2 * args->lda;
    const int64_t lda = args->lda, ldb = args->ldb, ldc = args->ldc;
    UNROLL for (int i = 0; i < mr; i++) {
        UNROLL for (int j = 0; j < nv; j++) {
            sum[i][j] = args->accumulate ? v_load(c + i * ldc + j * LANES) : v_set(0);
        }
    }
    for (int64_t k = 0; k < args->k; k++) {
        vec w[TILE_VECTORS];
        UNROLL for (int j = 0; j < nv; j++) w[j] = v_load(b + j * LANES);
        UNROLL for (int i = 0; i < mr; i++) {
            /* two base pointers and one stride: addresses stay in registers */
            const vec x = v_set(i < mr / 2 ? a0[i * lda] : a1[(i - mr / 2) * lda]);
            UNROLL for (int j = 0; j < nv; j++) sum[i][j] = v_fma(x, w[j], sum[i][j]);
        }
        a0++;
        a1++;
        b += ldb;
        __asm__ volatile("" : "+r"(a0), "+r"(a1), "+r"(b));
    }
    UNROLL for (int i = 0; i < mr; i++) {
        UNROLL for (int j = 0; j < nv; j++) v_store(c + i * ldc + j * LANES, sum[i][j]);
    }
}

#define TILE_CASE(mr)                                                                              \
    case mr: tile_f32(args, row, column, mr, nv); break;

INLINE void tile_column(const gemm_f32_args *args, int64_t column, const int nv) {
    int64_t row = 0;
    for (; row + TILE_ROWS <= args->m; row += TILE_ROWS) tile_f32(args, row, column, TILE_ROWS, nv);
    switch (args->m - row) {
        TILE_CASE(5)
        TILE_CASE(4)
        TILE_CASE(3)
        TILE_CASE(2)
        TILE_CASE(1)
    default: break;
    }
}

/** Whole panels take the widest tile; narrower ones what covers them. */
static void NAME(gemm_f32)(const gemm_f32_args *args) {
    const int64_t vectors = round_up(args->n, KERNEL_PAD) / LANES;
    int64_t j = 0;
    for (; j + TILE_VECTORS <= vectors; j += TILE_VECTORS)
        tile_column(args, j * LANES, TILE_VECTORS);
#if TILE_VECTORS > 2
    if (j + 2 <= vectors) {
        tile_column(args, j * LANES, 2);
        j += 2;
    }
    if (j < vectors) tile_column(args, j * LANES, 1);
#endif
}

/** Partial sums of one weight row and one activation row. */
typedef struct dot_sum {
    vec even, odd;
} dot_sum;

#define PREFETCH_AHEAD 4096 /* bytes */
/** Halves go to L2: in L1 they would push out the activations, which take more room than they do.
 */
#define PREFETCH_LEVEL(size) ((size) == 2 ? 2 : 3)

INLINE vec load_f32(const uint8_t *p) { return v_load((const float *)p); }
INLINE vec load_f32_n(const uint8_t *p, int64_t n) { return v_load_n((const float *)p, n); }

/** Weight rows w[0 .. nw) times x rows [0 .. nx). Vectors of k alternate between two sums.
 *  streams: weight rows taken together; more share what is loaded of long activation rows, fewer
 *  read memory faster. */
#define DOT(name, size, load, streams)                                                             \
    INLINE void tile_##name(const uint8_t *const w[streams], const float *x, const dot_args *args, \
                            float *const dst[streams], const int nw, const int nx) {               \
        const int64_t k = args->k, stride = args->x_stride;                                        \
        dot_sum sum[streams][DOT_ROWS_MAX];                                                        \
        UNROLL for (int r = 0; r < nw; r++) {                                                      \
            UNROLL for (int i = 0; i < nx; i++) sum[r][i] = (dot_sum){v_set(0), v_set(0)};         \
        }                                                                                          \
        int64_t p = 0;                                                                             \
        for (; p + 2 * LANES <= k; p += 2 * LANES) {                                               \
            vec even[streams], odd[streams];                                                       \
            UNROLL for (int r = 0; r < nw; r++) {                                                  \
                const uint8_t *at = w[r] + p * (size);                                             \
                for (int line = 0; line < 2 * LANES * (size); line += 64)                          \
                    __builtin_prefetch(at + line + PREFETCH_AHEAD, 0, PREFETCH_LEVEL(size));       \
                even[r] = load(at);                                                                \
                odd[r] = load(at + LANES * (size));                                                \
            }                                                                                      \
            UNROLL for (int i = 0; i < nx; i++) {                                                  \
                const vec x0 = v_load(x + i * stride + p);                                         \
                const vec x1 = v_load(x + i * stride + p + LANES);                                 \
                UNROLL for (int r = 0; r < nw; r++) {                                              \
                    sum[r][i].even = v_fma(even[r], x0, sum[r][i].even);                           \
                    sum[r][i].odd = v_fma(odd[r], x1, sum[r][i].odd);                              \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
        for (bool even = true; p < k; p += LANES, even = false) {                                  \
            const int64_t n = k - p;                                                               \
            UNROLL for (int r = 0; r < nw; r++) {                                                  \
                const uint8_t *at = w[r] + p * (size);                                             \
                const vec v = n < LANES ? load##_n(at, n) : load(at);                              \
                UNROLL for (int i = 0; i < nx; i++) {                                              \
                    const float *xi = x + i * stride + p;                                          \
                    const vec xv = n < LANES ? v_load_n(xi, n) : v_load(xi);                       \
                    if (even)                                                                      \
                        sum[r][i].even = v_fma(v, xv, sum[r][i].even);                             \
                    else                                                                           \
                        sum[r][i].odd = v_fma(v, xv, sum[r][i].odd);                               \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
        UNROLL for (int r = 0; r < nw; r++) {                                                      \
            UNROLL for (int i = 0; i < nx; i++) {                                                  \
                dst[r][i * args->dst_stride] = v_sum(v_add(sum[r][i].even, sum[r][i].odd));        \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
    INLINE void rows_##name(const dot_args *args, int64_t r, int64_t apart, const int nw) {        \
        const uint8_t *w[streams];                                                                 \
        float *dst[streams];                                                                       \
        UNROLL for (int s = 0; s < nw; s++) {                                                      \
            w[s] = (const uint8_t *)args->w + (r + s * apart) * args->k * (size);                  \
            dst[s] = args->dst + r + s * apart;                                                    \
        }                                                                                          \
        for (int64_t i = 0, n; i < args->n_x; i += n) {                                            \
            const float *x = (const float *)args->x + i * args->x_stride;                          \
            n = i64_min(DOT_ROWS_MAX, args->n_x - i);                                              \
            if (n == DOT_ROWS_MAX)                                                                 \
                tile_##name(w, x, args, dst, nw, DOT_ROWS_MAX);                                    \
            else                                                                                   \
                tile_##name(w, x, args, dst, nw, 1);                                               \
            UNROLL for (int s = 0; s < nw; s++) dst[s] += n * args->dst_stride;                    \
        }                                                                                          \
    }                                                                                              \
    static void NAME(name)(const dot_args *args) {                                                 \
        const int64_t apart = args->n_w / streams; /* few, long streams */                         \
        for (int64_t r = 0; r < apart; r++) rows_##name(args, r, apart, streams);                  \
        for (int64_t r = streams * apart; r < args->n_w; r++) rows_##name(args, r, 0, 1);          \
    }
DOT(dot_f32, 4, load_f32, 2)
DOT(dot_f16, 2, v_load_f16, 4)
#ifndef HAS_DOT_BF16
DOT(dot_bf16, 2, v_load_bf16, 4)
#endif

#endif
