/* SPDX-License-Identifier: Apache-2.0
 *
 * Checks of the kernels for quantized weights; a part of test_kernels.c.
 */
#ifndef CHECK_QUANT_KERNELS_H
#define CHECK_QUANT_KERNELS_H

#include "quant_check.h"

static const quant_format four_bits[] = {QUANT_NF4, QUANT_FP4};

static void assert_same_bytes(const void *a, const void *b, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++)
        if (((const uint8_t *)a)[i] != ((const uint8_t *)b)[i])
            fail_msg("%s %s: byte %zu of %zu is %d and %d", level_name, name, i, n,
                     ((const uint8_t *)a)[i], ((const uint8_t *)b)[i]);
}

/** Values whose scaled form falls on thresholds, next to them, and anywhere. */
static void fill_blocks(float *x, int64_t n, int64_t block, quant_format format) {
    random_fill(x, n, (float[]){1e-30f, 1e-42f, 1, 3e38f}[random_below(4)]);
    if (random_below(3)) return;
    for (int64_t i = 0; i < n; i++) { /* an absmax of 1, and the values' midpoints */
        const int code = (int)random_below(15);
        const float *table = quant_table(format);
        float middle = 0.5f * (table[code] + table[code + 1]);
        if (random_below(2)) middle = nextafterf(middle, random_below(2) ? 1 : -1);
        x[i] = i % block == 0 ? 1 : middle;
    }
    if (random_below(4) == 0) memset(x, 0, (size_t)i64_min(block, n) * sizeof *x);
}

static void check_encode_4bit(void) {
    for (int turn = 0; turn < 60; turn++) {
        const quant_format format = four_bits[turn % 2];
        const int64_t block = 64 << random_below(3), n = 1 + random_below(1000);
        const int64_t blocks = ceil_div(n, block), n_bytes = ceil_div(n, 2);
        guarded x = guarded_new(n, random_below(16));
        guarded codes[2] = {guarded_new(ceil_div(n_bytes, 4), 1),
                            guarded_new(ceil_div(n_bytes, 4), 2)};
        guarded absmax[2] = {guarded_new(blocks, 1), guarded_new(blocks, 3)};
        fill_blocks(x.data, n, block, format);
        for (int i = 0; i < 2; i++) {
            memset(codes[i].data, 0, (size_t)ceil_div(n_bytes, 4) * 4);
            const encode_4bit_args args = {
                (uint8_t *)codes[i].data, absmax[i].data, x.data, n, block, format};
            (i ? level : spec).encode_4bit(&args);
        }
        assert_same_bits(absmax[0].data, absmax[1].data, blocks, "encode_4bit absmax");
        assert_same_bytes(codes[0].data, codes[1].data, (size_t)n_bytes, "encode_4bit");
        guarded_free(&x);
        for (int i = 0; i < 2; i++) {
            guarded_free(&codes[i]);
            guarded_free(&absmax[i]);
        }
    }
}

static void check_expand_4bit(void) {
    for (int turn = 0; turn < 60; turn++) {
        coded_matrix m;
        const int64_t block = 64 << random_below(3);
        coded_4bit(&m, four_bits[turn % 2], 1, 3000, block, turn % 3, 0);
        const int64_t first = random_below(2000), n = random_below(1000);
        guarded a = guarded_new(n, 1), b = guarded_new(n, random_below(16));
        const expand_4bit_args one = {a.data, &m.q, m.w.data, first, n};
        const expand_4bit_args other = {b.data, &m.q, m.w.data, first, n};
        spec.expand_4bit(&one);
        level.expand_4bit(&other);
        assert_same_bits(a.data, b.data, n, "expand_4bit");
        guarded_free(&a);
        guarded_free(&b);
        coded_free(&m);
    }
}

static void check_arrange_4bit(void) {
    for (int64_t n = 0; n < 700; n += 1 + random_below(60)) {
        const int64_t whole = round_up(n, KERNEL_ARRANGED);
        guarded x = guarded_new(n, 1), a = guarded_new(whole, 0), b = guarded_new(whole, 0);
        random_fill(x.data, n, 1);
        spec.arrange_4bit(a.data, x.data, n);
        level.arrange_4bit(b.data, x.data, n);
        assert_same_bits(a.data, b.data, whole, "arrange_4bit");
        guarded_free(&x);
        guarded_free(&a);
        guarded_free(&b);
    }
}

typedef void (*dot_4bit_kernel)(const dot_4bit_args *args);

