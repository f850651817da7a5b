/* SPDX-License-Identifier: Apache-2.0
 *
 * --help, the words for the shell's completion, and near-miss suggestions, all from the tables.
 */
#include <stdlib.h>

#include "cli.h"

#define HELP_COLUMN      30 /* where descriptions start */
#define NEAREST_MAX_WORD 63

/* ---------------------------------------------------------------- suggestions */

static size_t min3(size_t a, size_t b, size_t c) {
    const size_t ab = a < b ? a : b;
    return ab < c ? ab : c;
}

/** Edit distance of two short words: insert, delete, replace, each at cost one. */
static size_t edit_distance(const char *a, const char *b) {
    size_t row[NEAREST_MAX_WORD + 1];
    const size_t na = strlen(a), nb = strlen(b);
    if (na > NEAREST_MAX_WORD || nb > NEAREST_MAX_WORD) return SIZE_MAX;
    for (size_t j = 0; j <= nb; j++) row[j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            const size_t above = row[j];
            row[j] = min3(above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = above;
        }
    }
    return row[nb];
}

const char *cli_nearest(const char *text, const char *const *words, size_t n_words) {
    const char *best = NULL;
    size_t best_distance = SIZE_MAX;
    for (size_t i = 0; i < n_words; i++) {
        const size_t distance = edit_distance(text, words[i]);
        if (distance < best_distance) {
            best_distance = distance;
            best = words[i];
        }
    }
    /* a third of the letters may be wrong: more is another word */
    return best && best_distance <= 1 + strlen(best) / 3 ? best : NULL;
}

const cli_command *cli_command_find(const char *name) {
    for (size_t i = 0; i < cli_command_count; i++)
        if (strcmp(cli_commands[i].name, name) == 0) return &cli_commands[i];
    return NULL;
}

/* ---------------------------------------------------------------- help */

void cli_print_overview(FILE *out) {
    fprintf(out,
            "llava %s: load a LLaVA checkpoint and ask it about pictures.\n\n"
            "usage: llava COMMAND [OPTIONS]\n\ncommands:\n",
            llava_version());
    for (size_t i = 0; i < cli_command_count; i++)
        fprintf(out, "  %-10s %s\n", cli_commands[i].name, cli_commands[i].summary);
    fprintf(out, "\n'llava COMMAND --help' tells more; 'llava --version' prints the version.\n");
}

static void print_option(FILE *out, const cli_option *option) {
    char left[64];
    if (option->argument)
        snprintf(left, sizeof left, "  --%s %s", option->name, option->argument);
    else
        snprintf(left, sizeof left, "  --%s", option->name);
    fprintf(out, "%-*s %s\n", HELP_COLUMN, left, option->help);
    if (option->choices) fprintf(out, "%-*s (%s)\n", HELP_COLUMN, "", option->choices);
}

void cli_print_help(FILE *out, const cli_command *command) {
    fprintf(out, "usage: llava %s %s\n\n%s\n\noptions:\n", command->name, command->usage,
            command->details);
    for (size_t i = 0; i < cli_option_count; i++)
        if (cli_options[i].commands & command->id) print_option(out, &cli_options[i]);
    fprintf(out, "\nexample:\n  %s\n", command->example);
}

/* ---------------------------------------------------------------- completion */

static void print_choices(const char *choices) {
    for (const char *at = choices; *at; at++) putchar(*at == ' ' ? '\n' : *at);
    putchar('\n');
}

static int print_values(const cli_command *command, const char *name) {
    if (command->id == CMD_COMPARE && (name[0] == 'a' || name[0] == 'b') && name[1] == '-')
        name += 2;
    if (strcmp(name, "conv-mode") == 0) {
        for (size_t i = 0; i < llava_template_count(); i++) puts(llava_template_name(i));
        return 0;
    }
    if (strcmp(name, "device-map") == 0) {
        print_choices("auto balanced balanced_low_0 sequential cpu cuda");
        return 0;
    }
    for (size_t i = 0; i < cli_option_count; i++) {
        const cli_option *option = &cli_options[i];
        if (!(option->commands & command->id) || strcmp(option->name, name) != 0) continue;
        if (option->choices) print_choices(option->choices);
        /* a dot stands for "any text": the script then leaves the word to the user or to files */
        else if (option->argument)
            puts(".");
        return 0;
    }
    return 0;
}

int cli_print_completion(int argc, char **argv) {
    if (argc == 0) {
        for (size_t i = 0; i < cli_command_count; i++) puts(cli_commands[i].name);
        puts("--help\n--version");
        return 0;
    }
    const cli_command *command = cli_command_find(argv[0]);
    if (!command) return 0;
    if (argc > 1) return print_values(command, argv[1]);
    for (size_t i = 0; i < cli_option_count; i++) {
        const cli_option *option = &cli_options[i];
        if (!(option->commands & command->id)) continue;
        printf("--%s\n", option->name);
        if (command->id == CMD_COMPARE && cli_option_has_sides(option))
            printf("--a-%s\n--b-%s\n", option->name, option->name);
    }
    return 0;
}
