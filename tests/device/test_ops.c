/* SPDX-License-Identifier: Apache-2.0
 *
 * Norms, rotation, activations, gathering, maps and patches at every level: against formulas in
 * double precision, over one thread and two bit by bit, rows alone and in a batch.
 */
#include "device_check.h"

#define NORM_BOUND 3e-6 /* of the largest output */
#define MAP_BOUND  2e-6 /* of the largest input */

static device *one, *two;

static void with_level(const char *level, void (*check)(void)) {
    one = open_level(1, level);
    two = open_level(2, level);
    check();
    device_close(&one);
    device_close(&two);
}

/* ---------------------------------------------------------------- norms */

static void reference_norm(const float *x, const weight *w, const weight *b, double eps,
                           bool centered, bool plus_one, double *y) {
    const int64_t dim = w->n_cols;
    double mean = 0, square = 0;
    for (int64_t i = 0; i < dim; i++) mean += x[i] / (double)dim;
    if (!centered) mean = 0;
    for (int64_t i = 0; i < dim; i++) square += (x[i] - mean) * (x[i] - mean) / (double)dim;
    for (int64_t i = 0; i < dim; i++) {
        const double factor = weight_at(w, 0, i) + (plus_one ? 1.0 : 0.0);
        y[i] = (x[i] - mean) / sqrt(square + eps) * factor + (b ? weight_at(b, 0, i) : 0);
    }
}

/** What a norm leaves as bfloat16 is what it gives otherwise, rounded. */
static void check_rounded_norm(const norm_args *norm, const float *expected, bool centered) {
    const int64_t dim = norm->w->n_cols, stride = bf16_row_stride(dim);
    uint16_t *rows = array_new((size_t)(norm->n_rows * stride), sizeof *rows);
    norm_args args = *norm;
    args.dst = NULL;
    args.dst_bf16 = rows;
    (centered ? two->ops->layernorm : two->ops->rmsnorm)(two, &args);
    assert_rounded_rows(rows, expected, norm->n_rows, dim);
    free(rows);
}

static void norm_case(int64_t n, int64_t dim, llava_dtype dtype, int variant) {
    const bool centered = variant < 2, biased = variant == 0, plus_one = variant == 3;
    weight w = random_weight(dtype, 1, dim, 1, 2), b = random_weight(dtype, 1, dim, 1, 1);
    guarded x = guarded_new(n * dim, 1), y = guarded_new(n * dim, 2), z = guarded_new(n * dim, 3);
    double *expected = array_new((size_t)dim, sizeof *expected);
    random_fill(x.data, n * dim, 3);
    for (int64_t i = 0; i < n * dim; i++) x.data[i] += centered ? 2 : 0;
    norm_args args = {.x = x.data,
                      .n_rows = n,
                      .w = &w,
                      .bias = biased ? &b : NULL,
                      .eps = centered ? 1e-5f : 1e-6f,
                      .plus_one = plus_one};
    for (int pass = 0; pass < 2; pass++) {
        device *d = pass ? two : one;
        float *dst = pass ? z.data : y.data;
        args.dst = dst;
        (centered ? d->ops->layernorm : d->ops->rmsnorm)(d, &args);
    }
    assert_same_bits(y.data, z.data, n * dim, "norm over two threads");
    for (int64_t i = 0; i < n; i++) {
        reference_norm(x.data + i * dim, &w, biased ? &b : NULL, centered ? 1e-5 : 1e-6, centered,
                       plus_one, expected);
        for (int64_t j = 0; j < dim; j++)
            assert_near(y.data[i * dim + j], expected[j], NORM_BOUND * (4 + fabs(expected[j])),
                        "%s norm %d of %lld", one->level, variant, (long long)dim);
    }
    check_rounded_norm(&args, y.data, centered);
    args.x = args.dst = x.data + (n - 1) * dim; /* the last row alone, in place */
    args.n_rows = 1;
    (centered ? two->ops->layernorm : two->ops->rmsnorm)(two, &args);
    assert_same_bits(x.data + (n - 1) * dim, y.data + (n - 1) * dim, dim, "row alone");
    guarded_free(&x);
    guarded_free(&y);
    guarded_free(&z);
    weight_free(&w, 1);
    weight_free(&b, 1);
    free(expected);
}

