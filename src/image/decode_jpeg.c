/* SPDX-License-Identifier: Apache-2.0
 *
 * JPEG through libjpeg-turbo with its defaults (integer "islow" transform, fancy upsampling), as
 * Pillow uses it. Four-component files are taken for Adobe's inverted CMYK, as Pillow does.
 * EXIF orientation is not applied.
 */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>

#include "decoders.h"

/* Sequential files have up to 4 scans, progressive ones about 10; more is an attack on time. */
#define JPEG_MAX_SCANS 128
/* No Huffman-coded block of 64 pixels takes less than one bit, so a complete file holds at most
 * 512 pixels a byte. Twice that, and pictures below the slack, are let through. */
#define JPEG_PIXELS_PER_BYTE 1024
#define JPEG_PIXELS_SLACK    ((int64_t)16 << 20)
/* Coefficient arrays of progressive files: 2 bytes for each of at most 4 components. */
#define JPEG_MEMORY_MAX ((long)2 << 30)

typedef struct jpeg_job {
    struct jpeg_decompress_struct cinfo; /* first: libjpeg hands back its address */
    struct jpeg_error_mgr errors;
    struct jpeg_source_mgr source;
    struct jpeg_progress_mgr progress;
    jmp_buf escape;
    size_t size;
    llava_image *image;
    uint8_t *cmyk; /* one row of four components */
    llava_status status;
    char message[JMSG_LENGTH_MAX];
} jpeg_job;

static jpeg_job *job_of(j_common_ptr common) { return (jpeg_job *)common; }

static void give_up(jpeg_job *job, llava_status status, const char *message) {
    job->status = status;
    snprintf(job->message, sizeof job->message, "%s", message);
    longjmp(job->escape, 1);
}

static void on_error(j_common_ptr common) {
    char message[JMSG_LENGTH_MAX];
    common->err->format_message(common, message);
    const bool memory = common->err->msg_code == 0 || strstr(message, "nsufficient memory") != NULL;
    give_up(job_of(common), memory ? LLAVA_OUT_OF_MEMORY : LLAVA_MALFORMED, message);
}

static void on_message(j_common_ptr common) { (void)common; }
static void on_warning(j_common_ptr common, int level) { (void)common, (void)level; }

static void on_progress(j_common_ptr common) {
    jpeg_job *job = job_of(common);
    if (job->cinfo.input_scan_number > JPEG_MAX_SCANS)
        give_up(job, LLAVA_MALFORMED, "more scans than any picture needs");
}

static void source_begin(j_decompress_ptr cinfo) { (void)cinfo; }
static void source_end(j_decompress_ptr cinfo) { (void)cinfo; }

static boolean source_fill(j_decompress_ptr cinfo) {
    give_up((jpeg_job *)cinfo, LLAVA_MALFORMED, "the file ends too early");
    return FALSE;
}

static void source_skip(j_decompress_ptr cinfo, long n_bytes) {
    if (n_bytes <= 0) return;
    if ((size_t)n_bytes > cinfo->src->bytes_in_buffer) source_fill(cinfo);
    cinfo->src->next_input_byte += n_bytes;
    cinfo->src->bytes_in_buffer -= (size_t)n_bytes;
}

/** a b / 255, rounded as Pillow's MULDIV255. */
static int muldiv255(int a, int b) {
    const int t = a * b + 128;
    return ((t >> 8) + t) >> 8;
}

/** Samples are stored inverted: C = 255 - sample; then rgb = (255 - K) - C (255 - K) / 255. */
static void cmyk_row(const uint8_t *cmyk, int64_t width, uint8_t *rgb) {
    for (int64_t x = 0; x < width; x++, cmyk += 4, rgb += 3) {
        const int white = cmyk[3];
        for (int c = 0; c < 3; c++) rgb[c] = saturate_u8(white - muldiv255(255 - cmyk[c], white));
    }
}

