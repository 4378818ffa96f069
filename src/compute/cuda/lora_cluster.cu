/* lora, forward: y += scale (x a^T) b^T for all parts at once, on tensor cores and clusters of blocks (bf16, from
 * compute capability 9.0 on).
 *
 * Of u = x a^T a cluster makes some rows of a part. Its blocks share the sums: each warp has a slice of the inner size,
 * its sum is one sequence of steps of 16; the sums of a block's warps are added in order, then those of the blocks,
 * which send them to each other's shared memory. So neither a sum of u nor one of y knows how many rows or parts there
 * are, nor which of the two ways is taken:
 *
 * Few rows: one launch. The cluster goes on with a share of the part's columns. What takes the time is that one thing
 * waits for the other, so the kernel is small enough to stand beside the blocks of the base's product (skinny.cu),
 * begins while that still runs, and if it may read x already, makes the first part of what it is to add to y before it
 * waits.
 *
 * Many rows: two launches, of which the second one passes y through at the speed of memory. */
#include "src/compute/cuda/barriers.h"
#include "src/compute/cuda/lora.h"
#include "src/compute/cuda/mma.h"
#include "src/compute/cuda/use.h"

enum {
  CLUSTER = 8,
  WARPS = 8, /* of a block */
  THREADS = 32 * WARPS,
  DEPTH = 32, /* of a step along the inner size: 8 values a thread */
  TILE = 8,   /* rows of a product */
  RANK = 16,  /* rows of a in a product */
  UNIT = 64,  /* columns of y that a warp takes at a time: 8 a thread */
  SUMS = TILE * RANK,
  PARTS = 32,   /* travel as an argument of the kernel */
  UP_ROWS = 64, /* of a block of the second launch */
  AT_ONCE = 4   /* units, or tiles, that a warp works at */
};

typedef struct cluster_part {
  const bf16 *x, *a, *b;
  bf16 *u, *y; /* u: of many rows */
  int64_t x_step, a_step, b_step, u_step, y_step;
  int32_t rows, rank, cols;
  int32_t first;  /* clusters, or blocks, of the parts before it */
  int32_t shares; /* of its columns */
  float scale;
} cluster_part;

typedef struct cluster_parts {
  cluster_part of[PARTS];
  int n, inner;
  bool x_rests; /* x may be read before the kernels before this one have ended */
} cluster_parts;

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define IN_CLUSTERS __cluster_dims__(CLUSTER, 1, 1)
#else
#define IN_CLUSTERS
#endif

/* What a block has in shared memory for sums: of RT tiles of a's rows, G tiles of x's. */
template <int RT, int G> struct alignas(16) room {
  float of_warp[WARPS][RT * G * SUMS], of_block[CLUSTER][RT * G * SUMS];
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

/* To the same place of block `to` of the cluster. */
__device__ static inline void send(const float *mine, int to, float v) {
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(cluster_address(mine, to)), "f"(v) : "memory");
}

/* The part of a cluster, or block, and its number in that. */
__device__ static inline const cluster_part &part_of(const cluster_parts &parts, int *number) {
  int i = 0;
  while (i + 1 < parts.n && parts.of[i + 1].first <= *number) i++;
  *number -= parts.of[i].first;
  return parts.of[i];
}

/* The slices of a that the block is going to read. */
__device__ static inline void fetch_a(const cluster_part &p, int inner) {
  const int steps = (inner + DEPTH - 1) / DEPTH, block = (int)blockIdx.x % CLUSTER;
  const int k = steps * block / CLUSTER * DEPTH, end = min(steps * (block + 1) / CLUSTER * DEPTH, inner);
  for (int r = threadIdx.x / 32; r < p.rank; r += WARPS)
    for (int i = k + threadIdx.x % 32 * 64; i < end; i += 32 * 64) ahead_in_l2(p.a + r * p.a_step + i);
}

/* Lines of b, by one thread of `threads`. */
__device__ static inline void fetch_b(const cluster_part &p, int line, int end, int thread, int threads) {
  for (line += thread; line < end; line += threads) ahead_in_l2(p.b + line * p.b_step);
}

/* A warp's slice of the sums: a's rows are operand A, those of x operand B. Of a step of 32 a thread has the same 8
 * values of both, which are two products. What lies behind the last row is the last one again. */
template <int RT, int G>
__device__ static inline void down_sums(const cluster_part &p, int inner, int row, float (&sum)[RT][G][4]) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int slice = (int)blockIdx.x % CLUSTER * WARPS + (int)threadIdx.x / 32, slices = CLUSTER * WARPS;
  const int steps = (inner + DEPTH - 1) / DEPTH, end = steps * (slice + 1) / slices;
