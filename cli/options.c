/* SPDX-License-Identifier: Apache-2.0
 *
 * The one table of options. Parsing, --help and completion all read it, so they cannot disagree.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "cli.h"
#include "tensor/tensor.h"

#define MODEL                                                                                      \
    (CMD_RUN | CMD_CHAT | CMD_BATCH | CMD_INFO | CMD_TOKENIZE | CMD_CONVERT | CMD_BENCH |          \
     CMD_COMPARE)
#define ANSWER    (CMD_RUN | CMD_CHAT | CMD_BATCH)
#define HUB       (MODEL | CMD_PULL)
#define ALL       (MODEL | CMD_TEMPLATES | CMD_VERIFY | CMD_PULL)
#define AT(field) offsetof(cli_args, field)

const cli_option cli_options[] = {
    /* load_pretrained_model's parameters */
    {"model-base", "DIR", "base model that an adapter or projector belongs to", NULL, OPTION_TEXT,
     AT(load.model_base), 0, 0, MODEL},
    {"model-name", "NAME", "name to judge the checkpoint by (default: its directory's)", NULL,
     OPTION_TEXT, AT(load.model_name), 0, 0, MODEL},
    {"load-8bit", NULL, "quantize to int8 while loading", NULL, OPTION_FLAG, AT(load.load_8bit), 0,
     0, MODEL | CMD_VERIFY},
    {"load-4bit", NULL, "quantize to NF4 while loading", NULL, OPTION_FLAG, AT(load.load_4bit), 0,
     0, MODEL | CMD_VERIFY},
    {"quantization-config", "JSON", "fields of BitsAndBytesConfig for --load-4bit or --load-8bit",
     NULL, OPTION_TEXT, AT(load.quantization_config), 0, 0, MODEL},
    {"device-map", "MAP", "where the weights go: a word, or a JSON object of modules", NULL,
     OPTION_TEXT, AT(load.device_map), 0, 0, MODEL},
    {"max-memory", "JSON", "object of devices with what they may hold (default: what is free)",
     NULL, OPTION_TEXT, AT(load.max_memory), 0, 0, MODEL},
    {"torch-dtype", "TYPE", "type to compute in (default float16; verify: the case's)",
     "float16 bfloat16 float32", OPTION_DTYPE, AT(load.torch_dtype), 0, 0, MODEL | CMD_VERIFY},
    {"attn-implementation", "NAME", "attention to ask for (info says what runs)",
     "eager sdpa flash_attention_2 none", OPTION_TEXT, AT(load.attn_implementation), 0, 0, MODEL},
    {"customized-config", "JSON", "a whole configuration in place of config.json", NULL,
     OPTION_TEXT, AT(load.customized_config), 0, 0, MODEL},
    {"overwrite-config", "JSON", "object of attributes to change in config.json", NULL, OPTION_TEXT,
     AT(load.overwrite_config), 0, 0, MODEL},
    {"multimodal", NULL, "load as a multimodal model whatever the name says", NULL, OPTION_FLAG,
     AT(load.multimodal), 0, 0, MODEL},
    {"threads", "N", "threads to compute with (default: one per processor)", NULL, OPTION_INT,
     AT(load.n_threads), 0, 4096, MODEL | CMD_VERIFY},
    {"cpu-level", "NAME", "instruction set (default: the best there is)",
     "c avx2 avx512 avx512vnni avx512bf16 neon neonbf16", OPTION_TEXT, AT(load.cpu_level), 0, 0,
     MODEL | CMD_VERIFY},

    /* the Hub; defaults come from HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE */
    {"hub-cache", "DIR", "cache for Hub ids in place of directories (default: as Python's)", NULL,
     OPTION_TEXT, AT(load.hub_cache), 0, 0, HUB},
    {"revision", "NAME", "branch, tag or commit of a Hub id (default main)", NULL, OPTION_TEXT,
     AT(load.hub_revision), 0, 0, HUB},
    {"offline", NULL, "use what the cache has and ask nobody", NULL, OPTION_FLAG,
     AT(load.hub_offline), 0, 0, HUB},

    /* the prompt */
    {"image", "FILE", "picture to attach; may be repeated, kept in order", NULL, OPTION_LIST,
     AT(images), 0, 0, CMD_RUN | CMD_CHAT | CMD_BENCH},
    {"conv-mode", "NAME", "conversation template, or 'checkpoint' for its own (default: chosen)",
     NULL, OPTION_TEXT, AT(conv_mode), 0, 0, ANSWER | CMD_COMPARE},
    {"system", "TEXT", "system message in place of the template's own", NULL, OPTION_TEXT,
     AT(system), 0, 0, ANSWER | CMD_COMPARE},
    {"raw", NULL, "take the prompt as it stands, without a template", NULL, OPTION_FLAG, AT(raw), 0,
     0, CMD_RUN | CMD_BATCH | CMD_COMPARE},
    {"print-prompt", NULL, "print the rendered prompt and stop", NULL, OPTION_FLAG,
     AT(print_prompt), 0, 0, CMD_RUN},
    {"kv-dtype", "TYPE", "type of cached keys and values (default: as torch-dtype)",
     "float16 bfloat16 float32 int8", OPTION_KV, AT(kv_dtype), 0, 0,
     ANSWER | CMD_COMPARE | CMD_BENCH},
    {"context-tokens", "N", "positions the cache has room for (default: the model's context)", NULL,
     OPTION_I64, AT(context_tokens), 1, 1e9, ANSWER | CMD_INFO},

    /* generation */
    {"max-new-tokens", "N", "longest answer (default: as far as the context reaches)", NULL,
     OPTION_I64, AT(generate.max_new_tokens), 1, 1e9, ANSWER},
    {"min-new-tokens", "N", "shortest answer", NULL, OPTION_I64, AT(generate.min_new_tokens), 0,
     1e9, ANSWER},
    {"do-sample", NULL, "sample, at the checkpoint's temperature unless --temperature is given",
     NULL, OPTION_FLAG, AT(generate.do_sample), 0, 0, ANSWER},
    {"temperature", "T", "sample at this temperature; 0 takes the likeliest token", NULL,
     OPTION_FLOAT, AT(generate.temperature), 0, 1e6, ANSWER},
    {"top-k", "N", "sample among the N likeliest; -1 for no limit", NULL, OPTION_INT,
     AT(generate.top_k), -1, 1e9, ANSWER},
    {"top-p", "P", "sample among the likeliest that together reach P", NULL, OPTION_FLOAT,
     AT(generate.top_p), 0, 1, ANSWER},
    {"num-beams", "N", "beam search over N beams", NULL, OPTION_INT, AT(generate.num_beams), 1, 64,
     ANSWER},
    {"length-penalty", "X", "exponent of the length in a beam's score", NULL, OPTION_FLOAT,
     AT(generate.length_penalty), -1e3, 1e3, ANSWER},
    {"repetition-penalty", "X", "divide the scores of tokens already there by X", NULL,
     OPTION_FLOAT, AT(generate.repetition_penalty), 0, 1e6, ANSWER},
    {"no-repeat-ngram-size", "N", "never repeat N tokens in a row", NULL, OPTION_INT,
     AT(generate.no_repeat_ngram_size), 0, 1e6, ANSWER},
    {"seed", "N", "seed of the random numbers; the same seed gives the same answer", NULL,
     OPTION_SEED, AT(generate.seed), 0, 0, ANSWER},
    {"stop", "TEXT", "end the answer before this text; may be repeated", NULL, OPTION_LIST,
     AT(stop), 0, 0, ANSWER},
    {"stop-id", "ID", "end the answer at this token id; may be repeated", NULL, OPTION_IDS,
     AT(stop_ids), 0, INT32_MAX, ANSWER},
    {"ignore-eos", NULL, "go on after end tokens, up to --max-new-tokens", NULL, OPTION_FLAG,
     AT(generate.ignore_eos), 0, 0, ANSWER},
    {"keep-special-tokens", NULL, "leave special tokens in the text", NULL, OPTION_FLAG,
     AT(generate.keep_special_tokens), 0, 0, ANSWER},

    /* batch */
    {"data", "FILE", "questions (and answers), one JSON object a line", NULL, OPTION_TEXT, AT(data),
     0, 0, CMD_BATCH | CMD_COMPARE},
    {"output", "FILE", "answers; lines already there are not asked again (default: stdout)", NULL,
     OPTION_TEXT, AT(output), 0, 0, CMD_BATCH},
    {"parallel", "N", "questions answered at a time (default 4)", NULL, OPTION_I64, AT(parallel), 1,
     1024, CMD_BATCH},

    /* bench */
    {"dummy", "FILE", "a config.json; random weights of its shapes in place of MODEL", NULL,
     OPTION_TEXT, AT(dummy), 0, 0, CMD_BENCH},
    {"tiles", "LIST", "tower inputs at a time (default 1,5; 0 for none)", NULL, OPTION_TEXT,
     AT(tiles), 0, 0, CMD_BENCH},
    {"prompts", "LIST", "lengths of prompts (default 512,2048; 0 for none)", NULL, OPTION_TEXT,
     AT(prompts), 0, 0, CMD_BENCH},
    {"contexts", "LIST", "tokens in the cache while generating (default 64,2048; 0 for none)", NULL,
     OPTION_TEXT, AT(contexts), 0, 0, CMD_BENCH},
    {"no-question", NULL, "leave out the whole question", NULL, OPTION_FLAG, AT(no_question), 0, 0,
     CMD_BENCH},
    {"cpu-time", NULL, "one thread, processor time: for a machine that others use, too", NULL,
     OPTION_FLAG, AT(cpu_time), 0, 0, CMD_BENCH},
    {"repeat", "N", "runs of each stage, whose median counts (default 3)", NULL, OPTION_I64,
     AT(repeat), 1, 101, CMD_BENCH},

    /* the rest */
    {"image-size", "WxH", "count the tokens of a picture of this size", NULL, OPTION_TEXT,
     AT(image_size), 0, 0, CMD_INFO},
    {"decode", NULL, "ids to text: each input is a list of ids", NULL, OPTION_FLAG, AT(decode), 0,
     0, CMD_TOKENIZE},
    {"prompt", NULL, "split at <image>; a picture's place gets the id -200", NULL, OPTION_FLAG,
     AT(prompt), 0, 0, CMD_TOKENIZE},
    {"reference", "DIR", "folder that paths in a case start from", NULL, OPTION_TEXT, AT(reference),
     0, 0, CMD_VERIFY},
    {"stats", NULL, "print times and tokens per second to stderr", NULL, OPTION_FLAG, AT(stats), 0,
     0, ANSWER},
    {"json", NULL, "one JSON document in place of text", NULL, OPTION_FLAG, AT(json), 0, 0,
     CMD_RUN | CMD_INFO | CMD_TEMPLATES | CMD_VERIFY | CMD_BENCH | CMD_COMPARE},
    {"help", NULL, "print this help", NULL, OPTION_FLAG, AT(help), 0, 0, ALL},
};
const size_t cli_option_count = LLAVA_COUNT(cli_options);

