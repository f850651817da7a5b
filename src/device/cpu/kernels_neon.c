/* SPDX-License-Identifier: Apache-2.0
 *
 * Kernels for the Advanced SIMD (NEON) that every arm64 processor has: vectors of 4 floats.
 */
#include <arm_neon.h>

#include "device/cpu/kernels.h"

#define LANES        4
#define TILE_VECTORS 4
#define DOT_ROWS_MAX 2
#define NAME(kernel) neon_##kernel

typedef float32x4_t vec;

#define V static inline __attribute__((always_inline))

/* Through bytes: what is loaded may lie unaligned in a mapped file. */
V vec v_set(float x) { return vdupq_n_f32(x); }
V vec v_load(const float *p) { return vreinterpretq_f32_u8(vld1q_u8((const uint8_t *)p)); }
V vec v_load_n(const float *p, int64_t n) {
    float values[LANES] = {0};
    memcpy(values, p, (size_t)n * sizeof *values);
    return vld1q_f32(values);
}
V void v_store(float *p, vec v) { vst1q_f32(p, v); }
V void v_store_n(float *p, vec v, int64_t n) {
    float values[LANES];
    vst1q_f32(values, v);
    memcpy(p, values, (size_t)n * sizeof *values);
}

V uint16x4_t load_halves(const void *p) { return vreinterpret_u16_u8(vld1_u8(p)); }
V uint16x4_t load_halves_n(const void *p, int64_t n) {
    uint16_t halves[LANES] = {0};
    memcpy(halves, p, (size_t)n * sizeof *halves);
    return vld1_u16(halves);
}
V vec widen_halves_f16(uint16x4_t halves) { return vcvt_f32_f16(vreinterpret_f16_u16(halves)); }
V vec widen_halves_bf16(uint16x4_t halves) {
    return vreinterpretq_f32_u32(vshll_n_u16(halves, 16));
}
V vec v_load_f16(const void *p) { return widen_halves_f16(load_halves(p)); }
V vec v_load_f16_n(const void *p, int64_t n) { return widen_halves_f16(load_halves_n(p, n)); }
V vec v_load_bf16(const void *p) { return widen_halves_bf16(load_halves(p)); }
V vec v_load_bf16_n(const void *p, int64_t n) { return widen_halves_bf16(load_halves_n(p, n)); }

V vec v_add(vec a, vec b) { return vaddq_f32(a, b); }
V vec v_sub(vec a, vec b) { return vsubq_f32(a, b); }
V vec v_mul(vec a, vec b) { return vmulq_f32(a, b); }
V vec v_div(vec a, vec b) { return vdivq_f32(a, b); }
V vec v_fma(vec a, vec b, vec c) { return vfmaq_f32(c, a, b); }
V vec v_fnma(vec a, vec b, vec c) { return vfmsq_f32(c, a, b); }
V vec v_less(vec a, vec b, vec x, vec y) { return vbslq_f32(vcltq_f32(a, b), x, y); }
/* not fmin and fmax, which give not-a-number for either side */
V vec v_min(vec a, vec b) { return v_less(a, b, a, b); }
V vec v_max(vec a, vec b) { return v_less(b, a, a, b); }
V vec v_round(vec a) { return vrndnq_f32(a); }
V vec power_of_two(int32x4_t n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}
/** In two steps, since 2^n alone may not be a float. */
V vec v_exp2(vec a, vec n) {
    const int32x4_t whole = vcvtq_s32_f32(n), half = vshrq_n_s32(whole, 1);
    return v_mul(v_mul(a, power_of_two(half)), power_of_two(vsubq_s32(whole, half)));
}
V vec v_index(void) {
    const float index[LANES] = {0, 1, 2, 3};
    return vld1q_f32(index);
}
V float v_sum(vec a) { return vaddvq_f32(a); }
V float v_maximum(vec a) { return vmaxvq_f32(a); }
V vec v_sums(const vec a[LANES]) {
    return vpaddq_f32(vpaddq_f32(a[0], a[1]), vpaddq_f32(a[2], a[3]));
}

V vec v_load_i8(const void *p) {
    uint32_t codes;
    memcpy(&codes, p, sizeof codes);
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(codes)))));
}

#include "device/cpu/kernels_attention.h"

/* ---------------------------------------------------------------- conversions down */

