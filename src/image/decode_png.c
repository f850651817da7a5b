/* SPDX-License-Identifier: Apache-2.0
 *
 * PNG through libspng. Raw samples are converted here, so that the result is Pillow's: palette
 * lookup without transparency, alpha dropped, high byte of 16-bit colour, saturated 16-bit grey.
 */
#include <stdlib.h>

#include <spng.h>

#include "decoders.h"

/* Limits on ancillary chunks (text, profiles), inflated: bombs hide there. */
#define PNG_CHUNK_MAX  ((size_t)16 << 20)
#define PNG_CHUNKS_MAX ((size_t)64 << 20)
/* Deflate cannot pack more than 1032 bytes into one. */
#define PNG_INFLATE_MAX 1040
#define PNG_SLACK       ((uint64_t)16 << 20)

typedef struct png_job {
    spng_ctx *ctx;
    struct spng_ihdr header;
    uint8_t palette[256][3];
    uint8_t *row; /* raw samples of one row, big-endian */
    size_t row_size;
    llava_image *image;
} png_job;

static llava_status png_fail(llava_error *err, int code) {
    const llava_status status = code == SPNG_EMEM ? LLAVA_OUT_OF_MEMORY : LLAVA_MALFORMED;
    return llava_fail(err, status, "PNG: %s", spng_strerror(code));
}

static int samples_per_pixel(uint8_t colour_type) {
    switch (colour_type) {
    case SPNG_COLOR_TYPE_GRAYSCALE_ALPHA: return 2;
    case SPNG_COLOR_TYPE_TRUECOLOR: return 3;
    case SPNG_COLOR_TYPE_TRUECOLOR_ALPHA: return 4;
    default: return 1;
    }
}

/** What each sample of up to 8 bits stands for; colours that the file does not define are black. */
static void fill_palette(png_job *job) {
    struct spng_plte plte;
    const unsigned depth = job->header.bit_depth;
    if (job->header.color_type == SPNG_COLOR_TYPE_GRAYSCALE && depth <= 8) {
        const unsigned mask = (1u << depth) - 1;
        for (unsigned v = 0; v <= mask; v++) put_grey(job->palette[v], (uint8_t)(v * (255 / mask)));
    }
    if (job->header.color_type != SPNG_COLOR_TYPE_INDEXED) return;
    if (spng_get_plte(job->ctx, &plte) != 0) return;
    for (uint32_t i = 0; i < plte.n_entries && i < 256; i++) {
        job->palette[i][0] = plte.entries[i].red;
        job->palette[i][1] = plte.entries[i].green;
        job->palette[i][2] = plte.entries[i].blue;
    }
}

/** The pixels of one row, or of one pass of it, that a file holds. */
typedef struct row_pixels {
    size_t start, step, width;
    uint8_t *rgb;
} row_pixels;

/** Samples of 1, 2, 4 or 8 bits, packed from the high bit down. */
static void put_palette_row(const png_job *job, const row_pixels *r) {
    const unsigned depth = job->header.bit_depth, mask = (1u << depth) - 1;
    for (size_t x = r->start; x < r->width; x += r->step) {
        const size_t bit = x * depth;
        const unsigned value = job->row[bit / 8] >> (8 - depth - bit % 8) & mask;
        memcpy(r->rgb + 3 * x, job->palette[value], 3);
    }
}

/** Whole samples; of 16-bit colour the high byte, which comes first. */
static void put_sample_row(const png_job *job, const row_pixels *r) {
    const size_t n = (size_t)samples_per_pixel(job->header.color_type);
    const size_t size = job->header.bit_depth / 8;
    for (size_t x = r->start; x < r->width; x += r->step) {
        const uint8_t *sample = job->row + x * n * size;
        if (n == 1) {
            put_grey(r->rgb + 3 * x, saturate_u8(sample[0] << 8 | sample[1]));
        } else {
            const size_t next = n > 2 ? size : 0; /* grey: three times the same */
            r->rgb[3 * x] = sample[0];
            r->rgb[3 * x + 1] = sample[next];
            r->rgb[3 * x + 2] = sample[2 * next];
        }
    }
}

