/* SPDX-License-Identifier: Apache-2.0
 *
 * Typed, bounded reading of JSON members, and JSON in Python's dialect.
 */
#include <math.h>
#include <stdio.h>

#include "config_read.h"

llava_status read_int(const reader *r, const char *key, int64_t fallback, int64_t min, int64_t max,
                      int64_t *value) {
    const json_t *member = json_object_get(r->object, key);
    if (json_is_null(member))
        return llava_fail(r->err, LLAVA_MALFORMED, "%s: \"%s\": expected an integer, got null",
                          r->what, key);
    return read_int_or_null(r, key, fallback, min, max, value);
}

llava_status read_int_or_null(const reader *r, const char *key, int64_t fallback, int64_t min,
                              int64_t max, int64_t *value) {
    LLAVA_TRY(json_get_i64(r->object, r->what, key, fallback, value, r->err));
    if (json_get(r->object, key) && (*value < min || *value > max))
        return llava_fail(r->err, LLAVA_MALFORMED, "%s: \"%s\": expected %lld to %lld, got %lld",
                          r->what, key, (long long)min, (long long)max, (long long)*value);
    return LLAVA_OK;
}

llava_status read_float(const reader *r, const char *key, double fallback, double min, double max,
                        double *value) {
    const json_t *member = json_object_get(r->object, key);
    if (json_is_null(member))
        return llava_fail(r->err, LLAVA_MALFORMED, "%s: \"%s\": expected a number, got null",
                          r->what, key);
    LLAVA_TRY(json_get_f64(r->object, r->what, key, fallback, value, r->err));
    if (member && !(isfinite(*value) && *value >= min && *value <= max))
        return llava_fail(r->err, LLAVA_MALFORMED, "%s: \"%s\": expected %g to %g, got %g", r->what,
                          key, min, max, *value);
    return LLAVA_OK;
}

llava_status read_text(const reader *r, const char *key, const char *fallback, char *buffer,
                       size_t size) {
    const char *text;
    LLAVA_TRY(json_get_string(r->object, r->what, key, fallback, &text, r->err));
    if (strlen(text) >= size)
        return llava_fail(r->err, LLAVA_MALFORMED,
                          "%s: \"%s\": expected at most %zu bytes, got %zu", r->what, key, size - 1,
                          strlen(text));
    memcpy(buffer, text, strlen(text) + 1);
    return LLAVA_OK;
}

llava_status read_flag(const reader *r, const char *key, bool fallback, bool *value) {
    return json_get_bool(r->object, r->what, key, fallback, value, r->err);
}

/** Length of Python's NaN, Infinity or -Infinity at text, or 0. */
static size_t python_number(const char *text, size_t size) {
    static const char *const words[] = {"NaN", "Infinity", "-Infinity"};
    for (size_t i = 0; i < LLAVA_COUNT(words); i++) {
        const size_t n = strlen(words[i]);
        if (size >= n && memcmp(text, words[i], n) == 0) return n;
    }
    return 0;
}

llava_status config_parse_json(const char *text, size_t size, const char *what, json_t **root,
                               llava_error *err) {
    bytes plain = {0};
    bool in_string = false, ok = bytes_reserve(&plain, size);
    for (size_t i = 0; i < size && ok;) {
        const char c = text[i];
        const size_t n = in_string ? 0 : python_number(text + i, size - i);
        if (n) {
            ok = bytes_puts(&plain, "\"") && bytes_append(&plain, text + i, n) &&
                 bytes_puts(&plain, "\"");
            i += n;
            continue;
        }
        const size_t step = in_string && c == '\\' && i + 1 < size ? 2 : 1;
        if (c == '"') in_string = !in_string;
        ok = bytes_append(&plain, text + i, step);
        i += step;
    }
    llava_status status;
    if (!ok)
        status = llava_fail_memory(err, size, what);
    else
        status = json_read_text(plain.data ? plain.data : "", plain.size, what, root, err);
    bytes_free(&plain);
    return status;
}

llava_status config_read_json(const char *path, json_t **root, llava_error *err) {
    *root = NULL;
    bytes content;
    LLAVA_TRY(file_read(path, JSON_FILE_MAX, &content, err));
    llava_status status =
        config_parse_json(content.data ? content.data : "", content.size, path, root, err);
    bytes_free(&content);
    if (status == LLAVA_OK && !json_is_object(*root)) {
        status = llava_fail(err, LLAVA_MALFORMED, "%s: expected an object, got %s", path,
                            json_kind(*root));
        json_decref(*root);
        *root = NULL;
    }
    return status;
}
