/* SPDX-License-Identifier: Apache-2.0
 *
 * Small models with random weights, and the same computation written as plainly as possible in
 * double precision, to hold the forward pass against.
 */
#ifndef LLAVA_MODEL_FIXTURE_H
#define LLAVA_MODEL_FIXTURE_H

#include "model/model.h"
#include "model/model_internal.h"

/** Deterministic values, roughly normal. */
typedef struct random_source {
    uint64_t state;
} random_source;
double random_uniform(random_source *r);
float random_value(random_source *r, float scale);

/** A decoder alone. The arch decides about biases, norms, experts; sizes are small and uneven. */
llava_model *fixture_decoder(arch a, int n_threads, llava_dtype compute, const char *level);
/** A model with a tower, a projector and a decoder without layers. */
llava_model *fixture_vision(tower_kind kind, int n_threads);
/** Random [n_rows, n_cols] owned by the model's arena; norms are around 1. */
weight fixture_weight(llava_model *model, random_source *r, int64_t n_rows, int64_t n_cols);
weight fixture_norm(llava_model *model, random_source *r, int64_t n);

/** Random embeddings [n, hidden_size]; free() them. */
float *fixture_rows(const llava_model *model, uint64_t seed, int64_t n);

/** Everything at once, nothing cached: hidden [n_layers + 2][n][D] and logits [n][n_vocab]. */
void naive_decoder(const llava_model *model, const float *rows, int64_t n, double *hidden,
                   double *logits);
/** Hidden state `state` of one picture: [tokens, D]. */
void naive_tower(const llava_model *model, const float *pixels, int64_t state, double *hidden);
double naive_activation(double x, activation act);
/** y[out] = W x (+ b) */
void naive_linear(const weight *w, const weight *b, const double *x, double *y);
void naive_layernorm(const norm_weights *norm, double eps, const double *x, int64_t n, double *y);
double weight_at(const weight *w, int64_t index);

/** max |a - b| / standard deviation of b. */
double relative_error(const float *a, const double *b, int64_t n);

#endif
