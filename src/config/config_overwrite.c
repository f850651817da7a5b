/* SPDX-License-Identifier: Apache-2.0
 *
 * overwrite_config: attributes set after config.json has been read, as in the reference, but
 * checked: an unknown key is an error that lists the near ones.
 */
#include <stdio.h>

#include "config_read.h"

/** Every key of config.json that means something to LLaVA or to a decoder family. */
static const char *const known_keys[] = {
    /* pictures */
    "add_faster_video",
    "add_time_instruction",
    "delay_load",
    "faster_token_stride",
    "force_sample",
    "freeze_mm_mlp_adapter",
    "freeze_mm_vision_resampler",
    "image_aspect_ratio",
    "image_crop_resolution",
    "image_grid_pinpoints",
    "image_split_resolution",
    "image_token_index",
    "mm_hidden_size",
    "mm_mask_drop_mode",
    "mm_mask_drop_ratio",
    "mm_mask_drop_ratio_lower",
    "mm_mask_drop_ratio_upper",
    "mm_mask_drop_skip_percentage",
    "mm_newline_position",
    "mm_patch_merge_type",
    "mm_perceiver_depth",
    "mm_perceiver_ff_mult",
    "mm_perceiver_latents",
    "mm_perceiver_pretrained",
    "mm_projector_lr",
    "mm_projector_type",
    "mm_qformer_depth",
    "mm_qformer_latents",
    "mm_qformer_pretrained",
    "mm_resampler_type",
    "mm_spatial_pool_mode",
    "mm_spatial_pool_out_channels",
    "mm_spatial_pool_stride",
    "mm_tunable_parts",
    "mm_use_im_patch_token",
    "mm_use_im_start_end",
    "mm_vision_select_feature",
    "mm_vision_select_layer",
    "mm_vision_tower",
    "mm_vision_tower_lr",
    "pos_skipping_range",
    "s2",
    "s2_scales",
    "tokenizer_model_max_length",
    "tokenizer_padding_side",
    "tune_mm_mlp_adapter",
    "tune_mm_vision_resampler",
    "unfreeze_mm_vision_tower",
    "use_mm_proj",
    "use_pos_skipping",
    "vision_tower",
    "vision_tower_pretrained",
    /* the decoder */
    "architectures",
    "attention_bias",
    "attention_dropout",
    "bos_token_id",
    "decoder_sparse_step",
    "dtype",
    "eos_token_id",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "max_sequence_length",
    "max_window_layers",
    "mlp_bias",
    "mlp_only_layers",
    "model_type",
    "moe_intermediate_size",
    "norm_topk_prob",
    "num_attention_heads",
    "num_experts",
    "num_experts_per_tok",
    "num_hidden_layers",
    "num_key_value_heads",
    "num_local_experts",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "qkv_bias",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "shared_expert_intermediate_size",
    "sliding_window",
    "tie_word_embeddings",
    "torch_dtype",
    "use_cache",
    "use_sliding_window",
    "vocab_size",
    /* MPT */
    "attn_config",
    "d_model",
    "emb_pdrop",
    "expansion_ratio",
    "layer_norm_epsilon",
    "learned_pos_emb",
    "logit_scale",
    "max_seq_len",
    "n_heads",
    "n_layers",
    "no_bias",
    "norm_type",
    "resid_pdrop",
    /* generation defaults that config.json may carry */
    "do_sample",
    "early_stopping",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_new_tokens",
    "no_repeat_ngram_size",
    "num_beams",
    "repetition_penalty",
    "temperature",
    "top_k",
    "top_p",
};

static bool is_known(const json_t *root, const char *key) {
    if (json_object_get(root, key)) return true;
    for (size_t i = 0; i < LLAVA_COUNT(known_keys); i++)
        if (strcmp(known_keys[i], key) == 0) return true;
    return false;
}

#define WORD_MAX 64

/** Edit distance of two short words; large for long ones. */
static size_t distance(const char *a, const char *b) {
    const size_t n = strlen(a), m = strlen(b);
    if (n >= WORD_MAX || m >= WORD_MAX) return WORD_MAX;
    size_t row[WORD_MAX];
    for (size_t j = 0; j <= m; j++) row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t corner = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            const size_t swap = corner + (a[i - 1] != b[j - 1]);
            corner = row[j];
            const size_t step = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            row[j] = step < swap ? step : swap;
        }
    }
    return row[m];
}

static bool is_near(const char *key, const char *known) {
    const size_t size = strlen(key);
    return distance(key, known) <= (size < 8 ? 2 : 4) || (size >= 5 && strstr(known, key));
}

/** Writes up to four names like `key`, separated by commas. */
static void near_names(const json_t *root, const char *key, char *text, size_t size) {
    size_t used = 0, count = 0;
    text[0] = '\0';
    for (size_t i = 0; i < LLAVA_COUNT(known_keys) && count < 4 && used < size; i++) {
        if (!is_near(key, known_keys[i])) continue;
        used +=
            (size_t)snprintf(text + used, size - used, "%s%s", count++ ? ", " : "", known_keys[i]);
    }
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)root, name, value) {
        if (count >= 4 || used >= size) break;
        if (is_near(key, name) && !strstr(text, name))
            used += (size_t)snprintf(text + used, size - used, "%s%s", count++ ? ", " : "", name);
    }
}

llava_status config_overwrite(json_t *root, const char *text, llava_error *err) {
    const char *what = "overwrite_config";
    json_t *changes;
    LLAVA_TRY(json_read_text(text, strlen(text), what, &changes, err));
    llava_status status = LLAVA_OK;
    if (!json_is_object(changes)) {
        status = llava_fail(err, LLAVA_BAD_ARGUMENT, "%s: expected a JSON object, got %s", what,
                            json_kind(changes));
        goto done;
    }
    const char *key;
    json_t *value;
    json_object_foreach(changes, key, value) {
        if (!is_known(root, key)) {
            char names[256];
            near_names(root, key, names, sizeof names);
            status = llava_fail(err, LLAVA_BAD_ARGUMENT, "%s: unknown key \"%.80s\"; %s%s", what,
                                key, names[0] ? "near names: " : "no known key is like it", names);
            goto done;
        }
        if (json_object_set(root, key, value) != 0) {
            status = llava_fail_memory(err, strlen(key), what);
            goto done;
        }
    }
done:
    json_decref(changes);
    return status;
}
