/* SPDX-License-Identifier: Apache-2.0
 *
 * Opcodes are those of Python's pickle protocols 2 to 5; the subset and the allowed globals are
 * those torch's own weights-only reader needs for state dicts.
 */
#include <stdlib.h>

#include "pickle_vm.h"

static const pickle_global globals[] = {
    {"collections", "OrderedDict", CALL_ORDERED_DICT, false, LLAVA_DTYPE_DEFAULT},
    {"torch._utils", "_rebuild_tensor", CALL_REBUILD_TENSOR, false, LLAVA_DTYPE_DEFAULT},
    {"torch._utils", "_rebuild_tensor_v2", CALL_REBUILD_TENSOR_V2, false, LLAVA_DTYPE_DEFAULT},
    {"torch._utils", "_rebuild_tensor_v3", CALL_REBUILD_TENSOR_V3, false, LLAVA_DTYPE_DEFAULT},
    {"torch._utils", "_rebuild_parameter", CALL_REBUILD_PARAMETER, false, LLAVA_DTYPE_DEFAULT},
    {"torch", "Size", CALL_SIZE, false, LLAVA_DTYPE_DEFAULT},
    {"torch", "device", CALL_DEVICE, false, LLAVA_DTYPE_DEFAULT},
    {"torch", "DoubleStorage", CALL_NONE, true, LLAVA_DTYPE_F64},
    {"torch", "FloatStorage", CALL_NONE, true, LLAVA_DTYPE_F32},
    {"torch", "HalfStorage", CALL_NONE, true, LLAVA_DTYPE_F16},
    {"torch", "BFloat16Storage", CALL_NONE, true, LLAVA_DTYPE_BF16},
    {"torch", "LongStorage", CALL_NONE, true, LLAVA_DTYPE_I64},
    {"torch", "IntStorage", CALL_NONE, true, LLAVA_DTYPE_I32},
    {"torch", "ShortStorage", CALL_NONE, true, LLAVA_DTYPE_I16},
    {"torch", "CharStorage", CALL_NONE, true, LLAVA_DTYPE_I8},
    {"torch", "ByteStorage", CALL_NONE, true, LLAVA_DTYPE_U8},
    {"torch", "BoolStorage", CALL_NONE, true, LLAVA_DTYPE_BOOL},
    {"torch", "UntypedStorage", CALL_NONE, true, LLAVA_DTYPE_DEFAULT},
    {"torch.storage", "UntypedStorage", CALL_NONE, true, LLAVA_DTYPE_DEFAULT},
    {"torch", "float64", CALL_NONE, false, LLAVA_DTYPE_F64},
    {"torch", "float32", CALL_NONE, false, LLAVA_DTYPE_F32},
    {"torch", "float16", CALL_NONE, false, LLAVA_DTYPE_F16},
    {"torch", "bfloat16", CALL_NONE, false, LLAVA_DTYPE_BF16},
    {"torch", "int64", CALL_NONE, false, LLAVA_DTYPE_I64},
    {"torch", "int32", CALL_NONE, false, LLAVA_DTYPE_I32},
    {"torch", "int16", CALL_NONE, false, LLAVA_DTYPE_I16},
    {"torch", "int8", CALL_NONE, false, LLAVA_DTYPE_I8},
    {"torch", "uint8", CALL_NONE, false, LLAVA_DTYPE_U8},
    {"torch", "bool", CALL_NONE, false, LLAVA_DTYPE_BOOL},
};

llava_status pickle_find_global(pickle_machine *m, const char *module, const char *name,
                                pickle_value **value) {
    for (size_t i = 0; i < LLAVA_COUNT(globals); i++) {
        if (strcmp(globals[i].module, module) != 0 || strcmp(globals[i].name, name) != 0) continue;
        LLAVA_TRY(pickle_new(m, PICKLE_GLOBAL, value));
        (*value)->as.global = &globals[i];
        return LLAVA_OK;
    }
    const size_t size = strlen(name);
    if (strncmp(module, "torch", 5) == 0 && size > 7 && strcmp(name + size - 7, "Storage") == 0)
        return llava_refuse(m->err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_UNSUPPORTED,
                            "%s: storage class %.80s.%.80s is not supported", m->in->what, module,
                            name);
    return llava_refuse(m->err, LLAVA_MALFORMED, LLAVA_REFUSAL_FORBIDDEN,
                        "%s: forbidden: the pickle names %.80s.%.80s, which no state dict needs",
                        m->in->what, module, name);
}

