/* SPDX-License-Identifier: Apache-2.0
 *
 * A model's own tokens: text to id and id to text.
 */
#ifndef LLAVA_VOCABULARY_H
#define LLAVA_VOCABULARY_H

#include "text/string_map.h"

typedef struct vocabulary {
    text_pool pool;
    string_map ids;
    span *tokens; /* by id; data NULL: a gap */
    size_t n_ids; /* largest id + 1 */
    size_t capacity;
} vocabulary;

/** expected: number of tokens to come. */
llava_status vocabulary_init(vocabulary *v, arena *memory, size_t expected, llava_error *err);
void vocabulary_free(vocabulary *v);
/** Copies the text. An id far beyond the number of tokens expected is an error. */
llava_status vocabulary_set(vocabulary *v, int64_t id, span text, const char *what,
                            llava_error *err);
int32_t vocabulary_id(const vocabulary *v, span text);  /* -1: none */
span vocabulary_token(const vocabulary *v, int32_t id); /* data NULL: none */

#endif
