/* SPDX-License-Identifier: Apache-2.0
 *
 * Conversation templates: rendering, errors, stop texts, the choice for a checkpoint.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "text/tokenizer.h"

static const llava_message ask[] = {{0, "<image>\nHi?"}, {1, NULL}};

static void assert_render(const char *name, const char *system, const llava_message *messages,
                          size_t n, const char *want) {
    bytes prompt = {0};
    llava_error err = {0};
    const llava_status status =
        template_render(template_find(name), system, messages, n, &prompt, &err);
    if (want) {
        assert_int_equal(status, LLAVA_OK);
        assert_string_equal(prompt.data ? prompt.data : "", want);
    } else {
        assert_int_equal(status, LLAVA_BAD_ARGUMENT);
        assert_true(err.message[0]);
        assert_int_equal(prompt.size, 0);
    }
    bytes_free(&prompt);
}

static void test_table(void **state) {
    (void)state;
    assert_int_equal(template_count(), 26);
    for (size_t i = 0; i < template_count(); i++) {
        const conversation_template *t = template_at(i);
        assert_ptr_equal(template_find(t->name), t);
        assert_non_null(t->stop[0]);
        assert_null(t->stop[2]);
    }
    assert_null(template_at(26));
    assert_null(template_find("v2"));
    assert_null(template_find(NULL));
}

static void test_styles(void **state) {
    (void)state;
    const llava_message two[] = {{0, "Hi"}, {1, "Yes"}, {0, "Sure?"}, {1, NULL}};
    assert_render("vicuna_v1", "S", two, 4, "S USER: Hi ASSISTANT: Yes</s>USER: Sure? ASSISTANT:");
    assert_render("llava_v0", "S", two, 4,
                  "S###Human: Hi###Assistant: Yes###Human: Sure?###Assistant:");
    assert_render("qwen_1_5", "", ask, 2,
                  "<|im_start|>user\n<image>\nHi?<|im_end|>\n<|im_start|>assistant\n");
    assert_render("mpt", "S", two, 2,
                  "S<|im_end|><|im_start|>user\nHi<|im_end|><|im_start|>assistant\nYes<|im_end|>");
    assert_render("llava_llama_2", "S", two, 4,
                  "[INST] <<SYS>>\nS\n<</SYS>>\n\nHi [/INST] Yes </s><s>[INST] Sure? [/INST]");
    assert_render("mistral_instruct", NULL, two, 4,
                  "[INST] Hi [/INST] Yes </s>[INST] Sure? [/INST]");
    assert_render("gemma_instruct", NULL, ask, 2,
                  "<start_of_turn>user\n<image>\nHi?<end_of_turn>\n<start_of_turn>model\n");
    assert_render("plain", NULL, ask, 2, "<image>\nHi?\n");
    assert_render("llava_llama_3", " S ", ask, 1,
                  "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
                  "<|start_header_id|>user<|end_header_id|>\n\n<image>\nHi?<|eot_id|>"
                  "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

static void test_errors(void **state) {
    (void)state;
    const llava_message assistant_first[] = {{1, "I"}, {0, "You"}};
    const llava_message answered[] = {{0, "A"}, {1, "B"}};
    const llava_message bad_role[] = {{2, "A"}};
    const llava_message empty[] = {{0, ""}};
    assert_render("gemma_instruct", NULL, assistant_first, 2, NULL);
    assert_render("llama_2", NULL, assistant_first, 2, NULL);
    assert_render("llama_2", NULL, empty, 1, NULL);
    assert_render("plain", NULL, answered, 2, NULL);
    assert_render("vicuna_v1", NULL, bad_role, 1, NULL);
    assert_render("llama_2", NULL, NULL, 0, "");
}

/* What was in the buffer stays, and a leading separator is only stripped from the new prompt. */
static void test_appends(void **state) {
    (void)state;
    bytes prompt = {0};
    const llava_message hi = {0, "Hi"};
    bytes_puts(&prompt, "<s>");
    assert_int_equal(template_render(template_find("llama_2"), "", &hi, 1, &prompt, NULL),
                     LLAVA_OK);
    assert_string_equal(prompt.data, "<s>[INST] Hi [/INST]");
    bytes_free(&prompt);
}

static void assert_choice(const char *model, const char *architecture, const char *want) {
    const char *reason = NULL;
    const template_evidence evidence = {.model_name = model, .architecture = architecture};
    assert_string_equal(template_choose(&evidence, &reason)->name, want);
    assert_true(reason && reason[0]);
}

