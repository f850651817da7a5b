/* SPDX-License-Identifier: Apache-2.0
 *
 * Reference suite: recorded greedy and beam answers through sessions, in float32. Ids must be
 * identical, except after a step where the reference's two best logits are closer together than
 * float32 arithmetic in another order can tell apart.
 */
#include "engine_support.h"

#include <math.h>

#define TIE_PER_SIGMA 1e-3 /* of the logits' standard deviation */
#define SCORE_TIE     1e-4 /* beams: log-probability per token */

typedef struct suite {
    reference_count greedy, beam, ask;
} suite;

typedef struct attempt {
    suite *counts;
    trace *t;
    llava_loaded *loaded;
    llava_context *context;
    llava_session *session;
} attempt;

static bool tie_at(const json_t *greedy, size_t step) {
    const double gap = json_number_value(json_array_get(json_object_get(greedy, "top2_gap"), step));
    return gap <= TIE_PER_SIGMA * json_number_value(json_object_get(greedy, "logit_std"));
}

/** Number of leading ids that agree. */
static size_t agreement(const json_t *expected, const llava_result *r) {
    size_t n = 0;
    while (n < r->n_ids && n < json_array_size(expected) &&
           json_integer_value(json_array_get(expected, n)) == r->ids[n])
        n++;
    return n;
}

static bool same_text(const json_t *expected, const llava_result *r) {
    return json_string_length(expected) == r->text_size &&
           memcmp(json_string_value(expected), r->text, r->text_size) == 0;
}

static void judge_greedy(reference_count *count, const trace *t, const llava_result *r) {
    const json_t *greedy = json_object_get(t->root, "greedy");
    const json_t *expected = json_object_get(greedy, "ids");
    const size_t n = agreement(expected, r), n_expected = json_array_size(expected);
    if (n == n_expected && r->n_ids == n_expected) {
        if (same_text(json_object_get(greedy, "text"), r))
            reference_pass(count);
        else
            reference_fail(count, t->name, "same ids, but text \"%.*s\", expected \"%s\"",
                           (int)r->text_size, r->text, trace_text(greedy, "text"));
    } else if (n < n_expected && tie_at(greedy, n)) {
        reference_pass(count);
    } else if (n == r->n_ids && r->finish_reason == LLAVA_FINISH_STOP) {
        reference_pass(
            count); /* a template's stop text, which the recorded call did not look for */
    } else {
        reference_fail(count, t->name, "id %zu of %zu is %d, expected %lld", n, r->n_ids,
                       n < r->n_ids ? r->ids[n] : -1,
                       (long long)json_integer_value(json_array_get(expected, n)));
    }
}

/** A prompt that the reference makes in a way of its own is no case for sessions. */
static bool prompt_differs(reference_count *count, const trace *t, const llava_result *r) {
    const json_int_t rows = json_integer_value(json_object_get(t->root, "prompt_rows"));
    const size_t n_images = json_array_size(json_object_get(t->root, "images"));
    if (r->n_prompt_tokens == rows) return false;
    if (n_images > 1)
        reference_skip(count, t->name,
                       "several pictures share the prompt, which turns anyres into "
                       "pad here");
    else
        reference_fail(count, t->name, "%lld rows, expected %lld", (long long)r->n_prompt_tokens,
                       (long long)rows);
    return true;
}

static bool feed_failed(reference_count *count, const trace *t, llava_status status,
                        const llava_error *err) {
    if (status == LLAVA_OK) return false;
    if (status == LLAVA_CONTEXT_FULL)
        reference_skip(count, t->name, "the reference cuts this prompt: %s", err->message);
    else
        reference_fail(count, t->name, "%s", err->message);
    return true;
}

static void run_greedy(const attempt *a) {
    reference_count *count = &a->counts->greedy;
    const json_t *greedy = json_object_get(a->t->root, "greedy");
    llava_error err = {0};
    const llava_result *r;
    const llava_generate_options options = {
        .max_new_tokens = json_integer_value(json_object_get(greedy, "max_new_tokens"))};
    if (feed_failed(count, a->t, llava_session_feed(a->session, a->t->parts, a->t->n_parts, &err),
                    &err) ||
        prompt_differs(count, a->t, llava_session_result(a->session)))
        return;
    if (llava_session_generate(a->session, &options, &r, &err) != LLAVA_OK)
        reference_fail(count, a->t->name, "%s", err.message);
    else
        judge_greedy(count, a->t, r);
}

