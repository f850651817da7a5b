/* SPDX-License-Identifier: Apache-2.0
 *
 * The forward pass: tower -> projector -> splice -> decoder over a KV cache. Written once,
 * against the device's operations.
 */
#ifndef LLAVA_MODEL_H
#define LLAVA_MODEL_H

#include "base/base.h"
#include "checkpoint/adapter.h"
#include "checkpoint/checkpoint.h"
#include "config/config.h"
#include "device/device.h"
#include "image/image.h"
#include "tensor/tensor.h"

/* ---------------------------------------------------------------- weights */

typedef struct norm_weights {
    weight w, b;
} norm_weights;

typedef struct linear_weights {
    weight w, b;
} linear_weights;

typedef struct tower_layer {
    norm_weights norm1, norm2;
    linear_weights q, k, v, out, fc1, fc2; /* [D, D] x 4, [I, D], [D, I] */
} tower_layer;

typedef struct tower_weights {
    weight class_embedding;    /* [1, D]; CLIP, MLCD */
    linear_weights patch;      /* [D, 3 p p] */
    weight position_embedding; /* [N (+ 1), D]; not MLCD */
    weight class_pos_emb;      /* [1, head_dim / 2]; MLCD */
    norm_weights pre_norm;     /* CLIP, MLCD */
    norm_weights post_norm;    /* of no use to the features; for writing the tower back */
    tower_layer *layers;
    int64_t n_layers; /* layers to run at most (SigLIP: the last one is left out) */
} tower_weights;

/** Pooler: linears[0] is conv_pool.weight [C, Dm, 2, 2] as it is stored, seen as [C, 4 Dm] (columns
 *  in the order channel, y, x), linears[1] is proj.1. */
typedef struct projector_weights {
    linear_weights linears[PROJECTOR_MAX_LINEARS];
    struct {
        norm_weights norm;
        linear_weights fc1, fc2;
    } res[PROJECTOR_MAX_LINEARS];
} projector_weights;

typedef struct expert_weights {
    weight gate, up, down;
} expert_weights;

/** Weights that a family does not have are absent. MPT: q, k, v are row ranges of Wqkv, o is
 *  out_proj, up and down the MLP (no gate), the norms are LayerNorms with eps rms_norm_eps. */
typedef struct decoder_layer {
    norm_weights input_norm, post_norm;
    linear_weights q, k, v, o;
    linear_weights gate, up, down; /* dense */
    weight router;                 /* [n_experts, D]; exists when the layer is sparse */
    expert_weights *experts;
    expert_weights shared;
    weight shared_gate; /* [1, D] */
} decoder_layer;

typedef struct decoder_weights {
    weight embed; /* [V, D] */
    decoder_layer *layers;
    norm_weights norm;
    weight head; /* [V, D]; the embedding when tied */
} decoder_weights;

/** Immutable after loading. */
struct llava_model {
    llava_config *config;
    device *dev;
    llava_dtype compute;    /* torch_dtype: F32, F16 or BF16 */
    llava_dtype kv_dtype;   /* of cached keys and values, also I8; DEFAULT: compute */
    int64_t n_vocab;        /* logits per position: min(len(tokenizer), rows) rules */
    int64_t n_stored_vocab; /* ids the stored rows cover; above: never sampled */
    tower_weights tower;
    projector_weights projector;
    decoder_weights decoder;
    weight image_newline, faster_token; /* [1, hidden_size] */
    const char *name;
    const char *template_name, *template_reason;
    const char *chat_template; /* the checkpoint's own (Jinja), or NULL */
    /* ownership */
    arena *memory;        /* structs and strings */
    checkpoint *files[4]; /* mapped weights */
    adapter *overlay;     /* what lies on top of files[0], or NULL */
    void **owned;         /* cast or merged tensors */
    size_t n_owned, owned_capacity;
    uint64_t owned_bytes, weight_bytes;
};

/** Zeroed, with an empty arena; NULL on exhaustion. */
llava_model *model_new(void);
/** Releases owned tensors, closes the files and the device, frees the configuration. */
void model_free(llava_model **model);

/* ---------------------------------------------------------------- pictures */

/** Where a stage's output is copied when somebody asks (verify); all may be NULL. */
typedef struct vision_trace {
    float *tower_features; /* [n_views, tokens, width] */
    float *projected;      /* [n_views, tokens, hidden_size]; none of frames pooled before it */
    float *pooled;         /* video: [frames, pool_side^2, hidden_size] */
} vision_trace;

