/* SPDX-License-Identifier: Apache-2.0
 *
 * Row-wise and element-wise operations: conversions, norms, rotation, activations, gathering.
 */
#include <assert.h>
#include <math.h>

#include "device/cpu/cpu.h"

#define ELEMENT_COST 16.0               /* an element takes as long as so many multiply-adds */
#define CHUNK        1024               /* floats handled on the stack */
#define ROWS_TASK    32                 /* rows of a norm taken together */
#define FLAT_TASK    ((int64_t)8 << 10) /* elements of a task over a flat array */
#define ROPE_TASK    16                 /* rows */
#define GATHER_TASK  16                 /* rows */

/** A loop over tasks that touch n_elements in all. */
static void run_over(device *d, double n_elements, int64_t n_tasks, parallel_fn fn, void *job) {
    parallel_for(cpu_threads_for(d, ELEMENT_COST * n_elements), n_tasks, fn, job);
}

void cpu_widen(const kernels *k, float *dst, const weight *w, int64_t first, int64_t n) {
    if (n <= 0) return;
    const uint8_t *src = w->data;
    switch (w->dtype) {
    case LLAVA_DTYPE_F16: k->widen_f16(dst, src + 2 * first, n); break;
    case LLAVA_DTYPE_BF16: k->widen_bf16(dst, src + 2 * first, n); break;
    default:
        assert(w->dtype == LLAVA_DTYPE_F32);
        memcpy(dst, src + 4 * first, (size_t)n * sizeof *dst);
        break;
    }
}

activation_kernel cpu_activation(const kernels *k, activation act) {
    switch (act) {
    case ACT_SILU: return k->silu;
    case ACT_GELU: return k->gelu;
    case ACT_GELU_TANH: return k->gelu_tanh;
    case ACT_QUICK_GELU: return k->quick_gelu;
    case ACT_RELU: return k->relu;
    case ACT_RELU2: return k->relu2;
    case ACT_TANH: return k->tanh;
    case ACT_SIGMOID: return k->sigmoid;
    case ACT_NONE:
    case ACT_COUNT: break;
    }
    return NULL;
}

/* ---------------------------------------------------------------- flat arrays */

typedef struct flat_job {
    const kernels *k;
    float *dst;
    const float *x, *y;
    const weight *w;
    activation_kernel act;
    int64_t count;
    float factor;
} flat_job;

static void run_flat(device *d, flat_job *job, parallel_fn fn) {
    if (job->count <= 0) return;
    job->k = cpu_kernels(d);
    run_over(d, (double)job->count, ceil_div(job->count, FLAT_TASK), fn, job);
}

static int64_t flat_size(const flat_job *job, int64_t index) {
    return i64_min(FLAT_TASK, job->count - index * FLAT_TASK);
}

static void gated_task(void *user, int64_t index) {
    const flat_job *job = user;
    const int64_t end = index * FLAT_TASK + flat_size(job, index);
    float gate[CHUNK];
    for (int64_t i = index * FLAT_TASK; i < end; i += CHUNK) {
        const int64_t n = i64_min(CHUNK, end - i);
        if (job->act) job->act(gate, job->x + i, n);
        job->k->multiply(job->dst + i, job->act ? gate : job->x + i, job->y + i, n);
    }
}

void cpu_gated(device *d, float *dst, const float *gate, const float *up, int64_t count,
               activation act) {
    flat_job job = {
        .dst = dst, .x = gate, .y = up, .count = count, .act = cpu_activation(cpu_kernels(d), act)};
    run_flat(d, &job, gated_task);
}

static void activate_task(void *user, int64_t index) {
    const flat_job *job = user;
    const int64_t first = index * FLAT_TASK, n = flat_size(job, index);
    if (job->act)
        job->act(job->dst + first, job->x + first, n);
    else if (job->dst != job->x)
        memcpy(job->dst + first, job->x + first, (size_t)n * sizeof(float));
}

void cpu_activate(device *d, float *dst, const float *x, int64_t count, activation act) {
    flat_job job = {.dst = dst, .x = x, .count = count, .act = cpu_activation(cpu_kernels(d), act)};
    run_flat(d, &job, activate_task);
}

static void add_scaled_task(void *user, int64_t index) {
    const flat_job *job = user;
    const int64_t first = index * FLAT_TASK;
    job->k->add_scaled(job->dst + first, job->x + first, flat_size(job, index), job->factor);
}

void cpu_add_scaled(device *d, float *dst, const float *x, int64_t count, float scale) {
    flat_job job = {.dst = dst, .x = x, .count = count, .factor = scale};
    run_flat(d, &job, add_scaled_task);
}

static void scale_task(void *user, int64_t index) {
    const flat_job *job = user;
    float *x = job->dst + index * FLAT_TASK;
    job->k->scale(x, x, flat_size(job, index), job->factor);
}

void cpu_scale(device *d, float *x, int64_t count, float factor) {
    flat_job job = {.dst = x, .count = count, .factor = factor};
    run_flat(d, &job, scale_task);
}

static void widen_task(void *user, int64_t index) {
    const flat_job *job = user;
    const int64_t first = index * FLAT_TASK;
    cpu_widen(job->k, job->dst + first, job->w, first, flat_size(job, index));
}

void cpu_widen_flat(device *d, float *dst, const weight *w, int64_t count) {
    flat_job job = {.dst = dst, .w = w, .count = count};
    run_flat(d, &job, widen_task);
}

/* ---------------------------------------------------------------- norms */

