/* SPDX-License-Identifier: Apache-2.0
 *
 * Tests: what may stand behind `is`.
 */
#include "jinja_text.h"

static bool same(const jv *a, const jv *b) {
    return a == b || (a->kind == b->kind && a->kind < JV_LIST && jv_equal(a, b));
}

static bool is_integer(const jv *v, jinja_int *value) {
    if (v->kind != JV_INT && v->kind != JV_BOOL) return false;
    *value = v->kind == JV_INT ? v->as.integer : v->as.flag;
    return true;
}

/** Tests of the value alone. */
static bool kind_test(const char *name, const jv *v, bool *result) {
    static const struct {
        const char *name;
        unsigned kinds; /* one bit a kind */
    } tests[] = {
        {"undefined", 1u << JV_UNDEFINED},
        {"none", 1u << JV_NONE},
        {"boolean", 1u << JV_BOOL},
        {"integer", 1u << JV_INT},
        {"float", 1u << JV_FLOAT},
        {"number", 1u << JV_INT | 1u << JV_FLOAT | 1u << JV_BOOL},
        {"string", 1u << JV_STRING},
        {"mapping", 1u << JV_DICT},
        {"sequence",
         1u << JV_STRING | 1u << JV_LIST | 1u << JV_TUPLE | 1u << JV_DICT | 1u << JV_UNDEFINED},
        {"iterable",
         1u << JV_STRING | 1u << JV_LIST | 1u << JV_TUPLE | 1u << JV_DICT | 1u << JV_UNDEFINED},
        {"callable", 1u << JV_FUNCTION},
    };
    for (size_t i = 0; i < LLAVA_COUNT(tests); i++) {
        if (strcmp(tests[i].name, name) != 0) continue;
        *result = tests[i].kinds >> v->kind & 1u;
        return true;
    }
    return false;
}

static bool value_test(jinja *j, const char *name, const jv *v, bool *result, bool *known) {
    jinja_int integer;
    *known = true;
    if (strcmp(name, "defined") == 0)
        *result = v->kind != JV_UNDEFINED;
    else if (strcmp(name, "true") == 0)
        *result = v->kind == JV_BOOL && v->as.flag;
    else if (strcmp(name, "false") == 0)
        *result = v->kind == JV_BOOL && !v->as.flag;
    else if (strcmp(name, "upper") == 0)
        *result = v->kind == JV_STRING && jinja_is_case(v, true);
    else if (strcmp(name, "lower") == 0)
        *result = v->kind == JV_STRING && jinja_is_case(v, false);
    else if (strcmp(name, "odd") == 0 || strcmp(name, "even") == 0) {
        if (!is_integer(v, &integer))
            return jinja_fail(j, "%s is neither odd nor even", jv_kind_name(v)) != NULL;
        *result = (integer % 2 != 0) == (name[0] == 'o');
    } else
        *known = false;
    return true;
}

/** Which side of an order a comparing test accepts: -1, 0, 1 as bits 1, 2, 4. */
static unsigned order_test(const char *name) {
    static const struct {
        const char *name;
        unsigned orders;
    } tests[] = {{"lt", 1}, {"lessthan", 1},    {"<", 1}, {"le", 3}, {"<=", 3},
                 {"gt", 4}, {"greaterthan", 4}, {">", 4}, {"ge", 6}, {">=", 6}};
    for (size_t i = 0; i < LLAVA_COUNT(tests); i++)
        if (strcmp(tests[i].name, name) == 0) return tests[i].orders;
    return 0;
}

static bool is_any(const char *name, const char *a, const char *b, const char *c) {
    return strcmp(name, a) == 0 || strcmp(name, b) == 0 || strcmp(name, c) == 0;
}

static bool compare_test(jinja *j, const char *name, const jv *v, const jv *other, bool *result) {
    const unsigned orders = order_test(name);
    int order;
    if (orders) {
        if (!jv_compare(v, other, &order))
            return jinja_fail(j, "%s and %s cannot be ordered", jv_kind_name(v),
                              jv_kind_name(other)) != NULL;
        *result = orders >> (order < 0 ? 0 : order == 0 ? 1 : 2) & 1u;
        return true;
    }
    if (is_any(name, "eq", "equalto", "=="))
        *result = jv_equal(v, other);
    else if (is_any(name, "ne", "ne", "!="))
        *result = !jv_equal(v, other);
    else if (strcmp(name, "sameas") == 0)
        *result = same(v, other);
    else if (strcmp(name, "in") == 0)
        return jinja_contains(j, other, v, result);
    else if (strcmp(name, "divisibleby") == 0) {
        jinja_int a, b;
        if (!is_integer(v, &a) || !is_integer(other, &b) || b == 0)
            return jinja_fail(j, "divisibleby needs integers, not zero") != NULL;
        *result = b == -1 || a % b == 0;
    } else
        return jinja_fail(j, "no test named \"%.60s\"", name) != NULL;
    return true;
}

bool jinja_test(jinja *j, const char *name, const jv *value, const jinja_args *args, bool *result) {
    bool known;
    if (kind_test(name, value, result)) return true;
    if (!value_test(j, name, value, result, &known)) return false;
    if (known) return true;
    const jv *other = jinja_arg(j, args, 0, NULL);
    if (!other) {
        const jv *none = jv_none(j); /* an unknown name gets its own message */
        bool ignored;
        if (!none || !compare_test(j, name, none, none, &ignored)) return false;
        return jinja_fail(j, "test \"%s\" needs an argument", name) != NULL;
    }
    return compare_test(j, name, value, other, result);
}
