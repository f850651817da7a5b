/* SPDX-License-Identifier: Apache-2.0
 *
 * quant/models: checkpoints as transformers saves them, and what their float32 model computes.
 * quant/llava: a whole LLaVA quantized while loading, with the reference's selection of modules and
 * with the decoder's alone. They have no tokenizer, so loading stops in front of it.
 */
#include <dirent.h>
#include <math.h>

#include "load/load_plan.h"
#include "reference_quant.h"
#include "verify/verify.h"

#define IMAGE_ID (-200)

/** Our error against float32 over that of the recorded half-precision or int8 run: no worse. */
#define ERROR_RATIO 1.0
/** Of int8: the same roundings, but other ones, of a model of two tiny layers. */
#define INT8_ERROR_RATIO 1.5

typedef struct model_case {
    const char *name;
    arena *memory;
    const checkpoint *record;
    const json_t *facts;
    load_plan plan;
    llava_error err;
} model_case;

/* ---------------------------------------------------------------- loading */

static llava_status load_weights(model_case *c, const llava_load_options *options) {
    llava_status (*const stages[])(load_plan *) = {
        plan_check_options, plan_resolve_paths, plan_check_mode,  plan_read_config,
        plan_open_weights,  plan_open_overlay,  plan_describe,    plan_find_tower,
        plan_choose_tower,  plan_bind,          plan_quantization};
    LLAVA_TRY(plan_open(&c->plan, options, &c->err));
    for (size_t i = 0; i < LLAVA_COUNT(stages); i++) LLAVA_TRY(stages[i](&c->plan));
    llava_model *model = c->plan.model;
    LLAVA_TRY(device_open_cpu(2, NULL, &model->dev, &c->err));
    LLAVA_TRY(cast_weights(model, &c->plan.bind, &c->plan.quantize, c->plan.options, &c->err));
    if (model->config->lm.tie_word_embeddings) model->decoder.head = model->decoder.embed;
    return LLAVA_OK;
}

static float *recorded(const model_case *c, const char *name, int64_t *count) {
    const checkpoint_tensor *t = checkpoint_find(c->record, name);
    *count = t ? tensor_count(&t->t) : 0;
    if (!t) return NULL;
    float *values = arena_array(c->memory, (size_t)*count + 1, sizeof *values);
    if (values) tensor_cast(values, LLAVA_DTYPE_F32, t->t.data, t->t.dtype, (size_t)*count);
    return values;
}

/* ---------------------------------------------------------------- running */

/** Embeddings of the recorded ids; the placeholder becomes the picture's rows. */
static float *make_rows(const model_case *c, const float *picture, int64_t n_picture,
                        int64_t *n_rows) {
    const llava_model *model = c->plan.model;
    const checkpoint_tensor *list = checkpoint_find(c->record, "input_ids");
    const int64_t width = model->config->lm.hidden_size, n = list ? tensor_count(&list->t) : 0;
    float *rows = arena_array(c->memory, (size_t)((n + n_picture) * width), sizeof *rows);
    *n_rows = 0;
    for (int64_t i = 0; rows && i < n; i++) {
        int64_t id;
        memcpy(&id, (const uint8_t *)list->t.data + 8 * i, sizeof id);
        float *at = rows + *n_rows * width;
        if (id == IMAGE_ID) {
            memcpy(at, picture, (size_t)(n_picture * width) * sizeof *rows);
            *n_rows += n_picture;
            continue;
        }
        const int32_t token = (int32_t)id;
        if (model_embed_tokens(model, &token, 1, at, NULL) != LLAVA_OK) return NULL;
        (*n_rows)++;
    }
    return rows;
}

static llava_status run_decoder(const llava_model *model, const float *rows, int64_t n,
                                float *logits, llava_error *err) {
    kv_pool *pool = NULL;
    kv_sequence seq = {0};
    decoder_scratch *scratch = NULL;
    llava_status status = kv_pool_new(model, n, &pool, err);
    if (status == LLAVA_OK) status = kv_sequence_new(pool, n, &seq, err);
    if (status == LLAVA_OK) status = kv_sequence_reserve(&seq, n, err);
    if (status == LLAVA_OK) status = decoder_scratch_new(model, n, n, n, &scratch, err);
    /* half of it as a prompt, then as generated tokens, one by one: both forms of the product */
    for (int64_t at = 0, part; at < n && status == LLAVA_OK; at += part) {
        part = at == 0 ? (n + 1) / 2 : 1;
        decoder_item item = {.seq = &seq,
                             .rows = rows + at * model->config->lm.hidden_size,
                             .n_rows = part,
                             .generated = at > 0,
                             .n_logits = part,
                             .logits = logits + at * model->n_vocab};
        status = decoder_step(model, scratch, &item, 1, err);
    }
    decoder_scratch_free(&scratch);
    kv_sequence_free(&seq);
    kv_pool_free(&pool);
    return status;
}

