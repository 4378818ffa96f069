/* Decoding over the paged cache on tensor cores, bound by the cache's bytes: each is read once for all query heads and
 * new tokens that look at it, and the context is split among blocks of threads (flash decoding: Dao et al. 2023,
 * https://crfm.stanford.edu/2023/10/12/flashdecoding.html) at fixed places, whatever the batch is,
 * so a sequence's result is the same to the bit in every batch and however its tokens come.
 *
 * A block takes stretches of keys of one sequence and key head, one after the other. Its rows are (new token, query
 * head of the group); sixteen of them make a tile of a product, and four warps have them: for scores each has sixteen
 * keys of the 64 that cp.async brings into shared memory as they lie in the cache, for outputs a quarter of the head.
 * The stretches are merged by the block that arrives last, in their order. New tokens' rows go into the cache, and
 * beside it into shared memory, by the block whose stretch they are in.
 *
 * Rows in few bits stay so until they are in registers: with u the stored number less 2^(bits-1), which f16 holds
 * exactly, a score is scale (q . u) + low' sum(q), and an output the sum of (p scale) u, and of p low' for all its
 * values; low' = low + 2^(bits-1) scale. The lanes of a product may have its inner dimension in any order, if both
 * sides have the same one, so a lane takes whole words of a row: see `word_of_key` and `word_of_value`. */
#include "src/compute/cuda/mma.h"
#include "src/compute/cuda/paged.h"

