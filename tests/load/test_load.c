/* SPDX-License-Identifier: Apache-2.0
 *
 * Loading: what is refused and how it is said, where the tower comes from, which formats stay
 * mapped, cancelling, and reports about broken directories.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "load/load_plan.h"
#include "reference.h"
#include "tiny_checkpoint.h"

#define TOWER_PREFIX "model.vision_tower.vision_tower.vision_model."

static scratch place;

static int open_place(void **state) {
    (void)state;
    if (!scratch_open(&place)) return -1;
    scratch_directory(&place, "m");
    scratch_directory(&place, "towers");
    scratch_directory(&place, "towers/t");
    return 0;
}

static int close_place(void **state) {
    (void)state;
    scratch_close(&place);
    return 0;
}

static llava_load_options options_here(void) {
    static char path[sizeof place.path + 2];
    snprintf(path, sizeof path, "%s/m", place.path);
    return (llava_load_options){.model_path = path, .torch_dtype = LLAVA_DTYPE_F32};
}

/** Loads "m", which must fail with this status and these words. */
static void must_fail(const llava_load_options *options, llava_status status, const char *says) {
    llava_loaded loaded = {0};
    llava_error err = {0};
    const llava_status got = load_pretrained_model(options, &loaded, &err);
    if (got != status || !strstr(err.message, says))
        fail_msg("expected %s \"%s\", got %s \"%s\"", llava_status_name(status), says,
                 llava_status_name(got), err.message);
    assert_null(loaded.model);
    assert_null(loaded.tokenizer);
    assert_null(loaded.image_processor);
}

/** The report's error of a stage, or NULL. The report is freed; the text is kept. */
static const char *inspect_stage_error(const llava_load_options *options, const char *stage) {
    static char message[LLAVA_ERROR_SIZE];
    json_t *report;
    llava_error err = {0};
    if (load_inspect(options, &report, &err) != LLAVA_OK) fail_msg("%s", err.message);
    const json_t *errors = json_get(report, "errors");
    const char *found = NULL;
    for (size_t i = 0; i < json_array_size(errors) && !found; i++) {
        const json_t *error = json_array_get(errors, i);
        if (strcmp(json_string_value(json_get(error, "stage")), stage) != 0) continue;
        snprintf(message, sizeof message, "%s", json_string_value(json_get(error, "message")));
        found = message;
    }
    json_decref(report);
    return found;
}

/* ---------------------------------------------------------------- options */

static void test_options(void **state) {
    (void)state;
    llava_load_options o = options_here();
    o.load_8bit = o.load_4bit = true;
    must_fail(&o, LLAVA_BAD_ARGUMENT, "exclude");
    o.load_8bit = false;
    o.quantization_config = "{\"bnb_4bit_quant_type\": \"int3\"}";
    must_fail(&o, LLAVA_BAD_ARGUMENT, "bnb_4bit_quant_type");
    o.quantization_config = "{\"bnb_4bit_blocksize\": 96}";
    must_fail(&o, LLAVA_BAD_ARGUMENT, "bnb_4bit_blocksize");
    o.quantization_config = "{\"quant_method\": \"gptq\"}";
    must_fail(&o, LLAVA_UNSUPPORTED, "quant_method");
    o.load_4bit = false;
    o.quantization_config = "{}";
    must_fail(&o, LLAVA_BAD_ARGUMENT, "needs load_4bit");
    o.quantization_config = NULL;
    o.torch_dtype = LLAVA_DTYPE_I8;
    must_fail(&o, LLAVA_BAD_ARGUMENT, "torch_dtype");
    o.torch_dtype = LLAVA_DTYPE_DEFAULT;
    o.device_map = "cuda:0";
    must_fail(&o, LLAVA_UNSUPPORTED, "device_map");
    o.device_map = "cpu";
    o.attn_implementation = "magic";
    must_fail(&o, LLAVA_BAD_ARGUMENT, "attn_implementation");
    o.attn_implementation = "sdpa";
    o.model_path = scratch_path(&place, "nowhere");
    must_fail(&o, LLAVA_IO, "no such directory");
}

