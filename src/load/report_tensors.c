/* SPDX-License-Identifier: Apache-2.0
 *
 * The report's parts about files, tensors and memory.
 */
#include <stdlib.h>
#include <sys/stat.h>

#include "report.h"

#define NAMES_MAX    100 /* listed; the counts are always complete */
#define SCRATCH_ROWS 512 /* prompt rows of one step that the memory plan assumes */

static llava_status list_files(const load_plan *plan, const checkpoint *c, json_t *files) {
    for (size_t i = 0; c && i < checkpoint_file_count(c); i++) {
        const char *name = checkpoint_file(c, i);
        const char *directory = checkpoint_path(c);
        const char *path = path_is_directory(directory)
                               ? path_join(plan->model->memory, directory, name)
                               : directory;
        struct stat info = {0};
        if (path) stat(path, &info);
        LLAVA_TRY(report_append(files, json_pack("{s:s, s:s, s:I}", "directory", directory, "name",
                                                 name, "bytes", (json_int_t)info.st_size)));
    }
    return LLAVA_OK;
}

llava_status report_files(const load_plan *plan, json_t *report) {
    json_t *files = json_array();
    if (!files) return LLAVA_OUT_OF_MEMORY;
    for (size_t i = 0; i < LLAVA_COUNT(plan->model->files); i++) {
        const llava_status status = list_files(plan, plan->model->files[i], files);
        if (status == LLAVA_OK) continue;
        json_decref(files);
        return status;
    }
    return report_set(report, "files", files);
}

/** Counts and bytes by stored type, of the model's own files. */
static json_t *by_dtype(const checkpoint *c) {
    json_t *types = json_object();
    for (size_t i = 0; types && i < checkpoint_count(c); i++) {
        const checkpoint_tensor *t = checkpoint_at(c, i);
        json_t *entry = json_object_get(types, t->stored);
        if (!entry) {
            entry = json_pack("{s:i, s:i}", "count", 0, "bytes", 0);
            if (!entry || json_object_set_new(types, t->stored, entry) != 0) break;
        }
        json_t *count = json_object_get(entry, "count"), *sum = json_object_get(entry, "bytes");
        json_integer_set(count, json_integer_value(count) + 1);
        json_integer_set(sum, json_integer_value(sum) + (json_int_t)t->t.n_bytes);
    }
    return types;
}

/** Marks the tensors of the model's own files that are bound; NULL when memory is short. */
static bool *mark_used(const load_plan *plan) {
    const checkpoint *c = plan->model->files[0];
    bool *used = array_new(checkpoint_count(c), sizeof *used);
    const checkpoint_tensor *first = checkpoint_at(c, 0);
    for (size_t i = 0; used && first && i < plan->bind.count; i++) {
        const bind_entry *e = &plan->bind.entries[i];
        const size_t n = checkpoint_count(c);
        if (e->found && e->found >= first && e->found < first + n) used[e->found - first] = true;
    }
    return used;
}

static llava_status add_name(json_t *names, const char *prefix, const char *suffix) {
    if (json_array_size(names) >= NAMES_MAX) return LLAVA_OK;
    return report_append(names, json_sprintf("%s%s", prefix, suffix));
}

static llava_status list_unexpected(const load_plan *plan, json_t *report) {
    const checkpoint *c = plan->model->files[0];
    json_t *names = json_array();
    bool *used = mark_used(plan);
    llava_status status = names && used ? LLAVA_OK : LLAVA_OUT_OF_MEMORY;
    size_t count = 0;
    for (size_t i = 0; status == LLAVA_OK && i < checkpoint_count(c); i++) {
        const char *name = checkpoint_at(c, i)->name;
        if (used[i] || bind_is_known_extra(name)) continue;
        count++;
        status = add_name(names, "", name);
    }
    free(used);
    if (status != LLAVA_OK) {
        json_decref(names);
        return status;
    }
    LLAVA_TRY(report_set(report, "unexpected", names));
    return report_set(report, "unexpected_count", json_integer((json_int_t)count));
}

static llava_status list_missing(const load_plan *plan, json_t *report) {
    const binder *b = &plan->bind;
    json_t *names = json_array();
    if (!names) return LLAVA_OUT_OF_MEMORY;
    llava_status status = LLAVA_OK;
    size_t count = 0;
    for (size_t i = 0; i < b->count && status == LLAVA_OK; i++) {
        const bind_entry *e = &b->entries[i];
        if (e->found || e->optional || !b->prefix[e->group]) continue;
        count++;
        status = add_name(names, b->prefix[e->group], e->suffix);
    }
    if (status != LLAVA_OK) {
        json_decref(names);
        return status;
    }
    LLAVA_TRY(report_set(report, "missing", names));
    return report_set(report, "missing_count", json_integer((json_int_t)count));
}

json_t *report_tensor_summary(const checkpoint *c) {
    return json_pack("{s:I, s:I, s:I, s:o}", "count", (json_int_t)checkpoint_count(c), "bytes",
                     (json_int_t)checkpoint_bytes(c), "unmapped",
                     (json_int_t)checkpoint_unmapped(c), "by_dtype", by_dtype(c));
}

llava_status report_tensors(const load_plan *plan, json_t *report) {
    const checkpoint *c = plan->model->files[0];
    if (!c) return LLAVA_OK;
    LLAVA_TRY(report_set(report, "tensors", report_tensor_summary(c)));
    if (plan->bind.count == 0) return LLAVA_OK;
    LLAVA_TRY(list_missing(plan, report));
    return list_unexpected(plan, report);
}

llava_status report_memory(const load_plan *plan, json_t *report) {
    const llava_model *model = plan->model;
    if (!model->config || model->n_vocab == 0) return LLAVA_OK;
    uint64_t mapped = 0, owned = 0;
    for (size_t i = 0; i < plan->bind.count; i++) {
        bool is_owned = false;
        if (!plan->bind.entries[i].found) continue;
        const uint64_t n_bytes = plan_loaded_bytes(plan, &plan->bind.entries[i], &is_owned);
        *(is_owned ? &owned : &mapped) += n_bytes;
    }
    const uint64_t per_token = kv_bytes_per_token(model);
    uint64_t whole;
    if (__builtin_mul_overflow(per_token, (uint64_t)model->config->context_len, &whole) ||
        whole > INT64_MAX)
        whole = INT64_MAX;
    size_t scratch = decoder_scratch_bytes(model, SCRATCH_ROWS, 1, model->config->context_len);
    if (scratch > INT64_MAX) scratch = INT64_MAX; /* sizes that overflow */
    return report_set(report, "memory",
                      json_pack("{s:I, s:I, s:I, s:I, s:I}", "weights_mapped_bytes",
                                (json_int_t)mapped, "weights_owned_bytes", (json_int_t)owned,
                                "kv_bytes_per_token", (json_int_t)per_token,
                                "kv_bytes_full_context", (json_int_t)whole, "decoder_scratch_bytes",
                                (json_int_t)scratch));
}
