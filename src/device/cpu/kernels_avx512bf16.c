/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of bfloat16 with vdpbf16ps, on top of the AVX-512 level. The instruction adds the
 * product of the odd elements to the sum, then that of the even ones, each rounded to nearest
 * even as by a fused multiply-add; subnormal inputs and results count as zero.
 */
#include <immintrin.h>

#include "device/cpu/kernels.h"

#define LANES      16 /* pairs */
#define TILE_ROWS  6
#define TILE_WIDTH 4 /* vectors */

#define V static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

V __m512 dot_pairs(__m512 sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

V __m512i load_pair(const uint16_t *p) {
    int pair;
    memcpy(&pair, p, sizeof pair);
    return _mm512_set1_epi32(pair);
}

/* ---------------------------------------------------------------- PANEL */

/** mr x nv vectors of c; both are constants where this is inlined. */
V void tile_bf16(const gemm_bf16_args *args, int64_t row, int64_t column, const int mr,
                 const int nv) {
    __m512 sum[TILE_ROWS][TILE_WIDTH];
    float *c = args->c + row * args->ldc + column;
    const uint16_t *b = args->b + 2 * column;
    const uint16_t *a0 = args->a + row * args->lda, *a1 = a0 + mr / 2 * args->lda;
    const int64_t lda = args->lda, ldb = args->ldb, ldc = args->ldc;
    UNROLL for (int i = 0; i < mr; i++) {
        UNROLL for (int j = 0; j < nv; j++) {
            const float *at = c + i * ldc + j * LANES;
            sum[i][j] = args->accumulate ? _mm512_loadu_ps(at) : _mm512_setzero_ps();
        }
    }
    for (int64_t k = 0; k < args->k; k += 2) {
        __m512i w[TILE_WIDTH];
        UNROLL for (int j = 0; j < nv; j++) w[j] = _mm512_load_si512(b + j * 2 * LANES);
        UNROLL for (int i = 0; i < mr; i++) {
            /* two base pointers and one stride: addresses stay in registers */
            const __m512i x = load_pair(i < mr / 2 ? a0 + i * lda : a1 + (i - mr / 2) * lda);
            UNROLL for (int j = 0; j < nv; j++) sum[i][j] = dot_pairs(sum[i][j], x, w[j]);
        }
        a0 += 2;
        a1 += 2;
        b += ldb;
        __asm__ volatile("" : "+r"(a0), "+r"(a1), "+r"(b));
    }
    UNROLL for (int i = 0; i < mr; i++) {
        UNROLL for (int j = 0; j < nv; j++) _mm512_storeu_ps(c + i * ldc + j * LANES, sum[i][j]);
    }
}

#define TILE_CASE(mr)                                                                              \
    case mr: tile_bf16(args, row, column, mr, nv); break;

V void tile_column(const gemm_bf16_args *args, int64_t column, const int nv) {
    int64_t row = 0;
    for (; row + TILE_ROWS <= args->m; row += TILE_ROWS)
        tile_bf16(args, row, column, TILE_ROWS, nv);
    switch (args->m - row) {
        TILE_CASE(5)
        TILE_CASE(4)
        TILE_CASE(3)
        TILE_CASE(2)
        TILE_CASE(1)
    default: break;
    }
}

static void bf16_gemm_bf16(const gemm_bf16_args *args) {
    switch (ceil_div(args->n, LANES)) {
    case 4: tile_column(args, 0, 4); break;
    case 3: tile_column(args, 0, 3); break;
    case 2: tile_column(args, 0, 2); break;
    case 1: tile_column(args, 0, 1); break;
    default: break;
    }
}

/* ---------------------------------------------------------------- conversion */

#define CLASS_SUBNORMAL 0x20 /* of vfpclassps */

static void narrow_few(uint8_t *dst, const float *src, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const uint16_t half = f32_to_bf16(src[i]);
        memcpy(dst + 2 * i, &half, sizeof half);
    }
}

/** The instruction takes subnormals for zero, which is not their rounding. */
static void bf16_narrow_bf16(void *dst, const float *src, int64_t n) {
    uint8_t *p = dst;
    int64_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        const __m512 low = _mm512_loadu_ps(src + i), high = _mm512_loadu_ps(src + i + LANES);
        const __mmask16 odd = _mm512_fpclass_ps_mask(low, CLASS_SUBNORMAL) |
                              _mm512_fpclass_ps_mask(high, CLASS_SUBNORMAL);
        if (__builtin_expect(odd != 0, 0))
            narrow_few(p + 2 * i, src + i, 2 * LANES);
        else
            _mm512_storeu_si512(p + 2 * i, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
    for (; i < n; i += LANES) {
        const int64_t left = i64_min(LANES, n - i);
        const __mmask16 lanes = (__mmask16)((1u << left) - 1);
        const __m512 v = _mm512_maskz_loadu_ps(lanes, src + i);
        if (__builtin_expect(_mm512_fpclass_ps_mask(v, CLASS_SUBNORMAL) != 0, 0))
            narrow_few(p + 2 * i, src + i, left);
        else
            _mm256_mask_storeu_epi16(p + 2 * i, lanes, (__m256i)_mm512_cvtneps_pbh(v));
    }
}

V __mmask32 first_halves(int64_t n) { return n >= 32 ? 0xffffffffu : n > 0 ? (1u << n) - 1 : 0; }

static void bf16_pair_rows(uint16_t *dst, const uint16_t *a, const uint16_t *b, int64_t n) {
    /* quarters of low and high alternate */
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    for (int64_t i = 0; i < n; i += 2 * LANES) {
        const int64_t left = n - i;
        const __m512i x = _mm512_maskz_loadu_epi16(first_halves(left), a + i);
        const __m512i y = _mm512_maskz_loadu_epi16(first_halves(left), b + i);
        const __m512i low = _mm512_unpacklo_epi16(x, y), high = _mm512_unpackhi_epi16(x, y);
        _mm512_mask_storeu_epi16(dst + 2 * i, first_halves(2 * left),
                                 _mm512_permutex2var_epi64(low, first, high));
        _mm512_mask_storeu_epi16(dst + 2 * i + 2 * LANES, first_halves(2 * left - 2 * LANES),
                                 _mm512_permutex2var_epi64(low, second, high));
    }
}

/* ---------------------------------------------------------------- 4 bit */

#include "device/cpu/kernels_avx512_codes.h"

void kernels_fill_avx512bf16(kernels *table) {
    table->native_bf16 = true;
    table->dot_4bit_i16 = codes_dot_4bit_i16;
    table->gemm_bf16 = bf16_gemm_bf16;
    table->pair_rows = bf16_pair_rows;
    table->narrow_bf16 = bf16_narrow_bf16;
}
