/* SPDX-License-Identifier: Apache-2.0
 *
 * Names of tensors -> places in the model's structs. A list is described first, then looked up in
 * the files at once, so that one message tells everything that is missing.
 */
#ifndef LLAVA_BINDER_H
#define LLAVA_BINDER_H

#include "base/base.h"
#include "checkpoint/adapter.h"
#include "checkpoint/checkpoint.h"
#include "tensor/tensor.h"

/** Groups of tensors that share a prefix and a file. */
typedef enum bind_group {
    BIND_DECODER = 0,
    BIND_HEAD,
    BIND_PROJECTOR,
    BIND_TOWER,
    BIND_PICTURE, /* image_newline, faster_token */
    BIND_GROUPS
} bind_group;

#define BIND_ANY (-1) /* in a shape: whatever the file says */

typedef struct bind_entry {
    bind_group group;
    const char *suffix; /* the name behind the group's prefix */
    weight *dst;
    int n_dims;
    int64_t shape[4];  /* expected in the file */
    int64_t first_row; /* row range of a larger matrix: MPT's Wqkv */
    int64_t n_rows;    /* rows of dst; 0: all */
    bool optional;
    bool linear; /* the matrix of a linear layer: it may be quantized */
    const checkpoint_tensor *found;
    const lora_module *lora; /* the change an adapter makes to it, or NULL */
} bind_entry;

typedef struct binder {
    arena *memory; /* names */
    bind_entry *entries;
    size_t count, capacity;
    const checkpoint *source[BIND_GROUPS];
    const char *prefix[BIND_GROUPS];
    const char *canonical[BIND_GROUPS]; /* prefix in a complete LLaVA checkpoint */
    adapter *overlay;                   /* looked up first, by canonical names; or NULL */
    float int8_threshold;               /* of stored int8 matrices' products */
    llava_status status;                /* of describing: out of memory */
} binder;

void binder_free(binder *b);

/** Describe one tensor; the name is printf-like. Failures stay in b->status. */
void bind_shape(binder *b, const bind_entry *entry, const char *format, ...) LLAVA_PRINTF(3, 4);
void bind_matrix(binder *b, bind_group group, weight *dst, int64_t n_rows, int64_t n_cols,
                 const char *name);
void bind_linear_matrix(binder *b, bind_group group, weight *dst, int64_t n_rows, int64_t n_cols,
                        const char *name);
void bind_vector(binder *b, bind_group group, weight *dst, int64_t size, const char *name);

/** How many of a group's tensors were found, and the first five of the others. */
typedef struct presence {
    size_t present, total;
    char missing[LLAVA_ERROR_SIZE]; /* separated by commas */
} presence;

/** Counts in source[group] under the prefix and, with_overlay, on top of it. */
void binder_present(const binder *b, bind_group group, const char *prefix, bool with_overlay,
                    presence *found);

/** Tensors that checkpoints hold without a use here; naming them would be noise. */
bool bind_is_known_extra(const char *name);

/** Looks everything up: one error for all missing tensors, one for the first mis-shaped. */
llava_status binder_resolve(binder *b, llava_error *err);

#endif
