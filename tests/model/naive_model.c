/* SPDX-License-Identifier: Apache-2.0
 *
 * The forward pass as plainly as possible: double precision, one row after the other, nothing
 * cached, nothing shared with the code under test.
 */
#include <math.h>
#include <stdlib.h>

#include "model_fixture.h"

double weight_at(const weight *w, int64_t index) {
    float value;
    const size_t size = dtype_size(w->dtype);
    tensor_cast(&value, LLAVA_DTYPE_F32, (const uint8_t *)w->data + (size_t)index * size, w->dtype,
                1);
    return (double)value;
}

double naive_activation(double x, activation act) {
    switch (act) {
    case ACT_SILU: return x / (1 + exp(-x));
    case ACT_GELU: return 0.5 * x * (1 + erf(x / sqrt(2.0)));
    case ACT_GELU_TANH: return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case ACT_QUICK_GELU: return x / (1 + exp(-1.702 * x));
    default: return x;
    }
}

void naive_linear(const weight *w, const weight *b, const double *x, double *y) {
    for (int64_t o = 0; o < w->n_rows; o++) {
        y[o] = b && b->data ? weight_at(b, o) : 0;
        for (int64_t i = 0; i < w->n_cols; i++) y[o] += weight_at(w, o * w->n_cols + i) * x[i];
    }
}

void naive_layernorm(const norm_weights *norm, double eps, const double *x, int64_t n, double *y) {
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < n; i++) mean += x[i] / (double)n;
    for (int64_t i = 0; i < n; i++) variance += (x[i] - mean) * (x[i] - mean) / (double)n;
    for (int64_t i = 0; i < n; i++) {
        y[i] = (x[i] - mean) / sqrt(variance + eps) * weight_at(&norm->w, i);
        if (norm->b.data) y[i] += weight_at(&norm->b, i);
    }
}

static void decoder_norm(const llava_model *model, const norm_weights *norm, const double *x,
                         double *y) {
    const lm_config *lm = &model->config->lm;
    const int64_t n = lm->hidden_size;
    if (lm->family->arch == ARCH_MPT) {
        naive_layernorm(norm, (double)lm->rms_norm_eps, x, n, y);
        return;
    }
    double squares = 0;
    for (int64_t i = 0; i < n; i++) squares += x[i] * x[i];
    const double scale = 1 / sqrt(squares / (double)n + (double)lm->rms_norm_eps);
    const double offset = lm->family->arch == ARCH_GEMMA ? 1 : 0;
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * scale * (weight_at(&norm->w, i) + offset);
}

static void rotate(double *head, int64_t d, double theta, int64_t position) {
    for (int64_t j = 0; j < d / 2; j++) {
        const double angle = (double)position / pow(theta, 2.0 * (double)j / (double)d);
        const double a = head[j], b = head[j + d / 2];
        head[j] = a * cos(angle) - b * sin(angle);
        head[j + d / 2] = b * cos(angle) + a * sin(angle);
    }
}

typedef struct attention_case {
    const double *q, *k, *v; /* [n, heads * d] */
    double *out;
    int64_t n, heads, kv_heads, d;
    bool causal;
    int64_t window; /* 0: none */
    const double *slopes;
} attention_case;

static void naive_attention(const attention_case *c) {
    double *scores = calloc((size_t)c->n, sizeof *scores);
    for (int64_t p = 0; p < c->n; p++)
        for (int64_t h = 0; h < c->heads; h++) {
            const int64_t kv = h / (c->heads / c->kv_heads);
            double total = 0;
            double *out = c->out + (p * c->heads + h) * c->d;
            for (int64_t t = 0; t < c->n; t++) {
                const bool seen = !c->causal || (t <= p && (c->window == 0 || t >= p - c->window));
                double dot = 0;
                for (int64_t i = 0; i < c->d; i++)
                    dot += c->q[(p * c->heads + h) * c->d + i] *
                           c->k[(t * c->kv_heads + kv) * c->d + i];
                dot /= sqrt((double)c->d);
                if (c->slopes) dot += c->slopes[h] * (double)(t - p);
                scores[t] = seen ? exp(dot) : 0;
                total += scores[t];
            }
            for (int64_t i = 0; i < c->d; i++) {
                out[i] = 0;
                for (int64_t t = 0; t < c->n; t++)
                    out[i] += scores[t] / total * c->v[(t * c->kv_heads + kv) * c->d + i];
            }
        }
    free(scores);
}

