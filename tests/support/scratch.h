/* SPDX-License-Identifier: Apache-2.0
 *
 * A directory of its own for a test, under the working directory, and files in it.
 */
#ifndef LLAVA_TEST_SCRATCH_H
#define LLAVA_TEST_SCRATCH_H

#include <ftw.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct scratch {
    char path[64];
} scratch;

static inline bool scratch_open(scratch *s) {
    snprintf(s->path, sizeof s->path, "scratch_XXXXXX");
    return mkdtemp(s->path) != NULL;
}

static inline int scratch_remove_one(const char *path, const struct stat *info, int kind,
                                     struct FTW *where) {
    (void)info;
    (void)kind;
    (void)where;
    return remove(path);
}

static inline void scratch_close(scratch *s) {
    nftw(s->path, scratch_remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/** "scratch/name"; valid until the next call but three. */
static inline const char *scratch_path(const scratch *s, const char *name) {
    static char paths[4][512];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", s->path, name);
    return path;
}

static inline void scratch_directory(const scratch *s, const char *name) {
    mkdir(scratch_path(s, name), 0777);
}

static inline void scratch_write(const scratch *s, const char *name, const void *data,
                                 size_t size) {
    FILE *file = fopen(scratch_path(s, name), "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0) abort();
}

static inline void scratch_text(const scratch *s, const char *name, const char *text) {
    scratch_write(s, name, text, strlen(text));
}

/** A safetensors file: the header text with its length in front, then n_data bytes 0, 1, 2 ... */
static inline void scratch_safetensors(const scratch *s, const char *name, const char *header,
                                       size_t n_data) {
    const size_t n = strlen(header), size = 8 + n + n_data;
    uint8_t *content = malloc(size);
    if (!content) abort();
    for (int i = 0; i < 8; i++) content[i] = (uint8_t)((uint64_t)n >> (8 * i));
    memcpy(content + 8, header, n);
    for (size_t i = 0; i < n_data; i++) content[8 + n + i] = (uint8_t)i;
    scratch_write(s, name, content, size);
    free(content);
}

#endif
