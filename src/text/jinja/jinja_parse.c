/* SPDX-License-Identifier: Apache-2.0
 *
 * Recursive descent over the tokens; the grammar and its precedences are jinja2's.
 */
#include "jinja_lex.h"
#include "jinja_parse.h"

typedef struct parser {
    jinja *j;
    const jinja_token *t; /* current */
    int depth;
    int loops; /* enclosing for statements */
} parser;

static jinja_node *parse_expression(parser *p);
static jinja_node *parse_unary(parser *p, bool with_filter);
static jinja_node *parse_body(parser *p, const char *const *ends);

/* ---------------------------------------------------------------- tools */

static jinja_node *fail(parser *p, const char *what) {
    jinja_fail(p->j, "line %d: %s", p->t->line, what);
    return NULL;
}

static jinja_node *node_new(parser *p, jinja_kind kind) {
    jinja_node *n = jinja_alloc(p->j, sizeof *n);
    if (n) {
        n->kind = kind;
        n->line = p->t->line;
    }
    return n;
}

static jinja_node *node_pair(parser *p, jinja_kind kind, jinja_node *a, jinja_node *b) {
    jinja_node *n = a && b ? node_new(p, kind) : NULL;
    if (n) {
        n->a = a;
        n->b = b;
    }
    return n;
}

/** Appends to items and names; grows by doubling at powers of two. */
static bool node_append(parser *p, jinja_node *n, jinja_node *item, const char *name) {
    if ((n->count & (n->count - 1)) == 0) {
        const size_t capacity = n->count ? 2 * n->count : 1;
        jinja_node **items = jinja_alloc(p->j, capacity * sizeof *items);
        const char **names = items ? jinja_alloc(p->j, capacity * sizeof *names) : NULL;
        if (!names) return false;
        if (n->count) {
            memcpy(items, n->items, n->count * sizeof *items);
            memcpy(names, n->names, n->count * sizeof *names);
        }
        n->items = items;
        n->names = names;
    }
    n->items[n->count] = item;
    n->names[n->count++] = name;
    return true;
}

static bool is_operator(const parser *p, const char *text) {
    return p->t->kind == JT_OPERATOR && strcmp(p->t->text, text) == 0;
}

static bool is_name(const parser *p, const char *text) {
    return p->t->kind == JT_NAME && strcmp(p->t->text, text) == 0;
}

static bool skip_operator(parser *p, const char *text) {
    if (!is_operator(p, text)) return false;
    p->t++;
    return true;
}

static bool skip_name(parser *p, const char *text) {
    if (!is_name(p, text)) return false;
    p->t++;
    return true;
}

static bool expect_operator(parser *p, const char *text) {
    if (skip_operator(p, text)) return true;
    jinja_fail(p->j, "line %d: expected \"%s\"", p->t->line, text);
    return false;
}

static const char *take_name(parser *p) {
    if (p->t->kind != JT_NAME) {
        fail(p, "expected a name");
        return NULL;
    }
    return (p->t++)->text;
}

static jinja_node *constant(parser *p, const jv *value) {
    jinja_node *n = value ? node_new(p, JN_CONST) : NULL;
    if (n) n->value = value;
    return n;
}

/* ---------------------------------------------------------------- primaries */

/** Items up to the closing bracket. */
static bool parse_items(parser *p, jinja_node *n, const char *close) {
    while (!is_operator(p, close)) {
        jinja_node *item = parse_expression(p);
        if (!item || !node_append(p, n, item, NULL)) return false;
        if (!skip_operator(p, ",")) break;
    }
    return expect_operator(p, close);
}

static jinja_node *parse_parenthesis(parser *p) {
    if (skip_operator(p, ")")) return node_new(p, JN_TUPLE);
    jinja_node *first = parse_expression(p);
    if (!first) return NULL;
    if (!is_operator(p, ",")) return expect_operator(p, ")") ? first : NULL;
    jinja_node *tuple = node_new(p, JN_TUPLE);
    if (!tuple || !node_append(p, tuple, first, NULL)) return NULL;
    p->t++;
    return parse_items(p, tuple, ")") ? tuple : NULL;
}

