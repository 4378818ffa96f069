/* Decoding over the paged cache on tensor cores, bound by the cache's bytes: each is read once for all query heads and
 * new tokens that look at it, and the context is split among blocks of threads (flash decoding: Dao et al. 2023,
 * https://crfm.stanford.edu/2023/10/12/flashdecoding.html) at fixed places, whatever the batch is, so a sequence's
 * result is the same to the bit in every batch and however its tokens come.
 *
 * A sequence's keys are divided into pieces, and those into four interleaved parts, one for each warp of a block. A
 * warp works on its own: tiles of 16 or 32 keys, brought in by copies of its own, the next ones on their way, of the
 * next piece too. Products are turned: scores are keys times queries (A: keys as they lie in the cache, B: eight rows
 * (new token, query head of the group)), outputs are values times probabilities, so that a warp has few instructions
 * for each byte. The four warps' sums become a piece's, eight pieces' a unit's, the units' the sequence's, each in one
 * order. Blocks have runs of pieces of the same number: mostly whole units, which need no others; the pieces of a unit
 * that is divided between blocks, and units of one sequence, are added up by the block that arrives last. With few
 * pieces in all, a block has one or some: then the last block of a sequence adds up all of its pieces.
 *
 * Between products that read hundreds of megabytes nothing of a call is in the caches, and one sequence is a chain of
 * waits: so what was there before (plan, table, keys) is on its way before the kernels before have ended, what they
 * wrote is asked for all at once, and code that few blocks run, which has to come from memory too, is short. (Plan and
 * table by plain loads: those of what never changes, ld.global.nc, the compiler may take past a wait.)
 *
 * Rows in few bits stay so until they are in registers: with u the stored number less 2^(bits-1), which f16 holds
 * exactly, a score is scale (q . u) + low' sum(q), and an output the sum of (p scale) u, and of p low' for all its
 * values; low' = low + 2^(bits-1) scale. The lanes of a product may have its inner dimension in any order, if both
 * sides have the same one, and its rows too, so a lane takes whole words of rows, from different banks. */
#include "src/compute/cuda/mma.h"
#include "src/compute/cuda/paged.h"
#include "src/compute/cuda/paged_rows.cuh"