namespace {

constexpr int TILE = 64, SLICES = 4, GROUP = 16 /* keys that lie side by side in the cache */;
constexpr int PITCH = TILE * 2 + 16; /* bytes from row to row of probabilities */
constexpr float LOG2E = 1.4426950408889634f;

template <int D, int BITS> struct sizes {
  static constexpr int row = BITS == 16 ? D * 2 : D * BITS / 8 + PU_KV_PAIR_BYTES; /* bytes, in the cache */
  static constexpr int step = BITS == 16 ? row + 16 : row; /* and in shared memory: eight rows lie in different banks */
  static constexpr int tile = TILE * step;                 /* of keys, or of values */
};

/* A stretch and a key head: keys [from, end) of the sequence, the first at a multiple of TILE. */
typedef struct stretch {
  int row, n, base, seq, number; /* of its sequence; see pu_cuda_few_seq */
  int mine, first, last;         /* this stretch, and the ones that are seen */
  int at;                        /* stretches of the sequences before */
} stretch;

typedef struct item {
  stretch t;
  int from, end, head, tiles;
  int at; /* in the list, of the sequence's first stretch */
} item;

/* Item `index`, of the stretch that it is. */
__device__ item item_of(const pu_cuda_attend &a, const pu_cuda_few &f, const stretch &t, int index) {
  item m;
  const int seen = (int)max(t.base - a.window + 1, (int64_t)0);
  m.t = t;
  m.head = index % f.kv_heads;
  m.at = t.at;
  m.from = max(pu_cuda_stretch_begin(t.mine, a.k.bits), seen / TILE * TILE);
  m.end = min(pu_cuda_stretch_begin(t.mine + 1, a.k.bits), t.base + t.n);
  m.tiles = (m.end - m.from + TILE - 1) / TILE;
  return m;
}

/* The stretch that is number `at` of all, by a warp: of ever fewer sequences the last that begins no later. */
__device__ stretch find(const pu_cuda_few &f, int at) {
  const int lane = threadIdx.x % 32;
  int first = 0, span = f.n;
  while (span > 32) {
    const int step = (span + 31) / 32, mine = first + min(lane * step, span - 1);
    const unsigned before = __ballot_sync(0xffffffffu, __ldg(&f.seqs[mine].before) <= at && lane * step < span);
    const int skip = (31 - __clz(before)) * step;
    first += skip;
    span = min(step, span - skip);
  }
  const int4 *mine = (const int4 *)&f.seqs[first + min(lane, span - 1)];
  const int4 x = __ldg(mine), y = __ldg(mine + 1);
  const int which = 31 - __clz(__ballot_sync(0xffffffffu, lane < span && y.x <= at));
  const auto of = [&](int v) { return __shfl_sync(0xffffffffu, v, which); };
  stretch t = {of(x.x), of(x.y), of(x.z), first + which, of(x.w), 0, of(y.y), 0, of(y.x)};
  t.last = t.first + of(y.z) - 1;
  t.mine = t.first + at - t.at;
  return t;
}

__device__ int items_of(const pu_cuda_few &f) {
  return __ldg(&f.seqs[f.n].before) * f.kv_heads;
}

/* An item's stretch: the last one again, behind its end. */
__device__ stretch fetch(const pu_cuda_few &f, int index, int items) {
  return find(f, min(index, items - 1) / f.kv_heads);
}

/* ---- into shared memory ---- */

/* The block of the cache where position p of an item lies; its blocks have a power of two of tokens. */
__device__ int block_of(const pu_cuda_rows &x, const item &m, int p) {
  return __ldg(x.table + (int64_t)m.t.seq * x.table_stride + (min(p, m.end - 1) >> x.shift));
}

__device__ unsigned row_in(const pu_cuda_rows &x, const item &m, int kv_heads, int block, int p) {
  return ((unsigned)block * (unsigned)kv_heads + (unsigned)m.head) * (unsigned)x.block + (p & (x.block - 1));
}

/* How a tile is copied: rows of bf16 one by one, of keys by the first 64 threads and of values by the next; of few
 * bits, where sixteen rows are one piece, by the first eight. */
template <int BITS> struct copying { static constexpr int rows = BITS == 16 ? 1 : GROUP, threads = 2 * TILE / rows; };

/* Asks for the block of the thread's part of the tile at `pos`, one step before it is needed. */
template <int BITS> __device__ int find_block(const pu_cuda_rows &x, const item &m, int pos) {
  typedef copying<BITS> C;
  return threadIdx.x < C::threads ? block_of(x, m, pos + threadIdx.x % (C::threads / 2) * C::rows) : 0;
}

/* A tile of keys and one of values from position pos on: the sixteens that begin before the end. */
template <int D, int KB, int VB>
__device__ void load_tile(uint32_t to, const pu_cuda_attend &a, const item &m, int kv_heads, int pos, int block,
                          uint32_t barrier) {
  constexpr int KROW = sizes<D, KB>::row, VROW = sizes<D, VB>::row;
  const int valid = min((m.end - pos + GROUP - 1) / GROUP * GROUP, TILE); /* rows */
#if __CUDA_ARCH__ >= 900
  typedef copying<KB> C;
  const int r = threadIdx.x % (C::threads / 2) * C::rows;
  const bool v = threadIdx.x >= C::threads / 2;
  if (threadIdx.x == 0) barrier_expect(barrier, valid * (KROW + VROW));
  if (threadIdx.x < C::threads && r < valid) {
    const uint64_t row = row_in(a.k, m, kv_heads, block, pos + r);
    const char *from = v ? a.v.base + row * VROW : a.k.base + row * KROW;
    const int at = v ? sizes<D, KB>::tile + r * sizes<D, VB>::step : r * sizes<D, KB>::step;
    copy_bulk(to + at, from, C::rows * (v ? VROW : KROW), barrier);
  }
#else
  (void)barrier;
  (void)block;
  for (int p = threadIdx.x; p < valid / GROUP * (KROW + VROW);
       p += blockDim.x) { /* sixteen rows are ROW times 16 bytes */
    const bool v = p >= valid / GROUP * KROW;
    const int in = v ? p - valid / GROUP * KROW : p, row = v ? VROW : KROW, group = pos + in / row * GROUP;
    const int byte = in * 16, pad = v ? sizes<D, VB>::step - VROW : sizes<D, KB>::step - KROW;
    const char *from =
        (v ? a.v.base : a.k.base) + (uint64_t)row_in(a.k, m, kv_heads, block_of(a.k, m, group), group) * row;
    copy_async(to + (v ? sizes<D, KB>::tile : 0) + byte + (pad ? byte / row * pad : 0), from + in % row * 16, 16);
  }
#endif
}

/* The item's rows of queries, `PADDED` bytes apart. */
template <int D, int THREADS> __device__ void copy_queries(uint32_t to, const pu_cuda_attend &a, const item &m) {
  constexpr int COLS = D / 8, PADDED = D * 2 + 16;
  const int c = threadIdx.x % COLS;
  for (int r = threadIdx.x / COLS; r < m.t.n * a.share; r += THREADS / COLS) {
    const char *q = a.q + (m.t.row + r / a.share) * a.q_row + (int64_t)(m.head * a.share + r % a.share) * D * 2;
    copy_async(to + r * PADDED + c * 16, q + c * 16, 16);
  }
}

/* A tile that the sequence ends in: the new tokens' rows into the cache and into the tile, where they are not yet;
 * zeros behind them. */
template <int D, int BITS>
__device__ void put_rows(const pu_cuda_attend &a, const pu_cuda_rows &x, const item &m, int column, int key0,
                         char *tile) {
  constexpr int ROW = sizes<D, BITS>::row;
  const int lane = threadIdx.x % 32;
  for (int pos = max(key0, m.t.base) + threadIdx.x / 32; pos < key0 + TILE; pos += blockDim.x / 32) {
    const int r = pos - key0;
    const bool there = pos < m.t.base + m.t.n;
    const char *from = a.q + (m.t.row + pos - m.t.base) * a.q_row + (int64_t)column * D * 2;
    char *to = there ? pu_row_of(x, m.head, m.t.seq, 0, pos) : NULL;
    if constexpr (BITS == 16) {
      if (lane >= D / 8) continue;
      const uint4 piece = there ? *(const uint4 *)(from + lane * 16) : make_uint4(0, 0, 0, 0);
      *(uint4 *)(tile + r * sizes<D, BITS>::step + lane * 16) = piece;
      if (there) *(uint4 *)(to + lane * 16) = piece;
    } else if (there) {
      float v[PU_CUDA_LANE_VALUES];
      pu_read_row(v, from, 16, D);
      pu_pack_row(to, BITS, v, D);
      pu_pack_row(tile + r * ROW, BITS, v, D);
    } else {
      for (int i = lane; i < ROW / 4; i += 32) ((uint32_t *)(tile + r * ROW))[i] = 0;
    }
  }
#if __CUDA_ARCH__ >= 900
  before_bulk();
#endif
}

/* ---- rows in few bits ---- */

/* x - y of two f16. */
__device__ uint32_t less(uint32_t x, uint32_t y) {
  half2 a, b;
  memcpy(&a, &x, 4);
  memcpy(&b, &y, 4);
  a = __hsub2(a, b);
  memcpy(&x, &a, 4);
  return x;
}

/* The low bits of both halves of x, less 2^(BITS-1), as f16: 0x6400 | v is 1024 + v. */
template <int BITS> __device__ uint32_t to_f16(uint32_t x) {
  const uint32_t bits = BITS == 8 ? 0x00ff00ffu : 0x000f000fu;
  return less((x & bits) | 0x64006400u, BITS == 8 ? 0x64806480u : 0x64086408u);
}

/* Numbers 4 i to 4 i + 3 of a key's part of a row, from the word(s) there: the two registers of B. */
template <int BITS> __device__ void key_numbers(uint32_t b[2], uint32_t word, int i) {
  if (BITS == 8) {
    b[0] = less(__byte_perm(word, 0x64646464u, 0x4140), 0x64806480u);
    b[1] = less(__byte_perm(word, 0x64646464u, 0x4342), 0x64806480u);
  } else {
    const uint32_t x = word >> (i % 2 * 16), y = x >> 4;
    b[0] = to_f16<4>(__byte_perm(x, y, 0x3430)); /* byte 0 of x below, of y above */
    b[1] = to_f16<4>(__byte_perm(x, y, 0x3531));
  }
}

/* Numbers `at` of words of two rows. */
template <int BITS> __device__ uint32_t value_numbers(uint32_t a, uint32_t b, int at) {
  if (BITS == 8) return to_f16<8>(__byte_perm(a, b, 0x7430 + at * 0x0101));
  return to_f16<4>(__byte_perm(a, b, 0x7430 + at / 2 * 0x0101) >> (at % 2 * 4));
}

/* Scale and low' of a row. A scale of nothing (a row of one value) becomes the smallest: it is divided by. */
template <int D, int BITS> __device__ float2 pair_of(const char *row) {
  const uint32_t pair = *(const uint32_t *)(row + D * BITS / 8);
  const float scale = fmaxf(__half2float(__ushort_as_half((unsigned short)pair)), 0x1p-24f);
  return make_float2(
      scale, fmaf(scale, (float)(1 << (BITS - 1)), __half2float(__ushort_as_half((unsigned short)(pair >> 16)))));
}

/* ---- products ---- */

/* Sixteen rows as a warp of them has them: queries as A, outputs of a quarter of the head as C. */
template <int D> struct rows {
  int token[2], head[2]; /* of rows g, g + 8: of the new ones, of the group; the same for every item */
  uint32_t q[D / 16][4];
  float sum_q[2], unit[2]; /* of few bits: rows g, g + 8; q is in units of a power of two, which f16 can hold */
  float most[2];           /* of all keys so far, base 2 */
  float sum[2], lift[2];   /* of this lane's keys; lift: of p low' */
  float out[D / 32][4];
};

/* The number of the key, of sixteen, that stands in column c of C's tile `tau`: of few bits, a lane's four columns 2t,
 * 2t + 1 are four keys side by side. */
template <int BITS> __device__ int key_of(int tau, int c) {
  return BITS == 16 ? tau * 8 + c : c / 2 * 4 + tau * 2 + c % 2;
}

/* Scores of the warp's sixteen keys. */
template <int D, int BITS> __device__ void score(float s[2][4], const rows<D> &w, const char *keys, int slice) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 4; i++) s[0][i] = s[1][i] = 0;
  if constexpr (BITS == 16) {
    const int row = slice * 16 + lane / 16 * 8 + lane % 8;
    const uint32_t at = shared_address(keys) + row * sizes<D, BITS>::step + lane / 8 % 2 * 16;
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
      uint32_t b[4];
      load_matrices(b, at + i * 32);
      mma(s[0], w.q[i], b[0], b[1]);
      mma(s[1], w.q[i], b[2], b[3]);
    }
  } else {
    constexpr int ROW = sizes<D, BITS>::row, MINE = D * BITS / 32 / 4; /* words of a lane */
#pragma unroll
    for (int tau = 0; tau < 2; tau++) {
      const uint32_t *words = (const uint32_t *)(keys + (slice * 16 + key_of<BITS>(tau, g)) * ROW) + t * MINE;
#pragma unroll
      for (int i = 0; i < D / 16; i++) {
        uint32_t b[2];
        key_numbers<BITS>(b, words[i * MINE / (D / 16)], i);
        mma_f16(s[tau], w.q[i], b[0], b[1]);
      }
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const float2 pair = pair_of<D, BITS>(keys + (slice * 16 + key_of<BITS>(tau, 2 * t + e)) * ROW);
        s[tau][e] = fmaf(s[tau][e] * w.unit[0], pair.x, w.sum_q[0] * pair.y);
        s[tau][2 + e] = fmaf(s[tau][2 + e] * w.unit[1], pair.x, w.sum_q[1] * pair.y);
      }
    }
  }
}

