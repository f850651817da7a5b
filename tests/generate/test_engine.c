/* SPDX-License-Identifier: Apache-2.0
 *
 * Properties of the engine, on a recorded prompt with a picture: batches and threads change no
 * bit, the cache changes no bit, failures and cancellation leave sessions usable, a step allocates
 * nothing.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>

#include <cmocka.h>

#include "engine_support.h"

/* ---------------------------------------------------------------- counting allocations */

static atomic_long n_allocations;
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);

void *__wrap_malloc(size_t size) {
    atomic_fetch_add(&n_allocations, 1);
    return __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size) {
    atomic_fetch_add(&n_allocations, 1);
    return __real_calloc(count, size);
}

void *__wrap_realloc(void *memory, size_t size) {
    atomic_fetch_add(&n_allocations, 1);
    return __real_realloc(memory, size);
}

/* ---------------------------------------------------------------- the model and its prompts */

#define MAX_STEPS 16

static trace recorded;
static llava_loaded loaded;
static llava_error err;

#define CHECK(call)                                                                                \
    do {                                                                                           \
        const llava_status check_ = (call);                                                        \
        if (check_ != LLAVA_OK) fail_msg("%s: %s", llava_status_name(check_), err.message);        \
    } while (0)

static bool take_first(void *user, const char *path) {
    bool *found = user;
    trace_close(&recorded);
    if (trace_open(path, &recorded, &err) != LLAVA_OK) return true;
    if (!json_object_get(recorded.root, "greedy") || recorded.n_pictures != 1) return true;
    if (trace_load(&recorded, &loaded, &err) != LLAVA_OK) return true;
    *found = true;
    return false;
}

static int set_up(void **state) {
    (void)state;
    bool found = false;
    trace_walk(take_first, &found);
    if (!found) fprintf(stderr, "no recorded call with a picture in %s\n", reference_folder());
    return found ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    llava_loaded_close(&loaded);
    trace_close(&recorded);
    return 0;
}

/** A prompt of n parts of the recorded one. */
typedef struct piece {
    const llava_part *parts;
    size_t n_parts;
} piece;

static piece whole(void) { return (piece){recorded.parts, recorded.n_parts}; }

/** Token lists at some distance from each other. */
static piece tokens(llava_part *part, size_t n) {
    *part = recorded.parts[0];
    assert_int_equal(part->kind, LLAVA_PART_TOKENS);
    if (part->n_ids > n) part->n_ids = n;
    return (piece){part, 1};
}

static llava_context *context_of(int64_t max_tokens, int n_threads) {
    const llava_context_options options = {.max_tokens = max_tokens, .n_threads = n_threads};
    llava_context *context;
    CHECK(llava_context_new(&loaded, &options, &context, &err));
    return context;
}

static llava_session *session_of(llava_context *context) {
    llava_session *session;
    CHECK(llava_session_new(context, &session, &err));
    return session;
}

/** Logits of every step of one session. */
typedef struct history {
    float *logits; /* [MAX_STEPS, n_vocab] */
    size_t n_steps, n_ids;
    int32_t list[MAX_STEPS];
} history;

static history history_new(void) {
    return (history){.logits = calloc(MAX_STEPS * (size_t)loaded.model->n_vocab, sizeof(float))};
}

static void history_add(history *h, const llava_session *session) {
    const llava_result *r = llava_session_result(session);
    if (r->n_ids == h->n_ids) return;
    assert_true(h->n_steps < MAX_STEPS);
    memcpy(h->logits + h->n_steps++ * (size_t)loaded.model->n_vocab, llava_session_logits(session),
           (size_t)loaded.model->n_vocab * sizeof(float));
    h->n_ids = r->n_ids;
    memcpy(h->list, r->ids, r->n_ids * sizeof *h->list);
}

static void assert_same_history(const history *x, const history *y) {
    assert_int_equal(x->n_steps, y->n_steps);
    assert_int_equal(x->n_ids, y->n_ids);
    assert_memory_equal(x->list, y->list, x->n_ids * sizeof *x->list);
    assert_memory_equal(x->logits, y->logits,
                        x->n_steps * (size_t)loaded.model->n_vocab * sizeof(float));
}

