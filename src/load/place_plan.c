/* SPDX-License-Identifier: Apache-2.0
 *
 * The placement of a model that is bound but not loaded: its modules, the devices, the rule, and
 * whether it fits.
 */
#include <stdio.h>

#include "load_plan.h"

/* ---------------------------------------------------------------- options */

static llava_status check_device(const load_plan *plan, const char *option, const place_device *d) {
    const int n = device_cuda_count();
    char name[PLACE_NAME_SIZE];
    if (d->kind != PLACE_CUDA || d->index < n) return LLAVA_OK;
    place_device_name(d, name);
    if (n == 0)
        return llava_fail(
            plan->err, LLAVA_UNSUPPORTED,
            "%s: there is no %s: this build computes on the CPU; expected cpu or disk", option,
            name);
    return llava_fail(plan->err, LLAVA_DEVICE,
                      "%s: there is no %s: the devices are cuda:0 to cuda:%d", option, name, n - 1);
}

static llava_status check_devices(const load_plan *plan) {
    if (plan->map.rule == PLACE_WHOLE)
        LLAVA_TRY(check_device(plan, "device_map", &plan->map.whole));
    const char *module;
    json_t *value;
    json_object_foreach(plan->map.names, module, value) {
        const place_device d = place_device_of(value);
        LLAVA_TRY(check_device(plan, "device_map", &d));
    }
    for (int i = 0; i < plan->devices.count; i++)
        LLAVA_TRY(check_device(plan, "max_memory", &plan->devices.items[i]));
    return LLAVA_OK;
}

llava_status plan_read_map(load_plan *plan) {
    const llava_load_options *o = plan->options;
    LLAVA_TRY(place_parse_map(o->device_map, &plan->map, plan->err));
    if (o->max_memory) LLAVA_TRY(place_parse_memory(o->max_memory, &plan->devices, plan->err));
    plan->map_is_read = true;
    return check_devices(plan);
}

/* ---------------------------------------------------------------- devices */

static place_device measure(place_kind kind, int index) {
    place_device d = {.kind = kind, .index = index, .limit = PLACE_UNLIMITED, .measured = true};
    if (kind == PLACE_CPU) d.limit = device_host_free_bytes();
    if (kind == PLACE_CUDA && index < device_cuda_count()) d.limit = device_cuda_free_bytes(index);
    return d;
}

static void add_measured(place_table *table, place_kind kind, int index) {
    if (place_table_find(table, kind, index) < 0) place_table_add(table, measure(kind, index));
}

/** The devices of max_memory, else all there are; and those that the map names itself. */
static void list_devices(load_plan *plan) {
    place_table *table = &plan->devices;
    if (!table->given) {
        for (int i = 0; i < device_cuda_count() && i < PLACE_MAX_CUDA; i++)
            add_measured(table, PLACE_CUDA, i);
        add_measured(table, PLACE_CPU, 0);
    }
    if (plan->map.rule == PLACE_WHOLE)
        add_measured(table, plan->map.whole.kind, plan->map.whole.index);
    const char *module;
    json_t *value;
    json_object_foreach(plan->map.names, module, value) {
        const place_device d = place_device_of(value);
        add_measured(table, d.kind, d.index);
    }
    add_measured(table, PLACE_DISK, 0);
}

/* ---------------------------------------------------------------- modules */

static llava_status add_group(load_plan *plan, bind_group group) {
    const binder *b = &plan->bind;
    char name[512];
    for (size_t i = 0; i < b->count; i++) {
        const bind_entry *e = &b->entries[i];
        bool made;
        if (e->group != group || !e->found) continue;
        const uint64_t n_bytes = plan_loaded_bytes(plan, e, &made);
        snprintf(name, sizeof name, "%s%s", b->canonical[group], e->suffix);
        const int node =
            place_tree_add(&plan->modules, name, (int64_t)n_bytes, made, group == BIND_TOWER);
        if (node < 0) return llava_fail_memory(plan->err, sizeof(place_node), "a plan");
        if (e->dst == &plan->model->decoder.embed) plan->modules.tied[0] = node;
    }
    return LLAVA_OK;
}

