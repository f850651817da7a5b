/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of signed and unsigned bytes with vpdpbusd, on top of the AVX-512 level. The instruction
 * sums four products exactly.
 */
#include <immintrin.h>

#include "device/cpu/kernels.h"

#define LANES      16
#define TILE_ROWS  6
#define TILE_WIDTH 4 /* vectors */

#define V static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

V __m512i load_four(const uint8_t *p) {
    int four;
    memcpy(&four, p, sizeof four);
    return _mm512_set1_epi32(four);
}

/* ---------------------------------------------------------------- PANEL */

/** mr x nv vectors of c; both are constants where this is inlined. */
V void tile_i8(const gemm_i8_args *args, int64_t row, int64_t column, const int mr, const int nv) {
    __m512i sum[TILE_ROWS][TILE_WIDTH];
    int32_t *c = args->c + row * args->ldc + column;
    const int8_t *b = args->b + 4 * column;
    const uint8_t *a0 = args->a + row * args->lda, *a1 = a0 + mr / 2 * args->lda;
    const int64_t lda = args->lda, ldb = args->ldb, ldc = args->ldc;
    UNROLL for (int i = 0; i < mr; i++) {
        UNROLL for (int j = 0; j < nv; j++) {
            const int32_t *at = c + i * ldc + j * LANES;
            sum[i][j] = args->accumulate ? _mm512_loadu_si512(at) : _mm512_setzero_si512();
        }
    }
    for (int64_t k = 0; k < args->k; k += 4) {
        __m512i w[TILE_WIDTH];
        UNROLL for (int j = 0; j < nv; j++) w[j] = _mm512_load_si512(b + 4 * j * LANES);
        UNROLL for (int i = 0; i < mr; i++) {
            /* two base pointers and one stride: addresses stay in registers */
            const __m512i x = load_four(i < mr / 2 ? a0 + i * lda : a1 + (i - mr / 2) * lda);
            UNROLL for (int j = 0; j < nv; j++) {
                sum[i][j] = _mm512_dpbusd_epi32(sum[i][j], x, w[j]);
            }
        }
        a0 += 4;
        a1 += 4;
        b += ldb;
        __asm__ volatile("" : "+r"(a0), "+r"(a1), "+r"(b));
    }
    UNROLL for (int i = 0; i < mr; i++) {
        UNROLL for (int j = 0; j < nv; j++) {
            _mm512_storeu_si512(c + i * ldc + j * LANES, sum[i][j]);
        }
    }
}

#define TILE_CASE(mr)                                                                              \
    case mr: tile_i8(args, row, 0, mr, nv); break;

V void tile_rows(const gemm_i8_args *args, const int nv) {
    int64_t row = 0;
    for (; row + TILE_ROWS <= args->m; row += TILE_ROWS) tile_i8(args, row, 0, TILE_ROWS, nv);
    switch (args->m - row) {
        TILE_CASE(5)
        TILE_CASE(4)
        TILE_CASE(3)
        TILE_CASE(2)
        TILE_CASE(1)
    default: break;
    }
}

static void vnni_gemm_i8(const gemm_i8_args *args) {
    switch (ceil_div(args->n, LANES)) {
    case 4: tile_rows(args, 4); break;
    case 3: tile_rows(args, 3); break;
    case 2: tile_rows(args, 2); break;
    case 1: tile_rows(args, 1); break;
    default: break;
    }
}

/* ---------------------------------------------------------------- DOT */

#define PREFETCH_AHEAD 4096 /* bytes */
#define X_ROWS         4    /* activation rows taken together */

V __mmask64 first_bytes(int64_t n) { return n >= 64 ? ~0ull : (1ull << n) - 1; }

/** Weight rows w[0 .. nw) times x rows [0 .. nx). */
V void tile_dot(const int8_t *const w[2], const uint8_t *x, const dot_i8_args *args,
                int32_t *const dst[2], const int nw, const int nx) {
    const int64_t k = args->k, stride = args->x_stride;
    const __m512i ones = _mm512_set1_epi8(1);
    __m512i sum[2][X_ROWS], weights[2];
    UNROLL for (int r = 0; r < nw; r++) {
        weights[r] = _mm512_setzero_si512();
        UNROLL for (int i = 0; i < nx; i++) sum[r][i] = _mm512_setzero_si512();
    }
    int64_t p = 0;
    for (; p + 64 <= k; p += 64) {
        __m512i v[2];
        UNROLL for (int r = 0; r < nw; r++) {
            __builtin_prefetch(w[r] + p + PREFETCH_AHEAD, 0, 2);
            v[r] = _mm512_loadu_si512(w[r] + p);
            weights[r] = _mm512_dpbusd_epi32(weights[r], ones, v[r]);
        }
        UNROLL for (int i = 0; i < nx; i++) {
            const __m512i xv = _mm512_loadu_si512(x + i * stride + p);
            UNROLL for (int r = 0; r < nw; r++) {
                sum[r][i] = _mm512_dpbusd_epi32(sum[r][i], xv, v[r]);
            }
        }
    }
    if (p < k) {
        const __mmask64 mask = first_bytes(k - p);
        UNROLL for (int r = 0; r < nw; r++) {
            const __m512i v = _mm512_maskz_loadu_epi8(mask, w[r] + p);
            weights[r] = _mm512_dpbusd_epi32(weights[r], ones, v);
            UNROLL for (int i = 0; i < nx; i++) {
                const __m512i xv = _mm512_maskz_loadu_epi8(mask, x + i * stride + p);
                sum[r][i] = _mm512_dpbusd_epi32(sum[r][i], xv, v);
            }
        }
    }
    UNROLL for (int r = 0; r < nw; r++) { /* activations are 128 more than their codes */
        const __m512i shift = _mm512_slli_epi32(weights[r], 7);
        UNROLL for (int i = 0; i < nx; i++) {
            const __m512i exact = _mm512_sub_epi32(sum[r][i], shift);
            dst[r][i * args->dst_stride] = _mm512_reduce_add_epi32(exact);
        }
    }
}

V void dot_rows(const dot_i8_args *args, int64_t row, int64_t apart, const int nw) {
    const int8_t *w[2];
    int32_t *dst[2];
    UNROLL for (int r = 0; r < nw; r++) {
        w[r] = args->w + (row + r * apart) * args->k;
        dst[r] = args->dst + row + r * apart;
    }
    for (int64_t i = 0, n; i < args->n_x; i += n) {
        const uint8_t *x = args->x + i * args->x_stride;
        const int64_t left = args->n_x - i;
        n = left >= 4 ? 4 : left >= 2 ? 2 : 1;
        switch (n) {
        case 4: tile_dot(w, x, args, dst, nw, 4); break;
        case 2: tile_dot(w, x, args, dst, nw, 2); break;
        default: tile_dot(w, x, args, dst, nw, 1); break;
        }
        UNROLL for (int r = 0; r < nw; r++) dst[r] += n * args->dst_stride;
    }
}

static void vnni_dot_i8(const dot_i8_args *args) {
    const int64_t apart = args->n_w / 2; /* few, long streams */
    for (int64_t r = 0; r < apart; r++) dot_rows(args, r, apart, 2);
    if (args->n_w % 2) dot_rows(args, args->n_w - 1, 0, 1);
}

/* ---------------------------------------------------------------- 4 bit */

#include "device/cpu/kernels_avx512_codes.h"

void kernels_fill_avx512vnni(kernels *table) {
    table->native_codes = true;
    table->dot_4bit_i16 = codes_dot_4bit_i16;
    table->gemm_i8 = vnni_gemm_i8;
    table->dot_i8 = vnni_dot_i8;
}
