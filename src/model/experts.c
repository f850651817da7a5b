/* SPDX-License-Identifier: Apache-2.0
 *
 * Mixture of experts (transformers 4.40, MixtralSparseMoeBlock and Qwen2MoeSparseMoeBlock): each
 * row goes through the k experts its router likes best. The rows of one expert are gathered, run
 * as one product, and added back; experts in ascending order, so a row's sum does not depend on
 * its neighbours.
 */
#include <math.h>

#include "model_internal.h"

void experts_route(const float *logits, int64_t n, int64_t k, bool renormalise, int32_t *ids,
                   float *weights) {
    float highest = logits[0], total = 0, chosen = 0;
    for (int64_t i = 1; i < n; i++) highest = fmaxf(highest, logits[i]);
    for (int64_t i = 0; i < n; i++) total += expf(logits[i] - highest);
    for (int64_t j = 0; j < k; j++) {
        /* the softmax is monotonic: the next largest logit after the ones taken */
        int64_t best = -1;
        for (int64_t i = 0; i < n; i++) {
            const bool after = j == 0 || logits[i] < logits[ids[j - 1]] ||
                               (logits[i] == logits[ids[j - 1]] && i > ids[j - 1]);
            if (after && (best < 0 || logits[i] > logits[best])) best = i;
        }
        if (best < 0) best = j; /* only NaN is left to choose from */
        ids[j] = (int32_t)best;
        weights[j] = expf(logits[best] - highest) / total;
        chosen += weights[j];
    }
    if (renormalise)
        for (int64_t j = 0; j < k; j++) weights[j] /= chosen;
}

/** dst = down(act(gate(x)) * up(x)) for n rows, the first n_panel of them prompt rows. */
static void run_expert(const decoder_run *run, const expert_weights *w, const rows_linear *io) {
    decoder_scratch *s = run->s;
    const lm_config *lm = &run->model->config->lm;
    rows_linear call = *io;
    call.dst = s->gate;
    call.w = &w->gate;
    decoder_linear(run->model, &call);
    call.dst = s->up;
    call.w = &w->up;
    decoder_linear(run->model, &call);
    s->dev->ops->gated(s->dev, s->gate, s->gate, s->up, io->n * w->gate.n_rows, lm->act);
    call = *io;
    call.x = s->gate;
    call.w = &w->down;
    decoder_linear(run->model, &call);
}

/** s->mix += the rows of expert e, times their weights. */
static void add_expert(decoder_run *run, const expert_weights *w, int32_t e) {
    decoder_scratch *s = run->s;
    const int64_t k = run->model->config->lm.n_experts_per_token;
    const int64_t width = run->model->config->lm.hidden_size;
    int64_t n = 0, n_panel = 0;
    for (int64_t i = 0; i < run->n_rows; i++)
        for (int64_t j = 0; j < k; j++)
            if (s->expert_id[i * k + j] == e) {
                s->expert_rows[n++] = (int32_t)i;
                n_panel += i < run->n_panel;
                break;
            }
    if (n == 0) return;
    s->dev->ops->gather(s->dev, s->expert_in, run->x, s->expert_rows, n, width);
    run_expert(run, w,
               &(rows_linear){.dst = s->expert_out, .x = s->expert_in, .n = n, .n_panel = n_panel});
    for (int64_t r = 0; r < n; r++) {
        const int64_t i = s->expert_rows[r];
        float weight_of_row = 0;
        for (int64_t j = 0; j < k; j++)
            if (s->expert_id[i * k + j] == e) weight_of_row = s->expert_weight[i * k + j];
        s->dev->ops->add_scaled(s->dev, s->mix + i * width, s->expert_out + r * width, width,
                                weight_of_row);
    }
}

/** s->mix += sigmoid(x . shared_gate) * shared(x). */
static void add_shared(decoder_run *run, const decoder_layer *layer) {
    decoder_scratch *s = run->s;
    const int64_t width = run->model->config->lm.hidden_size;
    rows_linear call = {.dst = s->router,
                        .x = run->x,
                        .n = run->n_rows,
                        .n_panel = run->n_panel,
                        .w = &layer->shared_gate,
                        .act = ACT_SIGMOID};
    decoder_linear(run->model, &call);
    s->dev->ops->download(s->dev, s->router_logits, s->router,
                          (size_t)run->n_rows * sizeof *s->router);
    call.dst = s->expert_out;
    call.act = ACT_NONE;
    run_expert(run, &layer->shared, &call);
    for (int64_t i = 0; i < run->n_rows; i++)
        s->dev->ops->add_scaled(s->dev, s->mix + i * width, s->expert_out + i * width, width,
                                s->router_logits[i]);
}

void experts_forward(decoder_run *run, const decoder_layer *layer) {
    decoder_scratch *s = run->s;
    const lm_config *lm = &run->model->config->lm;
    const int64_t n = lm->n_experts, k = lm->n_experts_per_token, rows = run->n_rows;
    const bool renormalise = lm->norm_topk_prob || lm->family->arch == ARCH_MIXTRAL;
    decoder_linear(run->model, &(rows_linear){.dst = s->router,
                                              .x = run->x,
                                              .n = rows,
                                              .n_panel = run->n_panel,
                                              .w = &layer->router});
    s->dev->ops->download(s->dev, s->router_logits, s->router,
                          (size_t)(rows * n) * sizeof *s->router);
    for (int64_t i = 0; i < rows; i++)
        experts_route(s->router_logits + i * n, n, k, renormalise, s->expert_id + i * k,
                      s->expert_weight + i * k);
    for (int64_t i = 0; i < rows; i++) s->rows[i] = -1; /* zeros */
    s->dev->ops->gather(s->dev, s->mix, run->x, s->rows, rows, lm->hidden_size);
    for (int64_t e = 0; e < n; e++) add_expert(run, &layer->experts[e], (int32_t)e);
    if (weight_exists(&layer->shared_gate)) add_shared(run, layer);
    s->dev->ops->add_scaled(s->dev, run->h, s->mix, rows * lm->hidden_size, 1.0f);
}
