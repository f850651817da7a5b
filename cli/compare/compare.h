/* SPDX-License-Identifier: Apache-2.0
 *
 * llava compare: the same answers under two models, token by token.
 */
#ifndef LLAVA_CLI_COMPARE_H
#define LLAVA_CLI_COMPARE_H

#include "cli.h"
#include "generate/prompt.h"
#include "model/model.h"
#include "text/text.h"

/* ---------------------------------------------------------------- metrics */

/** Sums over tokens. Zero-initialise; release with compare_totals_free(). */
typedef struct compare_totals {
    double *kl; /* of each token: KL(A || B) in nats */
    size_t count, capacity;
    size_t n_agree; /* tokens whose likeliest id is the same */
    double nll[2];  /* sums of -ln p(answer's token) under A and B */
    size_t largest; /* place of the largest divergence in kl */
} compare_totals;

/** What the sums say. */
typedef struct compare_summary {
    double kl_mean, kl_p95, kl_max; /* nats; p95: the smallest that 95 % of the tokens stay at or
                                       below */
    double agreement;               /* share of tokens with the same likeliest id */
    double perplexity[2];           /* exp(mean -ln p) */
} compare_summary;

/** Adds a token: the logits [n_vocab] in front of it under both models, and its id. */
llava_status compare_add(compare_totals *totals, const float *a, const float *b, int64_t n_vocab,
                         int32_t id, llava_error *err);
/** Needs at least one token. */
compare_summary compare_summarize(const compare_totals *totals);
void compare_totals_free(compare_totals *totals);

/* ---------------------------------------------------------------- one of the two models */

#define COMPARE_LOGIT_ROWS 64 /* most tokens whose logits are held at a time */

typedef struct compare_side {
    const char *label; /* "A" or "B" */
    cli_args args;     /* of the command line, for this side */
    cli_model model;
    decoder_scratch *scratch;
    float *rows, *logits;
    int32_t *tokens;
    /* of the question in hand */
    kv_pool *pool;
    kv_sequence sequence;
    prompt prompt;
    ids answer;
    int64_t n_done; /* rows computed */
} compare_side;

/** A line of the data file. */
typedef struct compare_item {
    const char *question, *answer;
    picture_list pictures;
} compare_item;

llava_status compare_side_open(const cli_args *args, int index, compare_side *side,
                               llava_error *err);
void compare_side_close(compare_side *side);

/** Prompt and answer as rows, computed up to the answer's first token. */
llava_status compare_side_begin(compare_side *side, const compare_item *item, llava_error *err);
/** Logits in front of the next n tokens of the answer, in side->logits. */
llava_status compare_side_step(compare_side *side, int64_t n, llava_error *err);

#endif
