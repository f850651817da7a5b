/* SPDX-License-Identifier: Apache-2.0
 *
 * formats/containers: the same tensors in every container, compared by SHA-256.
 * formats/broken: files that must be refused, or read, as their description asks.
 */
#include <dirent.h>

#include <openssl/sha.h>

#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "config/config.h"
#include "support/reference.h"
#include "text/text.h"

static bool same_digest(const tensor *t, const char *expected) {
    uint8_t digest[SHA256_DIGEST_LENGTH];
    char text[2 * SHA256_DIGEST_LENGTH + 1];
    SHA256(t->data, t->n_bytes, digest);
    for (int i = 0; i < SHA256_DIGEST_LENGTH; i++) snprintf(text + 2 * i, 3, "%02x", digest[i]);
    return strcmp(text, expected) == 0;
}

static bool same_shape(const tensor *t, const json_t *shape) {
    if ((size_t)t->n_dims != json_array_size(shape)) return false;
    for (int i = 0; i < t->n_dims; i++)
        if (t->shape[i] != json_integer_value(json_array_get(shape, (size_t)i))) return false;
    return true;
}

/** NULL when the file holds exactly the expected tensors, else what differs. */
static const char *compare_tensors(const checkpoint *c, const json_t *tensors) {
    if (checkpoint_count(c) != json_object_size(tensors)) return "another number of tensors";
    const char *name;
    json_t *expected;
    json_object_foreach((json_t *)(uintptr_t)tensors, name, expected) {
        const checkpoint_tensor *found = checkpoint_find(c, name);
        llava_dtype dtype;
        if (!found) return name;
        if (!dtype_parse(json_string_value(json_object_get(expected, "dtype")), &dtype) ||
            found->t.dtype != dtype || !same_shape(&found->t, json_object_get(expected, "shape")) ||
            !same_digest(&found->t, json_string_value(json_object_get(expected, "sha256"))))
            return name;
    }
    return NULL;
}

static void check_container(reference_count *count, const char *path, const char *name,
                            const json_t *tensors) {
    llava_error err;
    checkpoint *c;
    if (checkpoint_open(path, &c, &err) != LLAVA_OK) {
        reference_fail(count, name, "%s", err.message);
        return;
    }
    const char *difference = compare_tensors(c, tensors);
    if (difference)
        reference_fail(count, name, "differs in: %s", difference);
    else
        reference_pass(count);
    checkpoint_close(&c);
}

static void check_state(reference_count *count, arena *memory, const char *folder) {
    const char *path = path_join(memory, folder, "expected.json");
    json_t *root = NULL;
    llava_error err;
    DIR *directory = opendir(folder);
    if (!directory || json_read_file(path, &root, &err) != LLAVA_OK) {
        reference_fail(count, folder, "no readable expected.json");
        if (directory) closedir(directory);
        return;
    }
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, "expected.json") == 0) continue;
        const char *file = path_join(memory, folder, entry->d_name);
        check_container(count, file, file, json_object_get(root, "tensors"));
    }
    closedir(directory);
    json_decref(root);
}

static bool check_containers(arena *memory, const char *formats) {
    reference_count count = {.folder = "formats/containers"};
    const char *folder = path_join(memory, formats, "containers");
    DIR *directory = opendir(folder);
    if (!directory) {
        printf("formats/containers: not in this folder\n");
        return true;
    }
    for (struct dirent *entry; (entry = readdir(directory));)
        if (entry->d_name[0] != '.')
            check_state(&count, memory, path_join(memory, folder, entry->d_name));
    closedir(directory);
    return reference_close(&count);
}

/* ---------------------------------------------------------------- broken files */

static llava_status try_checkpoint(const char *path, llava_error *err) {
    checkpoint *c;
    const llava_status status = checkpoint_open(path, &c, err);
    checkpoint_close(&c);
    return status;
}

static llava_status try_config(const char *path, llava_error *err) {
    const config_request request = {.directory = path, .model_name = "llava"};
    llava_config *config = NULL;
    llava_status status = config_load(&request, &config, err);
    if (status == LLAVA_OK && config->mm.vision_tower[0]) {
        /* the names of towers are relative to the folder of the whole data */
        arena *memory = arena_new();
        const char *tower = path_join(memory, reference_folder(), config->mm.vision_tower);
        status = config_read_tower(config, tower, err);
        arena_free(&memory);
    }
    config_free(&config);
    return status;
}

