/* SPDX-License-Identifier: Apache-2.0
 *
 * Exact 4-bit and int8 encoding and decoding. Source: the CUDA kernels of bitsandbytes 0.41 to
 * 0.43, in IEEE float32 (they use approximate reciprocals: an element within a few units of a
 * threshold may be coded either way there).
 */
#include <math.h>

#include "quant.h"

static const float nf4[16] = {-1.0f,
                              -0.6961928009986877f,
                              -0.5250730514526367f,
                              -0.39491748809814453f,
                              -0.28444138169288635f,
                              -0.18477343022823334f,
                              -0.09105003625154495f,
                              0.0f,
                              0.07958029955625534f,
                              0.16093020141124725f,
                              0.24611230194568634f,
                              0.33791524171829224f,
                              0.44070982933044434f,
                              0.5626170039176941f,
                              0.7229568362236023f,
                              1.0f};
static const float nf4_thresholds[15] = {
    -0.8480964004993439f,  -0.6106329262256622f,  -0.4599952697753906f,   -0.33967943489551544f,
    -0.23460740596055984f, -0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f,
    0.1202552504837513f,   0.2035212516784668f,   0.2920137718319893f,    0.3893125355243683f,
    0.5016634166240692f,   0.6427869200706482f,   0.8614784181118011f};

/* bit 3 is the sign; magnitudes do not rise with the code */
static const float fp4[16] = {
    0,     5.208333333e-03f,  0.66666667f,  1.0f,  0.33333333f,  0.5f,  0.16666667f,  0.25f,
    -0.0f, -5.208333333e-03f, -0.66666667f, -1.0f, -0.33333333f, -0.5f, -0.16666667f, -0.25f};
static const float fp4_thresholds[7] = {0.00260417f, 0.0859375f, 0.20833333f, 0.29166667f,
                                        0.4166667f,  0.583333f,  0.8333333f};
static const uint8_t fp4_rising[8] = {0, 1, 6, 7, 4, 5, 2, 3};

/* positive half of the dynamic map, as float32 bits: for i = 0 ... 6 the 2^i means of neighbours
 * among 2^i + 1 points from 0.1 to 1, times 10^(i - 6); then 1. Negatives mirror all but the 1. */
static const uint32_t dynamic_positive[128] = {
    0x3513a3b7, 0x365a1a94, 0x370205ff, 0x37b24206, 0x38378034, 0x388aefb3, 0x38ba1f4b, 0x3923d70b,
    0x398ce705, 0x39c7e283, 0x3a016f01, 0x3a1eecc1, 0x3a3c6a80, 0x3a59e83e, 0x3a7765ff, 0x3aa7ef9d,
    0x3af1a9fc, 0x3b1db22d, 0x3b428f5c, 0x3b676c8a, 0x3b8624dd, 0x3b989374, 0x3bab020d, 0x3bbd70a4,
    0x3bcfdf3b, 0x3be24dd3, 0x3bf4bc6a, 0x3c039581, 0x3c0ccccd, 0x3c160418, 0x3c1f3b64, 0x3c3ae148,
    0x3c68f5c3, 0x3c8b851f, 0x3ca28f5d, 0x3cb9999a, 0x3cd0a3d7, 0x3ce7ae15, 0x3cfeb852, 0x3d0ae148,
    0x3d166667, 0x3d21eb85, 0x3d2d70a3, 0x3d38f5c3, 0x3d447ae1, 0x3d500000, 0x3d5b851f, 0x3d670a3d,
    0x3d728f5d, 0x3d7e147b, 0x3d84cccd, 0x3d8a8f5d, 0x3d9051eb, 0x3d96147b, 0x3d9bd70a, 0x3da1999a,
    0x3da75c2a, 0x3dad1eb8, 0x3db2e148, 0x3db8a3d7, 0x3dbe6667, 0x3dc428f7, 0x3dc9eb85, 0x3ddb3334,
    0x3df80000, 0x3e0a6666, 0x3e18cccd, 0x3e273333, 0x3e35999a, 0x3e440000, 0x3e526666, 0x3e60cccd,
    0x3e6f3333, 0x3e7d9999, 0x3e860000, 0x3e8d3334, 0x3e946666, 0x3e9b999a, 0x3ea2cccc, 0x3eaa0000,
    0x3eb13333, 0x3eb86666, 0x3ebf999a, 0x3ec6cccc, 0x3ece0000, 0x3ed53333, 0x3edc6666, 0x3ee3999a,
    0x3eeacccc, 0x3ef20000, 0x3ef93332, 0x3f003333, 0x3f03cccc, 0x3f076666, 0x3f0b0000, 0x3f0e999a,
    0x3f123334, 0x3f15cccd, 0x3f196666, 0x3f1d0000, 0x3f20999a, 0x3f243334, 0x3f27cccd, 0x3f2b6666,
    0x3f2f0000, 0x3f32999a, 0x3f363334, 0x3f39cccd, 0x3f3d6666, 0x3f410000, 0x3f44999a, 0x3f483333,
    0x3f4bcccd, 0x3f4f6666, 0x3f530000, 0x3f56999a, 0x3f5a3333, 0x3f5dcccd, 0x3f616666, 0x3f650000,
    0x3f68999a, 0x3f6c3333, 0x3f6fcccd, 0x3f736666, 0x3f770000, 0x3f7a999a, 0x3f7e3333, 0x3f800000,
};

