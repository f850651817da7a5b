/* SPDX-License-Identifier: Apache-2.0
 *
 * Beam search, after transformers 4.40: BeamSearchScorer.process() and finalize(),
 * BeamHypotheses.add() and is_done(), and the loops beam_search() and beam_sample().
 */
#include <math.h>
#include <stdlib.h>

#include "beams.h"

#define UNLIKELY (-1e9f) /* sum of all beams but the first before the first step */

static llava_status allocate(beam_search *search, llava_error *err) {
    const beam_settings *s = &search->settings;
    const size_t n_beams = (size_t)s->n_beams;
    size_t stride, total;
    if (!size_add(s->n_prefix, (size_t)s->max_new_tokens + 1, &stride) ||
        !size_mul(stride, n_beams, &total))
        return llava_fail_memory(err, SIZE_MAX, "beams");
    search->stride = stride;
    search->n_candidates = n_beams * (s->n_eos + 1 > 2 ? s->n_eos + 1 : 2);
    search->ids = array_new(total, sizeof *search->ids);
    search->next_ids = array_new(total, sizeof *search->next_ids);
    search->heap = array_new(n_beams + 1, sizeof *search->heap);
    search->candidates = array_new(search->n_candidates, sizeof *search->candidates);
    bool complete = search->ids && search->next_ids && search->heap && search->candidates;
    for (size_t i = 0; complete && i < n_beams + 1; i++) {
        search->heap[i].ids = array_new(stride, sizeof *search->heap[i].ids);
        complete = search->heap[i].ids != NULL;
    }
    return complete ? LLAVA_OK : llava_fail_memory(err, total * 3 * sizeof(int32_t), "beams");
}

llava_status beam_search_new(const beam_settings *settings, beam_search **out, llava_error *err) {
    beam_search *search = array_new(1, sizeof *search);
    if (!search) return llava_fail_memory(err, sizeof *search, "a beam search");
    search->settings = *settings;
    const llava_status status = allocate(search, err);
    if (status != LLAVA_OK) {
        beam_search_free(&search);
        return status;
    }
    /* a processor that looks at ids sees the prefix; nothing else does */
    for (int beam = 0; beam < settings->n_beams; beam++) {
        if (settings->n_prefix > 0)
            memcpy(search->ids + (size_t)beam * search->stride, settings->prefix,
                   settings->n_prefix * sizeof *search->ids);
        search->sums[beam] = beam == 0 || settings->sampler.do_sample ? 0.0f : UNLIKELY;
    }
    search->settings.prefix = NULL;
    search->n_ids = settings->n_prefix;
    search->worst = 1e9;
    *out = search;
    return LLAVA_OK;
}

void beam_search_free(beam_search **search) {
    beam_search *s = *search;
    if (!s) return;
    for (size_t i = 0; s->heap && i < (size_t)s->settings.n_beams + 1; i++) free(s->heap[i].ids);
    free(s->heap);
    free(s->ids);
    free(s->next_ids);
    free(s->candidates);
    free(s);
    *search = NULL;
}

void log_softmax(float *x, int64_t n) {
    const float top = x[sampler_argmax(x, n)];
    if (!isfinite(top)) return;
    double total = 0;
    for (int64_t i = 0; i < n; i++)
        if (x[i] > -INFINITY) total += exp((double)x[i] - top);
    if (total <= 0) return;
    const float log_total = (float)log(total);
    for (int64_t i = 0; i < n; i++) x[i] = x[i] - top - log_total;
}

/* ---------------------------------------------------------------- candidates */

/** The n largest of all scores, descending; of equal ones the earlier first. */
static void take_best(beam_search *search, const float *scores) {
    const beam_settings *s = &search->settings;
    beam_candidate *best = search->candidates;
    size_t count = 0;
    for (int32_t beam = 0; beam < s->n_beams; beam++) {
        const float *row = scores + (int64_t)beam * s->n_vocab;
        for (int64_t id = 0; id < s->n_vocab; id++) {
            const float score = row[id];
            if (count == search->n_candidates && !(score > best[count - 1].score)) continue;
            size_t place = count < search->n_candidates ? count++ : count - 1;
            for (; place > 0 && score > best[place - 1].score; place--)
                best[place] = best[place - 1];
            best[place] = (beam_candidate){score, beam, (int32_t)id};
        }
    }
    search->n_candidates = count;
}

