/* SPDX-License-Identifier: Apache-2.0
 *
 * Placement: maps and limits as options give them, the rules against recorded maps of accelerate
 * (placement.json, by tools/record_placement.py), and a checkpoint's plan with its refusals.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "load/load_plan.h"
#include "tiny_checkpoint.h"

/* ---------------------------------------------------------------- options */

static int64_t limit_of(const char *size) {
    char text[96];
    place_table table;
    llava_error err;
    snprintf(text, sizeof text, "{\"cpu\": %s}", size);
    if (place_parse_memory(text, &table, &err) != LLAVA_OK) return -1;
    return table.items[0].limit;
}

static void test_sizes(void **state) {
    (void)state;
    assert_int_equal(limit_of("1000"), 1000);
    assert_int_equal(limit_of("0"), 0);
    assert_int_equal(limit_of("\"10GiB\""), (int64_t)10 << 30);
    assert_int_equal(limit_of("\"1.5 MiB\""), 3 << 19);
    assert_int_equal(limit_of("\"2kib\""), 2048);
    assert_int_equal(limit_of("\"3GB\""), 3000000000);
    assert_int_equal(limit_of("\"3MB\""), 3000000);
    assert_int_equal(limit_of("\"8Kb\""), 1000); /* bits */
    assert_int_equal(limit_of("\"8e3kb\""), 1000000);
    static const char *const wrong[] = {"-1",        "1.5",        "\"10\"",        "\"GiB\"",
                                        "\"-1GB\"",  "null",       "\"10 apples\"", "\"infGB\"",
                                        "\"nanGB\"", "\"1e30GB\"", "\"0x1GB\"",     "[]"};
    for (size_t i = 0; i < LLAVA_COUNT(wrong); i++)
        if (limit_of(wrong[i]) != -1) fail_msg("%s is taken", wrong[i]);
}

static void test_tables(void **state) {
    (void)state;
    place_table table;
    llava_error err;
    assert_int_equal(
        place_parse_memory("{\"cpu\":5,\"2\":7,\"disk\":1,\"cuda:0\":9}", &table, &err), LLAVA_OK);
    assert_int_equal(table.count, 4);
    static const char *const order[] = {"cuda:0", "cuda:2", "cpu", "disk"};
    for (int i = 0; i < 4; i++) {
        char name[PLACE_NAME_SIZE];
        assert_string_equal(place_device_name(&table.items[i], name), order[i]);
    }
    assert_int_equal(place_table_find(&table, PLACE_CUDA, 2), 1);
    assert_int_equal(place_table_find(&table, PLACE_CUDA, 1), -1);
    static const char *const wrong[] = {"{\"mps\":1}", "{\"cuda\":1}", "{\"-1\":1}",
                                        "{\"64\":1}",  "{\"gpu0\":1}", "{}",
                                        "[]",          "10GiB",        "{\"cuda:\":1}"};
    for (size_t i = 0; i < LLAVA_COUNT(wrong); i++)
        if (place_parse_memory(wrong[i], &table, &err) == LLAVA_OK) fail_msg("%s", wrong[i]);
}

static void test_maps(void **state) {
    (void)state;
    static const struct {
        const char *text;
        place_rule rule;
        place_kind kind;
        int index;
    } right[] = {{NULL, PLACE_BALANCED, 0, 0},
                 {"auto", PLACE_BALANCED, 0, 0},
                 {"balanced", PLACE_BALANCED, 0, 0},
                 {"balanced_low_0", PLACE_BALANCED_LOW_0, 0, 0},
                 {"sequential", PLACE_SEQUENTIAL, 0, 0},
                 {"cpu", PLACE_WHOLE, PLACE_CPU, 0},
                 {"cuda", PLACE_WHOLE, PLACE_CUDA, 0},
                 {"cuda:3", PLACE_WHOLE, PLACE_CUDA, 3},
                 {"1", PLACE_WHOLE, PLACE_CUDA, 1},
                 {" {\"\": 0, \"lm_head\": \"cpu\"}", PLACE_NAMED, 0, 0}};
    llava_error err;
    for (size_t i = 0; i < LLAVA_COUNT(right); i++) {
        place_map map;
        assert_int_equal(place_parse_map(right[i].text, &map, &err), LLAVA_OK);
        assert_int_equal(map.rule, right[i].rule);
        assert_int_equal(map.whole.kind, right[i].kind);
        assert_int_equal(map.whole.index, right[i].index);
        place_map_free(&map);
    }
    static const char *const wrong[] = {"",
                                        "gpu",
                                        "mps",
                                        "disk",
                                        "-1",
                                        "cuda:-1",
                                        "cuda:x",
                                        "cuda:64",
                                        "{}",
                                        "{\"\":-1}",
                                        "{\"\":\"mps\"}",
                                        "{\"\":1.5}",
                                        "[\"cpu\"]",
                                        "{\"a\":\"cpu\",\"a\":0}"};
    for (size_t i = 0; i < LLAVA_COUNT(wrong); i++) {
        place_map map;
        if (place_parse_map(wrong[i], &map, &err) == LLAVA_OK) fail_msg("%s is taken", wrong[i]);
        assert_non_null(strstr(err.message, "device_map"));
    }
}

