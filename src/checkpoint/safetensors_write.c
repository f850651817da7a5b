/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/json.h"
#include "safetensors.h"
#include "safetensors_write.h"

#define DATA_ALIGNMENT 64

static json_t *shape_json(const tensor *t) {
    json_t *shape = json_array();
    for (int i = 0; shape && i < t->n_dims; i++)
        json_array_append_new(shape, json_integer(t->shape[i]));
    return shape;
}

/** The header's object; *total gets the size of the data area. */
static json_t *header_json(const planned_tensor *tensors, size_t count, uint64_t *total) {
    json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    *total = 0;
    for (size_t i = 0; root && i < count; i++) {
        const tensor *t = &tensors[i].t;
        const uint64_t end = *total + (uint64_t)tensor_count(t) * dtype_size(t->dtype);
        json_t *entry =
            json_pack("{s:s, s:o, s:[I, I]}", "dtype", safetensors_dtype_name(t->dtype), "shape",
                      shape_json(t), "data_offsets", (json_int_t)*total, (json_int_t)end);
        if (json_object_set_new(root, tensors[i].name, entry) != 0) {
            json_decref(root);
            return NULL;
        }
        *total = end;
    }
    return root;
}

static llava_status write_failed(const char *path, llava_error *err) {
    return llava_fail(err, LLAVA_IO, "%s: cannot be written: %s", path, strerror(errno));
}

static llava_status write_header(safetensors_writer *w, const char *text, llava_error *err) {
    const size_t size = strlen(text);
    const size_t padded = (size_t)round_up((int64_t)size + 8, DATA_ALIGNMENT) - 8;
    uint8_t length[8];
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)(padded >> (8 * i));
    bool ok = fwrite(length, 1, 8, w->file) == 8 && fwrite(text, 1, size, w->file) == size;
    for (size_t i = size; ok && i < padded; i++) ok = fputc(' ', w->file) != EOF;
    return ok ? LLAVA_OK : write_failed(w->path, err);
}

llava_status safetensors_create(safetensors_writer *w, const char *path,
                                const planned_tensor *tensors, size_t count, llava_error *err) {
    *w = (safetensors_writer){.path = path};
    json_t *root = header_json(tensors, count, &w->expected);
    char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    if (!text) return llava_fail_memory(err, count * sizeof *tensors, "a header");
    w->file = fopen(path, "wbx");
    const llava_status status = w->file ? write_header(w, text, err) : write_failed(path, err);
    free(text);
    if (status != LLAVA_OK) safetensors_abandon(w);
    return status;
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
    return ok && closed ? LLAVA_OK : write_failed(w->path, err);
}

void safetensors_abandon(safetensors_writer *w) {
    if (!w->file) return;
    fclose(w->file);
    unlink(w->path);
    w->file = NULL;
}
