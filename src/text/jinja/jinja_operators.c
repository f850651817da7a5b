/* SPDX-License-Identifier: Apache-2.0
 *
 * Arithmetic, containment, attributes, and the functions every template knows.
 */
#include <math.h>
#include <stdio.h>

#include "jinja_value.h"

#define RANGE_MAX  1000000
#define REPEAT_MAX 1000000

const jv *jinja_arg(jinja *j, const jinja_args *args, size_t index, const char *name) {
    if (index < args->count) return args->values[index];
    (void)j;
    for (size_t i = 0; name && i < args->keywords->as.dict.count; i++)
        if (jv_is_text(args->keywords->as.dict.pairs[i].key, name))
            return args->keywords->as.dict.pairs[i].value;
    return NULL;
}

static jinja_int integer_of(const jv *v) {
    return v->kind == JV_BOOL ? (jinja_int)v->as.flag : v->as.integer;
}

static const jv *overflow(jinja *j) { return jinja_fail(j, "a number too large"); }

/** Python's floor division and its remainder. */
static const jv *divide_integers(jinja *j, char operation, jinja_int a, jinja_int b) {
    if (b == 0) return jinja_fail(j, "division by zero");
    if (b == -1) return operation == 'd' ? jv_int(j, -a) : jv_int(j, 0);
    jinja_int quotient = a / b, rest = a % b;
    if (rest != 0 && (rest < 0) != (b < 0)) {
        quotient--;
        rest += b;
    }
    return jv_int(j, operation == 'd' ? quotient : rest);
}

static const jv *power_integers(jinja *j, jinja_int base, jinja_int exponent) {
    jinja_int result = 1;
    if (exponent > 4096) return overflow(j);
    for (; exponent > 0; exponent--)
        if (__builtin_mul_overflow(result, base, &result)) return overflow(j);
    return jv_int(j, result);
}

static const jv *integers(jinja *j, char operation, jinja_int a, jinja_int b) {
    jinja_int result;
    switch (operation) {
    case '+': return __builtin_add_overflow(a, b, &result) ? overflow(j) : jv_int(j, result);
    case '-': return __builtin_sub_overflow(a, b, &result) ? overflow(j) : jv_int(j, result);
    case '*': return __builtin_mul_overflow(a, b, &result) ? overflow(j) : jv_int(j, result);
    case '/':
        if (b == 0) return jinja_fail(j, "division by zero");
        return jv_float(j, (double)a / (double)b);
    case 'p':
        if (b >= 0) return power_integers(j, a, b);
        return jv_float(j, pow((double)a, (double)b));
    default: return divide_integers(j, operation, a, b);
    }
}

static const jv *reals(jinja *j, char operation, double a, double b) {
    switch (operation) {
    case '+': return jv_float(j, a + b);
    case '-': return jv_float(j, a - b);
    case '*': return jv_float(j, a * b);
    case 'p': return jv_float(j, pow(a, b));
    default: break;
    }
    if (b == 0) return jinja_fail(j, "division by zero");
    if (operation == '/') return jv_float(j, a / b);
    if (operation == 'd') return jv_float(j, floor(a / b));
    const double rest = fmod(a, b);
    return jv_float(j, rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest);
}

static const jv *join(jinja *j, const jv *a, const jv *b) {
    if (a->kind == JV_STRING) {
        bytes text = {0};
        const bool ok = bytes_append(&text, a->as.string.data, a->as.string.size) &&
                        bytes_append(&text, b->as.string.data, b->as.string.size);
        const jv *result = ok ? jv_string(j, text.data, text.size) : NULL;
        bytes_free(&text);
        return result;
    }
    const size_t count = a->as.list.count + b->as.list.count;
    const jv **items = jinja_alloc(j, (count + 1) * sizeof *items);
    if (!items) return NULL;
    for (size_t i = 0; i < count; i++)
        items[i] =
            i < a->as.list.count ? a->as.list.items[i] : b->as.list.items[i - a->as.list.count];
    return jv_list(j, items, count, a->kind == JV_TUPLE);
}