/* Where column c of C's tile T of the warp's outputs stands in a head. */
template <int D, int BITS> __device__ int value_of(int slice, int T, int c) {
  return slice * (D / 4) + (BITS == 16 ? 8 * T + c : D / 32 * c + T);
}

/* out += p V for the warp's quarter of the head and the tile's keys; p: the lane's place in row g, rows PITCH bytes. */
template <int D, int BITS> __device__ void gather(rows<D> &w, const char *p, const char *values, int slice) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int k = 0; k < TILE / 16; k++) {
    const uint32_t a[4] = {*(const uint32_t *)(p + k * 32), *(const uint32_t *)(p + k * 32 + 8 * PITCH),
                           *(const uint32_t *)(p + k * 32 + 16), *(const uint32_t *)(p + k * 32 + 16 + 8 * PITCH)};
    if constexpr (BITS == 16) {
      const int row = k * 16 + lane / 8 % 2 * 8 + lane % 8;
      const uint32_t at = shared_address(values) + row * sizes<D, BITS>::step + (slice * (D / 32) + lane / 16) * 16;
#pragma unroll
      for (int i = 0; i < D / 64; i++) {
        uint32_t b[4];
        load_matrices_turned(b, at + i * 32);
        mma(w.out[2 * i], a, b[0], b[1]);
        mma(w.out[2 * i + 1], a, b[2], b[3]);
      }
    } else {
      constexpr int ROW = sizes<D, BITS>::row;
      const int at = value_of<D, BITS>(slice, 0, g) * BITS / 8; /* of the lane's numbers in a row: D / 32 of them */
      const char *mine = values + (k * 16 + 4 * t) * ROW + at / 4 * 4;
      uint32_t word[4];
#pragma unroll
      for (int r = 0; r < 4; r++) word[r] = *(const uint32_t *)(mine + r * ROW) >> at % 4 * 8;
#pragma unroll
      for (int i = 0; i < D / 32; i++)
        mma_f16(w.out[i], a, value_numbers<BITS>(word[0], word[1], i), value_numbers<BITS>(word[2], word[3], i));
    }
  }
}

