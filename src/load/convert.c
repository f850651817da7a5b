/* SPDX-License-Identifier: Apache-2.0
 *
 * A checkpoint as loading sees it - adapter merged, tower inside, one type, quantized where that is
 * asked for - written back in the original layout, one matrix in memory at a time.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert_quant.h"

#define SHARD_BYTES ((uint64_t)5 << 30) /* transformers' default */

/** One matrix of the output: an entry, or MPT's three row ranges. Plain it is one tensor. */
typedef struct output {
    size_t first, n_entries; /* of plan->bind.entries */
    planned_tensor tensors[QUANT_TENSORS];
    size_t n_tensors;
    int64_t pad_rows; /* zero rows behind: a head shorter than its embedding */
    bool quantized;
    quant_output quant;
} output;

typedef struct converter {
    load_plan *plan;
    arena *memory;
    const char *directory;
    output *outputs;
    size_t n_outputs, n_shards;
    uint64_t total, done;
    llava_error *err;
} converter;

/* ---------------------------------------------------------------- what is written */

static llava_dtype output_dtype(const converter *c, const bind_entry *e) {
    const llava_dtype wanted = c->plan->options->torch_dtype;
    return wanted == LLAVA_DTYPE_DEFAULT ? e->found->t.dtype : wanted;
}

static bool is_same_tensor(const bind_entry *a, const bind_entry *b) {
    return a->group == b->group && a->n_rows > 0 && strcmp(a->suffix, b->suffix) == 0;
}

static uint64_t output_bytes(const output *o) {
    uint64_t n_bytes = 0;
    for (size_t i = 0; i < o->n_tensors; i++) {
        const tensor *t = &o->tensors[i].t;
        n_bytes += (uint64_t)tensor_count(t) * dtype_size(t->dtype);
    }
    return n_bytes;
}

static void plan_plain(const converter *c, output *o, const bind_entry *e, const char *name) {
    planned_tensor *plan = &o->tensors[0];
    const decoder_weights *d = &c->plan->model->decoder;
    *plan = (planned_tensor){.name = name, .t = e->found->t};
    plan->t.dtype = output_dtype(c, e);
    o->n_tensors = 1;
    if (e->dst == &d->head && d->head.n_rows < d->embed.n_rows) {
        o->pad_rows = d->embed.n_rows - d->head.n_rows;
        plan->t.shape[0] = d->embed.n_rows;
    }
}

static llava_status plan_output(converter *c, size_t index, size_t n_entries) {
    const binder *b = &c->plan->bind;
    const bind_entry *e = &b->entries[index];
    output *o = &c->outputs[c->n_outputs++];
    *o = (output){.first = index, .n_entries = n_entries};
    const char *name = arena_printf(c->memory, "%s%s", b->canonical[e->group], e->suffix);
    if (!name) return llava_fail_memory(c->err, 0, "a name");
    o->quantized = quant_output_of(c->plan, index, n_entries, &o->quant);
    if (o->quantized)
        o->n_tensors = quant_output_plan(c->memory, &o->quant, name, o->tensors);
    else
        plan_plain(c, o, e, name);
    if (o->n_tensors == 0) return llava_fail_memory(c->err, 0, "a name");
    c->total += output_bytes(o);
    return LLAVA_OK;
}

