/* SPDX-License-Identifier: Apache-2.0
 *
 * Fast tokenizers made from the files of slow ones (transformers 4.40, convert_slow_tokenizer.py).
 */
#include <stdlib.h>

#include "text/tokenizer.h"

/* ---------------------------------------------------------------- byte-level */

llava_status tokenizer_byte_level_pipeline(llava_tokenizer *t, bool add_prefix_space,
                                           llava_error *err) {
    static const char qwen2[] =
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+"
        "[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    static const char gpt2[] =
        "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    component_memory *memory = &t->components;
    const bool is_qwen = t->class == CLASS_QWEN2;
    pre_tokenizer_step spell = {.kind = PRE_BYTE_LEVEL,
                                .add_prefix_space = !is_qwen && add_prefix_space,
                                .use_regex = !is_qwen};
    split_pattern *pattern;
    if (is_qwen) {
        const normalizer_step nfc = {.kind = NORMALIZER_FORM, .form = FORM_NFC};
        pre_tokenizer_step split = {.kind = PRE_SPLIT, .behaviour = SPLIT_ISOLATED};
        LLAVA_TRY(normalizer_add(memory, &t->normalizer, nfc, err));
        LLAVA_TRY(pattern_new_regex(memory, qwen2, sizeof qwen2 - 1, "Qwen2", &pattern, err));
        split.pattern = pattern;
        LLAVA_TRY(pre_tokenizer_add(memory, &t->pre_tokenizer, split, err));
    } else {
        LLAVA_TRY(pattern_new_regex(memory, gpt2, sizeof gpt2 - 1, "GPT-2", &pattern, err));
        spell.pattern = pattern;
    }
    LLAVA_TRY(pre_tokenizer_add(memory, &t->pre_tokenizer, spell, err));
    return token_decoder_add(memory, &t->decoder, (decoder_step){.kind = DECODER_BYTE_LEVEL}, err);
}

/* ---------------------------------------------------------------- SentencePiece */

/* A merge that rebuilds a piece from two others. */
typedef struct rebuilt_merge {
    float score;
    int32_t order; /* of arrival: pieces by id, splits by the ids of both halves */
    int32_t piece;
    uint32_t left_size;
} rebuilt_merge;

typedef struct merge_list {
    rebuilt_merge *items;
    size_t count, capacity;
} merge_list;

static bool merge_list_add(merge_list *list, rebuilt_merge merge) {
    if (list->count == list->capacity) {
        const size_t capacity = list->capacity ? 2 * list->capacity : 1024;
        rebuilt_merge *items = realloc(list->items, capacity * sizeof *items);
        if (!items) return false;
        list->items = items;
        list->capacity = capacity;
    }
    merge.order = (int32_t)list->count;
    list->items[list->count++] = merge;
    return true;
}

static int by_score(const void *a, const void *b) {
    const rebuilt_merge *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return (x->order > y->order) - (x->order < y->order);
}

typedef struct piece_split {
    int32_t left, right;
    uint32_t left_size;
} piece_split;

static int by_halves(const void *a, const void *b) {
    const piece_split *x = a, *y = b;
    if (x->left != y->left) return x->left < y->left ? -1 : 1;
    return (x->right > y->right) - (x->right < y->right);
}

#define MAX_SPLITS 1024

/* All ways to put one piece together, in order of the ids of the halves. */
static bool split_piece(const llava_tokenizer *t, int32_t piece, float score, merge_list *list) {
    const span text = vocabulary_token(&t->vocab, piece);
    piece_split splits[MAX_SPLITS];
    size_t n = 0;
    if (text.size > 4 * MAX_SPLITS) return true; /* no vocabulary of ours; would be quadratic */
    for (size_t at = utf8_length(text.data, text.size); at < text.size && n < MAX_SPLITS;
         at += utf8_length(text.data + at, text.size - at)) {
        const int32_t left = vocabulary_id(&t->vocab, (span){text.data, at});
        if (left < 0) continue;
        const int32_t right = vocabulary_id(&t->vocab, (span){text.data + at, text.size - at});
        if (right >= 0) splits[n++] = (piece_split){left, right, (uint32_t)at};
    }
    qsort(splits, n, sizeof *splits, by_halves);
    for (size_t i = 0; i < n; i++)
        if (!merge_list_add(list, (rebuilt_merge){score, 0, piece, splits[i].left_size}))
            return false;
    return true;
}

static llava_status rebuild_merges(llava_tokenizer *t, llava_error *err) {
    merge_list list = {0};
    llava_status status = LLAVA_OK;
    for (size_t i = 0; i < t->spm->n_pieces; i++)
        if (!split_piece(t, (int32_t)i, i < 3 ? 0 : t->spm->pieces[i].score, &list))
            status = llava_fail_memory(err, sizeof(rebuilt_merge), "merges");
    if (status == LLAVA_OK && list.count)
        qsort(list.items, list.count, sizeof *list.items, by_score);
    for (size_t i = 0; status == LLAVA_OK && i < list.count; i++) {
        const span text = vocabulary_token(&t->vocab, list.items[i].piece);
        const size_t left = list.items[i].left_size;
        status = tokenizer_add_merge(t, (span){text.data, left},
                                     (span){text.data + left, text.size - left}, (uint32_t)i,
                                     "tokenizer.model", err);
    }
    free(list.items);
    return status;
}

