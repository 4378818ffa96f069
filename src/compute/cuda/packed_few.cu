/* Products of weights in few bits with few tokens: as fast as memory gives the weights.
 *
 * Whole numbers: x is rounded, 128 inputs of a token at a time, to sixteen bits (f32: 31) of their largest, two signed
 * bytes that are two columns of a product of bytes on the tensor cores (m16n8k32), of four tokens. The weights' bits
 * are bytes as they lie: of four bits `word & 0x0f0f0f0f` is row g, `word & 0xf0f0f0f0` sixteen times row g + 8. So a
 * group's sum is exact, whatever tokens stand beside it; it is scaled, less the zero times the sum of the group's x,
 * and added in f32.
 *
 * A warp has some blocks of sixteen rows and a slice of the inputs. It copies its weights and their scales through a
 * ring of its own in shared memory (cp.async), several pieces ahead; x waits in shared memory. The slices' sums meet
 * in shared memory and are added in order: how many slices there are depends on K alone, thus no result on the number
 * of tokens. */
#include "src/compute/cuda/gates.cuh"
#include "src/compute/cuda/packed.h"

enum { WARPS = 8, THREADS = WARPS * 32, PIECE = PACKED_PIECE, SUM_STEP = 20 };

/* Sixteen bits of x's rows are a "line": a token of bf16 is one, of f32 two, the upper bits first. */
typedef struct few_job {
  const uint8_t *w;
  packed_layout l;
  int64_t rows;
  int units;         /* of teams blocks */
  int up;            /* with swiglu: blocks from gates to what they open, and units alternate; else 0 */
  int slices, teams; /* to a power of two each: 1 << slices slices, 1 << teams teams */
  packed_x x;
  int lines, tokens, parts; /* lines: at most, at a time; parts: lines of a token */
  int x_pieces;             /* of a slice, that x has room for in shared memory */
  int slots;                /* of a warp's ring */
  packed_y y;
  packed_parts of;
} few_job;

template <int BITS, int GROUP, bool ZEROS, int NT> struct few_shape {
  static constexpr int group_q = GROUP * PACKED_ROWS * BITS / 8, pair = ZEROS ? 8 : 4; /* bytes */
  static constexpr int groups = PIECE / GROUP;
  static constexpr int stage = groups * (group_q + 8 * pair);
  static constexpr int depth = BITS == 8 ? (NT == 1 ? 5 : 3) : NT == 1 ? 8 : 6;
};

/* The piece that a warp copies next. */
typedef struct few_ahead {
  const uint8_t *from;
  int unit, piece, slot;
  int step; /* to the next piece */
} few_ahead;

/* Behind the last block it is that one, again and for nothing. */
__device__ static inline int block_of(const few_job &j, int unit, int team) {
  int block = j.up ? unit / 2 + unit % 2 * j.up : (unit << j.teams) + team;
  return min(block, (int)j.l.blocks - 1);
}

/* A block of threads has every so many-th unit, with swiglu every so many-th two. */
__device__ static inline int first_unit(const few_job &j) {
  return j.up ? 2 * blockIdx.x : blockIdx.x;
}
__device__ static inline int next_unit(const few_job &j, int unit) {
  return j.up && unit % 2 == 0 ? unit + 1 : unit + (j.up ? 2 * (int)gridDim.x - 1 : (int)gridDim.x);
}

/* The first piece of a unit. */
__device__ static inline void aim(const few_job &j, const uint8_t *w, few_ahead &a, int team, int piece) {
  int block = block_of(j, a.unit, team);
  int in = block % PACKED_BLOCKS, first = block - in, n = min((int)PACKED_BLOCKS, (int)j.l.blocks - first);
  int bytes = (int)j.l.piece_bytes;
  a.piece = piece;
  a.step = n * bytes;
  a.from = w + (int64_t)first * (int)j.l.block_bytes + (piece * n + in) * bytes;
}

/* The last piece, if it is shorter than the others. */
__device__ static inline void copy_tail(const few_job &j, const uint8_t *w, const few_ahead &a, uint32_t to, int team,
                                        int lane) {
  int block = block_of(j, a.unit, team);
  const uint8_t *from = w + packed_at(j.l, block, a.piece);
  for (int i = lane * 16; i < j.l.tail_bytes; i += PACKED_UNIT) copy_async(to + i, from + i);
}