namespace {

constexpr int WARPS = 4, GROUP = 16 /* keys that lie side by side in the cache */;
constexpr float LOG2E = 1.4426950408889634f;
constexpr int SHORT = 16; /* pieces of a short sequence, at most: see is_short */

template <int D, int BITS> struct sizes {
  static constexpr int row = BITS == 16 ? D * 2 : D * BITS / 8 + PU_KV_PAIR_BYTES; /* bytes, as in the cache */
};

/* With NT times eight rows. */
template <int D, int KB, int VB, int NT> struct shape {
  static constexpr int tile = KB == 16 ? 16 : 32;                             /* keys of a warp's step */
  static constexpr int steps = (1 << pu_cuda_piece_log(KB)) / (WARPS * tile); /* of a piece */
  static constexpr int keys = tile * sizes<D, KB>::row, stage = keys + tile * sizes<D, VB>::row;
  static constexpr int sums = D * (int)sizeof(float);       /* of a row and piece */
  static constexpr int shorts = stage / sums;               /* pieces whose sums have room in a stage */
  static constexpr int blocks = KB == 4 && NT == 1 ? 3 : 2; /* of a multiprocessor */
  /* Of shared memory, a warp's: its stages, and what it leaves for the others of so many rows (see `exchange`). Where a
   * block has one piece the latter lies where tiles were, and then there is room to add up a short sequence: as little
   * as that, so that the block is beside one of a product's. */
  __host__ __device__ static constexpr int left(int rows) {
    return (rows * (D + 4 + 2) * (int)sizeof(float) + 15) / 16 * 16;
  }
  __host__ __device__ static constexpr int bytes(int stages, int rows) {
    return stages * stage + left(rows);
  }
  __host__ __device__ static constexpr int bytes_of_one(int rows) {
    return PU_MAX(steps * stage, left(rows) + SHORT * sums);
  }
};

/* ---- what there is to do ---- */

/* A piece of a sequence, a key head and up to 8 NT rows of queries, among all: sequence by sequence, head by head. */
typedef struct place {
  int row, n, base, number; /* the sequence; see pu_cuda_few_seq */
  int first, pieces, before, units_before;
  int seq, head, group; /* group: of rows */
  int piece;            /* among the ones that are seen */
} place;

/* The pieces of a block: [begin, end). */
typedef struct run {
  int begin, end, all;
} run;

__device__ int run_begin(int block, int all) {
  return (int)((int64_t)block * all / gridDim.x);
}

/* The block that has piece x of all. */
__device__ int block_of(int x, int all) {
  return (int)((((int64_t)x + 1) * gridDim.x - 1) / all);
}

__device__ void take(place &p, const int4 &x, const int4 &y) {
  p.row = x.x, p.n = x.y, p.base = x.z, p.number = x.w;
  p.before = y.x, p.first = y.y, p.pieces = y.z, p.units_before = y.w;
}

/* The block's run, and the place where it begins, by a warp: of ever fewer sequences the last that begins no later. Of
 * up to 31 what is read is read at once. */
__device__ run find(place &p, const pu_cuda_few &f) {
  const int lane = threadIdx.x % 32, each = f.kv_heads * f.groups;
  int first = 0, span = f.n, all = 0;
  if (span > 31) all = f.seqs[f.n].before * each;
  const auto in = [&] { return run_begin(blockIdx.x, all) / each; };
  while (span > 31) {
    const int step = (span + 31) / 32, mine = first + min(lane * step, span - 1);
    const unsigned before = __ballot_sync(0xffffffffu, f.seqs[mine].before <= in() && lane * step < span);
    const int skip = (31 - __clz(before)) * step;
    first += skip;
    span = min(step, span - skip);
  }
  const int4 *mine = (const int4 *)&f.seqs[first + min(lane, span)];
  int4 x = mine[0], y = mine[1];
  if (f.n <= 31) all = __shfl_sync(0xffffffffu, y.x, span) * each;
  const run r = {run_begin(blockIdx.x, all), run_begin(blockIdx.x + 1, all), all};
  if (r.begin == r.end) return r;
  const int which = 31 - __clz(__ballot_sync(0xffffffffu, lane < span && y.x <= in()));
  const auto of = [&](int v) { return __shfl_sync(0xffffffffu, v, which); };
  x = make_int4(of(x.x), of(x.y), of(x.z), of(x.w));
  y = make_int4(of(y.x), of(y.y), of(y.z), of(y.w));
  take(p, x, y);
  const int rest = r.begin - p.before * each;
  p.seq = first + which;
  p.head = rest / p.pieces / f.groups;
  p.group = rest / p.pieces % f.groups;
  p.piece = rest % p.pieces;
  return r;
}

/* The next one, if there is one. */
__device__ void go_on(place &p, const pu_cuda_few &f) {
  if (++p.piece < p.pieces) return;
  p.piece = 0;
  if (++p.group < f.groups) return;
  p.group = 0;
  if (++p.head < f.kv_heads) return;
  p.head = 0;
  do {
    p.seq++;
    const int4 *next = (const int4 *)&f.seqs[p.seq];
    take(p, next[0], next[1]);
  } while (p.pieces == 0 && p.seq < f.n);
}

/* Its rows: none where the sequence has fewer new tokens than others. */
template <int NT> __device__ int rows_of(const place &p, const pu_cuda_attend &a) {
  return min(p.n * a.share - p.group * NT * 8, NT * 8);
}

/* Its keys: [from, end), the first at a multiple of a tile. */
template <int TILE> __device__ int from_of(const place &p, const pu_cuda_attend &a) {
  const int from = p.first + p.piece << pu_cuda_piece_log(a.k.bits);
  return p.base >= a.window ? max(from, (int)(p.base - a.window + 1) / TILE * TILE) : from;
}
__device__ int end_of(const place &p, const pu_cuda_attend &a) {
  return min(p.first + p.piece + 1 << pu_cuda_piece_log(a.k.bits), p.base + p.n);
}

/* A warp's first tile: by its place, so it is the same one whatever is seen. */
template <int TILE> __device__ int first_of(int from) {
  return from + ((int)threadIdx.x / 32 - from / TILE & WARPS - 1) * TILE;
}

/* ---- into shared memory ---- */

__device__ int block_at(const pu_cuda_attend &a, const place &m, int pos) {
  return a.k.table[(int64_t)m.seq * a.k.table_stride + (pos >> a.k.shift)];
}

/* The next tile that the warp brings in; its blocks of the cache were asked for a step before. */
template <int TILE> struct cursor {
  place p;
  int at, pos, end; /* number of the piece; first key; end of the piece's keys */
  int block[TILE / GROUP];
};

/* From c.pos on the first tile that there is. */
template <int TILE, int NT>
__device__ void settle(cursor<TILE> &c, const pu_cuda_attend &a, const pu_cuda_few &f, const run &r) {
  while (c.pos >= c.end) {
    if (++c.at >= r.end) return;
    go_on(c.p, f);
    c.pos = first_of<TILE>(from_of<TILE>(c.p, a));
    c.end = rows_of<NT>(c.p, a) > 0 ? end_of(c.p, a) : 0;
  }
#pragma unroll
  for (int j = 0; j < TILE / GROUP; j++)
    if (c.pos + j * GROUP < c.end) c.block[j] = block_at(a, c.p, c.pos + j * GROUP);
}

template <int TILE, int NT>
__device__ void start(cursor<TILE> &c, const place &p, const pu_cuda_attend &a, const pu_cuda_few &f, const run &r) {
  c.p = p;
  c.at = r.begin;
  c.pos = first_of<TILE>(from_of<TILE>(p, a));
  c.end = rows_of<NT>(p, a) > 0 ? end_of(p, a) : 0;
  settle<TILE, NT>(c, a, f, r);
}

/* Sixteen rows, by a warp: they are ROW pieces of 16 bytes. */
template <int D, int BITS> __device__ void load_rows(uint32_t to, const char *from) {
  constexpr int PIECES = sizes<D, BITS>::row;
#pragma unroll
  for (int i = 0; i < (PIECES + 31) / 32; i++) {
    const int p = i * 32 + threadIdx.x % 32;
    if (PIECES % 32 && p >= PIECES) break;
    copy_async(to + (BITS == 16 ? swizzled<D>(p / (D / 8), p % (D / 8)) : p * 16), from + p * 16, 16);
  }
}

/* Keys and values of the cursor's tile: the sixteens that begin before the end. */
template <int D, int KB, int VB, int TILE>
__device__ void load_tile(uint32_t to, const cursor<TILE> &c, const pu_cuda_attend &a, int kv_heads) {
  constexpr int KROW = sizes<D, KB>::row, VROW = sizes<D, VB>::row;
#pragma unroll
  for (int j = 0; j < TILE / GROUP; j++) {
    const int pos = c.pos + j * GROUP;
    if (pos >= c.end) break;
    const int64_t row = ((int64_t)c.block[j] * kv_heads + c.p.head) * a.k.block + (pos & (a.k.block - 1));
    load_rows<D, KB>(to + j * GROUP * KROW, a.k.base + row * KROW);
    load_rows<D, VB>(to + TILE * KROW + j * GROUP * VROW, a.v.base + row * VROW);
  }
}

/* The angles by which a new token's rows are turned; NULL: they are. */
__device__ const float *angles_of(const pu_cuda_attend &a, const place &m, int token) {
  return a.cs ? a.cs + (m.row + token) * a.cs_row : NULL;
}

/* New rows of a sequence, by a warp. What a lane has of the first one's (see new_lane) and the block of the cache that
 * it goes to are asked for ahead of their use. */
typedef struct arrival {
  uint4 lane;
  int block;
} arrival;

/* Eight values of a new token's key (the first lanes) or value, as they come. Nothing is done with them here, so that
 * the queries are asked for meanwhile. */
template <int D> __device__ uint4 new_lane(const pu_cuda_attend &a, const place &m, int token, int kv_heads) {
  const char *key = a.q + (m.row + token) * a.q_row + (int64_t)(a.heads + m.head) * D * 2;
  const int lane = threadIdx.x % 32;
  return *(const uint4 *)(key + (lane < D / 8 ? 0 : (int64_t)kv_heads * D * 2) + lane % (D / 8) * 16);
}

/* The same, the key turned. */
template <int D> __device__ uint4 to_put(uint4 x, const float *cs) {
  const int lane = threadIdx.x % 32, piece = lane % (D / 8);
  if (!cs) return x;
  const auto across = [](uint32_t v) { return __shfl_xor_sync(0xffffffffu, v, D / 16); };
  const uint4 other = {across(x.x), across(x.y), across(x.z), across(x.w)};
  return lane < D / 8 ? pu_turned_eight(x, other, cs + piece % (D / 16) * 8, D / 2, piece < D / 16 ? -1.0f : 1.0f) : x;
}

/* What to_put gave, into row r of a tile. */
template <int D, int KB, int VB> __device__ void put_row(uint4 x, int r, char *keys, char *values) {
  const int lane = threadIdx.x % 32;
  if constexpr (KB == 16) {
    if (lane < D / 4) *(uint4 *)((lane < D / 8 ? keys : values) + swizzled<D>(r, lane % (D / 8))) = x;
  } else {
    const bool first = lane < D / 8;
    pu_pack_lanes<D>(x, first ? KB : VB, first ? keys + r * sizes<D, KB>::row : values + r * sizes<D, VB>::row,
                     lane < D / 4);
  }
}

/* Of a block that has one piece, whichever it is by its number: what there is to do. The piece is on its way before the
 * plan has arrived, as if it were whole: what is not there is block 0 of the cache. */
template <int D, int KB, int VB, int TILE>
__device__ run load_piece(place &p, const pu_cuda_attend &a, const pu_cuda_few &f, uint32_t to, int stage) {
  const int rest = blockIdx.x / f.width, piece = blockIdx.x % f.width;
  constexpr int STEPS = shape<D, KB, VB, 1>::steps;
  cursor<TILE> c[STEPS];
  p.group = rest % f.groups;
  p.head = rest / f.groups % f.kv_heads;
  p.seq = rest / f.groups / f.kv_heads;
  const int4 *seq = (const int4 *)&f.seqs[p.seq], x = seq[0], y = seq[1];
#pragma unroll
  for (int i = 0; i < STEPS; i++) {
    c[i].p = p;
    c[i].pos = (piece << pu_cuda_piece_log(a.k.bits)) + (i * WARPS + (int)threadIdx.x / 32) * TILE;
    c[i].end = a.k.table_stride << a.k.shift;
#pragma unroll
    for (int j = 0; j < TILE / GROUP; j++)
      c[i].block[j] = c[i].pos + j * GROUP < c[i].end ? max(block_at(a, p, c[i].pos + j * GROUP), 0) : 0;
  }
#pragma unroll
  for (int i = 0; i < STEPS; i++) {
    load_tile<D, KB, VB, TILE>(to + i * stage, c[i], a, f.kv_heads);
    copies_commit();
  }
  take(p, x, y);
  p.piece = piece - p.first;
  const bool seen = p.piece >= 0 && p.piece < p.pieces;
  return {(int)blockIdx.x, (int)blockIdx.x + seen, (int)gridDim.x};
}

/* Rows of a tile from `first` on become zeros, a word a lane: pieces of a row change places only inside it. row: bytes.
 */
__device__ void clear_rows(char *rows, int row, int first, int tile) {
#pragma unroll 1
  for (int i = first * row / 4 + threadIdx.x % 32; i < tile * row / 4; i += 32) ((uint32_t *)rows)[i] = 0;
}

/* A tile that the sequence ends in: zeros, and before them the new tokens' rows. */
template <int D, int KB, int VB, int TILE>
__device__ void put_rows(const pu_cuda_attend &a, const place &m, int kv_heads, int key0, const arrival &first,
                         char *keys, char *values) {
  const int end = max(m.base + m.n - key0, 0);
  clear_rows(keys, sizes<D, KB>::row, end, TILE);
  clear_rows(values, sizes<D, VB>::row, end, TILE);
#pragma unroll 1
  for (int pos = max(key0, m.base); pos < min(key0 + TILE, m.base + m.n); pos++) {
    const uint4 x = pos == m.base ? first.lane : new_lane<D>(a, m, pos - m.base, kv_heads);
    put_row<D, KB, VB>(to_put<D>(x, angles_of(a, m, pos - m.base)), pos - key0, keys, values);
  }
}

/* The new tokens' rows from a tile into the cache. */
template <int D, int KB, int VB, int TILE>
__device__ void keep_rows(const pu_cuda_attend &a, const place &m, int kv_heads, int key0, const arrival &first,
                          const char *keys, const char *values) {
  const int lane = threadIdx.x % 32;
#pragma unroll 1
  for (int pos = max(key0, m.base); pos < min(key0 + TILE, m.base + m.n); pos++) {
    const int block = pos >> a.k.shift == m.base >> a.k.shift ? first.block : block_at(a, m, pos), r = pos - key0;
    const int64_t row = ((int64_t)block * kv_heads + m.head) * a.k.block + (pos & (a.k.block - 1));
    char *key = a.k.base + row * sizes<D, KB>::row, *value = a.v.base + row * sizes<D, VB>::row;
    if constexpr (KB == 16) {
      const int piece = lane % (D / 8);
      if (lane < D / 4)
        *(uint4 *)((lane < D / 8 ? key : value) + piece * 16) =
            *(const uint4 *)((lane < D / 8 ? keys : values) + swizzled<D>(r, piece));
    } else {
      for (int i = lane; i < sizes<D, KB>::row / 4; i += 32)
        ((uint32_t *)key)[i] = ((const uint32_t *)(keys + r * sizes<D, KB>::row))[i];
      for (int i = lane; i < sizes<D, VB>::row / 4; i += 32)
        ((uint32_t *)value)[i] = ((const uint32_t *)(values + r * sizes<D, VB>::row))[i];
    }
  }
}

/* ---- rows in few bits ---- */

__device__ half2 as_half2(uint32_t x) {
  half2 h;
  memcpy(&h, &x, 4);
  return h;
}

__device__ uint32_t of_half2(half2 h) {
  uint32_t x;
  memcpy(&x, &h, 4);
  return x;
}

/* Bytes 0, 1 of x (2, 3: high), less 128, as f16: 0x6400 | v is 1024 + v. */
__device__ uint32_t two_bytes(uint32_t x, bool high) {
  return of_half2(__hsub2(as_half2(__byte_perm(x, 0x64646464u, high ? 0x4342 : 0x4140)), as_half2(0x64806480u)));
}

/* Four bits of both halves of x, the lowest or the next, less 8, as f16. */
__device__ uint32_t two_nibbles(uint32_t x, bool next) {
  const uint32_t v = and_or(x, next ? 0x00f000f0u : 0x000f000fu, 0x64006400u);
  if (!next) return of_half2(__hsub2(as_half2(v), as_half2(0x64086408u)));
  return of_half2(__hfma2(as_half2(v), as_half2(0x2c002c00u), as_half2(0xd480d480u))); /* (1024 + 16 v) / 16 - 72 */
}

/* Scale and low' of a row. A scale of nothing (a row of one value) becomes the smallest: it is divided by. */
template <int D, int BITS> __device__ float2 pair_of(const char *row) {
  const uint32_t pair = *(const uint32_t *)(row + D * BITS / 8);
  const float scale = fmaxf(__half2float(__ushort_as_half((unsigned short)pair)), 0x1p-24f);
  return make_float2(
      scale, fmaf(scale, (float)(1 << (BITS - 1)), __half2float(__ushort_as_half((unsigned short)(pair >> 16)))));
}

/* ---- products ---- */

/* The warp's rows: queries as B, outputs as C, whose columns are the rows. */
template <int D, int NT> struct rows {
  uint32_t q[NT][D / 16][2];
  int token[NT][2];                /* of columns 2t, 2t + 1: of the new ones */
  float unit[NT][2], sum_q[NT][2]; /* of few bits: q is in units of a power of two, which f16 can hold; both times the
                                      scale of scores */
  float most[NT][2];               /* of all keys so far, base 2 */
  float sum[NT][2], lift[NT][2];   /* of this lane's keys; lift: of p low' */
  float out[D / 16][NT][4];
};

/* The key, of sixteen, that a lane has in row g of A and C; the one of row g + 8 is eight further. Of few bits rows 2t,
 * 2t + 1 (and 8 more) are keys t, t + 4 (and 8 more). */
template <int BITS> __device__ int key_of(int g) {
  return BITS == 16 ? g : g / 2 + g % 2 * 4;
}

/* Scores of a tile: rows g, g + 8 of C are keys, columns 2t, 2t + 1 rows of queries. */
template <int D, int BITS, int NT, int KT>
__device__ void score(float s[KT][NT][4], const rows<D, NT> &w, const char *keys) {
  constexpr int ROW = sizes<D, BITS>::row, MINE = D * BITS / 128; /* words of a lane, of few bits */
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < KT * NT * 4; i++) s[i / (NT * 4)][i / 4 % NT][i % 4] = 0;
#pragma unroll
  for (int k = 0; k < KT; k++) {
    const uint32_t at = shared_address(keys) + swizzled<D>(k * 16 + lane % 16, lane / 16); /* of bf16 */
    const uint32_t *x = (const uint32_t *)(keys + (k * 16 + key_of<BITS>(g)) * ROW) + t * MINE, *y = x + 2 * ROW;
    if constexpr (BITS == 16) {
#pragma unroll
      for (int i = 0; i < D / 16; i++) {
        uint32_t b[4];
        load_matrices(b, at ^ i << 5);
#pragma unroll
        for (int n = 0; n < NT; n++) mma(s[k][n], b, w.q[n][i][0], w.q[n][i][1]);
      }
    } else if constexpr (BITS == 8) {
#pragma unroll
      for (int i = 0; i < MINE; i++) {
        const uint32_t b[4] = {two_bytes(x[i], false), two_bytes(y[i], false), two_bytes(x[i], true),
                               two_bytes(y[i], true)};
#pragma unroll
        for (int n = 0; n < NT; n++) mma_f16(s[k][n], b, w.q[n][i][0], w.q[n][i][1]);
      }
    } else {
#pragma unroll
      for (int i = 0; i < 2 * MINE; i++) {
        const uint32_t u = x[i / 2] >> i % 2 * 8, v = y[i / 2] >> i % 2 * 8;
        const uint32_t b[4] = {two_nibbles(u, false), two_nibbles(v, false), two_nibbles(u, true),
                               two_nibbles(v, true)};
#pragma unroll
        for (int n = 0; n < NT; n++) mma_f16(s[k][n], b, w.q[n][i][0], w.q[n][i][1]);
      }
    }
  }
}

