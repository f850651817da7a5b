/* SPDX-License-Identifier: Apache-2.0
 *
 * A template as tokens: text, and the words inside {{ }} and {% %}.
 */
#ifndef LLAVA_JINJA_LEX_H
#define LLAVA_JINJA_LEX_H

#include "jinja_value.h"

typedef enum jinja_token_kind {
    JT_TEXT,
    JT_PRINT_BEGIN,
    JT_PRINT_END,
    JT_TAG_BEGIN,
    JT_TAG_END,
    JT_NAME,
    JT_NUMBER,   /* value */
    JT_STRING,   /* value */
    JT_OPERATOR, /* text: "==", "//", "(" ... */
    JT_END
} jinja_token_kind;

typedef struct jinja_token {
    jinja_token_kind kind;
    const char *text; /* NUL-terminated */
    const jv *value;  /* TEXT, NUMBER, STRING */
    int line;
} jinja_token;

/** Tokens up to and including JT_END; NULL after an error. */
const jinja_token *jinja_tokens(jinja *j, const char *source, size_t size);

#endif
