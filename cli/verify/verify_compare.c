/* SPDX-License-Identifier: Apache-2.0
 *
 * The kinds of comparison that stages are made of: tensors, texts, numbers, lists of ids.
 */
#include <math.h>

#include "verify/verify.h"

/* ---------------------------------------------------------------- tensors */

typedef struct judged {
    const char *metric;
    double worst, limit;
} judged;

/** The metric that is nearest to its limit, or furthest beyond. */
static judged judge(const verify_level *level, const row_metrics *m, bool are_logits) {
    const judged all[] = {
        {"1-cosine", m->one_minus_cosine, level->cosine},
        {"max-abs/sigma", m->max_abs_sigma, level->max_abs_sigma},
        {"KL mean", m->kl_mean, level->kl_mean},
        {"KL max", m->kl_max, level->kl_max},
    };
    const size_t n = are_logits ? 4 : level->inner_cosine_only ? 1 : 2;
    judged worst = all[0];
    for (size_t i = 1; i < n; i++)
        if (!(all[i].worst / all[i].limit <= worst.worst / worst.limit)) worst = all[i];
    return worst;
}

llava_status verify_rows(verify_run *run, const char *name, const float *own,
                         const float *reference, const int64_t shape[2], bool are_logits) {
    const row_metrics m = compare_rows(own, reference, shape[0], shape[1], are_logits);
    const judged j = judge(run->level, &m, are_logits);
    return report_stage(run->report, name, j.metric, j.worst, j.limit, NULL);
}

llava_status verify_tensor(verify_run *run, const char *name, const float *own, int n_dims,
                           const int64_t *shape, bool are_logits) {
    llava_error err = {0};
    tensor reference;
    if (trace_tensor(&run->trace, name, &reference, &err) != LLAVA_OK)
        return report_failed_call(run->report, name, &err);
    if (!reference.data) return LLAVA_OK;
    if (!tensor_has_shape(&reference, n_dims, shape)) {
        tensor mine = {.n_dims = n_dims};
        for (int i = 0; i < n_dims; i++) mine.shape[i] = shape[i];
        char expected[96], got[96];
        return report_stage(run->report, name, "shape", 1, 0, "recorded %s, computed %s",
                            tensor_shape_text(&reference, expected, sizeof expected),
                            tensor_shape_text(&mine, got, sizeof got));
    }
    const int64_t n_cols = n_dims ? shape[n_dims - 1] : 1;
    const int64_t matrix[2] = {n_cols ? tensor_count(&reference) / n_cols : 0, n_cols};
    return verify_rows(run, name, own, reference.data, matrix, are_logits);
}

/* ---------------------------------------------------------------- texts, numbers, ids */

llava_status verify_text_equal(verify_run *run, const char *name, const char *own, size_t size,
                               const json_t *recorded) {
    if (!json_is_string(recorded))
        return report_stage(run->report, name, "equal text", 1, 0, "recorded is %s",
                            json_kind(recorded));
    const char *reference = json_string_value(recorded);
    const size_t expected = json_string_length(recorded);
    size_t at = 0;
    while (at < size && at < expected && own[at] == reference[at]) at++;
    if (at == size && at == expected)
        return report_stage(run->report, name, "equal text", 0, 0, NULL);
    return report_stage(run->report, name, "equal text", 1, 0,
                        "differs at byte %zu: recorded '%.24s', computed '%.*s'", at,
                        reference + at, (int)i64_min(24, (int64_t)(size - at)), own + at);
}

llava_status verify_integer(verify_run *run, const char *path, int64_t own) {
    const json_t *value = trace_field(&run->trace, path);
    if (!value) return LLAVA_OK;
    if (!json_is_integer(value))
        return report_stage(run->report, path, "difference", INFINITY, 0, "recorded is %s",
                            json_kind(value));
    const int64_t recorded = json_integer_value(value);
    if (recorded == own) return report_stage(run->report, path, "difference", 0, 0, NULL);
    return report_stage(run->report, path, "difference", fabs((double)recorded - (double)own), 0,
                        "recorded %lld, computed %lld", (long long)recorded, (long long)own);
}

llava_status verify_ids(verify_run *run, const char *name, const int32_t *own, size_t n_own,
                        const int32_t *reference, size_t n_reference) {
    const size_t shorter = n_own < n_reference ? n_own : n_reference;
    size_t n_wrong = n_own > n_reference ? n_own - n_reference : n_reference - n_own;
    size_t first = shorter;
    for (size_t i = shorter; i-- > 0;) {
        if (own[i] == reference[i]) continue;
        n_wrong++;
        first = i;
    }
    if (n_wrong == 0) return report_stage(run->report, name, "wrong ids", 0, 0, NULL);
    return report_stage(run->report, name, "wrong ids", (double)n_wrong, 0,
                        "first at %zu: recorded %d of %zu, computed %d of %zu", first,
                        first < n_reference ? reference[first] : -1, n_reference,
                        first < n_own ? own[first] : -1, n_own);
}

llava_status verify_id_array(verify_run *run, const char *path, const int32_t **values,
                             size_t *count, llava_error *err) {
    *values = NULL;
    *count = 0;
    const json_t *array = trace_field(&run->trace, path);
    if (!array) return LLAVA_OK;
    if (!json_is_array(array))
        return llava_fail(err, LLAVA_MALFORMED, "%s: %s is %s, not an array", run->trace.path, path,
                          json_kind(array));
    const size_t n = json_array_size(array);
    int32_t *list = arena_array(run->memory, n + 1, sizeof *list);
    if (!list) return llava_fail_memory(err, n * sizeof *list, path);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(array, i);
        const json_int_t value = json_is_integer(item) ? json_integer_value(item) : INT64_MAX;
        if (value < INT32_MIN || value > INT32_MAX)
            return llava_fail(err, LLAVA_MALFORMED, "%s: %s[%zu] is no 32-bit whole number",
                              run->trace.path, path, i);
        list[i] = (int32_t)value;
    }
    *values = list;
    *count = n;
    return LLAVA_OK;
}
