/* Matrix product in bf16 with AMX. A tile register holds 16 rows of 64 bytes; one instruction multiplies a
 * tile of A (16 rows, 32 k) by a tile of B (16 columns, the same k) into 16 x 16 sums, in 16
 * cycles. Micro tile 32 x 32: registers 0-3 are the sums, 4-5 two tiles of A, 6-7 two of B, so that four loads feed
 * four products.
 *
 * A is packed as [2][k / unit] tiles, each row-major: what a tiled weight is already. B as [k / unit][2] tiles whose
 * line i holds k = 2 i, 2 i + 1 of 16 columns: units of 32 bits.
 * The A panel (32 KiB at kc = 512) stays in L1; B comes from L2 by the streaming load, which leaves L1 to A. Rows of A
 * with k next to k are tiles as they lie too, a row's bytes from line to line. */
#include "src/compute/cpu/isa/gemm_avx512.h"

#include <string.h>

enum { MR = 32, NR = 32, LINE = PU_TILE_ROW_BYTES, TILE = PU_TILE_BYTES };
enum { BF16_UNIT = 32, BF16_KC = 512, DEPTHS = 4, MOST_SUMS = 1 << 19 };

/* All eight registers at their full size. In static memory: gcc 12 does not know that _tile_loadconfig reads it all. */
static void begin(void) {
  static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t line_bytes[16];
    uint8_t rows[16];
  } config = {.palette = 1,
              .line_bytes = {LINE, LINE, LINE, LINE, LINE, LINE, LINE, LINE},
              .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
  _tile_loadconfig(&config);
}

static void end(void) {
  _tile_release();
  _mm_sfence(); /* stores past the caches are seen before the other threads hear that the work is done */
}

/* ---- micro kernels ---- */

/* The next product's sums lie behind this one's: into L1, four lines a step. */
static inline __attribute__((always_inline)) void fetch_sums(const float *acc, int64_t i) {
#pragma GCC unroll 4
  for (int line = 0; line < 4; line++) _mm_prefetch((const char *)acc + (i * 4 + line) * LINE, _MM_HINT_T0);
}

/* The sums are kept as four tiles of 1 KiB, one after the other: stores of whole lines in a row are the cheapest. */
static void micro(const pu_panel_a *panel, const void *b_panel, int64_t k, float *acc, bool add,
                  const pu_fetch *fetch) {
  const char *a = panel->data, *b = b_panel;
  const int64_t line = panel->line, k_tile = panel->k_tile, row_tile = panel->row_tile;
  if (add) {
    _tile_loadd(0, acc, LINE);
    _tile_loadd(1, acc + 256, LINE);
    _tile_loadd(2, acc + 512, LINE);
    _tile_loadd(3, acc + 768, LINE);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t i = 0; i * BF16_UNIT < k; i++, a += k_tile, b += 2 * TILE) {
    pu_fetch_step(fetch, i);
    if (add) fetch_sums(acc + MR * NR, i);
    _tile_stream_loadd(6, b, LINE);
    _tile_loadd(4, a, line);
    _tile_dpbf16ps(0, 4, 6);
    _tile_stream_loadd(7, b + TILE, LINE);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a + row_tile, line);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, acc, LINE);
  _tile_stored(1, acc + 256, LINE);
  _tile_stored(2, acc + 512, LINE);
  _tile_stored(3, acc + 768, LINE);
}

/* ---- packing ---- */

static __mmask64 mask_bytes(int64_t n) {
  return n >= 64 ? ~0ull : n <= 0 ? 0 : (1ull << n) - 1;
}

static int64_t lines_of(const pu_panel *p, int64_t *k_bytes) {
  *k_bytes = p->k * 2;
  return (*k_bytes + LINE - 1) / LINE;
}

static const char *row_of(const pu_panel *p, int64_t r) {
  return (const char *)p->data + r * p->r_step * 2;
}

/* Reads rows a line at a time, one row after the other. Tiles take a line of each of sixteen rows, which no prefetcher
 * foresees; rows in a row it does, and then the tiles come from L2. */
static void touch_rows(const pu_panel *p, int64_t from, int64_t to) {
  for (int r = 0; r < p->rows; r++)
    for (const char *at = row_of(p, r) + from, *end = row_of(p, r) + to; at < end; at += LINE)
      __asm__ volatile("" ::"r"(*at));
}

