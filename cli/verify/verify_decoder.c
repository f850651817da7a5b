/* SPDX-License-Identifier: Apache-2.0
 *
 * The decoder over the spliced prompt, then token by token: hidden states, logits, greedy ids.
 */
#include <math.h>
#include <stdlib.h>

#include "verify/verify.h"

/** Buffers and cache of one pass over prompt and answer. */
typedef struct decoding {
    kv_pool *pool;
    kv_sequence seq;
    decoder_scratch *scratch;
    float **hidden; /* n_layers + 2 buffers, or NULL */
    float *logits;  /* [n_logits, n_vocab], the last rows of the prompt */
    int64_t n_logits;
    float *steps;     /* [n_greedy, n_vocab], before any processing */
    float *scores;    /* [n_vocab], after it */
    int32_t *history; /* what processors see */
    size_t n_history;
    int32_t *answer; /* own choice at each step */
    int32_t *fed;    /* what was really fed */
    size_t n_wrong;  /* choices that the gap rule does not excuse */
    double widest_excused;
    int64_t first_wrong;
} decoding;

static const char *half_name(const verify_run *run, const char *stem) {
    return arena_printf(run->memory, "%s.%s", stem, dtype_name(run->dtype));
}

/* ---------------------------------------------------------------- the prompt in one pass */

static llava_status new_hidden(verify_run *run, decoding *d, llava_error *err) {
    if (!trace_has_tensor(&run->trace, "hidden.0")) return LLAVA_OK;
    const size_t n = (size_t)run->info.n_layers + 2;
    const size_t count = (size_t)(run->n_rows * run->info.hidden_size);
    d->hidden = arena_array(run->memory, n, sizeof *d->hidden);
    for (size_t i = 0; d->hidden && i < n; i++) {
        d->hidden[i] = arena_array(run->memory, count + 1, sizeof(float));
        if (!d->hidden[i]) d->hidden = NULL;
    }
    return d->hidden ? LLAVA_OK : llava_fail_memory(err, n * count * 4, "hidden states");
}

/** Rows of logits that some tensor of the case asks for. */
static int64_t wanted_logits(verify_run *run) {
    const json_t *from = trace_field(&run->trace, "logits_from");
    int64_t n = run->n_rows - (from ? json_integer_value(from) : 0);
    const checkpoint_tensor *half = checkpoint_find(run->trace.tensors, half_name(run, "logits"));
    if (half && half->t.n_dims == 2) n = i64_max(n, half->t.shape[0]);
    return i64_min(i64_max(n, 1), run->n_rows);
}

static llava_status decoding_open(verify_run *run, decoding *d, llava_error *err) {
    const llava_model *model = run->loaded.model;
    const int64_t n_vocab = run->info.vocab_size, total = run->n_rows + (int64_t)run->n_greedy + 1;
    d->n_logits = wanted_logits(run);
    LLAVA_TRY(kv_pool_new(model, total + 2 * KV_BLOCK_TOKENS, &d->pool, err));
    LLAVA_TRY(kv_sequence_new(d->pool, total + KV_BLOCK_TOKENS, &d->seq, err));
    LLAVA_TRY(decoder_scratch_new(model, run->n_rows, d->n_logits, total, &d->scratch, err));
    LLAVA_TRY(new_hidden(run, d, err));
    const size_t n = run->n_greedy + 1, history = n + run->prompt.count;
    d->logits = arena_array(run->memory, (size_t)(d->n_logits * n_vocab), sizeof(float));
    d->steps = arena_array(run->memory, n * (size_t)n_vocab, sizeof(float));
    d->scores = arena_array(run->memory, (size_t)n_vocab, sizeof(float));
    d->history = arena_array(run->memory, history, sizeof(int32_t));
    d->answer = arena_array(run->memory, n, sizeof(int32_t));
    d->fed = arena_array(run->memory, n, sizeof(int32_t));
    if (!d->logits || !d->steps || !d->scores || !d->history || !d->answer || !d->fed)
        return llava_fail_memory(err, n * (size_t)n_vocab * sizeof(float), "logits");
    return LLAVA_OK;
}

static void decoding_close(decoding *d) {
    decoder_scratch_free(&d->scratch);
    kv_sequence_free(&d->seq);
    kv_pool_free(&d->pool);
}

