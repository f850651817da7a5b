/* SPDX-License-Identifier: Apache-2.0
 *
 * Pictures as objects, and the choice of a decoder by a file's first bytes.
 */
#include <stdlib.h>

#include "decoders.h"
#include "image.h"

/* Files above this size are no photographs; the limit bounds what is mapped and scanned. */
#define IMAGE_FILE_MAX ((size_t)1 << 30)

llava_status image_check_size(const char *format, int64_t width, int64_t height, llava_error *err) {
    if (width <= 0 || height <= 0)
        return llava_fail(err, LLAVA_MALFORMED, "%s: a picture of %lld x %lld pixels", format,
                          (long long)width, (long long)height);
    if (width > IMAGE_MAX_PIXELS || height > IMAGE_MAX_PIXELS / width)
        return llava_fail(err, LLAVA_OUT_OF_MEMORY,
                          "%s: %lld x %lld pixels pass the limit of %lld pixels", format,
                          (long long)width, (long long)height, (long long)IMAGE_MAX_PIXELS);
    return LLAVA_OK;
}

llava_status image_new(int64_t width, int64_t height, llava_image **out, llava_error *err) {
    LLAVA_TRY(image_check_size("picture", width, height, err));
    const size_t n_bytes = (size_t)width * (size_t)height * 3;
    llava_image *image = malloc(sizeof *image);
    uint8_t *rgb = malloc(n_bytes);
    if (image == NULL || rgb == NULL) {
        free(image);
        free(rgb);
        return llava_fail_memory(err, n_bytes, "a picture");
    }
    *image = (llava_image){.width = width, .height = height, .rgb = rgb};
    *out = image;
    return LLAVA_OK;
}

void image_fill(llava_image *image, const uint8_t colour[3]) {
    const size_t row_bytes = 3 * (size_t)image->width;
    for (int64_t x = 0; x < image->width; x++) memcpy(image->rgb + 3 * x, colour, 3);
    for (int64_t y = 1; y < image->height; y++)
        memcpy(image->rgb + (size_t)y * row_bytes, image->rgb, row_bytes);
}

LLAVA_API void llava_image_free(llava_image **image) {
    if (image == NULL || *image == NULL) return;
    free((*image)->rgb);
    free(*image);
    *image = NULL;
}

LLAVA_API void llava_image_get_size(const llava_image *image, int64_t *width, int64_t *height) {
    if (width != NULL) *width = image == NULL ? 0 : image->width;
    if (height != NULL) *height = image == NULL ? 0 : image->height;
}

LLAVA_API llava_status llava_image_from_rgb(const uint8_t *rgb, int64_t width, int64_t height,
                                            llava_image **image, llava_error *err) {
    if (rgb == NULL || image == NULL)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "picture from RGB: %s is NULL",
                          rgb == NULL ? "rgb" : "image");
    if (width <= 0 || height <= 0)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "picture from RGB: size %lld x %lld",
                          (long long)width, (long long)height);
    llava_image *copy = NULL;
    LLAVA_TRY(image_new(width, height, &copy, err));
    memcpy(copy->rgb, rgb, (size_t)width * (size_t)height * 3);
    *image = copy;
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- recognition */

typedef struct format_entry {
    const char *name;
    const char *magic;
    size_t magic_size;
    image_decoder decode; /* NULL: known, not supported */
} format_entry;

static const format_entry formats[] = {
    {"JPEG", "\xff\xd8\xff", 3, decode_jpeg},
    {"PNG", "\x89PNG\r\n\x1a\n", 8, decode_png},
    {"GIF", "GIF87a", 6, decode_gif},
    {"GIF", "GIF89a", 6, decode_gif},
    {"BMP", "BM", 2, decode_bmp},
    {"TIFF", "II*\0", 4, NULL},
    {"TIFF", "MM\0*", 4, NULL},
    {"BigTIFF", "II+\0", 4, NULL},
    {"JPEG 2000", "\0\0\0\x0cjP  ", 8, NULL},
    {"ICO", "\0\0\1\0", 4, NULL},
    {"PSD", "8BPS", 4, NULL},
};

static const format_entry webp_format = {"WebP", "RIFF", 4, decode_webp};
static const format_entry netpbm_format = {"PNM", "P", 1, decode_netpbm};

static const format_entry *recognise(const uint8_t *data, size_t size) {
    for (size_t i = 0; i < LLAVA_COUNT(formats); i++)
        if (size >= formats[i].magic_size &&
            memcmp(data, formats[i].magic, formats[i].magic_size) == 0)
            return &formats[i];
    if (size >= 12 && memcmp(data, "RIFF", 4) == 0 && memcmp(data + 8, "WEBP", 4) == 0)
        return &webp_format;
    return netpbm_recognised(data, size) ? &netpbm_format : NULL;
}

static llava_status decode_any(const uint8_t *data, size_t size, llava_image **out,
                               llava_error *err) {
    if (size == 0)
        return llava_refuse(err, LLAVA_MALFORMED, LLAVA_REFUSAL_TRUNCATED,
                            "picture: the file is empty");
    const format_entry *format = recognise(data, size);
    if (format == NULL)
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "picture: the content is none of JPEG, PNG, WebP, GIF, BMP, PNM");
    if (format->decode == NULL)
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "picture: unsupported format %s; expected JPEG, PNG, WebP, GIF, BMP "
                          "or PNM",
                          format->name);
    return format->decode(data, size, out, err);
}

/** A decoder's complaint is about its format unless it says otherwise. */
static llava_status classify(llava_error *err, llava_status status) {
    if (status == LLAVA_MALFORMED && err && err->refusal == LLAVA_REFUSAL_NONE)
        err->refusal = LLAVA_REFUSAL_CORRUPT;
    return llava_error_classify(err, status);
}

LLAVA_API llava_status llava_image_decode(const void *data, size_t size, llava_image **image,
                                          llava_error *err) {
    if ((data == NULL && size > 0) || image == NULL)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "picture from bytes: %s is NULL",
                          image == NULL ? "image" : "bytes");
    llava_image *decoded = NULL;
    LLAVA_TRY(classify(err, decode_any(data, size, &decoded, err)));
    *image = decoded;
    return LLAVA_OK;
}

LLAVA_API llava_status llava_image_open(const char *path, llava_image **image, llava_error *err) {
    if (path == NULL || image == NULL)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "opening a picture: %s is NULL",
                          path == NULL ? "path" : "image");
    bytes content = {0};
    LLAVA_TRY(llava_error_classify(err, file_read(path, IMAGE_FILE_MAX, &content, err)));
    llava_image *decoded = NULL;
    llava_status status =
        classify(err, decode_any((const uint8_t *)content.data, content.size, &decoded, err));
    bytes_free(&content);
    if (status != LLAVA_OK) return llava_fail_prefix(err, status, "%s: ", path);
    *image = decoded;
    return LLAVA_OK;
}
