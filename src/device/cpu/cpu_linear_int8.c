/* SPDX-License-Identifier: Apache-2.0
 *
 * LLM.int8(): activations are coded row by row, except those from the threshold on, which meet the
 * decoded weights in float32. Which ones these are is decided for each row alone - the reference
 * takes whole columns over all rows of a call - so that a row's result does not depend on the
 * others.
 */
#include <math.h>

#include "device/cpu/cpu.h"

#define PANEL_BYTES  ((int64_t)192 << 10)
#define PANEL_ROWS   1024
#define DOT_ROWS     16
#define DOT_BYTES    ((int64_t)192 << 10) /* of weights; they are read again for the outliers */
#define DOT_COLUMNS  512
#define CODE_TASK    4 /* rows of activations */
#define PIECE        1024
#define MARK_COLUMNS 512

typedef struct int8_job {
    device *d;
    const kernels *k;
    cpu_scratch *scratch;
    const linear_args *args;
    const weight *w;
    float threshold;
    int n_threads;
    int64_t first_row, n_rows;
    /* in scratch->rows */
    float *scales;    /* [n_rows] */
    uint8_t *codes;   /* [n_rows][stride] */
    float *outliers;  /* [n_outliers][n_rows], zero where a row has none */
    int32_t *columns; /* [n_outliers], rising */
    uint8_t *flags;   /* [n_in] */
    int64_t stride, n_outliers;
    int64_t rows_per_task, n_column_tasks, columns_per_task;
} int8_job;

/* ---------------------------------------------------------------- activations */

/** Row `row` of the call's inputs, elements [first, first + n), as the compute type has them. */
static void load_inputs(const int8_job *job, int64_t row, int64_t first, int64_t n, float *dst) {
    const int64_t n_in = job->w->n_cols, from = job->first_row + row;
    if (job->args->x_bf16) {
        job->k->widen_bf16(dst, job->args->x_bf16 + from * bf16_row_stride(n_in) + first, n);
        return;
    }
    const float *x = job->args->x + from * n_in + first;
    if (job->args->bf16_inputs)
        job->k->round_bf16(dst, x, n);
    else
        memcpy(dst, x, (size_t)n * sizeof *dst);
}

/** Codes of a few rows; they see float16 values, as in the reference. */
static void code_task(void *user, int64_t index) {
    const int8_job *job = user;
    const int64_t n_in = job->w->n_cols, end = i64_min((index + 1) * CODE_TASK, job->n_rows);
    float *row = cpu_scratch_thread(job->d, job->scratch);
    for (int64_t r = index * CODE_TASK; r < end; r++) {
        uint16_t halves[PIECE];
        for (int64_t i = 0; i < n_in; i += PIECE) {
            const int64_t n = i64_min(PIECE, n_in - i);
            load_inputs(job, r, i, n, row + i);
            job->k->narrow_f16(halves, row + i, n);
            job->k->widen_f16(row + i, halves, n);
        }
        uint8_t *codes = job->codes + r * job->stride;
        const encode_i8_args encode = {
            .codes = codes, .x = row, .n = n_in, .threshold = job->threshold, .flip = 0x80};
        job->scales[r] = job->k->encode_i8(&encode);
        memset(codes + n_in, 0x80, (size_t)(job->stride - n_in));
    }
}

static bool is_outlier(const int8_job *job, float x) {
    return job->threshold > 0 && fabsf(f16_to_f32(f32_to_f16(x))) >= job->threshold;
}

static void mark_task(void *user, int64_t index) {
    const int8_job *job = user;
    const int64_t n_in = job->w->n_cols, first = index * MARK_COLUMNS;
    const int64_t n = i64_min(MARK_COLUMNS, n_in - first);
    const float likely = job->threshold * 0.99f; /* rounding may lift a value to the threshold */
    memset(job->flags + first, 0, (size_t)n);
    for (int64_t r = 0; r < job->n_rows; r++) {
        float widened[MARK_COLUMNS];
        if (job->args->x_bf16) load_inputs(job, r, first, n, widened);
        const float *x =
            job->args->x_bf16 ? widened : job->args->x + (job->first_row + r) * n_in + first;
        job->k->mark_outliers(job->flags + first, x, n, likely);
    }
}

/** Marks the columns in which some row has an outlier. */
static int64_t find_outliers(int8_job *job) {
    const int64_t n_in = job->w->n_cols;
    if (job->threshold <= 0) return 0;
    const int n_threads = cpu_threads_for(job->d, (double)job->n_rows * (double)n_in);
    parallel_for((int)i64_min(n_threads, job->n_threads), ceil_div(n_in, MARK_COLUMNS), mark_task,
                 job);
    int64_t count = 0;
    for (int64_t k = 0; k < n_in; k++) count += job->flags[k];
    return count;
}

