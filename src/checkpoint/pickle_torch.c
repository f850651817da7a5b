/* SPDX-License-Identifier: Apache-2.0
 *
 * What torch's globals mean: storages by persistent id, tensors as strided views of them.
 */
#include "pickle_vm.h"

static const pickle_value *argument(const pickle_value *arguments, size_t index, pickle_kind kind) {
    if (index >= arguments->as.list.count) return NULL;
    const pickle_value *value = arguments->as.list.items[index];
    return value->kind == kind ? value : NULL;
}

static llava_status inconsistent(pickle_machine *m, const char *problem) {
    return llava_refuse(m->err, LLAVA_MALFORMED, LLAVA_REFUSAL_INCONSISTENT,
                        "%s: inconsistent tensor: %s", m->in->what, problem);
}

/* ---------------------------------------------------------------- storages */

static llava_status storage_view(pickle_machine *m, const pickle_value *id, pickle_storage *s) {
    if (id->as.list.count < 6 || id->as.list.items[5]->kind == PICKLE_NONE) return LLAVA_OK;
    const pickle_value *view = argument(id, 5, PICKLE_SEQUENCE);
    const pickle_value *offset = view ? argument(view, 1, PICKLE_INT) : NULL;
    const pickle_value *size = view ? argument(view, 2, PICKLE_INT) : NULL;
    if (!offset || !size) return pickle_fail(m, "a storage's view is not (key, offset, size)");
    s->view_offset = offset->as.integer;
    s->numel = size->as.integer;
    int64_t end;
    if (s->view_offset < 0 || s->numel < 0 ||
        __builtin_add_overflow(s->view_offset, s->numel, &end) || end > s->root_numel)
        return inconsistent(m, "a storage view outside its storage");
    return LLAVA_OK;
}

