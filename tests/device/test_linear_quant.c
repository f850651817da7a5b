/* SPDX-License-Identifier: Apache-2.0
 *
 * Products with quantized weights at every level: against sums in double precision, and bit by bit
 * between thread counts and between a row alone and in a batch.
 */
#include "quant_check.h"

/** Of the sum of magnitudes: rounding of float32 sums; bfloat16 products round more. */
#define SUM_BOUND      1e-6
#define BF16_SUM_BOUND 2e-6
/** A decoded weight is rounded to bfloat16 in panels of bfloat16 products. */
#define BF16_WEIGHT 0x1p-8
/** Where decoded weights are recorded to have 16 bits generated rows may be coded: half a step of
 *  2^-14 of the largest of 128 inputs, four to eight times the others here. */
#define CODED_INPUTS 0x1p-12

typedef struct quant_linear {
    coded_matrix m;
    int64_t n_rows;
    linear_form form;
    bool bf16_inputs;
    float *x, *residual;
    weight bias;
} quant_linear;

static void run(device *d, const quant_linear *c, int64_t first, int64_t n, float *dst) {
    const weight *w = &c->m.w;
    const linear_args args = {.x = c->x + first * w->n_cols,
                              .n_rows = n,
                              .w = w,
                              .bias = &c->bias,
                              .residual = c->residual + first * w->n_rows,
                              .dst = dst,
                              .form = c->form,
                              .bf16_inputs = c->bf16_inputs};
    d->ops->linear(d, &args);
}

/** What the product of activation row `row` and weight row `o` should be, with its magnitude. */
static double expected(const quant_linear *c, int64_t row, int64_t o, double *magnitude) {
    const weight *w = &c->m.w;
    const float *x = c->x + row * w->n_cols;
    float *in = array_new((size_t)w->n_cols + 1, sizeof *in);
    float *decoded = array_new((size_t)w->n_cols + 1, sizeof *decoded);
    weight_decode(w, o * w->n_cols, w->n_cols, decoded);
    /* generated rows keep float32 where activations are not coded */
    const bool coded = w->quant->format == QUANT_INT8;
    const bool rounds = c->bf16_inputs && (coded || c->form == LINEAR_PANEL);
    for (int64_t k = 0; k < w->n_cols; k++) in[k] = rounds ? bf16_to_f32(f32_to_bf16(x[k])) : x[k];
    if (w->quant->format == QUANT_INT8) { /* the codes of what is below the threshold */
        float scale = 0;
        const float limit = w->quant->threshold > 0 ? w->quant->threshold : INFINITY;
        for (int64_t k = 0; k < w->n_cols; k++) {
            const float half = f16_to_f32(f32_to_f16(in[k]));
            if (fabsf(half) < limit) scale = fmaxf(scale, fabsf(half));
        }
        for (int64_t k = 0; k < w->n_cols; k++) {
            const float half = f16_to_f32(f32_to_f16(in[k]));
            if (fabsf(half) < limit && scale > 0)
                in[k] = rintf(half * (127.0f * (1.0f / scale))) * scale / 127.0f;
        }
    }
    double sum = 0;
    *magnitude = 1;
    for (int64_t k = 0; k < w->n_cols; k++) {
        const double product = (double)in[k] * (double)decoded[k];
        sum += product;
        *magnitude += fabs(product);
    }
    free(in);
    free(decoded);
    return sum + (double)weight_at(&c->bias, 0, o) + (double)c->residual[row * w->n_rows + o];
}

/** Inputs rounded before change nothing. */
static void check_rounded(device *d, const quant_linear *c, const float *expected) {
    const weight *w = &c->m.w;
    uint16_t *x = rounded_rows(c->x, c->n_rows, w->n_cols);
    float *dst = array_new((size_t)(c->n_rows * w->n_rows), sizeof *dst);
    const linear_args args = {.x_bf16 = x,
                              .n_rows = c->n_rows,
                              .w = w,
                              .bias = &c->bias,
                              .residual = c->residual,
                              .dst = dst,
                              .bf16_inputs = true};
    d->ops->linear(d, &args);
    assert_same_bits(dst, expected, c->n_rows * w->n_rows, "inputs rounded before");
    free(x);
    free(dst);
}

