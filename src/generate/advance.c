/* SPDX-License-Identifier: Apache-2.0
 *
 * What a session does with the logits of a step.
 */
#include <math.h>

#include "engine.h"

/** The largest logit's id. Half-precision overflow ends in logits that are no numbers; no token
 *  follows from those. */
static llava_status find_best(const llava_session *session, const float *logits, int32_t *best,
                              llava_error *err) {
    const llava_model *model = &session->context->model;
    *best = sampler_argmax(logits, model->n_vocab);
    if (isfinite(logits[*best])) return LLAVA_OK;
    return llava_fail(err, LLAVA_MALFORMED,
                      "the logits at position %lld are not finite; the weights overflow in %s, "
                      "load them as bfloat16 or float32",
                      (long long)session->cache.n_tokens, dtype_name(model->compute));
}

/** Whether the largest logit is not the answer already. */
static bool changes_scores(const sampler_settings *s, size_t n_generated) {
    return s->do_sample || s->repetition_penalty != 1.0f || s->no_repeat_ngram_size > 0 ||
           (int64_t)n_generated < s->min_new_tokens;
}

/** Penalties and filters on a copy of the logits. */
static int32_t choose_from_scores(llava_session *session) {
    llava_context *context = session->context;
    const answer_settings *settings = &session->settings;
    const answer *a = &session->answer;
    const int64_t n_vocab = context->model.n_vocab;
    memcpy(context->scores, session->logits, (size_t)n_vocab * sizeof *context->scores);
    sampler_process(&settings->sampler, context->scores, n_vocab, a->ids, a->n_prefix + a->n_ids,
                    settings->eos.data, settings->eos.count);
    if (!settings->sampler.do_sample) return sampler_argmax(context->scores, n_vocab);
    return sampler_draw(&settings->sampler, context->scores, n_vocab, &session->random,
                        context->work);
}

static llava_status choose(llava_session *session, llava_error *err) {
    const answer_settings *settings = &session->settings;
    answer *a = &session->answer;
    int32_t id;
    LLAVA_TRY(find_best(session, session->logits, &id, err));
    if (changes_scores(&settings->sampler, a->n_prefix + a->n_ids))
        id = choose_from_scores(session);
    session->cache_keys[session->prompt.n_rows + (int64_t)a->n_ids] = row_key_of_token(id);
    LLAVA_TRY(answer_push(a, settings, id, err));
    if (a->finish_reason == LLAVA_FINISH_NONE) {
        session_update_result(session);
        return LLAVA_OK;
    }
    return session_end(session, a->finish_reason, err);
}

/** Each beam goes on in the cache of the beam it came from. */
static llava_status follow_beams(llava_session *session, llava_error *err) {
    session_beams *beams = &session->beams;
    for (int i = 0; i < beams->n_beams; i++) {
        const kv_sequence *source =
            beams->started ? &beams->sequences[beams->search->source[i]] : &session->cache;
        LLAVA_TRY(kv_sequence_share(&beams->spare[i], source, err));
    }
    for (int i = 0; i < beams->n_beams; i++) kv_sequence_truncate(&beams->sequences[i], 0);
    kv_sequence *const swap = beams->sequences;
    beams->sequences = beams->spare;
    beams->spare = swap;
    beams->started = true;
    return LLAVA_OK;
}

static llava_status choose_beams(llava_session *session, llava_error *err) {
    llava_context *context = session->context;
    session_beams *beams = &session->beams;
    const int64_t n_vocab = context->model.n_vocab;
    for (int i = 0; i < beams->n_beams; i++) {
        const float *logits = session->logits + (beams->started ? i * n_vocab : 0);
        int32_t best;
        LLAVA_TRY(find_best(session, logits, &best, err));
        memcpy(context->scores + i * n_vocab, logits, (size_t)n_vocab * sizeof *logits);
    }
    beam_search_step(beams->search, context->scores, &session->random, context->work);
    if (beams->search->done) return session_end(session, LLAVA_FINISH_LENGTH, err);
    return follow_beams(session, err);
}

llava_status session_advance(llava_session *session, double step_ms, llava_error *err) {
    if (session->state == SESSION_PROMPT) {
        session->result.prompt_ms += step_ms;
        if (session->cache.n_tokens < session->prompt.n_rows) return LLAVA_OK;
        session->state = SESSION_ANSWER;
        prompt_release_pictures(&session->prompt);
    } else {
        session->result.decode_ms += step_ms;
    }
    session->has_logits = true;
    const llava_status status =
        session->beams.search ? choose_beams(session, err) : choose(session, err);
    if (status != LLAVA_OK && session_is_running(session)) {
        session_end(session, LLAVA_FINISH_CANCELLED, NULL);
    }
    return status;
}
