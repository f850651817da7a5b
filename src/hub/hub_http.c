/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests to the Hub, on libcurl. No environment is consulted: proxy and token are options.
 */
#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "hub_internal.h"

#define USER_AGENT    "llava.c/0.1"
#define HEADER_MAX    ((size_t)8192)
#define REDIRECTS_MAX 5

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;
static void curl_start(void) { curl_global_init(CURL_GLOBAL_DEFAULT); }

/* ---------------------------------------------------------------- URLs */

/** "scheme://host[:port]" of a URL, as a length. */
static size_t origin_size(const char *url) {
    const char *host = strstr(url, "://");
    if (!host) return 0;
    host += 3;
    return (size_t)(host - url) + strcspn(host, "/?#");
}

const char *hub_resolve_url(arena *memory, const char *base, const char *location,
                            bool *same_host) {
    const size_t origin = origin_size(base);
    *same_host = true;
    if (strstr(location, "://")) {
        *same_host = origin_size(location) == origin && strncasecmp(location, base, origin) == 0;
        return location;
    }
    if (location[0] == '/') return arena_printf(memory, "%.*s%s", (int)origin, base, location);
    const char *slash = strrchr(base + origin, '/');
    const size_t keep = slash ? (size_t)(slash - base) + 1 : strlen(base);
    return arena_printf(memory, "%.*s%s", (int)keep, base, location);
}

/* ---------------------------------------------------------------- set-up */

static CURL *request_new(const hub_options *options, const char *url, bool with_token,
                         struct curl_slist **headers) {
    pthread_once(&curl_once, curl_start);
    CURL *curl = curl_easy_init();
    if (!curl) return NULL;
    const long timeout_ms = (long)((options->timeout_s > 0 ? options->timeout_s : 10) * 1000);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, USER_AGENT);
    curl_easy_setopt(curl, CURLOPT_PROXY, options->proxy ? options->proxy : "");
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, timeout_ms);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (timeout_ms + 999) / 1000);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    *headers = curl_slist_append(NULL, "Accept-Encoding: identity");
    if (with_token && options->token && options->token[0]) {
        char line[HEADER_MAX];
        snprintf(line, sizeof line, "Authorization: Bearer %s", options->token);
        *headers = curl_slist_append(*headers, line);
    }
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, *headers);
    return curl;
}

static llava_status unreachable(const char *url, const char *problem, llava_error *err) {
    const size_t origin = origin_size(url);
    return llava_fail(err, LLAVA_IO, "%.*s cannot be reached: %s", (int)origin, url, problem);
}

/* ---------------------------------------------------------------- HEAD */

typedef struct head_reader {
    arena *memory;
    hub_head *head;
    const char *plain_etag, *linked_etag;
    uint64_t plain_size, linked_size;
    bool has_plain_size, has_linked_size;
} head_reader;

/** Value of "Name: value" when the line has this name. */
static const char *header_value(const head_reader *r, const char *line, size_t size,
                                const char *name) {
    const size_t n = strlen(name);
    if (size <= n || strncasecmp(line, name, n) != 0 || line[n] != ':') return NULL;
    const char *start = line + n + 1, *end = line + size;
    while (start < end && (*start == ' ' || *start == '\t')) start++;
    while (end > start && strchr(" \t\r\n", end[-1])) end--;
    return arena_strndup(r->memory, start, (size_t)(end - start));
}

static bool parse_size(const char *text, uint64_t *size) {
    char *end;
    errno = 0;
    *size = strtoull(text, &end, 10);
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0;
}

static size_t on_header(char *line, size_t unit, size_t count, void *user) {
    head_reader *r = user;
    const size_t size = unit * count;
    const char *value;
    if (size > HEADER_MAX) return size;
    if (size >= 5 &&
        strncmp(line, "HTTP/", 5) == 0) { /* a new answer, for example behind 100 Continue */
        arena *memory = r->memory;
        hub_head *head = r->head;
        *head = (hub_head){0};
        *r = (head_reader){.memory = memory, .head = head};
    } else if ((value = header_value(r, line, size, "X-Repo-Commit")))
        r->head->commit = value;
    else if ((value = header_value(r, line, size, "X-Linked-Etag")))
        r->linked_etag = value;
    else if ((value = header_value(r, line, size, "ETag")))
        r->plain_etag = value;
    else if ((value = header_value(r, line, size, "Location")))
        r->head->location = value;
    else if ((value = header_value(r, line, size, "X-Error-Code")))
        r->head->error_code = value;
    else if ((value = header_value(r, line, size, "X-Linked-Size")))
        r->has_linked_size = parse_size(value, &r->linked_size);
    else if ((value = header_value(r, line, size, "Content-Length")))
        r->has_plain_size = parse_size(value, &r->plain_size);
    return size;
}

/** W/"abc" -> abc. */
static const char *bare_etag(arena *memory, const char *etag) {
    if (!etag) return NULL;
    if (strncmp(etag, "W/", 2) == 0) etag += 2;
    const size_t size = strlen(etag);
    if (size >= 2 && etag[0] == '"' && etag[size - 1] == '"')
        return arena_strndup(memory, etag + 1, size - 2);
    return etag;
}

static size_t ignore_body(char *data, size_t unit, size_t count, void *user) {
    (void)data;
    (void)user;
    return unit * count;
}

