/* SPDX-License-Identifier: Apache-2.0
 *
 * Every kernel of the list at every level against plain C, and plain C against libm in double
 * precision. The table of checks is generated from kernels.def: a kernel without one does not
 * link.
 */
#include "device_check.h"
#include "device/cpu/cpu.h"

/* Bounds, in units in the last place of the result (float32) unless named otherwise. */
#define EXP_ULP       1.5 /* through softmax_step and the sigmoids */
#define SIGMOID_ULP   4.0
#define GELU_RELATIVE 1e-6  /* of |x|; the tail below -3: of 1e-3 more */
#define OVERFLOW      1e-36 /* absolute: where e^-x is infinite the result is zero */
#define TANH_ULP      4.0
#define SUM_RELATIVE  1e-6 /* of the sum of magnitudes */
#define BF16_RELATIVE 2e-6

static kernels spec, level;
static const char *level_name;

static const int64_t counts[] = {0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 100, 255, 1031};

static double ulp_of(double value) {
    const float magnitude = fmaxf(fabsf((float)value), 0x1p-126f);
    return (double)nextafterf(magnitude, INFINITY) - (double)magnitude;
}

/* ---------------------------------------------------------------- element by element */

static const float extremes[] = {0.0f,    -0.0f,    1e-40f, -1e-40f, 1e-20f,  -1e-20f, 87.3f,
                                 -87.3f,  88.8f,    -88.8f, 104.0f,  -104.0f, 1e4f,    -1e4f,
                                 3.0e38f, -3.0e38f, 0.624f, -0.625f, 0.626f,  9.9f,    -13.3f};

typedef void (*map_kernel)(float *dst, const float *x, int64_t n);

/** bound(x, y): allowed distance from y = f(x). */
static void check_map(const char *name, map_kernel kernel, activation act,
                      double (*bound)(double x, double y)) {
    for (size_t c = 0; c < LLAVA_COUNT(counts); c++) {
        const int64_t n = counts[c];
        guarded x = guarded_new(n, random_below(16)), y = guarded_new(n, random_below(16));
        for (int64_t i = 0; i < n; i++) {
            const float range = (float[]){1e-3f, 1, 6, 100}[random_below(4)];
            x.data[i] = range * random_float();
            if (random_below(8) == 0) x.data[i] = extremes[random_below(LLAVA_COUNT(extremes))];
        }
        kernel(y.data, x.data, n);
        for (int64_t i = 0; i < n; i++) {
            const double expected = activation_reference(act, x.data[i]);
            if (fabs(expected) > 3.3e38 && isinf(y.data[i])) continue;
            assert_near(y.data[i], expected, bound(x.data[i], expected), "%s %s(%.9g)", level_name,
                        name, (double)x.data[i]);
        }
        kernel(x.data, x.data, n); /* in place */
        assert_same_bits(x.data, y.data, n, name);
        guarded_free(&x);
        guarded_free(&y);
    }
    float nan = NAN, out = 0;
    kernel(&out, &nan, 1);
    assert_true(isnan(out));
}

static double sigmoid_bound(double x, double y) {
    return SIGMOID_ULP * ulp_of(y) * (1 + 0.6 * fmin(fabs(x), 110)) + OVERFLOW;
}
static double gelu_bound(double x, double y) {
    return GELU_RELATIVE * fabs(y) * (1 + x * x / 8) + 1.2e-7 * fmin(fabs(x), 1) + OVERFLOW;
}
static double tanh_bound(double x, double y) {
    (void)x;
    return TANH_ULP * ulp_of(y);
}
static double exact_bound(double x, double y) {
    (void)x;
    return 0.5 * ulp_of(y);
}

static void check_silu(void) { check_map("silu", level.silu, ACT_SILU, sigmoid_bound); }
static void check_gelu(void) { check_map("gelu", level.gelu, ACT_GELU, gelu_bound); }
static void check_gelu_tanh(void) {
    check_map("gelu_tanh", level.gelu_tanh, ACT_GELU_TANH, gelu_bound);
}
static void check_quick_gelu(void) {
    check_map("quick_gelu", level.quick_gelu, ACT_QUICK_GELU, sigmoid_bound);
}
static void check_relu(void) { check_map("relu", level.relu, ACT_RELU, exact_bound); }
static void check_relu2(void) { check_map("relu2", level.relu2, ACT_RELU2, exact_bound); }
static void check_tanh(void) { check_map("tanh", level.tanh, ACT_TANH, tanh_bound); }
static void check_sigmoid(void) { check_map("sigmoid", level.sigmoid, ACT_SIGMOID, sigmoid_bound); }