/** Runs prompts together in one context and records each. */
static void run_together(const piece *prompts, size_t n, int n_threads, history *out) {
    llava_context *context = context_of(0, n_threads);
    llava_session *sessions[8];
    const llava_generate_options options = {.max_new_tokens = MAX_STEPS, .ignore_eos = true};
    size_t n_running = n;
    for (size_t i = 0; i < n; i++) {
        sessions[i] = session_of(context);
        CHECK(llava_session_feed(sessions[i], prompts[i].parts, prompts[i].n_parts, &err));
        CHECK(llava_session_start(sessions[i], &options, &err));
        out[i] = history_new();
    }
    while (n_running > 0) {
        CHECK(llava_context_step(context, &n_running, &err));
        for (size_t i = 0; i < n; i++) history_add(&out[i], sessions[i]);
    }
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(llava_session_result(sessions[i])->n_ids, MAX_STEPS);
        llava_session_free(&sessions[i]);
        assert_null(sessions[i]);
    }
    llava_context_free(&context);
    assert_null(context);
}

/* ---------------------------------------------------------------- batches, threads, beams */

static void test_alone_and_together(void **state) {
    (void)state;
    llava_part first, second;
    const piece prompts[3] = {tokens(&first, 5), whole(), tokens(&second, 1)};
    history together[3], alone[3], threads[3];
    run_together(prompts, 3, 1, together);
    run_together(prompts, 3, 2, threads);
    for (size_t i = 0; i < 3; i++) {
        run_together(&prompts[i], 1, 1, &alone[i]);
        assert_same_history(&together[i], &alone[i]);
        assert_same_history(&together[i], &threads[i]);
        free(alone[i].logits);
        free(together[i].logits);
        free(threads[i].logits);
    }
}

/* more sessions than a step takes: everybody gets a turn */
static void test_many_sessions(void **state) {
    (void)state;
    enum { SESSIONS = 70 };
    llava_part part;
    const piece prompt = tokens(&part, 3);
    llava_context *context = context_of(SESSIONS * 64, 1);
    llava_session *sessions[SESSIONS];
    const llava_generate_options options = {.max_new_tokens = 3, .ignore_eos = true};
    for (int i = 0; i < SESSIONS; i++) {
        sessions[i] = session_of(context);
        CHECK(llava_session_feed(sessions[i], prompt.parts, prompt.n_parts, &err));
        CHECK(llava_session_start(sessions[i], &options, &err));
    }
    size_t n_running = SESSIONS;
    for (int step = 0; n_running > 0; step++) {
        assert_true(step < 10);
        CHECK(llava_context_step(context, &n_running, &err));
    }
    const llava_result *first = llava_session_result(sessions[0]);
    for (int i = 0; i < SESSIONS; i++) {
        const llava_result *r = llava_session_result(sessions[i]);
        assert_int_equal(r->finish_reason, LLAVA_FINISH_LENGTH);
        assert_int_equal(r->n_ids, 3);
        assert_memory_equal(r->ids, first->ids, 3 * sizeof *r->ids);
    }
    llava_context_free(&context); /* frees what is left of the sessions, too */
}

static void test_beams_beside_others(void **state) {
    (void)state;
    const llava_generate_options beams = {.max_new_tokens = 10, .num_beams = 4},
                                 greedy = {.max_new_tokens = 12};
    const piece prompt = whole();
    llava_context *context = context_of(0, 1);
    llava_session *x = session_of(context), *y = session_of(context);
    const llava_result *r;
    CHECK(llava_session_feed(x, prompt.parts, prompt.n_parts, &err));
    CHECK(llava_session_generate(x, &beams, &r, &err));
    int32_t alone[16];
    const size_t n_alone = r->n_ids;
    const double score = r->sequence_score;
    assert_in_range(n_alone, 1, 10);
    memcpy(alone, r->ids, n_alone * sizeof *alone);
    CHECK(llava_session_feed(y, prompt.parts, prompt.n_parts, &err));
    CHECK(llava_session_start(y, &greedy, &err));
    CHECK(llava_session_feed(x, prompt.parts, prompt.n_parts, &err));
    CHECK(llava_session_generate(x, &beams, &r, &err));
    assert_int_equal(r->n_ids, n_alone);
    assert_memory_equal(r->ids, alone, n_alone * sizeof *alone);
    assert_true(r->sequence_score == score);
    assert_true(score < 0);
    llava_context_free(&context);
}

