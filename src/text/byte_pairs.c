/* SPDX-License-Identifier: Apache-2.0
 *
 * BPE as tokenizers 0.19 runs it: lowest rank first, then leftmost; a heap, so that a segment of
 * n characters without word boundaries costs O(n log n).
 */
#include <stdio.h>
#include <stdlib.h>

#include "text/byte_pairs.h"
#include "text/characters.h"

typedef struct bpe_symbol {
    int32_t id;
    int32_t previous, next; /* -1: none */
    bool gone;
} bpe_symbol;

typedef struct bpe_candidate {
    uint32_t rank;
    int32_t left;
    int32_t id; /* of the result */
} bpe_candidate;

void byte_token_ids(const vocabulary *v, int32_t byte_ids[256]) {
    for (int byte = 0; byte < 256; byte++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)byte);
        byte_ids[byte] = vocabulary_id(v, span_of(name));
    }
}

void bpe_index(bpe_model *model, const vocabulary *v) {
    byte_token_ids(v, model->byte_ids);
    for (int byte = 0; byte < 128; byte++) {
        const char c = (char)byte;
        model->ascii[byte] = vocabulary_id(v, (span){&c, 1});
    }
}

void bpe_scratch_free(bpe_scratch *scratch) {
    free(scratch->symbols);
    free(scratch->heap);
    bytes_free(&scratch->word);
    *scratch = (bpe_scratch){0};
}

/* Symbols: at most one for each byte of word and fallback; candidates: one for each pair, two more
 * for each merge. */
static bool scratch_reserve(bpe_scratch *s, size_t n_symbols) {
    s->n_symbols = 0;
    s->n_heap = 0;
    if (n_symbols <= s->capacity) return true;
    const size_t capacity = n_symbols + n_symbols / 2 + 32;
    bpe_symbol *symbols = array_new(capacity, sizeof *symbols);
    bpe_candidate *heap = array_new(capacity, 3 * sizeof *heap);
    if (!symbols || !heap) {
        free(symbols);
        free(heap);
        return false;
    }
    free(s->symbols);
    free(s->heap);
    s->symbols = symbols;
    s->heap = heap;
    s->capacity = capacity;
    return true;
}

/* ---------------------------------------------------------------- merging */

static bool comes_first(const bpe_candidate *a, const bpe_candidate *b) {
    return a->rank < b->rank || (a->rank == b->rank && a->left < b->left);
}

static void push(bpe_scratch *s, bpe_candidate entry) {
    size_t at = s->n_heap++;
    while (at && comes_first(&entry, &s->heap[(at - 1) / 2])) {
        s->heap[at] = s->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    s->heap[at] = entry;
}

static bpe_candidate pop(bpe_scratch *s) {
    const bpe_candidate top = s->heap[0], last = s->heap[--s->n_heap];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= s->n_heap) break;
        if (child + 1 < s->n_heap && comes_first(&s->heap[child + 1], &s->heap[child])) child++;
        if (!comes_first(&s->heap[child], &last)) break;
        s->heap[at] = s->heap[child];
        at = child;
    }
    s->heap[at] = last;
    return top;
}

static void consider(const bpe_model *model, bpe_scratch *s, int32_t left, int32_t right) {
    if (left < 0 || right < 0) return;
    const merge_slot *merge =
        merge_map_get(&model->merges, s->symbols[left].id, s->symbols[right].id);
    if (merge) push(s, (bpe_candidate){merge->rank, left, merge->id});
}

static void merge_all(const bpe_model *model, bpe_scratch *s) {
    for (size_t i = 1; i < s->n_symbols; i++) consider(model, s, (int32_t)i - 1, (int32_t)i);
    while (s->n_heap) {
        const bpe_candidate top = pop(s);
        bpe_symbol *left = &s->symbols[top.left];
        if (left->gone || left->next < 0) continue;
        bpe_symbol *right = &s->symbols[left->next];
        /* an old entry may still do if the pair that is there now gives the same token */
        const merge_slot *merge = merge_map_get(&model->merges, left->id, right->id);
        if (!merge || merge->id != top.id) continue;
        left->id = top.id;
        left->next = right->next;
        right->gone = true;
        if (left->next >= 0) s->symbols[left->next].previous = top.left;
        consider(model, s, left->previous, top.left);
        consider(model, s, top.left, left->next);
    }
}