static void check_norms(void) {
    static const int64_t dims[] = {1, 7, 64, 896, 1025, 2050};
    for (size_t i = 0; i < LLAVA_COUNT(dims); i++)
        for (size_t t = 0; t < LLAVA_COUNT(stored_dtypes); t++)
            for (int variant = 0; variant < 4; variant++)
                norm_case(1 + random_below(70), dims[i], stored_dtypes[t], variant);
}

/* ---------------------------------------------------------------- rotation */

static void check_rope(void) {
    static const int64_t dims[] = {2, 6, 64, 80, 128};
    for (size_t c = 0; c < LLAVA_COUNT(dims); c++) {
        const int64_t n = 37, heads = 3, dim = dims[c], half = dim / 2, stride = heads * dim + 4;
        guarded x = guarded_new(n * stride, 1), y = guarded_new(n * stride, 0);
        float *cosine = array_new((size_t)(n * half), sizeof *cosine);
        float *sine = array_new((size_t)(n * half), sizeof *sine);
        random_fill(x.data, n * stride, 2);
        memcpy(y.data, x.data, (size_t)(n * stride) * sizeof(float));
        for (int64_t i = 0; i < n * half; i++) {
            cosine[i] = cosf((float)i);
            sine[i] = sinf((float)i);
        }
        two->ops->rope(two, y.data, stride, n, heads, dim, cosine, sine);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < stride; j++) {
                const int64_t at = j % dim, pair = at < half ? j + half : j - half;
                double expected = x.data[i * stride + j];
                if (j < heads * dim) {
                    const double other = x.data[i * stride + pair];
                    const double c0 = cosine[i * half + at % half], s = sine[i * half + at % half];
                    expected = expected * c0 + (at < half ? -other : other) * s;
                }
                assert_near(y.data[i * stride + j], expected, 5e-7, "%s rope", one->level);
            }
        free(cosine);
        free(sine);
        guarded_free(&x);
        guarded_free(&y);
    }
}

/* ---------------------------------------------------------------- flat arrays */

static void flat_case(int64_t n) {
    guarded x = guarded_new(n, 1), up = guarded_new(n, 2), y = guarded_new(n, 3);
    guarded z = guarded_new(n, 0);
    random_fill(x.data, n, 6);
    random_fill(up.data, n, 2);
    for (int a = 0; a < ACT_COUNT; a++) {
        const activation act = (activation)a;
        one->ops->gated(one, y.data, x.data, up.data, n, act);
        two->ops->gated(two, z.data, x.data, up.data, n, act);
        assert_same_bits(y.data, z.data, n, "gated over two threads");
        one->ops->activate(one, y.data, x.data, n, act);
        for (int64_t i = 0; i < n; i++) {
            const double expected = activation_reference(act, x.data[i]);
            const double bound = 2e-7 + 1e-6 * fabs(expected);
            assert_near(y.data[i], expected, bound, "%s activation %d", one->level, a);
            assert_near(z.data[i], expected * up.data[i], 2 * bound, "%s gated %d", one->level, a);
        }
        memcpy(z.data, x.data, (size_t)n * sizeof(float));
        two->ops->activate(two, z.data, z.data, n, act);
        assert_same_bits(y.data, z.data, n, "activation in place");
        memcpy(z.data, up.data, (size_t)n * sizeof(float));
        two->ops->gated(two, z.data, x.data, z.data, n, act);
        one->ops->gated(one, y.data, x.data, up.data, n, act);
        assert_same_bits(y.data, z.data, n, "gated in place");
    }
    memcpy(y.data, up.data, (size_t)n * sizeof(float));
    two->ops->add_scaled(two, y.data, x.data, n, 0.3f);
    for (int64_t i = 0; i < n; i++) {
        const float expected = up.data[i] + 0.3f * x.data[i];
        assert_same_bits(&y.data[i], &expected, 1, "add_scaled");
    }
    two->ops->scale(two, y.data, n, -1.5f);
    for (int64_t i = 0; i < n; i++) {
        const float expected = (up.data[i] + 0.3f * x.data[i]) * -1.5f;
        assert_same_bits(&y.data[i], &expected, 1, "scale");
    }
    guarded_free(&x);
    guarded_free(&up);
    guarded_free(&y);
    guarded_free(&z);
}

