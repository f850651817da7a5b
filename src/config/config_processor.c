/* SPDX-License-Identifier: Apache-2.0
 *
 * preprocessor_config.json of a CLIP tower. Defaults: transformers 4.40, CLIPImageProcessor.
 */
#include <math.h>

#include "config_read.h"

/** Sizes are an integer, [height, width], {"height", "width"} or {"shortest_edge"}. */
static llava_status read_size(const reader *r, const char *key, int64_t *shortest, size2 *size) {
    const json_t *value = json_get(r->object, key);
    if (!value) return LLAVA_OK;
    *shortest = 0;
    *size = (size2){0};
    if (json_is_number(value)) return read_int(r, key, 0, 1, CONFIG_MAX_PICTURE, shortest);
    if (json_is_array(value) && json_array_size(value) == 2) {
        size->height = json_integer_value(json_array_get(value, 0));
        size->width = json_integer_value(json_array_get(value, 1));
    } else if (json_is_object(value)) {
        const reader inner = {value, key, r->err};
        LLAVA_TRY(read_int(&inner, "shortest_edge", 0, 1, CONFIG_MAX_PICTURE, shortest));
        LLAVA_TRY(read_int(&inner, "height", 0, 1, CONFIG_MAX_PICTURE, &size->height));
        LLAVA_TRY(read_int(&inner, "width", 0, 1, CONFIG_MAX_PICTURE, &size->width));
    }
    if (*shortest > 0) return LLAVA_OK;
    if (size->height < 1 || size->width < 1 || size->height > CONFIG_MAX_PICTURE ||
        size->width > CONFIG_MAX_PICTURE)
        return llava_fail(r->err, LLAVA_MALFORMED,
                          "%s: \"%s\": expected an integer, height and width, or shortest_edge, "
                          "from 1 to %d",
                          r->what, key, CONFIG_MAX_PICTURE);
    return LLAVA_OK;
}

static llava_status read_channels(const reader *r, const char *key, bool divisor,
                                  double values[3]) {
    const json_t *list = json_get(r->object, key);
    if (!list) return LLAVA_OK;
    for (size_t i = 0; i < 3; i++) {
        const json_t *item = json_array_get(list, i);
        const double value = json_number_value(item);
        if (json_array_size(list) != 3 || !json_is_number(item) || !isfinite((float)value) ||
            (divisor && (float)value == 0))
            return llava_fail(r->err, LLAVA_MALFORMED,
                              "%s: \"%s\": expected three finite numbers%s", r->what, key,
                              divisor ? " other than 0" : "");
        values[i] = value;
    }
    return LLAVA_OK;
}

static llava_status read_steps(const reader *r, processor_config *p) {
    LLAVA_TRY(read_flag(r, "do_resize", true, &p->do_resize));
    LLAVA_TRY(read_flag(r, "do_center_crop", true, &p->do_center_crop));
    LLAVA_TRY(read_flag(r, "do_rescale", true, &p->do_rescale));
    LLAVA_TRY(read_flag(r, "do_normalize", true, &p->do_normalize));
    int64_t resample;
    LLAVA_TRY(read_int_or_null(r, "resample", 3, 0, 5, &resample));
    p->resample = (int)resample;
    return read_float(r, "rescale_factor", 1.0 / 255.0, 1e-12, 1e12, &p->rescale_factor);
}

llava_status config_parse_processor(const json_t *object, const char *what,
                                    processor_config *processor, llava_error *err) {
    processor_config p = {.kind = TOWER_CLIP,
                          .mean = {0.48145466, 0.4578275, 0.40821073},
                          .std = {0.26862954, 0.26130258, 0.27577711}};
    const reader r = {object, what, err};
    if (object && !json_is_object(object))
        return llava_fail(err, LLAVA_MALFORMED, "%s: expected an object, got %s", what,
                          json_kind(object));
    LLAVA_TRY(read_steps(&r, &p));
    int64_t shortest = 224, crop_shortest = 224;
    size2 size = {0}, crop = {0};
    LLAVA_TRY(read_size(&r, "size", &shortest, &size));
    LLAVA_TRY(read_size(&r, "crop_size", &crop_shortest, &crop));
    p.shortest_edge = shortest;
    p.size_width = size.width;
    p.size_height = size.height;
    p.crop_width = crop_shortest ? crop_shortest : crop.width;
    p.crop_height = crop_shortest ? crop_shortest : crop.height;
    LLAVA_TRY(read_channels(&r, "image_mean", false, p.mean));
    LLAVA_TRY(read_channels(&r, "image_std", true, p.std));
    *processor = p;
    return LLAVA_OK;
}