static void check_case(device *one, device *two, quant_linear *c) {
    const weight *w = &c->m.w;
    const int64_t n = c->n_rows * w->n_rows;
    c->x = array_new((size_t)(c->n_rows * w->n_cols) + 1, sizeof(float));
    c->residual = array_new((size_t)n, sizeof(float));
    c->bias = random_weight(LLAVA_DTYPE_F16, 1, w->n_rows, 1, 1);
    random_fill(c->x, c->n_rows * w->n_cols, 2);
    random_fill(c->residual, n, 3);
    for (int64_t i = 0; i < c->n_rows * w->n_cols / 40; i++)
        c->x[random_below(c->n_rows * w->n_cols)] = 6.5f + random_float();
    guarded a = guarded_new(n, 0), b = guarded_new(n, 1);
    run(one, c, 0, c->n_rows, a.data);
    run(two, c, 0, c->n_rows, b.data);
    assert_same_bits(a.data, b.data, n, "two threads");
    const bool four_bits = w->quant->format != QUANT_INT8;
    for (int64_t i = 0; i < n; i++) {
        double magnitude;
        const double sum = expected(c, i / w->n_rows, i % w->n_rows, &magnitude);
        double bound = c->bf16_inputs ? BF16_SUM_BOUND : SUM_BOUND;
        if (four_bits && c->form == LINEAR_PANEL && c->bf16_inputs) bound += BF16_WEIGHT;
        if (four_bits && c->form == LINEAR_DOT && w->quant->stored != LLAVA_DTYPE_F32)
            bound += CODED_INPUTS;
        assert_near(a.data[i], sum, bound * (magnitude + fabs(sum)), "%s %s form %d bf16 %d: %lld",
                    one->level, quant_format_name(w->quant->format), c->form, c->bf16_inputs,
                    (long long)i);
    }
    for (int64_t i = 0; i < c->n_rows; i += 1 + random_below(5)) {
        guarded row = guarded_new(w->n_rows, 3);
        run(two, c, i, 1, row.data);
        assert_same_bits(row.data, a.data + i * w->n_rows, w->n_rows, "row alone");
        guarded_free(&row);
    }
    if (c->bf16_inputs && c->form == LINEAR_PANEL) check_rounded(two, c, a.data);
    guarded_free(&a);
    guarded_free(&b);
    weight_free(&c->bias, 1);
    free(c->x);
    free(c->residual);
    coded_free(&c->m);
}

/** Rows, inputs, outputs; inputs that are whole blocks and ones that are not. */
static const int64_t shapes[][3] = {
    {1, 64, 1},    {3, 40, 7},    {5, 128, 33},  {17, 192, 70},  {33, 1152, 130},
    {2, 4352, 40}, {65, 131, 72}, {9, 3200, 65}, {120, 256, 17},
};

static void check_shapes(const char *level) {
    device *one = open_level(1, level), *two = open_level(2, level);
    int turn = 0;
    for (size_t s = 0; s < LLAVA_COUNT(shapes); s++)
        for (int format = 0; format < 3; format++)
            for (int form = 0; form < 2; form++)
                for (int rounds = 0; rounds < 2; rounds++, turn++) {
                    quant_linear c = {
                        .n_rows = shapes[s][0], .form = (linear_form)form, .bf16_inputs = rounds};
                    const int64_t block = 64 << turn % 2;
                    if (format == QUANT_INT8)
                        coded_int8(&c.m, shapes[s][2], shapes[s][1], turn % 5 ? 6 : 0);
                    else
                        coded_4bit(&c.m, (quant_format)format, shapes[s][2], shapes[s][1], block,
                                   turn % 3, turn % 4 * block);
                    c.m.q.stored = turn % 3 ? LLAVA_DTYPE_F16 : LLAVA_DTYPE_F32;
                    c.m.w.quant = &c.m.q; /* of this copy */
                    check_case(one, two, &c);
                }
    device_close(&one);
    device_close(&two);
}

static void test_shapes(void **state) {
    (void)state;
    each_level(check_shapes);
}

/** More rows than are taken at once. */
static void check_many_rows(const char *level) {
    device *d = open_level(2, level);
    for (int format = 0; format < 3; format++)
        for (int form = 0; form < 2; form++) {
            quant_linear c = {.n_rows = 4500, .form = (linear_form)form};
            if (format == QUANT_INT8)
                coded_int8(&c.m, 20, 64, 6);
            else
                coded_4bit(&c.m, (quant_format)format, 20, 64, 64, true, 0);
            c.m.w.quant = &c.m.q;
            c.x = array_new((size_t)(c.n_rows * 64), sizeof(float));
            c.residual = array_new((size_t)(c.n_rows * 20), sizeof(float));
            c.bias = random_weight(LLAVA_DTYPE_F32, 1, 20, 1, 1);
            random_fill(c.x, c.n_rows * 64, 6.2f);
            float *all = array_new((size_t)(c.n_rows * 20), sizeof *all), few[7 * 20];
            run(d, &c, 0, c.n_rows, all);
            for (int64_t row = 0; row + 7 <= c.n_rows; row += 299) {
                run(d, &c, row, 7, few);
                assert_same_bits(few, all + row * 20, 7 * 20, "seven rows of many");
            }
            free(all);
            free(c.x);
            free(c.residual);
            weight_free(&c.bias, 1);
            coded_free(&c.m);
        }
    device_close(&d);
}

static void test_many_rows(void **state) {
    (void)state;
    each_level(check_many_rows);
}

int main(int argc, char **argv) {
    check_start(argc, argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes),
                                       cmocka_unit_test(test_many_rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
