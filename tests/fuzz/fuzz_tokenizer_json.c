/* SPDX-License-Identifier: Apache-2.0
 *
 * Any text as tokenizer.json. What loads must encode any text, decode any ids, and stream what it
 * decodes. The members "tokenizer_config", "special_tokens_map" and "added_tokens_file" stand for
 * the files beside it, "class" for the class.
 */
#include <stdlib.h>

#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_stream(const llava_tokenizer *t, const ids *list, bool skip) {
    bytes whole = {0}, sum = {0};
    text_stream *stream;
    bool ok = tokenizer_decode(t, list->data, list->count, skip, &whole, NULL) == LLAVA_OK;
    if (text_stream_new(t, skip, &stream, NULL) == LLAVA_OK) {
        for (size_t i = 0; ok && i < list->count; i++) {
            const size_t before = sum.size;
            ok = text_stream_push(stream, list->data[i], &sum, NULL) == LLAVA_OK;
            if (ok && sum.data && !utf8_valid(sum.data + before, sum.size - before)) abort();
        }
        if (ok && text_stream_finish(stream, &sum, NULL) == LLAVA_OK &&
            (sum.size != whole.size || (sum.size && memcmp(sum.data, whole.data, sum.size) != 0)))
            abort();
    }
    text_stream_free(&stream);
    bytes_free(&whole);
    bytes_free(&sum);
}

static void try_text(const llava_tokenizer *t, const char *text, size_t size) {
    ids list = {0};
    if (tokenizer_encode(t, text, size, &list, NULL) == LLAVA_OK) {
        check_stream(t, &list, false);
        check_stream(t, &list, true);
    }
    ids_free(&list);
}

static json_t *member(const json_t *root, const char *key) {
    json_t *value = json_object_get(root, key);
    return json_is_object(value) ? json_deep_copy(value) : NULL;
}

/* The same file opened as a class, with what the other files say. */
static void try_class(const json_t *root, const char *text, size_t size) {
    tokenizer_metadata m = {.config = member(root, "tokenizer_config"),
                            .special_map = member(root, "special_tokens_map"),
                            .added = member(root, "added_tokens_file")};
    llava_tokenizer *t = NULL;
    if (m.config && tokenizer_new(&t, NULL) == LLAVA_OK) {
        const json_int_t class = json_integer_value(json_object_get(root, "class"));
        t->class = (tokenizer_class)(class < 0 ? 0 : class % (CLASS_GPT2 + 1));
        t->fast = !json_is_true(json_object_get(root, "slow")) || t->class == CLASS_GENERIC;
        if (tokenizer_load_json(t, root, NULL) == LLAVA_OK && (t->fast || t->model == MODEL_BPE) &&
            tokenizer_apply_metadata(t, &m, NULL) == LLAVA_OK) {
            /* slow Llama and Gemma need a SentencePiece model */
            if (t->fast || t->class == CLASS_QWEN2 || t->class == CLASS_GPT2)
                try_text(t, text, size);
        }
    }
    tokenizer_free(&t);
    tokenizer_metadata_free(&m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char text[] = "Hello  world's <x>12345\n\n caf\xc3\xa9 e\xcc\x81\xe2\x96\x81"
                               "\xe4\xb8\xad\xf0\x9f\x98\x80 \xff";
    json_t *root;
    llava_tokenizer *t;
    llava_error err;
    if (json_read_text((const char *)data, size, "tokenizer.json", &root, &err) != LLAVA_OK)
        return 0;
    if (tokenizer_open_json(root, &t, &err) == LLAVA_OK) {
        ids list = {0};
        try_text(t, text, sizeof text - 1);
        try_text(t, (const char *)data, size < 200 ? size : 200);
        for (int32_t i = 0; i < 300; i++) {
            const int32_t id = (i * 7919 + (int32_t)size) % 400 - 2;
            ids_append(&list, &id, 1);
        }
        check_stream(t, &list, false);
        ids_free(&list);
    }
    tokenizer_free(&t);
    try_class(root, text, sizeof text - 1);
    json_decref(root);
    return 0;
}
