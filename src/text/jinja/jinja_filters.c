/* SPDX-License-Identifier: Apache-2.0
 *
 * Filters: jinja2's, as far as chat templates have a use for them.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "jinja_text.h"

typedef const jv *(*filter_fn)(jinja *j, const jv *value, const jinja_args *args);

static bool flag_arg(jinja *j, const jinja_args *args, size_t index, const char *name,
                     bool fallback) {
    const jv *v = jinja_arg(j, args, index, name);
    return v ? jv_truth(v) : fallback;
}

static bool int_arg(jinja *j, const jinja_args *args, size_t index, const char *name,
                    int64_t fallback, int64_t *value) {
    const jv *v = jinja_arg(j, args, index, name);
    *value = fallback;
    if (!v || v->kind == JV_NONE) return true;
    if (v->kind != JV_INT || v->as.integer > INT32_MAX || v->as.integer < INT32_MIN)
        return jinja_fail(j, "expected an integer as \"%s\"", name) != NULL;
    *value = (int64_t)v->as.integer;
    return true;
}

static const jv *take(jinja *j, bytes *text, bool ok) {
    const jv *result = ok ? jv_string(j, text->data ? text->data : "", text->size) : NULL;
    bytes_free(text);
    return result;
}

/** "a.b": members of members. */
static const jv *member_of(jinja *j, const jv *value, const jv *path) {
    if (path->kind != JV_STRING) return jinja_fail(j, "expected the name of an attribute");
    const char *at = path->as.string.data;
    while (value) {
        const char *dot = strchr(at, '.');
        const size_t n = dot ? (size_t)(dot - at) : strlen(at);
        const jv *name = jv_string(j, at, n);
        const jv *found = name && jv_is_dict(value) ? jv_dict_find(j, value, name) : NULL;
        value = found ? found : name ? jinja_attribute(j, value, name->as.string.data) : NULL;
        if (!dot) break;
        at = dot + 1;
    }
    return value;
}

/* ---------------------------------------------------------------- texts */

static const jv *text_filter(jinja *j, const jv *value, jinja_case_style style) {
    const jv *text = jv_to_string(j, value);
    return text ? jinja_case(j, text, style) : NULL;
}

static const jv *f_upper(jinja *j, const jv *v, const jinja_args *a) {
    (void)a;
    return text_filter(j, v, CASE_UPPER);
}
static const jv *f_lower(jinja *j, const jv *v, const jinja_args *a) {
    (void)a;
    return text_filter(j, v, CASE_LOWER);
}
static const jv *f_title(jinja *j, const jv *v, const jinja_args *a) {
    (void)a;
    return text_filter(j, v, CASE_WORDS);
}
static const jv *f_capitalize(jinja *j, const jv *v, const jinja_args *a) {
    (void)a;
    return text_filter(j, v, CASE_CAPITAL);
}
static const jv *f_string(jinja *j, const jv *v, const jinja_args *a) {
    (void)a;
    return jv_to_string(j, v);
}

static const jv *f_trim(jinja *j, const jv *v, const jinja_args *a) {
    const jv *characters = jinja_arg(j, a, 0, "chars");
    const jv *text = jv_to_string(j, v);
    if (!text) return NULL;
    return jinja_strip(j, text, characters && characters->kind == JV_STRING ? characters : NULL,
                       true, true);
}

static const jv *f_replace(jinja *j, const jv *v, const jinja_args *a) {
    const jv *from = jinja_arg(j, a, 0, "old"), *to = jinja_arg(j, a, 1, "new");
    int64_t limit;
    const jv *text = jv_to_string(j, v);
    if (!text || !int_arg(j, a, 2, "count", -1, &limit)) return NULL;
    if (!from || !to || from->kind != JV_STRING || to->kind != JV_STRING)
        return jinja_fail(j, "replace needs two texts");
    return jinja_replace(j, text, from, to, limit);
}

