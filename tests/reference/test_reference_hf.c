/* SPDX-License-Identifier: Apache-2.0
 *
 * formats/hf: checkpoints of transformers' own LLaVA classes, as several of its releases write
 * them, against what those classes compute: ids, pixels, features, embeddings, logits, greedy ids.
 */
#include <dirent.h>
#include <limits.h>
#include <stdlib.h>

#include "support/reference.h"
#include "support/scratch.h"
#include "verify/verify.h"

#define MAX_PICTURES 8

/** A picture or a video of a case, and what became of it. */
typedef struct hf_picture {
    llava_image **frames;
    size_t n_frames;
    bool is_video;
    vision_plan plan;
    float *pixels, *rows, *projected;
    int64_t n_projected; /* rows */
} hf_picture;

typedef struct hf_case {
    const char *root; /* formats/hf */
    const char *prompt;
    bool has_video;
    size_t n_pictures;
    hf_picture pictures[MAX_PICTURES];
    const llava_loaded *loaded;
    const checkpoint *trace;
    arena *memory;
    ids expanded; /* a placeholder for every row of a picture */
    float *embeddings;
    int64_t n_rows;
    llava_error err;
} hf_case;

static const char *tell(const hf_case *c) { return arena_printf(c->memory, "%s", c->err.message); }

static const mm_config *mm_of(const hf_case *c) { return &c->loaded->model->config->mm; }

static const tensor *recorded(const hf_case *c, const char *name, llava_dtype dtype) {
    const checkpoint_tensor *t = checkpoint_find(c->trace, name);
    return t && t->t.dtype == dtype ? &t->t : NULL;
}

/** Whole numbers of the trace. */
static int32_t *recorded_ids(const hf_case *c, const char *name, size_t *count) {
    const tensor *t = recorded(c, name, LLAVA_DTYPE_I64);
    *count = t ? (size_t)tensor_count(t) : 0;
    int32_t *list = arena_array(c->memory, *count + 1, sizeof *list);
    for (size_t i = 0; list && i < *count; i++) {
        int64_t id;
        memcpy(&id, (const uint8_t *)t->data + 8 * i, sizeof id);
        list[i] = (int32_t)id;
    }
    return list;
}

/** Compares own rows with a tensor of the trace, of which the first n_cols columns count. */
static const char *compare(const hf_case *c, const char *name, const float *own, int64_t n_rows,
                           int64_t n_cols) {
    const tensor *t = recorded(c, name, LLAVA_DTYPE_F32);
    if (!t) return arena_printf(c->memory, "the trace has no %s", name);
    const int64_t stored = t->shape[t->n_dims - 1];
    if (tensor_count(t) != n_rows * stored || stored < n_cols)
        return arena_printf(c->memory, "%s: %lld x %lld values, recorded %lld in rows of %lld",
                            name, (long long)n_rows, (long long)n_cols, (long long)tensor_count(t),
                            (long long)stored);
    float *wanted = arena_array(c->memory, (size_t)(n_rows * n_cols), sizeof *wanted);
    for (int64_t i = 0; wanted && i < n_rows; i++)
        memcpy(wanted + i * n_cols, (const uint8_t *)t->data + 4 * i * stored,
               (size_t)n_cols * sizeof *wanted);
    const bool are_logits = strcmp(name, "logits") == 0;
    const verify_level *level = &verify_level_float32;
    const row_metrics m = compare_rows(own, wanted, n_rows, n_cols, are_logits);
    if (m.one_minus_cosine <= level->cosine && m.max_abs_sigma <= level->max_abs_sigma &&
        (!are_logits || m.kl_max <= level->kl_max))
        return NULL;
    return arena_printf(c->memory, "%s: 1-cosine %.3g, max-abs/sigma %.3g, KL %.3g", name,
                        m.one_minus_cosine, m.max_abs_sigma, m.kl_max);
}

/* ---------------------------------------------------------------- pictures */

