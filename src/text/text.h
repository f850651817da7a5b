/* SPDX-License-Identifier: Apache-2.0
 *
 * Text: tokenizers, streaming decode, conversation templates, placeholder splitting.
 */
#ifndef LLAVA_TEXT_H
#define LLAVA_TEXT_H

#include "base/base.h"
#include "base/json.h"

/* ---------------------------------------------------------------- tokenizers */

typedef enum tokenizer_flavour {
    TOKENIZER_SLOW, /* AutoTokenizer(use_fast=False) */
    TOKENIZER_FAST
} tokenizer_flavour;

typedef struct tokenizer_request {
    const char *directory;
    tokenizer_flavour flavour;
    const char *model_type; /* config.json's, for directories without tokenizer_class; or NULL */
    const char *flags_json; /* keyword arguments of from_pretrained as a JSON object, or NULL */
    bool keeps_json;        /* a fast class never rebuilds itself while there is a tokenizer.json */
} tokenizer_request;

llava_status tokenizer_open(const tokenizer_request *request, llava_tokenizer **out,
                            llava_error *err);
/** True if the directory has the files of some tokenizer. */
bool tokenizer_exists(const char *directory);
void tokenizer_free(llava_tokenizer **tokenizer);

/** Adds a special token; a text already in the vocabulary keeps its id. Only while loading. */
llava_status tokenizer_add_special(llava_tokenizer *tokenizer, const char *text, int32_t *id,
                                   bool *added, llava_error *err);

/** len(tokenizer): number of distinct token texts. */
int64_t tokenizer_size(const llava_tokenizer *tokenizer);
/** Class and files: "LlamaTokenizer (slow), tokenizer.model". */
const char *tokenizer_description(const llava_tokenizer *tokenizer);

typedef struct ids {
    int32_t *data;
    size_t count, capacity;
} ids;
void ids_free(ids *list);
bool ids_append(ids *list, const int32_t *data, size_t count);

/** tokenizer(text).input_ids: automatic special tokens on. Appends. */
llava_status tokenizer_encode(const llava_tokenizer *tokenizer, const char *text, size_t size,
                              ids *out, llava_error *err);
/** tokenizer.decode(ids). Ids outside the vocabulary are skipped. Appends. */
llava_status tokenizer_decode(const llava_tokenizer *tokenizer, const int32_t *list, size_t count,
                              bool skip_special_tokens, bytes *out, llava_error *err);

/** A token's own text as the vocabulary writes it, or NULL. */
const char *tokenizer_token(const llava_tokenizer *tokenizer, int32_t id);
/** -1 when the text is no token. */
int32_t tokenizer_id(const llava_tokenizer *tokenizer, const char *token);
int32_t tokenizer_bos(const llava_tokenizer *tokenizer); /* -1: none */
int32_t tokenizer_eos(const llava_tokenizer *tokenizer);
bool tokenizer_is_special(const llava_tokenizer *tokenizer, int32_t id);
/** tokenizer_config.json's chat_template, or NULL. */
const char *tokenizer_chat_template(const llava_tokenizer *tokenizer);

/* ---------------------------------------------------------------- streaming decode */

/** Pieces add up to tokenizer_decode() of all ids; no piece ends inside a character. */
typedef struct text_stream text_stream;

llava_status text_stream_new(const llava_tokenizer *tokenizer, bool skip_special_tokens,
                             text_stream **out, llava_error *err);
void text_stream_free(text_stream **stream);
/** Makes room for pending text of n_bytes, so that pushing a token of that length allocates
 *  nothing. */
llava_status text_stream_reserve(text_stream *stream, size_t n_bytes, llava_error *err);
/** Appends what becomes final with this id to out. */
llava_status text_stream_push(text_stream *stream, int32_t id, bytes *out, llava_error *err);
/** Appends the rest. */
llava_status text_stream_finish(text_stream *stream, bytes *out, llava_error *err);

/* ---------------------------------------------------------------- conversation templates */

typedef enum template_style {
    STYLE_SINGLE,
    STYLE_TWO,
    STYLE_CHATML,
    STYLE_MPT,
    STYLE_GEMMA,
    STYLE_LLAMA_2,
    STYLE_LLAMA_3,
    STYLE_PLAIN
} template_style;

typedef struct conversation_template {
    const char *name;
    template_style style;
    const char *system;
    const char *roles[2];
    const char *sep, *sep2; /* NULL: none */
    const char *version;
    const llava_message *preset; /* messages before the first turn */
    size_t n_preset;
    const char *stop[3]; /* texts to stop at, NULL-terminated */
} conversation_template;

const conversation_template *template_find(const char *name); /* NULL when unknown */
const conversation_template *template_at(size_t index);
size_t template_count(void);

/** system NULL: the template's own. Appends the prompt. */
llava_status template_render(const conversation_template *t, const char *system,
                             const llava_message *messages, size_t n_messages, bytes *prompt,
                             llava_error *err);

/** What a template is chosen from. */
typedef struct template_evidence {
    const char *model_name;
    const char *architecture; /* class name */
    const char *vision_tower; /* or NULL */
    const llava_tokenizer *tokenizer;
} template_evidence;

/** Never fails: falls back to a default. reason is a literal. */
const conversation_template *template_choose(const template_evidence *evidence,
                                             const char **reason);

/* ---------------------------------------------------------------- the checkpoint's own template */

#define CHECKPOINT_TEMPLATE "checkpoint" /* the name that asks for it */
bool template_is_checkpoint(const char *name);

typedef struct checkpoint_dialog {
    const char *system; /* NULL: none */
    const llava_message *messages;
    size_t n_messages;
} checkpoint_dialog;

/** Evaluates a chat template (NULL: an error that says so) with add_generation_prompt on; an open
 *  turn at the end is left out. Where the template looks for images among content items, every
 *  "<image>" of a message becomes one. A BOS text in front that the tokenizer adds by itself is
 *  dropped. Appends the prompt. */
llava_status checkpoint_template_render(const char *source, const llava_tokenizer *tokenizer,
                                        const checkpoint_dialog *dialog, bytes *prompt,
                                        llava_error *err);

/* ---------------------------------------------------------------- placeholders */

#define IMAGE_TOKEN_INDEX (-200)

/** tokenizer_image_token: splits at "<image>", keeps one BOS, puts -200 between. Appends. */
llava_status tokenize_with_images(const llava_tokenizer *tokenizer, const char *prompt, size_t size,
                                  ids *out, llava_error *err);

#endif
