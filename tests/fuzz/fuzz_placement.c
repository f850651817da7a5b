/* SPDX-License-Identifier: Apache-2.0
 *
 * Any text as device_map (even first byte) or as max_memory (odd), applied to a small tree.
 */
#include <stdlib.h>

#include "load/place.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[] = {"model.image_newline",
                                    "model.embed_tokens.weight",
                                    "model.layers.0.self_attn.q_proj.weight",
                                    "model.layers.1.self_attn.q_proj.weight",
                                    "model.norm.weight",
                                    "lm_head.weight"};

/** Every tensor must have a place, and none of a device that the table lacks. */
static void check(const place_tree *tree, const place_table *table) {
    for (int i = 0; i < tree->count; i++)
        if (tree->nodes[i].is_tensor &&
            (tree->nodes[i].device < 0 || tree->nodes[i].device >= table->count))
            abort();
}

static void try_map(place_tree *tree, const char *text) {
    place_map map;
    place_table table = {0};
    llava_error err;
    if (place_parse_map(text, &map, &err) != LLAVA_OK) return;
    for (int i = 0; i < PLACE_MAX_CUDA; i++)
        place_table_add(&table, (place_device){.kind = PLACE_CUDA, .index = i});
    place_table_add(&table, (place_device){.kind = PLACE_CPU});
    place_table_add(&table, (place_device){.kind = PLACE_DISK});
    if (map.rule == PLACE_NAMED && place_named(tree, &map, &table, &err) == LLAVA_OK)
        check(tree, &table);
    place_map_free(&map);
}

static void try_memory(place_tree *tree, const char *text) {
    place_table table;
    llava_error err;
    if (place_parse_memory(text, &table, &err) != LLAVA_OK) return;
    place_balance(tree, table.count & 1, &table);
    if (place_infer(tree, &table, &err) == LLAVA_OK) check(tree, &table);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    char *text = malloc(size);
    arena *memory = arena_new();
    place_tree tree = {0};
    if (text && memory && place_tree_new(&tree, memory, NULL) == LLAVA_OK) {
        memcpy(text, data + 1, size - 1);
        text[size - 1] = '\0';
        for (size_t i = 0; i < LLAVA_COUNT(names); i++)
            if (place_tree_add(&tree, names[i], 100, i & 1, false) < 0) abort();
        if (data[0] & 1)
            try_memory(&tree, text);
        else
            try_map(&tree, text);
    }
    place_tree_free(&tree);
    arena_free(&memory);
    free(text);
    return 0;
}
