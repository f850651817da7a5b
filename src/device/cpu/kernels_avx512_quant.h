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
V veci i_pair16(veci low, veci high) {
    return _mm512_mask_blend_epi16(0xaaaaaaaau, low, _mm512_slli_epi32(high, 16));
}
V veci i_madd(veci a, veci b) { return _mm512_madd_epi16(a, b); }
V int32_t i_sum(veci v) { return _mm512_reduce_add_epi32(v); }
V vec i_to_float(veci v) { return _mm512_cvtepi32_ps(v); }
V veci i_from_float(vec v) { return _mm512_cvtps_epi32(v); }
/** limits from the fourth, from the second, from the first on: what a bisection asks for. */
typedef struct rank_table {
    vec middle, by4, by2, by1;
} rank_table;

V void rank_table_load(rank_table *t, const float *limits, int n) {
    float all[LANES + 4];
    for (int i = 0; i < LANES + 4; i++) all[i] = i < n ? limits[i] : INFINITY;
    *t = (rank_table){v_set(all[7]), v_load(all + 3), v_load(all + 1), v_load(all)};
}
V veci step_rank(veci rank, vec x, vec table, int32_t by) {
    const __mmask16 above = _mm512_cmp_ps_mask(x, _mm512_permutexvar_ps(rank, table), _CMP_GT_OQ);
    return _mm512_mask_or_epi32(rank, above, rank, i_set(by));
}
V veci i_rank(const rank_table *t, vec x) {
    veci rank = _mm512_maskz_mov_epi32(_mm512_cmp_ps_mask(x, t->middle, _CMP_GT_OQ), i_set(8));
    rank = step_rank(rank, x, t->by4, 4);
    rank = step_rank(rank, x, t->by2, 2);
    return step_rank(rank, x, t->by1, 1);
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

#define X_ROWS_4BIT 4 /* activation rows taken together */

/** Weights j, 8 + j, 16 + j ... of 128 in the order of arrange_4bit(): lane i has elements 8 i to
 *  8 i + 7. vpermps looks at 4 bits of an index. */
V vec look_up(veci codes, vec table, const int j) {
    return v_table(table, j ? _mm512_srli_epi32(codes, 4 * j) : codes);
}

/** Units of nw weight rows: sums times their blocks' scales, added to sum. */
V void add_units(vec sum[2][X_ROWS_4BIT], const float *x, int64_t stride, const veci codes[2],
                 const float *const scales[2], vec table, const int nw, const int nx) {
    /* lanes 0 to 7 belong to the unit's first block */
    const __m512i spread = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    vec u[2][X_ROWS_4BIT];
    UNROLL for (int j = 0; j < 8; j++) {
        vec w[2];
        UNROLL for (int r = 0; r < nw; r++) w[r] = look_up(codes[r], table, j);
        UNROLL for (int i = 0; i < nx; i++) {
            vec in = v_load(x + i * stride + 16 * j);
            __asm__("" : "+v"(in)); /* loaded once for both rows */
            UNROLL for (int r = 0; r < nw; r++) {
                u[r][i] = j ? v_fma(w[r], in, u[r][i]) : v_mul(w[r], in);
            }
        }
    }
    UNROLL for (int r = 0; r < nw; r++) {
        const __m128i pair = _mm_loadl_epi64((const __m128i *)scales[r]);
        const __m512 two = _mm512_castps128_ps512(_mm_castsi128_ps(pair));
        const vec scale = _mm512_permutexvar_ps(spread, two);
        UNROLL for (int i = 0; i < nx; i++) sum[r][i] = v_fma(u[r][i], scale, sum[r][i]);
    }
}

typedef struct code_row {
    const uint8_t *codes;
    int64_t block; /* of 64 elements, where the row begins */
    float *dst;
} code_row;

typedef struct code_product {
    const dot_4bit_args *args;
    scale_table map;
    scale_stream scales[2];
} code_product;

/** Weight rows rows[0 .. nw) times x rows [i, i + nx). */
V void tile_4bit(code_product *p, const code_row rows[2], int64_t i, const int nw, const int nx) {
    const dot_4bit_args *args = p->args;
    const int64_t blocks = args->k / 64, stride = args->x_stride;
    const float *x = (const float *)args->x + i * stride;
    const vec table = v_load(args->q->table);
    vec sum[2][X_ROWS_4BIT];
    UNROLL for (int r = 0; r < nw; r++) {
        UNROLL for (int j = 0; j < nx; j++) sum[r][j] = v_set(0);
    }
    for (int64_t b = 0; b < blocks; b += SCALES_AT_ONCE) {
        const int64_t n = i64_min(SCALES_AT_ONCE, blocks - b);
        const uint8_t *at[2];
        const float *scales[2];
        veci codes[2];
        UNROLL for (int r = 0; r < nw; r++) {
            at[r] = rows[r].codes + b * 32;
            scales[r] = scale_stream_at(&p->scales[r], args->q, &p->map, rows[r].block + b, n);
        }
        const float *in = x + 64 * b;
        for (int64_t unit = 0; unit < n / 2; unit++, in += KERNEL_ARRANGED) {
            UNROLL for (int r = 0; r < nw; r++) {
                __builtin_prefetch(at[r] + PREFETCH_AHEAD, 0, 2);
                codes[r] = i_load(at[r]);
            }
            add_units(sum, in, stride, codes, scales, table, nw, nx);
            UNROLL for (int r = 0; r < nw; r++) {
                at[r] += 64;
                scales[r] += 2;
            }
        }
        if (n % 2 == 0) continue;
        float last[2][2];
        const float *const half[2] = {last[0], last[1]};
        UNROLL for (int r = 0; r < nw; r++) { /* half a unit */
            codes[r] = i_load_n(at[r], 32);
            last[r][0] = *scales[r];
            last[r][1] = 0;
        }
        add_units(sum, in, stride, codes, half, table, nw, nx);
    }
    UNROLL for (int r = 0; r < nw; r++) {
        UNROLL for (int j = 0; j < nx; j++) {
            rows[r].dst[(i + j) * args->dst_stride] = v_sum(sum[r][j]);
        }
    }
}

#include "device/cpu/kernels_avx512_rows.h"

static void avx512_dot_4bit(const dot_4bit_args *args) {
    code_product p = {.args = args};
    scale_table_load(&p.map, args->q);
    multiply_rows(&p);
}

#endif
