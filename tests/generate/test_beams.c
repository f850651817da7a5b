/* SPDX-License-Identifier: Apache-2.0
 *
 * Beam search over a toy model, against exhaustive search and against results that transformers
 * 4.40's rules give by hand.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "generate/beams.h"

enum { VOCABULARY = 7, MOST_IDS = 12 };

/* Logits follow from the last id and the length: a fixed, irregular table. */
static void toy_logits(const int32_t *list, size_t count, float *logits) {
    const uint32_t last = count > 0 ? (uint32_t)list[count - 1] + 1 : 0;
    for (uint32_t v = 0; v < VOCABULARY; v++) {
        uint32_t h = (last * 31 + (uint32_t)count * 17 + v) * 2654435761u;
        h ^= h >> 15;
        h *= 2246822519u;
        logits[v] = (float)(h >> 8) * 0x1p-24f * 6 - 3;
    }
}

typedef struct outcome {
    int32_t list[MOST_IDS + 1];
    size_t count;
    double score;
    bool ended;
} outcome;

static outcome search(const beam_settings *settings, uint64_t seed) {
    float scores[BEAMS_MAX * VOCABULARY];
    rng random = {.seed = seed};
    void *work = malloc(sampler_work_bytes(VOCABULARY));
    beam_search *beams = NULL;
    assert_int_equal(beam_search_new(settings, &beams, NULL), LLAVA_OK);
    while (!beams->done) {
        for (int b = 0; b < settings->n_beams; b++)
            toy_logits(beams->ids + (size_t)b * beams->stride, beams->n_ids,
                       scores + b * VOCABULARY);
        beam_search_step(beams, scores, &random, work);
        for (int b = 0; b < settings->n_beams; b++)
            assert_in_range(beams->source[b], 0, settings->n_beams - 1);
    }
    outcome result = {0};
    beam_search_finish(beams, result.list, &result.count, &result.score, &result.ended);
    beam_search_free(&beams);
    free(work);
    return result;
}

static double log_probability(const int32_t *list, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        float logits[VOCABULARY];
        toy_logits(list, i, logits);
        log_softmax(logits, VOCABULARY);
        sum += logits[list[i]];
    }
    return sum;
}

static void test_log_softmax(void **state) {
    (void)state;
    float x[] = {1, 2, 3, -INFINITY};
    log_softmax(x, 4);
    assert_true(fabs(x[2] + 0.40760596) < 1e-6 && x[3] == -INFINITY);
    assert_true(fabs(exp(x[0]) + exp(x[1]) + exp(x[2]) - 1) < 1e-6);
}

/* As many beams as there are prefixes: beam search is exhaustive. */
static void test_exhaustive(void **state) {
    (void)state;
    const beam_settings s = {
        .n_beams = 49, .n_vocab = VOCABULARY, .max_new_tokens = 3, .length_penalty = 1};
    const outcome found = search(&s, 0);
    double best = -1e30;
    for (int i = 0; i < VOCABULARY * VOCABULARY * VOCABULARY; i++) {
        const int32_t list[] = {i % 7, i / 7 % 7, i / 49};
        const double score = log_probability(list, 3) / 3;
        if (score > best) best = score;
    }
    assert_int_equal(found.count, 3);
    assert_true(fabs(found.score - best) < 1e-5);
    assert_true(fabs(log_probability(found.list, 3) / 3 - best) < 1e-5);
    assert_false(found.ended);
}

/* One EOS id more must not change anything but what ends: scores are those of the ids found. */
static void test_scores(void **state) {
    (void)state;
    const int32_t eos[] = {5, 2};
    for (int early = 0; early < 3; early++) {
        for (int n_beams = 2; n_beams < 6; n_beams++) {
            const beam_settings s = {.n_beams = n_beams,
                                     .n_vocab = VOCABULARY,
                                     .max_new_tokens = 10,
                                     .length_penalty = 0.8f,
                                     .early_stopping = early,
                                     .eos = eos,
                                     .n_eos = 2};
            const outcome found = search(&s, 0);
            assert_in_range(found.count, 1, 10);
            if (!found.ended) {
                assert_int_equal(found.count, 10);
                continue;
            }
            /* whichever EOS id ended it, the first of the list is appended */
            assert_int_equal(found.list[found.count - 1], 5);
            double closest = 1;
            for (int e = 0; e < 2; e++) {
                int32_t ended[MOST_IDS];
                memcpy(ended, found.list, found.count * sizeof *ended);
                ended[found.count - 1] = eos[e];
                const double score = log_probability(ended, found.count) /
                                     pow((double)found.count, (double)s.length_penalty);
                closest = fmin(closest, fabs(score - found.score));
            }
            assert_true(closest < 1e-5);
        }
    }
}

/* ---------------------------------------------------------------- by hand */

static outcome play(const beam_settings *settings, const float *steps, int n_steps) {
    float scores[2 * 4];
    char work[256];
    rng random = {0};
    beam_search *beams = NULL;
    assert_int_equal(beam_search_new(settings, &beams, NULL), LLAVA_OK);
    for (int i = 0; i < n_steps && !beams->done; i++) {
        memcpy(scores, steps + i * 8, sizeof scores);
        beam_search_step(beams, scores, &random, work);
    }
    outcome result = {0};
    beam_search_finish(beams, result.list, &result.count, &result.score, &result.ended);
    beam_search_free(&beams);
    return result;
}

