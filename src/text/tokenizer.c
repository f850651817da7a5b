/* SPDX-License-Identifier: Apache-2.0
 *
 * Tokens of a tokenizer: the model's own and the added ones.
 */
#include <assert.h>
#include <stdlib.h>

#include "text/tokenizer.h"

#define MAX_ADDED ((size_t)1 << 20)

/* ---------------------------------------------------------------- lists of ids */

void ids_free(ids *list) {
    free(list->data);
    *list = (ids){0};
}

bool ids_append(ids *list, const int32_t *data, size_t count) {
    size_t needed;
    if (!size_add(list->count, count, &needed)) return false;
    if (needed > list->capacity) {
        size_t capacity = list->capacity + list->capacity / 2 + 64, n_bytes;
        if (capacity < needed) capacity = needed;
        if (!size_mul(capacity, sizeof *list->data, &n_bytes)) return false;
        int32_t *grown = realloc(list->data, n_bytes);
        if (!grown) return false;
        list->data = grown;
        list->capacity = capacity;
    }
    if (count) memcpy(list->data + list->count, data, count * sizeof *data);
    list->count = needed;
    return true;
}

/* ---------------------------------------------------------------- life */

llava_status tokenizer_new(llava_tokenizer **out, llava_error *err) {
    *out = NULL;
    llava_tokenizer *t = array_new(1, sizeof *t);
    if (t) t->components.memory = arena_new();
    if (!t || !t->components.memory) {
        free(t);
        return llava_fail_memory(err, sizeof *t, "a tokenizer");
    }
    t->pool.memory = tokenizer_arena(t);
    for (int i = 0; i < NAMED_COUNT; i++) t->named[i] = -1;
    t->bpe.unk_id = t->unigram.unk_id = -1;
    t->max_added_id = -1;
    t->add_prefix_space = true;
    *out = t;
    return LLAVA_OK;
}

void tokenizer_free(llava_tokenizer **tokenizer) {
    if (!tokenizer || !*tokenizer) return;
    llava_tokenizer *t = *tokenizer;
    spm_free(&t->spm);
    vocabulary_free(&t->vocab);
    merge_map_free(&t->bpe.merges);
    free(t->unigram.scores);
    prefix_index_free(&t->unigram.pieces);
    free(t->added);
    string_map_free(&t->added_texts);
    merge_map_free(&t->added_ids);
    prefix_index_free(&t->raw);
    prefix_index_free(&t->normalized);
    component_memory_free(&t->components);
    free(t);
    *tokenizer = NULL;
}

/* ---------------------------------------------------------------- look-up */

span tokenizer_base_token(const llava_tokenizer *t, int32_t id) {
    if (t->model != MODEL_SENTENCEPIECE) return vocabulary_token(&t->vocab, id);
    return id >= 0 && (size_t)id < t->spm->n_pieces ? t->spm->pieces[id].text : (span){0};
}

int32_t tokenizer_base_id(const llava_tokenizer *t, span text) {
    if (t->model != MODEL_SENTENCEPIECE) return vocabulary_id(&t->vocab, text);
    const int32_t id = string_map_get(&t->spm->reserved, text);
    return id >= 0 ? id : string_map_get(&t->spm->normal, text);
}

size_t tokenizer_base_count(const llava_tokenizer *t) {
    return t->model == MODEL_SENTENCEPIECE ? t->spm->n_pieces : t->vocab.ids.count;
}

const added_token *tokenizer_added(const llava_tokenizer *t, int32_t id) {
    const merge_slot *slot = merge_map_get(&t->added_ids, id, 0);
    return slot ? &t->added[slot->id] : NULL;
}

const added_token *tokenizer_added_text(const llava_tokenizer *t, span text) {
    const int32_t index = string_map_get(&t->added_texts, text);
    return index < 0 ? NULL : &t->added[index];
}

int32_t tokenizer_slow_id(const llava_tokenizer *t, int32_t id) {
    const added_token *token = tokenizer_added_text(t, tokenizer_base_token(t, id));
    return token ? token->id : id;
}

int64_t tokenizer_size(const llava_tokenizer *tokenizer) { return tokenizer->size; }

const char *tokenizer_description(const llava_tokenizer *tokenizer) {
    return tokenizer->description;
}

const char *tokenizer_token(const llava_tokenizer *tokenizer, int32_t id) {
    const added_token *token = tokenizer_added(tokenizer, id);
    return token ? token->text.data : tokenizer_base_token(tokenizer, id).data;
}

int32_t tokenizer_id(const llava_tokenizer *tokenizer, const char *token) {
    const added_token *added = tokenizer_added_text(tokenizer, span_of(token));
    return added ? added->id : tokenizer_base_id(tokenizer, span_of(token));
}

int32_t tokenizer_bos(const llava_tokenizer *tokenizer) { return tokenizer->named[NAMED_BOS]; }

int32_t tokenizer_eos(const llava_tokenizer *tokenizer) { return tokenizer->named[NAMED_EOS]; }

bool tokenizer_is_special(const llava_tokenizer *tokenizer, int32_t id) {
    const added_token *token = tokenizer_added(tokenizer, id);
    if (!token) return false;
    return tokenizer->fast ? token->special : token->named || token->additional;
}

const char *tokenizer_chat_template(const llava_tokenizer *tokenizer) {
    return tokenizer->chat_template;
}

/* ---------------------------------------------------------------- adding */