/* As it lies. */
template <class S>
__device__ static inline void copy_piece(const few_job &j, const uint8_t *w, const few_ahead &a, uint32_t ring,
                                         int team, int lane) {
  constexpr int rest = S::stage % PACKED_UNIT, whole = S::stage - rest;
  uint32_t to = ring + a.slot * S::stage;
  if (j.l.tail != PIECE && a.piece + 1 == j.l.pieces) return copy_tail(j, w, a, to, team, lane);
#pragma unroll
  for (int i = 0; i < whole; i += PACKED_UNIT) copy_async(to + i + lane * 16, a.from + i + lane * 16);
  if (rest > 0) copy_async_if(to + whole + lane * 16, a.from + whole + lane * 16, lane * 16 < rest);
}

/* ---- x ---- */

/* Four values of a lane: inputs 2t, 2t + 8, 2t + 1, 2t + 9 of its step of sixteen, as the weights' bytes lie. */
typedef struct few_four {
  uint2 a, b; /* of bf16 x alone */
} few_four;
template <typename T> __device__ static inline few_four load4(const T *x) {
  few_four f = {};
  if (sizeof(T) == 2)
    f.a.x = *(const uint32_t *)x, f.b.x = *(const uint32_t *)(x + 8);
  else
    f.a = *(const uint2 *)x, f.b = *(const uint2 *)(x + 8);
  return f;
}
__device__ static inline void spread4(float v[4], const few_four &f, const bf16 *) {
  v[0] = __uint_as_float(f.a.x << 16), v[2] = __uint_as_float(f.a.x & 0xffff0000u);
  v[1] = __uint_as_float(f.b.x << 16), v[3] = __uint_as_float(f.b.x & 0xffff0000u);
}
__device__ static inline void spread4(float v[4], const few_four &f, const float *) {
  v[0] = __uint_as_float(f.a.x), v[2] = __uint_as_float(f.a.y);
  v[1] = __uint_as_float(f.b.x), v[3] = __uint_as_float(f.b.y);
}

__device__ static inline float max_or_nan(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}

/* The exponent, as f32 has it, of the largest of a piece; 255: it is no number. */
__device__ static inline uint32_t largest_exponent(const float v[4]) {
  float m = max_or_nan(max_or_nan(fabsf(v[0]), fabsf(v[1])), max_or_nan(fabsf(v[2]), fabsf(v[3])));
  return __reduce_max_sync(0xffffffffu, __float_as_uint(m)) >> 23;
}

__device__ static inline float power(uint32_t exponent) {
  return __uint_as_float(exponent << 23);
}

/* The sum of a line's bytes: of a group, in each of its lanes. */
template <int GROUP> __device__ static inline int group_sum(uint32_t high, uint32_t low) {
  int s = __dp4a((int)high, 0x01010101, 0) * 256 + __dp4a((int)low, 0x01010101, 0);
  if (GROUP == PIECE) s = __reduce_add_sync(0xffffffffu, s);
#pragma unroll
  for (int o = GROUP == PIECE ? 0 : GROUP / 8; o > 0; o /= 2) s += __shfl_xor_sync(0xffffffffu, s, o);
  return s;
}

/* A line's place in shared memory: its two columns of bytes, and what its groups are scaled by and sum to. */
typedef struct few_line {
  char *high, *low;
  float2 *groups;
} few_line;

template <int GROUP>
__device__ static inline void put_line(const few_line &to, uint32_t high, uint32_t low, float scale, int lane) {
  int sum = group_sum<GROUP>(high, low);
  *(uint32_t *)(to.high + lane * 4) = high;
  *(uint32_t *)(to.low + lane * 4) = low;
  if (lane % (GROUP / 4) == 0) to.groups[lane / (GROUP / 4)] = make_float2(scale, (float)sum);
}

/* Bytes at, at + 1 of four words. */
__device__ static inline void two_bytes(const uint32_t u[4], int at, uint32_t &high, uint32_t &low) {
  const uint32_t pick = at ? 0x7632 : 0x5410;
  uint32_t a = __byte_perm(u[0], u[1], pick), b = __byte_perm(u[2], u[3], pick);
  high = __byte_perm(a, b, 0x7531);
  low = __byte_perm(a, b, 0x6420);
}

