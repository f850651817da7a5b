/* SPDX-License-Identifier: Apache-2.0
 *
 * Writing safetensors files: the header first, then the data of each tensor, in any order.
 */
#ifndef LLAVA_SAFETENSORS_WRITE_H
#define LLAVA_SAFETENSORS_WRITE_H

#include <stdio.h>

#include "base/base.h"
#include "tensor/tensor.h"

/** A tensor to come: name, type and shape; n_bytes follows from them. */
typedef struct planned_tensor {
    const char *name;
    tensor t; /* data unused */
} planned_tensor;

typedef struct safetensors_writer {
    FILE *file;
    const char *path;
    uint64_t data_start;        /* in the file; a multiple of SAFETENSORS_ALIGNMENT */
    uint64_t *offsets;          /* of each tensor in the data area */
    uint64_t expected, written; /* bytes of the data area */
} safetensors_writer;

#define SAFETENSORS_ALIGNMENT 64

/** Creates the file with its header. The data area has no holes, as the format wants it; a tensor
 *  begins on a multiple of SAFETENSORS_ALIGNMENT when its size is one, and of its element in any
 *  case, so that a mapped file can be used where it lies. */
llava_status safetensors_create(safetensors_writer *w, const char *path,
                                const planned_tensor *tensors, size_t count, llava_error *err);
/** Goes to the data of tensor `index`. */
llava_status safetensors_begin(safetensors_writer *w, size_t index, llava_error *err);
/** Appends to the tensor's data. */
llava_status safetensors_append(safetensors_writer *w, const void *data, size_t n_bytes,
                                llava_error *err);
/** Flushes to disk and closes; an error unless every announced byte was written. */
llava_status safetensors_finish(safetensors_writer *w, llava_error *err);
/** Closes and removes an unfinished file. Harmless after safetensors_finish(). */
void safetensors_abandon(safetensors_writer *w);

#endif