/** Where element e of a row lies among its codes. */
static int64_t coded_place(int64_t e) {
    const int64_t in = e % KERNEL_ARRANGED, group = (in % 8) ^ 1;
    return e - in + 32 * (group % 4) + 2 * (in / 8) + group / 4;
}

/** Replaces x by what its codes mean. */
static void decode_inputs(float *x, const int16_t *codes, int64_t k) {
    for (int64_t e = 0; e < k; e++) {
        float scale;
        memcpy(&scale, codes + round_up(k, KERNEL_ARRANGED) + e / KERNEL_ARRANGED * 2,
               sizeof scale);
        x[e] = (float)codes[coded_place(e)] * scale;
    }
}

static void check_code_inputs(void) {
    for (int turn = 0; turn < 60; turn++) {
        const int64_t n = KERNEL_ARRANGED * random_below(6), words = n / 2 + n / KERNEL_ARRANGED;
        guarded x = guarded_new(n, random_below(16));
        guarded a = guarded_new(words, 0), b = guarded_new(words, random_below(16));
        random_fill(x.data, n, (float[]){1, 1e-31f, 1e30f, 60}[random_below(4)]);
        if (turn % 5 == 0) memset(x.data, 0, (size_t)i64_min(n, 200) * sizeof(float));
        if (turn % 7 == 0 && n > 0) x.data[random_below(n)] = turn % 2 ? NAN : INFINITY;
        spec.code_inputs((int16_t *)a.data, x.data, n);
        level.code_inputs((int16_t *)b.data, x.data, n);
        assert_same_bytes(a.data, b.data, (size_t)n * 2, "code_inputs");
        for (int64_t i = n / 2; i < words; i++)
            if (!isnan(a.data[i]) || !isnan(b.data[i]))
                assert_same_bits(a.data + i, b.data + i, 1, "code_inputs scale");
        guarded_free(&x);
        guarded_free(&a);
        guarded_free(&b);
    }
}

/** What the product should be, in double precision, and its magnitude. */
static double coded_product(const coded_matrix *m, int64_t r, const float *x, double *magnitude) {
    const int64_t k = m->w.n_cols;
    float *row = array_new((size_t)k, sizeof *row);
    double sum = 0;
    *magnitude = 1e-6;
    weight_decode(&m->w, r * k, k, row);
    for (int64_t j = 0; j < k; j++) {
        const double product = (double)row[j] * (double)x[j];
        sum += product;
        *magnitude += fabs(product);
    }
    free(row);
    return sum;
}

/** Against the decoded weights in double precision, and rows alone against rows together. coded:
 *  against what the codes of both sides mean. */
static void check_dot_4bit_shape(int turn, int64_t k, int64_t n_w, int64_t n_x, bool coded) {
    coded_matrix m;
    const dot_4bit_kernel kernel = coded ? level.dot_4bit_i16 : level.dot_4bit;
    const int64_t block = 64 << random_below(3), padded = round_up(k, KERNEL_ARRANGED);
    if (k % block) return;
    coded_4bit(&m, four_bits[turn % 2], n_w, k, block, turn % 3, turn % 5 * block);
    const int64_t stride = padded + padded / 64 + 32, dst_stride = n_w + 3;
    float *x = array_new((size_t)(n_x * k), sizeof *x);
    uint8_t *in = aligned_new((size_t)(n_x * stride) * sizeof(float));
    float *row = aligned_new((size_t)padded * sizeof(float));
    random_fill(x, n_x * k, 1);
    const size_t size = coded ? sizeof(int16_t) : sizeof(float);
    for (int64_t i = 0; i < n_x; i++) {
        uint8_t *dst = in + (size_t)(i * stride) * size;
        spec.arrange_4bit(coded ? row : (float *)dst, x + i * k, k);
        if (!coded) continue;
        spec.code_inputs((int16_t *)dst, row, padded);
        decode_inputs(x + i * k, (const int16_t *)dst, k);
    }
    guarded dst = guarded_new(n_x * dst_stride, 1);
    dot_4bit_args args = {.dst = dst.data,
                          .q = &m.q,
                          .codes = m.w.data,
                          .x = in,
                          .dst_stride = dst_stride,
                          .x_stride = stride,
                          .first = m.q.first,
                          .n_w = n_w,
                          .n_x = n_x,
                          .k = k};
    kernel(&args);
    int16_t table[16];
    const float table_scale = quant_code_table(m.q.table, table);
    for (int i = 0; i < 16 && coded; i++) m.q.table[i] = (float)table[i] * table_scale;
    for (int64_t r = 0; r < n_w; r++)
        for (int64_t i = 0; i < n_x; i++) {
            double magnitude;
            const double sum = coded_product(&m, r, x + i * k, &magnitude);
            assert_near(dst.data[i * dst_stride + r], sum, SUM_RELATIVE * magnitude,
                        "%s dot_4bit %lld coded %d", level_name, (long long)k, coded);
        }
    float alone;
    args.dst = &alone;
    args.x = in + (size_t)((n_x - 1) * stride) * size;
    args.n_x = 1;
    args.first += (n_w - 1) * k;
    args.n_w = 1;
    kernel(&args);
    assert_same_bits(&alone, dst.data + (n_x - 1) * dst_stride + n_w - 1, 1, "dot_4bit alone");
    guarded_free(&dst);
    coded_free(&m);
    free(x);
    free(in);
    free(row);
}

