/* SPDX-License-Identifier: Apache-2.0
 *
 * quant/maps, blocks, linear4, int8: tables, codes, scales, decoded values and products of
 * bitsandbytes' formats, on every level of the processor. Whatever lies in the folder is run.
 */
#include <dirent.h>
#include <math.h>

#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "device/device.h"
#include "reference_quant.h"
#include "support/reference.h"

/** A float32 sum of a few hundred products against one in double precision, in parts of the sum of
 *  magnitudes. */
#define SUM_BOUND 1e-6
/** The reference rounds decoded weights to the type they are recorded to have: half a unit of
 *  float16. Products of such weights may be off by as much. */
#define HALF_WEIGHT 0x1p-12
/** LLM.int8() rounds its result, and the part of the outliers, to float16 - to the input's type at
 *  last - which we do not: so many units of 2^-11 (2^-8 for bfloat16) of the largest value. */
#define INT8_ROUNDINGS 2.0
/** Where other rows' outliers fall in a column the reference multiplies this row's value unrounded
 *  too: half a step of the row's code for each such value. */
#define INT8_HALF_STEP 0.5
/** Squared error against the decoded weights' product, over the record's: no worse, but for the
 *  luck of single roundings. */
#define INT8_ERROR 1.05

typedef struct quant_case {
    const char *name;
    const checkpoint *file;
    const json_t *facts; /* the entry of the index */
    device *dev;
    char problem[400];
} quant_case;

static const char *fail(quant_case *c, const char *format, ...) LLAVA_PRINTF(2, 3);
static const char *fail(quant_case *c, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(c->problem, sizeof c->problem, format, args);
    va_end(args);
    return c->problem;
}

static const tensor *find(const quant_case *c, const char *name) {
    const checkpoint_tensor *t = checkpoint_find(c->file, name);
    return t ? &t->t : NULL;
}

/** Every element as float32; released with free(). */
static float *floats(const tensor *t) {
    const size_t count = (size_t)tensor_count(t);
    float *values = array_new(count + 1, sizeof *values);
    if (values) tensor_cast(values, LLAVA_DTYPE_F32, t->data, t->dtype, count);
    return values;
}

static bool is_listed(const json_t *facts, const char *key, int64_t index) {
    size_t i;
    const json_t *entry;
    json_array_foreach(json_get(facts, key), i, entry) {
        if (json_integer_value(entry) == index) return true;
    }
    return false;
}

static const char *same_bytes(quant_case *c, const char *name, const void *own, size_t size) {
    const tensor *t = find(c, name);
    if (!t) return fail(c, "no tensor %s", name);
    if (t->n_bytes != size) return fail(c, "%s: %zu bytes, recorded %zu", name, size, t->n_bytes);
    const uint8_t *a = own, *b = t->data;
    for (size_t i = 0; i < size; i++)
        if (a[i] != b[i])
            return fail(c, "%s: byte %zu of %zu is %02x, recorded %02x", name, i, size, a[i], b[i]);
    return NULL;
}

/* ---------------------------------------------------------------- maps */

static const char *check_maps(quant_case *c) {
    float map[QUANT_MAP_SIZE];
    quant_dynamic_map(map);
    const char *problem = same_bytes(c, "dynamic", map, sizeof map);
    if (!problem) problem = same_bytes(c, "nf4", quant_table(QUANT_NF4), 64);
    if (!problem) problem = same_bytes(c, "fp4", quant_table(QUANT_FP4), 64);
    return problem;
}

/* ---------------------------------------------------------------- blocks */

/** A matrix with its own codes. */
typedef struct coded {
    weight plain, w;
    quant q;
    int64_t count, blocks;
    uint8_t *codes, *absmax_codes;
    float *absmax, *nested;
} coded;

static void coded_free(coded *own) {
    free(own->codes);
    free(own->absmax_codes);
    free(own->absmax);
    free(own->nested);
}

