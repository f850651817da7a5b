/* SPDX-License-Identifier: Apache-2.0
 *
 * verify must see what is wrong, and say where: one value of a recorded call is changed at a time,
 * and exactly the stage that it belongs to has to fail.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "support/reference.h"
#include "verify/verify.h"

/** A case in memory: its object, and the bytes of its tensors' file. */
typedef struct recorded {
    json_t *root;
    uint8_t *file;
    size_t size;
} recorded;

static char work_folder[] = "/tmp/llava-verify-XXXXXX";

/* ---------------------------------------------------------------- files */

static uint8_t *read_all(const char *path, size_t *size) {
    FILE *in = fopen(path, "rb");
    if (!in) return NULL;
    fseek(in, 0, SEEK_END);
    *size = (size_t)ftell(in);
    rewind(in);
    uint8_t *data = malloc(*size + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, *size, in), *size);
    fclose(in);
    return data;
}

static void write_all(const char *path, const void *data, size_t size) {
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(data, 1, size, out), size);
    assert_int_equal(fclose(out), 0);
}

static bool open_recorded(const char *name, recorded *r) {
    char path[4096];
    snprintf(path, sizeof path, "%s/traces/%s.json", reference_folder(), name);
    r->root = json_load_file(path, JSON_ALLOW_NUL, NULL);
    snprintf(path, sizeof path, "%s/traces/%s.safetensors", reference_folder(), name);
    r->file = read_all(path, &r->size);
    return r->root && r->file;
}

static void close_recorded(recorded *r) {
    json_decref(r->root);
    free(r->file);
}

/** The tensor's values inside the file's bytes (little-endian float32, 8-byte aligned header). */
static uint8_t *find_tensor(const recorded *r, const char *name, size_t *n_bytes) {
    uint64_t header_size;
    memcpy(&header_size, r->file, sizeof header_size);
    json_t *header = json_loadb((const char *)r->file + 8, header_size, 0, NULL);
    assert_non_null(header);
    const json_t *offsets = json_object_get(json_object_get(header, name), "data_offsets");
    uint8_t *data = NULL;
    if (offsets) {
        const json_int_t begin = json_integer_value(json_array_get(offsets, 0));
        *n_bytes = (size_t)(json_integer_value(json_array_get(offsets, 1)) - begin);
        data = r->file + 8 + header_size + begin;
    }
    json_decref(header);
    return data;
}

/* ---------------------------------------------------------------- running */

static verify_report *run_recorded(const recorded *r) {
    char path[128];
    char *text = json_dumps(r->root, JSON_REAL_PRECISION(17));
    assert_non_null(text);
    snprintf(path, sizeof path, "%s/case.json", work_folder);
    write_all(path, text, strlen(text));
    free(text);
    char tensors[128];
    snprintf(tensors, sizeof tensors, "%s/case.safetensors", work_folder);
    write_all(tensors, r->file, r->size);
    const verify_options options = {.reference = reference_folder()};
    verify_report *report = NULL;
    llava_error err = {0};
    if (verify_case(path, &options, &report, &err) != LLAVA_OK) fail_msg("%s", err.message);
    unlink(path);
    unlink(tensors);
    return report;
}

/** Runs the case and expects one failed stage, or none when stage is NULL. */
static void expect_failure(const recorded *r, const char *what, const char *stage) {
    verify_report *report = run_recorded(r);
    if (report->skipped) fail_msg("%s: skipped, %s", what, report->reason);
    bool found = stage == NULL;
    for (size_t i = 0; i < report->n_stages; i++) {
        const verify_stage *s = &report->stages[i];
        if (s->pass) continue;
        if (!stage || strcmp(s->name, stage) != 0)
            fail_msg("%s: stage %s failed (%s %g, limit %g; %s), expected %s", what, s->name,
                     s->metric, s->worst, s->limit, s->detail ? s->detail : "",
                     stage ? stage : "none");
        found = true;
    }
    if (!found) fail_msg("%s: no stage failed, expected %s", what, stage);
    assert_int_equal(report->pass, stage == NULL);
    verify_report_free(&report);
}

/* ---------------------------------------------------------------- changing one value */

/** Moves the middle value of a tensor by a tenth of its magnitude and a little more. */
static bool check_tensor(recorded *r, const char *name, const char *stage) {
    size_t n_bytes;
    uint8_t *data = find_tensor(r, name, &n_bytes);
    if (!data) return false;
    uint8_t *at = data + n_bytes / 8 * 4;
    float kept, changed;
    memcpy(&kept, at, sizeof kept);
    changed = kept * 1.1f + 0.05f;
    memcpy(at, &changed, sizeof changed);
    expect_failure(r, name, stage);
    memcpy(at, &kept, sizeof kept);
    return true;
}

