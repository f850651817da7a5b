/* SPDX-License-Identifier: Apache-2.0
 *
 * Hub ids in the place of directories.
 */
#include "hub/hub.h"
#include "load_plan.h"

/** Progress of downloads in the terms of loading's own. */
typedef struct hub_report {
    const llava_load_options *options;
} hub_report;

static bool forward_progress(void *user, const char *file, uint64_t done, uint64_t total) {
    const llava_load_options *o = ((const hub_report *)user)->options;
    return o->progress(o->progress_user, done, total, file);
}

static hub_options make_options(const llava_load_options *o, hub_report *report) {
    return (hub_options){.cache = o->hub_cache,
                         .endpoint = o->hub_endpoint,
                         .token = o->hub_token,
                         .revision = o->hub_revision,
                         .proxy = o->hub_proxy,
                         .offline = o->hub_offline,
                         .progress = o->progress ? forward_progress : NULL,
                         .progress_user = report};
}

/** A directory stays; what may be an id is fetched; anything else is left to the next stage's
 *  message. */
static llava_status resolve(load_plan *plan, const char *what, const char **path) {
    llava_load_options *o = &plan->resolved;
    if (!*path || !(*path)[0] || path_is_directory(*path) || !o->hub_cache) return LLAVA_OK;
    if (!hub_is_repo_id(*path))
        return llava_fail(plan->err, LLAVA_IO,
                          "%s \"%s\" is neither a directory nor a repository id (namespace/name)",
                          what, *path);
    hub_report report = {o};
    const hub_options options = make_options(o, &report);
    const char *directory; /* a failure leaves the name, for reports */
    LLAVA_TRY(hub_snapshot(&options, *path, plan->model->memory, &directory, plan->err));
    *path = directory;
    return LLAVA_OK;
}

llava_status plan_resolve_paths(load_plan *plan) {
    LLAVA_TRY(resolve(plan, "model_path", &plan->resolved.model_path));
    return resolve(plan, "model_base", &plan->resolved.model_base);
}

/** The files beside the weights that say what a tower is. */
static llava_status fetch_description(const hub_options *options, const char *name, load_plan *plan,
                                      const char **directory) {
    const char *config, *processor;
    arena *memory = plan->model->memory;
    LLAVA_TRY(hub_file(options, name, "config.json", memory, &config, plan->err));
    LLAVA_TRY(hub_file(options, name, "preprocessor_config.json", memory, &processor, plan->err));
    *directory =
        config ? arena_strndup(memory, config, strlen(config) - strlen("/config.json")) : NULL;
    return LLAVA_OK;
}

llava_status plan_fetch_tower(load_plan *plan, bool weights, const char **directory) {
    const llava_load_options *o = plan->options;
    const char *name = plan_tower_name(plan->model->config);
    *directory = NULL;
    if (!o->hub_cache || !hub_is_repo_id(name)) return LLAVA_OK;
    hub_report report = {o};
    hub_options options = make_options(o, &report);
    options.revision = NULL; /* the revision is the checkpoint's, not the tower's */
    if (weights) return hub_snapshot(&options, name, plan->model->memory, directory, plan->err);
    /* The published towers are known without asking; a failure here is not the end. */
    if (fetch_description(&options, name, plan, directory) != LLAVA_OK) *directory = NULL;
    return LLAVA_OK;
}
