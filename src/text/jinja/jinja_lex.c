/* SPDX-License-Identifier: Apache-2.0
 *
 * Whitespace rules as jinja2 3.1 with trim_blocks and lstrip_blocks: the first line end behind a
 * tag or comment goes, and so do blanks between a line's start and a tag or comment; "-" eats all
 * whitespace on its side, "+" switches the rule off.
 */
#include <stdlib.h>

#include "jinja_lex.h"

typedef struct lexer {
    jinja *j;
    const char *s; /* source with \n line ends */
    size_t size, at;
    int line;
    jinja_token *tokens;
    size_t count, capacity;
    bool line_starting; /* what was consumed last ended with a line end */
} lexer;

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_word(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           (unsigned char)c >= 0x80;
}

static bool starts(const lexer *x, size_t at, const char *text) {
    const size_t n = strlen(text);
    return n <= x->size - at && memcmp(x->s + at, text, n) == 0;
}

static jinja_token *token_add(lexer *x, jinja_token_kind kind, const char *text, size_t size) {
    if (x->count == x->capacity) {
        const size_t capacity = x->capacity ? 2 * x->capacity : 64;
        jinja_token *tokens = jinja_alloc(x->j, capacity * sizeof *tokens);
        if (!tokens) return NULL;
        if (x->count) memcpy(tokens, x->tokens, x->count * sizeof *tokens);
        x->tokens = tokens;
        x->capacity = capacity;
    }
    char *copy = jinja_alloc(x->j, size + 1);
    if (!copy) return NULL;
    if (size) memcpy(copy, text, size);
    jinja_token *t = &x->tokens[x->count++];
    *t = (jinja_token){.kind = kind, .text = copy, .line = x->line};
    return t;
}

static bool text_add(lexer *x, size_t from, size_t to) {
    if (from >= to) return true;
    jinja_token *t = token_add(x, JT_TEXT, "", 0);
    return t && (t->value = jv_string(x->j, x->s + from, to - from));
}

static void advance(lexer *x, size_t to) {
    for (; x->at < to; x->at++) x->line += x->s[x->at] == '\n';
}

/* ---------------------------------------------------------------- inside a tag */

static size_t take_escape(const lexer *x, size_t at, char out[4], size_t *n_out) {
    static const char from[] = "ntrbfav\\'\"0\n", to[] = "\n\t\r\b\f\a\v\\'\"";
    const char c = x->s[at];
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits && digits < x->size - at) {
        char hex[9] = {0};
        memcpy(hex, x->s + at + 1, digits);
        char *end;
        const unsigned long code = strtoul(hex, &end, 16);
        if (*end == '\0' && code <= 0x10ffff) {
            *n_out = utf8_encode((int32_t)code, out);
            return 1 + digits;
        }
    }
    const char *found = c ? strchr(from, c) : NULL;
    if (found && c == '\n') {
        *n_out = 0;
    } else if (found) {
        out[0] = c == '0' ? '\0' : to[found - from];
        *n_out = 1;
    } else {
        out[0] = '\\';
        out[1] = c;
        *n_out = 2;
    }
    return 1;
}

static bool take_string(lexer *x) {
    const char quote = x->s[x->at];
    bytes text = {0};
    size_t at = x->at + 1;
    bool ok = true;
    while (ok && at < x->size && x->s[at] != quote) {
        if (x->s[at] != '\\' || at + 1 >= x->size) {
            ok = bytes_append(&text, x->s + at++, 1);
            continue;
        }
        char out[4];
        size_t n_out;
        at += 1 + take_escape(x, at + 1, out, &n_out);
        ok = bytes_append(&text, out, n_out);
    }
    if (ok && at >= x->size) {
        jinja_fail(x->j, "line %d: a string without its closing quote", x->line);
        ok = false;
    }
    jinja_token *t = ok ? token_add(x, JT_STRING, "", 0) : NULL;
    if (t) t->value = jv_string(x->j, text.data ? text.data : "", text.size);
    bytes_free(&text);
    if (!t || !t->value) return false;
    advance(x, at + 1);
    return true;
}

