/* SPDX-License-Identifier: Apache-2.0
 *
 * Shared by the cache, the HTTP requests and the downloads.
 */
#ifndef LLAVA_HUB_INTERNAL_H
#define LLAVA_HUB_INTERNAL_H

#include "hub.h"

#define HUB_ENDPOINT "https://huggingface.co"
#define HUB_RETRIES  5

/* ---------------------------------------------------------------- cache */

/** Paths of one repository in the cache. */
typedef struct hub_repo {
    arena *memory;
    const char *id;
    const char *folder;   /* CACHE/models--ORG--NAME */
    const char *locks;    /* CACHE/.locks/models--ORG--NAME */
    const char *revision; /* as asked */
} hub_repo;

llava_status hub_repo_open(const hub_options *options, const char *repo_id, arena *memory,
                           hub_repo *repo, llava_error *err);
/** The commit a revision stands for according to refs/; NULL when not cached. */
const char *hub_cached_commit(const hub_repo *repo);
/** snapshots/COMMIT/NAME. */
const char *hub_snapshot_path(const hub_repo *repo, const char *commit, const char *name);
const char *hub_blob_path(const hub_repo *repo, const char *etag, const char *suffix);
bool hub_known_missing(const hub_repo *repo, const char *commit, const char *name);
llava_status hub_mark_missing(const hub_repo *repo, const char *commit, const char *name,
                              llava_error *err);
llava_status hub_write_ref(const hub_repo *repo, const char *commit, llava_error *err);
/** Makes snapshots/COMMIT/NAME point to the blob. */
llava_status hub_link(const hub_repo *repo, const char *commit, const char *name, const char *etag,
                      llava_error *err);
/** Makes every directory above path. */
llava_status hub_make_parents(const char *path, llava_error *err);
/** An advisory lock on .locks/.../ETAG.lock, waited for; release with hub_unlock(). */
llava_status hub_lock(const hub_repo *repo, const char *etag, int *lock, llava_error *err);
void hub_unlock(int lock);
/** Checks a blob against its etag: SHA-256 of the content (64 hex digits) or git's SHA-1 (40);
 *  other etags are not hashes and pass. */
llava_status hub_check_hash(const char *path, const char *etag, bool *same, llava_error *err);
bool hub_is_hex(const char *text, size_t digits);

/* ---------------------------------------------------------------- requests */

/** What a HEAD request told. Strings are in the arena; NULL when not sent. */
typedef struct hub_head {
    long status;
    const char *commit, *etag, *location, *error_code;
    uint64_t size;
    bool has_size;
} hub_head;

typedef struct hub_get {
    const char *url;
    bool with_token;  /* only to the endpoint's own host */
    const char *path; /* appended to; created when absent */
    uint64_t from;    /* bytes already there */
    uint64_t total;   /* expected size of the whole file; 0: unknown */
    const char *file; /* for progress */
} hub_get;

llava_status hub_http_head(const hub_options *options, const char *url, arena *memory,
                           hub_head *head, llava_error *err);
/** One attempt. *retry tells whether another may help. A 200 answer to a range starts over. */
llava_status hub_http_get(const hub_options *options, const hub_get *get, bool *retry,
                          llava_error *err);
/** Absolute form of a Location header, and whether its host is that of base. */
const char *hub_resolve_url(arena *memory, const char *base, const char *location, bool *same_host);

#endif
