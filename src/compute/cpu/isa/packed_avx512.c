/* Products with weights in few bits, with AVX-512 VNNI: a line of weights (unsigned) times four bytes of x (signed),
 * broadcast, into sixteen sums. One to eight tokens share each line. */
#include "src/compute/cpu/packed.h"

#include <immintrin.h>

enum { LINE = PU_PACKED_LINE, ROWS = PU_PACKED_ROWS, AHEAD = 128 * LINE };

static inline __attribute__((always_inline)) __m512 zeros_of(const pu_packed_job *j, int64_t group) {
  if (!j->zero) return _mm512_set1_ps((float)(1 << (j->bits - 1)));
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(j->zero + group * ROWS)));
}

static inline __attribute__((always_inline)) __m512 scales_of(const pu_packed_job *j, int64_t group) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(j->scale + group * ROWS)));
}

/* Scales and zeros are a ninth of what is read with 4 bits in groups of 64. */
static inline __attribute__((always_inline)) void scales_ahead(const pu_packed_job *j, int64_t group) {
  _mm_prefetch((const char *)(j->scale + group * ROWS), _MM_HINT_T0);
  if (j->zero) _mm_prefetch((const char *)(j->zero + group * ROWS), _MM_HINT_T0);
}

static inline __attribute__((always_inline)) __m512i low_halves(__m512i v) {
  return _mm512_and_si512(v, _mm512_set1_epi8(15));
}

static inline __attribute__((always_inline)) __m512i high_halves(__m512i v) {
  return _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15));
}

/* ---- x in int8 ---- */

static inline __attribute__((always_inline)) __m512i four_of(const int8_t *x) {
  int32_t v;
  __builtin_memcpy(&v, x, 4);
  return _mm512_set1_epi32(v);
}

/* Sums of integers may be added in any order: with few tokens each has several, so that none waits for itself. */
#define CHAINS(R) ((R) >= 4 ? 1 : 4 / (R))

/* The sums of one group: R tokens, CHAINS each. Four lines a step; with four bits they are two in memory. `ahead`: how
 * far memory is asked for; 0 where the job's blocks end, for what follows is another thread's. */
#define GROUP_SUMS(R, four_bits)                                                                                       \
  for (int l = 0; l < lines; l += 4, q += ((four_bits) ? 2 : 4) * LINE) {                                              \
    _Pragma("GCC unroll 4") for (int s = 0; s < 4; s++) {                                                              \
      const uint8_t *line = q + ((four_bits) ? s / 2 : s) * LINE;                                                      \
      __m512i w = _mm512_loadu_si512(line);                                                                            \
      if (!(four_bits) || s % 2 == 0) _mm_prefetch((const char *)line + ahead, _MM_HINT_T0);                           \
      if (four_bits) w = s % 2 ? high_halves(w) : low_halves(w);                                                       \
      _Pragma("GCC unroll 8") for (int t = 0; t < (R); t++) sum[t][s % CHAINS(R)] =                                    \
          _mm512_dpbusd_epi32(sum[t][s % CHAINS(R)], w, four_of(x + t * x_row + (l + s) * 4));                         \
    }                                                                                                                  \
  }

