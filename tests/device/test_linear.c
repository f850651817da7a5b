/* SPDX-License-Identifier: Apache-2.0
 *
 * Products with weights at every level: against sums in double precision, and bit by bit between
 * thread counts and between a row alone and in a batch.
 */
#include <pthread.h>

#include "device/cpu/cpu.h"
#include "device_check.h"

/** Of the sum of magnitudes: rounding of float32 sums. */
#define SUM_BOUND 1e-6
/** vdpbf16ps rounds its partial sums in its own way and drops subnormals. */
#define BF16_SUM_BOUND 2e-6

typedef struct linear_case {
    int64_t m, k, n;
    llava_dtype dtype;
    linear_form form;
    bool bf16_inputs, bias, residual;
    activation act;
} linear_case;

typedef struct linear_data {
    float *x, *residual;
    weight w, bias;
    double *expected, *magnitude;
} linear_data;

#define WEIGHT_SHIFT 1 /* byte: as unaligned as a file may be */

static linear_data make_data(const linear_case *c) {
    linear_data data = {.w = random_weight(c->dtype, c->n, c->k, WEIGHT_SHIFT, 0.5f),
                        .bias = random_weight(c->dtype, 1, c->n, WEIGHT_SHIFT, 1)};
    data.x = array_new((size_t)(c->m * c->k), sizeof(float));
    data.residual = array_new((size_t)(c->m * c->n), sizeof(float));
    data.expected = array_new((size_t)(c->m * c->n), sizeof(double));
    data.magnitude = array_new((size_t)(c->m * c->n), sizeof(double));
    random_fill(data.x, c->m * c->k, 2);
    random_fill(data.residual, c->m * c->n, 3);
    for (int64_t i = 0; i < c->m; i++)
        for (int64_t j = 0; j < c->n; j++) {
            double sum = 0, magnitude = 0;
            for (int64_t k = 0; k < c->k; k++) {
                float x = data.x[i * c->k + k];
                if (c->bf16_inputs && c->form == LINEAR_PANEL) x = bf16_to_f32(f32_to_bf16(x));
                const double product = (double)x * weight_at(&data.w, j, k);
                sum += product;
                magnitude += fabs(product);
            }
            if (c->bias) sum += weight_at(&data.bias, 0, j);
            magnitude *= c->act == ACT_RELU2 ? 1 + 2 * fabs(sum) : 1.2; /* the steepest slope */
            sum = activation_reference(c->act, sum);
            if (c->residual) sum += data.residual[i * c->n + j];
            data.expected[i * c->n + j] = sum;
            data.magnitude[i * c->n + j] = magnitude + fabs(sum) + 1;
        }
    return data;
}

static void free_data(linear_data *data) {
    weight_free(&data->w, WEIGHT_SHIFT);
    weight_free(&data->bias, WEIGHT_SHIFT);
    free(data->x);
    free(data->residual);
    free(data->expected);
    free(data->magnitude);
}

static void run_linear(device *d, const linear_case *c, const linear_data *data, int64_t first,
                       int64_t n_rows, float *dst) {
    const linear_args args = {.x = data->x + first * c->k,
                              .n_rows = n_rows,
                              .w = &data->w,
                              .bias = c->bias ? &data->bias : NULL,
                              .act = c->act,
                              .residual = c->residual ? data->residual + first * c->n : NULL,
                              .dst = dst,
                              .form = c->form,
                              .bf16_inputs = c->bf16_inputs};
    d->ops->linear(d, &args);
}

/** The residual may be the output. */
static void check_in_place(device *d, const linear_case *c, const linear_data *data,
                           const float *expected) {
    linear_data own = *data;
    own.residual = array_new((size_t)(c->m * c->n), sizeof(float));
    memcpy(own.residual, data->residual, (size_t)(c->m * c->n) * sizeof(float));
    run_linear(d, c, &own, 0, c->m, own.residual);
    assert_same_bits(own.residual, expected, c->m * c->n, "residual in place");
    free(own.residual);
}

/** Inputs rounded before, and outputs rounded on the way, change nothing. */
static void check_rounded(device *d, const linear_case *c, const linear_data *data,
                          const float *expected) {
    uint16_t *x = rounded_rows(data->x, c->m, c->k);
    float *dst = array_new((size_t)(c->m * c->n), sizeof *dst);
    linear_args args = {.x_bf16 = x,
                        .n_rows = c->m,
                        .w = &data->w,
                        .bias = c->bias ? &data->bias : NULL,
                        .act = c->act,
                        .residual = c->residual ? data->residual : NULL,
                        .dst = dst,
                        .bf16_inputs = true};
    d->ops->linear(d, &args);
    assert_same_bits(dst, expected, c->m * c->n, "inputs rounded before");
    if (!c->residual) {
        uint16_t *rounded = rounded_rows(dst, c->m, c->n);
        memset(rounded, 0x55, (size_t)(c->m * bf16_row_stride(c->n)) * sizeof *rounded);
        args.dst = NULL;
        args.dst_bf16 = rounded;
        d->ops->linear(d, &args);
        assert_rounded_rows(rounded, expected, c->m, c->n);
        free(rounded);
    }
    free(x);
    free(dst);
}

