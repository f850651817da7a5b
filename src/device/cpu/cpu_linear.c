/* SPDX-License-Identifier: Apache-2.0
 *
 * Products with weights. PANEL: weights are packed into cache-sized panels on the way, rows in
 * blocks, accumulators kept in scratch so that bias, activation and residual come last. DOT: each
 * weight row is read once for all rows of the call.
 *
 * Work is split over output features, so no sum is ever shared between threads.
 */
#include <assert.h>
#include <math.h>

#include "device/cpu/cpu.h"

#define PANEL_FLOATS ((int64_t)48 << 10) /* 192 KiB: a K block of a panel */
#define PANEL_ROWS   1536                /* rows whose accumulators a thread keeps */
#define GROUP_ROWS   48                  /* rows finished while their sums are in L1 */
#define FEWEST_ROWS  96                  /* worth packing a panel for, when there is a choice */
#define DOT_ROWS     16                  /* activations taken together */
#define DOT_CHUNK    1024                /* weight rows taken together, at most */

typedef enum product_kind {
    PRODUCT_F32,
    PRODUCT_F16,
    PRODUCT_BF16,
    PRODUCT_BF16_BF16,
    PRODUCT_4BIT, /* DOT: straight from the codes */
    PRODUCT_4BIT_I16
} product_kind;

typedef struct linear_job {
    device *d;
    const kernels *k;
    cpu_scratch *scratch;
    const linear_args *args;
    product_kind kind;
    bool rounds;   /* or arranges inputs in scratch */
    bool splits;   /* activations into even and odd ones, so that several rows share that too */
    const void *x; /* inputs of rows first_row ... */
    int64_t x_stride;
    int64_t first_row, n_rows; /* of args */
    int n_threads;
    int64_t rows_per_task, n_column_tasks, columns_per_task;
} linear_job;

static int64_t element_bytes(product_kind kind) { return kind == PRODUCT_F32 ? 4 : 2; }

/** Of an element of job->x. */
static int64_t input_bytes(product_kind kind) {
    return kind == PRODUCT_BF16_BF16 || kind == PRODUCT_4BIT_I16 ? 2 : 4;
}

void cpu_linear_finish(const kernels *k, const linear_args *args, const cpu_part *part, float *c,
                       int64_t ldc) {
    const int64_t n_out = args->w->n_rows, m = part->m, n = part->n;
    const int64_t stride = bf16_row_stride(n_out);
    uint16_t *const rounded = args->dst_bf16;
    float bias[CPU_FINISH_COLUMNS];
    epilogue_args last = {.dst = rounded ? c : args->dst + part->row * n_out + part->column,
                          .ldd = rounded ? ldc : n_out,
                          .c = c,
                          .ldc = ldc,
                          .m = m,
                          .n = n};
    if (args->bias && weight_exists(args->bias)) {
        cpu_widen(k, bias, args->bias, part->column, n);
        last.bias = bias;
    }
    if (args->residual) {
        last.residual = args->residual + part->row * n_out + part->column;
        last.ldr = n_out;
    }
    const activation_kernel act = cpu_activation(k, args->act);
    if (act) {
        epilogue_args add_bias = {
            .dst = c, .ldd = ldc, .c = c, .ldc = ldc, .bias = last.bias, .m = m, .n = n};
        if (add_bias.bias) k->epilogue(&add_bias);
        for (int64_t i = 0; i < m; i++) act(c + i * ldc, c + i * ldc, n);
        last.bias = NULL;
    }
    if (!rounded || last.bias) k->epilogue(&last);
    for (int64_t i = 0; rounded && i < m; i++)
        k->narrow_bf16(rounded + (part->row + i) * stride + part->column, c + i * ldc, n);
}

static void finish(const linear_job *job, float *c, int64_t ldc, int64_t row, int64_t m,
                   int64_t column, int64_t n) {
    const cpu_part part = {.row = job->first_row + row, .m = m, .column = column, .n = n};
    cpu_linear_finish(job->k, job->args, &part, c, ldc);
}

/* ---------------------------------------------------------------- PANEL */

