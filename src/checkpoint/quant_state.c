/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "quant_state.h"

static llava_status check_block(const char *what, const char *key, int64_t block,
                                llava_error *err) {
    const bool power = block > 0 && (block & (block - 1)) == 0;
    if (power && block >= QUANT_MIN_BLOCK && block <= QUANT_MAX_BLOCK) return LLAVA_OK;
    return llava_fail(err, power ? LLAVA_UNSUPPORTED : LLAVA_MALFORMED,
                      "%s: \"%s\": expected a power of two from %d to %d, got %lld", what, key,
                      QUANT_MIN_BLOCK, QUANT_MAX_BLOCK, (long long)block);
}

static llava_status read_shape(const json_t *root, const char *what, quant_state *state,
                               llava_error *err) {
    const json_t *shape = json_get(root, "shape");
    const json_t *rows = json_array_get(shape, 0), *cols = json_array_get(shape, 1);
    int64_t count;
    state->n_rows = json_integer_value(rows);
    state->n_cols = json_integer_value(cols);
    if (json_array_size(shape) == 2 && json_is_integer(rows) && json_is_integer(cols) &&
        state->n_rows > 0 && state->n_cols > 0 &&
        !__builtin_mul_overflow(state->n_rows, state->n_cols, &count) && count < INT64_MAX / 8)
        return LLAVA_OK;
    return llava_fail(err, LLAVA_MALFORMED, "%s: \"shape\": expected two sizes of a matrix", what);
}

static llava_status read_types(const json_t *root, const char *what, quant_state *state,
                               llava_error *err) {
    const char *type, *dtype;
    LLAVA_TRY(json_get_string(root, what, "quant_type", "", &type, err));
    LLAVA_TRY(json_get_string(root, what, "dtype", "float16", &dtype, err));
    state->format = strcmp(type, "fp4") == 0 ? QUANT_FP4 : QUANT_NF4;
    if (strcmp(type, "fp4") != 0 && strcmp(type, "nf4") != 0)
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "%s: \"quant_type\": expected nf4 or fp4, got \"%.40s\"", what, type);
    if (dtype_parse(dtype, &state->stored) && dtype_is_float(state->stored)) return LLAVA_OK;
    return llava_fail(err, LLAVA_MALFORMED, "%s: \"dtype\": expected a float type, got \"%.40s\"",
                      what, dtype);
}

static llava_status read_state(const json_t *root, const char *what, quant_state *state,
                               llava_error *err) {
    double offset;
    if (!json_is_object(root))
        return llava_fail(err, LLAVA_MALFORMED, "%s: expected an object, got %s", what,
                          json_kind(root));
    LLAVA_TRY(read_types(root, what, state, err));
    LLAVA_TRY(read_shape(root, what, state, err));
    LLAVA_TRY(json_get_i64(root, what, "blocksize", 0, &state->block, err));
    LLAVA_TRY(check_block(what, "blocksize", state->block, err));
    LLAVA_TRY(json_get_i64(root, what, "nested_blocksize", 0, &state->nested_block, err));
    if (state->nested_block)
        LLAVA_TRY(check_block(what, "nested_blocksize", state->nested_block, err));
    LLAVA_TRY(json_get_f64(root, what, "nested_offset", 0, &offset, err));
    state->offset = (float)offset;
    if (isfinite(state->offset)) return LLAVA_OK;
    return llava_fail(err, LLAVA_MALFORMED, "%s: \"nested_offset\": expected a float32 value",
                      what);
}

llava_status quant_state_parse(const char *text, size_t size, const char *what, quant_state *state,
                               llava_error *err) {
    *state = (quant_state){0};
    if (size > QUANT_STATE_MAX)
        return llava_refuse(err, LLAVA_MALFORMED, LLAVA_REFUSAL_LIMIT,
                            "%s: expected at most %d bytes, got %zu", what, QUANT_STATE_MAX, size);
    json_t *root = NULL;
    LLAVA_TRY(json_read_text(text, size, what, &root, err));
    const llava_status status = read_state(root, what, state, err);
    json_decref(root);
    return status;
}

char *quant_state_text(const quant_state *state) {
    json_t *root =
        json_pack("{s:s, s:I, s:s, s:[I, I]}", "quant_type", quant_format_name(state->format),
                  "blocksize", (json_int_t)state->block, "dtype", dtype_name(state->stored),
                  "shape", (json_int_t)state->n_rows, (json_int_t)state->n_cols);
    if (root && state->nested_block) {
        json_t *nested =
            json_pack("{s:I, s:s, s:f}", "nested_blocksize", (json_int_t)state->nested_block,
                      "nested_dtype", "float32", "nested_offset", (double)state->offset);
        const bool ok = nested && json_object_update(root, nested) == 0;
        json_decref(nested);
        if (!ok) {
            json_decref(root);
            return NULL;
        }
    }
    char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    return text;
}
