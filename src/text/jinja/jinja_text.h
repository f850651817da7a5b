/* SPDX-License-Identifier: Apache-2.0
 *
 * What methods and filters of texts and mappings share.
 */
#ifndef LLAVA_JINJA_TEXT_H
#define LLAVA_JINJA_TEXT_H

#include "jinja_value.h"

typedef enum jinja_case_style {
    CASE_UPPER,
    CASE_LOWER,
    CASE_TITLE,   /* letters behind non-letters: str.title() */
    CASE_WORDS,   /* first character of each word: the title filter */
    CASE_CAPITAL, /* the first character only */
    CASE_SWAP
} jinja_case_style;

typedef enum jinja_dict_what { DICT_KEYS, DICT_VALUES, DICT_ITEMS } jinja_dict_what;

const jv *jinja_case(jinja *j, const jv *self, jinja_case_style style);
bool jinja_is_case(const jv *s, bool upper_case);
bool jinja_is_space(int32_t code); /* str.isspace() */
/** characters NULL: whitespace. */
const jv *jinja_strip(jinja *j, const jv *self, const jv *characters, bool left, bool right);
const jv *jinja_replace(jinja *j, const jv *s, const jv *from, const jv *to, int64_t limit);
const jv *jinja_dict_part(jinja *j, const jv *dict, jinja_dict_what what);

#endif
