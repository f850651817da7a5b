/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads the protobuf of a SentencePiece model (sentencepiece_model.proto) by hand: wire format
 * varint 0, fixed64 1, length-delimited 2, fixed32 5; unknown fields are skipped.
 */
#include <stdio.h>
#include <stdlib.h>

#include "text/sentencepiece.h"

#define MAX_PIECES ((size_t)1 << 22)

/* ---------------------------------------------------------------- wire format */

typedef struct wire {
    const uint8_t *at, *end;
    bool broken;
    bool truncated; /* broken because it ends too early */
} wire;

typedef struct wire_field {
    uint32_t number;
    uint32_t type;
    uint64_t value; /* varint, fixed32, fixed64 */
    wire message;   /* length-delimited */
} wire_field;

static uint64_t wire_varint(wire *w) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (w->at == w->end) {
            w->truncated = true;
            break;
        }
        const uint8_t byte = *w->at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) return value;
    }
    w->broken = true;
    return 0;
}

static uint64_t wire_fixed(wire *w, size_t n_bytes) {
    if ((size_t)(w->end - w->at) < n_bytes) {
        w->broken = w->truncated = true;
        return 0;
    }
    uint64_t value = 0;
    for (size_t i = 0; i < n_bytes; i++) value |= (uint64_t)w->at[i] << (8 * i);
    w->at += n_bytes;
    return value;
}

/* False at the end or when broken. */
static bool wire_next(wire *w, wire_field *field) {
    *field = (wire_field){0};
    if (w->broken || w->at == w->end) return false;
    const uint64_t key = wire_varint(w);
    if (w->broken) return false;
    field->type = (uint32_t)key & 7;
    field->number = (uint32_t)(key >> 3);
    switch (field->type) {
    case 0: field->value = wire_varint(w); break;
    case 1: field->value = wire_fixed(w, 8); break;
    case 5: field->value = wire_fixed(w, 4); break;
    case 2: {
        const uint64_t size = wire_varint(w);
        if (size > (uint64_t)(w->end - w->at)) {
            w->broken = w->truncated = true;
            break;
        }
        field->message = (wire){w->at, w->at + size, false, false};
        w->at += size;
        break;
    }
    default: w->broken = true;
    }
    if (key >> 3 == 0 || key >> 3 > UINT32_MAX) w->broken = true;
    return !w->broken;
}

static span copy_message(arena *memory, const wire *message) {
    const size_t size = (size_t)(message->end - message->at);
    return (span){arena_strndup(memory, (const char *)message->at, size), size};
}

/* ---------------------------------------------------------------- messages */

static bool parse_piece(text_pool *pool, wire message, spm_piece *piece) {
    wire_field field;
    *piece = (spm_piece){.text = {"", 0}, .type = PIECE_NORMAL};
    while (wire_next(&message, &field)) {
        if (field.number == 1 && field.type == 2) {
            const size_t size = (size_t)(field.message.end - field.message.at);
            piece->text = (span){text_pool_copy(pool, (const char *)field.message.at, size), size};
        } else if (field.number == 2 && field.type == 5) {
            piece->score = f32_from_bits((uint32_t)field.value);
        } else if (field.number == 3 && field.type == 0) {
            piece->type = field.value <= PIECE_BYTE ? (piece_type)field.value : (piece_type)0;
        }
    }
    return !message.broken && piece->type >= PIECE_NORMAL && piece->text.data;
}

static bool add_user_symbol(spm_model *model, const wire *message) {
    const size_t n = model->n_user_symbols;
    if ((n & (n - 1)) == 0) { /* full: the room is 1, 2, 4, ... */
        span *grown = arena_array(model->memory, n ? 2 * n : 1, sizeof(span));
        if (!grown) return false;
        if (n) memcpy(grown, model->user_symbols, n * sizeof(span));
        model->user_symbols = grown;
    }
    const span symbol = copy_message(model->memory, message);
    model->user_symbols[model->n_user_symbols++] = symbol;
    return symbol.data != NULL;
}

static bool parse_trainer(spm_model *model, wire message) {
    wire_field field;
    bool ok = true;
    while (ok && wire_next(&message, &field)) {
        switch (field.number) {
        case 3: model->algorithm = (spm_algorithm)(field.value < 8 ? field.value : 8); break;
        case 24: model->whitespace_as_suffix = field.value != 0; break;
        case 35: model->byte_fallback = field.value != 0; break;
        case 31:
            if (field.type == 2) ok = add_user_symbol(model, &field.message);
            break;
        case 44:
            if (field.type == 2) model->unk_surface = copy_message(model->memory, &field.message);
            break;
        case 45:
            if (field.type == 2) model->unk_piece = copy_message(model->memory, &field.message);
            break;
        default: break;
        }
    }
    return ok && !message.broken && model->unk_surface.data && model->unk_piece.data;
}

