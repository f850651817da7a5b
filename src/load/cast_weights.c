/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights whose stored format torch_dtype rules out, cast one tensor at a time. Everything else
 * stays mapped: the upcast of a narrower format is exact and happens in registers.
 */
#include <math.h>
#include <stdlib.h>

#include "load_plan.h"

#define CHUNK ((int64_t)1 << 18) /* elements a thread casts at a time */

llava_dtype cast_target(llava_dtype compute, llava_dtype stored) {
    if (compute == LLAVA_DTYPE_BF16) return LLAVA_DTYPE_BF16;
    if (stored == LLAVA_DTYPE_F16 || stored == LLAVA_DTYPE_BF16) return stored;
    return compute == LLAVA_DTYPE_F16 ? LLAVA_DTYPE_F16 : LLAVA_DTYPE_F32;
}

typedef struct cast_job {
    uint8_t *dst;
    const uint8_t *src;
    llava_dtype to, from;
    int64_t count;
    uint64_t *overflows; /* one for each chunk */
} cast_job;

static bool is_infinite_f16(const uint8_t *value) {
    uint16_t bits;
    memcpy(&bits, value, sizeof bits);
    return (bits & 0x7fffu) == 0x7c00u;
}

/** Values that the narrower format turned into infinities. */
static uint64_t count_overflows(const cast_job *job, int64_t first, int64_t n) {
    uint64_t count = 0;
    if (job->to != LLAVA_DTYPE_F16) return 0;
    const size_t step = dtype_size(job->from);
    for (int64_t i = first; i < first + n; i++) {
        if (!is_infinite_f16(job->dst + 2 * i)) continue;
        float value;
        tensor_cast(&value, LLAVA_DTYPE_F32, job->src + (size_t)i * step, job->from, 1);
        count += isfinite(value);
    }
    return count;
}

static void cast_chunk(void *user, int64_t index) {
    const cast_job *job = user;
    const int64_t first = index * CHUNK, n = i64_min(CHUNK, job->count - first);
    tensor_cast(job->dst + (size_t)first * dtype_size(job->to), job->to,
                job->src + (size_t)first * dtype_size(job->from), job->from, (size_t)n);
    job->overflows[index] = count_overflows(job, first, n);
}

llava_status own_weight(llava_model *model, void *memory, size_t n_bytes, llava_error *err) {
    if (model->n_owned == model->owned_capacity) {
        const size_t capacity = model->owned_capacity ? 2 * model->owned_capacity : 64;
        void **owned = realloc(model->owned, capacity * sizeof *owned);
        if (!owned) {
            model->dev->ops->release(model->dev, memory);
            return llava_fail_memory(err, capacity * sizeof *owned, "a list of weights");
        }
        model->owned = owned;
        model->owned_capacity = capacity;
    }
    model->owned[model->n_owned++] = memory;
    model->owned_bytes += n_bytes;
    return LLAVA_OK;
}

static llava_status cast_one(llava_model *model, weight *w, const char *name, uint64_t *overflows,
                             llava_error *err) {
    const llava_dtype to = cast_target(model->compute, w->dtype);
    const int64_t count = w->n_rows * w->n_cols, n_chunks = ceil_div(count, CHUNK);
    const size_t n_bytes = (size_t)count * dtype_size(to);
    uint8_t *memory = model->dev->ops->alloc(model->dev, n_bytes);
    if (!memory) return llava_fail_memory(err, n_bytes, name);
    LLAVA_TRY(own_weight(model, memory, n_bytes, err));
    cast_job job = {.dst = memory,
                    .src = w->data,
                    .to = to,
                    .from = w->dtype,
                    .count = count,
                    .overflows = array_new((size_t)n_chunks, sizeof *job.overflows)};
    if (!job.overflows) return llava_fail_memory(err, (size_t)n_chunks * 8, "a cast");
    parallel_for(model->dev->n_threads, n_chunks, cast_chunk, &job);
    for (int64_t i = 0; i < n_chunks; i++) *overflows += job.overflows[i];
    free(job.overflows);
    w->data = memory;
    w->dtype = to;
    return LLAVA_OK;
}

void forget_stored(const llava_model *model, const void *stored, size_t n_bytes) {
    for (size_t i = 0; i < LLAVA_COUNT(model->files); i++)
        if (model->files[i]) checkpoint_forget(model->files[i], stored, n_bytes);
    for (size_t i = 0; model->overlay && i < LLAVA_COUNT(model->overlay->files); i++)
        if (model->overlay->files[i]) checkpoint_forget(model->overlay->files[i], stored, n_bytes);
}

static void forget_adapter(const llava_model *model, const lora_module *l) {
    const tensor *parts[] = {l->a, l->b, l->embedding_a, l->embedding_b};
    for (size_t i = 0; i < LLAVA_COUNT(parts); i++)
        if (parts[i]) forget_stored(model, parts[i]->data, parts[i]->n_bytes);
}

/** Where rows are merged in float32 before they are rounded: one piece for all weights, since
 * pieces of many sizes that come and go between the finished weights would leave holes. */
