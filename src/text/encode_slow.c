/* SPDX-License-Identifier: Apache-2.0
 *
 * Encoding as the Python classes do it (transformers 4.40: PreTrainedTokenizer.tokenize, and
 * LlamaTokenizer, GemmaTokenizer, Qwen2Tokenizer).
 */
#include <stdlib.h>

#include "text/tokenizer.h"

/* The list `tokens` of PreTrainedTokenizer.tokenize: added tokens and the text between them. */
typedef struct text_parts {
    span *items;
    size_t count, capacity;
    arena *memory; /* parts glued together; made on demand */
} text_parts;

static bool add_part(text_parts *parts, const char *text, size_t size) {
    if (!size) return true;
    if (parts->count == parts->capacity) {
        const size_t capacity = parts->capacity ? 2 * parts->capacity : 16;
        span *items = realloc(parts->items, capacity * sizeof *items);
        if (!items) return false;
        parts->items = items;
        parts->capacity = capacity;
    }
    parts->items[parts->count++] = (span){text, size};
    return true;
}

static bool split_parts(const llava_tokenizer *t, const char *text, size_t size,
                        text_parts *parts) {
    const prefix_index *index = &t->raw;
    size_t done = 0;
    for (size_t at = 0; at < size && index->count && !t->split_special_tokens;) {
        const uint8_t byte = (uint8_t)text[at];
        size_t length = 0;
        if (index->first[byte] == index->first[byte + 1] ||
            prefix_longest(index, text + at, size - at, &length) < 0) {
            at++;
            continue;
        }
        if (!add_part(parts, text + done, at - done) || !add_part(parts, text + at, length))
            return false;
        at += length;
        done = at;
    }
    return add_part(parts, text + done, size - done);
}

static bool glue(text_parts *parts, span left, span right, span *whole) {
    whole->size = left.size + right.size;
    if (left.data + left.size == right.data) {
        whole->data = left.data;
        return true;
    }
    if (!parts->memory) parts->memory = arena_new();
    char *copy = parts->memory ? arena_alloc(parts->memory, whole->size) : NULL;
    if (!copy) return false;
    memcpy(copy, left.data, left.size);
    memcpy(copy + left.size, right.data, right.size);
    whole->data = copy;
    return true;
}

/* lstrip, rstrip and single_word of the added token at i, on its neighbours. */
static bool apply_token_flags(const added_token *token, text_parts *parts, size_t i) {
    span none = {"", 0};
    span *part = &parts->items[i];
    span *before = i ? part - 1 : &none, *after = i + 1 < parts->count ? part + 1 : &none;
    const span left = *before, right = *after;
    if (token->rstrip) {
        const size_t n = spaces_at_start(after->data, after->size, true);
        *after = (span){after->data + n, after->size - n};
    }
    if (token->lstrip) before->size -= spaces_at_end(before->data, before->size, true);
    if (!token->single_word) return true;
    if (left.size && left.data[left.size - 1] != ' ') {
        if (!glue(parts, *before, *part, before)) return false;
        part->size = 0;
    } else if (right.size && right.data[0] != ' ') {
        if (!glue(parts, *part, *after, after)) return false;
        part->size = 0;
    }
    return true;
}

static bool cut_parts(const llava_tokenizer *t, const char *text, size_t size, text_parts *parts) {
    if (!split_parts(t, text, size, parts)) return false;
    for (size_t i = 0; i < parts->count && !t->split_special_tokens; i++) {
        const added_token *token = tokenizer_added_text(t, parts->items[i]);
        if (token && !apply_token_flags(token, parts, i)) return false;
    }
    return true;
}

static void text_parts_free(text_parts *parts) {
    free(parts->items);
    arena_free(&parts->memory);
}

/* ---------------------------------------------------------------- SentencePiece classes */

static bool starts_with_space(span text) {
    return (text.size && text.data[0] == ' ') ||
           (text.size >= SPACE_SYMBOL_SIZE &&
            memcmp(text.data, SPACE_SYMBOL, SPACE_SYMBOL_SIZE) == 0);
}

/* LlamaTokenizer._tokenize with legacy false: the unknown token's text protects leading spaces. */
static llava_status encode_protected(const llava_tokenizer *t, span text, ids *out,
                                     llava_error *err) {
    const added_token *unk = tokenizer_added(t, t->named[NAMED_UNK]);
    bytes whole = {0};
    ids pieces = {0};
    llava_status status = LLAVA_OK;
    if ((unk && !bytes_append(&whole, unk->text.data, unk->text.size)) ||
        !bytes_append(&whole, text.data, text.size))
        status = llava_fail_memory(err, text.size, "encoding text");
    if (status == LLAVA_OK)
        status = spm_encode(t->spm, t->spm->add_dummy_prefix, whole.data, whole.size, &pieces, err);
    const size_t skip = pieces.count >= t->unk_pieces ? t->unk_pieces : 0;
    if (status == LLAVA_OK && !ids_append(out, pieces.data + skip, pieces.count - skip))
        status = llava_fail_memory(err, text.size, "token ids");
    bytes_free(&whole);
    ids_free(&pieces);
    return status;
}

