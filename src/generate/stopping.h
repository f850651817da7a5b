/* SPDX-License-Identifier: Apache-2.0
 *
 * When an answer ends: ids, and texts looked for in the decoded answer.
 */
#ifndef LLAVA_GENERATE_STOPPING_H
#define LLAVA_GENERATE_STOPPING_H

#include "base/base.h"

/** Texts to stop at. Zero-initialise. */
typedef struct stop_list {
    char **texts;
    size_t *sizes;
    size_t count, capacity;
    size_t longest;
} stop_list;

/** Copies the text; an empty one is left out (it would match everywhere), so is a double. */
llava_status stop_list_add(stop_list *list, const char *text, llava_error *err);
void stop_list_free(stop_list *list);

/** Offset of the earliest stop text that starts at `from` or later; size when there is none. */
size_t stop_list_find(const stop_list *list, const char *text, size_t size, size_t from);

/** How many bytes at the end of text may be the beginning of a stop text: not to be shown yet. */
size_t stop_list_hold(const stop_list *list, const char *text, size_t size);

#endif
