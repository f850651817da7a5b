/* SPDX-License-Identifier: Apache-2.0
 *
 * config.json: which class it is, defaults of each family, every form of every key, refusals that
 * name the key; overwrite_config; names.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "config/config.h"

#define LLAVA                                                                                      \
    "\"architectures\":[\"LlavaLlamaForCausalLM\"],\"mm_vision_tower\":\"nowhere\","               \
    "\"mm_hidden_size\":20,\"mm_vision_select_layer\":-2,\"hidden_size\":24,"                      \
    "\"num_attention_heads\":4"

static llava_status load_text(const char *text, const char *overwrite, llava_config **config,
                              llava_error *err) {
    const config_request request = {
        .model_name = "m", .customized_config = text, .overwrite_config = overwrite};
    return config_load(&request, config, err);
}

static llava_config *must_load(const char *text, const char *overwrite) {
    llava_config *config;
    llava_error err = {0};
    if (load_text(text, overwrite, &config, &err) != LLAVA_OK)
        fail_msg("%s: %s", text, err.message);
    return config;
}

static void must_refuse(const char *text, const char *overwrite, const char *says) {
    llava_config *config;
    llava_error err = {0};
    const llava_status status = load_text(text, overwrite, &config, &err);
    if (status == LLAVA_OK) fail_msg("%s: accepted", text);
    assert_int_equal(status, err.code);
    assert_null(config);
    if (!strstr(err.message, says)) fail_msg("%s: \"%s\" not in \"%s\"", text, says, err.message);
}

/* ---------------------------------------------------------------- classes */

static void test_architecture(void **state) {
    (void)state;
    static const struct {
        const char *text, *architecture;
        bool multimodal;
    } cases[] = {
        {"{\"architectures\":[\"LlamaForCausalLM\"]}", "LlamaForCausalLM", false},
        {"{\"model_type\":\"qwen2\"}", "Qwen2ForCausalLM", false},
        {"{\"model_type\":\"mpt\"}", "MptForCausalLM", false},
        {"{\"architectures\":[\"MPTForCausalLM\"]}", "MptForCausalLM", false},
        {"{" LLAVA "}", "LlavaLlamaForCausalLM", true},
        {"{\"model_type\":\"llava_qwen\",\"mm_vision_tower\":\"t\"}", "LlavaQwenForCausalLM", true},
        {"{\"model_type\":\"llava_qwen_moe\",\"vision_tower\":\"t\"}", "LlavaQwenMoeForCausalLM",
         true},
        /* published OneVision: the class names the decoder, model_type is "llava" */
        {"{\"architectures\":[\"LlavaQwenForCausalLM\"],\"model_type\":\"llava\","
         "\"mm_vision_tower\":\"t\"}",
         "LlavaQwenForCausalLM", true},
        {"{\"architectures\":[\"MistralForCausalLM\"],\"model_type\":\"llava_mistral\","
         "\"mm_vision_tower\":\"t\"}",
         "LlavaMistralForCausalLM", true},
        {"{\"architectures\":[\"GemmaForCausalLM\"],\"mm_vision_tower\":\"t\"}",
         "LlavaGemmaForCausalLM", true},
        {"{\"model_type\":\"mixtral\",\"mm_vision_tower\":\"t\"}", "LlavaMixtralForCausalLM", true},
        {"{\"model_type\":\"llava\",\"mm_vision_tower\":\"t\"}", "LlavaLlamaForCausalLM", true},
        {"{\"architectures\":[\"Unheard\"],\"model_type\":\"llama\"}", "LlamaForCausalLM", false},
    };
    for (size_t i = 0; i < LLAVA_COUNT(cases); i++) {
        llava_config *config = must_load(cases[i].text, NULL);
        assert_string_equal(config->architecture, cases[i].architecture);
        assert_int_equal(config->multimodal, cases[i].multimodal);
        config_free(&config);
    }
    must_refuse("{\"model_type\":\"llava_llama\"}", NULL, "not a multimodal checkpoint");
    must_refuse("{\"model_type\":\"phi\"}", NULL, "phi");
    must_refuse("{\"hidden_size\":64}", NULL, "architecture");
    must_refuse("{\"architectures\":[\"PaliGemmaForConditionalGeneration\"]}", NULL, "text_config");
    must_refuse("{\"model_type\":\"idefics\",\"text_config\":{}}", NULL, "text_config");
    must_refuse("[]", NULL, "expected a JSON object");
}

