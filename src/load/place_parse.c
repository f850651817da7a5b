/* SPDX-License-Identifier: Apache-2.0
 *
 * device_map and max_memory as options give them.
 */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "place.h"

#define KEYWORDS "auto, balanced, balanced_low_0, sequential, cpu, cuda, cuda:N"

const char *place_device_name(const place_device *d, char buffer[PLACE_NAME_SIZE]) {
    if (d->kind == PLACE_CUDA)
        snprintf(buffer, PLACE_NAME_SIZE, "cuda:%d", d->index);
    else
        snprintf(buffer, PLACE_NAME_SIZE, "%s", d->kind == PLACE_CPU ? "cpu" : "disk");
    return buffer;
}

/* ---------------------------------------------------------------- the table */

int place_table_find(const place_table *table, place_kind kind, int index) {
    for (int i = 0; i < table->count; i++) {
        const place_device *d = &table->items[i];
        if (d->kind == kind && (kind != PLACE_CUDA || d->index == index)) return i;
    }
    return -1;
}

static bool comes_before(const place_device *a, const place_device *b) {
    return a->kind != b->kind ? a->kind < b->kind : a->index < b->index;
}

bool place_table_add(place_table *table, place_device d) {
    const int there = place_table_find(table, d.kind, d.index);
    if (there >= 0) {
        table->items[there] = d;
        return true;
    }
    if (table->count == PLACE_MAX_DEVICES) return false;
    int at = table->count++;
    for (; at > 0 && comes_before(&d, &table->items[at - 1]); at--)
        table->items[at] = table->items[at - 1];
    table->items[at] = d;
    return true;
}

/* ---------------------------------------------------------------- devices */

static bool parse_index(const char *text, int *index) {
    int value = 0;
    if (!text[0]) return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || value >= PLACE_MAX_CUDA) return false;
        value = value * 10 + (*text - '0');
    }
    *index = value;
    return value < PLACE_MAX_CUDA;
}

/** "cpu", "disk", "cuda", "cuda:1", "1". */
static bool parse_device(const char *text, place_device *d) {
    *d = (place_device){.limit = PLACE_UNLIMITED};
    if (strcmp(text, "cpu") == 0 || strcmp(text, "disk") == 0) {
        d->kind = text[0] == 'c' ? PLACE_CPU : PLACE_DISK;
        return true;
    }
    if (strcmp(text, "cuda") == 0) return true;
    return parse_index(strncmp(text, "cuda:", 5) == 0 ? text + 5 : text, &d->index);
}

place_device place_device_of(const json_t *value) {
    place_device d = {.kind = PLACE_CUDA, .index = (int)json_integer_value(value)};
    if (json_is_string(value)) parse_device(json_string_value(value), &d);
    return d;
}

/** A value of an object: a text as above, or a GPU's number. */
static llava_status check_value(const char *module, const json_t *value, llava_error *err) {
    place_device d;
    if (json_is_integer(value) && json_integer_value(value) >= 0 &&
        json_integer_value(value) < PLACE_MAX_CUDA)
        return LLAVA_OK;
    if (json_is_string(value) && parse_device(json_string_value(value), &d)) return LLAVA_OK;
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    const llava_status status =
        llava_fail(err, LLAVA_BAD_ARGUMENT,
                   "device_map: \"%.80s\" is on %.60s, which is no device; expected cpu, disk, "
                   "cuda:N or N, a GPU's number below %d",
                   module, text ? text : "?", PLACE_MAX_CUDA);
    free(text);
    return status;
}

static llava_status check_names(const json_t *names, llava_error *err) {
    const char *module;
    json_t *value;
    if (json_object_size(names) == 0)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "device_map: the object names no module");
    json_object_foreach((json_t *)names, module, value) LLAVA_TRY(check_value(module, value, err));
    return LLAVA_OK;
}

static llava_status parse_names(const char *text, place_map *map, llava_error *err) {
    json_t *names = NULL;
    LLAVA_TRY(json_read_text(text, strlen(text), "device_map", &names, err));
    const llava_status status =
        json_is_object(names)
            ? check_names(names, err)
            : llava_fail(err, LLAVA_BAD_ARGUMENT,
                         "device_map: expected one of " KEYWORDS " or an object of modules, got %s",
                         json_kind(names));
    if (status != LLAVA_OK) {
        json_decref(names);
        return status;
    }
    map->rule = PLACE_NAMED;
    map->names = names;
    return LLAVA_OK;
}

