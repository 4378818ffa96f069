/* The device that a test runs on: the CPU, or what PUYU_TEST_DEVICE names (see tests/compute/far.c). */
#ifndef PUYU_TEST_DEVICE_H
#define PUYU_TEST_DEVICE_H

#include <stdlib.h>

#include "puyu/compute.h"
#include "tests/test.h"

static inline const char *pu_test_device(void) {
  const char *name = getenv("PUYU_TEST_DEVICE");
  return name && *name ? name : "cpu";
}

static inline bool pu_test_elsewhere(void) {
  return strcmp(pu_test_device(), "cpu") != 0;
}

/* On the CPU with this instruction set; the tests' own device computes with it too. */
static inline pu_err pu_test_open(int threads, pu_isa isa, pu_backend **out, pu_error *e) {
  if (!pu_test_elsewhere()) return pu_cpu_open(threads, isa, out, e);
  setenv("PUYU_FAR_ISA", pu_isa_name(isa), 1);
  return pu_backend_open(pu_test_device(), threads, out, e);
}

/* Whether it lays weights out for inference (the operation tile_weight). */
static inline bool pu_test_tiles(void) {
  pu_backend *be;
  pu_error e;
  assert_ok(pu_backend_open(pu_test_device(), 1, &be, &e), &e);
  bool tiles = be->forward[PU_OP_tile_weight] != NULL;
  be->close(be);
  return tiles;
}

/* Whether it multiplies weights in FP8 for inference. */
static inline bool pu_test_fp8(void) {
  pu_backend *be;
  pu_error e;
  assert_ok(pu_backend_open(pu_test_device(), 1, &be, &e), &e);
  bool fp8 = be->forward[PU_OP_tile_weight] && be->forward[PU_OP_linear_fp8];
  be->close(be);
  return fp8;
}

/* Memory of the device under an arena. Close it first, then free the memory. */
static inline void *pu_test_memory(pu_backend *be, size_t bytes, pu_arena **out) {
  void *memory;
  pu_error e;
  assert_ok(be->alloc(be, bytes, &memory, &e), &e);
  assert_ok(pu_arena_wrap(memory, bytes, out, &e), &e);
  return memory;
}

/* Sets all of a contiguous tensor. */
static inline void pu_test_upload(pu_backend *be, const pu_tensor *t, const void *values) {
  pu_error e;
  assert_ok(be->upload(be, t->data, values, pu_tensor_bytes(t), &e), &e);
}

/* A copy, in host memory from malloc, of a contiguous tensor. */
static inline void *pu_test_download(pu_backend *be, const pu_tensor *t) {
  size_t bytes = pu_tensor_bytes(t);
  void *copy = malloc(bytes + 1);
  pu_error e;
  assert_non_null(copy);
  assert_ok(be->download(be, copy, t->data, bytes, &e), &e);
  return copy;
}

#endif
