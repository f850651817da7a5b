/* SPDX-License-Identifier: Apache-2.0
 *
 * Pictures to float pixels: the reference's processors (transformers 4.40 CLIPImageProcessor,
 * LLaVA-NeXT's SigLipImageProcessor) and the tiles of each image_aspect_ratio
 * (llava/mm_utils.py, process_images). All bytes and floats equal the reference's.
 */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "image.h"
#include "pixel_values.h"
#include "processor.h"
#include "resample.h"

/* A padded picture is resized in strips of at most this many pixels. */
#define STRIP_PIXELS ((int64_t)16 << 20)

/* ---------------------------------------------------------------- bytes to floats */

/** A rectangle of a picture; what lies outside of the picture is black. */
typedef struct region {
    const llava_image *image;
    int64_t left, top, width, height;
} region;

static void black_row(const value_table *table, int64_t n, float *out, int64_t plane) {
    for (int channel = 0; channel < 3; channel++)
        for (int64_t x = 0; x < n; x++) out[channel * plane + x] = table->value[channel][0];
}

/** pixels [3, height, width] and, if not NULL, u8 [height, width, 3] of a region. */
static void region_values(const value_table *table, const region *r, float *pixels, uint8_t *u8) {
    const int64_t plane = r->width * r->height;
    const int64_t x0 = i64_min(i64_max(0, -r->left), r->width);
    const int64_t x1 = i64_max(x0, i64_min(r->width, r->image->width - r->left));
    for (int64_t y = 0; y < r->height; y++, pixels += r->width) {
        const bool inside = r->top + y >= 0 && r->top + y < r->image->height && x1 > x0;
        const int64_t from = inside ? x0 : r->width, to = inside ? x1 : r->width;
        uint8_t *bytes_out = u8 == NULL ? NULL : u8 + 3 * y * r->width;
        black_row(table, from, pixels, plane);
        black_row(table, r->width - to, pixels + to, plane);
        if (bytes_out != NULL) memset(bytes_out, 0, (size_t)(3 * r->width));
        if (!inside) continue;
        const uint8_t *rgb = r->image->rgb + 3 * ((r->top + y) * r->image->width + r->left + from);
        value_row(table, rgb, to - from, pixels + from, plane);
        if (bytes_out != NULL) memcpy(bytes_out + 3 * from, rgb, (size_t)(3 * (to - from)));
    }
}

/* ---------------------------------------------------------------- pictures on a background */

/** A picture at (left, top) of a larger rectangle of one colour. */
typedef struct padded_image {
    const llava_image *image;
    size2 size;
    int64_t left, top;
    uint8_t back[3];
} padded_image;

static padded_image unpadded(const llava_image *image) {
    return (padded_image){.image = image, .size = {image->width, image->height}};
}

/** The reference's expand2square with the processor's mean colour. */
static padded_image expand_to_square(const processor_config *c, const llava_image *image) {
    const int64_t side = i64_max(image->width, image->height);
    padded_image p = {.image = image,
                      .size = {side, side},
                      .left = (side - image->width) / 2,
                      .top = (side - image->height) / 2};
    for (int i = 0; i < 3; i++) {
        const double colour = c->mean[i] * 255;
        p.back[i] = (uint8_t)(colour > 0 ? fmin(colour, 255) : 0);
    }
    return p;
}

/** Rows [row, row + n) of the padded picture. */
static llava_status padded_rows(const padded_image *p, int64_t row, int64_t n, llava_image **out,
                                llava_error *err) {
    llava_image *strip = NULL;
    LLAVA_TRY(image_new(p->size.width, n, &strip, err));
    image_fill(strip, p->back);
    for (int64_t y = 0; y < n; y++) {
        const int64_t source = row + y - p->top;
        if (source < 0 || source >= p->image->height) continue;
        memcpy(strip->rgb + 3 * (y * p->size.width + p->left),
               p->image->rgb + 3 * source * p->image->width, (size_t)p->image->width * 3);
    }
    *out = strip;
    return LLAVA_OK;
}

