/* SPDX-License-Identifier: Apache-2.0
 *
 * process.json: whole preparations, from a picture to the tower's float pixels.
 */
#include "reference_images.h"

typedef struct prepared {
    float *pixels;
    uint8_t *u8;
    int64_t n_views, size;
} prepared;

static void prepared_free(prepared *p) {
    free(p->pixels);
    free(p->u8);
    *p = (prepared){0};
}

/** Adds the views of a picture (or, with n_frames, of a video) behind those already there. */
static llava_status prepare(const llava_image_processor *processor,
                            const llava_image *const *images, size_t n_frames, prepared *p,
                            llava_error *err) {
    vision_plan plan;
    LLAVA_TRY(vision_plan_make(processor, images[0]->width, images[0]->height, (int64_t)n_frames, 1,
                               &plan, err));
    p->size = image_processor_view_size(processor);
    const size_t n = (size_t)(3 * p->size * p->size), old = (size_t)p->n_views;
    const size_t all = old + (size_t)plan.n_views;
    p->pixels = realloc(p->pixels, all * n * sizeof *p->pixels);
    p->u8 = realloc(p->u8, all * n);
    p->n_views += plan.n_views;
    const llava_status status = image_process(processor, &plan, images, n_frames ? n_frames : 1,
                                              p->pixels + old * n, p->u8 + old * n, err);
    vision_plan_free(&plan);
    return status;
}

/** What differs from a record, or NULL. */
static const char *difference(const json_t *record, const prepared *p, const size2 *shape) {
    const size_t plane = (size_t)(shape->width * shape->height);
    const size_t n = (size_t)p->n_views * 3 * plane;
    const json_t *recorded = json_get(record, "shape");
    const size_t n_dims = json_array_size(recorded);
    int64_t views = 1;
    for (size_t i = 0; i + 3 < n_dims; i++) views *= int_at(recorded, i);
    if (views != p->n_views || int_at(recorded, n_dims - 2) != shape->height ||
        int_at(recorded, n_dims - 1) != shape->width)
        return "another shape";
    const json_t *whole = json_get(record, "u8_crc32");
    if (whole != NULL && !crc_matches(whole, crc_of(p->u8, n))) return "other bytes";
    size_t i;
    json_t *tile;
    json_array_foreach(json_get(record, "tiles_u8_crc32"), i,
                       tile) if (!crc_matches(tile, crc_of(p->u8 + i * 3 * plane,
                                                           3 * plane))) return "other tile bytes";
    return crc_matches(json_get(record, "crc32"), crc_of(p->pixels, n * sizeof *p->pixels))
               ? NULL
               : "other floats";
}

static void judge(reference_count *count, const char *name, llava_status status,
                  const llava_error *err, const char *mistake) {
    if (status != LLAVA_OK)
        reference_fail(count, name, "%s", err->message);
    else if (mistake != NULL)
        reference_fail(count, name, "%s", mistake);
    else
        reference_pass(count);
}

static llava_image *picture_of(const json_t *c, const json_t *size) {
    const char *file = json_string_value(json_get(c, "file"));
    if (file == NULL) return synth_image(int_at(size, 0), int_at(size, 1), 0);
    char path[2048];
    llava_image *image = NULL;
    return llava_image_open(images_path(file, path), &image, NULL) == LLAVA_OK ? image : NULL;
}

static void run_case(reference_count *count, const json_t *root, const json_t *c) {
    const char *mode_name = json_string_value(json_get(c, "mode"));
    const json_t *mode = json_get(json_get(root, "modes"), mode_name);
    const json_t *processor_json =
        json_get(json_get(root, "processors"), json_string_value(json_get(mode, "processor")));
    const json_t *size = json_get(c, "size");
    const char *file = json_string_value(json_get(c, "file"));
    char name[256];
    snprintf(name, sizeof name, "%s %s %lldx%lld", mode_name, file ? file : "synth",
             (long long)int_at(size, 0), (long long)int_at(size, 1));
    llava_error err;
    llava_image_processor *processor = NULL;
    llava_status status =
        processor_from_json(processor_json, json_get(mode, "config"), &processor, &err);
    if (json_get(c, "error") != NULL) {
        reference_skip(count, name, "the reference raises %s; here: %s",
                       json_string_value(json_get(c, "error")),
                       status == LLAVA_OK ? "accepted" : err.message);
        image_processor_free(&processor);
        return;
    }
    prepared p = {0};
    const char *mistake = NULL;
    llava_image *image = picture_of(c, size);
    if (image == NULL) mistake = "the picture cannot be decoded";
    if (status == LLAVA_OK && image != NULL) {
        status = prepare(processor, (const llava_image *const *)&image, 0, &p, &err);
        if (status == LLAVA_OK) mistake = difference(c, &p, &(size2){p.size, p.size});
    }
    judge(count, name, status, &err, mistake);
    prepared_free(&p);
    llava_image_free(&image);
    image_processor_free(&processor);
}

