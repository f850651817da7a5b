/* SPDX-License-Identifier: Apache-2.0
 *
 * The report's part about placement: devices, the map, bytes of every module.
 */
#include "report.h"

static const char *rule_name(place_rule rule) {
    switch (rule) {
    case PLACE_BALANCED: return "balanced";
    case PLACE_BALANCED_LOW_0: return "balanced_low_0";
    case PLACE_SEQUENTIAL: return "sequential";
    case PLACE_WHOLE: return "one device";
    case PLACE_NAMED: return "by name";
    }
    return "";
}

static json_t *device_name(const load_plan *plan, int index) {
    char name[PLACE_NAME_SIZE];
    if (index < 0) return json_null();
    return json_string(place_device_name(&plan->devices.items[index], name));
}

static llava_status add_devices(const load_plan *plan, json_t *list) {
    for (int i = 0; i < plan->devices.count; i++) {
        const place_device *d = &plan->devices.items[i];
        const place_load load = place_load_of(&plan->modules, i);
        const bool limited = d->kind != PLACE_DISK && d->limit != PLACE_UNLIMITED;
        json_t *limit = limited ? json_integer((json_int_t)d->limit) : json_null();
        const char *from = !limited ? "none" : d->measured ? "free" : "max_memory";
        LLAVA_TRY(report_append(list, json_pack("{s:o, s:o, s:s, s:I, s:I}", "device",
                                                device_name(plan, i), "limit_bytes", limit, "limit",
                                                from, "weights_bytes", (json_int_t)load.bytes,
                                                "made_bytes", (json_int_t)load.made_bytes)));
    }
    return LLAVA_OK;
}

/** One entry for each of the largest modules that lie on one device, as device_map would name
 *  them. */
static llava_status add_map(const load_plan *plan, int node, json_t *map) {
    const place_tree *tree = &plan->modules;
    const place_node *n = &tree->nodes[node];
    const int index = place_tree_device(tree, node);
    if (index >= 0) return report_set(map, n->name, device_name(plan, index));
    const int heads[2] = {n->first_tensor, n->first_child};
    for (int k = 0; k < 2; k++)
        for (int c = heads[k]; c >= 0; c = tree->nodes[c].next_sibling)
            LLAVA_TRY(add_map(plan, c, map));
    return LLAVA_OK;
}

/** Layers, modules without modules, and tensors that lie beside modules. */
static llava_status add_modules(const load_plan *plan, int node, json_t *list) {
    const place_tree *tree = &plan->modules;
    const place_node *n = &tree->nodes[node];
    if (n->is_tensor || n->is_layer || n->first_child < 0)
        return report_append(list, json_pack("{s:s, s:I, s:I, s:o}", "module", n->name, "bytes",
                                             (json_int_t)n->bytes, "made_bytes",
                                             (json_int_t)n->made_bytes, "device",
                                             device_name(plan, place_tree_device(tree, node))));
    const int heads[2] = {n->first_tensor, n->first_child};
    for (int k = 0; k < 2; k++)
        for (int c = heads[k]; c >= 0; c = tree->nodes[c].next_sibling)
            LLAVA_TRY(add_modules(plan, c, list));
    return LLAVA_OK;
}

llava_status report_placement(const load_plan *plan, json_t *report) {
    if (plan->modules.count == 0) return LLAVA_OK;
    json_t *devices = json_array(), *map = json_object(), *modules = json_array();
    llava_status status = devices && map && modules ? LLAVA_OK : LLAVA_OUT_OF_MEMORY;
    if (status == LLAVA_OK) status = add_devices(plan, devices);
    if (status == LLAVA_OK) status = add_map(plan, 0, map);
    if (status == LLAVA_OK) status = add_modules(plan, 0, modules);
    json_t *placement = status == LLAVA_OK
                            ? json_pack("{s:s, s:O, s:O, s:O}", "rule", rule_name(plan->map.rule),
                                        "devices", devices, "device_map", map, "modules", modules)
                            : NULL;
    json_decref(devices);
    json_decref(map);
    json_decref(modules);
    return status == LLAVA_OK ? report_set(report, "placement", placement) : status;
}
