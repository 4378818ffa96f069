/* Products with weights in few bits, with AMX int8. A tile of weights is a run of lines as they lie (of 4 bits:
 * unpacked once for all tokens), the right operand; a tile of x is sixteen tokens, the left one. 32 tokens meet 32
 * outputs: four sums in registers 0-3, which go to memory after each group and are scaled there. Inputs are taken a
 * thousand at a time, so that x of 32 tokens stays in L1 while the weights of several blocks pass. */
#include "src/compute/cpu/packed.h"

#include <immintrin.h>
#include <string.h>

enum { LINE = PU_PACKED_LINE, ROWS = PU_PACKED_ROWS, TOKENS = 32, DEPTH = 1024, CACHED = 512 << 10 };

/* x: 16 tokens of `step` inputs; weights: step / 4 lines; sums: 16 by 16. Static: gcc 12 does not know that
 * _tile_loadconfig reads it all. */
static void begin(int group) {
  typedef struct config {
    uint8_t palette, start_row, reserved[14];
    uint16_t line_bytes[16];
    uint8_t rows[16];
  } config;
  static const config by_32 = {
      .palette = 1, .line_bytes = {64, 64, 64, 64, 32, 32, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 8, 8}};
  static const config by_64 = {
      .palette = 1, .line_bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
  if (group == 32)
    _tile_loadconfig(&by_32);
  else
    _tile_loadconfig(&by_64);
}

/* One group of two blocks. sums: [2][2][16][16], tokens' half first. */
static void group_sums(const int8_t *x, int64_t x_row, const uint8_t *w0, const uint8_t *w1, int group, int32_t *sums) {
  const int step = group == 32 ? 32 : 64;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int k = 0; k < group; k += step) {
    _tile_loadd(4, x + k, (size_t)x_row);
    _tile_loadd(6, w0 + k * ROWS, LINE);
    _tile_dpbsud(0, 4, 6);
    _tile_loadd(7, w1 + k * ROWS, LINE);
    _tile_dpbsud(1, 4, 7);
    _tile_loadd(5, x + 16 * x_row + k, (size_t)x_row);
    _tile_dpbsud(2, 5, 6);
    _tile_dpbsud(3, 5, 7);
  }
  _tile_stored(0, sums, LINE);
  _tile_stored(1, sums + 256, LINE);
  _tile_stored(2, sums + 512, LINE);
  _tile_stored(3, sums + 768, LINE);
}

static __m512 halfs(const uint16_t *p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* Sums of one block's outputs for 32 tokens, scaled, on top of acc. */
static void add_scaled(const pu_packed_job *j, int64_t block, int64_t g, int64_t token, const int32_t *sums) {
  int64_t at = (block * j->groups + g) * ROWS;
  float *acc = j->acc + (block * pu_packed_tokens(j->tokens) + token) * ROWS;
  const pu_x_group *xg = j->xg + token * j->groups + g;
  __m512 scale = halfs(j->scale + at);
  __m512 zero = j->zero ? halfs(j->zero + at) : _mm512_set1_ps((float)(1 << (j->bits - 1)));
#pragma GCC unroll 4
  for (int t = 0; t < TOKENS; t++, acc += ROWS, xg += j->groups) {
    __m512i sum = _mm512_load_si512(sums + t / 16 * 512 + t % 16 * ROWS);
    __m512 v = _mm512_fnmadd_ps(zero, _mm512_set1_ps(xg->sum), _mm512_cvtepi32_ps(sum));
    _mm512_store_ps(acc, _mm512_fmadd_ps(v, _mm512_mul_ps(scale, _mm512_set1_ps(xg->scale)), _mm512_load_ps(acc)));
  }
}

static const uint8_t *unpacked(const pu_packed_job *j, int64_t block, int64_t blocks, char *room) {
  int64_t bytes = pu_packed_block_bytes(j);
  const uint8_t *q = j->q + block * bytes;
  if (j->bits == 8) return q;
  const __m512i low = _mm512_set1_epi8(15);
  char *to = room;
  for (int64_t i = 0; i < blocks * bytes; i += LINE, to += 2 * LINE) {
    __m512i both = _mm512_loadu_si512(q + i);
    _mm512_store_si512(to, _mm512_and_si512(both, low));
    _mm512_store_si512(to + LINE, _mm512_and_si512(_mm512_srli_epi16(both, 4), low));
  }
  return (const uint8_t *)room;
}

/* A pair of blocks against 32 tokens, depth groups from g0 on. A group's sums are scaled while the next one's products
 * run: what was just stored from tile registers has to leave the store buffer before vector code can load it. */
static void one_pair(const pu_packed_job *j, int64_t block, bool both, const uint8_t *w0, const uint8_t *w1,
                     int64_t token, int64_t g0, int64_t depth) {
  _Alignas(64) int32_t sums[2][4 * 256];
  const int8_t *x = (const int8_t *)j->x + token * j->x_row + g0 * j->group;
  for (int64_t g = 0; g <= depth; g++) {
    if (g < depth) {
      int64_t at = (g0 + g) * j->group * ROWS;
      group_sums(x + g * j->group, j->x_row, w0 + at, w1 + at, j->group, sums[g & 1]);
    }
    if (g == 0) continue;
    add_scaled(j, block, g0 + g - 1, token, sums[(g - 1) & 1]);
    if (both) add_scaled(j, block + 1, g0 + g - 1, token, sums[(g - 1) & 1] + 256);
  }
}

/* Blocks [block, block + blocks), whose weights lie at w, a byte each. Of an odd number the last is its own pair. */
static void some_blocks(const pu_packed_job *j, int64_t block, int64_t blocks, const uint8_t *w) {
  int64_t bytes = j->groups * j->group * ROWS, depth = DEPTH / j->group;
  for (int64_t token = 0; token < j->tokens; token += TOKENS)
    for (int64_t g0 = 0; g0 < j->groups; g0 += depth)
      for (int64_t b = 0; b < blocks; b += 2) {
        const bool both = b + 1 < blocks;
        const uint8_t *w0 = w + b * bytes;
        one_pair(j, block + b, both, w0, both ? w0 + bytes : w0, token, g0, PU_MIN(depth, j->groups - g0));
      }
}

static void integer(const pu_packed_job *j, char *room) {
  if (j->tokens <= PU_PACKED_FEW) {
    pu_packed_integer_avx512(j, room);
    return;
  }
  int64_t each = j->groups * j->group * ROWS, most = PU_MAX(CACHED / each / 2 * 2, 2); /* a part of the L2 cache */
  memset(j->acc, 0, (size_t)(j->blocks * pu_packed_tokens(j->tokens) * ROWS) * sizeof(float));
  begin(j->group);
  for (int64_t b = 0; b < j->blocks; b += most) {
    int64_t n = PU_MIN(j->blocks - b, most);
    some_blocks(j, b, n, unpacked(j, b, n, room));
  }
  _tile_release();
}

static void round_row(const float *x, int64_t groups, int group, int8_t *q, pu_x_group *xg) {
  pu_packed_avx512.round(x, groups, group, q, xg);
}

static void exact(const pu_packed_job *j) {
  pu_packed_avx512.exact(j);
}

const pu_packed_kernel pu_packed_amx = {round_row, integer, exact};
