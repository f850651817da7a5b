/* SPDX-License-Identifier: Apache-2.0
 *
 * LoRA adapters, trainables and projectors as files beside a base model.
 */
#include <math.h>
#include <stdlib.h>

#include "adapter.h"
#include "adapter_names.h"
#include "adapter_patterns.h"
#include "base/json.h"

#define RANK_MAX 65536

/** adapter_config.json, as far as merging needs it. */
typedef struct adapter_config {
    const char *what; /* path, for errors */
    const json_t *rank_pattern, *alpha_pattern;
    adapter_patterns *patterns;
    int64_t rank;
    double alpha;
    bool rslora;
} adapter_config;

static bool file_in(const char *directory, const char *name) {
    arena *memory = arena_new();
    const char *path = memory ? path_join(memory, directory, name) : NULL;
    const bool found = path && path_is_file(path);
    arena_free(&memory);
    return found;
}

bool adapter_exists(const char *directory) { return file_in(directory, "adapter_config.json"); }

bool projector_exists(const char *directory) {
    return !checkpoint_exists(directory) && (file_in(directory, "mm_projector.bin") ||
                                             file_in(directory, "mm_projector.safetensors"));
}

/* ---------------------------------------------------------------- ranks and scales */

static llava_status module_scale(const adapter_config *c, lora_module *m, int64_t rank,
                                 llava_error *err) {
    const char *key;
    LLAVA_TRY(adapter_patterns_key(c->patterns, m->module, &key, err));
    const json_t *own_rank = json_object_get(c->rank_pattern, key);
    const json_t *own_alpha = json_object_get(c->alpha_pattern, key);
    const int64_t expected = json_is_integer(own_rank) ? json_integer_value(own_rank) : c->rank;
    const double alpha = json_is_number(own_alpha) ? json_number_value(own_alpha) : c->alpha;
    if (rank != expected)
        return llava_fail(err, LLAVA_MALFORMED,
                          "%s: module %s: expected rank %lld, its tensors have %lld", c->what,
                          m->module, (long long)expected, (long long)rank);
    m->scale = (float)(alpha / (c->rslora ? sqrt((double)rank) : (double)rank));
    return LLAVA_OK;
}

/** Both halves or none; fills the scale. One half alone changes nothing (B starts as zeros). */
static llava_status check_module(const adapter_config *c, lora_module *m, llava_error *err) {
    if (!m->a || !m->b) m->a = m->b = NULL;
    if (!m->embedding_a || !m->embedding_b) m->embedding_a = m->embedding_b = NULL;
    const tensor *a = m->a ? m->a : m->embedding_a, *b = m->a ? m->b : m->embedding_b;
    if (!a) return LLAVA_OK;
    if (a->n_dims < 2 || b->n_dims < 2 || a->shape[0] < 1 || a->shape[0] > RANK_MAX ||
        b->shape[1] != a->shape[0] || tensor_count(b) != b->shape[0] * b->shape[1] ||
        !dtype_is_float(a->dtype) || !dtype_is_float(b->dtype))
        return llava_fail(err, LLAVA_MALFORMED,
                          "%s: module %s: its two matrices do not fit together", c->what,
                          m->module);
    return module_scale(c, m, a->shape[0], err);
}

/* ---------------------------------------------------------------- configuration */

