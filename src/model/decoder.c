/* SPDX-License-Identifier: Apache-2.0
 *
 * One step of the decoder over a ragged batch: Llama, Qwen2, Mistral, Mixtral, Gemma, Qwen2-MoE
 * and MPT. What sets the families apart is in the family table and in which weights exist.
 *
 * Prompt rows use the products' panel form, generated rows the dot form, and the head always the
 * dot form; attention and everything else is row by row. So a row's result does not depend on the
 * other rows of the step, on how a prompt was cut into steps, or on which logits are asked for.
 */
#include <math.h>

#include "model_internal.h"

static bool is_mpt(const llava_model *model) { return model->config->lm.family->arch == ARCH_MPT; }

void decoder_linear(const llava_model *model, const rows_linear *call) {
    linear_args args = {.x = call->x,
                        .n_rows = call->n_panel,
                        .w = call->w,
                        .bias = call->bias && weight_exists(call->bias) ? call->bias : NULL,
                        .act = call->act,
                        .residual = call->residual,
                        .dst = call->dst,
                        .form = LINEAR_PANEL,
                        .bf16_inputs = model->compute == LLAVA_DTYPE_BF16};
    if (call->n_panel > 0) model->dev->ops->linear(model->dev, &args);
    if (call->n == call->n_panel) return;
    args.n_rows = call->n - call->n_panel;
    args.x += call->n_panel * call->w->n_cols;
    args.dst += call->n_panel * call->w->n_rows;
    if (args.residual) args.residual += call->n_panel * call->w->n_rows;
    args.form = LINEAR_DOT;
    model->dev->ops->linear(model->dev, &args);
}

/* ---------------------------------------------------------------- what comes in */

static llava_status check_item(const decoder_scratch *s, const decoder_item *item, size_t index,
                               llava_error *err) {
    if (item->n_rows < 1 || item->n_logits < 0 || item->n_logits > item->n_rows)
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "item %zu of the step has %lld rows and wants %lld logits", index,
                          (long long)item->n_rows, (long long)item->n_logits);
    if (item->n_rows > s->max_tokens - item->seq->n_tokens ||
        item->seq->n_blocks > ceil_div(s->max_tokens, KV_BLOCK_TOKENS))
        return llava_fail(
            err, LLAVA_CONTEXT_FULL, "item %zu of the step reaches %lld tokens, the limit is %lld",
            index, (long long)(item->seq->n_tokens + item->n_rows), (long long)s->max_tokens);
    if (!kv_sequence_has_room(item->seq, item->n_rows))
        return llava_fail(err, LLAVA_INTERNAL,
                          "item %zu of the step has no room reserved for %lld tokens", index,
                          (long long)item->n_rows);
    return LLAVA_OK;
}

/** Places the items' rows: prompts first, then generated ones. */
static llava_status place_items(decoder_run *run, decoder_item *items, llava_error *err) {
    decoder_scratch *s = run->s;
    int64_t n_rows = 0, n_logits = 0, n_placed = 0;
    if (run->n_items > (size_t)s->max_items)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "a step of %zu items, at most %lld fit",
                          run->n_items, (long long)s->max_items);
    for (int generated = 0; generated < 2; generated++) {
        for (size_t i = 0; i < run->n_items; i++) {
            if (items[i].generated != (bool)generated) continue;
            LLAVA_TRY(check_item(s, &items[i], i, err));
            if (items[i].n_rows > s->max_rows - n_rows ||
                items[i].n_logits > s->max_logit_rows - n_logits)
                return llava_fail(err, LLAVA_BAD_ARGUMENT,
                                  "the step's rows or logits exceed the %lld rows and %lld logits "
                                  "its working memory was made for",
                                  (long long)s->max_rows, (long long)s->max_logit_rows);
            s->items[n_placed++] = (step_item){&items[i], n_rows, items[i].n_rows};
            n_rows += items[i].n_rows;
            n_logits += items[i].n_logits;
        }
        if (!generated) run->n_panel = n_rows;
    }
    run->n_rows = n_rows;
    return LLAVA_OK;
}

/** Gemma multiplies whatever enters by sqrt(hidden_size), rounded to the compute type. */
static float embedding_scale(const llava_model *model) {
    const float scale = (float)sqrt((double)model->config->lm.hidden_size);
    switch (model->compute) {
    case LLAVA_DTYPE_BF16: return bf16_to_f32(f32_to_bf16(scale));
    case LLAVA_DTYPE_F16: return f16_to_f32(f32_to_f16(scale));
    default: return scale;
    }
}

