/* SPDX-License-Identifier: Apache-2.0
 *
 * transformers' own LLaVA classes ("-hf" checkpoints): their config.json, with text_config and
 * vision_config inside, is translated into the original layout's keys before anything else reads
 * it. Defaults are those of the configuration classes of transformers 4.45.
 */
#include <stdio.h>

#include "config_read.h"

typedef struct native_class {
    native_layout layout;
    const char *class_name, *model_type;
    int64_t image_token, video_token, feature_layer;
    const char *feature_strategy;
    const char *text_type; /* of a text_config that does not say */
} native_class;

static const native_class native_classes[] = {
    {NATIVE_LLAVA, "LlavaForConditionalGeneration", "llava", 32000, -1, -2, "default", "llama"},
    {NATIVE_NEXT, "LlavaNextForConditionalGeneration", "llava_next", 32000, -1, -2, "default",
     "llama"},
    {NATIVE_NEXT_VIDEO, "LlavaNextVideoForConditionalGeneration", "llava_next_video", 32001, 32000,
     -2, "default", "llama"},
    {NATIVE_ONEVISION, "LlavaOnevisionForConditionalGeneration", "llava_onevision", 151646, 151647,
     -1, "full", "qwen2"},
};

/** The class by its name, else by model_type; "llava" is also the original layout's. */
static const native_class *find_class(const json_t *root) {
    const char *class_name = json_string_value(json_array_get(json_get(root, "architectures"), 0));
    const char *type = json_string_value(json_get(root, "model_type"));
    if (json_get(root, "mm_vision_tower")) return NULL;
    for (size_t i = 0; class_name && i < LLAVA_COUNT(native_classes); i++)
        if (strcmp(native_classes[i].class_name, class_name) == 0) return &native_classes[i];
    if (class_name || !json_is_object(json_get(root, "text_config"))) return NULL;
    for (size_t i = 0; type && i < LLAVA_COUNT(native_classes); i++)
        if (strcmp(native_classes[i].model_type, type) == 0) return &native_classes[i];
    return NULL;
}

const char *config_native_class(native_layout layout) {
    for (size_t i = 0; i < LLAVA_COUNT(native_classes); i++)
        if (native_classes[i].layout == layout) return native_classes[i].class_name;
    return NULL;
}

/* ---------------------------------------------------------------- translation */

/** A translation in progress: `from` is config.json, `to` the object in the original's keys. */
typedef struct translation {
    const native_class *class;
    const json_t *from;
    json_t *to;
    llava_error *err;
    bool out_of_memory;
} translation;

static void set(translation *t, const char *key, json_t *value) {
    if (!value || json_object_set_new(t->to, key, value) != 0) t->out_of_memory = true;
}

static void copy(translation *t, const char *key) {
    json_t *value = json_object_get(t->from, key);
    if (value && json_object_set(t->to, key, value) != 0) t->out_of_memory = true;
}

/** The decoder's class, and its keys at the top level. */
static llava_status translate_text(translation *t) {
    static const char *const own[] = {"architectures", "model_type", "torch_dtype", "dtype"};
    static const char *const shared[] = {"torch_dtype", "dtype", "quantization_config"};
    static const char *const ids[] = {"bos_token_id", "eos_token_id", "pad_token_id"};
    const json_t *text = json_get(t->from, "text_config");
    const char *type;
    LLAVA_TRY(json_get_string(text, "config.json: text_config", "model_type", t->class->text_type,
                              &type, t->err));
    bool is_llava = false;
    const family *f = family_by_model_type(type, &is_llava);
    if (!f || is_llava || f->arch == ARCH_MPT)
        return llava_fail(t->err, LLAVA_UNSUPPORTED,
                          "config.json: text_config: \"model_type\": expected llama, mistral, "
                          "mixtral, qwen2, qwen2_moe or gemma, got \"%.60s\"",
                          type);
    if (text && json_object_update(t->to, (json_t *)text) != 0) t->out_of_memory = true;
    for (size_t i = 0; i < LLAVA_COUNT(own); i++) json_object_del(t->to, own[i]);
    for (size_t i = 0; i < LLAVA_COUNT(shared); i++) copy(t, shared[i]);
    for (size_t i = 0; i < LLAVA_COUNT(ids); i++)
        if (!json_get(t->to, ids[i])) copy(t, ids[i]);
    set(t, "architectures", json_pack("[s]", f->llava_class));
    set(t, "model_type", json_string(f->llava_type));
    return LLAVA_OK;
}