/** The horizontal pass, strip by strip, so that no padded picture of full size is needed. */
static llava_status resize_strips(const padded_image *p, const resize_request *r,
                                  llava_image *between, llava_error *err) {
    const int64_t step = i64_max(1, STRIP_PIXELS / p->size.width);
    for (int64_t row = 0; row < p->size.height; row += step) {
        const int64_t n = i64_min(step, p->size.height - row);
        llava_image *strip = NULL, *narrow = NULL;
        LLAVA_TRY(padded_rows(p, row, n, &strip, err));
        resize_request columns = *r;
        columns.height = columns.window.height = n;
        columns.top = 0;
        const llava_status status = image_resize_window(strip, &columns, &narrow, err);
        llava_image_free(&strip);
        LLAVA_TRY(status);
        memcpy(between->rgb + 3 * row * between->width, narrow->rgb,
               (size_t)(3 * n * between->width));
        llava_image_free(&narrow);
    }
    return LLAVA_OK;
}

/** Resizes as if the padded picture existed. */
static llava_status resize_padded(const padded_image *p, const resize_request *r, llava_image **out,
                                  llava_error *err) {
    if (p->size.width == p->image->width && p->size.height == p->image->height)
        return image_resize_window(p->image, r, out, err);
    llava_image *between = NULL;
    LLAVA_TRY(image_new(r->window.width, p->size.height, &between, err));
    llava_status status = resize_strips(p, r, between, err);
    resize_request rows = *r;
    rows.width = r->window.width;
    rows.left = 0;
    if (status == LLAVA_OK) status = image_resize_window(between, &rows, out, err);
    llava_image_free(&between);
    return status;
}

/* ---------------------------------------------------------------- the processor */

typedef struct processor_geometry {
    size2 resized;
    int64_t left, top; /* of the output in the resized picture; negative: black border */
    size2 output;
} processor_geometry;

/** transformers 4.40 center_crop on one axis. A picture shorter than the crop gets a border of
 *  half the difference, rounded down, on both sides: an odd difference leaves one row out. */
static void crop_axis(int64_t size, int64_t crop, int64_t *start, int64_t *output) {
    if (size >= crop) {
        *start = (size - crop) / 2;
        *output = crop;
        return;
    }
    const int64_t border = (crop - size) / 2;
    *start = -border;
    *output = size + 2 * border;
}

static llava_status geometry_make(const processor_config *c, size2 picture, processor_geometry *g,
                                  llava_error *err) {
    g->resized = picture;
    if (c->do_resize && c->shortest_edge > 0) {
        const double edge = (double)c->shortest_edge;
        const double w = (double)picture.width, h = (double)picture.height;
        g->resized = picture.width <= picture.height
                         ? (size2){c->shortest_edge, (int64_t)(edge * h / w)}
                         : (size2){(int64_t)(edge * w / h), c->shortest_edge};
    } else if (c->do_resize) {
        g->resized = (size2){c->size_width, c->size_height};
    }
    g->output = g->resized;
    g->left = g->top = 0;
    if (c->do_center_crop) {
        crop_axis(g->resized.width, c->crop_width, &g->left, &g->output.width);
        crop_axis(g->resized.height, c->crop_height, &g->top, &g->output.height);
    }
    if (g->resized.width > IMAGE_MAX_PIXELS || g->resized.height > IMAGE_MAX_PIXELS ||
        g->output.width <= 0 || g->output.height <= 0 ||
        g->output.width > IMAGE_MAX_PIXELS / g->output.height)
        return llava_fail(
            err, LLAVA_UNSUPPORTED,
            "image processor: a picture of %lld x %lld would become %lld x %lld pixels",
            (long long)picture.width, (long long)picture.height, (long long)g->output.width,
            (long long)g->output.height);
    return LLAVA_OK;
}

llava_status processor_output_size(const processor_config *c, size2 picture, size2 *output,
                                   llava_error *err) {
    processor_geometry g;
    LLAVA_TRY(geometry_make(c, picture, &g, err));
    *output = g.output;
    return LLAVA_OK;
}

/** Where one view goes. */
typedef struct view_target {
    const processor_config *processor;
    const value_table *table;
    float *pixels;
    uint8_t *u8;
    int n_threads;
} view_target;

