/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention of generated rows: one query row of all heads that share keys over the keys and values
 * as they lie, each loaded once. Reading them is what takes the time, so long contexts are cut into
 * chunks for the threads, and the chunks' results are put together in their order.
 *
 * Chunks start at multiples of CHUNK_KEYS whatever a row sees: its result depends on nothing else.
 */
#include <assert.h>
#include <math.h>

#include "device/cpu/cpu.h"

#define CHUNK_KEYS 512

typedef struct dot_job {
    device *d;
    const kernels *k;
    cpu_scratch *scratch;
    const attention_args *args;
    int64_t group;                 /* query heads per key head */
    int64_t first_row, n_rows;     /* of args, this time */
    int64_t first_chunk, n_chunks; /* that any of the rows sees */
    int64_t width;                 /* head_dim padded */
} dot_job;

/** What a chunk leaves behind for one query row and head. */
typedef struct partial {
    float *out; /* [width], weighted sum of values */
    float *maximum, *sum;
} partial;

static int64_t partial_floats(int64_t width) { return width + KERNEL_PAD; }

static partial partial_at(const dot_job *job, int64_t row, int64_t head, int64_t chunk) {
    const int64_t index = (row * job->args->n_heads + head) * job->n_chunks + chunk;
    float *out = (float *)job->scratch->rows + index * partial_floats(job->width);
    return (partial){out, out + job->width, out + job->width + 1};
}

/** A thread's buffers for the heads of a group. */
typedef struct group_buffers {
    float *scores; /* [group][KERNEL_KEYS] */
    float *out;    /* [group][width] */
    float *maximum, *sum, *factors;
} group_buffers;

static int64_t group_floats(const dot_job *job) {
    return job->group * (KERNEL_KEYS + job->width + 3);
}

static group_buffers buffers_of(const dot_job *job) {
    group_buffers b = {.scores = cpu_scratch_thread(job->d, job->scratch)};
    b.out = b.scores + job->group * KERNEL_KEYS;
    b.maximum = b.out + job->group * job->width;
    b.sum = b.maximum + job->group;
    b.factors = b.sum + job->group;
    memset(b.out, 0, (size_t)(job->group * job->width) * sizeof *b.out);
    for (int64_t i = 0; i < job->group; i++) {
        b.maximum[i] = -INFINITY;
        b.sum[i] = 0;
    }
    return b;
}

static void (*key_kernel(const kernels *k, llava_dtype dtype))(const key_scores_args *args) {
    switch (dtype) {
    case LLAVA_DTYPE_F16: return k->key_scores_f16;
    case LLAVA_DTYPE_BF16: return k->key_scores_bf16;
    case LLAVA_DTYPE_I8: return k->key_scores_i8;
    default: return k->key_scores_f32;
    }
}

static void (*value_kernel(const kernels *k, llava_dtype dtype))(const value_sums_args *args) {
    switch (dtype) {
    case LLAVA_DTYPE_F16: return k->value_sums_f16;
    case LLAVA_DTYPE_BF16: return k->value_sums_bf16;
    case LLAVA_DTYPE_I8: return k->value_sums_i8;
    default: return k->value_sums_f32;
    }
}

/** The tokens KERNEL_KEYS on, if all n of them lie together before `last`. */
static const void *next_tokens(const kv_view *view, int64_t t, int64_t n, int64_t head,
                               int64_t last) {
    const int64_t next = t + KERNEL_KEYS;
    return next + n <= last && kv_run(view, next, next + n) == n ? kv_at(view, next, head) : NULL;
}

/** scores[i][t - first] = q_i k_t for keys [first, end); before `last` more will be wanted. */
static void score_keys(const dot_job *job, const group_buffers *b, int64_t row, int64_t kv_head,
                       int64_t first, int64_t end, int64_t last) {
    const attention_args *args = job->args;
    const kv_view *view = &args->k;
    for (int64_t t = first, n; t < end; t += n) {
        n = kv_run(view, t, end);
        const key_scores_args call = {
            .dst = b->scores + (t - first),
            .q = args->q + row * args->q_stride + kv_head * job->group * args->head_dim,
            .k = kv_at(view, t, kv_head),
            .next = next_tokens(view, t, n, kv_head, last),
            .q_stride = args->head_dim,
            .row_bytes = view->token_stride * (int64_t)dtype_size(view->dtype),
            .n_queries = job->group,
            .n_keys = n,
            .dim = args->head_dim,
        };
        key_kernel(job->k, view->dtype)(&call);
    }
}

static void weigh_keys(const dot_job *job, const group_buffers *b, int64_t row, int64_t kv_head,
                       int64_t first_key, int64_t first, int64_t last) {
    const attention_args *args = job->args;
    for (int64_t i = 0; i < job->group; i++) {
        softmax_args step = cpu_softmax_args(args, row, kv_head * job->group + i, first_key,
                                             KERNEL_KEYS, first, last);
        step.scores = b->scores + i * KERNEL_KEYS;
        step.maximum = b->maximum + i;
        step.sum = b->sum + i;
        b->factors[i] = job->k->softmax_step(&step);
    }
}

