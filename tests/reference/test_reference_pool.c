/* SPDX-License-Identifier: Apache-2.0
 *
 * Pooling, bilinear and bicubic interpolation of every level against images/grid: get_2dPool of
 * the reference (pool.json) and resized position embeddings (position.json).
 */
#include <math.h>

#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "device/device.h"
#include "support/reference.h"

/** A float32 computation of the same formula stays within 4e-6 on values in [-1, 1]; token
 *  numbers up to 1457 stand in channel 0, at 3e-7 of their size. */
#define ABSOLUTE 4e-6
#define RELATIVE 3e-7

/** s(i) of the recorder: a number in [-1, 1) for every index. */
static float recorded_noise(int64_t i) {
    const uint64_t x = 1103515245u * (uint64_t)i + 12345;
    return (float)(x / 65536 % 4096) / 2048 - 1;
}

static const char *difference(const float *got, const checkpoint_tensor *t, int64_t count) {
    static char text[160];
    for (int64_t i = 0; i < count; i++) {
        float expected;
        memcpy(&expected, (const uint8_t *)t->t.data + 4 * i, 4);
        const double off = fabs((double)got[i] - (double)expected);
        if (off <= ABSOLUTE + RELATIVE * fabs((double)expected)) continue;
        snprintf(text, sizeof text, "value %lld is %.9g, expected %.9g", (long long)i,
                 (double)got[i], (double)expected);
        return text;
    }
    return NULL;
}

static int64_t member(const json_t *object, const char *key) {
    return json_integer_value(json_object_get(object, key));
}

/** Runs one map and compares; NULL when equal. */
static const char *run_map(device *d, const map_args *shape, const checkpoint_tensor *t) {
    map_args args = *shape;
    const int64_t count = args.n_maps * args.out_h * args.out_w * args.dim;
    if (!t || t->t.dtype != LLAVA_DTYPE_F32 || tensor_count(&t->t) != count)
        return "the recorded tensor is missing or of another shape";
    float *dst = array_new((size_t)count, sizeof *dst);
    if (!dst) return "out of memory";
    args.dst = dst;
    d->ops->map(d, &args);
    const char *mistake = difference(dst, t, count);
    free(dst);
    return mistake;
}

static bool map_op_of(const char *mode, map_op *op) {
    if (!mode) return false;
    if (strcmp(mode, "average") == 0)
        *op = MAP_AVERAGE;
    else if (strcmp(mode, "max") == 0)
        *op = MAP_MAX;
    else if (strcmp(mode, "bilinear") == 0)
        *op = MAP_BILINEAR;
    else
        return false;
    return true;
}

static void check_pool(reference_count *count, device *d, const json_t *c, int64_t frames,
                       const checkpoint *tensors) {
    const char *name = json_string_value(json_object_get(c, "tensor"));
    map_op op;
    const int64_t n = member(c, "n"), stride = member(c, "stride");
    if (!name || !map_op_of(json_string_value(json_object_get(c, "mode")), &op) || n < 1 ||
        stride < 1) {
        reference_fail(count, name ? name : "?", "the record cannot be read");
        return;
    }
    const int64_t side = op == MAP_BILINEAR ? ceil_div(n, stride) : n / stride;
    float *x = array_new((size_t)(frames * n * n), 2 * sizeof *x);
    if (!x) return;
    for (int64_t i = 0; i < frames * n * n; i++) {
        x[2 * i] = (float)i;
        x[2 * i + 1] = recorded_noise(i);
    }
    const map_args args = {op, x, NULL, frames, n, n, side, side, 2, stride};
    const char *mistake = run_map(d, &args, checkpoint_find(tensors, name));
    if (mistake)
        reference_fail(count, name, "level %s: %s", d->level, mistake);
    else
        reference_pass(count);
    free(x);
}

/** Position rows [1 + from^2, width]; the class row stays, the others are a map. */
static void check_position(reference_count *count, device *d, const json_t *c,
                           const checkpoint *tensors) {
    const char *name = json_string_value(json_array_get(json_object_get(c, "tensors"), 0));
    const int64_t from = member(c, "from"), to = member(c, "to"), width = member(c, "width");
    const checkpoint_tensor *t = name ? checkpoint_find(tensors, name) : NULL;
    if (!t || from < 1 || to < 1 || width < 1 || t->t.dtype != LLAVA_DTYPE_F32 ||
        tensor_count(&t->t) != (1 + to * to) * width) {
        reference_fail(count, name ? name : "?", "the record cannot be read");
        return;
    }
    float *x = array_new((size_t)((1 + from * from) * width), sizeof *x);
    if (!x) return;
    for (int64_t i = 0; i < (1 + from * from) * width; i++) x[i] = recorded_noise(i);
    checkpoint_tensor rest = *t;
    rest.t.data = (const uint8_t *)t->t.data + 4 * width;
    rest.t.n_dims = 1;
    rest.t.shape[0] = to * to * width;
    const map_args args = {MAP_BICUBIC, x + width, NULL, 1, from, from, to, to, width, 0};
    const char *mistake = run_map(d, &args, &rest);
    if (mistake)
        reference_fail(count, name, "level %s: %s", d->level, mistake);
    else
        reference_pass(count);
    free(x);
}

static bool run_file(const char *file, const checkpoint *tensors) {
    char path[2048];
    snprintf(path, sizeof path, "%s/images/grid/%s.json", reference_folder(), file);
    json_t *root = NULL;
    llava_error err;
    if (!path_is_file(path) || json_read_file(path, &root, &err)) {
        printf("%s: no readable %s.json\n", file, file);
        return true;
    }
    reference_count count = {.folder = file};
    const bool pools = strcmp(file, "pool") == 0;
    for (const char *const *level = device_cpu_levels(); *level; level++) {
        if (!device_cpu_level_available(*level)) continue;
        device *d;
        if (device_open_cpu(2, *level, &d, &err)) {
            reference_fail(&count, *level, "%s", err.message);
            continue;
        }
        size_t i;
        const json_t *c;
        json_array_foreach(json_object_get(root, "cases"), i, c) {
            if (pools)
                check_pool(&count, d, c, member(root, "frames"), tensors);
            else
                check_position(&count, d, c, tensors);
        }
        device_close(&d);
    }
    json_decref(root);
    return reference_close(&count);
}

int main(void) {
    char path[2048];
    snprintf(path, sizeof path, "%s/images/grid/grid.safetensors", reference_folder());
    checkpoint *tensors = NULL;
    llava_error err;
    if (!path_is_file(path)) {
        printf("pool: no images/grid/grid.safetensors\n");
        return 0;
    }
    if (checkpoint_open(path, &tensors, &err)) {
        printf("pool: FAILED %s\n", err.message);
        return 1;
    }
    const bool pool = run_file("pool", tensors), position = run_file("position", tensors);
    checkpoint_close(&tensors);
    return pool && position ? 0 : 1;
}
