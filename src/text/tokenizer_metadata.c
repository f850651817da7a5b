/* SPDX-License-Identifier: Apache-2.0
 *
 * tokenizer_config.json, special_tokens_map.json and added_tokens.json applied to a tokenizer as
 * PreTrainedTokenizerBase._from_pretrained and the class constructors do (transformers 4.40).
 */
#include <stdlib.h>

#include "text/tokenizer.h"

#define CONFIG "tokenizer_config.json"

static const char *const named_keys[NAMED_COUNT] = {
    [NAMED_BOS] = "bos_token",   [NAMED_EOS] = "eos_token", [NAMED_UNK] = "unk_token",
    [NAMED_SEP] = "sep_token",   [NAMED_PAD] = "pad_token", [NAMED_CLS] = "cls_token",
    [NAMED_MASK] = "mask_token",
};

const char *tokenizer_special_name(int which) { return named_keys[which]; }

/* What the constructors default to when the key is absent (null means none). */
static const char *default_special(tokenizer_class class, named_special which) {
    static const char *const llama[NAMED_COUNT] = {
        [NAMED_BOS] = "<s>", [NAMED_EOS] = "</s>", [NAMED_UNK] = "<unk>"};
    static const char *const gemma[NAMED_COUNT] = {
        [NAMED_BOS] = "<bos>", [NAMED_EOS] = "<eos>", [NAMED_UNK] = "<unk>", [NAMED_PAD] = "<pad>"};
    static const char *const qwen2[NAMED_COUNT] = {[NAMED_EOS] = "<|endoftext|>",
                                                   [NAMED_UNK] = "<|endoftext|>",
                                                   [NAMED_PAD] = "<|endoftext|>"};
    static const char *const gpt[NAMED_COUNT] = {[NAMED_BOS] = "<|endoftext|>",
                                                 [NAMED_EOS] = "<|endoftext|>",
                                                 [NAMED_UNK] = "<|endoftext|>"};
    switch (class) {
    case CLASS_LLAMA: return llama[which];
    case CLASS_GEMMA: return gemma[which];
    case CLASS_QWEN2: return qwen2[which];
    case CLASS_GPT_NEOX:
    case CLASS_GPT2: return gpt[which];
    case CLASS_GENERIC: break;
    }
    return NULL;
}

void tokenizer_metadata_free(tokenizer_metadata *m) {
    json_decref(m->config);
    json_decref(m->keywords);
    json_decref(m->special_map);
    json_decref(m->added);
    json_decref(m->tokenizer_json);
    *m = (tokenizer_metadata){0};
}

/* ---------------------------------------------------------------- one token */

/* A string (special, as it stands), or an object with flags. */
static llava_status read_token(const json_t *value, const char *what, added_token *token,
                               llava_error *err) {
    const json_t *content = json_is_string(value) ? value : json_object_get(value, "content");
    *token = (added_token){.id = -1, .special = true};
    if (!json_is_string(content))
        return llava_fail(err, LLAVA_MALFORMED,
                          "%s: expected a string or an object with a string \"content\", got %s",
                          what, json_kind(json_is_object(value) ? content : value));
    token->text = (span){json_string_value(content), json_string_length(content)};
    if (json_is_string(value)) return LLAVA_OK;
    LLAVA_TRY(json_get_bool(value, what, "special", false, &token->special, err));
    LLAVA_TRY(json_get_bool(value, what, "lstrip", false, &token->lstrip, err));
    LLAVA_TRY(json_get_bool(value, what, "rstrip", false, &token->rstrip, err));
    LLAVA_TRY(json_get_bool(value, what, "single_word", false, &token->single_word, err));
    return json_get_bool(value, what, "normalized", !token->special, &token->normalized, err);
}

/* ---------------------------------------------------------------- added tokens */

typedef struct numbered {
    int64_t id;
    size_t order;
    const json_t *token;
} numbered;

