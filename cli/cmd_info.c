/* SPDX-License-Identifier: Apache-2.0
 *
 * llava info: what a checkpoint is, why it is taken for that, and what it will cost. Reads
 * headers and configuration files only.
 */
#include <stdlib.h>

#include "cli.h"
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

static const char *text_of(const json_t *object, const char *key) {
    const char *text = object ? json_string_value(json_get(object, key)) : NULL;
    return text ? text : "-";
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
    const char *directory = config_directory(args, text_of(report, "path"));
    const char *name = text_of(report, "model_name");
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

static int64_t member(const json_t *object, const char *key) {
    return object ? json_integer_value(json_get(object, key)) : 0;
}

/** {"context_tokens", "cache_bytes", "total_bytes"}: one session beside the weights. */
static void add_session(json_t *document, int64_t asked_tokens) {
    const json_t *memory = json_get(document, "memory");
    if (!memory) return;
    const int64_t context = member(document, "context_len");
    const int64_t n_tokens = round_up(asked_tokens ? asked_tokens : context, KV_BLOCK_TOKENS);
    const int64_t cache = n_tokens * member(memory, "kv_bytes_per_token");
    const int64_t total = cache + member(memory, "decoder_scratch_bytes") +
                          member(memory, "weights_mapped_bytes") +
                          member(memory, "weights_owned_bytes");
    json_object_set_new(document, "session",
                        json_pack("{s:I, s:I, s:I}", "context_tokens", (json_int_t)n_tokens,
                                  "cache_bytes", (json_int_t)cache, "total_bytes",
                                  (json_int_t)total));
}

/* ---------------------------------------------------------------- for people */

#define SIZE_TEXT 32

/** "704.7 KiB" into buffer. Returns buffer. */
static const char *bytes_text(int64_t count, char buffer[SIZE_TEXT]) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double n = (double)count;
    size_t unit = 0;
    while (n >= 1024 && unit + 1 < LLAVA_COUNT(units)) {
        n /= 1024;
        unit++;
    }
    snprintf(buffer, SIZE_TEXT, unit ? "%.1f %s" : "%.0f %s", n, units[unit]);
    return buffer;
}

static void print_line(const char *label, const char *format, ...) LLAVA_PRINTF(2, 3);
static void print_line(const char *label, const char *format, ...) {
    printf("  %-20s ", label);
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
}

static void print_decisions(const json_t *list) {
    printf("\ndecisions\n");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        print_line(text_of(item, "what"), "%s", text_of(item, "value"));
        print_line("", "because %s", text_of(item, "reason"));
    }
}

static void print_model(const json_t *document) {
    const json_t *decoder = json_get(document, "decoder"), *tower = json_get(document, "tower");
    printf("\nmodel\n");
    if (decoder)
        print_line("decoder", "%s: %lld layers of width %lld, %lld heads (%lld for keys)",
                   text_of(decoder, "family"), (long long)member(decoder, "n_layers"),
                   (long long)member(decoder, "hidden_size"), (long long)member(decoder, "n_heads"),
                   (long long)member(decoder, "n_kv_heads"));
    if (decoder && member(decoder, "n_experts") > 0)
        print_line("experts", "%lld", (long long)member(decoder, "n_experts"));
    if (tower)
        print_line("tower", "%s %s: %lld layers of width %lld, %lld pixels in patches of %lld",
                   text_of(tower, "kind"), text_of(tower, "name"),
                   (long long)member(tower, "n_layers"), (long long)member(tower, "hidden_size"),
                   (long long)member(tower, "image_size"), (long long)member(tower, "patch_size"));
    if (tower)
        print_line("pictures", "%s, %s, %lld tokens a tile",
                   text_of(document, "image_aspect_ratio"),
                   text_of(document, "mm_patch_merge_type"),
                   (long long)member(document, "tokens_per_tile"));
    print_line("context", "%lld tokens", (long long)member(document, "context_len"));
}

static void print_tensors(const json_t *document) {
    const json_t *tensors = json_get(document, "tensors");
    if (!tensors) return;
    char size[SIZE_TEXT];
    printf("\ntensors\n");
    const char *type;
    json_t *entry;
    json_object_foreach((json_t *)json_get(tensors, "by_dtype"), type, entry) {
        print_line(type, "%lld tensors, %s", (long long)member(entry, "count"),
                   bytes_text(member(entry, "bytes"), size));
    }
    if (member(document, "missing_count") > 0)
        print_line("missing", "%lld", (long long)member(document, "missing_count"));
    if (member(document, "unexpected_count") > 0)
        print_line("not used", "%lld", (long long)member(document, "unexpected_count"));
}

static void print_memory(const json_t *document) {
    const json_t *memory = json_get(document, "memory"), *session = json_get(document, "session");
    if (!memory || !session) return;
    char size[SIZE_TEXT];
    printf("\nmemory\n");
    print_line("weights, mapped", "%s", bytes_text(member(memory, "weights_mapped_bytes"), size));
    print_line("weights, converted", "%s", bytes_text(member(memory, "weights_owned_bytes"), size));
    print_line("cache", "%s for %lld tokens", bytes_text(member(session, "cache_bytes"), size),
               (long long)member(session, "context_tokens"));
    print_line("working memory", "%s", bytes_text(member(memory, "decoder_scratch_bytes"), size));
    print_line("together", "%s", bytes_text(member(session, "total_bytes"), size));
}

