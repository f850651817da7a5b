/* SPDX-License-Identifier: Apache-2.0
 *
 * llava verify: recorded calls of the reference, compared stage by stage.
 */
#include "cli.h"
#include "verify/verify.h"

/** Prints or collects one case; false when it did not pass. */
static bool verify_one(const char *path, const verify_options *options, json_t *cases) {
    llava_error err = {0};
    verify_report *report = NULL;
    if (verify_case(path, options, &report, &err) != LLAVA_OK) {
        if (cases)
            json_array_append_new(cases,
                                  json_pack("{s:o, s:b, s:[], s:[], s:o}", "case",
                                            json_clean_string(path, strlen(path)), "pass", 0,
                                            "stages", "not_compared", "error",
                                            json_clean_string(err.message, strlen(err.message))));
        cli_fail(&err);
        return false;
    }
    if (cases)
        json_array_append_new(cases, verify_report_json(report));
    else
        verify_report_print(stdout, report);
    fflush(stdout);
    const bool pass = report->pass;
    verify_report_free(&report);
    return pass;
}

int cmd_verify(const cli_args *args) {
    const verify_options options = {
        .reference = args->reference,
        .dtype = args->load.torch_dtype,
        .load_8bit = args->load.load_8bit,
        .load_4bit = args->load.load_4bit,
        .n_threads = args->load.n_threads,
        .cpu_level = args->load.cpu_level,
    };
    json_t *cases = args->json ? json_array() : NULL;
    bool pass = true;
    for (size_t i = 0; i < args->words.count; i++)
        pass &= verify_one(args->words.items[i], &options, cases);
    if (args->json && !cli_print_json(stdout, json_pack("{s:o}", "cases", cases), true))
        return cli_fail_text("the report could not be printed.");
    return pass ? 0 : EXIT_FAILED;
}
