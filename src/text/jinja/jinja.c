/* SPDX-License-Identifier: Apache-2.0
 *
 * Evaluating the tree: scopes, statements, expressions.
 */
#include <stdlib.h>

#include "jinja_parse.h"

#define MAX_EVALUATION_DEPTH 1000

/** Names set in one place; lookups go outwards. Loop passes, macros and `with` open one. */
typedef struct jinja_scope {
    struct jinja_scope *outer;
    jv *names; /* a dict */
} jinja_scope;

typedef enum jinja_flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE, FLOW_FAILED } jinja_flow;

static const jv *evaluate(jinja *j, jinja_scope *scope, const jinja_node *n);
static jinja_flow run(jinja *j, jinja_scope *scope, const jinja_node *n, bytes *out);

static jinja_scope *scope_new(jinja *j, jinja_scope *outer) {
    jinja_scope *scope = jinja_alloc(j, sizeof *scope);
    if (!scope || !(scope->names = jv_dict_new(j, JV_DICT))) return NULL;
    scope->outer = outer;
    return scope;
}

static bool scope_set(jinja *j, jinja_scope *scope, const char *name, const jv *value) {
    return value && jv_dict_set(j, scope->names, jv_text(j, name), value);
}

static const jv *scope_find(jinja *j, const jinja_scope *scope, const char *name) {
    for (; scope; scope = scope->outer)
        for (size_t i = 0; i < scope->names->as.dict.count; i++)
            if (jv_is_text(scope->names->as.dict.pairs[i].key, name))
                return scope->names->as.dict.pairs[i].value;
    return jinja_has_builtin(j, name) ? jv_function_new(j, name, NULL) : jv_undefined(j, name);
}

/* ---------------------------------------------------------------- expressions */

static bool evaluate_arguments(jinja *j, jinja_scope *scope, const jinja_node *n,
                               jinja_args *args) {
    jv *keywords = jv_dict_new(j, JV_DICT);
    args->values = jinja_alloc(j, (n->count + 1) * sizeof *args->values);
    args->count = 0;
    args->keywords = keywords;
    if (!keywords || !args->values) return false;
    for (size_t i = 0; i < n->count; i++) {
        const jv *value = evaluate(j, scope, n->items[i]);
        if (!value) return false;
        if (!n->names[i])
            args->values[args->count++] = value;
        else if (!jv_dict_set(j, keywords, jv_text(j, n->names[i]), value))
            return false;
    }
    return true;
}

static const jv *evaluate_items(jinja *j, jinja_scope *scope, const jinja_node *n) {
    const jv **items = jinja_alloc(j, (n->count + 1) * sizeof *items);
    if (!items) return NULL;
    for (size_t i = 0; i < n->count; i++)
        if (!(items[i] = evaluate(j, scope, n->items[i]))) return NULL;
    return jv_list(j, items, n->count, n->kind == JN_TUPLE);
}

static const jv *evaluate_dict(jinja *j, jinja_scope *scope, const jinja_node *n) {
    jv *dict = jv_dict_new(j, JV_DICT);
    for (size_t i = 0; dict && i + 1 < n->count; i += 2)
        if (!jv_dict_set(j, dict, evaluate(j, scope, n->items[i]),
                         evaluate(j, scope, n->items[i + 1])))
            return NULL;
    return dict;
}

static const jv *evaluate_concat(jinja *j, jinja_scope *scope, const jinja_node *n) {
    bytes text = {0};
    const jv *result = NULL;
    bool ok = true;
    for (size_t i = 0; i < n->count && ok; i++) {
        const jv *value = evaluate(j, scope, n->items[i]);
        ok = value && jv_write(j, value, false, &text);
    }
    if (ok) result = jv_string(j, text.data ? text.data : "", text.size);
    bytes_free(&text);
    return result;
}

