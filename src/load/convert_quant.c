/* SPDX-License-Identifier: Apache-2.0
 *
 * Source: bitsandbytes 0.43 functional.py QuantState.as_dict and nn/modules.py
 * Linear8bitLt._save_to_state_dict.
 */
#include <stdlib.h>

#include "checkpoint/quant_state.h"
#include "convert_quant.h"

/** The state's JSON is written with spaces behind it: its length is announced before the offset in
 *  it is known, and the tensors behind it keep their alignment. */
#define STATE_BYTES 256

bool quant_output_of(const load_plan *plan, size_t first, size_t n_entries, quant_output *out) {
    const quant_settings *s = &plan->quantize;
    const bind_entry *e = &plan->bind.entries[first];
    const quant *q = e->dst->quant;
    if (!q && !quant_applies(s, &plan->bind, e)) return false;
    *out = (quant_output){.format = q ? q->format : s->format,
                          .n_cols = e->dst->n_cols,
                          .block = q ? q->block : s->block,
                          .nested_block = q && q->absmax ? 0
                                          : q            ? q->nested_block
                                          : s->nested    ? QUANT_NESTED_BLOCK
                                                         : 0};
    for (size_t i = 0; i < n_entries; i++) out->n_rows += e[i].dst->n_rows;
    return true;
}

static int64_t count_blocks(const quant_output *out) {
    return ceil_div(out->n_rows * out->n_cols, out->block);
}

static tensor planned(llava_dtype dtype, int n_dims, int64_t rows, int64_t cols) {
    return (tensor){.dtype = dtype, .n_dims = n_dims, .shape = {rows, cols}};
}

static size_t plan_int8(arena *memory, const quant_output *out, const char *name,
                        planned_tensor *tensors) {
    const int stem = (int)(strlen(name) - strlen("weight"));
    tensors[0].t = planned(LLAVA_DTYPE_I8, 2, out->n_rows, out->n_cols);
    tensors[1].name = arena_printf(memory, "%.*sSCB", stem, name);
    tensors[1].t = planned(LLAVA_DTYPE_F32, 1, out->n_rows, 0);
    tensors[2].name = arena_printf(memory, "%.*sweight_format", stem, name);
    tensors[2].t = planned(LLAVA_DTYPE_U8, 0, 0, 0);
    return 3;
}

static size_t plan_4bit(arena *memory, const quant_output *out, const char *name,
                        planned_tensor *tensors) {
    const int64_t blocks = count_blocks(out);
    const bool nested = out->nested_block != 0;
    size_t n = 1;
    tensors[0].t = planned(LLAVA_DTYPE_U8, 2, ceil_div(out->n_rows * out->n_cols, 2), 1);
    tensors[n].name = arena_printf(memory, "%s.absmax", name);
    tensors[n++].t = planned(nested ? LLAVA_DTYPE_U8 : LLAVA_DTYPE_F32, 1, blocks, 0);
    tensors[n].name = arena_printf(memory, "%s.quant_map", name);
    tensors[n++].t = planned(LLAVA_DTYPE_F32, 1, 16, 0);
    tensors[n].name = arena_printf(memory, "%s.quant_state.bitsandbytes__%s", name,
                                   quant_format_name(out->format));
    tensors[n++].t = planned(LLAVA_DTYPE_U8, 1, STATE_BYTES, 0);
    if (!nested) return n;
    tensors[n].name = arena_printf(memory, "%s.nested_absmax", name);
    tensors[n++].t = planned(LLAVA_DTYPE_F32, 1, ceil_div(blocks, out->nested_block), 0);
    tensors[n].name = arena_printf(memory, "%s.nested_quant_map", name);
    tensors[n++].t = planned(LLAVA_DTYPE_F32, 1, QUANT_MAP_SIZE, 0);
    return n;
}

size_t quant_output_plan(arena *memory, const quant_output *out, const char *name,
                         planned_tensor tensors[QUANT_TENSORS]) {
    tensors[0].name = name;
    const size_t n = out->format == QUANT_INT8 ? plan_int8(memory, out, name, tensors)
                                               : plan_4bit(memory, out, name, tensors);
    for (size_t i = 0; i < n; i++)
        if (!tensors[i].name) return 0;
    return n;
}

/* ---------------------------------------------------------------- data */

static llava_status write_tensor(safetensors_writer *w, size_t index, const void *data,
                                 int64_t count, size_t element, llava_error *err) {
    LLAVA_TRY(safetensors_begin(w, index, err));
    return safetensors_append(w, data, (size_t)count * element, err);
}