static const jv *f_escape(jinja *j, const jv *v, const jinja_args *a) {
    static const char special[] = "&<>'\"";
    static const char *const names[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    (void)a;
    const jv *text = jv_to_string(j, v);
    bytes out = {0};
    bool ok = text != NULL;
    for (size_t i = 0; ok && i < text->as.string.size; i++) {
        const char *c = &text->as.string.data[i];
        const char *found = *c ? strchr(special, *c) : NULL;
        ok = found ? bytes_puts(&out, names[found - special]) : bytes_append(&out, c, 1);
    }
    return take(j, &out, ok);
}

static const jv *f_join(jinja *j, const jv *v, const jinja_args *a) {
    const jv *separator = jinja_arg(j, a, 0, "d"), *attribute = jinja_arg(j, a, 1, "attribute");
    const jv *items = jv_iterate(j, v);
    bytes out = {0};
    bool ok = items != NULL;
    for (size_t i = 0; ok && i < items->as.list.count; i++) {
        const jv *item = items->as.list.items[i];
        if (attribute) item = member_of(j, item, attribute);
        ok = item && (i == 0 || !separator || jv_write(j, separator, false, &out)) &&
             jv_write(j, item, false, &out);
    }
    return take(j, &out, ok);
}

static const jv *f_indent(jinja *j, const jv *v, const jinja_args *a) {
    int64_t width;
    const jv *given = jinja_arg(j, a, 0, "width"), *text = jv_to_string(j, v);
    const bool first = flag_arg(j, a, 1, "first", false), blank = flag_arg(j, a, 2, "blank", false);
    const bool by_text = given && given->kind == JV_STRING;
    if (!text || (!by_text && !int_arg(j, a, 0, "width", 4, &width))) return NULL;
    if (!by_text && (width < 0 || width > 1000)) return jinja_fail(j, "an indent of that width");
    bytes out = {0};
    bool ok = true, start = true, is_first = true;
    for (size_t i = 0; ok && i < text->as.string.size; i++) {
        const char *c = &text->as.string.data[i];
        if (start && (is_first ? first : blank || *c != '\n'))
            ok = by_text ? jv_write(j, given, false, &out)
                         : bytes_printf(&out, "%*s", (int)width, "");
        ok = ok && bytes_append(&out, c, 1);
        start = *c == '\n';
        if (start) is_first = false;
    }
    return take(j, &out, ok);
}

static const jv *f_truncate(jinja *j, const jv *v, const jinja_args *a) {
    int64_t length, leeway, size;
    const jv *text = jv_to_string(j, v), *end = jinja_arg(j, a, 2, "end");
    if (!end || end->kind != JV_STRING) end = jv_text(j, "...");
    int64_t end_size = 0;
    if (!text || !end || !int_arg(j, a, 0, "length", 255, &length) ||
        !int_arg(j, a, 3, "leeway", 5, &leeway))
        return NULL;
    jv_length(text, &size);
    jv_length(end, &end_size);
    if (size <= length + leeway) return text;
    size_t keep = utf8_offset(text->as.string.data, text->as.string.size, length - end_size);
    if (!flag_arg(j, a, 1, "killwords", false)) {
        const char *blank = memrchr(text->as.string.data, ' ', keep);
        if (blank) keep = (size_t)(blank - text->as.string.data);
    }
    bytes out = {0};
    const bool ok = bytes_append(&out, text->as.string.data, keep) && jv_write(j, end, false, &out);
    return take(j, &out, ok);
}

static const jv *f_wordcount(jinja *j, const jv *v, const jinja_args *a) {
    (void)a;
    const jv *text = jv_to_string(j, v);
    jinja_int count = 0;
    bool inside = false;
    for (size_t i = 0; text && i < text->as.string.size; i++) {
        const unsigned char c = (unsigned char)text->as.string.data[i];
        const bool word = c >= 0x80 || c == '_' || (c >= '0' && c <= '9') ||
                          ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
        count += word && !inside;
        inside = word;
    }
    return text ? jv_int(j, count) : NULL;
}

static const jv *f_tojson(jinja *j, const jv *v, const jinja_args *a) {
    int64_t indent;
    if (!int_arg(j, a, jinja_arg(j, a, 0, NULL) ? 0 : SIZE_MAX, "indent", -1, &indent)) return NULL;
    if (indent > 100) return jinja_fail(j, "an indent of that width");
    bytes out = {0};
    return take(j, &out, jv_write_json(j, v, (int)indent, 0, &out));
}

/* ---------------------------------------------------------------- numbers */

static const jv *f_int(jinja *j, const jv *v, const jinja_args *a) {
    const jv *fallback = jinja_arg(j, a, 0, "default");
    double value = NAN;
    if (v->kind == JV_INT) return v;
    if (jv_is_number(v)) value = jv_number(v);
    if (v->kind == JV_STRING && v->as.string.size) {
        char *end;
        const long long integer = strtoll(v->as.string.data, &end, 10);
        if (*end == '\0') return jv_int(j, integer);
        value = strtod(v->as.string.data, &end);
        if (*end != '\0') value = NAN;
    }
    if (isfinite(value) && fabs(value) < 0x1p62) return jv_int(j, (jinja_int)value);
    return fallback ? fallback : jv_int(j, 0);
}

static const jv *f_float(jinja *j, const jv *v, const jinja_args *a) {
    const jv *fallback = jinja_arg(j, a, 0, "default");
    if (jv_is_number(v)) return jv_float(j, jv_number(v));
    if (v->kind == JV_STRING && v->as.string.size) {
        char *end;
        const double value = strtod(v->as.string.data, &end);
        if (*end == '\0') return jv_float(j, value);
    }
    return fallback ? fallback : jv_float(j, 0.0);
}

static const jv *f_abs(jinja *j, const jv *v, const jinja_args *a) {
    (void)a;
    if (v->kind == JV_INT) return jv_int(j, v->as.integer < 0 ? -v->as.integer : v->as.integer);
    if (!jv_is_number(v)) return jinja_fail(j, "abs of %s", jv_kind_name(v));
    return jv_float(j, fabs(jv_number(v)));
}

/** Python's round(): correctly rounded decimals, halves to even. */
static const jv *f_round(jinja *j, const jv *v, const jinja_args *a) {
    int64_t precision;
    const jv *method = jinja_arg(j, a, 1, "method");
    if (!jv_is_number(v)) return jinja_fail(j, "round of %s", jv_kind_name(v));
    if (!int_arg(j, a, 0, "precision", 0, &precision)) return NULL;
    const double value = jv_number(v);
    if (method && !jv_is_text(method, "common")) {
        const double scale = pow(10, (double)precision);
        return jv_float(
            j, (jv_is_text(method, "ceil") ? ceil(value * scale) : floor(value * scale)) / scale);
    }
    if (precision < 0 || precision > 300) return jinja_fail(j, "rounding to that many digits");
    char text[700];
    snprintf(text, sizeof text, "%.*f", (int)precision, value);
    return jv_float(j, strtod(text, NULL));
}

/* ---------------------------------------------------------------- sequences */

static const jv *f_length(jinja *j, const jv *v, const jinja_args *a) {
    (void)a;
    int64_t length;
    if (!jv_length(v, &length)) return jinja_fail(j, "%s has no length", jv_kind_name(v));
    return jv_int(j, length);
}

static const jv *f_list(jinja *j, const jv *v, const jinja_args *a) {
    (void)a;
    const jv *items = jv_iterate(j, v);
    return items ? jv_list(j, items->as.list.items, items->as.list.count, false) : NULL;
}

static const jv *end_item(jinja *j, const jv *v, bool last) {
    const jv *items = jv_iterate(j, v);
    if (!items) return NULL;
    const size_t count = items->as.list.count;
    return count ? items->as.list.items[last ? count - 1 : 0] : jv_undefined(j, "item");
}

static const jv *f_first(jinja *j, const jv *v, const jinja_args *a) {
    (void)a;
    return end_item(j, v, false);
}
static const jv *f_last(jinja *j, const jv *v, const jinja_args *a) {
    (void)a;
    return end_item(j, v, true);
}

static const jv *f_reverse(jinja *j, const jv *v, const jinja_args *a) {
    (void)a;
    const jv *items = jv_iterate(j, v);
    if (!items) return NULL;
    const size_t count = items->as.list.count;
    const jv **turned = jinja_alloc(j, (count + 1) * sizeof *turned);
    bytes text = {0};
    bool ok = turned != NULL;
    for (size_t i = 0; ok && i < count; i++) {
        turned[i] = items->as.list.items[count - 1 - i];
        if (v->kind == JV_STRING) ok = jv_write(j, turned[i], false, &text);
    }
    const jv *result = !ok                    ? NULL
                       : v->kind == JV_STRING ? jv_string(j, text.data ? text.data : "", text.size)
                                              : jv_list(j, turned, count, false);
    bytes_free(&text);
    return result;
}

/** What two items are ordered or grouped by. */
static const jv *sort_key(jinja *j, const jv *item, const jv *attribute, bool case_sensitive) {
    if (attribute) item = member_of(j, item, attribute);
    return item && item->kind == JV_STRING && !case_sensitive ? jinja_case(j, item, CASE_LOWER)
                                                              : item;
}

/** Stable insertion sort by key; every comparison counts as a step. */
static const jv *sorted(jinja *j, const jv *items, const jv *attribute, bool case_sensitive,
                        bool reverse) {
    const size_t count = items->as.list.count;
    const jv **list = jinja_alloc(j, (count + 1) * sizeof *list);
    const jv **keys = jinja_alloc(j, (count + 1) * sizeof *keys);
    if (!list || !keys) return NULL;
    for (size_t i = 0; i < count; i++) {
        const jv *item = items->as.list.items[i];
        const jv *key = sort_key(j, item, attribute, case_sensitive);
        if (!key) return NULL;
        size_t at = i;
        for (; at > 0; at--) {
            int order;
            if (++j->steps > JINJA_MAX_STEPS) return jinja_fail(j, "takes too many steps");
            if (!jv_compare(key, keys[at - 1], &order))
                return jinja_fail(j, "%s and %s cannot be ordered", jv_kind_name(key),
                                  jv_kind_name(keys[at - 1]));
            if (reverse ? order <= 0 : order >= 0) break;
            list[at] = list[at - 1];
            keys[at] = keys[at - 1];
        }
        list[at] = item;
        keys[at] = key;
    }
    return jv_list(j, list, count, false);
}

static const jv *f_sort(jinja *j, const jv *v, const jinja_args *a) {
    const jv *items = jv_iterate(j, v);
    return items ? sorted(j, items, jinja_arg(j, a, 2, "attribute"),
                          flag_arg(j, a, 1, "case_sensitive", false),
                          flag_arg(j, a, 0, "reverse", false))
                 : NULL;
}

static const jv *f_dictsort(jinja *j, const jv *v, const jinja_args *a) {
    if (!jv_is_dict(v)) return jinja_fail(j, "dictsort of %s", jv_kind_name(v));
    const jv *keys = jinja_dict_part(j, v, DICT_KEYS);
    const jv *order = keys ? sorted(j, keys, NULL, flag_arg(j, a, 0, "case_sensitive", false),
                                    flag_arg(j, a, 2, "reverse", false))
                           : NULL;
    if (!order) return NULL;
    const jv **pairs = jinja_alloc(j, (order->as.list.count + 1) * sizeof *pairs);
    for (size_t i = 0; pairs && i < order->as.list.count; i++) {
        const jv *pair[2] = {order->as.list.items[i], jv_dict_find(j, v, order->as.list.items[i])};
        if (!(pairs[i] = jv_list(j, pair, 2, true))) return NULL;
    }
    return pairs ? jv_list(j, pairs, order->as.list.count, false) : NULL;
}

static const jv *f_unique(jinja *j, const jv *v, const jinja_args *a) {
    const jv *items = jv_iterate(j, v), *attribute = jinja_arg(j, a, 1, "attribute");
    const bool case_sensitive = flag_arg(j, a, 0, "case_sensitive", false);
    const size_t count = items ? items->as.list.count : 0;
    const jv **kept = items ? jinja_alloc(j, (count + 1) * sizeof *kept) : NULL;
    const jv **keys = kept ? jinja_alloc(j, (count + 1) * sizeof *keys) : NULL;
    if (!keys) return NULL;
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        const jv *key = sort_key(j, items->as.list.items[i], attribute, case_sensitive);
        if (!key) return NULL;
        size_t k = 0;
        while (k < n && !jv_equal(keys[k], key)) k++;
        j->steps += (int64_t)k;
        if (j->steps > JINJA_MAX_STEPS) return jinja_fail(j, "takes too many steps");
        if (k < n) continue;
        keys[n] = key;
        kept[n++] = items->as.list.items[i];
    }
    return jv_list(j, kept, n, false);
}

