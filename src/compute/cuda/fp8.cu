/* To FP8, a tile of 128 by 128 a block of threads. Bytes are all that counts: 2 read, 1 written plain, 1 turned.
 *
 * A thread has eight columns of four rows below each other, whose codes it turns so that four below each other are a
 * word; the turned tile is put together in shared memory and leaves in lines of 128 bytes. */
#include "src/compute/cuda/fp8.h"
#include "src/compute/cuda/gates.cuh"
#include "src/compute/cuda/rows.h"
#include "src/compute/cuda/use.h"

#include <cuda_fp8.h>
#include <stdlib.h>
#include <string.h>

enum {
  TILE = PU_FP8_TILE,
  THREADS = 512,
  WARPS = THREADS / 32,
  PACKS = TILE / 8,     /* of eight columns */
  OWN = 4,              /* rows of a thread */
  PITCH = TILE / 4 + 4, /* words from column to column of the turned tile, 16-byte aligned */
  AGAIN_BLOCKS = 3      /* of a multiprocessor, of kernels that mostly have nothing to do */
};

typedef struct tile_room {
  uint32_t turned[TILE * PITCH];
  uint32_t most[WARPS];
} tile_room;

/* Where a thread's values are in the tile. */
__device__ static inline int pack_of_thread() {
  return (int)threadIdx.x % PACKS;
}
__device__ static inline int row_of_thread() {
  return (int)threadIdx.x / PACKS * OWN;
}

/* ---- powers of two ---- */

/* Exponents of gradients are multiples of GRADIENT_STEP: E5M2 has range to spare (what is 2^-23 of the largest still
 * keeps its bits), and the guess is wrong a sixth as often. */
enum { MOST_EXPONENT = 96, GRADIENT_STEP = 6 };

/* The largest that leaves `most`, the bits of an f32, at 448 = 1.75 2^8 or 57344 = 1.75 2^15 at most. */
__device__ static inline float by_of(uint32_t most, bool gradient) {
  int k = (gradient ? 15 : 8) - ((int)(most >> 23) - 127) - ((most & 0x7fffffu) > 0x600000u);
  k = most == 0 ? 0 : max(-MOST_EXPONENT, min(MOST_EXPONENT, k));
  if (gradient) k = (k + MOST_EXPONENT) / GRADIENT_STEP * GRADIENT_STEP - MOST_EXPONENT;
  return __uint_as_float((uint32_t)(k + 127) << 23);
}
__device__ static inline float right_by(const pu_cuda_fp8 &f) {
  return by_of(f.guess->most[f.turn], f.gradient);
}
__device__ static inline float guessed_by(const pu_cuda_fp8 &f) {
  return f.guess->by[f.turn];
}
__device__ static inline bool guessed_right(const pu_cuda_fp8 &f) {
  return right_by(f) == guessed_by(f);
}

/* By one thread, in the second kernel. */
__device__ static inline void settle(const pu_cuda_fp8 &f) {
  float by = right_by(f);
  f.guess->scale = f.guess->most[f.turn] < 0x7f800000u ? 1 / by : NAN;
  f.guess->by[f.turn ^ 1] = by;
  f.guess->most[f.turn ^ 1] = 0;
}

/* By the whole block: the largest magnitude of its threads, as an f32's bits, counts. */
__device__ static inline void tell_most(const pu_cuda_fp8 &f, uint32_t most, tile_room *room) {
  most = __reduce_max_sync(0xffffffffu, most);
  if (threadIdx.x % 32 == 0) room->most[threadIdx.x / 32] = most;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  most = __reduce_max_sync(0xffffffffu, threadIdx.x < WARPS ? room->most[threadIdx.x] : 0);
  uint32_t *to = &f.guess->most[f.turn];
  if (threadIdx.x == 0 && most > *(volatile uint32_t *)to) atomicMax(to, most);
}

/* ---- codes ---- */

template <bool GRADIENT> __device__ static inline uint32_t two_codes(float a, float b) {
  return __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, GRADIENT ? __NV_E5M2 : __NV_E4M3);
}

