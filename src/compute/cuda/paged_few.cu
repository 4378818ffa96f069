/* Decoding over the paged cache on tensor cores, bound by the cache's bytes: each is read once for all query heads and
 * new tokens that look at it, and the context is split among blocks of threads (flash decoding: Dao et al. 2023,
 * https://crfm.stanford.edu/2023/10/12/flashdecoding.html) at multiples of PU_CUDA_SPLIT keys, whatever the batch is, so
 * a sequence's result is the same to the bit in every batch and however its tokens come.
 *
 * A block has a stretch of keys of one sequence and key head. Its rows are (new token, query head of the group); sixteen
 * of them make a tile of a product. Warp w has rows of tile w / 4, and sixteen keys (w % 4) of each 64 that cp.async
 * brings into shared memory as they lie in the cache. It keeps a maximum and sums of its own; the four warps of a tile
 * are merged in their order, then the stretches by the block that arrives last, in the order of the stretches.
 *
 * Rows in few bits stay so until they are in registers: with u the stored number less 2^(bits-1), which bf16 holds
 * exactly, a score is scale (q . u) + low' sum(q), and an output the sum of (p scale) u, and of p low' for all its values;
 * low' = low + 2^(bits-1) scale. The lanes of a product may have its inner dimension in any order, if both sides have the
 * same one, so a lane takes whole words of a row: see `word_of_key` and `word_of_value`. */
#include "src/compute/cuda/mma.h"
#include "src/compute/cuda/paged.h"

