/* SPDX-License-Identifier: Apache-2.0
 *
 * Kernels for AVX-512 F, BW, VL and DQ: vectors of 16 floats.
 */
#include <immintrin.h>

#include "device/cpu/kernels.h"

#define LANES        16
#define TILE_VECTORS 4
#define DOT_ROWS_MAX 2
#define NAME(kernel) avx512_##kernel
#define HAS_DOT_BF16 /* of its own, below */

typedef __m512 vec;

#define V static inline __attribute__((always_inline))

V __mmask16 first_lanes(int64_t n) { return (__mmask16)((1u << n) - 1); }

V vec v_set(float x) { return _mm512_set1_ps(x); }
V vec v_load(const float *p) { return _mm512_loadu_ps(p); }
V vec v_load_n(const float *p, int64_t n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
V void v_store(float *p, vec v) { _mm512_storeu_ps(p, v); }
V void v_store_n(float *p, vec v, int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), v); }

V __m256i load_halves(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
V __m256i load_halves_n(const void *p, int64_t n) {
    return _mm256_maskz_loadu_epi16(first_lanes(n), p);
}
V vec widen_halves_bf16(__m256i halves) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
V vec v_load_f16(const void *p) { return _mm512_cvtph_ps(load_halves(p)); }
V vec v_load_f16_n(const void *p, int64_t n) { return _mm512_cvtph_ps(load_halves_n(p, n)); }
V vec v_load_bf16(const void *p) { return widen_halves_bf16(load_halves(p)); }
V vec v_load_bf16_n(const void *p, int64_t n) { return widen_halves_bf16(load_halves_n(p, n)); }

V vec v_add(vec a, vec b) { return _mm512_add_ps(a, b); }
V vec v_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
V vec v_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
V vec v_div(vec a, vec b) { return _mm512_div_ps(a, b); }
V vec v_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
V vec v_fnma(vec a, vec b, vec c) { return _mm512_fnmadd_ps(a, b, c); }
V vec v_min(vec a, vec b) { return _mm512_min_ps(a, b); }
V vec v_max(vec a, vec b) { return _mm512_max_ps(a, b); }
V vec v_less(vec a, vec b, vec x, vec y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
V vec v_round(vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT); }
V vec v_exp2(vec a, vec n) { return _mm512_scalef_ps(a, n); }
V vec v_index(void) { return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
V float v_sum(vec a) { return _mm512_reduce_add_ps(a); }
V float v_maximum(vec a) { return _mm512_reduce_max_ps(a); }

/** Half of the lanes are added at each of four steps, neighbours going into one vector. */
V vec v_sums(const vec a[LANES]) {
    vec t[8], u[4];
    for (int i = 0; i < 8; i++)
        t[i] = _mm512_add_ps(_mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]),
                             _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]));
    for (int i = 0; i < 4; i++) { /* each quarter has sums of a[4 i] ... a[4 i + 3] */
        const __m512d x = _mm512_castps_pd(t[2 * i]), y = _mm512_castps_pd(t[2 * i + 1]);
        u[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
    }
    for (int i = 0; i < 2; i++)
        t[i] = _mm512_add_ps(_mm512_shuffle_f32x4(u[2 * i], u[2 * i + 1], 0x88),
                             _mm512_shuffle_f32x4(u[2 * i], u[2 * i + 1], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(t[0], t[1], 0x88),
                         _mm512_shuffle_f32x4(t[0], t[1], 0xdd));
}

V vec v_load_i8(const void *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

#include "device/cpu/kernels_attention.h"

/* ---------------------------------------------------------------- conversions down */

static void avx512_narrow_f16(void *dst, const float *src, int64_t n) {
    uint8_t *p = dst;
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t left = i64_min(LANES, n - i);
        const __m256i half = _mm512_cvtps_ph(_mm512_maskz_loadu_ps(first_lanes(left), src + i),
                                             _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm256_mask_storeu_epi16(p + 2 * i, first_lanes(left), half);
    }
}

/** Round to nearest even on the bits; not-a-number keeps its upper half, made quiet. */
V __m512i rounded_bf16_bits(vec v) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    return _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q),
                                   _mm512_add_epi32(bits, half), quiet);
}

