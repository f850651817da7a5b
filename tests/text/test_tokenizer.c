/* SPDX-License-Identifier: Apache-2.0
 *
 * Whole tokenizers from files made on the spot: resolution, flags, placeholders, streams, and one
 * clear error for each way a file can be broken.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "support/scratch.h"
#include "text/tokenizer.h"

/* ---------------------------------------------------------------- files */

static void put_varint(bytes *b, uint64_t value) {
    do {
        const char c = (char)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        bytes_append(b, &c, 1);
        value >>= 7;
    } while (value);
}

static void put_piece(bytes *b, const char *text, float score, piece_type type) {
    bytes piece = {0};
    const uint32_t bits = f32_to_bits(score);
    put_varint(&piece, 1 << 3 | 2);
    put_varint(&piece, strlen(text));
    bytes_puts(&piece, text);
    put_varint(&piece, 2 << 3 | 5);
    bytes_append(&piece, &bits, 4);
    put_varint(&piece, 3 << 3);
    put_varint(&piece, type);
    put_varint(b, 1 << 3 | 2);
    put_varint(b, piece.size);
    bytes_append(b, piece.data, piece.size);
    bytes_free(&piece);
}

/* A BPE model without byte fallback: ids 3 on are the pieces in order. */
static void write_model(const scratch *s) {
    static const char *const pieces[] = {
        "\xe2\x96\x81h", "el", "\xe2\x96\x81hel", "lo", "\xe2\x96\x81", "h", "e", "l", "o", "b"};
    bytes b = {0};
    put_piece(&b, "<unk>", 0, PIECE_UNKNOWN);
    put_piece(&b, "<s>", 0, PIECE_CONTROL);
    put_piece(&b, "</s>", 0, PIECE_CONTROL);
    for (size_t i = 0; i < LLAVA_COUNT(pieces); i++)
        put_piece(&b, pieces[i], -(float)i, PIECE_NORMAL);
    static const char training[] = {2 << 3 | 2, 2, 3 << 3, 2};
    static const char normalization[] = {3 << 3 | 2, 2, 4 << 3, 0};
    bytes_append(&b, training, sizeof training);
    bytes_append(&b, normalization, sizeof normalization);
    scratch_write(s, "tokenizer.model", b.data, b.size);
    bytes_free(&b);
}

static const char small_json[] =
    "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\" \":3},"
    "\"merges\":[\"a b\"]},\"added_tokens\":[{\"id\":4,\"content\":\"<x>\",\"special\":true}]}";

static llava_tokenizer *open_in(const scratch *s, tokenizer_flavour flavour, const char *flags) {
    llava_tokenizer *t = NULL;
    llava_error err = {0};
    const tokenizer_request request = {
        .directory = s->path, .flavour = flavour, .flags_json = flags};
    if (tokenizer_open(&request, &t, &err) != LLAVA_OK) fail_msg("%s", err.message);
    return t;
}

static void assert_ids(const llava_tokenizer *t, const char *text, const char *want) {
    ids list = {0};
    bytes got = {0};
    assert_int_equal(tokenizer_encode(t, text, strlen(text), &list, NULL), LLAVA_OK);
    bytes_puts(&got, "");
    for (size_t i = 0; i < list.count; i++) bytes_printf(&got, i ? " %d" : "%d", list.data[i]);
    assert_string_equal(got.data, want);
    bytes_free(&got);
    ids_free(&list);
}

/* ---------------------------------------------------------------- resolution */

