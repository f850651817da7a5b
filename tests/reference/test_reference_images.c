/* SPDX-License-Identifier: Apache-2.0
 *
 * Pictures against the recorded reference: decoding, broken files, resizing, preparation, tiles
 * and packing.
 */
#include <zlib.h>

#include "config/config_read.h"
#include "reference_images.h"

/* Decoders guess the coefficients that a progressive JPEG never sends, and versions 2.1 and 3.0
 * of libjpeg-turbo guess differently. */
#define UNSENT_TOLERANCE 4

/* ---------------------------------------------------------------- shared */

const char *images_path(const char *name, char buffer[2048]) {
    snprintf(buffer, 2048, "%s/images/%s", reference_folder(), name);
    return buffer;
}

json_t *images_json(const char *name) {
    char path[2048];
    json_t *root = NULL;
    llava_error err;
    if (!path_is_file(images_path(name, path))) {
        printf("images/%s: not there\n", name);
        return NULL;
    }
    if (json_read_file(path, &root, &err) != LLAVA_OK) printf("%s\n", err.message);
    return root;
}

uint32_t crc_of(const void *data, size_t n_bytes) { return (uint32_t)crc32_z(0, data, n_bytes); }

bool crc_matches(const json_t *expected, uint32_t crc) {
    char text[16];
    snprintf(text, sizeof text, "%08x", crc);
    return json_is_string(expected) && strcmp(json_string_value(expected), text) == 0;
}

int64_t int_at(const json_t *array, size_t index) {
    return json_integer_value(json_array_get(array, index));
}

llava_image *synth_image(int64_t width, int64_t height, int64_t roll) {
    llava_image *image = NULL;
    if (image_new(width, height, &image, NULL) != LLAVA_OK) abort();
    for (int64_t y = 0; y < height; y++)
        for (int64_t i = 0; i < width; i++) {
            const int64_t x = ((i - roll) % width + width) % width;
            uint8_t *rgb = image->rgb + 3 * (y * width + i);
            rgb[0] = (uint8_t)(7 * x + 13 * y);
            rgb[1] = (uint8_t)(x * x + 3 * y);
            rgb[2] = (uint8_t)(5 * (x ^ y));
        }
    return image;
}

static llava_status parse_processor(const json_t *json, llava_config *config, llava_error *err) {
    const char *kind = json_string_value(json_get(json, "class"));
    if (kind == NULL || strcmp(kind, "siglip") != 0) {
        LLAVA_TRY(config_parse_processor(json, "processor", &config->processor, err));
        config->tower = (tower_config){
            .kind = TOWER_CLIP, .image_size = config->processor.crop_height, .patch_size = 14};
        return LLAVA_OK;
    }
    const json_t *size = json_get(json, "size");
    const int64_t side = size == NULL ? 384 : int_at(size, 0);
    config->processor = (processor_config){.kind = TOWER_SIGLIP,
                                           .do_resize = true,
                                           .do_rescale = true,
                                           .do_normalize = true,
                                           .size_width = side,
                                           .size_height = side,
                                           .crop_width = side,
                                           .crop_height = side,
                                           .resample = FILTER_BICUBIC,
                                           .rescale_factor = 1.0 / 255.0,
                                           .mean = {0.5, 0.5, 0.5},
                                           .std = {0.5, 0.5, 0.5}};
    config->tower = (tower_config){.kind = TOWER_SIGLIP, .image_size = side, .patch_size = 14};
    return LLAVA_OK;
}

llava_status processor_from_json(const json_t *processor, const json_t *mm,
                                 llava_image_processor **out, llava_error *err) {
    llava_config config = {.memory = arena_new()};
    const reader r = {.object = mm, .what = "recorded config", .err = err};
    llava_status status = parse_processor(processor, &config, err);
    if (status == LLAVA_OK) status = config_parse_mm(&config, &r);
    if (status == LLAVA_OK) status = image_processor_new(&config, out, err);
    arena_free(&config.memory);
    return status;
}

/* ---------------------------------------------------------------- decoding */

