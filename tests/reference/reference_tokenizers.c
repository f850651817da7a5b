/* SPDX-License-Identifier: Apache-2.0
 *
 * One folder per tokenizer: meta.json, cases, decode, stream, raw; and real vocabularies.
 */
#include <dirent.h>

#include "reference_text.h"

#define MAX_CALLS 16

/* A folder with the tokenizers of its calls, opened when first asked for. */
typedef struct folder_check {
    reference_count *count;
    const char *directory;
    struct {
        char call[64];
        llava_tokenizer *tokenizer; /* NULL: could not be opened, counted once */
    } open[MAX_CALLS];
    size_t n_open;
} folder_check;

static llava_tokenizer *tokenizer_of(folder_check *f, const char *call) {
    for (size_t i = 0; i < f->n_open; i++)
        if (!strcmp(f->open[i].call, call)) return f->open[i].tokenizer;
    llava_error err;
    const size_t i = f->n_open++;
    if (i >= MAX_CALLS) {
        printf("too many calls in %s\n", f->directory);
        exit(1);
    }
    snprintf(f->open[i].call, sizeof f->open[i].call, "%s", call);
    if (open_call(f->directory, call, NULL, &f->open[i].tokenizer, &err) != LLAVA_OK) {
        reference_fail(f->count, call, "%s", err.message);
        f->open[i].tokenizer = NULL;
    }
    return f->open[i].tokenizer;
}

/* Slow Llama leaves some space symbols standing; the data's README asks for spaces. */
static bool leaves_symbols(const llava_tokenizer *t) { return !t->fast && t->class == CLASS_LLAMA; }

/* The reference raises for an id outside the vocabulary; we leave it out. */
static bool decodes_without_unknown(const llava_tokenizer *t, const ids *list, bool skip) {
    ids known = {0};
    bytes all = {0}, rest = {0};
    for (size_t i = 0; i < list->count; i++)
        if (tokenizer_token(t, list->data[i])) ids_append(&known, &list->data[i], 1);
    const bool ok = known.count < list->count &&
                    tokenizer_decode(t, list->data, list->count, skip, &all, NULL) == LLAVA_OK &&
                    tokenizer_decode(t, known.data, known.count, skip, &rest, NULL) == LLAVA_OK &&
                    span_equal((span){all.data, all.size}, (span){rest.data, rest.size});
    ids_free(&known);
    bytes_free(&all);
    bytes_free(&rest);
    return ok;
}

static bool check_decode(folder_check *f, const llava_tokenizer *t, const json_t *row,
                         const ids *list, bool skip) {
    const json_t *expected = json_object_get(row, "decode_skip");
    if (!skip || !expected) expected = json_object_get(row, "decode");
    bytes text = {0};
    llava_error err = {0};
    bool ok;
    if (json_is_object(expected)) {
        ok = decodes_without_unknown(t, list, skip);
    } else {
        ok = tokenizer_decode(t, list->data, list->count, skip, &text, &err) == LLAVA_OK &&
             same_text(&text, expected, leaves_symbols(t));
    }
    if (!ok)
        reference_fail(f->count, "decode", "%s -> \"%s\" (skip %d) %s", row_text(row),
                       text.data ? text.data : "", skip, err.message);
    bytes_free(&text);
    return ok;
}

static bool ends_inside(const bytes *text) {
    size_t at = 0;
    while (at < text->size) {
        int32_t code;
        at += utf8_decode(text->data + at, text->size - at, &code);
        if (code < 0) return true;
    }
    return false;
}

/* Pieces add up to the whole, and none ends inside a character. */
static bool check_stream(folder_check *f, const llava_tokenizer *t, const json_t *row,
                         const ids *list, bool skip) {
    bytes sum = {0}, piece = {0}, whole = {0};
    text_stream *stream;
    bool ok = text_stream_new(t, skip, &stream, NULL) == LLAVA_OK;
    for (size_t i = 0; ok && i <= list->count; i++) {
        piece.size = 0;
        ok = (i < list->count ? text_stream_push(stream, list->data[i], &piece, NULL)
                              : text_stream_finish(stream, &piece, NULL)) == LLAVA_OK &&
             !ends_inside(&piece) && bytes_append(&sum, piece.data, piece.size);
    }
    ok = ok && tokenizer_decode(t, list->data, list->count, skip, &whole, NULL) == LLAVA_OK &&
         span_equal((span){sum.data, sum.size}, (span){whole.data, whole.size});
    if (!ok)
        reference_fail(f->count, "stream", "%s -> \"%s\" (skip %d)", row_text(row),
                       sum.data ? sum.data : "", skip);
    text_stream_free(&stream);
    bytes_free(&sum);
    bytes_free(&piece);
    bytes_free(&whole);
    return ok;
}

