/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantized matrices as bitsandbytes serializes them: codes under the weight's name, scales and
 * tables beside them. Everything stays where the file has it.
 */
#include <math.h>
#include <stdio.h>

#include "checkpoint/quant_state.h"
#include "quant_settings.h"

#define NAME_SIZE 768

/** A quantized weight's own name and the files around it. */
typedef struct quant_source {
    const checkpoint *c;
    const char *name; /* "model.layers.0.mlp.up_proj.weight" */
    llava_error *err;
} quant_source;

static const tensor *beside(const quant_source *s, const char *suffix) {
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "%s%s", s->name, suffix);
    const checkpoint_tensor *t = checkpoint_find(s->c, name);
    return t ? &t->t : NULL;
}

/** The tensor behind a suffix, which must have `count` elements of a type. */
static llava_status need(const quant_source *s, const char *suffix, llava_dtype dtype,
                         int64_t count, const void **data) {
    const tensor *t = beside(s, suffix);
    if (!t)
        return llava_refuse(s->err, LLAVA_MALFORMED, LLAVA_REFUSAL_MISSING,
                            "%s: tensor %s%s is missing; the quantized weight needs it",
                            checkpoint_path(s->c), s->name, suffix);
    if (t->dtype != dtype || tensor_count(t) != count)
        return llava_fail(s->err, LLAVA_MALFORMED,
                          "%s: tensor %s%s: expected %lld values of %s, got %lld of %s",
                          checkpoint_path(s->c), s->name, suffix, (long long)count,
                          dtype_name(dtype), (long long)tensor_count(t), dtype_name(t->dtype));
    *data = t->data;
    return LLAVA_OK;
}

/** A table of finite float32 values, copied. */
static llava_status need_table(const quant_source *s, const char *suffix, float *table,
                               int64_t count) {
    const void *data;
    LLAVA_TRY(need(s, suffix, LLAVA_DTYPE_F32, count, &data));
    memcpy(table, data, (size_t)count * sizeof *table);
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(table[i]))
            return llava_fail(s->err, LLAVA_MALFORMED,
                              "%s: tensor %s%s: entry %lld is not a finite number",
                              checkpoint_path(s->c), s->name, suffix, (long long)i);
    return LLAVA_OK;
}

static llava_status fail_shape(const quant_source *s, const bind_entry *e, int64_t rows,
                               int64_t cols) {
    char expected[32] = "*";
    if (e->shape[0] != BIND_ANY)
        snprintf(expected, sizeof expected, "%lld", (long long)e->shape[0]);
    return llava_fail(s->err, LLAVA_MALFORMED,
                      "%s: tensor %s: expected a matrix of [%s, %lld], got [%lld, %lld]",
                      checkpoint_path(s->c), s->name, expected, (long long)e->shape[1],
                      (long long)rows, (long long)cols);
}

static bool shape_fits(const bind_entry *e, int64_t rows, int64_t cols) {
    return (e->shape[0] == BIND_ANY || rows == e->shape[0]) && cols == e->shape[1];
}

static llava_status check_columns(const quant_source *s, int64_t cols) {
    if (cols <= QUANT_MAX_COLUMNS) return LLAVA_OK;
    return llava_fail(s->err, LLAVA_UNSUPPORTED,
                      "%s: tensor %s: quantized rows of at most %lld values are supported, got "
                      "%lld",
                      checkpoint_path(s->c), s->name, (long long)QUANT_MAX_COLUMNS,
                      (long long)cols);
}

/* ---------------------------------------------------------------- 4 bit */

static llava_status read_scales(const quant_source *s, const quant_state *state, quant *q) {
    const int64_t blocks = ceil_div(state->n_rows * state->n_cols, state->block);
    const void *codes;
    LLAVA_TRY(need_table(s, ".quant_map", q->table, 16));
    if (state->nested_block == 0) return need(s, ".absmax", LLAVA_DTYPE_F32, blocks, &q->absmax);
    LLAVA_TRY(need(s, ".absmax", LLAVA_DTYPE_U8, blocks, &codes));
    LLAVA_TRY(need(s, ".nested_absmax", LLAVA_DTYPE_F32, ceil_div(blocks, state->nested_block),
                   &q->nested_absmax));
    LLAVA_TRY(need_table(s, ".nested_quant_map", q->map, QUANT_MAP_SIZE));
    q->codes = codes;
    return LLAVA_OK;
}

