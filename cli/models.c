/* SPDX-License-Identifier: Apache-2.0
 *
 * What commands that answer share: loading with a progress bar, pictures, prompts, Ctrl-C.
 */
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli.h"
#include "model/model.h"
#include "text/text.h"

/* ---------------------------------------------------------------- Ctrl-C */

static volatile sig_atomic_t interrupt_count;
static llava_session *volatile interrupt_session;

/** The first time the answer is cancelled, the second time the process ends as if uncaught. */
static void on_interrupt(int number) {
    interrupt_count++;
    if (interrupt_session) llava_session_cancel(interrupt_session);
    if (interrupt_count > 1) {
        signal(number, SIG_DFL);
        raise(number);
    }
}

void cli_catch_interrupt(llava_session *session) {
    interrupt_session = session;
    struct sigaction action = {.sa_handler = on_interrupt};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

void cli_release_interrupt(void) {
    interrupt_session = NULL;
    signal(SIGINT, SIG_DFL);
}

bool cli_interrupted(void) { return interrupt_count > 0; }
void cli_clear_interrupt(void) { interrupt_count = 0; }

/* ---------------------------------------------------------------- loading */

#define BAR_WIDTH       32
#define BAR_INTERVAL_MS 50.0

static void draw_bar(uint64_t done, uint64_t total, const char *what) {
    char bar[BAR_WIDTH + 1];
    const int filled = total ? (int)((double)done / (double)total * BAR_WIDTH) : BAR_WIDTH;
    for (int i = 0; i < BAR_WIDTH; i++) bar[i] = i < filled ? '#' : '.';
    bar[BAR_WIDTH] = '\0';
    fprintf(stderr, "\rloading [%s] %3d %%  %-32.32s", bar, filled * 100 / BAR_WIDTH,
            what ? what : "");
    fflush(stderr);
}

bool cli_on_progress(void *user, uint64_t done, uint64_t total, const char *what) {
    cli_progress *bar = user;
    const double now = now_ms();
    if (bar->visible && (now - bar->drawn_ms >= BAR_INTERVAL_MS || done >= total)) {
        draw_bar(done, total, what);
        bar->drawn_ms = now;
    }
    return !cli_interrupted();
}

llava_load_options cli_load_options(const cli_args *args, cli_progress *bar) {
    llava_load_options options = args->load;
    *bar = (cli_progress){.visible = isatty(STDERR_FILENO)};
    options.model_path = args->words.count ? args->words.items[0] : NULL;
    options.progress = cli_on_progress;
    options.progress_user = bar;
    cli_catch_interrupt(NULL);
    return options;
}

void cli_progress_end(const cli_progress *bar) {
    if (bar->drawn_ms > 0) fprintf(stderr, "\r\033[K");
}

llava_status cli_load(const cli_args *args, cli_model *model, llava_error *err) {
    cli_progress bar;
    const llava_load_options options = cli_load_options(args, &bar);
    const double start = now_ms();
    const llava_status status = llava_load_pretrained_model(&options, &model->loaded, err);
    cli_progress_end(&bar);
    if (status != LLAVA_OK) return status;
    model->load_ms = now_ms() - start;
    llava_model_get_info(model->loaded.model, &model->info);
    return LLAVA_OK;
}

void cli_model_close(cli_model *model) { llava_loaded_close(&model->loaded); }

/* ---------------------------------------------------------------- pictures */

llava_status cli_picture_add(picture_list *list, const char *path, llava_error *err) {
    llava_image **items = realloc(list->items, (list->count + 1) * sizeof *items);
    if (!items) return llava_fail_memory(err, sizeof *items, "a picture");
    list->items = items;
    LLAVA_TRY(llava_image_open(path, &items[list->count], err));
    list->count++;
    return LLAVA_OK;
}

void cli_pictures_free(picture_list *list) {
    for (size_t i = 0; i < list->count; i++) llava_image_free(&list->items[i]);
    free(list->items);
    *list = (picture_list){0};
}

/* ---------------------------------------------------------------- prompts */

static const char placeholder[] = "<image>";
#define PLACEHOLDER_SIZE (sizeof placeholder - 1)

size_t cli_count_placeholders(const char *text) {
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, placeholder)); at += PLACEHOLDER_SIZE) n++;
    return n;
}

bool cli_with_placeholders(const char *text, size_t n_pictures, bytes *out) {
    const size_t n = cli_count_placeholders(text) ? 0 : n_pictures;
    for (size_t i = 0; i < n; i++)
        if (!bytes_puts(out, "<image>\n")) return false;
    return bytes_puts(out, text);
}

