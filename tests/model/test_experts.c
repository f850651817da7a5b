/* SPDX-License-Identifier: Apache-2.0
 *
 * Routing of a mixture of experts against sorting and summing in double precision.
 */
#include <math.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdlib.h>

#include <cmocka.h>

#include "model_fixture.h"

static void check_against_naive(const float *logits, int n, int k, bool renormalise) {
    int32_t ids[16];
    float weights[16];
    double total = 0, chosen = 0;
    bool used[16] = {false};
    experts_route(logits, n, k, renormalise, ids, weights);
    for (int i = 0; i < n; i++) total += exp((double)logits[i]);
    for (int j = 0; j < k; j++) {
        int best = -1;
        for (int i = 0; i < n; i++)
            if (!used[i] && (best < 0 || logits[i] > logits[best])) best = i;
        used[best] = true;
        assert_int_equal(ids[j], best);
        chosen += exp((double)logits[best]) / total;
    }
    for (int j = 0; j < k; j++) {
        const double p = exp((double)logits[ids[j]]) / total;
        const double expected = renormalise ? p / chosen : p;
        assert_true(fabs((double)weights[j] - expected) < 1e-6);
    }
}

static void test_random(void **state) {
    (void)state;
    random_source r = {5};
    for (int round = 0; round < 200; round++) {
        float logits[9];
        for (int i = 0; i < 9; i++) logits[i] = random_value(&r, 3.0f);
        check_against_naive(logits, 9, 1 + round % 9, round % 2);
    }
}

static void test_ties_take_the_lowest_index(void **state) {
    (void)state;
    const float equal[] = {1, 2, 2, 1, 2, 0};
    for (int k = 1; k <= 6; k++) check_against_naive(equal, 6, k, false);
    int32_t ids[4];
    float weights[4];
    experts_route(equal, 6, 4, false, ids, weights);
    const int32_t expected[] = {1, 2, 4, 0};
    assert_memory_equal(ids, expected, sizeof expected);
}

static void test_not_a_number(void **state) {
    (void)state;
    const float bad[] = {NAN, NAN, NAN};
    int32_t ids[2];
    float weights[2];
    experts_route(bad, 3, 2, true, ids, weights);
    for (int j = 0; j < 2; j++) assert_in_range(ids[j], 0, 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_ties_take_the_lowest_index),
        cmocka_unit_test(test_not_a_number),
    };
    return cmocka_run_group_tests_name("experts", tests, NULL, NULL);
}
