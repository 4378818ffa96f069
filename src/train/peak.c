#include "src/train/peak.h"

#include <string.h>
#include <time.h>

enum { ROWS = 1024, FEW_ROWS = 128, INNER = 1024, COLUMNS = 1024, BURSTS = 5 };
static const double BURST_SECONDS = 0.010, ALL_SECONDS = 0.1;
static const struct timespec PAUSE = {.tv_nsec = 10 * 1000 * 1000}; /* other work on the machine comes in moments */

/* Any small normal numbers: zeros would draw less power and run faster than work does. */
static pu_tensor *filled(pu_ctx *c, pu_dtype dtype, int64_t rows, int64_t cols) {
  pu_tensor *t = pu_tensor_new(c, dtype, 2, (int64_t[]){rows, cols}, false);
  uint32_t *pattern = pu_arena_alloc(c->host, (size_t)cols * 4);
  if (!t || !pattern) return NULL;
  for (int64_t i = 0; i < cols; i++) pattern[i] = 0x3c3c3c3cu + (uint32_t)(i % 61) * 0x00010001u;
  size_t row = (size_t)cols * pu_dtype_size(dtype);
  for (int64_t i = 0; i < rows; i++)
    if (c->be->upload(c->be, (char *)t->data + (size_t)i * row, pattern, row, c->err) != PU_OK) return NULL;
  return t;
}

/* FLOPs of a product of so many rows. */
static double work(int64_t rows) {
  return 2.0 * (double)rows * INNER * COLUMNS;
}

/* The best product of a burst, FLOP/s; 0: none succeeded. */
static double burst(pu_ctx *c, pu_tensor *x, pu_tensor *w) {
  double best = 0, start = pu_now(), now = start;
  size_t mem = pu_arena_mark(c->mem), host = pu_arena_mark(c->host);
  while (now - start < BURST_SECONDS) {
    double begin = now;
    if (!pu_linear(c, x, w, NULL, false) || c->be->sync(c->be, c->err) != PU_OK) break;
    now = pu_now();
    best = PU_MAX(best, work(x->shape[0]) / (now - begin));
    pu_arena_release(c->mem, mem);
    pu_arena_release(c->host, host);
  }
  return best;
}

/* On a device, where small products do not fill it. */
static pu_err raise_device(pu_ctx *c, pu_dtype dtype, double *flops) {
  double rate;
  PU_TRY(pu_backend_flops(c->be, dtype, &rate, c->err));
  *flops = PU_MAX(*flops, rate);
  return PU_OK;
}

pu_err pu_train_peak_raise(pu_ctx *c, pu_dtype dtype, double *flops) {
  if (c->be->memory) return raise_device(c, dtype, flops);
  bool tells = dtype == PU_BF16 && strcmp(c->be->name, "cpu") == 0;
  double unit = tells ? pu_cpu_unit_flops(c->be, PU_BF16) : 0;
  *flops = PU_MAX(*flops, unit);
  size_t mem = pu_arena_mark(c->mem), host = pu_arena_mark(c->host);
  c->status = PU_OK;
  pu_tensor *x = filled(c, dtype, ROWS, INNER), *w = filled(c, dtype, COLUMNS, INNER);
  /* The first burst is of few rows. They stay few where one product of all would take longer than all bursts may:
   * checked code multiplies a hundred times slower. */
  if (x) x->shape[0] = FEW_ROWS;
  for (int i = 0; i < BURSTS && x && w && c->status == PU_OK; i++) {
    if (i > 0) nanosleep(&PAUSE, NULL);
    double rate = burst(c, x, w);
    *flops = PU_MAX(*flops, rate);
    if (rate * ALL_SECONDS > work(ROWS)) x->shape[0] = ROWS;
  }
  pu_arena_release(c->mem, mem);
  pu_arena_release(c->host, host);
  return c->status;
}
