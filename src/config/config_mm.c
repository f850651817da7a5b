/* SPDX-License-Identifier: Apache-2.0
 *
 * Everything about pictures in config.json.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "config_read.h"

typedef struct word {
    const char *text;
    int value;
} word;

/** A key whose value is one of a few words; absent or null gives the fallback. */
static llava_status read_word(const reader *r, const char *key, const word *words, size_t n_words,
                              int fallback, int *value) {
    const char *text;
    LLAVA_TRY(json_get_string(r->object, r->what, key, NULL, &text, r->err));
    *value = fallback;
    if (!text) return LLAVA_OK;
    char names[256] = "";
    size_t used = 0;
    for (size_t i = 0; i < n_words; i++) {
        if (strcmp(words[i].text, text) == 0) {
            *value = words[i].value;
            return LLAVA_OK;
        }
        if (used < sizeof names)
            used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "",
                                     words[i].text);
    }
    return llava_fail(r->err, LLAVA_MALFORMED, "%s: \"%s\": expected one of %s; got \"%.60s\"",
                      r->what, key, names, text);
}

static llava_status read_tower_choice(mm_config *mm, const reader *r) {
    const char *key = json_get(r->object, "mm_vision_tower") ? "mm_vision_tower" : "vision_tower";
    LLAVA_TRY(read_text(r, key, "", mm->vision_tower, sizeof mm->vision_tower));
    mm->has_select_layer = json_get(r->object, "mm_vision_select_layer") != NULL;
    LLAVA_TRY(read_int_or_null(r, "mm_vision_select_layer", 0, -CONFIG_MAX_LAYERS,
                               CONFIG_MAX_LAYERS, &mm->select_layer));
    static const word features[] = {
        {"patch", SELECT_PATCH},
        {"cls_patch", SELECT_CLS_PATCH},
        {"slicefour_patch", SELECT_SLICEFOUR_PATCH},
        {"slicefour_cls_patch", SELECT_SLICEFOUR_CLS_PATCH},
        {"slice_m25811_f6_patch", SELECT_M25811_PATCH},
        {"slice_m25811_f6_cls_patch", SELECT_M25811_CLS_PATCH},
    };
    int feature;
    LLAVA_TRY(read_word(r, "mm_vision_select_feature", features, LLAVA_COUNT(features),
                        SELECT_PATCH, &feature));
    mm->select = (select_feature)feature;
    LLAVA_TRY(read_flag(r, "delay_load", false, &mm->delay_load));
    LLAVA_TRY(read_flag(r, "unfreeze_mm_vision_tower", false, &mm->unfreeze_mm_vision_tower));
    return read_text(r, "mm_tunable_parts", "", mm->tunable_parts, sizeof mm->tunable_parts);
}

/** "mlp" digits "x_gelu", or "mlp" digits "x_res" digits "x_gelu". */
static bool parse_mlp(const char *text, int *linears, int *res) {
    char rest[64];
    int used = 0;
    *res = 0;
    if (strncmp(text, "mlp", 3) != 0 || !isdigit((unsigned char)text[3])) return false;
    if (sscanf(text, "mlp%4d%63s", linears, rest) != 2) return false;
    if (strcmp(rest, "x_gelu") == 0) return true;
    return isdigit((unsigned char)rest[strncmp(rest, "x_res", 5) == 0 ? 5 : 0]) &&
           sscanf(rest, "x_res%4dx_gelu%n", res, &used) == 1 && used && rest[used] == '\0';
}

/** Longer digit strings than parse_mlp() reads are mlp projectors too, of absurd sizes. */
static bool looks_like_mlp(const char *text) {
    return strncmp(text, "mlp", 3) == 0 && isdigit((unsigned char)text[3]) &&
           strstr(text, "x_gelu") != NULL;
}

static llava_status read_projector(mm_config *mm, const reader *r) {
    char *type = mm->projector_type;
    LLAVA_TRY(read_text(r, "mm_projector_type", "linear", type, sizeof mm->projector_type));
    LLAVA_TRY(read_int_or_null(r, "mm_hidden_size", 0, 1, CONFIG_MAX_WIDTH, &mm->mm_hidden_size));
    mm->projector_linears = 0;
    mm->projector_res = 0;
    if (strcmp(type, "linear") == 0) {
        mm->projector = PROJECTOR_LINEAR;
        mm->projector_linears = 1;
        return LLAVA_OK;
    }
    if (strcmp(type, "pooler") == 0 || strcmp(type, "identity") == 0) {
        mm->projector = type[0] == 'p' ? PROJECTOR_POOLER : PROJECTOR_IDENTITY;
        return LLAVA_OK;
    }
    const bool parsed = parse_mlp(type, &mm->projector_linears, &mm->projector_res);
    if (!parsed && !looks_like_mlp(type))
        return llava_fail(
            r->err, LLAVA_UNSUPPORTED,
            "%s: \"mm_projector_type\": expected linear, mlpNx_gelu, mlpNx_resMx_gelu, "
            "pooler or identity, got \"%s\"",
            r->what, type);
    mm->projector = PROJECTOR_MLP_GELU;
    if (!parsed || mm->projector_linears < 1 || mm->projector_linears > PROJECTOR_MAX_LINEARS ||
        mm->projector_res > PROJECTOR_MAX_LINEARS)
        return llava_fail(r->err, LLAVA_MALFORMED,
                          "%s: \"mm_projector_type\": expected 1 to %d linears and at most %d "
                          "blocks, got \"%s\"",
                          r->what, PROJECTOR_MAX_LINEARS, PROJECTOR_MAX_LINEARS, type);
    return LLAVA_OK;
}

