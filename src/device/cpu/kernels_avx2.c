/* SPDX-License-Identifier: Apache-2.0
 *
 * Kernels for AVX2 with FMA and F16C: vectors of 8 floats.
 */
#include <immintrin.h>

#include "device/cpu/kernels.h"

#define LANES        8
#define TILE_VECTORS 2
#define DOT_ROWS_MAX 1
#define NAME(kernel) avx2_##kernel

typedef __m256 vec;

#define V static inline __attribute__((always_inline))

/** All bits set in the first n of 8 lanes. */
V __m256i first_lanes(int64_t n) {
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), index);
}

V vec v_set(float x) { return _mm256_set1_ps(x); }
V vec v_load(const float *p) { return _mm256_loadu_ps(p); }
V vec v_load_n(const float *p, int64_t n) { return _mm256_maskload_ps(p, first_lanes(n)); }
V void v_store(float *p, vec v) { _mm256_storeu_ps(p, v); }
V void v_store_n(float *p, vec v, int64_t n) { _mm256_maskstore_ps(p, first_lanes(n), v); }

V __m128i load_halves(const void *p) { return _mm_loadu_si128((const __m128i *)p); }
V __m128i load_halves_n(const void *p, int64_t n) {
    uint16_t halves[LANES] = {0};
    memcpy(halves, p, (size_t)n * sizeof *halves);
    return load_halves(halves);
}
V vec widen_halves_bf16(__m128i halves) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
V vec v_load_f16(const void *p) { return _mm256_cvtph_ps(load_halves(p)); }
V vec v_load_f16_n(const void *p, int64_t n) { return _mm256_cvtph_ps(load_halves_n(p, n)); }
V vec v_load_bf16(const void *p) { return widen_halves_bf16(load_halves(p)); }
V vec v_load_bf16_n(const void *p, int64_t n) { return widen_halves_bf16(load_halves_n(p, n)); }

V vec v_add(vec a, vec b) { return _mm256_add_ps(a, b); }
V vec v_sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
V vec v_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
V vec v_div(vec a, vec b) { return _mm256_div_ps(a, b); }
V vec v_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
V vec v_fnma(vec a, vec b, vec c) { return _mm256_fnmadd_ps(a, b, c); }
V vec v_min(vec a, vec b) { return _mm256_min_ps(a, b); }
V vec v_max(vec a, vec b) { return _mm256_max_ps(a, b); }
V vec v_less(vec a, vec b, vec x, vec y) {
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
V vec v_round(vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
V vec power_of_two(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
/** In two steps, since 2^n alone may not be a float. */
V vec v_exp2(vec a, vec n) {
    const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    const vec once = _mm256_mul_ps(a, power_of_two(half));
    return _mm256_mul_ps(once, power_of_two(_mm256_sub_epi32(whole, half)));
}
V vec v_index(void) { return _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7); }
V float v_sum(vec a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
V float v_maximum(vec a) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

V vec v_sums(const vec a[LANES]) {
    const vec low = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
    const vec high = _mm256_hadd_ps(_mm256_hadd_ps(a[4], a[5]), _mm256_hadd_ps(a[6], a[7]));
    return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20),
                         _mm256_permute2f128_ps(low, high, 0x31));
}

V vec v_load_i8(const void *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

#include "device/cpu/kernels_attention.h"

/* ---------------------------------------------------------------- conversions down */

static void avx2_narrow_f16(void *dst, const float *src, int64_t n) {
    uint8_t *p = dst;
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t left = i64_min(LANES, n - i);
        const vec v = left == LANES ? v_load(src + i) : v_load_n(src + i, left);
        uint16_t half[LANES];
        _mm_storeu_si128((__m128i *)half, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
        memcpy(p + 2 * i, half, (size_t)left * sizeof *half);
    }
}

/** Round to nearest even on the bits; not-a-number keeps its upper half, made quiet. */
V __m256i rounded_bf16_bits(vec v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    return _mm256_blendv_epi8(_mm256_add_epi32(bits, half), quiet,
                              _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
}

static void avx2_narrow_bf16(void *dst, const float *src, int64_t n) {
    uint8_t *p = dst;
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t left = i64_min(LANES, n - i);
        const vec v = left == LANES ? v_load(src + i) : v_load_n(src + i, left);
        const __m256i upper = _mm256_srli_epi32(rounded_bf16_bits(v), 16);
        const __m128i packed =
            _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
        uint16_t half[LANES];
        _mm_storeu_si128((__m128i *)half, packed);
        memcpy(p + 2 * i, half, (size_t)left * sizeof *half);
    }
}

static void avx2_round_bf16(float *dst, const float *src, int64_t n) {
    const __m256i upper = _mm256_set1_epi32((int)0xffff0000);
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t left = i64_min(LANES, n - i);
        const vec v = left == LANES ? v_load(src + i) : v_load_n(src + i, left);
        const vec r = _mm256_castsi256_ps(_mm256_and_si256(rounded_bf16_bits(v), upper));
        if (left == LANES)
            v_store(dst + i, r);
        else
            v_store_n(dst + i, r, left);
    }
}

/* ---------------------------------------------------------------- packing */

/** Transposes 8 x 8 floats and stores the first n_k rows, ld floats apart. */
V void store_transposed(float *dst, int64_t ld, vec r[8], int64_t n_k) {
    vec t[8];
    UNROLL for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    UNROLL for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    }
    for (int64_t i = 0; i < i64_min(8, n_k); i++) _mm256_store_ps(dst + i * ld, t[i]);
}

#include "device/cpu/kernels_pack.h"

#include "device/cpu/kernels_avx2_quant.h"

#include "device/cpu/kernels_fill.h"

void kernels_fill_avx2(kernels *table) { fill_shared(table); }