static void avx512_narrow_bf16(void *dst, const float *src, int64_t n) {
    uint8_t *p = dst;
    for (int64_t i = 0; i < n; i += LANES) {
        const __mmask16 lanes = first_lanes(i64_min(LANES, n - i));
        const __m512i bits = rounded_bf16_bits(_mm512_maskz_loadu_ps(lanes, src + i));
        const __m256i half = _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16));
        _mm256_mask_storeu_epi16(p + 2 * i, lanes, half);
    }
}

static void avx512_round_bf16(float *dst, const float *src, int64_t n) {
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    for (int64_t i = 0; i < n; i += LANES) {
        const __mmask16 lanes = first_lanes(i64_min(LANES, n - i));
        const __m512i bits = rounded_bf16_bits(_mm512_maskz_loadu_ps(lanes, src + i));
        _mm512_mask_storeu_ps(dst + i, lanes, _mm512_castsi512_ps(_mm512_and_si512(bits, upper)));
    }
}

/* ---------------------------------------------------------------- DOT of bfloat16 */

#define BF16_STREAMS 4    /* weight rows taken together, at most */
#define BF16_X_ROWS  4    /* activation rows */
#define BF16_LONG    2048 /* activations that leave no room in L1: load them less often */

V __mmask32 first_halves(int64_t n) { return n >= 32 ? 0xffffffffu : (1u << n) - 1; }

/** Elements 0, 2, 4 ... (odd: 1, 3, 5 ...) of 32 floats. */
V vec every_other(vec first, vec second, const bool odd) {
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i index = odd ? _mm512_or_si512(even, _mm512_set1_epi32(1)) : even;
    return _mm512_permutex2var_ps(first, index, second);
}

static void avx512_split_pairs(float *dst, const float *src, int64_t n) {
    for (int64_t i = 0; i < n; i += 2 * LANES) {
        const vec first = v_load_n(src + i, i64_min(LANES, n - i));
        const int64_t rest = i64_max(0, i64_min(LANES, n - i - LANES));
        const vec second = _mm512_maskz_loadu_ps(first_lanes(rest), src + i + LANES);
        v_store(dst + i, every_other(first, second, false));
        v_store(dst + i + LANES, every_other(first, second, true));
    }
}

/** sum + 32 weights times 32 activations. A bfloat16 is the upper half of a float: of each pair
 *  one is moved up and the other freed of its neighbour, which is cheaper than widening. */
V vec add_products(vec sum, __m512i w, vec even, vec odd) {
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    sum = v_fma(_mm512_castsi512_ps(_mm512_slli_epi32(w, 16)), even, sum);
    return v_fma(_mm512_castsi512_ps(_mm512_and_si512(w, upper)), odd, sum);
}

/** What the weight rows of a tile are read ahead by: the rows of activations that take their turns
 *  with one row of weights share the lines of the next. */
typedef struct read_ahead {
    int64_t bytes;       /* from a weight row on */
    uint64_t line, step; /* 1 / 65536 lines */
} read_ahead;

V read_ahead read_ahead_at(const dot_args *args, int64_t i, int64_t n) {
    const uint64_t lines = (uint64_t)ceil_div(args->k, 32);
    return (read_ahead){.bytes = i64_max(PREFETCH_AHEAD, args->n_x > 1 ? 2 * args->k : 0),
                        .line = (lines * (uint64_t)i << 16) / (uint64_t)args->n_x,
                        .step = ((uint64_t)n << 16) / (uint64_t)args->n_x};
}

/** Weight rows w[0 .. nw) times x rows [i, i + nx). A sum takes 32 products at a time, the even
 * ones first: the same in any tile. split: x as split_pairs() leaves it. */
