/* SPDX-License-Identifier: Apache-2.0
 *
 * Chat templates: the Jinja language as checkpoints use it, evaluated within bounds of memory,
 * steps and depth. Behaviour as transformers sets it up: trim_blocks, lstrip_blocks, no
 * autoescape, undefined names are empty and falsy, tojson keeps order and characters.
 */
#ifndef LLAVA_JINJA_H
#define LLAVA_JINJA_H

#include <time.h>

#include "base/base.h"
#include "base/json.h"

/** Renders `source` with the members of `variables` (an object) as its names. `now` is what
 *  strftime_now() formats; NULL: the function does not exist. Appends to out. */
typedef struct jinja_request {
    const char *source;
    size_t size;
    const json_t *variables;
    const struct tm *now;
} jinja_request;

llava_status jinja_render(const jinja_request *request, bytes *out, llava_error *err);

#endif
