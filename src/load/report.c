/* SPDX-License-Identifier: Apache-2.0
 *
 * The report's parts about configuration, text and pictures.
 */
#include "report.h"

llava_status report_set(json_t *object, const char *key, json_t *value) {
    return json_object_set_new(object, key, value) == 0 ? LLAVA_OK : LLAVA_OUT_OF_MEMORY;
}

llava_status report_append(json_t *array, json_t *value) {
    return json_array_append_new(array, value) == 0 ? LLAVA_OK : LLAVA_OUT_OF_MEMORY;
}

llava_status report_error(json_t *errors, const char *stage, const llava_error *err) {
    return report_append(errors, json_pack("{s:s, s:s, s:s, s:o}", "stage", stage, "code",
                                           llava_status_name(err->code), "refusal",
                                           llava_refusal_name(err->refusal), "message",
                                           json_clean_string(err->message, strlen(err->message))));
}

static json_t *decisions_json(const decision_list *list) {
    json_t *array = json_array();
    for (size_t i = 0; array && i < list->count; i++) {
        const decision *d = &list->items[i];
        json_t *item =
            json_pack("{s:s, s:s, s:s}", "what", d->what, "value", d->value, "reason", d->reason);
        if (report_append(array, item) == LLAVA_OK) continue;
        json_decref(array);
        return NULL;
    }
    return array;
}

static json_t *decoder_json(const lm_config *lm) {
    return json_pack("{s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:I, s:I}", "family",
                     lm->family->name, "supported", lm->family->supported, "vocab_size",
                     (json_int_t)lm->vocab_size, "hidden_size", (json_int_t)lm->hidden_size,
                     "intermediate_size", (json_int_t)lm->intermediate_size, "n_layers",
                     (json_int_t)lm->n_layers, "n_heads", (json_int_t)lm->n_heads, "n_kv_heads",
                     (json_int_t)lm->n_kv_heads, "head_dim", (json_int_t)lm->head_dim,
                     "tie_word_embeddings", lm->tie_word_embeddings, "sliding_window",
                     (json_int_t)lm->sliding_window, "n_experts", (json_int_t)lm->n_experts);
}

static json_t *generation_json(const generation_config *g) {
    json_t *eos = json_array();
    for (size_t i = 0; eos && i < g->n_eos; i++)
        json_array_append_new(eos, json_integer(g->eos[i]));
    return json_pack("{s:b, s:f, s:I, s:f, s:f, s:I, s:I, s:o, s:i, s:i, s:b}", "do_sample",
                     g->do_sample, "temperature", (double)g->temperature, "top_k",
                     (json_int_t)g->top_k, "top_p", (double)g->top_p, "repetition_penalty",
                     (double)g->repetition_penalty, "num_beams", (json_int_t)g->num_beams,
                     "max_new_tokens", (json_int_t)g->max_new_tokens, "eos_token_id", eos,
                     "bos_token_id", g->bos, "pad_token_id", g->pad, "from_file", g->from_file);
}

llava_status report_config(const load_plan *plan, json_t *report) {
    const llava_config *config = plan->model->config;
    if (!config) return report_set(report, "decisions", json_array());
    const char *reason = "", *reference = "";
    for (size_t i = 0; i < config->decisions.count; i++) {
        const decision *d = &config->decisions.items[i];
        if (strcmp(d->what, "architecture") == 0) reason = d->reason;
        if (strcmp(d->what, "reference") == 0) reference = d->value;
    }
    LLAVA_TRY(report_set(report, "architecture",
                         json_pack("{s:s, s:s, s:s}", "class", config->architecture, "reason",
                                   reason, "reference_would_choose", reference)));
    LLAVA_TRY(report_set(report, "decisions", decisions_json(&config->decisions)));
    LLAVA_TRY(report_set(report, "decoder", decoder_json(&config->lm)));
    LLAVA_TRY(report_set(report, "generation", generation_json(&config->generation)));
    return report_set(report, "context_len", json_integer(config->context_len));
}

