/* SPDX-License-Identifier: Apache-2.0
 *
 * The files of a repository that loading reads, shards in parallel.
 */
#include <pthread.h>
#include <stdlib.h>

#include "base/json.h"
#include "hub_internal.h"

#define PARALLEL_DEFAULT 4
#define SHARDS_MAX       4096

static const char *const small_files[] = {
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
    "adapter_config.json",
    "non_lora_trainables.bin",
    "mm_projector.bin",
    "mm_projector.safetensors",
};

/** Weights: the first that exists of each row's names, in the reference's order of preference. */
static const char *const model_weights[] = {"model.safetensors", "model.safetensors.index.json",
                                            "pytorch_model.bin", "pytorch_model.bin.index.json",
                                            NULL};
static const char *const adapter_weights[] = {"adapter_model.safetensors", "adapter_model.bin",
                                              NULL};

typedef struct fetch_list {
    const hub_options *options;
    const char *repo_id;
    const char *const *names;
    const char **paths; /* NULL: not in the repository */
    arena *memory;      /* under the mutex */
    pthread_mutex_t mutex;
    llava_status status; /* of the first failure */
    llava_error error;
} fetch_list;

static void fetch_one(void *user, int64_t index) {
    fetch_list *list = user;
    pthread_mutex_lock(&list->mutex);
    const bool go = list->status == LLAVA_OK;
    pthread_mutex_unlock(&list->mutex);
    if (!go) return;
    llava_error err = {0};
    const char *path = NULL;
    arena *memory = arena_new();
    const llava_status status =
        memory ? hub_file(list->options, list->repo_id, list->names[index], memory, &path, &err)
               : llava_fail_memory(&err, 0, "a download");
    pthread_mutex_lock(&list->mutex);
    if (status != LLAVA_OK && list->status == LLAVA_OK) {
        list->status = status;
        list->error = err;
    }
    list->paths[index] = path ? arena_strdup(list->memory, path) : NULL;
    pthread_mutex_unlock(&list->mutex);
    arena_free(&memory);
}

/** Fetches names[0..count) into paths. */
static llava_status fetch_all(const hub_options *options, const char *repo_id,
                              const char *const *names, size_t count, const char **paths,
                              arena *memory, llava_error *err) {
    fetch_list list = {.options = options,
                       .repo_id = repo_id,
                       .names = names,
                       .paths = paths,
                       .memory = memory,
                       .mutex = PTHREAD_MUTEX_INITIALIZER};
    parallel_for(options->n_parallel > 0 ? options->n_parallel : PARALLEL_DEFAULT, (int64_t)count,
                 fetch_one, &list);
    pthread_mutex_destroy(&list.mutex);
    if (list.status != LLAVA_OK && err) *err = list.error;
    return list.status;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/** The shards an index names, each once. */
static llava_status list_shards(const char *index, arena *memory, const char ***names,
                                size_t *count, llava_error *err) {
    json_t *root;
    LLAVA_TRY(json_read_file(index, &root, err));
    const json_t *map = json_object_get(root, "weight_map");
    const size_t n = json_object_size(map);
    const char **all = arena_array(memory, n + 1, sizeof *all);
    llava_status status = LLAVA_OK;
    const char *tensor;
    json_t *file;
    size_t used = 0;
    if (!all) status = llava_fail_memory(err, n * sizeof *all, "a list of shards");
    json_object_foreach((json_t *)(uintptr_t)map, tensor, file) {
        if (status != LLAVA_OK) break;
        if (!json_is_string(file) || !path_is_plain_relative(json_string_value(file)))
            status =
                llava_fail(err, LLAVA_MALFORMED, "%s: tensor %s: not a file name", index, tensor);
        else if (!(all[used++] = arena_strdup(memory, json_string_value(file))))
            status = llava_fail_memory(err, 0, "a list of shards");
    }
    json_decref(root);
    if (status != LLAVA_OK) return status;
    qsort(all, used, sizeof *all, by_text);
    *count = 0;
    for (size_t i = 0; i < used; i++)
        if (i == 0 || strcmp(all[i], all[i - 1]) != 0) all[(*count)++] = all[i];
    *names = all;
    return *count <= SHARDS_MAX ? LLAVA_OK
                                : llava_fail(err, LLAVA_MALFORMED, "%s: %zu shards", index, *count);
}

static llava_status fetch_shards(const hub_options *options, const char *repo_id, const char *index,
                                 arena *memory, llava_error *err) {
    const char **names;
    size_t count;
    LLAVA_TRY(list_shards(index, memory, &names, &count, err));
    const char **paths = arena_array(memory, count, sizeof *paths);
    if (!paths) return llava_fail_memory(err, count * sizeof *paths, "a list of shards");
    LLAVA_TRY(fetch_all(options, repo_id, names, count, paths, memory, err));
    for (size_t i = 0; i < count; i++)
        if (!paths[i])
            return llava_fail(err, LLAVA_IO, "%s: shard %s is missing, which its index names",
                              repo_id, names[i]);
    return LLAVA_OK;
}

/** The first of names that the repository has, with its shards when it is an index. */
static llava_status fetch_weights(const hub_options *options, const char *repo_id,
                                  const char *const *names, arena *memory, llava_error *err) {
    for (; *names; names++) {
        const char *path;
        LLAVA_TRY(hub_file(options, repo_id, *names, memory, &path, err));
        if (!path) continue;
        const size_t size = strlen(*names);
        const bool is_index = size > 11 && strcmp(*names + size - 11, ".index.json") == 0;
        return is_index ? fetch_shards(options, repo_id, path, memory, err) : LLAVA_OK;
    }
    return LLAVA_OK;
}

llava_status hub_snapshot(const hub_options *options, const char *repo_id, arena *memory,
                          const char **directory, llava_error *err) {
    const char *paths[LLAVA_COUNT(small_files)] = {NULL};
    *directory = NULL;
    /* The first file alone: it tells whether the repository can be had at all, and pins refs. */
    LLAVA_TRY(hub_file(options, repo_id, small_files[0], memory, &paths[0], err));
    LLAVA_TRY(fetch_all(options, repo_id, small_files + 1, LLAVA_COUNT(small_files) - 1, paths + 1,
                        memory, err));
    LLAVA_TRY(fetch_weights(options, repo_id, model_weights, memory, err));
    LLAVA_TRY(fetch_weights(options, repo_id, adapter_weights, memory, err));
    for (size_t i = 0; i < LLAVA_COUNT(small_files) && !*directory; i++)
        if (paths[i])
            *directory =
                arena_strndup(memory, paths[i], strlen(paths[i]) - strlen(small_files[i]) - 1);
    return *directory ? LLAVA_OK : llava_fail(err, LLAVA_IO, "%s has no files of a model", repo_id);
}
