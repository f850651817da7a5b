/* SPDX-License-Identifier: Apache-2.0
 *
 * Key grammar: peft 0.4 to 0.10 and later, and LLaVA-NeXT's get_peft_state_non_lora_maybe_zero_3.
 */
#include "adapter_names.h"

static bool skip(const char **text, const char *prefix) {
    const size_t n = strlen(prefix);
    if (strncmp(*text, prefix, n) != 0) return false;
    *text += n;
    return true;
}

/** The component of a dotted name that is exactly `part`; NULL when absent. */
static const char *find_part(const char *name, const char *part) {
    const size_t n = strlen(part);
    for (const char *at = name; (at = strstr(at, part)); at++) {
        const bool start = at == name || at[-1] == '.';
        if (start && (at[n] == '.' || at[n] == '\0')) return at;
    }
    return NULL;
}

/** Removes ".part", and the adapter's name behind it when one stands there. */
static const char *without_part(const char *name, const char *part, bool with_adapter,
                                arena *memory) {
    const char *at = find_part(name, part);
    if (!at) return name;
    const char *rest = at + strlen(part);
    if (with_adapter && rest[0] == '.' && strchr(rest + 1, '.')) /* part.default.weight */
        rest += 1 + strcspn(rest + 1, ".");
    const size_t keep = at > name ? (size_t)(at - name) - 1 : 0;
    return arena_printf(memory, "%.*s%s", (int)keep, name, rest);
}

static const struct {
    const char *part;
    adapter_leaf leaf;
} leaves[] = {
    {"lora_A", LEAF_LORA_A},
    {"lora_B", LEAF_LORA_B},
    {"lora_embedding_A", LEAF_EMBEDDING_A},
    {"lora_embedding_B", LEAF_EMBEDDING_B},
    {"lora_magnitude_vector", LEAF_MAGNITUDE},
};

llava_status adapter_split_key(const char *key, arena *memory, adapter_leaf *leaf,
                               const char **name, llava_error *err) {
    skip(&key, "base_model.model.");
    for (size_t i = 0; i < LLAVA_COUNT(leaves); i++) {
        const char *at = find_part(key, leaves[i].part);
        if (!at || at == key) continue;
        *leaf = leaves[i].leaf;
        *name = arena_strndup(memory, key, (size_t)(at - key) - 1);
        return *name ? LLAVA_OK : llava_fail_memory(err, strlen(key), "a name");
    }
    *leaf = find_part(key, "original_module") ? LEAF_ORIGINAL : LEAF_PARAMETER;
    *name = without_part(key, "base_layer", false, memory);
    if (*name) *name = without_part(*name, "modules_to_save", true, memory);
    return *name ? LLAVA_OK : llava_fail_memory(err, strlen(key), "a name");
}

bool trainable_is_doubled(const char *key) {
    skip(&key, "base_model.");
    return strncmp(key, "model.model.", 12) == 0;
}

/* The reference takes "base_model." off, then one "model." from every key if any key has two. The
 * head has no "model." of its own: a file that holds nothing else keeps one too many. */
const char *trainable_name(const char *key, bool doubled, arena *memory) {
    skip(&key, "base_model.");
    if (doubled || strncmp(key, "model.lm_head.", 14) == 0) skip(&key, "model.");
    const char *name = without_part(key, "base_layer", false, memory);
    return name ? without_part(name, "modules_to_save", true, memory) : NULL;
}

const char *projector_name(const char *key, const char *root, arena *memory) {
    const char *at = find_part(key, "mm_projector");
    if (find_part(key, "vision_resampler")) return NULL;
    if (at) return arena_printf(memory, "%s.%s", root, at);
    skip(&key, "base_model.model.");
    return key;
}