/* the count that is told beforehand is the count that comes out */
static void test_visual_tokens(void **state) {
    (void)state;
    int64_t width, height, n_tokens = 0;
    llava_context *context = context_of(0, 1);
    llava_session *session = session_of(context);
    const piece prompt = whole();
    llava_image_get_size(recorded.pictures[0], &width, &height);
    for (size_t i = 0; i < recorded.n_parts; i++)
        if (recorded.parts[i].kind == LLAVA_PART_VIDEO) skip();
    CHECK(llava_count_visual_tokens(loaded.image_processor, width, height, 1, &n_tokens, &err));
    CHECK(llava_session_feed(session, prompt.parts, prompt.n_parts, &err));
    const llava_result *r = llava_session_result(session);
    assert_int_equal(r->n_visual_tokens, n_tokens);
    assert_true(r->image_ms > 0);
    assert_int_equal(r->n_prompt_tokens,
                     json_integer_value(json_object_get(recorded.root, "prompt_rows")));
    llava_context_free(&context);
}

/* ---------------------------------------------------------------- the cache */

static history last_logits(llava_context *context, llava_session *session, piece prompt,
                           int64_t *n_cached) {
    history h = history_new();
    const llava_generate_options options = {.max_new_tokens = 2, .ignore_eos = true};
    size_t n_running = 1;
    CHECK(llava_session_feed(session, prompt.parts, prompt.n_parts, &err));
    CHECK(llava_session_start(session, &options, &err));
    while (n_running > 0) {
        CHECK(llava_context_step(context, &n_running, &err));
        history_add(&h, session);
    }
    *n_cached = llava_session_result(session)->n_cached_tokens;
    return h;
}

static void assert_reuse(const piece *prompts, size_t n, int64_t expected_cached) {
    llava_context *context = context_of(0, 1), *other = context_of(0, 1);
    llava_session *session = session_of(context), *fresh = session_of(other);
    int64_t n_cached = -1;
    history reused = {0};
    for (size_t i = 0; i < n; i++) {
        free(reused.logits);
        reused = last_logits(context, session, prompts[i], &n_cached);
    }
    assert_int_equal(n_cached, expected_cached);
    history computed = last_logits(other, fresh, prompts[n - 1], &n_cached);
    assert_int_equal(n_cached, 0);
    assert_same_history(&reused, &computed);
    free(reused.logits);
    free(computed.logits);
    llava_context_free(&context);
    llava_context_free(&other);
}

static void test_prefix_reuse(void **state) {
    (void)state;
    llava_part part;
    const int64_t rows = json_integer_value(json_object_get(recorded.root, "prompt_rows"));
    const piece longer[] = {tokens(&part, 6), whole()};
    assert_reuse(longer, 2, (int64_t)part.n_ids);
    const piece same[] = {whole(), whole()};
    assert_reuse(same, 2, rows - 1);
    const piece shorter[] = {whole(), tokens(&part, 6)};
    assert_reuse(shorter, 2, (int64_t)part.n_ids - 1);
}

/* neighbouring texts are one text: the second prompt is wholly in the cache */
static void test_texts_are_merged(void **state) {
    (void)state;
    llava_context *context = context_of(0, 1);
    llava_session *session = session_of(context);
    const llava_image *const picture = recorded.pictures[0];
    const llava_part image = {.kind = LLAVA_PART_IMAGE, .images = &picture, .n_images = 1};
    const llava_part one[] = {image,
                              {.kind = LLAVA_PART_TEXT, .text = "What is it?", .text_size = 11}};
    const llava_part split[] = {{.kind = LLAVA_PART_TEXT},
                                image,
                                {.kind = LLAVA_PART_TEXT, .text = "Wh", .text_size = 2},
                                {.kind = LLAVA_PART_TEXT, .text = "at is", .text_size = 5},
                                {.kind = LLAVA_PART_TEXT, .text = " it?", .text_size = 4}};
    const llava_generate_options options = {.max_new_tokens = 1};
    const llava_result *r;
    CHECK(llava_session_feed(session, one, 2, &err));
    CHECK(llava_session_generate(session, &options, &r, &err));
    const int64_t rows = r->n_prompt_tokens;
    CHECK(llava_session_feed(session, split, 5, &err));
    assert_int_equal(llava_session_result(session)->n_prompt_tokens, rows);
    assert_int_equal(llava_session_result(session)->n_cached_tokens, rows - 1);
    llava_context_free(&context);
}

