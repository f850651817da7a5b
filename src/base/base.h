/* SPDX-License-Identifier: Apache-2.0
 *
 * Ground floor: errors, checked sizes, arenas, byte buffers, files, half precision, threads.
 * Everything above uses these and nothing below exists.
 */
#ifndef LLAVA_BASE_H
#define LLAVA_BASE_H

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "llava.h"

#define LLAVA_COUNT(array)        (sizeof(array) / sizeof((array)[0]))
#define LLAVA_PRINTF(text, first) __attribute__((format(printf, text, first)))

/* ---------------------------------------------------------------- errors */

/** Fills err (if not NULL) and gives code: `return llava_fail(err, LLAVA_IO, "...", ...)`.
 *  A macro, so that the compiler sees which status a failure returns. */
static inline llava_status llava_same(llava_status code) { return code; }
#define llava_fail(err, code, ...) (llava_error_set(err, code, __VA_ARGS__), llava_same(code))
void llava_error_set(llava_error *err, llava_status code, const char *format, ...)
    LLAVA_PRINTF(3, 4);

/** llava_fail() of a file that is not taken, with the class of the refusal. */
#define llava_refuse(err, code, refusal, ...)                                                      \
    (llava_error_refuse(err, code, refusal, __VA_ARGS__), llava_same(code))
void llava_error_refuse(llava_error *err, llava_status code, llava_refusal refusal,
                        const char *format, ...) LLAVA_PRINTF(4, 5);

/** For readers of JSON and text files, where nearly every failure is of one class: gives an error
 *  that names no class the one its status implies. Passes the status on. */
llava_status llava_error_classify(llava_error *err, llava_status status);

/** Puts text in front of an error already filled: "config.json: " + message. Gives code. */
#define llava_fail_prefix(err, code, ...)                                                          \
    (llava_error_prefix(err, code, __VA_ARGS__), llava_same(code))
void llava_error_prefix(llava_error *err, llava_status code, const char *format, ...)
    LLAVA_PRINTF(3, 4);

#define llava_fail_memory(err, n_bytes, what)                                                      \
    llava_fail(err, LLAVA_OUT_OF_MEMORY, "out of memory: %zu bytes for %s", (size_t)(n_bytes), what)

/** Passes a failure on. */
#define LLAVA_TRY(call)                                                                            \
    do {                                                                                           \
        const llava_status try_status_ = (call);                                                   \
        if (try_status_ != LLAVA_OK) return try_status_;                                           \
    } while (0)

/** Passes a failure on through the clean-up at `done:`; needs a local `llava_status status`. */
#define LLAVA_TRY_DONE(call)                                                                       \
    do {                                                                                           \
        status = (call);                                                                           \
        if (status != LLAVA_OK) goto done;                                                         \
    } while (0)

/* ---------------------------------------------------------------- sizes */

/** product = a * b, or false on overflow. */
static inline bool size_mul(size_t a, size_t b, size_t *product) {
    return !__builtin_mul_overflow(a, b, product);
}
static inline bool size_add(size_t a, size_t b, size_t *sum) {
    return !__builtin_add_overflow(a, b, sum);
}
static inline int64_t i64_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t i64_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

/** Zeroed array of count elements; NULL on overflow or exhaustion. Release with free(). */
void *array_new(size_t count, size_t element_size);

/** 64-byte aligned, not zeroed; NULL on exhaustion. Release with free(). */
void *aligned_new(size_t n_bytes);

/* ---------------------------------------------------------------- arena */

/** Memory that is released all at once. Allocations are zeroed and 64-byte aligned. */
typedef struct arena arena;

arena *arena_new(void);
void arena_free(arena **a);
void *arena_alloc(arena *a, size_t n_bytes); /* NULL on exhaustion */
void *arena_array(arena *a, size_t count, size_t element_size);
char *arena_strdup(arena *a, const char *text);
char *arena_strndup(arena *a, const char *text, size_t size);
char *arena_printf(arena *a, const char *format, ...) LLAVA_PRINTF(2, 3);
size_t arena_bytes(const arena *a);

/* ---------------------------------------------------------------- growing byte buffer */

/** Zero-initialise; always NUL-terminated behind `size` once something was appended. */
typedef struct bytes {
    char *data;
    size_t size;
    size_t capacity;
} bytes;

bool bytes_append(bytes *b, const void *data, size_t size); /* false: out of memory, b unchanged */
bool bytes_puts(bytes *b, const char *text);
bool bytes_printf(bytes *b, const char *format, ...) LLAVA_PRINTF(2, 3);
bool bytes_reserve(bytes *b, size_t extra);
void bytes_free(bytes *b);

/* ---------------------------------------------------------------- files */

/** A whole file mapped read-only. Zero-initialise; closing twice is harmless. */
typedef struct file_map {
    const uint8_t *data;
    size_t size;
} file_map;

llava_status file_map_open(const char *path, file_map *map, llava_error *err);
void file_map_close(file_map *map);
/** Lets go of the resident pages that lie wholly inside [data, data + size); reading them again
 *  brings them back. Nothing happens when the range is not part of the map. */
void file_map_forget(const file_map *map, const void *data, size_t size);

/** Reads a whole file of at most max_size bytes. */
llava_status file_read(const char *path, size_t max_size, bytes *content, llava_error *err);

bool path_is_file(const char *path);
bool path_is_directory(const char *path);
/** "directory/name"; an absolute name stands alone. From the arena; NULL on exhaustion. */
char *path_join(arena *a, const char *directory, const char *name);
/** The last component, trailing slashes left out. */
const char *path_base(arena *a, const char *path);
/** True if name stays inside its directory: relative, no "..", no backslash, not empty. */
bool path_is_plain_relative(const char *name);

/* ---------------------------------------------------------------- time */

double now_ms(void); /* monotonic */

/* ---------------------------------------------------------------- half precision */

static inline float f32_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static inline uint32_t f32_to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
static inline float bf16_to_f32(uint16_t half) { return f32_from_bits((uint32_t)half << 16); }

/** Round to nearest even; NaN stays NaN. */
static inline uint16_t f32_to_bf16(float value) {
    const uint32_t bits = f32_to_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
float f16_to_f32(uint16_t half);
uint16_t f32_to_f16(float value); /* round to nearest even, overflow to infinity */

/* ---------------------------------------------------------------- Unicode */

/** Decodes one character at text[0..size). Returns its length in bytes, 0 when text is empty;
 *  an invalid byte gives code -1 and length 1. No overlong forms, no surrogates. */
size_t utf8_decode(const char *text, size_t size, int32_t *code);
/** Writes 1 to 4 bytes. */
size_t utf8_encode(int32_t code, char out[4]);

/* ---------------------------------------------------------------- threads */

/** Runs fn(user, i) for i in [0, count) on up to n_threads threads; returns when all are done.
 *  Which thread runs which index is not specified: results must not depend on it. */
typedef void (*parallel_fn)(void *user, int64_t index);
void parallel_for(int n_threads, int64_t count, parallel_fn fn, void *user);

/** Something done beside the caller. Zero-initialise; it stays where it is while it runs. */
typedef struct background {
    pthread_t thread;
    bool is_running;
    void (*fn)(void *user);
    void *user;
} background;

/** Calls fn(user) on a thread of its own, or at once where the system gives none. */
void background_begin(background *work, void (*fn)(void *user), void *user);
/** Waits for it. Harmless when nothing was begun. */
void background_end(background *work);

/** Index of the calling thread inside parallel_for, 0 <= index < n_threads. */
int parallel_index(void);
int processor_count(void);

#endif
