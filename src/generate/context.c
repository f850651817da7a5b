/* SPDX-License-Identifier: Apache-2.0
 *
 * A context: working memory for one model, its sessions, and the engine's loop. A step is one
 * ragged batch: a generated row of every session that answers, and prompt rows of the others.
 */
#include <stdlib.h>

#include "engine.h"
#include "load/load.h"

/* ---------------------------------------------------------------- life */

static int64_t tokens_or_default(const llava_context_options *options, int64_t context_len) {
    return options && options->max_tokens > 0 ? options->max_tokens : context_len;
}

/** Contexts compute in parallel, so each has a device of its own. */
static llava_status open_device(llava_context *context, const llava_model *model, int n_threads,
                                llava_dtype kv_dtype, llava_error *err) {
    context->model = *model;
    context->model.kv_dtype = kv_dtype;
    if (strcmp(model->dev->ops->name, "cpu") != 0) return LLAVA_OK;
    device *own;
    LLAVA_TRY(device_open_cpu(n_threads > 0 ? n_threads : model->dev->n_threads, model->dev->level,
                              &own, err));
    context->model.dev = own;
    context->owns_device = true;
    return LLAVA_OK;
}

static llava_status allocate(llava_context *context, int64_t pool_tokens, llava_error *err) {
    const llava_model *model = &context->model;
    const size_t hidden = (size_t)model->config->lm.hidden_size;
    LLAVA_TRY(kv_pool_new(model, pool_tokens, &context->pool, err));
    LLAVA_TRY(decoder_scratch_new(model, STEP_ROWS, STEP_LOGIT_ROWS, context->max_tokens,
                                  &context->scratch, err));
    context->rows = array_new(STEP_ROWS * hidden, sizeof *context->rows);
    context->work = aligned_new(sampler_work_bytes(model->n_vocab));
    if (!context->rows || !context->work)
        return llava_fail_memory(err, STEP_ROWS * hidden * sizeof *context->rows, "a context");
    return LLAVA_OK;
}

llava_status context_new(const llava_loaded *loaded, const llava_context_options *options,
                         llava_context **out, llava_error *err) {
    llava_context *context = array_new(1, sizeof *context);
    if (!context) return llava_fail_memory(err, sizeof *context, "a context");
    const int64_t pool_tokens = tokens_or_default(options, loaded->context_len);
    context->tokenizer = loaded->tokenizer;
    context->processor = loaded->image_processor;
    /* dynamic rope has no fixed end: a caller who asks for more gets it */
    const bool open_ended = loaded->model->config->lm.rope == ROPE_DYNAMIC;
    context->max_tokens = open_ended ? pool_tokens : i64_min(loaded->context_len, pool_tokens);
    context->longest_token = engine_longest_token(loaded->tokenizer, loaded->model->n_vocab);
    const llava_context_options defaults = {0}, *o = options ? options : &defaults;
    llava_status status = open_device(context, loaded->model, o->n_threads, o->kv_dtype, err);
    if (status == LLAVA_OK) status = allocate(context, pool_tokens, err);
    if (status != LLAVA_OK) {
        context_free(&context);
        return status;
    }
    *out = context;
    return LLAVA_OK;
}

void context_free(llava_context **context) {
    llava_context *c = *context;
    if (!c) return;
    while (c->n_sessions > 0) {
        llava_session *session = c->sessions[c->n_sessions - 1];
        session_free(&session);
    }
    free(c->sessions);
    kv_pool_free(&c->pool);
    decoder_scratch_free(&c->scratch);
    if (c->owns_device) device_close(&c->model.dev);
    free(c->rows);
    free(c->scores);
    free(c->work);
    free(c);
    *context = NULL;
}

uint64_t context_bytes(const llava_model *model, int64_t max_tokens) {
    const int64_t context_len = model->config->context_len;
    const int64_t n_tokens = max_tokens > 0 ? max_tokens : context_len;
    size_t kv, total;
    if (!size_mul(kv_bytes_per_token(model), (size_t)round_up(n_tokens, KV_BLOCK_TOKENS), &kv))
        return UINT64_MAX;
    const size_t rows = STEP_ROWS * (size_t)model->config->lm.hidden_size * sizeof(float);
    const size_t scratch =
        decoder_scratch_bytes(model, STEP_ROWS, STEP_LOGIT_ROWS, i64_min(n_tokens, context_len));
    if (!size_add(kv, scratch, &total) || !size_add(total, rows, &total)) return UINT64_MAX;
    return total + sampler_work_bytes(model->n_vocab);
}

/* ---------------------------------------------------------------- planning a step */

static float *next_rows(const llava_context *context) {
    return context->rows + context->n_rows * context->model.config->lm.hidden_size;
}

static void add_item(llava_session *session, const decoder_item *item) {
    llava_context *context = session->context;
    context->items[context->n_items++] = *item;
    context->n_rows += item->n_rows;
    context->n_logit_rows += item->n_logits;
    session->n_step_items++;
}

static llava_status plan_token(llava_session *session, kv_sequence *sequence, int32_t id,
                               int64_t index, llava_error *err) {
    llava_context *context = session->context;
    decoder_item item = {
        .seq = sequence,
        .rows = next_rows(context),
        .n_rows = 1,
        .generated = true,
        .n_logits = 1,
        .logits = session->logits + index * context->model.n_vocab,
    };
    LLAVA_TRY(model_embed_tokens(&context->model, &id, 1, next_rows(context), err));
    add_item(session, &item);
    return LLAVA_OK;
}