/** Kernels that round the same way at every level: bit by bit. */
static void check_multiply(void) {
    for (size_t c = 0; c < LLAVA_COUNT(counts); c++) {
        const int64_t n = counts[c];
        guarded x = guarded_new(n, 1), y = guarded_new(n, 2), a = guarded_new(n, 3);
        guarded b = guarded_new(n, 0);
        random_fill(x.data, n, 5);
        random_fill(y.data, n, 5);
        spec.multiply(a.data, x.data, y.data, n);
        level.multiply(b.data, x.data, y.data, n);
        assert_same_bits(a.data, b.data, n, "multiply");
        guarded_free(&x);
        guarded_free(&y);
        guarded_free(&a);
        guarded_free(&b);
    }
}

static void check_scaling(bool adds) {
    for (size_t c = 0; c < LLAVA_COUNT(counts); c++) {
        const int64_t n = counts[c];
        guarded x = guarded_new(n, 1), a = guarded_new(n, 3), b = guarded_new(n, 0);
        random_fill(x.data, n, 5);
        random_fill(a.data, n, 5);
        memcpy(b.data, a.data, (size_t)n * sizeof(float));
        (adds ? spec.add_scaled : spec.scale)(a.data, x.data, n, 0.37f);
        (adds ? level.add_scaled : level.scale)(b.data, x.data, n, 0.37f);
        assert_same_bits(a.data, b.data, n, adds ? "add_scaled" : "scale");
        guarded_free(&x);
        guarded_free(&a);
        guarded_free(&b);
    }
}
static void check_add_scaled(void) { check_scaling(true); }
static void check_scale(void) { check_scaling(false); }

/* ---------------------------------------------------------------- conversions */

typedef void (*widen_kernel)(float *dst, const void *src, int64_t n);
typedef void (*narrow_kernel)(void *dst, const float *src, int64_t n);

/** All 65536 halves, at odd addresses and odd counts. */
static void check_widen(const char *name, widen_kernel expected, widen_kernel kernel) {
    enum { ALL = 1 << 16 };
    uint8_t *halves = aligned_new(2 * ALL + 1);
    for (uint32_t i = 0; i < ALL; i++) memcpy(halves + 1 + 2 * i, &(uint16_t){(uint16_t)i}, 2);
    for (int64_t first = 0, n = 0; first < ALL; first += n) {
        n = i64_min(ALL - first, random_below(2000));
        guarded a = guarded_new(n, 0), b = guarded_new(n, 1);
        expected(a.data, halves + 1 + 2 * first, n);
        kernel(b.data, halves + 1 + 2 * first, n);
        for (int64_t i = 0; i < n; i++)
            if (!isnan(a.data[i]) || !isnan(b.data[i]))
                assert_same_bits(a.data + i, b.data + i, 1, name);
        guarded_free(&a);
        guarded_free(&b);
    }
    free(halves);
}
static void check_widen_f16(void) { check_widen("widen_f16", spec.widen_f16, level.widen_f16); }
static void check_widen_bf16(void) { check_widen("widen_bf16", spec.widen_bf16, level.widen_bf16); }

/** Random bit patterns, ties and not-a-number included; only nan payloads may differ. */
static void fill_patterns(float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = random_bits();
        if (random_below(2)) bits = (bits & 0xffff0000u) | 0x8000u;
        if (random_below(2)) bits = (bits & 0xbfffffffu) | (random_below(2) ? 0x38000000u : 0);
        x[i] = f32_from_bits(bits);
    }
}

static void check_narrow(const char *name, narrow_kernel expected, narrow_kernel kernel,
                         float (*back)(uint16_t)) {
    for (int turn = 0; turn < 300; turn++) {
        const int64_t n = turn < 40 ? turn : random_below(500);
        guarded x = guarded_new(n, random_below(16));
        guarded a = guarded_new(n / 2 + 1, 0), b = guarded_new(n / 2 + 1, 1);
        fill_patterns(x.data, n);
        memset(a.data, 0, (size_t)(n / 2 + 1) * 4);
        memset(b.data, 0, (size_t)(n / 2 + 1) * 4);
        expected((uint8_t *)a.data + 1, x.data, n);
        kernel((uint8_t *)b.data + 1, x.data, n);
        for (int64_t i = 0; i < n; i++) {
            uint16_t p, q;
            memcpy(&p, (uint8_t *)a.data + 1 + 2 * i, 2);
            memcpy(&q, (uint8_t *)b.data + 1 + 2 * i, 2);
            if (isnan(x.data[i]) && isnan(back(p)) && isnan(back(q))) continue;
            if (p != q) fail_msg("%s %s(%a): %04x and %04x", level_name, name, x.data[i], p, q);
        }
        guarded_free(&x);
        guarded_free(&a);
        guarded_free(&b);
    }
}
static float bf16_back(uint16_t half) { return bf16_to_f32(half); }
static void check_narrow_f16(void) {
    check_narrow("narrow_f16", spec.narrow_f16, level.narrow_f16, f16_to_f32);
}
static void check_narrow_bf16(void) {
    check_narrow("narrow_bf16", spec.narrow_bf16, level.narrow_bf16, bf16_back);
}