static void load_rows(decoder_run *run) {
    decoder_scratch *s = run->s;
    const lm_config *lm = &run->model->config->lm;
    for (size_t i = 0; i < run->n_items; i++)
        s->dev->ops->upload(s->dev, s->h + s->items[i].first * lm->hidden_size,
                            s->items[i].item->rows,
                            (size_t)(s->items[i].n * lm->hidden_size) * sizeof *s->h);
    if (lm->family->scales_embeddings)
        s->dev->ops->scale(s->dev, s->h, run->n_rows * lm->hidden_size,
                           embedding_scale(run->model));
}

/** cos and sin of every row's position. */
static void load_angles(decoder_run *run) {
    decoder_scratch *s = run->s;
    const lm_config *lm = &run->model->config->lm;
    const int64_t half = lm->head_dim / 2;
    if (is_mpt(run->model)) return;
    for (size_t i = 0; i < run->n_items; i++) {
        const step_item *at = &s->items[i];
        const int64_t start = at->item->seq->n_tokens;
        const int64_t length = at->item->rope_length ? at->item->rope_length : start + at->n;
        if (i == 0 || lm->rope == ROPE_DYNAMIC) rope_frequencies(lm, length, s->frequencies);
        for (int64_t r = 0; r < at->n; r++)
            rope_angles(lm, s->frequencies, start + r, s->host_cos + (at->first + r) * half,
                        s->host_sin + (at->first + r) * half);
    }
    const size_t n_bytes = (size_t)(run->n_rows * half) * sizeof *s->cos;
    s->dev->ops->upload(s->dev, s->cos, s->host_cos, n_bytes);
    s->dev->ops->upload(s->dev, s->sin, s->host_sin, n_bytes);
}

/** Copies the rows at this stage to the items that asked for them. */
static void copy_hidden(const decoder_run *run, int64_t stage, const float *rows) {
    const decoder_scratch *s = run->s;
    const int64_t width = run->model->config->lm.hidden_size;
    for (size_t i = 0; i < run->n_items; i++) {
        const step_item *at = &s->items[i];
        if (at->item->hidden && at->item->hidden[stage])
            s->dev->ops->download(s->dev, at->item->hidden[stage], rows + at->first * width,
                                  (size_t)(at->n * width) * sizeof *rows);
    }
}

/* ---------------------------------------------------------------- layers */

static void run_norm(const decoder_run *run, float *dst, const float *src,
                     const norm_weights *norm) {
    const lm_config *lm = &run->model->config->lm;
    const device_ops *ops = run->s->dev->ops;
    const norm_args args = {.x = src,
                            .n_rows = run->n_rows,
                            .w = &norm->w,
                            .bias = &norm->b,
                            .eps = lm->rms_norm_eps,
                            .plus_one = lm->family->norm_plus_one,
                            .dst = dst};
    if (is_mpt(run->model))
        ops->layernorm(run->s->dev, &args);
    else
        ops->rmsnorm(run->s->dev, &args);
}

static void run_linear(const decoder_run *run, float *dst, const float *x, const linear_weights *w,
                       const float *residual) {
    decoder_linear(run->model, &(rows_linear){.dst = dst,
                                              .x = x,
                                              .n = run->n_rows,
                                              .n_panel = run->n_panel,
                                              .w = &w->w,
                                              .bias = &w->b,
                                              .residual = residual});
}

/** Keys and values of all rows, rotated, into the sequences' blocks. */
static void store_keys_values(decoder_run *run, int64_t l, const decoder_layer *layer) {
    decoder_scratch *s = run->s;
    const lm_config *lm = &run->model->config->lm;
    const int64_t width = lm->n_kv_heads * lm->head_dim;
    run_linear(run, s->k, run->x, &layer->k, NULL);
    run_linear(run, s->v, run->x, &layer->v, NULL);
    if (!is_mpt(run->model))
        s->dev->ops->rope(s->dev, s->k, width, run->n_rows, lm->n_kv_heads, lm->head_dim, s->cos,
                          s->sin);
    for (size_t i = 0; i < run->n_items; i++) {
        const step_item *at = &s->items[i];
        kv_store_args args = {.x = s->k + at->first * width,
                              .x_stride = width,
                              .n_rows = at->n,
                              .n_kv_heads = lm->n_kv_heads,
                              .head_dim = lm->head_dim,
                              .first_position = at->item->seq->n_tokens};
        kv_view values;
        kv_sequence_views(at->item->seq, l, s->k_blocks, s->v_blocks, &args.view, &values);
        s->dev->ops->kv_store(s->dev, &args);
        args.x = s->v + at->first * width;
        args.view = values;
        s->dev->ops->kv_store(s->dev, &args);
    }
}

