/* SPDX-License-Identifier: Apache-2.0
 *
 * What this machine can do at all, sampled in the moment: arithmetic from registers, reading from
 * memory. Rates are per second, all threads together.
 */
#ifndef BENCH_LIMITS_H
#define BENCH_LIMITS_H

#include "base/base.h"

typedef enum limit_kind {
    LIMIT_F32,  /* float32 multiply-adds of the widest vectors, 2 operations each */
    LIMIT_BF16, /* vdpbf16ps, bfmmla: 2 operations a product; F32 where neither exists */
    LIMIT_READ, /* bytes */
    LIMIT_I8    /* vpdpbusd, 2 operations a product; F32 where it does not exist */
} limit_kind;

/** Milliseconds: of the clock, or of processor time of this process when others use the machine
 *  too (then only one thread makes sense). */
extern bool limits_use_cpu_time;
double limits_ms(void);

#define LIMITS_READ_BYTES ((size_t)256 << 20) /* what a sample of LIMIT_READ reads */

/** Prepares a buffer of at least LIMITS_READ_BYTES, larger than the caches; false when there is no
 *  memory. */
bool limits_start(size_t n_bytes);
void limits_end(void);
double limit_sample(limit_kind kind, int n_threads);
const char *limit_name(limit_kind kind);
/** A part of the buffer, as weights that are in no cache: n_bytes from a place that moves on. */
const void *limits_cold(size_t n_bytes);
/** The next part is the buffer's first one again. */
void limits_cold_again(void);

#endif