enum { TOUCH_BYTES = 4096 }; /* of a row */

static void touch_next(const pu_panel *p, int64_t t, int64_t k_bytes) {
  if (t * LINE % TOUCH_BYTES == 0) touch_rows(p, t * LINE, PU_MIN(k_bytes, t * LINE + TOUCH_BYTES));
}

/* A, k next to k: rows are copied by lines of 64 bytes. */
static void pack_a_k_adjacent(char *dst, const pu_panel *p) {
  int64_t k_bytes, tiles = lines_of(p, &k_bytes);
  for (int64_t t = 0; t < tiles; t++) {
    touch_next(p, t, k_bytes);
    __mmask64 have = mask_bytes(k_bytes - t * LINE);
    for (int r = 0; r < p->lanes; r++) {
      char *line = dst + (r / 16 * tiles + t) * TILE + r % 16 * LINE;
      _mm512_store_si512(line,
                         r < p->rows ? _mm512_maskz_loadu_epi8(have, row_of(p, r) + t * LINE) : _mm512_setzero_si512());
    }
  }
}

/* One tile of B or of decode's x: 16 columns' lines from line t on, transposed in units of 32 bits. Rows a multiple of
 * 2 KiB apart share so few sets of L1 that each line had better be read once. */
static inline void pack_tile(char *tile, const pu_panel *p, int first, int64_t t, int64_t k_bytes) {
  __m512i square[16];
  int64_t step = row_of(p, 1) - row_of(p, 0);
  if (first + 16 <= p->rows && (t + 1) * LINE <= k_bytes && step % 2048 != 0) {
    pu_load_transposed(row_of(p, first) + t * LINE, step, 16, square);
  } else {
    __mmask64 have = mask_bytes(k_bytes - t * LINE);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
      square[i] =
          first + i < p->rows ? _mm512_maskz_loadu_epi8(have, row_of(p, first + i) + t * LINE) : _mm512_setzero_si512();
    pu_transpose16(square);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) _mm512_store_si512(tile + i * LINE, square[i]);
}

/* B, k next to k. */
static void pack_b_k_adjacent(char *dst, const pu_panel *p) {
  int64_t k_bytes, tiles = lines_of(p, &k_bytes);
  for (int64_t t = 0; t < tiles; t++) {
    touch_next(p, t, k_bytes);
    for (int half = 0; half < 2; half++) pack_tile(dst + (2 * t + half) * TILE, p, half * 16, t, k_bytes);
  }
}

/* bf16 of two neighbouring k, 32 rows each, as pairs. In quarters of the registers: lo holds rows 0-3, 8-11, 16-19,
 * 24-27, hi the others. */
static inline void load_pairs(const pu_panel *p, int64_t k, __mmask32 have, __m512i *lo, __m512i *hi) {
  const uint16_t *row = (const uint16_t *)p->data + k * p->k_step;
  _mm_prefetch((const char *)(row + NR), _MM_HINT_T0); /* the same place of the next panel */
  _mm_prefetch((const char *)(row + NR + p->k_step), _MM_HINT_T0);
  __m512i even = _mm512_maskz_loadu_epi16(k < p->k ? have : 0, row);
  __m512i odd = _mm512_maskz_loadu_epi16(k + 1 < p->k ? have : 0, row + p->k_step);
  *lo = _mm512_unpacklo_epi16(even, odd);
  *hi = _mm512_unpackhi_epi16(even, odd);
}

static __mmask32 mask_rows(const pu_panel *p) {
  return p->rows >= 32 ? ~0u : (1u << p->rows) - 1;
}

/* A, rows next to rows: pairs of k are made and then transposed; the rows' order in lo and hi decides the line. */
static void pack_a_rows_adjacent(char *dst, const pu_panel *p) {
  int64_t tiles = (p->k + BF16_UNIT - 1) / BF16_UNIT;
  for (int64_t t = 0; t < tiles; t++) {
    __m512i lo[16], hi[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) load_pairs(p, t * BF16_UNIT + 2 * i, mask_rows(p), &lo[i], &hi[i]);
    pu_transpose16(lo);
    pu_transpose16(hi);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
      int row = i / 4 * 8 + i % 4;
      char *line = dst + (row / 16 * tiles + t) * TILE + row % 16 * LINE;
      _mm512_store_si512(line, lo[i]);
      _mm512_store_si512(line + 4 * LINE, hi[i]);
    }
  }
}