static void check_flat(void) {
    static const int64_t sizes[] = {0, 1, 100, 1025, 40007};
    for (size_t i = 0; i < LLAVA_COUNT(sizes); i++) flat_case(sizes[i]);
}

/* ---------------------------------------------------------------- rows by index */

static void check_rows(void) {
    enum { ROWS = 50, DIM = 700, PICKED = 41 };
    for (size_t t = 0; t < LLAVA_COUNT(stored_dtypes); t++) {
        weight table = random_weight(stored_dtypes[t], ROWS, DIM, 1, 2);
        guarded all = guarded_new(ROWS * DIM, 1), picked = guarded_new(PICKED * DIM, 2);
        two->ops->widen(two, all.data, &table, ROWS * DIM);
        for (int64_t i = 0; i < ROWS * DIM; i++) {
            const float expected = weight_at(&table, i / DIM, i % DIM);
            assert_same_bits(all.data + i, &expected, 1, "widen");
        }
        int32_t ids[PICKED];
        for (int i = 0; i < PICKED; i++) ids[i] = (int32_t)random_below(ROWS);
        two->ops->embed(two, picked.data, &table, ids, PICKED);
        for (int i = 0; i < PICKED; i++)
            assert_same_bits(picked.data + i * DIM, all.data + ids[i] * DIM, DIM, "embed");
        static const float zeros[DIM];
        ids[3] = ids[20] = -1;
        two->ops->gather(two, picked.data, all.data, ids, PICKED, DIM);
        for (int i = 0; i < PICKED; i++)
            assert_same_bits(picked.data + i * DIM, ids[i] < 0 ? zeros : all.data + ids[i] * DIM,
                             DIM, "gather");
        guarded_free(&all);
        guarded_free(&picked);
        weight_free(&table, 1);
    }
}

static void check_patches(void) {
    enum { N = 2, SIZE = 29, PATCH = 7, SIDE = 4 }; /* one row and column are left over */
    guarded pixels = guarded_new(N * 3 * SIZE * SIZE, 0);
    guarded rows = guarded_new(N * SIDE * SIDE * 3 * PATCH * PATCH, 1);
    random_fill(pixels.data, pixels.n, 1);
    two->ops->patchify(two, rows.data, pixels.data, N, SIZE, PATCH);
    for (int64_t i = 0; i < rows.n; i++) {
        const int64_t x = i % PATCH, y = i / PATCH % PATCH, channel = i / PATCH / PATCH % 3;
        const int64_t patch = i / (3 * PATCH * PATCH), picture = patch / (SIDE * SIDE);
        const int64_t line = patch % (SIDE * SIDE) / SIDE * PATCH + y;
        const int64_t column = patch % SIDE * PATCH + x;
        assert_same_bits(rows.data + i,
                         pixels.data + ((picture * 3 + channel) * SIZE + line) * SIZE + column, 1,
                         "patchify");
    }
    guarded_free(&pixels);
    guarded_free(&rows);
}

/* ---------------------------------------------------------------- maps */

/** Weight of input i for output o along one axis, by the definition of each operation. */
static double axis_weight(const map_args *args, int64_t in, int64_t out, int64_t o, int64_t i) {
    const double source = ((double)o + 0.5) * (double)in / (double)out - 0.5;
    switch (args->op) {
    case MAP_AVERAGE:
    case MAP_MAX: return i / args->stride == o ? 1.0 / (double)args->stride : 0;
    case MAP_AREA: {
        const int64_t first = o * in / out, last = ((o + 1) * in + out - 1) / out;
        return i >= first && i < last ? 1.0 / (double)(last - first) : 0;
    }
    case MAP_BILINEAR: {
        const double clamped = fmin(fmax(source, 0), (double)(in - 1));
        return fmax(0, 1 - fabs(clamped - (double)i));
    }
    case MAP_BICUBIC: break;
    }
    double sum = 0; /* taps beyond the border count for the border's value */
    for (int64_t tap = (int64_t)floor(source) - 1; tap <= (int64_t)floor(source) + 2; tap++) {
        const double t = fabs(source - (double)tap), a = -0.75;
        const double cubic = t <= 1 ? ((a + 2) * t - (a + 3)) * t * t + 1
                                    : ((a * t - 5 * a) * t + 8 * a) * t - 4 * a;
        if (i64_max(0, i64_min(tap, in - 1)) == i) sum += cubic;
    }
    return sum;
}

