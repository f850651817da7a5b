/* SPDX-License-Identifier: Apache-2.0
 *
 * The syntax tree of a template.
 */
#ifndef LLAVA_JINJA_PARSE_H
#define LLAVA_JINJA_PARSE_H

#include "jinja_value.h"

typedef enum jinja_kind {
    /* expressions */
    JN_CONST,  /* value */
    JN_NAME,   /* name */
    JN_LIST,   /* items */
    JN_TUPLE,  /* items */
    JN_DICT,   /* items: key, value, key, value ... */
    JN_NEGATE, /* a */
    JN_POSITIVE,
    JN_BINARY,  /* a operation b; '/' and 'd' for //, '*' and 'p' for ** */
    JN_CONCAT,  /* items */
    JN_COMPARE, /* a, then items compared in a chain; names[i] is the operator before items[i] */
    JN_AND,
    JN_OR,
    JN_NOT,
    JN_IF,        /* a if b else c; c may be NULL */
    JN_ATTRIBUTE, /* a.name */
    JN_ITEM,      /* a[b] */
    JN_SLICE,     /* a[items[0]:items[1]:items[2]], each may be NULL */
    JN_CALL,      /* a(items, names[i]=...) */
    JN_FILTER,    /* a | name(items); a NULL inside a filter block */
    JN_TEST,      /* a is name(items) */
    /* statements */
    JN_TEXT,         /* value */
    JN_PRINT,        /* a */
    JN_BLOCK,        /* items */
    JN_BRANCH,       /* if a: b else: c */
    JN_FOR,          /* for items in a if c: b else: d */
    JN_SET,          /* items = a */
    JN_SET_BLOCK,    /* items[0] = text of b, through filter a */
    JN_MACRO,        /* name(parameters: names, defaults: items): b */
    JN_CALL_BLOCK,   /* a is the call, b the body, names its parameters */
    JN_FILTER_BLOCK, /* a is the filter chain, b the body */
    JN_WITH,         /* names = items: b */
    JN_BREAK,
    JN_CONTINUE
} jinja_kind;

typedef struct jinja_node jinja_node;
struct jinja_node {
    jinja_kind kind;
    char operation;
    int line;
    const char *name;
    const jv *value;
    jinja_node *a, *b, *c, *d;
    jinja_node **items;
    const char **names; /* parallel to items; NULL: positional */
    size_t count;
};

/** NULL after an error. */
jinja_node *jinja_parse(jinja *j, const char *source, size_t size);

#endif
