/* SPDX-License-Identifier: Apache-2.0
 *
 * torch.save's two containers around the same pickle. Facts observed on torch 1.13, 2.3 and 2.9.
 */
#include <stdlib.h>

#include "pickle.h"
#include "torch_file.h"
#include "torch_zip.h"

static const uint8_t legacy_magic[] = {0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46,
                                       0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e};
#define LEGACY_PROTOCOL 1001

struct zip_source;

typedef struct torch_reader {
    pickle_input in;       /* the whole file */
    const uint8_t *pickle; /* zip: data.pkl */
    size_t pickle_size;
    const struct zip_source *source; /* zip: its directory */
    torch_tensors *out;
    llava_error *err;
} torch_reader;

bool torch_file_probe(const uint8_t *data, size_t size) {
    return (size >= 4 && memcmp(data, "PK\3\4", 4) == 0) ||
           (size >= sizeof legacy_magic && memcmp(data, legacy_magic, sizeof legacy_magic) == 0);
}

/* ---------------------------------------------------------------- from values to tensors */

/** The dictionary of tensors: the value itself, or one level down. */
static llava_status find_state(const torch_reader *r, const pickle_value *root,
                               const pickle_value **state) {
    static const char *const wrappers[] = {"state_dict", "model"};
    if (root->kind != PICKLE_DICT)
        return llava_refuse(r->err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_UNSUPPORTED,
                            "%s: expected a dictionary of tensors at the top, got something else",
                            r->in.what);
    *state = root;
    for (size_t i = 0; i < LLAVA_COUNT(wrappers); i++) {
        const pickle_value *inner = pickle_dict_get(root, wrappers[i]);
        if (inner && inner->kind == PICKLE_DICT) *state = inner;
    }
    for (size_t i = 0; i < (*state)->as.list.count; i += 2) {
        const pickle_value *key = (*state)->as.list.items[i];
        if (key->kind != PICKLE_STRING || key->as.string.size != strlen(key->as.string.data))
            return llava_refuse(r->err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_UNSUPPORTED,
                                "%s: a tensor whose name is not plain text", r->in.what);
        if ((*state)->as.list.items[i + 1]->kind != PICKLE_TENSOR)
            return llava_refuse(r->err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_UNSUPPORTED,
                                "%s: expected tensors only, entry \"%.200s\" is something else",
                                r->in.what, key->as.string.data);
    }
    return LLAVA_OK;
}

static bool is_contiguous(const pickle_tensor *t) {
    int64_t step = 1;
    for (int i = t->n_dims - 1; i >= 0; i--) {
        if (t->shape[i] == 0) return true;
        if (t->shape[i] != 1 && t->stride[i] != step) return false;
        step *= t->shape[i];
    }
    return true;
}

/** Copies a strided view, last dimension fastest. */
static void gather(uint8_t *dst, const uint8_t *src, const pickle_tensor *t, int64_t count) {
    const size_t element = dtype_size(t->dtype);
    int64_t index[TENSOR_MAX_DIMS] = {0};
    int64_t at = 0;
    for (int64_t i = 0; i < count; i++) {
        memcpy(dst + (size_t)i * element, src + (size_t)at * element, element);
        for (int d = t->n_dims - 1; d >= 0; d--) {
            at += t->stride[d];
            if (++index[d] < t->shape[d]) break;
            at -= t->stride[d] * t->shape[d];
            index[d] = 0;
        }
    }
}

/** An expanded view (stride 0) may be far larger than its storage; this bounds what it may take. */
#define GATHER_MAX_FACTOR 64

static llava_status place(const torch_reader *r, const char *name, const pickle_tensor *from,
                          tensor *to) {
    to->dtype = from->dtype;
    to->n_dims = from->n_dims;
    memcpy(to->shape, from->shape, sizeof to->shape);
    const int64_t count = tensor_count(to);
    to->n_bytes = (size_t)count * dtype_size(to->dtype);
    if (count == 0) {
        to->data = r->in.data;
        return LLAVA_OK;
    }
    const uint8_t *first = from->storage->data + (size_t)from->offset * dtype_size(to->dtype);
    if (is_contiguous(from)) {
        to->data = first;
        return LLAVA_OK;
    }
    if (to->n_bytes / GATHER_MAX_FACTOR > r->in.size)
        return llava_refuse(r->err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_LIMIT,
                            "%s: limit: tensor %s expands to %zu bytes, the file has %zu",
                            r->in.what, name, to->n_bytes, r->in.size);
    uint8_t *dense = arena_alloc(r->in.memory, to->n_bytes);
    if (!dense) return llava_fail_memory(r->err, to->n_bytes, name);
    gather(dense, first, from, count);
    to->data = dense;
    return LLAVA_OK;
}

