/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "base.h"

void llava_error_set(llava_error *err, llava_status code, const char *format, ...) {
    if (!err) return;
    err->code = code;
    va_list args;
    va_start(args, format);
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
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

#define LLAVA_STRING(x)  LLAVA_STRING_(x)
#define LLAVA_STRING_(x) #x

const char *llava_version(void) {
    return LLAVA_STRING(LLAVA_VERSION_MAJOR) "." LLAVA_STRING(LLAVA_VERSION_MINOR) "." LLAVA_STRING(
        LLAVA_VERSION_PATCH);
}
