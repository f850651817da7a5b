/* SPDX-License-Identifier: Apache-2.0
 *
 * One file: from the cache, or by the Hub's protocol into it.
 */
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "hub_internal.h"

#define NAME_SIZE_MAX 200 /* file systems take 255 bytes, and suffixes follow */

typedef struct hub_request {
    const hub_options *options;
    hub_repo repo;
    const char *name;
    const char *url; /* of the file at the endpoint */
    hub_head head;
} hub_request;

static bool is_unreserved(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           strchr("-_.~", c);
}

/** Percent-encoding; slashes stay when they separate folders. */
static bool quote(bytes *out, const char *text, bool keep_slashes) {
    for (; *text; text++) {
        const bool plain = is_unreserved(*text) || (*text == '/' && keep_slashes);
        if (plain ? !bytes_append(out, text, 1)
                  : !bytes_printf(out, "%%%02X", (unsigned)(unsigned char)*text))
            return false;
    }
    return true;
}

static llava_status make_url(hub_request *r, llava_error *err) {
    const char *endpoint = r->options->endpoint ? r->options->endpoint : HUB_ENDPOINT;
    size_t size = strlen(endpoint);
    while (size && endpoint[size - 1] == '/') size--;
    bytes url = {0};
    const bool ok = bytes_append(&url, endpoint, size) && bytes_puts(&url, "/") &&
                    quote(&url, r->repo.id, true) && bytes_puts(&url, "/resolve/") &&
                    quote(&url, r->repo.revision, false) && bytes_puts(&url, "/") &&
                    quote(&url, r->name, true);
    r->url = ok ? arena_strndup(r->repo.memory, url.data, url.size) : NULL;
    bytes_free(&url);
    return r->url ? LLAVA_OK : llava_fail_memory(err, 0, "a URL");
}

/** What the server's refusal means to a person. */
static llava_status explain(const hub_request *r, llava_error *err) {
    const char *code = r->head.error_code ? r->head.error_code : "";
    const char *id = r->repo.id;
    const bool has_token = r->options->token && r->options->token[0];
    if (strcmp(code, "GatedRepo") == 0 || r->head.status == 403)
        return llava_fail(err, LLAVA_IO,
                          "%s is gated: accept its licence on its page, then use a token that may "
                          "read it (%s)",
                          id, has_token ? "the token given was refused" : "no token was given");
    if (strcmp(code, "RevisionNotFound") == 0)
        return llava_fail(err, LLAVA_IO, "%s has no revision \"%s\"", id, r->repo.revision);
    if (strcmp(code, "RepoNotFound") == 0 || r->head.status == 401)
        return llava_fail(err, LLAVA_IO, "%s does not exist, or is private and %s", id,
                          has_token ? "the token given may not read it" : "no token was given");
    if (r->head.status == 404) return llava_fail(err, LLAVA_IO, "%s does not exist", id);
    return llava_fail(err, LLAVA_IO, "%s: the server answered %ld for %s", id, r->head.status,
                      r->name);
}

/* ---------------------------------------------------------------- content */

static uint64_t size_on_disk(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 ? (uint64_t)info.st_size : 0;
}

static void wait_before_retry(const hub_options *options) {
    const double seconds = options->retry_s > 0 ? options->retry_s : 1.0;
    const struct timespec pause = {.tv_sec = (time_t)seconds,
                                   .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&pause, NULL);
}

static llava_status fetch_content(hub_request *r, const char *incomplete, llava_error *err) {
    bool same_host;
    hub_resolve_url(r->repo.memory, r->url, r->head.location, &same_host);
    hub_get get = {.url = r->head.location,
                   .with_token = same_host,
                   .path = incomplete,
                   .total = r->head.has_size ? r->head.size : 0,
                   .file = r->name};
    for (int attempt = 0;; attempt++) {
        bool retry;
        get.from = size_on_disk(incomplete);
        if (get.total && get.from > get.total) get.from = 0;
        if (get.total && get.from == get.total) return LLAVA_OK;
        const llava_status status = hub_http_get(r->options, &get, &retry, err);
        if (status == LLAVA_OK || !retry || attempt >= HUB_RETRIES) return status;
        wait_before_retry(r->options);
    }
}

