/* SPDX-License-Identifier: Apache-2.0
 *
 * A vision tower alone, from its own directory.
 */
#include "load_plan.h"

static llava_status open_tower(load_plan *plan, const char *directory, const char *config_json) {
    llava_model *model = plan->model;
    LLAVA_TRY(config_new_tower(config_json, directory, &model->config, plan->err));
    LLAVA_TRY(config_read_tower(model->config, directory, plan->err));
    LLAVA_TRY(checkpoint_open(directory, &model->files[0], plan->err));
    binder *b = &plan->bind;
    b->int8_threshold = QUANT_THRESHOLD;
    for (int g = 0; g < BIND_GROUPS; g++) {
        b->source[g] = model->files[0];
        b->prefix[g] = "";
    }
    if (checkpoint_has_prefix(model->files[0], "vision_model."))
        b->prefix[BIND_TOWER] = "vision_model.";
    if (config_tower_layers(&model->config->tower) > (int64_t)checkpoint_count(model->files[0]))
        return llava_fail(plan->err, LLAVA_MALFORMED,
                          "%s: config.json has more layers than there are tensors", directory);
    bind_tower(b, model);
    return binder_resolve(b, plan->err);
}

llava_status load_tower_only(const tower_request *request, llava_model **model,
                             llava_image_processor **processor, llava_error *err) {
    *model = NULL;
    *processor = NULL;
    const char *directory = request->directory;
    if (strncmp(directory, "hf:", 3) == 0) directory += 3;
    if (strncmp(directory, "open_clip_hub", 13) == 0)
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "%s: this build runs CLIP, SigLIP and MLCD towers", directory);
    const llava_load_options options = {.model_path = directory,
                                        .torch_dtype = request->torch_dtype,
                                        .n_threads = request->n_threads,
                                        .cpu_level = request->cpu_level};
    load_plan plan;
    llava_status status = plan_open(&plan, &options, err);
    LLAVA_TRY_DONE(status);
    LLAVA_TRY_DONE(plan_check_options(&plan));
    LLAVA_TRY_DONE(open_tower(&plan, directory, request->config_json));
    LLAVA_TRY_DONE(plan_open_processor(&plan));
    const int n_threads = options.n_threads ? options.n_threads : processor_count();
    LLAVA_TRY_DONE(device_open_cpu(n_threads, options.cpu_level, &plan.model->dev, err));
    LLAVA_TRY_DONE(cast_weights(plan.model, &plan.bind, NULL, &options, err));
    *model = plan.model;
    *processor = plan.processor;
    plan.model = NULL;
    plan.processor = NULL;
done:
    plan_close(&plan);
    return status;
}
