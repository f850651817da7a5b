/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantizing a matrix on all threads, and what products need of 4-bit weights: rows expanded for
 * panels and activations arranged for the codes.
 */
#include <sys/mman.h>

#include "device/cpu/cpu.h"

#define TASK_ELEMENTS ((int64_t)64 << 10) /* a multiple of the largest block */
#define TASK_NESTED   64                  /* blocks of absmax values */
#define HUGE_PAGE     ((uintptr_t)2 << 20)
#define STACK_FLOATS  4096 /* a multiple of the largest block */

typedef struct quantize_job {
    const kernels *k;
    const quantize_args *args;
    int64_t count; /* elements, or blocks of the second quantization */
    device *d;
    cpu_scratch *scratch; /* int8: room for a row */
} quantize_job;

/** Elements [first, first + n) as float32, rounded to float16 if asked. */
static void load_values(const quantize_job *job, int64_t first, int64_t n, float *dst) {
    const llava_dtype dtype = job->args->w->dtype;
    if (dtype == LLAVA_DTYPE_F64)
        weight_decode(job->args->w, first, n, dst);
    else
        cpu_widen(job->k, dst, job->args->w, first, n);
    if (job->args->bfloat16_first && dtype != LLAVA_DTYPE_BF16) job->k->round_bf16(dst, dst, n);
    if (!job->args->halves || (dtype == LLAVA_DTYPE_F16 && !job->args->bfloat16_first)) return;
    uint16_t halves[1024];
    for (int64_t i = 0; i < n; i += 1024) {
        const int64_t part = i64_min(1024, n - i);
        job->k->narrow_f16(halves, dst + i, part);
        job->k->widen_f16(dst + i, halves, part);
    }
}

static void encode_blocks(void *user, int64_t index) {
    const quantize_job *job = user;
    const quantize_args *args = job->args;
    const int64_t end = i64_min((index + 1) * TASK_ELEMENTS, job->count);
    float values[STACK_FLOATS];
    for (int64_t first = index * TASK_ELEMENTS; first < end; first += STACK_FLOATS) {
        const int64_t n = i64_min(STACK_FLOATS, end - first);
        load_values(job, first, n, values);
        const encode_4bit_args encode = {.codes = args->codes + first / 2,
                                         .absmax = args->absmax + first / args->block,
                                         .x = values,
                                         .n = n,
                                         .block = args->block,
                                         .format = args->format};
        job->k->encode_4bit(&encode);
    }
}

static void encode_nested(void *user, int64_t index) {
    const quantize_job *job = user;
    const quantize_args *args = job->args;
    const int64_t first = index * TASK_NESTED * QUANT_NESTED_BLOCK;
    const int64_t n = i64_min(TASK_NESTED * QUANT_NESTED_BLOCK, job->count - first);
    quant_encode_absmax(args->absmax + first, n, *args->offset, args->map,
                        args->absmax_codes + first,
                        args->nested_absmax + first / QUANT_NESTED_BLOCK);
}

static void encode_row(void *user, int64_t row) {
    const quantize_job *job = user;
    const quantize_args *args = job->args;
    const int64_t k = args->w->n_cols;
    float *values = cpu_scratch_thread(job->d, job->scratch);
    load_values(job, row * k, k, values);
    const encode_i8_args encode = {.codes = args->codes + row * k, .x = values, .n = k};
    args->absmax[row] = job->k->encode_i8(&encode);
}

/** int8 rows; they fit a thread's scratch, for QUANT_MAX_COLUMNS do. */
static void quantize_rows(device *d, quantize_job *job) {
    job->d = d;
    job->scratch = cpu_scratch_take(d);
    parallel_for(d->n_threads, job->args->w->n_rows, encode_row, job);
    cpu_scratch_give(d, job->scratch);
}