/** Makes rows list[0 .. n) the only ones carried: residual stream, normalised rows, rotations. */
static void keep_rows(decoder_run *run, const int32_t *list, int64_t n) {
    decoder_scratch *s = run->s;
    const lm_config *lm = &run->model->config->lm;
    const device_ops *ops = s->dev->ops;
    const int64_t width = lm->hidden_size, half = lm->head_dim / 2;
    const size_t row_bytes = (size_t)half * sizeof(float);
    /* through the MLP's buffer, which is free here; h and x change places */
    ops->gather(s->dev, s->gate, run->x, list, n, width);
    ops->gather(s->dev, run->x, run->h, list, n, width);
    for (int64_t i = 0; i < n; i++) { /* ascending, so nothing is overwritten before it moved */
        memmove(s->host_cos + i * half, s->host_cos + list[i] * half, row_bytes);
        memmove(s->host_sin + i * half, s->host_sin + list[i] * half, row_bytes);
        s->rows[i] = (int32_t)i;
    }
    ops->gather(s->dev, run->h, s->gate, s->rows, n, width);
    float *swap = run->h;
    run->h = run->x;
    run->x = swap;
    if (is_mpt(run->model)) return;
    ops->upload(s->dev, s->cos, s->host_cos, (size_t)n * row_bytes);
    ops->upload(s->dev, s->sin, s->host_sin, (size_t)n * row_bytes);
}

/** Behind the last layer's keys and values only rows go on whose logits or hidden states somebody
 *  asked for: the last n_logits of an item, or all. */
static void drop_unneeded_rows(decoder_run *run) {
    decoder_scratch *s = run->s;
    const int64_t n_before = run->n_rows;
    run->n_rows = run->n_panel = 0;
    for (size_t i = 0; i < run->n_items; i++) {
        step_item *at = &s->items[i];
        const int64_t needed = at->item->hidden ? at->n : at->item->n_logits;
        const int64_t first = at->first + at->n - needed;
        for (int64_t r = 0; r < needed; r++) s->rows[run->n_rows + r] = (int32_t)(first + r);
        *at = (step_item){at->item, run->n_rows, needed};
        run->n_rows += needed;
        if (!at->item->generated) run->n_panel = run->n_rows;
    }
    if (run->n_rows > 0 && run->n_rows < n_before) keep_rows(run, s->rows, run->n_rows);
}

static int64_t window_of_layer(const lm_config *lm, int64_t l) {
    if (lm->family->window_needs_flag && l >= lm->max_window_layers) return 0;
    return lm->sliding_window;
}

/** h += o(attention(q, keys, values)). */
static void attend(decoder_run *run, int64_t l, const decoder_layer *layer) {
    decoder_scratch *s = run->s;
    const lm_config *lm = &run->model->config->lm;
    const int64_t width = lm->n_heads * lm->head_dim;
    const bool mpt = is_mpt(run->model);
    run_linear(run, s->q, run->x, &layer->q, NULL);
    if (!mpt)
        s->dev->ops->rope(s->dev, s->q, width, run->n_rows, lm->n_heads, lm->head_dim, s->cos,
                          s->sin);
    for (size_t i = 0; i < run->n_items; i++) {
        const step_item *at = &s->items[i];
        if (at->n == 0) continue;
        const int64_t end = at->item->seq->n_tokens + at->item->n_rows;
        attention_args args = {.q = s->q + at->first * width,
                               .q_stride = width,
                               .dst = s->attn + at->first * width,
                               .n_rows = at->n,
                               .n_heads = lm->n_heads,
                               .n_kv_heads = lm->n_kv_heads,
                               .head_dim = lm->head_dim,
                               .first_position = end - at->n,
                               .n_keys = end,
                               .causal = true,
                               .window = window_of_layer(lm, l),
                               .scale = 1.0f / sqrtf((float)lm->head_dim),
                               .alibi_slopes = mpt ? s->slopes : NULL,
                               .form = at->item->generated ? LINEAR_DOT : LINEAR_PANEL,
                               .bf16_inputs = run->model->compute == LLAVA_DTYPE_BF16};
        kv_sequence_views(at->item->seq, l, s->k_blocks, s->v_blocks, &args.k, &args.v);
        s->dev->ops->attention(s->dev, &args);
    }
    run_linear(run, run->h, s->attn, &layer->o, run->h);
}

