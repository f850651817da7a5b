/* SPDX-License-Identifier: Apache-2.0
 *
 * llava bench: a whole model's stages, each beside the machine's own limit.
 */
#ifndef LLAVA_CLI_BENCH_H
#define LLAVA_CLI_BENCH_H

#include "image/image.h"
#include "limits.h"
#include "model/model.h"

#define BENCH_MAX_SIZES   16
#define BENCH_MAX_REPEATS 101
#define BENCH_TEXT_TOKENS 60 /* of a whole question, beside its picture */
#define BENCH_ANSWER      16 /* tokens generated at each context */

/** Sizes to measure, as the command line lists them. */
typedef struct bench_sizes {
    int64_t items[BENCH_MAX_SIZES];
    int count;
} bench_sizes;

/** One line of the report. */
typedef struct bench_figure {
    const char *name; /* "tower", ... */
    const char *unit; /* of size: "tiles", "tokens", ... */
    int64_t size;
    double ms;          /* median */
    bool limited;       /* the next four hold */
    limit_kind kind;    /* which limit bounds it */
    double rate, limit; /* operations or bytes a second, medians */
    double fraction;    /* median of rate over the limit sampled around it */
    double per_second;  /* units a second */
} bench_figure;

typedef struct bench {
    llava_model *model;
    const llava_image_processor *processor; /* NULL: a plain language model */
    const char *picture;                    /* a file, or NULL: made up */
    int n_repeats;
    bench_figure figures[8 * BENCH_MAX_SIZES];
    size_t n_figures;
    /* of a running stage */
    int64_t size;
    float *rows; /* [STEP_ROWS, hidden_size] */
    float *logits;
    kv_pool *pool;
    kv_sequence sequence;
    decoder_scratch *scratch;
} bench;

/* ---------------------------------------------------------------- counting */

/** Arithmetic of products and attention: 2 for every multiply-add that the result needs. */
double bench_tower_work(const llava_model *model, int64_t n_views);
/** A prompt of n rows and the logits of its last one. */
double bench_prompt_work(const llava_model *model, int64_t n);
/** Bytes of weights and cache that one generated token reads at this context. */
double bench_token_bytes(const llava_model *model, int64_t context);
/** Which limit bounds products of this model. */
limit_kind bench_arithmetic(const llava_model *model);

/* ---------------------------------------------------------------- measuring */

/** Something to time: runs once for b->size. */
typedef llava_status (*bench_fn)(bench *b, void *user, llava_error *err);

/** What the figure is called and what it costs; work 0: it has no limit. */
typedef struct bench_subject {
    const char *name, *unit;
    int64_t size;    /* as reported, and in b->size while running */
    double n_units;  /* for units a second */
    double work;     /* operations or bytes of one run */
    limit_kind kind; /* of work */
    bench_fn run;
    void *user;
} bench_subject;

/** Runs once to warm up, then n_repeats times with the limit sampled around each. */
llava_status bench_measure(bench *b, const bench_subject *subject, llava_error *err);
/** A figure measured elsewhere: ms and limit of each of n runs. */
void bench_add(bench *b, const bench_subject *subject, double *ms, double *limits, int n);

/* ---------------------------------------------------------------- stages */

/** Working memory for prompts and contexts of up to max_tokens. */
llava_status bench_open(bench *b, int64_t max_tokens, llava_error *err);
void bench_close(bench *b);

llava_status bench_towers(bench *b, const bench_sizes *tiles, llava_error *err);
llava_status bench_prompts(bench *b, const bench_sizes *lengths, llava_error *err);
llava_status bench_decodes(bench *b, const bench_sizes *contexts, llava_error *err);
/** Rows of the whole question's prompt; 0 when there is no tower. */
llava_status bench_question_rows(bench *b, int64_t *n_rows, llava_error *err);
llava_status bench_question(bench *b, llava_error *err);

/** n prompt rows through the decoder behind what the sequence holds; picture NULL: random tokens,
 *  else rows [n_picture, hidden_size] in front of them. */
llava_status bench_feed(bench *b, const float *picture, int64_t n_picture, int64_t n_tokens,
                        llava_error *err);
/** One generated token. */
llava_status bench_token(bench *b, llava_error *err);

#endif