static json_t *find_parent(const json_t *root, const char *path, char *key, size_t key_size) {
    json_t *object = (json_t *)root;
    for (;;) {
        const size_t size = strcspn(path, ".");
        snprintf(key, key_size, "%.*s", (int)size, path);
        if (path[size] == '\0') return object;
        object = json_object_get(object, key);
        path += size + 1;
    }
}

/** A value of the same kind that is not the same. */
static json_t *another(const json_t *value) {
    if (json_is_integer(value)) return json_integer(json_integer_value(value) + 1);
    if (json_is_real(value)) return json_real(json_real_value(value) * 1.01 + 0.01);
    if (json_is_boolean(value)) return json_boolean(!json_is_true(value));
    if (json_is_string(value)) return json_sprintf("%s~", json_string_value(value));
    return NULL;
}

/** Changes a member, or the middle element of a list. */
static bool check_field(recorded *r, const char *path, const char *stage) {
    char key[64];
    json_t *parent = find_parent(r->root, path, key, sizeof key);
    json_t *kept = json_object_get(parent, key);
    if (!kept || json_is_null(kept)) return false;
    json_t *changed = json_deep_copy(kept);
    if (json_is_array(changed)) {
        const size_t at = json_array_size(changed) / 2;
        json_t *item = json_array_get(changed, at);
        if (json_is_array(item)) /* a size in a list of sizes */
            json_array_set_new(item, 0, another(json_array_get(item, 0)));
        else
            json_array_set_new(changed, at, another(item));
    } else {
        json_decref(changed);
        changed = another(kept);
    }
    json_incref(kept);
    json_object_set_new(parent, key, changed);
    expect_failure(r, path, stage);
    json_object_set_new(parent, key, kept);
    return true;
}

/* ---------------------------------------------------------------- the tests */

/** The first of some cases that the reference folder holds. */
static bool open_first(const char *const *names, size_t n, recorded *r) {
    for (size_t i = 0; i < n; i++) {
        if (open_recorded(names[i], r)) return true;
        close_recorded(r);
        *r = (recorded){0};
    }
    return false;
}

static int check_tensors(recorded *r, const char *const *names, size_t n) {
    int checked = 0;
    for (size_t i = 0; i < n; i++) checked += check_tensor(r, names[i], names[i]);
    return checked;
}

/* In order of preference: with inner states and beams first. */
static const char *const picture_cases[] = {
    "llava-onevision-qwen-siglip/one", "llava-v1.5-llama-clip-pad/wide",
    "llava-onevision-qwen-siglip/exact", "llava-v1.5-llama-clip-pad/tiny"};
static const char *const plain_cases[] = {"tiny-qwen2/prompt", "tiny-qwen2-window/prompt"};

static void picture_call(void **state) {
    (void)state;
    recorded r = {0};
    if (!open_first(picture_cases, LLAVA_COUNT(picture_cases), &r)) skip();
    static const char *const tensors[] = {
        "pixel_values.0", "tower_features.0", "projected.0",   "image_newline", "inputs_embeds",
        "hidden.0",       "hidden.1",         "hidden.normed", "logits",        "step_logits"};
    static const char *const fields[][2] = {
        {"image_sizes", "image_sizes"},
        {"tiles", "tiles"},
        {"image_rows", "image_rows"},
        {"prompt_rows", "prompt_rows"},
        {"input_ids", "input_ids"},
        {"pixel_values_crc32", "pixel_values_crc32.0"},
        {"greedy.text_with_specials", "greedy.text_with_specials"},
        {"greedy.distinct", "greedy.distinct"},
        {"greedy.top2_gap", "greedy.top2_gap"},
        {"greedy.logit_std", "greedy.logit_std"},
        {"returned.model", "returned.model"},
        {"returned.context_len", "returned.context_len"},
        {"returned.tokenizer_length", "returned.tokenizer_length"},
        {"returned.head_rows", "returned.head_rows"},
        {"returned.image_processor.image_mean", "returned.image_processor.image_mean"},
        {"returned.image_processor.resample", "returned.image_processor.resample"},
        {"returned.vision_tower.num_patches", "returned.vision_tower.num_patches"},
    };
    expect_failure(&r, "unchanged", NULL);
    assert_true(check_tensors(&r, tensors, LLAVA_COUNT(tensors)) >= 5);
    int checked = 0;
    for (size_t i = 0; i < LLAVA_COUNT(fields); i++)
        checked += check_field(&r, fields[i][0], fields[i][1]);
    assert_true(checked >= 14);
    close_recorded(&r);
}

