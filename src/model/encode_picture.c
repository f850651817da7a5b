/* SPDX-License-Identifier: Apache-2.0
 *
 * From a picture's pixels to its rows of the prompt: tower, projector, video pooling, tiles put
 * back into one map, and the rows in the plan's order (LLaVA-NeXT, llava_arch.py,
 * prepare_inputs_labels_for_multimodal).
 */
#include <stdlib.h>

#include "model_internal.h"

#define ROWS_AT_ONCE 1024 /* picked rows per gather */

/* ---------------------------------------------------------------- views */

static void lay_out(vision_run *run, int parts, slab *memory, slab *host) {
    const int64_t view = tower_view_size(run->model), hidden = run->model->config->lm.hidden_size;
    run->features = slab_floats(memory, run->max_views * run->tokens, run->width);
    if (parts & VISION_TOWER) {
        run->pixels = slab_floats(memory, run->max_views * 3 * view, view);
        if (run->model->config->mm.s2) scales_lay_out(run, memory, host);
    }
    if (parts & VISION_PROJECTOR) {
        projector_lay_out(run, memory, host);
        run->projected = slab_floats(memory, run->max_views * run->projected_tokens, hidden);
        const bool first = run->model->config->mm.pool_before_projector;
        run->pooled = slab_floats(memory, first ? run->max_views * run->tokens : 0, run->width);
    }
}

static llava_status open_tower(vision_run *run, int64_t n_views, llava_error *err) {
    const llava_model *model = run->model;
    const bool s2 = model->config->mm.s2;
    if (s2) LLAVA_TRY(scales_check(model, err));
    const int64_t tokens = tower_patches(model) + 1;
    const int64_t inputs = s2 ? scales_max_tiles(model) : n_views;
    return tower_open(model, tower_inputs_at_once(tokens, inputs), &run->tower, err);
}

llava_status vision_open(const llava_model *model, int64_t n_views, int parts, vision_run *run,
                         llava_error *err) {
    *run = (vision_run){.model = model, .dev = model->dev};
    model_tower_shape(model, &run->tokens, &run->width);
    llava_status status = LLAVA_OK;
    if (parts & VISION_TOWER) LLAVA_TRY_DONE(open_tower(run, n_views, err));
    if (run->tokens < 1) {
        status = llava_fail(err, LLAVA_BAD_ARGUMENT, "the model has no vision tower");
        goto done;
    }
    if (parts & VISION_PROJECTOR) LLAVA_TRY_DONE(projector_check(model, err));
    run->projected_tokens = model_projected_tokens(model);
    run->max_views = model->config->mm.s2 ? 1 : tower_inputs_at_once(run->tokens, n_views);
    slab memory = {0}, host = {0};
    lay_out(run, parts, &memory, &host);
    if (!memory.overflow && !host.overflow) {
        run->memory = run->dev->ops->alloc(run->dev, memory.used);
        run->host = aligned_new(host.used);
    }
    if (!run->memory || !run->host) {
        status = llava_fail_memory(err, memory.used, "the activations of a picture");
        goto done;
    }
    memory = (slab){.base = run->memory};
    host = (slab){.base = run->host};
    lay_out(run, parts, &memory, &host);
done:
    if (status != LLAVA_OK) vision_close(run);
    return status;
}

void vision_close(vision_run *run) {
    if (run->tower.memory || run->tower.host) tower_close(&run->tower);
    if (run->memory) run->dev->ops->release(run->dev, run->memory);
    free(run->host);
    run->memory = run->host = NULL;
}

void vision_features(vision_run *run, int64_t n) {
    if (!run->model->config->mm.s2) {
        for (int64_t i = 0; i < n; i += run->tower.max_inputs) {
            const int64_t size = run->model->config->tower.image_size;
            tower_forward(&run->tower, run->pixels + i * 3 * size * size,
                          i64_min(run->tower.max_inputs, n - i),
                          run->features + i * run->tokens * run->width);
        }
        return;
    }
    const int64_t view = tower_view_size(run->model);
    for (int64_t i = 0; i < n; i++)
        scales_features(run, run->pixels + i * 3 * view * view,
                        run->features + i * run->tokens * run->width);
}

static void upload_pixels(vision_run *run, const float *pixels, int64_t first, int64_t n) {
    const size_t view = (size_t)tower_view_size(run->model), size = 3 * view * view;
    run->dev->ops->upload(run->dev, run->pixels, pixels + (size_t)first * size,
                          (size_t)n * size * sizeof *pixels);
}

