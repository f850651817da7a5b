/* SPDX-License-Identifier: Apache-2.0
 *
 * Keys and values in fixed-size blocks with reference counts. A block that several sequences share
 * is never written: whoever has to append to it gets a copy first.
 */
#include <stdlib.h>

#include "model_internal.h"

struct kv_pool {
    device *dev;
    llava_dtype dtype;
    int64_t n_layers, n_kv_heads;
    int64_t row_elements; /* of one head's keys of one token: head_dim, with I8 the scale too */
    size_t half_bytes;    /* one layer's keys (or values) of a block */
    size_t block_bytes;
    uint8_t *memory; /* n_blocks * block_bytes, device */
    int64_t n_blocks, n_free;
    int32_t *references; /* per block; 0: free */
    int32_t *free_list;  /* the first n_free entries are free blocks */
    void *bounce;        /* one head of one block, host: copies between blocks pass through it */
};

llava_dtype kv_dtype_of(const llava_model *model) {
    return model->kv_dtype == LLAVA_DTYPE_DEFAULT ? model->compute : model->kv_dtype;
}

/** Elements of the cache's type from one token's keys to the next one's (kv_view, I8). */
static int64_t row_elements(const llava_model *model) {
    const int64_t scale = kv_dtype_of(model) == LLAVA_DTYPE_I8 ? (int64_t)sizeof(float) : 0;
    return model->config->lm.head_dim + scale;
}

/** Bytes of one head's keys in a block; false when sizes overflow. */
static bool head_block_bytes(const llava_model *model, size_t *n_bytes) {
    return model->config->lm.head_dim > 0 && size_mul((size_t)row_elements(model) * KV_BLOCK_TOKENS,
                                                      dtype_size(kv_dtype_of(model)), n_bytes);
}

size_t kv_bytes_per_token(const llava_model *model) {
    const lm_config *lm = &model->config->lm;
    return (size_t)lm->n_layers * 2 * (size_t)lm->n_kv_heads * (size_t)row_elements(model) *
           dtype_size(kv_dtype_of(model));
}

static llava_status pool_allocate(kv_pool *pool, size_t head_bytes, llava_error *err) {
    size_t total;
    if (!size_mul(head_bytes, (size_t)pool->n_kv_heads, &pool->half_bytes) ||
        !size_mul(pool->half_bytes, 2 * (size_t)pool->n_layers, &pool->block_bytes) ||
        !size_mul(pool->block_bytes, (size_t)pool->n_blocks, &total))
        return llava_fail(err, LLAVA_OUT_OF_MEMORY, "the KV cache's size overflows");
    pool->references = array_new((size_t)pool->n_blocks, sizeof *pool->references);
    pool->free_list = array_new((size_t)pool->n_blocks, sizeof *pool->free_list);
    pool->bounce = aligned_new(head_bytes);
    if (!pool->references || !pool->free_list || !pool->bounce)
        return llava_fail_memory(err, (size_t)pool->n_blocks * 8, "KV block lists");
    pool->memory = pool->dev->ops->alloc(pool->dev, total ? total : 1);
    if (!pool->memory) return llava_fail_memory(err, total, "the KV cache");
    pool->n_free = pool->n_blocks;
    for (int64_t i = 0; i < pool->n_blocks; i++)
        pool->free_list[i] = (int32_t)(pool->n_blocks - 1 - i);
    return LLAVA_OK;
}