V void tile_dot_bf16(const uint8_t *const w[BF16_STREAMS], const dot_args *args, int64_t i,
                     float *const dst[BF16_STREAMS], const int nw, const int nx, const bool split) {
    const int64_t k = args->k, stride = args->x_stride;
    const float *x = (const float *)args->x + i * stride;
    read_ahead ahead = read_ahead_at(args, i, nx);
    vec sum[BF16_STREAMS][BF16_X_ROWS];
    UNROLL for (int r = 0; r < nw; r++) {
        UNROLL for (int j = 0; j < nx; j++) sum[r][j] = v_set(0);
    }
    for (int64_t p = 0; p < k; p += 32) {
        const int64_t n = k - p;
        vec even[BF16_X_ROWS], odd[BF16_X_ROWS];
        UNROLL for (int j = 0; j < nx; j++) {
            const float *at = x + j * stride + p;
            if (split || n >= 32) {
                even[j] = v_load(at);
                odd[j] = v_load(at + LANES);
            } else {
                even[j] = _mm512_maskz_loadu_ps(first_lanes(i64_min(n, LANES)), at);
                odd[j] = _mm512_maskz_loadu_ps(first_lanes(i64_max(n - LANES, 0)), at + LANES);
            }
            if (split) continue;
            const vec first = even[j];
            even[j] = every_other(first, odd[j], false);
            odd[j] = every_other(first, odd[j], true);
        }
        const int64_t line = ahead.bytes + (int64_t)(ahead.line >> 16) * 64;
        ahead.line += ahead.step;
        UNROLL for (int r = 0; r < nw; r++) {
            __builtin_prefetch(w[r] + line, 0, PREFETCH_LEVEL(2));
            const __m512i v = n >= 32 ? _mm512_loadu_si512(w[r] + 2 * p)
                                      : _mm512_maskz_loadu_epi16(first_halves(n), w[r] + 2 * p);
            UNROLL for (int j = 0; j < nx; j++) sum[r][j] =
                add_products(sum[r][j], v, even[j], odd[j]);
        }
    }
    UNROLL for (int r = 0; r < nw; r++) {
        UNROLL for (int j = 0; j < nx; j++) dst[r][(i + j) * args->dst_stride] = v_sum(sum[r][j]);
    }
}

/** together: activation rows are split and taken four at a time. */
V void dot_rows_bf16(const dot_args *args, int64_t r, int64_t apart, const int nw,
                     const bool together) {
    const uint8_t *w[BF16_STREAMS];
    float *dst[BF16_STREAMS];
    UNROLL for (int s = 0; s < nw; s++) {
        w[s] = (const uint8_t *)args->w + (r + s * apart) * args->k * 2;
        dst[s] = args->dst + r + s * apart;
    }
    if (!together) {
        const bool split = nw == 1 && args->split;
        for (int64_t i = 0; i < args->n_x; i++) tile_dot_bf16(w, args, i, dst, nw, 1, split);
        return;
    }
    for (int64_t i = 0; i < args->n_x; i += BF16_X_ROWS) {
        switch (args->n_x - i) {
        case 1: tile_dot_bf16(w, args, i, dst, nw, 1, true); break;
        case 2: tile_dot_bf16(w, args, i, dst, nw, 2, true); break;
        case 3: tile_dot_bf16(w, args, i, dst, nw, 3, true); break;
        default: tile_dot_bf16(w, args, i, dst, nw, 4, true); break;
        }
    }
}

/** Few, long streams; their number changes nothing in a row's sum. */
static void avx512_dot_bf16(const dot_args *args) {
    const int64_t streams = args->split || args->k > BF16_LONG ? 4 : 2;
    const int64_t apart = args->n_w / streams;
    if (args->split) {
        for (int64_t r = 0; r < apart; r++) dot_rows_bf16(args, r, apart, 4, true);
    } else if (streams == 4) {
        for (int64_t r = 0; r < apart; r++) dot_rows_bf16(args, r, apart, 4, false);
    } else {
        for (int64_t r = 0; r < apart; r++) dot_rows_bf16(args, r, apart, 2, false);
    }
    for (int64_t r = streams * apart; r < args->n_w; r++) dot_rows_bf16(args, r, 0, 1, false);
}

/* ---------------------------------------------------------------- packing */

