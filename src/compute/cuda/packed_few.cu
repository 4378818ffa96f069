/* Products of weights in few bits with few tokens: as fast as memory gives the weights.
 *
 * A warp has some blocks of sixteen rows and a slice of the inputs. It copies its weights and their scales through a
 * ring of its own in shared memory (cp.async), several pieces ahead, makes bf16 integers of them in registers (q less
 * 2^(bits-1): exact) and multiplies by x on the tensor cores, eight tokens at a time; x waits in shared memory. The
 * products of a group are summed by themselves, and their sum times the scale, less the zero times the sum of the
 * group's x, is added in f32. So all that is rounded are sums. The slices' sums meet in shared memory and are added in
 * order: how many slices there are depends on K alone, thus no result on the number of tokens. */
#include "src/compute/cuda/packed.h"

enum { WARPS = 8, THREADS = WARPS * 32, PIECE = PACKED_PIECE, SUM_STEP = 20 };

typedef struct few_job {
  const uint8_t *w;
  packed_layout l;
  int64_t rows;
  int units, slices; /* units: of teams * R blocks */
  const bf16 *x;
  int64_t x_step;
  int cols, tokens, parts; /* cols = tokens * parts */
  int x_pieces;            /* of a slice, that x has room for in shared memory */
  packed_y y;
  packed_parts of;
} few_job;

template <int BITS, int GROUP, bool ZEROS, int R, int NT> struct few_shape {
  static constexpr int group_q = GROUP * PACKED_ROWS * BITS / 8, pair = ZEROS ? 8 : 4; /* bytes */
  static constexpr int stage = R * (PIECE / GROUP) * (group_q + 8 * pair);
  static constexpr int depth = R * BITS == 4 ? 6 : R == 2 && NT == 1 ? 5 : 4;
  static constexpr int ring = WARPS * depth * stage;
  static constexpr int chains = R * NT == 4 ? 1 : 2; /* of products: each waits for the one before */
};

/* The piece that a warp copies next. */
typedef struct few_ahead {
  const uint8_t *from;
  int64_t block;
  int unit, piece, step; /* step: to the next piece */
  int count;             /* of blocks, up to R */
  uint32_t to, slot;
} few_ahead;

template <int R> __device__ static inline void aim(const few_job &j, few_ahead &a, int team, int piece) {
  int64_t block = ((int64_t)a.unit * (WARPS / j.slices) + team) * R;
  int64_t first = block / PACKED_BLOCKS * PACKED_BLOCKS, n = min((int64_t)PACKED_BLOCKS, j.l.blocks - first);
  a.block = block;
  a.piece = piece;
  a.step = (int)(n * j.l.piece_bytes);
  a.count = (int)max((int64_t)0, min((int64_t)R, j.l.blocks - block));
  a.from = j.w + first * j.l.block_bytes + piece * n * j.l.piece_bytes + (block - first) * j.l.piece_bytes;
}

/* As it lies. What is behind the matrix is left out, and never used. */
template <class S, int R> __device__ static inline void copy_piece(const few_job &j, const few_ahead &a, int lane) {
  uint32_t to = a.to + a.slot * S::stage + lane * 16;
  const bool last = a.piece + 1 == j.l.pieces;
  if (a.count == R && !last) {
#pragma unroll
    for (int i = 0; i < S::stage; i += PACKED_UNIT)
      if (i + PACKED_UNIT <= S::stage || lane * 16 < S::stage - i) copy16(to + i, a.from + i + lane * 16);
    return;
  }
  const uint8_t *from = last ? j.w + packed_at(j.l, a.block, a.piece) : a.from;
  int bytes = a.count * (int)(last ? j.l.tail_bytes : j.l.piece_bytes);
  for (int i = 0; i + lane * 16 < bytes; i += PACKED_UNIT) copy16(to + i, from + i + lane * 16);
}

__device__ static inline void end_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

/* x of some pieces: [cols][step] in shared memory; this warp alone reads them. By way of registers: it must not wait
 * for the weights that are under way. */
