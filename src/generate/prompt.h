/* SPDX-License-Identifier: Apache-2.0
 *
 * A prompt as the decoder sees it: one key per row, and the rows of its pictures.
 */
#ifndef LLAVA_GENERATE_PROMPT_H
#define LLAVA_GENERATE_PROMPT_H

#include "base/base.h"
#include "image/image.h"
#include "model/model.h"
#include "text/text.h"

/** What a row of the prompt is. Equal keys at equal positions after equal keys have equal cache
 *  entries. A token has b = 0 and its id in a; a picture's row has the top bit of b set. */
typedef struct row_key {
    uint64_t a, b;
} row_key;

static inline row_key row_key_of_token(int32_t id) { return (row_key){(uint32_t)id, 0}; }
static inline bool row_key_is_token(row_key key) { return key.b == 0; }
static inline bool row_key_equal(row_key x, row_key y) { return x.a == y.a && x.b == y.b; }

/** A picture or video of a prompt. */
typedef struct prompt_picture {
    vision_plan plan;
    const llava_image *const *images; /* the caller's, only while feeding */
    size_t n_images;
    int64_t first_row;
    float *rows; /* [plan.n_rows, hidden_size]; NULL: not computed */
} prompt_picture;

typedef struct prompt {
    row_key *keys;
    size_t key_capacity;
    int64_t n_rows, n_visual;
    prompt_picture *pictures;
    size_t n_pictures;
} prompt;

/** What prompts are made with. */
typedef struct prompt_source {
    const llava_model *model;
    const llava_tokenizer *tokenizer;
    const llava_image_processor *processor; /* NULL: plain language model */
    int64_t max_rows;                       /* most rows a prompt may have */
} prompt_source;

/** Tokens, plans and keys; computes nothing of the pictures. */
llava_status prompt_build(const prompt_source *source, const llava_part *parts, size_t n_parts,
                          prompt *out, llava_error *err);
/** Computes the rows of pictures that do not end before row n_cached, then lets go of the
 *  caller's images. */
llava_status prompt_encode_pictures(const prompt_source *source, prompt *p, int64_t n_cached,
                                    llava_error *err);
/** Embeddings of rows first ... first + n - 1: [n, hidden_size]. token_work has room for n. */
llava_status prompt_embed(const llava_model *model, const prompt *p, int64_t first, int64_t n,
                          float *rows, int32_t *token_work, llava_error *err);
void prompt_free(prompt *p);
/** The pictures' rows are not needed any more. */
void prompt_release_pictures(prompt *p);

/** Two independent 64-bit hashes of bytes; exposed for tests. */
row_key hash_bytes(row_key start, const void *data, size_t size);

#endif
