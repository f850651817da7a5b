/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a safetensors file. What is accepted must lie inside the file.
 */
#include <stdlib.h>

#include "checkpoint/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const file_map map = {.data = data, .size = size};
    arena *memory = arena_new();
    if (!memory) return 0;
    llava_error err;
    checkpoint_list list;
    if (safetensors_parse(&map, "file", "file", memory, &list, &err) == LLAVA_OK) {
        for (size_t i = 0; i < list.count; i++) {
            const tensor *t = &list.items[i].t;
            const uint8_t *start = t->data;
            if (start < data || start > data + size || t->n_bytes > (size_t)(data + size - start))
                abort();
            if (t->dtype && (size_t)tensor_count(t) * dtype_size(t->dtype) != t->n_bytes) abort();
        }
    }
    free(list.items);
    arena_free(&memory);
    return 0;
}