static llava_status read_4bit(const quant_source *s, const tensor *json, bind_entry *e, quant *q) {
    quant_state state;
    char what[NAME_SIZE];
    snprintf(what, sizeof what, "%s: tensor %s.quant_state", checkpoint_path(s->c), s->name);
    LLAVA_TRY(quant_state_parse(json->data, json->n_bytes, what, &state, s->err));
    if (!shape_fits(e, state.n_rows, state.n_cols))
        return fail_shape(s, e, state.n_rows, state.n_cols);
    LLAVA_TRY(check_columns(s, state.n_cols));
    /* whatever type the bytes are stored as */
    const size_t size = quant_codes_bytes(state.format, state.n_rows, state.n_cols);
    const size_t element = dtype_size(e->found->t.dtype), got = e->found->t.n_bytes;
    if (element == 0 || got < size || got - size >= element)
        return llava_fail(s->err, LLAVA_MALFORMED,
                          "%s: tensor %s: expected %zu bytes of codes for [%lld, %lld], got %zu",
                          checkpoint_path(s->c), s->name, size, (long long)state.n_rows,
                          (long long)state.n_cols, got);
    q->format = state.format;
    q->stored = state.stored;
    q->block = state.block;
    q->nested_block = state.nested_block;
    q->offset = state.offset;
    q->first = e->first_row * state.n_cols;
    *e->dst = (weight){.dtype = LLAVA_DTYPE_U8,
                       .n_rows = e->n_rows ? e->n_rows : state.n_rows,
                       .n_cols = state.n_cols,
                       .data = e->found->t.data,
                       .quant = q};
    return read_scales(s, &state, q);
}

/* ---------------------------------------------------------------- int8 */

/** "x.weight" -> "x" + suffix. */
static const checkpoint_tensor *instead(const quant_source *s, const char *suffix) {
    char name[NAME_SIZE];
    const int stem = (int)strlen(s->name) - (int)strlen("weight");
    if (stem < 0 || strcmp(s->name + stem, "weight") != 0) return NULL;
    snprintf(name, sizeof name, "%.*s%s", stem, s->name, suffix);
    return checkpoint_find(s->c, name);
}

static llava_status read_int8(const quant_source *s, bind_entry *e, quant *q) {
    const tensor *t = &e->found->t;
    if (t->n_dims != 2 || !shape_fits(e, t->shape[0], t->shape[1]))
        return fail_shape(s, e, t->n_dims > 0 ? t->shape[0] : 0, t->n_dims > 1 ? t->shape[1] : 0);
    LLAVA_TRY(check_columns(s, t->shape[1]));
    const checkpoint_tensor *scb = instead(s, "SCB"), *layout = instead(s, "weight_format");
    if (!scb)
        return llava_refuse(s->err, LLAVA_MALFORMED, LLAVA_REFUSAL_MISSING,
                            "%s: tensor %s is int8 and has no SCB beside it", checkpoint_path(s->c),
                            s->name);
    if (scb->t.dtype != LLAVA_DTYPE_F32 || tensor_count(&scb->t) != t->shape[0])
        return llava_fail(s->err, LLAVA_MALFORMED,
                          "%s: tensor %s: expected %lld values of float32, got %lld of %s",
                          checkpoint_path(s->c), scb->name, (long long)t->shape[0],
                          (long long)tensor_count(&scb->t), dtype_name(scb->t.dtype));
    if (layout && (layout->t.n_bytes != 1 || *(const uint8_t *)layout->t.data != 0))
        return llava_fail(s->err, LLAVA_UNSUPPORTED,
                          "%s: tensor %s: expected 0, rows as they are; save the model before its "
                          "first run",
                          checkpoint_path(s->c), layout->name);
    q->format = QUANT_INT8;
    q->stored = LLAVA_DTYPE_F16;
    q->scb = (const uint8_t *)scb->t.data + 4 * e->first_row;
    *e->dst = (weight){.dtype = LLAVA_DTYPE_I8,
                       .n_rows = e->n_rows ? e->n_rows : t->shape[0],
                       .n_cols = t->shape[1],
                       .data = (const int8_t *)t->data + e->first_row * t->shape[1],
                       .quant = q};
    return LLAVA_OK;
}

llava_status bind_quantized(const binder *b, bind_entry *e, bool *taken, llava_error *err) {
    const quant_source source = {.c = b->source[e->group], .name = e->found->name, .err = err};
    *taken = false;
    if (checkpoint_find(source.c, source.name) != e->found) return LLAVA_OK; /* an adapter's */
    const tensor *nf4 = beside(&source, ".quant_state.bitsandbytes__nf4");
    const tensor *fp4 = beside(&source, ".quant_state.bitsandbytes__fp4");
    if (nf4 && fp4)
        return llava_fail(err, LLAVA_MALFORMED, "%s: tensor %s has two states, nf4 and fp4",
                          checkpoint_path(source.c), source.name);
    if (!nf4 && !fp4 && e->found->t.dtype != LLAVA_DTYPE_I8) return LLAVA_OK;
    quant *q = arena_array(b->memory, 1, sizeof *q);
    if (!q) return llava_fail_memory(err, sizeof *q, e->suffix);
    *taken = true;
    q->threshold = b->int8_threshold;
    if (nf4 || fp4) return read_4bit(&source, nf4 ? nf4 : fp4, e, q);
    return read_int8(&source, e, q);
}
