/* SPDX-License-Identifier: Apache-2.0
 *
 * A recorded tower alone: pixels, and features of several layers and selections.
 */
#include <stdlib.h>

#include "verify/verify.h"

/** One tower opened with one layer and selection. */
typedef struct open_tower {
    llava_model *model;
    llava_image_processor *processor;
} open_tower;

/* The reference runs towers of this scheme in bfloat16 whatever it is asked for. */
#define HF_SCHEME "hf:"

static bool is_hf(const char *name) {
    return name && strncmp(name, HF_SCHEME, strlen(HF_SCHEME)) == 0;
}

static void tower_close(open_tower *tower) {
    model_free(&tower->model);
    image_processor_free(&tower->processor);
}

/** The case's config with another layer and selection; feature NULL: as recorded. */
static llava_status tower_open(verify_run *run, long layer, const char *feature, open_tower *tower,
                               llava_error *err) {
    const char *name = json_string_value(json_get(run->trace.root, "tower"));
    if (!name) return llava_fail(err, LLAVA_MALFORMED, "%s: tower is no text", run->trace.path);
    json_t *config = json_deep_copy(json_get(run->trace.root, "config"));
    if (!config) config = json_object();
    json_object_set_new(config, "mm_vision_tower", json_string(name));
    if (feature) {
        json_object_set_new(config, "mm_vision_select_layer", json_integer(layer));
        json_object_set_new(config, "mm_vision_select_feature", json_string(feature));
    }
    char *text = json_dumps(config, JSON_COMPACT);
    json_decref(config);
    if (!text) return llava_fail_memory(err, 256, "a configuration");
    if (is_hf(name)) name += strlen(HF_SCHEME);
    /* names with another scheme ("open_clip_hub:") are the loader's to refuse */
    const bool has_scheme = strchr(name, ':') != NULL;
    const tower_request request = {
        .directory = has_scheme ? name : path_join(run->memory, run->trace.reference, name),
        .config_json = text,
        .torch_dtype = run->dtype,
        .n_threads = run->options->n_threads,
        .cpu_level = run->options->cpu_level,
    };
    const llava_status status = load_tower_only(&request, &tower->model, &tower->processor, err);
    free(text);
    return status;
}

/* ---------------------------------------------------------------- pixels */

static llava_status process_picture(verify_run *run, const llava_image_processor *processor,
                                    const char *name, float *pixels, llava_error *err) {
    llava_image *image = NULL;
    vision_plan plan = {0};
    llava_status status = LLAVA_OK;
    LLAVA_TRY_DONE(verify_open_picture(run, name, &image, err));
    LLAVA_TRY_DONE(vision_plan_make(processor, image->width, image->height, 0, 1, &plan, err));
    if (plan.n_views != 1) {
        status = llava_fail(err, LLAVA_MALFORMED, "%s: a tower's picture is one view, not %lld",
                            run->trace.path, (long long)plan.n_views);
        goto done;
    }
    status =
        image_process(processor, &plan, (const llava_image *const *)&image, 1, pixels, NULL, err);
done:
    vision_plan_free(&plan);
    llava_image_free(&image);
    return status;
}

static llava_status make_pixels(verify_run *run, const llava_image_processor *processor,
                                float **pixels, int64_t *n, llava_error *err) {
    const json_t *images = trace_field(&run->trace, "images");
    const int64_t side = image_processor_view_size(processor), view = 3 * side * side;
    *n = (int64_t)json_array_size(images);
    *pixels = arena_array(run->memory, (size_t)(*n * view) + 1, sizeof **pixels);
    if (!*pixels) return llava_fail_memory(err, (size_t)(*n * view) * 4, "pixels");
    for (int64_t i = 0; i < *n; i++) {
        const char *name = json_string_value(json_array_get(images, (size_t)i));
        if (!name)
            return llava_fail(err, LLAVA_MALFORMED, "%s: images names no file", run->trace.path);
        LLAVA_TRY(process_picture(run, processor, name, *pixels + i * view, err));
    }
    tensor stored;
    LLAVA_TRY(trace_tensor(&run->trace, "pixel_values", &stored, err));
    const int64_t shape[4] = {*n, 3, side, side};
    if (!stored.data) return LLAVA_OK;
    if (!tensor_has_shape(&stored, 4, shape))
        return report_stage(run->report, "pixel_values", "shape", 1, 0, "%lld views of %lld",
                            (long long)*n, (long long)side);
    return report_stage(run->report, "pixel_values", "wrong values",
                        (double)count_differing(*pixels, stored.data, *n * view), 0, NULL);
}

