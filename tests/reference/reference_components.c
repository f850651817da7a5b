/* SPDX-License-Identifier: Apache-2.0
 *
 * tokenizers/components: normalizers, pre-tokenizers, decoders and small pipelines, each alone.
 */
#include <dirent.h>

#include "reference_text.h"

typedef struct component_check {
    reference_count *count;
} component_check;

static span string_span(const json_t *value) {
    return (span){json_string_value(value), json_string_length(value)};
}

static void start(component_memory *memory) { *memory = (component_memory){.memory = arena_new()}; }

static void check_normalizer(void *user, const json_t *row) {
    component_check *c = user;
    component_memory memory;
    normalizer n;
    llava_error err;
    size_t i;
    const json_t *item;
    start(&memory);
    if (normalizer_parse(&memory, json_object_get(row, "normalizer"), &n, &err) != LLAVA_OK)
        reference_fail(c->count, "parse", "%s", err.message);
    else
        json_array_foreach(json_object_get(row, "cases"), i, item) {
            bytes out = {0};
            const span text = string_span(json_array_get(item, 0));
            if (normalizer_run(&n, text.data, text.size, &out, &err) == LLAVA_OK &&
                same_text(&out, json_array_get(item, 1), false))
                reference_pass(c->count);
            else
                reference_fail(c->count, row_text(json_object_get(row, "normalizer")),
                               "%s -> \"%s\"", json_string_value(json_array_get(item, 1)),
                               out.data ? out.data : "");
            bytes_free(&out);
        }
    component_memory_free(&memory);
}

static bool same_words(const word_list *words, const json_t *expected) {
    if (words->count != json_array_size(expected)) return false;
    for (size_t i = 0; i < words->count; i++) {
        const span got = {words->text.data + words->items[i].start, words->items[i].size};
        if (!span_equal(got, string_span(json_array_get(expected, i)))) return false;
    }
    return true;
}

static void check_pre_tokenizer(void *user, const json_t *row) {
    component_check *c = user;
    component_memory memory;
    pre_tokenizer p;
    llava_error err = {0};
    word_list words = {0}, spare = {0};
    size_t i;
    const json_t *item;
    start(&memory);
    if (pre_tokenizer_parse(&memory, json_object_get(row, "pre_tokenizer"), &p, &err) != LLAVA_OK)
        reference_fail(c->count, "parse", "%s", err.message);
    else
        json_array_foreach(json_object_get(row, "cases"), i, item) {
            const span text = string_span(json_array_get(item, 0));
            if (pre_tokenizer_run(&p, text, true, &words, &spare, &err) == LLAVA_OK &&
                same_words(&words, json_array_get(item, 1)))
                reference_pass(c->count);
            else
                reference_fail(c->count, row_text(json_object_get(row, "pre_tokenizer")),
                               "\"%s\" gives %zu words, not as recorded %s", text.data, words.count,
                               err.message);
        }
    word_list_free(&words);
    word_list_free(&spare);
    component_memory_free(&memory);
}

static bool decode_tokens(const token_decoder *d, const json_t *tokens, bytes *out,
                          llava_error *err) {
    decoder_run run;
    size_t i;
    const json_t *token;
    bool ok = decoder_run_start(&run, d);
    json_array_foreach(tokens, i, token) ok =
        ok && decoder_run_token(&run, string_span(token), out, err) == LLAVA_OK;
    ok = ok && decoder_run_finish(&run, out, err) == LLAVA_OK;
    decoder_run_free(&run);
    return ok;
}

static void check_decoder(void *user, const json_t *row) {
    component_check *c = user;
    component_memory memory;
    token_decoder d;
    llava_error err = {0};
    size_t i;
    const json_t *item;
    start(&memory);
    if (token_decoder_parse(&memory, json_object_get(row, "decoder"), &d, &err) != LLAVA_OK)
        reference_fail(c->count, "parse", "%s", err.message);
    else
        json_array_foreach(json_object_get(row, "cases"), i, item) {
            bytes out = {0};
            if (decode_tokens(&d, json_array_get(item, 0), &out, &err) &&
                same_text(&out, json_array_get(item, 1), false))
                reference_pass(c->count);
            else
                reference_fail(c->count, row_text(json_object_get(row, "decoder")), "%s -> \"%s\"",
                               row_text(item), out.data ? out.data : "");
            bytes_free(&out);
        }
    component_memory_free(&memory);
}

