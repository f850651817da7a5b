/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantized weights with NEON; a part of kernels_neon.c.
 */
#ifndef LLAVA_KERNELS_NEON_QUANT_H
#define LLAVA_KERNELS_NEON_QUANT_H

typedef int32x4_t veci;

V int16x8_t as_words(veci v) { return vreinterpretq_s16_s32(v); }
V veci of_words(int16x8_t v) { return vreinterpretq_s32_s16(v); }

V veci i_set(int32_t x) { return vdupq_n_s32(x); }
V veci i_set16(int16_t x) { return of_words(vdupq_n_s16(x)); }
V veci i_load(const void *p) { return vreinterpretq_s32_u8(vld1q_u8(p)); }
V veci i_load_n(const void *p, int64_t n) {
    uint8_t raw[16] = {0};
    memcpy(raw, p, (size_t)n);
    return i_load(raw);
}
V void i_store(int32_t *p, veci v) { vst1q_u8((uint8_t *)p, vreinterpretq_u8_s32(v)); }
V veci i_add(veci a, veci b) { return vaddq_s32(a, b); }
V veci i_sub(veci a, veci b) { return vsubq_s32(a, b); }
V veci i_and(veci a, veci b) { return vandq_s32(a, b); }
V veci i_xor(veci a, veci b) { return veorq_s32(a, b); }
V veci i_left7(veci v) { return vshlq_n_s32(v, 7); }
V veci i_left16(veci v) { return of_words(vshlq_n_s16(as_words(v), 8)); }
V veci i_right16(veci v) { return of_words(vshrq_n_s16(as_words(v), 8)); }
V veci i_logical16(veci v) {
    return vreinterpretq_s32_u16(vshrq_n_u16(vreinterpretq_u16_s32(v), 8));
}
V veci i_pair16(veci low, veci high) { return vsliq_n_s32(low, high, 16); }
V veci i_madd(veci a, veci b) {
    const int32x4_t low = vmull_s16(vget_low_s16(as_words(a)), vget_low_s16(as_words(b)));
    return vpaddq_s32(low, vmull_high_s16(as_words(a), as_words(b)));
}
V int32_t i_sum(veci v) { return vaddvq_s32(v); }
V vec i_to_float(veci v) { return vcvtq_f32_s32(v); }
V veci i_from_float(vec v) { return vcvtnq_s32_f32(v); }
typedef struct rank_table {
    vec limits[15];
} rank_table;

V void rank_table_load(rank_table *t, const float *limits, int n) {
    for (int i = 0; i < 15; i++) t->limits[i] = v_set(i < n ? limits[i] : INFINITY);
}
V veci i_rank(const rank_table *t, vec x) {
    veci rank = i_set(0);
    UNROLL for (int i = 0; i < 15; i++) {
        rank = i_sub(rank, vreinterpretq_s32_u32(vcgtq_f32(x, t->limits[i])));
    }
    return rank;
}
V veci i_xor_shifted(veci c) { return i_xor(c, vshlq_n_s32(i_and(c, i_set(2)), 1)); }
V veci i_sign(veci c, vec x) {
    return vorrq_s32(c, i_and(vreinterpretq_s32_u32(vcltq_f32(x, v_set(0))), i_set(8)));
}
V void i_store_bytes(uint8_t *p, veci v) {
    const int16x4_t words = vmovn_s32(v);
    const int8x8_t low = vmovn_s16(vcombine_s16(words, words));
    const int32_t four = vget_lane_s32(vreinterpret_s32_s8(low), 0);
    memcpy(p, &four, sizeof four);
}
V void i_store_nibbles(uint8_t *p, veci v) {
    const uint64x2_t x = vreinterpretq_u64_s32(v);
    const uint64x2_t pairs = vorrq_u64(vshlq_n_u64(x, 4), vshrq_n_u64(x, 32));
    p[0] = (uint8_t)vgetq_lane_u64(pairs, 0);
    p[1] = (uint8_t)vgetq_lane_u64(pairs, 1);
}
/** A byte to each 64 bits; its upper half comes first. */
V veci i_load_nibbles(const uint8_t *p) {
    const uint64x2_t raw = vcombine_u64(vcreate_u64(p[0]), vcreate_u64(p[1]));
    return vreinterpretq_s32_u64(vorrq_u64(vshrq_n_u64(raw, 4), vshlq_n_u64(raw, 32)));
}
V void i_store_transposed(int32_t *p, int64_t ld, const veci r[LANES], int64_t n) {
    vec rows[LANES];
    UNROLL for (int i = 0; i < LANES; i++) rows[i] = vreinterpretq_f32_s32(r[i]);
    store_transposed((float *)p, ld, rows, n);
}

typedef uint8x16x4_t vec_table;

V vec_table v_table_load(const float *p) {
    const uint8_t *at = (const uint8_t *)p;
    return (vec_table){{vld1q_u8(at), vld1q_u8(at + 16), vld1q_u8(at + 32), vld1q_u8(at + 48)}};
}
V vec v_table(vec_table table, veci v) {
    const veci first = vmulq_n_s32(i_and(v, i_set(15)), 0x04040404);
    const veci places = i_add(first, i_set(0x03020100));
    return vreinterpretq_f32_u8(vqtbl4q_u8(table, vreinterpretq_u8_s32(places)));
}
V bool v_any_reaches(vec a, vec b) { return vmaxvq_u32(vcgeq_f32(a, b)) != 0; }

#include "device/cpu/kernels_vector_quant.h"

/* ---------------------------------------------------------------- products from codes */

/** Byte p of each float of the table. */
typedef struct code_table {
    uint8x16_t plane[4];
} code_table;

V code_table code_table_load(const float table[16]) {
    const uint8x16x4_t planes = vld4q_u8((const uint8_t *)table);
    return (code_table){{planes.val[0], planes.val[1], planes.val[2], planes.val[3]}};
}

/** Floats 16 at a time: their bytes are looked up apart and put together. */
V void look_up_16(vec w[4], uint8x16_t index, const code_table *table) {
    uint8x16_t b[4];
    UNROLL for (int p = 0; p < 4; p++) b[p] = vqtbl1q_u8(table->plane[p], index);
    const uint16x8_t low0 = vreinterpretq_u16_u8(vzip1q_u8(b[0], b[1]));
    const uint16x8_t low1 = vreinterpretq_u16_u8(vzip2q_u8(b[0], b[1]));
    const uint16x8_t high0 = vreinterpretq_u16_u8(vzip1q_u8(b[2], b[3]));
    const uint16x8_t high1 = vreinterpretq_u16_u8(vzip2q_u8(b[2], b[3]));
    w[0] = vreinterpretq_f32_u16(vzip1q_u16(low0, high0));
    w[1] = vreinterpretq_f32_u16(vzip2q_u16(low0, high0));
    w[2] = vreinterpretq_f32_u16(vzip1q_u16(low1, high1));
    w[3] = vreinterpretq_f32_u16(vzip2q_u16(low1, high1));
}

V void look_up(vec w[8], const uint8_t *codes, const code_table *table) {
    const uint8_t fourth[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
    const uint8x16_t in = vqtbl1q_u8(vld1q_u8(codes), vld1q_u8(fourth));
    vec even[4], odd[4];
    look_up_16(even, vandq_u8(in, vdupq_n_u8(15)), table);
    look_up_16(odd, vshrq_n_u8(in, 4), table);
    UNROLL for (int j = 0; j < 4; j++) {
        w[2 * j] = even[j];
        w[2 * j + 1] = odd[j];
    }
}

#include "device/cpu/kernels_vector_codes.h"

#endif