/* ---------------------------------------------------------------- symbols */

static void add_symbol(bpe_scratch *s, int32_t id) {
    const int32_t index = (int32_t)s->n_symbols++;
    s->symbols[index] = (bpe_symbol){id, index - 1, -1, false};
    if (index) s->symbols[index - 1].next = index;
}

static bool add_bytes(const bpe_model *model, bpe_scratch *s, span symbol) {
    for (size_t i = 0; i < symbol.size; i++)
        if (model->byte_ids[(uint8_t)symbol.data[i]] < 0) return false;
    for (size_t i = 0; i < symbol.size; i++)
        add_symbol(s, model->byte_ids[(uint8_t)symbol.data[i]]);
    return true;
}

/* A character as the vocabulary writes it. False: out of memory. */
static bool decorate(const bpe_model *model, bpe_scratch *s, span *symbol, bool first, bool last) {
    const bool prefix = !first && model->prefix.size, suffix = last && model->suffix.size;
    if (!prefix && !suffix) return true;
    s->word.size = 0;
    if ((prefix && !bytes_append(&s->word, model->prefix.data, model->prefix.size)) ||
        !bytes_append(&s->word, symbol->data, symbol->size) ||
        (suffix && !bytes_append(&s->word, model->suffix.data, model->suffix.size)))
        return false;
    *symbol = (span){s->word.data, s->word.size};
    return true;
}

static bool add_symbols(const bpe_model *model, const vocabulary *v, bpe_scratch *s,
                        const char *text, size_t size) {
    bool pending_unknown = false;
    for (size_t at = 0; at < size;) {
        const size_t length = utf8_length(text + at, size - at);
        span symbol = {text + at, length};
        if (!decorate(model, s, &symbol, at == 0, at + length == size)) return false;
        at += length;
        const int32_t id = symbol.size == 1 && (uint8_t)symbol.data[0] < 128
                               ? model->ascii[(uint8_t)symbol.data[0]]
                               : vocabulary_id(v, symbol);
        if (id >= 0) {
            if (pending_unknown) add_symbol(s, model->unk_id);
            pending_unknown = false;
            add_symbol(s, id);
            continue;
        }
        if (model->byte_fallback && add_bytes(model, s, symbol)) continue;
        if (model->unk_id < 0) continue;
        if (pending_unknown && !model->fuse_unk) add_symbol(s, model->unk_id);
        pending_unknown = true;
    }
    if (pending_unknown) add_symbol(s, model->unk_id);
    return true;
}

llava_status bpe_encode(const bpe_model *model, const vocabulary *v, bpe_scratch *scratch,
                        span text, ids *out, llava_error *err) {
    if (!text.size) return LLAVA_OK;
    if (model->ignore_merges) {
        const int32_t id = vocabulary_id(v, text);
        if (id >= 0)
            return ids_append(out, &id, 1) ? LLAVA_OK : llava_fail_memory(err, 4, "token ids");
    }
    size_t n_symbols;
    if (!size_mul(text.size, 1 + model->prefix.size, &n_symbols) ||
        !size_add(n_symbols, model->suffix.size + 1, &n_symbols) || n_symbols > INT32_MAX)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "text of %zu bytes is too long to encode",
                          text.size);
    if (!scratch_reserve(scratch, n_symbols) ||
        !add_symbols(model, v, scratch, text.data, text.size))
        return llava_fail_memory(err, n_symbols * sizeof(bpe_symbol), "encoding text");
    merge_all(model, scratch);
    for (int32_t i = scratch->n_symbols ? 0 : -1; i >= 0; i = scratch->symbols[i].next)
        if (!ids_append(out, &scratch->symbols[i].id, 1))
            return llava_fail_memory(err, 4, "token ids");
    return LLAVA_OK;
}