static const int64_t code_rows[] = {64, 128, 192, 256, 1024, 1152, 2048, 2112, 4352, 9216};

static void check_dot_4bit(void) {
    for (int turn = 0; turn < 80; turn++)
        check_dot_4bit_shape(turn, code_rows[turn % 10], 1 + random_below(9), 1 + random_below(6),
                             false);
}

static void check_dot_4bit_i16(void) {
    for (int turn = 0; turn < 80; turn++)
        check_dot_4bit_shape(turn, code_rows[turn % 10], 1 + random_below(9), 1 + random_below(6),
                             true);
}

static void check_encode_i8(void) {
    for (int turn = 0; turn < 100; turn++) {
        const int64_t n = counts[turn % 17], words = ceil_div(n, 4);
        guarded x = guarded_new(n, random_below(16));
        guarded codes[2] = {guarded_new(words, 1), guarded_new(words, 2)};
        random_fill(x.data, n, (float[]){1, 1e-30f, 10, 6.5f}[random_below(4)]);
        if (turn % 7 == 0) memset(x.data, 0, (size_t)n * sizeof(float));
        if (n > 3) x.data[3] = turn % 2 ? 6.0f : -6.0f;
        float scale[2];
        for (int i = 0; i < 2; i++) {
            memset(codes[i].data, 0, (size_t)words * 4);
            const encode_i8_args args = {(uint8_t *)codes[i].data, x.data, n, turn % 3 ? 6 : 0,
                                         turn % 2 ? 0x80 : 0};
            scale[i] = (i ? level : spec).encode_i8(&args);
        }
        assert_same_bits(&scale[0], &scale[1], 1, "encode_i8 scale");
        assert_same_bytes(codes[0].data, codes[1].data, (size_t)words * 4, "encode_i8");
        guarded_free(&x);
        guarded_free(&codes[0]);
        guarded_free(&codes[1]);
    }
}

static void check_mark_outliers(void) {
    for (size_t c = 0; c < LLAVA_COUNT(counts); c++) {
        const int64_t n = counts[c], words = ceil_div(n, 4);
        guarded x = guarded_new(n, random_below(16));
        guarded flags[2] = {guarded_new(words, 1), guarded_new(words, 2)};
        random_fill(x.data, n, 6.3f);
        if (n > 8) x.data[8] = NAN;
        for (int i = 0; i < 2; i++) {
            memset(flags[i].data, 0, (size_t)words * 4);
            if (n > 5) ((uint8_t *)flags[i].data)[5] = 1;
            (i ? level : spec).mark_outliers((uint8_t *)flags[i].data, x.data, n, 6);
        }
        assert_same_bytes(flags[0].data, flags[1].data, (size_t)words * 4, "mark_outliers");
        guarded_free(&x);
        guarded_free(&flags[0]);
        guarded_free(&flags[1]);
    }
}

static void check_dot_i8(void) {
    for (int turn = 0; turn < 100; turn++) {
        const int64_t k = counts[turn % 17], n_w = 1 + random_below(9), n_x = 1 + random_below(6);
        const int64_t stride = round_up(k, 64) + 64, dst_stride = n_w + 2;
        coded_matrix m;
        coded_int8(&m, n_w, k, 0);
        uint8_t *x = aligned_new((size_t)(n_x * stride));
        for (int64_t i = 0; i < n_x * stride; i++) x[i] = (uint8_t)random_bits();
        guarded a = guarded_new(n_x * dst_stride, 1), b = guarded_new(n_x * dst_stride, 1);
        dot_i8_args args = {(int32_t *)a.data, m.w.data, x, dst_stride, stride, n_w, n_x, k};
        memset(a.data, 0, (size_t)(n_x * dst_stride) * 4);
        memset(b.data, 0, (size_t)(n_x * dst_stride) * 4);
        spec.dot_i8(&args);
        args.dst = (int32_t *)b.data;
        level.dot_i8(&args);
        assert_same_bytes(a.data, b.data, (size_t)(n_x * dst_stride) * 4, "dot_i8");
        guarded_free(&a);
        guarded_free(&b);
        coded_free(&m);
        free(x);
    }
}

