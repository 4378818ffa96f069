/* What model FLOPs are held against. */
#ifndef PUYU_TRAIN_PEAK_H
#define PUYU_TRAIN_PEAK_H

#include "puyu/compute.h"

/* Raises *flops to what this machine does at its best in the compute type, FLOP/s: its own matrix product at a shape
 * that suits it and, in bf16 on the CPU, the bare rate of the matrix unit. The best of a few short bursts with pauses
 * between them, 0.1 s in all. On a device: pu_backend_flops. Other programs only ever make it less, so that asking
 * again later can but mend it. */
pu_err pu_train_peak_raise(pu_ctx *c, pu_dtype dtype, double *flops) PU_MUST_USE;

#endif
