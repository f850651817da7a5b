/* SPDX-License-Identifier: Apache-2.0
 *
 * Any text as adapter_config.json, over tensors that the input names: behind a line "---" every
 * line is a tensor's name and its sizes. Those named "trainable NAME" go to the trainables.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "checkpoint/adapter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define TENSORS_MAX 64
#define ELEMENT_MAX 4096
#define PARTING     "\n---\n"

static const char default_tensors[] =
    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight 4 8\n"
    "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight 8 4\n"
    "base_model.model.model.layers.1.mlp.up_proj.lora_A.default.weight 2 8\n"
    "base_model.model.model.layers.1.mlp.up_proj.lora_B.default.weight 12 2\n"
    "trainable base_model.model.model.mm_projector.0.weight 8 6\n";

typedef struct tensor_line {
    char name[320];
    int64_t shape[4];
    int n_dims;
    bool trainable;
} tensor_line;

/** False when the line describes no small tensor. */
static bool parse_line(const char *line, size_t size, tensor_line *t) {
    static const char word[] = "trainable ";
    char text[320];
    if (size == 0 || size >= sizeof text) return false;
    memcpy(text, line, size);
    text[size] = '\0';
    *t = (tensor_line){.trainable = strncmp(text, word, sizeof word - 1) == 0};
    char *start = text + (t->trainable ? sizeof word - 1 : 0);
    char *numbers = strchr(start, ' ');
    if (numbers) *numbers++ = '\0';
    for (char *c = start; *c; c++) /* what a JSON string holds as it is */
        if ((unsigned char)*c < ' ' || (unsigned char)*c > '~' || *c == '"' || *c == '\\') *c = '_';
    snprintf(t->name, sizeof t->name, "%s", start);
    int64_t count = 1;
    while (numbers && *numbers && t->n_dims < 4) {
        const long n = strtol(numbers, &numbers, 10);
        if (n < 0 || n > ELEMENT_MAX) return false;
        t->shape[t->n_dims++] = n;
        count *= n;
        if (count > ELEMENT_MAX) return false;
        while (*numbers && (*numbers < '0' || *numbers > '9')) numbers++;
    }
    return true;
}

static bool write_file(const char *path, const void *data, size_t size) {
    FILE *file = fopen(path, "wb");
    if (!file) return false;
    const bool ok = fwrite(data, 1, size, file) == size;
    return fclose(file) == 0 && ok;
}

/** A safetensors file of zeros with those lines that belong to it. */
static void write_tensors(const char *path, const tensor_line *lines, size_t n, bool trainable) {
    bytes file = {0};
    uint64_t offset = 0;
    const uint64_t nothing = 0;
    bytes_append(&file, (const char *)&nothing, sizeof nothing);
    bytes_puts(&file, "{");
    for (size_t i = 0; i < n; i++) {
        if (lines[i].trainable != trainable) continue;
        bytes_printf(&file, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[",
                     file.data[file.size - 1] == '{' ? "" : ",", lines[i].name);
        uint64_t count = 1;
        for (int d = 0; d < lines[i].n_dims; d++) {
            bytes_printf(&file, "%s%lld", d ? "," : "", (long long)lines[i].shape[d]);
            count *= (uint64_t)lines[i].shape[d];
        }
        bytes_printf(&file, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)offset,
                     (unsigned long long)(offset + 4 * count));
        offset += 4 * count;
    }
    bytes_puts(&file, "}");
    const uint64_t header = file.size - sizeof nothing;
    memcpy(file.data, &header, sizeof header);
    for (uint64_t i = 0; i < offset; i += sizeof nothing / 2)
        bytes_append(&file, (const char *)&nothing, sizeof nothing / 2);
    if (!write_file(path, file.data, file.size)) abort();
    bytes_free(&file);
}

static const char *scratch(void) {
    static char folder[64];
    if (!folder[0]) {
        strcpy(folder, path_is_directory("/dev/shm") ? "/dev/shm/fuzz-adapter-XXXXXX"
                                                     : "/tmp/fuzz-adapter-XXXXXX");
        if (!mkdtemp(folder)) abort();
    }
    return folder;
}

static const char *const files[] = {"adapter_config.json", "adapter_model.safetensors",
                                    "non_lora_trainables.safetensors"};

static void remove_scratch(void) {
    char path[128];
    for (size_t i = 0; i < LLAVA_COUNT(files); i++) {
        snprintf(path, sizeof path, "%s/%s", scratch(), files[i]);
        unlink(path);
    }
    rmdir(scratch());
}

static void write_directory(const char *config, size_t config_size, const char *list,
                            size_t list_size) {
    tensor_line lines[TENSORS_MAX];
    char path[128];
    size_t n = 0;
    while (list_size && n < TENSORS_MAX) {
        const char *end = memchr(list, '\n', list_size);
        const size_t length = end ? (size_t)(end - list) : list_size;
        n += parse_line(list, length, &lines[n]);
        list += length + (end != NULL);
        list_size -= length + (end != NULL);
    }
    snprintf(path, sizeof path, "%s/%s", scratch(), files[0]);
    if (!write_file(path, config, config_size)) abort();
    for (int i = 1; i <= 2; i++) {
        snprintf(path, sizeof path, "%s/%s", scratch(), files[i]);
        write_tensors(path, lines, n, i == 2);
    }
}

static bool nothing_is_extra(const char *name) {
    (void)name;
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static bool started;
    if (!started) {
        started = true;
        scratch();
        atexit(remove_scratch);
    }
    const char *text = (const char *)data;
    const char *list = size ? memmem(text, size, PARTING, sizeof PARTING - 1) : NULL;
    const size_t config_size = list ? (size_t)(list - text) : size;
    if (list) {
        list += sizeof PARTING - 1;
        write_directory(text, config_size, list, size - (size_t)(list - text));
    } else {
        write_directory(text, config_size, default_tensors, sizeof default_tensors - 1);
    }
    adapter *a;
    llava_error err = {0};
    if (adapter_open(scratch(), &a, &err) != LLAVA_OK) {
        if (!err.message[0]) abort();
        return 0;
    }
    for (size_t i = 0; i < a->n_modules; i++)
        if (adapter_find(a, a->modules[i].module) &&
            !(a->modules[i].a || a->modules[i].embedding_a))
            abort();
    for (size_t i = 0; i < a->n_replacements; i++)
        if (!adapter_replacement(a, a->replacements[i].name)) abort();
    if (adapter_unused(a, nothing_is_extra)) abort();
    adapter_close(&a);
    return 0;
}
