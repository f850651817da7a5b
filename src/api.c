/* SPDX-License-Identifier: Apache-2.0
 *
 * The public interface: arguments are checked here, then there is one call inward. The functions
 * on pictures are in the image folder, llava_version() and llava_status_name() in base.
 */
#include <stdlib.h>

#include "base/json.h"
#include "generate/generate.h"
#include "load/load.h"

/* ---------------------------------------------------------------- checks */

static llava_status is_null(llava_error *err, const char *function, const char *argument) {
    return llava_fail(err, LLAVA_BAD_ARGUMENT, "%s: %s is NULL", function, argument);
}

#define REQUIRE(argument)                                                                          \
    do {                                                                                           \
        if (!(argument)) return is_null(err, __func__, #argument);                                 \
    } while (0)
/* a list may be NULL when it is empty */
#define REQUIRE_LIST(list, count)                                                                  \
    do {                                                                                           \
        if (!(list) && (count) > 0) return is_null(err, __func__, #list);                          \
    } while (0)

/** Later versions give the reserved fields a meaning; a caller that sets them expects one. */
static llava_status check_reserved(llava_error *err, const char *function, const uint64_t *reserved,
                                   size_t count) {
    for (size_t i = 0; i < count; i++)
        if (reserved[i] != 0)
            return llava_fail(
                err, LLAVA_BAD_ARGUMENT,
                "%s: reserved[%zu] is %llu, expected 0; start from an all-zero struct", function, i,
                (unsigned long long)reserved[i]);
    return LLAVA_OK;
}

#define REQUIRE_RESERVED(options)                                                                  \
    LLAVA_TRY(check_reserved(err, __func__, (options)->reserved, LLAVA_COUNT((options)->reserved)))

static llava_status check_threads(llava_error *err, const char *function, int n_threads) {
    if (n_threads >= 0) return LLAVA_OK;
    return llava_fail(err, LLAVA_BAD_ARGUMENT, "%s: n_threads is %d, expected 0 or more", function,
                      n_threads);
}

/** The capacity rule of returned lists: the needed count is always told, and too small a buffer is
 *  an error. A NULL buffer of capacity 0 only asks. */
static llava_status check_capacity(llava_error *err, const char *function, const void *buffer,
                                   size_t capacity, size_t needed) {
    if (!buffer && capacity == 0) return LLAVA_OK;
    if (needed <= capacity) return LLAVA_OK;
    return llava_fail(err, LLAVA_BAD_ARGUMENT, "%s: capacity is %zu, expected at least %zu",
                      function, capacity, needed);
}

static llava_status give_text(llava_error *err, const char *function, const bytes *made, char *text,
                              size_t capacity, size_t *text_size) {
    *text_size = made->size;
    LLAVA_TRY(check_capacity(err, function, text, capacity, made->size));
    if (text && made->size > 0) memcpy(text, made->data, made->size);
    if (text && capacity > made->size) text[made->size] = '\0';
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- loading */

static llava_status check_load_options(const llava_load_options *options, const char *function,
                                       llava_error *err) {
    if (!options->model_path || !options->model_path[0])
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "%s: model_path is %s, expected a directory",
                          function, options->model_path ? "empty" : "NULL");
    if (options->torch_dtype != LLAVA_DTYPE_DEFAULT && options->torch_dtype != LLAVA_DTYPE_F32 &&
        options->torch_dtype != LLAVA_DTYPE_F16 && options->torch_dtype != LLAVA_DTYPE_BF16)
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "%s: torch_dtype is %d, expected default, float32, float16 or bfloat16",
                          function, (int)options->torch_dtype);
    LLAVA_TRY(check_threads(err, function, options->n_threads));
    return check_reserved(err, function, options->reserved, LLAVA_COUNT(options->reserved));
}

LLAVA_API llava_status llava_load_pretrained_model(const llava_load_options *options,
                                                   llava_loaded *loaded, llava_error *err) {
    REQUIRE(options);
    REQUIRE(loaded);
    LLAVA_TRY(check_load_options(options, __func__, err));
    return load_pretrained_model(options, loaded, err);
}

LLAVA_API llava_status llava_convert(const llava_load_options *options, const char *directory,
                                     llava_error *err) {
    REQUIRE(options);
    REQUIRE(directory);
    LLAVA_TRY(check_load_options(options, __func__, err));
    return load_convert(options, directory, err);
}

void llava_loaded_close(llava_loaded *loaded) {
    if (!loaded) return;
    tokenizer_free(&loaded->tokenizer);
    image_processor_free(&loaded->image_processor);
    model_free(&loaded->model);
    loaded->context_len = 0;
}

struct llava_report {
    char *text;
};

LLAVA_API llava_status llava_inspect(const llava_load_options *options, llava_report **report,
                                     llava_error *err) {
    REQUIRE(options);
    REQUIRE(report);
    LLAVA_TRY(check_load_options(options, __func__, err));
    json_t *json = NULL;
    LLAVA_TRY(load_inspect(options, &json, err));
    char *text = json_dumps(json, JSON_INDENT(2));
    json_decref(json);
    llava_report *made = text ? array_new(1, sizeof *made) : NULL;
    if (!made) {
        free(text);
        return llava_fail_memory(err, sizeof *made, "a report");
    }
    made->text = text;
    *report = made;
    return LLAVA_OK;
}

LLAVA_API const char *llava_report_json(const llava_report *report) {
    return report ? report->text : NULL;
}

LLAVA_API void llava_report_free(llava_report **report) {
    if (!report || !*report) return;
    free((*report)->text);
    free(*report);
    *report = NULL;
}

LLAVA_API void llava_model_get_info(const llava_model *model, llava_model_info *info) {
    if (!info) return;
    *info = (llava_model_info){0};
    if (!model) return;
    const lm_config *lm = &model->config->lm;
    *info = (llava_model_info){
        .architecture = model->config->architecture,
        .name = model->name,
        .template_name = model->template_name,
        .template_reason = model->template_reason,
        .torch_dtype = model->compute,
        .vocab_size = model->n_vocab,
        .hidden_size = lm->hidden_size,
        .n_layers = lm->n_layers,
        .n_heads = lm->n_heads,
        .n_kv_heads = lm->n_kv_heads,
        .context_len = model->config->context_len,
        .weight_bytes = model->weight_bytes,
        .owned_bytes = model->owned_bytes,
        .multimodal = model->config->multimodal,
    };
}

/* ---------------------------------------------------------------- tokenizer */

LLAVA_API int64_t llava_tokenizer_size(const llava_tokenizer *tokenizer) {
    return tokenizer ? tokenizer_size(tokenizer) : 0;
}

LLAVA_API llava_status llava_tokenizer_encode(const llava_tokenizer *tokenizer, const char *text,
                                              size_t text_size, int32_t *list, size_t capacity,
                                              size_t *n_ids, llava_error *err) {
    REQUIRE(tokenizer);
    REQUIRE_LIST(text, text_size);
    REQUIRE_LIST(list, capacity);
    REQUIRE(n_ids);
    ids made = {0};
    llava_status status = tokenizer_encode(tokenizer, text ? text : "", text_size, &made, err);
    if (status == LLAVA_OK) {
        *n_ids = made.count;
        status = check_capacity(err, __func__, list, capacity, made.count);
    }
    if (status == LLAVA_OK && list && made.count > 0)
        memcpy(list, made.data, made.count * sizeof *list);
    ids_free(&made);
    return status;
}

LLAVA_API llava_status llava_tokenizer_decode(const llava_tokenizer *tokenizer, const int32_t *list,
                                              size_t n_ids, bool skip_special_tokens, char *text,
                                              size_t capacity, size_t *text_size,
                                              llava_error *err) {
    REQUIRE(tokenizer);
    REQUIRE_LIST(list, n_ids);
    REQUIRE_LIST(text, capacity);
    REQUIRE(text_size);
    bytes made = {0};
    llava_status status = tokenizer_decode(tokenizer, list, n_ids, skip_special_tokens, &made, err);
    if (status == LLAVA_OK) status = give_text(err, __func__, &made, text, capacity, text_size);
    bytes_free(&made);
    return status;
}

/* ---------------------------------------------------------------- templates */

LLAVA_API size_t llava_template_count(void) { return template_count(); }

LLAVA_API const char *llava_template_name(size_t index) {
    return index < template_count() ? template_at(index)->name : NULL;
}

static llava_status check_messages(llava_error *err, const char *function,
                                   const llava_message *messages, size_t n_messages) {
    if (!messages && n_messages > 0) return is_null(err, function, "messages");
    for (size_t i = 0; i < n_messages; i++)
        if (messages[i].role != 0 && messages[i].role != 1)
            return llava_fail(err, LLAVA_BAD_ARGUMENT,
                              "%s: message %zu has role %d, expected 0 (user) or 1 (assistant)",
                              function, i, messages[i].role);
    return LLAVA_OK;
}

LLAVA_API llava_status llava_template_render(const char *name, const char *system,
                                             const llava_message *messages, size_t n_messages,
                                             char *text, size_t capacity, size_t *text_size,
                                             llava_error *err) {
    REQUIRE(name);
    REQUIRE_LIST(text, capacity);
    REQUIRE(text_size);
    LLAVA_TRY(check_messages(err, __func__, messages, n_messages));
    const conversation_template *found = template_find(name);
    if (!found)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "there is no conversation template \"%s\"",
                          name);
    bytes made = {0};
    llava_status status = template_render(found, system, messages, n_messages, &made, err);
    if (status == LLAVA_OK) status = give_text(err, __func__, &made, text, capacity, text_size);
    bytes_free(&made);
    return status;
}