/** Downloads, checks and moves the blob into place; somebody else may have done it meanwhile. */
static llava_status fetch_blob(hub_request *r, const char *blob, llava_error *err) {
    if (path_is_file(blob)) return LLAVA_OK;
    const char *incomplete = hub_blob_path(&r->repo, r->head.etag, ".incomplete");
    if (!incomplete) return llava_fail_memory(err, 0, "a cache path");
    LLAVA_TRY(hub_make_parents(blob, err));
    LLAVA_TRY(fetch_content(r, incomplete, err));
    bool same;
    LLAVA_TRY(hub_check_hash(incomplete, r->head.etag, &same, err));
    if (!same) {
        unlink(incomplete);
        return llava_fail(err, LLAVA_MALFORMED,
                          "download of %s: its content does not have the announced hash %s",
                          r->name, r->head.etag);
    }
    if (rename(incomplete, blob) != 0)
        return llava_fail(err, LLAVA_IO, "%s: cannot be moved into place", incomplete);
    return LLAVA_OK;
}

/** What becomes a name in the cache: visible characters, no folder, nothing hidden. */
static bool is_file_name(const char *text) {
    if (!text || !text[0] || text[0] == '.' || strlen(text) > NAME_SIZE_MAX) return false;
    for (const char *c = text; *c; c++)
        if (*c <= ' ' || *c > '~' || *c == '/') return false;
    return true;
}

/** Where the answer says that the file is; a size it must have, for what follows is unlimited. */
static llava_status store(hub_request *r, const char **path, llava_error *err) {
    const char *etag = r->head.etag, *commit = r->head.commit;
    if (!is_file_name(commit) || !is_file_name(etag) || !r->head.has_size)
        return llava_fail(err, LLAVA_IO, "%s: the server does not answer as a Hub does", r->url);
    LLAVA_TRY(hub_write_ref(&r->repo, commit, err));
    *path = hub_snapshot_path(&r->repo, commit, r->name);
    const char *blob = hub_blob_path(&r->repo, etag, "");
    if (!*path || !blob) return llava_fail_memory(err, 0, "a cache path");
    if (path_is_file(*path)) return LLAVA_OK;
    int lock;
    LLAVA_TRY(hub_lock(&r->repo, etag, &lock, err));
    llava_status status = fetch_blob(r, blob, err);
    if (status == LLAVA_OK) status = hub_link(&r->repo, commit, r->name, etag, err);
    hub_unlock(lock);
    return status;
}

/* ---------------------------------------------------------------- the file */

/** True when the cache answers: a path, or NULL for a file known to be absent. */
static bool from_cache(const hub_request *r, const char **path) {
    const char *commit = hub_cached_commit(&r->repo);
    *path = commit ? hub_snapshot_path(&r->repo, commit, r->name) : NULL;
    if (*path && path_is_file(*path)) return true;
    const bool absent = commit && hub_known_missing(&r->repo, commit, r->name);
    *path = NULL;
    return absent;
}

static llava_status not_cached(const hub_request *r, llava_error *err) {
    const char *commit = hub_cached_commit(&r->repo);
    if (commit) return LLAVA_OK; /* the snapshot is there; this file is not part of it */
    return llava_fail(err, LLAVA_IO, "%s is not in the cache %s, and the network may not be used",
                      r->repo.id, r->options->cache);
}

llava_status hub_file(const hub_options *options, const char *repo_id, const char *name,
                      arena *memory, const char **path, llava_error *err) {
    hub_request r = {.options = options, .name = name};
    *path = NULL;
    LLAVA_TRY(hub_repo_open(options, repo_id, memory, &r.repo, err));
    if (!path_is_plain_relative(name))
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "\"%s\" is not a file of a repository", name);
    const bool cached = from_cache(&r, path);
    if (options->offline) return cached ? LLAVA_OK : not_cached(&r, err);
    if (cached && hub_is_hex(r.repo.revision, 40)) return LLAVA_OK;
    LLAVA_TRY(make_url(&r, err));
    const llava_status status = hub_http_head(options, r.url, memory, &r.head, err);
    if (status != LLAVA_OK) return cached ? LLAVA_OK : status; /* no network: the cache will do */
    if (r.head.status >= 200 && r.head.status < 400) return store(&r, path, err);
    const bool no_entry = r.head.error_code && strcmp(r.head.error_code, "EntryNotFound") == 0;
    if (!no_entry) return explain(&r, err);
    *path = NULL;
    return is_file_name(r.head.commit) ? hub_mark_missing(&r.repo, r.head.commit, name, err)
                                       : LLAVA_OK;
}