static void check_case(device *one, device *two, const linear_case *c) {
    linear_data data = make_data(c);
    guarded a = guarded_new(c->m * c->n, 0), b = guarded_new(c->m * c->n, 1);
    run_linear(one, c, &data, 0, c->m, a.data);
    run_linear(two, c, &data, 0, c->m, b.data);
    const double bound = c->bf16_inputs ? BF16_SUM_BOUND : SUM_BOUND;
    for (int64_t i = 0; i < c->m * c->n; i++)
        assert_near(a.data[i], data.expected[i], bound * data.magnitude[i],
                    "%s %s form %d: %lld x %lld x %lld, element %lld", one->level,
                    dtype_name(c->dtype), c->form, (long long)c->m, (long long)c->k,
                    (long long)c->n, (long long)i);
    assert_same_bits(a.data, b.data, c->m * c->n, "two threads");
    for (int64_t i = 0; i < c->m; i += 1 + random_below(5)) {
        guarded row = guarded_new(c->n, 3);
        run_linear(two, c, &data, i, 1, row.data);
        assert_same_bits(row.data, a.data + i * c->n, c->n, "row alone");
        guarded_free(&row);
    }
    if (c->residual) check_in_place(two, c, &data, a.data);
    if (c->bf16_inputs && c->form == LINEAR_PANEL) check_rounded(two, c, &data, a.data);
    guarded_free(&a);
    guarded_free(&b);
    free_data(&data);
}

static const int64_t shapes[][3] = {
    {1, 1, 1},    {3, 7, 5},      {2, 0, 9},      {5, 2, 17},    {17, 130, 67}, {33, 63, 64},
    {65, 96, 72}, {7, 1153, 130}, {16, 2049, 33}, {40, 600, 96}, {13, 31, 16},  {101, 3200, 70},
};

static void check_shapes(const char *level) {
    device *one = open_level(1, level), *two = open_level(2, level);
    int turn = 0;
    for (size_t s = 0; s < LLAVA_COUNT(shapes); s++)
        for (size_t t = 0; t < LLAVA_COUNT(stored_dtypes); t++)
            for (int form = 0; form < 2; form++)
                for (int rounds = 0; rounds < 2; rounds++, turn++) {
                    const linear_case c = {.m = shapes[s][0],
                                           .k = shapes[s][1],
                                           .n = shapes[s][2],
                                           .dtype = stored_dtypes[t],
                                           .form = (linear_form)form,
                                           .bf16_inputs = rounds,
                                           .bias = turn % 2,
                                           .residual = turn % 3 == 0,
                                           .act = (activation)(turn % ACT_COUNT)};
                    check_case(one, two, &c);
                }
    device_close(&one);
    device_close(&two);
}

static void test_shapes(void **state) {
    (void)state;
    each_level(check_shapes);
}

/** More rows than are taken at once, and more inputs than the scratch holds for one row. */
static void check_parts(const char *level) {
    device *d = open_level(2, level);
    const int64_t n_rows = 2100, k = 48, n = 20;
    weight w = random_weight(LLAVA_DTYPE_BF16, n, k, 0, 1);
    float *x = array_new((size_t)(n_rows * k), sizeof(float));
    float *all = array_new((size_t)(n_rows * n), sizeof(float));
    random_fill(x, n_rows * k, 1);
    for (int form = 0; form < 2; form++) {
        linear_args args = {.x = x,
                            .n_rows = n_rows,
                            .w = &w,
                            .dst = all,
                            .form = (linear_form)form,
                            .bf16_inputs = true};
        d->ops->linear(d, &args);
        float few[7 * 20];
        args.dst = few;
        args.n_rows = 7;
        for (int64_t row = 0; row + 7 <= n_rows; row += 299) {
            args.x = x + row * k;
            d->ops->linear(d, &args);
            assert_same_bits(few, all + row * n, 7 * n, "seven rows of many");
        }
    }
    free(x);
    free(all);
    weight_free(&w, 0);
    device_close(&d);
}

static void test_parts(void **state) {
    (void)state;
    each_level(check_parts);
}