/* Whole numbers below 2^14: a byte is signed, so 128 is added before they are cut, and taken off the lower one. */
template <int GROUP>
__device__ static inline void round_piece(const float v[4], const bf16 *, const few_line *to, int lane) {
  uint32_t e = max(largest_exponent(v), 15u), u[4], high, low;
  float up = power(267 - e);
#pragma unroll
  for (int i = 0; i < 4; i++) u[i] = __float_as_uint(fmaf(v[i], up, 12582912.0f + 128.0f));
  two_bytes(u, 0, high, low);
  put_line<GROUP>(to[0], high, low ^ 0x80808080u, e == 255 ? __uint_as_float(0x7fffffffu) : power(e - 13), lane);
}
/* Below 2^30. */
template <int GROUP>
__device__ static inline void round_piece(const float v[4], const float *, const few_line *to, int lane) {
  uint32_t e = max(largest_exponent(v), 30u), u[4], high, low;
  float up = power(283 - e), nan = __uint_as_float(0x7fffffffu);
#pragma unroll
  for (int i = 0; i < 4; i++) u[i] = (uint32_t)(__float2int_rn(v[i] * up) + 0x808080);
  two_bytes(u, 2, high, low);
  put_line<GROUP>(to[0], high, low ^ 0x80808080u, e == 255 ? nan : power(e - 13), lane);
  two_bytes(u, 0, high, low);
  put_line<GROUP>(to[1], high ^ 0x80808080u, low ^ 0x80808080u, e == 255 ? nan : power(e - 29), lane);
}

/* Where a warp keeps x: columns of bytes [2 lines][step], and groups [lines][groups]. */
typedef struct few_x {
  char *bytes;
  float2 *groups;
  int step, of_line; /* of_line: groups */
} few_x;

/* x of some pieces; this warp alone reads them. */
template <int GROUP, typename T>
__device__ static inline void stage_x(const few_job &j, int64_t token, int tokens, const few_x &x, int piece,
                                      int pieces, int lane) {
  enum { AT_ONCE = 4, PARTS = sizeof(T) / 2 };
  const int in_piece = lane / 4 * 16 + lane % 4 * 2, left = (int)j.l.places - piece * PIECE - in_piece;
  const T *first = (const T *)j.x.x + token * j.x.step + piece * PIECE + in_piece;
  __syncwarp(); /* the last ones have been read */
  for (int i = 0; i < tokens; i++, first += j.x.step) {
    for (int begin = 0; begin < pieces; begin += AT_ONCE) {
      few_four f[AT_ONCE];
#pragma unroll
      for (int u = 0; u < AT_ONCE; u++) {
        f[u] = few_four{};
        if (begin + u < pieces && (begin + u) * PIECE < left) f[u] = load4(first + (begin + u) * PIECE);
      }
#pragma unroll
      for (int u = 0; u < AT_ONCE; u++) {
        if (begin + u >= pieces) break;
        few_line to[PARTS];
        float v[4];
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
          int line = i * PARTS + part;
          to[part].high = x.bytes + 2 * line * x.step + (begin + u) * PIECE;
          to[part].low = to[part].high + x.step;
          to[part].groups = x.groups + line * x.of_line + (begin + u) * (PIECE / GROUP);
        }
        spread4(v, f[u], (const T *)NULL);
        round_piece<GROUP>(v, (const T *)NULL, to, lane);
      }
    }
  }
  __syncwarp();
}

/* Of what is rounded already, so many loads at once: each batch waits for the L2 cache. */
template <int GROUP, int AT_ONCE>
__device__ static inline void copy_x(const few_job &j, int64_t line, int lines, const few_x &x, int piece, int pieces,
                                     int lane) {
  const int width = pieces * (PIECE / 16), n = 2 * lines * width, groups = pieces * (PIECE / GROUP);
  const char *bytes = (const char *)j.x.x + 2 * line * j.x.step + (int64_t)piece * PIECE;
  const float2 *from = j.x.groups + line * (j.x.step / GROUP) + (int64_t)piece * (PIECE / GROUP);
  __syncwarp(); /* the last ones have been read */
  for (int begin = lane; begin < n; begin += 32 * AT_ONCE) {
    uint4 v[AT_ONCE];
#pragma unroll
    for (int u = 0; u < AT_ONCE; u++) {
      int i = begin + u * 32;
      if (i < n) v[u] = *(const uint4 *)(bytes + i / width * j.x.step + i % width * 16);
    }
#pragma unroll
    for (int u = 0; u < AT_ONCE; u++) {
      int i = begin + u * 32;
      if (i < n) *(uint4 *)(x.bytes + i / width * x.step + i % width * 16) = v[u];
    }
  }
  for (int i = lane; i < lines * groups; i += 32)
    x.groups[i / groups * x.of_line + i % groups] = from[i / groups * (j.x.step / GROUP) + i % groups];
  __syncwarp();
}

/* ---- products ---- */