/* B, columns next to columns: a line is a pair of k. */
static void pack_b_rows_adjacent(char *dst, const pu_panel *p) {
  int64_t tiles = (p->k + BF16_UNIT - 1) / BF16_UNIT;
  const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  for (int64_t t = 0; t < tiles; t++)
    for (int i = 0; i < 16; i++) {
      __m512i lo, hi;
      load_pairs(p, t * BF16_UNIT + 2 * i, mask_rows(p), &lo, &hi);
      char *line = dst + 2 * t * TILE + i * LINE;
      _mm512_store_si512(line, _mm512_permutex2var_epi64(lo, first, hi));
      _mm512_store_si512(line + TILE, _mm512_permutex2var_epi64(lo, second, hi));
    }
}

static void pack_a(void *dst, const pu_panel *p) {
  if (p->k_step == 1)
    pack_a_k_adjacent(dst, p);
  else
    pack_a_rows_adjacent(dst, p);
}

static void pack_b(void *dst, const pu_panel *p) {
  if (p->k_step == 1)
    pack_b_k_adjacent(dst, p);
  else
    pack_b_rows_adjacent(dst, p);
}

/* ---- into C ---- */

/* The part of a micro tile that one tile of sums covers; false where C ends before it. */
static bool quarter(const pu_gemm_tile *t, int i, int j, pu_gemm_tile *part) {
  int64_t size = t->type == PU_BF16 ? 2 : 4, bias_size = t->bias_type == PU_F32 ? 4 : 2;
  *part = *t;
  part->acc = t->acc + (i * 2 + j) * 256;
  part->ld = 16;
  part->rows = PU_MIN(t->rows - i * 16, 16);
  part->cols = PU_MIN(t->cols - j * 16, 16);
  part->c = (char *)t->c + (t->transposed ? j * 16 * t->c_row + i * 16 : i * 16 * t->c_row + j * 16) * size;
  if (t->bias) part->bias = (const char *)t->bias + (t->transposed ? i : j) * 16 * bias_size;
  return part->rows > 0 && part->cols > 0;
}

/* A line of C, past the caches if it is one and is to go so. */
static inline void put_line(char *c, __m512i v, bool stream) {
  if (stream && (uintptr_t)c % LINE == 0)
    _mm512_stream_si512((void *)c, v);
  else
    _mm512_storeu_si512(c, v);
}

static inline void put_pair(char *c, __m512 lo, __m512 hi, const pu_gemm_tile *t) {
  if (t->type == PU_F32) {
    put_line(c, _mm512_castps_si512(lo), t->stream);
    put_line(c + LINE, _mm512_castps_si512(hi), t->stream);
  } else {
    put_line(c, (__m512i)_mm512_cvtne2ps_pbh(hi, lo), t->stream);
  }
}

/* A whole tile that is only to be copied: what most products of a model are. Lines of C come from two tiles of sums. */
static void store_whole(const pu_gemm_tile *t) {
  const int64_t row = t->c_row * (t->type == PU_F32 ? 4 : 2);
  char *c = t->c;
  for (int half = 0; half < 2; half++)
    if (t->transposed) { /* 16 columns, which are rows of C */
      __m512i lo[16], hi[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) {
        lo[i] = _mm512_load_si512(t->acc + half * 256 + i * 16);
        hi[i] = _mm512_load_si512(t->acc + 512 + half * 256 + i * 16);
      }
      pu_transpose16(lo);
      pu_transpose16(hi);
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++, c += row) put_pair(c, _mm512_castsi512_ps(lo[i]), _mm512_castsi512_ps(hi[i]), t);
    } else {
      const float *sums = t->acc + half * 512;
      for (int i = 0; i < 16; i++, c += row)
        put_pair(c, _mm512_load_ps(sums + i * 16), _mm512_load_ps(sums + 256 + i * 16), t);
    }
}

static void store_float(const pu_gemm_tile *t) {
  pu_gemm_tile part;
  if (t->rows == MR && t->cols == NR && t->alpha == 1.0f && t->beta == 0.0f && !t->bias) {
    store_whole(t);
    return;
  }
  for (int i = 0; i < 4; i++)
    if (quarter(t, i / 2, i % 2, &part)) pu_gemm_store_avx512(&part);
}

