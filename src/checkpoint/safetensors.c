/* SPDX-License-Identifier: Apache-2.0
 *
 * The safetensors format: u64 header length N, N bytes of JSON, data area. Everything the format
 * demands is checked: no gap, no overlap, no trailing byte, sizes that agree with the shapes.
 */
#include <stdlib.h>

#include "base/json.h"
#include "safetensors.h"

#define HEADER_MAX ((uint64_t)100000000) /* the format's own limit */

/** Element types of the format, in bits; dtype DEFAULT: known by size, not computable here. */
typedef struct stored_dtype {
    const char *name;
    unsigned bits;
    llava_dtype dtype;
} stored_dtype;

static const stored_dtype stored_dtypes[] = {
    {"F32", 32, LLAVA_DTYPE_F32},
    {"F16", 16, LLAVA_DTYPE_F16},
    {"BF16", 16, LLAVA_DTYPE_BF16},
    {"F64", 64, LLAVA_DTYPE_F64},
    {"I64", 64, LLAVA_DTYPE_I64},
    {"I32", 32, LLAVA_DTYPE_I32},
    {"I16", 16, LLAVA_DTYPE_I16},
    {"I8", 8, LLAVA_DTYPE_I8},
    {"U8", 8, LLAVA_DTYPE_U8},
    {"BOOL", 8, LLAVA_DTYPE_BOOL},
    {"U64", 64, LLAVA_DTYPE_DEFAULT},
    {"U32", 32, LLAVA_DTYPE_DEFAULT},
    {"U16", 16, LLAVA_DTYPE_DEFAULT},
    {"C64", 64, LLAVA_DTYPE_DEFAULT},
    {"F8_E4M3", 8, LLAVA_DTYPE_DEFAULT},
    {"F8_E5M2", 8, LLAVA_DTYPE_DEFAULT},
    {"F8_E8M0", 8, LLAVA_DTYPE_DEFAULT},
    {"F8_E4M3FNUZ", 8, LLAVA_DTYPE_DEFAULT},
    {"F8_E5M2FNUZ", 8, LLAVA_DTYPE_DEFAULT},
    {"F6_E2M3", 6, LLAVA_DTYPE_DEFAULT},
    {"F6_E3M2", 6, LLAVA_DTYPE_DEFAULT},
    {"F4", 4, LLAVA_DTYPE_DEFAULT},
};

static const stored_dtype *find_dtype(const char *name) {
    for (size_t i = 0; i < LLAVA_COUNT(stored_dtypes); i++)
        if (strcmp(stored_dtypes[i].name, name) == 0) return &stored_dtypes[i];
    return NULL;
}

const char *safetensors_dtype_name(llava_dtype dtype) {
    for (size_t i = 0; i < LLAVA_COUNT(stored_dtypes); i++)
        if (stored_dtypes[i].dtype == dtype) return stored_dtypes[i].name;
    return "unknown";
}

/** One entry of the header before its data is located. */
typedef struct entry {
    checkpoint_tensor tensor;
    uint64_t begin, end;
} entry;

typedef struct parser {
    const char *path, *file;
    arena *memory;
    uint64_t data_size; /* of the data area */
    const uint8_t *data;
    llava_error *err;
} parser;

/** What a file that is no safetensors file seems to be, or NULL. */
static const char *foreign_kind(const file_map *map) {
    static const struct {
        const char *start, *kind;
    } kinds[] = {
        {"version https://git-lfs", "a Git LFS pointer: the real file was not downloaded"},
        {"PK\x03\x04", "a zip archive, perhaps a torch .bin file"},
        {"\x80\x02\x8a\x0a", "a torch .bin file of the time before zip archives"},
        {"GGUF", "a GGUF file"},
        {"<", "an HTML or XML page"},
        {"{", "JSON text without the length in front"},
    };
    for (size_t i = 0; i < LLAVA_COUNT(kinds); i++) {
        const size_t size = strlen(kinds[i].start);
        if (map->size >= size && memcmp(map->data, kinds[i].start, size) == 0) return kinds[i].kind;
    }
    return NULL;
}

