/* SPDX-License-Identifier: Apache-2.0
 *
 * The command line tool: one table of options, one file per command, and what they share.
 */
#ifndef LLAVA_CLI_H
#define LLAVA_CLI_H

#include <stdio.h>

#include "base/base.h"
#include "base/json.h"
#include "llava.h"

/** Exit statuses, as the manual page lists them. */
enum {
    EXIT_FAILED = 1,       /* the call failed, or a check did */
    EXIT_USAGE = 2,        /* the command line itself is wrong */
    EXIT_INTERRUPTED = 130 /* 128 + SIGINT, as shells report it */
};

/* ---------------------------------------------------------------- commands and options */

typedef enum command_id {
    CMD_RUN = 1 << 0,
    CMD_CHAT = 1 << 1,
    CMD_BATCH = 1 << 2,
    CMD_INFO = 1 << 3,
    CMD_TOKENIZE = 1 << 4,
    CMD_TEMPLATES = 1 << 5,
    CMD_VERIFY = 1 << 6,
    CMD_CONVERT = 1 << 7,
    CMD_PULL = 1 << 8,
    CMD_BENCH = 1 << 9,
    CMD_COMPARE = 1 << 10,
} command_id;

/** A repeatable option's values, in order; the strings belong to argv. */
typedef struct text_list {
    const char **items;
    size_t count;
} text_list;

/** Loading options of one side alone: "--a-torch-dtype float32". Applied after the common ones. */
typedef struct side_setting {
    int side; /* 0: A, 1: B */
    const struct cli_option *option;
    const char *value; /* of argv; NULL for flags */
} side_setting;

typedef struct side_list {
    side_setting *items;
    size_t count;
} side_list;

/** Everything a command line can say. Absent options are zero. */
typedef struct cli_args {
    llava_load_options load;
    llava_generate_options generate;
    text_list images, stop, stop_ids;
    const char *conv_mode, *system;
    const char *data, *output, *reference, *image_size;
    const char *dummy, *tiles, *prompts, *contexts;
    int64_t parallel, context_tokens, repeat;
    llava_dtype kv_dtype; /* of the cache; DEFAULT: as the model computes */
    bool raw, json, stats, print_prompt, decode, prompt, no_question, cpu_time, help;
    side_list sides; /* compare */
    text_list words; /* what is no option */
} cli_args;

typedef struct cli_command {
    command_id id;
    const char *name;
    const char *usage;   /* what follows "llava NAME" */
    const char *summary; /* one line for the overview */
    const char *details; /* paragraphs for --help */
    const char *example;
    size_t min_words, max_words;
    int (*run)(const cli_args *args);
} cli_command;

extern const cli_command cli_commands[];
extern const size_t cli_command_count;

int cmd_run(const cli_args *args);
int cmd_chat(const cli_args *args);
int cmd_batch(const cli_args *args);
int cmd_info(const cli_args *args);
int cmd_tokenize(const cli_args *args);
int cmd_templates(const cli_args *args);
int cmd_verify(const cli_args *args);
int cmd_convert(const cli_args *args);
int cmd_pull(const cli_args *args);
int cmd_compare(const cli_args *args);
int cmd_bench(const cli_args *args);

/** Fills the hub_* options that the command line left open from the environment variables that
 *  huggingface_hub knows. The strings live as long as the process. */
void cli_read_environment(llava_load_options *options);

typedef enum option_kind {
    OPTION_FLAG,  /* bool */
    OPTION_TEXT,  /* const char * */
    OPTION_LIST,  /* text_list */
    OPTION_IDS,   /* text_list of whole numbers */
    OPTION_I64,   /* int64_t */
    OPTION_INT,   /* int */
    OPTION_FLOAT, /* float */
    OPTION_SEED,  /* uint64_t */
    OPTION_DTYPE, /* llava_dtype to compute in */
    OPTION_KV     /* llava_dtype of the cache */
} option_kind;

typedef struct cli_option {
    const char *name;     /* without the dashes */
    const char *argument; /* its placeholder; NULL for flags */
    const char *help;
    const char *choices; /* space separated words for completion and checks, or NULL */
    option_kind kind;
    size_t offset;     /* into cli_args */
    double low, high;  /* bounds of numbers */
    unsigned commands; /* command_id bits */
} cli_option;

extern const cli_option cli_options[];
extern const size_t cli_option_count;

/** Fills args from argv[0..argc) of one command. On a wrong command line prints why and returns
 *  false. cli_args_free() in either case. */
bool cli_parse(const cli_command *command, int argc, char **argv, cli_args *args);
void cli_args_free(cli_args *args);
/** True for options that compare takes for one side alone, too. */
bool cli_option_has_sides(const cli_option *option);
/** Sets what one side of a comparison has of its own. */
void cli_side_apply(cli_args *args, int side);