static bool take_number(lexer *x) {
    char digits[64];
    size_t n = 0, at = x->at;
    bool real = false;
    for (; at < x->size; at++) {
        const char c = x->s[at];
        const bool exponent =
            (c == 'e' || c == 'E') && at + 1 < x->size &&
            (is_digit(x->s[at + 1]) || ((x->s[at + 1] == '-' || x->s[at + 1] == '+') &&
                                        at + 2 < x->size && is_digit(x->s[at + 2])));
        const bool point = c == '.' && !real && at + 1 < x->size && is_digit(x->s[at + 1]);
        if (c == '_') continue;
        if (!is_digit(c) && !exponent && !point) break;
        real = real || exponent || point;
        if (n + 2 >= sizeof digits)
            return jinja_fail(x->j, "line %d: a number too long", x->line) != NULL;
        digits[n++] = c;
        if (exponent && !is_digit(x->s[at + 1])) digits[n++] = x->s[++at];
    }
    digits[n] = '\0';
    jinja_token *t = token_add(x, JT_NUMBER, digits, n);
    if (!t) return false;
    jinja_int integer = 0;
    for (size_t i = 0; i < n && !real; i++) {
        if (integer > (jinja_int)1 << 120) return jinja_fail(x->j, "a number too large") != NULL;
        integer = integer * 10 + (digits[i] - '0');
    }
    t->value = real ? jv_float(x->j, strtod(digits, NULL)) : jv_int(x->j, integer);
    advance(x, at);
    return t->value != NULL;
}

static bool take_operator(lexer *x) {
    static const char *const operators[] = {"==", "!=", "<=", ">=", "//", "**", "+", "-", "*",
                                            "/",  "%",  "~",  "<",  ">",  "=",  "(", ")", "[",
                                            "]",  "{",  "}",  ".",  ",",  ":",  "|"};
    for (size_t i = 0; i < LLAVA_COUNT(operators); i++) {
        if (!starts(x, x->at, operators[i])) continue;
        if (!token_add(x, JT_OPERATOR, operators[i], strlen(operators[i]))) return false;
        advance(x, x->at + strlen(operators[i]));
        return true;
    }
    return jinja_fail(x->j, "line %d: unexpected character '%c'", x->line, x->s[x->at]) != NULL;
}

static bool take_word(lexer *x) {
    size_t end = x->at;
    while (end < x->size && is_word(x->s[end])) end++;
    if (!token_add(x, JT_NAME, x->s + x->at, end - x->at)) return false;
    advance(x, end);
    return true;
}

/** Skips whitespace behind a closing "-". */
static void eat_space(lexer *x) {
    size_t at = x->at;
    while (at < x->size && is_space(x->s[at])) at++;
    x->line_starting = at > x->at && x->s[at - 1] == '\n';
    advance(x, at);
}

/** The end of a tag or comment: trims one line end unless "+" or "-" says otherwise. */
static void close_block(lexer *x, size_t length, char mark) {
    advance(x, x->at + length);
    x->line_starting = false;
    if (mark == '-') {
        eat_space(x);
    } else if (mark != '+' && x->at < x->size && x->s[x->at] == '\n') {
        advance(x, x->at + 1);
        x->line_starting = true;
    }
}

/** Tokens of one {{ }} or {% %}; `end` is "}}" or "%}". Braces of dicts nest. */
static bool take_tag(lexer *x, const char *end, jinja_token_kind closing) {
    int braces = 0;
    const int line = x->line;
    while (x->at < x->size) {
        const char c = x->s[x->at];
        const bool marked = (c == '-' || c == '+') && starts(x, x->at + 1, end);
        if (braces == 0 && (marked || starts(x, x->at, end))) {
            if (!token_add(x, closing, "", 0)) return false;
            if (closing == JT_TAG_END) {
                close_block(x, marked ? 3 : 2, marked ? c : 0);
            } else {
                advance(x, x->at + (marked ? 3 : 2));
                x->line_starting = false;
                if (marked && c == '-') eat_space(x);
            }
            return true;
        }
        bool ok = true;
        if (is_space(c))
            advance(x, x->at + 1);
        else if (c == '"' || c == '\'')
            ok = take_string(x);
        else if (is_digit(c))
            ok = take_number(x);
        else if (is_word(c))
            ok = take_word(x);
        else {
            braces += c == '{' || c == '(' || c == '[';
            braces -= c == '}' || c == ')' || c == ']';
            ok = take_operator(x);
        }
        if (!ok) return false;
        if (braces < 0) return jinja_fail(x->j, "line %d: an unmatched bracket", x->line) != NULL;
    }
    return jinja_fail(x->j, "line %d: a tag without its end", line) != NULL;
}

/* ---------------------------------------------------------------- between tags */

/** Where text ends before a tag at `tag`, whose sign is `mark`. */
static size_t text_end(const lexer *x, size_t from, size_t tag, char mark, bool is_block) {
    size_t end = tag;
    if (mark == '-') {
        while (end > from && is_space(x->s[end - 1])) end--;
        return end;
    }
    if (!is_block || mark == '+') return end;
    while (end > from && (x->s[end - 1] == ' ' || x->s[end - 1] == '\t')) end--;
    const bool at_start = end == from ? x->line_starting : x->s[end - 1] == '\n';
    return at_start ? end : tag;
}