static const jv *f_groupby(jinja *j, const jv *v, const jinja_args *a) {
    const jv *attribute = jinja_arg(j, a, 0, "attribute"), *items = jv_iterate(j, v);
    if (!items || !attribute) return jinja_fail(j, "groupby needs an attribute");
    const jv *order = sorted(j, items, attribute, false, false);
    const jv **groups = order ? jinja_alloc(j, (order->as.list.count + 1) * sizeof *groups) : NULL;
    size_t n = 0;
    for (size_t i = 0, end; groups && i < order->as.list.count; i = end) {
        const jv *key = member_of(j, order->as.list.items[i], attribute);
        for (end = i + 1; key && end < order->as.list.count; end++) {
            const jv *other = member_of(j, order->as.list.items[end], attribute);
            if (!other || !jv_equal(other, key)) break;
        }
        const jv *pair[2] = {key, jv_list(j, order->as.list.items + i, end - i, false)};
        if (!key || !pair[1] || !(groups[n++] = jv_list(j, pair, 2, true))) return NULL;
    }
    return groups ? jv_list(j, groups, n, false) : NULL;
}

static const jv *f_sum(jinja *j, const jv *v, const jinja_args *a) {
    const jv *attribute = jinja_arg(j, a, 0, "attribute"), *total = jinja_arg(j, a, 1, "start");
    const jv *items = jv_iterate(j, v);
    if (!total) total = jv_int(j, 0);
    for (size_t i = 0; items && total && i < items->as.list.count; i++) {
        const jv *item = items->as.list.items[i];
        if (attribute && attribute->kind != JV_NONE) item = member_of(j, item, attribute);
        total = item ? jinja_binary(j, '+', total, item) : NULL;
    }
    return items ? total : NULL;
}

