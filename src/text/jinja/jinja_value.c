/* SPDX-License-Identifier: Apache-2.0
 *
 * Making, comparing and printing values the way Python does.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "jinja_value.h"

const jv *jinja_fail(jinja *j, const char *format, ...) {
    if (j->status != LLAVA_OK) return NULL;
    j->status = LLAVA_MALFORMED;
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    llava_error_set(j->err, LLAVA_MALFORMED, "chat template: %s", text);
    return NULL;
}

void *jinja_alloc(jinja *j, size_t n_bytes) {
    void *memory = arena_bytes(j->memory) + n_bytes > JINJA_MAX_MEMORY
                       ? NULL
                       : arena_alloc(j->memory, n_bytes);
    if (!memory && j->status == LLAVA_OK) {
        jinja_fail(j, "takes more than %zu bytes", JINJA_MAX_MEMORY);
        j->status = LLAVA_OUT_OF_MEMORY;
    }
    return memory;
}

static jv *value_new(jinja *j, jv_kind kind) {
    jv *v = jinja_alloc(j, sizeof *v);
    if (v) v->kind = kind;
    return v;
}

const jv *jv_undefined(jinja *j, const char *name) {
    jv *v = value_new(j, JV_UNDEFINED);
    if (v) v->as.undefined = name;
    return v;
}

const jv *jv_none(jinja *j) { return value_new(j, JV_NONE); }

const jv *jv_bool(jinja *j, bool flag) {
    jv *v = value_new(j, JV_BOOL);
    if (v) v->as.flag = flag;
    return v;
}

const jv *jv_int(jinja *j, jinja_int integer) {
    jv *v = value_new(j, JV_INT);
    if (v) v->as.integer = integer;
    return v;
}

const jv *jv_float(jinja *j, double real) {
    jv *v = value_new(j, JV_FLOAT);
    if (v) v->as.real = real;
    return v;
}

const jv *jv_string(jinja *j, const char *data, size_t size) {
    jv *v = value_new(j, JV_STRING);
    char *copy = v ? jinja_alloc(j, size + 1) : NULL;
    if (!copy) return NULL;
    if (size) memcpy(copy, data, size);
    v->as.string.data = copy;
    v->as.string.size = size;
    return v;
}

const jv *jv_text(jinja *j, const char *text) { return jv_string(j, text, strlen(text)); }

const jv *jv_list(jinja *j, const jv **items, size_t count, bool tuple) {
    jv *v = value_new(j, tuple ? JV_TUPLE : JV_LIST);
    const jv **copy = v ? jinja_alloc(j, (count + 1) * sizeof *copy) : NULL;
    if (!copy) return NULL;
    if (count) memcpy(copy, items, count * sizeof *copy);
    v->as.list.items = copy;
    v->as.list.count = count;
    return v;
}

jv *jv_dict_new(jinja *j, jv_kind kind) { return value_new(j, kind); }

bool jv_dict_set(jinja *j, jv *dict, const jv *key, const jv *value) {
    if (!key || !value) return false;
    for (size_t i = 0; i < dict->as.dict.count; i++) {
        if (!jv_equal(dict->as.dict.pairs[i].key, key)) continue;
        dict->as.dict.pairs[i].value = value;
        return true;
    }
    if (dict->as.dict.count == dict->as.dict.capacity) {
        const size_t capacity = dict->as.dict.capacity ? 2 * dict->as.dict.capacity : 8;
        jv_pair *pairs = jinja_alloc(j, capacity * sizeof *pairs);
        if (!pairs) return false;
        if (dict->as.dict.count)
            memcpy(pairs, dict->as.dict.pairs, dict->as.dict.count * sizeof *pairs);
        dict->as.dict.pairs = pairs;
        dict->as.dict.capacity = capacity;
    }
    dict->as.dict.pairs[dict->as.dict.count++] = (jv_pair){key, value};
    return true;
}

const jv *jv_dict_find(jinja *j, const jv *dict, const jv *key) {
    (void)j;
    for (size_t i = 0; i < dict->as.dict.count; i++)
        if (jv_equal(dict->as.dict.pairs[i].key, key)) return dict->as.dict.pairs[i].value;
    return NULL;
}

const jv *jv_function_new(jinja *j, const char *name, const jv *self) {
    jv *v = value_new(j, JV_FUNCTION);
    if (v) v->as.function = (jv_function){.name = name, .self = self};
    return v;
}

static const jv *object_from_json(jinja *j, const json_t *json) {
    jv *dict = jv_dict_new(j, JV_DICT);
    const char *key;
    json_t *member;
    if (!dict) return NULL;
    json_object_foreach((json_t *)(uintptr_t)json, key, member) {
        if (!jv_dict_set(j, dict, jv_text(j, key), jv_from_json(j, member))) return NULL;
    }
    return dict;
}

/** jansson bounds the nesting of what it parses, so this recursion is bounded too. */
const jv *jv_from_json(jinja *j, const json_t *json) {
    switch (json ? json_typeof(json) : JSON_NULL) {
    case JSON_NULL: return jv_none(j);
    case JSON_TRUE: return jv_bool(j, true);
    case JSON_FALSE: return jv_bool(j, false);
    case JSON_INTEGER: return jv_int(j, json_integer_value(json));
    case JSON_REAL: return jv_float(j, json_real_value(json));
    case JSON_STRING: return jv_string(j, json_string_value(json), json_string_length(json));
    case JSON_OBJECT: return object_from_json(j, json);
    case JSON_ARRAY: break;
    }
    const size_t count = json_array_size(json);
    const jv **items = jinja_alloc(j, (count + 1) * sizeof *items);
    if (!items) return NULL;
    for (size_t i = 0; i < count; i++)
        if (!(items[i] = jv_from_json(j, json_array_get(json, i)))) return NULL;
    return jv_list(j, items, count, false);
}

