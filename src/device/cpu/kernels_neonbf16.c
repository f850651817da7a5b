/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of bfloat16 with bfmmla (arm64's BF16 extension), on top of the NEON level. It adds a
 * pair of products to the sum, the next pair after it; a pair is added up first, then to the sum,
 * each rounded to odd. Subnormal inputs and results count as zero.
 */
#include <arm_neon.h>

#include "device/cpu/kernels.h"

#define V static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* ---------------------------------------------------------------- PANEL */

#define TILE_PAIRS   4 /* of rows */
#define TILE_COLUMNS 8
#define COLUMN_PAIRS (TILE_COLUMNS / 2)

/** sum[i][j] holds rows 2 i, 2 i + 1 of columns 2 j, 2 j + 1, as bfmmla wants them. */
typedef float32x4_t tile_sums[TILE_PAIRS][COLUMN_PAIRS];

/** Two rows of 4 columns from or for two blocks of 2 x 2; its own inverse. */
V void exchange(float32x4_t *a, float32x4_t *b) {
    const float32x4_t first = vcombine_f32(vget_low_f32(*a), vget_low_f32(*b));
    *b = vcombine_f32(vget_high_f32(*a), vget_high_f32(*b));
    *a = first;
}

/** n_k = 4 or 2 elements of two rows. */
V bfloat16x8_t load_rows(const uint16_t *a0, const uint16_t *a1, const int n_k) {
    uint64_t rows[2] = {0};
    memcpy(&rows[0], a0, (size_t)n_k * sizeof *a0);
    memcpy(&rows[1], a1, (size_t)n_k * sizeof *a1);
    return vreinterpretq_bf16_u64(vcombine_u64(vcreate_u64(rows[0]), vcreate_u64(rows[1])));
}

/** Adds n_k = 4 or 2 elements of k: one or two rows of pairs of b. */
V void add_products(tile_sums sum, const uint16_t *const a[2 * TILE_PAIRS], const uint16_t *b,
                    int64_t ldb, const int pairs, const int n_k) {
    bfloat16x8_t w[COLUMN_PAIRS];
    UNROLL for (int j = 0; j < COLUMN_PAIRS; j += 2) {
        const uint32x4_t first = vreinterpretq_u32_u16(vld1q_u16(b + 4 * j));
        const uint32x4_t second =
            n_k == 4 ? vreinterpretq_u32_u16(vld1q_u16(b + ldb + 4 * j)) : vdupq_n_u32(0);
        w[j] = vreinterpretq_bf16_u32(vzip1q_u32(first, second));
        w[j + 1] = vreinterpretq_bf16_u32(vzip2q_u32(first, second));
    }
    UNROLL for (int i = 0; i < pairs; i++) {
        const bfloat16x8_t x = load_rows(a[2 * i], a[2 * i + 1], n_k);
        UNROLL for (int j = 0; j < COLUMN_PAIRS; j++) {
            sum[i][j] = vbfmmlaq_f32(sum[i][j], x, w[j]);
        }
    }
}

/** Up to 2 * pairs rows of c; a last row without its second is computed twice and stored once. */
V void tile_bf16(const gemm_bf16_args *args, int64_t row, int64_t column, const int pairs) {
    const int64_t ldb = args->ldb, n_rows = i64_min(2 * pairs, args->m - row);
    tile_sums sum;
    const uint16_t *a[2 * TILE_PAIRS], *b = args->b + 2 * column;
    float *c[2 * TILE_PAIRS];
    UNROLL for (int i = 0; i < 2 * pairs; i++) {
        const int64_t r = row + i64_min(i, n_rows - 1);
        a[i] = args->a + r * args->lda;
        c[i] = args->c + r * args->ldc + column;
    }
    UNROLL for (int i = 0; i < pairs; i++) {
        UNROLL for (int j = 0; j < COLUMN_PAIRS; j += 2) {
            sum[i][j] = args->accumulate ? vld1q_f32(c[2 * i] + 2 * j) : vdupq_n_f32(0);
            sum[i][j + 1] = args->accumulate ? vld1q_f32(c[2 * i + 1] + 2 * j) : vdupq_n_f32(0);
            exchange(&sum[i][j], &sum[i][j + 1]);
        }
    }
    int64_t k = 0;
    for (; k + 4 <= args->k; k += 4) {
        add_products(sum, a, b, ldb, pairs, 4);
        UNROLL for (int i = 0; i < 2 * pairs; i++) a[i] += 4;
        b += 2 * ldb;
    }
    if (k < args->k) add_products(sum, a, b, ldb, pairs, 2);
    UNROLL for (int i = 0; i < pairs; i++) {
        UNROLL for (int j = 0; j < COLUMN_PAIRS; j += 2) {
            exchange(&sum[i][j], &sum[i][j + 1]);
            vst1q_f32(c[2 * i] + 2 * j, sum[i][j]);
            vst1q_f32(c[2 * i + 1] + 2 * j, sum[i][j + 1]);
        }
    }
}

static void bf16_gemm_bf16(const gemm_bf16_args *args) {
    for (int64_t column = 0; column < args->n; column += TILE_COLUMNS) {
        int64_t row = 0;
        for (; row + 2 * TILE_PAIRS <= args->m; row += 2 * TILE_PAIRS)
            tile_bf16(args, row, column, TILE_PAIRS);
        switch (ceil_div(args->m - row, 2)) {
        case 4: tile_bf16(args, row, column, 4); break;
        case 3: tile_bf16(args, row, column, 3); break;
        case 2: tile_bf16(args, row, column, 2); break;
        case 1: tile_bf16(args, row, column, 1); break;
        default: break;
        }
    }
}

/* ---------------------------------------------------------------- conversion */

static void bf16_narrow_bf16(void *dst, const float *src, int64_t n) {
    uint8_t *p = dst;
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const float32x4_t low = vreinterpretq_f32_u8(vld1q_u8((const uint8_t *)(src + i)));
        const float32x4_t high = vreinterpretq_f32_u8(vld1q_u8((const uint8_t *)(src + i + 4)));
        const bfloat16x8_t both = vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(low), high);
        vst1q_u8(p + 2 * i, vreinterpretq_u8_bf16(both));
    }
    for (; i < n; i++) {
        const uint16_t half = f32_to_bf16(src[i]);
        memcpy(p + 2 * i, &half, sizeof half);
    }
}

void kernels_fill_neonbf16(kernels *table) {
    table->native_bf16 = true;
    table->gemm_bf16 = bf16_gemm_bf16;
    table->narrow_bf16 = bf16_narrow_bf16;
}
