/* SPDX-License-Identifier: Apache-2.0
 *
 * Tiles and rows of pictures and videos: worked counts, layouts, and what is refused.
 */
#include <math.h>

#include "image/processor.h"
#include "image_support.h"

static int64_t count_tokens(const llava_config *config, int64_t w, int64_t h, int64_t n_frames,
                            size_t n_images) {
    llava_image_processor *processor = new_processor(config);
    vision_plan plan;
    llava_error err = {0};
    if (vision_plan_make(processor, w, h, n_frames, n_images, &plan, &err) != LLAVA_OK)
        fail_msg("%s", err.message);
    const int64_t n = plan.n_rows;
    const int64_t features = vision_plan_feature_rows(processor, &plan);
    for (int64_t i = 0; i < n; i++)
        assert_true(plan.rows[i] < features && plan.rows[i] >= ROW_FASTER);
    if (n_frames == 0) {
        int64_t counted = -1;
        assert_int_equal(llava_count_visual_tokens(processor, w, h, n_images, &counted, &err), 0);
        assert_int_equal(counted, n);
    }
    vision_plan_free(&plan);
    image_processor_free(&processor);
    return n;
}

static llava_config v16_config(void) {
    llava_config config = clip_config(336);
    set_aspect(&config, ASPECT_ANYRES, "anyres");
    set_pinpoints(&config, v16_pinpoints, 5);
    set_merge(&config, "spatial_unpad");
    return config;
}

static llava_config onevision_config(void) {
    llava_config config = siglip_config(384);
    set_aspect(&config, ASPECT_ANYRES, "anyres_max_9");
    config.mm.anyres_max = 9;
    set_pinpoints(&config, onevision_pinpoints(), 36);
    set_merge(&config, "spatial_unpad");
    return config;
}

static void test_worked_counts(void **state) {
    (void)state;
    static const struct {
        bool onevision;
        int64_t w, h, tokens;
    } cases[] = {{false, 672, 672, 2928},  {false, 1024, 768, 2340},  {false, 2000, 500, 1890},
                 {false, 500, 2000, 1944}, {false, 1920, 1080, 1948}, {false, 640, 480, 2340},
                 {false, 1024, 899, 2634}, {false, 336, 336, 1176},   {false, 300, 300, 1176},
                 {false, 4000, 100, 722},  {true, 384, 384, 1485},    {true, 1280, 720, 5967},
                 {true, 3000, 2000, 7329}, {true, 640, 480, 2929},    {true, 800, 600, 4725},
                 {true, 1920, 1080, 7269}, {true, 1024, 899, 6551},   {true, 4000, 3000, 7309},
                 {true, 2304, 2304, 7371}, {true, 500, 2000, 7371}};
    const llava_config v16 = v16_config(), onevision = onevision_config();
    for (size_t i = 0; i < LLAVA_COUNT(cases); i++)
        assert_int_equal(
            count_tokens(cases[i].onevision ? &onevision : &v16, cases[i].w, cases[i].h, 0, 1),
            cases[i].tokens);
}

/** Several pictures in a prompt are padded instead of tiled. */
static void test_several_pictures(void **state) {
    (void)state;
    const llava_config onevision = onevision_config();
    assert_int_equal(count_tokens(&onevision, 1280, 720, 0, 2), 730);
    llava_config v15 = clip_config(336);
    set_aspect(&v15, ASPECT_PAD, "pad");
    assert_int_equal(count_tokens(&v15, 1280, 720, 0, 1), 576);
    assert_int_equal(count_tokens(&v15, 1280, 720, 0, 5), 576);
    llava_config flat = v16_config();
    set_merge(&flat, "flat");
    assert_int_equal(count_tokens(&flat, 672, 672, 0, 1), 2880);
}

/** transformers' own classes: an unpadded side of exactly 47 is not cut to 46 by a last bit, and
 *  LlavaNext tiles every picture. */
