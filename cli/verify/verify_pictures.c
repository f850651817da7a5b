/* SPDX-License-Identifier: Apache-2.0
 *
 * From picture files to rows of the prompt: plan, pixels, tower, projector, pooling, packing.
 */
#include <stdlib.h>
#include <zlib.h>

#include "verify/verify.h"

void verify_pictures_free(verify_run *run) {
    for (size_t i = 0; i < run->n_pictures; i++) {
        verify_picture *picture = &run->pictures[i];
        for (size_t k = 0; k < picture->n_frames; k++) llava_image_free(&picture->frames[k]);
        vision_plan_free(&picture->plan);
        free(picture->pixels);
        free(picture->rows);
    }
    run->n_pictures = 0;
    free(run->embeddings);
    run->embeddings = NULL;
}

llava_status verify_open_picture(verify_run *run, const char *name, llava_image **image,
                                 llava_error *err) {
    const char *path = path_join(run->memory, run->trace.reference, name);
    if (!path) return llava_fail_memory(err, strlen(name), "a path");
    return llava_image_open(path, image, err);
}

/* ---------------------------------------------------------------- opening */

static const char *modality_of(verify_run *run, size_t i) {
    const json_t *modalities = json_get(run->trace.root, "modalities");
    const char *name = json_string_value(json_array_get(modalities, i));
    return name ? name : "image";
}

static llava_status open_frames(verify_run *run, verify_picture *picture, const json_t *entry,
                                llava_error *err) {
    const size_t n = json_is_array(entry) ? json_array_size(entry) : 1;
    picture->frames = arena_array(run->memory, n + 1, sizeof *picture->frames);
    if (!picture->frames) return llava_fail_memory(err, n * sizeof(void *), "frames");
    for (size_t k = 0; k < n; k++) {
        const char *name =
            json_string_value(json_is_array(entry) ? json_array_get(entry, k) : entry);
        if (!name)
            return llava_fail(err, LLAVA_MALFORMED, "%s: images names no file", run->trace.path);
        LLAVA_TRY(verify_open_picture(run, name, &picture->frames[k], err));
        picture->n_frames = k + 1;
    }
    if (n == 0)
        return llava_fail(err, LLAVA_MALFORMED, "%s: a video without frames", run->trace.path);
    return LLAVA_OK;
}

