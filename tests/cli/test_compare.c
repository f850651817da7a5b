/* SPDX-License-Identifier: Apache-2.0
 *
 * The metrics of llava compare on distributions small enough to work out by hand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "compare/compare.h"

#define NEAR 1e-7 /* logits are float32: ln 2 is off by 2e-8 */

static void must_add(compare_totals *t, const float *a, const float *b, int64_t n, int32_t id) {
    llava_error err;
    if (compare_add(t, a, b, n, id, &err) != LLAVA_OK) fail_msg("%s", err.message);
}

static void test_by_hand(void **state) {
    (void)state;
    /* A: 1/4, 1/2, 1/4. B: thirds. KL = 1/2 ln(3/4) + 1/2 ln(3/2) = ln(9/8) / 2 */
    const float a[3] = {7, 7 + (float)M_LN2, 7}, b[3] = {-2, -2, -2};
    compare_totals t = {0};
    must_add(&t, a, b, 3, 0);
    compare_summary s = compare_summarize(&t);
    const double expected = log(9.0 / 8) / 2;
    assert_true(fabs(s.kl_mean - expected) < NEAR);
    assert_true(s.kl_p95 == s.kl_mean && s.kl_max == s.kl_mean);
    assert_true(fabs(s.perplexity[0] - 4) < NEAR && fabs(s.perplexity[1] - 3) < NEAR);
    assert_true(s.agreement == 0); /* of equals the first is the likeliest */
    /* a second token, equal under both, halves the mean */
    must_add(&t, a, a, 3, 1);
    s = compare_summarize(&t);
    assert_true(fabs(s.kl_mean - expected / 2) < NEAR);
    assert_true(fabs(s.kl_max - expected) < NEAR && t.largest == 0);
    assert_true(s.agreement == 0.5);
    assert_true(fabs(s.perplexity[0] - sqrt(4 * 2)) < NEAR); /* exp of the mean of ln 4, ln 2 */
    compare_totals_free(&t);
}

static void test_equal(void **state) {
    (void)state;
    float x[64];
    compare_totals t = {0};
    for (int i = 0; i < 64; i++) x[i] = 30 * sinf((float)i) - 500;
    must_add(&t, x, x, 64, 5);
    const compare_summary s = compare_summarize(&t);
    assert_true(s.kl_max == 0 && s.agreement == 1);
    assert_true(s.perplexity[0] == s.perplexity[1]);
    compare_totals_free(&t);
}

/** Ids without a stored row have logit -infinity under both. */
static void test_excluded_ids(void **state) {
    (void)state;
    const float a[3] = {0, 0, -INFINITY}, b[3] = {0, (float)M_LN2, -INFINITY};
    compare_totals t = {0};
    must_add(&t, a, b, 3, 1);
    compare_summary s = compare_summarize(&t);
    /* halves against 1/3, 2/3: ln(3/2)/2 + ln(3/4)/2 */
    assert_true(fabs(s.kl_mean - log(9.0 / 8) / 2) < NEAR);
    must_add(&t, a, b, 3, 2); /* an answer that cannot be said */
    s = compare_summarize(&t);
    assert_true(isinf(s.perplexity[0]) && isinf(s.perplexity[1]));
    compare_totals_free(&t);
}

static void test_overflow(void **state) {
    (void)state;
    const float good[2] = {0, 1}, nan[2] = {0, NAN}, infinite[2] = {0, INFINITY};
    compare_totals t = {0};
    llava_error err;
    assert_int_equal(compare_add(&t, nan, good, 2, 0, &err), LLAVA_UNSUPPORTED);
    assert_non_null(strstr(err.message, "logits of A"));
    assert_int_equal(compare_add(&t, good, infinite, 2, 0, &err), LLAVA_UNSUPPORTED);
    assert_non_null(strstr(err.message, "logits of B"));
    assert_int_equal(t.count, 0);
    compare_totals_free(&t);
}

/** Of n sorted values the ceil(0.95 n)-th. */
static void test_percentile(void **state) {
    (void)state;
    for (int n = 1; n <= 200; n++) {
        compare_totals t = {0};
        const float flat[2] = {0, 0};
        for (int i = 0; i < n; i++) {
            /* further apart, more divergence; out of order */
            const float apart[2] = {0, (float)(1 + i * 7919 % n) / 100};
            must_add(&t, flat, apart, 2, 0);
        }
        const compare_summary s = compare_summarize(&t);
        size_t below = 0;
        for (int i = 0; i < n; i++) below += t.kl[i] <= s.kl_p95;
        assert_int_equal(below, (95 * n + 99) / 100);
        compare_totals_free(&t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand),      cmocka_unit_test(test_equal),
        cmocka_unit_test(test_excluded_ids), cmocka_unit_test(test_overflow),
        cmocka_unit_test(test_percentile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
