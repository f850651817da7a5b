/* SPDX-License-Identifier: Apache-2.0
 *
 * Windows and OS/2 bitmaps: 1, 4, 8 (also run-length coded), 16, 24 and 32 bits per pixel.
 * Conversions follow Pillow's BmpImagePlugin; the run-length codes follow the format where
 * Pillow's decoder has defects (empty rows, odd 4-bit runs, jumps).
 */
#include <stdlib.h>

#include "decoders.h"

/* A run-length coded picture packs at most 255 pixels into 2 bytes. Larger ones that claim twice
 * that are refused before memory is taken. */
#define BMP_RUN_PIXELS_PER_BYTE 256
#define BMP_RUN_SLACK           ((int64_t)16 << 20)

enum { BMP_RAW = 0, BMP_RLE8 = 1, BMP_RLE4 = 2, BMP_BITFIELDS = 3 };

typedef struct bmp_header {
    int64_t width, height;
    bool top_down;
    unsigned bits, compression;
    uint32_t masks[3]; /* red, green, blue; BITFIELDS only */
    uint32_t n_colours;
    size_t palette_at;
    size_t palette_step; /* bytes of an entry: 3 or 4 */
    size_t pixels_at;
    uint8_t palette[256][3];
} bmp_header;

typedef struct bmp_file {
    const uint8_t *data;
    size_t size;
} bmp_file;

static bool in_file(const bmp_file *file, size_t at, size_t n_bytes) {
    return at <= file->size && n_bytes <= file->size - at;
}

static llava_status too_short(llava_error *err, const char *what) {
    return llava_fail(err, LLAVA_MALFORMED, "BMP: the file ends inside its %s", what);
}

static llava_status read_masks(const bmp_file *file, uint32_t header_size, bmp_header *bmp,
                               llava_error *err) {
    /* Behind a 40-byte header, inside a longer one: the same place in the file. */
    if (!in_file(file, 54, 12)) return too_short(err, "colour masks");
    for (size_t i = 0; i < 3; i++) bmp->masks[i] = read_le32(file->data + 54 + 4 * i);
    if (header_size == 40) bmp->palette_at += 12;
    return LLAVA_OK;
}

static llava_status read_info_header(const bmp_file *file, uint32_t header_size, bmp_header *bmp,
                                     llava_error *err) {
    const uint8_t *h = file->data + 14;
    const uint32_t height = read_le32(h + 8);
    bmp->width = read_le32(h + 4);
    bmp->top_down = h[11] == 0xff;
    bmp->height = bmp->top_down ? ((int64_t)1 << 32) - height : (int64_t)height;
    bmp->bits = read_le16(h + 14);
    bmp->compression = read_le32(h + 16);
    bmp->n_colours = read_le32(h + 32);
    bmp->palette_step = 4;
    if (bmp->compression == BMP_BITFIELDS) return read_masks(file, header_size, bmp, err);
    return LLAVA_OK;
}

static llava_status read_header(const bmp_file *file, bmp_header *bmp, llava_error *err) {
    if (!in_file(file, 0, 18)) return too_short(err, "header");
    const uint32_t header_size = read_le32(file->data + 14);
    bmp->pixels_at = read_le32(file->data + 10);
    bmp->palette_at = 14 + (size_t)header_size;
    switch (header_size) {
    case 12:
        if (!in_file(file, 14, 12)) return too_short(err, "header");
        bmp->width = read_le16(file->data + 18);
        bmp->height = read_le16(file->data + 20);
        bmp->bits = read_le16(file->data + 24);
        bmp->palette_step = 3;
        break;
    case 40:
    case 52:
    case 56:
    case 64:
    case 108:
    case 124:
        if (!in_file(file, 14, header_size)) return too_short(err, "header");
        LLAVA_TRY(read_info_header(file, header_size, bmp, err));
        break;
    default:
        return llava_fail(err, LLAVA_UNSUPPORTED, "BMP: a header of %u bytes is not known",
                          header_size);
    }
    if (bmp->pixels_at == 14 + (size_t)header_size && bmp->bits <= 8)
        bmp->pixels_at += 4 * (size_t)(bmp->n_colours ? bmp->n_colours : 1u << bmp->bits);
    return image_check_size("BMP", bmp->width, bmp->height, err);
}