/* ---------------------------------------------------------------- recorded maps */

static place_table recorded_table(const json_t *memory) {
    char *text = json_dumps(memory, 0);
    place_table table;
    llava_error err;
    if (place_parse_memory(text, &table, &err) != LLAVA_OK) fail_msg("%s", err.message);
    free(text);
    return table;
}

/** The tree of a case; nodes[i] is its i-th tensor. */
static place_tree recorded_tree(const json_t *entry, arena *memory, int *nodes) {
    place_tree tree;
    llava_error err;
    const json_t *tensors = json_object_get(entry, "tensors");
    assert_int_equal(place_tree_new(&tree, memory, &err), LLAVA_OK);
    for (size_t i = 0; i < json_array_size(tensors); i++) {
        const json_t *t = json_array_get(tensors, i);
        const char *name = json_string_value(json_array_get(t, 0));
        nodes[i] = place_tree_add(&tree, name, json_integer_value(json_array_get(t, 1)), false,
                                  strstr(name, "vision_tower") != NULL);
        assert_true(nodes[i] >= 0);
        if (json_is_false(json_object_get(entry, "tied"))) continue;
        if (strcmp(name, "model.embed_tokens.weight") == 0) tree.tied[0] = nodes[i];
        if (strcmp(name, "lm_head.weight") == 0) tree.tied[1] = nodes[i];
    }
    return tree;
}

static void check_table(size_t number, const place_table *table, const json_t *expected) {
    for (int i = 0; i < table->count; i++) {
        const place_device *d = &table->items[i];
        char key[PLACE_NAME_SIZE];
        place_device_name(d, key);
        const json_t *limit = json_object_get(expected, d->kind == PLACE_CUDA ? key + 5 : key);
        if (d->limit != json_integer_value(limit))
            fail_msg("case %zu: %s may hold %lld, expected %lld", number, key, (long long)d->limit,
                     (long long)json_integer_value(limit));
    }
}

static void check_case(size_t number, const json_t *entry) {
    const json_t *tensors = json_object_get(entry, "tensors");
    const size_t n = json_array_size(tensors);
    arena *memory = arena_new();
    int *nodes = array_new(n, sizeof *nodes);
    place_tree tree = recorded_tree(entry, memory, nodes);
    place_table table = recorded_table(json_object_get(entry, "max_memory"));
    const char *rule = json_string_value(json_object_get(entry, "rule"));
    llava_error err;
    if (strcmp(rule, "sequential") != 0)
        place_balance(&tree, strcmp(rule, "balanced_low_0") == 0, &table);
    check_table(number, &table, json_object_get(entry, "balanced"));
    assert_int_equal(place_infer(&tree, &table, &err), LLAVA_OK);
    for (size_t i = 0; i < n; i++) {
        const json_t *t = json_array_get(tensors, i);
        const char *expected = json_string_value(json_array_get(t, 2));
        char name[PLACE_NAME_SIZE];
        const place_device *d = &table.items[tree.nodes[nodes[i]].device];
        place_device_name(d, name);
        const char *got = d->kind == PLACE_CUDA ? name + 5 : name;
        if (strcmp(got, expected) != 0)
            fail_msg("case %zu, %s: %s is on %s, expected %s", number, rule,
                     json_string_value(json_array_get(t, 0)), got, expected);
    }
    place_tree_free(&tree);
    free(nodes);
    arena_free(&memory);
}

