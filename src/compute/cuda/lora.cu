/* lora: y += scale (x a^T) b^T, part by part. With u = x a^T: db = scale dy^T u; du = scale dy b; da = du^T x;
 * dx += du a.
 *
 * Serving has many parts of few rows, which go together: in clusters of blocks where that can be (lora_cluster.cu),
 * else by the kernels here. Training has few parts of many rows: they go through cuBLASLt. */
#include "src/compute/cuda/lora.h"
#include "src/compute/cuda/use.h"

static char *at(const pu_tensor *t, int64_t row, int64_t col) {
  return (char *)t->data + (size_t)(row * t->stride[0] + col) * pu_dtype_size(t->dtype);
}

/* u's rows begin on 16 bytes. */
static int64_t step_of(const pu_lora_part *p) {
  return ceil_div(p->a->shape[0], 8) * 8;
}

static size_t u_bytes(const pu_lora_part *p, pu_dtype type) {
  return ((size_t)(p->rows * step_of(p)) * pu_dtype_size(type) + 255) / 256 * 256;
}

static bool learns(const pu_lora_args *l) {
  bool any = l->x->grad || l->y->grad;
  for (int i = 0; i < l->n; i++) any = any || l->parts[i].a->grad || l->parts[i].b->grad;
  return any;
}

/* ---- forward, all parts at once ----
 *
 * A sum of u is shared by all threads of a block, one of y is a thread's; neither's order knows of other rows, nor
 * which of the two ways is taken: parts of few rows in one launch, whose blocks each make u anew, others in two. */

enum {
  THREADS = 512,
  ROWS = 2, /* a block makes so much of u at a time */
  COLS = 16,
  AT_ONCE = 8,
  FEW_ROWS = 4, /* of a part whose blocks make u anew */
  FEW_RANK = 32,
  UP_ROWS = 8,
  UP_RANK = 64,
  PARTS = 24 /* travel as an argument of the kernel */
};

typedef struct lora_part {
  const void *x, *a, *b;
  void *u, *y;
  int64_t x_step, a_step, b_step, u_step, y_step;
  int32_t rows, rank, cols;
  int32_t first; /* blocks of the parts before it */
  float scale;
} lora_part;

typedef struct lora_parts {
  lora_part of[PARTS];
  int n, inner;
  int each; /* columns of a block */
} lora_parts;

/* Eight values, zeros behind the end; WHOLE: on 16 bytes, and all there. */
template <typename T, bool WHOLE> __device__ static inline void load_values(const T *from, int left, float *v) {
  if constexpr (WHOLE) {
#pragma unroll
    for (int i = 0; i < AT_ONCE; i += pu_pack<T>::n) {
      pu_pack<T> p = *(const pu_pack<T> *)(from + i);
#pragma unroll
      for (int j = 0; j < pu_pack<T>::n; j++) v[i + j] = to_f32(p.v[j]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) v[i] = i < left ? to_f32(from[i]) : 0.0f;
  }
}

/* A thread's share of the sums: every THREADS-th eight values. Behind the last row and column it is theirs again. */
template <typename T, bool WHOLE>
__device__ static inline void down_sums(const lora_part &p, int inner, int row, int col, float (*sum)[COLS]) {
  const T *x = (const T *)p.x, *a = (const T *)p.a;
  for (int k = (int)threadIdx.x * AT_ONCE; k < inner; k += THREADS * AT_ONCE) {
    float w[ROWS][AT_ONCE];
#pragma unroll
    for (int i = 0; i < ROWS; i++) load_values<T, WHOLE>(x + min(row + i, p.rows - 1) * p.x_step + k, inner - k, w[i]);
#pragma unroll
    for (int j = 0; j < COLS; j++) {
      float v[AT_ONCE];
      load_values<T, WHOLE>(a + min(col + j, p.rank - 1) * p.a_step + k, inner - k, v);
#pragma unroll
      for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int m = 0; m < AT_ONCE; m++) sum[i][j] = fmaf(w[i][m], v[m], sum[i][j]);
    }
  }
}