template <bool GRADIENT> __device__ static inline uint2 codes_of(const float (&v)[8], float by) {
  uint32_t p[4];
#pragma unroll
  for (int i = 0; i < 4; i++) p[i] = two_codes<GRADIENT>(v[2 * i] * by, v[2 * i + 1] * by);
  return make_uint2(p[0] | p[1] << 16, p[2] | p[3] << 16);
}

/* to: the tile's corner, rows `step` apart. */
__device__ static inline void write_plain(const uint2 (&codes)[OWN], uint8_t *to, int64_t step) {
#pragma unroll
  for (int i = 0; i < OWN; i++) *(uint2 *)(to + (row_of_thread() + i) * step + pack_of_thread() * 8) = codes[i];
}

/* Four words of four columns each, a row a word, into four words of four rows each. Column 8 p + c of the tile is line
 * 16 c + p of the turned one, so that a warp's words are in different banks. */
__device__ static inline void turn_four(uint32_t a, uint32_t b, uint32_t c, uint32_t d, int column, tile_room *room) {
  uint32_t low = __byte_perm(a, b, 0x5140), high = __byte_perm(a, b, 0x7362);
  uint32_t low2 = __byte_perm(c, d, 0x5140), high2 = __byte_perm(c, d, 0x7362);
  uint32_t *to = room->turned + (column * PACKS + pack_of_thread()) * PITCH + row_of_thread() / 4;
  to[0 * PACKS * PITCH] = __byte_perm(low, low2, 0x5410);
  to[1 * PACKS * PITCH] = __byte_perm(low, low2, 0x7632);
  to[2 * PACKS * PITCH] = __byte_perm(high, high2, 0x5410);
  to[3 * PACKS * PITCH] = __byte_perm(high, high2, 0x7632);
}

/* By the whole block. to: the turned tile's corner, columns `step` apart. */
__device__ static inline void write_turned(const uint2 (&codes)[OWN], uint8_t *to, int64_t step, tile_room *room) {
  const int pieces = TILE / 16, piece = (int)threadIdx.x % pieces;
  __syncthreads(); /* the tile before has left */
  turn_four(codes[0].x, codes[1].x, codes[2].x, codes[3].x, 0, room);
  turn_four(codes[0].y, codes[1].y, codes[2].y, codes[3].y, 4, room);
  __syncthreads();
#pragma unroll
  for (int c = (int)threadIdx.x / pieces; c < TILE; c += THREADS / pieces)
    *(uint4 *)(to + c * step + piece * 16) =
        *(const uint4 *)(room->turned + (c % 8 * PACKS + c / 8) * PITCH + piece * 4);
}

__device__ static inline void write_codes(const uint2 (&codes)[OWN], const pu_cuda_fp8 &f, int64_t row, int64_t col,
                                          tile_room *room) {
  if (f.plain) write_plain(codes, f.plain + row * f.cols + col, f.cols);
  if (f.turned) write_turned(codes, f.turned + col * f.rows + row, f.rows, room);
}

/* ---- rounding ---- */

__device__ static inline uint4 read_pack(const bf16 *from, int64_t step, int64_t row, int64_t col, int i) {
  return *(const uint4 *)(from + (row + row_of_thread() + i) * step + col + pack_of_thread() * 8);
}

__device__ static inline void widen(uint4 v, float (&out)[8]) {
  two_f32(v.x, &out[0], &out[1]);
  two_f32(v.y, &out[2], &out[3]);
  two_f32(v.z, &out[4], &out[5]);
  two_f32(v.w, &out[6], &out[7]);
}

typedef struct matrix {
  const bf16 *from;
  int64_t step;
  pu_cuda_fp8 f;
} matrix;

typedef struct matrices {
  matrix m[PU_FP8_AT_ONCE];
  int first[PU_FP8_AT_ONCE + 1]; /* tile of each; all tiles, behind */
  int n;
} matrices;