static llava_status parse_normalizer(spm_model *model, wire message, const char *what,
                                     llava_error *err) {
    wire_field field;
    while (wire_next(&message, &field)) {
        switch (field.number) {
        case 2:
            if (field.type == 2 && field.message.end > field.message.at) {
                const span blob = copy_message(model->memory, &field.message);
                if (!blob.data) return llava_fail_memory(err, blob.size, "the character map");
                LLAVA_TRY(charsmap_parse((const uint8_t *)blob.data, blob.size, what,
                                         &model->charsmap, err));
            }
            break;
        case 3: model->add_dummy_prefix = field.value != 0; break;
        case 4: model->remove_extra_whitespaces = field.value != 0; break;
        case 5: model->escape_whitespaces = field.value != 0; break;
        default: break;
        }
    }
    return message.broken ? llava_fail(err, LLAVA_MALFORMED,
                                       "%s: the normalizer_spec message is cut off or broken", what)
                          : LLAVA_OK;
}

/* ---------------------------------------------------------------- whole model */

static llava_status count_pieces(wire file, const char *what, size_t *count, llava_error *err) {
    wire_field field;
    *count = 0;
    while (wire_next(&file, &field))
        if (field.number == 1 && field.type == 2) ++*count;
    if (file.broken)
        return llava_refuse(
            err, LLAVA_MALFORMED, file.truncated ? LLAVA_REFUSAL_TRUNCATED : LLAVA_REFUSAL_CORRUPT,
            "%s: not a SentencePiece model: broken protobuf after %zu pieces", what, *count);
    if (!*count || *count > MAX_PIECES)
        return llava_fail(err, LLAVA_MALFORMED,
                          "%s: not a SentencePiece model: %zu pieces, expected 1 to %zu", what,
                          *count, MAX_PIECES);
    return LLAVA_OK;
}

static llava_status parse_messages(spm_model *model, wire file, const char *what,
                                   llava_error *err) {
    wire_field field;
    text_pool pool = {.memory = model->memory};
    while (wire_next(&file, &field)) {
        if (field.type != 2) continue;
        if (field.number == 1) {
            if (!parse_piece(&pool, field.message, &model->pieces[model->n_pieces]))
                return llava_fail(err, LLAVA_MALFORMED, "%s: piece %zu is broken", what,
                                  model->n_pieces);
            model->n_pieces++;
        } else if (field.number == 2) {
            if (!parse_trainer(model, field.message))
                return llava_fail(err, LLAVA_MALFORMED,
                                  "%s: the trainer_spec message is cut off or broken", what);
        } else if (field.number == 3) {
            LLAVA_TRY(parse_normalizer(model, field.message, what, err));
        }
    }
    return LLAVA_OK;
}

static bool parse_byte_piece(spm_piece *piece) {
    unsigned value;
    char check[8];
    if (piece->text.size != 6 || sscanf(piece->text.data, "<0x%2X>", &value) != 1) return false;
    snprintf(check, sizeof check, "<0x%02X>", value);
    piece->byte = (uint8_t)value;
    return memcmp(check, piece->text.data, 6) == 0;
}

static llava_status index_piece(spm_model *model, int32_t id, const char *what, llava_error *err) {
    spm_piece *piece = &model->pieces[id];
    if (!piece->text.size)
        return llava_fail(err, LLAVA_MALFORMED, "%s: piece %d is empty", what, id);
    const bool is_reserved =
        piece->type == PIECE_UNKNOWN || piece->type == PIECE_CONTROL || piece->type == PIECE_BYTE;
    string_map *map = is_reserved ? &model->reserved : &model->normal;
    if (string_map_get(map, piece->text) >= 0)
        return llava_fail(err, LLAVA_MALFORMED, "%s: piece %d \"%.40s\" is there twice", what, id,
                          piece->text.data);
    bool ok = string_map_add(map, piece->text, id);
    if (!is_reserved) {
        if (piece->text.size > model->longest_piece) model->longest_piece = piece->text.size;
        if (model->algorithm == SPM_UNIGRAM)
            ok = ok && prefix_index_add(&model->unigram, piece->text, id);
    }
    if (piece->type == PIECE_USER_DEFINED)
        ok = ok && prefix_index_add(&model->user_defined, piece->text, id);
    if (!ok) return llava_fail_memory(err, sizeof(string_slot), "the vocabulary");
    if (piece->type == PIECE_BYTE) {
        if (!parse_byte_piece(piece))
            return llava_fail(err, LLAVA_MALFORMED,
                              "%s: byte piece %d is \"%.40s\", expected the form <0x0A>", what, id,
                              piece->text.data);
        model->bytes[piece->byte] = id;
    }
    if (piece->type == PIECE_UNKNOWN) {
        if (model->unk_id >= 0)
            return llava_fail(err, LLAVA_MALFORMED,
                              "%s: two unknown pieces, %d and %d, expected one", what,
                              model->unk_id, id);
        model->unk_id = id;
    }
    return LLAVA_OK;
}

