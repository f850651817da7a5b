/* SPDX-License-Identifier: Apache-2.0
 *
 * The models of tokenizer.json: BPE by merge ranks, and unigram. Both over one vocabulary.
 */
#ifndef LLAVA_BYTE_PAIRS_H
#define LLAVA_BYTE_PAIRS_H

#include "text/text.h"
#include "text/vocabulary.h"

typedef struct bpe_model {
    merge_map merges;
    span prefix, suffix; /* continuing_subword_prefix, end_of_word_suffix; size 0: none */
    bool fuse_unk, byte_fallback, ignore_merges;
    int32_t unk_id; /* -1: none, unknown characters vanish */
    int32_t byte_ids[256];
    int32_t ascii[128]; /* ids of one-byte characters: the common case without hashing */
} bpe_model;

typedef struct unigram_model {
    double *scores; /* by id */
    prefix_index pieces;
    double min_score;
    bool byte_fallback;
    int32_t unk_id; /* -1: none, unknown characters are an error */
    int32_t byte_ids[256];
} unigram_model;

/** Fills the tables that are looked up by byte, after vocabulary and options are set. */
void bpe_index(bpe_model *model, const vocabulary *v);
/** Ids of the byte tokens <0x00> to <0xFF>, -1 where absent. */
void byte_token_ids(const vocabulary *v, int32_t byte_ids[256]);

/** Working memory of one encoding; zero-initialise, reuse from word to word. */
typedef struct bpe_scratch {
    struct bpe_symbol *symbols;
    struct bpe_candidate *heap;
    size_t n_symbols, n_heap, capacity;
    bytes word; /* a character with prefix or suffix */
} bpe_scratch;

void bpe_scratch_free(bpe_scratch *scratch);

/** Appends the ids of one word of valid UTF-8. */
llava_status bpe_encode(const bpe_model *model, const vocabulary *v, bpe_scratch *scratch,
                        span text, ids *out, llava_error *err);
llava_status unigram_encode(const unigram_model *model, const vocabulary *v, const char *text,
                            size_t size, ids *out, llava_error *err);

#endif
