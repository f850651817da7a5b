/* SPDX-License-Identifier: Apache-2.0
 *
 * load_pretrained_model: decide, bind, cast, place. Also the report of what would be loaded.
 */
#ifndef LLAVA_LOAD_H
#define LLAVA_LOAD_H

#include "base/base.h"
#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "config/config.h"
#include "device/device.h"
#include "image/image.h"
#include "model/model.h"
#include "tensor/tensor.h"
#include "text/text.h"

/** See llava_load_pretrained_model(); arguments are already checked for NULL. */
llava_status load_pretrained_model(const llava_load_options *options, llava_loaded *loaded,
                                   llava_error *err);

/** Everything llava_inspect() tells, as a JSON object the caller owns. */
llava_status load_inspect(const llava_load_options *options, json_t **report, llava_error *err);

/** The same of a single file (weights, an index, a configuration, a tokenizer): what it holds. */
llava_status load_inspect_file(const llava_load_options *options, json_t **report,
                               llava_error *err);

/** Writes the checkpoint that the options describe - adapter merged, tower inside - to a new
 *  directory in the original layout, cast to torch_dtype (DEFAULT: as stored). */
llava_status load_convert(const llava_load_options *options, const char *directory,
                          llava_error *err);

/** A vision tower alone: a model that can model_run_tower() and nothing else, and its image
 *  processor. config_json holds mm_* keys (select layer and feature, s2 ...) as an object. */
typedef struct tower_request {
    const char *directory;
    const char *config_json;
    llava_dtype torch_dtype;
    int n_threads;
    const char *cpu_level;
} tower_request;
llava_status load_tower_only(const tower_request *request, llava_model **model,
                             llava_image_processor **processor, llava_error *err);

/** Random weights in the shapes of options->customized_config, made in memory in torch_dtype; paths
 *  start from model_path. For measuring: answers mean nothing, and there is no tokenizer.
 *  *processor is NULL for a plain language model. */
llava_status load_dummy(const llava_load_options *options, llava_model **model,
                        llava_image_processor **processor, llava_error *err);

/** Where mm_vision_tower's directory is: working_directory (or the process's), the checkpoint's
 *  own directory, then up to three of its parents. NULL when nowhere. */
const char *load_find_tower(arena *memory, const char *name, const char *working_directory,
                            const char *checkpoint_directory);

#endif