/* ---- decode: each weight tile is loaded once, and meets up to four tiles of 16 tokens ---- */

enum { STREAM_ROWS = 64, AHEAD = 16 * TILE };

/* x: [k_tiles][groups] tiles, groups = tokens / 16, rounded up. */
static void stream_pack(void *dst, const pu_panel *x, int64_t k_tiles) {
  int groups = (x->rows + 15) / 16;
  for (int64_t t = 0; t < k_tiles; t++)
    for (int gr = 0; gr < groups; gr++) pack_tile((char *)dst + (t * groups + gr) * TILE, x, gr * 16, t, x->k * 2);
}

static inline void fetch_tile(const char *tile) {
#pragma GCC unroll 16
  for (int i = 0; i < PU_TILE_ROWS; i++) _mm_prefetch(tile + i * LINE, _MM_HINT_T1);
}

static void stream_1(const char *w, int64_t k_tiles, const char *x, float *out, int ld) {
  _tile_zero(0);
  for (int64_t t = 0; t < k_tiles; t++, w += TILE, x += TILE) {
    fetch_tile(w + AHEAD);
    _tile_loadd(4, w, LINE);
    _tile_loadd(5, x, LINE);
    _tile_dpbf16ps(0, 4, 5);
  }
  _tile_stored(0, out, (size_t)ld * 4);
}

static void stream_2(const char *w, int64_t k_tiles, const char *x, float *out, int ld) {
  _tile_zero(0);
  _tile_zero(1);
  for (int64_t t = 0; t < k_tiles; t++, w += TILE, x += 2 * TILE) {
    fetch_tile(w + AHEAD);
    _tile_loadd(4, w, LINE);
    _tile_loadd(5, x, LINE);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(6, x + TILE, LINE);
    _tile_dpbf16ps(1, 4, 6);
  }
  _tile_stored(0, out, (size_t)ld * 4);
  _tile_stored(1, out + 16, (size_t)ld * 4);
}

/* groups: 3 or 4. */
static void stream_4(const char *w, int64_t k_tiles, const char *x, int groups, float *out, int ld) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t t = 0; t < k_tiles; t++, w += TILE, x += groups * TILE) {
    fetch_tile(w + AHEAD);
    _tile_loadd(4, w, LINE);
    _tile_loadd(5, x, LINE);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(6, x + TILE, LINE);
    _tile_dpbf16ps(1, 4, 6);
    _tile_loadd(7, x + 2 * TILE, LINE);
    _tile_dpbf16ps(2, 4, 7);
    _tile_loadd(5, x + (groups - 1) * TILE, LINE); /* of three groups: the last again, and not used */
    _tile_dpbf16ps(3, 4, 5);
  }
  _tile_stored(0, out, (size_t)ld * 4);
  _tile_stored(1, out + 16, (size_t)ld * 4);
  _tile_stored(2, out + 32, (size_t)ld * 4);
  _tile_stored(3, out + 48, (size_t)ld * 4);
}

static void stream(const void *w, int64_t k_tiles, const void *x, int rows, float *out, int ld) {
  int groups = (rows + 15) / 16;
  if (groups == 1)
    stream_1(w, k_tiles, x, out, ld);
  else if (groups == 2)
    stream_2(w, k_tiles, x, out, ld);
  else
    stream_4(w, k_tiles, x, groups, out, ld);
}

const pu_gemm_kernel pu_gemm_amx = {.mr = MR,
                                    .nr = NR,
                                    .kc = BF16_KC,
                                    .depth = DEPTHS * BF16_KC,
                                    .most_sums = MOST_SUMS,
                                    .edge = 128,
                                    .k_unit = BF16_UNIT,
                                    .bytes = 2,
                                    .pack_a = pack_a,
                                    .pack_b = pack_b,
                                    .micro = micro,
                                    .store = store_float,
                                    .begin = begin,
                                    .end = end,
                                    .stream_rows = STREAM_ROWS,
                                    .stream_pack = stream_pack,
                                    .stream = stream,
                                    .stream_store = pu_gemm_store_avx512,
                                    .tiles = true};
