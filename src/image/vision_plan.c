/* SPDX-License-Identifier: Apache-2.0
 *
 * One plan for tiles and packing: how many views a picture or video becomes, and which feature
 * makes each row of the prompt. Geometry is in double precision in the reference's own order of
 * operations (llava/mm_utils.py, llava/model/llava_arch.py of LLaVA-NeXT).
 */
#include <math.h>
#include <stdlib.h>

#include "image.h"
#include "processor.h"

#define PLAN_ROWS_MAX   ((int64_t)1 << 24) /* prompt rows of one picture or video */
#define PLAN_FRAMES_MAX ((int64_t)1 << 16)
#define PLAN_VIEWS_MAX  ((int64_t)1 << 14)

/* anyres_max_N scales the map down only above this much more than N tiles' features */
#define ANYRES_MAX_SLACK 1.1

#define FASTER_STRIDE_DEFAULT 10 /* the training script's faster_token_stride */

/* ---------------------------------------------------------------- geometry */

size2 select_best_resolution(size2 picture, const size2 *pinpoints, size_t n_pinpoints) {
    const double w = (double)picture.width, h = (double)picture.height;
    size2 best = {0, 0};
    double best_effective = 0, best_waste = HUGE_VAL;
    for (size_t i = 0; i < n_pinpoints; i++) {
        const double pw = (double)pinpoints[i].width, ph = (double)pinpoints[i].height;
        const double scale = fmin(pw / w, ph / h);
        const double effective = fmin(trunc(w * scale) * trunc(h * scale), w * h);
        const double waste = pw * ph - effective;
        if (effective > best_effective || (effective == best_effective && waste < best_waste)) {
            best_effective = effective;
            best_waste = waste;
            best = pinpoints[i];
        }
    }
    return best;
}

double floor_divide(double a, double b) { return nearbyint((a - fmod(a, b)) / b); }

int64_t patch_count(int64_t size, int64_t tile) { return (size - tile) / tile + 1; }
int64_t patch_start(int64_t size, int64_t tile) {
    return (size - patch_count(size, tile) * tile) / 2;
}

/** Python's round() of k / 2 to an integer: half to even. */
static int64_t round_half(int64_t k) { return (int64_t)nearbyint((double)k / 2.0); }

crop_geometry crop_split_geometry(const llava_image_processor *p, size2 picture) {
    const int64_t edge = p->mm.crop_resolution;
    const double aspect = (double)picture.width / (double)picture.height;
    crop_geometry g;
    g.resized = aspect > 1 ? (size2){(int64_t)((double)edge * aspect), edge}
                           : (size2){edge, (int64_t)((double)edge / aspect)};
    g.left = round_half(g.resized.width - edge);
    g.top = round_half(g.resized.height - edge);
    g.crop.width = round_half(g.resized.width + edge) - g.left;
    g.crop.height = round_half(g.resized.height + edge) - g.top;
    return g;
}

/** int() of a side in the reference; transformers' own classes round to 7 decimals first, which
 *  matters where the product misses an integer by a last bit. */
static int64_t unpadded_side(const llava_image_processor *p, double side) {
    const double next = ceil(side);
    return (int64_t)(p->mm.native != NATIVE_NONE && next - side < 5e-8 ? next : side);
}

/** What unpad_image keeps of the map: full width or full height, centred in the other. Of extreme
 *  pictures nothing may be left in one direction; rows without columns keep their newlines. */
static void unpad_range(const llava_image_processor *p, vision_plan *plan) {
    const double w = (double)plan->width, h = (double)plan->height;
    const int64_t map_w = plan->grid_w * plan->side, map_h = plan->grid_h * plan->side;
    if (w / h > (double)map_w / (double)map_h) {
        const double scale = (double)map_w / w;
        const int64_t pad = (map_h - unpadded_side(p, h * scale)) / 2;
        plan->row0 = pad;
        plan->row1 = map_h - pad;
    } else {
        const double scale = (double)map_h / h;
        const int64_t pad = (map_w - unpadded_side(p, w * scale)) / 2;
        plan->col0 = pad;
        plan->col1 = map_w - pad;
    }
}

/* ---------------------------------------------------------------- rows */

/** Rows are counted first and written second, by the same code: with rows NULL it only counts. */
typedef struct row_writer {
    int32_t *rows;
    int64_t n;
} row_writer;

static void put_row(row_writer *w, int64_t index) {
    if (w->rows != NULL) w->rows[w->n] = (int32_t)index;
    w->n++;
}

static void put_run(row_writer *w, int64_t first, int64_t count) {
    for (int64_t i = 0; i < count; i++) put_row(w, first + i);
}

