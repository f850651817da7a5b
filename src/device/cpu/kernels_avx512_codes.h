/* SPDX-License-Identifier: Apache-2.0
 *
 * Products from 4-bit codes with vpdpwssd: 16-bit tables and activations, exact sums of a unit.
 * A part of the levels from VNNI on; those with VBMI decode scales in vectors.
 */
#ifndef LLAVA_KERNELS_AVX512_CODES_H
#define LLAVA_KERNELS_AVX512_CODES_H

#define CODES_ROWS  4    /* activation rows taken together */
#define CODES_AHEAD 4096 /* bytes */

#ifdef __AVX512VBMI__
#define HAS_DECODE_SCALES

/** The map's four bytes apart: vpermi2b looks up 128 of each. */
typedef struct scale_table {
    __m512i bytes[4][4];
} scale_table;

static void scale_table_load(scale_table *t, const quant *q) {
    for (int i = 0; i < QUANT_MAP_SIZE; i += LANES) {
        const __m512i bits = _mm512_loadu_si512(q->map + i);
        for (int plane = 0; plane < 4; plane++) {
            const __m512i shifted = _mm512_srlv_epi32(bits, _mm512_set1_epi32(8 * plane));
            uint8_t *to = (uint8_t *)t->bytes[plane] + i;
            _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8(shifted));
        }
    }
}

/** scales[i] = map[codes[i]] * nested + offset, each step rounded; writes 64 at a time. */
V void decode_scales(const scale_table *t, const uint8_t *codes, int64_t n, float nested,
                     float offset, float *scales) {
    /* unpacking works on quarters: each gets every fourth group of four codes */
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (int64_t i = 0; i < n; i += 64) {
        const __mmask64 some = n - i >= 64 ? ~0ull : (1ull << (n - i)) - 1;
        const __m512i in = _mm512_maskz_loadu_epi8(some, codes + i);
        const __m512i index = _mm512_permutexvar_epi32(order, in);
        const __mmask64 upper = _mm512_movepi8_mask(index);
        __m512i byte[4];
        UNROLL for (int p = 0; p < 4; p++) {
            const __m512i *of = t->bytes[p];
            const __m512i low = _mm512_permutex2var_epi8(of[0], index, of[1]);
            const __m512i high = _mm512_permutex2var_epi8(of[2], index, of[3]);
            byte[p] = _mm512_mask_blend_epi8(upper, low, high);
        }
        __m512i low[2], high[2], value[4]; /* of pairs of bytes */
        UNROLL for (int p = 0; p < 2; p++) {
            low[p] = _mm512_unpacklo_epi8(byte[2 * p], byte[2 * p + 1]);
            high[p] = _mm512_unpackhi_epi8(byte[2 * p], byte[2 * p + 1]);
        }
        value[0] = _mm512_unpacklo_epi16(low[0], low[1]);
        value[1] = _mm512_unpackhi_epi16(low[0], low[1]);
        value[2] = _mm512_unpacklo_epi16(high[0], high[1]);
        value[3] = _mm512_unpackhi_epi16(high[0], high[1]);
        UNROLL for (int v = 0; v < 4; v++) {
            const __m512 map = _mm512_castsi512_ps(value[v]);
            const __m512 scaled = _mm512_mul_ps(map, _mm512_set1_ps(nested));
            _mm512_storeu_ps(scales + i + 16 * v, _mm512_add_ps(scaled, _mm512_set1_ps(offset)));
        }
    }
}

#endif

#include "device/cpu/kernels_scales.h"

/** The coded table in both halves: vpermw looks at 5 bits of an index, of which 4 are the code. */
V __m512i load_table(const float table[16], float *scale) {
    int16_t codes[16], both[32];
    *scale = quant_code_table(table, codes);
    for (int i = 0; i < 32; i++) both[i] = codes[i % 16];
    return _mm512_loadu_si512(both);
}

