/* SPDX-License-Identifier: Apache-2.0
 *
 * The operations the forward pass is written in. Model code calls these and nothing else that
 * computes; a device fills the table. Activations are float32 rows; where a product would round its
 * inputs to bfloat16 the operation before it may leave them so. Weights keep their format.
 *
 * A row's result never depends on how many rows there are, on its neighbours, or on the number of
 * threads. Shapes are row-major; [n, dim] means n rows of dim contiguous floats.
 */
#ifndef LLAVA_DEVICE_H
#define LLAVA_DEVICE_H

#include "base/base.h"
#include "config/config.h"
#include "tensor/tensor.h"

typedef struct device device;

/** Elements from one row of bfloat16 activations to the next: an odd number of 64-byte lines, for
 *  rows a multiple of 4096 bytes apart would compete for the same few places of the cache. */
static inline int64_t bf16_row_stride(int64_t dim) { return (ceil_div(dim, 32) | 1) * 32; }

/** How a product is summed. A row is generated (DOT) or it is not (PANEL); never "few rows". */
typedef enum linear_form { LINEAR_PANEL = 0, LINEAR_DOT = 1 } linear_form;

/** dst[n, out] = act(x[n, in] W^T + bias) (+ residual). */
typedef struct linear_args {
    const float *x;         /* [n_rows, w->n_cols] */
    const uint16_t *x_bf16; /* PANEL: rounded already, bf16_row_stride(w->n_cols) apart, or NULL */
    int64_t n_rows;
    const weight *w;    /* [out, in] */
    const weight *bias; /* [1, out], or NULL */
    activation act;
    const float *residual; /* [n_rows, out] added last, or NULL; may be dst */
    float *dst;            /* [n_rows, out]; must not overlap x */
    uint16_t *dst_bf16;    /* PANEL without residual: in its place, bf16_row_stride(out) apart */
    linear_form form;
    bool bf16_inputs; /* PANEL: round x to bfloat16 first (compute type bfloat16) */
} linear_args;

/** A norm of rows; dst may be x. */
typedef struct norm_args {
    const float *x; /* [n_rows, w->n_cols] */
    int64_t n_rows;
    const weight *w;    /* [1, dim] */
    const weight *bias; /* layernorm: [1, dim], absent or NULL */
    float eps;
    bool plus_one; /* rmsnorm */
    float *dst;
    uint16_t *dst_bf16; /* in its place, bf16_row_stride(dim) apart, or NULL */
} norm_args;

/** Quantizes a whole matrix. 4 bit: codes, and absmax of every block; with nested_absmax also the
 *  codes of absmax minus *offset, which is set. int8: codes and each row's scale in absmax. */
typedef struct quantize_args {
    const weight *w;     /* float32, float16 or bfloat16 */
    bool bfloat16_first; /* values are rounded to bfloat16 first */
    bool halves;         /* then to float16 */
    quant_format format;
    int64_t block;
    uint8_t *codes;
    float *absmax;
    const float *map; /* of absmax's codes */
    uint8_t *absmax_codes;
    float *nested_absmax; /* NULL: absmax stays as it is */
    float *offset;
} quantize_args;

/** Keys or values of one sequence: blocks of block_size tokens. Element (t, head, i) lies in
 *  blocks[t / block_size] at (t % block_size) * token_stride + head * head_stride + i. */
typedef struct kv_view {
    void *const *blocks;
    int64_t block_size;
    int64_t token_stride, head_stride; /* in elements */
    llava_dtype dtype;                 /* F32, F16, BF16, or I8: head_dim codes and a float32 */
} kv_view;

/** One pass over blocks of keys with running maximum and sum.
 *  Query row i has position first_position + i; it sees keys [max(0, p - window), p] if causal,
 *  else all n_keys. */
typedef struct attention_args {
    const float *q; /* [n_rows, n_heads, head_dim], rows q_stride elements apart */
    int64_t q_stride;
    float *dst;             /* [n_rows, n_heads * head_dim] */
    const uint16_t *q_bf16; /* PANEL: in place of q, rounded already, or NULL */
    uint16_t *dst_bf16;     /* PANEL: in place of dst, rows bf16_row_stride() apart, or NULL */
    int64_t n_rows, n_heads, n_kv_heads, head_dim;
    int64_t first_position, n_keys;
    bool causal;
    int64_t window; /* 0: none */
    float scale;
    const float *alibi_slopes; /* [n_heads] or NULL: score += slope * (key - query) */
    kv_view k, v;
    linear_form form; /* DOT: generated rows, each on its own over keys as they lie, in float32 */
    bool bf16_inputs; /* PANEL: what is multiplied may be rounded to bfloat16 first */
} attention_args;

