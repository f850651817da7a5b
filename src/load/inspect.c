/* SPDX-License-Identifier: Apache-2.0
 *
 * What would be loaded, why, from where, and what it will take: the stages of loading without the
 * casting, written down as JSON. A stage that fails is reported and the others go on.
 */
#include <stdlib.h>

#include "load_plan.h"
#include "report.h"

/** A stage and what it needs: the configuration, the weights. */
typedef struct inspect_stage {
    const char *name;
    llava_status (*run)(load_plan *plan);
    bool needs_config, needs_weights, needs_tower;
} inspect_stage;

static const inspect_stage stages[] = {
    {"options", plan_check_options, false, false, false},
    {"hub", plan_resolve_paths, false, false, false},
    {"mode", plan_check_mode, false, false, false},
    {"config", plan_read_config, false, false, false},
    {"attention", plan_choose_attention, true, false, false},
    {"weights", plan_open_weights, false, false, false},
    {"overlay", plan_open_overlay, true, false, false},
    {"tower", plan_find_tower, true, false, false},
    {"decoder tensors", plan_describe, true, true, false},
    {"tower tensors", plan_choose_tower, true, true, true},
    {"tensors", plan_bind, true, true, true},
    {"quantization", plan_quantization, true, true, true},
    {"tokenizer", plan_open_tokenizer, true, false, false},
    {"template", plan_choose_template, true, false, false},
    {"image processor", plan_open_processor, true, false, true},
    {"placement", plan_place, true, true, true},
};

/** Places in the list that others depend on. */
static bool has_failed(const bool *failed, llava_status (*run)(load_plan *plan)) {
    for (size_t i = 0; i < LLAVA_COUNT(stages); i++)
        if (stages[i].run == run) return failed[i];
    return false;
}

static bool can_run(const inspect_stage *stage, const load_plan *plan, const bool *failed) {
    const llava_config *config = plan->model->config;
    if (stage->needs_config && !config) return false;
    if (stage->needs_weights && !plan->model->files[0]) return false;
    if (stage->needs_tower && config->multimodal && config->tower.kind == TOWER_NONE) return false;
    /* what a failed description left out must not be looked up */
    if (stage->run == plan_choose_tower) return !has_failed(failed, plan_describe);
    if (stage->run == plan_bind)
        return !has_failed(failed, plan_describe) && !has_failed(failed, plan_choose_tower);
    if (stage->run == plan_place) return plan->map_is_read && !has_failed(failed, plan_bind);
    if (stage->run == plan_quantization) return !has_failed(failed, plan_bind);
    return true;
}

/** Runs what can run; gives the list of what went wrong. */
static llava_status run_inspection(load_plan *plan, json_t *errors, llava_error *err) {
    bool failed[LLAVA_COUNT(stages)] = {false};
    llava_error problem = {0};
    plan->err = &problem;
    llava_status status = LLAVA_OK;
    for (size_t i = 0; i < LLAVA_COUNT(stages) && status == LLAVA_OK; i++) {
        failed[i] = !can_run(&stages[i], plan, failed);
        if (failed[i]) continue;
        problem = (llava_error){0};
        failed[i] = stages[i].run(plan) != LLAVA_OK;
        if (!failed[i]) continue;
        /* a model that does not fit is what an inspection is to find out */
        if (problem.code == LLAVA_OUT_OF_MEMORY && stages[i].run != plan_place)
            return llava_fail(err, problem.code, "%s", problem.message);
        status = report_error(errors, stages[i].name, &problem);
    }
    plan->err = err;
    return status;
}

static llava_status write_report(const load_plan *plan, json_t *report) {
    const llava_model *model = plan->model;
    LLAVA_TRY(report_set(report, "path", json_string(plan->options->model_path)));
    LLAVA_TRY(report_set(report, "model_name", json_string(model->name)));
    LLAVA_TRY(report_set(report, "torch_dtype", json_string(dtype_name(model->compute))));
    LLAVA_TRY(report_set(report, "kind", json_string(report_kind(plan))));
    LLAVA_TRY(report_contents(plan, report));
    LLAVA_TRY(report_config(plan, report));
    LLAVA_TRY(report_files(plan, report));
    LLAVA_TRY(report_tensors(plan, report));
    LLAVA_TRY(report_pictures(plan, report));
    LLAVA_TRY(report_text(plan, report));
    LLAVA_TRY(report_memory(plan, report));
    return report_placement(plan, report);
}

llava_status load_inspect(const llava_load_options *options, json_t **report, llava_error *err) {
    *report = NULL;
    if (path_is_file(options->model_path)) return load_inspect_file(options, report, err);
    load_plan plan;
    json_t *root = json_object(), *errors = json_array();
    llava_status status = plan_open(&plan, options, err);
    if (status == LLAVA_OK && (!root || !errors)) status = LLAVA_OUT_OF_MEMORY;
    LLAVA_TRY_DONE(status);
    LLAVA_TRY_DONE(run_inspection(&plan, errors, err));
    LLAVA_TRY_DONE(write_report(&plan, root));
    LLAVA_TRY_DONE(report_set(root, "loadable", json_boolean(json_array_size(errors) == 0)));
    LLAVA_TRY_DONE(report_set(root, "errors", json_incref(errors)));
done:
    plan_close(&plan);
    json_decref(errors);
    if (status == LLAVA_OK) {
        *report = root;
        return LLAVA_OK;
    }
    json_decref(root);
    if (status == LLAVA_OUT_OF_MEMORY) return llava_fail(err, status, "out of memory: a report");
    return status;
}
