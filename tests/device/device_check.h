/* SPDX-License-Identifier: Apache-2.0
 *
 * What the device's tests share: numbers, buffers with guard zones, devices of every level.
 */
#ifndef DEVICE_CHECK_H
#define DEVICE_CHECK_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "device/device.h"

/* ---------------------------------------------------------------- numbers */

static uint64_t check_seed = 20261125;

static inline void check_start(int argc, char **argv) {
    if (argc > 1) check_seed = strtoull(argv[1], NULL, 10);
    printf("seed %llu (argument 1 sets it)\n", (unsigned long long)check_seed);
}

static inline uint32_t random_bits(void) {
    check_seed = check_seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(check_seed >> 32);
}

/** Uniform in [-1, 1). */
static inline float random_float(void) { return (float)(int32_t)random_bits() * 0x1p-31f; }

static inline int64_t random_below(int64_t n) { return (int64_t)(random_bits() % (uint64_t)n); }

static inline void random_fill(float *x, int64_t n, float amplitude) {
    for (int64_t i = 0; i < n; i++) x[i] = amplitude * random_float();
}

/* ---------------------------------------------------------------- buffers */

#define GUARD_FLOATS 64
#define GUARD_BITS   0x7fc0abcdu

/** n floats with guard zones around them, starting `shift` floats after a 64-byte boundary. */
typedef struct guarded {
    float *memory, *data;
    int64_t n, total;
} guarded;

static inline guarded guarded_new(int64_t n, int64_t shift) {
    guarded g = {.n = n, .total = n + 2 * GUARD_FLOATS + 16};
    g.memory = aligned_new((size_t)g.total * sizeof(float));
    assert_non_null(g.memory);
    for (int64_t i = 0; i < g.total; i++) g.memory[i] = f32_from_bits(GUARD_BITS);
    g.data = g.memory + GUARD_FLOATS + shift;
    return g;
}

static inline void guarded_free(guarded *g) {
    for (float *p = g->memory; p < g->memory + g->total; p++)
        if (p < g->data || p >= g->data + g->n)
            if (f32_to_bits(*p) != GUARD_BITS)
                fail_msg("float %lld of %lld was overwritten", (long long)(p - g->data),
                         (long long)g->n);
    free(g->memory);
}

/** Random values in a stored format, `shift` bytes after a 64-byte boundary. */
static inline weight random_weight(llava_dtype dtype, int64_t n_rows, int64_t n_cols, int64_t shift,
                                   float amplitude) {
    const int64_t n = n_rows * n_cols, size = (int64_t)dtype_size(dtype);
    uint8_t *memory = aligned_new((size_t)(n * size + shift));
    assert_non_null(memory);
    for (int64_t i = 0; i < n; i++) {
        const float value = amplitude * random_float();
        tensor_cast(memory + shift + i * size, dtype, &value, LLAVA_DTYPE_F32, 1);
    }
    return (weight){dtype, n_rows, n_cols, memory + shift};
}

static inline void weight_free(weight *w, int64_t shift) {
    free((void *)((uintptr_t)w->data - (uintptr_t)shift));
}

static inline float weight_at(const weight *w, int64_t row, int64_t column) {
    float value;
    tensor_cast(&value, LLAVA_DTYPE_F32,
                (const uint8_t *)w->data +
                    (row * w->n_cols + column) * (int64_t)dtype_size(w->dtype),
                w->dtype, 1);
    return value;
}

static const llava_dtype stored_dtypes[] = {LLAVA_DTYPE_F32, LLAVA_DTYPE_F16, LLAVA_DTYPE_BF16};

static inline double activation_reference(activation act, double x) {
    switch (act) {
    case ACT_SILU: return x / (1 + exp(-x));
    case ACT_GELU: return 0.5 * x * erfc(-x * sqrt(0.5));
    case ACT_GELU_TANH: return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case ACT_QUICK_GELU: return x / (1 + exp(-1.702 * x));
    case ACT_RELU: return x < 0 ? 0 : x;
    case ACT_RELU2: return x < 0 ? 0 : x * x;
    case ACT_TANH: return tanh(x);
    case ACT_SIGMOID: return 1 / (1 + exp(-x));
    default: return x;
    }
}

/* ---------------------------------------------------------------- devices */

static inline device *open_level(int n_threads, const char *level) {
    device *d;
    llava_error err;
    if (device_open_cpu(n_threads, level, &d, &err)) fail_msg("%s", err.message);
    return d;
}

/** Calls check for every level of this build and processor. */
static inline void each_level(void (*check)(const char *level)) {
    for (const char *const *level = device_cpu_levels(); *level; level++) {
        if (!device_cpu_level_available(*level)) {
            printf("level %s: not on this processor\n", *level);
            continue;
        }
        check(*level);
    }
}

static inline void assert_same_bits(const float *x, const float *y, int64_t n, const char *what) {
    for (int64_t i = 0; i < n; i++)
        if (f32_to_bits(x[i]) != f32_to_bits(y[i]))
            fail_msg("%s: element %lld of %lld is %.9g and %.9g", what, (long long)i, (long long)n,
                     x[i], y[i]);
}

/** Rows of bfloat16 are float32 rows, rounded. */
static inline void assert_rounded_rows(const uint16_t *rows, const float *expected, int64_t n_rows,
                                       int64_t dim) {
    for (int64_t i = 0; i < n_rows; i++)
        for (int64_t j = 0; j < dim; j++)
            if (rows[i * bf16_row_stride(dim) + j] != f32_to_bf16(expected[i * dim + j]))
                fail_msg("element %lld of row %lld is %.9g, not %.9g rounded", (long long)j,
                         (long long)i, bf16_to_f32(rows[i * bf16_row_stride(dim) + j]),
                         expected[i * dim + j]);
}

/** float32 rows, rounded; what pads them is not a number. */
static inline uint16_t *rounded_rows(const float *x, int64_t n_rows, int64_t dim) {
    const int64_t stride = bf16_row_stride(dim);
    uint16_t *rows = array_new((size_t)(n_rows * stride), sizeof *rows);
    assert_non_null(rows);
    for (int64_t i = 0; i < n_rows * stride; i++) rows[i] = 0x7fc0;
    for (int64_t i = 0; i < n_rows; i++)
        for (int64_t j = 0; j < dim; j++) rows[i * stride + j] = f32_to_bf16(x[i * dim + j]);
    return rows;
}

#define assert_near(value, reference, bound, ...)                                                  \
    do {                                                                                           \
        const double near_error_ = fabs((double)(value) - (double)(reference));                    \
        if (!(near_error_ <= (bound))) {                                                           \
            char near_where_[200];                                                                 \
            snprintf(near_where_, sizeof near_where_, __VA_ARGS__);                                \
            fail_msg("%s: %.9g instead of %.9g, off by %.3g, allowed %.3g", near_where_,           \
                     (double)(value), (double)(reference), near_error_, (double)(bound));          \
        }                                                                                          \
    } while (0)

#endif
