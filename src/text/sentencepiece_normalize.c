/* SPDX-License-Identifier: Apache-2.0
 *
 * SentencePiece's normaliser: user-defined pieces, character map, white space.
 */
#include "text/sentencepiece.h"

/* ---------------------------------------------------------------- character map */

static uint32_t read_u32(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

llava_status charsmap_parse(const uint8_t *blob, size_t size, const char *what, charsmap *map,
                            llava_error *err) {
    *map = (charsmap){0};
    if (!size) return LLAVA_OK;
    const uint32_t trie_size = size >= 4 ? read_u32(blob) : 0;
    if (size < 4 || trie_size > size - 4 || trie_size % 4 || trie_size < 4)
        return llava_fail(err, LLAVA_MALFORMED,
                          "%s: precompiled_charsmap of %zu bytes has a trie of %u bytes", what,
                          size, trie_size);
    map->units = blob + 4;
    map->n_units = trie_size / 4;
    map->pool = (const char *)blob + 4 + trie_size;
    map->pool_size = size - 4 - trie_size;
    if (!map->pool_size || map->pool[map->pool_size - 1])
        return llava_fail(err, LLAVA_MALFORMED,
                          "%s: the replacements of precompiled_charsmap do not end in NUL", what);
    return LLAVA_OK;
}

/* darts-clone's units: bits 10.. offset, bit 9 its scale, bit 8 "has a value", low byte label. */
static uint32_t unit_offset(uint32_t unit) { return (unit >> 10) << ((unit & 0x200u) >> 6); }

size_t charsmap_match(const charsmap *map, const char *text, size_t size, bool shortest,
                      span *replacement) {
    if (!map->n_units) return 0;
    size_t length = 0;
    size_t at = unit_offset(read_u32(map->units));
    for (size_t i = 0; i < size; i++) {
        const uint8_t byte = (uint8_t)text[i];
        at ^= byte;
        if (at >= map->n_units) break;
        const uint32_t unit = read_u32(map->units + 4 * at);
        if ((unit & 0x800000ffu) != byte) break;
        at ^= unit_offset(unit);
        if (at >= map->n_units) break;
        if (!(unit >> 8 & 1)) continue;
        const uint32_t value = read_u32(map->units + 4 * at) & 0x7fffffffu;
        if (value >= map->pool_size) break;
        *replacement = span_of(map->pool + value); /* the pool ends in NUL */
        length = i + 1;
        if (shortest) break;
    }
    return length;
}

/* ---------------------------------------------------------------- normaliser */

/* What the start of the text becomes, and how much of it. */
static size_t normalize_prefix(const spm_model *model, const char *text, size_t size,
                               span *output) {
    size_t length = 0;
    if (prefix_longest(&model->user_defined, text, size, &length) >= 0) {
        *output = (span){text, length};
        return length;
    }
    length = charsmap_match(&model->charsmap, text, size, false, output);
    if (length) return length;
    int32_t code;
    length = utf8_decode(text, size, &code);
    *output = code < 0 ? span_of(REPLACEMENT_CHARACTER) : (span){text, length};
    return length;
}

static span space_of(const spm_model *model) {
    return span_of(model->escape_whitespaces ? SPACE_SYMBOL : " ");
}

static bool append_escaped(const spm_model *model, span chunk, bytes *out) {
    return replace_append(chunk, span_of(" "), space_of(model), out);
}

/* The whole text with leading white space already taken off. */
static bool normalize_rest(const spm_model *model, const char *text, size_t size, bytes *out) {
    const bool trims = model->remove_extra_whitespaces;
    bool after_space = trims;
    while (size) {
        span chunk;
        const size_t used = normalize_prefix(model, text, size, &chunk);
        while (after_space && chunk.size && chunk.data[0] == ' ') chunk.data++, chunk.size--;
        if (chunk.size) {
            if (!append_escaped(model, chunk, out)) return false;
            after_space = trims && chunk.data[chunk.size - 1] == ' ';
        }
        text += used;
        size -= used;
    }
    return true;
}

bool spm_normalize(const spm_model *model, bool dummy_prefix, const char *text, size_t size,
                   bytes *out) {
    while (model->remove_extra_whitespaces && size) {
        span chunk;
        const size_t used = normalize_prefix(model, text, size, &chunk);
        if (chunk.size != 1 || chunk.data[0] != ' ') break;
        text += used;
        size -= used;
    }
    if (!size) return true;
    const size_t start = out->size;
    const span space = space_of(model);
    const bool suffix = model->whitespace_as_suffix;
    if (dummy_prefix && !suffix && !bytes_append(out, space.data, space.size)) return false;
    if (!normalize_rest(model, text, size, out)) return false;
    while (model->remove_extra_whitespaces && out->size - start >= space.size &&
           memcmp(out->data + out->size - space.size, space.data, space.size) == 0)
        out->size -= space.size;
    return !(dummy_prefix && suffix) || bytes_append(out, space.data, space.size);
}
