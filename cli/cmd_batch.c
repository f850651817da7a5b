/* SPDX-License-Identifier: Apache-2.0
 *
 * llava batch: a file of questions through one model, several at a time as one ragged batch.
 * Answers come out in the order of the questions; an output file that is there is continued.
 * While questions are answered, the pictures of the next one are read and decoded.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include "cli.h"

#define DEFAULT_PARALLEL 4

/** A place in the batch: one session, and the question it is on. */
typedef struct slot {
    llava_session *session;
    json_t *line; /* the question's object; NULL: free */
    size_t index;
    picture_list pictures;
} slot;

/** A question that has no place in the batch yet. */
typedef struct batch_question {
    bool is_there;
    json_t *line; /* NULL: not JSON */
    size_t index;
    const char *folder;
    picture_list pictures;
    background work; /* opens the pictures */
    llava_status status;
    llava_error failure;
} batch_question;

typedef struct batch {
    const cli_args *args;
    cli_model model;
    llava_context *context;
    cli_generation generation;
    FILE *data, *out;
    char *folder; /* of the data file; paths in it start there */
    slot *slots;
    size_t n_slots;
    json_t **done; /* answers that wait for earlier ones, by index - n_written */
    size_t done_capacity;
    size_t n_read, n_written, n_failed, n_running;
    bool reads_ahead; /* a plain file: a pipe's writer may wait for answers first */
    batch_question next;
    char *text; /* the line it was read from */
    size_t text_capacity;
} batch;

/* ---------------------------------------------------------------- output */

/** Keeps an answer until all before it are written. Takes the object. */
static llava_status put_answer(batch *b, size_t index, json_t *answer, llava_error *err) {
    const size_t at = index - b->n_written;
    if (!answer) return llava_fail_memory(err, 0, "an answer");
    if (at >= b->done_capacity) {
        const size_t capacity = 2 * at + 16;
        json_t **done = realloc(b->done, capacity * sizeof *done);
        if (!done) {
            json_decref(answer);
            return llava_fail_memory(err, capacity * sizeof *done, "answers");
        }
        memset(done + b->done_capacity, 0, (capacity - b->done_capacity) * sizeof *done);
        b->done = done;
        b->done_capacity = capacity;
    }
    b->done[at] = answer;
    size_t n = 0;
    while (n < b->done_capacity && b->done[n]) {
        if (!cli_print_json(b->out, b->done[n], false))
            return llava_fail(err, LLAVA_IO, "the output could not be written: %s",
                              strerror(errno));
        b->done[n++] = NULL;
    }
    memmove(b->done, b->done + n, (b->done_capacity - n) * sizeof *b->done);
    memset(b->done + b->done_capacity - n, 0, n * sizeof *b->done);
    b->n_written += n;
    return LLAVA_OK;
}

/** The question with "error" added. Takes the line, which may be NULL. */
static llava_status put_error(batch *b, size_t index, json_t *line, const llava_error *failure,
                              llava_error *err) {
    json_t *answer = line ? line : json_object();
    json_object_set_new(answer, "error",
                        json_clean_string(failure->message, strlen(failure->message)));
    b->n_failed++;
    return put_answer(b, index, answer, err);
}

/* ---------------------------------------------------------------- questions */

static llava_status open_picture(batch_question *q, const json_t *path, llava_error *err) {
    const char *name = json_string_value(path);
    if (!name)
        return llava_fail(err, LLAVA_MALFORMED, "a picture's path is %s, not a text",
                          json_kind(path));
    bytes full = {0};
    const bool ok =
        name[0] == '/' ? bytes_puts(&full, name) : bytes_printf(&full, "%s/%s", q->folder, name);
    const llava_status status =
        ok ? cli_picture_add(&q->pictures, full.data, err) : llava_fail_memory(err, 0, "a path");
    bytes_free(&full);
    return status;
}

static llava_status open_pictures(batch_question *q, llava_error *err) {
    const json_t *one = json_get(q->line, "image"), *many = json_get(q->line, "images");
    if (one) LLAVA_TRY(open_picture(q, one, err));
    if (many && !json_is_array(many))
        return llava_fail(err, LLAVA_MALFORMED, "'images' is %s, not an array", json_kind(many));
    for (size_t i = 0; i < json_array_size(many); i++)
        LLAVA_TRY(open_picture(q, json_array_get(many, i), err));
    return LLAVA_OK;
}

static llava_status check_line(const json_t *line, llava_error *err) {
    if (!json_is_object(line))
        return llava_fail(err, LLAVA_MALFORMED, "the line is %s, not an object", json_kind(line));
    if (!json_string_value(json_get(line, "question")))
        return llava_fail(err, LLAVA_MALFORMED, "the line has no text 'question'");
    return LLAVA_OK;
}

static void prepare_question(void *user) {
    batch_question *q = user;
    q->status = check_line(q->line, &q->failure);
    if (q->status == LLAVA_OK) q->status = open_pictures(q, &q->failure);
}

static void question_free(batch_question *q) {
    background_end(&q->work);
    cli_pictures_free(&q->pictures);
    json_decref(q->line);
    *q = (batch_question){0};
}

