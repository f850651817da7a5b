/* SPDX-License-Identifier: Apache-2.0
 *
 * The stages by themselves: tower and projector, prompt, generating.
 */
#include <stdlib.h>

#include "bench.h"
#include "generate/generate.h"
#include "model/model_internal.h"

/* ---------------------------------------------------------------- tower */

typedef struct tower_buffers {
    float *pixels, *features, *projected;
} tower_buffers;

static llava_status run_tower(bench *b, void *user, llava_error *err) {
    const tower_buffers *t = user;
    LLAVA_TRY(model_run_tower(b->model, t->pixels, b->size, t->features, err));
    return model_project(b->model, t->features, b->size, t->projected, err);
}

static float *random_floats(size_t count) {
    float *values = array_new(count, sizeof *values);
    uint32_t state = 1;
    for (size_t i = 0; values && i < count; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = (float)(state >> 8) * 0x1p-23f - 1;
    }
    return values;
}

llava_status bench_towers(bench *b, const bench_sizes *tiles, llava_error *err) {
    const llava_model *model = b->model;
    if (!model->config->multimodal) return LLAVA_OK;
    int64_t most = 0, tokens, width;
    for (int i = 0; i < tiles->count; i++) most = i64_max(most, tiles->items[i]);
    model_tower_shape(model, &tokens, &width);
    const int64_t rows = most * model_projected_tokens(model), view = tower_view_size(model);
    tower_buffers t = {
        .pixels = random_floats((size_t)(most * 3 * view * view)),
        .features = array_new((size_t)(most * tokens * width), sizeof(float)),
        .projected = array_new((size_t)(rows * model->config->lm.hidden_size), sizeof(float)),
    };
    llava_status status = LLAVA_OK;
    if (!t.pixels || !t.features || !t.projected)
        status = llava_fail_memory(err, (size_t)(most * tokens * width) * 4, "tiles");
    for (int i = 0; i < tiles->count && status == LLAVA_OK; i++) {
        const bench_subject s = {.name = "tower",
                                 .unit = "tiles",
                                 .size = tiles->items[i],
                                 .n_units = (double)tiles->items[i],
                                 .work = bench_tower_work(model, tiles->items[i]),
                                 .kind = bench_arithmetic(model),
                                 .run = run_tower,
                                 .user = &t};
        status = bench_measure(b, &s, err);
    }
    free(t.pixels);
    free(t.features);
    free(t.projected);
    return status;
}

/* ---------------------------------------------------------------- decoder */

llava_status bench_open(bench *b, int64_t max_tokens, llava_error *err) {
    const llava_model *model = b->model;
    const size_t hidden = (size_t)model->config->lm.hidden_size;
    b->rows = array_new(STEP_ROWS * hidden, sizeof *b->rows);
    b->logits = array_new((size_t)model->n_vocab, sizeof *b->logits);
    if (!b->rows || !b->logits)
        return llava_fail_memory(err, STEP_ROWS * hidden * sizeof *b->rows, "rows");
    LLAVA_TRY(kv_pool_new(model, max_tokens, &b->pool, err));
    LLAVA_TRY(kv_sequence_new(b->pool, max_tokens, &b->sequence, err));
    return decoder_scratch_new(model, STEP_ROWS, 1, max_tokens, &b->scratch, err);
}

void bench_close(bench *b) {
    decoder_scratch_free(&b->scratch);
    kv_sequence_free(&b->sequence);
    kv_pool_free(&b->pool);
    free(b->rows);
    free(b->logits);
    b->rows = b->logits = NULL;
}

/** Rows [first, first + n) of picture and random tokens into b->rows. */
static llava_status make_rows(bench *b, const float *picture, int64_t n_picture, int64_t first,
                              int64_t n, llava_error *err) {
    const int64_t hidden = b->model->config->lm.hidden_size;
    int32_t tokens[STEP_ROWS];
    const int64_t from_picture = i64_max(0, i64_min(n, n_picture - first));
    if (from_picture > 0)
        memcpy(b->rows, picture + first * hidden,
               (size_t)(from_picture * hidden) * sizeof *b->rows);
    for (int64_t i = from_picture; i < n; i++)
        tokens[i] = (int32_t)((first + i) * 7919 % i64_min(b->model->n_vocab, INT32_MAX));
    return model_embed_tokens(b->model, tokens + from_picture, n - from_picture,
                              b->rows + from_picture * hidden, err);
}

