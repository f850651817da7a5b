/* SPDX-License-Identifier: Apache-2.0
 *
 * The vision tower's own config.json and preprocessor_config.json, or built-in facts about the
 * published towers when there is no directory.
 */
#include <stdio.h>

#include "config_read.h"

/** Published towers; sizes from their config.json (openai/clip-*, google/siglip-*). */
static const struct {
    const char *name;
    tower_config config;
} published[] = {
    {"openai/clip-vit-large-patch14-336",
     {TOWER_CLIP, 1024, 4096, 24, 16, 336, 14, ACT_QUICK_GELU, 1e-5f}},
    {"openai/clip-vit-large-patch14",
     {TOWER_CLIP, 1024, 4096, 24, 16, 224, 14, ACT_QUICK_GELU, 1e-5f}},
    {"google/siglip-so400m-patch14-384",
     {TOWER_SIGLIP, 1152, 4304, 27, 16, 384, 14, ACT_GELU_TANH, 1e-6f}},
};

/** Defaults of the configuration classes for absent keys. */
static const tower_config class_defaults[] = {
    [TOWER_CLIP] = {TOWER_CLIP, 768, 3072, 12, 12, 224, 32, ACT_QUICK_GELU, 1e-5f},
    [TOWER_SIGLIP] = {TOWER_SIGLIP, 768, 3072, 12, 12, 224, 16, ACT_GELU_TANH, 1e-6f},
    [TOWER_MLCD] = {TOWER_MLCD, 1664, 8192, 48, 16, 336, 14, ACT_GELU, 1e-5f},
};

tower_kind config_tower_kind(const char *model_type) {
    static const struct {
        const char *type;
        tower_kind kind;
    } types[] = {
        {"clip", TOWER_CLIP},
        {"clip_vision_model", TOWER_CLIP},
        {"siglip", TOWER_SIGLIP},
        {"siglip_vision_model", TOWER_SIGLIP},
        {"mlcd_vision_model", TOWER_MLCD},
        {"mlcd", TOWER_MLCD},
    };
    for (size_t i = 0; model_type && i < LLAVA_COUNT(types); i++)
        if (strcmp(types[i].type, model_type) == 0) return types[i].kind;
    return TOWER_NONE;
}

/** The reference's rules on the tower's name, for directories that do not say what they are. */
static tower_kind kind_by_name(const char *name) {
    if (strstr(name, "siglip")) return TOWER_SIGLIP;
    if (strstr(name, "mlcd-vit-bigG-patch14")) return TOWER_MLCD;
    if (strncmp(name, "openai", 6) == 0 || strncmp(name, "laion", 5) == 0 ||
        strstr(name, "ShareGPT4V"))
        return TOWER_CLIP;
    return TOWER_NONE;
}

static llava_status read_tower_sizes(tower_config *tower, const reader *r) {
    const tower_config *d = &class_defaults[tower->kind];
    LLAVA_TRY(read_int(r, "hidden_size", d->hidden_size, 1, CONFIG_MAX_WIDTH, &tower->hidden_size));
    LLAVA_TRY(read_int(r, "intermediate_size", d->intermediate_size, 1, CONFIG_MAX_WIDTH,
                       &tower->intermediate_size));
    LLAVA_TRY(
        read_int(r, "num_hidden_layers", d->n_layers, 1, CONFIG_MAX_LAYERS, &tower->n_layers));
    LLAVA_TRY(read_int(r, "num_attention_heads", d->n_heads, 1, 4096, &tower->n_heads));
    LLAVA_TRY(read_int(r, "image_size", d->image_size, 1, CONFIG_MAX_PICTURE, &tower->image_size));
    LLAVA_TRY(read_int(r, "patch_size", d->patch_size, 1, 1024, &tower->patch_size));
    int64_t channels;
    LLAVA_TRY(read_int(r, "num_channels", 3, 1, 1024, &channels));
    if (channels != 3)
        return llava_fail(r->err, LLAVA_UNSUPPORTED, "%s: \"num_channels\": expected 3, got %lld",
                          r->what, (long long)channels);
    double eps;
    LLAVA_TRY(read_float(r, "layer_norm_eps", d->layer_norm_eps, 1e-30, 1, &eps));
    tower->layer_norm_eps = (float)eps;
    const char *act;
    LLAVA_TRY(json_get_string(r->object, r->what, "hidden_act", NULL, &act, r->err));
    tower->act = d->act;
    if (act && !activation_parse(act, &tower->act))
        return llava_fail(r->err, LLAVA_UNSUPPORTED,
                          "%s: \"hidden_act\": unknown activation \"%.60s\"", r->what, act);
    return LLAVA_OK;
}