static void check_round_bf16(void) {
    for (int64_t n = 0; n < 200; n++) {
        guarded x = guarded_new(n, random_below(16)), a = guarded_new(n, 2);
        fill_patterns(x.data, n);
        level.round_bf16(a.data, x.data, n);
        for (int64_t i = 0; i < n; i++) {
            const float expected = bf16_to_f32(f32_to_bf16(x.data[i]));
            if (isnan(expected) && isnan(a.data[i])) continue;
            assert_same_bits(a.data + i, &expected, 1, "round_bf16");
        }
        guarded_free(&x);
        guarded_free(&a);
    }
}

/* ---------------------------------------------------------------- rows */

static void check_reduction(bool squares) {
    for (size_t c = 0; c < LLAVA_COUNT(counts); c++) {
        const int64_t n = counts[c];
        guarded x = guarded_new(n, random_below(16));
        random_fill(x.data, n, 10);
        const float center = squares ? 0.3f : 0;
        double sum = 0, magnitude = 0;
        for (int64_t i = 0; i < n; i++) {
            const double d = (double)x.data[i] - (double)center;
            sum += squares ? d * d : x.data[i];
            magnitude += squares ? d * d : fabs(x.data[i]);
        }
        const float y = squares ? level.sum_squares(x.data, n, center) : level.sum(x.data, n);
        assert_near(y, sum, SUM_RELATIVE * magnitude, "%s sum of %lld", level_name, (long long)n);
        guarded_free(&x);
    }
}
static void check_sum(void) { check_reduction(false); }
static void check_sum_squares(void) { check_reduction(true); }

static void check_normalize(void) {
    for (size_t c = 0; c < LLAVA_COUNT(counts); c++) {
        const int64_t n = counts[c];
        guarded x = guarded_new(n, 1), w = guarded_new(n, 2), b = guarded_new(n, 3);
        guarded p = guarded_new(n, 4), q = guarded_new(n, 5);
        random_fill(x.data, n, 5);
        random_fill(w.data, n, 2);
        random_fill(b.data, n, 2);
        normalize_args args = {p.data, x.data, w.data, n % 2 ? b.data : NULL, n, 0.2f, 1.7f};
        spec.normalize(&args);
        args.dst = q.data;
        level.normalize(&args);
        assert_same_bits(p.data, q.data, n, "normalize");
        args.dst = x.data;
        level.normalize(&args);
        assert_same_bits(p.data, x.data, n, "normalize in place");
        guarded_free(&x);
        guarded_free(&w);
        guarded_free(&b);
        guarded_free(&p);
        guarded_free(&q);
    }
}

static void check_rope(void) {
    for (int64_t half = 0; half < 70; half++) {
        guarded x = guarded_new(2 * half, 1), y = guarded_new(2 * half, 0);
        guarded cos = guarded_new(half, 2), sin = guarded_new(half, 3);
        random_fill(x.data, 2 * half, 5);
        random_fill(cos.data, half, 1);
        random_fill(sin.data, half, 1);
        memcpy(y.data, x.data, (size_t)half * 2 * sizeof(float));
        spec.rope(x.data, cos.data, sin.data, half);
        level.rope(y.data, cos.data, sin.data, half);
        assert_same_bits(x.data, y.data, 2 * half, "rope");
        guarded_free(&x);
        guarded_free(&y);
        guarded_free(&cos);
        guarded_free(&sin);
    }
}

/* ---------------------------------------------------------------- attention */

static void check_pair_rows(void) {
    for (int64_t n = 0; n < 150; n++) {
        guarded a = guarded_new(n, 1), b = guarded_new(n, 2);
        guarded x = guarded_new(n, 0), y = guarded_new(n, 3);
        fill_patterns(a.data, n);
        fill_patterns(b.data, n);
        spec.pair_rows((uint16_t *)x.data, (uint16_t *)a.data, (uint16_t *)b.data, n);
        level.pair_rows((uint16_t *)y.data, (uint16_t *)a.data, (uint16_t *)b.data, n);
        assert_memory_equal(x.data, y.data, (size_t)n * sizeof(float));
        guarded_free(&a);
        guarded_free(&b);
        guarded_free(&x);
        guarded_free(&y);
    }
}

