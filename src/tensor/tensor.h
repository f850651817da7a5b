/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensors as they lie in memory: element type, shape, bytes. Row-major, contiguous.
 */
#ifndef LLAVA_TENSOR_H
#define LLAVA_TENSOR_H

#include "base/base.h"
#include "tensor/quant.h"

#define TENSOR_MAX_DIMS 8

/** A view; it owns nothing. */
typedef struct tensor {
    llava_dtype dtype;
    int n_dims;
    int64_t shape[TENSOR_MAX_DIMS];
    const void *data; /* may be unaligned when it lies in a mapped file */
    size_t n_bytes;
} tensor;

size_t dtype_size(llava_dtype dtype);      /* bytes of one element */
const char *dtype_name(llava_dtype dtype); /* "float32", "bfloat16", ... */
bool dtype_is_float(llava_dtype dtype);    /* F32, F16, BF16 or F64 */
/** "float16", "fp16", "half", "torch.float16", "F16" ... -> dtype; false when unknown. */
bool dtype_parse(const char *name, llava_dtype *dtype);

/** Product of the shape; 1 for a scalar; -1 on overflow or a negative dimension. */
int64_t tensor_count(const tensor *t);
bool tensor_has_shape(const tensor *t, int n_dims, const int64_t *shape);
/** "[2, 3]" into buffer. Returns buffer. */
const char *tensor_shape_text(const tensor *t, char *buffer, size_t size);

/** dst[i] = (dst_dtype)src[i] for float types; round to nearest even. Buffers may be unaligned,
 *  and must not overlap unless they are the same and the sizes are equal. */
void tensor_cast(void *dst, llava_dtype dst_dtype, const void *src, llava_dtype src_dtype,
                 size_t count);

/** A matrix [n_rows, n_cols] or a vector ([1, n_cols]) of the model, in its stored format.
 *  `linear` looks at the format; nobody else does. */
typedef struct weight {
    llava_dtype dtype;
    int64_t n_rows;     /* output features; vectors: 1 */
    int64_t n_cols;     /* input features */
    const void *data;   /* NULL: the weight does not exist (an absent bias) */
    const quant *quant; /* NULL: plain values; else data holds codes, dtype is U8 or I8 */
} weight;

static inline bool weight_exists(const weight *w) { return w->data != NULL; }

/** Bytes of values, or of codes and scales. */
size_t weight_bytes(const weight *w);
/** dst[i] = (float32) value first + i of the whole matrix. */
void weight_decode(const weight *w, int64_t first, int64_t n, float *dst);

#endif
