/* SPDX-License-Identifier: Apache-2.0
 *
 * Who holds KV blocks: running sessions keep theirs, idle ones hold them as a cache only.
 */
#include <stdlib.h>

#include "engine.h"

/** The session that was idle longest and still holds blocks; NULL: none. */
static llava_session *find_idle(const llava_context *context) {
    llava_session *oldest = NULL;
    for (size_t i = 0; i < context->n_sessions; i++) {
        llava_session *s = context->sessions[i];
        if (s->state != SESSION_DONE && s->state != SESSION_EMPTY) continue;
        if (s->cache.n_blocks == 0) continue;
        if (!oldest || s->last_used < oldest->last_used) oldest = s;
    }
    return oldest;
}

llava_status engine_reserve(llava_context *context, kv_sequence *sequence, int64_t n,
                            llava_error *err) {
    llava_status status = kv_sequence_reserve(sequence, n, err);
    while (status == LLAVA_CONTEXT_FULL) {
        llava_session *idle = find_idle(context);
        if (!idle) break;
        kv_sequence_truncate(&idle->cache, 0);
        status = kv_sequence_reserve(sequence, n, err);
    }
    return status;
}

llava_status engine_beams_new(llava_session *session, llava_error *err) {
    llava_context *context = session->context;
    const answer_settings *settings = &session->settings;
    session_beams beams = {.n_beams = settings->n_beams};
    const size_t n_beams = (size_t)settings->n_beams;
    const answer *a = &session->answer;
    const beam_settings search = {
        .n_beams = settings->n_beams,
        .n_vocab = context->model.n_vocab,
        .max_new_tokens = settings->max_new_tokens,
        .length_penalty = settings->length_penalty,
        .early_stopping = settings->early_stopping,
        .sampler = settings->sampler,
        .eos = settings->eos.data,
        .n_eos = settings->eos.count,
        .prefix = a->ids,
        .n_prefix = a->n_prefix,
    };
    llava_status status = beam_search_new(&search, &beams.search, err);
    if (status != LLAVA_OK) return status;
    beams.sequences = array_new(n_beams, sizeof *beams.sequences);
    beams.spare = array_new(n_beams, sizeof *beams.spare);
    if (!beams.sequences || !beams.spare) {
        status = llava_fail_memory(err, n_beams * 2 * sizeof *beams.sequences, "beams");
        goto done;
    }
    for (size_t i = 0; i < n_beams; i++) {
        LLAVA_TRY_DONE(
            kv_sequence_new(context->pool, context->max_tokens, &beams.sequences[i], err));
        LLAVA_TRY_DONE(kv_sequence_new(context->pool, context->max_tokens, &beams.spare[i], err));
    }
    session->beams = beams;
done:
    if (status != LLAVA_OK) engine_beams_free(&beams);
    return status;
}

void engine_beams_free(session_beams *beams) {
    for (int i = 0; beams->sequences && i < beams->n_beams; i++)
        kv_sequence_free(&beams->sequences[i]);
    for (int i = 0; beams->spare && i < beams->n_beams; i++) kv_sequence_free(&beams->spare[i]);
    free(beams->sequences);
    free(beams->spare);
    beam_search_free(&beams->search);
    *beams = (session_beams){0};
}

size_t engine_longest_token(const llava_tokenizer *tokenizer, int64_t n_vocab) {
    size_t longest = 1;
    for (int64_t id = 0; id < n_vocab; id++) {
        const char *text = tokenizer_token(tokenizer, (int32_t)id);
        const size_t size = text ? strlen(text) : 0;
        if (size > longest) longest = size;
    }
    return longest;
}