static const char *judge(const model_case *c, const char *name, const row_metrics *m,
                         const verify_level *level) {
    if (m->one_minus_cosine <= level->cosine && m->max_abs_sigma <= level->max_abs_sigma &&
        m->kl_mean <= level->kl_mean && m->kl_max <= level->kl_max)
        return NULL;
    return arena_printf(c->memory, "%s: 1-cosine %.3g, max-abs/sigma %.3g, KL %.3g at most %.3g",
                        name, m->one_minus_cosine, m->max_abs_sigma, m->kl_mean, m->kl_max);
}

/** Logits of the recorded ids against the record, and no worse than `other`'s. */
static const char *check_logits(const model_case *c, const float *picture, int64_t n_picture,
                                const verify_level *level, const char *other, double ratio) {
    const llava_model *model = c->plan.model;
    int64_t n_rows, n_wanted, n_other = 0;
    const float *rows = make_rows(c, picture, n_picture, &n_rows);
    const float *wanted = recorded(c, "logits", &n_wanted);
    const float *theirs = other ? recorded(c, other, &n_other) : NULL;
    float *logits = arena_array(c->memory, (size_t)(n_rows * model->n_vocab), sizeof *logits);
    if (!rows || !wanted || !logits) return "the record cannot be read";
    if (n_wanted != n_rows * model->n_vocab) return "the record has another number of logits";
    llava_error err;
    if (run_decoder(model, rows, n_rows, logits, &err) != LLAVA_OK)
        return arena_printf(c->memory, "%s", err.message);
    const row_metrics m = compare_rows(logits, wanted, n_rows, model->n_vocab, true);
    const char *problem = judge(c, "logits", &m, level);
    if (problem || n_other != n_wanted) return problem;
    const row_metrics t = compare_rows(theirs, wanted, n_rows, model->n_vocab, true);
    if (m.kl_mean <= ratio * t.kl_mean) return NULL;
    return arena_printf(c->memory, "mean KL %.3g from float32, bitsandbytes' run %.3g", m.kl_mean,
                        t.kl_mean);
}

/* ---------------------------------------------------------------- quant/models */

/** Every decoded matrix has the recorded bits. */
static const char *check_dense(const model_case *c) {
    const binder *b = &c->plan.bind;
    for (size_t i = 0; i < b->count; i++) {
        const bind_entry *e = &b->entries[i];
        if (!e->found || !e->dst->quant) continue;
        int64_t count;
        const char *name = arena_printf(c->memory, "dense.%s%s", b->canonical[e->group], e->suffix);
        const float *wanted = recorded(c, name, &count);
        if (!wanted || count != e->dst->n_rows * e->dst->n_cols)
            return arena_printf(c->memory, "no %s of %lld values", name,
                                (long long)(e->dst->n_rows * e->dst->n_cols));
        float *own = arena_array(c->memory, (size_t)count, sizeof *own);
        weight_decode(e->dst, 0, count, own);
        const int64_t wrong = count_differing(own, wanted, count);
        if (wrong)
            return arena_printf(c->memory, "%s: %lld of %lld decoded values differ", name,
                                (long long)wrong, (long long)count);
    }
    return NULL;
}

static size_t count_quantized(const load_plan *plan) {
    size_t count = 0;
    for (size_t i = 0; i < plan->bind.count; i++)
        count += plan->bind.entries[i].found && plan->bind.entries[i].dst->quant;
    return count;
}

/** Nibbles that differ between the codes of two matrices; all of them when the forms differ. */
static int64_t codes_apart(const weight *a, const weight *b) {
    const int64_t n = (int64_t)quant_codes_bytes(a->quant->format, a->n_rows, a->n_cols);
    if (!b->quant || b->quant->format != a->quant->format) return n;
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        count += ((const uint8_t *)a->data)[i] != ((const uint8_t *)b->data)[i];
    return count;
}

