/* SPDX-License-Identifier: Apache-2.0
 *
 * models + traces: what load_pretrained_model returns for every recorded call.
 * traces/loader_decisions.json: which class each call gets, or why not.
 * prompts/model_names.json: names derived from paths.
 */
#include <dirent.h>
#include <math.h>

#include "base/json.h"
#include "load/load.h"
#include "support/reference.h"
#include "support/scratch.h"

static const char *text_of(const json_t *object, const char *key) {
    return json_string_value(json_get(object, key));
}

static int64_t int_of(const json_t *object, const char *key) {
    return json_integer_value(json_get(object, key));
}

static int is_listed(const struct dirent *entry) { return entry->d_name[0] != '.'; }

/* ---------------------------------------------------------------- what a call returned */

/** The first difference, or NULL. */
typedef const char *difference;

static difference compare_channels(const json_t *list, const double values[3]) {
    for (size_t i = 0; i < 3; i++)
        if (json_number_value(json_array_get(list, i)) != values[i]) return "mean or std";
    return NULL;
}

static difference compare_sizes(const json_t *expected, const processor_config *p) {
    const json_t *size = json_get(expected, "size"), *crop = json_get(expected, "crop_size");
    if (int_of(crop, "height") != p->crop_height || int_of(crop, "width") != p->crop_width)
        return "crop_size";
    if (json_is_array(size))
        return json_integer_value(json_array_get(size, 0)) == p->size_width &&
                       json_integer_value(json_array_get(size, 1)) == p->size_height
                   ? NULL
                   : "size";
    if (json_get(size, "shortest_edge"))
        return int_of(size, "shortest_edge") == p->shortest_edge ? NULL : "size";
    return int_of(size, "height") == p->size_height && int_of(size, "width") == p->size_width
               ? NULL
               : "size";
}

static difference compare_processor(const json_t *expected, const llava_image_processor *got) {
    if (!expected) return got ? "an image processor" : NULL;
    if (!got) return "no image processor";
    const processor_config *p = &got->processor;
    const bool siglip = strcmp(text_of(expected, "class"), "SigLipImageProcessor") == 0;
    if (siglip != (p->kind == TOWER_SIGLIP)) return "the image processor's class";
    const struct {
        const char *key;
        bool value;
    } steps[] = {{"do_resize", p->do_resize},
                 {"do_center_crop", p->do_center_crop},
                 {"do_rescale", p->do_rescale},
                 {"do_normalize", p->do_normalize}};
    for (size_t i = 0; i < LLAVA_COUNT(steps); i++) {
        const json_t *step = json_get(expected, steps[i].key);
        if (step && json_is_true(step) != steps[i].value) return steps[i].key;
    }
    if (int_of(expected, "resample") != p->resample) return "resample";
    if (fabs(json_number_value(json_get(expected, "rescale_factor")) - p->rescale_factor) > 1e-15)
        return "rescale_factor";
    difference d = compare_sizes(expected, p);
    if (!d) d = compare_channels(json_get(expected, "image_mean"), p->mean);
    return d ? d : compare_channels(json_get(expected, "image_std"), p->std);
}

static difference compare_tower(const json_t *expected, const llava_model *model) {
    const llava_config *config = model->config;
    if (!expected) return config->multimodal ? "a vision tower" : NULL;
    int64_t tokens, width;
    model_tower_shape(model, &tokens, &width);
    if (int_of(expected, "hidden_size") != width) return "the tower's width";
    if (int_of(expected, "image_size") != config->tower.image_size) return "the tower's image_size";
    if (int_of(expected, "num_patches") != tokens) return "the tower's tokens";
    const int64_t side = config->tower.image_size / config->tower.patch_size;
    return int_of(expected, "num_patches_per_side") == side ? NULL : "num_patches_per_side";
}

static difference compare_returned(const json_t *trace, const llava_loaded *got) {
    const json_t *expected = json_get(trace, "returned"), *from = json_get(trace, "loaded_from");
    const llava_model *model = got->model;
    if (strcmp(text_of(expected, "model"), model->config->architecture) != 0) return "the class";
    /* MPT: the reference overlooks max_seq_len and says 2048 */
    const int64_t context = model->config->lm.family->arch == ARCH_MPT
                                ? model->config->lm.max_position_embeddings
                                : int_of(expected, "context_len");
    if (got->context_len != context) return "context_len";
    if (int_of(expected, "tokenizer_length") != tokenizer_size(got->tokenizer))
        return "tokenizer_length";
    if (int_of(expected, "embedding_rows") != model->n_vocab) return "embedding_rows";
    if (int_of(expected, "head_rows") != model->n_vocab) return "head_rows";
    if (from && (int_of(from, "tower") > 0) != (model->files[1] != NULL))
        return "where the tower comes from";
    if (from &&
        (int_of(from, "tied") > 0) != (model->decoder.head.data == model->decoder.embed.data))
        return "whether the head is tied";
    difference d = compare_tower(json_get(expected, "vision_tower"), model);
    return d ? d : compare_processor(json_get(expected, "image_processor"), got->image_processor);
}