/* To base 2. Of few bits, with the scale of the key's row of values, so that the maximum is of both. */
template <int D, int KB, int VB, int NT, int KT>
__device__ void to_base_2(float s[KT][NT][4], const rows<D, NT> &w, const char *keys, float scale,
                          const float log[KT][2]) {
#pragma unroll
  for (int k = 0; k < KT; k++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float2 pair = {};
      if constexpr (KB < 16)
        pair = pair_of<D, KB>(keys + (k * 16 + 8 * h + key_of<KB>(threadIdx.x % 32 / 4)) * sizes<D, KB>::row);
#pragma unroll
      for (int i = 0; i < NT * 2; i++) {
        float *x = &s[k][i / 2][2 * h + i % 2];
        const float unit = w.unit[i / 2][i % 2], sum_q = w.sum_q[i / 2][i % 2];
        *x = KB == 16 ? *x * scale : fmaf(*x * unit, pair.x, fmaf(sum_q, pair.y, log[k][h]));
      }
    }
}

/* Without what a row does not see. key0: the tile's first key. */
template <int D, int BITS, int NT, int KT>
__device__ void mask(float s[KT][NT][4], const rows<D, NT> &w, const place &m, int64_t window, int key0) {
  const int last = (int)min(window, (int64_t)1 << 30);
#pragma unroll
  for (int i = 0; i < KT * NT * 4; i++) {
    const int k = i / (NT * 4), n = i / 4 % NT, c = i % 4;
    const int key = key0 + k * 16 + c / 2 * 8 + key_of<BITS>(threadIdx.x % 32 / 4), pos = m.base + w.token[n][c % 2];
    if (key > pos || key <= pos - last) s[k][n][c] = -INFINITY;
  }
}

