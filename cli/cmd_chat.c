/* SPDX-License-Identifier: Apache-2.0
 *
 * llava chat: a conversation with history, pictures and line editing.
 */
#include <editline/readline.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli.h"

#define HISTORY_LINES 1000

typedef struct chat {
    const cli_args *args;
    cli_model model;
    llava_context *context;
    llava_session *session;
    cli_generation generation;
    llava_message *turns; /* texts are owned */
    size_t n_turns;
    picture_list pictures; /* of all turns, in order */
    size_t n_placed;       /* of these, how many the turns already name */
    bool edits;            /* a person sits at a terminal */
} chat;

/* ---------------------------------------------------------------- the conversation */

static void forget_turns(chat *c, size_t from) {
    for (size_t i = from; i < c->n_turns; i++) free((char *)c->turns[i].text);
    c->n_turns = from;
}

static llava_status add_turn(chat *c, int role, const char *text, size_t size, llava_error *err) {
    llava_message *turns = realloc(c->turns, (c->n_turns + 1) * sizeof *turns);
    if (!turns) return llava_fail_memory(err, sizeof *turns, "a turn");
    c->turns = turns;
    char *copy = strndup(text, size);
    if (!copy) return llava_fail_memory(err, size, "a turn");
    turns[c->n_turns++] = (llava_message){.role = role, .text = copy};
    return LLAVA_OK;
}

static void reset(chat *c) {
    forget_turns(c, 0);
    cli_pictures_free(&c->pictures);
    c->n_placed = 0;
}

static bool stream_text(void *user, const char *text, size_t size) {
    (void)user;
    return fwrite(text, 1, size, stdout) == size && fflush(stdout) == 0;
}

static void print_stats(const llava_result *r) {
    const double rate = r->decode_ms > 0 ? 1000.0 * (double)r->n_ids / r->decode_ms : 0;
    fprintf(stderr,
            "prompt %lld tokens (%lld from the cache) in %.0f ms; answer %zu tokens, "
            "%.1f tokens/s\n",
            (long long)r->n_prompt_tokens, (long long)r->n_cached_tokens, r->prompt_ms, r->n_ids,
            rate);
}

static llava_status generate(chat *c, llava_error *err) {
    const cli_dialog dialog = cli_dialog_of(c->args, &c->model, c->turns, c->n_turns);
    const llava_result *result;
    LLAVA_TRY(cli_ask(c->session, &dialog, &c->pictures, err));
    LLAVA_TRY(llava_session_generate(c->session, &c->generation.options, &result, err));
    putchar('\n');
    fflush(stdout);
    if (c->args->stats) print_stats(result);
    /* as the reference's scripts store it: without the blanks around it */
    const char *text = result->text;
    size_t size = result->text_size;
    while (size && (text[0] == ' ' || text[0] == '\n')) text++, size--;
    while (size && (text[size - 1] == ' ' || text[size - 1] == '\n')) size--;
    return add_turn(c, 1, text, size, err);
}

/** Asks; a question that fails is taken back, its pictures wait for the next one. */
static llava_status ask(chat *c, const char *line, llava_error *err) {
    bytes text = {0};
    const size_t n_before = c->n_turns;
    llava_status status = LLAVA_OK;
    if (!cli_with_placeholders(line, c->pictures.count - c->n_placed, &text))
        status = llava_fail_memory(err, strlen(line), "the question");
    if (status == LLAVA_OK) status = add_turn(c, 0, text.data, text.size, err);
    bytes_free(&text);
    cli_clear_interrupt();
    cli_catch_interrupt(c->session);
    if (status == LLAVA_OK) status = generate(c, err);
    cli_release_interrupt();
    if (status == LLAVA_OK)
        c->n_placed = c->pictures.count;
    else
        forget_turns(c, n_before);
    return status;
}

/* ---------------------------------------------------------------- commands */