static void encode(quant_case *c, coded *own) {
    const tensor *t = find(c, "weight");
    const bool fp4 = strcmp(json_string_value(json_get(c->facts, "quant_type")), "fp4") == 0;
    own->count = tensor_count(t);
    own->q.block = json_integer_value(json_get(c->facts, "blocksize"));
    own->q.format = fp4 ? QUANT_FP4 : QUANT_NF4;
    own->q.nested_block = QUANT_NESTED_BLOCK;
    memcpy(own->q.table, quant_table(own->q.format), sizeof own->q.table);
    quant_dynamic_map(own->q.map);
    own->blocks = ceil_div(own->count, own->q.block);
    const int64_t rows = t->n_dims == 2 ? t->shape[0] : 1;
    own->plain = (weight){t->dtype, rows, own->count / rows, t->data, NULL};
    own->codes = array_new((size_t)ceil_div(own->count, 2), 1);
    own->absmax_codes = array_new((size_t)own->blocks, 1);
    own->absmax = array_new((size_t)own->blocks, sizeof(float));
    own->nested = array_new((size_t)ceil_div(own->blocks, QUANT_NESTED_BLOCK), sizeof(float));
    const quantize_args args = {.w = &own->plain,
                                .format = own->q.format,
                                .block = own->q.block,
                                .codes = own->codes,
                                .absmax = own->absmax,
                                .map = own->q.map,
                                .absmax_codes = own->absmax_codes,
                                .nested_absmax = own->nested,
                                .offset = &own->q.offset};
    c->dev->ops->quantize(c->dev, &args);
    own->w = (weight){LLAVA_DTYPE_U8, rows, own->count / rows, own->codes, &own->q};
    own->q.absmax = own->absmax;
}

static const char *compare_codes(quant_case *c, const coded *own) {
    const tensor *packed = find(c, "packed");
    if (!packed || packed->n_bytes != (size_t)ceil_div(own->count, 2)) return fail(c, "packed");
    for (int64_t i = 0; i < 2 * (int64_t)packed->n_bytes; i++) {
        const int shift = i % 2 ? 0 : 4;
        const int mine = own->codes[i / 2] >> shift & 15;
        const int recorded = ((const uint8_t *)packed->data)[i / 2] >> shift & 15;
        if (mine != recorded && !is_listed(c->facts, "near_threshold", i))
            return fail(c, "code %lld is %d, recorded %d", (long long)i, mine, recorded);
    }
    return same_bytes(c, "absmax", own->absmax, (size_t)own->blocks * sizeof(float));
}

/** The nested quantization with the offset of either record. */
static const char *compare_nested(quant_case *c, const coded *own) {
    const tensor *offset = find(c, "nested.offset");
    const bool exact = json_is_true(json_get(c->facts, "offset_is_exact_mean"));
    const tensor *mean = exact ? offset : find(c, "exact.offset");
    if (!offset || !mean) return fail(c, "no offset");
    if (memcmp(mean->data, &own->q.offset, 4) != 0)
        return fail(c, "the offset is %.9g", (double)own->q.offset);
    const char *const names[2][2] = {{"exact.codes", "nested.codes"},
                                     {"exact.absmax", "nested.absmax"}};
    const char *problem = same_bytes(c, names[0][exact], own->absmax_codes, (size_t)own->blocks);
    const size_t nested = (size_t)ceil_div(own->blocks, QUANT_NESTED_BLOCK) * sizeof(float);
    return problem ? problem : same_bytes(c, names[1][exact], own->nested, nested);
}

/** Decoded from the recorded codes, in pieces that begin anywhere, and each type's rounding. */
static const char *compare_decoded(quant_case *c, const coded *own, const char *prefix) {
    static const char *const types[] = {"f32", "f16", "bf16"};
    static const llava_dtype dtypes[] = {LLAVA_DTYPE_F32, LLAVA_DTYPE_F16, LLAVA_DTYPE_BF16};
    float *values = array_new((size_t)own->count, sizeof *values);
    for (int64_t i = 0, n; values && i < own->count; i += n) {
        n = i64_min(1 + i % 97, own->count - i);
        weight_decode(&own->w, i, n, values + i);
    }
    const char *problem = values ? NULL : fail(c, "out of memory");
    for (int i = 0; !problem && i < 3; i++) {
        char name[64];
        const size_t size = (size_t)own->count * dtype_size(dtypes[i]);
        void *rounded = array_new(size + 1, 1);
        snprintf(name, sizeof name, "%sdecoded.%s", prefix, types[i]);
        tensor_cast(rounded, dtypes[i], values, LLAVA_DTYPE_F32, (size_t)own->count);
        problem = same_bytes(c, name, rounded, size);
        free(rounded);
    }
    free(values);
    return problem;
}