static llava_status read_config(adapter *a, const char *path, json_t **root, adapter_config *c,
                                llava_error *err) {
    LLAVA_TRY(json_read_file(path, root, err));
    const char *type, *base;
    LLAVA_TRY(json_get_string(*root, path, "peft_type", "LORA", &type, err));
    LLAVA_TRY(json_get_string(*root, path, "base_model_name_or_path", NULL, &base, err));
    LLAVA_TRY(json_get_i64(*root, path, "r", 8, &c->rank, err));
    LLAVA_TRY(json_get_f64(*root, path, "lora_alpha", 8, &c->alpha, err));
    LLAVA_TRY(json_get_bool(*root, path, "use_rslora", false, &c->rslora, err));
    if (strcmp(type, "LORA") != 0)
        return llava_fail(err, LLAVA_UNSUPPORTED, "%s: \"peft_type\": expected LORA, got %.40s",
                          path, type);
    const char *start = json_string_value(json_object_get(*root, "init_lora_weights"));
    if (start && (strncmp(start, "pissa", 5) == 0 || strncmp(start, "olora", 5) == 0))
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "%s: \"init_lora_weights\": %.20s changes the base model while training; "
                          "convert the adapter to plain LoRA first",
                          path, start);
    c->what = path;
    c->rank_pattern = json_get(*root, "rank_pattern");
    c->alpha_pattern = json_get(*root, "alpha_pattern");
    a->base = base ? arena_strdup(a->memory, base) : NULL;
    a->what = arena_printf(a->memory, "LoRA, r %lld, alpha %g%s", (long long)c->rank, c->alpha,
                           c->rslora ? ", rank-stabilised" : "");
    return a->what ? LLAVA_OK : llava_fail_memory(err, 0, "a description");
}

/* ---------------------------------------------------------------- tables */

static int by_module(const void *a, const void *b) {
    return strcmp(((const lora_module *)a)->module, ((const lora_module *)b)->module);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const replacement *)a)->name, ((const replacement *)b)->name);
}

static int by_name_and_order(const void *a, const void *b) {
    const replacement *x = a, *y = b;
    const int order = by_name(a, b);
    return order ? order : (x->order > y->order) - (x->order < y->order);
}

static llava_status add_replacement(adapter *a, const char *name, const checkpoint_tensor *t,
                                    llava_error *err) {
    if (!name) return llava_fail_memory(err, 0, "a name");
    const size_t n = a->n_replacements++;
    a->replacements[n] = (replacement){.name = name, .tensor = t, .order = n};
    return LLAVA_OK;
}

/** Room for every tensor of both files. */
static llava_status make_tables(adapter *a, llava_error *err) {
    size_t count = 0;
    for (size_t i = 0; i < LLAVA_COUNT(a->files); i++)
        if (a->files[i]) count += checkpoint_count(a->files[i]);
    a->modules = arena_array(a->memory, count, sizeof *a->modules);
    a->used = arena_array(a->memory, count, sizeof *a->used);
    a->replacements = arena_array(a->memory, count, sizeof *a->replacements);
    if (a->modules && a->used && a->replacements) return LLAVA_OK;
    return llava_fail_memory(err, count * sizeof *a->modules, "an adapter's tables");
}

static void put_leaf(lora_module *m, adapter_leaf leaf, const tensor *t) {
    switch (leaf) {
    case LEAF_LORA_A: m->a = t; break;
    case LEAF_LORA_B: m->b = t; break;
    case LEAF_EMBEDDING_A: m->embedding_a = t; break;
    case LEAF_EMBEDDING_B: m->embedding_b = t; break;
    case LEAF_MAGNITUDE: m->magnitude = t; break;
    case LEAF_PARAMETER:
    case LEAF_ORIGINAL: break;
    }
}

/** Names are sorted in the file, but leaves of one module need not be neighbours once the
 *  adapter's own name is gone: every leaf becomes an entry, equal modules are then joined. */
