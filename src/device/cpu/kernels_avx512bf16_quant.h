/* SPDX-License-Identifier: Apache-2.0
 *
 * Products from 4-bit codes with vdpbf16ps; a part of kernels_avx512bf16.c.
 */
#ifndef LLAVA_KERNELS_AVX512BF16_QUANT_H
#define LLAVA_KERNELS_AVX512BF16_QUANT_H

#include "device/cpu/kernels_scales.h"

/** The table in both halves: vpermw looks at 5 bits of an index, of which 4 are the code. */
V __m512i load_table(const float table[16]) {
    uint16_t halves[32];
    for (int i = 0; i < 32; i++) halves[i] = f32_to_bf16(table[i % 16]);
    return _mm512_loadu_si512(halves);
}

/** Units of 128 weights of nw rows: sums times their blocks' scales, added to sum. */
V void add_units(__m512 sum[2][ROWS_MAX], const uint16_t *x, int64_t stride, const __m512i codes[2],
                 const float *const scales[2], __m512i table, const int nw, const int nx) {
    /* lanes 0 to 7 belong to the unit's first block */
    const __m512i spread = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    __m512 u[2][ROWS_MAX];
    UNROLL for (int j = 0; j < 4; j++) {
        __m512i w[2];
        UNROLL for (int r = 0; r < nw; r++) {
            const __m512i index = j ? _mm512_srli_epi16(codes[r], 4 * j) : codes[r];
            w[r] = _mm512_permutexvar_epi16(index, table);
        }
        UNROLL for (int i = 0; i < nx; i++) {
            __m512i in = _mm512_loadu_si512(x + i * stride + 32 * j);
            __asm__("" : "+v"(in)); /* loaded once for both rows */
            UNROLL for (int r = 0; r < nw; r++) {
                u[r][i] = dot_pairs(j ? u[r][i] : _mm512_setzero_ps(), w[r], in);
            }
        }
    }
    UNROLL for (int r = 0; r < nw; r++) {
        const __m128d two = _mm_load_sd((const double *)scales[r]);
        const __m512 both = _mm512_castpd_ps(_mm512_castpd128_pd512(two));
        const __m512 scale = _mm512_permutexvar_ps(spread, both);
        UNROLL for (int i = 0; i < nx; i++) sum[r][i] = _mm512_fmadd_ps(u[r][i], scale, sum[r][i]);
    }
}

typedef struct code_row {
    const uint8_t *codes;
    int64_t block; /* of 64 elements, where the row begins */
    float *dst;
} code_row;

/** Weight rows rows[0 .. nw) times x rows [i, i + nx). */
V void tile_4bit(const code_row rows[2], const dot_4bit_args *args, __m512i table, int64_t i,
                 const int nw, const int nx) {
    const int64_t blocks = args->k / 64, stride = args->x_stride;
    const uint16_t *x = (const uint16_t *)args->x + i * stride;
    float scales[2][SCALES_AT_ONCE];
    __m512 sum[2][ROWS_MAX];
    UNROLL for (int r = 0; r < nw; r++) {
        UNROLL for (int j = 0; j < nx; j++) sum[r][j] = _mm512_setzero_ps();
    }
    for (int64_t b = 0; b < blocks; b += SCALES_AT_ONCE) {
        const int64_t n = i64_min(SCALES_AT_ONCE, blocks - b);
        UNROLL for (int r = 0; r < nw; r++) {
            unit_scales(args->q, rows[r].block + b, n, scales[r]);
        }
        for (int64_t at = 0; at < n; at += 2) {
            __m512i codes[2];
            UNROLL for (int r = 0; r < nw; r++) {
                const uint8_t *p = rows[r].codes + (b + at) * 32;
                __builtin_prefetch(p + PREFETCH_AHEAD);
                if (at + 2 <= n) {
                    codes[r] = _mm512_loadu_si512(p);
                } else { /* half a unit */
                    codes[r] = _mm512_maskz_loadu_epi32(0xff, p);
                    scales[r][n] = 0;
                }
            }
            const float *const s[2] = {scales[0] + at, scales[1] + at};
            add_units(sum, x + 64 * (b + at), stride, codes, s, table, nw, nx);
        }
    }
    UNROLL for (int r = 0; r < nw; r++) {
        UNROLL for (int j = 0; j < nx; j++) {
            rows[r].dst[(i + j) * args->dst_stride] = _mm512_reduce_add_ps(sum[r][j]);
        }
    }
}

V void rows_4bit(const dot_4bit_args *args, __m512i table, int64_t row, int64_t apart, const int nw) {
    code_row rows[2];
    UNROLL for (int r = 0; r < nw; r++) {
        const int64_t at = args->first + (row + r * apart) * args->k;
        rows[r] = (code_row){args->codes + at / 2, at / 64, args->dst + row + r * apart};
    }
    for (int64_t i = 0, n; i < args->n_x; i += n) {
        const int64_t left = args->n_x - i;
        n = left >= 4 ? 4 : left >= 2 ? 2 : 1;
        switch (n) {
        case 4: tile_4bit(rows, args, table, i, nw, 4); break;
        case 2: tile_4bit(rows, args, table, i, nw, 2); break;
        default: tile_4bit(rows, args, table, i, nw, 1); break;
        }
    }
}

static void bf16_dot_4bit(const dot_4bit_args *args) {
    const __m512i table = load_table(args->q->table);
    const int64_t apart = args->n_w / 2; /* few, long streams */
    for (int64_t r = 0; r < apart; r++) rows_4bit(args, table, r, apart, 2);
    if (args->n_w % 2) rows_4bit(args, table, args->n_w - 1, 0, 1);
}

#endif