static int by_id(const void *a, const void *b) {
    const numbered *x = a, *y = b;
    if (x->id != y->id) return x->id < y->id ? -1 : 1;
    return (x->order > y->order) - (x->order < y->order);
}

/* A slow class takes the file's ids, a fast one lets the library number them. */
static llava_status put_numbered(llava_tokenizer *t, int64_t id, added_token token,
                                 llava_error *err) {
    int32_t unused;
    if (id < 0 || id >= INT32_MAX)
        return llava_fail(err, LLAVA_MALFORMED, CONFIG ": added token \"%.40s\" has id %lld",
                          token.text.data, (long long)id);
    token.id = t->fast ? -1 : (int32_t)id;
    return tokenizer_put(t, token, &unused, err);
}

static bool parse_id(const char *text, int64_t *id) {
    char *end;
    *id = strtoll(text, &end, 10);
    return end > text && !*end;
}

static llava_status apply_added_decoder(llava_tokenizer *t, const json_t *decoder,
                                        llava_error *err) {
    const size_t count = json_object_size(decoder);
    numbered *list = array_new(count, sizeof *list);
    llava_status status = LLAVA_OK;
    if (!list) return llava_fail_memory(err, count * sizeof *list, "added tokens");
    const char *key;
    const json_t *value;
    size_t n = 0;
    json_object_foreach((json_t *)decoder, key, value) {
        list[n] = (numbered){.order = n, .token = value};
        if (!parse_id(key, &list[n++].id)) {
            status = llava_fail(err, LLAVA_MALFORMED,
                                CONFIG ": added_tokens_decoder: \"%.40s\" is not an id", key);
            goto done;
        }
    }
    qsort(list, n, sizeof *list, by_id);
    for (size_t i = 0; i < n; i++) {
        added_token token;
        if (!json_is_object(list[i].token)) continue;
        LLAVA_TRY_DONE(read_token(list[i].token, CONFIG ": added_tokens_decoder", &token, err));
        LLAVA_TRY_DONE(put_numbered(t, list[i].id, token, err));
    }
done:
    free(list);
    return status;
}

static bool token_is(const json_t *value, span text) {
    const json_t *content = json_is_string(value) ? value : json_object_get(value, "content");
    return json_is_string(content) &&
           span_equal((span){json_string_value(content), json_string_length(content)}, text);
}

static bool is_special_text(const json_t *config, span text) {
    for (int i = 0; i < NAMED_COUNT; i++)
        if (token_is(json_object_get(config, named_keys[i]), text)) return true;
    const json_t *list = json_object_get(config, "additional_special_tokens");
    size_t index;
    const json_t *value;
    json_array_foreach(list, index, value) if (token_is(value, text)) return true;
    return false;
}

/* added_tokens.json: {"text": id}; special if it is one of the special tokens. */
static llava_status apply_added_file(llava_tokenizer *t, const tokenizer_metadata *m,
                                     llava_error *err) {
    const char *text;
    const json_t *id;
    json_object_foreach(m->added, text, id) {
        added_token token = {.text = span_of(text)};
        token.special = is_special_text(m->config, token.text);
        token.normalized = !token.special;
        if (!json_is_integer(id))
            return llava_fail(err, LLAVA_MALFORMED,
                              "added_tokens.json: \"%.40s\": expected an integer, got %s", text,
                              json_kind(id));
        LLAVA_TRY(put_numbered(t, json_integer_value(id), token, err));
    }
    return LLAVA_OK;
}

/* A slow class without added_tokens_decoder takes over those of a tokenizer.json beside it. */
static llava_status apply_json_added(llava_tokenizer *t, const json_t *root, llava_error *err) {
    const json_t *list = json_object_get(root, "added_tokens");
    size_t index;
    const json_t *value;
    json_array_foreach(list, index, value) {
        added_token token;
        int64_t id;
        LLAVA_TRY(read_token(value, "tokenizer.json: added_tokens", &token, err));
        LLAVA_TRY(json_get_i64(value, "tokenizer.json: added_tokens", "id", -1, &id, err));
        LLAVA_TRY(put_numbered(t, id, token, err));
    }
    return LLAVA_OK;
}

