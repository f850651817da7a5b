/* SPDX-License-Identifier: Apache-2.0
 *
 * Every stage of the forward pass on recorded calls of the reference, each fed with what the
 * recording has in front of it: pictures -> tower -> projector -> rows of the prompt, recorded
 * embeddings -> hidden states -> logits, token by token too. With plain C kernels and with the
 * best ones. Then whole prompts in half precision: over all recordings, our logits may be no
 * further from the reference's float32 ones than its own half-precision run is.
 */
#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/json.h"
#include "load/load.h"
#include "reference.h"

#define COSINE_LIMIT 1e-9 /* of 1 - cosine, per row */
#define SIGMA_LIMIT  1e-4 /* of the largest difference / standard deviation of the reference */
#define PROMPT_PIECE 24   /* prompts are fed in pieces of this many rows */

typedef struct test_case {
    char name[256]; /* "traces/NAME/CASE" */
    json_t *root;
    checkpoint *tensors;
    llava_loaded loaded;
    const llava_model *model;
    const llava_image_processor *processor;
    arena *memory;
    llava_dtype dtype;
    char trouble[512]; /* first thing that differs; empty: none */
    int n_compared;
    double worst; /* largest difference / limit */
} test_case;

LLAVA_PRINTF(2, 3) static void differ(test_case *c, const char *format, ...) {
    if (c->trouble[0]) return;
    va_list args;
    va_start(args, format);
    vsnprintf(c->trouble, sizeof c->trouble, format, args);
    va_end(args);
}

static bool ok(test_case *c, llava_status status, const llava_error *err) {
    if (status != LLAVA_OK) differ(c, "%s", err->message);
    return status == LLAVA_OK;
}

static double deviation(const float *values, int64_t n) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)values[i];
        squares += (double)values[i] * (double)values[i];
    }
    const double mean = sum / (double)n;
    return sqrt(fmax(squares / (double)n - mean * mean, 1e-30));
}

/** A float32 tensor of the recording, aligned; NULL when it was not recorded. */
static const float *recorded(test_case *c, const char *name, int64_t *count) {
    const checkpoint_tensor *t = checkpoint_find(c->tensors, name);
    if (!t || t->t.dtype != LLAVA_DTYPE_F32) return NULL;
    *count = tensor_count(&t->t);
    float *copy = arena_array(c->memory, (size_t)*count, sizeof *copy);
    if (copy) memcpy(copy, t->t.data, t->t.n_bytes);
    return copy;
}

/** Rows of `width` against the recorded tensor of that name, if there is one. */
static void compare(test_case *c, const char *name, const float *own, int64_t n_own,
                    int64_t width) {
    int64_t count = 0;
    if (c->dtype != LLAVA_DTYPE_F32) return;
    const float *reference = recorded(c, name, &count);
    if (!reference) return;
    if (count != n_own) {
        differ(c, "%s: %lld numbers, the reference has %lld", name, (long long)n_own,
               (long long)count);
        return;
    }
    const double sigma = deviation(reference, count);
    for (int64_t row = 0; row < count; row += width) {
        double dot = 0, a2 = 0, b2 = 0, largest = 0;
        for (int64_t i = row; i < row + width; i++) {
            const double a = (double)own[i], b = (double)reference[i];
            dot += a * b;
            a2 += a * a;
            b2 += b * b;
            if (!(fabs(a - b) <= largest)) largest = fabs(a - b);
        }
        const double cosine = 1 - dot / sqrt(a2 * b2);
        c->worst = fmax(c->worst, fmax(cosine / COSINE_LIMIT, largest / sigma / SIGMA_LIMIT));
        if (!(cosine <= COSINE_LIMIT) || !(largest / sigma <= SIGMA_LIMIT))
            differ(c, "%s, row %lld: 1 - cosine %.2g, difference / sigma %.2g", name,
                   (long long)(row / width), cosine, largest / sigma);
    }
    c->n_compared++;
}

/* ---------------------------------------------------------------- half precision */

