/* SPDX-License-Identifier: Apache-2.0
 *
 * Options over generation_config.json over defaults (transformers 4.40, GenerationConfig).
 */
#include <math.h>

#include "beams.h"
#include "settings.h"

/* ---------------------------------------------------------------- checks */

static llava_status bad_number(const char *what, double value, const char *expected,
                               llava_error *err) {
    return llava_fail(err, LLAVA_BAD_ARGUMENT, "%s is %g, expected %s", what, value, expected);
}

static llava_status check_floats(const llava_generate_options *o, llava_error *err) {
    if (!isfinite(o->temperature) || o->temperature < 0)
        return bad_number("temperature", o->temperature, "0 (greedy) or more", err);
    if (!(o->top_p >= 0 && o->top_p <= 1))
        return bad_number("top_p", o->top_p, "0 (default) ... 1", err);
    if (!isfinite(o->repetition_penalty) || o->repetition_penalty < 0)
        return bad_number("repetition_penalty", o->repetition_penalty, "0 (default) or more", err);
    if (!isfinite(o->length_penalty))
        return bad_number("length_penalty", o->length_penalty, "a finite number", err);
    return LLAVA_OK;
}

static llava_status check_counts(const llava_generate_options *o, llava_error *err) {
    if (o->max_new_tokens < 0)
        return bad_number("max_new_tokens", (double)o->max_new_tokens, "0 (no limit) or more", err);
    if (o->min_new_tokens < 0)
        return bad_number("min_new_tokens", (double)o->min_new_tokens, "0 or more", err);
    if (o->top_k < -1) return bad_number("top_k", o->top_k, "-1 (off), 0 (default) or more", err);
    if (o->no_repeat_ngram_size < 0)
        return bad_number("no_repeat_ngram_size", o->no_repeat_ngram_size, "0 (default) or more",
                          err);
    if (o->num_beams < 0 || o->num_beams > BEAMS_MAX)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "num_beams is %d, expected 0 ... %d",
                          o->num_beams, BEAMS_MAX);
    if (o->max_new_tokens > 0 && o->min_new_tokens > o->max_new_tokens)
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "min_new_tokens is %lld, expected at most max_new_tokens %lld",
                          (long long)o->min_new_tokens, (long long)o->max_new_tokens);
    return LLAVA_OK;
}

static llava_status check_lists(const llava_generate_options *o, llava_error *err) {
    if (o->n_stop > 0 && !o->stop)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "stop is NULL, expected %zu strings", o->n_stop);
    for (size_t i = 0; i < o->n_stop; i++)
        if (!o->stop[i]) return llava_fail(err, LLAVA_BAD_ARGUMENT, "stop[%zu] is NULL", i);
    if (o->n_stop_ids > 0 && !o->stop_ids)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "stop_ids is NULL, expected %zu ids",
                          o->n_stop_ids);
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- numbers */

static float first_set(float option, float file, float fallback) {
    if (option != 0) return option;
    return file != 0 ? file : fallback;
}

static int64_t first_positive(int64_t option, int64_t file) {
    if (option > 0) return option;
    return file > 0 ? file : 0;
}

static sampler_settings resolve_sampler(const llava_generate_options *o,
                                        const generation_config *file) {
    sampler_settings s = {
        .do_sample = o->do_sample || o->temperature > 0,
        .temperature = first_set(o->temperature, file->temperature, 1.0f),
        .top_p = first_set(o->top_p, file->top_p, 1.0f),
        .top_k = o->top_k != 0 ? o->top_k : file->top_k, /* the file's default is 50 */
        .repetition_penalty = first_set(o->repetition_penalty, file->repetition_penalty, 1.0f),
        .no_repeat_ngram_size = first_positive(o->no_repeat_ngram_size, file->no_repeat_ngram_size),
        .min_new_tokens = first_positive(o->min_new_tokens, file->min_new_tokens),
        .min_keep = 1,
    };
    if (s.top_k < 0) s.top_k = 0;
    return s;
}

/* ---------------------------------------------------------------- ends */

static llava_status add_id(ids *list, int64_t id, llava_error *err) {
    if (id < 0 || id > INT32_MAX) return LLAVA_OK;
    const int32_t value = (int32_t)id;
    for (size_t i = 0; i < list->count; i++)
        if (list->data[i] == value) return LLAVA_OK;
    if (!ids_append(list, &value, 1)) return llava_fail_memory(err, sizeof value, "stop ids");
    return LLAVA_OK;
}