static llava_status read_aspect(mm_config *mm, const reader *r) {
    LLAVA_TRY(
        read_text(r, "image_aspect_ratio", "square", mm->aspect_text, sizeof mm->aspect_text));
    const char *text = mm->aspect_text;
    if (strcmp(text, "highres") == 0) {
        mm->aspect = ASPECT_HIGHRES;
    } else if (strcmp(text, "anyres") == 0 || strstr(text, "anyres_max")) {
        mm->aspect = ASPECT_ANYRES;
    } else if (strcmp(text, "crop_split") == 0) {
        mm->aspect = ASPECT_CROP_SPLIT;
    } else {
        mm->aspect = strcmp(text, "pad") == 0 ? ASPECT_PAD : ASPECT_SQUARE;
    }
    static const char limit[] = "anyres_max_"; /* a limit only at the start of the text */
    if (strncmp(text, limit, sizeof limit - 1) == 0 &&
        isdigit((unsigned char)text[sizeof limit - 1])) {
        const long long n = strtoll(text + sizeof limit - 1, NULL, 10);
        if (n < 1 || n > CONFIG_MAX_GRID)
            return llava_fail(r->err, LLAVA_MALFORMED,
                              "%s: \"image_aspect_ratio\": expected a limit of 1 to %d, got \"%s\"",
                              r->what, CONFIG_MAX_GRID, text);
        mm->anyres_max = n;
    }
    LLAVA_TRY(read_int_or_null(r, "image_crop_resolution", 0, 1, CONFIG_MAX_PICTURE,
                               &mm->crop_resolution));
    LLAVA_TRY(read_int_or_null(r, "image_split_resolution", 0, 1, CONFIG_MAX_PICTURE,
                               &mm->split_resolution));
    if (mm->aspect == ASPECT_CROP_SPLIT && (!mm->crop_resolution || !mm->split_resolution))
        return llava_fail(r->err, LLAVA_MALFORMED,
                          "%s: crop_split needs \"image_crop_resolution\" and "
                          "\"image_split_resolution\"",
                          r->what);
    return LLAVA_OK;
}

static llava_status read_merge(mm_config *mm, const reader *r) {
    char *type = mm->merge_type;
    LLAVA_TRY(read_text(r, "mm_patch_merge_type", "flat", type, sizeof mm->merge_type));
    mm->merge_spatial = strncmp(type, "spatial", 7) == 0;
    if (!mm->merge_spatial && strcmp(type, "flat") != 0)
        return llava_fail(r->err, LLAVA_MALFORMED,
                          "%s: \"mm_patch_merge_type\": expected flat or a word that starts with "
                          "spatial, got \"%s\"",
                          r->what, type);
    mm->merge_unpad = mm->merge_spatial && strstr(type, "unpad");
    mm->merge_maxpool = mm->merge_spatial && strstr(type, "maxpool2x2");
    mm->merge_nobase = mm->merge_spatial && strstr(type, "nobase");
    return LLAVA_OK;
}

static llava_status read_video(mm_config *mm, const reader *r) {
    static const word positions[] = {{"one_token", NEWLINE_ONE_TOKEN},
                                     {"grid", NEWLINE_GRID},
                                     {"frame", NEWLINE_FRAME},
                                     {"no_token", NEWLINE_NO_TOKEN}};
    int position;
    LLAVA_TRY(read_word(r, "mm_newline_position", positions, LLAVA_COUNT(positions),
                        NEWLINE_ONE_TOKEN, &position));
    mm->newline = (newline_position)position;
    /* absent: what training writes by default. Resamplers know further words ("conv"); a video
     * with one of those is refused when it comes. */
    char mode[64];
    LLAVA_TRY(read_text(r, "mm_spatial_pool_mode", "bilinear", mode, sizeof mode));
    mm->pool = strcmp(mode, "average") == 0    ? POOL_AVERAGE
               : strcmp(mode, "max") == 0      ? POOL_MAX
               : strcmp(mode, "bilinear") == 0 ? POOL_BILINEAR
                                               : POOL_NONE;
    int64_t stride;
    LLAVA_TRY(read_int_or_null(r, "mm_spatial_pool_stride", 2, -1, 1024, &stride));
    mm->pool_stride = stride > 0 ? stride : 2;
    LLAVA_TRY(read_flag(r, "add_faster_video", false, &mm->add_faster_video));
    return read_int_or_null(r, "faster_token_stride", 10, 1, 65536, &mm->faster_token_stride);
}