static void test_own_classes(void **state) {
    (void)state;
    llava_config next = v16_config();
    assert_int_equal(count_tokens(&next, 2352, 2303, 0, 1), 576 + 46 * 49);
    assert_int_equal(count_tokens(&next, 672, 672, 0, 2), 577);
    next.mm.native = NATIVE_NEXT;
    next.video_processor = next.processor;
    assert_int_equal(count_tokens(&next, 2352, 2303, 0, 1), 576 + 48 * 49);
    assert_int_equal(count_tokens(&next, 672, 672, 0, 2), 2928);
    llava_config onevision = onevision_config();
    onevision.mm.native = NATIVE_ONEVISION;
    onevision.video_processor = onevision.processor;
    assert_int_equal(count_tokens(&onevision, 1280, 720, 0, 2), 730);
}

static void test_videos(void **state) {
    (void)state;
    static const struct {
        pool_mode pool;
        newline_position newline;
        bool clip, faster;
        int64_t frames, tokens;
    } cases[] = {{POOL_BILINEAR, NEWLINE_ONE_TOKEN, false, false, 8, 1569},
                 {POOL_BILINEAR, NEWLINE_ONE_TOKEN, false, false, 32, 6273},
                 {POOL_BILINEAR, NEWLINE_GRID, false, false, 16, 3360},
                 {POOL_BILINEAR, NEWLINE_FRAME, false, false, 64, 12608},
                 {POOL_AVERAGE, NEWLINE_GRID, false, false, 32, 5824},
                 {POOL_AVERAGE, NEWLINE_ONE_TOKEN, false, false, 16, 2705},
                 {POOL_AVERAGE, NEWLINE_NO_TOKEN, true, false, 8, 1152},
                 {POOL_MAX, NEWLINE_GRID, true, false, 8, 1248},
                 {POOL_AVERAGE, NEWLINE_GRID, false, true, 32, 1936},
                 {POOL_AVERAGE, NEWLINE_GRID, false, true, 64, 3732},
                 {POOL_BILINEAR, NEWLINE_GRID, false, true, 32, 2440},
                 {POOL_BILINEAR, NEWLINE_GRID, false, true, 64, 4726},
                 {POOL_AVERAGE, NEWLINE_FRAME, false, true, 8, 1360}};
    for (size_t i = 0; i < LLAVA_COUNT(cases); i++) {
        llava_config config = cases[i].clip ? clip_config(336) : siglip_config(384);
        set_merge(&config, "spatial_unpad");
        config.mm.pool = cases[i].pool;
        config.mm.newline = cases[i].newline;
        config.mm.add_faster_video = cases[i].faster;
        assert_int_equal(count_tokens(&config, 640, 360, cases[i].frames, 1), cases[i].tokens);
    }
}

/** Slow and fast frames alternate, each followed by the faster token. */
static void test_faster_layout(void **state) {
    (void)state;
    llava_config config = clip_config(56); /* 4 x 4 patches: 2 x 2 slow, 1 x 1 fast */
    set_merge(&config, "spatial_unpad");
    config.mm.pool = POOL_AVERAGE;
    config.mm.newline = NEWLINE_GRID;
    config.mm.add_faster_video = true;
    config.mm.faster_token_stride = 2;
    static const int32_t expected[] = {0,  1,           ROW_NEWLINE, 2, 3, ROW_NEWLINE, ROW_FASTER,
                                       13, ROW_NEWLINE, ROW_FASTER,  8, 9, ROW_NEWLINE, 10,
                                       11, ROW_NEWLINE, ROW_FASTER};
    llava_image_processor *processor = new_processor(&config);
    vision_plan plan;
    assert_int_equal(vision_plan_make(processor, 64, 48, 3, 1, &plan, NULL), LLAVA_OK);
    assert_int_equal(plan.pool_side, 2);
    assert_int_equal(plan.fast_side, 1);
    assert_int_equal(plan.n_rows, LLAVA_COUNT(expected));
    assert_memory_equal(plan.rows, expected, sizeof expected);
    vision_plan_free(&plan);
    image_processor_free(&processor);
}

