/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of this folder share: working memory laid out in one piece, the tower's run, the
 * projector, rope tables, experts.
 */
#ifndef LLAVA_MODEL_INTERNAL_H
#define LLAVA_MODEL_INTERNAL_H

#include "model/model.h"

/* ---------------------------------------------------------------- working memory */

/** Hands out pieces of one allocation. With base NULL it only counts, so the same lay-out function
 *  first gives the size and then the pointers. */
typedef struct slab {
    uint8_t *base;
    size_t used;
    bool overflow;
} slab;

/** rows x cols elements, 64-byte aligned; NULL while counting or on overflow. */
void *slab_take(slab *s, int64_t rows, int64_t cols, size_t element_size);
static inline float *slab_floats(slab *s, int64_t rows, int64_t cols) {
    return slab_take(s, rows, cols, sizeof(float));
}

/** Rows of activations in working memory: float32, or bfloat16 where products would round them
 *  (the other pointer is NULL), bf16_row_stride() elements apart. */
typedef struct activations {
    float *f32;
    uint16_t *bf16;
} activations;
activations slab_activations(slab *s, int64_t rows, int64_t dim, bool bf16);
/** From row on, of rows of dim elements. */
static inline activations activations_at(activations x, int64_t row, int64_t dim) {
    return x.bf16 ? (activations){.bf16 = x.bf16 + row * bf16_row_stride(dim)}
                  : (activations){.f32 = x.f32 + row * dim};
}

/** dst = act(x W^T + b) (+ residual) for n prompt or tower rows. */
typedef struct panel_linear {
    activations dst, x;
    int64_t n;
    const linear_weights *w;
    activation act;
    const float *residual;
} panel_linear;
void model_linear(const llava_model *model, const panel_linear *call);

/* ---------------------------------------------------------------- tower */

#define TOWER_MAX_SELECTED 16

/** Which hidden states become features, in the order of the channels. */
typedef struct tower_selection {
    int64_t states[TOWER_MAX_SELECTED]; /* 0: input of the first layer; l: output of layer l - 1 */
    int count;
    int64_t deepest;
    bool keep_class; /* the class token stays, as the first row */
} tower_selection;

llava_status tower_select(const llava_model *model, tower_selection *selection, llava_error *err);
bool tower_has_class_token(const llava_model *model);
int64_t tower_patches(const llava_model *model); /* of one input of image_size */
/** Pixels on one side of a view: the largest S2 scale, else the tower's image size. */
int64_t tower_view_size(const llava_model *model);

/** Working memory of the tower for up to max_inputs pictures of image_size at a time. */
typedef struct tower_run {
    const llava_model *model;
    device *dev;
    tower_selection selection;
    int64_t max_inputs;
    int64_t n_patches, n_tokens;   /* per input, without and with the class token */
    int64_t out_tokens, out_width; /* per input, after selection */
    float *h;                      /* [max_inputs * n_tokens, D] */
    activations x, q, k, v, mlp;   /* [max_inputs * n_tokens, D or intermediate_size] */
    float *pixels;                 /* patches' pixels, in mlp's memory */
    float *stack;                  /* selected states, one after the other */
    float *positions;              /* [n_tokens, D] */
    float *cos, *sin;              /* MLCD: [max_inputs * n_tokens, head_dim / 2] */
    int32_t *tokens, *selected;    /* row lists, host */
    void *memory, *host;
} tower_run;

llava_status tower_open(const llava_model *model, int64_t max_inputs, tower_run *run,
                        llava_error *err);
void tower_close(tower_run *run);
/** pixels [n, 3, S, S] -> dst [n, out_tokens, out_width], all in device memory; n <= max_inputs. */
void tower_forward(tower_run *run, const float *pixels, int64_t n, float *dst);
/** Inputs of n_tokens rows to take at a time so that working memory stays bounded. */
int64_t tower_inputs_at_once(int64_t n_tokens, int64_t n_inputs);

/* ---------------------------------------------------------------- whole views */

/** Tower (with its scales) and projector for a few views at a time. */
typedef struct vision_run {
    const llava_model *model;
    device *dev;
    tower_run tower;
    int64_t max_views;
    int64_t tokens, width;    /* features per view */
    int64_t projected_tokens; /* rows per view after the projector */
    float *pixels;            /* [max_views, 3, S, S] */
    float *features;          /* [max_views, tokens, width] */
    float *projected;         /* [max_views, projected_tokens, hidden_size] */
    float *pooled;            /* features pooled before the projector, [max_views, tokens, width] */
    float *hidden;            /* projector's inner rows */
    float *norm;              /* residual blocks' normalised rows, and inner rows */
    float *windows;           /* pooler: [projected_tokens, 4 * width] */
    int32_t *cells;           /* rows the projector gathers, host */
    /* S2 */
    float *scaled, *tiles, *tile_features, *map, *scale_maps;
    int32_t *rows;
    void *memory, *host;
} vision_run;

