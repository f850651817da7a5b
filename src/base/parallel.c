/* SPDX-License-Identifier: Apache-2.0
 *
 * Parallel loops. One team of workers serves the whole process. A loop belongs to the thread that
 * calls it; workers that are awake and free help, and the caller never waits for one that has not
 * begun: where other programs hold the processors, a loop is done by those who do run. (A barrier
 * over all threads would make it wait for the one that was set aside, milliseconds for a loop of
 * microseconds.)
 *
 * Workers spin for a moment after a loop, because the next one follows within microseconds during
 * a forward pass, and then sleep.
 */
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base.h"

#define MAX_WORKERS 1023
#define MAX_LOOPS   16 /* at a time; more run on their caller alone */
#define SPIN_MS     0.2
#define SPIN_ROUNDS 64u /* pauses between looks at the clock */
#define GATE_OPEN   0x80000000u
#define GATE_WAITED 0x40000000u /* the caller sleeps until the last worker leaves */

/** A running loop. What is not atomic is written while the gate is shut and nobody is inside. */
typedef struct loop {
    _Alignas(64) _Atomic uint32_t gate; /* GATE_* and how many workers are inside */
    atomic_bool taken;
    atomic_int n_threads;
    parallel_fn fn;
    void *user;
    int64_t count;
    _Alignas(64) _Atomic int64_t left; /* iterations nobody has begun */
} loop;

static struct {
    loop loops[MAX_LOOPS];
    _Alignas(64) _Atomic uint32_t epoch; /* grows with every loop; sleepers watch it */
    _Atomic uint32_t n_sleeping;
    atomic_int n_callers, n_helping; /* threads inside loops */
    atomic_bool stopping;
    atomic_int n_workers;
    pthread_mutex_t lock; /* for making workers */
    pthread_t workers[MAX_WORKERS];
} team = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Thread_local int thread_index; /* 0: no worker */
static _Thread_local bool is_inside;   /* loops inside loops run on their thread alone */

static inline void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex_wait(_Atomic uint32_t *word, uint32_t value) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

/** Waits a moment for the word to differ from value; false when it did not. */
static bool spin_while(_Atomic uint32_t *word, uint32_t value) {
    const double end = now_ms() + SPIN_MS;
    do {
        for (unsigned i = 0; i < SPIN_ROUNDS; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != value) return true;
            pause_briefly();
        }
    } while (now_ms() < end);
    return false;
}

static void run_iterations(loop *l) {
    int64_t left;
    while ((left = atomic_fetch_sub(&l->left, 1)) > 0) l->fn(l->user, l->count - left);
}

/* ---------------------------------------------------------------- workers */

/** The loop with work left that has fewest helpers, for workers that it has room for. */
static loop *find_loop(uint32_t *gate) {
    loop *best = NULL;
    for (int i = 0; i < MAX_LOOPS; i++) {
        loop *l = &team.loops[i];
        const uint32_t now = atomic_load(&l->gate);
        if (!(now & GATE_OPEN) || atomic_load(&l->left) <= 0) continue;
        if (thread_index >= atomic_load(&l->n_threads)) continue;
        if (best && now >= *gate) continue;
        best = l;
        *gate = now;
    }
    return best;
}

/** Several callers at a time share the threads that one would have. */
static bool may_help(const loop *l) {
    const int busy = atomic_load(&team.n_callers) + atomic_fetch_add(&team.n_helping, 1);
    if (busy < atomic_load(&l->n_threads)) return true;
    atomic_fetch_sub(&team.n_helping, 1);
    return false;
}

static bool help_somebody(void) {
    uint32_t gate = 0;
    loop *l = find_loop(&gate);
    if (!l || !may_help(l)) return false;
    const bool entered = atomic_compare_exchange_strong(&l->gate, &gate, gate + 1);
    if (entered) {
        /* the loop may be another than a moment ago */
        if (thread_index < atomic_load(&l->n_threads)) run_iterations(l);
        atomic_fetch_sub(&team.n_helping, 1);
        if (atomic_fetch_sub(&l->gate, 1) - 1 == GATE_WAITED) futex_wake(&l->gate, 1);
    } else {
        atomic_fetch_sub(&team.n_helping, 1);
    }
    return true;
}