/** The whole processor on one picture. Only what the crop keeps is resized. */
static llava_status process_padded(const padded_image *p, const processor_geometry *g,
                                   const view_target *target, llava_error *err) {
    resize_request r =
        resize_to(g->resized, (image_filter)target->processor->resample, target->n_threads);
    r.left = i64_max(0, g->left);
    r.top = i64_max(0, g->top);
    r.window.width = i64_min(g->resized.width - r.left, g->output.width);
    r.window.height = i64_min(g->resized.height - r.top, g->output.height);
    llava_image *resized = NULL;
    LLAVA_TRY(resize_padded(p, &r, &resized, err));
    const region view = {.image = resized,
                         .left = i64_min(0, g->left),
                         .top = i64_min(0, g->top),
                         .width = g->output.width,
                         .height = g->output.height};
    region_values(target->table, &view, target->pixels, target->u8);
    llava_image_free(&resized);
    return LLAVA_OK;
}

llava_status processor_apply(const processor_config *c, const llava_image *image, float *pixels,
                             uint8_t *u8, llava_error *err) {
    value_table table;
    value_table_fill(c, &table);
    const padded_image p = unpadded(image);
    processor_geometry g;
    LLAVA_TRY(geometry_make(c, p.size, &g, err));
    const view_target target = {
        .processor = c, .table = &table, .pixels = pixels, .u8 = u8, .n_threads = 1};
    return process_padded(&p, &g, &target, err);
}

/* ---------------------------------------------------------------- views */

typedef struct view_job {
    const llava_image_processor *processor;
    const processor_config *steps; /* the processor's, for pictures or for frames */
    const vision_plan *plan;
    const llava_image *const *images;
    value_table table;
    int64_t size;
    int n_threads;
    float *pixels;
    uint8_t *u8;
    /* tiles: cut from `canvas`, whose top left corner is at (left, top) of the tiled area */
    const llava_image *canvas;
    int64_t left, top, tile, tiles_across, first_view;
    size2 area; /* of the tiles together; the last ones may be narrower or lower */
    atomic_bool failed;
    atomic_flag reported;
    llava_error *err;
    llava_status status;
} view_job;

static view_target target_of(const view_job *job, int64_t view, int n_threads) {
    const int64_t n = 3 * job->size * job->size;
    return (view_target){.processor = job->steps,
                         .table = &job->table,
                         .pixels = job->pixels + view * n,
                         .u8 = job->u8 == NULL ? NULL : job->u8 + view * n,
                         .n_threads = n_threads};
}

static llava_status process_view(const view_job *job, const padded_image *p, int64_t view,
                                 int n_threads, llava_error *err) {
    processor_geometry g;
    LLAVA_TRY(geometry_make(job->steps, p->size, &g, err));
    if (g.output.width != job->size || g.output.height != job->size)
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "image processor: a view of %lld x %lld pixels, expected the tower's "
                          "%lld x %lld",
                          (long long)g.output.width, (long long)g.output.height,
                          (long long)job->size, (long long)job->size);
    const view_target target = target_of(job, view, n_threads);
    return process_padded(p, &g, &target, err);
}

/** Keeps the first failure of a parallel loop. */
static void report(view_job *job, llava_status status, const llava_error *err) {
    if (status == LLAVA_OK) return;
    if (!atomic_flag_test_and_set(&job->reported)) {
        job->status = status;
        if (job->err != NULL) *job->err = *err;
    }
    atomic_store(&job->failed, true);
}

/** True when the processor leaves a square of this side as it is, but for its values. */
static bool leaves_alone(const view_job *job, int64_t side) {
    processor_geometry g;
    if (geometry_make(job->steps, (size2){side, side}, &g, NULL) != LLAVA_OK) return false;
    return g.resized.width == side && g.resized.height == side && g.output.width == side &&
           g.output.height == side;
}