llava_status model_run_tower(const llava_model *model, const float *pixels, int64_t n_views,
                             float *features, llava_error *err) {
    vision_run run;
    LLAVA_TRY(vision_open(model, n_views, VISION_TOWER, &run, err));
    const size_t size = (size_t)(run.tokens * run.width);
    for (int64_t i = 0; i < n_views; i += run.max_views) {
        const int64_t n = i64_min(run.max_views, n_views - i);
        upload_pixels(&run, pixels, i, n);
        vision_features(&run, n);
        run.dev->ops->download(run.dev, features + (size_t)i * size, run.features,
                               (size_t)n * size * sizeof *features);
    }
    vision_close(&run);
    return LLAVA_OK;
}

llava_status model_project(const llava_model *model, const float *features, int64_t n_views,
                           float *projected, llava_error *err) {
    vision_run run;
    LLAVA_TRY(vision_open(model, n_views, VISION_PROJECTOR, &run, err));
    const size_t in = (size_t)(run.tokens * run.width);
    const size_t out = (size_t)(run.projected_tokens * model->config->lm.hidden_size);
    for (int64_t i = 0; i < n_views; i += run.max_views) {
        const int64_t n = i64_min(run.max_views, n_views - i);
        run.dev->ops->upload(run.dev, run.features, features + (size_t)i * in,
                             (size_t)n * in * sizeof *features);
        vision_project(&run, n, run.projected);
        run.dev->ops->download(run.dev, projected + (size_t)i * out, run.projected,
                               (size_t)n * out * sizeof *projected);
    }
    vision_close(&run);
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- one planned picture */

/** Feature rows of the picture in device memory, in the order plan->rows counts them; the newline
 *  and the faster token lie behind them. */
typedef struct picture {
    const llava_model *model;
    const vision_plan *plan;
    const vision_trace *trace;
    vision_run run;
    int64_t hidden;
    int64_t n_rows;    /* without the two tokens */
    float *rows;       /* [n_rows + 2, hidden] */
    float *tiles;      /* resampled or pooled maps: all views' rows */
    float *map, *kept; /* the same maps put together; what goes into the resampling */
    float *picked;     /* [ROWS_AT_ONCE, hidden] */
    int32_t *list;
    void *memory, *host;
} picture;

static bool has_map(const vision_plan *plan) { return plan->resampled || plan->max_pooled; }
static int64_t kept_h(const vision_plan *plan) { return plan->row1 - plan->row0; }
static int64_t kept_w(const vision_plan *plan) { return plan->col1 - plan->col0; }

static int64_t count_rows(const picture *p) {
    const vision_plan *plan = p->plan;
    if (plan->kind == VISION_VIDEO)
        return plan->n_views *
               (plan->pool_side * plan->pool_side + plan->fast_side * plan->fast_side);
    if (has_map(plan)) return plan->side * plan->side + plan->out_h * plan->out_w;
    return plan->n_views * p->run.projected_tokens;
}

static llava_status check_plan(const picture *p, llava_error *err) {
    const vision_plan *plan = p->plan;
    const int64_t tokens = model_projected_tokens(p->model);
    if (plan->n_views < 1 || plan->n_rows < 0)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "the picture's plan has no views");
    if (plan->kind == VISION_VIDEO && plan->pool_side != plan->side &&
        p->model->config->mm.pool == POOL_NONE)
        return llava_fail(err, LLAVA_MALFORMED,
                          "a video needs mm_spatial_pool_mode average, max or bilinear");
    const bool square = plan->kind == VISION_VIDEO || has_map(plan);
    if (square && plan->side * plan->side != tokens)
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "%lld rows per view cannot be laid out as a map of %lld x %lld",
                          (long long)tokens, (long long)plan->side, (long long)plan->side);
    if (has_map(plan) &&
        (plan->n_views != 1 + plan->grid_w * plan->grid_h || plan->row0 < 0 || plan->col0 < 0 ||
         kept_h(plan) < 1 || kept_w(plan) < 1 || plan->row1 > plan->grid_h * plan->side ||
         plan->col1 > plan->grid_w * plan->side || plan->out_h < 1 || plan->out_w < 1))
        return llava_fail(err, LLAVA_INTERNAL, "the picture's plan contradicts itself");
    return LLAVA_OK;
}

static llava_status check_rows(const picture *p, llava_error *err) {
    const llava_model *model = p->model;
    for (int64_t i = 0; i < p->plan->n_rows; i++) {
        const int32_t row = p->plan->rows[i];
        if (row == ROW_NEWLINE && !weight_exists(&model->image_newline))
            return llava_fail(err, LLAVA_MALFORMED,
                              "this picture layout needs image_newline, which the checkpoint "
                              "does not have");
        if (row == ROW_FASTER && !weight_exists(&model->faster_token))
            return llava_fail(err, LLAVA_MALFORMED,
                              "add_faster_video needs faster_token, which the checkpoint does "
                              "not have");
        if (row < ROW_FASTER || row >= p->n_rows)
            return llava_fail(err, LLAVA_INTERNAL, "row %lld of the picture's plan is %d of %lld",
                              (long long)i, (int)row, (long long)p->n_rows);
    }
    return LLAVA_OK;
}

