/* SPDX-License-Identifier: Apache-2.0
 *
 * Normalizers of tokenizer.json.
 */
#include <stdlib.h>
#include <utf8proc.h>

#include "text/text_components.h"

#define WHAT "tokenizer.json: normalizer"
/* The map is tried on grapheme clusters of fewer bytes (tokenizers 0.19, precompiled.rs). */
#define CHARSMAP_MAX_CLUSTER 6

llava_status normalizer_add(component_memory *memory, normalizer *n, normalizer_step step,
                            llava_error *err) {
    n->steps = component_grow(memory, n->steps, n->n_steps, &n->capacity, sizeof step, err);
    if (!n->steps) {
        n->n_steps = n->capacity = 0;
        return err ? err->code : LLAVA_UNSUPPORTED;
    }
    n->steps[n->n_steps++] = step;
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- parsing */

/* Standard base64; false when broken. */
static bool decode_base64(span text, uint8_t *out, size_t *size) {
    uint32_t bits = 0;
    int n_bits = 0;
    size_t n = 0;
    while (text.size && text.data[text.size - 1] == '=') text.size--;
    for (size_t i = 0; i < text.size; i++) {
        const char c = text.data[i];
        int value;
        if (c >= 'A' && c <= 'Z')
            value = c - 'A';
        else if (c >= 'a' && c <= 'z')
            value = c - 'a' + 26;
        else if (c >= '0' && c <= '9')
            value = c - '0' + 52;
        else if (c == '+')
            value = 62;
        else if (c == '/')
            value = 63;
        else
            return false;
        bits = bits << 6 | (uint32_t)value;
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            out[n++] = (uint8_t)(bits >> n_bits);
        }
    }
    *size = n;
    return true;
}

static llava_status parse_charsmap(component_memory *memory, const json_t *value,
                                   normalizer_step *step, llava_error *err) {
    const json_t *text = json_object_get(value, "precompiled_charsmap");
    if (!json_is_string(text))
        return llava_fail(err, LLAVA_MALFORMED,
                          WHAT ": \"precompiled_charsmap\": expected a string, got %s",
                          json_kind(text));
    const span encoded = {json_string_value(text), json_string_length(text)};
    uint8_t *blob = arena_alloc(memory->memory, encoded.size / 4 * 3 + 3);
    size_t size = 0;
    if (!blob) return llava_fail_memory(err, encoded.size, "the character map");
    if (!decode_base64(encoded, blob, &size))
        return llava_fail(err, LLAVA_MALFORMED, WHAT ": \"precompiled_charsmap\" is not base64");
    step->kind = NORMALIZER_CHARSMAP;
    return charsmap_parse(blob, size, "tokenizer.json", &step->charsmap, err);
}

static const struct {
    const char *type;
    normalizer_kind kind;
    normal_form form;
} plain_types[] = {
    {"NFC", NORMALIZER_FORM, FORM_NFC},
    {"NFD", NORMALIZER_FORM, FORM_NFD},
    {"NFKC", NORMALIZER_FORM, FORM_NFKC},
    {"NFKD", NORMALIZER_FORM, FORM_NFKD},
    {"Lowercase", NORMALIZER_LOWERCASE, FORM_NFC},
    {"StripAccents", NORMALIZER_STRIP_ACCENTS, FORM_NFC},
    {"Nmt", NORMALIZER_NMT, FORM_NFC},
};

