/* The attention kernels, once for every instruction set: the including file has chosen the vector words (vec16_*.h),
 * what tiles hold (PU_TILE_BF16) and how they are multiplied (tile_multiply). See src/compute/cpu/attention.h for the
 * layouts.
 *
 * Forward (Dao et al. 2022): for each stretch of KEYS keys and each strip of 32 queries, S^T = K Q^T, then with a
 * running maximum m and sum l of each query P^T = 2^(c S^T - m), O^T += V^T P^T; c = scale log2(e), so that all
 * exponentials are of base 2. m is raised, and O^T and l rescaled, only where it would otherwise be passed by more than
 * 2^HEADROOM: any m gives the same quotient O / l, and the rescaling mostly vanishes. Each query is a lane and decides
 * for itself, and stretches begin at the same positions for all: its output has the same bits whatever stands beside
 * it. Backward: P from the saved log-sum-exp, dV += P^T dO, dS = P (dO V^T - delta), dQ += dS K, dK += dS^T Q. */
#ifndef PUYU_ATTENTION_BODY_H
#define PUYU_ATTENTION_BODY_H

#include <string.h>

#include "src/compute/cpu/attention.h"

enum {
  KE = PU_TILE_BF16 ? 32 : 16,            /* inner elements of a tile */
  STRIP = PU_ATTENTION_ROWS,              /* queries of one pass: two vectors of lanes */
  STRIPS = PU_ATTENTION_BLOCK / STRIP,    /* strips of a call */
  STRIP_CHUNKS = STRIP / KE,              /* inner chunks in a strip, where queries are the inner dimension */
  KEYS = PU_ATTENTION_KEYS,               /* keys of one pass */
  MAX_COLS = PU_ATTENTION_MAX_DIM / 16,   /* tiles across a head */
  MAX_CHUNKS = PU_ATTENTION_MAX_DIM / KE, /* inner chunks across a head */
};
static const float HEADROOM = 8.0f, LOG2E = 1.44269504089f, LN2 = 0.69314718056f, NOTHING = -1e30f;

#if PU_TILE_BF16
#define v_exp2_p v_exp2_rough
#else
#define v_exp2_p v_exp2
#endif

/* Into L1, into L2. (In assembly: GCC 12 deletes a loop that does nothing but __builtin_prefetch.) */
static inline void prefetch_near(const char *p) {
  __asm__ volatile("prefetcht0 %0" : : "m"(*p));
}
static inline void prefetch_far(const char *p) {
  __asm__ volatile("prefetcht1 %0" : : "m"(*p));
}

/* ---- packing ------------------------------------------------------------------------------------ */

/* 64 bytes of a row: its inner chunk c, in the tile's type. */
static inline v16 load_chunk(const pu_attention_rows *r, int row, int c) {
  const char *p = r->row[row];
  if (!p) return v_set1(0.0f);
#if PU_TILE_BF16
  int n = r->head_dim - 32 * c;
  __mmask32 k = n >= 32 ? 0xffffffffu : (1u << (n > 0 ? n : 0)) - 1;
  return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(k, p + 64 * (int64_t)c));
#else
  return v_load_row(p + (int64_t)pu_dtype_size(r->dtype) * 16 * c, r->dtype, r->head_dim - 16 * c);
#endif
}

/* Word j of inner chunk c where the rows are the inner dimension, for the 16 columns of tile t. */
static inline v16 load_across(const pu_attention_rows *r, int c, int j, int t) {
#if PU_TILE_BF16
  int n = r->head_dim - 16 * t;
  __mmask16 k = n >= 16 ? 0xffff : (__mmask16)((1u << (n > 0 ? n : 0)) - 1);
  const char *even = r->row[32 * c + 2 * j], *odd = r->row[32 * c + 2 * j + 1];
  __m256i lo = even ? _mm256_maskz_loadu_epi16(k, even + 32 * t) : _mm256_setzero_si256();
  __m256i hi = odd ? _mm256_maskz_loadu_epi16(k, odd + 32 * t) : _mm256_setzero_si256();
  return _mm512_castsi512_ps(
      _mm512_or_si512(_mm512_cvtepu16_epi32(lo), _mm512_slli_epi32(_mm512_cvtepu16_epi32(hi), 16)));
#else
  const char *p = r->row[16 * c + j];
  if (!p) return v_set1(0.0f);
  return v_load_row(p + (int64_t)pu_dtype_size(r->dtype) * 16 * t, r->dtype, r->head_dim - 16 * t);
#endif
}

static inline void store_tile(char *tile, v16 x[16], bool transposed) {
  if (transposed) v_transpose(x);
  for (int i = 0; i < 16; i++) v_store((float *)(void *)tile + 16 * i, x[i]);
}

/* 32 rows, the head's dimension inner: [row tile][chunk]. Plain: A tiles of X. Transposed: B tiles of X^T. */
static inline void pack_inner(const pu_attention_rows *r, char *out, bool transposed) {
  const int chunks = pu_attention_padded_dim(r->head_dim) / KE;
  for (int t = 0; t < STRIP / 16; t++)
    for (int c = 0; c < chunks; c++) {
      v16 x[16];
      for (int i = 0; i < 16; i++) x[i] = load_chunk(r, 16 * t + i, c);
      store_tile(out + (t * chunks + c) * TILE_BYTES, x, transposed);
    }
}