static llava_status plan_outputs(converter *c) {
    const binder *b = &c->plan->bind;
    c->outputs = arena_array(c->memory, b->count, sizeof *c->outputs);
    if (!c->outputs) return llava_fail_memory(c->err, b->count * sizeof(output), "a list");
    for (size_t i = 0, end; i < b->count; i = end) {
        for (end = i + 1; end < b->count && is_same_tensor(&b->entries[i], &b->entries[end]);)
            end++;
        if (b->entries[i].found) LLAVA_TRY(plan_output(c, i, end - i));
    }
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- data */

static llava_status write_cast(converter *c, safetensors_writer *w, const weight *from,
                               llava_dtype to) {
    const size_t count = (size_t)from->n_rows * (size_t)from->n_cols;
    const size_t n_bytes = count * dtype_size(to);
    if (from->dtype == to) return safetensors_append(w, from->data, n_bytes, c->err);
    void *cast = aligned_new(n_bytes);
    if (!cast) return llava_fail_memory(c->err, n_bytes, "a tensor");
    tensor_cast(cast, to, from->data, from->dtype, count);
    const llava_status status = safetensors_append(w, cast, n_bytes, c->err);
    free(cast);
    return status;
}

static llava_status write_entry(converter *c, safetensors_writer *w, const bind_entry *e,
                                llava_dtype to) {
    if (!e->lora) return write_cast(c, w, e->dst, to);
    const size_t n_bytes = (size_t)e->dst->n_rows * (size_t)e->dst->n_cols * sizeof(float);
    float *merged = aligned_new(n_bytes);
    if (!merged) return llava_fail_memory(c->err, n_bytes, e->suffix);
    llava_status status = merge_lora(c->plan->model, e, merged, c->err);
    const weight wide = {.dtype = LLAVA_DTYPE_F32,
                         .n_rows = e->dst->n_rows,
                         .n_cols = e->dst->n_cols,
                         .data = merged};
    if (status == LLAVA_OK) status = write_cast(c, w, &wide, to);
    free(merged);
    return status;
}

static llava_status write_zeros(converter *c, safetensors_writer *w, size_t n_bytes) {
    static const uint8_t zeros[4096];
    while (n_bytes > 0) {
        const size_t part = n_bytes < sizeof zeros ? n_bytes : sizeof zeros;
        LLAVA_TRY(safetensors_append(w, zeros, part, c->err));
        n_bytes -= part;
    }
    return LLAVA_OK;
}

static llava_status write_plain(converter *c, safetensors_writer *w, size_t index,
                                const output *o) {
    const llava_dtype to = o->tensors[0].t.dtype;
    LLAVA_TRY(safetensors_begin(w, index, c->err));
    for (size_t i = 0; i < o->n_entries; i++)
        LLAVA_TRY(write_entry(c, w, &c->plan->bind.entries[o->first + i], to));
    const size_t row_bytes = (size_t)c->plan->bind.entries[o->first].dst->n_cols * dtype_size(to);
    return write_zeros(c, w, (size_t)o->pad_rows * row_bytes);
}

/** Codes a file holds are written as they are; others are made for the time of writing. */
static llava_status write_quantized(converter *c, safetensors_writer *w, size_t index,
                                    const output *o) {
    load_plan *plan = c->plan;
    llava_model *model = plan->model;
    weight *codes = plan->bind.entries[o->first].dst;
    if (codes->quant) return quant_output_write(w, index, &o->quant, codes, c->err);
    void *made;
    size_t n_bytes;
    LLAVA_TRY(
        quantize_weight(model, &plan->bind, &plan->quantize, o->first, &made, &n_bytes, c->err));
    const llava_status status = quant_output_write(w, index, &o->quant, codes, c->err);
    model->dev->ops->release(model->dev, made);
    return status;
}

static llava_status write_output(converter *c, safetensors_writer *w, size_t index,
                                 const output *o) {
    const llava_load_options *options = c->plan->options;
    LLAVA_TRY(o->quantized ? write_quantized(c, w, index, o) : write_plain(c, w, index, o));
    c->done += output_bytes(o);
    if (options->progress &&
        !options->progress(options->progress_user, c->done, c->total, o->tensors[0].name))
        return llava_fail(c->err, LLAVA_CANCELLED, "converting was cancelled at tensor %s",
                          o->tensors[0].name);
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- files */

static const char *out_path(const converter *c, const char *name) {
    return path_join(c->memory, c->directory, name);
}

static const char *shard_name(const converter *c, size_t shard) {
    return c->n_shards == 1 ? "model.safetensors"
                            : arena_printf(c->memory, "model-%05zu-of-%05zu.safetensors", shard + 1,
                                           c->n_shards);
}

/** Index of the output behind the shard that begins at `first`. */
static size_t shard_end(const converter *c, size_t first) {
    uint64_t size = 0;
    size_t end = first;
    for (; end < c->n_outputs; end++) {
        const uint64_t more = output_bytes(&c->outputs[end]);
        if (end > first && size + more > SHARD_BYTES) break;
        size += more;
    }
    return end;
}

static llava_status write_shard(converter *c, const char *path, size_t first, size_t end) {
    planned_tensor *tensors =
        arena_array(c->memory, (end - first) * QUANT_TENSORS, sizeof *tensors);
    if (!path || !tensors) return llava_fail_memory(c->err, 0, "a shard");
    size_t count = 0, index = 0;
    for (size_t i = first; i < end; i++)
        for (size_t k = 0; k < c->outputs[i].n_tensors; k++)
            tensors[count++] = c->outputs[i].tensors[k];
    safetensors_writer w;
    LLAVA_TRY(safetensors_create(&w, path, tensors, count, c->err));
    llava_status status = LLAVA_OK;
    for (size_t i = first; i < end && status == LLAVA_OK; index += c->outputs[i++].n_tensors)
        status = write_output(c, &w, index, &c->outputs[i]);
    if (status == LLAVA_OK) status = safetensors_finish(&w, c->err);
    safetensors_abandon(&w);
    return status;
}

static bool map_output(json_t *map, const output *o, const char *file) {
    for (size_t i = 0; i < o->n_tensors; i++)
        if (json_object_set_new(map, o->tensors[i].name, json_string(file)) != 0) return false;
    return true;
}

static llava_status write_json(const converter *c, const char *name, const json_t *root) {
    const char *path = out_path(c, name);
    if (path && json_dump_file(root, path, JSON_INDENT(2) | JSON_ENSURE_ASCII) == 0)
        return LLAVA_OK;
    return llava_fail(c->err, LLAVA_IO, "%s/%s: cannot be written: %s", c->directory, name,
                      strerror(errno));
}

static llava_status write_weights(converter *c) {
    for (size_t first = 0; first < c->n_outputs; c->n_shards++) first = shard_end(c, first);
    json_t *map = json_object();
    llava_status status = map ? LLAVA_OK : llava_fail_memory(c->err, 0, "an index");
    for (size_t first = 0, end, shard = 0; status == LLAVA_OK && first < c->n_outputs;
         first = end, shard++) {
        end = shard_end(c, first);
        const char *name = shard_name(c, shard);
        status = write_shard(c, name ? out_path(c, name) : NULL, first, end);
        for (size_t i = first; i < end && status == LLAVA_OK; i++)
            if (!map_output(map, &c->outputs[i], name))
                status = llava_fail_memory(c->err, 0, "an index");
    }
    if (status == LLAVA_OK && c->n_shards > 1) {
        json_t *index = json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)c->total,
                                  "weight_map", map);
        status = index ? write_json(c, "model.safetensors.index.json", index)
                       : llava_fail_memory(c->err, 0, "an index");
        json_decref(index);
    }
    json_decref(map);
    return status;
}