const char *quant_format_name(quant_format format) {
    static const char *const names[] = {"nf4", "fp4", "int8"};
    return names[format];
}

const float *quant_table(quant_format format) { return format == QUANT_FP4 ? fp4 : nf4; }

const float *quant_thresholds(quant_format format) {
    return format == QUANT_FP4 ? fp4_thresholds : nf4_thresholds;
}

float quant_code_table(const float table[16], int16_t codes[16]) {
    float largest = 0;
    for (int i = 0; i < 16; i++) largest = fmaxf(largest, fabsf(table[i]));
    for (int i = 0; i < 16; i++)
        codes[i] = largest > 0 ? (int16_t)lrintf(table[i] / largest * QUANT_CODE_MAX) : 0;
    return largest / QUANT_CODE_MAX;
}

void quant_dynamic_map(float map[QUANT_MAP_SIZE]) {
    for (int i = 0; i < 128; i++) map[128 + i] = f32_from_bits(dynamic_positive[i]);
    map[127] = 0;
    for (int i = 0; i < 127; i++) map[i] = -map[254 - i];
}

static float load_float(const void *array, int64_t index) {
    float value;
    memcpy(&value, (const uint8_t *)array + 4 * index, sizeof value);
    return value;
}

static float largest_magnitude(const float *x, int64_t n) {
    float largest = 0;
    for (int64_t i = 0; i < n; i++) largest = fmaxf(largest, fabsf(x[i]));
    return largest;
}

/* ---------------------------------------------------------------- 4 bit */

/** Thresholds below x; none for what is not a number. */
static int count_below(const float *thresholds, int n, float x) {
    int count = 0;
    for (int i = 0; i < n; i++) count += x > thresholds[i];
    return count;
}

static uint8_t encode_one(quant_format format, float x) {
    if (format == QUANT_NF4) return (uint8_t)count_below(nf4_thresholds, 15, x);
    const uint8_t sign = x < 0 ? 8 : 0;
    return fp4_rising[count_below(fp4_thresholds, 7, fabsf(x))] | sign;
}

void quant_encode_4bit(quant_format format, const float *w, int64_t n, int64_t block,
                       uint8_t *codes, float *absmax) {
    for (int64_t first = 0; first < n; first += block) {
        const int64_t count = i64_min(block, n - first);
        const float largest = largest_magnitude(w + first, count), inverse = 1.0f / largest;
        absmax[first / block] = largest;
        for (int64_t i = 0; i < count; i += 2) {
            const uint8_t high = encode_one(format, w[first + i] * inverse);
            const float odd = i + 1 < count ? w[first + i + 1] : 0; /* the padding of an odd end */
            codes[(first + i) / 2] = (uint8_t)(high << 4 | encode_one(format, odd * inverse));
        }
    }
}

