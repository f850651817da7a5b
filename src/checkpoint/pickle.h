/* SPDX-License-Identifier: Apache-2.0
 *
 * The subset of Python's pickle that a state dict needs. Nothing is ever called: a global is an
 * entry of a fixed table, any other is refused by name, and REDUCE is a switch over that table.
 */
#ifndef LLAVA_PICKLE_H
#define LLAVA_PICKLE_H

#include "base/base.h"
#include "tensor/tensor.h"

typedef enum pickle_kind {
    PICKLE_NONE,
    PICKLE_BOOL,
    PICKLE_INT,
    PICKLE_FLOAT,
    PICKLE_STRING,
    PICKLE_SEQUENCE, /* tuple, list or set */
    PICKLE_DICT,
    PICKLE_GLOBAL,
    PICKLE_STORAGE,
    PICKLE_TENSOR,
    PICKLE_MARK
} pickle_kind;

typedef enum pickle_call {
    CALL_NONE, /* a dtype or storage class: never called */
    CALL_ORDERED_DICT,
    CALL_REBUILD_TENSOR,
    CALL_REBUILD_TENSOR_V2,
    CALL_REBUILD_TENSOR_V3,
    CALL_REBUILD_PARAMETER,
    CALL_SIZE,
    CALL_DEVICE
} pickle_call;

/** An allowed global. */
typedef struct pickle_global {
    const char *module, *name;
    pickle_call call;
    bool is_storage;
    llava_dtype dtype; /* of a storage class or dtype object; DEFAULT: untyped */
} pickle_global;

/** Bytes that a pickle names by key; they lie outside it. */
typedef struct pickle_storage {
    const char *key;
    llava_dtype dtype;   /* DEFAULT: untyped, numel counts bytes */
    int64_t numel;       /* of this storage, or of this view of it */
    int64_t root_numel;  /* of the storage itself */
    int64_t view_offset; /* elements into the root storage; legacy files only */
    const uint8_t *data; /* set by the container */
} pickle_storage;

/** Every storage a pickle names, in the order met. */
typedef struct pickle_storages {
    pickle_storage **items; /* in the arena */
    size_t count, capacity;
} pickle_storages;

typedef struct pickle_tensor {
    pickle_storage *storage;
    llava_dtype dtype;
    int64_t offset; /* elements */
    int n_dims;
    int64_t shape[TENSOR_MAX_DIMS], stride[TENSOR_MAX_DIMS]; /* elements */
} pickle_tensor;

typedef struct pickle_value pickle_value;
struct pickle_value {
    pickle_kind kind;
    union {
        bool flag;
        int64_t integer;
        double real;
        struct {
            const char *data; /* NUL-terminated copy */
            size_t size;
        } string;
        struct {
            pickle_value **items; /* dict: key, value, key, value ... */
            size_t count, capacity;
        } list;
        const pickle_global *global;
        pickle_storage *storage;
        pickle_tensor *tensor;
    } as;
};

/** Reads one pickle at *position of data and moves *position behind its STOP. Values live in
 *  memory. `what` names the file in errors. */
typedef struct pickle_input {
    const uint8_t *data;
    size_t size;
    const char *what;
    arena *memory;
    pickle_storages *storages; /* filled when not NULL */
} pickle_input;

llava_status pickle_read(const pickle_input *input, size_t *position, pickle_value **value,
                         llava_error *err);

/** The last value of a text key, or NULL. */
const pickle_value *pickle_dict_get(const pickle_value *dict, const char *key);

#endif