/** Room for a row in every sequence of the session. */
static llava_status reserve_tokens(llava_session *session, llava_error *err) {
    const session_beams *beams = &session->beams;
    if (!beams->search) return engine_reserve(session->context, &session->cache, 1, err);
    for (int i = 0; i < beams->n_beams; i++)
        LLAVA_TRY(engine_reserve(session->context, &beams->sequences[i], 1, err));
    return LLAVA_OK;
}

static llava_status plan_answer(llava_session *session, llava_error *err) {
    const session_beams *beams = &session->beams;
    const answer *a = &session->answer;
    /* other sessions took the rest of the cache: the answer ends here, as at the context's end */
    if (reserve_tokens(session, NULL) != LLAVA_OK)
        return session_end(session, LLAVA_FINISH_LENGTH, err);
    if (!beams->search)
        return plan_token(session, &session->cache, a->ids[a->n_prefix + a->n_ids - 1], 0, err);
    for (int i = 0; i < beams->n_beams; i++)
        LLAVA_TRY(
            plan_token(session, &beams->sequences[i], beam_search_last(beams->search, i), i, err));
    return LLAVA_OK;
}

static llava_status plan_prompt(llava_session *session, llava_error *err) {
    llava_context *context = session->context;
    const int64_t first = session->cache.n_tokens, left = session->prompt.n_rows - first;
    int64_t n = i64_min(left, STEP_ROWS - context->n_rows);
    if (n == left && context->n_logit_rows == STEP_LOGIT_ROWS) n--;
    if (n == 0) return LLAVA_OK;
    decoder_item item = {
        .seq = &session->cache,
        .rows = next_rows(context),
        .n_rows = n,
        .n_logits = n == left ? 1 : 0,
        .logits = session->logits,
        .rope_length = session->prompt.n_rows,
    };
    LLAVA_TRY(prompt_embed(&context->model, &session->prompt, first, n, next_rows(context),
                           context->tokens, err));
    add_item(session, &item);
    return LLAVA_OK;
}

static llava_status plan_session(llava_session *session, session_state wanted, llava_error *err) {
    llava_context *context = session->context;
    if (session->state != wanted) return LLAVA_OK;
    if (wanted == SESSION_PROMPT) return plan_prompt(session, err);
    const int64_t n = session->settings.n_beams;
    if (n > STEP_LOGIT_ROWS - context->n_logit_rows) return LLAVA_OK; /* its turn will come */
    return plan_answer(session, err);
}

/** Answers first: they need one row each, and somebody is reading along. */
static llava_status plan_step(llava_context *context, llava_error *err) {
    static const session_state order[] = {SESSION_ANSWER, SESSION_PROMPT};
    context->n_items = 0;
    context->n_rows = context->n_logit_rows = 0;
    for (size_t i = 0; i < context->n_sessions; i++) context->sessions[i]->n_step_items = 0;
    for (size_t o = 0; o < LLAVA_COUNT(order); o++) {
        for (size_t i = 0; i < context->n_sessions; i++) {
            const size_t at = (context->next_session + i) % context->n_sessions;
            LLAVA_TRY(plan_session(context->sessions[at], order[o], err));
        }
    }
    if (context->n_sessions > 0)
        context->next_session = (context->next_session + 1) % context->n_sessions;
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- the step */

static llava_status end_cancelled(llava_context *context, llava_error *err) {
    for (size_t i = 0; i < context->n_sessions; i++) {
        llava_session *session = context->sessions[i];
        if (session_is_running(session) && atomic_load(&session->cancelled))
            LLAVA_TRY(session_end(session, LLAVA_FINISH_CANCELLED, err));
    }
    return LLAVA_OK;
}

/** Every session takes its logits even when one fails; the first failure is reported. */
static llava_status advance_sessions(llava_context *context, double step_ms, llava_error *err) {
    llava_status first = LLAVA_OK;
    for (size_t i = 0; i < context->n_sessions; i++) {
        llava_session *session = context->sessions[i];
        if (session->n_step_items == 0) continue;
        const llava_status status =
            session_advance(session, step_ms, first == LLAVA_OK ? err : NULL);
        if (first == LLAVA_OK) first = status;
    }
    return first;
}

static size_t count_running(const llava_context *context) {
    size_t n = 0;
    for (size_t i = 0; i < context->n_sessions; i++)
        if (session_is_running(context->sessions[i])) n++;
    return n;
}

llava_status context_step(llava_context *context, size_t *n_running, llava_error *err) {
    const double start = now_ms();
    LLAVA_TRY(end_cancelled(context, err));
    LLAVA_TRY(plan_step(context, err));
    if (context->n_items > 0) {
        LLAVA_TRY(
            decoder_step(&context->model, context->scratch, context->items, context->n_items, err));
        LLAVA_TRY(advance_sessions(context, now_ms() - start, err));
    }
    if (n_running) *n_running = count_running(context);
    return LLAVA_OK;
}

llava_status session_generate(llava_session *session, const llava_generate_options *options,
                              const llava_result **result, llava_error *err) {
    LLAVA_TRY(session_start(session, options, err));
    llava_status status = LLAVA_OK;
    while (status == LLAVA_OK && session_is_running(session))
        status = context_step(session->context, NULL, err);
    if (session_is_running(session)) session_end(session, LLAVA_FINISH_CANCELLED, NULL);
    if (status != LLAVA_OK) return status;
    if (session->answer.finish_reason == LLAVA_FINISH_CANCELLED)
        return llava_fail(err, LLAVA_CANCELLED, "generation was cancelled after %zu tokens",
                          session->answer.n_ids);
    if (result) *result = &session->result;
    return LLAVA_OK;
}
