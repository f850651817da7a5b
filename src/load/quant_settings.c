/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading BitsAndBytesConfig, and the rule which modules are converted. Source: transformers 4.40
 * utils/quantization_config.py and integrations/bitsandbytes.py.
 */
#include <stdio.h>

#include "quant_settings.h"

static const char what[] = "quantization_config";

static llava_status read_method(const json_t *object, llava_error *err) {
    const char *method;
    LLAVA_TRY(json_get_string(object, what, "quant_method", "bitsandbytes", &method, err));
    if (strcmp(method, "bitsandbytes") == 0) return LLAVA_OK;
    return llava_fail(err, LLAVA_UNSUPPORTED,
                      "%s: \"quant_method\": expected bitsandbytes, got \"%.40s\"", what, method);
}

static llava_status read_skip(const json_t *object, quant_settings *settings, llava_error *err) {
    const json_t *skip = json_get(object, "llm_int8_skip_modules"), *name;
    size_t i;
    if (skip && !json_is_array(skip))
        return llava_fail(err, LLAVA_MALFORMED,
                          "%s: \"llm_int8_skip_modules\": expected an array, got %s", what,
                          json_kind(skip));
    json_array_foreach(skip, i, name) {
        if (!json_is_string(name))
            return llava_fail(err, LLAVA_MALFORMED,
                              "%s: \"llm_int8_skip_modules\": expected names, got %s", what,
                              json_kind(name));
    }
    settings->skip = skip;
    return LLAVA_OK;
}

/** Fields common to both; absent ones keep what settings has. */
static llava_status read_fields(const json_t *object, quant_settings *settings, llava_error *err) {
    const char *type;
    double threshold;
    if (!json_is_object(object))
        return llava_fail(err, LLAVA_MALFORMED, "%s: expected an object, got %s", what,
                          json_kind(object));
    LLAVA_TRY(read_method(object, err));
    LLAVA_TRY(read_skip(object, settings, err));
    LLAVA_TRY(json_get_bool(object, what, "bnb_4bit_use_double_quant", settings->nested,
                            &settings->nested, err));
    LLAVA_TRY(json_get_f64(object, what, "llm_int8_threshold", (double)settings->threshold,
                           &threshold, err));
    settings->threshold = (float)threshold;
    LLAVA_TRY(
        json_get_i64(object, what, "bnb_4bit_blocksize", settings->block, &settings->block, err));
    if (settings->block < QUANT_MIN_BLOCK || settings->block > QUANT_MAX_BLOCK ||
        (settings->block & (settings->block - 1)))
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "%s: \"bnb_4bit_blocksize\": expected a power of two from %d to %d, got "
                          "%lld",
                          what, QUANT_MIN_BLOCK, QUANT_MAX_BLOCK, (long long)settings->block);
    if (settings->format == QUANT_INT8) return LLAVA_OK;
    LLAVA_TRY(json_get_string(object, what, "bnb_4bit_quant_type",
                              quant_format_name(settings->format), &type, err));
    settings->format = strcmp(type, "fp4") == 0 ? QUANT_FP4 : QUANT_NF4;
    if (strcmp(type, "fp4") == 0 || strcmp(type, "nf4") == 0) return LLAVA_OK;
    return llava_fail(err, LLAVA_BAD_ARGUMENT,
                      "%s: \"bnb_4bit_quant_type\": expected nf4 or fp4, got \"%.40s\"", what,
                      type);
}

static llava_status read_stored(const json_t *object, quant_settings *settings, llava_error *err) {
    bool four = false, eight = false;
    if (!json_is_object(object))
        return llava_fail(err, LLAVA_MALFORMED, "%s: expected an object, got %s", what,
                          json_kind(object));
    LLAVA_TRY(read_method(object, err));
    LLAVA_TRY(json_get_bool(object, what, "load_in_4bit", false, &four, err));
    LLAVA_TRY(json_get_bool(object, what, "load_in_8bit", false, &eight, err));
    if (four == eight)
        return llava_fail(err, LLAVA_MALFORMED,
                          "%s: expected one of load_in_4bit and load_in_8bit, got %s", what,
                          four ? "both" : "neither");
    settings->stored = true;
    settings->wanted = false; /* the file's codes stand, as in the reference */
    settings->format = four ? QUANT_NF4 : QUANT_INT8;
    return read_fields(object, settings, err);
}