static void attach(chat *c, const char *path) {
    llava_error err = {0};
    if (path[0] == '\0') {
        fprintf(stderr, "/image needs a file name.\n");
    } else if (cli_picture_add(&c->pictures, path, &err) != LLAVA_OK) {
        fprintf(stderr, "%s\n", err.message);
    } else {
        int64_t width, height;
        llava_image_get_size(c->pictures.items[c->pictures.count - 1], &width, &height);
        printf("%s: %lld x %lld, for the next question\n", path, (long long)width,
               (long long)height);
    }
}

static void print_commands(void) {
    puts("/image FILE  attach a picture to the next question\n"
         "/reset       forget the conversation\n"
         "/help        this list\n"
         "/quit        leave");
}

/** False: the conversation ends. */
static bool run_slash(chat *c, const char *line) {
    static const char *const names[] = {"/image", "/reset", "/help", "/quit"};
    const size_t size = strcspn(line, " \t");
    const char *rest = line + size + strspn(line + size, " \t");
    char name[32];
    snprintf(name, sizeof name, "%.*s", (int)size, line);
    if (strcmp(name, "/quit") == 0) return false;
    if (strcmp(name, "/image") == 0) {
        attach(c, rest);
    } else if (strcmp(name, "/reset") == 0) {
        reset(c);
    } else if (strcmp(name, "/help") == 0) {
        print_commands();
    } else {
        const char *near = cli_nearest(name, names, LLAVA_COUNT(names));
        if (near)
            fprintf(stderr, "unknown command '%s'; did you mean '%s'?\n", name, near);
        else
            fprintf(stderr, "unknown command '%s'; /help lists them.\n", name);
    }
    return true;
}

/* ---------------------------------------------------------------- lines */

/** The next line without its end, to be freed; NULL at the end of input. */
static char *read_line(const chat *c) {
    if (c->edits) {
        char *line = readline("> ");
        if (line && line[0]) add_history(line);
        return line;
    }
    char *line = NULL;
    size_t capacity = 0;
    ssize_t size = getline(&line, &capacity, stdin);
    if (size < 0) {
        free(line);
        return NULL;
    }
    while (size > 0 && (line[size - 1] == '\n' || line[size - 1] == '\r')) line[--size] = '\0';
    return line;
}

static void chat_free(chat *c) {
    cli_release_interrupt();
    reset(c);
    free(c->turns);
    cli_generation_free(&c->generation);
    llava_session_free(&c->session);
    llava_context_free(&c->context);
    cli_model_close(&c->model);
}

static llava_status open_chat(chat *c, llava_error *err) {
    for (size_t i = 0; i < c->args->images.count; i++)
        LLAVA_TRY(cli_picture_add(&c->pictures, c->args->images.items[i], err));
    LLAVA_TRY(cli_load(c->args, &c->model, err));
    LLAVA_TRY(cli_generation_make(c->args, &c->model, &c->generation, err));
    c->generation.options.on_text = stream_text;
    const llava_context_options options = {.max_tokens = c->args->context_tokens,
                                           .kv_dtype = c->args->kv_dtype,
                                           .n_threads = c->args->load.n_threads};
    LLAVA_TRY(llava_context_new(&c->model.loaded, &options, &c->context, err));
    return llava_session_new(c->context, &c->session, err);
}

static void talk(chat *c) {
    char *line;
    bool goes_on = true;
    while (goes_on && (line = read_line(c))) {
        llava_error err = {0};
        if (line[0] == '/')
            goes_on = run_slash(c, line);
        else if (line[0] && ask(c, line, &err) != LLAVA_OK)
            fprintf(stderr, "%s\n", err.message);
        free(line);
    }
}

int cmd_chat(const cli_args *args) {
    if (!cli_check_template(cli_command_find("chat"), args->conv_mode)) return EXIT_USAGE;
    chat c = {.args = args, .edits = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)};
    llava_error err = {0};
    const llava_status status = open_chat(&c, &err);
    if (status == LLAVA_OK) {
        cli_release_interrupt();
        if (c.edits) {
            stifle_history(HISTORY_LINES);
            printf("%s, template %s. /help lists commands.\n", c.model.info.name,
                   args->conv_mode ? args->conv_mode : c.model.info.template_name);
        }
        talk(&c);
    }
    chat_free(&c);
    return status == LLAVA_OK ? 0 : cli_fail(&err);
}
