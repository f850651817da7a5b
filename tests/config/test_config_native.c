/* SPDX-License-Identifier: Apache-2.0
 *
 * config.json of transformers' own LLaVA classes: its translation, defaults, processors, refusals.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "../support/scratch.h"
#include "config/config.h"

#define LLAVA     "\"architectures\":[\"LlavaForConditionalGeneration\"]"
#define NEXT      "\"architectures\":[\"LlavaNextForConditionalGeneration\"]"
#define VIDEO     "\"architectures\":[\"LlavaNextVideoForConditionalGeneration\"]"
#define ONEVISION "\"architectures\":[\"LlavaOnevisionForConditionalGeneration\"]"
#define CLIP                                                                                       \
    "\"vision_config\":{\"model_type\":\"clip_vision_model\",\"hidden_size\":8,"                   \
    "\"intermediate_size\":16,\"num_hidden_layers\":3,\"num_attention_heads\":2,"                  \
    "\"image_size\":24,\"patch_size\":4}"
#define SIGLIP                                                                                     \
    "\"vision_config\":{\"model_type\":\"siglip_vision_model\",\"hidden_size\":8,"                 \
    "\"num_hidden_layers\":3,\"num_attention_heads\":2,\"image_size\":24,\"patch_size\":4}"

static llava_status try_load(const char *text, const char *directory, llava_config **config,
                             llava_error *err) {
    const config_request request = {.model_name = "m", .customized_config = text};
    *config = NULL;
    LLAVA_TRY(config_load(&request, config, err));
    const llava_status status = config_read_native_tower(*config, directory, err);
    if (status != LLAVA_OK) config_free(config);
    return status;
}

static llava_config *load(const char *text, const char *directory) {
    llava_config *config;
    llava_error err = {0};
    if (try_load(text, directory, &config, &err) != LLAVA_OK) fail_msg("%s: %s", text, err.message);
    assert_non_null(config->native);
    return config;
}

static void refuse(const char *text, const char *says) {
    llava_config *config;
    llava_error err = {0};
    if (try_load(text, NULL, &config, &err) == LLAVA_OK) fail_msg("%s: accepted", text);
    assert_null(config);
    if (!strstr(err.message, says)) fail_msg("%s: \"%s\" not in \"%s\"", text, says, err.message);
}

/* ---------------------------------------------------------------- classes */

static void test_defaults(void **state) {
    (void)state;
    llava_config *c = load("{" LLAVA "}", NULL);
    assert_string_equal(c->architecture, "LlavaLlamaForCausalLM");
    assert_int_equal(c->lm.hidden_size, 4096);
    assert_int_equal(c->mm.image_token, 32000);
    assert_int_equal(c->mm.video_token, -1);
    assert_int_equal(c->mm.select_layer, -2);
    assert_int_equal(c->mm.select, SELECT_PATCH);
    assert_int_equal(c->mm.aspect, ASPECT_SQUARE);
    assert_false(c->mm.merge_spatial);
    assert_false(c->mm.use_im_patch_token);
    assert_int_equal(c->mm.projector_linears, 2);
    assert_int_equal(c->tower.hidden_size, 1024);
    assert_int_equal(c->tower.image_size, 336);
    assert_int_equal(config_tower_layers(&c->tower), 24);
    assert_int_equal(c->processor.shortest_edge, 336);
    config_free(&c);

    c = load("{" ONEVISION "}", NULL);
    assert_string_equal(c->architecture, "LlavaQwenForCausalLM");
    assert_int_equal(c->mm.image_token, 151646);
    assert_int_equal(c->mm.video_token, 151647);
    assert_int_equal(c->mm.anyres_max, 9);
    assert_int_equal(c->mm.n_pinpoints, 36);
    assert_int_equal(c->mm.pinpoints[1].width, 768); /* the second pair is (384, 768) */
    assert_int_equal(c->mm.pinpoints[1].height, 384);
    assert_int_equal(c->mm.newline, NEWLINE_ONE_TOKEN);
    assert_int_equal(c->mm.pool, POOL_BILINEAR);
    assert_false(c->mm.pool_before_projector);
    assert_int_equal(c->tower.n_heads, 16);
    assert_int_equal(config_tower_layers(&c->tower), 26); /* none left out */
    assert_false(c->processor.do_center_crop);
    assert_true(c->processor.mean[0] < 0.49); /* CLIP's, not SigLIP's */
    config_free(&c);
}

