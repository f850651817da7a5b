/* SPDX-License-Identifier: Apache-2.0
 *
 * The first frame of a GIF through giflib, on a canvas as Pillow's GifImagePlugin makes it: the
 * screen, widened where the frame reaches past it, filled with the transparent index or 0.
 */
#include <stdlib.h>

#include <gif_lib.h>

#include "decoders.h"

/* An LZW code of up to 12 bits stands for at most 4096 pixels. */
#define GIF_PIXELS_PER_BYTE 4096
#define GIF_SLACK           ((int64_t)16 << 20)

typedef struct gif_source {
    const uint8_t *data;
    size_t size, at;
} gif_source;

static int read_source(GifFileType *gif, GifByteType *target, int n) {
    gif_source *source = gif->UserData;
    const size_t left = source->size - source->at;
    const size_t take = n < 0 ? 0 : (size_t)n < left ? (size_t)n : left;
    memcpy(target, source->data + source->at, take);
    source->at += take;
    return (int)take;
}

static llava_status gif_fail(llava_error *err, int code) {
    const char *text = GifErrorString(code);
    return llava_fail(err, code == D_GIF_ERR_NOT_ENOUGH_MEM ? LLAVA_OUT_OF_MEMORY : LLAVA_MALFORMED,
                      "GIF: %s", text != NULL ? text : "the file is broken");
}

/** Reads an extension; a graphic control block may name the transparent index. */
static llava_status read_extension(GifFileType *gif, int *transparent, llava_error *err) {
    int kind;
    GifByteType *block;
    if (DGifGetExtension(gif, &kind, &block) != GIF_OK) return gif_fail(err, gif->Error);
    bool first = true;
    while (block != NULL) {
        if (first && kind == GRAPHICS_EXT_FUNC_CODE && block[0] >= 4 && (block[1] & 1))
            *transparent = block[4];
        first = false;
        if (DGifGetExtensionNext(gif, &block) != GIF_OK) return gif_fail(err, gif->Error);
    }
    return LLAVA_OK;
}

/** Advances to the first image's descriptor. */
static llava_status find_frame(GifFileType *gif, int *transparent, llava_error *err) {
    for (;;) {
        GifRecordType record;
        if (DGifGetRecordType(gif, &record) != GIF_OK) return gif_fail(err, gif->Error);
        if (record == TERMINATE_RECORD_TYPE)
            return llava_fail(err, LLAVA_MALFORMED, "GIF: there is no frame");
        if (record == EXTENSION_RECORD_TYPE) LLAVA_TRY(read_extension(gif, transparent, err));
        if (record == IMAGE_DESC_RECORD_TYPE) {
            if (DGifGetImageDesc(gif) != GIF_OK) return gif_fail(err, gif->Error);
            return LLAVA_OK;
        }
    }
}

typedef struct gif_canvas {
    uint8_t palette[256][3];
    llava_image *image;
    GifPixelType *line;
} gif_canvas;

/** The frame's own colours, else the screen's, else grey; undefined entries are black. */
static void read_palette(const GifFileType *gif, gif_canvas *canvas) {
    const ColorMapObject *map = gif->Image.ColorMap ? gif->Image.ColorMap : gif->SColorMap;
    for (int i = 0; i < 256; i++) {
        uint8_t *rgb = canvas->palette[i];
        if (map == NULL) {
            put_grey(rgb, (uint8_t)i);
        } else if (i < map->ColorCount) {
            rgb[0] = map->Colors[i].Red;
            rgb[1] = map->Colors[i].Green;
            rgb[2] = map->Colors[i].Blue;
        }
    }
}

static llava_status make_canvas(const GifFileType *gif, int transparent, gif_canvas *canvas,
                                llava_error *err) {
    const GifImageDesc *frame = &gif->Image;
    if (frame->Left < 0 || frame->Top < 0 || frame->Width <= 0 || frame->Height <= 0)
        return llava_fail(err, LLAVA_MALFORMED, "GIF: a frame of %d x %d pixels", frame->Width,
                          frame->Height);
    const int64_t width = i64_max(gif->SWidth, (int64_t)frame->Left + frame->Width);
    const int64_t height = i64_max(gif->SHeight, (int64_t)frame->Top + frame->Height);
    LLAVA_TRY(image_check_size("GIF", width, height, err));
    const gif_source *source = gif->UserData;
    const int64_t n_pixels = (int64_t)frame->Width * frame->Height;
    if (n_pixels > GIF_SLACK && n_pixels / GIF_PIXELS_PER_BYTE > (int64_t)source->size)
        return llava_fail(err, LLAVA_MALFORMED, "GIF: %zu bytes cannot hold a frame of %d x %d",
                          source->size, frame->Width, frame->Height);
    LLAVA_TRY(image_new(width, height, &canvas->image, err));
    read_palette(gif, canvas);
    const uint8_t *back = canvas->palette[transparent >= 0 ? transparent : 0];
    if (frame->Width < width || frame->Height < height) image_fill(canvas->image, back);
    canvas->line = malloc((size_t)frame->Width);
    if (canvas->line == NULL) return llava_fail_memory(err, (size_t)frame->Width, "a GIF row");
    return LLAVA_OK;
}

static llava_status read_line(GifFileType *gif, gif_canvas *canvas, int y, llava_error *err) {
    const GifImageDesc *frame = &gif->Image;
    if (DGifGetLine(gif, canvas->line, frame->Width) != GIF_OK) return gif_fail(err, gif->Error);
    const size_t row = (size_t)(frame->Top + y) * (size_t)canvas->image->width;
    uint8_t *rgb = canvas->image->rgb + (row + (size_t)frame->Left) * 3;
    for (int x = 0; x < frame->Width; x++) memcpy(rgb + 3 * x, canvas->palette[canvas->line[x]], 3);
    return LLAVA_OK;
}

static llava_status read_lines(GifFileType *gif, gif_canvas *canvas, llava_error *err) {
    static const int start[4] = {0, 4, 2, 1}, step[4] = {8, 8, 4, 2};
    if (!gif->Image.Interlace) {
        for (int y = 0; y < gif->Image.Height; y++) LLAVA_TRY(read_line(gif, canvas, y, err));
        return LLAVA_OK;
    }
    for (int pass = 0; pass < 4; pass++)
        for (int y = start[pass]; y < gif->Image.Height; y += step[pass])
            LLAVA_TRY(read_line(gif, canvas, y, err));
    return LLAVA_OK;
}

llava_status decode_gif(const uint8_t *data, size_t size, llava_image **out, llava_error *err) {
    gif_source source = {.data = data, .size = size};
    int code = 0;
    GifFileType *gif = DGifOpen(&source, read_source, &code);
    if (gif == NULL) return gif_fail(err, code);
    gif_canvas canvas = {.image = NULL};
    int transparent = -1;
    llava_status status;
    LLAVA_TRY_DONE(find_frame(gif, &transparent, err));
    LLAVA_TRY_DONE(make_canvas(gif, transparent, &canvas, err));
    LLAVA_TRY_DONE(read_lines(gif, &canvas, err));
    *out = canvas.image;
    canvas.image = NULL;
done:
    llava_image_free(&canvas.image);
    free(canvas.line);
    DGifCloseFile(gif, &code);
    return status;
}