static void test_slow_llama(void **state) {
    (void)state;
    scratch s;
    bool added;
    int32_t id;
    assert_true(scratch_open(&s));
    write_model(&s);
    scratch_text(&s, "tokenizer_config.json", "{\"tokenizer_class\": \"LlamaTokenizer\"}");
    llava_tokenizer *t = open_in(&s, TOKENIZER_SLOW, NULL);
    assert_string_equal(tokenizer_description(t), "LlamaTokenizer (slow), tokenizer.model");
    assert_int_equal(tokenizer_size(t), 13);
    assert_int_equal(tokenizer_bos(t), 1);
    assert_int_equal(tokenizer_eos(t), 2);
    assert_ids(t, "hello", "1 5 6");
    assert_ids(t, "", "1");
    assert_ids(t, "b</s>b", "1 7 12 2 7 12"); /* legacy: each chunk has its own prefix */
    assert_int_equal(tokenizer_add_special(t, "<im_patch>", &id, &added, NULL), LLAVA_OK);
    assert_true(added && id == 13 && tokenizer_size(t) == 14);
    assert_int_equal(tokenizer_add_special(t, "<im_patch>", &id, &added, NULL), LLAVA_OK);
    assert_true(!added && id == 13 && tokenizer_is_special(t, 13));
    assert_int_equal(tokenizer_id(t, "<im_patch>"), 13);
    assert_string_equal(tokenizer_token(t, 5), "\xe2\x96\x81hel");
    assert_null(tokenizer_token(t, 14));
    assert_null(tokenizer_token(t, -1));
    tokenizer_free(&t);
    assert_null(t);
    t = open_in(&s, TOKENIZER_SLOW, "{\"legacy\": false, \"add_eos_token\": true}");
    assert_ids(t, "b</s>b", "1 7 12 2 12 2");
    assert_ids(t, "</s>b", "1 2 12 2");
    tokenizer_free(&t);
    scratch_close(&s);
}

static void test_converted_llama(void **state) {
    (void)state;
    scratch s;
    assert_true(scratch_open(&s));
    write_model(&s);
    scratch_text(&s, "config.json", "{\"model_type\": \"llava_llama\"}");
    llava_tokenizer *t = open_in(&s, TOKENIZER_FAST, NULL);
    assert_string_equal(tokenizer_description(t),
                        "LlamaTokenizerFast (fast), converted from tokenizer.model");
    assert_ids(t, "hello", "1 5 6");
    tokenizer_free(&t);
    scratch_close(&s);
}

static void test_byte_level_files(void **state) {
    (void)state;
    scratch s;
    assert_true(scratch_open(&s));
    scratch_text(&s, "vocab.json",
                 "{\"a\":0,\"b\":1,\"\xc4\xa0\":2,\"ab\":3,\"\xc4\xa0"
                 "ab\":4}");
    scratch_text(&s, "merges.txt", "#version: 0.2\na b\n\n\xc4\xa0 ab\r\n");
    scratch_text(&s, "tokenizer_config.json", "{\"tokenizer_class\": \"Qwen2Tokenizer\"}");
    for (int flavour = TOKENIZER_SLOW; flavour <= TOKENIZER_FAST; flavour++) {
        llava_tokenizer *t = open_in(&s, (tokenizer_flavour)flavour, NULL);
        assert_int_equal(tokenizer_size(t), 6); /* and <|endoftext|> */
        assert_int_equal(tokenizer_bos(t), -1);
        assert_ids(t, "ab ab<|endoftext|>", "3 4 5");
        tokenizer_free(&t);
    }
    scratch_close(&s);
}

static void test_unknown_class_and_missing_files(void **state) {
    (void)state;
    scratch s;
    llava_tokenizer *t = NULL;
    llava_error err = {0};
    assert_true(scratch_open(&s));
    tokenizer_request request = {.directory = s.path};
    assert_int_equal(tokenizer_open(&request, &t, &err), LLAVA_IO);
    assert_non_null(strstr(err.message, "tokenizer.model"));
    assert_null(t);
    scratch_text(&s, "tokenizer.json", small_json);
    scratch_text(&s, "tokenizer_config.json", "{\"tokenizer_class\": \"SomethingElse\"}");
    t = open_in(&s, TOKENIZER_SLOW, NULL);
    assert_ids(t, "ab<x>b", "2 4 1");
    tokenizer_free(&t);
    /* a slow class whose own file is missing takes the json */
    scratch_text(&s, "tokenizer_config.json",
                 "{\"tokenizer_class\": \"LlamaTokenizer\", \"bos_token\": \"<x>\"}");
    t = open_in(&s, TOKENIZER_SLOW, NULL);
    assert_string_equal(tokenizer_description(t), "LlamaTokenizerFast (fast), tokenizer.json");
    assert_ids(t, "ab", "4 2"); /* the class adds BOS whatever the file says */
    tokenizer_free(&t);
    request.flags_json = "[1]";
    assert_int_equal(tokenizer_open(&request, &t, &err), LLAVA_BAD_ARGUMENT);
    scratch_close(&s);
}

