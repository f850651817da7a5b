/* SPDX-License-Identifier: Apache-2.0
 *
 * What an answer is generated with: the caller's options over generation_config.json over the
 * reference's defaults, resolved once when a session starts.
 */
#ifndef LLAVA_GENERATE_SETTINGS_H
#define LLAVA_GENERATE_SETTINGS_H

#include "base/base.h"
#include "generate.h"
#include "stopping.h"

typedef struct answer_settings {
    sampler_settings sampler;
    int64_t max_new_tokens;
    int n_beams; /* 1: none */
    float length_penalty;
    int early_stopping;
    ids eos; /* generation_config.json's first, in its order */
    stop_list stops;
    bool keep_special_tokens;
    uint64_t seed;
    llava_text_fn on_text;
    void *user;
} answer_settings;

typedef struct settings_request {
    const llava_model *model;
    const llava_tokenizer *tokenizer;
    const conversation_template *conversation; /* NULL: the prompt was not made with one */
    const llava_generate_options *options;     /* all zero: defaults */
    int64_t n_free;                            /* tokens the context has room for */
} settings_request;

llava_status settings_resolve(const settings_request *request, answer_settings *out,
                              llava_error *err);
void settings_free(answer_settings *settings);

#endif