namespace {

constexpr int TILE = 64, SPLIT = PU_CUDA_SPLIT, SLICES = 4, GROUP = 16 /* keys that lie side by side in the cache */;
constexpr float LOG2E = 1.4426950408889634f;

template <int D, int BITS> struct sizes {
  static constexpr int row = BITS == 16 ? D * 2 : D * BITS / 8 + PU_KV_PAIR_BYTES; /* bytes */
  static constexpr int tile = TILE * row;                                          /* of keys, or of values */
  static constexpr int stages = BITS == 16 ? 2 : 4;
};

/* What the warps of a block leave for each other: outputs (padded rows), maxima and sums. */
template <int D> struct merging {
  static constexpr int pitch = D + 8;
  static constexpr int bytes(int warps) { return warps * 16 * (pitch + 2) * (int)sizeof(float); }
};

/* ---- into shared memory ---- */

/* Keys [key0, key0 + TILE) of a stretch as they lie in the cache; zeros from `valid` on. groups: the row of the cache
 * that each sixteen begin with. */
template <int D, int BITS>
__device__ void load_tile(uint32_t to, const char *base, const int64_t *groups, int valid) {
  constexpr int ROW = sizes<D, BITS>::row, PIECES = TILE * ROW / 16;
  for (int p = threadIdx.x; p < PIECES; p += blockDim.x) {
    const int bytes = min(max(valid * ROW - p * 16, 0), 16);
    const char *from = base + groups[p / ROW] * ROW + p % ROW * 16; /* sixteen rows are ROW pieces */
    const int at = BITS == 16 ? swizzled<D>(p / (D / 8), p % (D / 8)) : p * 16;
    copy_async(to + at, from, bytes);
  }
}

/* ---- rows in few bits ---- */

__device__ uint32_t minus_half(uint32_t x, uint32_t half) { /* of two bf16 */
  __nv_bfloat162 a, b;
  memcpy(&a, &x, 4);
  memcpy(&b, &half, 4);
  a = __hsub2(a, b);
  memcpy(&x, &a, 4);
  return x;
}

/* Byte i of a and byte j of b, less 128, side by side as bf16. */
__device__ uint32_t bytes_to_bf16(uint32_t a, int i, uint32_t b, int j) {
  const float x = __uint_as_float(__byte_perm(a, 0x4b000000u, 0x7650 | i)); /* 2^23 + the byte */
  const float y = __uint_as_float(__byte_perm(b, 0x4b000000u, 0x7650 | j));
  return pair_bf16(x - 8388736.0f, y - 8388736.0f);
}

/* The low four bits of the low and of the high half of x, less 8, as bf16: 0x4300 | v is 128 + v. */
__device__ uint32_t nibbles_to_bf16(uint32_t x) {
  return minus_half((x & 0x000f000fu) | 0x43004300u, 0x43084308u); /* 136 */
}

/* Numbers 4 i to 4 i + 3 of a key's part of a row, from the word(s) there: the two registers of B. */
template <int BITS> __device__ void key_numbers(uint32_t b[2], uint32_t word, int i) {
  if (BITS == 8) {
    b[0] = bytes_to_bf16(word, 0, word, 1);
    b[1] = bytes_to_bf16(word, 2, word, 3);
  } else {
    const uint32_t x = word >> (i % 2 * 16), y = x >> 4;
    b[0] = nibbles_to_bf16(__byte_perm(x, y, 0x3430)); /* byte 0 of x below, of y above */
    b[1] = nibbles_to_bf16(__byte_perm(x, y, 0x3531));
  }
}

/* Numbers `at` of words of two rows. */
template <int BITS> __device__ uint32_t value_numbers(uint32_t a, uint32_t b, int at) {
  if (BITS == 8) return bytes_to_bf16(a, at, b, at);
  return nibbles_to_bf16(__byte_perm(a, b, 0x7430 + at / 2 * 0x0101) >> (at % 2 * 4));
}

/* Scale and low' of a row. */
template <int D, int BITS> __device__ float2 pair_of(const char *row) {
  const uint32_t pair = *(const uint32_t *)(row + D * BITS / 8);
  const float scale = __half2float(__ushort_as_half((unsigned short)pair));
  return make_float2(scale, fmaf(scale, (float)(1 << (BITS - 1)), __half2float(__ushort_as_half((unsigned short)(pair >> 16)))));
}

/* ---- a warp's sixteen keys ---- */

/* Sixteen rows of queries as A, and what the warp has so far. */
template <int D> struct rows {
  uint32_t q[D / 16][4];
  float sum_q[2];     /* of few bits: rows g, g + 8 */
  float most[2], sum[2], lift[2]; /* lift: sum of p low', of this lane's keys */
  float out[D / 8][4];
};

/* The number of the key, of the warp's sixteen, that stands in column c of C's tile `tau`: a lane's four columns 2t,
 * 2t + 1 are four keys side by side, of few bits. */
template <int BITS> __device__ int key_of(int tau, int c) {
  return BITS == 16 ? tau * 8 + c : c / 2 * 4 + tau * 2 + c % 2;
}

template <int D, int BITS> __device__ void score(float s[2][4], const rows<D> &w, const char *keys, int slice) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 4; i++) s[0][i] = s[1][i] = 0;
  if constexpr (BITS == 16) {
    const int row = slice * 16 + lane / 16 * 8 + lane % 8;
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
      uint32_t b[4];
      load_matrices(b, shared_address(keys) + swizzled<D>(row, 2 * i + lane / 8 % 2));
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
        mma(s[tau], w.q[i], b[0], b[1]);
      }
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const float2 pair = pair_of<D, BITS>(keys + (slice * 16 + key_of<BITS>(tau, 2 * t + e)) * ROW);
        s[tau][e] = fmaf(s[tau][e], pair.x, w.sum_q[0] * pair.y);
        s[tau][2 + e] = fmaf(s[tau][2 + e], pair.x, w.sum_q[1] * pair.y);
      }
    }
  }
}