/* 32 rows, the rows inner: [row chunk][tile of D]. Plain: B tiles of X. Transposed: A tiles of X^T. */
static inline void pack_across(const pu_attention_rows *r, char *out, bool transposed) {
  const int cols = pu_attention_padded_dim(r->head_dim) / 16;
  for (int c = 0; c < STRIP_CHUNKS; c++)
    for (int t = 0; t < cols; t++) {
      v16 x[16];
      for (int j = 0; j < 16; j++) x[j] = load_across(r, c, j, t);
      store_tile(out + (c * cols + t) * TILE_BYTES, x, transposed);
    }
}

static void pack_rows(const pu_attention_rows *r, void *tiles) {
  pack_inner(r, tiles, false);
}
static void pack_cols(const pu_attention_rows *r, void *tiles) {
  pack_across(r, tiles, true);
}

/* The rows of strip s of a matrix of b's queries. */
static inline pu_attention_rows strip_rows(const pu_attention_block *b, const void *base, int64_t stride, int s) {
  pu_attention_rows r = {.dtype = b->dtype, .head_dim = b->head_dim};
  for (int i = 0; i < STRIP; i++) {
    int q = STRIP * s + i;
    r.row[i] = q < b->n ? (const char *)base + q * stride * (int64_t)pu_dtype_size(b->dtype) : NULL;
  }
  return r;
}

/* Asks for all of the block's rows of a matrix at once: they are short and far apart, which no hardware prefetcher
 * sees, and one by one their misses would cost more than the packing. */
static inline void prefetch_rows(const pu_attention_block *b, const void *base, int64_t stride) {
  const int64_t size = b->dtype == PU_F32 ? 4 : 2;
  for (int i = 0; i < b->n; i++)
    for (int64_t at = 0; at < b->head_dim * size; at += 64) prefetch_far((const char *)base + i * stride * size + at);
}

/* ---- one strip against some keys ---------------------------------------------------------------- */

typedef struct key_range {
  int64_t first, last; /* multiples of 32 */
  bool edge;           /* some pairs in it are masked */
} key_range;

/* The keys of [from, from + KEYS) that strip s sees at all. */
static inline key_range keys_of_strip(const pu_attention_block *b, int s, int64_t from) {
  int64_t q_first = b->pos + STRIP * s, q_last = b->pos + PU_MIN(STRIP * (s + 1), b->n) - 1;
  int64_t seen = q_first >= b->window ? (q_first - b->window + 1) / STRIP * STRIP : 0;
  key_range r = {PU_MAX(from, seen), PU_MIN(from + KEYS, (q_last / STRIP + 1) * STRIP), false};
  r.edge = r.last - 1 > q_first || (q_last >= b->window && r.first <= q_last - b->window);
  return r;
}

static inline int64_t first_key(const pu_attention_block *b) {
  return b->pos >= b->window ? (b->pos - b->window + 1) / KEYS * KEYS : 0;
}

/* Masks keys [from, to) of the range's scores, s: C tiles [key tile][2]. */
static inline void mask_keys(const pu_attention_block *b, const v16 pos[2], key_range r, int64_t from, int64_t to,
                             float *s) {
  for (int64_t key = PU_MAX(from, r.first); key < PU_MIN(to, r.last); key++) {
    int64_t k = key - r.first;
    float end = b->window < ((int64_t)1 << 24) ? (float)(key + b->window) : INFINITY;
    for (int t = 0; t < 2; t++) {
      float *p = s + (k / 16 * 2 + t) * TILE_FLOATS + k % 16 * 16;
      v_store(p, v_keep(v_load(p), pos[t], (float)key, end));
    }
  }
}

/* Only keys before the last query's window or after the first query can be masked for some. */
static void mask_scores(const pu_attention_block *b, int strip, key_range r, float *s) {
  float lane[STRIP] __attribute__((aligned(64)));
  const int64_t q_first = b->pos + STRIP * strip, seen_by_all = q_first + STRIP - b->window;
  for (int i = 0; i < STRIP; i++) lane[i] = (float)(q_first + i);
  const v16 pos[2] = {v_load(lane), v_load(lane + 16)};
  mask_keys(b, pos, r, r.first, PU_MIN(seen_by_all, q_first + 1), s);
  mask_keys(b, pos, r, PU_MAX(q_first + 1, r.first), r.last, s);
}

/* Where the packed rows of keys from `key` on begin. */
static inline const char *packed_at(const void *tiles, int64_t key, int dim) {
  return (const char *)tiles + key * dim * (64 / KE);
}