static llava_status process_tile(const view_job *job, const region *tile, int64_t view,
                                 llava_error *err) {
    if (tile->width == job->size && tile->height == job->size && leaves_alone(job, tile->width)) {
        const view_target target = target_of(job, view, 1);
        region_values(target.table, tile, target.pixels, target.u8);
        return LLAVA_OK;
    }
    llava_image *cut = NULL;
    LLAVA_TRY(image_new(tile->width, tile->height, &cut, err));
    memset(cut->rgb, 0, (size_t)(3 * tile->width * tile->height));
    for (int64_t y = 0; y < tile->height; y++) {
        const int64_t row = tile->top + y;
        const int64_t x0 = i64_max(0, -tile->left);
        const int64_t x1 = i64_min(tile->width, tile->image->width - tile->left);
        if (row < 0 || row >= tile->image->height || x1 <= x0) continue;
        memcpy(cut->rgb + 3 * (y * tile->width + x0),
               tile->image->rgb + 3 * (row * tile->image->width + tile->left + x0),
               (size_t)(3 * (x1 - x0)));
    }
    const padded_image p = unpadded(cut);
    const llava_status status = process_view(job, &p, view, 1, err);
    llava_image_free(&cut);
    return status;
}

static void tile_task(void *user, int64_t index) {
    view_job *job = user;
    if (atomic_load(&job->failed)) return;
    llava_error err;
    const int64_t left = index % job->tiles_across * job->tile;
    const int64_t top = index / job->tiles_across * job->tile;
    const region tile = {
        .image = job->canvas,
        .left = left - job->left,
        .top = top - job->top,
        .width = i64_max(1, i64_min(job->tile, job->area.width - left)),
        .height = i64_max(1, i64_min(job->tile, job->area.height - top)),
    };
    report(job, process_tile(job, &tile, job->first_view + index, &err), &err);
}

static llava_status process_tiles(view_job *job) {
    const int64_t n = job->plan->n_views - job->first_view;
    if (job->area.width == 0)
        job->area =
            (size2){job->tiles_across * job->tile, ceil_div(n, job->tiles_across) * job->tile};
    parallel_for(job->n_threads, n, tile_task, job);
    return job->status;
}

static void frame_task(void *user, int64_t index) {
    view_job *job = user;
    if (atomic_load(&job->failed)) return;
    llava_error err;
    const padded_image p = unpadded(job->images[index]);
    report(job, process_view(job, &p, index, 1, &err), &err);
}

/* ---------------------------------------------------------------- modes */

/** The reference always tiles with bicubic, transformers' own classes with the processor's. */
static image_filter tile_filter(const view_job *job) {
    return job->processor->mm.native ? (image_filter)job->steps->resample : FILTER_BICUBIC;
}

/** View 0 of tiled pictures: the whole picture, squashed to a square (never padded). */
static llava_status process_overview(view_job *job, llava_error *err) {
    const processor_config *c = job->steps;
    const int64_t edge =
        c->shortest_edge > 0 ? c->shortest_edge : i64_min(c->size_width, c->size_height);
    const resize_request r = resize_to((size2){edge, edge}, tile_filter(job), job->n_threads);
    llava_image *overview = NULL;
    LLAVA_TRY(image_resize_window(job->images[0], &r, &overview, err));
    const region whole = {.image = overview, .width = edge, .height = edge};
    const llava_status status = process_tile(job, &whole, 0, err);
    llava_image_free(&overview);
    return status;
}

/** The canvas of resize_and_pad_image is never made: tiles are cut from the resized picture. */
static llava_status process_anyres(view_job *job, llava_error *err) {
    const llava_image *image = job->images[0];
    const double w = (double)image->width, h = (double)image->height;
    const size2 best = job->plan->best;
    const double scale_w = (double)best.width / w, scale_h = (double)best.height / h;
    size2 fit = best;
    if (scale_w < scale_h)
        fit.height = i64_min((int64_t)ceil(h * scale_w), best.height);
    else
        fit.width = i64_min((int64_t)ceil(w * scale_h), best.width);
    LLAVA_TRY(process_overview(job, err));
    const resize_request r = resize_to(fit, tile_filter(job), job->n_threads);
    llava_image *resized = NULL;
    LLAVA_TRY(image_resize_window(image, &r, &resized, err));
    job->canvas = resized;
    job->left = (best.width - fit.width) / 2;
    job->top = (best.height - fit.height) / 2;
    /* transformers 4.45 pads both sides alike and so loses the last column or row of an odd
     * border; the tiles there are a pixel short and are resized */
    if (job->processor->mm.native)
        job->area = (size2){fit.width + 2 * job->left, fit.height + 2 * job->top};
    job->tiles_across = job->plan->grid_w;
    job->first_view = 1;
    const llava_status status = process_tiles(job);
    llava_image_free(&resized);
    return status;
}