static void pack_panel(const linear_job *job, float *panel, int64_t column, int64_t n,
                       int64_t first_k, int64_t n_k) {
    const int64_t size = element_bytes(job->kind), n_cols = job->args->w->n_cols;
    if (job->args->w->quant) {
        const cpu_part part = {.row = column, .m = n, .column = first_k, .n = n_k};
        float *rows = panel + PANEL_FLOATS + PANEL_ROWS * job->k->tile_columns;
        cpu_pack_4bit(job->k, job->args->w, &part, panel, rows, job->kind == PRODUCT_BF16_BF16);
        return;
    }
    const pack_args pack = {
        .dst = panel,
        .src = (const uint8_t *)job->args->w->data + (column * n_cols + first_k) * size,
        .row_bytes = n_cols * size,
        .n = n,
        .k = n_k,
        .ld = job->k->tile_columns,
    };
    switch (job->kind) {
    case PRODUCT_4BIT: /* panels of 4-bit weights are one of the others */
    case PRODUCT_4BIT_I16:
    case PRODUCT_F32: job->k->pack_f32(&pack); break;
    case PRODUCT_F16: job->k->pack_f16(&pack); break;
    case PRODUCT_BF16: job->k->pack_bf16(&pack); break;
    case PRODUCT_BF16_BF16: job->k->pack_bf16_pairs(&pack); break;
    }
}

static void multiply_panel(const linear_job *job, const float *panel, float *c, int64_t row,
                           int64_t m, int64_t n, int64_t first_k, int64_t n_k) {
    const int64_t ld = job->k->tile_columns;
    if (job->kind == PRODUCT_BF16_BF16) {
        const gemm_bf16_args gemm = {
            .a = (const uint16_t *)job->x + row * job->x_stride + first_k,
            .b = (const uint16_t *)panel,
            .c = c,
            .lda = job->x_stride,
            .ldb = 2 * ld,
            .ldc = ld,
            .m = m,
            .n = n,
            .k = round_up(n_k, 2),
            .accumulate = first_k > 0,
        };
        job->k->gemm_bf16(&gemm);
        return;
    }
    const gemm_f32_args gemm = {
        .a = (const float *)job->x + row * job->x_stride + first_k,
        .b = panel,
        .c = c,
        .lda = job->x_stride,
        .ldb = ld,
        .ldc = ld,
        .m = m,
        .n = n,
        .k = n_k,
        .accumulate = first_k > 0,
    };
    job->k->gemm_f32(&gemm);
}

static void panel_task(void *user, int64_t index) {
    const linear_job *job = user;
    const int64_t n_out = job->args->w->n_rows, n_in = job->args->w->n_cols;
    const int64_t tile = job->k->tile_columns;
    const int64_t column = index % job->n_column_tasks * tile;
    const int64_t n = i64_min(tile, n_out - column);
    const int64_t row = index / job->n_column_tasks * job->rows_per_task;
    const int64_t m = i64_min(job->rows_per_task, job->n_rows - row);
    float *panel = cpu_scratch_thread(job->d, job->scratch), *c = panel + PANEL_FLOATS;
    const int64_t per_float = job->kind == PRODUCT_BF16_BF16 ? 2 : 1;
    const int64_t most = PANEL_FLOATS * per_float / tile;
    const int64_t n_blocks = i64_max(1, ceil_div(n_in, most));
    const int64_t block = round_up(ceil_div(n_in, n_blocks), 2);
    int64_t first_k = 0;
    do { /* once even without inputs: the sum is zero */
        const int64_t n_k = i64_min(block, n_in - first_k);
        pack_panel(job, panel, column, n, first_k, n_k);
        if (first_k + n_k < n_in) {
            multiply_panel(job, panel, c, row, m, n, first_k, n_k);
        } else {
            for (int64_t r = 0; r < m; r += GROUP_ROWS) {
                const int64_t rows = i64_min(GROUP_ROWS, m - r);
                float *sums = n_blocks > 1 ? c + r * tile : c;
                multiply_panel(job, panel, sums, row + r, rows, n, first_k, n_k);
                finish(job, sums, tile, row + r, rows, column, n);
            }
        }
        first_k += n_k;
    } while (first_k < n_in);
}

