/* SPDX-License-Identifier: Apache-2.0
 *
 * What the call returned: classes, sizes, the image processor's numbers, the tower's shape.
 */
#include <math.h>

#include "verify/verify.h"

/* ---------------------------------------------------------------- image processor */

static llava_status differs(verify_run *run, const char *path, const char *format, double value) {
    return report_stage(run->report, path, "difference", 1, 0, format, value);
}

static llava_status same_number(verify_run *run, const char *path, double own) {
    const json_t *value = trace_field(&run->trace, path);
    if (!value) return LLAVA_OK;
    if (json_is_number(value) && json_number_value(value) == own)
        return report_stage(run->report, path, "difference", 0, 0, NULL);
    return differs(run, path, "computed %.17g", own);
}

static llava_status same_flag(verify_run *run, const char *path, bool own) {
    const json_t *value = trace_field(&run->trace, path);
    if (!value) return LLAVA_OK;
    if (json_is_boolean(value) && json_is_true(value) == own)
        return report_stage(run->report, path, "difference", 0, 0, NULL);
    return differs(run, path, "computed %g", own);
}

static llava_status same_triple(verify_run *run, const char *path, const double own[3]) {
    const json_t *value = trace_field(&run->trace, path);
    if (!value) return LLAVA_OK;
    double worst = json_array_size(value) == 3 ? 0 : INFINITY;
    for (size_t i = 0; i < json_array_size(value) && i < 3; i++)
        worst = fmax(worst, fabs(json_number_value(json_array_get(value, i)) - own[i]));
    return report_stage(run->report, path, "difference", worst, 0, NULL);
}

/** A size is {"shortest_edge"}, {"height", "width"} or [height, width]. */
static llava_status same_size(verify_run *run, const char *path, int64_t edge, int64_t width,
                              int64_t height) {
    const json_t *value = trace_field(&run->trace, path);
    if (!value) return LLAVA_OK;
    int64_t e = 0, w = 0, h = 0;
    if (json_is_array(value)) {
        h = json_integer_value(json_array_get(value, 0));
        w = json_integer_value(json_array_get(value, 1));
    } else {
        e = json_integer_value(json_object_get(value, "shortest_edge"));
        h = json_integer_value(json_object_get(value, "height"));
        w = json_integer_value(json_object_get(value, "width"));
    }
    const bool same = e > 0 ? e == edge : edge == 0 && w == width && h == height;
    if (same) return report_stage(run->report, path, "difference", 0, 0, NULL);
    return report_stage(run->report, path, "difference", 1, 0,
                        "computed shortest edge %lld, width %lld, height %lld", (long long)edge,
                        (long long)width, (long long)height);
}

llava_status verify_processor_facts(verify_run *run, const char *path,
                                    const llava_image_processor *processor) {
    const json_t *facts = trace_field(&run->trace, path);
    if (!facts) {
        if (!processor) return LLAVA_OK;
        return report_stage(run->report, path, "difference", 1, 0,
                            "the reference returned none, here there is one");
    }
    if (!processor)
        return report_stage(run->report, path, "difference", 1, 0, "there is none here");
    json_object_del(run->trace.seen, path); /* its members are looked at one by one */
    const processor_config *p = &processor->processor;
    const char *class_name =
        p->kind == TOWER_SIGLIP ? "SigLipImageProcessor" : "CLIPImageProcessor";
#define MEMBER(name) arena_printf(run->memory, "%s." name, path)
    const json_t *named = trace_field(&run->trace, MEMBER("class"));
    if (named)
        LLAVA_TRY(verify_text_equal(run, MEMBER("class"), class_name, strlen(class_name), named));
    LLAVA_TRY(same_size(run, MEMBER("size"), p->shortest_edge, p->size_width, p->size_height));
    LLAVA_TRY(same_size(run, MEMBER("crop_size"), 0, p->crop_width, p->crop_height));
    LLAVA_TRY(same_flag(run, MEMBER("do_resize"), p->do_resize));
    LLAVA_TRY(same_flag(run, MEMBER("do_center_crop"), p->do_center_crop));
    LLAVA_TRY(same_flag(run, MEMBER("do_rescale"), p->do_rescale));
    LLAVA_TRY(same_flag(run, MEMBER("do_normalize"), p->do_normalize));
    LLAVA_TRY(same_number(run, MEMBER("resample"), p->resample));
    LLAVA_TRY(same_number(run, MEMBER("rescale_factor"), p->rescale_factor));
    LLAVA_TRY(same_triple(run, MEMBER("image_mean"), p->mean));
    LLAVA_TRY(same_triple(run, MEMBER("image_std"), p->std));
#undef MEMBER
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- tower */

static const char *tower_class(const llava_config *config) {
    switch (config->tower.kind) {
    case TOWER_CLIP: return config->mm.s2 ? "CLIPVisionTowerS2" : "CLIPVisionTower";
    case TOWER_SIGLIP: return "SigLipVisionTower";
    case TOWER_MLCD: return config->mm.s2 ? "MLCDVisionTowerS2" : "MLCDVisionTower";
    default: return "none";
    }
}

static llava_status compare_tower(verify_run *run) {
    const json_t *name = trace_field(&run->trace, "returned.vision_tower.class");
    if (!name) return LLAVA_OK;
    const llava_config *config = run->loaded.model->config;
    const char *own = tower_class(config);
    LLAVA_TRY(verify_text_equal(run, "returned.vision_tower.class", own, strlen(own), name));
    int64_t tokens, width;
    model_tower_shape(run->loaded.model, &tokens, &width);
    LLAVA_TRY(verify_integer(run, "returned.vision_tower.hidden_size", width));
    LLAVA_TRY(verify_integer(run, "returned.vision_tower.num_patches", tokens));
    LLAVA_TRY(verify_integer(run, "returned.vision_tower.image_size", config->tower.image_size));
    const llava_image_processor *processor = run->loaded.image_processor;
    if (!processor) return LLAVA_OK;
    return verify_integer(run, "returned.vision_tower.num_patches_per_side",
                          processor->patches_per_side);
}

/* ---------------------------------------------------------------- configuration */

/** Attributes that overwrite_config set, as the model then has them. */
static llava_status compare_config(verify_run *run) {
    const json_t *recorded = trace_field(&run->trace, "config");
    const json_t *own = run->loaded.model->config->root;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)recorded, key, value) {
        const char *name = arena_printf(run->memory, "config.%s", key);
        if (!name) return LLAVA_OUT_OF_MEMORY;
        const bool same = json_equal(json_object_get(own, key), value);
        LLAVA_TRY(report_stage(run->report, name, "difference", !same, 0, NULL));
    }
    return LLAVA_OK;
}

