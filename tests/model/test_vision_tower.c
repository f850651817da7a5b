/* SPDX-License-Identifier: Apache-2.0
 *
 * Towers, feature selection, projectors and the packing of a picture's rows against plain
 * computations in double precision.
 */
#include <math.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdlib.h>

#include <cmocka.h>

#include "model_fixture.h"

#define TOLERANCE 2e-5

static float *random_pixels(int64_t count) {
    random_source r = {77};
    float *pixels = calloc((size_t)count, sizeof *pixels);
    assert_non_null(pixels);
    for (int64_t i = 0; i < count; i++) pixels[i] = random_value(&r, 1.0f);
    return pixels;
}

static void check_close(const float *got, const double *expected, int64_t n, const char *what) {
    const double error = relative_error(got, expected, n);
    if (!(error <= TOLERANCE)) fail_msg("%s: error %g", what, error);
}

/** Features of one view: the given hidden states side by side, the first `skip` tokens dropped. */
static double *naive_features(const llava_model *model, const float *pixels, const int64_t *states,
                              int64_t n_states, int64_t skip) {
    const int64_t width = model->config->tower.hidden_size;
    const int64_t tokens = tower_patches(model) + tower_has_class_token(model);
    double *hidden = calloc((size_t)(tokens * width), sizeof *hidden);
    double *features = calloc((size_t)(tokens * width * n_states), sizeof *features);
    for (int64_t s = 0; s < n_states; s++) {
        naive_tower(model, pixels, states[s], hidden);
        for (int64_t t = skip; t < tokens; t++)
            memcpy(features + ((t - skip) * n_states + s) * width, hidden + t * width,
                   (size_t)width * sizeof *hidden);
    }
    free(hidden);
    return features;
}

typedef struct selection_case {
    tower_kind kind;
    select_feature select;
    int64_t layer, n_states, states[6];
    int64_t skip;
} selection_case;

/* 4 layers, so hidden states 0 ... 4; m25811 needs a deeper tower and is checked by its indices */
static const selection_case selections[] = {
    {TOWER_CLIP, SELECT_PATCH, -2, 1, {3}, 1},
    {TOWER_CLIP, SELECT_CLS_PATCH, -1, 1, {4}, 0},
    {TOWER_CLIP, SELECT_PATCH, 0, 1, {0}, 1},
    {TOWER_CLIP, SELECT_SLICEFOUR_PATCH, 0, 4, {1, 2, 3, 4}, 1},
    {TOWER_CLIP, SELECT_SLICEFOUR_CLS_PATCH, 1, 3, {2, 3, 4}, 0},
    {TOWER_MLCD, SELECT_PATCH, -2, 1, {3}, 1},
    {TOWER_MLCD, SELECT_CLS_PATCH, 2, 1, {2}, 0},
    {TOWER_SIGLIP, SELECT_PATCH, -2, 1, {3}, 0},
    {TOWER_SIGLIP, SELECT_CLS_PATCH, 1, 1, {3}, 0}, /* both keys are ignored */
};

static void check_selection(const selection_case *c) {
    llava_model *model = fixture_vision(c->kind, 2);
    model->config->mm.select = c->select;
    model->config->mm.select_layer = c->layer;
    int64_t tokens, width;
    model_tower_shape(model, &tokens, &width);
    assert_int_equal(tokens, 16 + (c->kind != TOWER_SIGLIP) - c->skip);
    assert_int_equal(width, c->n_states * 48);
    const int64_t view = 3 * 20 * 20, n = 3, size = tokens * width;
    float *pixels = random_pixels(n * view);
    float *features = calloc((size_t)(n * size), sizeof *features);
    llava_error err = {0};
    if (model_run_tower(model, pixels, n, features, &err) != LLAVA_OK) fail_msg("%s", err.message);
    for (int64_t i = 0; i < n; i++) {
        double *expected =
            naive_features(model, pixels + i * view, c->states, c->n_states, c->skip);
        check_close(features + i * size, expected, size, "tower features");
        free(expected);
    }
    free(pixels);
    free(features);
    model_free(&model);
}

static void test_selections(void **state) {
    (void)state;
    for (size_t i = 0; i < LLAVA_COUNT(selections); i++) check_selection(&selections[i]);
}