static llava_status check_tower_sizes(const tower_config *tower, const char *what,
                                      llava_error *err) {
    const int64_t unit = tower->kind == TOWER_MLCD ? 4 * tower->n_heads : tower->n_heads;
    if (tower->hidden_size % unit != 0)
        return llava_fail(err, LLAVA_MALFORMED,
                          "%s: \"hidden_size\" %lld is no multiple of %s\"num_attention_heads\" "
                          "%lld",
                          what, (long long)tower->hidden_size,
                          tower->kind == TOWER_MLCD ? "4 times " : "", (long long)tower->n_heads);
    if (tower->image_size < tower->patch_size)
        return llava_fail(err, LLAVA_MALFORMED,
                          "%s: \"image_size\" %lld is below \"patch_size\" %lld", what,
                          (long long)tower->image_size, (long long)tower->patch_size);
    if (tower->image_size / tower->patch_size > 1024)
        return llava_fail(err, LLAVA_MALFORMED, "%s: expected at most 1024 patches a side", what);
    if (tower->kind == TOWER_SIGLIP && !tower->runs_all_layers && tower->n_layers < 2)
        return llava_fail(err, LLAVA_MALFORMED,
                          "%s: \"num_hidden_layers\": a SigLIP tower needs 2, as its last layer is "
                          "left out",
                          what);
    return LLAVA_OK;
}

llava_status config_parse_tower(const reader *r, tower_config *tower) {
    LLAVA_TRY(read_tower_sizes(tower, r));
    return check_tower_sizes(tower, r->what, r->err);
}

/** config.json of a tower: the nested vision_config when there is one, else the top level. */
static llava_status read_tower_config(llava_config *config, const char *path, llava_error *err) {
    json_t *root;
    LLAVA_TRY(config_read_json(path, &root, err));
    const json_t *nested = json_get(root, "vision_config");
    const json_t *object = json_is_object(nested) ? nested : root;
    const char *type = json_string_value(json_get(root, "model_type"));
    tower_config tower = {.kind = config_tower_kind(type)};
    if (!tower.kind)
        tower.kind = config_tower_kind(json_string_value(json_get(object, "model_type")));
    const bool by_type = tower.kind != TOWER_NONE;
    if (!by_type) tower.kind = kind_by_name(config->mm.vision_tower);
    const reader r = {object, path, err};
    llava_status status = LLAVA_OK;
    if (!tower.kind) {
        status = llava_fail(err, LLAVA_UNSUPPORTED,
                            "%s: expected model_type clip, siglip or mlcd_vision_model, got "
                            "\"%.60s\"",
                            path, type ? type : "none");
        goto done;
    }
    LLAVA_TRY_DONE(config_parse_tower(&r, &tower));
    config->tower = tower;
    static const char *const names[] = {"none", "CLIP", "SigLIP", "MLCD"};
    status =
        config_note(config, "tower kind", names[tower.kind],
                    by_type ? "model_type in the tower's config.json" : "the tower's name", err);
done:
    json_decref(root);
    return status;
}

/** SigLIP's processor is fixed: straight to the tower's size, mean and deviation a half. */
static processor_config siglip_processor(int64_t size) {
    return (processor_config){.kind = TOWER_SIGLIP,
                              .do_resize = true,
                              .do_rescale = true,
                              .do_normalize = true,
                              .size_width = size,
                              .size_height = size,
                              .crop_width = size,
                              .crop_height = size,
                              .resample = 3,
                              .rescale_factor = 1.0 / 255.0,
                              .mean = {0.5, 0.5, 0.5},
                              .std = {0.5, 0.5, 0.5}};
}

