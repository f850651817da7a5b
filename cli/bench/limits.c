/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "limits.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#include <sys/auxv.h>
#endif

#define MAX_THREADS 256

bool limits_use_cpu_time;

static uint8_t *buffer;
static size_t buffer_bytes, cold_at;

typedef struct sample {
    limit_kind kind;
    int64_t n;
    size_t part;
    double done[MAX_THREADS];
} sample;

double limits_ms(void) {
    if (!limits_use_cpu_time) return now_ms();
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* 24 sums hide the latency of any unit; the compiler may not move what is volatile */
/* (clang-format would break the list anew each time it runs) */
// clang-format off
#define REPEAT24(X)                                                                                \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)                                  \
    X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23)
// clang-format on
#define REPEAT12(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

#if defined(__x86_64__)
#define DECLARE(i) __m512 s##i = _mm512_setzero_ps();
#define FMA(i)     __asm__ volatile("vfmadd231ps %1, %2, %0" : "+v"(s##i) : "v"(a), "v"(b));
#define BYTES(i)   __asm__ volatile("vpdpbusd %1, %2, %0" : "+v"(s##i) : "v"(a), "v"(b));
#define DOT(i)     __asm__ volatile("vdpbf16ps %1, %2, %0" : "+v"(s##i) : "v"(a), "v"(b));

__attribute__((target("avx512f"))) static double f32_avx512(int64_t n) {
    const __m512 a = _mm512_set1_ps(1), b = _mm512_set1_ps(1e-20f);
    REPEAT24(DECLARE)
    for (int64_t i = 0; i < n; i++) {
        REPEAT24(FMA)
    }
    return (double)n * 24 * 16 * 2;
}

__attribute__((target("avx512f"))) static double bf16_avx512(int64_t n) {
    const __m512 a = _mm512_setzero_ps(), b = a;
    REPEAT24(DECLARE)
    for (int64_t i = 0; i < n; i++) {
        REPEAT24(DOT)
    }
    return (double)n * 24 * 32 * 2;
}

__attribute__((target("avx512f,avx512vnni"))) static double i8_avx512(int64_t n) {
    const __m512 a = _mm512_setzero_ps(), b = a;
    REPEAT24(DECLARE)
    for (int64_t i = 0; i < n; i++) {
        REPEAT24(BYTES)
    }
    return (double)n * 24 * 64 * 2;
}
#undef DECLARE
#define DECLARE(i) __m256 s##i = _mm256_setzero_ps();