static llava_status open_pictures(verify_run *run, const json_t *images, llava_error *err) {
    const size_t n = json_array_size(images);
    if (n > VERIFY_MAX_PICTURES)
        return llava_fail(err, LLAVA_UNSUPPORTED, "%s has %zu pictures, at most %d are compared",
                          run->trace.path, n, VERIFY_MAX_PICTURES);
    for (size_t i = 0; i < n; i++) {
        verify_picture *picture = &run->pictures[run->n_pictures++];
        picture->is_video = strcmp(modality_of(run, i), "video") == 0;
        LLAVA_TRY(open_frames(run, picture, json_array_get(images, i), err));
    }
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- plans */

/** images x {width, height}, tiles, rows: whole lists, one stage each. */
static llava_status compare_plans(verify_run *run, llava_error *err) {
    int32_t tiles[VERIFY_MAX_PICTURES], rows[VERIFY_MAX_PICTURES];
    int n_wrong_sizes = 0;
    const json_t *sizes = trace_field(&run->trace, "image_sizes");
    for (size_t i = 0; i < run->n_pictures; i++) {
        const verify_picture *picture = &run->pictures[i];
        const json_t *size = json_array_get(sizes, i);
        n_wrong_sizes += json_integer_value(json_array_get(size, 0)) != picture->plan.width ||
                         json_integer_value(json_array_get(size, 1)) != picture->plan.height;
        tiles[i] = (int32_t)picture->plan.n_views;
        rows[i] = (int32_t)picture->plan.n_rows;
    }
    if (sizes)
        LLAVA_TRY(report_stage(run->report, "image_sizes", "wrong sizes", n_wrong_sizes, 0, NULL));
    const int32_t *recorded;
    size_t n_recorded;
    LLAVA_TRY(verify_id_array(run, "tiles", &recorded, &n_recorded, err));
    if (recorded) LLAVA_TRY(verify_ids(run, "tiles", tiles, run->n_pictures, recorded, n_recorded));
    LLAVA_TRY(verify_id_array(run, "image_rows", &recorded, &n_recorded, err));
    if (!recorded) return LLAVA_OK;
    return verify_ids(run, "image_rows", rows, run->n_pictures, recorded, n_recorded);
}

static llava_status make_pixels(verify_run *run, verify_picture *picture, llava_error *err) {
    const llava_image_processor *processor = run->loaded.image_processor;
    const llava_image *first = picture->frames[0];
    /* the reference never turns anyres into pad for several pictures: each is planned alone */
    LLAVA_TRY(vision_plan_make(processor, first->width, first->height,
                               picture->is_video ? (int64_t)picture->n_frames : 0, 1,
                               &picture->plan, err));
    const int64_t side = image_processor_view_size(processor);
    const size_t count = (size_t)(picture->plan.n_views * 3 * side * side);
    picture->pixels = array_new(count + 1, sizeof(float));
    if (!picture->pixels) return llava_fail_memory(err, count * sizeof(float), "pixels");
    return image_process(processor, &picture->plan, (const llava_image *const *)picture->frames,
                         picture->n_frames, picture->pixels, NULL, err);
}

/* ---------------------------------------------------------------- pixels */

/** A stored stack keeps all views, the first and the last, or the first alone. */
static llava_status compare_stored_pixels(verify_run *run, const char *stage, const tensor *stored,
                                          const verify_picture *picture) {
    const int64_t side = image_processor_view_size(run->loaded.image_processor);
    const int64_t view = 3 * side * side, n = picture->plan.n_views;
    const int64_t kept = stored->n_dims == 4 ? stored->shape[0] : 1;
    const int64_t shape[4] = {kept, 3, side, side};
    const bool whole =
        tensor_has_shape(stored, 4, shape) || (n == 1 && tensor_has_shape(stored, 3, shape + 1));
    if (!whole || (kept != n && kept > 2) || kept > n || kept < 1) {
        char text[96];
        return report_stage(run->report, stage, "shape", 1, 0, "recorded %s, computed %lld views",
                            tensor_shape_text(stored, text, sizeof text), (long long)n);
    }
    const float *recorded = stored->data;
    int64_t n_wrong;
    if (kept == n) {
        n_wrong = count_differing(picture->pixels, recorded, n * view);
    } else {
        n_wrong = count_differing(picture->pixels, recorded, view);
        if (kept == 2)
            n_wrong += count_differing(picture->pixels + (n - 1) * view, recorded + view, view);
    }
    return report_stage(run->report, stage, "wrong values", (double)n_wrong, 0, NULL);
}

static llava_status compare_crc(verify_run *run, size_t i) {
    const json_t *list = trace_field(&run->trace, "pixel_values_crc32");
    const json_t *recorded = json_array_get(list, i);
    if (!json_is_integer(recorded)) return LLAVA_OK;
    const verify_picture *picture = &run->pictures[i];
    const int64_t side = image_processor_view_size(run->loaded.image_processor);
    const size_t n_bytes = (size_t)(picture->plan.n_views * 3 * side * side) * sizeof(float);
    const unsigned long crc =
        crc32_z(crc32_z(0, NULL, 0), (const unsigned char *)picture->pixels, n_bytes);
    const bool same = (json_int_t)crc == json_integer_value(recorded);
    return report_stage(run->report, arena_printf(run->memory, "pixel_values_crc32.%zu", i),
                        "difference", !same, 0, NULL);
}

/** "CASE:tensor" names the same pixels in a case beside this one. */
static llava_status compare_other_case(verify_run *run, size_t i) {
    const char *path = arena_printf(run->memory, "pixel_values_in.%zu", i);
    if (!json_get(run->trace.root, "pixel_values_in")) return LLAVA_OK;
    const char *place = json_string_value(trace_field(&run->trace, path));
    const char *colon = place ? strchr(place, ':') : NULL;
    if (!colon) return LLAVA_OK;
    const char *slash = strrchr(run->trace.path, '/');
    const char *file = arena_printf(run->memory, "%.*s%.*s.safetensors",
                                    (int)(slash ? slash + 1 - run->trace.path : 0), run->trace.path,
                                    (int)(colon - place), place);
    if (!file) return LLAVA_OUT_OF_MEMORY;
    if (!path_is_file(file))
        return report_not_compared(run->report, path, "the case it names is not there");
    llava_error err = {0};
    checkpoint *other = NULL;
    if (checkpoint_open(file, &other, &err) != LLAVA_OK)
        return report_failed_call(run->report, path, &err);
    const checkpoint_tensor *found = checkpoint_find(other, colon + 1);
    llava_status status;
    if (!found || found->t.dtype != LLAVA_DTYPE_F32) {
        status = report_not_compared(run->report, path, "the case it names lacks the tensor");
    } else {
        tensor copy = found->t;
        void *data = arena_alloc(run->memory, copy.n_bytes + 1);
        if (data) memcpy(data, copy.data, copy.n_bytes);
        copy.data = data;
        status =
            data ? compare_stored_pixels(run, path, &copy, &run->pictures[i]) : LLAVA_OUT_OF_MEMORY;
    }
    checkpoint_close(&other);
    return status;
}

static llava_status compare_pixels(verify_run *run, size_t i, llava_error *err) {
    const char *name = arena_printf(run->memory, "pixel_values.%zu", i);
    tensor stored;
    LLAVA_TRY(trace_tensor(&run->trace, name, &stored, err));
    if (stored.data) LLAVA_TRY(compare_stored_pixels(run, name, &stored, &run->pictures[i]));
    LLAVA_TRY(compare_crc(run, i));
    return compare_other_case(run, i);
}

/* ---------------------------------------------------------------- features */

static llava_status compare_features(verify_run *run, size_t i, const vision_trace *own) {
    const llava_model *model = run->loaded.model;
    const vision_plan *plan = &run->pictures[i].plan;
    int64_t tokens, width;
    model_tower_shape(model, &tokens, &width);
    const int64_t hidden = run->info.hidden_size;
    const int64_t tower[3] = {plan->n_views, tokens, width};
    const int64_t projected[3] = {plan->n_views, model_projected_tokens(model), hidden};
    const int64_t pooled[3] = {plan->n_views, plan->pool_side * plan->pool_side, hidden};
    LLAVA_TRY(verify_tensor(run, arena_printf(run->memory, "tower_features.%zu", i),
                            own->tower_features, 3, tower, false));
    LLAVA_TRY(verify_tensor(run, arena_printf(run->memory, "projected.%zu", i), own->projected, 3,
                            projected, false));
    if (!own->pooled) return LLAVA_OK;
    return verify_tensor(run, arena_printf(run->memory, "pooled.%zu", i), own->pooled, 3, pooled,
                         false);
}

static llava_status encode_picture(verify_run *run, size_t i, llava_error *err) {
    const llava_model *model = run->loaded.model;
    verify_picture *picture = &run->pictures[i];
    const vision_plan *plan = &picture->plan;
    int64_t tokens, width;
    model_tower_shape(model, &tokens, &width);
    const size_t views = (size_t)plan->n_views, hidden = (size_t)run->info.hidden_size;
    const size_t n_tower = views * (size_t)(tokens * width);
    const size_t n_projected = views * (size_t)model_projected_tokens(model) * hidden;
    const size_t n_pooled = views * (size_t)(plan->pool_side * plan->pool_side) * hidden;
    vision_trace own = {
        .tower_features = array_new(n_tower + 1, sizeof(float)),
        .projected = array_new(n_projected + 1, sizeof(float)),
        .pooled = plan->pool_side ? array_new(n_pooled + 1, sizeof(float)) : NULL,
    };
    picture->rows = array_new((size_t)plan->n_rows * hidden + 1, sizeof(float));
    llava_status status;
    if (!own.tower_features || !own.projected || !picture->rows || (plan->pool_side && !own.pooled))
        status = llava_fail_memory(err, n_tower * sizeof(float), "features");
    else
        status = model_encode_picture(model, plan, picture->pixels, picture->rows, &own, err);
    if (status == LLAVA_OK) status = compare_features(run, i, &own);
    free(own.tower_features);
    free(own.projected);
    free(own.pooled);
    return status;
}

static llava_status compare_newline(verify_run *run, llava_error *err) {
    const weight *newline = &run->loaded.model->image_newline;
    if (!weight_exists(newline)) return LLAVA_OK; /* a recorded one is then listed */
    float *row = arena_array(run->memory, (size_t)newline->n_cols, sizeof *row);
    if (!row) return llava_fail_memory(err, (size_t)newline->n_cols * sizeof *row, "a row");
    tensor_cast(row, LLAVA_DTYPE_F32, newline->data, newline->dtype, (size_t)newline->n_cols);
    return verify_tensor(run, "image_newline", row, 1, &newline->n_cols, false);
}

llava_status verify_pictures(verify_run *run, llava_error *err) {
    if (!run->loaded.image_processor) return LLAVA_OK;
    trace_mark(&run->trace, "modalities");
    const json_t *images = trace_field(&run->trace, "images");
    LLAVA_TRY(compare_newline(run, err));
    if (!images) return LLAVA_OK;
    LLAVA_TRY(open_pictures(run, images, err));
    for (size_t i = 0; i < run->n_pictures; i++)
        LLAVA_TRY(make_pixels(run, &run->pictures[i], err));
    LLAVA_TRY(compare_plans(run, err));
    for (size_t i = 0; i < run->n_pictures; i++) LLAVA_TRY(compare_pixels(run, i, err));
    for (size_t i = 0; i < run->n_pictures; i++) LLAVA_TRY(encode_picture(run, i, err));
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- splicing */

static llava_status count_rows(verify_run *run, int64_t *n_rows, llava_error *err) {
    size_t next = 0;
    *n_rows = 0;
    for (size_t i = 0; i < run->prompt.count; i++) {
        if (run->prompt.data[i] != IMAGE_TOKEN_INDEX) {
            *n_rows += 1;
        } else if (next < run->n_pictures) {
            *n_rows += run->pictures[next++].plan.n_rows;
        } else {
            return llava_fail(err, LLAVA_MALFORMED,
                              "%s: the prompt has more placeholders than pictures",
                              run->trace.path);
        }
    }
    return LLAVA_OK;
}

static llava_status splice(verify_run *run, int64_t n_rows, llava_error *err) {
    const int64_t hidden = run->info.hidden_size;
    run->embeddings = array_new((size_t)(n_rows * hidden) + 1, sizeof(float));
    if (!run->embeddings) return llava_fail_memory(err, (size_t)(n_rows * hidden) * 4, "rows");
    float *at = run->embeddings;
    size_t next = 0;
    for (size_t i = 0; i < run->prompt.count; i++) {
        const int32_t *id = &run->prompt.data[i];
        int64_t n = 1;
        if (*id == IMAGE_TOKEN_INDEX) {
            const verify_picture *picture = &run->pictures[next++];
            n = picture->plan.n_rows;
            memcpy(at, picture->rows, (size_t)(n * hidden) * sizeof *at);
        } else {
            LLAVA_TRY(model_embed_tokens(run->loaded.model, id, 1, at, err));
        }
        at += n * hidden;
    }
    run->n_rows = n_rows;
    return LLAVA_OK;
}

llava_status verify_splice(verify_run *run, llava_error *err) {
    int64_t n_rows;
    LLAVA_TRY(count_rows(run, &n_rows, err));
    if (n_rows == 0)
        return llava_fail(err, LLAVA_MALFORMED, "%s: the prompt is empty", run->trace.path);
    LLAVA_TRY(splice(run, n_rows, err));
    const int64_t limit = run->loaded.model->config->mm.tokenizer_model_max_length;
    run->cut_off = run->loaded.image_processor && limit > 0 && run->n_rows > limit;
    if (run->cut_off) run->n_rows = limit;
    LLAVA_TRY(verify_integer(run, "prompt_rows", run->n_rows));
    const int64_t shape[2] = {run->n_rows, run->info.hidden_size};
    return verify_tensor(run, "inputs_embeds", run->embeddings, 2, shape, false);
}
