/* SPDX-License-Identifier: Apache-2.0
 *
 * SentencePiece's two encoders: BPE by score with a heap, unigram by Viterbi.
 */
#include <assert.h>
#include <stdlib.h>

#include "text/sentencepiece.h"
#include "text/viterbi.h"

#define UNKNOWN_PENALTY 10.0f

/* ---------------------------------------------------------------- emitting */

/* An encoder's output being turned into ids; runs of unknown symbols become one id. */
typedef struct emitter {
    const spm_model *model;
    ids *out;
    bool after_unknown;
} emitter;

static bool emit(emitter *e, int32_t id, span symbol) {
    const spm_model *model = e->model;
    if (id != model->unk_id) {
        e->after_unknown = false;
        return ids_append(e->out, &id, 1);
    }
    if (model->byte_fallback) {
        for (size_t i = 0; i < symbol.size; i++)
            if (!ids_append(e->out, &model->bytes[(uint8_t)symbol.data[i]], 1)) return false;
        return true;
    }
    if (e->after_unknown) return true;
    e->after_unknown = true;
    return ids_append(e->out, &id, 1);
}

/* ---------------------------------------------------------------- BPE */

typedef struct symbol {
    span text; /* empty: merged away */
    int32_t previous, next;
    bool frozen;
} symbol;

typedef struct candidate {
    float score;
    int32_t left, right;
    size_t size;
} candidate;

/* How an UNUSED piece came about, to take it apart again. */
typedef struct unused_merge {
    span whole;
    size_t left_size;
} unused_merge;

typedef struct spm_bpe {
    const spm_model *model;
    symbol *symbols;
    size_t n_symbols;
    candidate *heap;
    size_t n_heap;
    unused_merge *unused;
    size_t n_unused, unused_capacity;
    string_map unused_index;
    bool out_of_memory;
} spm_bpe;

static bool better(const candidate *a, const candidate *b) {
    return a->score > b->score || (a->score == b->score && a->left < b->left);
}

static void heap_push(spm_bpe *b, candidate entry) {
    size_t at = b->n_heap++;
    while (at && better(&entry, &b->heap[(at - 1) / 2])) {
        b->heap[at] = b->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    b->heap[at] = entry;
}

static candidate heap_pop(spm_bpe *b) {
    const candidate top = b->heap[0], last = b->heap[--b->n_heap];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= b->n_heap) break;
        if (child + 1 < b->n_heap && better(&b->heap[child + 1], &b->heap[child])) child++;
        if (!better(&b->heap[child], &last)) break;
        b->heap[at] = b->heap[child];
        at = child;
    }
    b->heap[at] = last;
    return top;
}

static void remember_unused(spm_bpe *b, span whole, size_t left_size) {
    if (b->n_unused == b->unused_capacity) {
        const size_t capacity = b->unused_capacity ? 2 * b->unused_capacity : 16;
        unused_merge *unused = realloc(b->unused, capacity * sizeof *unused);
        if (!unused) {
            b->out_of_memory = true;
            return;
        }
        b->unused = unused;
        b->unused_capacity = capacity;
    }
    b->unused[b->n_unused] = (unused_merge){whole, left_size};
    if (!string_map_set(&b->unused_index, whole, (int32_t)b->n_unused)) b->out_of_memory = true;
    b->n_unused++;
}

static void consider(spm_bpe *b, int32_t left, int32_t right) {
    if (left < 0 || right < 0) return;
    const symbol *l = &b->symbols[left], *r = &b->symbols[right];
    if (l->frozen || r->frozen) return;
    const span whole = {l->text.data, l->text.size + r->text.size};
    if (whole.size > b->model->longest_piece) return;
    const int32_t id = string_map_get(&b->model->normal, whole);
    if (id < 0) return;
    heap_push(b, (candidate){b->model->pieces[id].score, left, right, whole.size});
    if (b->model->pieces[id].type == PIECE_UNUSED) remember_unused(b, whole, l->text.size);
}

static void cut_symbols(spm_bpe *b, const char *text, size_t size) {
    for (size_t at = 0; at < size;) {
        size_t length = 0;
        const bool frozen =
            prefix_longest(&b->model->user_defined, text + at, size - at, &length) >= 0;
        if (!frozen) length = utf8_length(text + at, size - at);
        const int32_t index = (int32_t)b->n_symbols++;
        b->symbols[index] = (symbol){{text + at, length}, index - 1, index + 1, frozen};
        at += length;
    }
    if (b->n_symbols) b->symbols[b->n_symbols - 1].next = -1;
}

