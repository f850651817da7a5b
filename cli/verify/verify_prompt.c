/* SPDX-License-Identifier: Apache-2.0
 *
 * From the turns of a conversation to token ids.
 */
#include "verify/verify.h"

/** Messages of the recorded turns; user and assistant take turns, an open one ends them. */
static llava_status collect_turns(verify_run *run, const json_t *turns, llava_message **messages,
                                  size_t *count, llava_error *err) {
    const size_t n = json_array_size(turns);
    llava_message *list = arena_array(run->memory, n + 1, sizeof *list);
    if (!list) return llava_fail_memory(err, n * sizeof *list, "turns");
    for (size_t i = 0; i < n; i++) {
        list[i].role = (int)(i % 2);
        list[i].text = json_string_value(json_array_get(turns, i));
        if (!list[i].text)
            return llava_fail(err, LLAVA_MALFORMED, "%s: turns[%zu] is no text", run->trace.path,
                              i);
    }
    list[n] = (llava_message){.role = 1, .text = NULL};
    *messages = list;
    *count = n + 1;
    return LLAVA_OK;
}

static llava_status compare_prompt(verify_run *run, const json_t *prompt, llava_error *err) {
    const json_t *name = trace_field(&run->trace, "conversation");
    const json_t *turns = trace_field(&run->trace, "turns");
    if (!json_is_string(name) || !json_is_array(turns)) return LLAVA_OK;
    llava_message *messages;
    size_t count;
    LLAVA_TRY(collect_turns(run, turns, &messages, &count, err));
    const conversation_template *t = template_find(json_string_value(name));
    if (!t)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "there is no conversation template '%s'",
                          json_string_value(name));
    bytes own = {0};
    llava_status status = template_render(t, NULL, messages, count, &own, err);
    if (status == LLAVA_OK)
        status = verify_text_equal(run, "prompt", own.data ? own.data : "", own.size, prompt);
    bytes_free(&own);
    return status;
}

llava_status verify_prompt(verify_run *run, llava_error *err) {
    const json_t *text = trace_field(&run->trace, "prompt");
    if (!json_is_string(text))
        return llava_fail(err, LLAVA_MALFORMED, "%s: prompt is %s, not a text", run->trace.path,
                          json_kind(text));
    const char *prompt = json_string_value(text);
    const size_t size = json_string_length(text);
    LLAVA_TRY(compare_prompt(run, text, err));
    /* plain language models are given the prompt as it stands */
    if (run->loaded.image_processor)
        LLAVA_TRY(tokenize_with_images(run->loaded.tokenizer, prompt, size, &run->prompt, err));
    else
        LLAVA_TRY(tokenizer_encode(run->loaded.tokenizer, prompt, size, &run->prompt, err));
    const int32_t *recorded;
    size_t n_recorded;
    LLAVA_TRY(verify_id_array(run, "input_ids", &recorded, &n_recorded, err));
    if (!recorded) return LLAVA_OK;
    return verify_ids(run, "input_ids", run->prompt.data, run->prompt.count, recorded, n_recorded);
}