/* ---------------------------------------------------------------- contexts and sessions */

static llava_status check_kv_dtype(llava_error *err, const char *function, llava_dtype dtype) {
    switch (dtype) {
    case LLAVA_DTYPE_DEFAULT:
    case LLAVA_DTYPE_F32:
    case LLAVA_DTYPE_F16:
    case LLAVA_DTYPE_BF16:
    case LLAVA_DTYPE_I8: return LLAVA_OK;
    default: break;
    }
    return llava_fail(err, LLAVA_BAD_ARGUMENT,
                      "%s: kv_dtype is %d, expected LLAVA_DTYPE_DEFAULT, F32, F16, BF16 or I8",
                      function, (int)dtype);
}

LLAVA_API llava_status llava_context_new(const llava_loaded *loaded,
                                         const llava_context_options *options,
                                         llava_context **context, llava_error *err) {
    REQUIRE(loaded);
    REQUIRE(loaded->model);
    REQUIRE(loaded->tokenizer);
    REQUIRE(context);
    if (options) {
        REQUIRE_RESERVED(options);
        LLAVA_TRY(check_threads(err, __func__, options->n_threads));
        if (options->max_tokens < 0)
            return llava_fail(err, LLAVA_BAD_ARGUMENT, "%s: max_tokens is %lld, expected 0 or more",
                              __func__, (long long)options->max_tokens);
        LLAVA_TRY(check_kv_dtype(err, __func__, options->kv_dtype));
    }
    return context_new(loaded, options, context, err);
}