static void sum_values(const dot_job *job, const group_buffers *b, int64_t kv_head, int64_t first,
                       int64_t end, int64_t last) {
    const kv_view *view = &job->args->v;
    for (int64_t t = first, n; t < end; t += n) {
        n = kv_run(view, t, end);
        const value_sums_args call = {
            .dst = b->out,
            .weights = b->scores + (t - first),
            .factors = t == first ? b->factors : NULL,
            .v = kv_at(view, t, kv_head),
            .next = next_tokens(view, t, n, kv_head, last),
            .dst_stride = job->width,
            .row_bytes = view->token_stride * (int64_t)dtype_size(view->dtype),
            .n_queries = job->group,
            .n_keys = n,
            .dim = job->args->head_dim,
        };
        value_kernel(job->k, view->dtype)(&call);
    }
}

static void chunk_task(void *user, int64_t index) {
    const dot_job *job = user;
    const int64_t n_kv_heads = job->args->n_kv_heads;
    const int64_t chunk = index % job->n_chunks, rest = index / job->n_chunks;
    const int64_t kv_head = rest % n_kv_heads, row = rest / n_kv_heads;
    const int64_t begin = (job->first_chunk + chunk) * CHUNK_KEYS;
    int64_t first, last;
    attention_visible(job->args, job->first_row + row, &first, &last);
    const int64_t stop = i64_min(begin + CHUNK_KEYS, last);
    const group_buffers b = buffers_of(job);
    const int64_t start = i64_max(begin, first / KERNEL_KEYS * KERNEL_KEYS);
    for (int64_t key = start; key < stop; key += KERNEL_KEYS) {
        const int64_t end = i64_min(key + KERNEL_KEYS, stop);
        score_keys(job, &b, job->first_row + row, kv_head, key, end, stop);
        weigh_keys(job, &b, job->first_row + row, kv_head, key, first, last);
        sum_values(job, &b, kv_head, key, end, stop);
    }
    for (int64_t i = 0; i < job->group; i++) {
        const partial p = partial_at(job, row, kv_head * job->group + i, chunk);
        memcpy(p.out, b.out + i * job->width, (size_t)job->width * sizeof *p.out);
        *p.maximum = b.maximum[i];
        *p.sum = b.sum[i];
    }
}

/** Puts the chunks of one query row and head together. */
static void merge_task(void *user, int64_t index) {
    const dot_job *job = user;
    const attention_args *args = job->args;
    const int64_t row = index / args->n_heads, head = index % args->n_heads;
    float maximum = -INFINITY, sum = 0;
    for (int64_t c = 0; c < job->n_chunks; c++)
        maximum = fmaxf(maximum, *partial_at(job, row, head, c).maximum);
    float *dst = args->dst + ((job->first_row + row) * args->n_heads + head) * args->head_dim;
    memset(dst, 0, (size_t)args->head_dim * sizeof *dst);
    for (int64_t c = 0; c < job->n_chunks; c++) {
        const partial p = partial_at(job, row, head, c);
        if (*p.maximum == -INFINITY) continue; /* sees nothing here */
        const float factor = expf(*p.maximum - maximum);
        sum += *p.sum * factor;
        job->k->add_scaled(dst, p.out, args->head_dim, factor);
    }
    job->k->scale(dst, dst, args->head_dim, sum > 0 ? 1.0f / sum : sum);
}

/** Rows [first_row, first_row + n_rows), and the chunks they see. */
static void choose_rows(dot_job *job, int64_t first_row, int64_t n_rows) {
    int64_t first, last, unused;
    job->first_row = first_row;
    job->n_rows = n_rows;
    attention_visible(job->args, first_row, &first, &unused);
    attention_visible(job->args, first_row + n_rows - 1, &unused, &last);
    job->first_chunk = first / CHUNK_KEYS;
    job->n_chunks = i64_max(1, ceil_div(last, CHUNK_KEYS) - job->first_chunk);
}

static size_t partial_bytes(const dot_job *job) {
    return (size_t)(job->n_rows * job->args->n_heads * job->n_chunks) *
           (size_t)partial_floats(job->width) * sizeof(float);
}

void cpu_attention_dot(device *d, const attention_args *args) {
    dot_job job = {.d = d, .k = cpu_kernels(d), .args = args};
    job.group = args->n_heads / args->n_kv_heads;
    job.width = round_up(args->head_dim, KERNEL_PAD);
    assert(job.group * args->n_kv_heads == args->n_heads);
    job.scratch = cpu_scratch_take(d);
    bool enough = cpu_scratch_grow_threads(d, job.scratch, group_floats(&job));
    for (int64_t row = 0; row < args->n_rows && enough; row += job.n_rows) {
        choose_rows(&job, row, args->n_rows - row);
        while (job.n_rows > 1 && partial_bytes(&job) > job.scratch->rows_bytes)
            choose_rows(&job, row, ceil_div(job.n_rows, 2));
        enough = cpu_scratch_rows(job.scratch, partial_bytes(&job));
        if (!enough) break;
        const double width = (double)args->n_heads * (double)args->head_dim;
        const double work = 2 * (double)job.n_rows * width;
        const int64_t n_merges = job.n_rows * args->n_heads;
        parallel_for(cpu_threads_for(d, work * (double)(job.n_chunks * CHUNK_KEYS)),
                     job.n_rows * args->n_kv_heads * job.n_chunks, chunk_task, &job);
        parallel_for(cpu_threads_for(d, work * (double)job.n_chunks), n_merges, merge_task, &job);
    }
    if (!enough) attention_undefined(args);
    cpu_scratch_give(d, job.scratch);
}
