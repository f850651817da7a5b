/* SPDX-License-Identifier: Apache-2.0
 *
 * llava: the commands, and which one is meant.
 */
#include <locale.h>
#include <stdlib.h>

#include "cli.h"

const cli_command cli_commands[] = {
    {CMD_RUN, "run", "MODEL PROMPT [--image FILE]... [OPTIONS]", "ask one question",
     "Loads the checkpoint in the directory MODEL, shows it the pictures and prints its answer as\n"
     "it is generated. PROMPT is the question; '-' reads it from standard input. Each '<image>' "
     "in\n"
     "it stands for one picture, in order; without any, the pictures come first.",
     "llava run models/demo 'What is this?' --image cat.jpg", 2, 2, cmd_run},
    {CMD_CHAT, "chat", "MODEL [--image FILE]... [OPTIONS]", "talk, with history",
     "Reads questions line by line and answers them, keeping the conversation. Pictures given "
     "with\n"
     "--image belong to the first question; '/image FILE' attaches one to the next. '/reset'\n"
     "forgets the conversation, '/help' lists the commands, '/quit' or end of input ends it.\n"
     "Ctrl-C stops an answer.",
     "llava chat models/demo --image cat.jpg", 1, 1, cmd_chat},
    {CMD_BATCH, "batch", "MODEL --data FILE [--output FILE] [OPTIONS]",
     "answer a file of questions",
     "Answers each line of a JSON Lines file. A line is an object with 'question' (text) and\n"
     "optionally 'images' (paths, relative to the data file) or 'image' (one path). The output\n"
     "repeats its fields and adds 'text' and 'finish_reason', or 'error'. Order is kept. Lines\n"
     "that --output already holds are not asked again, so a batch that was stopped goes on.",
     "llava batch models/demo --data questions.jsonl --output answers.jsonl", 1, 1, cmd_batch},
    {CMD_INFO, "info", "MODEL [--image-size WxH] [OPTIONS]", "what a checkpoint is and takes",
     "Reads headers and configuration files only: what would be loaded and why, the tensors by\n"
     "type, how many tokens a picture becomes, and the memory that loading and a session take.",
     "llava info models/demo --image-size 640x480", 1, 1, cmd_info},
    {CMD_TOKENIZE, "tokenize", "MODEL [TEXT]... [OPTIONS]", "text to token ids, and back",
     "Prints one JSON object a line with text, ids and tokens for each TEXT, or for each line of\n"
     "standard input when there is none. With --decode each input is a list of ids.",
     "llava tokenize models/demo 'What is this?'", 1, SIZE_MAX, cmd_tokenize},
    {CMD_TEMPLATES, "templates", "[NAME] [OPTIONS]", "list or show conversation templates",
     "Without NAME lists the conversation templates. With NAME prints the prompt that template\n"
     "makes of a question with a picture, an answer and a second question.",
     "llava templates qwen_1_5", 0, 1, cmd_templates},
    {CMD_VERIFY, "verify", "CASE.json... [OPTIONS]", "compare with a recorded call, stage by stage",
     "Runs a recorded call of the reference and compares every stage with what was recorded: one\n"
     "line per stage, then what the record holds that was not compared. Fails if a stage does.",
     "llava verify traces/tiny-qwen2/prompt.json", 1, SIZE_MAX, cmd_verify},
    {CMD_CONVERT, "convert", "MODEL OUTPUT [OPTIONS]", "write it back merged, cast, quantized",
     "Writes what the options describe - adapter merged into --model-base, tower inside, cast to\n"
     "--torch-dtype (default: as stored) - to the new directory OUTPUT, in the original layout.",
     "llava convert llava-lora merged --model-base vicuna-7b --torch-dtype bfloat16", 2, 2,
     cmd_convert},
    {CMD_COMPARE, "compare", "A [B] --data FILE [OPTIONS]", "what another setting changes",
     "Reads each line's question and answer under both models and compares what they expect in\n"
     "front of every token of the answers: divergence, same likeliest token, perplexity. Without\n"
     "B it is A again. A line is an object with 'question', 'answer' (or 'text', which batch\n"
     "writes), and 'images' or 'image' as in batch. Options that load a model mean both; with a-\n"
     "or b- in front of their name they mean one: --a-torch-dtype float32 --b-load-4bit.",
     "llava compare models/demo --data answers.jsonl --a-torch-dtype float32 --b-load-4bit", 1, 2,
     cmd_compare},
    {CMD_PULL, "pull", "ID... [OPTIONS]", "download from the Hub into its cache",
     "Downloads what loading needs of each repository, resuming what was interrupted, and prints\n"
     "the directory it lies in. A private or gated repository needs HF_TOKEN.",
     "llava pull lmms-lab/llava-onevision-qwen2-0.5b-ov", 1, SIZE_MAX, cmd_pull},
    {CMD_BENCH, "bench", "MODEL | --dummy CONFIG.json [OPTIONS]", "how fast each stage is",
     "Times loading, tower and projector, prompts, generating and a whole question, each beside\n"
     "what this machine could do at all (arithmetic from registers, reading from memory), sampled\n"
     "in the same run. With --dummy the weights are random numbers in the shapes of CONFIG.json.",
     "llava bench models/demo --torch-dtype bfloat16", 0, 1, cmd_bench},
};
const size_t cli_command_count = LLAVA_COUNT(cli_commands);

static int unknown_command(const char *name) {
    const char *known[LLAVA_COUNT(cli_commands)];
    for (size_t i = 0; i < cli_command_count; i++) known[i] = cli_commands[i].name;
    const char *near = cli_nearest(name, known, cli_command_count);
    if (near)
        fprintf(stderr, "llava: unknown command '%s'; did you mean '%s'?\n", name, near);
    else
        fprintf(stderr, "llava: unknown command '%s'; 'llava --help' lists the commands.\n", name);
    return EXIT_USAGE;
}

static int run_command(const cli_command *command, int argc, char **argv) {
    cli_args args = {0};
    int status = EXIT_USAGE;
    if (cli_parse(command, argc, argv, &args)) {
        if (args.help) {
            cli_print_help(stdout, command);
            status = 0;
        } else {
            cli_read_environment(&args.load);
            status = command->run(&args);
        }
    }
    cli_args_free(&args);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        if (status == 0) status = cli_fail_text("standard output could not be written.");
    }
    return status;
}

int main(int argc, char **argv) {
    setlocale(LC_CTYPE, ""); /* line editing needs to know how wide characters are */
    if (argc < 2) {
        cli_print_overview(stderr);
        return EXIT_USAGE;
    }
    const char *word = argv[1];
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0) {
        const cli_command *command = argc > 2 ? cli_command_find(argv[2]) : NULL;
        if (command)
            cli_print_help(stdout, command);
        else
            cli_print_overview(stdout);
        return 0;
    }
    if (strcmp(word, "--version") == 0) {
        printf("llava %s\n", llava_version());
        return 0;
    }
    if (strcmp(word, "--completion-words") == 0) return cli_print_completion(argc - 2, argv + 2);
    const cli_command *command = cli_command_find(word);
    return command ? run_command(command, argc - 2, argv + 2) : unknown_command(word);
}
