/* SPDX-License-Identifier: Apache-2.0
 *
 * The report of llava info for people: a directory's sections, or the content of one file.
 */
#include <stdlib.h>

#include "cmd_info.h"

#define NAMES_SHOWN 10

const char *info_text(const json_t *object, const char *key) {
    const char *text = object ? json_string_value(json_get(object, key)) : NULL;
    return text ? text : "-";
}

int64_t info_number(const json_t *object, const char *key) {
    return object ? json_integer_value(json_get(object, key)) : 0;
}

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

static void print_line(FILE *out, const char *label, const char *format, ...) LLAVA_PRINTF(3, 4);
static void print_line(FILE *out, const char *label, const char *format, ...) {
    fprintf(out, "  %-20s ", label);
    va_list arguments;
    va_start(arguments, format);
    vfprintf(out, format, arguments);
    va_end(arguments);
    fputc('\n', out);
}

static void print_decisions(FILE *out, const json_t *list) {
    fprintf(out, "\ndecisions\n");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        print_line(out, info_text(item, "what"), "%s", info_text(item, "value"));
        print_line(out, "", "because %s", info_text(item, "reason"));
    }
}

static void print_model(FILE *out, const json_t *document) {
    const json_t *decoder = json_get(document, "decoder"), *tower = json_get(document, "tower");
    fprintf(out, "\nmodel\n");
    if (decoder)
        print_line(out, "decoder", "%s: %lld layers of width %lld, %lld heads (%lld for keys)",
                   info_text(decoder, "family"), (long long)info_number(decoder, "n_layers"),
                   (long long)info_number(decoder, "hidden_size"),
                   (long long)info_number(decoder, "n_heads"),
                   (long long)info_number(decoder, "n_kv_heads"));
    if (decoder && info_number(decoder, "n_experts") > 0)
        print_line(out, "experts", "%lld", (long long)info_number(decoder, "n_experts"));
    if (tower)
        print_line(out, "tower", "%s %s: %lld layers of width %lld, %lld pixels in patches of %lld",
                   info_text(tower, "kind"), info_text(tower, "name"),
                   (long long)info_number(tower, "n_layers"),
                   (long long)info_number(tower, "hidden_size"),
                   (long long)info_number(tower, "image_size"),
                   (long long)info_number(tower, "patch_size"));
    const long long per_tile = info_number(document, "tokens_per_tile");
    if (tower && per_tile > 0)
        print_line(out, "pictures", "%s, %s, %lld tokens a tile",
                   info_text(document, "image_aspect_ratio"),
                   info_text(document, "mm_patch_merge_type"), per_tile);
    print_line(out, "context", "%lld tokens", (long long)info_number(document, "context_len"));
}

/** Names one below the other, and how many more there are. */
static void print_names(FILE *out, const char *label, const json_t *names, int64_t count) {
    const size_t shown =
        json_array_size(names) < NAMES_SHOWN ? json_array_size(names) : NAMES_SHOWN;
    for (size_t i = 0; i < shown; i++)
        print_line(out, i ? "" : label, "%s", json_string_value(json_array_get(names, i)));
    if (count > (int64_t)shown)
        print_line(out, "", "and %lld more", (long long)(count - (int64_t)shown));
}

/** Where everything is read from: one line a file. */
static void print_files(FILE *out, const json_t *document) {
    const json_t *files = json_get(document, "files"), *contents = json_get(document, "contents");
    char size[SIZE_TEXT];
    if (json_array_size(contents)) fprintf(out, "\ndirectory\n");
    for (size_t i = 0; i < json_array_size(contents); i++) {
        const json_t *item = json_array_get(contents, i);
        print_line(out, info_text(item, "what"), "%s", info_text(item, "name"));
    }
    if (json_array_size(files)) fprintf(out, "\nweights from\n");
    for (size_t i = 0; i < json_array_size(files); i++) {
        const json_t *item = json_array_get(files, i);
        const char *directory = info_text(item, "directory");
        print_line(out, bytes_text(info_number(item, "bytes"), size),
                   path_is_directory(directory) ? "%s/%s" : "%s", directory,
                   info_text(item, "name"));
    }
}

static void print_tensors(FILE *out, const json_t *document) {
    const json_t *tensors = json_get(document, "tensors");
    if (!tensors) return;
    char size[SIZE_TEXT];
    fprintf(out, "\ntensors\n");
    const char *type;
    json_t *entry;
    json_object_foreach((json_t *)json_get(tensors, "by_dtype"), type, entry) {
        print_line(out, type, "%lld tensors, %s", (long long)info_number(entry, "count"),
                   bytes_text(info_number(entry, "bytes"), size));
    }
    print_names(out, "missing", json_get(document, "missing"),
                info_number(document, "missing_count"));
    print_names(out, "not used", json_get(document, "unexpected"),
                info_number(document, "unexpected_count"));
}