/* another picture of the same size must not be taken for the cached one */
static void test_other_picture(void **state) {
    (void)state;
    int64_t width, height;
    llava_image_get_size(recorded.pictures[0], &width, &height);
    llava_image *changed;
    CHECK(llava_image_from_rgb(recorded.pictures[0]->rgb, width, height, &changed, &err));
    changed->rgb[width * height * 3 - 1] ^= 1;
    llava_part parts[TRACE_PARTS];
    memcpy(parts, recorded.parts, sizeof parts);
    size_t before = 0;
    for (size_t i = 0; i < recorded.n_parts; i++) {
        if (parts[i].kind == LLAVA_PART_IMAGE) {
            parts[i].images = (const llava_image *const *)&changed;
            break;
        }
        before += parts[i].n_ids;
    }
    const piece prompts[] = {whole(), {parts, recorded.n_parts}};
    assert_reuse(prompts, 2, (int64_t)before);
    llava_image_free(&changed);
}

/* a second turn reuses the first prompt and its answer */
static void test_second_turn(void **state) {
    (void)state;
    llava_context *context = context_of(0, 1);
    llava_session *session = session_of(context);
    const llava_generate_options options = {.max_new_tokens = 8, .ignore_eos = true};
    const llava_result *r;
    const piece prompt = whole();
    CHECK(llava_session_feed(session, prompt.parts, prompt.n_parts, &err));
    CHECK(llava_session_generate(session, &options, &r, &err));
    const int64_t rows = r->n_prompt_tokens;
    int32_t next[11];
    memcpy(next, r->ids, 8 * sizeof *next);
    for (int i = 8; i < 11; i++) next[i] = recorded.ids[0];
    llava_part parts[TRACE_PARTS + 1];
    memcpy(parts, recorded.parts, sizeof recorded.parts);
    parts[recorded.n_parts] =
        (llava_part){.kind = LLAVA_PART_TOKENS, .ids = next, .n_ids = LLAVA_COUNT(next)};
    CHECK(llava_session_feed(session, parts, recorded.n_parts + 1, &err));
    CHECK(llava_session_generate(session, &options, &r, &err));
    assert_int_equal(r->n_prompt_tokens, rows + 11);
    assert_int_equal(r->n_cached_tokens, rows + 7); /* the last id was never fed */
    llava_context_free(&context);
}

/* an idle session's cache gives way to a running one */
static void test_cache_gives_way(void **state) {
    (void)state;
    const int64_t rows = json_integer_value(json_object_get(recorded.root, "prompt_rows"));
    llava_context *context = context_of(round_up(rows + 4, KV_BLOCK_TOKENS), 1);
    llava_session *x = session_of(context), *y = session_of(context);
    const llava_generate_options options = {.max_new_tokens = 3, .ignore_eos = true};
    const piece prompt = whole();
    const llava_result *r;
    for (int i = 0; i < 2; i++) {
        CHECK(llava_session_feed(x, prompt.parts, prompt.n_parts, &err));
        CHECK(llava_session_generate(x, &options, &r, &err));
        assert_int_equal(r->n_cached_tokens, 0);
        CHECK(llava_session_feed(y, prompt.parts, prompt.n_parts, &err));
        CHECK(llava_session_generate(y, &options, &r, &err));
        assert_int_equal(r->n_cached_tokens, 0);
    }
    /* a running one does not give way */
    CHECK(llava_session_feed(x, prompt.parts, prompt.n_parts, &err));
    CHECK(llava_session_start(x, &options, &err));
    CHECK(llava_session_feed(y, prompt.parts, prompt.n_parts, &err));
    assert_int_equal(llava_session_start(y, &options, &err), LLAVA_CONTEXT_FULL);
    size_t n_running = 1;
    while (n_running > 0) CHECK(llava_context_step(context, &n_running, &err));
    CHECK(llava_session_generate(y, &options, &r, &err)); /* still fed */
    assert_int_equal(r->n_ids, 3);
    llava_context_free(&context);
}

/* ---------------------------------------------------------------- failures */

