/* SPDX-License-Identifier: Apache-2.0
 *
 * What loading and inspecting share: the stages between a path and a model whose weights are
 * found but not yet cast.
 */
#ifndef LLAVA_LOAD_PLAN_H
#define LLAVA_LOAD_PLAN_H

#include "binder.h"
#include "load.h"
#include "place.h"
#include "quant_settings.h"

/** Everything on its way to a llava_loaded. Release with plan_close(). */
typedef struct load_plan {
    const llava_load_options *options; /* &resolved */
    llava_load_options resolved;       /* with directories in place of Hub ids */
    llava_model *model;                /* owns configuration, files and strings from the start */
    llava_tokenizer *tokenizer;
    llava_image_processor *processor;
    binder bind;
    quant_settings quantize;
    bool name_given;
    const char *weights_directory; /* model_path, or model_base below an adapter or projector */
    const char *config_directory;  /* the one that holds config.json */
    bool is_adapter, is_projector;
    bool weights_alone;          /* converting: a checkpoint without a tokenizer will do */
    const char *tower_directory; /* NULL: nowhere */
    bool tower_in_checkpoint;
    place_map map;       /* device_map */
    bool map_is_read;    /* it and max_memory are sound */
    place_table devices; /* with their real limits */
    place_tree modules;  /* placed; without nodes: not yet */
    llava_error *err;
} load_plan;

llava_status plan_open(load_plan *plan, const llava_load_options *options, llava_error *err);
void plan_close(load_plan *plan);

/** All stages below, in order. */
llava_status plan_run(load_plan *plan);
/* The stages, in order. Each needs those before it. */
llava_status plan_check_options(load_plan *plan);
llava_status plan_resolve_paths(load_plan *plan); /* Hub ids become snapshot directories */
llava_status plan_check_mode(load_plan *plan);    /* full model, adapter or projector; the base */
llava_status plan_read_config(load_plan *plan);
llava_status plan_choose_attention(load_plan *plan);
llava_status plan_open_weights(load_plan *plan);
llava_status plan_open_overlay(load_plan *plan); /* adapter or projector on top of the base */
llava_status plan_describe(load_plan *plan);     /* which tensors the decoder and projector need */
llava_status plan_find_tower(load_plan *plan);   /* the tower's configuration */
llava_status plan_choose_tower(load_plan *plan); /* where the tower's come from */
llava_status plan_bind(load_plan *plan);         /* finds all tensors, checks their shapes */
llava_status plan_quantization(load_plan *plan); /* tells which matrices are or become codes */
llava_status plan_open_tokenizer(load_plan *plan);     /* and adds the picture tokens */
llava_status plan_read_chat_template(load_plan *plan); /* the checkpoint's own, if it has one */
llava_status plan_choose_template(load_plan *plan);
llava_status plan_open_processor(load_plan *plan);
/** Decides which module goes where, and that it fits; not part of plan_run(). */
llava_status plan_place(load_plan *plan);

/** device_map and max_memory, and that their devices are there; for plan_check_options(). */
llava_status plan_read_map(load_plan *plan);
/** attn_implementation's name, and that some device here can serve it. */
llava_status plan_check_attention(load_plan *plan);

/** mm_vision_tower without what only tells the reference which library to use. */
const char *plan_tower_name(const llava_config *config);
/** The tower's repository on the Hub: its two small configuration files, or its weights too. NULL
 * in *directory when the Hub may not be asked. */
llava_status plan_fetch_tower(load_plan *plan, bool weights, const char **directory);

/** Decoder, head, projector, newline: describes what config needs, allocates the structs. */
void bind_decoder(binder *b, llava_model *model);
void bind_projector(binder *b, llava_model *model);
void bind_tower(binder *b, llava_model *model);

/** Bytes a bound weight takes once loaded, quantized ones included, and whether they are new
 *  memory rather than the mapped file. */
uint64_t plan_loaded_bytes(const load_plan *plan, const bind_entry *e, bool *made);

/** Format a weight is kept in: as stored where that loses nothing against torch_dtype. */
llava_dtype cast_target(llava_dtype compute, llava_dtype stored);
/** The model releases memory when it ends; on failure it is released at once. */
llava_status own_weight(llava_model *model, void *memory, size_t n_bytes, llava_error *err);
/** Merges an adapter's change into a weight in float32; the result is float32. */
llava_status merge_lora(const llava_model *model, const bind_entry *e, float *merged,
                        llava_error *err);
/** Stored bytes that a new weight took the place of need not stay resident. */
void forget_stored(const llava_model *model, const void *stored, size_t n_bytes);
/** Casts or quantizes what has to be into memory of the device; progress by bytes. settings may be
 *  NULL. */
llava_status cast_weights(llava_model *model, const binder *b, const quant_settings *settings,
                          const llava_load_options *options, llava_error *err);
/** Quantizes the matrix of entry `first` and of those behind it that are row ranges of the same.
 *  Their codes and scales lie in *memory, which the caller owns; NULL on failure. */
llava_status quantize_weight(llava_model *model, const binder *b, const quant_settings *settings,
                             size_t first, void **memory, size_t *n_bytes, llava_error *err);
/** How many entries that is. */
size_t quantize_entries(const binder *b, size_t first);

#endif