__device__ static inline void stage_x(const few_job &j, int64_t token, int tokens, bf16 *to, int step, int piece,
                                      int pieces, int lane) {
  enum { AT_ONCE = 8 };
  int64_t first = (int64_t)piece * PIECE;
  int width = (int)min((int64_t)pieces * PIECE, j.l.places - first) / 8, n = tokens * j.parts * width;
  __syncwarp(); /* the last ones have been read */
  for (int begin = lane; begin < n; begin += 32 * AT_ONCE) {
    uint4 v[AT_ONCE];
#pragma unroll
    for (int u = 0; u < AT_ONCE; u++) {
      int i = begin + u * 32, col = i / width;
      int64_t row = token + (col >= tokens ? col / tokens * (int64_t)j.tokens + col % tokens : col);
      if (i < n) v[u] = *(const uint4 *)(j.x + row * j.x_step + first + i % width * 8);
    }
#pragma unroll
    for (int u = 0; u < AT_ONCE; u++) {
      int i = begin + u * 32;
      if (i < n) *(uint4 *)(to + i / width * step + i % width * 8) = v[u];
    }
  }
  __syncwarp();
}

__device__ static inline void load_b(uint32_t b[4], uint32_t at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
               : "r"(at));
}

__device__ static inline void mma(float c[4], const uint32_t a[4], const uint32_t b[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* The two left operands of inputs [32 i, 32 i + 32) of a piece. */
template <int BITS> __device__ static inline void unpack32(const uint4 *w, int i, uint32_t a[2][4]) {
  if (BITS == 4) {
    const uint4 v = w[i / 2];
    unpack4(i % 2 ? v.z : v.x, a[0]);
    unpack4(i % 2 ? v.w : v.y, a[1]);
  } else {
    unpack8(w[i].x, a[0]), unpack8(w[i].y, a[0] + 2);
    unpack8(w[i].z, a[1]), unpack8(w[i].w, a[1] + 2);
  }
}

/* acc += scale (sum - zero x_sum) of one group: rows g (c 0, 1) and g + 8 (c 2, 3). */
template <int BITS, bool ZEROS>
__device__ static inline void add_group(float acc[4], const float sum[4], const float x_sum[4], const char *scales) {
  if (ZEROS) {
    constexpr float middle = 1 << (BITS - 1);
    uint2 v = *(const uint2 *)scales;
    float2 s = __half22float2(*(const __half2 *)&v.x), z = __half22float2(*(const __half2 *)&v.y);
    acc[0] = fmaf(s.x, fmaf(middle - z.x, x_sum[0], sum[0]), acc[0]);
    acc[1] = fmaf(s.x, fmaf(middle - z.x, x_sum[1], sum[1]), acc[1]);
    acc[2] = fmaf(s.y, fmaf(middle - z.y, x_sum[0], sum[2]), acc[2]);
    acc[3] = fmaf(s.y, fmaf(middle - z.y, x_sum[1], sum[3]), acc[3]);
  } else {
    float2 s = __half22float2(*(const __half2 *)scales);
    acc[0] = fmaf(s.x, sum[0], acc[0]);
    acc[1] = fmaf(s.x, sum[1], acc[1]);
    acc[2] = fmaf(s.y, sum[2], acc[2]);
    acc[3] = fmaf(s.y, sum[3], acc[3]);
  }
}

/* One piece: x of its first input lies at `x` (of this lane's row for ldmatrix, and x_tile further for eight more). */
template <int BITS, int GROUP, bool ZEROS, int R, int NT, bool WHOLE>
__device__ static inline void multiply_piece(float acc[R][NT][4], const char *stage, uint32_t x, int x_tile, int inputs,
                                             int lane) {
  using S = few_shape<BITS, GROUP, ZEROS, R, NT>;
  const uint32_t ones[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
  const int groups = WHOLE ? PIECE / GROUP : inputs / GROUP, step = groups * (S::group_q + 8 * S::pair);
  uint4 w[R][BITS / 2];
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int i = 0; i < BITS / 2; i++) {
      const char *from = stage + r * step + i * PACKED_UNIT;
      if (!WHOLE && BITS == 4 && GROUP == 32 && inputs == i * 64 + 32) { /* half a unit */
        uint2 half = *(const uint2 *)(from + lane * 8);
        w[r][i] = make_uint4(half.x, half.y, 0, 0);
      } else {
        w[r][i] = *(const uint4 *)(from + lane * 16);
      }
    }
#pragma unroll
  for (int group = 0; group < PIECE / GROUP; group++) {
    if (!WHOLE && group >= groups) break;
    float sum[R][NT][2][4] = {}, x_sum[NT][4] = {};
#pragma unroll
    for (int i = group * GROUP / 32; i < (group + 1) * GROUP / 32; i++) {
      uint32_t b[NT][4];
#pragma unroll
      for (int n = 0; n < NT; n++) {
        load_b(b[n], x + n * x_tile + i * 64);
        if (ZEROS) mma(x_sum[n], ones, b[n]), mma(x_sum[n], ones, b[n] + 2);
      }
#pragma unroll
      for (int r = 0; r < R; r++) {
        uint32_t a[2][4];
        unpack32<BITS>(w[r], i, a);
#pragma unroll
        for (int n = 0; n < NT; n++) mma(sum[r][n][0], a[0], b[n]), mma(sum[r][n][S::chains - 1], a[1], b[n] + 2);
      }
    }
    const char *scales = stage + groups * S::group_q + (group * 8 + lane / 4) * S::pair;
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
      for (int n = 0; n < NT; n++) {
#pragma unroll
        for (int i = 0; i < 4 && S::chains == 2; i++) sum[r][n][0][i] += sum[r][n][1][i];
        add_group<BITS, ZEROS>(acc[r][n], sum[r][n][0], x_sum[n], scales + r * step);
      }
  }
}

/* [R][cols][SUM_STEP]: steps of twenty keep lanes in different banks. */
template <int R, int NT>
__device__ static inline void put_sums(float *to, const float acc[R][NT][4], int cols, int lane) {
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int col = n * 8 + lane % 4 * 2 + i % 2, row = lane / 4 + i / 2 * 8;
        if (col < cols) to[(r * cols + col) * SUM_STEP + row] = acc[r][n][i];
      }
}

__device__ static inline float load_any(const void *p, pu_dtype type, int64_t i) {
  return type == PU_F32 ? ((const float *)p)[i] : to_f32(((const bf16 *)p)[i]);
}

/* A unit's outputs from its warps' sums, in the order of slices, then of parts from the smallest. */
template <int R>
__device__ static inline void store_unit(const few_job &j, const float *sums, int unit, int64_t token, int tokens) {
  int teams = WARPS / j.slices, cols = tokens * j.parts, n = teams * R * PACKED_ROWS * tokens;
  for (int i = threadIdx.x; i < n; i += THREADS) {
    int row = i % PACKED_ROWS, block = i / PACKED_ROWS % (teams * R), col = i / (PACKED_ROWS * teams * R);
    int64_t m = ((int64_t)unit * teams * R + block) * PACKED_ROWS + row;
    if (m >= j.rows) continue;
    const float *from = sums + (block / R * j.slices * R + block % R) * cols * SUM_STEP + row;
    float v = 0;
    for (int part = j.parts - 1; part >= 0; part--) {
      const float *s = from + (part * tokens + col) * SUM_STEP;
      float sum = s[0];
      for (int slice = 1; slice < j.slices; slice++) sum += s[slice * R * cols * SUM_STEP];
      v += sum;
    }
    if (j.y.bias) v += load_any(j.y.bias, j.y.bias_type, m);
    int64_t at = (token + col) * j.y.step + m;
    if (j.y.type == PU_F32)
      ((float *)j.y.y)[at] = v;
    else
      ((bf16 *)j.y.y)[at] = from_f32<bf16>(v);
  }
}

/* All units of this block of threads, for some tokens. */
template <int BITS, int GROUP, bool ZEROS, int R, int NT>
__device__ static inline void run_units(const few_job &j, char *room, int64_t token, int tokens, bool first) {
  using S = few_shape<BITS, GROUP, ZEROS, R, NT>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, slice = warp % j.slices;
  const int team = warp / j.slices, cols = tokens * j.parts;
  const int from = (int)(slice * j.l.pieces / j.slices), to = (int)((slice + 1) * j.l.pieces / j.slices);
  const int x_step = j.x_pieces * PIECE + 8;
  char *ring = room + warp * S::depth * S::stage;
  bf16 *x = (bf16 *)(room + S::ring) + warp * j.cols * x_step;
  float *sums = (float *)((bf16 *)(room + S::ring) + WARPS * j.cols * x_step);
  const int sums_step = WARPS * R * j.cols * SUM_STEP;
  const uint32_t ring_at = (uint32_t)__cvta_generic_to_shared(ring), x_to = (uint32_t)__cvta_generic_to_shared(x);
  /* ldmatrix: lanes 8i … 8i + 7 name the rows of the i-th eight inputs. There may be fewer columns than eight. */
  int last = cols - 1, row0 = min(lane % 8, last), row1 = min(lane % 8 + 8, last);
  const uint32_t x_at = x_to + (row0 * x_step + lane / 8 * 8) * 2;
  int x_tile = (row1 - row0) * x_step * 2;

  few_ahead ahead = {NULL, 0, (int)blockIdx.x, from, 0, 0, ring_at, 0};
  aim<R>(j, ahead, team, from);
  auto fetch = [&]() {
    if (ahead.unit < j.units) {
      copy_piece<S, R>(j, ahead, lane);
      ahead.slot = ahead.slot + 1 == S::depth ? 0 : ahead.slot + 1;
      ahead.from += ahead.step;
      if (++ahead.piece == to) ahead.unit += gridDim.x, aim<R>(j, ahead, team, from);
    }
    end_copies();
  };
  for (int i = 0; i < S::depth - 1; i++) fetch();
  if (first) after_last_kernel();

  int slot = 0, buffer = 0;
  const bool whole = to - from <= j.x_pieces; /* x of the slice is there once for all */
  if (whole) stage_x(j, token, tokens, x, x_step, from, to - from, lane);
  for (int unit = blockIdx.x; unit < j.units; unit += gridDim.x) {
    float acc[R][NT][4] = {};
    for (int begin = from; begin < to; begin += j.x_pieces) {
      const int end = min(begin + j.x_pieces, to);
      uint32_t x_piece = x_at;
      if (!whole) stage_x(j, token, tokens, x, x_step, begin, end - begin, lane);
      for (int piece = begin; piece < end; piece++, x_piece += PIECE * 2) {
        asm volatile("cp.async.wait_group %0;" ::"n"(S::depth - 2) : "memory");
        __syncwarp(); /* all lanes' copies are there, and all have read the piece before, whose place is filled next */
        fetch();
        if (GROUP == PIECE || piece + 1 < j.l.pieces || j.l.tail == PIECE)
          multiply_piece<BITS, GROUP, ZEROS, R, NT, true>(acc, ring + slot * S::stage, x_piece, x_tile, PIECE, lane);
        else
          multiply_piece<BITS, GROUP, ZEROS, R, NT, false>(acc, ring + slot * S::stage, x_piece, x_tile, j.l.tail,
                                                           lane);
        slot = slot + 1 == S::depth ? 0 : slot + 1;
      }
    }
    if (NT == 2) __syncthreads(); /* one buffer: it has been read */
    put_sums<R, NT>(sums + buffer * sums_step + warp * R * cols * SUM_STEP, acc, cols, lane);
    __syncthreads();
    store_unit<R>(j, sums + buffer * sums_step, unit, token, tokens);
    if (NT == 1)
      buffer ^= 1; /* whoever comes to write there again has passed the next barrier, and so have those who read it */
  }
}

template <int BITS, int GROUP, bool ZEROS, int R, int NT>
__global__ void __launch_bounds__(THREADS, NT == 1 ? 2 : 1) few_kernel(const few_job job) {
  extern __shared__ __align__(128) char room[];
  few_job j = job;
  int64_t token = 0, end = j.tokens;
  if (j.of.offsets) {
    after_last_kernel();
    token = j.of.offsets[blockIdx.y];
    end = j.of.offsets[blockIdx.y + 1];
    j.w += blockIdx.y * j.of.step;
  }
  const int most = NT * 8 / j.parts;
  for (bool first = !j.of.offsets; token < end; token += most, first = false) {
    run_units<BITS, GROUP, ZEROS, R, NT>(j, room, token, (int)min((int64_t)most, end - token), first);
    __syncthreads();
  }
}

/* ---- launching ---- */

/* What one kernel needs of shared memory, and how much of x that leaves room for. */
typedef struct few_room {
  size_t bytes;
  int x_pieces;
} few_room;

static few_room room_for(size_t ring, int r, int cols, int slice_pieces, size_t most) {
  size_t sums = (cols > 8 ? 1 : 2) * WARPS * (size_t)(r * cols) * SUM_STEP * sizeof(float);
  few_room room = {0, slice_pieces};
  for (;; room.x_pieces = (room.x_pieces + 1) / 2) {
    room.bytes = ring + sums + (size_t)(WARPS * cols) * (size_t)(room.x_pieces * PIECE + 8) * sizeof(bf16);
    if (room.bytes <= most || room.x_pieces <= 1) return room;
  }
}

template <int BITS, int GROUP, bool ZEROS, int R, int NT> static pu_err launch(pu_cuda *d, few_job *j, pu_error *e) {
  using S = few_shape<BITS, GROUP, ZEROS, R, NT>;
  static int most = 0; /* of shared memory; one device */
  const void *kernel = (const void *)few_kernel<BITS, GROUP, ZEROS, R, NT>;
  if (!most) {
    PU_CUDA_TRY(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, d->device), "its shared memory",
                e);
    PU_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most), "its shared memory",
                e);
  }
  few_room room = room_for(S::ring, R, j->cols, (int)ceil_div(j->l.pieces, j->slices), (size_t)most);
  int teams = WARPS / j->slices, resident = d->sms * (room.bytes <= (size_t)most / 2 - 1024 ? 2 : 1);
  j->x_pieces = room.x_pieces;
  j->units = (int)ceil_div(j->l.blocks, teams * R);
  const dim3 grid((unsigned)PU_MIN(j->units, resident), j->of.offsets ? (unsigned)j->of.n : 1);
  pu_cuda_start(d, true, few_kernel<BITS, GROUP, ZEROS, R, NT>, grid, THREADS, room.bytes, *j);
  return pu_cuda_launched("a product with a packed weight", e);
}

