/* SPDX-License-Identifier: Apache-2.0
 *
 * Methods of Python's strings, lists and mappings, as far as they change nothing.
 */
#include <stdlib.h>

#include <utf8proc.h>

#include "jinja_text.h"

typedef const jv *(*method_fn)(jinja *j, const jv *self, const jinja_args *args);

static const jv *text_arg(jinja *j, const jinja_args *args, size_t index, const char *name) {
    const jv *v = jinja_arg(j, args, index, name);
    return v && v->kind == JV_STRING ? v : NULL;
}

static int64_t int_arg(jinja *j, const jinja_args *args, size_t index, const char *name,
                       int64_t fallback) {
    const jv *v = jinja_arg(j, args, index, name);
    if (!v || v->kind != JV_INT || v->as.integer > INT32_MAX || v->as.integer < INT32_MIN)
        return fallback;
    return (int64_t)v->as.integer;
}

static const jv *take(jinja *j, bytes *text, bool ok) {
    const jv *result = ok ? jv_string(j, text->data ? text->data : "", text->size) : NULL;
    bytes_free(text);
    return result;
}

/* ---------------------------------------------------------------- case */

/** Python's isalpha() is wider; letters by Unicode category are what titles need. */
static bool is_letter(int32_t code) {
    const utf8proc_category_t c = code < 0 ? UTF8PROC_CATEGORY_CN : utf8proc_category(code);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

static bool append_case(bytes *out, const char *data, size_t n, int32_t code, bool upper) {
    if (code < 0) return bytes_append(out, data, n);
    char encoded[4];
    const int32_t mapped = upper ? utf8proc_toupper(code) : utf8proc_tolower(code);
    return bytes_append(out, encoded, utf8_encode(mapped, encoded));
}

const jv *jinja_case(jinja *j, const jv *self, jinja_case_style style) {
    bytes out = {0};
    bool ok = true, start = true;
    for (size_t at = 0; at < self->as.string.size && ok;) {
        const char *data = self->as.string.data + at;
        int32_t code;
        const size_t n = utf8_decode(data, self->as.string.size - at, &code);
        bool upper = style == CASE_UPPER;
        if (style == CASE_CAPITAL) upper = at == 0;
        if (style == CASE_TITLE) upper = start;
        if (style == CASE_WORDS) upper = start;
        if (style == CASE_SWAP)
            upper = code >= 0 && utf8proc_category(code) == UTF8PROC_CATEGORY_LL;
        ok = append_case(&out, data, n, code, upper);
        start = style == CASE_WORDS ? code == '-' || code == '(' || code == '{' || code == '[' ||
                                          code == '<' || jinja_is_space(code)
                                    : !is_letter(code);
        at += n;
    }
    return take(j, &out, ok);
}

static const jv *upper(jinja *j, const jv *s, const jinja_args *a) {
    (void)a;
    return jinja_case(j, s, CASE_UPPER);
}
static const jv *lower(jinja *j, const jv *s, const jinja_args *a) {
    (void)a;
    return jinja_case(j, s, CASE_LOWER);
}
static const jv *title(jinja *j, const jv *s, const jinja_args *a) {
    (void)a;
    return jinja_case(j, s, CASE_TITLE);
}
static const jv *capitalize(jinja *j, const jv *s, const jinja_args *a) {
    (void)a;
    return jinja_case(j, s, CASE_CAPITAL);
}
static const jv *swapcase(jinja *j, const jv *s, const jinja_args *a) {
    (void)a;
    return jinja_case(j, s, CASE_SWAP);
}

/* ---------------------------------------------------------------- stripping */

bool jinja_is_space(int32_t code) {
    if ((code >= 9 && code <= 13) || (code >= 0x1c && code <= 0x20) || code == 0x85) return true;
    if (code < 0xa0) return false;
    const utf8proc_category_t c = utf8proc_category(code);
    return c == UTF8PROC_CATEGORY_ZS || c == UTF8PROC_CATEGORY_ZL || c == UTF8PROC_CATEGORY_ZP;
}

static bool strips(const jv *characters, const char *data, size_t n, int32_t code) {
    if (!characters) return code >= 0 && jinja_is_space(code);
    return memmem(characters->as.string.data, characters->as.string.size, data, n) != NULL;
}

const jv *jinja_strip(jinja *j, const jv *self, const jv *characters, bool left, bool right) {
    const char *data = self->as.string.data;
    size_t from = 0, to = self->as.string.size;
    int32_t code;
    while (left && from < to) {
        const size_t n = utf8_decode(data + from, to - from, &code);
        if (!strips(characters, data + from, n, code)) break;
        from += n;
    }
    while (right && to > from) {
        size_t start = to - 1;
        while (start > from && ((unsigned char)data[start] & 0xc0) == 0x80) start--;
        const size_t n = utf8_decode(data + start, to - start, &code);
        if (start + n != to || !strips(characters, data + start, n, code)) break;
        to = start;
    }
    return jv_string(j, data + from, to - from);
}

static const jv *strip(jinja *j, const jv *s, const jinja_args *a) {
    return jinja_strip(j, s, text_arg(j, a, 0, NULL), true, true);
}
static const jv *lstrip(jinja *j, const jv *s, const jinja_args *a) {
    return jinja_strip(j, s, text_arg(j, a, 0, NULL), true, false);
}
static const jv *rstrip(jinja *j, const jv *s, const jinja_args *a) {
    return jinja_strip(j, s, text_arg(j, a, 0, NULL), false, true);
}

static bool has_edge(const jv *s, const jv *edge, bool at_end) {
    const size_t n = edge->as.string.size, size = s->as.string.size;
    return n <= size &&
           memcmp(s->as.string.data + (at_end ? size - n : 0), edge->as.string.data, n) == 0;
}

static const jv *edges(jinja *j, const jv *s, const jinja_args *a, bool at_end) {
    const jv *edge = jinja_arg(j, a, 0, NULL);
    if (!edge) return jinja_fail(j, "expected a text to compare with");
    if (edge->kind == JV_STRING) return jv_bool(j, has_edge(s, edge, at_end));
    bool found = false;
    if (edge->kind != JV_TUPLE) return jinja_fail(j, "expected a text to compare with");
    for (size_t i = 0; i < edge->as.list.count && !found; i++)
        found = edge->as.list.items[i]->kind == JV_STRING &&
                has_edge(s, edge->as.list.items[i], at_end);
    return jv_bool(j, found);
}

static const jv *startswith(jinja *j, const jv *s, const jinja_args *a) {
    return edges(j, s, a, false);
}
static const jv *endswith(jinja *j, const jv *s, const jinja_args *a) {
    return edges(j, s, a, true);
}

static const jv *remove_edge(jinja *j, const jv *s, const jinja_args *a, bool at_end) {
    const jv *edge = text_arg(j, a, 0, NULL);
    if (!edge) return jinja_fail(j, "expected a text to remove");
    if (!has_edge(s, edge, at_end)) return s;
    const size_t n = edge->as.string.size;
    return jv_string(j, s->as.string.data + (at_end ? 0 : n), s->as.string.size - n);
}

static const jv *removeprefix(jinja *j, const jv *s, const jinja_args *a) {
    return remove_edge(j, s, a, false);
}
static const jv *removesuffix(jinja *j, const jv *s, const jinja_args *a) {
    return remove_edge(j, s, a, true);
}

/* ---------------------------------------------------------------- splitting */

/** Collects pieces of a string. */
typedef struct pieces {
    jinja *j;
    const jv **items;
    size_t count, capacity;
} pieces;

static bool piece(pieces *p, const char *data, size_t size) {
    if (p->count == p->capacity) {
        const size_t capacity = p->capacity ? 2 * p->capacity : 16;
        const jv **items = jinja_alloc(p->j, capacity * sizeof *items);
        if (!items) return false;
        if (p->count) memcpy(items, p->items, p->count * sizeof *items);
        p->items = items;
        p->capacity = capacity;
    }
    return (p->items[p->count++] = jv_string(p->j, data, size)) != NULL;
}

static const jv *split_space(jinja *j, const jv *s, int64_t limit) {
    pieces p = {.j = j};
    const char *data = s->as.string.data;
    const size_t size = s->as.string.size;
    size_t at = 0;
    int32_t code;
    for (;;) {
        size_t n = 0;
        while (at < size && (n = utf8_decode(data + at, size - at, &code), jinja_is_space(code)))
            at += n;
        if (at >= size) break;
        size_t end = limit == 0 ? size : at;
        while (end < size &&
               (n = utf8_decode(data + end, size - end, &code), !jinja_is_space(code)))
            end += n;
        if (limit == 0) { /* the rest, without its trailing space */
            const jv *rest = jv_string(j, data + at, size - at);
            rest = rest ? jinja_strip(j, rest, NULL, false, true) : NULL;
            if (!rest || !piece(&p, rest->as.string.data, rest->as.string.size)) return NULL;
            break;
        }
        if (!piece(&p, data + at, end - at)) return NULL;
        at = end;
        limit--;
    }
    return jv_list(j, p.items, p.count, false);
}

static const jv *split_at(jinja *j, const jv *s, const jv *separator, int64_t limit) {
    if (separator->as.string.size == 0) return jinja_fail(j, "an empty separator");
    pieces p = {.j = j};
    const char *data = s->as.string.data, *end = data + s->as.string.size;
    for (; limit != 0; limit--) {
        const char *found = memmem(data, (size_t)(end - data), separator->as.string.data,
                                   separator->as.string.size);
        if (!found) break;
        if (!piece(&p, data, (size_t)(found - data))) return NULL;
        data = found + separator->as.string.size;
    }
    if (!piece(&p, data, (size_t)(end - data))) return NULL;
    return jv_list(j, p.items, p.count, false);
}

static const jv *split(jinja *j, const jv *s, const jinja_args *a) {
    const jv *separator = text_arg(j, a, 0, "sep");
    const int64_t limit = int_arg(j, a, 1, "maxsplit", -1);
    return separator ? split_at(j, s, separator, limit) : split_space(j, s, limit);
}

/** Splits everywhere, then joins what is beyond the limit, from the left. */
static const jv *rsplit(jinja *j, const jv *s, const jinja_args *a) {
    const jv *separator = text_arg(j, a, 0, "sep");
    const int64_t limit = int_arg(j, a, 1, "maxsplit", -1);
    const jv *all = separator ? split_at(j, s, separator, -1) : split_space(j, s, -1);
    if (!all || limit < 0 || (int64_t)all->as.list.count <= limit + 1) return all;
    const size_t joined = all->as.list.count - (size_t)limit;
    const size_t n_sep = separator ? separator->as.string.size : 1;
    size_t size = n_sep * (joined - 1);
    for (size_t i = 0; i < joined; i++) size += all->as.list.items[i]->as.string.size;
    const jv **items = jinja_alloc(j, ((size_t)limit + 2) * sizeof *items);
    if (!items || !(items[0] = jv_string(j, s->as.string.data, size))) return NULL;
    for (size_t i = 0; i < (size_t)limit; i++) items[i + 1] = all->as.list.items[joined + i];
    return jv_list(j, items, (size_t)limit + 1, false);
}

static const jv *splitlines(jinja *j, const jv *s, const jinja_args *a) {
    (void)a;
    const jv *newline = jv_text(j, "\n");
    const jv *all = newline ? split_at(j, s, newline, -1) : NULL;
    if (!all) return NULL;
    size_t count = all->as.list.count;
    if (all->as.list.items[count - 1]->as.string.size == 0) count--;
    return jv_list(j, all->as.list.items, count, false);
}

static const jv *partition_at(jinja *j, const jv *s, const jinja_args *a, bool last) {
    const jv *separator = text_arg(j, a, 0, NULL);
    if (!separator || separator->as.string.size == 0) return jinja_fail(j, "expected a separator");
    const char *data = s->as.string.data, *found = NULL;
    const size_t size = s->as.string.size, n = separator->as.string.size;
    for (const char *at = data;
         (at = memmem(at, size - (size_t)(at - data), separator->as.string.data, n)); at++) {
        found = at;
        if (!last) break;
    }
    const jv *empty = jv_text(j, "");
    const jv *parts[3] = {last && !found ? empty : s, empty, last && !found ? s : empty};
    if (found) {
        parts[0] = jv_string(j, data, (size_t)(found - data));
        parts[1] = separator;
        parts[2] = jv_string(j, found + n, size - (size_t)(found - data) - n);
    }
    return parts[0] && parts[1] && parts[2] ? jv_list(j, parts, 3, true) : NULL;
}

static const jv *partition(jinja *j, const jv *s, const jinja_args *a) {
    return partition_at(j, s, a, false);
}
static const jv *rpartition(jinja *j, const jv *s, const jinja_args *a) {
    return partition_at(j, s, a, true);
}

static const jv *join(jinja *j, const jv *s, const jinja_args *a) {
    const jv *value = jinja_arg(j, a, 0, NULL);
    const jv *items = value ? jv_iterate(j, value) : NULL;
    bytes out = {0};
    bool ok = items != NULL;
    for (size_t i = 0; ok && i < items->as.list.count; i++) {
        if (items->as.list.items[i]->kind != JV_STRING)
            ok = jinja_fail(j, "join() needs texts") != NULL;
        ok = ok && (i == 0 || jv_write(j, s, false, &out)) &&
             jv_write(j, items->as.list.items[i], false, &out);
    }
    return take(j, &out, ok);
}

/* ---------------------------------------------------------------- searching */

/** Character index of the first (or last) place; -1 when absent. */
static int64_t find_index(const jv *s, const jv *what, bool last) {
    const char *data = s->as.string.data, *found = NULL;
    const size_t size = s->as.string.size, n = what->as.string.size;
    if (n == 0) return 0;
    for (const char *at = data;
         (at = memmem(at, size - (size_t)(at - data), what->as.string.data, n)); at++) {
        found = at;
        if (!last) break;
    }
    if (!found) return -1;
    int64_t index = 0;
    for (const char *at = data; at < found; at++) index += ((unsigned char)*at & 0xc0) != 0x80;
    return index;
}

static const jv *find(jinja *j, const jv *s, const jinja_args *a) {
    const jv *what = text_arg(j, a, 0, NULL);
    return what ? jv_int(j, find_index(s, what, false)) : jinja_fail(j, "expected a text to find");
}
static const jv *rfind(jinja *j, const jv *s, const jinja_args *a) {
    const jv *what = text_arg(j, a, 0, NULL);
    return what ? jv_int(j, find_index(s, what, true)) : jinja_fail(j, "expected a text to find");
}
static const jv *index_of(jinja *j, const jv *s, const jinja_args *a) {
    const jv *what = text_arg(j, a, 0, NULL);
    const int64_t at = what ? find_index(s, what, false) : -1;
    return at >= 0 ? jv_int(j, at) : jinja_fail(j, "index() found nothing");
}

static const jv *count(jinja *j, const jv *s, const jinja_args *a) {
    const jv *what = text_arg(j, a, 0, NULL);
    if (!what || what->as.string.size == 0) return jinja_fail(j, "expected a text to count");
    const jv *parts = split_at(j, s, what, -1);
    return parts ? jv_int(j, (jinja_int)parts->as.list.count - 1) : NULL;
}

const jv *jinja_replace(jinja *j, const jv *s, const jv *from, const jv *to, int64_t limit) {
    if (from->as.string.size == 0) return jinja_fail(j, "replacing an empty text");
    const jv *parts = split_at(j, s, from, limit);
    if (!parts) return NULL;
    const jv *one[] = {parts};
    const jinja_args args = {.values = one, .count = 1, .keywords = jv_dict_new(j, JV_DICT)};
    return args.keywords ? join(j, to, &args) : NULL;
}

static const jv *replace(jinja *j, const jv *s, const jinja_args *a) {
    const jv *from = text_arg(j, a, 0, NULL), *to = text_arg(j, a, 1, NULL);
    if (!from || !to) return jinja_fail(j, "replace() needs two texts");
    return jinja_replace(j, s, from, to, int_arg(j, a, 2, "count", -1));
}

/* ---------------------------------------------------------------- classes and padding */

static const jv *all_of(jinja *j, const jv *s, bool (*test)(int32_t code)) {
    bool ok = s->as.string.size > 0;
    for (size_t at = 0; at < s->as.string.size && ok;) {
        int32_t code;
        at += utf8_decode(s->as.string.data + at, s->as.string.size - at, &code);
        ok = code >= 0 && test(code);
    }
    return jv_bool(j, ok);
}

static bool is_digit(int32_t code) { return utf8proc_category(code) == UTF8PROC_CATEGORY_ND; }
static bool is_alnum(int32_t code) { return is_digit(code) || is_letter(code); }

static const jv *isdigit_of(jinja *j, const jv *s, const jinja_args *a) {
    (void)a;
    return all_of(j, s, is_digit);
}
static const jv *isalpha_of(jinja *j, const jv *s, const jinja_args *a) {
    (void)a;
    return all_of(j, s, is_letter);
}
static const jv *isalnum_of(jinja *j, const jv *s, const jinja_args *a) {
    (void)a;
    return all_of(j, s, is_alnum);
}
static const jv *isspace_of(jinja *j, const jv *s, const jinja_args *a) {
    (void)a;
    return all_of(j, s, jinja_is_space);
}

bool jinja_is_case(const jv *s, bool upper_case) {
    bool any = false;
    for (size_t at = 0; at < s->as.string.size;) {
        int32_t code;
        at += utf8_decode(s->as.string.data + at, s->as.string.size - at, &code);
        const utf8proc_category_t c = code < 0 ? UTF8PROC_CATEGORY_CN : utf8proc_category(code);
        if (c == (upper_case ? UTF8PROC_CATEGORY_LL : UTF8PROC_CATEGORY_LU)) return false;
        any = any || c == (upper_case ? UTF8PROC_CATEGORY_LU : UTF8PROC_CATEGORY_LL);
    }
    return any;
}

static const jv *isupper_of(jinja *j, const jv *s, const jinja_args *a) {
    (void)a;
    return jv_bool(j, jinja_is_case(s, true));
}
static const jv *islower_of(jinja *j, const jv *s, const jinja_args *a) {
    (void)a;
    return jv_bool(j, jinja_is_case(s, false));
}

#define PAD_MAX 100000

static const jv *pad(jinja *j, const jv *s, int64_t left, int64_t right, char with) {
    if (left > PAD_MAX || right > PAD_MAX) return jinja_fail(j, "padding longer than %d", PAD_MAX);
    bytes out = {0};
    bool ok = true;
    for (int64_t i = 0; i < left && ok; i++) ok = bytes_append(&out, &with, 1);
    ok = ok && jv_write(j, s, false, &out);
    for (int64_t i = 0; i < right && ok; i++) ok = bytes_append(&out, &with, 1);
    return take(j, &out, ok);
}

static int64_t missing(jinja *j, const jv *s, const jinja_args *a) {
    int64_t length = 0;
    jv_length(s, &length);
    return i64_max(int_arg(j, a, 0, NULL, 0) - length, 0);
}

/** CPython gives the odd blank to the left when both the padding and the width are odd. */
static const jv *center(jinja *j, const jv *s, const jinja_args *a) {
    const int64_t blanks = missing(j, s, a), width = int_arg(j, a, 0, NULL, 0);
    const int64_t left = blanks / 2 + (blanks & width & 1);
    return pad(j, s, left, blanks - left, ' ');
}
static const jv *ljust(jinja *j, const jv *s, const jinja_args *a) {
    return pad(j, s, 0, missing(j, s, a), ' ');
}
static const jv *rjust(jinja *j, const jv *s, const jinja_args *a) {
    return pad(j, s, missing(j, s, a), 0, ' ');
}
static const jv *zfill(jinja *j, const jv *s, const jinja_args *a) {
    return pad(j, s, missing(j, s, a), 0, '0');
}

/** "{} {0} {name}": fields without format specifications. */
static const jv *format(jinja *j, const jv *s, const jinja_args *a) {
    bytes out = {0};
    bool ok = true;
    size_t next = 0;
    const char *data = s->as.string.data;
    for (size_t i = 0; i < s->as.string.size && ok; i++) {
        const char c = data[i];
        if ((c == '{' || c == '}') && data[i + 1] == c) {
            ok = bytes_append(&out, &data[i++], 1);
        } else if (c == '{') {
            const char *end = memchr(data + i, '}', s->as.string.size - i);
            const size_t n = end ? (size_t)(end - data) - i - 1 : 0;
            const jv *name = end ? jv_string(j, data + i + 1, n) : NULL;
            char *stop = NULL;
            const long number = name ? strtol(name->as.string.data, &stop, 10) : 0;
            const jv *value = !name                          ? NULL
                              : n == 0                       ? jinja_arg(j, a, next++, NULL)
                              : *stop == '\0' && number >= 0 ? jinja_arg(j, a, (size_t)number, NULL)
                                                             : jv_dict_find(j, a->keywords, name);
            ok = value ? jv_write(j, value, false, &out)
                       : jinja_fail(j, "a format that does not fit its values") != NULL;
            i += n + 1;
        } else {
            ok = bytes_append(&out, &data[i], 1);
        }
    }
    return take(j, &out, ok);
}

/* ---------------------------------------------------------------- mappings, lists, loops */

const jv *jinja_dict_part(jinja *j, const jv *dict, jinja_dict_what what) {
    const jv **items = jinja_alloc(j, (dict->as.dict.count + 1) * sizeof *items);
    for (size_t i = 0; items && i < dict->as.dict.count; i++) {
        const jv *pair[2] = {dict->as.dict.pairs[i].key, dict->as.dict.pairs[i].value};
        items[i] = what == DICT_KEYS     ? pair[0]
                   : what == DICT_VALUES ? pair[1]
                                         : jv_list(j, pair, 2, true);
        if (!items[i]) return NULL;
    }
    return items ? jv_list(j, items, dict->as.dict.count, false) : NULL;
}

static const jv *dict_items(jinja *j, const jv *d, const jinja_args *a) {
    (void)a;
    return jinja_dict_part(j, d, DICT_ITEMS);
}
static const jv *dict_keys(jinja *j, const jv *d, const jinja_args *a) {
    (void)a;
    return jinja_dict_part(j, d, DICT_KEYS);
}
static const jv *dict_values(jinja *j, const jv *d, const jinja_args *a) {
    (void)a;
    return jinja_dict_part(j, d, DICT_VALUES);
}

static const jv *dict_get(jinja *j, const jv *d, const jinja_args *a) {
    const jv *key = jinja_arg(j, a, 0, NULL);
    const jv *found = key ? jv_dict_find(j, d, key) : NULL;
    if (found) return found;
    const jv *fallback = jinja_arg(j, a, 1, "default");
    return fallback ? fallback : jv_none(j);
}

static const jv *list_count(jinja *j, const jv *l, const jinja_args *a) {
    const jv *what = jinja_arg(j, a, 0, NULL);
    jinja_int n = 0;
    for (size_t i = 0; what && i < l->as.list.count; i++) n += jv_equal(l->as.list.items[i], what);
    return jv_int(j, n);
}

static const jv *list_index(jinja *j, const jv *l, const jinja_args *a) {
    const jv *what = jinja_arg(j, a, 0, NULL);
    for (size_t i = 0; what && i < l->as.list.count; i++)
        if (jv_equal(l->as.list.items[i], what)) return jv_int(j, (jinja_int)i);
    return jinja_fail(j, "index() found nothing");
}

static const jv *refuse_change(jinja *j, const jv *self, const jinja_args *a) {
    (void)a;
    return jinja_fail(j, "%s cannot be changed by a template", jv_kind_name(self));
}

static const jv *loop_cycle(jinja *j, const jv *loop, const jinja_args *a) {
    const jv *index = jinja_attribute(j, loop, "index0");
    if (!index || a->count == 0) return jinja_fail(j, "cycle() needs values");
    return a->values[index->as.integer % (jinja_int)a->count];
}

static const jv *loop_changed(jinja *j, const jv *loop, const jinja_args *a) {
    const jv *now = jv_list(j, a->values, a->count, true), *key = jv_text(j, "last changed");
    const jv *before = now && key ? jv_dict_find(j, loop, key) : NULL;
    const bool changed = !before || (now && !jv_equal(before, now));
    if (!jv_dict_set(j, (jv *)(uintptr_t)loop, key, now)) return NULL;
    return jv_bool(j, changed);
}

typedef struct method {
    const char *name;
    method_fn fn;
} method;

static const method string_methods[] = {
    {"strip", strip},
    {"lstrip", lstrip},
    {"rstrip", rstrip},
    {"split", split},
    {"rsplit", rsplit},
    {"splitlines", splitlines},
    {"startswith", startswith},
    {"endswith", endswith},
    {"upper", upper},
    {"lower", lower},
    {"title", title},
    {"capitalize", capitalize},
    {"swapcase", swapcase},
    {"replace", replace},
    {"find", find},
    {"rfind", rfind},
    {"index", index_of},
    {"count", count},
    {"join", join},
    {"format", format},
    {"isdigit", isdigit_of},
    {"isnumeric", isdigit_of},
    {"isdecimal", isdigit_of},
    {"isalpha", isalpha_of},
    {"isalnum", isalnum_of},
    {"isspace", isspace_of},
    {"isupper", isupper_of},
    {"islower", islower_of},
    {"zfill", zfill},
    {"center", center},
    {"ljust", ljust},
    {"rjust", rjust},
    {"partition", partition},
    {"rpartition", rpartition},
    {"removeprefix", removeprefix},
    {"removesuffix", removesuffix},
};
static const method dict_methods[] = {
    {"items", dict_items},    {"keys", dict_keys},        {"values", dict_values},
    {"get", dict_get},        {"pop", refuse_change},     {"update", refuse_change},
    {"clear", refuse_change}, {"popitem", refuse_change}, {"setdefault", refuse_change},
};
static const method list_methods[] = {
    {"count", list_count},      {"index", list_index},     {"append", refuse_change},
    {"extend", refuse_change},  {"insert", refuse_change}, {"pop", refuse_change},
    {"remove", refuse_change},  {"clear", refuse_change},  {"sort", refuse_change},
    {"reverse", refuse_change},
};
static const method loop_methods[] = {{"loop.cycle", loop_cycle}, {"loop.changed", loop_changed}};

static method_fn find_method(const jv *self, const char *name) {
    const method *table = loop_methods;
    size_t n = LLAVA_COUNT(loop_methods);
    if (self->kind == JV_STRING) {
        table = string_methods;
        n = LLAVA_COUNT(string_methods);
    } else if (self->kind == JV_DICT) {
        table = dict_methods;
        n = LLAVA_COUNT(dict_methods);
    } else if (jv_is_list(self)) {
        table = list_methods;
        n = LLAVA_COUNT(list_methods);
    } else if (self->kind != JV_NAMESPACE) {
        return NULL;
    }
    for (size_t i = 0; i < n; i++)
        if (strcmp(table[i].name, name) == 0) return table[i].fn;
    return NULL;
}

bool jinja_has_method(const jv *self, const char *name) { return find_method(self, name) != NULL; }

const jv *jinja_method(jinja *j, const jv *self, const char *name, const jinja_args *args) {
    const method_fn fn = find_method(self, name);
    return fn ? fn(j, self, args) : jinja_fail(j, "%s has no method %s", jv_kind_name(self), name);
}
