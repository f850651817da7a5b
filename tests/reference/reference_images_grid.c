/* SPDX-License-Identifier: Apache-2.0
 *
 * grid/: choice of the canvas, and what replaces one placeholder, on features that are numbers:
 * row i of the features has channel 0 = i and channel 1 = s(i).
 */
#include <math.h>

#include "checkpoint/checkpoint.h"
#include "reference_images.h"

/* Stated by the recorded data's README for float32 computations of the same formula. */
#define RESAMPLED_TOLERANCE 4e-6
#define POOLED_TOLERANCE    1e-6 /* relative, of values up to the number of features */

static float stub_feature(int64_t i, int channel) {
    if (channel == 0) return (float)i;
    const uint64_t s = (1103515245u * (uint64_t)i + 12345) / 65536 % 4096;
    return (float)s / 2048.0f - 1.0f;
}

/* ---------------------------------------------------------------- maps in plain C */

typedef struct map2 {
    const float *data; /* [h, w] */
    int64_t h, w;
} map2;

static void bilinear_taps(int64_t in, int64_t out, int64_t o, int64_t at[2], float lambda[2]) {
    const float ratio = (float)in / (float)out;
    float source = ratio * ((float)o + 0.5f) - 0.5f;
    if (source < 0) source = 0;
    at[0] = (int64_t)source;
    at[1] = at[0] + (at[0] < in - 1);
    lambda[1] = source - (float)at[0];
    lambda[0] = 1.0f - lambda[1];
}

static float bilinear_at(map2 m, int64_t out_h, int64_t out_w, int64_t y, int64_t x) {
    int64_t ys[2], xs[2];
    float ly[2], lx[2];
    bilinear_taps(m.h, out_h, y, ys, ly);
    bilinear_taps(m.w, out_w, x, xs, lx);
    const float *top = m.data + ys[0] * m.w, *bottom = m.data + ys[1] * m.w;
    return ly[0] * (lx[0] * top[xs[0]] + lx[1] * top[xs[1]]) +
           ly[1] * (lx[0] * bottom[xs[0]] + lx[1] * bottom[xs[1]]);
}

static float block_at(map2 m, pool_mode mode, int64_t stride, int64_t y, int64_t x) {
    float sum = 0, largest = -INFINITY;
    for (int64_t i = 0; i < stride; i++)
        for (int64_t j = 0; j < stride; j++) {
            const float v = m.data[(y * stride + i) * m.w + x * stride + j];
            sum += v;
            largest = fmaxf(largest, v);
        }
    return mode == POOL_MAX ? largest : sum / (float)(stride * stride);
}

/** The feature rows that plan->rows points into, one channel. */
static float *picture_features(const llava_image_processor *p, const vision_plan *plan,
                               int channel) {
    const int64_t n = vision_plan_feature_rows(p, plan), side = plan->side;
    float *rows = malloc((size_t)n * sizeof *rows);
    if (!plan->resampled && !plan->max_pooled) {
        for (int64_t i = 0; i < n; i++) rows[i] = stub_feature(i, channel);
        return rows;
    }
    const int64_t h = plan->row1 - plan->row0, w = plan->col1 - plan->col0;
    float *map = malloc((size_t)(h * w) * sizeof *map);
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++) {
            const int64_t my = y + plan->row0, mx = x + plan->col0;
            const int64_t view = 1 + my / side * plan->grid_w + mx / side;
            map[y * w + x] =
                stub_feature(view * side * side + my % side * side + mx % side, channel);
        }
    const map2 m = {map, h, w};
    for (int64_t i = 0; i < side * side; i++) rows[i] = stub_feature(i, channel);
    for (int64_t i = 0; i < plan->out_h * plan->out_w; i++)
        rows[side * side + i] =
            plan->max_pooled
                ? block_at(m, POOL_MAX, 2, i / plan->out_w, i % plan->out_w)
                : bilinear_at(m, plan->out_h, plan->out_w, i / plan->out_w, i % plan->out_w);
    free(map);
    return rows;
}

