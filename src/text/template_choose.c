/* SPDX-License-Identifier: Apache-2.0
 *
 * A template for a checkpoint that was given none: first what its tokenizer and class prove, then
 * what its name suggests.
 */
#include <strings.h>

#include "text/text.h"

static bool contains(const char *text, const char *part) { return text && strcasestr(text, part); }

/* "prompt" in a name is not MPT, as in the reference. */
static bool says_mpt(const char *name) {
    const char *found = name;
    while (found && (found = strcasestr(found, "mpt"))) {
        if (found - name < 3 || strncasecmp(found - 3, "pro", 3) != 0) return true;
        found += 3;
    }
    return false;
}

static bool has_token(const llava_tokenizer *t, const char *token) {
    return t && tokenizer_id(t, token) >= 0;
}

static const char *chat_template(const template_evidence *e) {
    return e->tokenizer ? tokenizer_chat_template(e->tokenizer) : NULL;
}

static const char *by_tokenizer(const template_evidence *e, const char **reason) {
    const llava_tokenizer *t = e->tokenizer;
    if (has_token(t, "<|start_header_id|>") && has_token(t, "<|eot_id|>")) {
        *reason = "the tokenizer has Llama-3's header tokens";
        return "llava_llama_3";
    }
    const bool is_qwen = contains(e->architecture, "qwen");
    if (is_qwen && chat_template(e) &&
        strstr(chat_template(e), "You are Qwen, created by Alibaba")) {
        *reason = "the tokenizer's chat template has Qwen2.5's system text";
        return "qwen_2_5";
    }
    if (is_qwen && has_token(t, "<|im_start|>")) {
        *reason = "a Qwen model whose tokenizer has <|im_start|>";
        return "qwen_1_5";
    }
    if (contains(e->architecture, "gemma")) {
        *reason = "a Gemma model";
        return "gemma_instruct";
    }
    return NULL;
}

static bool says_plain(const char *name) {
    return contains(name, "plain") && !contains(name, "finetune");
}

static const char *by_llava_version(const char *name, const char **reason) {
    if (contains(name, "llama-2") || contains(name, "llama2")) {
        *reason = "the name contains llama-2";
        if (contains(name, "mmtag")) return "llava_llama_2_mmtag";
        return contains(name, "simple") ? "llava_llama_2_simple" : "llava_llama_2";
    }
    if (contains(name, "v1") || contains(name, "vicuna")) {
        *reason = "the name contains v1 or vicuna";
        return contains(name, "mmtag") || says_plain(name) ? "llava_v1_mmtag" : "vicuna_v1";
    }
    return NULL;
}

static const char *by_name(const char *name, const char **reason) {
    if (contains(name, "mistral") || contains(name, "mixtral")) {
        *reason = "the name contains mistral or mixtral";
        if (contains(name, "orca")) return "mistral_orca";
        return contains(name, "hermes") ? "mistral_direct" : "mistral_instruct";
    }
    if (contains(name, "zephyr")) {
        *reason = "the name contains zephyr";
        return "mistral_zephyr";
    }
    if (contains(name, "hermes") || contains(name, "34b") || contains(name, "yi-")) {
        *reason = "the name contains hermes, yi or 34b (Yi with ChatML)";
        return "chatml_direct";
    }
    if (contains(name, "qwen") || contains(name, "quyen")) {
        *reason = "the name contains qwen or quyen";
        return "qwen_1_5";
    }
    if (says_mpt(name)) {
        *reason = "the name contains mpt";
        return "mpt";
    }
    return by_llava_version(name, reason);
}

static const char *by_architecture(const template_evidence *e, const char **reason) {
    if (contains(e->architecture, "qwen")) {
        *reason = "a Qwen model";
        return "qwen_1_5";
    }
    if (contains(e->architecture, "mpt")) {
        *reason = "an MPT model";
        return "mpt";
    }
    if (contains(e->architecture, "mistral") || contains(e->architecture, "mixtral")) {
        *reason = "a Mistral model";
        return "mistral_instruct";
    }
    if (says_plain(e->model_name)) {
        *reason = "the name contains plain";
        return "plain";
    }
    *reason = "nothing more specific is known";
    return "llava_v0";
}

const conversation_template *template_choose(const template_evidence *evidence,
                                             const char **reason) {
    const char *name = by_tokenizer(evidence, reason);
    if (!name) name = by_name(evidence->model_name, reason);
    if (!name) name = by_architecture(evidence, reason);
    return template_find(name);
}
