/* SPDX-License-Identifier: Apache-2.0
 *
 * A loaded tokenizer: its model, its pipeline or the rules of a Python class, its added tokens.
 */
#ifndef LLAVA_TOKENIZER_H
#define LLAVA_TOKENIZER_H

#include "text/byte_pairs.h"
#include "text/sentencepiece.h"
#include "text/text_components.h"
#include "text/text_filter.h"
#include "text/vocabulary.h"

typedef enum tokenizer_class {
    CLASS_GENERIC, /* PreTrainedTokenizerFast */
    CLASS_LLAMA,
    CLASS_GEMMA,
    CLASS_QWEN2,
    CLASS_GPT_NEOX,
    CLASS_GPT2
} tokenizer_class;

typedef enum model_kind { MODEL_NONE, MODEL_SENTENCEPIECE, MODEL_BPE, MODEL_UNIGRAM } model_kind;

/** In the order in which transformers adds them (SPECIAL_TOKENS_ATTRIBUTES). */
typedef enum named_special {
    NAMED_BOS,
    NAMED_EOS,
    NAMED_UNK,
    NAMED_SEP,
    NAMED_PAD,
    NAMED_CLS,
    NAMED_MASK,
    NAMED_COUNT
} named_special;

const char *tokenizer_special_name(int which); /* "bos_token", ... */

typedef struct added_token {
    span text;
    int32_t id;
    bool lstrip, rstrip, single_word, normalized, special;
    bool named;      /* bos, eos, unk, ... */
    bool additional; /* in additional_special_tokens */
    bool separate;   /* slow decoding sets it apart with spaces */
} added_token;

struct llava_tokenizer {
    component_memory components; /* its arena owns what has no owner of its own */
    text_pool pool;              /* texts of added tokens */
    tokenizer_class class;
    bool fast;
    const char *description;
    const char *chat_template;

    model_kind model;
    spm_model *spm;
    vocabulary vocab; /* BPE, unigram */
    bpe_model bpe;
    unigram_model unigram;

    normalizer normalizer; /* fast: as the file says; slow: unused */
    pre_tokenizer pre_tokenizer;
    post_processor post_processor;
    token_decoder decoder;

    added_token *added;
    size_t n_added, added_capacity;
    int64_t n_new_texts;     /* added tokens whose text is not in the model */
    int64_t max_added_id;    /* -1: none */
    string_map added_texts;  /* text -> index in added */
    merge_map added_ids;     /* (id, 0) -> index in added */
    prefix_index raw;        /* added tokens searched in the text as it is */
    prefix_index normalized; /* fast: those searched after normalising */

    int32_t named[NAMED_COUNT]; /* ids, -1: none */
    bool add_bos, add_eos;      /* slow */
    bool legacy, add_prefix_space;
    bool clean_up;
    bool split_special_tokens;
    size_t unk_pieces; /* slow Llama, legacy false: pieces of the unknown token's text */
    int64_t size;      /* distinct texts */
};

static inline arena *tokenizer_arena(const llava_tokenizer *t) { return t->components.memory; }

/* ---------------------------------------------------------------- tokens */

/** A token of the model itself; data NULL: none. */
span tokenizer_base_token(const llava_tokenizer *t, int32_t id);
int32_t tokenizer_base_id(const llava_tokenizer *t, span text); /* -1: none */
size_t tokenizer_base_count(const llava_tokenizer *t);
/** NULL: not an added token. */
const added_token *tokenizer_added(const llava_tokenizer *t, int32_t id);
const added_token *tokenizer_added_text(const llava_tokenizer *t, span text);
/** The id a slow class gives to a piece: that of an added token of the same text, if any. */
int32_t tokenizer_slow_id(const llava_tokenizer *t, int32_t id);

/** Adds a token or renews its flags. token.id -1: the vocabulary's id, else the next free one. */
llava_status tokenizer_put(llava_tokenizer *t, added_token token, int32_t *id, llava_error *err);
/** After changes to added tokens: search structures, sizes. */
llava_status tokenizer_refresh(llava_tokenizer *t, llava_error *err);

/* ---------------------------------------------------------------- loading */

/** Empty; model and pipeline are to be filled. */
llava_status tokenizer_new(llava_tokenizer **out, llava_error *err);
/** Model, pipeline and added tokens of a tokenizer.json. */
llava_status tokenizer_load_json(llava_tokenizer *t, const json_t *root, llava_error *err);
/** A tokenizer.json alone, as the Rust library sees it. */
llava_status tokenizer_open_json(const json_t *root, llava_tokenizer **out, llava_error *err);
/** BPE model from merges; each merge is "left right", or a pair. */
llava_status tokenizer_add_merge(llava_tokenizer *t, span left, span right, uint32_t rank,
                                 const char *what, llava_error *err);
llava_status tokenizer_load_vocab_files(llava_tokenizer *t, const char *directory,
                                        llava_error *err);
/** The pipeline of the fast class made from vocab.json and merges.txt. */
llava_status tokenizer_byte_level_pipeline(llava_tokenizer *t, bool add_prefix_space,
                                           llava_error *err);
/** The fast class made from t->spm. */
llava_status tokenizer_convert_spm(llava_tokenizer *t, llava_error *err);

/** Everything transformers reads beside the model; applies to t. */
typedef struct tokenizer_metadata {
    json_t *config;         /* tokenizer_config.json with the keyword arguments; never NULL */
    json_t *keywords;       /* the keyword arguments alone */
    json_t *special_map;    /* special_tokens_map.json or NULL */
    json_t *added;          /* added_tokens.json or NULL */
    json_t *tokenizer_json; /* or NULL */
} tokenizer_metadata;

void tokenizer_metadata_free(tokenizer_metadata *m);
/** Flags and special tokens; t->class, t->fast and the model are set. */
llava_status tokenizer_apply_metadata(llava_tokenizer *t, tokenizer_metadata *m, llava_error *err);

/* ---------------------------------------------------------------- encoding */

/** text is valid UTF-8. Append. */
llava_status tokenizer_encode_slow(const llava_tokenizer *t, const char *text, size_t size,
                                   ids *out, llava_error *err);
llava_status tokenizer_encode_fast(const llava_tokenizer *t, const char *text, size_t size,
                                   ids *out, llava_error *err);

/* ---------------------------------------------------------------- decoding */

/** A slow class's decode() in progress. */
typedef struct slow_decoder {
    size_t n_parts;
    size_t run_tokens; /* in the run between tokens set apart */
    bool run_has_text;
    bool after_special;
    spm_decoder spm;
    bytes text;      /* of the tokens at hand */
    bytes waiting;   /* legacy: text whose leading space is decided by what follows */
    bytes undecoded; /* byte-level: bytes that do not make a character yet */
} slow_decoder;

void slow_decoder_free(slow_decoder *d);
/** skip: special tokens are left out. Append what is final. */
bool slow_decoder_push(const llava_tokenizer *t, slow_decoder *d, int32_t id, bool skip,
                       bytes *out);
bool slow_decoder_finish(const llava_tokenizer *t, slow_decoder *d, bytes *out);

#endif
