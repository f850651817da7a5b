/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages and pictures -> the parts of a prompt.
 */
#ifndef LLAVA_GENERATE_QUESTION_H
#define LLAVA_GENERATE_QUESTION_H

#include "base/base.h"
#include "text/text.h"

typedef struct question {
    const char *template_name;
    const llava_message *messages;
    size_t n_messages;
    const llava_image *const *images;
    size_t n_images;
    const char *chat_template; /* the checkpoint's own, or NULL */
    const llava_tokenizer *tokenizer;
    bool wrap; /* mm_use_im_start_end: <im_start> and <im_end> around every placeholder */
} question;

typedef struct rendered_question {
    const conversation_template *conversation; /* NULL: the checkpoint's own template */
    bytes prompt;                              /* what the parts' text points into */
    llava_part *parts;
    size_t n_parts;
} rendered_question;

llava_status question_render(const question *q, rendered_question *out, llava_error *err);
void rendered_question_free(rendered_question *rendered);

#endif