static int64_t tiled_index(const vision_plan *plan, int64_t y, int64_t x) {
    const int64_t side = plan->side;
    const int64_t view = 1 + y / side * plan->grid_w + x / side;
    return view * side * side + y % side * side + x % side;
}

static void put_map(const llava_image_processor *p, const vision_plan *plan, row_writer *w) {
    const int64_t base = plan->side * plan->side;
    if (!p->mm.merge_nobase) put_run(w, 0, base);
    if (plan->resampled || plan->max_pooled) {
        for (int64_t y = 0; y < plan->out_h; y++) {
            put_run(w, base + y * plan->out_w, plan->out_w);
            if (plan->resampled) put_row(w, ROW_NEWLINE);
        }
        return;
    }
    for (int64_t y = plan->row0; y < plan->row1; y++) {
        for (int64_t x = plan->col0; x < plan->col1; x++) put_row(w, tiled_index(plan, y, x));
        if (p->mm.merge_unpad) put_row(w, ROW_NEWLINE);
    }
}

static void put_picture(const llava_image_processor *p, const vision_plan *plan, row_writer *w) {
    if (!p->mm.merge_spatial) {
        put_run(w, 0, plan->n_views * p->tokens_per_tile);
    } else if (plan->n_views == 1) {
        put_run(w, 0, p->tokens_per_tile);
        if (p->mm.merge_unpad) put_row(w, ROW_NEWLINE);
    } else {
        put_map(p, plan, w);
    }
}

/** One frame's map, each row followed by a newline. */
static void put_frame_grid(row_writer *w, int64_t first, int64_t side) {
    for (int64_t y = 0; y < side; y++) {
        put_run(w, first + y * side, side);
        put_row(w, ROW_NEWLINE);
    }
}

static void put_grid_video(const llava_image_processor *p, const vision_plan *plan, row_writer *w) {
    const int64_t slow = plan->pool_side * plan->pool_side;
    const int64_t fast = plan->fast_side * plan->fast_side;
    const int64_t stride =
        p->mm.faster_token_stride > 0 ? p->mm.faster_token_stride : FASTER_STRIDE_DEFAULT;
    for (int64_t i = 0; i < plan->n_views; i++) {
        if (!p->mm.add_faster_video || i % stride == 0)
            put_frame_grid(w, i * slow, plan->pool_side);
        else
            put_frame_grid(w, plan->n_views * slow + i * fast, plan->fast_side);
        if (p->mm.add_faster_video) put_row(w, ROW_FASTER);
    }
}

static void put_video(const llava_image_processor *p, const vision_plan *plan, row_writer *w) {
    const int64_t frame = plan->pool_side * plan->pool_side;
    const newline_position newline = p->mm.merge_spatial ? p->mm.newline : NEWLINE_NO_TOKEN;
    switch (newline) {
    case NEWLINE_GRID: put_grid_video(p, plan, w); return;
    case NEWLINE_FRAME:
        for (int64_t i = 0; i < plan->n_views; i++) {
            put_run(w, i * frame, frame);
            put_row(w, ROW_NEWLINE);
        }
        return;
    case NEWLINE_ONE_TOKEN:
        put_run(w, 0, plan->n_views * frame);
        if (p->mm.merge_unpad) put_row(w, ROW_NEWLINE);
        return;
    case NEWLINE_NO_TOKEN: put_run(w, 0, plan->n_views * frame); return;
    }
}

static llava_status make_rows(const llava_image_processor *p, vision_plan *plan, llava_error *err) {
    if (vision_plan_feature_rows(p, plan) > PLAN_ROWS_MAX)
        return llava_fail(err, LLAVA_OUT_OF_MEMORY,
                          "%lld views give %lld feature rows, at most %lld are taken",
                          (long long)plan->n_views, (long long)vision_plan_feature_rows(p, plan),
                          (long long)PLAN_ROWS_MAX);
    void (*const put)(const llava_image_processor *, const vision_plan *, row_writer *) =
        plan->kind == VISION_VIDEO ? put_video : put_picture;
    row_writer count = {.rows = NULL};
    put(p, plan, &count);
    plan->n_rows = count.n;
    plan->rows = array_new(count.n > 0 ? (size_t)count.n : 1, sizeof *plan->rows);
    if (plan->rows == NULL)
        return llava_fail_memory(err, (size_t)count.n * sizeof *plan->rows, "a packing plan");
    row_writer write = {.rows = plan->rows};
    put(p, plan, &write);
    return LLAVA_OK;
}

