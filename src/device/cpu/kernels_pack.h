/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows into panels, a square of LANES x LANES at a time. Included behind store_transposed() of a
 * level with few lanes, so that few rows are read at a time.
 */
#ifndef LLAVA_KERNELS_PACK_H
#define LLAVA_KERNELS_PACK_H

/** size: bytes of an element. */
#define PACK(name, size, load)                                                                     \
    static void NAME(name)(const pack_args *args) {                                                \
        for (int64_t j = 0; j < args->ld; j += LANES)                                              \
            for (int64_t k = 0; k < args->k; k += LANES) {                                         \
                const int64_t n_k = args->k - k;                                                   \
                const uint8_t *src =                                                               \
                    (const uint8_t *)args->src + j * args->row_bytes + k * (size);                 \
                vec r[LANES];                                                                      \
                UNROLL for (int i = 0; i < LANES; i++) {                                           \
                    r[i] = v_set(0);                                                               \
                    const uint8_t *row = src + i * args->row_bytes;                                \
                    if (j + i < args->n) r[i] = n_k >= LANES ? load(row) : load##_n(row, n_k);     \
                }                                                                                  \
                store_transposed((float *)args->dst + k * args->ld + j, args->ld, r, n_k);         \
            }                                                                                      \
    }
PACK(pack_f32, 4, load_f32)
PACK(pack_f16, 2, v_load_f16)
PACK(pack_bf16, 2, v_load_bf16)

#endif