static llava_status feed_question(batch *b, slot *s, const char *question, llava_error *err) {
    bytes text = {0};
    llava_part *parts = NULL;
    size_t n_parts;
    llava_status status = LLAVA_OK;
    const cli_args *args = b->args;
    if (args->raw) {
        LLAVA_TRY_DONE(
            cli_raw_parts(question, strlen(question), &s->pictures, &parts, &n_parts, err));
        status = llava_session_feed(s->session, parts, n_parts, err);
    } else if (cli_with_placeholders(question, s->pictures.count, &text)) {
        const llava_message ask = {.role = 0, .text = text.data};
        const cli_dialog dialog = cli_dialog_of(args, &b->model, &ask, 1);
        status = cli_ask(s->session, &dialog, &s->pictures, err);
    } else {
        status = llava_fail_memory(err, strlen(question), "a question");
    }
done:
    free(parts);
    bytes_free(&text);
    return status;
}

static llava_status start_question(batch *b, slot *s, llava_error *err) {
    const char *text = json_string_value(json_get(s->line, "question"));
    if (text[0] == '\0' && s->pictures.count == 0)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "the question is empty");
    LLAVA_TRY(feed_question(b, s, text, err));
    return llava_session_start(s->session, &b->generation.options, err);
}

/** The next line that is not blank; *text is realloc'ed. False at the end. */
static bool next_line(FILE *in, char **text, size_t *capacity, ssize_t *size) {
    while ((*size = getline(text, capacity, in)) >= 0)
        if (strspn(*text, " \t\r\n") < (size_t)*size) return true;
    return false;
}

/** Reads the next question, if there is one, and begins to open its pictures. */
static void read_question(batch *b) {
    batch_question *q = &b->next;
    ssize_t size;
    if (q->is_there || !next_line(b->data, &b->text, &b->text_capacity, &size)) return;
    *q = (batch_question){.is_there = true, .index = b->n_read++, .folder = b->folder};
    q->status = json_read_text(b->text, (size_t)size, "the line", &q->line, &q->failure);
    if (q->status == LLAVA_OK) background_begin(&q->work, prepare_question, q);
}

/** Puts the next question into a free slot. A full cache holds it back while others can make room;
 *  *held tells. */
static llava_status place_question(batch *b, slot *s, bool *held, llava_error *err) {
    batch_question *q = &b->next;
    background_end(&q->work);
    llava_error failure = q->failure;
    llava_status status = q->status;
    if (status == LLAVA_OK) {
        *s = (slot){s->session, q->line, q->index, q->pictures};
        status = start_question(b, s, &failure);
        *held = status == LLAVA_CONTEXT_FULL && b->n_running > 0;
        if (status != LLAVA_OK) *s = (slot){.session = s->session};
        if (*held) return LLAVA_OK;
    }
    if (status == LLAVA_OK) {
        b->n_running++;
        *q = (batch_question){0}; /* the slot's now */
        return LLAVA_OK;
    }
    json_t *line = json_is_object(q->line) ? json_incref(q->line) : NULL;
    const size_t index = q->index;
    question_free(q);
    return put_error(b, index, line, &failure, err);
}