static void test_absent_files(void **state) {
    (void)state;
    llava_load_options o = options_here();
    must_fail(&o, LLAVA_IO, "config.json");
    scratch_text(&place, "m/config.json", TINY_LLAMA);
    must_fail(&o, LLAVA_IO, "no weights");
}

static void test_prequantized(void **state) {
    (void)state;
    const llava_load_options o = options_here();
    scratch_text(&place, "m/config.json",
                 "{\"model_type\":\"llama\"," TINY_CONFIG ",\"quantization_config\":{}}");
    must_fail(&o, LLAVA_MALFORMED, "load_in_4bit");
    scratch_text(&place, "m/config.json",
                 "{\"model_type\":\"llama\"," TINY_CONFIG
                 ",\"quantization_config\":{\"quant_method\":\"gptq\"}}");
    must_fail(&o, LLAVA_UNSUPPORTED, "quant_method");
}

/* ---------------------------------------------------------------- tensors */

static void write_llama(tiny_file *f, const char *prefix) {
    scratch_text(&place, "m/config.json", TINY_LLAMA);
    tiny_decoder(f, prefix);
    tiny_write(&place, "m/model.safetensors", f);
}

static void test_complete(void **state) {
    (void)state;
    const llava_load_options o = options_here();
    write_llama(&(tiny_file){0}, "model.");
    assert_null(inspect_stage_error(&o, "tensors"));
    assert_non_null(inspect_stage_error(&o, "tokenizer")); /* there is none */
    write_llama(&(tiny_file){0}, "");                      /* a dump of the bare decoder */
    assert_null(inspect_stage_error(&o, "tensors"));
}

static void test_missing(void **state) {
    (void)state;
    const llava_load_options o = options_here();
    write_llama(&(tiny_file){.skip = "layers.1.mlp.up_proj"}, "model.");
    must_fail(&o, LLAVA_MALFORMED, "1 tensor is missing: model.layers.1.mlp.up_proj.weight");
    write_llama(&(tiny_file){.skip = "self_attn"}, "model.");
    must_fail(&o, LLAVA_MALFORMED, "8 tensors are missing: model.layers.0.self_attn.q_proj.weight");
    must_fail(&o, LLAVA_MALFORMED, " and 3 more");
    write_llama(&(tiny_file){.skip = "lm_head"}, "model.");
    must_fail(&o, LLAVA_MALFORMED, "lm_head.weight");
    write_llama(&(tiny_file){.skip = "."}, "model.");
    must_fail(&o, LLAVA_MALFORMED, "the files hold 0");
}

static void test_spoiled(void **state) {
    (void)state;
    const llava_load_options o = options_here();
    write_llama(
        &(tiny_file){.spoil = "model.layers.0.self_attn.k_proj.weight", .spoil_with = "shape"},
        "model.");
    must_fail(&o, LLAVA_MALFORMED,
              "tensor model.layers.0.self_attn.k_proj.weight: expected shape [8, 8], got [9, 8]");
    write_llama(&(tiny_file){.spoil = "model.norm.weight", .spoil_with = "dtype"}, "model.");
    must_fail(&o, LLAVA_UNSUPPORTED, "expected floating-point weights, got I8");
    write_llama(&(tiny_file){.spoil = "lm_head.weight", .spoil_with = "shape"}, "model.");
    must_fail(&o, LLAVA_MALFORMED, "lm_head.weight has 11 rows, the embedding 10");
}

static void test_absurd_counts(void **state) {
    (void)state;
    const llava_load_options o = options_here();
    write_llama(&(tiny_file){0}, "model.");
    scratch_text(&place, "m/config.json",
                 "{\"model_type\":\"mixtral\",\"hidden_size\":8,\"num_attention_heads\":2,"
                 "\"num_key_value_heads\":2,\"num_hidden_layers\":1024,"
                 "\"num_local_experts\":4096}");
    must_fail(&o, LLAVA_MALFORMED, "layers and experts need at least");
}

/* ---------------------------------------------------------------- towers */