static void check_softmax_step(void) {
    for (int turn = 0; turn < 400; turn++) {
        const int64_t n = KERNEL_KEYS * (1 + random_below(4));
        guarded s = guarded_new(n, 0);
        double scores[4 * KERNEL_KEYS];
        random_fill(s.data, n, (float[]){1, 30, 1000}[turn % 3]);
        float maximum = turn % 2 ? -INFINITY : 20 * random_float(), sum = turn % 2 ? 0 : 3.5f;
        const float before = maximum;
        softmax_args args = {.scores = s.data,
                             .maximum = &maximum,
                             .sum = &sum,
                             .n = n,
                             .first = random_below(n + 1),
                             .scale = 0.125f,
                             .slope = turn % 4 ? 0 : 0.25f,
                             .offset = -40};
        args.last = args.first + random_below(n + 1 - args.first);
        double expected_maximum = maximum, expected = 0, largest = 0;
        for (int64_t j = 0; j < n; j++) {
            const bool seen = j >= args.first && j < args.last;
            const double score = (double)s.data[j] * 0.125;
            const double bias = (double)args.slope * (double)(j - 40);
            scores[j] = seen ? score + bias : -INFINITY;
            expected_maximum = fmax(expected_maximum, scores[j]);
            if (seen) largest = fmax(largest, fabs(score) + fabs(bias));
        }
        if (turn % 2 == 0) largest += fabs((double)before);
        const float factor = level.softmax_step(&args);
        const bool nothing = expected_maximum == -INFINITY;
        for (int64_t j = 0; j < n; j++) {
            const double p = nothing ? 0 : exp(scores[j] - expected_maximum);
            expected += p;
            assert_near(s.data[j], p, p * (EXP_ULP + 3 * largest) * 6e-8 + 1.5e-45, "%s softmax",
                        level_name);
        }
        const double kept = nothing ? 1 : exp((double)before - expected_maximum);
        assert_near(factor, kept, kept * (EXP_ULP + 3 * largest) * 6e-8 + 1.5e-45, "%s factor",
                    level_name);
        expected += kept * (turn % 2 ? 0 : 3.5);
        assert_near(sum, expected, expected * (5 + 3 * largest) * 6e-8, "%s sum", level_name);
        assert_near(nothing ? 0 : maximum, nothing ? 0 : expected_maximum, 1e-7 * largest,
                    "%s maximum", level_name);
        guarded_free(&s);
    }
}

/* ---------------------------------------------------------------- products */

static void check_epilogue(void) {
    for (int64_t n = 0; n < 70; n++) {
        const int64_t m = 1 + n % 5;
        guarded c = guarded_new(m * 70, 0), bias = guarded_new(n, 1), r = guarded_new(m * n, 2);
        guarded a = guarded_new(m * n, 3), b = guarded_new(m * n, 4);
        random_fill(c.data, m * 70, 1);
        random_fill(bias.data, n, 1);
        random_fill(r.data, m * n, 1);
        epilogue_args args = {.dst = a.data,
                              .c = c.data,
                              .bias = n % 2 ? bias.data : NULL,
                              .residual = n % 3 ? r.data : NULL,
                              .ldd = n,
                              .ldc = 70,
                              .ldr = n,
                              .m = m,
                              .n = n};
        spec.epilogue(&args);
        args.dst = b.data;
        level.epilogue(&args);
        assert_same_bits(a.data, b.data, m * n, "epilogue");
        guarded_free(&c);
        guarded_free(&bias);
        guarded_free(&r);
        guarded_free(&a);
        guarded_free(&b);
    }
}

typedef void (*pack_kernel)(const pack_args *args);