static void test_next(void **state) {
    (void)state;
    llava_config *c = load("{" NEXT "," CLIP ",\"text_config\":{\"model_type\":\"mistral\","
                           "\"sliding_window\":16},"
                           "\"image_grid_pinpoints\":[[24,48],[72,24]]}",
                           NULL);
    assert_string_equal(c->architecture, "LlavaMistralForCausalLM");
    assert_int_equal(c->lm.sliding_window, 15); /* 16 keys with the query's own */
    assert_true(c->mm.merge_unpad);
    assert_int_equal(c->mm.aspect, ASPECT_ANYRES);
    assert_int_equal(c->mm.anyres_max, 0);
    assert_int_equal(c->mm.n_pinpoints, 2);
    assert_int_equal(c->mm.pinpoints[0].width, 48);
    assert_int_equal(c->mm.pinpoints[0].height, 24);
    assert_int_equal(c->mm.pinpoints[1].width, 24);
    config_free(&c);

    c = load("{" VIDEO "," CLIP ",\"spatial_pool_mode\":\"max\",\"spatial_pool_stride\":3,"
             "\"image_token_id\":7,\"video_token_id\":8}",
             NULL);
    assert_true(c->mm.pool_before_projector);
    assert_int_equal(c->mm.pool, POOL_MAX);
    assert_int_equal(c->mm.pool_stride, 3);
    assert_int_equal(c->mm.newline, NEWLINE_NO_TOKEN);
    assert_int_equal(c->mm.image_token, 7);
    assert_int_equal(c->mm.video_token, 8);
    config_free(&c);
}

/** By model_type alone, where text_config tells it from the original layout. */
static void test_model_type(void **state) {
    (void)state;
    llava_config *c = load("{\"model_type\":\"llava\",\"text_config\":{}," CLIP "}", NULL);
    assert_int_equal(c->mm.native, NATIVE_LLAVA);
    config_free(&c);
    llava_error err = {0};
    const config_request original = {.model_name = "m",
                                     .customized_config =
                                         "{\"model_type\":\"llava\",\"mm_vision_tower\":\"t\"}"};
    assert_int_equal(config_load(&original, &c, &err), LLAVA_OK);
    assert_null(c->native);
    config_free(&c);
}

/** transformers 5 writes dtype and rope_parameters; a decoder's own scaling counts. */
static void test_text_config(void **state) {
    (void)state;
    llava_config *c =
        load("{" LLAVA "," CLIP ",\"dtype\":\"bfloat16\",\"text_config\":{\"model_type\":\"qwen2\","
             "\"eos_token_id\":5,\"tie_word_embeddings\":true,"
             "\"rope_parameters\":{\"rope_theta\":5000,\"rope_type\":\"linear\",\"factor\":4}}}",
             NULL);
    assert_int_equal(c->stored_dtype, LLAVA_DTYPE_BF16);
    assert_true(c->lm.rope_theta == 5000.0f);
    assert_int_equal(c->lm.rope, ROPE_LINEAR);
    assert_true(c->lm.rope_factor == 4.0f);
    assert_true(c->lm.tie_word_embeddings);
    assert_int_equal(c->generation.n_eos, 1);
    assert_int_equal(c->generation.eos[0], 5);
    config_free(&c);
}

static void test_features(void **state) {
    (void)state;
    llava_config *c = load("{" LLAVA "," CLIP ",\"vision_feature_layer\":[-2,1],"
                           "\"projector_hidden_act\":\"relu\",\"multimodal_projector_bias\":false,"
                           "\"vision_feature_select_strategy\":\"full\"}",
                           NULL);
    assert_int_equal(c->mm.n_select_layers, 2);
    assert_int_equal(c->mm.select_layers[1], 1);
    assert_int_equal(config_tower_width(c), 16);
    assert_int_equal(c->mm.mm_hidden_size, 16);
    assert_int_equal(c->mm.select, SELECT_CLS_PATCH);
    assert_int_equal(c->mm.projector_act, ACT_RELU);
    assert_true(c->mm.projector_without_bias);
    config_free(&c);
}

