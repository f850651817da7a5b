/* SPDX-License-Identifier: Apache-2.0
 *
 * Any text as config.json (even first byte), as overwrite_config of a good one (odd), and as
 * preprocessor_config.json.
 */
#include <stdlib.h>

#include "config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char good[] = "{\"architectures\": [\"LlavaLlamaForCausalLM\"], \"hidden_size\": 24, "
                           "\"num_attention_heads\": 4, \"mm_vision_tower\": \"towers/none\", "
                           "\"mm_hidden_size\": 20, \"mm_vision_select_layer\": -2}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    char *text = malloc(size);
    if (!text) return 0;
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    const bool overwrite = data[0] & 1;
    const config_request request = {.model_name = "llava-fuzz",
                                    .customized_config = overwrite ? good : text,
                                    .overwrite_config = overwrite ? text : NULL};
    llava_error err;
    llava_config *config = NULL;
    if (config_load(&request, &config, &err) == LLAVA_OK) {
        if (config->lm.n_heads < 1 || config->lm.n_heads % config->lm.n_kv_heads) abort();
        if (config->context_len < 1) abort();
        if (config->native && config_read_native_tower(config, NULL, &err) == LLAVA_OK &&
            config->tower.image_size < config->tower.patch_size)
            abort();
    }
    config_free(&config);
    json_t *object;
    if (json_read_text(text, size - 1, "text", &object, &err) == LLAVA_OK) {
        processor_config processor;
        if (config_parse_processor(object, "text", &processor, &err) == LLAVA_OK &&
            !(processor.std[0] != 0))
            abort();
        json_decref(object);
    }
    free(text);
    return 0;
}