llava_status pickle_fail(pickle_machine *m, const char *problem) {
    return llava_refuse(m->err, LLAVA_MALFORMED, LLAVA_REFUSAL_CORRUPT,
                        "%s: broken pickle at byte %zu: %s", m->in->what, m->position, problem);
}

llava_status pickle_new(pickle_machine *m, pickle_kind kind, pickle_value **value) {
    if (++m->n_values > PICKLE_MAX_VALUES)
        return llava_refuse(m->err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_LIMIT,
                            "%s: limit: more than %d values in one pickle", m->in->what,
                            PICKLE_MAX_VALUES);
    *value = arena_alloc(m->in->memory, sizeof **value);
    if (!*value) return llava_fail_memory(m->err, sizeof **value, m->in->what);
    (*value)->kind = kind;
    return LLAVA_OK;
}

/** Appends to a sequence or dict; capacity doubles, so the arena holds at most twice the items. */
static llava_status list_append(pickle_machine *m, pickle_value *list, pickle_value *item) {
    if (list->as.list.count == list->as.list.capacity) {
        const size_t capacity = list->as.list.capacity ? 2 * list->as.list.capacity : 8;
        pickle_value **items = arena_array(m->in->memory, capacity, sizeof *items);
        if (!items) return llava_fail_memory(m->err, capacity * sizeof *items, m->in->what);
        if (list->as.list.count)
            memcpy(items, list->as.list.items, list->as.list.count * sizeof *items);
        list->as.list.items = items;
        list->as.list.capacity = capacity;
    }
    list->as.list.items[list->as.list.count++] = item;
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- stack and memo */

static bool grow(void **data, size_t *capacity, size_t needed, size_t element) {
    if (needed <= *capacity) return true;
    size_t wanted = *capacity ? *capacity : 64;
    while (wanted < needed)
        if (!size_mul(wanted, 2, &wanted)) return false;
    void *bigger = reallocarray(*data, wanted, element);
    if (!bigger) return false;
    memset((uint8_t *)bigger + *capacity * element, 0, (wanted - *capacity) * element);
    *data = bigger;
    *capacity = wanted;
    return true;
}

static llava_status push(pickle_machine *m, pickle_value *value) {
    if (!grow((void **)&m->stack, &m->stack_capacity, m->depth + 1, sizeof *m->stack))
        return llava_fail_memory(m->err, m->depth * sizeof *m->stack, m->in->what);
    m->stack[m->depth++] = value;
    return LLAVA_OK;
}

static llava_status pop(pickle_machine *m, pickle_value **value) {
    if (m->depth == 0 || m->stack[m->depth - 1]->kind == PICKLE_MARK)
        return pickle_fail(m, "the stack is empty");
    *value = m->stack[--m->depth];
    return LLAVA_OK;
}

static llava_status top(pickle_machine *m, pickle_value **value) {
    LLAVA_TRY(pop(m, value));
    m->depth++;
    return LLAVA_OK;
}

/** Index of the first value above the topmost mark. */
static llava_status find_mark(pickle_machine *m, size_t *first) {
    for (size_t i = m->depth; i > 0; i--) {
        if (m->stack[i - 1]->kind != PICKLE_MARK) continue;
        *first = i;
        return LLAVA_OK;
    }
    return pickle_fail(m, "no mark on the stack");
}

static llava_status memo_put(pickle_machine *m, size_t slot) {
    pickle_value *value;
    LLAVA_TRY(top(m, &value));
    if (slot > PICKLE_MAX_VALUES) return pickle_fail(m, "a memo slot beyond any sane file");
    if (!grow((void **)&m->memo, &m->memo_capacity, slot + 1, sizeof *m->memo))
        return llava_fail_memory(m->err, (slot + 1) * sizeof *m->memo, m->in->what);
    m->memo[slot] = value;
    m->memo_next = slot + 1 > m->memo_next ? slot + 1 : m->memo_next;
    return LLAVA_OK;
}

static llava_status memo_get(pickle_machine *m, size_t slot) {
    if (slot >= m->memo_capacity || !m->memo[slot])
        return pickle_fail(m, "a memo slot that was never stored");
    return push(m, m->memo[slot]);
}

/* ---------------------------------------------------------------- arguments of opcodes */

static llava_status take(pickle_machine *m, size_t size, const uint8_t **data) {
    if (size > m->in->size - m->position)
        return llava_refuse(m->err, LLAVA_MALFORMED, LLAVA_REFUSAL_TRUNCATED,
                            "%s: truncated pickle: %zu bytes wanted at byte %zu of %zu",
                            m->in->what, size, m->position, m->in->size);
    *data = m->in->data + m->position;
    m->position += size;
    return LLAVA_OK;
}

/** Unsigned little-endian of 1 to 8 bytes. */
static llava_status take_number(pickle_machine *m, size_t size, uint64_t *number) {
    const uint8_t *data;
    LLAVA_TRY(take(m, size, &data));
    *number = 0;
    for (size_t i = 0; i < size; i++) *number |= (uint64_t)data[i] << (8 * i);
    return LLAVA_OK;
}

static llava_status push_integer(pickle_machine *m, int64_t integer) {
    pickle_value *value;
    LLAVA_TRY(pickle_new(m, PICKLE_INT, &value));
    value->as.integer = integer;
    return push(m, value);
}

static llava_status push_flag(pickle_machine *m, bool flag) {
    pickle_value *value;
    LLAVA_TRY(pickle_new(m, PICKLE_BOOL, &value));
    value->as.flag = flag;
    return push(m, value);
}

static llava_status push_kind(pickle_machine *m, pickle_kind kind) {
    pickle_value *value;
    LLAVA_TRY(pickle_new(m, kind, &value));
    return push(m, value);
}

/** A string whose length stands in `width` bytes before it. */
static llava_status push_string(pickle_machine *m, size_t width) {
    uint64_t size;
    const uint8_t *data;
    LLAVA_TRY(take_number(m, width, &size));
    LLAVA_TRY(take(m, size, &data));
    pickle_value *value;
    LLAVA_TRY(pickle_new(m, PICKLE_STRING, &value));
    value->as.string.data = arena_strndup(m->in->memory, (const char *)data, size);
    value->as.string.size = size;
    if (!value->as.string.data) return llava_fail_memory(m->err, size, m->in->what);
    return push(m, value);
}

/** LONG1: two's complement, little-endian, as many bytes as needed. */
static llava_status push_long(pickle_machine *m) {
    uint64_t size, number;
    LLAVA_TRY(take_number(m, 1, &size));
    if (size > 8)
        return llava_refuse(m->err, LLAVA_MALFORMED, LLAVA_REFUSAL_OVERFLOW,
                            "%s: overflow: an integer of %zu bytes at byte %zu, at most 8 are used",
                            m->in->what, (size_t)size, m->position);
    LLAVA_TRY(take_number(m, size, &number));
    if (size > 0 && size < 8 && number >> (8 * size - 1)) number |= ~(uint64_t)0 << (8 * size);
    return push_integer(m, (int64_t)number);
}

static llava_status push_real(pickle_machine *m) {
    const uint8_t *data;
    LLAVA_TRY(take(m, 8, &data));
    uint64_t bits = 0;
    for (int i = 0; i < 8; i++) bits = bits << 8 | data[i];
    pickle_value *value;
    LLAVA_TRY(pickle_new(m, PICKLE_FLOAT, &value));
    memcpy(&value->as.real, &bits, sizeof bits);
    return push(m, value);
}

/** GLOBAL: two lines of text. */
static llava_status push_global(pickle_machine *m) {
    const char *names[2];
    for (int i = 0; i < 2; i++) {
        const uint8_t *start = m->in->data + m->position;
        const uint8_t *end = memchr(start, '\n', m->in->size - m->position);
        if (!end) return pickle_fail(m, "truncated inside a global's name");
        names[i] = arena_strndup(m->in->memory, (const char *)start, (size_t)(end - start));
        if (!names[i]) return llava_fail_memory(m->err, (size_t)(end - start), m->in->what);
        m->position += (size_t)(end - start) + 1;
    }
    pickle_value *value;
    LLAVA_TRY(pickle_find_global(m, names[0], names[1], &value));
    return push(m, value);
}

static llava_status push_stack_global(pickle_machine *m) {
    pickle_value *name, *module, *value;
    LLAVA_TRY(pop(m, &name));
    LLAVA_TRY(pop(m, &module));
    if (name->kind != PICKLE_STRING || module->kind != PICKLE_STRING)
        return pickle_fail(m, "a global whose name is not text");
    LLAVA_TRY(pickle_find_global(m, module->as.string.data, name->as.string.data, &value));
    return push(m, value);
}

/* ---------------------------------------------------------------- containers */

static llava_status make_tuple(pickle_machine *m, size_t first, bool marked) {
    pickle_value *tuple;
    LLAVA_TRY(pickle_new(m, PICKLE_SEQUENCE, &tuple));
    for (size_t i = first; i < m->depth; i++) LLAVA_TRY(list_append(m, tuple, m->stack[i]));
    m->depth = first - (marked ? 1 : 0);
    return push(m, tuple);
}

static llava_status make_short_tuple(pickle_machine *m, size_t count) {
    if (m->depth < count) return pickle_fail(m, "the stack is empty");
    for (size_t i = m->depth - count; i < m->depth; i++)
        if (m->stack[i]->kind == PICKLE_MARK) return pickle_fail(m, "the stack is empty");
    return make_tuple(m, m->depth - count, false);
}

/** APPENDS, SETITEMS, ADDITEMS (`marked`), or one item / pair. */
static llava_status extend(pickle_machine *m, pickle_kind kind, bool marked) {
    const size_t step = kind == PICKLE_DICT ? 2 : 1;
    size_t first;
    if (marked)
        LLAVA_TRY(find_mark(m, &first));
    else if (m->depth < step)
        return pickle_fail(m, "the stack is empty");
    else
        first = m->depth - step;
    const size_t below = first - (marked ? 1 : 0);
    if (below == 0) return pickle_fail(m, "the stack is empty");
    pickle_value *target = m->stack[below - 1];
    if (target->kind != kind) return pickle_fail(m, "items for something that holds none");
    if ((m->depth - first) % step != 0) return pickle_fail(m, "a key without a value");
    for (size_t i = first; i < m->depth; i++) {
        if (m->stack[i]->kind == PICKLE_MARK) return pickle_fail(m, "a mark among the items");
        LLAVA_TRY(list_append(m, target, m->stack[i]));
    }
    m->depth = below;
    return LLAVA_OK;
}

/** BUILD gives an object its state. An OrderedDict's (`_metadata`) says nothing about tensors. */
static llava_status build(pickle_machine *m) {
    pickle_value *state, *object;
    LLAVA_TRY(pop(m, &state));
    LLAVA_TRY(top(m, &object));
    if (object->kind != PICKLE_DICT || state->kind != PICKLE_DICT)
        return llava_refuse(m->err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_UNSUPPORTED,
                            "%s: the pickle sets the state of an object that is not a dictionary",
                            m->in->what);
    return LLAVA_OK;
}

static llava_status reduce(pickle_machine *m) {
    pickle_value *arguments, *callable, *result;
    LLAVA_TRY(pop(m, &arguments));
    LLAVA_TRY(pop(m, &callable));
    if (callable->kind != PICKLE_GLOBAL || arguments->kind != PICKLE_SEQUENCE)
        return pickle_fail(m, "a call of something that cannot be called");
    LLAVA_TRY(pickle_apply(m, callable->as.global, arguments, &result));
    return push(m, result);
}

static llava_status persistent(pickle_machine *m) {
    pickle_value *id, *result;
    LLAVA_TRY(pop(m, &id));
    LLAVA_TRY(pickle_storage_from_id(m, id, &result));
    return push(m, result);
}

/* ---------------------------------------------------------------- the loop */

static llava_status step_scalar(pickle_machine *m, uint8_t opcode, bool *known) {
    uint64_t number;
    switch (opcode) {
    case 'N': return push_kind(m, PICKLE_NONE);
    case 0x88: return push_flag(m, true);
    case 0x89: return push_flag(m, false);
    case 'J':
        LLAVA_TRY(take_number(m, 4, &number));
        return push_integer(m, (int32_t)(uint32_t)number);
    case 'K': LLAVA_TRY(take_number(m, 1, &number)); return push_integer(m, (int64_t)number);
    case 'M': LLAVA_TRY(take_number(m, 2, &number)); return push_integer(m, (int64_t)number);
    case 0x8a: return push_long(m);
    case 'G': return push_real(m);
    case 'X': return push_string(m, 4);
    case 'U':
    case 0x8c: return push_string(m, 1);
    case 0x8d: return push_string(m, 8);
    default: *known = false; return LLAVA_OK;
    }
}

static llava_status step_container(pickle_machine *m, uint8_t opcode, bool *known) {
    size_t first;
    switch (opcode) {
    case '(': return push_kind(m, PICKLE_MARK);
    case '}': return push_kind(m, PICKLE_DICT);
    case ']':
    case ')':
    case 0x8f: return push_kind(m, PICKLE_SEQUENCE);
    case 't': LLAVA_TRY(find_mark(m, &first)); return make_tuple(m, first, true);
    case 0x85:
    case 0x86:
    case 0x87: return make_short_tuple(m, (size_t)opcode - 0x84);
    case 'a': return extend(m, PICKLE_SEQUENCE, false);
    case 'e':
    case 0x90: return extend(m, PICKLE_SEQUENCE, true);
    case 's': return extend(m, PICKLE_DICT, false);
    case 'u': return extend(m, PICKLE_DICT, true);
    default: *known = false; return LLAVA_OK;
    }
}

static llava_status step_object(pickle_machine *m, uint8_t opcode, bool *known) {
    uint64_t number;
    switch (opcode) {
    case 'q': LLAVA_TRY(take_number(m, 1, &number)); return memo_put(m, number);
    case 'r': LLAVA_TRY(take_number(m, 4, &number)); return memo_put(m, number);
    case 0x94: return memo_put(m, m->memo_next);
    case 'h': LLAVA_TRY(take_number(m, 1, &number)); return memo_get(m, number);
    case 'j': LLAVA_TRY(take_number(m, 4, &number)); return memo_get(m, number);
    case 'c': return push_global(m);
    case 0x93: return push_stack_global(m);
    case 'R': return reduce(m);
    case 'b': return build(m);
    case 'Q': return persistent(m);
    case 0x80:
        LLAVA_TRY(take_number(m, 1, &number));
        return number >= 2 && number <= 5 ? LLAVA_OK : pickle_fail(m, "an unknown protocol");
    case 0x95: return take_number(m, 8, &number); /* a frame's length: a hint for readers */
    default: *known = false; return LLAVA_OK;
    }
}

static llava_status run(pickle_machine *m) {
    for (;;) {
        uint64_t opcode;
        LLAVA_TRY(take_number(m, 1, &opcode));
        if (opcode == '.') return LLAVA_OK;
        bool known = true;
        LLAVA_TRY(step_scalar(m, (uint8_t)opcode, &known));
        if (known) continue;
        known = true;
        LLAVA_TRY(step_container(m, (uint8_t)opcode, &known));
        if (known) continue;
        known = true;
        LLAVA_TRY(step_object(m, (uint8_t)opcode, &known));
        if (!known)
            return llava_refuse(
                m->err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_UNSUPPORTED,
                "%s: pickle opcode 0x%02x at byte %zu is not one a state dict needs", m->in->what,
                (unsigned)opcode, m->position - 1);
    }
}

llava_status pickle_read(const pickle_input *input, size_t *position, pickle_value **value,
                         llava_error *err) {
    pickle_machine machine = {.in = input, .position = *position, .err = err};
    llava_status status = run(&machine);
    if (status == LLAVA_OK) status = pop(&machine, value);
    if (status == LLAVA_OK && machine.depth != 0)
        status = pickle_fail(&machine, "values are left on the stack");
    if (status == LLAVA_OK) *position = machine.position;
    free(machine.stack);
    free(machine.memo);
    return status;
}

const pickle_value *pickle_dict_get(const pickle_value *dict, const char *key) {
    for (size_t i = dict->as.list.count; i >= 2; i -= 2) {
        const pickle_value *name = dict->as.list.items[i - 2];
        if (name->kind == PICKLE_STRING && strcmp(name->as.string.data, key) == 0)
            return dict->as.list.items[i - 1];
    }
    return NULL;
}