static llava_status run_prompt(verify_run *run, decoding *d, llava_error *err) {
    LLAVA_TRY(kv_sequence_reserve(&d->seq, run->n_rows, err));
    decoder_item item = {.seq = &d->seq,
                         .rows = run->embeddings,
                         .n_rows = run->n_rows,
                         .n_logits = d->n_logits,
                         .logits = d->logits,
                         .hidden = d->hidden};
    return decoder_step(run->loaded.model, d->scratch, &item, 1, err);
}

static llava_status compare_hidden(verify_run *run, const decoding *d) {
    if (!d->hidden) return LLAVA_OK;
    const int64_t shape[2] = {run->n_rows, run->info.hidden_size};
    for (int64_t i = 0; i <= run->info.n_layers; i++) {
        const char *name = arena_printf(run->memory, "hidden.%lld", (long long)i);
        LLAVA_TRY(verify_tensor(run, name, d->hidden[i], 2, shape, false));
    }
    return verify_tensor(run, "hidden.normed", d->hidden[run->info.n_layers + 1], 2, shape, false);
}

/** The aim in half precision: no further from the float32 run than the reference's own half
 *  precision run is. full and half are the reference's last rows in the two types. */
static llava_status compare_with_reference_half(verify_run *run, const char *stem,
                                                const float *own_end) {
    tensor full, half;
    llava_error err = {0};
    const char *name = half_name(run, stem);
    if (trace_tensor(&run->trace, stem, &full, &err) != LLAVA_OK ||
        trace_tensor(&run->trace, name, &half, &err) != LLAVA_OK)
        return report_failed_call(run->report, name, &err);
    const int64_t n_vocab = run->info.vocab_size;
    if (!full.data || !half.data || full.n_dims != 2 || half.n_dims != 2 ||
        full.shape[1] != n_vocab || half.shape[1] != n_vocab)
        return LLAVA_OK;
    const int64_t n = i64_min(full.shape[0], half.shape[0]);
    const float *truth = (const float *)full.data + (full.shape[0] - n) * n_vocab;
    const float *theirs = (const float *)half.data + (half.shape[0] - n) * n_vocab;
    const double own = compare_rows(own_end - n * n_vocab, truth, n, n_vocab, true).kl_mean;
    const double reference = compare_rows(theirs, truth, n, n_vocab, true).kl_mean;
    return report_stage(run->report, arena_printf(run->memory, "%s.divergence", name), "KL ratio",
                        own / reference, 1, NULL);
}

static llava_status compare_logits(verify_run *run, const decoding *d) {
    const int64_t n_vocab = run->info.vocab_size;
    const json_t *from = json_get(run->trace.root, "logits_from");
    const int64_t n = i64_max(0, run->n_rows - (from ? json_integer_value(from) : 0));
    const int64_t kept = i64_min(n, d->n_logits);
    const int64_t shape[2] = {kept, n_vocab};
    LLAVA_TRY(
        verify_tensor(run, "logits", d->logits + (d->n_logits - kept) * n_vocab, 2, shape, true));
    if (run->dtype == LLAVA_DTYPE_F32) return LLAVA_OK;
    const checkpoint_tensor *half = checkpoint_find(run->trace.tensors, half_name(run, "logits"));
    if (!half || half->t.n_dims != 2) return LLAVA_OK;
    const int64_t last[2] = {i64_min(half->t.shape[0], d->n_logits), n_vocab};
    const float *end = d->logits + d->n_logits * n_vocab;
    LLAVA_TRY(verify_tensor(run, half->name, end - last[0] * n_vocab, 2, last, true));
    return compare_with_reference_half(run, "logits", end);
}

/* ---------------------------------------------------------------- greedy search */

static sampler_settings greedy_settings(const verify_run *run) {
    const generation_config *g = &run->loaded.model->config->generation;
    return (sampler_settings){.repetition_penalty = g->repetition_penalty,
                              .no_repeat_ngram_size = g->no_repeat_ngram_size,
                              .min_new_tokens = g->min_new_tokens};
}

static void process(const verify_run *run, decoding *d, const float *raw) {
    const generation_config *g = &run->loaded.model->config->generation;
    const sampler_settings settings = greedy_settings(run);
    memcpy(d->scores, raw, (size_t)run->info.vocab_size * sizeof *raw);
    sampler_process(&settings, d->scores, run->info.vocab_size, d->history, d->n_history, g->eos,
                    g->n_eos);
}