template <bool GRADIENT>
__device__ static inline uint32_t round_tile(const matrix &m, int tile, float by, tile_room *room) {
  int across = (int)(m.f.cols / TILE);
  int64_t row = (int64_t)(tile / across) * TILE, col = (int64_t)(tile % across) * TILE;
  uint4 v[OWN];
  uint2 codes[OWN];
  uint32_t most = 0;
#pragma unroll
  for (int i = 0; i < OWN; i++) v[i] = read_pack(m.from, m.step, row, col, i);
#pragma unroll
  for (int i = 0; i < OWN; i++) {
    float x[8];
    widen(v[i], x);
    most = larger(most, v[i]);
    codes[i] = codes_of<GRADIENT>(x, by);
  }
  write_codes(codes, m.f, row, col, room);
  return max(most << 16, most & 0xffff0000u);
}

/* AGAIN: of what was guessed wrong. */
template <bool AGAIN> __global__ void __launch_bounds__(THREADS, 3) round_tiles(const matrices all) {
  __shared__ tile_room room;
  if (AGAIN && blockIdx.x == 0 && threadIdx.x < all.n) settle(all.m[threadIdx.x].f);
  for (int k = 0; k < all.n; k++) {
    const matrix &m = all.m[k];
    int begin = PU_MAX(all.first[k], (int)blockIdx.x), end = all.first[k + 1];
    if (AGAIN) {
      if (guessed_right(m.f)) continue;
      begin = all.first[k] + (int)blockIdx.x;
    } else {
      if ((int)blockIdx.x >= end || (int)blockIdx.x < all.first[k]) continue;
      end = begin + 1;
    }
    float by = AGAIN ? right_by(m.f) : guessed_by(m.f);
    for (int tile = begin; tile < end; tile += (int)gridDim.x) {
      uint32_t most = m.f.gradient ? round_tile<true>(m, tile - all.first[k], by, &room)
                                   : round_tile<false>(m, tile - all.first[k], by, &room);
      if (!AGAIN) tell_most(m.f, most, &room);
    }
  }
}

/* ---- swiglu ---- */

__device__ static inline uint32_t larger(uint32_t most, const float (&v)[8]) {
#pragma unroll
  for (int i = 0; i < 8; i++) most = max(most, __float_as_uint(v[i]) & 0x7fffffffu);
  return most;
}

typedef struct gates {
  const bf16 *gu, *dact;
  int64_t step;
  pu_cuda_fp8 act, dgu;
} gates;

__device__ static inline uint32_t swiglu_tile(const gates &g, int64_t row, int64_t col, float by, tile_room *room) {
  uint4 gate[OWN], up[OWN];
  uint2 codes[OWN];
  uint32_t most = 0;
#pragma unroll
  for (int i = 0; i < OWN; i++) {
    gate[i] = read_pack(g.gu, g.step, row, col, i);
    up[i] = read_pack(g.gu, g.step, row, col + g.act.cols, i);
  }
#pragma unroll
  for (int i = 0; i < OWN; i++) {
    float a[8], b[8];
    widen(gate[i], a);
    widen(up[i], b);
#pragma unroll
    for (int k = 0; k < 8; k++) b[k] *= a[k] * pu_sigmoid(a[k], bf16());
    most = larger(most, b);
    codes[i] = codes_of<false>(b, by);
  }
  write_codes(codes, g.act, row, col, room);
  return most;
}

/* The largest of the activation and of gu's gradient. */
__device__ static inline uint2 swiglu_tile_back(const gates &g, int64_t row, int64_t col, float by, float by_back,
                                                tile_room *room) {
  uint4 gate[OWN], up[OWN], dact[OWN];
  uint2 act[OWN], dgate[OWN], dup[OWN], most = make_uint2(0, 0);
#pragma unroll
  for (int i = 0; i < OWN; i++) {
    gate[i] = read_pack(g.gu, g.step, row, col, i);
    up[i] = read_pack(g.gu, g.step, row, col + g.act.cols, i);
    dact[i] = read_pack(g.dact, g.act.cols, row, col, i);
  }
#pragma unroll
  for (int i = 0; i < OWN; i++) {
    float a[8], b[8], dy[8], y[8];
    widen(gate[i], a);
    widen(up[i], b);
    widen(dact[i], dy);
#pragma unroll
    for (int k = 0; k < 8; k++) {
      float s = pu_sigmoid(a[k], bf16()), silu = a[k] * s;
      y[k] = b[k] * silu;
      a[k] = dy[k] * b[k] * s * (1.0f + a[k] * (1.0f - s));
      b[k] = dy[k] * silu;
    }
    most.x = larger(most.x, y);
    most.y = larger(larger(most.y, a), b);
    act[i] = codes_of<false>(y, by);
    dgate[i] = codes_of<true>(a, by_back);
    dup[i] = codes_of<true>(b, by_back);
  }
  write_codes(act, g.act, row, col, room);
  write_codes(dgate, g.dgu, row, col, room);
  write_codes(dup, g.dgu, row, col + g.act.cols, room);
  return most;
}

