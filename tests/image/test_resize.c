/* SPDX-License-Identifier: Apache-2.0
 *
 * Pillow's resize. Checksums are of Pillow 10.3's own results.
 */
#include "image_support.h"
#include "image/resample.h"

static void test_synth(void **state) {
    (void)state;
    static const struct {
        int64_t w, h;
        uint32_t crc;
    } cases[] = {{8, 4, 0x0fefd99b},
                 {64, 48, 0xb8b6e51d},
                 {640, 480, 0x539e46aa},
                 {1024, 768, 0xaf7a2b33},
                 {100, 80, 0xfacda78f}};
    for (size_t i = 0; i < LLAVA_COUNT(cases); i++) {
        llava_image *image = synth(cases[i].w, cases[i].h);
        assert_int_equal(crc_of_image(image), cases[i].crc);
        llava_image_free(&image);
    }
}

static llava_image *resized(int64_t w, int64_t h, int64_t out_w, int64_t out_h,
                            image_filter filter) {
    llava_image *source = synth(w, h), *out = NULL;
    llava_error err;
    if (image_resize(source, out_w, out_h, filter, &out, &err) != LLAVA_OK)
        fail_msg("%s", err.message);
    llava_image_free(&source);
    return out;
}

static void test_recorded(void **state) {
    (void)state;
    static const struct {
        int64_t w, h, out_w, out_h;
        image_filter filter;
        uint32_t crc;
    } cases[] = {{8, 4, 5, 3, FILTER_BICUBIC, 0x4f7178a8},
                 {8, 4, 16, 8, FILTER_BICUBIC, 0xb273778c},
                 {64, 48, 33, 29, FILTER_BICUBIC, 0x0001eba2},
                 {64, 48, 33, 29, FILTER_LANCZOS, 0xd06de1eb},
                 {8, 4, 5, 3, FILTER_LANCZOS, 0x4615974a},
                 {8, 4, 5, 3, FILTER_BILINEAR, 0xd189260b},
                 {8, 4, 5, 3, FILTER_BOX, 0x7467c074},
                 {640, 480, 336, 336, FILTER_BICUBIC, 0x8e97e643},
                 {640, 480, 448, 336, FILTER_BICUBIC, 0x14491a2a},
                 {1024, 768, 384, 384, FILTER_BICUBIC, 0xb1dd29cd},
                 {100, 80, 384, 384, FILTER_BICUBIC, 0x85cbc7e7},
                 {1280, 720, 1366, 768, FILTER_BICUBIC, 0xed6d7978},
                 {2000, 500, 1008, 252, FILTER_BICUBIC, 0x1f97886b}};
    for (size_t i = 0; i < LLAVA_COUNT(cases); i++) {
        llava_image *out =
            resized(cases[i].w, cases[i].h, cases[i].out_w, cases[i].out_h, cases[i].filter);
        assert_int_equal(crc_of_image(out), cases[i].crc);
        llava_image_free(&out);
    }
}

static void test_pixels(void **state) {
    (void)state;
    static const uint8_t expected[45] = {
        4,  1, 2,  15, 5,  10, 27, 13, 18, 38, 27, 25, 49, 46, 33, /* rows of RGB */
        22, 5, 8,  33, 9,  7,  45, 17, 18, 56, 31, 28, 67, 50, 28,
        39, 8, 13, 50, 12, 4,  62, 20, 18, 73, 34, 31, 84, 53, 22};
    llava_image *out = resized(8, 4, 5, 3, FILTER_BICUBIC);
    assert_memory_equal(out->rgb, expected, sizeof expected);
    llava_image_free(&out);
}

static void check_taps(int64_t in, int64_t out, int64_t index, int32_t first, int32_t count,
                       const int32_t *taps) {
    const axis_request r = {
        .in = in, .out = out, .first = 0, .count = out, .filter = FILTER_BICUBIC};
    resample_axis axis;
    assert_int_equal(resample_axis_make(&r, &axis, NULL), LLAVA_OK);
    assert_int_equal(axis.spans[index].first, first);
    assert_int_equal(axis.spans[index].count, count);
    assert_memory_equal(axis.taps + (size_t)index * axis.stride, taps,
                        (size_t)count * sizeof *taps);
    resample_axis_free(&axis);
}

static void test_coefficients(void **state) {
    (void)state;
    check_taps(8, 5, 0, 0, 4, (int32_t[]){2564317, 1799741, -76390, -93365});
    check_taps(8, 5, 1, 0, 6, (int32_t[]){-158790, 1221146, 2541575, 784553, -189483, -4698});
    check_taps(8, 5, 2, 1, 6, (int32_t[]){-143542, 103181, 2137513, 2137513, 103181, -143542});
    check_taps(8, 5, 3, 2, 6, (int32_t[]){-4698, -189483, 784553, 2541575, 1221146, -158790});
    check_taps(8, 5, 4, 4, 4, (int32_t[]){-93365, -76390, 1799741, 2564317});
    check_taps(4, 8, 0, 0, 2, (int32_t[]){4564390, -370086});
    check_taps(4, 8, 1, 0, 3, (int32_t[]){3398305, 887845, -91846});
    check_taps(4, 8, 2, 0, 3, (int32_t[]){928510, 3553952, -288158});
}

