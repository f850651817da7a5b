/* SPDX-License-Identifier: Apache-2.0
 *
 * A session: one conversation. Feeding prepares a prompt, starting makes the session run; all the
 * computing of the decoder happens in context_step().
 */
#include <stdlib.h>

#include "engine.h"

/* ---------------------------------------------------------------- life */

static llava_status enlist(llava_context *context, llava_session *session, llava_error *err) {
    if (context->n_sessions == context->capacity) {
        const size_t capacity = context->capacity ? context->capacity * 2 : 8;
        llava_session **list = realloc(context->sessions, capacity * sizeof(void *));
        if (!list) return llava_fail_memory(err, capacity * sizeof(void *), "sessions");
        context->sessions = list;
        context->capacity = capacity;
    }
    context->sessions[context->n_sessions++] = session;
    return LLAVA_OK;
}

llava_status session_new(llava_context *context, llava_session **out, llava_error *err) {
    llava_session *session = array_new(1, sizeof *session);
    if (!session) return llava_fail_memory(err, sizeof *session, "a session");
    session->context = context;
    atomic_init(&session->cancelled, false);
    llava_status status = kv_sequence_new(context->pool, context->max_tokens, &session->cache, err);
    if (status == LLAVA_OK) status = enlist(context, session, err);
    if (status != LLAVA_OK) {
        kv_sequence_free(&session->cache);
        free(session);
        return status;
    }
    session_update_result(session);
    *out = session;
    return LLAVA_OK;
}

static void drop_answer(llava_session *session) {
    engine_beams_free(&session->beams);
    answer_free(&session->answer);
    settings_free(&session->settings);
}

void session_free(llava_session **session) {
    llava_session *s = *session;
    if (!s) return;
    llava_context *context = s->context;
    size_t at = 0;
    while (at < context->n_sessions && context->sessions[at] != s) at++;
    for (; at + 1 < context->n_sessions; at++) context->sessions[at] = context->sessions[at + 1];
    context->n_sessions--;
    drop_answer(s);
    prompt_free(&s->prompt);
    kv_sequence_free(&s->cache);
    free(s->cache_keys);
    free(s->logits);
    free(s);
    *session = NULL;
}

bool session_is_running(const llava_session *session) {
    return session->state == SESSION_PROMPT || session->state == SESSION_ANSWER;
}

/* ---------------------------------------------------------------- feeding */

static bool dynamic_rope(const llava_session *session) {
    return session->context->model.config->lm.rope == ROPE_DYNAMIC;
}

/** Cached rows that a prompt of n_rows may use, and that begin like it. With dynamic rope the
 *  rotation of a row depends on the length of the sequence it was computed in, once that exceeds
 *  max_position_embeddings. */
static int64_t common_rows(const llava_session *session, const prompt *p) {
    int64_t limit = i64_min(session->cache.n_tokens, p->n_rows - 1);
    if (dynamic_rope(session)) {
        if (p->n_rows > session->context->model.config->lm.max_position_embeddings) return 0;
        limit = i64_min(limit, session->reusable_rows);
    }
    int64_t n = 0;
    while (n < limit && row_key_equal(session->cache_keys[n], p->keys[n])) n++;
    return n;
}

int64_t session_cached_rows(const llava_session *session) {
    return common_rows(session, &session->prompt);
}

static prompt_source source_of(const llava_session *session) {
    const llava_context *context = session->context;
    int64_t max_rows = context->max_tokens - 1;
    const int64_t longest = context->model.config->mm.tokenizer_model_max_length;
    if (context->model.config->multimodal && longest > 0) max_rows = i64_min(max_rows, longest);
    return (prompt_source){.model = &context->model,
                           .tokenizer = context->tokenizer,
                           .processor = context->processor,
                           .max_rows = max_rows};
}

static llava_status check_idle(const llava_session *session, llava_error *err) {
    if (!session_is_running(session)) return LLAVA_OK;
    return llava_fail(err, LLAVA_BAD_ARGUMENT,
                      "the session is answering; step until it has finished, or cancel it");
}

