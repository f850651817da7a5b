/* SPDX-License-Identifier: Apache-2.0
 *
 * The decoder's part of config.json. Defaults are those of transformers 4.40's configuration
 * classes (families.c), reading follows its modelling code where the two differ.
 */
#include "config_read.h"

bool lm_layer_is_sparse(const lm_config *lm, int64_t layer) {
    if (lm->n_experts == 0 || (layer + 1) % lm->decoder_sparse_step != 0) return false;
    for (size_t i = 0; i < lm->n_mlp_only_layers; i++)
        if (lm->mlp_only_layers[i] == layer) return false;
    return true;
}

static llava_status read_activation(const reader *r, const char *key, activation fallback,
                                    activation *act) {
    const char *name;
    LLAVA_TRY(json_get_string(r->object, r->what, key, NULL, &name, r->err));
    *act = fallback;
    if (!name || activation_parse(name, act)) return LLAVA_OK;
    return llava_fail(r->err, LLAVA_UNSUPPORTED, "%s: \"%s\": unknown activation \"%.60s\"",
                      r->what, key, name);
}

static llava_status read_sizes(lm_config *lm, const reader *r) {
    const family *f = lm->family;
    LLAVA_TRY(read_int(r, "vocab_size", f->vocab_size, 1, CONFIG_MAX_VOCAB, &lm->vocab_size));
    LLAVA_TRY(read_int(r, "hidden_size", f->hidden_size, 1, CONFIG_MAX_WIDTH, &lm->hidden_size));
    LLAVA_TRY(read_int(r, "intermediate_size", f->intermediate_size, 1, CONFIG_MAX_WIDTH,
                       &lm->intermediate_size));
    LLAVA_TRY(read_int(r, "num_hidden_layers", f->n_layers, 1, CONFIG_MAX_LAYERS, &lm->n_layers));
    LLAVA_TRY(read_int(r, "num_attention_heads", f->n_heads, 1, 4096, &lm->n_heads));
    /* an explicit null means as many as there are query heads */
    const bool given = json_object_get(r->object, "num_key_value_heads") != NULL;
    const int64_t kv_heads = given || !f->n_kv_heads ? lm->n_heads : f->n_kv_heads;
    LLAVA_TRY(read_int_or_null(r, "num_key_value_heads", kv_heads, 1, 4096, &lm->n_kv_heads));
    LLAVA_TRY(read_int_or_null(r, "head_dim", f->head_dim, 1, 4096, &lm->head_dim));
    return read_int(r, "max_position_embeddings", f->max_position_embeddings, 1, CONFIG_MAX_TOKENS,
                    &lm->max_position_embeddings);
}

static llava_status check_heads(lm_config *lm, const reader *r) {
    if (lm->head_dim == 0) {
        if (lm->hidden_size % lm->n_heads != 0)
            return llava_fail(r->err, LLAVA_MALFORMED,
                              "%s: \"hidden_size\" %lld is no multiple of \"num_attention_heads\" "
                              "%lld",
                              r->what, (long long)lm->hidden_size, (long long)lm->n_heads);
        lm->head_dim = lm->hidden_size / lm->n_heads;
    }
    if (lm->n_heads % lm->n_kv_heads != 0)
        return llava_fail(r->err, LLAVA_MALFORMED,
                          "%s: \"num_attention_heads\" %lld is no multiple of "
                          "\"num_key_value_heads\" %lld",
                          r->what, (long long)lm->n_heads, (long long)lm->n_kv_heads);
    if (lm->head_dim % 2 != 0 && lm->family->arch != ARCH_MPT)
        return llava_fail(r->err, LLAVA_MALFORMED,
                          "%s: heads of %lld channels cannot be rotated: expected an even number",
                          r->what, (long long)lm->head_dim);
    return LLAVA_OK;
}

static llava_status read_rope_kind(lm_config *lm, const reader *scaling, const char *type) {
    static const struct {
        const char *name;
        rope_type rope;
    } kinds[] = {{"default", ROPE_DEFAULT},
                 {"linear", ROPE_LINEAR},
                 {"dynamic", ROPE_DYNAMIC},
                 {"llama3", ROPE_LLAMA3}};
    for (size_t i = 0; i < LLAVA_COUNT(kinds); i++) {
        if (strcmp(kinds[i].name, type) != 0) continue;
        lm->rope = kinds[i].rope;
        return LLAVA_OK;
    }
    return llava_fail(scaling->err, LLAVA_UNSUPPORTED,
                      "%s: expected default, linear, dynamic or llama3, got \"%.60s\"",
                      scaling->what, type);
}

