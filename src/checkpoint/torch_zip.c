/* SPDX-License-Identifier: Apache-2.0
 *
 * Offsets and signatures: PKWARE's APPNOTE 6.3, sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16 and 4.5.3.
 */
#include <stdlib.h>

#include "torch_zip.h"

#define END_SIZE          22u
#define END_SIGNATURE     0x06054b50u
#define LOCATOR_SIZE      20u
#define LOCATOR_SIGNATURE 0x07064b50u
#define END64_SIZE        56u
#define END64_SIGNATURE   0x06064b50u
#define CENTRAL_SIZE      46u
#define CENTRAL_SIGNATURE 0x02014b50u
#define LOCAL_SIZE        30u
#define LOCAL_SIGNATURE   0x04034b50u
#define COMMENT_MAX       65535u
#define ZIP64_EXTRA       1u

typedef struct zip_reader {
    const uint8_t *data;
    size_t size;
    const char *what;
    arena *memory;
    llava_error *err;
} zip_reader;

/** Where one entry lies, as the central directory says. */
typedef struct zip_record {
    uint64_t packed, size, local;
    unsigned method, flags;
    const char *name;
} zip_record;

static uint64_t number(const uint8_t *data, int n_bytes) {
    uint64_t value = 0;
    for (int i = n_bytes - 1; i >= 0; i--) value = value << 8 | data[i];
    return value;
}

static llava_status truncated(const zip_reader *r, const char *part) {
    return llava_refuse(r->err, LLAVA_MALFORMED, LLAVA_REFUSAL_TRUNCATED,
                        "%s: truncated zip file: %s lies outside its %zu bytes", r->what, part,
                        r->size);
}

static bool inside(const zip_reader *r, uint64_t offset, uint64_t size) {
    return offset <= r->size && size <= r->size - offset;
}

/** The end record is the last thing in the file, before a comment of known size. */
static llava_status find_end(const zip_reader *r, size_t *end) {
    if (r->size >= END_SIZE) {
        const size_t reach = r->size - END_SIZE;
        for (size_t back = 0; back <= reach && back <= COMMENT_MAX; back++) {
            const uint8_t *at = r->data + (reach - back);
            if (number(at, 4) != END_SIGNATURE || number(at + 20, 2) != back) continue;
            *end = reach - back;
            return LLAVA_OK;
        }
    }
    return llava_refuse(r->err, LLAVA_MALFORMED, LLAVA_REFUSAL_TRUNCATED,
                        "%s: truncated zip file: no end record in its %zu bytes", r->what, r->size);
}

/** Number, size and place of the central directory, from the 64-bit records where they exist. */
static llava_status find_central(const zip_reader *r, uint64_t *count, uint64_t *size,
                                 uint64_t *offset) {
    size_t end;
    LLAVA_TRY(find_end(r, &end));
    *count = number(r->data + end + 10, 2);
    *size = number(r->data + end + 12, 4);
    *offset = number(r->data + end + 16, 4);
    if (end >= LOCATOR_SIZE && number(r->data + end - LOCATOR_SIZE, 4) == LOCATOR_SIGNATURE) {
        const uint64_t end64 = number(r->data + end - LOCATOR_SIZE + 8, 8);
        if (!inside(r, end64, END64_SIZE) || number(r->data + end64, 4) != END64_SIGNATURE)
            return truncated(r, "the 64-bit end record");
        *count = number(r->data + end64 + 32, 8);
        *size = number(r->data + end64 + 40, 8);
        *offset = number(r->data + end64 + 48, 8);
    }
    if (!inside(r, *offset, *size) || *offset + *size > end)
        return truncated(r, "the central directory");
    if (*count > *size / CENTRAL_SIZE) return truncated(r, "an announced entry");
    return LLAVA_OK;
}

/** The ZIP64 extra field holds, in this order, only those values whose 32-bit field is all ones. */
static llava_status read_zip64(const zip_reader *r, const uint8_t *extra, size_t size,
                               zip_record *record) {
    uint64_t *const fields[] = {&record->size, &record->packed, &record->local};
    size_t wanted = 0;
    for (size_t i = 0; i < LLAVA_COUNT(fields); i++) wanted += *fields[i] == 0xffffffffu;
    if (wanted == 0) return LLAVA_OK;
    for (size_t at = 0; at + 4 <= size;) {
        const size_t length = number(extra + at + 2, 2);
        if (length > size - at - 4) break;
        if (number(extra + at, 2) == ZIP64_EXTRA) {
            if (length < 8 * wanted) break;
            const uint8_t *value = extra + at + 4;
            for (size_t i = 0; i < LLAVA_COUNT(fields); i++) {
                if (*fields[i] != 0xffffffffu) continue;
                *fields[i] = number(value, 8);
                value += 8;
            }
            return LLAVA_OK;
        }
        at += 4 + length;
    }
    return truncated(r, "a 64-bit size");
}

