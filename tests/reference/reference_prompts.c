/* SPDX-License-Identifier: Apache-2.0
 *
 * prompts/: renderings of the conversation templates, prompts with placeholders, and the
 * piecewise prompt of model_vqa.
 */
#include "reference_text.h"

/* ---------------------------------------------------------------- conversations.json */

#define MAX_MESSAGES 32

typedef struct dialog {
    llava_message messages[MAX_MESSAGES];
    size_t count;
    char *rewritten[MAX_MESSAGES]; /* texts of messages that came with pictures */
    size_t n_rewritten;
    const char *why_not; /* set: not expressible through our interface */
} dialog;

static void trim(bytes *text) {
    const size_t end = text->size - spaces_at_end(text->data, text->size, true);
    const size_t begin = spaces_at_start(text->data, end, true);
    memmove(text->data, text->data + begin, end - begin);
    text->size = end - begin;
    text->data[text->size] = '\0';
}

/* The web pages' first message with pictures: what the caller of our interface writes himself. */
static void rewrite_first(const conversation_template *t, const char *text, dialog *d) {
    bytes cleaned = {0}, whole = {0};
    const bool mmtag = strstr(t->version, "mmtag") != NULL;
    const bool leads = !mmtag && !strncmp(text, "<image>", 7);
    bytes_puts(&cleaned, "");
    if (leads)
        bytes_puts(&cleaned, text);
    else {
        replace_append(span_of(text), span_of("<image>"), span_of(""), &cleaned);
        bytes_puts(&cleaned, "");
        trim(&cleaned);
    }
    if (mmtag) {
        d->messages[d->count++] = (llava_message){0, "<Image><image></Image>"};
        d->messages[d->count++] = (llava_message){1, "Received."};
    } else if (!leads) {
        bytes_puts(&whole, "<image>\n");
    }
    bytes_append(&whole, cleaned.data, cleaned.size);
    d->rewritten[d->n_rewritten++] = whole.data;
    d->messages[d->count++] = (llava_message){0, whole.data};
    bytes_free(&cleaned);
}

/* Two styles put one <image> for each picture in front of a later message, the others nothing. */
static void rewrite_later(const conversation_template *t, int role, const json_t *message,
                          dialog *d) {
    const bool marks = t->style == STYLE_CHATML || t->style == STYLE_LLAMA_3;
    bytes whole = {0};
    for (int64_t i = json_integer_value(json_object_get(message, "images")); marks && i > 0; i--)
        bytes_puts(&whole, "<image>");
    bytes_puts(&whole, json_string_value(json_object_get(message, "text")));
    d->rewritten[d->n_rewritten++] = whole.data;
    d->messages[d->count++] = (llava_message){role, whole.data};
}

static void build_dialog(const conversation_template *t, const json_t *messages, bool fails,
                         dialog *d) {
    size_t i;
    const json_t *message;
    json_array_foreach(messages, i, message) {
        const int role = (int)json_integer_value(json_array_get(message, 0));
        const json_t *text = json_array_get(message, 1);
        if (!json_is_object(text)) {
            d->messages[d->count++] = (llava_message){role, json_string_value(text)};
            continue;
        }
        const char *content = json_string_value(json_object_get(text, "text"));
        if (fails) {
            d->why_not = "the reference fails on the form of an attachment, which is the web "
                         "pages' own";
            return;
        }
        if (i == 0 && !t->n_preset) {
            rewrite_first(t, content, d);
        } else if (i > 0) {
            rewrite_later(t, role, text, d);
        } else if (!*content) {
            d->why_not = "pictures without text behind preset messages: an empty text is an open "
                         "turn here";
            return;
        } else { /* behind preset messages the text stays as it is */
            d->messages[d->count++] = (llava_message){role, content};
        }
    }
}

static const json_t *dialog_named(const json_t *dialogs, const char *name) {
    size_t i;
    const json_t *item;
    json_array_foreach(
        dialogs, i,
        item) if (!strcmp(json_string_value(json_object_get(item, "name")), name)) return item;
    return NULL;
}

static void check_render(reference_count *count, const conversation_template *t,
                         const json_t *dialogs, const json_t *row) {
    const char *name = json_string_value(json_object_get(row, "name"));
    const json_t *source = dialog_named(dialogs, name), *want = json_object_get(row, "prompt");
    char label[200];
    dialog d = {0};
    bytes prompt = {0};
    llava_error err = {0};
    snprintf(label, sizeof label, "%s/%s", t->name, name);
    build_dialog(t, json_object_get(source, "messages"), json_is_object(want), &d);
    if (d.why_not) {
        reference_skip(count, label, "%s", d.why_not);
        goto done;
    }
    const llava_status status =
        template_render(t, json_string_value(json_object_get(source, "system")), d.messages,
                        d.count, &prompt, &err);
    const bool ok = json_is_object(want) ? status != LLAVA_OK && err.message[0]
                                         : status == LLAVA_OK && same_text(&prompt, want, false);
    if (ok)
        reference_pass(count);
    else
        reference_fail(count, label, "%s -> \"%s\" %s", row_text(row),
                       prompt.data ? prompt.data : "", err.message);
done:
    bytes_free(&prompt);
    for (size_t i = 0; i < d.n_rewritten; i++) free(d.rewritten[i]);
}