static void test_name_demands_pictures(void **state) {
    (void)state;
    llava_config *config;
    llava_error err = {0};
    config_request request = {.model_name = "my-LLaVA",
                              .customized_config = "{\"model_type\":\"llama\"}"};
    assert_int_equal(config_load(&request, &config, &err), LLAVA_OK); /* derived: a note */
    config_free(&config);
    request.model_name_given = true;
    assert_int_equal(config_load(&request, &config, &err), LLAVA_BAD_ARGUMENT);
    request.model_name = "m";
    assert_int_equal(config_load(&request, &config, &err), LLAVA_OK);
    config_free(&config);
    request.multimodal_keyword = true;
    assert_int_equal(config_load(&request, &config, &err), LLAVA_BAD_ARGUMENT);
}

static void test_family_defaults(void **state) {
    (void)state;
    static const struct {
        const char *type;
        int64_t kv_heads, head_dim, positions, window;
        float eps, theta;
        bool tied, qkv_bias;
    } cases[] = {
        {"llama", 32, 128, 2048, 0, 1e-6f, 1e4f, false, false},
        {"qwen2", 32, 128, 32768, 0, 1e-6f, 1e4f, false, true},
        {"qwen2_moe", 16, 128, 32768, 0, 1e-6f, 1e4f, false, true},
        {"mistral", 8, 128, 131072, 4096, 1e-6f, 1e4f, false, false},
        {"mixtral", 8, 128, 131072, 0, 1e-5f, 1e6f, false, false},
        {"gemma", 16, 256, 8192, 0, 1e-6f, 1e4f, true, false},
        {"mpt", 16, 128, 2048, 0, 1e-5f, 0, true, false},
    };
    for (size_t i = 0; i < LLAVA_COUNT(cases); i++) {
        char text[64];
        snprintf(text, sizeof text, "{\"model_type\":\"%s\"}", cases[i].type);
        llava_config *config = must_load(text, NULL);
        const lm_config *lm = &config->lm;
        assert_int_equal(lm->n_kv_heads, cases[i].kv_heads);
        assert_int_equal(lm->head_dim, cases[i].head_dim);
        assert_int_equal(lm->max_position_embeddings, cases[i].positions);
        assert_int_equal(config->context_len, cases[i].positions);
        assert_int_equal(lm->sliding_window, cases[i].window);
        assert_true(lm->rms_norm_eps == cases[i].eps);
        assert_true(lm->rope_theta == cases[i].theta);
        assert_int_equal(lm->tie_word_embeddings, cases[i].tied);
        assert_int_equal(lm->qkv_bias, cases[i].qkv_bias);
        config_free(&config);
    }
}

/* ---------------------------------------------------------------- decoder */

static void test_decoder_keys(void **state) {
    (void)state;
    llava_config *c = must_load("{\"model_type\":\"qwen2\",\"num_key_value_heads\":null,"
                                "\"num_attention_heads\":16,\"use_sliding_window\":true,"
                                "\"sliding_window\":100,\"max_window_layers\":5}",
                                NULL);
    assert_int_equal(c->lm.n_kv_heads, 16);
    assert_int_equal(c->lm.sliding_window, 100);
    assert_int_equal(c->lm.max_window_layers, 5);
    config_free(&c);
    c = must_load("{\"model_type\":\"mistral\",\"sliding_window\":null}", NULL);
    assert_int_equal(c->lm.sliding_window, 0);
    config_free(&c);
    c = must_load("{\"model_type\":\"gemma\",\"hidden_act\":\"gelu\"}", NULL);
    assert_int_equal(c->lm.act, ACT_GELU_TANH);
    config_free(&c);
    c = must_load("{\"model_type\":\"gemma\",\"hidden_activation\":\"gelu\"}", NULL);
    assert_int_equal(c->lm.act, ACT_GELU);
    config_free(&c);
    c = must_load("{\"model_type\":\"llama\",\"attention_bias\":true,\"head_dim\":64}", NULL);
    assert_true(c->lm.qkv_bias && c->lm.attention_bias);
    assert_int_equal(c->lm.head_dim, 64);
    config_free(&c);
}

