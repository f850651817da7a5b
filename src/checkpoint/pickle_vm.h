/* SPDX-License-Identifier: Apache-2.0
 *
 * The pickle machine's state, shared by its loop and by the meaning of torch's globals.
 */
#ifndef LLAVA_PICKLE_VM_H
#define LLAVA_PICKLE_VM_H

#include "pickle.h"

/** A state dict of 10,000 tensors makes about 300,000 values. */
#define PICKLE_MAX_VALUES 2000000

typedef struct pickle_machine {
    const pickle_input *in;
    size_t position;
    pickle_value **stack;
    size_t depth, stack_capacity;
    pickle_value **memo; /* NULL: never stored */
    size_t memo_capacity, memo_next;
    int n_values;
    llava_error *err;
} pickle_machine;

llava_status pickle_new(pickle_machine *m, pickle_kind kind, pickle_value **value);
llava_status pickle_fail(pickle_machine *m, const char *problem);

/** What an allowed global makes of its arguments (a sequence). */
llava_status pickle_apply(pickle_machine *m, const pickle_global *global,
                          const pickle_value *arguments, pickle_value **result);
/** ("storage", class, key, location, numel[, view]) -> a storage. */
llava_status pickle_storage_from_id(pickle_machine *m, const pickle_value *id,
                                    pickle_value **result);
llava_status pickle_find_global(pickle_machine *m, const char *module, const char *name,
                                pickle_value **value);

#endif