/** config.json of what was loaded, with its class and size of vocabulary; a "-hf" checkpoint, whose
 *  tensors keep their names, stays one. */
static json_t *new_config(const llava_model *model) {
    const llava_config *config = model->config;
    json_t *root = json_deep_copy(config->native ? config->native : config->root);
    const char *class =
        config->native ? config_native_class(config->mm.native) : config->architecture;
    json_t *decoder = root;
    if (root && config->native) {
        if (!json_is_object(json_object_get(root, "text_config")))
            json_object_set_new(root, "text_config", json_object());
        decoder = json_object_get(root, "text_config");
    }
    if (root && json_object_set_new(root, "architectures", json_pack("[s]", class)) == 0 &&
        json_object_set_new(decoder, "vocab_size", json_integer(model->decoder.embed.n_rows)) == 0)
        return root;
    json_decref(root);
    return NULL;
}

static bool is_quantized(const converter *c) {
    for (size_t i = 0; i < c->n_outputs; i++)
        if (c->outputs[i].quantized) return true;
    return false;
}

/** The new config.json, with the type the weights are written in. */
static llava_status write_config(converter *c) {
    const llava_model *model = c->plan->model;
    const llava_dtype wanted = c->plan->options->torch_dtype;
    json_t *root = new_config(model);
    bool ok = root != NULL;
    if (ok && wanted != LLAVA_DTYPE_DEFAULT)
        ok = json_object_set_new(root, json_get(root, "dtype") ? "dtype" : "torch_dtype",
                                 json_string(dtype_name(wanted))) == 0;
    if (ok && is_quantized(c))
        ok = json_object_set_new(root, "quantization_config", quant_output_config(c->plan)) == 0;
    if (root) json_object_del(root, "delay_load"); /* the tower lies in the checkpoint now */
    const llava_status status =
        ok ? write_json(c, "config.json", root) : llava_fail_memory(c->err, 0, "a config");
    json_decref(root);
    return status;
}

/** Copies a small file; an absent one is left out. */
static llava_status copy_file(const converter *c, const char *from, const char *to) {
    bytes content;
    if (!from || !to) return llava_fail_memory(c->err, 0, "a path");
    if (!path_is_file(from)) return LLAVA_OK;
    LLAVA_TRY(file_read(from, JSON_FILE_MAX, &content, c->err));
    FILE *file = fopen(to, "wbx");
    const bool ok = file && fwrite(content.data, 1, content.size, file) == content.size;
    const bool closed = file && fclose(file) == 0;
    bytes_free(&content);
    if (ok && closed) return LLAVA_OK;
    return llava_fail(c->err, LLAVA_IO, "%s: cannot be written: %s", to, strerror(errno));
}