static int by_value(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static llava_status add_scale(mm_config *mm, const reader *r, int64_t scale) {
    const size_t room = LLAVA_COUNT(mm->s2_scales);
    if (scale < 1 || scale > CONFIG_MAX_PICTURE || mm->n_s2_scales == room)
        return llava_fail(r->err, LLAVA_MALFORMED,
                          "%s: \"s2_scales\": expected at most %zu sizes of 1 to %d", r->what, room,
                          CONFIG_MAX_PICTURE);
    mm->s2_scales[mm->n_s2_scales++] = scale;
    return LLAVA_OK;
}

/** "336,672,1008" in any order; each a multiple of the smallest (the tower's own size). */
static llava_status read_s2(mm_config *mm, const reader *r) {
    LLAVA_TRY(read_flag(r, "s2", false, &mm->s2));
    if (!mm->s2) return LLAVA_OK;
    char text[256];
    LLAVA_TRY(read_text(r, "s2_scales", "336,672,1008", text, sizeof text));
    for (const char *at = text; at;) {
        LLAVA_TRY(add_scale(mm, r, strtoll(at, NULL, 10)));
        at = strchr(at, ',');
        if (at) at++;
    }
    qsort(mm->s2_scales, mm->n_s2_scales, sizeof *mm->s2_scales, by_value);
    for (size_t i = 0; i < mm->n_s2_scales; i++)
        if (mm->s2_scales[i] % mm->s2_scales[0] != 0)
            return llava_fail(r->err, LLAVA_MALFORMED,
                              "%s: \"s2_scales\": %lld is no multiple of the smallest, %lld",
                              r->what, (long long)mm->s2_scales[i], (long long)mm->s2_scales[0]);
    if (mm->select != SELECT_PATCH)
        return llava_fail(r->err, LLAVA_UNSUPPORTED,
                          "%s: s2 works with mm_vision_select_feature \"patch\" only", r->what);
    if (mm->aspect == ASPECT_ANYRES)
        return llava_fail(r->err, LLAVA_UNSUPPORTED,
                          "%s: s2 and anyres contradict each other: their tiles differ in size",
                          r->what);
    return LLAVA_OK;
}

static llava_status read_tokens(mm_config *mm, const reader *r) {
    LLAVA_TRY(read_flag(r, "mm_use_im_start_end", false, &mm->use_im_start_end));
    LLAVA_TRY(read_flag(r, "mm_use_im_patch_token", true, &mm->use_im_patch_token));
    LLAVA_TRY(read_int_or_null(r, "tokenizer_model_max_length", 0, 1, CONFIG_MAX_TOKENS,
                               &mm->tokenizer_model_max_length));
    static const word sides[] = {{"right", false}, {"left", true}};
    int left;
    LLAVA_TRY(read_word(r, "tokenizer_padding_side", sides, LLAVA_COUNT(sides), false, &left));
    mm->padding_left = left;
    return LLAVA_OK;
}

llava_status config_parse_mm(llava_config *config, const reader *r) {
    mm_config *mm = &config->mm;
    LLAVA_TRY(read_tower_choice(mm, r));
    LLAVA_TRY(read_projector(mm, r));
    LLAVA_TRY(read_aspect(mm, r));
    LLAVA_TRY(read_merge(mm, r));
    LLAVA_TRY(read_video(mm, r));
    LLAVA_TRY(read_s2(mm, r));
    LLAVA_TRY(read_tokens(mm, r));
    LLAVA_TRY(config_parse_pinpoints(config, r));
    if (mm->projector == PROJECTOR_POOLER && mm->merge_spatial)
        return llava_fail(r->err, LLAVA_UNSUPPORTED,
                          "%s: the pooler projector works with mm_patch_merge_type \"flat\" only",
                          r->what);
    const char *resampler = json_string_value(json_get(r->object, "mm_resampler_type"));
    if (!resampler) return LLAVA_OK;
    return config_note(config, "resampler", resampler,
                       "stored in the checkpoint and, as in the reference, never applied", r->err);
}
