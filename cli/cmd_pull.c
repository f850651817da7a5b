/* SPDX-License-Identifier: Apache-2.0
 *
 * llava pull: repositories of the Hub into its cache.
 */
#include <unistd.h>

#include "cli.h"
#include "hub/hub.h"

static bool on_hub_progress(void *user, const char *file, uint64_t done, uint64_t total) {
    return cli_on_progress(user, done, total, file);
}

int cmd_pull(const cli_args *args) {
    const llava_load_options *o = &args->load;
    cli_progress bar = {.visible = isatty(STDERR_FILENO)};
    const hub_options options = {.cache = o->hub_cache,
                                 .endpoint = o->hub_endpoint,
                                 .token = o->hub_token,
                                 .revision = o->hub_revision,
                                 .proxy = o->hub_proxy,
                                 .offline = o->hub_offline,
                                 .progress = on_hub_progress,
                                 .progress_user = &bar};
    arena *memory = arena_new();
    llava_error err = {0};
    llava_status status = memory ? LLAVA_OK : llava_fail_memory(&err, 0, "a download");
    cli_catch_interrupt(NULL);
    for (size_t i = 0; i < args->words.count && status == LLAVA_OK; i++) {
        const char *directory;
        status = hub_snapshot(&options, args->words.items[i], memory, &directory, &err);
        cli_progress_end(&bar);
        if (status == LLAVA_OK) printf("%s\n", directory);
    }
    arena_free(&memory);
    return status == LLAVA_OK ? 0 : cli_fail(&err);
}
