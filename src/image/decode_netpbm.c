/* SPDX-License-Identifier: Apache-2.0
 *
 * Netpbm pictures P1 to P6, plain and binary, as Pillow's PpmImagePlugin reads them: samples are
 * scaled from maxval to 255 (grey above 8 bits to 65535, which RGB then saturates).
 */
#include <math.h>
#include <stdlib.h>

#include "decoders.h"

#define PNM_TOKEN_MAX 10

typedef struct pnm_file {
    const uint8_t *data;
    size_t size, at;
    int kind; /* the digit behind P */
    int64_t width, height, maxval;
} pnm_file;

static bool is_space(int c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
static bool is_bits(const pnm_file *f) { return f->kind == 1 || f->kind == 4; }
static bool is_colour(const pnm_file *f) { return f->kind == 3 || f->kind == 6; }

bool netpbm_recognised(const uint8_t *data, size_t size) {
    return size >= 3 && data[0] == 'P' && data[1] >= '1' && data[1] <= '6' &&
           (is_space(data[2]) || data[2] == '#');
}

/** The next byte, comments (to the end of the line) taken out; -1 at the end. */
static int next_byte(pnm_file *f) {
    while (f->at < f->size) {
        const uint8_t c = f->data[f->at++];
        if (c != '#') return c;
        while (f->at < f->size) {
            const uint8_t skipped = f->data[f->at++];
            if (skipped == '\n' || skipped == '\r') break;
        }
    }
    return -1;
}

/** A decimal number and the one white space behind it. */
static llava_status read_number(pnm_file *f, const char *what, int64_t *value, llava_error *err) {
    int c = next_byte(f);
    while (is_space(c)) c = next_byte(f);
    int64_t number = 0;
    int n_digits = 0;
    for (; c >= 0 && !is_space(c); c = next_byte(f), n_digits++) {
        if (c < '0' || c > '9' || n_digits >= PNM_TOKEN_MAX)
            return llava_fail(err, LLAVA_MALFORMED, "PNM: %s is not a number of up to %d digits",
                              what, PNM_TOKEN_MAX);
        number = number * 10 + (c - '0');
    }
    if (n_digits == 0)
        return llava_fail(err, LLAVA_MALFORMED, "PNM: the file ends before its %s", what);
    *value = number;
    return LLAVA_OK;
}

static llava_status read_header(pnm_file *f, llava_error *err) {
    f->kind = f->data[1] - '0';
    f->at = 2;
    LLAVA_TRY(read_number(f, "width", &f->width, err));
    LLAVA_TRY(read_number(f, "height", &f->height, err));
    f->maxval = 1;
    if (!is_bits(f)) LLAVA_TRY(read_number(f, "maxval", &f->maxval, err));
    if (f->maxval < 1 || f->maxval > 65535)
        return llava_fail(err, LLAVA_MALFORMED, "PNM: maxval %lld, expected 1 to 65535",
                          (long long)f->maxval);
    return image_check_size("PNM", f->width, f->height, err);
}

/** value * out_max / maxval, rounded half to even in double precision. */
static uint8_t scale_sample(const pnm_file *f, int64_t value) {
    const bool wide_grey = !is_colour(f) && f->maxval > 255;
    const double out_max = wide_grey ? 65535.0 : 255.0;
    const double scaled = nearbyint((double)value / (double)f->maxval * out_max);
    return saturate_u8((int64_t)scaled);
}

static llava_status plain_bits(pnm_file *f, llava_image *image, llava_error *err) {
    for (int64_t i = 0; i < f->width * f->height; i++) {
        int c = next_byte(f);
        while (is_space(c)) c = next_byte(f);
        if (c != '0' && c != '1')
            return llava_fail(err, LLAVA_MALFORMED,
                              c < 0 ? "PNM: the file ends inside its pixels"
                                    : "PNM: a bit is neither 0 nor 1");
        put_grey(image->rgb + 3 * i, c == '0' ? 255 : 0);
    }
    return LLAVA_OK;
}

static llava_status plain_samples(pnm_file *f, llava_image *image, llava_error *err) {
    const int64_t bands = is_colour(f) ? 3 : 1;
    for (int64_t i = 0; i < f->width * f->height * bands; i++) {
        int64_t value;
        LLAVA_TRY(read_number(f, "pixels", &value, err));
        if (value > f->maxval)
            return llava_fail(err, LLAVA_MALFORMED, "PNM: sample %lld above maxval %lld",
                              (long long)value, (long long)f->maxval);
        if (bands == 3)
            image->rgb[i] = scale_sample(f, value);
        else
            put_grey(image->rgb + 3 * i, scale_sample(f, value));
    }
    return LLAVA_OK;
}

static void binary_bits(const pnm_file *f, llava_image *image) {
    const size_t stride = ((size_t)f->width + 7) / 8;
    for (int64_t y = 0; y < f->height; y++) {
        const uint8_t *row = f->data + f->at + (size_t)y * stride;
        uint8_t *rgb = image->rgb + 3 * y * f->width;
        for (int64_t x = 0; x < f->width; x++)
            put_grey(rgb + 3 * x, row[x / 8] >> (7 - x % 8) & 1 ? 0 : 255);
    }
}

static llava_status binary_samples(const pnm_file *f, llava_image *image, llava_error *err) {
    const int64_t n = f->width * f->height * (is_colour(f) ? 3 : 1);
    const uint8_t *p = f->data + f->at;
    uint8_t *scaled = malloc(65536);
    if (scaled == NULL) return llava_fail_memory(err, 65536, "a PNM scale");
    for (int64_t v = 0; v < 65536; v++) scaled[v] = scale_sample(f, v);
    for (int64_t i = 0; i < n; i++) {
        const uint8_t value = scaled[f->maxval < 256 ? p[i] : p[2 * i] << 8 | p[2 * i + 1]];
        if (is_colour(f))
            image->rgb[i] = value;
        else
            put_grey(image->rgb + 3 * i, value);
    }
    free(scaled);
    return LLAVA_OK;
}

/** Bytes that the pixels take at least: each plain bit or number one byte. */
static size_t pixel_bytes(const pnm_file *f) {
    const size_t n = (size_t)f->width * (size_t)f->height * (is_colour(f) ? 3 : 1);
    if (f->kind == 4) return ((size_t)f->width + 7) / 8 * (size_t)f->height;
    return f->kind > 4 && f->maxval > 255 ? 2 * n : n;
}

llava_status decode_netpbm(const uint8_t *data, size_t size, llava_image **out, llava_error *err) {
    pnm_file f = {.data = data, .size = size};
    LLAVA_TRY(read_header(&f, err));
    if (f.at > size || size - f.at < pixel_bytes(&f))
        return llava_fail(err, LLAVA_MALFORMED,
                          "PNM: expected at least %zu bytes of pixels, got %zu", pixel_bytes(&f),
                          size - f.at);
    llava_image *image = NULL;
    LLAVA_TRY(image_new(f.width, f.height, &image, err));
    llava_status status = LLAVA_OK;
    if (f.kind == 1)
        status = plain_bits(&f, image, err);
    else if (f.kind == 2 || f.kind == 3)
        status = plain_samples(&f, image, err);
    else if (f.kind == 4)
        binary_bits(&f, image);
    else
        status = binary_samples(&f, image, err);
    if (status != LLAVA_OK)
        llava_image_free(&image);
    else
        *out = image;
    return status;
}
