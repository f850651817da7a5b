/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantized weights with AVX2; a part of kernels_avx2.c.
 */
#ifndef LLAVA_KERNELS_AVX2_QUANT_H
#define LLAVA_KERNELS_AVX2_QUANT_H

typedef __m256i veci;
typedef struct vec_table {
    vec low, high;
} vec_table;

V veci i_set(int32_t x) { return _mm256_set1_epi32(x); }
V veci i_set16(int16_t x) { return _mm256_set1_epi16(x); }
V veci i_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
V veci i_load_n(const void *p, int64_t n) {
    uint8_t raw[32] = {0};
    memcpy(raw, p, (size_t)n);
    return i_load(raw);
}
V void i_store(int32_t *p, veci v) { _mm256_storeu_si256((__m256i *)p, v); }
V veci i_add(veci a, veci b) { return _mm256_add_epi32(a, b); }
V veci i_sub(veci a, veci b) { return _mm256_sub_epi32(a, b); }
V veci i_and(veci a, veci b) { return _mm256_and_si256(a, b); }
V veci i_xor(veci a, veci b) { return _mm256_xor_si256(a, b); }
V veci i_left7(veci v) { return _mm256_slli_epi32(v, 7); }
V veci i_left16(veci v) { return _mm256_slli_epi16(v, 8); }
V veci i_right16(veci v) { return _mm256_srai_epi16(v, 8); }
V veci i_logical16(veci v) { return _mm256_srli_epi16(v, 8); }
V veci i_pair16(veci low, veci high) {
    return _mm256_blend_epi16(low, _mm256_slli_epi32(high, 16), 0xaa);
}
V veci i_madd(veci a, veci b) { return _mm256_madd_epi16(a, b); }
V int32_t i_sum(veci v) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
V vec i_to_float(veci v) { return _mm256_cvtepi32_ps(v); }
V veci i_from_float(vec v) { return _mm256_cvtps_epi32(v); }
typedef struct rank_table {
    vec limits[15];
} rank_table;

V void rank_table_load(rank_table *t, const float *limits, int n) {
    for (int i = 0; i < 15; i++) t->limits[i] = v_set(i < n ? limits[i] : INFINITY);
}
V veci i_rank(const rank_table *t, vec x) {
    veci rank = _mm256_setzero_si256();
    UNROLL for (int i = 0; i < 15; i++) {
        const vec above = _mm256_cmp_ps(x, t->limits[i], _CMP_GT_OQ);
        rank = i_sub(rank, _mm256_castps_si256(above));
    }
    return rank;
}
V veci i_xor_shifted(veci c) { return i_xor(c, _mm256_slli_epi32(i_and(c, i_set(2)), 1)); }
V veci i_sign(veci c, vec x) {
    const vec negative = _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LT_OQ);
    return _mm256_or_si256(c, i_and(_mm256_castps_si256(negative), i_set(8)));
}
/** The lowest byte of each lane, in the lower half. */
V __m128i narrow_bytes(veci v) {
    v = i_and(v, i_set(0xff));
    const __m128i low = _mm256_castsi256_si128(v), high = _mm256_extracti128_si256(v, 1);
    const __m128i words = _mm_packus_epi32(low, high);
    return _mm_packus_epi16(words, words);
}
V void i_store_bytes(uint8_t *p, veci v) { _mm_storel_epi64((__m128i *)p, narrow_bytes(v)); }
V void i_store_nibbles(uint8_t *p, veci v) {
    const __m128i pairs = _mm_maddubs_epi16(narrow_bytes(v), _mm_set1_epi16(0x0110));
    const int32_t four = _mm_cvtsi128_si32(_mm_packus_epi16(pairs, pairs));
    memcpy(p, &four, sizeof four);
}
/** Bytes to the middle of 64 bits; the upper half of a byte comes first. */
V veci i_load_nibbles(const uint8_t *p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    const veci raw = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(four));
    return _mm256_or_si256(_mm256_srli_epi64(raw, 4), _mm256_slli_epi64(raw, 32));
}
V void i_store_transposed(int32_t *p, int64_t ld, veci r[LANES], int64_t n) {
    vec rows[LANES];
    UNROLL for (int i = 0; i < LANES; i++) rows[i] = _mm256_castsi256_ps(r[i]);
    store_transposed((float *)p, ld, rows, n);
}
V vec_table v_table_load(const float *p) { return (vec_table){v_load(p), v_load(p + 8)}; }
/** Bit 3 of an index chooses the half. */
V vec v_table(vec_table table, veci v) {
    const vec half = _mm256_castsi256_ps(_mm256_slli_epi32(v, 28));
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table.low, v),
                            _mm256_permutevar8x32_ps(table.high, v), half);
}
V bool v_any_reaches(vec a, vec b) {
    return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)) != 0;
}

#include "device/cpu/kernels_vector_quant.h"

/* ---------------------------------------------------------------- products from codes */

typedef vec_table code_table;

V code_table code_table_load(const float *table) { return v_table_load(table); }

V void look_up(vec w[8], const uint8_t *codes, const code_table *table) {
    const veci in = i_load(codes);
    UNROLL for (int j = 0; j < 8; j++) w[j] = v_table(*table, _mm256_srli_epi32(in, 4 * j));
}

#include "device/cpu/kernels_vector_codes.h"

#endif
