/* SPDX-License-Identifier: Apache-2.0
 *
 * Every kernel in plain C: the specification the other levels are tested against.
 */
#include <math.h>

#include "device/cpu/kernels.h"
#include "device/cpu/kernels_c_quant.h"

#define LANES 8

static float load_f32(const uint8_t *p) {
    float value;
    memcpy(&value, p, sizeof value);
    return value;
}

static uint16_t load_u16(const uint8_t *p) {
    uint16_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

static float load_f16(const uint8_t *p) { return f16_to_f32(load_u16(p)); }
static float load_bf16(const uint8_t *p) { return bf16_to_f32(load_u16(p)); }

/* ---------------------------------------------------------------- products */

static void c_gemm_f32(const gemm_f32_args *args) {
    for (int64_t i = 0; i < args->m; i++) {
        const float *a = args->a + i * args->lda;
        float *c = args->c + i * args->ldc;
        float sum[KERNEL_MAX_COLUMNS] = {0};
        if (args->accumulate) memcpy(sum, c, (size_t)args->n * sizeof *sum);
        for (int64_t k = 0; k < args->k; k++) {
            const float *b = args->b + k * args->ldb;
            for (int64_t j = 0; j < args->n; j++) sum[j] += a[k] * b[j];
        }
        memcpy(c, sum, (size_t)args->n * sizeof *sum);
    }
}

static void c_gemm_bf16(const gemm_bf16_args *args) {
    for (int64_t i = 0; i < args->m; i++) {
        const uint16_t *a = args->a + i * args->lda;
        float *c = args->c + i * args->ldc;
        float sum[KERNEL_MAX_COLUMNS] = {0};
        if (args->accumulate) memcpy(sum, c, (size_t)args->n * sizeof *sum);
        for (int64_t k = 0; k < args->k; k += 2) {
            const float a0 = bf16_to_f32(a[k]), a1 = bf16_to_f32(a[k + 1]);
            const uint16_t *b = args->b + k / 2 * args->ldb;
            for (int64_t j = 0; j < args->n; j++) {
                sum[j] += a1 * bf16_to_f32(b[2 * j + 1]);
                sum[j] += a0 * bf16_to_f32(b[2 * j]);
            }
        }
        memcpy(c, sum, (size_t)args->n * sizeof *sum);
    }
}

#define PACK(name, size, load)                                                                     \
    static void c_##name(const pack_args *args) {                                                  \
        for (int64_t k = 0; k < args->k; k++) {                                                    \
            float *dst = (float *)args->dst + k * args->ld;                                        \
            const uint8_t *src = (const uint8_t *)args->src + k * (size);                          \
            for (int64_t j = 0; j < args->n; j++) dst[j] = load(src + j * args->row_bytes);        \
            for (int64_t j = args->n; j < args->ld; j++) dst[j] = 0;                               \
        }                                                                                          \
    }
PACK(pack_f32, 4, load_f32)
PACK(pack_f16, 2, load_f16)
PACK(pack_bf16, 2, load_bf16)

static void c_pack_bf16_pairs(const pack_args *args) {
    for (int64_t k = 0; k < args->k; k += 2) {
        uint16_t *dst = (uint16_t *)args->dst + k * args->ld;
        const uint8_t *src = (const uint8_t *)args->src + k * 2;
        for (int64_t j = 0; j < args->ld; j++) {
            const uint8_t *pair = src + j * args->row_bytes;
            dst[2 * j] = j < args->n ? load_u16(pair) : 0;
            dst[2 * j + 1] = j < args->n && k + 1 < args->k ? load_u16(pair + 2) : 0;
        }
    }
}

static void c_pair_rows(uint16_t *dst, const uint16_t *a, const uint16_t *b, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        dst[2 * i] = a[i];
        dst[2 * i + 1] = b[i];
    }
}

static float sum_lanes(const float lane[LANES]) {
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) +
           ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

#define DOT(name, size, load)                                                                      \
    static float name##_one(const uint8_t *w, const float *x, int64_t k) {                         \
        float lane[LANES] = {0};                                                                   \
        int64_t i = 0;                                                                             \
        for (; i + LANES <= k; i += LANES)                                                         \
            for (int64_t l = 0; l < LANES; l++) lane[l] += load(w + (i + l) * (size)) * x[i + l];  \
        for (; i < k; i++) lane[i % LANES] += load(w + i * (size)) * x[i];                         \
        return sum_lanes(lane);                                                                    \
    }                                                                                              \
    static void c_##name(const dot_args *args) {                                                   \
        for (int64_t r = 0; r < args->n_w; r++) {                                                  \
            const uint8_t *w = (const uint8_t *)args->w + r * args->k * (size);                    \
            for (int64_t i = 0; i < args->n_x; i++)                                                \
                args->dst[i * args->dst_stride + r] =                                              \
                    name##_one(w, (const float *)args->x + i * args->x_stride, args->k);           \
        }                                                                                          \
    }