static void test_choice(void **state) {
    (void)state;
    assert_choice("llava-v1.5-7b", "LlavaLlamaForCausalLM", "vicuna_v1");
    assert_choice("llava-v1.6-mistral-7b", "LlavaMistralForCausalLM", "mistral_instruct");
    assert_choice("llava-v1.6-34b", "LlavaLlamaForCausalLM", "chatml_direct");
    assert_choice("llava-onevision-qwen2-7b-ov", "LlavaQwenForCausalLM", "qwen_1_5");
    assert_choice("mine", "LlavaQwenForCausalLM", "qwen_1_5");
    assert_choice("mine", "LlavaGemmaForCausalLM", "gemma_instruct");
    assert_choice("mine", "LlavaMptForCausalLM", "mpt");
    assert_choice("llava-llama-2-13b-chat", "LlavaLlamaForCausalLM", "llava_llama_2");
    assert_choice("zephyr-7b", "LlavaMistralForCausalLM", "mistral_zephyr");
    assert_choice("mine", "LlavaLlamaForCausalLM", "llava_v0");
    assert_choice("llava-MPT-7b", NULL, "mpt");
    assert_choice("prompt-tuned", NULL, "llava_v0");
    assert_choice(NULL, NULL, "llava_v0");
}

static llava_tokenizer *open_text(const char *text) {
    json_t *root;
    llava_tokenizer *t;
    assert_int_equal(json_read_text(text, strlen(text), "test", &root, NULL), LLAVA_OK);
    assert_int_equal(tokenizer_open_json(root, &t, NULL), LLAVA_OK);
    json_decref(root);
    return t;
}

/* The tokenizer's evidence outranks the name. */
static void test_choice_by_tokenizer(void **state) {
    (void)state;
    static const char text[] =
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"added_tokens\":["
        "{\"content\":\"<|start_header_id|>\",\"special\":true},"
        "{\"content\":\"<|eot_id|>\",\"special\":true}]}";
    const char *reason;
    llava_tokenizer *t = open_text(text);
    const template_evidence evidence = {.model_name = "llava-v1.5-mistral", .tokenizer = t};
    assert_string_equal(template_choose(&evidence, &reason)->name, "llava_llama_3");
    tokenizer_free(&t);
}

static void assert_own(const llava_tokenizer *t, const char *source, const char *system,
                       const llava_message *messages, size_t n, const char *want) {
    const checkpoint_dialog dialog = {system, messages, n};
    bytes prompt = {0};
    llava_error err = {0};
    assert_true(bytes_puts(&prompt, "> "));
    const llava_status status = checkpoint_template_render(source, t, &dialog, &prompt, &err);
    if (want) {
        if (status != LLAVA_OK) fail_msg("%s", err.message);
        assert_string_equal(prompt.data + 2, want);
    } else {
        assert_int_not_equal(status, LLAVA_OK);
        assert_non_null(strstr(err.message, "checkpoint"));
        assert_int_equal(prompt.size, 2);
    }
    bytes_free(&prompt);
}

#define OWN_ITEMS                                                                                  \
    "{% for m in messages %}{{ m.role }}:{% for c in m.content %}"                                 \
    "{% if c.type == 'image' %}<image>|{% else %}[{{ c.text }}]{% endif %}{% endfor %} "           \
    "{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
#define OWN_TEXT                                                                                   \
    "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }};{% endfor %}{{ eos_token }}"

/* The checkpoint's own template: content as items where it looks for images, else as a text. */
static void test_own_template(void **state) {
    (void)state;
    llava_tokenizer *t = open_text("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},"
                                   "\"merges\":[]},\"added_tokens\":[]}");
    static const llava_message turns[] = {
        {0, "<image>\nOne <image> two?"}, {1, "Yes."}, {0, "And?"}, {1, NULL}};
    assert_own(t, OWN_ITEMS, NULL, turns, LLAVA_COUNT(turns),
               "user:<image>|[One ]<image>|[ two?] assistant:[Yes.] user:[And?] A:");
    assert_own(t, OWN_ITEMS, "Be kind.", ask, 2, "system:[Be kind.] user:<image>|[Hi?] A:");
    assert_own(t, OWN_TEXT, NULL, ask, 2, "user:<image>\nHi?;");
    assert_own(t, NULL, NULL, ask, 2, NULL);
    assert_own(t, "{{ raise_exception('no') }}", NULL, ask, 2, NULL);
    t->named[NAMED_PAD] = 0; /* "a" */
    assert_own(t, "{{ pad_token }}{{ cls_token is defined }}", NULL, ask, 2, "aFalse");
    static const llava_message broken[] = {{0, "\xff"}};
    assert_own(t, OWN_TEXT, NULL, broken, 1, NULL);
    tokenizer_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),        cmocka_unit_test(test_styles),
        cmocka_unit_test(test_errors),       cmocka_unit_test(test_appends),
        cmocka_unit_test(test_choice),       cmocka_unit_test(test_choice_by_tokenizer),
        cmocka_unit_test(test_own_template),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