/** Rows are cut where scratch ends, and further where columns alone do not busy the threads. */
static void run_panels(linear_job *job) {
    job->n_column_tasks = ceil_div(job->args->w->n_rows, job->k->tile_columns);
    const int64_t wanted = ceil_div(3 * (int64_t)job->n_threads, job->n_column_tasks);
    const int64_t sensible = i64_min(wanted, ceil_div(job->n_rows, FEWEST_ROWS));
    int64_t n_blocks = i64_max(ceil_div(job->n_rows, PANEL_ROWS), sensible);
    job->rows_per_task = ceil_div(job->n_rows, n_blocks);
    n_blocks = ceil_div(job->n_rows, job->rows_per_task);
    parallel_for(job->n_threads, n_blocks * job->n_column_tasks, panel_task, job);
}

/* ---------------------------------------------------------------- DOT */

/** Weight rows of 4 bits: from the codes, or expanded a few at a time where blocks span rows. */
static void dot_quantized(const linear_job *job, const dot_args *dot, int64_t column) {
    const weight *w = job->args->w;
    if (job->kind != PRODUCT_4BIT && job->kind != PRODUCT_4BIT_I16) {
        cpu_dot_expanded(job->k, w, dot, column, dot->dst + DOT_ROWS * DOT_CHUNK,
                         CPU_THREAD_FLOATS - DOT_ROWS * DOT_CHUNK);
        return;
    }
    const dot_4bit_args args = {.dst = dot->dst,
                                .dst_stride = dot->dst_stride,
                                .q = w->quant,
                                .codes = w->data,
                                .x = dot->x,
                                .x_stride = dot->x_stride,
                                .first = w->quant->first + column * w->n_cols,
                                .n_w = dot->n_w,
                                .n_x = dot->n_x,
                                .k = dot->k};
    if (job->kind == PRODUCT_4BIT)
        job->k->dot_4bit(&args);
    else
        job->k->dot_4bit_i16(&args);
}

static void dot_task(void *user, int64_t index) {
    const linear_job *job = user;
    const int64_t n_out = job->args->w->n_rows, n_in = job->args->w->n_cols;
    const int64_t column = index * job->columns_per_task;
    const int64_t n = i64_min(job->columns_per_task, n_out - column);
    const int64_t x_bytes = input_bytes(job->kind);
    float *c = cpu_scratch_thread(job->d, job->scratch);
    for (int64_t row = 0; row < job->n_rows; row += DOT_ROWS) {
        const dot_args dot = {
            .dst = c,
            .dst_stride = DOT_CHUNK,
            .w = (const uint8_t *)job->args->w->data + column * n_in * element_bytes(job->kind),
            .x = (const uint8_t *)job->x + row * job->x_stride * x_bytes,
            .x_stride = job->x_stride,
            .n_w = n,
            .n_x = i64_min(DOT_ROWS, job->n_rows - row),
            .k = n_in,
            .split = job->splits,
        };
        if (job->args->w->quant) {
            dot_quantized(job, &dot, column);
            finish(job, c, DOT_CHUNK, row, dot.n_x, column, n);
            continue;
        }
        switch (job->kind) {
        case PRODUCT_4BIT:
        case PRODUCT_4BIT_I16:
        case PRODUCT_F32: job->k->dot_f32(&dot); break;
        case PRODUCT_F16: job->k->dot_f16(&dot); break;
        case PRODUCT_BF16_BF16: /* panels only */
        case PRODUCT_BF16: job->k->dot_bf16(&dot); break;
        }
        finish(job, c, DOT_CHUNK, row, dot.n_x, column, n);
    }
}

static void run_dots(linear_job *job) {
    const int64_t n_out = job->args->w->n_rows;
    const int64_t fair = ceil_div(n_out, 4 * (int64_t)job->d->n_threads);
    job->columns_per_task = i64_min(round_up(fair, 16), DOT_CHUNK);
    parallel_for(job->n_threads, ceil_div(n_out, job->columns_per_task), dot_task, job);
}