static void run_beam(const attempt *a) {
    reference_count *count = &a->counts->beam;
    const json_t *beam = json_object_get(a->t->root, "beam");
    llava_error err = {0};
    const llava_result *r;
    const llava_generate_options options = {
        .max_new_tokens = json_integer_value(json_object_get(beam, "max_new_tokens")),
        .num_beams = (int32_t)json_integer_value(json_object_get(beam, "num_beams")),
        .length_penalty = (float)json_number_value(json_object_get(beam, "length_penalty"))};
    if (!json_is_object(beam)) return;
    if (feed_failed(count, a->t, llava_session_feed(a->session, a->t->parts, a->t->n_parts, &err),
                    &err) ||
        prompt_differs(count, a->t, llava_session_result(a->session)))
        return;
    if (llava_session_generate(a->session, &options, &r, &err) != LLAVA_OK) {
        reference_fail(count, a->t->name, "%s", err.message);
        return;
    }
    const json_t *expected = json_object_get(beam, "ids");
    const double score = json_number_value(json_object_get(beam, "sequence_score"));
    const size_t n = agreement(expected, r);
    if (fabs(score - r->sequence_score) > SCORE_TIE)
        reference_fail(count, a->t->name, "score %.7f, expected %.7f", r->sequence_score, score);
    else if (n != json_array_size(expected) || n != r->n_ids)
        reference_fail(count, a->t->name, "ids agree in %zu places of %zu", n, r->n_ids);
    else
        reference_pass(count);
}

/** The same answer from the messages alone. */
static void run_ask(const attempt *a) {
    reference_count *count = &a->counts->ask;
    const json_t *turns = json_object_get(a->t->root, "turns");
    const json_t *greedy = json_object_get(a->t->root, "greedy");
    const char *conversation = trace_text(a->t->root, "conversation");
    llava_message messages[32];
    llava_error err = {0};
    const llava_result *r;
    if (!conversation || !json_is_array(turns) || json_array_size(turns) > 32) return;
    for (size_t i = 0; i < a->t->n_parts; i++)
        if (a->t->parts[i].kind == LLAVA_PART_VIDEO) return;
    for (size_t i = 0; i < json_array_size(turns); i++)
        messages[i] = (llava_message){.role = (int)(i % 2),
                                      .text = json_string_value(json_array_get(turns, i))};
    const llava_status status =
        llava_session_ask(a->session, conversation, messages, json_array_size(turns),
                          (const llava_image *const *)a->t->pictures, a->t->n_pictures, &err);
    if (feed_failed(count, a->t, status, &err) ||
        prompt_differs(count, a->t, llava_session_result(a->session)))
        return;
    const llava_generate_options options = {
        .max_new_tokens = json_integer_value(json_object_get(greedy, "max_new_tokens"))};
    if (llava_session_generate(a->session, &options, &r, &err) != LLAVA_OK)
        reference_fail(count, a->t->name, "%s", err.message);
    else
        judge_greedy(count, a->t, r);
}

/** The reference lets prompts and answers pass the context length. */
static int64_t tokens_needed(const trace *t, const llava_loaded *loaded) {
    const json_t *greedy = json_object_get(t->root, "greedy");
    const int64_t rows = json_integer_value(json_object_get(t->root, "prompt_rows"));
    const int64_t n_new = json_integer_value(json_object_get(greedy, "max_new_tokens"));
    return i64_max(loaded->context_len, rows + n_new);
}

static bool visit(void *user, const char *path) {
    suite *s = user;
    trace t = {0};
    llava_loaded loaded = {0};
    attempt a = {.counts = s, .t = &t, .loaded = &loaded};
    llava_error err = {0};
    llava_status status = trace_open(path, &t, &err);
    if (status == LLAVA_OK && !json_object_get(t.root, "greedy")) {
        trace_close(&t); /* a tower alone */
        return true;
    }
    if (status == LLAVA_OK) status = trace_load(&t, &loaded, &err);
    const llava_context_options options = {.max_tokens = tokens_needed(&t, &loaded)};
    if (status == LLAVA_OK) status = llava_context_new(&loaded, &options, &a.context, &err);
    if (status == LLAVA_OK) status = llava_session_new(a.context, &a.session, &err);
    if (status == LLAVA_OK) {
        run_greedy(&a);
        run_beam(&a);
        run_ask(&a);
    } else {
        reference_fail(&s->greedy, path, "%s", err.message);
    }
    llava_context_free(&a.context);
    llava_loaded_close(&loaded);
    trace_close(&t);
    return true;
}

int main(void) {
    suite s = {
        {.folder = "greedy answers"}, {.folder = "beam answers"}, {.folder = "asked answers"}};
    if (!trace_walk(visit, &s)) printf("traces: no such folder in %s\n", reference_folder());
    const bool greedy = reference_close(&s.greedy), beam = reference_close(&s.beam);
    return reference_close(&s.ask) && greedy && beam ? 0 : 1;
}
