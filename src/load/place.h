/* SPDX-License-Identifier: Apache-2.0
 *
 * Which module goes to which device: the tree of modules with their sizes, the table of devices
 * with their limits, and the reference's rules between the two (transformers 4.40, accelerate
 * 0.29). Nothing here looks at a device or at data: a plan can be made for machines that are not
 * there.
 */
#ifndef LLAVA_PLACE_H
#define LLAVA_PLACE_H

#include "base/base.h"
#include "base/json.h"

/* ---------------------------------------------------------------- devices */

typedef enum place_kind { PLACE_CUDA = 0, PLACE_CPU, PLACE_DISK } place_kind;

#define PLACE_UNLIMITED   INT64_MAX
#define PLACE_MAX_DEVICES 66 /* 64 GPUs, cpu, disk */
#define PLACE_MAX_CUDA    64
#define PLACE_NAME_SIZE   32

typedef struct place_device {
    place_kind kind;
    int index;     /* of CUDA devices */
    int64_t limit; /* bytes that may be used; PLACE_UNLIMITED */
    bool measured; /* what is free now; else as max_memory says */
} place_device;

/** GPUs ascending, then cpu, then disk: the order in which they are filled. */
typedef struct place_table {
    place_device items[PLACE_MAX_DEVICES];
    int count;
    bool given; /* by max_memory: devices it does not name are not used */
} place_table;

/** "cuda:0", "cpu", "disk" into buffer. Returns buffer. */
const char *place_device_name(const place_device *d, char buffer[PLACE_NAME_SIZE]);
/** Index in the table, or -1. */
int place_table_find(const place_table *table, place_kind kind, int index);
/** Keeps the order; a device that is there already gets the new limit. False: the table is full. */
bool place_table_add(place_table *table, place_device d);

/* ---------------------------------------------------------------- options */

typedef enum place_rule {
    PLACE_BALANCED = 0,   /* "auto", "balanced" */
    PLACE_BALANCED_LOW_0, /* the same, as little as possible on GPU 0 */
    PLACE_SEQUENTIAL,     /* one device after the other */
    PLACE_WHOLE,          /* everything on one device */
    PLACE_NAMED,          /* an object: module -> device */
} place_rule;

typedef struct place_map {
    place_rule rule;
    place_device whole; /* PLACE_WHOLE */
    json_t *names;      /* PLACE_NAMED: checked strings and integers */
} place_map;

/** device_map as the option gives it; NULL is "auto". Release with place_map_free(). */
llava_status place_parse_map(const char *text, place_map *map, llava_error *err);
void place_map_free(place_map *map);
/** The device of a checked value of map->names. */
place_device place_device_of(const json_t *value);
/** max_memory: an object of devices with integers or texts like "10GiB". */
llava_status place_parse_memory(const char *text, place_table *table, llava_error *err);

/* ---------------------------------------------------------------- modules */

typedef struct place_node {
    const char *name;                                  /* the whole path; "" is the model */
    int parent, first_child, last_child, next_sibling; /* -1: none */
    int first_tensor, last_tensor; /* tensors that the module holds itself; linked as siblings */
    bool is_tensor;
    bool is_layer; /* never split: a layer of the decoder or of the tower */
    bool is_tower; /* ... of the tower */
    int64_t bytes; /* once loaded, of all tensors below; a shared one counts where it is first */
    int64_t made_bytes; /* of these, new memory: cast, merged or quantized, not mapped */
    int device;         /* of tensors: index in the table; -1: nowhere yet */
} place_node;

typedef struct place_tree {
    arena *memory; /* names */
    place_node *nodes;
    int count, capacity;
    int tied[2]; /* two tensors that are one; -1: none */
} place_tree;

llava_status place_tree_new(place_tree *tree, arena *memory, llava_error *err);
void place_tree_free(place_tree *tree);
/** Adds a tensor with the modules of its path, in the model's order. Gives its node or -1 when
 *  memory is short. Children of "layers" and "blocks" are layers. */
int place_tree_add(place_tree *tree, const char *name, int64_t n_bytes, bool made, bool is_tower);
/** The node of a path, or -1. */
int place_tree_find(const place_tree *tree, const char *path);
/** The device that all tensors below share; -1 when they do not. */
int place_tree_device(const place_tree *tree, int node);
/** Puts every tensor below on a device. */
void place_tree_set(place_tree *tree, int node, int index);

/* ---------------------------------------------------------------- rules */

/** Lowers the limits of all GPUs but the last so that each gets about the same. */
void place_balance(const place_tree *tree, bool low_zero, place_table *table);
/** Leaves a tenth of every limit for what quantizing takes on the side. */
void place_leave_tenth(place_table *table);
/** Fills one device after the other, layers whole; adds disk as the last. */
llava_status place_infer(place_tree *tree, place_table *table, llava_error *err);
/** By names: the longest one that a tensor's path begins with. */
llava_status place_named(place_tree *tree, const place_map *map, const place_table *table,
                         llava_error *err);

/** What lies on a device. */
typedef struct place_load {
    int64_t bytes, made_bytes;
} place_load;
place_load place_load_of(const place_tree *tree, int index);

#endif