static jinja_node *parse_dict(parser *p) {
    jinja_node *dict = node_new(p, JN_DICT);
    if (!dict) return NULL;
    while (!is_operator(p, "}")) {
        jinja_node *key = parse_expression(p);
        if (!key || !expect_operator(p, ":")) return NULL;
        jinja_node *value = parse_expression(p);
        if (!value || !node_append(p, dict, key, NULL) || !node_append(p, dict, value, NULL))
            return NULL;
        if (!skip_operator(p, ",")) break;
    }
    return expect_operator(p, "}") ? dict : NULL;
}

static jinja_node *parse_strings(parser *p) {
    const jv *value = (p->t++)->value;
    while (value && p->t->kind == JT_STRING) { /* neighbours join */
        bytes joined = {0};
        const bool ok = jv_write(p->j, value, false, &joined) &&
                        jv_write(p->j, (p->t++)->value, false, &joined);
        value = ok ? jv_string(p->j, joined.data ? joined.data : "", joined.size) : NULL;
        bytes_free(&joined);
    }
    return constant(p, value);
}

static jinja_node *parse_word(parser *p) {
    const char *word = (p->t++)->text;
    if (strcmp(word, "true") == 0 || strcmp(word, "True") == 0)
        return constant(p, jv_bool(p->j, true));
    if (strcmp(word, "false") == 0 || strcmp(word, "False") == 0)
        return constant(p, jv_bool(p->j, false));
    if (strcmp(word, "none") == 0 || strcmp(word, "None") == 0) return constant(p, jv_none(p->j));
    jinja_node *n = node_new(p, JN_NAME);
    if (n) n->name = word;
    return n;
}

static jinja_node *parse_primary(parser *p) {
    if (p->t->kind == JT_NAME) return parse_word(p);
    if (p->t->kind == JT_NUMBER) return constant(p, (p->t++)->value);
    if (p->t->kind == JT_STRING) return parse_strings(p);
    if (skip_operator(p, "(")) return parse_parenthesis(p);
    if (skip_operator(p, "{")) return parse_dict(p);
    if (!skip_operator(p, "[")) return fail(p, "expected an expression");
    jinja_node *list = node_new(p, JN_LIST);
    return list && parse_items(p, list, "]") ? list : NULL;
}

/* ---------------------------------------------------------------- postfixes */

static bool parse_arguments(parser *p, jinja_node *call) {
    while (!is_operator(p, ")")) {
        const char *name = NULL;
        if (p->t->kind == JT_NAME && p->t[1].kind == JT_OPERATOR &&
            strcmp(p->t[1].text, "=") == 0) {
            name = p->t->text;
            p->t += 2;
        }
        jinja_node *value = parse_expression(p);
        if (!value || !node_append(p, call, value, name)) return false;
        if (!skip_operator(p, ",")) break;
    }
    return expect_operator(p, ")");
}

/** [expression] or [from:to:step], behind the opening bracket. */
static jinja_node *parse_subscript(parser *p, jinja_node *of) {
    jinja_node *parts[3] = {NULL};
    int colons = 0;
    while (!is_operator(p, "]")) {
        if (skip_operator(p, ":")) {
            if (++colons > 2) return fail(p, "a slice has at most three parts");
        } else if (parts[colons] || !(parts[colons] = parse_expression(p))) {
            return fail(p, "expected \"]\"");
        }
    }
    p->t++;
    if (colons == 0)
        return parts[0] ? node_pair(p, JN_ITEM, of, parts[0]) : fail(p, "an empty subscript");
    jinja_node *slice = node_new(p, JN_SLICE);
    if (!slice) return NULL;
    slice->a = of;
    for (int i = 0; i < 3; i++)
        if (!node_append(p, slice, parts[i], NULL)) return NULL;
    return slice;
}

static jinja_node *parse_attribute(parser *p, jinja_node *of) {
    if (p->t->kind == JT_NUMBER) return node_pair(p, JN_ITEM, of, constant(p, (p->t++)->value));
    const char *name = take_name(p);
    jinja_node *n = name ? node_new(p, JN_ATTRIBUTE) : NULL;
    if (n) {
        n->a = of;
        n->name = name;
    }
    return n;
}

static jinja_node *parse_call(parser *p, jinja_node *of) {
    jinja_node *call = node_new(p, JN_CALL);
    if (!call || !parse_arguments(p, call)) return NULL;
    call->a = of;
    return call;
}