/* A row of queries (half h) from bf16 to f16, in units of the power of two below its largest value. */
template <int D> __device__ void to_units(rows<D> &w, int h) {
  float sum = 0, most = 0x1p-100f;
#pragma unroll
  for (int i = 0; i < D / 8; i++) {
    const uint32_t pair = w.q[i / 2][i % 2 * 2 + h];
    const float x = __uint_as_float(pair << 16), y = __uint_as_float(pair & 0xffff0000u);
    sum += x + y;
    most = fmaxf(most, fmaxf(fabsf(x), fabsf(y)));
  }
  w.sum_q[h] = quad_sum(sum);
  w.unit[h] = __uint_as_float(__float_as_uint(quad_max(most)) & 0x7f800000u);
  const float by = 1 / w.unit[h];
#pragma unroll
  for (int i = 0; i < D / 8; i++) {
    const uint32_t pair = w.q[i / 2][i % 2 * 2 + h];
    w.q[i / 2][i % 2 * 2 + h] = pair_f16(__uint_as_float(pair << 16) * by, __uint_as_float(pair & 0xffff0000u) * by);
  }
}

/* The warp's rows of queries from shared memory, and nothing seen yet. Rows behind the last are the last again. */
template <int D, int BITS> __device__ void begin(rows<D> &w, const char *queries, int row0, int count) {
  const int lane = threadIdx.x % 32, c = lane % 4;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const char *q = queries + min(row0 + lane / 4 + 8 * h, count - 1) * (D * 2 + 16);
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
      const int low = BITS == 16 ? 16 * i + 2 * c : 4 * (c * (D / 16) + i), high = BITS == 16 ? low + 8 : low + 2;
      w.q[i][h] = *(const uint32_t *)(q + low * 2);
      w.q[i][2 + h] = *(const uint32_t *)(q + high * 2);
    }
    if (BITS < 16) to_units(w, h);
    w.most[h] = -INFINITY;
    w.sum[h] = w.lift[h] = 0;
  }
