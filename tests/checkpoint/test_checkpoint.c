/* SPDX-License-Identifier: Apache-2.0
 *
 * Weight files: which one is taken, every way a safetensors header can be wrong, shard indexes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "checkpoint/checkpoint.h"
#include "scratch.h"

#define AB                                                                                         \
    "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"                          \
    "\"b\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[24,32]}}"

static scratch place;

static int open_place(void **state) {
    (void)state;
    return scratch_open(&place) ? 0 : -1;
}

static int close_place(void **state) {
    (void)state;
    scratch_close(&place);
    return 0;
}

/** Opens a header over n_data bytes; gives the status, keeps the message. */
static llava_status open_header(const char *header, size_t n_data, llava_error *err) {
    scratch_safetensors(&place, "one.safetensors", header, n_data);
    checkpoint *c;
    const llava_status status = checkpoint_open(scratch_path(&place, "one.safetensors"), &c, err);
    assert_true((status == LLAVA_OK) == (c != NULL));
    checkpoint_close(&c);
    return status;
}

static void test_reads(void **state) {
    (void)state;
    scratch_safetensors(&place, "one.safetensors", AB "   ", 32);
    checkpoint *c;
    llava_error err;
    assert_int_equal(checkpoint_open(scratch_path(&place, "one.safetensors"), &c, &err), LLAVA_OK);
    assert_int_equal(checkpoint_count(c), 2);
    assert_int_equal(checkpoint_bytes(c), 32);
    assert_int_equal(checkpoint_file_count(c), 1);
    const checkpoint_tensor *a = checkpoint_find(c, "a");
    assert_non_null(a);
    assert_int_equal(a->t.dtype, LLAVA_DTYPE_F32);
    assert_int_equal(a->t.n_dims, 2);
    assert_int_equal(((const uint8_t *)a->t.data)[5], 5);
    assert_int_equal(((const uint8_t *)checkpoint_find(c, "b")->t.data)[0], 24);
    assert_null(checkpoint_find(c, "ab"));
    assert_null(checkpoint_find(c, ""));
    assert_true(checkpoint_has_prefix(c, "a"));
    assert_false(checkpoint_has_prefix(c, "aa"));
    assert_null(checkpoint_at(c, 2));
    checkpoint_close(&c);
    assert_null(c);
}

static void test_finds_among_many(void **state) {
    (void)state;
    char header[65536] = "{";
    size_t used = 1;
    for (int i = 0; i < 500; i++)
        used +=
            (size_t)snprintf(header + used, sizeof header - used,
                             "%s\"t%d\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[%d,%d]}",
                             i ? "," : "", i, i, i + 1);
    snprintf(header + used, sizeof header - used, "}");
    scratch_safetensors(&place, "many.safetensors", header, 500);
    checkpoint *c;
    llava_error err;
    assert_int_equal(checkpoint_open(scratch_path(&place, "many.safetensors"), &c, &err), LLAVA_OK);
    for (int i = 0; i < 500; i++) {
        char name[16];
        snprintf(name, sizeof name, "t%d", i);
        assert_int_equal(*(const uint8_t *)checkpoint_find(c, name)->t.data, i & 255);
    }
    for (size_t i = 1; i < 500; i++)
        assert_true(strcmp(checkpoint_at(c, i - 1)->name, checkpoint_at(c, i)->name) < 0);
    checkpoint_close(&c);
}

static void test_accepts(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t n_data;
    } good[] = {
        {"{}", 0},
        {"{\"__metadata__\":{\"format\":\"pt\"}}", 0},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[0,0]}}", 0},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"more\":1}}", 4},
        {"{\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
         2},
        {"{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[3],\"data_offsets\":[0,3]}}", 3},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[0,2]}}", 2},
    };
    for (size_t i = 0; i < LLAVA_COUNT(good); i++) {
        llava_error err = {0};
        if (open_header(good[i].header, good[i].n_data, &err) != LLAVA_OK)
            fail_msg("%s: %s", good[i].header, err.message);
    }
}

static void test_refuses(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t n_data;
        const char *says;
    } bad[] = {
        {"[]", 0, "not a JSON object"},
        {"{", 0, "not valid JSON"},
        {"{} {}", 0, "not valid JSON"},
        {"{\"a\":1}", 0, "expected an object"},
        {"{\"__metadata__\":{\"epoch\":3}}", 0, "expected a string"},
        {"{\"__metadata__\":[]}", 0, "expected an object"},
        {AB, 31, "truncated"},
        {AB, 33, "follow the last tensor"},
        {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "\"dtype\" is missing"},
        {"{\"a\":{\"dtype\":\"F31\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "unknown dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,4]}}", 4, "shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "before"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "needs 8 bytes"},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1, "needs 1 bytes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,16],\"data_offsets\":[0,4]}}", 4,
         "overflows"},
        {"{\"a\":{\"dtype\":\"F64\",\"shape\":[1152921504606846976,4],\"data_offsets\":[0,4]}}", 4,
         "overflows"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2, "a gap"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
         3, "an overlap"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
         2, "duplicate"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1,
         "dimensions"},
    };
    for (size_t i = 0; i < LLAVA_COUNT(bad); i++) {
        llava_error err = {0};
        const llava_status status = open_header(bad[i].header, bad[i].n_data, &err);
        if (status == LLAVA_OK || !strstr(err.message, bad[i].says))
            fail_msg("%s: expected \"%s\", got \"%s\"", bad[i].header, bad[i].says, err.message);
        assert_int_equal(status, err.code);
        assert_non_null(strstr(err.message, "one.safetensors"));
    }
}