static void check_window(const llava_image *source, const llava_image *whole, image_filter filter,
                         int64_t left, int64_t top, size2 window, int n_threads) {
    resize_request r = resize_to((size2){whole->width, whole->height}, filter, n_threads);
    r.left = left;
    r.top = top;
    r.window = window;
    llava_image *part = NULL;
    assert_int_equal(image_resize_window(source, &r, &part, NULL), LLAVA_OK);
    for (int64_t y = 0; y < window.height; y++)
        assert_memory_equal(part->rgb + 3 * y * window.width,
                            whole->rgb + 3 * ((top + y) * whole->width + left),
                            (size_t)(3 * window.width));
    llava_image_free(&part);
}

/** A window is the same part of the whole result, on any number of threads, also where one or both
 *  sides keep their size. */
static void test_windows(void **state) {
    (void)state;
    static const size2 targets[] = {{50, 37}, {97, 131}, {200, 131}, {97, 41}, {300, 200}};
    llava_image *source = synth(97, 131);
    for (image_filter filter = FILTER_NEAREST; filter <= FILTER_HAMMING; filter++)
        for (size_t i = 0; i < LLAVA_COUNT(targets); i++) {
            llava_image *whole = NULL;
            assert_int_equal(
                image_resize(source, targets[i].width, targets[i].height, filter, &whole, NULL),
                LLAVA_OK);
            check_window(source, whole, filter, 0, 0, targets[i], 2);
            check_window(source, whole, filter, 7, 5, (size2){31, 20}, 1);
            check_window(source, whole, filter, targets[i].width - 1, targets[i].height - 1,
                         (size2){1, 1}, 3);
            llava_image_free(&whole);
        }
    llava_image_free(&source);
}

/** The loops of this processor against the plain ones, on every width and number of taps. */
static void test_plain_loops(void **state) {
    (void)state;
    enum { IN = 61, ROWS = 9 };
    uint8_t rows[ROWS * IN * 3 + RESAMPLE_PADDING], fast[3 * 256], plain[3 * 256];
    uint32_t seed = 1;
    for (size_t i = 0; i < sizeof rows; i++) rows[i] = (uint8_t)((seed = seed * 69069 + 1) >> 24);
    for (int64_t out = 1; out <= 256; out += 1 + out / 8) {
        const image_filter filter = (image_filter)(1 + out % 5);
        const axis_request r = {.in = IN, .out = out, .count = out, .filter = filter};
        resample_axis axis;
        assert_int_equal(resample_axis_make(&r, &axis, NULL), LLAVA_OK);
        resample_row(&axis, rows, fast);
        resample_row_plain(&axis, rows, plain);
        assert_memory_equal(fast, plain, (size_t)(3 * out));
        resample_axis_free(&axis);
    }
    static const int32_t taps[ROWS] = {-158790, 1221146, 2541575, 784553, -189483,
                                       -4698,   -300000, 500000,  -199999};
    for (size_t n_bytes = 1; n_bytes <= IN * 3; n_bytes++)
        for (int32_t count = 1; count <= ROWS; count++) {
            resample_column(rows, n_bytes, taps, count, fast);
            resample_column_plain(rows, n_bytes, taps, count, plain, 0);
            assert_memory_equal(fast, plain, n_bytes);
        }
}

static void test_refusals(void **state) {
    (void)state;
    llava_image *source = synth(4, 4), *out = NULL;
    llava_error err;
    assert_int_equal(image_resize(source, 0, 4, FILTER_BICUBIC, &out, &err), LLAVA_BAD_ARGUMENT);
    assert_int_equal(image_resize(source, 4, 4, (image_filter)6, &out, &err), LLAVA_BAD_ARGUMENT);
    assert_int_equal(image_resize(source, 20000, 20000, FILTER_BICUBIC, &out, &err),
                     LLAVA_OUT_OF_MEMORY);
    assert_null(out);
    llava_image_free(&source);
    assert_int_equal(image_new(60000000, 1, &source, NULL), LLAVA_OK); /* too many weights */
    memset(source->rgb, 0, 3 * 60000000);
    assert_int_equal(image_resize(source, 336, 336, FILTER_BICUBIC, &out, &err),
                     LLAVA_OUT_OF_MEMORY);
    assert_null(out);
    llava_image_free(&source);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_synth),       cmocka_unit_test(test_recorded),
        cmocka_unit_test(test_pixels),      cmocka_unit_test(test_coefficients),
        cmocka_unit_test(test_windows),     cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_plain_loops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