llava_status quant_settings_read(const llava_load_options *options, const json_t *stored,
                                 quant_settings *settings, llava_error *err) {
    *settings = (quant_settings){.wanted = options->load_4bit || options->load_8bit,
                                 .format = options->load_8bit ? QUANT_INT8 : QUANT_NF4,
                                 .block = QUANT_MIN_BLOCK,
                                 .nested = true,
                                 .threshold = QUANT_THRESHOLD,
                                 .compute = options->torch_dtype == LLAVA_DTYPE_DEFAULT
                                                ? LLAVA_DTYPE_F16
                                                : options->torch_dtype};
    const char *text = options->quantization_config;
    if (stored) return read_stored(stored, settings, err);
    if (!text || !text[0]) return LLAVA_OK;
    if (!settings->wanted)
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "%s: it needs load_4bit or load_8bit and says how they are done", what);
    json_t *root;
    LLAVA_TRY(json_read_text(text, strlen(text), what, &root, err));
    settings->owned = root;
    return read_fields(root, settings, err);
}

void quant_settings_free(quant_settings *settings) {
    json_decref(settings->owned);
    *settings = (quant_settings){0};
}

/* ---------------------------------------------------------------- which modules */

/** Its last component, all of it, or a folder inside it is the entry. */
static bool matches(const char *path, const char *entry) {
    const char *dot = strrchr(path, '.');
    const size_t size = strlen(entry);
    if (strcmp(dot ? dot + 1 : path, entry) == 0 || strcmp(path, entry) == 0) return true;
    for (const char *at = strstr(path, entry); at && size; at = strstr(at + 1, entry))
        if (at[size] == '.') return true;
    return false;
}

bool quant_is_skipped(const quant_settings *settings, const char *path) {
    size_t i;
    const json_t *name;
    if (!settings->skip) return matches(path, "lm_head");
    json_array_foreach(settings->skip, i, name) {
        if (matches(path, json_string_value(name))) return true;
    }
    return false;
}

bool quant_module_path(const binder *b, const bind_entry *e, char path[QUANT_PATH_SIZE]) {
    static const char suffix[] = ".weight";
    const int size = snprintf(path, QUANT_PATH_SIZE, "%s%s", b->canonical[e->group], e->suffix);
    const int stem = size - (int)strlen(suffix);
    if (stem <= 0 || size >= QUANT_PATH_SIZE || strcmp(path + stem, suffix) != 0) return false;
    path[stem] = '\0';
    return true;
}

bool quant_applies(const quant_settings *settings, const binder *b, const bind_entry *e) {
    if (!settings->wanted || !e->linear || e->dst->quant) return false;
    /* a tower from a directory of its own is no part of the converted model */
    if (b->source[e->group] != b->source[BIND_DECODER]) return false;
    char path[QUANT_PATH_SIZE];
    if (!quant_module_path(b, e, path)) return false;
    return e->dst->n_cols <= QUANT_MAX_COLUMNS && !quant_is_skipped(settings, path);
}

uint64_t quant_bytes(const quant_settings *settings, const bind_entry *e) {
    const weight *w = e->dst;
    const quant q = {.format = settings->format,
                     .block = settings->block,
                     .nested_block = QUANT_NESTED_BLOCK,
                     .absmax = settings->nested ? NULL : settings};
    return quant_codes_bytes(q.format, w->n_rows, w->n_cols) +
           quant_scales_bytes(&q, w->n_rows, w->n_cols);
}