static bool compare_once(jinja *j, const char *operation, const jv *a, const jv *b, bool *result) {
    if (strcmp(operation, "in") == 0) return jinja_contains(j, b, a, result);
    if (strcmp(operation, "not in") == 0) {
        const bool ok = jinja_contains(j, b, a, result);
        *result = !*result;
        return ok;
    }
    if (operation[0] == '=' || operation[0] == '!') {
        *result = jv_equal(a, b) == (operation[0] == '=');
        return true;
    }
    int order;
    if (!jv_compare(a, b, &order))
        return jinja_fail(j, "%s and %s cannot be ordered", jv_kind_name(a), jv_kind_name(b)) !=
               NULL;
    *result = operation[0] == '<' ? order < 0 : order > 0;
    if (operation[1] == '=') *result = *result || order == 0;
    return true;
}

static const jv *evaluate_compare(jinja *j, jinja_scope *scope, const jinja_node *n) {
    const jv *left = evaluate(j, scope, n->a);
    bool result = true;
    for (size_t i = 0; i < n->count && left && result; i++) {
        const jv *right = evaluate(j, scope, n->items[i]);
        if (!right || !compare_once(j, n->names[i], left, right, &result)) return NULL;
        left = right;
    }
    return left ? jv_bool(j, result) : NULL;
}

static const jv *evaluate_unary(jinja *j, jinja_scope *scope, const jinja_node *n) {
    const jv *value = evaluate(j, scope, n->a);
    if (!value) return NULL;
    if (!jv_is_number(value)) return jinja_fail(j, "%s has no sign", jv_kind_name(value));
    if (n->kind == JN_POSITIVE) return value;
    if (value->kind == JV_FLOAT) return jv_float(j, -value->as.real);
    return jv_int(j, value->kind == JV_BOOL ? -(jinja_int)value->as.flag : -value->as.integer);
}

static const jv *evaluate_if(jinja *j, jinja_scope *scope, const jinja_node *n) {
    const jv *condition = evaluate(j, scope, n->b);
    if (!condition) return NULL;
    if (jv_truth(condition)) return evaluate(j, scope, n->a);
    return n->c ? evaluate(j, scope, n->c) : jv_undefined(j, "the else branch");
}

static const jv *evaluate_logic(jinja *j, jinja_scope *scope, const jinja_node *n) {
    const jv *left = evaluate(j, scope, n->a);
    if (!left || jv_truth(left) == (n->kind == JN_OR)) return left;
    return evaluate(j, scope, n->b);
}

/** Python's normalised index; false when outside. */
static bool item_index(const jv *index, int64_t length, int64_t *at) {
    if (index->kind != JV_INT && index->kind != JV_BOOL) return false;
    const jinja_int wanted = index->kind == JV_INT ? index->as.integer : index->as.flag;
    const jinja_int normal = wanted < 0 ? wanted + length : wanted;
    *at = (int64_t)normal;
    return normal >= 0 && normal < length;
}

static const jv *item_of(jinja *j, const jv *of, const jv *index) {
    int64_t length, at;
    if (of->kind == JV_UNDEFINED) return jinja_fail(j, "\"%s\" is undefined", of->as.undefined);
    if (jv_is_dict(of)) {
        const jv *found = jv_dict_find(j, of, index);
        if (found) return found;
    } else if (jv_length(of, &length) && item_index(index, length, &at)) {
        if (jv_is_list(of)) return of->as.list.items[at];
        const char *data = of->as.string.data;
        const size_t from = utf8_offset(data, of->as.string.size, at);
        const size_t to = utf8_offset(data, of->as.string.size, at + 1);
        return jv_string(j, data + from, to - from);
    }
    if (index->kind == JV_STRING) return jinja_attribute(j, of, index->as.string.data);
    return jv_undefined(j, "item");
}

static const jv *evaluate_item(jinja *j, jinja_scope *scope, const jinja_node *n) {
    const jv *of = evaluate(j, scope, n->a);
    const jv *index = of ? evaluate(j, scope, n->b) : NULL;
    return index ? item_of(j, of, index) : NULL;
}