static llava_status step(bench *b, int64_t n, bool generated, bool last, llava_error *err) {
    decoder_item item = {.seq = &b->sequence,
                         .rows = b->rows,
                         .n_rows = n,
                         .generated = generated,
                         .n_logits = last,
                         .logits = b->logits};
    LLAVA_TRY(kv_sequence_reserve(&b->sequence, n, err));
    return decoder_step(b->model, b->scratch, &item, 1, err);
}

llava_status bench_feed(bench *b, const float *picture, int64_t n_picture, int64_t n_tokens,
                        llava_error *err) {
    const int64_t total = n_picture + n_tokens;
    for (int64_t first = 0, n; first < total; first += n) {
        n = i64_min(STEP_ROWS, total - first);
        LLAVA_TRY(make_rows(b, picture, n_picture, first, n, err));
        LLAVA_TRY(step(b, n, false, first + n == total, err));
    }
    return LLAVA_OK;
}

llava_status bench_token(bench *b, llava_error *err) {
    const int32_t id = sampler_argmax(b->logits, b->model->n_vocab);
    LLAVA_TRY(model_embed_tokens(b->model, &id, 1, b->rows, err));
    return step(b, 1, true, true, err);
}

static llava_status run_prompt(bench *b, void *user, llava_error *err) {
    (void)user;
    kv_sequence_truncate(&b->sequence, 0);
    return bench_feed(b, NULL, 0, b->size, err);
}

llava_status bench_prompts(bench *b, const bench_sizes *lengths, llava_error *err) {
    for (int i = 0; i < lengths->count; i++) {
        const int64_t n = lengths->items[i];
        LLAVA_TRY(bench_measure(b,
                                &(bench_subject){.name = "prompt",
                                                 .unit = "tokens",
                                                 .size = n,
                                                 .n_units = (double)n,
                                                 .work = bench_prompt_work(b->model, n),
                                                 .kind = bench_arithmetic(b->model),
                                                 .run = run_prompt},
                                err));
    }
    return LLAVA_OK;
}

/** A cache of n tokens, filled with random keys and values: computing them would take longer than
 *  everything else here. */
static llava_status fill_cache(bench *b, int64_t n, llava_error *err) {
    const lm_config *lm = &b->model->config->lm;
    const int64_t width = lm->n_kv_heads * lm->head_dim;
    decoder_scratch *s = b->scratch;
    kv_sequence_truncate(&b->sequence, 0);
    LLAVA_TRY(kv_sequence_reserve(&b->sequence, n, err));
    float *rows = random_floats((size_t)(STEP_ROWS * width));
    if (!rows) return llava_fail_memory(err, (size_t)(STEP_ROWS * width) * 4, "keys");
    for (int64_t l = 0; l < lm->n_layers; l++) {
        kv_view views[2];
        kv_sequence_views(&b->sequence, l, s->k_blocks, s->v_blocks, &views[0], &views[1]);
        for (int64_t first = 0; first < n; first += STEP_ROWS)
            for (int v = 0; v < 2; v++)
                s->dev->ops->kv_store(s->dev,
                                      &(kv_store_args){.x = rows,
                                                       .x_stride = width,
                                                       .n_rows = i64_min(STEP_ROWS, n - first),
                                                       .n_kv_heads = lm->n_kv_heads,
                                                       .head_dim = lm->head_dim,
                                                       .first_position = first,
                                                       .view = views[v]});
    }
    free(rows);
    b->sequence.n_tokens = n;
    return LLAVA_OK;
}

static llava_status run_tokens(bench *b, void *user, llava_error *err) {
    (void)user;
    kv_sequence_truncate(&b->sequence, b->size);
    for (int i = 0; i < BENCH_ANSWER; i++) LLAVA_TRY(bench_token(b, err));
    return LLAVA_OK;
}

llava_status bench_decodes(bench *b, const bench_sizes *contexts, llava_error *err) {
    for (int i = 0; i < contexts->count; i++) {
        const int64_t n = contexts->items[i];
        LLAVA_TRY(fill_cache(b, n, err));
        double n_bytes = 0;
        for (int t = 0; t < BENCH_ANSWER; t++) n_bytes += bench_token_bytes(b->model, n + t + 1);
        LLAVA_TRY(bench_measure(b,
                                &(bench_subject){.name = "decode",
                                                 .unit = "context",
                                                 .size = n,
                                                 .n_units = BENCH_ANSWER,
                                                 .work = n_bytes,
                                                 .kind = LIMIT_READ,
                                                 .run = run_tokens},
                                err));
    }
    return LLAVA_OK;
}
