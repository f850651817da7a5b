/* SPDX-License-Identifier: Apache-2.0
 *
 * Contexts, sessions, and the one engine loop: a step advances every session that has work, as
 * one ragged batch. Also sampling, beams and stopping.
 */
#ifndef LLAVA_GENERATE_H
#define LLAVA_GENERATE_H

#include "base/base.h"
#include "config/config.h"
#include "image/image.h"
#include "model/model.h"
#include "text/text.h"

/* ---------------------------------------------------------------- random numbers */

/** Philox 4x32-10, counter based: the same seed gives the same draws on every machine. */
typedef struct rng {
    uint64_t seed, counter;
} rng;
double rng_uniform(rng *r); /* [0, 1), 53 bits */
/** One block of the generator: ten rounds over the counter under the key. */
void rng_block(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* ---------------------------------------------------------------- sampler */

typedef struct sampler_settings {
    bool do_sample;
    float temperature, top_p, repetition_penalty;
    int64_t top_k; /* 0: off */
    int64_t no_repeat_ngram_size, min_new_tokens;
    int64_t min_keep; /* fewest candidates the filters leave */
} sampler_settings;

/** Processors in place, in the reference's order: repetition penalty, n-grams, minimum length. */
void sampler_process(const sampler_settings *s, float *scores, int64_t n_vocab,
                     const int32_t *generated, size_t n_generated, const int32_t *eos,
                     size_t n_eos);
int32_t sampler_argmax(const float *scores, int64_t n_vocab); /* first maximum */
/** The warpers in place: temperature, top-k, top-p; what they drop becomes -infinity. */
void sampler_filter(const sampler_settings *s, float *scores, int64_t n_vocab, void *work);
/** sampler_filter(), then inverse CDF in vocabulary order. scores is overwritten; work has room
 *  for sampler_work_bytes(n_vocab). */
int32_t sampler_draw(const sampler_settings *s, float *scores, int64_t n_vocab, rng *random,
                     void *work);
size_t sampler_work_bytes(int64_t n_vocab);

/* ---------------------------------------------------------------- the engine */

#define STEP_ROWS 512 /* most rows of one step: prompt chunks and generated rows */

llava_status context_new(const llava_loaded *loaded, const llava_context_options *options,
                         llava_context **out, llava_error *err);
void context_free(llava_context **context);
llava_status session_new(llava_context *context, llava_session **out, llava_error *err);
void session_free(llava_session **session);
llava_status session_feed(llava_session *session, const llava_part *parts, size_t n_parts,
                          llava_error *err);
llava_status session_ask(llava_session *session, const char *template_name,
                         const llava_message *messages, size_t n_messages,
                         const llava_image *const *images, size_t n_images, llava_error *err);
llava_status session_start(llava_session *session, const llava_generate_options *options,
                           llava_error *err);
llava_status context_step(llava_context *context, size_t *n_running, llava_error *err);
llava_status session_generate(llava_session *session, const llava_generate_options *options,
                              const llava_result **result, llava_error *err);
const llava_result *session_result(const llava_session *session);
const float *session_logits(const llava_session *session);
void session_cancel(llava_session *session);

/** Memory a context will take beside the weights: KV, scratch. max_tokens 0: the model's context
 *  length. */
uint64_t context_bytes(const llava_model *model, int64_t max_tokens);

#endif
