/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of the CPU device: its state, its scratch memory and the operations of its table.
 */
#ifndef LLAVA_CPU_H
#define LLAVA_CPU_H

#include "device/cpu/kernels.h"
#include "device/device.h"

/** Floats of scratch a thread has to itself, at least. */
#define CPU_THREAD_FLOATS ((int64_t)256 << 10)

/** What one running operation uses. Operations of different contexts each take one. */
typedef struct cpu_scratch {
    struct cpu_scratch *next;
    void *rows; /* converted activations */
    size_t rows_bytes;
    float *threads; /* thread_floats for each thread */
    int64_t thread_floats;
} cpu_scratch;

/** Never NULL: waits for one in use when no more memory is to be had. */
cpu_scratch *cpu_scratch_take(device *d);
void cpu_scratch_give(device *d, cpu_scratch *scratch);
/** True if rows holds n_bytes; tries to grow it. */
bool cpu_scratch_rows(cpu_scratch *scratch, size_t n_bytes);
/** True if each thread has n_floats; tries to grow them. */
bool cpu_scratch_grow_threads(const device *d, cpu_scratch *scratch, int64_t n_floats);
/** The calling thread's part, inside parallel_for. */
float *cpu_scratch_thread(const device *d, const cpu_scratch *scratch);

/** Threads worth using for n_operations (multiply-adds, or elements touched). */
int cpu_threads_for(const device *d, double n_operations);

const kernels *cpu_kernels(const device *d);
/** The table of a level; false when unknown or not available. */
bool kernels_for_level(const char *level, kernels *table);

static inline const uint8_t *kv_at(const kv_view *view, int64_t t, int64_t head) {
    const int64_t at = t % view->block_size * view->token_stride + head * view->head_stride;
    return (const uint8_t *)view->blocks[t / view->block_size] +
           at * (int64_t)dtype_size(view->dtype);
}

/** Tokens of [t, end) that lie one token_stride after the other. */
static inline int64_t kv_run(const kv_view *view, int64_t t, int64_t end) {
    return i64_min(end - t, view->block_size - t % view->block_size);
}

/** Keys [first, last) that query row i sees. */
static inline void attention_visible(const attention_args *args, int64_t i, int64_t *first,
                                     int64_t *last) {
    const int64_t position = args->first_position + i;
    *first = 0;
    *last = args->n_keys;
    if (!args->causal) return;
    *last = i64_min(position + 1, args->n_keys);
    if (args->window > 0) *first = i64_max(0, position - args->window);
}

/** When not even one row fits the scratch and no memory is to be had: not a number, which shows,
 *  rather than a wrong number. */
void attention_undefined(const attention_args *args);

/** dst[i] = (float)src[first + i] for the formats a weight may have. */
void cpu_widen(const kernels *k, float *dst, const weight *w, int64_t first, int64_t n);

typedef void (*activation_kernel)(float *dst, const float *x, int64_t n);
/** NULL for ACT_NONE. */
activation_kernel cpu_activation(const kernels *k, activation act);

/** Rows [row, row + m) and columns [column, column + n) of a matrix. */
typedef struct cpu_part {
    int64_t row, m, column, n;
} cpu_part;

#define CPU_FINISH_COLUMNS 1024
/** A part of a product's output from its sums c, which are used up: bias, activation, residual. At
 *  most CPU_FINISH_COLUMNS columns. */
void cpu_linear_finish(const kernels *k, const linear_args *args, const cpu_part *part, float *c,
                       int64_t ldc);

/* Products with quantized weights. */
void cpu_linear_int8(device *d, const linear_args *args);
/** Weight rows part->row ..., inputs part->column ... as a panel: float32, or pairs of bfloat16.
 *  rows: room for part->m rows of part->n floats. */
void cpu_pack_4bit(const kernels *k, const weight *w, const cpu_part *part, float *panel,
                   float *rows, bool pairs);
/** A dot product with dot->n_w rows from `column` on, expanded in room floats. */
void cpu_dot_expanded(const kernels *k, const weight *w, const dot_args *dot, int64_t column,
                      float *room, int64_t n_room);
/** A row in the order of the 4-bit products. */
/** The same, coded in 16 bits, with its scales behind. */
void cpu_code_inputs(const kernels *k, int16_t *dst, const float *src, int64_t n);
void cpu_arrange(const kernels *k, float *dst, const float *src, int64_t n);

/* operations of the table */
void cpu_quantize(device *d, const quantize_args *args);
void cpu_linear(device *d, const linear_args *args);
void cpu_attention(device *d, const attention_args *args);
/** Attention of generated rows. */
void cpu_attention_dot(device *d, const attention_args *args);
/** A step of the softmax over n keys from first_key on, for a query row and head that see keys
 *  [first, last); scores, maximum and sum are the caller's to fill in. */
softmax_args cpu_softmax_args(const attention_args *args, int64_t row, int64_t head,
                              int64_t first_key, int64_t n, int64_t first, int64_t last);
void cpu_kv_store(device *d, const kv_store_args *args);

void cpu_embed(device *d, float *dst, const weight *table, const int32_t *ids, int64_t n);
void cpu_rmsnorm(device *d, const norm_args *args);
void cpu_layernorm(device *d, const norm_args *args);
void cpu_rope(device *d, float *x, int64_t x_stride, int64_t n, int64_t n_heads, int64_t head_dim,
              const float *cos, const float *sin);
void cpu_gated(device *d, float *dst, const float *gate, const float *up, int64_t count,
               activation act);
void cpu_activate(device *d, float *dst, const float *x, int64_t count, activation act);
void cpu_add_scaled(device *d, float *dst, const float *x, int64_t count, float scale);
void cpu_scale(device *d, float *x, int64_t count, float factor);
void cpu_gather(device *d, float *dst, const float *src, const int32_t *rows, int64_t n,
                int64_t dim);
void cpu_widen_flat(device *d, float *dst, const weight *w, int64_t count);
void cpu_patchify(device *d, float *dst, const float *pixels, int64_t n, int64_t size,
                  int64_t patch);
void cpu_map(device *d, const map_args *args);

#endif