/** Points the matrix at the recorded codes, plain or doubly quantized. */
static void use_recorded(quant_case *c, coded *own, bool nested) {
    own->w.data = find(c, "packed")->data;
    own->q.absmax = find(c, "absmax")->data;
    if (!nested) return;
    own->q.absmax = NULL;
    own->q.codes = find(c, "nested.codes")->data;
    own->q.nested_absmax = find(c, "nested.absmax")->data;
    memcpy(&own->q.offset, find(c, "nested.offset")->data, sizeof own->q.offset);
}

static const char *check_recorded(quant_case *c, coded *own) {
    if (!find(c, "nested.codes") || !find(c, "nested.absmax")) return fail(c, "no nested tensors");
    use_recorded(c, own, false);
    const char *problem = compare_decoded(c, own, "");
    use_recorded(c, own, true);
    return problem ? problem : compare_decoded(c, own, "nested.");
}

static const char *check_block(quant_case *c) {
    if (!find(c, "weight") || !json_get(c->facts, "quant_type")) return fail(c, "no weight");
    coded own = {0};
    encode(c, &own);
    const char *problem = compare_codes(c, &own);
    if (!problem) problem = compare_nested(c, &own);
    if (!problem) problem = check_recorded(c, &own);
    coded_free(&own);
    return problem;
}

/* ---------------------------------------------------------------- products */

static void multiply(const quant_case *c, const weight *w, const weight *bias, const float *x,
                     int64_t n_rows, linear_form form, float *y) {
    const linear_args args = {
        .x = x, .n_rows = n_rows, .w = w, .bias = bias, .dst = y, .form = form};
    c->dev->ops->linear(c->dev, &args);
}

static const char *compare_sums(quant_case *c, const char *name, const weight *w, const float *x,
                                const float *y, int64_t n_rows) {
    float *exact = floats(find(c, name)), *row = array_new((size_t)w->n_cols + 1, sizeof *row);
    const double bound = SUM_BOUND + (w->quant->stored == LLAVA_DTYPE_F16 ? HALF_WEIGHT : 0);
    const char *problem = NULL;
    for (int64_t o = 0; o < w->n_rows && !problem; o++) {
        weight_decode(w, o * w->n_cols, w->n_cols, row);
        for (int64_t r = 0; r < n_rows && !problem; r++) {
            double magnitude = 1;
            for (int64_t k = 0; k < w->n_cols; k++)
                magnitude += fabs((double)row[k] * (double)x[r * w->n_cols + k]);
            const double off =
                fabs((double)y[r * w->n_rows + o] - (double)exact[r * w->n_rows + o]);
            if (!(off <= bound * magnitude))
                problem = fail(c, "%s[%lld, %lld] is %.9g, recorded %.9g", name, (long long)r,
                               (long long)o, (double)y[r * w->n_rows + o],
                               (double)exact[r * w->n_rows + o]);
        }
    }
    free(exact);
    free(row);
    return problem;
}

static weight bias_of(const quant_case *c) {
    const tensor *t = find(c, "bias");
    return t ? (weight){t->dtype, 1, tensor_count(t), t->data, NULL} : (weight){0};
}

static const char *check_linear4(quant_case *c) {
    const char *problem = check_block(c);
    const tensor *x = find(c, "x");
    if (problem || !x || !find(c, "y.exact")) return problem ? problem : fail(c, "no x, no y");
    coded own = {0};
    encode(c, &own);
    use_recorded(c, &own, true);
    const weight bias = bias_of(c);
    const int64_t n_rows = x->shape[0];
    float *in = floats(x), *y = array_new((size_t)(n_rows * own.w.n_rows), sizeof *y);
    for (int i = 0; i < 4 && !problem; i++) {
        own.q.stored = i / 2 ? LLAVA_DTYPE_F16 : LLAVA_DTYPE_F32;
        multiply(c, &own.w, &bias, in, n_rows, (linear_form)(i % 2), y);
        problem = compare_sums(c, "y.exact", &own.w, in, y, n_rows);
    }
    free(in);
    free(y);
    coded_free(&own);
    return problem;
}

