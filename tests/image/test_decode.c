/* SPDX-License-Identifier: Apache-2.0
 *
 * Decoding of small files written out here: formats of our own parsers, recognition by content,
 * and what is refused. Recorded files of every format are in the reference suite.
 */
#include "image_support.h"

static llava_status decode(const void *data, size_t size, llava_image **image, llava_error *err) {
    return llava_image_decode(data, size, image, err);
}

static void expect_rgb(const void *data, size_t size, int64_t width, int64_t height,
                       const uint8_t *rgb) {
    llava_image *image = NULL;
    llava_error err = {0};
    if (decode(data, size, &image, &err) != LLAVA_OK) fail_msg("%s", err.message);
    int64_t w, h;
    llava_image_get_size(image, &w, &h);
    assert_int_equal(w, width);
    assert_int_equal(h, height);
    assert_memory_equal(image->rgb, rgb, (size_t)(3 * width * height));
    llava_image_free(&image);
    assert_null(image);
}

static void expect_failure(const void *data, size_t size, llava_status expected,
                           const char *message) {
    llava_image *image = NULL;
    llava_error err = {0};
    assert_int_equal(decode(data, size, &image, &err), expected);
    assert_null(image);
    if (strstr(err.message, message) == NULL) fail_msg("%s", err.message);
}

#define TEXT(text) text, sizeof text - 1

static void test_netpbm(void **state) {
    (void)state;
    expect_rgb(TEXT("P3 2 1 255\n1 2 3 4 5 6"), 2, 1, (const uint8_t[]){1, 2, 3, 4, 5, 6});
    expect_rgb(TEXT("P3\n# note\n1 1\n7\n0 3 7\n"), 1, 1, (const uint8_t[]){0, 109, 255});
    expect_rgb(TEXT("P6 1 1 255 abc"), 1, 1, (const uint8_t *)"abc");
    expect_rgb(TEXT("P6 1 1 100 \x00\x32\x64"), 1, 1, (const uint8_t[]){0, 128, 255});
    expect_rgb(TEXT("P6 1 1 65535 \x00\x01\x80\x00\xff\xff"), 1, 1, (const uint8_t[]){0, 128, 255});
    expect_rgb(TEXT("P5 2 1 255 \x05\xfa"), 2, 1, (const uint8_t[]){5, 5, 5, 250, 250, 250});
    /* grey of 16 bits saturates */
    expect_rgb(TEXT("P5 2 1 65535 \x00\x14\x01\x00"), 2, 1,
               (const uint8_t[]){20, 20, 20, 255, 255, 255});
    expect_rgb(TEXT("P2 2 1 1000 0 1000"), 2, 1, (const uint8_t[]){0, 0, 0, 255, 255, 255});
    expect_rgb(TEXT("P1 3 1 1 01"), 3, 1, (const uint8_t[]){0, 0, 0, 255, 255, 255, 0, 0, 0});
    expect_rgb(TEXT("P4 2 2 \x80\x40"), 2, 2,
               (const uint8_t[]){0, 0, 0, 255, 255, 255, 255, 255, 255, 0, 0, 0});
}

static void test_netpbm_refusals(void **state) {
    (void)state;
    expect_failure(TEXT("P6 2 2 255 abc"), LLAVA_MALFORMED, "at least 12 bytes");
    expect_failure(TEXT("P3 1 1 255 1 2 300"), LLAVA_MALFORMED, "above maxval");
    expect_failure(TEXT("P3 1 1 255 1 2 x"), LLAVA_MALFORMED, "not a number");
    expect_failure(TEXT("P6 1 1 0 abc"), LLAVA_MALFORMED, "maxval");
    expect_failure(TEXT("P6 1 1 65536 abcdef"), LLAVA_MALFORMED, "maxval");
    expect_failure(TEXT("P6 -1 1 255 abc"), LLAVA_MALFORMED, "width");
    expect_failure(TEXT("P6 0 1 255 abc"), LLAVA_MALFORMED, "0 x 1");
    expect_failure(TEXT("P6 99999 99999 255 abc"), LLAVA_OUT_OF_MEMORY, "limit");
    expect_failure(TEXT("P1 2 1 1 2"), LLAVA_MALFORMED, "neither 0 nor 1");
    expect_failure(TEXT("P7 1 1 255 abc"), LLAVA_UNSUPPORTED, "none of JPEG");
}

