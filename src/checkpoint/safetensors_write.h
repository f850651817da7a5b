/* SPDX-License-Identifier: Apache-2.0
 *
 * Writing safetensors files: the header first, then the data of each tensor in turn.
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
    uint64_t expected, written; /* bytes of the data area */
} safetensors_writer;

/** Creates the file with its header; the data area begins on a multiple of 64. */
llava_status safetensors_create(safetensors_writer *w, const char *path,
                                const planned_tensor *tensors, size_t count, llava_error *err);
/** Appends to the data area, in the order of the tensors. */
llava_status safetensors_append(safetensors_writer *w, const void *data, size_t n_bytes,
                                llava_error *err);
/** Flushes to disk and closes; an error unless every announced byte was written. */
llava_status safetensors_finish(safetensors_writer *w, llava_error *err);
/** Closes and removes an unfinished file. Harmless after safetensors_finish(). */
void safetensors_abandon(safetensors_writer *w);

#endif
