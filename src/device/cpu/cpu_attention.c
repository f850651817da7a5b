/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention in one pass over blocks of keys, with a running maximum and sum. Query rows of the
 * heads that share keys are taken together, so that keys and values are converted once for all.
 *
 * A row's result does not depend on its neighbours: blocks of keys start at multiples of
 * BLOCK_KEYS whatever the rows see, and a key that a row does not see adds an exact zero.
 */
#include <assert.h>
#include <math.h>

#include "device/cpu/cpu.h"

#define MAX_ROWS   384 /* query rows x heads taken together */
#define BLOCK_KEYS 256 /* taken at a step: a multiple of KERNEL_KEYS */

typedef struct attention_job {
    device *d;
    const kernels *k;
    cpu_scratch *scratch;
    const attention_args *args;
    int64_t group;                    /* query heads per key head */
    int64_t heads_per_task, n_splits; /* of a group */
    int64_t rows_per_task;            /* query rows */
    int64_t n_row_tasks;
    int64_t width; /* head_dim padded */
    bool bf16;     /* products of bfloat16 */
} attention_job;

/** A thread's buffers; rows are (query row, head of the group). Of bfloat16 what is multiplied uses
 *  the first half of its buffer, in pairs as gemm_bf16 wants them; the second half of keys and of
 *  values then holds the block's rows. */
typedef struct attention_block {
    float *keys;   /* [head_dim][BLOCK_KEYS], in panels of tile_columns */
    float *values; /* [BLOCK_KEYS][width] */
    float *q;      /* [rows][width] */
    float *out;    /* [rows][width], always float32 */
    float *scores; /* [rows][BLOCK_KEYS]; of bfloat16 a row's weights take its first half */
    float *maximum, *sum;
    int64_t first_row, n_rows; /* query rows */
    int64_t kv_head, first_head, n_heads;
} attention_block;

/** Of one query row and head: q, out, scores, maximum and sum. */
static int64_t row_floats(int64_t width) { return 2 * width + BLOCK_KEYS + 2; }

static void pack_run(const attention_job *job, float *dst, const uint8_t *src, int64_t n,
                     int64_t ld) {
    const kv_view *view = &job->args->k;
    const pack_args pack = {.dst = dst,
                            .src = src,
                            .row_bytes = view->token_stride * (int64_t)dtype_size(view->dtype),
                            .n = n,
                            .k = job->args->head_dim,
                            .ld = ld};
    switch (view->dtype) {
    case LLAVA_DTYPE_F16: job->k->pack_f16(&pack); break;
    case LLAVA_DTYPE_BF16: job->k->pack_bf16(&pack); break;
    default: job->k->pack_f32(&pack); break;
    }
}

/** The same of int8: rows are widened where the values will be, then transposed. */
static void load_keys_i8(const attention_job *job, const attention_block *block, int64_t first,
                         int64_t end) {
    const int64_t tile = job->k->tile_columns, dim = job->args->head_dim;
    float *rows = block->values;
    for (int64_t t = first; t < end; t++)
        job->k->widen_i8(rows + (t - first) * job->width, kv_at(&job->args->k, t, block->kv_head),
                         dim);
    for (int64_t p = 0; p < end - first; p += tile) {
        const pack_args pack = {.dst = block->keys + p * dim,
                                .src = rows + p * job->width,
                                .row_bytes = job->width * (int64_t)sizeof *rows,
                                .n = i64_min(tile, end - first - p),
                                .k = dim,
                                .ld = tile};
        job->k->pack_f32(&pack);
    }
}

/** Keys [first, end) of one head, transposed, in panels. When a panel's tokens lie in several
 *  blocks of the view it is put together from pieces. */
static void load_keys(const attention_job *job, const attention_block *block, int64_t first,
                      int64_t end) {
    const kv_view *view = &job->args->k;
    const int64_t tile = job->k->tile_columns, dim = job->args->head_dim;
    float *piece = block->values; /* free until the values are loaded */
    if (view->dtype == LLAVA_DTYPE_I8) {
        load_keys_i8(job, block, first, end);
        return;
    }
    for (int64_t p = first; p < end; p += tile) {
        float *panel = block->keys + (p - first) * dim;
        const int64_t panel_end = i64_min(end, p + tile);
        int64_t n = kv_run(view, p, panel_end);
        pack_run(job, panel, kv_at(view, p, block->kv_head), n, tile);
        for (int64_t t = p + n; t < panel_end; t += n) {
            n = kv_run(view, t, panel_end);
            const int64_t ld = round_up(n, KERNEL_PAD);
            pack_run(job, piece, kv_at(view, t, block->kv_head), n, ld);
            for (int64_t i = 0; i < dim; i++)
                memcpy(panel + i * tile + (t - p), piece + i * ld, (size_t)n * sizeof(float));
        }
    }
}

