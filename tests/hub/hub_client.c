/* SPDX-License-Identifier: Apache-2.0
 *
 * hub_client CACHE ENDPOINT REPO [offline] [token=T] [revision=R] [stop=N]: fetches a snapshot and
 * prints its directory, or the error. stop=N cancels after N bytes, as a broken connection would.
 */
#include <stdio.h>
#include <stdlib.h>

#include "hub/hub.h"

static bool stop_after(void *user, const char *file, uint64_t done, uint64_t total) {
    (void)file;
    (void)total;
    return done < *(const uint64_t *)user;
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    uint64_t stop = 0;
    hub_options options = {.cache = argv[1], .endpoint = argv[2], .timeout_s = 5, .retry_s = 0.05};
    for (int i = 4; i < argc; i++) {
        if (strcmp(argv[i], "offline") == 0) options.offline = true;
        if (strncmp(argv[i], "token=", 6) == 0) options.token = argv[i] + 6;
        if (strncmp(argv[i], "revision=", 9) == 0) options.revision = argv[i] + 9;
        if (strncmp(argv[i], "stop=", 5) == 0) {
            stop = strtoull(argv[i] + 5, NULL, 10);
            options.progress = stop_after;
            options.progress_user = &stop;
        }
    }
    arena *memory = arena_new();
    const char *directory;
    llava_error err;
    const llava_status status = hub_snapshot(&options, argv[3], memory, &directory, &err);
    printf("%s\n", status == LLAVA_OK ? directory : err.message);
    arena_free(&memory);
    return status == LLAVA_OK ? 0 : 1;
}
