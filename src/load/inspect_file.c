/* SPDX-License-Identifier: Apache-2.0
 *
 * What one file holds, tensor by tensor or setting by setting, or why it is refused.
 */
#include "load_plan.h"
#include "report.h"

#define LISTED_MAX 100000 /* of a file's tensors; the counts are always complete */

/** A file under inspection. A reader fills the report with what it found. */
typedef struct file_inspection {
    const llava_load_options *options;
    const char *path, *name, *directory;
    arena *memory;
    json_t *report;
    json_t *content; /* of a JSON file */
    llava_error *err;
} file_inspection;

typedef struct file_kind {
    const char *kind;
    llava_status (*read)(file_inspection *f);
} file_kind;

static llava_status short_memory(const file_inspection *f, llava_status status) {
    return status == LLAVA_OK ? status : llava_fail_memory(f->err, 0, "a report");
}

/* ---------------------------------------------------------------- tensors */

static json_t *shape_json(const tensor *t) {
    json_t *shape = json_array();
    for (int i = 0; shape && i < t->n_dims; i++)
        json_array_append_new(shape, json_integer((json_int_t)t->shape[i]));
    return shape;
}

static json_t *tensor_json(const checkpoint *c, const checkpoint_tensor *t) {
    uint64_t offset = 0;
    json_t *position = checkpoint_offset(c, t, &offset) ? json_integer((json_int_t)offset) : NULL;
    return json_pack("{s:o, s:s, s:o, s:I, s:o?, s:o}", "name",
                     json_clean_string(t->name, strlen(t->name)), "dtype", t->stored, "shape",
                     shape_json(&t->t), "bytes", (json_int_t)t->t.n_bytes, "offset", position,
                     "file", json_clean_string(t->file, strlen(t->file)));
}

static llava_status list_tensors(file_inspection *f, const checkpoint *c) {
    json_t *list = json_array();
    if (!list) return LLAVA_OUT_OF_MEMORY;
    llava_status status = LLAVA_OK;
    for (size_t i = 0; status == LLAVA_OK && i < checkpoint_count(c) && i < LISTED_MAX; i++)
        status = report_append(list, tensor_json(c, checkpoint_at(c, i)));
    if (status == LLAVA_OK) status = report_set(f->report, "tensors", report_tensor_summary(c));
    if (status == LLAVA_OK) status = report_set(f->report, "tensor_list", json_incref(list));
    json_decref(list);
    return status;
}

static llava_status read_weights(file_inspection *f) {
    checkpoint *c;
    LLAVA_TRY(checkpoint_open(f->path, &c, f->err));
    const llava_status status = list_tensors(f, c);
    checkpoint_close(&c);
    return short_memory(f, status);
}

/* ---------------------------------------------------------------- configurations */

/** The tower that the configuration names, when it is here; its absence is not this file's fault.
 */
static llava_status read_tower(file_inspection *f, llava_config *config) {
    if (!config->multimodal) return LLAVA_OK;
    if (config->native) return config_read_native_tower(config, f->directory, f->err);
    const char *directory = load_find_tower(f->memory, plan_tower_name(config),
                                            f->options->working_directory, f->directory);
    if (directory) return config_read_tower(config, directory, f->err);
    llava_error none;
    if (config_read_tower(config, NULL, &none) == LLAVA_OK) return LLAVA_OK;
    return config_note(config, "tower", "not here", none.message, f->err);
}

static llava_status read_config(file_inspection *f) {
    const config_request request = {.directory = f->directory,
                                    .model_name = config_model_name(f->memory, f->directory),
                                    .overwrite_config = f->options->overwrite_config};
    load_plan plan = {.model = model_new()};
    if (!plan.model) return llava_fail_memory(f->err, 0, "a model");
    llava_status status = config_load(&request, &plan.model->config, f->err);
    if (status == LLAVA_OK) status = read_tower(f, plan.model->config);
    if (status == LLAVA_OK) {
        status = report_config(&plan, f->report);
        if (status == LLAVA_OK) status = report_pictures(&plan, f->report);
        status = short_memory(f, status);
    }
    model_free(&plan.model);
    return status;
}

static llava_status add_settings(file_inspection *f) {
    return short_memory(f, report_set(f->report, "settings", json_incref(f->content)));
}

static llava_status read_adapter(file_inspection *f) {
    LLAVA_TRY(adapter_check_config(f->path, f->err));
    return add_settings(f);
}

static llava_status read_processor(file_inspection *f) {
    processor_config processor;
    LLAVA_TRY(config_parse_processor(f->content, f->path, &processor, f->err));
    return add_settings(f);
}

static llava_status read_settings(file_inspection *f) {
    if (json_is_object(f->content)) return add_settings(f);
    return llava_refuse(f->err, LLAVA_MALFORMED, LLAVA_REFUSAL_INVALID,
                        "%s: expected an object, got %s", f->path, json_kind(f->content));
}

/* ---------------------------------------------------------------- tokenizers */

static llava_status add_special(json_t *list, const llava_tokenizer *t, const char *name,
                                int32_t id) {
    const char *text = tokenizer_token(t, id);
    if (id < 0 || !text) return LLAVA_OK;
    return report_append(list, json_pack("{s:s, s:i, s:o}", "name", name, "id", (int)id, "text",
                                         json_clean_string(text, strlen(text))));
}

