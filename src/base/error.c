/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "base.h"

static void fill(llava_error *err, llava_status code, llava_refusal refusal, const char *format,
                 va_list args) LLAVA_PRINTF(4, 0);

static void fill(llava_error *err, llava_status code, llava_refusal refusal, const char *format,
                 va_list args) {
    if (!err) return;
    err->code = code;
    err->refusal = refusal;
    vsnprintf(err->message, sizeof err->message, format, args);
}

void llava_error_set(llava_error *err, llava_status code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fill(err, code, LLAVA_REFUSAL_NONE, format, args);
    va_end(args);
}

void llava_error_refuse(llava_error *err, llava_status code, llava_refusal refusal,
                        const char *format, ...) {
    va_list args;
    va_start(args, format);
    fill(err, code, refusal, format, args);
    va_end(args);
}

llava_status llava_error_classify(llava_error *err, llava_status status) {
    if (status == LLAVA_OK || !err || err->refusal != LLAVA_REFUSAL_NONE) return status;
    if (status == LLAVA_MALFORMED) err->refusal = LLAVA_REFUSAL_INVALID;
    if (status == LLAVA_UNSUPPORTED) err->refusal = LLAVA_REFUSAL_UNSUPPORTED;
    if (status == LLAVA_IO) err->refusal = LLAVA_REFUSAL_MISSING;
    return status;
}

void llava_error_prefix(llava_error *err, llava_status code, const char *format, ...) {
    if (!err) return;
    err->code = code;
    char message[LLAVA_ERROR_SIZE];
    memcpy(message, err->message, sizeof message);
    message[sizeof message - 1] = '\0';
    va_list args;
    va_start(args, format);
    const int used = vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    if (used >= 0 && (size_t)used < sizeof err->message)
        snprintf(err->message + used, sizeof err->message - (size_t)used, "%s", message);
}

const char *llava_status_name(llava_status status) {
    static const char *const names[] = {
        "ok",          "bad argument", "out of memory", "io",        "malformed",
        "unsupported", "device",       "context full",  "cancelled", "internal"};
    return (size_t)status < LLAVA_COUNT(names) ? names[status] : "unknown";
}

const char *llava_refusal_name(llava_refusal refusal) {
    static const char *const names[] = {"none",     "corrupt",   "forbidden",  "inconsistent",
                                        "invalid",  "limit",     "missing",    "outside",
                                        "overflow", "truncated", "unsupported"};
    return (size_t)refusal < LLAVA_COUNT(names) ? names[refusal] : "unknown";
}

#define LLAVA_STRING(x)  LLAVA_STRING_(x)
#define LLAVA_STRING_(x) #x

const char *llava_version(void) {
    return LLAVA_STRING(LLAVA_VERSION_MAJOR) "." LLAVA_STRING(LLAVA_VERSION_MINOR) "." LLAVA_STRING(
        LLAVA_VERSION_PATCH);
}
