/* Products of weights in few bits with some tokens: see packed_batch.cu. */
#ifndef PUYU_CUDA_PACKED_BATCH_H
#define PUYU_CUDA_PACKED_BATCH_H

#include "src/compute/cuda/packed.h"

/* PACKED_BATCH_FROM to PACKED_BATCH tokens of bf16, of one matrix, where packed_many_can. x has K' inputs. A token's
 * result depends on M, K, the packing and the device alone, but differs from packed_few's. room: packed_batch_bytes of
 * work memory. */
enum { PACKED_BATCH_FROM = 5, PACKED_BATCH = 16 };
size_t packed_batch_bytes(const pu_cuda *d, const packed_matrix *w, int64_t tokens);
pu_err packed_batch(pu_cuda *d, const packed_matrix *w, const packed_x *x, const packed_y *y, void *room,
                    pu_error *e) PU_MUST_USE;
/* Of several matrices; tokens of all together. A token's result differs from packed_batch's. */
pu_err packed_batch_parts(pu_cuda *d, const packed_matrix *w, const packed_x *x, const packed_y *y,
                          const packed_parts *parts, pu_error *e) PU_MUST_USE;

#endif
