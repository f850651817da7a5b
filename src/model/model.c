/* SPDX-License-Identifier: Apache-2.0
 *
 * Making and freeing a model, token embeddings, and the one product the vision side uses.
 */
#include <stdlib.h>

#include "model_internal.h"

#define SLAB_ALIGNMENT ((size_t)64)

void *slab_take(slab *s, int64_t rows, int64_t cols, size_t element_size) {
    size_t n_bytes = 0, end = 0;
    if (rows < 0 || cols < 0 || !size_mul((size_t)rows, (size_t)cols, &n_bytes) ||
        !size_mul(n_bytes, element_size, &n_bytes) ||
        !size_add(n_bytes, SLAB_ALIGNMENT - 1, &n_bytes) ||
        !size_add(s->used, n_bytes / SLAB_ALIGNMENT * SLAB_ALIGNMENT, &end)) {
        s->overflow = true;
        return NULL;
    }
    void *piece = s->base ? s->base + s->used : NULL;
    s->used = end;
    return piece;
}

activations slab_activations(slab *s, int64_t rows, int64_t dim, bool bf16) {
    if (!bf16) return (activations){.f32 = slab_floats(s, rows, dim)};
    return (activations){.bf16 = slab_take(s, rows, bf16_row_stride(dim), sizeof(uint16_t))};
}

llava_model *model_new(void) {
    llava_model *model = array_new(1, sizeof *model);
    if (!model) return NULL;
    model->memory = arena_new();
    if (!model->memory) model_free(&model);
    return model;
}

void model_free(llava_model **model) {
    if (!model || !*model) return;
    llava_model *m = *model;
    for (size_t i = 0; i < m->n_owned; i++) {
        if (m->dev)
            m->dev->ops->release(m->dev, m->owned[i]);
        else
            free(m->owned[i]);
    }
    free(m->owned);
    for (size_t i = 0; i < LLAVA_COUNT(m->files); i++) checkpoint_close(&m->files[i]);
    adapter_close(&m->overlay);
    device_close(&m->dev);
    config_free(&m->config);
    arena_free(&m->memory);
    free(m);
    *model = NULL;
}

void model_linear(const llava_model *model, const panel_linear *call) {
    const linear_args args = {
        .x = call->x.f32,
        .x_bf16 = call->x.bf16,
        .n_rows = call->n,
        .w = &call->w->w,
        .bias = weight_exists(&call->w->b) ? &call->w->b : NULL,
        .act = call->act,
        .residual = call->residual,
        .dst = call->dst.f32,
        .dst_bf16 = call->dst.bf16,
        .form = LINEAR_PANEL,
        .bf16_inputs = model->compute == LLAVA_DTYPE_BF16,
    };
    model->dev->ops->linear(model->dev, &args);
}

llava_status model_embed_tokens(const llava_model *model, const int32_t *tokens, int64_t n,
                                float *rows, llava_error *err) {
    const weight *table = &model->decoder.embed;
    for (int64_t i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= model->n_vocab)
            return llava_fail(err, LLAVA_BAD_ARGUMENT,
                              "token %lld is %d, expected an id below %lld", (long long)i,
                              (int)tokens[i], (long long)model->n_vocab);
    for (int64_t i = 0, end; i < n; i = end) {
        const bool stored = tokens[i] < table->n_rows;
        for (end = i + 1; end < n && (tokens[end] < table->n_rows) == stored; end++) {
        }
        float *dst = rows + i * table->n_cols;
        if (stored)
            model->dev->ops->embed(model->dev, dst, table, tokens + i, end - i);
        else
            memset(dst, 0, (size_t)(end - i) * (size_t)table->n_cols * sizeof *dst);
    }
    return LLAVA_OK;
}
