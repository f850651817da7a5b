/* SPDX-License-Identifier: Apache-2.0
 *
 * tokenizer.json, and the older pair vocab.json and merges.txt.
 */
#include <stdlib.h>

#include "text/tokenizer.h"

#define WHAT           "tokenizer.json"
#define MERGES_MAX     ((size_t)64 << 20)
#define MAX_VOCABULARY ((size_t)1 << 22)

static span json_span(const json_t *value) {
    return (span){json_string_value(value), json_string_length(value)};
}

/* ---------------------------------------------------------------- vocabularies */

static llava_status load_vocab_object(llava_tokenizer *t, const json_t *vocab, const char *what,
                                      llava_error *err) {
    if (!json_is_object(vocab) || json_object_size(vocab) > MAX_VOCABULARY)
        return llava_fail(err, LLAVA_MALFORMED,
                          "%s: vocabulary: expected an object of at most %zu tokens, got %s", what,
                          MAX_VOCABULARY, json_kind(vocab));
    LLAVA_TRY(vocabulary_init(&t->vocab, tokenizer_arena(t), json_object_size(vocab), err));
    const char *text;
    const json_t *id;
    json_object_foreach((json_t *)vocab, text, id) {
        if (!json_is_integer(id))
            return llava_fail(err, LLAVA_MALFORMED,
                              "%s: token \"%.40s\": expected an integer id, got %s", what, text,
                              json_kind(id));
        LLAVA_TRY(vocabulary_set(&t->vocab, json_integer_value(id), span_of(text), what, err));
    }
    return LLAVA_OK;
}

llava_status tokenizer_add_merge(llava_tokenizer *t, span left, span right, uint32_t rank,
                                 const char *what, llava_error *err) {
    const size_t prefix = t->bpe.prefix.size;
    char small[256], *joined = small;
    if (right.size < prefix || left.size > (size_t)1 << 20 || right.size > (size_t)1 << 20)
        return llava_fail(err, LLAVA_MALFORMED,
                          "%s: merge %u: \"%.40s\" does not start with the subword prefix", what,
                          rank, right.data);
    const size_t size = left.size + right.size - prefix;
    if (size > sizeof small && !(joined = malloc(size)))
        return llava_fail_memory(err, size, "merges");
    memcpy(joined, left.data, left.size);
    memcpy(joined + left.size, right.data + prefix, right.size - prefix);
    const int32_t left_id = vocabulary_id(&t->vocab, left);
    const int32_t right_id = vocabulary_id(&t->vocab, right);
    const int32_t id = vocabulary_id(&t->vocab, (span){joined, size});
    if (joined != small) free(joined);
    if (left_id < 0 || right_id < 0 || id < 0)
        return llava_fail(err, LLAVA_MALFORMED,
                          "%s: merge %u of \"%.*s\" and \"%.*s\": %s is not in the vocabulary",
                          what, rank, (int)(left.size < 40 ? left.size : 40), left.data,
                          (int)(right.size < 40 ? right.size : 40), right.data,
                          left_id < 0    ? "the first"
                          : right_id < 0 ? "the second"
                                         : "the result");
    if (!merge_map_set(&t->bpe.merges, left_id, right_id, rank, id))
        return llava_fail_memory(err, sizeof(merge_slot), "merges");
    return LLAVA_OK;
}

/* "a b" (files up to 2024) or ["a", "b"]. */
static llava_status load_merge(llava_tokenizer *t, const json_t *merge, uint32_t rank,
                               llava_error *err) {
    if (json_is_array(merge) && json_array_size(merge) == 2 &&
        json_is_string(json_array_get(merge, 0)) && json_is_string(json_array_get(merge, 1)))
        return tokenizer_add_merge(t, json_span(json_array_get(merge, 0)),
                                   json_span(json_array_get(merge, 1)), rank, WHAT, err);
    const span text = json_is_string(merge) ? json_span(merge) : (span){"", 0};
    const char *space = memchr(text.data, ' ', text.size);
    const size_t left = space ? (size_t)(space - text.data) : 0;
    if (!space || memchr(space + 1, ' ', text.size - left - 1))
        return llava_fail(err, LLAVA_MALFORMED,
                          WHAT ": merge %u: expected \"left right\" or a pair, got %s \"%.40s\"",
                          rank, json_kind(merge), text.data);
    return tokenizer_add_merge(t, (span){text.data, left}, (span){space + 1, text.size - left - 1},
                               rank, WHAT, err);
}

