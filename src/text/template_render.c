/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages to a prompt in the eight styles of LLaVA-NeXT's Conversation.get_prompt().
 */
#include <stdlib.h>

#include "text/characters.h"
#include "text/text.h"

/* A rendering in progress; an empty text counts as an open turn, as Python's truth does. */
typedef struct rendering {
    const conversation_template *t;
    const char *system;
    const llava_message *messages;
    size_t n_messages;
    bytes *out;
    bool out_of_memory;
} rendering;

static bool is_filled(const llava_message *m) { return m->text && *m->text; }

static void put(rendering *r, const char *text) {
    if (text && !bytes_puts(r->out, text)) r->out_of_memory = true;
}

static void put_all(rendering *r, const char *a, const char *b, const char *c, const char *d) {
    put(r, a);
    put(r, b);
    put(r, c);
    put(r, d);
}

static const char *role(const rendering *r, const llava_message *m) { return r->t->roles[m->role]; }

/* ---------------------------------------------------------------- styles */

static llava_status render_single(rendering *r) {
    put_all(r, r->system, r->t->sep, NULL, NULL);
    for (size_t i = 0; i < r->n_messages; i++) {
        const llava_message *m = &r->messages[i];
        if (is_filled(m))
            put_all(r, role(r, m), ": ", m->text, r->t->sep);
        else
            put_all(r, role(r, m), ":", NULL, NULL);
    }
    return LLAVA_OK;
}

static llava_status render_two(rendering *r) {
    put_all(r, r->system, r->t->sep, NULL, NULL);
    for (size_t i = 0; i < r->n_messages; i++) {
        const llava_message *m = &r->messages[i];
        const char *end = i % 2 ? r->t->sep2 : r->t->sep;
        if (is_filled(m))
            put_all(r, role(r, m), ": ", m->text, end);
        else
            put_all(r, role(r, m), ":", NULL, NULL);
    }
    return LLAVA_OK;
}

static llava_status render_chatml(rendering *r) {
    if (*r->system) put_all(r, r->system, r->t->sep, "\n", NULL);
    for (size_t i = 0; i < r->n_messages; i++) {
        const llava_message *m = &r->messages[i];
        put_all(r, role(r, m), "\n", NULL, NULL);
        if (is_filled(m)) put_all(r, m->text, r->t->sep, "\n", NULL);
    }
    return LLAVA_OK;
}

static llava_status render_mpt(rendering *r) {
    put_all(r, r->system, r->t->sep, NULL, NULL);
    for (size_t i = 0; i < r->n_messages; i++) {
        const llava_message *m = &r->messages[i];
        put(r, role(r, m));
        if (is_filled(m)) put_all(r, m->text, r->t->sep, NULL, NULL);
    }
    return LLAVA_OK;
}

static llava_status render_gemma(rendering *r, llava_error *err) {
    for (size_t i = 0; i < r->n_messages; i++) {
        const llava_message *m = &r->messages[i];
        if (m->role != (int)(i % 2))
            return llava_fail(err, LLAVA_BAD_ARGUMENT,
                              "template \"%s\": message %zu is from role %d, expected %zu: turns "
                              "alternate, the user first",
                              r->t->name, i, m->role, i % 2);
        put(r, role(r, m));
        if (is_filled(m)) put_all(r, m->text, r->t->sep, NULL, NULL);
    }
    return LLAVA_OK;
}

/* Takes characters of `set` off the start of the text from `start` on: Python's lstrip(sep). */
static void strip_left(bytes *text, size_t start, const char *set) {
    size_t n = 0;
    while (start + n < text->size && text->data[start + n] && strchr(set, text->data[start + n]))
        n++;
    text->size -= n;
    if (n) memmove(text->data + start, text->data + start + n, text->size - start);
    if (text->data) text->data[text->size] = '\0';
}