static double top2_gap(const float *scores, int64_t n) {
    double first = -INFINITY, second = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        if (scores[i] > first) {
            second = first;
            first = scores[i];
        } else if (scores[i] > second) {
            second = scores[i];
        }
    }
    return first - second;
}

/** The gap rule: another choice is excused only where the reference's two best scores lie closer
 *  than the level's bound. Returns what to feed next. */
static int32_t choose(verify_run *run, decoding *d, int64_t step, const tensor *reference) {
    const int64_t n_vocab = run->info.vocab_size;
    process(run, d, d->steps + step * n_vocab);
    const int32_t own = sampler_argmax(d->scores, n_vocab), recorded = run->greedy[step];
    d->answer[step] = own;
    if (own == recorded) return own;
    double gap = INFINITY, bound = 0;
    if (reference->data) {
        const float *row = (const float *)reference->data + step * n_vocab;
        process(run, d, row);
        gap = top2_gap(d->scores, n_vocab);
        bound = run->level->max_abs_sigma * standard_deviation(row, n_vocab);
    }
    if (gap <= bound) {
        d->widest_excused = fmax(d->widest_excused, gap);
        return recorded;
    }
    if (d->n_wrong++ == 0) d->first_wrong = step;
    /* in float32 our own way is gone on, so that one wrong id in the record spoils one stage;
     * half precision is judged against the float32 run's tokens */
    return run->dtype == LLAVA_DTYPE_F32 ? own : recorded;
}

static llava_status run_step(verify_run *run, decoding *d, int64_t step, int32_t id,
                             llava_error *err) {
    float *row = arena_array(run->memory, (size_t)run->info.hidden_size, sizeof *row);
    if (!row) return llava_fail_memory(err, (size_t)run->info.hidden_size * 4, "a row");
    LLAVA_TRY(model_embed_tokens(run->loaded.model, &id, 1, row, err));
    LLAVA_TRY(kv_sequence_reserve(&d->seq, 1, err));
    decoder_item item = {.seq = &d->seq,
                         .rows = row,
                         .n_rows = 1,
                         .generated = true,
                         .n_logits = 1,
                         .logits = d->steps + step * run->info.vocab_size};
    return decoder_step(run->loaded.model, d->scratch, &item, 1, err);
}

