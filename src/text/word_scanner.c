/* SPDX-License-Identifier: Apache-2.0
 *
 * A scanner that cuts text as these three patterns do (each an alternation tried left to right):
 *   GPT-2   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *   Qwen2   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*
 *           |\s*[\r\n]+|\s+(?!\S)|\s+
 *   Llama-3 as Qwen2 with \p{N}{1,3}
 */
#include "text/characters.h"
#include "text/split_pattern.h"

typedef enum char_class { CLASS_OTHER, CLASS_LETTER, CLASS_NUMBER, CLASS_SPACE } char_class;

/* One character ahead: where it ends and what it is. At the end of the text, end == start. */
typedef struct ahead {
    int32_t code;
    char_class class;
    size_t end;
} ahead;

static ahead look(const char *text, size_t size, size_t at) {
    ahead a = {-1, CLASS_OTHER, at};
    if (at >= size) return a;
    a.code = (uint8_t)text[at];
    if (a.code < 0x80)
        a.end = at + 1;
    else
        a.end = at + utf8_decode(text + at, size - at, &a.code);
    if (char_is_letter(a.code))
        a.class = CLASS_LETTER;
    else if (char_is_space(a.code))
        a.class = CLASS_SPACE;
    else if (char_is_number(a.code))
        a.class = CLASS_NUMBER;
    return a;
}

static bool is_line_end(int32_t code) { return code == '\r' || code == '\n'; }

/* End of the run of this class from `at`, at most `most` characters. */
static size_t run_end(const char *text, size_t size, size_t at, char_class class, size_t most) {
    for (size_t n = 0; at < size && n < most; n++) {
        const ahead a = look(text, size, at);
        if (a.class != class) break;
        at = a.end;
    }
    return at;
}

/* The letter as the pattern reads it: (?i:) folds case, and U+017F folds to s. */
static int fold(int32_t code, bool any_case) {
    if (!any_case) return code < 0x80 ? (int)code : 0;
    if (code == 0x17f) return 's';
    return code < 0x80 ? (int)code | 32 : 0;
}

/* End of a contraction at the apostrophe `at`, or `at` when there is none. */
static size_t contraction_end(const char *text, size_t size, size_t at, bool any_case) {
    const ahead first = look(text, size, at + 1);
    const int a = fold(first.code, any_case);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return first.end;
    const ahead second = look(text, size, first.end);
    const int b = fold(second.code, any_case);
    const bool found = (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l');
    return found ? second.end : at;
}

/* White space that no earlier alternative took: it leaves its last character to a word. */
static size_t spaces_end(const char *text, size_t size, size_t at, bool lines) {
    size_t end = at, last = at, line = at;
    while (end < size) {
        const ahead a = look(text, size, end);
        if (a.class != CLASS_SPACE) break;
        last = end;
        end = a.end;
        if (is_line_end(a.code)) line = end;
    }
    if (lines && line > at) return line;
    return end < size && last > at ? last : end;
}

static size_t gpt2_end(const char *text, size_t size, size_t at, ahead c) {
    size_t start = at;
    if (c.code == ' ' && c.end < size) {
        start = c.end;
        c = look(text, size, start);
    }
    if (c.class == CLASS_SPACE) return spaces_end(text, size, at, false);
    return run_end(text, size, start, c.class, SIZE_MAX);
}

static size_t modern_end(const char *text, size_t size, size_t at, ahead c, size_t digits) {
    if (c.class == CLASS_LETTER) return run_end(text, size, at, CLASS_LETTER, SIZE_MAX);
    const ahead next = look(text, size, c.end);
    if (!is_line_end(c.code) && c.class != CLASS_NUMBER && next.class == CLASS_LETTER)
        return run_end(text, size, c.end, CLASS_LETTER, SIZE_MAX);
    if (c.class == CLASS_NUMBER) return run_end(text, size, at, CLASS_NUMBER, digits);
    const size_t start = c.code == ' ' ? c.end : at;
    const ahead symbol = c.code == ' ' ? next : c;
    if (start < size && symbol.class == CLASS_OTHER) {
        size_t end = run_end(text, size, start, CLASS_OTHER, SIZE_MAX);
        while (end < size && is_line_end(text[end])) end++;
        return end;
    }
    return spaces_end(text, size, at, true);
}

size_t word_end(pattern_kind kind, const char *text, size_t size, size_t from) {
    const ahead c = look(text, size, from);
    if (c.code == '\'') {
        const size_t end = contraction_end(text, size, from, kind != PATTERN_GPT2);
        if (end > from) return end;
    }
    if (kind == PATTERN_GPT2) return gpt2_end(text, size, from, c);
    return modern_end(text, size, from, c, kind == PATTERN_LLAMA3 ? 3 : 1);
}
