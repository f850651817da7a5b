/* SPDX-License-Identifier: Apache-2.0
 *
 * image_grid_pinpoints in every form that checkpoints write: a list of pairs, the text of a Python
 * list, a range of tiles "(1x1),...,(6x6)", and highres' comma list "336,672".
 */
#include <ctype.h>

#include "config_read.h"

#define SIDE_MAX  65536 /* pixels */
#define TILES_MAX 64    /* a range's multiples of the tile size */

typedef struct pair_list {
    size2 *items;
    size_t count;
    const reader *r;
} pair_list;

static llava_status fail_pinpoints(const reader *r, const char *expected) {
    return llava_fail(r->err, LLAVA_MALFORMED, "%s: \"image_grid_pinpoints\": expected %s", r->what,
                      expected);
}

static llava_status add_pair(pair_list *list, int64_t width, int64_t height) {
    if (width < 1 || height < 1 || width > SIDE_MAX || height > SIDE_MAX)
        return llava_fail(list->r->err, LLAVA_MALFORMED,
                          "%s: \"image_grid_pinpoints\": expected sides from 1 to %d, got %lld x "
                          "%lld",
                          list->r->what, SIDE_MAX, (long long)width, (long long)height);
    if (list->count == CONFIG_MAX_GRID) return fail_pinpoints(list->r, "at most 4096 resolutions");
    list->items[list->count++] = (size2){width, height};
    return LLAVA_OK;
}

static llava_status pairs_from_array(pair_list *list, const json_t *array) {
    for (size_t i = 0; i < json_array_size(array); i++) {
        const json_t *pair = json_array_get(array, i);
        const json_t *width = json_array_get(pair, 0), *height = json_array_get(pair, 1);
        if (json_array_size(pair) != 2 || !json_is_integer(width) || !json_is_integer(height))
            return fail_pinpoints(list->r, "pairs of two integers, width and height");
        LLAVA_TRY(add_pair(list, json_integer_value(width), json_integer_value(height)));
    }
    return LLAVA_OK;
}

static const char *skip_spaces(const char *text) {
    while (isspace((unsigned char)*text)) text++;
    return text;
}

/** Digits to a number; false when there are none or the number is beyond all sides. */
static bool take_number(const char **text, int64_t *number) {
    const char *at = *text;
    *number = 0;
    for (; isdigit((unsigned char)*at); at++) {
        *number = *number * 10 + (*at - '0');
        if (*number > SIDE_MAX) return false;
    }
    if (at == *text) return false;
    *text = at;
    return true;
}

static bool take(const char **text, const char *set) {
    const char *at = skip_spaces(*text);
    if (!*at || !strchr(set, *at)) return false;
    *text = skip_spaces(at + 1);
    return true;
}

/** The text of a Python list or tuple of pairs. */
static llava_status pairs_from_literal(pair_list *list, const char *text) {
    static const char expected[] = "a list of (width, height) pairs or a range like "
                                   "\"(1x1),...,(6x6)\"";
    if (!take(&text, "[(")) return fail_pinpoints(list->r, expected);
    while (!take(&text, "])")) {
        int64_t width, height;
        if (!take(&text, "[(") || !take_number(&text, &width) || !take(&text, ",") ||
            !take_number(&text, &height))
            return fail_pinpoints(list->r, expected);
        take(&text, ",");
        if (!take(&text, "])")) return fail_pinpoints(list->r, expected);
        LLAVA_TRY(add_pair(list, width, height));
        take(&text, ",");
    }
    return *text ? fail_pinpoints(list->r, expected) : LLAVA_OK;
}

/** Every "AxB" in the text; only the first and the last count. */
static size_t range_ends(const char *text, size2 *first, size2 *last) {
    size_t count = 0;
    while (*text) {
        size2 found;
        const char *at = text;
        if (take_number(&at, &found.width) && *at == 'x') {
            at++;
            if (take_number(&at, &found.height)) {
                if (count++ == 0) *first = found;
                *last = found;
                text = at;
                continue;
            }
        }
        text++;
    }
    return count;
}

/** "(a x b), ..., (c x d)": widths a...c (outer) by heights b...d, in tiles. */
static llava_status pairs_from_range(pair_list *list, const char *text) {
    size2 first = {0}, last = {0};
    if (range_ends(text, &first, &last) == 0 || first.width < 1 || first.height < 1 ||
        last.width > TILES_MAX || last.height > TILES_MAX || last.width < first.width ||
        last.height < first.height)
        return fail_pinpoints(list->r, "a rising range of 1 to 64 tiles like \"(1x1),...,(6x6)\"");
    for (int64_t i = first.width; i <= last.width; i++)
        for (int64_t j = first.height; j <= last.height; j++) LLAVA_TRY(add_pair(list, i, j));
    return LLAVA_OK;
}

/** The largest of "336,672". */
static llava_status read_highres(mm_config *mm, const reader *r, const json_t *value) {
    static const char expected[] = "a comma list of sizes like \"336,672\" for highres";
    const char *text = json_string_value(value);
    int64_t largest = 0, number;
    if (!text) return fail_pinpoints(r, expected);
    for (;;) {
        text = skip_spaces(text);
        if (!take_number(&text, &number) || number < 1) return fail_pinpoints(r, expected);
        largest = i64_max(largest, number);
        if (!take(&text, ",")) break;
    }
    if (*skip_spaces(text)) return fail_pinpoints(r, expected);
    mm->highres_max = largest;
    return LLAVA_OK;
}

llava_status config_parse_pinpoints(llava_config *config, const reader *r) {
    mm_config *mm = &config->mm;
    const json_t *value = json_get(r->object, "image_grid_pinpoints");
    if (mm->aspect == ASPECT_HIGHRES) return read_highres(mm, r, value);
    if (mm->aspect != ASPECT_ANYRES) return LLAVA_OK; /* nobody looks at them */
    if (!value) return fail_pinpoints(r, "resolutions, which anyres needs, got none");
    pair_list list = {.items = arena_array(config->memory, CONFIG_MAX_GRID, sizeof *list.items),
                      .r = r};
    if (!list.items) return llava_fail_memory(r->err, CONFIG_MAX_GRID, "image_grid_pinpoints");
    const char *text = json_string_value(value);
    if (json_is_array(value)) {
        LLAVA_TRY(pairs_from_array(&list, value));
    } else if (!text) {
        return fail_pinpoints(r, "a list or a text");
    } else if (strchr(text, 'x')) {
        mm->pinpoints_are_range = true;
        LLAVA_TRY(pairs_from_range(&list, text));
    } else {
        LLAVA_TRY(pairs_from_literal(&list, text));
    }
    if (list.count == 0) return fail_pinpoints(r, "at least one resolution, got an empty list");
    mm->pinpoints = list.items;
    mm->n_pinpoints = list.count;
    return LLAVA_OK;
}
