/* SPDX-License-Identifier: Apache-2.0
 *
 * Pictures: bytes -> RGB -> tiles -> float pixels, and the plan that says how many tiles and
 * which rows of the prompt they become. Counting and packing use the same plan.
 */
#ifndef LLAVA_IMAGE_H
#define LLAVA_IMAGE_H

#include "base/base.h"
#include "config/config.h"

struct llava_image {
    int64_t width, height;
    uint8_t *rgb; /* [height, width, 3] */
};

#define IMAGE_MAX_PIXELS ((int64_t)178956970) /* Pillow's limit against decompression bombs */

/** Allocates; pixels are not set. */
llava_status image_new(int64_t width, int64_t height, llava_image **out, llava_error *err);
/** Sets every pixel. */
void image_fill(llava_image *image, const uint8_t colour[3]);

typedef enum image_filter {
    FILTER_NEAREST = 0,
    FILTER_LANCZOS = 1,
    FILTER_BILINEAR = 2,
    FILTER_BICUBIC = 3,
    FILTER_BOX = 4,
    FILTER_HAMMING = 5
} image_filter; /* Pillow's numbers */

/** Pillow's Image.resize, bit for bit. */
llava_status image_resize(const llava_image *image, int64_t width, int64_t height,
                          image_filter filter, llava_image **out, llava_error *err);

/* ---------------------------------------------------------------- image processor */

struct llava_image_processor {
    processor_config processor;
    processor_config video; /* of frames; the same but in "-hf" checkpoints */
    tower_config tower;
    mm_config mm;     /* pinpoints are owned here */
    size2 *pinpoints; /* in pixels, ranges multiplied out */
    size_t n_pinpoints;
    int64_t patches_per_side; /* of one tower input */
    int64_t tokens_per_tile;  /* rows the tower and projector give for one input */
    int n_threads;            /* for image_process(); 0: one per processor */
};

/** Takes the mm, tower and processor parts of config. Refuses combinations that cannot run. */
llava_status image_processor_new(const llava_config *config, llava_image_processor **out,
                                 llava_error *err);
void image_processor_free(llava_image_processor **processor);

/* ---------------------------------------------------------------- the plan */

typedef enum vision_kind { VISION_IMAGE, VISION_VIDEO } vision_kind;

/** Where one row of a packed picture comes from. */
#define ROW_NEWLINE (-1) /* model.image_newline */
#define ROW_FASTER  (-2) /* model.faster_token */

/** Tiles and packing of one picture or video. */
typedef struct vision_plan {
    vision_kind kind;
    aspect_ratio aspect;    /* the mode really used (pad when several pictures share a prompt) */
    int64_t width, height;  /* of the picture */
    int64_t n_views;        /* tower inputs: base + tiles, or frames */
    size2 best;             /* canvas in pixels (anyres, highres); 0 otherwise */
    int64_t grid_w, grid_h; /* tiles across and down; 0 when not tiled */
    int64_t side;           /* rows of features per view: side x side */

    /* feature maps before the rows are picked */
    int64_t pool_side; /* VIDEO: side after pooling; else 0 */
    int64_t fast_side; /* faster video: side after pooling at twice the stride; else 0 */
    int64_t row0, row1, col0, col1; /* half-open: what the packing keeps of the
                                     * grid_h*side x grid_w*side map; may be empty */
    int64_t out_h, out_w; /* map size after anyres_max scaling or max pooling; 0: unchanged */
    bool resampled;       /* anyres_max scaled the map down (bilinear) */
    bool max_pooled;      /* 2 x 2 max pooling over the map */

    int64_t n_rows; /* rows of the prompt */
    /** rows[i]: index into the features after pooling or scaling, laid out as
     *  views x tokens_per_tile rows (or frames x pool_side^2, then frames x fast_side^2); when
     * `resampled` or `max_pooled`: the base view's side^2 rows, then the out_h x out_w map. Or
     * ROW_*. */
    int32_t *rows;
} vision_plan;

/** n_images: pictures in the same prompt (more than one turns anyres into pad, as in training and
 *  evaluation; the reference's process_images does not: pass 1 for its literal behaviour; nor do
 *  transformers' LlavaNext classes, whatever is passed).
 *  n_frames > 0: a video of that many frames. Both 0: no picture, an empty plan. */
llava_status vision_plan_make(const llava_image_processor *processor, int64_t width, int64_t height,
                              int64_t n_frames, size_t n_images, vision_plan *plan,
                              llava_error *err);
void vision_plan_free(vision_plan *plan);

/** Rows of the features that `rows` points into: after pooling, scaling and max pooling. */
int64_t vision_plan_feature_rows(const llava_image_processor *processor, const vision_plan *plan);

/** Picks the canvas. Exposed for tests. */
size2 select_best_resolution(size2 picture, const size2 *pinpoints, size_t n_pinpoints);

/* ---------------------------------------------------------------- pixels */

/** Float pixels of a picture's views: [n_views, 3, size, size]. `pixels` has room for
 *  plan->n_views * 3 * size^2 floats, size = image_processor_view_size(). VIDEO: one image per
 *  frame. u8 (or NULL) receives the views before normalisation, [n_views, size, size, 3]. */
llava_status image_process(const llava_image_processor *processor, const vision_plan *plan,
                           const llava_image *const *images, size_t n_images, float *pixels,
                           uint8_t *u8, llava_error *err);
int64_t image_processor_view_size(const llava_image_processor *processor);

/** The reference's processor alone, without tiles: the size it gives a picture, and its pixels
 *  [3, height, width] with the bytes before normalisation [height, width, 3] (or NULL). */
llava_status processor_output_size(const processor_config *processor, size2 picture, size2 *output,
                                   llava_error *err);
llava_status processor_apply(const processor_config *processor, const llava_image *image,
                             float *pixels, uint8_t *u8, llava_error *err);

#endif