static void test_recorded(void **state) {
    (void)state;
    json_t *cases = NULL;
    llava_error err;
    const char *path = getenv("LLAVA_PLACEMENT_CASES");
    if (json_read_file(path, &cases, &err) != LLAVA_OK) fail_msg("%s", err.message);
    assert_true(json_array_size(cases) > 0);
    for (size_t i = 0; i < json_array_size(cases); i++) check_case(i, json_array_get(cases, i));
    json_decref(cases);
}

/** What accelerate measures itself, the recordings cannot have. */
static void test_one_measured_gpu(void **state) {
    (void)state;
    place_tree tree;
    llava_error err;
    arena *memory = arena_new();
    assert_int_equal(place_tree_new(&tree, memory, &err), LLAVA_OK);
    assert_true(place_tree_add(&tree, "lm_head.weight", 100, false, false) > 0);
    place_table table = {0};
    place_table_add(&table, (place_device){.kind = PLACE_CUDA, .limit = 1000, .measured = true});
    place_table_add(&table, (place_device){.kind = PLACE_CPU, .limit = 500, .measured = true});
    place_balance(&tree, true, &table);
    assert_int_equal(table.items[0].limit, 900);
    assert_int_equal(table.items[1].limit, 500);
    place_leave_tenth(&table);
    assert_int_equal(table.items[0].limit, 810);
    assert_int_equal(table.items[1].limit, 450);
    place_tree_free(&tree);
    arena_free(&memory);
}

/* ---------------------------------------------------------------- a checkpoint's plan */

static scratch place;

static int open_place(void **state) {
    (void)state;
    if (!scratch_open(&place)) return -1;
    scratch_directory(&place, "m");
    scratch_text(&place, "m/config.json", TINY_LLAMA);
    tiny_file f = {.dtype = "F16"};
    tiny_decoder(&f, "model.");
    tiny_write(&place, "m/model.safetensors", &f);
    return 0;
}

static int close_place(void **state) {
    (void)state;
    scratch_close(&place);
    return 0;
}

/* elements of the tiny decoder: its layers, the embedding and the head, the norm */
enum {
    LAYER_COUNT = 4 * TINY_WIDTH * TINY_WIDTH + 3 * TINY_INNER * TINY_WIDTH + 2 * TINY_WIDTH,
    TABLE_COUNT = TINY_VOCAB * TINY_WIDTH,
    ALL_COUNT = 2 * LAYER_COUNT + 2 * TABLE_COUNT + TINY_WIDTH
};

typedef struct wish {
    const char *device_map, *max_memory;
    llava_dtype dtype;
    bool load_8bit, load_4bit;
} wish;

static json_t *inspect(const wish *w) {
    json_t *report;
    llava_error err;
    const llava_load_options o = {.model_path = scratch_path(&place, "m"),
                                  .device_map = w->device_map,
                                  .max_memory = w->max_memory,
                                  .torch_dtype = w->dtype,
                                  .load_8bit = w->load_8bit,
                                  .load_4bit = w->load_4bit};
    if (load_inspect(&o, &report, &err) != LLAVA_OK) fail_msg("%s", err.message);
    return report;
}

/** The plan must be refused in this stage with these words. */
static void must_refuse(const wish *w, const char *stage, const char *says) {
    json_t *report = inspect(w);
    const json_t *errors = json_object_get(report, "errors");
    const char *message = "nothing";
    for (size_t i = 0; i < json_array_size(errors); i++) {
        const json_t *e = json_array_get(errors, i);
        if (strcmp(json_string_value(json_object_get(e, "stage")), stage) == 0)
            message = json_string_value(json_object_get(e, "message"));
    }
    if (!strstr(message, says)) fail_msg("expected \"%s\", got \"%s\"", says, message);
    json_decref(report);
}

static const json_t *device_entry(const json_t *report, const char *name) {
    const json_t *list = json_object_get(json_object_get(report, "placement"), "devices");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *d = json_array_get(list, i);
        if (strcmp(json_string_value(json_object_get(d, "device")), name) == 0) return d;
    }
    return NULL;
}

static int64_t bytes_on(const json_t *report, const char *name) {
    const json_t *d = device_entry(report, name);
    return d ? json_integer_value(json_object_get(d, "weights_bytes")) : -1;
}

static const char *mapped_to(const json_t *report, const char *module) {
    const json_t *map = json_object_get(json_object_get(report, "placement"), "device_map");
    const char *name = json_string_value(json_object_get(map, module));
    return name ? name : "";
}

