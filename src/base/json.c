/* SPDX-License-Identifier: Apache-2.0 */
#include "json.h"

static llava_status json_fail(const char *what, const json_error_t *error, llava_error *err) {
    /* jansson's depth limit (2048), and numbers no double can hold */
    const enum json_error_code code = json_error_code(error);
    const llava_refusal refusal = code == json_error_stack_overflow     ? LLAVA_REFUSAL_LIMIT
                                  : code == json_error_numeric_overflow ? LLAVA_REFUSAL_INVALID
                                                                        : LLAVA_REFUSAL_CORRUPT;
    return llava_refuse(err, LLAVA_MALFORMED, refusal,
                        "%s: not valid JSON at line %d, column %d: %s", what, error->line,
                        error->column, error->text);
}

#define LONG_DIGITS 19 /* from here on an integer may not fit 64 bits */

/** Length of what Python writes and JSON or 64 bits do not have, at text[0]; 0: nothing of that. */
static size_t python_number(const char *text, size_t size, bool *is_integer) {
    static const char *const words[] = {"-Infinity", "Infinity", "NaN"};
    *is_integer = false;
    for (size_t w = 0; w < LLAVA_COUNT(words); w++) {
        const size_t n = strlen(words[w]);
        if (n <= size && memcmp(text, words[w], n) == 0) return n;
    }
    size_t n = text[0] == '-';
    while (n < size && text[n] >= '0' && text[n] <= '9') n++;
    *is_integer = n >= LONG_DIGITS && (n == size || !strchr(".eE", text[n]));
    return *is_integer ? n : 0;
}

/** Outside strings NaN and infinities become null and very long integers (a tokenizer's
 *  model_max_length is int(1e30)) become reals. False: out of memory. */
static bool rewrite_python(const char *text, size_t size, bytes *out) {
    bool in_string = false, is_integer, in_number = false;
    for (size_t i = 0; i < size; i++) {
        if (in_string && text[i] == '\\' && i + 1 < size) {
            if (!bytes_append(out, text + i++, 1)) return false;
        } else if (text[i] == '"') {
            in_string = !in_string;
        }
        const size_t length =
            in_string || in_number ? 0 : python_number(text + i, size - i, &is_integer);
        in_number = !in_string && strchr("0123456789.eE+-", text[i]) && text[i];
        if (!length) {
            if (!bytes_append(out, text + i, 1)) return false;
            continue;
        }
        if (is_integer ? !bytes_append(out, text + i, length) || !bytes_puts(out, ".0")
                       : !bytes_printf(out, "%-*s", (int)length, "null"))
            return false;
        i += length - 1;
    }
    return true;
}

llava_status json_read_text(const char *text, size_t size, const char *what, json_t **root,
                            llava_error *err) {
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL;
    json_error_t error;
    *root = json_loadb(text, size, flags, &error);
    if (*root) return LLAVA_OK;
    bytes rewritten = {0};
    const bool ok = rewrite_python(text, size, &rewritten);
    if (ok) *root = json_loadb(rewritten.data ? rewritten.data : "", rewritten.size, flags, &error);
    bytes_free(&rewritten);
    if (!ok) return llava_fail_memory(err, size, what);
    return *root ? LLAVA_OK : json_fail(what, &error, err);
}

llava_status json_read_file(const char *path, json_t **root, llava_error *err) {
    *root = NULL;
    bytes content;
    LLAVA_TRY(file_read(path, JSON_FILE_MAX, &content, err));
    const llava_status status =
        json_read_text(content.data ? content.data : "", content.size, path, root, err);
    bytes_free(&content);
    return status;
}

const json_t *json_get(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

json_t *json_clean_string(const char *text, size_t size) {
    bytes clean = {0};
    bool ok = bytes_reserve(&clean, size + 1);
    for (size_t i = 0; ok && i < size;) {
        int32_t code;
        const size_t length = utf8_decode(text + i, size - i, &code);
        ok = code < 0 ? bytes_append(&clean, "\xef\xbf\xbd", 3)
                      : bytes_append(&clean, text + i, length);
        i += length;
    }
    json_t *string = ok ? json_stringn(clean.data ? clean.data : "", clean.size) : NULL;
    bytes_free(&clean);
    return string;
}

const char *json_kind(const json_t *value) {
    switch (value ? json_typeof(value) : JSON_NULL) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a number";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    case JSON_NULL: break;
    }
    return "null";
}

static llava_status wrong_kind(const char *what, const char *key, const char *expected,
                               const json_t *value, llava_error *err) {
    return llava_refuse(err, LLAVA_MALFORMED, LLAVA_REFUSAL_INVALID,
                        "%s: \"%s\": expected %s, got %s", what, key, expected, json_kind(value));
}

llava_status json_get_i64(const json_t *object, const char *what, const char *key, int64_t fallback,
                          int64_t *value, llava_error *err) {
    const json_t *member = json_get(object, key);
    *value = fallback;
    if (!member) return LLAVA_OK;
    if (json_is_real(member)) { /* 4096.0 is an integer to Python's users */
        const double real = json_real_value(member);
        if (real < -0x1p53 || real > 0x1p53 || real != (double)(int64_t)real)
            return wrong_kind(what, key, "an integer", member, err);
        *value = (int64_t)real;
        return LLAVA_OK;
    }
    if (!json_is_integer(member)) return wrong_kind(what, key, "an integer", member, err);
    *value = json_integer_value(member);
    return LLAVA_OK;
}

llava_status json_get_f64(const json_t *object, const char *what, const char *key, double fallback,
                          double *value, llava_error *err) {
    const json_t *member = json_get(object, key);
    *value = fallback;
    if (!member) return LLAVA_OK;
    if (!json_is_number(member)) return wrong_kind(what, key, "a number", member, err);
    *value = json_number_value(member);
    return LLAVA_OK;
}

llava_status json_get_bool(const json_t *object, const char *what, const char *key, bool fallback,
                           bool *value, llava_error *err) {
    const json_t *member = json_get(object, key);
    *value = fallback;
    if (!member) return LLAVA_OK;
    if (!json_is_boolean(member)) return wrong_kind(what, key, "a boolean", member, err);
    *value = json_is_true(member);
    return LLAVA_OK;
}

llava_status json_get_string(const json_t *object, const char *what, const char *key,
                             const char *fallback, const char **value, llava_error *err) {
    const json_t *member = json_get(object, key);
    *value = fallback;
    if (!member) return LLAVA_OK;
    if (!json_is_string(member)) return wrong_kind(what, key, "a string", member, err);
    *value = json_string_value(member);
    return LLAVA_OK;
}