static void test_recognition(void **state) {
    (void)state;
    expect_failure(NULL, 0, LLAVA_MALFORMED, "empty");
    expect_failure(TEXT("<html><body>not found"), LLAVA_UNSUPPORTED, "none of JPEG");
    expect_failure(TEXT("II*\0........"), LLAVA_UNSUPPORTED, "TIFF");
    expect_failure(TEXT("MM\0*........"), LLAVA_UNSUPPORTED, "TIFF");
    expect_failure(TEXT("\xff\xd8\xff"), LLAVA_MALFORMED, "JPEG");
    expect_failure(TEXT("\x89PNG\r\n\x1a\n"), LLAVA_MALFORMED, "PNG");
    expect_failure(TEXT("GIF89a"), LLAVA_MALFORMED, "GIF");
    expect_failure(TEXT("RIFF\x04\0\0\0WEBP"), LLAVA_MALFORMED, "WebP");
    expect_failure(TEXT("BM"), LLAVA_MALFORMED, "BMP");
}

/* ---------------------------------------------------------------- BMP */

typedef struct bmp_file {
    uint8_t data[256];
    size_t size;
} bmp_file;

static void put32(uint8_t *p, uint32_t value) {
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(value >> (8 * i));
}

/** Header, palette (4 bytes a colour) or masks, pixels. */
static bmp_file make_bmp(int32_t width, int32_t height, int bits, int compression,
                         const void *table, size_t table_size) {
    bmp_file f = {.size = 54 + table_size};
    memcpy(f.data, "BM", 2);
    put32(f.data + 10, (uint32_t)f.size);
    put32(f.data + 14, 40);
    put32(f.data + 18, (uint32_t)width);
    put32(f.data + 22, (uint32_t)height);
    f.data[26] = 1;
    f.data[28] = (uint8_t)bits;
    f.data[30] = (uint8_t)compression;
    if (bits <= 8) put32(f.data + 46, (uint32_t)(table_size / 4));
    memcpy(f.data + 54, table, table_size);
    return f;
}

static void put_pixels(bmp_file *f, const void *pixels, size_t size) {
    memcpy(f->data + f->size, pixels, size);
    f->size += size;
}

static const uint8_t two_colours[8] = {10, 20, 30, 0, 40, 50, 60, 0}; /* BGRX */

static void test_bmp(void **state) {
    (void)state;
    bmp_file f = make_bmp(1, 2, 24, 0, "", 0); /* bottom row first */
    put_pixels(&f, "\x01\x02\x03\0\x04\x05\x06\0", 8);
    expect_rgb(f.data, f.size, 1, 2, (const uint8_t[]){6, 5, 4, 3, 2, 1});
    f = make_bmp(1, -2, 24, 0, "", 0); /* top row first, last row not padded */
    put_pixels(&f, "\x01\x02\x03\0\x04\x05\x06", 7);
    expect_rgb(f.data, f.size, 1, 2, (const uint8_t[]){3, 2, 1, 6, 5, 4});
    f = make_bmp(3, 1, 1, 0, two_colours, 8);
    put_pixels(&f, "\xa0\0\0\0", 4);
    expect_rgb(f.data, f.size, 3, 1, (const uint8_t[]){60, 50, 40, 30, 20, 10, 60, 50, 40});
    f = make_bmp(1, 1, 16, 0, "", 0);
    put_pixels(&f, "\x41\x7c\0\0", 4); /* 5 bits each: 31, 2, 1 */
    expect_rgb(f.data, f.size, 1, 1, (const uint8_t[]){255, 16, 8});
    f = make_bmp(1, 1, 16, 3, "\0\xf8\0\0\xe0\x07\0\0\x1f\0\0\0", 12);
    put_pixels(&f, "\x41\xf8\0\0", 4); /* 5, 6, 5 bits: 31, 2, 1 */
    expect_rgb(f.data, f.size, 1, 1, (const uint8_t[]){255, 8, 8});
    f = make_bmp(1, 1, 32, 0, "", 0);
    put_pixels(&f, "\x01\x02\x03\x04", 4);
    expect_rgb(f.data, f.size, 1, 1, (const uint8_t[]){3, 2, 1});
}

