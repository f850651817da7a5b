/* SPDX-License-Identifier: Apache-2.0
 *
 * The zip container of torch.save: a directory of stored entries.
 */
#ifndef LLAVA_TORCH_ZIP_H
#define LLAVA_TORCH_ZIP_H

#include "base/base.h"

typedef struct zip_entry {
    const char *name;
    const uint8_t *data; /* inside the file; NULL when compressed */
    size_t size;
} zip_entry;

typedef struct zip_directory {
    zip_entry *entries; /* sorted by name */
    size_t count;
} zip_directory;

/** Reads the central directory of a zip file held in memory. */
llava_status zip_open(const uint8_t *data, size_t size, const char *what, arena *memory,
                      zip_directory *directory, llava_error *err);
const zip_entry *zip_find(const zip_directory *directory, const char *name); /* or NULL */

#endif