llava_status place_parse_map(const char *text, place_map *map, llava_error *err) {
    static const struct {
        const char *word;
        place_rule rule;
    } rules[] = {{"auto", PLACE_BALANCED},
                 {"balanced", PLACE_BALANCED},
                 {"balanced_low_0", PLACE_BALANCED_LOW_0},
                 {"sequential", PLACE_SEQUENTIAL}};
    *map = (place_map){.rule = PLACE_BALANCED};
    if (!text) return LLAVA_OK;
    for (size_t i = 0; i < LLAVA_COUNT(rules); i++) {
        if (strcmp(text, rules[i].word) != 0) continue;
        map->rule = rules[i].rule;
        return LLAVA_OK;
    }
    const char *start = text + strspn(text, " \t\r\n");
    if (*start == '{' || *start == '[') return parse_names(text, map, err);
    map->rule = PLACE_WHOLE;
    if (parse_device(text, &map->whole) && map->whole.kind != PLACE_DISK) return LLAVA_OK;
    return llava_fail(err, LLAVA_BAD_ARGUMENT,
                      "device_map: expected " KEYWORDS
                      " (N below %d) or an object of modules, got \"%.60s\"",
                      PLACE_MAX_CUDA, text);
}

void place_map_free(place_map *map) {
    json_decref(map->names);
    *map = (place_map){0};
}

/* ---------------------------------------------------------------- sizes */

static bool has_ending(const char *text, size_t size, const char *unit) {
    const size_t n = strlen(unit);
    return size > n && strcasecmp(text + size - n, unit) == 0;
}

/** A decimal number and nothing else: no hexadecimal, no "inf", which strtod() would take. */
static bool parse_decimal(const char *text, size_t size, double *value) {
    char copy[64], *end;
    if (size == 0 || size >= sizeof copy) return false;
    memcpy(copy, text, size);
    copy[size] = '\0';
    if (copy[strspn(copy, "0123456789.eE+- ")] != '\0') return false;
    *value = strtod(copy, &end);
    end += strspn(end, " ");
    return end != copy && *end == '\0' && isfinite(*value);
}

/** "10GiB" in powers of 1024, "10GB" in powers of 1000, "10Gb" in bits. */
static bool parse_size(const char *text, int64_t *n_bytes) {
    static const struct {
        const char *unit;
        double factor;
        bool decimal;
    } units[] = {{"gib", 1073741824, false}, {"mib", 1048576, false}, {"kib", 1024, false},
                 {"gb", 1e9, true},          {"mb", 1e6, true},       {"kb", 1e3, true}};
    const size_t size = strlen(text);
    for (size_t i = 0; i < LLAVA_COUNT(units); i++) {
        double value;
        if (!has_ending(text, size, units[i].unit)) continue;
        if (!parse_decimal(text, size - strlen(units[i].unit), &value)) return false;
        value *= units[i].factor;
        if (!(value >= 0 && value < 9.2e18)) return false;
        *n_bytes = (int64_t)value;
        if (units[i].decimal && text[size - 1] == 'b') *n_bytes /= 8;
        return true;
    }
    return false;
}

static llava_status parse_limit(const char *name, const json_t *value, int64_t *n_bytes,
                                llava_error *err) {
    if (json_is_integer(value) && json_integer_value(value) >= 0) {
        *n_bytes = json_integer_value(value);
        return LLAVA_OK;
    }
    if (json_is_string(value) && parse_size(json_string_value(value), n_bytes)) return LLAVA_OK;
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    const llava_status status =
        llava_fail(err, LLAVA_BAD_ARGUMENT,
                   "max_memory: \"%.40s\": expected bytes or a text like \"10GiB\" or \"10GB\", "
                   "got %.60s",
                   name, text ? text : "?");
    free(text);
    return status;
}

static llava_status fill_table(const json_t *root, place_table *table, llava_error *err) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)root, name, value) {
        place_device d;
        if (!parse_device(name, &d) || strcmp(name, "cuda") == 0)
            return llava_fail(err, LLAVA_BAD_ARGUMENT,
                              "max_memory: \"%.60s\" is no device; expected cpu, disk or N, a "
                              "GPU's number below %d",
                              name, PLACE_MAX_CUDA);
        LLAVA_TRY(parse_limit(name, value, &d.limit, err));
        if (d.kind == PLACE_DISK) d.limit = PLACE_UNLIMITED; /* as in the reference */
        place_table_add(table, d);
    }
    return LLAVA_OK;
}

llava_status place_parse_memory(const char *text, place_table *table, llava_error *err) {
    json_t *root = NULL;
    *table = (place_table){.given = true};
    LLAVA_TRY(json_read_text(text, strlen(text), "max_memory", &root, err));
    const llava_status status =
        json_is_object(root) && json_object_size(root) > 0
            ? fill_table(root, table, err)
            : llava_fail(err, LLAVA_BAD_ARGUMENT,
                         "max_memory: expected an object of devices with their bytes, got %s",
                         json_is_object(root) ? "an empty one" : json_kind(root));
    json_decref(root);
    return status;
}
