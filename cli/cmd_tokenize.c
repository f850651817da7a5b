/* SPDX-License-Identifier: Apache-2.0
 *
 * llava tokenize: text to ids and back, one JSON object a line.
 */
#include <errno.h>
#include <stdlib.h>

#include "cli.h"
#include "checkpoint/checkpoint.h"
#include "config/config.h"
#include "model/model.h"
#include "text/text.h"

/** The type the weights are stored in costs nothing to load: only the tokenizer is wanted. */
static llava_dtype stored_dtype(const cli_args *args) {
    const config_request request = {
        .directory = args->words.items[0],
        .model_name = args->load.model_name ? args->load.model_name : args->words.items[0],
        .multimodal_keyword = args->load.multimodal,
        .customized_config = args->load.customized_config,
        .overwrite_config = args->load.overwrite_config,
    };
    llava_config *config = NULL;
    llava_dtype dtype = LLAVA_DTYPE_DEFAULT;
    if (config_load(&request, &config, NULL) == LLAVA_OK) dtype = config->stored_dtype;
    config_free(&config);
    const bool usable =
        dtype == LLAVA_DTYPE_F16 || dtype == LLAVA_DTYPE_BF16 || dtype == LLAVA_DTYPE_F32;
    return usable ? dtype : LLAVA_DTYPE_DEFAULT;
}

/* ---------------------------------------------------------------- output */

static json_t *token_texts(const llava_tokenizer *tokenizer, const ids *list) {
    json_t *array = json_array();
    for (size_t i = 0; array && i < list->count; i++) {
        const char *text = list->data[i] == IMAGE_TOKEN_INDEX
                               ? "<image>"
                               : tokenizer_token(tokenizer, list->data[i]);
        json_array_append_new(array, text ? json_clean_string(text, strlen(text)) : json_null());
    }
    return array;
}

static llava_status print_line(const llava_tokenizer *tokenizer, const char *text, size_t size,
                               const ids *list, llava_error *err) {
    json_t *line =
        json_pack("{s:o, s:o, s:o}", "text", json_clean_string(text, size), "ids",
                  cli_json_ids(list->data, list->count), "tokens", token_texts(tokenizer, list));
    if (!line) return llava_fail_memory(err, size, "a line");
    return cli_print_json(stdout, line, false)
               ? LLAVA_OK
               : llava_fail(err, LLAVA_IO, "standard output could not be written");
}

/* ---------------------------------------------------------------- one input */

static llava_status encode_line(const cli_args *args, const llava_tokenizer *tokenizer,
                                const char *text, size_t size, llava_error *err) {
    ids list = {0};
    llava_status status = args->prompt ? tokenize_with_images(tokenizer, text, size, &list, err)
                                       : tokenizer_encode(tokenizer, text, size, &list, err);
    if (status == LLAVA_OK) status = print_line(tokenizer, text, size, &list, err);
    ids_free(&list);
    return status;
}

/** "[1, 2, 3]", "1,2,3" or "1 2 3" */
static llava_status parse_ids(const char *text, ids *list, llava_error *err) {
    for (const char *at = text;;) {
        at += strspn(at, " \t\r,[]");
        if (*at == '\0') return LLAVA_OK;
        char *end;
        errno = 0;
        const long long value = strtoll(at, &end, 10);
        if (end == at || errno || value < INT32_MIN || value > INT32_MAX)
            return llava_fail(err, LLAVA_BAD_ARGUMENT, "'%.32s' is no token id", at);
        const int32_t id = (int32_t)value;
        if (!ids_append(list, &id, 1)) return llava_fail_memory(err, sizeof id, "ids");
        at = end;
    }
}

static llava_status decode_line(const cli_args *args, const llava_tokenizer *tokenizer,
                                const char *text, size_t size, llava_error *err) {
    (void)args;
    (void)size;
    ids list = {0};
    bytes decoded = {0};
    llava_status status = parse_ids(text, &list, err);
    if (status == LLAVA_OK)
        status = tokenizer_decode(tokenizer, list.data, list.count, false, &decoded, err);
    if (status == LLAVA_OK)
        status = print_line(tokenizer, decoded.data ? decoded.data : "", decoded.size, &list, err);
    bytes_free(&decoded);
    ids_free(&list);
    return status;
}

typedef llava_status (*line_fn)(const cli_args *, const llava_tokenizer *, const char *, size_t,
                                llava_error *);

static llava_status each_line(const cli_args *args, const llava_tokenizer *tokenizer, line_fn fn,
                              llava_error *err) {
    char *line = NULL;
    size_t capacity = 0;
    ssize_t size;
    llava_status status = LLAVA_OK;
    while (status == LLAVA_OK && (size = getline(&line, &capacity, stdin)) >= 0) {
        if (size > 0 && line[size - 1] == '\n') line[--size] = '\0';
        status = fn(args, tokenizer, line, (size_t)size, err);
    }
    free(line);
    return status;
}

/** A directory of tokenizer files alone: the fast class where it brings tokenizer.json. */
static llava_status open_tokenizer_alone(const char *directory, llava_tokenizer **tokenizer,
                                         llava_error *err) {
    bytes path = {0};
    if (!bytes_printf(&path, "%s/tokenizer.json", directory))
        return llava_fail_memory(err, strlen(directory), "a path");
    const tokenizer_request request = {
        .directory = directory,
        .flavour = path_is_file(path.data) ? TOKENIZER_FAST : TOKENIZER_SLOW,
    };
    bytes_free(&path);
    return tokenizer_open(&request, tokenizer, err);
}

/** The tokenizer as loading returns it, picture tokens added; or that of a directory which is no
 *  checkpoint. */
static llava_status open_tokenizer(const cli_args *args, cli_model *model, llava_error *err) {
    const char *directory = args->words.items[0];
    if (path_is_directory(directory) && !checkpoint_exists(directory) && !args->load.model_base)
        return open_tokenizer_alone(directory, &model->loaded.tokenizer, err);
    cli_args asked = *args;
    if (asked.load.torch_dtype == LLAVA_DTYPE_DEFAULT) asked.load.torch_dtype = stored_dtype(args);
    return cli_load(&asked, model, err);
}

int cmd_tokenize(const cli_args *args) {
    cli_model model = {0};
    llava_error err = {0};
    llava_status status;
    LLAVA_TRY_DONE(open_tokenizer(args, &model, &err));
    const line_fn fn = args->decode ? decode_line : encode_line;
    cli_args settled = *args;
    /* "-hf" prompts are tokenized whole: their placeholders are tokens */
    if (model.loaded.model && model.loaded.model->config->native) settled.prompt = false;
    args = &settled;
    if (args->words.count == 1) LLAVA_TRY_DONE(each_line(args, model.loaded.tokenizer, fn, &err));
    for (size_t i = 1; i < args->words.count; i++) {
        const char *text = args->words.items[i];
        LLAVA_TRY_DONE(fn(args, model.loaded.tokenizer, text, strlen(text), &err));
    }
done:
    cli_model_close(&model);
    return status == LLAVA_OK ? 0 : cli_fail(&err);
}
