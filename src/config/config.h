/* SPDX-License-Identifier: Apache-2.0
 *
 * config.json and its companions -> one validated struct. Everything that is decided here is
 * recorded with its reason.
 */
#ifndef LLAVA_CONFIG_H
#define LLAVA_CONFIG_H

#include "base/base.h"
#include "base/json.h"
#include "tensor/tensor.h"

#define CONFIG_MAX_EOS 16

/* ---------------------------------------------------------------- activations */

typedef enum activation {
    ACT_NONE = 0,
    ACT_SILU,
    ACT_GELU,       /* exact, erf */
    ACT_GELU_TANH,  /* 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
    ACT_QUICK_GELU, /* x sigmoid(1.702 x) */
    ACT_RELU,
    ACT_RELU2, /* relu(x)^2 */
    ACT_TANH,
    ACT_SIGMOID,
    ACT_COUNT
} activation;

/** The names of transformers' ACT2FN; false when unknown. */
bool activation_parse(const char *name, activation *act);
const char *activation_name(activation act);

/* ---------------------------------------------------------------- families of decoders */

typedef enum arch {
    ARCH_LLAMA = 0,
    ARCH_QWEN2,
    ARCH_QWEN2_MOE,
    ARCH_MISTRAL,
    ARCH_MIXTRAL,
    ARCH_GEMMA,
    ARCH_MPT,
    ARCH_COUNT
} arch;

/** What sets one family of decoders apart: names, defaults for absent keys, differences. */
typedef struct family {
    arch arch;
    const char *name;        /* "llama" */
    const char *lm_class;    /* "LlamaForCausalLM" */
    const char *llava_class; /* "LlavaLlamaForCausalLM" */
    const char *model_type;  /* "llama" */
    const char *llava_type;  /* "llava_llama" */
    bool supported;          /* the decoder can run it */
    /* defaults of the configuration class */
    int64_t vocab_size, hidden_size, intermediate_size, n_layers, n_heads,
        n_kv_heads;   /* 0 = n_heads */
    int64_t head_dim; /* 0: hidden_size / n_heads */
    int64_t max_position_embeddings;
    double rms_norm_eps, rope_theta;
    int64_t sliding_window; /* 0: none */
    bool tie_word_embeddings;
    int64_t bos, eos, pad; /* -1: null */
    activation act;
    /* differences */
    bool qkv_bias;             /* q, k, v always have biases */
    bool honours_rope_scaling; /* the LLaVA class keeps config.rope_scaling */
    bool norm_plus_one;        /* Gemma: (1 + weight), all in float32 */
    bool scales_embeddings;    /* Gemma: h * round(sqrt(hidden_size)) */
    bool window_needs_flag;    /* Qwen2: sliding_window only with use_sliding_window */
    bool slow_tokenizer;       /* the reference asks for the slow tokenizer */
} family;

const family *family_get(arch a);
const family *family_by_class(const char *class_name, bool *is_llava); /* NULL when unknown */
const family *family_by_model_type(const char *model_type, bool *is_llava);

/* ---------------------------------------------------------------- language model */

typedef enum rope_type { ROPE_DEFAULT = 0, ROPE_LINEAR, ROPE_DYNAMIC, ROPE_LLAMA3 } rope_type;

typedef struct lm_config {
    const family *family;
    int64_t vocab_size; /* rows as the file says, before the resize to len(tokenizer) */
    int64_t hidden_size, intermediate_size, n_layers, n_heads, n_kv_heads, head_dim;
    int64_t max_position_embeddings;
    float rms_norm_eps;
    float rope_theta;
    rope_type rope;
    float rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    int64_t rope_original_max_position;
    activation act;
    bool tie_word_embeddings;
    bool attention_bias; /* q, k, v and o (Llama, Gemma) */
    bool qkv_bias;       /* q, k, v */
    bool mlp_bias;
    int64_t sliding_window;    /* 0: none. A query at p sees keys p - window ... p */
    int64_t max_window_layers; /* Qwen2: layers below this one have the window */
    /* mixture of experts; n_experts 0: dense */
    int64_t n_experts, n_experts_per_token, moe_intermediate_size, shared_intermediate_size;
    int64_t decoder_sparse_step;
    const int64_t *mlp_only_layers; /* Qwen2-MoE: layers that stay dense */
    size_t n_mlp_only_layers;
    bool norm_topk_prob;
} lm_config;

/** True if this layer's MLP is a mixture of experts. */
bool lm_layer_is_sparse(const lm_config *lm, int64_t layer);