/** Python's slice.indices(): the start, stop and step that visit the items. */
static bool slice_bounds(const jv *const parts[3], int64_t length, int64_t bounds[3]) {
    for (int i = 0; i < 3; i++)
        if (parts[i]->kind != JV_NONE && parts[i]->kind != JV_INT) return false;
    const jinja_int limit = (jinja_int)1 << 62;
    jinja_int step = parts[2]->kind == JV_INT ? parts[2]->as.integer : 1;
    if (step == 0) return false;
    step = step > limit ? limit : step < -limit ? -limit : step;
    const jinja_int low = step < 0 ? -1 : 0, high = step < 0 ? length - 1 : length;
    for (int i = 0; i < 2; i++) {
        jinja_int at = (i == 0) == (step > 0) ? low : high;
        if (parts[i]->kind == JV_INT) {
            at = parts[i]->as.integer;
            if (at < 0) at += length;
            at = at < low ? low : at > high ? high : at;
        }
        bounds[i] = (int64_t)at;
    }
    bounds[2] = (int64_t)step;
    return true;
}

static const jv *evaluate_slice(jinja *j, jinja_scope *scope, const jinja_node *n) {
    const jv *of = evaluate(j, scope, n->a);
    const jv *parts[3];
    for (int i = 0; i < 3; i++)
        if (!of || !(parts[i] = n->items[i] ? evaluate(j, scope, n->items[i]) : jv_none(j)))
            return NULL;
    const jv *items = jv_is_list(of) || of->kind == JV_STRING ? jv_iterate(j, of) : NULL;
    if (!items) return jinja_fail(j, "%s cannot be sliced", jv_kind_name(of));
    int64_t bounds[3];
    if (!slice_bounds(parts, (int64_t)items->as.list.count, bounds))
        return jinja_fail(j, "a slice needs integers and a step that is not zero");
    const jv **taken = jinja_alloc(j, (items->as.list.count + 1) * sizeof *taken);
    size_t count = 0;
    for (int64_t i = bounds[0]; taken && (bounds[2] > 0 ? i < bounds[1] : i > bounds[1]);) {
        taken[count++] = items->as.list.items[i];
        if (__builtin_add_overflow(i, bounds[2], &i)) break;
    }
    const jv *list = taken ? jv_list(j, taken, count, of->kind == JV_TUPLE) : NULL;
    if (!list || of->kind != JV_STRING) return list;
    bytes text = {0};
    bool ok = true;
    for (size_t i = 0; i < count && ok; i++) ok = jv_write(j, taken[i], false, &text);
    const jv *result = ok ? jv_string(j, text.data ? text.data : "", text.size) : NULL;
    bytes_free(&text);
    return result;
}

/* ---------------------------------------------------------------- calls */

/** Gives a macro's parameters their values; surplus goes to varargs and kwargs. */
static bool bind_parameters(jinja *j, jinja_scope *scope, const jinja_node *n,
                            const jinja_args *args) {
    const size_t given = args->count < n->count ? args->count : n->count;
    for (size_t i = 0; i < n->count; i++) {
        const jv *value = jinja_arg(j, args, i, n->names[i]);
        if (!value)
            value = n->items[i] ? evaluate(j, scope, n->items[i]) : jv_undefined(j, n->names[i]);
        if (!scope_set(j, scope, n->names[i], value)) return false;
    }
    jv *rest = jv_dict_new(j, JV_DICT);
    for (size_t i = 0; rest && i < args->keywords->as.dict.count; i++) {
        const jv_pair *pair = &args->keywords->as.dict.pairs[i];
        bool known = jv_is_text(pair->key, "caller");
        for (size_t k = 0; k < n->count; k++) known = known || jv_is_text(pair->key, n->names[k]);
        if (known ? jv_is_text(pair->key, "caller") && !scope_set(j, scope, "caller", pair->value)
                  : !jv_dict_set(j, rest, pair->key, pair->value))
            return false;
    }
    return scope_set(j, scope, "varargs",
                     jv_list(j, args->values + given, args->count - given, true)) &&
           scope_set(j, scope, "kwargs", rest);
}

