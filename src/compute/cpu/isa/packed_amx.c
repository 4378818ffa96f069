/* Products with weights in few bits, with AMX int8. A tile of weights is a run of lines, a byte each (unpacked once for
 * all tokens), the right operand; a tile of x is sixteen tokens, the left one. 32 tokens meet 32 outputs: four sums in
 * registers 0-3, which go to memory after each group and are scaled there. Inputs are taken five hundred at a time, so
 * that x of 32 tokens stays in L1 while the weights of all blocks pass, from L2.
 *
 * What was just stored from tile registers has to leave the store buffer before vector code can load it, and the sums
 * of two groups are scaled together, since the accumulators, too, have to be loaded and stored. So groups go by twos (a
 * chunk), and a chunk is scaled while the products of the next but one begin: three chunks are on their way. */
#include "src/compute/cpu/packed.h"

#include <immintrin.h>
#include <string.h>

enum { LINE = PU_PACKED_LINE, ROWS = PU_PACKED_ROWS, TOKENS = 32, CHUNK = 2, TILE = 256 };
/* Inputs at a time: those whose x stays in L1, and those whose weights are unpacked. */
enum { PANEL = 512, PART = 2048, MIN_GROUP = 32 };

#define INLINE static inline __attribute__((always_inline))

/* Of sixteen outputs and one group. */
typedef struct w_scales {
  float scale[ROWS], zero[ROWS];
} w_scales;

/* Of 32 tokens and the groups of a panel; one more, of zeros, makes an odd number of them even. */
typedef struct x_scales {
  float scale[PANEL / MIN_GROUP + 1][TOKENS], sum[PANEL / MIN_GROUP + 1][TOKENS];
} x_scales;

/* Two blocks, 32 tokens, two groups. */
typedef struct chunk {
  const int8_t *x[CHUNK];
  const uint8_t *w[CHUNK]; /* tiles of the first and of the second block in turn */
  const float (*x_scale)[TOKENS], (*x_sum)[TOKENS];
  const w_scales (*of_w)[2]; /* [CHUNK] */
  float *acc[2];             /* of each block */
  bool first;                /* nothing is in acc */
  int32_t (*sums)[4 * TILE]; /* [CHUNK] */
} chunk;

enum { PAIRS = PU_PACKED_BLOCKS / 2, IDLE = 3 };

/* What lies in `room`. */
typedef struct desk {
  int32_t sums[2][CHUNK][4 * TILE]; /* of chunks in turn */
  x_scales of_x[IDLE + 1];          /* of the three chunks, and zeros */
  w_scales none[CHUNK][2];          /* zeros */
  float nowhere[TOKENS * ROWS];
  w_scales of_w[PAIRS][PART / MIN_GROUP + 1][2]; /* one more than groups: zeros */
  uint8_t w[PAIRS][2 * PART * ROWS];
} desk;

_Static_assert(sizeof(desk) <= PU_PACKED_ROOM && PU_PACKED_MAX_GROUP == 128, "the room holds it");

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