/* Slow classes count the distinct texts. Fast: one past the largest added id, if that is already
 * beyond the model, else the size of the model (tokenizers 0.19, added_vocabulary.rs). */
static int64_t next_id(const llava_tokenizer *t) {
    const int64_t base = (int64_t)tokenizer_base_count(t);
    return t->fast ? i64_max(base, t->max_added_id + 1) : base + t->n_new_texts;
}

static llava_status append_added(llava_tokenizer *t, span text, size_t *index, llava_error *err) {
    if (t->n_added == t->added_capacity) {
        const size_t capacity = t->added_capacity ? 2 * t->added_capacity : 32;
        added_token *grown = realloc(t->added, capacity * sizeof *grown);
        if (!grown) return llava_fail_memory(err, capacity * sizeof *grown, "added tokens");
        t->added = grown;
        t->added_capacity = capacity;
    }
    const span copy = {text_pool_copy(&t->pool, text.data, text.size), text.size};
    if (!copy.data || !string_map_set(&t->added_texts, copy, (int32_t)t->n_added))
        return llava_fail_memory(err, text.size, "added tokens");
    if (tokenizer_base_id(t, text) < 0) t->n_new_texts++;
    *index = t->n_added++;
    t->added[*index] = (added_token){.text = copy};
    return LLAVA_OK;
}

llava_status tokenizer_put(llava_tokenizer *t, added_token token, int32_t *id, llava_error *err) {
    *id = -1;
    if (!token.text.size) return LLAVA_OK;
    int64_t chosen = token.id;
    const int32_t found = string_map_get(&t->added_texts, token.text);
    if (chosen < 0) chosen = found >= 0 ? t->added[found].id : tokenizer_base_id(t, token.text);
    if (chosen < 0) chosen = next_id(t);
    if (t->n_added >= MAX_ADDED || chosen >= INT32_MAX)
        return llava_fail(err, LLAVA_MALFORMED, "added token \"%.40s\": too many added tokens",
                          token.text.data);
    size_t index = (size_t)found;
    if (found < 0) LLAVA_TRY(append_added(t, token.text, &index, err));
    assert(t->added && index < t->n_added);
    added_token *slot = &t->added[index];
    token.text = slot->text;
    token.named |= slot->named;
    token.additional |= slot->additional;
    token.special |= slot->special;
    token.id = (int32_t)chosen;
    t->max_added_id = i64_max(t->max_added_id, chosen);
    *slot = token;
    if (!merge_map_set(&t->added_ids, token.id, 0, 0, (int32_t)index))
        return llava_fail_memory(err, sizeof(merge_slot), "added tokens");
    *id = token.id;
    return LLAVA_OK;
}

static llava_status index_normalized(llava_tokenizer *t, const added_token *token, int32_t index,
                                     llava_error *err) {
    bytes text = {0};
    llava_status status =
        normalizer_run(&t->normalizer, token->text.data, token->text.size, &text, err);
    if (status == LLAVA_OK) {
        const span copy = {text_pool_copy(&t->pool, text.data ? text.data : "", text.size),
                           text.size};
        if (!copy.data || !prefix_index_add(&t->normalized, copy, index))
            status = llava_fail_memory(err, text.size, "added tokens");
    }
    bytes_free(&text);
    return status;
}

/* Special tokens first: of two that look alike after normalising, the special one is found. */
static llava_status index_added(llava_tokenizer *t, bool special, llava_error *err) {
    for (size_t i = 0; i < t->n_added; i++) {
        const added_token *token = &t->added[i];
        if (token->special != special) continue;
        if (t->fast && token->normalized) {
            LLAVA_TRY(index_normalized(t, token, (int32_t)i, err));
        } else if (!prefix_index_add(&t->raw, token->text, (int32_t)i)) {
            return llava_fail_memory(err, sizeof(prefix_entry), "added tokens");
        }
    }
    return LLAVA_OK;
}

llava_status tokenizer_refresh(llava_tokenizer *t, llava_error *err) {
    prefix_index_free(&t->raw);
    prefix_index_free(&t->normalized);
    LLAVA_TRY(index_added(t, true, err));
    LLAVA_TRY(index_added(t, false, err));
    prefix_index_sort(&t->raw);
    prefix_index_sort(&t->normalized);
    t->size = (int64_t)tokenizer_base_count(t) + t->n_new_texts;
    for (size_t i = 0; i < t->n_added; i++) {
        added_token *token = &t->added[i];
        /* transformers 4.40, PreTrainedTokenizer._decode: legacy_added_tokens */
        token->separate = !(token->named || token->additional) ||
                          (token->additional && (size_t)token->id >= tokenizer_base_count(t));
        if (t->class == CLASS_GEMMA) token->separate = true;
    }
    return LLAVA_OK;
}

llava_status tokenizer_add_special(llava_tokenizer *tokenizer, const char *text, int32_t *id,
                                   bool *added, llava_error *err) {
    const int64_t before = tokenizer->size;
    const added_token *known = tokenizer_added_text(tokenizer, span_of(text));
    added_token token = {.text = span_of(text), .id = -1, .special = true};
    token.additional = !(known && known->named);
    LLAVA_TRY(tokenizer_put(tokenizer, token, id, err));
    LLAVA_TRY(tokenizer_refresh(tokenizer, err));
    *added = tokenizer->size > before;
    return LLAVA_OK;
}