/* out += p V, p in the registers of A. */
template <int D, int BITS> __device__ void gather(rows<D> &w, const float p[2][4], const char *values, int slice) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  if constexpr (BITS == 16) {
    const uint32_t a[4] = {pair_bf16(p[0][0], p[0][1]), pair_bf16(p[0][2], p[0][3]), pair_bf16(p[1][0], p[1][1]),
                           pair_bf16(p[1][2], p[1][3])};
    const int row = slice * 16 + lane / 8 % 2 * 8 + lane % 8;
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
      uint32_t b[4];
      load_matrices_turned(b, shared_address(values) + swizzled<D>(row, 2 * i + lane / 16));
      mma(w.out[2 * i], a, b[0], b[1]);
      mma(w.out[2 * i + 1], a, b[2], b[3]);
    }
  } else {
    constexpr int ROW = sizes<D, BITS>::row, EACH = 32 / BITS; /* numbers of a word */
    const char *mine = values + (slice * 16 + 4 * t) * ROW; /* rows of columns 2t, 2t + 1 of both tiles */
    uint32_t a[4];
#pragma unroll
    for (int tau = 0; tau < 2; tau++) {
      const float2 x = pair_of<D, BITS>(mine + 2 * tau * ROW), y = pair_of<D, BITS>(mine + (2 * tau + 1) * ROW);
      a[2 * tau] = pair_bf16(p[tau][0] * x.x, p[tau][1] * y.x);
      a[2 * tau + 1] = pair_bf16(p[tau][2] * x.x, p[tau][3] * y.x);
      w.lift[0] += fmaf(p[tau][0], x.y, p[tau][1] * y.y);
      w.lift[1] += fmaf(p[tau][2], x.y, p[tau][3] * y.y);
    }
#pragma unroll
    for (int j = 0; j < D * BITS / 32 / 8; j++) {
      uint32_t word[4];
#pragma unroll
      for (int r = 0; r < 4; r++) word[r] = *(const uint32_t *)(mine + r * ROW + (g + 8 * j) * 4);
#pragma unroll
      for (int i = 0; i < EACH; i++)
        mma(w.out[j * EACH + i], a, value_numbers<BITS>(word[0], word[1], i), value_numbers<BITS>(word[2], word[3], i));
    }
  }
}

/* Where column c of C's tile T of outputs stands in a head. */
template <int BITS> __device__ int value_of(int T, int c) {
  constexpr int EACH = 32 / BITS;
  return BITS == 16 ? 8 * T + c : (c + T / EACH * 8) * EACH + T % EACH;
}

/* The softmax's step: scores become exponentials, what was before is brought to the new maximum. */
template <int D> __device__ void soften(rows<D> &w, float p[2][4]) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    float top = fmaxf(fmaxf(p[0][2 * h], p[0][2 * h + 1]), fmaxf(p[1][2 * h], p[1][2 * h + 1]));
    top = fmaxf(w.most[h], quad_max(top));
    const float base = top == -INFINITY ? 0.0f : top, keep = exp2_fast(w.most[h] - base);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float *x = &p[i / 2][2 * h + i % 2];
      *x = exp2_fast(*x - base);
      sum += *x;
    }
    w.most[h] = top;
    w.sum[h] = w.sum[h] * keep + sum;
    w.lift[h] *= keep;
#pragma unroll
    for (int i = 0; i < D / 8; i++) {
      w.out[i][2 * h] *= keep;
      w.out[i][2 * h + 1] *= keep;
    }
  }
}

/* ---- a block ---- */

/* A stretch: keys [from, end) of the sequence, the first at a multiple of TILE. */
typedef struct stretch {
  int64_t from, end;
  int first, last, mine; /* stretches of the sequence that are seen, and this one */
} stretch;

__device__ bool find_stretch(const pu_cuda_attend &a, const pu_cuda_tile &t, stretch *s) {
  const int64_t len = t.base + t.n, seen = max(t.base - a.window + 1, (int64_t)0);
  s->mine = blockIdx.x;
  s->first = (int)(seen / SPLIT);
  s->last = (int)((len - 1) / SPLIT);
  s->from = max((int64_t)s->mine * SPLIT, seen / TILE * TILE);
  s->end = min((int64_t)(s->mine + 1) * SPLIT, len);
  return s->mine >= s->first && s->mine <= s->last;
}