/* ---------------------------------------------------------------- processors */

static void test_processors(void **state) {
    (void)state;
    scratch s;
    assert_true(scratch_open(&s));
    scratch_text(&s, "preprocessor_config.json",
                 "{\"image_processor_type\":\"LlavaImageProcessor\",\"do_pad\":true,"
                 "\"size\":{\"shortest_edge\":24},\"crop_size\":{\"height\":24,\"width\":24}}");
    llava_config *c = load("{" LLAVA "," CLIP "}", s.path);
    assert_int_equal(c->mm.aspect, ASPECT_PAD);
    config_free(&c);
    c = load("{" NEXT "," CLIP "}", s.path); /* tiles whatever the processor's class */
    assert_int_equal(c->mm.aspect, ASPECT_ANYRES);
    config_free(&c);

    scratch_text(&s, "processor_config.json",
                 "{\"image_processor\":{\"image_processor_type\":\"LlavaOnevisionImageProcessor\","
                 "\"size\":{\"height\":24,\"width\":24},\"image_mean\":[0.1,0.2,0.3]},"
                 "\"video_processor\":{\"video_processor_type\":\"LlavaOnevisionVideoProcessor\","
                 "\"size\":{\"height\":24,\"width\":24},\"image_mean\":[0.4,0.5,0.6]}}");
    c = load("{" ONEVISION "," SIGLIP "}", s.path);
    assert_true(c->processor.mean[0] == 0.1);
    assert_true(c->video_processor.mean[0] == 0.4);
    assert_false(c->processor.do_center_crop);
    config_free(&c);
    scratch_close(&s);
    c = load("{" LLAVA "," SIGLIP ",\"vision_feature_select_strategy\":\"full\"}", NULL);
    assert_true(c->processor.mean[0] == 0.5); /* SigLIP's */
    assert_int_equal(c->processor.size_width, 24);
    config_free(&c);
}

/* ---------------------------------------------------------------- refusals */

static void test_refusals(void **state) {
    (void)state;
    refuse("{" LLAVA ",\"text_config\":\"x\"}", "text_config");
    refuse("{" LLAVA ",\"vision_config\":[]}", "vision_config");
    refuse("{" LLAVA ",\"text_config\":{\"model_type\":\"phi\"}}", "phi");
    refuse("{" LLAVA ",\"text_config\":{\"model_type\":\"mpt\"}}", "mpt");
    refuse("{" LLAVA ",\"vision_config\":{\"model_type\":\"pixtral\"}}", "pixtral");
    refuse("{" LLAVA ",\"vision_feature_layer\":\"last\"}", "vision_feature_layer");
    refuse("{" LLAVA ",\"vision_feature_layer\":[]}", "vision_feature_layer");
    refuse("{" LLAVA "," CLIP ",\"vision_feature_layer\":[-2,9]}", "hidden states");
    refuse("{" LLAVA "," CLIP ",\"vision_feature_layer\":[-2,\"x\"]}", "vision_feature_layer");
    refuse("{" LLAVA ",\"vision_feature_select_strategy\":\"some\"}", "strategy");
    refuse("{" LLAVA "," SIGLIP "}", "class token");
    refuse("{" LLAVA ",\"projector_hidden_act\":\"magic\"}", "magic");
    refuse("{" NEXT "," CLIP ",\"image_grid_pinpoints\":[[1,2,3]]}", "image_grid_pinpoints");
    refuse("{" NEXT "," CLIP ",\"image_grid_pinpoints\":[5]}", "image_grid_pinpoints");
    refuse("{" LLAVA ",\"image_token_index\":-5}", "image_token_index");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),   cmocka_unit_test(test_next),
        cmocka_unit_test(test_model_type), cmocka_unit_test(test_text_config),
        cmocka_unit_test(test_features),   cmocka_unit_test(test_processors),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