/** outliers[j][r]: what row r has in column j, if it is one. */
static void gather_outliers(const int8_job *job) {
    int64_t j = 0;
    for (int64_t k = 0; k < job->w->n_cols; k++) {
        if (!job->flags[k]) continue;
        job->columns[j] = (int32_t)k;
        for (int64_t r = 0; r < job->n_rows; r++) {
            float x;
            load_inputs(job, r, k, 1, &x);
            job->outliers[j * job->n_rows + r] = is_outlier(job, x) ? x : 0;
        }
        j++;
    }
}

/* ---------------------------------------------------------------- output */

/** Adds the outliers' products to sums c[m][ldc] of weight rows [column, column + n). */
static void add_outliers(const int8_job *job, const cpu_part *part, float *c, int64_t ldc) {
    const int8_t *w = (const int8_t *)job->w->data + part->column * job->w->n_cols;
    const uint8_t *scb = (const uint8_t *)job->w->quant->scb + part->column * 4;
    float weights[DOT_COLUMNS];
    for (int64_t j = 0; j < job->n_outliers; j++) {
        for (int64_t o = 0; o < part->n; o++) {
            float scale;
            memcpy(&scale, scb + o * 4, sizeof scale);
            weights[o] = (float)w[o * job->w->n_cols + job->columns[j]] * scale / 127.0f;
        }
        const float *x = job->outliers + j * job->n_rows + part->row;
        for (int64_t r = 0; r < part->m; r++)
            if (x[r] != 0) job->k->add_scaled(c + r * ldc, weights, part->n, x[r]);
    }
}

static void finish(const int8_job *job, const cpu_part *part, int32_t *sums, int64_t ldc,
                   const int32_t *column_sums) {
    float *c = (float *)sums;
    const scale_i32_args scale = {.dst = c,
                                  .c = sums,
                                  .sums = column_sums,
                                  .row_scales = job->scales + part->row,
                                  .column_scales =
                                      (const uint8_t *)job->w->quant->scb + part->column * 4,
                                  .ldd = ldc,
                                  .ldc = ldc,
                                  .m = part->m,
                                  .n = part->n};
    job->k->scale_i32(&scale);
    add_outliers(job, part, c, ldc);
    cpu_part whole = *part;
    whole.row += job->first_row;
    cpu_linear_finish(job->k, job->args, &whole, c, ldc);
}

/* ---------------------------------------------------------------- PANEL */

static void panel_task(void *user, int64_t index) {
    const int8_job *job = user;
    const int64_t n_in = job->w->n_cols, tile = job->k->tile_columns;
    cpu_part part = {.row = index / job->n_column_tasks * job->rows_per_task,
                     .column = index % job->n_column_tasks * tile};
    part.m = i64_min(job->rows_per_task, job->n_rows - part.row);
    part.n = i64_min(tile, job->w->n_rows - part.column);
    int8_t *panel = (int8_t *)cpu_scratch_thread(job->d, job->scratch);
    int32_t *c = (int32_t *)(panel + PANEL_BYTES), sums[KERNEL_MAX_COLUMNS] = {0};
    const int64_t most = PANEL_BYTES / tile, n_blocks = i64_max(1, ceil_div(n_in, most));
    const int64_t block = round_up(ceil_div(n_in, n_blocks), 4);
    int64_t first_k = 0;
    do { /* once even without inputs: the sum is zero */
        const int64_t n_k = i64_min(block, n_in - first_k);
        const pack_i8_args pack = {.dst = panel,
                                   .sums = sums,
                                   .src =
                                       (const int8_t *)job->w->data + part.column * n_in + first_k,
                                   .row_bytes = n_in,
                                   .n = part.n,
                                   .k = n_k,
                                   .ld = tile};
        job->k->pack_i8(&pack);
        const gemm_i8_args gemm = {.a = job->codes + part.row * job->stride + first_k,
                                   .b = panel,
                                   .c = c,
                                   .lda = job->stride,
                                   .ldb = 4 * tile,
                                   .ldc = tile,
                                   .m = part.m,
                                   .n = part.n,
                                   .k = round_up(n_k, 4),
                                   .accumulate = first_k > 0};
        job->k->gemm_i8(&gemm);
        first_k += n_k;
    } while (first_k < n_in);
    finish(job, &part, c, tile, sums);
}

static void run_panels(int8_job *job) {
    job->n_column_tasks = ceil_div(job->w->n_rows, job->k->tile_columns);
    const int64_t wanted = ceil_div(3 * (int64_t)job->n_threads, job->n_column_tasks);
    const int64_t sensible = i64_min(wanted, ceil_div(job->n_rows, 96)); /* worth a panel */
    int64_t n_blocks = i64_max(ceil_div(job->n_rows, PANEL_ROWS), sensible);
    job->rows_per_task = ceil_div(job->n_rows, n_blocks);
    n_blocks = ceil_div(job->n_rows, job->rows_per_task);
    parallel_for(job->n_threads, n_blocks * job->n_column_tasks, panel_task, job);
}

/* ---------------------------------------------------------------- DOT */

