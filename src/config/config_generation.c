/* SPDX-License-Identifier: Apache-2.0
 *
 * generation_config.json, or the defaults that transformers 4.40 derives from config.json.
 */
#include <stdio.h>

#include "config_read.h"

static llava_status read_f32(const reader *r, const char *key, double fallback, float *value) {
    double wide = fallback;
    if (json_get(r->object, key)) LLAVA_TRY(read_float(r, key, fallback, -1e6, 1e6, &wide));
    *value = (float)wide;
    return LLAVA_OK;
}

static llava_status add_eos(generation_config *g, const reader *r, const json_t *id) {
    if (!json_is_integer(id) || json_integer_value(id) < -1 ||
        json_integer_value(id) > CONFIG_MAX_VOCAB)
        return llava_fail(r->err, LLAVA_MALFORMED,
                          "%s: \"eos_token_id\": expected token ids, got %s", r->what,
                          json_is_integer(id) ? "a number out of range" : json_kind(id));
    if (json_integer_value(id) < 0) return LLAVA_OK; /* -1 means none */
    if (g->n_eos == CONFIG_MAX_EOS)
        return llava_fail(r->err, LLAVA_UNSUPPORTED,
                          "%s: \"eos_token_id\": expected at most %d ids", r->what, CONFIG_MAX_EOS);
    g->eos[g->n_eos++] = (int32_t)json_integer_value(id);
    return LLAVA_OK;
}

/** An id or a list of ids; an absent key gives the fallback, null gives none. */
static llava_status read_eos(generation_config *g, const reader *r, int64_t fallback) {
    const json_t *value = json_object_get(r->object, "eos_token_id");
    g->n_eos = 0;
    if (json_is_array(value)) {
        for (size_t i = 0; i < json_array_size(value); i++)
            LLAVA_TRY(add_eos(g, r, json_array_get(value, i)));
        return LLAVA_OK;
    }
    if (json_is_null(value)) return LLAVA_OK;
    if (value) return add_eos(g, r, value);
    if (fallback >= 0) g->eos[g->n_eos++] = (int32_t)fallback;
    return LLAVA_OK;
}

static llava_status read_id(const reader *r, const char *key, int64_t fallback, int32_t *id) {
    int64_t value = -1;
    const json_t *member = json_object_get(r->object, key);
    if (!member) value = fallback;
    if (member && !json_is_null(member))
        LLAVA_TRY(read_int(r, key, -1, -1, CONFIG_MAX_VOCAB, &value));
    *id = (int32_t)value;
    return LLAVA_OK;
}

static llava_status read_early_stopping(const reader *r, int *value) {
    const json_t *member = json_get(r->object, "early_stopping");
    const char *text = json_string_value(member);
    *value = text && strcmp(text, "never") == 0 ? 2 : json_is_true(member) ? 1 : 0;
    if (!member || json_is_boolean(member) || *value) return LLAVA_OK;
    return llava_fail(r->err, LLAVA_MALFORMED,
                      "%s: \"early_stopping\": expected a boolean or \"never\", got %s", r->what,
                      json_kind(member));
}

static llava_status read_generation(generation_config *g, const reader *r, const family *f) {
    LLAVA_TRY(read_flag(r, "do_sample", false, &g->do_sample));
    LLAVA_TRY(read_f32(r, "temperature", 1, &g->temperature));
    LLAVA_TRY(read_f32(r, "top_p", 1, &g->top_p));
    LLAVA_TRY(read_f32(r, "repetition_penalty", 1, &g->repetition_penalty));
    LLAVA_TRY(read_f32(r, "length_penalty", 1, &g->length_penalty));
    if (g->temperature < 0 || g->top_p < 0 || !(g->repetition_penalty > 0))
        return llava_fail(r->err, LLAVA_MALFORMED,
                          "%s: expected temperature and top_p from 0 on and a repetition_penalty "
                          "above 0, got %g, %g and %g",
                          r->what, (double)g->temperature, (double)g->top_p,
                          (double)g->repetition_penalty);
    const int64_t max = CONFIG_MAX_TOKENS;
    LLAVA_TRY(read_int_or_null(r, "top_k", 50, 0, max, &g->top_k));
    LLAVA_TRY(read_int_or_null(r, "num_beams", 1, 1, 1024, &g->num_beams));
    LLAVA_TRY(read_int_or_null(r, "max_length", 20, 0, max, &g->max_length));
    LLAVA_TRY(read_int_or_null(r, "max_new_tokens", 0, 0, max, &g->max_new_tokens));
    LLAVA_TRY(read_int_or_null(r, "min_new_tokens", 0, 0, max, &g->min_new_tokens));
    LLAVA_TRY(read_int_or_null(r, "no_repeat_ngram_size", 0, 0, max, &g->no_repeat_ngram_size));
    LLAVA_TRY(read_early_stopping(r, &g->early_stopping));
    LLAVA_TRY(read_eos(g, r, f ? f->eos : -1));
    LLAVA_TRY(read_id(r, "bos_token_id", f ? f->bos : -1, &g->bos));
    return read_id(r, "pad_token_id", f ? f->pad : -1, &g->pad);
}

llava_status config_parse_generation(llava_config *config, const reader *r, const char *directory) {
    generation_config *g = &config->generation;
    LLAVA_TRY(read_generation(g, r, config->lm.family));
    const char *path =
        directory ? path_join(config->memory, directory, "generation_config.json") : NULL;
    if (!path || !path_is_file(path))
        return config_note(config, "generation defaults", "config.json",
                           "there is no generation_config.json", r->err);
    const generation_config derived = *g;
    json_t *root;
    LLAVA_TRY(config_read_json(path, &root, r->err));
    const reader file = {root, path, r->err};
    *g = (generation_config){0};
    llava_status status = read_generation(g, &file, NULL);
    const bool says_eos = json_object_get(root, "eos_token_id") != NULL;
    json_decref(root);
    LLAVA_TRY(status);
    g->from_file = true;
    LLAVA_TRY(config_note(config, "generation defaults", path, "the file is there", r->err));
    if (says_eos || derived.n_eos == 0) return LLAVA_OK;
    memcpy(g->eos, derived.eos, sizeof g->eos);
    g->n_eos = derived.n_eos;
    return config_note(config, "end ids", "config.json",
                       "generation_config.json has no eos_token_id", r->err);
}
