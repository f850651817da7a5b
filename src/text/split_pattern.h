/* SPDX-License-Identifier: Apache-2.0
 *
 * Patterns of tokenizer.json: literal texts, regular expressions, and the three well-known word
 * patterns, which have a scanner of their own.
 */
#ifndef LLAVA_SPLIT_PATTERN_H
#define LLAVA_SPLIT_PATTERN_H

#include "base/json.h"
#include "text/string_map.h"

typedef enum pattern_kind {
    PATTERN_LITERAL,
    PATTERN_REGEX,
    PATTERN_GPT2,
    PATTERN_QWEN2,
    PATTERN_LLAMA3
} pattern_kind;

typedef struct split_pattern {
    struct split_pattern *next; /* in the list of component_memory */
    pattern_kind kind;
    span literal;
    struct pcre2_real_code_8 *code;
} split_pattern;

/** Owns what the components of one tokenizer.json are made of. */
typedef struct component_memory {
    arena *memory;
    split_pattern *patterns;
    const char *what; /* names the component being parsed in errors */
} component_memory;

void component_memory_free(component_memory *memory);

/** One end of the next word at text[from..size), from < size, for the three word patterns. */
size_t word_end(pattern_kind kind, const char *text, size_t size, size_t from);

/** {"String": ...}, {"Regex": ...} or a plain string (taken literally). */
llava_status pattern_parse(component_memory *memory, const json_t *value, const char *what,
                           split_pattern **out, llava_error *err);
llava_status pattern_new_regex(component_memory *memory, const char *regex, size_t size,
                               const char *what, split_pattern **out, llava_error *err);
llava_status pattern_new_literal(component_memory *memory, span literal, split_pattern **out,
                                 llava_error *err);

/** A piece of text a pattern cut out: a match, or what lies between. */
typedef struct cut {
    size_t start, end;
    bool is_match;
} cut;

typedef struct cut_list {
    cut *items;
    size_t count, capacity;
} cut_list;

bool cut_list_add(cut_list *list, size_t start, size_t end, bool is_match);
void cut_list_free(cut_list *list);

/** Appends cuts that cover text in order; empty gaps are left out. */
llava_status pattern_cut(const split_pattern *pattern, const char *text, size_t size,
                         cut_list *cuts, llava_error *err);

#endif
