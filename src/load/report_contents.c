/* SPDX-License-Identifier: Apache-2.0
 *
 * The report's parts about a directory as such: which files that loading knows lie in it, and what
 * it is when it is no checkpoint.
 */
#include "report.h"

static const struct known_file {
    const char *name, *what;
} known_files[] = {
    {"config.json", "configuration"},
    {"generation_config.json", "generation defaults"},
    {"model.safetensors", "weights"},
    {"model.safetensors.index.json", "index of weights"},
    {"pytorch_model.bin", "weights"},
    {"pytorch_model.bin.index.json", "index of weights"},
    {"adapter_config.json", "adapter configuration"},
    {"adapter_model.safetensors", "adapter weights"},
    {"adapter_model.bin", "adapter weights"},
    {"non_lora_trainables.bin", "trained weights beside an adapter"},
    {"non_lora_trainables.safetensors", "trained weights beside an adapter"},
    {"mm_projector.bin", "projector weights"},
    {"mm_projector.safetensors", "projector weights"},
    {"tokenizer.model", "tokenizer"},
    {"tokenizer.json", "tokenizer"},
    {"vocab.json", "tokenizer"},
    {"merges.txt", "tokenizer"},
    {"tokenizer_config.json", "tokenizer configuration"},
    {"special_tokens_map.json", "tokenizer configuration"},
    {"added_tokens.json", "tokenizer configuration"},
    {"chat_template.jinja", "chat template"},
    {"chat_template.json", "chat template"},
    {"processor_config.json", "processor configuration"},
    {"preprocessor_config.json", "image processor"},
    {"video_preprocessor_config.json", "video processor"},
    {"video_processor/preprocessor_config.json", "video processor"},
};

static bool has_file(const load_plan *plan, const char *name) {
    const char *path = path_join(plan->model->memory, plan->options->model_path, name);
    return path && path_is_file(path);
}

llava_status report_contents(const load_plan *plan, json_t *report) {
    if (!path_is_directory(plan->options->model_path)) return LLAVA_OK;
    json_t *list = json_array();
    llava_status status = list ? LLAVA_OK : LLAVA_OUT_OF_MEMORY;
    for (size_t i = 0; i < LLAVA_COUNT(known_files) && status == LLAVA_OK; i++)
        if (has_file(plan, known_files[i].name))
            status = report_append(list, json_pack("{s:s, s:s}", "name", known_files[i].name,
                                                   "what", known_files[i].what));
    if (status == LLAVA_OK) return report_set(report, "contents", list);
    json_decref(list);
    return status;
}

/** True if config.json says that this is a vision encoder. */
static bool is_tower(const load_plan *plan) {
    static const char *const types[] = {"clip", "clip_vision_model", "siglip",
                                        "siglip_vision_model", "mlcd_vision_model"};
    const char *path = path_join(plan->model->memory, plan->options->model_path, "config.json");
    json_t *root = NULL;
    if (!path || json_read_file(path, &root, NULL) != LLAVA_OK) return false;
    const char *type = json_string_value(json_object_get(root, "model_type"));
    bool found = false;
    for (size_t i = 0; type && i < LLAVA_COUNT(types); i++)
        found = found || strcmp(type, types[i]) == 0;
    json_decref(root);
    return found;
}

const char *report_kind(const load_plan *plan) {
    const char *directory = plan->options->model_path;
    if (plan->is_adapter) return "adapter";
    if (plan->is_projector) return "projector";
    if (plan->model->config)
        return plan->model->config->multimodal ? "multimodal" : "language model";
    if (!path_is_directory(directory)) return "unknown";
    if (is_tower(plan)) return "vision tower";
    if (has_file(plan, "config.json")) return "unknown";
    if (checkpoint_exists(directory)) return "weights without config.json";
    if (has_file(plan, "tokenizer.json") || has_file(plan, "tokenizer.model") ||
        has_file(plan, "vocab.json"))
        return "tokenizer";
    return "unknown";
}