static llava_status parse_step(component_memory *memory, const json_t *value, const char *type,
                               normalizer_step *step, llava_error *err) {
    *step = (normalizer_step){0};
    for (size_t i = 0; i < LLAVA_COUNT(plain_types); i++)
        if (!strcmp(type, plain_types[i].type)) {
            step->kind = plain_types[i].kind;
            step->form = plain_types[i].form;
            return LLAVA_OK;
        }
    if (!strcmp(type, "Strip")) {
        step->kind = NORMALIZER_STRIP;
        LLAVA_TRY(json_get_bool(value, WHAT, "strip_left", true, &step->left, err));
        return json_get_bool(value, WHAT, "strip_right", true, &step->right, err);
    }
    if (!strcmp(type, "Prepend")) {
        step->kind = NORMALIZER_PREPEND;
        return component_text(memory, value, "prepend", NULL, &step->text, err);
    }
    if (!strcmp(type, "Replace")) {
        split_pattern *pattern;
        step->kind = NORMALIZER_REPLACE;
        LLAVA_TRY(pattern_parse(memory, json_object_get(value, "pattern"), WHAT, &pattern, err));
        step->pattern = pattern;
        return component_text(memory, value, "content", NULL, &step->text, err);
    }
    if (!strcmp(type, "Precompiled")) return parse_charsmap(memory, value, step, err);
    return llava_fail(err, LLAVA_UNSUPPORTED, WHAT " of type \"%.40s\" is not supported", type);
}

static llava_status parse_nested(component_memory *memory, const json_t *value, int depth,
                                 normalizer *out, llava_error *err) {
    const char *type;
    LLAVA_TRY(component_type(value, WHAT, &type, err));
    if (strcmp(type, "Sequence") != 0) {
        normalizer_step step;
        LLAVA_TRY(parse_step(memory, value, type, &step, err));
        return normalizer_add(memory, out, step, err);
    }
    const json_t *members = json_object_get(value, "normalizers");
    if (!json_is_array(members) || depth >= COMPONENT_MAX_DEPTH)
        return llava_fail(err, LLAVA_MALFORMED,
                          WHAT ": Sequence: expected an array \"normalizers\" nested at most %d "
                               "deep, got %s",
                          COMPONENT_MAX_DEPTH, json_kind(members));
    size_t index;
    const json_t *member;
    json_array_foreach(members, index, member)
        LLAVA_TRY(parse_nested(memory, member, depth + 1, out, err));
    return LLAVA_OK;
}

llava_status normalizer_parse(component_memory *memory, const json_t *value, normalizer *out,
                              llava_error *err) {
    memory->what = WHAT;
    *out = (normalizer){0};
    if (!value || json_is_null(value)) return LLAVA_OK;
    return parse_nested(memory, value, 0, out, err);
}

/* ---------------------------------------------------------------- running */

static bool append_code(bytes *out, int32_t code) {
    char utf8[4];
    return bytes_append(out, utf8, utf8_encode(code, utf8));
}

