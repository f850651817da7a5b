/* SPDX-License-Identifier: Apache-2.0
 *
 * The public interface: argument checks, the capacity rule of returned lists, plain language
 * models, and loading as a caller sees it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "engine_support.h"

static trace recorded; /* a plain language model's */
static llava_loaded loaded;
static llava_error err;

static bool take_plain(void *user, const char *path) {
    bool *found = user;
    trace_close(&recorded);
    if (trace_open(path, &recorded, &err) != LLAVA_OK) return true;
    if (!json_object_get(recorded.root, "greedy") || recorded.n_pictures != 0) return true;
    if (trace_load(&recorded, &loaded, &err) != LLAVA_OK) return true;
    *found = loaded.image_processor == NULL;
    if (!*found) llava_loaded_close(&loaded);
    return !*found;
}

static int set_up(void **state) {
    (void)state;
    bool found = false;
    trace_walk(take_plain, &found);
    if (!found) fprintf(stderr, "no plain language model in %s\n", reference_folder());
    return found ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    llava_loaded_close(&loaded);
    llava_loaded_close(&loaded); /* twice is harmless */
    trace_close(&recorded);
    return 0;
}

static void test_loading(void **state) {
    (void)state;
    llava_loaded out = {0};
    llava_load_options options = {0};
    assert_int_equal(llava_load_pretrained_model(NULL, &out, &err), LLAVA_BAD_ARGUMENT);
    assert_int_equal(llava_load_pretrained_model(&options, NULL, &err), LLAVA_BAD_ARGUMENT);
    assert_int_equal(llava_load_pretrained_model(&options, &out, &err), LLAVA_BAD_ARGUMENT);
    assert_non_null(strstr(err.message, "model_path"));
    options.model_path = "no such directory";
    options.reserved[3] = 1;
    assert_int_equal(llava_load_pretrained_model(&options, &out, &err), LLAVA_BAD_ARGUMENT);
    assert_non_null(strstr(err.message, "reserved[3]"));
    options.reserved[3] = 0;
    options.torch_dtype = LLAVA_DTYPE_I8;
    assert_int_equal(llava_load_pretrained_model(&options, &out, NULL), LLAVA_BAD_ARGUMENT);
    options.torch_dtype = LLAVA_DTYPE_F32;
    options.n_threads = -1;
    assert_int_equal(llava_load_pretrained_model(&options, &out, &err), LLAVA_BAD_ARGUMENT);
    options.n_threads = 0;
    assert_int_not_equal(llava_load_pretrained_model(&options, &out, &err), LLAVA_OK);
    assert_null(out.model);
    assert_null(out.tokenizer);
    llava_report *report = NULL;
    assert_int_equal(llava_inspect(NULL, &report, &err), LLAVA_BAD_ARGUMENT);
    assert_int_equal(llava_inspect(&options, NULL, &err), LLAVA_BAD_ARGUMENT);
    /* what is wrong is either the call's failure or part of the report */
    if (llava_inspect(&options, &report, &err) == LLAVA_OK)
        assert_non_null(strstr(llava_report_json(report), "no such directory"));
    else
        assert_null(report);
    llava_report_free(&report);
    assert_null(llava_report_json(NULL));
    llava_report_free(&report);
    llava_report_free(NULL);
    llava_loaded_close(NULL);
}

static void test_report(void **state) {
    (void)state;
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", reference_folder(),
             trace_text(json_object_get(recorded.root, "call"), "model_path"));
    const llava_load_options options = {.model_path = path};
    llava_report *report = NULL;
    assert_int_equal(llava_inspect(&options, &report, &err), LLAVA_OK);
    json_t *parsed = json_loads(llava_report_json(report), 0, NULL);
    assert_true(json_is_object(parsed) && json_object_size(parsed) > 0);
    json_decref(parsed);
    llava_report_free(&report);
    assert_null(report);
}

static void test_info(void **state) {
    (void)state;
    llava_model_info info;
    llava_model_get_info(loaded.model, &info);
    assert_false(info.multimodal);
    assert_string_equal(info.architecture,
                        trace_text(json_object_get(recorded.root, "returned"), "model"));
    assert_int_equal(info.vocab_size, llava_tokenizer_size(loaded.tokenizer));
    assert_int_equal(info.torch_dtype, LLAVA_DTYPE_F32);
    assert_int_equal(info.context_len, loaded.context_len);
    assert_true(info.weight_bytes > 0 && info.n_layers > 0 && info.hidden_size > 0);
    assert_non_null(info.template_name);
    llava_model_get_info(NULL, &info);
    assert_null(info.name);
    llava_model_get_info(loaded.model, NULL);
    assert_int_equal(llava_tokenizer_size(NULL), 0);
}

