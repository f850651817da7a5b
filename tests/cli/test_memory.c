/* SPDX-License-Identifier: Apache-2.0
 *
 * What llava info says that a checkpoint and a session take is held against what a run then takes:
 * the largest resident size of its process, beside that of the program alone, within LIMIT.
 *
 *     test_memory LLAVA CHECKPOINT [OPTION]...   (options of llava run and info alike)
 */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define LIMIT          0.05
#define CONTEXT_TOKENS "512"
#define MAX_ARGUMENTS  32

typedef struct child {
    pid_t pid;
    FILE *output;
} child;

static child start(const char **arguments) {
    int ends[2];
    child c = {.pid = -1};
    if (pipe(ends) != 0) return c;
    c.pid = fork();
    if (c.pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        execv(arguments[0], (char *const *)arguments);
        _exit(127);
    }
    close(ends[1]);
    c.output = fdopen(ends[0], "r");
    return c;
}

/** Runs to the end; the largest resident size in bytes, or -1 when it failed. */
static double run_child(const char **arguments, json_t **document) {
    child c = start(arguments);
    if (c.pid < 0 || !c.output) return -1;
    if (document) *document = json_loadf(c.output, JSON_DISABLE_EOF_CHECK, NULL);
    while (fgetc(c.output) != EOF) {
    }
    fclose(c.output);
    int status;
    struct rusage usage;
    if (wait4(c.pid, &status, 0, &usage) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return -1;
    return 1024.0 * (double)usage.ru_maxrss; /* Linux counts in KiB */
}

static double predicted_bytes(const char *llava, const char *checkpoint, int n, char **options) {
    const char *arguments[MAX_ARGUMENTS] = {
        llava, "info", checkpoint, "--json", "--context-tokens", CONTEXT_TOKENS};
    for (int i = 0; i < n; i++) arguments[6 + i] = options[i];
    json_t *document = NULL;
    if (run_child(arguments, &document) < 0) return -1;
    const double total = (double)json_integer_value(
        json_object_get(json_object_get(document, "session"), "total_bytes"));
    json_decref(document);
    return total;
}

static double used_bytes(const char *llava, const char *checkpoint, int n, char **options) {
    /* long enough to fill the cache */
    char prompt[2 * 240 + 1];
    for (int i = 0; i < 240; i++) memcpy(prompt + 2 * i, "a ", 3);
    const char *arguments[MAX_ARGUMENTS] = {llava,
                                            "run",
                                            checkpoint,
                                            prompt,
                                            "--raw",
                                            "--context-tokens",
                                            CONTEXT_TOKENS,
                                            "--max-new-tokens",
                                            "4",
                                            "--ignore-eos"};
    for (int i = 0; i < n; i++) arguments[10 + i] = options[i];
    return run_child(arguments, NULL);
}

int main(int argc, char **argv) {
    if (argc < 3 || argc > MAX_ARGUMENTS - 12) return 2;
    const double predicted = predicted_bytes(argv[1], argv[2], argc - 3, argv + 3);
    const char *version[] = {argv[1], "--version", NULL};
    const double program = run_child(version, NULL); /* libraries, before anything is loaded */
    const double used = used_bytes(argv[1], argv[2], argc - 3, argv + 3) - program;
    if (predicted <= 0 || program <= 0 || used <= 0) {
        printf("memory: a command failed\n");
        return 1;
    }
    const double off = fabs(predicted - used) / used;
    printf("memory: predicted %.1f MiB, used %.1f MiB, off by %.1f %%, limit %.0f %%\n",
           predicted / 1048576, used / 1048576, 100 * off, 100 * LIMIT);
    return off <= LIMIT ? 0 : 1;
}