static llava_status run_greedy(verify_run *run, decoding *d, llava_error *err) {
    const int64_t n_vocab = run->info.vocab_size, n = (int64_t)run->n_greedy;
    tensor reference;
    LLAVA_TRY(trace_tensor(&run->trace, "step_logits", &reference, err));
    const int64_t shape[2] = {n, n_vocab};
    if (reference.data && !tensor_has_shape(&reference, 2, shape)) reference.data = NULL;
    /* plain language models are generated from ids, which the processors then see too */
    if (!run->loaded.image_processor) {
        memcpy(d->history, run->prompt.data, run->prompt.count * sizeof *d->history);
        d->n_history = run->prompt.count;
    }
    memcpy(d->steps, d->logits + (d->n_logits - 1) * n_vocab, (size_t)n_vocab * sizeof(float));
    for (int64_t k = 0; k < n; k++) {
        const int32_t id = choose(run, d, k, &reference);
        d->fed[k] = id;
        d->history[d->n_history++] = id;
        if (k + 1 < n) LLAVA_TRY(run_step(run, d, k + 1, id, err));
    }
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- what greedy search gave */

static llava_status compare_ids(verify_run *run, const decoding *d) {
    const double n_wrong = (double)d->n_wrong;
    if (d->n_wrong)
        return report_stage(run->report, "greedy.ids", "wrong ids", n_wrong, 0,
                            "first at step %lld: recorded %d, computed %d",
                            (long long)d->first_wrong, run->greedy[d->first_wrong],
                            d->answer[d->first_wrong]);
    if (d->widest_excused > 0)
        return report_stage(run->report, "greedy.ids", "wrong ids", 0, 0,
                            "a near-tie was taken the other way (gap %.2g)", d->widest_excused);
    return report_stage(run->report, "greedy.ids", "wrong ids", 0, 0, NULL);
}

static llava_status compare_answer_text(verify_run *run, const decoding *d, const char *path,
                                        bool skip_special, llava_error *err) {
    const json_t *recorded = trace_field(&run->trace, path);
    if (!json_is_string(recorded)) return LLAVA_OK;
    bytes text = {0};
    llava_status status =
        tokenizer_decode(run->loaded.tokenizer, d->fed, run->n_greedy, skip_special, &text, err);
    if (status == LLAVA_OK)
        status = verify_text_equal(run, path, text.data ? text.data : "", text.size, recorded);
    bytes_free(&text);
    return status;
}

/* Gaps and deviations are recorded with six decimals. */
#define RECORDED_ROUNDING 5e-7

static llava_status compare_gaps(verify_run *run, const decoding *d) {
    const json_t *gaps = trace_field(&run->trace, "greedy.top2_gap");
    if (!gaps) return LLAVA_OK;
    const int64_t n_vocab = run->info.vocab_size;
    double worst = json_array_size(gaps) == run->n_greedy ? 0 : INFINITY;
    for (size_t k = 0; k < run->n_greedy && isfinite(worst); k++) {
        const float *row = d->steps + (int64_t)k * n_vocab;
        const double recorded = json_number_value(json_array_get(gaps, k));
        const double off = fabs(top2_gap(row, n_vocab) - recorded) - RECORDED_ROUNDING;
        worst = fmax(worst, off / standard_deviation(row, n_vocab));
    }
    /* each of the two logits may be off by the level's bound */
    return report_stage(run->report, "greedy.top2_gap", "off/sigma", worst,
                        2 * run->level->max_abs_sigma, NULL);
}

static llava_status compare_deviation(verify_run *run, const decoding *d) {
    const json_t *recorded = trace_field(&run->trace, "greedy.logit_std");
    if (!json_is_number(recorded)) return LLAVA_OK;
    const double value = json_number_value(recorded);
    const double own = standard_deviation(d->steps, (int64_t)run->n_greedy * run->info.vocab_size);
    const double off = fmax(0, fabs(own - value) - 2 * RECORDED_ROUNDING);
    return report_stage(run->report, "greedy.logit_std", "off/sigma", off / value,
                        run->level->max_abs_sigma, NULL);
}

static int64_t count_distinct(const int32_t *list, size_t n) {
    int64_t count = 0;
    for (size_t i = 0; i < n; i++) {
        size_t k = 0;
        while (k < i && list[k] != list[i]) k++;
        count += k == i;
    }
    return count;
}

static llava_status compare_steps(verify_run *run, const decoding *d) {
    const int64_t shape[2] = {(int64_t)run->n_greedy, run->info.vocab_size};
    LLAVA_TRY(verify_tensor(run, "step_logits", d->steps, 2, shape, true));
    if (run->dtype == LLAVA_DTYPE_F32) return LLAVA_OK;
    if (!trace_has_tensor(&run->trace, half_name(run, "step_logits"))) return LLAVA_OK;
    LLAVA_TRY(verify_tensor(run, half_name(run, "step_logits"), d->steps, 2, shape, true));
    return compare_with_reference_half(run, "step_logits", d->steps + shape[0] * shape[1]);
}

static llava_status compare_greedy(verify_run *run, const decoding *d, llava_error *err) {
    LLAVA_TRY(compare_steps(run, d));
    LLAVA_TRY(compare_ids(run, d));
    LLAVA_TRY(compare_answer_text(run, d, "greedy.text", true, err));
    LLAVA_TRY(compare_answer_text(run, d, "greedy.text_with_specials", false, err));
    LLAVA_TRY(verify_integer(run, "greedy.distinct", count_distinct(d->fed, run->n_greedy)));
    if (run->dtype != LLAVA_DTYPE_F32) return LLAVA_OK; /* these describe the float32 run */
    LLAVA_TRY(compare_gaps(run, d));
    return compare_deviation(run, d);
}

llava_status verify_decoder(verify_run *run, llava_error *err) {
    LLAVA_TRY(verify_id_array(run, "greedy.ids", &run->greedy, &run->n_greedy, err));
    trace_mark(&run->trace, "greedy.max_new_tokens");
    decoding d = {0};
    llava_status status = LLAVA_OK;
    LLAVA_TRY_DONE(decoding_open(run, &d, err));
    LLAVA_TRY_DONE(run_prompt(run, &d, err));
    LLAVA_TRY_DONE(compare_hidden(run, &d));
    LLAVA_TRY_DONE(compare_logits(run, &d));
    if (run->n_greedy) {
        LLAVA_TRY_DONE(run_greedy(run, &d, err));
        LLAVA_TRY_DONE(compare_greedy(run, &d, err));
    }
done:
    decoding_close(&d);
    return status;
}
