/* SPDX-License-Identifier: Apache-2.0
 *
 * Recorded calls on whole checkpoints: from config.json and the tower's files to the number of
 * rows and the pixels of each picture and video. The reference tiles several pictures in a prompt
 * like single ones, so plans are made for one picture each.
 */
#include <dirent.h>

#include "load/load.h"
#include "reference_images.h"

#define FRAMES_MAX 256

typedef struct trace {
    const json_t *root;
    llava_image_processor *processor;
} trace;

/** Its tower is named from the reference folder or lies inside the checkpoint. */
static llava_status read_tower(llava_config *config, const char *directory, arena *memory,
                               llava_error *err) {
    const char *name = config->mm.vision_tower;
    const char *tower = load_find_tower(memory, name, reference_folder(), directory);
    if (tower == NULL) return llava_fail(err, LLAVA_IO, "%s: no tower %s", directory, name);
    return config_read_tower(config, tower, err);
}

/** The processor of the checkpoint that the call names; paths start in the reference folder. */
static llava_status load_processor(const json_t *call, arena *memory, llava_image_processor **out,
                                   llava_error *err) {
    const json_t *overwrite = json_get(call, "overwrite_config");
    char *text = overwrite == NULL ? NULL : json_dumps(overwrite, 0);
    const char *folder = reference_folder();
    const config_request request = {
        .directory = path_join(memory, folder, json_string_value(json_get(call, "model_path"))),
        .model_name = json_string_value(json_get(call, "model_name")),
        .multimodal_keyword = true,
        .overwrite_config = text};
    llava_config *config = NULL;
    llava_status status = config_load(&request, &config, err);
    if (status == LLAVA_OK) status = read_tower(config, request.directory, memory, err);
    if (status == LLAVA_OK) status = image_processor_new(config, out, err);
    config_free(&config);
    free(text);
    return status;
}

static llava_status process_pictures(const trace *t, size_t index, bool video,
                                     const llava_image *const *images, size_t n_images,
                                     llava_error *err) {
    vision_plan plan;
    LLAVA_TRY(vision_plan_make(t->processor, images[0]->width, images[0]->height,
                               video ? (int64_t)n_images : 0, 1, &plan, err));
    const int64_t size = image_processor_view_size(t->processor);
    const size_t n = (size_t)(plan.n_views * 3 * size * size);
    float *pixels = malloc(n * sizeof *pixels);
    llava_status status = image_process(t->processor, &plan, images, n_images, pixels, NULL, err);
    const int64_t rows = int_at(json_get(t->root, "image_rows"), index);
    const uint32_t crc = (uint32_t)int_at(json_get(t->root, "pixel_values_crc32"), index);
    if (status == LLAVA_OK && plan.n_rows != rows)
        status = llava_fail(err, LLAVA_INTERNAL, "picture %zu: %lld rows, expected %lld", index,
                            (long long)plan.n_rows, (long long)rows);
    else if (status == LLAVA_OK && crc_of(pixels, n * sizeof *pixels) != crc)
        status = llava_fail(err, LLAVA_INTERNAL, "picture %zu: other pixels", index);
    free(pixels);
    vision_plan_free(&plan);
    return status;
}

/** `item` is a path, or the paths of a video's frames. */
static llava_status check_item(const trace *t, size_t index, const json_t *item, llava_error *err) {
    const size_t n = json_is_array(item) ? json_array_size(item) : 1;
    const char *modality =
        json_string_value(json_array_get(json_get(t->root, "modalities"), index));
    const bool video = modality != NULL && strcmp(modality, "video") == 0;
    llava_image *images[FRAMES_MAX] = {NULL};
    llava_status status = LLAVA_OK;
    if (n < 1 || n > FRAMES_MAX)
        return llava_fail(err, LLAVA_UNSUPPORTED, "a video of %zu frames", n);
    for (size_t i = 0; i < n && status == LLAVA_OK; i++) {
        char path[2048];
        const json_t *file = json_is_array(item) ? json_array_get(item, i) : item;
        snprintf(path, sizeof path, "%s/%s", reference_folder(), json_string_value(file));
        status = llava_image_open(path, &images[i], err);
    }
    if (status == LLAVA_OK)
        status = process_pictures(t, index, video, (const llava_image *const *)images, n, err);
    for (size_t i = 0; i < n; i++) llava_image_free(&images[i]);
    return status;
}

static void check_trace(reference_count *count, const char *name, const json_t *root) {
    const json_t *images = json_get(root, "images");
    trace t = {.root = root};
    if (json_array_size(images) == 0 || json_get(root, "pixel_values_crc32") == NULL) return;
    if (json_get(json_get(root, "call"), "model_base") != NULL) {
        reference_skip(count, name, "the config is made of two checkpoints");
        return;
    }
    arena *memory = arena_new();
    llava_error err;
    llava_status status = load_processor(json_get(root, "call"), memory, &t.processor, &err);
    size_t i;
    json_t *item;
    json_array_foreach(images, i, item) {
        if (status == LLAVA_OK) status = check_item(&t, i, item, &err);
    }
    if (status == LLAVA_OK)
        reference_pass(count);
    else
        reference_fail(count, name, "%s", err.message);
    image_processor_free(&t.processor);
    arena_free(&memory);
}

static void run_model(reference_count *count, const char *model) {
    char folder[1024];
    snprintf(folder, sizeof folder, "%s/traces/%s", reference_folder(), model);
    DIR *directory = opendir(folder);
    if (directory == NULL) return;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        const char *end = strrchr(entry->d_name, '.');
        char path[2048], name[1024];
        json_t *root = NULL;
        llava_error err;
        if (end == NULL || strcmp(end, ".json") != 0) continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        snprintf(name, sizeof name, "%s/%s", model, entry->d_name);
        if (json_read_file(path, &root, &err) != LLAVA_OK)
            reference_fail(count, name, "%s", err.message);
        else
            check_trace(count, name, root);
        json_decref(root);
    }
    closedir(directory);
}

bool run_traces(void) {
    char folder[1024];
    snprintf(folder, sizeof folder, "%s/traces", reference_folder());
    DIR *directory = opendir(folder);
    if (directory == NULL) {
        printf("traces: not there\n");
        return true;
    }
    reference_count count = {.folder = "traces (pictures)"};
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        if (entry->d_name[0] != '.') run_model(&count, entry->d_name);
    closedir(directory);
    return reference_close(&count);
}
