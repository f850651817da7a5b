/* SPDX-License-Identifier: Apache-2.0
 *
 * The cache's layout (huggingface_hub 0.22): refs, blobs, snapshots, markers of absence, locks.
 */
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hub_internal.h"

#define REPO_NAME_MAX 96

static bool is_id_character(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' ||
           c == '_' || c == '-';
}

static bool is_id_part(const char *text, size_t size) {
    if (size == 0 || size > REPO_NAME_MAX) return false;
    if (strchr("-.", text[0]) || strchr("-.", text[size - 1])) return false;
    for (size_t i = 0; i < size; i++) {
        if (!is_id_character(text[i])) return false;
        if (i > 0 && text[i] == text[i - 1] && (text[i] == '-' || text[i] == '.')) return false;
    }
    return true;
}

bool hub_is_repo_id(const char *text) {
    const size_t size = strlen(text);
    const char *slash = strchr(text, '/');
    if (size > 4 && strcmp(text + size - 4, ".git") == 0) return false;
    if (!slash) return is_id_part(text, size);
    return is_id_part(text, (size_t)(slash - text)) && is_id_part(slash + 1, strlen(slash + 1));
}

bool hub_is_hex(const char *text, size_t digits) {
    return strlen(text) == digits && strspn(text, "0123456789abcdef") == digits;
}

/** Revisions and file names become paths: nothing may leave the repository's folder. */
static bool is_safe_path(const char *text) {
    return path_is_plain_relative(text) && text[strlen(text) - 1] != '/';
}

llava_status hub_repo_open(const hub_options *options, const char *repo_id, arena *memory,
                           hub_repo *repo, llava_error *err) {
    if (!hub_is_repo_id(repo_id))
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "\"%s\" is neither a directory nor a repository id (namespace/name)",
                          repo_id);
    *repo = (hub_repo){.memory = memory,
                       .id = repo_id,
                       .revision = options->revision ? options->revision : "main"};
    if (!is_safe_path(repo->revision))
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "\"%s\" is not a revision", repo->revision);
    const char *slash = strchr(repo_id, '/');
    const char *name =
        slash ? arena_printf(memory, "models--%.*s--%s", (int)(slash - repo_id), repo_id, slash + 1)
              : arena_printf(memory, "models--%s", repo_id);
    const char *locks = path_join(memory, options->cache, ".locks");
    if (name && locks) {
        repo->folder = path_join(memory, options->cache, name);
        repo->locks = path_join(memory, locks, name);
    }
    return repo->folder && repo->locks ? LLAVA_OK : llava_fail_memory(err, 0, "a cache path");
}

const char *hub_cached_commit(const hub_repo *repo) {
    if (hub_is_hex(repo->revision, 40)) return repo->revision;
    const char *path = arena_printf(repo->memory, "%s/refs/%s", repo->folder, repo->revision);
    bytes content;
    if (!path || file_read(path, 4096, &content, NULL) != LLAVA_OK) return NULL;
    while (content.size && strchr(" \r\n\t", content.data[content.size - 1])) content.size--;
    const char *commit = arena_strndup(repo->memory, content.data, content.size);
    bytes_free(&content);
    return commit && is_safe_path(commit) ? commit : NULL;
}

const char *hub_snapshot_path(const hub_repo *repo, const char *commit, const char *name) {
    return arena_printf(repo->memory, "%s/snapshots/%s/%s", repo->folder, commit, name);
}

const char *hub_blob_path(const hub_repo *repo, const char *etag, const char *suffix) {
    return arena_printf(repo->memory, "%s/blobs/%s%s", repo->folder, etag, suffix);
}

llava_status hub_make_parents(const char *path, llava_error *err) {
    char copy[4096];
    if (strlen(path) >= sizeof copy)
        return llava_fail(err, LLAVA_IO, "%.80s...: the path is too long", path);
    strcpy(copy, path);
    for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(copy, 0777) != 0 && errno != EEXIST)
            return llava_fail(err, LLAVA_IO, "%s: cannot be made: %s", copy, strerror(errno));
        *slash = '/';
    }
    return LLAVA_OK;
}

/** Replaces path by a file with this content, in one step. */
static llava_status write_whole(const char *path, const char *content, llava_error *err) {
    char temporary[4096];
    LLAVA_TRY(hub_make_parents(path, err));
    /* The buffer's address sets threads of one process apart. */
    if ((size_t)snprintf(temporary, sizeof temporary, "%s.%ld.%p.tmp", path, (long)getpid(),
                         (void *)temporary) >= sizeof temporary)
        return llava_fail(err, LLAVA_IO, "%.80s...: the path is too long", path);
    FILE *file = fopen(temporary, "w");
    bool ok = file && fputs(content, file) >= 0;
    if (file) ok = fclose(file) == 0 && ok;
    if (!ok || rename(temporary, path) != 0) {
        const int code = errno;
        unlink(temporary);
        return llava_fail(err, LLAVA_IO, "%s: cannot be written: %s", path, strerror(code));
    }
    return LLAVA_OK;
}

