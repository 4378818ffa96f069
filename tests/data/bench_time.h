/* What benchmarks measure by: the processor's time, since others may be running, too. */
#ifndef PUYU_TESTS_DATA_BENCH_TIME_H
#define PUYU_TESTS_DATA_BENCH_TIME_H

#include <time.h>

/* Seconds that this process has used. */
static inline double used(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

#endif