/* A matrix of 8 by 8 values of 16 bits, two of a lane, turned. */
__device__ uint32_t turned(uint32_t x) {
  uint32_t y;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

/* Where row g of C's tile i of outputs stands in a head; row g + 8: 8 further, or next to it. */
template <int D, int BITS> __device__ int value_of(int i, int g) {
  return BITS == 16 ? 16 * i + g : D / 8 * g + 2 * i;
}

/* A, from words of the rows of values of four keys: tile i of those that a word has. */
template <int BITS> __device__ void value_numbers(uint32_t a[4], const uint32_t word[4], int i) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const uint32_t x = word[2 * h], y = word[2 * h + 1];
    if (BITS == 8) {
      const uint32_t both = __byte_perm(x, y, i ? 0x7362 : 0x5140);
      a[2 * h] = two_bytes(both, false);
      a[2 * h + 1] = two_bytes(both, true);
    } else {
      const uint32_t both = __byte_perm(x, y, i / 2 ? 0x7632 : 0x5410) >> i % 2 * 8;
      a[2 * h] = two_nibbles(both, false);
      a[2 * h + 1] = two_nibbles(both, true);
    }
  }
}

/* out += V p, of sixteen keys; p: probabilities as B. */
template <int D, int BITS, int NT> __device__ void gather(rows<D, NT> &w, const uint32_t p[NT][2], const char *values) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  if constexpr (BITS == 16) {
    const uint32_t at = shared_address(values) + swizzled<D>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
      uint32_t a[4];
      load_matrices_turned(a, at ^ i << 5);
#pragma unroll
      for (int n = 0; n < NT; n++) mma(w.out[i][n], a, p[n][0], p[n][1]);
    }
  } else {
    constexpr int ROW = sizes<D, BITS>::row, MINE = D * BITS / 256, EACH = 16 / BITS; /* words; tiles of a word */
    const char *mine = values + t * ROW + g * MINE * 4;
#pragma unroll
    for (int j = 0; j < MINE; j++) {
      uint32_t word[4];
#pragma unroll
      for (int r = 0; r < 4; r++) word[r] = *(const uint32_t *)(mine + r * 4 * ROW + j * 4);
#pragma unroll
      for (int i = 0; i < EACH; i++) {
        uint32_t a[4];
        value_numbers<BITS>(a, word, i);
#pragma unroll
        for (int n = 0; n < NT; n++) mma_f16(w.out[j * EACH + i][n], a, p[n][0], p[n][1]);
      }
    }
  }
}

/* ---- rows of queries ---- */

/* A row of queries from bf16 to f16, in units of the power of two below its largest value. */
template <int D> __device__ void to_units(uint32_t q[D / 16][2], float *unit, float *sum_q) {
  float sum = 0, most = 0x1p-100f;
#pragma unroll
  for (int i = 0; i < D / 8; i++) {
    const uint32_t pair = q[i / 2][i % 2];
    const float x = __uint_as_float(pair << 16), y = __uint_as_float(pair & 0xffff0000u);
    sum += x + y;
    most = fmaxf(most, fmaxf(fabsf(x), fabsf(y)));
  }
  *sum_q = quad_sum(sum);
  *unit = __uint_as_float(__float_as_uint(quad_max(most)) & 0x7f800000u);
  const float by = 1 / *unit;
#pragma unroll
  for (int i = 0; i < D / 8; i++) {
    const uint32_t pair = q[i / 2][i % 2];
    q[i / 2][i % 2] = pair_f16(__uint_as_float(pair << 16) * by, __uint_as_float(pair & 0xffff0000u) * by);
  }
}

/* A row of queries in the order in which the lane has keys' values. cs: its angles, or NULL. */
template <int D, int BITS> __device__ void read_queries(uint32_t to[D / 16][2], const char *q, const float *cs) {
  const int t = threadIdx.x % 4;
  if constexpr (BITS == 16) {
#pragma unroll
    for (int i = 0; i < D / 8; i++) to[i / 2][i % 2] = *(const uint32_t *)(q + (8 * i + 2 * t) * 2);
    if (!cs) return;
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
      uint32_t *first = &to[i / 2][i % 2], *second = &to[i / 2 + D / 32][i % 2];
      const uint32_t x = *first, y = *second;
      const float2 cos = *(const float2 *)(cs + 8 * i + 2 * t), sin = *(const float2 *)(cs + D / 2 + 8 * i + 2 * t);
      *first = pu_turned_two(x, y, cos, sin, -1);
      *second = pu_turned_two(y, x, cos, sin, 1);
    }
  } else {
#pragma unroll
    for (int i = 0; i < D / 32; i++) {
      uint4 x = *(const uint4 *)(q + (t * (D / 4) + 8 * i) * 2);
      if (cs) {
        const uint4 other = *(const uint4 *)(q + ((t ^ 2) * (D / 4) + 8 * i) * 2);
        x = pu_turned_eight(x, other, cs + t % 2 * (D / 4) + 8 * i, D / 2, t < 2 ? -1.0f : 1.0f);
      }
      to[2 * i][0] = BITS == 8 ? x.x : __byte_perm(x.x, x.z, 0x5410);
      to[2 * i][1] = BITS == 8 ? x.y : __byte_perm(x.x, x.z, 0x7632);
      to[2 * i + 1][0] = BITS == 8 ? x.z : __byte_perm(x.y, x.w, 0x5410);
      to[2 * i + 1][1] = BITS == 8 ? x.w : __byte_perm(x.y, x.w, 0x7632);
    }
  }
}