static void run_batch(reference_count *count, const json_t *root, const json_t *c) {
    const char *mode_name = json_string_value(json_get(c, "mode"));
    const json_t *mode = json_get(json_get(root, "modes"), mode_name);
    const json_t *processor_json =
        json_get(json_get(root, "processors"), json_string_value(json_get(mode, "processor")));
    const json_t *list = json_get(c, "list"), *size;
    llava_error err;
    llava_image_processor *processor = NULL;
    llava_status status =
        processor_from_json(processor_json, json_get(mode, "config"), &processor, &err);
    const char *mistake = NULL;
    prepared p = {0};
    size_t i;
    json_array_foreach(json_get(c, "sizes"), i, size) {
        if (status != LLAVA_OK) break;
        llava_image *image = synth_image(int_at(size, 0), int_at(size, 1), 0);
        status = prepare(processor, (const llava_image *const *)&image, 0, &p, &err);
        llava_image_free(&image);
        if (list == NULL || status != LLAVA_OK) continue;
        if (mistake == NULL)
            mistake = difference(json_array_get(list, i), &p, &(size2){p.size, p.size});
        prepared_free(&p);
    }
    if (list == NULL && status == LLAVA_OK) mistake = difference(c, &p, &(size2){p.size, p.size});
    judge(count, mode_name, status, &err, mistake);
    prepared_free(&p);
    image_processor_free(&processor);
}

static void run_frames(reference_count *count, const json_t *root, const json_t *c) {
    enum { FRAMES_MAX = 64 };
    const char *processor_name = json_string_value(json_get(c, "processor"));
    const json_t *processor_json = json_get(json_get(root, "processors"), processor_name);
    const json_t *size = json_get(c, "size");
    const int64_t n = json_integer_value(json_get(c, "frames"));
    const int64_t roll = json_integer_value(json_get(c, "roll_x"));
    json_t *mm = json_pack("{s:s}", "mm_spatial_pool_mode", "average");
    llava_error err;
    llava_image_processor *processor = NULL;
    llava_status status = processor_from_json(processor_json, mm, &processor, &err);
    json_decref(mm);
    const char *mistake =
        n < 1 || n > FRAMES_MAX ? "a number of frames this test cannot hold" : NULL;
    prepared p = {0};
    if (status == LLAVA_OK && mistake == NULL) {
        llava_image *frames[FRAMES_MAX] = {NULL};
        for (int64_t i = 0; i < n; i++)
            frames[i] = synth_image(int_at(size, 0), int_at(size, 1), roll * i);
        status = prepare(processor, (const llava_image *const *)frames, (size_t)n, &p, &err);
        if (status == LLAVA_OK) mistake = difference(c, &p, &(size2){p.size, p.size});
        for (int64_t i = 0; i < n; i++) llava_image_free(&frames[i]);
    }
    judge(count, processor_name, status, &err, mistake);
    prepared_free(&p);
    image_processor_free(&processor);
}

static void run_variant(reference_count *count, const json_t *c) {
    const json_t *size = json_get(c, "size");
    char *name = json_dumps(json_get(c, "preprocessor_config"), JSON_COMPACT | JSON_SORT_KEYS);
    llava_error err;
    processor_config config;
    size2 shape = {0, 0};
    const size2 picture = {int_at(size, 0), int_at(size, 1)};
    llava_image *image = synth_image(picture.width, picture.height, 0);
    prepared p = {.n_views = 1};
    llava_status status =
        config_parse_processor(json_get(c, "preprocessor_config"), "variant", &config, &err);
    if (status == LLAVA_OK) status = processor_output_size(&config, picture, &shape, &err);
    if (status == LLAVA_OK) {
        const size_t n = (size_t)(3 * shape.width * shape.height);
        p.pixels = malloc(n * sizeof *p.pixels);
        p.u8 = malloc(n);
        status = processor_apply(&config, image, p.pixels, p.u8, &err);
    }
    judge(count, name, status, &err, status == LLAVA_OK ? difference(c, &p, &shape) : NULL);
    prepared_free(&p);
    llava_image_free(&image);
    free(name);
}

bool run_process(void) {
    json_t *root = images_json("process/process.json");
    if (root == NULL) return true;
    reference_count count = {.folder = "images/process"};
    static const char *const sections[] = {"synth", "files", "full"};
    size_t i;
    json_t *c;
    for (size_t s = 0; s < LLAVA_COUNT(sections); s++)
        json_array_foreach(json_object_get(root, sections[s]), i, c) run_case(&count, root, c);
    json_array_foreach(json_object_get(root, "batches"), i, c) run_batch(&count, root, c);
    json_array_foreach(json_object_get(root, "frames"), i, c) run_frames(&count, root, c);
    json_array_foreach(json_object_get(root, "variants"), i, c) run_variant(&count, c);
    json_decref(root);
    return reference_close(&count);
}
