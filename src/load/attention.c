/* SPDX-License-Identifier: Apache-2.0
 *
 * attn_implementation: which requests can be served, and what runs. Rules of transformers 4.40.
 */
#include "load_plan.h"

typedef enum attention_request {
    REQUEST_NONE = 0,
    REQUEST_EAGER,
    REQUEST_SDPA,
    REQUEST_FLASH,
    REQUEST_COUNT
} attention_request;

static const char *const names[REQUEST_COUNT] = {"none", "eager", "sdpa", "flash_attention_2"};

/** REQUEST_COUNT when the name is unknown. */
static attention_request parse_request(const char *text) {
    if (!text) return REQUEST_NONE;
    int i = REQUEST_NONE;
    while (i < REQUEST_COUNT && strcmp(text, names[i]) != 0) i++;
    return (attention_request)i;
}

llava_status plan_check_attention(load_plan *plan) {
    const char *text = plan->options->attn_implementation;
    const attention_request request = parse_request(text);
    if (request == REQUEST_COUNT)
        return llava_fail(plan->err, LLAVA_BAD_ARGUMENT,
                          "attn_implementation: expected eager, sdpa, flash_attention_2 or none, "
                          "got \"%.60s\"",
                          text);
    if (request != REQUEST_FLASH || device_cuda_count() > 0) return LLAVA_OK;
    return llava_fail(plan->err, LLAVA_UNSUPPORTED,
                      "attn_implementation \"flash_attention_2\": it runs on CUDA devices in "
                      "float16 or bfloat16, and this build computes on the CPU; expected sdpa, "
                      "eager or none");
}

/** MPT's class has eager attention alone: its bias by distance is no argument of the others. */
static llava_status check_class(const load_plan *plan, attention_request request) {
    const llava_config *config = plan->model->config;
    if (request < REQUEST_SDPA || config->lm.family->arch != ARCH_MPT) return LLAVA_OK;
    return llava_fail(plan->err, LLAVA_UNSUPPORTED,
                      "attn_implementation \"%s\": %s has eager attention only; expected eager or "
                      "none",
                      names[request], config->architecture);
}

/** A map that leaves something off the GPUs by name. */
static bool leaves_gpus(const place_map *map) {
    const char *module;
    json_t *value;
    if (map->rule == PLACE_WHOLE) return map->whole.kind != PLACE_CUDA;
    json_object_foreach(map->names, module, value) {
        if (place_device_of(value).kind != PLACE_CUDA) return true;
    }
    return false;
}

static llava_status check_flash(const load_plan *plan) {
    if (plan->model->compute == LLAVA_DTYPE_F32)
        return llava_fail(plan->err, LLAVA_UNSUPPORTED,
                          "attn_implementation \"flash_attention_2\": expected torch_dtype float16 "
                          "or bfloat16, got float32");
    if (!leaves_gpus(&plan->map)) return LLAVA_OK;
    return llava_fail(plan->err, LLAVA_UNSUPPORTED,
                      "attn_implementation \"flash_attention_2\": expected a device_map of CUDA "
                      "devices, got one with cpu or disk");
}

llava_status plan_choose_attention(load_plan *plan) {
    const attention_request request = parse_request(plan->options->attn_implementation);
    if (request == REQUEST_COUNT) return LLAVA_OK; /* an inspection goes on: said already */
    LLAVA_TRY(check_class(plan, request));
    if (request == REQUEST_FLASH) LLAVA_TRY(check_flash(plan));
    if (request == REQUEST_FLASH && device_cuda_count() == 0) return LLAVA_OK;
    const char *reason = arena_printf(
        plan->model->memory,
        request == REQUEST_NONE ? "attn_implementation is %s"
                                : "attn_implementation is %s, which asks for the same sums",
        names[request]);
    if (!reason) return llava_fail_memory(plan->err, 0, "a decision");
    return config_note(plan->model->config, "attention",
                       "one pass over blocks of keys, softmax in float32", reason, plan->err);
}
