/* sum_squares and adamw: the step after backward.
 *
 * sum_squares: the chunks of all tensors, one after the other, are the blocks of one launch; each leaves its sum in
 * double, and one block adds those of a tensor in order and then the tensors. The host waits once, for that number.
 * adamw: 28 bytes a parameter and 2 for the bf16 copy, all of which is new to the caches. */
#include <stdlib.h>

#include "src/compute/cuda/rows.h"
#include "src/compute/cuda/use.h"

enum { THREADS = 256, STEP_LANE = 4, SUM_CHUNK = 1 << 14, SUM_THREADS = 1024 };

/* ---- sum_squares ---- */

typedef struct summand {
  const float *v;
  int64_t n, first; /* first: its first chunk among all */
} summand;

/* In f32 over runs of 16 terms, in double over these. */
__global__ void __launch_bounds__(THREADS) sum_chunks(const summand *all, int n, double *partial) {
  __shared__ double room[THREADS / 32];
  int low = 0, high = n; /* the last one whose first chunk is not behind this block */
  while (high - low > 1) {
    int middle = (low + high) / 2;
    if (all[middle].first <= (int64_t)blockIdx.x)
      low = middle;
    else
      high = middle;
  }
  summand s = all[low];
  int64_t begin = ((int64_t)blockIdx.x - s.first) * SUM_CHUNK;
  int count = (int)min(s.n - begin, (int64_t)SUM_CHUNK), at = (int)threadIdx.x * 4;
  const float *v = s.v + begin;
  float part[4] = {0};
  if ((uintptr_t)v % 16 == 0) {
#pragma unroll 8
    for (; at + 4 <= count; at += THREADS * 4) {
      float4 f = *(const float4 *)(v + at);
      part[0] += f.x * f.x, part[1] += f.y * f.y, part[2] += f.z * f.z, part[3] += f.w * f.w;
    }
  }
  for (; at < count; at += THREADS * 4)
    for (int i = 0; i < 4 && at + i < count; i++) part[i] += v[at + i] * v[at + i];
  double sum = (double)part[0] + (double)part[1] + (double)part[2] + (double)part[3];
  for (int step = 16; step; step >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x) return;
  for (int i = 1; i < THREADS / 32; i++) sum += room[i];
  partial[blockIdx.x] = sum;
}

/* One block: thread i has every 1,024th chunk from the i-th; then a tree. */
__global__ void __launch_bounds__(SUM_THREADS) add_chunks(const double *partial, int64_t n, double *out) {
  __shared__ double room[SUM_THREADS];
  double sum = 0;
#pragma unroll 8
  for (int64_t i = threadIdx.x; i < n; i += SUM_THREADS) sum += partial[i];
  room[threadIdx.x] = sum;
  for (int half = SUM_THREADS / 2; half; half /= 2) {
    __syncthreads();
    if ((int)threadIdx.x < half) room[threadIdx.x] += room[threadIdx.x + half];
  }
  if (threadIdx.x == 0) *out = room[0];
}

/* What the device has to know of the tensors, and how many chunks they are; the empty ones are left out. */
static pu_err list_summands(const pu_sum_squares_args *a, summand *list, int *n, int64_t *chunks, pu_error *e) {
  *n = 0;
  *chunks = 0;
  for (int i = 0; i < a->n; i++) {
    const pu_tensor *t = a->t[i];
    int64_t count = pu_tensor_count(t);
    if (t->dtype != PU_F32) return pu_fail(e, PU_ERR_UNSUPPORTED, "sum_squares: f32 only");
    if (count == 0) continue;
    list[(*n)++] = {(const float *)t->data, count, *chunks};
    *chunks += ceil_div(count, SUM_CHUNK);
  }
  return PU_OK;
}

static pu_err sum_listed(pu_cuda *d, const summand *list, int n, int64_t chunks, double *out, pu_error *e) {
  void *all, *work;
  PU_TRY(pu_cuda_mirrored(d, list, (size_t)n * sizeof *list, &all, e));
  PU_TRY(pu_cuda_work(d, (size_t)(chunks + 1) * sizeof(double), &work, e));
  double *sum = (double *)work, *partial = sum + 1;
  sum_chunks<<<(unsigned)chunks, THREADS, 0, d->stream>>>((const summand *)all, n, partial);
  add_chunks<<<1, SUM_THREADS, 0, d->stream>>>(partial, chunks, sum);
  PU_TRY(pu_cuda_launched("sum_squares", e));
  return d->base.download(&d->base, out, sum, sizeof *out, e);
}