static float *video_features(const llava_image_processor *p, const vision_plan *plan, int channel) {
    const int64_t side = plan->side, out = plan->pool_side;
    float *rows = malloc((size_t)vision_plan_feature_rows(p, plan) * sizeof *rows);
    float *map = malloc((size_t)(side * side) * sizeof *map);
    for (int64_t f = 0; f < plan->n_views; f++) {
        for (int64_t i = 0; i < side * side; i++)
            map[i] = stub_feature(f * side * side + i, channel);
        const map2 m = {map, side, side};
        for (int64_t i = 0; i < out * out; i++)
            rows[f * out * out + i] =
                p->mm.pool == POOL_BILINEAR
                    ? bilinear_at(m, out, out, i / out, i % out)
                    : block_at(m, p->mm.pool, p->mm.pool_stride, i / out, i % out);
    }
    free(map);
    return rows;
}

static float packed_at(const vision_plan *plan, const float *features, int64_t row) {
    const int32_t index = plan->rows[row];
    return index == ROW_NEWLINE ? -1.0f : features[index];
}

static uint32_t layout_crc(const vision_plan *plan, const float *features) {
    int32_t *layout = malloc(((size_t)plan->n_rows + 1) * sizeof *layout);
    for (int64_t i = 0; i < plan->n_rows; i++) layout[i] = (int32_t)packed_at(plan, features, i);
    const uint32_t crc = crc_of(layout, (size_t)plan->n_rows * sizeof *layout);
    free(layout);
    return crc;
}

/* ---------------------------------------------------------------- processors */

/** A CLIP processor of tiles of p pixels and n x n patches, with `keys` as config.json. */
static llava_status grid_processor(int64_t p, int64_t n, const json_t *keys,
                                   const json_t *pinpoints, llava_image_processor **out,
                                   llava_error *err) {
    json_t *mm = json_copy((json_t *)(uintptr_t)keys);
    if (pinpoints != NULL)
        json_object_set(mm, "image_grid_pinpoints", (json_t *)(uintptr_t)pinpoints);
    json_t *size = json_pack("{s:I, s:I}", "size", (json_int_t)p, "crop_size", (json_int_t)p);
    const llava_status status = processor_from_json(size, mm, out, err);
    json_decref(size);
    json_decref(mm);
    if (status == LLAVA_OK && (*out)->patches_per_side != n) {
        image_processor_free(out);
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "%lld pixels do not give %lld patches",
                          (long long)p, (long long)n);
    }
    return status;
}

/* ---------------------------------------------------------------- select.json */

static bool same_list(const llava_image_processor *p, const json_t *list) {
    if (json_array_size(list) != p->n_pinpoints) return false;
    for (size_t i = 0; i < p->n_pinpoints; i++) {
        const json_t *pair = json_array_get(list, i);
        if (int_at(pair, 0) != p->pinpoints[i].width || int_at(pair, 1) != p->pinpoints[i].height)
            return false;
    }
    return true;
}

static void check_selection(reference_count *count, const char *set, const json_t *root,
                            size_t column) {
    const json_t *pinpoints = json_get(json_get(root, "pinpoints"), set);
    const int64_t p = json_integer_value(json_get(pinpoints, "p"));
    json_t *keys = json_pack("{s:s}", "image_aspect_ratio", "anyres");
    llava_image_processor *processor = NULL;
    llava_error err;
    if (grid_processor(p, p / 14, keys, json_get(pinpoints, "value"), &processor, &err)) {
        reference_fail(count, set, "%s", err.message);
        json_decref(keys);
        return;
    }
    json_decref(keys);
    if (same_list(processor, json_get(pinpoints, "list")))
        reference_pass(count);
    else
        reference_fail(count, set, "the pinpoints differ from the recorded list");
    size_t i;
    json_t *row;
    json_array_foreach(json_get(root, "rows"), i, row) {
        const size2 picture = {int_at(row, 0), int_at(row, 1)};
        const json_t *entry = json_array_get(row, column);
        const size2 best =
            select_best_resolution(picture, processor->pinpoints, processor->n_pinpoints);
        vision_plan plan;
        const bool planned = vision_plan_make(processor, picture.width, picture.height, 0, 1, &plan,
                                              &err) == LLAVA_OK;
        if (planned && best.width == int_at(entry, 0) && best.height == int_at(entry, 1) &&
            plan.best.width == best.width && plan.best.height == best.height &&
            plan.grid_w == int_at(entry, 2) && plan.grid_h == int_at(entry, 3))
            reference_pass(count);
        else
            reference_fail(count, set, "%lld x %lld: canvas %lld x %lld", (long long)picture.width,
                           (long long)picture.height, (long long)best.width,
                           (long long)best.height);
        vision_plan_free(&plan);
    }
    image_processor_free(&processor);
}