/* ---------------------------------------------------------------- models */

static llava_status load_bpe(llava_tokenizer *t, const json_t *model, llava_error *err) {
    bpe_model *bpe = &t->bpe;
    component_memory *memory = &t->components;
    const json_t *merges = json_object_get(model, "merges");
    span unk;
    t->model = MODEL_BPE;
    memory->what = WHAT;
    LLAVA_TRY(json_get_bool(model, WHAT, "fuse_unk", false, &bpe->fuse_unk, err));
    LLAVA_TRY(json_get_bool(model, WHAT, "byte_fallback", false, &bpe->byte_fallback, err));
    LLAVA_TRY(json_get_bool(model, WHAT, "ignore_merges", false, &bpe->ignore_merges, err));
    LLAVA_TRY(component_text(memory, model, "continuing_subword_prefix", "", &bpe->prefix, err));
    LLAVA_TRY(component_text(memory, model, "end_of_word_suffix", "", &bpe->suffix, err));
    LLAVA_TRY(component_text(memory, model, "unk_token", "", &unk, err));
    if (bpe->prefix.size > 64 || bpe->suffix.size > 64)
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          WHAT ": a subword prefix or suffix over 64 bytes");
    LLAVA_TRY(load_vocab_object(t, json_object_get(model, "vocab"), WHAT, err));
    bpe->unk_id = unk.size ? vocabulary_id(&t->vocab, unk) : -1;
    if (!json_is_array(merges) || json_array_size(merges) > MAX_VOCABULARY)
        return llava_fail(err, LLAVA_MALFORMED,
                          WHAT ": \"merges\": expected an array of at most %zu, got %s",
                          MAX_VOCABULARY, json_kind(merges));
    if (!merge_map_reserve(&bpe->merges, json_array_size(merges)))
        return llava_fail_memory(err, json_array_size(merges) * sizeof(merge_slot), "merges");
    size_t rank;
    const json_t *merge;
    json_array_foreach(merges, rank, merge) LLAVA_TRY(load_merge(t, merge, (uint32_t)rank, err));
    bpe_index(bpe, &t->vocab);
    return LLAVA_OK;
}

static llava_status load_unigram_pieces(llava_tokenizer *t, const json_t *vocab, llava_error *err) {
    unigram_model *unigram = &t->unigram;
    size_t id;
    const json_t *entry;
    json_array_foreach(vocab, id, entry) {
        const json_t *text = json_array_get(entry, 0), *score = json_array_get(entry, 1);
        if (!json_is_string(text) || !json_is_number(score))
            return llava_fail(err, LLAVA_MALFORMED,
                              WHAT ": vocabulary entry %zu: expected [text, score]", id);
        LLAVA_TRY(vocabulary_set(&t->vocab, (int64_t)id, json_span(text), WHAT, err));
        unigram->scores[id] = json_number_value(score);
        if (!id || unigram->scores[id] < unigram->min_score)
            unigram->min_score = unigram->scores[id];
    }
    for (id = 0; id < t->vocab.n_ids; id++) {
        const span text = t->vocab.tokens[id];
        if (!prefix_index_add(&unigram->pieces, text, vocabulary_id(&t->vocab, text)))
            return llava_fail_memory(err, sizeof(prefix_entry), "the vocabulary");
    }
    prefix_index_sort(&unigram->pieces);
    byte_token_ids(&t->vocab, unigram->byte_ids);
    return LLAVA_OK;
}

