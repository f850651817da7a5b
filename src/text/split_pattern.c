/* SPDX-License-Identifier: Apache-2.0
 *
 * Compiling and running patterns. Regular expressions are PCRE2's with its JIT; syntax that
 * matters here is the same as Oniguruma's, which the reference uses.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>

#include "text/split_pattern.h"

/* Bounds what a hostile pattern may cost for one match. */
#define MATCH_LIMIT 2000000u
#define HEAP_LIMIT  (64u << 10) /* KiB */

static const struct {
    const char *regex;
    pattern_kind kind;
} known_patterns[] = {
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
     PATTERN_GPT2},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+"
     "[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     PATTERN_QWEN2},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+"
     "[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     PATTERN_LLAMA3},
};

void component_memory_free(component_memory *memory) {
    for (split_pattern *p = memory->patterns; p; p = p->next) pcre2_code_free(p->code);
    memory->patterns = NULL;
    arena_free(&memory->memory);
}

static llava_status new_pattern(component_memory *memory, pattern_kind kind, split_pattern **out,
                                llava_error *err) {
    split_pattern *pattern = arena_alloc(memory->memory, sizeof *pattern);
    if (!pattern) return llava_fail_memory(err, sizeof *pattern, "a pattern");
    pattern->kind = kind;
    pattern->next = memory->patterns;
    memory->patterns = pattern;
    *out = pattern;
    return LLAVA_OK;
}

llava_status pattern_new_literal(component_memory *memory, span literal, split_pattern **out,
                                 llava_error *err) {
    LLAVA_TRY(new_pattern(memory, PATTERN_LITERAL, out, err));
    (*out)->literal =
        (span){arena_strndup(memory->memory, literal.data, literal.size), literal.size};
    return (*out)->literal.data ? LLAVA_OK : llava_fail_memory(err, literal.size, "a pattern");
}

llava_status pattern_new_regex(component_memory *memory, const char *regex, size_t size,
                               const char *what, split_pattern **out, llava_error *err) {
    for (size_t i = 0; i < LLAVA_COUNT(known_patterns); i++)
        if (span_equal(span_of(known_patterns[i].regex), (span){regex, size}))
            return new_pattern(memory, known_patterns[i].kind, out, err);
    LLAVA_TRY(new_pattern(memory, PATTERN_REGEX, out, err));
    int error;
    PCRE2_SIZE offset;
    pcre2_code *code = pcre2_compile(
        (PCRE2_SPTR)regex, size, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
        &error, &offset, NULL);
    if (!code) {
        PCRE2_UCHAR message[160] = "";
        pcre2_get_error_message(error, message, sizeof message);
        return llava_fail(err, LLAVA_MALFORMED, "%s: regular expression \"%.80s\": %s at byte %zu",
                          what, regex, (const char *)message, (size_t)offset);
    }
    (*out)->code = code;
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); /* without a JIT the interpreter runs it */
    return LLAVA_OK;
}

llava_status pattern_parse(component_memory *memory, const json_t *value, const char *what,
                           split_pattern **out, llava_error *err) {
    const json_t *text = json_is_string(value) ? value : json_object_get(value, "String");
    if (json_is_string(text))
        return pattern_new_literal(
            memory, (span){json_string_value(text), json_string_length(text)}, out, err);
    text = json_object_get(value, "Regex");
    if (json_is_string(text))
        return pattern_new_regex(memory, json_string_value(text), json_string_length(text), what,
                                 out, err);
    return llava_fail(err, LLAVA_MALFORMED,
                      "%s: \"pattern\": expected an object with \"String\" or \"Regex\", got %s",
                      what, json_kind(value));
}

/* ---------------------------------------------------------------- running */

