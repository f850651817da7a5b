/* SPDX-License-Identifier: Apache-2.0
 *
 * Which class and which files: AutoTokenizer's resolution (transformers 4.40).
 */
#include <ctype.h>
#include <stdlib.h>

#include "text/tokenizer.h"

typedef struct class_entry {
    const char *name; /* without "Fast" */
    tokenizer_class class;
    bool has_slow;
} class_entry;

static const class_entry classes[] = {
    {"LlamaTokenizer", CLASS_LLAMA, true},       {"CodeLlamaTokenizer", CLASS_LLAMA, true},
    {"GemmaTokenizer", CLASS_GEMMA, true},       {"Qwen2Tokenizer", CLASS_QWEN2, true},
    {"GPTNeoXTokenizer", CLASS_GPT_NEOX, false}, {"GPT2Tokenizer", CLASS_GPT2, true},
    {"CodeGenTokenizer", CLASS_GPT2, true},      {"PreTrainedTokenizer", CLASS_GENERIC, false},
};

static const struct {
    const char *model_type, *name;
} model_types[] = {
    {"llama", "LlamaTokenizer"},   {"mistral", "LlamaTokenizer"},
    {"mixtral", "LlamaTokenizer"}, {"gemma", "GemmaTokenizer"},
    {"qwen2", "Qwen2Tokenizer"},   {"qwen2_moe", "Qwen2Tokenizer"},
    {"qwen", "Qwen2Tokenizer"},    {"qwen_moe", "Qwen2Tokenizer"},
    {"mpt", "GPTNeoXTokenizer"},   {"gpt_neox", "GPTNeoXTokenizer"},
    {"gpt2", "GPT2Tokenizer"},     {"phi", "CodeGenTokenizer"},
    {"llava", "LlamaTokenizer"},
};

/* What lies in a directory and what was decided. */
typedef struct resolution {
    const tokenizer_request *request;
    arena *memory;
    tokenizer_metadata metadata;
    const char *model_path, *json_path;
    bool has_model, has_json, has_vocab;
    char name[64]; /* class name without "Fast" */
    tokenizer_class class;
    bool known, fast;
} resolution;

static const char *path_of(resolution *r, const char *name) {
    return path_join(r->memory, r->request->directory, name);
}

static bool has_file(resolution *r, const char *name) {
    const char *path = path_of(r, name);
    return path && path_is_file(path);
}

static llava_status read_optional(resolution *r, const char *name, json_t **out, llava_error *err) {
    *out = NULL;
    if (!has_file(r, name)) return LLAVA_OK;
    LLAVA_TRY(json_read_file(path_of(r, name), out, err));
    if (json_is_object(*out)) return LLAVA_OK;
    const char *kind = json_kind(*out);
    json_decref(*out);
    *out = NULL;
    return llava_fail(err, LLAVA_MALFORMED, "%s: expected an object, got %s", name, kind);
}

static llava_status read_metadata(resolution *r, llava_error *err) {
    tokenizer_metadata *m = &r->metadata;
    LLAVA_TRY(read_optional(r, "tokenizer_config.json", &m->config, err));
    LLAVA_TRY(read_optional(r, "special_tokens_map.json", &m->special_map, err));
    LLAVA_TRY(read_optional(r, "added_tokens.json", &m->added, err));
    if (!m->config) m->config = json_object();
    if (!m->config) return llava_fail_memory(err, 0, "tokenizer_config.json");
    if (!r->request->flags_json) return LLAVA_OK;
    const char *flags = r->request->flags_json;
    LLAVA_TRY(json_read_text(flags, strlen(flags), "tokenizer keywords", &m->keywords, err));
    if (!json_is_object(m->keywords))
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "tokenizer keywords: expected a JSON object, got %s",
                          json_kind(m->keywords));
    return json_object_update(m->config, m->keywords)
               ? llava_fail_memory(err, 0, "tokenizer keywords")
               : LLAVA_OK;
}

/* ---------------------------------------------------------------- class */

static const char *class_of_model_type(const char *type) {
    if (!strncmp(type, "llava_", 6)) type += 6;
    for (size_t i = 0; i < LLAVA_COUNT(model_types); i++)
        if (!strcmp(type, model_types[i].model_type)) return model_types[i].name;
    return NULL;
}