__attribute__((target("avx2,fma"))) static double f32_avx2(int64_t n) {
    const __m256 a = _mm256_set1_ps(1), b = _mm256_set1_ps(1e-20f);
    REPEAT12(DECLARE)
    for (int64_t i = 0; i < n; i++) {
        REPEAT12(FMA)
    }
    return (double)n * 12 * 8 * 2;
}
#elif defined(__aarch64__)
#define DECLARE(i) float32x4_t s##i = vdupq_n_f32(0);
#define FMA(i)     __asm__ volatile("fmla %0.4s, %1.4s, %2.4s" : "+w"(s##i) : "w"(a), "w"(b));
/* this file is compiled without the extension, so the assembler has to be told of it */
#define DOT(i)                                                                                     \
    __asm__ volatile(".arch_extension bf16\n\tbfmmla %0.4s, %1.8h, %2.8h"                          \
                     : "+w"(s##i)                                                                  \
                     : "w"(a), "w"(b));

static double f32_neon(int64_t n) {
    const float32x4_t a = vdupq_n_f32(1), b = vdupq_n_f32(1e-20f);
    REPEAT24(DECLARE)
    for (int64_t i = 0; i < n; i++) {
        REPEAT24(FMA)
    }
    return (double)n * 24 * 4 * 2;
}

static double bf16_neon(int64_t n) {
    const float32x4_t a = vdupq_n_f32(0), b = a;
    REPEAT24(DECLARE)
    for (int64_t i = 0; i < n; i++) {
        REPEAT24(DOT)
    }
    return (double)n * 24 * 16 * 2;
}
#endif

/** Without wide vectors: what the compiler makes of independent sums. */
static double f32_plain(int64_t n) {
    float s[16] = {0};
    for (int64_t i = 0; i < n; i++) {
        for (int j = 0; j < 16; j++) s[j] = s[j] * 0.5f + 1.0f;
        __asm__ volatile("" : : "r"(s) : "memory");
    }
    return (double)n * 16 * 2;
}

static double arithmetic(limit_kind kind, int64_t n) {
#if defined(__x86_64__)
    if (kind == LIMIT_BF16 && __builtin_cpu_supports("avx512bf16")) return bf16_avx512(n);
    if (kind == LIMIT_I8 && __builtin_cpu_supports("avx512vnni")) return i8_avx512(n);
    if (__builtin_cpu_supports("avx512f")) return f32_avx512(n);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return f32_avx2(n);
#elif defined(__aarch64__)
    return kind == LIMIT_BF16 && (getauxval(AT_HWCAP2) & HWCAP2_BF16) ? bf16_neon(n) : f32_neon(n);
#endif
    (void)kind;
    return f32_plain(n);
}

/** Four streams a thread, as products read several rows side by side. */
static double read_part(size_t first, size_t n_bytes) {
    const size_t quarter = n_bytes / 4 / 64 * 64;
    const uint64_t *p[4];
    for (size_t s = 0; s < 4; s++) p[s] = (const uint64_t *)(buffer + first + s * quarter);
    uint64_t sum = 0;
    for (size_t i = 0; i < quarter / 8; i += 8)
        for (size_t s = 0; s < 4; s++) {
            sum ^= p[s][i] ^ p[s][i + 1] ^ p[s][i + 2] ^ p[s][i + 3];
            sum ^= p[s][i + 4] ^ p[s][i + 5] ^ p[s][i + 6] ^ p[s][i + 7];
            __builtin_prefetch(p[s] + i + 256);
        }
    __asm__ volatile("" : : "r"(sum));
    return (double)(4 * quarter);
}

static void run_sample(void *user, int64_t index) {
    sample *s = user;
    s->done[index] = s->kind == LIMIT_READ ? read_part((size_t)index * s->part, s->part)
                                           : arithmetic(s->kind, s->n);
}

static double rate_once(limit_kind kind, int n_threads, int64_t n) {
    sample s = {.kind = kind, .n = n, .part = LIMITS_READ_BYTES / (size_t)n_threads};
    const double start = limits_ms();
    parallel_for(n_threads, n_threads, run_sample, &s);
    const double seconds = (limits_ms() - start) * 1e-3;
    double total = 0;
    for (int i = 0; i < n_threads; i++) total += s.done[i];
    return total / seconds;
}

double limit_sample(limit_kind kind, int n_threads) {
    n_threads = (int)i64_min(n_threads, MAX_THREADS);
    double best = 0;
    for (int i = 0; i < 3; i++) {
        const double rate = rate_once(kind, n_threads, 300000);
        best = rate > best ? rate : best;
    }
    return best;
}

const char *limit_name(limit_kind kind) {
    static const char *const names[] = {"float32 peak", "bfloat16 peak", "read bandwidth",
                                        "int8 peak"};
    return names[kind];
}

const void *limits_cold(size_t n_bytes) {
    if (n_bytes > buffer_bytes) return NULL;
    if (cold_at + n_bytes > buffer_bytes) cold_at = 0;
    const void *at = buffer + cold_at;
    cold_at += (n_bytes + 63) / 64 * 64;
    return at;
}

void limits_cold_again(void) { cold_at = 0; }

bool limits_start(size_t n_bytes) {
    buffer_bytes = n_bytes;
    buffer = mmap(NULL, buffer_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED) {
        buffer = NULL;
        return false;
    }
    madvise(buffer, buffer_bytes, MADV_HUGEPAGE);
    /* halves around 1 in float16 and bfloat16, and sane floats */
    uint32_t *words = (uint32_t *)buffer, state = 1;
    for (size_t i = 0; i < buffer_bytes / 4; i++) {
        state = state * 1664525u + 1013904223u;
        words[i] = 0x3c003c00u | (state & 0x807f807fu);
    }
    return true;
}

void limits_end(void) {
    if (buffer) munmap(buffer, buffer_bytes);
    buffer = NULL;
}