/* The queries of a place. Rows behind the last are the last again. */
template <int D, int BITS, int NT>
__device__ void begin(rows<D, NT> &w, const pu_cuda_attend &a, const place &m, float scale) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < NT; n++) {
    const int r = m.group * NT * 8 + min(n * 8 + lane / 4, rows_of<NT>(m, a) - 1);
    float unit, sum_q;
    read_queries<D, BITS>(w.q[n],
                          a.q + (m.row + r / a.share) * a.q_row + (int64_t)(m.head * a.share + r % a.share) * D * 2,
                          angles_of(a, m, r / a.share));
    if constexpr (BITS < 16) to_units<D>(w.q[n], &unit, &sum_q);
#pragma unroll
    for (int e = 0; e < 2; e++) {
      w.token[n][e] = (m.group * NT * 8 + n * 8 + lane % 4 * 2 + e) / a.share;
      if constexpr (BITS < 16) {
        w.unit[n][e] = __shfl_sync(0xffffffffu, unit, lane % 4 * 8 + e * 4) * scale;
        w.sum_q[n][e] = __shfl_sync(0xffffffffu, sum_q, lane % 4 * 8 + e * 4) * scale;
      }
    }
  }
}

/* Nothing is seen yet. */
template <int D, int NT> __device__ void clear(rows<D, NT> &w) {
#pragma unroll
  for (int n = 0; n < NT; n++) {
#pragma unroll
    for (int e = 0; e < 2; e++) {
      w.most[n][e] = -INFINITY;
      w.sum[n][e] = w.lift[n][e] = 0;
    }
#pragma unroll
    for (int i = 0; i < D / 16 * 4; i++) w.out[i / 4][n][i % 4] = 0;
  }
}

/* ---- the softmax ---- */

/* Of the rows of values of a lane's keys, in few bits: the logarithm and inverse of scale, and low' over it. A
 * probability goes with its row's scale into the softmax, whose maximum then is that of both, and so is 1 at most in
 * f16; the sum of probabilities is taken of it over the scale. */
template <int KT> struct scales { float log[KT][2], inverse[KT][2], low[KT][2]; };

template <int D, int BITS, int KT> __device__ void read_scales(scales<KT> &v, const char *values) {
#pragma unroll
  for (int i = 0; i < KT * 2; i++) {
    const int key = i * 8 + key_of<BITS>(threadIdx.x % 32 / 4);
    const float2 pair = pair_of<D, BITS>(values + key * sizes<D, BITS>::row);
    v.log[i / 2][i % 2] = log2_fast(pair.x);
    v.inverse[i / 2][i % 2] = __fdividef(1.0f, pair.x);
    v.low[i / 2][i % 2] = pair.y * v.inverse[i / 2][i % 2];
  }
}

/* Over the lanes of a column of C. */
__device__ float column_max(float x) {
  for (int step = 4; step < 32; step *= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}
__device__ float column_sum(float x) {
  for (int step = 4; step < 32; step *= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

/* The maxima with a tile's scores; what was before is brought to them. */
template <int D, int NT, int KT> __device__ void raise(rows<D, NT> &w, const float s[KT][NT][4]) {
  float keep[NT][2];
  bool same = true;
#pragma unroll
  for (int n = 0; n < NT; n++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      float top = -INFINITY;
#pragma unroll
      for (int k = 0; k < KT; k++) top = fmaxf(top, fmaxf(s[k][n][e], s[k][n][2 + e]));
      top = fmaxf(column_max(top), w.most[n][e]);
      keep[n][e] = exp2_fast(w.most[n][e] - (top == -INFINITY ? 0.0f : top));
      same = same && top == w.most[n][e];
      w.most[n][e] = top;
    }
  if (__all_sync(0xffffffffu, same)) return;
#pragma unroll
  for (int n = 0; n < NT; n++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      w.sum[n][e] *= keep[n][e];
      w.lift[n][e] *= keep[n][e];
#pragma unroll
      for (int i = 0; i < D / 16; i++) {
        w.out[i][n][e] *= keep[n][e];
        w.out[i][n][2 + e] *= keep[n][e];
      }
    }
}

/* Probabilities of sixteen keys, as B, from their scores. */
template <int D, int BITS, int NT, int KT>
__device__ void soften(uint32_t p[NT][2], rows<D, NT> &w, const float s[NT][4], const scales<KT> &v, int k) {
#pragma unroll
  for (int n = 0; n < NT; n++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float x[2];
#pragma unroll
      for (int e = 0; e < 2; e++) {
        x[e] = exp2_fast(s[n][2 * h + e] - (w.most[n][e] == -INFINITY ? 0.0f : w.most[n][e]));
        w.sum[n][e] = BITS == 16 ? w.sum[n][e] + x[e] : fmaf(x[e], v.inverse[k][h], w.sum[n][e]);
        if (BITS < 16) w.lift[n][e] = fmaf(x[e], v.low[k][h], w.lift[n][e]);
      }
      p[n][h] = turned(BITS == 16 ? pair_bf16(x[0], x[1]) : pair_f16(x[0], x[1]));
    }
}

/* A tile in shared memory, from its first key on. */
template <int D, int KB, int VB, int NT>
__device__ void compute(rows<D, NT> &w, const pu_cuda_attend &a, const place &m, const char *keys, const char *values,
                        int key0, float scale) {
  constexpr int TILE = shape<D, KB, VB, NT>::tile, KT = TILE / 16;
  float s[KT][NT][4];
  scales<KT> v;
  score<D, KB, NT, KT>(s, w, keys);
  if constexpr (VB < 16) read_scales<D, VB, KT>(v, values);
  to_base_2<D, KB, VB, NT, KT>(s, w, keys, scale, v.log);
  if (key0 + TILE > m.base || key0 <= m.base + m.n - 1 - a.window) mask<D, KB, NT, KT>(s, w, m, a.window, key0);
  raise<D, NT, KT>(w, s);
#pragma unroll
  for (int k = 0; k < KT; k++) {
    uint32_t p[NT][2];
    soften<D, VB, NT, KT>(p, w, s[k], v, k);
    gather<D, VB, NT>(w, p, values + k * 16 * sizes<D, VB>::row);
  }
}

/* ---- results ---- */

/* Sums of a row, of some of the keys: a warp has D / 32 values of it in a lane. */
template <int D> struct part {
  float most, sum; /* base 2; of exponentials */
  struct alignas(D / 8) {
    float v[D / 32];
  } out;
};

template <int D> __device__ part<D> nothing() {
  part<D> p = {-INFINITY, 0, {}};
  return p;
}

/* The keys that follow. What is not seen adds nothing, to the bit. */
template <int D> __device__ void fold(part<D> &all, const part<D> &p) {
  const float most = fmaxf(all.most, p.most), base = most == -INFINITY ? 0.0f : most;
  const float old = exp2_fast(all.most - base), by = exp2_fast(p.most - base);
  all.most = most;
  all.sum = fmaf(by, p.sum, all.sum * old);
#pragma unroll
  for (int i = 0; i < D / 32; i++) all.out.v[i] = fmaf(by, p.out.v[i], all.out.v[i] * old);
}

/* To and from memory that other blocks read: `at` counts rows. */
template <int D> __device__ void put(const part<D> &p, float *parts, float *sums, int64_t at) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < D / 64; i++)
    __stcg((float2 *)&parts[at * D + lane * (D / 32)] + i, make_float2(p.out.v[2 * i], p.out.v[2 * i + 1]));
  if (lane == 0) __stcg((float2 *)&sums[at * 2], make_float2(p.most, p.sum));
}
template <int D> __device__ part<D> get(const float *parts, const float *sums, int64_t at) {
  const float2 pair = __ldcg((const float2 *)&sums[at * 2]);
  part<D> p = {pair.x, pair.y, {}};
#pragma unroll
  for (int i = 0; i < D / 64; i++) {
    const float2 x = __ldcg((const float2 *)&parts[at * D + threadIdx.x % 32 * (D / 32)] + i);
    p.out.v[2 * i] = x.x, p.out.v[2 * i + 1] = x.y;
  }
  return p;
}

/* What the warps of a block leave for each other. */
template <int D> struct exchange {
  static constexpr int pitch = D + 4;
  char *base;
  int step, most; /* bytes from warp to warp; rows */
  __device__ float *out(int warp, int r) const {
    return (float *)(base + warp * step) + r * pitch;
  }
  /* Maximum, sum of exponentials. */
  __device__ float2 *sum(int warp, int r) const {
    return (float2 *)(out(warp, most)) + r;
  }
};

template <int D, int BITS, int NT> __device__ void leave(const rows<D, NT> &w, const exchange<D> &x, int count) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int n = 0; n < NT; n++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int r = n * 8 + lane % 4 * 2 + e;
      const float sum = column_sum(w.sum[n][e]), lift = BITS < 16 ? column_sum(w.lift[n][e]) : 0.0f;
      if (r >= count) continue;
      float *to = x.out(warp, r);
#pragma unroll
      for (int i = 0; i < D / 16; i++) {
        const int at = value_of<D, BITS>(i, lane / 4);
        if (BITS == 16) {
          to[at] = w.out[i][n][e];
          to[at + 8] = w.out[i][n][2 + e];
        } else {
          *(float2 *)(to + at) = make_float2(w.out[i][n][e] + lift, w.out[i][n][2 + e] + lift);
        }
      }
      if (lane / 4 == 0) *x.sum(warp, r) = make_float2(w.most[n][e], sum);
    }
}