static const jv *repeat(jinja *j, const jv *what, jinja_int times) {
    const size_t size = what->kind == JV_STRING ? what->as.string.size : what->as.list.count;
    if (times < 0) times = 0;
    if (times > REPEAT_MAX || (jinja_int)size * times > REPEAT_MAX)
        return jinja_fail(j, "a repetition longer than %d", REPEAT_MAX);
    if (what->kind == JV_STRING) {
        bytes text = {0};
        bool ok = true;
        for (jinja_int i = 0; i < times && ok; i++)
            ok = bytes_append(&text, what->as.string.data, size);
        const jv *result = ok ? jv_string(j, text.data ? text.data : "", text.size) : NULL;
        bytes_free(&text);
        return result;
    }
    const size_t count = size * (size_t)times;
    const jv **items = jinja_alloc(j, (count + 1) * sizeof *items);
    for (size_t i = 0; items && i < count; i++) items[i] = what->as.list.items[i % size];
    return items ? jv_list(j, items, count, what->kind == JV_TUPLE) : NULL;
}

/** "%s and %d" % values, with the plain conversions only. */
static const jv *format_percent(jinja *j, const jv *pattern, const jv *values) {
    const jv *const *items = values->kind == JV_TUPLE ? values->as.list.items : &values;
    const size_t count = values->kind == JV_TUPLE ? values->as.list.count : 1;
    bytes text = {0};
    size_t used = 0;
    bool ok = true;
    for (size_t i = 0; i < pattern->as.string.size && ok; i++) {
        const char c = pattern->as.string.data[i];
        const char what = c == '%' ? pattern->as.string.data[++i] : 0;
        if (!what || what == '%')
            ok = bytes_append(&text, c == '%' ? "%" : &c, 1);
        else if (!strchr("sdr", what) || used >= count ||
                 (what == 'd' && !jv_is_number(items[used])))
            ok = jinja_fail(j, "a format that does not fit its values") != NULL;
        else
            ok = jv_write(j, items[used++], what == 'r', &text);
    }
    const jv *result = ok ? jv_string(j, text.data ? text.data : "", text.size) : NULL;
    bytes_free(&text);
    return result;
}

const jv *jinja_binary(jinja *j, char operation, const jv *a, const jv *b) {
    if (a->kind == JV_UNDEFINED || b->kind == JV_UNDEFINED)
        return jinja_fail(j, "\"%s\" is undefined",
                          (a->kind == JV_UNDEFINED ? a : b)->as.undefined);
    if (jv_is_number(a) && jv_is_number(b)) {
        if (a->kind == JV_FLOAT || b->kind == JV_FLOAT)
            return reals(j, operation, jv_number(a), jv_number(b));
        return integers(j, operation, integer_of(a), integer_of(b));
    }
    const bool sequences = (a->kind == JV_STRING || jv_is_list(a)) && a->kind == b->kind;
    if (operation == '+' && sequences) return join(j, a, b);
    if (operation == '%' && a->kind == JV_STRING) return format_percent(j, a, b);
    if (operation == '*' && (a->kind == JV_STRING || jv_is_list(a)) && b->kind == JV_INT)
        return repeat(j, a, b->as.integer);
    if (operation == '*' && (b->kind == JV_STRING || jv_is_list(b)) && a->kind == JV_INT)
        return repeat(j, b, a->as.integer);
    return jinja_fail(j, "%s and %s do not combine", jv_kind_name(a), jv_kind_name(b));
}

bool jinja_contains(jinja *j, const jv *container, const jv *item, bool *result) {
    *result = false;
    if (container->kind == JV_STRING) {
        if (item->kind != JV_STRING)
            return jinja_fail(j, "%s cannot be in a string", jv_kind_name(item)) != NULL;
        *result = item->as.string.size == 0 ||
                  memmem(container->as.string.data, container->as.string.size, item->as.string.data,
                         item->as.string.size);
        return true;
    }
    if (jv_is_dict(container)) {
        *result = jv_dict_find(j, container, item) != NULL;
        return true;
    }
    const jv *items = jv_iterate(j, container);
    for (size_t i = 0; items && i < items->as.list.count && !*result; i++)
        *result = jv_equal(items->as.list.items[i], item);
    return items != NULL;
}

const jv *jinja_attribute(jinja *j, const jv *self, const char *name) {
    if (self->kind == JV_UNDEFINED) return jinja_fail(j, "\"%s\" is undefined", self->as.undefined);
    if (jinja_has_method(self, name)) return jv_function_new(j, name, self);
    if (jv_is_dict(self))
        for (size_t i = 0; i < self->as.dict.count; i++)
            if (jv_is_text(self->as.dict.pairs[i].key, name)) return self->as.dict.pairs[i].value;
    return jv_undefined(j, name);
}