/* S^T (or dP^T): [key tile][2 tiles of queries] = X Y^T with X packed by rows, Y the strip's B tiles. */
static inline void score(const void *packed, const char *strip, key_range r, int dim, float *s) {
  const int chunks = dim / KE;
  tile_multiply(&(tile_product){.a = packed_at(packed, r.first, dim),
                                .a_m = chunks,
                                .a_k = 1,
                                .b = strip,
                                .b_n = chunks,
                                .b_k = 1,
                                .c = s,
                                .c_m = 2,
                                .c_n = 1,
                                .m = (int)(r.last - r.first) / 16,
                                .n = 2,
                                .k = chunks});
}

/* x[d][q] += sum over keys of packed[key][d] p[key][q]: [tile of D][2]. packed by cols. */
static inline void gather(const void *packed, const char *p, key_range r, int dim, float *x) {
  const int cols = dim / 16;
  tile_multiply(&(tile_product){.a = packed_at(packed, r.first, dim),
                                .a_m = 1,
                                .a_k = cols,
                                .b = p,
                                .b_n = 1,
                                .b_k = 2,
                                .c = x,
                                .c_m = 2,
                                .c_n = 1,
                                .m = cols,
                                .n = 2,
                                .k = (int)(r.last - r.first) / KE,
                                .add = true});
}

/* Stores keys k, k + 1 (k even) of the strip's 32 queries, x[key][half], as B tiles [key chunk][2] … */
static inline void put_b(char *tiles, int k, v16 x[2][2]) {
#if PU_TILE_BF16
  const __m512i weave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  char *p = tiles + k / 32 * 2 * TILE_BYTES + k % 32 * 32;
  for (int t = 0; t < 2; t++) {
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh(x[1][t], x[0][t]);
    _mm512_store_si512(p + t * TILE_BYTES, _mm512_permutexvar_epi16(weave, both));
  }
#else
  float *p = (float *)(void *)tiles + k / 16 * 2 * TILE_FLOATS + k % 16 * 16;
  for (int i = 0; i < 2; i++)
    for (int t = 0; t < 2; t++) v_store(p + t * TILE_FLOATS + 16 * i, x[i][t]);
#endif
}

/* … and as A tiles [key tile][chunk of the block's queries] of which this strip is the s-th part. */
static inline void put_a(char *tiles, int k, int s, v16 x[2][2]) {
  char *p = tiles + (k / 16 * STRIPS + s) * STRIP_CHUNKS * TILE_BYTES + k % 16 * 64;
  for (int i = 0; i < 2; i++) {
#if PU_TILE_BF16
    _mm512_store_si512(p + 64 * i, (__m512i)_mm512_cvtne2ps_pbh(x[i][1], x[i][0]));
#else
    for (int t = 0; t < 2; t++) v_store((float *)(void *)(p + t * TILE_BYTES + 64 * i), x[i][t]);
#endif
  }
}

/* ---- forward ------------------------------------------------------------------------------------ */

typedef struct forward_work {
  char q[STRIPS][2 * MAX_CHUNKS * TILE_BYTES] __attribute__((aligned(64))); /* B tiles of Q^T */
  float o[STRIPS][2 * MAX_COLS * TILE_FLOATS];                              /* O^T */
  float s[KEYS / 16 * 2 * TILE_FLOATS];                                     /* S^T */
  char p[KEYS / KE * 2 * TILE_BYTES];                                       /* B tiles of P^T */
  float m[STRIPS][STRIP], l[STRIPS][STRIP];
} forward_work;

/* The largest score of each query, times c. */
static inline void strip_maximum(const float *s, int keys, v16 c, v16 out[2]) {
  for (int t = 0; t < 2; t++) {
    v16 m[4];
    for (int i = 0; i < 4; i++) m[i] = v_set1(NOTHING);
    for (int kt = 0; kt < keys / 16; kt++) {
      const float *p = s + (kt * 2 + t) * TILE_FLOATS;
      for (int r = 0; r < 16; r += 4)
        for (int i = 0; i < 4; i++) m[i] = v_max(m[i], v_load(p + 16 * (r + i)));
    }
    out[t] = v_mul(c, v_max(v_max(m[0], m[1]), v_max(m[2], m[3])));
  }
}

/* Raises the running maximum to top where that is beyond the room, and brings l and O^T to it. Other lanes: times 1. */
static void raise_maximum(forward_work *w, int s, const v16 top[2], v16 room, int cols) {
  for (int t = 0; t < 2; t++) {
    v16 old = v_load(w->m[s] + 16 * t), new = v_where_above(top[t], v_add(old, room), top[t], old);
    v16 factor = v_exp2(v_sub(old, new));
    v_store(w->m[s] + 16 * t, new);
    v_store(w->l[s] + 16 * t, v_mul(v_load(w->l[s] + 16 * t), factor));
    for (int c = 0; c < cols; c++) {
      float *o = w->o[s] + (c * 2 + t) * TILE_FLOATS;
      for (int i = 0; i < 16; i++) v_store(o + 16 * i, v_mul(v_load(o + 16 * i), factor));
    }
  }
}