static llava_status head_once(const hub_options *options, const char *url, arena *memory,
                              hub_head *head, llava_error *err) {
    struct curl_slist *headers;
    CURL *curl = request_new(options, url, true, &headers);
    if (!curl) return llava_fail_memory(err, 0, "a request");
    head_reader reader = {.memory = memory, .head = head};
    curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, &reader);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, ignore_body);
    const CURLcode code = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &head->status);
    curl_easy_cleanup(curl);
    curl_slist_free_all(headers);
    if (code != CURLE_OK) return unreachable(url, curl_easy_strerror(code), err);
    head->etag = bare_etag(memory, reader.linked_etag ? reader.linked_etag : reader.plain_etag);
    const bool redirect = head->status >= 300 && head->status < 400;
    head->has_size = reader.has_linked_size || (reader.has_plain_size && !redirect);
    head->size = reader.has_linked_size ? reader.linked_size : reader.plain_size;
    return LLAVA_OK;
}

llava_status hub_http_head(const hub_options *options, const char *url, arena *memory,
                           hub_head *head, llava_error *err) {
    for (int i = 0; i <= REDIRECTS_MAX; i++) {
        *head = (hub_head){0};
        LLAVA_TRY(head_once(options, url, memory, head, err));
        const bool redirect = head->status >= 300 && head->status < 400 && head->location;
        bool same_host = true;
        const char *target =
            redirect ? hub_resolve_url(memory, url, head->location, &same_host) : NULL;
        /* A renamed repository answers with a relative Location; a file's content may lie on
         * another host, which this answer already describes. */
        if (!redirect || !target || strstr(head->location, "://")) {
            head->location = target ? target : url;
            return LLAVA_OK;
        }
        url = target;
    }
    return llava_fail(err, LLAVA_IO, "%s: redirected more than %d times", url, REDIRECTS_MAX);
}

/* ---------------------------------------------------------------- GET */

typedef struct get_writer {
    const hub_options *options;
    const hub_get *get;
    CURL *curl;
    FILE *file;
    uint64_t done;
    bool started, stopped, failed;
} get_writer;

static bool report(get_writer *w) {
    if (!w->options->progress) return true;
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&mutex);
    const bool go =
        w->options->progress(w->options->progress_user, w->get->file, w->done, w->get->total);
    pthread_mutex_unlock(&mutex);
    return go;
}

/** The first bytes show whether the range was honoured (206) or ignored (200). */
static bool start_file(get_writer *w) {
    long status = 0;
    curl_easy_getinfo(w->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status != 200 && status != 206) return false;
    const bool resumed = status == 206 && w->get->from > 0;
    w->done = resumed ? w->get->from : 0;
    w->file = fopen(w->get->path, resumed ? "ab" : "wb");
    w->failed = !w->file;
    w->started = true;
    return w->file != NULL;
}

static size_t on_body(char *data, size_t unit, size_t count, void *user) {
    get_writer *w = user;
    const size_t size = unit * count;
    if (!w->started && !start_file(w)) return w->failed ? 0 : size; /* an error page is dropped */
    if (!w->file) return size;
    if (w->get->total && w->done + size > w->get->total)
        w->failed = true;
    else
        w->failed = fwrite(data, 1, size, w->file) != size;
    if (w->failed) return 0;
    w->done += size;
    w->stopped = !report(w);
    return w->stopped ? 0 : size;
}

static llava_status get_status(const get_writer *w, CURLcode code, long status, bool *retry,
                               llava_error *err) {
    const char *file = w->get->file;
    *retry = false;
    if (w->stopped) return llava_fail(err, LLAVA_CANCELLED, "download of %s cancelled", file);
    if (w->failed)
        return llava_fail(err, LLAVA_IO, "%s: cannot be written, or more was sent than announced",
                          w->get->path);
    *retry = code != CURLE_OK || status == 429 || status >= 500;
    if (code != CURLE_OK) return unreachable(w->get->url, curl_easy_strerror(code), err);
    if (status != 200 && status != 206 && !(status == 416 && w->get->from == w->get->total))
        return llava_fail(err, LLAVA_IO, "download of %s: the server answered %ld", file, status);
    if (w->get->total && w->done != w->get->total) {
        *retry = true;
        return llava_fail(err, LLAVA_IO, "download of %s: expected %llu bytes, got %llu", file,
                          (unsigned long long)w->get->total, (unsigned long long)w->done);
    }
    return LLAVA_OK;
}

llava_status hub_http_get(const hub_options *options, const hub_get *get, bool *retry,
                          llava_error *err) {
    struct curl_slist *headers;
    CURL *curl = request_new(options, get->url, get->with_token, &headers);
    *retry = false;
    if (!curl) return llava_fail_memory(err, 0, "a request");
    get_writer writer = {.options = options, .get = get, .curl = curl, .done = get->from};
    char range[64];
    if (get->from) {
        snprintf(range, sizeof range, "%llu-", (unsigned long long)get->from);
        curl_easy_setopt(curl, CURLOPT_RANGE, range);
    }
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(curl, CURLOPT_MAXREDIRS, (long)REDIRECTS_MAX);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &writer);
    const CURLcode code = curl_easy_perform(curl);
    long status = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    if (!writer.started && code == CURLE_OK && status == 200) start_file(&writer); /* empty file */
    if (writer.file && fclose(writer.file) != 0) writer.failed = true;
    curl_easy_cleanup(curl);
    curl_slist_free_all(headers);
    return get_status(&writer, code, status, retry, err);
}