#pragma unroll
  for (int i = 0; i < D / 32; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) w.out[i][j] = 0;
}

/* ---- the softmax ---- */

/* What the four warps of sixteen rows tell each other. */
typedef struct exchange {
  float most[SLICES][16], sum[SLICES][16], lift[SLICES][16];
  char p[16 * PITCH]; /* probabilities of a tile, bf16, in the order of A's columns */
} exchange;

/* Of the rows of values of a lane's four keys, in few bits: the logarithm and inverse of scale, and low' over it. A
 * probability goes with its row's scale into the softmax, whose maximum then is that of both, and so is 1 at most in
 * f16; the sum of probabilities is taken of it over the scale. */
template <int BITS> struct scales { float log[4], inverse[4], low[4]; };

template <int D, int BITS> __device__ void read_scales(scales<BITS> &v, const char *values, int slice) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int key = slice * 16 + key_of<BITS>(i / 2, threadIdx.x % 4 * 2 + i % 2);
    const float2 pair = pair_of<D, BITS>(values + key * sizes<D, BITS>::row);
    v.log[i] = log2_fast(pair.x);
    v.inverse[i] = __fdividef(1.0f, pair.x);
    v.low[i] = pair.y * v.inverse[i];
  }
}

/* To base 2, and without what a row does not see; the warp's maxima are left for the others. key0: the warp's first
 * key; all: every row sees every key. */
template <int D, int BITS>
__device__ void mask(float s[2][4], const rows<D> &w, const pu_cuda_attend &a, const item &m, int key0, bool all,
                     const scales<BITS> &v, float *most) {
  const int lane = threadIdx.x % 32, window = (int)min(a.window, (int64_t)1 << 30);
  const float scale = a.scale * LOG2E;
#pragma unroll
  for (int i = 0; i < 8; i++)
    s[i / 4][i % 4] = BITS == 16 ? s[i / 4][i % 4] * scale : fmaf(s[i / 4][i % 4], scale, v.log[i / 4 * 2 + i % 2]);
  if (!all) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const int key = key0 + key_of<BITS>(i / 4, lane % 4 * 2 + i % 2), pos = m.t.base + w.token[i / 2 % 2];
      if (key > pos || key <= pos - window) s[i / 4][i % 4] = -INFINITY;
    }
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const float top = quad_max(fmaxf(fmaxf(s[0][2 * h], s[0][2 * h + 1]), fmaxf(s[1][2 * h], s[1][2 * h + 1])));
    if (lane % 4 == 0) most[lane / 4 + 8 * h] = top;
  }
}

