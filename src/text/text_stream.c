/* SPDX-License-Identifier: Apache-2.0
 *
 * Decoding, all at once and as a stream: the same machine, so that the pieces of a stream add up
 * to the whole. Each token costs what it is long, however many came before.
 */
#include <stdlib.h>

#include "text/tokenizer.h"

struct text_stream {
    const llava_tokenizer *tokenizer;
    bool skip;
    decoder_run run; /* fast */
    slow_decoder slow;
    text_filter filter;
    bytes text; /* before clean-up */
};

static llava_status no_memory(llava_error *err) {
    return llava_fail_memory(err, 0, "decoding tokens");
}

static bool cleans_up(const llava_tokenizer *t) {
    /* GemmaTokenizer has a _decode of its own that does not */
    return t->clean_up && (t->fast || t->class != CLASS_GEMMA);
}

static llava_status stream_start(text_stream *s, const llava_tokenizer *t, bool skip,
                                 llava_error *err) {
    *s = (text_stream){.tokenizer = t, .skip = skip};
    if (t->fast && !decoder_run_start(&s->run, &t->decoder)) return no_memory(err);
    return LLAVA_OK;
}

static void stream_release(text_stream *s) {
    if (s->run.decoder) decoder_run_free(&s->run);
    slow_decoder_free(&s->slow);
    bytes_free(&s->text);
}

static llava_status push_fast(text_stream *s, int32_t id, bytes *out, llava_error *err) {
    const added_token *added = tokenizer_added(s->tokenizer, id);
    const span token = added ? added->text : tokenizer_base_token(s->tokenizer, id);
    if (!token.data) return LLAVA_OK;
    if (s->skip) {
        if (!added) added = tokenizer_added_text(s->tokenizer, token);
        if (added && added->special) return LLAVA_OK;
    }
    return decoder_run_token(&s->run, token, out, err);
}

/* final: the end; id is not used. */
static llava_status advance(text_stream *s, int32_t id, bool final, bytes *out, llava_error *err) {
    const llava_tokenizer *t = s->tokenizer;
    const bool cleans = cleans_up(t);
    bytes *text = cleans ? &s->text : out;
    s->text.size = 0;
    if (t->fast) {
        LLAVA_TRY(final ? decoder_run_finish(&s->run, text, err) : push_fast(s, id, text, err));
    } else if (!(final ? slow_decoder_finish(t, &s->slow, text)
                       : slow_decoder_push(t, &s->slow, id, s->skip, text))) {
        return no_memory(err);
    }
    if (!cleans) return LLAVA_OK;
    bool ok = text_filter_push(&s->filter, clean_up_rules, n_clean_up_rules, s->text.data,
                               s->text.size, out);
    if (ok && final) ok = text_filter_finish(&s->filter, clean_up_rules, n_clean_up_rules, out);
    return ok ? LLAVA_OK : no_memory(err);
}

llava_status text_stream_new(const llava_tokenizer *tokenizer, bool skip_special_tokens,
                             text_stream **out, llava_error *err) {
    *out = NULL;
    text_stream *s = array_new(1, sizeof *s);
    if (!s) return no_memory(err);
    const llava_status status = stream_start(s, tokenizer, skip_special_tokens, err);
    if (status != LLAVA_OK) text_stream_free(&s);
    *out = s;
    return status;
}

llava_status text_stream_reserve(text_stream *stream, size_t n_bytes, llava_error *err) {
    bool ok = bytes_reserve(&stream->text, n_bytes) && bytes_reserve(&stream->slow.text, n_bytes) &&
              bytes_reserve(&stream->slow.waiting, n_bytes) &&
              bytes_reserve(&stream->slow.undecoded, n_bytes);
    const size_t n_steps = stream->run.decoder ? stream->run.decoder->n_steps : 0;
    for (size_t i = 0; ok && i < n_steps; i++)
        ok = bytes_reserve(&stream->run.stages[i].held, n_bytes) &&
             bytes_reserve(&stream->run.stages[i].work, n_bytes);
    return ok ? LLAVA_OK : no_memory(err);
}

void text_stream_free(text_stream **stream) {
    if (!stream || !*stream) return;
    stream_release(*stream);
    free(*stream);
    *stream = NULL;
}

llava_status text_stream_push(text_stream *stream, int32_t id, bytes *out, llava_error *err) {
    return advance(stream, id, false, out, err);
}

llava_status text_stream_finish(text_stream *stream, bytes *out, llava_error *err) {
    return advance(stream, -1, true, out, err);
}

llava_status tokenizer_decode(const llava_tokenizer *tokenizer, const int32_t *list, size_t count,
                              bool skip_special_tokens, bytes *out, llava_error *err) {
    text_stream s;
    const size_t before = out->size;
    LLAVA_TRY(stream_start(&s, tokenizer, skip_special_tokens, err));
    llava_status status = LLAVA_OK;
    for (size_t i = 0; status == LLAVA_OK && i < count; i++)
        status = advance(&s, list[i], false, out, err);
    if (status == LLAVA_OK) status = advance(&s, -1, true, out, err);
    if (status != LLAVA_OK) out->size = before;
    stream_release(&s);
    return status;
}
