/* SPDX-License-Identifier: Apache-2.0
 *
 * Small models with random weights.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "model_fixture.h"

double random_uniform(random_source *r) {
    r->state = r->state * 6364136223846793005u + 1442695040888963407u;
    return (double)(r->state >> 11) / 9007199254740992.0;
}

float random_value(random_source *r, float scale) {
    double sum = 0;
    for (int i = 0; i < 4; i++) sum += random_uniform(r) - 0.5;
    return scale * (float)(sum * 1.7320508);
}

static weight make_weight(llava_model *model, random_source *r, int64_t n_rows, int64_t n_cols,
                          float mean) {
    const size_t count = (size_t)(n_rows * n_cols);
    float *values = arena_array(model->memory, count, sizeof *values);
    assert_non_null(values);
    const float scale = mean != 0 ? 0.1f : 1.2f / sqrtf((float)n_cols);
    for (size_t i = 0; i < count; i++) values[i] = mean + random_value(r, scale);
    if (model->compute == LLAVA_DTYPE_F32) return (weight){LLAVA_DTYPE_F32, n_rows, n_cols, values};
    void *halves = arena_array(model->memory, count, 2);
    assert_non_null(halves);
    tensor_cast(halves, model->compute, values, LLAVA_DTYPE_F32, count);
    return (weight){model->compute, n_rows, n_cols, halves};
}

weight fixture_weight(llava_model *model, random_source *r, int64_t n_rows, int64_t n_cols) {
    return make_weight(model, r, n_rows, n_cols, 0);
}

weight fixture_norm(llava_model *model, random_source *r, int64_t n) {
    return make_weight(model, r, 1, n, 1);
}

static linear_weights make_linear(llava_model *model, random_source *r, int64_t out, int64_t in,
                                  bool bias) {
    linear_weights w = {.w = fixture_weight(model, r, out, in)};
    if (bias) w.b = fixture_weight(model, r, 1, out);
    return w;
}

static norm_weights make_norm(llava_model *model, random_source *r, int64_t n, bool bias) {
    norm_weights norm = {.w = fixture_norm(model, r, n)};
    if (bias) norm.b = fixture_weight(model, r, 1, n);
    return norm;
}

static llava_model *new_model(int n_threads, llava_dtype compute, const char *level) {
    llava_error err = {0};
    llava_model *model = model_new();
    assert_non_null(model);
    model->compute = compute;
    if (device_open_cpu(n_threads, level, &model->dev, &err) != LLAVA_OK)
        fail_msg("%s", err.message);
    model->config = calloc(1, sizeof *model->config);
    assert_non_null(model->config);
    model->config->memory = arena_new();
    return model;
}

static void set_sizes(lm_config *lm, arch a) {
    *lm = (lm_config){.family = family_get(a),
                      .vocab_size = 83,
                      .hidden_size = 40,
                      .intermediate_size = 56,
                      .n_layers = 3,
                      .n_heads = 6,
                      .n_kv_heads = 2,
                      .head_dim = 8,
                      .max_position_embeddings = 64,
                      .rms_norm_eps = 1e-5f,
                      .rope_theta = 10000.0f,
                      .act = ACT_SILU,
                      .max_window_layers = 2};
    if (a == ARCH_LLAMA) lm->attention_bias = lm->mlp_bias = true;
    if (a == ARCH_QWEN2) lm->qkv_bias = true, lm->sliding_window = 5;
    if (a == ARCH_MISTRAL) lm->sliding_window = 3;
    if (a == ARCH_GEMMA) lm->act = ACT_GELU_TANH;
    if (a == ARCH_MPT) {
        lm->act = ACT_GELU;
        lm->n_heads = lm->n_kv_heads = 5;
    }
    if (a == ARCH_MIXTRAL || a == ARCH_QWEN2_MOE) {
        lm->n_experts = 5;
        lm->n_experts_per_token = 2;
        lm->moe_intermediate_size = 24;
        lm->shared_intermediate_size = a == ARCH_QWEN2_MOE ? 36 : 0;
        lm->qkv_bias = a == ARCH_QWEN2_MOE;
    }
}

static expert_weights make_expert(llava_model *model, random_source *r, int64_t inner) {
    const int64_t width = model->config->lm.hidden_size;
    return (expert_weights){fixture_weight(model, r, inner, width),
                            fixture_weight(model, r, inner, width),
                            fixture_weight(model, r, width, inner)};
}

static void fill_mlp(llava_model *model, random_source *r, decoder_layer *layer, bool sparse) {
    const lm_config *lm = &model->config->lm;
    if (!sparse) {
        if (lm->family->arch != ARCH_MPT)
            layer->gate =
                make_linear(model, r, lm->intermediate_size, lm->hidden_size, lm->mlp_bias);
        layer->up = make_linear(model, r, lm->intermediate_size, lm->hidden_size, lm->mlp_bias);
        layer->down = make_linear(model, r, lm->hidden_size, lm->intermediate_size, lm->mlp_bias);
        return;
    }
    layer->router = fixture_weight(model, r, lm->n_experts, lm->hidden_size);
    layer->experts = arena_array(model->memory, (size_t)lm->n_experts, sizeof *layer->experts);
    assert_non_null(layer->experts);
    for (int64_t e = 0; e < lm->n_experts; e++)
        layer->experts[e] = make_expert(model, r, lm->moe_intermediate_size);
    if (lm->shared_intermediate_size == 0) return;
    layer->shared = make_expert(model, r, lm->shared_intermediate_size);
    layer->shared_gate = fixture_weight(model, r, 1, lm->hidden_size);
}

llava_model *fixture_decoder(arch a, int n_threads, llava_dtype compute, const char *level) {
    llava_model *model = new_model(n_threads, compute, level);
    random_source r = {(uint64_t)a + 1};
    lm_config *lm = &model->config->lm;
    set_sizes(lm, a);
    model->n_vocab = model->n_stored_vocab = lm->vocab_size;
    decoder_weights *w = &model->decoder;
    w->embed = fixture_weight(model, &r, lm->vocab_size, lm->hidden_size);
    w->layers = arena_array(model->memory, (size_t)lm->n_layers, sizeof *w->layers);
    assert_non_null(w->layers);
    const int64_t q = lm->n_heads * lm->head_dim, kv = lm->n_kv_heads * lm->head_dim;
    const bool bias = lm->attention_bias || lm->qkv_bias, layer_norm_bias = false;
    for (int64_t l = 0; l < lm->n_layers; l++) {
        decoder_layer *layer = &w->layers[l];
        layer->input_norm = make_norm(model, &r, lm->hidden_size, layer_norm_bias);
        layer->post_norm = make_norm(model, &r, lm->hidden_size, layer_norm_bias);
        layer->q = make_linear(model, &r, q, lm->hidden_size, bias);
        layer->k = make_linear(model, &r, kv, lm->hidden_size, bias);
        layer->v = make_linear(model, &r, kv, lm->hidden_size, bias);
        layer->o = make_linear(model, &r, lm->hidden_size, q, lm->attention_bias);
        /* Qwen2-MoE mixes sparse and dense layers */
        fill_mlp(model, &r, layer, lm->n_experts > 0 && !(a == ARCH_QWEN2_MOE && l == 1));
    }
    w->norm = make_norm(model, &r, lm->hidden_size, layer_norm_bias);
    w->head = a == ARCH_GEMMA || a == ARCH_MPT
                  ? w->embed
                  : fixture_weight(model, &r, lm->vocab_size, lm->hidden_size);
    return model;
}

