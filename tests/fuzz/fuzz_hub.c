/* SPDX-License-Identifier: Apache-2.0
 *
 * Any answers of a Hub. A server in this process speaks what the input says; nothing may be written
 * beside the cache, and a file that is delivered must exist in it.
 *
 * The input is a byte (odd: a whole snapshot, even: one file) and then blocks, parted by lines
 * "====": a first line, the key, and the raw answer to the next request whose first line holds the
 * key. A used block answers again when no fresh one fits; without any the answer is that the file
 * is not there.
 */
#include <dirent.h>
#include <ftw.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hub/hub.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define BLOCKS_MAX 64
#define PARTING    "\n====\n"

static const char absent[] = "HTTP/1.1 404 Not Found\r\nX-Error-Code: EntryNotFound\r\n"
                             "X-Repo-Commit: 0123456789abcdef0123456789abcdef01234567\r\n"
                             "Content-Length: 0\r\n\r\n";

typedef struct block {
    const char *key, *answer;
    size_t key_size, answer_size;
    bool used;
} block;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static block blocks[BLOCKS_MAX];
static size_t n_blocks;

/* ---------------------------------------------------------------- the server */

static const block *choose(const char *line, size_t size) {
    block *used = NULL;
    for (size_t i = 0; i < n_blocks; i++) {
        block *b = &blocks[i];
        if (b->key_size && !memmem(line, size, b->key, b->key_size)) continue;
        if (b->used && used) continue;
        used = b;
        if (!b->used) break;
    }
    if (used) used->used = true;
    return used;
}

static void answer(int client) {
    char request[16384];
    size_t size = 0;
    while (size < sizeof request && !memmem(request, size, "\r\n\r\n", 4)) {
        const ssize_t n = read(client, request + size, sizeof request - size);
        if (n <= 0) return;
        size += (size_t)n;
    }
    const char *end = memchr(request, '\r', size);
    pthread_mutex_lock(&mutex);
    const block *b = choose(request, end ? (size_t)(end - request) : size);
    const char *text = b ? b->answer : absent;
    size_t left = b ? b->answer_size : sizeof absent - 1;
    while (left) {
        const ssize_t n = send(client, text, left, MSG_NOSIGNAL);
        if (n <= 0) break;
        text += n;
        left -= (size_t)n;
    }
    pthread_mutex_unlock(&mutex);
    shutdown(client, SHUT_WR);
}

static void *serve(void *user) {
    const int listener = *(const int *)user;
    for (;;) {
        const int client = accept(listener, NULL, NULL);
        if (client < 0) continue;
        answer(client);
        close(client);
    }
    return NULL;
}

/** "http://127.0.0.1:PORT"; the thread lives as long as the process. */
static const char *start_server(void) {
    static char endpoint[64];
    static int listener;
    pthread_t thread;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) != 0 ||
        listen(listener, 16) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) != 0 ||
        pthread_create(&thread, NULL, serve, &listener) != 0)
        abort();
    pthread_detach(thread);
    snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%d", ntohs(address.sin_port));
    return endpoint;
}

/* ---------------------------------------------------------------- the input */

static void split(const char *text, size_t size) {
    n_blocks = 0;
    while (text && size && n_blocks < BLOCKS_MAX) { /* gcc cannot tell that text is set */
        const char *end = memmem(text, size, PARTING, sizeof PARTING - 1);
        const size_t length = end ? (size_t)(end - text) : size;
        const char *line = memchr(text, '\n', length);
        if (line)
            blocks[n_blocks++] = (block){.key = text,
                                         .key_size = (size_t)(line - text),
                                         .answer = line + 1,
                                         .answer_size = length - (size_t)(line + 1 - text)};
        const size_t used = end ? length + sizeof PARTING - 1 : length;
        text += used;
        size -= used;
    }
}

/* ---------------------------------------------------------------- the cache */

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *position) {
    (void)info;
    (void)kind;
    return position->level > 0 ? remove(path) : 0;
}

/** The folder around the cache: a path that climbs out of the cache lands here. */
static const char *scratch(void) {
    static char folder[64];
    if (!folder[0]) {
        strcpy(folder,
               path_is_directory("/dev/shm") ? "/dev/shm/fuzz-hub-XXXXXX" : "/tmp/fuzz-hub-XXXXXX");
        if (!mkdtemp(folder)) abort();
    }
    return folder;
}

static void remove_scratch(void) { rmdir(scratch()); }

static void check_neighbours(const char *folder) {
    DIR *directory = opendir(folder);
    if (!directory) abort();
    for (struct dirent *entry; (entry = readdir(directory));)
        if (entry->d_name[0] != '.' && strcmp(entry->d_name, "cache") != 0) abort();
    closedir(directory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *endpoint;
    if (!endpoint) {
        endpoint = start_server();
        scratch();
        atexit(remove_scratch);
    }
    if (!data || size < 1) return 0;
    pthread_mutex_lock(&mutex);
    split((const char *)data + 1, size - 1);
    pthread_mutex_unlock(&mutex);
    arena *memory = arena_new();
    if (!memory) return 0;
    const char *folder = scratch(), *path = NULL;
    const char *cache = path_join(memory, folder, "cache");
    const hub_options options = {.cache = cache,
                                 .endpoint = endpoint,
                                 .token = "secret",
                                 .n_parallel = 1,
                                 .timeout_s = 1,
                                 .retry_s = 1e-9};
    llava_error err = {0};
    const bool whole = data[0] & 1;
    const llava_status status = whole
                                    ? hub_snapshot(&options, "o/m", memory, &path, &err)
                                    : hub_file(&options, "o/m", "config.json", memory, &path, &err);
    if (status != LLAVA_OK && !err.message[0]) abort();
    if (status == LLAVA_OK && path &&
        (strncmp(path, cache, strlen(cache)) != 0 || strstr(path, "/../") ||
         !(whole ? path_is_directory(path) : path_is_file(path))))
        abort();
    check_neighbours(folder);
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    arena_free(&memory);
    pthread_mutex_lock(&mutex);
    n_blocks = 0;
    pthread_mutex_unlock(&mutex);
    return 0;
}