/** config.json's eos_token_id: a number, a list of them, or null. */
static llava_status add_config_eos(const json_t *root, ids *list, llava_error *err) {
    const json_t *eos = json_get(root, "eos_token_id");
    if (json_is_integer(eos)) return add_id(list, json_integer_value(eos), err);
    for (size_t i = 0; i < json_array_size(eos); i++) {
        const json_t *item = json_array_get(eos, i);
        if (json_is_integer(item)) LLAVA_TRY(add_id(list, json_integer_value(item), err));
    }
    return LLAVA_OK;
}

/** Texts that end a turn. As ids they stop an answer even where the checkpoint's lists lack them.
 */
static llava_status add_turn_ends(const settings_request *r, ids *list, llava_error *err) {
    static const char *const ends[] = {"<|im_end|>", "<|eot_id|>", "<end_of_turn>", "</s>"};
    for (size_t i = 0; i < LLAVA_COUNT(r->conversation->stop) && r->conversation->stop[i]; i++)
        for (size_t e = 0; e < LLAVA_COUNT(ends); e++)
            if (strcmp(r->conversation->stop[i], ends[e]) == 0)
                LLAVA_TRY(add_id(list, tokenizer_id(r->tokenizer, ends[e]), err));
    return LLAVA_OK;
}

static llava_status resolve_ends(const settings_request *r, answer_settings *out,
                                 llava_error *err) {
    const llava_generate_options *o = r->options;
    const generation_config *file = &r->model->config->generation;
    if (!o->ignore_eos) {
        for (size_t i = 0; i < file->n_eos; i++) LLAVA_TRY(add_id(&out->eos, file->eos[i], err));
        LLAVA_TRY(add_config_eos(r->model->config->root, &out->eos, err));
        LLAVA_TRY(add_id(&out->eos, tokenizer_eos(r->tokenizer), err));
        if (r->conversation) LLAVA_TRY(add_turn_ends(r, &out->eos, err));
    }
    for (size_t i = 0; i < o->n_stop_ids; i++) LLAVA_TRY(add_id(&out->eos, o->stop_ids[i], err));
    for (size_t i = 0; i < o->n_stop; i++) LLAVA_TRY(stop_list_add(&out->stops, o->stop[i], err));
    if (!r->conversation || o->ignore_eos) return LLAVA_OK;
    for (size_t i = 0; i < LLAVA_COUNT(r->conversation->stop) && r->conversation->stop[i]; i++)
        LLAVA_TRY(stop_list_add(&out->stops, r->conversation->stop[i], err));
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- all together */

llava_status settings_resolve(const settings_request *r, answer_settings *out, llava_error *err) {
    const llava_generate_options *o = r->options;
    const generation_config *file = &r->model->config->generation;
    LLAVA_TRY(check_floats(o, err));
    LLAVA_TRY(check_counts(o, err));
    LLAVA_TRY(check_lists(o, err));
    const int64_t wanted = first_positive(o->max_new_tokens, file->max_new_tokens);
    answer_settings s = {
        .sampler = resolve_sampler(o, file),
        .max_new_tokens = wanted > 0 ? i64_min(wanted, r->n_free) : r->n_free,
        .n_beams = o->num_beams > 1 ? o->num_beams : 1,
        .length_penalty = first_set(o->length_penalty, file->length_penalty, 1.0f),
        .early_stopping = file->early_stopping,
        .keep_special_tokens = o->keep_special_tokens,
        .seed = o->seed,
        .on_text = o->on_text,
        .user = o->user,
    };
    const llava_status status = resolve_ends(r, &s, err);
    if (status != LLAVA_OK) {
        settings_free(&s);
        return status;
    }
    /* fewest candidates the warpers leave: beams must find an end and a way on */
    if (s.n_beams > 1) s.sampler.min_keep = s.eos.count > 0 ? (int64_t)s.eos.count + 1 : 2;
    *out = s;
    return LLAVA_OK;
}

void settings_free(answer_settings *settings) {
    ids_free(&settings->eos);
    stop_list_free(&settings->stops);
    *settings = (answer_settings){0};
}
