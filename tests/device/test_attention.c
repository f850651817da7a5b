/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention at every level against softmax(q k^T) v in double precision; a row alone, as when it
 * is generated, against the same row in a prompt.
 */
#include "device_check.h"

typedef struct attention_case {
    int64_t n_rows, first_position, n_keys; /* n_keys 0: up to the last row */
    int64_t n_heads, n_kv_heads, head_dim, block_size, window;
    llava_dtype dtype;
    bool causal, alibi;
    float amplitude;
    bool bf16_inputs;
    linear_form form;
} attention_case;

/** Values are at most 1 and weights sum to one; what is wrong with a score, a float32 sum, is
 *  wrong with its weight. */
static double error_bound(const attention_case *c) {
    const double score = sqrt((double)c->head_dim) * c->amplitude * c->amplitude / 4;
    /* rounded to 8 bits: scores, whose errors average out over the head, and weights and values */
    if (c->bf16_inputs && c->form == LINEAR_PANEL)
        return 8e-3 + 4e-3 * score / sqrt((double)c->head_dim) * 3;
    return 4e-6 + 4e-7 * score;
}

typedef struct attention_data {
    float *q, *expected;
    float slopes[16];
    void **blocks[2];
    int64_t n_keys, n_blocks, q_stride;
} attention_data;

/** Elements of a row: of int8 a float32 scale follows the codes. */
static int64_t row_of(const attention_case *c) {
    return c->head_dim + (c->dtype == LLAVA_DTYPE_I8 ? 4 : 0);
}

static kv_view view_of(const attention_case *c, const attention_data *data, int which) {
    /* blocks [kv_head][token][head_dim], as the cache lays them out */
    return (kv_view){.blocks = data->blocks[which],
                     .block_size = c->block_size,
                     .token_stride = row_of(c),
                     .head_stride = c->block_size * row_of(c),
                     .dtype = c->dtype};
}

static float view_at(const kv_view *view, int64_t t, int64_t head, int64_t i) {
    float value;
    const int64_t row = t % view->block_size * view->token_stride + head * view->head_stride;
    const uint8_t *block = view->blocks[t / view->block_size];
    if (view->dtype == LLAVA_DTYPE_I8) {
        memcpy(&value, block + row + view->token_stride - 4, sizeof value);
        return (float)(int8_t)block[row + i] * value;
    }
    tensor_cast(&value, LLAVA_DTYPE_F32, block + (row + i) * (int64_t)dtype_size(view->dtype),
                view->dtype, 1);
    return value;
}

static void reference_row(const attention_case *c, const attention_data *data, int64_t row,
                          int64_t head, float *dst) {
    const kv_view k = view_of(c, data, 0), v = view_of(c, data, 1);
    const int64_t p = c->first_position + row, kv_head = head / (c->n_heads / c->n_kv_heads);
    const float *q = data->q + row * data->q_stride + head * c->head_dim;
    double *score = array_new((size_t)data->n_keys, sizeof *score), maximum = -INFINITY, sum = 0;
    for (int64_t t = 0; t < data->n_keys; t++) {
        score[t] = -INFINITY;
        if (c->causal && (t > p || (c->window && t < p - c->window))) continue;
        double dot = 0;
        for (int64_t i = 0; i < c->head_dim; i++) dot += (double)q[i] * view_at(&k, t, kv_head, i);
        score[t] = dot / sqrt((double)c->head_dim);
        if (c->alibi) score[t] += (double)data->slopes[head] * (double)(t - p);
        maximum = fmax(maximum, score[t]);
    }
    for (int64_t t = 0; t < data->n_keys; t++) sum += score[t] = exp(score[t] - maximum);
    for (int64_t i = 0; i < c->head_dim; i++) {
        double out = 0;
        for (int64_t t = 0; t < data->n_keys; t++) out += score[t] * view_at(&v, t, kv_head, i);
        dst[i] = (float)(out / sum);
    }
    free(score);
}

