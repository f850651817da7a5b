/* SPDX-License-Identifier: Apache-2.0
 *
 * A whole question: picture to tiles, tower and projector, prompt up to the first token's logits,
 * then the answer.
 */
#include <stdlib.h>

#include "bench.h"
#include "model/model_internal.h"

#define PICTURE_WIDTH  1280
#define PICTURE_HEIGHT 720
#define FILE_LIMIT     ((size_t)1 << 30)

typedef enum question_part {
    PART_PICTURE, /* decode, resize, tiles */
    PART_VISION,  /* tower and projector */
    PART_PROMPT,
    PART_FIRST, /* all of the above */
    PART_ANSWER,
    PARTS
} question_part;

/** Gradients with some noise: nothing in the pipeline looks at the content. */
static llava_status make_picture(llava_image **image, llava_error *err) {
    LLAVA_TRY(image_new(PICTURE_WIDTH, PICTURE_HEIGHT, image, err));
    uint32_t state = 1;
    for (int64_t i = 0; i < PICTURE_WIDTH * (int64_t)PICTURE_HEIGHT; i++)
        for (int c = 0; c < 3; c++) {
            state = state * 1664525u + 1013904223u;
            (*image)->rgb[3 * i + c] =
                (uint8_t)((i % PICTURE_WIDTH / 8 + 60 * c + (state >> 28)) & 255);
        }
    return LLAVA_OK;
}

/** The file's bytes are read beforehand: what is timed is decoding. */
static llava_status open_picture(const bench *b, const bytes *file, llava_image **image,
                                 llava_error *err) {
    return b->picture ? llava_image_decode(file->data, file->size, image, err)
                      : make_picture(image, err);
}

typedef struct question_run {
    bytes file;
    llava_image *made; /* the made-up picture, which costs nothing */
    vision_plan plan;
    float *pixels, *rows;
    double ms[PARTS];
} question_run;

static llava_status plan_picture(bench *b, question_run *q, llava_error *err) {
    if (b->picture) LLAVA_TRY(file_read(b->picture, FILE_LIMIT, &q->file, err));
    LLAVA_TRY(open_picture(b, &q->file, &q->made, err));
    return vision_plan_make(b->processor, q->made->width, q->made->height, 0, 1, &q->plan, err);
}

static void question_free(question_run *q) {
    bytes_free(&q->file);
    llava_image_free(&q->made);
    vision_plan_free(&q->plan);
    free(q->pixels);
    free(q->rows);
}

llava_status bench_question_rows(bench *b, int64_t *n_rows, llava_error *err) {
    *n_rows = 0;
    if (!b->processor) return LLAVA_OK;
    question_run q = {0};
    const llava_status status = plan_picture(b, &q, err);
    if (status == LLAVA_OK) *n_rows = q.plan.n_rows + BENCH_TEXT_TOKENS;
    question_free(&q);
    return status;
}

static llava_status process_picture(bench *b, question_run *q, llava_error *err) {
    llava_image *decoded = NULL;
    if (b->picture) LLAVA_TRY(open_picture(b, &q->file, &decoded, err));
    const llava_image *image = decoded ? decoded : q->made;
    const llava_status status =
        image_process(b->processor, &q->plan, &image, 1, q->pixels, NULL, err);
    llava_image_free(&decoded);
    return status;
}

static llava_status ask(bench *b, void *user, llava_error *err) {
    question_run *q = user;
    const double start = limits_ms();
    LLAVA_TRY(process_picture(b, q, err));
    const double pictured = limits_ms();
    LLAVA_TRY(model_encode_picture(b->model, &q->plan, q->pixels, q->rows, NULL, err));
    const double seen = limits_ms();
    kv_sequence_truncate(&b->sequence, 0);
    LLAVA_TRY(bench_feed(b, q->rows, q->plan.n_rows, BENCH_TEXT_TOKENS, err));
    const double fed = limits_ms();
    for (int i = 0; i < BENCH_ANSWER; i++) LLAVA_TRY(bench_token(b, err));
    q->ms[PART_PICTURE] = pictured - start;
    q->ms[PART_VISION] = seen - pictured;
    q->ms[PART_PROMPT] = fed - seen;
    q->ms[PART_FIRST] = fed - start;
    q->ms[PART_ANSWER] = limits_ms() - fed;
    return LLAVA_OK;
}

static void report(bench *b, const question_run *q, double ms[PARTS][BENCH_MAX_REPEATS],
                   double arithmetic[], double reading[]) {
    const int64_t n = q->plan.n_rows + BENCH_TEXT_TOKENS;
    const double vision = bench_tower_work(b->model, q->plan.n_views);
    const double prompt = bench_prompt_work(b->model, n);
    double n_bytes = 0;
    for (int t = 0; t < BENCH_ANSWER; t++) n_bytes += bench_token_bytes(b->model, n + t + 1);
    const limit_kind kind = bench_arithmetic(b->model);
    const double views = (double)q->plan.n_views, rows = (double)n;
    const bench_subject parts[PARTS] = {
        {"question: picture", "tiles", q->plan.n_views, views, 0, kind, NULL, NULL},
        {"question: tower", "tiles", q->plan.n_views, views, vision, kind, NULL, NULL},
        {"question: prompt", "tokens", n, rows, prompt, kind, NULL, NULL},
        {"question: first token", "tokens", n, 1, vision + prompt, kind, NULL, NULL},
        {"question: answer", "context", n, BENCH_ANSWER, n_bytes, LIMIT_READ, NULL, NULL},
    };
    for (int p = 0; p < PARTS; p++) {
        double limits[BENCH_MAX_REPEATS];
        memcpy(limits, p == PART_ANSWER ? reading : arithmetic,
               (size_t)b->n_repeats * sizeof *limits);
        bench_add(b, &parts[p], ms[p], limits, b->n_repeats);
    }
}

static llava_status ask_all(bench *b, question_run *q, llava_error *err) {
    double ms[PARTS][BENCH_MAX_REPEATS], arithmetic[BENCH_MAX_REPEATS], reading[BENCH_MAX_REPEATS];
    const int n_threads = b->model->dev->n_threads;
    const limit_kind kind = bench_arithmetic(b->model);
    LLAVA_TRY(ask(b, q, err));
    for (int i = 0; i < b->n_repeats; i++) {
        const double before = limit_sample(kind, n_threads);
        const double read_before = limit_sample(LIMIT_READ, n_threads);
        LLAVA_TRY(ask(b, q, err));
        reading[i] = 0.5 * (read_before + limit_sample(LIMIT_READ, n_threads));
        arithmetic[i] = 0.5 * (before + limit_sample(kind, n_threads));
        for (int p = 0; p < PARTS; p++) ms[p][i] = q->ms[p];
    }
    report(b, q, ms, arithmetic, reading);
    return LLAVA_OK;
}

llava_status bench_question(bench *b, llava_error *err) {
    if (!b->processor) return LLAVA_OK;
    question_run q = {0};
    const size_t side = (size_t)image_processor_view_size(b->processor);
    llava_status status;
    LLAVA_TRY_DONE(plan_picture(b, &q, err));
    q.pixels = array_new((size_t)q.plan.n_views * side * side * 3, sizeof *q.pixels);
    q.rows = array_new((size_t)(q.plan.n_rows * b->model->config->lm.hidden_size), sizeof *q.rows);
    if (!q.pixels || !q.rows)
        status = llava_fail_memory(err, (size_t)q.plan.n_views * side * side * 12, "a picture");
    else
        status = ask_all(b, &q, err);
done:
    question_free(&q);
    return status;
}
