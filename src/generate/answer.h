/* SPDX-License-Identifier: Apache-2.0
 *
 * The answer of one session as it grows: ids, text, what has been shown, why it ended.
 */
#ifndef LLAVA_GENERATE_ANSWER_H
#define LLAVA_GENERATE_ANSWER_H

#include "base/base.h"
#include "settings.h"
#include "text/text.h"

typedef struct answer {
    int32_t *ids;    /* [n_prefix + max_new_tokens] */
    size_t n_prefix; /* prompt ids in front, for the processors of plain language models */
    size_t n_ids;    /* generated ids */
    text_stream *stream;
    bytes text;
    size_t emitted;  /* bytes handed to on_text */
    size_t searched; /* no stop text begins before this */
    bool stopped;    /* a stop text was found: nothing is appended to text any more */
    llava_finish_reason finish_reason;
} answer;

/** Reserves everything an answer of max_new_tokens takes. longest_token is in bytes. */
llava_status answer_new(const llava_tokenizer *tokenizer, const answer_settings *settings,
                        size_t n_prefix, size_t longest_token, answer *out, llava_error *err);
void answer_free(answer *a);

/** Appends an id and its text, stops and streams. finish_reason tells whether to go on. */
llava_status answer_push(answer *a, const answer_settings *settings, int32_t id, llava_error *err);
/** Ends the answer: the rest of the text becomes final, unless it was cancelled. A reason that is
 *  there already stays. */
llava_status answer_end(answer *a, const answer_settings *settings, llava_finish_reason reason,
                        llava_error *err);
/** The text of ids that were chosen all at once (beams): fills ids, text and finish_reason. The
 *  list may already lie where the answer keeps its ids. */
llava_status answer_set(answer *a, const answer_settings *settings, const int32_t *list,
                        size_t count, bool ended, llava_error *err);

#endif
