/* Products with weights in few bits, with AVX2: a line of weights is two registers of eight outputs. VPMADDUBSW adds
 * pairs of products in 16 bits, which 4-bit weights never fill; weights of 8 bits become w - 128 = +-|w|, |w| <= 128,
 * and x gets the sign: 2 * 128 * 127 fits. */
#include "src/compute/cpu/packed.h"

#include <immintrin.h>
#include <math.h>

enum { LINE = PU_PACKED_LINE, ROWS = PU_PACKED_ROWS };

/* Half h (0, 1) of the sixteen outputs. */
static inline __attribute__((always_inline)) __m256 halfs_of(const uint16_t *p, int64_t group, int h) {
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + group * ROWS + h * 8)));
}

static inline __attribute__((always_inline)) __m256 zeros_of(const pu_packed_job *j, int64_t group, int h) {
  return j->zero ? halfs_of(j->zero, group, h) : _mm256_set1_ps((float)(1 << (j->bits - 1)));
}

/* Half h of line l, unsigned bytes. */
static inline __attribute__((always_inline)) __m256i line_of(const uint8_t *q, int bits, int l, int h) {
  if (bits == 8) return _mm256_loadu_si256((const __m256i *)(q + l * LINE + h * 32));
  __m256i v = _mm256_loadu_si256((const __m256i *)(q + l / 2 * LINE + h * 32));
  if (l % 2) v = _mm256_srli_epi16(v, 4);
  return _mm256_and_si256(v, _mm256_set1_epi8(15));
}

/* ---- x in int8 ---- */

static inline __attribute__((always_inline)) __m256i add_products(__m256i sum, __m256i w, __m256i x, int bits) {
  __m256i pairs;
  if (bits == 4) {
    pairs = _mm256_maddubs_epi16(w, x);
  } else {
    __m256i is = _mm256_xor_si256(w, _mm256_set1_epi8((char)0x80));
    pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(is), _mm256_sign_epi8(x, is));
  }
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* One token, or two that share the weights. */
#define TOKENS(name, R, bits_)                                                                                         \
  static void name(const pu_packed_job *j, int64_t block, int64_t token) {                                             \
    const int64_t groups = j->groups, bytes = (int64_t)j->group * ROWS * (bits_) / 8;                                  \
    const uint8_t *q = j->q + block * pu_packed_block_bytes(j);                                                        \
    const int8_t *x = (const int8_t *)j->x + token * j->x_row;                                                         \
    const pu_x_group *xg = j->xg + token * groups;                                                                     \
    __m256 acc[R][2];                                                                                                  \
    for (int t = 0; t < (R); t++) acc[t][0] = acc[t][1] = _mm256_setzero_ps();                                         \
    for (int64_t g = 0; g < groups; g++, x += j->group, xg++, q += bytes) {                                            \
      __m256i sum[R][2];                                                                                               \
      for (int t = 0; t < (R); t++) sum[t][0] = sum[t][1] = _mm256_setzero_si256();                                    \
      for (int l = 0; l < j->group / 4; l += 2) _Pragma("GCC unroll 2") for (int s = 0; s < 2; s++) {                  \
          __m256i w[2] = {line_of(q, bits_, l + s, 0), line_of(q, bits_, l + s, 1)};                                   \
          _Pragma("GCC unroll 2") for (int t = 0; t < (R); t++) {                                                      \
            int32_t four;                                                                                              \
            __builtin_memcpy(&four, x + t * j->x_row + (l + s) * 4, 4);                                                \
            sum[t][0] = add_products(sum[t][0], w[0], _mm256_set1_epi32(four), bits_);                                 \
            sum[t][1] = add_products(sum[t][1], w[1], _mm256_set1_epi32(four), bits_);                                 \
          }                                                                                                            \
        }                                                                                                              \
      _Pragma("GCC unroll 2") for (int h = 0; h < 2; h++) {                                                            \
        __m256 scale = halfs_of(j->scale, block * groups + g, h), zero = zeros_of(j, block * groups + g, h);           \
        _Pragma("GCC unroll 2") for (int t = 0; t < (R); t++) {                                                        \
          const pu_x_group *of = xg + t * groups;                                                                      \
          __m256i all = sum[t][h]; /* of 8 bits: of q - 128 */                                                         \
          if ((bits_) == 8) all = _mm256_add_epi32(all, _mm256_set1_epi32((int32_t)of->sum * 128));                    \
          __m256 v = _mm256_fnmadd_ps(zero, _mm256_set1_ps(of->sum), _mm256_cvtepi32_ps(all));                         \
          acc[t][h] = _mm256_fmadd_ps(v, _mm256_mul_ps(scale, _mm256_set1_ps(of->scale)), acc[t][h]);                  \
        }                                                                                                              \
      }                                                                                                                \
    }                                                                                                                  \
    float *out = j->acc + (block * pu_packed_tokens(j->tokens) + token) * ROWS;                                        \
    for (int t = 0; t < (R); t++)                                                                                      \
      for (int h = 0; h < 2; h++) _mm256_storeu_ps(out + t * ROWS + h * 8, acc[t][h]);                                 \
  }
TOKENS(eight_1, 1, 8)
TOKENS(eight_2, 2, 8)
TOKENS(four_1, 1, 4)
TOKENS(four_2, 2, 4)