/** Mean divergences KL(float32 reference || half precision), summed over the cases. */
typedef struct half_sums {
    llava_dtype dtype;
    double own, reference;
    int n_cases;
} half_sums;

static double mean_divergence(const float *exact, const float *other, int64_t n, int64_t vocab) {
    double sum = 0;
    for (int64_t row = 0; row < n * vocab; row += vocab) {
        double total[2] = {0, 0};
        for (int64_t v = row; v < row + vocab; v++) {
            total[0] += exp((double)exact[v]);
            total[1] += exp((double)other[v]);
        }
        for (int64_t v = row; v < row + vocab; v++)
            sum += exp((double)exact[v]) / total[0] *
                   ((double)exact[v] - (double)other[v] - log(total[0] / total[1]));
    }
    return sum / (double)n;
}

/** own: logits of the prompt's last n_own rows. */
static void add_divergence(test_case *c, const float *own, int64_t n_own, half_sums *sums) {
    char name[64];
    const int64_t vocab = c->model->n_vocab;
    int64_t n_exact = 0, n_half = 0;
    snprintf(name, sizeof name, "logits.%s", dtype_name(sums->dtype));
    const float *exact = recorded(c, "logits", &n_exact), *half = recorded(c, name, &n_half);
    const int64_t n = i64_min(i64_min(n_exact, n_half) / vocab, n_own);
    if (!exact || !half || n < 1) return;
    exact += n_exact - n * vocab;
    sums->own += mean_divergence(exact, own + (n_own - n) * vocab, n, vocab);
    sums->reference += mean_divergence(exact, half + n_half - n * vocab, n, vocab);
    sums->n_cases++;
}

/* ---------------------------------------------------------------- pictures */

typedef struct picture_case {
    llava_image *frames[64];
    size_t n_frames;
    bool is_video;
    vision_plan plan;
    float *pixels, *rows;
} picture_case;

static bool open_frames(test_case *c, const json_t *entry, picture_case *p) {
    llava_error err = {0};
    p->is_video = json_is_array(entry);
    const size_t n = p->is_video ? json_array_size(entry) : 1;
    for (size_t i = 0; i < n && i < LLAVA_COUNT(p->frames); i++) {
        const char *path = json_string_value(p->is_video ? json_array_get(entry, i) : entry);
        if (!ok(c, llava_image_open(path, &p->frames[i], &err), &err)) return false;
        p->n_frames++;
    }
    return true;
}

static void check_stages(test_case *c, size_t index, picture_case *p) {
    int64_t tokens, width;
    char name[64];
    llava_error err = {0};
    const int64_t hidden = c->model->config->lm.hidden_size, views = p->plan.n_views;
    model_tower_shape(c->model, &tokens, &width);
    const int64_t out = model_projected_tokens(c->model) * hidden;
    const int64_t pooled = p->plan.pool_side * p->plan.pool_side * hidden;
    const vision_trace trace = {.tower_features =
                                    arena_array(c->memory, (size_t)(views * tokens * width), 4),
                                .projected = arena_array(c->memory, (size_t)(views * out), 4),
                                .pooled = arena_array(c->memory, (size_t)(views * pooled), 4)};
    p->rows = arena_array(c->memory, (size_t)(p->plan.n_rows * hidden), sizeof *p->rows);
    if (!ok(c, model_encode_picture(c->model, &p->plan, p->pixels, p->rows, &trace, &err), &err))
        return;
    snprintf(name, sizeof name, "tower_features.%zu", index);
    compare(c, name, trace.tower_features, views * tokens * width, width);
    snprintf(name, sizeof name, "projected.%zu", index);
    compare(c, name, trace.projected, views * out, hidden);
    snprintf(name, sizeof name, "pooled.%zu", index);
    if (pooled) compare(c, name, trace.pooled, views * pooled, hidden);
}