/* ---------------------------------------------------------------- calls */

/** A recorded call as options; strings stay with the arena and the JSON. */
static llava_load_options call_options(arena *memory, const json_t *call, const char *folder) {
    llava_load_options o = {.model_path = path_join(memory, folder, text_of(call, "model_path")),
                            .model_name = text_of(call, "model_name"),
                            .attn_implementation = text_of(call, "attn_implementation"),
                            .device_map = text_of(call, "device_map"),
                            .load_8bit = json_is_true(json_get(call, "load_8bit")),
                            .load_4bit = json_is_true(json_get(call, "load_4bit")),
                            .multimodal = json_is_true(json_get(call, "multimodal")),
                            .working_directory = folder};
    if (text_of(call, "model_base"))
        o.model_base = path_join(memory, folder, text_of(call, "model_base"));
    if (text_of(call, "torch_dtype")) dtype_parse(text_of(call, "torch_dtype"), &o.torch_dtype);
    static const char *const keys[] = {"overwrite_config", "customized_config"};
    const char **const texts[] = {&o.overwrite_config, &o.customized_config};
    for (size_t i = 0; i < 2; i++) {
        if (!json_get(call, keys[i])) continue;
        char *text = json_dumps(json_get(call, keys[i]), 0);
        *texts[i] = arena_strdup(memory, text);
        free(text);
    }
    return o;
}

static void close_loaded(llava_loaded *loaded) {
    image_processor_free(&loaded->image_processor);
    tokenizer_free(&loaded->tokenizer);
    model_free(&loaded->model);
}

static void check_trace(reference_count *count, const char *folder, const char *path,
                        const char *name) {
    json_t *trace = NULL;
    llava_error err = {0};
    if (json_read_file(path, &trace, &err) != LLAVA_OK) {
        reference_fail(count, name, "%s", err.message);
        return;
    }
    arena *memory = arena_new();
    const llava_load_options options = call_options(memory, json_get(trace, "call"), folder);
    llava_loaded loaded = {0};
    const llava_status status = load_pretrained_model(&options, &loaded, &err);
    if (status == LLAVA_UNSUPPORTED) {
        reference_skip(count, name, "%s", err.message);
    } else if (status != LLAVA_OK) {
        reference_fail(count, name, "%s", err.message);
    } else {
        difference d = compare_returned(trace, &loaded);
        if (d)
            reference_fail(count, name, "differs in: %s", d);
        else
            reference_pass(count);
    }
    close_loaded(&loaded);
    arena_free(&memory);
    json_decref(trace);
}

/** All traces of one model; a model without any is loaded all the same. */
static void check_model(reference_count *count, const char *folder, const char *name) {
    arena *memory = arena_new();
    const char *directory = arena_printf(memory, "%s/traces/%s", folder, name);
    struct dirent **files;
    const int n = scandir(directory, &files, is_listed, alphasort);
    int n_traces = 0;
    for (int i = 0; i < n; i++) {
        const char *file = files[i]->d_name, *dot = strrchr(file, '.');
        if (dot && strcmp(dot, ".json") == 0) {
            n_traces++;
            check_trace(count, folder, arena_printf(memory, "%s/%s", directory, file),
                        arena_printf(memory, "%s/%s", name, file));
        }
        free(files[i]);
    }
    if (n >= 0) free(files);
    if (n_traces == 0) {
        const llava_load_options options = {.model_path =
                                                arena_printf(memory, "%s/models/%s", folder, name),
                                            .working_directory = folder};
        llava_loaded loaded = {0};
        llava_error err = {0};
        if (load_pretrained_model(&options, &loaded, &err) == LLAVA_OK)
            reference_pass(count);
        else
            reference_fail(count, name, "%s", err.message);
        close_loaded(&loaded);
    }
    arena_free(&memory);
}

static bool check_models(const char *folder) {
    reference_count count = {.folder = "models"};
    char path[4096];
    snprintf(path, sizeof path, "%s/models", folder);
    struct dirent **models;
    const int n = scandir(path, &models, is_listed, alphasort);
    if (n < 0) printf("models: no such folder\n");
    for (int i = 0; i < n; i++) {
        char model[4600];
        snprintf(model, sizeof model, "%s/%s", path, models[i]->d_name);
        if (path_is_directory(model)) check_model(&count, folder, models[i]->d_name);
        free(models[i]);
    }
    if (n >= 0) free(models);
    return reference_close(&count);
}

/* ---------------------------------------------------------------- decisions */

