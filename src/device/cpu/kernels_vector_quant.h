/* SPDX-License-Identifier: Apache-2.0
 *
 * Kernels of quantized weights written once over a vector of LANES floats or 32-bit integers. A
 * level's file includes kernels_vector.h first and defines the type `veci` and its primitives:
 *
 *     i_set(x) i_add i_sub i_load(p) i_load_n(p, n bytes)    4 LANES bytes, the rest zero
 *     i_and i_xor  i_left7(v)                                7 bits, 32-bit lanes
 *     i_set16(x)  i_left16(v) i_right16(v) i_logical16(v)    8 bits, 16-bit lanes
 *     i_pair16(low, high)     16 bits of each, 32-bit lanes
 *     i_madd(a, b)            pairs of 16-bit products, summed to 32 bits
 *     i_sum(v)                over the lanes
 *     i_store(p, v)           LANES integers
 *     i_to_float(v) i_from_float(v)
 *     i_rank(t, x)            how many limits of a rank_table lie below x, 0 if not a number;
 *                             rank_table_load(t, limits, n <= 15), rising
 *     i_xor_shifted(c)        c ^ (c & 2) << 1
 *     i_sign(c, x)            c + 8 in lanes where x < 0
 *     i_store_bytes(p, v)     LANES integers of a byte each, LANES bytes
 *     i_store_nibbles(p, v)   LANES codes, LANES / 2 bytes, the even one in the upper half
 *     i_load_nibbles(p)       the opposite
 *     i_store_transposed(p, ld, r[LANES], n)  the first n rows of the transpose
 *     v_table(table, v)       table[v & 15], a vec_table of 16 floats; v_table_load(p)
 *     v_any_reaches(a, b)     a >= b in some lane
 *
 * Integer kernels are exact, the others give the bits of plain C. Everything here is static.
 */
#ifndef LLAVA_KERNELS_VECTOR_QUANT_H
#define LLAVA_KERNELS_VECTOR_QUANT_H

#include "device/cpu/kernels_scales.h"
#include "device/cpu/kernels_vector.h"

/* ---------------------------------------------------------------- 4 bit */

INLINE veci code_nf4(const rank_table *limits, vec x) { return i_rank(limits, x); }

/** Magnitudes in rising order have codes 0 1 6 7 4 5 2 3. */
INLINE veci code_fp4(const rank_table *limits, vec x) {
    return i_sign(i_xor_shifted(i_rank(limits, v_abs(x))), x);
}

INLINE vec load_some(const float *p, int64_t n) { return n >= LANES ? v_load(p) : v_load_n(p, n); }

INLINE void encode_blocks(const encode_4bit_args *args,
                          veci (*const code)(const rank_table *limits, vec x)) {
    rank_table limits;
    rank_table_load(&limits, quant_thresholds(args->format), args->format == QUANT_NF4 ? 15 : 7);
    for (int64_t first = 0; first < args->n; first += args->block) {
        const float *x = args->x + first;
        uint8_t *codes = args->codes + first / 2;
        const int64_t count = i64_min(args->block, args->n - first);
        vec largest = v_set(0);
        for (int64_t i = 0; i < count; i += LANES)
            largest = v_max(v_abs(load_some(x + i, count - i)), largest);
        const float absmax = v_maximum(largest);
        const vec inverse = v_set(1.0f / absmax);
        args->absmax[first / args->block] = absmax;
        int64_t i = 0;
        for (; i + LANES <= count; i += LANES)
            i_store_nibbles(codes + i / 2, code(&limits, v_mul(v_load(x + i), inverse)));
        if (i == count) continue;
        uint8_t last[LANES / 2];
        i_store_nibbles(last, code(&limits, v_mul(v_load_n(x + i, count - i), inverse)));
        memcpy(codes + i / 2, last, (size_t)ceil_div(count - i, 2));
    }
}

static void NAME(encode_4bit)(const encode_4bit_args *args) {
    if (args->format == QUANT_NF4)
        encode_blocks(args, code_nf4);
    else
        encode_blocks(args, code_fp4);
}