static const jv *extreme(jinja *j, const jv *v, const jinja_args *a, int wanted) {
    const jv *items = jv_iterate(j, v), *attribute = jinja_arg(j, a, 1, "attribute");
    if (!items) return NULL;
    const jv *best = NULL, *best_key = NULL;
    for (size_t i = 0; i < items->as.list.count; i++) {
        const jv *item = items->as.list.items[i];
        const jv *key = sort_key(j, item, attribute, flag_arg(j, a, 0, "case_sensitive", false));
        int order = wanted;
        if (!key) return NULL;
        if (best && !jv_compare(key, best_key, &order))
            return jinja_fail(j, "%s and %s cannot be ordered", jv_kind_name(key),
                              jv_kind_name(best_key));
        if (best && (wanted > 0 ? order <= 0 : order >= 0)) continue;
        best = item;
        best_key = key;
    }
    return best ? best : jv_undefined(j, "item");
}

static const jv *f_max(jinja *j, const jv *v, const jinja_args *a) { return extreme(j, v, a, 1); }
static const jv *f_min(jinja *j, const jv *v, const jinja_args *a) { return extreme(j, v, a, -1); }

/** Lines of n items. */
static const jv *f_batch(jinja *j, const jv *v, const jinja_args *a) {
    int64_t n;
    const jv *items = jv_iterate(j, v);
    if (!items || !int_arg(j, a, 0, "linecount", 0, &n)) return NULL;
    if (n <= 0) return jinja_fail(j, "batch needs a count");
    const int64_t total = (int64_t)items->as.list.count, lines = ceil_div(total, n);
    const jv **out = jinja_alloc(j, ((size_t)lines + 1) * sizeof *out);
    for (int64_t i = 0; out && i < lines; i++)
        if (!(out[i] = jv_list(j, items->as.list.items + i * n, (size_t)i64_min(n, total - i * n),
                               false)))
            return NULL;
    return out ? jv_list(j, out, (size_t)lines, false) : NULL;
}