/* P^T = 2^(c S^T - m) into w->p, and its sums into l. */
static void soften(forward_work *w, int s, int keys, v16 c, int cols) {
  v16 top[2], m[2], l[2][2];
  const v16 room = v_set1(HEADROOM);
  strip_maximum(w->s, keys, c, top);
  if (v_any_above(top[0], v_add(v_load(w->m[s]), room)) || v_any_above(top[1], v_add(v_load(w->m[s] + 16), room)))
    raise_maximum(w, s, top, room, cols);
  for (int t = 0; t < 2; t++) {
    m[t] = v_load(w->m[s] + 16 * t);
    l[0][t] = v_load(w->l[s] + 16 * t);
    l[1][t] = v_set1(0.0f);
  }
  for (int kt = 0; kt < keys / 16; kt++) {
    const float *p = w->s + kt * 2 * TILE_FLOATS;
    for (int r = 0; r < 16; r += 2) {
      v16 x[2][2];
      for (int i = 0; i < 2; i++)
        for (int t = 0; t < 2; t++) {
          x[i][t] = v_exp2_p(v_fms(v_load(p + t * TILE_FLOATS + 16 * (r + i)), c, m[t]));
          l[i][t] = v_add(l[i][t], x[i][t]);
        }
      put_b(w->p, 16 * kt + r, x);
    }
  }
  for (int t = 0; t < 2; t++) v_store(w->l[s] + 16 * t, v_add(l[0][t], l[1][t]));
}

/* Rows of X from strips of X^T, each lane times its factor. */
static void write_strip(const pu_attention_block *b, const float *xt, const float *factor, int s, void *out,
                        int64_t stride, bool add) {
  const int size = (int)pu_dtype_size(b->dtype), rows = PU_MIN(b->n - STRIP * s, STRIP);
  for (int c = 0; 16 * c < b->head_dim; c++)
    for (int t = 0; t < 2; t++) {
      v16 x[16], f = v_load(factor + 16 * t);
      for (int i = 0; i < 16; i++) x[i] = v_mul(v_load(xt + (c * 2 + t) * TILE_FLOATS + 16 * i), f);
      v_transpose(x);
      for (int i = 0; i < 16 && 16 * t + i < rows; i++) {
        char *p = (char *)out + ((STRIP * s + 16 * t + i) * stride + 16 * c) * size;
        if (add) x[i] = v_add(x[i], v_load_row(p, b->dtype, b->head_dim - 16 * c));
        v_store_row(p, b->dtype, x[i], b->head_dim - 16 * c);
      }
    }
}

static void finish_forward(const pu_attention_block *b, forward_work *w, int s) {
  float inverse[STRIP] __attribute__((aligned(64)));
  for (int i = 0; i < STRIP; i++) inverse[i] = 1.0f / w->l[s][i];
  write_strip(b, w->o[s], inverse, s, b->out, b->out_stride, false);
  if (!b->lse) return;
  for (int i = 0; i < STRIP && STRIP * s + i < b->n; i++) b->lse[STRIP * s + i] = w->m[s][i] * LN2 + logf(w->l[s][i]);
}

static void attention_forward(const pu_attention_block *b) {
  forward_work *w = b->scratch;
  const int dim = pu_attention_padded_dim(b->head_dim), cols = dim / 16, strips = (b->n + STRIP - 1) / STRIP;
  const v16 c = v_set1(b->scale * LOG2E);
  tile_begin();
  prefetch_rows(b, b->q, b->q_stride);
  for (int s = 0; s < strips; s++) {
    pu_attention_rows q = strip_rows(b, b->q, b->q_stride, s);
    pack_inner(&q, w->q[s], true);
    memset(w->o[s], 0, (size_t)cols * 2 * TILE_BYTES);
    for (int i = 0; i < STRIP; i++) w->m[s][i] = NOTHING, w->l[s][i] = 0.0f;
  }
  for (int64_t from = first_key(b); from < b->pos + b->n; from += KEYS)
    for (int s = 0; s < strips; s++) {
      key_range r = keys_of_strip(b, s, from);
      if (r.first >= r.last) continue;
      score(b->keys, w->q[s], r, dim, w->s);
      if (r.edge) mask_scores(b, s, r, w->s);
      soften(w, s, (int)(r.last - r.first), c, cols);
      gather(b->values, w->p, r, dim, w->o[s]);
    }
  for (int s = 0; s < strips; s++) finish_forward(b, w, s);
  tile_end();
}

/* ---- backward ----------------------------------------------------------------------------------- */

typedef struct backward_work {
  char qt[STRIPS][2 * MAX_CHUNKS * TILE_BYTES] __attribute__((aligned(64))); /* B tiles of Q^T */
  char gt[STRIPS][2 * MAX_CHUNKS * TILE_BYTES];                              /* B tiles of dO^T */
  char q[STRIPS * STRIP_CHUNKS * MAX_COLS * TILE_BYTES];                     /* B tiles of Q: [chunk][tile of D] */
  char g[STRIPS * STRIP_CHUNKS * MAX_COLS * TILE_BYTES];                     /* B tiles of dO */
  float dq[STRIPS][2 * MAX_COLS * TILE_FLOATS];                              /* dQ^T */
  float s[KEYS / 16 * 2 * TILE_FLOATS];                                      /* S^T */
  float dp[KEYS / 16 * 2 * TILE_FLOATS];                                     /* dP^T */
  char p[KEYS / 16 * STRIPS * STRIP_CHUNKS * TILE_BYTES];                    /* A tiles of P^T, by [key tile][strip] */
  char ds[KEYS / 16 * STRIPS * STRIP_CHUNKS * TILE_BYTES];                   /* A tiles of dS^T */
  char ds_b[KEYS / KE * 2 * TILE_BYTES];                                     /* B tiles of dS^T, one strip */
  float lse[STRIPS * STRIP], delta[STRIPS * STRIP];                          /* lse in base 2 */
} backward_work;