/** Base, then the tiles' map row by row, each with its newline. */
static void test_picture_layout(void **state) {
    (void)state;
    static const size2 wide = {56, 28};
    llava_config config = clip_config(28); /* 2 x 2 patches */
    set_aspect(&config, ASPECT_ANYRES, "anyres");
    set_pinpoints(&config, &wide, 1);
    set_merge(&config, "spatial_unpad");
    static const int32_t expected[] = {0, 1,           2, 3, 4,  5,  8,
                                       9, ROW_NEWLINE, 6, 7, 10, 11, ROW_NEWLINE};
    llava_image_processor *processor = new_processor(&config);
    vision_plan plan;
    assert_int_equal(vision_plan_make(processor, 56, 28, 0, 1, &plan, NULL), LLAVA_OK);
    assert_int_equal(plan.n_rows, LLAVA_COUNT(expected));
    assert_memory_equal(plan.rows, expected, sizeof expected);
    vision_plan_free(&plan);
    image_processor_free(&processor);
}

static void test_other_modes(void **state) {
    (void)state;
    llava_config config = clip_config(336);
    set_aspect(&config, ASPECT_HIGHRES, "highres");
    config.mm.highres_max = 672;
    assert_int_equal(count_tokens(&config, 640, 480, 0, 1), 5 * 576);
    set_merge(&config, "spatial_unpad");
    assert_int_equal(count_tokens(&config, 672, 672, 0, 1), 576 + 48 * 49);
    set_merge(&config, "flat");
    set_aspect(&config, ASPECT_CROP_SPLIT, "crop_split");
    config.mm.crop_resolution = 672;
    config.mm.split_resolution = 336;
    assert_int_equal(count_tokens(&config, 640, 480, 0, 1), 4 * 576);
    config = clip_config(336);
    config.mm.projector = PROJECTOR_POOLER;
    assert_int_equal(count_tokens(&config, 640, 480, 0, 1), 144);
    config = clip_config(336);
    config.mm.select = SELECT_CLS_PATCH;
    assert_int_equal(count_tokens(&config, 640, 480, 0, 1), 577);
    config.mm.s2 = true;
    config.mm.n_s2_scales = 3;
    for (int i = 0; i < 3; i++) config.mm.s2_scales[i] = 336 * (i + 1);
    config.mm.select = SELECT_PATCH;
    assert_int_equal(count_tokens(&config, 640, 480, 0, 1), 576);
    llava_image_processor *processor = new_processor(&config);
    assert_int_equal(image_processor_view_size(processor), 1008);
    image_processor_free(&processor);
}

static void test_no_picture(void **state) {
    (void)state;
    const llava_config config = clip_config(336);
    llava_image_processor *processor = new_processor(&config);
    vision_plan plan;
    assert_int_equal(vision_plan_make(processor, 0, 0, 0, 0, &plan, NULL), LLAVA_OK);
    assert_int_equal(plan.n_views, 0);
    assert_int_equal(plan.n_rows, 0);
    vision_plan_free(&plan);
    image_processor_free(&processor);
}

static void test_geometry(void **state) {
    (void)state;
    const size2 best = select_best_resolution((size2){300, 300}, v16_pinpoints, 5);
    assert_int_equal(best.width, 336);
    assert_int_equal(best.height, 672);
    /* rounding the quotient first would give 45 and 63 */
    assert_true(floor_divide(50, sqrt(50.0 * 162.0 / (9.0 * 729.0))) == 44);
    assert_true(floor_divide(98, sqrt(98.0 * 162.0 / 6561.0)) == 62);
    assert_true(floor_divide(7, 2) == 3);
    assert_int_equal(patch_count(800, 336), 2);
    assert_int_equal(patch_start(800, 336), 64);
    llava_config config = v16_config();
    llava_image_processor *processor = new_processor(&config);
    vision_plan plan;
    assert_int_equal(vision_plan_make(processor, 2352, 2303, 0, 1, &plan, NULL), LLAVA_OK);
    assert_int_equal(plan.row0, 1);
    assert_int_equal(plan.row1, 47);
    vision_plan_free(&plan);
    image_processor_free(&processor);
}

/* ---------------------------------------------------------------- refusals */

static void refuses(const llava_config *config, llava_status expected) {
    llava_image_processor *processor = NULL;
    llava_error err = {0};
    assert_int_equal(image_processor_new(config, &processor, &err), expected);
    assert_null(processor);
    assert_true(err.message[0] != '\0');
}

