/* SPDX-License-Identifier: Apache-2.0
 *
 * JSON from outside: jansson behind size limits and errors that name file, line and column.
 */
#ifndef LLAVA_JSON_H
#define LLAVA_JSON_H

#include <jansson.h>

#include "base.h"

#define JSON_FILE_MAX ((size_t)256 << 20) /* tokenizer.json of 250,000 entries is about 20 MB */

/** Parses a file; duplicates of a key are an error; NaN and Infinity, which Python writes, read as
 *  null, integers beyond 64 bits as reals. Release with json_decref(). */
llava_status json_read_file(const char *path, json_t **root, llava_error *err);
/** Parses text; `what` names it in errors. */
llava_status json_read_text(const char *text, size_t size, const char *what, json_t **root,
                            llava_error *err);

/* Typed members of an object. An absent or null key gives the fallback; a wrong type is an error
 * naming `what` and the key. */
llava_status json_get_i64(const json_t *object, const char *what, const char *key, int64_t fallback,
                          int64_t *value, llava_error *err);
llava_status json_get_f64(const json_t *object, const char *what, const char *key, double fallback,
                          double *value, llava_error *err);
llava_status json_get_bool(const json_t *object, const char *what, const char *key, bool fallback,
                           bool *value, llava_error *err);
/** The string is borrowed from the object. */
llava_status json_get_string(const json_t *object, const char *what, const char *key,
                             const char *fallback, const char **value, llava_error *err);

/** The member, or NULL when absent or null. */
const json_t *json_get(const json_t *object, const char *key);
/** A JSON string; bytes that are no UTF-8 become U+FFFD. NULL only when memory is short. */
json_t *json_clean_string(const char *text, size_t size);
const char *json_kind(const json_t *value); /* "an object", "a string", ... for errors */

#endif