/** Removes one of the remaining candidates at random, weighted by exp(score). */
static bool draw_one(const beam_settings *s, float *scores, float top, rng *random,
                     beam_candidate *drawn) {
    const int64_t count = s->n_beams * s->n_vocab;
    double total = 0;
    for (int64_t i = 0; i < count; i++)
        if (scores[i] > -INFINITY) total += exp((double)scores[i] - top);
    const double target = rng_uniform(random) * total;
    double sum = 0;
    int64_t chosen = -1;
    for (int64_t i = 0; i < count && (chosen < 0 || sum <= target); i++) {
        if (!(scores[i] > -INFINITY)) continue;
        sum += exp((double)scores[i] - top);
        chosen = i;
    }
    if (chosen < 0) return false;
    *drawn = (beam_candidate){scores[chosen], (int32_t)(chosen / s->n_vocab),
                              (int32_t)(chosen % s->n_vocab)};
    scores[chosen] = -INFINITY;
    return true;
}

/** 2 n_beams draws without replacement, then sorted descending. */
static void draw_candidates(beam_search *search, float *scores, rng *random) {
    const beam_settings *s = &search->settings;
    float top = -INFINITY;
    for (int64_t i = 0; i < s->n_beams * s->n_vocab; i++)
        if (scores[i] > top) top = scores[i];
    size_t count = 0;
    beam_candidate drawn;
    const size_t wanted = 2 * (size_t)s->n_beams;
    while (count < wanted && draw_one(s, scores, top, random, &drawn)) {
        size_t place = count++;
        for (; place > 0 && drawn.score > search->candidates[place - 1].score; place--)
            search->candidates[place] = search->candidates[place - 1];
        search->candidates[place] = drawn;
    }
    search->n_candidates = count;
}

/* ---------------------------------------------------------------- hypotheses */

static void drop_lowest(beam_search *search) {
    size_t lowest = 0;
    for (size_t i = 1; i < search->n_heap; i++)
        if (search->heap[i].score < search->heap[lowest].score) lowest = i;
    const beam_hypothesis dropped = search->heap[lowest];
    search->n_heap--;
    for (size_t i = lowest; i < search->n_heap; i++) search->heap[i] = search->heap[i + 1];
    search->heap[search->n_heap] = dropped; /* keeps its buffer */
    search->worst = INFINITY;
    for (size_t i = 0; i < search->n_heap; i++)
        if (search->heap[i].score < search->worst) search->worst = search->heap[i].score;
}

/** length counts generated ids, the ending EOS included. */
static double normalised(const beam_search *search, double sum, size_t length) {
    return sum / pow((double)length, (double)search->settings.length_penalty);
}

static void add_hypothesis(beam_search *search, int beam, double score, bool ended) {
    const size_t n_beams = (size_t)search->settings.n_beams;
    if (search->n_heap >= n_beams && !(score > search->worst)) return;
    beam_hypothesis *h = &search->heap[search->n_heap++];
    h->score = score;
    h->ended = ended;
    h->n_ids = search->n_ids;
    memcpy(h->ids, search->ids + (size_t)beam * search->stride, search->n_ids * sizeof *h->ids);
    if (search->n_heap > n_beams)
        drop_lowest(search);
    else if (score < search->worst)
        search->worst = score;
}

static bool is_done(const beam_search *search, double best_sum, size_t length) {
    const beam_settings *s = &search->settings;
    if (search->n_heap < (size_t)s->n_beams) return false;
    if (s->early_stopping == 1) return true;
    const bool to_the_end = s->early_stopping == 2 && s->length_penalty > 0;
    return search->worst >=
           normalised(search, best_sum, to_the_end ? (size_t)s->max_new_tokens : length);
}