/* The new tokens' rows of this head whose place is in the stretch. */
__device__ void append(const pu_cuda_attend &a, const pu_cuda_tile &t, int kv_heads, const stretch &s) {
  const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int64_t begin = max(s.from, (int64_t)t.base);
  if (begin >= s.end) return;
  for (int64_t i = warp; i < 2 * (s.end - begin); i += warps)
    pu_append_row(a, kv_heads, (int)(i % 2) * kv_heads + blockIdx.y, t.seq, t.row + begin + i / 2 - t.base, begin + i / 2);
  __threadfence(); /* the rows are read again, from the second cache on */
}

__device__ void find_groups(const pu_cuda_rows &r, int kv_heads, int32_t seq, const stretch &s, int64_t *groups) {
  for (int i = threadIdx.x; i < SPLIT / GROUP; i += blockDim.x) {
    const int64_t pos = s.from + i * GROUP;
    int64_t row = 0;
    if (pos < s.end) {
      const int64_t block = r.table[(int64_t)seq * r.table_stride + pos / r.block];
      row = (block * kv_heads + blockIdx.y) * r.block + pos % r.block;
    }
    groups[i] = row;
  }
}

template <int D, int BITS>
__device__ void load_queries(rows<D> &w, const pu_cuda_attend &a, const pu_cuda_tile &t, int row0) {
  const int lane = threadIdx.x % 32, c = lane % 4;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int r = row0 + lane / 4 + 8 * h;
    const bool there = r < t.n * a.share;
    const char *q = a.q + (t.row + r / a.share) * a.q_row + (int64_t)(blockIdx.y * a.share + r % a.share) * D * 2;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
      const int low = BITS == 16 ? 16 * i + 2 * c : 4 * (c * (D / 16) + i), high = BITS == 16 ? low + 8 : low + 2;
      w.q[i][h] = there ? *(const uint32_t *)(q + low * 2) : 0;
      w.q[i][2 + h] = there ? *(const uint32_t *)(q + high * 2) : 0;
#pragma unroll
      for (int j = 0; j < 4; j += 2)
        sum += __uint_as_float(w.q[i][j + h] << 16) + __uint_as_float(w.q[i][j + h] & 0xffff0000u);
    }
    w.sum_q[h] = quad_sum(sum);
    w.most[h] = -INFINITY;
    w.sum[h] = w.lift[h] = 0;
  }
#pragma unroll
  for (int i = 0; i < D / 8; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) w.out[i][j] = 0;
}

template <int BITS> __device__ void mask(float s[2][4], const pu_cuda_attend &a, const pu_cuda_tile &t, int row0, int64_t key0) {
  const int lane = threadIdx.x % 32;
  const float scale = a.scale * LOG2E;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const int h = i / 2 % 2, r = row0 + lane / 4 + 8 * h;
    const int64_t key = key0 + key_of<BITS>(i / 4, lane % 4 * 2 + i % 2), pos = t.base + r / a.share;
    float *x = &s[i / 4][i % 4];
    *x = key <= pos && key > pos - a.window ? *x * scale : -INFINITY;
  }
}

/* Leaves the warp's results for the merging of the four. */
template <int D, int BITS> __device__ void leave(const rows<D> &w, float *room, int warps) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  constexpr int PITCH = merging<D>::pitch;
  float *out = room + warp * 16 * PITCH, *pairs = room + warps * 16 * PITCH + warp * 32;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int r = lane / 4 + 8 * h;
    const float lift = quad_sum(w.lift[h]), sum = quad_sum(w.sum[h]);
#pragma unroll
    for (int i = 0; i < D / 8; i++)
#pragma unroll
      for (int e = 0; e < 2; e++) out[r * PITCH + value_of<BITS>(i, lane % 4 * 2 + e)] = w.out[i][2 * h + e] + lift;
    if (lane % 4 == 0) {
      pairs[2 * r] = w.most[h];
      pairs[2 * r + 1] = sum;
    }
  }
}