static llava_status process_highres(view_job *job, llava_error *err) {
    const size2 size = job->plan->best;
    const padded_image p = expand_to_square(job->steps, job->images[0]);
    LLAVA_TRY(process_overview(job, err));
    const resize_request r = resize_to(size, FILTER_BICUBIC, job->n_threads);
    llava_image *resized = NULL;
    LLAVA_TRY(resize_padded(&p, &r, &resized, err));
    job->canvas = resized;
    job->left = job->top = -patch_start(size.width, job->tile);
    job->tiles_across = job->plan->grid_w;
    job->first_view = 1;
    const llava_status status = process_tiles(job);
    llava_image_free(&resized);
    return status;
}

static llava_status process_crop_split(view_job *job, llava_error *err) {
    const llava_image *image = job->images[0];
    const crop_geometry g =
        crop_split_geometry(job->processor, (size2){image->width, image->height});
    resize_request r = resize_to(g.resized, FILTER_LANCZOS, job->n_threads);
    r.left = g.left;
    r.top = g.top;
    r.window.width = i64_min(g.crop.width, g.resized.width - g.left);
    r.window.height = i64_min(g.crop.height, g.resized.height - g.top);
    llava_image *crop = NULL;
    LLAVA_TRY(image_resize_window(image, &r, &crop, err));
    job->canvas = crop;
    job->left = -patch_start(g.crop.width, job->tile);
    job->top = -patch_start(g.crop.height, job->tile);
    job->tiles_across = patch_count(g.crop.width, job->tile);
    job->first_view = 0;
    const llava_status status = process_tiles(job);
    llava_image_free(&crop);
    return status;
}

static llava_status process_picture(view_job *job, llava_error *err) {
    switch (job->plan->aspect) {
    case ASPECT_ANYRES: return process_anyres(job, err);
    case ASPECT_HIGHRES: return process_highres(job, err);
    case ASPECT_CROP_SPLIT: return process_crop_split(job, err);
    case ASPECT_PAD: {
        const padded_image p = expand_to_square(job->steps, job->images[0]);
        return process_view(job, &p, 0, job->n_threads, err);
    }
    case ASPECT_SQUARE: break;
    }
    const padded_image p = unpadded(job->images[0]);
    return process_view(job, &p, 0, job->n_threads, err);
}

llava_status image_process(const llava_image_processor *processor, const vision_plan *plan,
                           const llava_image *const *images, size_t n_images, float *pixels,
                           uint8_t *u8, llava_error *err) {
    const bool video = plan->kind == VISION_VIDEO;
    const int64_t expected = video ? plan->n_views : 1;
    if (plan->n_views == 0) return LLAVA_OK;
    if ((int64_t)n_images != expected)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "%s: expected %lld pictures, got %zu",
                          video ? "video" : "picture", (long long)expected, n_images);
    if (!video && (images[0]->width != plan->width || images[0]->height != plan->height))
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "picture of %lld x %lld pixels, planned for %lld x %lld",
                          (long long)images[0]->width, (long long)images[0]->height,
                          (long long)plan->width, (long long)plan->height);
    view_job job = {.processor = processor,
                    .steps = video ? &processor->video : &processor->processor,
                    .plan = plan,
                    .images = images,
                    .size = image_processor_view_size(processor),
                    .tile = processor_tile_size(processor),
                    .n_threads =
                        processor->n_threads > 0 ? processor->n_threads : processor_count(),
                    .pixels = pixels,
                    .u8 = u8,
                    .reported = ATOMIC_FLAG_INIT,
                    .err = err,
                    .status = LLAVA_OK};
    value_table_fill(job.steps, &job.table);
    if (!video) return process_picture(&job, err);
    parallel_for(job.n_threads, plan->n_views, frame_task, &job);
    return job.status;
}