static void test_experts(void **state) {
    (void)state;
    llava_config *c = must_load("{\"model_type\":\"qwen2_moe\",\"num_hidden_layers\":4,"
                                "\"decoder_sparse_step\":2,\"mlp_only_layers\":[3]}",
                                NULL);
    assert_int_equal(c->lm.n_experts, 60);
    assert_false(lm_layer_is_sparse(&c->lm, 0));
    assert_true(lm_layer_is_sparse(&c->lm, 1));
    assert_false(lm_layer_is_sparse(&c->lm, 2));
    assert_false(lm_layer_is_sparse(&c->lm, 3));
    config_free(&c);
    c = must_load("{\"model_type\":\"mixtral\"}", NULL);
    assert_int_equal(c->lm.n_experts, 8);
    assert_int_equal(c->lm.n_experts_per_token, 2);
    assert_true(c->lm.norm_topk_prob);
    assert_true(lm_layer_is_sparse(&c->lm, 0));
    config_free(&c);
    must_refuse("{\"model_type\":\"mixtral\",\"num_experts_per_tok\":9}", NULL,
                "num_experts_per_tok");
}

static void test_rope(void **state) {
    (void)state;
    static const struct {
        const char *scaling;
        rope_type rope;
        float factor;
    } good[] = {
        {"null", ROPE_DEFAULT, 0},
        {"{\"type\":\"linear\",\"factor\":2.0}", ROPE_LINEAR, 2},
        {"{\"rope_type\":\"linear\",\"factor\":2}", ROPE_LINEAR, 2},
        {"{\"type\":\"dynamic\",\"factor\":4.5}", ROPE_DYNAMIC, 4.5f},
        {"{\"rope_type\":\"default\"}", ROPE_DEFAULT, 0},
        {"{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,"
         "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":4096}",
         ROPE_LLAMA3, 8},
    };
    char text[512];
    for (size_t i = 0; i < LLAVA_COUNT(good); i++) {
        snprintf(text, sizeof text, "{\"model_type\":\"llama\",\"rope_scaling\":%s}",
                 good[i].scaling);
        llava_config *c = must_load(text, NULL);
        assert_int_equal(c->lm.rope, good[i].rope);
        assert_true(c->lm.rope_factor == good[i].factor);
        if (c->lm.rope == ROPE_LLAMA3) assert_int_equal(c->lm.rope_original_max_position, 4096);
        config_free(&c);
    }
    static const char *const bad[] = {
        "{\"type\":\"yarn\",\"factor\":2.0}",
        "{\"type\":\"linear\"}",
        "{\"type\":\"linear\",\"factor\":0.5}",
        "{\"type\":\"linear\",\"factor\":\"2\"}",
        "{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4}",
        "[2]"};
    for (size_t i = 0; i < LLAVA_COUNT(bad); i++) {
        snprintf(text, sizeof text, "{\"model_type\":\"llama\",\"rope_scaling\":%s}", bad[i]);
        must_refuse(text, NULL, "rope_scaling");
    }
    /* only Llama keeps it */
    llava_config *c =
        must_load("{\"model_type\":\"qwen2\",\"rope_scaling\":{\"type\":\"yarn\"}}", NULL);
    assert_int_equal(c->lm.rope, ROPE_DEFAULT);
    config_free(&c);
    c = must_load("{\"model_type\":\"llama\",\"rope_parameters\":{\"rope_type\":\"linear\","
                  "\"factor\":2.0,\"rope_theta\":5e5}}",
                  NULL);
    assert_int_equal(c->lm.rope, ROPE_LINEAR);
    assert_true(c->lm.rope_theta == 5e5f);
    config_free(&c);
}

