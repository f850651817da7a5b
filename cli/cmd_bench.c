/* SPDX-License-Identifier: Apache-2.0
 *
 * llava bench: how fast each stage of a model is, and how fast this machine could be.
 */
#include <stdlib.h>

#include "bench/bench.h"
#include "cli.h"
#include "load/load.h"

#define DEFAULT_TILES    "1,5"
#define DEFAULT_PROMPTS  "512,2048"
#define DEFAULT_CONTEXTS "64,2048"
#define DEFAULT_REPEATS  3
#define CONFIG_LIMIT     ((size_t)16 << 20)
#define MOST_TOKENS      ((int64_t)1 << 20)

static const cli_command *this_command(void) { return cli_command_find("bench"); }

/* ---------------------------------------------------------------- what to measure */

typedef struct bench_request {
    bench_sizes tiles, prompts, contexts;
} bench_request;

/** "1,5": whole numbers from 1. "0" alone measures none. */
static bool parse_sizes(const char *option, const char *text, int64_t most, bench_sizes *sizes) {
    const char *at = text;
    sizes->count = 0;
    if (strcmp(text, "0") == 0) return true;
    while (sizes->count < BENCH_MAX_SIZES) {
        char *end;
        const long long value = strtoll(at, &end, 10);
        if (end == at || value < 1 || value > most) break;
        sizes->items[sizes->count++] = value;
        if (*end == '\0') return true;
        if (*end != ',') break;
        at = end + 1;
    }
    cli_usage_error(this_command(),
                    "--%s takes up to %d numbers from 1 to %lld with commas between them, or 0 for "
                    "none, not '%s'.",
                    option, BENCH_MAX_SIZES, (long long)most, text);
    return false;
}

static bool parse_request(const cli_args *args, bench_request *r) {
    const bool has_model = args->words.count == 1;
    if (has_model == (args->dummy != NULL)) {
        cli_usage_error(this_command(), "it takes either MODEL or --dummy CONFIG.json.");
        return false;
    }
    return parse_sizes("tiles", args->tiles ? args->tiles : DEFAULT_TILES, 1024, &r->tiles) &&
           parse_sizes("prompts", args->prompts ? args->prompts : DEFAULT_PROMPTS, MOST_TOKENS,
                       &r->prompts) &&
           parse_sizes("contexts", args->contexts ? args->contexts : DEFAULT_CONTEXTS, MOST_TOKENS,
                       &r->contexts);
}

static int64_t most_tokens(const bench_request *r, int64_t question_rows) {
    int64_t most = i64_max(question_rows, 1);
    for (int i = 0; i < r->prompts.count; i++) most = i64_max(most, r->prompts.items[i]);
    for (int i = 0; i < r->contexts.count; i++) most = i64_max(most, r->contexts.items[i]);
    return most + BENCH_ANSWER;
}

/* ---------------------------------------------------------------- the model */

typedef struct subject_model {
    cli_model real; /* of a checkpoint */
    llava_model *model;
    llava_image_processor *processor;
    double load_ms;
    bool dummy;
} subject_model;

/** The configuration's directory, where its tower may lie. */
static llava_status load_made_up(const cli_args *args, subject_model *m, llava_error *err) {
    bytes text = {0}, directory = {0};
    cli_progress bar;
    llava_load_options options = cli_load_options(args, &bar);
    if (args->cpu_time) options.n_threads = 1;
    const char *slash = strrchr(args->dummy, '/');
    llava_status status;
    LLAVA_TRY_DONE(file_read(args->dummy, CONFIG_LIMIT, &text, err));
    if (!bytes_append(&directory, slash ? args->dummy : ".",
                      slash ? (size_t)(slash - args->dummy) + 1 : 1) ||
        !bytes_puts(&text, "")) {
        status = llava_fail_memory(err, text.size, "a configuration");
        goto done;
    }
    options.model_path = directory.data;
    options.customized_config = text.data;
    m->dummy = true;
    status = load_dummy(&options, &m->model, &m->processor, err);
    cli_progress_end(&bar);
done:
    bytes_free(&text);
    bytes_free(&directory);
    return status;
}

static llava_status open_model(const cli_args *args, subject_model *m, llava_error *err) {
    const double start = limits_ms();
    if (args->dummy) {
        LLAVA_TRY(load_made_up(args, m, err));
    } else {
        cli_args one = *args;
        if (args->cpu_time) one.load.n_threads = 1;
        LLAVA_TRY(cli_load(&one, &m->real, err));
        m->model = m->real.loaded.model;
        m->processor = m->real.loaded.image_processor;
    }
    m->model->kv_dtype = args->kv_dtype;
    m->load_ms = limits_ms() - start;
    return LLAVA_OK;
}

static void close_model(subject_model *m) {
    if (m->dummy) {
        image_processor_free(&m->processor);
        model_free(&m->model);
    } else {
        cli_model_close(&m->real);
    }
}

/* ---------------------------------------------------------------- the report */

static const char *rate_unit(limit_kind kind) { return kind == LIMIT_READ ? "GB/s" : "GFLOP/s"; }

static void print_head(const bench *b, const subject_model *m) {
    const lm_config *lm = &b->model->config->lm;
    printf("%s%s: hidden size %lld, %lld layers, %.2f GB of weights in %s, %d threads, %s\n\n",
           b->model->config->architecture, m->dummy ? " with random weights" : "",
           (long long)lm->hidden_size, (long long)lm->n_layers,
           (double)b->model->weight_bytes * 1e-9, dtype_name(b->model->compute),
           b->model->dev->n_threads, b->model->dev->level);
    printf("%-22s %14s %12s %12s %16s %8s\n", "stage", "size", "ms", "a second", "rate",
           "of limit");
}