LLAVA_API void llava_context_free(llava_context **context) {
    if (context) context_free(context);
}

LLAVA_API llava_status llava_session_new(llava_context *context, llava_session **session,
                                         llava_error *err) {
    REQUIRE(context);
    REQUIRE(session);
    return session_new(context, session, err);
}

LLAVA_API void llava_session_free(llava_session **session) {
    if (session) session_free(session);
}

LLAVA_API llava_status llava_session_feed(llava_session *session, const llava_part *parts,
                                          size_t n_parts, llava_error *err) {
    REQUIRE(session);
    REQUIRE_LIST(parts, n_parts);
    return session_feed(session, parts, n_parts, err);
}

LLAVA_API llava_status llava_session_ask(llava_session *session, const char *template_name,
                                         const llava_message *messages, size_t n_messages,
                                         const llava_image *const *images, size_t n_images,
                                         llava_error *err) {
    REQUIRE(session);
    REQUIRE_LIST(images, n_images);
    LLAVA_TRY(check_messages(err, __func__, messages, n_messages));
    for (size_t i = 0; i < n_images; i++)
        if (!images[i])
            return llava_fail(err, LLAVA_BAD_ARGUMENT, "%s: images[%zu] is NULL", __func__, i);
    return session_ask(session, template_name, messages, n_messages, images, n_images, err);
}

LLAVA_API llava_status llava_session_start(llava_session *session,
                                           const llava_generate_options *options,
                                           llava_error *err) {
    REQUIRE(session);
    if (options) REQUIRE_RESERVED(options);
    return session_start(session, options, err);
}

LLAVA_API llava_status llava_context_step(llava_context *context, size_t *n_running,
                                          llava_error *err) {
    REQUIRE(context);
    return context_step(context, n_running, err);
}

LLAVA_API llava_status llava_session_generate(llava_session *session,
                                              const llava_generate_options *options,
                                              const llava_result **result, llava_error *err) {
    REQUIRE(session);
    if (options) REQUIRE_RESERVED(options);
    return session_generate(session, options, result, err);
}

LLAVA_API const llava_result *llava_session_result(const llava_session *session) {
    return session ? session_result(session) : NULL;
}

LLAVA_API const float *llava_session_logits(const llava_session *session) {
    return session ? session_logits(session) : NULL;
}

LLAVA_API void llava_session_cancel(llava_session *session) {
    if (session) session_cancel(session);
}
