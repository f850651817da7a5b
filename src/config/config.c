/* SPDX-License-Identifier: Apache-2.0
 *
 * config.json -> llava_config: read, overwrite, resolve, parse; and the list of decisions.
 */
#include <stdio.h>
#include <stdlib.h>

#include "config_read.h"

llava_status config_note(llava_config *config, const char *what, const char *value,
                         const char *reason, llava_error *err) {
    decision_list *list = &config->decisions;
    if (list->count == list->capacity) {
        const size_t capacity = list->capacity ? 2 * list->capacity : 16;
        decision *items = realloc(list->items, capacity * sizeof *items);
        if (!items) return llava_fail_memory(err, capacity * sizeof *items, "decisions");
        list->items = items;
        list->capacity = capacity;
    }
    const decision d = {arena_strdup(config->memory, what), arena_strdup(config->memory, value),
                        arena_strdup(config->memory, reason)};
    if (!d.what || !d.value || !d.reason) return llava_fail_memory(err, 0, "a decision");
    list->items[list->count++] = d;
    return LLAVA_OK;
}

static llava_config *config_new(void) {
    llava_config *config = array_new(1, sizeof *config);
    if (!config) return NULL;
    config->memory = arena_new();
    if (!config->memory) config_free(&config);
    return config;
}

void config_free(llava_config **config) {
    if (!config || !*config) return;
    json_decref((*config)->root);
    json_decref((*config)->native);
    free((*config)->decisions.items);
    arena_free(&(*config)->memory);
    free(*config);
    *config = NULL;
}

static llava_status read_root(llava_config *config, const config_request *request,
                              llava_error *err) {
    if (request->customized_config) {
        const char *text = request->customized_config;
        LLAVA_TRY(json_read_text(text, strlen(text), "customized_config", &config->root, err));
        if (!json_is_object(config->root))
            return llava_fail(err, LLAVA_BAD_ARGUMENT,
                              "customized_config: expected a JSON object, got %s",
                              json_kind(config->root));
        LLAVA_TRY(config_note(config, "config", "customized_config",
                              "given by the caller in place of config.json", err));
    } else {
        const char *directory = request->directory ? request->directory : ".";
        const char *path = path_join(config->memory, directory, "config.json");
        if (!path) return llava_fail_memory(err, strlen(directory), "a path");
        LLAVA_TRY(config_read_json(path, &config->root, err));
    }
    LLAVA_TRY(config_translate_native(config, err));
    if (!request->overwrite_config) return LLAVA_OK;
    LLAVA_TRY(config_overwrite(config->root, request->overwrite_config, err));
    return config_note(config, "config", "overwrite_config",
                       "given by the caller; applied after everything else", err);
}

/** First of these that holds a value: max_sequence_length, max_position_embeddings,
 *  tokenizer_model_max_length, MPT's max_seq_len. Decoders other than MPT always have the second,
 *  from their class. */
static llava_status find_context_len(llava_config *config, const reader *r) {
    const bool mpt = config->lm.family->arch == ARCH_MPT;
    static const char *const keys[] = {"max_sequence_length", "max_position_embeddings",
                                       "tokenizer_model_max_length", "max_seq_len"};
    const char *key = NULL;
    for (size_t i = 0; i < LLAVA_COUNT(keys) && !key; i++)
        if (json_get(r->object, keys[i]) || (i == 1 && !mpt)) key = keys[i];
    const int64_t fallback = key ? config->lm.max_position_embeddings : 2048;
    const bool given = key && json_get(r->object, key);
    config->context_len = fallback;
    if (key)
        LLAVA_TRY(read_int_or_null(r, key, fallback, 1, CONFIG_MAX_TOKENS, &config->context_len));
    const char *value = arena_printf(config->memory, "%lld", (long long)config->context_len);
    const char *reason = arena_printf(config->memory, "%s%s", key ? key : "no length",
                                      given ? ", the first such key in config.json"
                                      : key ? ", the default of the decoder's family"
                                            : " in config.json");
    if (!value || !reason) return llava_fail_memory(r->err, 0, "a decision");
    return config_note(config, "context_len", value, reason, r->err);
}

static llava_status read_stored_dtype(llava_config *config, const reader *r) {
    const char *name;
    LLAVA_TRY(json_get_string(r->object, r->what, "torch_dtype", NULL, &name, r->err));
    if (!name) LLAVA_TRY(json_get_string(r->object, r->what, "dtype", NULL, &name, r->err));
    if (name && !dtype_parse(name, &config->stored_dtype))
        config->stored_dtype = LLAVA_DTYPE_DEFAULT; /* only informational */
    return LLAVA_OK;
}

static llava_status parse_all(llava_config *config, const config_request *request,
                              llava_error *err) {
    LLAVA_TRY(read_root(config, request, err));
    LLAVA_TRY(config_resolve(config, request, err));
    const reader r = {config->root, "config.json", err};
    LLAVA_TRY(config_parse_lm(config, &r));
    if (config->multimodal) LLAVA_TRY(config_parse_mm(config, &r));
    if (config->native) LLAVA_TRY(config_parse_native(config, err));
    LLAVA_TRY(config_parse_generation(config, &r,
                                      request->generation_directory ? request->generation_directory
                                                                    : request->directory));
    LLAVA_TRY(read_stored_dtype(config, &r));
    return find_context_len(config, &r);
}

llava_status config_load(const config_request *request, llava_config **out, llava_error *err) {
    *out = NULL;
    llava_config *config = config_new();
    if (!config) return llava_fail_memory(err, sizeof *config, "a config");
    const llava_status status = parse_all(config, request, err);
    if (status == LLAVA_OK)
        *out = config;
    else
        config_free(&config);
    return llava_error_classify(err, status);
}

static llava_status parse_tower_only(llava_config *config, const char *config_json,
                                     const char *tower_name, llava_error *err) {
    const char *text = config_json ? config_json : "{}";
    LLAVA_TRY(json_read_text(text, strlen(text), "the tower's settings", &config->root, err));
    if (!json_is_object(config->root))
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "the tower's settings: expected a JSON object, got %s",
                          json_kind(config->root));
    const reader r = {config->root, "the tower's settings", err};
    LLAVA_TRY(config_parse_mm(config, &r));
    if (strlen(tower_name) >= sizeof config->mm.vision_tower)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "the tower's name is too long");
    memcpy(config->mm.vision_tower, tower_name, strlen(tower_name) + 1);
    config->lm.family = family_get(ARCH_LLAMA);
    config->multimodal = true;
    snprintf(config->architecture, sizeof config->architecture, "vision tower");
    return LLAVA_OK;
}

llava_status config_new_tower(const char *config_json, const char *tower_name, llava_config **out,
                              llava_error *err) {
    *out = NULL;
    llava_config *config = config_new();
    if (!config) return llava_fail_memory(err, sizeof *config, "a config");
    const llava_status status = parse_tower_only(config, config_json, tower_name, err);
    if (status == LLAVA_OK)
        *out = config;
    else
        config_free(&config);
    return status;
}