/* ---------------------------------------------------------------- vision */

typedef enum tower_kind { TOWER_NONE = 0, TOWER_CLIP, TOWER_SIGLIP, TOWER_MLCD } tower_kind;

typedef enum select_feature {
    SELECT_PATCH = 0,
    SELECT_CLS_PATCH,
    SELECT_SLICEFOUR_PATCH,
    SELECT_SLICEFOUR_CLS_PATCH,
    SELECT_M25811_PATCH,
    SELECT_M25811_CLS_PATCH
} select_feature;

typedef struct tower_config {
    tower_kind kind;
    int64_t hidden_size, intermediate_size, n_layers, n_heads, image_size, patch_size;
    activation act;
    float layer_norm_eps;
    bool runs_all_layers; /* SigLIP in "-hf" checkpoints, where no layer is left out */
} tower_config;

#define PROJECTOR_MAX_LINEARS 16
typedef enum projector_kind {
    PROJECTOR_LINEAR = 0,
    PROJECTOR_MLP_GELU, /* n_linears x Linear with GELU between, then n_res residual blocks */
    PROJECTOR_POOLER,
    PROJECTOR_IDENTITY
} projector_kind;

typedef enum aspect_ratio {
    ASPECT_SQUARE = 0, /* and any other word */
    ASPECT_PAD,
    ASPECT_ANYRES, /* "anyres" or contains "anyres_max" */
    ASPECT_HIGHRES,
    ASPECT_CROP_SPLIT
} aspect_ratio;

typedef enum newline_position {
    NEWLINE_ONE_TOKEN = 0,
    NEWLINE_GRID,
    NEWLINE_FRAME,
    NEWLINE_NO_TOKEN
} newline_position;

typedef enum pool_mode { POOL_NONE = 0, POOL_AVERAGE, POOL_MAX, POOL_BILINEAR } pool_mode;

typedef struct size2 {
    int64_t width, height;
} size2;

/** The reference's CLIPImageProcessor / SigLipImageProcessor as data. */
typedef struct processor_config {
    tower_kind kind;
    bool do_resize, do_center_crop, do_rescale, do_normalize;
    int64_t shortest_edge;           /* > 0: CLIP's resize of the short side */
    int64_t size_width, size_height; /* otherwise exactly this size */
    int64_t crop_width, crop_height;
    int resample; /* Pillow's number: 0 nearest, 1 lanczos, 2 bilinear, 3 bicubic */
    double rescale_factor;
    double mean[3], std[3];
} processor_config;

/** Which of transformers' own classes a checkpoint is written for. */
typedef enum native_layout {
    NATIVE_NONE = 0, /* the original LLaVA layout */
    NATIVE_LLAVA,
    NATIVE_NEXT,
    NATIVE_NEXT_VIDEO,
    NATIVE_ONEVISION
} native_layout;

/** Everything about pictures that config.json says. */
typedef struct mm_config {
    char vision_tower[512]; /* mm_vision_tower (or vision_tower), as written */
    int64_t select_layer;
    bool has_select_layer;
    select_feature select;
    int64_t mm_hidden_size;
    projector_kind projector;
    int projector_linears, projector_res;
    char projector_type[64];
    aspect_ratio aspect;
    char aspect_text[64]; /* image_aspect_ratio as written, "square" when absent */
    int64_t anyres_max;   /* N of anyres_max_N at the start of the text; 0: no limit */
    size2 *pinpoints;     /* (width, height), in the file's order */
    size_t n_pinpoints;
    bool pinpoints_are_range; /* "(1x1),...,(6x6)": pinpoints hold multiples of the tile size */
    int64_t highres_max;      /* largest of a comma list "336,672"; 0: none */
    int64_t crop_resolution, split_resolution; /* crop_split; 0: absent */
    char merge_type[64];                       /* mm_patch_merge_type, "flat" when absent */
    bool merge_spatial, merge_unpad, merge_maxpool, merge_nobase;
    newline_position newline;
    pool_mode pool;
    int64_t pool_stride; /* mm_spatial_pool_stride if > 0, else 2 */
    bool add_faster_video;
    int64_t faster_token_stride;
    bool s2;
    int64_t s2_scales[8]; /* ascending */
    size_t n_s2_scales;
    bool use_im_start_end, use_im_patch_token;
    bool delay_load, unfreeze_mm_vision_tower;
    char tunable_parts[256];
    int64_t tokenizer_model_max_length; /* 0: absent */
    bool padding_left;                  /* tokenizer_padding_side */
    /* transformers' own classes; all zero in the original layout */
    native_layout native;
    int64_t image_token, video_token; /* ids that stand for a picture, a video; -1: none */
    int64_t select_layers[8];         /* vision_feature_layer as a list; else select_layer counts */
    size_t n_select_layers;
    activation projector_act; /* between the linears; ACT_NONE: GELU */
    bool projector_without_bias;
    bool pool_before_projector; /* videos */
} mm_config;

