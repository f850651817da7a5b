/* SPDX-License-Identifier: Apache-2.0
 *
 * Comparing a recorded call of the reference with what this library computes, stage by stage.
 */
#ifndef LLAVA_VERIFY_H
#define LLAVA_VERIFY_H

#include <stdio.h>

#include "base/base.h"
#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "generate/generate.h"
#include "load/load.h"

/* ---------------------------------------------------------------- asking */

typedef struct verify_options {
    const char *reference; /* folder that paths in a case start from; NULL: derived from its path */
    llava_dtype dtype;     /* DEFAULT: what the case says */
    bool load_8bit, load_4bit;
    int n_threads;
    const char *cpu_level;
} verify_options;

/** One comparison: `worst` is the value nearest to (or furthest beyond) its limit. */
typedef struct verify_stage {
    const char *name, *metric;
    double worst, limit;
    bool pass;
    const char *detail; /* more about a failure, or NULL */
} verify_stage;

/** What came of one case. Strings belong to it. */
typedef struct verify_report {
    arena *memory;
    const char *case_path;
    verify_stage *stages;
    size_t n_stages, capacity;
    const char **not_compared; /* "name: reason" */
    size_t n_not_compared, not_compared_capacity;
    bool skipped; /* nothing here can run it; `reason` says why */
    const char *reason;
    bool pass; /* every stage passed and at least one ran */
} verify_report;

/** Runs one case. An error means that the case itself could not be read; what goes wrong while
 *  running it is a failed stage, and an unsupported checkpoint makes a skipped report. */
llava_status verify_case(const char *path, const verify_options *options, verify_report **out,
                         llava_error *err);
void verify_report_free(verify_report **report);
void verify_report_print(FILE *out, const verify_report *report);
/** {"case", "pass", "stages", "not_compared"}; NULL only when memory is short. */
json_t *verify_report_json(const verify_report *report);

/* ---------------------------------------------------------------- reports */

llava_status report_new(const char *case_path, verify_report **out, llava_error *err);
/** Adds a stage; format NULL: no detail. Passes when worst <= limit. */
llava_status report_stage(verify_report *report, const char *name, const char *metric, double worst,
                          double limit, const char *format, ...) LLAVA_PRINTF(6, 7);
llava_status report_not_compared(verify_report *report, const char *name, const char *reason);
/** A call of ours failed: a stage without a number. Always returns LLAVA_OK or OUT_OF_MEMORY. */
llava_status report_failed_call(verify_report *report, const char *name, const llava_error *err);
void report_close(verify_report *report);

/* ---------------------------------------------------------------- metrics */

/** Bounds of one precision; language.md calls them levels. */
typedef struct verify_level {
    const char *name;
    double cosine;        /* of 1 - cosine, per row */
    double max_abs_sigma; /* largest difference / standard deviation of the reference */
    double kl_mean, kl_max;
    bool inner_cosine_only; /* stages before the logits are judged by their cosine */
    double beam_score;      /* difference of a beam's score */
} verify_level;

extern const verify_level verify_level_float32, verify_level_half, verify_level_int8,
    verify_level_4bit;

typedef struct row_metrics {
    double one_minus_cosine, max_abs_sigma, kl_mean, kl_max;
} row_metrics;

/** own and reference are [n_rows, n_cols]. Logits: sigma per row, and the divergences. */
row_metrics compare_rows(const float *own, const float *reference, int64_t n_rows, int64_t n_cols,
                         bool are_logits);
/** Elements whose bits differ; 0.0 and -0.0 differ. */
int64_t count_differing(const float *own, const float *reference, int64_t count);
double standard_deviation(const float *values, int64_t count);

/* ---------------------------------------------------------------- a recorded call */

typedef struct trace {
    arena *memory;
    const char *path, *reference;
    json_t *root;
    checkpoint *tensors;
    json_t *seen; /* names of fields and tensors that were used or compared */
} trace;

llava_status trace_open(const char *path, const char *reference, trace *t, llava_error *err);
void trace_close(trace *t);
/** The member at "a.b", marked as seen; NULL when absent or null. */
const json_t *trace_field(trace *t, const char *path);
void trace_mark(trace *t, const char *name);
/** A float32 tensor copied to aligned memory of the trace, marked as seen; NULL when absent. */
llava_status trace_tensor(trace *t, const char *name, tensor *value, llava_error *err);
bool trace_has_tensor(const trace *t, const char *name);
/** Lists everything not marked; ended_early: because the run did not get that far. */
llava_status trace_list_unseen(const trace *t, bool ended_early, verify_report *report);

/* ---------------------------------------------------------------- one run */

#define VERIFY_MAX_PICTURES 64

/** One placeholder's picture or video, and what became of it. */
typedef struct verify_picture {
    llava_image **frames; /* one, or a video's */
    size_t n_frames;
    bool is_video;
    vision_plan plan;
    float *pixels; /* [n_views, 3, size, size] */
    float *rows;   /* [plan.n_rows, hidden_size] */
} verify_picture;

typedef struct verify_run {
    const verify_options *options;
    const verify_level *level;
    llava_dtype dtype;
    trace trace;
    verify_report *report;
    arena *memory;
    llava_loaded loaded;
    llava_model_info info;
    verify_picture pictures[VERIFY_MAX_PICTURES];
    size_t n_pictures;
    ids prompt;        /* -200 for pictures */
    float *embeddings; /* [n_rows, hidden_size] */
    int64_t n_rows;
    bool ended_early;      /* a stage could not go on */
    bool cut_off;          /* the prompt was longer than tokenizer_model_max_length */
    const int32_t *greedy; /* the reference's new ids */
    size_t n_greedy;
} verify_run;

/** Compares a tensor of the trace, if it is there, with own [n_rows, n_cols] in some shape. */
llava_status verify_tensor(verify_run *run, const char *name, const float *own, int n_dims,
                           const int64_t *shape, bool are_logits);
/** The same for rows that are already at hand. */
llava_status verify_rows(verify_run *run, const char *name, const float *own,
                         const float *reference, const int64_t shape[2], bool are_logits);
/** 1 when a text and a recorded string differ, with where; they may hold NUL bytes. */
llava_status verify_text_equal(verify_run *run, const char *name, const char *own, size_t size,
                               const json_t *reference);
/** An integer of the trace at `path`, if it is there. */
llava_status verify_integer(verify_run *run, const char *path, int64_t own);
/** Number of places at which two id lists differ, lengths included. */
llava_status verify_ids(verify_run *run, const char *name, const int32_t *own, size_t n_own,
                        const int32_t *reference, size_t n_reference);
/** A JSON array of whole numbers; NULL and 0 when absent. */
llava_status verify_id_array(verify_run *run, const char *path, const int32_t **values,
                             size_t *count, llava_error *err);

/* the stages, in order */
llava_status verify_returned(verify_run *run, llava_error *err);
llava_status verify_prompt(verify_run *run, llava_error *err);
llava_status verify_pictures(verify_run *run, llava_error *err);
llava_status verify_splice(verify_run *run, llava_error *err);
llava_status verify_decoder(verify_run *run, llava_error *err);
llava_status verify_engine(verify_run *run, llava_error *err);
/** A tower alone (no language model in the case). */
llava_status verify_tower(verify_run *run, llava_error *err);

/** Image processor facts under `path` of the trace. */
llava_status verify_processor_facts(verify_run *run, const char *path,
                                    const llava_image_processor *processor);
/** Opens a picture named relative to the reference folder. */
llava_status verify_open_picture(verify_run *run, const char *name, llava_image **image,
                                 llava_error *err);
void verify_pictures_free(verify_run *run);

#endif