static void put_row(const png_job *job, const struct spng_row_info *info) {
    static const uint8_t adam7_start[7] = {0, 4, 0, 2, 0, 1, 0};
    static const uint8_t adam7_step[7] = {8, 8, 4, 4, 2, 2, 1};
    const bool interlaced = job->header.interlace_method != SPNG_INTERLACE_NONE;
    const size_t width = job->header.width;
    const row_pixels r = {.start = interlaced ? adam7_start[info->pass] : 0,
                          .step = interlaced ? adam7_step[info->pass] : 1,
                          .width = width,
                          .rgb = job->image->rgb + (size_t)info->row_num * width * 3};
    if (samples_per_pixel(job->header.color_type) == 1 && job->header.bit_depth <= 8)
        put_palette_row(job, &r);
    else
        put_sample_row(job, &r);
}

static llava_status read_header(png_job *job, const uint8_t *data, size_t size, llava_error *err) {
    job->ctx = spng_ctx_new(0);
    if (job->ctx == NULL) return llava_fail_memory(err, 0, "the PNG decoder");
    spng_set_chunk_limits(job->ctx, PNG_CHUNK_MAX, PNG_CHUNKS_MAX);
    spng_set_crc_action(job->ctx, SPNG_CRC_ERROR, SPNG_CRC_DISCARD);
    int code = spng_set_png_buffer(job->ctx, data, size);
    if (code == 0) code = spng_get_ihdr(job->ctx, &job->header);
    if (code != 0) return png_fail(err, code);
    const int64_t width = job->header.width, height = job->header.height;
    LLAVA_TRY(image_check_size("PNG", width, height, err));
    const uint64_t bits =
        (uint64_t)job->header.bit_depth * (uint64_t)samples_per_pixel(job->header.color_type);
    job->row_size = (size_t)(((uint64_t)width * bits + 7) / 8);
    const uint64_t raw = (uint64_t)job->row_size * (uint64_t)height;
    if (raw > PNG_SLACK && raw / PNG_INFLATE_MAX > size)
        return llava_fail(err, LLAVA_MALFORMED,
                          "PNG: %zu bytes cannot hold the declared %lld x %lld pixels", size,
                          (long long)width, (long long)height);
    return LLAVA_OK;
}

static llava_status read_rows(png_job *job, llava_error *err) {
    job->row = malloc(job->row_size);
    if (job->row == NULL) return llava_fail_memory(err, job->row_size, "a PNG row");
    LLAVA_TRY(image_new(job->header.width, job->header.height, &job->image, err));
    int code = spng_decode_image(job->ctx, NULL, 0, SPNG_FMT_RAW, SPNG_DECODE_PROGRESSIVE);
    if (code != 0) return png_fail(err, code);
    fill_palette(job);
    while (code == 0) {
        struct spng_row_info info;
        code = spng_get_row_info(job->ctx, &info);
        if (code != 0) break;
        memset(job->row, 0, job->row_size);
        code = spng_decode_row(job->ctx, job->row, job->row_size);
        if (code == 0 || code == SPNG_EOI) put_row(job, &info);
    }
    return code == SPNG_EOI ? LLAVA_OK : png_fail(err, code);
}

llava_status decode_png(const uint8_t *data, size_t size, llava_image **out, llava_error *err) {
    png_job job = {0};
    llava_status status;
    LLAVA_TRY_DONE(read_header(&job, data, size, err));
    LLAVA_TRY_DONE(read_rows(&job, err));
    *out = job.image;
    job.image = NULL;
done:
    llava_image_free(&job.image);
    free(job.row);
    spng_ctx_free(job.ctx);
    return status;
}
