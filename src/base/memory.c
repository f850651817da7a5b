/* SPDX-License-Identifier: Apache-2.0
 *
 * Arrays, arenas and growing buffers.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base.h"

#define ALIGNMENT   ((size_t)64)
#define ARENA_BLOCK ((size_t)64 << 10)

void *array_new(size_t count, size_t element_size) {
    return calloc(count ? count : 1, element_size ? element_size : 1);
}

void *aligned_new(size_t n_bytes) {
    size_t rounded;
    if (!size_add(n_bytes ? n_bytes : 1, ALIGNMENT - 1, &rounded)) return NULL;
    return aligned_alloc(ALIGNMENT, rounded / ALIGNMENT * ALIGNMENT);
}

typedef struct arena_block {
    struct arena_block *next;
    uint8_t *data; /* aligned, zeroed */
    size_t used, size;
} arena_block;

struct arena {
    arena_block *first; /* the one being filled */
    size_t total;
};

arena *arena_new(void) { return calloc(1, sizeof(arena)); }

void arena_free(arena **a) {
    if (!a || !*a) return;
    for (arena_block *block = (*a)->first, *next; block; block = next) {
        next = block->next;
        free(block->data);
        free(block);
    }
    free(*a);
    *a = NULL;
}

static arena_block *arena_grow(arena *a, size_t n_bytes) {
    arena_block *block = calloc(1, sizeof *block);
    if (!block) return NULL;
    block->size = n_bytes > ARENA_BLOCK ? n_bytes : ARENA_BLOCK;
    block->data = aligned_new(block->size);
    if (!block->data) {
        free(block);
        return NULL;
    }
    memset(block->data, 0, block->size);
    block->next = a->first;
    a->first = block;
    a->total += block->size;
    return block;
}

void *arena_alloc(arena *a, size_t n_bytes) {
    size_t rounded;
    if (!size_add(n_bytes ? n_bytes : 1, ALIGNMENT - 1, &rounded)) return NULL;
    rounded = rounded / ALIGNMENT * ALIGNMENT;
    arena_block *block = a->first;
    if (!block || block->size - block->used < rounded) block = arena_grow(a, rounded);
    if (!block) return NULL;
    void *result = block->data + block->used;
    block->used += rounded;
    return result;
}

void *arena_array(arena *a, size_t count, size_t element_size) {
    size_t n_bytes;
    return size_mul(count, element_size, &n_bytes) ? arena_alloc(a, n_bytes) : NULL;
}

char *arena_strndup(arena *a, const char *text, size_t size) {
    size_t n_bytes;
    char *copy = size_add(size, 1, &n_bytes) ? arena_alloc(a, n_bytes) : NULL;
    if (copy && size) memcpy(copy, text, size);
    return copy;
}

char *arena_strdup(arena *a, const char *text) { return arena_strndup(a, text, strlen(text)); }

char *arena_printf(arena *a, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    const int size = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = size < 0 ? NULL : arena_alloc(a, (size_t)size + 1);
    if (text) vsnprintf(text, (size_t)size + 1, format, again);
    va_end(again);
    return text;
}

size_t arena_bytes(const arena *a) { return a ? a->total : 0; }

bool bytes_reserve(bytes *b, size_t extra) {
    size_t needed;
    if (!size_add(b->size, extra, &needed) || !size_add(needed, 1, &needed)) return false;
    if (needed <= b->capacity) return true;
    size_t capacity = b->capacity < 64 ? 64 : b->capacity;
    while (capacity < needed)
        if (!size_add(capacity, capacity / 2, &capacity)) return false;
    char *data = realloc(b->data, capacity);
    if (!data) return false;
    b->data = data;
    b->capacity = capacity;
    return true;
}

bool bytes_append(bytes *b, const void *data, size_t size) {
    if (!bytes_reserve(b, size)) return false;
    if (size) memcpy(b->data + b->size, data, size);
    b->size += size;
    b->data[b->size] = '\0';
    return true;
}

bool bytes_puts(bytes *b, const char *text) { return bytes_append(b, text, strlen(text)); }

bool bytes_printf(bytes *b, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    const int size = vsnprintf(NULL, 0, format, args);
    va_end(args);
    const bool ok = size >= 0 && bytes_reserve(b, (size_t)size);
    if (ok) {
        vsnprintf(b->data + b->size, (size_t)size + 1, format, again);
        b->size += (size_t)size;
    }
    va_end(again);
    return ok;
}

void bytes_free(bytes *b) {
    free(b->data);
    *b = (bytes){0};
}