static const jv *call_macro(jinja *j, const jv_function *f, const jinja_args *args) {
    jinja_scope *scope = scope_new(j, f->scope);
    if (!scope || !bind_parameters(j, scope, f->macro, args)) return NULL;
    bytes text = {0};
    const jinja_flow flow = run(j, scope, f->macro->b, &text);
    const jv *result =
        flow == FLOW_FAILED ? NULL : jv_string(j, text.data ? text.data : "", text.size);
    bytes_free(&text);
    return result;
}

static const jv *call(jinja *j, const jv *callee, const jinja_args *args) {
    if (callee->kind == JV_UNDEFINED)
        return jinja_fail(j, "\"%s\" is undefined", callee->as.undefined);
    if (callee->kind != JV_FUNCTION)
        return jinja_fail(j, "%s cannot be called", jv_kind_name(callee));
    const jv_function *f = &callee->as.function;
    if (f->macro) return call_macro(j, f, args);
    if (f->self) return jinja_method(j, f->self, f->name, args);
    return jinja_builtin(j, f->name, args);
}

static const jv *evaluate_call(jinja *j, jinja_scope *scope, const jinja_node *n) {
    const jv *callee = evaluate(j, scope, n->a);
    jinja_args args;
    return callee && evaluate_arguments(j, scope, n, &args) ? call(j, callee, &args) : NULL;
}

static const jv *evaluate_filter(jinja *j, jinja_scope *scope, const jinja_node *n,
                                 const jv *input) {
    const jv *value = !n->a                     ? input
                      : n->a->kind == JN_FILTER ? evaluate_filter(j, scope, n->a, input)
                                                : evaluate(j, scope, n->a);
    jinja_args args;
    return value && evaluate_arguments(j, scope, n, &args) ? jinja_filter(j, n->name, value, &args)
                                                           : NULL;
}

static const jv *evaluate_test(jinja *j, jinja_scope *scope, const jinja_node *n) {
    const jv *value = evaluate(j, scope, n->a);
    jinja_args args;
    bool result;
    if (!value || !evaluate_arguments(j, scope, n, &args) ||
        !jinja_test(j, n->name, value, &args, &result))
        return NULL;
    return jv_bool(j, result);
}

static const jv *evaluate_kind(jinja *j, jinja_scope *scope, const jinja_node *n) {
    const jv *a, *b;
    switch (n->kind) {
    case JN_CONST: return n->value;
    case JN_NAME: return scope_find(j, scope, n->name);
    case JN_LIST:
    case JN_TUPLE: return evaluate_items(j, scope, n);
    case JN_DICT: return evaluate_dict(j, scope, n);
    case JN_NEGATE:
    case JN_POSITIVE: return evaluate_unary(j, scope, n);
    case JN_BINARY:
        a = evaluate(j, scope, n->a);
        b = a ? evaluate(j, scope, n->b) : NULL;
        return b ? jinja_binary(j, n->operation, a, b) : NULL;
    case JN_CONCAT: return evaluate_concat(j, scope, n);
    case JN_COMPARE: return evaluate_compare(j, scope, n);
    case JN_AND:
    case JN_OR: return evaluate_logic(j, scope, n);
    case JN_NOT: a = evaluate(j, scope, n->a); return a ? jv_bool(j, !jv_truth(a)) : NULL;
    case JN_IF: return evaluate_if(j, scope, n);
    case JN_ATTRIBUTE:
        a = evaluate(j, scope, n->a);
        return a ? jinja_attribute(j, a, n->name) : NULL;
    case JN_ITEM: return evaluate_item(j, scope, n);
    case JN_SLICE: return evaluate_slice(j, scope, n);
    case JN_CALL: return evaluate_call(j, scope, n);
    case JN_FILTER: return evaluate_filter(j, scope, n, NULL);
    case JN_TEST: return evaluate_test(j, scope, n);
    default: return jinja_fail(j, "line %d: a statement where a value is needed", n->line);
    }
}

