/* SPDX-License-Identifier: Apache-2.0
 *
 * What load_convert() writes: adapters against the recorded merges, whole models against their own
 * tensors, bit for bit where nothing is computed; quantized ones against what transformers and
 * bitsandbytes save.
 */
#include <dirent.h>
#include <ftw.h>
#include <math.h>
#include <unistd.h>

#include "checkpoint/quant_state.h"
#include "load/load.h"
#include "support/reference.h"

/** Sums of a few products in float32 in another order: relative to the largest value. */
#define MERGE_TOLERANCE 2e-6

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *place) {
    (void)info, (void)type, (void)place;
    return remove(path);
}

static void remove_directory(const char *path) { nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS); }

/** Largest difference relative to the largest value; 0 when the bytes agree. */
static double difference(const tensor *a, const tensor *b) {
    if (a->dtype == b->dtype && a->n_bytes == b->n_bytes &&
        memcmp(a->data, b->data, a->n_bytes) == 0)
        return 0;
    double worst = 0, largest = 1e-30;
    const int64_t count = tensor_count(a);
    if (count != tensor_count(b)) return INFINITY;
    for (int64_t i = 0; i < count; i++) {
        float x, y;
        tensor_cast(&x, LLAVA_DTYPE_F32,
                    (const uint8_t *)a->data + (size_t)i * dtype_size(a->dtype), a->dtype, 1);
        tensor_cast(&y, LLAVA_DTYPE_F32,
                    (const uint8_t *)b->data + (size_t)i * dtype_size(b->dtype), b->dtype, 1);
        worst = fmax(worst, fabs((double)x - y));
        largest = fmax(largest, fabs((double)y));
    }
    return worst / largest;
}

/** Rows that no file stores are zeros here and random in the reference. */
static bool is_grown_head(const char *name, const tensor *own, const tensor *base) {
    return strcmp(name, "lm_head.weight") == 0 && base && base->shape[0] < own->shape[0];
}

/** Two states of 4-bit codes say the same, whatever the spaces. */
static bool same_state(const tensor *a, const tensor *b) {
    quant_state own, expected;
    llava_error err;
    return quant_state_parse(a->data, a->n_bytes, "own", &own, &err) == LLAVA_OK &&
           quant_state_parse(b->data, b->n_bytes, "recorded", &expected, &err) == LLAVA_OK &&
           memcmp(&own, &expected, sizeof own) == 0;
}

/** The dynamic map: the library for CPUs that wrote the records puts -1 into the first entry. */
static bool same_map(const tensor *a, const tensor *b) {
    const float *own = a->data, *recorded = b->data;
    return a->n_bytes == b->n_bytes && memcmp(own + 1, recorded + 1, a->n_bytes - 4) == 0 &&
           (recorded[0] == own[0] || recorded[0] == -1);
}

static double tensor_difference(const char *name, const tensor *a, const tensor *b) {
    if (strstr(name, ".quant_state.")) return same_state(a, b) ? 0 : INFINITY;
    if (strstr(name, ".nested_quant_map")) return same_map(a, b) ? 0 : INFINITY;
    return difference(a, b);
}

/** NULL when every tensor that was written agrees with the expected one. A tower that was read from
 *  its own directory is written too and has nothing to be compared with. */
static const char *compare(arena *memory, const checkpoint *own, const checkpoint *expected,
                           const checkpoint *base, double tolerance) {
    for (size_t i = 0; i < checkpoint_count(own); i++) {
        const checkpoint_tensor *found = checkpoint_at(own, i);
        const checkpoint_tensor *wanted = checkpoint_find(expected, found->name);
        const checkpoint_tensor *stored = base ? checkpoint_find(base, found->name) : NULL;
        if (!wanted && strstr(found->name, ".vision_tower.")) continue;
        if (!wanted) return arena_printf(memory, "%s was not recorded", found->name);
        if (is_grown_head(found->name, &found->t, stored ? &stored->t : NULL)) continue;
        const double d = tensor_difference(found->name, &found->t, &wanted->t);
        if (!(d <= tolerance)) return arena_printf(memory, "%s differs by %.3g", found->name, d);
    }
    return checkpoint_count(own) > 0 ? NULL : "nothing was written";
}

typedef struct convert_case {
    const char *name;
    llava_load_options options;
    const char *expected, *base;
    double tolerance;
} convert_case;

