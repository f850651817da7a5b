/* SPDX-License-Identifier: Apache-2.0
 *
 * SentencePiece: the model file, its normaliser, BPE and unigram encoding, decoding.
 */
#ifndef LLAVA_SENTENCEPIECE_H
#define LLAVA_SENTENCEPIECE_H

#include "text/characters.h"
#include "text/string_map.h"
#include "text/text.h"

typedef enum piece_type {
    PIECE_NORMAL = 1,
    PIECE_UNKNOWN,
    PIECE_CONTROL,
    PIECE_USER_DEFINED,
    PIECE_UNUSED,
    PIECE_BYTE
} piece_type;

typedef enum spm_algorithm { SPM_UNIGRAM = 1, SPM_BPE = 2 } spm_algorithm;

typedef struct spm_piece {
    span text;
    float score;
    piece_type type;
    uint8_t byte; /* PIECE_BYTE */
} spm_piece;

/** A "precompiled character map": a double-array trie over a pool of replacements. */
typedef struct charsmap {
    const uint8_t *units; /* uint32 little-endian each, maybe unaligned */
    size_t n_units;
    const char *pool; /* NUL-terminated strings, the last byte is NUL */
    size_t pool_size;
} charsmap;

typedef struct spm_model {
    arena *memory;
    spm_piece *pieces;
    size_t n_pieces;
    string_map normal;   /* types 1, 4, 5: what text can become */
    string_map reserved; /* types 2, 3, 6 */
    prefix_index user_defined;
    prefix_index unigram; /* the normal table again, for Viterbi */
    size_t longest_piece; /* bytes, among normal */
    int32_t bytes[256];   /* id of each byte piece, -1: none */
    int32_t unk_id;
    spm_algorithm algorithm;
    bool whitespace_as_suffix, byte_fallback;
    bool add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces;
    float min_score, max_score; /* of NORMAL pieces */
    charsmap charsmap;
    span unk_surface, unk_piece;
    span *user_symbols; /* trainer_spec.user_defined_symbols */
    size_t n_user_symbols;
} spm_model;

/** Parses a model; copies what it keeps. `what` names the file in errors. */
llava_status spm_parse(const uint8_t *data, size_t size, const char *what, spm_model **out,
                       llava_error *err);
void spm_free(spm_model **model);
int32_t spm_id(const spm_model *model, span text); /* the unknown id when absent */

/** blob: n, trie, pool (SentencePiece's precompiled_charsmap). Borrows it. */
llava_status charsmap_parse(const uint8_t *blob, size_t size, const char *what, charsmap *map,
                            llava_error *err);
/** Longest, or shortest, match at the start of text: its length, 0 when none. */
size_t charsmap_match(const charsmap *map, const char *text, size_t size, bool shortest,
                      span *replacement);

/** Appends the normalised text. dummy_prefix overrides the model's add_dummy_prefix. */
bool spm_normalize(const spm_model *model, bool dummy_prefix, const char *text, size_t size,
                   bytes *out);
/** Normalises and encodes; appends. Text need not be valid UTF-8. */
llava_status spm_encode(const spm_model *model, bool dummy_prefix, const char *text, size_t size,
                        ids *out, llava_error *err);

/** One run of pieces being decoded (SentencePieceProcessor::Decode, taken piece by piece). */
typedef struct spm_decoder {
    bool not_first;  /* a leading space has been dealt with */
    bool saw_prefix; /* the last piece lost its leading space symbol */
    bool has_text;
    uint8_t held[4]; /* bytes that do not make a character yet */
    size_t n_held;
} spm_decoder;

/** text: the piece as given, which may have lost its space symbol; id: what it is. Appends. */
bool spm_decode_piece(const spm_model *model, spm_decoder *state, int32_t id, span text,
                      bytes *out);
bool spm_decode_finish(spm_decoder *state, bytes *out);

#endif