/* ROWS by COLS of u. Thread i < ROWS COLS gets one of them, of row i / COLS, rounded to T. */
template <typename T, bool WHOLE> __device__ static float down_tile(const lora_part &p, int inner, int row, int col) {
  __shared__ float room[THREADS / 32][ROWS * COLS];
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float sum[ROWS][COLS] = {}, all = 0;
  down_sums<T, WHOLE>(p, inner, row, col, sum);
  __syncthreads(); /* room may still be read from before */
#pragma unroll
  for (int s = 0; s < ROWS * COLS; s++) {
    float of_warp = warp_sum(sum[s / COLS][s % COLS]);
    if (lane == 0) room[warp][s] = of_warp;
  }
  __syncthreads();
  if (threadIdx.x < ROWS * COLS)
    for (int w = 0; w < THREADS / 32; w++) all += room[w][threadIdx.x];
  return to_f32(from_f32<T>(all));
}

/* acc += columns [from, to) of R rows of u, which lie as [to - from][R], times those of b. */
template <typename T, bool WHOLE, int R>
__device__ static inline void up_sums(const lora_part &p, int col, int from, int to, const float *u, float *acc) {
  const T *b = (const T *)p.b + col * p.b_step;
  for (int j = from; j < to; j += AT_ONCE) {
    float v[AT_ONCE];
    load_values<T, WHOLE>(b + j, p.rank - j, v);
#pragma unroll
    for (int m = 0; m < AT_ONCE; m++)
#pragma unroll
      for (int i = 0; i < R; i++) acc[i] = fmaf(u[(j - from + m) * R + i], v[m], acc[i]);
  }
}

template <typename T, int R>
__device__ static inline void up_store(const lora_part &p, int row, int col, const float *acc) {
#pragma unroll
  for (int i = 0; i < R; i++)
    if (row + i < p.rows) {
      T *y = (T *)p.y + (row + i) * p.y_step + col;
      *y = from_f32<T>(fmaf(p.scale, acc[i], to_f32(*y)));
    }
}

/* The part of a block, and the block's number in it. */
__device__ static inline const lora_part &part_of(const lora_parts &parts, int *block) {
  int i = 0;
  while (i + 1 < parts.n && parts.of[i + 1].first <= (int)blockIdx.x) i++;
  *block = (int)blockIdx.x - parts.of[i].first;
  return parts.of[i];
}

template <typename T, bool WHOLE>
__global__ void __launch_bounds__(THREADS) few_kernel(const __grid_constant__ lora_parts parts) {
  __shared__ __align__(16) float u[FEW_RANK][FEW_ROWS];
  int block;
  const lora_part &p = part_of(parts, &block);
  int begin = block * parts.each, end = min(begin + parts.each, p.cols);
  for (int c = begin + (int)threadIdx.x; c < end; c += THREADS) /* on its way while u is made */
    ahead_in_l2((const T *)p.b + c * p.b_step);
  for (int i = threadIdx.x; i < FEW_RANK * FEW_ROWS; i += THREADS) u[i / FEW_ROWS][i % FEW_ROWS] = 0;
  for (int row = 0; row < p.rows; row += ROWS)
    for (int col = 0; col < p.rank; col += COLS) {
      float mine = down_tile<T, WHOLE>(p, parts.inner, row, col);
      int c = col + (int)threadIdx.x % COLS;
      if (threadIdx.x < ROWS * COLS && c < p.rank) u[c][row + threadIdx.x / COLS] = mine;
    }
  __syncthreads();
  for (int c = begin + (int)threadIdx.x; c < end; c += THREADS) {
    float acc[FEW_ROWS] = {};
    up_sums<T, WHOLE, FEW_ROWS>(p, c, 0, p.rank, u[0], acc);
    up_store<T, FEW_ROWS>(p, 0, c, acc);
  }
}

template <typename T, bool WHOLE>
__global__ void __launch_bounds__(THREADS) down_kernel(const __grid_constant__ lora_parts parts) {
  int block;
  const lora_part &p = part_of(parts, &block);
  int across = (p.rank + COLS - 1) / COLS, row = block / across * ROWS, col = block % across * COLS;
  float mine = down_tile<T, WHOLE>(p, parts.inner, row, col);
  int r = row + (int)threadIdx.x / COLS, c = col + (int)threadIdx.x % COLS;
  if (threadIdx.x < ROWS * COLS && r < p.rows && c < p.rank) ((T *)p.u)[r * p.u_step + c] = from_f32<T>(mine);
}