static attention_data make_data(device *d, const attention_case *c) {
    attention_data data = {.n_keys = c->n_keys ? c->n_keys : c->first_position + c->n_rows,
                           .q_stride = c->n_heads * c->head_dim + 5};
    data.n_blocks = ceil_div(data.n_keys, c->block_size);
    const int64_t row = c->n_kv_heads * c->head_dim;
    float *x = array_new((size_t)(data.n_keys * row), sizeof *x);
    for (int which = 0; which < 2; which++) {
        data.blocks[which] = array_new((size_t)data.n_blocks, sizeof(void *));
        for (int64_t b = 0; b < data.n_blocks; b++) { /* what was never stored is not a number */
            const size_t n_bytes =
                (size_t)(c->block_size * c->n_kv_heads * row_of(c)) * dtype_size(c->dtype);
            data.blocks[which][b] = aligned_new(n_bytes);
            memset(data.blocks[which][b], 0xff, n_bytes);
        }
        random_fill(x, data.n_keys * row, which ? 1 : c->amplitude);
        const kv_store_args store = {.x = x,
                                     .x_stride = row,
                                     .n_rows = data.n_keys,
                                     .n_kv_heads = c->n_kv_heads,
                                     .head_dim = c->head_dim,
                                     .view = view_of(c, &data, which)};
        d->ops->kv_store(d, &store);
        for (int64_t t = 0; t < data.n_keys; t++) {
            const int64_t i = random_below(row);
            const kv_view view = store.view;
            if (c->dtype == LLAVA_DTYPE_I8) { /* half a step of the row's largest */
                const float *head = x + t * row + i / c->head_dim * c->head_dim;
                float largest = 0;
                for (int64_t j = 0; j < c->head_dim; j++) largest = fmaxf(largest, fabsf(head[j]));
                assert_near(view_at(&view, t, i / c->head_dim, i % c->head_dim), x[t * row + i],
                            (double)largest / 253, "stored code");
                continue;
            }
            float stored;
            uint8_t half[4];
            tensor_cast(half, c->dtype, &x[t * row + i], LLAVA_DTYPE_F32, 1);
            tensor_cast(&stored, LLAVA_DTYPE_F32, half, c->dtype, 1);
            assert_same_bits(&stored, &(float){view_at(&view, t, i / c->head_dim, i % c->head_dim)},
                             1, "stored value");
        }
    }
    free(x);
    data.q = array_new((size_t)(c->n_rows * data.q_stride), sizeof(float));
    random_fill(data.q, c->n_rows * data.q_stride, c->amplitude);
    for (int i = 0; i < 16; i++) data.slopes[i] = (float)exp2(-i - 1);
    data.expected = array_new((size_t)(c->n_rows * c->n_heads * c->head_dim), sizeof(float));
    for (int64_t i = 0; i < c->n_rows; i++)
        for (int64_t h = 0; h < c->n_heads; h++)
            reference_row(c, &data, i, h, data.expected + (i * c->n_heads + h) * c->head_dim);
    return data;
}

static void free_data(attention_data *data) {
    for (int which = 0; which < 2; which++) {
        for (int64_t b = 0; b < data->n_blocks; b++) free(data->blocks[which][b]);
        free(data->blocks[which]);
    }
    free(data->q);
    free(data->expected);
}

static attention_args args_of(const attention_case *c, const attention_data *data, float *dst) {
    return (attention_args){.q = data->q,
                            .q_stride = data->q_stride,
                            .dst = dst,
                            .n_rows = c->n_rows,
                            .n_heads = c->n_heads,
                            .n_kv_heads = c->n_kv_heads,
                            .head_dim = c->head_dim,
                            .first_position = c->first_position,
                            .n_keys = data->n_keys,
                            .causal = c->causal,
                            .window = c->window,
                            .scale = (float)(1 / sqrt((double)c->head_dim)),
                            .alibi_slopes = c->alibi ? data->slopes : NULL,
                            .k = view_of(c, data, 0),
                            .v = view_of(c, data, 1),
                            .form = c->form,
                            .bf16_inputs = c->bf16_inputs};
}