static void test_context_overflow(void **state) {
    (void)state;
    const int64_t rows = json_integer_value(json_object_get(recorded.root, "prompt_rows"));
    llava_context *context = context_of(rows, 1);
    llava_session *session = session_of(context);
    const piece prompt = whole();
    assert_int_equal(llava_session_feed(session, prompt.parts, prompt.n_parts, &err),
                     LLAVA_CONTEXT_FULL);
    char number[32];
    snprintf(number, sizeof number, "%lld", (long long)rows);
    assert_non_null(strstr(err.message, number));
    llava_context_free(&context);

    context = context_of(rows + 2, 1); /* two tokens fit */
    session = session_of(context);
    const llava_generate_options options = {.ignore_eos = true};
    const llava_result *r;
    CHECK(llava_session_feed(session, prompt.parts, prompt.n_parts, &err));
    CHECK(llava_session_generate(session, &options, &r, &err));
    assert_int_equal(r->n_ids, 2);
    assert_int_equal(r->finish_reason, LLAVA_FINISH_LENGTH);
    llava_context_free(&context);
}

static void test_failed_feed(void **state) {
    (void)state;
    llava_context *context = context_of(0, 1);
    llava_session *session = session_of(context);
    const llava_generate_options options = {.max_new_tokens = 4, .ignore_eos = true};
    const llava_result *r;
    const piece prompt = whole();
    const int32_t bad = (int32_t)loaded.model->n_vocab;
    const llava_part broken[] = {{.kind = LLAVA_PART_TOKENS, .ids = &bad, .n_ids = 1},
                                 {.kind = LLAVA_PART_IMAGE},
                                 {.kind = LLAVA_PART_VIDEO},
                                 {.kind = LLAVA_PART_TEXT, .text_size = 3},
                                 {.kind = LLAVA_PART_TOKENS, .n_ids = 3},
                                 {.kind = (llava_part_kind)9}};
    assert_int_equal(llava_session_start(session, &options, &err), LLAVA_BAD_ARGUMENT);
    assert_int_equal(llava_session_feed(session, NULL, 0, &err), LLAVA_BAD_ARGUMENT);
    CHECK(llava_session_feed(session, prompt.parts, prompt.n_parts, &err));
    for (size_t i = 0; i < LLAVA_COUNT(broken); i++)
        assert_int_equal(llava_session_feed(session, &broken[i], 1, &err), LLAVA_BAD_ARGUMENT);
    CHECK(llava_session_generate(session, &options, &r, &err));
    int32_t list[4];
    memcpy(list, r->ids, sizeof list);
    for (size_t i = 0; i < LLAVA_COUNT(broken); i++)
        assert_int_equal(llava_session_feed(session, &broken[i], 1, &err), LLAVA_BAD_ARGUMENT);
    r = llava_session_result(session); /* the answer is still there, and so is the cache */
    assert_int_equal(r->n_ids, 4);
    assert_memory_equal(r->ids, list, sizeof list);
    assert_int_equal(llava_session_start(session, &options, &err), LLAVA_BAD_ARGUMENT);
    CHECK(llava_session_feed(session, prompt.parts, prompt.n_parts, &err));
    CHECK(llava_session_start(session, &options, &err));
    assert_int_equal(llava_session_feed(session, prompt.parts, prompt.n_parts, &err),
                     LLAVA_BAD_ARGUMENT); /* it is running */
    assert_int_equal(llava_session_result(session)->n_cached_tokens,
                     llava_session_result(session)->n_prompt_tokens - 1);
    llava_context_free(&context);
}

static void test_bad_options(void **state) {
    (void)state;
    static const llava_generate_options bad[] = {
        {.temperature = -1},
        {.top_p = 1.5f},
        {.top_k = -2},
        {.num_beams = -1},
        {.num_beams = 65},
        {.max_new_tokens = -1},
        {.min_new_tokens = -1},
        {.repetition_penalty = -1},
        {.n_stop = 1},
        {.n_stop_ids = 1},
        {.no_repeat_ngram_size = -1},
        {.reserved = {1}},
        {.max_new_tokens = 2, .min_new_tokens = 3},
    };
    llava_context *context = context_of(0, 1);
    llava_session *session = session_of(context);
    const piece prompt = whole();
    CHECK(llava_session_feed(session, prompt.parts, prompt.n_parts, &err));
    for (size_t i = 0; i < LLAVA_COUNT(bad); i++)
        assert_int_equal(llava_session_start(session, &bad[i], &err), LLAVA_BAD_ARGUMENT);
    const llava_generate_options good = {.max_new_tokens = 1};
    const llava_result *r;
    CHECK(llava_session_generate(session, &good, &r, &err));
    llava_context_free(&context);
    assert_int_equal(
        llava_context_new(&loaded, &(llava_context_options){.max_tokens = -1}, &context, &err),
        LLAVA_BAD_ARGUMENT);
    assert_int_equal(
        llava_context_new(&loaded, &(llava_context_options){.reserved = {0, 1}}, &context, &err),
        LLAVA_BAD_ARGUMENT);
    assert_int_equal(llava_session_new(NULL, &session, &err), LLAVA_BAD_ARGUMENT);
}