static void test_hostile_numbers(void **state) {
    (void)state;
    static const struct {
        const char *member, *says;
    } bad[] = {
        {"\"hidden_size\":0", "hidden_size"},
        {"\"hidden_size\":null", "hidden_size"},
        {"\"hidden_size\":\"24\"", "hidden_size"},
        {"\"hidden_size\":24.5", "hidden_size"},
        {"\"hidden_size\":25", "hidden_size"},
        {"\"hidden_size\":1000000000000", "hidden_size"},
        {"\"num_hidden_layers\":1025", "num_hidden_layers"},
        {"\"num_attention_heads\":0", "num_attention_heads"},
        {"\"num_attention_heads\":-4", "num_attention_heads"},
        {"\"num_key_value_heads\":3", "num_key_value_heads"},
        {"\"head_dim\":7", "rotated"},
        {"\"vocab_size\":-1", "vocab_size"},
        {"\"rms_norm_eps\":0", "rms_norm_eps"},
        {"\"rms_norm_eps\":NaN", "rms_norm_eps"},
        {"\"rms_norm_eps\":1e999", "number overflow"},
        {"\"rope_theta\":-1", "rope_theta"},
        {"\"rope_theta\":Infinity", "rope_theta"},
        {"\"max_position_embeddings\":0", "max_position_embeddings"},
        {"\"hidden_act\":\"mystery\"", "hidden_act"},
        {"\"tie_word_embeddings\":\"yes\"", "tie_word_embeddings"},
        {"\"max_sequence_length\":-5", "max_sequence_length"},
        {"\"eos_token_id\":\"</s>\"", "eos_token_id"},
    };
    for (size_t i = 0; i < LLAVA_COUNT(bad); i++) {
        char text[512];
        snprintf(text, sizeof text, "{\"model_type\":\"llama\",%s}", bad[i].member);
        must_refuse(text, NULL, bad[i].says);
    }
    llava_config *c = must_load("{\"model_type\":\"llama\",\"whatever\":NaN}", NULL);
    config_free(&c);
}

static void test_context_len(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int64_t length;
    } cases[] = {
        {"{\"model_type\":\"llama\"}", 2048},
        {"{\"model_type\":\"llama\",\"tokenizer_model_max_length\":99}", 2048},
        {"{\"model_type\":\"llama\",\"max_position_embeddings\":4096}", 4096},
        {"{\"model_type\":\"llama\",\"max_position_embeddings\":4096,\"max_sequence_length\":777}",
         777},
        {"{\"model_type\":\"llama\",\"max_position_embeddings\":4096,\"max_sequence_length\":null}",
         4096},
        {"{\"model_type\":\"mpt\",\"max_seq_len\":300}", 300},
        {"{\"model_type\":\"mpt\",\"max_seq_len\":300,\"tokenizer_model_max_length\":555}", 555},
        {"{\"model_type\":\"mpt\"}", 2048},
    };
    for (size_t i = 0; i < LLAVA_COUNT(cases); i++) {
        llava_config *c = must_load(cases[i].text, NULL);
        assert_int_equal(c->context_len, cases[i].length);
        config_free(&c);
    }
}

/* ---------------------------------------------------------------- pictures */

static void test_pinpoints(void **state) {
    (void)state;
    static const struct {
        const char *value;
        size_t count;
        bool range;
        size2 first, last;
    } good[] = {
        {"[[336,672],[672,336]]", 2, false, {336, 672}, {672, 336}},
        {"\"[(336, 672), (672, 336)]\"", 2, false, {336, 672}, {672, 336}},
        {"\"[[336,672],[672,336],]\"", 2, false, {336, 672}, {672, 336}},
        {"\"((1, 2), [3, 4,])\"", 2, false, {1, 2}, {3, 4}},
        {"\"(1x1),...,(6x6)\"", 36, true, {1, 1}, {6, 6}},
        {"\"(1x1),(1x2),(2x1),(2x3)\"", 6, true, {1, 1}, {2, 3}},
        {"\"(2x1),...,(3x4)\"", 8, true, {2, 1}, {3, 4}},
    };
    char overwrite[512];
    for (size_t i = 0; i < LLAVA_COUNT(good); i++) {
        snprintf(overwrite, sizeof overwrite,
                 "{\"image_aspect_ratio\":\"anyres\",\"image_grid_pinpoints\":%s}", good[i].value);
        llava_config *c = must_load("{" LLAVA "}", overwrite);
        assert_int_equal(c->mm.n_pinpoints, good[i].count);
        assert_int_equal(c->mm.pinpoints_are_range, good[i].range);
        const size2 *p = c->mm.pinpoints, *end = p + c->mm.n_pinpoints - 1;
        assert_true(p->width == good[i].first.width && p->height == good[i].first.height);
        assert_true(end->width == good[i].last.width && end->height == good[i].last.height);
        config_free(&c);
    }
    static const char *const bad[] = {"null",
                                      "[]",
                                      "\"\"",
                                      "\"several\"",
                                      "[[336]]",
                                      "[[336,336,336]]",
                                      "[[336,\"336\"]]",
                                      "[[-336,336]]",
                                      "[[0,336]]",
                                      "[[1000000,336]]",
                                      "[336,672]",
                                      "7",
                                      "\"336,672\"",
                                      "\"[(336, 672)\"",
                                      "\"[(336)]\"",
                                      "\"[(336, 672)] x\"",
                                      "\"(6x6),...,(1x1)\"",
                                      "\"(0x1),...,(2x2)\"",
                                      "\"(1x1),...,(99x99)\"",
                                      "\"[(336, 99999999999999999999)]\""};
    for (size_t i = 0; i < LLAVA_COUNT(bad); i++) {
        snprintf(overwrite, sizeof overwrite,
                 "{\"image_aspect_ratio\":\"anyres\",\"image_grid_pinpoints\":%s}", bad[i]);
        must_refuse("{" LLAVA "}", overwrite, "image_grid_pinpoints");
    }
}

