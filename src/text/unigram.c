/* SPDX-License-Identifier: Apache-2.0
 *
 * The unigram model of tokenizer.json: sums in double precision, unknown runs fused.
 */
#include <stdlib.h>

#include "text/byte_pairs.h"
#include "text/characters.h"
#include "text/viterbi.h"

static bool piece_score(const void *user, int32_t id, size_t size, double *score) {
    (void)size;
    *score = ((const unigram_model *)user)->scores[id];
    return true;
}

/* The fused text may itself be a token; otherwise bytes, otherwise the unknown token. */
static bool append_unknown(const unigram_model *model, const vocabulary *v, span text, ids *out) {
    const int32_t id = vocabulary_id(v, text);
    if (id >= 0) return ids_append(out, &id, 1);
    bool bytes_exist = model->byte_fallback;
    for (size_t i = 0; bytes_exist && i < text.size; i++)
        bytes_exist = model->byte_ids[(uint8_t)text.data[i]] >= 0;
    if (!bytes_exist) return ids_append(out, &model->unk_id, 1);
    for (size_t i = 0; i < text.size; i++)
        if (!ids_append(out, &model->byte_ids[(uint8_t)text.data[i]], 1)) return false;
    return true;
}

static llava_status append_edges(const unigram_model *model, const vocabulary *v, const char *text,
                                 const viterbi_edge *edges, size_t n_edges, ids *out) {
    for (size_t i = 0; i < n_edges;) {
        const size_t start = edges[i].start;
        size_t next = i + 1;
        if (edges[i].id != model->unk_id) {
            if (!ids_append(out, &edges[i].id, 1)) return LLAVA_OUT_OF_MEMORY;
        } else if (model->unk_id < 0) {
            return LLAVA_MALFORMED;
        } else {
            while (next < n_edges && edges[next].id == model->unk_id) next++;
            const span unknown = {text + start, edges[next - 1].end - start};
            if (!append_unknown(model, v, unknown, out)) return LLAVA_OUT_OF_MEMORY;
        }
        i = next;
    }
    return LLAVA_OK;
}

llava_status unigram_encode(const unigram_model *model, const vocabulary *v, const char *text,
                            size_t size, ids *out, llava_error *err) {
    const viterbi_model viterbi = {.pieces = &model->pieces,
                                   .score = piece_score,
                                   .user = model,
                                   .unknown_score = model->min_score - 10,
                                   .unknown_id = model->unk_id};
    viterbi_edge *edges;
    size_t n_edges;
    if (!size) return LLAVA_OK;
    if (!viterbi_run(&viterbi, text, size, &edges, &n_edges))
        return llava_fail_memory(err, size, "encoding text");
    const llava_status status = append_edges(model, v, text, edges, n_edges, out);
    free(edges);
    if (status == LLAVA_OUT_OF_MEMORY) return llava_fail_memory(err, size, "token ids");
    if (status == LLAVA_MALFORMED)
        return llava_fail(err, status,
                          "the unigram model has no unk_id and the text has an unknown character");
    return LLAVA_OK;
}
