/* SPDX-License-Identifier: Apache-2.0
 *
 * Rotary tables and ALiBi slopes against values worked out by hand or in double precision.
 */
#include <math.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdlib.h>

#include <cmocka.h>

#include "model_fixture.h"

static lm_config base_config(void) {
    return (lm_config){.head_dim = 16,
                       .rope_theta = 10000.0f,
                       .max_position_embeddings = 32,
                       .rope_factor = 2.0f,
                       .rope_low_freq_factor = 1.0f,
                       .rope_high_freq_factor = 4.0f,
                       .rope_original_max_position = 64};
}

static void assert_close(double a, double b, double tolerance) {
    if (!(fabs(a - b) <= tolerance)) fail_msg("%.9g, expected %.9g", a, b);
}

static void test_default(void **state) {
    (void)state;
    const lm_config lm = base_config();
    float f[8], c[8], s[8];
    rope_frequencies(&lm, 100, f);
    for (int j = 0; j < 8; j++) assert_close(f[j], pow(10000, -j / 8.0), 1e-7);
    rope_angles(&lm, f, 0, c, s);
    for (int j = 0; j < 8; j++) assert_true(c[j] == 1 && s[j] == 0);
    /* far out, the angle is the float32 product, not the exact one */
    rope_angles(&lm, f, 32767, c, s);
    bool differs = false;
    for (int j = 0; j < 8; j++) {
        const float angle = 32767.0f * f[j];
        assert_close(c[j], cos((double)angle), 6e-8);
        assert_close(s[j], sin((double)angle), 6e-8);
        differs = differs || fabs(c[j] - cos(32767.0 * (double)f[j])) > 1e-6;
    }
    assert_true(differs);
}

static void test_linear(void **state) {
    (void)state;
    lm_config lm = base_config();
    lm.rope = ROPE_LINEAR;
    lm.rope_factor = 3.5f;
    float f[8], c[8], s[8];
    rope_frequencies(&lm, 100, f);
    assert_close(f[1], pow(10000, -1 / 8.0), 1e-7);
    rope_angles(&lm, f, 10, c, s);
    for (int j = 0; j < 8; j++) assert_close(c[j], cos((double)((10.0f / 3.5f) * f[j])), 6e-8);
}

static void test_dynamic(void **state) {
    (void)state;
    lm_config lm = base_config();
    lm.rope = ROPE_DYNAMIC;
    float f[8];
    rope_frequencies(&lm, 32, f);
    assert_close(f[1], pow(10000, -1 / 8.0), 1e-7);
    /* 64 of 32 positions: base * (2 * 64 / 32 - 1) ^ (16 / 14) */
    rope_frequencies(&lm, 64, f);
    const double base = 10000 * pow(3, 16.0 / 14);
    for (int j = 0; j < 8; j++) assert_close(f[j], pow(base, -j / 8.0), 1e-7);
}

static void test_llama3(void **state) {
    (void)state;
    lm_config lm = base_config();
    lm.rope = ROPE_LLAMA3;
    lm.rope_factor = 8.0f;
    float f[8];
    rope_frequencies(&lm, 1000, f);
    /* wavelengths 6.28, 19.9, 62.8, 199, ...; below 16 kept, above 64 stretched by 8 */
    assert_close(f[0], 1, 1e-7);
    for (int j = 3; j < 8; j++) assert_close(f[j], pow(10000, -j / 8.0) / 8, 1e-8);
    for (int j = 1; j < 3; j++) {
        const double plain = pow(10000, -j / 8.0), wavelength = 2 * M_PI / plain;
        const double t = (64 / wavelength - 1) / 3;
        assert_true(t > 0 && t < 1);
        assert_close(f[j], (1 - t) * plain / 8 + t * plain, 1e-7);
    }
}

static void test_alibi(void **state) {
    (void)state;
    float slopes[8];
    alibi_slopes(8, slopes);
    for (int i = 0; i < 8; i++) assert_close(slopes[i], pow(2, -(i + 1)), 1e-9);
    alibi_slopes(2, slopes);
    assert_close(slopes[0], 1.0 / 16, 1e-9);
    assert_close(slopes[1], 1.0 / 256, 1e-9);
    /* 6 heads: of 2^-1 ... 2^-8 every second from the second on, then the others */
    const double six[] = {-2, -4, -6, -8, -1, -3};
    alibi_slopes(6, slopes);
    for (int i = 0; i < 6; i++) assert_close(slopes[i], pow(2, six[i]), 1e-9);
    alibi_slopes(1, slopes);
    assert_close(slopes[0], 1.0 / 256, 1e-9);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_default), cmocka_unit_test(test_linear),
        cmocka_unit_test(test_dynamic), cmocka_unit_test(test_llama3),
        cmocka_unit_test(test_alibi),
    };
    return cmocka_run_group_tests_name("rope_table", tests, NULL, NULL);
}
