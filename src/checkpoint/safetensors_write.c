/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/json.h"
#include "safetensors.h"
#include "safetensors_write.h"

/** A tensor's place in the file: by falling alignment of sizes, then in the caller's order. */
typedef struct layout {
    size_t index;
    uint64_t size, alignment; /* the power of two that divides size, at most 64 */
} layout;

static json_t *shape_json(const tensor *t) {
    json_t *shape = json_array();
    for (int i = 0; shape && i < t->n_dims; i++)
        json_array_append_new(shape, json_integer(t->shape[i]));
    return shape;
}

static int by_alignment(const void *left, const void *right) {
    const layout *a = left, *b = right;
    if (a->alignment != b->alignment) return a->alignment > b->alignment ? -1 : 1;
    return a->index < b->index ? -1 : a->index > b->index;
}

static layout *plan_layout(const planned_tensor *tensors, size_t count) {
    layout *order = array_new(count ? count : 1, sizeof *order);
    for (size_t i = 0; order && i < count; i++) {
        const tensor *t = &tensors[i].t;
        const uint64_t size = (uint64_t)tensor_count(t) * dtype_size(t->dtype);
        const uint64_t bits = size | SAFETENSORS_ALIGNMENT;
        order[i] = (layout){.index = i, .size = size, .alignment = bits & -bits};
    }
    if (order) qsort(order, count, sizeof *order, by_alignment);
    return order;
}

/** The header's object; fills the writer's offsets and the size of its data area. */
static json_t *header_json(safetensors_writer *w, const planned_tensor *tensors,
                           const layout *order, size_t count) {
    json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    for (size_t i = 0; root && i < count; i++) {
        const planned_tensor *p = &tensors[order[i].index];
        const uint64_t start = w->expected, end = start + order[i].size;
        json_t *entry =
            json_pack("{s:s, s:o, s:[I, I]}", "dtype", safetensors_dtype_name(p->t.dtype), "shape",
                      shape_json(&p->t), "data_offsets", (json_int_t)start, (json_int_t)end);
        if (json_object_set_new(root, p->name, entry) != 0) {
            json_decref(root);
            return NULL;
        }
        w->offsets[order[i].index] = start;
        w->expected = end;
    }
    return root;
}

static char *header_text(safetensors_writer *w, const planned_tensor *tensors, size_t count) {
    layout *order = plan_layout(tensors, count);
    w->offsets = array_new(count ? count : 1, sizeof *w->offsets);
    json_t *root = order && w->offsets ? header_json(w, tensors, order, count) : NULL;
    char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    free(order);
    return text;
}

static llava_status write_failed(const char *path, llava_error *err) {
    return llava_fail(err, LLAVA_IO, "%s: cannot be written: %s", path, strerror(errno));
}

static llava_status write_header(safetensors_writer *w, const char *text, llava_error *err) {
    const size_t size = strlen(text);
    const size_t padded = (size_t)round_up((int64_t)size + 8, SAFETENSORS_ALIGNMENT) - 8;
    w->data_start = 8 + padded;
    uint8_t length[8];
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)(padded >> (8 * i));
    bool ok = fwrite(length, 1, 8, w->file) == 8 && fwrite(text, 1, size, w->file) == size;
    for (size_t i = size; ok && i < padded; i++) ok = fputc(' ', w->file) != EOF;
    return ok ? LLAVA_OK : write_failed(w->path, err);
}

llava_status safetensors_create(safetensors_writer *w, const char *path,
                                const planned_tensor *tensors, size_t count, llava_error *err) {
    *w = (safetensors_writer){.path = path};
    char *text = header_text(w, tensors, count);
    llava_status status = LLAVA_OK;
    if (!text)
        status = llava_fail_memory(err, count * sizeof *tensors, "a header");
    else
        w->file = fopen(path, "wbx");
    if (status == LLAVA_OK) status = w->file ? write_header(w, text, err) : write_failed(path, err);
    free(text);
    if (status != LLAVA_OK) safetensors_abandon(w);
    return status;
}

llava_status safetensors_begin(safetensors_writer *w, size_t index, llava_error *err) {
    if (fseeko(w->file, (off_t)(w->data_start + w->offsets[index]), SEEK_SET) == 0) return LLAVA_OK;
    return write_failed(w->path, err);
}

llava_status safetensors_append(safetensors_writer *w, const void *data, size_t n_bytes,
                                llava_error *err) {
    if (n_bytes && fwrite(data, 1, n_bytes, w->file) != n_bytes) return write_failed(w->path, err);
    w->written += n_bytes;
    return LLAVA_OK;
}

llava_status safetensors_finish(safetensors_writer *w, llava_error *err) {
    if (w->written != w->expected)
        return llava_fail(err, LLAVA_INTERNAL, "%s: expected %llu bytes of data, wrote %llu",
                          w->path, (unsigned long long)w->expected, (unsigned long long)w->written);
    const bool ok = fflush(w->file) == 0 && fsync(fileno(w->file)) == 0;
    const bool closed = fclose(w->file) == 0;
    w->file = NULL;
    free(w->offsets);
    w->offsets = NULL;
    return ok && closed ? LLAVA_OK : write_failed(w->path, err);
}

void safetensors_abandon(safetensors_writer *w) {
    free(w->offsets);
    w->offsets = NULL;
    if (!w->file) return;
    fclose(w->file);
    unlink(w->path);
    w->file = NULL;
}