static bool same_string(const char *text, const json_t *want) {
    return json_is_string(want) ? text && !strcmp(text, json_string_value(want)) : !text;
}

static void check_fields(reference_count *count, const conversation_template *t,
                         const json_t *want) {
    const json_t *roles = json_object_get(want, "roles");
    const bool ok = same_string(t->system, json_object_get(want, "system")) &&
                    same_string(t->roles[0], json_array_get(roles, 0)) &&
                    same_string(t->roles[1], json_array_get(roles, 1)) &&
                    same_string(t->sep, json_object_get(want, "sep")) &&
                    same_string(t->sep2, json_object_get(want, "sep2")) &&
                    same_string(t->version, json_object_get(want, "version")) &&
                    t->n_preset == json_array_size(json_object_get(want, "messages")) &&
                    t->stop[0] != NULL;
    if (ok)
        reference_pass(count);
    else
        reference_fail(count, t->name, "a field differs from the recorded one");
}

bool check_conversations(const char *folder) {
    json_t *root = read_json(folder, "conversations.json");
    reference_count count = {.folder = "prompts/conversations"};
    const char *name;
    json_t *want;
    if (!root) {
        printf("prompts/conversations: no such file in the reference data\n");
        return true;
    }
    json_object_foreach(json_object_get(root, "templates"), name, want) {
        const conversation_template *t = template_find(name);
        size_t i;
        const json_t *row;
        if (!t) {
            reference_fail(&count, name, "there is no such template");
            continue;
        }
        check_fields(&count, t, want);
        json_array_foreach(json_object_get(want, "renders"), i, row)
            check_render(&count, t, json_object_get(root, "dialogs"), row);
    }
    json_decref(root);
    return reference_close(&count);
}

/* ---------------------------------------------------------------- image_tokens.jsonl */

typedef struct prompt_check {
    reference_count *count;
    const char *folder; /* prompts/ */
    char key[600];      /* of the tokenizer that is open */
    llava_tokenizer *tokenizer;
} prompt_check;

/* NULL: the tokenizer's folder is not in the data, or it cannot be opened (*err says). */
static llava_tokenizer *prompt_tokenizer(prompt_check *p, const json_t *row, llava_error *err) {
    char directory[4096], key[600];
    const char *name = json_string_value(json_object_get(row, "tokenizer"));
    const char *call = json_string_value(json_object_get(row, "call"));
    const json_t *flags = json_object_get(row, "flags");
    snprintf(directory, sizeof directory, "%s/../tokenizers/%s", p->folder, name);
    snprintf(key, sizeof key, "%s %s %s", name, call, flags ? row_text(flags) : "");
    if (p->tokenizer && !strcmp(key, p->key)) return p->tokenizer;
    tokenizer_free(&p->tokenizer);
    err->message[0] = '\0';
    if (!path_is_directory(directory)) return NULL;
    snprintf(p->key, sizeof p->key, "%s", key);
    if (open_call(directory, call, flags, &p->tokenizer, err) != LLAVA_OK)
        tokenizer_free(&p->tokenizer);
    return p->tokenizer;
}

/* Where BOS stands in the prompt but is not added by the tokenizer, the reference takes the first
 * id off every chunk behind a placeholder. We do not; the other ids must be the recorded ones. */
static bool same_but_for_lost(const llava_tokenizer *t, const ids *got, const json_t *want) {
    ids none = {0};
    tokenizer_encode(t, "", 0, &none, NULL);
    const bool adds = none.count && none.data[0] == tokenizer_bos(t);
    ids_free(&none);
    if (adds || !got->count || got->data[0] != tokenizer_bos(t)) return false;
    size_t at = 0;
    for (size_t i = 0; i < got->count; i++) {
        const bool lost =
            i && got->data[i - 1] == IMAGE_TOKEN_INDEX && got->data[i] != IMAGE_TOKEN_INDEX;
        if (lost) continue;
        if (json_integer_value(json_array_get(want, at++)) != got->data[i]) return false;
    }
    return at == json_array_size(want);
}

