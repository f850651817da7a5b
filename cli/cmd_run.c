/* SPDX-License-Identifier: Apache-2.0
 *
 * llava run: one question, one answer, printed as it is generated.
 */
#include <stdlib.h>

#include "cli.h"

#define PROMPT_MAX_BYTES ((size_t)16 << 20)

/** One question on its way: prompt, pictures, engine. */
typedef struct question {
    bytes text; /* as given, placeholders put in front when it had none */
    picture_list pictures;
    cli_model model;
    llava_context *context;
    llava_session *session;
    cli_generation generation;
} question;

static void question_free(question *q) {
    cli_catch_interrupt(NULL);
    llava_session_free(&q->session);
    llava_context_free(&q->context);
    cli_model_close(&q->model);
    cli_pictures_free(&q->pictures);
    bytes_free(&q->text);
    cli_generation_free(&q->generation);
}

static llava_status read_question(const cli_args *args, question *q, llava_error *err) {
    const char *word = args->words.items[1];
    bytes given = {0};
    llava_status status = LLAVA_OK;
    if (strcmp(word, "-") == 0)
        status = cli_read_stream(stdin, PROMPT_MAX_BYTES, &given, err);
    else if (!bytes_puts(&given, word))
        status = llava_fail_memory(err, strlen(word), "the prompt");
    const char *text = given.data ? given.data : "";
    if (status == LLAVA_OK && strlen(text) != given.size)
        status = llava_fail(err, LLAVA_BAD_ARGUMENT, "the prompt holds a NUL byte");
    if (status == LLAVA_OK && given.size == 0 && args->images.count == 0)
        status = llava_fail(err, LLAVA_BAD_ARGUMENT, "the prompt is empty");
    if (status == LLAVA_OK &&
        !(args->raw ? bytes_puts(&q->text, text)
                    : cli_with_placeholders(text, args->images.count, &q->text)))
        status = llava_fail_memory(err, given.size, "the prompt");
    bytes_free(&given);
    return status;
}

static const char *template_of(const cli_args *args, const question *q) {
    return args->conv_mode ? args->conv_mode : q->model.info.template_name;
}

/* ---------------------------------------------------------------- --print-prompt */

static llava_status print_prompt(const cli_args *args, const question *q, llava_error *err) {
    bytes prompt = {0};
    const llava_message ask = {.role = 0, .text = q->text.data};
    const cli_dialog dialog = cli_dialog_of(args, &q->model, &ask, 1);
    llava_status status = LLAVA_OK;
    if (args->raw)
        status = bytes_puts(&prompt, q->text.data) ? LLAVA_OK
                                                   : llava_fail_memory(err, q->text.size, "text");
    else
        status = cli_render(&dialog, &prompt, err);
    if (status == LLAVA_OK) {
        if (args->json) {
            cli_print_json(
                stdout, json_pack("{s:o}", "prompt", json_clean_string(prompt.data, prompt.size)),
                true);
        } else {
            fwrite(prompt.data, 1, prompt.size, stdout);
            fputc('\n', stdout);
        }
    }
    bytes_free(&prompt);
    return status;
}

/* ---------------------------------------------------------------- the answer */

static bool stream_text(void *user, const char *text, size_t size) {
    (void)user;
    return fwrite(text, 1, size, stdout) == size && fflush(stdout) == 0;
}

static double per_second(double count, double ms) { return ms > 0 ? 1000.0 * count / ms : 0; }

static json_t *timings_json(const question *q, const llava_result *r) {
    const double computed = (double)(r->n_prompt_tokens - r->n_cached_tokens);
    return json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:o}", "load_ms", cli_json_rounded(q->model.load_ms, 3),
        "image_ms", cli_json_rounded(r->image_ms, 3), "prompt_ms",
        cli_json_rounded(r->prompt_ms, 3), "decode_ms", cli_json_rounded(r->decode_ms, 3),
        "prompt_tokens_per_second", cli_json_rounded(per_second(computed, r->prompt_ms), 2),
        "tokens_per_second", cli_json_rounded(per_second((double)r->n_ids, r->decode_ms), 2));
}