template <bool BACK, bool AGAIN> __global__ void __launch_bounds__(THREADS, 2) swiglu_tiles(const gates g) {
  __shared__ tile_room room;
  int across = (int)(g.act.cols / TILE), tiles = (int)(g.act.rows / TILE) * across;
  if (AGAIN && blockIdx.x == 0 && threadIdx.x == 0) {
    settle(g.act);
    if (BACK) settle(g.dgu);
  }
  if (AGAIN && guessed_right(g.act) && (!BACK || guessed_right(g.dgu))) return;
  float by = AGAIN ? right_by(g.act) : guessed_by(g.act), by_back = 0;
  if (BACK) by_back = AGAIN ? right_by(g.dgu) : guessed_by(g.dgu);
  for (int tile = (int)blockIdx.x; tile < tiles; tile += (int)gridDim.x) {
    int64_t row = (int64_t)(tile / across) * TILE, col = (int64_t)(tile % across) * TILE;
    uint2 most = make_uint2(0, 0);
    if (BACK)
      most = swiglu_tile_back(g, row, col, by, by_back, &room);
    else
      most.x = swiglu_tile(g, row, col, by, &room);
    if (AGAIN) continue;
    tell_most(g.act, most.x, &room);
    if (!BACK) continue;
    __syncthreads();
    tell_most(g.dgu, most.y, &room);
  }
}

/* ---- guesses ---- */

enum { GUESSES = 1 << 12 /* a power of two; all are forgotten when three quarters are taken */ };

struct pu_cuda_guesses {
  pu_cuda_guess *device; /* [GUESSES] */
  struct {
    const void *weight;
    pu_cuda_fp8_role role;
    int turn;
  } key[GUESSES];
  int used;
};

pu_err pu_cuda_fp8_open(pu_cuda *d, pu_error *e) {
  void *memory;
  pu_cuda_guesses *g = d->guesses = (pu_cuda_guesses *)calloc(1, sizeof *g);
  if (!g) return pu_fail(e, PU_ERR_NOMEM, "cuda: no memory");
  PU_TRY(d->base.alloc(&d->base, GUESSES * sizeof *g->device, &memory, e));
  g->device = (pu_cuda_guess *)memory;
  PU_CUDA_TRY(cudaMemsetAsync(memory, 0, GUESSES * sizeof *g->device, d->stream), "clearing memory", e);
  return PU_OK;
}

void pu_cuda_fp8_close(pu_cuda *d) {
  if (d->guesses) cudaFree(d->guesses->device);
  free(d->guesses);
}

static int slot_of(const pu_cuda_guesses *g, const void *weight, pu_cuda_fp8_role role) {
  uintptr_t key[2] = {(uintptr_t)weight, (uintptr_t)role};
  uint64_t at = pu_hash64(key, sizeof key, 0) % GUESSES;
  while (g->key[at].weight && (g->key[at].weight != weight || g->key[at].role != role)) at = (at + 1) % GUESSES;
  return (int)at;
}

/* What a guess starts from counts for time alone, and so does forgetting them; but not within an operation, whose
 * matrices have a guess each. */
void pu_cuda_fp8_begin(pu_cuda *d) {
  pu_cuda_guesses *g = d->guesses;
  if (g->used < GUESSES / 4 * 3) return;
  memset(g->key, 0, sizeof g->key);
  g->used = 0;
  cudaMemsetAsync(g->device, 0, GUESSES * sizeof *g->device, d->stream);
}