static void check_pack(const char *name, pack_kernel expected, pack_kernel kernel,
                       llava_dtype dtype, bool pairs) {
    for (int turn = 0; turn < 200; turn++) {
        const int64_t ld = KERNEL_PAD * (1 + random_below(4)), n = random_below(ld + 1);
        const int64_t k = random_below(70), floats = (pairs ? ceil_div(k, 2) : k) * ld;
        weight w = random_weight(dtype, n ? n : 1, k + 3, 1, 1);
        guarded a = guarded_new(floats, 0), b = guarded_new(floats, 0);
        pack_args args = {.dst = a.data,
                          .src = w.data,
                          .row_bytes = (k + 3) * (int64_t)dtype_size(dtype),
                          .n = n,
                          .k = k,
                          .ld = ld};
        expected(&args);
        args.dst = b.data;
        kernel(&args);
        assert_same_bits(a.data, b.data, floats, name);
        guarded_free(&a);
        guarded_free(&b);
        weight_free(&w, 1);
    }
}
static void check_pack_f32(void) {
    check_pack("pack_f32", spec.pack_f32, level.pack_f32, LLAVA_DTYPE_F32, false);
}
static void check_pack_f16(void) {
    check_pack("pack_f16", spec.pack_f16, level.pack_f16, LLAVA_DTYPE_F16, false);
}
static void check_pack_bf16(void) {
    check_pack("pack_bf16", spec.pack_bf16, level.pack_bf16, LLAVA_DTYPE_BF16, false);
}
static void check_pack_bf16_pairs(void) {
    check_pack("pack_bf16_pairs", spec.pack_bf16_pairs, level.pack_bf16_pairs, LLAVA_DTYPE_BF16,
               true);
}

static void check_gemm_f32(void) {
    for (int turn = 0; turn < 300; turn++) {
        const int64_t m = random_below(20), n = 1 + random_below(level.tile_columns);
        const int64_t k = turn % 10 ? random_below(90) : 0, pad = round_up(n, KERNEL_PAD);
        guarded a = guarded_new(m * (k + 3), 1), b = guarded_new(k * pad, 0);
        guarded c = guarded_new(m * pad, 0), d = guarded_new(m * pad, 0);
        random_fill(a.data, m * (k + 3), 1);
        random_fill(b.data, k * pad, 1);
        random_fill(c.data, m * pad, 1);
        memcpy(d.data, c.data, (size_t)(m * pad) * sizeof(float));
        gemm_f32_args args = {.a = a.data,
                              .b = b.data,
                              .c = c.data,
                              .lda = k + 3,
                              .ldb = pad,
                              .ldc = pad,
                              .m = m,
                              .n = n,
                              .k = k,
                              .accumulate = turn % 2};
        spec.gemm_f32(&args);
        args.c = d.data;
        level.gemm_f32(&args);
        for (int64_t i = 0; i < m * pad; i++)
            if (i % pad < n)
                assert_near(d.data[i], c.data[i], SUM_RELATIVE * (double)(k + 1), "%s gemm_f32",
                            level_name);
        guarded_free(&a);
        guarded_free(&b);
        guarded_free(&c);
        guarded_free(&d);
    }
}

static void check_gemm_bf16(void) {
    for (int turn = 0; turn < 300; turn++) {
        const int64_t m = random_below(20), n = 1 + random_below(level.tile_columns);
        const int64_t k = 2 * random_below(50), pad = round_up(n, KERNEL_PAD), lda = k + 2;
        weight a = random_weight(LLAVA_DTYPE_BF16, m + 1, lda, 4, 1);
        weight b = random_weight(LLAVA_DTYPE_BF16, k / 2 + 1, 2 * pad, 0, 1);
        guarded c = guarded_new(m * pad, 0), d = guarded_new(m * pad, 0);
        random_fill(c.data, m * pad, 1);
        memcpy(d.data, c.data, (size_t)(m * pad) * sizeof(float));
        gemm_bf16_args args = {.a = a.data,
                               .b = b.data,
                               .c = c.data,
                               .lda = lda,
                               .ldb = 2 * pad,
                               .ldc = pad,
                               .m = m,
                               .n = n,
                               .k = k,
                               .accumulate = turn % 2};
        spec.gemm_bf16(&args);
        args.c = d.data;
        level.gemm_bf16(&args);
        for (int64_t i = 0; i < m * pad; i++)
            if (i % pad < n)
                assert_near(d.data[i], c.data[i], BF16_RELATIVE * (double)(k + 1), "%s gemm_bf16",
                            level_name);
        guarded_free(&c);
        guarded_free(&d);
        weight_free(&a, 4);
        weight_free(&b, 0);
    }
}

typedef void (*dot_kernel)(const dot_args *args);

