/* SPDX-License-Identifier: Apache-2.0
 *
 * Decoder steps: every family against the naive forward pass, and what must not matter: batch,
 * threads, how a prompt is cut, which logits are asked for. A step allocates nothing.
 */
#include <math.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdlib.h>

#include <cmocka.h>

#include "model_fixture.h"

#define N_ROWS     13
#define MAX_TOKENS 200
#define INT8_ERROR                                                                                 \
    0.15 /* logits over an int8 cache; 0.043 (float32) and 0.051 (bfloat16) measured */

/* ---------------------------------------------------------------- allocation counter */

static int n_allocations;
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);

void *__wrap_malloc(size_t size) {
    n_allocations++;
    return __real_malloc(size);
}
void *__wrap_calloc(size_t count, size_t size) {
    n_allocations++;
    return __real_calloc(count, size);
}
void *__wrap_realloc(void *memory, size_t size) {
    n_allocations++;
    return __real_realloc(memory, size);
}
void *__wrap_aligned_alloc(size_t alignment, size_t size) {
    n_allocations++;
    return __real_aligned_alloc(alignment, size);
}

/* ---------------------------------------------------------------- an engine for one test */

typedef struct engine {
    llava_model *model;
    kv_pool *pool;
    decoder_scratch *scratch;
} engine;

static engine open_engine(arch a, int n_threads, llava_dtype compute, const char *level) {
    engine e = {.model = fixture_decoder(a, n_threads, compute, level)};
    llava_error err = {0};
    if (kv_pool_new(e.model, 8 * MAX_TOKENS, &e.pool, &err) != LLAVA_OK ||
        decoder_scratch_new(e.model, 64, 64, MAX_TOKENS, &e.scratch, &err) != LLAVA_OK)
        fail_msg("%s", err.message);
    return e;
}

static void close_engine(engine *e) {
    decoder_scratch_free(&e->scratch);
    kv_pool_free(&e->pool);
    model_free(&e->model);
}

static kv_sequence open_sequence(engine *e) {
    kv_sequence seq;
    assert_int_equal(kv_sequence_new(e->pool, MAX_TOKENS, &seq, NULL), LLAVA_OK);
    return seq;
}

static void step(engine *e, decoder_item *items, size_t n_items) {
    llava_error err = {0};
    for (size_t i = 0; i < n_items; i++)
        assert_int_equal(kv_sequence_reserve(items[i].seq, items[i].n_rows, NULL), LLAVA_OK);
    if (decoder_step(e->model, e->scratch, items, n_items, &err) != LLAVA_OK)
        fail_msg("%s", err.message);
}

/** Logits of all rows, fed in pieces of `piece` rows, generated or not. */
static float *run_pieces(engine *e, const float *rows, int64_t n, int64_t piece, bool generated) {
    const int64_t width = e->model->config->lm.hidden_size, vocab = e->model->n_vocab;
    float *logits = calloc((size_t)(n * vocab), sizeof *logits);
    kv_sequence seq = open_sequence(e);
    for (int64_t i = 0; i < n; i += piece) {
        const int64_t m = i64_min(piece, n - i);
        decoder_item item = {.seq = &seq,
                             .rows = rows + i * width,
                             .n_rows = m,
                             .generated = generated,
                             .n_logits = m,
                             .logits = logits + i * vocab,
                             .rope_length = n};
        step(e, &item, 1);
    }
    assert_int_equal(seq.n_tokens, n);
    kv_sequence_free(&seq);
    return logits;
}

/* ---------------------------------------------------------------- against the naive pass */