/** Checks the length in front and gives the header's size. */
static llava_status header_size(const file_map *map, const char *path, uint64_t *size,
                                llava_error *err) {
    const uint64_t file_size = map->size;
    if (file_size < 8)
        return llava_refuse(
            err, LLAVA_MALFORMED, LLAVA_REFUSAL_TRUNCATED,
            "%s: truncated: a safetensors file begins with 8 bytes of header length, "
            "this one has %llu",
            path, (unsigned long long)file_size);
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--) n = n << 8 | map->data[i];
    if (n > HEADER_MAX || n > file_size - 8) {
        const char *kind = foreign_kind(map);
        if (kind)
            return llava_refuse(err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_UNSUPPORTED,
                                "%s: expected a safetensors file, got %s", path, kind);
        if (n > HEADER_MAX)
            return llava_refuse(err, LLAVA_MALFORMED, LLAVA_REFUSAL_LIMIT,
                                "%s: header length: expected at most %llu, got %llu", path,
                                (unsigned long long)HEADER_MAX, (unsigned long long)n);
        return llava_refuse(err, LLAVA_MALFORMED, LLAVA_REFUSAL_TRUNCATED,
                            "%s: truncated: the header needs %llu bytes after the length, the file "
                            "has %llu",
                            path, (unsigned long long)n, (unsigned long long)(file_size - 8));
    }
    if (n == 0 || map->data[8] != '{')
        return llava_refuse(err, LLAVA_MALFORMED, LLAVA_REFUSAL_CORRUPT,
                            "%s: the header is not a JSON object", path);
    *size = n;
    return LLAVA_OK;
}

static llava_status check_metadata(const parser *p, const json_t *metadata) {
    if (!json_is_object(metadata))
        return llava_refuse(p->err, LLAVA_MALFORMED, LLAVA_REFUSAL_CORRUPT,
                            "%s: __metadata__: expected an object, got %s", p->path,
                            json_kind(metadata));
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)metadata, key, value) {
        if (!json_is_string(value))
            return llava_refuse(p->err, LLAVA_MALFORMED, LLAVA_REFUSAL_CORRUPT,
                                "%s: __metadata__: \"%s\": expected a string, got %s", p->path, key,
                                json_kind(value));
    }
    return LLAVA_OK;
}

static llava_status read_shape(const parser *p, const json_t *shape, entry *e) {
    tensor *t = &e->tensor.t;
    if (!json_is_array(shape))
        return llava_refuse(p->err, LLAVA_MALFORMED, LLAVA_REFUSAL_CORRUPT,
                            "%s: tensor %s: shape: expected an array, got %s", p->path,
                            e->tensor.name, json_kind(shape));
    const size_t n = json_array_size(shape);
    if (n > TENSOR_MAX_DIMS)
        return llava_refuse(p->err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_LIMIT,
                            "%s: tensor %s: expected at most %d dimensions, got %zu", p->path,
                            e->tensor.name, TENSOR_MAX_DIMS, n);
    t->n_dims = (int)n;
    for (size_t i = 0; i < n; i++) {
        const json_t *side = json_array_get(shape, i);
        if (!json_is_integer(side) || json_integer_value(side) < 0)
            return llava_refuse(p->err, LLAVA_MALFORMED, LLAVA_REFUSAL_CORRUPT,
                                "%s: tensor %s: shape: expected integers from 0 on, got %s",
                                p->path, e->tensor.name,
                                json_is_integer(side) ? "a negative one" : json_kind(side));
        t->shape[i] = json_integer_value(side);
    }
    if (tensor_count(t) < 0)
        return llava_refuse(p->err, LLAVA_MALFORMED, LLAVA_REFUSAL_OVERFLOW,
                            "%s: tensor %s: the product of its shape overflows", p->path,
                            e->tensor.name);
    return LLAVA_OK;
}

static llava_status read_offsets(const parser *p, const json_t *offsets, entry *e) {
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 || !json_is_integer(begin) ||
        !json_is_integer(end) || json_integer_value(begin) < 0)
        return llava_refuse(p->err, LLAVA_MALFORMED, LLAVA_REFUSAL_CORRUPT,
                            "%s: tensor %s: data_offsets: expected two integers from 0 on", p->path,
                            e->tensor.name);
    if (json_integer_value(end) < json_integer_value(begin))
        return llava_refuse(p->err, LLAVA_MALFORMED, LLAVA_REFUSAL_INCONSISTENT,
                            "%s: tensor %s: data_offsets: the end %lld lies before the begin %lld",
                            p->path, e->tensor.name, (long long)json_integer_value(end),
                            (long long)json_integer_value(begin));
    e->begin = (uint64_t)json_integer_value(begin);
    e->end = (uint64_t)json_integer_value(end);
    return LLAVA_OK;
}

