/* To FP8: a block of threads has a tile of 128 by 128, so that it sees all values of every scale that it gives: memory
 * is passed over once. Bytes are all that counts: 2 read, 1 written plain, 1 turned.
 *
 * A thread has eight columns of four rows below each other, as they came (bf16). Four values below each other are a word
 * of the turned tile, which is put together in shared memory and leaves in lines of 128 bytes. */
#include "src/compute/cuda/fp8.h"
#include "src/compute/cuda/rows.h"

#include <cuda_fp8.h>

enum {
  TILE = PU_FP8_BLOCK,
  THREADS = 512,
  WARPS = THREADS / 32,
  PACKS = TILE / 8, /* of eight columns */
  OWN = 4,          /* rows of a thread */
  PITCH = TILE / 4 + 4 /* words from column to column of the turned tile, 16-byte aligned */
};

typedef struct tile_room {
  uint32_t turned[TILE * PITCH];
  uint4 most[WARPS][PACKS];
} tile_room;

/* Where a thread's values are in the tile. */
__device__ static inline int pack_of_thread() {
  return (int)threadIdx.x % PACKS;
}
__device__ static inline int row_of_thread() {
  return (int)threadIdx.x / PACKS * OWN;
}

/* ---- scales ---- */

__device__ static inline uint4 magnitudes(uint4 v) {
  return make_uint4(v.x & 0x7fff7fffu, v.y & 0x7fff7fffu, v.z & 0x7fff7fffu, v.w & 0x7fff7fffu);
}
__device__ static inline uint4 larger(uint4 a, uint4 b) {
  return make_uint4(__vmaxu2(a.x, b.x), __vmaxu2(a.y, b.y), __vmaxu2(a.z, b.z), __vmaxu2(a.w, b.w));
}
__device__ static inline uint32_t largest_of(uint4 v) {
  uint32_t pair = __vmaxu2(__vmaxu2(v.x, v.y), __vmaxu2(v.z, v.w));
  return max(pair & 0xffffu, pair >> 16);
}
__device__ static inline uint32_t word_of(uint4 v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/* From the bits of the largest magnitude, a bf16. Magnitudes compare as their bits do. */
__device__ static inline float scale_of(uint32_t most) {
  return fmaxf(__uint_as_float(most << 16), 0x1p-100f) * (1.0f / 448);
}

/* Of each of the thread's rows, over the tile's columns. */
__device__ static inline void row_scales(const uint4 (&v)[OWN], float (&scale)[OWN]) {
#pragma unroll
  for (int i = 0; i < OWN; i += 2) {
    uint32_t two = largest_of(magnitudes(v[i])) | largest_of(magnitudes(v[i + 1])) << 16;
#pragma unroll
    for (int step = PACKS / 2; step; step >>= 1) two = __vmaxu2(two, __shfl_xor_sync(0xffffffffu, two, step));
    scale[i] = scale_of(two & 0xffffu);
    scale[i + 1] = scale_of(two >> 16);
  }
}

/* The largest magnitudes of the thread's columns, over the tile's rows. */
__device__ static inline uint4 column_most(const uint4 (&v)[OWN], tile_room *room) {
  uint4 most = larger(larger(magnitudes(v[0]), magnitudes(v[1])), larger(magnitudes(v[2]), magnitudes(v[3])));
  most = larger(most, make_uint4(__shfl_xor_sync(0xffffffffu, most.x, PACKS), __shfl_xor_sync(0xffffffffu, most.y, PACKS),
                                 __shfl_xor_sync(0xffffffffu, most.z, PACKS),
                                 __shfl_xor_sync(0xffffffffu, most.w, PACKS)));
  if (threadIdx.x % 32 < PACKS) room->most[threadIdx.x / 32][pack_of_thread()] = most;
  __syncthreads();
#pragma unroll 4
  for (int w = 0; w < WARPS; w++) most = larger(most, room->most[w][pack_of_thread()]);
  return most;
}

/* ---- rounding ---- */

/* 1 / scale, rounded as the reference does. */
__device__ static inline float inverse(float scale) {
  return __frcp_rn(scale);
}
__device__ static inline uint32_t round_two(float a, float b) {
  return __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
}
__device__ static inline uint32_t round_pair(uint32_t pair, float by) {
  float a, b;
  two_f32(pair, &a, &b);
  return round_two(a * by, b * by);
}

/* to: the tile's corner, rows `step` apart. */
__device__ static inline void write_plain(const uint4 (&v)[OWN], const float (&scale)[OWN], uint8_t *to, int64_t step) {
#pragma unroll
  for (int i = 0; i < OWN; i++) {
    float by = inverse(scale[i]);
    *(uint2 *)(to + (row_of_thread() + i) * step + pack_of_thread() * 8) =
        make_uint2(round_pair(v[i].x, by) | round_pair(v[i].y, by) << 16,
                   round_pair(v[i].z, by) | round_pair(v[i].w, by) << 16);
  }
}

/* Column 8 p + c lies at row 16 c + p of the turned tile, so that a warp's words are in different banks. */
__device__ static inline void turn(const uint4 (&v)[OWN], const float (&scale)[8], tile_room *room) {
#pragma unroll
  for (int c = 0; c < 8; c++) {
    float by = inverse(scale[c]), x[OWN];
#pragma unroll
    for (int i = 0; i < OWN; i++) {
      uint32_t pair = word_of(v[i], c / 2);
      x[i] = by * __uint_as_float(c % 2 ? pair & 0xffff0000u : pair << 16);
    }
    room->turned[(c * PACKS + pack_of_thread()) * PITCH + row_of_thread() / 4] =
        round_two(x[0], x[1]) | round_two(x[2], x[3]) << 16;
  }
}

/* to: the turned tile's corner, columns `step` apart. */
__device__ static inline void write_turned(const tile_room *room, uint8_t *to, int64_t step) {
  const int pieces = TILE / 16, piece = (int)threadIdx.x % pieces;
#pragma unroll
  for (int c = (int)threadIdx.x / pieces; c < TILE; c += THREADS / pieces)
    *(uint4 *)(to + c * step + piece * 16) =
        *(const uint4 *)(room->turned + (c % 8 * PACKS + c / 8) * PITCH + piece * 4);
}

/* ---- a tile with a scale for 128 values ---- */

/* row, col: the tile's corner. Callers wait for all threads between two tiles. */
__device__ static inline void emit(const uint4 (&v)[OWN], const pu_cuda_fp8 &f, int64_t row, int64_t col,
                                   tile_room *room) {
  if (f.plain) {
    float scale[OWN];
    row_scales(v, scale);
    write_plain(v, scale, f.plain + row * f.cols + col, f.cols);
    if (pack_of_thread() == 0)
      *(float4 *)(f.plain_scale + col / TILE * f.rows + row + row_of_thread()) =
          make_float4(scale[0], scale[1], scale[2], scale[3]);
  }
  if (!f.turned) return;
  uint4 most = column_most(v, room);
  float scale[8];
#pragma unroll
  for (int c = 0; c < 8; c++) {
    uint32_t pair = word_of(most, c / 2);
    scale[c] = scale_of(c % 2 ? pair >> 16 : pair & 0xffffu);
  }
  turn(v, scale, room);
  if (row_of_thread() == 0) {
    float4 *to = (float4 *)(f.turned_scale + row / TILE * f.cols + col + pack_of_thread() * 8);
    to[0] = make_float4(scale[0], scale[1], scale[2], scale[3]);
    to[1] = make_float4(scale[4], scale[5], scale[6], scale[7]);
  }
  __syncthreads();
  write_turned(room, f.turned + col * f.rows + row, f.rows);
}

/* ---- a tile with one scale ---- */

__device__ static inline int64_t blocks_in(int64_t n) {
  return (n / TILE + 3) / 4 * 4;
}

__device__ static inline void emit_block(const uint4 (&v)[OWN], const pu_cuda_fp8 &f, int64_t row, int64_t col,
                                         tile_room *room) {
  /* All columns are seen by the lanes of a warp. */
  float scale = scale_of(__reduce_max_sync(0xffffffffu, largest_of(column_most(v, room))));
  const float rows[OWN] = {scale, scale, scale, scale};
  const float cols[8] = {scale, scale, scale, scale, scale, scale, scale, scale};
  if (f.plain) {
    write_plain(v, rows, f.plain + row * f.cols + col, f.cols);
    if (threadIdx.x == 0) f.plain_scale[row / TILE * blocks_in(f.cols) + col / TILE] = scale;
  }
  if (!f.turned) return;
  turn(v, cols, room);
  if (threadIdx.x == 0) f.turned_scale[col / TILE * blocks_in(f.rows) + row / TILE] = scale;
  __syncthreads();
  write_turned(room, f.turned + col * f.rows + row, f.rows);
}

__device__ static inline uint4 read_pack(const bf16 *from, int64_t step, int64_t row, int64_t col, int i) {
  return *(const uint4 *)(from + (row + row_of_thread() + i) * step + col + pack_of_thread() * 8);
}

template <bool BLOCKS> __global__ void __launch_bounds__(THREADS, 2) round_tiles(const bf16 *from, int64_t step, pu_cuda_fp8 f) {
  __shared__ tile_room room;
  int64_t row = (int64_t)blockIdx.y * TILE, col = (int64_t)blockIdx.x * TILE;
  uint4 v[OWN];
#pragma unroll
  for (int i = 0; i < OWN; i++) v[i] = read_pack(from, step, row, col, i);
  if (BLOCKS)
    emit_block(v, f, row, col, &room);
  else
    emit(v, f, row, col, &room);
}

/* ---- swiglu ---- */

__device__ static inline float sigmoid(float a) {
  return __fdividef(1.0f, 1.0f + __expf(-a));
}

__device__ static inline uint32_t activate(uint32_t gate, uint32_t up) {
  float a[2], b[2];
  two_f32(gate, &a[0], &a[1]);
  two_f32(up, &b[0], &b[1]);
  return two_bf16(b[0] * (a[0] * sigmoid(a[0])), b[1] * (a[1] * sigmoid(a[1])));
}

/* gate, up: the values; then their gradients. Returns the activation. */
__device__ static inline uint32_t activate_back(uint32_t *gate, uint32_t *up, uint32_t dact) {
  float a[2], b[2], dy[2], y[2];
  two_f32(*gate, &a[0], &a[1]);
  two_f32(*up, &b[0], &b[1]);
  two_f32(dact, &dy[0], &dy[1]);
#pragma unroll
  for (int i = 0; i < 2; i++) {
    float s = sigmoid(a[i]), silu = a[i] * s;
    y[i] = b[i] * silu;
    a[i] = dy[i] * b[i] * s * (1.0f + a[i] * (1.0f - s));
    b[i] = dy[i] * silu;
  }
  *gate = two_bf16(a[0], a[1]);
  *up = two_bf16(b[0], b[1]);
  return two_bf16(y[0], y[1]);
}

__global__ void __launch_bounds__(THREADS, 2) swiglu_tiles(const bf16 *gu, int64_t step, pu_cuda_fp8 act) {
  __shared__ tile_room room;
  int64_t row = (int64_t)blockIdx.y * TILE, col = (int64_t)blockIdx.x * TILE;
  uint4 v[OWN], up[OWN];
#pragma unroll
  for (int i = 0; i < OWN; i++) {
    v[i] = read_pack(gu, step, row, col, i);
    up[i] = read_pack(gu, step, row, col + act.cols, i);
  }
#pragma unroll
  for (int i = 0; i < OWN; i++)
    v[i] = make_uint4(activate(v[i].x, up[i].x), activate(v[i].y, up[i].y), activate(v[i].z, up[i].z),
                      activate(v[i].w, up[i].w));
  emit(v, act, row, col, &room);
}

__global__ void __launch_bounds__(THREADS, 2)
    swiglu_tiles_back(const bf16 *gu, int64_t step, const bf16 *dact, pu_cuda_fp8 dgu, pu_cuda_fp8 act) {
  __shared__ tile_room room;
  int64_t row = (int64_t)blockIdx.y * TILE, col = (int64_t)blockIdx.x * TILE;
  uint4 gate[OWN], up[OWN], y[OWN];
#pragma unroll
  for (int i = 0; i < OWN; i++) {
    gate[i] = read_pack(gu, step, row, col, i);
    up[i] = read_pack(gu, step, row, col + act.cols, i);
    y[i] = read_pack(dact, act.cols, row, col, i);
  }
#pragma unroll
  for (int i = 0; i < OWN; i++) {
    y[i].x = activate_back(&gate[i].x, &up[i].x, y[i].x);
    y[i].y = activate_back(&gate[i].y, &up[i].y, y[i].y);
    y[i].z = activate_back(&gate[i].z, &up[i].z, y[i].z);
    y[i].w = activate_back(&gate[i].w, &up[i].w, y[i].w);
  }
  emit(gate, dgu, row, col, &room);
  __syncthreads();
  emit(up, dgu, row, col + act.cols, &room);
  __syncthreads();
  emit(y, act, row, col, &room);
}

/* ---- host ---- */

enum { PART = 256 }; /* bytes that each part is rounded up to */

static size_t rounded(int64_t bytes) {
  return (size_t)ceil_div(bytes, PART) * PART;
}

static int64_t scales_of(int64_t rows, int64_t cols, bool blocks) {
  return blocks ? rows / TILE * (ceil_div(cols / TILE, 4) * 4) : cols / TILE * rows;
}

static size_t side_bytes(int64_t rows, int64_t cols, bool blocks) {
  return rounded(rows * cols) + rounded(scales_of(rows, cols, blocks) * (int64_t)sizeof(float));
}

size_t pu_cuda_fp8_bytes(int64_t rows, int64_t cols, int what) {
  bool blocks = what & PU_FP8_BLOCKS;
  return (what & PU_FP8_PLAIN ? side_bytes(rows, cols, blocks) : 0) +
         (what & PU_FP8_TURNED ? side_bytes(cols, rows, blocks) : 0);
}

pu_cuda_fp8 pu_cuda_fp8_in(int64_t rows, int64_t cols, int what, char **at) {
  pu_cuda_fp8 f = {};
  f.rows = rows, f.cols = cols, f.blocks = what & PU_FP8_BLOCKS;
  if (what & PU_FP8_PLAIN) {
    f.plain = (uint8_t *)*at;
    f.plain_scale = (float *)(*at + rounded(rows * cols));
    *at += side_bytes(rows, cols, f.blocks);
  }
  if (what & PU_FP8_TURNED) {
    f.turned = (uint8_t *)*at;
    f.turned_scale = (float *)(*at + rounded(rows * cols));
    *at += side_bytes(cols, rows, f.blocks);
  }
  return f;
}

static dim3 tiles_of(const pu_cuda_fp8 *f) {
  return dim3((unsigned)(f->cols / TILE), (unsigned)(f->rows / TILE));
}

pu_err pu_cuda_fp8_round(pu_cuda *d, const pu_tensor *t, const pu_cuda_fp8 *f, pu_error *e) {
  if (f->blocks)
    round_tiles<true><<<tiles_of(f), THREADS, 0, d->stream>>>((const bf16 *)t->data, t->stride[0], *f);
  else
    round_tiles<false><<<tiles_of(f), THREADS, 0, d->stream>>>((const bf16 *)t->data, t->stride[0], *f);
  return pu_cuda_launched("rounding to FP8", e);
}

pu_err pu_cuda_fp8_swiglu(pu_cuda *d, const pu_tensor *gu, const pu_cuda_fp8 *act, pu_error *e) {
  swiglu_tiles<<<tiles_of(act), THREADS, 0, d->stream>>>((const bf16 *)gu->data, gu->stride[0], *act);
  return pu_cuda_launched("swiglu to FP8", e);
}

pu_err pu_cuda_fp8_swiglu_back(pu_cuda *d, const pu_tensor *gu, const bf16 *dact, const pu_cuda_fp8 *dgu,
                               const pu_cuda_fp8 *act, pu_error *e) {
  swiglu_tiles_back<<<tiles_of(act), THREADS, 0, d->stream>>>((const bf16 *)gu->data, gu->stride[0], dact, *dgu, *act);
  return pu_cuda_launched("swiglu's backward to FP8", e);
}
