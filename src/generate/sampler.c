/* SPDX-License-Identifier: Apache-2.0
 *
 * From logits to a token: the processors and warpers of transformers 4.40's generate() (classes
 * RepetitionPenaltyLogitsProcessor, NoRepeatNGramLogitsProcessor,
 * MinNewTokensLengthLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper)
 * and the draw itself.
 */
#include <math.h>

#include "generate.h"

/* ---------------------------------------------------------------- processors */

#define SEEN_IDS ((int64_t)1 << 18) /* vocabulary entries marked at a time: 32 KiB of bits */

/** s < 0 ? s * r : s / r for each id generated so far, once each however often it occurs. */
static void penalize_repetition(float penalty, float *scores, int64_t n_vocab,
                                const int32_t *generated, size_t n_generated) {
    uint64_t seen[SEEN_IDS / 64];
    for (int64_t first = 0; first < n_vocab; first += SEEN_IDS) {
        const int64_t end = i64_min(first + SEEN_IDS, n_vocab);
        memset(seen, 0, sizeof seen);
        for (size_t i = 0; i < n_generated; i++) {
            const int64_t id = generated[i];
            if (id < first || id >= end) continue;
            const uint64_t bit = (uint64_t)1 << ((id - first) & 63);
            uint64_t *word = &seen[(id - first) >> 6];
            if (*word & bit) continue;
            *word |= bit;
            scores[id] = scores[id] < 0 ? scores[id] * penalty : scores[id] / penalty;
        }
    }
}

/** Forbids every id that would complete an n-gram that is there already. */
static void forbid_ngrams(size_t n, float *scores, int64_t n_vocab, const int32_t *generated,
                          size_t n_generated) {
    if (n_generated + 1 < n || n_generated == 0) return;
    const int32_t *key = generated + n_generated - (n - 1);
    for (size_t i = 0; i + n <= n_generated; i++) {
        if (n > 1 && memcmp(generated + i, key, (n - 1) * sizeof *key) != 0) continue;
        const int32_t id = generated[i + n - 1];
        if (id >= 0 && id < n_vocab) scores[id] = -INFINITY;
    }
}

void sampler_process(const sampler_settings *s, float *scores, int64_t n_vocab,
                     const int32_t *generated, size_t n_generated, const int32_t *eos,
                     size_t n_eos) {
    if (s->repetition_penalty > 0 && s->repetition_penalty != 1.0f)
        penalize_repetition(s->repetition_penalty, scores, n_vocab, generated, n_generated);
    if (s->no_repeat_ngram_size > 0)
        forbid_ngrams((size_t)s->no_repeat_ngram_size, scores, n_vocab, generated, n_generated);
    if (s->min_new_tokens > 0 && (uint64_t)n_generated < (uint64_t)s->min_new_tokens) {
        for (size_t i = 0; i < n_eos; i++)
            if (eos[i] >= 0 && eos[i] < n_vocab) scores[eos[i]] = -INFINITY;
    }
}

int32_t sampler_argmax(const float *scores, int64_t n_vocab) {
    int64_t best = 0;
    float best_score = -INFINITY;
    for (int64_t i = 0; i < n_vocab; i++) {
        if (scores[i] > best_score) {
            best_score = scores[i];
            best = i;
        }
    }
    return (int32_t)best;
}

/* ---------------------------------------------------------------- sorting candidates */

/** A score as a number that sorts like it, and its id. */
typedef struct candidate {
    uint32_t order;
    int32_t id;
} candidate;

size_t sampler_work_bytes(int64_t n_vocab) { return (size_t)n_vocab * 2 * sizeof(candidate); }