#pragma unroll 2
  for (int s = steps * slice / slices; s < end; s++) {
    const int k = s * DEPTH + t * 8;
    const bool there = k < inner;
    uint4 w[G];
#pragma unroll
    for (int i = 0; i < G; i++)
      w[i] = there ? __ldcg((const uint4 *)(p.x + min(row + i * TILE + g, p.rows - 1) * p.x_step + k)) : uint4{};
#pragma unroll
    for (int r = 0; r < RT; r++) {
      const bf16 *a = p.a + k;
      uint4 low = there ? __ldg((const uint4 *)(a + min(r * RANK + g, p.rank - 1) * p.a_step)) : uint4{};
      uint4 high = there ? __ldg((const uint4 *)(a + min(r * RANK + g + 8, p.rank - 1) * p.a_step)) : uint4{};
      const uint32_t first[4] = {low.x, high.x, low.y, high.y}, second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
      for (int i = 0; i < G; i++) {
        mma(sum[r][i], first, w[i].x, w[i].y);
        mma(sum[r][i], second, w[i].z, w[i].w);
      }
    }
  }
}

/* The block's sums, to all blocks of the cluster. */
template <int RT, int G> __device__ static inline void share_sums(room<RT, G> &m, const float (&sum)[RT][G][4]) {
  constexpr int count = RT * G * SUMS, peers = count < THREADS ? CLUSTER / 2 : CLUSTER;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, block = (int)blockIdx.x % CLUSTER;
#pragma unroll
  for (int r = 0; r < RT; r++)
#pragma unroll
    for (int i = 0; i < G; i++)
      *(float4 *)&m.of_warp[warp][(r * G + i) * SUMS + lane * 4] =
          make_float4(sum[r][i][0], sum[r][i][1], sum[r][i][2], sum[r][i][3]);
  __syncthreads();
  for (int j = threadIdx.x; j < count * (CLUSTER / peers); j += THREADS) {
    const int v = j % count, from = j / count * peers;
    float all = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) all += m.of_warp[w][v];
#pragma unroll
    for (int to = 0; to < peers; to++) send(&m.of_block[block][v], from + to, all);
  }
}

/* Value v of the cluster's tiles of u, rounded, and where it is in them; zeros behind its last column. */
template <int RT, int G>
__device__ static inline bf16 add_blocks(const room<RT, G> &m, int v, int rank, int *row, int *col) {
  const int tile = v / SUMS, lane = v % SUMS / 4, c = v % 4;
  float all = 0;
#pragma unroll
  for (int b = 0; b < CLUSTER; b++) all += m.of_block[b][v];
  *row = tile % G * TILE + lane % 4 * 2 + c % 2, *col = tile / G * RANK + lane / 4 + c / 2 * 8;
  return from_f32<bf16>(*col < rank ? all : 0.0f);
}

/* The cluster's tiles of u, for add_blocks. */
template <int RT, int G> __device__ static inline void down(const cluster_part &p, int inner, int row, room<RT, G> &m) {
  float sum[RT][G][4] = {};
  down_sums<RT, G>(p, inner, row, sum);
  cluster_wait();
  share_sums<RT, G>(m, sum);
  cluster_arrive();
  cluster_wait();
}

/* A thread's part of a row of u, which has so many columns, as operand B. */
template <int RT> __device__ static inline void load_u(const bf16 *u, int cols, uint2 (&v)[RT]) {
#pragma unroll
  for (int r = 0; r < RT; r++) v[r] = r * RANK < cols ? *(const uint2 *)(u + r * RANK + threadIdx.x % 4 * 4) : uint2{};
}

/* Of UNIT lines of b, what product j of tile r of the rank takes as operand A: of each 8 lines two, so that a thread
 * has 8 columns of 2 rows side by side. */
__device__ static inline uint4 load_b(const cluster_part &p, int unit, int r, int j) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, col = min(unit * UNIT + g * 8, p.cols - 8);
  const bf16 *b = p.b + col * p.b_step + r * RANK + t * 4;
  const bool there = r * RANK + t * 4 < p.rank;
  const uint2 low = there ? __ldg((const uint2 *)(b + j * 2 * p.b_step)) : uint2{};
  const uint2 high = there ? __ldg((const uint2 *)(b + (j * 2 + 1) * p.b_step)) : uint2{};
  return make_uint4(low.x, high.x, low.y, high.y);
}