/** A LLaVA checkpoint; the tower inside it, in its own directory, or both. */
static void write_llava(tiny_file *f, bool inside, const char *projector, bool outside) {
    scratch_text(&place, "m/config.json", TINY_LLAVA);
    tiny_decoder(f, "model.");
    tiny_projector(f, projector);
    if (inside) tiny_tower(f, TOWER_PREFIX);
    tiny_write(&place, "m/model.safetensors", f);
    scratch_text(&place, "towers/t/config.json", TINY_TOWER_CONFIG);
    if (!outside) return;
    tiny_file tower = {0};
    tiny_tower(&tower, "vision_model.");
    tiny_write(&place, "towers/t/model.safetensors", &tower);
}

static void expect_tower(const llava_load_options *o, const char *weights) {
    json_t *report;
    llava_error err = {0};
    assert_int_equal(load_inspect(o, &report, &err), LLAVA_OK);
    assert_string_equal(json_string_value(json_get(json_get(report, "tower"), "weights")), weights);
    assert_int_equal(json_array_size(json_get(report, "missing")), 0);
    json_decref(report);
}

static void test_tower_source(void **state) {
    (void)state;
    const llava_load_options o = options_here(); /* towers/t lies beside m: found as its parent's */
    write_llava(&(tiny_file){0}, true, "model.mm_projector.", true);
    expect_tower(&o, "checkpoint");
    write_llava(&(tiny_file){0}, false, "model.mm_projector.", true);
    expect_tower(&o, "own directory");
    assert_null(inspect_stage_error(&o, "tensors"));
    write_llava(&(tiny_file){.skip = "fc2"}, true, "model.mm_projector.", true);
    must_fail(&o, LLAVA_MALFORMED,
              "it holds 19 of the vision tower's 21 tensors; missing: " TOWER_PREFIX
              "encoder.layers.0.mlp.fc2.weight");
    /* some video checkpoints have the projector under the resampler's name */
    write_llava(&(tiny_file){0}, true, "model.vision_resampler.mm_projector.", true);
    assert_null(inspect_stage_error(&o, "tensors"));
    write_llava(&(tiny_file){.skip = "mm_projector"}, true, "model.mm_projector.", true);
    must_fail(&o, LLAVA_MALFORMED, "model.mm_projector.0.weight");
}

static void test_tower_nowhere(void **state) {
    (void)state;
    const llava_load_options o = options_here();
    write_llava(&(tiny_file){0}, false, "model.mm_projector.", false);
    must_fail(&o, LLAVA_IO, "no weights");
    scratch_text(&place, "m/config.json",
                 "{\"model_type\":\"llava_llama\"," TINY_CONFIG
                 ",\"mm_vision_tower\":\"elsewhere\","
                 "\"mm_vision_select_layer\":-2}");
    must_fail(&o, LLAVA_IO, "mm_vision_tower \"elsewhere\"");
    scratch_text(&place, "m/config.json",
                 "{\"model_type\":\"llava_llama\"," TINY_CONFIG
                 ",\"mm_vision_tower\":\"open_clip_hub:x\"}");
    must_fail(&o, LLAVA_UNSUPPORTED, "open_clip_hub");
}

static void test_hub_id_unknown(void **state) {
    (void)state;
    const llava_load_options o = {
        .model_path = "nobody/nothing", .hub_cache = place.path, .hub_offline = true};
    assert_non_null(strstr(inspect_stage_error(&o, "hub"), "nobody/nothing"));
}

static void test_find_tower(void **state) {
    (void)state;
    arena *memory = arena_new();
    scratch_directory(&place, "m/a");
    scratch_directory(&place, "m/a/b");
    const char *root = scratch_path(&place, "");
    assert_non_null(load_find_tower(memory, "towers/t", root, NULL));
    assert_non_null(load_find_tower(memory, "towers/t", NULL, scratch_path(&place, "m")));
    assert_non_null(load_find_tower(memory, "towers/t", NULL, scratch_path(&place, "m/a/b")));
    assert_null(load_find_tower(memory, "towers/none", root, scratch_path(&place, "m")));
    assert_null(load_find_tower(memory, "", root, root));
    char *absolute = realpath(scratch_path(&place, "towers/t"), NULL);
    assert_string_equal(load_find_tower(memory, absolute, NULL, NULL), absolute);
    free(absolute);
    arena_free(&memory);
}