static const char *open_video(hf_case *c, hf_picture *p) {
    checkpoint *file = NULL;
    const char *path = path_join(c->memory, c->root, "pictures/video.safetensors");
    if (checkpoint_open(path, &file, &c->err) != LLAVA_OK) return tell(c);
    const checkpoint_tensor *t = checkpoint_find(file, "frames");
    const int64_t height = t->t.shape[1], width = t->t.shape[2];
    p->is_video = true;
    p->frames = arena_array(c->memory, (size_t)t->t.shape[0], sizeof *p->frames);
    llava_status status = LLAVA_OK;
    for (int64_t i = 0; i < t->t.shape[0] && status == LLAVA_OK; i++) {
        const uint8_t *rgb = (const uint8_t *)t->t.data + i * height * width * 3;
        status = llava_image_from_rgb(rgb, width, height, &p->frames[i], &c->err);
        p->n_frames += status == LLAVA_OK;
    }
    checkpoint_close(&file);
    return status == LLAVA_OK ? NULL : tell(c);
}

static const char *open_pictures(hf_case *c) {
    if (c->n_pictures + c->has_video > MAX_PICTURES) return "too many pictures";
    for (size_t i = 0; i < c->n_pictures; i++) {
        hf_picture *p = &c->pictures[i];
        const char *name = arena_printf(c->memory, "pictures/%zu.png", i);
        p->frames = arena_array(c->memory, 1, sizeof *p->frames);
        if (llava_image_open(path_join(c->memory, c->root, name), p->frames, &c->err) != LLAVA_OK)
            return tell(c);
        p->n_frames = 1;
    }
    return c->has_video ? open_video(c, &c->pictures[c->n_pictures++]) : NULL;
}

/** The processor of the release that wrote the traces tiles every picture. */
static const char *make_pixels(hf_case *c, hf_picture *p) {
    const llava_image_processor *processor = c->loaded->image_processor;
    if (vision_plan_make(processor, p->frames[0]->width, p->frames[0]->height,
                         p->is_video ? (int64_t)p->n_frames : 0, 1, &p->plan, &c->err) != LLAVA_OK)
        return tell(c);
    const int64_t side = image_processor_view_size(processor);
    p->pixels = arena_array(c->memory, (size_t)(p->plan.n_views * 3 * side * side), sizeof(float));
    if (image_process(processor, &p->plan, (const llava_image *const *)p->frames, p->n_frames,
                      p->pixels, NULL, &c->err) != LLAVA_OK)
        return tell(c);
    return NULL;
}

/** Bit for bit; recorded stacks are filled up with zeros to the largest number of views. */
static const char *check_pixels(hf_case *c) {
    if (c->n_pictures == 0) return NULL;
    const char *name = c->has_video ? "in.pixel_values_videos" : "in.pixel_values";
    const tensor *t = recorded(c, name, LLAVA_DTYPE_F32);
    if (!t) return "the trace has no pixels";
    const int64_t side = image_processor_view_size(c->loaded->image_processor);
    const int64_t view = 3 * side * side, step = tensor_count(t) / (int64_t)c->n_pictures;
    for (size_t i = 0; i < c->n_pictures; i++) {
        const hf_picture *p = &c->pictures[i];
        const int64_t n = p->plan.n_views * view;
        float *wanted = arena_array(c->memory, (size_t)n, sizeof *wanted);
        if (n > step) return arena_printf(c->memory, "%s: picture %zu has too many views", name, i);
        memcpy(wanted, (const uint8_t *)t->data + 4 * (int64_t)i * step, (size_t)n * 4);
        const int64_t wrong = count_differing(p->pixels, wanted, n);
        if (wrong)
            return arena_printf(c->memory, "%s: %lld of %lld values differ", name, (long long)wrong,
                                (long long)n);
    }
    return NULL;
}