static void test_selected_indices(void **state) {
    (void)state;
    llava_model *model = fixture_vision(TOWER_CLIP, 1);
    model->config->tower.n_layers = 24;
    model->tower.n_layers = 24;
    tower_selection s;
    llava_error err = {0};
    model->config->mm.select = SELECT_M25811_PATCH;
    assert_int_equal(tower_select(model, &s, NULL), LLAVA_OK);
    const int64_t m25811[] = {23, 20, 17, 14, 6};
    assert_int_equal(s.count, 5);
    assert_memory_equal(s.states, m25811, sizeof m25811);
    assert_int_equal(s.deepest, 23);
    model->config->mm.select = SELECT_SLICEFOUR_CLS_PATCH;
    assert_int_equal(tower_select(model, &s, NULL), LLAVA_OK);
    const int64_t quarters[] = {4, 10, 16, 22};
    assert_int_equal(s.count, 4);
    assert_memory_equal(s.states, quarters, sizeof quarters);
    model->config->mm.select = SELECT_PATCH;
    model->tower.n_layers = 22; /* one layer fewer than needed is bound */
    assert_int_equal(tower_select(model, &s, &err), LLAVA_MALFORMED);
    model->config->mm.select_layer = 25;
    assert_int_equal(tower_select(model, &s, &err), LLAVA_MALFORMED);
    model->config->mm.select_layer = -26;
    assert_int_equal(tower_select(model, &s, &err), LLAVA_MALFORMED);
    model->config->mm.has_select_layer = false;
    assert_int_equal(tower_select(model, &s, &err), LLAVA_MALFORMED);
    model->config->tower.n_layers = 2;
    model->config->mm = (mm_config){.select = SELECT_SLICEFOUR_PATCH, .has_select_layer = true};
    assert_int_equal(tower_select(model, &s, &err), LLAVA_MALFORMED);
    model_free(&model);
}

/* ---------------------------------------------------------------- scales */

static void test_scales(void **state) {
    (void)state;
    llava_model *model = fixture_vision(TOWER_CLIP, 2);
    mm_config *mm = &model->config->mm;
    mm->s2 = true;
    mm->n_s2_scales = 2;
    mm->s2_scales[0] = 20;
    mm->s2_scales[1] = 40;
    /* one colour: every piece at every scale is the same picture */
    float *pixels = calloc(3 * 40 * 40, sizeof *pixels);
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < 40 * 40; i++) pixels[c * 1600 + i] = 0.3f * (float)(c + 1);
    float *small = calloc(3 * 20 * 20, sizeof *small);
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < 20 * 20; i++) small[c * 400 + i] = 0.3f * (float)(c + 1);
    const int64_t states[] = {3};
    double *one = naive_features(model, small, states, 1, 1);
    double expected[16 * 96];
    float features[16 * 96];
    for (int t = 0; t < 16; t++)
        for (int i = 0; i < 48; i++) {
            const int y = t / 4 * 2 % 4, x = t % 4 * 2 % 4;
            const double *row = one + (y * 4 + x) * 48 + i;
            expected[t * 96 + i] = one[t * 48 + i];
            expected[t * 96 + 48 + i] = (row[0] + row[48] + row[4 * 48] + row[5 * 48]) / 4;
        }
    llava_error err = {0};
    if (model_run_tower(model, pixels, 1, features, &err) != LLAVA_OK) fail_msg("%s", err.message);
    check_close(features, expected, 16 * 96, "two scales");
    mm->s2_scales[1] = 50;
    assert_int_equal(model_run_tower(model, pixels, 1, features, &err), LLAVA_UNSUPPORTED);
    mm->s2_scales[0] = 10;
    assert_int_equal(model_run_tower(model, pixels, 1, features, &err), LLAVA_UNSUPPORTED);
    free(one);
    free(small);
    free(pixels);
    model_free(&model);
}

/* ---------------------------------------------------------------- projectors */

/** x [in] -> y [hidden], the kinds that work row by row. */
static void naive_project(const llava_model *model, const double *x, double *y) {
    const projector_weights *p = &model->projector;
    const int64_t hidden = model->config->lm.hidden_size;
    double a[256], b[256];
    naive_linear(&p->linears[0].w, &p->linears[0].b, x, y);
    for (int l = 1; l < model->config->mm.projector_linears; l++) {
        for (int64_t i = 0; i < hidden; i++) a[i] = naive_activation(y[i], ACT_GELU);
        naive_linear(&p->linears[l].w, &p->linears[l].b, a, y);
    }
    for (int r = 0; r < model->config->mm.projector_res; r++) {
        naive_layernorm(&p->res[r].norm, 1e-5, y, hidden, a);
        naive_linear(&p->res[r].fc1.w, &p->res[r].fc1.b, a, b);
        for (int64_t i = 0; i < hidden; i++) b[i] = naive_activation(b[i], ACT_GELU);
        naive_linear(&p->res[r].fc2.w, &p->res[r].fc2.b, b, y);
        for (int64_t i = 0; i < hidden; i++) y[i] += a[i];
    }
}

