/* sum_squares and adamw: the step after backward.
 *
 * sum_squares: the chunks of all tensors, one after the other, are the blocks of one launch; each leaves its sum in
 * double, and one block adds those of a tensor in order and then the tensors.
 * adamw: one block says what the gate says, and all others read that. The chunks of all parameters whose types are
 * alike are one launch. 28 bytes a value (f32, or f32 in two halves), 20 with moments in bf16, 16 with p in bf16 too, 2
 * less with gradients in bf16, all of which is new to the caches. */
#include <stdlib.h>
#include <type_traits>

#include "src/compute/cuda/rows.h"
#include "src/compute/cuda/use.h"

enum { THREADS = 256, SUM_CHUNK = 1 << 14, STEP_CHUNK = 1 << 13, SUM_THREADS = 1024 };

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
  summand s = all[last_begun(all, n, (int64_t)blockIdx.x)];
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
  PU_TRY(pu_cuda_work(d, (size_t)chunks * sizeof(double), &work, e));
  sum_chunks<<<(unsigned)chunks, THREADS, 0, d->stream>>>((const summand *)all, n, (double *)work);
  add_chunks<<<1, SUM_THREADS, 0, d->stream>>>((const double *)work, chunks, out);
  return pu_cuda_launched("sum_squares", e);
}

static pu_err sum_squares(pu_backend *be, void *args, pu_error *e) {
  const pu_sum_squares_args *a = (const pu_sum_squares_args *)args;
  int64_t chunks;
  int n;
  summand *list = (summand *)malloc((size_t)a->n * sizeof *list + 1);
  if (!list) return pu_fail(e, PU_ERR_NOMEM, "cuda: no memory for a list of %d tensors", a->n);
  list_summands(a, list, &n, &chunks);
  pu_err err = n ? sum_listed((pu_cuda *)be, list, n, chunks, a->out, e) : be->clear(be, a->out, sizeof *a->out, e);
  free(list);
  return err;
}

/* ---- adamw ---- */

/* How p lies in memory. */
enum form { WHOLE /* f32 */, HALVES /* f32, as the nearest bf16 and the lower half */, ROUGH /* bf16 */ };

/* One parameter. */
template <typename M, typename G> struct step_of {
  void *p;
  uint16_t *low;
  M *m, *v;
  const G *g;
  int64_t n, first; /* first: its first chunk among all */
  float keep;
  uint32_t begin, more; /* of the random bits: see pu_noise in src/compute/cpu/rows.h */
  bool whole;           /* all of it at 16-byte addresses */
};

/* What they share. */
typedef struct pace {
  float rate, scale_v, beta1, beta2, eps, scale;
} pace;

/* Is the step taken, and with gradients times what? */
typedef struct verdict {
  float scale;
  int taken;
} verdict;

/* One block: of the gate, with n losses. */
__global__ void __launch_bounds__(SUM_THREADS)
    judge(const double *squares, const float *losses, int64_t n, double clip, double most, verdict *out) {
  int odd = 0;
#pragma unroll 8
  for (int64_t i = threadIdx.x; i < n; i += SUM_THREADS) odd |= !isfinite(losses[i]);
  odd = __syncthreads_or(odd);
  if (threadIdx.x) return;
  verdict v = {1, 0};
  v.taken = !odd && pu_adamw_takes(sqrt(*squares), clip, most, &v.scale);
  *out = v;
}

/* Values of a thread: of f32 four, so that an access is 16 bytes; eight where all are of 16 bits. */
template <form P, typename M, typename G> constexpr int LANE = P != WHOLE && sizeof(M) == 2 && sizeof(G) == 2 ? 8 : 4;

__device__ static inline uint32_t mix(uint32_t x) {
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return x ^ x >> 16;
}

/* Its upper half is f rounded with 16 random bits: up where these and the lower half carry. */
__device__ static inline uint32_t dither(float f, uint32_t bits) {
  uint32_t u = __float_as_uint(f);
  return isnan(f) ? u | 0x400000u : u + (bits & 0xffffu);
}