/** One entry of the dictionary; sorted by name, then by place. */
typedef struct state_entry {
    const char *name;
    size_t place;
    const pickle_tensor *t;
} state_entry;

static int by_name_and_place(const void *a, const void *b) {
    const state_entry *x = a, *y = b;
    const int order = strcmp(x->name, y->name);
    return order ? order : (x->place > y->place) - (x->place < y->place);
}

static llava_status collect(const torch_reader *r, const pickle_value *state,
                            llava_status (*bind)(const torch_reader *, pickle_storage *)) {
    const size_t count = state->as.list.count / 2;
    state_entry *entries = arena_array(r->in.memory, count, sizeof *entries);
    r->out->items = arena_array(r->in.memory, count, sizeof *r->out->items);
    if (!entries || !r->out->items)
        return llava_fail_memory(r->err, count * sizeof(torch_tensor), r->in.what);
    for (size_t i = 0; i < count; i++) {
        pickle_value **pair = state->as.list.items + 2 * i;
        entries[i] = (state_entry){pair[0]->as.string.data, i, pair[1]->as.tensor};
    }
    qsort(entries, count, sizeof *entries, by_name_and_place);
    for (size_t i = 0; i < count; i++) {
        if (i + 1 < count && strcmp(entries[i].name, entries[i + 1].name) == 0) continue;
        torch_tensor *t = &r->out->items[r->out->count++];
        t->name = entries[i].name;
        LLAVA_TRY(bind(r, entries[i].t->storage));
        LLAVA_TRY(place(r, t->name, entries[i].t, &t->t));
    }
    return LLAVA_OK;
}

/* ---------------------------------------------------------------- the zip container */

typedef struct zip_source {
    zip_directory directory;
    const char *root; /* the single top folder */
} zip_source;

static bool ends_with(const char *text, const char *end) {
    const size_t size = strlen(text), tail = strlen(end);
    return size >= tail && strcmp(text + size - tail, end) == 0;
}

static const zip_entry *root_entry(const torch_reader *r, const zip_source *source,
                                   const char *name) {
    const char *path = arena_printf(r->in.memory, "%s/%s", source->root, name);
    return path ? zip_find(&source->directory, path) : NULL;
}

static llava_status open_archive(torch_reader *r, zip_source *source) {
    LLAVA_TRY(
        zip_open(r->in.data, r->in.size, r->in.what, r->in.memory, &source->directory, r->err));
    const zip_entry *pickle = NULL;
    for (size_t i = 0; i < source->directory.count && !pickle; i++)
        if (ends_with(source->directory.entries[i].name, "/data.pkl"))
            pickle = &source->directory.entries[i];
    if (!pickle)
        return llava_refuse(r->err, LLAVA_MALFORMED, LLAVA_REFUSAL_MISSING,
                            "%s: missing data.pkl: a zip file, but not one of torch.save",
                            r->in.what);
    source->root =
        arena_strndup(r->in.memory, pickle->name, strlen(pickle->name) - strlen("/data.pkl"));
    if (!source->root) return llava_fail_memory(r->err, 0, r->in.what);
    if (root_entry(r, source, "constants.pkl"))
        return llava_refuse(r->err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_UNSUPPORTED,
                            "%s: a TorchScript archive, expected a state dict", r->in.what);
    const zip_entry *order = root_entry(r, source, "byteorder");
    if (order && order->data && !(order->size == 6 && memcmp(order->data, "little", 6) == 0))
        return llava_refuse(r->err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_UNSUPPORTED,
                            "%s: stored big-endian", r->in.what);
    if (!pickle->data)
        return llava_refuse(r->err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_UNSUPPORTED,
                            "%s: data.pkl is compressed", r->in.what);
    r->pickle = pickle->data;
    r->pickle_size = pickle->size;
    return LLAVA_OK;
}