static void print_memory(FILE *out, const json_t *document) {
    const json_t *memory = json_get(document, "memory"), *session = json_get(document, "session");
    if (!memory || !session) return;
    char size[SIZE_TEXT];
    fprintf(out, "\nmemory\n");
    print_line(out, "weights, mapped", "%s",
               bytes_text(info_number(memory, "weights_mapped_bytes"), size));
    print_line(out, "weights, converted", "%s",
               bytes_text(info_number(memory, "weights_owned_bytes"), size));
    print_line(out, "cache", "%s for %lld tokens",
               bytes_text(info_number(session, "cache_bytes"), size),
               (long long)info_number(session, "context_tokens"));
    print_line(out, "working memory", "%s",
               bytes_text(info_number(memory, "decoder_scratch_bytes"), size));
    print_line(out, "together", "%s", bytes_text(info_number(session, "total_bytes"), size));
}

static void print_picture(FILE *out, const json_t *picture) {
    fprintf(out, "\npicture\n");
    print_line(out, "size", "%lld x %lld", (long long)info_number(picture, "width"),
               (long long)info_number(picture, "height"));
    print_line(out, "tokens", "%lld", (long long)info_number(picture, "tokens"));
    print_line(out, "tower inputs", "%lld", (long long)info_number(picture, "tower_inputs"));
    if (info_number(picture, "tiles_across") > 0)
        print_line(out, "tiles", "%lld x %lld, and the whole picture",
                   (long long)info_number(picture, "tiles_across"),
                   (long long)info_number(picture, "tiles_down"));
}

/* ---------------------------------------------------------------- placement */

static void print_devices(FILE *out, const json_t *devices) {
    char size[SIZE_TEXT], limit[SIZE_TEXT];
    for (size_t i = 0; i < json_array_size(devices); i++) {
        const json_t *d = json_array_get(devices, i);
        const int64_t held = info_number(d, "weights_bytes");
        const bool given = strcmp(info_text(d, "limit"), "max_memory") == 0;
        const bool disk = strcmp(info_text(d, "device"), "disk") == 0;
        if (held == 0 && !given) continue;
        bytes_text(held, size);
        if (given)
            print_line(out, info_text(d, "device"), "%s of %s", size,
                       bytes_text(info_number(d, "limit_bytes"), limit));
        else
            print_line(out, info_text(d, "device"), "%s%s", size,
                       disk ? " stay in the file and are read as they are used" : "");
        if (disk && info_number(d, "made_bytes") > 0)
            print_line(out, "", "but %s of it are converted, so in memory",
                       bytes_text(info_number(d, "made_bytes"), size));
    }
}

/** Where the number at the end of a module's name begins; its end when there is none. */
static size_t number_at(const char *name) {
    size_t at = strlen(name);
    while (at > 0 && name[at - 1] >= '0' && name[at - 1] <= '9') at--;
    return at;
}

/** How many modules from the first on differ in nothing but their number, which counts up. */
static size_t run_of_modules(const json_t *modules, size_t first) {
    const json_t *one = json_array_get(modules, first);
    const char *name = info_text(one, "module");
    const size_t stem = number_at(name);
    long long number = strtoll(name + stem, NULL, 10);
    size_t end = first + 1;
    for (; name[stem] && end < json_array_size(modules); end++) {
        const json_t *next = json_array_get(modules, end);
        const char *other = info_text(next, "module");
        if (number_at(other) != stem || strncmp(name, other, stem) != 0 ||
            strtoll(other + stem, NULL, 10) != ++number ||
            info_number(next, "bytes") != info_number(one, "bytes") ||
            strcmp(info_text(next, "device"), info_text(one, "device")) != 0)
            break;
    }
    return end - first;
}

static void print_modules(FILE *out, const json_t *modules) {
    char size[SIZE_TEXT], count[SIZE_TEXT], sum[2 * SIZE_TEXT];
    for (size_t i = 0, n; i < json_array_size(modules); i += n) {
        const json_t *one = json_array_get(modules, i);
        const char *name = info_text(one, "module");
        n = run_of_modules(modules, i);
        const char *last = info_text(json_array_get(modules, i + n - 1), "module");
        count[0] = '\0';
        if (n > 1) snprintf(count, sizeof count, "%zu x ", n);
        snprintf(sum, sizeof sum, "%s%s", count, bytes_text(info_number(one, "bytes"), size));
        print_line(out, info_text(one, "device"), "%-18s %s%s%s", sum, name, n > 1 ? "-" : "",
                   n > 1 ? last + number_at(name) : "");
    }
}

static void print_placement(FILE *out, const json_t *placement) {
    fprintf(out, "\nplacement\n");
    print_line(out, "rule", "%s", info_text(placement, "rule"));
    print_devices(out, json_get(placement, "devices"));
    print_modules(out, json_get(placement, "modules"));
}

/* ---------------------------------------------------------------- one file */

static void shape_text(const json_t *shape, bytes *text) {
    text->size = 0;
    bytes_puts(text, "[");
    for (size_t i = 0; i < json_array_size(shape); i++)
        bytes_printf(text, "%s%lld", i ? ", " : "",
                     (long long)json_integer_value(json_array_get(shape, i)));
    bytes_puts(text, "]");
}