/** Marks which coefficient bits the scans of a progressive JPEG send; true if some are missing. */
static bool lacks_coefficients(const uint8_t *p, size_t size) {
    uint8_t unsent[4][64];
    uint8_t ids[4] = {0};
    int n_components = 0;
    memset(unsent, 1, sizeof unsent);
    for (size_t at = 2; at + 4 <= size;) {
        const uint8_t marker = p[at + 1];
        if (p[at] != 0xff || marker == 0 || marker == 0xff || (marker >= 0xd0 && marker <= 0xd8)) {
            at += p[at] == 0xff && marker != 0xff ? 2 : 1;
            continue;
        }
        const size_t length = (size_t)p[at + 2] << 8 | p[at + 3];
        if (marker == 0xd9 || at + 2 + length > size) break;
        const uint8_t *body = p + at + 4;
        if (marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 &&
            marker != 0xcc) {
            if (marker != 0xc2 && marker != 0xca) return false; /* not progressive */
            n_components = body[5] < 4 ? body[5] : 4;
            for (int i = 0; i < n_components; i++) ids[i] = body[6 + 3 * i];
        } else if (marker == 0xda) {
            const uint8_t *spectrum = body + 1 + 2 * body[0];
            for (int s = 0; s < body[0]; s++)
                for (int i = 0; i < n_components; i++)
                    if (ids[i] == body[1 + 2 * s])
                        for (int k = spectrum[0]; k <= spectrum[1] && k < 64; k++)
                            unsent[i][k] = spectrum[2] & 15;
        }
        at += 2 + length;
    }
    for (int i = 0; i < n_components; i++)
        if (memchr(unsent[i], 0, 64) == NULL || memcmp(unsent[i], (uint8_t[64]){0}, 64) != 0)
            return true;
    return false;
}

/** Largest difference to the recorded pixels of folder/rgb_file, or -1 if there are none. */
static int recorded_difference(const char *folder, const json_t *made, const llava_image *image) {
    char name[1024], path[2048];
    llava_image *other = NULL;
    const char *file = json_string_value(json_get(made, "rgb_file"));
    if (file == NULL) return -1;
    snprintf(name, sizeof name, "%s/%s", folder, file);
    if (llava_image_open(images_path(name, path), &other, NULL) != LLAVA_OK) return -1;
    int largest = -1;
    if (other->width == image->width && other->height == image->height) {
        largest = 0;
        for (int64_t i = 0; i < 3 * image->width * image->height; i++) {
            const int difference = abs(image->rgb[i] - other->rgb[i]);
            if (difference > largest) largest = difference;
        }
    }
    llava_image_free(&other);
    return largest;
}

static bool incomplete_jpeg(const char *path) {
    bytes content = {0};
    if (file_read(path, (size_t)1 << 26, &content, NULL) != LLAVA_OK) return false;
    const bool found = content.size > 4 && memcmp(content.data, "\xff\xd8", 2) == 0 &&
                       lacks_coefficients((const uint8_t *)content.data, content.size);
    bytes_free(&content);
    return found;
}

static void check_decoded(reference_count *count, const char *name, const char *path,
                          const json_t *c) {
    llava_image *image = NULL;
    llava_error err;
    const llava_status status = llava_image_open(path, &image, &err);
    if (status == LLAVA_UNSUPPORTED &&
        strcmp(json_string_value(json_get(c, "format")), "TIFF") == 0) {
        reference_skip(count, name, "%s", err.message);
        return;
    }
    if (status != LLAVA_OK) {
        reference_fail(count, name, "%s", err.message);
        return;
    }
    const json_t *size = json_get(c, "size");
    const bool same_size = image->width == int_at(size, 0) && image->height == int_at(size, 1);
    const uint32_t crc = crc_of(image->rgb, (size_t)(3 * image->width * image->height));
    if (!same_size) {
        reference_fail(count, name, "%lld x %lld pixels", (long long)image->width,
                       (long long)image->height);
    } else if (crc_matches(json_get(c, "rgb_crc32"), crc)) {
        reference_pass(count);
    } else {
        const int difference = recorded_difference("decode", c, image);
        if (incomplete_jpeg(path) && difference >= 0 && difference <= UNSENT_TOLERANCE) {
            printf("images/decode: %s: coefficients never sent, largest difference %d\n", name,
                   difference);
            reference_pass(count);
        } else {
            reference_fail(count, name, "other pixels, crc32 %08x, largest difference %d", crc,
                           difference);
        }
    }
    llava_image_free(&image);
}

static bool run_decode(void) {
    json_t *root = images_json("decode/decode.json");
    if (root == NULL) return true;
    reference_count count = {.folder = "images/decode"};
    const char *name;
    json_t *c;
    json_object_foreach(json_object_get(root, "cases"), name, c) {
        char file[512], path[2048];
        snprintf(file, sizeof file, "decode/%s", name);
        check_decoded(&count, name, images_path(file, path), c);
    }
    json_decref(root);
    return reference_close(&count);
}

/* ---------------------------------------------------------------- broken files */