static double reference_map(const map_args *args, int64_t map, int64_t oy, int64_t ox, int64_t c) {
    double sum = 0, maximum = -INFINITY;
    for (int64_t y = 0; y < args->in_h; y++)
        for (int64_t x = 0; x < args->in_w; x++) {
            const double share = axis_weight(args, args->in_h, args->out_h, oy, y) *
                                 axis_weight(args, args->in_w, args->out_w, ox, x);
            const double v = args->x[((map * args->in_h + y) * args->in_w + x) * args->dim + c];
            sum += share * v;
            if (share != 0) maximum = fmax(maximum, v);
        }
    return args->op == MAP_MAX ? maximum : sum;
}

static void map_case(map_op op, int64_t in_h, int64_t in_w, int64_t out_h, int64_t out_w,
                     int64_t stride) {
    const int64_t n_maps = 2, dim = 5 + random_below(20);
    guarded x = guarded_new(n_maps * in_h * in_w * dim, 1);
    guarded y = guarded_new(n_maps * out_h * out_w * dim, 2), z = guarded_new(y.n, 3);
    random_fill(x.data, x.n, 1);
    map_args args = {op, x.data, y.data, n_maps, in_h, in_w, out_h, out_w, dim, stride};
    one->ops->map(one, &args);
    args.dst = z.data;
    two->ops->map(two, &args);
    assert_same_bits(y.data, z.data, y.n, "map over two threads");
    for (int64_t i = 0; i < y.n; i++) {
        const int64_t place = i / dim;
        const double expected = reference_map(&args, place / (out_h * out_w), place / out_w % out_h,
                                              place % out_w, i % dim);
        assert_near(y.data[i], expected, MAP_BOUND + 4e-7 * (double)(in_h + in_w),
                    "map %d, %lld x %lld -> %lld x %lld", op, (long long)in_h, (long long)in_w,
                    (long long)out_h, (long long)out_w);
    }
    guarded_free(&x);
    guarded_free(&y);
    guarded_free(&z);
}

static void check_maps(void) {
    for (int64_t stride = 1; stride < 5; stride++)
        for (int op = MAP_AVERAGE; op <= MAP_MAX; op++) {
            map_case((map_op)op, 9, 11, 9 / stride, 11 / stride, stride);
            map_case((map_op)op, 8, 8, 8 / stride, 8 / stride, stride);
        }
    static const int64_t sizes[][4] = {{9, 9, 5, 5},  {8, 8, 4, 4},   {7, 12, 7, 12}, {1, 1, 3, 2},
                                       {6, 4, 13, 9}, {27, 27, 9, 9}, {12, 5, 5, 12}, {2, 3, 1, 1}};
    for (size_t i = 0; i < LLAVA_COUNT(sizes); i++)
        for (int op = MAP_BILINEAR; op <= MAP_AREA; op++)
            map_case((map_op)op, sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3], 0);
}

static void check_memory(void) {
    uint8_t *memory = one->ops->alloc(one, 100), host[100], back[100];
    assert_non_null(memory);
    assert_int_equal((uintptr_t)memory % 64, 0);
    for (int i = 0; i < 100; i++) host[i] = (uint8_t)i;
    one->ops->upload(one, memory, host, sizeof host);
    one->ops->download(one, back, memory, sizeof back);
    assert_memory_equal(host, back, sizeof host);
    one->ops->release(one, memory);
    assert_string_equal(one->ops->name, "cpu");
}

/* ---------------------------------------------------------------- levels */

#define LEVEL_TEST(what)                                                                           \
    static void level_##what(const char *level) { with_level(level, check_##what); }               \
    static void test_##what(void **state) {                                                        \
        (void)state;                                                                               \
        each_level(level_##what);                                                                  \
    }
LEVEL_TEST(norms)
LEVEL_TEST(rope)
LEVEL_TEST(flat)
LEVEL_TEST(rows)
LEVEL_TEST(patches)
LEVEL_TEST(maps)
LEVEL_TEST(memory)

int main(int argc, char **argv) {
    check_start(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norms),  cmocka_unit_test(test_rope),    cmocka_unit_test(test_flat),
        cmocka_unit_test(test_rows),   cmocka_unit_test(test_patches), cmocka_unit_test(test_maps),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