/** Round to nearest even on the bits; not-a-number keeps its upper half, made quiet. */
V uint32x4_t rounded_bf16_bits(vec v) {
    const uint32x4_t bits = vreinterpretq_u32_f32(v);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t half = vaddq_u32(odd, vdupq_n_u32(0x7fff));
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    return vbslq_u32(vceqq_f32(v, v), vaddq_u32(bits, half), quiet);
}
V uint16x4_t narrow_vector_f16(vec v) { return vreinterpret_u16_f16(vcvt_f16_f32(v)); }
V uint16x4_t narrow_vector_bf16(vec v) { return vshrn_n_u32(rounded_bf16_bits(v), 16); }
V vec round_vector_bf16(vec v) {
    return vreinterpretq_f32_u32(vandq_u32(rounded_bf16_bits(v), vdupq_n_u32(0xffff0000)));
}

#define NARROW(name, narrow)                                                                       \
    static void neon_##name(void *dst, const float *src, int64_t n) {                              \
        uint8_t *p = dst;                                                                          \
        int64_t i = 0;                                                                             \
        for (; i + LANES <= n; i += LANES)                                                         \
            vst1_u8(p + 2 * i, vreinterpret_u8_u16(narrow(v_load(src + i))));                      \
        if (i == n) return;                                                                        \
        uint16_t halves[LANES];                                                                    \
        vst1_u16(halves, narrow(v_load_n(src + i, n - i)));                                        \
        memcpy(p + 2 * i, halves, (size_t)(n - i) * sizeof *halves);                               \
    }
NARROW(narrow_f16, narrow_vector_f16)
NARROW(narrow_bf16, narrow_vector_bf16)

static void neon_round_bf16(float *dst, const float *src, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) v_store(dst + i, round_vector_bf16(v_load(src + i)));
    if (i < n) v_store_n(dst + i, round_vector_bf16(v_load_n(src + i, n - i)), n - i);
}

/* ---------------------------------------------------------------- packing */

/** Transposes 4 x 4 floats and stores the first n_k rows, ld floats apart. */
V void store_transposed(float *dst, int64_t ld, const vec r[4], int64_t n_k) {
    const float32x4x2_t even = vtrnq_f32(r[0], r[1]), odd = vtrnq_f32(r[2], r[3]);
    const vec t[4] = {vcombine_f32(vget_low_f32(even.val[0]), vget_low_f32(odd.val[0])),
                      vcombine_f32(vget_low_f32(even.val[1]), vget_low_f32(odd.val[1])),
                      vcombine_f32(vget_high_f32(even.val[0]), vget_high_f32(odd.val[0])),
                      vcombine_f32(vget_high_f32(even.val[1]), vget_high_f32(odd.val[1]))};
    UNROLL for (int i = 0; i < 4; i++) {
        if (i < n_k) v_store(dst + i * ld, t[i]);
    }
}

#include "device/cpu/kernels_pack.h"

/** Pairs are 32-bit values already; they pass through float registers untouched. */
V vec load_pairs(const void *p) { return vreinterpretq_f32_u8(vld1q_u8(p)); }
V vec load_pairs_n(const void *p, int64_t n) {
    uint16_t halves[2 * LANES] = {0};
    memcpy(halves, p, (size_t)n * sizeof *halves);
    return load_pairs(halves);
}

static void neon_pack_bf16_pairs(const pack_args *args) {
    for (int64_t j = 0; j < args->ld; j += 4)
        for (int64_t k = 0; k < args->k; k += 8) {
            const int64_t n_k = args->k - k;
            const uint8_t *src = (const uint8_t *)args->src + j * args->row_bytes + k * 2;
            vec r[4];
            UNROLL for (int i = 0; i < 4; i++) {
                r[i] = v_set(0);
                const uint8_t *row = src + i * args->row_bytes;
                if (j + i < args->n) r[i] = n_k >= 8 ? load_pairs(row) : load_pairs_n(row, n_k);
            }
            float *dst = (float *)args->dst + k / 2 * args->ld + j;
            store_transposed(dst, args->ld, r, ceil_div(n_k, 2));
        }
}

static void neon_pair_rows(uint16_t *dst, const uint16_t *a, const uint16_t *b, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const uint16x8x2_t pairs = {{vld1q_u16(a + i), vld1q_u16(b + i)}};
        vst2q_u16(dst + 2 * i, pairs);
    }
    for (; i < n; i++) {
        dst[2 * i] = a[i];
        dst[2 * i + 1] = b[i];
    }
}

#include "device/cpu/kernels_neon_quant.h"

#include "device/cpu/kernels_fill.h"

void kernels_fill_neon(kernels *table) {
    fill_shared(table);
    table->pack_bf16_pairs = neon_pack_bf16_pairs;
    table->pair_rows = neon_pair_rows;
}
