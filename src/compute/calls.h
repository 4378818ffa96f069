/* Inside compute, for backends: telling calls of operations apart, where a sequence of them is kept and played again.
 */
#ifndef PUYU_CALLS_H
#define PUYU_CALLS_H

#include "puyu/compute.h"

/* A number for `before` followed by this: of a call of an operation, its number and where its tensors lie, how large
 * and of which type they are. No operation but those that a forward pass without a tape consists of can be played
 * again. */
bool pu_call_playable(pu_op op);
int pu_call_tensors(pu_op op); /* with so many pointers to tensors its arguments begin; 0 where it is not playable */
uint64_t pu_call_hash(uint64_t before, pu_op op, const void *args);
uint64_t pu_call_hash_bytes(uint64_t before, const void *place, size_t bytes); /* of a copy, a clearing */

#endif
