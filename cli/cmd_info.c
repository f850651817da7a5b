/* SPDX-License-Identifier: Apache-2.0
 *
 * llava info: what a checkpoint is, why it is taken for that, and what it will cost; or what one of
 * its files holds. Reads headers and configuration files only.
 */
#include <stdlib.h>

#include "cli.h"
#include "cmd_info.h"
#include "config/config.h"
#include "image/image.h"
#include "model/model.h"

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

/** An adapter's own directory may have no configuration: then its base's counts. */
static const char *config_directory(const cli_args *args, const char *directory) {
    bytes path = {0};
    const bool has = bytes_printf(&path, "%s/config.json", directory) && path_is_file(path.data);
    bytes_free(&path);
    return has || !args->load.model_base ? directory : args->load.model_base;
}

/** The image processor that loading would return, from the configuration files alone. */
static llava_status open_processor(const cli_args *args, const json_t *report,
                                   llava_config **config, llava_image_processor **processor,
                                   llava_error *err) {
    const char *directory = config_directory(args, info_text(report, "path"));
    const char *name = info_text(report, "model_name");
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
    const char *tower = json_string_value(json_get(json_get(report, "tower"), "directory"));
    LLAVA_TRY(config_read_tower(*config, tower, err));
    return image_processor_new(*config, processor, err);
}

/** {"width", "height", "tokens", "views", "grid"} */
static llava_status count_tokens(const cli_args *args, const json_t *report, size2 size,
                                 json_t **document, llava_error *err) {
    llava_config *config = NULL;
    llava_image_processor *processor = NULL;
    vision_plan plan = {0};
    llava_status status;
    LLAVA_TRY_DONE(open_processor(args, report, &config, &processor, err));
    LLAVA_TRY_DONE(vision_plan_make(processor, size.width, size.height, 0, 1, &plan, err));
    *document = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "width", (json_int_t)size.width,
                          "height", (json_int_t)size.height, "tokens", (json_int_t)plan.n_rows,
                          "tower_inputs", (json_int_t)plan.n_views, "tiles_across",
                          (json_int_t)plan.grid_w, "tiles_down", (json_int_t)plan.grid_h);
    if (!*document) status = llava_fail_memory(err, 64, "a report");
done:
    vision_plan_free(&plan);
    image_processor_free(&processor);
    config_free(&config);
    return status;
}

/* ---------------------------------------------------------------- memory of a session */

/** {"context_tokens", "cache_bytes", "total_bytes"}: one session beside the weights. */
static void add_session(json_t *document, int64_t asked_tokens) {
    const json_t *memory = json_get(document, "memory");
    if (!memory) return;
    const int64_t context = info_number(document, "context_len");
    const int64_t n_tokens = round_up(asked_tokens ? asked_tokens : context, KV_BLOCK_TOKENS);
    const int64_t cache = n_tokens * info_number(memory, "kv_bytes_per_token");
    const int64_t total = cache + info_number(memory, "decoder_scratch_bytes") +
                          info_number(memory, "weights_mapped_bytes") +
                          info_number(memory, "weights_owned_bytes");
    json_object_set_new(document, "session",
                        json_pack("{s:I, s:I, s:I}", "context_tokens", (json_int_t)n_tokens,
                                  "cache_bytes", (json_int_t)cache, "total_bytes",
                                  (json_int_t)total));
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

/** What keeps the checkpoint from loading: the first reason; later ones follow from it. */
static int report_error(const json_t *errors) {
    return cli_fail_text("%s", info_text(json_array_get(errors, 0), "message"));
}

int cmd_info(const cli_args *args) {
    int64_t width = 0, height = 0;
    if (args->image_size && !parse_size(args->image_size, &width, &height))
        return cli_usage_error(cli_command_find("info"),
                               "--image-size takes WIDTHxHEIGHT in pixels, not '%s'.",
                               args->image_size);
    llava_error err = {0};
    json_t *document = NULL, *picture = NULL;
    int result = 0;
    llava_status status;
    LLAVA_TRY_DONE(inspect(args, &document, &err));
    if (width && !path_is_directory(info_text(document, "path"))) {
        result = cli_fail_text("%s: --image-size needs the directory of a checkpoint",
                               info_text(document, "path"));
        goto done;
    }
    const bool loadable = json_is_true(json_get(document, "loadable"));
    if (width && loadable) {
        LLAVA_TRY_DONE(count_tokens(args, document, (size2){width, height}, &picture, &err));
        json_object_set(document, "picture", picture);
    }
    add_session(document, args->context_tokens);
    if (args->json)
        cli_print_json(stdout, json_incref(document), true);
    else
        info_print(stdout, document, args->load.device_map || args->load.max_memory);
    if (!loadable) result = report_error(json_get(document, "errors"));
done:
    json_decref(document);
    json_decref(picture);
    return status == LLAVA_OK ? result : cli_fail(&err);
}
