/* SPDX-License-Identifier: Apache-2.0
 *
 * Every recorded call under traces/ through the stages of llava verify. LLAVA_CPU_LEVEL forces an
 * instruction set.
 */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "support/reference.h"
#include "verify/verify.h"

static int is_case(const struct dirent *entry) {
    const size_t size = strlen(entry->d_name);
    return entry->d_name[0] != '.' && size > 5 && strcmp(entry->d_name + size - 5, ".json") == 0;
}

static int is_folder(const struct dirent *entry) { return entry->d_name[0] != '.'; }

/** Names every stage that failed. */
static void report_failure(reference_count *count, const char *name, const verify_report *report) {
    for (size_t i = 0; i < report->n_stages; i++) {
        const verify_stage *stage = &report->stages[i];
        if (!stage->pass)
            printf("traces:   %s %s: %s %.3g, limit %.3g%s%s\n", name, stage->name, stage->metric,
                   stage->worst, stage->limit, stage->detail ? "; " : "",
                   stage->detail ? stage->detail : "");
    }
    reference_fail(count, name, "%zu stages compared", report->n_stages);
}

static void run_case(reference_count *count, const char *root, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/traces/%s", root, name);
    const verify_options options = {.reference = root, .cpu_level = getenv("LLAVA_CPU_LEVEL")};
    verify_report *report = NULL;
    llava_error err = {0};
    if (verify_case(path, &options, &report, &err) != LLAVA_OK)
        reference_fail(count, name, "%s", err.message);
    else if (report->skipped)
        reference_skip(count, name, "%s", report->reason);
    else if (report->pass)
        reference_pass(count);
    else
        report_failure(count, name, report);
    verify_report_free(&report);
    fflush(stdout);
}

static void run_folder(reference_count *count, const char *root, const char *folder) {
    char path[4096];
    snprintf(path, sizeof path, "%s/traces/%s", root, folder);
    struct dirent **cases;
    const int n = scandir(path, &cases, is_case, alphasort);
    for (int i = 0; i < n; i++) {
        char name[600];
        snprintf(name, sizeof name, "%s/%s", folder, cases[i]->d_name);
        run_case(count, root, name);
        free(cases[i]);
    }
    if (n >= 0) free(cases); /* else: a file, not a folder */
}

int main(void) {
    const char *root = reference_folder();
    char path[4096];
    snprintf(path, sizeof path, "%s/traces", root);
    struct dirent **folders;
    const int n = scandir(path, &folders, is_folder, alphasort);
    if (n < 0) {
        printf("traces: there is no folder %s\n", path);
        return 0;
    }
    reference_count count = {.folder = "traces"};
    for (int i = 0; i < n; i++) {
        run_folder(&count, root, folders[i]->d_name);
        free(folders[i]);
    }
    free(folders);
    return reference_close(&count) ? 0 : 1;
}