/** Why our answer may differ from the recorded one. */
typedef enum category {
    SAME,
    CONFIG_DECIDES, /* the name rule picks a class that is not the checkpoint's */
    WORKS_HERE,     /* the reference fails by accident */
    BASE_NEEDED,    /* adapters and projectors: only the name rule is compared */
    NULL_LENGTH,    /* the reference returns a null context_len */
    CATEGORIES
} category;

static const char *const category_names[CATEGORIES] = {"same", "config.json decides", "works here",
                                                       "with model_base, name rule only",
                                                       "null context_len"};

/** Class that the files say, computed apart from the library; NULL when they do not say. */
static const char *class_of_config(const json_t *config) {
    static const char *const types[][2] = {{"llava_llama", "LlavaLlamaForCausalLM"},
                                           {"llava_qwen", "LlavaQwenForCausalLM"},
                                           {"llava_qwen_moe", "LlavaQwenMoeForCausalLM"},
                                           {"llava_mistral", "LlavaMistralForCausalLM"},
                                           {"llava_mixtral", "LlavaMixtralForCausalLM"},
                                           {"llava_gemma", "LlavaGemmaForCausalLM"},
                                           {"llava_mpt", "LlavaMptForCausalLM"},
                                           {"llama", "LlamaForCausalLM"},
                                           {"qwen2", "Qwen2ForCausalLM"},
                                           {"mpt", "MptForCausalLM"}};
    const char *named = json_string_value(json_array_get(json_get(config, "architectures"), 0));
    const char *type = text_of(config, "model_type");
    for (size_t i = 0; !named && type && i < LLAVA_COUNT(types); i++)
        if (strcmp(types[i][0], type) == 0) named = types[i][1];
    return named;
}

/** Writes a case's files; gives the config that model_path holds, or NULL. */
static json_t *write_files(const scratch *place, const json_t *root, const json_t *item) {
    json_t *own = NULL;
    const char *path, *model_path = text_of(json_get(item, "call"), "model_path");
    json_t *value;
    json_object_foreach(json_object_get(item, "files"), path, value) {
        char directory[128];
        snprintf(directory, sizeof directory, "%.*s", (int)strcspn(path, "/"), path);
        scratch_directory(place, directory);
        const json_t *config = json_get(json_get(root, "configs"), json_string_value(value));
        json_t *merged = config ? json_deep_copy(config) : NULL;
        if (merged) json_object_update(merged, json_object_get(item, "config_override"));
        char *text = merged ? json_dumps(merged, 0) : NULL;
        scratch_text(place, path, text ? text : "");
        free(text);
        if (merged && strcmp(directory, model_path) == 0 && strstr(path, "/config.json"))
            own = json_incref(merged);
        json_decref(merged);
    }
    return own;
}

/** Message of an inspection's error in its "config" stage, or NULL. */
static const char *config_error(const json_t *report) {
    const json_t *errors = json_get(report, "errors");
    for (size_t i = 0; i < json_array_size(errors); i++) {
        const json_t *error = json_array_get(errors, i);
        if (strcmp(text_of(error, "stage"), "config") == 0) return text_of(error, "message");
    }
    return NULL;
}

/** The class of the first from_pretrained event, which the name rule chose. */
static const char *class_called(const json_t *item) {
    const json_t *events = json_get(item, "events");
    for (size_t i = 0; i < json_array_size(events); i++) {
        const char *name = text_of(json_array_get(events, i), "from_pretrained");
        if (name) return name;
    }
    return NULL;
}

static difference compare_name_rule(const json_t *item) {
    const json_t *call = json_get(item, "call");
    const char *branch, *class_name, *called = class_called(item);
    config_reference_branch(text_of(call, "model_name"), text_of(call, "model_base") != NULL,
                            json_is_true(json_get(call, "multimodal")), text_of(call, "model_path"),
                            &branch, &class_name);
    if (!called) return NULL;
    return class_name && strcmp(class_name, called) == 0 ? NULL : "the name rule's class";
}

/** Recorded errors that are about the checkpoint: ours must refuse as well. */
static bool is_honest_error(const json_t *error) {
    const char *message = text_of(error, "message"), *cause = text_of(error, "cause_message");
    static const char *const honest[] = {"named config.json", "is_loaded", "Unrecognized model"};
    for (size_t i = 0; i < LLAVA_COUNT(honest); i++)
        if (strstr(message, honest[i]) || (cause && strstr(cause, honest[i]))) return true;
    return false;
}

static difference compare_context(const json_t *item, const json_t *report, category *kind) {
    const json_t *call = json_get(item, "call"), *result = json_get(item, "result");
    const json_t *length = json_object_get(result, "context_len");
    if (!result || json_get(call, "customized_config")) return NULL;
    if (json_is_null(length)) *kind = NULL_LENGTH;
    const char *type = text_of(json_get(report, "decoder"), "family");
    if (json_is_null(length) || (type && strcmp(type, "mpt") == 0)) return NULL;
    /* a class chosen by the name has that class's default; the checkpoint's own is right */
    if (*kind == CONFIG_DECIDES) return NULL;
    return int_of(report, "context_len") == json_integer_value(length) ? NULL : "context_len";
}

