/* SPDX-License-Identifier: Apache-2.0
 *
 * Names of the decoders' tensors: Llama and its relatives, two mixtures of experts, MPT.
 */
#include <stdio.h>

#include "load_plan.h"

#define NAME_SIZE 160

/** Name of a tensor of layer `index` ("model." or "transformer." stand in the group's prefix). */
typedef struct layer_names {
    binder *b;
    const char *root; /* "layers" or "blocks" */
    int64_t index;
} layer_names;

static void layer_matrix(const layer_names *n, weight *dst, int64_t rows, int64_t cols,
                         const char *name) {
    const bind_entry e = {
        .group = BIND_DECODER, .dst = dst, .n_dims = 2, .shape = {rows, cols}, .linear = true};
    bind_shape(n->b, &e, "%s.%lld.%s", n->root, (long long)n->index, name);
}

static void layer_vector(const layer_names *n, weight *dst, int64_t size, const char *name) {
    const bind_entry e = {.group = BIND_DECODER, .dst = dst, .n_dims = 1, .shape = {size}};
    bind_shape(n->b, &e, "%s.%lld.%s", n->root, (long long)n->index, name);
}

static void layer_linear(const layer_names *n, linear_weights *dst, int64_t rows, int64_t cols,
                         const char *name, bool bias) {
    char full[NAME_SIZE + 8];
    snprintf(full, sizeof full, "%s.weight", name);
    layer_matrix(n, &dst->w, rows, cols, full);
    snprintf(full, sizeof full, "%s.bias", name);
    if (bias) layer_vector(n, &dst->b, rows, full);
}

static void bind_attention(const layer_names *n, const lm_config *lm, decoder_layer *layer) {
    const int64_t q = lm->n_heads * lm->head_dim, kv = lm->n_kv_heads * lm->head_dim;
    const int64_t width = lm->hidden_size;
    layer_linear(n, &layer->q, q, width, "self_attn.q_proj", lm->qkv_bias);
    layer_linear(n, &layer->k, kv, width, "self_attn.k_proj", lm->qkv_bias);
    layer_linear(n, &layer->v, kv, width, "self_attn.v_proj", lm->qkv_bias);
    layer_linear(n, &layer->o, width, q, "self_attn.o_proj", lm->attention_bias);
    layer_vector(n, &layer->input_norm.w, width, "input_layernorm.weight");
    layer_vector(n, &layer->post_norm.w, width, "post_attention_layernorm.weight");
}

/** Gate, up and down of one expert; the three names differ between the families. */
static void bind_expert(const layer_names *n, expert_weights *dst, int64_t width, int64_t inner,
                        const char *const names[3]) {
    layer_matrix(n, &dst->gate, inner, width, names[0]);
    layer_matrix(n, &dst->up, inner, width, names[1]);
    layer_matrix(n, &dst->down, width, inner, names[2]);
}

static void bind_experts(const layer_names *n, const lm_config *lm, decoder_layer *layer) {
    const bool mixtral = lm->family->arch == ARCH_MIXTRAL;
    const char *block = mixtral ? "block_sparse_moe" : "mlp";
    static const char *const leaves[2][3] = {{"gate_proj", "up_proj", "down_proj"},
                                             {"w1", "w3", "w2"}};
    char names[3][NAME_SIZE];
    const char *const list[3] = {names[0], names[1], names[2]};
    snprintf(names[0], NAME_SIZE, "%s.gate.weight", block);
    layer_matrix(n, &layer->router, lm->n_experts, lm->hidden_size, names[0]);
    for (int64_t e = 0; e < lm->n_experts; e++) {
        for (int i = 0; i < 3; i++)
            snprintf(names[i], NAME_SIZE, "%s.experts.%lld.%s.weight", block, (long long)e,
                     leaves[mixtral][i]);
        bind_expert(n, &layer->experts[e], lm->hidden_size, lm->moe_intermediate_size, list);
    }
    if (lm->shared_intermediate_size == 0) return;
    for (int i = 0; i < 3; i++)
        snprintf(names[i], NAME_SIZE, "%s.shared_expert.%s.weight", block, leaves[0][i]);
    bind_expert(n, &layer->shared, lm->hidden_size, lm->shared_intermediate_size, list);
    layer_matrix(n, &layer->shared_gate, 1, lm->hidden_size, "mlp.shared_expert_gate.weight");
}