/* Gemma converted: no prefix, four special pieces, user-defined symbols kept whole. */
static void test_converted_gemma(void **state) {
    (void)state;
    static const char *const special[] = {"<pad>", "<eos>", "<bos>", "<unk>"};
    static const char training[] = {2 << 3 | 2, 8, 3 << 3, 2,   (char)(31 << 3 | 2 | 0x80),
                                    1,          3, '<',    'm', '>'};
    static const char normalization[] = {3 << 3 | 2, 4, 3 << 3, 0, 4 << 3, 0};
    scratch s;
    bytes b = {0};
    assert_true(scratch_open(&s));
    for (size_t i = 0; i < 4; i++)
        put_piece(&b, special[i], 0, i == 3 ? PIECE_UNKNOWN : PIECE_CONTROL);
    put_piece(&b, "<m>", 0, PIECE_USER_DEFINED);
    put_piece(&b, "ab", -1, PIECE_NORMAL);
    put_piece(&b, "a", -2, PIECE_NORMAL);
    put_piece(&b, "b", -3, PIECE_NORMAL);
    put_piece(&b, SPACE_SYMBOL, -4, PIECE_NORMAL);
    bytes_append(&b, training, sizeof training);
    bytes_append(&b, normalization, sizeof normalization);
    scratch_write(&s, "tokenizer.model", b.data, b.size);
    for (int flavour = TOKENIZER_SLOW; flavour <= TOKENIZER_FAST; flavour++) {
        const tokenizer_request request = {
            .directory = s.path, .flavour = (tokenizer_flavour)flavour, .model_type = "gemma"};
        llava_tokenizer *t = NULL;
        assert_int_equal(tokenizer_open(&request, &t, NULL), LLAVA_OK);
        assert_ids(t, "ab<m> ab", "2 5 4 8 5");
        assert_int_equal(tokenizer_size(t), 9);
        tokenizer_free(&t);
    }
    bytes_free(&b);
    scratch_close(&s);
}

/* ---------------------------------------------------------------- broken files */

static void assert_json_fails(const char *text, llava_status want) {
    json_t *root;
    llava_tokenizer *t = NULL;
    llava_error err = {0};
    assert_int_equal(json_read_text(text, strlen(text), "test", &root, &err), LLAVA_OK);
    assert_int_equal(tokenizer_open_json(root, &t, &err), want);
    assert_int_equal(err.code, want);
    assert_true(err.message[0]);
    assert_null(t);
    json_decref(root);
}

static void test_broken_json(void **state) {
    (void)state;
    assert_json_fails("[]", LLAVA_MALFORMED);
    assert_json_fails("{\"model\":{}}", LLAVA_MALFORMED);
    assert_json_fails("{\"model\":{\"type\":\"WordLevel\",\"vocab\":{}}}", LLAVA_UNSUPPORTED);
    assert_json_fails("{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}", LLAVA_MALFORMED);
    assert_json_fails("{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"aa\"]}}", LLAVA_MALFORMED);
    assert_json_fails("{\"model\":{\"vocab\":{\"a\":\"0\"},\"merges\":[]}}", LLAVA_MALFORMED);
    assert_json_fails("{\"model\":{\"vocab\":{\"a\":99999999},\"merges\":[]}}", LLAVA_MALFORMED);
    assert_json_fails("{\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}", LLAVA_MALFORMED);
    assert_json_fails("{\"model\":{\"vocab\":[[\"a\"]]}}", LLAVA_MALFORMED);
    assert_json_fails("{\"model\":{\"vocab\":[[\"a\",1]],\"unk_id\":3}}", LLAVA_MALFORMED);
    assert_json_fails("{\"model\":{\"vocab\":{},\"merges\":[]},\"normalizer\":{\"type\":\"Q\"}}",
                      LLAVA_UNSUPPORTED);
    assert_json_fails("{\"model\":{\"vocab\":{},\"merges\":[]},\"pre_tokenizer\":{\"type\":"
                      "\"Split\",\"pattern\":{\"Regex\":\"((\"},\"behavior\":\"Isolated\"}}",
                      LLAVA_MALFORMED);
    assert_json_fails("{\"model\":{\"vocab\":{},\"merges\":[]},\"decoder\":{\"type\":\"Strip\","
                      "\"content\":\"ab\",\"start\":1,\"stop\":0}}",
                      LLAVA_MALFORMED);
    assert_json_fails("{\"model\":{\"vocab\":{},\"merges\":[]},\"added_tokens\":[{\"id\":1}]}",
                      LLAVA_MALFORMED);
}

