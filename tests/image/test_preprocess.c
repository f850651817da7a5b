/* SPDX-License-Identifier: Apache-2.0
 *
 * From pictures to float pixels. Checksums are of the reference's own results (Pillow 10.3,
 * transformers 4.40).
 */
#include "image/pixel_values.h"
#include "image_support.h"

typedef struct preparation {
    int64_t w, h;
    uint32_t u8[4], f32[4]; /* CLIP-336 square, CLIP-336 pad, SigLIP square, SigLIP pad */
} preparation;

static void check_views(const llava_config *config, int64_t w, int64_t h, uint32_t u8,
                        uint32_t f32) {
    llava_image_processor *processor = new_processor(config);
    llava_image *image = synth(w, h);
    for (int n_threads = 1; n_threads <= 3; n_threads += 2) {
        processor->n_threads = n_threads;
        views v = make_views(processor, (const llava_image *const *)&image, 0);
        assert_int_equal(crc_of(v.u8, v.n_values), u8);
        assert_int_equal(crc_of(v.pixels, v.n_values * sizeof *v.pixels), f32);
        views_free(&v);
    }
    llava_image_free(&image);
    image_processor_free(&processor);
}

static void test_square_and_pad(void **state) {
    (void)state;
    static const preparation cases[] = {{640,
                                         480,
                                         {0x38616fd6, 0x6ccb8581, 0x80679e06, 0x3401ae07},
                                         {0x3899915c, 0xc7670f84, 0x7849113c, 0xffd8bc00}},
                                        {500,
                                         333,
                                         {0x976be84f, 0xfd82247d, 0x7f95be6c, 0xd584337d},
                                         {0x53f11cb1, 0x279ebfa0, 0xd7caa7aa, 0xb5a397f8}},
                                        {333,
                                         500,
                                         {0x753e5d22, 0x1563a4f6, 0x281440f7, 0x8e23c25f},
                                         {0x5638150a, 0x0493f09c, 0xcdd2fdc1, 0x797b0e43}},
                                        {1001,
                                         333,
                                         {0xef7ab7d2, 0x3b1f6316, 0x295bacf1, 0x5a673550},
                                         {0x01c9d725, 0x0ae8190e, 0xbe23a166, 0xffa8bc87}}};
    for (size_t i = 0; i < LLAVA_COUNT(cases); i++)
        for (int mode = 0; mode < 4; mode++) {
            llava_config config = mode < 2 ? clip_config(336) : siglip_config(384);
            if (mode % 2) set_aspect(&config, ASPECT_PAD, "pad");
            check_views(&config, cases[i].w, cases[i].h, cases[i].u8[mode], cases[i].f32[mode]);
        }
}

static void test_anyres(void **state) {
    (void)state;
    llava_config clip = clip_config(336), siglip = siglip_config(384);
    set_aspect(&clip, ASPECT_ANYRES, "anyres");
    set_pinpoints(&clip, v16_pinpoints, 5);
    set_aspect(&siglip, ASPECT_ANYRES, "anyres_max_9");
    set_pinpoints(&siglip, onevision_pinpoints(), 36);
    check_views(&clip, 1024, 768, 0xa164fd20, 0x0913757f);
    check_views(&clip, 2000, 500, 0xdd55d380, 0x2b08d02b);
    check_views(&siglip, 1280, 720, 0x85350cd8, 0xcd6ca7c6);
    check_views(&siglip, 384, 384, 0x74b1abed, 0xabf67e98);
}

static void test_tiles(void **state) {
    (void)state;
    static const uint32_t tiles[9] = {0x7d6d72d7, 0x2b974414, 0x4d01c089, 0x85f6be88, 0xa599942a,
                                      0xc1e9da77, 0x171e6aba, 0xda1ccb6d, 0xc604a84f};
    llava_config config = siglip_config(384);
    set_aspect(&config, ASPECT_ANYRES, "anyres");
    set_pinpoints(&config, onevision_pinpoints(), 36);
    llava_image_processor *processor = new_processor(&config);
    llava_image *image = synth(1280, 720);
    views v = make_views(processor, (const llava_image *const *)&image, 0);
    assert_int_equal(v.plan.n_views, 9);
    const size_t n = (size_t)(3 * v.size * v.size);
    for (size_t i = 0; i < 9; i++) assert_int_equal(crc_of(v.u8 + i * n, n), tiles[i]);
    views_free(&v);
    llava_image_free(&image);
    image_processor_free(&processor);
}

/** expand2square alone: a tower of the padded size does not resize. */
static void test_padding(void **state) {
    (void)state;
    llava_config clip = clip_config(40), siglip = siglip_config(40);
    set_aspect(&clip, ASPECT_PAD, "pad");
    set_aspect(&siglip, ASPECT_PAD, "pad");
    static const struct {
        int64_t w, h;
        uint32_t crc;
    } cases[] = {{40, 29, 0x6e26e5dd}, {29, 40, 0x072e1ef3}};
    for (size_t i = 0; i < 2; i++) {
        llava_image_processor *processor = new_processor(i == 0 ? &clip : &siglip);
        llava_image *image = synth(cases[i].w, cases[i].h);
        views v = make_views(processor, (const llava_image *const *)&image, 0);
        assert_int_equal(crc_of(v.u8, v.n_values), cases[i].crc);
        views_free(&v);
        llava_image_free(&image);
        image_processor_free(&processor);
    }
}