static void test_questions(void **state) {
    (void)state;
    llava_context *context = context_of(0, 1);
    llava_session *session = session_of(context);
    const llava_image *const pictures[] = {recorded.pictures[0], recorded.pictures[0]};
    const llava_message plain = {.role = 0, .text = "Hi?"},
                        one = {.role = 0, .text = "<image>\nHi?"},
                        answered[] = {{0, "Hi?"}, {1, "Yes."}}, open[] = {{0, "<image>\nHi?"}, {1}},
                        role = {.role = 2, .text = "Hi?"};
    CHECK(llava_session_ask(session, NULL, &one, 1, pictures, 1, &err));
    const int64_t rows = llava_session_result(session)->n_prompt_tokens;
    CHECK(llava_session_ask(session, NULL, &plain, 1, pictures, 1, &err)); /* supplied */
    assert_int_equal(llava_session_result(session)->n_prompt_tokens, rows);
    CHECK(llava_session_ask(session, NULL, open, 2, pictures, 1, &err));
    assert_int_equal(llava_session_result(session)->n_prompt_tokens, rows);
    CHECK(llava_session_ask(session, NULL, &plain, 1, NULL, 0, &err));
    assert_int_equal(llava_session_result(session)->n_visual_tokens, 0);
    assert_int_equal(llava_session_ask(session, NULL, &one, 1, pictures, 2, &err),
                     LLAVA_BAD_ARGUMENT);
    assert_non_null(strstr(err.message, "2 pictures"));
    assert_int_equal(llava_session_ask(session, NULL, &one, 1, NULL, 0, &err), LLAVA_BAD_ARGUMENT);
    assert_int_equal(llava_session_ask(session, "no such", &plain, 1, NULL, 0, &err),
                     LLAVA_BAD_ARGUMENT);
    assert_int_equal(llava_session_ask(session, NULL, answered, 2, NULL, 0, &err),
                     LLAVA_BAD_ARGUMENT);
    assert_int_equal(llava_session_ask(session, NULL, &role, 1, NULL, 0, &err), LLAVA_BAD_ARGUMENT);
    assert_int_equal(llava_session_ask(session, NULL, NULL, 0, NULL, 0, &err), LLAVA_BAD_ARGUMENT);
    assert_int_equal(llava_session_result(session)->n_visual_tokens, 0); /* as before */
    llava_context_free(&context);
}

/* ---------------------------------------------------------------- ends */

/** Collects streamed pieces; says stop after `most` of them. */
typedef struct collector {
    bytes text;
    int n_pieces, most;
    atomic_bool begun;
} collector;

static bool collect(void *user, const char *text, size_t size) {
    collector *c = user;
    bytes_append(&c->text, text, size);
    atomic_store(&c->begun, true);
    return ++c->n_pieces != c->most;
}

static const llava_result *answer_with(llava_session *session, llava_generate_options options) {
    const piece prompt = whole();
    const llava_result *r;
    CHECK(llava_session_feed(session, prompt.parts, prompt.n_parts, &err));
    CHECK(llava_session_generate(session, &options, &r, &err));
    return r;
}