/** Pairs are (height, width) there; the order of the list, which decides ties, stays. */
static json_t *swapped_pairs(const json_t *list) {
    json_t *swapped = json_array();
    for (size_t i = 0; swapped && i < json_array_size(list); i++) {
        const json_t *pair = json_array_get(list, i);
        json_t *height = json_array_get(pair, 0), *width = json_array_get(pair, 1);
        json_t *entry =
            json_array_size(pair) == 2 ? json_pack("[O, O]", width, height) : json_deep_copy(pair);
        if (!entry || json_array_append_new(swapped, entry) != 0) {
            json_decref(swapped);
            return NULL;
        }
    }
    return swapped;
}

/** Multiples of 384 up to 2304, heights outside. */
static json_t *onevision_pairs(void) {
    json_t *list = json_array();
    for (int height = 384; list && height <= 2304; height += 384)
        for (int width = 384; width <= 2304; width += 384)
            json_array_append_new(list, json_pack("[i, i]", width, height));
    return list;
}

static void translate_pinpoints(translation *t) {
    json_t *given = json_object_get(t->from, "image_grid_pinpoints");
    if (json_is_array(given))
        set(t, "image_grid_pinpoints", swapped_pairs(given));
    else if (given && !json_is_null(given))
        set(t, "image_grid_pinpoints", json_deep_copy(given));
    else if (t->class->layout == NATIVE_ONEVISION)
        set(t, "image_grid_pinpoints", onevision_pairs());
    else
        set(t, "image_grid_pinpoints",
            json_pack("[[i,i],[i,i],[i,i],[i,i],[i,i]]", 672, 336, 336, 672, 672, 672, 336, 1008,
                      1008, 336));
}

static void set_text(translation *t, const char *key, const char *text) {
    set(t, key, json_string(text));
}

/** How pictures and videos are cut up, pooled and put together. */
static llava_status translate_layout(translation *t) {
    const native_layout layout = t->class->layout;
    const char *aspect;
    LLAVA_TRY(json_get_string(t->from, "config.json", "vision_aspect_ratio", "anyres_max_9",
                              &aspect, t->err));
    if (layout != NATIVE_ONEVISION) aspect = layout == NATIVE_LLAVA ? "square" : "anyres";
    set_text(t, "image_aspect_ratio", aspect);
    set_text(t, "mm_patch_merge_type", layout == NATIVE_LLAVA ? "flat" : "spatial_unpad");
    if (layout != NATIVE_LLAVA) translate_pinpoints(t);
    set_text(t, "mm_newline_position", layout == NATIVE_NEXT_VIDEO ? "no_token" : "one_token");
    set_text(t, "mm_spatial_pool_mode", "bilinear");
    set(t, "mm_spatial_pool_stride", json_integer(2));
    if (layout != NATIVE_NEXT_VIDEO) return LLAVA_OK;
    const char *mode;
    int64_t stride;
    LLAVA_TRY(
        json_get_string(t->from, "config.json", "spatial_pool_mode", "average", &mode, t->err));
    LLAVA_TRY(json_get_i64(t->from, "config.json", "spatial_pool_stride", 2, &stride, t->err));
    set_text(t, "mm_spatial_pool_mode", mode);
    set(t, "mm_spatial_pool_stride", json_integer(stride));
    return LLAVA_OK;
}