static void print_picture(const json_t *picture) {
    printf("\npicture\n");
    print_line("size", "%lld x %lld", (long long)member(picture, "width"),
               (long long)member(picture, "height"));
    print_line("tokens", "%lld", (long long)member(picture, "tokens"));
    print_line("tower inputs", "%lld", (long long)member(picture, "tower_inputs"));
    if (member(picture, "tiles_across") > 0)
        print_line("tiles", "%lld x %lld, and the whole picture",
                   (long long)member(picture, "tiles_across"),
                   (long long)member(picture, "tiles_down"));
}

/* ---------------------------------------------------------------- placement */

static void print_devices(const json_t *devices) {
    char size[SIZE_TEXT], limit[SIZE_TEXT];
    for (size_t i = 0; i < json_array_size(devices); i++) {
        const json_t *d = json_array_get(devices, i);
        const int64_t held = member(d, "weights_bytes");
        const bool given = strcmp(text_of(d, "limit"), "max_memory") == 0;
        const bool disk = strcmp(text_of(d, "device"), "disk") == 0;
        if (held == 0 && !given) continue;
        bytes_text(held, size);
        if (given)
            print_line(text_of(d, "device"), "%s of %s", size,
                       bytes_text(member(d, "limit_bytes"), limit));
        else
            print_line(text_of(d, "device"), "%s%s", size,
                       disk ? " stay in the file and are read as they are used" : "");
        if (disk && member(d, "made_bytes") > 0)
            print_line("", "but %s of it are converted, so in memory",
                       bytes_text(member(d, "made_bytes"), size));
    }
}

/** Where the number at the end of a module's name begins; its end when there is none. */
static size_t number_at(const char *name) {
    size_t at = strlen(name);
    while (at > 0 && name[at - 1] >= '0' && name[at - 1] <= '9') at--;
    return at;
}

/** How many modules from the first on differ in nothing but their number. */
static size_t run_of_modules(const json_t *modules, size_t first) {
    const json_t *one = json_array_get(modules, first);
    const char *name = text_of(one, "module");
    const size_t stem = number_at(name);
    size_t end = first + 1;
    for (; name[stem] && end < json_array_size(modules); end++) {
        const json_t *next = json_array_get(modules, end);
        const char *other = text_of(next, "module");
        if (number_at(other) != stem || !other[stem] || strncmp(name, other, stem) != 0 ||
            member(next, "bytes") != member(one, "bytes") ||
            strcmp(text_of(next, "device"), text_of(one, "device")) != 0)
            break;
    }
    return end - first;
}

static void print_modules(const json_t *modules) {
    char size[SIZE_TEXT], count[SIZE_TEXT], sum[2 * SIZE_TEXT];
    for (size_t i = 0, n; i < json_array_size(modules); i += n) {
        const json_t *one = json_array_get(modules, i);
        const char *name = text_of(one, "module");
        n = run_of_modules(modules, i);
        const char *last = text_of(json_array_get(modules, i + n - 1), "module");
        count[0] = '\0';
        if (n > 1) snprintf(count, sizeof count, "%zu x ", n);
        snprintf(sum, sizeof sum, "%s%s", count, bytes_text(member(one, "bytes"), size));
        print_line(text_of(one, "device"), "%-18s %s%s%s", sum, name, n > 1 ? "-" : "",
                   n > 1 ? last + number_at(name) : "");
    }
}

static void print_placement(const json_t *placement) {
    printf("\nplacement\n");
    print_line("rule", "%s", text_of(placement, "rule"));
    print_devices(json_get(placement, "devices"));
    print_modules(json_get(placement, "modules"));
}

static void print_document(const json_t *document, bool with_placement) {
    const json_t *placement = with_placement ? json_get(document, "placement") : NULL;
    const json_t *picture = json_get(document, "picture");
    printf("%s\n", text_of(document, "path"));
    print_line("name", "%s", text_of(document, "model_name"));
    print_line("kind", "%s", text_of(document, "kind"));
    print_line("computes in", "%s", text_of(document, "torch_dtype"));
    print_decisions(json_get(document, "decisions"));
    print_model(document);
    print_tensors(document);
    print_memory(document);
    if (placement) print_placement(placement);
    if (picture) print_picture(picture);
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
    return cli_fail_text("%s", text_of(json_array_get(errors, 0), "message"));
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
    const bool loadable = json_is_true(json_get(document, "loadable"));
    if (width && loadable) {
        LLAVA_TRY_DONE(count_tokens(args, document, (size2){width, height}, &picture, &err));
        json_object_set(document, "picture", picture);
    }
    add_session(document, args->context_tokens);
    if (args->json)
        cli_print_json(stdout, json_incref(document), true);
    else if (json_get(document, "decoder"))
        print_document(document, args->load.device_map || args->load.max_memory);
    if (!loadable) result = report_error(json_get(document, "errors"));
done:
    json_decref(document);
    json_decref(picture);
    return status == LLAVA_OK ? result : cli_fail(&err);
}