/** Copies the small files beside the weights. */
static llava_status copy_companions(const converter *c) {
    static const char *const names[] = {"generation_config.json",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "added_tokens.json",
                                        "tokenizer.json",
                                        "tokenizer.model",
                                        "vocab.json",
                                        "merges.txt",
                                        "preprocessor_config.json",
                                        "processor_config.json",
                                        "video_preprocessor_config.json",
                                        "chat_template.json",
                                        "chat_template.jinja"};
    for (size_t i = 0; i < LLAVA_COUNT(names); i++) {
        const char *from = path_join(c->memory, c->plan->weights_directory, names[i]);
        LLAVA_TRY(copy_file(c, from, out_path(c, names[i])));
    }
    return LLAVA_OK;
}

/** A folder below the output and those on the way to it; `name` is plain and relative. */
static llava_status make_folders(const converter *c, const char *name) {
    for (const char *end = name; end; end = *end ? end + 1 : NULL) {
        end = strchr(end, '/') ? strchr(end, '/') : end + strlen(end);
        const char *part = arena_strndup(c->memory, name, (size_t)(end - name));
        const char *path = part ? out_path(c, part) : NULL;
        if (!path) return llava_fail_memory(c->err, 0, "a path");
        if (mkdir(path, 0777) != 0 && errno != EEXIST)
            return llava_fail(c->err, LLAVA_IO, "%s: cannot be made: %s", path, strerror(errno));
    }
    return LLAVA_OK;
}

/** A tower that mm_vision_tower names by a relative path: what describes it goes along, so that the
 *  new directory stands by itself. */
static llava_status copy_tower_description(const converter *c) {
    static const char *const names[] = {"config.json", "preprocessor_config.json"};
    const llava_config *config = c->plan->model->config;
    const char *name = config->multimodal && !config->native ? plan_tower_name(config) : NULL;
    const char *from = load_find_tower(c->memory, name, c->plan->options->working_directory,
                                       c->plan->options->model_path);
    if (!from || !path_is_plain_relative(name)) return LLAVA_OK;
    LLAVA_TRY(make_folders(c, name));
    const char *folder = out_path(c, name);
    for (size_t i = 0; i < LLAVA_COUNT(names); i++)
        LLAVA_TRY(copy_file(c, path_join(c->memory, from, names[i]),
                            folder ? path_join(c->memory, folder, names[i]) : NULL));
    return LLAVA_OK;
}

static llava_status make_directory(const converter *c) {
    if (mkdir(c->directory, 0777) == 0) return LLAVA_OK;
    if (errno == EEXIST && path_is_directory(c->directory) && rmdir(c->directory) == 0 &&
        mkdir(c->directory, 0777) == 0) /* an empty one will do */
        return LLAVA_OK;
    return llava_fail(c->err, LLAVA_IO, "%s: expected a directory that is new or empty: %s",
                      c->directory, strerror(errno));
}

static llava_status convert(converter *c) {
    const bool overwritten = c->plan->options->overwrite_config != NULL;
    if (c->plan->model->config->native && overwritten)
        return llava_fail(c->err, LLAVA_UNSUPPORTED,
                          "overwrite_config uses the original layout's keys, which the config.json "
                          "of %s does not have; convert without it",
                          config_native_class(c->plan->model->config->mm.native));
    LLAVA_TRY(plan_outputs(c));
    LLAVA_TRY(make_directory(c));
    LLAVA_TRY(copy_companions(c));
    LLAVA_TRY(copy_tower_description(c));
    LLAVA_TRY(write_weights(c));
    return write_config(c); /* last: a directory without it is not taken for a checkpoint */
}

llava_status load_convert(const llava_load_options *options, const char *directory,
                          llava_error *err) {
    load_plan plan;
    llava_status status = plan_open(&plan, options, err);
    plan.weights_alone = true;
    if (status == LLAVA_OK) status = plan_run(&plan);
    if (status == LLAVA_OK)
        status = device_open_cpu(options->n_threads ? options->n_threads : processor_count(),
                                 options->cpu_level, &plan.model->dev, err);
    if (status == LLAVA_OK) {
        converter c = {
            .plan = &plan, .memory = plan.model->memory, .directory = directory, .err = err};
        status = convert(&c);
    }
    plan_close(&plan);
    return status;
}