#define TOKENS(name, R, four_bits)                                                                                     \
  static void name(const pu_packed_job *j, int64_t block, int64_t token) {                                             \
    const int64_t x_row = j->x_row, groups = j->groups;                                                                \
    const int lines = j->group / 4;                                                                                    \
    const int64_t far = (four_bits) ? AHEAD * 2 / (j->group * ROWS) : 0;                                               \
    const uint8_t *q = j->q + block * pu_packed_block_bytes(j), *end = j->q + j->blocks * pu_packed_block_bytes(j);    \
    const int8_t *x = (const int8_t *)j->x + token * x_row;                                                            \
    const pu_x_group *xg = j->xg + token * groups;                                                                     \
    __m512 acc[R];                                                                                                     \
    _Pragma("GCC unroll 8") for (int t = 0; t < (R); t++) acc[t] = _mm512_setzero_ps();                                \
    for (int64_t g = 0; g < groups; g++, x += j->group, xg++) {                                                        \
      __m512i sum[R][CHAINS(R)];                                                                                       \
      _Pragma("GCC unroll 8") for (int t = 0; t < (R); t++)                                                            \
          _Pragma("GCC unroll 4") for (int c = 0; c < CHAINS(R); c++) sum[t][c] = _mm512_setzero_si512();              \
      const int64_t ahead = end - q > AHEAD + PU_PACKED_MAX_GROUP * ROWS ? AHEAD : 0;                                  \
      if ((four_bits) && ahead) scales_ahead(j, far + block * groups + g);                                             \
      GROUP_SUMS(R, four_bits)                                                                                         \
      __m512 scale = scales_of(j, block * groups + g), zero = zeros_of(j, block * groups + g);                         \
      _Pragma("GCC unroll 8") for (int t = 0; t < (R); t++) {                                                          \
        __m512i all = sum[t][0];                                                                                       \
        _Pragma("GCC unroll 4") for (int c = 1; c < CHAINS(R); c++) all = _mm512_add_epi32(all, sum[t][c]);            \
        const pu_x_group *of = xg + t * groups;                                                                        \
        __m512 v = _mm512_fnmadd_ps(zero, _mm512_set1_ps(of->sum), _mm512_cvtepi32_ps(all));                           \
        acc[t] = _mm512_fmadd_ps(v, _mm512_mul_ps(scale, _mm512_set1_ps(of->scale)), acc[t]);                          \
      }                                                                                                                \
    }                                                                                                                  \
    float *out = j->acc + (block * pu_packed_tokens(j->tokens) + token) * ROWS;                                        \
    _Pragma("GCC unroll 8") for (int t = 0; t < (R); t++) _mm512_storeu_ps(out + t * ROWS, acc[t]);                    \
  }
TOKENS(eight_1, 1, 0)
TOKENS(eight_2, 2, 0)
TOKENS(eight_4, 4, 0)
TOKENS(eight_8, 8, 0)
TOKENS(four_1, 1, 1)
TOKENS(four_2, 2, 1)
TOKENS(four_4, 4, 1)
TOKENS(four_8, 8, 1)

void pu_packed_integer_avx512(const pu_packed_job *j, char *room) {
  typedef void (*part)(const pu_packed_job *, int64_t, int64_t);
  static const part eight[] = {eight_1, eight_2, eight_4, eight_8}, four[] = {four_1, four_2, four_4, four_8};
  const part *parts = j->bits == 4 ? four : eight;
  (void)room;
  for (int64_t b = 0; b < j->blocks; b++)
    for (int64_t t = 0; t < j->tokens;) {
      int64_t rest = j->tokens - t;
      int log = rest >= 8 ? 3 : rest >= 4 ? 2 : rest >= 2 ? 1 : 0;
      parts[log](j, b, t);
      t += (int64_t)1 << log;
    }
}

static void round_row(const float *x, int64_t groups, int group, int8_t *q, pu_x_group *xg) {
  for (int64_t g = 0; g < groups; g++, x += group, q += group) {
    __m512 top = _mm512_setzero_ps();
    for (int k = 0; k < group; k += 16) top = _mm512_max_ps(_mm512_abs_ps(_mm512_loadu_ps(x + k)), top);
    float most = _mm512_reduce_max_ps(top);
    if (!(most > 1e-30f)) most = 0;
    __m512 inverse = _mm512_set1_ps(most > 0 ? 127.0f / most : 0);
    __m512i sum = _mm512_setzero_si512();
    for (int k = 0; k < group; k += 16) {
      __m512 v = _mm512_roundscale_ps(_mm512_mul_ps(_mm512_loadu_ps(x + k), inverse), _MM_FROUND_TO_NEAREST_INT);
      v = _mm512_min_ps(_mm512_max_ps(v, _mm512_set1_ps(-127)), _mm512_set1_ps(127));
      __m512i i = _mm512_cvtps_epi32(v);
      sum = _mm512_add_epi32(sum, i);
      _mm_storeu_si128((__m128i *)(q + k), _mm512_cvtepi32_epi8(i));
    }
    xg[g] = (pu_x_group){most / 127.0f, (float)_mm512_reduce_add_epi32(sum)};
  }
}

