/* What model FLOPs are held against. */
#ifndef PUYU_TRAIN_PEAK_H
#define PUYU_TRAIN_PEAK_H

#include "puyu/compute.h"

/* FLOP/s of this machine's own matrix product in the compute type, at a shape that suits it: the best of a few short
 * bursts with pauses between them, so that a busy moment does not spoil it; 0.1 s in all. */
pu_err pu_train_peak_measure(pu_ctx *c, pu_dtype dtype, double *flops) PU_MUST_USE;

#endif
