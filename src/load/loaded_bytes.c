/* SPDX-License-Identifier: Apache-2.0
 *
 * What a bound weight takes once it is loaded, from headers alone.
 */
#include "load_plan.h"

uint64_t plan_loaded_bytes(const load_plan *plan, const bind_entry *e, bool *made) {
    const weight *w = e->dst;
    *made = quant_applies(&plan->quantize, &plan->bind, e);
    if (*made) return quant_bytes(&plan->quantize, e);
    if (w->quant) return weight_bytes(w);
    /* a merged weight is a float32 result, rounded once */
    const llava_dtype stored = e->lora ? LLAVA_DTYPE_F32 : w->dtype;
    const llava_dtype target = cast_target(plan->model->compute, stored);
    *made = e->lora || target != w->dtype;
    return (uint64_t)w->n_rows * (uint64_t)w->n_cols * dtype_size(target);
}