static void test_tower_only(void **state) {
    (void)state;
    write_llava(&(tiny_file){0}, false, "model.mm_projector.", true);
    llava_model *model;
    llava_image_processor *processor;
    llava_error err = {0};
    tower_request request = {.directory = scratch_path(&place, "towers/t"),
                             .config_json = "{\"mm_vision_select_layer\":-2}",
                             .torch_dtype = LLAVA_DTYPE_F32,
                             .n_threads = 1};
    if (load_tower_only(&request, &model, &processor, &err) != LLAVA_OK)
        fail_msg("%s", err.message);
    assert_int_equal(model->tower.n_layers, 1);
    assert_int_equal(model->owned_bytes, 0);
    assert_int_equal(processor->patches_per_side, 2);
    model_free(&model);
    image_processor_free(&processor);
    request.config_json = "{}";
    assert_int_equal(load_tower_only(&request, &model, &processor, &err), LLAVA_MALFORMED);
    assert_null(model);
}

/* ---------------------------------------------------------------- formats */

static void test_cast_target(void **state) {
    (void)state;
    const llava_dtype f32 = LLAVA_DTYPE_F32, f16 = LLAVA_DTYPE_F16, bf16 = LLAVA_DTYPE_BF16,
                      f64 = LLAVA_DTYPE_F64;
    const struct {
        llava_dtype compute, stored, kept;
    } table[] = {
        {f32, f32, f32},   {f32, f16, f16},   {f32, bf16, bf16},  {f32, f64, f32},
        {f16, f32, f16},   {f16, f16, f16},   {f16, bf16, bf16},  {f16, f64, f16},
        {bf16, f32, bf16}, {bf16, f16, bf16}, {bf16, bf16, bf16}, {bf16, f64, bf16},
    };
    for (size_t i = 0; i < LLAVA_COUNT(table); i++)
        assert_int_equal(cast_target(table[i].compute, table[i].stored), table[i].kept);
}

typedef struct progress_log {
    uint64_t last, total;
    int calls, stop_after;
} progress_log;

static bool log_progress(void *user, uint64_t done, uint64_t total, const char *what) {
    progress_log *log = user;
    assert_true(done >= log->last && done <= total);
    assert_non_null(what);
    log->last = done;
    log->total = total;
    return ++log->calls != log->stop_after;
}

/** A recorded model of the project's own selection: float16 weights, a float32 tower. */
static llava_load_options recorded_options(const char *folder, char *path, size_t size) {
    snprintf(path, size, "%s/models/llava-v1.5-llama-clip-pad", folder);
    return (llava_load_options){.model_path = path, .working_directory = folder, .n_threads = 2};
}

static void test_formats(void **state) {
    (void)state;
    char path[4096];
    llava_load_options o = recorded_options(reference_folder(), path, sizeof path);
    if (!path_is_directory(path)) skip();
    const llava_dtype types[] = {LLAVA_DTYPE_F32, LLAVA_DTYPE_F16, LLAVA_DTYPE_BF16};
    for (size_t i = 0; i < LLAVA_COUNT(types); i++) {
        progress_log log = {0};
        llava_loaded loaded;
        llava_error err = {0};
        o.torch_dtype = types[i];
        o.progress = log_progress;
        o.progress_user = &log;
        if (load_pretrained_model(&o, &loaded, &err) != LLAVA_OK) fail_msg("%s", err.message);
        const weight *q = &loaded.model->decoder.layers[0].q.w;
        assert_int_equal(q->dtype,
                         types[i] == LLAVA_DTYPE_BF16 ? LLAVA_DTYPE_BF16 : LLAVA_DTYPE_F16);
        if (types[i] == LLAVA_DTYPE_F32) assert_int_equal(loaded.model->owned_bytes, 0);
        if (types[i] == LLAVA_DTYPE_BF16)
            assert_int_equal(loaded.model->owned_bytes, loaded.model->weight_bytes);
        assert_int_equal(log.last, log.total);
        assert_true(log.calls > 10);
        image_processor_free(&loaded.image_processor);
        tokenizer_free(&loaded.tokenizer);
        model_free(&loaded.model);
    }
}

static void test_cancel(void **state) {
    (void)state;
    char path[4096];
    llava_load_options o = recorded_options(reference_folder(), path, sizeof path);
    if (!path_is_directory(path)) skip();
    progress_log log = {.stop_after = 5};
    o.progress = log_progress;
    o.progress_user = &log;
    o.torch_dtype = LLAVA_DTYPE_BF16;
    must_fail(&o, LLAVA_CANCELLED, "cancelled");
    assert_int_equal(log.calls, 5);
}