static bool run_select(json_t *select) {
    reference_count count = {.folder = "images/grid/select"};
    const json_t *columns = json_get(select, "columns");
    for (size_t i = 2; i < json_array_size(columns); i++)
        check_selection(&count, json_string_value(json_array_get(columns, i)), select, i);
    return reference_close(&count);
}

/* ---------------------------------------------------------------- pack.json */

static const char *resampled_mistake(const llava_image_processor *p, const vision_plan *plan,
                                     const json_t *check) {
    if (!plan->resampled) return "not scaled down";
    float *features = picture_features(p, plan, 1);
    const char *mistake = NULL;
    const int64_t n = (int64_t)json_array_size(check);
    for (int64_t k = 0; k < n; k++) {
        const int64_t row = k * (plan->n_rows - 1) / (n - 1);
        const double recorded = json_number_value(json_array_get(check, (size_t)k));
        if (fabs((double)packed_at(plan, features, row) - recorded) > RESAMPLED_TOLERANCE)
            mistake = "other values after scaling";
    }
    free(features);
    return mistake;
}

/** row: w, h, grid_w, grid_h, row0, row1, col0, col1, tokens, kind, check */
static const char *packing_mistake(const llava_image_processor *p, const vision_plan *plan,
                                   const json_t *row) {
    if (plan->grid_w != int_at(row, 2) || plan->grid_h != int_at(row, 3)) return "another grid";
    const bool unpads = p->mm.merge_spatial && p->mm.merge_unpad && !p->mm.merge_maxpool;
    const bool empty = plan->row0 == plan->row1 || plan->col0 == plan->col1; /* recorded as 0 */
    if (unpads && empty && (int_at(row, 5) != 0 || int_at(row, 7) != 0))
        return "unpadding keeps nothing";
    if (unpads && !empty &&
        (plan->row0 != int_at(row, 4) || plan->row1 != int_at(row, 5) ||
         plan->col0 != int_at(row, 6) || plan->col1 != int_at(row, 7)))
        return "unpadding keeps another range";
    if (plan->n_rows != int_at(row, 8)) return "another number of tokens";
    int64_t counted;
    llava_error err;
    if (llava_count_visual_tokens(p, plan->width, plan->height, 1, &counted, &err) != LLAVA_OK ||
        counted != plan->n_rows)
        return "llava_count_visual_tokens disagrees with the plan";
    const json_t *check = json_array_get(row, 10);
    if (strcmp(json_string_value(json_array_get(row, 9)), "layout") != 0)
        return resampled_mistake(p, plan, check);
    float *features = picture_features(p, plan, 0);
    const bool same = crc_matches(check, layout_crc(plan, features));
    free(features);
    return same ? NULL : "another layout";
}

