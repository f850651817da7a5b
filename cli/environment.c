/* SPDX-License-Identifier: Apache-2.0
 *
 * The environment variables of huggingface_hub, read once and passed on as options: the library
 * itself reads none.
 */
#include <stdlib.h>
#include <strings.h>

#include "cli.h"

#define TOKEN_MAX 4096

/** The first variable that is set and not empty. */
static const char *first_of(const char *a, const char *b) {
    const char *value = getenv(a);
    if (value && value[0]) return value;
    value = b ? getenv(b) : NULL;
    return value && value[0] ? value : NULL;
}

static bool is_on(const char *value) {
    static const char *const words[] = {"1", "ON", "YES", "TRUE"};
    for (size_t i = 0; value && i < LLAVA_COUNT(words); i++)
        if (strcasecmp(value, words[i]) == 0) return true;
    return false;
}

/** HF_HOME, else XDG_CACHE_HOME/huggingface, else ~/.cache/huggingface. */
static const char *hub_home(arena *memory) {
    const char *home = first_of("HF_HOME", NULL);
    if (home) return home;
    const char *cache = first_of("XDG_CACHE_HOME", NULL);
    if (!cache) cache = path_join(memory, first_of("HOME", NULL) ? getenv("HOME") : ".", ".cache");
    return cache ? path_join(memory, cache, "huggingface") : NULL;
}

static const char *stored_token(arena *memory, const char *home) {
    const char *path = first_of("HF_TOKEN_PATH", NULL);
    if (!path) path = home ? path_join(memory, home, "token") : NULL;
    if (!path || is_on(getenv("HF_HUB_DISABLE_IMPLICIT_TOKEN"))) return NULL;
    bytes content;
    if (!path_is_file(path) || file_read(path, TOKEN_MAX, &content, NULL) != LLAVA_OK) return NULL;
    while (content.size && strchr(" \r\n\t", content.data[content.size - 1])) content.size--;
    const char *token = arena_strndup(memory, content.data ? content.data : "", content.size);
    bytes_free(&content);
    return token;
}

void cli_read_environment(llava_load_options *o) {
    static arena *memory; /* for the life of the process */
    if (!memory) memory = arena_new();
    if (!memory) return;
    const char *home = hub_home(memory);
    if (!o->hub_cache) o->hub_cache = first_of("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE");
    if (!o->hub_cache && home) o->hub_cache = path_join(memory, home, "hub");
    if (!o->hub_endpoint) o->hub_endpoint = first_of("HF_ENDPOINT", NULL);
    if (!o->hub_token) o->hub_token = first_of("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN");
    if (!o->hub_token) o->hub_token = stored_token(memory, home);
    if (!o->hub_proxy) o->hub_proxy = first_of("HTTPS_PROXY", "https_proxy");
    const char *offline = first_of("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE");
    o->hub_offline = o->hub_offline || is_on(offline);
}