/* ---------------------------------------------------------------- asking */

bool jv_is_text(const jv *v, const char *text) {
    return v->kind == JV_STRING && v->as.string.size == strlen(text) &&
           memcmp(v->as.string.data, text, v->as.string.size) == 0;
}

bool jv_is_list(const jv *v) { return v->kind == JV_LIST || v->kind == JV_TUPLE; }
bool jv_is_dict(const jv *v) { return v->kind == JV_DICT || v->kind == JV_NAMESPACE; }

bool jv_is_number(const jv *v) {
    return v->kind == JV_INT || v->kind == JV_FLOAT || v->kind == JV_BOOL;
}

double jv_number(const jv *v) {
    return v->kind == JV_FLOAT  ? v->as.real
           : v->kind == JV_BOOL ? (double)v->as.flag
                                : (double)v->as.integer;
}

bool jv_truth(const jv *v) {
    switch (v->kind) {
    case JV_UNDEFINED:
    case JV_NONE: return false;
    case JV_BOOL: return v->as.flag;
    case JV_INT: return v->as.integer != 0;
    case JV_FLOAT: return v->as.real != 0;
    case JV_STRING: return v->as.string.size != 0;
    case JV_LIST:
    case JV_TUPLE: return v->as.list.count != 0;
    case JV_DICT: return v->as.dict.count != 0;
    case JV_NAMESPACE:
    case JV_FUNCTION: break;
    }
    return true;
}

static bool equal_lists(const jv *a, const jv *b) {
    if (a->kind != b->kind || a->as.list.count != b->as.list.count) return false;
    for (size_t i = 0; i < a->as.list.count; i++)
        if (!jv_equal(a->as.list.items[i], b->as.list.items[i])) return false;
    return true;
}

static bool equal_dicts(const jv *a, const jv *b) {
    if (a->as.dict.count != b->as.dict.count) return false;
    for (size_t i = 0; i < a->as.dict.count; i++) {
        const jv *other = jv_dict_find(NULL, b, a->as.dict.pairs[i].key);
        if (!other || !jv_equal(a->as.dict.pairs[i].value, other)) return false;
    }
    return true;
}

