/* SPDX-License-Identifier: Apache-2.0
 *
 * The checkpoint's own chat template, as transformers' apply_chat_template() evaluates it. It is
 * the template named "checkpoint".
 */
#include "text/jinja/jinja.h"
#include "text/text.h"
#include "text/tokenizer.h"

#define PLACEHOLDER      "<image>"
#define PLACEHOLDER_SIZE (sizeof PLACEHOLDER - 1)

bool template_is_checkpoint(const char *name) {
    return name && strcmp(name, CHECKPOINT_TEMPLATE) == 0;
}

/** Templates of processors walk over content items and ask which of them are images; those of
 *  plain language models take a text. */
static bool wants_items(const char *source) {
    return strstr(source, "'image'") || strstr(source, "\"image\"");
}

static bool append(json_t *list, json_t *value) {
    return value && json_array_append_new(list, value) == 0;
}

static bool append_text(json_t *list, const char *text, size_t size) {
    return size == 0 || append(list, json_pack("{s:s, s:s%}", "type", "text", "text", text, size));
}

/** "<image>\nWhat?" -> an image and a text; the template puts its own line end behind images. */
static json_t *content_items(const char *text) {
    json_t *list = json_array();
    bool fits = list != NULL;
    for (const char *hit; fits && (hit = strstr(text, PLACEHOLDER));) {
        fits = append_text(list, text, (size_t)(hit - text)) &&
               append(list, json_pack("{s:s}", "type", "image"));
        text = hit + PLACEHOLDER_SIZE;
        if (*text == '\n') text++;
    }
    if (fits && append_text(list, text, strlen(text))) return list;
    json_decref(list);
    return NULL;
}

static json_t *make_messages(const checkpoint_dialog *d, bool items) {
    json_t *list = json_array();
    bool fits = list != NULL;
    if (fits && d->system)
        fits = append(list, json_pack("{s:s, s:o}", "role", "system", "content",
                                      items ? content_items(d->system) : json_string(d->system)));
    for (size_t i = 0; fits && i < d->n_messages; i++) {
        const llava_message *m = &d->messages[i];
        if (!m->text) continue; /* the open turn */
        fits =
            append(list, json_pack("{s:s, s:o}", "role", m->role ? "assistant" : "user", "content",
                                   items ? content_items(m->text) : json_string(m->text)));
    }
    if (fits) return list;
    json_decref(list);
    return NULL;
}

/** The template's names: messages, add_generation_prompt, the special tokens' texts. */
static json_t *make_variables(const llava_tokenizer *t, const checkpoint_dialog *d, bool items) {
    json_t *variables =
        json_pack("{s:o, s:b}", "messages", make_messages(d, items), "add_generation_prompt", 1);
    for (int i = 0; variables && i < NAMED_COUNT; i++) {
        const int32_t id = t->named[i];
        const char *text = id >= 0 ? tokenizer_token(t, id) : NULL;
        if (text) json_object_set_new(variables, tokenizer_special_name(i), json_string(text));
    }
    return variables;
}

/** A tokenizer that puts BOS in front by itself must not find the template's there as well. */
static llava_status drop_doubled_bos(const llava_tokenizer *t, bytes *prompt, size_t start,
                                     llava_error *err) {
    const int32_t bos = tokenizer_bos(t);
    const char *text = bos >= 0 ? tokenizer_token(t, bos) : NULL;
    const size_t size = text ? strlen(text) : 0;
    if (size == 0 || prompt->size - start < size || memcmp(prompt->data + start, text, size) != 0)
        return LLAVA_OK;
    ids list = {0};
    const llava_status status = tokenizer_encode(t, "", 0, &list, err);
    const bool adds = status == LLAVA_OK && list.count > 0 && list.data[0] == bos;
    ids_free(&list);
    if (!adds) return status;
    prompt->size -= size;
    memmove(prompt->data + start, prompt->data + start + size, prompt->size - start);
    prompt->data[prompt->size] = '\0';
    return LLAVA_OK;
}

llava_status checkpoint_template_render(const char *source, const llava_tokenizer *tokenizer,
                                        const checkpoint_dialog *dialog, bytes *prompt,
                                        llava_error *err) {
    if (!source)
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "template \"" CHECKPOINT_TEMPLATE "\": the checkpoint has no "
                          "chat_template");
    json_t *variables = make_variables(tokenizer, dialog, wants_items(source));
    if (!variables) /* also a message that is no UTF-8 */
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "template \"" CHECKPOINT_TEMPLATE "\": the messages cannot be passed on; "
                          "expected UTF-8");
    const jinja_request request = {
        .source = source, .size = strlen(source), .variables = variables};
    const size_t start = prompt->size;
    llava_status status = jinja_render(&request, prompt, err);
    json_decref(variables);
    if (status == LLAVA_OK) return drop_doubled_bos(tokenizer, prompt, start, err);
    prompt->size = start;
    return llava_fail_prefix(err, status, "template \"" CHECKPOINT_TEMPLATE "\": ");
}
