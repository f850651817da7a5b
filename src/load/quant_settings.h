/* SPDX-License-Identifier: Apache-2.0
 *
 * load_8bit, load_4bit and quantization_config: what becomes of which matrix.
 */
#ifndef LLAVA_QUANT_SETTINGS_H
#define LLAVA_QUANT_SETTINGS_H

#include "base/json.h"
#include "binder.h"

/** The fields of transformers' BitsAndBytesConfig that matter here, and the size of blocks. */
typedef struct quant_settings {
    bool wanted; /* plain matrices are quantized while loading */
    bool stored; /* the checkpoint's config.json says that it is quantized */
    quant_format format;
    int64_t block;
    bool nested;         /* bnb_4bit_use_double_quant */
    float threshold;     /* llm_int8_threshold */
    llava_dtype compute; /* a decoded weight's recorded type */
    const json_t *skip;  /* llm_int8_skip_modules, or NULL: the head */
    json_t *owned;       /* the option's object */
} quant_settings;

/** From the options, and from the checkpoint's own object (or NULL). */
llava_status quant_settings_read(const llava_load_options *options, const json_t *stored,
                                 quant_settings *settings, llava_error *err);
/** Releases what an option's JSON holds. */
void quant_settings_free(quant_settings *settings);

#define QUANT_PATH_SIZE 640
/** The path of the module an entry is the weight of, "model.layers.0.mlp.up_proj"; false if it has
 *  none that fits. */
bool quant_module_path(const binder *b, const bind_entry *e, char path[QUANT_PATH_SIZE]);
/** True if llm_int8_skip_modules, or its default, names the module. */
bool quant_is_skipped(const quant_settings *settings, const char *path);
/** True if loading turns this entry, whose matrix is found, into codes. */
bool quant_applies(const quant_settings *settings, const binder *b, const bind_entry *e);
/** Bytes of an entry's codes and scales. */
uint64_t quant_bytes(const quant_settings *settings, const bind_entry *e);

/** Reads the quantized form that a file may hold of an entry; *taken tells whether it does. */
llava_status bind_quantized(const binder *b, bind_entry *e, bool *taken, llava_error *err);

#endif