/* Two blocks of rows to a warp share its x, where that leaves enough to do for all multiprocessors. */
static bool two_blocks(const pu_cuda *d, const few_job *j) {
  return ceil_div(j->l.blocks, WARPS / j->slices * 2) * 4 >= d->sms * 3;
}

template <int BITS, int GROUP, bool ZEROS> static pu_err launch_shape(pu_cuda *d, few_job *j, pu_error *e) {
  if (BITS == 4 && two_blocks(d, j))
    return j->cols <= 8 ? launch < BITS, GROUP, ZEROS, BITS == 4 ? 2 : 1, 1 > (d, j, e) : launch < BITS, GROUP, ZEROS,
           BITS == 4 ? 2 : 1, 2 > (d, j, e);
  return j->cols <= 8 ? launch<BITS, GROUP, ZEROS, 1, 1>(d, j, e) : launch<BITS, GROUP, ZEROS, 1, 2>(d, j, e);
}

template <int BITS, int GROUP> static pu_err launch_zeros(pu_cuda *d, few_job *j, bool zeros, pu_error *e) {
  return zeros ? launch_shape<BITS, GROUP, true>(d, j, e) : launch_shape<BITS, GROUP, false>(d, j, e);
}

template <int BITS> static pu_err launch_group(pu_cuda *d, few_job *j, const pu_packing *p, pu_error *e) {
  if (p->group == 32) return launch_zeros<BITS, 32>(d, j, p->zeros, e);
  if (p->group == 64) return launch_zeros<BITS, 64>(d, j, p->zeros, e);
  return launch_zeros<BITS, 128>(d, j, p->zeros, e);
}

pu_err packed_few(pu_cuda *d, const packed_matrix *w, const packed_x *x, const packed_y *y, const packed_parts *parts,
                  pu_error *e) {
  few_job j = {};
  if (x->tokens == 0 || w->rows == 0) return PU_OK;
  j.w = w->data;
  j.l = w->l;
  j.rows = w->rows;
  for (j.slices = WARPS; j.slices > 1 && j.slices > j.l.pieces;) j.slices /= 2;
  j.x = x->x;
  j.x_step = x->step;
  j.tokens = (int)x->tokens;
  j.parts = x->parts;
  j.cols = (int)PU_MIN(x->tokens, (int64_t)PACKED_FEW / x->parts) * x->parts;
  j.y = *y;
  if (parts) j.of = *parts;
  return w->p.bits == 4 ? launch_group<4>(d, &j, &w->p, e) : launch_group<8>(d, &j, &w->p, e);
}