static llava_status render_llama_2(rendering *r, llava_error *err) {
    const size_t start = r->out->size;
    for (size_t i = 0; i < r->n_messages; i++) {
        const llava_message *m = &r->messages[i];
        if (i == 0 && (!is_filled(m) || m->role != 0))
            return llava_fail(err, LLAVA_BAD_ARGUMENT,
                              "template \"%s\": the first message must be the user's and have text",
                              r->t->name);
        if (!is_filled(m)) continue;
        if (i % 2) {
            put_all(r, " ", m->text, " ", r->t->sep2);
            continue;
        }
        put_all(r, r->t->sep, "[INST] ", NULL, NULL);
        if (i == 0 && *r->system) put_all(r, "<<SYS>>\n", r->system, "\n<</SYS>>\n\n", NULL);
        put_all(r, m->text, " [/INST]", NULL, NULL);
    }
    strip_left(r->out, start, r->t->sep);
    return LLAVA_OK;
}

static void put_trimmed(rendering *r, const char *text) {
    const size_t size = strlen(text);
    const size_t end = size - spaces_at_end(text, size, true);
    const size_t start = spaces_at_start(text, end, true);
    if (!bytes_append(r->out, text + start, end - start)) r->out_of_memory = true;
}

static void put_block(rendering *r, const char *role_name, const char *text) {
    put_all(r, "<|start_header_id|>", role_name, "<|end_header_id|>\n\n", NULL);
    put_trimmed(r, text);
    put(r, "<|eot_id|>");
}

/* What Llama-3's chat template gives, with the generation prompt always on. */
static llava_status render_llama_3(rendering *r) {
    put(r, "<|begin_of_text|>");
    put_block(r, "system", r->system);
    for (size_t i = 0; i < r->n_messages; i++)
        if (is_filled(&r->messages[i])) put_block(r, role(r, &r->messages[i]), r->messages[i].text);
    put(r, "<|start_header_id|>assistant<|end_header_id|>\n\n");
    return LLAVA_OK;
}

static llava_status render_plain(rendering *r, llava_error *err) {
    put(r, r->system);
    for (size_t i = 0; i < r->n_messages; i++) {
        const llava_message *m = &r->messages[i];
        const char *end = i % 2 ? r->t->sep2 : r->t->sep;
        if (!is_filled(m)) continue;
        if (!end)
            return llava_fail(err, LLAVA_BAD_ARGUMENT,
                              "template \"%s\": message %zu: this template has one text, expected "
                              "no answer",
                              r->t->name, i);
        put_all(r, m->text, end, NULL, NULL);
    }
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- all */

static llava_status render(rendering *r, llava_error *err) {
    switch (r->t->style) {
    case STYLE_SINGLE: return render_single(r);
    case STYLE_TWO: return render_two(r);
    case STYLE_CHATML: return render_chatml(r);
    case STYLE_MPT: return render_mpt(r);
    case STYLE_GEMMA: return render_gemma(r, err);
    case STYLE_LLAMA_2: return render_llama_2(r, err);
    case STYLE_LLAMA_3: return render_llama_3(r);
    case STYLE_PLAIN: return render_plain(r, err);
    }
    return LLAVA_OK;
}

llava_status template_render(const conversation_template *t, const char *system,
                             const llava_message *messages, size_t n_messages, bytes *prompt,
                             llava_error *err) {
    for (size_t i = 0; i < n_messages; i++)
        if (messages[i].role != 0 && messages[i].role != 1)
            return llava_fail(err, LLAVA_BAD_ARGUMENT,
                              "message %zu: role %d, expected 0 (user) or 1 (assistant)", i,
                              messages[i].role);
    size_t n_all;
    if (!size_add(n_messages, t->n_preset, &n_all))
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "%zu messages are too many", n_messages);
    llava_message *all = array_new(n_all, sizeof *all);
    if (!all) return llava_fail_memory(err, n_all * sizeof *all, "messages");
    if (t->n_preset) memcpy(all, t->preset, t->n_preset * sizeof *all);
    if (n_messages) memcpy(all + t->n_preset, messages, n_messages * sizeof *all);
    rendering r = {t, system ? system : t->system, all, n_all, prompt, false};
    const size_t before = prompt->size;
    llava_status status = render(&r, err);
    free(all);
    if (r.out_of_memory) status = llava_fail_memory(err, prompt->size, "a prompt");
    if (status != LLAVA_OK) prompt->size = before;
    return status;
}
