/* SPDX-License-Identifier: Apache-2.0
 *
 * The rules by which modules are placed, step by step as accelerate 0.29 takes them
 * (get_balanced_memory, infer_auto_device_map), so that a map made there and one made here agree.
 */
#include <stdlib.h>

#include "place.h"

/* ---------------------------------------------------------------- balancing */

/** The larger of the first decoder layer and the first tower layer. */
static int64_t layer_bytes(const place_tree *tree) {
    int64_t first[2] = {-1, -1};
    for (int i = 0; i < tree->count; i++) {
        const place_node *n = &tree->nodes[i];
        if (n->is_layer && first[n->is_tower] < 0) first[n->is_tower] = n->bytes;
    }
    return i64_max(0, i64_max(first[0], first[1]));
}

/** Mean of the modules that hold tensors and no modules. A shared tensor's second module is none
 *  there: the reference walks every tensor once. */
static int64_t mean_leaf_bytes(const place_tree *tree) {
    int64_t count = 0, sum = 0;
    for (int i = 0; i < tree->count; i++) {
        const place_node *n = &tree->nodes[i];
        if (n->is_tensor || n->first_child >= 0 || n->first_tensor < 0) continue;
        if (n->first_tensor == tree->tied[1] && n->first_tensor == n->last_tensor) continue;
        sum += n->bytes;
        count++;
    }
    return count ? sum / count : 0;
}

static bool is_usable_gpu(const place_device *d) { return d->kind == PLACE_CUDA && d->limit > 0; }

void place_balance(const place_tree *tree, bool low_zero, place_table *table) {
    int n = 0, last = -1;
    for (int i = 0; i < table->count; i++) {
        if (!is_usable_gpu(&table->items[i])) continue;
        n++;
        last = i;
    }
    if (n == 0) return;
    if (n == 1) {
        low_zero = false;
        if (!table->given)
            table->items[last].limit = (int64_t)((double)table->items[last].limit * 0.9);
        return;
    }
    const int64_t total = tree->nodes[0].bytes;
    const int64_t room = i64_max(layer_bytes(tree), mean_leaf_bytes(tree));
    const int64_t share = total / (low_zero ? n - 1 : n) + (int64_t)(1.25 * (double)room);
    for (int i = 0; i < last; i++) {
        place_device *d = &table->items[i];
        const bool keeps = !is_usable_gpu(d) || (low_zero && d->index == 0);
        if (!keeps) d->limit = i64_min(share, d->limit);
    }
    place_device *zero = &table->items[0];
    if (!low_zero || zero->kind != PLACE_CUDA || zero->index != 0) return;
    int64_t others = 0; /* numbers 1 to n - 1, as there, also if one of them may hold nothing */
    for (int i = 1; i < table->count; i++) {
        const place_device *d = &table->items[i];
        if (d->kind != PLACE_CUDA || d->index >= n) continue;
        if (__builtin_add_overflow(others, d->limit, &others)) others = INT64_MAX;
    }
    zero->limit = i64_min(i64_max(0, total - others), zero->limit);
}

void place_leave_tenth(place_table *table) {
    for (int i = 0; i < table->count; i++)
        if (table->items[i].limit != PLACE_UNLIMITED)
            table->items[i].limit = (int64_t)((double)table->items[i].limit * 0.9);
}

/* ---------------------------------------------------------------- filling */

/** Modules and tensors that wait for a place, front first, and the largest layers among them. */
typedef struct filling {
    place_tree *tree;
    const place_table *table;
    int *next; /* by node: who stands behind it in the queue */
    int front;
    int *largest; /* layers and leaves of the largest size */
    int n_largest;
    int64_t largest_bytes;
    int device;
    int64_t used;
} filling;

static const place_node *node_at(const filling *f, int i) { return &f->tree->nodes[i]; }

static bool is_whole(const place_node *n) { return n->is_layer || n->first_child < 0; }

static void note_largest(filling *f, int i) {
    const place_node *n = node_at(f, i);
    if (!is_whole(n)) {
        for (int c = n->first_child; c >= 0; c = node_at(f, c)->next_sibling) note_largest(f, c);
        return;
    }
    if (n->bytes > f->largest_bytes) {
        f->largest_bytes = n->bytes;
        f->n_largest = 0;
    }
    if (n->bytes == f->largest_bytes) f->largest[f->n_largest++] = i;
}

static void find_largest(filling *f, bool with_tensors) {
    f->largest_bytes = 0;
    f->n_largest = 0;
    for (int i = f->front; i >= 0; i = f->next[i])
        if (with_tensors || !node_at(f, i)->is_tensor) note_largest(f, i);
}

static bool is_inside(const filling *f, int node, int ancestor) {
    while (node >= 0 && node != ancestor) node = node_at(f, node)->parent;
    return node >= 0;
}

/** The module's own largest layers do not wait any more. */
static void drop_largest(filling *f, int i) {
    int kept = 0;
    for (int k = 0; k < f->n_largest; k++)
        if (!is_inside(f, f->largest[k], i)) f->largest[kept++] = f->largest[k];
    f->n_largest = kept;
    if (kept == 0) find_largest(f, false);
}

static void push_front(filling *f, int i) {
    f->next[i] = f->front;
    f->front = i;
}

/** Tensors and modules of `i`, in order, at the place where *link points. */
static void insert_parts(filling *f, int i, int *link) {
    const int heads[2] = {node_at(f, i)->first_tensor, node_at(f, i)->first_child};
    for (int k = 0; k < 2; k++) {
        for (int part = heads[k]; part >= 0; part = node_at(f, part)->next_sibling) {
            f->next[part] = *link;
            *link = part;
            link = &f->next[part];
        }
    }
}