static void test_bmp_runs(void **state) {
    (void)state;
    bmp_file f = make_bmp(4, 2, 8, 1, two_colours, 8);
    /* bottom: run of three 1, end of line; top: literal 1 0 1 (padded), end */
    put_pixels(&f, "\x03\x01\0\0\0\x03\x01\0\x01\0\0\x01", 12);
    const uint8_t a[3] = {30, 20, 10}, b[3] = {60, 50, 40};
    uint8_t expected[24];
    static const int indices[8] = {1, 0, 1, 0, 1, 1, 1, 0};
    for (int i = 0; i < 8; i++) memcpy(expected + 3 * i, indices[i] ? b : a, 3);
    expect_rgb(f.data, f.size, 4, 2, expected);
    f = make_bmp(4, 1, 4, 2, two_colours, 8);
    put_pixels(&f, "\x03\x10\0\x01", 4); /* nibbles 1 0 1 */
    for (int i = 0; i < 4; i++) memcpy(expected + 3 * i, i == 0 || i == 2 ? b : a, 3);
    expect_rgb(f.data, f.size, 4, 1, expected);
    f = make_bmp(4, 2, 8, 1, two_colours, 8);
    put_pixels(&f, "\0\x02\x02\x01\x01\x01\0\x01", 8); /* jump right 2, up 1; one pixel */
    for (int i = 0; i < 8; i++) memcpy(expected + 3 * i, i == 2 ? b : a, 3);
    expect_rgb(f.data, f.size, 4, 2, expected);
    f = make_bmp(4, 2, 8, 1, two_colours, 8);
    put_pixels(&f, "\x03\x01\0", 3);
    expect_failure(f.data, f.size, LLAVA_MALFORMED, "ends inside its pixels");
}

static void test_bmp_refusals(void **state) {
    (void)state;
    bmp_file f = make_bmp(1, 2, 24, 0, "", 0);
    put_pixels(&f, "\x01\x02\x03\0", 4);
    expect_failure(f.data, f.size, LLAVA_MALFORMED, "ends inside its pixels");
    f = make_bmp(-40, 2, 24, 0, "", 0);
    expect_failure(f.data, f.size, LLAVA_OUT_OF_MEMORY, "limit");
    f = make_bmp(1, 1, 5, 0, two_colours, 8);
    expect_failure(f.data, f.size, LLAVA_UNSUPPORTED, "5 bits");
    f = make_bmp(1, 1, 32, 3, "\x0f\0\0\0\xf0\0\0\0\0\x0f\0\0", 12);
    expect_failure(f.data, f.size, LLAVA_UNSUPPORTED, "masks");
    f = make_bmp(1, 1, 24, 4, "", 0);
    expect_failure(f.data, f.size, LLAVA_UNSUPPORTED, "compression 4");
}

/* ---------------------------------------------------------------- other entries */

static void test_from_rgb(void **state) {
    (void)state;
    static const uint8_t rgb[6] = {1, 2, 3, 4, 5, 6};
    llava_image *image = NULL;
    llava_error err;
    assert_int_equal(llava_image_from_rgb(rgb, 2, 1, &image, &err), LLAVA_OK);
    assert_ptr_not_equal(image->rgb, rgb);
    assert_memory_equal(image->rgb, rgb, 6);
    llava_image_free(&image);
    llava_image_free(&image); /* closing twice is harmless */
    assert_int_equal(llava_image_from_rgb(NULL, 2, 1, &image, &err), LLAVA_BAD_ARGUMENT);
    assert_int_equal(llava_image_from_rgb(rgb, 0, 1, &image, &err), LLAVA_BAD_ARGUMENT);
    assert_int_equal(llava_image_from_rgb(rgb, 1 << 20, 1 << 20, &image, &err),
                     LLAVA_OUT_OF_MEMORY);
    assert_int_equal(llava_image_open("no/such/file.jpg", &image, &err), LLAVA_IO);
    assert_int_equal(err.refusal, LLAVA_REFUSAL_MISSING);
    assert_int_equal(llava_image_open(NULL, &image, &err), LLAVA_BAD_ARGUMENT);
    assert_int_equal(err.refusal, LLAVA_REFUSAL_NONE);
    static const struct {
        const char *content;
        llava_refusal refusal;
    } refused[] = {{"", LLAVA_REFUSAL_TRUNCATED},
                   {"words", LLAVA_REFUSAL_UNSUPPORTED},
                   {"P6 2 2 0 ", LLAVA_REFUSAL_CORRUPT},
                   {"\x89PNG\r\n\x1a\n", LLAVA_REFUSAL_CORRUPT}};
    for (size_t i = 0; i < LLAVA_COUNT(refused); i++) {
        const char *content = refused[i].content;
        assert_int_not_equal(llava_image_decode(content, strlen(content), &image, &err), LLAVA_OK);
        assert_int_equal(err.refusal, refused[i].refusal);
    }
    assert_null(image);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_netpbm),      cmocka_unit_test(test_netpbm_refusals),
        cmocka_unit_test(test_recognition), cmocka_unit_test(test_bmp),
        cmocka_unit_test(test_bmp_runs),    cmocka_unit_test(test_bmp_refusals),
        cmocka_unit_test(test_from_rgb),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
