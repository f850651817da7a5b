/* SPDX-License-Identifier: Apache-2.0
 *
 * Post-processors of tokenizer.json, for one sequence: what goes before and after the ids.
 */
#include "text/text_components.h"

#define WHAT      "tokenizer.json: post_processor"
#define MAX_ITEMS 256

static llava_status add_template(component_memory *memory, post_processor *p, post_template added,
                                 llava_error *err) {
    p->templates =
        component_grow(memory, p->templates, p->n_templates, &p->capacity, sizeof added, err);
    if (!p->templates) {
        p->n_templates = p->capacity = 0;
        return err ? err->code : LLAVA_UNSUPPORTED;
    }
    p->templates[p->n_templates++] = added;
    return LLAVA_OK;
}

static llava_status new_template(component_memory *memory, post_template *t, llava_error *err) {
    t->n_items = 0;
    t->items = arena_array(memory->memory, MAX_ITEMS, sizeof(template_item));
    return t->items ? LLAVA_OK : llava_fail_memory(err, MAX_ITEMS * sizeof(template_item), WHAT);
}

static llava_status add_item(post_template *t, int64_t id, llava_error *err) {
    if (id > INT32_MAX || id < -1)
        return llava_fail(err, LLAVA_MALFORMED, WHAT ": id %lld is out of range", (long long)id);
    if (t->n_items == MAX_ITEMS)
        return llava_fail(err, LLAVA_UNSUPPORTED, WHAT ": more than %d ids", MAX_ITEMS);
    t->items[t->n_items++].id = (int32_t)id;
    return LLAVA_OK;
}

static llava_status add_special(const json_t *specials, const json_t *item, post_template *t,
                                llava_error *err) {
    const char *name = json_string_value(json_object_get(item, "id"));
    const json_t *list = name ? json_object_get(json_object_get(specials, name), "ids") : NULL;
    if (!json_is_array(list))
        return llava_fail(err, LLAVA_MALFORMED,
                          WHAT ": TemplateProcessing: no ids for special token \"%.40s\"",
                          name ? name : "null");
    size_t index;
    const json_t *id;
    json_array_foreach(list, index, id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            return llava_fail(err, LLAVA_MALFORMED, WHAT ": an id is not a number");
        LLAVA_TRY(add_item(t, json_integer_value(id), err));
    }
    return LLAVA_OK;
}

static llava_status parse_template(component_memory *memory, const json_t *value, post_template *t,
                                   llava_error *err) {
    const json_t *single = json_object_get(value, "single");
    const json_t *specials = json_object_get(value, "special_tokens");
    LLAVA_TRY(new_template(memory, t, err));
    if (!json_is_array(single))
        return llava_fail(err, LLAVA_MALFORMED,
                          WHAT ": TemplateProcessing: expected an array \"single\", got %s",
                          json_kind(single));
    size_t index;
    const json_t *item;
    json_array_foreach(single, index, item) {
        const json_t *special = json_object_get(item, "SpecialToken");
        if (special)
            LLAVA_TRY(add_special(specials, special, t, err));
        else if (json_object_get(item, "Sequence"))
            LLAVA_TRY(add_item(t, -1, err));
        else
            return llava_fail(err, LLAVA_MALFORMED,
                              WHAT ": TemplateProcessing: item %zu is neither SpecialToken nor "
                                   "Sequence",
                              index);
    }
    return LLAVA_OK;
}

/* Bert and Roberta: "cls": ["<s>", 0], "sep": ["</s>", 2]. */
static llava_status parse_cls_sep(component_memory *memory, const json_t *value, post_template *t,
                                  llava_error *err) {
    const json_t *cls = json_array_get(json_object_get(value, "cls"), 1);
    const json_t *sep = json_array_get(json_object_get(value, "sep"), 1);
    if (!json_is_integer(cls) || !json_is_integer(sep))
        return llava_fail(err, LLAVA_MALFORMED,
                          WHAT ": expected \"cls\" and \"sep\" as [text, id]");
    LLAVA_TRY(new_template(memory, t, err));
    LLAVA_TRY(add_item(t, json_integer_value(cls), err));
    LLAVA_TRY(add_item(t, -1, err));
    return add_item(t, json_integer_value(sep), err);
}

static llava_status parse_nested(component_memory *memory, const json_t *value, int depth,
                                 post_processor *out, llava_error *err) {
    const char *type;
    post_template t;
    LLAVA_TRY(component_type(value, WHAT, &type, err));
    if (!strcmp(type, "ByteLevel")) return LLAVA_OK; /* concerns offsets only */
    if (!strcmp(type, "TemplateProcessing")) {
        LLAVA_TRY(parse_template(memory, value, &t, err));
        return add_template(memory, out, t, err);
    }
    if (!strcmp(type, "RobertaProcessing") || !strcmp(type, "BertProcessing")) {
        LLAVA_TRY(parse_cls_sep(memory, value, &t, err));
        return add_template(memory, out, t, err);
    }
    const json_t *members = json_object_get(value, "processors");
    if (strcmp(type, "Sequence") != 0)
        return llava_fail(err, LLAVA_UNSUPPORTED, WHAT " of type \"%.40s\" is not supported", type);
    if (!json_is_array(members) || depth >= COMPONENT_MAX_DEPTH)
        return llava_fail(err, LLAVA_MALFORMED,
                          WHAT ": Sequence: expected an array \"processors\" nested at most %d "
                               "deep, got %s",
                          COMPONENT_MAX_DEPTH, json_kind(members));
    size_t index;
    const json_t *member;
    json_array_foreach(members, index, member)
        LLAVA_TRY(parse_nested(memory, member, depth + 1, out, err));
    return LLAVA_OK;
}

llava_status post_processor_parse(component_memory *memory, const json_t *value,
                                  post_processor *out, llava_error *err) {
    memory->what = WHAT;
    *out = (post_processor){0};
    if (!value || json_is_null(value)) return LLAVA_OK;
    return parse_nested(memory, value, 0, out, err);
}

llava_status post_processor_set(component_memory *memory, post_processor *p, int32_t bos,
                                int32_t eos, llava_error *err) {
    post_template t;
    *p = (post_processor){0};
    LLAVA_TRY(new_template(memory, &t, err));
    if (bos >= 0) LLAVA_TRY(add_item(&t, bos, err));
    LLAVA_TRY(add_item(&t, -1, err));
    if (eos >= 0) LLAVA_TRY(add_item(&t, eos, err));
    return add_template(memory, p, t, err);
}

static bool run_template(const post_template *t, ids *list, size_t from) {
    ids wrapped = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < t->n_items; i++)
        ok = t->items[i].id < 0 ? ids_append(&wrapped, list->data + from, list->count - from)
                                : ids_append(&wrapped, &t->items[i].id, 1);
    if (ok) {
        list->count = from;
        ok = ids_append(list, wrapped.data, wrapped.count);
    }
    ids_free(&wrapped);
    return ok;
}

bool post_processor_run(const post_processor *p, ids *list, size_t from) {
    for (size_t i = 0; i < p->n_templates; i++)
        if (!run_template(&p->templates[i], list, from)) return false;
    return true;
}
