/* SPDX-License-Identifier: Apache-2.0
 *
 * What lies on top of a base model: LoRA modules by name, and whole tensors that replace the
 * base's (trained projectors, towers, biases, grown embeddings). Names come out as the base
 * model's checkpoint has them.
 */
#ifndef LLAVA_ADAPTER_H
#define LLAVA_ADAPTER_H

#include "checkpoint.h"

/** The low-rank change of one weight: W + scale * B A, rows then scaled to the magnitude (DoRA). */
typedef struct lora_module {
    const char *module;                      /* "model.layers.0.self_attn.q_proj" */
    const tensor *a, *b;                     /* [r, in...], [out, r, 1...]; NULL: no change */
    const tensor *embedding_a, *embedding_b; /* [r, rows], [dim, r] */
    const tensor *magnitude;                 /* [out]; NULL: plain LoRA */
    float scale;
} lora_module;

/** A tensor that stands in for the base's. */
typedef struct replacement {
    const char *name;
    const checkpoint_tensor *tensor;
    size_t order; /* in which they were read */
    bool used;
} replacement;

typedef struct adapter {
    arena *memory;
    lora_module *modules; /* sorted by module */
    size_t n_modules;
    bool *used;                /* parallel to modules */
    replacement *replacements; /* sorted by name */
    size_t n_replacements;
    checkpoint *files[2]; /* adapter_model, trainables or projector */
    const char *base;     /* base_model_name_or_path, or NULL */
    const char *what;     /* "a LoRA adapter, r 8, alpha 16" */
} adapter;

/** True if the directory holds adapter_config.json. */
bool adapter_exists(const char *directory);
/** True if it holds a projector and no whole model. */
bool projector_exists(const char *directory);

/** Reads adapter_config.json alone; path names the file itself. */
llava_status adapter_check_config(const char *path, llava_error *err);
/** Opens adapter_config.json, its tensors, and non_lora_trainables.bin when there. */
llava_status adapter_open(const char *directory, adapter **out, llava_error *err);
/** Opens mm_projector.bin or .safetensors. root is the decoder's prefix: "model" or
 *  "transformer". */
llava_status projector_open(const char *directory, const char *root, adapter **out,
                            llava_error *err);
void adapter_close(adapter **a);

/** The change of a weight, by its module; NULL when there is none. Marks it used. */
const lora_module *adapter_find(adapter *a, const char *module);
/** The replacement of a tensor, by its name; NULL when there is none. Marks it used. */
const checkpoint_tensor *adapter_replacement(adapter *a, const char *name);
/** Name of something that was never used and that is_extra does not excuse, or NULL. */
const char *adapter_unused(const adapter *a, bool (*is_extra)(const char *name));

#endif