static void compare_with_naive(arch a, llava_dtype compute, const char *level, double tolerance) {
    engine e = open_engine(a, 2, compute, level);
    const lm_config *lm = &e.model->config->lm;
    const int64_t size = N_ROWS * lm->hidden_size, stages = lm->n_layers + 2;
    float *rows = fixture_rows(e.model, 3, N_ROWS);
    double *expected = calloc((size_t)(stages * size), sizeof *expected);
    double *expected_logits = calloc((size_t)(N_ROWS * e.model->n_vocab), sizeof *expected);
    float *hidden = calloc((size_t)(stages * size), sizeof *hidden), *stage[8];
    float *logits = calloc((size_t)(N_ROWS * e.model->n_vocab), sizeof *logits);
    naive_decoder(e.model, rows, N_ROWS, expected, expected_logits);
    for (int64_t i = 0; i < stages; i++) stage[i] = hidden + i * size;
    kv_sequence seq = open_sequence(&e);
    decoder_item item = {.seq = &seq,
                         .rows = rows,
                         .n_rows = N_ROWS,
                         .n_logits = N_ROWS,
                         .logits = logits,
                         .hidden = stage};
    step(&e, &item, 1);
    for (int64_t i = 0; i < stages; i++) {
        const double error = relative_error(stage[i], expected + i * size, size);
        if (!(error <= tolerance))
            fail_msg("%s, stage %lld: error %g", lm->family->name, (long long)i, error);
    }
    const double error = relative_error(logits, expected_logits, N_ROWS * e.model->n_vocab);
    if (!(error <= tolerance)) fail_msg("%s, logits: error %g", lm->family->name, error);
    /* token by token over the cache */
    float *stepwise = run_pieces(&e, rows, N_ROWS, 1, true);
    const double again = relative_error(stepwise, expected_logits, N_ROWS * e.model->n_vocab);
    if (!(again <= tolerance)) fail_msg("%s, one by one: error %g", lm->family->name, again);
    free(stepwise);
    free(rows);
    free(expected);
    free(expected_logits);
    free(hidden);
    free(logits);
    kv_sequence_free(&seq);
    close_engine(&e);
}

static void test_families(void **state) {
    (void)state;
    for (int a = 0; a < ARCH_COUNT; a++)
        for (const char *const *level = device_cpu_levels(); *level; level++)
            if (device_cpu_level_available(*level))
                compare_with_naive((arch)a, LLAVA_DTYPE_F32, *level, 1e-4);
}

static void test_half_precision(void **state) {
    (void)state;
    static const arch dense[] = {ARCH_LLAMA, ARCH_QWEN2, ARCH_MISTRAL};
    for (size_t i = 0; i < LLAVA_COUNT(dense); i++) {
        compare_with_naive(dense[i], LLAVA_DTYPE_F16, NULL, 0.01);
        compare_with_naive(dense[i], LLAVA_DTYPE_BF16, NULL, 0.1);
    }
}

/* ---------------------------------------------------------------- what must not matter */

static void assert_same(const float *a, const float *b, int64_t n, const char *what) {
    if (memcmp(a, b, (size_t)n * sizeof *a) != 0) fail_msg("%s changes results", what);
}

static void each_family(void (*check)(arch a, llava_dtype compute)) {
    for (int a = 0; a < ARCH_COUNT; a++) {
        check((arch)a, LLAVA_DTYPE_F32);
        check((arch)a, LLAVA_DTYPE_BF16);
    }
}

static void check_pieces_and_threads(arch a, llava_dtype compute) {
    engine e = open_engine(a, 1, compute, NULL), two = open_engine(a, 2, compute, NULL);
    const int64_t n = 40, count = n * e.model->n_vocab;
    float *rows = fixture_rows(e.model, 11, n);
    float *whole = run_pieces(&e, rows, n, n, false);
    static const int64_t pieces[] = {1, 3, 7, 39};
    for (size_t i = 0; i < LLAVA_COUNT(pieces); i++) {
        float *cut = run_pieces(&two, rows, n, pieces[i], false);
        assert_same(cut, whole, count, "cutting a prompt into pieces, or a second thread,");
        free(cut);
    }
    free(rows);
    free(whole);
    close_engine(&e);
    close_engine(&two);
}

static void test_pieces_and_threads(void **state) {
    (void)state;
    each_family(check_pieces_and_threads);
}

