/* SPDX-License-Identifier: Apache-2.0
 *
 * Which class a checkpoint is: config.json first, the tensors second, the name last.
 */
#include <ctype.h>
#include <stdio.h>

#include "checkpoint/checkpoint.h"
#include "config_read.h"

static bool has_text(const char *text, const char *word) {
    return text && strstr(text, word) != NULL;
}

/** "llava" in any case. */
static bool name_says_llava(const char *name) {
    for (; name && *name; name++) {
        size_t i = 0;
        while (i < 5 && tolower((unsigned char)name[i]) == "llava"[i]) i++;
        if (i == 5) return true;
    }
    return false;
}

static const char *tower_name(const json_t *root) {
    const char *name = json_string_value(json_get(root, "mm_vision_tower"));
    return name ? name : json_string_value(json_get(root, "vision_tower"));
}

static llava_status settle(llava_config *config, const family *f, bool is_llava, const char *reason,
                           llava_error *err) {
    config->lm.family = f;
    config->multimodal = is_llava;
    snprintf(config->architecture, sizeof config->architecture, "%s",
             is_llava ? f->llava_class : f->lm_class);
    return config_note(config, "architecture", config->architecture, reason, err);
}

static arch sniff_tensors(const checkpoint *weights, const json_t *root) {
    bool bias = false;
    for (size_t i = 0; i < checkpoint_count(weights); i++) {
        const char *name = checkpoint_at(weights, i)->name;
        if (has_text(name, ".block_sparse_moe.")) return ARCH_MIXTRAL;
        if (has_text(name, ".mlp.experts.")) return ARCH_QWEN2_MOE;
        if (has_text(name, "transformer.blocks.")) return ARCH_MPT;
        if (has_text(name, "layers.0.self_attn.q_proj.bias")) bias = true;
    }
    if (bias) return ARCH_QWEN2;
    return json_get(root, "sliding_window") ? ARCH_MISTRAL : ARCH_LLAMA;
}

/** model_type says "llava" or nothing: the tensors decide, and without them the name. */
static llava_status resolve_by_content(llava_config *config, const config_request *request,
                                       llava_error *err) {
    checkpoint *weights = NULL;
    llava_error ignored;
    if (request->directory && checkpoint_open(request->directory, &weights, &ignored) == LLAVA_OK) {
        const arch found = sniff_tensors(weights, config->root);
        checkpoint_close(&weights);
        return settle(config, family_get(found), true,
                      "config.json names a vision tower but no decoder; the names of the tensors "
                      "tell it",
                      err);
    }
    const char *branch, *class_name;
    config_reference_branch(request->model_name, false, true, "", &branch, &class_name);
    bool is_llava;
    const family *f = class_name ? family_by_class(class_name, &is_llava) : NULL;
    return settle(config, f ? f : family_get(ARCH_LLAMA), true,
                  "config.json names a vision tower but no decoder and there are no tensors to "
                  "look at; the name decides",
                  err);
}

/** Multimodal classes of transformers other than its LLaVA classes, which are translated. */
static llava_status refuse_other_native(const json_t *root, const char *class_name,
                                        llava_error *err) {
    if (tower_name(root)) return LLAVA_OK;
    const bool native = json_is_object(json_get(root, "text_config")) ||
                        has_text(class_name, "ForConditionalGeneration");
    if (!native) return LLAVA_OK;
    return llava_fail(
        err, LLAVA_UNSUPPORTED,
        "config.json: %.80s has a text_config; of transformers' own multimodal classes "
        "this build knows LlavaForConditionalGeneration, LlavaNext..., "
        "LlavaNextVideo... and LlavaOnevisionForConditionalGeneration",
        class_name ? class_name : "this checkpoint");
}

/** architectures[0], when it is a class we know. */
static llava_status resolve_by_class(llava_config *config, const char *class_name,
                                     const char *model_type, llava_error *err) {
    bool is_llava, type_is_llava = false;
    const family *f = family_by_class(class_name, &is_llava);
    if (!f) return LLAVA_OK;
    if (is_llava) return settle(config, f, true, "architectures[0] in config.json", err);
    const family *typed = model_type ? family_by_model_type(model_type, &type_is_llava) : NULL;
    if (typed && type_is_llava)
        return settle(config, typed, true,
                      "model_type in config.json; architectures[0] names the decoder alone", err);
    if (tower_name(config->root))
        return settle(config, f, true,
                      "architectures[0] in config.json names the decoder, mm_vision_tower makes it "
                      "LLaVA",
                      err);
    return settle(config, f, false, "architectures[0] in config.json", err);
}

static llava_status resolve_class(llava_config *config, const config_request *request,
                                  llava_error *err) {
    const json_t *root = config->root;
    const json_t *classes = json_get(root, "architectures");
    const char *class_name =
        json_is_array(classes) ? json_string_value(json_array_get(classes, 0)) : NULL;
    const char *model_type = json_string_value(json_get(root, "model_type"));
    LLAVA_TRY(refuse_other_native(root, class_name, err));
    if (class_name) {
        LLAVA_TRY(resolve_by_class(config, class_name, model_type, err));
        if (config->lm.family) return LLAVA_OK;
    }
    bool is_llava = false;
    const family *f = model_type ? family_by_model_type(model_type, &is_llava) : NULL;
    if (f && (is_llava || !tower_name(root)))
        return settle(config, f, is_llava, "model_type in config.json", err);
    if (f)
        return settle(config, f, true,
                      "model_type in config.json names the decoder, mm_vision_tower makes it LLaVA",
                      err);
    if (tower_name(root) && !class_name && (!model_type || strcmp(model_type, "llava") == 0))
        return resolve_by_content(config, request, err);
    return llava_fail(err, LLAVA_UNSUPPORTED,
                      "config.json: expected an architecture this build knows, got "
                      "architectures[0] %s%.80s%s and model_type %s%.80s%s",
                      class_name ? "\"" : "", class_name ? class_name : "absent",
                      class_name ? "\"" : "", model_type ? "\"" : "",
                      model_type ? model_type : "absent", model_type ? "\"" : "");
}

/** Tells what the reference's name test would have chosen. */
static llava_status note_reference(llava_config *config, const config_request *request,
                                   llava_error *err) {
    const char *branch, *class_name;
    config_reference_branch(request->model_name, false, request->multimodal_keyword,
                            request->directory ? request->directory : "", &branch, &class_name);
    const char *value =
        arena_printf(config->memory, "%s %s", branch, class_name ? class_name : "refused");
    if (!value) return llava_fail_memory(err, 0, "a decision");
    const bool plain = branch[0] == 'D';
    const bool same =
        plain ? !config->multimodal : class_name && strcmp(class_name, config->architecture) == 0;
    return config_note(config, "reference", value,
                       same ? "the reference's name rule agrees"
                            : "the reference would have chosen this by the name; config.json "
                              "decides here",
                       err);
}

llava_status config_resolve(llava_config *config, const config_request *request, llava_error *err) {
    LLAVA_TRY(resolve_class(config, request, err));
    if (config->multimodal && !tower_name(config->root))
        return llava_fail(err, LLAVA_MALFORMED,
                          "config.json: not a multimodal checkpoint: %s needs mm_vision_tower",
                          config->architecture);
    const bool demanded = request->multimodal_keyword ||
                          (request->model_name_given && name_says_llava(request->model_name));
    if (!config->multimodal && demanded)
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "%s asks for a multimodal model, but config.json is a plain %s without "
                          "mm_vision_tower",
                          request->multimodal_keyword ? "multimodal" : "model_name",
                          config->architecture);
    return note_reference(config, request, err);
}
