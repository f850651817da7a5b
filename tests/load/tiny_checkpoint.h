/* SPDX-License-Identifier: Apache-2.0
 *
 * Checkpoints of a few kilobytes, written tensor by tensor so that a test can leave one out or
 * spoil it. Values have no meaning.
 */
#ifndef LLAVA_TEST_TINY_CHECKPOINT_H
#define LLAVA_TEST_TINY_CHECKPOINT_H

#include "scratch.h"

/** A safetensors file being listed. */
typedef struct tiny_file {
    char header[65536];
    size_t used, n_data;
    const char *skip;       /* tensors whose name contains this are left out; NULL: none */
    const char *spoil;      /* tensors of this name get another shape or type */
    const char *spoil_with; /* "shape" or "dtype" */
    const char *dtype;      /* "F32", "F16", "BF16" */
} tiny_file;

#define TINY_WIDTH 8
#define TINY_INNER 12
#define TINY_VOCAB 10
#define TINY_TOWER 4 /* width of the tower */

#define TINY_CONFIG                                                                                \
    "\"hidden_size\":8,\"intermediate_size\":12,\"num_hidden_layers\":2,"                          \
    "\"num_attention_heads\":2,\"vocab_size\":10"
#define TINY_LLAMA "{\"model_type\":\"llama\"," TINY_CONFIG "}"
#define TINY_LLAVA                                                                                 \
    "{\"model_type\":\"llava_llama\"," TINY_CONFIG ",\"mm_vision_tower\":\"towers/t\","            \
    "\"mm_hidden_size\":4,\"mm_vision_select_layer\":-2,\"mm_projector_type\":\"mlp2x_gelu\"}"
#define TINY_TOWER_CONFIG                                                                          \
    "{\"model_type\":\"clip_vision_model\",\"hidden_size\":4,\"intermediate_size\":6,"             \
    "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"image_size\":4,\"patch_size\":2}"

static inline void tiny_add(tiny_file *f, const char *name, int rows, int cols) {
    if (f->skip && strstr(name, f->skip)) return;
    const bool spoiled = f->spoil && strcmp(f->spoil, name) == 0;
    const char *dtype = f->dtype ? f->dtype : "F32";
    size_t step = dtype[1] == '3' ? 4 : 2;
    if (spoiled && strcmp(f->spoil_with, "dtype") == 0) {
        dtype = "I8";
        step = 1;
    }
    if (spoiled && strcmp(f->spoil_with, "shape") == 0) rows++;
    char shape[48];
    snprintf(shape, sizeof shape, cols ? "%d,%d" : "%d", rows, cols);
    const size_t n_bytes = step * (size_t)rows * (size_t)(cols ? cols : 1);
    f->used +=
        (size_t)snprintf(f->header + f->used, sizeof f->header - f->used,
                         "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                         f->used ? "," : "{", name, dtype, shape, f->n_data, f->n_data + n_bytes);
    f->n_data += n_bytes;
}

static inline void tiny_decoder(tiny_file *f, const char *prefix) {
    char name[256];
    static const struct {
        const char *name;
        int rows, cols;
    } layer[] = {{"self_attn.q_proj.weight", TINY_WIDTH, TINY_WIDTH},
                 {"self_attn.k_proj.weight", TINY_WIDTH, TINY_WIDTH},
                 {"self_attn.v_proj.weight", TINY_WIDTH, TINY_WIDTH},
                 {"self_attn.o_proj.weight", TINY_WIDTH, TINY_WIDTH},
                 {"mlp.gate_proj.weight", TINY_INNER, TINY_WIDTH},
                 {"mlp.up_proj.weight", TINY_INNER, TINY_WIDTH},
                 {"mlp.down_proj.weight", TINY_WIDTH, TINY_INNER},
                 {"input_layernorm.weight", TINY_WIDTH, 0},
                 {"post_attention_layernorm.weight", TINY_WIDTH, 0},
                 {"self_attn.rotary_emb.inv_freq", 2, 0}};
    for (int l = 0; l < 2; l++) {
        for (size_t i = 0; i < sizeof layer / sizeof layer[0]; i++) {
            snprintf(name, sizeof name, "%slayers.%d.%s", prefix, l, layer[i].name);
            tiny_add(f, name, layer[i].rows, layer[i].cols);
        }
    }
    snprintf(name, sizeof name, "%sembed_tokens.weight", prefix);
    tiny_add(f, name, TINY_VOCAB, TINY_WIDTH);
    snprintf(name, sizeof name, "%snorm.weight", prefix);
    tiny_add(f, name, TINY_WIDTH, 0);
    tiny_add(f, "lm_head.weight", TINY_VOCAB, TINY_WIDTH);
}

static inline void tiny_projector(tiny_file *f, const char *prefix) {
    char name[256];
    for (int i = 0; i <= 2; i += 2) {
        snprintf(name, sizeof name, "%s%d.weight", prefix, i);
        tiny_add(f, name, TINY_WIDTH, i ? TINY_WIDTH : TINY_TOWER);
        snprintf(name, sizeof name, "%s%d.bias", prefix, i);
        tiny_add(f, name, TINY_WIDTH, 0);
    }
}

static inline void tiny_pair(tiny_file *f, const char *prefix, const char *name, int rows,
                             int cols) {
    char full[512];
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    tiny_add(f, full, rows, cols);
    snprintf(full, sizeof full, "%s%s.bias", prefix, name);
    tiny_add(f, full, rows, 0);
}

/** The patch matrix has four dimensions, which tiny_add() does not write. */
static inline void tiny_patch(tiny_file *f, const char *prefix) {
    const size_t n_bytes = (size_t)TINY_TOWER * 3 * 2 * 2 * 4;
    if (f->skip && strstr("embeddings.patch_embedding.weight", f->skip)) return;
    f->used +=
        (size_t)snprintf(f->header + f->used, sizeof f->header - f->used,
                         "%s\"%sembeddings.patch_embedding.weight\":{\"dtype\":\"F32\","
                         "\"shape\":[%d,3,2,2],\"data_offsets\":[%zu,%zu]}",
                         f->used ? "," : "{", prefix, TINY_TOWER, f->n_data, f->n_data + n_bytes);
    f->n_data += n_bytes;
}

static inline void tiny_tower(tiny_file *f, const char *prefix) {
    char name[192];
    const int d = TINY_TOWER;
    tiny_patch(f, prefix);
    snprintf(name, sizeof name, "%sembeddings.class_embedding", prefix);
    tiny_add(f, name, d, 0);
    snprintf(name, sizeof name, "%sembeddings.position_embedding.weight", prefix);
    tiny_add(f, name, 5, d);
    tiny_pair(f, prefix, "pre_layrnorm", d, 0);
    static const char *const square[] = {"q_proj", "k_proj", "v_proj", "out_proj"};
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "encoder.layers.0.self_attn.%s", square[i]);
        tiny_pair(f, prefix, name, d, d);
    }
    tiny_pair(f, prefix, "encoder.layers.0.mlp.fc1", 6, d);
    tiny_pair(f, prefix, "encoder.layers.0.mlp.fc2", d, 6);
    tiny_pair(f, prefix, "encoder.layers.0.layer_norm1", d, 0);
    tiny_pair(f, prefix, "encoder.layers.0.layer_norm2", d, 0);
}

static inline void tiny_write(const scratch *s, const char *name, tiny_file *f) {
    if (f->used == 0) f->used += (size_t)snprintf(f->header, sizeof f->header, "{");
    snprintf(f->header + f->used, sizeof f->header - f->used, "}");
    scratch_safetensors(s, name, f->header, f->n_data);
}

#endif
