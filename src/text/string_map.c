/* SPDX-License-Identifier: Apache-2.0
 *
 * Open-addressing hash tables and the sorted prefix index.
 */
#include <stdlib.h>

#include "text/string_map.h"

#define POOL_BLOCK ((size_t)64 << 10)

char *text_pool_copy(text_pool *pool, const char *text, size_t size) {
    size_t n_bytes;
    if (!size_add(size, 1, &n_bytes)) return NULL;
    if (pool->size - pool->used < n_bytes) {
        const size_t block = n_bytes > POOL_BLOCK ? n_bytes : POOL_BLOCK;
        char *memory = arena_alloc(pool->memory, block);
        if (!memory) return NULL;
        pool->block = memory;
        pool->used = 0;
        pool->size = block;
    }
    char *copy = pool->block + pool->used;
    if (size) memcpy(copy, text, size);
    copy[size] = '\0';
    pool->used += n_bytes;
    return copy;
}

/* Multiply-and-fold over words of eight bytes; the constant is 2^64 divided by the golden ratio. */
static uint32_t hash_text(span key) {
    const uint64_t factor = 0x9e3779b97f4a7c15u;
    uint64_t h = key.size * factor;
    size_t i = 0;
    for (; i + 8 <= key.size; i += 8) {
        uint64_t word;
        memcpy(&word, key.data + i, 8);
        h = (h ^ word) * factor;
        h ^= h >> 32;
    }
    uint64_t tail = 0;
    for (; i < key.size; i++) tail = tail << 8 | (uint8_t)key.data[i];
    h = (h ^ tail) * factor;
    return (uint32_t)(h >> 32);
}

/* The smallest power of two that keeps the table at most half full. */
static bool slots_for(size_t count, size_t *n_slots) {
    size_t n = 16;
    while (n / 2 < count)
        if (!size_mul(n, 2, &n)) return false;
    *n_slots = n;
    return true;
}

static string_slot *string_map_find(const string_map *map, span key, uint32_t hash) {
    size_t at = hash & (map->n_slots - 1);
    for (;; at = (at + 1) & (map->n_slots - 1)) {
        string_slot *slot = &map->slots[at];
        if (!slot->text) return slot;
        if (slot->hash == hash && span_equal((span){slot->text, slot->size}, key)) return slot;
    }
}

bool string_map_reserve(string_map *map, size_t count) {
    size_t n_slots;
    if (!slots_for(count, &n_slots)) return false;
    if (n_slots <= map->n_slots) return true;
    string_map grown = {array_new(n_slots, sizeof(string_slot)), n_slots, map->count};
    if (!grown.slots) return false;
    for (size_t i = 0; i < map->n_slots; i++) {
        const string_slot *slot = &map->slots[i];
        if (slot->text)
            *string_map_find(&grown, (span){slot->text, slot->size}, slot->hash) = *slot;
    }
    free(map->slots);
    *map = grown;
    return true;
}

static bool string_map_put(string_map *map, span key, int32_t value, bool replace) {
    if (key.size > UINT32_MAX || !string_map_reserve(map, map->count + 1)) return false;
    const uint32_t hash = hash_text(key);
    string_slot *slot = string_map_find(map, key, hash);
    if (slot->text) {
        if (replace) slot->value = value;
        return true;
    }
    *slot = (string_slot){key.data, (uint32_t)key.size, hash, value};
    map->count++;
    return true;
}

bool string_map_add(string_map *map, span key, int32_t value) {
    return string_map_put(map, key, value, false);
}

bool string_map_set(string_map *map, span key, int32_t value) {
    return string_map_put(map, key, value, true);
}

int32_t string_map_get(const string_map *map, span key) {
    if (!map->count) return -1;
    const string_slot *slot = string_map_find(map, key, hash_text(key));
    return slot->text ? slot->value : -1;
}

void string_map_free(string_map *map) {
    free(map->slots);
    *map = (string_map){0};
}

/* ---------------------------------------------------------------- merges */

#define NO_PAIR UINT64_MAX