bool cut_list_add(cut_list *list, size_t start, size_t end, bool is_match) {
    if (list->count == list->capacity) {
        const size_t capacity = list->capacity ? 2 * list->capacity : 64;
        cut *items = realloc(list->items, capacity * sizeof *items);
        if (!items) return false;
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = (cut){start, end, is_match};
    return true;
}

void cut_list_free(cut_list *list) {
    free(list->items);
    *list = (cut_list){0};
}

static bool cut_words(pattern_kind kind, const char *text, size_t size, cut_list *cuts) {
    for (size_t at = 0; at < size;) {
        const size_t end = word_end(kind, text, size, at);
        if (!cut_list_add(cuts, at, end, true)) return false;
        at = end;
    }
    return true;
}

static bool cut_literal(span literal, const char *text, size_t size, cut_list *cuts) {
    size_t at = 0;
    while (at < size) {
        const char *found =
            literal.size ? memmem(text + at, size - at, literal.data, literal.size) : NULL;
        const size_t start = found ? (size_t)(found - text) : size;
        if (start > at && !cut_list_add(cuts, at, start, false)) return false;
        if (!found) break;
        at = start + literal.size;
        if (!cut_list_add(cuts, start, at, true)) return false;
    }
    return true;
}

/* Next match at or after `at`: 1 found, 0 none, negative PCRE2 error. */
static int match_from(const split_pattern *pattern, pcre2_match_data *data,
                      pcre2_match_context *context, span text, size_t at) {
    int n = pcre2_match(pattern->code, (PCRE2_SPTR)text.data, text.size, at, PCRE2_NO_UTF_CHECK,
                        data, context);
    if (n == PCRE2_ERROR_JIT_STACKLIMIT)
        n = pcre2_match(pattern->code, (PCRE2_SPTR)text.data, text.size, at,
                        PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, context);
    return n == PCRE2_ERROR_NOMATCH ? 0 : n < 0 ? n : 1;
}

static llava_status cut_matches(const split_pattern *pattern, pcre2_match_data *data,
                                pcre2_match_context *context, span text, cut_list *cuts,
                                llava_error *err) {
    size_t done = 0, from = 0;
    bool ok = true;
    while (ok && from < text.size) {
        const int found = match_from(pattern, data, context, text, from);
        if (found < 0) {
            PCRE2_UCHAR message[160] = "";
            pcre2_get_error_message(found, message, sizeof message);
            return llava_fail(err, LLAVA_UNSUPPORTED,
                              "a pre-tokenizer's regular expression cannot be run on this text: %s",
                              (const char *)message);
        }
        if (!found) break;
        const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(data);
        /* \K may put the start outside */
        const size_t start = ends[0] < done ? done : ends[0], end = ends[1];
        if (end > start) {
            if (start > done) ok = cut_list_add(cuts, done, start, false);
            ok = ok && cut_list_add(cuts, start, end, true);
            done = end;
            from = end;
        } else { /* empty: go on after the next character */
            from = end > from ? end : from;
            do from++;
            while (from < text.size && ((uint8_t)text.data[from] & 0xc0) == 0x80);
        }
    }
    if (ok && done < text.size) ok = cut_list_add(cuts, done, text.size, false);
    return ok ? LLAVA_OK : llava_fail_memory(err, sizeof(cut), "splitting text");
}

static llava_status cut_regex(const split_pattern *pattern, span text, cut_list *cuts,
                              llava_error *err) {
    pcre2_match_data *data = pcre2_match_data_create_from_pattern(pattern->code, NULL);
    pcre2_match_context *context = pcre2_match_context_create(NULL);
    llava_status status;
    if (data && context) {
        pcre2_set_match_limit(context, MATCH_LIMIT);
        pcre2_set_heap_limit(context, HEAP_LIMIT);
        status = cut_matches(pattern, data, context, text, cuts, err);
    } else {
        status = llava_fail_memory(err, 0, "a regular expression");
    }
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    return status;
}

llava_status pattern_cut(const split_pattern *pattern, const char *text, size_t size,
                         cut_list *cuts, llava_error *err) {
    bool ok = true;
    if (pattern->kind == PATTERN_LITERAL)
        ok = cut_literal(pattern->literal, text, size, cuts);
    else if (pattern->kind == PATTERN_REGEX)
        return cut_regex(pattern, (span){text, size}, cuts, err);
    else
        ok = cut_words(pattern->kind, text, size, cuts);
    return ok ? LLAVA_OK : llava_fail_memory(err, sizeof(cut), "splitting text");
}
