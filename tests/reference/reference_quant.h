/* SPDX-License-Identifier: Apache-2.0
 *
 * The second half of the quant suite: whole models.
 */
#ifndef REFERENCE_QUANT_H
#define REFERENCE_QUANT_H

#include "support/reference.h"

/** quant/models and quant/llava. */
void reference_quant_models(reference_count *count);

#endif
