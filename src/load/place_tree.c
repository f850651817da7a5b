/* SPDX-License-Identifier: Apache-2.0
 *
 * The tree of modules that the names of tensors span, with sizes summed upwards.
 */
#include <stdlib.h>

#include "place.h"

static int new_node(place_tree *tree, const char *name, size_t size, int parent) {
    if (tree->count == tree->capacity) {
        const int capacity = tree->capacity ? 2 * tree->capacity : 256;
        place_node *nodes = realloc(tree->nodes, (size_t)capacity * sizeof *nodes);
        if (!nodes) return -1;
        tree->nodes = nodes;
        tree->capacity = capacity;
    }
    const char *copy = arena_strndup(tree->memory, name, size);
    if (!copy) return -1;
    tree->nodes[tree->count] = (place_node){.name = copy,
                                            .parent = parent,
                                            .first_child = -1,
                                            .last_child = -1,
                                            .next_sibling = -1,
                                            .first_tensor = -1,
                                            .last_tensor = -1,
                                            .device = -1};
    return tree->count++;
}

llava_status place_tree_new(place_tree *tree, arena *memory, llava_error *err) {
    *tree = (place_tree){.memory = memory, .tied = {-1, -1}};
    if (new_node(tree, "", 0, -1) < 0) return llava_fail_memory(err, sizeof(place_node), "a plan");
    return LLAVA_OK;
}

void place_tree_free(place_tree *tree) {
    free(tree->nodes);
    *tree = (place_tree){0};
}

static bool has_path(const place_node *n, const char *path, size_t size) {
    return strncmp(n->name, path, size) == 0 && n->name[size] == '\0';
}

/** Tensors come in order, so the module wanted is nearly always the last one there is. */
static int find_child(const place_tree *tree, int parent, const char *path, size_t size) {
    const place_node *p = &tree->nodes[parent];
    if (p->last_child >= 0 && has_path(&tree->nodes[p->last_child], path, size))
        return p->last_child;
    for (int c = p->first_child; c >= 0; c = tree->nodes[c].next_sibling)
        if (has_path(&tree->nodes[c], path, size)) return c;
    return -1;
}

static void link_child(place_tree *tree, int parent, int node) {
    place_node *p = &tree->nodes[parent];
    const bool tensor = tree->nodes[node].is_tensor;
    int *first = tensor ? &p->first_tensor : &p->first_child;
    int *last = tensor ? &p->last_tensor : &p->last_child;
    if (*last >= 0)
        tree->nodes[*last].next_sibling = node;
    else
        *first = node;
    *last = node;
}

/** A numbered child of "layers" (or MPT's "blocks"): its output feeds its own input's sum, so it
 *  stays whole. */
static bool is_layer_path(const char *path, size_t size) {
    size_t digits = 0;
    while (digits < size && path[size - 1 - digits] >= '0' && path[size - 1 - digits] <= '9')
        digits++;
    static const char *const lists[] = {"layers.", "blocks."};
    for (size_t i = 0; i < LLAVA_COUNT(lists); i++) {
        const size_t n = strlen(lists[i]), before = size - digits;
        if (digits == 0 || before < n || memcmp(path + before - n, lists[i], n) != 0) continue;
        if (before == n || path[before - n - 1] == '.') return true;
    }
    return false;
}

static int find_tensor(const place_tree *tree, int parent, const char *path) {
    for (int t = tree->nodes[parent].first_tensor; t >= 0; t = tree->nodes[t].next_sibling)
        if (strcmp(tree->nodes[t].name, path) == 0) return t;
    return -1;
}

int place_tree_add(place_tree *tree, const char *name, int64_t n_bytes, bool made, bool is_tower) {
    int parent = 0;
    for (const char *dot = strchr(name, '.'); dot; dot = strchr(dot + 1, '.')) {
        const size_t size = (size_t)(dot - name);
        int child = find_child(tree, parent, name, size);
        if (child < 0) {
            child = new_node(tree, name, size, parent);
            if (child < 0) return -1;
            tree->nodes[child].is_layer = is_layer_path(name, size);
            tree->nodes[child].is_tower = is_tower;
            link_child(tree, parent, child);
        }
        parent = child;
    }
    int tensor = find_tensor(tree, parent, name); /* there already: another part of it */
    if (tensor < 0) {
        tensor = new_node(tree, name, strlen(name), parent);
        if (tensor < 0) return -1;
        tree->nodes[tensor].is_tensor = true;
        link_child(tree, parent, tensor);
    }
    for (int n = tensor; n >= 0; n = tree->nodes[n].parent) {
        tree->nodes[n].bytes += n_bytes;
        if (made) tree->nodes[n].made_bytes += n_bytes;
    }
    return tensor;
}

int place_tree_find(const place_tree *tree, const char *path) {
    if (!path[0]) return 0;
    int node = 0;
    for (const char *dot = strchr(path, '.'); node >= 0 && dot; dot = strchr(dot + 1, '.'))
        node = find_child(tree, node, path, (size_t)(dot - path));
    if (node < 0) return -1;
    const int child = find_child(tree, node, path, strlen(path));
    return child >= 0 ? child : find_tensor(tree, node, path);
}

static bool is_below(const place_tree *tree, int node, int ancestor) {
    while (node >= 0 && node != ancestor) node = tree->nodes[node].parent;
    return node >= 0;
}

int place_tree_device(const place_tree *tree, int node) {
    int device = -1;
    for (int i = node; i < tree->count; i++) {
        const place_node *n = &tree->nodes[i];
        if (!n->is_tensor || !is_below(tree, i, node)) continue;
        if (n->device < 0 || (device >= 0 && n->device != device)) return -1;
        device = n->device;
    }
    return device;
}

void place_tree_set(place_tree *tree, int node, int index) {
    for (int i = node; i < tree->count; i++)
        if (tree->nodes[i].is_tensor && is_below(tree, i, node)) tree->nodes[i].device = index;
}

place_load place_load_of(const place_tree *tree, int index) {
    place_load sum = {0};
    for (int i = 0; i < tree->count; i++) {
        const place_node *n = &tree->nodes[i];
        if (!n->is_tensor || n->device != index) continue;
        sum.bytes += n->bytes;
        sum.made_bytes += n->made_bytes;
    }
    return sum;
}
