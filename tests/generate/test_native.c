/* SPDX-License-Identifier: Apache-2.0
 *
 * Prompts of transformers' own LLaVA classes: tokenized whole, a placeholder's id becomes a
 * picture.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "generate/generate.h"
#include "generate/prompt.h"

static llava_loaded loaded;
static llava_image *image;
static llava_error err;

static int set_up(void **state) {
    (void)state;
    static char path[4096];
    uint8_t rgb[30 * 40 * 3];
    for (size_t i = 0; i < sizeof rgb; i++) rgb[i] = (uint8_t)(i * 7);
    const char *folder = getenv("LLAVA_REFERENCE_DEFAULT"); /* the selection in this repository */
    snprintf(path, sizeof path, "%s/formats/hf/v4.57/next-video",
             folder ? folder : "tests/reference/data");
    const llava_load_options options = {.model_path = path, .torch_dtype = LLAVA_DTYPE_F32};
    if (llava_load_pretrained_model(&options, &loaded, &err) == LLAVA_OK &&
        llava_image_from_rgb(rgb, 40, 30, &image, &err) == LLAVA_OK)
        return 0;
    fprintf(stderr, "%s\n", err.message);
    return -1;
}

static int tear_down(void **state) {
    (void)state;
    llava_image_free(&image);
    llava_loaded_close(&loaded);
    return 0;
}

static llava_status build(const llava_part *parts, size_t n_parts, prompt *p) {
    const prompt_source source = {.model = loaded.model,
                                  .tokenizer = loaded.tokenizer,
                                  .processor = loaded.image_processor,
                                  .max_rows = 4096};
    return prompt_build(&source, parts, n_parts, p, &err);
}

static llava_part text_part(const char *text) {
    return (llava_part){.kind = LLAVA_PART_TEXT, .text = text, .text_size = strlen(text)};
}

static llava_part image_part(void) {
    return (llava_part){
        .kind = LLAVA_PART_IMAGE, .images = (const llava_image *const *)&image, .n_images = 1};
}

/** The rows that are tokens are those of the whole string without its placeholders. */
static void assert_tokens(const prompt *p, const char *whole) {
    ids list = {0};
    assert_int_equal(tokenizer_encode(loaded.tokenizer, whole, strlen(whole), &list, &err), 0);
    const mm_config *mm = &loaded.model->config->mm;
    int64_t row = 0;
    size_t next = 0;
    for (size_t i = 0; i < list.count; i++) {
        if (list.data[i] == mm->image_token || list.data[i] == mm->video_token) {
            assert_int_equal(p->pictures[next].first_row, row);
            row += p->pictures[next++].plan.n_rows;
        } else {
            assert_true(row_key_is_token(p->keys[row]));
            assert_int_equal(p->keys[row].a, list.data[i]);
            row++;
        }
    }
    assert_int_equal(row, p->n_rows);
    assert_int_equal(next, p->n_pictures);
    ids_free(&list);
}

static void test_spliced(void **state) {
    (void)state;
    const llava_image *frames[] = {image, image};
    const llava_part video = {.kind = LLAVA_PART_VIDEO, .images = frames, .n_images = 2};
    const llava_part parts[] = {text_part("USER : "), image_part(),    text_part(" and "), video,
                                image_part(),         text_part("? A")};
    prompt p;
    if (build(parts, LLAVA_COUNT(parts), &p) != LLAVA_OK) fail_msg("%s", err.message);
    assert_tokens(&p, "USER : <image> and <video><image>? A");
    assert_int_equal(p.pictures[1].plan.kind, VISION_VIDEO);
    assert_int_equal(p.pictures[1].plan.n_rows, 18); /* 3 x 3 a frame, no newline */
    assert_true(p.pictures[2].plan.n_views > 1);     /* tiled although not alone */
    prompt_free(&p);
    const llava_part alone = image_part();
    assert_int_equal(build(&alone, 1, &p), LLAVA_OK);
    assert_tokens(&p, "<image>"); /* BOS in front */
    assert_true(row_key_is_token(p.keys[0]));
    prompt_free(&p);
}

static void test_after_tokens(void **state) {
    (void)state;
    static const int32_t list[] = {5, 6};
    const llava_part parts[] = {
        {.kind = LLAVA_PART_TOKENS, .ids = list, .n_ids = 2}, image_part(), text_part("hi")};
    prompt p;
    assert_int_equal(build(parts, LLAVA_COUNT(parts), &p), LLAVA_OK);
    assert_int_equal(p.keys[0].a, 5);
    assert_int_equal(p.pictures[0].first_row, 2); /* no BOS between */
    prompt_free(&p);
}

static void test_stray_placeholders(void **state) {
    (void)state;
    prompt p;
    const llava_part stray[] = {text_part("an <image> here")};
    assert_int_equal(build(stray, 1, &p), LLAVA_BAD_ARGUMENT);
    assert_non_null(strstr(err.message, "placeholder"));
    const llava_part twice[] = {text_part("<video>"), image_part()};
    assert_int_equal(build(twice, 2, &p), LLAVA_BAD_ARGUMENT);
}

/** This checkpoint carries no template: asking for it is an error, another one works. */
static void test_templates(void **state) {
    (void)state;
    llava_context *context;
    llava_session *session;
    const llava_message ask = {.role = 0, .text = "<image>\nwhat is it?"};
    const llava_image *const images[] = {image};
    assert_int_equal(llava_context_new(&loaded, NULL, &context, &err), LLAVA_OK);
    assert_int_equal(llava_session_new(context, &session, &err), LLAVA_OK);
    assert_int_equal(llava_session_ask(session, "checkpoint", &ask, 1, images, 1, &err),
                     LLAVA_BAD_ARGUMENT);
    assert_non_null(strstr(err.message, "chat_template"));
    assert_int_equal(llava_session_ask(session, "vicuna_v1", &ask, 1, images, 1, &err), LLAVA_OK);
    const llava_result *result;
    /* with a penalty the processors are given the prompt, a placeholder for every picture's row */
    const llava_generate_options options = {.max_new_tokens = 3, .repetition_penalty = 1.5f};
    assert_int_equal(llava_session_generate(session, &options, &result, &err), LLAVA_OK);
    assert_true(result->n_ids > 0 && result->n_visual_tokens > 36);
    llava_session_free(&session);
    llava_context_free(&context);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spliced),
        cmocka_unit_test(test_after_tokens),
        cmocka_unit_test(test_stray_placeholders),
        cmocka_unit_test(test_templates),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