bool jv_equal(const jv *a, const jv *b) {
    if (jv_is_number(a) && jv_is_number(b)) {
        if (a->kind == JV_INT && b->kind == JV_INT) return a->as.integer == b->as.integer;
        return jv_number(a) == jv_number(b);
    }
    if (a->kind == JV_STRING && b->kind == JV_STRING)
        return a->as.string.size == b->as.string.size &&
               memcmp(a->as.string.data, b->as.string.data, a->as.string.size) == 0;
    if (jv_is_list(a) && jv_is_list(b)) return equal_lists(a, b);
    if (jv_is_dict(a) && jv_is_dict(b)) return equal_dicts(a, b);
    return a->kind == b->kind && (a->kind == JV_NONE || a->kind == JV_UNDEFINED || a == b);
}

static int sign(double difference) { return (difference > 0) - (difference < 0); }

bool jv_compare(const jv *a, const jv *b, int *order) {
    if (jv_is_number(a) && jv_is_number(b)) {
        *order = a->kind == JV_INT && b->kind == JV_INT
                     ? (a->as.integer > b->as.integer) - (a->as.integer < b->as.integer)
                     : sign(jv_number(a) - jv_number(b));
        return true;
    }
    if (a->kind == JV_STRING && b->kind == JV_STRING) {
        const size_t n =
            a->as.string.size < b->as.string.size ? a->as.string.size : b->as.string.size;
        *order = memcmp(a->as.string.data, b->as.string.data, n);
        if (*order == 0)
            *order =
                (a->as.string.size > b->as.string.size) - (a->as.string.size < b->as.string.size);
        return true;
    }
    if (!jv_is_list(a) || a->kind != b->kind) return false;
    for (size_t i = 0; i < a->as.list.count && i < b->as.list.count; i++) {
        if (jv_equal(a->as.list.items[i], b->as.list.items[i])) continue;
        return jv_compare(a->as.list.items[i], b->as.list.items[i], order);
    }
    *order = (a->as.list.count > b->as.list.count) - (a->as.list.count < b->as.list.count);
    return true;
}

const char *jv_kind_name(const jv *v) {
    static const char *const names[] = {"undefined", "none",        "a boolean", "an integer",
                                        "a float",   "a string",    "a list",    "a tuple",
                                        "a mapping", "a namespace", "a function"};
    return names[v->kind];
}

bool jv_length(const jv *v, int64_t *length) {
    switch (v->kind) {
    case JV_UNDEFINED: *length = 0; return true;
    case JV_STRING:
        *length = 0;
        for (size_t at = 0; at < v->as.string.size; (*length)++) {
            int32_t code;
            at += utf8_decode(v->as.string.data + at, v->as.string.size - at, &code);
        }
        return true;
    case JV_LIST:
    case JV_TUPLE: *length = (int64_t)v->as.list.count; return true;
    case JV_DICT: *length = (int64_t)v->as.dict.count; return true;
    default: return false;
    }
}

size_t utf8_offset(const char *data, size_t size, int64_t index) {
    size_t at = 0;
    int32_t code;
    for (; index > 0 && at < size; index--) at += utf8_decode(data + at, size - at, &code);
    return at;
}

static const jv *iterate_string(jinja *j, const jv *v) {
    int64_t count;
    jv_length(v, &count);
    const jv **items = jinja_alloc(j, ((size_t)count + 1) * sizeof *items);
    if (!items) return NULL;
    size_t at = 0;
    for (int64_t i = 0; i < count; i++) {
        int32_t code;
        const size_t n = utf8_decode(v->as.string.data + at, v->as.string.size - at, &code);
        if (!(items[i] = jv_string(j, v->as.string.data + at, n))) return NULL;
        at += n;
    }
    return jv_list(j, items, (size_t)count, false);
}

const jv *jv_iterate(jinja *j, const jv *v) {
    if (jv_is_list(v)) return v;
    if (v->kind == JV_STRING) return iterate_string(j, v);
    if (v->kind == JV_UNDEFINED) return jv_list(j, NULL, 0, false);
    if (v->kind != JV_DICT) return jinja_fail(j, "%s cannot be looped over", jv_kind_name(v));
    const jv **keys = jinja_alloc(j, (v->as.dict.count + 1) * sizeof *keys);
    if (!keys) return NULL;
    for (size_t i = 0; i < v->as.dict.count; i++) keys[i] = v->as.dict.pairs[i].key;
    return jv_list(j, keys, v->as.dict.count, false);
}

