/* SPDX-License-Identifier: Apache-2.0
 *
 * Running a decoder token by token. Each step gets either tokens or, behind a step that joins all
 * tokens into one, parts of that one token. A step passes on what later tokens cannot change.
 */
#include <stdlib.h>

#include "text/text_components.h"
#include "text/text_filter.h"

bool decoder_run_start(decoder_run *run, const token_decoder *decoder) {
    *run = (decoder_run){.decoder = decoder,
                         .stages = array_new(decoder->n_steps, sizeof(decoder_stage))};
    return run->stages != NULL;
}

void decoder_run_free(decoder_run *run) {
    for (size_t i = 0; run->stages && i < run->decoder->n_steps; i++) {
        bytes_free(&run->stages[i].held);
        bytes_free(&run->stages[i].work);
    }
    free(run->stages);
    *run = (decoder_run){0};
}

static llava_status no_memory(decoder_run *run) {
    return llava_fail_memory(run->err, 0, "decoding tokens");
}

static llava_status pass(decoder_run *run, size_t step, span token, bytes *out);

static bool hold(decoder_stage *stage, span token) {
    return bytes_append(&stage->held, token.data, token.size);
}

/* ---------------------------------------------------------------- steps on whole tokens */

static llava_status pass_work(decoder_run *run, size_t at, bytes *out) {
    const bytes *work = &run->stages[at].work;
    return pass(run, at + 1, (span){work->data ? work->data : "", work->size}, out);
}

/* Passes on the token with one text in place of another. */
static llava_status pass_replaced(decoder_run *run, size_t at, span token, span from, span to,
                                  bytes *out) {
    bytes *work = &run->stages[at].work;
    work->size = 0;
    if (!replace_append(token, from, to, work)) return no_memory(run);
    return pass_work(run, at, out);
}

static llava_status replace_token(decoder_run *run, size_t at, span token, bytes *out) {
    const decoder_step *step = &run->decoder->steps[at];
    if (step->pattern->kind == PATTERN_LITERAL)
        return pass_replaced(run, at, token, step->pattern->literal, step->text, out);
    bytes *work = &run->stages[at].work;
    cut_list cuts = {0};
    llava_status status = pattern_cut(step->pattern, token.data, token.size, &cuts, run->err);
    work->size = 0;
    for (size_t i = 0; status == LLAVA_OK && i < cuts.count; i++) {
        const cut c = cuts.items[i];
        const span part = c.is_match ? step->text : (span){token.data + c.start, c.end - c.start};
        if (!bytes_append(work, part.data, part.size)) status = no_memory(run);
    }
    cut_list_free(&cuts);
    return status == LLAVA_OK ? pass_work(run, at, out) : status;
}

static bool starts_with(span text, span prefix) {
    return text.size >= prefix.size && memcmp(text.data, prefix.data, prefix.size) == 0;
}

static bool ends_with(span text, span suffix) {
    return text.size >= suffix.size &&
           memcmp(text.data + text.size - suffix.size, suffix.data, suffix.size) == 0;
}

static span strip_token(const decoder_step *step, span token) {
    for (size_t i = 0; i < step->left && starts_with(token, step->text); i++) {
        token.data += step->text.size;
        token.size -= step->text.size;
    }
    for (size_t i = 0; i < step->right && ends_with(token, step->text); i++)
        token.size -= step->text.size;
    return token;
}

static int byte_of_token(span token) {
    if (token.size != 6 || memcmp(token.data, "<0x", 3) != 0 || token.data[5] != '>') return -1;
    int value = 0;
    for (int i = 3; i < 5; i++) {
        const char c = token.data[i];
        if (c >= '0' && c <= '9')
            value = value * 16 + c - '0';
        else if (c >= 'A' && c <= 'F')
            value = value * 16 + c - 'A' + 10;
        else if (c >= 'a' && c <= 'f')
            value = value * 16 + c - 'a' + 10;
        else
            return -1;
    }
    return value;
}

/* A run of byte tokens that has ended: one text, or a replacement for every byte of it. */
static llava_status flush_bytes(decoder_run *run, size_t at, bytes *out) {
    decoder_stage *stage = &run->stages[at];
    const size_t size = stage->held.size;
    stage->held.size = 0;
    if (!size) return LLAVA_OK;
    if (utf8_valid(stage->held.data, size))
        return pass(run, at + 1, (span){stage->held.data, size}, out);
    for (size_t i = 0; i < size; i++)
        LLAVA_TRY(pass(run, at + 1, span_of(REPLACEMENT_CHARACTER), out));
    return LLAVA_OK;
}

