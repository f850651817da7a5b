/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows of a prompt's pictures. While the tower works on one picture, a thread of its own resizes
 * and cuts the next: where the tower is fast, the pictures' share of the time goes away.
 */
#include <stdlib.h>

#include "prompt.h"

/** A picture cut into views. */
typedef struct prepared_picture {
    const prompt_source *source;
    const prompt_picture *picture; /* NULL: none */
    float *pixels;                 /* [n_views, 3, side, side] */
    background work;
    llava_status status;
    llava_error err;
} prepared_picture;

static llava_status cut_views(prepared_picture *p, llava_error *err) {
    const prompt_picture *picture = p->picture;
    const size_t side = (size_t)image_processor_view_size(p->source->processor);
    size_t n_pixels;
    if (!size_mul((size_t)picture->plan.n_views, side * side * 3, &n_pixels))
        return llava_fail_memory(err, SIZE_MAX, "a picture");
    p->pixels = array_new(n_pixels, sizeof *p->pixels);
    if (!p->pixels) return llava_fail_memory(err, n_pixels * sizeof *p->pixels, "a picture");
    return image_process(p->source->processor, &picture->plan, picture->images, picture->n_images,
                         p->pixels, NULL, err);
}

static void prepare(void *user) {
    prepared_picture *p = user;
    p->status = cut_views(p, &p->err);
}

static llava_status encode_picture(const prompt_source *source, const prepared_picture *prepared,
                                   float **out, llava_error *err) {
    const vision_plan *plan = &prepared->picture->plan;
    if (prepared->status != LLAVA_OK) {
        if (err) *err = prepared->err;
        return prepared->status;
    }
    size_t n;
    if (!size_mul((size_t)plan->n_rows, (size_t)source->model->config->lm.hidden_size, &n))
        return llava_fail_memory(err, SIZE_MAX, "a picture");
    float *rows = array_new(n, sizeof *rows);
    if (!rows) return llava_fail_memory(err, n * sizeof *rows, "a picture");
    const llava_status status =
        model_encode_picture(source->model, plan, prepared->pixels, rows, NULL, err);
    if (status == LLAVA_OK)
        *out = rows;
    else
        free(rows);
    return status;
}

/** The first picture from i on whose rows the cache does not have. */
static prompt_picture *next_wanted(prompt *p, size_t i, int64_t n_cached) {
    for (; i < p->n_pictures; i++)
        if (p->pictures[i].first_row + p->pictures[i].plan.n_rows > n_cached)
            return &p->pictures[i];
    return NULL;
}

llava_status prompt_encode_pictures(const prompt_source *source, prompt *p, int64_t n_cached,
                                    llava_error *err) {
    llava_status status = LLAVA_OK;
    prepared_picture now = {.source = source, .picture = next_wanted(p, 0, n_cached)};
    if (now.picture) prepare(&now);
    while (now.picture) {
        const size_t i = (size_t)(now.picture - p->pictures);
        prepared_picture next = {.source = source, .picture = next_wanted(p, i + 1, n_cached)};
        if (now.status == LLAVA_OK && next.picture) background_begin(&next.work, prepare, &next);
        status = encode_picture(source, &now, &p->pictures[i].rows, err);
        free(now.pixels);
        background_end(&next.work);
        now = next;
        if (status == LLAVA_OK) continue;
        free(now.pixels);
        return llava_fail_prefix(err, status, "picture %zu: ", i);
    }
    for (size_t i = 0; i < p->n_pictures; i++) p->pictures[i].images = NULL;
    return LLAVA_OK;
}