static llava_status load_unigram(llava_tokenizer *t, const json_t *model, llava_error *err) {
    unigram_model *unigram = &t->unigram;
    const json_t *vocab = json_object_get(model, "vocab");
    int64_t unk_id;
    t->model = MODEL_UNIGRAM;
    if (!json_is_array(vocab) || !json_array_size(vocab) || json_array_size(vocab) > MAX_VOCABULARY)
        return llava_fail(err, LLAVA_MALFORMED,
                          WHAT ": vocabulary: expected an array of 1 to %zu pieces, got %s",
                          MAX_VOCABULARY, json_kind(vocab));
    const size_t count = json_array_size(vocab);
    LLAVA_TRY(json_get_i64(model, WHAT, "unk_id", -1, &unk_id, err));
    LLAVA_TRY(json_get_bool(model, WHAT, "byte_fallback", false, &unigram->byte_fallback, err));
    if (unk_id < -1 || unk_id >= (int64_t)count)
        return llava_fail(err, LLAVA_MALFORMED, WHAT ": unk_id %lld of %zu pieces",
                          (long long)unk_id, count);
    unigram->unk_id = (int32_t)unk_id;
    unigram->scores = array_new(count, sizeof(double));
    if (!unigram->scores) return llava_fail_memory(err, count * sizeof(double), "the vocabulary");
    LLAVA_TRY(vocabulary_init(&t->vocab, tokenizer_arena(t), count, err));
    return load_unigram_pieces(t, vocab, err);
}

static llava_status load_model(llava_tokenizer *t, const json_t *model, llava_error *err) {
    const char *type;
    LLAVA_TRY(json_get_string(model, WHAT, "type", NULL, &type, err));
    /* the oldest files have no type */
    if (!type) type = json_is_array(json_object_get(model, "vocab")) ? "Unigram" : "BPE";
    if (!strcmp(type, "BPE")) return load_bpe(t, model, err);
    if (!strcmp(type, "Unigram")) return load_unigram(t, model, err);
    return llava_fail(err, LLAVA_UNSUPPORTED,
                      WHAT ": model of type \"%.40s\": expected BPE or Unigram", type);
}

/* ---------------------------------------------------------------- whole file */

static llava_status load_added(llava_tokenizer *t, const json_t *list, llava_error *err) {
    size_t index;
    const json_t *entry;
    if (!list || json_is_null(list)) return LLAVA_OK;
    if (!json_is_array(list))
        return llava_fail(err, LLAVA_MALFORMED,
                          WHAT ": \"added_tokens\": expected an array, got %s", json_kind(list));
    json_array_foreach(list, index, entry) {
        /* the id follows from the order and the vocabulary (tokenizers 0.19, serialization.rs) */
        added_token token = {.id = -1};
        int32_t id;
        const json_t *content = json_object_get(entry, "content");
        if (!json_is_string(content))
            return llava_fail(err, LLAVA_MALFORMED,
                              WHAT ": added token %zu: \"content\": expected a string, got %s",
                              index, json_kind(content));
        token.text = json_span(content);
        LLAVA_TRY(json_get_bool(entry, WHAT, "single_word", false, &token.single_word, err));
        LLAVA_TRY(json_get_bool(entry, WHAT, "lstrip", false, &token.lstrip, err));
        LLAVA_TRY(json_get_bool(entry, WHAT, "rstrip", false, &token.rstrip, err));
        LLAVA_TRY(json_get_bool(entry, WHAT, "special", false, &token.special, err));
        LLAVA_TRY(json_get_bool(entry, WHAT, "normalized", !token.special, &token.normalized, err));
        LLAVA_TRY(tokenizer_put(t, token, &id, err));
    }
    return LLAVA_OK;
}