static llava_status storage_bytes(const torch_reader *r, const pickle_storage *s, int64_t numel,
                                  size_t *n_bytes) {
    const size_t element = s->dtype == LLAVA_DTYPE_DEFAULT ? 1 : dtype_size(s->dtype);
    if (!size_mul((size_t)numel, element, n_bytes))
        return llava_refuse(r->err, LLAVA_MALFORMED, LLAVA_REFUSAL_OVERFLOW,
                            "%s: overflow: storage %s of %lld elements", r->in.what, s->key,
                            (long long)numel);
    return LLAVA_OK;
}

static llava_status bind_zip(const torch_reader *r, pickle_storage *s) {
    if (s->data) return LLAVA_OK;
    const char *name = arena_printf(r->in.memory, "data/%s", s->key);
    if (!name) return llava_fail_memory(r->err, strlen(s->key), r->in.what);
    const zip_entry *entry = root_entry(r, r->source, name);
    if (!entry)
        return llava_refuse(r->err, LLAVA_MALFORMED, LLAVA_REFUSAL_MISSING,
                            "%s: missing storage %s, which the pickle names", r->in.what, name);
    if (!entry->data)
        return llava_refuse(r->err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_UNSUPPORTED,
                            "%s: storage %s is compressed", r->in.what, name);
    size_t expected;
    LLAVA_TRY(storage_bytes(r, s, s->numel, &expected));
    if (expected != entry->size)
        return llava_refuse(r->err, LLAVA_MALFORMED, LLAVA_REFUSAL_INCONSISTENT,
                            "%s: inconsistent storage %s: the pickle says %zu bytes, it has %zu",
                            r->in.what, name, expected, entry->size);
    s->data = entry->data;
    return LLAVA_OK;
}

static llava_status read_zip(torch_reader *r) {
    zip_source source = {0};
    LLAVA_TRY(open_archive(r, &source));
    r->source = &source;
    const pickle_input in = {r->pickle, r->pickle_size, r->in.what, r->in.memory, NULL};
    size_t position = 0;
    pickle_value *root;
    const pickle_value *state;
    LLAVA_TRY(pickle_read(&in, &position, &root, r->err));
    LLAVA_TRY(find_state(r, root, &state));
    return collect(r, state, bind_zip);
}

/* ---------------------------------------------------------------- the stream before it */

static int by_key(const void *a, const void *b) {
    return strcmp((*(pickle_storage *const *)a)->key, (*(pickle_storage *const *)b)->key);
}

