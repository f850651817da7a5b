/* SPDX-License-Identifier: Apache-2.0
 *
 * The KV cache: block counting, sharing, copy on write, truncation, exhaustion.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stdlib.h>

#include <cmocka.h>

#include "model_fixture.h"

typedef struct pools {
    llava_model *model;
    kv_pool *pool;
} pools;

static int setup(void **state) {
    pools *p = calloc(1, sizeof *p);
    p->model = fixture_decoder(ARCH_LLAMA, 1, LLAVA_DTYPE_F32, "c");
    *state = p;
    return kv_pool_new(p->model, 6 * KV_BLOCK_TOKENS - 1, &p->pool, NULL) == LLAVA_OK ? 0 : -1;
}

static int teardown(void **state) {
    pools *p = *state;
    kv_pool_free(&p->pool);
    model_free(&p->model);
    free(p);
    return 0;
}

static kv_sequence new_sequence(pools *p, int64_t max_tokens) {
    kv_sequence seq;
    assert_int_equal(kv_sequence_new(p->pool, max_tokens, &seq, NULL), LLAVA_OK);
    return seq;
}

/** The place of channel i of head 1's key (or value) at a position of a layer. */
static float *element(const kv_sequence *seq, int64_t layer, bool value, int64_t position,
                      int64_t i) {
    void *k_blocks[8], *v_blocks[8];
    kv_view k, v;
    kv_sequence_views(seq, layer, k_blocks, v_blocks, &k, &v);
    const kv_view *view = value ? &v : &k;
    float *block = view->blocks[position / view->block_size];
    return block + position % view->block_size * view->token_stride + view->head_stride + i;
}

/** Appends n positions whose elements tell their place. */
static void append(kv_sequence *seq, int64_t n, float mark) {
    assert_int_equal(kv_sequence_reserve(seq, n, NULL), LLAVA_OK);
    for (int64_t p = seq->n_tokens; p < seq->n_tokens + n; p++)
        for (int64_t l = 0; l < 3; l++)
            for (int64_t i = 0; i < 8; i++) {
                *element(seq, l, false, p, i) = mark + (float)(p * 100 + l * 10 + i);
                *element(seq, l, true, p, i) = -mark - (float)(p * 100 + l * 10 + i);
            }
    seq->n_tokens += n;
}

static void check(const kv_sequence *seq, int64_t from, int64_t to, float mark) {
    for (int64_t p = from; p < to; p++)
        for (int64_t l = 0; l < 3; l++)
            for (int64_t i = 0; i < 8; i++) {
                const float expected = mark + (float)(p * 100 + l * 10 + i);
                assert_true(*element(seq, l, false, p, i) == expected);
                assert_true(*element(seq, l, true, p, i) == -expected);
            }
}

static void test_sizes(void **state) {
    pools *p = *state;
    assert_int_equal(kv_pool_free_blocks(p->pool), 6);
    /* 3 layers, keys and values, 2 heads of 8 floats */
    assert_int_equal(kv_bytes_per_token(p->model), 3 * 2 * 2 * 8 * 4);
    p->model->kv_dtype = LLAVA_DTYPE_I8; /* 8 codes and a float32 scale */
    assert_int_equal(kv_bytes_per_token(p->model), 3 * 2 * 2 * (8 + 4));
    p->model->kv_dtype = LLAVA_DTYPE_DEFAULT;
    kv_pool *none;
    assert_int_equal(kv_pool_new(p->model, 0, &none, NULL), LLAVA_BAD_ARGUMENT);
    assert_null(none);
    assert_int_equal(kv_pool_new(p->model, INT64_MAX, &none, NULL), LLAVA_BAD_ARGUMENT);
}

static void test_append_and_truncate(void **state) {
    pools *p = *state;
    kv_sequence seq = new_sequence(p, 300);
    append(&seq, 1, 0);
    assert_int_equal(kv_pool_free_blocks(p->pool), 5);
    append(&seq, KV_BLOCK_TOKENS - 1, 0);
    assert_int_equal(kv_pool_free_blocks(p->pool), 5);
    append(&seq, 70, 0);
    assert_int_equal(kv_pool_free_blocks(p->pool), 3);
    check(&seq, 0, 134, 0);
    kv_sequence_truncate(&seq, 64);
    assert_int_equal(kv_pool_free_blocks(p->pool), 5);
    append(&seq, 3, 7);
    check(&seq, 0, 64, 0);
    check(&seq, 64, 67, 7);
    kv_sequence_truncate(&seq, 1000);
    assert_int_equal(seq.n_tokens, 67);
    kv_sequence_free(&seq);
    kv_sequence_free(&seq);
    assert_int_equal(kv_pool_free_blocks(p->pool), 6);
}