/* ---------------------------------------------------------------- both */

#define ROUND_TASK 8

static void round_row(const linear_job *job, int64_t row) {
    const int64_t n_in = job->args->w->n_cols;
    const float *src = job->args->x + (job->first_row + row) * n_in;
    float *dst = (float *)job->scratch->rows + row * job->x_stride;
    if (job->kind == PRODUCT_4BIT) {
        cpu_arrange(job->k, dst, src, n_in);
    } else if (job->kind == PRODUCT_4BIT_I16) {
        cpu_code_inputs(job->k, (int16_t *)job->scratch->rows + row * job->x_stride, src, n_in);
    } else if (job->splits) {
        job->k->split_pairs(dst, src, n_in);
    } else {
        job->k->round_bf16(dst, src, n_in);
    }
}

/** A row as the products of bfloat16 want it: what pads it is zero. */
static void round_row_bf16(const linear_job *job, int64_t row) {
    const int64_t n_in = job->args->w->n_cols, from = job->first_row + row;
    uint16_t *dst = (uint16_t *)job->scratch->rows + row * job->x_stride;
    if (job->args->x_bf16)
        memcpy(dst, job->args->x_bf16 + from * bf16_row_stride(n_in), (size_t)n_in * sizeof *dst);
    else
        job->k->narrow_bf16(dst, job->args->x + from * n_in, n_in);
    memset(dst + n_in, 0, (size_t)(job->x_stride - n_in) * sizeof *dst);
}

static void widen_row(const linear_job *job, int64_t row) {
    const int64_t n_in = job->args->w->n_cols;
    const uint16_t *src = job->args->x_bf16 + (job->first_row + row) * bf16_row_stride(n_in);
    job->k->widen_bf16((float *)job->scratch->rows + row * job->x_stride, src, n_in);
}

static void round_task(void *user, int64_t index) {
    const linear_job *job = user;
    const int64_t end = i64_min((index + 1) * ROUND_TASK, job->n_rows);
    for (int64_t row = index * ROUND_TASK; row < end; row++) {
        if (job->kind == PRODUCT_BF16_BF16)
            round_row_bf16(job, row);
        else if (job->args->x_bf16)
            widen_row(job, row);
        else
            round_row(job, row);
    }
}

/** Rows of rounded activations that fit the scratch at a time; 0: not even one. */
static int64_t rounded_rows(const linear_job *job) {
    const size_t row_bytes = (size_t)(job->x_stride * input_bytes(job->kind));
    if (!cpu_scratch_rows(job->scratch, row_bytes)) return 0;
    return i64_max(1, (int64_t)(job->scratch->rows_bytes / row_bytes));
}

/** Reading the weights takes as long with float32 activations, so generated rows keep them. */
static bool rounds_inputs(const linear_args *args) {
    return args->bf16_inputs && args->form == LINEAR_PANEL && args->w->n_cols > 0;
}

/** Blocks of whole 64 elements that begin with each row. */
static bool rows_begin_blocks(const weight *w) { return w->n_cols % w->quant->block == 0; }

/** Where decoded weights are recorded to be rounded to 16 bits, activations may be coded in 14. */
static bool codes_inputs(const kernels *k, const weight *w) {
    const llava_dtype stored = w->quant->stored;
    return k->native_codes && (stored == LLAVA_DTYPE_F16 || stored == LLAVA_DTYPE_BF16);
}

static product_kind choose_kind(const kernels *k, const linear_args *args) {
    if (args->w->quant) {
        if (args->form == LINEAR_DOT)
            return !rows_begin_blocks(args->w) ? PRODUCT_F32
                   : codes_inputs(k, args->w)  ? PRODUCT_4BIT_I16
                                               : PRODUCT_4BIT;
        return args->bf16_inputs && k->native_bf16 ? PRODUCT_BF16_BF16 : PRODUCT_F32;
    }
    switch (args->w->dtype) {
    case LLAVA_DTYPE_F16: return PRODUCT_F16;
    case LLAVA_DTYPE_BF16:
        return rounds_inputs(args) && k->native_bf16 ? PRODUCT_BF16_BF16 : PRODUCT_BF16;
    default: assert(args->w->dtype == LLAVA_DTYPE_F32); return PRODUCT_F32;
    }
}

