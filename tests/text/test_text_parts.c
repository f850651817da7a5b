/* SPDX-License-Identifier: Apache-2.0
 *
 * The small parts of text: hash tables, prefixes, characters, filters, scanners, components.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "text/text_components.h"
#include "text/text_filter.h"

static void test_string_map(void **state) {
    (void)state;
    static char keys[5000][8];
    string_map map = {0};
    for (int i = 0; i < 5000; i++) {
        snprintf(keys[i], sizeof keys[i], "k%d", i);
        assert_true(string_map_add(&map, span_of(keys[i]), i));
    }
    assert_true(string_map_add(&map, span_of("k7"), 99)); /* the first stays */
    assert_int_equal(string_map_get(&map, span_of("k7")), 7);
    assert_true(string_map_set(&map, span_of("k7"), 99));
    assert_int_equal(string_map_get(&map, span_of("k7")), 99);
    assert_int_equal(map.count, 5000);
    for (int i = 8; i < 5000; i++) assert_int_equal(string_map_get(&map, span_of(keys[i])), i);
    assert_int_equal(string_map_get(&map, span_of("nothing")), -1);
    assert_true(string_map_add(&map, (span){"a\0b", 3}, 5));
    assert_int_equal(string_map_get(&map, (span){"a\0c", 3}), -1);
    assert_int_equal(string_map_get(&map, (span){"a\0b", 3}), 5);
    string_map_free(&map);
    assert_int_equal(string_map_get(&map, span_of("k7")), -1);
}

static void test_merge_map(void **state) {
    (void)state;
    merge_map map = {0};
    assert_null(merge_map_get(&map, 0, 0));
    for (int32_t i = 0; i < 3000; i++)
        assert_true(merge_map_set(&map, i, 2 * i, (uint32_t)i, i + 1));
    assert_true(merge_map_set(&map, 5, 10, 77, 6)); /* the last stays */
    assert_int_equal(merge_map_get(&map, 5, 10)->rank, 77);
    assert_int_equal(merge_map_get(&map, 2999, 5998)->id, 3000);
    assert_null(merge_map_get(&map, 10, 5));
    merge_map_free(&map);
}

static void test_prefixes(void **state) {
    (void)state;
    static const char *const texts[] = {"b", "abc", "a", "ab", "abd", "\xff", "ab"};
    prefix_index index = {0};
    size_t length = 0;
    prefix_index_sort(&index);
    assert_int_equal(prefix_longest(&index, "abc", 3, &length), -1);
    for (int32_t i = 0; i < 7; i++) assert_true(prefix_index_add(&index, span_of(texts[i]), i));
    prefix_index_sort(&index);
    assert_int_equal(index.count, 6);
    assert_int_equal(prefix_longest(&index, "abx", 3, &length), 3); /* the first "ab" */
    assert_int_equal(length, 2);
    assert_int_equal(prefix_longest(&index, "abcd", 4, &length), 1);
    assert_int_equal(length, 3);
    assert_int_equal(prefix_longest(&index, "abc", 1, &length), 2);
    assert_int_equal(prefix_longest(&index, "\xff\xff", 2, &length), 5);
    assert_int_equal(prefix_longest(&index, "xyz", 3, &length), -1);
    prefix_index_free(&index);
}

static void test_characters(void **state) {
    (void)state;
    assert_true(char_is_letter(0xe9) && char_is_letter(0x4e2d) && char_is_letter('z'));
    assert_false(char_is_letter(0x301) || char_is_letter('_') || char_is_letter(0x2460));
    assert_false(char_is_letter(0x1e4d0)); /* a letter since Unicode 15.0 */
    assert_true(char_is_number(0x663) && char_is_number(0xbd) && char_is_number(0x2167));
    assert_true(char_is_space(0x85) && char_is_space(0x3000) && !char_is_space(0x200b));
    assert_true(char_is_word('_') && char_is_word(0x301) && !char_is_word('-'));
    assert_true(char_is_punctuation('$') && char_is_punctuation(0x3002));
    assert_int_equal(spaces_at_end("a \xe3\x80\x80", 5, false), 4);
    assert_int_equal(spaces_at_start("\x1c a", 3, false), 0);
    assert_int_equal(spaces_at_start("\x1c a", 3, true), 2);
    int32_t lower[2];
    assert_int_equal(lower_case(0x130, lower), 2);
    assert_int_equal(lower_case(0xc9, lower), 1);
    assert_int_equal(lower[0], 0xe9);
}

