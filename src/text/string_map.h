/* SPDX-License-Identifier: Apache-2.0
 *
 * Look-up structures of the tokenizers: texts to ids, pairs of ids to merges, and a sorted index
 * that finds every entry beginning at a place of a text.
 */
#ifndef LLAVA_STRING_MAP_H
#define LLAVA_STRING_MAP_H

#include "base/base.h"

/** A piece of text that someone else owns; may hold NUL. */
typedef struct span {
    const char *data;
    size_t size;
} span;

static inline bool span_equal(span a, span b) {
    return a.size == b.size && (!a.size || memcmp(a.data, b.data, a.size) == 0);
}
static inline span span_of(const char *text) { return (span){text, text ? strlen(text) : 0}; }

/** Many small strings in few blocks of an arena, each followed by a NUL. */
typedef struct text_pool {
    arena *memory;
    char *block;
    size_t used, size;
} text_pool;

char *text_pool_copy(text_pool *pool, const char *text, size_t size); /* NULL on exhaustion */

/* ---------------------------------------------------------------- text -> number */

typedef struct string_slot {
    const char *text; /* NULL: free */
    uint32_t size, hash;
    int32_t value;
} string_slot;

/** Zero-initialise. Keys are borrowed. */
typedef struct string_map {
    string_slot *slots;
    size_t n_slots, count;
} string_map;

bool string_map_reserve(string_map *map, size_t count);
/** The first value of a key stays; false: out of memory. */
bool string_map_add(string_map *map, span key, int32_t value);
bool string_map_set(string_map *map, span key, int32_t value);
int32_t string_map_get(const string_map *map, span key); /* -1: absent */
void string_map_free(string_map *map);

/* ---------------------------------------------------------------- pair of ids -> merge */

typedef struct merge_slot {
    uint64_t pair;
    uint32_t rank;
    int32_t id;
} merge_slot;

typedef struct merge_map {
    merge_slot *slots;
    size_t n_slots, count;
} merge_map;

bool merge_map_reserve(merge_map *map, size_t count);
bool merge_map_set(merge_map *map, int32_t left, int32_t right, uint32_t rank, int32_t id);
const merge_slot *merge_map_get(const merge_map *map, int32_t left, int32_t right);
void merge_map_free(merge_map *map);

/* ---------------------------------------------------------------- prefixes */

typedef struct prefix_entry {
    span text;
    int32_t value;
} prefix_entry;

/** Entries in byte order, no text twice. */
typedef struct prefix_index {
    prefix_entry *entries;
    size_t count, capacity;
    uint32_t first[257]; /* entries[first[b]] is the first to start with a byte >= b */
} prefix_index;

bool prefix_index_add(prefix_index *index, span text, int32_t value);
/** After the last add. Of equal texts the one added first stays. */
void prefix_index_sort(prefix_index *index);
void prefix_index_free(prefix_index *index);

/** Walks down the entries that a text starts with. Zero depth at first. */
typedef struct prefix_walk {
    size_t low, high, depth;
} prefix_walk;

static inline void prefix_walk_start(const prefix_index *index, prefix_walk *walk) {
    *walk = (prefix_walk){0, index->count, 0};
}
/** Takes one more byte. False: no entry goes on this way. *value: the entry that ends here or -1.
 */
bool prefix_walk_step(const prefix_index *index, prefix_walk *walk, uint8_t byte, int32_t *value);

/** The longest entry at the start of text: its value, or -1. */
int32_t prefix_longest(const prefix_index *index, const char *text, size_t size, size_t *length);

#endif
