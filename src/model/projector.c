/* SPDX-License-Identifier: Apache-2.0
 *
 * Projectors: linear, mlpNx_gelu, mlpNx_resMx_gelu, pooler, identity (LLaVA-NeXT,
 * multimodal_projector/builder.py and pooler_projector.py).
 */
#include "model_internal.h"

#define RES_NORM_EPS 1e-5f /* torch.nn.LayerNorm's default */

/** Side of the tower's map; the pooler needs one. */
static int64_t map_side(const llava_model *model) {
    return model->config->tower.image_size / model->config->tower.patch_size;
}

int64_t model_projected_tokens(const llava_model *model) {
    int64_t tokens, width;
    model_tower_shape(model, &tokens, &width);
    if (model->config->mm.projector != PROJECTOR_POOLER || tokens == 0) return tokens;
    const int64_t half = map_side(model) / 2;
    return half * half;
}

static llava_status check_chain(const llava_model *model, int64_t width, llava_error *err) {
    const mm_config *mm = &model->config->mm;
    const projector_weights *w = &model->projector;
    const int n = mm->projector_linears;
    if (n < 1 || n > PROJECTOR_MAX_LINEARS || mm->projector_res < 0 ||
        mm->projector_res > PROJECTOR_MAX_LINEARS)
        return llava_fail(err, LLAVA_UNSUPPORTED, "mm_projector_type %s has too many parts",
                          mm->projector_type);
    for (int i = 0; i < n; i++) {
        if (w->linears[i].w.n_cols != width)
            return llava_fail(err, LLAVA_MALFORMED,
                              "mm_projector: linear %d takes %lld channels, expected %lld", i,
                              (long long)w->linears[i].w.n_cols, (long long)width);
        width = w->linears[i].w.n_rows;
    }
    if (width != model->config->lm.hidden_size)
        return llava_fail(err, LLAVA_MALFORMED,
                          "mm_projector gives %lld channels, expected hidden_size %lld",
                          (long long)width, (long long)model->config->lm.hidden_size);
    return LLAVA_OK;
}

static llava_status check_pooler(const llava_model *model, int64_t tokens, int64_t width,
                                 llava_error *err) {
    const projector_weights *w = &model->projector;
    const int64_t side = map_side(model), hidden = model->config->lm.hidden_size;
    if (tokens != side * side)
        return llava_fail(err, LLAVA_MALFORMED,
                          "the pooler projector needs %lld x %lld patch features, got %lld",
                          (long long)side, (long long)side, (long long)tokens);
    if (w->linears[0].w.n_cols != 4 * width || w->linears[1].w.n_cols != w->linears[0].w.n_rows ||
        w->linears[1].w.n_rows != hidden)
        return llava_fail(err, LLAVA_MALFORMED,
                          "mm_projector: the pooler's weights do not fit %lld -> %lld channels",
                          (long long)width, (long long)hidden);
    return LLAVA_OK;
}

llava_status projector_check(const llava_model *model, llava_error *err) {
    int64_t tokens, width;
    model_tower_shape(model, &tokens, &width);
    switch (model->config->mm.projector) {
    case PROJECTOR_POOLER: return check_pooler(model, tokens, width, err);
    case PROJECTOR_IDENTITY:
        if (width == model->config->lm.hidden_size) return LLAVA_OK;
        return llava_fail(err, LLAVA_MALFORMED,
                          "mm_projector_type identity: the tower gives %lld channels, expected "
                          "hidden_size %lld",
                          (long long)width, (long long)model->config->lm.hidden_size);
    default: return check_chain(model, width, err);
    }
}

/** Widest inner row of the projector. */
static int64_t inner_width(const llava_model *model) {
    int64_t width = model->config->lm.hidden_size;
    for (int i = 0; i < PROJECTOR_MAX_LINEARS; i++) {
        width = i64_max(width, model->projector.linears[i].w.n_rows);
        width = i64_max(width, model->projector.res[i].fc1.w.n_rows);
    }
    return width;
}

void projector_lay_out(vision_run *run, slab *memory, slab *host) {
    const bool pooler = run->model->config->mm.projector == PROJECTOR_POOLER;
    const int64_t rows = run->max_views * run->tokens, inner = inner_width(run->model);
    const int64_t cells = pooler ? run->projected_tokens * 4 * run->width : 0;
    run->hidden = slab_floats(memory, rows, inner);
    run->norm = slab_floats(memory, rows, inner);
    run->windows = slab_floats(memory, cells, 1);
    run->cells = slab_take(host, i64_max(cells, rows), 1, sizeof *run->cells);
}