static llava_status index_pieces(spm_model *model, const char *what, llava_error *err) {
    bool first = true;
    for (size_t i = 0; i < model->n_pieces; i++) {
        const spm_piece *piece = &model->pieces[i];
        LLAVA_TRY(index_piece(model, (int32_t)i, what, err));
        if (piece->type != PIECE_NORMAL) continue;
        if (first || piece->score < model->min_score) model->min_score = piece->score;
        if (first || piece->score > model->max_score) model->max_score = piece->score;
        first = false;
    }
    prefix_index_sort(&model->user_defined);
    prefix_index_sort(&model->unigram);
    if (model->unk_id < 0)
        return llava_fail(err, LLAVA_MALFORMED, "%s: no piece of type UNKNOWN", what);
    if (!model->byte_fallback) return LLAVA_OK;
    for (int byte = 0; byte < 256; byte++)
        if (model->bytes[byte] < 0)
            return llava_fail(err, LLAVA_MALFORMED,
                              "%s: byte_fallback is on but the piece <0x%02X> is missing", what,
                              (unsigned)byte);
    return LLAVA_OK;
}

static llava_status spm_fill(spm_model *model, wire file, const char *what, llava_error *err) {
    size_t n_pieces;
    LLAVA_TRY(count_pieces(file, what, &n_pieces, err));
    model->memory = arena_new();
    if (model->memory) model->pieces = arena_array(model->memory, n_pieces, sizeof(spm_piece));
    if (!model->pieces) return llava_fail_memory(err, n_pieces * sizeof(spm_piece), "the pieces");
    LLAVA_TRY(parse_messages(model, file, what, err));
    if (model->algorithm != SPM_UNIGRAM && model->algorithm != SPM_BPE)
        return llava_fail(err, LLAVA_UNSUPPORTED,
                          "%s: SentencePiece model type %d, expected 1 (unigram) or 2 (BPE)", what,
                          (int)model->algorithm);
    if (!string_map_reserve(&model->normal, n_pieces))
        return llava_fail_memory(err, n_pieces * sizeof(string_slot), "the vocabulary");
    return index_pieces(model, what, err);
}

llava_status spm_parse(const uint8_t *data, size_t size, const char *what, spm_model **out,
                       llava_error *err) {
    *out = NULL;
    spm_model *model = array_new(1, sizeof *model);
    if (!model) return llava_fail_memory(err, sizeof *model, "a SentencePiece model");
    /* defaults of the proto file; the default unknown surface is " U+2047 " */
    model->unk_id = -1;
    model->algorithm = SPM_UNIGRAM;
    model->add_dummy_prefix = true;
    model->remove_extra_whitespaces = true;
    model->escape_whitespaces = true;
    model->unk_surface = span_of(" \xe2\x81\x87 ");
    model->unk_piece = span_of("<unk>");
    for (int byte = 0; byte < 256; byte++) model->bytes[byte] = -1;
    const llava_status status = spm_fill(model, (wire){data, data + size, false, false}, what, err);
    if (status != LLAVA_OK) spm_free(&model);
    *out = model;
    return status;
}

void spm_free(spm_model **model) {
    if (!model || !*model) return;
    string_map_free(&(*model)->normal);
    string_map_free(&(*model)->reserved);
    prefix_index_free(&(*model)->user_defined);
    prefix_index_free(&(*model)->unigram);
    arena_free(&(*model)->memory);
    free(*model);
    *model = NULL;
}

int32_t spm_id(const spm_model *model, span text) {
    int32_t id = string_map_get(&model->reserved, text);
    if (id < 0) id = string_map_get(&model->normal, text);
    return id < 0 ? model->unk_id : id;
}