template <typename T, bool WHOLE>
__global__ void __launch_bounds__(THREADS) up_kernel(const __grid_constant__ lora_parts parts) {
  __shared__ __align__(16) float u[UP_RANK][UP_ROWS];
  int block;
  const lora_part &p = part_of(parts, &block);
  int across = (p.cols + THREADS - 1) / THREADS, row = block / across * UP_ROWS;
  int col = block % across * THREADS + (int)threadIdx.x;
  float acc[UP_ROWS] = {};
  for (int from = 0; from < p.rank; from += UP_RANK) {
    __syncthreads(); /* u may still be read from before */
    for (int i = threadIdx.x; i < UP_RANK * UP_ROWS; i += THREADS) {
      int j = from + i % UP_RANK, r = row + i / UP_RANK;
      u[i % UP_RANK][i / UP_RANK] = j < p.rank && r < p.rows ? to_f32(((const T *)p.u)[r * p.u_step + j]) : 0.0f;
    }
    __syncthreads();
    if (col < p.cols) up_sums<T, WHOLE, UP_ROWS>(p, col, from, min(from + UP_RANK, p.rank), u[0], acc);
  }
  if (col < p.cols) up_store<T, UP_ROWS>(p, row, col, acc);
}

/* ---- launches ---- */

typedef enum lora_kernel { LORA_FEW, LORA_DOWN, LORA_UP } lora_kernel;

static lora_part part_for(const pu_lora_args *l, const pu_lora_part *p, void *u) {
  lora_part k = {at(l->x, p->row, 0), p->a->data, p->b->data, u, at(l->y, p->row, p->from)};
  k.x_step = l->x->stride[0], k.a_step = p->a->stride[0], k.b_step = p->b->stride[0];
  k.u_step = step_of(p), k.y_step = l->y->stride[0];
  k.rows = (int32_t)p->rows, k.rank = (int32_t)p->a->shape[0], k.cols = (int32_t)p->b->shape[0];
  k.scale = p->scale;
  return k;
}

static bool lies_well(const lora_parts *parts, size_t size) {
  bool well = parts->inner % AT_ONCE == 0;
  for (int i = 0; i < parts->n; i++) {
    const lora_part *p = &parts->of[i];
    size_t steps = (size_t)(p->x_step | p->a_step | p->b_step) * size;
    well = well && (((uintptr_t)p->x | (uintptr_t)p->a | (uintptr_t)p->b | steps) % 16 == 0 && p->rank % AT_ONCE == 0);
  }
  return well;
}

/* Says which blocks are a part's; how many there are. */
static int64_t count_blocks(pu_cuda *d, lora_kernel which, lora_parts *parts) {
  int64_t blocks = 0, cols = 0;
  for (int i = 0; i < parts->n; i++) cols += parts->of[i].cols;
  parts->each = (int)PU_MAX(cols / d->sms / THREADS * THREADS, (int64_t)THREADS);
  for (int i = 0; i < parts->n; i++) {
    lora_part *p = &parts->of[i];
    p->first = (int32_t)blocks;
    if (p->rows == 0) continue;
    blocks += which == LORA_FEW    ? ceil_div(p->cols, parts->each)
              : which == LORA_DOWN ? ceil_div(p->rows, ROWS) * ceil_div(p->rank, COLS)
                                   : ceil_div(p->rows, UP_ROWS) * ceil_div(p->cols, THREADS);
  }
  return blocks;
}

template <typename T, bool WHOLE>
static pu_err launch(pu_cuda *d, lora_kernel which, const lora_parts *parts, int64_t blocks, pu_error *e) {
  if (which == LORA_FEW) few_kernel<T, WHOLE><<<(unsigned)blocks, THREADS, 0, d->stream>>>(*parts);
  if (which == LORA_DOWN) down_kernel<T, WHOLE><<<(unsigned)blocks, THREADS, 0, d->stream>>>(*parts);
  if (which == LORA_UP) up_kernel<T, WHOLE><<<(unsigned)blocks, THREADS, 0, d->stream>>>(*parts);
  return pu_cuda_launched("an adapter's products", e);
}

static pu_err run_kernel(pu_cuda *d, lora_kernel which, lora_parts *parts, pu_dtype type, pu_error *e) {
  int64_t blocks = count_blocks(d, which, parts);
  bool whole = lies_well(parts, pu_dtype_size(type));
  if (blocks == 0) return PU_OK;
  if (type == PU_F32) return (whole ? launch<float, true> : launch<float, false>)(d, which, parts, blocks, e);
  return (whole ? launch<bf16, true> : launch<bf16, false>)(d, which, parts, blocks, e);
}