static void check_pipeline_case(reference_count *count, const char *name, const llava_tokenizer *t,
                                const json_t *item) {
    const span text = string_span(json_object_get(item, "text"));
    ids list = {0};
    bytes plain = {0}, skipped = {0};
    const bool encodes = tokenizer_encode(t, text.data, text.size, &list, NULL) == LLAVA_OK &&
                         same_ids(&list, json_object_get(item, "ids"));
    const bool decodes =
        tokenizer_decode(t, list.data, list.count, false, &plain, NULL) == LLAVA_OK &&
        tokenizer_decode(t, list.data, list.count, true, &skipped, NULL) == LLAVA_OK &&
        same_text(&plain, json_object_get(item, "decode"), false) &&
        same_text(&skipped, json_object_get(item, "decode_skip"), false);
    if (encodes && decodes)
        reference_pass(count);
    else
        reference_fail(count, name, "%s: %s -> \"%s\"", encodes ? "decode" : "encode",
                       row_text(item), plain.data ? plain.data : "");
    ids_free(&list);
    bytes_free(&plain);
    bytes_free(&skipped);
}

static void check_pipeline(reference_count *count, const char *folder, const char *name) {
    json_t *root = read_json(folder, name);
    llava_tokenizer *t;
    llava_error err;
    size_t i;
    const json_t *item;
    if (tokenizer_open_json(json_object_get(root, "tokenizer"), &t, &err) != LLAVA_OK)
        reference_fail(count, name, "%s", err.message);
    else
        json_array_foreach(json_object_get(root, "cases"), i, item)
            check_pipeline_case(count, name, t, item);
    tokenizer_free(&t);
    json_decref(root);
}

static void check_class(reference_count *count, const json_t *ranges, const char *name,
                        bool (*is)(int32_t)) {
    int wrong = 0;
    size_t i;
    const json_t *range;
    char *expected = calloc(0x110000, 1);
    json_array_foreach(ranges, i,
                       range) for (int64_t c = json_integer_value(json_array_get(range, 0));
                                   c <= json_integer_value(json_array_get(range, 1)); c++)
        expected[c] = 1;
    for (int32_t c = 0; c < 0x110000; c++) wrong += is(c) != expected[c];
    if (wrong)
        reference_fail(count, name, "%d code points differ", wrong);
    else
        reference_pass(count);
    free(expected);
}

static void check_classes(reference_count *count, const char *folder) {
    json_t *root = read_json(folder, "unicode_classes.json");
    const json_t *known = json_object_get(root, "tokenizers");
    if (known) {
        check_class(count, json_object_get(known, "L"), "letters", char_is_letter);
        check_class(count, json_object_get(known, "N"), "numbers", char_is_number);
        check_class(count, json_object_get(known, "s"), "white space", char_is_space);
    }
    json_decref(root);
}

bool check_components(const char *folder) {
    static const struct {
        const char *file;
        row_fn check;
    } files[] = {{"normalizers.jsonl", check_normalizer},
                 {"pre_tokenizers.jsonl", check_pre_tokenizer},
                 {"decoders.jsonl", check_decoder}};
    char directory[4096], path[4200];
    struct dirent **entries;
    reference_count count = {.folder = "tokenizers/components"};
    component_check c = {&count};
    snprintf(directory, sizeof directory, "%s/components", folder);
    const int n = scandir(directory, &entries, NULL, alphasort);
    if (n < 0) {
        printf("tokenizers/components: no such folder in the reference data\n");
        return true;
    }
    for (size_t i = 0; i < LLAVA_COUNT(files); i++) {
        snprintf(path, sizeof path, "%s/%s", directory, files[i].file);
        each_row(path, files[i].check, &c);
    }
    for (int i = 0; i < n; i++) {
        if (!strncmp(entries[i]->d_name, "pipeline-", 9))
            check_pipeline(&count, directory, entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
    check_classes(&count, directory);
    return reference_close(&count);
}
