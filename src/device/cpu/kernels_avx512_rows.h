/* SPDX-License-Identifier: Apache-2.0
 *
 * Which rows of 4-bit codes are multiplied together. Included behind tile_4bit(), whose products
 * differ: float32 or integers.
 */
#ifndef LLAVA_KERNELS_AVX512_ROWS_H
#define LLAVA_KERNELS_AVX512_ROWS_H

V void rows_4bit(code_product *p, int64_t row, int64_t apart, const int nw) {
    const dot_4bit_args *args = p->args;
    code_row rows[2];
    UNROLL for (int r = 0; r < nw; r++) {
        const int64_t at = args->first + (row + r * apart) * args->k;
        rows[r] = (code_row){args->codes + at / 2, at / 64, args->dst + row + r * apart};
    }
    for (int64_t i = 0, n; i < args->n_x; i += n) {
        const int64_t left = args->n_x - i;
        n = left >= 4 ? 4 : left >= 2 ? 2 : 1;
        switch (n) {
        case 4: tile_4bit(p, rows, i, nw, 4); break;
        case 2: tile_4bit(p, rows, i, nw, 2); break;
        default: tile_4bit(p, rows, i, nw, 1); break;
        }
    }
}

V void multiply_rows(code_product *p) {
    const dot_4bit_args *args = p->args;
    for (int r = 0; r < 2; r++) {
        p->scales[r].n = 0;
        p->scales[r].end = (args->first + args->n_w * args->k) / 64;
    }
    const int64_t apart = args->n_w / 2; /* few, long streams */
    for (int64_t r = 0; r < apart; r++) rows_4bit(p, r, apart, 2);
    if (args->n_w % 2) rows_4bit(p, args->n_w - 1, 0, 1);
}

#endif