__device__ static inline void mma(int c[4], const uint32_t a[4], const uint32_t b[2]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* The left operand of inputs [32 i, 32 i + 32) of a piece. Of four bits rows g + 8 are sixteen times what they are. */
template <int BITS> __device__ static inline void bytes32(const uint4 *w, int i, uint32_t a[4]) {
  if (BITS == 4) {
    const uint4 v = w[i / 2];
    uint32_t w0 = i % 2 ? v.z : v.x, w1 = i % 2 ? v.w : v.y;
    a[0] = w0 & 0x0f0f0f0fu, a[1] = w0 & 0xf0f0f0f0u;
    a[2] = w1 & 0x0f0f0f0fu, a[3] = w1 & 0xf0f0f0f0u;
  } else {
    const uint4 v = w[i];
    a[0] = __byte_perm(v.x, v.y, 0x6240), a[1] = __byte_perm(v.x, v.y, 0x7351);
    a[2] = __byte_perm(v.z, v.w, 0x6240), a[3] = __byte_perm(v.z, v.w, 0x7351);
  }
}

/* acc += scale (sum - zero x_sum) of one group: rows g and g + 8. x: what its line is scaled by, and its sum. */
template <int BITS, bool ZEROS>
__device__ static inline void add_group(float acc[2], const int sum[4], float2 x, const char *scales) {
  constexpr float middle = 1 << (BITS - 1), upper = BITS == 4 ? 1.0f / 16 : 1.0f;
  float2 s, z = make_float2(middle, middle);
  if (ZEROS) {
    uint2 v = *(const uint2 *)scales;
    s = __half22float2(*(const __half2 *)&v.x), z = __half22float2(*(const __half2 *)&v.y);
  } else {
    s = __half22float2(*(const __half2 *)scales);
  }
  float s0 = (float)(sum[0] * 256 + sum[1]), s1 = (float)(sum[2] * 256 + sum[3]);
  acc[0] = fmaf(s.x * x.x, fmaf(-z.x, x.y, s0), acc[0]);
  acc[1] = fmaf(s.y * x.x, fmaf(-z.y, x.y, s1 * upper), acc[1]);
}

/* One piece: x of its first input lies at `x` (of this lane's row for ldmatrix, x_tile[n] further for the n-th eight
 * columns), of its first group at `groups` (of this lane's first line, likewise). */
template <int BITS, int GROUP, bool ZEROS, int NT, bool WHOLE>
__device__ static inline void multiply_piece(float acc[NT][2], const char *stage, uint32_t x, const int x_tile[NT],
                                             const float2 *groups, const int line[NT], int inputs, int lane) {
  using S = few_shape<BITS, GROUP, ZEROS, NT>;
  const int n_groups = WHOLE ? S::groups : inputs / GROUP;
  uint4 w[BITS / 2];
#pragma unroll
  for (int i = 0; i < BITS / 2; i++) {
    const char *from = stage + i * PACKED_UNIT;
    if (!WHOLE && BITS == 4 && GROUP == 32 && inputs == i * 64 + 32) { /* half a unit */
      uint2 half = *(const uint2 *)(from + lane * 8);
      w[i] = make_uint4(half.x, half.y, 0, 0);
    } else {
      w[i] = *(const uint4 *)(from + lane * 16);
    }
  }
  uint32_t b[NT][4];
#pragma unroll
  for (int group = 0; group < S::groups; group++) {
    if (!WHOLE && group >= n_groups) break;
    constexpr int chains = NT == 1 && GROUP == PIECE ? 2 : 1; /* of products: each waits for the one before */
    int sum[NT][chains][4] = {};
#pragma unroll
    for (int i = group * GROUP / 32; i < (group + 1) * GROUP / 32; i++) {
      uint32_t a[4];
      bytes32<BITS>(w, i, a);
#pragma unroll
      for (int n = 0; n < NT; n++) {
        if (i % 2 == 0) load_matrices(b[n], x + x_tile[n] + i * 32);
        mma(sum[n][i % chains], a, b[n] + i % 2 * 2);
      }
    }
    const char *scales = stage + n_groups * S::group_q + (group * 8 + lane / 4) * S::pair;
#pragma unroll
    for (int n = 0; n < NT; n++) {
#pragma unroll
      for (int i = 0; i < 4 && chains == 2; i++) sum[n][0][i] += sum[n][chains - 1][i];
      add_group<BITS, ZEROS>(acc[n], sum[n][0], groups[line[n] + group], scales);
    }
  }
}

/* [lines][SUM_STEP]: steps of twenty keep lanes in different banks. */
template <int NT> __device__ static inline void put_sums(float *to, const float acc[NT][2], int lines, int lane) {
#pragma unroll
  for (int n = 0; n < NT; n++) {
    int line = n * 4 + lane % 4;
    if (line >= lines) continue;
    to[line * SUM_STEP + lane / 4] = acc[n][0];
    to[line * SUM_STEP + lane / 4 + 8] = acc[n][1];
  }
}

__device__ static inline float load_any(const void *p, pu_dtype type, int64_t i) {
  return type == PU_F32 ? ((const float *)p)[i] : to_f32(((const bf16 *)p)[i]);
}

/* An output from its warps' sums, in the order of slices, then of parts from the smallest. from: of the first warp and
 * the token's first line. */
__device__ static inline float add_warps(const few_job &j, const float *from, int lines) {
  float v = 0;
  for (int part = j.parts - 1; part >= 0; part--) {
    const float *s = from + part * SUM_STEP;
    float sum = s[0];
    for (int slice = 1; slice < 1 << j.slices; slice++) sum += s[slice * lines * SUM_STEP];
    v += sum;
  }
  return v;
}

/* A unit's outputs. turn: the warp that begins. */
__device__ static inline void store_unit(const few_job &j, const float *sums, int unit, int64_t token, int tokens,
                                         int turn) {
  const int lines = tokens * j.parts, n = PACKED_ROWS * tokens << j.teams;
  for (int i = (int)(threadIdx.x - turn * 32) & (THREADS - 1); i < n; i += THREADS) {
    int row = i % PACKED_ROWS, team = i / PACKED_ROWS & ((1 << j.teams) - 1), col = i / PACKED_ROWS >> j.teams;
    int64_t m = (int64_t)((unit << j.teams) + team) * PACKED_ROWS + row;
    if (m >= j.rows) continue;
    float v = add_warps(j, sums + ((team << j.slices) * lines + col * j.parts) * SUM_STEP + row, lines);
    if (j.y.bias) v += load_any(j.y.bias, j.y.bias_type, m);
    int64_t at = (token + col) * j.y.step + m;
    if (j.y.type == PU_F32)
      ((float *)j.y.y)[at] = v;
    else
      ((bf16 *)j.y.y)[at] = from_f32<bf16>(v);
  }
}

/* Of bf16, as linear and swiglu one after the other: what goes in between is rounded. */
__device__ static inline void store_gated(const few_job &j, const float *gates, const float *ups, int block,
                                          int64_t token, int tokens, int turn) {
  for (int i = (int)(threadIdx.x - turn * 32) & (THREADS - 1); i < PACKED_ROWS * tokens; i += THREADS) {
    int row = i % PACKED_ROWS, col = i / PACKED_ROWS, from = col * SUM_STEP + row;
    float gate = to_f32(from_f32<bf16>(add_warps(j, gates + from, tokens)));
    float up = to_f32(from_f32<bf16>(add_warps(j, ups + from, tokens)));
    ((bf16 *)j.y.y)[(token + col) * j.y.step + (int64_t)block * PACKED_ROWS + row] =
        from_f32<bf16>(pu_gated(gate, pu_sigmoid(gate, bf16()), up));
  }
}

/* Units whose sums lie in shared memory at the same time. */
__host__ __device__ static inline int sum_buffers(const few_job &j) {
  return j.up ? 4 : 2;
}

/* Bytes of a warp's x: columns of bytes, then groups. */
__host__ __device__ static inline int x_bytes(int lines, int x_pieces, int groups) {
  return lines * 2 * (x_pieces * PIECE + 16) + (lines * x_pieces * groups + 1) / 2 * 2 * (int)sizeof(float2);
}

/* All units of this block of threads, for some tokens. */
template <int BITS, int GROUP, bool ZEROS, int NT>
__device__ static inline void run_units(const few_job &j, const uint8_t *w, char *room, int64_t token, int tokens,
                                        bool first) {
  using S = few_shape<BITS, GROUP, ZEROS, NT>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, slice = warp & ((1 << j.slices) - 1);
  const int team = warp >> j.slices, lines = tokens * j.parts;
  const int pieces = (int)j.l.pieces;
  const int from = slice * pieces >> j.slices, to = (slice + 1) * pieces >> j.slices;
  char *ring = room + warp * j.slots * S::stage, *after_ring = room + WARPS * j.slots * S::stage;
  few_x x;
  x.step = j.x_pieces * PIECE + 16;
  x.of_line = j.x_pieces * S::groups;
  x.bytes = after_ring + warp * x_bytes(j.lines, j.x_pieces, S::groups);
  x.groups = (float2 *)(x.bytes + 2 * j.lines * x.step);
  float *sums = (float *)(after_ring + WARPS * x_bytes(j.lines, j.x_pieces, S::groups));
  const int sums_step = WARPS * j.lines * SUM_STEP;
  const uint32_t ring_at = shared_address(ring), x_to = shared_address(x.bytes);
  /* ldmatrix: lanes 8i … 8i + 7 name the columns' i-th sixteen bytes. There may be fewer columns than eight. */
  int x_tile[NT], line[NT];
#pragma unroll
  for (int n = 0; n < NT; n++) {
    x_tile[n] = min(n * 8 + lane % 8, 2 * lines - 1) * x.step;
    line[n] = min(n * 4 + lane % 4, lines - 1) * x.of_line;
  }
  const uint32_t x_at = x_to + lane / 8 * 16;

  few_ahead ahead = {NULL, from < to ? first_unit(j) : j.units, from, 0, 0}; /* of no inputs nothing is copied */
  aim(j, w, ahead, team, from);
  auto fetch = [&]() {
    if (ahead.unit < j.units) {
      copy_piece<S>(j, w, ahead, ring_at, team, lane);
      ahead.slot = ahead.slot + 1 == S::depth ? 0 : ahead.slot + 1;
      ahead.from += ahead.step;
      if (++ahead.piece == to) ahead.unit = next_unit(j, ahead.unit), aim(j, w, ahead, team, from);
    }
    copies_commit();
  };
  for (int i = 0; i < S::depth - 1; i++) fetch();
  if (first) after_last_kernel();

  int slot = 0, buffer = 0, turn = 0;
  auto stage_pieces = [&](int begin, int pieces) {
    if (j.x.groups)
      copy_x<GROUP, NT == 1 ? 8 : 32>(j, token * j.parts, lines, x, begin, pieces, lane);
    else if (j.parts == 1)
      stage_x<GROUP, bf16>(j, token, tokens, x, begin, pieces, lane);
    else
      stage_x<GROUP, float>(j, token, tokens, x, begin, pieces, lane);
  };
  const bool whole = to - from <= j.x_pieces; /* x of the slice is there once for all */
  for (int unit = first_unit(j); unit < j.units; unit = next_unit(j, unit)) {
    float acc[NT][2] = {};
    for (int begin = from; begin < to; begin += j.x_pieces) {
      const int end = min(begin + j.x_pieces, to);
      uint32_t x_piece = x_at;
      const float2 *groups = x.groups;
      if (!whole || unit == first_unit(j)) stage_pieces(begin, end - begin);
      for (int piece = begin; piece < end; piece++, x_piece += PIECE, groups += S::groups) {
        copies_wait<S::depth - 2>();
        __syncwarp(); /* all lanes' copies are there, and all have read the piece before, whose place is filled next */
        fetch();
        const char *stage = ring + slot * S::stage;
        if (GROUP == PIECE || piece + 1 < j.l.pieces || j.l.tail == PIECE)
          multiply_piece<BITS, GROUP, ZEROS, NT, true>(acc, stage, x_piece, x_tile, groups, line, PIECE, lane);
        else
          multiply_piece<BITS, GROUP, ZEROS, NT, false>(acc, stage, x_piece, x_tile, groups, line, j.l.tail, lane);
        slot = slot + 1 == S::depth ? 0 : slot + 1;
      }
    }
    put_sums<NT>(sums + buffer * sums_step + warp * lines * SUM_STEP, acc, lines, lane);
    __syncthreads();
    if (!j.up)
      store_unit(j, sums + buffer * sums_step, unit, token, tokens, turn);
    else if (unit % 2)
      store_gated(j, sums + (buffer - 1) * sums_step, sums + buffer * sums_step, unit / 2, token, tokens, turn);
    turn = (turn + 1) % WARPS;
    /* Whoever comes to write there again has passed the next barrier, and so have those who read it. */
    buffer = buffer + 1 == sum_buffers(j) ? 0 : buffer + 1;
  }
}

template <int BITS, int GROUP, bool ZEROS, int NT>
__global__ void __launch_bounds__(THREADS, NT == 1 ? 2 : 1) few_kernel(const __grid_constant__ few_job j) {
  extern __shared__ __align__(128) char room[];
  const uint8_t *w = j.w;
  int64_t token = 0, end = j.tokens;
  let_next_start();
  if (j.of.offsets) {
    after_last_kernel();
    token = j.of.offsets[blockIdx.y];
    end = j.of.offsets[blockIdx.y + 1];
    w += blockIdx.y * j.of.step;
  }
  const int most = j.lines / j.parts;
  for (bool first = !j.of.offsets; token < end; token += most, first = false) {
    run_units<BITS, GROUP, ZEROS, NT>(j, w, room, token, (int)min((int64_t)most, end - token), first);
    __syncthreads();
  }
}

/* ---- rounding x by itself ---- */

typedef struct few_rounding {
  const void *x;
  int64_t step, cols, places;
  const int32_t *order;
  char *bytes;
  float2 *groups;
  int64_t row; /* bytes of a column */
} few_rounding;

/* A warp a piece of a token. */
template <int GROUP, typename T> __global__ static void __launch_bounds__(THREADS) round_rows(few_rounding r) {
  enum { PARTS = sizeof(T) / 2 };
  const int lane = threadIdx.x % 32;
  const int64_t token = blockIdx.x, piece = blockIdx.y * WARPS + threadIdx.x / 32;
  const int64_t first = piece * PIECE + lane / 4 * 16 + lane % 4 * 2;
  float v[4];
  few_line to[PARTS];
  let_next_start();
  wait_for_before();
  if (piece * PIECE >= r.row) return;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    int64_t place = first + i % 2 * 8 + i / 2, input = -1;
    if (place < r.places) input = r.order ? r.order[place] : place < r.cols ? place : -1;
    v[i] = input < 0 ? 0.0f : to_f32(((const T *)r.x)[token * r.step + input]);
  }
#pragma unroll
  for (int part = 0; part < PARTS; part++) {
    int64_t line = token * PARTS + part;
    to[part].high = r.bytes + 2 * line * r.row + piece * PIECE;
    to[part].low = to[part].high + r.row;
    to[part].groups = r.groups + line * (r.row / GROUP) + piece * (PIECE / GROUP);
  }
  round_piece<GROUP>(v, (const T *)NULL, to, lane);
}