static void test_aspect(void **state) {
    (void)state;
    static const struct {
        const char *text;
        aspect_ratio aspect;
        int64_t limit;
    } cases[] = {
        {"null", ASPECT_SQUARE, 0},
        {"\"square\"", ASPECT_SQUARE, 0},
        {"\"whatever\"", ASPECT_SQUARE, 0},
        {"\"anyres_\"", ASPECT_SQUARE, 0},
        {"\"pad\"", ASPECT_PAD, 0},
        {"\"anyres\"", ASPECT_ANYRES, 0},
        {"\"anyres_max_9\"", ASPECT_ANYRES, 9},
        {"\"anyres_max\"", ASPECT_ANYRES, 0},
        {"\"my_anyres_max_9\"", ASPECT_ANYRES, 0},
    };
    for (size_t i = 0; i < LLAVA_COUNT(cases); i++) {
        char overwrite[256];
        snprintf(overwrite, sizeof overwrite,
                 "{\"image_aspect_ratio\":%s,\"image_grid_pinpoints\":[[1,2]]}", cases[i].text);
        llava_config *c = must_load("{" LLAVA "}", overwrite);
        assert_int_equal(c->mm.aspect, cases[i].aspect);
        assert_int_equal(c->mm.anyres_max, cases[i].limit);
        config_free(&c);
    }
    llava_config *c = must_load("{" LLAVA "}", "{\"image_aspect_ratio\":\"highres\","
                                               "\"image_grid_pinpoints\":\"336, 672,448\"}");
    assert_int_equal(c->mm.highres_max, 672);
    config_free(&c);
    must_refuse("{" LLAVA "}", "{\"image_aspect_ratio\":\"highres\"}", "image_grid_pinpoints");
    must_refuse("{" LLAVA "}", "{\"image_aspect_ratio\":\"crop_split\"}", "image_crop_resolution");
    must_refuse("{" LLAVA "}", "{\"image_aspect_ratio\":\"anyres_max_0\"}", "limit");
}

static void test_projector(void **state) {
    (void)state;
    static const struct {
        const char *type;
        projector_kind kind;
        int linears, res;
    } good[] = {
        {"linear", PROJECTOR_LINEAR, 1, 0},
        {"mlp1x_gelu", PROJECTOR_MLP_GELU, 1, 0},
        {"mlp2x_gelu", PROJECTOR_MLP_GELU, 2, 0},
        {"mlp16x_gelu", PROJECTOR_MLP_GELU, 16, 0},
        {"mlp2x_res3x_gelu", PROJECTOR_MLP_GELU, 2, 3},
        {"pooler", PROJECTOR_POOLER, 0, 0},
        {"identity", PROJECTOR_IDENTITY, 0, 0},
    };
    char overwrite[128];
    for (size_t i = 0; i < LLAVA_COUNT(good); i++) {
        snprintf(overwrite, sizeof overwrite, "{\"mm_projector_type\":\"%s\"}", good[i].type);
        llava_config *c = must_load("{" LLAVA "}", overwrite);
        assert_int_equal(c->mm.projector, good[i].kind);
        assert_int_equal(c->mm.projector_linears, good[i].linears);
        assert_int_equal(c->mm.projector_res, good[i].res);
        config_free(&c);
    }
    static const char *const bad[] = {"mystery",
                                      "mlp0x_gelu",
                                      "mlp17x_gelu",
                                      "mlp99999999999x_gelu",
                                      "mlpx_gelu",
                                      "mlp2x_gelu_",
                                      "mlp2x_res99x_gelu",
                                      "mlp2x_relu",
                                      "mlp-2x_gelu",
                                      "mlp2x_resx_gelu",
                                      "Linear",
                                      ""};
    for (size_t i = 0; i < LLAVA_COUNT(bad); i++) {
        snprintf(overwrite, sizeof overwrite, "{\"mm_projector_type\":\"%s\"}", bad[i]);
        must_refuse("{" LLAVA "}", overwrite, "mm_projector_type");
    }
}

