/* SPDX-License-Identifier: Apache-2.0
 *
 * Stop texts: where an answer is cut, and what may not be shown yet.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "generate/stopping.h"

static stop_list list_of(const char *first, const char *second) {
    stop_list list = {0};
    assert_int_equal(stop_list_add(&list, first, NULL), LLAVA_OK);
    if (second) assert_int_equal(stop_list_add(&list, second, NULL), LLAVA_OK);
    return list;
}

static void test_find(void **state) {
    (void)state;
    stop_list list = list_of("###", "</s>");
    const char *text = "one ## two</s> three###";
    assert_int_equal(stop_list_find(&list, text, strlen(text), 0), 10);
    assert_int_equal(stop_list_find(&list, text, strlen(text), 11), 20);
    assert_int_equal(stop_list_find(&list, text, strlen(text), 21), strlen(text));
    assert_int_equal(stop_list_find(&list, text, 9, 0), 9);
    assert_int_equal(list.longest, 4);
    stop_list_free(&list);
}

static void test_empty_and_double(void **state) {
    (void)state;
    stop_list list = list_of("", "ab");
    assert_int_equal(stop_list_add(&list, "ab", NULL), LLAVA_OK);
    assert_int_equal(list.count, 1);
    assert_int_equal(stop_list_find(&list, "x", 1, 0), 1);
    for (int i = 0; i < 40; i++) {
        char text[8] = {(char)('A' + i % 26), (char)('A' + i / 26), 'z'};
        assert_int_equal(stop_list_add(&list, text, NULL), LLAVA_OK);
    }
    assert_int_equal(list.count, 41);
    assert_int_equal(stop_list_find(&list, "..NBz", 5, 0), 2);
    stop_list_free(&list);
    assert_int_equal(list.count, 0);
    assert_int_equal(stop_list_hold(&list, "abc", 3), 0);
}

static void test_hold(void **state) {
    (void)state;
    stop_list list = list_of("<|im_end|>", "###");
    assert_int_equal(stop_list_hold(&list, "text", 4), 0);
    assert_int_equal(stop_list_hold(&list, "text<", 5), 1);
    assert_int_equal(stop_list_hold(&list, "text<|im_end|", 13), 9);
    assert_int_equal(stop_list_hold(&list, "text<|im_enx", 12), 0);
    assert_int_equal(stop_list_hold(&list, "#", 1), 1);
    assert_int_equal(stop_list_hold(&list, "a##", 3), 2);
    assert_int_equal(stop_list_hold(&list, "", 0), 0);
    stop_list_free(&list);
    list = list_of("aab", NULL);
    assert_int_equal(stop_list_hold(&list, "aaaa", 4), 2);
    stop_list_free(&list);
}

/* Fed byte by byte, what was shown never contains a stop text nor the beginning of the one found.
 */
static void test_shown_text_is_a_prefix(void **state) {
    (void)state;
    stop_list list = list_of("abcab", "cc");
    const char *text = "ababcacabccabcab";
    size_t shown = 0, size = 1;
    for (; size <= strlen(text); size++) {
        if (stop_list_find(&list, text, size, 0) < size) break;
        const size_t visible = size - stop_list_hold(&list, text, size);
        assert_true(visible >= shown);
        shown = visible;
    }
    const size_t cut = stop_list_find(&list, text, size, 0);
    assert_int_equal(cut, 9);
    assert_true(shown <= cut);
    stop_list_free(&list);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_empty_and_double),
        cmocka_unit_test(test_hold),
        cmocka_unit_test(test_shown_text_is_a_prefix),
    };
    return cmocka_run_group_tests_name("stopping", tests, NULL, NULL);
}
