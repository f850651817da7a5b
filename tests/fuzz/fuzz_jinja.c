/* SPDX-License-Identifier: Apache-2.0
 *
 * Chat templates: the input is a template, rendered over a fixed dialog.
 */
#include "text/jinja/jinja.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char variables[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"Be kind\"}, {\"role\": \"user\","
    " \"content\": [{\"type\": \"image\"}, {\"type\": \"text\", \"text\": \"h\\u00e9 \\u4e2d\"}]},"
    " {\"role\": \"assistant\", \"content\": \"A cat.\"}], \"add_generation_prompt\": true,"
    " \"bos_token\": \"<s>\", \"eos_token\": \"</s>\", \"n\": 3, \"x\": 1.5, \"nothing\": null}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    llava_error err;
    json_t *root;
    if (json_read_text(variables, sizeof variables - 1, "variables", &root, &err) != LLAVA_OK)
        return 0;
    const struct tm now = {.tm_year = 124, .tm_mon = 6, .tm_mday = 26};
    const jinja_request request = {(const char *)data, size, root, &now};
    bytes out = {0};
    jinja_render(&request, &out, &err);
    bytes_free(&out);
    json_decref(root);
    return 0;
}