/* ---------------------------------------------------------------- values */

static bool list_append(text_list *list, const char *text) {
    const char **items = realloc(list->items, (list->count + 1) * sizeof *items);
    if (!items) return false;
    items[list->count] = text;
    list->items = items;
    list->count++;
    return true;
}

static bool is_choice(const char *choices, const char *word) {
    const size_t size = strlen(word);
    for (const char *at = choices; size && (at = strstr(at, word)); at++) {
        const bool starts = at == choices || at[-1] == ' ';
        if (starts && (at[size] == ' ' || at[size] == '\0')) return true;
    }
    return false;
}

/** A number inside the option's bounds, with nothing behind it. */
static bool parse_number(const cli_option *option, const char *text, double *value) {
    char *end;
    errno = 0;
    if (option->kind == OPTION_FLOAT)
        *value = strtod(text, &end);
    else
        *value = (double)strtoll(text, &end, 10);
    return end != text && *end == '\0' && errno == 0 && isfinite(*value) && *value >= option->low &&
           *value <= option->high;
}

static bool append_id(const cli_option *option, text_list *list, const char *text) {
    double value;
    return parse_number(option, text, &value) && list_append(list, text);
}

static bool parse_seed(const char *text, uint64_t *seed) {
    char *end;
    errno = 0;
    *seed = strtoull(text, &end, 10);
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0;
}

