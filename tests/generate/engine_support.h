/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of the engine share: recorded calls, the models they were made with, and prompts
 * as parts.
 */
#ifndef LLAVA_TEST_ENGINE_SUPPORT_H
#define LLAVA_TEST_ENGINE_SUPPORT_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/json.h"
#include "generate/generate.h"
#include "reference.h"
#include "text/text.h"

#define TRACE_PICTURES 64
#define TRACE_PARTS    256

/** A recorded call and its prompt. Zero-initialise. */
typedef struct trace {
    json_t *root;
    char name[256];
    bytes config; /* overwrite_config as text */
    llava_image *pictures[TRACE_PICTURES];
    size_t n_pictures;
    int32_t *ids;
    size_t n_ids;
    llava_part parts[TRACE_PARTS];
    size_t n_parts;
} trace;

static inline void trace_close(trace *t) {
    json_decref(t->root);
    bytes_free(&t->config);
    for (size_t i = 0; i < t->n_pictures; i++) llava_image_free(&t->pictures[i]);
    free(t->ids);
    *t = (trace){0};
}

static inline const char *trace_text(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

static inline size_t json_ids(const json_t *list, int32_t *out) {
    for (size_t i = 0; i < json_array_size(list); i++)
        out[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return json_array_size(list);
}

static inline llava_status trace_picture(trace *t, const json_t *name, llava_error *err) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", reference_folder(), json_string_value(name));
    if (t->n_pictures == TRACE_PICTURES)
        return llava_fail(err, LLAVA_UNSUPPORTED, "more than %d pictures", TRACE_PICTURES);
    LLAVA_TRY(llava_image_open(path, &t->pictures[t->n_pictures], err));
    t->n_pictures++;
    return LLAVA_OK;
}

/** One entry of `images`: a file name, or a list of them for a video. */
static inline llava_status trace_entry(trace *t, const json_t *entry, llava_error *err) {
    llava_part *part = &t->parts[t->n_parts++];
    *part = (llava_part){.kind = json_is_array(entry) ? LLAVA_PART_VIDEO : LLAVA_PART_IMAGE};
    part->images = (const llava_image *const *)&t->pictures[t->n_pictures];
    if (json_is_string(entry)) LLAVA_TRY(trace_picture(t, entry, err));
    for (size_t i = 0; i < json_array_size(entry); i++)
        LLAVA_TRY(trace_picture(t, json_array_get(entry, i), err));
    part->n_images = (size_t)(&t->pictures[t->n_pictures] - (llava_image **)part->images);
    return LLAVA_OK;
}

/** input_ids as parts: token lists with a picture for each -200. */
static inline llava_status trace_make_parts(trace *t, llava_error *err) {
    const json_t *list = json_object_get(t->root, "input_ids");
    const json_t *images = json_object_get(t->root, "images");
    t->ids = calloc(json_array_size(list) + 1, sizeof *t->ids);
    t->n_ids = json_ids(list, t->ids);
    size_t start = 0, n_images = 0;
    for (size_t i = 0; i <= t->n_ids; i++) {
        if (i < t->n_ids && t->ids[i] != IMAGE_TOKEN_INDEX) continue;
        if (t->n_parts + 2 > TRACE_PARTS)
            return llava_fail(err, LLAVA_UNSUPPORTED, "more than %d parts", TRACE_PARTS);
        if (i > start)
            t->parts[t->n_parts++] =
                (llava_part){.kind = LLAVA_PART_TOKENS, .ids = t->ids + start, .n_ids = i - start};
        if (i < t->n_ids) LLAVA_TRY(trace_entry(t, json_array_get(images, n_images++), err));
        start = i + 1;
    }
    return LLAVA_OK;
}

static inline llava_status trace_open(const char *path, trace *t, llava_error *err) {
    snprintf(t->name, sizeof t->name, "%s", path);
    LLAVA_TRY(json_read_file(path, &t->root, err));
    return trace_make_parts(t, err);
}

/** load_pretrained_model as in the recorded call, on one thread. */
static inline llava_status trace_load(trace *t, llava_loaded *loaded, llava_error *err) {
    const json_t *call = json_object_get(t->root, "call");
    const char *folder = reference_folder(), *base = trace_text(call, "model_base");
    const json_t *config = json_object_get(call, "overwrite_config");
    char path[4096], base_path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, trace_text(call, "model_path"));
    snprintf(base_path, sizeof base_path, "%s/%s", folder, base ? base : "");
    if (json_is_object(config)) {
        char *text = json_dumps(config, 0);
        bytes_puts(&t->config, text);
        free(text);
    }
    const llava_load_options options = {
        .model_path = path,
        .model_base = base ? base_path : NULL,
        .model_name = trace_text(call, "model_name"),
        .torch_dtype = LLAVA_DTYPE_F32,
        .overwrite_config = t->config.data,
        .working_directory = folder,
        .n_threads = 1,
    };
    return llava_load_pretrained_model(&options, loaded, err);
}

/** Calls visit for every traces/NAME/CASE.json, in the order of their names, until it says no. */
typedef bool (*trace_visitor)(void *user, const char *path);

static inline int is_visible(const struct dirent *entry) { return entry->d_name[0] != '.'; }

static inline bool trace_walk(trace_visitor visit, void *user) {
    char folder[2048];
    struct dirent **models = NULL;
    snprintf(folder, sizeof folder, "%s/traces", reference_folder());
    const int n_models = scandir(folder, &models, is_visible, alphasort);
    bool go_on = true;
    for (int m = 0; m < n_models; m++) {
        char inner[3072];
        struct dirent **cases = NULL;
        snprintf(inner, sizeof inner, "%s/%s", folder, models[m]->d_name);
        const int n_cases = go_on ? scandir(inner, &cases, is_visible, alphasort) : 0;
        for (int c = 0; c < n_cases; c++) {
            char path[4096];
            snprintf(path, sizeof path, "%s/%s", inner, cases[c]->d_name);
            const size_t size = strlen(path);
            if (go_on && size > 5 && strcmp(path + size - 5, ".json") == 0)
                go_on = visit(user, path);
            free(cases[c]);
        }
        free(cases);
        free(models[m]);
    }
    free(models);
    return n_models > 0;
}

#endif
