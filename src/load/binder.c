/* SPDX-License-Identifier: Apache-2.0
 *
 * The list of tensors a model needs, and its look-up in the weight files.
 */
#include <stdio.h>
#include <stdlib.h>

#include "binder.h"
#include "quant_settings.h"

#define NAME_SIZE    320
#define NAMES_LISTED 5

void binder_free(binder *b) {
    free(b->entries);
    *b = (binder){0};
}

static bind_entry *binder_push(binder *b) {
    if (b->status != LLAVA_OK) return NULL;
    if (b->count == b->capacity) {
        const size_t capacity = b->capacity ? 2 * b->capacity : 256;
        bind_entry *entries = realloc(b->entries, capacity * sizeof *entries);
        if (!entries) {
            b->status = LLAVA_OUT_OF_MEMORY;
            return NULL;
        }
        b->entries = entries;
        b->capacity = capacity;
    }
    return &b->entries[b->count++];
}

void bind_shape(binder *b, const bind_entry *entry, const char *format, ...) {
    char name[NAME_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    bind_entry *e = binder_push(b);
    if (!e) return;
    *e = *entry;
    e->suffix = arena_strdup(b->memory, name);
    if (!e->suffix) b->status = LLAVA_OUT_OF_MEMORY;
}

void bind_matrix(binder *b, bind_group group, weight *dst, int64_t n_rows, int64_t n_cols,
                 const char *name) {
    const bind_entry entry = {.group = group, .dst = dst, .n_dims = 2, .shape = {n_rows, n_cols}};
    bind_shape(b, &entry, "%s", name);
}

void bind_linear_matrix(binder *b, bind_group group, weight *dst, int64_t n_rows, int64_t n_cols,
                        const char *name) {
    const bind_entry entry = {
        .group = group, .dst = dst, .n_dims = 2, .shape = {n_rows, n_cols}, .linear = true};
    bind_shape(b, &entry, "%s", name);
}

void bind_vector(binder *b, bind_group group, weight *dst, int64_t size, const char *name) {
    const bind_entry entry = {.group = group, .dst = dst, .n_dims = 1, .shape = {size}};
    bind_shape(b, &entry, "%s", name);
}

static const checkpoint_tensor *look_up(const binder *b, const bind_entry *e, const checkpoint *c,
                                        const char *prefix, bool with_overlay) {
    char name[2 * NAME_SIZE];
    snprintf(name, sizeof name, "%s%s", b->canonical[e->group], e->suffix);
    const checkpoint_tensor *replaced = with_overlay ? adapter_replacement(b->overlay, name) : NULL;
    if (replaced) return replaced;
    snprintf(name, sizeof name, "%s%s", prefix, e->suffix);
    return checkpoint_find(c, name);
}

/** The low-rank change of a weight: its module is its name without ".weight". */
static const lora_module *look_up_lora(const binder *b, const bind_entry *e) {
    static const char leaf[] = ".weight";
    char name[2 * NAME_SIZE];
    const int size = snprintf(name, sizeof name, "%s%s", b->canonical[e->group], e->suffix);
    const int stem = size - (int)strlen(leaf);
    if (stem <= 0 || strcmp(name + stem, leaf) != 0) return NULL;
    name[stem] = '\0';
    return adapter_find(b->overlay, name);
}

/** Adds a name to a comma list of at most five. */
static void list_name(char *text, size_t size, size_t index, const char *prefix,
                      const char *suffix) {
    if (!text || index >= NAMES_LISTED) return;
    const size_t used = strlen(text);
    snprintf(text + used, size - used, "%s%s%s", index ? ", " : "", prefix, suffix);
}

void binder_present(const binder *b, bind_group group, const char *prefix, bool with_overlay,
                    presence *found) {
    *found = (presence){0};
    size_t absent = 0;
    for (size_t i = 0; i < b->count; i++) {
        const bind_entry *e = &b->entries[i];
        if (e->group != group || e->optional) continue;
        found->total++;
        if (look_up(b, e, b->source[group], prefix, with_overlay))
            found->present++;
        else
            list_name(found->missing, sizeof found->missing, absent++, prefix, e->suffix);
    }
}

bool bind_is_known_extra(const char *name) {
    static const char *const parts[] = {
        ".rotary_emb.inv_freq", "position_ids",        "vision_resampler.",
        "post_layernorm.",      "text_model.",         "logit_scale",
        "logit_bias",           "_projection.weight",  "vision_model.head.",
        "vision_tower.head.",   ".weight.absmax",      ".weight.quant_map",
        ".weight.nested_",      ".weight.quant_state", ".SCB",
        ".weight_format"};
    for (size_t i = 0; i < LLAVA_COUNT(parts); i++)
        if (strstr(name, parts[i])) return true;
    return false;
}

static bool shape_fits(const bind_entry *e, const tensor *t) {
    /* vectors may be written as one row */
    const int skip = e->n_dims == 1 && t->n_dims == 2 && t->shape[0] == 1 ? 1 : 0;
    if (t->n_dims - skip != e->n_dims) return false;
    for (int i = 0; i < e->n_dims; i++) {
        const int64_t side = t->shape[i + skip];
        if (e->shape[i] == BIND_ANY ? side < 1 : side != e->shape[i]) return false;
    }
    return true;
}

static llava_status fail_shape(const binder *b, const bind_entry *e, llava_error *err) {
    tensor wanted = {.n_dims = e->n_dims};
    memcpy(wanted.shape, e->shape, sizeof e->shape);
    char expected[96], got[96];
    tensor_shape_text(&wanted, expected, sizeof expected);
    for (char *any = strstr(expected, "-1"); any; any = strstr(any, "-1")) {
        *any = '*';
        memmove(any + 1, any + 2, strlen(any + 2) + 1);
    }
    return llava_fail(err, LLAVA_MALFORMED, "%s: tensor %s%s: expected shape %s, got %s",
                      checkpoint_path(b->source[e->group]), b->prefix[e->group], e->suffix,
                      expected, tensor_shape_text(&e->found->t, got, sizeof got));
}

/** Points dst at the tensor, or at its range of rows. */
static llava_status point(const binder *b, bind_entry *e, llava_error *err) {
    const tensor *t = &e->found->t;
    bool taken = false;
    if (e->linear) LLAVA_TRY(bind_quantized(b, e, &taken, err));
    if (taken) return LLAVA_OK;
    if (!shape_fits(e, t)) return fail_shape(b, e, err);
    if (!dtype_is_float(t->dtype))
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "%s: tensor %s: expected floating-point weights, got %s",
                          checkpoint_path(b->source[e->group]), e->found->name, e->found->stored);
    const int64_t all_rows = e->n_dims == 1 ? 1 : t->shape[0];
    const int64_t n_cols = tensor_count(t) / all_rows;
    const size_t row_bytes = (size_t)n_cols * dtype_size(t->dtype);
    *e->dst = (weight){.dtype = t->dtype,
                       .n_rows = e->n_rows ? e->n_rows : all_rows,
                       .n_cols = n_cols,
                       .data = (const uint8_t *)t->data + (size_t)e->first_row * row_bytes};
    return LLAVA_OK;
}

