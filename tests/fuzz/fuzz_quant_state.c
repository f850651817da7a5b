/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as the JSON beside a 4-bit weight. What is accepted must read back from its own text.
 */
#include <stdlib.h>

#include "checkpoint/quant_state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    quant_state state, again;
    llava_error err;
    if (quant_state_parse((const char *)data, size, "state", &state, &err) != LLAVA_OK) return 0;
    char *text = quant_state_text(&state);
    if (!text) return 0;
    if (quant_state_parse(text, strlen(text), "state", &again, &err) != LLAVA_OK) abort();
    if (again.format != state.format || again.block != state.block ||
        again.n_rows != state.n_rows || again.n_cols != state.n_cols ||
        again.nested_block != state.nested_block || again.offset != state.offset)
        abort();
    free(text);
    return 0;
}
