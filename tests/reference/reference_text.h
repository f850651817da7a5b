/* SPDX-License-Identifier: Apache-2.0
 *
 * Parts of the text suite and what they share.
 */
#ifndef LLAVA_REFERENCE_TEXT_H
#define LLAVA_REFERENCE_TEXT_H

#include "support/reference.h"
#include "text/tokenizer.h"

/** Called for each line of a .jsonl file. */
typedef void (*row_fn)(void *user, const json_t *row);

/** False: the file is not there. */
bool each_row(const char *path, row_fn row, void *user);
/** Parses a whole file; NULL when it is not there. */
json_t *read_json(const char *folder, const char *name);

/** Opens the tokenizer of a recorded call: "slow" or "fast", "+patch", "+startend". */
llava_status open_call(const char *directory, const char *call, const json_t *flags,
                       llava_tokenizer **tokenizer, llava_error *err);

bool same_ids(const ids *list, const json_t *expected);
void ids_of_json(const json_t *array, ids *list);
/** Equal, the space symbol counting as a space where the reference left it standing. */
bool same_text(const bytes *text, const json_t *expected, bool symbols_are_spaces);
/** A short form of a row for messages; valid until the next call. */
const char *row_text(const json_t *row);

bool check_tokenizers(const char *folder);
bool check_components(const char *folder);
bool check_conversations(const char *folder);
bool check_image_tokens(const char *folder);
bool check_qwen_pieces(const char *folder);
bool check_real_vocabularies(const char *folder);

#endif