static llava_status translate_features(translation *t) {
    const char *strategy;
    LLAVA_TRY(json_get_string(t->from, "config.json", "vision_feature_select_strategy",
                              t->class->feature_strategy, &strategy, t->err));
    const bool full = strcmp(strategy, "full") == 0;
    if (!full && strcmp(strategy, "default") != 0)
        return llava_fail(t->err, LLAVA_MALFORMED,
                          "config.json: \"vision_feature_select_strategy\": expected default or "
                          "full, got \"%.60s\"",
                          strategy);
    set_text(t, "mm_vision_select_feature", full ? "cls_patch" : "patch");
    const json_t *layer = json_get(t->from, "vision_feature_layer");
    const json_t *first = json_is_array(layer) ? json_array_get(layer, 0) : layer;
    if (layer && !json_is_integer(first))
        return llava_fail(t->err, LLAVA_MALFORMED,
                          "config.json: \"vision_feature_layer\": expected an integer or a list "
                          "of them, got %s",
                          json_kind(layer));
    set(t, "mm_vision_select_layer",
        json_integer(layer ? json_integer_value(first) : t->class->feature_layer));
    set_text(t, "mm_vision_tower", "vision_tower"); /* the module's name in the checkpoint */
    set_text(t, "mm_projector_type", "mlp2x_gelu");
    set(t, "mm_use_im_patch_token", json_false());
    return LLAVA_OK;
}

/** Absent or an object. */
static llava_status check_objects(const translation *t) {
    static const char *const keys[] = {"text_config", "vision_config"};
    for (size_t i = 0; i < LLAVA_COUNT(keys); i++) {
        const json_t *value = json_get(t->from, keys[i]);
        if (value && !json_is_object(value))
            return llava_fail(t->err, LLAVA_MALFORMED,
                              "config.json: \"%s\": expected an object, got %s", keys[i],
                              json_kind(value));
    }
    return LLAVA_OK;
}

static llava_status translate(translation *t) {
    LLAVA_TRY(check_objects(t));
    LLAVA_TRY(translate_text(t));
    LLAVA_TRY(translate_features(t));
    LLAVA_TRY(translate_layout(t));
    if (t->out_of_memory) return llava_fail_memory(t->err, 0, "config.json");
    return LLAVA_OK;
}

llava_status config_translate_native(llava_config *config, llava_error *err) {
    const native_class *class = find_class(config->root);
    if (!class) return LLAVA_OK;
    translation t = {.class = class, .from = config->root, .to = json_object(), .err = err};
    llava_status status =
        t.to ? translate(&t) : llava_fail_memory(err, sizeof *t.to, "config.json");
    if (status != LLAVA_OK) {
        json_decref(t.to);
        return status;
    }
    config->native = config->root;
    config->root = t.to;
    config->mm.native = class->layout;
    return config_note(config, "native class", class->class_name,
                       "transformers' own LLaVA layout, translated into the original's keys", err);
}

/* ---------------------------------------------------------------- what has no original key */

/** image_token_index, or image_token_id as later releases call it. */
static llava_status read_token(const reader *r, const char *index, const char *id, int64_t fallback,
                               int64_t *token) {
    const char *key = json_get(r->object, index) ? index : id;
    return read_int_or_null(r, key, fallback, 0, CONFIG_MAX_VOCAB, token);
}

/** A list of layers: their features stand side by side. */
static llava_status read_layers(mm_config *mm, const reader *r) {
    const json_t *list = json_get(r->object, "vision_feature_layer");
    const size_t n = json_array_size(list), room = LLAVA_COUNT(mm->select_layers);
    if (n > room)
        return llava_fail(r->err, LLAVA_UNSUPPORTED,
                          "%s: \"vision_feature_layer\": expected at most %zu layers, got %zu",
                          r->what, room, n);
    for (size_t i = 0; i < n; i++) {
        const json_t *layer = json_array_get(list, i);
        const int64_t value = json_integer_value(layer);
        if (!json_is_integer(layer) || value < -CONFIG_MAX_LAYERS || value > CONFIG_MAX_LAYERS)
            return llava_fail(r->err, LLAVA_MALFORMED,
                              "%s: \"vision_feature_layer\": expected layers, got %s", r->what,
                              json_kind(layer));
        mm->select_layers[i] = value;
    }
    mm->n_select_layers = n;
    return LLAVA_OK;
}

