/* The thread pool: every item once, the same chunks whatever the number of threads, results visible to the caller. */
#include "tests/test.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct job {
  int *count; /* plain memory: the pool alone orders the accesses */
  int64_t n, grain;
  int size;
  atomic_int bad;
  atomic_int chunks;
} job;

static void visit(void *arg, int64_t begin, int64_t end, int worker) {
  job *j = arg;
  bool good = begin >= 0 && end <= j->n && begin < end && begin % j->grain == 0 &&
              end == PU_MIN(begin + j->grain, j->n) && worker >= 0 && worker < j->size;
  if (!good) atomic_fetch_add(&j->bad, 1);
  atomic_fetch_add(&j->chunks, 1);
  for (int64_t i = begin; i < end; i++) j->count[i]++;
}

static void every_item_is_visited_once(void **state) {
  (void)state;
  static const int64_t ns[] = {1, 2, 7, 64, 1000}, grains[] = {1, 3, 64, 5000};
  pu_error e;
  for (int threads = 1; threads <= 5; threads++) {
    pu_pool *p;
    assert_ok(pu_pool_create(threads, &p, &e), &e);
    assert_int_equal(pu_pool_size(p), threads);
    for (size_t a = 0; a < PU_COUNT(ns); a++)
      for (size_t b = 0; b < PU_COUNT(grains); b++) {
        job j = {.count = calloc((size_t)ns[a], sizeof(int)), .n = ns[a], .grain = grains[b], .size = threads};
        for (int round = 0; round < 5; round++) pu_pool_run(p, j.n, j.grain, visit, &j);
        for (int64_t i = 0; i < j.n; i++) assert_int_equal(j.count[i], 5);
        assert_int_equal(j.bad, 0);
        assert_int_equal(j.chunks, 5 * ((j.n + j.grain - 1) / j.grain));
        free(j.count);
      }
    pu_pool_free(p);
  }
}

static void many_short_loops(void **state) {
  (void)state;
  pu_error e;
  pu_pool *p;
  assert_ok(pu_pool_create(4, &p, &e), &e);
  int count[16] = {0};
  job j = {.count = count, .n = 16, .grain = 1, .size = 4};
  for (int i = 0; i < 20000; i++) {
    j.n = 2 + i % 15; /* the description changes each time */
    pu_pool_run(p, j.n, 1, visit, &j);
    if (i % 1000 == 0) usleep(2000); /* long enough for the workers to sleep */
  }
  int64_t sum = 0, want = 0;
  for (int i = 0; i < 16; i++) sum += count[i];
  for (int i = 0; i < 20000; i++) want += 2 + i % 15;
  assert_int_equal(sum, want);
  assert_int_equal(j.bad, 0);
  pu_pool_free(p);
}

static void slow_chunk(void *arg, int64_t begin, int64_t end, int worker) {
  (void)end, (void)worker;
  if (begin == 1) usleep(30000); /* the caller is done long before: it sleeps, and must be woken */
  atomic_fetch_add((atomic_int *)arg, 1);
}

static void the_caller_waits_for_slow_workers(void **state) {
  (void)state;
  pu_error e;
  pu_pool *p;
  assert_ok(pu_pool_create(3, &p, &e), &e);
  atomic_int done = 0;
  for (int i = 1; i <= 5; i++) {
    pu_pool_run(p, 3, 1, slow_chunk, &done);
    assert_int_equal(done, 3 * i);
  }
  pu_pool_free(p);
}

static void nothing_to_do(void **state) {
  (void)state;
  pu_error e;
  pu_pool *p;
  assert_ok(pu_pool_create(0, &p, &e), &e);
  assert_int_equal(pu_pool_size(p), pu_cpu_count());
  pu_pool_run(p, 0, 1, visit, NULL);
  pu_pool_run(p, -5, 1, visit, NULL);
  pu_pool_free(p);
  for (int i = 0; i < 50; i++) { /* freed while the workers are still on their way to sleep */
    assert_ok(pu_pool_create(4, &p, &e), &e);
    pu_pool_free(p);
  }
  assert_int_equal(pu_pool_create(-1, &p, &e), PU_ERR_USAGE);
  assert_int_equal(pu_pool_create(100000, &p, &e), PU_ERR_USAGE);
  assert_null(p);
  pu_pool_free(NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_item_is_visited_once),
      cmocka_unit_test(many_short_loops),
      cmocka_unit_test(the_caller_waits_for_slow_workers),
      cmocka_unit_test(nothing_to_do),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