static void load_values(const attention_job *job, const attention_block *block, int64_t first,
                        int64_t end) {
    const kv_view *view = &job->args->v;
    const int64_t dim = job->args->head_dim;
    for (int64_t t = first; t < end; t++) {
        float *dst = block->values + (t - first) * job->width;
        const uint8_t *src = kv_at(view, t, block->kv_head);
        switch (view->dtype) {
        case LLAVA_DTYPE_F16: job->k->widen_f16(dst, src, dim); break;
        case LLAVA_DTYPE_BF16: job->k->widen_bf16(dst, src, dim); break;
        case LLAVA_DTYPE_I8: job->k->widen_i8(dst, src, dim); break;
        default: memcpy(dst, src, (size_t)dim * sizeof *dst); break;
        }
        for (int64_t i = dim; i < job->width; i++) dst[i] = 0;
    }
}

/** Row t of one head as bfloat16: where it lies, or converted in the second half of buffer, at
 *  place i. Places behind i are used up. */
static const uint16_t *row_bf16(const attention_job *job, const attention_block *block,
                                const kv_view *view, float *buffer, int64_t t, int64_t i) {
    const int64_t dim = job->args->head_dim;
    const uint8_t *src = kv_at(view, t, block->kv_head);
    uint16_t *dst = (uint16_t *)buffer + (BLOCK_KEYS + i) * job->width;
    if (view->dtype == LLAVA_DTYPE_BF16) return (const uint16_t *)src;
    if (view->dtype == LLAVA_DTYPE_I8) {
        job->k->widen_i8((float *)dst, src, dim);
        src = (const uint8_t *)dst;
    }
    job->k->narrow_bf16(dst, (const float *)src, dim);
    return dst;
}

/** Rows [first, end) of one head, not more than a panel, at one distance: where they lie, or in
 *  the second half of buffer. */
static const uint16_t *rows_bf16(const attention_job *job, const attention_block *block,
                                 const kv_view *view, float *buffer, int64_t first, int64_t end,
                                 int64_t *row_stride) {
    const int64_t dim = job->args->head_dim;
    const bool as_is = view->dtype == LLAVA_DTYPE_BF16;
    uint16_t *const rows = (uint16_t *)buffer + BLOCK_KEYS * job->width;
    *row_stride = view->token_stride;
    if (as_is && kv_run(view, first, end) == end - first)
        return (const uint16_t *)kv_at(view, first, block->kv_head);
    *row_stride = job->width;
    for (int64_t t = first; t < end; t++) {
        const uint16_t *row = row_bf16(job, block, view, buffer, t, t - first);
        if (as_is) memcpy(rows + (t - first) * job->width, row, (size_t)dim * sizeof *rows);
    }
    return rows;
}

static void load_keys_bf16(const attention_job *job, const attention_block *block, int64_t first,
                           int64_t end) {
    const int64_t tile = job->k->tile_columns;
    for (int64_t t = first; t < end; t += tile) {
        const int64_t panel_end = i64_min(end, t + tile);
        int64_t stride;
        const uint16_t *rows =
            rows_bf16(job, block, &job->args->k, block->keys, t, panel_end, &stride);
        const pack_args pack = {.dst = (uint16_t *)block->keys + (t - first) * job->width,
                                .src = rows,
                                .row_bytes = stride * (int64_t)sizeof *rows,
                                .n = panel_end - t,
                                .k = job->args->head_dim,
                                .ld = tile};
        job->k->pack_bf16_pairs(&pack);
    }
}

/** Pairs of keys' values; an odd one is paired with zeros, and zero is what pads a row. */
static void load_values_bf16(const attention_job *job, const attention_block *block, int64_t first,
                             int64_t end) {
    const kv_view *view = &job->args->v;
    const int64_t dim = job->args->head_dim, width = job->width;
    uint16_t *const zeros = (uint16_t *)block->values + (2 * BLOCK_KEYS - 1) * width;
    for (int64_t t = first; t < end; t += 2) {
        uint16_t *dst = (uint16_t *)block->values + (t - first) * width;
        const uint16_t *a = row_bf16(job, block, view, block->values, t, 0), *b = zeros;
        if (t + 1 < end)
            b = row_bf16(job, block, view, block->values, t + 1, 1);
        else
            memset(zeros, 0, (size_t)dim * sizeof *zeros);
        job->k->pair_rows(dst, a, b, dim);
        memset(dst + 2 * dim, 0, (size_t)(2 * (width - dim)) * sizeof *dst);
    }
}