static llava_status feed(llava_session *session, const llava_part *parts, size_t n_parts,
                         const conversation_template *conversation, llava_error *err) {
    LLAVA_TRY(check_idle(session, err));
    atomic_store(&session->cancelled, false); /* a cancellation counts from here on */
    const prompt_source source = source_of(session);
    prompt p;
    LLAVA_TRY(prompt_build(&source, parts, n_parts, &p, err));
    const double start = now_ms();
    const llava_status status = prompt_encode_pictures(&source, &p, common_rows(session, &p), err);
    if (status != LLAVA_OK) {
        prompt_free(&p);
        return status;
    }
    drop_answer(session);
    prompt_free(&session->prompt);
    session->prompt = p;
    session->conversation = conversation;
    session->state = SESSION_FED;
    session->has_logits = false;
    session->result = (llava_result){
        .n_prompt_tokens = p.n_rows,
        .n_visual_tokens = p.n_visual,
        .n_cached_tokens = session_cached_rows(session),
        .image_ms = p.n_pictures > 0 ? now_ms() - start : 0,
    };
    session_update_result(session);
    return LLAVA_OK;
}

llava_status session_feed(llava_session *session, const llava_part *parts, size_t n_parts,
                          llava_error *err) {
    return feed(session, parts, n_parts, NULL, err);
}

llava_status session_ask(llava_session *session, const char *template_name,
                         const llava_message *messages, size_t n_messages,
                         const llava_image *const *images, size_t n_images, llava_error *err) {
    const llava_context *context = session->context;
    const question q = {
        .template_name = template_name ? template_name : context->model.template_name,
        .messages = messages,
        .n_messages = n_messages,
        .images = images,
        .n_images = n_images,
        .chat_template = context->model.chat_template,
        .tokenizer = context->tokenizer,
        .wrap = context->model.config->multimodal && context->model.config->mm.use_im_start_end,
    };
    rendered_question rendered;
    LLAVA_TRY(question_render(&q, &rendered, err));
    const llava_status status =
        feed(session, rendered.parts, rendered.n_parts, rendered.conversation, err);
    rendered_question_free(&rendered);
    return status;
}

/* ---------------------------------------------------------------- starting */

static llava_status grow(void **memory, size_t *capacity, size_t count, size_t size,
                         llava_error *err) {
    if (count <= *capacity) return LLAVA_OK;
    size_t n_bytes;
    void *grown = size_mul(count, size, &n_bytes) ? realloc(*memory, n_bytes) : NULL;
    if (!grown) return llava_fail_memory(err, count * size, "a session");
    *memory = grown;
    *capacity = count;
    return LLAVA_OK;
}

/** The processors of a plain language model see the prompt, those of transformers' own LLaVA
 *  classes see it with a placeholder for each row of a picture; those of an original LLaVA class do
 *  not, because its generate() starts from embeddings (transformers 4.40). */
static bool processors_see_prompt(const llava_session *session) {
    const llava_config *config = session->context->model.config;
    return !config->multimodal || config->native;
}

static int32_t id_of_row(const llava_session *session, int64_t row) {
    const mm_config *mm = &session->context->model.config->mm;
    const prompt *p = &session->prompt;
    if (row_key_is_token(p->keys[row])) return (int32_t)p->keys[row].a;
    for (size_t i = 0; i < p->n_pictures; i++) {
        const vision_plan *plan = &p->pictures[i].plan;
        const int64_t first = p->pictures[i].first_row;
        if (plan->kind == VISION_VIDEO && row >= first && row < first + plan->n_rows)
            return (int32_t)(mm->video_token >= 0 ? mm->video_token : mm->image_token);
    }
    return (int32_t)mm->image_token;
}

static void fill_prefix(llava_session *session) {
    answer *a = &session->answer;
    for (size_t i = 0; i < a->n_prefix; i++) a->ids[i] = id_of_row(session, (int64_t)i);
    if (session->settings.sampler.min_new_tokens > 0)
        session->settings.sampler.min_new_tokens += (int64_t)a->n_prefix;
}

