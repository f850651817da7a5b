/* SPDX-License-Identifier: Apache-2.0
 *
 * Best segmentation of a text by piece scores, for both flavours of unigram models.
 */
#ifndef LLAVA_VITERBI_H
#define LLAVA_VITERBI_H

#include "text/string_map.h"

typedef struct viterbi_model {
    const prefix_index *pieces;
    /** Score of a piece of that many bytes; false: the piece may not be used. */
    bool (*score)(const void *user, int32_t id, size_t size, double *score);
    const void *user;
    double unknown_score;
    int32_t unknown_id;
    bool single_precision; /* sums are rounded to float, as in SentencePiece */
} viterbi_model;

typedef struct viterbi_edge {
    size_t start, end;
    int32_t id;
} viterbi_edge;

/** Edges in order. *edges is malloc'ed. False: out of memory. */
bool viterbi_run(const viterbi_model *model, const char *text, size_t size, viterbi_edge **edges,
                 size_t *n_edges);

#endif
