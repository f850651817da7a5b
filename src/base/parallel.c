/* SPDX-License-Identifier: Apache-2.0
 *
 * Parallel loops on OpenMP: workers spin for a moment after a loop, then sleep.
 */
#include <omp.h>

#include "base.h"

void parallel_for(int n_threads, int64_t count, parallel_fn fn, void *user) {
    const int team = (int)i64_min(n_threads, count);
    if (team <= 1) {
        for (int64_t i = 0; i < count; i++) fn(user, i);
        return;
    }
#pragma omp parallel for num_threads(team) schedule(dynamic, 1)
    for (int64_t i = 0; i < count; i++) fn(user, i);
}

int parallel_index(void) { return omp_get_thread_num(); }

int processor_count(void) { return omp_get_num_procs(); }