/** Reads the record at *at, which lies before end, and moves *at behind it. */
static llava_status read_record(const zip_reader *r, uint64_t *at, uint64_t end,
                                zip_record *record) {
    const uint8_t *head = r->data + *at;
    if (end - *at < CENTRAL_SIZE || number(head, 4) != CENTRAL_SIGNATURE)
        return truncated(r, "a directory record");
    const size_t name_size = number(head + 28, 2), extra_size = number(head + 30, 2);
    const uint64_t total = CENTRAL_SIZE + name_size + extra_size + number(head + 32, 2);
    if (total > end - *at) return truncated(r, "a directory record");
    *record = (zip_record){.flags = (unsigned)number(head + 8, 2),
                           .method = (unsigned)number(head + 10, 2),
                           .packed = number(head + 20, 4),
                           .size = number(head + 24, 4),
                           .local = number(head + 42, 4)};
    record->name = arena_strndup(r->memory, (const char *)head + CENTRAL_SIZE, name_size);
    if (!record->name) return llava_fail_memory(r->err, name_size, r->what);
    LLAVA_TRY(read_zip64(r, head + CENTRAL_SIZE + name_size, extra_size, record));
    *at += total;
    return LLAVA_OK;
}

/** The local header has name and extra lengths of its own; the data follows them. */
static llava_status locate(const zip_reader *r, const zip_record *record, zip_entry *entry) {
    *entry = (zip_entry){.name = record->name, .size = record->size};
    if (!inside(r, record->local, LOCAL_SIZE) ||
        number(r->data + record->local, 4) != LOCAL_SIGNATURE)
        return truncated(r, record->name);
    const uint8_t *head = r->data + record->local;
    const uint64_t start = record->local + LOCAL_SIZE + number(head + 26, 2) + number(head + 28, 2);
    if (!inside(r, start, record->packed)) return truncated(r, record->name);
    if (record->method != 0 || (record->flags & 1u)) return LLAVA_OK; /* data stays NULL */
    if (record->packed != record->size)
        return llava_refuse(r->err, LLAVA_MALFORMED, LLAVA_REFUSAL_INCONSISTENT,
                            "%s: inconsistent zip entry %s: stored as %llu bytes, said to be %llu",
                            r->what, record->name, (unsigned long long)record->packed,
                            (unsigned long long)record->size);
    entry->data = r->data + start;
    return LLAVA_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const zip_entry *)a)->name, ((const zip_entry *)b)->name);
}

llava_status zip_open(const uint8_t *data, size_t size, const char *what, arena *memory,
                      zip_directory *directory, llava_error *err) {
    const zip_reader r = {data, size, what, memory, err};
    uint64_t count, central_size, at;
    LLAVA_TRY(find_central(&r, &count, &central_size, &at));
    directory->count = count;
    directory->entries = arena_array(memory, count, sizeof *directory->entries);
    if (!directory->entries) return llava_fail_memory(err, count * sizeof(zip_entry), what);
    const uint64_t end = at + central_size;
    for (uint64_t i = 0; i < count; i++) {
        zip_record record;
        LLAVA_TRY(read_record(&r, &at, end, &record));
        LLAVA_TRY(locate(&r, &record, &directory->entries[i]));
    }
    qsort(directory->entries, count, sizeof *directory->entries, by_name);
    for (uint64_t i = 1; i < count; i++)
        if (strcmp(directory->entries[i - 1].name, directory->entries[i].name) == 0)
            return llava_refuse(err, LLAVA_MALFORMED, LLAVA_REFUSAL_CORRUPT,
                                "%s: corrupt zip file: two entries named %s", what,
                                directory->entries[i].name);
    return LLAVA_OK;
}

const zip_entry *zip_find(const zip_directory *directory, const char *name) {
    const zip_entry key = {.name = name};
    return directory->count
               ? bsearch(&key, directory->entries, directory->count, sizeof key, by_name)
               : NULL;
}