static void check_dot(const char *name, dot_kernel kernel, llava_dtype dtype) {
    for (int turn = 0; turn < 200; turn++) {
        const int64_t n_w = random_below(12), n_x = random_below(12), k = random_below(200);
        const int64_t x_stride = k + random_below(3), dst_stride = n_w + random_below(3);
        weight w = random_weight(dtype, n_w + 1, k, 1, 1);
        weight x = random_weight(LLAVA_DTYPE_F32, n_x + 1, x_stride, 4, 1);
        guarded dst = guarded_new(n_x * dst_stride, 1);
        const dot_args args = {.dst = dst.data,
                               .w = w.data,
                               .x = x.data,
                               .dst_stride = dst_stride,
                               .x_stride = x_stride,
                               .n_w = n_w,
                               .n_x = n_x,
                               .k = k};
        kernel(&args);
        for (int64_t i = 0; i < n_x; i++)
            for (int64_t r = 0; r < n_w; r++) {
                double sum = 0;
                for (int64_t j = 0; j < k; j++)
                    sum += (double)weight_at(&w, r, j) * weight_at(&x, i, j);
                assert_near(dst.data[i * dst_stride + r], sum, BF16_RELATIVE * (double)(k + 1),
                            "%s %s", level_name, name);
            }
        guarded_free(&dst);
        weight_free(&w, 1);
        weight_free(&x, 4);
    }
}
static void check_dot_f32(void) { check_dot("dot_f32", level.dot_f32, LLAVA_DTYPE_F32); }
static void check_dot_f16(void) { check_dot("dot_f16", level.dot_f16, LLAVA_DTYPE_F16); }
static void check_dot_bf16(void) { check_dot("dot_bf16", level.dot_bf16, LLAVA_DTYPE_BF16); }

static void check_split_pairs(void) {
    for (int turn = 0; turn < 200; turn++) {
        const int64_t n = random_below(150), padded = round_up(n, KERNEL_SPLIT);
        guarded x = guarded_new(n, 1), a = guarded_new(padded, 0), b = guarded_new(padded, 0);
        random_fill(x.data, n, 1);
        spec.split_pairs(a.data, x.data, n);
        level.split_pairs(b.data, x.data, n);
        assert_memory_equal(a.data, b.data, (size_t)padded * sizeof(float));
        for (int64_t i = 0; i < n; i++) {
            const int64_t in = i % KERNEL_SPLIT, at = in / 2 + in % 2 * (KERNEL_SPLIT / 2);
            assert_true(a.data[i - in + at] == x.data[i]);
        }
        guarded_free(&x);
        guarded_free(&a);
        guarded_free(&b);
    }
}

/** Rows give bit for bit the same alone, together, and split where the level splits. */
static void check_dot_bf16_rows(void) {
    for (int turn = 0; turn < 100; turn++) {
        const int64_t n_w = random_below(12), n_x = 1 + random_below(12), k = random_below(200);
        const int64_t stride = round_up(k, KERNEL_SPLIT);
        weight w = random_weight(LLAVA_DTYPE_BF16, n_w + 1, k, 1, 1);
        guarded x = guarded_new(n_x * stride, 0), split = guarded_new(n_x * stride, 0);
        guarded one = guarded_new(n_x * n_w, 0), all = guarded_new(n_x * n_w, 0);
        random_fill(x.data, n_x * stride, 1);
        dot_args args = {.w = w.data, .dst_stride = n_w, .x_stride = stride, .n_w = n_w, .k = k};
        for (int64_t i = 0; i < n_x; i++) {
            args.dst = one.data + i * n_w;
            args.x = x.data + i * stride;
            args.n_x = 1;
            level.dot_bf16(&args);
            level.split_pairs(split.data + i * stride, x.data + i * stride, k);
        }
        args.dst = all.data;
        args.n_x = n_x;
        args.split = level.splits_pairs;
        args.x = args.split ? split.data : x.data;
        level.dot_bf16(&args);
        assert_memory_equal(one.data, all.data, (size_t)(n_x * n_w) * sizeof(float));
        guarded_free(&x);
        guarded_free(&split);
        guarded_free(&one);
        guarded_free(&all);
        weight_free(&w, 1);
    }
}

#include "check_quant_kernels.h"