/** Every storage of that key gets its bytes; several views may share one root storage. */
static void bind_key(pickle_storage **storages, size_t count, const char *key, const uint8_t *data,
                     size_t element) {
    size_t low = 0, high = count;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (strcmp(storages[middle]->key, key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < count && strcmp(storages[low]->key, key) == 0; low++)
        storages[low]->data = data + (size_t)storages[low]->view_offset * element;
}

static const pickle_storage *find_key(pickle_storage **storages, size_t count, const char *key) {
    const pickle_storage probe = {.key = key};
    const pickle_storage *const wanted = &probe;
    pickle_storage **found =
        count ? bsearch(&wanted, storages, count, sizeof *storages, by_key) : NULL;
    return found ? *found : NULL;
}

/** One storage of the stream: i64 element count, then the elements. */
static llava_status read_legacy_storage(const torch_reader *r, pickle_storage **storages,
                                        size_t count, const pickle_value *key, size_t *position) {
    if (key->kind != PICKLE_STRING)
        return llava_refuse(r->err, LLAVA_MALFORMED, LLAVA_REFUSAL_CORRUPT,
                            "%s: corrupt list of storages", r->in.what);
    const pickle_storage *s = find_key(storages, count, key->as.string.data);
    if (!s)
        return llava_refuse(r->err, LLAVA_MALFORMED, LLAVA_REFUSAL_MISSING,
                            "%s: storage %.80s is listed, its description is missing", r->in.what,
                            key->as.string.data);
    int64_t numel;
    if (r->in.size - *position < sizeof numel)
        return llava_refuse(r->err, LLAVA_MALFORMED, LLAVA_REFUSAL_TRUNCATED,
                            "%s: truncated before storage %s", r->in.what, s->key);
    memcpy(&numel, r->in.data + *position, sizeof numel);
    *position += sizeof numel;
    if (numel != s->root_numel)
        return llava_refuse(
            r->err, LLAVA_MALFORMED, LLAVA_REFUSAL_INCONSISTENT,
            "%s: inconsistent storage %s: the pickle says %lld elements, it has %lld", r->in.what,
            s->key, (long long)s->root_numel, (long long)numel);
    size_t n_bytes;
    LLAVA_TRY(storage_bytes(r, s, numel, &n_bytes));
    if (n_bytes > r->in.size - *position)
        return llava_refuse(r->err, LLAVA_MALFORMED, LLAVA_REFUSAL_TRUNCATED,
                            "%s: truncated: storage %s needs %zu bytes, %zu "
                            "are left",
                            r->in.what, s->key, n_bytes, r->in.size - *position);
    bind_key(storages, count, s->key, r->in.data + *position, dtype_size(s->dtype));
    *position += n_bytes;
    return LLAVA_OK;
}

static llava_status bind_legacy(const torch_reader *r, pickle_storage *s) {
    if (!s->data)
        return llava_refuse(r->err, LLAVA_MALFORMED, LLAVA_REFUSAL_MISSING,
                            "%s: missing storage %s, which the pickle names", r->in.what, s->key);
    return LLAVA_OK;
}

/** Magic, protocol and system information before the object. */
static llava_status read_legacy_head(const torch_reader *r, size_t *position) {
    pickle_value *protocol, *system;
    *position = sizeof legacy_magic;
    LLAVA_TRY(pickle_read(&r->in, position, &protocol, r->err));
    if (protocol->kind != PICKLE_INT || protocol->as.integer != LEGACY_PROTOCOL)
        return llava_refuse(r->err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_UNSUPPORTED,
                            "%s: legacy protocol %lld, expected %d", r->in.what,
                            protocol->kind == PICKLE_INT ? (long long)protocol->as.integer : -1,
                            LEGACY_PROTOCOL);
    LLAVA_TRY(pickle_read(&r->in, position, &system, r->err));
    const pickle_value *little =
        system->kind == PICKLE_DICT ? pickle_dict_get(system, "little_endian") : NULL;
    if (!little || little->kind != PICKLE_BOOL || !little->as.flag)
        return llava_refuse(r->err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_UNSUPPORTED,
                            "%s: not stored little-endian", r->in.what);
    return LLAVA_OK;
}

static llava_status read_legacy(torch_reader *r) {
    size_t position;
    pickle_value *root, *keys;
    const pickle_value *state;
    LLAVA_TRY(read_legacy_head(r, &position));
    pickle_storages found = {0};
    pickle_input in = r->in;
    in.storages = &found;
    LLAVA_TRY(pickle_read(&in, &position, &root, r->err));
    LLAVA_TRY(pickle_read(&r->in, &position, &keys, r->err));
    if (keys->kind != PICKLE_SEQUENCE)
        return llava_refuse(r->err, LLAVA_MALFORMED, LLAVA_REFUSAL_CORRUPT,
                            "%s: corrupt list of storages", r->in.what);
    if (found.count) qsort(found.items, found.count, sizeof *found.items, by_key);
    for (size_t i = 0; i < keys->as.list.count; i++)
        LLAVA_TRY(
            read_legacy_storage(r, found.items, found.count, keys->as.list.items[i], &position));
    LLAVA_TRY(find_state(r, root, &state));
    return collect(r, state, bind_legacy);
}

llava_status torch_file_read(const uint8_t *data, size_t size, const char *what, arena *memory,
                             torch_tensors *tensors, llava_error *err) {
    *tensors = (torch_tensors){0};
    torch_reader reader = {.in = {data, size, what, memory, NULL}, .out = tensors, .err = err};
    if (!torch_file_probe(data, size))
        return llava_refuse(err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_UNSUPPORTED,
                            "%s: not a file of torch.save", what);
    return data[0] == 'P' ? read_zip(&reader) : read_legacy(&reader);
}