static pu_err run_parts(pu_cuda *d, lora_parts *parts, bool few, pu_dtype type, pu_error *e) {
  if (few) return run_kernel(d, LORA_FEW, parts, type, e);
  PU_TRY(run_kernel(d, LORA_DOWN, parts, type, e));
  return run_kernel(d, LORA_UP, parts, type, e);
}

static pu_err forward_all(pu_cuda *d, const pu_lora_args *l, pu_error *e) {
  lora_parts parts = {};
  size_t bytes = 0;
  bool few = true;
  void *work = NULL;
  PU_TRY(pu_cuda_lora_in_clusters(d, l, e));
  for (int i = 0; i < l->n; i++) {
    if (pu_cuda_lora_clusters(d, l, &l->parts[i])) continue;
    bytes += u_bytes(&l->parts[i], l->x->dtype);
    few = few && l->parts[i].rows <= FEW_ROWS && l->parts[i].a->shape[0] <= FEW_RANK;
  }
  if (!few) PU_TRY(pu_cuda_work(d, bytes, &work, e));
  char *u = (char *)work;
  parts.inner = (int)l->x->shape[1];
  for (int i = 0; i < l->n; i++) {
    if (pu_cuda_lora_clusters(d, l, &l->parts[i])) continue;
    if (parts.n == PARTS) {
      PU_TRY(run_parts(d, &parts, few, l->x->dtype, e));
      parts.n = 0;
    }
    parts.of[parts.n++] = part_for(l, &l->parts[i], u);
    u += u_bytes(&l->parts[i], l->x->dtype);
  }
  return parts.n ? run_parts(d, &parts, few, l->x->dtype, e) : PU_OK;
}

/* ---- part by part ---- */

/* What all the products here have in common. */
static pu_cuda_product product(const pu_lora_args *l, int64_t rows, int64_t cols, int64_t inner) {
  pu_cuda_product p = {};
  p.rows = rows, p.cols = cols, p.inner = inner;
  p.type = p.y_type = l->x->dtype;
  return p;
}

/* u = x a^T. */
static pu_err inner(pu_cuda *d, const pu_lora_args *l, const pu_lora_part *part, void *u, pu_error *e) {
  pu_cuda_product p = product(l, part->rows, part->a->shape[0], l->x->shape[1]);
  p.a = at(l->x, part->row, 0), p.a_step = l->x->stride[0];
  p.b = part->a->data, p.b_step = part->a->stride[0];
  p.y = u, p.y_step = step_of(part);
  return pu_cuda_multiply(d, &p, e);
}

static pu_err forward_part(pu_cuda *d, const pu_lora_args *l, const pu_lora_part *part, pu_error *e) {
  void *u;
  PU_TRY(pu_cuda_work(d, u_bytes(part, l->x->dtype), &u, e));
  PU_TRY(inner(d, l, part, u, e));
  pu_cuda_product p = product(l, part->rows, part->b->shape[0], part->a->shape[0]);
  p.a = u, p.a_step = step_of(part);
  p.b = part->b->data, p.b_step = part->b->stride[0];
  p.y = at(l->y, part->row, part->from), p.y_step = l->y->stride[0];
  p.scaled = true, p.alpha = part->scale, p.beta = 1;
  return pu_cuda_multiply(d, &p, e);
}

static pu_err lora(pu_backend *be, void *args, pu_error *e) {
  const pu_lora_args *l = (const pu_lora_args *)args;
  pu_cuda *d = (pu_cuda *)be;
  if (!learns(l)) return forward_all(d, l, e);
  for (int i = 0; i < l->n; i++) PU_TRY(forward_part(d, l, &l->parts[i], e));
  return PU_OK;
}

/* ---- backward ---- */

size_t pu_cuda_lora_work_bytes(const pu_work_shape *s) {
  return 2 * ((size_t)(s->tokens * (ceil_div(s->rank, 8) * 8)) * pu_dtype_size(s->dtype) + 256);
}