/** Monotone map of floats (no NaN) to unsigned numbers. */
static uint32_t order_of(float score) {
    const uint32_t bits = f32_to_bits(score);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static float score_of(uint32_t order) {
    return f32_from_bits(order & 0x80000000u ? order & 0x7fffffffu : ~order);
}

/** Ascending, stable: equal scores stay in vocabulary order. Radix of 8 bits, four passes, so the
 *  result ends where it began. */
static void sort_candidates(candidate *list, candidate *spare, size_t count) {
    for (int shift = 0; shift < 32; shift += 8) {
        size_t place[257] = {0};
        for (size_t i = 0; i < count; i++) place[(list[i].order >> shift & 255u) + 1]++;
        for (int d = 0; d < 256; d++) place[d + 1] += place[d];
        for (size_t i = 0; i < count; i++) spare[place[list[i].order >> shift & 255u]++] = list[i];
        candidate *const swap = list;
        list = spare;
        spare = swap;
    }
}

/** The finite scores, sorted; -infinity and NaN are no candidates. */
static size_t collect_candidates(const float *scores, int64_t n_vocab, candidate *list,
                                 candidate *spare) {
    size_t count = 0;
    for (int64_t i = 0; i < n_vocab; i++)
        if (scores[i] > -INFINITY) list[count++] = (candidate){order_of(scores[i]), (int32_t)i};
    sort_candidates(list, spare, count);
    return count;
}

/* ---------------------------------------------------------------- warpers */

/** Keeps what is at least the k-th largest score: ties with it survive. Returns the first
 *  candidate kept. */
static size_t keep_top_k(int64_t k, const candidate *list, size_t count) {
    if ((uint64_t)k >= count) return 0;
    size_t first = count - (size_t)k;
    const float threshold = score_of(list[first].order);
    while (first > 0 && score_of(list[first - 1].order) == threshold) first--;
    return first;
}

/** Drops the tail whose cumulative probability is at most 1 - p. Returns the first kept. */
static size_t keep_top_p(double p, int64_t min_keep, const candidate *list, size_t first,
                         size_t count) {
    const double best = score_of(list[count - 1].order);
    double total = 0;
    for (size_t i = first; i < count; i++) total += exp(score_of(list[i].order) - best);
    const int64_t n_last = i64_min(i64_max(min_keep, 1), (int64_t)(count - first));
    const size_t last = count - (size_t)n_last;
    double sum = 0;
    while (first < last) {
        sum += exp(score_of(list[first].order) - best) / total;
        if (sum > 1.0 - p) break;
        first++;
    }
    return first;
}

void sampler_filter(const sampler_settings *s, float *scores, int64_t n_vocab, void *work) {
    if (s->temperature > 0 && s->temperature != 1.0f)
        for (int64_t i = 0; i < n_vocab; i++) scores[i] /= s->temperature;
    const bool has_top_p = s->top_p > 0 && s->top_p < 1.0f;
    if (s->top_k <= 0 && !has_top_p) return;
    candidate *const list = work;
    const size_t count = collect_candidates(scores, n_vocab, list, list + n_vocab);
    if (count == 0) return;
    size_t first = 0;
    if (s->top_k > 0) first = keep_top_k(i64_max(s->top_k, s->min_keep), list, count);
    if (has_top_p) first = keep_top_p(s->top_p, s->min_keep, list, first, count);
    for (size_t i = 0; i < first; i++) scores[list[i].id] = -INFINITY;
}

int32_t sampler_draw(const sampler_settings *s, float *scores, int64_t n_vocab, rng *random,
                     void *work) {
    sampler_filter(s, scores, n_vocab, work);
    const double u = rng_uniform(random);
    const int32_t best = sampler_argmax(scores, n_vocab);
    const double top = scores[best];
    if (!isfinite(top)) return best;
    double total = 0;
    for (int64_t i = 0; i < n_vocab; i++)
        if (scores[i] > -INFINITY) total += exp(scores[i] - top);
    const double target = u * total;
    double sum = 0;
    int32_t last = best;
    for (int64_t i = 0; i < n_vocab; i++) {
        if (!(scores[i] > -INFINITY)) continue;
        const double share = exp(scores[i] - top);
        if (share <= 0) continue;
        sum += share;
        last = (int32_t)i;
        if (sum > target) break;
    }
    return last;
}