static void test_streaming_and_stops(void **state) {
    (void)state;
    llava_context *context = context_of(0, 1);
    llava_session *session = session_of(context);
    collector c = {0};
    const llava_generate_options options = {
        .max_new_tokens = 40, .ignore_eos = true, .on_text = collect, .user = &c};
    const llava_result *r = answer_with(session, options);
    assert_int_equal(r->finish_reason, LLAVA_FINISH_LENGTH);
    assert_int_equal(c.text.size, r->text_size);
    assert_memory_equal(c.text.data, r->text, r->text_size);
    bytes all = c.text;

    /* every three-byte piece of the text as stop string: cut at its first place */
    for (size_t at = 0; at + 3 <= all.size; at += 5) {
        char stop[4] = {all.data[at], all.data[at + 1], all.data[at + 2]};
        const char *const list[] = {"no such text", stop};
        if (strlen(stop) < 3) continue;
        llava_generate_options cut = options;
        c = (collector){0};
        cut.stop = list;
        cut.n_stop = 2;
        r = answer_with(session, cut);
        const char *first = memmem(all.data, all.size, stop, 3);
        assert_int_equal(r->text_size, (size_t)(first - all.data));
        assert_memory_equal(r->text, all.data, r->text_size);
        assert_int_equal(c.text.size, r->text_size);
        assert_true(c.text.size == 0 || memcmp(c.text.data, r->text, r->text_size) == 0);
        if (r->n_ids < 40) assert_int_equal(r->finish_reason, LLAVA_FINISH_STOP);
        bytes_free(&c.text);
    }
    bytes_free(&all);
    llava_context_free(&context);
}

static void test_end_ids(void **state) {
    (void)state;
    llava_context *context = context_of(0, 1);
    llava_session *session = session_of(context);
    const llava_result *r =
        answer_with(session, (llava_generate_options){.max_new_tokens = 20, .ignore_eos = true});
    int32_t list[20];
    memcpy(list, r->ids, sizeof list);
    const int32_t end = list[7];
    size_t first = 0;
    while (list[first] != end) first++;
    llava_generate_options options = {
        .max_new_tokens = 20, .ignore_eos = true, .stop_ids = &end, .n_stop_ids = 1};
    r = answer_with(session, options);
    assert_int_equal(r->finish_reason, LLAVA_FINISH_EOS);
    assert_int_equal(r->n_ids, first + 1);
    assert_memory_equal(r->ids, list, r->n_ids * sizeof *list);
    options.min_new_tokens = (int64_t)first + 3;
    r = answer_with(session, options);
    assert_true(r->n_ids >= first + 3);
    for (size_t i = 0; i < first + 2; i++) assert_int_not_equal(r->ids[i], end);
    llava_context_free(&context);
}

static void test_sampling(void **state) {
    (void)state;
    llava_context *context = context_of(0, 1);
    llava_session *session = session_of(context);
    llava_generate_options options = {
        .max_new_tokens = 20, .ignore_eos = true, .temperature = 1.5f, .top_k = -1, .seed = 11};
    int32_t first[20], greedy[20];
    memcpy(first, answer_with(session, options)->ids, sizeof first);
    assert_memory_equal(answer_with(session, options)->ids, first, sizeof first);
    options.seed = 12;
    assert_memory_not_equal(answer_with(session, options)->ids, first, sizeof first);
    options.top_k = 1; /* sampling from one candidate is greedy */
    memcpy(greedy, answer_with(session, options)->ids, sizeof greedy);
    options = (llava_generate_options){.max_new_tokens = 20, .ignore_eos = true};
    assert_memory_equal(answer_with(session, options)->ids, greedy, sizeof greedy);
    options.no_repeat_ngram_size = 1;
    const llava_result *r = answer_with(session, options);
    for (size_t i = 0; i < r->n_ids; i++)
        for (size_t k = 0; k < i; k++) assert_int_not_equal(r->ids[i], r->ids[k]);
    llava_context_free(&context);
}

/* ---------------------------------------------------------------- cancelling */

typedef struct canceller {
    llava_session *session;
    collector *watched;
} canceller;

static void *cancel_when_begun(void *user) {
    canceller *c = user;
    while (!atomic_load(&c->watched->begun)) {
    }
    llava_session_cancel(c->session);
    return NULL;
}

