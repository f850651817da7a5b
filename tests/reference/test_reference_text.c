/* SPDX-License-Identifier: Apache-2.0
 *
 * tokenizers/ and prompts/ of the recorded data.
 */
#include "reference_text.h"

bool each_row(const char *path, row_fn row, void *user) {
    FILE *file = fopen(path, "r");
    char *line = NULL;
    size_t capacity = 0;
    ssize_t size;
    if (!file) return false;
    while ((size = getline(&line, &capacity, file)) > 0) {
        llava_error err;
        json_t *value;
        if (json_read_text(line, (size_t)size, path, &value, &err) != LLAVA_OK) {
            printf("%s\n", err.message);
            exit(1);
        }
        row(user, value);
        json_decref(value);
    }
    free(line);
    fclose(file);
    return true;
}

json_t *read_json(const char *folder, const char *name) {
    char path[4096];
    json_t *value = NULL;
    llava_error err;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (!path_is_file(path)) return NULL;
    if (json_read_file(path, &value, &err) != LLAVA_OK) {
        printf("%s\n", err.message);
        exit(1);
    }
    return value;
}

llava_status open_call(const char *directory, const char *call, const json_t *flags,
                       llava_tokenizer **tokenizer, llava_error *err) {
    static const char *const extra[] = {"<im_patch>", "<im_start>", "<im_end>"};
    char *text = flags && !json_is_null(flags) ? json_dumps(flags, 0) : NULL;
    tokenizer_request request = {.directory = directory,
                                 .flavour = strncmp(call, "slow", 4) == 0 ? TOKENIZER_SLOW
                                                                          : TOKENIZER_FAST,
                                 .flags_json = text};
    llava_status status = tokenizer_open(&request, tokenizer, err);
    free(text);
    for (size_t i = 0; i < LLAVA_COUNT(extra) && status == LLAVA_OK; i++) {
        int32_t id;
        bool added;
        if (strstr(call, i == 0 ? "+patch" : "+startend"))
            status = tokenizer_add_special(*tokenizer, extra[i], &id, &added, err);
    }
    return status;
}

bool same_ids(const ids *list, const json_t *expected) {
    if (list->count != json_array_size(expected)) return false;
    for (size_t i = 0; i < list->count; i++)
        if (list->data[i] != json_integer_value(json_array_get(expected, i))) return false;
    return true;
}

void ids_of_json(const json_t *array, ids *list) {
    list->count = 0;
    for (size_t i = 0; i < json_array_size(array); i++) {
        const int32_t id = (int32_t)json_integer_value(json_array_get(array, i));
        ids_append(list, &id, 1);
    }
}

bool same_text(const bytes *text, const json_t *expected, bool symbols_are_spaces) {
    const span want = {json_string_value(expected), json_string_length(expected)};
    const span got = {text->data ? text->data : "", text->size};
    if (!json_is_string(expected)) return false;
    if (span_equal(want, got)) return true;
    if (!symbols_are_spaces) return false;
    bytes a = {0}, b = {0};
    replace_append(want, span_of(SPACE_SYMBOL), span_of(" "), &a);
    replace_append(got, span_of(SPACE_SYMBOL), span_of(" "), &b);
    const bool same = span_equal((span){a.data, a.size}, (span){b.data, b.size});
    bytes_free(&a);
    bytes_free(&b);
    return same;
}

const char *row_text(const json_t *row) {
    static char text[600];
    char *dump = json_dumps(row, JSON_COMPACT | JSON_ENSURE_ASCII);
    snprintf(text, sizeof text, "%.560s", dump ? dump : "?");
    free(dump);
    return text;
}

int main(void) {
    char tokenizers[4096], prompts[4096];
    snprintf(tokenizers, sizeof tokenizers, "%s/tokenizers", reference_folder());
    snprintf(prompts, sizeof prompts, "%s/prompts", reference_folder());
    bool ok = check_tokenizers(tokenizers);
    ok = check_components(tokenizers) && ok;
    ok = check_real_vocabularies(tokenizers) && ok;
    ok = check_conversations(prompts) && ok;
    ok = check_image_tokens(prompts) && ok;
    ok = check_qwen_pieces(prompts) && ok;
    return ok ? 0 : 1;
}
