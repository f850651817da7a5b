/* SPDX-License-Identifier: Apache-2.0
 *
 * Limits on request, for the comparisons in bench/peers: reads lines "f32 2", "bf16 2" or "read 2"
 * (kind and threads) and answers each with a rate a second.
 */
#include <stdio.h>

#include "limits.h"

int main(void) {
    static const char *const names[] = {"f32", "bf16", "read"};
    char line[64], name[16];
    int n_threads;
    if (!limits_start(LIMITS_READ_BYTES)) return 1;
    while (fgets(line, sizeof line, stdin)) {
        double rate = 0;
        if (sscanf(line, "%15s %d", name, &n_threads) == 2 && n_threads > 0)
            for (size_t i = 0; i < LLAVA_COUNT(names); i++)
                if (strcmp(name, names[i]) == 0) rate = limit_sample((limit_kind)i, n_threads);
        printf("%.6e\n", rate);
        fflush(stdout);
    }
    limits_end();
    return 0;
}