static const jv *evaluate(jinja *j, jinja_scope *scope, const jinja_node *n) {
    if (j->status != LLAVA_OK) return NULL;
    if (++j->steps > JINJA_MAX_STEPS) return jinja_fail(j, "takes too many steps");
    if (++j->depth > MAX_EVALUATION_DEPTH) return jinja_fail(j, "nested too deeply");
    const jv *value = evaluate_kind(j, scope, n);
    j->depth--;
    return value;
}

/* ---------------------------------------------------------------- statements */

static bool assign(jinja *j, jinja_scope *scope, const jinja_node *target, const jv *value) {
    if (target->kind == JN_NAME) return scope_set(j, scope, target->name, value);
    const jv *space = evaluate(j, scope, target->a);
    if (!space) return false;
    if (space->kind != JV_NAMESPACE)
        return jinja_fail(j, "only a namespace's members can be set") != NULL;
    return jv_dict_set(j, (jv *)(uintptr_t)space, jv_text(j, target->name), value);
}

/** One value to one target, or its items to several. */
static bool assign_all(jinja *j, jinja_scope *scope, const jinja_node *n, const jv *value) {
    if (!value) return false;
    if (n->count == 1) return assign(j, scope, n->items[0], value);
    const jv *items = jv_iterate(j, value);
    if (!items) return false;
    if (items->as.list.count != n->count)
        return jinja_fail(j, "line %d: %zu names for %zu values", n->line, n->count,
                          items->as.list.count) != NULL;
    for (size_t i = 0; i < n->count; i++)
        if (!assign(j, scope, n->items[i], items->as.list.items[i])) return false;
    return true;
}

/** Items of a for statement that pass its condition. */
static const jv *loop_items(jinja *j, jinja_scope *scope, const jinja_node *n) {
    const jv *value = evaluate(j, scope, n->a);
    const jv *all = value ? jv_iterate(j, value) : NULL;
    if (!all || !n->c) return all;
    const jv **kept = jinja_alloc(j, (all->as.list.count + 1) * sizeof *kept);
    size_t count = 0;
    for (size_t i = 0; kept && i < all->as.list.count; i++) {
        jinja_scope *inner = scope_new(j, scope);
        if (!inner || !assign_all(j, inner, n, all->as.list.items[i])) return NULL;
        const jv *condition = evaluate(j, inner, n->c);
        if (!condition) return NULL;
        if (jv_truth(condition)) kept[count++] = all->as.list.items[i];
    }
    return kept ? jv_list(j, kept, count, false) : NULL;
}

static bool member(jinja *j, jv *dict, const char *name, const jv *value) {
    return jv_dict_set(j, dict, jv_text(j, name), value);
}

/** The `loop` object; one dict a loop, whose members are set anew each pass. */
static bool loop_update(jinja *j, jv *loop, const jv *items, size_t i) {
    const size_t count = items->as.list.count;
    const jv *const *all = items->as.list.items;
    return member(j, loop, "index", jv_int(j, (jinja_int)i + 1)) &&
           member(j, loop, "index0", jv_int(j, (jinja_int)i)) &&
           member(j, loop, "revindex", jv_int(j, (jinja_int)(count - i))) &&
           member(j, loop, "revindex0", jv_int(j, (jinja_int)(count - i) - 1)) &&
           member(j, loop, "first", jv_bool(j, i == 0)) &&
           member(j, loop, "last", jv_bool(j, i + 1 == count)) &&
           member(j, loop, "length", jv_int(j, (jinja_int)count)) &&
           member(j, loop, "previtem", i ? all[i - 1] : jv_undefined(j, "previtem")) &&
           member(j, loop, "nextitem", i + 1 < count ? all[i + 1] : jv_undefined(j, "nextitem"));
}

