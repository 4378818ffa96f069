/* Inside compute: what the operations' wrappers, the tape and the tensors share. */
#ifndef PUYU_CONTEXT_H
#define PUYU_CONTEXT_H

#include "puyu/compute.h"

/* Keeps the first failure in the context. Returns NULL, so that a wrapper can return it. */
void *pu_ctx_fail(pu_ctx *c, pu_err code, const char *fmt, ...) PU_PRINTF(3, 4);
/* Keeps the first failure of a call that told it in c->err already. True when there was none. */
bool pu_ctx_ok(pu_ctx *c, pu_err err);

enum { PU_RECORD_MAX = 4 };

/* One operation that ran: what backward needs to run it in reverse. out[0] is the output without whose gradient
 * backward makes no sense; the others may go without. */
typedef struct pu_record {
  struct pu_record *before, *after; /* in the order in which they ran */
  pu_op op;
  void *args;
  void *again;   /* what it is run with once more before backward, to have its outputs again; NULL: they were kept */
  bool *in_back; /* of its args, or NULL: backward can make the output again, in the place of its gradient */
  int n_in, n_out;
  pu_tensor *in[PU_RECORD_MAX], *out[PU_RECORD_MAX];
} pu_record;

/* Operations are being recorded: there is a tape, and it is not in the first run of a segment that is run again. */
bool pu_tape_recording(const pu_ctx *c);
/* Adds a copy of r, and of its args (and of what it is run with again) of the given size, to the open segment. */
void pu_tape_add(pu_ctx *c, const pu_record *r, size_t args_size);

/* Is what is cheap made again in this segment (PU_RECOMPUTE_SOME)? Is swiglu's output (GATES, SOME)? */
bool pu_tape_saving(const pu_ctx *c);
bool pu_tape_gates(const pu_ctx *c);
/* Do outputs pass (pu_passing), where that saves memory? */
bool pu_tape_passes(const pu_ctx *c);
/* Will t's values be there again in this segment's backward, because a record runs again? */
bool pu_tape_again(const pu_ctx *c, const pu_tensor *t);
/* Are t's values gone in this segment's backward? */
bool pu_tape_gone(const pu_ctx *c, const pu_tensor *t);
/* Memory at c->mem's end until it is reset, beside late gradients. */
void *pu_tape_last(pu_ctx *c, size_t bytes);
/* Is h of a norm put where its res is (a segment without a tape)? */
bool pu_tape_over(const pu_ctx *c);
/* Where such a segment's x is to lie (pu_leaving), as a tensor of that type and shape; NULL: anywhere. */
pu_tensor *pu_tape_leaves(const pu_ctx *c, pu_dtype dtype, int64_t rows, int64_t cols);
/* As pu_tensor_new, for the output of an operation that runs `again`. */
pu_tensor *pu_tensor_again(pu_ctx *c, pu_dtype dtype, int ndim, const int64_t *shape, bool wants_grad, bool again);

#endif