static llava_status reserve_memory(llava_session *session, llava_error *err) {
    llava_context *context = session->context;
    const answer_settings *settings = &session->settings;
    const size_t n_logits = (size_t)settings->n_beams * (size_t)context->model.n_vocab;
    const size_t n_keys = (size_t)(session->prompt.n_rows + settings->max_new_tokens);
    const size_t n_prefix = processors_see_prompt(session) ? (size_t)session->prompt.n_rows : 0;
    LLAVA_TRY(grow((void **)&session->logits, &session->n_logits, n_logits, sizeof(float), err));
    LLAVA_TRY(grow((void **)&context->scores, &context->n_scores, n_logits, sizeof(float), err));
    LLAVA_TRY(grow((void **)&session->cache_keys, &session->cache_capacity, n_keys, sizeof(row_key),
                   err));
    LLAVA_TRY(answer_new(context->tokenizer, settings, n_prefix, context->longest_token,
                         &session->answer, err));
    fill_prefix(session);
    if (settings->n_beams > 1) LLAVA_TRY(engine_beams_new(session, err));
    return LLAVA_OK;
}

/** Keeps what the cache shares with the prompt and takes blocks for the rest. */
static llava_status reserve_cache(llava_session *session, llava_error *err) {
    const prompt *p = &session->prompt;
    const int64_t n_cached = session_cached_rows(session);
    kv_sequence_truncate(&session->cache, n_cached);
    LLAVA_TRY(engine_reserve(session->context, &session->cache, p->n_rows - n_cached, err));
    memcpy(session->cache_keys, p->keys, (size_t)p->n_rows * sizeof *p->keys);
    session->result.n_cached_tokens = n_cached;
    if (dynamic_rope(session)) {
        const int64_t plain = session->context->model.config->lm.max_position_embeddings;
        session->reusable_rows = p->n_rows <= plain ? plain : 0;
    }
    return LLAVA_OK;
}

llava_status session_start(llava_session *session, const llava_generate_options *options,
                           llava_error *err) {
    static const llava_generate_options defaults;
    llava_context *context = session->context;
    LLAVA_TRY(check_idle(session, err));
    if (session->state != SESSION_FED)
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "there is no unanswered prompt; feed the session first");
    const settings_request request = {
        .model = &context->model,
        .tokenizer = context->tokenizer,
        .conversation = session->conversation,
        .options = options ? options : &defaults,
        .n_free = context->max_tokens - session->prompt.n_rows,
    };
    LLAVA_TRY(settings_resolve(&request, &session->settings, err));
    llava_status status = reserve_memory(session, err);
    if (status == LLAVA_OK) status = reserve_cache(session, err);
    if (status != LLAVA_OK) {
        drop_answer(session);
        return status;
    }
    session->random = (rng){.seed = session->settings.seed};
    session->last_used = ++context->clock;
    session->state = SESSION_PROMPT;
    session_update_result(session);
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- results */

void session_update_result(llava_session *session) {
    const answer *a = &session->answer;
    llava_result *r = &session->result;
    r->text = a->text.size > 0 ? a->text.data : "";
    r->text_size = a->text.size;
    r->ids = a->ids ? a->ids + a->n_prefix : NULL;
    r->n_ids = a->n_ids;
    r->finish_reason = a->finish_reason;
}

llava_status session_end(llava_session *session, llava_finish_reason reason, llava_error *err) {
    session_beams *beams = &session->beams;
    answer *a = &session->answer;
    llava_status status = LLAVA_OK;
    if (beams->search && reason != LLAVA_FINISH_CANCELLED) {
        int32_t *best = a->ids + a->n_prefix;
        size_t n_best;
        bool ended;
        beam_search_finish(beams->search, best, &n_best, &session->result.sequence_score, &ended);
        status = answer_set(a, &session->settings, best, n_best, ended, err);
    } else {
        status = answer_end(a, &session->settings, reason, err);
    }
    engine_beams_free(beams);
    session->state = SESSION_DONE;
    session->last_used = ++session->context->clock;
    kv_sequence_truncate(&session->cache, session->cache.n_tokens); /* what was only reserved */
    prompt_release_pictures(&session->prompt);
    session_update_result(session);
    return status;
}

const llava_result *session_result(const llava_session *session) { return &session->result; }

const float *session_logits(const llava_session *session) {
    return session->has_logits ? session->logits : NULL;
}

void session_cancel(llava_session *session) { atomic_store(&session->cancelled, true); }
