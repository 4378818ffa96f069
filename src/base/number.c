/* Hashing, random numbers, floats as text, the clock. */
#include "puyu/base.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

uint64_t pu_hash64(const void *data, size_t len, uint64_t seed) {
  return XXH3_64bits_withSeed(data, len, seed);
}

/* ---- random numbers ---- */

static const uint64_t GOLDEN = 0x9E3779B97F4A7C15u; /* 2^64 / golden ratio: the step of splitmix64 */

/* The finaliser of splitmix64 (Steele, Lea, Flood 2014; constants: Stafford's mix 13). */
static uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

uint64_t pu_random_at(uint64_t seed, uint64_t stream, uint64_t index) {
  uint64_t h = mix(seed + GOLDEN);
  h = mix((h ^ stream) + GOLDEN);
  return mix((h ^ index) + GOLDEN);
}

void pu_rng_seed(pu_rng *r, uint64_t seed) {
  for (int i = 0; i < 4; i++) r->s[i] = mix(seed + (uint64_t)(i + 1) * GOLDEN);
}

static uint64_t rotl(uint64_t x, int k) {
  return (x << k) | (x >> (64 - k));
}

/* xoshiro256** 1.0 (Blackman, Vigna 2018). */
uint64_t pu_rng_next(pu_rng *r) {
  uint64_t *s = r->s;
  uint64_t result = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = rotl(s[3], 45);
  return result;
}

/* Lemire 2019: the high half of a product, with the few biased low halves thrown away. */
uint64_t pu_rng_below(pu_rng *r, uint64_t n) {
  unsigned __int128 m = (unsigned __int128)pu_rng_next(r) * n;
  if ((uint64_t)m < n) {
    uint64_t biased = -n % n;
    while ((uint64_t)m < biased) m = (unsigned __int128)pu_rng_next(r) * n;
  }
  return (uint64_t)(m >> 64);
}

double pu_rng_uniform(pu_rng *r) {
  return (double)(pu_rng_next(r) >> 11) * 0x1p-53;
}

/* Box and Muller; the second value is dropped so that the state stays four words. */
double pu_rng_normal(pu_rng *r) {
  double u = 1.0 - pu_rng_uniform(r), angle = 6.283185307179586 * pu_rng_uniform(r);
  return sqrt(-2.0 * log(u)) * cos(angle);
}

/* ---- floats as text ---- */

/* 1e-05 -> 1e-5, 1e+20 -> 1e20 */
static int tidy_exponent(char *s) {
  char *from = strchr(s, 'e');
  if (!from) return (int)strlen(s);
  char *to = ++from;
  if (*from == '+')
    from++;
  else if (*from == '-')
    from++, to++;
  while (*from == '0') from++;
  memmove(to, from, strlen(from) + 1);
  return (int)strlen(s);
}

static int special(char *dst, double v) {
  if (v == 0) return snprintf(dst, 32, "%s", signbit(v) ? "-0.0" : "0"); /* "-0" is an integer to a JSON reader */
  if (!isfinite(v)) return snprintf(dst, 32, "null");
  return 0;
}

int pu_format_double(char *dst, double v) {
  int n = special(dst, v);
  if (n) return n;
  /* Any decimal of 15 digits survives the way through a normal double, so shorter ones show as %.15g; a subnormal
   * has fewer digits to give. */
  int digits = fabs(v) < 2.2250738585072014e-308 ? 1 : 15;
  do snprintf(dst, 32, "%.*g", digits, v);
  while (digits++ < 17 && strtod(dst, NULL) != v);
  return tidy_exponent(dst);
}

int pu_format_float(char *dst, float v) {
  int n = special(dst, (double)v);
  if (n) return n;
  int digits = fabsf(v) < 1.17549435e-38f ? 1 : 6;
  do snprintf(dst, 32, "%.*g", digits, (double)v);
  while (digits++ < 9 && strtof(dst, NULL) != v);
  return tidy_exponent(dst);
}

const char *pu_short_number(char dst[16], double v) {
  static const char suffix[] = " kMGTP";
  int k = 0;
  while (v >= 999.5 && suffix[k + 1]) v /= 1000, k++;
  int decimals = k == 0 || v >= 99.95 ? 0 : v >= 9.995 ? 1 : 2;
  snprintf(dst, 16, "%.*f%.*s", decimals, v, k > 0, suffix + k);
  return dst;
}

const char *pu_short_time(char dst[16], double seconds) {
  long s = seconds < 3.6e8 ? (long)(seconds + 0.5) : 360000000;
  if (s >= 3600)
    snprintf(dst, 16, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
  else
    snprintf(dst, 16, "%ld:%02ld", s / 60, s % 60);
  return dst;
}

double pu_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