static llava_status write_state(safetensors_writer *w, size_t index, const quant_output *out,
                                const quant *q, llava_error *err) {
    const quant_state state = {.format = out->format,
                               .block = out->block,
                               .n_rows = out->n_rows,
                               .n_cols = out->n_cols,
                               .stored = q->stored,
                               .nested_block = out->nested_block,
                               .offset = q->offset};
    char padded[STATE_BYTES];
    char *text = quant_state_text(&state);
    const size_t size = text ? strlen(text) : 0;
    if (size == 0 || size > sizeof padded) {
        free(text);
        return llava_fail_memory(err, sizeof padded, "a quantized weight's state");
    }
    memset(padded, ' ', sizeof padded);
    memcpy(padded, text, size);
    free(text);
    return write_tensor(w, index, padded, STATE_BYTES, 1, err);
}

static llava_status write_int8(safetensors_writer *w, size_t index, const quant_output *out,
                               const weight *codes, llava_error *err) {
    const uint8_t row_format = 0; /* rows as they are */
    LLAVA_TRY(write_tensor(w, index, codes->data, out->n_rows * out->n_cols, 1, err));
    LLAVA_TRY(write_tensor(w, index + 1, codes->quant->scb, out->n_rows, 4, err));
    return write_tensor(w, index + 2, &row_format, 1, 1, err);
}

llava_status quant_output_write(safetensors_writer *w, size_t index, const quant_output *out,
                                const weight *codes, llava_error *err) {
    const quant *q = codes->quant;
    if (out->format == QUANT_INT8) return write_int8(w, index, out, codes, err);
    const int64_t blocks = count_blocks(out);
    const bool nested = out->nested_block != 0;
    LLAVA_TRY(
        write_tensor(w, index++, codes->data, ceil_div(out->n_rows * out->n_cols, 2), 1, err));
    LLAVA_TRY(write_tensor(w, index++, nested ? q->codes : q->absmax, blocks, nested ? 1 : 4, err));
    LLAVA_TRY(write_tensor(w, index++, q->table, 16, 4, err));
    LLAVA_TRY(write_state(w, index++, out, q, err));
    if (!nested) return LLAVA_OK;
    LLAVA_TRY(
        write_tensor(w, index++, q->nested_absmax, ceil_div(blocks, out->nested_block), 4, err));
    return write_tensor(w, index, q->map, QUANT_MAP_SIZE, 4, err);
}

/* ---------------------------------------------------------------- config.json */

/** Modules that stay plain: those the settings skip, and linear layers that are not converted for
 *  another reason (a tower that had a directory of its own), by their paths. */
static json_t *skipped_modules(const load_plan *plan) {
    const binder *b = &plan->bind;
    const json_t *given = plan->quantize.skip;
    json_t *names = given ? json_deep_copy(given) : json_array();
    bool more = given != NULL;
    if (names && !given) json_array_append_new(names, json_string("lm_head"));
    for (size_t i = 0; names && i < b->count; i++) {
        const bind_entry *e = &b->entries[i];
        char path[QUANT_PATH_SIZE];
        if (!e->found || !e->linear || e->dst->quant || quant_applies(&plan->quantize, b, e) ||
            !quant_module_path(b, e, path) || quant_is_skipped(&plan->quantize, path))
            continue;
        more = true;
        json_array_append_new(names, json_string(path));
    }
    if (more) return names;
    json_decref(names);
    return json_null(); /* the default */
}

json_t *quant_output_config(const load_plan *plan) {
    const quant_settings *s = &plan->quantize;
    const bool int8 = s->format == QUANT_INT8;
    return json_pack("{s:s, s:b, s:b, s:f, s:o, s:b, s:b, s:s, s:s, s:b, s:s}", "quant_method",
                     "bitsandbytes", "load_in_8bit", int8, "load_in_4bit", !int8,
                     "llm_int8_threshold", (double)s->threshold, "llm_int8_skip_modules",
                     skipped_modules(plan), "llm_int8_enable_fp32_cpu_offload", false,
                     "llm_int8_has_fp16_weight", false, "bnb_4bit_quant_type",
                     int8 ? "fp4" : quant_format_name(s->format), "bnb_4bit_compute_dtype",
                     int8 ? "float32" : dtype_name(s->compute), "bnb_4bit_use_double_quant",
                     !int8 && s->nested, "bnb_4bit_quant_storage", "uint8");
}
