/* SPDX-License-Identifier: Apache-2.0
 *
 * Stop texts. They are matched in the decoded answer, not in its ids: a tokenizer may write the
 * same text in several ways, and a text may begin inside a token.
 */
#include <stdlib.h>

#include "stopping.h"

static llava_status grow(stop_list *list, llava_error *err) {
    if (list->count < list->capacity) return LLAVA_OK;
    const size_t capacity = list->capacity ? list->capacity * 2 : 8;
    char **texts = realloc(list->texts, capacity * sizeof *texts);
    if (!texts) return llava_fail_memory(err, capacity * sizeof *texts, "stop strings");
    list->texts = texts;
    size_t *sizes = realloc(list->sizes, capacity * sizeof *sizes);
    if (!sizes) return llava_fail_memory(err, capacity * sizeof *sizes, "stop strings");
    list->sizes = sizes;
    list->capacity = capacity;
    return LLAVA_OK;
}

llava_status stop_list_add(stop_list *list, const char *text, llava_error *err) {
    if (text[0] == '\0') return LLAVA_OK;
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->texts[i], text) == 0) return LLAVA_OK;
    LLAVA_TRY(grow(list, err));
    const size_t size = strlen(text);
    char *copy = strdup(text);
    if (!copy) return llava_fail_memory(err, size + 1, "a stop string");
    list->texts[list->count] = copy;
    list->sizes[list->count] = size;
    list->count++;
    if (size > list->longest) list->longest = size;
    return LLAVA_OK;
}

void stop_list_free(stop_list *list) {
    for (size_t i = 0; i < list->count; i++) free(list->texts[i]);
    free(list->texts);
    free(list->sizes);
    *list = (stop_list){0};
}

size_t stop_list_find(const stop_list *list, const char *text, size_t size, size_t from) {
    size_t earliest = size;
    for (size_t i = 0; i < list->count && from < size; i++) {
        const char *hit = memmem(text + from, size - from, list->texts[i], list->sizes[i]);
        if (hit && (size_t)(hit - text) < earliest) earliest = (size_t)(hit - text);
    }
    return earliest;
}

size_t stop_list_hold(const stop_list *list, const char *text, size_t size) {
    size_t hold = 0;
    for (size_t i = 0; i < list->count; i++) {
        size_t length = list->sizes[i] - 1;
        if (length > size) length = size;
        while (length > hold && memcmp(text + size - length, list->texts[i], length) != 0) length--;
        if (length > hold) hold = length;
    }
    return hold;
}