static void test_row_projectors(void **state) {
    (void)state;
    llava_model *model = fixture_vision(TOWER_SIGLIP, 2);
    mm_config *mm = &model->config->mm;
    random_source r = {9};
    model->projector.linears[2].w = fixture_weight(model, &r, 40, 40);
    model->projector.linears[2].b = fixture_weight(model, &r, 1, 40);
    float *features = random_pixels(2 * 16 * 48), out[2 * 16 * 40];
    double expected[2 * 16 * 40], row[48];
    llava_error err = {0};
    for (int linears = 1; linears <= 3; linears++)
        for (int res = 0; res < 2; res++) {
            mm->projector_linears = linears;
            mm->projector_res = res;
            for (int t = 0; t < 32; t++) {
                for (int i = 0; i < 48; i++) row[i] = (double)features[t * 48 + i];
                naive_project(model, row, expected + t * 40);
            }
            if (model_project(model, features, 2, out, &err) != LLAVA_OK)
                fail_msg("%s", err.message);
            check_close(out, expected, 2 * 16 * 40, "projector");
        }
    mm->projector = PROJECTOR_IDENTITY;
    assert_int_equal(model_project(model, features, 2, out, &err), LLAVA_MALFORMED);
    model->config->lm.hidden_size = 48;
    float same[2 * 16 * 48];
    assert_int_equal(model_project(model, features, 2, same, &err), LLAVA_OK);
    assert_memory_equal(same, features, sizeof same);
    mm->projector = PROJECTOR_MLP_GELU;
    assert_int_equal(model_project(model, features, 2, same, &err), LLAVA_MALFORMED);
    free(features);
    model_free(&model);
}

static void test_pooler(void **state) {
    (void)state;
    llava_model *model = fixture_vision(TOWER_SIGLIP, 2);
    random_source r = {19};
    projector_weights *p = &model->projector;
    p->linears[0].w = fixture_weight(model, &r, 40, 48 * 4);
    model->config->mm.projector = PROJECTOR_POOLER;
    assert_int_equal(model_projected_tokens(model), 4);
    float *features = random_pixels(2 * 16 * 48), out[2 * 4 * 40];
    double expected[2 * 4 * 40], conv[40];
    for (int t = 0; t < 8; t++) {
        const float *view = features + t / 4 * 16 * 48;
        const int y = t % 4 / 2 * 2, x = t % 2 * 2;
        for (int o = 0; o < 40; o++) {
            conv[o] = weight_at(&p->linears[0].b, o);
            for (int c = 0; c < 48; c++)
                for (int k = 0; k < 4; k++)
                    conv[o] += weight_at(&p->linears[0].w, (o * 48 + c) * 4 + k) *
                               (double)view[((y + k / 2) * 4 + x + k % 2) * 48 + c];
            conv[o] = naive_activation(conv[o], ACT_GELU);
        }
        naive_linear(&p->linears[1].w, &p->linears[1].b, conv, expected + t * 40);
    }
    llava_error err = {0};
    if (model_project(model, features, 2, out, &err) != LLAVA_OK) fail_msg("%s", err.message);
    check_close(out, expected, 2 * 4 * 40, "pooler");
    free(features);
    model_free(&model);
}

/* ---------------------------------------------------------------- packing */

typedef struct packing {
    llava_model *model;
    int64_t n_views;
    float *pixels, *projected; /* [n_views, 16, 40] from the stages run one by one */
    float *rows;
    float newline[40], faster[40];
} packing;

static packing open_packing(int64_t n_views) {
    packing p = {.model = fixture_vision(TOWER_SIGLIP, 2), .n_views = n_views};
    p.pixels = random_pixels(n_views * 3 * 20 * 20);
    float *features = calloc((size_t)(n_views * 16 * 48), sizeof *features);
    p.projected = calloc((size_t)(n_views * 16 * 40), sizeof *p.projected);
    p.rows = calloc(400 * 40, sizeof *p.rows);
    assert_int_equal(model_run_tower(p.model, p.pixels, n_views, features, NULL), LLAVA_OK);
    assert_int_equal(model_project(p.model, features, n_views, p.projected, NULL), LLAVA_OK);
    for (int i = 0; i < 40; i++) {
        p.newline[i] = (float)weight_at(&p.model->image_newline, i);
        p.faster[i] = (float)weight_at(&p.model->faster_token, i);
    }
    free(features);
    return p;
}

