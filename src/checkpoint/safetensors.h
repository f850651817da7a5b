/* SPDX-License-Identifier: Apache-2.0
 *
 * One safetensors file: header checks and the list of its tensors.
 */
#ifndef LLAVA_SAFETENSORS_H
#define LLAVA_SAFETENSORS_H

#include "checkpoint.h"

/** Checks the whole header of a mapped file and lists its tensors. Strings go to memory, data
 *  points into map. `path` names the file in errors, `file` is recorded with each tensor. */
llava_status safetensors_parse(const file_map *map, const char *path, const char *file,
                               arena *memory, checkpoint_list *list, llava_error *err);

/** The format's name of an element type: "BF16". */
const char *safetensors_dtype_name(llava_dtype dtype);

#endif