llava_status kv_pool_new(const llava_model *model, int64_t n_tokens, kv_pool **out,
                         llava_error *err) {
    *out = NULL;
    size_t head_bytes;
    if (n_tokens < 1 || n_tokens > (int64_t)INT32_MAX * KV_BLOCK_TOKENS / 2)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "a KV cache of %lld tokens cannot be made",
                          (long long)n_tokens);
    if (!head_block_bytes(model, &head_bytes))
        return llava_fail(err, LLAVA_OUT_OF_MEMORY, "the KV cache's size overflows");
    kv_pool *pool = array_new(1, sizeof *pool);
    if (!pool) return llava_fail_memory(err, sizeof *pool, "the KV cache");
    pool->dev = model->dev;
    pool->dtype = kv_dtype_of(model);
    pool->n_layers = model->config->lm.n_layers;
    pool->n_kv_heads = model->config->lm.n_kv_heads;
    pool->row_elements = row_elements(model);
    pool->n_blocks = ceil_div(n_tokens, KV_BLOCK_TOKENS);
    const llava_status status = pool_allocate(pool, head_bytes, err);
    if (status != LLAVA_OK)
        kv_pool_free(&pool);
    else
        *out = pool;
    return status;
}

void kv_pool_free(kv_pool **pool) {
    if (!pool || !*pool) return;
    kv_pool *p = *pool;
    if (p->memory) p->dev->ops->release(p->dev, p->memory);
    free(p->references);
    free(p->free_list);
    free(p->bounce);
    free(p);
    *pool = NULL;
}

int64_t kv_pool_free_blocks(const kv_pool *pool) { return pool->n_free; }

static int32_t block_acquire(kv_pool *pool) {
    const int32_t block = pool->free_list[--pool->n_free];
    pool->references[block] = 1;
    return block;
}

static void block_release(kv_pool *pool, int32_t block) {
    if (--pool->references[block] == 0) pool->free_list[pool->n_free++] = block;
}

/** Copies the first n_tokens positions of a block: every layer, keys and values, every head. */
static void block_copy(kv_pool *pool, int32_t dst, int32_t src, int64_t n_tokens) {
    const device_ops *ops = pool->dev->ops;
    const size_t row = (size_t)pool->row_elements * dtype_size(pool->dtype);
    const size_t head = row * KV_BLOCK_TOKENS, used = row * (size_t)n_tokens;
    uint8_t *to = pool->memory + (size_t)dst * pool->block_bytes;
    const uint8_t *from = pool->memory + (size_t)src * pool->block_bytes;
    for (size_t offset = 0; offset < pool->block_bytes; offset += head) {
        ops->download(pool->dev, pool->bounce, from + offset, used);
        ops->upload(pool->dev, to + offset, pool->bounce, used);
    }
}

llava_status kv_sequence_new(kv_pool *pool, int64_t max_tokens, kv_sequence *seq,
                             llava_error *err) {
    *seq = (kv_sequence){0};
    if (max_tokens < 1)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "a sequence of %lld tokens cannot be made",
                          (long long)max_tokens);
    const int64_t capacity = i64_min(ceil_div(max_tokens, KV_BLOCK_TOKENS), pool->n_blocks);
    int32_t *blocks = array_new((size_t)capacity, sizeof *blocks);
    if (!blocks) return llava_fail_memory(err, (size_t)capacity * sizeof *blocks, "a sequence");
    *seq = (kv_sequence){.pool = pool, .blocks = blocks, .capacity = capacity};
    return LLAVA_OK;
}

void kv_sequence_free(kv_sequence *seq) {
    if (!seq || !seq->pool) return;
    kv_sequence_truncate(seq, 0);
    free(seq->blocks);
    *seq = (kv_sequence){0};
}

/** The partly filled block that an append would write to and others still use; -1: none. */
static int64_t shared_tail(const kv_sequence *seq) {
    const int64_t tail = seq->n_tokens / KV_BLOCK_TOKENS;
    const bool partial = seq->n_tokens % KV_BLOCK_TOKENS != 0;
    return partial && seq->pool->references[seq->blocks[tail]] > 1 ? tail : -1;
}

