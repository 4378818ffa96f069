/* What a backend does at most, measured through its own operations: a large product, a large copy. */
#include <math.h>

#include "src/compute/context.h"

enum { SMALLEST = 512, LARGEST = 8192, REPEATS = 5, IN_A_ROW = 4 };
static const double ENOUGH = 0.5e-3; /* seconds: a product of that time no longer gains by being larger */
static const size_t LEAST_COPIED = (size_t)32 << 20, MOST_COPIED = (size_t)1 << 30;

/* Small normal numbers of both signs: zeros would draw less power and run faster than work does. */
static pu_err fill(pu_backend *be, char *to, size_t bytes, pu_error *e) {
  enum { WORDS = 1 << 14 };
  static const uint16_t sign = 0x8000, around = 0x3c00;
  uint16_t pattern[WORDS];
  for (size_t i = 0; i < WORDS; i++) {
    uint64_t bits = pu_random_at(1, 7, i);
    pattern[i] = (uint16_t)(around + (bits & 0x3ff) + (bits & 0x10000 ? sign : 0));
  }
  for (size_t at = 0; at < bytes; at += sizeof pattern)
    PU_TRY(be->upload(be, to + at, pattern, PU_MIN(sizeof pattern, bytes - at), e));
  return PU_OK;
}

/* The best time of some runs of IN_A_ROW times the same; the first one warms up. */
static pu_err best_time(pu_backend *be, pu_err (*run)(pu_backend *be, void *arg, pu_error *e), void *arg, double *out,
                        pu_error *e) {
  *out = INFINITY;
  for (int i = 0; i <= REPEATS; i++) {
    double begin = pu_now();
    for (int k = 0; k < (i ? IN_A_ROW : 1); k++) PU_TRY(run(be, arg, e));
    PU_TRY(be->sync(be, e));
    if (i) *out = fmin(*out, (pu_now() - begin) / IN_A_ROW);
  }
  return PU_OK;
}

static pu_err multiply(pu_backend *be, void *arg, pu_error *e) {
  return be->forward[PU_OP_linear](be, arg, e);
}

/* Products of n by n matrices; memory: of three of them. */
static pu_err product_rate(pu_backend *be, pu_dtype dtype, char *memory, int64_t n, double *out, pu_error *e) {
  size_t bytes = (size_t)(n * n) * pu_dtype_size(dtype);
  pu_tensor x = {.dtype = dtype, .ndim = 2, .shape = {n, n}, .stride = {n, 1}, .data = memory}, w = x, y = x;
  w.data = memory + bytes;
  y.data = memory + 2 * bytes;
  pu_linear_args a = {.x = &x, .w = &w, .y = &y};
  double seconds;
  PU_TRY(fill(be, memory, 2 * bytes, e));
  PU_TRY(best_time(be, multiply, &a, &seconds, e));
  *out = 2.0 * (double)n * (double)n * (double)n / seconds;
  return PU_OK;
}

pu_err pu_backend_flops(pu_backend *be, pu_dtype dtype, double *best, pu_error *e) {
  double seconds = 0;
  pu_error why;
  *best = 0;
  for (int64_t n = SMALLEST; n <= LARGEST && seconds < 8 * ENOUGH; n *= 2) {
    void *memory;
    double rate = 0;
    if (be->alloc(be, 3 * (size_t)(n * n) * pu_dtype_size(dtype), &memory, &why) != PU_OK) return PU_OK;
    pu_err err = product_rate(be, dtype, memory, n, &rate, e);
    be->free(be, memory);
    PU_TRY(err);
    *best = fmax(*best, rate);
    seconds = 2.0 * (double)n * (double)n * (double)n / rate;
  }
  return PU_OK;
}

typedef struct halves {
  char *memory;
  size_t bytes; /* of each */
} halves;

static pu_err copy(pu_backend *be, void *arg, pu_error *e) {
  const halves *h = arg;
  return be->copy(be, h->memory + h->bytes, h->memory, h->bytes, e);
}

/* Of the largest size that is tried: a smaller one may lie in a cache. */
static pu_err copy_rate(pu_backend *be, double *out, pu_error *e) {
  double seconds = 0;
  *out = 0;
  for (size_t bytes = LEAST_COPIED; bytes <= MOST_COPIED && seconds < 4 * ENOUGH; bytes *= 2) {
    void *memory;
    pu_error why;
    if (be->alloc(be, 2 * bytes, &memory, &why) != PU_OK) return PU_OK;
    halves h = {memory, bytes};
    pu_err err = be->clear(be, memory, bytes, e); /* pages that were never written are all the same one */
    if (!err) err = best_time(be, copy, &h, &seconds, e);
    be->free(be, memory);
    PU_TRY(err);
    *out = 2 * (double)bytes / seconds;
  }
  return PU_OK;
}

pu_err pu_backend_measure(pu_backend *be, pu_limits *out, pu_error *e) {
  *out = (pu_limits){0};
  PU_TRY(pu_backend_flops(be, PU_BF16, &out->bf16_flops, e));
  PU_TRY(pu_backend_flops(be, PU_F32, &out->f32_flops, e));
  return copy_rate(be, &out->copy_bytes, e);
}