static llava_status fall_back(decoder_run *run, size_t at, span token, bytes *out) {
    const int byte = byte_of_token(token);
    const char c = (char)byte;
    if (byte >= 0) return hold(&run->stages[at], (span){&c, 1}) ? LLAVA_OK : no_memory(run);
    LLAVA_TRY(flush_bytes(run, at, out));
    return pass(run, at + 1, token, out);
}

/* Spaces for the replacement character; the first token of all drops them unless `never`. */
static llava_status metaspace(decoder_run *run, size_t at, span token, bytes *out) {
    const decoder_step *step = &run->decoder->steps[at];
    const bool drops = run->stages[at].n_tokens == 1 && !step->never;
    return pass_replaced(run, at, token, step->text, span_of(drops ? "" : " "), out);
}

static llava_status word_piece(decoder_run *run, size_t at, span token, bytes *out) {
    const decoder_step *step = &run->decoder->steps[at];
    bytes text = {0}, clean = {0};
    text_filter filter = {0};
    bool ok = true;
    if (run->stages[at].n_tokens > 1) {
        if (starts_with(token, step->text)) {
            token.data += step->text.size;
            token.size -= step->text.size;
        } else {
            ok = bytes_append(&text, " ", 1);
        }
    }
    ok = ok && bytes_append(&text, token.data, token.size);
    if (step->cleanup)
        ok = ok &&
             text_filter_push(&filter, word_piece_rules, n_word_piece_rules, text.data, text.size,
                              &clean) &&
             text_filter_finish(&filter, word_piece_rules, n_word_piece_rules, &clean);
    const bytes *result = step->cleanup ? &clean : &text;
    const llava_status status =
        ok ? pass(run, at + 1, (span){result->data ? result->data : "", result->size}, out)
           : no_memory(run);
    bytes_free(&text);
    bytes_free(&clean);
    return status;
}

/* The suffix of the last token vanishes, that of others is a space: one token is held back. */
static llava_status release_bpe(decoder_run *run, size_t at, bool last, bytes *out) {
    decoder_stage *stage = &run->stages[at];
    const span token = {stage->held.data ? stage->held.data : "", stage->held.size};
    stage->held.size = 0;
    return pass_replaced(run, at, token, run->decoder->steps[at].text, span_of(last ? "" : " "),
                         out);
}

/* ---------------------------------------------------------------- steps that join */

