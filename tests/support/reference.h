/* SPDX-License-Identifier: Apache-2.0
 *
 * What the programs of the reference suite share: where the recorded data lies, and the count
 * that each folder ends with.
 */
#ifndef LLAVA_TEST_REFERENCE_H
#define LLAVA_TEST_REFERENCE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

/** LLAVA_REFERENCE, else the project's own small selection. */
static inline const char *reference_folder(void) {
    const char *folder = getenv("LLAVA_REFERENCE");
    if (!folder || !folder[0]) folder = getenv("LLAVA_REFERENCE_DEFAULT");
    return folder ? folder : "tests/reference/data";
}

typedef struct reference_count {
    const char *folder; /* as printed: "traces" */
    int passed, failed, skipped;
} reference_count;

static inline void reference_pass(reference_count *count) { count->passed++; }

__attribute__((format(printf, 3, 4))) static inline void
reference_fail(reference_count *count, const char *name, const char *format, ...) {
    va_list args;
    va_start(args, format);
    printf("%s: FAILED %s: ", count->folder, name);
    vprintf(format, args);
    printf("\n");
    va_end(args);
    count->failed++;
}

__attribute__((format(printf, 3, 4))) static inline void
reference_skip(reference_count *count, const char *name, const char *format, ...) {
    va_list args;
    va_start(args, format);
    printf("%s: skipped %s: ", count->folder, name);
    vprintf(format, args);
    printf("\n");
    va_end(args);
    count->skipped++;
}

/** Prints the folder's closing line; true if nothing failed. */
static inline bool reference_close(const reference_count *count) {
    printf("%s: %d cases, %d passed, %d failed, %d skipped\n", count->folder,
           count->passed + count->failed + count->skipped, count->passed, count->failed,
           count->skipped);
    return count->failed == 0;
}

#endif
