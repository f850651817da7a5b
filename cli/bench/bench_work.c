/* SPDX-License-Identifier: Apache-2.0
 *
 * What a stage has to compute and to read at least.
 */
#include "bench.h"
#include "model/model_internal.h"

static double size_of(const weight *w) {
    return weight_exists(w) ? (double)w->n_rows * (double)w->n_cols : 0;
}

/* ---------------------------------------------------------------- pictures */

/** Tower inputs that one view becomes: more than one with several scales. */
static double inputs_per_view(const llava_model *model) {
    const mm_config *mm = &model->config->mm;
    if (!mm->s2) return 1;
    double n = 0;
    for (size_t i = 0; i < mm->n_s2_scales; i++) {
        const double side = (double)mm->s2_scales[i] / (double)model->config->tower.image_size;
        n += side * side;
    }
    return n;
}

static double projector_work(const llava_model *model) {
    int64_t tokens, width;
    model_tower_shape(model, &tokens, &width);
    const bool pooler = model->config->mm.projector == PROJECTOR_POOLER;
    double products = 0;
    for (int i = 0; i < PROJECTOR_MAX_LINEARS; i++) {
        products += size_of(&model->projector.linears[i].w);
        products += size_of(&model->projector.res[i].fc1.w);
        products += size_of(&model->projector.res[i].fc2.w);
    }
    return 2 * products * (double)(pooler ? model_projected_tokens(model) : tokens);
}

double bench_tower_work(const llava_model *model, int64_t n_views) {
    const tower_config *tower = &model->config->tower;
    tower_selection selection;
    if (tower_select(model, &selection, NULL) != LLAVA_OK) return 0;
    const double patches = (double)tower_patches(model), width = (double)tower->hidden_size;
    const double tokens = patches + tower_has_class_token(model);
    const double layer =
        2 * tokens * (4 * width * width + 2 * width * (double)tower->intermediate_size) +
        4 * tokens * tokens * width;
    const double input =
        2 * patches * size_of(&model->tower.patch.w) + (double)selection.deepest * layer;
    return (double)n_views * (inputs_per_view(model) * input + projector_work(model));
}

/* ---------------------------------------------------------------- language */

/** Numbers in the weights that one row of a layer is multiplied with. */
static double mlp_size(const lm_config *lm, const decoder_layer *layer) {
    if (!weight_exists(&layer->router))
        return size_of(&layer->gate.w) + size_of(&layer->up.w) + size_of(&layer->down.w);
    const expert_weights *e = &layer->experts[0], *shared = &layer->shared;
    const double expert = size_of(&e->gate) + size_of(&e->up) + size_of(&e->down);
    return size_of(&layer->router) + (double)lm->n_experts_per_token * expert +
           size_of(&shared->gate) + size_of(&shared->up) + size_of(&shared->down) +
           size_of(&layer->shared_gate);
}

double bench_prompt_work(const llava_model *model, int64_t n) {
    const lm_config *lm = &model->config->lm;
    const double rows = (double)n, keys = 0.5 * rows * (rows + 1);
    const double attention = 4 * (double)(lm->n_heads * lm->head_dim);
    double work = 0;
    for (int64_t l = 0; l < lm->n_layers; l++) {
        const decoder_layer *layer = &model->decoder.layers[l];
        const bool last = l + 1 == lm->n_layers; /* only keys and values of the other rows count */
        const double kv = size_of(&layer->k.w) + size_of(&layer->v.w);
        const double rest = size_of(&layer->q.w) + size_of(&layer->o.w) + mlp_size(lm, layer);
        work += 2 * rows * kv + 2 * (last ? 1 : rows) * rest + attention * (last ? rows : keys);
    }
    return work + 2 * size_of(&model->decoder.head);
}

/** Of one number, with its part of the scales. */
static double bytes_each(const weight *w) { return (double)weight_bytes(w) / size_of(w); }

double bench_token_bytes(const llava_model *model, int64_t context) {
    const lm_config *lm = &model->config->lm;
    double n_bytes = (double)weight_bytes(&model->decoder.head);
    for (int64_t l = 0; l < lm->n_layers; l++) {
        const decoder_layer *layer = &model->decoder.layers[l];
        const double size = bytes_each(&layer->q.w);
        n_bytes += size * (size_of(&layer->q.w) + size_of(&layer->k.w) + size_of(&layer->v.w) +
                           size_of(&layer->o.w) + mlp_size(lm, layer));
    }
    return n_bytes + (double)context * (double)kv_bytes_per_token(model);
}

limit_kind bench_arithmetic(const llava_model *model) {
    const char *level = model->dev->level;
    const bool native = strcmp(level, "avx512bf16") == 0 || strcmp(level, "neonbf16") == 0;
    return model->compute == LLAVA_DTYPE_BF16 && native ? LIMIT_BF16 : LIMIT_F32;
}
