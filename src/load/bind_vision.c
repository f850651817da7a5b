/* SPDX-License-Identifier: Apache-2.0
 *
 * Names of the vision side's tensors: towers and projectors.
 */
#include <stdio.h>

#include "load_plan.h"

#define NAME_SIZE 96

static void bind_without_bias(binder *b, bind_group group, linear_weights *dst, size2 size,
                              const char *name) {
    char full[NAME_SIZE + 8];
    snprintf(full, sizeof full, "%s.weight", name);
    bind_linear_matrix(b, group, &dst->w, size.height, size.width, full);
}

static void bind_linear(binder *b, bind_group group, linear_weights *dst, size2 size,
                        const char *name) {
    char full[NAME_SIZE + 8];
    bind_without_bias(b, group, dst, size, name);
    snprintf(full, sizeof full, "%s.bias", name);
    bind_vector(b, group, &dst->b, size.height, full);
}

static void bind_norm(binder *b, bind_group group, norm_weights *dst, int64_t width,
                      const char *name) {
    char full[NAME_SIZE + 8];
    snprintf(full, sizeof full, "%s.weight", name);
    bind_vector(b, group, &dst->w, width, full);
    snprintf(full, sizeof full, "%s.bias", name);
    bind_vector(b, group, &dst->b, width, full);
}

/* ---------------------------------------------------------------- towers */

static void bind_tower_layer(binder *b, const tower_config *tower, tower_layer *layer,
                             int64_t index) {
    const int64_t d = tower->hidden_size, inner = tower->intermediate_size;
    const struct {
        linear_weights *dst;
        size2 size; /* inputs, outputs */
        const char *name;
    } linears[] = {
        {&layer->q, {d, d}, "self_attn.q_proj"}, {&layer->k, {d, d}, "self_attn.k_proj"},
        {&layer->v, {d, d}, "self_attn.v_proj"}, {&layer->out, {d, d}, "self_attn.out_proj"},
        {&layer->fc1, {d, inner}, "mlp.fc1"},    {&layer->fc2, {inner, d}, "mlp.fc2"},
    };
    char name[NAME_SIZE];
    for (size_t i = 0; i < LLAVA_COUNT(linears); i++) {
        snprintf(name, sizeof name, "encoder.layers.%lld.%s", (long long)index, linears[i].name);
        bind_linear(b, BIND_TOWER, linears[i].dst, linears[i].size, name);
    }
    for (int i = 1; i <= 2; i++) {
        snprintf(name, sizeof name, "encoder.layers.%lld.layer_norm%d", (long long)index, i);
        bind_norm(b, BIND_TOWER, i == 1 ? &layer->norm1 : &layer->norm2, d, name);
    }
}

/** Nothing here computes with it, but the Python classes have it: convert writes it back. */
static void bind_post_norm(binder *b, norm_weights *dst, int64_t width) {
    bind_entry entry = {
        .group = BIND_TOWER, .dst = &dst->w, .n_dims = 1, .shape = {width}, .optional = true};
    bind_shape(b, &entry, "post_layernorm.weight");
    entry.dst = &dst->b;
    bind_shape(b, &entry, "post_layernorm.bias");
}

void bind_tower(binder *b, llava_model *model) {
    const tower_config *tower = &model->config->tower;
    tower_weights *w = &model->tower;
    const bool siglip = tower->kind == TOWER_SIGLIP;
    const int64_t d = tower->hidden_size, side = tower->image_size / tower->patch_size;
    w->n_layers = config_tower_layers(tower);
    w->layers = arena_array(model->memory, (size_t)w->n_layers, sizeof *w->layers);
    if (!w->layers) {
        b->status = LLAVA_OUT_OF_MEMORY;
        return;
    }
    const bind_entry patch = {.group = BIND_TOWER,
                              .dst = &w->patch.w,
                              .n_dims = 4,
                              .shape = {d, 3, tower->patch_size, tower->patch_size}};
    bind_shape(b, &patch, "embeddings.patch_embedding.weight");
    if (siglip) {
        bind_vector(b, BIND_TOWER, &w->patch.b, d, "embeddings.patch_embedding.bias");
    } else {
        bind_vector(b, BIND_TOWER, &w->class_embedding, d, "embeddings.class_embedding");
        bind_norm(b, BIND_TOWER, &w->pre_norm, d, "pre_layrnorm"); /* the real spelling */
    }
    if (tower->kind == TOWER_MLCD)
        bind_vector(b, BIND_TOWER, &w->class_pos_emb, d / tower->n_heads / 2, "class_pos_emb");
    else
        bind_matrix(b, BIND_TOWER, &w->position_embedding, side * side + !siglip, d,
                    "embeddings.position_embedding.weight");
    for (int64_t i = 0; i < w->n_layers; i++) bind_tower_layer(b, tower, &w->layers[i], i);
    bind_post_norm(b, &w->post_norm, d);
}

