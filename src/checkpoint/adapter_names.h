/* SPDX-License-Identifier: Apache-2.0
 *
 * The names peft and LLaVA's training give to tensors, brought to those of the base model.
 */
#ifndef LLAVA_ADAPTER_NAMES_H
#define LLAVA_ADAPTER_NAMES_H

#include "base/base.h"

typedef enum adapter_leaf {
    LEAF_PARAMETER, /* a whole tensor */
    LEAF_LORA_A,
    LEAF_LORA_B,
    LEAF_EMBEDDING_A,
    LEAF_EMBEDDING_B,
    LEAF_MAGNITUDE,
    LEAF_ORIGINAL /* the untouched copy beside a saved module: of no use */
} adapter_leaf;

/** Splits an adapter file's key. *name: the module for LoRA leaves, else the whole parameter. */
llava_status adapter_split_key(const char *key, arena *memory, adapter_leaf *leaf,
                               const char **name, llava_error *err);

/** Key of non_lora_trainables.bin -> parameter. doubled: some key of the file has "model.model."
 *  once the peft prefix is off. */
const char *trainable_name(const char *key, bool doubled, arena *memory);
bool trainable_is_doubled(const char *key);

/** Key of a projector file -> parameter below root; NULL: not read (a resampler). */
const char *projector_name(const char *key, const char *root, arena *memory);

#endif