static llava_status read_projector_options(mm_config *mm, const reader *r) {
    const char *act;
    bool bias;
    LLAVA_TRY(json_get_string(r->object, r->what, "projector_hidden_act", "gelu", &act, r->err));
    if (!activation_parse(act, &mm->projector_act))
        return llava_fail(r->err, LLAVA_UNSUPPORTED,
                          "%s: \"projector_hidden_act\": unknown activation \"%.60s\"", r->what,
                          act);
    LLAVA_TRY(read_flag(r, "multimodal_projector_bias", true, &bias));
    mm->projector_without_bias = !bias;
    return LLAVA_OK;
}

llava_status config_parse_native(llava_config *config, llava_error *err) {
    mm_config *mm = &config->mm;
    const reader r = {config->native, "config.json", err};
    const native_class *class = &native_classes[mm->native - NATIVE_LLAVA];
    LLAVA_TRY(read_token(&r, "image_token_index", "image_token_id", class->image_token,
                         &mm->image_token));
    mm->video_token = -1;
    if (class->video_token >= 0)
        LLAVA_TRY(read_token(&r, "video_token_index", "video_token_id", class->video_token,
                             &mm->video_token));
    LLAVA_TRY(read_layers(mm, &r));
    LLAVA_TRY(read_projector_options(mm, &r));
    mm->pool_before_projector = mm->native == NATIVE_NEXT_VIDEO;
    /* from transformers 4.45 on a window of w keys ends at p - w + 1, one key later than in 4.40 */
    if (config->lm.sliding_window > 1) config->lm.sliding_window--;
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- the tower */

/** A vision_config that is absent: the class's whole default, not the tower class's. */
static json_t *default_vision(native_layout layout) {
    if (layout == NATIVE_ONEVISION)
        return json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i}", "model_type", "siglip_vision_model",
                         "hidden_size", 1152, "intermediate_size", 4304, "num_hidden_layers", 26,
                         "num_attention_heads", 16, "image_size", 384, "patch_size", 14);
    return json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i}", "model_type", "clip_vision_model",
                     "hidden_size", 1024, "intermediate_size", 4096, "num_hidden_layers", 24,
                     "num_attention_heads", 16, "image_size", 336, "patch_size", 14);
}

static llava_status check_strategy(const llava_config *config, llava_error *err) {
    if (config->tower.kind != TOWER_SIGLIP || config->mm.select == SELECT_CLS_PATCH)
        return LLAVA_OK;
    return llava_fail(err, LLAVA_UNSUPPORTED,
                      "config.json: \"vision_feature_select_strategy\" default takes the first "
                      "patch away from a SigLIP tower, which has no class token; expected full");
}

static llava_status read_vision(llava_config *config, const json_t *vision, llava_error *err) {
    const char *what = "config.json: vision_config";
    const bool onevision = config->mm.native == NATIVE_ONEVISION;
    const char *type;
    LLAVA_TRY(json_get_string(vision, what, "model_type",
                              onevision ? "siglip_vision_model" : "clip_vision_model", &type, err));
    const tower_kind kind = config_tower_kind(type);
    if (kind != TOWER_CLIP && kind != TOWER_SIGLIP)
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "%s: \"model_type\": expected clip_vision_model or siglip_vision_model, "
                          "got \"%.60s\"",
                          what, type);
    const reader r = {vision, what, err};
    config->tower = (tower_config){.kind = kind, .runs_all_layers = true};
    LLAVA_TRY(config_parse_tower(&r, &config->tower));
    LLAVA_TRY(config_note(config, "tower kind", kind == TOWER_CLIP ? "CLIP" : "SigLIP",
                          "model_type in vision_config", err));
    return check_strategy(config, err);
}

llava_status config_read_native_tower(llava_config *config, const char *directory,
                                      llava_error *err) {
    const json_t *given = json_get(config->native, "vision_config");
    json_t *vision =
        json_is_object(given) ? json_incref((json_t *)given) : default_vision(config->mm.native);
    if (!vision) return llava_fail_memory(err, 0, "vision_config");
    const llava_status status = read_vision(config, vision, err);
    json_decref(vision);
    LLAVA_TRY(status);
    LLAVA_TRY(config_read_native_processors(config, directory, err));
    return config_check_with_tower(config, err);
}