/** Transposes 16 x 16 values of 32 bits and stores the first n_k rows, ld floats apart. */
V void store_transposed(float *dst, int64_t ld, __m512i r[16], int64_t n_k) {
    __m512i t[16];
    UNROLL for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    UNROLL for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    UNROLL for (int i = 0; i < 4; i++) { /* r[4 g + i] holds columns i, i + 4, i + 8, i + 12 of g */
        const __m512i low01 = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
        const __m512i high01 = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
        const __m512i low23 = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
        const __m512i high23 = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
        t[i] = _mm512_shuffle_i32x4(low01, low23, 0x88);
        t[8 + i] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
        t[4 + i] = _mm512_shuffle_i32x4(high01, high23, 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
    }
    if (n_k >= 16) {
        UNROLL for (int i = 0; i < 16; i++) _mm512_store_si512(dst + i * ld, t[i]);
        return;
    }
    for (int64_t i = 0; i < n_k; i++) _mm512_store_si512(dst + i * ld, t[i]);
}

/** size: bytes of an element; load(p), load_n(p, n): 16 or fewer as 32-bit lanes. */
#define PACK(name, size, load, load_n)                                                             \
    static void avx512_##name(const pack_args *args) {                                             \
        for (int64_t j = 0; j < args->ld; j += 16)                                                 \
            for (int64_t k = 0; k < args->k; k += 16) {                                            \
                const int64_t n_k = args->k - k;                                                   \
                const uint8_t *src =                                                               \
                    (const uint8_t *)args->src + j * args->row_bytes + k * (size);                 \
                __m512i r[16];                                                                     \
                if (n_k >= 16 && j + 16 <= args->n) {                                              \
                    UNROLL for (int i = 0; i < 16; i++) r[i] = load(src + i * args->row_bytes);    \
                } else {                                                                           \
                    UNROLL for (int i = 0; i < 16; i++) {                                          \
                        r[i] = _mm512_setzero_si512();                                             \
                        if (j + i < args->n)                                                       \
                            r[i] = load_n(src + i * args->row_bytes, i64_min(16, n_k));            \
                    }                                                                              \
                }                                                                                  \
                store_transposed((float *)args->dst + k * args->ld + j, args->ld, r, n_k);         \
            }                                                                                      \
    }
#define LOAD_F32(p)       _mm512_loadu_si512(p)
#define LOAD_F32_N(p, n)  _mm512_maskz_loadu_epi32(first_lanes(n), p)
#define LOAD_F16(p)       _mm512_castps_si512(v_load_f16(p))
#define LOAD_F16_N(p, n)  _mm512_castps_si512(v_load_f16_n(p, n))
#define LOAD_BF16(p)      _mm512_castps_si512(v_load_bf16(p))
#define LOAD_BF16_N(p, n) _mm512_castps_si512(v_load_bf16_n(p, n))
PACK(pack_f32, 4, LOAD_F32, LOAD_F32_N)
PACK(pack_f16, 2, LOAD_F16, LOAD_F16_N)
PACK(pack_bf16, 2, LOAD_BF16, LOAD_BF16_N)

/** Pairs are 32-bit values already. */
static void avx512_pack_bf16_pairs(const pack_args *args) {
    for (int64_t j = 0; j < args->ld; j += 16)
        for (int64_t k = 0; k < args->k; k += 32) {
            const int64_t n_k = i64_min(32, args->k - k);
            const uint8_t *src = (const uint8_t *)args->src + j * args->row_bytes + k * 2;
            const __mmask32 mask = n_k == 32 ? 0xffffffffu : (1u << n_k) - 1;
            __m512i r[16];
            UNROLL for (int i = 0; i < 16; i++) {
                r[i] = _mm512_setzero_si512();
                if (j + i < args->n)
                    r[i] = _mm512_maskz_loadu_epi16(mask, src + i * args->row_bytes);
            }
            float *dst = (float *)args->dst + k / 2 * args->ld + j;
            store_transposed(dst, args->ld, r, ceil_div(n_k, 2));
        }
}

#include "device/cpu/kernels_avx512_quant.h"

#include "device/cpu/kernels_fill.h"

void kernels_fill_avx512(kernels *table) {
    fill_shared(table);
    table->splits_pairs = true;
    table->split_pairs = avx512_split_pairs;
    table->pack_bf16_pairs = avx512_pack_bf16_pairs;
}