static void gated_mlp(const expert_weights *w, const double *x, activation act, double scale,
                      double *add_to) {
    double *gate = calloc((size_t)w->gate.n_rows * 2, sizeof *gate), *up = gate + w->gate.n_rows;
    double *down = calloc((size_t)w->down.n_rows, sizeof *down);
    naive_linear(&w->gate, NULL, x, gate);
    naive_linear(&w->up, NULL, x, up);
    for (int64_t i = 0; i < w->gate.n_rows; i++) gate[i] = naive_activation(gate[i], act) * up[i];
    naive_linear(&w->down, NULL, gate, down);
    for (int64_t i = 0; i < w->down.n_rows; i++) add_to[i] += scale * down[i];
    free(gate);
    free(down);
}

static void sparse_mlp(const llava_model *model, const decoder_layer *layer, const double *x,
                       double *h) {
    const lm_config *lm = &model->config->lm;
    double p[16], total = 0, chosen = 0;
    int64_t taken[16];
    naive_linear(&layer->router, NULL, x, p);
    for (int64_t e = 0; e < lm->n_experts; e++) total += p[e] = exp(p[e]);
    for (int64_t j = 0; j < lm->n_experts_per_token; j++) {
        taken[j] = -1;
        for (int64_t e = 0; e < lm->n_experts; e++) {
            bool used = false;
            for (int64_t i = 0; i < j; i++) used = used || taken[i] == e;
            if (!used && (taken[j] < 0 || p[e] > p[taken[j]])) taken[j] = e;
        }
        chosen += p[taken[j]];
    }
    for (int64_t j = 0; j < lm->n_experts_per_token; j++)
        gated_mlp(&layer->experts[taken[j]], x, lm->act,
                  p[taken[j]] / (lm->family->arch == ARCH_MIXTRAL ? chosen : total), h);
    if (!layer->shared_gate.data) return;
    double gate;
    naive_linear(&layer->shared_gate, NULL, x, &gate);
    gated_mlp(&layer->shared, x, lm->act, 1 / (1 + exp(-gate)), h);
}

static void dense_mlp(const llava_model *model, const decoder_layer *layer, const double *x,
                      double *h) {
    const lm_config *lm = &model->config->lm;
    const int64_t inner = lm->intermediate_size;
    double *gate = calloc((size_t)inner * 2, sizeof *gate), *up = gate + inner;
    double *down = calloc((size_t)lm->hidden_size, sizeof *down);
    naive_linear(&layer->up.w, &layer->up.b, x, up);
    if (layer->gate.w.data) {
        naive_linear(&layer->gate.w, &layer->gate.b, x, gate);
        for (int64_t i = 0; i < inner; i++) up[i] *= naive_activation(gate[i], lm->act);
    } else {
        for (int64_t i = 0; i < inner; i++) up[i] = naive_activation(up[i], lm->act);
    }
    naive_linear(&layer->down.w, &layer->down.b, up, down);
    for (int64_t i = 0; i < lm->hidden_size; i++) h[i] += down[i];
    free(gate);
    free(down);
}

/** ALiBi's slopes of 5 heads: eight slopes 2^-1 ... 2^-8, every second from the second on, then
 *  the others. */
static const double five_slopes[] = {1.0 / 4, 1.0 / 16, 1.0 / 64, 1.0 / 256, 1.0 / 2};

