/* SPDX-License-Identifier: Apache-2.0
 *
 * WebP through libwebp: the first frame on its canvas, alpha dropped, as Pillow gives it.
 */
#include <webp/decode.h>
#include <webp/demux.h>

#include "decoders.h"

static llava_status decode_frame(const WebPIterator *frame, llava_image *image, llava_error *err) {
    WebPDecoderConfig config;
    if (!WebPInitDecoderConfig(&config))
        return llava_fail(err, LLAVA_INTERNAL, "WebP: the library's version does not match");
    if (WebPGetFeatures(frame->fragment.bytes, frame->fragment.size, &config.input) !=
            VP8_STATUS_OK ||
        config.input.width != frame->width || config.input.height != frame->height)
        return llava_fail(err, LLAVA_MALFORMED, "WebP: the frame's header is broken");
    const size_t stride = (size_t)image->width * 3;
    const size_t offset = (size_t)frame->y_offset * stride + (size_t)frame->x_offset * 3;
    config.output.colorspace = MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = image->rgb + offset;
    config.output.u.RGBA.stride = (int)stride;
    config.output.u.RGBA.size = stride * (size_t)image->height - offset;
    const VP8StatusCode code = WebPDecode(frame->fragment.bytes, frame->fragment.size, &config);
    if (code == VP8_STATUS_OUT_OF_MEMORY)
        return llava_fail(err, LLAVA_OUT_OF_MEMORY, "WebP: the decoder ran out of memory");
    if (code != VP8_STATUS_OK)
        return llava_fail(err, LLAVA_MALFORMED, "WebP: the picture data is broken (code %d)",
                          (int)code);
    return LLAVA_OK;
}

static llava_status place_frame(const WebPDemuxer *demux, llava_image **out, llava_error *err) {
    const int64_t width = WebPDemuxGetI(demux, WEBP_FF_CANVAS_WIDTH);
    const int64_t height = WebPDemuxGetI(demux, WEBP_FF_CANVAS_HEIGHT);
    LLAVA_TRY(image_check_size("WebP", width, height, err));
    WebPIterator frame;
    if (!WebPDemuxGetFrame(demux, 1, &frame))
        return llava_fail(err, LLAVA_MALFORMED, "WebP: there is no frame");
    llava_status status = LLAVA_OK;
    llava_image *image = NULL;
    if (!frame.complete || frame.x_offset < 0 || frame.y_offset < 0 ||
        frame.width > width - frame.x_offset || frame.height > height - frame.y_offset)
        status = llava_fail(err, LLAVA_MALFORMED, "WebP: the first frame leaves its canvas");
    if (status == LLAVA_OK) status = image_new(width, height, &image, err);
    if (status == LLAVA_OK) {
        if (frame.width < width || frame.height < height)
            memset(image->rgb, 0, (size_t)width * (size_t)height * 3);
        status = decode_frame(&frame, image, err);
    }
    WebPDemuxReleaseIterator(&frame);
    if (status != LLAVA_OK)
        llava_image_free(&image);
    else
        *out = image;
    return status;
}

llava_status decode_webp(const uint8_t *data, size_t size, llava_image **out, llava_error *err) {
    const WebPData file = {.bytes = data, .size = size};
    WebPDemuxer *demux = WebPDemux(&file);
    if (demux == NULL)
        return llava_fail(err, LLAVA_MALFORMED, "WebP: the container is cut off or broken");
    const llava_status status = place_frame(demux, out, err);
    WebPDemuxDelete(demux);
    return status;
}
