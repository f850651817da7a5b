/* SPDX-License-Identifier: Apache-2.0
 *
 * Files, paths and the clock.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base.h"

static llava_status file_open(const char *path, int *fd, struct stat *info, llava_error *err) {
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return llava_refuse(err, LLAVA_IO, LLAVA_REFUSAL_MISSING, "%s: %s", path, strerror(errno));
    if (*fd < 0) return llava_fail(err, LLAVA_IO, "%s: %s", path, strerror(errno));
    if (fstat(*fd, info) != 0) {
        const int code = errno;
        close(*fd);
        return llava_fail(err, LLAVA_IO, "%s: %s", path, strerror(code));
    }
    if (!S_ISREG(info->st_mode)) {
        close(*fd);
        return llava_fail(err, LLAVA_IO, "%s: expected a regular file, got something else", path);
    }
    return LLAVA_OK;
}

llava_status file_map_open(const char *path, file_map *map, llava_error *err) {
    *map = (file_map){0};
    int fd;
    struct stat info;
    LLAVA_TRY(file_open(path, &fd, &info, err));
    if (info.st_size == 0) {
        close(fd);
        return LLAVA_OK;
    }
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    const int code = errno;
    close(fd);
    if (data == MAP_FAILED)
        return llava_fail(err, LLAVA_IO, "%s: cannot map %lld bytes: %s", path,
                          (long long)info.st_size, strerror(code));
    map->data = data;
    map->size = (size_t)info.st_size;
    return LLAVA_OK;
}

void file_map_close(file_map *map) {
    if (map->data) munmap((void *)(uintptr_t)map->data, map->size);
    *map = (file_map){0};
}

void file_map_forget(const file_map *map, const void *data, size_t size) {
    const uintptr_t start = (uintptr_t)data, base = (uintptr_t)map->data;
    if (!map->data || start < base || size > map->size || start - base > map->size - size) return;
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t first = (start + page - 1) / page * page, end = (start + size) / page * page;
    if (first < end) madvise((void *)first, end - first, MADV_DONTNEED);
}

llava_status file_read(const char *path, size_t max_size, bytes *content, llava_error *err) {
    *content = (bytes){0};
    int fd;
    struct stat info;
    LLAVA_TRY(file_open(path, &fd, &info, err));
    llava_status status = LLAVA_OK;
    const size_t size = (size_t)info.st_size;
    if (size > max_size) {
        status = llava_refuse(err, LLAVA_UNSUPPORTED, LLAVA_REFUSAL_LIMIT,
                              "%s: expected at most %zu bytes, got %zu", path, max_size, size);
        goto done;
    }
    if (!bytes_reserve(content, size)) {
        status = llava_fail_memory(err, size, path);
        goto done;
    }
    while (content->size < size) {
        const ssize_t got = read(fd, content->data + content->size, size - content->size);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            status =
                llava_fail(err, LLAVA_IO, "%s: expected %zu bytes, read %zu: %s", path, size,
                           content->size, got < 0 ? strerror(errno) : "the file became shorter");
            goto done;
        }
        content->size += (size_t)got;
    }
    content->data[content->size] = '\0';
done:
    close(fd);
    if (status != LLAVA_OK) bytes_free(content);
    return status;
}

bool path_is_file(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

bool path_is_directory(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

char *path_join(arena *a, const char *directory, const char *name) {
    if (name[0] == '/' || !directory || !directory[0]) return arena_strdup(a, name);
    const size_t size = strlen(directory);
    const char *slash = directory[size - 1] == '/' ? "" : "/";
    return arena_printf(a, "%s%s%s", directory, slash, name);
}

const char *path_base(arena *a, const char *path) {
    size_t end = strlen(path);
    while (end > 0 && path[end - 1] == '/') end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/') start--;
    return arena_strndup(a, path + start, end - start);
}

bool path_is_plain_relative(const char *name) {
    if (!name[0] || name[0] == '/' || strchr(name, '\\')) return false;
    for (const char *part = name; part;) {
        const char *slash = strchr(part, '/');
        const size_t size = slash ? (size_t)(slash - part) : strlen(part);
        if (size == 2 && part[0] == '.' && part[1] == '.') return false;
        part = slash ? slash + 1 : NULL;
    }
    return true;
}

double now_ms(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec * 1e-6;
}
