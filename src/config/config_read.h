/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of this folder share: typed, bounded reading of one JSON object.
 */
#ifndef LLAVA_CONFIG_READ_H
#define LLAVA_CONFIG_READ_H

#include "config.h"

/** One JSON object being read. `what` names it in errors. */
typedef struct reader {
    const json_t *object;
    const char *what;
    llava_error *err;
} reader;

/** A whole number in [min, max]. An absent key gives the fallback, null is an error. */
llava_status read_int(const reader *r, const char *key, int64_t fallback, int64_t min, int64_t max,
                      int64_t *value);
/** The same, but null counts as absent. */
llava_status read_int_or_null(const reader *r, const char *key, int64_t fallback, int64_t min,
                              int64_t max, int64_t *value);
/** A finite number in [min, max]; an absent key gives the fallback, null is an error. */
llava_status read_float(const reader *r, const char *key, double fallback, double min, double max,
                        double *value);
/** Copies a string of less than `size` bytes; absent or null gives the fallback. */
llava_status read_text(const reader *r, const char *key, const char *fallback, char *buffer,
                       size_t size);
/** False when absent or null. */
llava_status read_flag(const reader *r, const char *key, bool fallback, bool *value);

/** A file that must hold one object. */
llava_status config_read_json(const char *path, json_t **root, llava_error *err);

/** Applies overwrite_config to root; unknown keys are errors that list near names. */
llava_status config_overwrite(json_t *root, const char *text, llava_error *err);

/** Replaces the root of a "-hf" checkpoint by its translation; leaves every other alone. */
llava_status config_translate_native(llava_config *config, llava_error *err);
/** What of a "-hf" config.json has no key in the original layout. */
llava_status config_parse_native(llava_config *config, llava_error *err);
llava_status config_read_native_processors(llava_config *config, const char *directory,
                                           llava_error *err);

tower_kind config_tower_kind(const char *model_type); /* TOWER_NONE: unknown */
/** Sizes of a tower whose kind is set. */
llava_status config_parse_tower(const reader *r, tower_config *tower);
/** The processor's pictures must have the tower's size. */
llava_status config_check_processor(const llava_config *config, const processor_config *processor,
                                    const char *what, llava_error *err);
/** What tower and config.json's keys about pictures must agree on; fills mm_hidden_size. */
llava_status config_check_with_tower(llava_config *config, llava_error *err);

/** Fills config->architecture, config->multimodal and config->lm.family. */
llava_status config_resolve(llava_config *config, const config_request *request, llava_error *err);
llava_status config_parse_lm(llava_config *config, const reader *r);
llava_status config_parse_mpt(llava_config *config, const reader *r);
llava_status config_parse_mm(llava_config *config, const reader *r);
llava_status config_parse_pinpoints(llava_config *config, const reader *r);
llava_status config_parse_generation(llava_config *config, const reader *r, const char *directory);

/** The largest sizes that make sense; files beyond them are refused. */
#define CONFIG_MAX_LAYERS  1024
#define CONFIG_MAX_WIDTH   ((int64_t)1 << 18)
#define CONFIG_MAX_VOCAB   ((int64_t)1 << 24)
#define CONFIG_MAX_TOKENS  ((int64_t)INT32_MAX)
#define CONFIG_MAX_PICTURE 16384
#define CONFIG_MAX_GRID    4096 /* pinpoints */

#endif