static const char *encode(hf_case *c, hf_picture *p) {
    const llava_model *model = c->loaded->model;
    const int64_t hidden = model->config->lm.hidden_size, tokens = model_projected_tokens(model);
    const bool early = p->is_video && mm_of(c)->pool_before_projector;
    p->n_projected = p->plan.n_views * (early ? p->plan.pool_side * p->plan.pool_side : tokens);
    p->projected = arena_array(c->memory, (size_t)(p->n_projected * hidden), sizeof(float));
    p->rows = arena_array(c->memory, (size_t)(p->plan.n_rows * hidden), sizeof(float));
    vision_trace own = {0};
    *(early ? &own.pooled : &own.projected) = p->projected;
    if (model_encode_picture(model, &p->plan, p->pixels, p->rows, &own, &c->err) == LLAVA_OK)
        return NULL;
    return tell(c);
}

static const char *check_projected(hf_case *c) {
    const int64_t hidden = c->loaded->model->config->lm.hidden_size;
    int64_t n = 0;
    for (size_t i = 0; i < c->n_pictures; i++) n += c->pictures[i].n_projected;
    if (n == 0) return NULL;
    float *all = arena_array(c->memory, (size_t)(n * hidden), sizeof *all), *at = all;
    for (size_t i = 0; i < c->n_pictures; i++) {
        const int64_t count = c->pictures[i].n_projected * hidden;
        memcpy(at, c->pictures[i].projected, (size_t)count * sizeof *at);
        at += count;
    }
    return compare(c, "projector_out", all, n, hidden);
}

static const char *check_pictures(hf_case *c) {
    const char *problem = open_pictures(c);
    for (size_t i = 0; !problem && i < c->n_pictures; i++)
        problem = make_pixels(c, &c->pictures[i]);
    if (!problem) problem = check_pixels(c);
    for (size_t i = 0; !problem && i < c->n_pictures; i++) problem = encode(c, &c->pictures[i]);
    return problem ? problem : check_projected(c);
}

/* ---------------------------------------------------------------- the prompt */

static const char *expand(hf_case *c) {
    ids text = {0};
    if (tokenizer_encode(c->loaded->tokenizer, c->prompt, strlen(c->prompt), &text, &c->err) !=
        LLAVA_OK)
        return tell(c);
    size_t next = 0;
    bool fits = true;
    for (size_t i = 0; fits && i < text.count; i++) {
        const int32_t id = text.data[i];
        const bool placeholder = id == mm_of(c)->image_token || id == mm_of(c)->video_token;
        if (placeholder && next == c->n_pictures) break;
        const int64_t n = placeholder ? c->pictures[next++].plan.n_rows : 1;
        for (int64_t k = 0; fits && k < n; k++) fits = ids_append(&c->expanded, &id, 1);
    }
    ids_free(&text);
    if (!fits) return "out of memory";
    size_t n_wanted;
    const int32_t *wanted = recorded_ids(c, "in.input_ids", &n_wanted);
    if (c->expanded.count != n_wanted)
        return arena_printf(c->memory, "%zu ids, recorded %zu", c->expanded.count, n_wanted);
    for (size_t i = 0; i < n_wanted; i++)
        if (wanted[i] != c->expanded.data[i])
            return arena_printf(c->memory, "id %zu is %d, recorded %d", i, c->expanded.data[i],
                                wanted[i]);
    return NULL;
}

static const char *check_embeddings(hf_case *c) {
    const llava_model *model = c->loaded->model;
    const int64_t hidden = model->config->lm.hidden_size;
    c->n_rows = (int64_t)c->expanded.count;
    c->embeddings = arena_array(c->memory, (size_t)(c->n_rows * hidden), sizeof(float));
    size_t next = 0;
    for (int64_t i = 0; i < c->n_rows;) {
        const int32_t id = c->expanded.data[i];
        float *at = c->embeddings + i * hidden;
        if (id == mm_of(c)->image_token || id == mm_of(c)->video_token) {
            const hf_picture *p = &c->pictures[next++];
            memcpy(at, p->rows, (size_t)(p->plan.n_rows * hidden) * sizeof *at);
            i += p->plan.n_rows;
        } else {
            if (model_embed_tokens(model, &id, 1, at, &c->err) != LLAVA_OK) return tell(c);
            i++;
        }
    }
    return compare(c, "inputs_embeds", c->embeddings, c->n_rows, hidden);
}