static llava_status take_questions(batch *b, llava_error *err) {
    bool held = false;
    for (size_t i = 0; i < b->n_slots && !held && !cli_interrupted(); i++)
        while (!b->slots[i].line && !held) {
            read_question(b);
            if (!b->next.is_there) return LLAVA_OK;
            LLAVA_TRY(place_question(b, &b->slots[i], &held, err));
        }
    if (b->reads_ahead) read_question(b);
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- answers */

static llava_status collect_answers(batch *b, llava_error *err) {
    for (size_t i = 0; i < b->n_slots; i++) {
        slot *s = &b->slots[i];
        if (!s->line) continue;
        const llava_result *r = llava_session_result(s->session);
        if (!r || r->finish_reason == LLAVA_FINISH_NONE) continue;
        if (r->finish_reason == LLAVA_FINISH_CANCELLED) continue; /* asked again next time */
        json_object_set_new(s->line, "text", json_clean_string(r->text, r->text_size));
        json_object_set_new(s->line, "finish_reason",
                            json_string(cli_finish_name(r->finish_reason)));
        json_t *answer = s->line;
        s->line = NULL;
        b->n_running--;
        cli_pictures_free(&s->pictures);
        LLAVA_TRY(put_answer(b, s->index, answer, err));
    }
    return LLAVA_OK;
}

static llava_status answer_all(batch *b, llava_error *err) {
    for (;;) {
        LLAVA_TRY(take_questions(b, err));
        if (cli_interrupted()) return llava_fail(err, LLAVA_CANCELLED, "the batch was cancelled");
        if (b->n_running == 0) return LLAVA_OK;
        size_t n_running;
        LLAVA_TRY(llava_context_step(b->context, &n_running, err));
        LLAVA_TRY(collect_answers(b, err));
    }
}

/* ---------------------------------------------------------------- going on */

/** Reads past the questions that the output already answers; cuts off a torn last line. */
static llava_status skip_answered(batch *b, llava_error *err) {
    char *answer = NULL, *question = NULL;
    size_t answer_capacity = 0, question_capacity = 0;
    ssize_t size;
    off_t whole = 0;
    llava_status status = LLAVA_OK;
    while (status == LLAVA_OK && (size = getline(&answer, &answer_capacity, b->out)) > 0 &&
           answer[size - 1] == '\n') {
        ssize_t question_size;
        json_t *answered = json_loadb(answer, (size_t)size, 0, NULL);
        json_t *asked = NULL;
        if (next_line(b->data, &question, &question_capacity, &question_size))
            asked = json_loadb(question, (size_t)question_size, 0, NULL);
        const json_t *mine = json_object_get(asked, "question");
        if (!answered || (mine && !json_equal(mine, json_object_get(answered, "question"))))
            status = llava_fail(err, LLAVA_BAD_ARGUMENT,
                                "%s: line %zu does not answer line %zu of %s; another file's "
                                "answers are not continued",
                                b->args->output, b->n_read + 1, b->n_read + 1, b->args->data);
        json_decref(answered);
        json_decref(asked);
        b->n_read++;
        whole = ftello(b->out);
    }
    b->n_written = b->n_read;
    free(answer);
    free(question);
    if (status != LLAVA_OK) return status;
    if (fseeko(b->out, whole, SEEK_SET) != 0 || ftruncate(fileno(b->out), whole) != 0)
        return llava_fail(err, LLAVA_IO, "%s: %s", b->args->output, strerror(errno));
    return LLAVA_OK;
}

static llava_status open_files(batch *b, llava_error *err) {
    const cli_args *args = b->args;
    b->data = fopen(args->data, "r");
    if (!b->data) return llava_fail(err, LLAVA_IO, "%s: %s", args->data, strerror(errno));
    struct stat about;
    b->reads_ahead = fstat(fileno(b->data), &about) == 0 && S_ISREG(about.st_mode);
    const char *slash = strrchr(args->data, '/');
    b->folder = slash ? strndup(args->data, (size_t)(slash - args->data) + (slash == args->data))
                      : strdup(".");
    if (!b->folder) return llava_fail_memory(err, strlen(args->data), "a path");
    if (!args->output) {
        b->out = stdout;
        return LLAVA_OK;
    }
    b->out = fopen(args->output, "r+");
    if (!b->out && errno == ENOENT) b->out = fopen(args->output, "w+");
    if (!b->out) return llava_fail(err, LLAVA_IO, "%s: %s", args->output, strerror(errno));
    return skip_answered(b, err);
}

static llava_status open_engine(batch *b, llava_error *err) {
    const cli_args *args = b->args;
    b->n_slots = (size_t)(args->parallel ? args->parallel : DEFAULT_PARALLEL);
    LLAVA_TRY(cli_load(args, &b->model, err));
    LLAVA_TRY(cli_generation_make(args, &b->model, &b->generation, err));
    const llava_context_options options = {
        .max_tokens = args->context_tokens ? args->context_tokens
                                           : (int64_t)b->n_slots * b->model.info.context_len,
        .kv_dtype = args->kv_dtype,
        .n_threads = args->load.n_threads};
    LLAVA_TRY(llava_context_new(&b->model.loaded, &options, &b->context, err));
    b->slots = array_new(b->n_slots, sizeof *b->slots);
    if (!b->slots) return llava_fail_memory(err, b->n_slots * sizeof *b->slots, "sessions");
    for (size_t i = 0; i < b->n_slots; i++)
        LLAVA_TRY(llava_session_new(b->context, &b->slots[i].session, err));
    return LLAVA_OK;
}

static void batch_free(batch *b) {
    for (size_t i = 0; b->slots && i < b->n_slots; i++) {
        llava_session_free(&b->slots[i].session);
        cli_pictures_free(&b->slots[i].pictures);
        json_decref(b->slots[i].line);
    }
    for (size_t i = 0; i < b->done_capacity; i++) json_decref(b->done[i]);
    question_free(&b->next);
    free(b->text);
    free(b->done);
    free(b->slots);
    cli_generation_free(&b->generation);
    free(b->folder);
    llava_context_free(&b->context);
    cli_model_close(&b->model);
    if (b->data) fclose(b->data);
    if (b->out && b->out != stdout) fclose(b->out);
}

int cmd_batch(const cli_args *args) {
    const cli_command *self = cli_command_find("batch");
    if (!args->data) return cli_usage_error(self, "--data is missing.");
    if (!cli_check_template(self, args->conv_mode)) return EXIT_USAGE;
    batch b = {.args = args};
    llava_error err = {0};
    llava_status status;
    const double start = now_ms();
    LLAVA_TRY_DONE(open_files(&b, &err));
    const size_t n_before = b.n_written;
    LLAVA_TRY_DONE(open_engine(&b, &err));
    LLAVA_TRY_DONE(answer_all(&b, &err));
    if (args->stats)
        fprintf(stderr, "%zu questions, %zu already answered, %zu failed, %.1f s\n", b.n_written,
                n_before, b.n_failed, (now_ms() - start) / 1000);
done:
    batch_free(&b);
    return status == LLAVA_OK ? 0 : cli_fail(&err);
}