/** Queries rounded before, and outputs rounded on the way: what the same queries give, rounded. */
static void check_rounded(device *d, const attention_case *c, const attention_data *data) {
    const int64_t row = c->n_heads * c->head_dim, n = c->n_rows * data->q_stride;
    attention_data own = *data;
    own.q = array_new((size_t)n, sizeof *own.q);
    uint16_t *q = array_new((size_t)n, sizeof *q);
    for (int64_t i = 0; i < n; i++) {
        q[i] = f32_to_bf16(data->q[i]);
        own.q[i] = bf16_to_f32(q[i]);
    }
    float *expected = array_new((size_t)(c->n_rows * row), sizeof *expected);
    attention_args args = args_of(c, &own, expected);
    d->ops->attention(d, &args);
    uint16_t *rows = rounded_rows(expected, c->n_rows, row);
    memset(rows, 0x55, (size_t)(c->n_rows * bf16_row_stride(row)) * sizeof *rows);
    args.q = NULL;
    args.q_bf16 = q;
    args.dst = NULL;
    args.dst_bf16 = rows;
    d->ops->attention(d, &args);
    assert_rounded_rows(rows, expected, c->n_rows, row);
    free(own.q);
    free(q);
    free(expected);
    free(rows);
}

static void check_case(device *one, device *two, const attention_case *c) {
    attention_data data = make_data(two, c);
    const int64_t row = c->n_heads * c->head_dim;
    guarded a = guarded_new(c->n_rows * row, 1), b = guarded_new(c->n_rows * row, 0);
    attention_args args = args_of(c, &data, a.data);
    one->ops->attention(one, &args);
    args.dst = b.data;
    two->ops->attention(two, &args);
    for (int64_t i = 0; i < c->n_rows * row; i++)
        assert_near(a.data[i], data.expected[i], error_bound(c),
                    "%s: %lld rows from %lld, %lld heads of %lld, element %lld", one->level,
                    (long long)c->n_rows, (long long)c->first_position, (long long)c->n_heads,
                    (long long)c->head_dim, (long long)i);
    assert_same_bits(a.data, b.data, c->n_rows * row, "two threads");
    for (int64_t i = 0; i < c->n_rows; i += 1 + random_below(9)) {
        guarded alone = guarded_new(row, 0);
        args = args_of(c, &data, alone.data);
        args.q += i * data.q_stride;
        args.first_position += i;
        args.n_rows = 1;
        if (c->causal) args.n_keys = args.first_position + 1;
        two->ops->attention(two, &args);
        assert_same_bits(alone.data, a.data + i * row, row, "row alone");
        guarded_free(&alone);
    }
    if (c->form == LINEAR_PANEL) check_rounded(two, c, &data);
    guarded_free(&a);
    guarded_free(&b);
    free_data(&data);
}