static void check_picture(test_case *c, size_t index, picture_case *p) {
    llava_error err = {0};
    int64_t w, h;
    llava_image_get_size(p->frames[0], &w, &h);
    /* the reference switches nothing for several pictures: every picture counts as alone */
    if (!ok(c,
            vision_plan_make(c->processor, w, h, p->is_video ? (int64_t)p->n_frames : 0, 1,
                             &p->plan, &err),
            &err))
        return;
    const int64_t size = image_processor_view_size(c->processor);
    p->pixels = arena_array(c->memory, (size_t)(p->plan.n_views * 3 * size * size), 4);
    if (!ok(c,
            image_process(c->processor, &p->plan, (const llava_image *const *)p->frames,
                          p->n_frames, p->pixels, NULL, &err),
            &err))
        return;
    check_stages(c, index, p);
}

/* ---------------------------------------------------------------- prompt */

/** Text embeddings and picture rows in the order of the ids, cut at tokenizer_model_max_length;
 *  [prompt_rows, hidden_size]. */
static float *check_splice(test_case *c, const picture_case *pictures, int64_t *n_rows) {
    const int64_t hidden = c->model->config->lm.hidden_size;
    const json_t *list = json_object_get(c->root, "input_ids");
    const int64_t longest = c->model->config->mm.tokenizer_model_max_length;
    int64_t at = 0, room = (int64_t)json_array_size(list);
    for (size_t i = 0; i < json_array_size(json_object_get(c->root, "images")); i++)
        room += pictures[i].plan.n_rows;
    float *rows = arena_array(c->memory, (size_t)(room * hidden), sizeof *rows);
    llava_error err = {0};
    for (size_t i = 0; i < json_array_size(list); i++) {
        const int32_t id = (int32_t)json_integer_value(json_array_get(list, i));
        const int64_t n = id == -200 ? pictures->plan.n_rows : 1;
        if (id == -200)
            memcpy(rows + at * hidden, pictures++->rows, (size_t)(n * hidden) * sizeof *rows);
        else if (!ok(c, model_embed_tokens(c->model, &id, 1, rows + at * hidden, &err), &err))
            return NULL;
        at += n;
    }
    *n_rows = longest ? i64_min(at, longest) : at;
    const int64_t expected = json_integer_value(json_object_get(c->root, "prompt_rows"));
    if (*n_rows != expected)
        differ(c, "the prompt has %lld rows, the reference %lld", (long long)*n_rows,
               (long long)expected);
    compare(c, "inputs_embeds", rows, *n_rows * hidden, hidden);
    return rows;
}

/* ---------------------------------------------------------------- decoder */

typedef struct decoder_case {
    kv_pool *pool;
    decoder_scratch *scratch;
    kv_sequence seq;
    const float *prompt;
    int64_t n_rows;
} decoder_case;

static void feed(test_case *c, decoder_case *d, decoder_item *item) {
    llava_error err = {0};
    item->seq = &d->seq;
    if (ok(c, kv_sequence_reserve(&d->seq, item->n_rows, &err), &err))
        ok(c, decoder_step(c->model, d->scratch, item, 1, &err), &err);
}

/** Hidden states of the whole prompt in one step. */
static void check_hidden(test_case *c, decoder_case *d) {
    const lm_config *lm = &c->model->config->lm;
    const int64_t size = d->n_rows * lm->hidden_size, n = lm->n_layers + 2;
    float *all = arena_array(c->memory, (size_t)(n * size), sizeof *all);
    float **stages = arena_array(c->memory, (size_t)n, sizeof *stages);
    for (int64_t i = 0; i < n; i++) stages[i] = all + i * size;
    feed(c, d, &(decoder_item){.rows = d->prompt, .n_rows = d->n_rows, .hidden = stages});
    for (int64_t i = 0; i < n; i++) {
        char name[64] = "hidden.normed";
        if (i + 1 < n) snprintf(name, sizeof name, "hidden.%lld", (long long)i);
        compare(c, name, stages[i], size, lm->hidden_size);
    }
    kv_sequence_truncate(&d->seq, 0);
}

