/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening the CPU device: choosing a level, its kernel table, scratch memory.
 */
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#ifdef LLAVA_HAVE_AVX2
#include <cpuid.h>
#endif
#ifdef LLAVA_HAVE_NEONBF16
#include <sys/auxv.h>
#endif

#include "device/cpu/cpu.h"

/** Untouched pages cost nothing; a tower's widest rows (729 x 4304 bfloat16) fit. */
#define INITIAL_ROWS_BYTES ((size_t)16 << 20)

typedef struct cpu_state {
    kernels table;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t given;
    cpu_scratch *unused;
    int64_t n_made;
    size_t rows_bytes; /* size of rows in a new scratch */
} cpu_state;

/* ---------------------------------------------------------------- levels */

static bool always(void) { return true; }

#ifdef LLAVA_HAVE_AVX2
/** clang 14's __builtin_cpu_supports() does not know f16c. */
static bool has_f16c(void) {
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}

static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}
#endif
#ifdef LLAVA_HAVE_AVX512
static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#endif
#ifdef LLAVA_HAVE_AVX512VNNI
static bool has_avx512vnni(void) { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
#endif
#ifdef LLAVA_HAVE_AVX512BF16
static bool has_avx512bf16(void) {
    return has_avx512vnni() && __builtin_cpu_supports("avx512bf16") &&
           __builtin_cpu_supports("avx512vbmi");
}
#endif
#ifdef LLAVA_HAVE_NEONBF16
static bool has_neonbf16(void) { return getauxval(AT_HWCAP2) & HWCAP2_BF16; }
#endif

typedef struct cpu_level {
    const char *name;
    bool (*available)(void);
    void (*fill)(kernels *table); /* on top of the levels before it */
} cpu_level;

static const cpu_level levels[] = {
    {"c", always, kernels_fill_c},
#ifdef LLAVA_HAVE_AVX2
    {"avx2", has_avx2, kernels_fill_avx2},
#endif
#ifdef LLAVA_HAVE_AVX512
    {"avx512", has_avx512, kernels_fill_avx512},
#endif
#ifdef LLAVA_HAVE_AVX512VNNI
    {"avx512vnni", has_avx512vnni, kernels_fill_avx512vnni},
#endif
#ifdef LLAVA_HAVE_AVX512BF16
    {"avx512bf16", has_avx512bf16, kernels_fill_avx512bf16},
#endif
#ifdef LLAVA_HAVE_NEON
    {"neon", always, kernels_fill_neon},
#endif
#ifdef LLAVA_HAVE_NEONBF16
    {"neonbf16", has_neonbf16, kernels_fill_neonbf16},
#endif
};

static const char *const level_names[LLAVA_COUNT(levels) + 1] = {
    "c",
#ifdef LLAVA_HAVE_AVX2
    "avx2",
#endif
#ifdef LLAVA_HAVE_AVX512
    "avx512",
#endif
#ifdef LLAVA_HAVE_AVX512VNNI
    "avx512vnni",
#endif
#ifdef LLAVA_HAVE_AVX512BF16
    "avx512bf16",
#endif
#ifdef LLAVA_HAVE_NEON
    "neon",
#endif
#ifdef LLAVA_HAVE_NEONBF16
    "neonbf16",
#endif
};

const char *const *device_cpu_levels(void) { return level_names; }

static int find_level(const char *name) {
    for (size_t i = 0; i < LLAVA_COUNT(levels); i++)
        if (strcmp(levels[i].name, name) == 0) return (int)i;
    return -1;
}

bool device_cpu_level_available(const char *level) {
    const int index = find_level(level);
    return index >= 0 && levels[index].available();
}

static int best_level(void) {
    int best = 0;
    for (size_t i = 0; i < LLAVA_COUNT(levels); i++)
        if (levels[i].available()) best = (int)i;
    return best;
}

bool kernels_for_level(const char *level, kernels *table) {
    const int index = find_level(level);
    if (index < 0 || !levels[index].available()) return false;
    for (int i = 0; i <= index; i++) levels[i].fill(table);
    return true;
}

/* ---------------------------------------------------------------- scratch */

static void scratch_free(cpu_scratch *scratch) {
    if (!scratch) return;
    free(scratch->rows);
    free(scratch->threads);
    free(scratch);
}

static float *threads_new(int n_threads, int64_t n_floats) {
    size_t n_bytes;
    if (!size_mul((size_t)n_floats, (size_t)n_threads * sizeof(float), &n_bytes)) return NULL;
    return aligned_new(n_bytes);
}

static cpu_scratch *scratch_new(int n_threads, size_t rows_bytes) {
    cpu_scratch *scratch = array_new(1, sizeof *scratch);
    if (!scratch) return NULL;
    scratch->threads = threads_new(n_threads, CPU_THREAD_FLOATS);
    scratch->thread_floats = CPU_THREAD_FLOATS;
    scratch->rows = aligned_new(rows_bytes);
    scratch->rows_bytes = rows_bytes;
    if (scratch->threads && scratch->rows) return scratch;
    scratch_free(scratch);
    return NULL;
}

cpu_scratch *cpu_scratch_take(device *d) {
    cpu_state *state = d->state;
    pthread_mutex_lock(&state->lock);
    cpu_scratch *scratch = NULL;
    while (!(scratch = state->unused)) {
        scratch = scratch_new(d->n_threads, state->rows_bytes);
        if (scratch) {
            scratch->next = NULL;
            state->unused = scratch;
            state->n_made++;
        } else {
            pthread_cond_wait(&state->given, &state->lock);
        }
    }
    state->unused = scratch->next;
    pthread_mutex_unlock(&state->lock);
    return scratch;
}

void cpu_scratch_give(device *d, cpu_scratch *scratch) {
    cpu_state *state = d->state;
    pthread_mutex_lock(&state->lock);
    scratch->next = state->unused;
    state->unused = scratch;
    pthread_cond_signal(&state->given);
    pthread_mutex_unlock(&state->lock);
}

bool cpu_scratch_rows(cpu_scratch *scratch, size_t n_bytes) {
    if (n_bytes <= scratch->rows_bytes) return true;
    void *rows = aligned_new(n_bytes);
    if (!rows) return false;
    free(scratch->rows);
    scratch->rows = rows;
    scratch->rows_bytes = n_bytes;
    return true;
}

bool cpu_scratch_grow_threads(const device *d, cpu_scratch *scratch, int64_t n_floats) {
    if (n_floats <= scratch->thread_floats) return true;
    n_floats = round_up(n_floats, KERNEL_PAD); /* every thread's part starts on a cache line */
    float *threads = threads_new(d->n_threads, n_floats);
    if (!threads) return false;
    free(scratch->threads);
    scratch->threads = threads;
    scratch->thread_floats = n_floats;
    return true;
}

float *cpu_scratch_thread(const device *d, const cpu_scratch *scratch) {
    /* a loop that ran on one thread inside somebody else's team may see a larger index */
    const int index = d->n_threads > 1 ? parallel_index() % d->n_threads : 0;
    return scratch->threads + index * scratch->thread_floats;
}

llava_status device_reserve(device *d, int64_t max_columns, int64_t max_rows, llava_error *err) {
    cpu_state *state = d->state;
    size_t n_bytes;
    if (max_columns < 0 || max_rows < 0 ||
        !size_mul((size_t)max_columns + KERNEL_PAD, (size_t)max_rows * sizeof(float), &n_bytes))
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "cannot reserve scratch for %lld x %lld",
                          (long long)max_rows, (long long)max_columns);
    llava_status status = LLAVA_OK;
    pthread_mutex_lock(&state->lock);
    if (n_bytes > state->rows_bytes) state->rows_bytes = n_bytes;
    for (cpu_scratch *s = state->unused; s && status == LLAVA_OK; s = s->next)
        if (!cpu_scratch_rows(s, n_bytes))
            status = llava_fail_memory(err, n_bytes, "scratch of the CPU device");
    pthread_mutex_unlock(&state->lock);
    return status;
}