const cli_command *cli_command_find(const char *name);
/** The word of `words` nearest to `text`, or NULL when none is near. */
const char *cli_nearest(const char *text, const char *const *words, size_t n_words);

void cli_print_overview(FILE *out);
void cli_print_help(FILE *out, const cli_command *command);
/** Words for the shell's completion: commands, a command's options, or an option's choices. */
int cli_print_completion(int argc, char **argv);

/* ---------------------------------------------------------------- output */

/** "llava NAME: message. Try ..." on stderr; returns EXIT_USAGE. */
int cli_usage_error(const cli_command *command, const char *format, ...) LLAVA_PRINTF(2, 3);
/** The error's sentence on stderr; returns EXIT_FAILED (EXIT_INTERRUPTED when cancelled). */
int cli_fail(const llava_error *err);
int cli_fail_text(const char *format, ...) LLAVA_PRINTF(1, 2);

json_t *cli_json_ids(const int32_t *ids, size_t count);
/** Prints one document and a newline, releases it. False when it could not be written. */
bool cli_print_json(FILE *out, json_t *document, bool indent);
const char *cli_finish_name(llava_finish_reason reason);
/** A double with `digits` decimals, for times that need no 17 digits. */
json_t *cli_json_rounded(double value, int digits);

/* ---------------------------------------------------------------- models and pictures */

typedef struct cli_model {
    llava_loaded loaded;
    llava_model_info info;
    double load_ms;
} cli_model;

/** A progress bar on stderr, drawn only when that is a terminal. */
typedef struct cli_progress {
    bool visible;
    double drawn_ms;
} cli_progress;

/** A llava_progress_fn; false once Ctrl-C was pressed. user is a cli_progress. */
bool cli_on_progress(void *user, uint64_t done, uint64_t total, const char *what);
/** The loading options of the command line, with words.items[0] as the model and the bar. */
llava_load_options cli_load_options(const cli_args *args, cli_progress *bar);
void cli_progress_end(const cli_progress *bar);

/** Loads words.items[0], with a progress bar when stderr is a terminal. */
llava_status cli_load(const cli_args *args, cli_model *model, llava_error *err);
void cli_model_close(cli_model *model);

typedef struct picture_list {
    llava_image **items;
    size_t count;
} picture_list;

/** Opens one more file. */
llava_status cli_picture_add(picture_list *list, const char *path, llava_error *err);
void cli_pictures_free(picture_list *list);

size_t cli_count_placeholders(const char *text);
/** Puts "<image>\n" in front once per picture when the text names none at all. */
bool cli_with_placeholders(const char *text, size_t n_pictures, bytes *out);
/** The prompt's parts at each "<image>", pictures in order. The array is the caller's. */
llava_status cli_raw_parts(const char *prompt, size_t size, const picture_list *pictures,
                           llava_part **parts, size_t *n_parts, llava_error *err);
/** What a conversation is rendered with. */
typedef struct cli_dialog {
    const char *template_name;
    const char *system;         /* NULL: the template's own */
    const llava_loaded *loaded; /* for its own template; NULL: none */
    bool wrap;                  /* <im_start> and <im_end> around every placeholder */
    const llava_message *messages;
    size_t n_messages;
} cli_dialog;

/** Renders the messages and the open turn that follows them. */
llava_status cli_render(const cli_dialog *dialog, bytes *prompt, llava_error *err);
/** The dialog that the arguments and the model make of some messages; model NULL: not loaded. */
cli_dialog cli_dialog_of(const cli_args *args, const cli_model *model,
                         const llava_message *messages, size_t n_messages);
/** The dialog -> the session: rendered, split, fed. */
llava_status cli_ask(llava_session *session, const cli_dialog *dialog, const picture_list *pictures,
                     llava_error *err);

/** False, and a usage error on stderr, when --conv-mode names no template. */
bool cli_check_template(const cli_command *command, const char *name);

/** The generation options with stop strings and ids. */
typedef struct cli_generation {
    llava_generate_options options;
    const char **stop;
    int32_t *stop_ids;
} cli_generation;

llava_status cli_generation_make(const cli_args *args, const cli_model *model,
                                 cli_generation *generation, llava_error *err);
void cli_generation_free(cli_generation *generation);

/** SIGINT cancels this session from now on (NULL: none; a second SIGINT ends the process). */
void cli_catch_interrupt(llava_session *session);
/** Ctrl-C ends the process again. */
void cli_release_interrupt(void);
bool cli_interrupted(void);
void cli_clear_interrupt(void);

/** All of standard input or of a file, at most max_size bytes. */
llava_status cli_read_stream(FILE *in, size_t max_size, bytes *content, llava_error *err);

#endif
