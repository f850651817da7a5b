/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantizing while loading: one matrix at a time, from any type, an adapter's change merged first.
 */
#include <math.h>
#include <stdlib.h>

#include "load_plan.h"

/** A matrix on its way: its entries - one, or MPT's three ranges of rows - and what it becomes. */
typedef struct quant_work {
    llava_model *model;
    const binder *b;
    const quant_settings *settings;
    size_t first, n_entries;
    weight source;
    float *merged; /* or NULL */
    uint8_t *memory, *codes, *absmax_codes;
    size_t n_bytes;
    float *absmax, *nested; /* absmax: the matrix's own, or temporary when nested */
    quant q;
    llava_error *err;
} quant_work;

static bool is_temporary(const quant_work *work) {
    return work->settings->format != QUANT_INT8 && work->settings->nested;
}

/** One piece of memory for codes and scales, each on a cache line. */
static llava_status allocate(quant_work *work) {
    const weight *w = &work->source;
    const quant_settings *s = work->settings;
    const bool int8 = s->format == QUANT_INT8;
    const size_t codes =
        (size_t)round_up((int64_t)quant_codes_bytes(s->format, w->n_rows, w->n_cols), 64);
    const int64_t blocks = int8 ? w->n_rows : ceil_div(w->n_rows * w->n_cols, s->block);
    const size_t whole = (size_t)round_up(blocks * 4, 64);
    const size_t one_byte = (size_t)round_up(blocks, 64);
    const size_t nested = (size_t)round_up(ceil_div(blocks, QUANT_NESTED_BLOCK) * 4, 64);
    work->n_bytes = codes + (is_temporary(work) ? one_byte + nested : whole);
    work->memory = work->model->dev->ops->alloc(work->model->dev, work->n_bytes);
    if (!work->memory)
        return llava_fail_memory(work->err, work->n_bytes, work->b->entries[work->first].suffix);
    memset(work->memory + codes - 64, 0, 64); /* the ends of the pieces */
    memset(work->memory + work->n_bytes - 64, 0, 64);
    work->codes = work->memory;
    if (!is_temporary(work)) {
        work->absmax = (float *)(work->memory + codes);
        return LLAVA_OK;
    }
    work->absmax_codes = work->memory + codes;
    work->nested = (float *)(work->absmax_codes + one_byte);
    work->absmax = aligned_new(whole);
    return work->absmax ? LLAVA_OK : llava_fail_memory(work->err, whole, "scales");
}

/** The matrix with its changes, float32. */
static llava_status merge(quant_work *work) {
    const bind_entry *e = &work->b->entries[work->first];
    const weight *w = &work->source;
    bool changed = false;
    for (size_t i = 0; i < work->n_entries; i++) changed |= e[i].lora != NULL;
    if (!changed) return LLAVA_OK;
    const size_t n_bytes = (size_t)w->n_rows * (size_t)w->n_cols * sizeof(float);
    work->merged = aligned_new(n_bytes);
    if (!work->merged) return llava_fail_memory(work->err, n_bytes, e->suffix);
    for (size_t i = 0; i < work->n_entries; i++)
        LLAVA_TRY(
            merge_lora(work->model, &e[i], work->merged + e[i].first_row * w->n_cols, work->err));
    work->source.dtype = LLAVA_DTYPE_F32;
    work->source.data = work->merged;
    return LLAVA_OK;
}

static bool scales_are_finite(const quant_work *work) {
    const weight *w = &work->source;
    const int64_t n = work->settings->format == QUANT_INT8
                          ? w->n_rows
                          : ceil_div(w->n_rows * w->n_cols, work->settings->block);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(work->absmax[i])) return false;
    return true;
}

/** Values go through torch_dtype and float16, as in the reference; a matrix with values beyond
 *  float16 is quantized from what is stored. */
static void encode(quant_work *work) {
    quantize_args args = {.w = &work->source,
                          .bfloat16_first = work->model->compute == LLAVA_DTYPE_BF16,
                          .halves = true,
                          .format = work->settings->format,
                          .block = work->settings->block,
                          .codes = work->codes,
                          .absmax = work->absmax,
                          .map = work->q.map,
                          .absmax_codes = work->absmax_codes,
                          .nested_absmax = work->nested,
                          .offset = &work->q.offset};
    device *dev = work->model->dev;
    dev->ops->quantize(dev, &args);
    if (scales_are_finite(work)) return;
    args.halves = false;
    dev->ops->quantize(dev, &args);
}

static llava_status publish(quant_work *work) {
    const quant_settings *s = work->settings;
    quant *shared = &work->q;
    shared->format = s->format;
    shared->stored = s->compute;
    shared->block = s->block;
    shared->nested_block = QUANT_NESTED_BLOCK;
    shared->threshold = s->threshold;
    if (s->format != QUANT_INT8)
        memcpy(shared->table, quant_table(s->format), sizeof shared->table);
    shared->absmax = is_temporary(work) ? NULL : work->absmax;
    shared->codes = work->absmax_codes;
    shared->nested_absmax = work->nested;
    for (size_t i = 0; i < work->n_entries; i++) {
        const bind_entry *e = &work->b->entries[work->first + i];
        const bool int8 = s->format == QUANT_INT8;
        quant *q = arena_array(work->model->memory, 1, sizeof *q);
        if (!q) return llava_fail_memory(work->err, sizeof *q, e->suffix);
        *q = *shared;
        q->first = e->first_row * work->source.n_cols;
        q->scb = int8 ? work->absmax + e->first_row : NULL;
        e->dst->dtype = int8 ? LLAVA_DTYPE_I8 : LLAVA_DTYPE_U8;
        e->dst->data = int8 ? work->codes + q->first : work->codes;
        e->dst->quant = q;
    }
    return LLAVA_OK;
}

static llava_status run(quant_work *work) {
    LLAVA_TRY(merge(work));
    LLAVA_TRY(allocate(work));
    quant_dynamic_map(work->q.map);
    encode(work);
    return publish(work);
}

size_t quantize_entries(const binder *b, size_t first) {
    const bind_entry *e = &b->entries[first];
    size_t n = 1;
    if (e->n_rows == 0) return n;
    while (first + n < b->count && b->entries[first + n].found == e->found) n++;
    return n;
}

llava_status quantize_weight(llava_model *model, const binder *b, const quant_settings *settings,
                             size_t first, void **memory, size_t *n_bytes, llava_error *err) {
    const bind_entry *e = &b->entries[first];
    quant_work work = {.model = model,
                       .b = b,
                       .settings = settings,
                       .first = first,
                       .n_entries = quantize_entries(b, first),
                       .err = err};
    work.source = *e->dst;
    if (e->n_rows) {
        work.source.n_rows = e->found->t.shape[0];
        work.source.data = e->found->t.data;
    }
    const void *stored = work.source.data;
    const size_t stored_bytes = weight_bytes(&work.source);
    const llava_status status = run(&work);
    if (status != LLAVA_OK) model->dev->ops->release(model->dev, work.memory);
    *memory = status == LLAVA_OK ? work.memory : NULL;
    *n_bytes = work.n_bytes;
    free(work.merged);
    if (is_temporary(&work)) free(work.absmax);
    forget_stored(model, stored, stored_bytes);
    return status;
}
