/* SPDX-License-Identifier: Apache-2.0
 *
 * W' = W + s B A in float32, rounded once afterwards. peft 0.10 rounds A, B and the product to the
 * base's type as well; one rounding is closer to what was trained. DoRA (peft's
 * dora.py): row o of W' is then scaled to the length m_o.
 */
#include <math.h>
#include <stdlib.h>

#include "load_plan.h"

#define ROWS_AT_ONCE 64

typedef struct merge_job {
    const weight *w;
    const lora_module *lora;
    const float *a;         /* [r, cols]; embeddings: [r, all rows] */
    const float *b;         /* [all rows, r]; embeddings: [cols, r] */
    const float *magnitude; /* [all rows] or NULL */
    int64_t rank, first_row, a_cols;
    float *merged;
} merge_job;

static void add_product(const merge_job *job, int64_t row, float *out) {
    const int64_t n = job->w->n_cols, o = job->first_row + row;
    if (job->lora->embedding_a) {
        for (int64_t i = 0; i < n; i++) {
            float sum = 0;
            for (int64_t r = 0; r < job->rank; r++)
                sum += job->a[r * job->a_cols + o] * job->b[i * job->rank + r];
            out[i] += job->lora->scale * sum;
        }
        return;
    }
    for (int64_t r = 0; r < job->rank; r++) {
        const float factor = job->lora->scale * job->b[o * job->rank + r];
        const float *a = job->a + r * job->a_cols;
        for (int64_t i = 0; i < n; i++) out[i] += factor * a[i];
    }
}

static void scale_to_magnitude(const merge_job *job, int64_t row, float *out) {
    double squares = 0;
    for (int64_t i = 0; i < job->w->n_cols; i++) squares += (double)out[i] * out[i];
    const float factor = job->magnitude[job->first_row + row] / (float)sqrt(squares);
    for (int64_t i = 0; i < job->w->n_cols; i++) out[i] *= factor;
}

static void merge_rows(void *user, int64_t index) {
    const merge_job *job = user;
    const weight *w = job->w;
    const int64_t end = i64_min((index + 1) * ROWS_AT_ONCE, w->n_rows);
    const size_t row_bytes = (size_t)w->n_cols * dtype_size(w->dtype);
    for (int64_t row = index * ROWS_AT_ONCE; row < end; row++) {
        float *out = job->merged + row * w->n_cols;
        tensor_cast(out, LLAVA_DTYPE_F32, (const uint8_t *)w->data + (size_t)row * row_bytes,
                    w->dtype, (size_t)w->n_cols);
        add_product(job, row, out);
        if (job->magnitude) scale_to_magnitude(job, row, out);
    }
}

static float *widened(const tensor *t) {
    const size_t count = (size_t)tensor_count(t);
    float *values = array_new(count, sizeof *values);
    if (values) tensor_cast(values, LLAVA_DTYPE_F32, t->data, t->dtype, count);
    return values;
}

static llava_status check_shapes(const bind_entry *e, llava_error *err) {
    const lora_module *l = e->lora;
    const bool embedding = l->embedding_a != NULL;
    const tensor *a = embedding ? l->embedding_a : l->a, *b = embedding ? l->embedding_b : l->b;
    const int64_t rows = e->found->t.shape[0], cols = e->dst->n_cols;
    const int64_t from_a = tensor_count(a) / a->shape[0];
    const int64_t wanted_a = embedding ? rows : cols, wanted_b = embedding ? cols : rows;
    if (from_a != wanted_a || b->shape[0] != wanted_b)
        return llava_fail(err, LLAVA_MALFORMED,
                          "adapter module %s: expected a change of [%lld, %lld], got [%lld, %lld]",
                          l->module, (long long)rows, (long long)cols,
                          (long long)(embedding ? from_a : b->shape[0]),
                          (long long)(embedding ? b->shape[0] : from_a));
    if (l->magnitude && embedding)
        return llava_fail(err, LLAVA_UNSUPPORTED, "adapter module %s: DoRA on an embedding",
                          l->module);
    if (l->magnitude &&
        (tensor_count(l->magnitude) != rows || !dtype_is_float(l->magnitude->dtype)))
        return llava_fail(err, LLAVA_MALFORMED,
                          "adapter module %s: expected a magnitude of %lld values, got %lld",
                          l->module, (long long)rows, (long long)tensor_count(l->magnitude));
    return LLAVA_OK;
}

llava_status merge_lora(const llava_model *model, const bind_entry *e, float *merged,
                        llava_error *err) {
    const lora_module *l = e->lora;
    LLAVA_TRY(check_shapes(e, err));
    const tensor *a = l->embedding_a ? l->embedding_a : l->a;
    float *wide_a = widened(a), *wide_b = widened(l->embedding_a ? l->embedding_b : l->b);
    float *magnitude = l->magnitude ? widened(l->magnitude) : NULL;
    llava_status status = LLAVA_OK;
    if (wide_a && wide_b && (magnitude || !l->magnitude)) {
        merge_job job = {.w = e->dst,
                         .lora = l,
                         .a = wide_a,
                         .b = wide_b,
                         .magnitude = magnitude,
                         .rank = a->shape[0],
                         .first_row = e->first_row,
                         .a_cols = tensor_count(a) / a->shape[0],
                         .merged = merged};
        parallel_for(model->dev->n_threads, ceil_div(e->dst->n_rows, ROWS_AT_ONCE), merge_rows,
                     &job);
    } else {
        status = llava_fail_memory(err, (size_t)tensor_count(a) * sizeof(float), l->module);
    }
    free(wide_a);
    free(wide_b);
    free(magnitude);
    return status;
}
