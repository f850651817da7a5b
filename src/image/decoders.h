/* SPDX-License-Identifier: Apache-2.0
 *
 * One decoder per file format. Each checks the declared size against IMAGE_MAX_PIXELS before it
 * allocates, and gives the pixels of Pillow 10.3's Image.open(f).convert("RGB").
 */
#ifndef LLAVA_IMAGE_DECODERS_H
#define LLAVA_IMAGE_DECODERS_H

#include "image.h"

typedef llava_status (*image_decoder)(const uint8_t *data, size_t size, llava_image **out,
                                      llava_error *err);

llava_status decode_jpeg(const uint8_t *data, size_t size, llava_image **out, llava_error *err);
llava_status decode_png(const uint8_t *data, size_t size, llava_image **out, llava_error *err);
llava_status decode_webp(const uint8_t *data, size_t size, llava_image **out, llava_error *err);
llava_status decode_gif(const uint8_t *data, size_t size, llava_image **out, llava_error *err);
llava_status decode_bmp(const uint8_t *data, size_t size, llava_image **out, llava_error *err);
llava_status decode_netpbm(const uint8_t *data, size_t size, llava_image **out, llava_error *err);

/** True when the bytes start like the format. */
bool netpbm_recognised(const uint8_t *data, size_t size);

/** Width and height positive and within the limit; `format` names the file in the error. */
llava_status image_check_size(const char *format, int64_t width, int64_t height, llava_error *err);

static inline uint16_t read_le16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static inline uint32_t read_le32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/** Clamps the wide sample values of 16-bit grey, as Pillow's conversion from mode I does. */
static inline uint8_t saturate_u8(int64_t value) {
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

static inline void put_grey(uint8_t *rgb, uint8_t value) { rgb[0] = rgb[1] = rgb[2] = value; }

#endif