typedef struct norm_job {
    const kernels *k;
    const norm_args *args;
    const weight *bias; /* or NULL */
    bool centered;
} norm_job;

/** Mean (0 unless centered) and 1 / sqrt(variance + eps) of a row. */
static void row_moments(const norm_job *job, const float *x, float *mean, float *inverse) {
    const int64_t dim = job->args->w->n_cols;
    *mean = job->centered ? job->k->sum(x, dim) / (float)dim : 0;
    *inverse = 1.0f / sqrtf(job->k->sum_squares(x, dim, *mean) / (float)dim + job->args->eps);
}

static void norm_task(void *user, int64_t index) {
    const norm_job *job = user;
    const norm_args *args = job->args;
    const int64_t dim = args->w->n_cols, first = index * ROWS_TASK;
    const int64_t n_rows = i64_min(ROWS_TASK, args->n_rows - first);
    float mean[ROWS_TASK], inverse[ROWS_TASK], w[CHUNK], b[CHUNK], y[CHUNK];
    for (int64_t i = 0; i < n_rows; i++)
        row_moments(job, args->x + (first + i) * dim, &mean[i], &inverse[i]);
    for (int64_t column = 0; column < dim; column += CHUNK) {
        const int64_t n = i64_min(CHUNK, dim - column);
        cpu_widen(job->k, w, args->w, column, n);
        for (int64_t j = 0; args->plus_one && j < n; j++) w[j] += 1;
        if (job->bias) cpu_widen(job->k, b, job->bias, column, n);
        for (int64_t i = 0; i < n_rows; i++) {
            const int64_t at = (first + i) * dim + column;
            const normalize_args row = {.dst = args->dst_bf16 ? y : args->dst + at,
                                        .x = args->x + at,
                                        .w = w,
                                        .b = job->bias ? b : NULL,
                                        .n = n,
                                        .mean = mean[i],
                                        .inverse = inverse[i]};
            job->k->normalize(&row);
            if (!args->dst_bf16) continue;
            uint16_t *dst = args->dst_bf16 + (first + i) * bf16_row_stride(dim) + column;
            job->k->narrow_bf16(dst, y, n);
        }
    }
}

static void run_norm(device *d, norm_job *job) {
    const int64_t n_rows = job->args->n_rows;
    if (n_rows <= 0) return;
    job->k = cpu_kernels(d);
    run_over(d, (double)(n_rows * job->args->w->n_cols), ceil_div(n_rows, ROWS_TASK), norm_task,
             job);
}

void cpu_rmsnorm(device *d, const norm_args *args) {
    norm_job job = {.args = args};
    run_norm(d, &job);
}

void cpu_layernorm(device *d, const norm_args *args) {
    norm_job job = {.args = args, .centered = true};
    if (args->bias && weight_exists(args->bias)) job.bias = args->bias;
    run_norm(d, &job);
}

/* ---------------------------------------------------------------- rotation */

typedef struct rope_job {
    const kernels *k;
    float *x;
    const float *cos, *sin;
    int64_t stride, n, n_heads, head_dim;
} rope_job;

static void rope_task(void *user, int64_t index) {
    const rope_job *job = user;
    const int64_t half = job->head_dim / 2;
    const int64_t end = i64_min(job->n, (index + 1) * ROPE_TASK);
    for (int64_t i = index * ROPE_TASK; i < end; i++)
        for (int64_t h = 0; h < job->n_heads; h++)
            job->k->rope(job->x + i * job->stride + h * job->head_dim, job->cos + i * half,
                         job->sin + i * half, half);
}

void cpu_rope(device *d, float *x, int64_t x_stride, int64_t n, int64_t n_heads, int64_t head_dim,
              const float *cos, const float *sin) {
    if (n <= 0) return;
    rope_job job = {cpu_kernels(d), x, cos, sin, x_stride, n, n_heads, head_dim};
    run_over(d, (double)(n * n_heads * head_dim), ceil_div(n, ROPE_TASK), rope_task, &job);
}

/* ---------------------------------------------------------------- rows by index */

typedef struct gather_job {
    const kernels *k;
    float *dst;
    const float *src;
    const weight *table;
    const int32_t *rows;
    int64_t n, dim;
} gather_job;

static void gather_task(void *user, int64_t index) {
    const gather_job *job = user;
    const int64_t end = i64_min(job->n, (index + 1) * GATHER_TASK);
    for (int64_t i = index * GATHER_TASK; i < end; i++) {
        float *dst = job->dst + i * job->dim;
        if (job->rows[i] < 0)
            memset(dst, 0, (size_t)job->dim * sizeof *dst);
        else if (job->table)
            cpu_widen(job->k, dst, job->table, job->rows[i] * job->dim, job->dim);
        else
            memcpy(dst, job->src + job->rows[i] * job->dim, (size_t)job->dim * sizeof *dst);
    }
}

static void run_gather(device *d, gather_job *job) {
    if (job->n <= 0 || job->dim <= 0) return;
    job->k = cpu_kernels(d);
    run_over(d, (double)(job->n * job->dim), ceil_div(job->n, GATHER_TASK), gather_task, job);
}

void cpu_gather(device *d, float *dst, const float *src, const int32_t *rows, int64_t n,
                int64_t dim) {
    gather_job job = {.dst = dst, .src = src, .rows = rows, .n = n, .dim = dim};
    run_gather(d, &job);
}

void cpu_embed(device *d, float *dst, const weight *table, const int32_t *ids, int64_t n) {
    gather_job job = {.dst = dst, .table = table, .rows = ids, .n = n, .dim = table->n_cols};
    run_gather(d, &job);
}