static void multiply_keys_bf16(const attention_job *job, const attention_block *block,
                               int64_t n_keys) {
    const int64_t tile = job->k->tile_columns;
    for (int64_t p = 0; p < n_keys; p += tile) {
        const gemm_bf16_args gemm = {.a = (const uint16_t *)block->q,
                                     .lda = job->width,
                                     .b = (const uint16_t *)block->keys + p * job->width,
                                     .ldb = 2 * tile,
                                     .c = block->scores + p,
                                     .ldc = BLOCK_KEYS,
                                     .m = block->n_rows * block->n_heads,
                                     .n = i64_min(tile, n_keys - p),
                                     .k = round_up(job->args->head_dim, 2)};
        job->k->gemm_bf16(&gemm);
    }
}

static void multiply_values_bf16(const attention_job *job, const attention_block *block,
                                 int64_t n_keys) {
    const int64_t tile = job->k->tile_columns;
    for (int64_t column = 0; column < job->width; column += tile) {
        const gemm_bf16_args gemm = {.a = (const uint16_t *)block->scores,
                                     .lda = 2 * BLOCK_KEYS,
                                     .b = (const uint16_t *)block->values + 2 * column,
                                     .ldb = 2 * job->width,
                                     .c = block->out + column,
                                     .ldc = job->width,
                                     .m = block->n_rows * block->n_heads,
                                     .n = i64_min(tile, job->width - column),
                                     .k = round_up(n_keys, 2),
                                     .accumulate = true};
        job->k->gemm_bf16(&gemm);
    }
}

/** scores = q K^T for keys [first, end). */
static void multiply_keys(const attention_job *job, const attention_block *block, int64_t n_keys) {
    const int64_t tile = job->k->tile_columns, dim = job->args->head_dim;
    for (int64_t p = 0; p < n_keys; p += tile) {
        const gemm_f32_args gemm = {.a = block->q,
                                    .lda = job->width,
                                    .b = block->keys + p * dim,
                                    .ldb = tile,
                                    .c = block->scores + p,
                                    .ldc = BLOCK_KEYS,
                                    .m = block->n_rows * block->n_heads,
                                    .n = i64_min(tile, n_keys - p),
                                    .k = dim};
        job->k->gemm_f32(&gemm);
    }
}

/** out += scores V */
static void multiply_values(const attention_job *job, const attention_block *block,
                            int64_t n_keys) {
    const int64_t tile = job->k->tile_columns;
    for (int64_t column = 0; column < job->width; column += tile) {
        const gemm_f32_args gemm = {.a = block->scores,
                                    .lda = BLOCK_KEYS,
                                    .b = block->values + column,
                                    .ldb = job->width,
                                    .c = block->out + column,
                                    .ldc = job->width,
                                    .m = block->n_rows * block->n_heads,
                                    .n = i64_min(tile, job->width - column),
                                    .k = n_keys,
                                    .accumulate = true};
        job->k->gemm_f32(&gemm);
    }
}

softmax_args cpu_softmax_args(const attention_args *args, int64_t row, int64_t head,
                              int64_t first_key, int64_t n, int64_t first, int64_t last) {
    softmax_args step = {.n = n,
                         .first = i64_max(0, i64_min(first - first_key, n)),
                         .last = i64_max(0, i64_min(last - first_key, n)),
                         .scale = args->scale};
    if (args->alibi_slopes) {
        step.slope = args->alibi_slopes[head];
        step.offset = (float)(first_key - (args->first_position + row));
    }
    return step;
}

static void weigh_scores(const attention_job *job, const attention_block *block, int64_t first_key,
                         int64_t n_keys) {
    const int64_t n_scores = round_up(n_keys, KERNEL_KEYS);
    const attention_args *args = job->args;
    for (int64_t r = 0; r < block->n_rows * block->n_heads; r++) {
        const int64_t row = block->first_row + r / block->n_heads;
        const int64_t head = block->first_head + r % block->n_heads;
        int64_t first, last;
        attention_visible(args, row, &first, &last);
        softmax_args step = cpu_softmax_args(args, row, head, first_key, n_scores, first, last);
        step.scores = block->scores + r * BLOCK_KEYS;
        step.maximum = block->maximum + r;
        step.sum = block->sum + r;
        const float before = block->maximum[r];
        const float factor = job->k->softmax_step(&step);
        float *out = block->out + r * job->width;
        if (job->bf16) job->k->narrow_bf16(step.scores, step.scores, n_scores);
        if (factor != 1 && before != -INFINITY) job->k->scale(out, out, job->width, factor);
    }
}