static bool set_number(const cli_option *option, void *field, const char *text) {
    double value;
    if (!parse_number(option, text, &value)) return false;
    switch (option->kind) {
    case OPTION_I64: *(int64_t *)field = (int64_t)value; break;
    case OPTION_INT: *(int32_t *)field = (int32_t)value; break;
    default: *(float *)field = (float)value; break;
    }
    return true;
}

/** False when the text is no value of this option. */
static bool set_value(const cli_option *option, cli_args *args, const char *text) {
    void *const field = (char *)args + option->offset;
    switch (option->kind) {
    case OPTION_FLAG: *(bool *)field = true; return true;
    case OPTION_TEXT: *(const char **)field = text; return true;
    case OPTION_LIST: return list_append(field, text);
    case OPTION_IDS: return append_id(option, field, text);
    case OPTION_DTYPE:
    case OPTION_KV: {
        llava_dtype *dtype = field;
        return dtype_parse(text, dtype) &&
               (*dtype == LLAVA_DTYPE_F32 || *dtype == LLAVA_DTYPE_F16 ||
                *dtype == LLAVA_DTYPE_BF16 ||
                (*dtype == LLAVA_DTYPE_I8 && option->kind == OPTION_KV));
    }
    case OPTION_SEED: return parse_seed(text, field);
    default: return set_number(option, field, text);
    }
}

