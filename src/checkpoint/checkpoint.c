/* SPDX-License-Identifier: Apache-2.0
 *
 * A directory's weight files: which ones, the shard index, and the table of names.
 */
#include <stdlib.h>

#include "base/json.h"
#include "checkpoint.h"
#include "safetensors.h"
#include "torch_file.h"

/** Weight files in the reference's order of preference (transformers 4.40, from_pretrained). */
static const struct {
    const char *name;
    bool is_index;
} weight_files[] = {
    {"model.safetensors", false},
    {"model.safetensors.index.json", true},
    {"pytorch_model.bin", false},
    {"pytorch_model.bin.index.json", true},
};
#define INDEX_SUFFIX ".index.json"

struct checkpoint {
    arena *memory;
    const char *path;
    checkpoint_tensor *items; /* sorted by name */
    size_t count;
    file_map *maps;
    const char **files;
    size_t n_files, files_capacity;
    uint64_t n_bytes;
    size_t n_unmapped;
};

static bool ends_with(const char *text, const char *suffix) {
    const size_t n = strlen(text), m = strlen(suffix);
    return n >= m && strcmp(text + n - m, suffix) == 0;
}

/** Lists a mapped file's tensors; the content says which container it is. */
static llava_status parse_file(checkpoint *c, const file_map *map, const char *path,
                               const char *file, checkpoint_list *list, llava_error *err) {
    if (!torch_file_probe(map->data, map->size))
        return safetensors_parse(map, path, file, c->memory, list, err);
    *list = (checkpoint_list){0};
    torch_tensors found;
    LLAVA_TRY(torch_file_read(map->data, map->size, path, c->memory, &found, err));
    list->items = array_new(found.count, sizeof *list->items);
    if (!list->items) return llava_fail_memory(err, found.count * sizeof *list->items, path);
    for (list->count = 0; list->count < found.count; list->count++) {
        const torch_tensor *t = &found.items[list->count];
        list->items[list->count] = (checkpoint_tensor){
            .name = t->name,
            .file = file,
            .stored = safetensors_dtype_name(t->t.dtype),
            .t = t->t,
        };
    }
    return LLAVA_OK;
}

/** Takes the tensors of a parsed file, but for those that a weight_map gives to another file. */
static llava_status take_tensors(checkpoint *c, const checkpoint_list *list, const json_t *map,
                                 const char *file, llava_error *err) {
    if (!list->count) return LLAVA_OK;
    checkpoint_tensor *items = realloc(c->items, (c->count + list->count) * sizeof *items);
    if (!items)
        return llava_fail_memory(err, (c->count + list->count) * sizeof *items,
                                 "a list of tensors");
    c->items = items;
    for (size_t i = 0; i < list->count; i++) {
        const checkpoint_tensor *found = &list->items[i];
        const char *owner = map ? json_string_value(json_object_get(map, found->name)) : file;
        if (!owner || strcmp(owner, file) != 0) c->n_unmapped++;
        if (owner && strcmp(owner, file) != 0) continue;
        c->items[c->count++] = *found;
        c->n_bytes += found->t.n_bytes;
    }
    return LLAVA_OK;
}

static llava_status reserve_file(checkpoint *c, llava_error *err) {
    if (c->n_files < c->files_capacity) return LLAVA_OK;
    const size_t capacity = c->files_capacity ? 2 * c->files_capacity : 8;
    file_map *maps = realloc(c->maps, capacity * sizeof *maps);
    if (maps) c->maps = maps;
    const char **files = maps ? realloc(c->files, capacity * sizeof *files) : NULL;
    if (!files) return llava_fail_memory(err, capacity * sizeof *maps, "a list of files");
    c->files = files;
    c->files_capacity = capacity;
    return LLAVA_OK;
}

static llava_status open_file(checkpoint *c, const char *directory, const char *name,
                              const json_t *map, llava_error *err) {
    LLAVA_TRY(reserve_file(c, err));
    const char *path = path_join(c->memory, directory, name);
    const char *file = arena_strdup(c->memory, name);
    if (!path || !file) return llava_fail_memory(err, strlen(name), "a file's name");
    LLAVA_TRY(file_map_open(path, &c->maps[c->n_files], err));
    c->files[c->n_files] = file;
    checkpoint_list list;
    llava_status status = parse_file(c, &c->maps[c->n_files++], path, file, &list, err);
    if (status == LLAVA_OK) status = take_tensors(c, &list, map, file, err);
    free(list.items);
    return status;
}

