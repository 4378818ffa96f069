/* Rows copied between a device's memory and the machine's, pinned and not, against copies of bytes one by one. */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/device.h"

enum { MEMORY = 1 << 16, MOST_ROWS = 9, CASES = 300 };

/* Two areas of the host's and two of the device's, and what is to be in them. */
typedef struct place {
  uint8_t *at;
  uint8_t *want;
  bool device;
} place;

static void fill(uint8_t *to, uint64_t seed) {
  for (size_t i = 0; i < MEMORY; i++) to[i] = (uint8_t)pu_random_at(seed, 0, i);
}

static void open_place(pu_backend *be, place *p, bool device, uint64_t seed) {
  pu_error e;
  void *memory;
  p->device = device;
  p->want = malloc(MEMORY);
  assert_non_null(p->want);
  fill(p->want, seed);
  if (device) {
    assert_ok(be->alloc(be, MEMORY, &memory, &e), &e);
    assert_ok(be->upload(be, memory, p->want, MEMORY, &e), &e);
  } else {
    memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(memory != MAP_FAILED);
    memcpy(memory, p->want, MEMORY);
  }
  p->at = memory;
}

static void close_place(pu_backend *be, place *p) {
  if (p->device)
    be->free(be, p->at);
  else
    munmap(p->at, MEMORY);
  free(p->want);
}

static void check(pu_backend *be, const place *p) {
  pu_error e;
  uint8_t *got = malloc(MEMORY);
  assert_non_null(got);
  if (p->device)
    assert_ok(be->download(be, got, p->at, MEMORY, &e), &e);
  else
    memcpy(got, p->at, MEMORY);
  assert_memory_equal(got, p->want, MEMORY);
  free(got);
}

/* The copies of a case follow each other in line: one may read what the last one wrote. */
static void copy_one(pu_backend *be, pu_rng *r, const place *to, const place *from) {
  pu_error e;
  size_t rows = 1 + pu_rng_below(r, MOST_ROWS), bytes = 1 + pu_rng_below(r, MEMORY / 2 / MOST_ROWS);
  size_t most = MEMORY / MOST_ROWS - bytes;
  size_t to_stride = bytes + pu_rng_below(r, most), from_stride = bytes + pu_rng_below(r, most);
  size_t t = pu_rng_below(r, MEMORY - to_stride * (rows - 1) - bytes + 1);
  size_t f = pu_rng_below(r, MEMORY - from_stride * (rows - 1) - bytes + 1);
  for (size_t i = 0; i < rows; i++) memcpy(to->want + t + i * to_stride, from->want + f + i * from_stride, bytes);
  assert_ok(be->copy_rows(be, to->at + t, to_stride, from->at + f, from_stride, bytes, (int64_t)rows, &e), &e);
}

static void wait_for(pu_backend *be, bool all) {
  pu_error e;
  uint64_t at;
  if (all || !be->mark) {
    assert_ok(be->sync(be, &e), &e);
    return;
  }
  assert_ok(be->mark(be, &at, &e), &e);
  assert_ok(be->reach(be, at, &e), &e);
}

static void rows_arrive(void **state) {
  (void)state;
  pu_backend *be;
  pu_error e;
  pu_rng r;
  pu_rng_seed(&r, 1);
  assert_ok(pu_test_open(2, pu_isa_best(), &be, &e), &e);
  for (int pinned = 0; pinned < 2; pinned++) {
    place p[4];
    for (size_t i = 0; i < 4; i++) open_place(be, &p[i], i >= 2, i);
    for (size_t i = 0; i < 2 && pinned && be->pin; i++) assert_ok(be->pin(be, p[i].at, MEMORY, &e), &e);
    for (int i = 0; i < CASES; i++) {
      size_t to = pu_rng_below(&r, 4), from = to < 2 ? 2 + pu_rng_below(&r, 2) : pu_rng_below(&r, 4);
      if (to == from) continue; /* pieces that overlap are nobody's */
      copy_one(be, &r, &p[to], &p[from]);
      if (i % 10) continue;
      wait_for(be, i % 20 == 0);
      for (size_t k = 0; k < 4; k++) check(be, &p[k]);
    }
    assert_ok(be->sync(be, &e), &e);
    for (size_t k = 0; k < 4; k++) check(be, &p[k]);
    for (size_t i = 0; i < 2 && pinned && be->pin; i++) be->unpin(be, p[i].at);
    for (size_t i = 0; i < 4; i++) close_place(be, &p[i]);
  }
  be->close(be);
}

/* Marks that were made before, and ones that were made long ago, as one comes by them. */
static void marks_are_reached(void **state) {
  (void)state;
  enum { MARKS = 40, EACH = 1 << 10 };
  pu_backend *be;
  pu_error e;
  uint64_t at[MARKS];
  place host, device;
  assert_ok(pu_test_open(2, pu_isa_best(), &be, &e), &e);
  if (!be->mark) {
    be->close(be);
    skip();
  }
  open_place(be, &host, false, 1);
  open_place(be, &device, true, 2);
  if (be->pin) assert_ok(be->pin(be, host.at, MEMORY, &e), &e);
  for (int i = 0; i < MARKS; i++) {
    assert_ok(be->copy_rows(be, host.at + i * EACH, EACH, device.at + i * EACH, EACH, EACH, 1, &e), &e);
    assert_ok(be->mark(be, &at[i], &e), &e);
    assert_int_equal(at[i], i + 1);
    int known = i % 3 ? i : i / 2;
    assert_ok(be->reach(be, at[known], &e), &e);
    assert_memory_equal(host.at, device.want, (size_t)(known + 1) * EACH);
  }
  assert_ok(be->sync(be, &e), &e);
  if (be->pin) be->unpin(be, host.at);
  close_place(be, &host);
  close_place(be, &device);
  be->close(be);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(rows_arrive), cmocka_unit_test(marks_are_reached)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