llava_status kv_sequence_reserve(kv_sequence *seq, int64_t n, llava_error *err) {
    kv_pool *pool = seq->pool;
    if (n < 0) return llava_fail(err, LLAVA_BAD_ARGUMENT, "room for %lld tokens", (long long)n);
    const int64_t limit = seq->capacity * KV_BLOCK_TOKENS;
    if (n > limit - seq->n_tokens)
        return llava_fail(err, LLAVA_CONTEXT_FULL,
                          "the sequence has %lld tokens and may have %lld; %lld more do not fit",
                          (long long)seq->n_tokens, (long long)limit, (long long)n);
    if (n == 0) return LLAVA_OK;
    const int64_t tail = shared_tail(seq);
    const int64_t needed = ceil_div(seq->n_tokens + n, KV_BLOCK_TOKENS);
    const int64_t extra = i64_max(needed - seq->n_blocks, 0) + (tail >= 0);
    if (extra > pool->n_free)
        return llava_fail(err, LLAVA_CONTEXT_FULL,
                          "the KV cache has %lld free blocks of %d tokens, %lld are needed",
                          (long long)pool->n_free, KV_BLOCK_TOKENS, (long long)extra);
    if (tail >= 0) {
        const int32_t shared = seq->blocks[tail], own = block_acquire(pool);
        block_copy(pool, own, shared, seq->n_tokens % KV_BLOCK_TOKENS);
        block_release(pool, shared);
        seq->blocks[tail] = own;
    }
    while (seq->n_blocks < needed) seq->blocks[seq->n_blocks++] = block_acquire(pool);
    return LLAVA_OK;
}

void kv_sequence_truncate(kv_sequence *seq, int64_t n_tokens) {
    seq->n_tokens = i64_max(0, i64_min(n_tokens, seq->n_tokens));
    const int64_t kept = ceil_div(seq->n_tokens, KV_BLOCK_TOKENS);
    while (seq->n_blocks > kept) block_release(seq->pool, seq->blocks[--seq->n_blocks]);
}

llava_status kv_sequence_share(kv_sequence *dst, const kv_sequence *src, llava_error *err) {
    if (dst == src) return LLAVA_OK;
    if (dst->pool != src->pool)
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "sequences of different KV caches share nothing");
    const int64_t n_blocks = ceil_div(src->n_tokens, KV_BLOCK_TOKENS);
    if (n_blocks > dst->capacity)
        return llava_fail(err, LLAVA_CONTEXT_FULL,
                          "a sequence of at most %lld tokens cannot hold %lld",
                          (long long)(dst->capacity * KV_BLOCK_TOKENS), (long long)src->n_tokens);
    /* first take, then give back: dst may hold the last reference to blocks of src */
    for (int64_t i = 0; i < n_blocks; i++) src->pool->references[src->blocks[i]]++;
    kv_sequence_truncate(dst, 0);
    memcpy(dst->blocks, src->blocks, (size_t)n_blocks * sizeof *dst->blocks);
    dst->n_blocks = n_blocks;
    dst->n_tokens = src->n_tokens;
    return LLAVA_OK;
}

bool kv_sequence_has_room(const kv_sequence *seq, int64_t n) {
    return n <= seq->n_blocks * KV_BLOCK_TOKENS - seq->n_tokens && shared_tail(seq) < 0;
}

void kv_sequence_views(const kv_sequence *seq, int64_t layer, void **k_blocks, void **v_blocks,
                       kv_view *k, kv_view *v) {
    const kv_pool *pool = seq->pool;
    uint8_t *keys = pool->memory + (size_t)layer * 2 * pool->half_bytes;
    for (int64_t i = 0; i < seq->n_blocks; i++) {
        uint8_t *block = keys + (size_t)seq->blocks[i] * pool->block_bytes;
        k_blocks[i] = block;
        v_blocks[i] = block + pool->half_bytes;
    }
    *k = (kv_view){.blocks = k_blocks,
                   .block_size = KV_BLOCK_TOKENS,
                   .token_stride = pool->row_elements,
                   .head_stride = pool->row_elements * KV_BLOCK_TOKENS,
                   .dtype = pool->dtype};
    *v = *k;
    v->blocks = v_blocks;
}