static pu_err b_back(pu_cuda *d, const pu_lora_args *l, const pu_lora_part *part, void *u, pu_error *e) {
  const pu_tensor *dy = l->y->grad, *db = part->b->grad;
  PU_TRY(inner(d, l, part, u, e));
  pu_cuda_product p = product(l, part->b->shape[0], part->a->shape[0], part->rows);
  p.a = at(dy, part->row, part->from), p.a_step = dy->stride[0], p.a_turned = true;
  p.b = u, p.b_step = step_of(part), p.b_turned = true;
  p.y = db->data, p.y_step = db->stride[0], p.y_type = db->dtype;
  p.scaled = true, p.alpha = part->scale, p.beta = pu_grad_beta(part->b);
  return pu_cuda_multiply(d, &p, e);
}

static pu_err a_back(pu_cuda *d, const pu_lora_args *l, const pu_lora_part *part, const void *du, pu_error *e) {
  const pu_tensor *da = part->a->grad;
  pu_cuda_product p = product(l, part->a->shape[0], l->x->shape[1], part->rows);
  p.a = du, p.a_step = step_of(part), p.a_turned = true;
  p.b = at(l->x, part->row, 0), p.b_step = l->x->stride[0], p.b_turned = true;
  p.y = da->data, p.y_step = da->stride[0], p.y_type = da->dtype;
  p.beta = pu_grad_beta(part->a);
  return pu_cuda_multiply(d, &p, e);
}

static pu_err x_back(pu_cuda *d, const pu_lora_args *l, const pu_lora_part *part, const void *du, pu_error *e) {
  const pu_tensor *dx = l->x->grad;
  pu_cuda_product p = product(l, part->rows, l->x->shape[1], part->a->shape[0]);
  p.a = du, p.a_step = step_of(part);
  p.b = part->a->data, p.b_step = part->a->stride[0], p.b_turned = true;
  p.y = at(dx, part->row, 0), p.y_step = dx->stride[0], p.y_type = dx->dtype;
  p.beta = 1;
  return pu_cuda_multiply(d, &p, e);
}

static pu_err part_back(pu_cuda *d, const pu_lora_args *l, const pu_lora_part *part, pu_error *e) {
  const pu_tensor *dy = l->y->grad;
  size_t one = u_bytes(part, l->x->dtype);
  void *work;
  PU_TRY(pu_cuda_work(d, 2 * one, &work, e));
  void *du = (char *)work + one;
  if (part->b->grad) PU_TRY(b_back(d, l, part, work, e));
  if (!part->a->grad && !l->x->grad) return PU_OK;
  pu_cuda_product p = product(l, part->rows, part->a->shape[0], part->b->shape[0]);
  p.a = at(dy, part->row, part->from), p.a_step = dy->stride[0];
  p.b = part->b->data, p.b_step = part->b->stride[0], p.b_turned = true;
  p.y = du, p.y_step = step_of(part);
  p.scaled = true, p.alpha = part->scale;
  PU_TRY(pu_cuda_multiply(d, &p, e));
  if (part->a->grad) PU_TRY(a_back(d, l, part, du, e));
  return l->x->grad ? x_back(d, l, part, du, e) : PU_OK;
}

/* Rows of x that belong to no part have a gradient too: 0, where nothing else has given one. */
static pu_err begin_grad(pu_cuda *d, pu_tensor *x, pu_error *e) {
  if (!x->grad || pu_grad_beta(x) != 0 || x->shape[0] == 0) return PU_OK;
  size_t size = pu_dtype_size(x->grad->dtype);
  PU_CUDA_TRY(cudaMemset2DAsync(x->grad->data, (size_t)x->grad->stride[0] * size, 0, (size_t)x->grad->shape[1] * size,
                                (size_t)x->grad->shape[0], d->stream),
              "clearing a gradient", e);
  return PU_OK;
}

static pu_err lora_back(pu_backend *be, void *args, pu_error *e) {
  const pu_lora_args *l = (const pu_lora_args *)args;
  PU_TRY(begin_grad((pu_cuda *)be, l->x, e));
  for (int i = 0; i < l->n; i++) PU_TRY(part_back((pu_cuda *)be, l, &l->parts[i], e));
  return PU_OK;
}

void pu_cuda_use_lora(pu_cuda *d) {
  d->base.forward[PU_OP_lora] = lora;
  d->base.backward[PU_OP_lora] = lora_back;
}
