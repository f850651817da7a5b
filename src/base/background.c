/* SPDX-License-Identifier: Apache-2.0 */
#include <signal.h>

#include "base.h"

static void *run(void *argument) {
    background *work = argument;
    work->fn(work->user);
    return NULL;
}

void background_begin(background *work, void (*fn)(void *user), void *user) {
    sigset_t all, before;
    work->fn = fn;
    work->user = user;
    sigfillset(&all); /* signals are the program's own threads' business */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    work->is_running = pthread_create(&work->thread, NULL, run, work) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!work->is_running) fn(user);
}

void background_end(background *work) {
    if (work->is_running) pthread_join(work->thread, NULL);
    work->is_running = false;
}
