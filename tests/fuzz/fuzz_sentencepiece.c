/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as tokenizer.model. What loads must encode any text to ids of the model and decode
 * them, as the slow and the converted fast tokenizer.
 */
#include <stdlib.h>

#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const texts[] = {
    "",
    " ",
    "a",
    "Hello  world\n",
    "\xff\xfe<s> \xe2\x96\x81x",
    "caf\xc3\xa9 e\xcc\x81 \xe4\xb8\xad\xe6\x96\x87 \xf0\x9f\x98\x80"};

static void decode_all(const spm_model *model, const ids *list) {
    spm_decoder decoder = {0};
    bytes text = {0};
    for (size_t i = 0; i < list->count; i++) {
        if (list->data[i] < 0 || (size_t)list->data[i] >= model->n_pieces) abort();
        spm_decode_piece(model, &decoder, list->data[i], model->pieces[list->data[i]].text, &text);
    }
    spm_decode_finish(&decoder, &text);
    bytes_free(&text);
}

static void try_text(const spm_model *model, const char *text, size_t size) {
    ids list = {0};
    if (spm_encode(model, model->add_dummy_prefix, text, size, &list, NULL) == LLAVA_OK)
        decode_all(model, &list);
    ids_free(&list);
}

/* Gives the model to a fast tokenizer, which owns it from then on. */
static void try_conversion(spm_model *model) {
    llava_tokenizer *t;
    bytes text = {0};
    ids list = {0};
    if (tokenizer_new(&t, NULL) != LLAVA_OK) {
        spm_free(&model);
        return;
    }
    t->class = CLASS_LLAMA;
    t->fast = true;
    t->spm = model;
    if (tokenizer_convert_spm(t, NULL) == LLAVA_OK && tokenizer_refresh(t, NULL) == LLAVA_OK &&
        tokenizer_encode(t, texts[5], strlen(texts[5]), &list, NULL) == LLAVA_OK)
        tokenizer_decode(t, list.data, list.count, false, &text, NULL);
    tokenizer_free(&t);
    ids_free(&list);
    bytes_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    spm_model *model;
    llava_error err;
    if (spm_parse(data, size, "model", &model, &err) != LLAVA_OK) return 0;
    for (size_t i = 0; i < LLAVA_COUNT(texts); i++) try_text(model, texts[i], strlen(texts[i]));
    try_text(model, (const char *)data, size < 256 ? size : 256);
    try_conversion(model);
    return 0;
}
