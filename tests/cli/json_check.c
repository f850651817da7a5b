/* SPDX-License-Identifier: Apache-2.0
 *
 * Says whether standard input is valid JSON: one document, or with --lines one a line.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FLAGS (JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL)

static int check(const char *text, size_t size) {
    json_error_t error;
    json_t *root = json_loadb(text, size, FLAGS, &error);
    if (!root) printf("line %d, column %d: %s\n", error.line, error.column, error.text);
    json_decref(root);
    return root ? 0 : 1;
}

int main(int argc, char **argv) {
    char *text = NULL;
    size_t capacity = 0;
    const int by_line = argc > 1 && strcmp(argv[1], "--lines") == 0;
    int bad = 0, n = 0;
    ssize_t size;
    while ((size = getdelim(&text, &capacity, by_line ? '\n' : '\0', stdin)) > 0) {
        bad += check(text, (size_t)size);
        n++;
    }
    free(text);
    if (n == 0 || bad)
        puts("not valid JSON");
    else
        puts("valid JSON");
    return n == 0 || bad;
}
