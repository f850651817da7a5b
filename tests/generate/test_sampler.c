/* SPDX-License-Identifier: Apache-2.0
 *
 * Random numbers, processors, warpers, and the distribution of what is drawn.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "generate/generate.h"

/* ---------------------------------------------------------------- random numbers */

/* known-answer vectors of Random123 1.14, philox4x32 with 10 rounds */
static void test_known_answers(void **state) {
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], expected[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < LLAVA_COUNT(cases); i++) {
        uint32_t out[4];
        rng_block(cases[i].counter, cases[i].key, out);
        for (int w = 0; w < 4; w++) assert_int_equal(out[w], cases[i].expected[w]);
    }
}

static void test_uniform(void **state) {
    (void)state;
    enum { DRAWS = 200000, BINS = 20 };
    rng r = {.seed = 7};
    int bins[BINS] = {0};
    double sum = 0;
    for (int i = 0; i < DRAWS; i++) {
        const double u = rng_uniform(&r);
        assert_true(u >= 0 && u < 1);
        sum += u;
        bins[(int)(u * BINS)]++;
    }
    assert_true(fabs(sum / DRAWS - 0.5) < 0.003); /* sigma 0.00065 */
    for (int b = 0; b < BINS; b++) assert_true(abs(bins[b] - DRAWS / BINS) < 500); /* sigma 97 */

    rng a = {.seed = 3}, b = {.seed = 3}, c = {.seed = 4};
    const double first = rng_uniform(&a);
    assert_true(first == rng_uniform(&b));
    assert_true(first != rng_uniform(&c));
    assert_true(first != rng_uniform(&a));
}

/* ---------------------------------------------------------------- processors */

static void test_repetition_penalty(void **state) {
    (void)state;
    const sampler_settings s = {.repetition_penalty = 2.0f};
    float scores[] = {1, -1, 4, -4, 0};
    const int32_t generated[] = {2, 3, 2, 3, 2, 99, -5};
    sampler_process(&s, scores, 5, generated, LLAVA_COUNT(generated), NULL, 0);
    const float expected[] = {1, -1, 2, -8, 0}; /* once each, however often they occur */
    for (int i = 0; i < 5; i++) assert_true(scores[i] == expected[i]);
}

/* more ids than are marked at a time */
static void test_penalty_of_a_large_vocabulary(void **state) {
    (void)state;
    enum { VOCABULARY = 600000 };
    const sampler_settings s = {.repetition_penalty = 4.0f};
    float *scores = malloc(VOCABULARY * sizeof *scores);
    for (int i = 0; i < VOCABULARY; i++) scores[i] = 1;
    const int32_t generated[] = {0, 262143, 262144, 262144, 599999, 300000, 599999};
    sampler_process(&s, scores, VOCABULARY, generated, LLAVA_COUNT(generated), NULL, 0);
    int n_changed = 0;
    for (int i = 0; i < VOCABULARY; i++) n_changed += scores[i] == 0.25f;
    assert_int_equal(n_changed, 5);
    assert_true(scores[262144] == 0.25f && scores[599999] == 0.25f && scores[1] == 1.0f);
    free(scores);
}

static void expect_banned(size_t n, const int32_t *generated, size_t n_generated,
                          const bool banned[6]) {
    const sampler_settings s = {.no_repeat_ngram_size = (int64_t)n};
    float scores[6] = {0};
    sampler_process(&s, scores, 6, generated, n_generated, NULL, 0);
    for (int i = 0; i < 6; i++) assert_int_equal(scores[i] == -INFINITY, banned[i]);
}