/* ---------------------------------------------------------------- generation */

typedef struct generation_config {
    bool do_sample;
    float temperature, top_p, repetition_penalty, length_penalty;
    int64_t top_k, num_beams, max_length, max_new_tokens, min_new_tokens, no_repeat_ngram_size;
    int early_stopping; /* 0 false, 1 true, 2 "never" */
    int32_t eos[CONFIG_MAX_EOS];
    size_t n_eos;
    int32_t bos, pad; /* -1: null */
    bool from_file;   /* generation_config.json was there */
} generation_config;

/* ---------------------------------------------------------------- the whole */

/** One decision and why: {"architecture", "LlavaQwenForCausalLM", "architectures[0] says so"}. */
typedef struct decision {
    const char *what, *value, *reason;
} decision;

typedef struct decision_list {
    decision *items;
    size_t count, capacity;
} decision_list;

typedef struct llava_config {
    arena *memory;         /* owns every string below */
    json_t *root;          /* config.json after customized_config and overwrite_config */
    json_t *native;        /* config.json of a "-hf" checkpoint as it is; root is its translation */
    char architecture[96]; /* the class: LlavaQwenForCausalLM, LlamaForCausalLM ... */
    bool multimodal;
    lm_config lm;
    mm_config mm;                                /* zero unless multimodal */
    tower_config tower;                          /* kind TOWER_NONE until config_read_tower() */
    processor_config processor, video_processor; /* the second: "-hf" checkpoints only */
    generation_config generation;
    int64_t context_len;
    llava_dtype stored_dtype; /* config's torch_dtype; DEFAULT when absent */
    decision_list decisions;
} llava_config;

/** Inputs of config_load(). */
typedef struct config_request {
    const char *directory;            /* holds config.json and generation_config.json */
    const char *generation_directory; /* holds generation_config.json; NULL: directory */
    const char *model_name;           /* as given or derived */
    bool model_name_given;            /* by the caller: "llava" in it then demands a picture path */
    bool multimodal_keyword;
    const char *customized_config; /* JSON text or NULL */
    const char *overwrite_config;  /* JSON text or NULL */
} config_request;

llava_status config_load(const config_request *request, llava_config **out, llava_error *err);
void config_free(llava_config **config);

/** Reads a tower directory's config.json (nested vision_config or top level) and
 *  preprocessor_config.json; directory NULL: built-in facts for the published name.
 *  Fills config->tower and config->processor and records the decision. */
llava_status config_read_tower(llava_config *config, const char *directory, llava_error *err);

/** The same of a "-hf" checkpoint: vision_config, and the processor files in directory. */
llava_status config_read_native_tower(llava_config *config, const char *directory,
                                      llava_error *err);
/** "LlavaNextForConditionalGeneration"; NULL in the original layout. */
const char *config_native_class(native_layout layout);

/** A config for a vision tower alone: only mm_* keys of config_json (an object, or NULL). */
llava_status config_new_tower(const char *config_json, const char *tower_name, llava_config **out,
                              llava_error *err);

/** Width of the tower's features after selection: what the projector is given. */
int64_t config_tower_width(const llava_config *config);
/** Encoder layers that are run at most; SigLIP leaves out the last one. */
int64_t config_tower_layers(const tower_config *tower);

/** preprocessor_config.json's object (may be NULL: CLIP's defaults) -> processor. */
llava_status config_parse_processor(const json_t *object, const char *what,
                                    processor_config *processor, llava_error *err);

llava_status config_note(llava_config *config, const char *what, const char *value,
                         const char *reason, llava_error *err);

/** get_model_name_from_path: last component, "parent_checkpoint-N" for checkpoint folders. */
char *config_model_name(arena *memory, const char *path);

/** What the reference's name test would have chosen: branch id ("C5") and class, for reports. */
void config_reference_branch(const char *model_name, bool has_base, bool multimodal_keyword,
                             const char *model_path, const char **branch, const char **class_name);

#endif
