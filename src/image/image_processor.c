/* SPDX-License-Identifier: Apache-2.0
 *
 * The image processor as an object: pinpoints in pixels, sizes of tiles and maps, and the checks
 * that a configuration can run at all.
 */
#include <math.h>
#include <stdlib.h>

#include "image.h"
#include "processor.h"

#define PINPOINTS_MAX 4096

int64_t image_processor_view_size(const llava_image_processor *p) {
    if (p->mm.s2 && p->mm.n_s2_scales > 0) return p->mm.s2_scales[p->mm.n_s2_scales - 1];
    return p->tower.image_size;
}

/** The reference's crop_size["height"]; here every view has the tower's size. */
int64_t processor_tile_size(const llava_image_processor *p) {
    return p->mm.aspect == ASPECT_CROP_SPLIT ? p->mm.split_resolution
                                             : image_processor_view_size(p);
}

static bool selects_class_token(const llava_image_processor *p) {
    if (p->tower.kind == TOWER_SIGLIP) return false; /* the setting is ignored */
    return p->mm.select == SELECT_CLS_PATCH || p->mm.select == SELECT_SLICEFOUR_CLS_PATCH ||
           p->mm.select == SELECT_M25811_CLS_PATCH;
}

/* ---------------------------------------------------------------- multi-scale towers */

/** S2 sets the processor to the largest scale; every scale is cut into tiles of the smallest. */
static llava_status apply_s2(llava_image_processor *p, llava_error *err) {
    if (!p->mm.s2) return LLAVA_OK;
    const size_t n = p->mm.n_s2_scales;
    if (n == 0 || n > LLAVA_COUNT(p->mm.s2_scales))
        return llava_fail(err, LLAVA_MALFORMED, "s2_scales: %zu scales, expected 1 to %zu", n,
                          LLAVA_COUNT(p->mm.s2_scales));
    if (p->tower.kind == TOWER_SIGLIP)
        return llava_fail(err, LLAVA_UNSUPPORTED, "s2: expected a CLIP or MLCD tower, got SigLIP");
    if (p->mm.aspect == ASPECT_ANYRES || p->mm.aspect == ASPECT_HIGHRES)
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "image_aspect_ratio %s cannot be combined with s2: tiles of two sizes",
                          p->mm.aspect_text);
    if (selects_class_token(p))
        return llava_fail(
            err, LLAVA_UNSUPPORTED,
            "mm_vision_select_feature with the class token cannot be combined with s2");
    if (p->mm.s2_scales[0] != p->tower.image_size)
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "s2_scales: the smallest is %lld, expected the tower's %lld",
                          (long long)p->mm.s2_scales[0], (long long)p->tower.image_size);
    for (size_t i = 0; i < n; i++)
        if (p->mm.s2_scales[i] % p->mm.s2_scales[0] != 0 ||
            p->mm.s2_scales[i] > 64 * p->mm.s2_scales[0])
            return llava_fail(err, LLAVA_UNSUPPORTED,
                              "s2_scales: %lld, expected multiples of %lld up to 64 times",
                              (long long)p->mm.s2_scales[i], (long long)p->mm.s2_scales[0]);
    const int64_t largest = p->mm.s2_scales[n - 1];
    p->processor.shortest_edge = largest;
    p->processor.crop_width = p->processor.crop_height = largest;
    p->video = p->processor;
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- pinpoints */

/** Multiples in a range are of these sizes in the reference; the tower's own is taken as well. */
static bool known_tile_size(int64_t size, int64_t tower_size) {
    return size == 224 || size == 336 || size == 384 || size == 448 || size == 512 ||
           size == tower_size;
}

