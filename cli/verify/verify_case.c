/* SPDX-License-Identifier: Apache-2.0
 *
 * One recorded call from beginning to end: load as it was loaded, then every stage in order.
 */
#include <stdlib.h>

#include "verify/verify.h"

/* ---------------------------------------------------------------- the call */

static const char *call_text(verify_run *run, const char *key) {
    const json_t *call = json_get(run->trace.root, "call");
    const json_t *value = json_is_object(call) ? json_get(call, key) : NULL;
    if (!value) return NULL;
    if (json_is_string(value)) return arena_strdup(run->memory, json_string_value(value));
    if (!json_is_object(value)) return NULL;
    char *dumped = json_dumps(value, JSON_COMPACT);
    const char *kept = dumped ? arena_strdup(run->memory, dumped) : NULL;
    free(dumped);
    return kept;
}

static bool call_flag(const verify_run *run, const char *key) {
    const json_t *call = json_get(run->trace.root, "call");
    return json_is_object(call) && json_is_true(json_object_get(call, key));
}

static const char *in_reference(verify_run *run, const char *path) {
    return path ? path_join(run->memory, run->trace.reference, path) : NULL;
}

static llava_status call_options(verify_run *run, llava_load_options *options, llava_error *err) {
    const verify_options *asked = run->options;
    const char *path = call_text(run, "model_path");
    if (!path)
        return llava_fail(err, LLAVA_MALFORMED, "%s: call has no model_path", run->trace.path);
    *options = (llava_load_options){
        .model_path = in_reference(run, path),
        .model_base = in_reference(run, call_text(run, "model_base")),
        .model_name = call_text(run, "model_name"),
        .load_8bit = asked->load_8bit || call_flag(run, "load_8bit"),
        .load_4bit = asked->load_4bit || call_flag(run, "load_4bit"),
        .device_map = call_text(run, "device_map"),
        .torch_dtype = run->dtype,
        .attn_implementation = call_text(run, "attn_implementation"),
        .customized_config = call_text(run, "customized_config"),
        .overwrite_config = call_text(run, "overwrite_config"),
        .multimodal = call_flag(run, "multimodal"),
        .working_directory = run->trace.reference,
        .n_threads = asked->n_threads,
        .cpu_level = asked->cpu_level,
    };
    trace_mark(&run->trace, "call");
    return options->model_path ? LLAVA_OK : llava_fail_memory(err, strlen(path), "a path");
}

/** The type to run in: asked for, else the case's, else float32 (what cases are recorded in). */
static llava_status choose_dtype(verify_run *run, llava_error *err) {
    run->dtype = run->options->dtype;
    if (run->dtype == LLAVA_DTYPE_DEFAULT) {
        const char *name = call_text(run, "torch_dtype");
        if (!name)
            run->dtype = LLAVA_DTYPE_F32;
        else if (!dtype_parse(name, &run->dtype))
            return llava_fail(err, LLAVA_MALFORMED, "%s: call's torch_dtype '%s' is no type",
                              run->trace.path, name);
    }
    run->level = run->dtype == LLAVA_DTYPE_F32 ? &verify_level_float32 : &verify_level_half;
    if (run->options->load_8bit || call_flag(run, "load_8bit")) run->level = &verify_level_int8;
    if (run->options->load_4bit || call_flag(run, "load_4bit")) run->level = &verify_level_4bit;
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- the stages */

static llava_status skip_or_fail(verify_run *run, const char *stage, const llava_error *err) {
    run->ended_early = true;
    if (err->code != LLAVA_UNSUPPORTED) return report_failed_call(run->report, stage, err);
    run->report->skipped = true;
    run->report->reason = arena_strdup(run->report->memory, err->message);
    return run->report->reason ? LLAVA_OK : LLAVA_OUT_OF_MEMORY;
}

typedef llava_status (*stage_fn)(verify_run *run, llava_error *err);

/** A stage that cannot go on ends the run: later ones need what it makes. */
static llava_status run_stages(verify_run *run) {
    static const struct {
        const char *name;
        stage_fn fn;
    } stages[] = {
        {"returned", verify_returned}, {"prompt", verify_prompt},   {"pictures", verify_pictures},
        {"splice", verify_splice},     {"decoder", verify_decoder}, {"engine", verify_engine},
    };
    for (size_t i = 0; i < LLAVA_COUNT(stages); i++) {
        llava_error err = {0};
        const llava_status status = stages[i].fn(run, &err);
        if (status == LLAVA_OK) continue;
        return err.code ? skip_or_fail(run, stages[i].name, &err) : status;
    }
    return LLAVA_OK;
}

static llava_status run_call(verify_run *run, llava_error *err) {
    llava_load_options options;
    LLAVA_TRY(call_options(run, &options, err));
    llava_error failure = {0};
    if (llava_load_pretrained_model(&options, &run->loaded, &failure) != LLAVA_OK)
        return skip_or_fail(run, "load", &failure);
    llava_model_get_info(run->loaded.model, &run->info);
    return run_stages(run);
}

static llava_status run_tower_alone(verify_run *run) {
    llava_error err = {0};
    const llava_status status = verify_tower(run, &err);
    if (status == LLAVA_OK) return LLAVA_OK;
    return err.code ? skip_or_fail(run, "tower", &err) : status;
}

llava_status verify_case(const char *path, const verify_options *options, verify_report **out,
                         llava_error *err) {
    *out = NULL;
    llava_status status;
    verify_run *run = array_new(1, sizeof *run);
    if (!run) return llava_fail_memory(err, sizeof *run, "a recorded call");
    run->options = options;
    run->memory = arena_new();
    LLAVA_TRY_DONE(run->memory ? LLAVA_OK : llava_fail_memory(err, sizeof *run, path));
    LLAVA_TRY_DONE(report_new(path, &run->report, err));
    LLAVA_TRY_DONE(trace_open(path, options->reference, &run->trace, err));
    LLAVA_TRY_DONE(choose_dtype(run, err));
    if (json_get(run->trace.root, "call"))
        status = run_call(run, err);
    else if (json_get(run->trace.root, "tower"))
        status = run_tower_alone(run);
    else
        status = llava_fail(err, LLAVA_MALFORMED, "%s holds neither a call nor a tower", path);
    if (status == LLAVA_OUT_OF_MEMORY) llava_fail_memory(err, 0, path);
    if (status != LLAVA_OK) goto done;
    LLAVA_TRY_DONE(trace_list_unseen(&run->trace, run->ended_early, run->report));
    report_close(run->report);
    *out = run->report;
    run->report = NULL;
done:
    verify_pictures_free(run);
    ids_free(&run->prompt);
    llava_loaded_close(&run->loaded);
    trace_close(&run->trace);
    verify_report_free(&run->report);
    arena_free(&run->memory);
    free(run);
    return status;
}