static void assert_model_fails(const bytes *model, llava_status want, const char *part) {
    spm_model *parsed;
    llava_error err = {0};
    assert_int_equal(spm_parse((const uint8_t *)model->data, model->size, "m", &parsed, &err),
                     want);
    assert_non_null(strstr(err.message, part));
    assert_null(parsed);
}

static void test_broken_model(void **state) {
    (void)state;
    bytes b = {0};
    bytes_puts(&b, "\xff\xff\xff");
    assert_model_fails(&b, LLAVA_MALFORMED, "not a SentencePiece model");
    b.size = 0;
    assert_model_fails(&b, LLAVA_MALFORMED, "0 pieces");
    put_piece(&b, "a", 0, PIECE_NORMAL);
    assert_model_fails(&b, LLAVA_MALFORMED, "UNKNOWN");
    put_piece(&b, "<unk>", 0, PIECE_UNKNOWN);
    put_piece(&b, "a", 0, PIECE_NORMAL);
    assert_model_fails(&b, LLAVA_MALFORMED, "twice");
    b.size -= 3;
    assert_model_fails(&b, LLAVA_MALFORMED, "broken");
    b.size = 0;
    put_piece(&b, "<unk>", 0, PIECE_UNKNOWN);
    put_piece(&b, "<0xG1>", 0, PIECE_BYTE);
    assert_model_fails(&b, LLAVA_MALFORMED, "byte piece");
    bytes_free(&b);
}

static void test_tiktoken_file(void **state) {
    (void)state;
    scratch s;
    llava_tokenizer *t;
    llava_error err = {0};
    bytes b = {0};
    assert_true(scratch_open(&s));
    for (int i = 0; i < 20; i++) bytes_printf(&b, "IQ== %d\n", i);
    scratch_write(&s, "tokenizer.model", b.data, b.size);
    const tokenizer_request request = {.directory = s.path, .model_type = "llama"};
    assert_int_equal(tokenizer_open(&request, &t, &err), LLAVA_UNSUPPORTED);
    assert_non_null(strstr(err.message, "tiktoken"));
    bytes_free(&b);
    scratch_close(&s);
}

/* ---------------------------------------------------------------- placeholders, decoding */

static void assert_image_ids(const llava_tokenizer *t, const char *prompt, const char *want) {
    ids list = {0};
    bytes got = {0};
    assert_int_equal(tokenize_with_images(t, prompt, strlen(prompt), &list, NULL), LLAVA_OK);
    bytes_puts(&got, "");
    for (size_t i = 0; i < list.count; i++) bytes_printf(&got, i ? " %d" : "%d", list.data[i]);
    assert_string_equal(got.data, want);
    bytes_free(&got);
    ids_free(&list);
}

static void test_placeholders(void **state) {
    (void)state;
    scratch s;
    assert_true(scratch_open(&s));
    write_model(&s);
    llava_tokenizer *t = open_in(&s, TOKENIZER_SLOW, "{\"tokenizer_class\": \"LlamaTokenizer\"}");
    assert_image_ids(t, "<image>", "1 -200");
    assert_image_ids(t, "b<image><image>b", "1 7 12 -200 -200 7 12");
    assert_image_ids(t, "<s>b<image>b", "1 1 7 12 -200 7 12"); /* BOS in the text stays */
    assert_image_ids(t, "b<imag", "1 7 12 0");
    tokenizer_free(&t);
    /* without automatic BOS nothing is dropped behind a placeholder */
    t = open_in(&s, TOKENIZER_SLOW, "{\"add_bos_token\": false}");
    assert_image_ids(t, "<s>b<image>b", "1 7 12 -200 7 12");
    tokenizer_free(&t);
    scratch_close(&s);
}