/** "Qwen2TokenizerFast" against a description that begins "Qwen2Tokenizer (fast)". */
static llava_status compare_tokenizer_class(verify_run *run) {
    const json_t *recorded = trace_field(&run->trace, "returned.tokenizer");
    if (!json_is_string(recorded)) return LLAVA_OK;
    const char *own = tokenizer_description(run->loaded.tokenizer);
    const char *name = json_string_value(recorded);
    size_t stem = strlen(name);
    if (stem > 4 && strcmp(name + stem - 4, "Fast") == 0) stem -= 4;
    const bool same = own && strncmp(own, name, stem) == 0;
    return report_stage(run->report, "returned.tokenizer", "difference", !same, 0,
                        same ? NULL : "recorded %s, here it is %s", name, own ? own : "nothing");
}

/** The reference does not look at MPT's max_seq_len and says 2048. */
static llava_status compare_context_len(verify_run *run) {
    if (run->loaded.model->config->lm.family->arch != ARCH_MPT)
        return verify_integer(run, "returned.context_len", run->loaded.context_len);
    trace_mark(&run->trace, "returned.context_len");
    return report_not_compared(run->report, "returned.context_len",
                               "the reference does not look at MPT's max_seq_len");
}

/** The type of most of the checkpoint's bytes is that of its first matrix. */
static llava_status compare_stored_dtype(verify_run *run) {
    const json_t *recorded = trace_field(&run->trace, "stored_dtype");
    const checkpoint *c = run->loaded.model->files[0];
    if (!recorded || !c) return LLAVA_OK;
    for (size_t i = 0; i < checkpoint_count(c); i++) {
        const tensor *t = &checkpoint_at(c, i)->t;
        if (t->n_dims != 2 || !dtype_is_float(t->dtype)) continue;
        const char *own = dtype_name(t->dtype);
        return verify_text_equal(run, "stored_dtype", own, strlen(own), recorded);
    }
    return LLAVA_OK;
}

llava_status verify_returned(verify_run *run, llava_error *err) {
    (void)err;
    const json_t *name = trace_field(&run->trace, "returned.model");
    if (json_is_string(name))
        LLAVA_TRY(verify_text_equal(run, "returned.model", run->info.architecture,
                                    strlen(run->info.architecture), name));
    LLAVA_TRY(compare_stored_dtype(run));
    LLAVA_TRY(compare_tokenizer_class(run));
    LLAVA_TRY(compare_context_len(run));
    LLAVA_TRY(verify_integer(run, "returned.tokenizer_length",
                             llava_tokenizer_size(run->loaded.tokenizer)));
    LLAVA_TRY(verify_integer(run, "returned.embedding_rows", run->info.vocab_size));
    LLAVA_TRY(verify_integer(run, "returned.head_rows", run->info.vocab_size));
    LLAVA_TRY(verify_processor_facts(run, "returned.image_processor", run->loaded.image_processor));
    LLAVA_TRY(compare_tower(run));
    return compare_config(run);
}
