/* SPDX-License-Identifier: Apache-2.0
 *
 * A recorded call on disk: CASE.json and, beside it, CASE.safetensors. Everything that is read
 * is marked, so that what nobody looked at can be named.
 */
#include <limits.h>
#include <stdlib.h>

#include "verify/verify.h"

/** "FOLDER/CASE.json" -> "FOLDER/CASE.safetensors"; NULL when the name ends otherwise. */
static char *tensor_path(arena *memory, const char *path) {
    const size_t size = strlen(path);
    if (size < 5 || strcmp(path + size - 5, ".json") != 0) return NULL;
    return arena_printf(memory, "%.*s.safetensors", (int)(size - 5), path);
}

/** The parent of the last folder named "traces" on the way to the case. */
static const char *derive_reference(arena *memory, const char *path) {
    char resolved[PATH_MAX];
    if (!realpath(path, resolved)) return NULL;
    for (char *slash = strrchr(resolved, '/'); slash; slash = strrchr(resolved, '/')) {
        *slash = '\0';
        const char *name = strrchr(resolved, '/');
        if (name && strcmp(name, "/traces") == 0)
            return arena_strndup(memory, resolved, (size_t)(name - resolved));
    }
    return NULL;
}

llava_status trace_open(const char *path, const char *reference, trace *t, llava_error *err) {
    *t = (trace){.memory = arena_new(), .seen = json_object()};
    if (!t->memory || !t->seen) return llava_fail_memory(err, sizeof *t, "a recorded call");
    t->path = arena_strdup(t->memory, path);
    LLAVA_TRY(json_read_file(path, &t->root, err));
    if (!json_is_object(t->root))
        return llava_fail(err, LLAVA_MALFORMED, "%s: a recorded call is an object, this is %s",
                          path, json_kind(t->root));
    const char *tensors = tensor_path(t->memory, path);
    if (!tensors)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "%s: a recorded call's name ends in .json",
                          path);
    LLAVA_TRY(checkpoint_open(tensors, &t->tensors, err));
    t->reference =
        reference ? arena_strdup(t->memory, reference) : derive_reference(t->memory, path);
    if (!t->reference)
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "%s lies in no folder named traces; name the folder that its paths start "
                          "from with --reference",
                          path);
    return LLAVA_OK;
}

void trace_close(trace *t) {
    checkpoint_close(&t->tensors);
    json_decref(t->root);
    json_decref(t->seen);
    arena_free(&t->memory);
    *t = (trace){0};
}

/* ---------------------------------------------------------------- fields */

void trace_mark(trace *t, const char *name) { json_object_set_new(t->seen, name, json_true()); }

const json_t *trace_field(trace *t, const char *path) {
    const json_t *value = t->root;
    for (const char *at = path; value && *at;) {
        const size_t size = strcspn(at, ".");
        const char *key = arena_strndup(t->memory, at, size);
        value = key && json_is_object(value) ? json_get(value, key) : NULL;
        at += size + (at[size] == '.');
    }
    trace_mark(t, path);
    return value;
}

/* ---------------------------------------------------------------- tensors */

bool trace_has_tensor(const trace *t, const char *name) {
    return checkpoint_find(t->tensors, name) != NULL;
}

llava_status trace_tensor(trace *t, const char *name, tensor *value, llava_error *err) {
    *value = (tensor){0};
    const checkpoint_tensor *found = checkpoint_find(t->tensors, name);
    if (!found) return LLAVA_OK;
    trace_mark(t, name);
    if (found->t.dtype != LLAVA_DTYPE_F32)
        return llava_fail(err, LLAVA_MALFORMED, "%s: tensor %s is %s, a recorded call has float32",
                          t->path, name, dtype_name(found->t.dtype));
    void *copy = arena_alloc(t->memory, found->t.n_bytes + 1);
    if (!copy) return llava_fail_memory(err, found->t.n_bytes, name);
    memcpy(copy, found->t.data, found->t.n_bytes);
    *value = found->t;
    value->data = copy;
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- what nobody looked at */

static bool is_half(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot && (strcmp(dot, ".float16") == 0 || strcmp(dot, ".bfloat16") == 0);
}

static const char *known_reason(const char *name, bool ended_early) {
    static const struct {
        const char *name, *reason;
    } known[] = {
        {"loaded_from", "counts parameters of the reference's own module tree"},
        {"notes", "remarks on the recording"},
        {"family", "a label"},
        {"greedy.uncached_max_difference", "how far the reference is from itself"},
        {"image_processor.do_convert_rgb", "pictures are RGB from the start here"},
        {"returned.image_processor.do_convert_rgb", "pictures are RGB from the start here"},
        {"features.reference", "the reference's own slicing defect, see the case's notes"},
    };
    for (size_t i = 0; i < LLAVA_COUNT(known); i++)
        if (strcmp(known[i].name, name) == 0) return known[i].reason;
    if (is_half(name)) return "recorded in another type than this run's";
    return ended_early ? "the run did not get that far" : "nothing here computes it";
}

static bool is_seen(const trace *t, const char *name) {
    return json_object_get(t->seen, name) != NULL;
}

/** Depth is that of the format: top level, "returned", and the objects inside that. */
static llava_status list_fields(const trace *t, const json_t *object, const char *prefix, int depth,
                                bool ended_early, verify_report *report) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value) {
        const char *path = arena_printf(t->memory, "%s%s", prefix, key);
        if (!path) return LLAVA_OUT_OF_MEMORY;
        if (is_seen(t, path)) continue;
        if (json_is_object(value) && json_object_size(value) > 0 && depth > 0 &&
            strcmp(path, "loaded_from") != 0) {
            const char *inner = arena_printf(t->memory, "%s.", path);
            if (!inner) return LLAVA_OUT_OF_MEMORY;
            LLAVA_TRY(list_fields(t, value, inner, depth - 1, ended_early, report));
        } else if (!json_is_object(value) || json_object_size(value) > 0) {
            LLAVA_TRY(report_not_compared(report, path, known_reason(path, ended_early)));
        }
    }
    return LLAVA_OK;
}

llava_status trace_list_unseen(const trace *t, bool ended_early, verify_report *report) {
    LLAVA_TRY(list_fields(t, t->root, "", 2, ended_early, report));
    for (size_t i = 0; i < checkpoint_count(t->tensors); i++) {
        const char *name = checkpoint_at(t->tensors, i)->name;
        if (!is_seen(t, name))
            LLAVA_TRY(report_not_compared(report, name, known_reason(name, ended_early)));
    }
    return LLAVA_OK;
}
