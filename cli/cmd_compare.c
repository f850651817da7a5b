/* SPDX-License-Identifier: Apache-2.0
 *
 * llava compare: what another setting or checkpoint changes. Both models read the same questions
 * and answers; their distributions in front of every token of the answers are compared.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "compare/compare.h"

#define BAR_WIDTH       32
#define BAR_INTERVAL_MS 100.0

typedef struct comparison {
    const cli_args *args;
    FILE *data;
    char *folder; /* of the data file; paths in it start there */
    compare_side sides[2];
    compare_totals totals;
    size_t n_lines; /* that are not blank */
    size_t n_questions, n_pictures;
    size_t number;       /* of the line in hand, from 1 */
    size_t largest_line; /* where the largest divergence stands */
    double drawn_ms;
} comparison;

/* ---------------------------------------------------------------- progress */

static void draw_progress(comparison *c) {
    const double now = now_ms();
    if (!isatty(STDERR_FILENO) || now - c->drawn_ms < BAR_INTERVAL_MS) return;
    char bar[BAR_WIDTH + 1];
    const size_t filled = c->n_lines ? c->n_questions * BAR_WIDTH / c->n_lines : 0;
    for (size_t i = 0; i < BAR_WIDTH; i++) bar[i] = i < filled ? '#' : '.';
    bar[BAR_WIDTH] = '\0';
    fprintf(stderr, "\rcomparing [%s] %zu of %zu  %zu tokens ", bar, c->n_questions, c->n_lines,
            c->totals.count);
    fflush(stderr);
    c->drawn_ms = now;
}

static void end_progress(const comparison *c) {
    if (c->drawn_ms > 0) fprintf(stderr, "\r\033[K");
}

/* ---------------------------------------------------------------- the data file */

static bool is_blank(const char *text, ssize_t size) {
    return strspn(text, " \t\r\n") >= (size_t)size;
}

static llava_status open_data(comparison *c, llava_error *err) {
    const char *path = c->args->data, *slash = strrchr(path, '/');
    c->data = fopen(path, "r");
    if (!c->data) return llava_fail(err, LLAVA_IO, "%s: %s", path, strerror(errno));
    c->folder = slash ? strndup(path, (size_t)(slash - path) + (slash == path)) : strdup(".");
    if (!c->folder) return llava_fail_memory(err, strlen(path), "a path");
    char *text = NULL;
    size_t capacity = 0;
    for (ssize_t size; (size = getline(&text, &capacity, c->data)) >= 0;)
        c->n_lines += !is_blank(text, size);
    free(text);
    if (ferror(c->data) || fseek(c->data, 0, SEEK_SET) != 0)
        return llava_fail(err, LLAVA_IO, "%s: it cannot be read twice: %s", path, strerror(errno));
    if (c->n_lines > 0) return LLAVA_OK;
    return llava_fail(err, LLAVA_BAD_ARGUMENT, "%s: there is no line in it", path);
}

static llava_status add_picture(const comparison *c, compare_item *item, const json_t *path,
                                llava_error *err) {
    const char *name = json_string_value(path);
    if (!name)
        return llava_fail(err, LLAVA_MALFORMED, "a picture's path is %s, not a text",
                          json_kind(path));
    bytes full = {0};
    const bool ok =
        name[0] == '/' ? bytes_puts(&full, name) : bytes_printf(&full, "%s/%s", c->folder, name);
    const llava_status status =
        ok ? cli_picture_add(&item->pictures, full.data, err) : llava_fail_memory(err, 0, "a path");
    bytes_free(&full);
    return status;
}

