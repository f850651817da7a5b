/* SPDX-License-Identifier: Apache-2.0
 *
 * Typed, bounded reading of JSON members.
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

llava_status config_read_json(const char *path, json_t **root, llava_error *err) {
    *root = NULL;
    LLAVA_TRY(json_read_file(path, root, err));
    if (json_is_object(*root)) return LLAVA_OK;
    const llava_status status =
        llava_fail(err, LLAVA_MALFORMED, "%s: expected an object, got %s", path, json_kind(*root));
    json_decref(*root);
    *root = NULL;
    return status;
}
