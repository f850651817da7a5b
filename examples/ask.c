/* SPDX-License-Identifier: Apache-2.0
 *
 * Asks a checkpoint about a picture and shows the answer as it is written:
 *
 *     ask MODEL_DIRECTORY PICTURE QUESTION [FOLLOW-UP ...]
 */
#include <stdio.h>
#include <stdlib.h>

#include "llava.h"

static bool show(void *user, const char *text, size_t size) {
    fwrite(text, 1, size, user);
    fflush(user);
    return true;
}

/** Appends the answer to the conversation, so that the next question follows it. */
static char *copy_answer(const llava_result *result) {
    char *copy = malloc(result->text_size + 1);
    if (!copy) return NULL;
    for (size_t i = 0; i < result->text_size; i++) copy[i] = result->text[i];
    copy[result->text_size] = '\0';
    return copy;
}

/** Asks each question in turn; the whole conversation is fed every time, and what the session's
 *  cache holds of it is not computed again. */
static llava_status converse(llava_session *session, const llava_image *image, char **questions,
                             size_t n_questions, llava_error *err) {
    const llava_generate_options options = {.max_new_tokens = 256, .on_text = show, .user = stdout};
    llava_status status = LLAVA_OK;
    llava_message *messages = calloc(2 * n_questions, sizeof *messages);
    char **answers = calloc(n_questions, sizeof *answers);
    if (!messages || !answers) status = LLAVA_OUT_OF_MEMORY;
    for (size_t i = 0; status == LLAVA_OK && i < n_questions; i++) {
        const llava_result *result;
        messages[2 * i] = (llava_message){.role = 0, .text = questions[i]};
        status = llava_session_ask(session, NULL, messages, 2 * i + 1, &image, 1, err);
        if (status == LLAVA_OK) status = llava_session_generate(session, &options, &result, err);
        if (status != LLAVA_OK) break;
        printf("\n[%lld rows of prompt, %lld from the cache, %zu tokens, %.0f ms]\n",
               (long long)result->n_prompt_tokens, (long long)result->n_cached_tokens,
               result->n_ids, result->image_ms + result->prompt_ms + result->decode_ms);
        answers[i] = copy_answer(result);
        messages[2 * i + 1] = (llava_message){.role = 1, .text = answers[i]};
        if (!answers[i]) status = LLAVA_OUT_OF_MEMORY;
    }
    for (size_t i = 0; answers && i < n_questions; i++) free(answers[i]);
    free(answers);
    free(messages);
    return status;
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: %s MODEL_DIRECTORY PICTURE QUESTION [FOLLOW-UP ...]\n", argv[0]);
        return 2;
    }
    llava_error err = {0};
    llava_loaded llava = {0};
    llava_image *image = NULL;
    llava_context *context = NULL;
    llava_session *session = NULL;
    const llava_load_options options = {.model_path = argv[1]};

    llava_status status = llava_load_pretrained_model(&options, &llava, &err);
    if (status == LLAVA_OK) status = llava_image_open(argv[2], &image, &err);
    if (status == LLAVA_OK) status = llava_context_new(&llava, NULL, &context, &err);
    if (status == LLAVA_OK) status = llava_session_new(context, &session, &err);
    if (status == LLAVA_OK) status = converse(session, image, argv + 3, (size_t)argc - 3, &err);
    if (status != LLAVA_OK) fprintf(stderr, "%s: %s\n", llava_status_name(status), err.message);

    llava_session_free(&session);
    llava_context_free(&context);
    llava_image_free(&image);
    llava_loaded_close(&llava);
    return status == LLAVA_OK ? 0 : 1;
}
