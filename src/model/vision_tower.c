/* SPDX-License-Identifier: Apache-2.0
 *
 * Vision transformers: CLIP, SigLIP and MLCD over a batch of pictures of image_size.
 *
 * One forward pass serves all three (transformers 4.40, CLIPVisionModel; the reference's
 * SigLipVisionModel and MLCDVisionModel): what a tower lacks (class token, positions, pre-norm,
 * rotary angles) is an absent weight.
 */
#include <math.h>
#include <stdlib.h>

#include "model_internal.h"

#define TOWER_ROWS 1536 /* rows to aim at: wide enough for full-speed products, still bounded */

bool tower_has_class_token(const llava_model *model) {
    return model->config->tower.kind != TOWER_SIGLIP;
}

int64_t tower_patches(const llava_model *model) {
    const tower_config *tower = &model->config->tower;
    const int64_t side = tower->patch_size > 0 ? tower->image_size / tower->patch_size : 0;
    return side * side;
}

int64_t tower_inputs_at_once(int64_t n_tokens, int64_t n_inputs) {
    return i64_max(1, i64_min(n_inputs, TOWER_ROWS / i64_max(n_tokens, 1)));
}

/* ---------------------------------------------------------------- working memory */

/** The MLP's inner rows; before the first layer the patches' pixels are there. */
static void lay_out_mlp(tower_run *run, slab *memory, int64_t rows, bool bf16) {
    const tower_config *tower = &run->model->config->tower;
    slab pixels = *memory;
    run->mlp = slab_activations(memory, rows, tower->intermediate_size, bf16);
    run->pixels = slab_floats(&pixels, rows, 3 * tower->patch_size * tower->patch_size);
    memory->used = memory->used > pixels.used ? memory->used : pixels.used;
    memory->overflow |= pixels.overflow;
}

static void lay_out(tower_run *run, slab *memory, slab *host) {
    const tower_config *tower = &run->model->config->tower;
    const int64_t width = tower->hidden_size, rows = run->max_inputs * run->n_tokens;
    const int64_t half = width / tower->n_heads / 2;
    const bool rotary = weight_exists(&run->model->tower.class_pos_emb);
    const bool bf16 = run->model->compute == LLAVA_DTYPE_BF16;
    run->h = slab_floats(memory, rows, width);
    run->x = slab_activations(memory, rows, width, bf16);
    run->q = slab_activations(memory, rows, width, bf16 && !rotary); /* rotated in float32 */
    run->k = slab_activations(memory, rows, width, bf16 && !rotary);
    run->v = slab_activations(memory, rows, width, bf16);
    lay_out_mlp(run, memory, rows, bf16);
    run->stack = slab_floats(memory, run->selection.count * rows, width);
    run->positions = slab_floats(memory, run->n_tokens, width);
    run->cos = slab_floats(memory, rotary ? rows : 0, half);
    run->sin = slab_floats(memory, rotary ? rows : 0, half);
    run->tokens = slab_take(host, rows, 1, sizeof *run->tokens);
    run->selected = slab_take(host, run->max_inputs * run->out_tokens, run->selection.count,
                              sizeof *run->selected);
}

/** Angles of MLCD's 2-D rotation: half of the channels turn with the row, half with the column;
 *  the class token's angles are learned. */
static llava_status rotary_tables(tower_run *run, llava_error *err) {
    const tower_config *tower = &run->model->config->tower;
    const int64_t half = tower->hidden_size / tower->n_heads / 2, quarter = half / 2;
    const int64_t side = tower->image_size / tower->patch_size, count = run->n_tokens * half;
    float *angles = aligned_new((size_t)count * 3 * sizeof *angles);
    if (!angles) return llava_fail_memory(err, (size_t)count * 3 * sizeof *angles, "rotary tables");
    float *cos_table = angles + count, *sin_table = cos_table + count;
    run->dev->ops->widen(run->dev, run->h, &run->model->tower.class_pos_emb, half);
    run->dev->ops->download(run->dev, angles, run->h, (size_t)half * sizeof *angles);
    for (int64_t p = 0; p < run->n_patches; p++)
        for (int64_t j = 0; j < half; j++) {
            const float exponent = (float)(2 * (j % quarter)) / (float)half;
            const float f = 1.0f / powf(10000.0f, exponent);
            angles[(p + 1) * half + j] = (float)(j < quarter ? p / side : p % side) * f;
        }
    for (int64_t i = 0; i < count; i++) {
        cos_table[i] = (float)cos((double)angles[i]);
        sin_table[i] = (float)sin((double)angles[i]);
    }
    const size_t n_bytes = (size_t)count * sizeof *angles;
    for (int64_t i = 0; i < run->max_inputs; i++) {
        run->dev->ops->upload(run->dev, run->cos + i * count, cos_table, n_bytes);
        run->dev->ops->upload(run->dev, run->sin + i * count, sin_table, n_bytes);
    }
    free(angles);
    return LLAVA_OK;
}