static int lines_of(pu_dtype type) {
  return type == PU_F32 ? 2 : 1;
}

size_t packed_round_bytes(const packed_matrix *w, int64_t tokens, pu_dtype type) {
  size_t line = (size_t)(w->l.pieces * PIECE) * 2 + (size_t)(w->l.pieces * PIECE / w->p.group) * sizeof(float2);
  return (size_t)(tokens * lines_of(type)) * line;
}

template <int GROUP> static void launch_rounding(pu_cuda *d, const few_rounding *r, dim3 grid, pu_dtype type) {
  if (type == PU_F32)
    pu_cuda_start(d, true, round_rows<GROUP, float>, grid, THREADS, 0, *r);
  else
    pu_cuda_start(d, true, round_rows<GROUP, bf16>, grid, THREADS, 0, *r);
}

pu_err packed_round(pu_cuda *d, const packed_matrix *w, packed_x *x, void *room, pu_error *e) {
  few_rounding r = {x->x, x->step, w->cols, w->l.places, w->order, (char *)room, NULL, w->l.pieces * PIECE};
  dim3 grid((unsigned)x->tokens, (unsigned)ceil_div(w->l.pieces, WARPS));
  r.groups = (float2 *)(r.bytes + 2 * x->tokens * lines_of(x->type) * r.row);
  if (w->l.pieces == 0) return PU_OK;
  if (w->p.group == 32)
    launch_rounding<32>(d, &r, grid, x->type);
  else if (w->p.group == 64)
    launch_rounding<64>(d, &r, grid, x->type);
  else
    launch_rounding<128>(d, &r, grid, x->type);
  x->x = room;
  x->groups = r.groups;
  x->step = r.row;
  return pu_cuda_launched("rounding a packed weight's inputs", e);
}