static json_t *processor_json(const processor_config *p) {
    json_t *size = p->shortest_edge
                       ? json_pack("{s:I}", "shortest_edge", (json_int_t)p->shortest_edge)
                       : json_pack("{s:I, s:I}", "height", (json_int_t)p->size_height, "width",
                                   (json_int_t)p->size_width);
    return json_pack(
        "{s:s, s:o, s:{s:I, s:I}, s:b, s:b, s:b, s:b, s:i, s:f, s:[f,f,f], "
        "s:[f,f,f]}",
        "class", p->kind == TOWER_SIGLIP ? "SigLipImageProcessor" : "CLIPImageProcessor", "size",
        size, "crop_size", "height", (json_int_t)p->crop_height, "width", (json_int_t)p->crop_width,
        "do_resize", p->do_resize, "do_center_crop", p->do_center_crop, "do_rescale", p->do_rescale,
        "do_normalize", p->do_normalize, "resample", p->resample, "rescale_factor",
        p->rescale_factor, "image_mean", p->mean[0], p->mean[1], p->mean[2], "image_std", p->std[0],
        p->std[1], p->std[2]);
}

static json_t *tower_json(const load_plan *plan) {
    const llava_config *config = plan->model->config;
    const tower_config *t = &config->tower;
    static const char *const kinds[] = {"none", "CLIP", "SigLIP", "MLCD"};
    const char *weights = plan->tower_in_checkpoint ? "checkpoint"
                          : plan->model->files[1]   ? "own directory"
                                                    : "not found";
    return json_pack("{s:s, s:s, s:s?, s:s, s:I, s:I, s:I, s:I, s:I}", "name",
                     config->mm.vision_tower, "kind", kinds[t->kind], "directory",
                     plan->tower_directory, "weights", weights, "hidden_size",
                     (json_int_t)t->hidden_size, "n_layers", (json_int_t)t->n_layers, "n_heads",
                     (json_int_t)t->n_heads, "image_size", (json_int_t)t->image_size, "patch_size",
                     (json_int_t)t->patch_size);
}

llava_status report_pictures(const load_plan *plan, json_t *report) {
    const llava_config *config = plan->model->config;
    if (!config || !config->multimodal) return LLAVA_OK;
    LLAVA_TRY(report_set(report, "projector",
                         json_pack("{s:s, s:I}", "type", config->mm.projector_type,
                                   "mm_hidden_size", (json_int_t)config->mm.mm_hidden_size)));
    LLAVA_TRY(report_set(report, "image_aspect_ratio", json_string(config->mm.aspect_text)));
    LLAVA_TRY(report_set(report, "mm_patch_merge_type", json_string(config->mm.merge_type)));
    LLAVA_TRY(report_set(report, "tower", tower_json(plan)));
    if (config->tower.kind == TOWER_NONE) return LLAVA_OK;
    LLAVA_TRY(report_set(report, "image_processor", processor_json(&config->processor)));
    if (!plan->processor) return LLAVA_OK;
    return report_set(report, "tokens_per_tile", json_integer(plan->processor->tokens_per_tile));
}

llava_status report_text(const load_plan *plan, json_t *report) {
    const llava_model *model = plan->model;
    if (plan->tokenizer)
        LLAVA_TRY(report_set(report, "tokenizer",
                             json_pack("{s:s, s:I}", "description",
                                       tokenizer_description(plan->tokenizer), "size",
                                       (json_int_t)tokenizer_size(plan->tokenizer))));
    if (model->template_name)
        LLAVA_TRY(report_set(report, "template",
                             json_pack("{s:s, s:s}", "name", model->template_name, "reason",
                                       model->template_reason)));
    if (model->n_vocab == 0) return LLAVA_OK;
    return report_set(report, "vocabulary",
                      json_pack("{s:I, s:I}", "logits", (json_int_t)model->n_vocab, "stored",
                                (json_int_t)model->n_stored_vocab));
}