static bool one_byte_mask(uint32_t mask) {
    return mask == 0xffu || mask == 0xff00u || mask == 0xff0000u || mask == 0xff000000u;
}

/** Fills in the masks of uncompressed files and refuses layouts that Pillow does not know. */
static llava_status check_layout(bmp_header *bmp, llava_error *err) {
    const bool rle = (bmp->compression == BMP_RLE8 && bmp->bits == 8) ||
                     (bmp->compression == BMP_RLE4 && bmp->bits == 4);
    if (bmp->compression != BMP_RAW && bmp->compression != BMP_BITFIELDS && !rle)
        return llava_fail(err, LLAVA_UNSUPPORTED, "BMP: compression %u with %u bits is not known",
                          bmp->compression, bmp->bits);
    uint32_t *m = bmp->masks;
    const bool masked = bmp->compression == BMP_BITFIELDS;
    if (!masked || (m[0] | m[1] | m[2]) == 0)
        for (int i = 0; i < 3; i++)
            m[i] = bmp->bits == 16 ? 0x1fu << (10 - 5 * i) : 0xffu << (16 - 8 * i);
    bool known;
    switch (bmp->bits) {
    case 1:
    case 4:
    case 8: known = !masked; break;
    case 16:
        known = m[2] == 0x1f &&
                ((m[0] == 0x7c00 && m[1] == 0x3e0) || (m[0] == 0xf800 && m[1] == 0x7e0));
        break;
    case 24: known = m[0] == 0xff0000 && m[1] == 0xff00 && m[2] == 0xff; break;
    case 32: known = one_byte_mask(m[0]) && one_byte_mask(m[1]) && one_byte_mask(m[2]); break;
    default: known = false;
    }
    if (!known)
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "BMP: %u bits per pixel with masks %08x %08x %08x are not supported",
                          bmp->bits, m[0], m[1], m[2]);
    return LLAVA_OK;
}