/** Units of 128 weights of nw rows: sums times their scales, added to sum. */
V void add_units(__m512 sum[2][CODES_ROWS], const int16_t *x, const float *x_scales, int64_t stride,
                 const __m512i codes[2], const float *const scales[2], __m512i table, const int nw,
                 const int nx) {
    /* lanes 0 to 7 belong to the unit's first block */
    const __m512i spread = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    __m512i u[2][CODES_ROWS];
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
                u[r][i] = _mm512_dpwssd_epi32(j ? u[r][i] : _mm512_setzero_si512(), w[r], in);
            }
        }
    }
    UNROLL for (int r = 0; r < nw; r++) {
        const __m128i two = _mm_loadl_epi64((const __m128i *)scales[r]);
        const __m512 both = _mm512_castps128_ps512(_mm_castsi128_ps(two));
        const __m512 scale = _mm512_permutexvar_ps(spread, both);
        UNROLL for (int i = 0; i < nx; i++) {
            const float *own = (const float *)((const uint8_t *)x_scales + 2 * i * stride);
            const __m512 all = _mm512_mul_ps(scale, _mm512_set1_ps(*own));
            sum[r][i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(u[r][i]), all, sum[r][i]);
        }
    }
}

typedef struct code_row {
    const uint8_t *codes;
    int64_t block; /* of 64 elements, where the row begins */
    float *dst;
} code_row;

typedef struct code_product {
    const dot_4bit_args *args;
    __m512i table;
    float table_scale;
    scale_table map;
    scale_stream scales[2];
} code_product;

/** Weight rows rows[0 .. nw) times x rows [i, i + nx). */
V void tile_4bit(code_product *p, const code_row rows[2], int64_t i, const int nw, const int nx) {
    const dot_4bit_args *args = p->args;
    const int64_t blocks = args->k / 64, stride = args->x_stride;
    const int16_t *x = (const int16_t *)args->x + i * stride;
    const float *x_scales = (const float *)(x + round_up(args->k, KERNEL_ARRANGED));
    const __m512i table = p->table;
    __m512 sum[2][CODES_ROWS];
    UNROLL for (int r = 0; r < nw; r++) {
        UNROLL for (int j = 0; j < nx; j++) sum[r][j] = _mm512_setzero_ps();
    }
    for (int64_t b = 0; b < blocks; b += SCALES_AT_ONCE) {
        const int64_t n = i64_min(SCALES_AT_ONCE, blocks - b);
        const uint8_t *at[2];
        const float *scales[2];
        __m512i codes[2];
        UNROLL for (int r = 0; r < nw; r++) {
            at[r] = rows[r].codes + b * 32;
            scales[r] = scale_stream_at(&p->scales[r], args->q, &p->map, rows[r].block + b, n);
        }
        const int16_t *in = x + 64 * b;
        const float *in_scales = x_scales + b / 2;
        for (int64_t unit = 0; unit < n / 2; unit++, in += KERNEL_ARRANGED, in_scales++) {
            UNROLL for (int r = 0; r < nw; r++) {
                __builtin_prefetch(at[r] + CODES_AHEAD, 0, 2);
                codes[r] = _mm512_loadu_si512(at[r]);
            }
            add_units(sum, in, in_scales, stride, codes, scales, table, nw, nx);
            UNROLL for (int r = 0; r < nw; r++) {
                at[r] += 64;
                scales[r] += 2;
            }
        }
        if (n % 2 == 0) continue;
        float last[2][2];
        const float *const half[2] = {last[0], last[1]};
        UNROLL for (int r = 0; r < nw; r++) { /* half a unit */
            codes[r] = _mm512_maskz_loadu_epi32(0xff, at[r]);
            last[r][0] = *scales[r];
            last[r][1] = 0;
        }
        add_units(sum, in, in_scales, stride, codes, half, table, nw, nx);
    }
    UNROLL for (int r = 0; r < nw; r++) {
        UNROLL for (int j = 0; j < nx; j++) {
            const float all = _mm512_reduce_add_ps(sum[r][j]);
            rows[r].dst[(i + j) * args->dst_stride] = all * p->table_scale;
        }
    }
}

#include "device/cpu/kernels_avx512_rows.h"

static void codes_dot_4bit_i16(const dot_4bit_args *args) {
    code_product p = {.args = args};
    p.table = load_table(args->q->table, &p.table_scale);
    if (!args->q->absmax) scale_table_load(&p.map, args->q);
    multiply_rows(&p);
}

#endif