static void check_pack_i8(void) {
    for (int turn = 0; turn < 60; turn++) {
        const int64_t ld = level.tile_columns, n = 1 + random_below(ld), k = counts[turn % 17];
        const int64_t row = k + random_below(40), words = round_up(k, 4) / 4 * ld;
        coded_matrix m;
        coded_int8(&m, n, row, 0);
        guarded a = guarded_new(words, 0), b = guarded_new(words, 0);
        int32_t sums[2][KERNEL_MAX_COLUMNS];
        for (int i = 0; i < 2; i++) {
            for (int j = 0; j < KERNEL_MAX_COLUMNS; j++) sums[i][j] = j;
            const pack_i8_args args = {
                (int8_t *)(i ? b.data : a.data), sums[i], m.w.data, row, n, k, ld};
            (i ? level : spec).pack_i8(&args);
        }
        assert_same_bytes(a.data, b.data, (size_t)words * 4, "pack_i8");
        assert_same_bytes(sums[0], sums[1], sizeof sums[0], "pack_i8 sums");
        guarded_free(&a);
        guarded_free(&b);
        coded_free(&m);
    }
}

static void check_gemm_i8(void) {
    for (int turn = 0; turn < 80; turn++) {
        const int64_t ld = level.tile_columns, n = 1 + random_below(ld), m = 1 + random_below(14);
        const int64_t k = 4 * random_below(70), lda = k + 64, words = k / 4 * ld;
        uint8_t *a = aligned_new((size_t)(m * lda));
        int8_t *b = aligned_new((size_t)words * 4 + 64);
        for (int64_t i = 0; i < m * lda; i++) a[i] = (uint8_t)random_bits();
        for (int64_t i = 0; i < words * 4; i++) b[i] = (int8_t)random_bits();
        guarded c[2] = {guarded_new(m * ld, 0), guarded_new(m * ld, 0)};
        for (int i = 0; i < 2; i++) {
            for (int64_t j = 0; j < m * ld; j++) ((int32_t *)c[i].data)[j] = (int32_t)j * 1001;
            const gemm_i8_args args = {a, b,       (int32_t *)c[i].data, lda, 4 * ld, ld, m, n,
                                       k, turn % 2};
            (i ? level : spec).gemm_i8(&args);
        }
        for (int64_t i = 0; i < m; i++)
            assert_same_bytes(c[0].data + i * ld, c[1].data + i * ld, (size_t)n * 4, "gemm_i8");
        guarded_free(&c[0]);
        guarded_free(&c[1]);
        free(a);
        free(b);
    }
}

static void check_scale_i32(void) {
    for (int turn = 0; turn < 60; turn++) {
        const int64_t m = 1 + random_below(5), n = 1 + random_below(80), ld = n + 3;
        coded_matrix w;
        coded_int8(&w, n, 1, 0);
        float rows[5];
        int32_t sums[80], c[5 * 83];
        random_fill(rows, 5, 3);
        for (int i = 0; i < 80; i++) sums[i] = (int32_t)random_bits() >> 12;
        for (int i = 0; i < 5 * 83; i++) c[i] = (int32_t)random_bits() >> 4;
        guarded a = guarded_new(m * ld, 1), b = guarded_new(m * ld, 2);
        scale_i32_args args = {a.data, c, turn % 2 ? sums : NULL, rows, w.q.scb, ld, ld, m, n};
        spec.scale_i32(&args);
        args.dst = b.data;
        level.scale_i32(&args);
        args.dst = (float *)c; /* in place */
        level.scale_i32(&args);
        for (int64_t i = 0; i < m; i++) {
            assert_same_bits(a.data + i * ld, b.data + i * ld, n, "scale_i32");
            assert_same_bits(a.data + i * ld, (float *)c + i * ld, n, "scale_i32 in place");
        }
        guarded_free(&a);
        guarded_free(&b);
        coded_free(&w);
    }
}

#endif