__device__ static inline float join(uint32_t high, uint32_t low) {
  return __uint_as_float((high << 16) + (uint32_t)(int32_t)(int16_t)low);
}

/* The upper half is the nearest bf16, the lower one what is missing. */
__device__ static inline uint32_t split(float f, uint32_t *low) {
  uint32_t u = __float_as_uint(f);
  *low = isnan(f) ? 0 : u & 0xffffu;
  return isnan(f) ? u | 0x400000u : u + 0x8000u;
}

/* m / (sqrt(v) + eps). ROUGH: a few ulps of f32 off, which is little beside the rounding to bf16. */
template <form P> __device__ static inline float ratio(float m, float v, float eps) {
  if constexpr (P != ROUGH) return m / (sqrtf(v) + eps);
  float root, inverse;
  asm("max.NaN.f32 %0, %1, 0f00800000;" : "=f"(root) : "f"(v)); /* below, the root would be of zero */
  asm("sqrt.approx.ftz.f32 %0, %0;" : "+f"(root));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(root + eps));
  return m * inverse;
}

/* As the reference has it, operation by operation. */
template <form P>
__device__ static inline void update(const pace &c, float keep, float *p, float g, float *m, float *v) {
  float gi = g * c.scale;
  *m = c.beta1 * *m + (1.0f - c.beta1) * gi;
  *v = c.beta2 * *v + (1.0f - c.beta2) * gi * gi;
  *p = *p * keep - c.rate * ratio<P>(*m, *v * c.scale_v, c.eps);
}

/* N numbers of 16 bits, two a word, at once. */
template <int N> __device__ static inline void read_words(const void *from, uint32_t (&w)[N / 2]) {
  if constexpr (N == 8) {
    uint4 q = *(const uint4 *)from;
    w[0] = q.x, w[1] = q.y, w[2] = q.z, w[3] = q.w;
  } else {
    uint2 q = *(const uint2 *)from;
    w[0] = q.x, w[1] = q.y;
  }
}

template <bool FAST, int N>
__device__ static inline void read_halves(const uint16_t *high, const uint16_t *low, int count, float (&p)[N]) {
  if constexpr (FAST) {
    uint32_t h[N / 2], l[N / 2];
    read_words<N>(high, h);
    read_words<N>(low, l);
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      p[i] = join(h[i / 2] & 0xffffu, l[i / 2]);
      p[i + 1] = join(h[i / 2] >> 16, l[i / 2] >> 16);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; i++) p[i] = i < count ? join(high[i], low[i]) : 0.0f;
  }
}

/* The upper halves of N words, or of `count` of them. */
template <bool FAST, int N> __device__ static inline void write_upper(void *to, int count, const uint32_t (&u)[N]) {
  if constexpr (FAST) {
    uint32_t w[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; i++) w[i] = __byte_perm(u[2 * i], u[2 * i + 1], 0x7632);
    if constexpr (N == 8)
      *(uint4 *)to = make_uint4(w[0], w[1], w[2], w[3]);
    else
      *(uint2 *)to = make_uint2(w[0], w[1]);
  } else {
#pragma unroll
    for (int i = 0; i < N; i++)
      if (i < count) ((uint16_t *)to)[i] = (uint16_t)(u[i] >> 16);
  }
}

template <form P, bool FAST, int N, typename M, typename G>
__device__ static inline void read_p(const step_of<M, G> &s, int64_t at, int count, float (&p)[N]) {
  if constexpr (P == WHOLE)
    read_row<FAST>((const float *)s.p + at, 0, count, p);
  else if constexpr (P == ROUGH)
    read_row<FAST>((const bf16 *)s.p + at, 0, count, p);
  else
    read_halves<FAST>((const uint16_t *)s.p + at, s.low + at, count, p);
}