/* UNIT columns of one tile of rows; b gives what load_b does. */
template <int RT, typename B>
__device__ static inline void up_sums(const B &b, const uint2 (&u)[RT], float (&acc)[4][4]) {
#pragma unroll
  for (int r = 0; r < RT; r++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const uint4 v = b(r, j);
      const uint32_t w[4] = {v.x, v.y, v.z, v.w};
      mma(acc[j], w, u[r].x, u[r].y);
    }
}

/* A thread's 8 columns of one of its rows, rounded: what y's values get. */
__device__ static inline uint4 addend(const float (&acc)[4][4], int row, float scale) {
  uint32_t v[4];
#pragma unroll
  for (int j = 0; j < 4; j++) v[j] = pair_bf16(scale * acc[j][row], scale * acc[j][row + 2]);
  return make_uint4(v[0], v[1], v[2], v[3]);
}

/* Adds where y lies: in the L2 cache, so that nobody waits for its values. */
__device__ static inline void add_to(bf16 *y, uint4 v) {
  asm volatile("red.relaxed.gpu.global.add.noftz.v4.bf16x2 [%0], {%1, %2, %3, %4};" ::"l"(y), "r"(v.x), "r"(v.y),
               "r"(v.z), "r"(v.w)
               : "memory");
}

/* A thread's 8 columns of two rows of a tile. */
__device__ static inline void add_tile(const cluster_part &p, int row, int unit, int end, const uint4 (&v)[2]) {
  const int lane = threadIdx.x % 32, col = unit * UNIT + lane / 4 * 8;
  row += lane % 4 * 2;
  if (unit >= end || col >= p.cols) return;
  if (row < p.rows) add_to(p.y + row * p.y_step + col, v[0]);
  if (row + 1 < p.rows) add_to(p.y + (row + 1) * p.y_step + col, v[1]);
}

template <int RT, typename B>
__device__ static inline void up_tile(const B &b, const uint2 (&u)[RT], float scale, uint4 (&v)[2]) {
  float acc[4][4] = {};
  up_sums<RT>(b, u, acc);
  v[0] = addend(acc, 0, scale), v[1] = addend(acc, 1, scale);
}

/* The block's units of columns [unit, end) of one tile of rows, a warp AT_ONCE of them at a time. */
template <int RT>
__device__ static inline void up(const cluster_part &p, const uint2 (&u)[RT], int row, int unit, int end, bool wait) {
  for (unit += (int)threadIdx.x / 32; unit < end; unit += AT_ONCE * WARPS) {
    uint4 v[AT_ONCE][2];
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) {
      const auto b = [&](int r, int j) { return load_b(p, unit + i * WARPS, r, j); };
      if (i == 0 || unit + i * WARPS < end) up_tile<RT>(b, u, p.scale, v[i]);
    }
    if (wait) wait_for_before();
    wait = false;
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) add_tile(p, row, unit + i * WARPS, end, v[i]);
  }
  if (wait) wait_for_before();
}

#endif

/* Few rows: a tile of them and a share of the part's columns. */
template <int RT>
__global__ void IN_CLUSTERS __launch_bounds__(THREADS, RT == 1 ? 4 : 2)
    few_kernel(const __grid_constant__ cluster_parts parts) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  __shared__ room<RT, 1> m;
  __shared__ __align__(16) bf16 u[TILE][RT * RANK];
  uint2 mine[RT];
  int number = (int)blockIdx.x / CLUSTER;
  let_next_start();
  cluster_arrive(); /* its shared memory is there */
  const cluster_part &p = part_of(parts, &number);
  const int n = p.shares * CLUSTER, share = number % p.shares * CLUSTER + (int)blockIdx.x % CLUSTER;
  const int units = (p.cols + UNIT - 1) / UNIT, unit = units * share / n, end = units * (share + 1) / n;
  const int row = number / p.shares * TILE;
  fetch_a(p, parts.inner);
  fetch_b(p, unit * UNIT, min(end * UNIT, p.cols), threadIdx.x, THREADS);
  if (!parts.x_rests) wait_for_before();
  down<RT, 1>(p, parts.inner, row, m);
  for (int v = threadIdx.x; v < RT * SUMS; v += THREADS) {
    int r, c;
    bf16 value = add_blocks<RT, 1>(m, v, p.rank, &r, &c);
    u[r][c] = value;
  }
  __syncthreads();
  load_u<RT>(u[threadIdx.x % 32 / 4], RT * RANK, mine);
  up<RT>(p, mine, row, unit, end, parts.x_rests);
