/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of CPU kernels. Kernels run on one thread, allocate nothing, accept any count
 * (also 0) and unaligned pointers unless said otherwise. Weights and halves are untyped because
 * they may lie unaligned in a mapped file.
 */
#ifndef LLAVA_KERNELS_H
#define LLAVA_KERNELS_H

#include "base/base.h"
#include "tensor/quant.h"

/** Columns of packed panels and of products are padded to a multiple of this many floats. */
#define KERNEL_PAD 16
/** Largest tile_columns of any level. */
#define KERNEL_MAX_COLUMNS 64
/** Keys a generated row takes at a step; other rows take a multiple of it. */
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
 *  the sum in the level's own way (vdpbf16ps, bfmmla: subnormals count as zero). */
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

/** split_pairs: even elements of each 32 before the odd ones, dst[32 c + i] = src[32 c + 2 i],
 *  dst[32 c + 16 + i] = src[32 c + 2 i + 1], i < 16; zeros behind n up to a multiple of
 *  KERNEL_SPLIT. */
#define KERNEL_SPLIT 32

/** dst[i * dst_stride + r] = dot(w row r, x row i). Weight rows are contiguous; x rows are float,
 *  x_stride elements apart. */
typedef struct dot_args {
    float *dst;
    const void *w;
    const void *x;
    int64_t dst_stride, x_stride;
    int64_t n_w, n_x, k;
    bool split; /* dot_bf16 of a level that splits_pairs: x is as split_pairs() leaves it */
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
   widen_i8: a row of the int8 cache, n codes and what they are multiplied by.
   narrow_*: dst may be src, or begin where it does. */

/* Quantized weights; tensor/quant.h has their definition. */

/** quant_encode_4bit(): n elements from the start of a block on. */
typedef struct encode_4bit_args {
    uint8_t *codes;
    float *absmax;
    const float *x;
    int64_t n, block;
    quant_format format;
} encode_4bit_args;

/** quant_decode_4bit(): elements [first, first + n) of the codes. */
typedef struct expand_4bit_args {
    float *dst;
    const quant *q;
    const uint8_t *codes;
    int64_t first, n;
} expand_4bit_args;

/** arrange_4bit: activations in the order in which a vector's nibbles come out of 64 bytes of
 *  codes, for i < 16, j < 8: dst[128 c + 16 j + i] = src[128 c + 8 i + (j ^ 1)]; zeros behind n up
 *  to a multiple of KERNEL_ARRANGED. */
#define KERNEL_ARRANGED 128

/** code_inputs: arranged activations in 14 bits and a sign. Of each 128 with largest magnitude m
 *  element 16 (j + 4 h) + i (i < 16, j < 4, h < 2) is round(x KERNEL_CODE_MAX / m) at 32 j + 2 i +
 * h of dst; behind the n codes (n is a multiple of KERNEL_ARRANGED) one float32 m / KERNEL_CODE_MAX
 *  for each 128. Below KERNEL_CODE_TINY m counts as zero; m is not a number if an element is none
 *  or infinite. Sums of 8 products of two codes fit 32 bits. */
#define KERNEL_CODE_MAX  QUANT_CODE_MAX
#define KERNEL_CODE_TINY 1e-30f

/** dst[i * dst_stride + r] = dot(weight row r, x row i): x arranged, x_stride elements apart. Row r
 *  is elements [first + r k, first + (r + 1) k) of the codes; first and k are multiples of the
 *  block. dot_4bit_i16: x as code_inputs() leaves
 *  it, the table coded alike (quant_code_table); sums of a block are exact. */
typedef struct dot_4bit_args {
    float *dst;
    const quant *q;
    const uint8_t *codes;
    const void *x;
    int64_t dst_stride, x_stride;
    int64_t first, n_w, n_x, k;
} dot_4bit_args;

/** quant_encode_int8() of what is below the threshold in magnitude (0: of all); the rest is coded
 *  as zero. Codes are xor-ed with flip: 0, or 0x80 for activations, which are bytes above 128.
 *  Returns the scale. */
typedef struct encode_i8_args {
    uint8_t *codes;
    const float *x;
    int64_t n;
    float threshold;
    uint8_t flip;
} encode_i8_args;

/* mark_outliers: flags[i] |= |x[i]| >= limit; limit is a number. */

/** dst[i * dst_stride + r] = sum of w[r][k] (x[i][k] - 128), exact. Weight rows are contiguous, x
 *  rows x_stride bytes apart. */
typedef struct dot_i8_args {
    int32_t *dst;
    const int8_t *w;
    const uint8_t *x;
    int64_t dst_stride, x_stride;
    int64_t n_w, n_x, k;
} dot_i8_args;

/** Transposes n rows of k bytes in groups of four: dst[ceil(k / 4)][ld][4], the rest zero; adds
 *  each row's sum to sums[ld]. dst is 64-byte aligned, ld a multiple of KERNEL_PAD. */
typedef struct pack_i8_args {
    int8_t *dst;
    int32_t *sums;
    const int8_t *src;
    int64_t row_bytes;
    int64_t n, k, ld;
} pack_i8_args;

/** c[m, n] = a[m, k] b[k, n] (+ c), exact: a unsigned bytes, b as pack_i8 gives it, ldb = bytes
 *  between its groups of four. k is a multiple of 4; n and c as for gemm_f32. */
typedef struct gemm_i8_args {
    const uint8_t *a;
    const int8_t *b;
    int32_t *c;
    int64_t lda, ldb, ldc;
    int64_t m, n, k;
    bool accumulate;
} gemm_i8_args;

/** dst[i][j] = (c[i][j] - 128 sums[j]) / 127^2 row_scales[i] column_scales[j], in this order; c and
 *  dst have ldc and ldd elements a row and may be the same. sums may be NULL; column_scales may lie
 *  unaligned. */
typedef struct scale_i32_args {
    float *dst;
    const int32_t *c;
    const int32_t *sums;
    const float *row_scales;
    const void *column_scales; /* float32 */
    int64_t ldd, ldc;
    int64_t m, n;
} scale_i32_args;

#define KERNEL_INT8_PRODUCT 6.200012e-05f /* 1 / 127^2, as the reference's kernel writes it */

/** One row's step over n scores, a multiple of KERNEL_KEYS: keys outside [first, last) count as
 *  -infinity, the others are scores * scale + slope * (index + offset). Updates the running maximum
 *  and sum, turns scores into exp(score - maximum) and returns the factor for what was summed
 *  before. */
typedef struct softmax_args {
    float *scores; /* 64-byte aligned */
    float *maximum, *sum;
    int64_t n;
    int64_t first, last;
    float scale, slope, offset;
} softmax_args;

/** Of a row of the int8 cache: dim codes, then the float32 they are multiplied by. */
static inline float i8_row_scale(const void *row, int64_t dim) {
    float scale;
    memcpy(&scale, (const uint8_t *)row + dim, sizeof scale);
    return scale;
}

/** dst[i * KERNEL_KEYS + t] = dot(q row i, k row t) for n_keys <= KERNEL_KEYS keys, row_bytes
 * apart. */
typedef struct key_scores_args {
    float *dst;
    const float *q; /* rows q_stride apart */
    const void *k;
    const void *next; /* as many keys that will be wanted soon, or NULL */
    int64_t q_stride, row_bytes;
    int64_t n_queries, n_keys, dim;
} key_scores_args;

/** dst[i][d] = factors[i] * dst[i][d] + sum over t of weights[i * KERNEL_KEYS + t] * v[t][d], added
 *  in rising order of t. */
typedef struct value_sums_args {
    float *dst; /* rows dst_stride apart */
    const float *weights;
    const float *factors; /* or NULL: 1 */
    const void *v;
    const void *next; /* as many values that will be wanted soon, or NULL */
    int64_t dst_stride, row_bytes;
    int64_t n_queries, n_keys, dim;
} value_sums_args;

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
    bool native_codes;    /* dot_4bit_i16 is: faster than dot_4bit */
    bool splits_pairs;    /* dot_bf16 wants several rows so */
#define KERNEL(name, result, parameters) result(*name) parameters;
#include "device/cpu/kernels.def"
#undef KERNEL
} kernels;

/** Each level's function overwrites the entries it has; plain C sets all. */
void kernels_fill_c(kernels *table);
void kernels_fill_avx2(kernels *table);
void kernels_fill_avx512(kernels *table);
void kernels_fill_avx512vnni(kernels *table);
void kernels_fill_avx512bf16(kernels *table);
void kernels_fill_neon(kernels *table);
void kernels_fill_neonbf16(kernels *table);

#endif