DOT(dot_f32, 4, load_f32)
DOT(dot_f16, 2, load_f16)
DOT(dot_bf16, 2, load_bf16)

static void c_split_pairs(float *dst, const float *src, int64_t n) {
    for (int64_t i = 0; i < round_up(n, KERNEL_SPLIT); i++) {
        const int64_t at = i / KERNEL_SPLIT * KERNEL_SPLIT, in = i - at;
        const int64_t from = at + in % (KERNEL_SPLIT / 2) * 2 + in / (KERNEL_SPLIT / 2);
        dst[i] = from < n ? src[from] : 0;
    }
}

static void c_epilogue(const epilogue_args *args) {
    for (int64_t i = 0; i < args->m; i++) {
        const float *c = args->c + i * args->ldc;
        const float *residual = args->residual ? args->residual + i * args->ldr : NULL;
        float *dst = args->dst + i * args->ldd;
        for (int64_t j = 0; j < args->n; j++) {
            const float sum = args->bias ? c[j] + args->bias[j] : c[j];
            dst[j] = residual ? sum + residual[j] : sum;
        }
    }
}

/* ---------------------------------------------------------------- conversions */

static void c_widen_f16(float *dst, const void *src, int64_t n) {
    for (int64_t i = 0; i < n; i++) dst[i] = load_f16((const uint8_t *)src + 2 * i);
}

static void c_widen_bf16(float *dst, const void *src, int64_t n) {
    for (int64_t i = 0; i < n; i++) dst[i] = load_bf16((const uint8_t *)src + 2 * i);
}

static void c_widen_i8(float *dst, const void *row, int64_t n) {
    const float scale = i8_row_scale(row, n);
    for (int64_t i = 0; i < n; i++) dst[i] = (float)((const int8_t *)row)[i] * scale;
}

static void c_narrow_f16(void *dst, const float *src, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const uint16_t half = f32_to_f16(src[i]);
        memcpy((uint8_t *)dst + 2 * i, &half, sizeof half);
    }
}

static void c_narrow_bf16(void *dst, const float *src, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const uint16_t half = f32_to_bf16(src[i]);
        memcpy((uint8_t *)dst + 2 * i, &half, sizeof half);
    }
}

static void c_round_bf16(float *dst, const float *src, int64_t n) {
    for (int64_t i = 0; i < n; i++) dst[i] = bf16_to_f32(f32_to_bf16(src[i]));
}

/* ---------------------------------------------------------------- attention */

static float c_softmax_step(const softmax_args *args) {
    float *s = args->scores;
    const float before = *args->maximum;
    float maximum = before;
    for (int64_t j = args->first; j < args->last; j++) {
        s[j] = s[j] * args->scale + args->slope * ((float)j + args->offset);
        maximum = s[j] > maximum ? s[j] : maximum;
    }
    for (int64_t j = 0; j < args->n; j++)
        if (j < args->first || j >= args->last) s[j] = -INFINITY;
    if (maximum == -INFINITY) { /* nothing seen so far */
        memset(s, 0, (size_t)args->n * sizeof *s);
        return 1;
    }
    float lane[LANES] = {0};
    for (int64_t j = 0; j < args->n; j++) {
        s[j] = expf(s[j] - maximum);
        lane[j % LANES] += s[j];
    }
    const float factor = expf(before - maximum);
    *args->maximum = maximum;
    *args->sum = *args->sum * factor + sum_lanes(lane);
    return factor;
}

#define KEY_SCORES(name, dot)                                                                      \
    static void c_##name(const key_scores_args *args) {                                            \
        for (int64_t i = 0; i < args->n_queries; i++)                                              \
            for (int64_t t = 0; t < args->n_keys; t++)                                             \
                args->dst[i * KERNEL_KEYS + t] =                                                   \
                    dot##_one((const uint8_t *)args->k + t * args->row_bytes,                      \
                              args->q + i * args->q_stride, args->dim);                            \
    }
KEY_SCORES(key_scores_f32, dot_f32)
KEY_SCORES(key_scores_f16, dot_f16)
KEY_SCORES(key_scores_bf16, dot_bf16)

#define VALUE_SUMS(name, size, load)                                                               \
    static void c_##name(const value_sums_args *args) {                                            \
        for (int64_t i = 0; i < args->n_queries; i++) {                                            \
            float *dst = args->dst + i * args->dst_stride;                                         \
            const float factor = args->factors ? args->factors[i] : 1;                             \
            for (int64_t d = 0; d < args->dim; d++) dst[d] *= factor;                              \
            for (int64_t t = 0; t < args->n_keys; t++) {                                           \
                const uint8_t *v = (const uint8_t *)args->v + t * args->row_bytes;                 \
                const float p = args->weights[i * KERNEL_KEYS + t];                                \
                for (int64_t d = 0; d < args->dim; d++) dst[d] += p * load(v + d * (size));        \
            }                                                                                      \
        }                                                                                          \
    }