/* ---------------------------------------------------------------- features */

static llava_status compare_features(verify_run *run, const open_tower *tower, const char *name,
                                     const float *pixels, int64_t n, llava_error *err) {
    int64_t tokens, width;
    model_tower_shape(tower->model, &tokens, &width);
    const size_t count = (size_t)(n * tokens * width);
    float *own = array_new(count + 1, sizeof *own);
    if (!own) return llava_fail_memory(err, count * sizeof *own, "features");
    llava_status status = model_run_tower(tower->model, pixels, n, own, err);
    const int64_t shape[3] = {n, tokens, width};
    if (status == LLAVA_OK) status = verify_tensor(run, name, own, 3, shape, false);
    free(own);
    return status;
}

/** "features.LAYER.SELECTION" */
static bool parse_selection(const char *name, long *layer, const char **feature) {
    if (strncmp(name, "features.", 9) != 0) return false;
    char *end;
    *layer = strtol(name + 9, &end, 10);
    if (end == name + 9 || *end != '.') return false;
    *feature = end + 1;
    return true;
}

static bool has_selections(const checkpoint *tensors) {
    long layer;
    const char *feature;
    for (size_t i = 0; i < checkpoint_count(tensors); i++)
        if (parse_selection(checkpoint_at(tensors, i)->name, &layer, &feature)) return true;
    return false;
}

static llava_status compare_selections(verify_run *run, const float *pixels, int64_t n,
                                       llava_error *err) {
    const checkpoint *tensors = run->trace.tensors;
    for (size_t i = 0; i < checkpoint_count(tensors); i++) {
        const char *name = checkpoint_at(tensors, i)->name, *feature;
        long layer;
        if (!parse_selection(name, &layer, &feature)) continue;
        open_tower tower = {0};
        llava_status status = tower_open(run, layer, feature, &tower, err);
        if (status == LLAVA_OK) status = compare_features(run, &tower, name, pixels, n, err);
        tower_close(&tower);
        LLAVA_TRY(status);
    }
    return LLAVA_OK;
}

llava_status verify_tower(verify_run *run, llava_error *err) {
    static const char *const inputs[] = {"tower", "config"};
    for (size_t i = 0; i < LLAVA_COUNT(inputs); i++) trace_mark(&run->trace, inputs[i]);
    if (is_hf(json_string_value(json_get(run->trace.root, "tower")))) {
        run->dtype = LLAVA_DTYPE_BF16;
        run->level = &verify_level_half;
    }
    open_tower tower = {0};
    float *pixels;
    int64_t n, tokens, width;
    llava_status status = LLAVA_OK;
    LLAVA_TRY_DONE(tower_open(run, 0, NULL, &tower, err));
    LLAVA_TRY_DONE(verify_processor_facts(run, "image_processor", tower.processor));
    model_tower_shape(tower.model, &tokens, &width);
    if (has_selections(run->trace.tensors))
        trace_mark(&run->trace, "hidden_size"); /* that of a selection: their shapes hold it */
    else
        LLAVA_TRY_DONE(verify_integer(run, "hidden_size", width));
    LLAVA_TRY_DONE(verify_integer(run, "num_patches_per_side", tower.processor->patches_per_side));
    LLAVA_TRY_DONE(make_pixels(run, tower.processor, &pixels, &n, err));
    LLAVA_TRY_DONE(compare_features(run, &tower, "features", pixels, n, err));
    const char *half = arena_printf(run->memory, "features.%s", dtype_name(run->dtype));
    if (half && trace_has_tensor(&run->trace, half))
        LLAVA_TRY_DONE(compare_features(run, &tower, half, pixels, n, err));
    status = compare_selections(run, pixels, n, err);
done:
    tower_close(&tower);
    return status;
}