/* ---------------------------------------------------------------- reports */

static const json_t *member(const json_t *object, const char *key) {
    const json_t *value = json_get(object, key);
    if (!value) fail_msg("the report has no %s", key);
    return value;
}

static void test_report(void **state) {
    (void)state;
    write_llava(&(tiny_file){.skip = "layers.1.mlp"}, true, "model.mm_projector.", false);
    const llava_load_options o = options_here();
    json_t *report;
    llava_error err = {0};
    assert_int_equal(load_inspect(&o, &report, &err), LLAVA_OK);
    assert_true(json_is_false(member(report, "loadable")));
    assert_string_equal(json_string_value(member(report, "kind")), "multimodal");
    assert_int_equal(json_integer_value(member(report, "missing_count")), 3);
    assert_int_equal(json_array_size(member(report, "unexpected")), 0); /* inv_freq is known */
    assert_int_equal(json_array_size(member(report, "files")), 1);
    assert_int_equal(json_integer_value(member(report, "context_len")), 2048);
    assert_string_equal(json_string_value(member(member(report, "architecture"), "class")),
                        "LlavaLlamaForCausalLM");
    assert_true(json_array_size(member(report, "decisions")) > 5);
    assert_true(json_is_object(member(member(member(report, "tensors"), "by_dtype"), "F32")));
    json_decref(report);
}

static void test_report_of_nothing(void **state) {
    (void)state;
    json_t *report;
    llava_error err = {0};
    llava_load_options o = options_here();
    assert_int_equal(load_inspect(&o, &report, &err), LLAVA_OK); /* an empty directory */
    assert_true(json_is_false(member(report, "loadable")));
    assert_string_equal(json_string_value(member(report, "kind")), "unknown");
    json_decref(report);
    assert_non_null(strstr(inspect_stage_error(&o, "config"), "config.json"));
    assert_non_null(strstr(inspect_stage_error(&o, "weights"), "no weights"));
    o.model_path = scratch_path(&place, "nowhere");
    assert_non_null(strstr(inspect_stage_error(&o, "mode"), "no such directory"));
    o = options_here();
    scratch_text(&place, "m/config.json", TINY_LLAMA);
    scratch_text(&place, "m/mm_projector.bin", "x"); /* needs model_base, which is not given */
    assert_non_null(strstr(inspect_stage_error(&o, "mode"), "model_base"));
    assert_non_null(strstr(inspect_stage_error(&o, "weights"), "no weights"));
    scratch_text(&place, "m/config.json", "{\"model_type\":\"llama\"");
    scratch_text(&place, "m/model.safetensors", "<html>");
    assert_non_null(strstr(inspect_stage_error(&o, "config"), "not valid JSON"));
    assert_non_null(strstr(inspect_stage_error(&o, "weights"), "truncated"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_options, open_place, close_place),
        cmocka_unit_test_setup_teardown(test_absent_files, open_place, close_place),
        cmocka_unit_test_setup_teardown(test_prequantized, open_place, close_place),
        cmocka_unit_test_setup_teardown(test_complete, open_place, close_place),
        cmocka_unit_test_setup_teardown(test_missing, open_place, close_place),
        cmocka_unit_test_setup_teardown(test_spoiled, open_place, close_place),
        cmocka_unit_test_setup_teardown(test_absurd_counts, open_place, close_place),
        cmocka_unit_test_setup_teardown(test_tower_source, open_place, close_place),
        cmocka_unit_test_setup_teardown(test_tower_nowhere, open_place, close_place),
        cmocka_unit_test_setup_teardown(test_hub_id_unknown, open_place, close_place),
        cmocka_unit_test_setup_teardown(test_find_tower, open_place, close_place),
        cmocka_unit_test_setup_teardown(test_tower_only, open_place, close_place),
        cmocka_unit_test_setup_teardown(test_report, open_place, close_place),
        cmocka_unit_test_setup_teardown(test_report_of_nothing, open_place, close_place),
        cmocka_unit_test(test_cast_target),
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_cancel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