/** {"type": "linear", "factor": 2.0} and its relatives; `rope_type` is the newer key. */
static llava_status read_rope_scaling(lm_config *lm, const reader *scaling) {
    const char *type;
    LLAVA_TRY(
        json_get_string(scaling->object, scaling->what, "rope_type", NULL, &type, scaling->err));
    if (!type)
        LLAVA_TRY(json_get_string(scaling->object, scaling->what, "type", "default", &type,
                                  scaling->err));
    LLAVA_TRY(read_rope_kind(lm, scaling, type));
    if (lm->rope == ROPE_DEFAULT) return LLAVA_OK;
    double factor, low, high;
    LLAVA_TRY(read_float(scaling, "factor", 0, 1, 1e6, &factor));
    if (factor < 1)
        return llava_fail(scaling->err, LLAVA_MALFORMED, "%s: \"factor\" is missing",
                          scaling->what);
    LLAVA_TRY(read_float(scaling, "low_freq_factor", 1, 1e-6, 1e6, &low));
    LLAVA_TRY(read_float(scaling, "high_freq_factor", 4, 1e-6, 1e6, &high));
    LLAVA_TRY(read_int(scaling, "original_max_position_embeddings", 8192, 1, CONFIG_MAX_TOKENS,
                       &lm->rope_original_max_position));
    if (lm->rope == ROPE_LLAMA3 && !(high > low))
        return llava_fail(scaling->err, LLAVA_MALFORMED,
                          "%s: \"high_freq_factor\" %g must exceed \"low_freq_factor\" %g",
                          scaling->what, high, low);
    lm->rope_factor = (float)factor;
    lm->rope_low_freq_factor = (float)low;
    lm->rope_high_freq_factor = (float)high;
    return LLAVA_OK;
}

static llava_status read_rope(llava_config *config, const reader *r) {
    lm_config *lm = &config->lm;
    const json_t *scaling = json_get(r->object, "rope_scaling");
    const json_t *parameters = json_get(r->object, "rope_parameters");
    double theta = lm->family->rope_theta;
    if (json_is_object(parameters)) { /* transformers 5 keeps both there */
        const reader p = {parameters, "config.json: rope_parameters", r->err};
        LLAVA_TRY(read_float(&p, "rope_theta", theta, 1e-3, 1e15, &theta));
        if (!scaling) scaling = parameters;
    }
    LLAVA_TRY(read_float(r, "rope_theta", theta, 1e-3, 1e15, &theta));
    lm->rope_theta = (float)theta;
    if (!scaling) return LLAVA_OK;
    if (!json_is_object(scaling))
        return llava_fail(r->err, LLAVA_MALFORMED,
                          "%s: \"rope_scaling\": expected an object, got %s", r->what,
                          json_kind(scaling));
    if (!lm->family->honours_rope_scaling && !config->native)
        return scaling == parameters
                   ? LLAVA_OK
                   : config_note(config, "rope_scaling", "ignored",
                                 "the reference drops it for this family", r->err);
    const reader s = {scaling, "config.json: rope_scaling", r->err};
    return read_rope_scaling(lm, &s);
}

static llava_status read_window(lm_config *lm, const reader *r) {
    const family *f = lm->family;
    lm->max_window_layers = lm->n_layers;
    if (!f->window_needs_flag && f->arch != ARCH_MISTRAL && f->arch != ARCH_MIXTRAL)
        return LLAVA_OK;
    const bool given = json_object_get(r->object, "sliding_window") != NULL;
    LLAVA_TRY(read_int_or_null(r, "sliding_window", given ? 0 : f->sliding_window, 0,
                               CONFIG_MAX_TOKENS, &lm->sliding_window));
    if (!f->window_needs_flag) return LLAVA_OK;
    bool on;
    LLAVA_TRY(read_flag(r, "use_sliding_window", false, &on));
    LLAVA_TRY(
        read_int_or_null(r, "max_window_layers", 28, 0, CONFIG_MAX_LAYERS, &lm->max_window_layers));
    if (!on) lm->sliding_window = 0;
    return LLAVA_OK;
}

