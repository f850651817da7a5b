/* SPDX-License-Identifier: Apache-2.0
 *
 * Maps of rows: pooling, interpolation as torch.nn.functional.interpolate computes it in float32
 * (torch 2.3, align_corners false, no antialias), and cutting pictures into patches.
 */
#include <math.h>

#include "device/cpu/cpu.h"

#define MAX_TAPS 4

/** Inputs of one output position along an axis. */
typedef struct taps {
    int64_t index[MAX_TAPS];
    float weight[MAX_TAPS];
    int count;
} taps;

static taps bilinear_taps(int64_t in, int64_t out, int64_t o) {
    const float ratio = (float)in / (float)out;
    const float source = fmaxf(ratio * ((float)o + 0.5f) - 0.5f, 0);
    const int64_t first = i64_min((int64_t)source, in - 1);
    const float second_weight = source - (float)first;
    return (taps){.index = {first, i64_min(first + 1, in - 1)},
                  .weight = {1 - second_weight, second_weight},
                  .count = 2};
}

/** Cubic convolution with a = -0.75: |t| <= 1, and 1 < |t| < 2. */
static float cubic_near(float t) { return (1.25f * t - 2.25f) * t * t + 1; }
static float cubic_far(float t) { return ((-0.75f * t + 3.75f) * t - 6.0f) * t + 3.0f; }

static taps bicubic_taps(int64_t in, int64_t out, int64_t o) {
    const float ratio = (float)in / (float)out;
    const float source = ratio * ((float)o + 0.5f) - 0.5f;
    const float base = floorf(source), t = source - base;
    taps result = {.weight = {cubic_far(t + 1), cubic_near(t), cubic_near(1 - t), cubic_far(2 - t)},
                   .count = 4};
    for (int64_t i = 0; i < 4; i++)
        result.index[i] = i64_max(0, i64_min((int64_t)base - 1 + i, in - 1));
    return result;
}

typedef struct map_job {
    const map_args *args;
} map_job;

static const float *input_row(const map_args *args, int64_t map, int64_t y, int64_t x) {
    return args->x + ((map * args->in_h + y) * args->in_w + x) * args->dim;
}

static float *output_row(const map_args *args, int64_t map, int64_t y, int64_t x) {
    return args->dst + ((map * args->out_h + y) * args->out_w + x) * args->dim;
}

/** Mean or maximum of the inputs [y0, y1) x [x0, x1). */
static void reduce_box(const map_args *args, int64_t map, const int64_t y[2], const int64_t x[2],
                       float *dst) {
    const bool maximum = args->op == MAP_MAX;
    bool first = true;
    for (int64_t i = y[0]; i < y[1]; i++)
        for (int64_t j = x[0]; j < x[1]; j++) {
            const float *src = input_row(args, map, i, j);
            if (first)
                memcpy(dst, src, (size_t)args->dim * sizeof *dst);
            else if (maximum)
                for (int64_t c = 0; c < args->dim; c++) {
                    const bool larger = src[c] > dst[c] || isnan(src[c]);
                    dst[c] = larger ? src[c] : dst[c];
                }
            else
                for (int64_t c = 0; c < args->dim; c++) dst[c] += src[c];
            first = false;
        }
    if (maximum) return;
    const float count = (float)((y[1] - y[0]) * (x[1] - x[0]));
    for (int64_t c = 0; c < args->dim; c++) dst[c] /= count;
}

static void bilinear_row(const map_args *args, int64_t map, const taps *ty, const taps *tx,
                         float *dst) {
    const float *v00 = input_row(args, map, ty->index[0], tx->index[0]);
    const float *v01 = input_row(args, map, ty->index[0], tx->index[1]);
    const float *v10 = input_row(args, map, ty->index[1], tx->index[0]);
    const float *v11 = input_row(args, map, ty->index[1], tx->index[1]);
    const float *wx = tx->weight, *wy = ty->weight;
    for (int64_t c = 0; c < args->dim; c++)
        dst[c] =
            wy[0] * (wx[0] * v00[c] + wx[1] * v01[c]) + wy[1] * (wx[0] * v10[c] + wx[1] * v11[c]);
}