static void NAME(expand_4bit)(const expand_4bit_args *args) {
    const quant *q = args->q;
    const vec_table table = v_table_load(q->table);
    const int64_t end = args->first + args->n;
    float *dst = args->dst - args->first;
    scale_table map;
    scale_stream scales = {.n = 0, .end = ceil_div(end, q->block) * (q->block / 64)};
    scale_table_load(&map, q);
    for (int64_t at = args->first, next; at < end; at = next) {
        const int64_t run = at / 64;
        const float scale = *scale_stream_at(&scales, q, &map, run, 1);
        next = i64_min((run + 1) * 64, end);
        if (at % 2) {
            dst[at] = q->table[args->codes[at / 2] & 15] * scale;
            at++;
        }
        for (; at + LANES <= next; at += LANES)
            v_store(dst + at,
                    v_mul(v_table(table, i_load_nibbles(args->codes + at / 2)), v_set(scale)));
        for (; at < next; at++) {
            const uint8_t pair = args->codes[at / 2];
            dst[at] = q->table[at % 2 ? pair & 15 : pair >> 4] * scale;
        }
    }
}

static void NAME(arrange_4bit)(float *dst, const float *src, int64_t n) {
    for (; n >= KERNEL_ARRANGED; n -= KERNEL_ARRANGED) {
        for (int i = 0; i < 16; i++)
            for (int j = 0; j < 8; j++) dst[16 * j + i] = src[8 * i + (j ^ 1)];
        dst += KERNEL_ARRANGED;
        src += KERNEL_ARRANGED;
    }
    if (n <= 0) return;
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            const int from = 8 * i + (j ^ 1);
            dst[16 * j + i] = from < n ? src[from] : 0;
        }
}

static void NAME(code_inputs)(int16_t *dst, const float *src, int64_t n) {
    float *scales = (float *)(dst + n);
    for (int64_t first = 0; first < n; first += KERNEL_ARRANGED, src += KERNEL_ARRANGED) {
        vec largest = v_set(0), sick = v_set(0);
        for (int i = 0; i < KERNEL_ARRANGED; i += LANES) {
            largest = v_max(v_abs(v_load(src + i)), largest);
            sick = v_add(sick, v_mul(v_load(src + i), v_set(0)));
        }
        const float most = v_maximum(largest), none = v_sum(sick);
        const bool counts = none == 0 && most >= KERNEL_CODE_TINY;
        const vec factor = v_set(counts ? KERNEL_CODE_MAX / most : 0);
        for (int j = 0; j < 4; j++)
            for (int i = 0; i < 16; i += LANES) {
                const vec low = v_mul(v_load(src + 16 * j + i), factor);
                const vec high = v_mul(v_load(src + 16 * (j + 4) + i), factor);
                veci pairs = i_pair16(i_from_float(v_round(low)), i_from_float(v_round(high)));
                if (!counts) pairs = i_set(0);
                i_store((int32_t *)(dst + first) + 16 * j + i, pairs);
            }
        *scales++ = none != 0 ? none : counts ? most / KERNEL_CODE_MAX : 0;
    }
}

/* ---------------------------------------------------------------- int8 */

INLINE veci code_int8(vec x, vec threshold, vec factor) {
    const vec r = v_round(v_mul(v_less(v_abs(x), threshold, x, v_set(0)), factor));
    const vec above = v_less(v_set(0), r, v_min(r, v_set(127)), v_set(0)); /* 0 if not a number */
    const vec below = v_less(r, v_set(0), v_max(r, v_set(-127)), v_set(0));
    return i_from_float(v_add(above, below));
}

static float NAME(encode_i8)(const encode_i8_args *args) {
    const vec threshold = v_set(args->threshold > 0 ? args->threshold : INFINITY);
    const int64_t n = args->n;
    vec largest = v_set(0);
    for (int64_t i = 0; i < n; i += LANES) {
        const vec magnitude = v_abs(load_some(args->x + i, n - i));
        largest = v_less(magnitude, threshold, v_max(magnitude, largest), largest);
    }
    const float scale = v_maximum(largest);
    const vec factor = v_set(127.0f * (1.0f / scale));
    const veci flip = i_set(args->flip);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        i_store_bytes(args->codes + i,
                      i_xor(code_int8(v_load(args->x + i), threshold, factor), flip));
    if (i < n) {
        uint8_t last[LANES];
        i_store_bytes(last,
                      i_xor(code_int8(v_load_n(args->x + i, n - i), threshold, factor), flip));
        memcpy(args->codes + i, last, (size_t)(n - i));
    }
    return scale;
}