static void test_copy_on_write(void **state) {
    pools *p = *state;
    kv_sequence a = new_sequence(p, 300), b = new_sequence(p, 300), c = new_sequence(p, 300);
    append(&a, 70, 0);
    assert_int_equal(kv_sequence_share(&b, &a, NULL), LLAVA_OK);
    assert_int_equal(kv_sequence_share(&c, &a, NULL), LLAVA_OK);
    assert_int_equal(kv_pool_free_blocks(p->pool), 4);
    assert_false(kv_sequence_has_room(&a, 1));
    append(&b, 2, 5);
    assert_int_equal(kv_pool_free_blocks(p->pool), 3);
    append(&a, 2, 9);
    assert_int_equal(kv_pool_free_blocks(p->pool), 2);
    append(&c, 2, 11); /* the last one writes where it is */
    assert_int_equal(kv_pool_free_blocks(p->pool), 2);
    const kv_sequence *all[] = {&a, &b, &c};
    const float marks[] = {9, 5, 11};
    for (int i = 0; i < 3; i++) {
        check(all[i], 0, 70, 0);
        check(all[i], 70, 72, marks[i]);
        assert_int_equal(all[i]->blocks[0], a.blocks[0]);
    }
    kv_sequence_free(&a);
    check(&b, 0, 70, 0);
    kv_sequence_free(&b);
    kv_sequence_free(&c);
    assert_int_equal(kv_pool_free_blocks(p->pool), 6);
}

static void test_share_full_blocks_and_back(void **state) {
    pools *p = *state;
    kv_sequence a = new_sequence(p, 300), b = new_sequence(p, 300);
    append(&a, 128, 0);
    append(&b, 65, 3);
    assert_int_equal(kv_sequence_share(&b, &a, NULL), LLAVA_OK);
    assert_int_equal(kv_pool_free_blocks(p->pool), 4);
    append(&b, 1, 2); /* a whole block is shared: nothing to copy */
    assert_int_equal(kv_pool_free_blocks(p->pool), 3);
    kv_sequence_truncate(&b, 100); /* into a shared block */
    append(&b, 1, 2);
    check(&a, 0, 128, 0);
    check(&b, 0, 100, 0);
    check(&b, 100, 101, 2);
    /* b holds the only reference to its tail while it becomes a copy of itself through a */
    assert_int_equal(kv_sequence_share(&a, &b, NULL), LLAVA_OK);
    assert_int_equal(kv_sequence_share(&b, &a, NULL), LLAVA_OK);
    assert_int_equal(kv_sequence_share(&b, &b, NULL), LLAVA_OK);
    check(&a, 100, 101, 2);
    kv_sequence_free(&a);
    check(&b, 0, 100, 0);
    kv_sequence_free(&b);
    assert_int_equal(kv_pool_free_blocks(p->pool), 6);
}

static void test_exhaustion_changes_nothing(void **state) {
    pools *p = *state;
    kv_sequence a = new_sequence(p, 10000), b = new_sequence(p, 64);
    append(&a, 5 * KV_BLOCK_TOKENS + 10, 0);
    llava_error err = {0};
    assert_int_equal(kv_sequence_reserve(&a, 55, &err), LLAVA_CONTEXT_FULL);
    assert_int_equal(a.n_blocks, 6);
    check(&a, 0, 330, 0);
    assert_int_equal(kv_sequence_reserve(&a, -1, &err), LLAVA_BAD_ARGUMENT);
    assert_int_equal(kv_sequence_reserve(&b, 1, &err), LLAVA_CONTEXT_FULL);
    assert_int_equal(b.n_blocks, 0);
    kv_sequence_truncate(&a, 10);
    assert_int_equal(kv_sequence_reserve(&b, 65, &err), LLAVA_CONTEXT_FULL);
    append(&b, 64, 1);
    kv_sequence_free(&b);
    b = new_sequence(p, 9);
    append(&a, 60, 0);
    assert_int_equal(kv_sequence_share(&b, &a, &err), LLAVA_CONTEXT_FULL);
    assert_int_equal(b.n_tokens, 0);
    kv_sequence_free(&a);
    kv_sequence_free(&b);
    assert_int_equal(kv_pool_free_blocks(p->pool), 6);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_sizes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_append_and_truncate, setup, teardown),
        cmocka_unit_test_setup_teardown(test_copy_on_write, setup, teardown),
        cmocka_unit_test_setup_teardown(test_share_full_blocks_and_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_exhaustion_changes_nothing, setup, teardown),
    };
    return cmocka_run_group_tests_name("kv_cache", tests, NULL, NULL);
}