static llava_status encode_chunk(const llava_tokenizer *t, span text, ids *out, llava_error *err) {
    const size_t from = out->count;
    const bool protects = t->class == CLASS_LLAMA && !t->legacy && starts_with_space(text);
    if (protects)
        LLAVA_TRY(encode_protected(t, text, out, err));
    else
        LLAVA_TRY(spm_encode(t->spm, t->spm->add_dummy_prefix, text.data, text.size, out, err));
    for (size_t i = from; i < out->count; i++) out->data[i] = tokenizer_slow_id(t, out->data[i]);
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- byte-level classes */

static llava_status encode_words(const llava_tokenizer *t, span text, bpe_scratch *scratch,
                                 ids *out, llava_error *err) {
    const pattern_kind kind = t->class == CLASS_QWEN2 ? PATTERN_QWEN2 : PATTERN_GPT2;
    bytes spelled = {0};
    llava_status status = LLAVA_OK;
    for (size_t at = 0; status == LLAVA_OK && at < text.size;) {
        const size_t end = word_end(kind, text.data, text.size, at);
        spelled.size = 0;
        if (!byte_level_append(text.data + at, end - at, &spelled))
            status = llava_fail_memory(err, end - at, "encoding text");
        else
            status = bpe_encode(&t->bpe, &t->vocab, scratch, (span){spelled.data, spelled.size},
                                out, err);
        at = end;
    }
    bytes_free(&spelled);
    return status;
}

/* ---------------------------------------------------------------- whole text */

/* legacy false: a lone space symbol at the start is taken back when a special token follows. */
static bool append_added(const llava_tokenizer *t, const added_token *token, ids *out,
                         size_t from) {
    if (t->class == CLASS_LLAMA && !t->legacy && out->count == from + 1 &&
        (token->named || token->additional) &&
        span_equal(tokenizer_base_token(t, out->data[from]), span_of(SPACE_SYMBOL)))
        out->count = from;
    return ids_append(out, &token->id, 1);
}

static llava_status encode_parts(const llava_tokenizer *t, const text_parts *parts, ids *out,
                                 llava_error *err) {
    bpe_scratch scratch = {0};
    const size_t from = out->count;
    llava_status status = LLAVA_OK;
    for (size_t i = 0; status == LLAVA_OK && i < parts->count; i++) {
        const span part = parts->items[i];
        const added_token *token = t->split_special_tokens ? NULL : tokenizer_added_text(t, part);
        if (!part.size) continue;
        if (token) {
            if (!append_added(t, token, out, from)) status = llava_fail_memory(err, 4, "token ids");
        } else if (t->model == MODEL_SENTENCEPIECE) {
            status = encode_chunk(t, part, out, err);
        } else {
            status = encode_words(t, part, &scratch, out, err);
        }
    }
    bpe_scratch_free(&scratch);
    return status;
}

/* What the class does to the text before splitting it. */
static bool prepare_text(const llava_tokenizer *t, const char *text, size_t size, bytes *out) {
    if (t->class == CLASS_QWEN2) return normal_form_append(FORM_NFC, text, size, out);
    if (t->class != CLASS_LLAMA || t->legacy || !size) return bytes_append(out, text, size);
    if (t->add_prefix_space && !bytes_append(out, SPACE_SYMBOL, SPACE_SYMBOL_SIZE)) return false;
    return replace_append((span){text, size}, span_of(SPACE_SYMBOL), span_of(" "), out);
}

llava_status tokenizer_encode_slow(const llava_tokenizer *t, const char *text, size_t size,
                                   ids *out, llava_error *err) {
    bytes prepared = {0};
    text_parts parts = {0};
    llava_status status = LLAVA_OK;
    const int32_t bos = t->add_bos ? t->named[NAMED_BOS] : -1;
    const int32_t eos = t->add_eos ? t->named[NAMED_EOS] : -1;
    const bool wraps = t->class == CLASS_LLAMA || t->class == CLASS_GEMMA;
    if (wraps && bos >= 0 && !ids_append(out, &bos, 1))
        return llava_fail_memory(err, 4, "token ids");
    if (!prepare_text(t, text, size, &prepared) ||
        !cut_parts(t, prepared.data ? prepared.data : "", prepared.size, &parts))
        status = llava_fail_memory(err, size, "encoding text");
    if (status == LLAVA_OK) status = encode_parts(t, &parts, out, err);
    if (status == LLAVA_OK && wraps && eos >= 0 && !ids_append(out, &eos, 1))
        status = llava_fail_memory(err, 4, "token ids");
    text_parts_free(&parts);
    bytes_free(&prepared);
    return status;
}

llava_status tokenizer_encode(const llava_tokenizer *tokenizer, const char *text, size_t size,
                              ids *out, llava_error *err) {
    bytes clean = {0};
    if (!utf8_valid(text, size)) {
        if (!utf8_sanitize(text, size, &clean)) {
            bytes_free(&clean);
            return llava_fail_memory(err, size, "encoding text");
        }
        text = clean.data;
        size = clean.size;
    }
    const size_t before = out->count;
    const llava_status status = tokenizer->fast
                                    ? tokenizer_encode_fast(tokenizer, text, size, out, err)
                                    : tokenizer_encode_slow(tokenizer, text, size, out, err);
    if (status != LLAVA_OK) out->count = before;
    bytes_free(&clean);
    return status;
}
