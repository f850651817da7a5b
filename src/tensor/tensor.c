/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "tensor.h"

typedef struct dtype_facts {
    size_t size;
    const char *name;
    const char *aliases[4];
} dtype_facts;

static const dtype_facts facts[LLAVA_DTYPE_COUNT] = {
    [LLAVA_DTYPE_DEFAULT] = {0, "default", {NULL}},
    [LLAVA_DTYPE_F32] = {4, "float32", {"fp32", "F32", "float", NULL}},
    [LLAVA_DTYPE_F16] = {2, "float16", {"fp16", "F16", "half", NULL}},
    [LLAVA_DTYPE_BF16] = {2, "bfloat16", {"bf16", "BF16", NULL}},
    [LLAVA_DTYPE_F64] = {8, "float64", {"F64", "double", NULL}},
    [LLAVA_DTYPE_I64] = {8, "int64", {"I64", NULL}},
    [LLAVA_DTYPE_I32] = {4, "int32", {"I32", NULL}},
    [LLAVA_DTYPE_I16] = {2, "int16", {"I16", NULL}},
    [LLAVA_DTYPE_I8] = {1, "int8", {"I8", NULL}},
    [LLAVA_DTYPE_U8] = {1, "uint8", {"U8", NULL}},
    [LLAVA_DTYPE_BOOL] = {1, "bool", {"BOOL", NULL}},
};

size_t dtype_size(llava_dtype dtype) {
    return (unsigned)dtype < LLAVA_DTYPE_COUNT ? facts[dtype].size : 0;
}

const char *dtype_name(llava_dtype dtype) {
    return (unsigned)dtype < LLAVA_DTYPE_COUNT ? facts[dtype].name : "unknown";
}

bool dtype_is_float(llava_dtype dtype) {
    return dtype == LLAVA_DTYPE_F32 || dtype == LLAVA_DTYPE_F16 || dtype == LLAVA_DTYPE_BF16 ||
           dtype == LLAVA_DTYPE_F64;
}

bool dtype_parse(const char *name, llava_dtype *dtype) {
    if (strncmp(name, "torch.", 6) == 0) name += 6;
    for (int i = LLAVA_DTYPE_F32; i < LLAVA_DTYPE_COUNT; i++) {
        bool match = strcmp(name, facts[i].name) == 0;
        for (const char *const *alias = facts[i].aliases; *alias && !match; alias++)
            match = strcmp(name, *alias) == 0;
        if (match) {
            *dtype = (llava_dtype)i;
            return true;
        }
    }
    return false;
}

int64_t tensor_count(const tensor *t) {
    int64_t count = 1;
    for (int i = 0; i < t->n_dims; i++)
        if (t->shape[i] < 0 || __builtin_mul_overflow(count, t->shape[i], &count)) return -1;
    return count;
}

bool tensor_has_shape(const tensor *t, int n_dims, const int64_t *shape) {
    if (t->n_dims != n_dims) return false;
    for (int i = 0; i < n_dims; i++)
        if (t->shape[i] != shape[i]) return false;
    return true;
}

const char *tensor_shape_text(const tensor *t, char *buffer, size_t size) {
    size_t used = (size_t)snprintf(buffer, size, "[");
    for (int i = 0; i < t->n_dims && used < size; i++)
        used += (size_t)snprintf(buffer + used, size - used, "%s%lld", i ? ", " : "",
                                 (long long)t->shape[i]);
    if (used < size) snprintf(buffer + used, size - used, "]");
    return buffer;
}

static float load_one(const uint8_t *src, llava_dtype dtype) {
    uint16_t half;
    float single;
    double twice;
    switch (dtype) {
    case LLAVA_DTYPE_F16: memcpy(&half, src, 2); return f16_to_f32(half);
    case LLAVA_DTYPE_BF16: memcpy(&half, src, 2); return bf16_to_f32(half);
    case LLAVA_DTYPE_F64: memcpy(&twice, src, 8); return (float)twice;
    default: memcpy(&single, src, 4); return single;
    }
}

static void store_one(uint8_t *dst, llava_dtype dtype, float value) {
    uint16_t half;
    double twice;
    switch (dtype) {
    case LLAVA_DTYPE_F16:
        half = f32_to_f16(value);
        memcpy(dst, &half, 2);
        break;
    case LLAVA_DTYPE_BF16:
        half = f32_to_bf16(value);
        memcpy(dst, &half, 2);
        break;
    case LLAVA_DTYPE_F64:
        twice = value;
        memcpy(dst, &twice, 8);
        break;
    default: memcpy(dst, &value, 4); break;
    }
}

void tensor_cast(void *dst, llava_dtype dst_dtype, const void *src, llava_dtype src_dtype,
                 size_t count) {
    const size_t dst_step = dtype_size(dst_dtype), src_step = dtype_size(src_dtype);
    if (dst_dtype == src_dtype) {
        memmove(dst, src, count * dst_step);
        return;
    }
    for (size_t i = 0; i < count; i++)
        store_one((uint8_t *)dst + i * dst_step, dst_dtype,
                  load_one((const uint8_t *)src + i * src_step, src_dtype));
}

size_t weight_bytes(const weight *w) {
    if (w->quant)
        return quant_codes_bytes(w->quant->format, w->n_rows, w->n_cols) +
               quant_scales_bytes(w->quant, w->n_rows, w->n_cols);
    return (size_t)w->n_rows * (size_t)w->n_cols * dtype_size(w->dtype);
}

/** Row by row: value = code * scb / 127. */
static void decode_int8(const weight *w, int64_t first, int64_t n, float *dst) {
    const int8_t *codes = w->data;
    for (int64_t i = first; i < first + n; i++) {
        float scale;
        memcpy(&scale, (const uint8_t *)w->quant->scb + i / w->n_cols * 4, sizeof scale);
        dst[i - first] = (float)codes[i] * scale / 127.0f;
    }
}

void weight_decode(const weight *w, int64_t first, int64_t n, float *dst) {
    if (!w->quant)
        tensor_cast(dst, LLAVA_DTYPE_F32,
                    (const uint8_t *)w->data + (size_t)first * dtype_size(w->dtype), w->dtype,
                    (size_t)n);
    else if (w->quant->format == QUANT_INT8)
        decode_int8(w, first, n, dst);
    else
        quant_decode_4bit(w->quant, w->data, w->quant->first + first, n, dst);
}
