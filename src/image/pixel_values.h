/* SPDX-License-Identifier: Apache-2.0
 *
 * Pixel bytes to the tower's floats: rescaling and normalising as a table of 256 values a channel.
 */
#ifndef LLAVA_IMAGE_PIXEL_VALUES_H
#define LLAVA_IMAGE_PIXEL_VALUES_H

#include "image.h"

typedef struct value_table {
    float value[3][256];
} value_table;

void value_table_fill(const processor_config *processor, value_table *table);

/** n pixels of a row to three planes: out, out + plane, out + 2 plane. */
void value_row(const value_table *table, const uint8_t *rgb, int64_t n, float *out, int64_t plane);

#endif