static jinja_node *parse_postfix(parser *p, jinja_node *n) {
    while (n) {
        if (skip_operator(p, "."))
            n = parse_attribute(p, n);
        else if (skip_operator(p, "["))
            n = parse_subscript(p, n);
        else if (skip_operator(p, "("))
            n = parse_call(p, n);
        else
            break;
    }
    return n;
}

static jinja_node *parse_filter(parser *p, jinja_node *of) {
    const char *name = take_name(p);
    jinja_node *n = name ? node_new(p, JN_FILTER) : NULL;
    if (!n) return NULL;
    n->a = of;
    n->name = name;
    if (skip_operator(p, "(") && !parse_arguments(p, n)) return NULL;
    return n;
}

/** A test's single argument may stand without parentheses: `is divisibleby 3`. */
static bool has_bare_argument(const parser *p) {
    static const char *const words[] = {"else", "or", "and", "if", "in", "not", "is"};
    if (p->t->kind == JT_NUMBER || p->t->kind == JT_STRING) return true;
    if (is_operator(p, "[") || is_operator(p, "{")) return true;
    if (p->t->kind != JT_NAME) return false;
    for (size_t i = 0; i < LLAVA_COUNT(words); i++)
        if (is_name(p, words[i])) return false;
    return true;
}

static jinja_node *parse_test(parser *p, jinja_node *of) {
    const bool negated = skip_name(p, "not");
    const char *name = take_name(p);
    jinja_node *test = name ? node_new(p, JN_TEST) : NULL;
    if (!test) return NULL;
    test->a = of;
    test->name = name;
    if (skip_operator(p, "(")) {
        if (!parse_arguments(p, test)) return NULL;
    } else if (has_bare_argument(p)) {
        jinja_node *argument = parse_postfix(p, parse_primary(p));
        if (!argument || !node_append(p, test, argument, NULL)) return NULL;
    }
    if (!negated) return test;
    jinja_node *opposite = node_new(p, JN_NOT);
    if (opposite) opposite->a = test;
    return opposite;
}

static jinja_node *parse_filters(parser *p, jinja_node *n) {
    while (n) {
        if (skip_operator(p, "|"))
            n = parse_filter(p, n);
        else if (skip_name(p, "is"))
            n = parse_test(p, n);
        else if (skip_operator(p, "("))
            n = parse_call(p, n);
        else
            break;
    }
    return n;
}

/* ---------------------------------------------------------------- operators */

static jinja_node *parse_unary(parser *p, bool with_filter) {
    if (++p->depth > JINJA_MAX_DEPTH) return fail(p, "nested too deeply");
    jinja_node *n;
    const bool minus = is_operator(p, "-");
    if (minus || is_operator(p, "+")) {
        p->t++;
        jinja_node *inner = parse_unary(p, false);
        n = inner ? node_new(p, minus ? JN_NEGATE : JN_POSITIVE) : NULL;
        if (n) n->a = inner;
    } else {
        n = parse_primary(p);
    }
    n = parse_postfix(p, n);
    if (with_filter) n = parse_filters(p, n);
    p->depth--;
    return n;
}

static jinja_node *binary(parser *p, char operation, jinja_node *a, jinja_node *b) {
    jinja_node *n = node_pair(p, JN_BINARY, a, b);
    if (n) n->operation = operation;
    return n;
}

static jinja_node *parse_power(parser *p) {
    jinja_node *n = parse_unary(p, true);
    while (n && skip_operator(p, "**")) n = binary(p, 'p', n, parse_unary(p, true));
    return n;
}

static jinja_node *parse_product(parser *p) {
    jinja_node *n = parse_power(p);
    while (n) {
        if (skip_operator(p, "*"))
            n = binary(p, '*', n, parse_power(p));
        else if (skip_operator(p, "//"))
            n = binary(p, 'd', n, parse_power(p));
        else if (skip_operator(p, "/"))
            n = binary(p, '/', n, parse_power(p));
        else if (skip_operator(p, "%"))
            n = binary(p, '%', n, parse_power(p));
        else
            break;
    }
    return n;
}

