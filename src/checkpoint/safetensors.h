/* SPDX-License-Identifier: Apache-2.0
 *
 * One safetensors file: header checks and the list of its tensors.
 */
#ifndef LLAVA_SAFETENSORS_H
#define LLAVA_SAFETENSORS_H

#include "checkpoint.h"

/** Tensors of a file in the order of the data area. */
typedef struct safetensors_list {
    checkpoint_tensor *items; /* from array_new(): release with free() */
    size_t count;
} safetensors_list;

/** Checks the whole header of a mapped file and lists its tensors. Strings go to memory, data
 *  points into map. `path` names the file in errors, `file` is recorded with each tensor. */
llava_status safetensors_parse(const file_map *map, const char *path, const char *file,
                               arena *memory, safetensors_list *list, llava_error *err);

#endif
