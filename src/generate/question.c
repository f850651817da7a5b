/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages and pictures -> the parts of a prompt. "<image>" in a message stands for a picture, as
 * in the reference's prompts.
 */
#include <stdlib.h>

#include "question.h"

#define PLACEHOLDER      "<image>"
#define PLACEHOLDER_SIZE (sizeof PLACEHOLDER - 1)
#define OPEN             "<im_start>"
#define CLOSE            "<im_end>"

static size_t count_placeholders(const char *text, size_t size) {
    size_t count = 0;
    const char *end = text + size;
    for (const char *p = text; (p = memmem(p, (size_t)(end - p), PLACEHOLDER, PLACEHOLDER_SIZE));
         p += PLACEHOLDER_SIZE)
        count++;
    return count;
}

/* ---------------------------------------------------------------- messages */

/** The messages as they are rendered: placeholders supplied, an open turn at the end. */
typedef struct dialog {
    llava_message *messages;
    size_t n_messages;
    bytes first_text;
} dialog;

static llava_status check_messages(const question *q, llava_error *err) {
    if (q->n_messages == 0)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "there are no messages, expected at least one");
    for (size_t i = 0; i < q->n_messages; i++) {
        const llava_message *m = &q->messages[i];
        if (m->role != 0 && m->role != 1)
            return llava_fail(err, LLAVA_BAD_ARGUMENT,
                              "message %zu has role %d, expected 0 (user) or 1 (assistant)", i,
                              m->role);
        if (!m->text && (m->role == 0 || i + 1 < q->n_messages))
            return llava_fail(err, LLAVA_BAD_ARGUMENT,
                              "message %zu has no text; only the last may be an open turn of the "
                              "assistant",
                              i);
    }
    const llava_message *last = &q->messages[q->n_messages - 1];
    if (last->role == 1 && last->text)
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "the last message is the assistant's, expected a user's to be answered");
    return LLAVA_OK;
}

/** Users often hand over pictures without writing placeholders: then all of them stand in front of
 *  the first user message, one line each, as the reference's callers put them. */
static llava_status supply_placeholders(const question *q, dialog *d, llava_error *err) {
    size_t n_written = 0, first_user = SIZE_MAX;
    for (size_t i = 0; i < q->n_messages; i++) {
        const char *text = q->messages[i].text;
        if (text) n_written += count_placeholders(text, strlen(text));
        if (q->messages[i].role == 0 && first_user == SIZE_MAX) first_user = i;
    }
    if (n_written == q->n_images) return LLAVA_OK;
    if (n_written > 0 || first_user == SIZE_MAX)
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "the messages have %zu \"" PLACEHOLDER "\", expected one for each of the "
                          "%zu pictures",
                          n_written, q->n_images);
    bool fits = true;
    for (size_t i = 0; i < q->n_images; i++) fits &= bytes_puts(&d->first_text, PLACEHOLDER "\n");
    if (!fits || !bytes_puts(&d->first_text, q->messages[first_user].text))
        return llava_fail_memory(err, d->first_text.size, "the prompt");
    d->messages[first_user].text = d->first_text.data;
    return LLAVA_OK;
}

static llava_status make_dialog(const question *q, dialog *d, llava_error *err) {
    LLAVA_TRY(check_messages(q, err));
    d->messages = array_new(q->n_messages + 1, sizeof *d->messages);
    if (!d->messages)
        return llava_fail_memory(err, (q->n_messages + 1) * sizeof *d->messages, "messages");
    memcpy(d->messages, q->messages, q->n_messages * sizeof *d->messages);
    d->n_messages = q->n_messages;
    if (q->messages[q->n_messages - 1].role == 0)
        d->messages[d->n_messages++] = (llava_message){.role = 1};
    return supply_placeholders(q, d, err);
}

/* ---------------------------------------------------------------- splitting */

static bool ends_with(const char *text, size_t size, const char *tail) {
    const size_t n = strlen(tail);
    return size >= n && memcmp(text + size - n, tail, n) == 0;
}