static const char *hostile_mistake(const char *expected, const json_t *pillow,
                                   const llava_image *image, llava_status status) {
    const json_t *size = json_get(pillow, "size");
    const bool decoded = status == LLAVA_OK;
    if (strcmp(expected, "reject") == 0) return decoded ? "expected an error" : NULL;
    if (strcmp(expected, "either") == 0) {
        if (!decoded || size == NULL) return NULL;
        return image->width == int_at(size, 0) && image->height == int_at(size, 1)
                   ? NULL
                   : "a picture of another size than declared";
    }
    if (!decoded) return "expected a picture";
    return recorded_difference("hostile", pillow, image) == 0 ? NULL : "other pixels";
}

static bool run_hostile(void) {
    json_t *root = images_json("hostile/hostile.json");
    if (root == NULL) return true;
    reference_count count = {.folder = "images/hostile"};
    const char *name;
    json_t *c;
    json_object_foreach(json_object_get(root, "cases"), name, c) {
        char file[512], path[2048];
        snprintf(file, sizeof file, "hostile/%s", name);
        llava_image *image = NULL;
        llava_error err = {0};
        const double start = now_ms();
        const llava_status status = llava_image_open(images_path(file, path), &image, &err);
        const double took = now_ms() - start;
        const char *mistake = hostile_mistake(json_string_value(json_get(c, "expected")),
                                              json_get(c, "pillow"), image, status);
        if (mistake == NULL && status == LLAVA_IO) mistake = "the file is missing";
        if (mistake == NULL && took > 20000) mistake = "took more than 20 s";
        if (mistake != NULL)
            reference_fail(&count, name, "%s (%s)", mistake, err.message);
        else
            reference_pass(&count);
        llava_image_free(&image);
    }
    json_decref(root);
    return reference_close(&count);
}

/* ---------------------------------------------------------------- resizing */

static int filter_number(const char *name) {
    static const char *const names[] = {"nearest", "lanczos", "bilinear",
                                        "bicubic", "box",     "hamming"};
    for (int i = 0; i < (int)LLAVA_COUNT(names); i++)
        if (strcmp(names[i], name) == 0) return i;
    return -1;
}

static void check_resize(reference_count *count, const json_t *row, size_t filter_at,
                         size_t crc_at) {
    char name[128];
    const char *filter = json_string_value(json_array_get(row, filter_at));
    snprintf(name, sizeof name, "%lldx%lld to %lldx%lld %s", (long long)int_at(row, 0),
             (long long)int_at(row, 1), (long long)int_at(row, 2), (long long)int_at(row, 3),
             filter);
    llava_image *source = synth_image(int_at(row, 0), int_at(row, 1), 0), *resized = NULL;
    llava_error err;
    if (image_resize(source, int_at(row, 2), int_at(row, 3), (image_filter)filter_number(filter),
                     &resized, &err) != LLAVA_OK)
        reference_fail(count, name, "%s", err.message);
    else if (!crc_matches(json_array_get(row, crc_at),
                          crc_of(resized->rgb, (size_t)(3 * resized->width * resized->height))))
        reference_fail(count, name, "other pixels");
    else
        reference_pass(count);
    llava_image_free(&source);
    llava_image_free(&resized);
}

static bool run_resize(void) {
    json_t *root = images_json("process/resize.json");
    if (root == NULL) return true;
    reference_count count = {.folder = "images/resize"};
    size_t i;
    json_t *row;
    json_array_foreach(json_object_get(json_object_get(root, "resize"), "rows"), i, row) {
        if (strcmp(json_string_value(json_array_get(row, 4)), "RGB") == 0)
            check_resize(&count, row, 5, 6);
        else
            reference_skip(&count, json_string_value(json_array_get(row, 4)),
                           "pictures are RGB here");
    }
    json_array_foreach(json_object_get(json_object_get(root, "box"), "rows"), i, row) {
        if (json_is_null(json_array_get(row, 5)) && json_is_null(json_array_get(row, 6)))
            check_resize(&count, row, 4, 7);
        else
            reference_skip(&count, "box or reducing_gap", "no part of the reference uses it");
    }
    json_array_foreach(json_object_get(json_object_get(root, "reduce"), "rows"), i, row)
        reference_skip(&count, "reduce", "no part of the reference uses it");
    json_decref(root);
    return reference_close(&count);
}

int main(void) {
    bool good = run_decode();
    good = run_hostile() && good;
    good = run_resize() && good;
    good = run_process() && good;
    good = run_grid() && good;
    good = run_traces() && good;
    return good ? 0 : 1;
}