static void bind_layer(binder *b, llava_model *model, int64_t index) {
    const lm_config *lm = &model->config->lm;
    decoder_layer *layer = &model->decoder.layers[index];
    const layer_names n = {b, "layers", index};
    bind_attention(&n, lm, layer);
    if (lm_layer_is_sparse(lm, index)) {
        layer->experts = arena_array(model->memory, (size_t)lm->n_experts, sizeof *layer->experts);
        if (!layer->experts) b->status = LLAVA_OUT_OF_MEMORY;
        if (layer->experts) bind_experts(&n, lm, layer);
        return;
    }
    layer_linear(&n, &layer->gate, lm->intermediate_size, lm->hidden_size, "mlp.gate_proj",
                 lm->mlp_bias);
    layer_linear(&n, &layer->up, lm->intermediate_size, lm->hidden_size, "mlp.up_proj",
                 lm->mlp_bias);
    layer_linear(&n, &layer->down, lm->hidden_size, lm->intermediate_size, "mlp.down_proj",
                 lm->mlp_bias);
}

/** Wqkv's rows are all of q, all of k, all of v. */
static void bind_mpt_layer(binder *b, llava_model *model, int64_t index) {
    const lm_config *lm = &model->config->lm;
    decoder_layer *layer = &model->decoder.layers[index];
    const int64_t width = lm->hidden_size;
    const layer_names n = {b, "blocks", index};
    weight *const parts[3] = {&layer->q.w, &layer->k.w, &layer->v.w};
    for (int i = 0; i < 3; i++) {
        const bind_entry e = {.group = BIND_DECODER,
                              .dst = parts[i],
                              .n_dims = 2,
                              .shape = {3 * width, width},
                              .first_row = i * width,
                              .n_rows = width,
                              .linear = true};
        bind_shape(b, &e, "blocks.%lld.attn.Wqkv.weight", (long long)index);
    }
    layer_linear(&n, &layer->o, width, width, "attn.out_proj", false);
    layer_linear(&n, &layer->up, lm->intermediate_size, width, "ffn.up_proj", false);
    layer_linear(&n, &layer->down, width, lm->intermediate_size, "ffn.down_proj", false);
    layer_vector(&n, &layer->input_norm.w, width, "norm_1.weight");
    layer_vector(&n, &layer->post_norm.w, width, "norm_2.weight");
}

void bind_decoder(binder *b, llava_model *model) {
    const lm_config *lm = &model->config->lm;
    const bool mpt = lm->family->arch == ARCH_MPT;
    decoder_weights *d = &model->decoder;
    d->layers = arena_array(model->memory, (size_t)lm->n_layers, sizeof *d->layers);
    if (!d->layers) {
        b->status = LLAVA_OUT_OF_MEMORY;
        return;
    }
    bind_matrix(b, BIND_DECODER, &d->embed, BIND_ANY, lm->hidden_size,
                mpt ? "wte.weight" : "embed_tokens.weight");
    for (int64_t i = 0; i < lm->n_layers; i++) {
        if (mpt)
            bind_mpt_layer(b, model, i);
        else
            bind_layer(b, model, i);
    }
    bind_vector(b, BIND_DECODER, &d->norm.w, lm->hidden_size,
                mpt ? "norm_f.weight" : "norm.weight");
    if (!lm->tie_word_embeddings)
        bind_linear_matrix(b, BIND_HEAD, &d->head, BIND_ANY, lm->hidden_size, "lm_head.weight");
}