static llava_status copy_pinpoints(llava_image_processor *p, llava_error *err) {
    const size_t n = p->mm.n_pinpoints;
    const size2 *source = p->mm.pinpoints;
    p->mm.pinpoints = NULL; /* borrowed from the config, not kept */
    if (n > PINPOINTS_MAX)
        return llava_fail(err, LLAVA_UNSUPPORTED, "image_grid_pinpoints: %zu entries, at most %d",
                          n, PINPOINTS_MAX);
    p->pinpoints = array_new(n ? n : 1, sizeof *p->pinpoints);
    p->mm.pinpoints = array_new(n ? n : 1, sizeof *p->pinpoints);
    if (p->pinpoints == NULL || p->mm.pinpoints == NULL)
        return llava_fail_memory(err, n * sizeof *p->pinpoints, "image_grid_pinpoints");
    const int64_t tile =
        p->processor.shortest_edge > 0 ? p->processor.shortest_edge : p->processor.size_width;
    if (p->mm.pinpoints_are_range && n > 0 && !known_tile_size(tile, p->tower.image_size))
        return llava_fail(
            err, LLAVA_UNSUPPORTED,
            "image_grid_pinpoints as a range: tiles of %lld pixels, expected 224, 336, "
            "384, 448, 512 or the tower's %lld",
            (long long)tile, (long long)p->tower.image_size);
    const int64_t factor = p->mm.pinpoints_are_range ? tile : 1;
    for (size_t i = 0; i < n; i++) {
        size2 pixels;
        if (source[i].width <= 0 || source[i].height <= 0 ||
            __builtin_mul_overflow(source[i].width, factor, &pixels.width) ||
            __builtin_mul_overflow(source[i].height, factor, &pixels.height) ||
            pixels.width > IMAGE_MAX_PIXELS / pixels.height)
            return llava_fail(err, LLAVA_MALFORMED,
                              "image_grid_pinpoints[%zu]: %lld x %lld, expected sizes above 0 and "
                              "a canvas within %lld pixels",
                              i, (long long)source[i].width, (long long)source[i].height,
                              (long long)IMAGE_MAX_PIXELS);
        p->mm.pinpoints[i] = source[i];
        p->pinpoints[i] = pixels;
    }
    p->n_pinpoints = n;
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- checks */

static llava_status check_aspect(const llava_image_processor *p, llava_error *err) {
    const int64_t tile = processor_tile_size(p);
    switch (p->mm.aspect) {
    case ASPECT_ANYRES:
        if (p->n_pinpoints == 0)
            return llava_fail(err, LLAVA_MALFORMED,
                              "image_aspect_ratio %s: expected image_grid_pinpoints, got none",
                              p->mm.aspect_text);
        return LLAVA_OK;
    case ASPECT_HIGHRES:
        if (p->processor.shortest_edge <= 0)
            return llava_fail(err, LLAVA_UNSUPPORTED,
                              "image_aspect_ratio highres: expected a CLIP-style processor with "
                              "size.shortest_edge");
        if (p->mm.highres_max < tile || p->mm.highres_max > 64 * tile)
            return llava_fail(err, LLAVA_MALFORMED,
                              "image_aspect_ratio highres: the largest of image_grid_pinpoints is "
                              "%lld, expected %lld to 64 times that",
                              (long long)p->mm.highres_max, (long long)tile);
        return LLAVA_OK;
    case ASPECT_CROP_SPLIT:
        if (tile <= 0 || p->mm.crop_resolution < tile || p->mm.crop_resolution / 64 > tile ||
            p->mm.crop_resolution > 65536)
            return llava_fail(err, LLAVA_MALFORMED,
                              "image_aspect_ratio crop_split: image_crop_resolution %lld and "
                              "image_split_resolution %lld, expected 0 < split <= crop <= 64 split",
                              (long long)p->mm.crop_resolution, (long long)tile);
        return LLAVA_OK;
    default: return LLAVA_OK;
    }
}

/** The processor must give a tower its own square size, whatever the picture. */
static llava_status check_sizes(const llava_image_processor *p, const processor_config *c,
                                llava_error *err) {
    const int64_t size = image_processor_view_size(p);
    if (p->tower.patch_size <= 0 || p->tower.image_size < p->tower.patch_size || size > 65536)
        return llava_fail(err, LLAVA_MALFORMED,
                          "vision tower: image_size %lld with patch_size %lld",
                          (long long)p->tower.image_size, (long long)p->tower.patch_size);
    const int64_t width = c->do_center_crop ? c->crop_width : c->size_width;
    const int64_t height = c->do_center_crop ? c->crop_height : c->size_height;
    const bool exact = c->do_center_crop || c->shortest_edge <= 0;
    if (!exact || width != size || height != size)
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "image processor: gives %s%lld x %lld pixels, expected the tower's "
                          "%lld x %lld",
                          exact ? "" : "uncropped ", (long long)width, (long long)height,
                          (long long)size, (long long)size);
    if (c->do_resize && c->shortest_edge > 65536)
        return llava_fail(err, LLAVA_MALFORMED, "image processor: size.shortest_edge %lld",
                          (long long)c->shortest_edge);
    if (c->resample < FILTER_NEAREST || c->resample > FILTER_HAMMING)
        return llava_fail(err, LLAVA_MALFORMED, "image processor: resample %d, expected 0 to 5",
                          c->resample);
    for (int i = 0; i < 3; i++)
        if (c->do_normalize && !(fabs(c->std[i]) > 0))
            return llava_fail(err, LLAVA_MALFORMED, "image processor: image_std[%d] is %g", i,
                              c->std[i]);
    return LLAVA_OK;
}

