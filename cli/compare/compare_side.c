/* SPDX-License-Identifier: Apache-2.0
 *
 * One model of a comparison: a question with its answer as rows of the decoder, whose logits are
 * taken a few tokens at a time.
 */
#include <stdlib.h>

#include "compare/compare.h"

#define STEP_ROWS 512 /* most prompt rows of one step */

/* ---------------------------------------------------------------- life */

static llava_status make_buffers(compare_side *side, llava_error *err) {
    const llava_model *model = side->model.loaded.model;
    const size_t hidden = (size_t)side->model.info.hidden_size;
    const size_t n_vocab = (size_t)side->model.info.vocab_size;
    LLAVA_TRY(decoder_scratch_new(model, STEP_ROWS, COMPARE_LOGIT_ROWS,
                                  side->model.info.context_len, &side->scratch, err));
    side->rows = array_new(STEP_ROWS * hidden, sizeof *side->rows);
    side->tokens = array_new(STEP_ROWS, sizeof *side->tokens);
    side->logits = array_new(COMPARE_LOGIT_ROWS * n_vocab, sizeof *side->logits);
    if (side->rows && side->tokens && side->logits) return LLAVA_OK;
    return llava_fail_memory(err, COMPARE_LOGIT_ROWS * n_vocab * sizeof *side->logits, "logits");
}

llava_status compare_side_open(const cli_args *args, int index, compare_side *side,
                               llava_error *err) {
    /* with one MODEL both sides are it */
    const size_t word = args->words.count > 1 ? (size_t)index : 0;
    side->label = index == 0 ? "A" : "B";
    side->args = *args;
    side->args.words = (text_list){args->words.items + word, 1};
    cli_side_apply(&side->args, index);
    const llava_status status = cli_load(&side->args, &side->model, err);
    if (status != LLAVA_OK) return llava_fail_prefix(err, status, "%s: ", side->label);
    side->model.loaded.model->kv_dtype = side->args.kv_dtype;
    return make_buffers(side, err);
}

static void forget_question(compare_side *side) {
    prompt_free(&side->prompt);
    kv_sequence_free(&side->sequence);
    kv_pool_free(&side->pool);
    side->answer.count = 0;
    side->n_done = 0;
}

void compare_side_close(compare_side *side) {
    forget_question(side);
    ids_free(&side->answer);
    decoder_scratch_free(&side->scratch);
    free(side->rows);
    free(side->tokens);
    free(side->logits);
    cli_model_close(&side->model);
}

/* ---------------------------------------------------------------- prompt and answer */

/** The answer's tokens as the model would generate them: without the BOS of a text by itself. */
static llava_status encode_answer(compare_side *side, const char *text, llava_error *err) {
    const llava_tokenizer *tokenizer = side->model.loaded.tokenizer;
    const int32_t bos = tokenizer_bos(tokenizer);
    ids *list = &side->answer;
    LLAVA_TRY(tokenizer_encode(tokenizer, text, strlen(text), list, err));
    if (bos >= 0 && list->count > 0 && list->data[0] == bos)
        memmove(list->data, list->data + 1, --list->count * sizeof *list->data);
    if (list->count > 0) return LLAVA_OK;
    return llava_fail(err, LLAVA_BAD_ARGUMENT, "the answer is empty");
}

static llava_status render(const compare_side *side, const compare_item *item, bytes *out,
                           llava_error *err) {
    bytes text = {0};
    llava_status status = LLAVA_OK;
    if (side->args.raw) {
        if (!bytes_puts(out, item->question)) status = llava_fail_memory(err, 0, "a prompt");
    } else if (cli_with_placeholders(item->question, item->pictures.count, &text)) {
        const llava_message ask = {.role = 0, .text = text.data};
        const cli_dialog dialog = cli_dialog_of(&side->args, &side->model, &ask, 1);
        status = cli_render(&dialog, out, err);
    } else {
        status = llava_fail_memory(err, strlen(item->question), "a question");
    }
    bytes_free(&text);
    return status;
}

/** The prompt's parts and the answer behind them. */
static llava_status make_parts(const compare_side *side, const compare_item *item,
                               const bytes *text, llava_part **parts, size_t *n_parts,
                               llava_error *err) {
    LLAVA_TRY(cli_raw_parts(text->data, text->size, &item->pictures, parts, n_parts, err));
    llava_part *grown = realloc(*parts, (*n_parts + 1) * sizeof *grown);
    if (!grown) return llava_fail_memory(err, (*n_parts + 1) * sizeof *grown, "parts");
    grown[(*n_parts)++] = (llava_part){
        .kind = LLAVA_PART_TOKENS, .ids = side->answer.data, .n_ids = side->answer.count};
    *parts = grown;
    return LLAVA_OK;
}

static llava_status build_prompt(compare_side *side, const compare_item *item, llava_error *err) {
    const llava_loaded *loaded = &side->model.loaded;
    const prompt_source source = {.model = loaded->model,
                                  .tokenizer = loaded->tokenizer,
                                  .processor = loaded->image_processor,
                                  .max_rows = loaded->context_len};
    bytes text = {0};
    llava_part *parts = NULL;
    size_t n_parts = 0;
    llava_status status;
    LLAVA_TRY_DONE(encode_answer(side, item->answer, err));
    LLAVA_TRY_DONE(render(side, item, &text, err));
    LLAVA_TRY_DONE(make_parts(side, item, &text, &parts, &n_parts, err));
    LLAVA_TRY_DONE(prompt_build(&source, parts, n_parts, &side->prompt, err));
    status = prompt_encode_pictures(&source, &side->prompt, 0, err);
done:
    free(parts);
    bytes_free(&text);
    return status;
}

/* ---------------------------------------------------------------- computing */

/** The next n rows; logits of the last n_logits of them. */
static llava_status run_rows(compare_side *side, int64_t n, int64_t n_logits, llava_error *err) {
    const llava_model *model = side->model.loaded.model;
    LLAVA_TRY(prompt_embed(model, &side->prompt, side->n_done, n, side->rows, side->tokens, err));
    LLAVA_TRY(kv_sequence_reserve(&side->sequence, n, err));
    decoder_item item = {.seq = &side->sequence,
                         .rows = side->rows,
                         .n_rows = n,
                         .n_logits = n_logits,
                         .logits = side->logits,
                         .rope_length = side->prompt.n_rows};
    LLAVA_TRY(decoder_step(model, side->scratch, &item, 1, err));
    side->n_done += n;
    return LLAVA_OK;
}

llava_status compare_side_begin(compare_side *side, const compare_item *item, llava_error *err) {
    const llava_model *model = side->model.loaded.model;
    forget_question(side);
    LLAVA_TRY(build_prompt(side, item, err));
    const int64_t n_rows = side->prompt.n_rows;
    /* the row in front of the answer gives its first token's logits */
    const int64_t before = n_rows - (int64_t)side->answer.count - 1;
    if (before < 0) return llava_fail(err, LLAVA_BAD_ARGUMENT, "the prompt is empty");
    LLAVA_TRY(kv_pool_new(model, n_rows + KV_BLOCK_TOKENS, &side->pool, err));
    LLAVA_TRY(kv_sequence_new(side->pool, n_rows, &side->sequence, err));
    while (side->n_done < before)
        LLAVA_TRY(run_rows(side, i64_min(STEP_ROWS, before - side->n_done), 0, err));
    return LLAVA_OK;
}

llava_status compare_side_step(compare_side *side, int64_t n, llava_error *err) {
    return run_rows(side, n, n, err);
}
