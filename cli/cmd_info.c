/* SPDX-License-Identifier: Apache-2.0
 *
 * llava info: what a checkpoint is, why it is taken for that, and what it will cost. Reads
 * headers and configuration files only.
 */
#include <stdlib.h>

#include "cli.h"
#include "config/config.h"
#include "image/image.h"
#include "load/load.h"

/* ---------------------------------------------------------------- tokens of a picture */

static bool parse_size(const char *text, int64_t *width, int64_t *height) {
    char *end;
    const long long w = strtoll(text, &end, 10);
    if (end == text || (*end != 'x' && *end != 'X')) return false;
    const char *second = end + 1;
    const long long h = strtoll(second, &end, 10);
    if (end == second || *end || w < 1 || h < 1 || w > INT32_MAX || h > INT32_MAX) return false;
    *width = w;
    *height = h;
    return true;
}

/** The image processor that loading would return, from the configuration files alone. */
static llava_status open_processor(const cli_args *args, arena *memory, llava_config **config,
                                   llava_image_processor **processor, llava_error *err) {
    const char *directory = args->words.items[0];
    const char *name =
        args->load.model_name ? args->load.model_name : config_model_name(memory, directory);
    const config_request request = {
        .directory = directory,
        .model_name = name,
        .multimodal_keyword = args->load.multimodal,
        .customized_config = args->load.customized_config,
        .overwrite_config = args->load.overwrite_config,
    };
    LLAVA_TRY(config_load(&request, config, err));
    if (!(*config)->multimodal)
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "%s is a plain language model: it takes no "
                          "pictures",
                          directory);
    const char *tower = load_find_tower(memory, (*config)->mm.vision_tower, NULL, directory);
    LLAVA_TRY(config_read_tower(*config, tower, err));
    return image_processor_new(*config, processor, err);
}

/** {"width", "height", "tokens", "views", "grid"} */
static llava_status count_tokens(const cli_args *args, int64_t width, int64_t height,
                                 json_t **document, llava_error *err) {
    arena *memory = arena_new();
    llava_config *config = NULL;
    llava_image_processor *processor = NULL;
    vision_plan plan = {0};
    llava_status status;
    LLAVA_TRY_DONE(memory ? LLAVA_OK : llava_fail_memory(err, 1, "names"));
    LLAVA_TRY_DONE(open_processor(args, memory, &config, &processor, err));
    LLAVA_TRY_DONE(vision_plan_make(processor, width, height, 0, 1, &plan, err));
    *document = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "width", (json_int_t)width, "height",
                          (json_int_t)height, "tokens", (json_int_t)plan.n_rows, "tower_inputs",
                          (json_int_t)plan.n_views, "tiles_across", (json_int_t)plan.grid_w,
                          "tiles_down", (json_int_t)plan.grid_h);
    if (!*document) status = llava_fail_memory(err, 64, "a report");
done:
    vision_plan_free(&plan);
    image_processor_free(&processor);
    config_free(&config);
    arena_free(&memory);
    return status;
}

/* ---------------------------------------------------------------- for people */

static bool ends_with(const char *text, const char *end) {
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static void print_bytes(double n) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    size_t unit = 0;
    while (n >= 1024 && unit + 1 < LLAVA_COUNT(units)) {
        n /= 1024;
        unit++;
    }
    printf(unit ? "%.1f %s" : "%.0f %s", n, units[unit]);
}

static void print_scalar(const char *key, const json_t *value) {
    if (json_is_string(value)) {
        printf("%s", json_string_value(value));
    } else if (json_is_integer(value) && (ends_with(key, "bytes") || ends_with(key, "_memory"))) {
        print_bytes((double)json_integer_value(value));
    } else {
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(6));
        printf("%s", text ? text : "?");
        free(text);
    }
}

static void print_key(const char *key, int indent) {
    printf("%*s", indent, "");
    for (const char *c = key; *c; c++) putchar(*c == '_' ? ' ' : *c);
    putchar(':');
}

/** {"what", "value", "reason"} */
static bool print_decision(const json_t *item, int indent) {
    const char *what = json_string_value(json_get(item, "what"));
    const char *value = json_string_value(json_get(item, "value"));
    const char *reason = json_string_value(json_get(item, "reason"));
    if (!what || !value || !reason) return false;
    printf("%*s%-18s %s\n%*s%-18s because %s\n", indent, "", what, value, indent, "", "", reason);
    return true;
}

static bool is_flat(const json_t *array) {
    for (size_t i = 0; i < json_array_size(array); i++) {
        const json_t *item = json_array_get(array, i);
        if (json_is_object(item) || (json_is_array(item) && json_array_size(item) > 4))
            return false;
    }
    return true;
}

/* Deeper reports than ours would be a defect of ours. */
#define PRINT_DEPTH 8

static void print_members(const json_t *object, int indent, int depth);

static void print_value(const char *key, const json_t *value, int indent, int depth) {
    if (depth > PRINT_DEPTH) return;
    print_key(key, indent);
    if (json_is_object(value)) {
        putchar('\n');
        print_members(value, indent + 2, depth + 1);
    } else if (json_is_array(value) && !is_flat(value)) {
        putchar('\n');
        for (size_t i = 0; i < json_array_size(value); i++) {
            const json_t *item = json_array_get(value, i);
            if (print_decision(item, indent + 2)) continue;
            if (json_is_object(item)) print_members(item, indent + 2, depth + 1);
        }
    } else {
        putchar(' ');
        print_scalar(key, value);
        putchar('\n');
    }
}

static void print_members(const json_t *object, int indent, int depth) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value) print_value(key, value, indent, depth);
}

/* ---------------------------------------------------------------- the command */

static llava_status inspect(const cli_args *args, json_t **document, llava_error *err) {
    llava_load_options options = args->load;
    options.model_path = args->words.items[0];
    llava_report *report = NULL;
    LLAVA_TRY(llava_inspect(&options, &report, err));
    const char *text = llava_report_json(report);
    const llava_status status = json_read_text(text, strlen(text), "the report", document, err);
    llava_report_free(&report);
    return status;
}

int cmd_info(const cli_args *args) {
    int64_t width = 0, height = 0;
    if (args->image_size && !parse_size(args->image_size, &width, &height))
        return cli_usage_error(cli_command_find("info"),
                               "--image-size takes WIDTHxHEIGHT in pixels, not '%s'.",
                               args->image_size);
    llava_error err = {0};
    json_t *document = NULL, *picture = NULL;
    llava_status status;
    LLAVA_TRY_DONE(inspect(args, &document, &err));
    if (width) {
        LLAVA_TRY_DONE(count_tokens(args, width, height, &picture, &err));
        json_object_set(document, "picture", picture);
    }
    if (args->json)
        cli_print_json(stdout, json_incref(document), true);
    else
        print_members(document, 0, 0);
done:
    json_decref(document);
    json_decref(picture);
    return status == LLAVA_OK ? 0 : cli_fail(&err);
}
