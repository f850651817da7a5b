/* SPDX-License-Identifier: Apache-2.0
 *
 * SentencePiece's decoder, one piece at a time.
 */
#include "text/sentencepiece.h"

static bool append(spm_decoder *state, const char *text, size_t size, bytes *out) {
    if (size) state->has_text = true;
    return bytes_append(out, text, size);
}

/* Turns held bytes into characters as far as they are decided; an invalid byte is U+FFFD. */
static bool decode_held(spm_decoder *state, bool final, bytes *out) {
    while (state->n_held) {
        const char *held = (const char *)state->held;
        bool bad;
        size_t length = utf8_lossy_next(held, state->n_held, &bad);
        if (!length && !final) return true;
        if (!length || bad) length = 1; /* one replacement for each byte, not for each subpart */
        const bool ok =
            bad ? append(state, REPLACEMENT_CHARACTER, 3, out) : append(state, held, length, out);
        if (!ok) return false;
        state->n_held -= length;
        memmove(state->held, state->held + length, state->n_held);
    }
    return true;
}

bool spm_decode_finish(spm_decoder *state, bytes *out) { return decode_held(state, true, out); }

static bool decode_text(const spm_model *model, spm_decoder *state, span text, bytes *out) {
    const bool strips = model->add_dummy_prefix || model->remove_extra_whitespaces;
    state->saw_prefix = false;
    if (!state->not_first && strips && text.size >= SPACE_SYMBOL_SIZE &&
        memcmp(text.data, SPACE_SYMBOL, SPACE_SYMBOL_SIZE) == 0) {
        text.data += SPACE_SYMBOL_SIZE;
        text.size -= SPACE_SYMBOL_SIZE;
        state->saw_prefix = !model->remove_extra_whitespaces;
    }
    if (text.size) state->has_text = true;
    return replace_append(text, span_of(SPACE_SYMBOL), span_of(" "), out);
}

bool spm_decode_piece(const spm_model *model, spm_decoder *state, int32_t id, span text,
                      bytes *out) {
    const spm_piece *piece = &model->pieces[id];
    if (piece->type == PIECE_BYTE) {
        state->held[state->n_held++] = piece->byte;
        return decode_held(state, false, out);
    }
    if (!decode_held(state, true, out)) return false;
    if (state->saw_prefix || state->has_text) state->not_first = true;
    switch (piece->type) {
    case PIECE_CONTROL: state->saw_prefix = false; return true;
    case PIECE_UNKNOWN:
        state->saw_prefix = false;
        if (span_equal(piece->text, text))
            return append(state, model->unk_surface.data, model->unk_surface.size, out);
        /* the library leaves the space symbol in such text; a reader wants the space */
        if (text.size) state->has_text = true;
        return replace_append(text, span_of(SPACE_SYMBOL), span_of(" "), out);
    default: return decode_text(model, state, text, out);
    }
}