/** Logits of the prompt in pieces, then of the recorded greedy tokens one by one. */
static void check_logits(test_case *c, decoder_case *d) {
    const int64_t vocab = c->model->n_vocab, width = c->model->config->lm.hidden_size;
    const int64_t from = json_integer_value(json_object_get(c->root, "logits_from"));
    float *logits = arena_array(c->memory, (size_t)((d->n_rows + 1) * vocab), sizeof *logits);
    for (int64_t i = 0; i < d->n_rows && !c->trouble[0]; i += PROMPT_PIECE) {
        const int64_t n = i64_min(PROMPT_PIECE, d->n_rows - i);
        feed(c, d,
             &(decoder_item){.rows = d->prompt + i * width,
                             .n_rows = n,
                             .n_logits = n,
                             .logits = logits + i * vocab,
                             .rope_length = d->n_rows});
    }
    compare(c, "logits", logits + from * vocab, (d->n_rows - from) * vocab, vocab);
    const json_t *greedy = json_object_get(json_object_get(c->root, "greedy"), "ids");
    const int64_t n_steps = (int64_t)json_array_size(greedy);
    float *steps = arena_array(c->memory, (size_t)((n_steps + 1) * vocab), sizeof *steps);
    float *row = arena_array(c->memory, (size_t)width, sizeof *row);
    memcpy(steps, logits + (d->n_rows - 1) * vocab, (size_t)vocab * sizeof *steps);
    for (int64_t i = 0; i + 1 < n_steps && !c->trouble[0]; i++) {
        const int32_t id = (int32_t)json_integer_value(json_array_get(greedy, (size_t)i));
        llava_error err = {0};
        ok(c, model_embed_tokens(c->model, &id, 1, row, &err), &err);
        feed(c, d,
             &(decoder_item){.rows = row,
                             .n_rows = 1,
                             .generated = true,
                             .n_logits = 1,
                             .logits = steps + (i + 1) * vocab});
    }
    compare(c, "step_logits", steps, n_steps * vocab, vocab);
}

/** The prompt's logits in the case's half-precision type. */
static void check_half(test_case *c, decoder_case *d, half_sums *sums) {
    const int64_t n = i64_min(d->n_rows, 64), vocab = c->model->n_vocab;
    float *logits = arena_array(c->memory, (size_t)(n * vocab), sizeof *logits);
    feed(c, d,
         &(decoder_item){.rows = d->prompt, .n_rows = d->n_rows, .n_logits = n, .logits = logits});
    add_divergence(c, logits, n, sums);
    c->n_compared++;
}

/** In float32 from the recorded rows of the prompt where there are some, else from own. */
static void check_decoder(test_case *c, const float *own, int64_t n_rows, half_sums *sums) {
    int64_t count = 0;
    llava_error err = {0};
    decoder_case d = {.prompt = sums ? NULL : recorded(c, "inputs_embeds", &count),
                      .n_rows = n_rows};
    if (!d.prompt) d.prompt = own;
    const int64_t limit = d.n_rows + 256;
    if (ok(c, kv_pool_new(c->model, limit, &d.pool, &err), &err) &&
        ok(c, kv_sequence_new(d.pool, limit, &d.seq, &err), &err) &&
        ok(c, decoder_scratch_new(c->model, d.n_rows, 64, limit, &d.scratch, &err), &err)) {
        if (sums) {
            check_half(c, &d, sums);
        } else {
            check_hidden(c, &d);
            check_logits(c, &d);
        }
    }
    kv_sequence_free(&d.seq);
    decoder_scratch_free(&d.scratch);
    kv_pool_free(&d.pool);
}

/* ---------------------------------------------------------------- cases */