static void integer(const pu_packed_job *j, char *room) {
  (void)room;
  for (int64_t b = 0; b < j->blocks; b++) {
    int64_t t = 0;
    for (; t + 2 <= j->tokens; t += 2) j->bits == 4 ? four_2(j, b, t) : eight_2(j, b, t);
    if (t < j->tokens) j->bits == 4 ? four_1(j, b, t) : eight_1(j, b, t);
  }
}

static float most_of(__m256 v) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

static void round_row(const float *x, int64_t groups, int group, int8_t *q, pu_x_group *xg) {
  const __m256 no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  for (int64_t g = 0; g < groups; g++, x += group, q += group) {
    __m256 top = _mm256_setzero_ps();
    for (int k = 0; k < group; k += 8) top = _mm256_max_ps(_mm256_and_ps(_mm256_loadu_ps(x + k), no_sign), top);
    float most = most_of(top);
    if (!(most > 1e-30f)) most = 0;
    __m256 inverse = _mm256_set1_ps(most > 0 ? 127.0f / most : 0);
    int32_t sum = 0;
    for (int k = 0; k < group; k += 8) {
      __m256 v = _mm256_round_ps(_mm256_mul_ps(_mm256_loadu_ps(x + k), inverse),
                                 _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      v = _mm256_min_ps(_mm256_max_ps(v, _mm256_set1_ps(-127)), _mm256_set1_ps(127));
      int32_t i[8];
      _mm256_storeu_si256((__m256i *)i, _mm256_cvtps_epi32(v));
      for (int n = 0; n < 8; n++) {
        q[k + n] = (int8_t)i[n];
        sum += i[n];
      }
    }
    xg[g] = (pu_x_group){most / 127.0f, (float)sum};
  }
}

/* ---- x in f32 ---- */

/* The weights of one group as f32 [group][16]. */
static void group_to_f32(const pu_packed_job *j, int64_t block, int64_t g, float *w) {
  const uint8_t *q = j->q + block * pu_packed_block_bytes(j) + g * j->group * ROWS * j->bits / 8;
  for (int h = 0; h < 2; h++) {
    __m256 scale = halfs_of(j->scale, block * j->groups + g, h), zero = zeros_of(j, block * j->groups + g, h);
    for (int l = 0; l < j->group / 4; l++) {
      __m256i v = line_of(q, j->bits, l, h);
      for (int k = 0; k < 4; k++) {
        __m256i one = _mm256_and_si256(_mm256_srli_epi32(v, 8 * k), _mm256_set1_epi32(255));
        __m256 value = _mm256_mul_ps(_mm256_sub_ps(_mm256_cvtepi32_ps(one), zero), scale);
        _mm256_storeu_ps(w + (l * 4 + k) * ROWS + h * 8, value);
      }
    }
  }
}

/* acc += the four sums. */
static inline void add_sums(float *acc, __m256 s0, __m256 s1, __m256 s2, __m256 s3) {
  __m256 sum = _mm256_add_ps(_mm256_add_ps(s0, s1), _mm256_add_ps(s2, s3));
  _mm256_storeu_ps(acc, _mm256_add_ps(_mm256_loadu_ps(acc), sum));
}

/* The sums are written out, not looped over: with indices that are constants from the start they stay in registers
 * under sanitizers too. */
static void add_exact(const float *w, int group, const float *x, float *acc) {
  __m256 s[4][2];
#define EACH_SUM(DO) DO(0) DO(1) DO(2) DO(3)
#define ZERO(K)      s[K][0] = s[K][1] = _mm256_setzero_ps();
#define ADD(K)                                                                                                         \
  {                                                                                                                    \
    __m256 v = _mm256_set1_ps(x[i + (K)]);                                                                             \
    s[K][0] = _mm256_fmadd_ps(v, _mm256_loadu_ps(w + (i + (K)) * ROWS), s[K][0]);                                      \
    s[K][1] = _mm256_fmadd_ps(v, _mm256_loadu_ps(w + (i + (K)) * ROWS + 8), s[K][1]);                                  \
  }
  EACH_SUM(ZERO)
  for (int i = 0; i < group; i += 4) {
    EACH_SUM(ADD)
  }
#undef EACH_SUM
#undef ZERO
#undef ADD
  add_sums(acc, s[0][0], s[1][0], s[2][0], s[3][0]);
  add_sums(acc + 8, s[0][1], s[1][1], s[2][1], s[3][1]);
}

static void exact(const pu_packed_job *j) {
  _Alignas(64) float w[PU_PACKED_MAX_GROUP * ROWS];
  int64_t rows = pu_packed_tokens(j->tokens);
  __builtin_memset(j->acc, 0, (size_t)(j->blocks * rows * ROWS) * sizeof(float));
  for (int64_t b = 0; b < j->blocks; b++)
    for (int64_t g = 0; g < j->groups; g++) {
      group_to_f32(j, b, g, w);
      for (int64_t t = 0; t < j->tokens; t++)
        add_exact(w, j->group, (const float *)j->x + t * j->x_row + g * j->group, j->acc + (b * rows + t) * ROWS);
    }
}

const pu_packed_kernel pu_packed_avx2 = {round_row, integer, exact};