static llava_status convert_vocabulary(llava_tokenizer *t, llava_error *err) {
    const spm_model *spm = t->spm;
    LLAVA_TRY(vocabulary_init(&t->vocab, tokenizer_arena(t), spm->n_pieces, err));
    for (size_t i = 0; i < spm->n_pieces; i++) {
        span text = spm->pieces[i].text;
        /* Gemma's tab exists as a byte only, while merges want the character */
        if (t->class == CLASS_GEMMA && span_equal(text, span_of("<0x09>"))) text = span_of("\t");
        LLAVA_TRY(vocabulary_set(&t->vocab, (int64_t)i, text, "tokenizer.model", err));
    }
    return LLAVA_OK;
}

static llava_status convert_unigram(llava_tokenizer *t, llava_error *err) {
    unigram_model *unigram = &t->unigram;
    const spm_model *spm = t->spm;
    t->model = MODEL_UNIGRAM;
    unigram->unk_id = spm->unk_id;
    unigram->byte_fallback = true;
    unigram->scores = array_new(spm->n_pieces, sizeof(double));
    if (!unigram->scores) return llava_fail_memory(err, spm->n_pieces * 8, "the vocabulary");
    for (size_t i = 0; i < spm->n_pieces; i++) {
        unigram->scores[i] = i < 3 ? 0 : (double)spm->pieces[i].score;
        if (!i || unigram->scores[i] < unigram->min_score) unigram->min_score = unigram->scores[i];
        if (!prefix_index_add(&unigram->pieces, vocabulary_token(&t->vocab, (int32_t)i),
                              (int32_t)i))
            return llava_fail_memory(err, sizeof(prefix_entry), "the vocabulary");
    }
    prefix_index_sort(&unigram->pieces);
    byte_token_ids(&t->vocab, unigram->byte_ids);
    return LLAVA_OK;
}

static llava_status convert_bpe(llava_tokenizer *t, llava_error *err) {
    t->model = MODEL_BPE;
    t->bpe.fuse_unk = true;
    t->bpe.byte_fallback = true;
    t->bpe.unk_id = vocabulary_id(&t->vocab, t->spm->unk_piece);
    LLAVA_TRY(rebuild_merges(t, err));
    bpe_index(&t->bpe, &t->vocab);
    return LLAVA_OK;
}

/* Llama: a space symbol before each segment; Gemma: none. */
static llava_status convert_pipeline(llava_tokenizer *t, llava_error *err) {
    component_memory *memory = &t->components;
    const bool prefix = t->class != CLASS_GEMMA;
    split_pattern *space, *symbol;
    LLAVA_TRY(pattern_new_literal(memory, span_of(" "), &space, err));
    LLAVA_TRY(pattern_new_literal(memory, span_of(SPACE_SYMBOL), &symbol, err));
    const normalizer_step prepend = {.kind = NORMALIZER_PREPEND, .text = span_of(SPACE_SYMBOL)};
    const normalizer_step escape = {
        .kind = NORMALIZER_REPLACE, .text = span_of(SPACE_SYMBOL), .pattern = space};
    if (prefix) LLAVA_TRY(normalizer_add(memory, &t->normalizer, prepend, err));
    LLAVA_TRY(normalizer_add(memory, &t->normalizer, escape, err));
    const decoder_step steps[] = {
        {.kind = DECODER_REPLACE, .pattern = symbol, .text = span_of(" ")},
        {.kind = DECODER_BYTE_FALLBACK},
        {.kind = DECODER_FUSE},
        {.kind = DECODER_STRIP, .text = span_of(" "), .left = 1},
    };
    const size_t n_steps = prefix ? 4 : 3;
    for (size_t i = 0; i < n_steps; i++)
        LLAVA_TRY(token_decoder_add(memory, &t->decoder, steps[i], err));
    return LLAVA_OK;
}

/* The first pieces are special; Gemma also takes its user-defined pieces as added tokens. */
static llava_status convert_added(llava_tokenizer *t, llava_error *err) {
    const size_t n_special = t->class == CLASS_GEMMA ? 4 : 3;
    int32_t id;
    for (size_t i = 0; i < n_special && i < t->spm->n_pieces; i++) {
        const added_token token = {.text = t->spm->pieces[i].text, .id = -1, .special = true};
        LLAVA_TRY(tokenizer_put(t, token, &id, err));
    }
    for (size_t i = 0; t->class == CLASS_GEMMA && i < t->spm->n_user_symbols; i++) {
        const added_token token = {.text = t->spm->user_symbols[i], .id = -1};
        LLAVA_TRY(tokenizer_put(t, token, &id, err));
    }
    return LLAVA_OK;
}

llava_status tokenizer_convert_spm(llava_tokenizer *t, llava_error *err) {
    LLAVA_TRY(convert_vocabulary(t, err));
    if (t->spm->algorithm == SPM_UNIGRAM)
        LLAVA_TRY(convert_unigram(t, err));
    else
        LLAVA_TRY(convert_bpe(t, err));
    LLAVA_TRY(convert_pipeline(t, err));
    LLAVA_TRY(convert_added(t, err));
    spm_free(&t->spm);
    return LLAVA_OK;
}
