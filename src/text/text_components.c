/* SPDX-License-Identifier: Apache-2.0
 *
 * What the component parsers share, and the byte-level alphabet.
 */
#include "text/text_components.h"

llava_status component_type(const json_t *value, const char *what, const char **type,
                            llava_error *err) {
    const json_t *member = json_object_get(value, "type");
    if (!json_is_string(member))
        return llava_fail(err, LLAVA_MALFORMED, "%s: expected an object with a \"type\", got %s",
                          what, json_kind(json_is_object(value) ? member : value));
    *type = json_string_value(member);
    return LLAVA_OK;
}

void *component_grow(component_memory *memory, void *items, size_t count, size_t *capacity,
                     size_t element_size, llava_error *err) {
    const char *what = memory->what ? memory->what : "tokenizer";
    if (count < *capacity) return items;
    if (count >= COMPONENT_MAX_STEPS) {
        llava_fail(err, LLAVA_UNSUPPORTED, "%s: more than %d steps", what, COMPONENT_MAX_STEPS);
        return NULL;
    }
    const size_t grown = *capacity ? 2 * *capacity : 4;
    void *copy = arena_array(memory->memory, grown, element_size);
    if (!copy) {
        llava_fail_memory(err, grown * element_size, what);
        return NULL;
    }
    if (count) memcpy(copy, items, count * element_size);
    *capacity = grown;
    return copy;
}

llava_status component_text(component_memory *memory, const json_t *value, const char *key,
                            const char *fallback, span *text, llava_error *err) {
    const char *what = memory->what;
    const json_t *member = json_get(value, key);
    if (member && !json_is_string(member))
        return llava_fail(err, LLAVA_MALFORMED, "%s: \"%s\": expected a string, got %s", what, key,
                          json_kind(member));
    if (!member && !fallback)
        return llava_fail(err, LLAVA_MALFORMED, "%s: \"%s\" is missing", what, key);
    const span found =
        member ? (span){json_string_value(member), json_string_length(member)} : span_of(fallback);
    *text = (span){arena_strndup(memory->memory, found.data, found.size), found.size};
    return text->data ? LLAVA_OK : llava_fail_memory(err, found.size, what);
}

/* ---------------------------------------------------------------- bytes as characters */

static bool is_printable(int byte) {
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

/* The other 68 bytes, ascending, are U+0100 to U+0143. */
int32_t byte_to_char(uint8_t byte) {
    if (is_printable(byte)) return byte;
    if (byte <= 0x20) return 0x100 + byte;
    if (byte <= 0xa0) return 0x121 + byte - 0x7f;
    return 0x143; /* 0xad */
}

int char_to_byte(int32_t code) {
    if (code >= 0 && code < 0x100) return is_printable((int)code) ? (int)code : -1;
    if (code >= 0x100 && code <= 0x120) return (int)(code - 0x100);
    if (code >= 0x121 && code <= 0x142) return (int)(code - 0x121 + 0x7f);
    return code == 0x143 ? 0xad : -1;
}

bool byte_level_append(const char *text, size_t size, bytes *out) {
    if (!bytes_reserve(out, 2 * size)) return false;
    for (size_t i = 0; i < size; i++) {
        const int32_t code = byte_to_char((uint8_t)text[i]);
        if (code < 0x80) {
            out->data[out->size++] = (char)code;
        } else {
            out->data[out->size++] = (char)(0xc0 | code >> 6);
            out->data[out->size++] = (char)(0x80 | (code & 0x3f));
        }
    }
    if (out->data) out->data[out->size] = '\0';
    return true;
}

bool byte_level_decode(span token, bytes *out) {
    const size_t start = out->size;
    for (size_t at = 0; at < token.size;) {
        int32_t code;
        at += utf8_decode(token.data + at, token.size - at, &code);
        const int byte = char_to_byte(code);
        const char c = (char)byte;
        if (byte < 0) {
            out->size = start;
            return bytes_append(out, token.data, token.size);
        }
        if (!bytes_append(out, &c, 1)) return false;
    }
    return true;
}