__device__ void write_out(const pu_cuda_attend &a, const pu_cuda_tile &t, int r, int i, float x) {
  bf16 *row = (bf16 *)(a.out + (t.row + r / a.share) * a.out_row);
  row[(int64_t)(blockIdx.y * a.share + r % a.share) * a.dim + i] = from_f32<bf16>(x);
}

/* Where a stretch's results stand among all, in rows. */
__device__ int64_t part_of(const pu_cuda_few &f, const pu_cuda_tile &t, const stretch &s, int which) {
  return (t.at + (int64_t)blockIdx.y * (s.last - s.first + 1) + which - s.first) * f.rows;
}

/* One stretch's results from its warps': to where the last block finds them, or, of the only stretch, to the end. */
template <int D>
__device__ void merge_warps(const pu_cuda_attend &a, const pu_cuda_few &f, const pu_cuda_tile &t, const stretch &s,
                            const float *room, int warps) {
  constexpr int PITCH = merging<D>::pitch;
  const float *pairs = room + warps * 16 * PITCH;
  const bool only = s.first == s.last;
  const int64_t part = part_of(f, t, s, s.mine);
  for (int at = threadIdx.x; at < t.n * a.share * D; at += blockDim.x) {
    const int r = at / D, i = at % D, first = r / 16 * SLICES;
    float most = -INFINITY, sum = 0, x = 0;
#pragma unroll
    for (int w = 0; w < SLICES; w++) most = fmaxf(most, pairs[((first + w) * 16 + r % 16) * 2]);
#pragma unroll
    for (int w = 0; w < SLICES; w++) {
      const int from = (first + w) * 16 + r % 16;
      const float by = pairs[from * 2] == -INFINITY ? 0.0f : exp2_fast(pairs[from * 2] - most);
      sum = fmaf(by, pairs[from * 2 + 1], sum);
      x = fmaf(by, room[from * PITCH + i], x);
    }
    if (only) {
      write_out(a, t, r, i, x / sum);
      continue;
    }
    __stcg(&f.parts[(part + r) * D + i], x);
    if (i == 0) {
      __stcg(&f.sums[(part + r) * 2], most);
      __stcg(&f.sums[(part + r) * 2 + 1], sum);
    }
  }
}

/* Whether this block is the last of its sequence and head to come here. */
__device__ bool is_last(const pu_cuda_few &f, const stretch &s) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    int32_t *arrived = &f.arrived[(int64_t)blockIdx.z * f.kv_heads + blockIdx.y];
    last = atomicAdd(arrived, 1) == s.last - s.first;
    if (last) *arrived = 0;
  }
  __syncthreads();
  __threadfence();
  return last;
}

template <int D>
__device__ void merge_stretches(const pu_cuda_attend &a, const pu_cuda_few &f, const pu_cuda_tile &t, const stretch &s) {
  for (int at = threadIdx.x; at < t.n * a.share * D; at += blockDim.x) {
    const int r = at / D, i = at % D;
    float most = -INFINITY, sum = 0, x = 0;
#pragma unroll 4
    for (int c = s.first; c <= s.last; c++) most = fmaxf(most, __ldcg(&f.sums[(part_of(f, t, s, c) + r) * 2]));
#pragma unroll 4
    for (int c = s.first; c <= s.last; c++) {
      const int64_t from = part_of(f, t, s, c) + r;
      const float2 pair = __ldcg((const float2 *)&f.sums[from * 2]);
      const float by = pair.x == -INFINITY ? 0.0f : exp2_fast(pair.x - most);
      sum = fmaf(by, pair.y, sum);
      x = fmaf(by, __ldcg(&f.parts[from * D + i]), x);
    }
    write_out(a, t, r, i, x / sum);
  }
}