/* delta = sum over D of dO O (Dao et al. 2022, eq. 4): what softmax's gradient subtracts from dP. */
static float row_delta(const pu_attention_block *b, int q) {
  const int size = (int)pu_dtype_size(b->dtype);
  const char *o = (const char *)b->out + q * b->out_stride * size;
  const char *g = (const char *)b->grad_out + q * b->grad_out_stride * size;
  v16 sum = v_set1(0.0f);
  for (int d = 0; d < b->head_dim; d += 16)
    sum = v_fma(v_load_row(o + (int64_t)d * size, b->dtype, b->head_dim - d),
                v_load_row(g + (int64_t)d * size, b->dtype, b->head_dim - d), sum);
  return v_sum(sum);
}

static void begin_backward(const pu_attention_block *b, backward_work *w, int s) {
  const int cols = pu_attention_padded_dim(b->head_dim) / 16;
  pu_attention_rows q = strip_rows(b, b->q, b->q_stride, s);
  pu_attention_rows g = strip_rows(b, b->grad_out, b->grad_out_stride, s);
  pack_inner(&q, w->qt[s], true);
  pack_inner(&g, w->gt[s], true);
  pack_across(&q, w->q + s * STRIP_CHUNKS * cols * TILE_BYTES, false);
  pack_across(&g, w->g + s * STRIP_CHUNKS * cols * TILE_BYTES, false);
  memset(w->dq[s], 0, (size_t)cols * 2 * TILE_BYTES);
  for (int i = STRIP * s; i < STRIP * (s + 1); i++) {
    w->lse[i] = i < b->n ? b->lse[i] * LOG2E : -NOTHING; /* beyond the block: P = 0 */
    w->delta[i] = i < b->n ? row_delta(b, i) : 0.0f;
  }
}

/* P^T and dS^T / scale of strip s, from S^T and dP^T. at: the tile of w->p and w->ds where the range begins. */
static void soften_backward(backward_work *w, int s, int at, int keys, v16 c) {
  v16 lse[2], delta[2];
  for (int t = 0; t < 2; t++) {
    lse[t] = v_load(w->lse + STRIP * s + 16 * t);
    delta[t] = v_load(w->delta + STRIP * s + 16 * t);
  }
  for (int k = 0; k < keys; k += 2) {
    v16 p[2][2], ds[2][2];
    for (int i = 0; i < 2; i++)
      for (int t = 0; t < 2; t++) {
        int x = (k / 16 * 2 + t) * TILE_FLOATS + (k % 16 + i) * 16;
        p[i][t] = v_exp2_p(v_fms(v_load(w->s + x), c, lse[t]));
        ds[i][t] = v_mul(p[i][t], v_sub(v_load(w->dp + x), delta[t]));
      }
    put_a(w->p, at + k, s, p);
    put_a(w->ds, at + k, s, ds);
    put_b(w->ds_b, k, ds);
  }
}

/* out[key][d] += sum over the queries of strips [s0, s1) of p[key][q] x[q][d], for 32 keys. */
static inline void scatter(const char *p, const char *x, int s0, int s1, int cols, float *out) {
  const int first = s0 * STRIP_CHUNKS;
  tile_multiply(&(tile_product){.a = p + first * TILE_BYTES,
                                .a_m = STRIPS * STRIP_CHUNKS,
                                .a_k = 1,
                                .b = x + first * cols * TILE_BYTES,
                                .b_n = 1,
                                .b_k = cols,
                                .c = out,
                                .c_m = cols,
                                .c_n = 1,
                                .m = 2,
                                .n = cols,
                                .k = (s1 - s0) * STRIP_CHUNKS,
                                .add = true});
}

