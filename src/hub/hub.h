/* SPDX-License-Identifier: Apache-2.0
 *
 * Hugging Face Hub: the cache as huggingface_hub lays it out, looked up and filled. Files of a
 * repository are found in the cache or downloaded into it; a model's snapshot directory is then a
 * checkpoint directory like any other.
 */
#ifndef LLAVA_HUB_H
#define LLAVA_HUB_H

#include "base/base.h"

/** Called while downloading, possibly from several threads, never at once. Return false to stop. */
typedef bool (*hub_progress_fn)(void *user, const char *file, uint64_t done_bytes,
                                uint64_t total_bytes);

typedef struct hub_options {
    const char *cache;    /* directory that holds models--ORG--NAME; required */
    const char *endpoint; /* NULL: https://huggingface.co */
    const char *token;    /* NULL: anonymous */
    const char *revision; /* NULL: "main" */
    const char *proxy;    /* NULL: none */
    bool offline;         /* the cache only */
    int n_parallel;       /* files at once; 0: 4 */
    double timeout_s;     /* to connect, and without a byte; 0: 10 */
    double retry_s;       /* between attempts; 0: 1 */
    hub_progress_fn progress;
    void *progress_user;
} hub_options;

/** "[namespace/]name" by the Hub's rules; says nothing about its existence. */
bool hub_is_repo_id(const char *text);

/** A file of a repository, from the cache or downloaded. *path is NULL when the repository does not
 *  have it; an absent repository or revision is an error. */
llava_status hub_file(const hub_options *options, const char *repo_id, const char *name,
                      arena *memory, const char **path, llava_error *err);

/** Everything of a repository that loading needs (config, tokenizer, weights in the order of
 *  preference, adapter, processor); *directory is its snapshot. */
llava_status hub_snapshot(const hub_options *options, const char *repo_id, arena *memory,
                          const char **directory, llava_error *err);

#endif