int64_t vision_plan_feature_rows(const llava_image_processor *p, const vision_plan *plan) {
    if (plan->kind == VISION_VIDEO)
        return plan->n_views *
               (plan->pool_side * plan->pool_side + plan->fast_side * plan->fast_side);
    if (plan->resampled || plan->max_pooled)
        return plan->side * plan->side + plan->out_h * plan->out_w;
    return plan->n_views * p->tokens_per_tile;
}

/* ---------------------------------------------------------------- tiles */

/** Views and grid of a picture. The grid of crop_split stays 0: it has no overview to build on. */
static llava_status plan_tiles(const llava_image_processor *p, vision_plan *plan,
                               llava_error *err) {
    const int64_t tile = processor_tile_size(p);
    plan->n_views = 1;
    if (plan->aspect == ASPECT_ANYRES) {
        const size2 picture = {plan->width, plan->height};
        plan->best = select_best_resolution(picture, p->pinpoints, p->n_pinpoints);
        plan->grid_w = ceil_div(plan->best.width, tile);
        plan->grid_h = ceil_div(plan->best.height, tile);
    } else if (plan->aspect == ASPECT_HIGHRES) {
        plan->best = (size2){p->mm.highres_max, p->mm.highres_max};
        plan->grid_w = plan->grid_h = patch_count(p->mm.highres_max, tile);
    } else if (plan->aspect == ASPECT_CROP_SPLIT) {
        const crop_geometry g = crop_split_geometry(p, (size2){plan->width, plan->height});
        plan->n_views = patch_count(g.crop.width, tile) * patch_count(g.crop.height, tile);
        return LLAVA_OK;
    }
    if (plan->grid_w > PLAN_VIEWS_MAX || plan->grid_w * plan->grid_h >= PLAN_VIEWS_MAX)
        return llava_fail(err, LLAVA_UNSUPPORTED, "a picture of %lld x %lld tiles, at most %lld",
                          (long long)plan->grid_w, (long long)plan->grid_h,
                          (long long)PLAN_VIEWS_MAX - 1);
    plan->n_views += plan->grid_w * plan->grid_h;
    return LLAVA_OK;
}

/** anyres_max_N: scales a map of more than 1.1^2 N tiles down to about N tiles. */
static llava_status plan_scaling(const llava_image_processor *p, vision_plan *plan,
                                 llava_error *err) {
    const int64_t h = plan->row1 - plan->row0, w = plan->col1 - plan->col0;
    if (p->mm.anyres_max <= 0 || plan->aspect != ASPECT_ANYRES) return LLAVA_OK;
    const double room = (double)p->mm.anyres_max * (double)(plan->side * plan->side);
    const double times = sqrt((double)(h * w) / room);
    if (!(times > ANYRES_MAX_SLACK)) return LLAVA_OK;
    plan->resampled = true;
    plan->out_h = (int64_t)floor_divide((double)h, times);
    plan->out_w = (int64_t)floor_divide((double)w, times);
    if (plan->out_h < 1 || plan->out_w < 1)
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "%s: a map of %lld x %lld features would shrink to nothing",
                          p->mm.aspect_text, (long long)w, (long long)h);
    return LLAVA_OK;
}

/** The map that spatial merging makes of base and tiles. */
static llava_status plan_map(const llava_image_processor *p, vision_plan *plan, llava_error *err) {
    if (!p->mm.merge_spatial || plan->n_views == 1) return LLAVA_OK;
    if (plan->grid_w == 0)
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "mm_patch_merge_type %s: %s gives %lld tiles without an overview; "
                          "expected flat",
                          p->mm.merge_type, p->mm.aspect_text, (long long)plan->n_views);
    if (p->tokens_per_tile != p->patches_per_side * p->patches_per_side)
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "mm_patch_merge_type %s: %lld features per tile, expected %lld x %lld",
                          p->mm.merge_type, (long long)p->tokens_per_tile,
                          (long long)p->patches_per_side, (long long)p->patches_per_side);
    const int64_t tile = processor_tile_size(p);
    if (plan->aspect == ASPECT_ANYRES &&
        (plan->best.width % tile != 0 || plan->best.height % tile != 0))
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "mm_patch_merge_type %s: pinpoint %lld x %lld is not a multiple of the "
                          "tile size %lld",
                          p->mm.merge_type, (long long)plan->best.width,
                          (long long)plan->best.height, (long long)tile);
    plan->row1 = plan->grid_h * plan->side;
    plan->col1 = plan->grid_w * plan->side;
    if (p->mm.merge_maxpool) {
        plan->max_pooled = true;
        plan->out_h = plan->row1 / 2;
        plan->out_w = plan->col1 / 2;
        if (plan->out_h < 1 || plan->out_w < 1)
            return llava_fail(err, LLAVA_UNSUPPORTED,
                              "mm_patch_merge_type %s: a map of %lld x %lld features is too small",
                              p->mm.merge_type, (long long)plan->col1, (long long)plan->row1);
    } else if (p->mm.merge_unpad) {
        unpad_range(p, plan);
        return plan_scaling(p, plan, err);
    }
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- videos */