/** Three prompts alone, then in one step with generated rows among them. */
static void check_batch(arch a, llava_dtype compute) {
    engine e = open_engine(a, 2, compute, NULL);
    const int64_t width = e.model->config->lm.hidden_size, vocab = e.model->n_vocab;
    const int64_t lengths[] = {9, 4, 17};
    float *rows[3], *alone[3], *alone_next[3];
    float *logits = calloc((size_t)(6 * vocab), sizeof *logits);
    kv_sequence seqs[3];
    decoder_item items[3];
    for (int i = 0; i < 3; i++) {
        kv_sequence seq = open_sequence(&e);
        rows[i] = fixture_rows(e.model, (uint64_t)i + 20, lengths[i] + 1);
        alone[i] = calloc((size_t)vocab, sizeof **alone);
        alone_next[i] = calloc((size_t)vocab, sizeof **alone);
        decoder_item prompt = {.seq = &seq, .rows = rows[i], .n_rows = lengths[i], .n_logits = 1};
        prompt.logits = alone[i];
        step(&e, &prompt, 1);
        decoder_item next = {.seq = &seq, .rows = rows[i] + lengths[i] * width, .n_rows = 1};
        next.generated = true;
        next.n_logits = 1;
        next.logits = alone_next[i];
        step(&e, &next, 1);
        kv_sequence_free(&seq);
        seqs[i] = open_sequence(&e);
        items[i] = (decoder_item){.seq = &seqs[i],
                                  .rows = rows[i],
                                  .n_rows = lengths[i],
                                  .n_logits = 1,
                                  .logits = logits + i * vocab};
    }
    step(&e, items + 1, 2); /* prompts 1 and 2 */
    decoder_item mixed[3];
    for (int i = 0; i < 3; i++) {
        mixed[i] = (decoder_item){.seq = &seqs[i], .n_rows = 1, .generated = true, .n_logits = 1};
        mixed[i].rows = rows[i] + lengths[i] * width;
        mixed[i].logits = logits + (3 + i) * vocab;
    }
    decoder_item both[] = {mixed[1], items[0], mixed[2]}; /* generated, prompt, generated */
    step(&e, both, 3);
    step(&e, mixed, 1);
    for (int i = 0; i < 3; i++) {
        assert_same(logits + i * vocab, alone[i], vocab, "a batch of prompts");
        assert_same(logits + (3 + i) * vocab, alone_next[i], vocab, "a batch of generated rows");
        kv_sequence_free(&seqs[i]);
        free(rows[i]);
        free(alone[i]);
        free(alone_next[i]);
    }
    free(logits);
    close_engine(&e);
}

static void test_batch(void **state) {
    (void)state;
    each_family(check_batch);
}

/** The last row's logits do not depend on which others are asked for; rows nobody asks for still
 *  fill the cache. */
static void check_wanted_rows(arch a, llava_dtype compute) {
    engine e = open_engine(a, 2, compute, NULL);
    const lm_config *lm = &e.model->config->lm;
    const int64_t n = 12, vocab = e.model->n_vocab, width = lm->hidden_size;
    float *rows = fixture_rows(e.model, 5, n), *all = run_pieces(&e, rows, n, n, false);
    float *some = calloc((size_t)(n * vocab), sizeof *some);
    for (int64_t wanted = 0; wanted < 4; wanted++) {
        kv_sequence seq = open_sequence(&e);
        decoder_item item = {
            .seq = &seq, .rows = rows, .n_rows = n - 1, .n_logits = wanted, .logits = some};
        step(&e, &item, 1);
        assert_same(some, all + (n - 1 - wanted) * vocab, wanted * vocab,
                    "asking for fewer logits");
        decoder_item last = {.seq = &seq,
                             .rows = rows + (n - 1) * width,
                             .n_rows = 1,
                             .n_logits = 1,
                             .logits = some};
        step(&e, &last, 1);
        assert_same(some, all + (n - 1) * vocab, vocab, "leaving out the last layer of rows");
        kv_sequence_free(&seq);
    }
    /* hidden states of some items only */
    float *normed = calloc((size_t)(n * width), sizeof *normed), *stages[8] = {NULL};
    stages[lm->n_layers + 1] = normed;
    kv_sequence seq = open_sequence(&e), other = open_sequence(&e);
    decoder_item items[] = {
        {.seq = &other, .rows = rows, .n_rows = 5, .n_logits = 0},
        {.seq = &seq, .rows = rows, .n_rows = n, .n_logits = 2, .logits = some, .hidden = stages}};
    step(&e, items, 2);
    assert_same(some, all + (n - 2) * vocab, 2 * vocab, "asking for hidden states");
    assert_true(normed[0] != 0 && normed[n * width - 1] != 0);
    kv_sequence_free(&seq);
    kv_sequence_free(&other);
    free(normed);
    free(some);
    free(all);
    free(rows);
    close_engine(&e);
}