static llava_status try_tokenizer(const char *path, llava_error *err) {
    llava_tokenizer *tokenizer = NULL;
    arena *memory = arena_new();
    const bool fast = path_is_file(path_join(memory, path, "tokenizer.json"));
    const bool pieces = path_is_file(path_join(memory, path, "tokenizer.model"));
    arena_free(&memory);
    const tokenizer_request request = {.directory = path,
                                       .flavour = fast ? TOKENIZER_FAST : TOKENIZER_SLOW,
                                       .model_type = pieces ? "llama" : "qwen2"};
    const llava_status status = tokenizer_open(&request, &tokenizer, err);
    tokenizer_free(&tokenizer);
    return status;
}

static const struct {
    const char *folder;
    llava_status (*try)(const char *path, llava_error *err);
} readers[] = {
    {"safetensors/", try_checkpoint}, {"torch/", try_checkpoint},    {"index/", try_checkpoint},
    {"config/", try_config},          {"tokenizer/", try_tokenizer},
};

/* A file that may be read or refused needs no class; a refusal must give the expected one. */
static bool right_class(const json_t *item, const llava_error *err) {
    const char *class = json_string_value(json_object_get(item, "error"));
    return !class || strcmp(json_string_value(json_object_get(item, "expect")), "reject") != 0 ||
           strcmp(class, llava_refusal_name(err->refusal)) == 0;
}

/** What reading the file gave, compared with what Python found in it; NULL when equal. */
static const char *compare_content(const char *path, const json_t *item) {
    const json_t *tensors = json_object_get(json_object_get(item, "python"), "tensors");
    checkpoint *c;
    llava_error err;
    if (!tensors) return NULL;
    if (checkpoint_open(path, &c, &err) != LLAVA_OK) return "it cannot be opened again";
    const char *difference = compare_tensors(c, tensors);
    checkpoint_close(&c);
    return difference;
}

static void check_broken_case(reference_count *count, const char *path, const json_t *item) {
    const char *name = json_string_value(json_object_get(item, "path"));
    const char *expect = json_string_value(json_object_get(item, "expect"));
    for (size_t i = 0; i < LLAVA_COUNT(readers); i++) {
        if (strncmp(name, readers[i].folder, strlen(readers[i].folder)) != 0) continue;
        llava_error err = {0};
        const llava_status status = readers[i].try(path, &err);
        const char *difference = status == LLAVA_OK ? compare_content(path, item) : NULL;
        if (strcmp(expect, "reject") == 0 && status == LLAVA_OK)
            reference_fail(count, name, "read, but %s",
                           json_string_value(json_object_get(item, "what")));
        else if (difference)
            reference_fail(count, name, "differs in: %s", difference);
        else if (strcmp(expect, "accept") == 0 && status != LLAVA_OK)
            reference_fail(count, name, "refused: %s", err.message);
        else if (status != LLAVA_OK && !err.message[0])
            reference_fail(count, name, "refused without a message");
        else if (status != LLAVA_OK && !right_class(item, &err))
            reference_fail(count, name, "refused as %s, expected %s: %s",
                           llava_refusal_name(err.refusal),
                           json_string_value(json_object_get(item, "error")), err.message);
        else
            reference_pass(count);
        return;
    }
    reference_skip(count, name, "no reader for this kind of file");
}

/* One expected list of tensors has a name with a NUL, which is no key for jansson: it is written
 * as another control character first. */
static llava_status read_expected(const char *path, json_t **root, llava_error *err) {
    bytes text = {0};
    llava_status status = file_read(path, (size_t)64 << 20, &text, err);
    if (status == LLAVA_OK) {
        for (size_t i = 0; i + 6 <= text.size; i++)
            if (memcmp(text.data + i, "\\u0000", 6) == 0) text.data[i + 5] = '1';
        status = json_read_text((const char *)text.data, text.size, path, root, err);
    }
    bytes_free(&text);
    return status;
}

static bool check_broken(arena *memory, const char *formats) {
    reference_count count = {.folder = "formats/broken"};
    const char *folder = path_join(memory, formats, "broken");
    json_t *root;
    llava_error err;
    if (read_expected(path_join(memory, folder, "expected.json"), &root, &err) != LLAVA_OK) {
        printf("formats/broken: %s\n", err.message);
        return false;
    }
    const json_t *cases = json_object_get(root, "cases");
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *item = json_array_get(cases, i);
        const char *name = json_string_value(json_object_get(item, "path"));
        check_broken_case(&count, path_join(memory, folder, name), item);
    }
    json_decref(root);
    return reference_close(&count);
}

int main(void) {
    arena *memory = arena_new();
    if (!memory) return 1;
    const char *formats = path_join(memory, reference_folder(), "formats");
    const bool containers = check_containers(memory, formats);
    const bool broken = check_broken(memory, formats);
    arena_free(&memory);
    return containers && broken ? 0 : 1;
}