static void choose_colours(jpeg_job *job) {
    struct jpeg_decompress_struct *cinfo = &job->cinfo;
    switch (cinfo->num_components) {
    case 1: cinfo->out_color_space = JCS_GRAYSCALE; return;
    case 3: cinfo->out_color_space = JCS_RGB; return;
    case 4: cinfo->out_color_space = JCS_CMYK; return;
    default: give_up(job, LLAVA_UNSUPPORTED, "expected 1, 3 or 4 colour components");
    }
}

static void check_declared_size(jpeg_job *job) {
    const int64_t width = job->cinfo.image_width, height = job->cinfo.image_height;
    llava_error err;
    const llava_status status = image_check_size("JPEG", width, height, &err);
    if (status != LLAVA_OK) give_up(job, status, err.message + strlen("JPEG: "));
    const int64_t n_pixels = width * height;
    if (!job->cinfo.arith_code && n_pixels > JPEG_PIXELS_SLACK &&
        n_pixels / JPEG_PIXELS_PER_BYTE > (int64_t)job->size)
        give_up(job, LLAVA_MALFORMED, "the declared size does not fit the file's few bytes");
}

static void read_rows(jpeg_job *job) {
    struct jpeg_decompress_struct *cinfo = &job->cinfo;
    const int64_t width = job->image->width;
    while (cinfo->output_scanline < cinfo->output_height) {
        uint8_t *rgb = job->image->rgb + (size_t)cinfo->output_scanline * (size_t)width * 3;
        JSAMPROW row = cinfo->num_components == 4 ? job->cmyk : rgb;
        jpeg_read_scanlines(cinfo, &row, 1);
        if (cinfo->num_components == 4) cmyk_row(job->cmyk, width, rgb);
        if (cinfo->num_components == 1)
            for (int64_t x = width; x-- > 0;) put_grey(rgb + 3 * x, rgb[x]);
    }
}

/** The only function that libjpeg jumps back into; the job holds all that must survive. */
static void run_jpeg(jpeg_job *job) {
    if (setjmp(job->escape) != 0) return;
    struct jpeg_decompress_struct *cinfo = &job->cinfo;
    jpeg_create_decompress(cinfo);
    cinfo->src = &job->source;
    cinfo->progress = &job->progress;
    cinfo->mem->max_memory_to_use = JPEG_MEMORY_MAX;
    jpeg_read_header(cinfo, TRUE);
    check_declared_size(job);
    choose_colours(job);
    job->status = image_new(cinfo->image_width, cinfo->image_height, &job->image, NULL);
    if (job->status == LLAVA_OK && cinfo->num_components == 4) {
        job->cmyk = malloc((size_t)cinfo->image_width * 4);
        if (job->cmyk == NULL) job->status = LLAVA_OUT_OF_MEMORY;
    }
    if (job->status != LLAVA_OK) give_up(job, job->status, "no memory for the pixels");
    jpeg_start_decompress(cinfo);
    read_rows(job);
    jpeg_finish_decompress(cinfo);
}

llava_status decode_jpeg(const uint8_t *data, size_t size, llava_image **out, llava_error *err) {
    jpeg_job *job = calloc(1, sizeof *job);
    if (job == NULL) return llava_fail_memory(err, sizeof *job, "the JPEG decoder");
    job->size = size;
    job->cinfo.err = jpeg_std_error(&job->errors);
    job->errors.error_exit = on_error;
    job->errors.output_message = on_message;
    job->errors.emit_message = on_warning;
    job->progress.progress_monitor = on_progress;
    job->source = (struct jpeg_source_mgr){.next_input_byte = data,
                                           .bytes_in_buffer = size,
                                           .init_source = source_begin,
                                           .fill_input_buffer = source_fill,
                                           .skip_input_data = source_skip,
                                           .resync_to_restart = jpeg_resync_to_restart,
                                           .term_source = source_end};
    run_jpeg(job);
    const llava_status status = job->status;
    if (status != LLAVA_OK) {
        llava_fail(err, status, "JPEG: %s", job->message);
        llava_image_free(&job->image);
    } else {
        *out = job->image;
    }
    jpeg_destroy_decompress(&job->cinfo);
    free(job->cmyk);
    free(job);
    return status;
}