static void attention_backward(const pu_attention_block *b) {
  backward_work *w = b->scratch;
  const int dim = pu_attention_padded_dim(b->head_dim), cols = dim / 16, strips = (b->n + STRIP - 1) / STRIP;
  const v16 c = v_set1(b->scale * LOG2E);
  tile_begin();
  prefetch_rows(b, b->q, b->q_stride);
  prefetch_rows(b, b->grad_out, b->grad_out_stride);
  prefetch_rows(b, b->out, b->out_stride);
  for (int s = 0; s < strips; s++) begin_backward(b, w, s);
  for (int64_t from = first_key(b); from < b->pos + b->n; from += KEYS) {
    key_range r[STRIPS];
    for (int s = 0; s < strips; s++) {
      r[s] = keys_of_strip(b, s, from);
      if (r[s].first >= r[s].last) continue;
      score(b->keys, w->qt[s], r[s], dim, w->s);
      score(b->values, w->gt[s], r[s], dim, w->dp);
      if (r[s].edge) mask_scores(b, s, r[s], w->s);
      soften_backward(w, s, (int)(r[s].first - from), (int)(r[s].last - r[s].first), c);
      gather(b->keys_t, w->ds_b, r[s], dim, w->dq[s]);
    }
    for (int64_t key = from; key < PU_MIN(from + KEYS, b->pos + b->n); key += STRIP) {
      int s0 = 0, s1 = strips;
      while (s0 < s1 && (key < r[s0].first || key >= r[s0].last)) s0++;
      while (s1 > s0 && (key < r[s1 - 1].first || key >= r[s1 - 1].last)) s1--;
      int64_t tile = (key - from) / 16 * STRIPS * STRIP_CHUNKS * TILE_BYTES, out = key / 16 * cols * TILE_FLOATS;
      scatter(w->p + tile, w->g, s0, s1, cols, b->dv + out);
      scatter(w->ds + tile, w->q, s0, s1, cols, b->dk + out);
    }
  }
  float scale[STRIP] __attribute__((aligned(64)));
  for (int i = 0; i < STRIP; i++) scale[i] = b->scale;
  for (int s = 0; s < strips; s++) write_strip(b, w->dq[s], scale, s, b->grad_q, b->grad_q_stride, b->add);
  tile_end();
}

static void unpack(const float *tiles, float scale, pu_dtype dtype, int head_dim, bool add, void *const *row) {
  const int cols = pu_attention_padded_dim(head_dim) / 16;
  const v16 f = v_set1(scale);
  for (int i = 0; i < PU_ATTENTION_ROWS; i++)
    for (int c = 0; row[i] && 16 * c < head_dim; c++) {
      char *p = (char *)row[i] + 16 * c * (int64_t)pu_dtype_size(dtype);
      v16 x = v_mul(f, v_load(tiles + (i / 16 * cols + c) * TILE_FLOATS + i % 16 * 16));
      if (add) x = v_add(x, v_load_row(p, dtype, head_dim - 16 * c));
      v_store_row(p, dtype, x, head_dim - 16 * c);
    }
}

/* ---- decoding: one new token, memory-bound over the cache --------------------------------------- */

enum {
  SHARE = 8, /* heads that use each loaded row of the cache together */
  AHEAD_BYTES =
      4096 /* how far ahead rows are prefetched: cache blocks are too short for the hardware to find the pace */
};

typedef struct decode_work {
  float q[SHARE][PU_ATTENTION_MAX_DIM] __attribute__((aligned(64))); /* times scale log2(e) */
  float o[SHARE][PU_ATTENTION_MAX_DIM];
  float s[SHARE][PU_ATTENTION_SPLIT + 16];
  float dot[SHARE][TILE_FLOATS];
  float q_sum[SHARE], mid[SHARE];                            /* few bits: the sum of q, and of p mid of the values */
  const char *k[PU_ATTENTION_SPLIT], *v[PU_ATTENTION_SPLIT]; /* the rows */
  int n, k_bytes, v_bytes, ahead;                            /* how many, how long, how many to prefetch ahead */
} decode_work;

static void find_rows(const pu_attention_decode *d, decode_work *w) {
  w->n = (int)(d->last - d->first);
  w->k_bytes = (int)d->k_row;
  w->v_bytes = (int)d->v_row;
  w->ahead = AHEAD_BYTES / w->k_bytes;
  int64_t block = d->first / d->block;
  int slot = (int)(d->first % d->block);
  for (int i = 0; i < w->n; block++, slot = 0) {
    const char *k = d->k + d->table[block] * d->k_block, *v = d->v + d->table[block] * d->v_block;
    for (; slot < d->block && i < w->n; slot++, i++) {
      w->k[i] = k + (int64_t)slot * w->k_bytes;
      w->v[i] = v + (int64_t)slot * w->v_bytes;
    }
  }
}

static inline void prefetch_row(const char *row, int bytes) {
  for (int i = 0; i < bytes; i += 64) prefetch_near(row + i);
}

/* The next ones are made for each width of values in the cache and for 4, 2 or 1 heads (h and the ones after it), all
 * constants once inlined. Values u of 8 and 4 bits are multiplied as they are, but for the middle of their range; scale
 * and middle of a row come in once for all of it: q . (u scale + mid) = scale (q . u) + mid sum(q), and the sum of
 * p (u scale + mid) is that of (p scale) u and that of p mid. */
#define EACH_TIME static inline __attribute__((always_inline))

/* Scale and middle of up to 16 rows; zeros for the rest. */
static inline void load_pairs(const char *const *row, int n, int head_dim, const int bits, v16 *scale, v16 *mid) {
  const int pair_at = head_dim * bits / 8;
  uint16_t x[2][16] = {{0}};
  for (int i = 0; i < n; i++) {
    memcpy(&x[0][i], row[i] + pair_at, 2);
    memcpy(&x[1][i], row[i] + pair_at + 2, 2);
  }
  *scale = v_load_f16(x[0]);
  *mid = v_fma(*scale, v_set1((float)(1 << (bits - 1))), v_load_f16(x[1]));
}

