/* SPDX-License-Identifier: Apache-2.0
 *
 * The components of tokenizer.json: normalizers, pre-tokenizers, post-processors, decoders. A
 * Sequence is stored flat: its members run in order.
 */
#ifndef LLAVA_TEXT_COMPONENTS_H
#define LLAVA_TEXT_COMPONENTS_H

#include "text/characters.h"
#include "text/sentencepiece.h"
#include "text/split_pattern.h"

/* ---------------------------------------------------------------- normalizers */

typedef enum normalizer_kind {
    NORMALIZER_FORM,
    NORMALIZER_LOWERCASE,
    NORMALIZER_STRIP_ACCENTS,
    NORMALIZER_NMT,
    NORMALIZER_STRIP,
    NORMALIZER_PREPEND,
    NORMALIZER_REPLACE,
    NORMALIZER_CHARSMAP
} normalizer_kind;

typedef struct normalizer_step {
    normalizer_kind kind;
    normal_form form;
    bool left, right; /* Strip */
    span text;        /* Prepend; Replace's content */
    const split_pattern *pattern;
    charsmap charsmap;
} normalizer_step;

typedef struct normalizer {
    normalizer_step *steps;
    size_t n_steps, capacity;
} normalizer;

/** value NULL or null: no steps. */
llava_status normalizer_parse(component_memory *memory, const json_t *value, normalizer *out,
                              llava_error *err);
/** Appends the normalised text. Input is valid UTF-8. */
llava_status normalizer_run(const normalizer *n, const char *text, size_t size, bytes *out,
                            llava_error *err);
/** Adds one step at the end, for pipelines made without a file. */
llava_status normalizer_add(component_memory *memory, normalizer *n, normalizer_step step,
                            llava_error *err);

/* ---------------------------------------------------------------- pre-tokenizers */

typedef enum split_behaviour {
    SPLIT_ISOLATED,
    SPLIT_REMOVED,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS
} split_behaviour;

typedef enum pre_tokenizer_kind {
    PRE_SPLIT,
    PRE_BYTE_LEVEL,
    PRE_METASPACE,
    PRE_DIGITS,
    PRE_WHITESPACE,
    PRE_WHITESPACE_SPLIT,
    PRE_PUNCTUATION,
    PRE_BERT
} pre_tokenizer_kind;

typedef enum prepend_scheme { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER } prepend_scheme;

typedef struct pre_tokenizer_step {
    pre_tokenizer_kind kind;
    const split_pattern *pattern;
    split_behaviour behaviour;
    bool invert;
    bool add_prefix_space, use_regex; /* ByteLevel */
    span replacement;                 /* Metaspace */
    prepend_scheme scheme;
    bool split;
} pre_tokenizer_step;

typedef struct pre_tokenizer {
    pre_tokenizer_step *steps;
    size_t n_steps, capacity;
} pre_tokenizer;

/** A word in `text` of the list it belongs to. */
typedef struct word {
    size_t start, size;
    bool at_start; /* begins where the whole text begins */
} word;

typedef struct word_list {
    bytes text;
    word *items;
    size_t count, capacity;
} word_list;

void word_list_free(word_list *list);

llava_status pre_tokenizer_parse(component_memory *memory, const json_t *value, pre_tokenizer *out,
                                 llava_error *err);
llava_status pre_tokenizer_add(component_memory *memory, pre_tokenizer *p, pre_tokenizer_step step,
                               llava_error *err);
/** Cuts one segment into words; spare is working memory. Both lists are overwritten. */
llava_status pre_tokenizer_run(const pre_tokenizer *p, span text, bool at_start, word_list *words,
                               word_list *spare, llava_error *err);

/* ---------------------------------------------------------------- bytes as characters */

/** GPT-2's table: 256 printable characters that stand for bytes. */
int32_t byte_to_char(uint8_t byte);
int char_to_byte(int32_t code); /* -1: not in the table */
/** Appends the character of each byte. */
bool byte_level_append(const char *text, size_t size, bytes *out);
/** Appends the bytes of a token; a token with any other character contributes its own UTF-8. */
bool byte_level_decode(span token, bytes *out);

/* ---------------------------------------------------------------- post-processors */

typedef struct template_item {
    int32_t id; /* -1: the sequence itself */
} template_item;

typedef struct post_template {
    template_item *items;
    size_t n_items;
} post_template;

typedef struct post_processor {
    post_template *templates; /* each goes around the result of the one before */
    size_t n_templates, capacity;
} post_processor;

llava_status post_processor_parse(component_memory *memory, const json_t *value,
                                  post_processor *out, llava_error *err);
/** [bos] sequence [eos]; -1: none. */
llava_status post_processor_set(component_memory *memory, post_processor *p, int32_t bos,
                                int32_t eos, llava_error *err);
/** Wraps list[from..]. */
bool post_processor_run(const post_processor *p, ids *list, size_t from);

/* ---------------------------------------------------------------- decoders */

typedef enum decoder_kind {
    DECODER_REPLACE,
    DECODER_BYTE_FALLBACK,
    DECODER_FUSE,
    DECODER_STRIP,
    DECODER_BYTE_LEVEL,
    DECODER_METASPACE,
    DECODER_WORD_PIECE,
    DECODER_BPE,
    DECODER_JOIN /* no decoder: tokens with spaces between */
} decoder_kind;

typedef struct decoder_step {
    decoder_kind kind;
    const split_pattern *pattern; /* Replace */
    span text;                    /* Replace's content, Strip's character, prefix, suffix */
    size_t left, right;           /* Strip: how many */
    bool never;                   /* Metaspace: the first token keeps its spaces */
    bool cleanup;                 /* WordPiece */
    bool fused;                   /* its input is one token that comes in parts */
} decoder_step;

typedef struct token_decoder {
    decoder_step *steps;
    size_t n_steps, capacity;
} token_decoder;

llava_status token_decoder_parse(component_memory *memory, const json_t *value, token_decoder *out,
                                 llava_error *err);
llava_status token_decoder_add(component_memory *memory, token_decoder *d, decoder_step step,
                               llava_error *err);

/** What one step remembers between tokens. */
typedef struct decoder_stage {
    size_t n_tokens;
    size_t n_stripped; /* Strip over parts: leading characters taken */
    bool text_started;
    bytes held;
    bytes work; /* kept from token to token, so that a step in full swing allocates nothing */
} decoder_stage;

/** A decoding in progress; what it gives when fed token by token is what it gives at once. */
typedef struct decoder_run {
    const token_decoder *decoder;
    decoder_stage *stages;
    llava_error *err; /* of the call in progress */
} decoder_run;

bool decoder_run_start(decoder_run *run, const token_decoder *decoder);
void decoder_run_free(decoder_run *run);
/** Append what becomes final. */
llava_status decoder_run_token(decoder_run *run, span token, bytes *out, llava_error *err);
llava_status decoder_run_finish(decoder_run *run, bytes *out, llava_error *err);

/* ---------------------------------------------------------------- shared */

#define COMPONENT_MAX_DEPTH 16
#define COMPONENT_MAX_STEPS 64

/** "type" of a component, or an error that names `what`. */
llava_status component_type(const json_t *value, const char *what, const char **type,
                            llava_error *err);
/** Room for one more element of an arena array of COMPONENT_MAX_STEPS at most; NULL on failure. */
void *component_grow(component_memory *memory, void *items, size_t count, size_t *capacity,
                     size_t element_size, llava_error *err);
/** A string member copied to the arena; absent: fallback. */
llava_status component_text(component_memory *memory, const json_t *value, const char *key,
                            const char *fallback, span *text, llava_error *err);

#endif