static llava_status merge_memory(llava_model *model, const binder *b,
                                 const quant_settings *settings, float **memory, llava_error *err) {
    size_t largest = 0;
    *memory = NULL;
    if (model->compute == LLAVA_DTYPE_F32) return LLAVA_OK; /* the sums are the weights */
    for (size_t i = 0; i < b->count; i++) {
        const weight *w = b->entries[i].dst;
        if (!b->entries[i].found || !b->entries[i].lora) continue;
        if (settings && quant_applies(settings, b, &b->entries[i])) continue;
        const size_t n_bytes = (size_t)w->n_rows * (size_t)w->n_cols * sizeof(float);
        if (n_bytes > largest) largest = n_bytes;
    }
    if (largest == 0) return LLAVA_OK;
    *memory = model->dev->ops->alloc(model->dev, largest);
    return *memory ? LLAVA_OK : llava_fail_memory(err, largest, "merging an adapter");
}

/** The type a merged weight is kept in: torch_dtype, rounded to once. */
static llava_status merge_one(llava_model *model, const bind_entry *e, float *memory,
                              uint64_t *overflows, llava_error *err) {
    weight *w = e->dst;
    const weight stored = *w;
    const size_t n_bytes = (size_t)w->n_rows * (size_t)w->n_cols * sizeof(float);
    float *merged = memory ? memory : model->dev->ops->alloc(model->dev, n_bytes);
    if (!merged) return llava_fail_memory(err, n_bytes, e->suffix);
    if (!memory) LLAVA_TRY(own_weight(model, merged, n_bytes, err));
    LLAVA_TRY(merge_lora(model, e, merged, err));
    *w = (weight){
        .dtype = LLAVA_DTYPE_F32, .n_rows = w->n_rows, .n_cols = w->n_cols, .data = merged};
    forget_stored(model, stored.data, weight_bytes(&stored));
    forget_adapter(model, e->lora);
    return memory ? cast_one(model, w, e->suffix, overflows, err) : LLAVA_OK;
}

static llava_status note_overflows(llava_model *model, uint64_t overflows, llava_error *err) {
    if (overflows == 0) return LLAVA_OK;
    const char *value =
        arena_printf(model->memory, "%llu values became infinite", (unsigned long long)overflows);
    if (!value) return llava_fail_memory(err, 0, "a decision");
    return config_note(model->config, "float16", value,
                       "the stored weights hold values beyond 65504; bfloat16 or float32 keep them",
                       err);
}

/** Casts a mapped weight; only the result stays resident, as llava_inspect() foresees it. */
static llava_status cast_mapped(llava_model *model, const bind_entry *e, uint64_t *overflows,
                                llava_error *err) {
    const void *stored = e->dst->data;
    const size_t n_bytes = weight_bytes(e->dst);
    LLAVA_TRY(cast_one(model, e->dst, e->suffix, overflows, err));
    forget_stored(model, stored, n_bytes);
    return LLAVA_OK;
}

/** Brings entry i into its final form; a matrix with several entries at its first one. */
static llava_status convert_one(llava_model *model, const binder *b, const quant_settings *settings,
                                size_t i, float *memory, uint64_t *overflows, llava_error *err) {
    const bind_entry *e = &b->entries[i];
    if (settings && quant_applies(settings, b, e)) {
        void *made;
        size_t n_bytes;
        LLAVA_TRY(quantize_weight(model, b, settings, i, &made, &n_bytes, err));
        return own_weight(model, made, n_bytes, err);
    }
    if (e->dst->quant) return LLAVA_OK;
    if (e->lora) return merge_one(model, e, memory, overflows, err);
    if (cast_target(model->compute, e->dst->dtype) == e->dst->dtype) return LLAVA_OK;
    return cast_mapped(model, e, overflows, err);
}

static llava_status cast_entries(llava_model *model, const binder *b,
                                 const quant_settings *settings, float *memory,
                                 const llava_load_options *options, llava_error *err) {
    uint64_t total = 0, done = 0, overflows = 0;
    for (size_t i = 0; i < b->count; i++)
        if (b->entries[i].found) total += weight_bytes(b->entries[i].dst);
    for (size_t i = 0; i < b->count; i++) {
        const bind_entry *e = &b->entries[i];
        if (!e->found) continue;
        const uint64_t stored = weight_bytes(e->dst);
        LLAVA_TRY(convert_one(model, b, settings, i, memory, &overflows, err));
        model->weight_bytes += weight_bytes(e->dst);
        done += stored;
        if (options->progress &&
            !options->progress(options->progress_user, done, total, e->found->name))
            return llava_fail(err, LLAVA_CANCELLED, "loading was cancelled at tensor %s",
                              e->found->name);
    }
    return note_overflows(model, overflows, err);
}

llava_status cast_weights(llava_model *model, const binder *b, const quant_settings *settings,
                          const llava_load_options *options, llava_error *err) {
    float *memory;
    LLAVA_TRY(merge_memory(model, b, settings, &memory, err));
    const llava_status status = cast_entries(model, b, settings, memory, options, err);
    model->dev->ops->release(model->dev, memory);
    return status;
}