/** A tensor [tokens, 2] against the packed features. */
static const char *tensor_mistake(const checkpoint *c, const char *name, const vision_plan *plan,
                                  float *const features[2], double tolerance) {
    const checkpoint_tensor *t = c == NULL ? NULL : checkpoint_find(c, name);
    if (t == NULL) return "the recorded tensor is missing";
    if (t->t.dtype != LLAVA_DTYPE_F32 || tensor_count(&t->t) != 2 * plan->n_rows)
        return "the recorded tensor has another shape";
    for (int64_t i = 0; i < 2 * plan->n_rows; i++) {
        float recorded;
        memcpy(&recorded, (const char *)t->t.data + i * 4, 4);
        const double got = (double)packed_at(plan, features[i % 2], i / 2);
        if (fabs(got - (double)recorded) > tolerance * fmax(1, fabs((double)recorded)))
            return "other values";
    }
    return NULL;
}

static bool is_full(const json_t *setting, int64_t w, int64_t h) {
    size_t i;
    json_t *size;
    json_array_foreach(json_get(setting, "full"), i,
                       size) if (int_at(size, 0) == w && int_at(size, 1) == h) return true;
    return false;
}

static const char *full_mistake(const llava_image_processor *p, const vision_plan *plan,
                                const checkpoint *tensors, const char *setting) {
    char name[256];
    snprintf(name, sizeof name, "%s.%lldx%lld", setting, (long long)plan->width,
             (long long)plan->height);
    float *features[2] = {picture_features(p, plan, 0), picture_features(p, plan, 1)};
    const char *mistake = tensor_mistake(tensors, name, plan, features, RESAMPLED_TOLERANCE);
    free(features[0]);
    free(features[1]);
    return mistake;
}

static void check_packing(reference_count *count, const char *name, const json_t *setting,
                          const json_t *select, const checkpoint *tensors) {
    const json_t *pinpoints =
        json_get(json_get(select, "pinpoints"), json_string_value(json_get(setting, "pinpoints")));
    llava_image_processor *processor = NULL;
    llava_error err;
    if (grid_processor(json_integer_value(json_get(pinpoints, "p")),
                       json_integer_value(json_get(setting, "n")), json_get(setting, "config"),
                       json_get(pinpoints, "value"), &processor, &err) != LLAVA_OK) {
        reference_fail(count, name, "%s", err.message);
        return;
    }
    size_t i;
    json_t *row;
    json_array_foreach(json_get(setting, "rows"), i, row) {
        const int64_t w = int_at(row, 0), h = int_at(row, 1);
        vision_plan plan;
        const char *mistake = err.message;
        if (vision_plan_make(processor, w, h, 0, 1, &plan, &err) == LLAVA_OK)
            mistake = packing_mistake(processor, &plan, row);
        if (mistake == NULL && is_full(setting, w, h))
            mistake = full_mistake(processor, &plan, tensors, name);
        if (mistake == NULL)
            reference_pass(count);
        else
            reference_fail(count, name, "%lld x %lld: %s", (long long)w, (long long)h, mistake);
        vision_plan_free(&plan);
    }
    image_processor_free(&processor);
}

static bool run_pack(const json_t *select, const checkpoint *tensors) {
    json_t *root = images_json("grid/pack.json");
    if (root == NULL) return true;
    reference_count count = {.folder = "images/grid/pack"};
    const char *name;
    json_t *setting;
    json_object_foreach(json_object_get(root, "settings"), name, setting)
        check_packing(&count, name, setting, select, tensors);
    json_decref(root);
    return reference_close(&count);
}

/* ---------------------------------------------------------------- video.json, pool.json */

static void check_video(reference_count *count, const json_t *c, const checkpoint *tensors) {
    const char *name = json_string_value(json_get(c, "name"));
    const int64_t n = json_integer_value(json_get(c, "n"));
    llava_image_processor *processor = NULL;
    llava_error err;
    vision_plan plan = {0};
    const char *mistake = err.message;
    if (grid_processor(14 * n, n, json_get(c, "config"), NULL, &processor, &err) == LLAVA_OK &&
        vision_plan_make(processor, 14 * n, 14 * n, json_integer_value(json_get(c, "frames")), 1,
                         &plan, &err) == LLAVA_OK) {
        float *features[2] = {video_features(processor, &plan, 0),
                              video_features(processor, &plan, 1)};
        mistake = plan.n_rows == json_integer_value(json_get(c, "tokens"))
                      ? tensor_mistake(tensors, json_string_value(json_get(c, "tensor")), &plan,
                                       features, POOLED_TOLERANCE)
                      : "another number of tokens";
        free(features[0]);
        free(features[1]);
    }
    if (mistake == NULL)
        reference_pass(count);
    else
        reference_fail(count, name, "%s", mistake);
    vision_plan_free(&plan);
    image_processor_free(&processor);
}