static void NAME(mark_outliers)(uint8_t *flags, const float *x, int64_t n, float limit) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        if (!v_any_reaches(v_abs(v_load(x + i)), v_set(limit))) continue;
        for (int64_t j = i; j < i + LANES; j++) flags[j] |= fabsf(x[j]) >= limit;
    }
    for (; i < n; i++) flags[i] |= fabsf(x[i]) >= limit;
}

static void NAME(scale_i32)(const scale_i32_args *args) {
    for (int64_t i = 0; i < args->m; i++) {
        const int32_t *c = args->c + i * args->ldc;
        float *dst = args->dst + i * args->ldd;
        const vec row = v_set(args->row_scales[i]);
        int64_t j = 0;
        for (; j + LANES <= args->n; j += LANES) {
            veci sum = i_load(c + j);
            if (args->sums) sum = i_sub(sum, i_left7(i_load(args->sums + j)));
            const vec product = v_mul(i_to_float(sum), v_set(KERNEL_INT8_PRODUCT));
            const vec scale = v_load((const float *)args->column_scales + j);
            v_store(dst + j, v_mul(v_mul(product, row), scale));
        }
        for (; j < args->n; j++) {
            float scale;
            memcpy(&scale, (const uint8_t *)args->column_scales + 4 * j, sizeof scale);
            const uint32_t shift = args->sums ? 128u * (uint32_t)args->sums[j] : 0;
            const int32_t sum = (int32_t)((uint32_t)c[j] - shift);
            dst[j] = (float)sum * KERNEL_INT8_PRODUCT * args->row_scales[i] * scale;
        }
    }
}

/** Sums of four products each: signed bytes as even and odd ones of 16 bits, nothing saturates. */
typedef struct signed_bytes {
    veci even, odd;
} signed_bytes;

INLINE signed_bytes widen_signed(veci v) {
    return (signed_bytes){i_right16(i_left16(v)), i_right16(v)};
}
INLINE signed_bytes widen_unsigned(veci v) {
    return (signed_bytes){i_and(v, i_set16(0xff)), i_logical16(v)};
}
INLINE veci add_products_i8(veci sum, signed_bytes a, signed_bytes b) {
    return i_add(i_add(sum, i_madd(a.even, b.even)), i_madd(a.odd, b.odd));
}

static void NAME(pack_i8)(const pack_i8_args *args) {
    const int64_t ld = args->ld, n = args->n;
    const signed_bytes ones = {i_set16(1), i_set16(1)};
    for (int64_t j = 0; j < ld; j += LANES) {
        veci sum = i_load(args->sums + j);
        for (int64_t k = 0; k < args->k; k += 4 * LANES) {
            const int64_t n_k = i64_min(4 * LANES, args->k - k), groups = ceil_div(n_k, 4);
            const int8_t *src = args->src + j * args->row_bytes + k;
            int32_t *dst = (int32_t *)args->dst + k / 4 * ld + j;
            veci r[LANES];
            UNROLL for (int i = 0; i < LANES; i++) {
                r[i] = i_set(0);
                const int8_t *row = src + i * args->row_bytes;
                if (j + i < n) r[i] = n_k == 4 * LANES ? i_load(row) : i_load_n(row, n_k);
            }
            i_store_transposed(dst, ld, r, groups);
            for (int64_t g = 0; g < groups; g++)
                sum = add_products_i8(sum, widen_signed(i_load(dst + g * ld)), ones);
        }
        i_store(args->sums + j, sum);
    }
}

#ifndef HAS_I8_PRODUCTS
#define I8_ROWS 4