static void check_image_row(void *user, const json_t *row) {
    prompt_check *p = user;
    llava_error err = {0};
    const llava_tokenizer *t = prompt_tokenizer(p, row, &err);
    const json_t *prompt = json_object_get(row, "prompt"), *want = json_object_get(row, "ids");
    ids list = {0};
    if (!t && !err.message[0]) {
        reference_skip(p->count, json_string_value(json_object_get(row, "tokenizer")),
                       "its folder is not in this data");
        return;
    }
    if (!t) {
        reference_fail(p->count, "open", "%s", err.message);
        return;
    }
    const bool ok = tokenize_with_images(t, json_string_value(prompt), json_string_length(prompt),
                                         &list, &err) == LLAVA_OK &&
                    (same_ids(&list, want) || same_but_for_lost(t, &list, want));
    if (ok)
        reference_pass(p->count);
    else
        reference_fail(p->count, "prompt", "%s %s", row_text(row), err.message);
    ids_free(&list);
}

bool check_image_tokens(const char *folder) {
    char path[4096];
    reference_count count = {.folder = "prompts/image_tokens"};
    prompt_check p = {.count = &count, .folder = folder};
    snprintf(path, sizeof path, "%s/image_tokens.jsonl", folder);
    if (!each_row(path, check_image_row, &p)) {
        printf("prompts/image_tokens: no such file in the reference data\n");
        return true;
    }
    tokenizer_free(&p.tokenizer);
    return reference_close(&count);
}

/* ---------------------------------------------------------------- qwen_pieces.jsonl */

static void add_text(const llava_tokenizer *t, const char *text, size_t size, ids *out) {
    tokenizer_encode(t, text, size, out, NULL);
}

static void add_human(const llava_tokenizer *t, const char *text, bool pictures, ids *out) {
    static const int32_t image = IMAGE_TOKEN_INDEX;
    add_text(t, "<|im_start|>user", 16, out);
    add_text(t, "\n", 1, out);
    if (!text) return;
    for (const char *found; pictures && (found = strstr(text, "<image>")); text = found + 7) {
        add_text(t, text, (size_t)(found - text), out);
        ids_append(out, &image, 1);
        add_text(t, "\n", 1, out);
    }
    add_text(t, text, strlen(text), out);
    add_text(t, "<|im_end|>", 10, out);
    add_text(t, "\n", 1, out);
}

/* model_vqa puts its prompt together from pieces that never merge with each other. */
static void check_pieces_row(void *user, const json_t *row) {
    prompt_check *p = user;
    llava_error err = {0};
    const llava_tokenizer *t = prompt_tokenizer(p, row, &err);
    const char *system = json_string_value(json_object_get(row, "system"));
    ids list = {0};
    size_t i;
    const json_t *turn;
    if (!t) {
        if (err.message[0])
            reference_fail(p->count, "open", "%s", err.message);
        else
            reference_skip(p->count, json_string_value(json_object_get(row, "tokenizer")),
                           "its folder is not in this data");
        return;
    }
    const bool pictures = json_is_true(json_object_get(row, "has_image"));
    if (!system) system = "You are a helpful assistant.";
    add_text(t, "<|im_start|>", 12, &list);
    add_text(t, "system", 6, &list);
    add_text(t, "\n", 1, &list);
    add_text(t, system, strlen(system), &list);
    add_text(t, "<|im_end|>", 10, &list);
    add_text(t, "\n", 1, &list);
    json_array_foreach(json_object_get(row, "turns"), i, turn) {
        const char *who = json_string_value(json_array_get(turn, 0));
        const char *text = json_string_value(json_array_get(turn, 1));
        const bool human = !strcmp(who, "human");
        if (i == 0 && !human) continue;
        if (human) {
            add_human(t, text, pictures, &list);
            continue;
        }
        add_text(t, "<|im_start|>assistant", 21, &list);
        add_text(t, "\n", 1, &list);
        if (!text) continue;
        add_text(t, text, strlen(text), &list);
        add_text(t, "<|im_end|>", 10, &list);
        add_text(t, "\n", 1, &list);
    }
    if (same_ids(&list, json_object_get(row, "ids")))
        reference_pass(p->count);
    else
        reference_fail(p->count, "pieces", "%s", row_text(row));
    ids_free(&list);
}

bool check_qwen_pieces(const char *folder) {
    char path[4096];
    reference_count count = {.folder = "prompts/qwen_pieces"};
    prompt_check p = {.count = &count, .folder = folder};
    snprintf(path, sizeof path, "%s/qwen_pieces.jsonl", folder);
    if (!each_row(path, check_pieces_row, &p)) {
        printf("prompts/qwen_pieces: no such file in the reference data\n");
        return true;
    }
    tokenizer_free(&p.tokenizer);
    return reference_close(&count);
}