/** Recorded ids are what both the step by step run and the session are held against. */
static void greedy_ids(void **state) {
    (void)state;
    recorded r = {0};
    if (!open_first(picture_cases, LLAVA_COUNT(picture_cases), &r)) skip();
    json_t *list = json_object_get(json_object_get(r.root, "greedy"), "ids");
    const json_t *gaps = json_object_get(json_object_get(r.root, "greedy"), "top2_gap");
    size_t at = 0; /* a step that no near-tie excuses */
    while (at + 1 < json_array_size(gaps) && json_number_value(json_array_get(gaps, at)) < 0.1)
        at++;
    json_array_set_new(list, at, another(json_array_get(list, at)));
    verify_report *report = run_recorded(&r);
    size_t n_failed = 0;
    for (size_t i = 0; i < report->n_stages; i++) {
        if (report->stages[i].pass) continue;
        n_failed++;
        const char *name = report->stages[i].name;
        assert_true(strcmp(name, "greedy.ids") == 0 || strcmp(name, "session.ids") == 0);
    }
    assert_int_equal(n_failed, 2);
    verify_report_free(&report);
    close_recorded(&r);
}

static void video_call(void **state) {
    (void)state;
    static const char *const cases[] = {"llava-onevision-qwen-siglip/video",
                                        "llava-video-qwen-siglip/grid-average"};
    recorded r = {0};
    if (!open_first(cases, LLAVA_COUNT(cases), &r)) skip();
    static const char *const tensors[] = {"pooled.0", "step_logits"};
    static const char *const fields[] = {"beam.ids", "beam.sequence_score", "beam.text", "tiles"};
    expect_failure(&r, "unchanged", NULL);
    assert_int_equal(check_tensors(&r, tensors, 2), 2);
    for (size_t i = 0; i < LLAVA_COUNT(fields); i++) check_field(&r, fields[i], fields[i]);
    close_recorded(&r);
}

static void plain_call(void **state) {
    (void)state;
    size_t n_bytes;
    recorded r = {0};
    if (!open_first(plain_cases, LLAVA_COUNT(plain_cases), &r)) skip();
    static const char *const tensors[] = {"hidden.0", "hidden.2", "hidden.normed", "logits"};
    expect_failure(&r, "unchanged", NULL);
    assert_int_equal(check_tensors(&r, tensors, LLAVA_COUNT(tensors)),
                     find_tensor(&r, "hidden.0", &n_bytes) ? 4 : 1);
    assert_true(check_field(&r, "greedy.distinct", "greedy.distinct"));
    close_recorded(&r);
}

static void tower_alone(void **state) {
    (void)state;
    static const char *const cases[] = {"towers/clip-56", "towers/siglip-70", "towers/clip-70"};
    recorded r = {0};
    if (!open_first(cases, LLAVA_COUNT(cases), &r)) skip();
    static const char *const tensors[] = {"pixel_values", "features", "features.2.patch"};
    expect_failure(&r, "unchanged", NULL);
    assert_true(check_tensors(&r, tensors, LLAVA_COUNT(tensors)) >= 2);
    assert_true(check_field(&r, "image_processor.image_std", "image_processor.image_std"));
    close_recorded(&r);
}

/** What is in the record and unknown to us is named, never passed over. */
static void names_what_it_leaves_out(void **state) {
    (void)state;
    recorded r = {0};
    if (!open_first(plain_cases, LLAVA_COUNT(plain_cases), &r)) skip();
    json_object_set_new(r.root, "unheard_of", json_integer(1));
    verify_report *report = run_recorded(&r);
    bool named = false;
    for (size_t i = 0; i < report->n_not_compared; i++)
        named |= strncmp(report->not_compared[i], "unheard_of:", 11) == 0;
    assert_true(named);
    verify_report_free(&report);
    close_recorded(&r);
}

static void metrics(void **state) {
    (void)state;
    const float a[4] = {1, 2, 3, 4}, b[4] = {1, 2, 3, 4.5f}, zero[4] = {0};
    row_metrics same = compare_rows(a, a, 1, 4, true);
    assert_true(same.one_minus_cosine == 0 && same.max_abs_sigma == 0 && same.kl_max == 0);
    row_metrics other = compare_rows(b, a, 1, 4, true);
    /* sigma of 1, 2, 3, 4 is sqrt(5 / 3) */
    assert_float_equal(other.max_abs_sigma, 0.5 / 1.2909944487358056, 1e-12);
    assert_true(other.kl_max > 0 && other.kl_mean == other.kl_max);
    assert_true(compare_rows(zero, a, 1, 4, false).one_minus_cosine == 1);
    assert_true(compare_rows(zero, zero, 1, 4, false).one_minus_cosine == 0);
    const float nan[4] = {1, 2, 3, __builtin_nanf("")};
    assert_true(compare_rows(nan, a, 1, 4, true).max_abs_sigma > 1e300);
    assert_int_equal(count_differing(a, b, 4), 1);
    const float minus[1] = {-0.0f};
    assert_int_equal(count_differing(minus, zero, 1), 1);
}

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(work_folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    return rmdir(work_folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(metrics),
        cmocka_unit_test(picture_call),
        cmocka_unit_test(greedy_ids),
        cmocka_unit_test(video_call),
        cmocka_unit_test(plain_call),
        cmocka_unit_test(tower_alone),
        cmocka_unit_test(names_what_it_leaves_out),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
