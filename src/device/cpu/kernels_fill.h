/* SPDX-License-Identifier: Apache-2.0
 *
 * Entries that every level with vectors has of its own. Included last by a level's file.
 */
#ifndef LLAVA_KERNELS_FILL_H
#define LLAVA_KERNELS_FILL_H

#include "device/cpu/kernels_vector.h"

static void fill_shared(kernels *table) {
    table->tile_columns = TILE_VECTORS * LANES;
#define SET(name) table->name = NAME(name)
    SET(gemm_f32);
    SET(pack_f32);
    SET(pack_f16);
    SET(pack_bf16);
    SET(dot_f32);
    SET(dot_f16);
    SET(dot_bf16);
    SET(epilogue);
    SET(widen_f16);
    SET(widen_bf16);
    SET(widen_i8);
    SET(narrow_f16);
    SET(narrow_bf16);
    SET(round_bf16);
    SET(softmax_step);
    SET(key_scores_f32);
    SET(key_scores_f16);
    SET(key_scores_bf16);
    SET(key_scores_i8);
    SET(value_sums_f32);
    SET(value_sums_f16);
    SET(value_sums_bf16);
    SET(value_sums_i8);
    SET(sum);
    SET(sum_squares);
    SET(normalize);
    SET(rope);
    SET(silu);
    SET(gelu);
    SET(gelu_tanh);
    SET(quick_gelu);
    SET(relu);
    SET(relu2);
    SET(tanh);
    SET(sigmoid);
    SET(multiply);
    SET(add_scaled);
    SET(scale);
#ifdef LLAVA_KERNELS_VECTOR_QUANT_H
    SET(encode_4bit);
    SET(expand_4bit);
    SET(arrange_4bit);
    SET(code_inputs);
    SET(dot_4bit);
    SET(encode_i8);
    SET(mark_outliers);
    SET(dot_i8);
    SET(pack_i8);
    SET(gemm_i8);
    SET(scale_i32);
#endif
#undef SET
}

#endif