/* ---- launching ---- */

/* What one kernel needs of shared memory, and how much of x that leaves room for. */
typedef struct few_room {
  size_t bytes;
  int x_pieces;
} few_room;

static few_room room_for(size_t ring, int groups, int lines, int buffers, int slice_pieces, size_t most) {
  size_t sums = (size_t)buffers * WARPS * (size_t)lines * SUM_STEP * sizeof(float);
  few_room room = {0, slice_pieces};
  for (;; room.x_pieces = (room.x_pieces + 1) / 2) {
    room.bytes = ring + sums + WARPS * (size_t)x_bytes(lines, room.x_pieces, groups);
    if (room.bytes <= most || room.x_pieces <= 1) return room;
  }
}

/* Where even one piece of x is too much (8.6 and 8.9 have 99 KB), fewer lines are taken at a time. */
static few_room room_of(few_job *j, size_t ring, int groups, int slice_pieces, size_t most) {
  few_room room = room_for(ring, groups, j->lines, sum_buffers(*j), slice_pieces, most);
  while (room.bytes > most && j->lines > 2 * j->parts) {
    j->lines = j->lines / 2 / j->parts * j->parts;
    room = room_for(ring, groups, j->lines, sum_buffers(*j), slice_pieces, most);
  }
  return room;
}

