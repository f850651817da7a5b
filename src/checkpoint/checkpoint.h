/* SPDX-License-Identifier: Apache-2.0
 *
 * Weight files -> named tensors. A checkpoint is a directory's weight files, mapped.
 */
#ifndef LLAVA_CHECKPOINT_H
#define LLAVA_CHECKPOINT_H

#include "base/base.h"
#include "tensor/tensor.h"

/** One tensor of a file. Strings and data live as long as the checkpoint. */
typedef struct checkpoint_tensor {
    const char *name;
    const char *file;   /* name of the file it lies in, relative to the checkpoint */
    const char *stored; /* element type as the file writes it: "BF16" */
    tensor t;           /* dtype is LLAVA_DTYPE_DEFAULT when nothing here can compute with it */
} checkpoint_tensor;

/** Tensors of one file. */
typedef struct checkpoint_list {
    checkpoint_tensor *items; /* from array_new(): release with free() */
    size_t count;
} checkpoint_list;

typedef struct checkpoint checkpoint;

/** Opens a directory's weights in the reference's order of preference (model.safetensors, its
 *  index, pytorch_model.bin, its index), or one weight file. Maps, checks every header, reads no
 * data. */
llava_status checkpoint_open(const char *path, checkpoint **out, llava_error *err);
void checkpoint_close(checkpoint **c);
/** A tensor's bytes are not needed for now: lets go of their pages when they are mapped. */
void checkpoint_forget(const checkpoint *c, const void *data, size_t n_bytes);

/** True if `directory` holds weights checkpoint_open() would find. */
bool checkpoint_exists(const char *directory);

size_t checkpoint_count(const checkpoint *c);
const checkpoint_tensor *checkpoint_at(const checkpoint *c, size_t index); /* sorted by name */
const checkpoint_tensor *checkpoint_find(const checkpoint *c, const char *name); /* or NULL */
/** True if some tensor's name starts with prefix. */
bool checkpoint_has_prefix(const checkpoint *c, const char *prefix);
const char *checkpoint_path(const checkpoint *c);
size_t checkpoint_file_count(const checkpoint *c);
uint64_t checkpoint_bytes(const checkpoint *c); /* sum over tensors */
/** Name of the i-th weight file, relative to the checkpoint. */
const char *checkpoint_file(const checkpoint *c, size_t index);
/** Where a tensor's bytes begin in its file; false when they were gathered from a strided view. */
bool checkpoint_offset(const checkpoint *c, const checkpoint_tensor *t, uint64_t *offset);
/** Tensors that lie in a shard but that the index does not give to it: used when it names them
 *  nowhere, ignored when it gives them to another shard. */
size_t checkpoint_unmapped(const checkpoint *c);

#endif