/* Every row of cases, decode and stream: what it has of text, ids and decodings. */
static void check_row(void *user, const json_t *row) {
    folder_check *f = user;
    const llava_tokenizer *t = tokenizer_of(f, json_string_value(json_object_get(row, "call")));
    const json_t *text = json_object_get(row, "text");
    const json_t *skip = json_object_get(row, "skip_special_tokens");
    ids list = {0};
    bool ok = true;
    if (!t) return;
    if (text) {
        llava_error err = {0};
        ok = tokenizer_encode(t, json_string_value(text), json_string_length(text), &list, &err) ==
                 LLAVA_OK &&
             same_ids(&list, json_object_get(row, "ids"));
        if (!ok) {
            char got[400] = "";
            for (size_t i = 0, n = 0; i < list.count && n < 380; i++)
                n += (size_t)snprintf(got + n, sizeof got - n, "%d ", list.data[i]);
            reference_fail(f->count, "encode", "%s -> %s%s", row_text(row), got, err.message);
        }
    }
    ids_of_json(json_object_get(row, "ids"), &list);
    for (int i = 0; ok && i < 2; i++) {
        if (skip && i != json_is_true(skip)) continue;
        if (!skip && !json_object_get(row, "decode")) continue;
        ok = check_decode(f, t, row, &list, i) && check_stream(f, t, row, &list, i);
    }
    if (ok) reference_pass(f->count);
    ids_free(&list);
}

/* ---------------------------------------------------------------- meta.json */

static bool same_flag(const json_t *object, const char *key, bool value) {
    return json_is_true(json_object_get(object, key)) == value;
}

static bool check_added(const llava_tokenizer *t, const json_t *added) {
    const char *id;
    const json_t *want;
    if (!added) return true;
    if (t->n_added != json_object_size(added)) return false;
    json_object_foreach((json_t *)(uintptr_t)added, id, want) {
        const added_token *token = tokenizer_added(t, atoi(id));
        const char *content = json_string_value(json_object_get(want, "content"));
        if (!token || strcmp(token->text.data, content) != 0 ||
            !same_flag(want, "lstrip", token->lstrip) ||
            !same_flag(want, "rstrip", token->rstrip) ||
            !same_flag(want, "single_word", token->single_word) ||
            !same_flag(want, "normalized", token->normalized) ||
            !same_flag(want, "special", token->special)) {
            printf("added token %s: %s differs\n", id, content);
            return false;
        }
    }
    return true;
}

static bool check_named(const llava_tokenizer *t, const json_t *special) {
    static const struct {
        const char *key;
        named_special which;
    } names[] = {{"bos_token", NAMED_BOS},
                 {"eos_token", NAMED_EOS},
                 {"unk_token", NAMED_UNK},
                 {"pad_token", NAMED_PAD}};
    for (size_t i = 0; special && i < LLAVA_COUNT(names); i++) {
        const json_t *id = json_array_get(json_object_get(special, names[i].key), 1);
        const int32_t want = json_is_integer(id) ? (int32_t)json_integer_value(id) : -1;
        if (t->named[names[i].which] == want) continue;
        printf("%s is %d, expected %d\n", names[i].key, t->named[names[i].which], want);
        return false;
    }
    return true;
}

static bool check_new_ids(const llava_tokenizer *t, const json_t *new_ids) {
    const char *text;
    const json_t *id;
    json_object_foreach((json_t *)(uintptr_t)new_ids, text,
                        id) if (tokenizer_id(t, text) != json_integer_value(id)) return false;
    return true;
}

static bool starts_with_class(const llava_tokenizer *t, const json_t *class) {
    const char *name = json_string_value(class);
    const char *description = tokenizer_description(t);
    return !name || (!strncmp(description, name, strlen(name)) && description[strlen(name)] == ' ');
}

static void check_meta(folder_check *f) {
    json_t *meta = read_json(f->directory, "meta.json");
    const char *call;
    json_t *want;
    json_object_foreach(meta, call, want) {
        const llava_tokenizer *t = tokenizer_of(f, call);
        const json_t *clean_up = json_object_get(want, "clean_up_tokenization_spaces");
        if (!t) continue;
        const bool ok = tokenizer_size(t) == json_integer_value(json_object_get(want, "len")) &&
                        check_added(t, json_object_get(want, "added_tokens")) &&
                        check_named(t, json_object_get(want, "special")) &&
                        check_new_ids(t, json_object_get(want, "ids")) &&
                        starts_with_class(t, json_object_get(want, "class")) &&
                        (!clean_up || json_is_true(clean_up) == t->clean_up);
        if (ok)
            reference_pass(f->count);
        else
            reference_fail(f->count, call, "meta.json: %s has %lld tokens: %s",
                           tokenizer_description(t), (long long)tokenizer_size(t), row_text(want));
    }
    json_decref(meta);
}

/* ---------------------------------------------------------------- raw.jsonl */

typedef struct raw_check {
    reference_count *count;
    spm_model *model;
} raw_check;

