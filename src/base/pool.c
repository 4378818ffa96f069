/* The thread pool. One counter holds the chunks of the current loop that nobody has taken; whoever lowers it owns a
 * chunk. The loop's description may be read only by an owner: pu_pool_run does not return, and so does not change the
 * description, before every owned chunk was given back through `pending`. A worker that sleeps through a whole loop is
 * not waited for, which keeps short loops short on a machine with more threads than processors. */
#include "puyu/base.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
  SPINS = 1000, /* of the pause instruction, some tens of microseconds: the gap between two ops */
  YIELDS = 8,   /* then let others run, and sleep if there is still nothing */
  MAX_THREADS = 1024,
};

struct pu_pool {
  /* The loop: written by pu_pool_run, read by owners of a chunk. */
  pu_pool_fn fn;
  void *arg;
  int64_t n, grain, chunks;

  _Alignas(64) _Atomic int64_t untaken; /* chunks */
  _Alignas(64) _Atomic int64_t pending; /* chunks not yet finished */
  _Alignas(64) _Atomic uint32_t epoch;  /* changes with each loop: sleeping workers wait on it */
  _Atomic uint32_t finished;            /* changes when pending falls to 0: a sleeping caller waits on it */
  _Atomic int sleepers;                 /* workers in, or about to go to, sleep */
  _Atomic bool caller_sleeps, stop;
  int size, spins;
  int started; /* threads to join */
  struct pu_worker {
    pu_pool *pool;
    pthread_t thread;
    int index;
  } * workers;
};

static void futex_wait(_Atomic uint32_t *word, uint32_t seen) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int count) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static void cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* A container may be given less time than it sees processors: cgroup v2's "QUOTA PERIOD", both in microseconds. */
static int cgroup_cpus(void) {
  long long quota = 0, period = 0;
  FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
  int got = f ? fscanf(f, "%lld %lld", &quota, &period) : 0; /* "max" is no number: no limit */
  if (f) fclose(f);
  return got == 2 && quota > 0 && period > 0 ? (int)PU_MIN((quota + period - 1) / period, INT_MAX) : INT_MAX;
}

int pu_cpu_count(void) {
  cpu_set_t set;
  int cpus;
  if (sched_getaffinity(0, sizeof set, &set) == 0)
    cpus = CPU_COUNT(&set);
  else
    cpus = (int)sysconf(_SC_NPROCESSORS_ONLN); /* more processors than cpu_set_t holds */
  return PU_MAX(1, PU_MIN(cpus, cgroup_cpus()));
}

/* The index of a chunk that is now the caller's, or -1. */
static int64_t take_chunk(pu_pool *p) {
  int64_t left = atomic_load_explicit(&p->untaken, memory_order_relaxed);
  while (left > 0)
    if (atomic_compare_exchange_weak_explicit(&p->untaken, &left, left - 1, memory_order_acquire, memory_order_relaxed))
      return p->chunks - left;
  return -1;
}

/* Works until no chunk is left to take. Finished chunks are reported together: while one is unreported the loop's
 * description stays. */
static void work(pu_pool *p, int worker) {
  int64_t mine = 0;
  for (int64_t c; (c = take_chunk(p)) >= 0; mine++) {
    int64_t begin = c * p->grain;
    p->fn(p->arg, begin, p->n - begin > p->grain ? begin + p->grain : p->n, worker);
  }
  if (mine == 0) return;
  if (atomic_fetch_sub(&p->pending, mine) == mine) {
    atomic_fetch_add(&p->finished, 1);
    if (atomic_load(&p->caller_sleeps)) futex_wake(&p->finished, 1);
  }
}

static void sleep_for_work(pu_pool *p) {
  atomic_fetch_add(&p->sleepers, 1);
  uint32_t seen = atomic_load(&p->epoch);
  /* Either pu_pool_run sees the sleeper, or its change of epoch comes first and the wait returns at once. */
  if (atomic_load(&p->untaken) <= 0 && !atomic_load(&p->stop)) futex_wait(&p->epoch, seen);
  atomic_fetch_sub(&p->sleepers, 1);
}

static bool worth_looking(pu_pool *p) {
  return atomic_load_explicit(&p->untaken, memory_order_relaxed) > 0 ||
         atomic_load_explicit(&p->stop, memory_order_relaxed);
}