/* ---------------------------------------------------------------- sides of a comparison */

bool cli_option_has_sides(const cli_option *option) {
    return option->offset - AT(load) < sizeof(llava_load_options) || option->kind == OPTION_KV;
}

static bool side_append(cli_args *args, side_setting setting) {
    side_setting *items = realloc(args->sides.items, (args->sides.count + 1) * sizeof *items);
    if (!items) return false;
    items[args->sides.count++] = setting;
    args->sides.items = items;
    return true;
}

void cli_side_apply(cli_args *args, int side) {
    for (size_t i = 0; i < args->sides.count; i++) {
        const side_setting *s = &args->sides.items[i];
        if (s->side == side) set_value(s->option, args, s->value);
    }
}

/* ---------------------------------------------------------------- the command line */

static const cli_option *find_option(const cli_command *command, const char *name, size_t size) {
    for (size_t i = 0; i < cli_option_count; i++) {
        const cli_option *option = &cli_options[i];
        if ((option->commands & command->id) && strlen(option->name) == size &&
            memcmp(option->name, name, size) == 0)
            return option;
    }
    return NULL;
}

static void report_unknown(const cli_command *command, const char *word, size_t size) {
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)size, word);
    const char *known[LLAVA_COUNT(cli_options)];
    size_t n_known = 0;
    for (size_t i = 0; i < cli_option_count; i++)
        if (cli_options[i].commands & command->id) known[n_known++] = cli_options[i].name;
    const char *near = cli_nearest(name, known, n_known);
    if (near)
        cli_usage_error(command, "unknown option '--%s'; did you mean '--%s'?", name, near);
    else
        cli_usage_error(command, "unknown option '--%s'.", name);
}