static void naive_layer(const llava_model *model, int64_t l, double *h, int64_t n) {
    const lm_config *lm = &model->config->lm;
    const decoder_layer *layer = &model->decoder.layers[l];
    const int64_t width = lm->hidden_size, d = lm->head_dim;
    const int64_t wq = lm->n_heads * d, wkv = lm->n_kv_heads * d;
    double *x = calloc((size_t)(width * 2), sizeof *x), *o = x + width;
    double *q = calloc((size_t)(n * (2 * wq + 2 * wkv)), sizeof *q);
    double *k = q + n * wq, *v = k + n * wkv, *out = v + n * wkv;
    const bool mpt = lm->family->arch == ARCH_MPT;
    for (int64_t p = 0; p < n; p++) {
        decoder_norm(model, &layer->input_norm, h + p * width, x);
        naive_linear(&layer->q.w, &layer->q.b, x, q + p * wq);
        naive_linear(&layer->k.w, &layer->k.b, x, k + p * wkv);
        naive_linear(&layer->v.w, &layer->v.b, x, v + p * wkv);
        for (int64_t i = 0; i < lm->n_heads && !mpt; i++)
            rotate(q + p * wq + i * d, d, (double)lm->rope_theta, p);
        for (int64_t i = 0; i < lm->n_kv_heads && !mpt; i++)
            rotate(k + p * wkv + i * d, d, (double)lm->rope_theta, p);
    }
    const bool windowed = lm->family->arch != ARCH_QWEN2 || l < lm->max_window_layers;
    naive_attention(&(attention_case){q, k, v, out, n, lm->n_heads, lm->n_kv_heads, d, true,
                                      windowed ? lm->sliding_window : 0, mpt ? five_slopes : NULL});
    for (int64_t p = 0; p < n; p++) {
        double *row = h + p * width;
        naive_linear(&layer->o.w, &layer->o.b, out + p * wq, o);
        for (int64_t i = 0; i < width; i++) row[i] += o[i];
        decoder_norm(model, &layer->post_norm, row, x);
        if (layer->router.data)
            sparse_mlp(model, layer, x, row);
        else
            dense_mlp(model, layer, x, row);
    }
    free(x);
    free(q);
}

void naive_decoder(const llava_model *model, const float *rows, int64_t n, double *hidden,
                   double *logits) {
    const lm_config *lm = &model->config->lm;
    const int64_t width = lm->hidden_size, size = n * width;
    const double scale = lm->family->arch == ARCH_GEMMA ? sqrt((double)width) : 1;
    double *h = calloc((size_t)size, sizeof *h);
    for (int64_t i = 0; i < size; i++) h[i] = scale * (double)rows[i];
    for (int64_t l = 0; l <= lm->n_layers; l++) {
        memcpy(hidden + l * size, h, (size_t)size * sizeof *h);
        if (l < lm->n_layers) naive_layer(model, l, h, n);
    }
    for (int64_t p = 0; p < n; p++) {
        double *last = hidden + (lm->n_layers + 1) * size + p * width;
        decoder_norm(model, &model->decoder.norm, h + p * width, last);
        naive_linear(&model->decoder.head, NULL, last, logits + p * model->n_vocab);
    }
    free(h);
}

/* ---------------------------------------------------------------- tower */

static void naive_embed(const llava_model *model, const float *pixels, double *h) {
    const tower_config *t = &model->config->tower;
    const tower_weights *w = &model->tower;
    const int64_t size = t->image_size, patch = t->patch_size, side = size / patch;
    const int64_t width = t->hidden_size, first = t->kind == TOWER_SIGLIP ? 0 : 1;
    for (int64_t y = 0; y < side; y++)
        for (int64_t x = 0; x < side; x++)
            for (int64_t o = 0; o < width; o++) {
                double sum = w->patch.b.data ? weight_at(&w->patch.b, o) : 0;
                for (int64_t c = 0; c < 3; c++)
                    for (int64_t py = 0; py < patch; py++)
                        for (int64_t px = 0; px < patch; px++)
                            sum +=
                                weight_at(&w->patch.w, ((o * 3 + c) * patch + py) * patch + px) *
                                (double)pixels[(c * size + y * patch + py) * size + x * patch + px];
                h[(first + y * side + x) * width + o] = sum;
            }
    for (int64_t o = 0; o < width && first; o++) h[o] = weight_at(&w->class_embedding, o);
    for (int64_t i = 0; i < (first + side * side) * width && w->position_embedding.data; i++)
        h[i] += weight_at(&w->position_embedding, i);
    double *row = calloc((size_t)width, sizeof *row);
    for (int64_t i = 0; i < first + side * side && w->pre_norm.w.data; i++) {
        naive_layernorm(&w->pre_norm, (double)t->layer_norm_eps, h + i * width, width, row);
        memcpy(h + i * width, row, (size_t)width * sizeof *row);
    }
    free(row);
}