static llava_status check_weights(const llava_model *model, llava_error *err) {
    const tower_config *tower = &model->config->tower;
    const bool rotary = weight_exists(&model->tower.class_pos_emb);
    const int64_t tokens = tower_patches(model) + tower_has_class_token(model);
    if (tower->kind == TOWER_NONE || tower_patches(model) < 1 || tower->n_heads < 1 ||
        tower->hidden_size % tower->n_heads != 0)
        return llava_fail(err, LLAVA_UNSUPPORTED, "the model has no vision tower that can run");
    if (rotary && tower->hidden_size / tower->n_heads % 4 != 0)
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "MLCD's rotation needs a head size divisible by 4, got %lld",
                          (long long)(tower->hidden_size / tower->n_heads));
    if (!rotary && model->tower.position_embedding.n_rows != tokens)
        return llava_fail(err, LLAVA_MALFORMED,
                          "the tower has %lld position embeddings, expected %lld",
                          (long long)model->tower.position_embedding.n_rows, (long long)tokens);
    return LLAVA_OK;
}

/** Fills the row lists and what does not depend on the pixels. */
static llava_status prepare(tower_run *run, llava_error *err) {
    const tower_weights *w = &run->model->tower;
    const device_ops *ops = run->dev->ops;
    if (weight_exists(&w->position_embedding))
        ops->widen(run->dev, run->positions, &w->position_embedding,
                   run->n_tokens * run->model->config->tower.hidden_size);
    return weight_exists(&w->class_pos_emb) ? rotary_tables(run, err) : LLAVA_OK;
}

llava_status tower_open(const llava_model *model, int64_t max_inputs, tower_run *run,
                        llava_error *err) {
    *run = (tower_run){.model = model, .dev = model->dev, .max_inputs = max_inputs};
    LLAVA_TRY(check_weights(model, err));
    LLAVA_TRY(tower_select(model, &run->selection, err));
    const bool has_class = tower_has_class_token(model);
    run->n_patches = tower_patches(model);
    run->n_tokens = run->n_patches + has_class;
    run->out_tokens = run->n_patches + (has_class && run->selection.keep_class);
    run->out_width = model->config->tower.hidden_size * run->selection.count;
    slab memory = {0}, host = {0};
    lay_out(run, &memory, &host);
    if (!memory.overflow && !host.overflow) {
        run->memory = run->dev->ops->alloc(run->dev, memory.used);
        run->host = aligned_new(host.used);
    }
    if (!run->memory || !run->host) {
        tower_close(run);
        return llava_fail_memory(err, memory.used, "the vision tower's activations");
    }
    memory = (slab){.base = run->memory};
    host = (slab){.base = run->host};
    lay_out(run, &memory, &host);
    const llava_status status = prepare(run, err);
    if (status != LLAVA_OK) tower_close(run);
    return status;
}

void tower_close(tower_run *run) {
    if (run->memory) run->dev->ops->release(run->dev, run->memory);
    free(run->host);
    run->memory = run->host = NULL;
}

/* ---------------------------------------------------------------- forward */

/** dst = norm(h) for n pictures. */
static void norm(tower_run *run, activations dst, int64_t n, const norm_weights *w) {
    run->dev->ops->layernorm(run->dev, &(norm_args){.x = run->h,
                                                    .n_rows = n * run->n_tokens,
                                                    .w = &w->w,
                                                    .bias = &w->b,
                                                    .eps = run->model->config->tower.layer_norm_eps,
                                                    .dst = dst.f32,
                                                    .dst_bf16 = dst.bf16});
}

/** Patches -> rows, the class token in front, positions, pre-norm: the first hidden state. */
static void embed_patches(tower_run *run, const float *pixels, int64_t n) {
    const tower_config *tower = &run->model->config->tower;
    const tower_weights *w = &run->model->tower;
    const device_ops *ops = run->dev->ops;
    const int64_t width = tower->hidden_size, n_patches = n * run->n_patches;
    const bool has_class = run->n_tokens != run->n_patches;
    float *patches = has_class ? run->stack : run->h; /* the stack has room for n * n_tokens */
    ops->patchify(run->dev, run->pixels, pixels, n, tower->image_size, tower->patch_size);
    model_linear(
        run->model,
        &(panel_linear){.dst.f32 = patches, .x.f32 = run->pixels, .n = n_patches, .w = &w->patch});
    if (has_class) {
        ops->widen(run->dev, patches + n_patches * width, &w->class_embedding, width);
        int32_t *row = run->tokens;
        for (int64_t i = 0; i < n; i++) {
            *row++ = (int32_t)n_patches;
            for (int64_t p = 0; p < run->n_patches; p++) *row++ = (int32_t)(i * run->n_patches + p);
        }
        ops->gather(run->dev, run->h, patches, run->tokens, n * run->n_tokens, width);
    }
    if (weight_exists(&w->position_embedding))
        for (int64_t i = 0; i < n; i++)
            ops->add_scaled(run->dev, run->h + i * run->n_tokens * width, run->positions,
                            run->n_tokens * width, 1.0f);
    if (weight_exists(&w->pre_norm.w)) norm(run, (activations){.f32 = run->h}, n, &w->pre_norm);
}