static void test_no_repeat_ngram(void **state) {
    (void)state;
    const int32_t generated[] = {1, 2, 3, 1, 2, 4, 1, 2};
    expect_banned(3, generated, 8, (bool[6]){0, 0, 0, 1, 1, 0});
    expect_banned(2, generated, 8, (bool[6]){0, 0, 0, 1, 1, 0});
    expect_banned(2, generated, 4, (bool[6]){0, 0, 1, 0, 0, 0});
    expect_banned(1, generated, 8, (bool[6]){0, 1, 1, 1, 1, 0});
    expect_banned(4, generated, 8, (bool[6]){0});
    expect_banned(9, generated, 8, (bool[6]){0});
    expect_banned(1, generated, 0, (bool[6]){0});
    expect_banned(5, generated, 2, (bool[6]){0});
}

static void test_min_new_tokens(void **state) {
    (void)state;
    const sampler_settings s = {.min_new_tokens = 3};
    const int32_t eos[] = {1, 3, 77}, generated[] = {0, 0, 0};
    float scores[4] = {0};
    sampler_process(&s, scores, 4, generated, 3, eos, 3);
    for (int i = 0; i < 4; i++) assert_true(scores[i] == 0);
    sampler_process(&s, scores, 4, generated, 2, eos, 3);
    for (int i = 0; i < 4; i++) assert_int_equal(scores[i] == -INFINITY, i == 1 || i == 3);
}

/* the penalty acts before the n-gram rule: -infinity stays */
static void test_order_of_processors(void **state) {
    (void)state;
    const sampler_settings s = {.repetition_penalty = 2.0f, .no_repeat_ngram_size = 1};
    float scores[2] = {5, 5};
    const int32_t generated[] = {1};
    sampler_process(&s, scores, 2, generated, 1, NULL, 0);
    assert_true(scores[0] == 5 && scores[1] == -INFINITY);
}

static void test_argmax(void **state) {
    (void)state;
    assert_int_equal(sampler_argmax((const float[]){1, 3, 2, 3}, 4), 1);
    assert_int_equal(sampler_argmax((const float[]){NAN, -2, NAN, -1}, 4), 3);
    assert_int_equal(sampler_argmax((const float[]){-INFINITY, -INFINITY}, 2), 0);
}

/* ---------------------------------------------------------------- warpers */

static void expect_kept(const sampler_settings *s, const float *scores, int n,
                        const char *expected) {
    float copy[16];
    memcpy(copy, scores, (size_t)n * sizeof *copy);
    void *work = malloc(sampler_work_bytes(n));
    sampler_filter(s, copy, n, work);
    free(work);
    for (int i = 0; i < n; i++) {
        const bool kept = copy[i] > -INFINITY;
        if (kept != (expected[i] == '1'))
            fail_msg("score %d: kept %d, expected %s", i, kept, expected);
    }
}

static void test_top_k(void **state) {
    (void)state;
    const float scores[] = {1, 5, 3, 3, 2, -7};
    sampler_settings s = {.top_k = 1, .min_keep = 1};
    expect_kept(&s, scores, 6, "010000");
    s.top_k = 2; /* ties with the threshold survive */
    expect_kept(&s, scores, 6, "011100");
    s.top_k = 3;
    expect_kept(&s, scores, 6, "011100");
    s.top_k = 4;
    expect_kept(&s, scores, 6, "011110");
    s.top_k = 60;
    expect_kept(&s, scores, 6, "111111");
    s.top_k = 0;
    expect_kept(&s, scores, 6, "111111");
    s = (sampler_settings){.top_k = 1, .min_keep = 2};
    expect_kept(&s, scores, 6, "011100");
}

static void test_top_p(void **state) {
    (void)state;
    /* probabilities 0.1, 0.4, 0.2, 0.3 */
    const float scores[] = {logf(0.1f), logf(0.4f), logf(0.2f), logf(0.3f)};
    sampler_settings s = {.top_p = 0.35f, .min_keep = 1};
    expect_kept(&s, scores, 4, "0100");
    s.top_p = 0.65f;
    expect_kept(&s, scores, 4, "0101");
    s.top_p = 0.75f;
    expect_kept(&s, scores, 4, "0111");
    s.top_p = 0.95f;
    expect_kept(&s, scores, 4, "1111");
    s.top_p = 1.0f;
    expect_kept(&s, scores, 4, "1111");
    s = (sampler_settings){.top_p = 0.01f, .min_keep = 3};
    expect_kept(&s, scores, 4, "0111");
    s = (sampler_settings){.top_p = 0.5f, .top_k = 2, .min_keep = 1}; /* 0.4 / 0.7 is enough */
    expect_kept(&s, scores, 4, "0100");
    /* temperature comes first: at 0.25 the best has 0.72 of the mass */
    s = (sampler_settings){.top_p = 0.7f, .temperature = 0.25f, .min_keep = 1};
    expect_kept(&s, scores, 4, "0100");
}

