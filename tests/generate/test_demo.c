/* SPDX-License-Identifier: Apache-2.0
 *
 * The bundled model still gives the ten answers of its questions.json, in float32 as they were
 * written down and in the other precisions and quantizations a user may load it with.
 *
 *     test_demo MODEL_DIRECTORY
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llava.h"

#define PICTURES  4
#define QUESTIONS 10

static const char *folder;
static json_t *root;
static llava_error err;

static int set_up(void **state) {
    (void)state;
    char path[4096];
    snprintf(path, sizeof path, "%s/questions.json", folder);
    root = json_load_file(path, 0, NULL);
    return json_array_size(json_object_get(root, "questions")) == QUESTIONS ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    json_decref(root);
    return 0;
}

/** Opens the pictures of a question and writes it with a placeholder for each. */
static size_t prepare(const json_t *item, llava_image **images, char *text, size_t size) {
    const json_t *names = json_object_get(item, "images");
    size_t n = json_array_size(names), used = 0;
    assert_true(n <= PICTURES);
    for (size_t i = 0; i < n; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder, json_string_value(json_array_get(names, i)));
        if (llava_image_open(path, &images[i], &err)) fail_msg("%s", err.message);
        used += (size_t)snprintf(text + used, size - used, "<image>\n");
    }
    snprintf(text + used, size - used, "%s", json_string_value(json_object_get(item, "question")));
    return n;
}

static void ask(llava_session *session, const json_t *item) {
    llava_image *images[PICTURES] = {NULL};
    char text[1024];
    size_t n = prepare(item, images, text, sizeof text);
    const llava_message message = {.role = 0, .text = text};
    const llava_generate_options options = {.max_new_tokens = 48};
    const llava_result *result = NULL;
    if (llava_session_ask(session, NULL, &message, 1, (const llava_image *const *)images, n,
                          &err) ||
        llava_session_generate(session, &options, &result, &err))
        fail_msg("%s", err.message);
    assert_string_equal(result->text, json_string_value(json_object_get(item, "answer")));
    assert_int_equal(result->finish_reason, LLAVA_FINISH_EOS);
    for (size_t i = 0; i < n; i++) llava_image_free(&images[i]);
}

static void answer_all(llava_load_options options) {
    llava_loaded loaded = {0};
    llava_context *context = NULL;
    llava_session *session = NULL;
    options.model_path = folder;
    if (llava_load_pretrained_model(&options, &loaded, &err) ||
        llava_context_new(&loaded, NULL, &context, &err) ||
        llava_session_new(context, &session, &err))
        fail_msg("%s", err.message);
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(root, "questions"), i, item) ask(session, item);
    llava_session_free(&session);
    llava_context_free(&context);
    llava_loaded_close(&loaded);
}

static void test_float32(void **state) {
    (void)state;
    answer_all((llava_load_options){.torch_dtype = LLAVA_DTYPE_F32});
}

static void test_bfloat16(void **state) {
    (void)state;
    answer_all((llava_load_options){.torch_dtype = LLAVA_DTYPE_BF16});
}

static void test_default(void **state) {
    (void)state;
    answer_all((llava_load_options){0});
}

static void test_4bit(void **state) {
    (void)state;
    answer_all((llava_load_options){.load_4bit = true});
}

static void test_8bit(void **state) {
    (void)state;
    answer_all((llava_load_options){.load_8bit = true});
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    folder = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_float32), cmocka_unit_test(test_bfloat16),
        cmocka_unit_test(test_default), cmocka_unit_test(test_4bit), cmocka_unit_test(test_8bit)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