/* ---------------------------------------------------------------- printing */

static bool write_int(jinja_int value, bytes *out) {
    char digits[48];
    size_t at = sizeof digits;
    const bool negative = value < 0;
    unsigned __int128 rest = negative ? -(unsigned __int128)value : (unsigned __int128)value;
    do digits[--at] = (char)('0' + (int)(rest % 10));
    while (rest /= 10);
    if (negative) digits[--at] = '-';
    return bytes_append(out, digits + at, sizeof digits - at);
}

/** The shortest digits that give the double back, in Python's notation. */
static bool write_float(double value, bytes *out) {
    if (value != value) return bytes_puts(out, "nan");
    if (isinf(value)) return bytes_puts(out, value < 0 ? "-inf" : "inf");
    char text[40];
    for (int precision = 1; precision <= 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision - 1, value);
        if (strtod(text, NULL) == value) break;
    }
    char *e = strchr(text, 'e');
    const int exponent = atoi(e + 1);
    const int n_digits = (int)(e - text) - (text[0] == '-') - (strchr(text, '.') ? 1 : 0);
    if (exponent >= -4 && exponent < 16) {
        const int decimals = n_digits - 1 - exponent;
        return bytes_printf(out, "%.*f", decimals > 1 ? decimals : 1, value);
    }
    *e = '\0';
    return bytes_printf(out, "%se%c%02d", text, exponent < 0 ? '-' : '+', abs(exponent));
}

static bool write_repr(const jv *v, bytes *out) {
    const char *data = v->as.string.data;
    const size_t size = v->as.string.size;
    const char quote = memchr(data, '\'', size) && !memchr(data, '"', size) ? '"' : '\'';
    if (!bytes_append(out, &quote, 1)) return false;
    for (size_t i = 0; i < size; i++) {
        const unsigned char c = (unsigned char)data[i];
        bool ok;
        if (c == '\n')
            ok = bytes_puts(out, "\\n");
        else if (c == '\t')
            ok = bytes_puts(out, "\\t");
        else if (c == '\r')
            ok = bytes_puts(out, "\\r");
        else if (c == '\\' || c == (unsigned char)quote)
            ok = bytes_printf(out, "\\%c", c);
        else if (c < 0x20 || c == 0x7f)
            ok = bytes_printf(out, "\\x%02x", c);
        else
            ok = bytes_append(out, &data[i], 1);
        if (!ok) return false;
    }
    return bytes_append(out, &quote, 1);
}

static bool write_list(jinja *j, const jv *v, bytes *out) {
    const bool tuple = v->kind == JV_TUPLE;
    if (!bytes_puts(out, tuple ? "(" : "[")) return false;
    for (size_t i = 0; i < v->as.list.count; i++) {
        if (i && !bytes_puts(out, ", ")) return false;
        if (!jv_write(j, v->as.list.items[i], true, out)) return false;
    }
    if (tuple && v->as.list.count == 1 && !bytes_puts(out, ",")) return false;
    return bytes_puts(out, tuple ? ")" : "]");
}

static bool write_dict(jinja *j, const jv *v, bytes *out) {
    if (!bytes_puts(out, "{")) return false;
    for (size_t i = 0; i < v->as.dict.count; i++) {
        if (i && !bytes_puts(out, ", ")) return false;
        if (!jv_write(j, v->as.dict.pairs[i].key, true, out) || !bytes_puts(out, ": ") ||
            !jv_write(j, v->as.dict.pairs[i].value, true, out))
            return false;
    }
    return bytes_puts(out, "}");
}