static void *work(void *argument) {
    thread_index = (int)(intptr_t)argument;
    is_inside = true;
    while (!atomic_load(&team.stopping)) {
        const uint32_t epoch = atomic_load(&team.epoch);
        if (help_somebody() || spin_while(&team.epoch, epoch)) continue;
        atomic_fetch_add(&team.n_sleeping, 1);
        futex_wait(&team.epoch, epoch);
        atomic_fetch_sub(&team.n_sleeping, 1);
    }
    return NULL;
}

static void announce(int n_wanted) {
    atomic_fetch_add(&team.epoch, 1);
    if (atomic_load(&team.n_sleeping) > 0) futex_wake(&team.epoch, n_wanted);
}

/** In the child of a fork there are no workers; it makes its own. */
static void forget_workers(void) {
    for (int i = 0; i < MAX_LOOPS; i++) {
        atomic_store(&team.loops[i].gate, 0);
        atomic_store(&team.loops[i].taken, false);
    }
    atomic_store(&team.n_workers, 0);
    atomic_store(&team.n_sleeping, 0);
    atomic_store(&team.n_callers, 0);
    atomic_store(&team.n_helping, 0);
    pthread_mutex_init(&team.lock, NULL);
}

/** When the process ends or the library is unloaded. */
__attribute__((destructor)) static void stop_workers(void) {
    atomic_store(&team.stopping, true);
    announce(INT_MAX);
    const int n = atomic_exchange(&team.n_workers, 0);
    for (int i = 0; i < n; i++) pthread_join(team.workers[i], NULL);
}

/** Up to n workers; fewer when the system gives no more threads. Signals are not theirs. */
static void make_workers(int n) {
    static bool is_watching;
    sigset_t all, before;
    pthread_mutex_lock(&team.lock);
    if (!is_watching) is_watching = pthread_atfork(NULL, NULL, forget_workers) == 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int made = atomic_load(&team.n_workers); made < n; made++) {
        if (pthread_create(&team.workers[made], NULL, work, (void *)(intptr_t)(made + 1))) break;
        atomic_store(&team.n_workers, made + 1);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_mutex_unlock(&team.lock);
}

/* ---------------------------------------------------------------- callers */

static loop *take_loop(void) {
    for (int i = 0; i < MAX_LOOPS; i++) {
        bool taken = false;
        if (atomic_compare_exchange_strong(&team.loops[i].taken, &taken, true))
            return &team.loops[i];
    }
    return NULL;
}

static void run_shared(loop *l, int n_threads, int64_t count, parallel_fn fn, void *user) {
    l->fn = fn;
    l->user = user;
    l->count = count;
    atomic_store(&l->n_threads, n_threads);
    atomic_store(&l->left, count);
    atomic_store(&l->gate, GATE_OPEN);
    announce(n_threads - 1);
    run_iterations(l);
    uint32_t gate = atomic_fetch_and(&l->gate, ~GATE_OPEN) & ~GATE_OPEN;
    for (bool waited = false; gate & ~GATE_WAITED; gate = atomic_load(&l->gate)) {
        if (!waited && spin_while(&l->gate, gate)) continue;
        if (!waited) gate = atomic_fetch_or(&l->gate, GATE_WAITED) | GATE_WAITED;
        waited = true;
        if (gate != GATE_WAITED) futex_wait(&l->gate, gate);
    }
    atomic_store(&l->gate, 0);
    atomic_store(&l->taken, false);
}

static void run_alone(int64_t count, parallel_fn fn, void *user) {
    for (int64_t i = 0; i < count; i++) fn(user, i);
}

void parallel_for(int n_threads, int64_t count, parallel_fn fn, void *user) {
    const int wanted = (int)i64_min(i64_min(n_threads, count), MAX_WORKERS + 1);
    loop *l = wanted > 1 && !is_inside ? take_loop() : NULL;
    if (!l) {
        run_alone(count, fn, user);
        return;
    }
    if (atomic_load(&team.n_workers) < wanted - 1) make_workers(wanted - 1);
    atomic_fetch_add(&team.n_callers, 1);
    is_inside = true;
    run_shared(l, wanted, count, fn, user);
    is_inside = false;
    atomic_fetch_sub(&team.n_callers, 1);
}

int parallel_index(void) { return thread_index; }

int processor_count(void) {
    cpu_set_t set;
    const int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0;
    return n > 0 ? n : (int)i64_max(1, sysconf(_SC_NPROCESSORS_ONLN));
}