static void test_tokenizer(void **state) {
    (void)state;
    const char *text = "Hello, world!";
    size_t n = 0, n_text = 0;
    int32_t list[64];
    char back[64];
    assert_int_equal(llava_tokenizer_encode(loaded.tokenizer, text, 13, NULL, 0, &n, &err),
                     LLAVA_OK);
    assert_in_range(n, 2, 63);
    const size_t needed = n;
    n = 0;
    assert_int_equal(llava_tokenizer_encode(loaded.tokenizer, text, 13, list, needed - 1, &n, &err),
                     LLAVA_BAD_ARGUMENT);
    assert_int_equal(n, needed);
    char both[64];
    snprintf(both, sizeof both, "capacity is %zu, expected at least %zu", needed - 1, needed);
    assert_non_null(strstr(err.message, both));
    list[needed] = -77;
    assert_int_equal(llava_tokenizer_encode(loaded.tokenizer, text, 13, list, needed, &n, &err),
                     LLAVA_OK);
    assert_int_equal(list[needed], -77);
    assert_int_equal(
        llava_tokenizer_decode(loaded.tokenizer, list, n, true, NULL, 0, &n_text, &err), LLAVA_OK);
    assert_int_equal(n_text, 13);
    assert_int_equal(
        llava_tokenizer_decode(loaded.tokenizer, list, n, true, back, 12, &n_text, &err),
        LLAVA_BAD_ARGUMENT);
    assert_int_equal(n_text, 13);
    assert_int_equal(
        llava_tokenizer_decode(loaded.tokenizer, list, n, true, back, sizeof back, &n_text, &err),
        LLAVA_OK);
    assert_string_equal(back, text);
    assert_int_equal(llava_tokenizer_encode(NULL, text, 13, list, 64, &n, &err),
                     LLAVA_BAD_ARGUMENT);
    assert_int_equal(llava_tokenizer_encode(loaded.tokenizer, NULL, 13, list, 64, &n, &err),
                     LLAVA_BAD_ARGUMENT);
    assert_int_equal(llava_tokenizer_encode(loaded.tokenizer, text, 13, NULL, 64, &n, &err),
                     LLAVA_BAD_ARGUMENT);
    assert_int_equal(llava_tokenizer_encode(loaded.tokenizer, text, 13, list, 64, NULL, &err),
                     LLAVA_BAD_ARGUMENT);
    assert_int_equal(
        llava_tokenizer_decode(loaded.tokenizer, NULL, 3, true, back, 64, &n_text, &err),
        LLAVA_BAD_ARGUMENT);
}

static void test_templates(void **state) {
    (void)state;
    const llava_message messages[] = {{0, "Hi?"}, {1, NULL}};
    const llava_message bad = {7, "Hi?"};
    char text[4096];
    size_t size = 0, again = 0;
    assert_true(llava_template_count() > 0);
    assert_null(llava_template_name(llava_template_count()));
    for (size_t i = 0; i < llava_template_count(); i++) {
        const char *name = llava_template_name(i);
        if (llava_template_render(name, NULL, messages, 2, NULL, 0, &size, &err) != LLAVA_OK)
            continue;
        assert_true(size > 0);
        assert_int_equal(
            llava_template_render(name, NULL, messages, 2, text, sizeof text, &again, &err),
            LLAVA_OK);
        assert_int_equal(size, again);
        assert_int_equal(strlen(text), size);
        assert_int_equal(
            llava_template_render(name, NULL, messages, 2, text, size - 1, &again, &err),
            LLAVA_BAD_ARGUMENT);
    }
    assert_int_equal(llava_template_render("no such", NULL, messages, 2, text, 9, &size, &err),
                     LLAVA_BAD_ARGUMENT);
    assert_int_equal(llava_template_render(NULL, NULL, messages, 2, text, 9, &size, &err),
                     LLAVA_BAD_ARGUMENT);
    const char *name = llava_template_name(0);
    assert_int_equal(llava_template_render(name, NULL, NULL, 2, text, 9, &size, &err),
                     LLAVA_BAD_ARGUMENT);
    assert_int_equal(llava_template_render(name, NULL, &bad, 1, text, 9, &size, &err),
                     LLAVA_BAD_ARGUMENT);
}