llava_status cli_raw_parts(const char *prompt, size_t size, const picture_list *pictures,
                           llava_part **parts, size_t *n_parts, llava_error *err) {
    const size_t n_places = cli_count_placeholders(prompt);
    if (n_places != pictures->count)
        return llava_fail(
            err, LLAVA_BAD_ARGUMENT,
            "the prompt has %zu '<image>' placeholders, but %zu pictures are attached", n_places,
            pictures->count);
    llava_part *list = array_new(2 * n_places + 1, sizeof *list);
    if (!list) return llava_fail_memory(err, sizeof *list, "parts");
    size_t n = 0;
    const char *at = prompt, *const end = prompt + size;
    for (size_t i = 0; i <= n_places; i++) {
        const char *next = i < n_places ? strstr(at, placeholder) : end;
        if (next > at)
            list[n++] =
                (llava_part){.kind = LLAVA_PART_TEXT, .text = at, .text_size = (size_t)(next - at)};
        if (i == n_places) break;
        list[n++] = (llava_part){.kind = LLAVA_PART_IMAGE,
                                 .images = (const llava_image *const *)&pictures->items[i],
                                 .n_images = 1};
        at = next + PLACEHOLDER_SIZE;
    }
    *parts = list;
    *n_parts = n;
    return LLAVA_OK;
}

/** Puts <im_start> and <im_end> around placeholders, as the reference's callers do for models that
 *  were trained so; one that has them already stays. */
static bool wrap_placeholders(const bytes *prompt, bytes *wrapped) {
    static const char open[] = "<im_start>";
    const char *start = prompt->data, *at = start;
    for (const char *next; (next = strstr(at, placeholder)); at = next + PLACEHOLDER_SIZE) {
        const size_t before = (size_t)(next - start);
        const bool has_open = before >= sizeof open - 1 &&
                              memcmp(next - (sizeof open - 1), open, sizeof open - 1) == 0;
        if (!bytes_append(wrapped, at, (size_t)(next - at)) ||
            !bytes_puts(wrapped, has_open ? placeholder : "<im_start><image><im_end>"))
            return false;
    }
    return bytes_puts(wrapped, at);
}

/** Some templates keep the turn's header in their system message; one given without it gets it. */
static bool system_text(const conversation_template *t, const char *given, bytes *out) {
    static const char header[] = "<|im_start|>system\n";
    const size_t size = sizeof header - 1;
    const bool has = t->system && strncmp(t->system, header, size) == 0;
    if (has && strncmp(given, header, size) != 0 && !bytes_puts(out, header)) return false;
    return bytes_puts(out, given);
}

static llava_status render_own(const cli_dialog *dialog, bytes *prompt, llava_error *err) {
    const llava_loaded *loaded = dialog->loaded;
    if (!loaded || !loaded->model)
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "template '%s' is the checkpoint's own: it needs a model",
                          dialog->template_name);
    const checkpoint_dialog own = {dialog->system, dialog->messages, dialog->n_messages};
    return checkpoint_template_render(loaded->model->chat_template, loaded->tokenizer, &own, prompt,
                                      err);
}

llava_status cli_render(const cli_dialog *dialog, bytes *prompt, llava_error *err) {
    if (template_is_checkpoint(dialog->template_name)) return render_own(dialog, prompt, err);
    const conversation_template *t = template_find(dialog->template_name);
    if (!t)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "there is no conversation template '%s'",
                          dialog->template_name);
    const size_t n = dialog->n_messages;
    llava_message *turns = array_new(n + 1, sizeof *turns);
    if (!turns) return llava_fail_memory(err, sizeof *turns, "messages");
    memcpy(turns, dialog->messages, n * sizeof *turns);
    turns[n] = (llava_message){.role = 1, .text = NULL};
    bytes plain = {0}, system = {0};
    llava_status status = LLAVA_OK;
    if (dialog->system && !system_text(t, dialog->system, &system))
        status = llava_fail_memory(err, strlen(dialog->system), "the system message");
    if (status == LLAVA_OK) status = template_render(t, system.data, turns, n + 1, &plain, err);
    if (status == LLAVA_OK && !bytes_puts(&plain, ""))
        status = llava_fail_memory(err, plain.size, "the prompt");
    if (status == LLAVA_OK && !(dialog->wrap ? wrap_placeholders(&plain, prompt)
                                             : bytes_append(prompt, plain.data, plain.size)))
        status = llava_fail_memory(err, plain.size, "the prompt");
    bytes_free(&plain);
    bytes_free(&system);
    free(turns);
    return status;
}

cli_dialog cli_dialog_of(const cli_args *args, const cli_model *model,
                         const llava_message *messages, size_t n_messages) {
    const llava_config *config = model && model->loaded.model ? model->loaded.model->config : NULL;
    return (cli_dialog){
        .template_name = args->conv_mode || !config ? args->conv_mode : model->info.template_name,
        .system = args->system,
        .loaded = config ? &model->loaded : NULL,
        .wrap = config && config->multimodal && config->mm.use_im_start_end,
        .messages = messages,
        .n_messages = n_messages,
    };
}