/* ---- x in f32 ---- */

/* The weights of one group as f32 [group][16]. */
static void group_to_f32(const pu_packed_job *j, int64_t block, int64_t g, float *w) {
  const uint8_t *q = j->q + block * pu_packed_block_bytes(j) + g * j->group * ROWS * j->bits / 8;
  __m512 scale = scales_of(j, block * j->groups + g), zero = zeros_of(j, block * j->groups + g);
  for (int l = 0; l < j->group / 4; l++, w += 4 * ROWS) {
    __m512i v = _mm512_loadu_si512(q + (j->bits == 4 ? l / 2 : l) * LINE);
    if (j->bits == 4) v = l % 2 ? high_halves(v) : low_halves(v);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      __m512i one = _mm512_and_si512(_mm512_srli_epi32(v, 8 * k), _mm512_set1_epi32(255));
      _mm512_storeu_ps(w + k * ROWS, _mm512_mul_ps(_mm512_sub_ps(_mm512_cvtepi32_ps(one), zero), scale));
    }
  }
}

/* acc += R tokens of x times one group's weights. */
#define EXACT(name, R)                                                                                                 \
  static void name(const float *w, int group, const float *x, int64_t x_row, float *acc) {                             \
    __m512 s[R][4];                                                                                                    \
    _Pragma("GCC unroll 4") for (int t = 0; t < (R); t++) _Pragma("GCC unroll 4") for (int k = 0; k < 4; k++)          \
        s[t][k] = _mm512_setzero_ps();                                                                                 \
    for (int i = 0; i < group; i += 4) _Pragma("GCC unroll 4") for (int k = 0; k < 4; k++) {                           \
        __m512 v = _mm512_loadu_ps(w + (i + k) * ROWS);                                                                \
        _Pragma("GCC unroll 4") for (int t = 0; t < (R); t++) s[t][k] =                                                \
            _mm512_fmadd_ps(_mm512_set1_ps(x[t * x_row + i + k]), v, s[t][k]);                                         \
      }                                                                                                                \
    _Pragma("GCC unroll 4") for (int t = 0; t < (R); t++) {                                                            \
      __m512 sum = _mm512_add_ps(_mm512_add_ps(s[t][0], s[t][1]), _mm512_add_ps(s[t][2], s[t][3]));                    \
      _mm512_storeu_ps(acc + t * ROWS, _mm512_add_ps(_mm512_loadu_ps(acc + t * ROWS), sum));                           \
    }                                                                                                                  \
  }
EXACT(exact_1, 1)
EXACT(exact_4, 4)

static void exact(const pu_packed_job *j) {
  _Alignas(64) float w[PU_PACKED_MAX_GROUP * ROWS];
  int64_t rows = pu_packed_tokens(j->tokens);
  __builtin_memset(j->acc, 0, (size_t)(j->blocks * rows * ROWS) * sizeof(float));
  for (int64_t b = 0; b < j->blocks; b++)
    for (int64_t g = 0; g < j->groups; g++) {
      const float *x = (const float *)j->x + g * j->group;
      float *acc = j->acc + b * rows * ROWS;
      int64_t t = 0;
      group_to_f32(j, b, g, w);
      for (; t + 4 <= j->tokens; t += 4) exact_4(w, j->group, x + t * j->x_row, j->x_row, acc + t * ROWS);
      for (; t < j->tokens; t++) exact_1(w, j->group, x + t * j->x_row, j->x_row, acc + t * ROWS);
    }
}

const pu_packed_kernel pu_packed_avx512 = {round_row, pu_packed_integer_avx512, exact};