/* tokenizer_config.json, else config.json, else by the model type. */
static llava_status find_class_name(resolution *r, json_t **config, const char **name,
                                    llava_error *err) {
    LLAVA_TRY(json_get_string(r->metadata.config, "tokenizer_config.json", "tokenizer_class", NULL,
                              name, err));
    if (*name) return LLAVA_OK;
    LLAVA_TRY(read_optional(r, "config.json", config, err));
    if (*config)
        LLAVA_TRY(json_get_string(*config, "config.json", "tokenizer_class", NULL, name, err));
    if (*name) return LLAVA_OK;
    const char *type = r->request->model_type;
    if (!type && *config)
        LLAVA_TRY(json_get_string(*config, "config.json", "model_type", NULL, &type, err));
    if (type) *name = class_of_model_type(type);
    return LLAVA_OK;
}

/* A class nobody knows is judged by the files that lie there. */
static void guess_class(resolution *r) {
    if (r->has_json)
        r->class = CLASS_GENERIC;
    else
        r->class = r->has_model ? CLASS_LLAMA : CLASS_QWEN2;
    r->fast = r->class == CLASS_GENERIC;
}

static llava_status resolve_class(resolution *r, llava_error *err) {
    json_t *config = NULL;
    const char *name = NULL;
    const llava_status status = find_class_name(r, &config, &name, err);
    if (name) snprintf(r->name, sizeof r->name, "%s", name);
    json_decref(config);
    LLAVA_TRY(status);
    const size_t size = strlen(r->name);
    const bool says_fast = size > 4 && !strcmp(r->name + size - 4, "Fast");
    if (says_fast) r->name[size - 4] = '\0';
    for (size_t i = 0; i < LLAVA_COUNT(classes); i++) {
        if (strcmp(r->name, classes[i].name) != 0) continue;
        r->known = true;
        r->class = classes[i].class;
        r->fast = says_fast || r->request->flavour == TOKENIZER_FAST || !classes[i].has_slow;
    }
    if (!r->known) guess_class(r);
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- loading */

static llava_status load_sentencepiece(llava_tokenizer *t, const char *path, llava_error *err) {
    file_map file = {0};
    LLAVA_TRY(file_map_open(path, &file, err));
    /* Meta's Llama-3 files have the same name: lines of base64, a space and a rank */
    size_t printable = 0;
    while (printable < file.size && printable < 64 &&
           (isgraph(file.data[printable]) || file.data[printable] == ' ' ||
            file.data[printable] == '\n'))
        printable++;
    llava_status status;
    if (printable == 64)
        status = llava_fail(err, LLAVA_UNSUPPORTED,
                            "%s: a list of ranks in tiktoken's format; expected a SentencePiece "
                            "model (use the checkpoint's tokenizer.json)",
                            path);
    else
        status = spm_parse(file.data, file.size, path, &t->spm, err);
    file_map_close(&file);
    t->model = MODEL_SENTENCEPIECE;
    return status;
}

static llava_status load_json(llava_tokenizer *t, resolution *r, llava_error *err) {
    json_t *root = NULL;
    LLAVA_TRY(json_read_file(r->json_path, &root, err));
    llava_status status = tokenizer_load_json(t, root, err);
    json_decref(root);
    if (status != LLAVA_OK) status = llava_fail_prefix(err, status, "%s: ", r->request->directory);
    return status;
}

/* The files a slow class needs; has_json: it may borrow added tokens from there. */
static llava_status load_slow(llava_tokenizer *t, resolution *r, const char **file,
                              llava_error *err) {
    if (r->has_json && !json_object_get(r->metadata.config, "added_tokens_decoder"))
        LLAVA_TRY(json_read_file(r->json_path, &r->metadata.tokenizer_json, err));
    if (t->class == CLASS_LLAMA || t->class == CLASS_GEMMA) {
        *file = "tokenizer.model";
        return load_sentencepiece(t, r->model_path, err);
    }
    *file = "vocab.json and merges.txt";
    return tokenizer_load_vocab_files(t, r->request->directory, err);
}

/* LlamaTokenizerFast rebuilds itself from tokenizer.model when the key is there at all, as
 * transformers 4.40 would; what later releases save beside tokenizer.json is not meant so. */
static bool wants_rebuild(const resolution *r) {
    return !(r->request->keeps_json && r->has_json) && r->class == CLASS_LLAMA && r->has_model &&
           json_get(r->metadata.config, "add_prefix_space") != NULL;
}

static llava_status load_fast(llava_tokenizer *t, resolution *r, const char **file,
                              llava_error *err) {
    *file = "tokenizer.json";
    if (r->has_json && !wants_rebuild(r)) return load_json(t, r, err);
    if (r->has_model && t->class != CLASS_QWEN2 && t->class != CLASS_GPT_NEOX) {
        *file = "converted from tokenizer.model";
        LLAVA_TRY(load_sentencepiece(t, r->model_path, err));
        return tokenizer_convert_spm(t, err);
    }
    *file = "converted from vocab.json and merges.txt";
    bool add_prefix_space;
    LLAVA_TRY(json_get_bool(r->metadata.config, "tokenizer_config.json", "add_prefix_space", false,
                            &add_prefix_space, err));
    LLAVA_TRY(tokenizer_load_vocab_files(t, r->request->directory, err));
    return tokenizer_byte_level_pipeline(t, add_prefix_space, err);
}

/* Takes another loader when the files of the class are not there. */
static void settle_flavour(resolution *r) {
    const bool spm_class = r->class == CLASS_LLAMA || r->class == CLASS_GEMMA;
    if (!r->fast && r->has_json && !(spm_class ? r->has_model : r->has_vocab)) r->fast = true;
    if (r->has_json || (spm_class ? r->has_model : r->has_vocab)) return;
    if (r->has_model && r->class != CLASS_GEMMA) r->class = CLASS_LLAMA;
    if (r->has_vocab && !r->has_model) r->class = CLASS_QWEN2;
}

static llava_status load(resolution *r, llava_tokenizer *t, llava_error *err) {
    const char *file = "";
    t->class = r->class;
    t->fast = r->fast;
    LLAVA_TRY(r->fast ? load_fast(t, r, &file, err) : load_slow(t, r, &file, err));
    LLAVA_TRY(tokenizer_apply_metadata(t, &r->metadata, err));
    static const char *const names[] = {
        [CLASS_GENERIC] = "PreTrainedTokenizer", [CLASS_LLAMA] = "LlamaTokenizer",
        [CLASS_GEMMA] = "GemmaTokenizer",        [CLASS_QWEN2] = "Qwen2Tokenizer",
        [CLASS_GPT_NEOX] = "GPTNeoXTokenizer",   [CLASS_GPT2] = "GPT2Tokenizer"};
    t->description = arena_printf(tokenizer_arena(t), "%s%s (%s), %s", names[t->class],
                                  t->fast ? "Fast" : "", t->fast ? "fast" : "slow", file);
    return t->description ? LLAVA_OK : llava_fail_memory(err, 0, "a description");
}

static llava_status find_files(resolution *r, llava_error *err) {
    r->memory = arena_new();
    if (!r->memory) return llava_fail_memory(err, 0, "paths");
    r->model_path = path_of(r, "tokenizer.model");
    r->json_path = path_of(r, "tokenizer.json");
    if (!r->model_path || !r->json_path) return llava_fail_memory(err, 0, "paths");
    r->has_model = path_is_file(r->model_path);
    r->has_json = path_is_file(r->json_path);
    r->has_vocab = has_file(r, "vocab.json") && has_file(r, "merges.txt");
    return LLAVA_OK;
}

static llava_status resolve(resolution *r, llava_error *err) {
    LLAVA_TRY(find_files(r, err));
    if (!r->has_model && !r->has_json && !r->has_vocab)
        return llava_fail(err, LLAVA_IO,
                          "%s: no tokenizer: expected tokenizer.model, tokenizer.json, or "
                          "vocab.json with merges.txt",
                          r->request->directory);
    LLAVA_TRY(read_metadata(r, err));
    LLAVA_TRY(resolve_class(r, err));
    settle_flavour(r);
    return LLAVA_OK;
}

llava_status tokenizer_open(const tokenizer_request *request, llava_tokenizer **out,
                            llava_error *err) {
    resolution r = {.request = request};
    *out = NULL;
    llava_status status = resolve(&r, err);
    if (status == LLAVA_OK) status = tokenizer_new(out, err);
    if (status == LLAVA_OK) status = load(&r, *out, err);
    if (status != LLAVA_OK) tokenizer_free(out);
    tokenizer_metadata_free(&r.metadata);
    arena_free(&r.memory);
    return llava_error_classify(err, status);
}

bool tokenizer_exists(const char *directory) {
    const tokenizer_request request = {.directory = directory};
    resolution r = {.request = &request};
    llava_error err;
    const bool exists =
        find_files(&r, &err) == LLAVA_OK && (r.has_model || r.has_json || r.has_vocab);
    arena_free(&r.memory);
    return exists;
}
