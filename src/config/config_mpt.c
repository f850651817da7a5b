/* SPDX-License-Identifier: Apache-2.0
 *
 * MPT's config.json: other names for the same sizes, and variants that nothing published uses,
 * which are refused rather than run wrongly.
 */
#include "config_read.h"

static llava_status refuse(const reader *r, const char *key, const char *expected) {
    return llava_fail(r->err, LLAVA_UNSUPPORTED, "%s: \"%s\": this build runs MPT with %s only",
                      r->what, key, expected);
}

static llava_status check_attention(const json_t *attention, llava_error *err) {
    const reader r = {attention, "config.json: attn_config", err};
    char kind[64];
    LLAVA_TRY(read_text(&r, "attn_type", "multihead_attention", kind, sizeof kind));
    if (strcmp(kind, "multihead_attention") != 0)
        return refuse(&r, "attn_type", "multihead_attention");
    static const char *const absent[] = {"clip_qkv", "softmax_scale"};
    for (size_t i = 0; i < LLAVA_COUNT(absent); i++)
        if (json_get(attention, absent[i])) return refuse(&r, absent[i], "null");
    static const char *const off[] = {"qk_ln", "prefix_lm", "attn_uses_sequence_id"};
    for (size_t i = 0; i < LLAVA_COUNT(off); i++) {
        bool on;
        LLAVA_TRY(read_flag(&r, off[i], false, &on));
        if (on) return refuse(&r, off[i], "false");
    }
    bool alibi;
    int64_t bias;
    LLAVA_TRY(read_flag(&r, "alibi", true, &alibi));
    if (!alibi) return refuse(&r, "alibi", "true");
    LLAVA_TRY(read_int(&r, "alibi_bias_max", 8, 1, 1024, &bias));
    return bias == 8 ? LLAVA_OK : refuse(&r, "alibi_bias_max", "8");
}

static llava_status check_variant(const reader *r) {
    const json_t *attention = json_get(r->object, "attn_config");
    if (attention && !json_is_object(attention))
        return llava_fail(r->err, LLAVA_MALFORMED,
                          "%s: \"attn_config\": expected an object, got %s", r->what,
                          json_kind(attention));
    if (attention) LLAVA_TRY(check_attention(attention, r->err));
    if (json_get(r->object, "logit_scale")) return refuse(r, "logit_scale", "null");
    char norm[64];
    LLAVA_TRY(read_text(r, "norm_type", "low_precision_layernorm", norm, sizeof norm));
    if (strcmp(norm, "low_precision_layernorm") != 0 && strcmp(norm, "layernorm") != 0)
        return refuse(r, "norm_type", "layernorm or low_precision_layernorm");
    return LLAVA_OK;
}

llava_status config_parse_mpt(llava_config *config, const reader *r) {
    lm_config *lm = &config->lm;
    const family *f = lm->family;
    LLAVA_TRY(check_variant(r));
    LLAVA_TRY(read_int(r, "vocab_size", f->vocab_size, 1, CONFIG_MAX_VOCAB, &lm->vocab_size));
    LLAVA_TRY(read_int(r, "d_model", f->hidden_size, 1, CONFIG_MAX_WIDTH, &lm->hidden_size));
    LLAVA_TRY(read_int(r, "n_layers", f->n_layers, 1, CONFIG_MAX_LAYERS, &lm->n_layers));
    LLAVA_TRY(read_int(r, "n_heads", f->n_heads, 1, 4096, &lm->n_heads));
    LLAVA_TRY(read_int(r, "max_seq_len", f->max_position_embeddings, 1, CONFIG_MAX_TOKENS,
                       &lm->max_position_embeddings));
    int64_t ratio;
    LLAVA_TRY(read_int(r, "expansion_ratio", 4, 1, 64, &ratio));
    lm->intermediate_size = ratio * lm->hidden_size;
    lm->n_kv_heads = lm->n_heads;
    if (lm->hidden_size % lm->n_heads != 0)
        return llava_fail(r->err, LLAVA_MALFORMED,
                          "%s: \"d_model\" %lld is no multiple of \"n_heads\" %lld", r->what,
                          (long long)lm->hidden_size, (long long)lm->n_heads);
    lm->head_dim = lm->hidden_size / lm->n_heads;
    double eps;
    LLAVA_TRY(read_float(r, "layer_norm_epsilon", f->rms_norm_eps, 1e-30, 1, &eps));
    lm->rms_norm_eps = (float)eps;
    bool no_bias;
    LLAVA_TRY(read_flag(r, "no_bias", true, &no_bias));
    if (!no_bias) return refuse(r, "no_bias", "true");
    lm->act = f->act;
    lm->max_window_layers = lm->n_layers;
    lm->decoder_sparse_step = 1;
    return read_flag(r, "tie_word_embeddings", true, &lm->tie_word_embeddings);
}
