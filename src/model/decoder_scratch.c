/* SPDX-License-Identifier: Apache-2.0
 *
 * Working memory of decoder steps: one allocation on the device, one on the host, made once.
 */
#include <stdlib.h>

#include "model_internal.h"

/** Widest row between the norms and the residual stream. */
static int64_t widest_row(const llava_model *model) {
    const lm_config *lm = &model->config->lm;
    int64_t width = i64_max(lm->hidden_size, lm->intermediate_size);
    if (lm->n_experts > 0)
        width = i64_max(width, i64_max(lm->moe_intermediate_size, lm->shared_intermediate_size));
    return width;
}

static void lay_out_experts(decoder_scratch *s, slab *memory, slab *host) {
    const lm_config *lm = &s->model->config->lm;
    const int64_t rows = lm->n_experts > 0 ? s->max_rows : 0;
    s->router = slab_floats(memory, rows, i64_max(lm->n_experts, 1));
    s->mix = slab_floats(memory, rows, lm->hidden_size);
    s->expert_in = slab_floats(memory, rows, lm->hidden_size);
    s->expert_out = slab_floats(memory, rows, lm->hidden_size);
    s->router_logits = slab_floats(host, rows, i64_max(lm->n_experts, 1));
    s->expert_weight = slab_floats(host, rows, i64_max(lm->n_experts_per_token, 1));
    s->expert_id = slab_take(host, rows, i64_max(lm->n_experts_per_token, 1), sizeof *s->expert_id);
    s->expert_rows = slab_take(host, rows, 1, sizeof *s->expert_rows);
}

static void lay_out(decoder_scratch *s, slab *memory, slab *host) {
    const lm_config *lm = &s->model->config->lm;
    const int64_t rows = s->max_rows, half = lm->head_dim / 2;
    const int64_t wide = widest_row(s->model), blocks = ceil_div(s->max_tokens, KV_BLOCK_TOKENS);
    s->h = slab_floats(memory, rows, lm->hidden_size);
    s->x = slab_floats(memory, rows, lm->hidden_size);
    s->q = slab_floats(memory, rows, lm->n_heads * lm->head_dim);
    s->k = slab_floats(memory, rows, lm->n_kv_heads * lm->head_dim);
    s->v = slab_floats(memory, rows, lm->n_kv_heads * lm->head_dim);
    s->attn = slab_floats(memory, rows, lm->n_heads * lm->head_dim);
    s->gate = slab_floats(memory, rows, wide);
    s->up = slab_floats(memory, rows, wide);
    s->cos = slab_floats(memory, rows, half);
    s->sin = slab_floats(memory, rows, half);
    s->logits = slab_floats(memory, s->max_logit_rows, s->model->n_vocab);
    s->slopes = slab_floats(memory, lm->n_heads, 1);
    s->host_cos = slab_floats(host, rows, half);
    s->host_sin = slab_floats(host, rows, half);
    s->frequencies = slab_floats(host, half, 1);
    s->host_slopes = slab_floats(host, lm->n_heads, 1);
    s->rows = slab_take(host, i64_max(rows, s->max_logit_rows), 1, sizeof *s->rows);
    s->k_blocks = slab_take(host, blocks, 1, sizeof *s->k_blocks);
    s->v_blocks = slab_take(host, blocks, 1, sizeof *s->v_blocks);
    s->items = slab_take(host, s->max_items, 1, sizeof *s->items);
    lay_out_experts(s, memory, host);
}

static decoder_scratch make(const llava_model *model, int64_t max_rows, int64_t max_logit_rows,
                            int64_t max_tokens) {
    return (decoder_scratch){.model = model,
                             .dev = model->dev,
                             .max_rows = max_rows,
                             .max_logit_rows = max_logit_rows,
                             .max_tokens = max_tokens,
                             .max_items = max_rows};
}

size_t decoder_scratch_bytes(const llava_model *model, int64_t max_rows, int64_t max_logit_rows,
                             int64_t max_tokens) {
    decoder_scratch probe = make(model, max_rows, max_logit_rows, max_tokens);
    slab memory = {0}, host = {0};
    lay_out(&probe, &memory, &host);
    size_t total;
    if (memory.overflow || host.overflow || !size_add(memory.used, host.used, &total))
        return SIZE_MAX;
    return total;
}

llava_status decoder_scratch_new(const llava_model *model, int64_t max_rows, int64_t max_logit_rows,
                                 int64_t max_tokens, decoder_scratch **out, llava_error *err) {
    *out = NULL;
    if (max_rows < 1 || max_logit_rows < 0 || max_tokens < 1 || max_rows > INT32_MAX)
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "a decoder step of %lld rows, %lld logits and %lld tokens cannot be made",
                          (long long)max_rows, (long long)max_logit_rows, (long long)max_tokens);
    decoder_scratch *s = array_new(1, sizeof *s);
    if (!s) return llava_fail_memory(err, sizeof *s, "the decoder's working memory");
    *s = make(model, max_rows, max_logit_rows, max_tokens);
    slab memory = {0}, host = {0};
    lay_out(s, &memory, &host);
    if (!memory.overflow && !host.overflow) {
        s->memory = s->dev->ops->alloc(s->dev, memory.used);
        s->host = aligned_new(host.used);
    }
    if (!s->memory || !s->host) {
        decoder_scratch_free(&s);
        return llava_fail_memory(err, memory.used, "the decoder's working memory");
    }
    memory = (slab){.base = s->memory};
    host = (slab){.base = s->host};
    lay_out(s, &memory, &host);
    const lm_config *lm = &model->config->lm;
    alibi_slopes(lm->n_heads, s->host_slopes);
    s->dev->ops->upload(s->dev, s->slopes, s->host_slopes, (size_t)lm->n_heads * sizeof *s->slopes);
    *out = s;
    return LLAVA_OK;
}

void decoder_scratch_free(decoder_scratch **scratch) {
    if (!scratch || !*scratch) return;
    decoder_scratch *s = *scratch;
    if (s->memory) s->dev->ops->release(s->dev, s->memory);
    free(s->host);
    free(s);
    *scratch = NULL;
}
