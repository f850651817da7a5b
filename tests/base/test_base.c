/* SPDX-License-Identifier: Apache-2.0
 *
 * Errors, arenas, buffers, paths, JSON, half precision, UTF-8, threads, casts.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/json.h"
#include "tensor/tensor.h"

static void test_errors(void **state) {
    (void)state;
    llava_error err = {0};
    assert_int_equal(llava_fail(&err, LLAVA_IO, "%s: %d", "file", 7), LLAVA_IO);
    assert_string_equal(err.message, "file: 7");
    llava_fail_prefix(&err, LLAVA_IO, "opening %s: ", "model");
    assert_string_equal(err.message, "opening model: file: 7");
    assert_int_equal(llava_fail(NULL, LLAVA_INTERNAL, "unused"), LLAVA_INTERNAL);
    assert_string_equal(llava_status_name(LLAVA_CONTEXT_FULL), "context full");
    assert_string_equal(llava_status_name((llava_status)99), "unknown");

    char longest[2 * LLAVA_ERROR_SIZE];
    memset(longest, 'x', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    llava_fail(&err, LLAVA_IO, "%s", longest);
    llava_fail_prefix(&err, LLAVA_IO, "more: ");
    assert_int_equal(strlen(err.message), LLAVA_ERROR_SIZE - 1);
}

static void test_arena(void **state) {
    (void)state;
    arena *a = arena_new();
    char *text = arena_printf(a, "%d-%s", 12, "tiles");
    assert_string_equal(text, "12-tiles");
    for (size_t size = 0; size < 300000; size = size * 3 + 1) {
        uint8_t *block = arena_alloc(a, size);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % 64, 0);
        for (size_t i = 0; i < size; i++) assert_int_equal(block[i], 0);
        memset(block, 0xff, size);
    }
    assert_string_equal(text, "12-tiles");
    assert_null(arena_array(a, SIZE_MAX / 2, 4));
    assert_null(arena_alloc(a, SIZE_MAX));
    arena_free(&a);
    assert_null(a);
}

static void test_bytes(void **state) {
    (void)state;
    bytes b = {0};
    for (int i = 0; i < 1000; i++) assert_true(bytes_printf(&b, "%03d", i));
    assert_int_equal(b.size, 3000);
    assert_memory_equal(b.data + 2997, "999", 4);
    assert_false(bytes_reserve(&b, SIZE_MAX));
    assert_int_equal(b.size, 3000);
    bytes_free(&b);
}

static void test_paths(void **state) {
    (void)state;
    arena *a = arena_new();
    assert_string_equal(path_join(a, "a/b", "c"), "a/b/c");
    assert_string_equal(path_join(a, "a/b/", "c"), "a/b/c");
    assert_string_equal(path_join(a, "a", "/c"), "/c");
    assert_string_equal(path_base(a, "/x/model//"), "model");
    assert_true(path_is_plain_relative("model-1.safetensors"));
    assert_true(path_is_plain_relative("sub/..model"));
    assert_false(path_is_plain_relative("../x"));
    assert_false(path_is_plain_relative("a/../../x"));
    assert_false(path_is_plain_relative("/x"));
    assert_false(path_is_plain_relative("a\\b"));
    assert_false(path_is_plain_relative(""));
    arena_free(&a);
}

static void test_files(void **state) {
    (void)state;
    llava_error err;
    file_map map;
    bytes content;
    assert_int_equal(file_map_open("/nonexistent/file", &map, &err), LLAVA_IO);
    assert_non_null(strstr(err.message, "/nonexistent/file"));
    assert_int_equal(file_map_open("/", &map, &err), LLAVA_IO);

    char path[] = "test_base_XXXXXX";
    const int fd = mkstemp(path);
    assert_int_equal(write(fd, "hello", 5), 5);
    close(fd);
    assert_int_equal(file_map_open(path, &map, &err), LLAVA_OK);
    assert_int_equal(map.size, 5);
    assert_memory_equal(map.data, "hello", 5);
    file_map_close(&map);
    assert_null(map.data);
    assert_int_equal(file_read(path, 4, &content, &err), LLAVA_UNSUPPORTED);
    assert_int_equal(file_read(path, 5, &content, &err), LLAVA_OK);
    assert_string_equal(content.data, "hello");
    bytes_free(&content);
    unlink(path);
}

static void test_json(void **state) {
    (void)state;
    llava_error err;
    json_t *root;
    assert_int_equal(json_read_text("{\"a\": [1,]}", 11, "config.json", &root, &err),
                     LLAVA_MALFORMED);
    assert_non_null(strstr(err.message, "config.json"));
    assert_non_null(strstr(err.message, "line 1"));
    assert_int_equal(json_read_text("{\"a\":1,\"a\":2}", 13, "x", &root, &err), LLAVA_MALFORMED);

    const char *python = "{\"NaN \\\" Infinity\": NaN, \"x\": [-Infinity, Infinity, 1]}";
    assert_int_equal(json_read_text(python, strlen(python), "x", &root, &err), LLAVA_OK);
    assert_true(json_is_null(json_object_get(root, "NaN \" Infinity")));
    assert_int_equal(json_array_size(json_object_get(root, "x")), 3);
    json_decref(root);
    const char *big =
        "{\"model_max_length\": 1000000000000000019884624838656, \"n\": -12,"
        " \"s\": \"1000000000000000019884624838656\", \"r\": 1000000000000000000000.5}";
    assert_int_equal(json_read_text(big, strlen(big), "x", &root, &err), LLAVA_OK);
    assert_true(json_real_value(json_object_get(root, "model_max_length")) == 1e30);
    assert_int_equal(json_integer_value(json_object_get(root, "n")), -12);
    assert_true(json_real_value(json_object_get(root, "r")) == 1000000000000000000000.5);
    assert_string_equal(json_string_value(json_object_get(root, "s")),
                        "1000000000000000019884624838656");
    json_decref(root);
    assert_int_equal(json_read_text("{\"a\": NaN", 9, "x", &root, &err), LLAVA_MALFORMED);
    assert_int_equal(json_read_text("Na", 2, "x", &root, &err), LLAVA_MALFORMED);

    const char *text = "{\"n\": 7, \"real\": 4096.0, \"half\": 0.5, \"flag\": true, \"null\": null,"
                       " \"text\": \"t\"}";
    assert_int_equal(json_read_text(text, strlen(text), "x", &root, &err), LLAVA_OK);
    int64_t number;
    double real;
    bool flag;
    const char *string;
    assert_int_equal(json_get_i64(root, "x", "n", 0, &number, &err), LLAVA_OK);
    assert_int_equal(number, 7);
    assert_int_equal(json_get_i64(root, "x", "real", 0, &number, &err), LLAVA_OK);
    assert_int_equal(number, 4096);
    assert_int_equal(json_get_i64(root, "x", "half", 0, &number, &err), LLAVA_MALFORMED);
    assert_int_equal(json_get_i64(root, "x", "null", 3, &number, &err), LLAVA_OK);
    assert_int_equal(number, 3);
    assert_int_equal(json_get_f64(root, "x", "half", 0, &real, &err), LLAVA_OK);
    assert_true(real == 0.5);
    assert_int_equal(json_get_bool(root, "x", "flag", false, &flag, &err), LLAVA_OK);
    assert_true(flag);
    assert_int_equal(json_get_bool(root, "x", "n", false, &flag, &err), LLAVA_MALFORMED);
    assert_int_equal(json_get_string(root, "x", "text", NULL, &string, &err), LLAVA_OK);
    assert_string_equal(string, "t");
    assert_int_equal(json_get_string(root, "x", "n", NULL, &string, &err), LLAVA_MALFORMED);
    assert_non_null(strstr(err.message, "expected a string, got an integer"));
    json_decref(root);
}

/** Every binary16 value survives the trip; roundings agree with double arithmetic. */
static void test_half(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        const float wide = f16_to_f32((uint16_t)h);
        if (wide != wide) {
            const uint16_t back = f32_to_f16(wide);
            assert_true((back & 0x7c00u) == 0x7c00u && (back & 0x3ffu) != 0);
        } else {
            assert_int_equal(f32_to_f16(wide), h);
        }
        const float brain = bf16_to_f32((uint16_t)h);
        if (brain == brain) assert_int_equal(f32_to_bf16(brain), h);
    }
    assert_int_equal(f32_to_f16(65519.0f), 0x7bff);
    assert_int_equal(f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(f32_to_f16(0x1p-25f), 0); /* tie to even: zero */
    assert_int_equal(f32_to_f16(0x1.8p-25f), 1);
    assert_int_equal(f32_to_f16(0x1.8p-24f), 2); /* tie to even */
    assert_int_equal(f32_to_f16(1.0f + 0x1p-11f), 0x3c00);
    assert_int_equal(f32_to_f16(1.0f + 0x1.8p-10f), 0x3c02);
    assert_int_equal(f32_to_bf16(1.0f + 0x1p-8f), 0x3f80);
    assert_int_equal(f32_to_bf16(1.0f + 0x1.8p-7f), 0x3f82);
    assert_int_equal(f32_to_bf16(3.4e38f), 0x7f80);
}