/* Scores become exponentials, and what was before is brought to the new maximum. */
template <int D, int BITS>
__device__ void soften(rows<D> &w, const float s[2][4], exchange *x, const scales<BITS> &v, int slice) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    float top = w.most[h];
#pragma unroll
    for (int i = 0; i < SLICES; i++) top = fmaxf(top, x->most[i][g + 8 * h]);
    const float base = top == -INFINITY ? 0.0f : top, keep = exp2_fast(w.most[h] - base);
    w.most[h] = top;
    w.sum[h] *= keep;
    w.lift[h] *= keep;
#pragma unroll
    for (int i = 0; i < D / 32; i++) {
      w.out[i][2 * h] *= keep;
      w.out[i][2 * h + 1] *= keep;
    }
#pragma unroll
    for (int tau = 0; tau < 2; tau++) {
      const float p = exp2_fast(s[tau][2 * h] - base), q = exp2_fast(s[tau][2 * h + 1] - base);
      uint32_t *to = (uint32_t *)(x->p + (g + 8 * h) * PITCH + (slice * 16 + tau * 8 + 2 * t) * 2);
      if (BITS == 16) {
        w.sum[h] += p + q;
        *to = pair_bf16(p, q);
      } else {
        w.sum[h] += fmaf(p, v.inverse[2 * tau], q * v.inverse[2 * tau + 1]);
        w.lift[h] += fmaf(p, v.low[2 * tau], q * v.low[2 * tau + 1]);
        *to = pair_f16(p, q);
      }
    }
  }
}

/* ---- results ---- */

/* Where a row's output lies. */
__device__ bf16 *out_of(const pu_cuda_attend &a, const item &m, int token, int head) {
  return (bf16 *)(a.out + (m.t.row + token) * a.out_row) + (int64_t)(m.head * a.share + head) * a.dim;
}

/* Where a stretch's results stand among all, in rows. */
__device__ int64_t part_of(const pu_cuda_few &f, const item &m, int which) {
  return ((int64_t)(m.at + which - m.t.first) * f.kv_heads + m.head) * f.rows;
}

/* A stretch's results to where the last block finds them, or, of the only stretch, to the end. */
template <int D, int BITS>
__device__ void leave(const rows<D> &w, const pu_cuda_attend &a, const pu_cuda_few &f, const item &m, exchange *x,
                      int row0, int slice) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const float sum = quad_sum(w.sum[h]), lift = quad_sum(w.lift[h]);
    if (t == 0) {
      x->sum[slice][g + 8 * h] = sum;
      x->lift[slice][g + 8 * h] = lift;
    }
  }
  __syncthreads();
  const int64_t part = part_of(f, m, m.t.mine);
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int in = g + 8 * h, r = row0 + in;
    float sum = 0, lift = 0;
#pragma unroll
    for (int i = 0; i < SLICES; i++) {
      sum += x->sum[i][in];
      lift += x->lift[i][in];
    }
    if (w.token[h] >= m.t.n) continue;
    bf16 *out = out_of(a, m, w.token[h], w.head[h]);
#pragma unroll
    for (int i = 0; i < D / 32; i++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const int at = value_of<D, BITS>(slice, i, 2 * t + e);
        const float y = BITS < 16 ? w.out[i][2 * h + e] + lift : w.out[i][2 * h + e];
        if (m.t.first == m.t.last)
          out[at] = from_f32<bf16>(y / sum);
        else
          __stcg(&f.parts[(part + r) * D + at], y);
      }
    if (m.t.first != m.t.last && slice == 0 && t == 0)
      __stcg((float2 *)&f.sums[(part + r) * 2], make_float2(w.most[h], sum));
  }
}

/* Whether this block is the last of its sequence and head to come here. The first thread's fences stand for all: the
 * barriers order the others' accesses before and after its own. */