/* Passes on the held bytes as characters, an undecided end stays. */
static llava_status pass_lossy(decoder_run *run, size_t at, bool final, bytes *out) {
    decoder_stage *stage = &run->stages[at];
    size_t done = 0;
    while (done < stage->held.size) {
        bool bad;
        size_t length = utf8_lossy_next(stage->held.data + done, stage->held.size - done, &bad);
        if (!length && !final) break;
        if (!length) length = stage->held.size - done;
        const span part =
            bad ? span_of(REPLACEMENT_CHARACTER) : (span){stage->held.data + done, length};
        LLAVA_TRY(pass(run, at + 1, part, out));
        done += length;
    }
    stage->held.size -= done;
    if (done) memmove(stage->held.data, stage->held.data + done, stage->held.size);
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- steps on parts of one token */

/* Characters that may yet turn out to be the last ones are held back. */
static llava_status strip_part(decoder_run *run, size_t at, span part, bytes *out) {
    const decoder_step *step = &run->decoder->steps[at];
    decoder_stage *stage = &run->stages[at];
    while (!stage->text_started && stage->n_stripped < step->left &&
           starts_with(part, step->text)) {
        part.data += step->text.size;
        part.size -= step->text.size;
        stage->n_stripped++;
    }
    if (!part.size) return LLAVA_OK;
    stage->text_started = true;
    if (!step->right) return pass(run, at + 1, part, out);
    if (!hold(stage, part)) return no_memory(run);
    size_t keep = 0;
    span text = {stage->held.data, stage->held.size};
    for (size_t i = 0; i < step->right && ends_with(text, step->text); i++) {
        text.size -= step->text.size;
        keep += step->text.size;
    }
    const llava_status status = pass(run, at + 1, text, out);
    memmove(stage->held.data, stage->held.data + text.size, keep);
    stage->held.size = keep;
    return status;
}

static bool streams_parts(const decoder_step *step) {
    if (step->kind == DECODER_FUSE || step->kind == DECODER_STRIP) return true;
    /* one character is never torn apart, so replacing it needs no look-ahead */
    int32_t code;
    return step->kind == DECODER_REPLACE && step->pattern->kind == PATTERN_LITERAL &&
           step->pattern->literal.size &&
           utf8_decode(step->pattern->literal.data, step->pattern->literal.size, &code) ==
               step->pattern->literal.size;
}

/* ---------------------------------------------------------------- driving */

static llava_status run_whole(decoder_run *run, size_t at, span token, bytes *out) {
    const decoder_step *step = &run->decoder->steps[at];
    decoder_stage *stage = &run->stages[at];
    stage->n_tokens++;
    switch (step->kind) {
    case DECODER_REPLACE: return replace_token(run, at, token, out);
    case DECODER_BYTE_FALLBACK: return fall_back(run, at, token, out);
    case DECODER_FUSE: return pass(run, at + 1, token, out);
    case DECODER_STRIP: return pass(run, at + 1, strip_token(step, token), out);
    case DECODER_METASPACE: return metaspace(run, at, token, out);
    case DECODER_WORD_PIECE: return word_piece(run, at, token, out);
    case DECODER_JOIN:
        if (stage->n_tokens > 1) LLAVA_TRY(pass(run, at + 1, span_of(" "), out));
        return pass(run, at + 1, token, out);
    case DECODER_BYTE_LEVEL:
        if (!byte_level_decode(token, &stage->held)) return no_memory(run);
        return step->fused ? LLAVA_OK : pass_lossy(run, at, false, out);
    case DECODER_BPE:
        if (stage->n_tokens > 1) LLAVA_TRY(release_bpe(run, at, false, out));
        return hold(stage, token) ? LLAVA_OK : no_memory(run);
    }
    return LLAVA_OK;
}

/* Gives a token, or a part of the one token, to step `at`; behind the last step it is text. */
static llava_status pass(decoder_run *run, size_t at, span token, bytes *out) {
    if (at == run->decoder->n_steps)
        return bytes_append(out, token.data, token.size) ? LLAVA_OK : no_memory(run);
    const decoder_step *step = &run->decoder->steps[at];
    if (!step->fused) return run_whole(run, at, token, out);
    if (step->kind == DECODER_STRIP) return strip_part(run, at, token, out);
    if (streams_parts(step)) return run_whole(run, at, token, out);
    return hold(&run->stages[at], token) ? LLAVA_OK : no_memory(run);
}

llava_status decoder_run_token(decoder_run *run, span token, bytes *out, llava_error *err) {
    run->err = err;
    return pass(run, 0, token, out);
}

/* A step that waited for the end of its one token. */
static llava_status finish_held(decoder_run *run, size_t at, bytes *out) {
    bytes token = run->stages[at].held;
    run->stages[at].held = (bytes){0};
    const llava_status status =
        run_whole(run, at, (span){token.data ? token.data : "", token.size}, out);
    bytes_free(&token);
    return status;
}

static llava_status finish_step(decoder_run *run, size_t at, bytes *out) {
    const decoder_step *step = &run->decoder->steps[at];
    if (step->fused && !streams_parts(step)) LLAVA_TRY(finish_held(run, at, out));
    switch (step->kind) {
    case DECODER_BYTE_FALLBACK: return flush_bytes(run, at, out);
    case DECODER_BYTE_LEVEL: return pass_lossy(run, at, true, out);
    case DECODER_BPE: return run->stages[at].n_tokens ? release_bpe(run, at, true, out) : LLAVA_OK;
    default: return LLAVA_OK; /* Strip's held characters are the ones to cut */
    }
}

llava_status decoder_run_finish(decoder_run *run, bytes *out, llava_error *err) {
    run->err = err;
    for (size_t at = 0; at < run->decoder->n_steps; at++) LLAVA_TRY(finish_step(run, at, out));
    return LLAVA_OK;
}
