/* sum_squares and adamw: the step after backward.
 *
 * sum_squares: the chunks of all tensors, one after the other, are the blocks of one launch; each leaves its sum in
 * double, and one block adds those of a tensor in order and then the tensors. The host waits once, for that number.
 * adamw: 28 bytes a parameter (f32, or f32 in two halves), 20 with moments in bf16, 16 with p in bf16 too, 2 less with
 * gradients in bf16, all of which is new to the caches. */
#include <stdlib.h>
#include <type_traits>

#include "src/compute/cuda/rows.h"
#include "src/compute/cuda/use.h"

enum { THREADS = 256, STEP_LANE = 4, SUM_CHUNK = 1 << 14, SUM_THREADS = 1024 };

/* ---- sum_squares ---- */

typedef struct summand {
  const void *v;
  int64_t n, first; /* first: its first chunk among all */
  bool f32;         /* else bf16 */
} summand;

/* The sum of the squares of a thread's values of a chunk: of every THREADS-th four of f32, eight of bf16. In f32 over
 * runs of at most 16 terms, in double over these. */
template <typename T> __device__ static inline double sum_values(const T *v, int count) {
  constexpr int N = pu_lane<T>::n;
  int at = (int)threadIdx.x * N;
  float part[N] = {0}, f[N];
  if ((uintptr_t)v % 16 == 0) {
#pragma unroll 8
    for (; at + N <= count; at += THREADS * N) {
      read_fast(v + at, f);
#pragma unroll
      for (int i = 0; i < N; i++) part[i] += f[i] * f[i];
    }
  }
  for (; at < count; at += THREADS * N) {
    read_row<false>(v, at, count, f);
#pragma unroll
    for (int i = 0; i < N; i++) part[i] += f[i] * f[i];
  }
  double sum = 0;
#pragma unroll
  for (int i = 0; i < N; i++) sum += (double)part[i];
  return sum;
}

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
  int count = (int)min(s.n - begin, (int64_t)SUM_CHUNK);
  double sum = s.f32 ? sum_values((const float *)s.v + begin, count) : sum_values((const bf16 *)s.v + begin, count);
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
static void list_summands(const pu_sum_squares_args *a, summand *list, int *n, int64_t *chunks) {
  *n = 0;
  *chunks = 0;
  for (int i = 0; i < a->n; i++) {
    const pu_tensor *t = a->t[i];
    int64_t count = pu_tensor_count(t);
    if (count == 0) continue;
    list[(*n)++] = {t->data, count, *chunks, t->dtype == PU_F32};
    *chunks += ceil_div(count, SUM_CHUNK);
  }
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
  list_summands(a, list, &n, &chunks);
  *a->out = 0;
  pu_err err = PU_OK;
  if (n) err = sum_listed((pu_cuda *)be, list, n, chunks, a->out, e);
  free(list);
  return err;
}

/* ---- adamw ---- */

/* How p lies in memory. */
enum form { WHOLE /* f32 */, HALVES /* f32, as the nearest bf16 and the lower half */, ROUGH /* bf16 */ };

template <typename M, typename G> struct step_of {
  void *p;
  uint16_t *low;
  M *m, *v;
  const G *g;
  int64_t n;
  float keep, rate, scale_v, beta1, beta2, eps, scale;
  uint32_t begin, more; /* of the random bits: see pu_noise in src/compute/cpu/rows.h */
};

__device__ static inline uint32_t mix(uint32_t x) {
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return x ^ x >> 16;
}

/* The lower half becomes zero, carrying up as often as it is large. */
__device__ static inline float dither(float f, uint32_t bits) {
  return isnan(f) ? f : __uint_as_float((__float_as_uint(f) + (bits & 0xffffu)) & 0xffff0000u);
}

__device__ static inline float join(uint32_t high, uint32_t low) {
  return __uint_as_float((high << 16) + (uint32_t)(int32_t)(int16_t)low);
}

__device__ static inline uint32_t split(float f, uint32_t *low) {
  uint32_t u = __float_as_uint(f);
  *low = isnan(f) ? 0 : u & 0xffffu;
  return (isnan(f) ? u | 0x400000u : u + 0x8000u) >> 16;
}

/* As the reference has it, operation by operation. i: of the tensor. */
template <form P, typename M, typename G>
__device__ static inline void update(const step_of<M, G> &s, int64_t i, float *p, float g, float *m, float *v) {
  float gi = g * s.scale;
  *m = s.beta1 * *m + (1.0f - s.beta1) * gi;
  *v = s.beta2 * *v + (1.0f - s.beta2) * gi * gi;
  *p = *p * s.keep - s.rate * *m / (sqrtf(*v * s.scale_v) + s.eps);
  uint32_t bits = mix(s.begin + (uint32_t)i + (uint32_t)(i >> 32) * 0x9e3779b9u);
  if constexpr (std::is_same<M, bf16>::value) {
    *m = dither(*m, bits);
    *v = dither(*v, bits >> 16);
  }
  if constexpr (P == ROUGH) *p = dither(*p, mix(bits + s.more));
}

/* Four values in halves, or those of them that there are. */
template <bool FAST>
__device__ static inline void read_halves(const uint16_t *high, const uint16_t *low, int count, float (&p)[STEP_LANE]) {
  if constexpr (FAST) {
    uint2 h = *(const uint2 *)high, l = *(const uint2 *)low;
    p[0] = join(h.x & 0xffffu, l.x), p[1] = join(h.x >> 16, l.x >> 16);
    p[2] = join(h.y & 0xffffu, l.y), p[3] = join(h.y >> 16, l.y >> 16);
  } else {
#pragma unroll
    for (int i = 0; i < STEP_LANE; i++) p[i] = i < count ? join(high[i], low[i]) : 0.0f;
  }
}