/** The search ends here: beams that still run are answers, too. */
static void add_running(beam_search *search) {
    const size_t length = search->n_ids - search->settings.n_prefix;
    for (int beam = 0; !search->done && length > 0 && beam < search->settings.n_beams; beam++)
        add_hypothesis(search, beam, normalised(search, search->sums[beam], length), false);
    search->done = true;
}

/* ---------------------------------------------------------------- the step */

static void score_beams(beam_search *search, float *scores, void *work) {
    const beam_settings *s = &search->settings;
    for (int beam = 0; beam < s->n_beams; beam++) {
        float *row = scores + beam * s->n_vocab;
        log_softmax(row, s->n_vocab);
        sampler_process(&s->sampler, row, s->n_vocab, search->ids + (size_t)beam * search->stride,
                        search->n_ids, s->eos, s->n_eos);
        if (s->sampler.do_sample) sampler_filter(&s->sampler, row, s->n_vocab, work);
        for (int64_t i = 0; i < s->n_vocab; i++) {
            const float sum = row[i] + search->sums[beam];
            row[i] = sum == sum ? sum : -INFINITY;
        }
    }
}

static bool is_eos(const beam_settings *s, int32_t id) {
    for (size_t i = 0; i < s->n_eos; i++)
        if (s->eos[i] == id) return true;
    return false;
}

/** Candidates in order: the ends become hypotheses, the first n_beams others the new beams. */
static void walk_candidates(beam_search *search) {
    const beam_settings *s = &search->settings;
    const size_t length = search->n_ids - s->n_prefix + 1;
    int filled = 0;
    for (size_t rank = 0; rank < search->n_candidates && filled < s->n_beams; rank++) {
        const beam_candidate *c = &search->candidates[rank];
        if (is_eos(s, c->id)) {
            if (rank >= (size_t)s->n_beams) continue;
            add_hypothesis(search, c->beam, normalised(search, c->score, length), true);
            continue;
        }
        int32_t *grown = search->next_ids + (size_t)filled * search->stride;
        memcpy(grown, search->ids + (size_t)c->beam * search->stride,
               search->n_ids * sizeof *grown);
        grown[search->n_ids] = c->id;
        search->source[filled] = c->beam;
        search->sums[filled] = c->score;
        filled++;
    }
    const double best = search->n_candidates > 0 ? search->candidates[0].score : -INFINITY;
    if (filled < s->n_beams) { /* nothing left to continue with */
        add_running(search);
        return;
    }
    search->done = is_done(search, best, length);
    int32_t *const swap = search->ids;
    search->ids = search->next_ids;
    search->next_ids = swap;
    search->n_ids++;
}

void beam_search_step(beam_search *search, float *scores, rng *random, void *work) {
    const size_t capacity = search->n_candidates;
    score_beams(search, scores, work);
    if (search->settings.sampler.do_sample)
        draw_candidates(search, scores, random);
    else
        take_best(search, scores);
    walk_candidates(search);
    search->n_candidates = capacity;
    const size_t length = search->n_ids - search->settings.n_prefix;
    if (length >= (size_t)search->settings.max_new_tokens) add_running(search);
}

int32_t beam_search_last(const beam_search *search, int beam) {
    return search->ids[(size_t)beam * search->stride + search->n_ids - 1];
}

void beam_search_finish(beam_search *search, int32_t *best_ids, size_t *n_ids, double *score,
                        bool *ended) {
    const beam_settings *s = &search->settings;
    add_running(search);
    *n_ids = 0;
    *score = 0;
    *ended = false;
    const beam_hypothesis *best = NULL;
    for (size_t i = 0; i < search->n_heap; i++)
        if (!best || search->heap[i].score >= best->score) best = &search->heap[i];
    if (!best) return;
    *n_ids = best->n_ids - s->n_prefix;
    memcpy(best_ids, best->ids + s->n_prefix, *n_ids * sizeof *best_ids);
    *score = best->score;
    *ended = best->ended;
    if (s->n_eos > 0 && *n_ids < (size_t)s->max_new_tokens) best_ids[(*n_ids)++] = s->eos[0];
}