template <int D, int KB, int VB, int ROW_TILES>
__global__ void __launch_bounds__(128 * ROW_TILES, ROW_TILES == 1 ? 3 : 1) few_kernel(pu_cuda_attend a, pu_cuda_few f) {
  constexpr int K = sizes<D, KB>::tile, STAGE = K + sizes<D, VB>::tile, STAGES = sizes<D, KB>::stages;
  extern __shared__ __align__(128) char shared[];
  __shared__ int64_t groups[SPLIT / GROUP];
  const int warp = threadIdx.x / 32, slice = warp % SLICES, row0 = warp / SLICES * 16;
  const pu_cuda_tile t = a.tiles[blockIdx.z];
  stretch s;
  if (!find_stretch(a, t, &s)) return;
  append(a, t, f.kv_heads, s);
  find_groups(a.k, f.kv_heads, t.seq, s, groups);
  rows<D> w;
  load_queries<D, KB>(w, a, t, row0);
  __syncthreads();
  const int tiles = (int)((s.end - s.from + TILE - 1) / TILE);
  const auto load = [&](int i) {
    if (i < tiles) {
      const uint32_t to = shared_address(shared) + i % STAGES * STAGE;
      const int valid = (int)(s.end - s.from) - i * TILE;
      load_tile<D, KB>(to, a.k.base, groups + i * (TILE / GROUP), valid);
      load_tile<D, VB>(to + K, a.v.base, groups + i * (TILE / GROUP), valid);
    }
    copies_commit();
  };
  for (int i = 0; i < STAGES; i++) load(i);
  for (int i = 0; i < tiles; i++) {
    const char *keys = shared + i % STAGES * STAGE;
    float p[2][4];
    copies_wait<STAGES - 1>();
    __syncthreads();
    score<D, KB>(p, w, keys, slice);
    mask<KB>(p, a, t, row0, s.from + i * TILE + slice * 16);
    soften(w, p);
    gather<D, VB>(w, p, keys + K, slice);
    __syncthreads();
    load(i + STAGES);
  }
  copies_wait<0>();
  leave<D, VB>(w, (float *)shared, blockDim.x / 32);
  __syncthreads();
  merge_warps<D>(a, f, t, s, (const float *)shared, blockDim.x / 32);
  if (s.first != s.last && is_last(f, s)) merge_stretches<D>(a, f, t, s);
}

/* ---- choice ---- */

template <int D, int KB, int VB, int ROW_TILES>
pu_err launch(pu_cuda *d, const pu_cuda_attend *a, const pu_cuda_few *f, pu_error *e) {
  constexpr int STAGES = sizes<D, KB>::stages * (sizes<D, KB>::tile + sizes<D, VB>::tile);
  constexpr int MERGE = merging<D>::bytes(SLICES * ROW_TILES), BYTES = STAGES > MERGE ? STAGES : MERGE;
  const auto kernel = few_kernel<D, KB, VB, ROW_TILES>;
  PU_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, BYTES), "attention", e);
  kernel<<<dim3(f->stretches, f->kv_heads, a->tile_count), 128 * ROW_TILES, BYTES, d->stream>>>(*a, *f);
  return pu_cuda_launched("attention over the cache", e);
}

template <int D, int KB, int VB> pu_err by_rows(pu_cuda *d, const pu_cuda_attend *a, const pu_cuda_few *f, pu_error *e) {
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
  const int64_t bytes = a->q_row | a->out_row | (int64_t)a->q | (int64_t)a->out | (int64_t)a->k.base | (int64_t)a->v.base;
  return bits && a->q_bits == 16 && (a->dim == 64 || a->dim == 128) && a->k.block % GROUP == 0 && bytes % 16 == 0;
}

pu_err pu_cuda_few_forward(pu_cuda *d, const pu_cuda_attend *a, const pu_cuda_few *f, pu_error *e) {
  return a->dim == 64 ? by_bits<64>(d, a, f, e) : by_bits<128>(d, a, f, e);
}