static difference compare_decision(const json_t *item, const json_t *config, const json_t *report,
                                   category *kind) {
    const json_t *error = json_get(item, "error");
    const char *refused = config_error(report);
    if (error && is_honest_error(error)) {
        *kind = SAME;
        return refused ? NULL : "it was refused in the recording";
    }
    if (refused) return refused;
    const char *got = text_of(json_get(report, "architecture"), "class");
    const char *named =
        json_get(json_get(item, "call"), "customized_config") ? NULL : class_of_config(config);
    const char *recorded = error ? NULL : text_of(json_get(item, "result"), "model");
    const bool automatic = recorded && strcmp(recorded, "AutoModelForCausalLM") == 0;
    const char *expected = named ? named : recorded;
    *kind = error ? WORKS_HERE : SAME;
    if (recorded && !automatic && expected && strcmp(expected, recorded) != 0)
        *kind = CONFIG_DECIDES;
    if (expected && strcmp(expected, got) != 0) return "the class";
    return compare_context(item, report, kind);
}

static bool has_unknown_option(const json_t *call) {
    return json_get(call, "low_cpu_mem_usage") || json_get(call, "trust_remote_code");
}

static void check_decision(reference_count *count, const json_t *root, const json_t *item,
                           int counts[CATEGORIES]) {
    const char *name = text_of(item, "name");
    const json_t *call = json_get(item, "call");
    if (has_unknown_option(call)) {
        reference_skip(count, name, "this interface has no such option");
        return;
    }
    scratch place;
    if (!scratch_open(&place)) exit(1);
    arena *memory = arena_new();
    json_t *config = write_files(&place, root, item), *report = NULL;
    const llava_load_options options = call_options(memory, call, place.path);
    llava_error err = {0};
    category kind = BASE_NEEDED;
    difference d = compare_name_rule(item);
    if (!d && load_inspect(&options, &report, &err) != LLAVA_OK) d = err.message;
    if (!d && !options.model_base) d = compare_decision(item, config, report, &kind);
    if (d) {
        reference_fail(count, name, "%s", d);
    } else {
        reference_pass(count);
        counts[kind]++;
    }
    json_decref(report);
    json_decref(config);
    arena_free(&memory);
    scratch_close(&place);
}

static bool check_decisions(const char *folder) {
    reference_count count = {.folder = "loader_decisions"};
    char path[4096];
    snprintf(path, sizeof path, "%s/traces/loader_decisions.json", folder);
    json_t *root = NULL;
    llava_error err;
    if (!path_is_file(path)) {
        printf("loader_decisions: no such file\n");
    } else if (json_read_file(path, &root, &err) != LLAVA_OK) {
        reference_fail(&count, path, "%s", err.message);
    } else {
        int counts[CATEGORIES] = {0};
        const json_t *cases = json_get(root, "cases");
        for (size_t i = 0; i < json_array_size(cases); i++)
            check_decision(&count, root, json_array_get(cases, i), counts);
        for (int i = 0; i < CATEGORIES; i++)
            printf("loader_decisions: %d %s\n", counts[i], category_names[i]);
    }
    json_decref(root);
    return reference_close(&count);
}

/* ---------------------------------------------------------------- names */

static bool check_names(const char *folder) {
    reference_count count = {.folder = "model_names"};
    char path[4096];
    snprintf(path, sizeof path, "%s/prompts/model_names.json", folder);
    json_t *root = NULL;
    llava_error err;
    if (!path_is_file(path))
        printf("model_names: no such file\n");
    else if (json_read_file(path, &root, &err) != LLAVA_OK)
        reference_fail(&count, path, "%s", err.message);
    arena *memory = arena_new();
    for (size_t i = 0; i < json_array_size(root); i++) {
        const json_t *pair = json_array_get(root, i);
        const char *given = json_string_value(json_array_get(pair, 0));
        const char *expected = json_string_value(json_array_get(pair, 1));
        const char *got = config_model_name(memory, given);
        /* where the reference fails for want of a parent, the component alone is the name */
        if (got && (expected ? strcmp(got, expected) == 0 : strncmp(got, "checkpoint-", 11) == 0))
            reference_pass(&count);
        else
            reference_fail(&count, given, "expected %s, got %s", expected, got);
    }
    arena_free(&memory);
    json_decref(root);
    return reference_close(&count);
}

int main(void) {
    const char *folder = reference_folder();
    const bool models = check_models(folder);
    const bool decisions = check_decisions(folder);
    const bool names = check_names(folder);
    return models && decisions && names ? 0 : 1;
}