static void test_wanted_rows(void **state) {
    (void)state;
    each_family(check_wanted_rows);
}

static void check_shared_prefix(engine e) {
    const int64_t n = 20, vocab = e.model->n_vocab, width = e.model->config->lm.hidden_size;
    float *rows = fixture_rows(e.model, 8, n), *whole = run_pieces(&e, rows, n, n, false);
    float *logits = calloc((size_t)(2 * vocab), sizeof *logits);
    kv_sequence a = open_sequence(&e), b = open_sequence(&e);
    decoder_item prefix = {.seq = &a, .rows = rows, .n_rows = 15};
    step(&e, &prefix, 1);
    assert_int_equal(kv_sequence_share(&b, &a, NULL), LLAVA_OK);
    decoder_item rest[] = {
        {.seq = &a, .rows = rows, .n_rows = 5}, /* goes elsewhere */
        {.seq = &b, .rows = rows + 15 * width, .n_rows = 5, .n_logits = 1, .logits = logits}};
    step(&e, rest, 2);
    assert_same(logits, whole + 19 * vocab, vocab, "a shared prefix");
    kv_sequence_truncate(&a, 15);
    decoder_item again = {.seq = &a, .rows = rows + 15 * width, .n_rows = 5, .n_logits = 1};
    again.logits = logits;
    step(&e, &again, 1);
    assert_same(logits, whole + 19 * vocab, vocab, "going back in a sequence");
    kv_sequence_free(&a);
    kv_sequence_free(&b);
    free(logits);
    free(whole);
    free(rows);
    close_engine(&e);
}

static void test_shared_prefix(void **state) {
    (void)state;
    check_shared_prefix(open_engine(ARCH_QWEN2, 2, LLAVA_DTYPE_F32, NULL));
}

/* ---------------------------------------------------------------- a cache of eight bits */

static engine open_engine_i8(llava_dtype compute, int n_threads) {
    engine e = open_engine(ARCH_QWEN2, n_threads, compute, NULL);
    kv_pool_free(&e.pool);
    e.model->kv_dtype = LLAVA_DTYPE_I8;
    assert_int_equal(kv_pool_new(e.model, 8 * MAX_TOKENS, &e.pool, NULL), LLAVA_OK);
    return e;
}

/** Over block boundaries: near the cache of the model's own type, the same however it is cut. */
static void check_int8_cache(llava_dtype compute) {
    engine plain = open_engine(ARCH_QWEN2, 1, compute, NULL), e = open_engine_i8(compute, 1),
           two = open_engine_i8(compute, 2);
    const int64_t n = 2 * KV_BLOCK_TOKENS + 9, count = n * e.model->n_vocab;
    float *rows = fixture_rows(e.model, 11, n > 64 ? n : 64);
    float *expected = run_pieces(&plain, rows, n, 64, false);
    float *cut = run_pieces(&e, rows, n, 64, false), *other = run_pieces(&two, rows, n, 17, false);
    float *stepwise = run_pieces(&two, rows, n, 1, true);
    double *wide = calloc((size_t)count, sizeof *wide);
    for (int64_t i = 0; i < count; i++) wide[i] = expected[i];
    assert_same(other, cut, count, "cutting a prompt over an int8 cache, or a second thread,");
    const double error = relative_error(cut, wide, count),
                 generated = relative_error(stepwise, wide, count);
    if (!(error > 0 && error <= INT8_ERROR)) fail_msg("int8 cache: error %g", error);
    if (!(generated > 0 && generated <= INT8_ERROR)) fail_msg("one by one: error %g", generated);
    free(rows);
    free(expected);
    free(cut);
    free(other);
    free(stepwise);
    free(wide);
    close_engine(&plain);
    close_engine(&e);
    close_engine(&two);
}

