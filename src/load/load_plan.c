/* SPDX-License-Identifier: Apache-2.0
 *
 * The stages of loading up to bound weights, each with the decision it takes.
 */
#include <stdio.h>

#include "load_plan.h"

llava_status plan_open(load_plan *plan, const llava_load_options *options, llava_error *err) {
    *plan = (load_plan){.resolved = *options,
                        .config_directory = options->model_path,
                        .weights_directory = options->model_path,
                        .err = err};
    plan->options = &plan->resolved;
    plan->model = model_new();
    if (!plan->model) return llava_fail_memory(err, sizeof *plan->model, "a model");
    plan->bind.memory = plan->model->memory;
    plan->name_given = options->model_name && options->model_name[0];
    plan->model->name = plan->name_given
                            ? arena_strdup(plan->model->memory, options->model_name)
                            : config_model_name(plan->model->memory, options->model_path);
    plan->model->compute =
        options->torch_dtype == LLAVA_DTYPE_DEFAULT ? LLAVA_DTYPE_F16 : options->torch_dtype;
    if (plan->model->name) return LLAVA_OK;
    return llava_fail_memory(err, strlen(options->model_path), "the model's name");
}

void plan_close(load_plan *plan) {
    place_tree_free(&plan->modules);
    place_map_free(&plan->map);
    binder_free(&plan->bind);
    quant_settings_free(&plan->quantize);
    image_processor_free(&plan->processor);
    tokenizer_free(&plan->tokenizer);
    model_free(&plan->model);
}

/* ---------------------------------------------------------------- options and mode */

llava_status plan_check_options(load_plan *plan) {
    const llava_load_options *o = plan->options;
    const llava_dtype dtype = plan->model->compute;
    LLAVA_TRY(plan_read_map(plan));
    LLAVA_TRY(plan_check_attention(plan));
    if (o->load_8bit && o->load_4bit)
        return llava_fail(plan->err, LLAVA_BAD_ARGUMENT,
                          "load_8bit and load_4bit exclude each other");
    if (dtype != LLAVA_DTYPE_F32 && dtype != LLAVA_DTYPE_F16 && dtype != LLAVA_DTYPE_BF16)
        return llava_fail(plan->err, LLAVA_BAD_ARGUMENT,
                          "torch_dtype: expected float32, float16 or bfloat16, got %s",
                          dtype_name(dtype));
    if (o->n_threads < 0)
        return llava_fail(plan->err, LLAVA_BAD_ARGUMENT, "n_threads: expected 0 or more, got %d",
                          o->n_threads);
    return quant_settings_read(o, NULL, &plan->quantize, plan->err);
}

static bool has_file(load_plan *plan, const char *name) {
    const char *path = path_join(plan->model->memory, plan->options->model_path, name);
    return path && path_is_file(path);
}

/** model_base as given, or as the adapter names it when that is a directory here. */
static llava_status choose_base(load_plan *plan) {
    const llava_load_options *o = plan->options;
    const char *given = o->model_base && o->model_base[0] ? o->model_base : NULL;
    const char *named = plan->model->overlay ? plan->model->overlay->base : NULL;
    const char *base = given ? given : named;
    if (!base || !path_is_directory(base))
        return llava_fail(plan->err, given ? LLAVA_IO : LLAVA_BAD_ARGUMENT,
                          given ? "model_base \"%s\": no such directory"
                                : "%s is %s: it needs model_base, the directory of its base model",
                          given ? given : o->model_path,
                          plan->is_adapter ? "a LoRA adapter" : "a projector without its model");
    plan->weights_directory = base;
    return LLAVA_OK;
}

