/* SPDX-License-Identifier: Apache-2.0
 *
 * Replacing texts in a stream: what comes out in parts is what str.replace() gives for the whole.
 */
#ifndef LLAVA_TEXT_FILTER_H
#define LLAVA_TEXT_FILTER_H

#include "text/string_map.h"

#define FILTER_MAX_TEXT 8

typedef struct filter_rule {
    const char *from, *to; /* from: 1 to FILTER_MAX_TEXT - 1 ASCII characters */
} filter_rule;

/** Beginnings of `from` seen and not yet passed on, for each rule. Zero-initialise. */
typedef struct text_filter {
    struct {
        char data[FILTER_MAX_TEXT];
        size_t size;
    } held[16];
} text_filter;

/** clean_up_tokenization (transformers 4.40) and the clean-up of WordPiece (tokenizers 0.19). */
extern const filter_rule clean_up_rules[];
extern const size_t n_clean_up_rules;
extern const filter_rule word_piece_rules[];
extern const size_t n_word_piece_rules;

/** The rules one after the other, each over the result of the one before. Appends. */
bool text_filter_push(text_filter *filter, const filter_rule *rules, size_t n_rules,
                      const char *text, size_t size, bytes *out);
bool text_filter_finish(text_filter *filter, const filter_rule *rules, size_t n_rules, bytes *out);

#endif
