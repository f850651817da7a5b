/* SPDX-License-Identifier: Apache-2.0
 *
 * S2: one view seen at several scales, each cut into pieces of the tower's size; the feature maps
 * are brought to the smallest scale's size and put side by side (scaling_on_scales 9c008a3, as
 * LLaVA-NeXT's CLIPVisionTowerS2 calls it).
 */
#include "model_internal.h"

int64_t tower_view_size(const llava_model *model) {
    const mm_config *mm = &model->config->mm;
    return mm->s2 && mm->n_s2_scales ? mm->s2_scales[mm->n_s2_scales - 1]
                                     : model->config->tower.image_size;
}

llava_status scales_check(const llava_model *model, llava_error *err) {
    const mm_config *mm = &model->config->mm;
    const int64_t size = model->config->tower.image_size;
    tower_selection selection;
    LLAVA_TRY(tower_select(model, &selection, err));
    if (mm->n_s2_scales < 1 || mm->s2_scales[0] != size)
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "s2_scales starts with %lld, expected the tower's image size %lld",
                          (long long)(mm->n_s2_scales ? mm->s2_scales[0] : 0), (long long)size);
    for (size_t i = 0; i < mm->n_s2_scales; i++)
        if (mm->s2_scales[i] % size != 0 || mm->s2_scales[i] / size > 64)
            return llava_fail(err, LLAVA_UNSUPPORTED,
                              "s2_scales has %lld, expected a multiple of %lld (64 times at most)",
                              (long long)mm->s2_scales[i], (long long)size);
    if (tower_has_class_token(model) && selection.keep_class)
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "s2 works on patch features; mm_vision_select_feature keeps the class "
                          "token");
    return LLAVA_OK;
}

int64_t scales_max_tiles(const llava_model *model) {
    const int64_t side = tower_view_size(model) / model->config->tower.image_size;
    return side * side;
}

void scales_lay_out(vision_run *run, slab *memory, slab *host) {
    const int64_t size = run->model->config->tower.image_size, view = tower_view_size(run->model);
    const int64_t tiles = scales_max_tiles(run->model), tokens = run->tower.n_patches;
    const int64_t scales = (int64_t)run->model->config->mm.n_s2_scales;
    const int64_t width = run->width / scales;
    run->scaled = slab_floats(memory, 3 * view, view);
    run->tiles = slab_floats(memory, tiles * 3 * size, size);
    run->tile_features = slab_floats(memory, tiles * tokens, width);
    run->map = slab_floats(memory, tiles * tokens, width);
    run->scale_maps = slab_floats(memory, scales * tokens, width);
    const int64_t most =
        i64_max(i64_max(3 * view * (view / size), tiles * tokens), scales * tokens);
    run->rows = slab_take(host, most, 1, sizeof *run->rows);
}

/** [3, m * size, m * size] -> [m * m, 3, size, size], pieces in raster order. */
static void cut(vision_run *run, const float *pixels, int64_t m, int64_t size) {
    int32_t *row = run->rows;
    for (int64_t ty = 0; ty < m; ty++)
        for (int64_t tx = 0; tx < m; tx++)
            for (int64_t c = 0; c < 3; c++)
                for (int64_t y = 0; y < size; y++)
                    *row++ = (int32_t)(((c * m + ty) * size + y) * m + tx);
    run->dev->ops->gather(run->dev, run->tiles, pixels, run->rows, m * m * 3 * size, size);
}

/** [m * m, side, side] rows of pieces -> [m * side, m * side] rows of one map. */
static void join(vision_run *run, int64_t m, int64_t side, int64_t width) {
    int32_t *row = run->rows;
    for (int64_t y = 0; y < m * side; y++)
        for (int64_t x = 0; x < m * side; x++) {
            const int64_t piece = y / side * m + x / side;
            *row++ = (int32_t)((piece * side + y % side) * side + x % side);
        }
    run->dev->ops->gather(run->dev, run->map, run->tile_features, run->rows, m * m * side * side,
                          width);
}

/** Features of one scale at the size of the smallest: rows [side^2, width] at dst. */
static void one_scale(vision_run *run, const float *pixels, int64_t scale, float *dst) {
    const tower_config *tower = &run->model->config->tower;
    const int64_t size = tower->image_size, m = scale / size, view = tower_view_size(run->model);
    const int64_t side = size / tower->patch_size, width = run->tower.out_width;
    const float *source = pixels;
    if (scale != view) {
        run->dev->ops->map(run->dev, &(map_args){.op = MAP_BICUBIC,
                                                 .x = pixels,
                                                 .dst = run->scaled,
                                                 .n_maps = 3,
                                                 .in_h = view,
                                                 .in_w = view,
                                                 .out_h = scale,
                                                 .out_w = scale,
                                                 .dim = 1});
        source = run->scaled;
    }
    cut(run, source, m, size);
    const int64_t at_once = run->tower.max_inputs, n = m * m;
    for (int64_t i = 0; i < n; i += at_once)
        tower_forward(&run->tower, run->tiles + i * 3 * size * size, i64_min(at_once, n - i),
                      run->tile_features + i * side * side * width);
    join(run, m, side, width);
    run->dev->ops->map(run->dev, &(map_args){.op = MAP_AREA,
                                             .x = run->map,
                                             .dst = dst,
                                             .n_maps = 1,
                                             .in_h = m * side,
                                             .in_w = m * side,
                                             .out_h = side,
                                             .out_w = side,
                                             .dim = width});
}

void scales_features(vision_run *run, const float *pixels, float *features) {
    const mm_config *mm = &run->model->config->mm;
    const int64_t tokens = run->tower.n_patches, width = run->tower.out_width;
    const int64_t scales = (int64_t)mm->n_s2_scales;
    for (int64_t s = 0; s < scales; s++)
        one_scale(run, pixels, mm->s2_scales[s], run->scale_maps + s * tokens * width);
    int32_t *row = run->rows;
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t s = 0; s < scales; s++) *row++ = (int32_t)(s * tokens + t);
    run->dev->ops->gather(run->dev, features, run->scale_maps, run->rows, tokens * scales, width);
}