/* ---------------------------------------------------------------- int8 */

static const char *compare_int8_codes(quant_case *c, const weight *plain, int8_t *codes,
                                      float *scb) {
    const quantize_args args = {
        .w = plain, .halves = true, .format = QUANT_INT8, .codes = (uint8_t *)codes, .absmax = scb};
    c->dev->ops->quantize(c->dev, &args);
    const tensor *recorded = find(c, "CB");
    for (int64_t i = 0; i < plain->n_rows * plain->n_cols; i++) {
        const int8_t code = ((const int8_t *)recorded->data)[i];
        if (codes[i] != code && !is_listed(c->facts, "CB_near_half", i))
            return fail(c, "CB %lld is %d, recorded %d", (long long)i, codes[i], code);
    }
    return same_bytes(c, "SCB", scb, (size_t)plain->n_rows * sizeof *scb);
}

/** Values of row r that are coded here but not in the reference: below the threshold, in a column
 *  that another row makes an outlier. */
static int64_t coded_here(const quant_case *c, const weight *w, const float *x, int64_t r) {
    const tensor *columns = find(c, "outlier_columns");
    int64_t count = 0;
    for (int64_t j = 0; columns && j < tensor_count(columns); j++) {
        int32_t k;
        memcpy(&k, (const uint8_t *)columns->data + 4 * j, sizeof k);
        count += fabsf(x[r * w->n_cols + k]) < w->quant->threshold;
    }
    return count;
}

/** How far row r of y may lie from the record. */
static double int8_bound(const quant_case *c, const weight *w, const float *x, int64_t r,
                         float largest) {
    const double unit = find(c, "y")->dtype == LLAVA_DTYPE_BF16 ? 0x1p-8 : 0x1p-11;
    float sca, scb, widest = 0;
    memcpy(&sca, (const uint8_t *)find(c, "SCA")->data + 4 * r, sizeof sca);
    for (int64_t o = 0; o < w->n_rows; o++) {
        memcpy(&scb, (const uint8_t *)w->quant->scb + 4 * o, sizeof scb);
        widest = fmaxf(widest, scb);
    }
    const double steps = INT8_HALF_STEP * (double)coded_here(c, w, x, r);
    return INT8_ROUNDINGS * unit * (double)largest + steps * (double)sca / 127 * (double)widest;
}

/** Near the record, and where the same values are coded as close to the decoded weights' product.
 */
static const char *compare_int8(quant_case *c, const weight *w, const float *x, const float *y,
                                int64_t n_rows) {
    float *recorded = floats(find(c, "y")), *whole = floats(find(c, "y.weight_only"));
    const int64_t n = n_rows * w->n_rows;
    float largest = 0;
    double ours = 0, theirs = 0;
    for (int64_t i = 0; i < n; i++) largest = fmaxf(largest, fabsf(recorded[i]));
    const char *problem = NULL;
    for (int64_t i = 0; i < n && !problem; i++) {
        const double truth = whole[i], off = fabs((double)y[i] - (double)recorded[i]);
        if (coded_here(c, w, x, i / w->n_rows) == 0) {
            ours += (y[i] - truth) * (y[i] - truth);
            theirs += (recorded[i] - truth) * (recorded[i] - truth);
        }
        if (!(off <= int8_bound(c, w, x, i / w->n_rows, largest)))
            problem = fail(c, "y[%lld] is %.9g, recorded %.9g", (long long)i, (double)y[i],
                           (double)recorded[i]);
    }
    if (!problem && ours > INT8_ERROR * theirs)
        problem =
            fail(c, "squared error %.3g against the decoded weights, recorded %.3g", ours, theirs);
    free(recorded);
    free(whole);
    return problem;
}

