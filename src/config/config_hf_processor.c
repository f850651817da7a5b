/* SPDX-License-Identifier: Apache-2.0
 *
 * Image and video processors of "-hf" checkpoints: preprocessor_config.json and its relatives up to
 * transformers 4.57, parts of processor_config.json from 5 on.
 */
#include <stdio.h>

#include "config_read.h"

/** Where a processor's object may lie: a file, or a member of a file. */
typedef struct processor_place {
    const char *file, *member;
} processor_place;

static const processor_place image_places[] = {{"processor_config.json", "image_processor"},
                                               {"preprocessor_config.json", NULL}};
static const processor_place video_places[] = {{"processor_config.json", "video_processor"},
                                               {"video_preprocessor_config.json", NULL},
                                               {"video_processor/preprocessor_config.json", NULL}};

/** The first of the places that exists, or NULL in *found; *where names it. */
static llava_status find_object(arena *memory, const char *directory, const processor_place *places,
                                size_t n_places, json_t **found, const char **where,
                                llava_error *err) {
    *found = NULL;
    for (size_t i = 0; directory && i < n_places && !*found; i++) {
        const char *path = path_join(memory, directory, places[i].file);
        json_t *root;
        if (!path) return llava_fail_memory(err, strlen(directory), "a path");
        if (!path_is_file(path)) continue;
        LLAVA_TRY(config_read_json(path, &root, err));
        const json_t *object = places[i].member ? json_get(root, places[i].member) : root;
        if (json_is_object(object)) *found = json_incref((json_t *)object);
        json_decref(root);
        *where = places[i].member ? arena_printf(memory, "%s: %s", path, places[i].member) : path;
        if (!*where) return llava_fail_memory(err, strlen(path), "a path");
    }
    return LLAVA_OK;
}

static bool starts_with(const char *text, const char *prefix) {
    return text && strncmp(text, prefix, strlen(prefix)) == 0;
}

/** Classes that resize to an exact size and do not crop. */
static bool resizes_exactly(const char *type, const llava_config *config) {
    if (!type) return config->tower.kind == TOWER_SIGLIP || config->mm.native == NATIVE_ONEVISION;
    return starts_with(type, "Siglip") || starts_with(type, "LlavaOnevision");
}

/** The object over the defaults of its class; `size` is the tower's, for files that name none. */
static llava_status parse(const llava_config *config, const json_t *object, const char *where,
                          processor_config *processor, llava_error *err) {
    const char *key =
        json_get(object, "video_processor_type") ? "video_processor_type" : "image_processor_type";
    const char *type = json_string_value(json_get(object, key));
    const bool exact = resizes_exactly(type, config);
    const bool half =
        exact && (type ? starts_with(type, "Siglip") : config->mm.native != NATIVE_ONEVISION);
    const int size = (int)config->tower.image_size;
    json_t *whole = exact ? json_pack("{s:b, s:{s:i, s:i}}", "do_center_crop", 0, "size", "height",
                                      size, "width", size)
                          : json_pack("{s:{s:i}, s:{s:i, s:i}}", "size", "shortest_edge", size,
                                      "crop_size", "height", size, "width", size);
    if (half)
        json_object_update_new(whole, json_pack("{s:[f,f,f], s:[f,f,f]}", "image_mean", 0.5, 0.5,
                                                0.5, "image_std", 0.5, 0.5, 0.5));
    const char *member;
    json_t *value;
    json_object_foreach((json_t *)object, member, value) {
        const bool crop = strcmp(member, "do_center_crop") == 0 && exact;
        if (whole && !json_is_null(value) && !crop) json_object_set(whole, member, value);
    }
    if (!whole) return llava_fail_memory(err, 0, "an image processor");
    llava_status status = config_parse_processor(whole, where, processor, err);
    json_decref(whole);
    processor->kind = config->tower.kind;
    return status;
}

static llava_status read_image_processor(llava_config *config, const char *directory,
                                         llava_error *err) {
    json_t *object;
    const char *where = "no file: the class's constants at the tower's size";
    LLAVA_TRY(find_object(config->memory, directory, image_places, LLAVA_COUNT(image_places),
                          &object, &where, err));
    const char *type = json_string_value(json_get(object, "image_processor_type"));
    llava_status status = parse(config, object, where, &config->processor, err);
    LLAVA_TRY_DONE(status);
    LLAVA_TRY_DONE(config_check_processor(config, &config->processor, where, err));
    if (config->mm.native == NATIVE_LLAVA && starts_with(type, "LlavaImageProcessor") &&
        json_is_true(json_get(object, "do_pad"))) {
        config->mm.aspect = ASPECT_PAD;
        snprintf(config->mm.aspect_text, sizeof config->mm.aspect_text, "pad");
    }
    status = config_note(config, "image processor", type ? type : "default", where, err);
done:
    json_decref(object);
    return status;
}

/** Without a file of their own, frames go through the image processor. */
static llava_status read_video_processor(llava_config *config, const char *directory,
                                         llava_error *err) {
    json_t *object = NULL;
    const char *where = "";
    config->video_processor = config->processor;
    if (config->mm.video_token < 0) return LLAVA_OK;
    LLAVA_TRY(find_object(config->memory, directory, video_places, LLAVA_COUNT(video_places),
                          &object, &where, err));
    if (!object) return LLAVA_OK;
    llava_status status = parse(config, object, where, &config->video_processor, err);
    LLAVA_TRY_DONE(status);
    LLAVA_TRY_DONE(config_check_processor(config, &config->video_processor, where, err));
    status = config_note(config, "video processor", "file", where, err);
done:
    json_decref(object);
    return status;
}

llava_status config_read_native_processors(llava_config *config, const char *directory,
                                           llava_error *err) {
    LLAVA_TRY(read_image_processor(config, directory, err));
    return read_video_processor(config, directory, err);
}
