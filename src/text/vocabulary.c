/* SPDX-License-Identifier: Apache-2.0
 *
 * Vocabulary tables.
 */
#include <stdlib.h>

#include "text/vocabulary.h"

/* A file of n tokens may leave gaps, but not make us hold arbitrarily large tables. */
#define GAP_FACTOR 8
#define GAP_SLACK  65536

llava_status vocabulary_init(vocabulary *v, arena *memory, size_t expected, llava_error *err) {
    *v = (vocabulary){.pool = {.memory = memory}};
    if (!string_map_reserve(&v->ids, expected))
        return llava_fail_memory(err, expected * sizeof(string_slot), "the vocabulary");
    v->capacity = expected ? expected : 1;
    v->tokens = array_new(v->capacity, sizeof(span));
    return v->tokens ? LLAVA_OK
                     : llava_fail_memory(err, v->capacity * sizeof(span), "the vocabulary");
}

void vocabulary_free(vocabulary *v) {
    string_map_free(&v->ids);
    free(v->tokens);
    *v = (vocabulary){0};
}

static llava_status vocabulary_grow(vocabulary *v, size_t n_ids, llava_error *err) {
    if (n_ids <= v->capacity) return LLAVA_OK;
    const size_t capacity = n_ids + n_ids / 2;
    span *tokens = realloc(v->tokens, capacity * sizeof(span));
    if (!tokens) return llava_fail_memory(err, capacity * sizeof(span), "the vocabulary");
    memset(tokens + v->capacity, 0, (capacity - v->capacity) * sizeof(span));
    v->tokens = tokens;
    v->capacity = capacity;
    return LLAVA_OK;
}

llava_status vocabulary_set(vocabulary *v, int64_t id, span text, const char *what,
                            llava_error *err) {
    const int64_t limit = (int64_t)v->ids.n_slots * GAP_FACTOR + GAP_SLACK;
    if (id < 0 || id >= limit)
        return llava_fail(err, LLAVA_MALFORMED,
                          "%s: token \"%.40s\" has id %lld, expected 0 to %lld for this number of "
                          "tokens",
                          what, text.data, (long long)id, (long long)limit - 1);
    LLAVA_TRY(vocabulary_grow(v, (size_t)id + 1, err));
    const span copy = {text_pool_copy(&v->pool, text.data, text.size), text.size};
    if (!copy.data || !string_map_set(&v->ids, copy, (int32_t)id))
        return llava_fail_memory(err, text.size, "the vocabulary");
    v->tokens[id] = copy;
    if ((size_t)id >= v->n_ids) v->n_ids = (size_t)id + 1;
    return LLAVA_OK;
}

int32_t vocabulary_id(const vocabulary *v, span text) { return string_map_get(&v->ids, text); }

span vocabulary_token(const vocabulary *v, int32_t id) {
    return id >= 0 && (size_t)id < v->n_ids ? v->tokens[id] : (span){0};
}