/** Makes the inputs what the product wants, or finds them so. Returns how many rows to take at a
 *  time, 0 when there is no memory for one. */
static int64_t place_inputs(linear_job *job) {
    const linear_args *args = job->args;
    const int64_t n_in = args->w->n_cols;
    const bool arranges = job->kind == PRODUCT_4BIT || job->kind == PRODUCT_4BIT_I16;
    job->x_stride = n_in;
    if (args->x_bf16 && job->kind == PRODUCT_BF16_BF16 && n_in % 2 == 0) {
        job->x_stride = bf16_row_stride(n_in);
        return args->n_rows;
    }
    job->splits = job->kind == PRODUCT_BF16 && args->form == LINEAR_DOT && args->n_rows > 1 &&
                  job->k->splits_pairs;
    job->rounds =
        n_in > 0 && (rounds_inputs(args) || arranges || job->splits || args->x_bf16 != NULL);
    if (!job->rounds) return args->n_rows;
    const int64_t padded = round_up(n_in, KERNEL_ARRANGED);
    job->x_stride = bf16_row_stride(padded + (job->kind == PRODUCT_4BIT_I16 ? padded / 64 : 0));
    int64_t fit = rounded_rows(job);
    if (fit == 0 && !args->x_bf16) { /* the products of unrounded inputs */
        fit = args->n_rows;
        job->rounds = job->splits = false;
        job->x_stride = n_in;
        if (args->w->quant)
            job->kind = PRODUCT_F32;
        else if (job->kind == PRODUCT_BF16_BF16)
            job->kind = PRODUCT_BF16;
    }
    return i64_min(fit, args->n_rows);
}

/** Where the rows from first_row on lie. */
static const void *inputs_of(const linear_job *job) {
    if (job->rounds) return job->scratch->rows;
    if (job->args->x_bf16) return job->args->x_bf16 + job->first_row * job->x_stride;
    return job->args->x + job->first_row * job->x_stride;
}

/** Without memory for rows that are bfloat16 already: not a number, which shows. */
static void undefined_outputs(const linear_job *job) {
    const linear_args *args = job->args;
    const int64_t n_out = args->w->n_rows, stride = bf16_row_stride(n_out);
    for (int64_t i = 0; i < args->n_rows; i++)
        for (int64_t j = 0; j < n_out; j++) {
            if (args->dst_bf16)
                args->dst_bf16[i * stride + j] = f32_to_bf16(NAN);
            else
                args->dst[i * n_out + j] = NAN;
        }
}

void cpu_linear(device *d, const linear_args *args) {
    if (args->n_rows <= 0 || args->w->n_rows <= 0) return;
    if (args->w->quant && args->w->quant->format == QUANT_INT8) {
        cpu_linear_int8(d, args);
        return;
    }
    linear_job job = {
        .d = d, .k = cpu_kernels(d), .args = args, .kind = choose_kind(cpu_kernels(d), args)};
    job.n_threads = cpu_threads_for(d, (double)args->n_rows * (double)args->w->n_rows *
                                           (double)args->w->n_cols);
    job.scratch = cpu_scratch_take(d);
    const int64_t rows = place_inputs(&job);
    if (rows == 0) undefined_outputs(&job);
    for (; rows > 0 && job.first_row < args->n_rows; job.first_row += rows) {
        job.n_rows = i64_min(rows, args->n_rows - job.first_row);
        job.x = inputs_of(&job);
        if (job.rounds)
            parallel_for(job.n_threads, ceil_div(job.n_rows, ROUND_TASK), round_task, &job);
        if (args->form == LINEAR_DOT)
            run_dots(&job);
        else
            run_panels(&job);
    }
    cpu_scratch_give(d, job.scratch);
}