static int64_t pooled_side(pool_mode mode, int64_t side, int64_t stride) {
    if (stride == 1) return side;
    return mode == POOL_BILINEAR ? ceil_div(side, stride) : side / stride;
}

static llava_status plan_video(const llava_image_processor *p, int64_t n_frames, vision_plan *plan,
                               llava_error *err) {
    const mm_config *mm = &p->mm;
    const int64_t stride = mm->pool_stride > 0 ? mm->pool_stride : 2;
    const bool grid = mm->merge_spatial && mm->newline == NEWLINE_GRID;
    const bool faster = grid && mm->add_faster_video;
    plan->kind = VISION_VIDEO;
    plan->aspect = ASPECT_SQUARE; /* frames go straight through the processor */
    if (n_frames > PLAN_FRAMES_MAX)
        return llava_fail(err, LLAVA_OUT_OF_MEMORY, "a video of %lld frames, at most %lld",
                          (long long)n_frames, (long long)PLAN_FRAMES_MAX);
    if (p->tokens_per_tile != p->patches_per_side * p->patches_per_side)
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "video: %lld features per frame, expected %lld x %lld patches",
                          (long long)p->tokens_per_tile, (long long)p->patches_per_side,
                          (long long)p->patches_per_side);
    if (mm->pool == POOL_NONE && (stride > 1 || faster))
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "video: the config has no mm_spatial_pool_mode; expected average, max or "
                          "bilinear");
    if (mm->merge_spatial && (grid || mm->newline == NEWLINE_FRAME) && !mm->merge_unpad)
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "video: mm_newline_position %s needs image_newline, which "
                          "mm_patch_merge_type %s does not have",
                          grid ? "grid" : "frame", mm->merge_type);
    plan->n_views = n_frames;
    plan->pool_side = pooled_side(mm->pool, plan->side, stride);
    if (faster) plan->fast_side = pooled_side(mm->pool, plan->side, 2 * stride);
    if (plan->pool_side < 1 || (faster && plan->fast_side < 1))
        return llava_fail(
            err, LLAVA_UNSUPPORTED,
            "video: mm_spatial_pool_stride %lld leaves nothing of %lld x %lld patches",
            (long long)stride, (long long)plan->side, (long long)plan->side);
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- entry */

static llava_status plan_picture(const llava_image_processor *p, size_t n_images, vision_plan *plan,
                                 llava_error *err) {
    plan->kind = VISION_IMAGE;
    plan->aspect = p->mm.aspect;
    /* LlavaNext... of transformers tile every picture */
    const bool always_tiles = p->mm.native == NATIVE_NEXT || p->mm.native == NATIVE_NEXT_VIDEO;
    if (plan->aspect == ASPECT_ANYRES && n_images > 1 && !always_tiles) plan->aspect = ASPECT_PAD;
    LLAVA_TRY(plan_tiles(p, plan, err));
    return plan_map(p, plan, err);
}

llava_status vision_plan_make(const llava_image_processor *p, int64_t width, int64_t height,
                              int64_t n_frames, size_t n_images, vision_plan *plan,
                              llava_error *err) {
    *plan = (vision_plan){.kind = VISION_IMAGE, .width = width, .height = height};
    if (n_frames < 0)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "video: %lld frames", (long long)n_frames);
    if (n_frames == 0 && n_images == 0) return LLAVA_OK;
    if (width <= 0 || height <= 0 || width > IMAGE_MAX_PIXELS / height)
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "picture of %lld x %lld pixels, expected at least 1 x 1 and at most %lld "
                          "pixels",
                          (long long)width, (long long)height, (long long)IMAGE_MAX_PIXELS);
    plan->side =
        p->mm.projector == PROJECTOR_POOLER ? p->patches_per_side / 2 : p->patches_per_side;
    llava_status status =
        n_frames > 0 ? plan_video(p, n_frames, plan, err) : plan_picture(p, n_images, plan, err);
    if (status == LLAVA_OK) status = make_rows(p, plan, err);
    if (status != LLAVA_OK) vision_plan_free(plan);
    return status;
}

void vision_plan_free(vision_plan *plan) {
    free(plan->rows);
    *plan = (vision_plan){.kind = VISION_IMAGE};
}