static void test_unknown_ids_are_skipped(void **state) {
    (void)state;
    scratch s;
    static const int32_t list[] = {-1, 5, 1 << 30, 6, 999};
    bytes text = {0};
    assert_true(scratch_open(&s));
    write_model(&s);
    for (int flavour = TOKENIZER_SLOW; flavour <= TOKENIZER_FAST; flavour++) {
        llava_tokenizer *t = open_in(&s, (tokenizer_flavour)flavour, NULL);
        text.size = 0;
        assert_int_equal(tokenizer_decode(t, list, 5, false, &text, NULL), LLAVA_OK);
        assert_string_equal(text.data, "hello");
        tokenizer_free(&t);
    }
    bytes_free(&text);
    scratch_close(&s);
}

/* Invalid UTF-8 in a text is read as U+FFFD, never an error. */
static void test_invalid_text(void **state) {
    (void)state;
    json_t *root;
    llava_tokenizer *t;
    ids list = {0};
    assert_int_equal(json_read_text(small_json, strlen(small_json), "test", &root, NULL), LLAVA_OK);
    assert_int_equal(tokenizer_open_json(root, &t, NULL), LLAVA_OK);
    assert_int_equal(tokenizer_encode(t,
                                      "a\xff\xc3"
                                      "ab",
                                      5, &list, NULL),
                     LLAVA_OK);
    assert_int_equal(list.count, 2);
    assert_int_equal(list.data[1], 2);
    ids_free(&list);
    tokenizer_free(&t);
    json_decref(root);
}

/* Many tokens: a stream costs the same for each, and none of its pieces cuts a character. */
static void test_long_stream(void **state) {
    (void)state;
    static const char text[] =
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"\xc3\xb0\":0,\"\xc5\x81\":1,\"\xc4\xba\":2,"
        "\"\xc4\xa2\":3},\"merges\":[]},\"decoder\":{\"type\":\"ByteLevel\"}}";
    json_t *root;
    llava_tokenizer *t;
    text_stream *stream;
    bytes sum = {0};
    assert_int_equal(json_read_text(text, strlen(text), "test", &root, NULL), LLAVA_OK);
    assert_int_equal(tokenizer_open_json(root, &t, NULL), LLAVA_OK);
    assert_int_equal(text_stream_new(t, false, &stream, NULL), LLAVA_OK);
    for (int32_t i = 0; i < 100000; i++) {
        assert_int_equal(text_stream_push(stream, i % 4, &sum, NULL), LLAVA_OK);
        assert_int_equal(sum.size, (i + 1) / 4 * 4);
    }
    assert_int_equal(text_stream_push(stream, 0, &sum, NULL), LLAVA_OK);
    assert_int_equal(text_stream_finish(stream, &sum, NULL), LLAVA_OK);
    assert_int_equal(sum.size, 100003); /* 25,000 emoji and U+FFFD */
    text_stream_free(&stream);
    bytes_free(&sum);
    tokenizer_free(&t);
    json_decref(root);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slow_llama),
        cmocka_unit_test(test_converted_llama),
        cmocka_unit_test(test_converted_gemma),
        cmocka_unit_test(test_byte_level_files),
        cmocka_unit_test(test_unknown_class_and_missing_files),
        cmocka_unit_test(test_broken_json),
        cmocka_unit_test(test_broken_model),
        cmocka_unit_test(test_tiktoken_file),
        cmocka_unit_test(test_placeholders),
        cmocka_unit_test(test_unknown_ids_are_skipped),
        cmocka_unit_test(test_invalid_text),
        cmocka_unit_test(test_long_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