/** A tied head has a module without a tensor of its own. */
static llava_status add_tied_head(load_plan *plan) {
    char name[512];
    place_tree *tree = &plan->modules;
    if (!plan->model->config->lm.tie_word_embeddings) {
        tree->tied[0] = -1;
        return LLAVA_OK;
    }
    snprintf(name, sizeof name, "%slm_head.weight", plan->bind.canonical[BIND_HEAD]);
    tree->tied[1] = place_tree_add(tree, name, 0, false, false);
    return tree->tied[1] < 0 ? llava_fail_memory(plan->err, sizeof(place_node), "a plan")
                             : LLAVA_OK;
}

/** Groups in the order in which the reference's classes define their modules. */
static llava_status list_modules(load_plan *plan) {
    static const bind_group original[] = {BIND_PICTURE, BIND_DECODER, BIND_TOWER, BIND_PROJECTOR,
                                          BIND_HEAD};
    static const bind_group native[] = {BIND_PICTURE, BIND_TOWER, BIND_PROJECTOR, BIND_DECODER,
                                        BIND_HEAD};
    const bind_group *order = plan->model->config->native ? native : original;
    place_tree_free(&plan->modules);
    LLAVA_TRY(place_tree_new(&plan->modules, plan->model->memory, plan->err));
    for (size_t i = 0; i < LLAVA_COUNT(original); i++) LLAVA_TRY(add_group(plan, order[i]));
    return add_tied_head(plan);
}

/* ---------------------------------------------------------------- fitting */

/** What a device has to hold. On the CPU a mapped weight is the file's page, which the system can
 *  drop again: it counts only against a limit that somebody has set. What is made new is in memory
 *  wherever the map puts it, if not on a GPU. */
static int64_t needed_bytes(const load_plan *plan, int index) {
    const place_device *d = &plan->devices.items[index];
    const place_load here = place_load_of(&plan->modules, index);
    if (d->kind != PLACE_CPU) return here.bytes;
    const int disk = place_table_find(&plan->devices, PLACE_DISK, 0);
    return (d->measured ? here.made_bytes : here.bytes) +
           place_load_of(&plan->modules, disk).made_bytes;
}

static llava_status check_fit(const load_plan *plan) {
    for (int i = 0; i < plan->devices.count; i++) {
        const place_device *d = &plan->devices.items[i];
        const int64_t needed = d->kind == PLACE_DISK ? 0 : needed_bytes(plan, i);
        char name[PLACE_NAME_SIZE];
        if (needed <= d->limit) continue;
        return llava_fail(plan->err, d->measured ? LLAVA_OUT_OF_MEMORY : LLAVA_BAD_ARGUMENT,
                          "device_map: %s has to hold %lld bytes of weights; %s %lld, %lld too few",
                          place_device_name(d, name), (long long)needed,
                          d->measured ? "free are" : "max_memory allows", (long long)d->limit,
                          (long long)(needed - d->limit));
    }
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- placing */

static bool is_quantized(const llava_load_options *o) { return o->load_8bit || o->load_4bit; }

static llava_status apply_rule(load_plan *plan) {
    place_table limits = plan->devices; /* what the rules make of them; the indices stay */
    const place_map *map = &plan->map;
    switch (map->rule) {
    case PLACE_WHOLE:
        place_tree_set(&plan->modules, 0,
                       place_table_find(&limits, map->whole.kind, map->whole.index));
        return LLAVA_OK;
    case PLACE_NAMED: return place_named(&plan->modules, map, &limits, plan->err);
    case PLACE_SEQUENTIAL: break;
    default: place_balance(&plan->modules, map->rule == PLACE_BALANCED_LOW_0, &limits);
    }
    if (is_quantized(plan->options)) place_leave_tenth(&limits);
    return place_infer(&plan->modules, &limits, plan->err);
}

llava_status plan_place(load_plan *plan) {
    LLAVA_TRY(list_modules(plan));
    list_devices(plan);
    LLAVA_TRY(apply_rule(plan));
    return check_fit(plan);
}