static void close_packing(packing *p) {
    free(p->pixels);
    free(p->projected);
    free(p->rows);
    model_free(&p->model);
}

static void encode(packing *p, const vision_plan *plan, const vision_trace *trace) {
    llava_error err = {0};
    if (model_encode_picture(p->model, plan, p->pixels, p->rows, trace, &err) != LLAVA_OK)
        fail_msg("%s", err.message);
}

static void assert_row(const packing *p, int64_t row, const float *expected) {
    for (int i = 0; i < 40; i++)
        if (!(fabsf(p->rows[row * 40 + i] - expected[i]) <= 1e-5f))
            fail_msg("row %lld, channel %d: %g, expected %g", (long long)row, i,
                     (double)p->rows[row * 40 + i], (double)expected[i]);
}

static void test_plain_rows(void **state) {
    (void)state;
    packing p = open_packing(3);
    int32_t rows[] = {47, 0, ROW_NEWLINE, 16, 17, ROW_FASTER, 0};
    const vision_plan plan = {.n_views = 3, .side = 4, .n_rows = 7, .rows = rows};
    float features[3 * 16 * 48], projected[3 * 16 * 40];
    encode(&p, &plan, &(vision_trace){.tower_features = features, .projected = projected});
    assert_memory_equal(projected, p.projected, sizeof projected);
    for (int i = 0; i < 7; i++)
        assert_row(&p, i,
                   rows[i] == ROW_NEWLINE  ? p.newline
                   : rows[i] == ROW_FASTER ? p.faster
                                           : p.projected + rows[i] * 40);
    rows[0] = 48; /* beyond the last view */
    llava_error err = {0};
    assert_int_equal(model_encode_picture(p.model, &plan, p.pixels, p.rows, NULL, &err),
                     LLAVA_INTERNAL);
    rows[0] = 0;
    p.model->faster_token.data = NULL;
    assert_int_equal(model_encode_picture(p.model, &plan, p.pixels, p.rows, NULL, &err),
                     LLAVA_MALFORMED);
    p.model->image_newline.data = NULL;
    assert_int_equal(model_encode_picture(p.model, &plan, p.pixels, p.rows, NULL, &err),
                     LLAVA_MALFORMED);
    close_packing(&p);
}

static void test_video(void **state) {
    (void)state;
    packing p = open_packing(2);
    /* 4 x 4 -> 2 x 2 and, at twice the stride, 1 x 1 */
    int32_t rows[] = {0, 1, 2, 3, ROW_NEWLINE, 9, ROW_FASTER, 7};
    const vision_plan plan = {.kind = VISION_VIDEO,
                              .n_views = 2,
                              .side = 4,
                              .pool_side = 2,
                              .fast_side = 1,
                              .n_rows = 8,
                              .rows = rows};
    float pooled[2 * 4 * 40], expected[40];
    encode(&p, &plan, &(vision_trace){.pooled = pooled});
    assert_memory_equal(pooled, p.rows, 4 * 40 * sizeof *pooled);
    for (int t = 0; t < 4; t++) {
        const float *cell = p.projected + (t / 2 * 8 + t % 2 * 2) * 40;
        for (int i = 0; i < 40; i++)
            expected[i] = (cell[i] + cell[40 + i] + cell[160 + i] + cell[200 + i]) / 4;
        assert_row(&p, t, expected);
    }
    for (int i = 0; i < 40; i++) { /* frame 1 as a whole */
        expected[i] = 0;
        for (int t = 0; t < 16; t++) expected[i] += p.projected[(16 + t) * 40 + i] / 16;
    }
    assert_row(&p, 5, expected);
    assert_row(&p, 4, p.newline);
    assert_row(&p, 6, p.faster);
    p.model->config->mm.pool = POOL_NONE;
    llava_error err = {0};
    assert_int_equal(model_encode_picture(p.model, &plan, p.pixels, p.rows, NULL, &err),
                     LLAVA_MALFORMED);
    close_packing(&p);
}

/** Feature of the joined map of 3 x 2 tiles (across x down) at (y, x). */
static const float *joined(const packing *p, int64_t y, int64_t x) {
    const int64_t view = 1 + y / 4 * 3 + x / 4;
    return p->projected + (view * 16 + y % 4 * 4 + x % 4) * 40;
}