/** About ten microseconds of one thread; a second one costs that much to call. */
#define WORTH_THREADS 250e3

int cpu_threads_for(const device *d, double n_operations) {
    return n_operations < WORTH_THREADS ? 1 : d->n_threads;
}

/* ---------------------------------------------------------------- memory */

#define HUGE_PAGE  ((size_t)2 << 20)
#define HUGE_WORTH ((size_t)32 << 20) /* smaller pieces are often used in part only */

/** Large pieces start at a huge page and ask for huge ones: fewer faults while they fill up, fewer
 *  look-ups while they are read. Whether the system has any is its affair. */
static void *cpu_alloc(device *d, size_t n_bytes) {
    (void)d;
    if (n_bytes < HUGE_WORTH || n_bytes > SIZE_MAX - HUGE_PAGE) return aligned_new(n_bytes);
    const size_t rounded = (n_bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    void *memory = aligned_alloc(HUGE_PAGE, rounded);
    if (memory) madvise(memory, rounded, MADV_HUGEPAGE);
    return memory;
}

static void cpu_release(device *d, void *memory) {
    (void)d;
    free(memory);
}

static void cpu_upload(device *d, void *dst, const void *host, size_t n_bytes) {
    (void)d;
    if (n_bytes) memcpy(dst, host, n_bytes);
}

static void cpu_download(device *d, void *host, const void *src, size_t n_bytes) {
    (void)d;
    if (n_bytes) memcpy(host, src, n_bytes);
}

/* ---------------------------------------------------------------- opening */

static const device_ops cpu_ops = {
    .name = "cpu",
    .alloc = cpu_alloc,
    .release = cpu_release,
    .upload = cpu_upload,
    .download = cpu_download,
    .embed = cpu_embed,
    .linear = cpu_linear,
    .quantize = cpu_quantize,
    .rmsnorm = cpu_rmsnorm,
    .layernorm = cpu_layernorm,
    .rope = cpu_rope,
    .kv_store = cpu_kv_store,
    .attention = cpu_attention,
    .gated = cpu_gated,
    .activate = cpu_activate,
    .add_scaled = cpu_add_scaled,
    .scale = cpu_scale,
    .gather = cpu_gather,
    .widen = cpu_widen_flat,
    .patchify = cpu_patchify,
    .map = cpu_map,
};

const kernels *cpu_kernels(const device *d) { return &((const cpu_state *)d->state)->table; }

static llava_status choose_level(const char *level, int *index, llava_error *err) {
    if (!level) {
        *index = best_level();
        return LLAVA_OK;
    }
    *index = find_level(level);
    if (*index < 0)
        return llava_fail(err, LLAVA_BAD_ARGUMENT,
                          "unknown CPU level \"%s\": expected one of this build's, from \"%s\" to "
                          "\"%s\"",
                          level, levels[0].name, levels[LLAVA_COUNT(levels) - 1].name);
    if (!levels[*index].available())
        return llava_fail(err, LLAVA_DEVICE,
                          "this processor lacks CPU level \"%s\"; its best is \"%s\"", level,
                          levels[best_level()].name);
    return LLAVA_OK;
}

llava_status device_open_cpu(int n_threads, const char *level, device **out, llava_error *err) {
    *out = NULL;
    int index;
    LLAVA_TRY(choose_level(level, &index, err));
    if (n_threads < 0 || n_threads > DEVICE_MAX_THREADS)
        return llava_fail(err, LLAVA_BAD_ARGUMENT, "%d threads: expected 0 (all) to %d", n_threads,
                          DEVICE_MAX_THREADS);
    device *d = array_new(1, sizeof *d);
    cpu_state *state = array_new(1, sizeof *state);
    if (!d || !state) {
        free(d);
        free(state);
        return llava_fail_memory(err, sizeof *state, "the CPU device");
    }
    pthread_mutex_init(&state->lock, NULL);
    pthread_cond_init(&state->given, NULL);
    state->rows_bytes = INITIAL_ROWS_BYTES;
    *d = (device){.ops = &cpu_ops, .level = levels[index].name, .state = state};
    d->n_threads = n_threads ? n_threads : (int)i64_min(processor_count(), DEVICE_MAX_THREADS);
    for (int i = 0; i <= index; i++) levels[i].fill(&state->table);
    state->unused = scratch_new(d->n_threads, state->rows_bytes);
    state->n_made = state->unused != NULL;
    if (!state->unused) {
        device_close(&d);
        return llava_fail_memory(err, INITIAL_ROWS_BYTES, "scratch of the CPU device");
    }
    *out = d;
    return LLAVA_OK;
}

void device_close(device **d) {
    if (!d || !*d) return;
    cpu_state *state = (*d)->state;
    for (cpu_scratch *s = state->unused, *next; s; s = next) {
        next = s->next;
        scratch_free(s);
    }
    pthread_mutex_destroy(&state->lock);
    pthread_cond_destroy(&state->given);
    free(state);
    free(*d);
    *d = NULL;
}