static void wait_for_work(pu_pool *p) {
  for (int i = 0; i < p->spins; i++) {
    if (worth_looking(p)) return;
    cpu_relax();
  }
  for (int i = 0; i < YIELDS; i++) {
    if (worth_looking(p)) return;
    sched_yield();
  }
  sleep_for_work(p);
}

static void *worker_main(void *arg) {
  struct pu_worker *w = arg;
  while (!atomic_load(&w->pool->stop)) {
    work(w->pool, w->index);
    wait_for_work(w->pool);
  }
  return NULL;
}

pu_err pu_pool_create(int threads, pu_pool **out, pu_error *e) {
  *out = NULL;
  int cpus = pu_cpu_count();
  if (threads == 0) threads = PU_MIN(cpus, MAX_THREADS);
  if (threads < 0 || threads > MAX_THREADS)
    return pu_fail(e, PU_ERR_USAGE, "%d threads: give a number from 1 to %d, or 0 for all processors", threads,
                   MAX_THREADS);
  pu_pool *p = aligned_alloc(64, sizeof *p);
  struct pu_worker *workers = calloc((size_t)threads, sizeof *workers);
  if (!p || !workers) {
    free(p);
    free(workers);
    return pu_fail(e, PU_ERR_NOMEM, "out of memory for a pool of %d threads", threads);
  }
  memset(p, 0, sizeof *p);
  p->size = threads;
  p->spins = threads > cpus ? 0 : SPINS; /* a spinning thread would keep a working one from its processor */
  p->workers = workers;

  /* Signals are for the main thread: workers are born with all of them blocked. */
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int rc = 0;
  for (int i = 1; i < threads && rc == 0; i++) {
    workers[i] = (struct pu_worker){.pool = p, .index = i};
    rc = pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]);
    if (rc == 0) p->started++;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (rc) {
    int got = p->started;
    pu_pool_free(p);
    return pu_fail(e, PU_ERR_NOMEM, "cannot start thread %d of %d: %s", got + 1, threads, strerror(rc));
  }
  *out = p;
  return PU_OK;
}

void pu_pool_free(pu_pool *p) {
  if (!p) return;
  atomic_store(&p->stop, true);
  atomic_fetch_add(&p->epoch, 1);
  futex_wake(&p->epoch, MAX_THREADS);
  for (int i = 1; i <= p->started; i++) pthread_join(p->workers[i].thread, NULL);
  free(p->workers);
  free(p);
}

int pu_pool_size(const pu_pool *p) {
  return p ? p->size : 1;
}

static void wait_for_others(pu_pool *p) {
  for (int i = 0; i < p->spins; i++) {
    if (atomic_load_explicit(&p->pending, memory_order_acquire) == 0) return;
    cpu_relax();
  }
  for (int i = 0; i < YIELDS; i++) {
    if (atomic_load_explicit(&p->pending, memory_order_acquire) == 0) return;
    sched_yield();
  }
  atomic_store(&p->caller_sleeps, true);
  for (;;) {
    uint32_t seen = atomic_load(&p->finished);
    if (atomic_load(&p->pending) == 0) break;
    futex_wait(&p->finished, seen);
  }
  atomic_store(&p->caller_sleeps, false);
}

void pu_pool_run(pu_pool *p, int64_t n, int64_t grain, pu_pool_fn fn, void *arg) {
  if (n <= 0) return;
  if (grain < 1) grain = 1;
  int64_t chunks = n / grain + (n % grain != 0);
  if (!p || chunks == 1 || p->size == 1) { /* the same chunks, one after the other */
    for (int64_t begin = 0; begin < n; begin += PU_MIN(grain, n - begin))
      fn(arg, begin, begin + PU_MIN(grain, n - begin), 0);
    return;
  }
  p->fn = fn;
  p->arg = arg;
  p->n = n;
  p->grain = grain;
  p->chunks = chunks;
  atomic_store_explicit(&p->pending, chunks, memory_order_relaxed);
  atomic_store(&p->untaken, chunks);
  atomic_fetch_add(&p->epoch, 1);
  int sleepers = atomic_load(&p->sleepers);
  if (sleepers > 0) futex_wake(&p->epoch, (int)PU_MIN(chunks - 1, sleepers));
  work(p, 0);
  wait_for_others(p);
}