static void check_single(reference_count *count, const json_t *c) {
    const int64_t n = json_integer_value(json_get(c, "n"));
    llava_image_processor *processor = NULL;
    llava_error err;
    vision_plan plan = {0};
    const char *mistake = err.message;
    if (grid_processor(14 * n, n, json_get(c, "config"), NULL, &processor, &err) == LLAVA_OK &&
        vision_plan_make(processor, 640, 480, 0, 1, &plan, &err) == LLAVA_OK) {
        float *features = picture_features(processor, &plan, 0);
        mistake = plan.n_rows != json_integer_value(json_get(c, "tokens"))
                      ? "another number of tokens"
                  : crc_matches(json_get(c, "layout_crc32"), layout_crc(&plan, features))
                      ? NULL
                      : "another layout";
        free(features);
    }
    if (mistake == NULL)
        reference_pass(count);
    else
        reference_fail(count, "single", "%s", mistake);
    vision_plan_free(&plan);
    image_processor_free(&processor);
}

static bool run_video(const checkpoint *tensors) {
    json_t *root = images_json("grid/video.json"), *c;
    if (root == NULL) return true;
    reference_count count = {.folder = "images/grid/video"};
    size_t i;
    json_array_foreach(json_object_get(root, "videos"), i, c) check_video(&count, c, tensors);
    json_array_foreach(json_object_get(root, "single"), i, c) check_single(&count, c);
    json_decref(root);
    return reference_close(&count);
}

/** The plan's side after pooling with other strides; the pooled values are the device's. */
static bool run_pool(void) {
    json_t *root = images_json("grid/pool.json"), *c;
    if (root == NULL) return true;
    reference_count count = {.folder = "images/grid/pool (counts)"};
    size_t i;
    json_array_foreach(json_object_get(root, "cases"), i, c) {
        const int64_t n = json_integer_value(json_get(c, "n"));
        json_t *keys = json_pack("{s:O, s:O}", "mm_spatial_pool_mode", json_get(c, "mode"),
                                 "mm_spatial_pool_stride", json_get(c, "stride"));
        llava_image_processor *processor = NULL;
        llava_error err;
        vision_plan plan = {0};
        const bool planned = grid_processor(14 * n, n, keys, NULL, &processor, &err) == LLAVA_OK &&
                             vision_plan_make(processor, 64, 64, 1, 1, &plan, &err) == LLAVA_OK;
        if (planned && plan.n_rows == json_integer_value(json_get(c, "tokens")))
            reference_pass(&count);
        else
            reference_fail(&count, json_string_value(json_get(c, "tensor")), "%s",
                           planned ? "another number of tokens" : err.message);
        vision_plan_free(&plan);
        image_processor_free(&processor);
        json_decref(keys);
    }
    json_decref(root);
    return reference_close(&count);
}

bool run_grid(void) {
    char path[2048];
    checkpoint *tensors = NULL;
    llava_error err;
    if (path_is_file(images_path("grid/grid.safetensors", path)) &&
        checkpoint_open(path, &tensors, &err) != LLAVA_OK)
        printf("%s\n", err.message);
    bool good = true;
    json_t *select = images_json("grid/select.json");
    if (select != NULL) {
        good = run_select(select) && good;
        good = run_pack(select, tensors) && good;
    }
    good = run_video(tensors) && good;
    good = run_pool() && good;
    if (path_is_file(images_path("grid/position.json", path)))
        printf("images/grid/position: left out: EVA towers are not supported\n");
    json_decref(select);
    checkpoint_close(&tensors);
    return good;
}
