/* SPDX-License-Identifier: Apache-2.0
 *
 * Timing with the limit sampled right before and after each run; medians.
 */
#include <stdlib.h>

#include "bench.h"

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, compare);
    return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

void bench_add(bench *b, const bench_subject *s, double *ms, double *limits, int n) {
    if (b->n_figures == LLAVA_COUNT(b->figures)) return;
    double rates[BENCH_MAX_REPEATS], fractions[BENCH_MAX_REPEATS];
    for (int i = 0; i < n; i++) {
        rates[i] = s->work / (ms[i] * 1e-3);
        fractions[i] = s->work > 0 ? rates[i] / limits[i] : 0;
    }
    bench_figure *f = &b->figures[b->n_figures++];
    *f = (bench_figure){
        .name = s->name, .unit = s->unit, .size = s->size, .limited = s->work > 0, .kind = s->kind};
    f->ms = median(ms, n);
    f->per_second = s->n_units / (f->ms * 1e-3);
    if (!f->limited) return;
    f->rate = median(rates, n);
    f->limit = median(limits, n);
    f->fraction = median(fractions, n);
}

llava_status bench_measure(bench *b, const bench_subject *s, llava_error *err) {
    double ms[BENCH_MAX_REPEATS], limits[BENCH_MAX_REPEATS];
    const int n_threads = b->model->dev->n_threads;
    b->size = s->size;
    LLAVA_TRY(s->run(b, s->user, err));
    for (int i = 0; i < b->n_repeats; i++) {
        const double before = s->work > 0 ? limit_sample(s->kind, n_threads) : 0;
        const double start = limits_ms();
        LLAVA_TRY(s->run(b, s->user, err));
        ms[i] = limits_ms() - start;
        limits[i] = s->work > 0 ? 0.5 * (before + limit_sample(s->kind, n_threads)) : 0;
    }
    bench_add(b, s, ms, limits, b->n_repeats);
    return LLAVA_OK;
}