static void test_max_pooled_map(void **state) {
    (void)state;
    packing p = open_packing(7);
    int32_t rows[16 + 24];
    for (int i = 0; i < 40; i++) rows[i] = i;
    const vision_plan plan = {.n_views = 7,
                              .side = 4,
                              .grid_w = 3,
                              .grid_h = 2,
                              .row1 = 8,
                              .col1 = 12,
                              .out_h = 4,
                              .out_w = 6,
                              .max_pooled = true,
                              .n_rows = 40,
                              .rows = rows};
    encode(&p, &plan, NULL);
    float expected[40];
    for (int t = 0; t < 16; t++) assert_row(&p, t, p.projected + t * 40);
    for (int t = 0; t < 24; t++) {
        for (int i = 0; i < 40; i++) {
            expected[i] = -INFINITY;
            for (int k = 0; k < 4; k++)
                expected[i] =
                    fmaxf(expected[i], joined(&p, t / 6 * 2 + k / 2, t % 6 * 2 + k % 2)[i]);
        }
        assert_row(&p, 16 + t, expected);
    }
    close_packing(&p);
}

static void test_resampled_map(void **state) {
    (void)state;
    packing p = open_packing(7);
    /* unpad keeps rows 1 ... 6; 6 x 12 -> 3 x 6 bilinear is the mean of 2 x 2 */
    int32_t rows[] = {0, 16, 16 + 5, ROW_NEWLINE, 16 + 6, 16 + 17};
    const vision_plan plan = {.n_views = 7,
                              .side = 4,
                              .grid_w = 3,
                              .grid_h = 2,
                              .row0 = 1,
                              .row1 = 7,
                              .col1 = 12,
                              .out_h = 3,
                              .out_w = 6,
                              .resampled = true,
                              .n_rows = 6,
                              .rows = rows};
    encode(&p, &plan, NULL);
    assert_row(&p, 0, p.projected);
    assert_row(&p, 3, p.newline);
    static const int cells[][3] = {{1, 0, 0}, {2, 0, 5}, {4, 1, 0}, {5, 2, 5}};
    float expected[40];
    for (size_t c = 0; c < LLAVA_COUNT(cells); c++) {
        for (int i = 0; i < 40; i++) {
            expected[i] = 0;
            for (int k = 0; k < 4; k++)
                expected[i] +=
                    joined(&p, 1 + cells[c][1] * 2 + k / 2, cells[c][2] * 2 + k % 2)[i] / 4;
        }
        assert_row(&p, cells[c][0], expected);
    }
    llava_error err = {0};
    vision_plan broken = plan;
    broken.row1 = 9;
    assert_int_equal(model_encode_picture(p.model, &broken, p.pixels, p.rows, NULL, &err),
                     LLAVA_INTERNAL);
    close_packing(&p);
}

static void test_views_do_not_matter(void **state) {
    (void)state;
    for (int kind = TOWER_CLIP; kind <= TOWER_MLCD; kind++) {
        llava_model *one = fixture_vision((tower_kind)kind, 1);
        llava_model *two = fixture_vision((tower_kind)kind, 2);
        const int64_t n = 100, view = 3 * 20 * 20, size = 16 * 48; /* more than one chunk */
        float *pixels = random_pixels(n * view);
        float *all = calloc((size_t)(n * size), sizeof *all);
        float *alone = calloc((size_t)size, sizeof *alone);
        assert_int_equal(model_run_tower(two, pixels, n, all, NULL), LLAVA_OK);
        for (int64_t i = 0; i < n; i += 33) {
            assert_int_equal(model_run_tower(one, pixels + i * view, 1, alone, NULL), LLAVA_OK);
            assert_memory_equal(alone, all + i * size, (size_t)size * sizeof *alone);
        }
        free(pixels);
        free(all);
        free(alone);
        model_free(&one);
        model_free(&two);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_selections),    cmocka_unit_test(test_selected_indices),
        cmocka_unit_test(test_scales),        cmocka_unit_test(test_row_projectors),
        cmocka_unit_test(test_pooler),        cmocka_unit_test(test_plain_rows),
        cmocka_unit_test(test_video),         cmocka_unit_test(test_max_pooled_map),
        cmocka_unit_test(test_resampled_map), cmocka_unit_test(test_views_do_not_matter),
    };
    return cmocka_run_group_tests_name("vision_tower", tests, NULL, NULL);
}
