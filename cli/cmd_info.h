/* SPDX-License-Identifier: Apache-2.0
 *
 * llava info: the report as people read it.
 */
#ifndef LLAVA_CMD_INFO_H
#define LLAVA_CMD_INFO_H

#include "cli.h"

/** A member that is a text, or "-"; a member that is a number, or 0. object may be NULL. */
const char *info_text(const json_t *object, const char *key);
int64_t info_number(const json_t *object, const char *key);

/** with_placement: which module goes to which device, too. */
void info_print(FILE *out, const json_t *document, bool with_placement);

#endif