#endif
}

/* Many rows: u of G tiles. */
template <int RT, int G>
__global__ void IN_CLUSTERS __launch_bounds__(THREADS, 2) down_kernel(const __grid_constant__ cluster_parts parts) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  extern __shared__ __align__(16) unsigned char raw[];
  room<RT, G> &m = *(room<RT, G> *)raw;
  int number = (int)blockIdx.x / CLUSTER;
  let_next_start();
  cluster_arrive();
  const cluster_part &p = part_of(parts, &number);
  const int row = number * (G * TILE);
  fetch_a(p, parts.inner);
  wait_for_before();
  down<RT, G>(p, parts.inner, row, m);
  for (int v = (int)blockIdx.x % CLUSTER * THREADS + (int)threadIdx.x; v < RT * G * SUMS; v += CLUSTER * THREADS) {
    int r, c;
    bf16 value = add_blocks<RT, G>(m, v, p.rank, &r, &c);
    if (row + r < p.rows && c < p.u_step) p.u[(row + r) * p.u_step + c] = value;
  }
#endif
}

/* Many rows: UP_ROWS of them, WARPS units of columns. */
template <int RT>
__global__ void __launch_bounds__(THREADS, RT == 1 ? 4 : 2) up_kernel(const __grid_constant__ cluster_parts parts) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  int number = (int)blockIdx.x;
  let_next_start();
  const cluster_part &p = part_of(parts, &number);
  const int units = (p.cols + UNIT - 1) / UNIT, across = (units + WARPS - 1) / WARPS;
  const int unit = number % across * WARPS + (int)threadIdx.x / 32, first = number / across * UP_ROWS;
  if (unit < units) fetch_b(p, unit * UNIT, min((unit + 1) * UNIT, p.cols), threadIdx.x % 32, 32);
  wait_for_before();
  if (unit >= units) return;
  uint4 lines[RT][4];
#pragma unroll
  for (int i = 0; i < RT * 4; i++) lines[i / 4][i % 4] = load_b(p, unit, i / 4, i % 4);
  const auto b = [&](int r, int j) { return lines[r][j]; };
  for (int row = first; row < min(first + UP_ROWS, p.rows); row += AT_ONCE * TILE) {
    uint2 u[AT_ONCE][RT];
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) {
      const int line = min(row + i * TILE + (int)threadIdx.x % 32 / 4, p.rows - 1);
      load_u<RT>(p.u + line * p.u_step, (int)p.u_step, u[i]);
    }
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) {
      uint4 v[2];
      up_tile<RT>(b, u[i], p.scale, v);
      add_tile(p, row + i * TILE, unit, units, v);
    }
  }
#endif
}

/* ---- launches ---- */

/* Rows of a tensor begin at multiples of 16 bytes from `at` on. */
static bool lies_well(const pu_tensor *t, int64_t at) {
  return ((uintptr_t)t->data | (size_t)(t->stride[0] | at) * sizeof(bf16)) % 16 == 0;
}

bool pu_cuda_lora_clusters(const pu_cuda *d, const pu_lora_args *l, const pu_lora_part *p) {
  return d->capability >= 90 && l->x->dtype == PU_BF16 && p->a->shape[0] <= 4 * RANK && p->a->shape[0] % 8 == 0 &&
         l->x->shape[1] % 8 == 0 && p->b->shape[0] % 8 == 0 && lies_well(l->x, 0) && lies_well(l->y, p->from) &&
         lies_well(p->a, 0) && lies_well(p->b, 0);
}

static int64_t u_step(const pu_lora_part *p) {
  return ceil_div(p->a->shape[0], RANK) * RANK;
}

static cluster_part part_for(const pu_lora_args *l, const pu_lora_part *p, bf16 *u) {
  cluster_part k = {};
  k.x = (const bf16 *)l->x->data + p->row * l->x->stride[0], k.x_step = l->x->stride[0];
  k.y = (bf16 *)l->y->data + p->row * l->y->stride[0] + p->from, k.y_step = l->y->stride[0];
  k.a = (const bf16 *)p->a->data, k.a_step = p->a->stride[0];
  k.b = (const bf16 *)p->b->data, k.b_step = p->b->stride[0];
  k.u = u, k.u_step = u_step(p);
  k.rows = (int32_t)p->rows, k.rank = (int32_t)p->a->shape[0], k.cols = (int32_t)p->b->shape[0];
  k.scale = p->scale;
  return k;
}