static void picture_lay_out(picture *p, slab *memory, slab *host) {
    const vision_plan *plan = p->plan;
    const int64_t tokens = p->run.projected_tokens;
    const bool map = has_map(plan);
    const int64_t cells = map ? plan->grid_h * plan->grid_w * plan->side * plan->side : 0;
    p->rows = slab_floats(memory, p->n_rows + 2, p->hidden);
    p->tiles = slab_floats(memory, map ? plan->n_views * tokens : 0, p->hidden);
    p->map = slab_floats(memory, map ? kept_h(plan) * kept_w(plan) : 0, p->hidden);
    p->picked = slab_floats(memory, ROWS_AT_ONCE, p->hidden);
    p->list = slab_take(host, i64_max(cells, ROWS_AT_ONCE), 1, sizeof *p->list);
}

static llava_status picture_allocate(picture *p, llava_error *err) {
    slab memory = {0}, host = {0};
    picture_lay_out(p, &memory, &host);
    if (!memory.overflow && !host.overflow &&
        memory.used / sizeof(float) / (size_t)p->hidden < (size_t)INT32_MAX) {
        p->memory = p->run.dev->ops->alloc(p->run.dev, memory.used);
        p->host = aligned_new(host.used);
    }
    if (!p->memory || !p->host) return llava_fail_memory(err, memory.used, "the rows of a picture");
    memory = (slab){.base = p->memory};
    host = (slab){.base = p->host};
    picture_lay_out(p, &memory, &host);
    return LLAVA_OK;
}

/** n frames of src [side, side, dim], pooled with a stride to out x out. */
typedef struct pooling {
    const float *src;
    float *dst;
    int64_t n, stride, out, dim;
} pooling;

static void pool_frames(picture *p, const pooling *call) {
    static const map_op ops[] = {
        [POOL_AVERAGE] = MAP_AVERAGE, [POOL_MAX] = MAP_MAX, [POOL_BILINEAR] = MAP_BILINEAR};
    if (call->out == 0) return;
    /* stride 1: every mode is a copy */
    const bool same = call->out == p->plan->side;
    const map_op op = same ? MAP_BILINEAR : ops[p->model->config->mm.pool];
    p->run.dev->ops->map(p->run.dev, &(map_args){.op = op,
                                                 .x = call->src,
                                                 .dst = call->dst,
                                                 .n_maps = call->n,
                                                 .in_h = p->plan->side,
                                                 .in_w = p->plan->side,
                                                 .out_h = call->out,
                                                 .out_w = call->out,
                                                 .dim = call->dim,
                                                 .stride = call->stride});
}

/** Copies to whoever asked for this stage: rows of the views [first, first + n). */
static void trace_rows(picture *p, float *dst, const float *src, int64_t first, int64_t n,
                       int64_t row_floats) {
    if (!dst) return;
    p->run.dev->ops->download(p->run.dev, dst + first * row_floats, src,
                              (size_t)(n * row_floats) * sizeof *dst);
}

/** run->features of a few frames -> their rows. transformers' LlavaNextVideo pools in front of the
 *  projector, everyone else behind it. */
static void encode_frames(picture *p, int64_t first, int64_t n) {
    const vision_plan *plan = p->plan;
    const vision_trace none = {0}, *trace = p->trace ? p->trace : &none;
    vision_run *run = &p->run;
    const int64_t set = p->model->config->mm.pool_stride, stride = set > 0 ? set : 2;
    const int64_t tokens = run->projected_tokens;
    const int64_t slow = plan->pool_side * plan->pool_side,
                  fast = plan->fast_side * plan->fast_side;
    float *slow_rows = p->rows + first * slow * p->hidden;
    float *fast_rows = p->rows + (plan->n_views * slow + first * fast) * p->hidden;
    if (p->model->config->mm.pool_before_projector) {
        pool_frames(p,
                    &(pooling){run->features, run->pooled, n, stride, plan->pool_side, run->width});
        vision_project_rows(run, run->pooled, n * slow, slow_rows);
    } else {
        vision_project(run, n, run->projected);
        trace_rows(p, trace->projected, run->projected, first, n, tokens * p->hidden);
        pool_frames(p,
                    &(pooling){run->projected, slow_rows, n, stride, plan->pool_side, p->hidden});
        pool_frames(
            p, &(pooling){run->projected, fast_rows, n, 2 * stride, plan->fast_side, p->hidden});
    }
    trace_rows(p, trace->pooled, slow_rows, first, n, slow * p->hidden);
}