static llava_status read_modules(adapter *a, const adapter_config *c, llava_error *err) {
    for (size_t i = 0; i < checkpoint_count(a->files[0]); i++) {
        const checkpoint_tensor *t = checkpoint_at(a->files[0], i);
        adapter_leaf leaf;
        const char *name;
        LLAVA_TRY(adapter_split_key(t->name, a->memory, &leaf, &name, err));
        if (leaf == LEAF_ORIGINAL) continue;
        if (leaf == LEAF_PARAMETER) {
            LLAVA_TRY(add_replacement(a, name, t, err));
            continue;
        }
        a->modules[a->n_modules] = (lora_module){.module = name};
        put_leaf(&a->modules[a->n_modules++], leaf, &t->t);
    }
    if (a->n_modules) qsort(a->modules, a->n_modules, sizeof *a->modules, by_module);
    size_t n = 0;
    for (size_t i = 0; i < a->n_modules; i++) {
        lora_module *m = &a->modules[i], *last = n ? &a->modules[n - 1] : NULL;
        if (!last || strcmp(last->module, m->module) != 0) {
            a->modules[n++] = *m;
            continue;
        }
        if (m->a) last->a = m->a;
        if (m->b) last->b = m->b;
        if (m->embedding_a) last->embedding_a = m->embedding_a;
        if (m->embedding_b) last->embedding_b = m->embedding_b;
        if (m->magnitude) last->magnitude = m->magnitude;
    }
    a->n_modules = n;
    for (size_t i = 0; i < n; i++) LLAVA_TRY(check_module(c, &a->modules[i], err));
    return LLAVA_OK;
}

static llava_status read_trainables(adapter *a, llava_error *err) {
    const checkpoint *c = a->files[1];
    if (!c) return LLAVA_OK;
    bool doubled = false;
    for (size_t i = 0; i < checkpoint_count(c); i++)
        doubled = doubled || trainable_is_doubled(checkpoint_at(c, i)->name);
    for (size_t i = 0; i < checkpoint_count(c); i++) {
        const checkpoint_tensor *t = checkpoint_at(c, i);
        LLAVA_TRY(add_replacement(a, trainable_name(t->name, doubled, a->memory), t, err));
    }
    return LLAVA_OK;
}

/** A name that both files hold is the adapter's, which was read first: the reference attaches the
 *  adapter after the trainables. */
static void sort_replacements(adapter *a) {
    if (a->n_replacements == 0) return;
    qsort(a->replacements, a->n_replacements, sizeof *a->replacements, by_name_and_order);
    size_t n = 0;
    for (size_t i = 0; i < a->n_replacements; i++)
        if (n == 0 || by_name(&a->replacements[n - 1], &a->replacements[i]) != 0)
            a->replacements[n++] = a->replacements[i];
    a->n_replacements = n;
}

/* ---------------------------------------------------------------- opening */

static adapter *adapter_new(void) {
    adapter *a = array_new(1, sizeof *a);
    if (!a) return NULL;
    a->memory = arena_new();
    if (!a->memory) adapter_close(&a);
    return a;
}

void adapter_close(adapter **a) {
    if (!a || !*a) return;
    for (size_t i = 0; i < LLAVA_COUNT((*a)->files); i++) checkpoint_close(&(*a)->files[i]);
    arena_free(&(*a)->memory);
    free(*a);
    *a = NULL;
}

/** The first of names that exists in the directory. */
static llava_status open_first(adapter *a, const char *directory, const char *const *names,
                               checkpoint **out, llava_error *err) {
    for (const char *const *name = names; *name; name++) {
        const char *path = path_join(a->memory, directory, *name);
        if (!path) return llava_fail_memory(err, strlen(directory), "a path");
        if (path_is_file(path)) return checkpoint_open(path, out, err);
    }
    return LLAVA_OK;
}

static llava_status open_adapter(adapter *a, const char *directory, llava_error *err) {
    static const char *const weights[] = {"adapter_model.safetensors", "adapter_model.bin", NULL};
    static const char *const trainables[] = {"non_lora_trainables.bin",
                                             "non_lora_trainables.safetensors", NULL};
    const char *path = path_join(a->memory, directory, "adapter_config.json");
    if (!path) return llava_fail_memory(err, strlen(directory), "a path");
    LLAVA_TRY(open_first(a, directory, weights, &a->files[0], err));
    LLAVA_TRY(open_first(a, directory, trainables, &a->files[1], err));
    if (!a->files[0])
        return llava_fail(err, LLAVA_IO, "%s: expected %s or %s beside it", path, weights[0],
                          weights[1]);
    json_t *root = NULL;
    adapter_config config = {0};
    llava_status status = read_config(a, path, &root, &config, err);
    if (status == LLAVA_OK)
        status = adapter_patterns_new(config.rank_pattern, config.alpha_pattern, path,
                                      &config.patterns, err);
    if (status == LLAVA_OK) status = make_tables(a, err);
    if (status == LLAVA_OK) status = read_modules(a, &config, err);
    if (status == LLAVA_OK) status = read_trainables(a, err);
    adapter_patterns_free(&config.patterns);
    json_decref(root);
    sort_replacements(a);
    return status;
}

