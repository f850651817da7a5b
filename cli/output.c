/* SPDX-License-Identifier: Apache-2.0
 *
 * What the commands print: errors on stderr, valid JSON on stdout.
 */
#include <math.h>
#include <stdlib.h>

#include "cli.h"

#define JSON_REAL_DIGITS JSON_REAL_PRECISION(9)

int cli_usage_error(const cli_command *command, const char *format, ...) {
    fprintf(stderr, "llava %s: ", command->name);
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, " Try 'llava %s --help'.\n", command->name);
    return EXIT_USAGE;
}

int cli_fail_text(const char *format, ...) {
    fprintf(stderr, "llava: ");
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    return EXIT_FAILED;
}

int cli_fail(const llava_error *err) {
    if (err->code == LLAVA_CANCELLED && cli_interrupted()) return EXIT_INTERRUPTED;
    return cli_fail_text("%s", err->message);
}

/* ---------------------------------------------------------------- JSON */

json_t *cli_json_ids(const int32_t *ids, size_t count) {
    json_t *array = json_array();
    for (size_t i = 0; array && i < count; i++) json_array_append_new(array, json_integer(ids[i]));
    return array;
}

json_t *cli_json_rounded(double value, int digits) {
    const double unit = pow(10, digits);
    return json_real(round(value * unit) / unit);
}

bool cli_print_json(FILE *out, json_t *document, bool indent) {
    char *text = document ? json_dumps(document, JSON_REAL_DIGITS | JSON_ENCODE_ANY |
                                                     (indent ? JSON_INDENT(2) : 0))
                          : NULL;
    json_decref(document);
    const bool ok = text && fputs(text, out) >= 0 && fputc('\n', out) != EOF && fflush(out) == 0;
    free(text);
    return ok;
}

const char *cli_finish_name(llava_finish_reason reason) {
    switch (reason) {
    case LLAVA_FINISH_EOS: return "eos";
    case LLAVA_FINISH_STOP: return "stop";
    case LLAVA_FINISH_LENGTH: return "length";
    case LLAVA_FINISH_CANCELLED: return "cancelled";
    default: return "none";
    }
}
