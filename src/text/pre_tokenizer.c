/* SPDX-License-Identifier: Apache-2.0
 *
 * Pre-tokenizers of tokenizer.json: each step refines the words of the one before.
 */
#include <stdlib.h>

#include "text/text_components.h"

#define WHAT "tokenizer.json: pre_tokenizer"

llava_status pre_tokenizer_add(component_memory *memory, pre_tokenizer *p, pre_tokenizer_step step,
                               llava_error *err) {
    p->steps = component_grow(memory, p->steps, p->n_steps, &p->capacity, sizeof step, err);
    if (!p->steps) {
        p->n_steps = p->capacity = 0;
        return err ? err->code : LLAVA_UNSUPPORTED;
    }
    p->steps[p->n_steps++] = step;
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- parsing */

static llava_status parse_behaviour(const json_t *value, const char *fallback,
                                    split_behaviour *behaviour, llava_error *err) {
    static const char *const names[] = {
        [SPLIT_ISOLATED] = "Isolated",
        [SPLIT_REMOVED] = "Removed",
        [SPLIT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [SPLIT_MERGED_WITH_NEXT] = "MergedWithNext",
        [SPLIT_CONTIGUOUS] = "Contiguous",
    };
    const char *name;
    LLAVA_TRY(json_get_string(value, WHAT, "behavior", fallback, &name, err));
    for (size_t i = 0; name && i < LLAVA_COUNT(names); i++)
        if (!strcmp(name, names[i])) {
            *behaviour = (split_behaviour)i;
            return LLAVA_OK;
        }
    return llava_fail(err, LLAVA_MALFORMED, WHAT ": behavior \"%.40s\" is unknown",
                      name ? name : "null");
}

static llava_status parse_split(component_memory *memory, const json_t *value,
                                pre_tokenizer_step *step, llava_error *err) {
    split_pattern *pattern;
    step->kind = PRE_SPLIT;
    LLAVA_TRY(pattern_parse(memory, json_object_get(value, "pattern"), WHAT, &pattern, err));
    step->pattern = pattern;
    LLAVA_TRY(json_get_bool(value, WHAT, "invert", false, &step->invert, err));
    return parse_behaviour(value, NULL, &step->behaviour, err);
}

static llava_status parse_byte_level(component_memory *memory, const json_t *value,
                                     pre_tokenizer_step *step, llava_error *err) {
    static const char gpt2[] =
        "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    split_pattern *pattern;
    step->kind = PRE_BYTE_LEVEL;
    LLAVA_TRY(json_get_bool(value, WHAT, "add_prefix_space", true, &step->add_prefix_space, err));
    LLAVA_TRY(json_get_bool(value, WHAT, "use_regex", true, &step->use_regex, err));
    LLAVA_TRY(pattern_new_regex(memory, gpt2, sizeof gpt2 - 1, WHAT, &pattern, err));
    step->pattern = pattern;
    return LLAVA_OK;
}

static llava_status parse_metaspace(component_memory *memory, const json_t *value,
                                    pre_tokenizer_step *step, llava_error *err) {
    static const char *const schemes[] = {
        [PREPEND_ALWAYS] = "always", [PREPEND_FIRST] = "first", [PREPEND_NEVER] = "never"};
    const char *scheme;
    bool add_prefix_space;
    split_pattern *pattern;
    step->kind = PRE_METASPACE;
    LLAVA_TRY(component_text(memory, value, "replacement", SPACE_SYMBOL, &step->replacement, err));
    LLAVA_TRY(json_get_bool(value, WHAT, "split", true, &step->split, err));
    LLAVA_TRY(json_get_bool(value, WHAT, "add_prefix_space", true, &add_prefix_space, err));
    /* files of 2023 have the boolean alone */
    LLAVA_TRY(json_get_string(value, WHAT, "prepend_scheme", add_prefix_space ? "always" : "never",
                              &scheme, err));
    LLAVA_TRY(pattern_new_literal(memory, step->replacement, &pattern, err));
    step->pattern = pattern;
    step->behaviour = SPLIT_MERGED_WITH_NEXT;
    for (size_t i = 0; i < LLAVA_COUNT(schemes); i++)
        if (!strcmp(scheme, schemes[i])) {
            step->scheme = (prepend_scheme)i;
            return LLAVA_OK;
        }
    return llava_fail(err, LLAVA_MALFORMED, WHAT ": prepend_scheme \"%.40s\" is unknown", scheme);
}

static llava_status parse_step(component_memory *memory, const json_t *value, const char *type,
                               pre_tokenizer_step *step, llava_error *err) {
    *step = (pre_tokenizer_step){.behaviour = SPLIT_REMOVED};
    if (!strcmp(type, "Split")) return parse_split(memory, value, step, err);
    if (!strcmp(type, "ByteLevel")) return parse_byte_level(memory, value, step, err);
    if (!strcmp(type, "Metaspace")) return parse_metaspace(memory, value, step, err);
    if (!strcmp(type, "Digits")) {
        bool individual;
        step->kind = PRE_DIGITS;
        LLAVA_TRY(json_get_bool(value, WHAT, "individual_digits", false, &individual, err));
        step->behaviour = individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
        return LLAVA_OK;
    }
    if (!strcmp(type, "Punctuation")) {
        step->kind = PRE_PUNCTUATION;
        return parse_behaviour(value, "Isolated", &step->behaviour, err);
    }
    if (!strcmp(type, "CharDelimiterSplit")) {
        span delimiter;
        split_pattern *pattern;
        step->kind = PRE_SPLIT;
        LLAVA_TRY(component_text(memory, value, "delimiter", NULL, &delimiter, err));
        LLAVA_TRY(pattern_new_literal(memory, delimiter, &pattern, err));
        step->pattern = pattern;
        return LLAVA_OK;
    }
    if (!strcmp(type, "Whitespace"))
        step->kind = PRE_WHITESPACE;
    else if (!strcmp(type, "WhitespaceSplit"))
        step->kind = PRE_WHITESPACE_SPLIT;
    else if (!strcmp(type, "BertPreTokenizer"))
        step->kind = PRE_BERT;
    else
        return llava_fail(err, LLAVA_UNSUPPORTED, WHAT " of type \"%.40s\" is not supported", type);
    return LLAVA_OK;
}

static llava_status parse_nested(component_memory *memory, const json_t *value, int depth,
                                 pre_tokenizer *out, llava_error *err) {
    const char *type;
    LLAVA_TRY(component_type(value, WHAT, &type, err));
    if (strcmp(type, "Sequence") != 0) {
        pre_tokenizer_step step;
        LLAVA_TRY(parse_step(memory, value, type, &step, err));
        return pre_tokenizer_add(memory, out, step, err);
    }
    const json_t *members = json_object_get(value, "pretokenizers");
    if (!json_is_array(members) || depth >= COMPONENT_MAX_DEPTH)
        return llava_fail(err, LLAVA_MALFORMED,
                          WHAT ": Sequence: expected an array \"pretokenizers\" nested at most %d "
                               "deep, got %s",
                          COMPONENT_MAX_DEPTH, json_kind(members));
    size_t index;
    const json_t *member;
    json_array_foreach(members, index, member)
        LLAVA_TRY(parse_nested(memory, member, depth + 1, out, err));
    return LLAVA_OK;
}

llava_status pre_tokenizer_parse(component_memory *memory, const json_t *value, pre_tokenizer *out,
                                 llava_error *err) {
    memory->what = WHAT;
    *out = (pre_tokenizer){0};
    if (!value || json_is_null(value)) return LLAVA_OK;
    return parse_nested(memory, value, 0, out, err);
}

/* ---------------------------------------------------------------- words */

void word_list_free(word_list *list) {
    bytes_free(&list->text);
    free(list->items);
    *list = (word_list){0};
}

static bool word_list_add(word_list *list, size_t start, size_t size, bool at_start) {
    if (!size) return true;
    if (list->count == list->capacity) {
        const size_t capacity = list->capacity ? 2 * list->capacity : 64;
        word *items = realloc(list->items, capacity * sizeof *items);
        if (!items) return false;
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = (word){start, size, at_start};
    return true;
}

/* Joins cuts as the behaviour says: match flags become "leave out" flags. In place. */
static void merge_forward(cut_list *cuts, bool contiguous) {
    size_t n = 0;
    bool previous = false;
    for (size_t i = 0; i < cuts->count; i++) {
        const cut c = cuts->items[i];
        const bool joins = contiguous ? c.is_match == previous : c.is_match && !previous;
        previous = c.is_match;
        if (joins && n)
            cuts->items[n - 1].end = c.end;
        else
            cuts->items[n++] = (cut){c.start, c.end, false};
    }
    cuts->count = n;
}

static void merge_backward(cut_list *cuts) {
    size_t n = cuts->count;
    bool previous = false;
    for (size_t i = cuts->count; i-- > 0;) {
        const cut c = cuts->items[i];
        if (c.is_match && !previous && n < cuts->count)
            cuts->items[n].start = c.start;
        else
            cuts->items[--n] = (cut){c.start, c.end, false};
        previous = c.is_match;
    }
    memmove(cuts->items, cuts->items + n, (cuts->count - n) * sizeof(cut));
    cuts->count -= n;
}

static void apply_behaviour(cut_list *cuts, split_behaviour behaviour, bool invert) {
    for (size_t i = 0; invert && i < cuts->count; i++)
        cuts->items[i].is_match = !cuts->items[i].is_match;
    switch (behaviour) {
    case SPLIT_REMOVED: break;
    case SPLIT_ISOLATED:
        for (size_t i = 0; i < cuts->count; i++) cuts->items[i].is_match = false;
        break;
    case SPLIT_CONTIGUOUS: merge_forward(cuts, true); break;
    case SPLIT_MERGED_WITH_PREVIOUS: merge_forward(cuts, false); break;
    case SPLIT_MERGED_WITH_NEXT: merge_backward(cuts); break;
    }
}

/* ---------------------------------------------------------------- cutting by characters */

/* Class of a character for the steps that go by classes; words are runs of one class. */
static int class_of(pre_tokenizer_kind kind, int32_t code) {
    switch (kind) {
    case PRE_DIGITS: return char_is_number(code);
    case PRE_WHITESPACE_SPLIT: return char_is_space(code);
    case PRE_PUNCTUATION: return char_is_punctuation(code);
    case PRE_WHITESPACE: return char_is_space(code) ? 1 : char_is_word(code) ? 0 : 2;
    default: return char_is_space(code) ? 1 : char_is_punctuation(code) ? 3 : 0;
    }
}

/* Classes: 0 an ordinary run, 1 a match of its own, 2 an ordinary run of another kind, 3 one
 * character kept as a word of its own. */
static bool cut_classes(pre_tokenizer_kind kind, const char *text, size_t size, cut_list *cuts) {
    size_t start = 0;
    int previous = -1;
    for (size_t at = 0; at < size;) {
        int32_t code;
        const size_t length = utf8_decode(text + at, size - at, &code);
        const int class = class_of(kind, code);
        if (previous >= 0 && (class != previous || class == 1 || class == 3)) {
            if (!cut_list_add(cuts, start, at, previous == 1)) return false;
            start = at;
        }
        previous = class;
        at += length;
    }
    return start == size || cut_list_add(cuts, start, size, previous == 1);
}

/* ---------------------------------------------------------------- steps */

/* What the step does to the text of a word before cutting. */
static bool rewrite(const pre_tokenizer_step *step, const char *text, const word *w, bytes *out) {
    const char *at = text + w->start;
    if (step->kind == PRE_BYTE_LEVEL)
        return !(step->add_prefix_space && at[0] != ' ')
                   ? bytes_append(out, at, w->size)
                   : bytes_append(out, " ", 1) && bytes_append(out, at, w->size);
    if (step->kind != PRE_METASPACE) return bytes_append(out, at, w->size);
    const span symbol = step->replacement;
    const bool has_symbol =
        at[0] == ' ' || (w->size >= symbol.size && memcmp(at, symbol.data, symbol.size) == 0);
    const bool wants =
        step->scheme == PREPEND_ALWAYS || (step->scheme == PREPEND_FIRST && w->at_start);
    if (wants && !has_symbol && !bytes_append(out, symbol.data, symbol.size)) return false;
    return replace_append((span){at, w->size}, span_of(" "), symbol, out);
}

static llava_status cut_word(const pre_tokenizer_step *step, const char *text, size_t size,
                             cut_list *cuts, llava_error *err) {
    bool ok = true;
    cuts->count = 0;
    switch (step->kind) {
    case PRE_SPLIT: LLAVA_TRY(pattern_cut(step->pattern, text, size, cuts, err)); break;
    case PRE_BYTE_LEVEL:
        if (step->use_regex)
            LLAVA_TRY(pattern_cut(step->pattern, text, size, cuts, err));
        else
            ok = cut_list_add(cuts, 0, size, false);
        for (size_t i = 0; i < cuts->count; i++) cuts->items[i].is_match = false;
        break;
    case PRE_METASPACE:
        if (step->split)
            LLAVA_TRY(pattern_cut(step->pattern, text, size, cuts, err));
        else
            ok = cut_list_add(cuts, 0, size, false);
        break;
    default: ok = cut_classes(step->kind, text, size, cuts);
    }
    if (!ok) return llava_fail_memory(err, size, "splitting text");
    if (step->kind != PRE_BYTE_LEVEL && (step->kind != PRE_METASPACE || step->split))
        apply_behaviour(cuts, step->behaviour, step->invert);
    return LLAVA_OK;
}

/* One step over all words. */
typedef struct step_run {
    const pre_tokenizer_step *step;
    const word_list *from;
    word_list *to;
    bytes raw; /* ByteLevel: a word before its bytes are spelled */
    cut_list cuts;
    llava_error *err;
} step_run;

/* Rewrites one word into to->text, cuts it, and for ByteLevel spells its bytes. */
static llava_status run_word(step_run *run, const word *w) {
    const bool spell = run->step->kind == PRE_BYTE_LEVEL;
    word_list *to = run->to;
    bytes *text = spell ? &run->raw : &to->text;
    if (spell) run->raw.size = 0;
    const size_t base = text->size;
    if (!rewrite(run->step, run->from->text.data, w, text))
        return llava_fail_memory(run->err, w->size, "splitting text");
    LLAVA_TRY(cut_word(run->step, text->data + base, text->size - base, &run->cuts, run->err));
    for (size_t i = 0; i < run->cuts.count; i++) {
        const cut c = run->cuts.items[i];
        size_t start = base + c.start, size = c.end - c.start;
        bool ok = true;
        if (c.is_match) continue;
        if (spell) {
            start = to->text.size;
            ok = byte_level_append(run->raw.data + c.start, size, &to->text);
            size = to->text.size - start;
        }
        if (!ok || !word_list_add(to, start, size, w->at_start && c.start == 0))
            return llava_fail_memory(run->err, size, "splitting text");
    }
    return LLAVA_OK;
}

static llava_status run_step(step_run *run) {
    run->to->count = 0;
    run->to->text.size = 0;
    for (size_t i = 0; i < run->from->count; i++) LLAVA_TRY(run_word(run, &run->from->items[i]));
    return LLAVA_OK;
}

llava_status pre_tokenizer_run(const pre_tokenizer *p, span text, bool at_start, word_list *words,
                               word_list *spare, llava_error *err) {
    step_run run = {.from = words, .to = spare, .err = err};
    llava_status status = LLAVA_OK;
    words->count = 0;
    words->text.size = 0;
    if (!bytes_append(&words->text, text.data, text.size) ||
        !word_list_add(words, 0, text.size, at_start))
        return llava_fail_memory(err, text.size, "splitting text");
    for (size_t s = 0; status == LLAVA_OK && s < p->n_steps; s++) {
        run.step = &p->steps[s];
        status = run_step(&run);
        const word_list swap = *words;
        *words = *spare;
        *spare = swap;
    }
    bytes_free(&run.raw);
    cut_list_free(&run.cuts);
    return status;
}