static void bytes_of_hex(const char *hex, bytes *out) {
    for (; hex[0] && hex[1]; hex += 2) {
        unsigned value;
        sscanf(hex, "%2x", &value);
        const char c = (char)value;
        bytes_append(out, &c, 1);
    }
}

static void check_raw_row(void *user, const json_t *row) {
    raw_check *r = user;
    const json_t *text = json_object_get(row, "text"), *want = json_object_get(row, "decode");
    bytes input = {0}, output = {0};
    ids list = {0};
    llava_error err = {0};
    if (text)
        bytes_append(&input, json_string_value(text), json_string_length(text));
    else
        bytes_of_hex(json_string_value(json_object_get(row, "bytes")), &input);
    bool ok = spm_encode(r->model, r->model->add_dummy_prefix, input.data ? input.data : "",
                         input.size, &list, &err) == LLAVA_OK &&
              same_ids(&list, json_object_get(row, "ids"));
    if (want) {
        spm_decoder decoder = {0};
        for (size_t i = 0; i < list.count; i++)
            spm_decode_piece(r->model, &decoder, list.data[i], r->model->pieces[list.data[i]].text,
                             &output);
        spm_decode_finish(&decoder, &output);
        ok = ok && same_text(&output, want, false);
    }
    if (ok)
        reference_pass(r->count);
    else
        reference_fail(r->count, "raw", "%s -> \"%s\" %s", row_text(row),
                       output.data ? output.data : "", err.message);
    bytes_free(&input);
    bytes_free(&output);
    ids_free(&list);
}

static void check_raw(folder_check *f) {
    char path[4096];
    file_map file = {0};
    llava_error err;
    raw_check r = {f->count, NULL};
    snprintf(path, sizeof path, "%s/raw.jsonl", f->directory);
    if (!path_is_file(path)) return;
    snprintf(path, sizeof path, "%s/tokenizer.model", f->directory);
    if (file_map_open(path, &file, &err) != LLAVA_OK ||
        spm_parse(file.data, file.size, path, &r.model, &err) != LLAVA_OK) {
        reference_fail(f->count, "raw", "%s", err.message);
    } else {
        snprintf(path, sizeof path, "%s/raw.jsonl", f->directory);
        each_row(path, check_raw_row, &r);
    }
    spm_free(&r.model);
    file_map_close(&file);
}

/* ---------------------------------------------------------------- folders */

static bool check_folder(const char *directory, const char *name) {
    static const char *const files[] = {"cases.jsonl", "decode.jsonl", "stream.jsonl"};
    char label[300], path[8192];
    snprintf(label, sizeof label, "tokenizers/%s", name);
    reference_count count = {.folder = label};
    folder_check f = {.count = &count, .directory = directory};
    check_meta(&f);
    for (size_t i = 0; i < LLAVA_COUNT(files); i++) {
        snprintf(path, sizeof path, "%s/%s", directory, files[i]);
        each_row(path, check_row, &f);
    }
    check_raw(&f);
    for (size_t i = 0; i < f.n_open; i++) tokenizer_free(&f.open[i].tokenizer);
    return reference_close(&count);
}

bool check_tokenizers(const char *folder) {
    struct dirent **entries;
    const int n = scandir(folder, &entries, NULL, alphasort);
    bool ok = true;
    if (n < 0) printf("tokenizers: no such folder in the reference data\n");
    for (int i = 0; i < n; i++) {
        char path[4096], meta[4200];
        snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
        snprintf(meta, sizeof meta, "%s/meta.json", path);
        if (path_is_file(meta)) ok = check_folder(path, entries[i]->d_name) && ok;
        free(entries[i]);
    }
    if (n >= 0) free(entries);
    return ok;
}

/* cases_NAME.jsonl: the vocabularies are not stored with the data. LLAVA_REAL_VOCAB names a folder
 * that holds NAME/ with the tokenizer's files for each. */
bool check_real_vocabularies(const char *folder) {
    static const char *const names[] = {"dashscope", "llama-models", "mistral-common"};
    const char *vocabularies = getenv("LLAVA_REAL_VOCAB");
    reference_count count = {.folder = "real vocabularies"};
    for (size_t i = 0; i < LLAVA_COUNT(names); i++) {
        char cases[4096], directory[4096] = "";
        snprintf(cases, sizeof cases, "%s/cases_%s.jsonl", folder, names[i]);
        if (vocabularies) snprintf(directory, sizeof directory, "%s/%s", vocabularies, names[i]);
        if (!path_is_file(cases)) continue;
        if (!path_is_directory(directory)) {
            reference_skip(&count, names[i],
                           "needs the real vocabulary (tools/real_vocab.sh, LLAVA_REAL_VOCAB)");
            continue;
        }
        folder_check f = {.count = &count, .directory = directory};
        each_row(cases, check_row, &f);
        for (size_t k = 0; k < f.n_open; k++) tokenizer_free(&f.open[k].tokenizer);
    }
    return reference_close(&count);
}