/** depth counts recursive calls of one loop, which templates do not make: it stays 1. */
static jv *loop_new(jinja *j) {
    jv *loop = jv_dict_new(j, JV_NAMESPACE);
    if (!loop || !member(j, loop, "depth", jv_int(j, 1)) ||
        !member(j, loop, "depth0", jv_int(j, 0)) ||
        !member(j, loop, "changed", jv_function_new(j, "loop.changed", loop)) ||
        !member(j, loop, "cycle", jv_function_new(j, "loop.cycle", loop)))
        return NULL;
    return loop;
}

static jinja_flow run_for(jinja *j, jinja_scope *scope, const jinja_node *n, bytes *out) {
    const jv *items = loop_items(j, scope, n);
    if (!items) return FLOW_FAILED;
    if (items->as.list.count == 0) return n->d ? run(j, scope, n->d, out) : FLOW_NEXT;
    jv *loop = loop_new(j);
    for (size_t i = 0; i < items->as.list.count; i++) {
        jinja_scope *pass = loop ? scope_new(j, scope) : NULL;
        if (!pass || !loop_update(j, loop, items, i) || !scope_set(j, pass, "loop", loop) ||
            !assign_all(j, pass, n, items->as.list.items[i]))
            return FLOW_FAILED;
        const jinja_flow flow = run(j, pass, n->b, out);
        if (flow == FLOW_FAILED) return flow;
        if (flow == FLOW_BREAK) break;
    }
    return FLOW_NEXT;
}

/** The text of a body, through a chain of filters when there is one. */
static const jv *capture(jinja *j, jinja_scope *scope, const jinja_node *body,
                         const jinja_node *filters) {
    bytes text = {0};
    jinja_scope *inner = scope_new(j, scope);
    const jinja_flow flow = inner ? run(j, inner, body, &text) : FLOW_FAILED;
    const jv *value =
        flow == FLOW_FAILED ? NULL : jv_string(j, text.data ? text.data : "", text.size);
    bytes_free(&text);
    return value && filters ? evaluate_filter(j, scope, filters, value) : value;
}

static const jv *macro_value(jinja *j, jinja_scope *scope, const jinja_node *n, const char *name) {
    jv *macro = (jv *)(uintptr_t)jv_function_new(j, name, NULL);
    if (!macro) return NULL;
    macro->as.function.macro = n;
    macro->as.function.scope = scope;
    return macro;
}

static const jv *run_call_block(jinja *j, jinja_scope *scope, const jinja_node *n) {
    const jv *callee = evaluate(j, scope, n->a->a);
    jinja_args args;
    if (!callee || !evaluate_arguments(j, scope, n->a, &args)) return NULL;
    if (!jv_dict_set(j, (jv *)(uintptr_t)args.keywords, jv_text(j, "caller"),
                     macro_value(j, scope, n, "caller")))
        return NULL;
    return call(j, callee, &args);
}

static jinja_flow run_with(jinja *j, jinja_scope *scope, const jinja_node *n, bytes *out) {
    jinja_scope *inner = scope_new(j, scope);
    for (size_t i = 0; i < n->count; i++)
        if (!inner || !scope_set(j, inner, n->names[i], evaluate(j, scope, n->items[i])))
            return FLOW_FAILED;
    return inner ? run(j, inner, n->b, out) : FLOW_FAILED;
}

static jinja_flow run_block(jinja *j, jinja_scope *scope, const jinja_node *n, bytes *out) {
    for (size_t i = 0; i < n->count; i++) {
        const jinja_flow flow = run(j, scope, n->items[i], out);
        if (flow != FLOW_NEXT) return flow;
    }
    return FLOW_NEXT;
}