/* Columns are shared so that there are as many clusters as there can be at a time. */
template <int RT> static pu_err launch_few(pu_cuda *d, cluster_parts *parts, const void *x, pu_error *e) {
  int64_t units = 0, clusters = 0;
  for (int i = 0; i < parts->n; i++) units += ceil_div(parts->of[i].rows, TILE) * ceil_div(parts->of[i].cols, UNIT);
  if (units == 0) return PU_OK;
  for (int i = 0; i < parts->n; i++) {
    cluster_part *p = &parts->of[i];
    p->first = (int32_t)clusters;
    p->shares = (int32_t)PU_MAX(d->sms / CLUSTER * ceil_div(p->cols, UNIT) / units, (int64_t)1);
    clusters += p->shares * ceil_div(p->rows, TILE);
  }
  parts->x_rests = x == d->waited_for;
  /* Shared memory as the products' blocks have it, beside which its blocks are to stand. */
  PU_CUDA_TRY(cudaFuncSetAttribute(few_kernel<RT>, cudaFuncAttributePreferredSharedMemoryCarveout,
                                   cudaSharedmemCarveoutMaxShared),
              "shared memory for adapters", e);
  pu_cuda_start(d, true, few_kernel<RT>, (unsigned)clusters * CLUSTER, THREADS, 0, *parts);
  return pu_cuda_launched("an adapter's products", e);
}

template <int RT, int G> static pu_err launch_many(pu_cuda *d, cluster_parts *parts, pu_error *e) {
  const void *kernel = (const void *)down_kernel<RT, G>;
  const size_t bytes = sizeof(room<RT, G>);
  int64_t clusters = 0, blocks = 0;
  for (int i = 0; i < parts->n; i++) {
    parts->of[i].first = (int32_t)clusters;
    clusters += ceil_div(parts->of[i].rows, G * TILE);
  }
  PU_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes),
              "shared memory for adapters", e);
  pu_cuda_start(d, true, down_kernel<RT, G>, (unsigned)clusters * CLUSTER, THREADS, bytes, *parts);
  for (int i = 0; i < parts->n; i++) {
    parts->of[i].first = (int32_t)blocks;
    blocks += ceil_div(parts->of[i].rows, UP_ROWS) * ceil_div(parts->of[i].cols, WARPS * UNIT);
  }
  if (blocks) pu_cuda_start(d, true, up_kernel<RT>, (unsigned)blocks, THREADS, 0, *parts);
  return pu_cuda_launched("an adapter's products", e);
}

static pu_err run(pu_cuda *d, cluster_parts *parts, bool few, const void *x, pu_error *e) {
  int32_t rank = 0;
  for (int i = 0; i < parts->n; i++) rank = PU_MAX(rank, parts->of[i].rank);
  if (rank <= RANK) return few ? launch_few<1>(d, parts, x, e) : launch_many<1, 4>(d, parts, e);
  if (rank <= 2 * RANK) return few ? launch_few<2>(d, parts, x, e) : launch_many<2, 4>(d, parts, e);
  return few ? launch_few<4>(d, parts, x, e) : launch_many<4, 2>(d, parts, e);
}

pu_err pu_cuda_lora_in_clusters(pu_cuda *d, const pu_lora_args *l, pu_error *e) {
  cluster_parts parts = {};
  int64_t tiles = 0, values = 0;
  void *work = NULL;
  for (int i = 0; i < l->n; i++) {
    if (!pu_cuda_lora_clusters(d, l, &l->parts[i])) continue;
    tiles += ceil_div(l->parts[i].rows, TILE);
    values += l->parts[i].rows * u_step(&l->parts[i]);
  }
  const bool few = tiles <= 2 * (d->sms / CLUSTER);
  if (!few) PU_TRY(pu_cuda_work(d, (size_t)values * sizeof(bf16), &work, e));
  bf16 *u = (bf16 *)work;
  parts.inner = (int)l->x->shape[1];
  for (int i = 0; i < l->n; i++) {
    if (!pu_cuda_lora_clusters(d, l, &l->parts[i])) continue;
    if (parts.n == PARTS) {
      PU_TRY(run(d, &parts, few, l->x->data, e));
      parts.n = 0;
    }
    parts.of[parts.n++] = part_for(l, &l->parts[i], u);
    if (u) u += l->parts[i].rows * u_step(&l->parts[i]);
  }
  return parts.n ? run(d, &parts, few, l->x->data, e) : PU_OK;
}