static const attention_case cases[] = {
    {1, 0, 1, 1, 1, 8, 1, 0, LLAVA_DTYPE_F32, false, false, 1},
    {5, 0, 63, 2, 2, 72, 63, 0, LLAVA_DTYPE_F32, false, false, 1},
    {150, 0, 150, 3, 3, 64, 150, 0, LLAVA_DTYPE_F32, false, false, 3},
    {70, 5, 0, 4, 2, 64, 16, 0, LLAVA_DTYPE_I8, true, false, 2},
    {9, 250, 0, 14, 2, 37, 7, 30, LLAVA_DTYPE_I8, true, true, 3},
    {3, 1500, 0, 14, 2, 64, 64, 0, LLAVA_DTYPE_I8, true, false, 3, true},
    {200, 37, 0, 4, 2, 64, 64, 0, LLAVA_DTYPE_I8, true, false, 2, true},
    {71, 30, 0, 2, 1, 37, 16, 0, LLAVA_DTYPE_I8, true, false, 2, true},
    {30, 0, 65, 2, 1, 80, 65, 0, LLAVA_DTYPE_BF16, false, false, 1},
    {70, 0, 0, 4, 2, 64, 16, 0, LLAVA_DTYPE_F16, true, false, 2},
    {200, 0, 0, 2, 2, 16, 64, 0, LLAVA_DTYPE_BF16, true, false, 1},
    {9, 250, 0, 14, 2, 64, 64, 0, LLAVA_DTYPE_F16, true, false, 4},
    {1, 127, 0, 7, 1, 64, 64, 0, LLAVA_DTYPE_BF16, true, false, 1},
    {1, 128, 0, 8, 8, 128, 64, 0, LLAVA_DTYPE_F32, true, false, 1},
    {140, 33, 0, 2, 1, 24, 7, 50, LLAVA_DTYPE_F32, true, false, 2},
    {90, 100, 0, 2, 1, 9, 64, 1, LLAVA_DTYPE_F16, true, false, 1},
    {75, 3, 0, 4, 4, 32, 64, 0, LLAVA_DTYPE_F32, true, true, 2},
    {2, 90, 0, 3, 1, 256, 64, 0, LLAVA_DTYPE_BF16, true, false, 1},
    {2, 66, 0, 3, 1, 2500, 64, 0, LLAVA_DTYPE_BF16, true, false, 0.2f},
    {3, 70, 0, 12, 1, 1024, 64, 0, LLAVA_DTYPE_F32, true, false, 0.2f},
    {20, 50, 0, 16, 1, 64, 64, 0, LLAVA_DTYPE_F16, true, false, 30},
    {1, 0, 1, 1, 1, 8, 1, 0, LLAVA_DTYPE_F32, false, false, 1, true},
    {150, 0, 150, 3, 3, 72, 150, 0, LLAVA_DTYPE_F32, false, false, 1, true},
    {70, 0, 63, 2, 2, 9, 16, 0, LLAVA_DTYPE_BF16, false, false, 2, true},
    {200, 37, 0, 4, 2, 64, 64, 0, LLAVA_DTYPE_BF16, true, false, 2, true},
    {90, 100, 0, 2, 1, 24, 7, 50, LLAVA_DTYPE_BF16, true, false, 1, true},
    {75, 3, 0, 4, 4, 128, 64, 0, LLAVA_DTYPE_BF16, true, true, 1, true},
    {30, 0, 0, 2, 1, 64, 64, 0, LLAVA_DTYPE_F16, true, false, 1, true},
    {2, 66, 0, 3, 1, 2500, 64, 0, LLAVA_DTYPE_BF16, true, false, 0.2f, true},
    {3, 1500, 0, 14, 2, 64, 64, 0, LLAVA_DTYPE_BF16, true, false, 3},
    {2, 1279, 0, 4, 4, 128, 64, 0, LLAVA_DTYPE_F16, true, false, 2},
    {4, 2047, 0, 4, 2, 80, 64, 700, LLAVA_DTYPE_F32, true, false, 2},
    {2, 1100, 0, 5, 1, 40, 48, 0, LLAVA_DTYPE_BF16, true, true, 1},
};

static void check_cases(const char *level) {
    device *one = open_level(1, level), *two = open_level(2, level);
    for (size_t i = 0; i < LLAVA_COUNT(cases); i++) {
        attention_case c = cases[i];
        check_case(one, two, &c);
        c.form = LINEAR_DOT;
        check_case(one, two, &c);
    }
    device_close(&one);
    device_close(&two);
}

static void test_cases(void **state) {
    (void)state;
    each_level(check_cases);
}

/** More heads share a key head than fit a thread's scratch. */
static void check_many_heads(const char *level) {
    enum { HEADS = 300, DIM = 64, KEYS = 70 };
    device *d = open_level(2, level);
    float *k = array_new(KEYS * DIM, sizeof *k), *q = array_new(HEADS * DIM, sizeof *q);
    float *dst = array_new(HEADS * DIM, sizeof *dst);
    random_fill(k, KEYS * DIM, 1);
    random_fill(q, DIM, 1);
    for (int h = 1; h < HEADS; h++) memcpy(q + h * DIM, q, DIM * sizeof *q);
    void *blocks[1] = {k};
    const kv_view view = {blocks, KEYS, DIM, DIM, LLAVA_DTYPE_F32};
    attention_args args = {.q = q,
                           .q_stride = HEADS * DIM,
                           .dst = dst,
                           .n_rows = 1,
                           .n_heads = HEADS,
                           .n_kv_heads = 1,
                           .head_dim = DIM,
                           .n_keys = KEYS,
                           .scale = 0.125f,
                           .k = view,
                           .v = view};
    for (int form = LINEAR_PANEL; form <= LINEAR_DOT; form++) {
        args.form = (linear_form)form;
        d->ops->attention(d, &args);
        for (int h = 1; h < HEADS; h++) assert_same_bits(dst + h * DIM, dst, DIM, "equal heads");
    }
    free(k);
    free(q);
    free(dst);
    device_close(&d);
}

static void test_many_heads(void **state) {
    (void)state;
    each_level(check_many_heads);
}

int main(int argc, char **argv) {
    check_start(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_many_heads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