static void test_refuses_other_files(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
        const char *says;
    } files[] = {
        {"", 0, "truncated"},
        {"\x10\0\0\0\0\0\0", 7, "truncated"},
        {"\x10\0\0\0\0\0\0\0{}", 10, "truncated"},
        {"\0\0\0\0\0\0\0\0", 8, "not a JSON object"},
        {"\xff\xff\xff\xff\xff\xff\xff\xff{}", 10, "header length"},
        {"version https://git-lfs.github.com/spec/v1\n", 43, "Git LFS pointer"},
        {"<!doctype html><html></html>", 28, "HTML"},
        {"GGUF\3\0\0\0\0\0\0\0", 12, "GGUF"},
    };
    for (size_t i = 0; i < LLAVA_COUNT(files); i++) {
        llava_error err = {0};
        checkpoint *c;
        scratch_write(&place, "one.safetensors", files[i].bytes, files[i].size);
        assert_int_not_equal(checkpoint_open(scratch_path(&place, "one.safetensors"), &c, &err),
                             LLAVA_OK);
        assert_null(c);
        if (!strstr(err.message, files[i].says)) fail_msg("%zu: %s", i, err.message);
    }
}

/** a in the first shard, b in the second; the index as given. */
static void make_shards(const char *index) {
    scratch_safetensors(&place, "s1.safetensors",
                        "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1);
    scratch_safetensors(&place, "s2.safetensors",
                        "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                        "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
                        3);
    scratch_text(&place, "model.safetensors.index.json", index);
}

static void test_index(void **state) {
    (void)state;
    make_shards("{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"}}");
    checkpoint *c;
    llava_error err;
    assert_true(checkpoint_exists(place.path));
    assert_int_equal(checkpoint_open(place.path, &c, &err), LLAVA_OK);
    assert_int_equal(checkpoint_count(c), 2);
    assert_int_equal(checkpoint_unmapped(c), 1);
    assert_string_equal(checkpoint_find(c, "a")->file, "s1.safetensors");
    assert_string_equal(checkpoint_find(c, "b")->file, "s2.safetensors");
    checkpoint_close(&c);
    /* a single file beside the index wins, as in the reference */
    scratch_safetensors(&place, "model.safetensors", AB, 32);
    assert_int_equal(checkpoint_open(place.path, &c, &err), LLAVA_OK);
    assert_string_equal(checkpoint_find(c, "a")->file, "model.safetensors");
    checkpoint_close(&c);
    assert_int_equal(
        checkpoint_open(scratch_path(&place, "model.safetensors.index.json"), &c, &err), LLAVA_OK);
    assert_string_equal(checkpoint_find(c, "a")->file, "s1.safetensors");
    checkpoint_close(&c);
}

static void test_index_refuses(void **state) {
    (void)state;
    static const struct {
        const char *index, *says;
    } bad[] = {
        {"{}", "weight_map"},
        {"{\"weight_map\":{}}", "empty"},
        {"{\"weight_map\":{\"a\":3}}", "expected a file name"},
        {"{\"weight_map\":{\"a\":\"../s1.safetensors\"}}", "leaves the checkpoint"},
        {"{\"weight_map\":{\"a\":\"x/../../s1.safetensors\"}}", "leaves the checkpoint"},
        {"{\"weight_map\":{\"a\":\"/s1.safetensors\"}}", "leaves the checkpoint"},
        {"{\"weight_map\":{\"a\":\"x\\\\s1.safetensors\"}}", "leaves the checkpoint"},
        {"{\"weight_map\":{\"a\":\"\"}}", "leaves the checkpoint"},
        {"{\"weight_map\":{\"a\":\"s3.safetensors\"}}", "s3.safetensors is missing"},
        {"{\"weight_map\":{\"b\":\"s1.safetensors\"}}", "tensor b is not in the shard"},
        {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"a\":\"s2.safetensors\"}}", "duplicate"},
        {"{\"weight_map\":{\"a\":\"s1", "not valid JSON"},
    };
    for (size_t i = 0; i < LLAVA_COUNT(bad); i++) {
        make_shards(bad[i].index);
        checkpoint *c;
        llava_error err = {0};
        assert_int_not_equal(checkpoint_open(place.path, &c, &err), LLAVA_OK);
        assert_null(c);
        if (!strstr(err.message, bad[i].says) || !strstr(err.message, "index.json"))
            fail_msg("%s: %s", bad[i].index, err.message);
    }
}

static void test_nothing_there(void **state) {
    (void)state;
    checkpoint *c;
    llava_error err;
    assert_false(checkpoint_exists(place.path));
    assert_int_equal(checkpoint_open(place.path, &c, &err), LLAVA_IO);
    assert_non_null(strstr(err.message, "model.safetensors"));
    assert_int_equal(checkpoint_open(scratch_path(&place, "nowhere"), &c, &err), LLAVA_IO);
    assert_null(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_reads, open_place, close_place),
        cmocka_unit_test_setup_teardown(test_finds_among_many, open_place, close_place),
        cmocka_unit_test_setup_teardown(test_accepts, open_place, close_place),
        cmocka_unit_test_setup_teardown(test_refuses, open_place, close_place),
        cmocka_unit_test_setup_teardown(test_refuses_other_files, open_place, close_place),
        cmocka_unit_test_setup_teardown(test_index, open_place, close_place),
        cmocka_unit_test_setup_teardown(test_index_refuses, open_place, close_place),
        cmocka_unit_test_setup_teardown(test_nothing_there, open_place, close_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