static llava_status remember(pickle_machine *m, pickle_storages *list, pickle_storage *s) {
    if (list->count == list->capacity) {
        const size_t capacity = list->capacity ? 2 * list->capacity : 64;
        pickle_storage **items = arena_array(m->in->memory, capacity, sizeof *items);
        if (!items) return llava_fail_memory(m->err, capacity * sizeof *items, m->in->what);
        if (list->count) memcpy(items, list->items, list->count * sizeof *items);
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = s;
    return LLAVA_OK;
}

llava_status pickle_storage_from_id(pickle_machine *m, const pickle_value *id,
                                    pickle_value **result) {
    if (id->kind != PICKLE_SEQUENCE) return pickle_fail(m, "a persistent id that is not a tuple");
    const pickle_value *tag = argument(id, 0, PICKLE_STRING);
    const pickle_value *class = argument(id, 1, PICKLE_GLOBAL);
    const pickle_value *key = argument(id, 2, PICKLE_STRING);
    const pickle_value *numel = argument(id, 4, PICKLE_INT);
    if (!tag || strcmp(tag->as.string.data, "storage") != 0 || !class || !key || !numel ||
        !class->as.global->is_storage)
        return pickle_fail(m, "a persistent id that is not a storage");
    if (numel->as.integer < 0) return inconsistent(m, "a storage of fewer than zero elements");
    LLAVA_TRY(pickle_new(m, PICKLE_STORAGE, result));
    pickle_storage *s = arena_alloc(m->in->memory, sizeof *s);
    if (!s) return llava_fail_memory(m->err, sizeof *s, m->in->what);
    *s = (pickle_storage){.key = key->as.string.data,
                          .dtype = class->as.global->dtype,
                          .numel = numel->as.integer,
                          .root_numel = numel->as.integer};
    (*result)->as.storage = s;
    LLAVA_TRY(storage_view(m, id, s));
    return m->in->storages ? remember(m, m->in->storages, s) : LLAVA_OK;
}

/* ---------------------------------------------------------------- tensors */

static llava_status read_geometry(pickle_machine *m, const pickle_value *arguments,
                                  pickle_tensor *t) {
    const pickle_value *offset = argument(arguments, 1, PICKLE_INT);
    const pickle_value *shape = argument(arguments, 2, PICKLE_SEQUENCE);
    const pickle_value *stride = argument(arguments, 3, PICKLE_SEQUENCE);
    if (!offset || !shape || !stride)
        return pickle_fail(m, "a tensor without offset, size or stride");
    if (shape->as.list.count != stride->as.list.count)
        return inconsistent(m, "as many strides as sizes are needed");
    if (shape->as.list.count > TENSOR_MAX_DIMS)
        return llava_refuse(m->err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_LIMIT,
                            "%s: a tensor of %zu dimensions, at most %d", m->in->what,
                            shape->as.list.count, TENSOR_MAX_DIMS);
    t->offset = offset->as.integer;
    t->n_dims = (int)shape->as.list.count;
    for (int i = 0; i < t->n_dims; i++) {
        const pickle_value *size = argument(shape, (size_t)i, PICKLE_INT);
        const pickle_value *step = argument(stride, (size_t)i, PICKLE_INT);
        if (!size || !step) return pickle_fail(m, "a size or stride that is not an integer");
        t->shape[i] = size->as.integer;
        t->stride[i] = step->as.integer;
        if (t->shape[i] < 0 || t->stride[i] < 0)
            return inconsistent(m, "a size or stride below zero");
    }
    return t->offset < 0 ? inconsistent(m, "an offset below zero") : LLAVA_OK;
}

/** offset + sum((size - 1) * stride) must be an element of the storage. */
static llava_status check_bounds(pickle_machine *m, const pickle_tensor *t) {
    const tensor flat = {.n_dims = t->n_dims,
                         .shape = {t->shape[0], t->shape[1], t->shape[2], t->shape[3], t->shape[4],
                                   t->shape[5], t->shape[6], t->shape[7]}};
    const int64_t count = tensor_count(&flat);
    int64_t n_bytes;
    if (count < 0 || __builtin_mul_overflow(count, (int64_t)dtype_size(t->dtype), &n_bytes))
        return llava_refuse(m->err, LLAVA_MALFORMED, LLAVA_REFUSAL_OVERFLOW,
                            "%s: overflow in a tensor's sizes", m->in->what);
    if (count == 0) return LLAVA_OK;
    int64_t last = t->offset;
    for (int i = 0; i < t->n_dims; i++) {
        int64_t reach;
        if (__builtin_mul_overflow(t->shape[i] - 1, t->stride[i], &reach) ||
            __builtin_add_overflow(last, reach, &last))
            return llava_refuse(m->err, LLAVA_MALFORMED, LLAVA_REFUSAL_OVERFLOW,
                                "%s: overflow in a tensor's strides", m->in->what);
    }
    int64_t numel = t->storage->numel;
    if (t->storage->dtype == LLAVA_DTYPE_DEFAULT) numel /= (int64_t)dtype_size(t->dtype);
    if (last >= numel) return inconsistent(m, "its last element lies behind its storage");
    return LLAVA_OK;
}

static llava_status rebuild_tensor(pickle_machine *m, const pickle_global *global,
                                   const pickle_value *arguments, pickle_value **result) {
    const pickle_value *storage = argument(arguments, 0, PICKLE_STORAGE);
    if (!storage) return pickle_fail(m, "a tensor without a storage");
    pickle_tensor *t = arena_alloc(m->in->memory, sizeof *t);
    if (!t) return llava_fail_memory(m->err, sizeof *t, m->in->what);
    t->storage = storage->as.storage;
    t->dtype = t->storage->dtype;
    if (global->call == CALL_REBUILD_TENSOR_V3) {
        const pickle_value *dtype = argument(arguments, 6, PICKLE_GLOBAL);
        if (!dtype || dtype->as.global->is_storage || dtype->as.global->call != CALL_NONE)
            return pickle_fail(m, "a tensor without a dtype");
        t->dtype = dtype->as.global->dtype;
    }
    if (t->dtype == LLAVA_DTYPE_DEFAULT) return pickle_fail(m, "a tensor of an untyped storage");
    LLAVA_TRY(read_geometry(m, arguments, t));
    LLAVA_TRY(check_bounds(m, t));
    LLAVA_TRY(pickle_new(m, PICKLE_TENSOR, result));
    (*result)->as.tensor = t;
    return LLAVA_OK;
}

static llava_status rebuild_parameter(pickle_machine *m, const pickle_value *arguments,
                                      pickle_value **result) {
    if (!argument(arguments, 0, PICKLE_TENSOR))
        return pickle_fail(m, "a parameter without a tensor");
    *result = arguments->as.list.items[0];
    return LLAVA_OK;
}

static llava_status make_size(pickle_machine *m, const pickle_value *arguments,
                              pickle_value **result) {
    if (!argument(arguments, 0, PICKLE_SEQUENCE)) return pickle_fail(m, "a size without numbers");
    *result = arguments->as.list.items[0];
    return LLAVA_OK;
}

llava_status pickle_apply(pickle_machine *m, const pickle_global *global,
                          const pickle_value *arguments, pickle_value **result) {
    switch (global->call) {
    case CALL_ORDERED_DICT:
        if (arguments->as.list.count != 0)
            return llava_refuse(m->err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_UNSUPPORTED,
                                "%s: an OrderedDict made from %zu arguments, expected none",
                                m->in->what, arguments->as.list.count);
        return pickle_new(m, PICKLE_DICT, result);
    case CALL_REBUILD_TENSOR:
    case CALL_REBUILD_TENSOR_V2:
    case CALL_REBUILD_TENSOR_V3: return rebuild_tensor(m, global, arguments, result);
    case CALL_REBUILD_PARAMETER: return rebuild_parameter(m, arguments, result);
    case CALL_SIZE: return make_size(m, arguments, result);
    case CALL_DEVICE: return pickle_new(m, PICKLE_NONE, result);
    case CALL_NONE: break;
    }
    return llava_refuse(m->err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_UNSUPPORTED,
                        "%s: the pickle calls %s.%s, which is not a function "
                        "of state dicts",
                        m->in->what, global->module, global->name);
}
