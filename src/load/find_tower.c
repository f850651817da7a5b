/* SPDX-License-Identifier: Apache-2.0
 *
 * Where the directory that mm_vision_tower names lies.
 */
#include "load.h"

static const char *directory_or_null(const char *path) {
    return path && path_is_directory(path) ? path : NULL;
}

const char *load_find_tower(arena *memory, const char *name, const char *working_directory,
                            const char *checkpoint_directory) {
    if (!name || !name[0]) return NULL;
    if (name[0] == '/') return directory_or_null(arena_strdup(memory, name));
    const char *start = working_directory ? working_directory : "";
    const char *found = directory_or_null(path_join(memory, start, name));
    const char *parent = checkpoint_directory;
    for (int i = 0; i <= 3 && !found && parent; i++) {
        found = directory_or_null(path_join(memory, parent, name));
        parent = path_join(memory, parent, "..");
    }
    return found;
}
