/* SPDX-License-Identifier: Apache-2.0
 *
 * Random quantized matrices for the device's tests.
 */
#ifndef QUANT_CHECK_H
#define QUANT_CHECK_H

#include "device_check.h"

/** A matrix of 4-bit codes with random scales, or of int8 rows; unaligned as in a file. */
typedef struct coded_matrix {
    weight w;
    quant q;
    uint8_t *memory[4];
} coded_matrix;

static inline uint8_t *random_bytes(coded_matrix *m, int slot, int64_t n, int64_t shift) {
    m->memory[slot] = aligned_new((size_t)(n + shift + 64));
    assert_non_null(m->memory[slot]);
    for (int64_t i = 0; i < n + shift; i++) m->memory[slot][i] = (uint8_t)random_bits();
    return m->memory[slot] + shift;
}

static inline void *random_scales(coded_matrix *m, int slot, int64_t n, int64_t shift) {
    uint8_t *at = random_bytes(m, slot, 4 * n, shift);
    for (int64_t i = 0; i < n; i++) {
        const float value = 0.02f + 0.01f * random_float();
        memcpy(at + 4 * i, &value, sizeof value);
    }
    return at;
}

/** first: elements in front of the matrix, whole blocks. */
static inline void coded_4bit(coded_matrix *m, quant_format format, int64_t n_rows, int64_t n_cols,
                              int64_t block, bool nested, int64_t first) {
    *m = (coded_matrix){.q = {.format = format, .block = block, .first = first}};
    const int64_t count = first + n_rows * n_cols, blocks = ceil_div(count, block);
    memcpy(m->q.table, quant_table(format), sizeof m->q.table);
    m->w =
        (weight){LLAVA_DTYPE_U8, n_rows, n_cols, random_bytes(m, 0, ceil_div(count, 2), 1), &m->q};
    if (!nested) {
        m->q.absmax = random_scales(m, 1, blocks, 1);
        return;
    }
    m->q.nested_block = QUANT_NESTED_BLOCK;
    m->q.offset = 0.03f;
    quant_dynamic_map(m->q.map);
    m->q.codes = random_bytes(m, 2, blocks, 3);
    m->q.nested_absmax = random_scales(m, 3, ceil_div(blocks, QUANT_NESTED_BLOCK), 1);
}

static inline void coded_int8(coded_matrix *m, int64_t n_rows, int64_t n_cols, float threshold) {
    *m = (coded_matrix){.q = {.format = QUANT_INT8, .threshold = threshold}};
    int8_t *codes = (int8_t *)random_bytes(m, 0, n_rows * n_cols, 1);
    for (int64_t i = 0; i < n_rows * n_cols; i++)
        if (codes[i] == -128) codes[i] = 127;
    m->w = (weight){LLAVA_DTYPE_I8, n_rows, n_cols, codes, &m->q};
    m->q.scb = random_scales(m, 1, n_rows, 1);
}

static inline void coded_free(coded_matrix *m) {
    for (size_t i = 0; i < LLAVA_COUNT(m->memory); i++) free(m->memory[i]);
}

#endif