/* Partial products by lane of the keys [at, at + n), n <= 16. */
EACH_TIME void decode_dots(decode_work *w, int head_dim, int at, int n, int h, const int heads, const int bits) {
  const int whole = head_dim / 16 * 16;
  for (int i = 0; i < n; i++) {
    const char *row = w->k[at + i];
    const int next = at + i + w->ahead; /* beyond the keys come the values */
    if (h == 0 && next < w->n) prefetch_row(w->k[next], w->k_bytes);
    if (h == 0 && next >= w->n) prefetch_row(w->v[PU_MIN(next - w->n, w->n - 1)], w->v_bytes);
    v16 sum[4];
    for (int j = 0; j < heads; j++) sum[j] = v_set1(0.0f);
    for (int c = 0; c < whole; c += 16) {
      const v16 k = v_load16(row + c * bits / 8, bits);
      for (int j = 0; j < heads; j++) sum[j] = v_fma(k, v_load(w->q[h + j] + c), sum[j]);
    }
    if (whole < head_dim) {
      const v16 k = v_load_tail(row + whole * bits / 8, bits, head_dim - whole);
      for (int j = 0; j < heads; j++) sum[j] = v_fma(k, v_load(w->q[h + j] + whole), sum[j]);
    }
    for (int j = 0; j < heads; j++) v_store(w->dot[h + j] + 16 * i, sum[j]);
  }
}

/* o += p v for 4 keys from `at` on; beyond the last key p is 0 and row that key's again. */
EACH_TIME void decode_values(decode_work *w, int head_dim, int at, int h, const int heads, const int bits) {
  const char *row[4];
  for (int i = 0; i < 4; i++) row[i] = w->v[PU_MIN(at + i, w->n - 1)];
  for (int c = 0; c < head_dim; c += 16) {
    v16 v[4];
    if (c + 16 <= head_dim)
      for (int i = 0; i < 4; i++) v[i] = v_load16(row[i] + c * bits / 8, bits);
    else
      for (int i = 0; i < 4; i++) v[i] = v_load_tail(row[i] + c * bits / 8, bits, head_dim - c);
    for (int j = h; j < h + heads; j++) {
      const float *p = w->s[j] + at;
      v16 even = v_fma(v[0], v_set1(p[0]), v_load(w->o[j] + c)), odd = v_mul(v[1], v_set1(p[1]));
      even = v_fma(v[2], v_set1(p[2]), even);
      odd = v_fma(v[3], v_set1(p[3]), odd);
      v_store(w->o[j] + c, v_add(even, odd));
    }
  }
}

/* Scores of the keys [at, at + n), n <= 16: the lanes of 16 keys are summed by a transpose. */
EACH_TIME void decode_scores(decode_work *w, int head_dim, int heads, int at, int n, const int bits) {
  int h = 0;
  v16 scale, mid;
  if (bits <= 8) load_pairs(w->k + at, n, head_dim, bits, &scale, &mid);
  for (; h + 4 <= heads; h += 4) decode_dots(w, head_dim, at, n, h, 4, bits);
  for (; h + 2 <= heads; h += 2) decode_dots(w, head_dim, at, n, h, 2, bits);
  for (; h < heads; h++) decode_dots(w, head_dim, at, n, h, 1, bits);
  for (h = 0; h < heads; h++) {
    v16 x[16];
    for (int i = 0; i < 16; i++) x[i] = v_load(w->dot[h] + 16 * i);
    v_transpose(x);
    for (int half = 8; half > 0; half /= 2)
      for (int i = 0; i < half; i++) x[i] = v_add(x[i], x[i + half]);
    if (bits <= 8) x[0] = v_fma(x[0], scale, v_mul(mid, v_set1(w->q_sum[h])));
    v_store(w->s[h] + at, x[0]);
    for (int i = n; i < 16; i++) w->s[h][at + i] = NOTHING;
  }
}

/* The weights of the values [at, at + 16) of few bits, times their scales. */
static inline void scale_weights(decode_work *w, int heads, int at, int head_dim, const int bits) {
  v16 scale, mid;
  load_pairs(w->v + at, PU_MIN(16, w->n - at), head_dim, bits, &scale, &mid);
  for (int h = 0; h < heads; h++) {
    const v16 p = v_load(w->s[h] + at);
    w->mid[h] += v_sum(v_mul(p, mid));
    v_store(w->s[h] + at, v_mul(p, scale));
  }
}

EACH_TIME void decode_outputs(decode_work *w, int head_dim, int heads, const int bits) {
  for (int at = 0; at < w->n; at += 4) {
    if (bits <= 8 && at % 16 == 0) scale_weights(w, heads, at, head_dim, bits);
    for (int i = at + w->ahead; i < at + w->ahead + 4; i++) prefetch_row(w->v[PU_MIN(i, w->n - 1)], w->v_bytes);
    int h = 0;
    for (; h + 4 <= heads; h += 4) decode_values(w, head_dim, at, h, 4, bits);
    for (; h + 2 <= heads; h += 2) decode_values(w, head_dim, at, h, 2, bits);
    for (; h < heads; h++) decode_values(w, head_dim, at, h, 1, bits);
  }
}