/** Row r of the block from element `at` of the queries on. */
static void load_query(const attention_job *job, const attention_block *block, int64_t r,
                       int64_t at) {
    const attention_args *args = job->args;
    const int64_t dim = args->head_dim;
    float *dst = block->q + r * job->width;
    uint16_t *half = (uint16_t *)block->q + r * job->width;
    if (!job->bf16) {
        if (args->q_bf16)
            job->k->widen_bf16(dst, args->q_bf16 + at, dim);
        else
            memcpy(dst, args->q + at, (size_t)dim * sizeof *dst);
        return;
    }
    if (args->q_bf16)
        memcpy(half, args->q_bf16 + at, (size_t)dim * sizeof *half);
    else
        job->k->narrow_bf16(half, args->q + at, dim);
    memset(half + dim, 0, (size_t)(job->width - dim) * sizeof *half);
}

static void load_queries(const attention_job *job, const attention_block *block) {
    const attention_args *args = job->args;
    for (int64_t r = 0; r < block->n_rows * block->n_heads; r++) {
        const int64_t head = block->first_head + r % block->n_heads;
        const int64_t row = block->first_row + r / block->n_heads;
        load_query(job, block, r, row * args->q_stride + head * args->head_dim);
        memset(block->out + r * job->width, 0, (size_t)job->width * sizeof(float));
        block->maximum[r] = -INFINITY;
        block->sum[r] = 0;
    }
}

static void store_rows(const attention_job *job, const attention_block *block) {
    const attention_args *args = job->args;
    const int64_t stride = bf16_row_stride(args->n_heads * args->head_dim);
    for (int64_t r = 0; r < block->n_rows * block->n_heads; r++) {
        const int64_t head = block->first_head + r % block->n_heads;
        const int64_t row = block->first_row + r / block->n_heads;
        const float inverse = block->sum[r] > 0 ? 1.0f / block->sum[r] : block->sum[r];
        float *out = block->out + r * job->width;
        if (args->dst_bf16) {
            job->k->scale(out, out, args->head_dim, inverse);
            job->k->narrow_bf16(args->dst_bf16 + row * stride + head * args->head_dim, out,
                                args->head_dim);
        } else {
            job->k->scale(args->dst + (row * args->n_heads + head) * args->head_dim, out,
                          args->head_dim, inverse);
        }
    }
}

static void attention_task(void *user, int64_t index) {
    const attention_job *job = user;
    const attention_args *args = job->args;
    const int64_t rows = job->rows_per_task * job->heads_per_task;
    const int64_t split = index % job->n_splits, rest = index / job->n_splits;
    /* the last rows see most keys: start with them, so that threads end together */
    const int64_t row_task = job->n_row_tasks - 1 - rest / args->n_kv_heads;
    attention_block block = {.kv_head = rest % args->n_kv_heads,
                             .first_row = row_task * job->rows_per_task};
    block.first_head = block.kv_head * job->group + split * job->heads_per_task;
    block.n_heads = i64_min(job->heads_per_task, job->group - split * job->heads_per_task);
    block.n_rows = i64_min(job->rows_per_task, args->n_rows - block.first_row);
    block.keys = cpu_scratch_thread(job->d, job->scratch);
    block.values = block.keys + BLOCK_KEYS * job->width;
    block.q = block.values + BLOCK_KEYS * job->width;
    block.out = block.q + rows * job->width;
    block.scores = block.out + rows * job->width;
    block.maximum = block.scores + rows * BLOCK_KEYS;
    block.sum = block.maximum + rows;
    load_queries(job, &block);
    int64_t first, last, end, unused;
    attention_visible(args, block.first_row, &first, &unused);
    attention_visible(args, block.first_row + block.n_rows - 1, &unused, &last);
    for (int64_t key = first / BLOCK_KEYS * BLOCK_KEYS; key < last; key = end) {
        end = i64_min(key + BLOCK_KEYS, last);
        if (job->bf16) {
            load_keys_bf16(job, &block, key, end);
            multiply_keys_bf16(job, &block, end - key);
            weigh_scores(job, &block, key, end - key);
            load_values_bf16(job, &block, key, end);
            multiply_values_bf16(job, &block, end - key);
        } else {
            load_keys(job, &block, key, end);
            multiply_keys(job, &block, end - key);
            weigh_scores(job, &block, key, end - key);
            load_values(job, &block, key, end);
            multiply_values(job, &block, end - key);
        }
        end = key + BLOCK_KEYS;
    }
    store_rows(job, &block);
}