/* ---------------------------------------------------------------- the decoder */

typedef struct hf_decoding {
    kv_pool *pool;
    kv_sequence seq;
    decoder_scratch *scratch;
    float *logits;
} hf_decoding;

static llava_status step(hf_case *c, hf_decoding *d, const float *rows, int64_t n, bool generated) {
    decoder_item item = {.seq = &d->seq,
                         .rows = rows,
                         .n_rows = n,
                         .generated = generated,
                         .n_logits = n,
                         .logits = d->logits};
    LLAVA_TRY(kv_sequence_reserve(&d->seq, n, &c->err));
    return decoder_step(c->loaded->model, d->scratch, &item, 1, &c->err);
}

/** New ids; the comparison ends where the recording takes a row that no token has, which is never
 *  sampled here. */
static const char *check_greedy(hf_case *c, hf_decoding *d) {
    const llava_model *model = c->loaded->model;
    size_t n;
    const int32_t *wanted = recorded_ids(c, "greedy", &n);
    float *row = arena_array(c->memory, (size_t)model->config->lm.hidden_size, sizeof *row);
    const float *logits = d->logits + (c->n_rows - 1) * model->n_vocab;
    for (size_t i = c->expanded.count; i < n; i++) {
        int32_t best = 0;
        if (wanted[i] >= model->n_vocab) return NULL;
        for (int32_t k = 1; k < model->n_vocab; k++)
            if (logits[k] > logits[best]) best = k;
        if (best != wanted[i])
            return arena_printf(c->memory, "greedy id %zu is %d, recorded %d",
                                i - c->expanded.count, best, wanted[i]);
        if (model_embed_tokens(model, &best, 1, row, &c->err) != LLAVA_OK ||
            step(c, d, row, 1, true) != LLAVA_OK)
            return tell(c);
        logits = d->logits;
    }
    return NULL;
}

static const char *check_decoder(hf_case *c) {
    const llava_model *model = c->loaded->model;
    const int64_t n = c->n_rows, room = n + 64;
    hf_decoding d = {0};
    d.logits = arena_array(c->memory, (size_t)(n * model->n_vocab), sizeof *d.logits);
    const char *problem = NULL;
    if (kv_pool_new(model, room + 2 * KV_BLOCK_TOKENS, &d.pool, &c->err) != LLAVA_OK ||
        kv_sequence_new(d.pool, room, &d.seq, &c->err) != LLAVA_OK ||
        decoder_scratch_new(model, n, n, room, &d.scratch, &c->err) != LLAVA_OK ||
        step(c, &d, c->embeddings, n, false) != LLAVA_OK)
        problem = tell(c);
    if (!problem) problem = compare(c, "logits", d.logits, n, model->n_vocab);
    if (!problem) problem = check_greedy(c, &d);
    decoder_scratch_free(&d.scratch);
    kv_sequence_free(&d.seq);
    kv_pool_free(&d.pool);
    return problem;
}

/* ---------------------------------------------------------------- the public way */

/** Text and pictures as a caller of the library hands them over. */
static size_t make_parts(const hf_case *c, llava_part *parts) {
    static const char *const words[] = {"<image>", "<video>"};
    const char *text = c->prompt;
    size_t n = 0, next = 0;
    for (;;) {
        const char *hit = strstr(text, words[c->has_video]);
        const size_t size = hit ? (size_t)(hit - text) : strlen(text);
        parts[n++] = (llava_part){.kind = LLAVA_PART_TEXT, .text = text, .text_size = size};
        if (!hit) return n;
        const hf_picture *p = &c->pictures[next++];
        parts[n++] = (llava_part){.kind = p->is_video ? LLAVA_PART_VIDEO : LLAVA_PART_IMAGE,
                                  .images = (const llava_image *const *)p->frames,
                                  .n_images = p->n_frames};
        text = hit + strlen(words[0]);
    }
}

