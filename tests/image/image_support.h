/* SPDX-License-Identifier: Apache-2.0
 *
 * What the picture tests share: generated pictures, checksums and processors.
 */
#ifndef LLAVA_TEST_IMAGE_SUPPORT_H
#define LLAVA_TEST_IMAGE_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <zlib.h>

#include "image/image.h"

static inline uint32_t crc_of(const void *data, size_t n_bytes) {
    return (uint32_t)crc32_z(0, data, n_bytes);
}

static inline uint32_t crc_of_image(const llava_image *image) {
    return crc_of(image->rgb, (size_t)(3 * image->width * image->height));
}

/** R = 7x + 13y, G = x^2 + 3y, B = 5 (x xor y), all mod 256. */
static inline llava_image *synth(int64_t width, int64_t height) {
    llava_image *image = NULL;
    assert_int_equal(image_new(width, height, &image, NULL), LLAVA_OK);
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++) {
            uint8_t *rgb = image->rgb + 3 * (y * width + x);
            rgb[0] = (uint8_t)(7 * x + 13 * y);
            rgb[1] = (uint8_t)(x * x + 3 * y);
            rgb[2] = (uint8_t)(5 * (x ^ y));
        }
    return image;
}

/** A config with a CLIP tower of `size` pixels, patches of 14, square pictures, flat packing. */
static inline llava_config clip_config(int64_t size) {
    return (llava_config){.processor = {.kind = TOWER_CLIP,
                                        .do_resize = true,
                                        .do_center_crop = true,
                                        .do_rescale = true,
                                        .do_normalize = true,
                                        .shortest_edge = size,
                                        .crop_width = size,
                                        .crop_height = size,
                                        .resample = FILTER_BICUBIC,
                                        .rescale_factor = 1.0 / 255.0,
                                        .mean = {0.48145466, 0.4578275, 0.40821073},
                                        .std = {0.26862954, 0.26130258, 0.27577711}},
                          .tower = {.kind = TOWER_CLIP, .image_size = size, .patch_size = 14},
                          .mm = {.aspect_text = "square", .merge_type = "flat", .pool_stride = 2}};
}

static inline llava_config siglip_config(int64_t size) {
    llava_config config = clip_config(size);
    config.processor.kind = config.tower.kind = TOWER_SIGLIP;
    config.processor.do_center_crop = false;
    config.processor.shortest_edge = 0;
    config.processor.size_width = config.processor.size_height = size;
    for (int i = 0; i < 3; i++) config.processor.mean[i] = config.processor.std[i] = 0.5;
    return config;
}

static inline void set_aspect(llava_config *config, aspect_ratio aspect, const char *text) {
    config->mm.aspect = aspect;
    snprintf(config->mm.aspect_text, sizeof config->mm.aspect_text, "%s", text);
}

static inline void set_pinpoints(llava_config *config, const size2 *pinpoints, size_t n) {
    config->mm.pinpoints = (size2 *)(uintptr_t)pinpoints;
    config->mm.n_pinpoints = n;
}

static inline void set_merge(llava_config *config, const char *text) {
    mm_config *mm = &config->mm;
    snprintf(mm->merge_type, sizeof mm->merge_type, "%s", text);
    mm->merge_spatial = strncmp(text, "spatial", 7) == 0;
    mm->merge_unpad = strstr(text, "unpad") != NULL;
    mm->merge_maxpool = strstr(text, "maxpool2x2") != NULL;
    mm->merge_nobase = strstr(text, "nobase") != NULL;
}

static inline llava_image_processor *new_processor(const llava_config *config) {
    llava_image_processor *processor = NULL;
    llava_error err = {0};
    const llava_status status = image_processor_new(config, &processor, &err);
    if (status != LLAVA_OK) fail_msg("%s", err.message);
    return processor;
}

/** The five canvases of LLaVA-1.6 and the 36 of LLaVA-OneVision. */
static const size2 v16_pinpoints[5] = {
    {336, 672}, {672, 336}, {672, 672}, {1008, 336}, {336, 1008}};

static inline const size2 *onevision_pinpoints(void) {
    static size2 list[36];
    for (int i = 0; i < 36; i++) list[i] = (size2){384 * (1 + i / 6), 384 * (1 + i % 6)};
    return list;
}

/** A picture's views. */
typedef struct views {
    vision_plan plan;
    int64_t size;
    float *pixels;
    uint8_t *u8;
    size_t n_values; /* of all views */
} views;

static inline views make_views(const llava_image_processor *processor,
                               const llava_image *const *images, size_t n_frames) {
    views v = {.size = image_processor_view_size(processor)};
    llava_error err = {0};
    if (vision_plan_make(processor, images[0]->width, images[0]->height, (int64_t)n_frames, 1,
                         &v.plan, &err) != LLAVA_OK)
        fail_msg("%s", err.message);
    v.n_values = (size_t)(v.plan.n_views * 3 * v.size * v.size);
    v.pixels = malloc(v.n_values * sizeof *v.pixels);
    v.u8 = malloc(v.n_values);
    if (image_process(processor, &v.plan, images, n_frames ? n_frames : 1, v.pixels, v.u8, &err) !=
        LLAVA_OK)
        fail_msg("%s", err.message);
    return v;
}

static inline void views_free(views *v) {
    free(v->pixels);
    free(v->u8);
    vision_plan_free(&v->plan);
}

#endif