float quant_offset(const float *absmax, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += absmax[i];
    return n ? (float)(sum / (double)n) : 0;
}

/** The kernel's bisection: the nearest entry of an ascending map, the pivot among equals. */
static uint8_t nearest(const float map[QUANT_MAP_SIZE], float x) {
    int pivot = 127, above = 255, below = 0;
    for (int step = 64; step > 0; step /= 2) {
        if (x > map[pivot]) {
            below = pivot;
            pivot += step;
        } else {
            above = pivot;
            pivot -= step;
        }
    }
    const float value = map[pivot];
    if (x > value) return (uint8_t)(x > (map[above] + value) * 0.5f ? above : pivot);
    return (uint8_t)(x < (map[below] + value) * 0.5f ? below : pivot);
}

void quant_encode_absmax(const float *absmax, int64_t n, float offset,
                         const float map[QUANT_MAP_SIZE], uint8_t *codes, float *nested_absmax) {
    for (int64_t first = 0; first < n; first += QUANT_NESTED_BLOCK) {
        const int64_t end = i64_min(first + QUANT_NESTED_BLOCK, n);
        float largest = 0;
        for (int64_t i = first; i < end; i++) largest = fmaxf(largest, fabsf(absmax[i] - offset));
        const float inverse = 1.0f / largest;
        nested_absmax[first / QUANT_NESTED_BLOCK] = largest;
        for (int64_t i = first; i < end; i++)
            codes[i] = nearest(map, (absmax[i] - offset) * inverse);
    }
}

void quant_decode_absmax(const quant *q, int64_t first, int64_t n, float *absmax) {
    if (q->absmax) {
        memcpy(absmax, (const uint8_t *)q->absmax + 4 * first, (size_t)n * sizeof *absmax);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        const int64_t b = first + i;
        const float scale = load_float(q->nested_absmax, b / q->nested_block);
        absmax[i] = q->map[q->codes[b]] * scale + q->offset;
    }
}

void quant_decode_4bit(const quant *q, const uint8_t *codes, int64_t first, int64_t n, float *dst) {
    int64_t block = -1;
    float scale = 0;
    for (int64_t i = first; i < first + n; i++) {
        if (i / q->block != block) {
            block = i / q->block;
            quant_decode_absmax(q, block, 1, &scale);
        }
        const uint8_t pair = codes[i / 2];
        dst[i - first] = q->table[i % 2 ? pair & 15 : pair >> 4] * scale;
    }
}

/* ---------------------------------------------------------------- int8 */

int8_t quant_int8_code(float x, float factor) {
    const float scaled = rintf(x * factor);
    if (fabsf(scaled) <= 127) return (int8_t)scaled;
    return scaled > 127 ? 127 : scaled < -127 ? -127 : 0;
}

void quant_encode_int8(const float *x, int64_t n, int8_t *codes, float *scale) {
    *scale = largest_magnitude(x, n);
    const float factor = quant_int8_factor(*scale);
    for (int64_t i = 0; i < n; i++) codes[i] = quant_int8_code(x[i], factor);
}

/* ---------------------------------------------------------------- sizes */

size_t quant_codes_bytes(quant_format format, int64_t n_rows, int64_t n_cols) {
    const int64_t count = n_rows * n_cols;
    return (size_t)(format == QUANT_INT8 ? count : ceil_div(count, 2));
}

size_t quant_scales_bytes(const quant *q, int64_t n_rows, int64_t n_cols) {
    if (q->format == QUANT_INT8) return (size_t)n_rows * sizeof(float);
    const int64_t blocks = ceil_div(n_rows * n_cols, q->block);
    if (q->absmax) return (size_t)blocks * sizeof(float);
    return (size_t)(blocks + 4 * ceil_div(blocks, q->nested_block));
}
