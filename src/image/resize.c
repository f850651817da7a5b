/* SPDX-License-Identifier: Apache-2.0
 *
 * Pillow's Image.resize for 8-bit RGB, bit for bit (Pillow 10.3, Resample.c and Geometry.c):
 * coefficients in double precision, rounded to 22-bit fixed point; a horizontal pass into 8 bits,
 * then a vertical one; each pass rounds and clips.
 */
#include <math.h>
#include <stdlib.h>

#include "image.h"
#include "resample.h"

/* ---------------------------------------------------------------- filters */

static double box_filter(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

static double bilinear_filter(double x) {
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double hamming_filter(double x) {
    x = fabs(x);
    if (x == 0.0) return 1.0;
    if (x >= 1.0) return 0.0;
    x = x * M_PI;
    return sin(x) / x * ((double)0.54f + (double)0.46f * cos(x));
}

static double bicubic_filter(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

static double sinc(double x) {
    if (x == 0.0) return 1.0;
    x = x * M_PI;
    return sin(x) / x;
}

static double lanczos_filter(double x) {
    return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0;
}

typedef struct filter_entry {
    double (*weight)(double x);
    double support;
} filter_entry;

static const filter_entry filters[] = {
    [FILTER_LANCZOS] = {lanczos_filter, 3.0}, [FILTER_BILINEAR] = {bilinear_filter, 1.0},
    [FILTER_BICUBIC] = {bicubic_filter, 2.0}, [FILTER_BOX] = {box_filter, 0.5},
    [FILTER_HAMMING] = {hamming_filter, 1.0},
};

/* ---------------------------------------------------------------- coefficients */

/* Weights of one axis, 8 bytes each: enough for sides of 32 million samples. */
#define AXIS_TAPS_MAX ((size_t)1 << 27)

static void split_taps(const resample_axis *axis, size_t index) {
    const int32_t *taps = axis->taps + index * axis->stride;
    int16_t *parts = axis->parts + index * axis->stride * 2;
    for (size_t k = 0; k < axis->stride; k++) {
        int16_t *group = parts + k / RESAMPLE_GROUP * 2 * RESAMPLE_GROUP + k % RESAMPLE_GROUP;
        group[0] = (int16_t)(taps[k] >> RESAMPLE_LOW);
        group[RESAMPLE_GROUP] = (int16_t)(taps[k] & ((1 << RESAMPLE_LOW) - 1));
    }
}

/** Weights of one output sample, normalised and rounded to fixed point. */
static void fill_taps(const filter_entry *filter, double center, double inverse, double *weights,
                      resample_span *span, int32_t *taps) {
    double sum = 0.0;
    for (int32_t k = 0; k < span->count; k++) {
        weights[k] = filter->weight((k + span->first - center + 0.5) * inverse);
        sum += weights[k];
    }
    for (int32_t k = 0; k < span->count; k++) {
        if (sum != 0.0) weights[k] /= sum;
        const double scaled = weights[k] * (1 << RESAMPLE_BITS);
        taps[k] = (int32_t)(weights[k] < 0 ? -0.5 + scaled : 0.5 + scaled);
    }
}

void resample_axis_free(resample_axis *axis) {
    free(axis->spans);
    free(axis->taps);
    free(axis->parts);
    *axis = (resample_axis){0};
}

llava_status resample_axis_make(const axis_request *r, resample_axis *axis, llava_error *err) {
    const filter_entry *f = &filters[r->filter];
    const double scale = (double)r->in / (double)r->out;
    const double filter_scale = scale < 1.0 ? 1.0 : scale;
    const double support = f->support * filter_scale;
    const double inverse = 1.0 / filter_scale;
    const size_t stride = (size_t)round_up((int64_t)ceil(support) * 2 + 1, RESAMPLE_GROUP);
    const size_t count = (size_t)r->count;
    if (stride > AXIS_TAPS_MAX / count)
        return llava_fail(err, LLAVA_OUT_OF_MEMORY,
                          "resize: from %lld to %lld samples takes more than %zu weights",
                          (long long)r->in, (long long)r->out, AXIS_TAPS_MAX);
    *axis = (resample_axis){.out = r->count, .stride = stride};
    axis->spans = array_new(count, sizeof *axis->spans);
    axis->taps = array_new(count * stride, sizeof *axis->taps);
    axis->parts = array_new(count * stride, 2 * sizeof *axis->parts);
    double *weights = array_new(stride, sizeof *weights);
    if (axis->spans == NULL || axis->taps == NULL || axis->parts == NULL || weights == NULL) {
        free(weights);
        resample_axis_free(axis);
        return llava_fail_memory(err, count * stride * sizeof(int32_t), "resize weights");
    }
    for (int64_t i = 0; i < r->count; i++) {
        const double center = ((double)(r->first + i) + 0.5) * scale;
        const int64_t low = i64_max(0, (int64_t)(center - support + 0.5));
        const int64_t high = i64_min(r->in, (int64_t)(center + support + 0.5));
        axis->spans[i] = (resample_span){.first = (int32_t)low, .count = (int32_t)(high - low)};
        fill_taps(f, center, inverse, weights, &axis->spans[i], axis->taps + (size_t)i * stride);
        split_taps(axis, (size_t)i);
    }
    free(weights);
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- passes */

typedef struct pass_job {
    const resample_axis *axis;
    const uint8_t *source; /* first byte of source row `source_row` */
    int64_t source_row;    /* vertical: taps count rows from the picture's top */
    int64_t source_width, target_width;
    int64_t n_rows; /* horizontal: rows of source; vertical: rows of target */
    uint8_t *target;
    /* horizontal: a padded copy of the last rows, whose reads may pass the picture's end */
    const uint8_t *tail;
    int64_t tail_row;
} pass_job;

#define ROWS_PER_TASK 16

static void horizontal_task(void *user, int64_t task) {
    const pass_job *job = user;
    const int64_t first = task * ROWS_PER_TASK;
    const int64_t end = i64_min(first + ROWS_PER_TASK, job->n_rows);
    for (int64_t y = first; y < end; y++) {
        const uint8_t *row = y >= job->tail_row
                                 ? job->tail + 3 * (y - job->tail_row) * job->source_width
                                 : job->source + 3 * y * job->source_width;
        resample_row(job->axis, row, job->target + 3 * y * job->target_width);
    }
}

static void vertical_task(void *user, int64_t task) {
    const pass_job *job = user;
    const int64_t first = task * ROWS_PER_TASK;
    const int64_t end = i64_min(first + ROWS_PER_TASK, job->n_rows);
    const size_t row_bytes = 3 * (size_t)job->source_width;
    for (int64_t y = first; y < end; y++) {
        const resample_span span = job->axis->spans[y];
        const uint8_t *rows = job->source + (size_t)(span.first - job->source_row) * row_bytes;
        resample_column(rows, row_bytes, job->axis->taps + (size_t)y * job->axis->stride,
                        span.count, job->target + (size_t)y * row_bytes);
    }
}

/** The window's columns of rows [row0, row1), resized. */
static llava_status horizontal_pass(const llava_image *image, int64_t row0, int64_t row1,
                                    const resize_request *r, uint8_t *target, llava_error *err) {
    const size_t row_bytes = 3 * (size_t)image->width;
    const axis_request columns = {.in = image->width,
                                  .out = r->width,
                                  .first = r->left,
                                  .count = r->window.width,
                                  .filter = r->filter};
    resample_axis axis;
    LLAVA_TRY(resample_axis_make(&columns, &axis, err));
    const int64_t n_rows = row1 - row0;
    const int64_t n_tail = i64_min(n_rows, 1 + RESAMPLE_PADDING / (int64_t)row_bytes);
    const size_t tail_bytes = (size_t)n_tail * row_bytes;
    uint8_t *tail = malloc(tail_bytes + RESAMPLE_PADDING);
    llava_status status = LLAVA_OK;
    if (tail == NULL) {
        status = llava_fail_memory(err, tail_bytes, "rows of pixels");
    } else {
        memcpy(tail, image->rgb + (size_t)(row1 - n_tail) * row_bytes, tail_bytes);
        memset(tail + tail_bytes, 0, RESAMPLE_PADDING);
        pass_job job = {.axis = &axis,
                        .source = image->rgb + (size_t)row0 * row_bytes,
                        .source_width = image->width,
                        .target_width = r->window.width,
                        .n_rows = n_rows,
                        .target = target,
                        .tail = tail,
                        .tail_row = n_rows - n_tail};
        parallel_for(r->n_threads, ceil_div(n_rows, ROWS_PER_TASK), horizontal_task, &job);
    }
    free(tail);
    resample_axis_free(&axis);
    return status;
}

/** The window's columns of rows [row0, row1): resized, or copied when the width stays. */
static llava_status window_columns(const llava_image *image, int64_t row0, int64_t row1,
                                   const resize_request *r, uint8_t *target, llava_error *err) {
    if (r->width != image->width) return horizontal_pass(image, row0, row1, r, target, err);
    const size_t n_bytes = 3 * (size_t)r->window.width;
    for (int64_t y = row0; y < row1; y++, target += n_bytes)
        memcpy(target, image->rgb + 3 * (y * image->width + r->left), n_bytes);
    return LLAVA_OK;
}

/** Both passes; the first one only over the rows that the second one reads. */
static llava_status resample(const llava_image *image, const resize_request *r, llava_image *out,
                             llava_error *err) {
    if (r->height == image->height)
        return window_columns(image, r->top, r->top + r->window.height, r, out->rgb, err);
    const axis_request rows = {.in = image->height,
                               .out = r->height,
                               .first = r->top,
                               .count = r->window.height,
                               .filter = r->filter};
    resample_axis axis;
    LLAVA_TRY(resample_axis_make(&rows, &axis, err));
    const resample_span last = axis.spans[r->window.height - 1];
    const int64_t row0 = axis.spans[0].first, row1 = last.first + last.count;
    llava_status status = LLAVA_OK;
    uint8_t *between = NULL;
    pass_job job = {.axis = &axis,
                    .source = image->rgb,
                    .source_width = r->window.width,
                    .n_rows = r->window.height,
                    .target = out->rgb};
    if (r->window.width != image->width || r->width != image->width) {
        const size_t n_bytes = 3 * (size_t)r->window.width * (size_t)(row1 - row0);
        between = malloc(n_bytes);
        status = between == NULL ? llava_fail_memory(err, n_bytes, "resized rows")
                                 : window_columns(image, row0, row1, r, between, err);
        job.source = between;
        job.source_row = row0;
    }
    if (status == LLAVA_OK)
        parallel_for(r->n_threads, ceil_div(job.n_rows, ROWS_PER_TASK), vertical_task, &job);
    free(between);
    resample_axis_free(&axis);
    return status;
}

/* ---------------------------------------------------------------- nearest */

/** Source index of each sample of the window: the walk of Pillow's ImagingScaleAffine, whose
 *  position is a running sum. */
static void nearest_indices(const axis_request *r, int64_t *indices) {
    const double step = (double)r->in / (double)r->out;
    double at = step * 0.5;
    for (int64_t i = 0; i < r->first + r->count; i++, at += step)
        if (i >= r->first) indices[i - r->first] = i64_min((int64_t)at, r->in - 1);
}

static llava_status nearest(const llava_image *image, const resize_request *r, llava_image *out,
                            llava_error *err) {
    int64_t *columns = array_new((size_t)(out->width + out->height), sizeof *columns);
    if (columns == NULL)
        return llava_fail_memory(err, (size_t)(out->width + out->height) * 8, "resize indices");
    int64_t *rows = columns + out->width;
    nearest_indices(
        &(axis_request){.in = image->width, .out = r->width, .first = r->left, .count = out->width},
        columns);
    nearest_indices(
        &(axis_request){
            .in = image->height, .out = r->height, .first = r->top, .count = out->height},
        rows);
    for (int64_t y = 0; y < out->height; y++) {
        const uint8_t *source = image->rgb + 3 * rows[y] * image->width;
        uint8_t *target = out->rgb + 3 * y * out->width;
        for (int64_t x = 0; x < out->width; x++) memcpy(target + 3 * x, source + 3 * columns[x], 3);
    }
    free(columns);
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- entry */

llava_status image_resize_window(const llava_image *image, const resize_request *r,
                                 llava_image **out, llava_error *err) {
    if (r->filter < FILTER_NEAREST || r->filter > FILTER_HAMMING)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "resize: filter %d, expected 0 to 5",
                          (int)r->filter);
    if (r->width <= 0 || r->height <= 0 || r->left < 0 || r->top < 0 ||
        r->window.width > r->width - r->left || r->window.height > r->height - r->top)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "resize: to %lld x %lld pixels",
                          (long long)r->width, (long long)r->height);
    llava_image *resized = NULL;
    LLAVA_TRY(image_new(r->window.width, r->window.height, &resized, err));
    const bool moves = r->width != image->width || r->height != image->height;
    const llava_status status = moves && r->filter == FILTER_NEAREST
                                    ? nearest(image, r, resized, err)
                                    : resample(image, r, resized, err);
    if (status != LLAVA_OK)
        llava_image_free(&resized);
    else
        *out = resized;
    return status;
}

llava_status image_resize(const llava_image *image, int64_t width, int64_t height,
                          image_filter filter, llava_image **out, llava_error *err) {
    const resize_request request = resize_to((size2){width, height}, filter, 1);
    return image_resize_window(image, &request, out, err);
}