/** n columns, the first ones longer. */
static const jv *f_slice(jinja *j, const jv *v, const jinja_args *a) {
    int64_t n;
    const jv *items = jv_iterate(j, v);
    if (!items || !int_arg(j, a, 0, "slices", 0, &n)) return NULL;
    if (n <= 0 || n > 100000) return jinja_fail(j, "slice needs a count");
    const int64_t total = (int64_t)items->as.list.count;
    const jv **out = jinja_alloc(j, ((size_t)n + 1) * sizeof *out);
    for (int64_t i = 0, at = 0; out && i < n; i++) {
        const int64_t size = total / n + (i < total % n);
        if (!(out[i] = jv_list(j, items->as.list.items + at, (size_t)size, false))) return NULL;
        at += size;
    }
    return out ? jv_list(j, out, (size_t)n, false) : NULL;
}

/* ---------------------------------------------------------------- choosing and mapping */

/** The arguments behind the first `skip`. */
static jinja_args rest_of(const jinja_args *a, size_t skip) {
    const size_t n = a->count < skip ? a->count : skip;
    return (jinja_args){.values = a->values + n, .count = a->count - n, .keywords = a->keywords};
}

static const jv *f_map(jinja *j, const jv *v, const jinja_args *a) {
    const jv *items = jv_iterate(j, v), *attribute = jinja_arg(j, a, SIZE_MAX, "attribute");
    const jv *fallback = jinja_arg(j, a, SIZE_MAX, "default"), *name = jinja_arg(j, a, 0, NULL);
    if (!items) return NULL;
    if (!attribute && (!name || name->kind != JV_STRING))
        return jinja_fail(j, "map needs a filter");
    const jinja_args rest = rest_of(a, 1);
    const jv **out = jinja_alloc(j, (items->as.list.count + 1) * sizeof *out);
    for (size_t i = 0; out && i < items->as.list.count; i++) {
        const jv *item = items->as.list.items[i];
        out[i] = attribute ? member_of(j, item, attribute)
                           : jinja_filter(j, name->as.string.data, item, &rest);
        if (out[i] && out[i]->kind == JV_UNDEFINED && fallback) out[i] = fallback;
        if (!out[i]) return NULL;
    }
    return out ? jv_list(j, out, items->as.list.count, false) : NULL;
}