/* ---------------------------------------------------------------- projectors */

static void bind_mlp(binder *b, const llava_config *config, projector_weights *w) {
    const mm_config *mm = &config->mm;
    const int64_t width = config->lm.hidden_size;
    char name[NAME_SIZE];
    for (int i = 0; i < mm->projector_linears; i++) {
        const size2 size = {i ? width : mm->mm_hidden_size, width};
        if (mm->native)
            snprintf(name, sizeof name, "linear_%d", i + 1);
        else
            snprintf(name, sizeof name, "%d", 2 * i); /* activations stand between */
        if (mm->projector_without_bias)
            bind_without_bias(b, BIND_PROJECTOR, &w->linears[i], size, name);
        else
            bind_linear(b, BIND_PROJECTOR, &w->linears[i], size, name);
    }
    for (int k = 0; k < mm->projector_res; k++) {
        const int at = 2 * mm->projector_linears - 1 + k;
        snprintf(name, sizeof name, "%d.pre_norm", at);
        bind_norm(b, BIND_PROJECTOR, &w->res[k].norm, width, name);
        snprintf(name, sizeof name, "%d.proj.0", at);
        bind_linear(b, BIND_PROJECTOR, &w->res[k].fc1, (size2){width, width}, name);
        snprintf(name, sizeof name, "%d.proj.2", at);
        bind_linear(b, BIND_PROJECTOR, &w->res[k].fc2, (size2){width, width}, name);
    }
}

static void bind_pooler(binder *b, const llava_config *config, projector_weights *w) {
    const int64_t width = config->lm.hidden_size;
    const bind_entry conv = {.group = BIND_PROJECTOR,
                             .dst = &w->linears[0].w,
                             .n_dims = 4,
                             .shape = {width, config->mm.mm_hidden_size, 2, 2}};
    bind_shape(b, &conv, "conv_pool.weight");
    bind_vector(b, BIND_PROJECTOR, &w->linears[0].b, width, "conv_pool.bias");
    bind_linear(b, BIND_PROJECTOR, &w->linears[1], (size2){width, width}, "proj.1");
}

void bind_projector(binder *b, llava_model *model) {
    const llava_config *config = model->config;
    const int64_t width = config->lm.hidden_size;
    projector_weights *w = &model->projector;
    switch (config->mm.projector) {
    case PROJECTOR_LINEAR:
        bind_linear_matrix(b, BIND_PROJECTOR, &w->linears[0].w, width, config->mm.mm_hidden_size,
                           "weight");
        bind_vector(b, BIND_PROJECTOR, &w->linears[0].b, width, "bias");
        break;
    case PROJECTOR_MLP_GELU: bind_mlp(b, config, w); break;
    case PROJECTOR_POOLER: bind_pooler(b, config, w); break;
    case PROJECTOR_IDENTITY: break;
    }
    if (config->mm.merge_unpad)
        bind_vector(b, BIND_PICTURE, &model->image_newline, width, "image_newline");
    const bind_entry faster = {.group = BIND_PICTURE,
                               .dst = &model->faster_token,
                               .n_dims = 1,
                               .shape = {width},
                               .optional = !config->mm.add_faster_video};
    bind_shape(b, &faster, "faster_token");
}