template <int BITS, int GROUP, bool ZEROS, int NT> static pu_err launch(pu_cuda *d, few_job *j, pu_error *e) {
  using S = few_shape<BITS, GROUP, ZEROS, NT>;
  static int most = 0; /* of shared memory; one device */
  const void *kernel = (const void *)few_kernel<BITS, GROUP, ZEROS, NT>;
  if (!most) {
    PU_CUDA_TRY(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, d->device), "its shared memory",
                e);
    PU_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most), "its shared memory",
                e);
  }
  int slice_pieces = (int)ceil_div(j->l.pieces, 1 << j->slices);
  j->units = (int)ceil_div(j->l.blocks, 1 << j->teams);
  /* Two blocks to a multiprocessor, and no more slots than are ever filled. */
  const int each = j->up ? 2 : 1; /* units that a block has one after the other */
  int64_t filled = ceil_div(j->units / each, 2 * d->sms) * each * slice_pieces;
  j->slots = (int)(j->of.offsets ? (int64_t)S::depth : PU_MIN((int64_t)S::depth, filled));
  few_room room = room_of(j, (size_t)(WARPS * j->slots * S::stage), S::groups, slice_pieces, (size_t)most);
  int resident = d->sms * 2;
  if (room.bytes > (size_t)most / 2 - 1024) {
    resident = d->sms;
    j->slots = S::depth;
    room = room_of(j, (size_t)(WARPS * j->slots * S::stage), S::groups, slice_pieces, (size_t)most);
  }
  j->x_pieces = room.x_pieces;
  const dim3 grid((unsigned)PU_MIN(j->units / each, resident), j->of.offsets ? (unsigned)j->of.n : 1);
  pu_cuda_start(d, true, few_kernel<BITS, GROUP, ZEROS, NT>, grid, THREADS, room.bytes, *j);
  return pu_cuda_launched("a product with a packed weight", e);
}

