/* SPDX-License-Identifier: Apache-2.0
 *
 * An answer grows by ids; its text becomes final a little later, when it can neither be part of an
 * unfinished character nor of a stop text.
 */
#include <stdlib.h>

#include "answer.h"

/** Decoding a broken byte gives three (U+FFFD), joining tokens can add a space. */
#define BYTES_PER_TOKEN(longest) (3 * (longest) + 2)
#define USUAL_BYTES_PER_TOKEN    ((size_t)32)

llava_status answer_new(const llava_tokenizer *tokenizer, const answer_settings *settings,
                        size_t n_prefix, size_t longest_token, answer *out, llava_error *err) {
    answer a = {.n_prefix = n_prefix};
    const size_t n = (size_t)settings->max_new_tokens;
    const size_t most = BYTES_PER_TOKEN(longest_token);
    const size_t usual = most < USUAL_BYTES_PER_TOKEN ? most : USUAL_BYTES_PER_TOKEN;
    size_t n_text = 0;
    llava_status status = LLAVA_OK;
    a.ids = array_new(n_prefix + n + 1, sizeof *a.ids);
    if (!a.ids || !size_mul(n, usual, &n_text) || !bytes_reserve(&a.text, n_text + 16 * most)) {
        status = llava_fail_memory(err, n_text + (n_prefix + n) * sizeof *a.ids, "an answer");
        goto failed;
    }
    status = text_stream_new(tokenizer, !settings->keep_special_tokens, &a.stream, err);
    if (status == LLAVA_OK) status = text_stream_reserve(a.stream, 4 * most, err);
    if (status != LLAVA_OK) goto failed;
    *out = a;
    return LLAVA_OK;
failed:
    answer_free(&a);
    return status;
}

void answer_free(answer *a) {
    free(a->ids);
    text_stream_free(&a->stream);
    bytes_free(&a->text);
    *a = (answer){0};
}

static void cut(answer *a, size_t size) {
    if (size >= a->text.size) return;
    a->text.size = size;
    a->text.data[size] = '\0';
}

static void look_for_stop(answer *a, const answer_settings *settings) {
    const stop_list *stops = &settings->stops;
    if (stops->count == 0) return;
    const size_t at = stop_list_find(stops, a->text.data, a->text.size, a->searched);
    if (at < a->text.size) {
        cut(a, at);
        a->stopped = true;
    } else if (a->text.size >= stops->longest) {
        a->searched = a->text.size - stops->longest + 1;
    }
}

/** Shows text up to `size`. False: the callback wants no more. */
static bool show(answer *a, const answer_settings *settings, size_t size) {
    if (size <= a->emitted) return true;
    const char *piece = a->text.data + a->emitted;
    const size_t piece_size = size - a->emitted;
    a->emitted = size;
    return !settings->on_text || settings->on_text(settings->user, piece, piece_size);
}

static llava_status append(answer *a, const answer_settings *settings, int32_t id,
                           llava_error *err) {
    a->ids[a->n_prefix + a->n_ids++] = id;
    if (a->stopped) return LLAVA_OK;
    LLAVA_TRY(text_stream_push(a->stream, id, &a->text, err));
    look_for_stop(a, settings);
    return LLAVA_OK;
}

static llava_status finish_text(answer *a, const answer_settings *settings, llava_error *err) {
    if (a->stopped) return LLAVA_OK;
    LLAVA_TRY(text_stream_finish(a->stream, &a->text, err));
    look_for_stop(a, settings);
    return LLAVA_OK;
}

llava_status answer_end(answer *a, const answer_settings *settings, llava_finish_reason reason,
                        llava_error *err) {
    if (a->finish_reason != LLAVA_FINISH_NONE) return LLAVA_OK;
    a->finish_reason = reason;
    if (reason == LLAVA_FINISH_CANCELLED) {
        cut(a, a->emitted); /* the pieces shown add up to the text */
        return LLAVA_OK;
    }
    LLAVA_TRY(finish_text(a, settings, err));
    show(a, settings, a->text.size);
    return LLAVA_OK;
}

static bool is_end(const answer_settings *settings, int32_t id) {
    for (size_t i = 0; i < settings->eos.count; i++)
        if (settings->eos.data[i] == id) return true;
    return false;
}

llava_status answer_push(answer *a, const answer_settings *settings, int32_t id, llava_error *err) {
    LLAVA_TRY(append(a, settings, id, err));
    if (is_end(settings, id)) return answer_end(a, settings, LLAVA_FINISH_EOS, err);
    if (a->stopped) return answer_end(a, settings, LLAVA_FINISH_STOP, err);
    if (a->n_ids >= (size_t)settings->max_new_tokens)
        return answer_end(a, settings, LLAVA_FINISH_LENGTH, err);
    const size_t hold = stop_list_hold(&settings->stops, a->text.data, a->text.size);
    if (!show(a, settings, a->text.size - hold))
        return answer_end(a, settings, LLAVA_FINISH_CANCELLED, err);
    return LLAVA_OK;
}

llava_status answer_set(answer *a, const answer_settings *settings, const int32_t *list,
                        size_t count, bool ended, llava_error *err) {
    for (size_t i = 0; i < count; i++) LLAVA_TRY(append(a, settings, list[i], err));
    LLAVA_TRY(finish_text(a, settings, err));
    llava_finish_reason reason = ended ? LLAVA_FINISH_EOS : LLAVA_FINISH_LENGTH;
    if (a->stopped) reason = LLAVA_FINISH_STOP;
    a->finish_reason = reason;
    show(a, settings, a->text.size);
    return LLAVA_OK;
}