/** MLCD: channels j and j + d/2 of a head turn by the same angle; the first d/4 angles follow the
 *  patch's row, the next d/4 its column. */
static void turn_2d(const llava_model *model, int64_t token, double *head) {
    const tower_config *t = &model->config->tower;
    const int64_t d = t->hidden_size / t->n_heads, side = t->image_size / t->patch_size;
    for (int64_t j = 0; j < d / 2; j++) {
        const int64_t place = j < d / 4 ? (token - 1) / side : (token - 1) % side;
        double angle = (double)place * pow(10000.0, -2.0 * (double)(j % (d / 4)) / (double)(d / 2));
        if (token == 0) angle = weight_at(&model->tower.class_pos_emb, j);
        const double a = head[j], b = head[j + d / 2];
        head[j] = a * cos(angle) - b * sin(angle);
        head[j + d / 2] = b * cos(angle) + a * sin(angle);
    }
}

static void naive_tower_layer(const llava_model *model, const tower_layer *layer, double *h,
                              int64_t n) {
    const tower_config *t = &model->config->tower;
    const int64_t width = t->hidden_size, d = width / t->n_heads, size = n * width;
    double *q = calloc((size_t)(4 * size), sizeof *q), *k = q + size, *v = k + size;
    double *out = v + size;
    double *x = calloc((size_t)(2 * width + t->intermediate_size), sizeof *x), *y = x + width;
    double *inner = y + width;
    for (int64_t p = 0; p < n; p++) {
        naive_layernorm(&layer->norm1, (double)t->layer_norm_eps, h + p * width, width, x);
        naive_linear(&layer->q.w, &layer->q.b, x, q + p * width);
        naive_linear(&layer->k.w, &layer->k.b, x, k + p * width);
        naive_linear(&layer->v.w, &layer->v.b, x, v + p * width);
        for (int64_t i = 0; i < t->n_heads && t->kind == TOWER_MLCD; i++) {
            turn_2d(model, p, q + p * width + i * d);
            turn_2d(model, p, k + p * width + i * d);
        }
    }
    naive_attention(&(attention_case){q, k, v, out, n, t->n_heads, t->n_heads, d, false, 0, NULL});
    for (int64_t p = 0; p < n; p++) {
        double *row = h + p * width;
        naive_linear(&layer->out.w, &layer->out.b, out + p * width, y);
        for (int64_t i = 0; i < width; i++) row[i] += y[i];
        naive_layernorm(&layer->norm2, (double)t->layer_norm_eps, row, width, x);
        naive_linear(&layer->fc1.w, &layer->fc1.b, x, inner);
        for (int64_t i = 0; i < t->intermediate_size; i++)
            inner[i] = naive_activation(inner[i], t->act);
        naive_linear(&layer->fc2.w, &layer->fc2.b, inner, y);
        for (int64_t i = 0; i < width; i++) row[i] += y[i];
    }
    free(q);
    free(x);
}

void naive_tower(const llava_model *model, const float *pixels, int64_t state, double *hidden) {
    const int64_t n = tower_patches(model) + (model->config->tower.kind != TOWER_SIGLIP);
    naive_embed(model, pixels, hidden);
    for (int64_t l = 0; l < state; l++)
        naive_tower_layer(model, &model->tower.layers[l], hidden, n);
}
