/* SPDX-License-Identifier: Apache-2.0
 *
 * The JSON that bitsandbytes stores beside the codes of a 4-bit weight.
 */
#ifndef LLAVA_QUANT_STATE_H
#define LLAVA_QUANT_STATE_H

#include "base/base.h"
#include "base/json.h"
#include "tensor/tensor.h"

#define QUANT_STATE_MAX 4096 /* bytes of the JSON */

typedef struct quant_state {
    quant_format format; /* NF4 or FP4 */
    int64_t block, n_rows, n_cols;
    llava_dtype stored;   /* type of the decoded weight */
    int64_t nested_block; /* 0: absmax is not quantized */
    float offset;
} quant_state;

/** `what` names the tensor in errors. */
llava_status quant_state_parse(const char *text, size_t size, const char *what, quant_state *state,
                               llava_error *err);
/** The same as JSON text, which the caller frees; NULL when memory is short. */
char *quant_state_text(const quant_state *state);

#endif
