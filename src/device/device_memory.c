/* SPDX-License-Identifier: Apache-2.0
 *
 * How many devices there are and what is free on them.
 */
#include <stdio.h>

#include "device.h"

#define LINE_SIZE 256

int device_cuda_count(void) { return 0; }

int64_t device_cuda_free_bytes(int index) {
    (void)index;
    return 0;
}

int64_t device_host_free_bytes(void) {
    FILE *file = fopen("/proc/meminfo", "r");
    if (!file) return INT64_MAX;
    char line[LINE_SIZE];
    long long kib = -1;
    while (kib < 0 && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %lld kB", &kib) != 1) kib = -1;
    fclose(file);
    return kib < 0 || kib > INT64_MAX / 1024 ? INT64_MAX : (int64_t)kib * 1024;
}