/** Colours that the file does not define are black. */
static llava_status read_palette(const bmp_file *file, bmp_header *bmp, llava_error *err) {
    if (bmp->bits > 8) return LLAVA_OK;
    const uint32_t n = bmp->n_colours ? bmp->n_colours : 1u << bmp->bits;
    if (n > 256)
        return llava_fail(err, LLAVA_MALFORMED, "BMP: a palette of %u colours, at most 256", n);
    for (uint32_t i = 0; i < n; i++) {
        const size_t at = bmp->palette_at + i * bmp->palette_step;
        if (!in_file(file, at, 3)) break;
        for (size_t c = 0; c < 3; c++) bmp->palette[i][c] = file->data[at + 2 - c];
    }
    if (bmp->pixels_at == 0) bmp->pixels_at = bmp->palette_at + n * bmp->palette_step;
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- pixels */

/** A field of 5, 6 or 8 bits widened to 8, rounded down as Pillow does. */
static uint8_t take_field(uint32_t pixel, uint32_t mask) {
    const int shift = __builtin_ctz(mask);
    return (uint8_t)((pixel >> shift & mask >> shift) * 255 / (mask >> shift));
}

static void put_row(const bmp_header *bmp, const uint8_t *row, uint8_t *rgb) {
    for (int64_t x = 0; x < bmp->width; x++, rgb += 3) {
        if (bmp->bits <= 8) {
            const size_t bit = (size_t)x * bmp->bits;
            const unsigned value =
                row[bit / 8] >> (8 - bmp->bits - bit % 8) & ((1u << bmp->bits) - 1);
            memcpy(rgb, bmp->palette[value], 3);
        } else if (bmp->bits == 24) {
            const uint8_t *p = row + 3 * x;
            rgb[0] = p[2], rgb[1] = p[1], rgb[2] = p[0];
        } else {
            const uint32_t pixel =
                bmp->bits == 16 ? read_le16(row + 2 * x) : read_le32(row + 4 * x);
            for (int c = 0; c < 3; c++) rgb[c] = take_field(pixel, bmp->masks[c]);
        }
    }
}

static uint8_t *target_row(const bmp_header *bmp, llava_image *image, int64_t y) {
    const int64_t row = bmp->top_down ? y : bmp->height - 1 - y;
    return image->rgb + (size_t)row * (size_t)bmp->width * 3;
}

static llava_status read_raw(const bmp_file *file, const bmp_header *bmp, llava_image *image,
                             llava_error *err) {
    const size_t used = ((size_t)bmp->width * bmp->bits + 7) / 8;
    const size_t stride = (used + 3) / 4 * 4;
    for (int64_t y = 0; y < bmp->height; y++) {
        const size_t at = bmp->pixels_at + (size_t)y * stride;
        if (!in_file(file, at, used)) return too_short(err, "pixels");
        put_row(bmp, file->data + at, target_row(bmp, image, y));
    }
    return LLAVA_OK;
}

typedef struct rle_state {
    const bmp_header *bmp;
    llava_image *image;
    int64_t x, y;
} rle_state;

static void rle_put(rle_state *s, unsigned index) {
    if (s->x < s->bmp->width && s->y < s->bmp->height)
        memcpy(target_row(s->bmp, s->image, s->y) + 3 * s->x, s->bmp->palette[index & 255], 3);
    s->x++;
}

static unsigned rle_nibble(uint8_t byte, unsigned i) { return i % 2 ? byte & 15u : byte >> 4; }

/** A run of literal pixels at data[at..], padded to 16 bits; returns the bytes it takes. */
static size_t rle_literal(rle_state *s, const uint8_t *data, unsigned count) {
    const bool nibbles = s->bmp->compression == BMP_RLE4;
    const size_t used = nibbles ? (count + 1) / 2 : count;
    for (unsigned i = 0; i < count; i++) rle_put(s, nibbles ? rle_nibble(data[i / 2], i) : data[i]);
    return (used + 1) / 2 * 2;
}

static llava_status read_rle(const bmp_file *file, const bmp_header *bmp, llava_image *image,
                             llava_error *err) {
    rle_state s = {.bmp = bmp, .image = image};
    size_t at = bmp->pixels_at;
    const bool nibbles = bmp->compression == BMP_RLE4;
    image_fill(image, bmp->palette[0]);
    while (s.y < bmp->height) {
        if (!in_file(file, at, 2)) return too_short(err, "pixels");
        const unsigned count = file->data[at], code = file->data[at + 1];
        at += 2;
        if (count > 0) {
            for (unsigned i = 0; i < count; i++)
                rle_put(&s, nibbles ? rle_nibble((uint8_t)code, i) : code);
        } else if (code == 0) {
            s.x = 0;
            s.y++;
        } else if (code == 1) {
            break;
        } else if (code == 2) {
            if (!in_file(file, at, 2)) return too_short(err, "pixels");
            s.x += file->data[at];
            s.y += file->data[at + 1];
            at += 2;
        } else {
            if (!in_file(file, at, nibbles ? (code + 1) / 2 : code))
                return too_short(err, "pixels");
            at += rle_literal(&s, file->data + at, code);
        }
    }
    return LLAVA_OK;
}

llava_status decode_bmp(const uint8_t *data, size_t size, llava_image **out, llava_error *err) {
    const bmp_file file = {.data = data, .size = size};
    bmp_header bmp = {0};
    LLAVA_TRY(read_header(&file, &bmp, err));
    LLAVA_TRY(check_layout(&bmp, err));
    LLAVA_TRY(read_palette(&file, &bmp, err));
    if (bmp.pixels_at == 0) bmp.pixels_at = bmp.palette_at;
    const bool rle = bmp.compression == BMP_RLE8 || bmp.compression == BMP_RLE4;
    const size_t used = ((size_t)bmp.width * bmp.bits + 7) / 8;
    if (!rle && !in_file(&file, bmp.pixels_at, used * (size_t)bmp.height))
        return too_short(err, "pixels"); /* before the pixels are allocated */
    const int64_t n_pixels = bmp.width * bmp.height;
    if (rle && n_pixels > BMP_RUN_SLACK && (size_t)(n_pixels / BMP_RUN_PIXELS_PER_BYTE) > size)
        return too_short(err, "pixels");
    llava_image *image = NULL;
    LLAVA_TRY(image_new(bmp.width, bmp.height, &image, err));
    const llava_status status =
        rle ? read_rle(&file, &bmp, image, err) : read_raw(&file, &bmp, image, err);
    if (status != LLAVA_OK)
        llava_image_free(&image);
    else
        *out = image;
    return status;
}
