/* SPDX-License-Identifier: Apache-2.0
 *
 * Names: get_model_name_from_path, and the reference's choice of a branch by substrings of the
 * name. The choice is reported, never followed.
 */
#include <ctype.h>

#include "config.h"

char *config_model_name(arena *memory, const char *path) {
    size_t begin = 0, end = strlen(path);
    while (begin < end && path[begin] == '/') begin++;
    while (end > begin && path[end - 1] == '/') end--;
    size_t last = end;
    while (last > begin && path[last - 1] != '/') last--;
    const char *prefix = "checkpoint-";
    const size_t n = strlen(prefix);
    if (last == begin || end - last < n || memcmp(path + last, prefix, n) != 0)
        return arena_strndup(memory, path + last, end - last);
    size_t parent = last - 1; /* the slash in front */
    while (parent > begin && path[parent - 1] != '/') parent--;
    return arena_printf(memory, "%.*s_%.*s", (int)(last - 1 - parent), path + parent,
                        (int)(end - last), path + last);
}

#define NAME_MAX_BYTES 1024

/** A lower-cased copy of a name; longer names are cut. */
typedef struct lowered {
    char text[NAME_MAX_BYTES];
} lowered;

static void lower(lowered *out, const char *name) {
    size_t i = 0;
    for (; name[i] && i + 1 < sizeof out->text; i++)
        out->text[i] = (char)tolower((unsigned char)name[i]);
    out->text[i] = '\0';
}

static bool has(const lowered *n, const char *word) { return strstr(n->text, word) != NULL; }

/** "mpt" anywhere once every "prompt" is taken out. */
static bool has_mpt(const lowered *n) {
    lowered rest = {{0}};
    size_t used = 0;
    for (const char *at = n->text; *at;) {
        if (strncmp(at, "prompt", 6) == 0) {
            at += 6;
        } else {
            rest.text[used++] = *at++;
        }
    }
    return has(&rest, "mpt");
}

/** and binds tighter than or: "vicuna" alone is not enough. */
static bool has_llama_keyword(const lowered *n) {
    return (has(n, "wizardlm-2") && has(n, "vicuna")) || has(n, "llama") || has(n, "yi") ||
           has(n, "nous-hermes") || has(n, "llava-v1.6-34b") || has(n, "llava-v1.5");
}

typedef struct choice {
    const char *branch;
    const char *class_name; /* NULL: refused */
} choice;

static choice choose_lora(const lowered *n) {
    if (has(n, "mixtral")) return (choice){"A1", "LlavaMixtralForCausalLM"};
    if (has(n, "mistral")) return (choice){"A2", "LlavaMistralForCausalLM"};
    if (has(n, "gemma")) return (choice){"A3", "LlavaGemmaForCausalLM"};
    return (choice){"A4", "LlavaLlamaForCausalLM"};
}

static choice choose_projector(const lowered *n) {
    if (has(n, "mixtral")) return (choice){"B1", "LlavaMixtralForCausalLM"};
    if (has(n, "mistral") || has(n, "zephyr")) return (choice){"B2", "LlavaMistralForCausalLM"};
    if (has(n, "gemma")) return (choice){"B3", "LlavaGemmaForCausalLM"};
    if (has_llama_keyword(n)) return (choice){"B4", "LlavaLlamaForCausalLM"};
    return (choice){"B5", NULL};
}

static choice choose_full(const lowered *n) {
    const bool qwen = has(n, "qwen") || has(n, "quyen");
    if (has(n, "mixtral")) return (choice){"C1", "LlavaMixtralForCausalLM"};
    if (has(n, "mistral") || has(n, "zephyr")) return (choice){"C2", "LlavaMistralForCausalLM"};
    if (has_llama_keyword(n)) return (choice){"C3", "LlavaLlamaForCausalLM"};
    if (qwen && has(n, "moe")) return (choice){"C4", "LlavaQwenMoeForCausalLM"};
    if (qwen) return (choice){"C5", "LlavaQwenForCausalLM"};
    if (has(n, "gemma")) return (choice){"C6", "LlavaGemmaForCausalLM"};
    return (choice){"C7", "LlavaLlamaForCausalLM"};
}

void config_reference_branch(const char *model_name, bool has_base, bool multimodal_keyword,
                             const char *model_path, const char **branch, const char **class_name) {
    (void)model_path; /* the fallback branch looks there for "v1.5" only, which sets delay_load */
    lowered n = {{0}};
    lower(&n, model_name);
    choice c;
    if (has(&n, "llava") || multimodal_keyword) {
        if (has(&n, "lora") && has_base)
            c = choose_lora(&n);
        else
            c = has_base ? choose_projector(&n) : choose_full(&n);
    } else {
        c.class_name = "AutoModelForCausalLM";
        c.branch = has_base ? "D1" : has_mpt(&n) ? "D2" : "D3";
    }
    *branch = c.branch;
    *class_name = c.class_name;
}
