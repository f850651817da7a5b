/* SPDX-License-Identifier: Apache-2.0
 *
 * Patterns are from outside: their number, their length and the steps of a match are bounded.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "adapter_patterns.h"

#include <pcre2.h>
#include <stdlib.h>

#define PATTERNS_MAX ((size_t)16384)
#define LENGTH_MAX   4096
#define MATCH_LIMIT  100000 /* backtracking steps of one pattern against one name */

typedef struct pattern {
    const char *key;  /* the JSON's */
    pcre2_code *code; /* NULL: no expression */
} pattern;

struct adapter_patterns {
    const char *what;
    pattern *items;
    size_t count;
    pcre2_match_data *match;
    pcre2_match_context *context;
};

static llava_status compile(adapter_patterns *p, const char *key, llava_error *err) {
    char text[LENGTH_MAX + 8];
    int code;
    PCRE2_SIZE offset;
    if (snprintf(text, sizeof text, "^.*\\.%s$", key) >= (int)sizeof text)
        return llava_refuse(err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_LIMIT,
                            "%s: a pattern of %zu bytes, expected at most %d", p->what, strlen(key),
                            LENGTH_MAX);
    p->items[p->count++] =
        (pattern){key, pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED,
                                     PCRE2_UTF | PCRE2_DOLLAR_ENDONLY, &code, &offset, NULL)};
    return LLAVA_OK;
}

static llava_status compile_keys(adapter_patterns *p, const json_t *map, llava_error *err) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)map, key, value) LLAVA_TRY(compile(p, key, err));
    return LLAVA_OK;
}

static llava_status fill(adapter_patterns *p, const json_t *rank_pattern,
                         const json_t *alpha_pattern, llava_error *err) {
    const size_t count = json_object_size(rank_pattern) + json_object_size(alpha_pattern);
    if (count == 0) return LLAVA_OK;
    if (count > PATTERNS_MAX)
        return llava_refuse(err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_LIMIT,
                            "%s: %zu patterns, expected at most %zu", p->what, count, PATTERNS_MAX);
    p->items = array_new(count, sizeof *p->items);
    p->match = pcre2_match_data_create(1, NULL);
    p->context = pcre2_match_context_create(NULL);
    if (!p->items || !p->match || !p->context)
        return llava_fail_memory(err, count * sizeof *p->items, "patterns");
    pcre2_set_match_limit(p->context, MATCH_LIMIT);
    LLAVA_TRY(compile_keys(p, rank_pattern, err));
    return compile_keys(p, alpha_pattern, err);
}

llava_status adapter_patterns_new(const json_t *rank_pattern, const json_t *alpha_pattern,
                                  const char *what, adapter_patterns **out, llava_error *err) {
    *out = array_new(1, sizeof **out);
    if (!*out) return llava_fail_memory(err, sizeof **out, "patterns");
    (*out)->what = what;
    const llava_status status = fill(*out, rank_pattern, alpha_pattern, err);
    if (status != LLAVA_OK) adapter_patterns_free(out);
    return status;
}

void adapter_patterns_free(adapter_patterns **p) {
    if (!p || !*p) return;
    for (size_t i = 0; i < (*p)->count; i++) pcre2_code_free((*p)->items[i].code);
    pcre2_match_data_free((*p)->match);
    pcre2_match_context_free((*p)->context);
    free((*p)->items);
    free(*p);
    *p = NULL;
}

llava_status adapter_patterns_key(const adapter_patterns *p, const char *module, const char **key,
                                  llava_error *err) {
    *key = module;
    for (size_t i = 0; i < p->count; i++) {
        if (!p->items[i].code) continue;
        const int found = pcre2_match(p->items[i].code, (PCRE2_SPTR)module, strlen(module), 0, 0,
                                      p->match, p->context);
        if (found >= 0) {
            *key = p->items[i].key;
            return LLAVA_OK;
        }
        if (found == PCRE2_ERROR_MATCHLIMIT || found == PCRE2_ERROR_DEPTHLIMIT ||
            found == PCRE2_ERROR_HEAPLIMIT)
            return llava_refuse(err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_LIMIT,
                                "%s: pattern \"%.80s\" takes more than %d steps on %.200s", p->what,
                                p->items[i].key, MATCH_LIMIT, module);
    }
    return LLAVA_OK;
}