static void bicubic_row(const map_args *args, int64_t map, const taps *ty, const taps *tx,
                        float *dst) {
    memset(dst, 0, (size_t)args->dim * sizeof *dst);
    for (int i = 0; i < 4; i++) {
        const float *v[4];
        for (int j = 0; j < 4; j++) v[j] = input_row(args, map, ty->index[i], tx->index[j]);
        const float *wx = tx->weight, wy = ty->weight[i];
        for (int64_t c = 0; c < args->dim; c++)
            dst[c] += wy * (wx[0] * v[0][c] + wx[1] * v[1][c] + wx[2] * v[2][c] + wx[3] * v[3][c]);
    }
}

/** First and last + 1 input of an adaptive average. */
static void area_range(int64_t in, int64_t out, int64_t o, int64_t range[2]) {
    range[0] = o * in / out;
    range[1] = ceil_div((o + 1) * in, out);
}

static void map_task(void *user, int64_t index) {
    const map_args *args = ((const map_job *)user)->args;
    const int64_t map = index / args->out_h, y = index % args->out_h;
    const bool cubic = args->op == MAP_BICUBIC;
    const taps ty = cubic ? bicubic_taps(args->in_h, args->out_h, y)
                          : bilinear_taps(args->in_h, args->out_h, y);
    for (int64_t x = 0; x < args->out_w; x++) {
        float *dst = output_row(args, map, y, x);
        const taps tx = cubic ? bicubic_taps(args->in_w, args->out_w, x)
                              : bilinear_taps(args->in_w, args->out_w, x);
        int64_t box_y[2] = {y * args->stride, (y + 1) * args->stride};
        int64_t box_x[2] = {x * args->stride, (x + 1) * args->stride};
        switch (args->op) {
        case MAP_BILINEAR: bilinear_row(args, map, &ty, &tx, dst); break;
        case MAP_BICUBIC: bicubic_row(args, map, &ty, &tx, dst); break;
        case MAP_AREA:
            area_range(args->in_h, args->out_h, y, box_y);
            area_range(args->in_w, args->out_w, x, box_x);
            reduce_box(args, map, box_y, box_x, dst);
            break;
        case MAP_AVERAGE:
        case MAP_MAX: reduce_box(args, map, box_y, box_x, dst); break;
        }
    }
}

void cpu_map(device *d, const map_args *args) {
    if (args->n_maps <= 0 || args->dim <= 0) return;
    map_job job = {args};
    parallel_for(cpu_threads_for(d, 16.0 * (double)(args->n_maps * args->out_h * args->out_w) *
                                        (double)args->dim),
                 args->n_maps * args->out_h, map_task, &job);
}

/* ---------------------------------------------------------------- patches */

typedef struct patch_job {
    float *dst;
    const float *pixels;
    int64_t size, patch, side;
} patch_job;

/** One row of patches of one picture. */
static void patch_task(void *user, int64_t index) {
    const patch_job *job = user;
    const int64_t patch = job->patch, picture = index / job->side, row = index % job->side;
    const size_t n_bytes = (size_t)patch * sizeof(float);
    float *dst = job->dst + index * job->side * 3 * patch * patch;
    for (int64_t column = 0; column < job->side; column++)
        for (int64_t channel = 0; channel < 3; channel++)
            for (int64_t y = 0; y < patch; y++, dst += patch) {
                const int64_t line = (picture * 3 + channel) * job->size + row * patch + y;
                memcpy(dst, job->pixels + line * job->size + column * patch, n_bytes);
            }
}

void cpu_patchify(device *d, float *dst, const float *pixels, int64_t n, int64_t size,
                  int64_t patch) {
    patch_job job = {dst, pixels, size, patch, size / patch};
    parallel_for(cpu_threads_for(d, 16.0 * (double)(n * size) * (double)size), n * job.side,
                 patch_task, &job);
}