/** The session's prompt has the same rows, and its answer begins like the recorded one. Several
 *  pictures of a OneVision model are padded instead of tiled: not the recording's way. */
static const char *check_session(hf_case *c) {
    if (c->n_pictures > 1 && mm_of(c)->native == NATIVE_ONEVISION) return NULL;
    llava_part parts[2 * MAX_PICTURES + 1];
    const size_t n_parts = make_parts(c, parts);
    size_t n_wanted, n_new;
    const int32_t *wanted = recorded_ids(c, "greedy", &n_wanted);
    llava_context *context = NULL;
    llava_session *session = NULL;
    const llava_result *result = NULL;
    const llava_generate_options options = {
        .max_new_tokens = (int64_t)(n_wanted - c->expanded.count), .ignore_eos = true};
    const char *problem = NULL;
    if (llava_context_new(c->loaded, NULL, &context, &c->err) != LLAVA_OK ||
        llava_session_new(context, &session, &c->err) != LLAVA_OK ||
        llava_session_feed(session, parts, n_parts, &c->err) != LLAVA_OK ||
        llava_session_generate(session, &options, &result, &c->err) != LLAVA_OK)
        problem = tell(c);
    else if (result->n_prompt_tokens != c->n_rows)
        problem = arena_printf(c->memory, "session: %lld rows, expected %lld",
                               (long long)result->n_prompt_tokens, (long long)c->n_rows);
    n_new = problem ? 0 : result->n_ids;
    for (size_t i = 0; i < n_new && !problem; i++) {
        if (wanted[c->expanded.count + i] >= c->loaded->model->n_vocab) break;
        if (result->ids[i] != wanted[c->expanded.count + i])
            problem = arena_printf(c->memory, "session: new id %zu is %d, recorded %d", i,
                                   result->ids[i], wanted[c->expanded.count + i]);
    }
    llava_session_free(&session);
    llava_context_free(&context);
    return problem;
}

/* ---------------------------------------------------------------- cases */

typedef struct hf_suite {
    reference_count *count;
    arena *memory; /* paths */
    const char *root;
} hf_suite;

static const char *run_case(hf_case *c) {
    const char *problem = check_pictures(c);
    if (!problem) problem = expand(c);
    if (!problem) problem = check_embeddings(c);
    if (!problem) problem = check_decoder(c);
    return problem ? problem : check_session(c);
}

static void check_case(const hf_suite *suite, const char *label, const json_t *item,
                       const llava_loaded *loaded, const char *trace_path) {
    hf_case c = {.root = suite->root,
                 .prompt = json_string_value(json_object_get(item, "prompt")),
                 .has_video = json_is_true(json_object_get(item, "video")),
                 .n_pictures = (size_t)json_integer_value(json_object_get(item, "pictures")),
                 .loaded = loaded,
                 .memory = arena_new()};
    checkpoint *file = NULL;
    const char *problem;
    if (checkpoint_open(trace_path, &file, &c.err) != LLAVA_OK) {
        problem = tell(&c);
    } else {
        c.trace = file;
        problem = run_case(&c);
    }
    if (problem)
        reference_fail(suite->count, label, "%s", problem);
    else
        reference_pass(suite->count);
    for (size_t i = 0; i < MAX_PICTURES; i++) {
        for (size_t k = 0; k < c.pictures[i].n_frames; k++)
            llava_image_free(&c.pictures[i].frames[k]);
        vision_plan_free(&c.pictures[i].plan);
    }
    ids_free(&c.expanded);
    checkpoint_close(&file);
    arena_free(&c.memory);
}