__device__ bool is_last(const pu_cuda_few &f, const item &m) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    int32_t *arrived = &f.arrived[(int64_t)m.t.number * f.kv_heads + m.head];
    __threadfence();
    last = atomicAdd(arrived, 1) == m.t.last - m.t.first;
    if (last) *arrived = 0;
    __threadfence();
  }
  __syncthreads();
  return last;
}

template <int D> __device__ void merge_stretches(const pu_cuda_attend &a, const pu_cuda_few &f, const item &m) {
  for (int at = threadIdx.x; at < m.t.n * a.share * D; at += blockDim.x) {
    const int r = at / D, i = at % D;
    float most = -INFINITY, sum = 0, x = 0;
#pragma unroll 4
    for (int c = m.t.first; c <= m.t.last; c++) most = fmaxf(most, __ldcg(&f.sums[(part_of(f, m, c) + r) * 2]));
#pragma unroll 4
    for (int c = m.t.first; c <= m.t.last; c++) {
      const int64_t from = part_of(f, m, c) + r;
      const float2 pair = __ldcg((const float2 *)&f.sums[from * 2]);
      const float by = exp2_fast(pair.x - most);
      sum = fmaf(by, pair.y, sum);
      x = fmaf(by, __ldcg(&f.parts[from * D + i]), x);
    }
    out_of(a, m, r / a.share, r % a.share)[i] = from_f32<bf16>(x / sum);
  }
}

/* ---- a block ---- */

template <int D, int KB, int VB, int ROW_TILES> struct shape {
  static constexpr int keys = sizes<D, KB>::tile, values = sizes<D, VB>::tile;
  static constexpr int stages = KB == 16 ? ROW_TILES == 2 ? 3 : 2 : 4;
  /* A place for a tile; behind it the queries, of an item's first tile. */
  static __host__ __device__ int stage(int rows) {
    return keys + values + rows * (D * 2 + 16);
  }
  static __host__ __device__ int bytes(int rows) {
    return stages * stage(rows) + ROW_TILES * (int)sizeof(exchange);
  }
  static constexpr int threads = 128 * ROW_TILES;
  static constexpr int blocks = ROW_TILES == 1              ? (KB == 16 ? 2 : 3)
                                : ROW_TILES == 2 && KB < 16 ? 2
                                                            : 1; /* of a multiprocessor */
};

/* The next tile to bring in: what it needs from memory was asked for a step or an item before. */
typedef struct cursor {
  int index, tile; /* item, and tile of it */
  item m;
  stretch after;
  int items;
  int block;
} cursor;

template <int KB> __device__ void start(cursor &c, const pu_cuda_attend &a, const pu_cuda_few &f) {
  c.items = items_of(f);
  c.index = blockIdx.x;
  c.tile = 0;
  c.m = item_of(a, f, fetch(f, c.index, c.items), c.index);
  c.after = fetch(f, c.index + gridDim.x, c.items);
  c.block = find_block<KB>(a.k, c.m, c.m.from);
}

template <int KB> __device__ void advance(cursor &c, const pu_cuda_attend &a, const pu_cuda_few &f) {
  if (++c.tile == c.m.tiles) {
    c.tile = 0;
    c.index += gridDim.x;
    c.m = item_of(a, f, c.after, c.index);
    c.after = fetch(f, c.index + gridDim.x, c.items);
  }
  c.block = find_block<KB>(a.k, c.m, c.m.from + c.tile * TILE);
}