static bool print_result(const cli_args *args, const question *q, const llava_result *r) {
    json_t *document = json_pack(
        "{s:o, s:o, s:I, s:I, s:I, s:s, s:o}", "text", json_clean_string(r->text, r->text_size),
        "token_ids", cli_json_ids(r->ids, r->n_ids), "prompt_tokens",
        (json_int_t)r->n_prompt_tokens, "visual_tokens", (json_int_t)r->n_visual_tokens,
        "cached_tokens", (json_int_t)r->n_cached_tokens, "finish_reason",
        cli_finish_name(r->finish_reason), "timings", timings_json(q, r));
    if (document && !args->raw)
        json_object_set_new(document, "template", json_string(template_of(args, q)));
    if (document && args->generate.num_beams > 1)
        json_object_set_new(document, "sequence_score", json_real(r->sequence_score));
    return cli_print_json(stdout, document, true);
}

static void print_stats(const question *q, const llava_result *r) {
    const double computed = (double)(r->n_prompt_tokens - r->n_cached_tokens);
    fprintf(stderr,
            "load %.0f ms; pictures %.0f ms; prompt %lld tokens (%lld visual) in %.0f ms, "
            "%.1f tokens/s; answer %zu tokens in %.0f ms, %.1f tokens/s\n",
            q->model.load_ms, r->image_ms, (long long)r->n_prompt_tokens,
            (long long)r->n_visual_tokens, r->prompt_ms, per_second(computed, r->prompt_ms),
            r->n_ids, r->decode_ms, per_second((double)r->n_ids, r->decode_ms));
}

static llava_status feed(const cli_args *args, question *q, llava_error *err) {
    const llava_message ask = {.role = 0, .text = q->text.data};
    const cli_dialog dialog = cli_dialog_of(args, &q->model, &ask, 1);
    if (!args->raw) return cli_ask(q->session, &dialog, &q->pictures, err);
    llava_part *parts;
    size_t n_parts;
    LLAVA_TRY(cli_raw_parts(q->text.data, q->text.size, &q->pictures, &parts, &n_parts, err));
    const llava_status status = llava_session_feed(q->session, parts, n_parts, err);
    free(parts);
    return status;
}

static llava_status answer(const cli_args *args, question *q, llava_error *err) {
    const llava_context_options options = {.max_tokens = args->context_tokens,
                                           .kv_dtype = args->kv_dtype,
                                           .n_threads = args->load.n_threads};
    LLAVA_TRY(cli_generation_make(args, &q->model, &q->generation, err));
    LLAVA_TRY(llava_context_new(&q->model.loaded, &options, &q->context, err));
    LLAVA_TRY(llava_session_new(q->context, &q->session, err));
    cli_catch_interrupt(q->session);
    LLAVA_TRY(feed(args, q, err));
    if (!args->json) q->generation.options.on_text = stream_text;
    const llava_result *result;
    LLAVA_TRY(llava_session_generate(q->session, &q->generation.options, &result, err));
    if (args->json)
        print_result(args, q, result);
    else
        putchar('\n');
    fflush(stdout);
    if (args->stats) print_stats(q, result);
    if (result->finish_reason == LLAVA_FINISH_CANCELLED)
        return llava_fail(err, LLAVA_CANCELLED, "the answer was cancelled");
    return LLAVA_OK;
}

static llava_status run(const cli_args *args, question *q, llava_error *err) {
    LLAVA_TRY(read_question(args, q, err));
    if (args->print_prompt && (args->conv_mode || args->raw)) return print_prompt(args, q, err);
    for (size_t i = 0; i < args->images.count; i++)
        LLAVA_TRY(cli_picture_add(&q->pictures, args->images.items[i], err));
    LLAVA_TRY(cli_load(args, &q->model, err));
    return args->print_prompt ? print_prompt(args, q, err) : answer(args, q, err);
}

int cmd_run(const cli_args *args) {
    if (!cli_check_template(cli_command_find("run"), args->conv_mode)) return EXIT_USAGE;
    question q = {0};
    llava_error err = {0};
    const llava_status status = run(args, &q, &err);
    question_free(&q);
    return status == LLAVA_OK ? 0 : cli_fail(&err);
}