static void print_figure(const bench_figure *f) {
    char size[32], rate[32] = "", fraction[64] = "";
    snprintf(size, sizeof size, "%lld %s", (long long)f->size, f->unit);
    if (f->limited) {
        snprintf(rate, sizeof rate, "%.1f %s", f->rate * 1e-9, rate_unit(f->kind));
        snprintf(fraction, sizeof fraction, "%5.1f %% of %.1f (%s)", 100 * f->fraction,
                 f->limit * 1e-9, limit_name(f->kind));
    }
    printf("%-22s %14s %12.2f %12.2f %16s  %s\n", f->name, size, f->ms, f->per_second, rate,
           fraction);
    fflush(stdout);
}

static json_t *figure_json(const bench_figure *f) {
    json_t *o = json_pack("{s:s, s:s, s:I, s:o, s:o}", "stage", f->name, "unit", f->unit, "size",
                          (json_int_t)f->size, "ms", cli_json_rounded(f->ms, 3), "per_second",
                          cli_json_rounded(f->per_second, 3));
    if (!o || !f->limited) return o;
    json_object_set_new(o, "limit_name", json_string(limit_name(f->kind)));
    json_object_set_new(o, "rate_unit", json_string(rate_unit(f->kind)));
    json_object_set_new(o, "rate", cli_json_rounded(f->rate * 1e-9, 3));
    json_object_set_new(o, "limit", cli_json_rounded(f->limit * 1e-9, 3));
    json_object_set_new(o, "fraction", cli_json_rounded(f->fraction, 4));
    return o;
}

static bool print_document(const bench *b, const subject_model *m) {
    const llava_model *model = b->model;
    json_t *list = json_array();
    for (size_t i = 0; list && i < b->n_figures; i++)
        json_array_append_new(list, figure_json(&b->figures[i]));
    json_t *document =
        json_pack("{s:s, s:b, s:s, s:s, s:s, s:i, s:I, s:I, s:i, s:o}", "architecture",
                  model->config->architecture, "random_weights", (int)m->dummy, "torch_dtype",
                  dtype_name(model->compute), "kv_dtype", dtype_name(kv_dtype_of(model)),
                  "cpu_level", model->dev->level, "threads", model->dev->n_threads, "layers",
                  (json_int_t)model->config->lm.n_layers, "weight_bytes",
                  (json_int_t)model->weight_bytes, "repeats", b->n_repeats, "stages", list);
    return document && cli_print_json(stdout, document, true);
}

/* ---------------------------------------------------------------- the command */

/** One run: loading twice would measure the page cache. */
static void add_load(bench *b, const subject_model *m) {
    double ms = m->load_ms, limit = limit_sample(LIMIT_READ, b->model->dev->n_threads);
    const double gigabytes = (double)b->model->weight_bytes * 1e-9;
    bench_add(b,
              &(bench_subject){.name = m->dummy ? "make weights" : "load",
                               .unit = "MB",
                               .size = (int64_t)(gigabytes * 1e3),
                               .n_units = gigabytes * 1e3,
                               .work = m->dummy ? 0 : gigabytes * 1e9,
                               .kind = LIMIT_READ},
              &ms, &limit, 1);
}

/** Figures appear as they are taken, unless they make one document. */
static void show_new(const bench *b, const cli_args *args, size_t *shown) {
    if (args->json) return;
    for (; *shown < b->n_figures; ++*shown) print_figure(&b->figures[*shown]);
}

static llava_status measure(bench *b, const cli_args *args, const subject_model *m,
                            const bench_request *r, llava_error *err) {
    int64_t question_rows = 0;
    size_t shown = 0;
    if (!limits_start(LIMITS_READ_BYTES))
        return llava_fail_memory(err, LIMITS_READ_BYTES, "sampling the read bandwidth");
    if (!args->json) print_head(b, m);
    add_load(b, m);
    show_new(b, args, &shown);
    LLAVA_TRY(bench_towers(b, &r->tiles, err));
    show_new(b, args, &shown);
    if (!args->no_question) LLAVA_TRY(bench_question_rows(b, &question_rows, err));
    LLAVA_TRY(bench_open(b, most_tokens(r, question_rows), err));
    LLAVA_TRY(bench_prompts(b, &r->prompts, err));
    show_new(b, args, &shown);
    LLAVA_TRY(bench_decodes(b, &r->contexts, err));
    show_new(b, args, &shown);
    if (!args->no_question) LLAVA_TRY(bench_question(b, err));
    show_new(b, args, &shown);
    return LLAVA_OK;
}

int cmd_bench(const cli_args *args) {
    bench_request request;
    if (!parse_request(args, &request)) return EXIT_USAGE;
    limits_use_cpu_time = args->cpu_time;
    llava_error err = {0};
    subject_model m = {0};
    int status = EXIT_FAILED;
    bench *b = array_new(1, sizeof *b);
    if (!b) return cli_fail_text("out of memory.");
    if (open_model(args, &m, &err) == LLAVA_OK) {
        b->model = m.model;
        b->processor = m.processor;
        b->picture = args->images.count ? args->images.items[args->images.count - 1] : NULL;
        b->n_repeats = args->repeat ? (int)args->repeat : DEFAULT_REPEATS;
        if (measure(b, args, &m, &request, &err) != LLAVA_OK)
            status = cli_fail(&err);
        else
            status = !args->json || print_document(b, &m) ? 0 : EXIT_FAILED;
        bench_close(b);
        limits_end();
        close_model(&m);
    } else {
        status = cli_fail(&err);
    }
    free(b);
    return status;
}
