/* SPDX-License-Identifier: Apache-2.0
 *
 * Replays a fuzz target's corpus without a fuzzing engine: replay DIRECTORY.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define INPUT_MAX ((size_t)16 << 20)

static bool replay_file(const char *path) {
    bytes content;
    llava_error err;
    if (file_read(path, INPUT_MAX, &content, &err) != LLAVA_OK) {
        fprintf(stderr, "%s\n", err.message);
        return false;
    }
    /* An exact-size copy, so that reading one byte too far is seen by the sanitizer. */
    uint8_t *copy = malloc(content.size ? content.size : 1);
    if (!copy) return false;
    if (content.size) memcpy(copy, content.data, content.size);
    LLVMFuzzerTestOneInput(copy, content.size);
    free(copy);
    bytes_free(&content);
    return true;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
        return 2;
    }
    DIR *directory = opendir(argv[1]);
    if (!directory) {
        fprintf(stderr, "%s: cannot open the corpus\n", argv[1]);
        return 1;
    }
    arena *memory = arena_new();
    int count = 0;
    bool ok = memory != NULL;
    for (struct dirent *entry; ok && (entry = readdir(directory));) {
        const char *path = path_join(memory, argv[1], entry->d_name);
        if (!path || !path_is_file(path)) continue;
        ok = replay_file(path);
        count++;
    }
    closedir(directory);
    arena_free(&memory);
    printf("%d inputs replayed\n", count);
    return ok && count > 0 ? 0 : 1;
}