static void report_value(const cli_command *command, const cli_option *option, const char *value) {
    if (option->choices)
        cli_usage_error(command, "'%s' is no value of --%s; it takes one of: %s.", value,
                        option->name, option->choices);
    else if (option->kind == OPTION_SEED)
        cli_usage_error(command, "--%s takes a whole number from 0, not '%s'.", option->name,
                        value);
    else
        cli_usage_error(command, "--%s takes a number from %g to %g, not '%s'.", option->name,
                        option->low, option->high, value);
}

/** "a-NAME" and "b-NAME" of compare: the option, and which side. */
static const cli_option *find_side_option(const cli_command *command, const char *word, size_t size,
                                          int *side) {
    if (command->id != CMD_COMPARE || size < 3 || word[1] != '-') return NULL;
    if (word[0] != 'a' && word[0] != 'b') return NULL;
    const cli_option *option = find_option(command, word + 2, size - 2);
    *side = word[0] == 'b';
    return option && cli_option_has_sides(option) ? option : NULL;
}

/** The value for both sides or, checked as if it were, for one. */
static bool take_value(const cli_option *option, int side, const char *value, cli_args *args) {
    if (side < 0) return set_value(option, args, value);
    cli_args trial = {0};
    return set_value(option, &trial, value) &&
           side_append(args, (side_setting){.side = side, .option = option, .value = value});
}

/** One "--name", "--name value" or "--name=value" at argv[*i]; moves *i to its last word. */
static bool parse_option(const cli_command *command, int argc, char **argv, int *i,
                         cli_args *args) {
    const char *word = argv[*i] + 2;
    const size_t size = strcspn(word, "=");
    int side = -1;
    const cli_option *option = find_side_option(command, word, size, &side);
    if (!option) option = find_option(command, word, size);
    if (!option) {
        report_unknown(command, word, size);
        return false;
    }
    const char *value = word[size] == '=' ? word + size + 1 : NULL;
    if (option->kind == OPTION_FLAG && value) {
        cli_usage_error(command, "--%s takes no value.", option->name);
        return false;
    }
    if (option->kind != OPTION_FLAG && !value) {
        if (*i + 1 >= argc) {
            cli_usage_error(command, "--%s needs a value (%s).", option->name, option->argument);
            return false;
        }
        value = argv[++*i];
    }
    const bool listed = !option->choices || option->kind == OPTION_DTYPE ||
                        option->kind == OPTION_KV || is_choice(option->choices, value);
    if (listed && take_value(option, side, value, args)) return true;
    report_value(command, option, value);
    return false;
}

static bool check_words(const cli_command *command, const cli_args *args) {
    const size_t n = args->words.count;
    if (n < command->min_words) {
        cli_usage_error(command, "something is missing: llava %s %s", command->name,
                        command->usage);
        return false;
    }
    if (n > command->max_words) {
        cli_usage_error(command, "'%s' is one argument too many.",
                        args->words.items[command->max_words]);
        return false;
    }
    return true;
}

bool cli_parse(const cli_command *command, int argc, char **argv, cli_args *args) {
    bool options_ended = false;
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        if (!options_ended && strcmp(word, "--") == 0) {
            options_ended = true;
        } else if (!options_ended && strcmp(word, "-h") == 0) {
            args->help = true;
        } else if (!options_ended && word[0] == '-' && word[1] == '-') {
            if (!parse_option(command, argc, argv, &i, args)) return false;
        } else if (!options_ended && word[0] == '-' && word[1] != '\0' && !args->decode) {
            cli_usage_error(command, "unknown option '%s'; options begin with two dashes.", word);
            return false;
        } else if (!list_append(&args->words, word)) {
            cli_fail_text("out of memory.");
            return false;
        }
        if (args->help) return true;
    }
    return check_words(command, args);
}

void cli_args_free(cli_args *args) {
    free(args->images.items);
    free(args->stop.items);
    free(args->stop_ids.items);
    free(args->sides.items);
    free(args->words.items);
    *args = (cli_args){0};
}
