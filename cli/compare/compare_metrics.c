/* SPDX-License-Identifier: Apache-2.0
 *
 * How far two distributions over the next token lie apart, summed over tokens. In double precision:
 * the differences in question are often below float32's.
 */
#include <math.h>
#include <stdlib.h>

#include "compare/compare.h"

/** ln sum exp(x). -infinity is an id that is never sampled. */
static double log_sum(const float *x, int64_t n) {
    double largest = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        if (isnan(x[i])) return NAN;
        if (x[i] > largest) largest = x[i];
    }
    for (int64_t i = 0; i < n; i++) sum += exp(x[i] - largest);
    return largest + log(sum);
}

static int64_t likeliest(const float *x, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

/** sum p_a (ln p_a - ln p_b); rounding may leave it a hair below zero, where it cannot be. */
static double divergence(const float *a, double sum_a, const float *b, double sum_b, int64_t n) {
    double total = 0;
    for (int64_t i = 0; i < n; i++) {
        const double log_a = a[i] - sum_a, p = exp(log_a);
        if (p > 0) total += p * (log_a - (b[i] - sum_b));
    }
    return total > 0 ? total : 0;
}

static bool append(compare_totals *t, double kl) {
    if (t->count == t->capacity) {
        const size_t capacity = t->capacity ? 2 * t->capacity : 1024;
        double *grown = realloc(t->kl, capacity * sizeof *grown);
        if (!grown) return false;
        t->kl = grown;
        t->capacity = capacity;
    }
    t->kl[t->count++] = kl;
    return true;
}

llava_status compare_add(compare_totals *t, const float *a, const float *b, int64_t n_vocab,
                         int32_t id, llava_error *err) {
    const double sums[2] = {log_sum(a, n_vocab), log_sum(b, n_vocab)};
    for (int k = 0; k < 2; k++)
        if (!isfinite(sums[k]))
            return llava_fail(err, LLAVA_UNSUPPORTED,
                              "the logits of %c are not all numbers; its torch_dtype may overflow",
                              'A' + k);
    if (!append(t, divergence(a, sums[0], b, sums[1], n_vocab)))
        return llava_fail_memory(err, t->capacity * sizeof *t->kl, "divergences");
    if (t->kl[t->count - 1] > t->kl[t->largest]) t->largest = t->count - 1;
    t->n_agree += likeliest(a, n_vocab) == likeliest(b, n_vocab);
    t->nll[0] += sums[0] - a[id];
    t->nll[1] += sums[1] - b[id];
    return LLAVA_OK;
}

static int by_size(const void *x, const void *y) {
    const double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

compare_summary compare_summarize(const compare_totals *t) {
    const double n = (double)t->count;
    compare_summary s = {.kl_max = t->kl[t->largest],
                         .agreement = (double)t->n_agree / n,
                         .perplexity = {exp(t->nll[0] / n), exp(t->nll[1] / n)}};
    for (size_t i = 0; i < t->count; i++) s.kl_mean += t->kl[i];
    s.kl_mean /= n;
    double *sorted = malloc(t->count * sizeof *sorted);
    if (sorted) {
        memcpy(sorted, t->kl, t->count * sizeof *sorted);
        qsort(sorted, t->count, sizeof *sorted, by_size);
        s.kl_p95 = sorted[(t->count * 95 + 99) / 100 - 1];
    } else {
        s.kl_p95 = NAN; /* no memory for the order */
    }
    free(sorted);
    return s;
}

void compare_totals_free(compare_totals *t) {
    free(t->kl);
    *t = (compare_totals){0};
}