/** select, reject, selectattr, rejectattr: items for which the test has the wanted result. */
static const jv *choose(jinja *j, const jv *v, const jinja_args *a, bool by_attribute,
                        bool wanted) {
    const jv *items = jv_iterate(j, v);
    const jv *attribute = by_attribute ? jinja_arg(j, a, 0, NULL) : NULL;
    const jv *test = jinja_arg(j, a, by_attribute ? 1 : 0, NULL);
    const jinja_args rest = rest_of(a, by_attribute ? 2 : 1);
    if (!items) return NULL;
    if ((by_attribute && !attribute) || (test && test->kind != JV_STRING))
        return jinja_fail(j, "expected the name of an attribute or test");
    const jv **kept = jinja_alloc(j, (items->as.list.count + 1) * sizeof *kept);
    size_t n = 0;
    for (size_t i = 0; kept && i < items->as.list.count; i++) {
        const jv *item = items->as.list.items[i];
        const jv *subject = attribute ? member_of(j, item, attribute) : item;
        bool result = subject && jv_truth(subject);
        if (!subject || (test && !jinja_test(j, test->as.string.data, subject, &rest, &result)))
            return NULL;
        if (result == wanted) kept[n++] = item;
    }
    return kept ? jv_list(j, kept, n, false) : NULL;
}