void attention_undefined(const attention_args *args) {
    const int64_t width = args->n_heads * args->head_dim, stride = bf16_row_stride(width);
    for (int64_t row = 0; row < args->n_rows; row++)
        for (int64_t i = 0; i < width; i++) {
            if (args->dst_bf16)
                args->dst_bf16[row * stride + i] = f32_to_bf16(NAN);
            else
                args->dst[row * width + i] = NAN;
        }
}

void cpu_attention(device *d, const attention_args *args) {
    if (args->n_rows <= 0) return;
    if (args->form == LINEAR_DOT) {
        cpu_attention_dot(d, args);
        return;
    }
    attention_job job = {.d = d, .k = cpu_kernels(d), .args = args};
    job.group = args->n_heads / args->n_kv_heads;
    job.width = round_up(args->head_dim, KERNEL_PAD);
    job.bf16 = args->bf16_inputs && job.k->native_bf16 && args->k.dtype != LLAVA_DTYPE_F16;
    assert(job.group * args->n_kv_heads == args->n_heads);
    job.scratch = cpu_scratch_take(d);
    const int64_t blocks = 2 * BLOCK_KEYS * job.width;
    if (!cpu_scratch_grow_threads(d, job.scratch, blocks + row_floats(job.width))) {
        attention_undefined(args);
        cpu_scratch_give(d, job.scratch);
        return;
    }
    const int64_t space = job.scratch->thread_floats - blocks;
    const int64_t fit = i64_min(MAX_ROWS, space / row_floats(job.width));
    job.heads_per_task = i64_min(job.group, fit);
    job.n_splits = ceil_div(job.group, job.heads_per_task);
    const int64_t rows = i64_max(1, fit / job.heads_per_task);
    job.n_row_tasks = ceil_div(args->n_rows, rows);
    job.rows_per_task = ceil_div(args->n_rows, job.n_row_tasks);
    const double work = (double)args->n_rows * (double)args->n_heads * (double)args->head_dim;
    parallel_for(cpu_threads_for(d, 2 * work * (double)args->n_keys),
                 job.n_row_tasks * args->n_kv_heads * job.n_splits, attention_task, &job);
    cpu_scratch_give(d, job.scratch);
}

/* ---------------------------------------------------------------- filling the cache */

#define STORE_TASK 16

typedef struct store_job {
    const kernels *k;
    const kv_store_args *args;
} store_job;

static void store_i8(const kernels *k, uint8_t *row, const float *x, int64_t dim) {
    const encode_i8_args encode = {.codes = row, .x = x, .n = dim};
    const float scale = k->encode_i8(&encode) / 127;
    memcpy(row + dim, &scale, sizeof scale);
}

static void store_task(void *user, int64_t index) {
    const store_job *job = user;
    const kv_store_args *args = job->args;
    const int64_t end = i64_min(args->n_rows, (index + 1) * STORE_TASK);
    for (int64_t i = index * STORE_TASK; i < end; i++)
        for (int64_t h = 0; h < args->n_kv_heads; h++) {
            const float *src = args->x + i * args->x_stride + h * args->head_dim;
            uint8_t *dst = (uint8_t *)kv_at(&args->view, args->first_position + i, h);
            switch (args->view.dtype) {
            case LLAVA_DTYPE_F16: job->k->narrow_f16(dst, src, args->head_dim); break;
            case LLAVA_DTYPE_BF16: job->k->narrow_bf16(dst, src, args->head_dim); break;
            case LLAVA_DTYPE_I8: store_i8(job->k, dst, src, args->head_dim); break;
            default: memcpy(dst, src, (size_t)args->head_dim * sizeof *src); break;
            }
        }
}

void cpu_kv_store(device *d, const kv_store_args *args) {
    if (args->n_rows <= 0) return;
    store_job job = {cpu_kernels(d), args};
    const int n_threads = args->n_rows > STORE_TASK ? d->n_threads : 1;
    parallel_for(n_threads, ceil_div(args->n_rows, STORE_TASK), store_task, &job);
}
