/* SPDX-License-Identifier: Apache-2.0
 *
 * Encoding as the Rust library does it: added tokens in the raw text, normalising, added tokens in
 * the normalised text, words, model, post-processor.
 */
#include <stdlib.h>

#include "text/tokenizer.h"

typedef struct fast_encoding {
    const llava_tokenizer *t;
    ids *out;
    word_list words, spare;
    bytes normalized;
    bpe_scratch scratch;
    llava_error *err;
} fast_encoding;

/* What to do with the text between added tokens. */
typedef llava_status (*segment_fn)(fast_encoding *e, const char *text, size_t size, bool at_start);

static bool word_before(const char *text, size_t at) {
    int32_t code;
    if (!at) return false;
    const size_t start = utf8_last(text, at);
    utf8_decode(text + start, at - start, &code);
    return char_is_word(code);
}

static bool word_after(const char *text, size_t size, size_t at) {
    int32_t code;
    if (at == size) return false;
    utf8_decode(text + at, size - at, &code);
    return char_is_word(code);
}

static bool rejected(const llava_tokenizer *t, const added_token *token, const char *text,
                     size_t size, size_t start, size_t end) {
    if (t->split_special_tokens && token->special) return true;
    return token->single_word && (word_before(text, start) || word_after(text, size, end));
}

/* Leftmost-longest matches; a rejected match is not searched again for a shorter one. */
static llava_status split_added(fast_encoding *e, const prefix_index *index, const char *text,
                                size_t size, bool at_start, segment_fn segment) {
    size_t done = 0;
    for (size_t at = 0; at < size && index->count;) {
        const uint8_t byte = (uint8_t)text[at];
        size_t length = 0;
        const int32_t found = index->first[byte] == index->first[byte + 1]
                                  ? -1
                                  : prefix_longest(index, text + at, size - at, &length);
        if (found < 0) {
            at++;
            continue;
        }
        const added_token *token = &e->t->added[found];
        size_t start = at, end = at + length;
        at = end;
        if (rejected(e->t, token, text, size, start, end)) continue;
        if (token->lstrip) {
            start -= spaces_at_end(text, start, false);
            if (start < done) start = done;
        }
        if (token->rstrip) end += spaces_at_start(text + end, size - end, false);
        if (start > done) LLAVA_TRY(segment(e, text + done, start - done, at_start && done == 0));
        if (!ids_append(e->out, &token->id, 1)) return llava_fail_memory(e->err, 4, "token ids");
        done = end;
    }
    return done < size ? segment(e, text + done, size - done, at_start && done == 0) : LLAVA_OK;
}

static llava_status encode_word(fast_encoding *e, const char *text, size_t size) {
    if (e->t->model == MODEL_UNIGRAM)
        return unigram_encode(&e->t->unigram, &e->t->vocab, text, size, e->out, e->err);
    return bpe_encode(&e->t->bpe, &e->t->vocab, &e->scratch, (span){text, size}, e->out, e->err);
}

static llava_status encode_segment(fast_encoding *e, const char *text, size_t size, bool at_start) {
    if (!e->t->pre_tokenizer.n_steps) return encode_word(e, text, size);
    LLAVA_TRY(pre_tokenizer_run(&e->t->pre_tokenizer, (span){text, size}, at_start, &e->words,
                                &e->spare, e->err));
    for (size_t i = 0; i < e->words.count; i++)
        LLAVA_TRY(
            encode_word(e, e->words.text.data + e->words.items[i].start, e->words.items[i].size));
    return LLAVA_OK;
}

static llava_status normalize_segment(fast_encoding *e, const char *text, size_t size,
                                      bool at_start) {
    if (!e->t->normalizer.n_steps)
        return split_added(e, &e->t->normalized, text, size, at_start, encode_segment);
    e->normalized.size = 0;
    LLAVA_TRY(normalizer_run(&e->t->normalizer, text, size, &e->normalized, e->err));
    return split_added(e, &e->t->normalized, e->normalized.data, e->normalized.size, at_start,
                       encode_segment);
}

llava_status tokenizer_encode_fast(const llava_tokenizer *t, const char *text, size_t size,
                                   ids *out, llava_error *err) {
    fast_encoding e = {.t = t, .out = out, .err = err};
    const size_t from = out->count;
    llava_status status = split_added(&e, &t->raw, text, size, true, normalize_segment);
    if (status == LLAVA_OK && !post_processor_run(&t->post_processor, out, from))
        status = llava_fail_memory(err, 4, "token ids");
    word_list_free(&e.words);
    word_list_free(&e.spare);
    bytes_free(&e.normalized);
    bpe_scratch_free(&e.scratch);
    return status;
}