static void set_processor_size(processor_config *p, int64_t size) {
    p->shortest_edge = size;
    p->size_width = p->size_height = 0;
    p->crop_width = p->crop_height = size;
}

llava_status config_check_processor(const llava_config *config, const processor_config *p,
                                    const char *what, llava_error *err) {
    const int64_t size = config->tower.image_size;
    const bool fits = p->do_center_crop
                          ? p->crop_width == size && p->crop_height == size
                          : p->do_resize && p->size_width == size && p->size_height == size;
    if (fits) return LLAVA_OK;
    return llava_fail(err, LLAVA_MALFORMED,
                      "%s: pictures do not come out as %lld x %lld, which the tower's config.json "
                      "says it takes",
                      what, (long long)size, (long long)size);
}

static llava_status read_processor(llava_config *config, const char *directory, llava_error *err) {
    processor_config *p = &config->processor;
    const char *path =
        directory ? path_join(config->memory, directory, "preprocessor_config.json") : NULL;
    if (config->tower.kind == TOWER_SIGLIP) {
        *p = siglip_processor(config->tower.image_size);
        return config_note(config, "image processor", "SigLIP",
                           "fixed for SigLIP towers; no file is read", err);
    }
    if (path && path_is_file(path)) {
        json_t *root;
        LLAVA_TRY(config_read_json(path, &root, err));
        llava_status status = config_parse_processor(root, path, p, err);
        json_decref(root);
        LLAVA_TRY(status);
        p->kind = config->tower.kind;
        LLAVA_TRY(config_check_processor(config, p, path, err));
        return config_note(config, "image processor", "CLIP", path, err);
    }
    LLAVA_TRY(config_parse_processor(NULL, "built-in processor", p, err));
    p->kind = config->tower.kind;
    set_processor_size(p, config->tower.image_size);
    return config_note(config, "image processor", "CLIP",
                       "no preprocessor_config.json: CLIP's constants at the tower's size", err);
}

int64_t config_tower_layers(const tower_config *tower) {
    const bool drops_last = tower->kind == TOWER_SIGLIP && !tower->runs_all_layers;
    return tower->n_layers - drops_last;
}

/** Hidden states that are put side by side. */
static int64_t n_selected(const mm_config *mm, const tower_config *tower) {
    if (mm->n_select_layers > 0) return (int64_t)mm->n_select_layers;
    if (tower->kind == TOWER_SIGLIP) return 1;
    if (mm->s2) return (int64_t)mm->n_s2_scales;
    switch (mm->select) {
    case SELECT_SLICEFOUR_PATCH:
    case SELECT_SLICEFOUR_CLS_PATCH: return 4;
    case SELECT_M25811_PATCH:
    case SELECT_M25811_CLS_PATCH: return 5;
    case SELECT_PATCH:
    case SELECT_CLS_PATCH: break;
    }
    return 1;
}

int64_t config_tower_width(const llava_config *config) {
    return config->tower.hidden_size * n_selected(&config->mm, &config->tower);
}

/** slicefour takes the states k + s, 2k + s, ... below n, k = n / 4; they must be four. */
static bool slicefour_fits(int64_t n_states, int64_t select_layer) {
    const int64_t k = n_states / 4;
    if (k < 1 || k + select_layer < 0) return false;
    int64_t count = 0;
    for (int64_t i = k + select_layer; i < n_states; i += k) count++;
    return count == 4;
}

