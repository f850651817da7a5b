/* SPDX-License-Identifier: Apache-2.0
 *
 * prompts/chat_templates: what transformers renders. Files of the later release ("-new") decide;
 * where the earlier one differs, our behaviour is the later one's.
 */
#include <dirent.h>

#include "support/reference.h"
#include "text/jinja/jinja.h"

/** The recorded clock: 2024-07-26 15:04:05, a Friday. */
static const struct tm recorded_clock = {.tm_year = 124,
                                         .tm_mon = 6,
                                         .tm_mday = 26,
                                         .tm_hour = 15,
                                         .tm_min = 4,
                                         .tm_sec = 5,
                                         .tm_wday = 5,
                                         .tm_yday = 207};

static const json_t *either(const json_t *item, const json_t *root, const char *key) {
    const json_t *value = json_object_get(item, key);
    return value ? value : json_object_get(root, key);
}

static json_t *case_variables(const json_t *root, const json_t *item) {
    static const char *const keys[] = {"messages", "add_generation_prompt"};
    json_t *variables = json_object();
    json_t *special = json_object_get(root, "special_tokens");
    json_t *extra = json_object_get(item, "kwargs");
    if (special) json_object_update(variables, special);
    for (size_t i = 0; i < LLAVA_COUNT(keys); i++) {
        const json_t *value = either(item, root, keys[i]);
        if (value) json_object_set(variables, keys[i], (json_t *)(uintptr_t)value);
    }
    if (extra) json_object_update(variables, extra);
    return variables;
}

static void check_case(reference_count *count, const char *file, const json_t *root,
                       const json_t *item) {
    const json_t *source = either(item, root, "template");
    const char *name = json_string_value(json_object_get(item, "name"));
    const char *label = name ? name : json_string_value(source);
    const json_t *wanted = json_object_get(item, "render");
    json_t *variables = case_variables(root, item);
    const jinja_request request = {json_string_value(source), json_string_length(source), variables,
                                   &recorded_clock};
    bytes out = {0};
    llava_error err = {0};
    const llava_status status = jinja_render(&request, &out, &err);
    if (!wanted && status == LLAVA_OK)
        reference_fail(count, file, "%s: rendered, but the reference raises", label);
    else if (wanted && status != LLAVA_OK)
        reference_fail(count, file, "%s: %s", label, err.message);
    else if (wanted && (out.size != json_string_length(wanted) ||
                        memcmp(out.data, json_string_value(wanted), out.size) != 0))
        reference_fail(count, file, "%s: rendered as \"%s\"", label, out.data);
    else
        reference_pass(count);
    bytes_free(&out);
    json_decref(variables);
}

static void check_file(reference_count *count, const char *path, const char *file) {
    json_t *root;
    llava_error err;
    if (json_read_file(path, &root, &err) != LLAVA_OK) {
        reference_fail(count, file, "%s", err.message);
        return;
    }
    const json_t *cases = json_object_get(root, "cases");
    for (size_t i = 0; i < json_array_size(cases); i++)
        check_case(count, file, root, json_array_get(cases, i));
    json_decref(root);
}

int main(void) {
    reference_count count = {.folder = "prompts/chat_templates"};
    arena *memory = arena_new();
    const char *folder = path_join(memory, reference_folder(), "prompts/chat_templates");
    DIR *directory = opendir(folder);
    if (!directory) {
        printf("prompts/chat_templates: not in this folder\n");
        arena_free(&memory);
        return 0;
    }
    for (struct dirent *entry; (entry = readdir(directory));) {
        const char *path = path_join(memory, folder, entry->d_name);
        const size_t size = strlen(entry->d_name);
        if (!path_is_file(path)) continue;
        if (size > 9 && strcmp(entry->d_name + size - 9, "-new.json") == 0)
            check_file(&count, path, entry->d_name);
        else
            reference_skip(&count, entry->d_name,
                           "the earlier release's rendering; the later one's file decides");
    }
    closedir(directory);
    arena_free(&memory);
    return reference_close(&count) ? 0 : 1;
}
