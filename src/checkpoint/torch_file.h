/* SPDX-License-Identifier: Apache-2.0
 *
 * Files of torch.save: the zip container since torch 1.6 and the stream before it.
 */
#ifndef LLAVA_TORCH_FILE_H
#define LLAVA_TORCH_FILE_H

#include "base/base.h"
#include "tensor/tensor.h"

typedef struct torch_tensor {
    const char *name;
    tensor t;
} torch_tensor;

typedef struct torch_tensors {
    torch_tensor *items; /* in the file's order; a name set twice stands once, the later value */
    size_t count;
} torch_tensors;

/** True if the first bytes are those of a file torch.save wrote. */
bool torch_file_probe(const uint8_t *data, size_t size);

/** Tensors of a file held in memory: a dictionary of tensors, or one under "state_dict" or
 *  "model". Contiguous tensors lie in the file; others are gathered into memory. */
llava_status torch_file_read(const uint8_t *data, size_t size, const char *what, arena *memory,
                             torch_tensors *tensors, llava_error *err);

#endif