static llava_status describe_tokenizer(file_inspection *f, const llava_tokenizer *t) {
    json_t *specials = json_array();
    json_t *object = json_pack("{s:s, s:I, s:O?}", "description", tokenizer_description(t), "size",
                               (json_int_t)tokenizer_size(t), "special", specials);
    llava_status status = object ? report_set(f->report, "tokenizer", object) : LLAVA_OUT_OF_MEMORY;
    if (status == LLAVA_OK) status = add_special(specials, t, "bos", tokenizer_bos(t));
    if (status == LLAVA_OK) status = add_special(specials, t, "eos", tokenizer_eos(t));
    for (int32_t id = 0; status == LLAVA_OK && id < tokenizer_size(t); id++)
        if (tokenizer_is_special(t, id) && id != tokenizer_bos(t) && id != tokenizer_eos(t))
            status = add_special(specials, t, "special", id);
    json_decref(specials);
    return status;
}

/** The tokenizer of the file's directory, made from this file. */
static llava_status read_tokenizer(file_inspection *f) {
    const bool pieces = strcmp(f->name, "tokenizer.model") == 0;
    const tokenizer_request request = {
        .directory = f->directory,
        .flavour = strcmp(f->name, "tokenizer.json") == 0 ? TOKENIZER_FAST : TOKENIZER_SLOW,
        .model_type = pieces ? "llama" : "qwen2",
        .keeps_json = true,
    };
    llava_tokenizer *t = NULL;
    LLAVA_TRY(tokenizer_open(&request, &t, f->err));
    const llava_status status = describe_tokenizer(f, t);
    tokenizer_free(&t);
    return short_memory(f, status);
}

/* ---------------------------------------------------------------- which reader */

static const struct {
    const char *name;
    file_kind kind;
} names[] = {
    {"config.json", {"config", read_config}},
    {"tokenizer.json", {"tokenizer", read_tokenizer}},
    {"tokenizer.model", {"tokenizer", read_tokenizer}},
    {"vocab.json", {"tokenizer", read_tokenizer}},
    {"merges.txt", {"tokenizer", read_tokenizer}},
    {"adapter_config.json", {"adapter config", read_adapter}},
    {"preprocessor_config.json", {"image processor", read_processor}},
};

static bool ends_with(const char *text, const char *suffix) {
    const size_t n = strlen(text), m = strlen(suffix);
    return n >= m && strcmp(text + n - m, suffix) == 0;
}

/** By the name that loading knows; else by the ending. */
static file_kind kind_of(const char *name) {
    for (size_t i = 0; i < LLAVA_COUNT(names); i++)
        if (strcmp(name, names[i].name) == 0) return names[i].kind;
    if (ends_with(name, ".index.json")) return (file_kind){"index", read_weights};
    if (ends_with(name, ".json")) return (file_kind){"settings", read_settings};
    return (file_kind){"weights", read_weights};
}

static llava_status read_file(file_inspection *f, const file_kind *kind) {
    const bool by_content =
        kind->read == read_settings || kind->read == read_adapter || kind->read == read_processor;
    if (by_content) LLAVA_TRY(json_read_file(f->path, &f->content, f->err));
    return kind->read(f);
}

static llava_status file_size(file_inspection *f) {
    file_map map;
    if (file_map_open(f->path, &map, f->err) != LLAVA_OK) return LLAVA_OK; /* the reader's to say */
    const llava_status status = report_set(f->report, "bytes", json_integer((json_int_t)map.size));
    file_map_close(&map);
    return status;
}

/** Reads the file; its refusal becomes an entry of the list. Fails for want of memory alone. */
static llava_status inspect(file_inspection *f, json_t *errors) {
    const file_kind kind = kind_of(f->name);
    llava_error problem = {0};
    f->err = &problem;
    LLAVA_TRY(report_set(f->report, "path", json_clean_string(f->path, strlen(f->path))));
    LLAVA_TRY(report_set(f->report, "kind", json_string(kind.kind)));
    LLAVA_TRY(file_size(f));
    const llava_status status = read_file(f, &kind);
    if (status == LLAVA_OUT_OF_MEMORY) return status;
    if (status != LLAVA_OK) LLAVA_TRY(report_error(errors, "file", &problem));
    LLAVA_TRY(report_set(f->report, "loadable", json_boolean(status == LLAVA_OK)));
    return report_set(f->report, "errors", json_incref(errors));
}

llava_status load_inspect_file(const llava_load_options *options, json_t **report,
                               llava_error *err) {
    *report = NULL;
    const char *path = options->model_path;
    file_inspection f = {
        .options = options, .path = path, .memory = arena_new(), .report = json_object()};
    json_t *errors = json_array();
    llava_status status = LLAVA_OUT_OF_MEMORY;
    f.name = f.memory ? path_base(f.memory, path) : NULL;
    const size_t above = f.name ? strlen(path) - strlen(f.name) : 0;
    f.directory = f.name ? arena_strndup(f.memory, above ? path : ".", above ? above : 1) : NULL;
    if (f.directory && f.report && errors) status = inspect(&f, errors);
    json_decref(errors);
    json_decref(f.content);
    arena_free(&f.memory);
    if (status == LLAVA_OK) {
        *report = f.report;
        return LLAVA_OK;
    }
    json_decref(f.report);
    return llava_fail_memory(err, 0, "a report");
}