/* Items blockIdx.x, + gridDim.x, …: while one is computed, the next tiles are on their way, of the next item too. */
template <int D, int KB, int VB, int ROW_TILES>
__global__ void __launch_bounds__(shape<D, KB, VB, ROW_TILES>::threads, shape<D, KB, VB, ROW_TILES>::blocks)
    few_kernel(const __grid_constant__ pu_cuda_attend a, const __grid_constant__ pu_cuda_few f) {
  typedef shape<D, KB, VB, ROW_TILES> S;
  extern __shared__ __align__(128) char shared[];
  __shared__ uint64_t barriers[S::stages];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, slice = warp % SLICES, row0 = warp / SLICES * 16;
  const int stage = S::stage(f.rows);
  exchange *x = (exchange *)(shared + S::stages * stage) + warp / SLICES;
  cursor coming;
  start<KB>(coming, a, f);
  const auto load = [&](int step) {
    if (coming.index < coming.items) {
      const uint32_t at = shared_address(shared) + step % S::stages * stage,
                     barrier = shared_address(&barriers[step % S::stages]);
      load_tile<D, KB, VB>(at, a, coming.m, f.kv_heads, coming.m.from + coming.tile * TILE, coming.block, barrier);
      if (coming.tile == 0) copy_queries<D, S::threads>(at + S::keys + S::values, a, coming.m);
      advance<KB>(coming, a, f);
    }
    copies_commit();
  };
#if __CUDA_ARCH__ >= 900
  if (threadIdx.x < S::stages) barrier_init(shared_address(&barriers[threadIdx.x]));
  before_bulk();
  __syncthreads();
#endif
  for (int i = 0; i < S::stages - 1; i++) load(i);
  rows<D> w;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    w.token[h] = (row0 + lane / 4 + 8 * h) / a.share;
    w.head[h] = (row0 + lane / 4 + 8 * h) % a.share;
  }
  int step = 0;
  const int items = coming.items;
  stretch after = fetch(f, blockIdx.x, items);
  for (int index = blockIdx.x; index < items; index += gridDim.x) {
    const item m = item_of(a, f, after, index);
    after = fetch(f, index + gridDim.x, items);
    for (int i = 0; i < m.tiles; i++, step++) {
      char *keys = shared + step % S::stages * stage, *values = keys + S::keys;
      const int key0 = m.from + i * TILE;
      float s[2][4];
      copies_wait<S::stages - 2>();
#if __CUDA_ARCH__ >= 900
      barrier_wait(shared_address(&barriers[step % S::stages]), step / S::stages & 1);
#endif
      __syncthreads();
      load(step + S::stages - 1); /* where the last step's tile was */
      if (i == 0) begin<D, KB>(w, values + S::values, row0, m.t.n * a.share);
      if (key0 + TILE > m.t.base) {
        put_rows<D, KB>(a, a.k, m, a.heads + m.head, key0, keys);
        put_rows<D, VB>(a, a.v, m, a.heads + f.kv_heads + m.head, key0, values);
        __syncthreads();
      }
      score<D, KB>(s, w, keys, slice);
      const bool all = key0 + TILE <= m.t.base && key0 > m.t.base + m.t.n - 1 - a.window;
      scales<VB> v;
      if constexpr (VB < 16) read_scales<D, VB>(v, values, slice);
      mask<D, VB>(s, w, a, m, key0 + slice * 16, all, v, x->most[slice]);
      __syncthreads();
      soften<D, VB>(w, s, x, v, slice);
      __syncthreads();
      gather<D, VB>(w, x->p + lane / 4 * PITCH + lane % 4 * 4, values, slice);
    }
    leave<D, VB>(w, a, f, m, x, row0, slice);
    if (m.t.first != m.t.last && is_last(f, m)) merge_stretches<D>(a, f, m);
  }
}

/* ---- choice ---- */

template <int D, int KB, int VB, int ROW_TILES>
pu_err launch(pu_cuda *d, const pu_cuda_attend *a, const pu_cuda_few *f, pu_error *e) {
  typedef shape<D, KB, VB, ROW_TILES> S;
  const auto kernel = few_kernel<D, KB, VB, ROW_TILES>;
  const int bytes = S::bytes(f->rows);
  int room;
  PU_CUDA_TRY(cudaDeviceGetAttribute(&room, cudaDevAttrMaxSharedMemoryPerMultiprocessor, d->device), "attention", e);
  const int blocks = PU_MAX(1, PU_MIN(S::blocks, room / (bytes + 1088))); /* the system's, and what is not dynamic */
  PU_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "attention", e);
  kernel<<<PU_MIN(f->most * f->kv_heads, d->sms * blocks), S::threads, bytes, d->stream>>>(*a, *f);
  return pu_cuda_launched("attention over the cache", e);
}

template <int D, int KB, int VB>
pu_err by_rows(pu_cuda *d, const pu_cuda_attend *a, const pu_cuda_few *f, pu_error *e) {
  if (f->rows <= 16) return launch<D, KB, VB, 1>(d, a, f, e);
  return f->rows <= 32 ? launch<D, KB, VB, 2>(d, a, f, e) : launch<D, KB, VB, 4>(d, a, f, e);
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