/** Who waits and holds the tensor that shares memory with one inside `i`; -1: nobody outside. */
static int find_tied(const filling *f, int i, int *tensor) {
    const int *tied = f->tree->tied;
    if (tied[0] < 0) return -1;
    const bool first = is_inside(f, tied[0], i), second = is_inside(f, tied[1], i);
    if (first == second) return -1;
    *tensor = first ? tied[1] : tied[0];
    for (int q = f->front; q >= 0; q = f->next[q])
        if (is_inside(f, *tensor, q)) return q;
    return -1;
}

static void take_out(filling *f, int i) {
    int *link = &f->front;
    while (*link != i) link = &f->next[*link];
    *link = f->next[i];
}

static void next_device(filling *f, int i) {
    push_front(f, i);
    f->device++;
    f->used = 0;
}

/** Bytes that are left on the device in hand; GPU 0 and the CPU keep room for the largest layer. */
static int64_t room_left(const filling *f) {
    const place_device *d = &f->table->items[f->device];
    if (d->kind == PLACE_DISK) return PLACE_UNLIMITED;
    const bool is_main = f->device == 0 || d->kind == PLACE_CPU;
    return d->limit - (is_main ? f->largest_bytes : 0) - f->used;
}

/** The pair fits no more: the other module is opened if it can be, else both go on. */
static void open_tied(filling *f, int i, int other) {
    if (is_whole(node_at(f, other))) {
        next_device(f, i);
        return;
    }
    int *link = &f->front;
    while (*link != other) link = &f->next[*link];
    *link = f->next[other];
    insert_parts(f, other, link);
    push_front(f, i);
    find_largest(f, false);
}

static void treat(filling *f, int i) {
    const place_node *n = node_at(f, i);
    const int64_t room = room_left(f);
    if (n->bytes > room) {
        if (is_whole(n)) {
            next_device(f, i);
        } else {
            insert_parts(f, i, &f->front);
            find_largest(f, false);
        }
        return;
    }
    int tensor = -1;
    const int other = find_tied(f, i, &tensor);
    int64_t size = n->bytes;
    if (other >= 0) size += node_at(f, other)->bytes - node_at(f, tensor)->bytes;
    if (size > room) {
        open_tied(f, i, other);
        return;
    }
    f->used += size;
    place_tree_set(f->tree, i, f->device);
    if (other < 0) return;
    place_tree_set(f->tree, other, f->device);
    take_out(f, other);
}

llava_status place_infer(place_tree *tree, place_table *table, llava_error *err) {
    place_table_add(table, (place_device){.kind = PLACE_DISK, .limit = PLACE_UNLIMITED});
    const size_t n = (size_t)tree->count;
    filling f = {.tree = tree,
                 .table = table,
                 .next = array_new(n, sizeof(int)),
                 .front = -1,
                 .largest = array_new(n, sizeof(int))};
    if (f.next && f.largest) {
        insert_parts(&f, 0, &f.front);
        find_largest(&f, true);
        while (f.front >= 0) {
            const int i = f.front;
            f.front = f.next[i];
            drop_largest(&f, i);
            treat(&f, i);
        }
    }
    const bool ok = f.next && f.largest;
    free(f.next);
    free(f.largest);
    return ok ? LLAVA_OK : llava_fail_memory(err, 2 * n * sizeof(int), "a plan");
}

/* ---------------------------------------------------------------- by names */

/** Sets the device of what a name covers, unless a longer name does. */
static void cover(place_tree *tree, int node, int device, int *depth_of, int depth) {
    for (int i = node; i < tree->count; i++) {
        if (!tree->nodes[i].is_tensor || depth_of[i] > depth) continue;
        int up = i;
        while (up >= 0 && up != node) up = tree->nodes[up].parent;
        if (up < 0) continue;
        tree->nodes[i].device = device;
        depth_of[i] = depth;
    }
}

static llava_status fail_uncovered(const place_tree *tree, llava_error *err) {
    int64_t n_left = 0, n_bytes = 0;
    const char *first = NULL;
    for (int i = 0; i < tree->count; i++) {
        const place_node *n = &tree->nodes[i];
        if (!n->is_tensor || n->device >= 0) continue;
        if (!first) first = n->name;
        n_left++;
        n_bytes += n->bytes;
    }
    if (!first) return LLAVA_OK;
    return llava_fail(err, LLAVA_BAD_ARGUMENT,
                      "device_map: it leaves out %lld tensor%s of %lld bytes, the first is %s; a "
                      "module \"\" would cover the rest",
                      (long long)n_left, n_left == 1 ? "" : "s", (long long)n_bytes, first);
}

static int depth_in_tree(const place_tree *tree, int node) {
    int depth = 1;
    while ((node = tree->nodes[node].parent) >= 0) depth++;
    return depth;
}

llava_status place_named(place_tree *tree, const place_map *map, const place_table *table,
                         llava_error *err) {
    int *depth_of = array_new((size_t)tree->count, sizeof *depth_of);
    if (!depth_of) return llava_fail_memory(err, (size_t)tree->count * sizeof *depth_of, "a plan");
    llava_status status = LLAVA_OK;
    const char *module;
    json_t *value;
    json_object_foreach(map->names, module, value) {
        const int node = place_tree_find(tree, module);
        const place_device d = place_device_of(value);
        if (node < 0) {
            status = llava_fail(err, LLAVA_BAD_ARGUMENT,
                                "device_map: the model has no module \"%.120s\"", module);
            break;
        }
        cover(tree, node, place_table_find(table, d.kind, d.index), depth_of,
              depth_in_tree(tree, node));
    }
    free(depth_of);
    return status == LLAVA_OK ? fail_uncovered(tree, err) : status;
}