/* f32 as it is; bf16 dithered with the bits that `shift` leaves. */
template <bool FAST, typename T, int N>
__device__ static inline void write_rough(T *to, int count, const float (&f)[N], const uint32_t (&bits)[N], int shift) {
  if constexpr (sizeof(T) == 4) {
    write_row<FAST>(to, 0, count, f);
  } else {
    uint32_t u[N];
#pragma unroll
    for (int i = 0; i < N; i++) u[i] = dither(f[i], bits[i] >> shift);
    write_upper<FAST>(to, count, u);
  }
}

template <form P, bool FAST, int N, typename M, typename G>
__device__ static inline void write_p(const step_of<M, G> &s, int64_t at, int count, const float (&p)[N],
                                      const uint32_t (&bits)[N]) {
  uint32_t u[N], low[N];
  if constexpr (P == WHOLE) {
    write_row<FAST>((float *)s.p + at, 0, count, p);
  } else if constexpr (P == ROUGH) {
#pragma unroll
    for (int i = 0; i < N; i++) u[i] = bits[i] * 0x9e3779b9u + s.more; /* pu_noise_more */
    write_rough<FAST>((bf16 *)s.p + at, count, p, u, 16);
  } else {
#pragma unroll
    for (int i = 0; i < N; i++) u[i] = split(p[i], &low[i]), low[i] <<= 16;
    write_upper<FAST>((uint16_t *)s.p + at, count, u);
    write_upper<FAST>(s.low + at, count, low);
  }
}

template <form P, bool FAST, int N, typename M, typename G>
__device__ static inline void update_some(const step_of<M, G> &s, const pace &c, int64_t at) {
  int count = (int)min(s.n - at, (int64_t)N);
  float p[N], g[N], m[N], v[N];
  uint32_t bits[N], begin = s.begin + (uint32_t)at + (uint32_t)(at >> 32) * 0x9e3779b9u; /* pu_noise_at */
  read_row<FAST>(s.g + at, 0, count, g);
  read_row<FAST>(s.m + at, 0, count, m);
  read_row<FAST>(s.v + at, 0, count, v);
  read_p<P, FAST>(s, at, count, p);
#pragma unroll
  for (int i = 0; i < N; i++) {
    update<P>(c, s.keep, &p[i], g[i], &m[i], &v[i]);
    bits[i] = mix(begin + (uint32_t)i);
  }
  write_rough<FAST>(s.m + at, count, m, bits, 0);
  write_rough<FAST>(s.v + at, count, v, bits, 16);
  write_p<P, FAST>(s, at, count, p, bits);
}

template <form P, typename M, typename G>
__global__ void __launch_bounds__(THREADS) adamw_chunks(const step_of<M, G> *all, int n, pace c, const verdict *said) {
  constexpr int N = LANE<P, M, G>;
  const verdict v = said ? *said : verdict{1, 1};
  const step_of<M, G> s = all[last_begun(all, n, (int64_t)blockIdx.x)];
  if (!v.taken) return;
  c.scale = v.scale;
  const int64_t begin = ((int64_t)blockIdx.x - s.first) * STEP_CHUNK, end = min(s.n, begin + STEP_CHUNK);
  for (int64_t at = begin + (int64_t)threadIdx.x * N; at < end; at += THREADS * N) {
    if (s.whole && at + N <= s.n)
      update_some<P, true, N>(s, c, at);
    else
      update_some<P, false, N>(s, c, at);
  }
}

static bool whole(const void *p) {
  return (uintptr_t)p % 16 == 0;
}

static form form_of(const pu_adamw_param *w) {
  return w->low ? HALVES : w->p->dtype == PU_BF16 ? ROUGH : WHOLE;
}

template <typename M, typename G> static step_of<M, G> told(const pu_adamw_args *a, const pu_adamw_param *w) {
  uint64_t key = pu_random_at(w->seed, (uint64_t)a->step, 0);
  step_of<M, G> s = {.p = w->p->data,
                     .low = w->low ? (uint16_t *)w->low->data : NULL,
                     .m = (M *)w->m->data,
                     .v = (M *)w->v->data,
                     .g = (const G *)w->g->data,
                     .n = pu_tensor_count(w->p)};
  s.keep = (float)(1 - (double)a->lr * (double)w->weight_decay);
  s.begin = (uint32_t)key;
  s.more = (uint32_t)(key >> 32);
  s.whole = whole(s.p) && whole(s.low) && whole(s.m) && whole(s.v) && whole(s.g);
  return s;
}

