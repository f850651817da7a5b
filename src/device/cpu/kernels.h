/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of CPU kernels. Kernels run on one thread, allocate nothing, accept any count
 * (also 0) and unaligned pointers unless said otherwise. Weights and halves are untyped because
 * they may lie unaligned in a mapped file.
 */
#ifndef LLAVA_KERNELS_H
#define LLAVA_KERNELS_H

#include "base/base.h"

/** Columns of packed panels and of products are padded to a multiple of this many floats. */
#define KERNEL_PAD 16
/** Largest tile_columns of any level. */
#define KERNEL_MAX_COLUMNS 64
/** Keys of an attention block; blocks start at multiples of it. */
#define KERNEL_KEYS 64

/** c[m, n] = a[m, k] b[k, n] (+ c). Every element is summed over k in rising order, starting from
 *  c or zero. n <= tile_columns; b and c are 64-byte aligned, ldb and ldc multiples of KERNEL_PAD;
 *  columns up to the next multiple of KERNEL_PAD are read from b and overwritten in c. */
typedef struct gemm_f32_args {
    const float *a;
    const float *b;
    float *c;
    int64_t lda, ldb, ldc; /* in elements */
    int64_t m, n, k;
    bool accumulate;
} gemm_f32_args;

/** The same for bfloat16: b holds pairs, b[k / 2][column][2], ldb = distance in elements between
 *  two pair rows. k is even; a may be 4-byte aligned only. Per pair the two products are added to
 *  the sum in the level's own way (AVX512-BF16: vdpbf16ps, subnormals count as zero). */
typedef struct gemm_bf16_args {
    const uint16_t *a;
    const uint16_t *b;
    float *c;
    int64_t lda, ldb, ldc;
    int64_t m, n, k;
    bool accumulate;
} gemm_bf16_args;

/** Transposes n rows of k elements, row_bytes apart: dst[k][ld] floats, columns n .. ld are zero.
 *  pack_bf16_pairs: dst[ceil(k / 2)][ld][2] bfloat16, an odd k padded with zero.
 *  dst is 64-byte aligned, ld a multiple of KERNEL_PAD. */
typedef struct pack_args {
    void *dst;
    const void *src;
    int64_t row_bytes;
    int64_t n, k, ld;
} pack_args;

/** dst[i * dst_stride + r] = dot(w row r, x row i). x is float, in dot_bf16_bf16 bfloat16.
 *  Weight rows are contiguous; x rows are x_stride elements apart. */
typedef struct dot_args {
    float *dst;
    const void *w;
    const void *x;
    int64_t dst_stride, x_stride;
    int64_t n_w, n_x, k;
} dot_args;

/** dst[m, n] = c[m, n] (+ bias[n]) (+ residual[m, n]); dst may be c or residual. */
typedef struct epilogue_args {
    float *dst;
    const float *c;
    const float *bias;     /* or NULL */
    const float *residual; /* or NULL */
    int64_t ldd, ldc, ldr;
    int64_t m, n;
} epilogue_args;

/* pair_rows: dst[i] = (a[i], b[i]), the pairs of gemm_bf16.
   narrow_*: dst may be src, or begin where it does. */

/** One row's step over KERNEL_KEYS scores: keys outside [first, last) count as -infinity, the
 *  others are scores * scale + slope * (index + offset). Updates the running maximum and sum,
 *  turns scores into exp(score - maximum) and returns the factor for what was summed before. */
typedef struct softmax_args {
    float *scores; /* 64-byte aligned */
    float *maximum, *sum;
    int64_t first, last;
    float scale, slope, offset;
} softmax_args;

/** dst = (x - mean) * inverse * w (+ b) */
typedef struct normalize_args {
    float *dst;
    const float *x, *w;
    const float *b; /* or NULL */
    int64_t n;
    float mean, inverse;
} normalize_args;

typedef struct kernels {
    int64_t tile_columns; /* columns of a packed panel, <= KERNEL_MAX_COLUMNS */
    bool native_bf16;     /* the bfloat16 products are worth using */
#define KERNEL(name, result, parameters) result(*name) parameters;
#include "device/cpu/kernels.def"
#undef KERNEL
} kernels;

/** Each level's function overwrites the entries it has; plain C sets all. */
void kernels_fill_c(kernels *table);
void kernels_fill_avx2(kernels *table);
void kernels_fill_avx512(kernels *table);
void kernels_fill_avx512bf16(kernels *table);

#endif
