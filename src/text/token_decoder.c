/* SPDX-License-Identifier: Apache-2.0
 *
 * Parsing the decoder of tokenizer.json.
 */
#include "text/text_components.h"

#define WHAT "tokenizer.json: decoder"

llava_status token_decoder_add(component_memory *memory, token_decoder *d, decoder_step step,
                               llava_error *err) {
    d->steps = component_grow(memory, d->steps, d->n_steps, &d->capacity, sizeof step, err);
    if (!d->steps) {
        d->n_steps = d->capacity = 0;
        return err ? err->code : LLAVA_UNSUPPORTED;
    }
    const decoder_step *last = d->n_steps ? &d->steps[d->n_steps - 1] : NULL;
    step.fused =
        last && (last->fused || last->kind == DECODER_FUSE || last->kind == DECODER_BYTE_LEVEL);
    d->steps[d->n_steps++] = step;
    return LLAVA_OK;
}

static llava_status parse_strip(component_memory *memory, const json_t *value, decoder_step *step,
                                llava_error *err) {
    int64_t start, stop;
    step->kind = DECODER_STRIP;
    LLAVA_TRY(component_text(memory, value, "content", " ", &step->text, err));
    LLAVA_TRY(json_get_i64(value, WHAT, "start", 0, &start, err));
    LLAVA_TRY(json_get_i64(value, WHAT, "stop", 0, &stop, err));
    int32_t code;
    const size_t length = utf8_decode(step->text.data, step->text.size, &code);
    if (start < 0 || stop < 0 || start > 4096 || stop > 4096 || !length ||
        length != step->text.size)
        return llava_fail(err, LLAVA_MALFORMED,
                          WHAT ": Strip of \"%.40s\", start %lld, stop %lld: expected one "
                               "character and counts from 0 to 4096",
                          step->text.data, (long long)start, (long long)stop);
    step->left = (size_t)start;
    step->right = (size_t)stop;
    return LLAVA_OK;
}

static llava_status parse_metaspace(component_memory *memory, const json_t *value,
                                    decoder_step *step, llava_error *err) {
    bool add_prefix_space;
    const char *scheme;
    step->kind = DECODER_METASPACE;
    LLAVA_TRY(component_text(memory, value, "replacement", SPACE_SYMBOL, &step->text, err));
    LLAVA_TRY(json_get_bool(value, WHAT, "add_prefix_space", true, &add_prefix_space, err));
    LLAVA_TRY(json_get_string(value, WHAT, "prepend_scheme", add_prefix_space ? "always" : "never",
                              &scheme, err));
    step->never = !strcmp(scheme, "never");
    return LLAVA_OK;
}

static llava_status parse_step(component_memory *memory, const json_t *value, const char *type,
                               decoder_step *step, llava_error *err) {
    *step = (decoder_step){0};
    if (!strcmp(type, "Replace")) {
        split_pattern *pattern;
        step->kind = DECODER_REPLACE;
        LLAVA_TRY(pattern_parse(memory, json_object_get(value, "pattern"), WHAT, &pattern, err));
        step->pattern = pattern;
        return component_text(memory, value, "content", NULL, &step->text, err);
    }
    if (!strcmp(type, "Strip")) return parse_strip(memory, value, step, err);
    if (!strcmp(type, "Metaspace")) return parse_metaspace(memory, value, step, err);
    if (!strcmp(type, "WordPiece")) {
        step->kind = DECODER_WORD_PIECE;
        LLAVA_TRY(json_get_bool(value, WHAT, "cleanup", true, &step->cleanup, err));
        return component_text(memory, value, "prefix", "##", &step->text, err);
    }
    if (!strcmp(type, "BPEDecoder")) {
        step->kind = DECODER_BPE;
        return component_text(memory, value, "suffix", "</w>", &step->text, err);
    }
    if (!strcmp(type, "ByteFallback"))
        step->kind = DECODER_BYTE_FALLBACK;
    else if (!strcmp(type, "Fuse"))
        step->kind = DECODER_FUSE;
    else if (!strcmp(type, "ByteLevel"))
        step->kind = DECODER_BYTE_LEVEL;
    else
        return llava_fail(err, LLAVA_UNSUPPORTED, WHAT " of type \"%.40s\" is not supported", type);
    return LLAVA_OK;
}

static llava_status parse_nested(component_memory *memory, const json_t *value, int depth,
                                 token_decoder *out, llava_error *err) {
    const char *type;
    LLAVA_TRY(component_type(value, WHAT, &type, err));
    if (strcmp(type, "Sequence") != 0) {
        decoder_step step;
        LLAVA_TRY(parse_step(memory, value, type, &step, err));
        return token_decoder_add(memory, out, step, err);
    }
    const json_t *members = json_object_get(value, "decoders");
    if (!json_is_array(members) || depth >= COMPONENT_MAX_DEPTH)
        return llava_fail(err, LLAVA_MALFORMED,
                          WHAT ": Sequence: expected an array \"decoders\" nested at most %d "
                               "deep, got %s",
                          COMPONENT_MAX_DEPTH, json_kind(members));
    size_t index;
    const json_t *member;
    json_array_foreach(members, index, member)
        LLAVA_TRY(parse_nested(memory, member, depth + 1, out, err));
    return LLAVA_OK;
}

llava_status token_decoder_parse(component_memory *memory, const json_t *value, token_decoder *out,
                                 llava_error *err) {
    memory->what = WHAT;
    *out = (token_decoder){0};
    if (!value || json_is_null(value))
        return token_decoder_add(memory, out, (decoder_step){.kind = DECODER_JOIN}, err);
    return parse_nested(memory, value, 0, out, err);
}