/** rows [n, in] -> dst [n, hidden_size] through the chain of linears, GELU between them. The inner
 *  rows alternate between two buffers so that the last product lands in dst. */
static void run_linears(vision_run *run, float *rows, int64_t n, float *dst) {
    const mm_config *mm = &run->model->config->mm;
    const int count = mm->projector_linears;
    const activation act = mm->projector_act ? mm->projector_act : ACT_GELU;
    activations x = {.f32 = rows};
    for (int i = 0; i < count; i++) {
        const bool last = i + 1 == count;
        const activations y = {.f32 = last ? dst : i % 2 ? run->norm : run->hidden};
        model_linear(run->model, &(panel_linear){y, x, n, &run->model->projector.linears[i],
                                                 last ? ACT_NONE : act, NULL});
        x = y;
    }
}

/** x = n + fc2(gelu(fc1(n))), n = norm(x): the skip adds the normalised rows, as the reference. */
static void run_residuals(vision_run *run, int64_t n, float *x) {
    for (int i = 0; i < run->model->config->mm.projector_res; i++) {
        const norm_weights *norm = &run->model->projector.res[i].norm;
        const activations rows = {.f32 = run->norm}, hidden = {.f32 = run->hidden};
        run->dev->ops->layernorm(run->dev, &(norm_args){.x = x,
                                                        .n_rows = n,
                                                        .w = &norm->w,
                                                        .bias = &norm->b,
                                                        .eps = RES_NORM_EPS,
                                                        .dst = run->norm});
        model_linear(run->model, &(panel_linear){hidden, rows, n, &run->model->projector.res[i].fc1,
                                                 ACT_GELU, NULL});
        model_linear(run->model, &(panel_linear){.dst.f32 = x,
                                                 .x = hidden,
                                                 .n = n,
                                                 .w = &run->model->projector.res[i].fc2,
                                                 .residual = run->norm});
    }
}

/** 2 x 2 convolution of stride 2 as a product: each output row sees its four inputs in the order
 *  (channel, y, x) of the stored kernel; then GELU and a linear. */
static void run_pooler(vision_run *run, const float *features, float *dst) {
    const int64_t side = map_side(run->model), half = side / 2, width = run->width;
    int32_t *cell = run->cells;
    for (int64_t y = 0; y < half; y++)
        for (int64_t x = 0; x < half; x++)
            for (int64_t c = 0; c < width; c++)
                for (int64_t k = 0; k < 4; k++)
                    *cell++ = (int32_t)(((2 * y + k / 2) * side + 2 * x + k % 2) * width + c);
    run->dev->ops->gather(run->dev, run->windows, features, run->cells, half * half * width * 4, 1);
    model_linear(run->model, &(panel_linear){.dst.f32 = run->hidden,
                                             .x.f32 = run->windows,
                                             .n = half * half,
                                             .w = &run->model->projector.linears[0],
                                             .act = ACT_GELU});
    model_linear(run->model, &(panel_linear){.dst.f32 = dst,
                                             .x.f32 = run->hidden,
                                             .n = half * half,
                                             .w = &run->model->projector.linears[1]});
}

void vision_project_rows(vision_run *run, float *features, int64_t n_rows, float *dst) {
    run_linears(run, features, n_rows, dst);
}

void vision_project(vision_run *run, int64_t n, float *dst) {
    const mm_config *mm = &run->model->config->mm;
    const int64_t hidden = run->model->config->lm.hidden_size, rows = n * run->tokens;
    if (mm->projector == PROJECTOR_POOLER) {
        for (int64_t i = 0; i < n; i++)
            run_pooler(run, run->features + i * run->tokens * run->width,
                       dst + i * run->projected_tokens * hidden);
    } else if (mm->projector == PROJECTOR_IDENTITY) {
        int32_t *row = run->cells;
        for (int64_t i = 0; i < rows; i++) row[i] = (int32_t)i;
        run->dev->ops->gather(run->dev, dst, run->features, row, rows, hidden);
    } else {
        run_linears(run, run->features, rows, dst);
        run_residuals(run, rows, dst);
    }
}