/** Pooling and interpolation over maps of rows: [n_maps, in_h, in_w, dim] -> [.., out_h, out_w, ..]
 */
typedef enum map_op {
    MAP_AVERAGE, /* stride x stride block mean, trailing rows and columns dropped */
    MAP_MAX,
    MAP_BILINEAR, /* align_corners false, no antialias */
    MAP_BICUBIC,  /* a = -0.75, align_corners false, no antialias, borders clamped */
    MAP_AREA      /* adaptive average */
} map_op;

typedef struct map_args {
    map_op op;
    const float *x;
    float *dst;
    int64_t n_maps, in_h, in_w, out_h, out_w, dim;
    int64_t stride; /* AVERAGE and MAX */
} map_args;

/** Keys or values into the cache: row i of x goes to position first + i of the view. */
typedef struct kv_store_args {
    const float *x; /* [n_rows, n_kv_heads, head_dim], rows x_stride floats apart */
    int64_t x_stride, n_rows, n_kv_heads, head_dim, first_position;
    kv_view view;
} kv_store_args;

typedef struct device_ops {
    const char *name; /* "cpu" */

    /** Memory of the device. alloc gives 64-byte aligned, not zeroed, or NULL. */
    void *(*alloc)(device *d, size_t n_bytes);
    void (*release)(device *d, void *memory);
    void (*upload)(device *d, void *dst, const void *host, size_t n_bytes);
    void (*download)(device *d, void *host, const void *src, size_t n_bytes);

    /** dst[i] = float32(table[ids[i]]). */
    void (*embed)(device *d, float *dst, const weight *table, const int32_t *ids, int64_t n);
    void (*linear)(device *d, const linear_args *args);
    void (*quantize)(device *d, const quantize_args *args);
    /** y = x * rsqrt(mean(x^2) + eps) * w, or * (1 + w) when plus_one. */
    void (*rmsnorm)(device *d, const norm_args *args);
    /** Biased variance. */
    void (*layernorm)(device *d, const norm_args *args);
    /** Half-split rotation in place of n_heads heads of each row. cos, sin: [n, head_dim / 2]. */
    void (*rope)(device *d, float *x, int64_t x_stride, int64_t n, int64_t n_heads,
                 int64_t head_dim, const float *cos, const float *sin);
    void (*kv_store)(device *d, const kv_store_args *args);
    void (*attention)(device *d, const attention_args *args);
    /** dst = act(gate) * up, element by element. dst may be gate or up. */
    void (*gated)(device *d, float *dst, const float *gate, const float *up, int64_t count,
                  activation act);
    void (*activate)(device *d, float *dst, const float *x, int64_t count, activation act);
    /** dst += scale * x */
    void (*add_scaled)(device *d, float *dst, const float *x, int64_t count, float scale);
    void (*scale)(device *d, float *x, int64_t count, float factor);
    /** dst row i = src row rows[i]; a row index < 0 gives zeros. */
    void (*gather)(device *d, float *dst, const float *src, const int32_t *rows, int64_t n,
                   int64_t dim);
    /** dst[i] = (float32) w as a flat array of count values. */
    void (*widen)(device *d, float *dst, const weight *w, int64_t count);
    /** pixels [n, 3, size, size] -> rows [n * side^2, 3 * patch^2], side = size / patch, order
     *  (channel, y, x) inside a row, patches in raster order. */
    void (*patchify)(device *d, float *dst, const float *pixels, int64_t n, int64_t size,
                     int64_t patch);
    void (*map)(device *d, const map_args *args);
} device_ops;

struct device {
    const device_ops *ops;
    int n_threads;
    const char *level; /* "avx512bf16", ... */
    void *state;       /* the device's own: kernel table, scratch */
};

#define DEVICE_MAX_THREADS 1024

/** n_threads 0: one per processor. level NULL: the best this processor has. Unknown or unavailable
 * levels are errors. */
llava_status device_open_cpu(int n_threads, const char *level, device **out, llava_error *err);
void device_close(device **d);

/** Makes room for rounding max_rows rows of max_columns inputs at once. Optional: without it long
 *  products run in parts, with the same results. */
llava_status device_reserve(device *d, int64_t max_columns, int64_t max_rows, llava_error *err);

/** CUDA devices that this build can compute on: none, it has no CUDA. */
int device_cuda_count(void);
/** Bytes that are free on one of them now. */
int64_t device_cuda_free_bytes(int index);
/** Bytes of memory that can be had without swapping; INT64_MAX when the system does not tell. */
int64_t device_host_free_bytes(void);

/** Names of the levels this build has, best last; NULL-terminated. */
const char *const *device_cpu_levels(void);
bool device_cpu_level_available(const char *level);

#endif