static llava_status check_selection(const llava_config *config, llava_error *err) {
    const mm_config *mm = &config->mm;
    const int64_t n_states = config->tower.n_layers + 1;
    if (config->tower.kind == TOWER_SIGLIP && !config->tower.runs_all_layers)
        return LLAVA_OK; /* always its last state */
    for (size_t i = 0; i < mm->n_select_layers; i++)
        if (mm->select_layers[i] < -n_states || mm->select_layers[i] >= n_states)
            return llava_fail(
                err, LLAVA_MALFORMED,
                "config.json: \"vision_feature_layer\" %lld does not fit a tower with "
                "%lld hidden states",
                (long long)mm->select_layers[i], (long long)n_states);
    const bool m25811 = mm->select == SELECT_M25811_PATCH || mm->select == SELECT_M25811_CLS_PATCH;
    if (m25811 && n_states < 11)
        return llava_fail(err, LLAVA_MALFORMED,
                          "config.json: slice_m25811_f6 needs a tower of 10 layers, got %lld",
                          (long long)n_states - 1);
    if (m25811) return LLAVA_OK;
    if (!mm->has_select_layer)
        return llava_fail(err, LLAVA_MALFORMED,
                          "config.json: \"mm_vision_select_layer\" is missing (published "
                          "checkpoints say -2)");
    if (mm->select == SELECT_SLICEFOUR_PATCH || mm->select == SELECT_SLICEFOUR_CLS_PATCH) {
        if (slicefour_fits(n_states, mm->select_layer)) return LLAVA_OK;
    } else if (mm->select_layer >= -n_states && mm->select_layer < n_states) {
        return LLAVA_OK;
    }
    return llava_fail(err, LLAVA_MALFORMED,
                      "config.json: \"mm_vision_select_layer\" %lld does not fit a tower with %lld "
                      "hidden states",
                      (long long)mm->select_layer, (long long)n_states);
}

static llava_status check_with_tower(llava_config *config, llava_error *err) {
    mm_config *mm = &config->mm;
    const tower_config *tower = &config->tower;
    if (mm->s2 && tower->kind == TOWER_SIGLIP) {
        mm->s2 = false;
        LLAVA_TRY(config_note(config, "s2", "off", "the reference has no multi-scale SigLIP", err));
    }
    if (mm->s2 && mm->s2_scales[0] != tower->image_size)
        return llava_fail(err, LLAVA_MALFORMED,
                          "config.json: \"s2_scales\": the smallest must be the tower's size %lld, "
                          "got %lld",
                          (long long)tower->image_size, (long long)mm->s2_scales[0]);
    if (mm->s2) set_processor_size(&config->processor, mm->s2_scales[mm->n_s2_scales - 1]);
    if (mm->aspect == ASPECT_HIGHRES && tower->kind == TOWER_SIGLIP)
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "config.json: highres works with CLIP towers only, this one is SigLIP");
    LLAVA_TRY(check_selection(config, err));
    const int64_t width = config_tower_width(config);
    if (mm->mm_hidden_size == 0) mm->mm_hidden_size = width;
    if (mm->mm_hidden_size != width)
        return llava_fail(err, LLAVA_MALFORMED,
                          "config.json: \"mm_hidden_size\": the tower and its feature selection "
                          "give %lld channels, got %lld",
                          (long long)width, (long long)mm->mm_hidden_size);
    return LLAVA_OK;
}

llava_status config_check_with_tower(llava_config *config, llava_error *err) {
    return llava_error_classify(err, check_with_tower(config, err));
}

/** The same name, or a path of some other machine that ends in the published name's last part. */
static bool is_published(const char *name, const char *published_name) {
    const char *last = strrchr(published_name, '/');
    const size_t n = strlen(name), m = strlen(last);
    return strcmp(name, published_name) == 0 || (n >= m && strcmp(name + n - m, last) == 0);
}

static llava_status use_published(llava_config *config, llava_error *err) {
    for (size_t i = 0; i < LLAVA_COUNT(published); i++) {
        if (!is_published(config->mm.vision_tower, published[i].name)) continue;
        config->tower = published[i].config;
        return config_note(config, "tower config", published[i].name,
                           "no directory of that name was found: built-in facts about the "
                           "published tower",
                           err);
    }
    return llava_fail(err, LLAVA_IO,
                      "mm_vision_tower \"%s\": no directory of that name was found, and it is no "
                      "published tower whose sizes are built in",
                      config->mm.vision_tower);
}

llava_status config_read_tower(llava_config *config, const char *directory, llava_error *err) {
    const char *path = directory ? path_join(config->memory, directory, "config.json") : NULL;
    if (directory && !path) return llava_fail_memory(err, strlen(directory), "a path");
    if (path) {
        LLAVA_TRY(read_tower_config(config, path, err));
        LLAVA_TRY(config_note(config, "tower config", path, "mm_vision_tower names it", err));
    } else {
        LLAVA_TRY(use_published(config, err));
    }
    LLAVA_TRY(read_processor(config, directory, err));
    return config_check_with_tower(config, err);
}