static llava_status set_token_counts(llava_image_processor *p, llava_error *err) {
    const int64_t side = p->tower.image_size / p->tower.patch_size;
    p->patches_per_side = side;
    p->tokens_per_tile = side * side + (selects_class_token(p) ? 1 : 0);
    if (p->mm.projector != PROJECTOR_POOLER) return LLAVA_OK;
    if (selects_class_token(p))
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "mm_projector_type pooler: expected patch features, got the class token");
    p->tokens_per_tile = (side / 2) * (side / 2);
    return LLAVA_OK;
}

llava_status image_processor_new(const llava_config *config, llava_image_processor **out,
                                 llava_error *err) {
    llava_image_processor *p = array_new(1, sizeof *p);
    if (p == NULL) return llava_fail_memory(err, sizeof *p, "the image processor");
    p->processor = config->processor;
    p->video = config->mm.native ? config->video_processor : config->processor;
    p->tower = config->tower;
    p->mm = config->mm;
    llava_status status = copy_pinpoints(p, err);
    if (status == LLAVA_OK) status = apply_s2(p, err);
    if (status == LLAVA_OK) status = check_sizes(p, &p->processor, err);
    if (status == LLAVA_OK) status = check_sizes(p, &p->video, err);
    if (status == LLAVA_OK) status = check_aspect(p, err);
    if (status == LLAVA_OK) status = set_token_counts(p, err);
    if (status != LLAVA_OK)
        image_processor_free(&p);
    else
        *out = p;
    return status;
}

void image_processor_free(llava_image_processor **processor) {
    if (processor == NULL || *processor == NULL) return;
    free((*processor)->pinpoints);
    free((*processor)->mm.pinpoints);
    free(*processor);
    *processor = NULL;
}

LLAVA_API llava_status llava_count_visual_tokens(const llava_image_processor *processor,
                                                 int64_t width, int64_t height, size_t n_images,
                                                 int64_t *n_tokens, llava_error *err) {
    if (processor == NULL || n_tokens == NULL)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "counting visual tokens: %s is NULL",
                          processor == NULL ? "processor" : "n_tokens");
    if (n_images == 0)
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "counting visual tokens: n_images is 0, expected at least 1");
    vision_plan plan;
    LLAVA_TRY(vision_plan_make(processor, width, height, 0, n_images, &plan, err));
    *n_tokens = plan.n_rows;
    vision_plan_free(&plan);
    return LLAVA_OK;
}