static void dot_task(void *user, int64_t index) {
    const int8_job *job = user;
    const int64_t n_in = job->w->n_cols;
    cpu_part part = {.column = index * job->columns_per_task};
    part.n = i64_min(job->columns_per_task, job->w->n_rows - part.column);
    int32_t *c = (int32_t *)cpu_scratch_thread(job->d, job->scratch);
    for (part.row = 0; part.row < job->n_rows; part.row += DOT_ROWS) {
        part.m = i64_min(DOT_ROWS, job->n_rows - part.row);
        const dot_i8_args dot = {.dst = c,
                                 .w = (const int8_t *)job->w->data + part.column * n_in,
                                 .x = job->codes + part.row * job->stride,
                                 .dst_stride = DOT_COLUMNS,
                                 .x_stride = job->stride,
                                 .n_w = part.n,
                                 .n_x = part.m,
                                 .k = n_in};
        job->k->dot_i8(&dot);
        finish(job, &part, c, DOT_COLUMNS, NULL);
    }
}

static void run_dots(int8_job *job) {
    const int64_t n_out = job->w->n_rows;
    const int64_t fair = round_up(ceil_div(n_out, 4 * (int64_t)job->d->n_threads), 16);
    const int64_t cached = i64_max(2, DOT_BYTES / i64_max(1, job->w->n_cols));
    job->columns_per_task = i64_min(i64_min(fair, cached), DOT_COLUMNS);
    parallel_for(job->n_threads, ceil_div(n_out, job->columns_per_task), dot_task, job);
}

/* ---------------------------------------------------------------- both */

/** Lays out n_rows rows in scratch; false when memory is short. */
static bool lay_out(int8_job *job, int64_t n_rows, int64_t n_outliers) {
    const size_t rows = (size_t)round_up(n_rows, 16);
    const size_t flags = (size_t)round_up(job->w->n_cols, 64);
    const size_t outliers = (size_t)n_outliers * rows * sizeof(float);
    const size_t columns = (size_t)round_up(n_outliers, 16) * sizeof(int32_t);
    const size_t codes = (size_t)n_rows * (size_t)job->stride;
    if (!cpu_scratch_rows(job->scratch, flags + rows * sizeof(float) + outliers + columns + codes))
        return false;
    job->flags = job->scratch->rows;
    job->scales = (float *)(job->flags + flags);
    job->outliers = job->scales + rows;
    job->columns = (int32_t *)(job->outliers + (size_t)n_outliers * rows);
    job->codes = (uint8_t *)job->columns + columns;
    job->n_rows = n_rows;
    job->n_outliers = n_outliers;
    return true;
}

/** Codes and outliers of as many rows from first_row on as memory allows, at least one. */
static bool prepare(int8_job *job, int64_t n_rows) {
    for (;; n_rows = ceil_div(n_rows, 2)) {
        if (lay_out(job, n_rows, 0)) {
            const int64_t n_outliers = find_outliers(job);
            if (lay_out(job, n_rows, n_outliers)) {
                if (n_outliers > 0 && find_outliers(job) > 0) gather_outliers(job);
                parallel_for(job->n_threads, ceil_div(n_rows, CODE_TASK), code_task, job);
                return true;
            }
        }
        if (n_rows == 1) return false;
    }
}

/** Without memory for one row's codes: the decoded weights, output by output. */
static void multiply_plainly(const int8_job *job) {
    const linear_args *args = job->args;
    const int64_t n_in = job->w->n_cols;
    for (int64_t o = 0; o < job->w->n_rows; o++) {
        float sum = 0, x, value;
        for (int64_t k = 0; k < n_in; k++) {
            load_inputs(job, 0, k, 1, &x);
            weight_decode(job->w, o * n_in + k, 1, &value);
            sum += x * value;
        }
        const cpu_part part = {.row = job->first_row, .m = 1, .column = o, .n = 1};
        cpu_linear_finish(job->k, args, &part, &sum, 1);
    }
}

void cpu_linear_int8(device *d, const linear_args *args) {
    int8_job job = {.d = d,
                    .k = cpu_kernels(d),
                    .args = args,
                    .w = args->w,
                    .threshold = args->w->quant->threshold,
                    .scratch = cpu_scratch_take(d)};
    job.n_threads = cpu_threads_for(d, (double)args->n_rows * (double)args->w->n_rows *
                                           (double)args->w->n_cols);
    /* an odd number of cache lines: rows a multiple of 4096 bytes apart would compete */
    job.stride = (ceil_div(args->w->n_cols, 64) | 1) * 64;
    for (; job.first_row < args->n_rows; job.first_row += job.n_rows) {
        if (!prepare(&job, i64_min(args->n_rows - job.first_row, 4 * PANEL_ROWS))) {
            job.n_rows = 1;
            multiply_plainly(&job);
        } else if (args->form == LINEAR_DOT) {
            run_dots(&job);
        } else {
            run_panels(&job);
        }
    }
    cpu_scratch_give(d, job.scratch);
}