/** Asks for huge pages where codes fill them: read token after token, they are looked up less. */
static void use_huge_pages(uint8_t *codes, size_t n_bytes) {
    const uintptr_t first = ((uintptr_t)codes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    const uintptr_t end = ((uintptr_t)codes + n_bytes) / HUGE_PAGE * HUGE_PAGE;
    if (first < end) madvise((void *)first, end - first, MADV_HUGEPAGE);
}

void cpu_quantize(device *d, const quantize_args *args) {
    quantize_job job = {.k = cpu_kernels(d), .args = args};
    use_huge_pages(args->codes, quant_codes_bytes(args->format, args->w->n_rows, args->w->n_cols));
    if (args->format == QUANT_INT8) {
        quantize_rows(d, &job);
        return;
    }
    job.count = args->w->n_rows * args->w->n_cols;
    parallel_for(d->n_threads, ceil_div(job.count, TASK_ELEMENTS), encode_blocks, &job);
    if (!args->nested_absmax) return;
    job.count = ceil_div(job.count, args->block);
    *args->offset = quant_offset(args->absmax, job.count);
    parallel_for(d->n_threads, ceil_div(job.count, TASK_NESTED * QUANT_NESTED_BLOCK), encode_nested,
                 &job);
}

/* ---------------------------------------------------------------- products */

void cpu_arrange(const kernels *k, float *dst, const float *src, int64_t n) {
    for (int64_t i = 0; i < n; i += 8 * KERNEL_ARRANGED)
        k->arrange_4bit(dst + i, src + i, i64_min(8 * KERNEL_ARRANGED, n - i));
}

void cpu_code_inputs(const kernels *k, int16_t *dst, const float *src, int64_t n) {
    const int64_t padded = round_up(n, KERNEL_ARRANGED);
    float *scales = (float *)(dst + padded), row[KERNEL_ARRANGED];
    _Alignas(64) int16_t coded[KERNEL_ARRANGED + 2]; /* and their scale */
    for (int64_t i = 0; i < n; i += KERNEL_ARRANGED) {
        k->arrange_4bit(row, src + i, i64_min(KERNEL_ARRANGED, n - i));
        k->code_inputs(coded, row, KERNEL_ARRANGED);
        memcpy(dst + i, coded, KERNEL_ARRANGED * sizeof *coded);
        memcpy(scales + i / KERNEL_ARRANGED, coded + KERNEL_ARRANGED, sizeof *scales);
    }
}

static void expand(const kernels *k, const weight *w, int64_t element, int64_t n, float *dst) {
    const expand_4bit_args args = {
        .dst = dst, .q = w->quant, .codes = w->data, .first = w->quant->first + element, .n = n};
    k->expand_4bit(&args);
}

void cpu_pack_4bit(const kernels *k, const weight *w, const cpu_part *part, float *panel,
                   float *rows, bool pairs) {
    float piece[1024];
    uint16_t *halves = (uint16_t *)rows;
    for (int64_t r = 0; r < part->m; r++) {
        const int64_t element = (part->row + r) * w->n_cols + part->column;
        if (!pairs) {
            expand(k, w, element, part->n, rows + r * part->n);
            continue;
        }
        for (int64_t i = 0; i < part->n; i += LLAVA_COUNT(piece)) {
            const int64_t n = i64_min(LLAVA_COUNT(piece), part->n - i);
            expand(k, w, element + i, n, piece);
            k->narrow_bf16(halves + r * part->n + i, piece, n);
        }
    }
    const pack_args pack = {.dst = panel,
                            .src = rows,
                            .row_bytes = part->n * (pairs ? 2 : 4),
                            .n = part->m,
                            .k = part->n,
                            .ld = k->tile_columns};
    if (pairs)
        k->pack_bf16_pairs(&pack);
    else
        k->pack_f32(&pack);
}

void cpu_dot_expanded(const kernels *k, const weight *w, const dot_args *dot, int64_t column,
                      float *room, int64_t n_room) {
    const int64_t at_once = i64_max(1, n_room / i64_max(1, w->n_cols));
    for (int64_t r = 0, n; r < dot->n_w; r += n) {
        n = i64_min(at_once, dot->n_w - r);
        expand(k, w, (column + r) * w->n_cols, n * w->n_cols, room);
        dot_args part = *dot;
        part.dst = dot->dst + r;
        part.w = room;
        part.n_w = n;
        k->dot_f32(&part);
    }
}
