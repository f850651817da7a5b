/* SPDX-License-Identifier: Apache-2.0
 *
 * Beam search for one sequence: the bookkeeping of transformers 4.40's BeamSearchScorer and
 * BeamHypotheses, without the model.
 */
#ifndef LLAVA_GENERATE_BEAMS_H
#define LLAVA_GENERATE_BEAMS_H

#include "base/base.h"
#include "generate.h"

#define BEAMS_MAX 64

typedef struct beam_settings {
    int n_beams;
    int64_t n_vocab;
    int64_t max_new_tokens;
    float length_penalty;
    int early_stopping; /* 0 false, 1 true, 2 "never" */
    sampler_settings sampler;
    const int32_t *eos; /* borrowed; the first one is appended at the end */
    size_t n_eos;
    const int32_t *prefix; /* ids the processors see in front of the generated ones */
    size_t n_prefix;
} beam_settings;

/** A finished or running sequence. ids hold the prefix, too. */
typedef struct beam_hypothesis {
    double score; /* sum of log-probabilities / length^length_penalty */
    int32_t *ids;
    size_t n_ids;
    bool ended; /* by an EOS id, which is not among ids */
} beam_hypothesis;

typedef struct beam_candidate {
    float score;
    int32_t beam, id;
} beam_candidate;

typedef struct beam_search {
    beam_settings settings;
    size_t n_ids;              /* of each running beam, prefix included */
    size_t stride;             /* ids per beam */
    int32_t *ids, *next_ids;   /* [n_beams, stride] */
    float sums[BEAMS_MAX];     /* cumulative log-probabilities */
    int32_t source[BEAMS_MAX]; /* the beam each one continues, set by beam_search_step() */
    beam_hypothesis *heap;     /* in order of insertion; room for one more than n_beams */
    size_t n_heap;
    double worst;
    beam_candidate *candidates;
    size_t n_candidates;
    bool done;
} beam_search;

llava_status beam_search_new(const beam_settings *settings, beam_search **out, llava_error *err);
void beam_search_free(beam_search **search);

/** One step. scores [n_beams, n_vocab] are the logits of each beam, overwritten; work has
 *  sampler_work_bytes(n_vocab). Sets source and appends an id to each beam, unless done. */
void beam_search_step(beam_search *search, float *scores, rng *random, void *work);
/** Last id of a running beam. */
int32_t beam_search_last(const beam_search *search, int beam);
/** Takes the running beams into account and returns the best. Its ids are without the prefix; an
 *  EOS id is appended where it fits. best_ids has room for max_new_tokens. */
void beam_search_finish(beam_search *search, int32_t *best_ids, size_t *n_ids, double *score,
                        bool *ended);

/** log(softmax(x)) in place; exposed for tests. */
void log_softmax(float *x, int64_t n);

#endif
