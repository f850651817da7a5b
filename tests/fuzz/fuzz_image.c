/* SPDX-License-Identifier: Apache-2.0
 *
 * Picture files: whatever the bytes, decoding gives a picture or an error. Small pictures are
 * then resized with each filter in turn.
 */
#include <stdlib.h>

#include "image/image.h"

#define SMALL_PIXELS (1 << 16)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    llava_image *image = NULL;
    llava_error err = {0};
    if (llava_image_decode(data, size, &image, &err) != LLAVA_OK) {
        if (image != NULL || err.message[0] == '\0') abort();
        return 0;
    }
    int64_t width = 0, height = 0;
    llava_image_get_size(image, &width, &height);
    if (width < 1 || height < 1 || width > IMAGE_MAX_PIXELS / height) abort();
    if (width * height <= SMALL_PIXELS) {
        const image_filter filter = (image_filter)(size % 6);
        llava_image *resized = NULL;
        if (image_resize(image, 1 + (int64_t)(size % 31), 1 + (int64_t)(size % 29), filter,
                         &resized, &err) != LLAVA_OK)
            abort();
        llava_image_free(&resized);
    }
    llava_image_free(&image);
    return 0;
}