static void test_picture_words(void **state) {
    (void)state;
    llava_config *c =
        must_load("{" LLAVA "}", "{\"mm_patch_merge_type\":\"spatial_unpad_nobase\",\"s2\":true,"
                                 "\"s2_scales\":\"1008,336,672\",\"mm_newline_position\":\"frame\","
                                 "\"mm_spatial_pool_mode\":\"max\",\"mm_spatial_pool_stride\":0}");
    assert_true(c->mm.merge_spatial && c->mm.merge_unpad && c->mm.merge_nobase);
    assert_false(c->mm.merge_maxpool);
    assert_int_equal(c->mm.n_s2_scales, 3);
    assert_int_equal(c->mm.s2_scales[0], 336);
    assert_int_equal(c->mm.s2_scales[2], 1008);
    assert_int_equal(c->mm.newline, NEWLINE_FRAME);
    assert_int_equal(c->mm.pool, POOL_MAX);
    assert_int_equal(c->mm.pool_stride, 2);
    assert_true(c->mm.use_im_patch_token); /* true when absent */
    config_free(&c);
    static const struct {
        const char *overwrite, *says;
    } bad[] = {
        {"{\"mm_patch_merge_type\":\"round\"}", "mm_patch_merge_type"},
        {"{\"mm_newline_position\":\"here\"}", "mm_newline_position"},
        {"{\"mm_vision_select_feature\":\"all\"}", "mm_vision_select_feature"},
        {"{\"tokenizer_padding_side\":\"top\"}", "tokenizer_padding_side"},
        {"{\"s2\":true,\"s2_scales\":\"336,500\"}", "s2_scales"},
        {"{\"s2\":true,\"s2_scales\":\"\"}", "s2_scales"},
        {"{\"s2\":true,\"image_aspect_ratio\":\"anyres\",\"image_grid_pinpoints\":[[1,1]]}", "s2"},
        {"{\"s2\":true,\"mm_vision_select_feature\":\"cls_patch\"}", "s2"},
        {"{\"mm_projector_type\":\"pooler\",\"mm_patch_merge_type\":\"spatial\"}", "pooler"},
        {"{\"mm_vision_tower\":3}", "mm_vision_tower"},
    };
    for (size_t i = 0; i < LLAVA_COUNT(bad); i++)
        must_refuse("{" LLAVA "}", bad[i].overwrite, bad[i].says);
}

/* ---------------------------------------------------------------- overwriting */

static void test_overwrite(void **state) {
    (void)state;
    llava_config *c = must_load("{" LLAVA ",\"mine\":1}",
                                "{\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.0},"
                                "\"max_sequence_length\":8192,\"mine\":2}");
    assert_int_equal(c->lm.rope, ROPE_LINEAR);
    assert_int_equal(c->context_len, 8192);
    assert_int_equal(json_integer_value(json_object_get(c->root, "mine")), 2);
    config_free(&c);
    must_refuse("{" LLAVA "}", "{\"image_aspect_ration\":\"pad\"}", "image_aspect_ratio");
    must_refuse("{" LLAVA "}", "{\"pool_mode\":\"max\"}", "mm_spatial_pool_mode");
    must_refuse("{" LLAVA "}", "{\"qqqqqqqqqqqqqqqq\":1}", "no known key");
    must_refuse("{" LLAVA "}", "[1]", "expected a JSON object");
    must_refuse("{" LLAVA "}", "{", "not valid JSON");
    must_refuse("{" LLAVA "}", "{\"hidden_size\":7}", "hidden_size"); /* checked like the file's */
}