static void test_plain_language_model(void **state) {
    (void)state;
    llava_context *context = NULL;
    llava_session *session = NULL;
    llava_image *image = NULL;
    const uint8_t rgb[12] = {0};
    assert_int_equal(llava_context_new(&loaded, NULL, &context, &err), LLAVA_OK);
    assert_int_equal(llava_session_new(context, &session, &err), LLAVA_OK);
    assert_int_equal(llava_image_from_rgb(rgb, 2, 2, &image, &err), LLAVA_OK);
    const llava_message ask = {.role = 0, .text = "Hi?"};
    assert_int_equal(
        llava_session_ask(session, NULL, &ask, 1, (const llava_image *const *)&image, 1, &err),
        LLAVA_BAD_ARGUMENT);
    assert_non_null(strstr(err.message, "plain language model"));
    assert_null(llava_session_logits(session));
    assert_int_equal(llava_session_result(session)->n_ids, 0);
    assert_int_equal(llava_session_result(session)->text_size, 0);

    const llava_generate_options options = {.max_new_tokens = 5, .ignore_eos = true};
    const llava_result *r = NULL;
    assert_int_equal(llava_session_ask(session, NULL, &ask, 1, NULL, 0, &err), LLAVA_OK);
    assert_int_equal(llava_session_generate(session, &options, &r, &err), LLAVA_OK);
    assert_int_equal(r->n_ids, 5);
    assert_non_null(llava_session_logits(session));

    /* the prompt's ids count as history: none of them, nor a repeated one, may come */
    llava_generate_options once = options;
    once.no_repeat_ngram_size = 1;
    assert_int_equal(llava_session_feed(session, recorded.parts, recorded.n_parts, &err), LLAVA_OK);
    assert_int_equal(llava_session_generate(session, &once, &r, &err), LLAVA_OK);
    for (size_t i = 0; i < r->n_ids; i++) {
        for (size_t k = 0; k < recorded.n_ids; k++)
            assert_int_not_equal(r->ids[i], recorded.ids[k]);
        for (size_t k = 0; k < i; k++) assert_int_not_equal(r->ids[i], r->ids[k]);
    }
    llava_image_free(&image);
    llava_session_free(&session);
    llava_session_free(&session);
    llava_session_free(NULL);
    llava_context_free(&context);
    llava_context_free(&context);
    llava_context_free(NULL);
    llava_session_cancel(NULL);
    assert_null(llava_session_result(NULL));
    assert_null(llava_session_logits(NULL));
}

/* without threads of its own, two contexts over one model give the same answers */
static void test_two_contexts(void **state) {
    (void)state;
    int32_t list[2][8];
    for (int n_threads = 1; n_threads <= 2; n_threads++) {
        const llava_context_options options = {.n_threads = n_threads, .max_tokens = 256};
        const llava_generate_options generate = {.max_new_tokens = 8, .ignore_eos = true};
        llava_context *context = NULL;
        llava_session *session = NULL;
        const llava_result *r = NULL;
        assert_int_equal(llava_context_new(&loaded, &options, &context, &err), LLAVA_OK);
        assert_int_equal(llava_session_new(context, &session, &err), LLAVA_OK);
        const llava_part part = {.kind = LLAVA_PART_TEXT, .text = "Hello", .text_size = 5};
        assert_int_equal(llava_session_feed(session, &part, 1, &err), LLAVA_OK);
        assert_int_equal(llava_session_generate(session, &generate, &r, &err), LLAVA_OK);
        memcpy(list[n_threads - 1], r->ids, sizeof list[0]);
        llava_context_free(&context);
    }
    assert_memory_equal(list[0], list[1], sizeof list[0]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loading),      cmocka_unit_test(test_report),
        cmocka_unit_test(test_info),         cmocka_unit_test(test_tokenizer),
        cmocka_unit_test(test_templates),    cmocka_unit_test(test_plain_language_model),
        cmocka_unit_test(test_two_contexts),
    };
    return cmocka_run_group_tests_name("interface", tests, set_up, tear_down);
}