static void merge_symbols(spm_bpe *b) {
    for (size_t i = 1; i < b->n_symbols; i++) consider(b, (int32_t)i - 1, (int32_t)i);
    while (b->n_heap) {
        const candidate top = heap_pop(b);
        symbol *left = &b->symbols[top.left], *right = &b->symbols[top.right];
        if (!left->text.size || !right->text.size || left->text.size + right->text.size != top.size)
            continue;
        left->text.size = top.size;
        left->next = right->next;
        if (right->next >= 0) b->symbols[right->next].previous = top.left;
        right->text.size = 0;
        consider(b, left->previous, top.left);
        consider(b, top.left, left->next);
    }
}

/* Takes UNUSED pieces apart without recursion: a stack of what is still to be emitted, bounded by
 * the number of bytes, since every entry is part of the symbol. */
static bool emit_symbol(const spm_bpe *b, emitter *e, span text, span *stack) {
    size_t depth = 0;
    stack[depth++] = text;
    while (depth) {
        const span part = stack[--depth];
        const int32_t id = spm_id(b->model, part);
        const int32_t merge =
            b->model->pieces[id].type == PIECE_UNUSED ? string_map_get(&b->unused_index, part) : -1;
        if (merge < 0) {
            if (!emit(e, id, part)) return false;
            continue;
        }
        assert(b->unused);
        const size_t left = b->unused[merge].left_size;
        stack[depth++] = (span){part.data + left, part.size - left};
        stack[depth++] = (span){part.data, left};
    }
    return true;
}

static bool encode_bpe(const spm_model *model, const char *text, size_t size, emitter *e) {
    spm_bpe b = {.model = model};
    /* every merge removes a symbol and adds at most two candidates */
    b.symbols = array_new(size, sizeof *b.symbols);
    b.heap = array_new(size, 3 * sizeof *b.heap);
    span *stack = NULL;
    bool ok = b.symbols && b.heap;
    if (ok) {
        cut_symbols(&b, text, size);
        merge_symbols(&b);
        stack = array_new(model->longest_piece + 2, sizeof *stack);
        ok = stack && !b.out_of_memory;
    }
    for (size_t i = 0; ok && i < b.n_symbols; i++)
        if (b.symbols[i].text.size) ok = emit_symbol(&b, e, b.symbols[i].text, stack);
    free(b.symbols);
    free(b.heap);
    free(b.unused);
    free(stack);
    string_map_free(&b.unused_index);
    return ok;
}

/* ---------------------------------------------------------------- unigram */

static bool unigram_score(const void *user, int32_t id, size_t size, double *score) {
    const spm_model *model = user;
    const spm_piece *piece = &model->pieces[id];
    if (piece->type == PIECE_UNUSED) return false;
    /* the bonus makes a user-defined piece win over any path of ordinary ones */
    *score = piece->type == PIECE_USER_DEFINED ? (double)((float)size * model->max_score) - 0.1
                                               : (double)piece->score;
    return true;
}

static bool encode_unigram(const spm_model *model, const char *text, size_t size, emitter *e) {
    const viterbi_model viterbi = {&model->unigram, unigram_score,
                                   model,           (double)(model->min_score - UNKNOWN_PENALTY),
                                   model->unk_id,   true};
    viterbi_edge *edges;
    size_t n_edges;
    if (!viterbi_run(&viterbi, text, size, &edges, &n_edges)) return false;
    bool ok = true;
    for (size_t i = 0; ok && i < n_edges; i++)
        ok = emit(e, edges[i].id, (span){text + edges[i].start, edges[i].end - edges[i].start});
    free(edges);
    return ok;
}

llava_status spm_encode(const spm_model *model, bool dummy_prefix, const char *text, size_t size,
                        ids *out, llava_error *err) {
    bytes normalized = {0};
    emitter e = {model, out, false};
    bool ok = spm_normalize(model, dummy_prefix, text, size, &normalized);
    if (ok && normalized.size > INT32_MAX / 2) {
        bytes_free(&normalized);
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "text of %zu bytes is too long to encode", size);
    }
    if (ok && normalized.size)
        ok = model->algorithm == SPM_BPE
                 ? encode_bpe(model, normalized.data, normalized.size, &e)
                 : encode_unigram(model, normalized.data, normalized.size, &e);
    bytes_free(&normalized);
    return ok ? LLAVA_OK : llava_fail_memory(err, size, "encoding text");
}