/** The line's fields; texts stay with the line. "text" is what llava batch writes. */
static llava_status read_item(const comparison *c, const json_t *line, compare_item *item,
                              llava_error *err) {
    if (!json_is_object(line))
        return llava_fail(err, LLAVA_MALFORMED, "the line is %s, not an object", json_kind(line));
    const json_t *answer = json_get(line, "answer");
    item->question = json_string_value(json_get(line, "question"));
    item->answer = json_string_value(answer ? answer : json_get(line, "text"));
    if (!item->question) return llava_fail(err, LLAVA_MALFORMED, "it has no text 'question'");
    if (!item->answer)
        return llava_fail(err, LLAVA_MALFORMED, "it has no text 'answer', and no 'text'");
    const json_t *one = json_get(line, "image"), *many = json_get(line, "images");
    if (one) LLAVA_TRY(add_picture(c, item, one, err));
    if (many && !json_is_array(many))
        return llava_fail(err, LLAVA_MALFORMED, "'images' is %s, not an array", json_kind(many));
    for (size_t i = 0; i < json_array_size(many); i++)
        LLAVA_TRY(add_picture(c, item, json_array_get(many, i), err));
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- comparing */

static llava_status check_answers(const comparison *c, llava_error *err) {
    const ids *a = &c->sides[0].answer, *b = &c->sides[1].answer;
    if (a->count == b->count && memcmp(a->data, b->data, a->count * sizeof *a->data) == 0)
        return LLAVA_OK;
    return llava_fail(err, LLAVA_BAD_ARGUMENT,
                      "A and B cut the answer into different tokens; only models with one "
                      "vocabulary can be compared");
}

/** The line in hand through both models. */
static llava_status compare_item_of(comparison *c, const compare_item *item, llava_error *err) {
    const int64_t n_vocab = c->sides[0].model.info.vocab_size;
    for (int k = 0; k < 2; k++) {
        const llava_status status = compare_side_begin(&c->sides[k], item, err);
        if (status != LLAVA_OK) return llava_fail_prefix(err, status, "%s: ", c->sides[k].label);
    }
    LLAVA_TRY(check_answers(c, err));
    const ids *answer = &c->sides[0].answer;
    for (size_t first = 0; first < answer->count; first += COMPARE_LOGIT_ROWS) {
        const int64_t n = i64_min(COMPARE_LOGIT_ROWS, (int64_t)(answer->count - first));
        for (int k = 0; k < 2; k++) LLAVA_TRY(compare_side_step(&c->sides[k], n, err));
        for (int64_t i = 0; i < n; i++) {
            LLAVA_TRY(compare_add(&c->totals, c->sides[0].logits + i * n_vocab,
                                  c->sides[1].logits + i * n_vocab, n_vocab,
                                  answer->data[first + (size_t)i], err));
            if (c->totals.largest == c->totals.count - 1) c->largest_line = c->number;
        }
        if (cli_interrupted()) return llava_fail(err, LLAVA_CANCELLED, "cancelled");
    }
    return LLAVA_OK;
}

static llava_status compare_line(comparison *c, const char *text, size_t size, llava_error *err) {
    compare_item item = {0};
    json_t *line = NULL;
    llava_status status = json_read_text(text, size, "the line", &line, err);
    if (status == LLAVA_OK) status = read_item(c, line, &item, err);
    if (status == LLAVA_OK) status = compare_item_of(c, &item, err);
    c->n_questions++;
    c->n_pictures += item.pictures.count;
    cli_pictures_free(&item.pictures);
    json_decref(line);
    return status;
}

static llava_status compare_all(comparison *c, llava_error *err) {
    char *text = NULL;
    size_t capacity = 0;
    llava_status status = LLAVA_OK;
    for (ssize_t size; status == LLAVA_OK && (size = getline(&text, &capacity, c->data)) >= 0;) {
        c->number++;
        if (is_blank(text, size)) continue;
        draw_progress(c);
        status = compare_line(c, text, (size_t)size, err);
        if (status != LLAVA_OK && status != LLAVA_CANCELLED)
            status = llava_fail_prefix(err, status, "%s, line %zu: ", c->args->data, c->number);
    }
    free(text);
    return status;
}

static llava_status open_sides(comparison *c, llava_error *err) {
    for (int k = 0; k < 2; k++) LLAVA_TRY(compare_side_open(c->args, k, &c->sides[k], err));
    const int64_t a = c->sides[0].model.info.vocab_size, b = c->sides[1].model.info.vocab_size;
    if (a == b) return LLAVA_OK;
    return llava_fail(err, LLAVA_BAD_ARGUMENT,
                      "A has %lld ids and B %lld; only models with one vocabulary can be compared",
                      (long long)a, (long long)b);
}

/* ---------------------------------------------------------------- the report */

static const char *setting_of(const compare_side *side) {
    const llava_load_options *o = &side->args.load;
    return o->load_4bit ? ", load_4bit" : o->load_8bit ? ", load_8bit" : "";
}

static const char *cache_of(const compare_side *side) {
    switch (side->args.kv_dtype) {
    case LLAVA_DTYPE_F32: return ", float32 cache";
    case LLAVA_DTYPE_F16: return ", float16 cache";
    case LLAVA_DTYPE_BF16: return ", bfloat16 cache";
    case LLAVA_DTYPE_I8: return ", int8 cache";
    default: return "";
    }
}

static const char *type_of(const compare_side *side) {
    return dtype_name(side->model.info.torch_dtype);
}

/** A number JSON can hold, else null: an id with probability zero makes infinities. */
static json_t *number(double value) { return isfinite(value) ? json_real(value) : json_null(); }

static json_t *side_json(const compare_side *side, double perplexity) {
    const llava_load_options *o = &side->args.load;
    return json_pack("{s:s, s:s, s:s, s:b, s:b, s:I, s:o}", "path", side->args.words.items[0],
                     "torch_dtype", type_of(side), "kv_dtype",
                     dtype_name(kv_dtype_of(side->model.loaded.model)), "load_8bit", o->load_8bit,
                     "load_4bit", o->load_4bit, "weight_bytes",
                     (json_int_t)side->model.info.weight_bytes, "perplexity", number(perplexity));
}

static json_t *report_json(const comparison *c, const compare_summary *s) {
    return json_pack("{s:o, s:o, s:I, s:I, s:I, s:{s:o, s:o, s:o, s:I}, s:f}", "a",
                     side_json(&c->sides[0], s->perplexity[0]), "b",
                     side_json(&c->sides[1], s->perplexity[1]), "questions",
                     (json_int_t)c->n_questions, "pictures", (json_int_t)c->n_pictures, "tokens",
                     (json_int_t)c->totals.count, "kl", "mean", number(s->kl_mean), "p95",
                     number(s->kl_p95), "max", number(s->kl_max), "max_line",
                     (json_int_t)c->largest_line, "top1_agreement", s->agreement);
}

static void print_report(const comparison *c, const compare_summary *s) {
    for (int k = 0; k < 2; k++)
        printf("%-16s %s, %s%s%s\n", c->sides[k].label, c->sides[k].args.words.items[0],
               type_of(&c->sides[k]), setting_of(&c->sides[k]), cache_of(&c->sides[k]));
    printf("%-16s %zu, with %zu picture%s\n", "questions", c->n_questions, c->n_pictures,
           c->n_pictures == 1 ? "" : "s");
    printf("%-16s %zu\n", "answer tokens", c->totals.count);
    printf("%-16s mean %.3g  p95 %.3g  max %.3g nats, in line %zu\n", "KL(A || B)", s->kl_mean,
           s->kl_p95, s->kl_max, c->largest_line);
    printf("%-16s %.2f %%, %zu of %zu\n", "same top token", 100 * s->agreement, c->totals.n_agree,
           c->totals.count);
    printf("%-16s A %.5g  B %.5g\n", "perplexity", s->perplexity[0], s->perplexity[1]);
}

int cmd_compare(const cli_args *args) {
    const cli_command *self = cli_command_find("compare");
    if (!args->data) return cli_usage_error(self, "--data is missing.");
    if (!cli_check_template(self, args->conv_mode)) return EXIT_USAGE;
    comparison c = {.args = args};
    llava_error err = {0};
    llava_status status;
    LLAVA_TRY_DONE(open_data(&c, &err));
    LLAVA_TRY_DONE(open_sides(&c, &err));
    status = compare_all(&c, &err);
    end_progress(&c);
    if (status == LLAVA_OK) {
        const compare_summary summary = compare_summarize(&c.totals);
        if (args->json)
            cli_print_json(stdout, report_json(&c, &summary), true);
        else
            print_report(&c, &summary);
    }
done:
    for (int k = 0; k < 2; k++) compare_side_close(&c.sides[k]);
    compare_totals_free(&c.totals);
    free(c.folder);
    if (c.data) fclose(c.data);
    return status == LLAVA_OK ? 0 : cli_fail(&err);
}