static const jv *f_select(jinja *j, const jv *v, const jinja_args *a) {
    return choose(j, v, a, false, true);
}
static const jv *f_reject(jinja *j, const jv *v, const jinja_args *a) {
    return choose(j, v, a, false, false);
}
static const jv *f_selectattr(jinja *j, const jv *v, const jinja_args *a) {
    return choose(j, v, a, true, true);
}
static const jv *f_rejectattr(jinja *j, const jv *v, const jinja_args *a) {
    return choose(j, v, a, true, false);
}

static const jv *f_default(jinja *j, const jv *v, const jinja_args *a) {
    const jv *fallback = jinja_arg(j, a, 0, "default_value");
    const bool boolean = flag_arg(j, a, 1, "boolean", false);
    if (v->kind != JV_UNDEFINED && !(boolean && !jv_truth(v))) return v;
    return fallback ? fallback : jv_text(j, "");
}

static const jv *f_items(jinja *j, const jv *v, const jinja_args *a) {
    (void)a;
    if (v->kind == JV_UNDEFINED) return jv_list(j, NULL, 0, false);
    return jv_is_dict(v) ? jinja_dict_part(j, v, DICT_ITEMS)
                         : jinja_fail(j, "items of %s", jv_kind_name(v));
}

static const jv *f_attr(jinja *j, const jv *v, const jinja_args *a) {
    const jv *name = jinja_arg(j, a, 0, "name");
    if (!name || name->kind != JV_STRING) return jinja_fail(j, "attr needs a name");
    return jinja_attribute(j, v, name->as.string.data);
}

static const jv *f_safe(jinja *j, const jv *v, const jinja_args *a) {
    (void)a;
    return jv_to_string(j, v);
}

static const jv *f_format(jinja *j, const jv *v, const jinja_args *a) {
    const jv *values = jv_list(j, a->values, a->count, true);
    return values ? jinja_binary(j, '%', v, values) : NULL;
}

static const struct {
    const char *name;
    filter_fn fn;
} filters[] = {
    {"abs", f_abs},
    {"attr", f_attr},
    {"batch", f_batch},
    {"capitalize", f_capitalize},
    {"count", f_length},
    {"d", f_default},
    {"default", f_default},
    {"dictsort", f_dictsort},
    {"e", f_escape},
    {"escape", f_escape},
    {"first", f_first},
    {"float", f_float},
    {"format", f_format},
    {"groupby", f_groupby},
    {"indent", f_indent},
    {"int", f_int},
    {"items", f_items},
    {"join", f_join},
    {"last", f_last},
    {"length", f_length},
    {"list", f_list},
    {"lower", f_lower},
    {"map", f_map},
    {"max", f_max},
    {"min", f_min},
    {"reject", f_reject},
    {"rejectattr", f_rejectattr},
    {"replace", f_replace},
    {"reverse", f_reverse},
    {"round", f_round},
    {"safe", f_safe},
    {"select", f_select},
    {"selectattr", f_selectattr},
    {"slice", f_slice},
    {"sort", f_sort},
    {"string", f_string},
    {"sum", f_sum},
    {"title", f_title},
    {"tojson", f_tojson},
    {"trim", f_trim},
    {"truncate", f_truncate},
    {"unique", f_unique},
    {"upper", f_upper},
    {"wordcount", f_wordcount},
};

const jv *jinja_filter(jinja *j, const char *name, const jv *value, const jinja_args *args) {
    for (size_t i = 0; i < LLAVA_COUNT(filters); i++)
        if (strcmp(filters[i].name, name) == 0) return filters[i].fn(j, value, args);
    return jinja_fail(j, "no filter named \"%.60s\"", name);
}