static jinja_node *parse_concat(parser *p) {
    jinja_node *first = parse_product(p);
    if (!first || !is_operator(p, "~")) return first;
    jinja_node *n = node_new(p, JN_CONCAT);
    if (!n || !node_append(p, n, first, NULL)) return NULL;
    while (skip_operator(p, "~")) {
        jinja_node *next = parse_product(p);
        if (!next || !node_append(p, n, next, NULL)) return NULL;
    }
    return n;
}

static jinja_node *parse_sum(parser *p) {
    jinja_node *n = parse_concat(p);
    while (n) {
        if (skip_operator(p, "+"))
            n = binary(p, '+', n, parse_concat(p));
        else if (skip_operator(p, "-"))
            n = binary(p, '-', n, parse_concat(p));
        else
            break;
    }
    return n;
}

/** The comparison operator that stands here, skipped; NULL when none. */
static const char *take_comparison(parser *p) {
    static const char *const operators[] = {"==", "!=", "<=", ">=", "<", ">"};
    for (size_t i = 0; i < LLAVA_COUNT(operators); i++)
        if (skip_operator(p, operators[i])) return operators[i];
    if (skip_name(p, "in")) return "in";
    if (is_name(p, "not") && p->t[1].kind == JT_NAME && strcmp(p->t[1].text, "in") == 0) {
        p->t += 2;
        return "not in";
    }
    return NULL;
}

static jinja_node *parse_compare(parser *p) {
    jinja_node *first = parse_sum(p);
    const char *operation = first ? take_comparison(p) : NULL;
    if (!operation) return first;
    jinja_node *n = node_new(p, JN_COMPARE);
    if (!n) return NULL;
    n->a = first;
    for (; operation; operation = take_comparison(p)) {
        jinja_node *next = parse_sum(p);
        if (!next || !node_append(p, n, next, operation)) return NULL;
    }
    return n;
}

static jinja_node *parse_not(parser *p) {
    if (!skip_name(p, "not")) return parse_compare(p);
    if (++p->depth > JINJA_MAX_DEPTH) return fail(p, "nested too deeply");
    jinja_node *inner = parse_not(p);
    p->depth--;
    jinja_node *n = inner ? node_new(p, JN_NOT) : NULL;
    if (n) n->a = inner;
    return n;
}

static jinja_node *parse_and(parser *p) {
    jinja_node *n = parse_not(p);
    while (n && skip_name(p, "and")) n = node_pair(p, JN_AND, n, parse_not(p));
    return n;
}

static jinja_node *parse_or(parser *p) {
    jinja_node *n = parse_and(p);
    while (n && skip_name(p, "or")) n = node_pair(p, JN_OR, n, parse_and(p));
    return n;
}

/** `with_condition` false: an `if` that follows belongs to the statement (for ... if). */
static jinja_node *parse_conditional(parser *p, bool with_condition) {
    if (++p->depth > JINJA_MAX_DEPTH) return fail(p, "nested too deeply");
    jinja_node *n = parse_or(p);
    while (n && with_condition && skip_name(p, "if")) {
        jinja_node *choice = node_pair(p, JN_IF, n, parse_or(p));
        if (choice && skip_name(p, "else") && !(choice->c = parse_conditional(p, true)))
            return NULL;
        n = choice;
    }
    p->depth--;
    return n;
}

static jinja_node *parse_expression(parser *p) { return parse_conditional(p, true); }

/** An expression, or several with commas between: a tuple. */
static jinja_node *parse_tuple(parser *p, bool with_condition) {
    jinja_node *first = parse_conditional(p, with_condition);
    if (!first || !is_operator(p, ",")) return first;
    jinja_node *tuple = node_new(p, JN_TUPLE);
    if (!tuple || !node_append(p, tuple, first, NULL)) return NULL;
    while (skip_operator(p, ",")) {
        if (p->t->kind == JT_TAG_END) break;
        jinja_node *next = parse_conditional(p, with_condition);
        if (!next || !node_append(p, tuple, next, NULL)) return NULL;
    }
    return tuple;
}

/* ---------------------------------------------------------------- statements */

static bool close_tag(parser *p) {
    if (p->t->kind != JT_TAG_END) {
        fail(p, "expected the end of the tag");
        return false;
    }
    p->t++;
    return true;
}

