/* SPDX-License-Identifier: Apache-2.0
 *
 * A model of any shape without a checkpoint: the tensors that a configuration asks for, filled with
 * random numbers of a size that keeps activations tame. For measuring speed.
 */
#include "load_plan.h"

#define CHUNK ((int64_t)1 << 16) /* numbers a thread makes at a time */

typedef struct fill_job {
    uint8_t *dst;
    llava_dtype dtype;
    int64_t count;
    uint64_t seed;
    int exponent; /* magnitudes lie in [2^exponent, 2^(exponent + 1)) */
    bool norm;    /* from 1 up to 1 + 1/8 instead */
} fill_job;

/** A random sign and mantissa under one exponent. */
static float random_value(const fill_job *job, uint32_t bits) {
    const uint32_t sign = job->norm ? 0 : bits & 0x80000000u;
    const uint32_t mantissa = bits & (job->norm ? 0x000f0000u : 0x007f0000u);
    const uint32_t exponent = (uint32_t)(127 + (job->norm ? 0 : job->exponent)) << 23;
    return f32_from_bits(sign | exponent | mantissa);
}

static void fill_chunk(void *user, int64_t index) {
    const fill_job *job = user;
    const int64_t first = index * CHUNK, end = i64_min(first + CHUNK, job->count);
    uint64_t state = job->seed + (uint64_t)index * 0x9e3779b97f4a7c15u;
    for (int64_t i = first; i < end; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        const float value = random_value(job, (uint32_t)(state >> 32));
        if (job->dtype == LLAVA_DTYPE_F32)
            memcpy(job->dst + 4 * i, &value, sizeof value);
        else
            ((uint16_t *)job->dst)[i] =
                job->dtype == LLAVA_DTYPE_BF16 ? f32_to_bf16(value) : f32_to_f16(value);
    }
}

static bool ends_with(const char *text, const char *tail) {
    const size_t size = strlen(text), n = strlen(tail);
    return size >= n && strcmp(text + size - n, tail) == 0;
}

/** 2^e near 1 / sqrt(1.53^2 n_inputs), the root mean square of a value being 1.53 * 2^e: a product
 *  keeps the size of what goes in. */
static int exponent_for(int64_t n_inputs) {
    int e = 0;
    for (double scale = 1.53 * 1.53 * (double)n_inputs; scale > 1; scale /= 4) e--;
    return e < -12 ? -12 : e; /* normal numbers in float16, too */
}

static llava_status make_weight(load_plan *plan, size_t index) {
    llava_model *model = plan->model;
    const bind_entry *e = &plan->bind.entries[index];
    int64_t n_rows = e->n_dims == 1 ? 1 : e->shape[0], n_cols = 1;
    if (n_rows == BIND_ANY) n_rows = model->config->lm.vocab_size;
    if (e->n_rows) n_rows = e->n_rows;
    size_t n_bytes = dtype_size(model->compute);
    for (int i = e->n_dims == 1 ? 0 : 1; i < e->n_dims; i++) n_cols *= e->shape[i];
    if (n_rows < 1 || n_cols < 1 || !size_mul(n_bytes, (size_t)n_rows, &n_bytes) ||
        !size_mul(n_bytes, (size_t)n_cols, &n_bytes))
        return llava_fail(plan->err, LLAVA_MALFORMED, "%s: %lld x %lld is no size of a tensor",
                          e->suffix, (long long)n_rows, (long long)n_cols);
    void *memory = model->dev->ops->alloc(model->dev, n_bytes);
    if (!memory) return llava_fail_memory(plan->err, n_bytes, e->suffix);
    const bool vector = e->n_dims == 1;
    fill_job job = {.dst = memory,
                    .dtype = model->compute,
                    .count = n_rows * n_cols,
                    .seed = index + 1,
                    .exponent = vector ? -6 : exponent_for(n_cols),
                    .norm = vector && ends_with(e->suffix, ".weight")};
    parallel_for(model->dev->n_threads, ceil_div(job.count, CHUNK), fill_chunk, &job);
    *e->dst = (weight){model->compute, n_rows, n_cols, memory, NULL};
    if (e->n_rows || !quant_applies(&plan->quantize, &plan->bind, e)) {
        model->weight_bytes += n_bytes;
        return own_weight(model, memory, n_bytes, plan->err);
    }
    void *codes;
    const llava_status status =
        quantize_weight(model, &plan->bind, &plan->quantize, index, &codes, &n_bytes, plan->err);
    model->dev->ops->release(model->dev, memory);
    LLAVA_TRY(status);
    model->weight_bytes += weight_bytes(e->dst);
    return own_weight(model, codes, n_bytes, plan->err);
}

static llava_status make_weights(load_plan *plan) {
    const llava_load_options *o = plan->options;
    llava_model *model = plan->model;
    binder *b = &plan->bind;
    for (int g = 0; g < BIND_GROUPS; g++) b->canonical[g] = ""; /* there are no files */
    bind_decoder(b, model);
    LLAVA_TRY(plan_find_tower(plan));
    if (model->config->multimodal) {
        bind_projector(b, model);
        bind_tower(b, model);
    }
    if (b->status != LLAVA_OK)
        return llava_fail(plan->err, b->status, "out of memory for tensor names");
    for (size_t i = 0; i < b->count; i++) {
        if (b->entries[i].optional) continue;
        LLAVA_TRY(make_weight(plan, i));
        if (o->progress && !o->progress(o->progress_user, i + 1, b->count, b->entries[i].suffix))
            return llava_fail(plan->err, LLAVA_CANCELLED, "making weights was cancelled");
    }
    if (model->config->lm.tie_word_embeddings) model->decoder.head = model->decoder.embed;
    model->n_vocab = model->n_stored_vocab = model->decoder.embed.n_rows;
    return LLAVA_OK;
}

llava_status load_dummy(const llava_load_options *options, llava_model **model,
                        llava_image_processor **processor, llava_error *err) {
    *model = NULL;
    *processor = NULL;
    load_plan plan;
    llava_status status = plan_open(&plan, options, err);
    LLAVA_TRY_DONE(status);
    LLAVA_TRY_DONE(plan_check_options(&plan));
    LLAVA_TRY_DONE(plan_read_config(&plan));
    const int n_threads = options->n_threads ? options->n_threads : processor_count();
    LLAVA_TRY_DONE(device_open_cpu(n_threads, options->cpu_level, &plan.model->dev, err));
    LLAVA_TRY_DONE(make_weights(&plan));
    LLAVA_TRY_DONE(plan_open_processor(&plan));
    *model = plan.model;
    *processor = plan.processor;
    plan.model = NULL;
    plan.processor = NULL;
done:
    plan_close(&plan);
    return status;
}