template <bool FAST>
__device__ static inline void write_halves(uint16_t *high, uint16_t *low, int count, const float (&p)[STEP_LANE]) {
  uint32_t h[STEP_LANE], l[STEP_LANE];
#pragma unroll
  for (int i = 0; i < STEP_LANE; i++) h[i] = split(p[i], &l[i]);
  if constexpr (FAST) {
    *(uint2 *)high = make_uint2(h[0] | h[1] << 16, h[2] | h[3] << 16);
    *(uint2 *)low = make_uint2(l[0] | l[1] << 16, l[2] | l[3] << 16);
  } else {
#pragma unroll
    for (int i = 0; i < STEP_LANE; i++)
      if (i < count) high[i] = (uint16_t)h[i], low[i] = (uint16_t)l[i];
  }
}

template <form P, bool FAST, typename M, typename G>
__device__ static inline void read_p(const step_of<M, G> &s, int64_t at, int count, float (&p)[STEP_LANE]) {
  if constexpr (P == WHOLE)
    read_row<FAST>((const float *)s.p + at, 0, count, p);
  else if constexpr (P == ROUGH)
    read_row<FAST>((const bf16 *)s.p + at, 0, count, p);
  else
    read_halves<FAST>((const uint16_t *)s.p + at, s.low + at, count, p);
}

template <form P, bool FAST, typename M, typename G>
__device__ static inline void write_p(const step_of<M, G> &s, int64_t at, int count, const float (&p)[STEP_LANE]) {
  if constexpr (P == WHOLE)
    write_row<FAST>((float *)s.p + at, 0, count, p);
  else if constexpr (P == ROUGH)
    write_row<FAST>((bf16 *)s.p + at, 0, count, p);
  else
    write_halves<FAST>((uint16_t *)s.p + at, s.low + at, count, p);
}

template <form P, bool FAST, typename M, typename G>
__device__ static inline void update_four(const step_of<M, G> &s, int64_t at) {
  int count = (int)min(s.n - at, (int64_t)STEP_LANE);
  float p[STEP_LANE], g[STEP_LANE], m[STEP_LANE], v[STEP_LANE];
  read_row<FAST>(s.g + at, 0, count, g);
  read_row<FAST>(s.m + at, 0, count, m);
  read_row<FAST>(s.v + at, 0, count, v);
  read_p<P, FAST>(s, at, count, p);
#pragma unroll
  for (int i = 0; i < STEP_LANE; i++) update<P>(s, at + i, &p[i], g[i], &m[i], &v[i]);
  write_row<FAST>(s.m + at, 0, count, m);
  write_row<FAST>(s.v + at, 0, count, v);
  write_p<P, FAST>(s, at, count, p);
}

template <form P, bool FAST, typename M, typename G>
__global__ void __launch_bounds__(THREADS) adamw_values(step_of<M, G> s) {
  int64_t at = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * STEP_LANE;
  if (at >= s.n) return;
  if constexpr (FAST) {
    if (at + STEP_LANE <= s.n) {
      update_four<P, true>(s, at);
      return;
    }
  }
  update_four<P, false>(s, at);
}

static bool whole(const void *p) {
  return (uintptr_t)p % 16 == 0;
}

template <form P, typename M, typename G> static void adamw_launch(pu_cuda *d, const step_of<M, G> &s) {
  unsigned blocks = (unsigned)ceil_div(s.n, THREADS * STEP_LANE);
  if (whole(s.p) && whole(s.low) && whole(s.m) && whole(s.v) && whole(s.g))
    adamw_values<P, true><<<blocks, THREADS, 0, d->stream>>>(s);
  else
    adamw_values<P, false><<<blocks, THREADS, 0, d->stream>>>(s);
}

template <typename M, typename G> static void adamw_of(pu_cuda *d, const pu_adamw_args *a) {
  uint64_t key = pu_random_at(a->seed, (uint64_t)a->step, 0);
  step_of<M, G> s = {.p = a->p->data,
                     .low = a->low ? (uint16_t *)a->low->data : NULL,
                     .m = (M *)a->m->data,
                     .v = (M *)a->v->data,
                     .g = (const G *)a->g->data,
                     .n = pu_tensor_count(a->p),
                     .beta1 = a->beta1,
                     .beta2 = a->beta2,
                     .eps = a->eps,
                     .scale = a->grad_scale};
  s.keep = (float)(1 - (double)a->lr * (double)a->weight_decay);
  s.rate = (float)((double)a->lr / (1 - pow((double)a->beta1, (double)a->step)));
  s.scale_v = (float)(1 / (1 - pow((double)a->beta2, (double)a->step)));
  s.begin = (uint32_t)key;
  s.more = (uint32_t)(key >> 32);
  if (a->low)
    adamw_launch<HALVES>(d, s);
  else if (a->p->dtype == PU_BF16)
    adamw_launch<ROUGH>(d, s);
  else
    adamw_launch<WHOLE>(d, s);
}

static pu_err adamw(pu_backend *be, void *args, pu_error *e) {
  const pu_adamw_args *a = (const pu_adamw_args *)args;
  if (pu_tensor_count(a->p) == 0) return PU_OK;
  pu_with_type(a->m->dtype, [&](auto state) {
    pu_with_type(a->g->dtype, [&](auto grad) { adamw_of<decltype(state), decltype(grad)>((pu_cuda *)be, a); });
  });
  return pu_cuda_launched("adamw", e);
}

void pu_cuda_use_adamw(pu_cuda *d) {
  d->base.forward[PU_OP_sum_squares] = sum_squares;
  d->base.forward[PU_OP_adamw] = adamw;
}