static void test_generation(void **state) {
    (void)state;
    llava_config *c = must_load("{\"model_type\":\"llama\",\"eos_token_id\":[2,7,9]}", NULL);
    assert_int_equal(c->generation.n_eos, 3);
    assert_int_equal(c->generation.eos[2], 9);
    assert_int_equal(c->generation.bos, 1);
    assert_int_equal(c->generation.pad, -1);
    assert_int_equal(c->generation.top_k, 50);
    assert_true(c->generation.temperature == 1);
    assert_false(c->generation.from_file);
    config_free(&c);
    c = must_load("{\"model_type\":\"qwen2\"}", NULL);
    assert_int_equal(c->generation.n_eos, 0);
    config_free(&c);
    c = must_load("{\"model_type\":\"llama\",\"eos_token_id\":null}", NULL);
    assert_int_equal(c->generation.n_eos, 0);
    config_free(&c);
}

static void test_processor(void **state) {
    (void)state;
    llava_error err;
    processor_config p;
    json_t *object = json_loads("{\"size\":70,\"crop_size\":70}", 0, NULL);
    assert_int_equal(config_parse_processor(object, "p", &p, &err), LLAVA_OK);
    assert_int_equal(p.shortest_edge, 70);
    assert_int_equal(p.crop_width, 70);
    assert_int_equal(p.crop_height, 70);
    json_decref(object);
    assert_int_equal(config_parse_processor(NULL, "p", &p, &err), LLAVA_OK);
    assert_int_equal(p.shortest_edge, 224);
    assert_int_equal(p.resample, 3);
    object = json_loads("{\"size\":{\"height\":30,\"width\":40}}", 0, NULL);
    assert_int_equal(config_parse_processor(object, "p", &p, &err), LLAVA_OK);
    assert_int_equal(p.shortest_edge, 0);
    assert_int_equal(p.size_width, 40);
    json_decref(object);
    static const char *const bad[] = {"{\"size\":0}",
                                      "{\"size\":{\"height\":3}}",
                                      "{\"size\":\"70\"}",
                                      "{\"crop_size\":[1,2,3]}",
                                      "{\"image_std\":[1,0,1]}",
                                      "{\"image_mean\":[1,1]}",
                                      "{\"resample\":9}",
                                      "{\"rescale_factor\":0}",
                                      "{\"do_resize\":1}",
                                      "{\"size\":{\"shortest_edge\":-1}}"};
    for (size_t i = 0; i < LLAVA_COUNT(bad); i++) {
        object = json_loads(bad[i], 0, NULL);
        if (config_parse_processor(object, "p", &p, &err) == LLAVA_OK) fail_msg("%s", bad[i]);
        json_decref(object);
    }
}

/* ---------------------------------------------------------------- towers and names */

static void test_published_tower(void **state) {
    (void)state;
    llava_config *c = must_load("{" LLAVA "}", "{\"mm_hidden_size\":1152,\"mm_vision_tower\":"
                                               "\"google/siglip-so400m-patch14-384\"}");
    llava_error err = {0};
    assert_int_equal(config_read_tower(c, NULL, &err), LLAVA_OK);
    assert_int_equal(c->tower.kind, TOWER_SIGLIP);
    assert_int_equal(config_tower_layers(&c->tower), 26);
    assert_int_equal(c->processor.size_width, 384);
    config_free(&c);
    c = must_load("{" LLAVA "}", "{\"mm_hidden_size\":null,\"mm_vision_select_feature\":"
                                 "\"slicefour_patch\",\"mm_vision_tower\":"
                                 "\"openai/clip-vit-large-patch14-336\"}");
    assert_int_equal(config_read_tower(c, NULL, &err), LLAVA_OK);
    assert_int_equal(c->mm.mm_hidden_size, 4 * 1024);
    assert_int_equal(c->processor.crop_width, 336);
    config_free(&c);
    c = must_load("{" LLAVA "}", "{\"mm_hidden_size\":1152,\"mm_vision_tower\":"
                                 "\"/data/towers/siglip-so400m-patch14-384\"}");
    assert_int_equal(config_read_tower(c, NULL, &err), LLAVA_OK);
    config_free(&c);
    c = must_load("{" LLAVA "}", NULL);
    assert_int_equal(config_read_tower(c, NULL, &err), LLAVA_IO);
    config_free(&c);
    c = must_load("{" LLAVA "}", "{\"mm_hidden_size\":1024,\"mm_vision_select_layer\":-99,"
                                 "\"mm_vision_tower\":\"openai/clip-vit-large-patch14\"}");
    assert_int_equal(config_read_tower(c, NULL, &err), LLAVA_MALFORMED);
    assert_non_null(strstr(err.message, "mm_vision_select_layer"));
    config_free(&c);
}