/* Nmt (tokenizers 0.19, normalizers/unicode.rs): controls vanish, other white space is a space. */
static bool append_nmt(int32_t c, bytes *out) {
    if ((c >= 1 && c <= 8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f || c == 0x8f ||
        c == 0x9f)
        return true;
    const bool is_space = c == 9 || c == 0xa || c == 0xc || c == 0xd || c == 0x1680 ||
                          (c >= 0x200b && c <= 0x200f) || c == 0x2028 || c == 0x2029 ||
                          c == 0x2581 || c == 0xfeff || c == 0xfffd;
    return append_code(out, is_space ? ' ' : c);
}

static bool append_mapped(normalizer_kind kind, int32_t code, bytes *out) {
    if (kind == NORMALIZER_NMT) return append_nmt(code, out);
    if (kind == NORMALIZER_STRIP_ACCENTS) return char_is_mark(code) || append_code(out, code);
    int32_t lower[2];
    const size_t n = lower_case(code, lower);
    return append_code(out, lower[0]) && (n < 2 || append_code(out, lower[1]));
}

static bool map_characters(normalizer_kind kind, const char *text, size_t size, bytes *out) {
    for (size_t at = 0; at < size;) {
        int32_t code;
        at += utf8_decode(text + at, size - at, &code);
        if (!append_mapped(kind, code, out)) return false;
    }
    return true;
}

static llava_status replace_matches(const normalizer_step *step, const char *text, size_t size,
                                    bytes *out, llava_error *err) {
    cut_list cuts = {0};
    llava_status status = pattern_cut(step->pattern, text, size, &cuts, err);
    for (size_t i = 0; status == LLAVA_OK && i < cuts.count; i++) {
        const cut *c = &cuts.items[i];
        const bool ok = c->is_match ? bytes_append(out, step->text.data, step->text.size)
                                    : bytes_append(out, text + c->start, c->end - c->start);
        if (!ok) status = llava_fail_memory(err, size, "normalising text");
    }
    cut_list_free(&cuts);
    return status;
}

/* What the map has for the shortest start of a short cluster stands for the whole cluster, as in
 * the library; otherwise it goes by characters. */
static bool map_cluster(const charsmap *map, const char *text, size_t size, bytes *out) {
    span replacement;
    if (size < CHARSMAP_MAX_CLUSTER && charsmap_match(map, text, size, true, &replacement))
        return bytes_append(out, replacement.data, replacement.size);
    for (size_t at = 0; at < size;) {
        const size_t length = utf8_length(text + at, size - at);
        const bool mapped = charsmap_match(map, text + at, length, true, &replacement) > 0;
        if (!(mapped ? bytes_append(out, replacement.data, replacement.size)
                     : bytes_append(out, text + at, length)))
            return false;
        at += length;
    }
    return true;
}

static bool map_clusters(const charsmap *map, const char *text, size_t size, bytes *out) {
    size_t start = 0, at = 0;
    int32_t state = 0, previous = -1;
    while (at < size) {
        int32_t code;
        const size_t length = utf8_decode(text + at, size - at, &code);
        if (previous >= 0 && utf8proc_grapheme_break_stateful(previous, code, &state)) {
            if (!map_cluster(map, text + start, at - start, out)) return false;
            start = at;
        }
        previous = code;
        at += length;
    }
    return start == size || map_cluster(map, text + start, size - start, out);
}

static llava_status run_step(const normalizer_step *step, const char *text, size_t size, bytes *out,
                             llava_error *err) {
    bool ok = true;
    switch (step->kind) {
    case NORMALIZER_FORM: ok = normal_form_append(step->form, text, size, out); break;
    case NORMALIZER_LOWERCASE:
    case NORMALIZER_STRIP_ACCENTS:
    case NORMALIZER_NMT: ok = map_characters(step->kind, text, size, out); break;
    case NORMALIZER_STRIP: {
        const size_t end = size - (step->right ? spaces_at_end(text, size, false) : 0);
        const size_t start = step->left ? spaces_at_start(text, end, false) : 0;
        ok = bytes_append(out, text + start, end - start);
        break;
    }
    case NORMALIZER_PREPEND:
        ok = !size ||
             (bytes_append(out, step->text.data, step->text.size) && bytes_append(out, text, size));
        break;
    case NORMALIZER_REPLACE:
        if (step->pattern->kind != PATTERN_LITERAL)
            return replace_matches(step, text, size, out, err);
        ok = replace_append((span){text, size}, step->pattern->literal, step->text, out);
        break;
    case NORMALIZER_CHARSMAP: ok = map_clusters(&step->charsmap, text, size, out); break;
    }
    return ok ? LLAVA_OK : llava_fail_memory(err, size, "normalising text");
}

llava_status normalizer_run(const normalizer *n, const char *text, size_t size, bytes *out,
                            llava_error *err) {
    if (n->n_steps == 1) return run_step(&n->steps[0], text, size, out, err);
    bytes now = {0}, next = {0};
    llava_status status = LLAVA_OK;
    if (!bytes_append(&now, text, size)) status = llava_fail_memory(err, size, "normalising text");
    for (size_t i = 0; status == LLAVA_OK && i < n->n_steps; i++) {
        next.size = 0;
        status = run_step(&n->steps[i], now.data ? now.data : "", now.size, &next, err);
        const bytes swap = now;
        now = next;
        next = swap;
    }
    if (status == LLAVA_OK && !bytes_append(out, now.data, now.size))
        status = llava_fail_memory(err, now.size, "normalising text");
    bytes_free(&now);
    bytes_free(&next);
    return status;
}