/** Sizes of what the tower returns for one view: rows and width after feature selection. */
void model_tower_shape(const llava_model *model, int64_t *tokens, int64_t *width);

/** pixels [n_views, 3, S, S] -> tower features [n_views, tokens, width] (host memory). */
llava_status model_run_tower(const llava_model *model, const float *pixels, int64_t n_views,
                             float *features, llava_error *err);
/** Features -> projected [n_views, tokens', hidden_size]. */
llava_status model_project(const llava_model *model, const float *features, int64_t n_views,
                           float *projected, llava_error *err);
/** Rows of projected features per view (differs from the tower's for the pooler). */
int64_t model_projected_tokens(const llava_model *model);

/** The whole picture path: pixels of one planned picture -> its rows of the prompt,
 *  [plan->n_rows, hidden_size]. */
llava_status model_encode_picture(const llava_model *model, const vision_plan *plan,
                                  const float *pixels, float *rows, const vision_trace *trace,
                                  llava_error *err);

/** Token embeddings (before Gemma's scaling): [n, hidden_size]. Ids are checked; ids beyond the
 *  stored rows give zeros. Allocates nothing. */
llava_status model_embed_tokens(const llava_model *model, const int32_t *tokens, int64_t n,
                                float *rows, llava_error *err);

/* ---------------------------------------------------------------- KV cache */

#define KV_BLOCK_TOKENS 64

/** Fixed-size blocks with reference counts. A block holds KV_BLOCK_TOKENS positions of every
 *  layer's keys and values: [layer][k or v][kv_head][token][head_dim]. */
typedef struct kv_pool kv_pool;

llava_status kv_pool_new(const llava_model *model, int64_t n_tokens, kv_pool **out,
                         llava_error *err);
void kv_pool_free(kv_pool **pool);
/** Of the cache that kv_pool_new() makes. */
llava_dtype kv_dtype_of(const llava_model *model);
size_t kv_bytes_per_token(const llava_model *model);
int64_t kv_pool_free_blocks(const kv_pool *pool);

/** The blocks of one sequence. */
typedef struct kv_sequence {
    kv_pool *pool;
    int32_t *blocks; /* block numbers */
    int64_t n_blocks, capacity;
    int64_t n_tokens; /* positions stored */
} kv_sequence;

llava_status kv_sequence_new(kv_pool *pool, int64_t max_tokens, kv_sequence *seq, llava_error *err);
void kv_sequence_free(kv_sequence *seq);
/** Makes room for n more positions: allocates blocks, copies the last one if it is shared. */
llava_status kv_sequence_reserve(kv_sequence *seq, int64_t n, llava_error *err);
/** Forgets positions from n_tokens on. */
void kv_sequence_truncate(kv_sequence *seq, int64_t n_tokens);
/** dst becomes a copy of src that shares its blocks. */
llava_status kv_sequence_share(kv_sequence *dst, const kv_sequence *src, llava_error *err);

/* ---------------------------------------------------------------- decoder */

/** One sequence's part of a step. Positions are seq->n_tokens ... + n_rows - 1. */
typedef struct decoder_item {
    kv_sequence *seq;  /* room reserved; n_tokens grows by n_rows */
    const float *rows; /* [n_rows, hidden_size] embeddings */
    int64_t n_rows;
    bool generated;      /* rows are generated tokens (DOT), not prompt (PANEL) */
    int64_t n_logits;    /* logits of the last n_logits rows; 0: none */
    float *logits;       /* [n_logits, n_vocab], caller's */
    int64_t rope_length; /* dynamic rope: sequence length that sets the base; 0: end of rows */
    float **hidden;      /* n_layers + 2 buffers [n_rows, hidden_size] or NULL: inputs of layer 0,
                            output of each layer, after the final norm */
} decoder_item;

/** Working memory for steps of at most max_rows rows. */
typedef struct decoder_scratch decoder_scratch;
llava_status decoder_scratch_new(const llava_model *model, int64_t max_rows, int64_t max_logit_rows,
                                 int64_t max_tokens, decoder_scratch **out, llava_error *err);
void decoder_scratch_free(decoder_scratch **scratch);
size_t decoder_scratch_bytes(const llava_model *model, int64_t max_rows, int64_t max_logit_rows,
                             int64_t max_tokens);

/** Runs all items as one ragged batch. Allocates nothing. The sum of n_rows must fit the scratch.*/
llava_status decoder_step(const llava_model *model, decoder_scratch *scratch, decoder_item *items,
                          size_t n_items, llava_error *err);

#endif