static void test_reference_branch(void **state) {
    (void)state;
    static const struct {
        const char *name;
        bool base, keyword;
        const char *branch, *class_name;
    } cases[] = {
        {"llava", false, false, "C7", "LlavaLlamaForCausalLM"},
        {"LLaVA-v1.5-13B", false, false, "C3", "LlavaLlamaForCausalLM"},
        {"llava-v1.6-mistral-7b", false, false, "C2", "LlavaMistralForCausalLM"},
        {"llava-mixtral-mistral", false, false, "C1", "LlavaMixtralForCausalLM"},
        {"llava-qwen-verifying", false, false, "C3", "LlavaLlamaForCausalLM"},
        {"llava-qwen-moe", false, false, "C4", "LlavaQwenMoeForCausalLM"},
        {"llava-qwen2-57b-A14B", false, false, "C5", "LlavaQwenForCausalLM"},
        {"llava-gemma-2b", false, false, "C6", "LlavaGemmaForCausalLM"},
        {"llava-next-72b", false, false, "C7", "LlavaLlamaForCausalLM"},
        {"llava-v1.5-7b-lora", true, false, "A4", "LlavaLlamaForCausalLM"},
        {"llava-v1.5-7b-lora", false, false, "C3", "LlavaLlamaForCausalLM"},
        {"llava-zephyr-x", true, false, "B2", "LlavaMistralForCausalLM"},
        {"llava-qwen", true, false, "B5", NULL},
        {"vicuna", true, false, "D1", "AutoModelForCausalLM"},
        {"mpt-7b", false, false, "D2", "AutoModelForCausalLM"},
        {"my-prompt-model", false, false, "D3", "AutoModelForCausalLM"},
        {"qwen", false, true, "C5", "LlavaQwenForCausalLM"},
    };
    for (size_t i = 0; i < LLAVA_COUNT(cases); i++) {
        const char *branch, *class_name;
        config_reference_branch(cases[i].name, cases[i].base, cases[i].keyword, "m", &branch,
                                &class_name);
        assert_string_equal(branch, cases[i].branch);
        if (cases[i].class_name)
            assert_string_equal(class_name, cases[i].class_name);
        else
            assert_null(class_name);
    }
}

static void test_model_name(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"a/llava-v1.5-7b", "llava-v1.5-7b"},
        {"/a/b/checkpoint-5//", "b_checkpoint-5"},
        {"checkpoint-7", "checkpoint-7"},
        {"", ""},
        {"///", ""},
        {"run/my-checkpoint-3", "my-checkpoint-3"},
        {"a//checkpoint-7", "_checkpoint-7"},
        {"..", ".."},
    };
    arena *memory = arena_new();
    for (size_t i = 0; i < LLAVA_COUNT(cases); i++)
        assert_string_equal(config_model_name(memory, cases[i][0]), cases[i][1]);
    arena_free(&memory);
}

static void test_activations(void **state) {
    (void)state;
    activation act;
    assert_true(activation_parse("gelu_pytorch_tanh", &act));
    assert_int_equal(act, ACT_GELU_TANH);
    assert_true(activation_parse("swish", &act));
    assert_int_equal(act, ACT_SILU);
    assert_false(activation_parse("Silu", &act));
    assert_string_equal(activation_name(ACT_QUICK_GELU), "quick_gelu");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_architecture),     cmocka_unit_test(test_name_demands_pictures),
        cmocka_unit_test(test_family_defaults),  cmocka_unit_test(test_decoder_keys),
        cmocka_unit_test(test_experts),          cmocka_unit_test(test_rope),
        cmocka_unit_test(test_hostile_numbers),  cmocka_unit_test(test_context_len),
        cmocka_unit_test(test_pinpoints),        cmocka_unit_test(test_aspect),
        cmocka_unit_test(test_projector),        cmocka_unit_test(test_picture_words),
        cmocka_unit_test(test_overwrite),        cmocka_unit_test(test_generation),
        cmocka_unit_test(test_processor),        cmocka_unit_test(test_published_tower),
        cmocka_unit_test(test_reference_branch), cmocka_unit_test(test_model_name),
        cmocka_unit_test(test_activations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