static void check_call(test_case *c, const char *level, half_sums *sums) {
    const json_t *call = json_object_get(c->root, "call");
    const json_t *images = json_object_get(c->root, "images");
    const json_t *overwrite = json_object_get(call, "overwrite_config");
    char *text = json_is_object(overwrite) ? json_dumps(overwrite, 0) : NULL;
    const llava_load_options options = {
        .model_path = json_string_value(json_object_get(call, "model_path")),
        .model_base = json_string_value(json_object_get(call, "model_base")),
        .model_name = json_string_value(json_object_get(call, "model_name")),
        .torch_dtype = c->dtype,
        .overwrite_config = text,
        .multimodal = json_is_true(json_object_get(call, "multimodal")),
        .n_threads = 2,
        .cpu_level = level};
    llava_error err = {0};
    const bool loaded = ok(c, load_pretrained_model(&options, &c->loaded, &err), &err);
    free(text);
    if (!loaded) return;
    c->model = c->loaded.model;
    c->processor = c->loaded.image_processor;
    const size_t n = json_array_size(images);
    picture_case *pictures = arena_array(c->memory, n + 1, sizeof *pictures);
    for (size_t i = 0; i < n && !c->trouble[0]; i++)
        if (open_frames(c, json_array_get(images, i), &pictures[i]))
            check_picture(c, i, &pictures[i]);
    int64_t n_rows = 0;
    const float *rows = c->trouble[0] ? NULL : check_splice(c, pictures, &n_rows);
    if (!c->trouble[0]) check_decoder(c, rows, n_rows, sums);
    for (size_t i = 0; i < n; i++) {
        vision_plan_free(&pictures[i].plan);
        for (size_t f = 0; f < pictures[i].n_frames; f++) llava_image_free(&pictures[i].frames[f]);
    }
}

/** A tower's recorded pixels; "features.LAYER.SELECTION" names its own keys. */
static void check_tower_features(test_case *c, const char *level, const char *name) {
    json_t *config = json_deep_copy(json_object_get(c->root, "config"));
    int64_t count = 0, tokens, width;
    const float *pixels = recorded(c, "pixel_values", &count);
    if (name[strlen("features")] == '.') {
        char *end;
        json_object_set_new(config, "mm_vision_select_layer",
                            json_integer(strtol(name + strlen("features."), &end, 10)));
        json_object_set_new(config, "mm_vision_select_feature", json_string(end + 1));
    }
    char *text = json_dumps(config, 0);
    const tower_request request = {.directory =
                                       json_string_value(json_object_get(c->root, "tower")),
                                   .config_json = text,
                                   .torch_dtype = LLAVA_DTYPE_F32,
                                   .n_threads = 2,
                                   .cpu_level = level};
    llava_model *model = NULL;
    llava_image_processor *processor = NULL;
    llava_error err = {0};
    if (ok(c, load_tower_only(&request, &model, &processor, &err), &err)) {
        const int64_t size = image_processor_view_size(processor), n = count / (3 * size * size);
        model_tower_shape(model, &tokens, &width);
        float *features = arena_array(c->memory, (size_t)(n * tokens * width), sizeof *features);
        if (ok(c, model_run_tower(model, pixels, n, features, &err), &err))
            compare(c, name, features, n * tokens * width, width);
    }
    image_processor_free(&processor);
    model_free(&model);
    free(text);
    json_decref(config);
}

static void check_tower(test_case *c, const char *level) {
    for (size_t i = 0; i < checkpoint_count(c->tensors) && !c->trouble[0]; i++) {
        const char *name = checkpoint_at(c->tensors, i)->name;
        if (strncmp(name, "features", 8) == 0 && strcmp(name, "features.bfloat16") != 0 &&
            strcmp(name, "features.reference") != 0)
            check_tower_features(c, level, name);
    }
}

static bool half_recorded(const test_case *c) {
    char name[64];
    snprintf(name, sizeof name, "logits.%s", dtype_name(c->dtype));
    return checkpoint_find(c->tensors, name) != NULL;
}