llava_status adapter_open(const char *directory, adapter **out, llava_error *err) {
    *out = adapter_new();
    if (!*out) return llava_fail_memory(err, sizeof **out, "an adapter");
    const llava_status status = open_adapter(*out, directory, err);
    if (status != LLAVA_OK) adapter_close(out);
    return status;
}

llava_status adapter_check_config(const char *path, llava_error *err) {
    json_t *root = NULL;
    adapter_config config = {0};
    adapter *a = adapter_new();
    if (!a) return llava_fail_memory(err, sizeof *a, "an adapter");
    llava_status status = read_config(a, path, &root, &config, err);
    if (status == LLAVA_OK)
        status = adapter_patterns_new(config.rank_pattern, config.alpha_pattern, path,
                                      &config.patterns, err);
    adapter_patterns_free(&config.patterns);
    json_decref(root);
    adapter_close(&a);
    return status;
}

static llava_status open_projector(adapter *a, const char *directory, const char *root,
                                   llava_error *err) {
    static const char *const names[] = {"mm_projector.bin", "mm_projector.safetensors", NULL};
    LLAVA_TRY(open_first(a, directory, names, &a->files[1], err));
    if (!a->files[1])
        return llava_fail(err, LLAVA_IO, "%s: expected %s or %s", directory, names[0], names[1]);
    LLAVA_TRY(make_tables(a, err));
    for (size_t i = 0; i < checkpoint_count(a->files[1]); i++) {
        const checkpoint_tensor *t = checkpoint_at(a->files[1], i);
        const char *name = projector_name(t->name, root, a->memory);
        if (name) LLAVA_TRY(add_replacement(a, name, t, err));
    }
    sort_replacements(a);
    a->what = "a projector";
    return LLAVA_OK;
}

llava_status projector_open(const char *directory, const char *root, adapter **out,
                            llava_error *err) {
    *out = adapter_new();
    if (!*out) return llava_fail_memory(err, sizeof **out, "a projector");
    const llava_status status = open_projector(*out, directory, root, err);
    if (status != LLAVA_OK) adapter_close(out);
    return status;
}

/* ---------------------------------------------------------------- looking up */

const lora_module *adapter_find(adapter *a, const char *module) {
    if (!a || a->n_modules == 0) return NULL;
    const lora_module key = {.module = module};
    const lora_module *found = bsearch(&key, a->modules, a->n_modules, sizeof key, by_module);
    if (found) a->used[found - a->modules] = true;
    return found && (found->a || found->embedding_a) ? found : NULL;
}

const checkpoint_tensor *adapter_replacement(adapter *a, const char *name) {
    if (!a || a->n_replacements == 0) return NULL;
    const replacement key = {.name = name};
    replacement *found = bsearch(&key, a->replacements, a->n_replacements, sizeof key, by_name);
    if (!found) return NULL;
    found->used = true;
    return found->tensor;
}

const char *adapter_unused(const adapter *a, bool (*is_extra)(const char *name)) {
    for (size_t i = 0; a && i < a->n_modules; i++)
        if (!a->used[i] && !is_extra(a->modules[i].module)) return a->modules[i].module;
    for (size_t i = 0; a && i < a->n_replacements; i++)
        if (!a->replacements[i].used && !is_extra(a->replacements[i].name))
            return a->replacements[i].name;
    return NULL;
}