static size_t longest_name(const json_t *list) {
    size_t longest = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const size_t size = strlen(info_text(json_array_get(list, i), "name"));
        if (size > longest) longest = size;
    }
    return longest < 4 ? 4 : longest < 80 ? longest : 80;
}

/** With the file's name behind each tensor when there are several. */
static void print_tensor_list(FILE *out, const json_t *list) {
    const int width = (int)longest_name(list);
    const json_t *first = json_array_get(list, 0);
    bool several = false;
    for (size_t i = 0; i < json_array_size(list) && !several; i++)
        several = strcmp(info_text(json_array_get(list, i), "file"), info_text(first, "file")) != 0;
    bytes shape = {0};
    fprintf(out, "\n  %-*s  %-8s %12s %12s  shape\n", width, "name", "dtype", "bytes", "offset");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *t = json_array_get(list, i);
        const json_t *offset = json_get(t, "offset");
        char position[SIZE_TEXT] = "gathered"; /* a strided view: no bytes of its own */
        if (offset)
            snprintf(position, sizeof position, "%lld", (long long)info_number(t, "offset"));
        shape_text(json_get(t, "shape"), &shape);
        fprintf(out, "  %-*s  %-8s %12lld %12s  %s%s%s\n", width, info_text(t, "name"),
                info_text(t, "dtype"), (long long)info_number(t, "bytes"), position, shape.data,
                several ? " in " : "", several ? info_text(t, "file") : "");
    }
    bytes_free(&shape);
}

static void print_settings(FILE *out, const json_t *settings) {
    const char *key;
    json_t *value;
    fprintf(out, "\nsettings\n");
    json_object_foreach((json_t *)(uintptr_t)settings, key, value) {
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
        print_line(out, key, "%s", text ? text : "-");
        free(text);
    }
}

static void print_tokenizer(FILE *out, const json_t *tokenizer) {
    const json_t *special = json_get(tokenizer, "special");
    fprintf(out, "\ntokenizer\n");
    print_line(out, "class", "%s", info_text(tokenizer, "description"));
    print_line(out, "entries", "%lld", (long long)info_number(tokenizer, "size"));
    for (size_t i = 0; i < json_array_size(special); i++) {
        const json_t *item = json_array_get(special, i);
        print_line(out, info_text(item, "name"), "%lld %s", (long long)info_number(item, "id"),
                   info_text(item, "text"));
    }
}

static void print_file(FILE *out, const json_t *document) {
    char size[SIZE_TEXT];
    const json_t *settings = json_get(document, "settings");
    const json_t *tokenizer = json_get(document, "tokenizer");
    print_line(out, "kind", "%s", info_text(document, "kind"));
    print_line(out, "size", "%s", bytes_text(info_number(document, "bytes"), size));
    if (json_get(document, "decoder")) {
        print_decisions(out, json_get(document, "decisions"));
        print_model(out, document);
    }
    print_tensors(out, document);
    if (json_get(document, "tensor_list"))
        print_tensor_list(out, json_get(document, "tensor_list"));
    if (settings) print_settings(out, settings);
    if (tokenizer) print_tokenizer(out, tokenizer);
}

/* ---------------------------------------------------------------- the document */

/** Every refusal with its class; the first is also the command's message. */
static void print_problems(FILE *out, const json_t *errors) {
    if (json_array_size(errors)) fprintf(out, "\nproblems\n");
    for (size_t i = 0; i < json_array_size(errors); i++) {
        const json_t *item = json_array_get(errors, i);
        const char *class = info_text(item, "refusal");
        print_line(out, info_text(item, "stage"), "%s%s%s%s", info_text(item, "message"),
                   strcmp(class, "none") ? " (" : "", strcmp(class, "none") ? class : "",
                   strcmp(class, "none") ? ")" : "");
    }
}

static void print_directory(FILE *out, const json_t *document, bool with_placement) {
    const json_t *placement = with_placement ? json_get(document, "placement") : NULL;
    const json_t *picture = json_get(document, "picture");
    print_line(out, "name", "%s", info_text(document, "model_name"));
    print_line(out, "kind", "%s", info_text(document, "kind"));
    if (json_get(document, "decoder")) {
        print_line(out, "computes in", "%s", info_text(document, "torch_dtype"));
        print_decisions(out, json_get(document, "decisions"));
        print_model(out, document);
    }
    print_files(out, document);
    print_tensors(out, document);
    print_memory(out, document);
    if (placement) print_placement(out, placement);
    if (picture) print_picture(out, picture);
}

void info_print(FILE *out, const json_t *document, bool with_placement) {
    const char *path = info_text(document, "path");
    const bool is_file = path_is_file(path);
    if (!is_file && !json_get(document, "contents")) return; /* nothing is there */
    fprintf(out, "%s\n", path);
    if (is_file)
        print_file(out, document);
    else
        print_directory(out, document, with_placement);
    print_problems(out, json_get(document, "errors"));
}