/* All but the scale. */
static pace pace_of(const pu_adamw_args *a) {
  pace c = {.beta1 = a->beta1, .beta2 = a->beta2, .eps = a->eps};
  c.rate = (float)((double)a->lr / (1 - pow((double)a->beta1, (double)a->step)));
  c.scale_v = (float)(1 / (1 - pow((double)a->beta2, (double)a->step)));
  return c;
}

/* Those of one form and of these types. list: room for all. */
template <form P, typename M, typename G>
static pu_err step_alike(pu_cuda *d, const pu_adamw_args *a, const verdict *said, void *list, pu_error *e) {
  step_of<M, G> *alike = (step_of<M, G> *)list;
  int64_t chunks = 0;
  int n = 0;
  void *all;
  for (int i = 0; i < a->n; i++) {
    const pu_adamw_param *w = &a->of[i];
    if (form_of(w) != P || w->m->dtype != pu_type<M>::id || w->g->dtype != pu_type<G>::id) continue;
    if (pu_tensor_count(w->p) == 0) continue;
    step_of<M, G> s = told<M, G>(a, w);
    s.first = chunks;
    chunks += ceil_div(s.n, STEP_CHUNK);
    alike[n++] = s;
  }
  if (n == 0) return PU_OK;
  PU_TRY(pu_cuda_mirrored(d, alike, (size_t)n * sizeof *alike, &all, e));
  adamw_chunks<P, M, G><<<(unsigned)chunks, THREADS, 0, d->stream>>>((const step_of<M, G> *)all, n, pace_of(a), said);
  return pu_cuda_launched("adamw", e);
}

template <typename M, typename G>
static pu_err step_forms(pu_cuda *d, const pu_adamw_args *a, const verdict *said, void *list, pu_error *e) {
  PU_TRY((step_alike<WHOLE, M, G>(d, a, said, list, e)));
  PU_TRY((step_alike<HALVES, M, G>(d, a, said, list, e)));
  return step_alike<ROUGH, M, G>(d, a, said, list, e);
}

/* *out: where in work memory the verdict will be; NULL: there is no gate. */
static pu_err ask_gate(pu_cuda *d, const pu_adamw_gate *g, verdict **out, pu_error *e) {
  void *work;
  *out = NULL;
  if (!g->squares) return PU_OK;
  PU_TRY(pu_cuda_work(d, sizeof **out, &work, e));
  *out = (verdict *)work;
  const float *losses = g->finite ? (const float *)g->finite->data : NULL;
  const int64_t n = g->finite ? pu_tensor_count(g->finite) : 0;
  judge<<<1, SUM_THREADS, 0, d->stream>>>(g->squares, losses, n, g->clip, g->most, *out);
  return pu_cuda_launched("adamw", e);
}

static pu_err adamw(pu_backend *be, void *args, pu_error *e) {
  const pu_adamw_args *a = (const pu_adamw_args *)args;
  pu_cuda *d = (pu_cuda *)be;
  void *list = malloc((size_t)a->n * sizeof(step_of<float, float>) + 1);
  if (!list) return pu_fail(e, PU_ERR_NOMEM, "cuda: no memory for a list of %d tensors", a->n);
  verdict *said;
  pu_err err = ask_gate(d, &a->gate, &said, e);
  if (!err) err = step_forms<float, float>(d, a, said, list, e);
  if (!err) err = step_forms<float, bf16>(d, a, said, list, e);
  if (!err) err = step_forms<bf16, float>(d, a, said, list, e);
  if (!err) err = step_forms<bf16, bf16>(d, a, said, list, e);
  free(list);
  return err;
}

void pu_cuda_use_adamw(pu_cuda *d) {
  d->base.forward[PU_OP_sum_squares] = sum_squares;
  d->base.forward[PU_OP_adamw] = adamw;
}
