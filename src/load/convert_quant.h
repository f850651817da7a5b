/* SPDX-License-Identifier: Apache-2.0
 *
 * A quantized matrix as the tensors bitsandbytes serializes it into.
 */
#ifndef LLAVA_CONVERT_QUANT_H
#define LLAVA_CONVERT_QUANT_H

#include "checkpoint/safetensors_write.h"
#include "load_plan.h"

#define QUANT_TENSORS 6 /* of one matrix, at most */

/** What a matrix of entries is written as; entries of one matrix follow each other. */
typedef struct quant_output {
    quant_format format;
    int64_t n_rows, n_cols;      /* of the whole matrix */
    int64_t block, nested_block; /* nested_block 0: absmax as float32 */
} quant_output;

/** Of codes that a file holds, or of what load_4bit or load_8bit makes of a plain matrix; false
 *  for a matrix that stays plain. */
bool quant_output_of(const load_plan *plan, size_t first, size_t n_entries, quant_output *out);
/** Describes the tensors of a matrix named `name`; returns their number, 0 when memory is short. */
size_t quant_output_plan(arena *memory, const quant_output *out, const char *name,
                         planned_tensor tensors[QUANT_TENSORS]);
/** Writes them, the first being tensor `index` of the file. */
llava_status quant_output_write(safetensors_writer *w, size_t index, const quant_output *out,
                                const weight *codes, llava_error *err);
/** The new config.json's quantization_config. */
json_t *quant_output_config(const load_plan *plan);

#endif
