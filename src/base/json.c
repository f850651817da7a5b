/* SPDX-License-Identifier: Apache-2.0 */
#include "json.h"

static llava_status json_fail(const char *what, const json_error_t *error, llava_error *err) {
    return llava_fail(err, LLAVA_MALFORMED, "%s: not valid JSON at line %d, column %d: %s", what,
                      error->line, error->column, error->text);
}

/** Python writes NaN, Infinity and -Infinity, which JSON does not have. Outside strings they become
 *  null, padded with spaces so that error positions stay close. False: out of memory. */
static bool replace_nonfinite(const char *text, size_t size, bytes *out) {
    static const char *const words[] = {"-Infinity", "Infinity", "NaN"};
    bool in_string = false;
    for (size_t i = 0; i < size; i++) {
        if (in_string && text[i] == '\\' && i + 1 < size) {
            if (!bytes_append(out, text + i++, 1)) return false;
        } else if (text[i] == '"') {
            in_string = !in_string;
        }
        size_t length = 0;
        for (size_t w = 0; w < LLAVA_COUNT(words) && !in_string && !length; w++) {
            const size_t n = strlen(words[w]);
            if (n <= size - i && memcmp(text + i, words[w], n) == 0) length = n;
        }
        if (length ? !bytes_printf(out, "%-*s", (int)length, "null")
                   : !bytes_append(out, text + i, 1))
            return false;
        if (length) i += length - 1;
    }
    return true;
}

llava_status json_read_text(const char *text, size_t size, const char *what, json_t **root,
                            llava_error *err) {
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL;
    json_error_t error;
    *root = NULL;
    if (!memmem(text, size, "NaN", 3) && !memmem(text, size, "Infinity", 8)) {
        *root = json_loadb(text, size, flags, &error);
        return *root ? LLAVA_OK : json_fail(what, &error, err);
    }
    bytes finite = {0};
    const bool ok = replace_nonfinite(text, size, &finite);
    if (ok) *root = json_loadb(finite.data, finite.size, flags, &error);
    bytes_free(&finite);
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
    return llava_fail(err, LLAVA_MALFORMED, "%s: \"%s\": expected %s, got %s", what, key, expected,
                      json_kind(value));
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