static void check_key_scores(const char *name, void (*kernel)(const key_scores_args *args),
                             llava_dtype dtype) {
    for (int turn = 0; turn < 300; turn++) {
        const int64_t n_q = random_below(10), n_keys = random_below(KERNEL_KEYS + 1);
        const int64_t dim = random_below(150), stride = dim + random_below(3);
        const int64_t k_stride = dim + random_below(3);
        weight k = random_weight(dtype, n_keys + 1, k_stride, 1, 1);
        guarded q = guarded_new(n_q * stride, 1), dst = guarded_new(n_q * KERNEL_KEYS, 0);
        random_fill(q.data, n_q * stride, 1);
        const key_scores_args args = {.dst = dst.data,
                                      .q = q.data,
                                      .k = k.data,
                                      .next = turn % 2 ? k.data : NULL,
                                      .q_stride = stride,
                                      .row_bytes = k_stride * (int64_t)dtype_size(dtype),
                                      .n_queries = n_q,
                                      .n_keys = n_keys,
                                      .dim = dim};
        kernel(&args);
        for (int64_t i = 0; i < n_q; i++)
            for (int64_t t = 0; t < n_keys; t++) {
                double sum = 0;
                for (int64_t d = 0; d < dim; d++)
                    sum += (double)q.data[i * stride + d] * weight_at(&k, t, d);
                assert_near(dst.data[i * KERNEL_KEYS + t], sum, BF16_RELATIVE * (double)(dim + 1),
                            "%s %s", level_name, name);
            }
        guarded_free(&q);
        guarded_free(&dst);
        weight_free(&k, 1);
    }
}
static void check_key_scores_f32(void) {
    check_key_scores("key_scores_f32", level.key_scores_f32, LLAVA_DTYPE_F32);
}
static void check_key_scores_f16(void) {
    check_key_scores("key_scores_f16", level.key_scores_f16, LLAVA_DTYPE_F16);
}
static void check_key_scores_bf16(void) {
    check_key_scores("key_scores_bf16", level.key_scores_bf16, LLAVA_DTYPE_BF16);
}

static void check_value_sums(const char *name, void (*kernel)(const value_sums_args *args),
                             llava_dtype dtype) {
    for (int turn = 0; turn < 300; turn++) {
        const int64_t n_q = random_below(18), n_keys = random_below(KERNEL_KEYS + 1);
        const int64_t dim = random_below(150), stride = dim + random_below(3);
        const int64_t v_stride = dim + random_below(3);
        weight v = random_weight(dtype, n_keys + 1, v_stride, 1, 1);
        guarded p = guarded_new(n_q * KERNEL_KEYS, 1), dst = guarded_new(n_q * stride, 1);
        guarded factors = guarded_new(n_q, 0);
        random_fill(p.data, n_q * KERNEL_KEYS, 1);
        random_fill(dst.data, n_q * stride, 1);
        random_fill(factors.data, n_q, 1);
        double *expected = array_new((size_t)(n_q * stride + 1), sizeof *expected);
        for (int64_t i = 0; i < n_q; i++)
            for (int64_t d = 0; d < dim; d++) {
                double sum = (double)dst.data[i * stride + d];
                if (turn % 2) sum *= (double)factors.data[i];
                for (int64_t t = 0; t < n_keys; t++)
                    sum += (double)p.data[i * KERNEL_KEYS + t] * weight_at(&v, t, d);
                expected[i * stride + d] = sum;
            }
        const value_sums_args args = {.dst = dst.data,
                                      .weights = p.data,
                                      .factors = turn % 2 ? factors.data : NULL,
                                      .v = v.data,
                                      .next = turn % 3 ? v.data : NULL,
                                      .dst_stride = stride,
                                      .row_bytes = v_stride * (int64_t)dtype_size(dtype),
                                      .n_queries = n_q,
                                      .n_keys = n_keys,
                                      .dim = dim};
        kernel(&args);
        for (int64_t i = 0; i < n_q; i++)
            for (int64_t d = 0; d < dim; d++)
                assert_near(dst.data[i * stride + d], expected[i * stride + d],
                            BF16_RELATIVE * (double)(n_keys + 1), "%s %s", level_name, name);
        free(expected);
        guarded_free(&p);
        guarded_free(&dst);
        guarded_free(&factors);
        weight_free(&v, 1);
    }
}
static void check_value_sums_f32(void) {
    check_value_sums("value_sums_f32", level.value_sums_f32, LLAVA_DTYPE_F32);
}
static void check_value_sums_f16(void) {
    check_value_sums("value_sums_f16", level.value_sums_f16, LLAVA_DTYPE_F16);
}
static void check_value_sums_bf16(void) {
    check_value_sums("value_sums_bf16", level.value_sums_bf16, LLAVA_DTYPE_BF16);
}

/** Rows of codes, each followed by its scale, somewhere in unaligned memory. */
static uint8_t *random_i8_rows(int64_t n, int64_t dim, int64_t row_bytes) {
    uint8_t *rows = array_new((size_t)(n * row_bytes + 1), 1);
    for (int64_t t = 0; t < n; t++) {
        const float scale = (float)(1 + random_below(100)) / 12700;
        for (int64_t d = 0; d < dim; d++)
            rows[t * row_bytes + d] = (uint8_t)(int8_t)(random_below(255) - 127);
        memcpy(rows + t * row_bytes + dim, &scale, sizeof scale);
    }
    return rows;
}