static void test_cancel_from_another_thread(void **state) {
    (void)state;
    llava_context *context = context_of(0, 1);
    llava_session *session = session_of(context);
    collector c = {0};
    canceller cancel = {session, &c};
    const piece prompt = whole();
    const llava_generate_options options = {.ignore_eos = true, .on_text = collect, .user = &c};
    const llava_result *untouched = NULL;
    pthread_t thread;
    CHECK(llava_session_feed(session, prompt.parts, prompt.n_parts, &err));
    assert_int_equal(pthread_create(&thread, NULL, cancel_when_begun, &cancel), 0);
    assert_int_equal(llava_session_generate(session, &options, &untouched, &err), LLAVA_CANCELLED);
    pthread_join(thread, NULL);
    assert_null(untouched);
    const llava_result *r = llava_session_result(session);
    assert_int_equal(r->finish_reason, LLAVA_FINISH_CANCELLED);
    assert_true(r->n_ids > 0);
    assert_int_equal(r->text_size, c.text.size);
    assert_memory_equal(r->text, c.text.data, c.text.size);
    bytes_free(&c.text);
    /* usable again; what was computed is in the cache */
    r = answer_with(session, (llava_generate_options){.max_new_tokens = 3, .ignore_eos = true});
    assert_int_equal(r->n_ids, 3);
    assert_int_equal(r->n_cached_tokens, r->n_prompt_tokens - 1);
    llava_context_free(&context);
}

static void test_callback_says_stop(void **state) {
    (void)state;
    llava_context *context = context_of(0, 1);
    llava_session *session = session_of(context);
    collector c = {.most = 2};
    const piece prompt = whole();
    const llava_generate_options options = {
        .max_new_tokens = 40, .ignore_eos = true, .on_text = collect, .user = &c};
    CHECK(llava_session_feed(session, prompt.parts, prompt.n_parts, &err));
    assert_int_equal(llava_session_generate(session, &options, NULL, &err), LLAVA_CANCELLED);
    const llava_result *r = llava_session_result(session);
    assert_int_equal(c.n_pieces, 2);
    assert_int_equal(r->finish_reason, LLAVA_FINISH_CANCELLED);
    assert_int_equal(r->text_size, c.text.size);
    bytes_free(&c.text);
    llava_context_free(&context);
}

/* ---------------------------------------------------------------- allocations */

static void expect_no_allocations(llava_generate_options options, int n_threads, const char *what) {
    llava_context *context = context_of(0, n_threads);
    llava_session *session = session_of(context);
    const piece prompt = whole();
    options.max_new_tokens = 30;
    options.ignore_eos = true;
    CHECK(llava_session_feed(session, prompt.parts, prompt.n_parts, &err));
    CHECK(llava_session_start(session, &options, &err));
    size_t n_running = 1;
    const long before = atomic_load(&n_allocations);
    while (n_running > 0) CHECK(llava_context_step(context, &n_running, &err));
    const long n = atomic_load(&n_allocations) - before;
    if (n != 0) fail_msg("%s: %ld allocations while stepping", what, n);
    assert_int_equal(llava_session_result(session)->n_ids, 30);
    llava_context_free(&context);
}

static void test_steps_allocate_nothing(void **state) {
    (void)state;
    assert_true(atomic_load(&n_allocations) > 0); /* they are counted */
    const char *const stops[] = {"never", "anywhere"};
    const llava_generate_options sampling = {.temperature = 0.8f,
                                             .top_p = 0.9f,
                                             .repetition_penalty = 1.1f,
                                             .stop = stops,
                                             .n_stop = 2,
                                             .keep_special_tokens = true};
    for (int n_threads = 1; n_threads <= 2; n_threads++) {
        expect_no_allocations((llava_generate_options){0}, n_threads, "greedy");
        expect_no_allocations((llava_generate_options){.num_beams = 3}, n_threads, "beams");
        expect_no_allocations(sampling, n_threads, "sampling");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alone_and_together),
        cmocka_unit_test(test_many_sessions),
        cmocka_unit_test(test_beams_beside_others),
        cmocka_unit_test(test_visual_tokens),
        cmocka_unit_test(test_prefix_reuse),
        cmocka_unit_test(test_texts_are_merged),
        cmocka_unit_test(test_other_picture),
        cmocka_unit_test(test_second_turn),
        cmocka_unit_test(test_cache_gives_way),
        cmocka_unit_test(test_context_overflow),
        cmocka_unit_test(test_failed_feed),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_questions),
        cmocka_unit_test(test_streaming_and_stops),
        cmocka_unit_test(test_end_ids),
        cmocka_unit_test(test_sampling),
        cmocka_unit_test(test_cancel_from_another_thread),
        cmocka_unit_test(test_callback_says_stop),
        cmocka_unit_test(test_steps_allocate_nothing),
    };
    return cmocka_run_group_tests_name("engine", tests, set_up, tear_down);
}