llava_status tokenizer_load_json(llava_tokenizer *t, const json_t *root, llava_error *err) {
    component_memory *memory = &t->components;
    if (!json_is_object(root) || !json_is_object(json_object_get(root, "model")))
        return llava_fail(err, LLAVA_MALFORMED,
                          WHAT ": expected an object with an object \"model\", got %s",
                          json_kind(json_is_object(root) ? json_object_get(root, "model") : root));
    LLAVA_TRY(load_model(t, json_object_get(root, "model"), err));
    LLAVA_TRY(normalizer_parse(memory, json_object_get(root, "normalizer"), &t->normalizer, err));
    LLAVA_TRY(pre_tokenizer_parse(memory, json_object_get(root, "pre_tokenizer"), &t->pre_tokenizer,
                                  err));
    LLAVA_TRY(post_processor_parse(memory, json_object_get(root, "post_processor"),
                                   &t->post_processor, err));
    LLAVA_TRY(token_decoder_parse(memory, json_object_get(root, "decoder"), &t->decoder, err));
    return load_added(t, json_object_get(root, "added_tokens"), err);
}

llava_status tokenizer_open_json(const json_t *root, llava_tokenizer **out, llava_error *err) {
    llava_status status;
    LLAVA_TRY(tokenizer_new(out, err));
    (*out)->fast = true;
    (*out)->description = "PreTrainedTokenizerFast (fast), tokenizer.json";
    status = tokenizer_load_json(*out, root, err);
    if (status == LLAVA_OK) status = tokenizer_refresh(*out, err);
    if (status != LLAVA_OK) tokenizer_free(out);
    return status;
}

/* ---------------------------------------------------------------- vocab.json, merges.txt */

static bool next_token(const char **at, const char *end, span *token) {
    const char *p = *at;
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\r')) p++;
    token->data = p;
    while (p < end && *p != ' ' && *p != '\t' && *p != '\r') p++;
    token->size = (size_t)(p - token->data);
    *at = p;
    return token->size > 0;
}

static llava_status parse_merges(llava_tokenizer *t, const char *text, size_t size,
                                 llava_error *err) {
    uint32_t rank = 0;
    size_t line = 0;
    for (const char *at = text, *end = text + size; at < end; line++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        if (!stop) stop = end;
        const char *p = at;
        at = stop + (stop < end);
        span left, right, rest;
        if (line == 0 && stop - p >= 9 && memcmp(p, "#version:", 9) == 0) continue;
        if (!next_token(&p, stop, &left)) continue;
        if (!next_token(&p, stop, &right) || next_token(&p, stop, &rest))
            return llava_fail(err, LLAVA_MALFORMED,
                              "merges.txt: line %zu: expected two tokens separated by a space",
                              line + 1);
        LLAVA_TRY(tokenizer_add_merge(t, left, right, rank++, "merges.txt", err));
    }
    return LLAVA_OK;
}

llava_status tokenizer_load_vocab_files(llava_tokenizer *t, const char *directory,
                                        llava_error *err) {
    const char *vocab_path = path_join(tokenizer_arena(t), directory, "vocab.json");
    const char *merges_path = path_join(tokenizer_arena(t), directory, "merges.txt");
    if (!vocab_path || !merges_path) return llava_fail_memory(err, 0, "a path");
    json_t *vocab = NULL;
    bytes merges = {0};
    llava_status status;
    t->model = MODEL_BPE;
    LLAVA_TRY_DONE(json_read_file(vocab_path, &vocab, err));
    LLAVA_TRY_DONE(load_vocab_object(t, vocab, vocab_path, err));
    LLAVA_TRY_DONE(file_read(merges_path, MERGES_MAX, &merges, err));
    LLAVA_TRY_DONE(parse_merges(t, merges.data ? merges.data : "", merges.size, err));
    bpe_index(&t->bpe, &t->vocab);
done:
    json_decref(vocab);
    bytes_free(&merges);
    return status;
}