/** One checkpoint directory with every case of its model. */
static void check_model(const hf_suite *suite, const char *label, const char *directory,
                        const char *model, const json_t *cases) {
    const llava_load_options options = {.model_path = directory, .torch_dtype = LLAVA_DTYPE_F32};
    llava_loaded loaded = {0};
    llava_error err;
    if (load_pretrained_model(&options, &loaded, &err) != LLAVA_OK) {
        reference_fail(suite->count, label, "%s", err.message);
        return;
    }
    const char *name;
    json_t *item;
    json_object_foreach((json_t *)cases, name, item) {
        const char *path =
            arena_printf(suite->memory, "%s/traces/%s/%s.safetensors", suite->root, model, name);
        check_case(suite, arena_printf(suite->memory, "%s/%s", label, name), item, &loaded, path);
    }
    llava_loaded_close(&loaded);
}

/* ---------------------------------------------------------------- directories */

/** Links what `from` holds into the scratch directory, unless that name is there already. */
static void link_files(const hf_suite *suite, const scratch *s, const char *from,
                       const char *weights) {
    DIR *directory = opendir(from);
    for (const struct dirent *e; directory && (e = readdir(directory));) {
        const bool is_weights = strstr(e->d_name, ".safetensors") != NULL;
        if (e->d_name[0] == '.' || (is_weights && (!weights || strcmp(e->d_name, weights) != 0)))
            continue;
        const char *name = is_weights ? "model.safetensors" : e->d_name;
        if (symlink(path_join(suite->memory, from, e->d_name), scratch_path(s, name)) != 0)
            continue; /* there already */
    }
    if (directory) closedir(directory);
}

/** A version's directory of one model, with its weights under both sets of names. Where a release
 *  could not save processor and tokenizer, those of the first stand in. */
static void check_version(const hf_suite *suite, const char *version, const char *model,
                          const json_t *cases) {
    static const char *const weights[] = {"model.safetensors", "in-memory.safetensors"};
    arena *m = suite->memory;
    const char *from = arena_printf(m, "%s/%s/%s", suite->root, version, model);
    for (size_t i = 0; i < LLAVA_COUNT(weights); i++) {
        if (!path_is_file(path_join(m, from, weights[i]))) continue;
        scratch s;
        if (!scratch_open(&s)) abort();
        link_files(suite, &s, from, weights[i]);
        if (!path_is_file(path_join(m, from, "tokenizer.json")))
            link_files(suite, &s, arena_printf(m, "%s/v4.45/%s", suite->root, model), NULL);
        const char *label =
            arena_printf(m, "%s/%s%s", version, model, i ? " (in-memory names)" : "");
        check_model(suite, label, s.path, model, cases);
        scratch_close(&s);
    }
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/** Every folder that starts with v, in order. */
static size_t list_versions(const hf_suite *suite, const char *names[], size_t room) {
    size_t n = 0;
    DIR *directory = opendir(suite->root);
    for (const struct dirent *e; directory && n < room && (e = readdir(directory));)
        if (e->d_name[0] == 'v' && !strchr(e->d_name, 'j'))
            names[n++] = arena_strdup(suite->memory, e->d_name);
    if (directory) closedir(directory);
    qsort(names, n, sizeof *names, by_name);
    return n;
}

int main(void) {
    reference_count count = {.folder = "formats/hf"};
    hf_suite suite = {.count = &count, .memory = arena_new()};
    char root[PATH_MAX];
    json_t *expected;
    llava_error err;
    if (!realpath(path_join(suite.memory, reference_folder(), "formats/hf"), root)) {
        printf("formats/hf: not in this folder\n");
        arena_free(&suite.memory);
        return 0;
    }
    suite.root = root;
    if (json_read_file(path_join(suite.memory, root, "expected.json"), &expected, &err) !=
        LLAVA_OK) {
        printf("formats/hf: FAILED %s\n", err.message);
        return 1;
    }
    const char *versions[16];
    const size_t n_versions = list_versions(&suite, versions, LLAVA_COUNT(versions));
    for (size_t v = 0; v < n_versions; v++) {
        const char *model;
        json_t *item;
        json_object_foreach(expected, model, item)
            check_version(&suite, versions[v], model, json_object_get(item, "cases"));
    }
    json_decref(expected);
    arena_free(&suite.memory);
    return reference_close(&count) ? 0 : 1;
}
