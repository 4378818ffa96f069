/* Arenas: one mmap reservation, filled from the bottom, and from the end by what has another lifetime. The kernel gives
 * pages on first touch, so a generous maximum costs address space only. */
#include "puyu/base.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#define PU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PU_ASAN 1
#endif
#endif
#ifdef PU_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n)   ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

enum {
  ARENA_ALIGN = 64,        /* a cache line, and the widest vector */
  HUGE_PAGE = 1 << 21,     /* x86-64 */
  HUGE_FROM = 64 << 20,    /* smaller arenas seldom fill a huge page */
  POISON_AHEAD = 64 << 10, /* how far past the last allocation ASan sees an overrun */
};

struct pu_arena {
  uint8_t *base;
  size_t max, used, peak;
  size_t above; /* in use at the end */
  size_t
      poisoned;  /* bytes from base on whose shadow was written: poisoning a whole reservation would touch 1/8 of it */
  void *mapping; /* NULL when the memory is someone else's */
  size_t mapping_len;
};

static pu_err arena_new(pu_arena **out, pu_error *e) {
  *out = calloc(1, sizeof **out);
  return *out ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "out of memory for an arena");
}

/* Keeps the bytes just above the last allocation poisoned. */
static void poison_ahead(pu_arena *a) {
  size_t room = a->max - a->above, want = room - a->used > POISON_AHEAD ? a->used + POISON_AHEAD : room;
  if (!a->mapping || want <= a->poisoned) return;
  size_t from = PU_MAX(a->poisoned, a->used);
  ASAN_POISON_MEMORY_REGION(a->base + from, want - from);
  a->poisoned = want;
}

pu_err pu_arena_create(size_t max_bytes, pu_arena **out, pu_error *e) {
  *out = NULL;
  bool huge = max_bytes >= HUGE_FROM;
  size_t len;
  if (pu_add_overflows(max_bytes, huge ? HUGE_PAGE : ARENA_ALIGN, &len))
    return pu_fail(e, PU_ERR_NOMEM, "an arena of %zu bytes is larger than memory can be", max_bytes);
  pu_arena *a;
  PU_TRY(arena_new(&a, e));
  void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    int why = errno;
    free(a);
    return pu_fail(e, PU_ERR_NOMEM,
                   "cannot reserve %zu MiB of address space: %s; raise the limit (ulimit -v unlimited), or end other "
                   "programs",
                   len >> 20, strerror(why));
  }
  size_t align = huge ? HUGE_PAGE : ARENA_ALIGN;
  *a = (pu_arena){.mapping = p, .mapping_len = len, .max = max_bytes};
  a->base = (uint8_t *)(((uintptr_t)p + align - 1) & ~(uintptr_t)(align - 1));
  if (huge) (void)madvise(a->base, max_bytes, MADV_HUGEPAGE); /* only speed is lost when the kernel declines */
  poison_ahead(a);
  *out = a;
  return PU_OK;
}

pu_err pu_arena_wrap(void *memory, size_t bytes, pu_arena **out, pu_error *e) {
  PU_TRY(arena_new(out, e));
  **out = (pu_arena){.base = memory, .max = bytes};
  return PU_OK;
}

void pu_arena_free(pu_arena *a) {
  if (!a) return;
  if (a->mapping) {
    ASAN_UNPOISON_MEMORY_REGION(a->base, a->poisoned); /* the addresses may be mapped again by others */
    munmap(a->mapping, a->mapping_len);
  }
  free(a);
}

void *pu_arena_alloc(pu_arena *a, size_t bytes) {
  uintptr_t at = (uintptr_t)a->base + a->used;
  size_t start = a->used + (size_t)(-at & (ARENA_ALIGN - 1));
  size_t room = a->max - a->above;
  if (start > room || bytes > room - start) return NULL;
  a->used = start + bytes;
  a->peak = PU_MAX(a->peak, a->used + a->above);
  if (a->mapping) {
    if (start < a->poisoned) ASAN_UNPOISON_MEMORY_REGION(a->base + start, PU_MIN(bytes, a->poisoned - start));
    poison_ahead(a);
  }
  return a->base + start;
}

void *pu_arena_zalloc(pu_arena *a, size_t bytes) {
  void *p = pu_arena_alloc(a, bytes);
  return p ? memset(p, 0, bytes) : NULL;
}

char *pu_arena_strdup(pu_arena *a, const char *s) {
  return pu_arena_strndup(a, s, strlen(s));
}

char *pu_arena_strndup(pu_arena *a, const char *s, size_t len) {
  char *p = len < SIZE_MAX ? pu_arena_alloc(a, len + 1) : NULL;
  if (!p) return NULL;
  if (len) memcpy(p, s, len);
  p[len] = 0;
  return p;
}

char *pu_arena_printf(pu_arena *a, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  int n = vsnprintf(NULL, 0, fmt, ap);
  va_end(ap);
  char *p = n < 0 ? NULL : pu_arena_alloc(a, (size_t)n + 1);
  if (!p) return NULL;
  va_start(ap, fmt);
  vsnprintf(p, (size_t)n + 1, fmt, ap);
  va_end(ap);
  return p;
}

size_t pu_arena_mark(const pu_arena *a) {
  return a->used;
}

void pu_arena_release(pu_arena *a, size_t mark) {
  if (mark >= a->used) return;
  if (a->mapping) ASAN_POISON_MEMORY_REGION(a->base + mark, a->used - mark);
  a->used = mark;
}

void pu_arena_reset(pu_arena *a) {
  pu_arena_release(a, 0);
  pu_arena_release_end(a, 0);
}

void *pu_arena_alloc_end(pu_arena *a, size_t bytes) {
  size_t room = a->max - a->above;
  if (bytes > room) return NULL;
  size_t start = room - bytes, over = ((uintptr_t)a->base + start) & (ARENA_ALIGN - 1);
  if (over > start || start - over < a->used) return NULL;
  start -= over;
  a->above = a->max - start;
  a->peak = PU_MAX(a->peak, a->used + a->above);
  if (a->mapping && start < a->poisoned)
    ASAN_UNPOISON_MEMORY_REGION(a->base + start, PU_MIN(bytes, a->poisoned - start));
  return a->base + start;
}

size_t pu_arena_mark_end(const pu_arena *a) {
  return a->above;
}

void pu_arena_release_end(pu_arena *a, size_t mark) {
  a->above = PU_MIN(a->above, mark);
}

bool pu_arena_at_end(const pu_arena *a, const void *p) {
  return (uintptr_t)p - (uintptr_t)a->base - (a->max - a->above) < a->above;
}

size_t pu_arena_peak(const pu_arena *a) {
  return a->peak;
}

size_t pu_arena_max(const pu_arena *a) {
  return a->max;
}