static void test_plan_of_sizes(void **state) {
    (void)state;
    json_t *report = inspect(&(wish){0});
    assert_string_equal(mapped_to(report, ""), "cpu");
    assert_int_equal(bytes_on(report, "cpu"), 2 * ALL_COUNT);
    assert_int_equal(bytes_on(report, "disk"), 0);
    json_decref(report);
    /* int8: a byte for each weight of the layers' matrices, four for each of their rows */
    report = inspect(&(wish){.load_8bit = true});
    const int64_t matrices = LAYER_COUNT - 2 * TINY_WIDTH;
    const int64_t rows = 5 * TINY_WIDTH + 2 * TINY_INNER;
    const int64_t rest = 2 * (ALL_COUNT - 2 * matrices);
    assert_int_equal(bytes_on(report, "cpu"), 2 * (matrices + 4 * rows) + rest);
    json_decref(report);
}

static void test_plan_of_names(void **state) {
    (void)state;
    json_t *report = inspect(&(wish){
        .device_map = "{\"model\":\"cpu\",\"lm_head\":\"disk\",\"model.layers.1\":\"disk\"}"});
    assert_true(json_is_true(json_object_get(report, "loadable")) ||
                json_array_size(json_object_get(report, "errors")) == 1); /* no tokenizer */
    assert_string_equal(mapped_to(report, "lm_head"), "disk");
    assert_string_equal(mapped_to(report, "model.layers.1"), "disk");
    assert_string_equal(mapped_to(report, "model.layers.0"), "cpu");
    assert_int_equal(bytes_on(report, "disk"), 2 * (LAYER_COUNT + TABLE_COUNT));
    json_decref(report);
    must_refuse(&(wish){.device_map = "{\"\":\"cpu\",\"model.layer.0\":\"disk\"}"}, "placement",
                "no module \"model.layer.0\"");
    must_refuse(&(wish){.device_map = "{\"model.layers\":\"cpu\"}"}, "placement",
                "leaves out 3 tensors of 336 bytes, the first is model.embed_tokens.weight");
}

static void test_plan_that_does_not_fit(void **state) {
    (void)state;
    char limits[64];
    snprintf(limits, sizeof limits, "{\"cpu\": %d}", 2 * ALL_COUNT - 1);
    must_refuse(&(wish){.device_map = "cpu", .max_memory = limits}, "placement", "1 too few");
    /* what is mapped can stay in the file, what is cast cannot */
    json_t *report = inspect(&(wish){.max_memory = limits});
    assert_true(bytes_on(report, "disk") > 0);
    assert_int_equal(bytes_on(report, "disk") + bytes_on(report, "cpu"), 2 * ALL_COUNT);
    json_decref(report);
    must_refuse(&(wish){.max_memory = limits, .dtype = LLAVA_DTYPE_BF16}, "placement", "1 too few");
    must_refuse(&(wish){.max_memory = "{\"disk\": 1, \"cpu\": 0}", .load_4bit = true}, "placement",
                "max_memory allows 0");
}

static void test_plan_for_absent_gpus(void **state) {
    (void)state;
    must_refuse(&(wish){.device_map = "cuda"}, "options", "there is no cuda:0");
    must_refuse(&(wish){.device_map = "{\"\": 1}"}, "options", "there is no cuda:1");
    must_refuse(&(wish){.max_memory = "{\"0\": \"1MiB\"}"}, "options", "max_memory: there is no");
    /* the plan for the machine that was described is made all the same */
    json_t *report = inspect(&(wish){.max_memory = "{\"0\":2200,\"1\":\"1GiB\",\"cpu\":\"1GiB\"}"});
    assert_true(bytes_on(report, "cuda:0") > 0);
    assert_true(bytes_on(report, "cuda:1") > 0);
    assert_int_equal(bytes_on(report, "cuda:0") + bytes_on(report, "cuda:1"), 2 * ALL_COUNT);
    json_decref(report);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_maps),
        cmocka_unit_test(test_recorded),
        cmocka_unit_test(test_one_measured_gpu),
        cmocka_unit_test_setup_teardown(test_plan_of_sizes, open_place, close_place),
        cmocka_unit_test_setup_teardown(test_plan_of_names, open_place, close_place),
        cmocka_unit_test_setup_teardown(test_plan_that_does_not_fit, open_place, close_place),
        cmocka_unit_test_setup_teardown(test_plan_for_absent_gpus, open_place, close_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
