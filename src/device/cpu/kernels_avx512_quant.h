/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantized weights with AVX-512; a part of kernels_avx512.c.
 */
#ifndef LLAVA_KERNELS_AVX512_QUANT_H
#define LLAVA_KERNELS_AVX512_QUANT_H

typedef __m512i veci;
typedef __m512 vec_table;

V veci i_set(int32_t x) { return _mm512_set1_epi32(x); }
V veci i_set16(int16_t x) { return _mm512_set1_epi16(x); }
V veci i_load(const void *p) { return _mm512_loadu_si512(p); }
V veci i_load_n(const void *p, int64_t n) {
    return _mm512_maskz_loadu_epi8(n >= 64 ? ~0ull : (1ull << n) - 1, p);
}
V void i_store(int32_t *p, veci v) { _mm512_storeu_si512(p, v); }
V veci i_add(veci a, veci b) { return _mm512_add_epi32(a, b); }
V veci i_sub(veci a, veci b) { return _mm512_sub_epi32(a, b); }
V veci i_and(veci a, veci b) { return _mm512_and_si512(a, b); }
V veci i_xor(veci a, veci b) { return _mm512_xor_si512(a, b); }
V veci i_left7(veci v) { return _mm512_slli_epi32(v, 7); }
V veci i_left16(veci v) { return _mm512_slli_epi16(v, 8); }
V veci i_right16(veci v) { return _mm512_srai_epi16(v, 8); }
V veci i_logical16(veci v) { return _mm512_srli_epi16(v, 8); }
V veci i_madd(veci a, veci b) { return _mm512_madd_epi16(a, b); }
V int32_t i_sum(veci v) { return _mm512_reduce_add_epi32(v); }
V vec i_to_float(veci v) { return _mm512_cvtepi32_ps(v); }
V veci i_from_float(vec v) { return _mm512_cvtps_epi32(v); }
V veci i_count(veci count, vec x, vec limit) {
    const __mmask16 above = _mm512_cmp_ps_mask(x, limit, _CMP_GT_OQ);
    return _mm512_mask_add_epi32(count, above, count, _mm512_set1_epi32(1));
}
V veci i_xor_shifted(veci c) {
    const veci bit = _mm512_and_si512(c, _mm512_set1_epi32(2));
    return _mm512_xor_si512(c, _mm512_slli_epi32(bit, 1));
}
V veci i_sign(veci c, vec x) {
    const __mmask16 negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
    return _mm512_mask_or_epi32(c, negative, c, _mm512_set1_epi32(8));
}
V void i_store_bytes(uint8_t *p, veci v) {
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(v));
}
V void i_store_nibbles(uint8_t *p, veci v) {
    const __m128i raw = _mm512_cvtepi32_epi8(v);
    const __m128i pairs = _mm_maddubs_epi16(raw, _mm_set1_epi16(0x0110));
    _mm_storel_epi64((__m128i *)p, _mm_cvtepi16_epi8(pairs));
}
/** Bytes to the middle of 64 bits; the upper half of a byte comes first. */
V veci i_load_nibbles(const uint8_t *p) {
    const veci raw = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)p));
    return _mm512_or_si512(_mm512_srli_epi64(raw, 4), _mm512_slli_epi64(raw, 32));
}
V void i_store_transposed(int32_t *p, int64_t ld, veci r[LANES], int64_t n) {
    store_transposed((float *)p, ld, r, n);
}
V vec_table v_table_load(const float *p) { return _mm512_loadu_ps(p); }
V vec v_table(vec_table table, veci v) { return _mm512_permutexvar_ps(v, table); }
V bool v_any_reaches(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ) != 0; }

#include "device/cpu/kernels_vector_quant.h"

/* ---------------------------------------------------------------- products from codes */

#define CODE_BLOCKS 128 /* scales decoded together, a multiple of two */
#define X_ROWS_4BIT 4   /* activation rows taken together */

/** 128 weights in the order of arrange_4bit(): lane i has elements 8 i to 8 i + 7. vpermps looks at
 *  4 bits of an index. Multiplications shift, for the unit that shifts also permutes. */
V void look_up(vec w[8], veci codes, vec table) {
    const veci upper = _mm512_srli_epi32(codes, 16);
    UNROLL for (int j = 0; j < 4; j++) {
        const veci by = _mm512_set1_epi16((int16_t)(1 << (16 - 4 * (j ? j : 4))));
        w[j] = v_table(table, j ? _mm512_mulhi_epu16(codes, by) : codes);
        w[4 + j] = v_table(table, j ? _mm512_mulhi_epu16(upper, by) : upper);
    }
}

