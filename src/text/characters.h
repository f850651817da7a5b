/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tokenizers ask about characters: classes of Unicode 14.0, trimming, normal forms.
 */
#ifndef LLAVA_CHARACTERS_H
#define LLAVA_CHARACTERS_H

#include "text/string_map.h"

#define REPLACEMENT_CHARACTER "\xef\xbf\xbd" /* U+FFFD */
#define SPACE_SYMBOL          "\xe2\x96\x81" /* U+2581, SentencePiece's space */
#define SPACE_SYMBOL_SIZE     3

bool char_is_letter(int32_t code);      /* Lu Ll Lt Lm Lo */
bool char_is_number(int32_t code);      /* Nd Nl No */
bool char_is_space(int32_t code);       /* White_Space */
bool char_is_mark(int32_t code);        /* Mn Mc Me */
bool char_is_punctuation(int32_t code); /* P*, and all ASCII punctuation */
bool char_is_word(int32_t code);        /* \w of UTS 18: alphabetic, mark, digit, connector */

/** Both ends belong to it. */
typedef struct char_range {
    int32_t first, last;
} char_range;

extern const char_range letter_ranges[], number_ranges[]; /* Unicode 14.0, above ASCII */
extern const size_t n_letter_ranges, n_number_ranges;

/** Length of the character that starts here: by the lead byte, at least 1, at most size. */
size_t utf8_length(const char *text, size_t size);
bool utf8_valid(const char *text, size_t size);
/** Where the last character of text[0..size) starts. */
size_t utf8_last(const char *text, size_t size);
/** Appends text with every invalid byte as U+FFFD. */
bool utf8_sanitize(const char *text, size_t size, bytes *out);
/** How many bytes at text are one character for a lossy decoder. *bad: they stand for U+FFFD (a
 *  maximal subpart, as in the Unicode standard's table 3-8). 0: more bytes could complete it. */
size_t utf8_lossy_next(const char *text, size_t size, bool *bad);

/** Bytes of white space at the end or start of text. python: U+001C to U+001F count too, as in
 *  Python's str.strip(). */
size_t spaces_at_end(const char *text, size_t size, bool python);
size_t spaces_at_start(const char *text, size_t size, bool python);

typedef enum normal_form { FORM_NFC, FORM_NFD, FORM_NFKC, FORM_NFKD } normal_form;

/** Appends the normal form of valid UTF-8. False: out of memory. */
bool normal_form_append(normal_form form, const char *text, size_t size, bytes *out);
/** Full lower case of one character: at most two code points. */
size_t lower_case(int32_t code, int32_t out[2]);

/** Appends text with every `from` replaced. */
bool replace_append(span text, span from, span to, bytes *out);

#endif