/** Body of a statement up to a tag named `end`, which is consumed whole. */
static jinja_node *parse_block(parser *p, const char *end) {
    const char *const ends[] = {end, NULL};
    if (!close_tag(p)) return NULL;
    jinja_node *body = parse_body(p, ends);
    if (!body) return NULL;
    p->t++; /* the end's name */
    return close_tag(p) ? body : NULL;
}

/** Names, or ns.member, with commas between. */
static bool parse_targets(parser *p, jinja_node *n) {
    do {
        const char *name = take_name(p);
        jinja_node *target = name ? node_new(p, JN_NAME) : NULL;
        if (!target) return false;
        target->name = name;
        if (skip_operator(p, ".") && !(target = parse_attribute(p, target))) return false;
        if (!node_append(p, n, target, NULL)) return false;
    } while (skip_operator(p, ","));
    return true;
}

static jinja_node *parse_for(parser *p) {
    static const char *const ends[] = {"endfor", "else", NULL};
    static const char *const last[] = {"endfor", NULL};
    jinja_node *n = node_new(p, JN_FOR);
    const bool bracket = skip_operator(p, "(");
    if (!n || !parse_targets(p, n) || (bracket && !expect_operator(p, ")"))) return NULL;
    if (!skip_name(p, "in")) return fail(p, "expected \"in\"");
    if (!(n->a = parse_tuple(p, false))) return NULL;
    if (skip_name(p, "if") && !(n->c = parse_expression(p))) return NULL;
    skip_name(p, "recursive");
    if (!close_tag(p)) return NULL;
    p->loops++;
    n->b = parse_body(p, ends);
    p->loops--;
    if (n->b && skip_name(p, "else")) {
        if (!close_tag(p) || !(n->d = parse_body(p, last))) return NULL;
    }
    if (!n->b) return NULL;
    p->t++;
    return close_tag(p) ? n : NULL;
}

static jinja_node *parse_if(parser *p) {
    static const char *const ends[] = {"endif", "else", "elif", NULL};
    static const char *const last[] = {"endif", NULL};
    jinja_node *first = NULL, **slot = &first;
    do { /* if, then each elif in the else branch of the one before */
        jinja_node *n = node_new(p, JN_BRANCH);
        if (!n || !(n->a = parse_tuple(p, true)) || !close_tag(p) || !(n->b = parse_body(p, ends)))
            return NULL;
        *slot = n;
        slot = &n->c;
    } while (skip_name(p, "elif"));
    if (skip_name(p, "else") && (!close_tag(p) || !(*slot = parse_body(p, last)))) return NULL;
    p->t++;
    return close_tag(p) ? first : NULL;
}

/** A chain of filters without a value in front: its innermost `a` stays NULL. */
static jinja_node *parse_filter_chain(parser *p) {
    jinja_node *n = parse_filter(p, NULL);
    while (n && skip_operator(p, "|")) n = parse_filter(p, n);
    return n;
}

static jinja_node *parse_set(parser *p) {
    jinja_node *n = node_new(p, JN_SET);
    if (!n || !parse_targets(p, n)) return NULL;
    if (skip_operator(p, "=")) return (n->a = parse_tuple(p, true)) && close_tag(p) ? n : NULL;
    n->kind = JN_SET_BLOCK;
    if (skip_operator(p, "|") && !(n->a = parse_filter_chain(p))) return NULL;
    return (n->b = parse_block(p, "endset")) ? n : NULL;
}

/** name(a, b=2): names and defaults; a default may be absent. */
static bool parse_parameters(parser *p, jinja_node *n) {
    if (!expect_operator(p, "(")) return false;
    while (!is_operator(p, ")")) {
        const char *name = take_name(p);
        jinja_node *value = NULL;
        if (!name || (skip_operator(p, "=") && !(value = parse_expression(p)))) return false;
        if (!node_append(p, n, value, name)) return false;
        if (!skip_operator(p, ",")) break;
    }
    return expect_operator(p, ")");
}

static jinja_node *parse_macro(parser *p) {
    jinja_node *n = node_new(p, JN_MACRO);
    if (!n || !(n->name = take_name(p)) || !parse_parameters(p, n)) return NULL;
    return (n->b = parse_block(p, "endmacro")) ? n : NULL;
}

