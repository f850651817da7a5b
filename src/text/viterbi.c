/* SPDX-License-Identifier: Apache-2.0
 *
 * Viterbi over byte positions, left to right; a later path replaces only when strictly better.
 */
#include <stdlib.h>

#include "text/characters.h"
#include "text/viterbi.h"

typedef struct node {
    double score;
    size_t start; /* of the edge that ends here */
    int32_t id;
    bool reached;
} node;

static void relax(const viterbi_model *model, node *nodes, size_t start, size_t end, int32_t id,
                  double score) {
    double candidate = nodes[start].score + score;
    if (model->single_precision) candidate = (double)(float)candidate;
    if (nodes[end].reached && candidate <= nodes[end].score) return;
    nodes[end] = (node){candidate, start, id, true};
}

static void relax_from(const viterbi_model *model, node *nodes, const char *text, size_t size,
                       size_t start, size_t char_size) {
    bool has_single = false;
    prefix_walk walk;
    prefix_walk_start(model->pieces, &walk);
    for (size_t i = start; i < size && model->pieces->count; i++) {
        int32_t id;
        if (!prefix_walk_step(model->pieces, &walk, (uint8_t)text[i], &id)) break;
        double score;
        if (id < 0 || !model->score(model->user, id, i + 1 - start, &score)) continue;
        relax(model, nodes, start, i + 1, id, score);
        if (i + 1 - start == char_size) has_single = true;
    }
    if (!has_single)
        relax(model, nodes, start, start + char_size, model->unknown_id, model->unknown_score);
}

bool viterbi_run(const viterbi_model *model, const char *text, size_t size, viterbi_edge **edges,
                 size_t *n_edges) {
    *edges = NULL;
    *n_edges = 0;
    node *nodes = array_new(size + 1, sizeof *nodes);
    if (!nodes) return false;
    nodes[0].reached = true;
    /* Only starts of characters are entered; pieces are whole characters, so ends are too, except
     * for pieces of broken UTF-8, whose ends inside a character are never left again. */
    for (size_t start = 0; start < size;) {
        const size_t char_size = utf8_length(text + start, size - start);
        if (nodes[start].reached) relax_from(model, nodes, text, size, start, char_size);
        start += char_size;
    }
    size_t count = 0;
    for (size_t end = size; end; end = nodes[end].start) count++;
    viterbi_edge *path = array_new(count, sizeof *path);
    if (path) {
        size_t at = count;
        for (size_t end = size; end; end = nodes[end].start)
            path[--at] = (viterbi_edge){nodes[end].start, end, nodes[end].id};
        *edges = path;
        *n_edges = count;
    }
    free(nodes);
    return path != NULL;
}
