/* SPDX-License-Identifier: Apache-2.0
 *
 * What the parts of the picture suite share: recorded JSON, generated pictures, checksums, and
 * image processors made from recorded configurations.
 */
#ifndef LLAVA_TEST_REFERENCE_IMAGES_H
#define LLAVA_TEST_REFERENCE_IMAGES_H

#include "base/json.h"
#include "image/image.h"
#include "support/reference.h"

/** Reads FOLDER/images/NAME; NULL (and a line that says so) when it is not there. */
json_t *images_json(const char *name);
/** FOLDER/images/NAME into buffer. */
const char *images_path(const char *name, char buffer[2048]);

uint32_t crc_of(const void *data, size_t n_bytes);
bool crc_matches(const json_t *expected, uint32_t crc); /* eight hexadecimal digits */
int64_t int_at(const json_t *array, size_t index);

/** R = 7x + 13y, G = x^2 + 3y, B = 5 (x xor y), all mod 256; rolled right by `roll`. */
llava_image *synth_image(int64_t width, int64_t height, int64_t roll);

/** `processor` is one of process.json's processors, `mm` the keys of config.json. */
llava_status processor_from_json(const json_t *processor, const json_t *mm,
                                 llava_image_processor **out, llava_error *err);

bool run_process(void);
bool run_grid(void);
bool run_traces(void);

#endif