bool jv_write(jinja *j, const jv *v, bool repr, bytes *out) {
    if (out->size > JINJA_MAX_MEMORY) return jinja_fail(j, "the text is too long") != NULL;
    switch (v->kind) {
    case JV_UNDEFINED: return true;
    case JV_NONE: return bytes_puts(out, "None");
    case JV_BOOL: return bytes_puts(out, v->as.flag ? "True" : "False");
    case JV_INT: return write_int(v->as.integer, out);
    case JV_FLOAT: return write_float(v->as.real, out);
    case JV_STRING:
        return repr ? write_repr(v, out) : bytes_append(out, v->as.string.data, v->as.string.size);
    case JV_LIST:
    case JV_TUPLE: return write_list(j, v, out);
    case JV_DICT:
    case JV_NAMESPACE: return write_dict(j, v, out);
    case JV_FUNCTION: return bytes_printf(out, "<function %s>", v->as.function.name);
    }
    return true;
}

const jv *jv_to_string(jinja *j, const jv *v) {
    if (v->kind == JV_STRING) return v;
    bytes text = {0};
    const jv *result = NULL;
    if (jv_write(j, v, false, &text)) result = jv_string(j, text.data ? text.data : "", text.size);
    bytes_free(&text);
    return result;
}

static bool write_json_string(const jv *v, bytes *out) {
    if (!bytes_puts(out, "\"")) return false;
    for (size_t i = 0; i < v->as.string.size; i++) {
        const unsigned char c = (unsigned char)v->as.string.data[i];
        const char *escaped = c == '"'    ? "\\\""
                              : c == '\\' ? "\\\\"
                              : c == '\n' ? "\\n"
                              : c == '\r' ? "\\r"
                              : c == '\t' ? "\\t"
                              : c == '\b' ? "\\b"
                              : c == '\f' ? "\\f"
                                          : NULL;
        const bool ok = escaped    ? bytes_puts(out, escaped)
                        : c < 0x20 ? bytes_printf(out, "\\u%04x", c)
                                   : bytes_append(out, &v->as.string.data[i], 1);
        if (!ok) return false;
    }
    return bytes_puts(out, "\"");
}

/** Between the items of a container: a new line when indented. */
static bool json_break(int indent, int level, bool first, bytes *out) {
    if (!first && !bytes_puts(out, indent < 0 ? ", " : ",")) return false;
    return indent < 0 || bytes_printf(out, "\n%*s", indent * level, "");
}

static bool write_json_list(jinja *j, const jv *v, int indent, int level, bytes *out) {
    if (v->as.list.count == 0) return bytes_puts(out, "[]");
    if (!bytes_puts(out, "[")) return false;
    for (size_t i = 0; i < v->as.list.count; i++)
        if (!json_break(indent, level + 1, i == 0, out) ||
            !jv_write_json(j, v->as.list.items[i], indent, level + 1, out))
            return false;
    if (indent >= 0 && !bytes_printf(out, "\n%*s", indent * level, "")) return false;
    return bytes_puts(out, "]");
}

static bool write_json_dict(jinja *j, const jv *v, int indent, int level, bytes *out) {
    if (v->as.dict.count == 0) return bytes_puts(out, "{}");
    if (!bytes_puts(out, "{")) return false;
    for (size_t i = 0; i < v->as.dict.count; i++) {
        const jv *key = jv_to_string(j, v->as.dict.pairs[i].key);
        if (!key || !json_break(indent, level + 1, i == 0, out) || !write_json_string(key, out) ||
            !bytes_puts(out, ": ") ||
            !jv_write_json(j, v->as.dict.pairs[i].value, indent, level + 1, out))
            return false;
    }
    if (indent >= 0 && !bytes_printf(out, "\n%*s", indent * level, "")) return false;
    return bytes_puts(out, "}");
}

bool jv_write_json(jinja *j, const jv *v, int indent, int level, bytes *out) {
    switch (v->kind) {
    case JV_NONE: return bytes_puts(out, "null");
    case JV_BOOL: return bytes_puts(out, v->as.flag ? "true" : "false");
    case JV_INT:
    case JV_FLOAT: return jv_write(j, v, false, out);
    case JV_STRING: return write_json_string(v, out);
    case JV_LIST:
    case JV_TUPLE: return write_json_list(j, v, indent, level, out);
    case JV_DICT: return write_json_dict(j, v, indent, level, out);
    default: return jinja_fail(j, "%s has no JSON form", jv_kind_name(v)) != NULL;
    }
}