static void test_int8_cache(void **state) {
    (void)state;
    check_int8_cache(LLAVA_DTYPE_F32);
    check_int8_cache(LLAVA_DTYPE_BF16);
}

/** A block that is shared and then copied keeps its rows' scales. */
static void test_int8_shared_prefix(void **state) {
    (void)state;
    check_shared_prefix(open_engine_i8(LLAVA_DTYPE_F32, 2));
}

static void test_dynamic_rope_uses_its_length(void **state) {
    (void)state;
    engine e = open_engine(ARCH_LLAMA, 1, LLAVA_DTYPE_F32, NULL);
    lm_config *lm = &e.model->config->lm;
    const int64_t n = 40;
    const size_t n_bytes = (size_t)(n * e.model->n_vocab) * sizeof(float);
    float *rows = fixture_rows(e.model, 8, n);
    float *plain = run_pieces(&e, rows, n, n, false);
    lm->rope = ROPE_DYNAMIC;
    lm->rope_factor = 2.0f;
    lm->max_position_embeddings = 16;
    float *whole = run_pieces(&e, rows, n, n, false), *cut = run_pieces(&e, rows, n, 9, false);
    assert_memory_equal(whole, cut, n_bytes);
    assert_true(memcmp(whole, plain, n_bytes) != 0);
    free(plain);
    free(whole);
    free(cut);
    free(rows);
    close_engine(&e);
}

/* ---------------------------------------------------------------- edges */

static void test_no_allocation(void **state) {
    (void)state;
    for (int a = 0; a < ARCH_COUNT; a++) {
        engine e = open_engine((arch)a, 2, LLAVA_DTYPE_BF16, NULL);
        const int64_t vocab = e.model->n_vocab;
        float *rows = fixture_rows(e.model, 8, 30), *logits = calloc((size_t)vocab, sizeof *logits);
        float *embedded = fixture_rows(e.model, 1, 1);
        kv_sequence seq = open_sequence(&e);
        for (int round = 0; round < 3; round++) {
            const int before = n_allocations;
            decoder_item item = {.seq = &seq,
                                 .rows = rows,
                                 .n_rows = round ? 1 : 30,
                                 .generated = round > 0,
                                 .n_logits = 1,
                                 .logits = logits};
            step(&e, &item, 1);
            const int32_t token = 7;
            assert_int_equal(model_embed_tokens(e.model, &token, 1, embedded, NULL), LLAVA_OK);
            /* the device may grow its own memory once, for the largest step */
            if (round) assert_int_equal(n_allocations, before);
        }
        kv_sequence_free(&seq);
        free(embedded);
        free(logits);
        free(rows);
        close_engine(&e);
    }
}

static void test_missing_vocabulary(void **state) {
    (void)state;
    engine e = open_engine(ARCH_LLAMA, 1, LLAVA_DTYPE_F32, NULL);
    const int64_t stored = e.model->n_vocab, width = e.model->config->lm.hidden_size;
    float *rows = fixture_rows(e.model, 8, 2), *plain = run_pieces(&e, rows, 2, 2, false);
    e.model->n_vocab = stored + 3;
    decoder_scratch_free(&e.scratch);
    assert_int_equal(decoder_scratch_new(e.model, 8, 8, MAX_TOKENS, &e.scratch, NULL), LLAVA_OK);
    float *grown = run_pieces(&e, rows, 2, 2, false);
    for (int64_t i = 0; i < 2; i++) {
        assert_memory_equal(grown + i * (stored + 3), plain + i * stored,
                            (size_t)stored * sizeof *plain);
        for (int64_t v = 0; v < 3; v++)
            assert_true(grown[i * (stored + 3) + stored + v] == -INFINITY);
    }
    const int32_t ids[] = {2, (int32_t)stored, (int32_t)stored + 2, 5};
    float *embedded = calloc((size_t)(4 * width), sizeof *embedded);
    assert_int_equal(model_embed_tokens(e.model, ids, 4, embedded, NULL), LLAVA_OK);
    for (int64_t i = 0; i < width; i++) {
        assert_true((double)embedded[i] == weight_at(&e.model->decoder.embed, 2 * width + i));
        assert_true(embedded[width + i] == 0 && embedded[2 * width + i] == 0);
        assert_true((double)embedded[3 * width + i] ==
                    weight_at(&e.model->decoder.embed, 5 * width + i));
    }
    /* fewer ids than stored rows */
    e.model->n_vocab = stored - 3;
    float *cut = run_pieces(&e, rows, 2, 2, false);
    assert_memory_equal(cut + stored - 3, plain + stored, (size_t)(stored - 3) * sizeof *plain);
    llava_error err = {0};
    const int32_t bad[] = {0, -200};
    assert_int_equal(model_embed_tokens(e.model, bad, 2, embedded, &err), LLAVA_BAD_ARGUMENT);
    assert_int_equal(model_embed_tokens(e.model, ids + 1, 1, embedded, &err), LLAVA_BAD_ARGUMENT);
    free(embedded);
    free(cut);
    free(grown);
    free(plain);
    free(rows);
    close_engine(&e);
}

