/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of resizing: one axis's weights and the two inner loops.
 */
#ifndef LLAVA_IMAGE_RESAMPLE_H
#define LLAVA_IMAGE_RESAMPLE_H

#include "image.h"

#define RESAMPLE_BITS    22 /* 32 bits less 8 of a sample less 2 for overshoot */
#define RESAMPLE_PADDING 16 /* bytes that resample_row may read behind a row */
#define RESAMPLE_GROUP   4  /* taps that the vector code takes at once */
#define RESAMPLE_LOW     12 /* bits in the lower part of a split tap */

/** Source samples first ... first + count - 1 make one output sample. */
typedef struct resample_span {
    int32_t first, count;
} resample_span;

typedef struct resample_axis {
    int64_t out;          /* samples made: the window's */
    size_t stride;        /* taps reserved per output sample */
    resample_span *spans; /* [out] */
    int32_t *taps;        /* [out, stride] */
    /** The same taps as 16-bit parts, tap = high * 2^12 + low, in groups of four:
     *  [out, stride / 4, 2, 4]; zero behind count. Products of parts and samples are exact. */
    int16_t *parts;
} resample_axis;

/** One axis of a resize from `in` to `out` samples, of which [first, first + count) are made. */
typedef struct axis_request {
    int64_t in, out, first, count;
    image_filter filter;
} axis_request;

llava_status resample_axis_make(const axis_request *request, resample_axis *axis, llava_error *err);
void resample_axis_free(resample_axis *axis);

/** One row of RGB pixels to axis->out pixels. RESAMPLE_PADDING bytes behind row are readable. */
void resample_row(const resample_axis *axis, const uint8_t *row, uint8_t *target);

/** One row of n_bytes samples out of `count` rows that lie n_bytes apart. */
void resample_column(const uint8_t *rows, size_t n_bytes, const int32_t *taps, int32_t count,
                     uint8_t *target);

/** The same for any processor; columns [first, n_bytes). */
void resample_row_plain(const resample_axis *axis, const uint8_t *row, uint8_t *target);
void resample_column_plain(const uint8_t *rows, size_t n_bytes, const int32_t *taps, int32_t count,
                           uint8_t *target, size_t first);

/** A resize to width x height of which only a window is made. */
typedef struct resize_request {
    int64_t width, height;
    int64_t left, top;
    size2 window;
    image_filter filter;
    int n_threads;
} resize_request;

/** The whole result. */
static inline resize_request resize_to(size2 size, image_filter filter, int n_threads) {
    return (resize_request){.width = size.width,
                            .height = size.height,
                            .window = size,
                            .filter = filter,
                            .n_threads = n_threads};
}

llava_status image_resize_window(const llava_image *image, const resize_request *request,
                                 llava_image **out, llava_error *err);

#endif