/** mr x nv vectors of c; both are constants where this is inlined. */
INLINE void tile_i8(const gemm_i8_args *args, int64_t row, int64_t column, const int mr,
                    const int nv) {
    veci sum[I8_ROWS][TILE_VECTORS];
    int32_t *c = args->c + row * args->ldc + column;
    const int8_t *b = args->b + 4 * column;
    const uint8_t *a = args->a + row * args->lda;
    UNROLL for (int i = 0; i < mr; i++) {
        UNROLL for (int j = 0; j < nv; j++) {
            sum[i][j] = args->accumulate ? i_load(c + i * args->ldc + j * LANES) : i_set(0);
        }
    }
    for (int64_t k = 0; k < args->k; k += 4, b += args->ldb) {
        signed_bytes w[TILE_VECTORS];
        UNROLL for (int j = 0; j < nv; j++) w[j] = widen_signed(i_load(b + 4 * j * LANES));
        UNROLL for (int i = 0; i < mr; i++) {
            int32_t four;
            memcpy(&four, a + i * args->lda + k, sizeof four);
            const signed_bytes x = widen_unsigned(i_set(four));
            UNROLL for (int j = 0; j < nv; j++) sum[i][j] = add_products_i8(sum[i][j], x, w[j]);
        }
    }
    UNROLL for (int i = 0; i < mr; i++) {
        UNROLL for (int j = 0; j < nv; j++) i_store(c + i * args->ldc + j * LANES, sum[i][j]);
    }
}

INLINE void tile_column_i8(const gemm_i8_args *args, int64_t column, const int nv) {
    int64_t row = 0;
    for (; row + I8_ROWS <= args->m; row += I8_ROWS) tile_i8(args, row, column, I8_ROWS, nv);
    for (; row < args->m; row++) tile_i8(args, row, column, 1, nv);
}

static void NAME(gemm_i8)(const gemm_i8_args *args) {
    const int64_t vectors = round_up(args->n, KERNEL_PAD) / LANES;
    int64_t j = 0;
    for (; j + TILE_VECTORS <= vectors; j += TILE_VECTORS)
        tile_column_i8(args, j * LANES, TILE_VECTORS);
    for (; j < vectors; j++) tile_column_i8(args, j * LANES, 1);
}

/** Weight rows w[0 .. nw) times one activation row. */
INLINE void tile_dot_i8(const int8_t *const w[2], const uint8_t *x, int64_t k,
                        int32_t *const dst[2], const int nw) {
    veci sum[2] = {i_set(0), i_set(0)};
    int64_t p = 0;
    for (; p + 4 * LANES <= k; p += 4 * LANES) {
        const veci v = i_load(x + p);
        /* activations minus 128: signed */
        const signed_bytes in = widen_signed(i_xor(v, i_set16((int16_t)0x8080)));
        UNROLL for (int r = 0; r < nw; r++) {
            __builtin_prefetch(w[r] + p + PREFETCH_AHEAD);
            sum[r] = add_products_i8(sum[r], in, widen_signed(i_load(w[r] + p)));
        }
    }
    if (p < k) {
        const veci v = i_load_n(x + p, k - p);
        const signed_bytes in = widen_signed(i_xor(v, i_set16((int16_t)0x8080)));
        UNROLL for (int r = 0; r < nw; r++) {
            sum[r] = add_products_i8(sum[r], in, widen_signed(i_load_n(w[r] + p, k - p)));
        }
    }
    UNROLL for (int r = 0; r < nw; r++) * dst[r] = i_sum(sum[r]);
}

static void NAME(dot_i8)(const dot_i8_args *args) {
    const int64_t apart = args->n_w / 2, k = args->k; /* few, long streams */
    for (int64_t r = 0; r < apart + args->n_w % 2; r++) {
        const bool alone = r == apart;
        const int64_t other = alone ? 0 : apart, at = alone ? args->n_w - 1 : r;
        const int8_t *const w[2] = {args->w + at * k, args->w + (at + other) * k};
        for (int64_t i = 0; i < args->n_x; i++) {
            int32_t *d = args->dst + i * args->dst_stride + at, *const dst[2] = {d, d + other};
            const uint8_t *x = args->x + i * args->x_stride;
            if (alone)
                tile_dot_i8(w, x, k, dst, 1);
            else
                tile_dot_i8(w, x, k, dst, 2);
        }
    }
}
#endif

#endif
