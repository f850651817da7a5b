/* SPDX-License-Identifier: Apache-2.0
 *
 * Values of the template language: Python's, as far as templates see them. They live in the
 * arena of one rendering and are never changed after they were made, except namespaces.
 */
#ifndef LLAVA_JINJA_VALUE_H
#define LLAVA_JINJA_VALUE_H

#include "jinja.h"

typedef __int128 jinja_int;

typedef enum jv_kind {
    JV_UNDEFINED,
    JV_NONE,
    JV_BOOL,
    JV_INT,
    JV_FLOAT,
    JV_STRING,
    JV_LIST,
    JV_TUPLE,
    JV_DICT,
    JV_NAMESPACE, /* a dict whose members can be set */
    JV_FUNCTION
} jv_kind;

typedef struct jv jv;
struct jinja_node;
struct jinja_scope;

typedef struct jv_pair {
    const jv *key, *value;
} jv_pair;

/** Something that can be called: a built-in by name, a method bound to self, or a macro. */
typedef struct jv_function {
    const char *name;
    const jv *self;                 /* NULL: a global function or a macro */
    const struct jinja_node *macro; /* NULL: built in */
    struct jinja_scope *scope;      /* where the macro was defined */
} jv_function;

struct jv {
    jv_kind kind;
    union {
        bool flag;
        jinja_int integer;
        double real;
        struct {
            const char *data; /* NUL-terminated */
            size_t size;
        } string;
        struct {
            const jv **items;
            size_t count;
        } list;
        struct {
            jv_pair *pairs;
            size_t count, capacity;
        } dict;
        jv_function function;
        const char *undefined; /* the name that was not there */
    } as;
};

/** One rendering. Every function below that can fail returns NULL (or false) after filling err. */
typedef struct jinja {
    arena *memory;
    llava_error *err;
    llava_status status;
    int depth;     /* of calls and nested expressions */
    int64_t steps; /* evaluated nodes */
    const struct tm *now;
} jinja;

#define JINJA_MAX_DEPTH  100
#define JINJA_MAX_STEPS  ((int64_t)5000000)
#define JINJA_MAX_MEMORY ((size_t)256 << 20)

/** Fills the error once; always NULL. */
const jv *jinja_fail(jinja *j, const char *format, ...) LLAVA_PRINTF(2, 3);
void *jinja_alloc(jinja *j, size_t n_bytes);

const jv *jv_undefined(jinja *j, const char *name);
const jv *jv_none(jinja *j);
const jv *jv_bool(jinja *j, bool flag);
const jv *jv_int(jinja *j, jinja_int integer);
const jv *jv_float(jinja *j, double real);
const jv *jv_string(jinja *j, const char *data, size_t size); /* copies */
const jv *jv_text(jinja *j, const char *text);
const jv *jv_list(jinja *j, const jv **items, size_t count, bool tuple); /* copies the pointers */
jv *jv_dict_new(jinja *j, jv_kind kind);
bool jv_dict_set(jinja *j, jv *dict, const jv *key, const jv *value);
const jv *jv_dict_find(jinja *j, const jv *dict, const jv *key); /* NULL without an error: absent */
const jv *jv_function_new(jinja *j, const char *name, const jv *self);
const jv *jv_from_json(jinja *j, const json_t *json);

bool jv_is_text(const jv *v, const char *text);
bool jv_is_list(const jv *v);
bool jv_is_dict(const jv *v);
bool jv_is_number(const jv *v);
double jv_number(const jv *v);
bool jv_truth(const jv *v);
bool jv_equal(const jv *a, const jv *b);
/** -1, 0, 1; false when the two cannot be ordered. */
bool jv_compare(const jv *a, const jv *b, int *order);
const char *jv_kind_name(const jv *v);

/** Python's str() and repr(), appended. */
bool jv_write(jinja *j, const jv *v, bool repr, bytes *out);
const jv *jv_to_string(jinja *j, const jv *v);
/** json.dumps; indent < 0: on one line. */
bool jv_write_json(jinja *j, const jv *v, int indent, int level, bytes *out);
/** Characters, list items, dict keys: the items a loop visits. NULL after an error. */
const jv *jv_iterate(jinja *j, const jv *v);
/** len(); false when it has none. */
bool jv_length(const jv *v, int64_t *length);
/** Byte offset of the character at `index`, or of the end. */
size_t utf8_offset(const char *data, size_t size, int64_t index);

/* ---------------------------------------------------------------- calls */

/** Arguments of a call, filter or test. */
typedef struct jinja_args {
    const jv **values;
    size_t count;
    const jv *keywords; /* a dict */
} jinja_args;

/** The index-th argument or the keyword; NULL when neither is given. */
const jv *jinja_arg(jinja *j, const jinja_args *args, size_t index, const char *name);

const jv *jinja_filter(jinja *j, const char *name, const jv *value, const jinja_args *args);
bool jinja_test(jinja *j, const char *name, const jv *value, const jinja_args *args, bool *result);
/** A method of a string, list or dict; NULL after an error. */
const jv *jinja_method(jinja *j, const jv *self, const char *name, const jinja_args *args);
bool jinja_has_method(const jv *self, const char *name);
const jv *jinja_builtin(jinja *j, const char *name, const jinja_args *args);
bool jinja_has_builtin(jinja *j, const char *name);
/** self.name or self[name] without an error when absent (undefined then). */
const jv *jinja_attribute(jinja *j, const jv *self, const char *name);
const jv *jinja_binary(jinja *j, char operation, const jv *a, const jv *b);
bool jinja_contains(jinja *j, const jv *container, const jv *item, bool *result);

#endif