static void check_case(reference_count *count, const convert_case *c) {
    arena *memory = arena_new();
    const char *out = arena_printf(memory, "converted-%ld", (long)getpid());
    checkpoint *own = NULL, *expected = NULL, *base = NULL;
    llava_error err = {0};
    const char *problem = NULL;
    if (load_convert(&c->options, out, &err) != LLAVA_OK ||
        checkpoint_open(out, &own, &err) != LLAVA_OK ||
        checkpoint_open(c->expected, &expected, &err) != LLAVA_OK ||
        (c->base && checkpoint_open(c->base, &base, &err) != LLAVA_OK))
        problem = err.message;
    else
        problem = compare(memory, own, expected, base, c->tolerance);
    if (err.code == LLAVA_UNSUPPORTED)
        reference_skip(count, c->name, "%s", err.message);
    else if (problem)
        reference_fail(count, c->name, "%s", problem);
    else
        reference_pass(count);
    checkpoint_close(&own);
    checkpoint_close(&expected);
    checkpoint_close(&base);
    remove_directory(out);
    arena_free(&memory);
}

static void check_adapter(reference_count *count, const char *reference, const char *name,
                          const json_t *item) {
    arena *memory = arena_new();
    const bool plain =
        strncmp(json_string_value(json_object_get(item, "architecture")), "Llava", 5) != 0;
    const bool projector = strncmp(name, "projector", 9) == 0;
    const char *model = json_string_value(json_object_get(item, "model_path"));
    const char *base = json_string_value(json_object_get(item, "model_base"));
    const char *folder = path_join(memory, reference, "formats/adapters/expected");
    const char *file =
        arena_printf(memory, "%s/%s%s.merged.safetensors", folder, name, plain ? ".exact" : "");
    const convert_case c = {
        .name = name,
        .options = {.model_path = path_join(memory, reference, model),
                    .model_base = path_join(memory, reference, base),
                    .torch_dtype = plain ? LLAVA_DTYPE_F16 : LLAVA_DTYPE_F32,
                    .working_directory = reference},
        .expected = file,
        .base = path_join(memory, reference, base),
        /* the reference rounds a projector to float16 first; a merge in float16 rounds once */
        .tolerance = projector || plain ? 1e-3 : MERGE_TOLERANCE};
    check_case(count, &c);
    arena_free(&memory);
}

static bool check_adapters(arena *memory, const char *reference) {
    reference_count count = {.folder = "convert/adapters"};
    json_t *root;
    llava_error err;
    const char *path = path_join(memory, reference, "formats/adapters/expected.json");
    if (json_read_file(path, &root, &err) != LLAVA_OK) {
        printf("convert/adapters: not in this folder\n");
        return true;
    }
    const char *name;
    json_t *item;
    json_object_foreach(root, name, item) { check_adapter(&count, reference, name, item); }
    json_decref(root);
    return reference_close(&count);
}

/** A whole model comes back as it is stored. */
static bool check_models(arena *memory, const char *reference) {
    reference_count count = {.folder = "convert/models"};
    const char *folder = path_join(memory, reference, "models");
    DIR *directory = opendir(folder);
    if (!directory) {
        printf("convert/models: not in this folder\n");
        return true;
    }
    for (struct dirent *entry; (entry = readdir(directory));) {
        const char *path = path_join(memory, folder, entry->d_name);
        if (entry->d_name[0] == '.' || !path_is_directory(path)) continue;
        const convert_case c = {.name = entry->d_name,
                                .options = {.model_path = path, .working_directory = reference},
                                .expected = path};
        check_case(&count, &c);
    }
    closedir(directory);
    return reference_close(&count);
}

/** transformers' files from their source, and from themselves: codes pass through. */
static bool check_quantized(arena *memory, const char *reference) {
    static const struct {
        const char *name, *settings;
        bool int8;
    } made[] = {{"llama-nf4-double", "", false},
                {"llama-nf4", "{\"bnb_4bit_use_double_quant\": false}", false},
                {"llama-int8", "", true}};
    reference_count count = {.folder = "convert/quant"};
    const char *folder = path_join(memory, reference, "quant/models");
    for (size_t i = 0; i < LLAVA_COUNT(made); i++) {
        const char *expected = path_join(memory, folder, made[i].name);
        if (!path_is_directory(expected)) continue;
        convert_case c = {.name = made[i].name,
                          .options = {.model_path = path_join(memory, folder, "llama-f16"),
                                      .load_4bit = !made[i].int8,
                                      .load_8bit = made[i].int8,
                                      .quantization_config = made[i].settings,
                                      .working_directory = reference},
                          .expected = expected};
        check_case(&count, &c);
        c.options = (llava_load_options){.model_path = expected, .working_directory = reference};
        check_case(&count, &c);
    }
    return reference_close(&count);
}

int main(void) {
    arena *memory = arena_new();
    if (!memory) return 1;
    const bool quantized = check_quantized(memory, reference_folder());
    const bool adapters = check_adapters(memory, reference_folder());
    const bool models = check_models(memory, reference_folder());
    arena_free(&memory);
    return adapters && models && quantized ? 0 : 1;
}