/** Tower and projector over a few views; their rows go where the plan's layout has them. */
static void encode_views(picture *p, const float *pixels, int64_t first, int64_t n) {
    const vision_plan *plan = p->plan;
    const vision_trace none = {0}, *trace = p->trace ? p->trace : &none;
    vision_run *run = &p->run;
    const int64_t tokens = run->projected_tokens;
    upload_pixels(run, pixels, first, n);
    vision_features(run, n);
    trace_rows(p, trace->tower_features, run->features, first, n, run->tokens * run->width);
    if (plan->kind != VISION_VIDEO) {
        float *dst = (has_map(plan) ? p->tiles : p->rows) + first * tokens * p->hidden;
        vision_project(run, n, dst);
        trace_rows(p, trace->projected, dst, first, n, tokens * p->hidden);
        return;
    }
    encode_frames(p, first, n);
}

/** Views 1 ... of p->tiles -> the map that remains after unpad, then scaled or max-pooled; the
 *  base view's rows stand in front of it. */
static void build_map(picture *p) {
    const vision_plan *plan = p->plan;
    const device_ops *ops = p->run.dev->ops;
    const int64_t side = plan->side, base = side * side;
    int32_t *row = p->list;
    for (int64_t y = plan->row0; y < plan->row1; y++)
        for (int64_t x = plan->col0; x < plan->col1; x++) {
            const int64_t view = 1 + y / side * plan->grid_w + x / side;
            *row++ = (int32_t)(view * base + y % side * side + x % side);
        }
    ops->gather(p->run.dev, p->map, p->tiles, p->list, kept_h(plan) * kept_w(plan), p->hidden);
    for (int64_t i = 0; i < base; i++) p->list[i] = (int32_t)i;
    ops->gather(p->run.dev, p->rows, p->tiles, p->list, base, p->hidden);
    ops->map(p->run.dev, &(map_args){.op = plan->max_pooled ? MAP_MAX : MAP_BILINEAR,
                                     .x = p->map,
                                     .dst = p->rows + base * p->hidden,
                                     .n_maps = 1,
                                     .in_h = kept_h(plan),
                                     .in_w = kept_w(plan),
                                     .out_h = plan->out_h,
                                     .out_w = plan->out_w,
                                     .dim = p->hidden,
                                     .stride = 2});
}

/** The plan's rows, newline and faster token among them, into the caller's memory. */
static void pick_rows(picture *p, float *rows) {
    const llava_model *model = p->model;
    const device_ops *ops = p->run.dev->ops;
    float *tokens = p->rows + p->n_rows * p->hidden;
    if (weight_exists(&model->image_newline))
        ops->widen(p->run.dev, tokens, &model->image_newline, p->hidden);
    if (weight_exists(&model->faster_token))
        ops->widen(p->run.dev, tokens + p->hidden, &model->faster_token, p->hidden);
    for (int64_t i = 0; i < p->plan->n_rows; i += ROWS_AT_ONCE) {
        const int64_t n = i64_min(ROWS_AT_ONCE, p->plan->n_rows - i);
        for (int64_t j = 0; j < n; j++) {
            const int32_t row = p->plan->rows[i + j];
            p->list[j] = row >= 0 ? row : (int32_t)p->n_rows + (row == ROW_FASTER);
        }
        ops->gather(p->run.dev, p->picked, p->rows, p->list, n, p->hidden);
        ops->download(p->run.dev, rows + i * p->hidden, p->picked,
                      (size_t)(n * p->hidden) * sizeof *rows);
    }
}

llava_status model_encode_picture(const llava_model *model, const vision_plan *plan,
                                  const float *pixels, float *rows, const vision_trace *trace,
                                  llava_error *err) {
    picture p = {.model = model, .plan = plan, .trace = trace};
    p.hidden = model->config->lm.hidden_size;
    LLAVA_TRY(check_plan(&p, err));
    LLAVA_TRY(vision_open(model, plan->n_views, VISION_TOWER | VISION_PROJECTOR, &p.run, err));
    llava_status status;
    p.n_rows = count_rows(&p);
    LLAVA_TRY_DONE(check_rows(&p, err));
    LLAVA_TRY_DONE(picture_allocate(&p, err));
    for (int64_t i = 0; i < plan->n_views; i += p.run.max_views)
        encode_views(&p, pixels, i, i64_min(p.run.max_views, plan->n_views - i));
    if (has_map(plan)) build_map(&p);
    pick_rows(&p, rows);
done:
    if (p.memory) p.run.dev->ops->release(p.run.dev, p.memory);
    free(p.host);
    vision_close(&p.run);
    return status;
}
