/* SPDX-License-Identifier: Apache-2.0
 *
 * decode() of the Python classes (transformers 4.40: PreTrainedTokenizer._decode and
 * convert_tokens_to_string of LlamaTokenizer, GemmaTokenizer, Qwen2Tokenizer), token by token.
 *
 * Tokens come in runs. A run is what lies between tokens that are set apart; the pieces of text
 * (runs and tokens set apart) are joined with one space by LlamaTokenizer, with nothing by others.
 */
#include "text/tokenizer.h"

void slow_decoder_free(slow_decoder *d) {
    bytes_free(&d->text);
    bytes_free(&d->waiting);
    bytes_free(&d->undecoded);
    *d = (slow_decoder){0};
}

static bool joins_with_space(const llava_tokenizer *t) { return t->class == CLASS_LLAMA; }

/* Text of the run: the joining space comes before the first that is not empty. */
static bool emit_run(const llava_tokenizer *t, slow_decoder *d, const bytes *text, bytes *out) {
    if (!text->size) return true;
    if (!d->run_has_text && d->n_parts && joins_with_space(t) && !bytes_append(out, " ", 1))
        return false;
    d->run_has_text = true;
    if (t->class != CLASS_GEMMA) return bytes_append(out, text->data, text->size);
    /* GemmaTokenizer replaces what symbols are left, whatever they came from */
    return replace_append((span){text->data, text->size}, span_of(SPACE_SYMBOL), span_of(" "), out);
}

static bool emit_waiting(const llava_tokenizer *t, slow_decoder *d, bytes *out) {
    const bool ok = emit_run(t, d, &d->waiting, out);
    d->waiting.size = 0;
    return ok;
}

/* Passes on whole characters of d->undecoded to d->text. */
static bool decode_lossy(slow_decoder *d, bool final) {
    size_t done = 0;
    while (done < d->undecoded.size) {
        bool bad;
        const char *at = d->undecoded.data + done;
        size_t length = utf8_lossy_next(at, d->undecoded.size - done, &bad);
        if (!length && !final) break;
        if (!length) length = d->undecoded.size - done;
        if (!(bad ? bytes_append(&d->text, REPLACEMENT_CHARACTER, 3)
                  : bytes_append(&d->text, at, length)))
            return false;
        done += length;
    }
    d->undecoded.size -= done;
    if (done) memmove(d->undecoded.data, d->undecoded.data + done, d->undecoded.size);
    return true;
}

/* ---------------------------------------------------------------- Llama */

/* A special token within a run ends what SentencePiece decodes at once. With legacy, a space goes
 * in front of the text before it, so that text waits (skip leaves no special tokens here). */
static bool llama_special(const llava_tokenizer *t, slow_decoder *d, span token, bytes *out) {
    d->text.size = 0;
    if (t->legacy && !d->after_special && d->run_tokens && !bytes_append(&d->text, " ", 1))
        return false;
    if (!bytes_append(&d->text, d->waiting.data, d->waiting.size)) return false;
    d->waiting.size = 0;
    if (!spm_decode_finish(&d->spm, &d->text)) return false;
    d->spm = (spm_decoder){0};
    d->after_special = true;
    return bytes_append(&d->text, token.data, token.size) && emit_run(t, d, &d->text, out);
}

static bool has_space_symbol(span token) {
    return token.size >= SPACE_SYMBOL_SIZE &&
           memcmp(token.data, SPACE_SYMBOL, SPACE_SYMBOL_SIZE) == 0;
}

/* An ordinary token right behind a special one that the run began with gets a space. */
static bool space_after_first(const llava_tokenizer *t, slow_decoder *d, span token, bytes *out) {
    if (d->run_tokens != 1 || !d->after_special || !t->add_prefix_space || has_space_symbol(token))
        return true;
    d->text.size = 0;
    return bytes_append(&d->text, " ", 1) && emit_run(t, d, &d->text, out);
}

static bool llama_token(const llava_tokenizer *t, slow_decoder *d, int32_t id,
                        const added_token *added, bool skip, bytes *out) {
    span token = added ? added->text : tokenizer_base_token(t, id);
    if (!d->run_tokens && t->add_prefix_space && has_space_symbol(token)) {
        token.data += SPACE_SYMBOL_SIZE;
        token.size -= SPACE_SYMBOL_SIZE;
        id = spm_id(t->spm, token);
    }
    bool ok = added || space_after_first(t, d, token, out);
    if (!ok) return false;
    if (added) {
        ok = llama_special(t, d, token, out);
    } else if (t->legacy && !skip) {
        ok = spm_decode_piece(t->spm, &d->spm, id, token, &d->waiting);
        d->after_special = false;
    } else {
        d->text.size = 0;
        ok =
            spm_decode_piece(t->spm, &d->spm, id, token, &d->text) && emit_run(t, d, &d->text, out);
        d->after_special = false;
    }
    d->run_tokens++;
    return ok;
}

/* ---------------------------------------------------------------- all classes */

static bool run_token(const llava_tokenizer *t, slow_decoder *d, int32_t id,
                      const added_token *added, bool skip, bytes *out) {
    if (t->class == CLASS_LLAMA) return llama_token(t, d, id, added, skip, out);
    const span token = added ? added->text : tokenizer_base_token(t, id);
    d->text.size = 0;
    d->run_tokens++;
    const bool ok = t->model == MODEL_SENTENCEPIECE
                        ? spm_decode_piece(t->spm, &d->spm, id, token, &d->text)
                        : byte_level_decode(token, &d->undecoded) && decode_lossy(d, false);
    return ok && emit_run(t, d, &d->text, out);
}

/* last: an empty last run still counts as a part, so a space ends the text. */
static bool end_run(const llava_tokenizer *t, slow_decoder *d, bool last, bytes *out) {
    d->text.size = 0;
    bool ok = emit_waiting(t, d, out);
    ok = ok && (t->model == MODEL_SENTENCEPIECE ? spm_decode_finish(&d->spm, &d->text)
                                                : decode_lossy(d, true));
    ok = ok && emit_run(t, d, &d->text, out);
    if (ok && last && d->run_tokens && !d->run_has_text && d->n_parts && joins_with_space(t))
        ok = bytes_append(out, " ", 1);
    if (d->run_has_text) d->n_parts++;
    d->spm = (spm_decoder){0};
    d->run_tokens = 0;
    d->run_has_text = false;
    d->after_special = false;
    return ok;
}

static bool set_apart(const llava_tokenizer *t, slow_decoder *d, span token, bytes *out) {
    if (!end_run(t, d, false, out)) return false;
    if (d->n_parts++ && joins_with_space(t) && !bytes_append(out, " ", 1)) return false;
    if (t->class != CLASS_GEMMA) return bytes_append(out, token.data, token.size);
    return replace_append(token, span_of(SPACE_SYMBOL), span_of(" "), out);
}

bool slow_decoder_push(const llava_tokenizer *t, slow_decoder *d, int32_t id, bool skip,
                       bytes *out) {
    const added_token *added = tokenizer_added(t, id);
    if (!added) {
        const span token = tokenizer_base_token(t, id);
        if (!token.data) return true;
        added = tokenizer_added_text(t, token);
    }
    if (added && skip && (added->named || added->additional)) return true;
    if (added && added->separate) return set_apart(t, d, added->text, out);
    return run_token(t, d, id, added, skip, out);
}

bool slow_decoder_finish(const llava_tokenizer *t, slow_decoder *d, bytes *out) {
    return end_run(t, d, true, out);
}
