/* SPDX-License-Identifier: Apache-2.0
 *
 * Quantized weights as bitsandbytes defines them for CUDA: NF4 and FP4 in blocks with or without a
 * second quantization of the blocks' maxima, and LLM.int8()'s rows. Exact encoding and decoding in
 * plain C; faster versions are kernels of the device and give the same bits.
 */
#ifndef LLAVA_QUANT_H
#define LLAVA_QUANT_H

#include "base/base.h"

typedef enum quant_format { QUANT_NF4, QUANT_FP4, QUANT_INT8 } quant_format;

#define QUANT_MIN_BLOCK    64 /* of 4-bit codes; powers of two */
#define QUANT_MAX_BLOCK    4096
#define QUANT_NESTED_BLOCK 256
#define QUANT_MAP_SIZE     256
#define QUANT_THRESHOLD    6.0f
/** Products of this many signed bytes fit 32 bits, and a row fits a thread's scratch. */
#define QUANT_MAX_COLUMNS ((int64_t)1 << 17)

/** What belongs to a quantized matrix beside its codes. Arrays may lie unaligned in a mapped file.
 *
 *  4 bit: element i of the codes (row-major, blocks may span rows) is
 *  table[nibble i] * absmax[i / block]; the even element is the high nibble.
 *  int8: element [o, k] is codes[o][k] * scb[o] / 127. */
typedef struct quant {
    quant_format format;
    llava_dtype stored; /* 4 bit: type a decoded weight is recorded to have */
    /* 4 bit */
    int64_t first; /* element of the codes where this matrix begins */
    int64_t block; /* elements that share an absmax */
    float table[16];
    const void *absmax;        /* float32, one a block; or NULL, and then */
    const uint8_t *codes;      /* absmax[b] = map[codes[b]] * nested[b / nested_block] + offset */
    const void *nested_absmax; /* float32 */
    int64_t nested_block;
    float offset;
    float map[QUANT_MAP_SIZE];
    /* int8 */
    const void *scb; /* float32, largest magnitude of each row */
    float threshold; /* activations from here on are multiplied unquantized; 0: none */
} quant;

const char *quant_format_name(quant_format format); /* "nf4", "fp4", "int8" */

/** The 16 values of NF4 or FP4, by code. */
const float *quant_table(quant_format format);
/** NF4: 15, a value's code is how many lie below it. FP4: 7, the same for magnitudes, in the order
 *  of their codes 0 1 6 7 4 5 2 3. */
const float *quant_thresholds(quant_format format);
/** The table in 14 bits and a sign, for integer products; returns what a code is multiplied with.
 */
#define QUANT_CODE_MAX 16383
float quant_code_table(const float table[16], int16_t codes[16]);
/** bitsandbytes' signed dynamic map, ascending. */
void quant_dynamic_map(float map[QUANT_MAP_SIZE]);

/** n elements from the start of a block on: ceil(n / 2) bytes of codes, one absmax a block. */
void quant_encode_4bit(quant_format format, const float *w, int64_t n, int64_t block,
                       uint8_t *codes, float *absmax);
/** The mean that is taken off absmax before its own quantization. */
float quant_offset(const float *absmax, int64_t n);
/** codes[n] and one nested_absmax for each QUANT_NESTED_BLOCK of them. */
void quant_encode_absmax(const float *absmax, int64_t n, float offset,
                         const float map[QUANT_MAP_SIZE], uint8_t *codes, float *nested_absmax);
/** absmax of blocks [first, first + n). */
void quant_decode_absmax(const quant *q, int64_t first, int64_t n, float *absmax);
/** Elements [first, first + n) of 4-bit codes; q->first does not count here. */
void quant_decode_4bit(const quant *q, const uint8_t *codes, int64_t first, int64_t n, float *dst);

/** 127 / scale with two roundings, as the reference's division. */
static inline float quant_int8_factor(float scale) { return 127.0f * (1.0f / scale); }
/** x * factor to the nearest integer, even among two; 0 in a row of zeros, where the product is not
 *  a number, and the ends of [-127, 127] where subnormal scales make it infinite. */
int8_t quant_int8_code(float x, float factor);
/** One row of weights or activations: codes in [-127, 127] and their scale, the largest magnitude.
 */
void quant_encode_int8(const float *x, int64_t n, int8_t *codes, float *scale);

/** Bytes of a quantized matrix: codes, scales and the tables its serialized form has. */
size_t quant_codes_bytes(quant_format format, int64_t n_rows, int64_t n_cols);
size_t quant_scales_bytes(const quant *q, int64_t n_rows, int64_t n_cols);

#endif