static llava_status check_map(const json_t *map, const char *index, llava_error *err) {
    if (!json_is_object(map) || json_object_size(map) == 0)
        return llava_refuse(
            err, LLAVA_MALFORMED, LLAVA_REFUSAL_MISSING,
            "%s: \"weight_map\": expected an object with at least one tensor, got %s", index,
            json_is_object(map) ? "an empty one" : json_kind(map));
    const char *name;
    json_t *file;
    json_object_foreach((json_t *)(uintptr_t)map, name, file) {
        if (!json_is_string(file))
            return llava_refuse(err, LLAVA_MALFORMED, LLAVA_REFUSAL_INVALID,
                                "%s: \"weight_map\": tensor %s: expected a file name, got %s",
                                index, name, json_kind(file));
        if (!path_is_plain_relative(json_string_value(file)))
            return llava_refuse(err, LLAVA_MALFORMED, LLAVA_REFUSAL_OUTSIDE,
                                "%s: \"weight_map\": tensor %s: the file name \"%s\" leaves the "
                                "checkpoint's directory",
                                index, name, json_string_value(file));
    }
    return LLAVA_OK;
}

/** Opens each shard once, in the order of names. */
static llava_status open_shards(checkpoint *c, const char *directory, const char *index,
                                const json_t *map, llava_error *err) {
    json_t *shards = json_object();
    if (!shards) return llava_fail_memory(err, 0, "a list of shards");
    llava_status status = LLAVA_OK;
    const char *name;
    json_t *file;
    json_object_foreach((json_t *)(uintptr_t)map, name, file) {
        const char *shard = json_string_value(file);
        if (json_object_get(shards, shard)) continue;
        if (json_object_set_new(shards, shard, json_true()) != 0) {
            status = llava_fail_memory(err, 0, "a list of shards");
            goto done;
        }
        const char *path = path_join(c->memory, directory, shard);
        if (path && !path_is_file(path)) {
            status =
                llava_refuse(err, LLAVA_IO, LLAVA_REFUSAL_MISSING,
                             "%s: shard %s is missing, which holds tensor %s", index, shard, name);
            goto done;
        }
        LLAVA_TRY_DONE(open_file(c, directory, shard, map, err));
    }
done:
    json_decref(shards);
    return status;
}

static int by_name(const void *a, const void *b) {
    const checkpoint_tensor *x = a, *y = b;
    const int order = strcmp(x->name, y->name);
    return order ? order : strcmp(x->file, y->file);
}

/** Sorts by name. A name that no map gives to a shard and that several hold is the last shard's. */
static void sort_tensors(checkpoint *c) {
    if (c->count < 2) return;
    qsort(c->items, c->count, sizeof *c->items, by_name);
    size_t n = 1;
    for (size_t i = 1; i < c->count; i++) {
        if (strcmp(c->items[n - 1].name, c->items[i].name) != 0)
            n++;
        else
            c->n_bytes -= c->items[n - 1].t.n_bytes;
        c->items[n - 1] = c->items[i];
    }
    c->count = n;
}

static llava_status check_all_found(const checkpoint *c, const char *index, const json_t *map,
                                    llava_error *err) {
    const char *name;
    json_t *file;
    json_object_foreach((json_t *)(uintptr_t)map, name, file) {
        if (!checkpoint_find(c, name))
            return llava_refuse(err, LLAVA_MALFORMED, LLAVA_REFUSAL_MISSING,
                                "%s: tensor %s is not in the shard it is mapped to, %s", index,
                                name, json_string_value(file));
    }
    return LLAVA_OK;
}

static llava_status open_index(checkpoint *c, const char *directory, const char *index,
                               llava_error *err) {
    json_t *root;
    LLAVA_TRY(json_read_file(index, &root, err));
    const json_t *map = json_object_get(root, "weight_map");
    llava_status status = check_map(map, index, err);
    if (status == LLAVA_OK) status = open_shards(c, directory, index, map, err);
    if (status == LLAVA_OK) {
        sort_tensors(c);
        status = check_all_found(c, index, map, err);
    }
    json_decref(root);
    return status;
}

static llava_status open_single(checkpoint *c, const char *directory, const char *name,
                                llava_error *err) {
    LLAVA_TRY(open_file(c, directory, name, NULL, err));
    sort_tensors(c);
    return LLAVA_OK;
}