/* A row of the four warps. */
template <int D> __device__ part<D> merge_warps(const exchange<D> &x, int r) {
  part<D> all = nothing<D>();
#pragma unroll
  for (int w = 0; w < WARPS; w++) {
    const float2 pair = *x.sum(w, r);
    part<D> mine = {pair.x, pair.y, {}};
    memcpy(&mine.out, __builtin_assume_aligned(x.out(w, r) + threadIdx.x % 32 * (D / 32), D / 8), D / 8);
    fold(all, mine);
  }
  return all;
}

/* A row's output at last, divided by its sum. */
template <int D> __device__ void write_out(const pu_cuda_attend &a, const place &m, int r, const part<D> &p) {
  char *row = a.out + (m.row + r / a.share) * a.out_row + (int64_t)(m.head * a.share + r % a.share) * D * 2;
  struct alignas(D / 16) {
    uint32_t v[D / 64];
  } y;
#pragma unroll
  for (int i = 0; i < D / 64; i++) y.v[i] = pair_bf16(p.out.v[2 * i] / p.sum, p.out.v[2 * i + 1] / p.sum);
  memcpy(__builtin_assume_aligned(row + threadIdx.x % 32 * sizeof y, sizeof y), &y, sizeof y);
}

/* Whether this warp is the last of those of its number to come here, with `n` of the `all` that are waited for: rows
 * r, r + WARPS, … are one warp's in every block. */
__device__ bool is_last(int32_t *arrived, int n, int all) {
  int last = 0;
  __syncwarp();
  if (threadIdx.x % 32 == 0) {
    int before; /* what the warp wrote comes before, what it reads behind: a fence of its own took a microsecond */
    asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(arrived + threadIdx.x / 32), "r"(n)
                 : "memory");
    last = before + n == all;
    if (last) arrived[threadIdx.x / 32] = 0;
  }
  last = __shfl_sync(0xffffffffu, last, 0);
  __syncwarp();
  return last;
}

/* A unit's pieces among all: the ones that are seen, and the ones of them that this block has. */
typedef struct unit {
  int number;     /* among the sequence's that are seen */
  int of;         /* how many those are */
  int first, end; /* numbers of pieces */
  bool whole;     /* this block has them all */
} unit;

__device__ unit unit_of(const place &m, const run &r, int at) {
  const int piece = m.first + m.piece, begin = piece / PU_CUDA_UNIT * PU_CUDA_UNIT, last = m.first + m.pieces - 1;
  unit u = {piece / PU_CUDA_UNIT - m.first / PU_CUDA_UNIT, last / PU_CUDA_UNIT - m.first / PU_CUDA_UNIT + 1,
            at - piece + max(begin, m.first), at - piece + min(begin + PU_CUDA_UNIT, last + 1), false};
  u.whole = u.first >= r.begin && u.end <= r.end;
  return u;
}

/* Where a block keeps a piece of a unit that it has not whole: it has at most two such, its first and its last. */
__device__ int64_t slot_of(const unit &u, int at, int block, int begin) {
  return block * (2 * PU_CUDA_UNIT - 2) + (u.first <= begin ? at - begin : PU_CUDA_UNIT - 1 + at - u.first);
}

/* Rows of results: warp w has rows w, w + WARPS, …. */
template <int D, int NT> struct results { part<D> of[NT * 8 / WARPS]; };

/* The pieces of a unit, in their order, from the blocks that have them. */
template <int D, int NT>
__device__ void gather_pieces(results<D, NT> &all, const pu_cuda_few &f, const unit &u, int pieces, int most,
                              int rows) {
  const int mine = u.first + min((int)threadIdx.x % 32, u.end - u.first - 1), block = block_of(mine, pieces);
  const int slot = (int)slot_of(u, mine, block, run_begin(block, pieces));
#pragma unroll
  for (int i = 0; i < NT * 8 / WARPS; i++) {
    const int r = threadIdx.x / 32 + i * WARPS;
    all.of[i] = nothing<D>();
    if (r >= rows) continue;
    part<D> x[PU_CUDA_UNIT];
#pragma unroll
    for (int p = 0; p < PU_CUDA_UNIT; p++) {
      const int from = __shfl_sync(0xffffffffu, slot, p);
      x[p] = p < u.end - u.first ? get<D>(f.piece_parts, f.piece_sums, (int64_t)from * most + r) : nothing<D>();
    }
#pragma unroll
    for (int p = 0; p < PU_CUDA_UNIT; p++) fold(all.of[i], x[p]);
  }
}

/* Of a sequence in few pieces that are divided among blocks with few pieces each, the last block adds up all at once:
 * one trip through memory instead of two. */