/** Keys or values of one picture, as one block. */
static kv_view view_of(const tower_run *run, const activations *rows, void **block) {
    const int64_t width = run->model->config->tower.hidden_size;
    *block = rows->bf16 ? (void *)rows->bf16 : rows->f32;
    return (kv_view){.blocks = block,
                     .block_size = run->n_tokens,
                     .token_stride = rows->bf16 ? bf16_row_stride(width) : width,
                     .head_stride = width / run->model->config->tower.n_heads,
                     .dtype = rows->bf16 ? LLAVA_DTYPE_BF16 : LLAVA_DTYPE_F32};
}

/** x = attention(q, k, v), every picture for itself, without a mask. */
static void attend(tower_run *run, int64_t n) {
    const tower_config *tower = &run->model->config->tower;
    const int64_t width = tower->hidden_size, head_dim = width / tower->n_heads;
    for (int64_t i = 0; i < n; i++) {
        const int64_t first = i * run->n_tokens;
        const activations q = activations_at(run->q, first, width);
        const activations k = activations_at(run->k, first, width);
        const activations v = activations_at(run->v, first, width);
        const activations x = activations_at(run->x, first, width);
        void *keys, *values;
        attention_args args = {.q = q.f32,
                               .q_bf16 = q.bf16,
                               .q_stride = q.bf16 ? bf16_row_stride(width) : width,
                               .dst = x.f32,
                               .dst_bf16 = x.bf16,
                               .n_rows = run->n_tokens,
                               .n_heads = tower->n_heads,
                               .n_kv_heads = tower->n_heads,
                               .head_dim = head_dim,
                               .n_keys = run->n_tokens,
                               .scale = 1.0f / sqrtf((float)head_dim),
                               .k = view_of(run, &k, &keys),
                               .v = view_of(run, &v, &values),
                               .bf16_inputs = run->model->compute == LLAVA_DTYPE_BF16};
        run->dev->ops->attention(run->dev, &args);
    }
}

/** h = h + attention(norm1(h)); h = h + mlp(norm2(h)). */
static void run_layer(tower_run *run, const tower_layer *layer, int64_t n) {
    const tower_config *tower = &run->model->config->tower;
    const device_ops *ops = run->dev->ops;
    const int64_t rows = n * run->n_tokens, width = tower->hidden_size;
    const int64_t head_dim = width / tower->n_heads;
    const activations h = {.f32 = run->h};
    norm(run, run->x, n, &layer->norm1);
    const linear_weights *w[3] = {&layer->q, &layer->k, &layer->v};
    const activations qkv[3] = {run->q, run->k, run->v};
    for (int i = 0; i < 3; i++)
        model_linear(run->model, &(panel_linear){qkv[i], run->x, rows, w[i], ACT_NONE, NULL});
    if (weight_exists(&run->model->tower.class_pos_emb))
        for (int i = 0; i < 2; i++)
            ops->rope(run->dev, qkv[i].f32, width, rows, tower->n_heads, head_dim, run->cos,
                      run->sin);
    attend(run, n);
    model_linear(run->model, &(panel_linear){h, run->x, rows, &layer->out, ACT_NONE, run->h});
    norm(run, run->x, n, &layer->norm2);
    model_linear(run->model,
                 &(panel_linear){run->mlp, run->x, rows, &layer->fc1, tower->act, NULL});
    model_linear(run->model, &(panel_linear){h, run->mlp, rows, &layer->fc2, ACT_NONE, run->h});
}

/** Copies hidden state `state` to every place of the stack that asks for it. */
static void keep_state(tower_run *run, int64_t state, int64_t n) {
    const int64_t width = run->model->config->tower.hidden_size, rows = n * run->n_tokens;
    for (int i = 0; i < run->selection.count; i++) {
        if (run->selection.states[i] != state) continue;
        for (int64_t r = 0; r < rows; r++) run->tokens[r] = (int32_t)r;
        run->dev->ops->gather(run->dev, run->stack + i * rows * width, run->h, run->tokens, rows,
                              width);
    }
}

/** Stacked states -> features: channels of the selected states side by side, class token or not. */
static void collect(tower_run *run, int64_t n, float *dst) {
    const int64_t width = run->model->config->tower.hidden_size, rows = n * run->n_tokens;
    const int64_t skipped = run->n_tokens - run->out_tokens, count = run->selection.count;
    int32_t *row = run->selected;
    for (int64_t i = 0; i < n; i++)
        for (int64_t t = skipped; t < run->n_tokens; t++)
            for (int64_t s = 0; s < count; s++)
                *row++ = (int32_t)(s * rows + i * run->n_tokens + t);
    run->dev->ops->gather(run->dev, dst, run->stack, run->selected, n * run->out_tokens * count,
                          width);
}

void tower_forward(tower_run *run, const float *pixels, int64_t n, float *dst) {
    embed_patches(run, pixels, n);
    keep_state(run, 0, n);
    for (int64_t l = 0; l < run->selection.deepest; l++) {
        run_layer(run, &run->model->tower.layers[l], n);
        keep_state(run, l + 1, n);
    }
    collect(run, n, dst);
}