static pu_err sum_squares(pu_backend *be, void *args, pu_error *e) {
  const pu_sum_squares_args *a = (const pu_sum_squares_args *)args;
  int64_t chunks;
  int n;
  summand *list = (summand *)malloc((size_t)a->n * sizeof *list + 1);
  if (!list) return pu_fail(e, PU_ERR_NOMEM, "cuda: no memory for a list of %d tensors", a->n);
  pu_err err = list_summands(a, list, &n, &chunks, e);
  *a->out = 0;
  if (!err && n) err = sum_listed((pu_cuda *)be, list, n, chunks, a->out, e);
  free(list);
  return err;
}

/* ---- adamw ---- */

typedef struct step_of {
  float *p, *m, *v;
  const float *g;
  bf16 *copy;
  int64_t n;
  float keep, rate, scale_v, beta1, beta2, eps, scale;
} step_of;

/* As the reference has it, operation by operation. */
__device__ static inline void update(const step_of &s, float *p, float g, float *m, float *v) {
  float gi = g * s.scale;
  *m = s.beta1 * *m + (1.0f - s.beta1) * gi;
  *v = s.beta2 * *v + (1.0f - s.beta2) * gi * gi;
  *p = *p * s.keep - s.rate * *m / (sqrtf(*v * s.scale_v) + s.eps);
}

template <bool FAST> __global__ void __launch_bounds__(THREADS) adamw_values(step_of s) {
  int64_t begin = (int64_t)blockIdx.x * THREADS * STEP_LANE;
  int at = (int)threadIdx.x * STEP_LANE, count = (int)min(s.n - begin, (int64_t)(THREADS * STEP_LANE));
  if (at >= count) return;
  float p[STEP_LANE], g[STEP_LANE], m[STEP_LANE], v[STEP_LANE];
  if (FAST && at + STEP_LANE <= count) {
    read_row<true>(s.g + begin, at, count, g);
    read_row<true>(s.m + begin, at, count, m);
    read_row<true>(s.v + begin, at, count, v);
    read_row<true>(s.p + begin, at, count, p);
#pragma unroll
    for (int i = 0; i < STEP_LANE; i++) update(s, &p[i], g[i], &m[i], &v[i]);
    write_row<true>(s.m + begin, at, count, m);
    write_row<true>(s.v + begin, at, count, v);
    write_row<true>(s.p + begin, at, count, p);
    if (s.copy) write_row<true>(s.copy + begin, at, count, p);
    return;
  }
  for (int64_t i = begin + at; i < begin + min(at + STEP_LANE, count); i++) {
    update(s, &s.p[i], s.g[i], &s.m[i], &s.v[i]);
    if (s.copy) s.copy[i] = from_f32<bf16>(s.p[i]);
  }
}

static bool whole(const void *p) {
  return (uintptr_t)p % 16 == 0;
}

static pu_err adamw(pu_backend *be, void *args, pu_error *e) {
  const pu_adamw_args *a = (const pu_adamw_args *)args;
  pu_cuda *d = (pu_cuda *)be;
  step_of s = {.p = (float *)a->p->data,
               .m = (float *)a->m->data,
               .v = (float *)a->v->data,
               .g = (const float *)a->g->data,
               .copy = a->copy ? (bf16 *)a->copy->data : NULL,
               .n = pu_tensor_count(a->p),
               .beta1 = a->beta1,
               .beta2 = a->beta2,
               .eps = a->eps,
               .scale = a->grad_scale};
  s.keep = (float)(1 - (double)a->lr * (double)a->weight_decay);
  s.rate = (float)((double)a->lr / (1 - pow((double)a->beta1, (double)a->step)));
  s.scale_v = (float)(1 / (1 - pow((double)a->beta2, (double)a->step)));
  unsigned blocks = (unsigned)ceil_div(s.n, THREADS * STEP_LANE);
  if (s.n == 0) return PU_OK;
  if (whole(s.p) && whole(s.m) && whole(s.v) && whole(s.g) && whole(s.copy))
    adamw_values<true><<<blocks, THREADS, 0, d->stream>>>(s);
  else
    adamw_values<false><<<blocks, THREADS, 0, d->stream>>>(s);
  return pu_cuda_launched("adamw", e);
}

void pu_cuda_use_adamw(pu_cuda *d) {
  d->base.forward[PU_OP_sum_squares] = sum_squares;
  d->base.forward[PU_OP_adamw] = adamw;
}