template <int BITS, int GROUP, bool ZEROS> static pu_err launch_shape(pu_cuda *d, few_job *j, pu_error *e) {
  return j->lines <= 4 ? launch<BITS, GROUP, ZEROS, 1>(d, j, e) : launch<BITS, GROUP, ZEROS, 4>(d, j, e);
}

template <int BITS, int GROUP> static pu_err launch_zeros(pu_cuda *d, few_job *j, bool zeros, pu_error *e) {
  return zeros ? launch_shape<BITS, GROUP, true>(d, j, e) : launch_shape<BITS, GROUP, false>(d, j, e);
}

template <int BITS> static pu_err launch_group(pu_cuda *d, few_job *j, const pu_packing *p, pu_error *e) {
  if (p->group == 32) return launch_zeros<BITS, 32>(d, j, p->zeros, e);
  if (p->group == 64) return launch_zeros<BITS, 64>(d, j, p->zeros, e);
  return launch_zeros<BITS, 128>(d, j, p->zeros, e);
}

bool packed_few_gates(const packed_matrix *w) {
  return w->rows % (2 * PACKED_ROWS) == 0 && w->l.pieces >= 8;
}

pu_err packed_few(pu_cuda *d, const packed_matrix *w, const packed_x *x, const packed_y *y, const packed_parts *parts,
                  bool gated, pu_error *e) {
  few_job j = {};
  if (x->tokens == 0 || w->rows == 0) return PU_OK;
  if (gated) j.up = (int)w->l.blocks / 2;
  j.w = w->data;
  j.l = w->l;
  j.rows = w->rows;
  for (j.slices = 3; j.slices > 0 && 1 << j.slices > j.l.pieces;) j.slices--;
  j.teams = 3 - j.slices;
  j.x = *x;
  j.tokens = (int)x->tokens;
  j.parts = lines_of(x->type);
  j.lines = (int)PU_MIN(x->tokens * j.parts, (int64_t)PACKED_FEW);
  j.y = *y;
  if (parts) j.of = *parts;
  return w->p.bits == 4 ? launch_group<4>(d, &j, &w->p, e) : launch_group<8>(d, &j, &w->p, e);
}