static void test_lossy(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t size, length;
        bool bad;
    } cases[] = {
        {"a", 1, 1, false},           {"\xc3\xa9", 2, 2, false},
        {"\xc3", 1, 0, true},         {"\x80", 1, 1, true},
        {"\xe4\xb8\x61", 3, 2, true}, {"\xed\xa0\x80", 3, 1, true},
        {"\xf0\x9f\x98", 3, 0, true}, {"\xf5\x80", 2, 1, true},
        {"\xe0\x80", 2, 1, true},     {"\xf0\x9f\x98\x80", 4, 4, false},
    };
    for (size_t i = 0; i < LLAVA_COUNT(cases); i++) {
        bool bad;
        assert_int_equal(utf8_lossy_next(cases[i].text, cases[i].size, &bad), cases[i].length);
        assert_int_equal(bad, cases[i].bad);
    }
    bytes out = {0};
    assert_false(utf8_valid("a\xff", 2));
    assert_true(utf8_sanitize("a\xff\xe4z", 4, &out));
    assert_string_equal(out.data, "a" REPLACEMENT_CHARACTER REPLACEMENT_CHARACTER "z");
    bytes_free(&out);
}

static void test_filter(void **state) {
    (void)state;
    static const char text[] = "a . b ? it 's they 've do n't ' x ' y  .  ' ' n' re 're '  ";
    bytes whole = {0}, parts = {0};
    text_filter one = {0}, many = {0};
    assert_true(
        text_filter_push(&one, clean_up_rules, n_clean_up_rules, text, strlen(text), &whole));
    assert_true(text_filter_finish(&one, clean_up_rules, n_clean_up_rules, &whole));
    for (size_t i = 0; i < strlen(text); i++)
        assert_true(text_filter_push(&many, clean_up_rules, n_clean_up_rules, text + i, 1, &parts));
    assert_true(text_filter_finish(&many, clean_up_rules, n_clean_up_rules, &parts));
    assert_string_equal(whole.data, parts.data);
    /* the rules one after the other, as str.replace() */
    bytes now = {0};
    assert_true(bytes_puts(&now, text));
    for (size_t i = 0; i < n_clean_up_rules; i++) {
        bytes next = {0};
        assert_true(replace_append((span){now.data, now.size}, span_of(clean_up_rules[i].from),
                                   span_of(clean_up_rules[i].to), &next));
        bytes_free(&now);
        now = next;
    }
    assert_string_equal(whole.data, now.data);
    bytes_free(&now);
    bytes_free(&whole);
    bytes_free(&parts);
}

/* Words joined with '|'. */
static void assert_words(pattern_kind kind, const char *text, const char *want) {
    bytes got = {0};
    const size_t size = strlen(text);
    for (size_t at = 0; at < size;) {
        const size_t end = word_end(kind, text, size, at);
        assert_true(end > at && end <= size);
        if (at) bytes_append(&got, "|", 1);
        bytes_append(&got, text + at, end - at);
        at = end;
    }
    assert_string_equal(got.data, want);
    bytes_free(&got);
}

static void test_scanner(void **state) {
    (void)state;
    assert_words(PATTERN_GPT2, "don't DON'T", "don|'t| DON|'|T");
    assert_words(PATTERN_QWEN2, "don't DON'T", "don|'t| DON|'T");
    assert_words(PATTERN_GPT2, "12345 678", "12345| 678");
    assert_words(PATTERN_QWEN2, "12 3", "1|2| |3");
    assert_words(PATTERN_LLAMA3, "12345 678", "123|45| |678");
    assert_words(PATTERN_QWEN2, "!!\n\nx", "!!\n\n|x");
    assert_words(PATTERN_GPT2, "!!\n\nx", "!!|\n|\n|x");
    assert_words(PATTERN_QWEN2, "  \n\n  x", "  \n\n| | x");
    assert_words(PATTERN_QWEN2, "(a) _foo", "(a|)| _|foo");
    assert_words(PATTERN_QWEN2, "'\xc5\xbfx", "'\xc5\xbf|x");
    assert_words(PATTERN_GPT2, "'\xc5\xbfx", "'|\xc5\xbfx");
    assert_words(PATTERN_LLAMA3, "   ", "   ");
    assert_words(PATTERN_LLAMA3, "'", "'");
}