INLINE __m512 halfs(const uint16_t *p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* ---- weights, a byte each ---- */

/* Whether the zeros of these blocks can be taken off their weights in a byte: q - zero is exact there, and so is what
 * comes of it, fma(-zero, X, I), which is an integer. */
static bool takes_zeros_off(const pu_packed_job *j) {
  if (!j->zero) return true;
  const __m512 most = _mm512_set1_ps(112);
  __mmask16 good = j->bits == 4 ? 0xffff : 0;
  for (int64_t i = 0; good == 0xffff && i < j->blocks * j->groups; i++) {
    __m512 zero = halfs(j->zero + i * ROWS);
    good = _mm512_cmp_ps_mask(zero, _mm512_roundscale_ps(zero, _MM_FROUND_TO_NEAREST_INT), _CMP_EQ_OQ);
    good &= _mm512_cmp_ps_mask(zero, _mm512_setzero_ps(), _CMP_GE_OQ);
    good &= _mm512_cmp_ps_mask(zero, most, _CMP_LE_OQ);
  }
  return good == 0xffff;
}

static __m512 zeros_of(const pu_packed_job *j, int64_t group) {
  return j->zero ? halfs(j->zero + group * ROWS) : _mm512_set1_ps((float)(1 << (j->bits - 1)));
}

/* What is taken off the bytes of one group. */
static __m512i offset_of(const pu_packed_job *j, int64_t group, bool off) {
  if (!off) return _mm512_setzero_si512();
  return _mm512_mullo_epi32(_mm512_cvtps_epi32(zeros_of(j, group)), _mm512_set1_epi32(0x01010101));
}

/* The lines of one tile. */
static const uint8_t *unpack_tile(const uint8_t *q, int bits, int64_t lines, __m512i offset, uint8_t *to) {
  const __m512i low = _mm512_set1_epi8(15);
  if (bits == 8) {
    for (int64_t i = 0; i < lines; i++, q += LINE)
      _mm512_store_si512(to + i * LINE, _mm512_sub_epi8(_mm512_loadu_si512(q), offset));
    return q;
  }
  for (int64_t i = 0; i < lines; i += 2, q += LINE) {
    __m512i both = _mm512_loadu_si512(q), high = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    _mm512_store_si512(to + i * LINE, _mm512_sub_epi8(_mm512_and_si512(both, low), offset));
    _mm512_store_si512(to + (i + 1) * LINE, _mm512_sub_epi8(high, offset));
  }
  return q;
}

/* Groups [g0, g0 + depth) of one block, every other tile, and their scales. */
static void unpack(const pu_packed_job *j, int64_t block, int64_t g0, int64_t depth, bool off, desk *d) {
  const int64_t lines = j->group / 4, tile = PU_MIN(lines, 16), first = block * j->groups + g0;
  const uint8_t *q = j->q + first * j->group * ROWS * j->bits / 8;
  uint8_t *to = d->w[block / 2] + block % 2 * tile * LINE;
  w_scales(*of_w)[2] = d->of_w[block / 2];
  for (int64_t g = 0; g < depth; g++) {
    const __m512i offset = offset_of(j, first + g, off);
    for (int64_t l = 0; l < lines; l += tile, to += 2 * tile * LINE) q = unpack_tile(q, j->bits, tile, offset, to);
    _mm512_store_ps(of_w[g][block % 2].scale, halfs(j->scale + (first + g) * ROWS));
    _mm512_store_ps(of_w[g][block % 2].zero, zeros_of(j, first + g));
  }
  memset(of_w[depth], 0, sizeof of_w[depth]);
}

/* ---- products, and scaling their sums ---- */

/* n of the 64 rows of a chunk's sums: four tiles of sixteen tokens, tokens' half first, then block. */
INLINE void scale_rows(const chunk *k, const int row, const int n, const bool off) {
  const int tile = row / 16, token = tile / 2 * 16 + row % 16;
  float *to = k->acc[tile % 2] + token * ROWS;
  __m512 acc[8];
#pragma GCC unroll 8
  for (int t = 0; t < n; t++) acc[t] = k->first ? _mm512_setzero_ps() : _mm512_load_ps(to + t * ROWS);
#pragma GCC unroll 2
  for (int g = 0; g < CHUNK; g++) {
    const w_scales *w = &k->of_w[g][tile % 2];
    const float *x_scale = k->x_scale[g] + token, *x_sum = k->x_sum[g] + token;
    const int32_t *sums = k->sums[g] + row * ROWS;
    __m512 scale = _mm512_load_ps(w->scale), zero = _mm512_load_ps(w->zero);
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) {
      __m512 v = _mm512_cvtepi32_ps(_mm512_load_si512(sums + t * ROWS));
      if (!off) v = _mm512_fnmadd_ps(zero, _mm512_set1_ps(x_sum[t]), v);
      acc[t] = _mm512_fmadd_ps(v, _mm512_mul_ps(scale, _mm512_set1_ps(x_scale[t])), acc[t]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < n; t++) _mm512_store_ps(to + t * ROWS, acc[t]);
}

/* A register is an immediate in the intrinsics, so these are no functions. */
#define KEEP(tile)                                                                                                     \
  if (i == 0) {                                                                                                        \
    _tile_stored(tile, sums + TILE * (tile), LINE);                                                                    \
    _tile_zero(tile);                                                                                                  \
  }
#define MULTIPLY(tile, a, b)                                                                                           \
  if (off)                                                                                                             \
    _tile_dpbssd(tile, a, b);                                                                                          \
  else                                                                                                                 \
    _tile_dpbsud(tile, a, b);                                                                                          \
  scale_rows(before, ((tile) + 1) % 4 * 16 + ((tile) % 2 ? row : 8 - row) + i * (8 / steps), 8 / steps, off);

/* The products of one group, in `steps` tiles. Meanwhile the sums of the group before, which the registers hold, go to
 * `sums`, and half the rows of an earlier chunk are scaled. */
INLINE void multiply(const pu_packed_job *j, const int8_t *x, const uint8_t *w, int32_t *sums, const chunk *before,
                     const int row, const int steps, const bool off) {
  const int step = j->group / steps;
  const size_t x_row = (size_t)j->x_row;
#pragma GCC unroll 2
  for (int i = 0; i < steps; i++, x += step, w += 2 * step * ROWS) {
    _tile_loadd(4, x, x_row);
    _tile_stream_loadd(6, w, LINE);
    KEEP(0)
    MULTIPLY(0, 4, 6)
    _tile_stream_loadd(7, w + step * ROWS, LINE);
    KEEP(1)
    MULTIPLY(1, 4, 7)
    _tile_loadd(5, x + 16 * x_row, x_row);
    KEEP(2)
    MULTIPLY(2, 5, 6)
    KEEP(3)
    MULTIPLY(3, 5, 7)
  }
}

/* The products of `now`; the last group of `one` is kept, its first half of rows and the second half of `two` scaled.
 */
#define RUN(name, steps, off)                                                                                          \
  static void name(const pu_packed_job *j, const chunk *now, const chunk *one, const chunk *two) {                     \
    multiply(j, now->x[0], now->w[0], one->sums[1], two, 8, steps, off);                                               \
    multiply(j, now->x[1], now->w[1], now->sums[0], one, 0, steps, off);                                               \
  }
RUN(run_1, 1, false)
RUN(run_2, 2, false)
RUN(run_1_off, 1, true)
RUN(run_2_off, 2, true)

typedef struct pipe {
  const pu_packed_job *j;
  desk *d;
  void (*run)(const pu_packed_job *, const chunk *now, const chunk *one, const chunk *two);
  chunk idle, on_way[3]; /* products of nothing, which end nowhere */
  int64_t n;             /* chunks begun: the next one is on_way[n % 3] */
  int64_t panels;        /* begun; of_x[panels % 3] is the last one's */
} pipe;

static void start(pipe *p, const pu_packed_job *j, bool off, desk *d) {
  *p = (pipe){.j = j, .d = d};
  if (j->group == 128)
    p->run = off ? run_2_off : run_2;
  else
    p->run = off ? run_1_off : run_1;
  memset(&d->of_x[IDLE], 0, sizeof d->of_x[IDLE]);
  memset(d->none, 0, sizeof d->none);
  memset(d->nowhere, 0, sizeof d->nowhere);
  p->idle = (chunk){.x = {j->x, j->x},
                    .w = {d->w[0], d->w[0]},
                    .x_scale = d->of_x[IDLE].scale,
                    .x_sum = d->of_x[IDLE].sum,
                    .of_w = d->none,
                    .acc = {d->nowhere, d->nowhere},
                    .first = true};
  for (int i = 0; i < 3; i++) p->on_way[i] = p->idle, p->on_way[i].sums = d->sums[i % 2];
}

static void go_on(pipe *p, const chunk *c) {
  chunk *now = &p->on_way[p->n % 3];
  *now = *c;
  now->sums = p->d->sums[p->n % 2];
  p->run(p->j, now, &p->on_way[(p->n + 2) % 3], &p->on_way[(p->n + 1) % 3]);
  p->n++;
}

static const x_scales *scales_of_x(pipe *p, int64_t token, int64_t g0, int64_t groups) {
  const pu_packed_job *j = p->j;
  x_scales *out = &p->d->of_x[++p->panels % 3];
  for (int64_t t = 0; t < TOKENS; t++)
    for (int64_t g = 0; g < groups; g++) {
      const pu_x_group *xg = j->xg + (token + t) * j->groups + g0 + g;
      out->scale[g][t] = xg->scale;
      out->sum[g][t] = xg->sum;
    }
  memset(out->scale[groups], 0, sizeof out->scale[groups]);
  memset(out->sum[groups], 0, sizeof out->sum[groups]); /* what lay there may be no number */
  return out;
}

/* Groups [from, to) of a part that begins at g0, all blocks, 32 tokens. Of an odd number of groups the last counts
 * twice, the second time with a scale of zero; of an odd number of blocks the last has a neighbour that goes nowhere.
 */
static void one_panel(pipe *p, int64_t token, int64_t g0, int64_t from, int64_t to) {
  const pu_packed_job *j = p->j;
  const int64_t rows = pu_packed_tokens(j->tokens), bytes = 2 * j->group * ROWS;
  const x_scales *of_x = scales_of_x(p, token, g0 + from, to - from);
  for (int64_t b = 0; b < j->blocks; b += 2) {
    float *acc = j->acc + (b * rows + token) * ROWS;
    const uint8_t *w = p->d->w[b / 2];
    for (int64_t g = from; g < to; g += CHUNK) {
      const int8_t *x = (const int8_t *)j->x + token * j->x_row + (g0 + g) * j->group;
      const bool both = g + 1 < to;
      go_on(p, &(chunk){.x = {x, both ? x + j->group : x},
                        .w = {w + g * bytes, w + (both ? g + 1 : g) * bytes},
                        .x_scale = of_x->scale + g - from,
                        .x_sum = of_x->sum + g - from,
                        .of_w = (const w_scales(*)[2])p->d->of_w[b / 2] + g,
                        .acc = {acc, b + 1 < j->blocks ? acc + rows * ROWS : p->d->nowhere},
                        .first = g0 + g == 0});
    }
  }
}

static void integer(const pu_packed_job *j, char *room) {
  if (j->tokens <= PU_PACKED_FEW) {
    pu_packed_integer_avx512(j, room);
    return;
  }
  const bool off = takes_zeros_off(j);
  const int64_t part = PART / j->group, panel = PANEL / j->group;
  desk *d = (desk *)room;
  pipe p;
  start(&p, j, off, d);
  begin(j->group);
  for (int64_t g0 = 0; g0 < j->groups; g0 += part) {
    const int64_t depth = PU_MIN(part, j->groups - g0);
    for (int64_t b = 0; b < j->blocks; b++) unpack(j, b, g0, depth, off, d);
    for (int64_t token = 0; token < j->tokens; token += TOKENS)
      for (int64_t g = 0; g < depth; g += panel) one_panel(&p, token, g0, g, PU_MIN(depth, g + panel));
    go_on(&p, &p.idle); /* the scales of w change, and those on their way need them */
    go_on(&p, &p.idle);
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