static double i8_at(const uint8_t *row, int64_t dim, int64_t d) {
    return (double)(int8_t)row[d] * (double)i8_row_scale(row, dim);
}

static void check_widen_i8(void) {
    for (int64_t n = 0; n < 150; n++) {
        uint8_t *row = random_i8_rows(1, n, n + 4);
        guarded a = guarded_new(n, 0), b = guarded_new(n, 1);
        spec.widen_i8(a.data, row, n);
        level.widen_i8(b.data, row, n);
        for (int64_t i = 0; i < n; i++)
            assert_near(a.data[i], i8_at(row, n, i), BF16_RELATIVE, "widen_i8");
        assert_same_bits(a.data, b.data, n, "widen_i8");
        guarded_free(&a);
        guarded_free(&b);
        free(row);
    }
}

static void check_key_scores_i8(void) {
    for (int turn = 0; turn < 300; turn++) {
        const int64_t n_q = random_below(10), n_keys = random_below(KERNEL_KEYS + 1);
        const int64_t dim = random_below(150), row_bytes = dim + 4 + random_below(3);
        uint8_t *k = random_i8_rows(n_keys, dim, row_bytes);
        guarded q = guarded_new(n_q * dim, 1), dst = guarded_new(n_q * KERNEL_KEYS, 0);
        random_fill(q.data, n_q * dim, 1);
        const key_scores_args args = {.dst = dst.data,
                                      .q = q.data,
                                      .k = k,
                                      .q_stride = dim,
                                      .row_bytes = row_bytes,
                                      .n_queries = n_q,
                                      .n_keys = n_keys,
                                      .dim = dim};
        level.key_scores_i8(&args);
        for (int64_t i = 0; i < n_q; i++)
            for (int64_t t = 0; t < n_keys; t++) {
                double sum = 0;
                for (int64_t d = 0; d < dim; d++)
                    sum += (double)q.data[i * dim + d] * i8_at(k + t * row_bytes, dim, d);
                assert_near(dst.data[i * KERNEL_KEYS + t], sum, BF16_RELATIVE * (double)(dim + 1),
                            "%s key_scores_i8", level_name);
            }
        guarded_free(&q);
        guarded_free(&dst);
        free(k);
    }
}

static void check_value_sums_i8(void) {
    for (int turn = 0; turn < 300; turn++) {
        const int64_t n_q = random_below(18), n_keys = random_below(KERNEL_KEYS + 1);
        const int64_t dim = random_below(150), row_bytes = dim + 4 + random_below(3);
        uint8_t *v = random_i8_rows(n_keys, dim, row_bytes);
        guarded p = guarded_new(n_q * KERNEL_KEYS, 1), dst = guarded_new(n_q * dim, 1);
        random_fill(p.data, n_q * KERNEL_KEYS, 1);
        memset(dst.data, 0, (size_t)(n_q * dim) * sizeof(float));
        const value_sums_args args = {.dst = dst.data,
                                      .weights = p.data,
                                      .v = v,
                                      .dst_stride = dim,
                                      .row_bytes = row_bytes,
                                      .n_queries = n_q,
                                      .n_keys = n_keys,
                                      .dim = dim};
        level.value_sums_i8(&args);
        for (int64_t i = 0; i < n_q; i++)
            for (int64_t d = 0; d < dim; d++) {
                double sum = 0;
                for (int64_t t = 0; t < n_keys; t++)
                    sum += (double)p.data[i * KERNEL_KEYS + t] * i8_at(v + t * row_bytes, dim, d);
                assert_near(dst.data[i * dim + d], sum, BF16_RELATIVE * (double)(n_keys + 1),
                            "%s value_sums_i8", level_name);
            }
        guarded_free(&p);
        guarded_free(&dst);
        free(v);
    }
}

/* ---------------------------------------------------------------- the list */

typedef struct kernel_check {
    const char *name;
    void (*check)(void);
} kernel_check;

static const kernel_check checks[] = {
#define KERNEL(name, result, parameters) {#name, check_##name},
#include "device/cpu/kernels.def"
#undef KERNEL
    {"rows of dot_bf16", check_dot_bf16_rows},
};

static void check_level(const char *name) {
    level_name = name;
    assert_true(kernels_for_level("c", &spec));
    assert_true(kernels_for_level(name, &level));
    for (size_t i = 0; i < LLAVA_COUNT(checks); i++) checks[i].check();
    printf("level %s: %zu kernels\n", name, LLAVA_COUNT(checks));
}

static void test_levels(void **state) {
    (void)state;
    each_level(check_level);
}

int main(int argc, char **argv) {
    check_start(argc, argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_levels)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
