/* SPDX-License-Identifier: Apache-2.0
 *
 * rank_pattern and alpha_pattern of adapter_config.json: regular expressions over module names.
 */
#ifndef LLAVA_ADAPTER_PATTERNS_H
#define LLAVA_ADAPTER_PATTERNS_H

#include "base/base.h"
#include "base/json.h"

typedef struct adapter_patterns adapter_patterns;

/** Compiles the keys of both maps (NULL: none), in order. A key that is no expression matches
 *  nothing. `what` names the file in errors. */
llava_status adapter_patterns_new(const json_t *rank_pattern, const json_t *alpha_pattern,
                                  const char *what, adapter_patterns **out, llava_error *err);
void adapter_patterns_free(adapter_patterns **p);

/** The first key that matches the module as peft's re.match(rf".*\.{key}$", module) does, else the
 *  module itself. */
llava_status adapter_patterns_key(const adapter_patterns *p, const char *module, const char **key,
                                  llava_error *err);

#endif