static uint64_t pair_of(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static merge_slot *merge_map_find(const merge_map *map, uint64_t pair) {
    uint64_t h = pair * 0x9e3779b97f4a7c15u;
    h ^= h >> 32;
    size_t at = (size_t)h & (map->n_slots - 1);
    while (map->slots[at].pair != NO_PAIR && map->slots[at].pair != pair)
        at = (at + 1) & (map->n_slots - 1);
    return &map->slots[at];
}

bool merge_map_reserve(merge_map *map, size_t count) {
    size_t n_slots;
    if (!slots_for(count, &n_slots)) return false;
    if (n_slots <= map->n_slots) return true;
    merge_map grown = {array_new(n_slots, sizeof(merge_slot)), n_slots, map->count};
    if (!grown.slots) return false;
    for (size_t i = 0; i < n_slots; i++) grown.slots[i].pair = NO_PAIR;
    for (size_t i = 0; i < map->n_slots; i++)
        if (map->slots[i].pair != NO_PAIR)
            *merge_map_find(&grown, map->slots[i].pair) = map->slots[i];
    free(map->slots);
    *map = grown;
    return true;
}

bool merge_map_set(merge_map *map, int32_t left, int32_t right, uint32_t rank, int32_t id) {
    if (!merge_map_reserve(map, map->count + 1)) return false;
    merge_slot *slot = merge_map_find(map, pair_of(left, right));
    if (slot->pair == NO_PAIR) map->count++;
    *slot = (merge_slot){pair_of(left, right), rank, id};
    return true;
}

const merge_slot *merge_map_get(const merge_map *map, int32_t left, int32_t right) {
    if (!map->count) return NULL;
    const merge_slot *slot = merge_map_find(map, pair_of(left, right));
    return slot->pair == NO_PAIR ? NULL : slot;
}

void merge_map_free(merge_map *map) {
    free(map->slots);
    *map = (merge_map){0};
}

/* ---------------------------------------------------------------- prefixes */

bool prefix_index_add(prefix_index *index, span text, int32_t value) {
    if (!text.size) return true;
    if (index->count == index->capacity) {
        const size_t capacity = index->capacity ? index->capacity * 2 : 16;
        size_t n_bytes;
        if (!size_mul(capacity, sizeof(prefix_entry), &n_bytes)) return false;
        prefix_entry *entries = realloc(index->entries, n_bytes);
        if (!entries) return false;
        index->entries = entries;
        index->capacity = capacity;
    }
    index->entries[index->count++] = (prefix_entry){text, value};
    return true;
}

static int compare_spans(span a, span b) {
    const size_t size = a.size < b.size ? a.size : b.size;
    const int order = memcmp(a.data, b.data, size);
    if (order) return order;
    return (a.size > b.size) - (a.size < b.size);
}

static int compare_entries(const void *a, const void *b) {
    return compare_spans(((const prefix_entry *)a)->text, ((const prefix_entry *)b)->text);
}

static void merge_runs(prefix_entry *to, const prefix_entry *from, size_t middle, size_t count) {
    size_t left = 0, right = middle;
    for (size_t i = 0; i < count; i++) {
        const bool take_left =
            right >= count || (left < middle && compare_entries(&from[left], &from[right]) <= 0);
        to[i] = from[take_left ? left++ : right++];
    }
}

/* qsort() is not stable and the first of equal texts must win, so equal texts are told apart by
 * their order of arrival: a merge sort bottom-up, falling back to insertion without memory. */
static void sort_entries(prefix_entry *entries, size_t count) {
    prefix_entry *spare = array_new(count, sizeof *spare);
    if (!spare) {
        for (size_t i = 1; i < count; i++) {
            const prefix_entry entry = entries[i];
            size_t j = i;
            for (; j && compare_entries(&entries[j - 1], &entry) > 0; j--)
                entries[j] = entries[j - 1];
            entries[j] = entry;
        }
        return;
    }
    for (size_t width = 1; width < count; width *= 2) {
        for (size_t at = 0; at < count; at += 2 * width) {
            const size_t rest = count - at;
            merge_runs(spare + at, entries + at, width < rest ? width : rest,
                       2 * width < rest ? 2 * width : rest);
        }
        memcpy(entries, spare, count * sizeof *spare);
    }
    free(spare);
}

void prefix_index_sort(prefix_index *index) {
    if (index->count > 1) sort_entries(index->entries, index->count);
    size_t kept = 0;
    for (size_t i = 0; i < index->count; i++)
        if (!kept || !span_equal(index->entries[kept - 1].text, index->entries[i].text))
            index->entries[kept++] = index->entries[i];
    index->count = kept;
    size_t at = 0;
    for (int byte = 0; byte <= 256; byte++) {
        while (at < kept && (uint8_t)index->entries[at].text.data[0] < byte) at++;
        index->first[byte] = (uint32_t)at;
    }
}

void prefix_index_free(prefix_index *index) {
    free(index->entries);
    *index = (prefix_index){0};
}

/* First entry in [low, high) whose byte at `depth` is at least `byte`. */
static size_t lower_bound(const prefix_index *index, size_t low, size_t high, size_t depth,
                          int byte) {
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const span text = index->entries[middle].text;
        if (text.size <= depth || (uint8_t)text.data[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool prefix_walk_step(const prefix_index *index, prefix_walk *walk, uint8_t byte, int32_t *value) {
    *value = -1;
    if (!walk->depth) {
        walk->low = index->first[byte];
        walk->high = index->first[byte + 1];
    } else {
        walk->low = lower_bound(index, walk->low, walk->high, walk->depth, byte);
        walk->high = lower_bound(index, walk->low, walk->high, walk->depth, byte + 1);
    }
    if (walk->low >= walk->high) return false;
    walk->depth++;
    const prefix_entry *entry = &index->entries[walk->low];
    if (entry->text.size == walk->depth) *value = entry->value;
    return true;
}

int32_t prefix_longest(const prefix_index *index, const char *text, size_t size, size_t *length) {
    int32_t best = -1;
    prefix_walk walk;
    prefix_walk_start(index, &walk);
    if (!index->count) return -1;
    for (size_t i = 0; i < size; i++) {
        int32_t value;
        if (!prefix_walk_step(index, &walk, (uint8_t)text[i], &value)) break;
        if (value < 0) continue;
        best = value;
        *length = i + 1;
    }
    return best;
}