/** With a system message of its own: what llava_session_ask() does, which takes none. */
static llava_status feed_rendered(llava_session *session, const cli_dialog *dialog,
                                  const picture_list *pictures, llava_error *err) {
    bytes prompt = {0};
    llava_part *parts = NULL;
    size_t n_parts;
    llava_status status;
    LLAVA_TRY_DONE(cli_render(dialog, &prompt, err));
    LLAVA_TRY_DONE(cli_raw_parts(prompt.data, prompt.size, pictures, &parts, &n_parts, err));
    status = llava_session_feed(session, parts, n_parts, err);
done:
    free(parts);
    bytes_free(&prompt);
    return status;
}

llava_status cli_ask(llava_session *session, const cli_dialog *dialog, const picture_list *pictures,
                     llava_error *err) {
    if (dialog->system) return feed_rendered(session, dialog, pictures, err);
    return llava_session_ask(session, dialog->template_name, dialog->messages, dialog->n_messages,
                             (const llava_image *const *)pictures->items, pictures->count, err);
}

bool cli_check_template(const cli_command *command, const char *name) {
    if (!name || template_find(name) || template_is_checkpoint(name)) return true;
    const size_t n = llava_template_count();
    const char **names = array_new(n, sizeof *names);
    for (size_t i = 0; names && i < n; i++) names[i] = llava_template_name(i);
    const char *near = names ? cli_nearest(name, names, n) : NULL;
    if (near)
        cli_usage_error(command, "there is no conversation template '%s'; did you mean '%s'?", name,
                        near);
    else
        cli_usage_error(
            command, "there is no conversation template '%s'; 'llava templates' lists them.", name);
    free(names);
    return false;
}

/* ---------------------------------------------------------------- options of a call */

/** A prompt that is fed rather than asked brings no stops: the template's, and those of them that
 *  are tokens. */
static void add_template_stops(const cli_args *args, const cli_model *model,
                               cli_generation *generation) {
    const char *name = args->conv_mode ? args->conv_mode : model->info.template_name;
    const conversation_template *t = name ? template_find(name) : NULL;
    llava_generate_options *o = &generation->options;
    if (!t || !args->system || args->raw || o->ignore_eos) return;
    for (size_t i = 0; i < LLAVA_COUNT(t->stop) && t->stop[i]; i++) {
        const int32_t id = tokenizer_id(model->loaded.tokenizer, t->stop[i]);
        generation->stop[o->n_stop++] = t->stop[i];
        if (id >= 0 && tokenizer_is_special(model->loaded.tokenizer, id))
            generation->stop_ids[o->n_stop_ids++] = id;
    }
}

llava_status cli_generation_make(const cli_args *args, const cli_model *model,
                                 cli_generation *generation, llava_error *err) {
    const size_t n_template = LLAVA_COUNT(((conversation_template *)0)->stop);
    generation->options = args->generate;
    generation->stop = array_new(args->stop.count + n_template, sizeof *generation->stop);
    generation->stop_ids =
        array_new(args->stop_ids.count + n_template, sizeof *generation->stop_ids);
    if (!generation->stop || !generation->stop_ids)
        return llava_fail_memory(err, sizeof *generation, "stop texts");
    for (size_t i = 0; i < args->stop.count; i++) generation->stop[i] = args->stop.items[i];
    for (size_t i = 0; i < args->stop_ids.count; i++)
        generation->stop_ids[i] = (int32_t)strtol(args->stop_ids.items[i], NULL, 10);
    llava_generate_options *o = &generation->options;
    o->stop = generation->stop;
    o->n_stop = args->stop.count;
    o->stop_ids = generation->stop_ids;
    o->n_stop_ids = args->stop_ids.count;
    add_template_stops(args, model, generation);
    return LLAVA_OK;
}

void cli_generation_free(cli_generation *generation) {
    free(generation->stop);
    free(generation->stop_ids);
    *generation = (cli_generation){0};
}

llava_status cli_read_stream(FILE *in, size_t max_size, bytes *content, llava_error *err) {
    char chunk[65536];
    size_t n;
    while ((n = fread(chunk, 1, sizeof chunk, in)) > 0) {
        if (n > max_size - content->size)
            return llava_fail(err, LLAVA_BAD_ARGUMENT, "the input is longer than %zu bytes",
                              max_size);
        if (!bytes_append(content, chunk, n)) return llava_fail_memory(err, n, "the input");
    }
    return ferror(in) ? llava_fail(err, LLAVA_IO, "the input could not be read") : LLAVA_OK;
}