bool hub_known_missing(const hub_repo *repo, const char *commit, const char *name) {
    const char *path = arena_printf(repo->memory, "%s/.no_exist/%s/%s", repo->folder, commit, name);
    return path && path_is_file(path);
}

llava_status hub_mark_missing(const hub_repo *repo, const char *commit, const char *name,
                              llava_error *err) {
    const char *path = arena_printf(repo->memory, "%s/.no_exist/%s/%s", repo->folder, commit, name);
    return path ? write_whole(path, "", err) : llava_fail_memory(err, 0, "a cache path");
}

llava_status hub_write_ref(const hub_repo *repo, const char *commit, llava_error *err) {
    if (hub_is_hex(repo->revision, 40)) return LLAVA_OK;
    const char *cached = hub_cached_commit(repo);
    if (cached && strcmp(cached, commit) == 0) return LLAVA_OK;
    const char *path = arena_printf(repo->memory, "%s/refs/%s", repo->folder, repo->revision);
    return path ? write_whole(path, commit, err) : llava_fail_memory(err, 0, "a cache path");
}

llava_status hub_link(const hub_repo *repo, const char *commit, const char *name, const char *etag,
                      llava_error *err) {
    const char *path = hub_snapshot_path(repo, commit, name);
    bytes target = {0};
    bool ok = path && bytes_puts(&target, "../../");
    for (const char *c = name; ok && *c; c++)
        if (*c == '/') ok = bytes_puts(&target, "../");
    ok = ok && bytes_printf(&target, "blobs/%s", etag);
    llava_status status = ok ? hub_make_parents(path, err) : llava_fail_memory(err, 0, "a link");
    if (status == LLAVA_OK && symlink(target.data, path) != 0 && errno != EEXIST)
        status = llava_fail(err, LLAVA_IO, "%s: cannot be linked: %s", path, strerror(errno));
    bytes_free(&target);
    return status;
}

/* ---------------------------------------------------------------- locks */

llava_status hub_lock(const hub_repo *repo, const char *etag, int *lock, llava_error *err) {
    const char *path = arena_printf(repo->memory, "%s/%s.lock", repo->locks, etag);
    if (!path) return llava_fail_memory(err, 0, "a lock's path");
    LLAVA_TRY(hub_make_parents(path, err));
    *lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*lock < 0)
        return llava_fail(err, LLAVA_IO, "%s: cannot be opened: %s", path, strerror(errno));
    while (flock(*lock, LOCK_EX) != 0) {
        if (errno == EINTR) continue;
        const int code = errno;
        close(*lock);
        return llava_fail(err, LLAVA_IO, "%s: cannot be locked: %s", path, strerror(code));
    }
    return LLAVA_OK;
}

void hub_unlock(int lock) {
    flock(lock, LOCK_UN);
    close(lock);
}

/* ---------------------------------------------------------------- hashes */

llava_status hub_check_hash(const char *path, const char *etag, bool *same, llava_error *err) {
    const bool sha256 = hub_is_hex(etag, 64), git = hub_is_hex(etag, 40);
    *same = true;
    if (!sha256 && !git) return LLAVA_OK;
    file_map map;
    LLAVA_TRY(file_map_open(path, &map, err));
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    char head[64], text[2 * EVP_MAX_MD_SIZE + 1] = "";
    const int n_head = snprintf(head, sizeof head, "blob %zu", map.size) + 1; /* with its NUL */
    const bool ok = hash && EVP_DigestInit_ex(hash, sha256 ? EVP_sha256() : EVP_sha1(), NULL) &&
                    (sha256 || EVP_DigestUpdate(hash, head, (size_t)n_head)) &&
                    EVP_DigestUpdate(hash, map.data, map.size) &&
                    EVP_DigestFinal_ex(hash, digest, &size);
    EVP_MD_CTX_free(hash);
    file_map_close(&map);
    if (!ok) return llava_fail(err, LLAVA_INTERNAL, "%s: its hash could not be computed", path);
    for (unsigned int i = 0; i < size; i++) sprintf(text + 2 * i, "%02x", digest[i]);
    *same = strcmp(text, etag) == 0;
    return LLAVA_OK;
}