static void test_refused_processors(void **state) {
    (void)state;
    llava_config config = v16_config();
    config.mm.s2 = true;
    config.mm.n_s2_scales = 2;
    config.mm.s2_scales[0] = 336;
    config.mm.s2_scales[1] = 672;
    refuses(&config, LLAVA_UNSUPPORTED); /* S2 with anyres */
    config = clip_config(336);
    set_aspect(&config, ASPECT_ANYRES, "anyres");
    refuses(&config, LLAVA_MALFORMED); /* no pinpoints */
    config = siglip_config(384);
    set_aspect(&config, ASPECT_HIGHRES, "highres");
    config.mm.highres_max = 768;
    refuses(&config, LLAVA_UNSUPPORTED);
    config = clip_config(336);
    config.processor.crop_width = 224;
    refuses(&config, LLAVA_UNSUPPORTED); /* not the tower's size */
    config = clip_config(336);
    config.processor.std[1] = 0;
    refuses(&config, LLAVA_MALFORMED);
    config = clip_config(336);
    set_aspect(&config, ASPECT_CROP_SPLIT, "crop_split");
    refuses(&config, LLAVA_MALFORMED); /* no resolutions */
}

static void test_ranges(void **state) {
    (void)state;
    static const size2 range[2] = {{1, 1}, {2, 3}};
    llava_config config = clip_config(70); /* not a size the reference lets pass */
    set_aspect(&config, ASPECT_ANYRES, "anyres");
    set_pinpoints(&config, range, 2);
    config.mm.pinpoints_are_range = true;
    llava_image_processor *processor = new_processor(&config);
    assert_int_equal(processor->n_pinpoints, 2);
    assert_int_equal(processor->pinpoints[1].width, 140);
    assert_int_equal(processor->pinpoints[1].height, 210);
    image_processor_free(&processor);
    config.processor.shortest_edge = 80;
    refuses(&config, LLAVA_UNSUPPORTED);
}

static void plan_fails(const llava_config *config, int64_t w, int64_t h, int64_t n_frames,
                       llava_status expected) {
    llava_image_processor *processor = new_processor(config);
    llava_error err = {0};
    vision_plan plan;
    assert_int_equal(vision_plan_make(processor, w, h, n_frames, 1, &plan, &err), expected);
    assert_null(plan.rows);
    assert_true(err.message[0] != '\0');
    image_processor_free(&processor);
}

static void test_refused_plans(void **state) {
    (void)state;
    llava_config config = v16_config();
    plan_fails(&config, 0, 480, 0, LLAVA_BAD_ARGUMENT);
    plan_fails(&config, 640, -1, 0, LLAVA_BAD_ARGUMENT);
    plan_fails(&config, 640, 480, 4, LLAVA_UNSUPPORTED); /* no pooling mode */
    config.mm.pool = POOL_AVERAGE;
    plan_fails(&config, 640, 480, (int64_t)1 << 40, LLAVA_OUT_OF_MEMORY);
    config.mm.select = SELECT_CLS_PATCH;
    plan_fails(&config, 640, 480, 0, LLAVA_UNSUPPORTED); /* spatial with the class token */
    config = v16_config();
    config.mm.projector = PROJECTOR_POOLER;
    plan_fails(&config, 640, 480, 0, LLAVA_UNSUPPORTED);
    config = clip_config(336);
    config.mm.pool = POOL_AVERAGE;
    config.mm.newline = NEWLINE_GRID;
    set_merge(&config, "spatial");
    plan_fails(&config, 640, 480, 4, LLAVA_UNSUPPORTED); /* no image_newline */
    set_aspect(&config, ASPECT_CROP_SPLIT, "crop_split");
    config.mm.crop_resolution = 672;
    config.mm.split_resolution = 336;
    plan_fails(&config, 640, 480, 0, LLAVA_UNSUPPORTED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_worked_counts), cmocka_unit_test(test_several_pictures),
        cmocka_unit_test(test_own_classes),   cmocka_unit_test(test_videos),
        cmocka_unit_test(test_faster_layout), cmocka_unit_test(test_picture_layout),
        cmocka_unit_test(test_other_modes),   cmocka_unit_test(test_no_picture),
        cmocka_unit_test(test_geometry),      cmocka_unit_test(test_refused_processors),
        cmocka_unit_test(test_ranges),        cmocka_unit_test(test_refused_plans),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