static llava_status fail_missing(const binder *b, size_t n_missing, const bind_entry *first,
                                 const char *names, llava_error *err) {
    char more[48] = "";
    if (n_missing > NAMES_LISTED)
        snprintf(more, sizeof more, " and %zu more", n_missing - NAMES_LISTED);
    return llava_fail(err, LLAVA_MALFORMED, "%s: %zu tensor%s missing: %s%s",
                      checkpoint_path(b->source[first->group]), n_missing,
                      n_missing == 1 ? " is" : "s are", names, more);
}

llava_status binder_resolve(binder *b, llava_error *err) {
    if (b->status != LLAVA_OK) return llava_fail(err, b->status, "out of memory for tensor names");
    char names[LLAVA_ERROR_SIZE] = "";
    size_t n_missing = 0;
    const bind_entry *first = NULL;
    for (size_t i = 0; i < b->count; i++) {
        bind_entry *e = &b->entries[i];
        e->found = look_up(b, e, b->source[e->group], b->prefix[e->group], true);
        e->lora = e->found ? look_up_lora(b, e) : NULL;
        if (e->found || e->optional) continue;
        if (!first) first = e;
        list_name(names, sizeof names, n_missing++, b->prefix[e->group], e->suffix);
    }
    if (first) return fail_missing(b, n_missing, first, names, err);
    for (size_t i = 0; i < b->count; i++)
        if (b->entries[i].found) LLAVA_TRY(point(b, &b->entries[i], err));
    return LLAVA_OK;
}