#define LOG(a, b, c, d) logf(a), logf(b), logf(c), logf(d)

/* EOS 3 is second at step 1 (kept: rank 1 < 2 beams); with early_stopping the heap fills at
 * step 2.*/
static void test_end_by_hand(void **state) {
    (void)state;
    const float steps[] = {
        LOG(0.5f, 0.1f, 0.1f, 0.3f), LOG(0.5f, 0.1f, 0.1f, 0.3f), /* step 1: 0, then EOS */
        LOG(0.1f, 0.1f, 0.1f, 0.7f), LOG(0.1f, 0.1f, 0.1f, 0.7f), /* step 2: EOS */
    };
    const int32_t eos[] = {3};
    const beam_settings s = {.n_beams = 2,
                             .n_vocab = 4,
                             .max_new_tokens = 8,
                             .length_penalty = 1,
                             .early_stopping = 1,
                             .eos = eos,
                             .n_eos = 1};
    const outcome found = play(&s, steps, 2);
    /* log(0.35) / 2 = -0.525 beats log(0.3) / 1 = -1.204 */
    assert_true(found.ended);
    assert_int_equal(found.count, 2);
    assert_int_equal(found.list[0], 0);
    assert_int_equal(found.list[1], 3);
    assert_true(fabs(found.score - log(0.35) / 2) < 1e-6);
}

/* An EOS of rank 2 or lower (2 beams) is dropped, it does not even end a hypothesis. */
static void test_low_ranked_end_is_skipped(void **state) {
    (void)state;
    const float steps[] = {LOG(0.4f, 0.3f, 0.1f, 0.2f), LOG(0.4f, 0.3f, 0.1f, 0.2f)};
    const int32_t eos[] = {3};
    const beam_settings s = {.n_beams = 2,
                             .n_vocab = 4,
                             .max_new_tokens = 8,
                             .length_penalty = 1,
                             .eos = eos,
                             .n_eos = 1};
    const outcome found = play(&s, steps, 1);
    assert_false(found.ended); /* the running beam 0 is the best; an EOS fits and is appended */
    assert_int_equal(found.count, 2);
    assert_int_equal(found.list[0], 0);
    assert_int_equal(found.list[1], 3);
    assert_true(fabs(found.score - log(0.4)) < 1e-6);
}

static void test_length_penalty_prefers_longer(void **state) {
    (void)state;
    const float steps[] = {
        LOG(0.5f, 0.04f, 0.01f, 0.45f), LOG(0.5f, 0.04f, 0.01f, 0.45f),
        LOG(0.9f, 0.04f, 0.05f, 0.01f), LOG(0.9f, 0.04f, 0.05f, 0.01f),
        LOG(0.9f, 0.04f, 0.05f, 0.01f), LOG(0.9f, 0.04f, 0.05f, 0.01f),
    };
    const int32_t eos[] = {3};
    beam_settings s = {.n_beams = 2,
                       .n_vocab = 4,
                       .max_new_tokens = 3,
                       .length_penalty = 0,
                       .eos = eos,
                       .n_eos = 1};
    assert_int_equal(play(&s, steps, 3).count, 1); /* log 0.45 beats log 0.405 */
    s.length_penalty = 1;
    assert_int_equal(play(&s, steps, 3).count, 3);
}

/* ---------------------------------------------------------------- the rest */

static void test_prefix_is_seen_not_returned(void **state) {
    (void)state;
    const int32_t prefix[] = {0, 1, 2, 3, 4, 5};
    const beam_settings s = {.n_beams = 3,
                             .n_vocab = VOCABULARY,
                             .max_new_tokens = 1,
                             .length_penalty = 1,
                             .prefix = prefix,
                             .n_prefix = 6,
                             .sampler = {.no_repeat_ngram_size = 1}};
    const outcome found = search(&s, 0);
    assert_int_equal(found.count, 1);
    assert_int_equal(found.list[0], 6); /* all others occur in the prefix */
}

static void test_sampling(void **state) {
    (void)state;
    const beam_settings s = {.n_beams = 3,
                             .n_vocab = VOCABULARY,
                             .max_new_tokens = 6,
                             .length_penalty = 1,
                             .sampler = {.do_sample = true, .temperature = 1, .min_keep = 2}};
    const outcome first = search(&s, 5), again = search(&s, 5);
    assert_int_equal(first.count, 6);
    assert_memory_equal(first.list, again.list, sizeof first.list);
    assert_true(fabs(log_probability(first.list, 6) / 6 - first.score) < 1e-5);
    int n_different = 0;
    for (uint64_t seed = 6; seed < 16; seed++) {
        const outcome other = search(&s, seed);
        n_different += memcmp(first.list, other.list, sizeof first.list) != 0;
    }
    assert_true(n_different > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_log_softmax),
        cmocka_unit_test(test_exhaustive),
        cmocka_unit_test(test_scores),
        cmocka_unit_test(test_end_by_hand),
        cmocka_unit_test(test_low_ranked_end_is_skipped),
        cmocka_unit_test(test_length_penalty_prefers_longer),
        cmocka_unit_test(test_prefix_is_seen_not_returned),
        cmocka_unit_test(test_sampling),
    };
    return cmocka_run_group_tests_name("beams", tests, NULL, NULL);
}