static void test_negative_scores_sort(void **state) {
    (void)state;
    const float scores[] = {-3, -1, 0.5f, -0.0f, -2, NAN, -INFINITY, 1e-30f};
    const sampler_settings s = {.top_k = 4, .min_keep = 1};
    expect_kept(&s, scores, 8, "01110001");
}

/* ---------------------------------------------------------------- drawing */

static void expect_distribution(const sampler_settings *s, const float *scores, int n,
                                const double *expected) {
    enum { DRAWS = 60000 };
    float copy[16];
    int counts[16] = {0};
    void *work = malloc(sampler_work_bytes(n));
    rng r = {.seed = 12345};
    for (int d = 0; d < DRAWS; d++) {
        memcpy(copy, scores, (size_t)n * sizeof *copy);
        counts[sampler_draw(s, copy, n, &r, work)]++;
    }
    free(work);
    for (int i = 0; i < n; i++) {
        const double sigma = sqrt(expected[i] * (1 - expected[i]) / DRAWS);
        assert_true(fabs((double)counts[i] / DRAWS - expected[i]) <= 4.5 * sigma);
    }
}

static void test_distribution(void **state) {
    (void)state;
    const float scores[] = {logf(0.1f), -INFINITY, logf(0.4f), logf(0.2f), NAN, logf(0.3f)};
    expect_distribution(&(sampler_settings){.temperature = 1, .min_keep = 1}, scores, 6,
                        (const double[]){0.1, 0, 0.4, 0.2, 0, 0.3});
    expect_distribution(&(sampler_settings){.temperature = 1, .top_k = 2, .min_keep = 1}, scores, 6,
                        (const double[]){0, 0, 4 / 7.0, 0, 0, 3 / 7.0});
    expect_distribution(&(sampler_settings){.temperature = 0.5f, .min_keep = 1}, scores, 6,
                        (const double[]){1 / 30.0, 0, 16 / 30.0, 4 / 30.0, 0, 9 / 30.0});
    expect_distribution(&(sampler_settings){.temperature = 1, .top_p = 0.65f, .min_keep = 1},
                        scores, 6, (const double[]){0, 0, 4 / 7.0, 0, 0, 3 / 7.0});
}

static void test_draw_extremes(void **state) {
    (void)state;
    char work[1024];
    rng r = {.seed = 1};
    const sampler_settings s = {.temperature = 1, .min_keep = 1};
    float none[] = {-INFINITY, -INFINITY, NAN};
    assert_int_equal(sampler_draw(&s, none, 3, &r, work), 0);
    float sure[] = {-1e30f, 80, -1e30f};
    for (int i = 0; i < 100; i++) assert_int_equal(sampler_draw(&s, sure, 3, &r, work), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers),
        cmocka_unit_test(test_uniform),
        cmocka_unit_test(test_repetition_penalty),
        cmocka_unit_test(test_penalty_of_a_large_vocabulary),
        cmocka_unit_test(test_no_repeat_ngram),
        cmocka_unit_test(test_min_new_tokens),
        cmocka_unit_test(test_order_of_processors),
        cmocka_unit_test(test_argmax),
        cmocka_unit_test(test_top_k),
        cmocka_unit_test(test_top_p),
        cmocka_unit_test(test_negative_scores_sort),
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_draw_extremes),
    };
    return cmocka_run_group_tests_name("sampler", tests, NULL, NULL);
}