/** resize_and_pad_image: the tiles of anyres put together again. */
static void test_canvas(void **state) {
    (void)state;
    static const struct {
        int64_t w, h;
        size2 canvas;
        int64_t tile;
        uint32_t crc;
    } cases[] = {{1024, 768, {672, 672}, 336, 0xd28680bb},
                 {2000, 500, {1008, 336}, 336, 0x902cb0a3},
                 {1280, 720, {1536, 768}, 384, 0xcb7004f6},
                 {300, 300, {336, 672}, 336, 0x37f41084}};
    for (size_t i = 0; i < LLAVA_COUNT(cases); i++) {
        const int64_t p = cases[i].tile;
        llava_config config = clip_config(p);
        set_aspect(&config, ASPECT_ANYRES, "anyres");
        set_pinpoints(&config, &cases[i].canvas, 1);
        llava_image_processor *processor = new_processor(&config);
        llava_image *image = synth(cases[i].w, cases[i].h), *canvas = NULL;
        views v = make_views(processor, (const llava_image *const *)&image, 0);
        assert_int_equal(image_new(cases[i].canvas.width, cases[i].canvas.height, &canvas, NULL),
                         0);
        for (int64_t y = 0; y < canvas->height; y++)
            for (int64_t x = 0; x < canvas->width; x++) {
                const int64_t view = 1 + y / p * v.plan.grid_w + x / p;
                memcpy(canvas->rgb + 3 * (y * canvas->width + x),
                       v.u8 + 3 * ((view * p + y % p) * p + x % p), 3);
            }
        assert_int_equal(crc_of_image(canvas), cases[i].crc);
        views_free(&v);
        llava_image_free(&image);
        llava_image_free(&canvas);
        image_processor_free(&processor);
    }
}

static void check_table(processor_config c, const uint32_t crcs[3], float red_0, float blue_255) {
    llava_image *ramp = NULL;
    float pixels[3 * 256];
    size2 size;
    c.do_resize = c.do_center_crop = false;
    assert_int_equal(image_new(256, 1, &ramp, NULL), LLAVA_OK);
    for (int i = 0; i < 256; i++) memset(ramp->rgb + 3 * i, i, 3);
    assert_int_equal(processor_output_size(&c, (size2){256, 1}, &size, NULL), LLAVA_OK);
    assert_int_equal(size.width, 256);
    assert_int_equal(processor_apply(&c, ramp, pixels, NULL, NULL), LLAVA_OK);
    for (int i = 0; i < 3; i++)
        assert_int_equal(crc_of(pixels + 256 * i, 256 * sizeof *pixels), crcs[i]);
    assert_true(pixels[0] == red_0);
    assert_true(pixels[3 * 256 - 1] == blue_255);
    llava_image_free(&ramp);
}

static void test_values(void **state) {
    (void)state;
    const llava_config clip = clip_config(336), siglip = siglip_config(384);
    check_table(clip.processor, (uint32_t[]){0x3b20d4c1, 0xe0d62c0d, 0x61e3a3fb}, -1.79226255f,
                2.14589691f);
    check_table(siglip.processor, (uint32_t[]){0xb62c8544, 0xb62c8544, 0xb62c8544}, -1.0f, 1.0f);
}

/** Whole rows against pixels one by one. */
static void test_value_rows(void **state) {
    (void)state;
    enum { N = 53 };
    const llava_config config = clip_config(336);
    value_table table;
    value_table_fill(&config.processor, &table);
    uint8_t rgb[3 * N];
    for (int i = 0; i < 3 * N; i++) rgb[i] = (uint8_t)(i * 89);
    for (int64_t n = 1; n <= N; n++) {
        float row[3 * N], one[3];
        value_row(&table, rgb, n, row, N);
        for (int64_t x = 0; x < n; x++) {
            value_row(&table, rgb + 3 * x, 1, one, 1);
            for (int c = 0; c < 3; c++) assert_true(row[c * N + x] == one[c]);
        }
    }
}

/** Frames of a video go through the processor one by one, whatever the aspect setting. */
static void test_frames(void **state) {
    (void)state;
    llava_config config = clip_config(336);
    config.mm.pool = POOL_AVERAGE;
    llava_image_processor *processor = new_processor(&config);
    llava_image *frames[2] = {synth(640, 480), synth(500, 333)};
    views v = make_views(processor, (const llava_image *const *)frames, 2);
    assert_int_equal(crc_of(v.u8, v.n_values / 2), 0x38616fd6);
    assert_int_equal(crc_of(v.u8 + v.n_values / 2, v.n_values / 2), 0x976be84f);
    llava_error err;
    assert_int_equal(image_process(processor, &v.plan, (const llava_image *const *)frames, 1,
                                   v.pixels, NULL, &err),
                     LLAVA_BAD_ARGUMENT);
    views_free(&v);
    llava_image_free(&frames[0]);
    llava_image_free(&frames[1]);
    image_processor_free(&processor);
}

/** A panorama whose padded square would pass the limit of pixels is padded strip by strip. */
static void test_large_padding(void **state) {
    (void)state;
    llava_config config = clip_config(28);
    set_aspect(&config, ASPECT_PAD, "pad");
    llava_image_processor *processor = new_processor(&config);
    llava_image *image = NULL;
    assert_int_equal(image_new(14000, 2, &image, NULL), LLAVA_OK);
    memset(image->rgb, 255, 14000 * 2 * 3);
    views v = make_views(processor, (const llava_image *const *)&image, 0);
    assert_memory_equal(v.u8, "\x7a\x74\x68", 3); /* 122, 116, 104: the mean colour */
    assert_memory_equal(v.u8 + v.n_values - 3, "\x7a\x74\x68", 3);
    views_free(&v);
    llava_image_free(&image);
    image_processor_free(&processor);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_square_and_pad), cmocka_unit_test(test_anyres),
        cmocka_unit_test(test_tiles),          cmocka_unit_test(test_padding),
        cmocka_unit_test(test_canvas),         cmocka_unit_test(test_values),
        cmocka_unit_test(test_frames),         cmocka_unit_test(test_value_rows),
        cmocka_unit_test(test_large_padding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
