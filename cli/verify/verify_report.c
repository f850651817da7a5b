/* SPDX-License-Identifier: Apache-2.0
 *
 * What was compared and what came of it, for people and for programs.
 */
#include <math.h>
#include <stdlib.h>

#include "verify/verify.h"

#define DETAIL_SIZE 768

llava_status report_new(const char *case_path, verify_report **out, llava_error *err) {
    *out = NULL;
    arena *memory = arena_new();
    verify_report *report = memory ? arena_alloc(memory, sizeof *report) : NULL;
    if (!report) {
        arena_free(&memory);
        return llava_fail_memory(err, sizeof *report, "a report");
    }
    report->memory = memory;
    report->case_path = arena_strdup(memory, case_path);
    *out = report;
    return report->case_path ? LLAVA_OK : llava_fail_memory(err, strlen(case_path), "a report");
}

void verify_report_free(verify_report **report) {
    if (!report || !*report) return;
    free((*report)->stages);
    free((*report)->not_compared);
    arena *memory = (*report)->memory;
    arena_free(&memory);
    *report = NULL;
}

llava_status report_stage(verify_report *report, const char *name, const char *metric, double worst,
                          double limit, const char *format, ...) {
    if (report->n_stages == report->capacity) {
        const size_t capacity = report->capacity ? 2 * report->capacity : 32;
        verify_stage *stages = realloc(report->stages, capacity * sizeof *stages);
        if (!stages) return LLAVA_OUT_OF_MEMORY;
        report->stages = stages;
        report->capacity = capacity;
    }
    verify_stage *stage = &report->stages[report->n_stages];
    *stage = (verify_stage){.name = arena_strdup(report->memory, name),
                            .metric = metric,
                            .worst = worst,
                            .limit = limit,
                            .pass = worst <= limit};
    if (!stage->name) return LLAVA_OUT_OF_MEMORY;
    if (format) {
        char text[DETAIL_SIZE];
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(text, sizeof text, format, arguments);
        va_end(arguments);
        stage->detail = arena_strdup(report->memory, text);
    }
    report->n_stages++;
    return LLAVA_OK;
}

llava_status report_failed_call(verify_report *report, const char *name, const llava_error *err) {
    return report_stage(report, name, "call", 1, 0, "%s", err->message);
}

llava_status report_not_compared(verify_report *report, const char *name, const char *reason) {
    if (report->n_not_compared == report->not_compared_capacity) {
        const size_t capacity = report->n_not_compared ? 2 * report->n_not_compared : 16;
        const char **list = realloc(report->not_compared, capacity * sizeof *list);
        if (!list) return LLAVA_OUT_OF_MEMORY;
        report->not_compared = list;
        report->not_compared_capacity = capacity;
    }
    const char *line = arena_printf(report->memory, "%s: %s", name, reason);
    if (!line) return LLAVA_OUT_OF_MEMORY;
    report->not_compared[report->n_not_compared++] = line;
    return LLAVA_OK;
}

void report_close(verify_report *report) {
    report->pass = !report->skipped && report->n_stages > 0;
    for (size_t i = 0; i < report->n_stages; i++) report->pass &= report->stages[i].pass;
}

/* ---------------------------------------------------------------- printing */

static void print_stage(FILE *out, const verify_stage *stage, int width) {
    fprintf(out, "  %-*s  %-13s  %-9.3g limit %-7.3g %s", width, stage->name, stage->metric,
            stage->worst, stage->limit, stage->pass ? "pass" : "FAIL");
    if (stage->detail) fprintf(out, "  %s", stage->detail);
    fputc('\n', out);
}

void verify_report_print(FILE *out, const verify_report *report) {
    fprintf(out, "%s\n", report->case_path);
    int width = 0;
    for (size_t i = 0; i < report->n_stages; i++)
        width = (int)i64_max(width, (int64_t)strlen(report->stages[i].name));
    for (size_t i = 0; i < report->n_stages; i++) print_stage(out, &report->stages[i], width);
    for (size_t i = 0; i < report->n_not_compared; i++)
        fprintf(out, "  not compared: %s\n", report->not_compared[i]);
    if (report->skipped)
        fprintf(out, "  skipped: %s\n", report->reason);
    else
        fprintf(out, "  %s\n", report->pass ? "passed" : "FAILED");
}

/** JSON has no infinity; the largest double stands for it. */
static json_t *finite_number(double value) { return json_real(isfinite(value) ? value : 1e308); }

static json_t *stage_json(const verify_stage *stage) {
    json_t *object = json_pack("{s:s, s:s, s:o, s:o, s:b}", "name", stage->name, "metric",
                               stage->metric, "worst", finite_number(stage->worst), "limit",
                               finite_number(stage->limit), "pass", stage->pass);
    if (object && stage->detail) {
        /* what a file says may be no UTF-8; the number says enough then */
        json_t *detail = json_string(stage->detail);
        if (detail) json_object_set_new(object, "detail", detail);
    }
    return object;
}

json_t *verify_report_json(const verify_report *report) {
    json_t *stages = json_array(), *missing = json_array();
    for (size_t i = 0; i < report->n_stages; i++)
        json_array_append_new(stages, stage_json(&report->stages[i]));
    for (size_t i = 0; i < report->n_not_compared; i++)
        json_array_append_new(missing, json_string(report->not_compared[i]));
    json_t *object = json_pack("{s:s, s:b, s:o, s:o}", "case", report->case_path, "pass",
                               report->pass, "stages", stages, "not_compared", missing);
    if (object && report->skipped)
        json_object_set_new(object, "skipped", json_string(report->reason));
    return object;
}
