/* SPDX-License-Identifier: Apache-2.0
 *
 * torch.save's files: the zip directory, the pickle subset, strided tensors.
 */
#include <stdlib.h>

#include "checkpoint/torch_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    arena *memory = arena_new();
    if (!memory) return 0;
    torch_tensors tensors;
    llava_error err;
    if (torch_file_read(data, size, "input", memory, &tensors, &err) == LLAVA_OK) {
        volatile uint8_t sum = 0; /* every byte of every tensor must be readable */
        for (size_t i = 0; i < tensors.count; i++)
            for (size_t j = 0; j < tensors.items[i].t.n_bytes; j++)
                sum = (uint8_t)(sum + ((const uint8_t *)tensors.items[i].t.data)[j]);
    }
    arena_free(&memory);
    return 0;
}