static llava_status read_dense_layers(llava_config *config, const reader *r) {
    const json_t *list = json_get(r->object, "mlp_only_layers");
    const size_t n = json_array_size(list);
    if (list && (!json_is_array(list) || n > CONFIG_MAX_LAYERS))
        return llava_fail(r->err, LLAVA_MALFORMED,
                          "%s: \"mlp_only_layers\": expected an array of at most %d layers, got %s",
                          r->what, CONFIG_MAX_LAYERS,
                          json_is_array(list) ? "a longer one" : json_kind(list));
    int64_t *layers = arena_array(config->memory, n, sizeof *layers);
    if (!layers) return llava_fail_memory(r->err, n * sizeof *layers, "mlp_only_layers");
    for (size_t i = 0; i < n; i++) {
        const json_t *layer = json_array_get(list, i);
        if (!json_is_integer(layer))
            return llava_fail(r->err, LLAVA_MALFORMED,
                              "%s: \"mlp_only_layers\": expected integers, got %s", r->what,
                              json_kind(layer));
        layers[i] = json_integer_value(layer);
    }
    config->lm.mlp_only_layers = layers;
    config->lm.n_mlp_only_layers = n;
    return LLAVA_OK;
}

static llava_status read_experts(llava_config *config, const reader *r) {
    lm_config *lm = &config->lm;
    lm->decoder_sparse_step = 1;
    if (lm->family->arch == ARCH_MIXTRAL) {
        LLAVA_TRY(read_int(r, "num_local_experts", 8, 1, 4096, &lm->n_experts));
        LLAVA_TRY(read_int(r, "num_experts_per_tok", 2, 1, 4096, &lm->n_experts_per_token));
        lm->moe_intermediate_size = lm->intermediate_size;
        lm->norm_topk_prob = true;
    } else if (lm->family->arch == ARCH_QWEN2_MOE) {
        LLAVA_TRY(read_int(r, "num_experts", 60, 0, 4096, &lm->n_experts));
        LLAVA_TRY(read_int(r, "num_experts_per_tok", 4, 1, 4096, &lm->n_experts_per_token));
        LLAVA_TRY(read_int(r, "moe_intermediate_size", 1408, 1, CONFIG_MAX_WIDTH,
                           &lm->moe_intermediate_size));
        LLAVA_TRY(read_int(r, "shared_expert_intermediate_size", 5632, 1, CONFIG_MAX_WIDTH,
                           &lm->shared_intermediate_size));
        LLAVA_TRY(
            read_int(r, "decoder_sparse_step", 1, 1, CONFIG_MAX_LAYERS, &lm->decoder_sparse_step));
        LLAVA_TRY(read_flag(r, "norm_topk_prob", false, &lm->norm_topk_prob));
        LLAVA_TRY(read_dense_layers(config, r));
    }
    if (lm->n_experts > 0 && lm->n_experts_per_token > lm->n_experts)
        return llava_fail(r->err, LLAVA_MALFORMED,
                          "%s: \"num_experts_per_tok\" %lld exceeds the %lld experts", r->what,
                          (long long)lm->n_experts_per_token, (long long)lm->n_experts);
    return LLAVA_OK;
}

static llava_status read_act_and_biases(lm_config *lm, const reader *r) {
    const arch a = lm->family->arch;
    /* Gemma ignores hidden_act; hidden_activation null means the tanh form */
    LLAVA_TRY(read_activation(r, a == ARCH_GEMMA ? "hidden_activation" : "hidden_act",
                              lm->family->act, &lm->act));
    if (a == ARCH_LLAMA || a == ARCH_GEMMA)
        LLAVA_TRY(read_flag(r, "attention_bias", false, &lm->attention_bias));
    if (a == ARCH_LLAMA) LLAVA_TRY(read_flag(r, "mlp_bias", false, &lm->mlp_bias));
    lm->qkv_bias = lm->family->qkv_bias || lm->attention_bias;
    if (a == ARCH_QWEN2_MOE) LLAVA_TRY(read_flag(r, "qkv_bias", true, &lm->qkv_bias));
    return read_flag(r, "tie_word_embeddings", lm->family->tie_word_embeddings,
                     &lm->tie_word_embeddings);
}

llava_status config_parse_lm(llava_config *config, const reader *r) {
    lm_config *lm = &config->lm;
    if (lm->family->arch == ARCH_MPT) return config_parse_mpt(config, r);
    LLAVA_TRY(read_sizes(lm, r));
    LLAVA_TRY(check_heads(lm, r));
    double eps;
    LLAVA_TRY(read_float(r, "rms_norm_eps", lm->family->rms_norm_eps, 1e-30, 1, &eps));
    lm->rms_norm_eps = (float)eps;
    LLAVA_TRY(read_act_and_biases(lm, r));
    LLAVA_TRY(read_rope(config, r));
    LLAVA_TRY(read_window(lm, r));
    return read_experts(config, r);
}
