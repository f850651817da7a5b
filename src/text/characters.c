/* SPDX-License-Identifier: Apache-2.0
 *
 * Character classes and normal forms. Letters and numbers come from our own tables of Unicode
 * 14.0; marks, punctuation and normal forms from utf8proc.
 */
#include <stdlib.h>
#include <utf8proc.h>

#include "text/characters.h"

static bool in_ranges(const char_range *ranges, size_t count, int32_t code) {
    size_t low = 0, high = count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (code > ranges[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && code >= ranges[low].first;
}

bool char_is_letter(int32_t code) {
    if (code < 0x80) return (code | 32) >= 'a' && (code | 32) <= 'z';
    if (code >= 0x4e00 && code <= 0x9fff) return true; /* CJK, most of what is not Latin */
    return in_ranges(letter_ranges, n_letter_ranges, code);
}

bool char_is_number(int32_t code) {
    if (code < 0x80) return code >= '0' && code <= '9';
    return in_ranges(number_ranges, n_number_ranges, code);
}

bool char_is_space(int32_t code) {
    if (code < 0x80) return code == ' ' || (code >= 9 && code <= 13);
    return code == 0x85 || code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) ||
           code == 0x2028 || code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

bool char_is_mark(int32_t code) {
    const utf8proc_category_t category = utf8proc_category(code);
    return category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME;
}

bool char_is_punctuation(int32_t code) {
    if (code < 0x80)
        return code > ' ' && code < 127 && !char_is_letter(code) && !char_is_number(code);
    const utf8proc_category_t category = utf8proc_category(code);
    return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

bool char_is_word(int32_t code) {
    if (code < 0x80) return code == '_' || char_is_letter(code) || char_is_number(code);
    const utf8proc_category_t category = utf8proc_category(code);
    if (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) return true;
    if (category == UTF8PROC_CATEGORY_PC || code == 0x200c || code == 0x200d) return true;
    /* Other_Alphabetic outside the letters and marks: circled, squared letters */
    return (code >= 0x24b6 && code <= 0x24e9) || (code >= 0x1f130 && code <= 0x1f149) ||
           (code >= 0x1f150 && code <= 0x1f169) || (code >= 0x1f170 && code <= 0x1f189);
}

size_t utf8_length(const char *text, size_t size) {
    const uint8_t lead = (uint8_t)text[0];
    const size_t length = lead < 0xc0 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    return length < size ? length : size;
}

bool utf8_valid(const char *text, size_t size) {
    for (size_t i = 0; i < size;) {
        int32_t code = (uint8_t)text[i];
        if (code < 0x80)
            i++;
        else
            i += utf8_decode(text + i, size - i, &code);
        if (code < 0) return false;
    }
    return true;
}

size_t utf8_last(const char *text, size_t size) {
    size_t at = size;
    while (at && size - at < 4) {
        at--;
        if (((uint8_t)text[at] & 0xc0) != 0x80) break;
    }
    return at;
}

bool utf8_sanitize(const char *text, size_t size, bytes *out) {
    for (size_t i = 0; i < size;) {
        int32_t code;
        const size_t length = utf8_decode(text + i, size - i, &code);
        const bool ok = code < 0 ? bytes_append(out, REPLACEMENT_CHARACTER, 3)
                                 : bytes_append(out, text + i, length);
        if (!ok) return false;
        i += length;
    }
    return true;
}

/* Bounds of the second byte for a lead byte (table 3-7 of the Unicode standard). */
static bool second_byte_fits(uint8_t lead, uint8_t second) {
    const uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    const uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    return second >= low && second <= high;
}

size_t utf8_lossy_next(const char *text, size_t size, bool *bad) {
    *bad = true;
    if (!size) return 0;
    const uint8_t lead = (uint8_t)text[0];
    if (lead < 0x80) {
        *bad = false;
        return 1;
    }
    if (lead < 0xc2 || lead > 0xf4) return 1;
    const size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    for (size_t i = 1; i < length; i++) {
        if (i == size) return 0;
        const uint8_t next = (uint8_t)text[i];
        const bool fits = i == 1 ? second_byte_fits(lead, next) : (next & 0xc0) == 0x80;
        if (!fits) return i;
    }
    *bad = false;
    return length;
}

static bool is_space(int32_t code, bool python) {
    return char_is_space(code) || (python && code >= 0x1c && code <= 0x1f);
}

size_t spaces_at_end(const char *text, size_t size, bool python) {
    size_t end = size;
    while (end) {
        const size_t at = utf8_last(text, end);
        int32_t code;
        if (utf8_decode(text + at, end - at, &code) != end - at || !is_space(code, python)) break;
        end = at;
    }
    return size - end;
}

size_t spaces_at_start(const char *text, size_t size, bool python) {
    size_t at = 0;
    while (at < size) {
        int32_t code;
        const size_t length = utf8_decode(text + at, size - at, &code);
        if (!is_space(code, python)) break;
        at += length;
    }
    return at;
}

bool normal_form_append(normal_form form, const char *text, size_t size, bytes *out) {
    static const int options[] = {
        [FORM_NFC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE,
        [FORM_NFD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
        [FORM_NFKC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
        [FORM_NFKD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
    };
    size_t ascii = 0;
    while (ascii < size && (uint8_t)text[ascii] < 0x80) ascii++;
    if (ascii == size) return bytes_append(out, text, size);
    utf8proc_uint8_t *result = NULL;
    const utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)size,
                                            &result, (utf8proc_option_t)options[form]);
    const bool ok = n >= 0 && bytes_append(out, result, (size_t)n);
    free(result);
    return ok;
}

size_t lower_case(int32_t code, int32_t out[2]) {
    if (code == 0x130) { /* the only character whose lower case is two (SpecialCasing.txt) */
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    out[0] = utf8proc_tolower(code);
    return 1;
}

bool replace_append(span text, span from, span to, bytes *out) {
    if (!from.size) return bytes_append(out, text.data, text.size);
    size_t at = 0;
    while (at < text.size) {
        const char *found = memmem(text.data + at, text.size - at, from.data, from.size);
        const size_t end = found ? (size_t)(found - text.data) : text.size;
        if (!bytes_append(out, text.data + at, end - at)) return false;
        if (!found) break;
        if (!bytes_append(out, to.data, to.size)) return false;
        at = end + from.size;
    }
    return true;
}