static void set_tower(llava_config *config, tower_kind kind) {
    config->tower = (tower_config){.kind = kind,
                                   .hidden_size = 48,
                                   .intermediate_size = 60,
                                   .n_layers = 4,
                                   .n_heads = 4,
                                   .image_size = 20,
                                   .patch_size = 5,
                                   .act = kind == TOWER_SIGLIP ? ACT_GELU_TANH : ACT_QUICK_GELU,
                                   .layer_norm_eps = 1e-5f};
    config->mm = (mm_config){.select_layer = -2,
                             .has_select_layer = true,
                             .projector = PROJECTOR_MLP_GELU,
                             .projector_linears = 2,
                             .projector_res = 1,
                             .pool = POOL_AVERAGE,
                             .pool_stride = 2};
}

llava_model *fixture_vision(tower_kind kind, int n_threads) {
    llava_model *model = new_model(n_threads, LLAVA_DTYPE_F32, NULL);
    random_source r = {(uint64_t)kind + 100};
    set_sizes(&model->config->lm, ARCH_LLAMA);
    set_tower(model->config, kind);
    const tower_config *tower = &model->config->tower;
    tower_weights *w = &model->tower;
    const int64_t width = tower->hidden_size, hidden = model->config->lm.hidden_size;
    const int64_t tokens = tower_patches(model) + (kind != TOWER_SIGLIP);
    w->patch = make_linear(model, &r, width, 3 * tower->patch_size * tower->patch_size,
                           kind == TOWER_SIGLIP);
    if (kind != TOWER_SIGLIP) w->class_embedding = fixture_weight(model, &r, 1, width);
    if (kind != TOWER_SIGLIP) w->pre_norm = make_norm(model, &r, width, true);
    if (kind == TOWER_MLCD)
        w->class_pos_emb = fixture_weight(model, &r, 1, width / tower->n_heads / 2);
    else
        w->position_embedding = fixture_weight(model, &r, tokens, width);
    w->n_layers = tower->n_layers - (kind == TOWER_SIGLIP);
    w->layers = arena_array(model->memory, (size_t)w->n_layers, sizeof *w->layers);
    assert_non_null(w->layers);
    for (int64_t l = 0; l < w->n_layers; l++) {
        tower_layer *layer = &w->layers[l];
        layer->norm1 = make_norm(model, &r, width, true);
        layer->norm2 = make_norm(model, &r, width, true);
        linear_weights *square[] = {&layer->q, &layer->k, &layer->v, &layer->out};
        for (int i = 0; i < 4; i++) *square[i] = make_linear(model, &r, width, width, true);
        layer->fc1 = make_linear(model, &r, tower->intermediate_size, width, true);
        layer->fc2 = make_linear(model, &r, width, tower->intermediate_size, true);
    }
    projector_weights *p = &model->projector;
    p->linears[0] = make_linear(model, &r, hidden, width, true);
    p->linears[1] = make_linear(model, &r, hidden, hidden, true);
    p->res[0].norm = make_norm(model, &r, hidden, true);
    p->res[0].fc1 = make_linear(model, &r, hidden, hidden, true);
    p->res[0].fc2 = make_linear(model, &r, hidden, hidden, true);
    model->image_newline = fixture_weight(model, &r, 1, hidden);
    model->faster_token = fixture_weight(model, &r, 1, hidden);
    return model;
}

float *fixture_rows(const llava_model *model, uint64_t seed, int64_t n) {
    random_source r = {seed * 7919 + 13};
    const size_t count = (size_t)(n * model->config->lm.hidden_size);
    float *rows = calloc(count, sizeof *rows);
    assert_non_null(rows);
    for (size_t i = 0; i < count; i++) rows[i] = random_value(&r, 1.0f);
    return rows;
}

double relative_error(const float *a, const double *b, int64_t n) {
    double sum = 0, squares = 0, worst = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += b[i];
        squares += b[i] * b[i];
        worst = fmax(worst, fabs((double)a[i] - b[i]));
        if (!isfinite(a[i])) return INFINITY;
    }
    const double mean = sum / (double)n;
    return worst / sqrt(squares / (double)n - mean * mean);
}