/* Scores to weights 2^(s - top), in place; returns their sum. */
static float decode_soften(decode_work *w, int h, float *top) {
  v16 m = v_set1(NOTHING), l = v_set1(0.0f);
  for (int k = 0; k < w->n; k += 16) m = v_max(m, v_load(w->s[h] + k));
  *top = v_top(m);
  for (int k = 0; k < w->n; k += 16) {
    v16 p = v_exp2(v_sub(v_load(w->s[h] + k), v_set1(*top)));
    v_store(w->s[h] + k, p);
    l = v_add(l, p);
  }
  return v_sum(l);
}

EACH_TIME void decode_all_scores(decode_work *w, int head_dim, int heads, const int bits) {
  for (int k = 0; k < w->n; k += 16) decode_scores(w, head_dim, heads, k, PU_MIN(16, w->n - k), bits);
}

#define FOR_BITS(bits, function, ...)                                                                                  \
  switch (bits) {                                                                                                      \
  case 32:                                                                                                             \
    function(__VA_ARGS__, 32);                                                                                         \
    break;                                                                                                             \
  case 16:                                                                                                             \
    function(__VA_ARGS__, 16);                                                                                         \
    break;                                                                                                             \
  case 8:                                                                                                              \
    function(__VA_ARGS__, 8);                                                                                          \
    break;                                                                                                             \
  default:                                                                                                             \
    function(__VA_ARGS__, 4);                                                                                          \
  }

/* The queries of heads h0 and those after it, times scale log2(e). */
static void load_queries(const pu_attention_decode *d, decode_work *w, int h0, int heads) {
  const v16 c = v_set1(d->scale * LOG2E);
  for (int h = 0; h < heads; h++) {
    v16 sum = v_set1(0.0f);
    for (int at = 0; at < PU_ATTENTION_MAX_DIM; at += 16) {
      const char *q = (const char *)d->q + ((h0 + h) * d->q_stride + at) * (int64_t)pu_dtype_size(d->q_dtype);
      const v16 x = v_mul(c, v_load_row(q, d->q_dtype, d->head_dim - at));
      v_store(w->q[h] + at, x);
      sum = v_add(sum, x);
    }
    w->q_sum[h] = v_sum(sum);
    w->mid[h] = 0.0f;
  }
}

static void attention_decode(const pu_attention_decode *d) {
  decode_work w;
  const int stride = 16 + pu_attention_padded_dim(d->head_dim);
  find_rows(d, &w);
  for (int h0 = 0; h0 < d->heads; h0 += SHARE) {
    const int heads = PU_MIN(SHARE, d->heads - h0);
    memset(w.o, 0, sizeof w.o);
    memset(w.dot, 0, sizeof w.dot);
    load_queries(d, &w, h0, heads);
    FOR_BITS(d->k_bits, decode_all_scores, &w, d->head_dim, heads)
    for (int h = 0; h < heads; h++) {
      float *part = d->part + (h0 + h) * stride;
      part[1] = decode_soften(&w, h, &part[0]);
    }
    FOR_BITS(d->v_bits, decode_outputs, &w, d->head_dim, heads)
    for (int h = 0; h < heads; h++)
      for (int c = 0; c < stride - 16; c += 16)
        v_store(d->part + (h0 + h) * stride + 16 + c, v_add(v_load(w.o[h] + c), v_set1(w.mid[h])));
  }
}

static void widen(const void *row, int bits, int head_dim, void *out) {
  const pu_dtype type = PU_TILE_BF16 ? PU_BF16 : PU_F32;
  const char *p = row;
  uint16_t pair[2];
  memcpy(pair, p + head_dim * bits / 8, sizeof pair);
  const float scale = pu_f16_to_f32(pair[0]), mid = pu_f16_to_f32(pair[1]) + scale * (float)(1 << (bits - 1));
  for (int c = 0; c < head_dim; c += 16) {
    const int n = head_dim - c;
    const v16 u = bits == 8 ? v_load_tail(p + c, 8, n) : v_load_tail(p + c / 2, 4, n);
    v_store_row((char *)out + c * (int64_t)pu_dtype_size(type), type, v_fma(u, v_set1(scale), v_set1(mid)), n);
  }
}

_Static_assert(sizeof(backward_work) >= sizeof(forward_work), "the driver asks for the larger");
_Static_assert(sizeof(backward_work) <= PU_ATTENTION_SCRATCH, "raise PU_ATTENTION_SCRATCH");

#define PU_ATTENTION_KERNEL(name)                                                                                      \
  const pu_attention_kernel name = {.tile = PU_TILE_BF16 ? PU_BF16 : PU_F32,                                           \
                                    .pack_rows = pack_rows,                                                            \
                                    .pack_cols = pack_cols,                                                            \
                                    .forward = attention_forward,                                                      \
                                    .backward = attention_backward,                                                    \
                                    .unpack = unpack,                                                                  \
                                    .decode = attention_decode,                                                        \
                                    .widen = widen}

#endif