static jinja_flow run_branch(jinja *j, jinja_scope *scope, const jinja_node *n, bytes *out) {
    const jv *condition = evaluate(j, scope, n->a);
    if (!condition) return FLOW_FAILED;
    const jinja_node *chosen = jv_truth(condition) ? n->b : n->c;
    return chosen ? run(j, scope, chosen, out) : FLOW_NEXT;
}

static jinja_flow write(jinja *j, const jv *value, bytes *out) {
    return value && jv_write(j, value, false, out) ? FLOW_NEXT : FLOW_FAILED;
}

static jinja_flow run_kind(jinja *j, jinja_scope *scope, const jinja_node *n, bytes *out) {
    bool ok;
    switch (n->kind) {
    case JN_TEXT: return write(j, n->value, out);
    case JN_PRINT: return write(j, evaluate(j, scope, n->a), out);
    case JN_BLOCK: return run_block(j, scope, n, out);
    case JN_BRANCH: return run_branch(j, scope, n, out);
    case JN_FOR: return run_for(j, scope, n, out);
    case JN_SET: ok = assign_all(j, scope, n, evaluate(j, scope, n->a)); break;
    case JN_SET_BLOCK: ok = assign_all(j, scope, n, capture(j, scope, n->b, n->a)); break;
    case JN_MACRO: ok = scope_set(j, scope, n->name, macro_value(j, scope, n, n->name)); break;
    case JN_CALL_BLOCK: return write(j, run_call_block(j, scope, n), out);
    case JN_FILTER_BLOCK: return write(j, capture(j, scope, n->b, n->a), out);
    case JN_WITH: return run_with(j, scope, n, out);
    case JN_BREAK: return FLOW_BREAK;
    case JN_CONTINUE: return FLOW_CONTINUE;
    default: ok = evaluate(j, scope, n) != NULL; break;
    }
    return ok ? FLOW_NEXT : FLOW_FAILED;
}

static jinja_flow run(jinja *j, jinja_scope *scope, const jinja_node *n, bytes *out) {
    if (j->status != LLAVA_OK) return FLOW_FAILED;
    if (++j->steps > JINJA_MAX_STEPS) jinja_fail(j, "takes too many steps");
    if (++j->depth > MAX_EVALUATION_DEPTH) jinja_fail(j, "nested too deeply");
    const jinja_flow flow = j->status == LLAVA_OK ? run_kind(j, scope, n, out) : FLOW_FAILED;
    j->depth--;
    return flow;
}

/* ---------------------------------------------------------------- rendering */

static llava_status render(jinja *j, const jinja_request *request, bytes *out) {
    const jinja_node *root = jinja_parse(j, request->source, request->size);
    jinja_scope *scope = root ? scope_new(j, NULL) : NULL;
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)request->variables, name, value) {
        if (!scope || !scope_set(j, scope, name, jv_from_json(j, value))) break;
    }
    const bool ok = scope && j->status == LLAVA_OK && run(j, scope, root, out) != FLOW_FAILED;
    if (!ok && j->status == LLAVA_OK)
        j->status = llava_fail_memory(j->err, out->size, "a rendered prompt");
    return j->status;
}

llava_status jinja_render(const jinja_request *request, bytes *out, llava_error *err) {
    const json_t *messages = json_object_get(request->variables, "messages");
    if (messages && json_array_size(messages) == 0)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "chat template: expected at least one message");
    jinja j = {.memory = arena_new(), .err = err, .now = request->now};
    if (!j.memory) return llava_fail_memory(err, sizeof j, "a chat template");
    bytes text = {0};
    llava_status status = render(&j, request, &text);
    if (status == LLAVA_OK && !bytes_append(out, text.data ? text.data : "", text.size))
        status = llava_fail_memory(err, text.size, "a rendered prompt");
    bytes_free(&text);
    arena_free(&j.memory);
    return status;
}