static bool take_comment(lexer *x) {
    const char *close = memmem(x->s + x->at, x->size - x->at, "#}", 2);
    if (!close) return jinja_fail(x->j, "line %d: a comment without its end", x->line) != NULL;
    const size_t at = (size_t)(close - x->s);
    const char before = at > x->at + 2 ? x->s[at - 1] : 0;
    advance(x, at);
    close_block(x, 2, before == '-' || before == '+' ? before : 0);
    return true;
}

/** Behind "{%": true if the tag is `raw`; moves behind its end. */
static bool at_raw(lexer *x, size_t after) {
    size_t at = after;
    while (at < x->size && is_space(x->s[at])) at++;
    if (!starts(x, at, "raw")) return false;
    at += 3;
    while (at < x->size && is_space(x->s[at])) at++;
    const bool dash = starts(x, at, "-%}");
    if (!dash && !starts(x, at, "%}")) return false;
    advance(x, at + (dash ? 3 : 2));
    x->line_starting = false;
    if (dash) eat_space(x);
    return true;
}

static bool take_raw(lexer *x) {
    const size_t from = x->at;
    for (size_t at = from; at + 1 < x->size; at++) {
        if (!starts(x, at, "{%")) continue;
        size_t word = at + 2;
        const char mark =
            word < x->size && (x->s[word] == '-' || x->s[word] == '+') ? x->s[word] : 0;
        word += mark != 0;
        while (word < x->size && is_space(x->s[word])) word++;
        if (!starts(x, word, "endraw")) continue;
        word += 6;
        while (word < x->size && is_space(x->s[word])) word++;
        const char close =
            word < x->size && (x->s[word] == '-' || x->s[word] == '+') ? x->s[word] : 0;
        if (!starts(x, word + (close != 0), "%}")) continue;
        if (!text_add(x, from, text_end(x, from, at, mark, true))) return false;
        advance(x, word);
        close_block(x, close ? 3 : 2, close);
        return true;
    }
    return jinja_fail(x->j, "line %d: raw without endraw", x->line) != NULL;
}

/** Text up to the next tag, then the tag. */
static bool take_piece(lexer *x) {
    size_t tag = x->at;
    while (tag < x->size && !(x->s[tag] == '{' && tag + 1 < x->size &&
                              strchr("{%#", x->s[tag + 1]) && x->s[tag + 1]))
        tag++;
    if (tag >= x->size) {
        const bool ok = text_add(x, x->at, x->size);
        advance(x, x->size);
        return ok;
    }
    const char kind = x->s[tag + 1];
    const char sign = tag + 2 < x->size ? x->s[tag + 2] : 0;
    const char mark = sign == '-' || (sign == '+' && kind != '{') ? sign : 0;
    if (!text_add(x, x->at, text_end(x, x->at, tag, mark, kind != '{'))) return false;
    advance(x, tag);
    if (kind == '#') return take_comment(x);
    const size_t after = tag + 2 + (mark != 0);
    if (kind == '%' && at_raw(x, after)) return take_raw(x);
    if (!token_add(x, kind == '{' ? JT_PRINT_BEGIN : JT_TAG_BEGIN, "", 0)) return false;
    advance(x, after);
    return kind == '{' ? take_tag(x, "}}", JT_PRINT_END) : take_tag(x, "%}", JT_TAG_END);
}

/** Line ends become \n, and a single one at the end goes. */
static const char *normalise(jinja *j, const char *source, size_t *size) {
    char *copy = jinja_alloc(j, *size + 1);
    if (!copy) return NULL;
    size_t n = 0;
    for (size_t i = 0; i < *size; i++) {
        if (source[i] == '\r') {
            copy[n++] = '\n';
            i += i + 1 < *size && source[i + 1] == '\n';
        } else {
            copy[n++] = source[i];
        }
    }
    if (n && copy[n - 1] == '\n') n--;
    *size = n;
    return copy;
}

const jinja_token *jinja_tokens(jinja *j, const char *source, size_t size) {
    lexer x = {.j = j, .line = 1, .line_starting = true};
    x.size = size;
    x.s = normalise(j, source, &x.size);
    if (!x.s) return NULL;
    while (x.at < x.size)
        if (!take_piece(&x)) return NULL;
    return token_add(&x, JT_END, "", 0) ? x.tokens : NULL;
}