static const char *check_int8(quant_case *c) {
    const tensor *t = find(c, "weight"), *x = find(c, "x");
    if (!t || !x || !find(c, "CB") || !find(c, "y") || !find(c, "y.weight_only"))
        return fail(c, "tensors are missing");
    const weight plain = {t->dtype, t->shape[0], t->shape[1], t->data, NULL};
    const int64_t n_rows = x->shape[0];
    int8_t *codes = array_new((size_t)tensor_count(t), 1);
    float *scb = array_new((size_t)plain.n_rows, sizeof *scb);
    float *in = floats(x), *y = array_new((size_t)(n_rows * plain.n_rows), sizeof *y);
    const quant q = {.format = QUANT_INT8,
                     .scb = find(c, "SCB")->data,
                     .threshold = (float)json_number_value(json_get(c->facts, "threshold"))};
    const weight w = {LLAVA_DTYPE_I8, plain.n_rows, plain.n_cols, find(c, "CB")->data, &q};
    const weight bias = bias_of(c);
    const char *problem = compare_int8_codes(c, &plain, codes, scb);
    float *decoded = array_new((size_t)tensor_count(t), sizeof *decoded);
    weight_decode(&w, 0, tensor_count(t), decoded);
    if (!problem)
        problem = same_bytes(c, "decoded.f32", decoded, (size_t)tensor_count(t) * sizeof *decoded);
    for (int form = 0; form < 2 && !problem; form++) {
        multiply(c, &w, &bias, in, n_rows, (linear_form)form, y);
        problem = compare_int8(c, &w, in, y, n_rows);
    }
    free(decoded);
    free(codes);
    free(scb);
    free(in);
    free(y);
    return problem;
}

/* ---------------------------------------------------------------- the folder */

static void run_case(reference_count *count, const char *path, quant_case *c,
                     const char *(*check)(quant_case *)) {
    llava_error err;
    checkpoint *file = NULL;
    if (checkpoint_open(path, &file, &err) != LLAVA_OK) {
        reference_fail(count, c->name, "%s", err.message);
        return;
    }
    c->file = file;
    const char *problem = check(c);
    if (problem)
        reference_fail(count, c->name, "level %s: %s", c->dev->level, problem);
    else
        reference_pass(count);
    checkpoint_close(&file);
}

static void run_folder(reference_count *count, device *dev, const char *name,
                       const char *(*check)(quant_case *)) {
    char path[2048];
    snprintf(path, sizeof path, "%s/quant/%s.json", reference_folder(), name);
    json_t *index = NULL;
    llava_error err;
    if (!path_is_file(path)) return;
    if (json_read_file(path, &index, &err) != LLAVA_OK) {
        reference_fail(count, name, "%s", err.message);
        return;
    }
    snprintf(path, sizeof path, "%s/quant/%s", reference_folder(), name);
    DIR *folder = opendir(path);
    for (const struct dirent *entry; folder && (entry = readdir(folder));) {
        char stem[256], file[4096];
        const char *end = strstr(entry->d_name, ".safetensors");
        if (!end) continue;
        snprintf(stem, sizeof stem, "%.*s", (int)(end - entry->d_name), entry->d_name);
        snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        quant_case c = {.name = stem, .facts = json_get(index, stem), .dev = dev};
        if (c.facts)
            run_case(count, file, &c, check);
        else
            reference_fail(count, stem, "the index does not have it");
    }
    if (folder) closedir(folder);
    json_decref(index);
}

static void run_level(reference_count *count, const char *level) {
    device *dev;
    llava_error err;
    if (device_open_cpu(2, level, &dev, &err) != LLAVA_OK) {
        reference_fail(count, level, "%s", err.message);
        return;
    }
    char path[2048];
    snprintf(path, sizeof path, "%s/quant/maps.safetensors", reference_folder());
    quant_case maps = {.name = "maps", .dev = dev};
    if (path_is_file(path)) run_case(count, path, &maps, check_maps);
    run_folder(count, dev, "blocks", check_block);
    run_folder(count, dev, "linear4", check_linear4);
    run_folder(count, dev, "int8", check_int8);
    device_close(&dev);
}

int main(void) {
    reference_count count = {.folder = "quant"};
    for (const char *const *level = device_cpu_levels(); *level; level++)
        if (device_cpu_level_available(*level)) run_level(&count, *level);
    reference_quant_models(&count);
    return reference_close(&count) ? 0 : 1;
}