VALUE_SUMS(value_sums_f32, 4, load_f32)
VALUE_SUMS(value_sums_f16, 2, load_f16)
VALUE_SUMS(value_sums_bf16, 2, load_bf16)

static void c_key_scores_i8(const key_scores_args *args) {
    for (int64_t i = 0; i < args->n_queries; i++)
        for (int64_t t = 0; t < args->n_keys; t++) {
            const int8_t *k = (const int8_t *)args->k + t * args->row_bytes;
            const float *q = args->q + i * args->q_stride;
            float lane[LANES] = {0};
            for (int64_t d = 0; d < args->dim; d++) lane[d % LANES] += q[d] * (float)k[d];
            args->dst[i * KERNEL_KEYS + t] = sum_lanes(lane) * i8_row_scale(k, args->dim);
        }
}

static void c_value_sums_i8(const value_sums_args *args) {
    for (int64_t i = 0; i < args->n_queries; i++) {
        float *dst = args->dst + i * args->dst_stride;
        const float factor = args->factors ? args->factors[i] : 1;
        for (int64_t d = 0; d < args->dim; d++) dst[d] *= factor;
        for (int64_t t = 0; t < args->n_keys; t++) {
            const int8_t *v = (const int8_t *)args->v + t * args->row_bytes;
            const float p = args->weights[i * KERNEL_KEYS + t] * i8_row_scale(v, args->dim);
            for (int64_t d = 0; d < args->dim; d++) dst[d] += p * (float)v[d];
        }
    }
}

/* ---------------------------------------------------------------- rows */

static float c_sum(const float *x, int64_t n) {
    float lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int64_t l = 0; l < LANES; l++) lane[l] += x[i + l];
    for (; i < n; i++) lane[i % LANES] += x[i];
    return sum_lanes(lane);
}

static float c_sum_squares(const float *x, int64_t n, float center) {
    float lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int64_t l = 0; l < LANES; l++) lane[l] += (x[i + l] - center) * (x[i + l] - center);
    for (; i < n; i++) lane[i % LANES] += (x[i] - center) * (x[i] - center);
    return sum_lanes(lane);
}

static void c_normalize(const normalize_args *args) {
    for (int64_t i = 0; i < args->n; i++) {
        const float y = (args->x[i] - args->mean) * args->inverse * args->w[i];
        args->dst[i] = args->b ? y + args->b[i] : y;
    }
}

static void c_rope(float *x, const float *cos, const float *sin, int64_t half) {
    for (int64_t i = 0; i < half; i++) {
        const float first = x[i], second = x[i + half];
        x[i] = first * cos[i] - second * sin[i];
        x[i + half] = second * cos[i] + first * sin[i];
    }
}

/* ---------------------------------------------------------------- element by element */

#define EACH(name, expression)                                                                     \
    static void c_##name(float *dst, const float *x, int64_t n) {                                  \
        for (int64_t i = 0; i < n; i++) {                                                          \
            const float v = x[i];                                                                  \
            dst[i] = expression;                                                                   \
        }                                                                                          \
    }
EACH(silu, v / (1.0f + expf(-v)))
EACH(gelu, v * 0.5f * (1.0f + erff(v * 0.70710678f)))
EACH(gelu_tanh, 0.5f * v * (1.0f + tanhf(0.79788456f * (v + 0.044715f * v * v * v))))
EACH(quick_gelu, v / (1.0f + expf(-1.702f * v)))
EACH(relu, v < 0 ? 0 : v)
EACH(relu2, v < 0 ? 0 : v * v)
EACH(tanh, tanhf(v))
EACH(sigmoid, 1.0f / (1.0f + expf(-v)))

static void c_multiply(float *dst, const float *x, const float *y, int64_t n) {
    for (int64_t i = 0; i < n; i++) dst[i] = x[i] * y[i];
}

static void c_add_scaled(float *dst, const float *x, int64_t n, float scale) {
    for (int64_t i = 0; i < n; i++) dst[i] += scale * x[i];
}

static void c_scale(float *dst, const float *x, int64_t n, float factor) {
    for (int64_t i = 0; i < n; i++) dst[i] = x[i] * factor;
}

void kernels_fill_c(kernels *table) {
    *table = (kernels){
        .tile_columns = 16,
        .native_bf16 = false,
        .native_codes = false,
#define KERNEL(name, result, parameters) .name = c_##name,
#include "device/cpu/kernels.def"
#undef KERNEL
    };
}