/* ---------------------------------------------------------------- functions */

static bool range_bounds(const jinja_args *args, int64_t bounds[3]) {
    bounds[0] = 0;
    bounds[2] = 1;
    if (args->count < 1 || args->count > 3) return false;
    for (size_t i = 0; i < args->count; i++) {
        const jv *v = args->values[i];
        if (v->kind != JV_INT || v->as.integer > INT32_MAX || v->as.integer < INT32_MIN)
            return false;
        bounds[args->count == 1 ? 1 : i] = (int64_t)v->as.integer;
    }
    return bounds[2] != 0;
}

static const jv *range(jinja *j, const jinja_args *args) {
    int64_t b[3];
    if (!range_bounds(args, b)) return jinja_fail(j, "range() needs one to three integers");
    const int64_t span = b[2] > 0 ? b[1] - b[0] : b[0] - b[1];
    const int64_t step = b[2] > 0 ? b[2] : -b[2];
    const int64_t count = span > 0 ? ceil_div(span, step) : 0;
    if (count > RANGE_MAX) return jinja_fail(j, "a range longer than %d", RANGE_MAX);
    const jv **items = jinja_alloc(j, ((size_t)count + 1) * sizeof *items);
    for (int64_t i = 0; items && i < count; i++)
        if (!(items[i] = jv_int(j, b[0] + i * b[2]))) return NULL;
    return items ? jv_list(j, items, (size_t)count, false) : NULL;
}

static const jv *make_dict(jinja *j, const jinja_args *args, jv_kind kind) {
    jv *dict = jv_dict_new(j, kind);
    const jv *const sources[] = {args->count ? args->values[0] : NULL, args->keywords};
    for (size_t s = 0; dict && s < LLAVA_COUNT(sources); s++) {
        if (!sources[s]) continue;
        if (!jv_is_dict(sources[s])) return jinja_fail(j, "expected a mapping");
        for (size_t i = 0; i < sources[s]->as.dict.count; i++)
            if (!jv_dict_set(j, dict, sources[s]->as.dict.pairs[i].key,
                             sources[s]->as.dict.pairs[i].value))
                return NULL;
    }
    return dict;
}

static const jv *raise_exception(jinja *j, const jinja_args *args) {
    const jv *message = jinja_arg(j, args, 0, "message");
    const jv *text = message ? jv_to_string(j, message) : NULL;
    return text ? jinja_fail(j, "%.400s", text->as.string.data) : jinja_fail(j, "raised an error");
}

static const jv *strftime_now(jinja *j, const jinja_args *args) {
    const jv *format = jinja_arg(j, args, 0, "format");
    char text[512];
    if (!format || format->kind != JV_STRING || !j->now)
        return jinja_fail(j, "strftime_now() needs a format");
    const size_t size = strftime(text, sizeof text, format->as.string.data, j->now);
    return jv_string(j, text, size);
}

/** Known to `is defined`, but stateful or random: refused when called. */
static const char *const refused[] = {"lipsum", "cycler", "joiner"};

bool jinja_has_builtin(jinja *j, const char *name) {
    static const char *const names[] = {"range", "dict", "namespace", "raise_exception"};
    for (size_t i = 0; i < LLAVA_COUNT(names); i++)
        if (strcmp(name, names[i]) == 0) return true;
    for (size_t i = 0; i < LLAVA_COUNT(refused); i++)
        if (strcmp(name, refused[i]) == 0) return true;
    return j->now && strcmp(name, "strftime_now") == 0;
}

const jv *jinja_builtin(jinja *j, const char *name, const jinja_args *args) {
    if (strcmp(name, "range") == 0) return range(j, args);
    if (strcmp(name, "dict") == 0) return make_dict(j, args, JV_DICT);
    if (strcmp(name, "namespace") == 0) return make_dict(j, args, JV_NAMESPACE);
    if (strcmp(name, "raise_exception") == 0) return raise_exception(j, args);
    if (strcmp(name, "strftime_now") == 0) return strftime_now(j, args);
    return jinja_fail(j, "%s() is not supported", name);
}