llava_status plan_check_mode(load_plan *plan) {
    const llava_load_options *o = plan->options;
    if (!path_is_directory(o->model_path))
        return llava_fail(plan->err, LLAVA_IO, "model_path \"%s\": no such directory",
                          o->model_path);
    plan->is_adapter = adapter_exists(o->model_path);
    plan->is_projector = !plan->is_adapter && projector_exists(o->model_path);
    plan->weights_directory = plan->config_directory = o->model_path;
    if (plan->is_adapter) LLAVA_TRY(adapter_open(o->model_path, &plan->model->overlay, plan->err));
    if (plan->is_adapter || plan->is_projector) {
        LLAVA_TRY(choose_base(plan));
        if (!has_file(plan, "config.json")) plan->config_directory = plan->weights_directory;
        return LLAVA_OK;
    }
    if (o->model_base && o->model_base[0])
        return llava_fail(plan->err, LLAVA_UNSUPPORTED,
                          "model_base: it is for adapters and projectors; %s is loaded as a "
                          "complete checkpoint, without model_base",
                          o->model_path);
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- config and weights */

llava_status plan_read_config(load_plan *plan) {
    const llava_load_options *o = plan->options;
    const config_request request = {.directory = plan->config_directory,
                                    .generation_directory = plan->weights_directory,
                                    .model_name = plan->model->name,
                                    .model_name_given = plan->name_given,
                                    .multimodal_keyword = o->multimodal,
                                    .customized_config = o->customized_config,
                                    .overwrite_config = o->overwrite_config};
    LLAVA_TRY(config_load(&request, &plan->model->config, plan->err));
    const llava_config *config = plan->model->config;
    const json_t *stored =
        json_get(config->native ? config->native : config->root, "quantization_config");
    if (stored) {
        quant_settings_free(&plan->quantize);
        LLAVA_TRY(quant_settings_read(o, stored, &plan->quantize, plan->err));
    }
    plan->bind.int8_threshold = plan->quantize.threshold;
    if (!config->lm.family->supported)
        return llava_fail(plan->err, LLAVA_UNSUPPORTED,
                          "architecture %s is recognised but this build cannot run it",
                          config->architecture);
    return LLAVA_OK;
}

llava_status plan_open_weights(load_plan *plan) {
    llava_model *model = plan->model;
    LLAVA_TRY(checkpoint_open(plan->weights_directory, &model->files[0], plan->err));
    const checkpoint *c = model->files[0];
    if (!model->config) return LLAVA_OK; /* only an inspection goes on without */
    const char *value =
        arena_printf(model->memory, "%zu file%s, %zu tensors", checkpoint_file_count(c),
                     checkpoint_file_count(c) == 1 ? "" : "s", checkpoint_count(c));
    if (!value) return llava_fail_memory(plan->err, 0, "a decision");
    return config_note(model->config, "weights", value,
                       checkpoint_file_count(c) ? checkpoint_file(c, 0) : "", plan->err);
}

llava_status plan_open_overlay(load_plan *plan) {
    llava_model *model = plan->model;
    const bool mpt = model->config->lm.family->arch == ARCH_MPT;
    if (plan->is_projector)
        LLAVA_TRY(projector_open(plan->options->model_path, mpt ? "transformer" : "model",
                                 &model->overlay, plan->err));
    plan->bind.overlay = model->overlay;
    if (!model->overlay) return LLAVA_OK;
    return config_note(model->config, plan->is_adapter ? "adapter" : "projector",
                       model->overlay->what, plan->weights_directory, plan->err);
}

/* ---------------------------------------------------------------- tensors */

/** The first of two prefixes that some tensor has; else the first. */
static const char *either(const checkpoint *c, const char *first, const char *second) {
    return !checkpoint_has_prefix(c, first) && checkpoint_has_prefix(c, second) ? second : first;
}

/** "-hf" checkpoints: names as transformers writes them, or as its classes from 4.52 on have them
 *  in memory; 5 leaves out the tower's "vision_model." there. */
static void choose_native_prefixes(load_plan *plan) {
    const checkpoint *c = plan->model->files[0];
    binder *b = &plan->bind;
    const char *tower = either(c, "vision_tower.", "model.vision_tower.");
    const bool in_memory = tower[0] == 'm';
    b->prefix[BIND_DECODER] = either(c, "language_model.model.", "model.language_model.");
    b->prefix[BIND_HEAD] = checkpoint_find(c, "lm_head.weight") ? "" : "language_model.";
    b->prefix[BIND_PICTURE] =
        either(c, "image_newline", "model.image_newline")[0] == 'm' ? "model." : "";
    b->prefix[BIND_PROJECTOR] = either(c, "multi_modal_projector.", "model.multi_modal_projector.");
    b->prefix[BIND_TOWER] = either(
        c, in_memory ? "model.vision_tower.vision_model." : "vision_tower.vision_model.", tower);
    for (int g = 0; g < BIND_GROUPS; g++) {
        b->source[g] = c;
        b->canonical[g] = b->prefix[g];
    }
}

/** The decoder's prefix, or "" in a dump of the bare decoder. */
static void choose_prefixes(load_plan *plan) {
    const llava_model *model = plan->model;
    if (model->config->native) {
        choose_native_prefixes(plan);
        return;
    }
    const checkpoint *c = model->files[0];
    binder *b = &plan->bind;
    const bool mpt = model->config->lm.family->arch == ARCH_MPT;
    const char *usual = mpt ? "transformer." : "model.";
    const bool bare =
        !checkpoint_has_prefix(c, usual) && checkpoint_has_prefix(c, mpt ? "blocks." : "layers.");
    const char *prefix = bare ? "" : usual;
    for (int g = 0; g < BIND_GROUPS; g++) b->source[g] = c;
    b->prefix[BIND_DECODER] = b->prefix[BIND_PICTURE] = prefix;
    b->canonical[BIND_DECODER] = b->canonical[BIND_PICTURE] = usual;
    b->prefix[BIND_HEAD] = b->canonical[BIND_HEAD] = "";
    b->canonical[BIND_PROJECTOR] = mpt ? "transformer.mm_projector." : "model.mm_projector.";
    b->canonical[BIND_TOWER] = mpt ? "transformer.vision_tower.vision_tower.vision_model."
                                   : "model.vision_tower.vision_tower.vision_model.";
    const char *projector = bare  ? "mm_projector."
                            : mpt ? "transformer.mm_projector."
                                  : "model.mm_projector.";
    /* some video checkpoints hold the projector under the resampler's name alone */
    const char *alias = "model.vision_resampler.mm_projector.";
    const bool use_alias = !checkpoint_has_prefix(c, projector) && checkpoint_has_prefix(c, alias);
    b->prefix[BIND_PROJECTOR] = use_alias ? alias : projector;
}

/** Refuses sizes that the files cannot hold before anything is allocated for them. */
static llava_status check_counts(const load_plan *plan) {
    const lm_config *lm = &plan->model->config->lm;
    const checkpoint *c = plan->model->files[0];
    int64_t sparse = 0;
    for (int64_t i = 0; i < lm->n_layers; i++) sparse += lm_layer_is_sparse(lm, i);
    const int64_t needed = 3 * lm->n_layers + 3 * sparse * lm->n_experts;
    if (needed <= (int64_t)checkpoint_count(c)) return LLAVA_OK;
    return llava_fail(plan->err, LLAVA_MALFORMED,
                      "%s: config.json's %lld layers%s need at least %lld tensors, the files hold "
                      "%zu",
                      checkpoint_path(c), (long long)lm->n_layers,
                      lm->n_experts ? " and experts" : "", (long long)needed, checkpoint_count(c));
}

llava_status plan_describe(load_plan *plan) {
    llava_model *model = plan->model;
    LLAVA_TRY(check_counts(plan));
    choose_prefixes(plan);
    bind_decoder(&plan->bind, model);
    return LLAVA_OK;
}

const char *plan_tower_name(const llava_config *config) {
    const char *name = config->mm.vision_tower;
    return strncmp(name, "hf:", 3) == 0 ? name + 3 : name;
}

llava_status plan_find_tower(load_plan *plan) {
    llava_model *model = plan->model;
    if (!model->config->multimodal) return LLAVA_OK;
    if (model->config->native)
        return config_read_native_tower(model->config, plan->weights_directory, plan->err);
    const char *name = plan_tower_name(model->config);
    if (strncmp(name, "open_clip_hub", 13) == 0 || strcmp(name, "imagebind_huge") == 0)
        return llava_fail(plan->err, LLAVA_UNSUPPORTED,
                          "mm_vision_tower \"%s\": this build runs CLIP, SigLIP and MLCD towers",
                          name);
    plan->tower_directory = load_find_tower(model->memory, name, plan->options->working_directory,
                                            plan->options->model_path);
    const char *described = plan->tower_directory;
    if (!described) LLAVA_TRY(plan_fetch_tower(plan, false, &described));
    return config_read_tower(model->config, described, plan->err);
}

/** Finds the complete set in the checkpoint, or opens the tower's own directory. */
static llava_status find_tower_tensors(load_plan *plan) {
    llava_model *model = plan->model;
    binder *b = &plan->bind;
    const char *prefix = b->canonical[BIND_TOWER];
    presence whole, base;
    binder_present(b, BIND_TOWER, prefix, true, &whole);
    binder_present(b, BIND_TOWER, prefix, false, &base);
    if (whole.present == whole.total) {
        plan->tower_in_checkpoint = true;
        b->prefix[BIND_TOWER] = prefix;
        return config_note(model->config, "tower weights", checkpoint_path(model->files[0]),
                           "the checkpoint holds the complete tower", plan->err);
    }
    /* pieces of it in an adapter lie on top of the tower's own directory */
    if (base.present > 0 || model->config->native)
        return llava_fail(plan->err, LLAVA_MALFORMED,
                          "%s: it holds %zu of the vision tower's %zu tensors; missing: %s%s",
                          checkpoint_path(model->files[0]), base.present, base.total, base.missing,
                          base.total - base.present > 5 ? " and more" : "");
    if (!plan->tower_directory) LLAVA_TRY(plan_fetch_tower(plan, true, &plan->tower_directory));
    if (!plan->tower_directory)
        return llava_fail(plan->err, LLAVA_IO,
                          "%s holds no vision tower, and mm_vision_tower \"%s\" was not found in "
                          "the working directory, the checkpoint's or its parents'",
                          checkpoint_path(model->files[0]), model->config->mm.vision_tower);
    LLAVA_TRY(checkpoint_open(plan->tower_directory, &model->files[1], plan->err));
    b->source[BIND_TOWER] = model->files[1];
    b->prefix[BIND_TOWER] =
        checkpoint_has_prefix(model->files[1], "vision_model.") ? "vision_model." : "";
    return config_note(model->config, "tower weights", plan->tower_directory,
                       "the checkpoint holds no tensor of the tower", plan->err);
}

llava_status plan_choose_tower(load_plan *plan) {
    llava_model *model = plan->model;
    if (!model->config->multimodal) return LLAVA_OK;
    bind_projector(&plan->bind, model); /* its width may come from the tower */
    bind_tower(&plan->bind, model);
    return find_tower_tensors(plan);
}

llava_status plan_bind(load_plan *plan) {
    llava_model *model = plan->model;
    LLAVA_TRY(binder_resolve(&plan->bind, plan->err));
    decoder_weights *d = &model->decoder;
    if (model->config->lm.tie_word_embeddings) d->head = d->embed;
    /* a projector file may bring a grown embedding without a grown head */
    if (d->head.n_rows > d->embed.n_rows || (d->head.n_rows < d->embed.n_rows && !model->overlay))
        return llava_fail(plan->err, LLAVA_MALFORMED,
                          "%s: tensor lm_head.weight has %lld rows, the embedding %lld",
                          checkpoint_path(model->files[0]), (long long)d->head.n_rows,
                          (long long)d->embed.n_rows);
    model->n_vocab = d->embed.n_rows;
    model->n_stored_vocab = d->head.n_rows;
    const char *unused = adapter_unused(model->overlay, bind_is_known_extra);
    if (!unused) return LLAVA_OK;
    return llava_fail(plan->err, LLAVA_MALFORMED, "%s: \"%s\" matches nothing in %s",
                      plan->options->model_path, unused, plan->weights_directory);
}

llava_status plan_quantization(load_plan *plan) {
    const quant_settings *s = &plan->quantize;
    const binder *b = &plan->bind;
    size_t stored = 0, wanted = 0, matrices = 0;
    for (size_t i = 0; i < b->count; i++) {
        const bind_entry *e = &b->entries[i];
        if (!e->found) continue;
        matrices += e->linear;
        stored += e->dst->quant != NULL;
        wanted += quant_applies(s, b, e);
    }
    if (stored + wanted == 0) return LLAVA_OK;
    const char *value = arena_printf(plan->model->memory, "%s, %zu of %zu matrices",
                                     quant_format_name(s->format), stored + wanted, matrices);
    if (!value) return llava_fail_memory(plan->err, 0, "a decision");
    const bool asked = plan->options->load_4bit || plan->options->load_8bit;
    return config_note(plan->model->config, "quantization", value,
                       wanted ? "quantized while loading, as load_4bit or load_8bit asks"
                       : asked
                           ? "the checkpoint holds codes; load_4bit and load_8bit change nothing"
                           : "the checkpoint holds codes",
                       plan->err);
}

/* ---------------------------------------------------------------- text and pictures */

/** Slow or fast, as the reference asks for this architecture. */
static tokenizer_flavour choose_flavour(const llava_config *config) {
    if (config->native) return TOKENIZER_FAST; /* AutoProcessor's */
    if (!config->multimodal)
        return config->lm.family->arch == ARCH_MPT ? TOKENIZER_FAST : TOKENIZER_SLOW;
    return config->lm.family->slow_tokenizer ? TOKENIZER_SLOW : TOKENIZER_FAST;
}

static llava_status add_picture_tokens(load_plan *plan) {
    const mm_config *mm = &plan->model->config->mm;
    const struct {
        const char *text;
        bool wanted;
        const char *reason;
    } tokens[] = {
        {"<im_patch>", mm->use_im_patch_token, "mm_use_im_patch_token, true when absent"},
        {"<im_start>", mm->use_im_start_end, "mm_use_im_start_end"},
        {"<im_end>", mm->use_im_start_end, "mm_use_im_start_end"},
    };
    for (size_t i = 0; i < LLAVA_COUNT(tokens); i++) {
        int32_t id;
        bool added;
        if (!tokens[i].wanted) continue;
        LLAVA_TRY(tokenizer_add_special(plan->tokenizer, tokens[i].text, &id, &added, plan->err));
        const char *value = arena_printf(plan->model->memory, "%s = %d, %s", tokens[i].text,
                                         (int)id, added ? "added" : "already there");
        if (!value) return llava_fail_memory(plan->err, 0, "a decision");
        LLAVA_TRY(config_note(plan->model->config, "token", value, tokens[i].reason, plan->err));
    }
    return LLAVA_OK;
}

/** A LLaVA model has len(tokenizer) logits: rows beyond are cut off, ids beyond the rows are never
 *  sampled. A plain language model keeps its rows. */
static llava_status resize_vocabulary(load_plan *plan) {
    llava_model *model = plan->model;
    const int64_t stored = model->n_stored_vocab, size = tokenizer_size(plan->tokenizer);
    if (!model->config->multimodal || stored == size || stored == 0) return LLAVA_OK;
    model->n_vocab = size;
    model->n_stored_vocab = i64_min(stored, size);
    const char *value =
        arena_printf(model->memory, "%lld rows, %lld ids", (long long)stored, (long long)size);
    if (!value) return llava_fail_memory(plan->err, 0, "a decision");
    return config_note(model->config, "vocabulary", value,
                       stored > size ? "rows beyond the tokenizer are cut off"
                                     : "ids without a stored row are excluded from sampling",
                       plan->err);
}

llava_status plan_open_tokenizer(load_plan *plan) {
    const llava_config *config = plan->model->config;
    const tokenizer_request request = {.directory = plan->weights_directory,
                                       .flavour = choose_flavour(config),
                                       .keeps_json = config->native != NULL,
                                       .model_type = config->lm.family->model_type};
    LLAVA_TRY(tokenizer_open(&request, &plan->tokenizer, plan->err));
    LLAVA_TRY(config_note(plan->model->config, "tokenizer", tokenizer_description(plan->tokenizer),
                          request.flavour == TOKENIZER_SLOW
                              ? "the reference asks for the slow tokenizer of this architecture"
                              : "the reference asks for the fast tokenizer of this architecture",
                          plan->err));
    if (config->multimodal) LLAVA_TRY(add_picture_tokens(plan));
    return resize_vocabulary(plan);
}

llava_status plan_choose_template(load_plan *plan) {
    llava_model *model = plan->model;
    LLAVA_TRY(plan_read_chat_template(plan));
    if (model->config->native && model->chat_template) {
        model->template_name = CHECKPOINT_TEMPLATE;
        model->template_reason = "a checkpoint of transformers' own classes with a chat template";
        return config_note(model->config, "template", model->template_name, model->template_reason,
                           plan->err);
    }
    const template_evidence evidence = {
        .model_name = model->name,
        .architecture = model->config->architecture,
        .vision_tower = model->config->multimodal ? model->config->mm.vision_tower : NULL,
        .tokenizer = plan->tokenizer};
    const conversation_template *chosen = template_choose(&evidence, &model->template_reason);
    model->template_name = chosen->name;
    return config_note(model->config, "template", chosen->name, model->template_reason, plan->err);
}

llava_status plan_open_processor(load_plan *plan) {
    const llava_config *config = plan->model->config;
    if (!config->multimodal) return LLAVA_OK;
    LLAVA_TRY(image_processor_new(config, &plan->processor, plan->err));
    plan->processor->n_threads = plan->options->n_threads;
    return LLAVA_OK;
}
