/* SPDX-License-Identifier: Apache-2.0
 *
 * Parts of the report of llava_inspect(), from a plan that may have stopped anywhere.
 */
#ifndef LLAVA_REPORT_H
#define LLAVA_REPORT_H

#include "load_plan.h"

/** Takes the value over, also on failure; a NULL value is an exhausted allocation. */
llava_status report_set(json_t *object, const char *key, json_t *value);
llava_status report_append(json_t *array, json_t *value);

/** One more entry of "errors". */
llava_status report_error(json_t *errors, const char *stage, const llava_error *err);
/** {"count", "bytes", "unmapped", "by_dtype"} of a checkpoint; NULL when memory is short. */
json_t *report_tensor_summary(const checkpoint *c);

const char *report_kind(const load_plan *plan);
llava_status report_contents(const load_plan *plan, json_t *report);
llava_status report_config(const load_plan *plan, json_t *report);
llava_status report_files(const load_plan *plan, json_t *report);
llava_status report_tensors(const load_plan *plan, json_t *report);
llava_status report_pictures(const load_plan *plan, json_t *report);
llava_status report_text(const load_plan *plan, json_t *report);
llava_status report_memory(const load_plan *plan, json_t *report);
llava_status report_placement(const load_plan *plan, json_t *report);

#endif