static jinja_node *parse_call_block(parser *p) {
    jinja_node *n = node_new(p, JN_CALL_BLOCK);
    if (!n || (is_operator(p, "(") && !parse_parameters(p, n))) return NULL;
    n->a = parse_unary(p, false);
    if (!n->a || n->a->kind != JN_CALL) return fail(p, "expected a call");
    return (n->b = parse_block(p, "endcall")) ? n : NULL;
}

static jinja_node *parse_with(parser *p) {
    jinja_node *n = node_new(p, JN_WITH);
    if (!n) return NULL;
    while (p->t->kind != JT_TAG_END) {
        const char *name = take_name(p);
        if (!name || !expect_operator(p, "=")) return NULL;
        jinja_node *value = parse_expression(p);
        if (!value || !node_append(p, n, value, name)) return NULL;
        if (!skip_operator(p, ",")) break;
    }
    return (n->b = parse_block(p, "endwith")) ? n : NULL;
}

static jinja_node *parse_filter_block(parser *p) {
    jinja_node *n = node_new(p, JN_FILTER_BLOCK);
    if (!n || !(n->a = parse_filter_chain(p))) return NULL;
    return (n->b = parse_block(p, "endfilter")) ? n : NULL;
}

static jinja_node *parse_jump(parser *p, jinja_kind kind) {
    if (p->loops == 0) return fail(p, "break or continue outside a loop");
    jinja_node *n = node_new(p, kind);
    return n && close_tag(p) ? n : NULL;
}

static jinja_node *parse_statement(parser *p) {
    const char *name = take_name(p);
    if (!name) return NULL;
    if (strcmp(name, "for") == 0) return parse_for(p);
    if (strcmp(name, "if") == 0) return parse_if(p);
    if (strcmp(name, "set") == 0) return parse_set(p);
    if (strcmp(name, "macro") == 0) return parse_macro(p);
    if (strcmp(name, "call") == 0) return parse_call_block(p);
    if (strcmp(name, "with") == 0) return parse_with(p);
    if (strcmp(name, "filter") == 0) return parse_filter_block(p);
    if (strcmp(name, "generation") == 0) return parse_block(p, "endgeneration");
    if (strcmp(name, "break") == 0) return parse_jump(p, JN_BREAK);
    if (strcmp(name, "continue") == 0) return parse_jump(p, JN_CONTINUE);
    jinja_fail(p->j, "line %d: unknown tag \"%.60s\"", p->t->line, name);
    return NULL;
}

/** Whether the tag that begins here ends the body; the parser then stands on its name. */
static bool at_end(parser *p, const char *const *ends) {
    if (p->t->kind != JT_TAG_BEGIN) return false;
    for (; *ends; ends++) {
        if (p->t[1].kind != JT_NAME || strcmp(p->t[1].text, *ends) != 0) continue;
        p->t++;
        return true;
    }
    return false;
}

static jinja_node *parse_piece(parser *p) {
    if (p->t->kind == JT_TEXT) {
        jinja_node *text = node_new(p, JN_TEXT);
        if (text) text->value = (p->t++)->value;
        return text;
    }
    if (p->t->kind == JT_TAG_BEGIN) {
        p->t++;
        return parse_statement(p);
    }
    p->t++; /* {{ */
    jinja_node *print = node_new(p, JN_PRINT);
    if (!print || !(print->a = parse_tuple(p, true))) return NULL;
    if (p->t->kind != JT_PRINT_END) return fail(p, "expected the end of the expression");
    p->t++;
    return print;
}

static jinja_node *parse_body(parser *p, const char *const *ends) {
    static const char *const none[] = {NULL};
    if (++p->depth > JINJA_MAX_DEPTH) return fail(p, "nested too deeply");
    jinja_node *body = node_new(p, JN_BLOCK);
    while (body && !at_end(p, ends ? ends : none)) {
        if (p->t->kind == JT_END) {
            if (!ends) break;
            jinja_fail(p->j, "expected \"%s\" before the end", ends[0]);
            return NULL;
        }
        jinja_node *piece = parse_piece(p);
        if (!piece || !node_append(p, body, piece, NULL)) return NULL;
    }
    p->depth--;
    return body;
}

jinja_node *jinja_parse(jinja *j, const char *source, size_t size) {
    parser p = {.j = j, .t = jinja_tokens(j, source, size)};
    return p.t ? parse_body(&p, NULL) : NULL;
}