static void test_utf8(void **state) {
    (void)state;
    int32_t code;
    char out[4];
    for (int32_t c = 0; c < 0x110000; c += 7) {
        if (c >= 0xd800 && c <= 0xdfff) continue;
        const size_t size = utf8_encode(c, out);
        assert_int_equal(utf8_decode(out, size, &code), size);
        assert_int_equal(code, c);
        if (size > 1) {
            assert_int_equal(utf8_decode(out, size - 1, &code), 1);
            assert_int_equal(code, -1);
        }
    }
    static const char *const invalid[] = {
        "\x80",         "\xc0\x80",         "\xc1\xbf",        "\xe0\x80\x80",
        "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf8\x88\x80\x80"};
    for (size_t i = 0; i < LLAVA_COUNT(invalid); i++) {
        assert_int_equal(utf8_decode(invalid[i], strlen(invalid[i]), &code), 1);
        assert_int_equal(code, -1);
    }
    assert_int_equal(utf8_decode("", 0, &code), 0);
}

static void mark(void *user, int64_t index) { ((uint8_t *)user)[index]++; }

static void test_parallel(void **state) {
    (void)state;
    uint8_t seen[1000] = {0};
    for (int threads = 1; threads <= 4; threads++) parallel_for(threads, 1000, mark, seen);
    for (int i = 0; i < 1000; i++) assert_int_equal(seen[i], 4);
    parallel_for(4, 0, mark, seen);
    assert_true(processor_count() >= 1);
}