static void find_guess(pu_cuda *d, const void *weight, pu_cuda_fp8_role role, pu_cuda_fp8 *f) {
  pu_cuda_guesses *g = d->guesses;
  int at = slot_of(g, weight, role);
  if (!g->key[at].weight) g->used++;
  g->key[at].weight = weight, g->key[at].role = role;
  f->guess = &g->device[at];
  f->turn = g->key[at].turn;
  g->key[at].turn ^= 1;
}

/* ---- work memory ---- */

enum { PART = 256 }; /* bytes that each part is rounded up to */

static size_t rounded(int64_t bytes) {
  return (size_t)ceil_div(bytes, PART) * PART;
}

size_t pu_cuda_fp8_bytes(int64_t rows, int64_t cols, int sides) {
  return rounded(rows * cols) * (size_t)((sides & 1) + (sides >> 1));
}

pu_cuda_fp8 pu_cuda_fp8_in(pu_cuda *d, int64_t rows, int64_t cols, int sides, const pu_tensor *weight,
                           pu_cuda_fp8_role role, char **at) {
  pu_cuda_fp8 f = {};
  f.rows = rows, f.cols = cols, f.gradient = role == PU_FP8_GRADIENT;
  f.plain = sides & PU_FP8_PLAIN ? (uint8_t *)*at : NULL;
  if (f.plain) *at += rounded(rows * cols);
  f.turned = sides & PU_FP8_TURNED ? (uint8_t *)*at : NULL;
  if (f.turned) *at += rounded(rows * cols);
  find_guess(d, weight->data, role, &f);
  return f;
}

/* ---- host ---- */

static int tiles_of(const pu_cuda_fp8 *f) {
  return (int)(f->rows / TILE * (f->cols / TILE));
}

static unsigned again_blocks(const pu_cuda *d, int tiles) {
  return (unsigned)PU_MIN(tiles, AGAIN_BLOCKS * d->sms);
}

pu_err pu_cuda_fp8_round(pu_cuda *d, const pu_tensor *const *from, const pu_cuda_fp8 *to, int n, pu_error *e) {
  matrices all = {};
  all.n = n;
  for (int i = 0; i < n; i++) {
    all.m[i].from = (const bf16 *)from[i]->data;
    all.m[i].step = from[i]->stride[0];
    all.m[i].f = to[i];
    all.first[i + 1] = all.first[i] + tiles_of(&to[i]);
  }
  int tiles = all.first[n];
  if (!tiles) return PU_OK;
  round_tiles<false><<<(unsigned)tiles, THREADS, 0, d->stream>>>(all);
  round_tiles<true><<<again_blocks(d, tiles), THREADS, 0, d->stream>>>(all);
  return pu_cuda_launched("rounding to FP8", e);
}

template <bool BACK> static void swiglu_launch(pu_cuda *d, const gates &g) {
  int tiles = tiles_of(&g.act);
  swiglu_tiles<BACK, false><<<(unsigned)tiles, THREADS, 0, d->stream>>>(g);
  swiglu_tiles<BACK, true><<<again_blocks(d, tiles), THREADS, 0, d->stream>>>(g);
}

pu_err pu_cuda_fp8_swiglu(pu_cuda *d, const pu_tensor *gu, const pu_cuda_fp8 *act, pu_error *e) {
  gates g = {};
  g.gu = (const bf16 *)gu->data, g.step = gu->stride[0], g.act = *act;
  swiglu_launch<false>(d, g);
  return pu_cuda_launched("swiglu to FP8", e);
}

pu_err pu_cuda_fp8_swiglu_back(pu_cuda *d, const pu_tensor *gu, const bf16 *dact, const pu_cuda_fp8 *dgu,
                               const pu_cuda_fp8 *act, pu_error *e) {
  gates g = {};
  g.gu = (const bf16 *)gu->data, g.step = gu->stride[0], g.dact = dact, g.act = *act, g.dgu = *dgu;
  swiglu_launch<true>(d, g);
  return pu_cuda_launched("swiglu's backward to FP8", e);
}