/* The scanner and the regular expression it stands for. */
static void assert_same_cuts(pattern_kind kind, const char *regex, const char *text, size_t size) {
    component_memory memory = {.memory = arena_new()};
    split_pattern known = {.kind = kind}, *compiled;
    cut_list a = {0}, b = {0};
    bytes wrapped = {0};
    bytes_printf(&wrapped, "(?:%s)", regex); /* no longer one of the known texts */
    assert_int_equal(
        pattern_new_regex(&memory, wrapped.data, wrapped.size, "test", &compiled, NULL), LLAVA_OK);
    assert_int_equal(compiled->kind, PATTERN_REGEX);
    assert_int_equal(pattern_cut(&known, text, size, &a, NULL), LLAVA_OK);
    assert_int_equal(pattern_cut(compiled, text, size, &b, NULL), LLAVA_OK);
    assert_int_equal(a.count, b.count);
    for (size_t i = 0; i < a.count; i++) {
        assert_int_equal(a.items[i].start, b.items[i].start);
        assert_int_equal(a.items[i].end, b.items[i].end);
    }
    cut_list_free(&a);
    cut_list_free(&b);
    bytes_free(&wrapped);
    component_memory_free(&memory);
}

static void test_scanner_against_regex(void **state) {
    (void)state;
    static const char gpt2[] =
        "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    static const char qwen2[] =
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+"
        "[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    static const char *const alphabet[] = {"a",
                                           "S",
                                           "'",
                                           "'",
                                           "s",
                                           "re",
                                           "LL",
                                           " ",
                                           " ",
                                           "\n",
                                           "\r",
                                           "\t",
                                           "1",
                                           "23",
                                           ".",
                                           "!!",
                                           "\xc3\xa9",
                                           "\xcc\x81",
                                           "\xe4\xb8\xad",
                                           "\xc2\xa0",
                                           "\xe3\x80\x80",
                                           "\xc5\xbf",
                                           "\xc2\xbd",
                                           "_"};
    uint32_t seed = 1;
    for (int round = 0; round < 400; round++) {
        bytes text = {0};
        for (int i = 0; i < 24; i++) {
            seed = seed * 1664525u + 1013904223u;
            bytes_puts(&text, alphabet[(seed >> 16) % LLAVA_COUNT(alphabet)]);
        }
        assert_same_cuts(PATTERN_GPT2, gpt2, text.data, text.size);
        assert_same_cuts(PATTERN_QWEN2, qwen2, text.data, text.size);
        bytes_free(&text);
    }
}

static void test_byte_characters(void **state) {
    (void)state;
    for (int byte = 0; byte < 256; byte++)
        assert_int_equal(char_to_byte(byte_to_char((uint8_t)byte)), byte);
    assert_int_equal(byte_to_char(' '), 0x120);
    assert_int_equal(byte_to_char('\n'), 0x10a);
    assert_int_equal(byte_to_char(0xad), 0x143);
    assert_int_equal(char_to_byte(0x144), -1);
    bytes out = {0};
    assert_true(byte_level_decode(span_of("\xc4\xa0hi"), &out));
    assert_true(byte_level_decode(span_of("\xe4\xb8\xad"), &out)); /* outside the table: as it is */
    assert_string_equal(out.data, " hi\xe4\xb8\xad");
    bytes_free(&out);
}

/* A decoder that buffers behind Fuse gives the same in parts and at once. */
static void test_fused_decoders(void **state) {
    (void)state;
    static const char text[] =
        "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"Replace\","
        "\"pattern\":{\"String\":\"ab\"},\"content\":\"-\"},{\"type\":\"Strip\",\"content\":\"c\","
        "\"start\":1,\"stop\":2}]}";
    component_memory memory = {.memory = arena_new()};
    token_decoder decoder;
    decoder_run run;
    json_t *root;
    bytes out = {0};
    assert_int_equal(json_read_text(text, strlen(text), "test", &root, NULL), LLAVA_OK);
    assert_int_equal(token_decoder_parse(&memory, root, &decoder, NULL), LLAVA_OK);
    assert_true(decoder_run_start(&run, &decoder));
    static const char *const tokens[] = {"cc", "a", "b", "xa", "bccc"};
    for (size_t i = 0; i < LLAVA_COUNT(tokens); i++)
        assert_int_equal(decoder_run_token(&run, span_of(tokens[i]), &out, NULL), LLAVA_OK);
    assert_int_equal(decoder_run_finish(&run, &out, NULL), LLAVA_OK);
    assert_string_equal(out.data, "c-x-c");
    decoder_run_free(&run);
    bytes_free(&out);
    json_decref(root);
    component_memory_free(&memory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_string_map),      cmocka_unit_test(test_merge_map),
        cmocka_unit_test(test_prefixes),        cmocka_unit_test(test_characters),
        cmocka_unit_test(test_lossy),           cmocka_unit_test(test_filter),
        cmocka_unit_test(test_scanner),         cmocka_unit_test(test_scanner_against_regex),
        cmocka_unit_test(test_byte_characters), cmocka_unit_test(test_fused_decoders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
