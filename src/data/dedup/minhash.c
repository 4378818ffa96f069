/* Shingles, MinHash signatures, bands. */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "src/data/dedup/shingle.h"

enum { BATCH = 256 };

/* ---- shingles ---------------------------------------------------------------------------------------------------- */

void pu_roll_init(pu_roll *r, int width) {
  *r = (pu_roll){.width = (uint32_t)width};
  uint64_t power = 1;
  for (int i = 0; i < width; i++) power *= PU_ROLL_FACTOR;
  r->drop = (uint64_t)0 - power;
}

/* Hands a text's shingles, as 32-bit hashes, to take in batches; returns how many. */
static size_t shingles(pu_str text, bool (*take)(void *arg, const uint32_t *x, size_t n), void *arg) {
  pu_token tokens[BATCH];
  uint32_t x[BATCH];
  pu_folder f = {text, 0};
  pu_roll roll;
  pu_roll_init(&roll, PU_SHINGLE);
  size_t total = 0;
  uint64_t last = 0;
  for (size_t n; (n = pu_fold_next(&f, tokens, BATCH)) > 0;) {
    size_t made = 0;
    for (size_t i = 0; i < n; i++) {
      last = pu_roll_push(&roll, tokens[i].hash);
      x[made] = (uint32_t)(last >> 32);
      made += pu_roll_full(&roll);
    }
    total += made;
    if (made > 0 && !take(arg, x, made)) return total;
  }
  if (total == 0 && roll.n > 0) {
    x[0] = (uint32_t)(last >> 32);
    total = take(arg, x, 1);
  }
  return total;
}

/* ---- signatures -------------------------------------------------------------------------------------------------- */

static uint32_t factors[PU_MINHASHES], terms[PU_MINHASHES];
static pu_minhash_fn kernel;
static pthread_once_t once = PTHREAD_ONCE_INIT;

void pu_minhash_ref(uint32_t *signature, const uint32_t *x, size_t n, const uint32_t *a, const uint32_t *b) {
  for (int i = 0; i < PU_MINHASHES; i++) {
    uint32_t least = signature[i];
    for (size_t j = 0; j < n; j++) least = PU_MIN(least, a[i] * x[j] + b[i]);
    signature[i] = least;
  }
}

pu_minhash_fn pu_minhash_kernel(const char *isa) {
  if (strcmp(isa, "ref") == 0) return pu_minhash_ref;
#if defined(__x86_64__)
  __builtin_cpu_init();
  /* All that cmake/puyu.cmake compiles these files for. */
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  if (strcmp(isa, "avx2") == 0 && avx2) return pu_minhash_avx2;
  if (strcmp(isa, "avx512") == 0 && avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16"))
    return pu_minhash_avx512;
#endif
  return NULL;
}

static void constants_make(void) {
  for (int i = 0; i < PU_MINHASHES; i++) {
    factors[i] = (uint32_t)(pu_random_at(0x6d696e68617368, 0, (uint64_t)i) >> 32) | 1;
    terms[i] = (uint32_t)(pu_random_at(0x6d696e68617368, 1, (uint64_t)i) >> 32);
  }
  static const char *const sets[] = {"avx512", "avx2", "ref"};
  for (size_t i = 0; i < PU_COUNT(sets) && !kernel; i++) kernel = pu_minhash_kernel(sets[i]);
}

static bool take_least(void *arg, const uint32_t *x, size_t n) {
  kernel(arg, x, n, factors, terms);
  return true;
}

size_t pu_minhash(pu_str text, uint32_t signature[PU_MINHASHES]) {
  pthread_once(&once, constants_make);
  memset(signature, 0xff, PU_MINHASHES * sizeof *signature);
  return shingles(text, take_least, signature);
}

double pu_minhash_similarity(const uint32_t *a, const uint32_t *b) {
  int same = 0;
  for (int i = 0; i < PU_MINHASHES; i++) same += a[i] == b[i];
  return same / (double)PU_MINHASHES;
}

/* ---- sets -------------------------------------------------------------------------------------------------------- */

static bool take_set(void *arg, const uint32_t *x, size_t n) {
  return pu_buf_append(arg, x, n * sizeof *x);
}

enum { DIGIT = 11, DIGITS = 1 << DIGIT, FEW = 256 };

static int order(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

/* Three rounds of 11 bits, from the low end; room holds n. */
static void sort_u32(uint32_t *v, uint32_t *room, size_t n) {
  if (n <= FEW) {
    qsort(v, n, sizeof *v, order);
    return;
  }
  uint32_t *from = v, *to = room;
  for (int shift = 0; shift < 32; shift += DIGIT) {
    size_t at[DIGITS] = {0}, sum = 0;
    for (size_t i = 0; i < n; i++) at[(from[i] >> shift) & (DIGITS - 1)]++;
    for (size_t i = 0; i < DIGITS; i++) {
      size_t count = at[i];
      at[i] = sum;
      sum += count;
    }
    for (size_t i = 0; i < n; i++) to[at[(from[i] >> shift) & (DIGITS - 1)]++] = from[i];
    uint32_t *other = from;
    from = to;
    to = other;
  }
  memcpy(v, from, n * sizeof *v);
}

pu_err pu_shingle_set(pu_str text, pu_buf *out, pu_error *e) {
  pu_buf all;
  pu_buf_init(&all, PU_BUF_MAX);
  shingles(text, take_set, &all);
  size_t n = all.len / sizeof(uint32_t), kept = 0;
  bool ok = !all.failed && pu_buf_reserve(&all, all.len);
  if (ok && n > 0) {
    uint32_t *v = (uint32_t *)(void *)all.data;
    sort_u32(v, v + n, n);
    for (size_t i = 0; i < n; i++)
      if (kept == 0 || v[kept - 1] != v[i]) v[kept++] = v[i];
    ok = pu_buf_append(out, v, kept * sizeof *v);
  }
  pu_buf_deinit(&all);
  return ok ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "dedup: no memory for the shingles of a text");
}

double pu_jaccard(const uint32_t *a, size_t n, const uint32_t *b, size_t m) {
  size_t i = 0, j = 0, both = 0;
  while (i < n && j < m) {
    both += a[i] == b[j];
    uint32_t x = a[i], y = b[j];
    i += x <= y;
    j += y <= x;
  }
  return n + m == 0 ? 0 : (double)both / (double)(n + m - both);
}

/* ---- bands ------------------------------------------------------------------------------------------------------- */

double pu_bands_found(pu_bands b, double similarity) {
  return 1 - pow(1 - pow(similarity, b.rows), b.bands);
}

pu_bands pu_bands_for(double threshold) {
  pu_bands best = {PU_MINHASHES, 1};
  for (int rows = 1; rows <= PU_MINHASHES; rows++) {
    pu_bands b = {PU_MINHASHES / rows, rows};
    if (pu_bands_found(b, threshold) >= 0.95) best = b;
  }
  return best;
}

uint64_t pu_band_key(const uint32_t *signature, pu_bands b, int band) {
  return pu_hash64(signature + (ptrdiff_t)band * b.rows, (size_t)b.rows * sizeof *signature, (uint64_t)band);
}