/** h += mlp(x). A layer without a gate has a plain MLP (MPT). */
static void run_mlp(decoder_run *run, const decoder_layer *layer) {
    decoder_scratch *s = run->s;
    const lm_config *lm = &run->model->config->lm;
    if (weight_exists(&layer->gate.w)) {
        run_linear(run, s->gate, run->x, &layer->gate, NULL);
        run_linear(run, s->up, run->x, &layer->up, NULL);
        s->dev->ops->gated(s->dev, s->gate, s->gate, s->up, run->n_rows * layer->gate.w.n_rows,
                           lm->act);
    } else {
        decoder_linear(run->model, &(rows_linear){.dst = s->gate,
                                                  .x = run->x,
                                                  .n = run->n_rows,
                                                  .n_panel = run->n_panel,
                                                  .w = &layer->up.w,
                                                  .bias = &layer->up.b,
                                                  .act = lm->act});
    }
    run_linear(run, run->h, s->gate, &layer->down, run->h);
}

static void run_layer(decoder_run *run, int64_t l) {
    const decoder_layer *layer = &run->model->decoder.layers[l];
    run_norm(run, run->x, run->h, &layer->input_norm);
    store_keys_values(run, l, layer);
    if (l + 1 == run->model->config->lm.n_layers) drop_unneeded_rows(run);
    if (run->n_rows == 0) return;
    attend(run, l, layer);
    run_norm(run, run->x, run->h, &layer->post_norm);
    if (weight_exists(&layer->router))
        experts_forward(run, layer);
    else
        run_mlp(run, layer);
    copy_hidden(run, l + 1, run->h);
}

/* ---------------------------------------------------------------- what goes out */

/** Ids beyond the stored rows can never be chosen. */
static void exclude_missing(const llava_model *model, float *logits, int64_t n) {
    const int64_t stored =
        i64_min(i64_min(model->n_stored_vocab, model->decoder.head.n_rows), model->n_vocab);
    for (int64_t i = 0; i < n; i++)
        for (int64_t v = stored; v < model->n_vocab; v++)
            logits[i * model->n_vocab + v] = -INFINITY;
}

/** Final norm, then the head for the rows whose logits are asked for. */
static void run_head(decoder_run *run) {
    decoder_scratch *s = run->s;
    const llava_model *model = run->model;
    const int64_t width = model->config->lm.hidden_size;
    int64_t n = 0, done = 0;
    run_norm(run, run->x, run->h, &model->decoder.norm);
    copy_hidden(run, model->config->lm.n_layers + 1, run->x);
    for (size_t i = 0; i < run->n_items; i++) {
        const step_item *at = &s->items[i];
        const int64_t first = at->first + at->n - at->item->n_logits;
        for (int64_t r = 0; r < at->item->n_logits; r++) s->rows[n++] = (int32_t)(first + r);
    }
    if (n == 0) return;
    weight head = model->decoder.head;
    head.n_rows = i64_min(head.n_rows, model->n_vocab);
    s->dev->ops->gather(s->dev, run->h, run->x, s->rows, n, width);
    decoder_linear(model, &(rows_linear){.dst = s->logits, .x = run->h, .n = n, .w = &head});
    for (size_t i = 0; i < run->n_items; i++) {
        const decoder_item *item = s->items[i].item;
        for (int64_t r = 0; r < item->n_logits; r++)
            s->dev->ops->download(s->dev, item->logits + r * model->n_vocab,
                                  s->logits + done++ * head.n_rows,
                                  (size_t)head.n_rows * sizeof *s->logits);
        exclude_missing(model, item->logits, item->n_logits);
    }
}

llava_status decoder_step(const llava_model *model, decoder_scratch *scratch, decoder_item *items,
                          size_t n_items, llava_error *err) {
    decoder_run run = {.model = model, .s = scratch, .n_items = n_items};
    LLAVA_TRY(place_items(&run, items, err));
    if (n_items == 0) return LLAVA_OK;
    run.h = scratch->h;
    run.x = scratch->x;
    load_rows(&run);
    load_angles(&run);
    copy_hidden(&run, 0, run.h);
    for (int64_t l = 0; l < model->config->lm.n_layers; l++) run_layer(&run, l);
    if (run.n_rows > 0) run_head(&run);
    for (size_t i = 0; i < n_items; i++) items[i].seq->n_tokens += items[i].n_rows;
    return LLAVA_OK;
}
