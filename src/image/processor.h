/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of picture preparation: what tiling and packing share.
 */
#ifndef LLAVA_IMAGE_PROCESSOR_H
#define LLAVA_IMAGE_PROCESSOR_H

#include "image.h"

/** crop_split: the picture resized and cropped, and the tiles cut from it. */
typedef struct crop_geometry {
    size2 resized;
    int64_t left, top; /* of the crop in the resized picture */
    size2 crop;
} crop_geometry;

crop_geometry crop_split_geometry(const llava_image_processor *processor, size2 picture);

/** Tiles of side `tile` that fit, and where the first one starts (the rest is shared evenly). */
int64_t patch_count(int64_t size, int64_t tile);
int64_t patch_start(int64_t size, int64_t tile);

/** Side of the tiles that a picture is cut into. */
int64_t processor_tile_size(const llava_image_processor *processor);

/** Exactly floor(a / b) of the two doubles, as Python's a // b. */
double floor_divide(double a, double b);

#endif