static llava_status open_directory(checkpoint *c, llava_error *err) {
    for (size_t i = 0; i < LLAVA_COUNT(weight_files); i++) {
        const char *path = path_join(c->memory, c->path, weight_files[i].name);
        if (!path) return llava_fail_memory(err, strlen(c->path), "a path");
        if (!path_is_file(path)) continue;
        return weight_files[i].is_index ? open_index(c, c->path, path, err)
                                        : open_single(c, c->path, weight_files[i].name, err);
    }
    return llava_refuse(err, LLAVA_IO, LLAVA_REFUSAL_MISSING,
                        "%s: no weights: expected model.safetensors, pytorch_model.bin or an index "
                        "of either",
                        c->path);
}

/** A weight file, or an index, named itself. */
static llava_status open_named_file(checkpoint *c, llava_error *err) {
    const char *name = path_base(c->memory, c->path);
    const char *directory =
        name ? arena_strndup(c->memory, c->path, strlen(c->path) - strlen(name)) : NULL;
    if (!directory) return llava_fail_memory(err, strlen(c->path), "a path");
    if (ends_with(c->path, INDEX_SUFFIX)) return open_index(c, directory, c->path, err);
    return open_single(c, directory, name, err);
}

llava_status checkpoint_open(const char *path, checkpoint **out, llava_error *err) {
    *out = NULL;
    checkpoint *c = array_new(1, sizeof *c);
    if (!c) return llava_fail_memory(err, sizeof *c, "a checkpoint");
    llava_status status = LLAVA_OK;
    c->memory = arena_new();
    c->path = c->memory ? arena_strdup(c->memory, path) : NULL;
    if (!c->path) {
        status = llava_fail_memory(err, strlen(path), "a path");
        goto done;
    }
    if (path_is_directory(path))
        status = open_directory(c, err);
    else if (path_is_file(path))
        status = open_named_file(c, err);
    else
        status = llava_refuse(err, LLAVA_IO, LLAVA_REFUSAL_MISSING, "%s: no such file or directory",
                              path);
done:
    if (status == LLAVA_OK)
        *out = c;
    else
        checkpoint_close(&c);
    return status;
}

void checkpoint_forget(const checkpoint *c, const void *data, size_t n_bytes) {
    for (size_t i = 0; i < c->n_files; i++) file_map_forget(&c->maps[i], data, n_bytes);
}

void checkpoint_close(checkpoint **c) {
    if (!c || !*c) return;
    for (size_t i = 0; i < (*c)->n_files; i++) file_map_close(&(*c)->maps[i]);
    free((*c)->maps);
    free((*c)->files);
    free((*c)->items);
    arena_free(&(*c)->memory);
    free(*c);
    *c = NULL;
}

bool checkpoint_exists(const char *directory) {
    arena *memory = arena_new();
    if (!memory) return false;
    bool found = false;
    for (size_t i = 0; i < LLAVA_COUNT(weight_files) && !found; i++) {
        const char *path = path_join(memory, directory, weight_files[i].name);
        found = path && path_is_file(path);
    }
    arena_free(&memory);
    return found;
}

size_t checkpoint_count(const checkpoint *c) { return c->count; }

const checkpoint_tensor *checkpoint_at(const checkpoint *c, size_t index) {
    return index < c->count ? &c->items[index] : NULL;
}

/** Index of the first tensor whose name is not below `name`. */
static size_t lower_bound(const checkpoint *c, const char *name) {
    size_t low = 0, high = c->count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (strcmp(c->items[middle].name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const checkpoint_tensor *checkpoint_find(const checkpoint *c, const char *name) {
    const size_t at = lower_bound(c, name);
    return at < c->count && strcmp(c->items[at].name, name) == 0 ? &c->items[at] : NULL;
}

bool checkpoint_has_prefix(const checkpoint *c, const char *prefix) {
    const size_t at = lower_bound(c, prefix);
    return at < c->count && strncmp(c->items[at].name, prefix, strlen(prefix)) == 0;
}

const char *checkpoint_path(const checkpoint *c) { return c->path; }
size_t checkpoint_file_count(const checkpoint *c) { return c->n_files; }
uint64_t checkpoint_bytes(const checkpoint *c) { return c->n_bytes; }
size_t checkpoint_unmapped(const checkpoint *c) { return c->n_unmapped; }

bool checkpoint_offset(const checkpoint *c, const checkpoint_tensor *t, uint64_t *offset) {
    const uint8_t *data = t->t.data;
    for (size_t i = 0; data && i < c->n_files; i++) {
        const file_map *map = &c->maps[i];
        if (strcmp(c->files[i], t->file) != 0 || data < map->data || data > map->data + map->size)
            continue;
        *offset = (uint64_t)(data - map->data);
        return true;
    }
    return false;
}

const char *checkpoint_file(const checkpoint *c, size_t index) {
    return index < c->n_files ? c->files[index] : NULL;
}