/** The unquantized source, loaded with this checkpoint's settings, gives the checkpoint's codes. */
static const char *check_source(model_case *c, const char *folder) {
    const char *path = path_join(c->memory, folder, "llama-f16");
    if (!path_is_directory(path)) return NULL;
    const quant_settings *s = &c->plan.quantize;
    const json_t *stored = json_get(c->plan.model->config->root, "quantization_config");
    llava_dtype dtype = LLAVA_DTYPE_F16;
    for (size_t i = 0; i < c->plan.bind.count; i++)
        if (c->plan.bind.entries[i].dst->quant) dtype = c->plan.bind.entries[i].dst->quant->stored;
    const llava_load_options options = {.model_path = path,
                                        .torch_dtype = dtype,
                                        .load_8bit = s->format == QUANT_INT8,
                                        .load_4bit = s->format != QUANT_INT8,
                                        .quantization_config = json_dumps(stored, JSON_COMPACT)};
    model_case own = {.memory = c->memory};
    const char *problem = NULL;
    if (load_weights(&own, &options) != LLAVA_OK)
        problem = arena_printf(c->memory, "llama-f16: %s", own.err.message);
    int64_t apart = 0,
            allowed = json_integer_value(json_get(c->facts, "bytes_unlike_the_cuda_definition"));
    for (size_t i = 0; !problem && i < c->plan.bind.count; i++)
        if (c->plan.bind.entries[i].dst->quant)
            apart += codes_apart(c->plan.bind.entries[i].dst, own.plan.bind.entries[i].dst);
    if (!problem && apart != allowed)
        problem = arena_printf(c->memory, "%lld bytes of codes differ, recorded %lld",
                               (long long)apart, (long long)allowed);
    plan_close(&own.plan);
    free((void *)options.quantization_config);
    return problem;
}

static const char *check_model(model_case *c, const char *folder) {
    const llava_load_options options = {.model_path = path_join(c->memory, folder, c->name)};
    if (load_weights(c, &options) != LLAVA_OK) return arena_printf(c->memory, "%s", c->err.message);
    const size_t n = json_array_size(json_get(c->facts, "quantised"));
    if (count_quantized(&c->plan) != n)
        return arena_printf(c->memory, "%zu quantized matrices, recorded %zu",
                            count_quantized(&c->plan), n);
    if (c->plan.model->n_owned) return "something was copied that could stay mapped";
    const char *problem = check_dense(c);
    if (problem) return problem;
    const bool int8 = c->plan.quantize.format == QUANT_INT8;
    problem = check_logits(c, NULL, 0, int8 ? &verify_level_int8 : &verify_level_4bit,
                           int8 ? "logits.llm_int8" : "logits.bitsandbytes_cpu",
                           int8 ? INT8_ERROR_RATIO : ERROR_RATIO);
    return problem ? problem : check_source(c, folder);
}

/* ---------------------------------------------------------------- quant/llava */

static bool is_listed(const json_t *list, const char *name) {
    size_t i;
    const json_t *entry;
    json_array_foreach(list, i, entry) {
        if (strcmp(json_string_value(entry), name) == 0) return true;
    }
    return false;
}

static const char *same_bytes(const model_case *c, const char *module, const char *leaf,
                              const void *own, size_t size) {
    const char *name = arena_printf(c->memory, "%s.%s", module, leaf);
    const checkpoint_tensor *t = checkpoint_find(c->record, name);
    if (t && t->t.n_bytes == size && memcmp(t->t.data, own, size) == 0) return NULL;
    return arena_printf(c->memory, "%s differs", name);
}

static const char *check_codes(const model_case *c, const bind_entry *e, const char *module) {
    const weight *w = e->dst;
    const quant *q = w->quant;
    const size_t size = quant_codes_bytes(q->format, w->n_rows, w->n_cols);
    if (q->format == QUANT_INT8) {
        const char *problem = same_bytes(c, module, "CB", w->data, size);
        return problem ? problem
                       : same_bytes(c, module, "SCB", q->scb, (size_t)w->n_rows * sizeof(float));
    }
    const int64_t blocks = ceil_div(w->n_rows * w->n_cols, q->block);
    const char *problem = same_bytes(c, module, "packed", w->data, size);
    if (!problem) problem = same_bytes(c, module, "nested_codes", q->codes, (size_t)blocks);
    if (!problem)
        problem = same_bytes(c, module, "nested_absmax", q->nested_absmax,
                             (size_t)ceil_div(blocks, q->nested_block) * sizeof(float));
    return problem;
}

/** The selection and every code. */
static const char *check_selection(const model_case *c) {
    const binder *b = &c->plan.bind;
    const json_t *list = json_get(c->facts, "quantised");
    size_t count = 0;
    for (size_t i = 0; i < b->count; i++) {
        const bind_entry *e = &b->entries[i];
        if (!e->found || !e->dst->quant) continue;
        const char *name = arena_printf(c->memory, "%s%s", b->canonical[e->group], e->suffix);
        char *module = arena_strndup(c->memory, name, strlen(name) - strlen(".weight"));
        if (!is_listed(list, module))
            return arena_printf(c->memory, "%s is quantized, recorded it is not", module);
        const char *problem = check_codes(c, e, module);
        if (problem) return problem;
        count++;
    }
    if (count <= json_array_size(list) && count + 10 > json_array_size(list)) return NULL;
    return arena_printf(c->memory, "%zu matrices are quantized, recorded %zu", count,
                        json_array_size(list));
}

