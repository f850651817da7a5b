/* SPDX-License-Identifier: Apache-2.0
 *
 * What a bound weight takes once it is loaded, from headers alone.
 */
#include "load_plan.h"

#define NF4_BLOCK    64  /* values that share a scale */
#define NESTED_BLOCK 256 /* scales that share a scale of their own */

static bool ends_with(const char *text, const char *tail) {
    const size_t n = strlen(text), m = strlen(tail);
    return n >= m && strcmp(text + n - m, tail) == 0;
}

bool plan_is_quantized(const load_plan *plan, const bind_entry *e) {
    const llava_load_options *o = plan->options;
    if (!o->load_8bit && !o->load_4bit) return false;
    if (e->n_dims != 2 || !ends_with(e->suffix, ".weight") || e->group == BIND_HEAD) return false;
    if (e->group == BIND_TOWER && !plan->tower_in_checkpoint) return false;
    return e->dst != &plan->model->decoder.embed && !ends_with(e->suffix, "embedding.weight");
}

/** Codes, scales and the scales' scales; int8 has a float32 scale for each row. */
static uint64_t quantized_bytes(uint64_t count, uint64_t n_rows, bool four_bits) {
    if (!four_bits) return count + 4 * n_rows;
    const uint64_t n_blocks = (count + NF4_BLOCK - 1) / NF4_BLOCK;
    const uint64_t n_nested = (n_blocks + NESTED_BLOCK - 1) / NESTED_BLOCK;
    return (count + 1) / 2 + n_blocks + 4 * n_nested + 4;
}

uint64_t plan_loaded_bytes(const load_plan *plan, const bind_entry *e, bool *made) {
    const weight *w = e->dst;
    const uint64_t count = (uint64_t)w->n_rows * (uint64_t)w->n_cols;
    *made = true;
    if (plan_is_quantized(plan, e))
        return quantized_bytes(count, (uint64_t)w->n_rows, plan->options->load_4bit);
    /* a merged weight is a float32 result, rounded once */
    const llava_dtype stored = e->lora ? LLAVA_DTYPE_F32 : w->dtype;
    const llava_dtype target = cast_target(plan->model->compute, stored);
    *made = e->lora || target != w->dtype;
    return count * dtype_size(target);
}