static void run_case(reference_count *count, const char *base, const char *level, half_sums *sums) {
    test_case c = {.memory = arena_new(), .dtype = sums ? sums->dtype : LLAVA_DTYPE_F32};
    char path[512];
    llava_error err = {0};
    snprintf(c.name, sizeof c.name, "%.200s (%s, %s)", base, level, dtype_name(c.dtype));
    snprintf(path, sizeof path, "%s.json", base);
    const bool read = ok(&c, json_read_file(path, &c.root, &err), &err);
    snprintf(path, sizeof path, "%s.safetensors", base);
    const bool opened = read && ok(&c, checkpoint_open(path, &c.tensors, &err), &err);
    const char *tower = json_string_value(json_object_get(c.root, "tower"));
    bool counted = true;
    if (opened && sums && !half_recorded(&c)) {
        counted = false;
    } else if (tower && strchr(tower, ':')) {
        reference_skip(count, c.name, "a tower of the kind %s is not run", tower);
        counted = false;
    } else if (opened && tower) {
        check_tower(&c, level);
    } else if (opened) {
        check_call(&c, level, sums);
    }
    if (counted && (c.trouble[0] || c.n_compared == 0))
        reference_fail(count, c.name, "%s", c.trouble[0] ? c.trouble : "nothing was compared");
    else if (counted && !sums) /* half precision is judged over all cases */
        reference_pass(count);
    if (getenv("TEST_MODEL_VERBOSE"))
        printf("%s: %d stages, worst %.3f of the limit\n", c.name, c.n_compared, c.worst);
    llava_loaded_close(&c.loaded);
    checkpoint_close(&c.tensors);
    json_decref(c.root);
    arena_free(&c.memory);
}

/** Every CASE.json that has its CASE.safetensors, in a folder of folders. */
static void walk(reference_count *count, const char *root, int depth, const char *level,
                 half_sums *sums) {
    struct dirent **entries;
    const int n = scandir(root, &entries, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        char path[512], tensors[600];
        snprintf(path, sizeof path, "%s/%.200s", root, entries[i]->d_name);
        char *dot = strrchr(path, '.');
        if (depth == 0 && entries[i]->d_name[0] != '.' && path_is_directory(path))
            walk(count, path, 1, level, sums);
        if (depth == 1 && dot && strcmp(dot, ".json") == 0) {
            *dot = '\0';
            snprintf(tensors, sizeof tensors, "%s.safetensors", path);
            if (path_is_file(tensors)) run_case(count, path, level, sums);
        }
        free(entries[i]);
    }
    if (n >= 0) free(entries);
}

/** Half precision over all recordings; one case more in the count. */
static void check_half_precision(reference_count *count, llava_dtype dtype, const char *level) {
    half_sums sums = {.dtype = dtype};
    const char *name = dtype_name(dtype);
    walk(count, "traces", 0, level, &sums);
    if (sums.n_cases == 0) return;
    printf("model: %s, mean divergence over %d recordings: ours %.3g, the reference's %.3g\n", name,
           sums.n_cases, sums.own / sums.n_cases, sums.reference / sums.n_cases);
    if (sums.own <= sums.reference)
        reference_pass(count);
    else
        reference_fail(count, name, "ours is further from float32 than the reference's");
}

int main(int argc, char **argv) {
    reference_count count = {.folder = "model"};
    if (chdir(reference_folder()) != 0 || !path_is_directory("traces")) {
        printf("model: no traces in %s\n", reference_folder());
        return 0;
    }
    const char *best = NULL;
    for (const char *const *level = device_cpu_levels(); *level; level++)
        if (device_cpu_level_available(*level)) best = *level;
    const char *const levels[] = {"c", best};
    for (size_t i = 0; i < LLAVA_COUNT(levels); i++) {
        if (i && strcmp(best, "c") == 0) break;
        if (argc > 1)
            run_case(&count, argv[1], levels[i], NULL);
        else
            walk(&count, "traces", 0, levels[i], NULL);
    }
    if (argc == 1) {
        check_half_precision(&count, LLAVA_DTYPE_F16, best);
        check_half_precision(&count, LLAVA_DTYPE_BF16, best);
    }
    return reference_close(&count) ? 0 : 1;
}