enum { SHORT_RUN = 4 };
__device__ bool is_short(const place &m, const run &r, int shorts) {
  return m.pieces <= shorts && r.all <= SHORT_RUN * (int)gridDim.x;
}

/* A row of all pieces of a sequence, the pieces of each unit first, as elsewhere. first: the number of the first piece;
 * room: shared memory of the warp. By what the sums so far and a piece are multiplied is worked out for all pieces at
 * once, a lane each: it follows from maxima alone. */
template <int D>
__device__ part<D> gather_short(const pu_cuda_few &f, const place &m, const run &r, int first, int most, int row,
                                char *room) {
  const int lane = threadIdx.x % 32, in_unit = (m.first + lane) % PU_CUDA_UNIT;
  const int mine = first + min(lane, m.pieces - 1), block = f.one ? mine : block_of(mine, r.all);
  const int slot = block * (2 * PU_CUDA_UNIT - 2) + (f.one ? 0 : mine - run_begin(block, r.all));
  const int64_t at = (int64_t)slot * most + row;
  const float2 pair = __ldcg((const float2 *)&f.piece_sums[at * 2]);
  copies_wait<0>(); /* of what nobody looked at */
  __syncwarp();
#pragma unroll 4
  for (int p = 0; p < m.pieces; p++) {
    const char *from = (const char *)(f.piece_parts + __shfl_sync(0xffffffffu, at, p) * D);
    if (lane < D / 4) copy_async(shared_address(room) + (p * (D / 4) + lane) * 16, from + lane * 16, 16);
  }
  copies_commit();
  float top = pair.x;
  for (int step = 1; step < PU_CUDA_UNIT; step *= 2) {
    const float before = __shfl_up_sync(0xffffffffu, top, step);
    if (lane >= step && in_unit >= step) top = fmaxf(top, before);
  }
  float before = __shfl_up_sync(0xffffffffu, top, 1);
  if (lane == 0 || in_unit == 0) before = -INFINITY;
  const float base = top == -INFINITY ? 0.0f : top, old = exp2_fast(before - base), by = exp2_fast(pair.x - base);
  part<D> all = nothing<D>(), of_unit = nothing<D>();
  copies_wait<0>();
  __syncwarp();
#pragma unroll 1
  for (int p = 0; p < m.pieces; p++) {
    const auto of = [&](float v) { return __shfl_sync(0xffffffffu, v, p); };
    const float o = of(old), b = of(by);
    of_unit.most = of(top);
    of_unit.sum = fmaf(b, of(pair.y), of_unit.sum * o);
    const float *x = (const float *)room + p * D + lane * (D / 32);
#pragma unroll
    for (int i = 0; i < D / 32; i++) of_unit.out.v[i] = fmaf(b, x[i], of_unit.out.v[i] * o);
    if (p + 1 < m.pieces && (m.first + p + 1) % PU_CUDA_UNIT) continue;
    fold(all, of_unit);
    of_unit = nothing<D>();
  }
  __syncwarp();
  return all;
}

/* A row of all units, in their order. */
template <int D> __device__ part<D> merge_units(const pu_cuda_few &f, int64_t first, int units) {
  part<D> all = nothing<D>();
#pragma unroll 8
  for (int u = 0; u < (units + 7) / 8 * 8; u++) {
    part<D> p = get<D>(f.parts, f.sums, first + (int64_t)min(u, units - 1) * f.rows);
    if (u >= units) p = nothing<D>();
    fold(all, p);
  }
  return all;
}

/* A unit's results: to the end, if it is the only one; else to where the last of them finds it. */
template <int D, int NT>
__device__ void end_unit(const results<D, NT> &x, const pu_cuda_attend &a, const pu_cuda_few &f, const place &m,
                         const unit &u, int rows) {
  const int warp = threadIdx.x / 32, row0 = m.group * NT * 8;
  const int64_t first = ((int64_t)m.units_before * f.kv_heads + (int64_t)m.head * u.of) * f.rows + row0;
#pragma unroll
  for (int i = 0; i < NT * 8 / WARPS; i++) {
    const int r = warp + i * WARPS;
    if (r >= rows) continue;
    if (u.of == 1)
      write_out<D>(a, m, row0 + r, x.of[i]);
    else
      put<D>(x.of[i], f.parts, f.sums, first + (int64_t)u.number * f.rows + r);
  }
  if (u.of == 1) return;
  if (!is_last(f.arrived + (((int64_t)m.number * f.kv_heads + m.head) * f.groups + m.group) * WARPS, 1, u.of)) return;
  for (int r = warp; r < rows; r += WARPS) write_out<D>(a, m, row0 + r, merge_units<D>(f, first + r, u.of));
}

/* A piece's results, of this warp's rows, join the others of a short sequence. */
template <int D, int NT>
__device__ void end_short(const pu_cuda_attend &a, const pu_cuda_few &f, const place &m, const exchange<D> &x,
                          const run &r, int at, int rows, char *room) {
  const int warp = threadIdx.x / 32, slot = blockIdx.x * (2 * PU_CUDA_UNIT - 2) + at - r.begin;
  const int first = at - m.piece, group = ((int)m.number * f.kv_heads + m.head) * f.groups + m.group;
  for (int row = warp; row < rows; row += WARPS)
    put<D>(merge_warps<D>(x, row), f.piece_parts, f.piece_sums, (int64_t)slot * x.most + row);
  if (at + 1 < min(first + m.pieces, r.end)) return;
  if (!is_last(f.arrived + (int64_t)group * WARPS, at + 1 - max(first, r.begin), m.pieces)) return;
  for (int row = warp; row < rows; row += WARPS)
    write_out<D>(a, m, m.group * NT * 8 + row, gather_short<D>(f, m, r, first, x.most, row, room));
}

/* A piece's results, of this warp's rows, join the others of its unit. */
template <int D, int NT, int SHORTS>
__device__ void end_piece(results<D, NT> &all, const pu_cuda_attend &a, const pu_cuda_few &f, const place &m,
                          const exchange<D> &x, const run &r, int at, int rows, char *room) {
  const int warp = threadIdx.x / 32;
  if (warp >= rows) return;
  if (is_short(m, r, f.one ? SHORT : PU_MIN(SHORTS, SHORT))) return end_short<D, NT>(a, f, m, x, r, at, rows, room);
  const unit u = unit_of(m, r, at);
#pragma unroll
  for (int i = 0; i < NT * 8 / WARPS; i++) {
    const int row = warp + i * WARPS;
    if (row >= rows) continue;
    const part<D> mine = merge_warps<D>(x, row);
    if (!u.whole) {
      put<D>(mine, f.piece_parts, f.piece_sums, slot_of(u, at, blockIdx.x, r.begin) * x.most + row);
      continue;
    }
    if (at == u.first) all.of[i] = nothing<D>();
    fold(all.of[i], mine);
  }
  if (at + 1 < min(u.end, r.end)) return;
  if (!u.whole) {
    const int n = at + 1 - max(u.first, r.begin);
    if (!is_last(f.piece_arrived + block_of(u.first, r.all) * WARPS, n, u.end - u.first)) return;
    gather_pieces<D, NT>(all, f, u, r.all, x.most, rows);
  }
  end_unit<D, NT>(all, a, f, m, u, rows);
}

/* ---- a block ---- */

/* While a piece is computed, the next tiles are on their way, of the next piece too. The first tiles are asked for
 * before the kernels before have ended, where they write neither the plan nor the cache (but for the new rows, which
 * are put in later). */