static const char *check_picture(const model_case *c, const verify_level *level) {
    const llava_model *model = c->plan.model;
    int64_t n_pixels, n_wanted, tokens, width;
    const float *pixels = recorded(c, "pixels", &n_pixels);
    const float *wanted = recorded(c, "image_features", &n_wanted);
    model_tower_shape(model, &tokens, &width);
    const int64_t rows = model_projected_tokens(model), hidden = model->config->lm.hidden_size;
    float *features = arena_array(c->memory, (size_t)(tokens * width), sizeof *features);
    float *projected = arena_array(c->memory, (size_t)(rows * hidden), sizeof *projected);
    llava_error err;
    if (!pixels || !wanted || n_wanted != rows * hidden) return "the record cannot be read";
    if (model_run_tower(model, pixels, 1, features, &err) != LLAVA_OK ||
        model_project(model, features, 1, projected, &err) != LLAVA_OK)
        return arena_printf(c->memory, "%s", err.message);
    const row_metrics m = compare_rows(projected, wanted, rows, hidden, false);
    if (m.one_minus_cosine > level->cosine || m.max_abs_sigma > level->max_abs_sigma)
        return arena_printf(c->memory, "image_features: 1-cosine %.3g, max-abs/sigma %.3g",
                            m.one_minus_cosine, m.max_abs_sigma);
    return check_logits(c, projected, rows, level, NULL, 0);
}

static const char *check_llava(model_case *c, const char *folder) {
    (void)folder;
    const char *base = json_string_value(json_get(c->facts, "base"));
    const bool int8 = strncmp(c->name, "int8", 4) == 0, fp4 = strncmp(c->name, "fp4", 3) == 0;
    const char *which = strchr(c->name, '-');
    if (!base || !which) return "the index names no base, or no selection";
    const char *config = arena_printf(
        c->memory, "{\"bnb_4bit_quant_type\": \"%s\", \"llm_int8_skip_modules\": %s}",
        fp4 ? "fp4" : "nf4",
        strcmp(which, "-decoder") == 0 ? "[\"lm_head\", \"mm_projector\", \"vision_tower\"]"
                                       : "null");
    const llava_load_options options = {.model_path =
                                            path_join(c->memory, reference_folder(), base),
                                        .load_8bit = int8,
                                        .load_4bit = !int8,
                                        .quantization_config = config,
                                        .working_directory = reference_folder()};
    if (!path_is_directory(options.model_path)) return NULL;
    if (load_weights(c, &options) != LLAVA_OK) return arena_printf(c->memory, "%s", c->err.message);
    const char *problem = check_selection(c);
    return problem ? problem : check_picture(c, int8 ? &verify_level_int8 : &verify_level_4bit);
}

/* ---------------------------------------------------------------- the folders */

static void run_case(reference_count *count, const char *name, const json_t *facts,
                     const char *folder, const char *record,
                     const char *(*check)(model_case *, const char *)) {
    model_case c = {.name = name, .memory = arena_new(), .facts = facts};
    checkpoint *file = NULL;
    const char *path = arena_printf(c.memory, "%s/%s%s.safetensors", folder, name, record);
    const char *problem;
    if (checkpoint_open(path, &file, &c.err) != LLAVA_OK) {
        problem = c.err.message;
    } else {
        c.record = file;
        problem = check(&c, folder);
    }
    if (problem)
        reference_fail(count, name, "%s", problem);
    else
        reference_pass(count);
    plan_close(&c.plan);
    checkpoint_close(&file);
    arena_free(&c.memory);
}

static void run_folder(reference_count *count, const char *name, const char *record,
                       const char *(*check)(model_case *, const char *)) {
    char index[2048], folder[2048];
    snprintf(index, sizeof index, "%s/quant/%s.json", reference_folder(), name);
    snprintf(folder, sizeof folder, "%s/quant/%s", reference_folder(), name);
    json_t *root = NULL;
    llava_error err;
    if (!path_is_file(index)) return;
    if (json_read_file(index, &root, &err) != LLAVA_OK) {
        reference_fail(count, name, "%s", err.message);
        return;
    }
    const char *stem;
    json_t *facts;
    json_object_foreach(root, stem, facts) { run_case(count, stem, facts, folder, record, check); }
    json_decref(root);
}

void reference_quant_models(reference_count *count) {
    run_folder(count, "models", ".expected", check_model);
    run_folder(count, "llava", "", check_llava);
}
