/* SPDX-License-Identifier: Apache-2.0
 *
 * formats/adapters: LoRA adapters and projectors over their base, by what the merged model
 * computes from recorded ids and pixels.
 */
#include "support/reference.h"
#include "verify/verify.h"

#define IMAGE_ID (-200)

typedef struct adapter_case {
    const char *name, *reference;
    const json_t *item;
    arena *memory;
    reference_count *count;
    const checkpoint *trace;
} adapter_case;

static const float *trace_floats(const adapter_case *c, const char *name, int64_t *count) {
    const checkpoint_tensor *t = checkpoint_find(c->trace, name);
    if (!t || t->t.dtype != LLAVA_DTYPE_F32) return NULL;
    *count = tensor_count(&t->t);
    float *copy = arena_array(c->memory, (size_t)*count, sizeof *copy);
    if (copy) memcpy(copy, t->t.data, t->t.n_bytes);
    return copy;
}

/** Embeddings of the ids; the placeholder becomes the picture's rows. */
static float *make_rows(const adapter_case *c, const llava_model *model, const char *kind,
                        const float *picture, int64_t n_picture, int64_t *n_rows) {
    const char *name = arena_printf(c->memory, "%s.input_ids", kind);
    const checkpoint_tensor *list = checkpoint_find(c->trace, name);
    const int64_t width = model->config->lm.hidden_size, n = list ? tensor_count(&list->t) : 0;
    float *rows = arena_array(c->memory, (size_t)((n + n_picture) * width), sizeof *rows);
    *n_rows = 0;
    for (int64_t i = 0; rows && i < n; i++) {
        int64_t id;
        memcpy(&id, (const uint8_t *)list->t.data + 8 * i, sizeof id);
        if (id == IMAGE_ID) {
            memcpy(rows + *n_rows * width, picture, (size_t)(n_picture * width) * sizeof *rows);
            *n_rows += n_picture;
            continue;
        }
        const int32_t token = (int32_t)id;
        if (model_embed_tokens(model, &token, 1, rows + *n_rows * width, NULL) != LLAVA_OK)
            return NULL;
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
    if (status == LLAVA_OK) {
        decoder_item item = {
            .seq = &seq, .rows = rows, .n_rows = n, .n_logits = n, .logits = logits};
        status = decoder_step(model, scratch, &item, 1, err);
    }
    decoder_scratch_free(&scratch);
    kv_sequence_free(&seq);
    kv_pool_free(&pool);
    return status;
}

/** Keeps the first n_kept of n columns. */
static float *first_columns(const adapter_case *c, const float *values, int64_t n_rows, int64_t n,
                            int64_t n_kept) {
    float *kept = arena_array(c->memory, (size_t)(n_rows * n_kept), sizeof *kept);
    for (int64_t i = 0; kept && i < n_rows; i++)
        memcpy(kept + i * n_kept, values + i * n, (size_t)n_kept * sizeof *kept);
    return kept;
}

static const char *compare(const adapter_case *c, const char *name, const float *own,
                           const float *wanted, int64_t n_rows, int64_t n_cols,
                           const verify_level *level) {
    const row_metrics m = compare_rows(own, wanted, n_rows, n_cols, true);
    if (m.one_minus_cosine <= level->cosine && m.max_abs_sigma <= level->max_abs_sigma) return NULL;
    return arena_printf(c->memory, "%s: 1-cosine %.3g, max-abs/sigma %.3g", name,
                        m.one_minus_cosine, m.max_abs_sigma);
}

/** NULL when the logits agree. Columns whose rows no file stores are never sampled and not
 *  compared: the reference fills them at random. */
static const char *check_logits(const adapter_case *c, const llava_model *model, const char *kind,
                                const float *picture, int64_t n_picture,
                                const verify_level *level) {
    int64_t n_rows, n_wanted;
    const float *rows = make_rows(c, model, kind, picture, n_picture, &n_rows);
    const float *wanted = trace_floats(c, arena_printf(c->memory, "%s.logits", kind), &n_wanted);
    float *logits = arena_array(c->memory, (size_t)(n_rows * model->n_vocab), sizeof *logits);
    if (!rows || !wanted || !logits) return "the trace cannot be read";
    if (n_wanted != n_rows * model->n_vocab)
        return arena_printf(c->memory, "%s: %lld logits, recorded %lld", kind,
                            (long long)(n_rows * model->n_vocab), (long long)n_wanted);
    llava_error err;
    if (run_decoder(model, rows, n_rows, logits, &err) != LLAVA_OK)
        return arena_printf(c->memory, "%s", err.message);
    const int64_t kept = model->n_stored_vocab;
    return compare(c, kind, first_columns(c, logits, n_rows, model->n_vocab, kept),
                   first_columns(c, wanted, n_rows, model->n_vocab, kept), n_rows, kept, level);
}

static const char *check_picture(const adapter_case *c, const llava_model *model,
                                 const verify_level *level) {
    int64_t n_pixels, n_wanted, tokens, width;
    const float *pixels = trace_floats(c, "image.pixels", &n_pixels);
    const float *wanted = trace_floats(c, "image.features", &n_wanted);
    if (!pixels) return NULL;
    model_tower_shape(model, &tokens, &width);
    const int64_t rows = model_projected_tokens(model), hidden = model->config->lm.hidden_size;
    float *features = arena_array(c->memory, (size_t)(tokens * width), sizeof *features);
    float *projected = arena_array(c->memory, (size_t)(rows * hidden), sizeof *projected);
    llava_error err;
    if (!wanted || n_wanted != rows * hidden) return "image.features has another size";
    if (model_run_tower(model, pixels, 1, features, &err) != LLAVA_OK ||
        model_project(model, features, 1, projected, &err) != LLAVA_OK)
        return arena_printf(c->memory, "%s", err.message);
    const char *problem = compare(c, "image.features", projected, wanted, rows, hidden, level);
    return problem ? problem : check_logits(c, model, "image", projected, rows, level);
}

static const char *text_of(const adapter_case *c, const char *key) {
    return json_string_value(json_object_get(c->item, key));
}

static const char *check_loaded(const adapter_case *c, const llava_loaded *loaded,
                                const verify_level *level) {
    const int64_t tokens = json_integer_value(json_object_get(c->item, "tokens"));
    const char *class = text_of(c, "architecture");
    if (tokenizer_size(loaded->tokenizer) != tokens)
        return arena_printf(c->memory, "%lld tokens, recorded %lld",
                            (long long)tokenizer_size(loaded->tokenizer), (long long)tokens);
    if (strcmp(loaded->model->config->architecture, class) != 0)
        return arena_printf(c->memory, "class %s, recorded %s", loaded->model->config->architecture,
                            class);
    const char *problem = check_logits(c, loaded->model, "text", NULL, 0, level);
    return problem ? problem : check_picture(c, loaded->model, level);
}

static void check_case(adapter_case *c, llava_dtype dtype, const char *file_name,
                       const verify_level *level) {
    const llava_load_options options = {
        .model_path = path_join(c->memory, c->reference, text_of(c, "model_path")),
        .model_base = path_join(c->memory, c->reference, text_of(c, "model_base")),
        .model_name = text_of(c, "model_name"),
        .torch_dtype = dtype,
        .working_directory = c->reference};
    llava_loaded loaded = {0};
    llava_error err;
    checkpoint *file = NULL;
    if (checkpoint_open(path_join(c->memory, c->reference, file_name), &file, &err) != LLAVA_OK ||
        load_pretrained_model(&options, &loaded, &err) != LLAVA_OK) {
        reference_fail(c->count, c->name, "%s", err.message);
    } else {
        c->trace = file;
        const char *problem = check_loaded(c, &loaded, level);
        if (problem)
            reference_fail(c->count, c->name, "%s", problem);
        else
            reference_pass(c->count);
    }
    llava_loaded_close(&loaded);
    checkpoint_close(&file);
}

/** Where the reference rounds more often than needed, the recording of one rounding decides. A
 *  plain language model's adapter was merged and run in float16. */
static void check_adapter(reference_count *count, const char *reference, const char *name,
                          const json_t *item) {
    arena *memory = arena_new();
    adapter_case c = {name, reference, item, memory, count, NULL};
    const bool exact = json_object_get(item, "exact") != NULL;
    const bool half = strncmp(text_of(&c, "architecture"), "Llava", 5) != 0;
    const char *file_name = arena_printf(memory, "formats/adapters/expected/%s%s.trace.safetensors",
                                         name, exact ? ".exact" : "");
    check_case(&c, half ? LLAVA_DTYPE_F16 : LLAVA_DTYPE_F32, file_name,
               half ? &verify_level_half : &verify_level_float32);
    arena_free(&memory);
}

int main(void) {
    reference_count count = {.folder = "formats/adapters"};
    const char *reference = reference_folder();
    arena *memory = arena_new();
    json_t *root;
    llava_error err;
    const char *path = path_join(memory, reference, "formats/adapters/expected.json");
    if (json_read_file(path, &root, &err) != LLAVA_OK) {
        printf("formats/adapters: not in this folder\n");
        arena_free(&memory);
        return 0;
    }
    const char *name;
    json_t *item;
    json_object_foreach(root, name, item) { check_adapter(&count, reference, name, item); }
    json_decref(root);
    arena_free(&memory);
    return reference_close(&count) ? 0 : 1;
}