typedef struct code_row {
    const uint8_t *codes;
    float *dst;
    float scales[CODE_BLOCKS];
    vec sum[X_ROWS_4BIT];
} code_row;

V void add_unit(code_row *row, const float *x, int64_t stride, veci codes, int64_t unit, vec table,
                const int nx) {
    /* lanes 0 to 7 belong to the unit's first block */
    const __m512i spread = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    const __m128d two = _mm_load_sd((const double *)(row->scales + 2 * unit));
    const vec scale = _mm512_permutexvar_ps(spread, _mm512_castpd_ps(_mm512_castpd128_pd512(two)));
    vec w[8], u[X_ROWS_4BIT];
    look_up(w, codes, table);
    UNROLL for (int i = 0; i < nx; i++) {
        u[i] = v_mul(w[0], v_load(x + i * stride));
        UNROLL for (int j = 1; j < 8; j++) {
            u[i] = v_fma(w[j], v_load(x + i * stride + 16 * j), u[i]);
        }
        row->sum[i] = v_fma(u[i], scale, row->sum[i]);
    }
}

/** Weight rows rows[0 .. nw) times x rows [0 .. nx). */
V void tile_4bit(code_row rows[2], const dot_4bit_args *args, const float *x, const int64_t at[2],
                 const int nw, const int nx) {
    const int64_t blocks = args->k / 64, repeat = args->q->block / 64;
    const vec table = v_load(args->q->table);
    UNROLL for (int r = 0; r < nw; r++) {
        UNROLL for (int i = 0; i < nx; i++) rows[r].sum[i] = v_set(0);
    }
    for (int64_t b = 0; b < blocks; b += CODE_BLOCKS) {
        const int64_t n = i64_min(CODE_BLOCKS, blocks - b);
        UNROLL for (int r = 0; r < nw; r++) {
            unit_scales(args->q, at[r] / 64 + b, n, repeat, rows[r].scales);
        }
        const float *in = x + 64 * b;
        int64_t unit = 0;
        for (; 2 * unit + 2 <= n; unit++) {
            UNROLL for (int r = 0; r < nw; r++) {
                const uint8_t *codes = rows[r].codes + (b / 2 + unit) * 64;
                __builtin_prefetch(codes + PREFETCH_AHEAD);
                add_unit(&rows[r], in + 128 * unit, args->x_stride, i_load(codes), unit, table, nx);
            }
        }
        if (2 * unit == n) continue;
        UNROLL for (int r = 0; r < nw; r++) { /* half a unit */
            const veci codes = i_load_n(rows[r].codes + (b / 2 + unit) * 64, 32);
            rows[r].scales[n] = 0;
            add_unit(&rows[r], in + 128 * unit, args->x_stride, codes, unit, table, nx);
        }
    }
    UNROLL for (int r = 0; r < nw; r++) {
        UNROLL for (int i = 0; i < nx; i++) {
            rows[r].dst[i * args->dst_stride] = v_sum(rows[r].sum[i]);
        }
    }
}

V void rows_4bit(const dot_4bit_args *args, int64_t row, int64_t apart, const int nw) {
    code_row rows[2];
    int64_t at[2];
    UNROLL for (int r = 0; r < nw; r++) {
        at[r] = args->first + (row + r * apart) * args->k;
        rows[r].codes = args->codes + at[r] / 2;
        rows[r].dst = args->dst + row + r * apart;
    }
    for (int64_t i = 0, n; i < args->n_x; i += n) {
        const float *x = args->x + i * args->x_stride;
        const int64_t left = args->n_x - i;
        n = left >= 4 ? 4 : left >= 2 ? 2 : 1;
        switch (n) {
        case 4: tile_4bit(rows, args, x, at, nw, 4); break;
        case 2: tile_4bit(rows, args, x, at, nw, 2); break;
        default: tile_4bit(rows, args, x, at, nw, 1); break;
        }
        UNROLL for (int r = 0; r < nw; r++) rows[r].dst += n * args->dst_stride;
    }
}

static void avx512_dot_4bit(const dot_4bit_args *args) {
    const int64_t apart = args->n_w / 2; /* few, long streams */
    for (int64_t r = 0; r < apart; r++) rows_4bit(args, r, apart, 2);
    if (args->n_w % 2) rows_4bit(args, args->n_w - 1, 0, 1);
}

#endif
