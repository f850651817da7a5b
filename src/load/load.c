/* SPDX-License-Identifier: Apache-2.0
 *
 * load_pretrained_model: the stages one after the other, then casting.
 */
#include "load_plan.h"

typedef llava_status (*plan_stage)(load_plan *plan);

/** The stages of text, where there is none and none is needed. */
static bool is_left_out(const load_plan *plan, plan_stage stage) {
    if (stage != plan_open_tokenizer && stage != plan_choose_template) return false;
    return plan->weights_alone && !tokenizer_exists(plan->weights_directory);
}

llava_status plan_run(load_plan *plan) {
    static const plan_stage stages[] = {
        plan_check_options,    plan_resolve_paths,   plan_check_mode,    plan_read_config,
        plan_choose_attention, plan_open_weights,    plan_open_overlay,  plan_describe,
        plan_find_tower,       plan_choose_tower,    plan_bind,          plan_quantization,
        plan_open_tokenizer,   plan_choose_template, plan_open_processor};
    for (size_t i = 0; i < LLAVA_COUNT(stages); i++)
        if (!is_left_out(plan, stages[i])) LLAVA_TRY(stages[i](plan));
    return LLAVA_OK;
}

/** Opens the device and makes the weights usable there. */
static llava_status place(load_plan *plan) {
    const llava_load_options *o = plan->options;
    llava_model *model = plan->model;
    const int n_threads = o->n_threads ? o->n_threads : processor_count();
    LLAVA_TRY(device_open_cpu(n_threads, o->cpu_level, &model->dev, plan->err));
    LLAVA_TRY(cast_weights(model, &plan->bind, &plan->quantize, o, plan->err));
    if (model->config->lm.tie_word_embeddings) model->decoder.head = model->decoder.embed;
    return LLAVA_OK;
}

llava_status load_pretrained_model(const llava_load_options *options, llava_loaded *loaded,
                                   llava_error *err) {
    load_plan plan;
    llava_status status = plan_open(&plan, options, err);
    if (status == LLAVA_OK) status = plan_run(&plan);
    if (status == LLAVA_OK) status = plan_place(&plan);
    if (status == LLAVA_OK) status = place(&plan);
    if (status == LLAVA_OK) {
        *loaded = (llava_loaded){.tokenizer = plan.tokenizer,
                                 .model = plan.model,
                                 .image_processor = plan.processor,
                                 .context_len = plan.model->config->context_len};
        plan.tokenizer = NULL;
        plan.model = NULL;
        plan.processor = NULL;
    }
    plan_close(&plan);
    return status;
}