#define LOOP_SIZE    50
#define LOOP_THREADS 4

typedef struct loop_check {
    int seen[LOOP_SIZE];
    bool index_is_valid[LOOP_SIZE];
    int inner[LOOP_SIZE];
} loop_check;

static void count_inner(void *user, int64_t index) {
    (void)index;
    ++*(int *)user;
}

static void check_iteration(void *user, int64_t index) {
    loop_check *check = user;
    const int thread = parallel_index();
    check->seen[index]++;
    parallel_for(LOOP_THREADS, 3, count_inner, &check->inner[index]);
    check->index_is_valid[index] =
        thread >= 0 && thread < LOOP_THREADS && thread == parallel_index();
}

/** Every iteration runs once, whoever else has loops; NULL or where it failed. */
static void *run_loops(void *user) {
    (void)user;
    for (int i = 0; i < 300; i++) {
        loop_check check = {0};
        parallel_for(LOOP_THREADS, LOOP_SIZE, check_iteration, &check);
        for (int j = 0; j < LOOP_SIZE; j++)
            if (check.seen[j] != 1 || check.inner[j] != 3 || !check.index_is_valid[j])
                return "an iteration was lost, repeated or ran on an unknown thread";
    }
    return NULL;
}

/** More callers than there are loops at a time. */
static void test_callers(void **state) {
    (void)state;
    pthread_t threads[20];
    for (size_t i = 0; i < LLAVA_COUNT(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, run_loops, NULL), 0);
    for (size_t i = 0; i < LLAVA_COUNT(threads); i++) {
        void *failure;
        pthread_join(threads[i], &failure);
        assert_null(failure);
    }
}

/** A forked child has no workers of its parent's, but may have its own. */
static void test_fork(void **state) {
    (void)state;
    assert_null(run_loops(NULL));
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) _exit(run_loops(NULL) ? 1 : 0);
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_null(run_loops(NULL));
}

static void test_tensor(void **state) {
    (void)state;
    llava_dtype dtype;
    assert_true(dtype_parse("torch.bfloat16", &dtype));
    assert_int_equal(dtype, LLAVA_DTYPE_BF16);
    assert_true(dtype_parse("half", &dtype));
    assert_int_equal(dtype, LLAVA_DTYPE_F16);
    assert_false(dtype_parse("float8", &dtype));

    const tensor t = {.n_dims = 3, .shape = {2, 3, 4}};
    char text[64];
    assert_string_equal(tensor_shape_text(&t, text, sizeof text), "[2, 3, 4]");
    assert_int_equal(tensor_count(&t), 24);
    const tensor huge = {.n_dims = 2, .shape = {INT64_MAX, 2}};
    assert_int_equal(tensor_count(&huge), -1);
    const tensor negative = {.n_dims = 1, .shape = {-1}};
    assert_int_equal(tensor_count(&negative), -1);

    const float values[3] = {1.0f, -2.5f, 65536.0f};
    uint16_t half[3];
    float back[3];
    uint8_t unaligned[16];
    tensor_cast(half, LLAVA_DTYPE_BF16, values, LLAVA_DTYPE_F32, 3);
    memcpy(unaligned + 1, half, sizeof half);
    tensor_cast(back, LLAVA_DTYPE_F32, unaligned + 1, LLAVA_DTYPE_BF16, 3);
    assert_memory_equal(back, values, sizeof values);
    tensor_cast(half, LLAVA_DTYPE_F16, values, LLAVA_DTYPE_F32, 3);
    assert_int_equal(half[2], 0x7c00);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors),   cmocka_unit_test(test_arena),
        cmocka_unit_test(test_bytes),    cmocka_unit_test(test_paths),
        cmocka_unit_test(test_files),    cmocka_unit_test(test_json),
        cmocka_unit_test(test_half),     cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_parallel), cmocka_unit_test(test_callers),
        cmocka_unit_test(test_fork),     cmocka_unit_test(test_tensor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