static void test_refusals(void **state) {
    (void)state;
    engine e = open_engine(ARCH_LLAMA, 1, LLAVA_DTYPE_F32, NULL);
    float *rows = fixture_rows(e.model, 8, 64);
    kv_sequence seq = open_sequence(&e), other = open_sequence(&e);
    llava_error err = {0};
    decoder_item item = {.seq = &seq, .rows = rows, .n_rows = 10};
    assert_int_equal(decoder_step(e.model, e.scratch, &item, 1, &err), LLAVA_INTERNAL);
    assert_int_equal(kv_sequence_reserve(&seq, 10, NULL), LLAVA_OK);
    item.n_logits = 11;
    assert_int_equal(decoder_step(e.model, e.scratch, &item, 1, &err), LLAVA_BAD_ARGUMENT);
    item.n_logits = 0;
    item.n_rows = 0;
    assert_int_equal(decoder_step(e.model, e.scratch, &item, 1, &err), LLAVA_BAD_ARGUMENT);
    assert_int_equal(decoder_step(e.model, e.scratch, &item, 0, &err), LLAVA_OK);
    item.n_rows = 10;
    assert_int_equal(decoder_step(e.model, e.scratch, &item, 1, &err), LLAVA_OK);
    /* the next block-sharing write needs a copy first */
    assert_int_equal(kv_sequence_share(&other, &seq, NULL), LLAVA_OK);
    item.n_rows = 1;
    assert_int_equal(decoder_step(e.model, e.scratch, &item, 1, &err), LLAVA_INTERNAL);
    assert_int_equal(kv_sequence_reserve(&seq, 250, NULL), LLAVA_CONTEXT_FULL);
    assert_int_equal(seq.n_tokens, 10);
    kv_sequence_free(&seq);
    kv_sequence_free(&other);
    free(rows);
    close_engine(&e);
}

static void test_scratch_size(void **state) {
    (void)state;
    llava_model *model = fixture_decoder(ARCH_MIXTRAL, 1, LLAVA_DTYPE_F32, NULL);
    const size_t small = decoder_scratch_bytes(model, 8, 1, 100);
    assert_true(small > 8 * 40 * sizeof(float));
    assert_true(decoder_scratch_bytes(model, 800, 1, 100) > 50 * small);
    assert_true(decoder_scratch_bytes(model, INT64_MAX / 4, 1, 100) == SIZE_MAX);
    decoder_scratch *scratch;
    assert_int_equal(decoder_scratch_new(model, 0, 1, 1, &scratch, NULL), LLAVA_BAD_ARGUMENT);
    assert_null(scratch);
    model_free(&model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families),
        cmocka_unit_test(test_half_precision),
        cmocka_unit_test(test_pieces_and_threads),
        cmocka_unit_test(test_batch),
        cmocka_unit_test(test_wanted_rows),
        cmocka_unit_test(test_shared_prefix),
        cmocka_unit_test(test_int8_cache),
        cmocka_unit_test(test_int8_shared_prefix),
        cmocka_unit_test(test_dynamic_rope_uses_its_length),
        cmocka_unit_test(test_no_allocation),
        cmocka_unit_test(test_missing_vocabulary),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_scratch_size),
    };
    return cmocka_run_group_tests_name("decoder", tests, NULL, NULL);
}
