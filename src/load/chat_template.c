/* SPDX-License-Identifier: Apache-2.0
 *
 * Where a checkpoint keeps its chat template: a file of its own since transformers 4.43, before
 * that the tokenizer's or the processor's configuration.
 */
#include "load_plan.h"

#define TEMPLATE_MAX ((size_t)1 << 20)

static llava_status read_text_file(load_plan *plan, const char *path, const char **text) {
    bytes content = {0};
    LLAVA_TRY(file_read(path, TEMPLATE_MAX, &content, plan->err));
    *text = arena_strndup(plan->model->memory, content.data ? content.data : "", content.size);
    bytes_free(&content);
    return *text ? LLAVA_OK : llava_fail_memory(plan->err, TEMPLATE_MAX, "a chat template");
}

static llava_status read_json_file(load_plan *plan, const char *path, const char **text) {
    json_t *root;
    LLAVA_TRY(json_read_file(path, &root, plan->err));
    const char *found = json_string_value(json_get(root, "chat_template"));
    *text = found ? arena_strdup(plan->model->memory, found) : NULL;
    json_decref(root);
    if (found && !*text) return llava_fail_memory(plan->err, TEMPLATE_MAX, "a chat template");
    return LLAVA_OK;
}

llava_status plan_read_chat_template(load_plan *plan) {
    static const char *const files[] = {"chat_template.jinja", "chat_template.json",
                                        "processor_config.json"};
    llava_model *model = plan->model;
    for (size_t i = 0; i < LLAVA_COUNT(files) && !model->chat_template; i++) {
        const char *path = path_join(model->memory, plan->weights_directory, files[i]);
        if (!path) return llava_fail_memory(plan->err, strlen(files[i]), "a path");
        if (!path_is_file(path)) continue;
        LLAVA_TRY(i == 0 ? read_text_file(plan, path, &model->chat_template)
                         : read_json_file(plan, path, &model->chat_template));
        if (model->chat_template)
            LLAVA_TRY(config_note(model->config, "chat template", files[i], path, plan->err));
    }
    /* an inspection goes on without a tokenizer */
    const char *own = plan->tokenizer ? tokenizer_chat_template(plan->tokenizer) : NULL;
    if (model->chat_template || !own) return LLAVA_OK;
    model->chat_template = arena_strdup(model->memory, own);
    if (!model->chat_template) return llava_fail_memory(plan->err, strlen(own), "a chat template");
    return config_note(model->config, "chat template", "tokenizer_config.json",
                       plan->weights_directory, plan->err);
}