/** Puts <im_start> and <im_end> around placeholders that lack them. */
static llava_status wrap_placeholders(bytes *prompt, llava_error *err) {
    bytes wrapped = {0};
    const char *text = prompt->data, *end = prompt->data + prompt->size;
    bool fits = true;
    for (const char *hit; (hit = memmem(text, (size_t)(end - text), PLACEHOLDER, PLACEHOLDER_SIZE));
         text = hit + PLACEHOLDER_SIZE) {
        const bool is_open = ends_with(prompt->data, (size_t)(hit - prompt->data), OPEN);
        fits = fits && bytes_append(&wrapped, text, (size_t)(hit - text)) &&
               bytes_puts(&wrapped, is_open ? PLACEHOLDER : OPEN PLACEHOLDER CLOSE);
    }
    if (!fits || !bytes_append(&wrapped, text, (size_t)(end - text))) {
        bytes_free(&wrapped);
        return llava_fail_memory(err, prompt->size, "the prompt");
    }
    bytes_free(prompt);
    *prompt = wrapped;
    return LLAVA_OK;
}

static llava_status split(const question *q, rendered_question *r, llava_error *err) {
    const size_t n_placeholders =
        r->prompt.size > 0 ? count_placeholders(r->prompt.data, r->prompt.size) : 0;
    if (n_placeholders != q->n_images)
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "the rendered prompt has %zu \"" PLACEHOLDER "\", expected one for each "
                          "of the %zu pictures",
                          n_placeholders, q->n_images);
    r->parts = array_new(2 * n_placeholders + 1, sizeof *r->parts);
    if (!r->parts)
        return llava_fail_memory(err, (2 * n_placeholders + 1) * sizeof *r->parts, "the prompt");
    const char *text = r->prompt.data ? r->prompt.data : "", *end = text + r->prompt.size;
    for (size_t i = 0; i < n_placeholders; i++) {
        const char *hit = memmem(text, (size_t)(end - text), PLACEHOLDER, PLACEHOLDER_SIZE);
        r->parts[r->n_parts++] =
            (llava_part){.kind = LLAVA_PART_TEXT, .text = text, .text_size = (size_t)(hit - text)};
        r->parts[r->n_parts++] =
            (llava_part){.kind = LLAVA_PART_IMAGE, .images = &q->images[i], .n_images = 1};
        text = hit + PLACEHOLDER_SIZE;
    }
    r->parts[r->n_parts++] =
        (llava_part){.kind = LLAVA_PART_TEXT, .text = text, .text_size = (size_t)(end - text)};
    return LLAVA_OK;
}

static llava_status render_own(const question *q, const dialog *d, rendered_question *r,
                               llava_error *err) {
    const checkpoint_dialog own = {.messages = d->messages, .n_messages = d->n_messages};
    LLAVA_TRY(checkpoint_template_render(q->chat_template, q->tokenizer, &own, &r->prompt, err));
    return split(q, r, err);
}

static llava_status render(const question *q, const dialog *d, rendered_question *r,
                           llava_error *err) {
    if (template_is_checkpoint(q->template_name)) return render_own(q, d, r, err);
    r->conversation = q->template_name ? template_find(q->template_name) : NULL;
    if (!r->conversation)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "there is no conversation template \"%s\"",
                          q->template_name ? q->template_name : "");
    LLAVA_TRY(template_render(r->conversation, NULL, d->messages, d->n_messages, &r->prompt, err));
    if (q->wrap && r->prompt.size > 0) LLAVA_TRY(wrap_placeholders(&r->prompt, err));
    return split(q, r, err);
}

llava_status question_render(const question *q, rendered_question *out, llava_error *err) {
    dialog d = {0};
    rendered_question r = {0};
    llava_status status = make_dialog(q, &d, err);
    if (status == LLAVA_OK) status = render(q, &d, &r, err);
    free(d.messages);
    bytes_free(&d.first_text);
    if (status != LLAVA_OK) {
        rendered_question_free(&r);
        return status;
    }
    *out = r;
    return LLAVA_OK;
}

void rendered_question_free(rendered_question *rendered) {
    bytes_free(&rendered->prompt);
    free(rendered->parts);
    *rendered = (rendered_question){0};
}