template <int D, int KB, int VB, int NT>
__global__ void __launch_bounds__(WARPS * 32, shape<D, KB, VB, NT>::blocks)
    few_kernel(const __grid_constant__ pu_cuda_attend a, const __grid_constant__ pu_cuda_few f) {
  typedef shape<D, KB, VB, NT> S;
  constexpr int TILE = S::tile;
  extern __shared__ __align__(1024) char shared[];
  /* Who brings the plan lets no kernel behind it start before it has waited, so that all those find it there. Of few
   * blocks the next kernel starts when the queries are there: the weights that a product asks for come before them. */
  if (!f.early) wait_for_before();
  if (!f.one) let_next_start();
  const int most = min(f.rows, NT * 8), each = f.one ? S::bytes_of_one(most) : f.stages * S::stage;
  char *mine = shared + threadIdx.x / 32 * each;
  place m;
  const run r = f.one ? load_piece<D, KB, VB, TILE>(m, a, f, shared_address(mine), S::stage) : find(m, f);
  if (r.begin == r.end) {
    copies_wait<0>();
    return wait_for_before();
  }
  const float scale = a.scale * LOG2E;
  const exchange<D> x = {shared + (f.one ? 0 : WARPS * each), f.one ? each : S::left(most), most};
  if (a.cs && threadIdx.x < D / 32) ahead_in_l2(angles_of(a, m, 0) + threadIdx.x * 32);
  arrival fresh = {{}, block_at(a, m, m.base)};
  cursor<TILE> coming = {};
  int used = 0, next = 0; /* stages: the one to be read, the one to be filled */
  const auto load = [&] {
    if (f.one) return;
    if (coming.at < r.end) {
      load_tile<D, KB, VB, TILE>(shared_address(mine) + next * S::stage, coming, a, f.kv_heads);
      coming.pos += WARPS * TILE;
      settle<TILE, NT>(coming, a, f, r);
    }
    copies_commit();
    next = next + 1 == f.stages ? 0 : next + 1;
  };
  if (!f.one) start<TILE, NT>(coming, m, a, f, r);
  for (int i = 1; i < f.stages; i++) load();
  wait_for_before();
  rows<D, NT> w;
  results<D, NT> sums;
  for (int at = r.begin; at < r.end; at++) {
    const int count = rows_of<NT>(m, a), end = end_of(m, a);
    if (count > 0) {
      if (at == r.begin || m.piece == 0) {
        if (at > r.begin) fresh.block = block_at(a, m, m.base);
        fresh.lane = new_lane<D>(a, m, 0, f.kv_heads);
        begin<D, KB, NT>(w, a, m, scale);
      }
      if (f.one) let_next_start();
      clear(w);
      for (int pos = first_of<TILE>(from_of<TILE>(m, a)); pos < end; pos += WARPS * TILE) {
        if (f.one) used = pos / (WARPS * TILE) % S::steps;
        char *keys = mine + used * S::stage, *values = keys + S::keys;
        if (f.stages == 3 || (f.one && used + 1 < S::steps))
          copies_wait<1>();
        else
          copies_wait<0>();
        __syncwarp();
        used = used + 1 == f.stages ? 0 : used + 1;
        load(); /* where the last step's tile was */
        if (pos + TILE > m.base) {
          put_rows<D, KB, VB, TILE>(a, m, f.kv_heads, pos, fresh, keys, values);
          __syncwarp();
        }
        compute<D, KB, VB, NT>(w, a, m, keys, values, pos, scale);
        if (pos + TILE > m.base && m.group == 0) keep_rows<D, KB, VB, TILE>(a, m, f.kv_heads, pos, fresh, keys, values);
      }
      if (f.one) copies_wait<0>(); /* of tiles that nobody looked at: sums go to their places */
      __syncthreads();             /* the last piece's sums have been read */
      leave<D, VB, NT>(w, x, count);
      __syncthreads();
      end_piece<D, NT, S::shorts>(sums, a, f, m, x, r, at, count, mine + (f.one ? S::left(most) : next * S::stage));
    }
    if (at + 1 < r.end) go_on(m, f);
  }
}

/* ---- choice ---- */

template <int D, int KB, int VB, int NT>
pu_err launch(pu_cuda *d, const pu_cuda_attend *a, pu_cuda_few f, pu_error *e) {
  typedef shape<D, KB, VB, NT> S;
  const auto kernel = few_kernel<D, KB, VB, NT>;
  const int rows = PU_MIN(f.rows, NT * 8);
  static int room = 0, most; /* of a multiprocessor, of a block; one device */
  f.groups = (int)ceil_div(f.rows, NT * 8);
  const int64_t pieces = (int64_t)f.n * f.width * f.kv_heads * f.groups;
  if (!room) {
    PU_CUDA_TRY(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, d->device), "attention", e);
    PU_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most), "attention", e);
    PU_CUDA_TRY(cudaDeviceGetAttribute(&room, cudaDevAttrMaxSharedMemoryPerMultiprocessor, d->device), "attention", e);
  }
  const auto resident = [&](int bytes) {
    return (int64_t)d->sms * PU_MAX(1, PU_MIN(S::blocks, room / (bytes + 1024)));
  };
  /* Then no more room is taken than for the piece: a block of the products before and after is beside it. */
  f.one = pieces <= resident(WARPS * S::bytes_of_one(rows));
  f.stages = !f.one && WARPS * S::bytes(3, rows) <= most ? 3 : 2;
  const int bytes = WARPS * (f.one ? S::bytes_of_one(rows) : S::bytes(f.stages, rows));
  const dim3 grid((unsigned)PU_MIN(pieces, resident(bytes)));
  pu_cuda_start(d, true, kernel, grid, WARPS * 32, (size_t)bytes, *a, f);
  return pu_cuda_launched("attention over the cache", e);
}

template <int D, int KB, int VB>
pu_err by_rows(pu_cuda *d, const pu_cuda_attend *a, const pu_cuda_few *f, pu_error *e) {
  return f->rows <= 8 ? launch<D, KB, VB, 1>(d, a, *f, e) : launch<D, KB, VB, 2>(d, a, *f, e);
}

template <int D> pu_err by_bits(pu_cuda *d, const pu_cuda_attend *a, const pu_cuda_few *f, pu_error *e) {
  if (a->k.bits == 16) return by_rows<D, 16, 16>(d, a, f, e);
  if (a->v.bits == 8) return by_rows<D, 8, 8>(d, a, f, e);
  return a->k.bits == 8 ? by_rows<D, 8, 4>(d, a, f, e) : by_rows<D, 4, 4>(d, a, f, e);
}

} // namespace

bool pu_cuda_few_fits(const pu_cuda_attend *a) {
  const bool bits = a->k.bits == 16 ? a->v.bits == 16 : a->k.bits < 16 && a->v.bits <= a->k.bits;
  const int64_t bytes =
      a->q_row | a->out_row | (int64_t)a->q | (int64_t)a->out | (int64_t)a->k.base | (int64_t)a->v.base;
  return bits && a->q_bits == 16 && (a->dim == 64 || a->dim == 128) && a->k.shift > 0 && bytes % 16 == 0;
}

pu_err pu_cuda_few_forward(pu_cuda *d, const pu_cuda_attend *a, const pu_cuda_few *f, pu_error *e) {
  return a->dim == 64 ? by_bits<64>(d, a, f, e) : by_bits<128>(d, a, f, e);
}