static llava_status read_entry(const parser *p, const char *name, const json_t *value, entry *e) {
    e->tensor.file = p->file;
    e->tensor.name = arena_strdup(p->memory, name);
    if (!e->tensor.name) return llava_fail_memory(p->err, strlen(name), "a tensor's name");
    if (!json_is_object(value))
        return llava_refuse(p->err, LLAVA_MALFORMED, LLAVA_REFUSAL_CORRUPT,
                            "%s: tensor %s: expected an object, got %s", p->path, name,
                            json_kind(value));
    const char *dtype = json_string_value(json_object_get(value, "dtype"));
    if (!dtype)
        return llava_refuse(p->err, LLAVA_MALFORMED, LLAVA_REFUSAL_CORRUPT,
                            "%s: tensor %s: \"dtype\" is missing", p->path, name);
    const stored_dtype *stored = find_dtype(dtype);
    if (!stored)
        return llava_refuse(p->err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_UNSUPPORTED,
                            "%s: tensor %s: unknown dtype \"%.40s\"", p->path, name, dtype);
    e->tensor.stored = stored->name;
    e->tensor.t.dtype = stored->dtype;
    LLAVA_TRY(read_shape(p, json_object_get(value, "shape"), e));
    LLAVA_TRY(read_offsets(p, json_object_get(value, "data_offsets"), e));
    size_t n_bits;
    if (!size_mul((size_t)tensor_count(&e->tensor.t), stored->bits, &n_bits))
        return llava_refuse(p->err, LLAVA_MALFORMED, LLAVA_REFUSAL_OVERFLOW,
                            "%s: tensor %s: its size overflows", p->path, name);
    if (n_bits % 8 || n_bits / 8 != e->end - e->begin) {
        char shape[128];
        return llava_refuse(p->err, LLAVA_MALFORMED, LLAVA_REFUSAL_INCONSISTENT,
                            "%s: tensor %s: %s of %s needs %zu bytes, its data_offsets give %llu",
                            p->path, name, tensor_shape_text(&e->tensor.t, shape, sizeof shape),
                            stored->name, n_bits / 8, (unsigned long long)(e->end - e->begin));
    }
    e->tensor.t.n_bytes = n_bits / 8;
    return LLAVA_OK;
}

static int by_offset(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return strcmp(x->tensor.name, y->tensor.name);
}

/** The data area must be covered exactly: sorted entries follow each other to its end. */
static llava_status place_entries(const parser *p, entry *entries, size_t count) {
    if (count > 1) qsort(entries, count, sizeof *entries, by_offset);
    uint64_t at = 0;
    for (size_t i = 0; i < count; i++) {
        entry *e = &entries[i];
        if (e->begin != at)
            return llava_refuse(p->err, LLAVA_MALFORMED, LLAVA_REFUSAL_INCONSISTENT,
                                "%s: tensor %s begins at byte %llu of the data, expected %llu (%s)",
                                p->path, e->tensor.name, (unsigned long long)e->begin,
                                (unsigned long long)at, e->begin < at ? "an overlap" : "a gap");
        if (e->end > p->data_size)
            return llava_refuse(
                p->err, LLAVA_MALFORMED, LLAVA_REFUSAL_TRUNCATED,
                "%s: truncated: tensor %s ends at byte %llu of the data, the file has "
                "%llu",
                p->path, e->tensor.name, (unsigned long long)e->end,
                (unsigned long long)p->data_size);
        e->tensor.t.data = p->data + e->begin;
        at = e->end;
    }
    if (at != p->data_size)
        return llava_refuse(p->err, LLAVA_MALFORMED, LLAVA_REFUSAL_INCONSISTENT,
                            "%s: %llu bytes follow the last tensor, expected none", p->path,
                            (unsigned long long)(p->data_size - at));
    return LLAVA_OK;
}

static llava_status read_header(const parser *p, const json_t *root, checkpoint_list *list) {
    const size_t n_keys = json_object_size(root);
    llava_status status = LLAVA_OK;
    entry *entries = array_new(n_keys, sizeof *entries);
    if (!entries) return llava_fail_memory(p->err, n_keys * sizeof *entries, "a header");
    size_t count = 0;
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)root, name, value) {
        if (strcmp(name, "__metadata__") == 0) {
            LLAVA_TRY_DONE(check_metadata(p, value));
        } else {
            LLAVA_TRY_DONE(read_entry(p, name, value, &entries[count]));
            count++;
        }
    }
    LLAVA_TRY_DONE(place_entries(p, entries, count));
    list->items = array_new(count, sizeof *list->items);
    if (!list->items) {
        status = llava_fail_memory(p->err, count * sizeof *list->items, "a list of tensors");
        goto done;
    }
    for (size_t i = 0; i < count; i++) list->items[i] = entries[i].tensor;
    list->count = count;
done:
    free(entries);
    return status;
}

llava_status safetensors_parse(const file_map *map, const char *path, const char *file,
                               arena *memory, checkpoint_list *list, llava_error *err) {
    *list = (checkpoint_list){0};
    uint64_t n = 0;
    LLAVA_TRY(header_size(map, path, &n, err));
    json_t *root;
    LLAVA_TRY(json_read_text((const char *)map->data + 8, n, path, &root, err));
    const parser p = {.path = path,
                      .file = file,
                      .memory = memory,
                      .data_size = map->size - 8 - n,
                      .data = map->data + 8 + n,
                      .err = err};
    llava_status status = LLAVA_OK;
    if (!json_is_object(root))
        status = llava_refuse(err, LLAVA_MALFORMED, LLAVA_REFUSAL_CORRUPT,
                              "%s: header: expected an object, got %s", path, json_kind(root));
    else
        status = read_header(&p, root, list);
    json_decref(root);
    return status;
}
