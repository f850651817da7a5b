/* SPDX-License-Identifier: Apache-2.0
 *
 * mm_vision_select_layer and mm_vision_select_feature: which hidden states of the tower become
 * features, and how large they are (LLaVA-NeXT, CLIPVisionTower.feature_select).
 */
#include "model_internal.h"

/** Python's index into a list of n: negative ones count from the end. */
static llava_status add_state(tower_selection *s, int64_t index, int64_t n, llava_error *err) {
    const int64_t state = index < 0 ? index + n : index;
    if (state < 0 || state >= n)
        return llava_fail(err, LLAVA_MALFORMED,
                          "mm_vision_select_layer asks for hidden state %lld of a tower with %lld",
                          (long long)index, (long long)n);
    if (s->count == TOWER_MAX_SELECTED)
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "mm_vision_select_feature takes more than %d hidden states",
                          TOWER_MAX_SELECTED);
    s->states[s->count++] = state;
    s->deepest = i64_max(s->deepest, state);
    return LLAVA_OK;
}

/** Every quarter of the tower, moved by the select layer: k + s, 2 k + s, ... */
static llava_status add_quarters(tower_selection *s, int64_t layer, int64_t n, llava_error *err) {
    const int64_t step = n / 4;
    if (step < 1)
        return llava_fail(err, LLAVA_MALFORMED,
                          "slicefour features need a tower of 3 layers or more");
    for (int64_t i = step + layer; i < n; i += step) LLAVA_TRY(add_state(s, i, n, err));
    return LLAVA_OK;
}

static llava_status select_states(const llava_model *model, tower_selection *s, llava_error *err) {
    static const int64_t m25811[] = {-2, -5, -8, -11, 6};
    const mm_config *mm = &model->config->mm;
    const int64_t n = model->config->tower.n_layers + 1, layer = mm->select_layer;
    for (size_t i = 0; i < mm->n_select_layers; i++)
        LLAVA_TRY(add_state(s, mm->select_layers[i], n, err));
    if (mm->n_select_layers > 0) return LLAVA_OK;
    switch (mm->select) {
    case SELECT_M25811_PATCH:
    case SELECT_M25811_CLS_PATCH:
        for (size_t i = 0; i < LLAVA_COUNT(m25811); i++) LLAVA_TRY(add_state(s, m25811[i], n, err));
        return LLAVA_OK;
    case SELECT_SLICEFOUR_PATCH:
    case SELECT_SLICEFOUR_CLS_PATCH: return add_quarters(s, layer, n, err);
    default: return add_state(s, layer, n, err);
    }
}

llava_status tower_select(const llava_model *model, tower_selection *selection, llava_error *err) {
    const mm_config *mm = &model->config->mm;
    const tower_config *tower = &model->config->tower;
    *selection = (tower_selection){0};
    if (tower->kind == TOWER_SIGLIP && !tower->runs_all_layers) {
        /* the reference drops the last layer and ignores both keys */
        return add_state(selection, model->tower.n_layers, model->tower.n_layers + 1, err);
    }
    selection->keep_class = mm->select == SELECT_CLS_PATCH ||
                            mm->select == SELECT_SLICEFOUR_CLS_PATCH ||
                            mm->select == SELECT_M25811_CLS_PATCH;
    if (!mm->has_select_layer)
        return llava_fail(err, LLAVA_MALFORMED, "config.json: mm_vision_select_layer is missing");
    LLAVA_TRY(select_states(model, selection, err));
    if (selection->count == 0)
        return llava_fail(err, LLAVA_MALFORMED,
                          "mm_vision_select_layer %lld leaves no hidden state of the tower",
                          (long long)mm->select_layer);
    if (selection->deepest > model->tower.n_layers)
        return llava_fail(err, LLAVA_MALFORMED, "the tower has %lld layers, %lld are needed",
                          (long long)model->tower.n_layers, (long long)selection->deepest);
    return LLAVA_OK;
}

void model_tower_shape(const llava_model *model, int64_t *tokens, int64_t *width) {
    tower_selection selection;
    *tokens = *width = 0;
    if (model->config->tower.kind == TOWER_NONE ||
        tower_select(model, &selection, NULL) != LLAVA_OK)
        return;
    const bool class_token = tower_has_class_token(model) && selection.keep_class;
    *tokens = tower_patches(model) + class_token;
    *width = model->config->tower.hidden_size * selection.count;
    if (model->config->mm.s2) *width *= (int64_t)model->config->mm.n_s2_scales;
}