static void check_reserved(const char *level) {
    const linear_case c = {
        .m = 9, .k = (int64_t)3 << 19, .n = 3, .dtype = LLAVA_DTYPE_BF16, .bf16_inputs = true};
    linear_data data = make_data(&c);
    device *plain = open_level(1, level), *reserved = open_level(1, level);
    llava_error err;
    assert_int_equal(device_reserve(reserved, c.k, c.m, &err), LLAVA_OK);
    float a[9 * 3], b[9 * 3];
    run_linear(plain, &c, &data, 0, c.m, a);
    run_linear(reserved, &c, &data, 0, c.m, b);
    assert_same_bits(a, b, 9 * 3, "scratch reserved");
    assert_int_equal(device_reserve(reserved, INT64_MAX, INT64_MAX, &err), LLAVA_BAD_ARGUMENT);
    free_data(&data);
    device_close(&plain);
    device_close(&reserved);
}

static void test_reserved(void **state) {
    (void)state;
    each_level(check_reserved);
}

/* ---------------------------------------------------------------- several contexts */

typedef struct shared_work {
    device *d;
    const linear_case *c;
    const linear_data *data;
    const float *expected;
    bool same;
} shared_work;

static void *run_beside(void *user) {
    shared_work *work = user;
    const int64_t n = work->c->m * work->c->n;
    float *dst = array_new((size_t)n, sizeof *dst);
    work->same = dst != NULL;
    for (int i = 0; i < 20 && work->same; i++) {
        run_linear(work->d, work->c, work->data, 0, work->c->m, dst);
        work->same = memcmp(dst, work->expected, (size_t)n * sizeof *dst) == 0;
    }
    free(dst);
    return NULL;
}

/** Contexts of one model run at the same time on one device. */
static void check_beside(const char *level) {
    device *d = open_level(2, level);
    const linear_case c = {
        .m = 40, .k = 200, .n = 150, .dtype = LLAVA_DTYPE_BF16, .bf16_inputs = true, .bias = true};
    linear_data data = make_data(&c);
    float *expected = array_new((size_t)(c.m * c.n), sizeof *expected);
    run_linear(d, &c, &data, 0, c.m, expected);
    pthread_t threads[3];
    shared_work work[3];
    for (int i = 0; i < 3; i++) {
        work[i] = (shared_work){d, &c, &data, expected, false};
        assert_int_equal(pthread_create(&threads[i], NULL, run_beside, &work[i]), 0);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
        assert_true(work[i].same);
    }
    free(expected);
    free_data(&data);
    device_close(&d);
}

static void test_beside(void **state) {
    (void)state;
    each_level(check_beside);
}

#define TRIES 1000

/** Every thread has a part of the scratch; large products use all of them. Which thread takes which
 *  task is chance, so it is enough that each is seen once. */
static void test_threads(void **state) {
    (void)state;
    for (int form = LINEAR_PANEL; form <= LINEAR_DOT; form++) {
        device *d = open_level(2, "c");
        const linear_case c = {
            .m = 16, .k = 512, .n = 2048, .dtype = LLAVA_DTYPE_F32, .form = (linear_form)form};
        linear_data data = make_data(&c);
        float *dst = array_new((size_t)(c.m * c.n), sizeof *dst);
        bool used = false;
        for (int i = 0; i < TRIES && !used; i++) {
            cpu_scratch *scratch = cpu_scratch_take(d);
            float *second = scratch->threads + scratch->thread_floats;
            memset(second, 0, (size_t)scratch->thread_floats * sizeof *second);
            cpu_scratch_give(d, scratch);
            run_linear(d, &c, &data, 0, c.m, dst);
            for (int64_t j = 0; j < scratch->thread_floats && !used; j++) used = second[j] != 0;
        }
        assert_true(used);
        free(dst);
        free_data(&data);
        device_close(&d);
    }
}

static void test_opening(void **state) {
    (void)state;
    device *d;
    llava_error err;
    assert_int_equal(device_open_cpu(1, "sse9", &d, &err), LLAVA_BAD_ARGUMENT);
    assert_null(d);
    assert_non_null(strstr(err.message, "sse9"));
    assert_int_equal(device_open_cpu(-1, NULL, &d, &err), LLAVA_BAD_ARGUMENT);
    assert_int_equal(device_open_cpu(0, NULL, &d, &err), LLAVA_OK);
    assert_true(device_cpu_level_available(d->level));
    assert_true(d->n_threads > 0);
    device_close(&d);
    assert_null(d);
    device_close(&d);
    assert_true(device_cpu_level_available("c"));
    assert_false(device_cpu_level_available("unknown"));
}

int main(int argc, char **argv) {
    check_start(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_opening), cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_parts),   cmocka_unit_test(test_reserved),
        cmocka_unit_test(test_beside),  cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
