/* SPDX-License-Identifier: Apache-2.0
 *
 * Prompts with pictures: LLaVA-NeXT's tokenizer_image_token (llava/mm_utils.py).
 */
#include "text/tokenizer.h"

static const char placeholder[] = "<image>";
#define PLACEHOLDER_SIZE (sizeof placeholder - 1)

static llava_status encode_chunk(const llava_tokenizer *t, const char *text, size_t size,
                                 ids *chunk, llava_error *err) {
    chunk->count = 0;
    return tokenizer_encode(t, text, size, chunk, err);
}

/* True if every text gets a BOS in front by itself. */
static llava_status adds_bos(const llava_tokenizer *t, ids *chunk, bool *adds, llava_error *err) {
    LLAVA_TRY(encode_chunk(t, "", 0, chunk, err));
    *adds = tokenizer_bos(t) >= 0 && chunk->count && chunk->data[0] == tokenizer_bos(t);
    return LLAVA_OK;
}

/* Each chunk is encoded on its own, with its own automatic BOS; only the first BOS stays. Where
 * the tokenizer adds no BOS but the prompt begins with its text, the reference takes the first id
 * off every later chunk all the same, which loses a word: not done here. */
llava_status tokenize_with_images(const llava_tokenizer *tokenizer, const char *prompt, size_t size,
                                  ids *out, llava_error *err) {
    static const int32_t image = IMAGE_TOKEN_INDEX;
    const size_t before = out->count;
    ids chunk = {0};
    llava_status status;
    bool drops_bos;
    size_t skip = 0;
    LLAVA_TRY_DONE(adds_bos(tokenizer, &chunk, &drops_bos, err));
    for (const char *at = prompt, *end = prompt + size; at;) {
        const char *found = memmem(at, (size_t)(end - at), placeholder, PLACEHOLDER_SIZE);
        LLAVA_TRY_DONE(
            encode_chunk(tokenizer, at, (size_t)((found ? found : end) - at), &chunk, err));
        if (!ids_append(out, chunk.data + skip, chunk.count - skip) ||
            (found && !ids_append(out, &image, 1)))
            LLAVA_TRY_DONE(llava_fail_memory(err, chunk.count * 4, "token ids"));
        at = found ? found + PLACEHOLDER_SIZE : NULL;
        skip = drops_bos;
    }
done:
    if (status != LLAVA_OK) out->count = before;
    ids_free(&chunk);
    return status;
}