/* special_tokens_map.json wins over tokenizer_config.json, the caller's keywords over both. */
static llava_status merge_special_map(tokenizer_metadata *m, llava_error *err) {
    const char *key;
    json_t *value;
    json_object_foreach(m->special_map, key, value) {
        const json_t *keyword = json_object_get(m->keywords, key);
        if (keyword && !json_is_null(keyword)) continue;
        if (!strcmp(key, "additional_special_tokens") && json_is_array(value)) {
            json_t *joined = json_array();
            const json_t *old = json_object_get(m->config, key);
            bool ok = joined && (!json_is_array(old) || !json_array_extend(joined, (json_t *)old));
            ok = ok && !json_array_extend(joined, value);
            if (!ok || json_object_set(m->config, key, joined)) {
                json_decref(joined);
                return llava_fail_memory(err, 0, "special tokens");
            }
            json_decref(joined);
            continue;
        }
        if (json_object_set(m->config, key, value))
            return llava_fail_memory(err, 0, "special tokens");
    }
    return LLAVA_OK;
}

static llava_status apply_added(llava_tokenizer *t, tokenizer_metadata *m, llava_error *err) {
    const json_t *decoder = json_object_get(m->config, "added_tokens_decoder");
    if (decoder && !json_is_object(decoder))
        return llava_fail(err, LLAVA_MALFORMED,
                          CONFIG ": \"added_tokens_decoder\": expected an object, got %s",
                          json_kind(decoder));
    if (decoder) return apply_added_decoder(t, decoder, err);
    LLAVA_TRY(merge_special_map(m, err));
    if (m->added) LLAVA_TRY(apply_added_file(t, m, err));
    if (!t->fast && m->tokenizer_json) LLAVA_TRY(apply_json_added(t, m->tokenizer_json, err));
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- special tokens */

/* Flags of a token that is there already win over those of a plain string. */
static llava_status put_special(llava_tokenizer *t, const json_t *value, const char *what,
                                bool additional, int32_t *id, llava_error *err) {
    added_token token;
    LLAVA_TRY(read_token(value, what, &token, err));
    const added_token *known = tokenizer_added_text(t, token.text);
    if (known && (json_is_string(value) || !t->fast)) {
        token = *known; /* keeps its flags, special or not */
    } else {
        token.special = true;
    }
    token.named = !additional;
    token.additional = additional;
    /* a token object may be renewed, its id never */
    token.id = known ? known->id : -1;
    return tokenizer_put(t, token, id, err);
}

static llava_status apply_specials(llava_tokenizer *t, const json_t *config, llava_error *err) {
    int32_t id;
    for (int i = 0; i < NAMED_COUNT; i++) {
        const json_t *value = json_object_get(config, named_keys[i]);
        const char *fallback = default_special(t->class, (named_special)i);
        if (json_is_null(value) || (!value && !fallback)) continue;
        json_t *text = value ? NULL : json_string(fallback);
        if (!value && !text) return llava_fail_memory(err, 0, "special tokens");
        const llava_status status =
            put_special(t, value ? value : text, named_keys[i], false, &t->named[i], err);
        json_decref(text);
        LLAVA_TRY(status);
    }
    const json_t *list = json_object_get(config, "additional_special_tokens");
    size_t index;
    const json_t *value;
    if (list && !json_is_null(list) && !json_is_array(list))
        return llava_fail(err, LLAVA_MALFORMED,
                          CONFIG ": \"additional_special_tokens\": expected an array, got %s",
                          json_kind(list));
    json_array_foreach(list, index, value)
        LLAVA_TRY(put_special(t, value, "additional_special_tokens", true, &id, err));
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- flags */

static llava_status apply_flags(llava_tokenizer *t, const json_t *config, llava_error *err) {
    const bool adds_bos = t->class == CLASS_LLAMA || t->class == CLASS_GEMMA;
    const bool keeps_text = adds_bos || t->class == CLASS_QWEN2;
    LLAVA_TRY(json_get_bool(config, CONFIG, "add_bos_token", adds_bos, &t->add_bos, err));
    LLAVA_TRY(json_get_bool(config, CONFIG, "add_eos_token", false, &t->add_eos, err));
    LLAVA_TRY(json_get_bool(config, CONFIG, "legacy", true, &t->legacy, err));
    LLAVA_TRY(json_get_bool(config, CONFIG, "add_prefix_space", t->class == CLASS_LLAMA,
                            &t->add_prefix_space, err));
    LLAVA_TRY(json_get_bool(config, CONFIG, "clean_up_tokenization_spaces", !keeps_text,
                            &t->clean_up, err));
    return json_get_bool(config, CONFIG, "split_special_tokens", false, &t->split_special_tokens,
                         err);
}

/* A string, or a list of {"name", "template"} of which "default" counts. */
static llava_status apply_chat_template(llava_tokenizer *t, const json_t *config,
                                        llava_error *err) {
    const json_t *value = json_object_get(config, "chat_template");
    const json_t *found = json_is_string(value) ? value : NULL, *entry;
    size_t index;
    json_array_foreach(value, index, entry) {
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name && !strcmp(name, "default")) found = json_object_get(entry, "template");
    }
    if (!json_is_string(found)) return LLAVA_OK;
    t->chat_template =
        arena_strndup(tokenizer_arena(t), json_string_value(found), json_string_length(found));
    return t->chat_template ? LLAVA_OK : llava_fail_memory(err, 0, "the chat template");
}

/* ---------------------------------------------------------------- class rules */

/* These fast classes build their post-processor from the flags, whatever the file says. */
static llava_status apply_fast_class(llava_tokenizer *t, llava_error *err) {
    const bool neox = t->class == CLASS_GPT_NEOX, gpt2 = t->class == CLASS_GPT2;
    if (neox || gpt2)
        for (size_t i = 0; i < t->pre_tokenizer.n_steps; i++)
            if (t->pre_tokenizer.steps[i].kind == PRE_BYTE_LEVEL)
                t->pre_tokenizer.steps[i].add_prefix_space = t->add_prefix_space;
    if (t->class != CLASS_LLAMA && t->class != CLASS_GEMMA && !neox) return LLAVA_OK;
    return post_processor_set(&t->components, &t->post_processor,
                              t->add_bos ? t->named[NAMED_BOS] : -1,
                              t->add_eos ? t->named[NAMED_EOS] : -1, err);
}

/* LlamaTokenizer with legacy false runs the model without its dummy prefix, for decoding too, and
 * protects leading spaces by the unknown token's text, whose pieces it then cuts off. */
static llava_status apply_slow_class(llava_tokenizer *t, llava_error *err) {
    if (t->class == CLASS_QWEN2 || t->class == CLASS_GPT2) t->bpe.unk_id = t->named[NAMED_UNK];
    if (t->class != CLASS_LLAMA || t->legacy || t->model != MODEL_SENTENCEPIECE) return LLAVA_OK;
    const added_token *unk = tokenizer_added(t, t->named[NAMED_UNK]);
    ids pieces = {0};
    llava_status status = LLAVA_OK;
    t->spm->add_dummy_prefix = false;
    if (unk) status = spm_encode(t->spm, false, unk->text.data, unk->text.size, &pieces, err);
    t->unk_pieces = pieces.count;
    ids_free(&pieces);
    return status;
}

llava_status tokenizer_apply_metadata(llava_tokenizer *t, tokenizer_metadata *m, llava_error *err) {
    LLAVA_TRY(apply_flags(t, m->config, err));
    LLAVA_TRY(apply_chat_template(t, m->config, err));
    LLAVA_TRY(apply_added(t, m, err));
    LLAVA_TRY(apply_specials(t, m->config, err));
    LLAVA_TRY(t->fast ? apply_fast_class(t, err) : apply_slow_class(t, err));
    return tokenizer_refresh(t, err);
}
