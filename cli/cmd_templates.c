/* SPDX-License-Identifier: Apache-2.0
 *
 * llava templates: the conversation templates, and what one makes of a short conversation.
 */
#include "cli.h"
#include "text/text.h"

static const char *style_name(template_style style) {
    switch (style) {
    case STYLE_SINGLE: return "single";
    case STYLE_TWO: return "two";
    case STYLE_CHATML: return "chatml";
    case STYLE_MPT: return "mpt";
    case STYLE_GEMMA: return "gemma";
    case STYLE_LLAMA_2: return "llama_2";
    case STYLE_LLAMA_3: return "llama_3";
    case STYLE_PLAIN: return "plain";
    }
    return "unknown";
}

static json_t *text_or_null(const char *text) {
    return text ? json_clean_string(text, strlen(text)) : json_null();
}

static json_t *template_json(const conversation_template *t) {
    json_t *stops = json_array();
    for (size_t i = 0; i < LLAVA_COUNT(t->stop) && t->stop[i]; i++)
        json_array_append_new(stops, text_or_null(t->stop[i]));
    return json_pack("{s:s, s:s, s:o, s:[o, o], s:o, s:o, s:o}", "name", t->name, "style",
                     style_name(t->style), "system", text_or_null(t->system), "roles",
                     text_or_null(t->roles[0]), text_or_null(t->roles[1]), "sep",
                     text_or_null(t->sep), "sep2", text_or_null(t->sep2), "stop", stops);
}

static int list_templates(const cli_args *args) {
    json_t *list = args->json ? json_array() : NULL;
    for (size_t i = 0; i < template_count(); i++) {
        const conversation_template *t = template_at(i);
        if (list)
            json_array_append_new(list, template_json(t));
        else
            printf("%-24s %s\n", t->name, style_name(t->style));
    }
    if (list) cli_print_json(stdout, json_pack("{s:o}", "templates", list), true);
    return 0;
}

static int show_template(const cli_args *args, const conversation_template *t) {
    static const llava_message example[] = {
        {0, "<image>\nWhat is this?"}, {1, "A cat."}, {0, "What does it do?"}};
    bytes prompt = {0};
    llava_error err = {0};
    int status = 0;
    const cli_dialog dialog = {
        .template_name = t->name, .messages = example, .n_messages = LLAVA_COUNT(example)};
    if (cli_render(&dialog, &prompt, &err) != LLAVA_OK) {
        status = cli_fail(&err);
    } else if (args->json) {
        json_t *document = template_json(t);
        json_object_set_new(document, "example", json_clean_string(prompt.data, prompt.size));
        cli_print_json(stdout, document, true);
    } else {
        fwrite(prompt.data, 1, prompt.size, stdout);
        putchar('\n');
    }
    bytes_free(&prompt);
    return status;
}

int cmd_templates(const cli_args *args) {
    if (args->words.count == 0) return list_templates(args);
    const char *name = args->words.items[0];
    if (!cli_check_template(cli_command_find("templates"), name)) return EXIT_USAGE;
    if (template_is_checkpoint(name))
        return cli_usage_error(cli_command_find("templates"),
                               "'%s' is each checkpoint's own template; 'llava run MODEL ... "
                               "--print-prompt' shows what it gives.",
                               name);
    return show_template(args, template_find(name));
}