typedef enum vision_parts { VISION_TOWER = 1, VISION_PROJECTOR = 2 } vision_parts;

llava_status vision_open(const llava_model *model, int64_t n_views, int parts, vision_run *run,
                         llava_error *err);
void vision_close(vision_run *run);
/** run->pixels -> run->features for n <= max_views views. */
void vision_features(vision_run *run, int64_t n);
/** run->features -> dst [n, projected_tokens, hidden_size] in device memory. */
void vision_project(vision_run *run, int64_t n, float *dst);
/** At most max_views * tokens rows of features through a chain of linears. */
void vision_project_rows(vision_run *run, float *features, int64_t n_rows, float *dst);

/* S2: multi-scale features, one view at a time. */
llava_status scales_check(const llava_model *model, llava_error *err);
int64_t scales_max_tiles(const llava_model *model);
void scales_lay_out(vision_run *run, slab *memory, slab *host);
void scales_features(vision_run *run, const float *pixels, float *features);

/* projector */
llava_status projector_check(const llava_model *model, llava_error *err);
void projector_lay_out(vision_run *run, slab *memory, slab *host);

/* ---------------------------------------------------------------- rope */

/** f_j for j < head_dim / 2. length: of the sequence (dynamic scaling looks at it). */
void rope_frequencies(const lm_config *lm, int64_t length, float *frequencies);
/** cos and sin of one position, head_dim / 2 each. */
void rope_angles(const lm_config *lm, const float *frequencies, int64_t position, float *cos,
                 float *sin);
/** ALiBi's slope per head; strongest distance bias 8, as in MPT. */
void alibi_slopes(int64_t n_heads, float *slopes);

/* ---------------------------------------------------------------- KV cache */

/** Views of one layer; the block lists have room for seq->n_blocks pointers. */
void kv_sequence_views(const kv_sequence *seq, int64_t layer, void **k_blocks, void **v_blocks,
                       kv_view *k, kv_view *v);
/** True if positions [n_tokens, n_tokens + n) have blocks of their own. */
bool kv_sequence_has_room(const kv_sequence *seq, int64_t n);

/* ---------------------------------------------------------------- decoder */

/** Rows of one item inside a step. Prompt rows come first, then generated ones. */
typedef struct step_item {
    decoder_item *item;
    int64_t first; /* its first row */
    int64_t n;     /* rows still carried: all, or in the last layer those somebody needs */
} step_item;

struct decoder_scratch {
    const llava_model *model;
    device *dev;
    int64_t max_rows, max_logit_rows, max_tokens, max_items;
    /* device */
    float *h, *x;            /* [max_rows, D]: residual stream, normalised rows */
    float *q, *k, *v, *attn; /* [max_rows, heads * head_dim] */
    float *gate, *up;        /* [max_rows, widest of D and the MLPs] */
    float *cos, *sin;        /* [max_rows, head_dim / 2] */
    float *logits;           /* [max_logit_rows, n_vocab] */
    float *slopes;           /* ALiBi, [n_heads] */
    float *router, *mix, *expert_in, *expert_out; /* mixture of experts */
    /* host */
    float *host_cos, *host_sin, *frequencies, *host_slopes;
    float *router_logits, *expert_weight; /* [max_rows, n_experts], [max_rows, k] */
    int32_t *expert_id, *expert_rows, *rows;
    void **k_blocks, **v_blocks;
    step_item *items;
    void *memory, *host;
};

/** The state of one step on its way through the layers. */
typedef struct decoder_run {
    const llava_model *model;
    decoder_scratch *s;
    size_t n_items;
    int64_t n_rows, n_panel; /* rows carried; of these, prompt rows */
    float *h, *x;
} decoder_run;

/** A product of rows [0, n): the first n_panel of them as prompt rows, the others as generated. */
typedef struct rows_linear {
    float *dst;
    const float *x;
    int64_t n, n_panel;
    const weight *w, *bias;
    activation act;
    const float *residual;
} rows_linear;
void decoder_linear(const llava_model *model, const rows_linear *call);

/** x -> h += experts(x). */
void experts_forward(decoder_run *run, const decoder_layer *layer);
/** The k largest of the softmax over all n logits, lowest index first among equals. */
void experts_route(const float *logits, int64_t n, int64_t k, bool renormalise, int32_t *ids,
                   float *weights);

#endif
