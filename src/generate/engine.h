/* SPDX-License-Identifier: Apache-2.0
 *
 * What contexts and sessions are made of. Seen by this folder only.
 */
#ifndef LLAVA_GENERATE_ENGINE_H
#define LLAVA_GENERATE_ENGINE_H

#include <stdatomic.h>

#include "answer.h"
#include "beams.h"
#include "generate.h"
#include "prompt.h"
#include "question.h"
#include "settings.h"

#define STEP_LOGIT_ROWS BEAMS_MAX /* most rows of one step whose logits are wanted */

typedef enum session_state {
    SESSION_EMPTY = 0, /* no prompt */
    SESSION_FED,       /* a prompt that was not answered yet */
    SESSION_PROMPT,    /* running: rows of the prompt are left */
    SESSION_ANSWER,    /* running: generating */
    SESSION_DONE,      /* the result is final */
} session_state;

/** Beams have a cache each, sharing blocks. */
typedef struct session_beams {
    beam_search *search;
    kv_sequence *sequences, *spare; /* [n_beams] each */
    int n_beams;
    bool started; /* the beams' own sequences are in use */
} session_beams;

struct llava_session {
    llava_context *context;
    session_state state;
    atomic_bool cancelled;
    uint64_t last_used; /* the context's clock: who gives up its cache first */
    const conversation_template *conversation; /* of the prompt; NULL: made without one */
    prompt prompt;
    kv_sequence cache;
    row_key *cache_keys; /* of the cache's rows and those to come */
    size_t cache_capacity;
    int64_t reusable_rows; /* dynamic rope: cached rows rotated with the plain base */
    answer_settings settings;
    answer answer;
    session_beams beams;
    rng random;
    float *logits; /* [n_beams, n_vocab] of the last step */
    size_t n_logits;
    size_t n_step_items; /* items of this session in the current step */
    bool has_logits;
    llava_result result;
};

struct llava_context {
    llava_model model; /* a copy that computes on this context's own device */
    bool owns_device;
    const llava_tokenizer *tokenizer;
    const llava_image_processor *processor;
    int64_t max_tokens;   /* of one sequence */
    size_t longest_token; /* bytes */
    kv_pool *pool;
    decoder_scratch *scratch;
    llava_session **sessions;
    size_t n_sessions, capacity;
    size_t next_session; /* who is served first: turns round */
    uint64_t clock;
    /* working memory of a step */
    decoder_item items[STEP_ROWS]; /* none is without rows */
    size_t n_items;
    int64_t n_rows, n_logit_rows;
    float *rows; /* [STEP_ROWS, hidden_size] */
    int32_t tokens[STEP_ROWS];
    float *scores; /* [n_beams, n_vocab] of the session that is being sampled */
    size_t n_scores;
    void *work; /* of the sampler */
};

/* ---------------------------------------------------------------- engine_memory.c */

/** Reserves n more positions; idle sessions lose their caches before it fails. */
llava_status engine_reserve(llava_context *context, kv_sequence *sequence, int64_t n,
                            llava_error *err);
llava_status engine_beams_new(llava_session *session, llava_error *err);
void engine_beams_free(session_beams *beams);
/** Longest text of a token, in bytes. */
size_t engine_longest_token(const llava_tokenizer *tokenizer, int64_t n_vocab);

/* ---------------------------------------------------------------- session.c */

/** Leading rows of the prompt that the cache holds; always less than the whole. */
int64_t session_cached_rows(const llava_session *session);
bool session_is_running(const llava_session *session);
/** Publishes the answer as it stands. */
void session_update_result(llava_session *session);
/** The answer is final. */
llava_status session_end(llava_session *session, llava_finish_reason reason, llava_error *err);

/* ---------------------------------------------------------------- advance.c */

/** Takes the step's logits: chooses tokens. */
llava_status session_advance(llava_session *session, double step_ms, llava_error *err);

#endif
