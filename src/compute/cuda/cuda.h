/* Inside the CUDA backend: its state, memory that operations share, and what every kernel file uses.
 *
 * One device, one stream: operations run in the order in which they are called, and none waits for the device except
 * download, sync and reach. Work memory can therefore be one buffer for all operations: the next one's kernels begin
 * after the last one's have read it.
 *
 * A file of operations NAME.cu defines `void pu_cuda_use_NAME(pu_cuda *d)`, which puts its functions into the table,
 * and is named in use.h. Kernels take the compute type as a template parameter T (float or bf16) and compute in f32. */
#ifndef PUYU_CUDA_H
#define PUYU_CUDA_H

extern "C" {
#include "puyu/compute.h"
}

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

typedef __nv_bfloat16 bf16;

enum { PU_CUDA_MIRRORS = 16, PU_CUDA_MARKS = 8 };

/* A copy, in device memory, of an array that callers keep in host memory (lengths, tables of blocks): layer after layer
 * hands in the same one. */
typedef struct pu_cuda_mirror {
  void *host; /* pinned: what the device has */
  void *device;
  size_t bytes, cap;
  uint64_t used;    /* when, for the one to replace */
  cudaEvent_t sent; /* the copy has arrived */
} pu_cuda_mirror;

/* What kernels find wrong with inputs that only the device sees. They report it and go on with harmless values; the
 * next call that waits for the device returns it as PU_ERR_SHAPE (pu_cuda_wait). */
typedef enum pu_cuda_fault { PU_CUDA_BAD_TOKEN, PU_CUDA_BAD_TARGET, PU_CUDA_FAULTS } pu_cuda_fault;
typedef struct pu_cuda_faults {
  unsigned long long *first; /* device, [PU_CUDA_FAULTS]: the first place above, the value there below; ~0: none */
  int *any;                  /* pinned host memory: something was reported */
} pu_cuda_faults;

typedef struct pu_cuda {
  pu_backend base;
  int device, sms, capability; /* 90: 9.0 */
  size_t most_pitch;           /* bytes that rows of a copy may lie apart */
  char description[160];
  cudaStream_t stream;
  cublasLtHandle_t lt;
  void *lt_work; /* PU_CUDA_LT_BYTES */
  void *work;
  size_t work_bytes;
  void *staging; /* pinned, PU_CUDA_STAGING, in two halves; the one that is being filled is used up to `staged` */
  size_t staged;
  int half;
  cudaEvent_t staging_read[2];      /* the copies out of a half have ended */
  cudaEvent_t marks[PU_CUDA_MARKS]; /* places in line, in turn */
  uint64_t marked;                  /* the last one's number */
  pu_cuda_mirror mirrors[PU_CUDA_MIRRORS];
  bool was_there; /* what pu_cuda_mirrored was asked for: set where nothing had to be brought, cleared by who asks */
  uint64_t clock;
  pu_cuda_faults faults;
  struct pu_cuda_linear *linear;       /* product.cu: algorithms chosen so far */
  struct pu_cuda_maps *maps;           /* skinny.cu: tensor maps made so far */
  struct pu_cuda_attention *attention; /* attention.cu: plans made so far */
  struct pu_cuda_graphs *graphs;       /* graphs.cu: what record and play keep; NULL: nothing */
  uint64_t generation;                 /* of memory: counts what was freed, so that no graph goes on with it */
  uint64_t waits;                      /* for all that was asked of the device */
  struct pu_cuda_guesses *guesses;     /* fp8.cu */
  uint32_t *arrived;      /* [PU_CUDA_MOST_BLOCKS] in device memory, zeros between kernels: packed_batch.cu */
  const void *waited_for; /* see pu_cuda_start */
} pu_cuda;

enum { PU_CUDA_MOST_BLOCKS = 1024 };
enum { PU_CUDA_LT_BYTES = 64 << 20, PU_CUDA_STAGING = 16 << 20 };

/* A failed call of the runtime, told by what it was for. */
pu_err pu_cuda_fail(cudaError_t err, const char *what, pu_error *e);

#define PU_CUDA_TRY(call, what, e)                                                                                     \
  do {                                                                                                                 \
    cudaError_t pu_cuda_err_ = (call);                                                                                 \
    if (pu_cuda_err_ != cudaSuccess) return pu_cuda_fail(pu_cuda_err_, what, e);                                       \
  } while (0)

/* The last thing a function that launches does. */
static inline pu_err pu_cuda_launched(const char *what, pu_error *e) {
  cudaError_t err = cudaGetLastError();
  return err == cudaSuccess ? PU_OK : pu_cuda_fail(err, what, e);
}

/* As kernel<<<grid, block, shared, d->stream>>>(args...). early: it may start before the kernel before it has ended
 * (programmatic dependent launch, from compute capability 9.0 on), so each of its threads calls wait_for_before()
 * before it reads what earlier kernels wrote, and before it writes at all. A kernel that lets the next one start only
 * after it has waited itself says so: d->waited_for is then an operand of it that no earlier kernel still writes when
 * the next one starts. */
template <typename... P, typename... A>
static inline void pu_cuda_start(pu_cuda *d, bool early, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
                                 const A &...args) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid, config.blockDim = block;
  config.dynamicSmemBytes = shared, config.stream = d->stream;
  config.attrs = &attribute, config.numAttrs = early && d->capability >= 90;
  d->waited_for = NULL;
  cudaLaunchKernelEx(&config, kernel, P(args)...);
}
/* Of so many rows a kernel is short, and its start counts. */
enum { PU_CUDA_SHORT_ROWS = 512 };

/* Waits for all that was asked of the device; what went wrong on it since the last wait is an error. */
pu_err pu_cuda_wait(pu_cuda *d, const char *what, pu_error *e) PU_MUST_USE;

/* The buffer that all operations share, at least so large, 256-byte aligned, its contents undefined. Growing waits for
 * the device, so it settles after a step. A second call in the same operation may move it: ask once, for all. */
pu_err pu_cuda_work(pu_cuda *d, size_t bytes, void **out, pu_error *e) PU_MUST_USE;
/* The device's copy of host memory, of the same contents; it stays valid and unchanged for this operation. */
pu_err pu_cuda_mirrored(pu_cuda *d, const void *host, size_t bytes, void **out, pu_error *e) PU_MUST_USE;

/* y = alpha a b^T (+ beta y) (+ bias), row-major, of f32 or bf16, summed in f32: see product.cu. y may be f32 where a
 * and b are bf16. */
typedef struct pu_cuda_product {
  const void *a, *b; /* a: [rows, inner], b: [cols, inner], before transposition */
  void *y;           /* [rows, cols] */
  int64_t rows, cols, inner;
  int64_t a_step, b_step, y_step; /* elements from row to row as they lie in memory */
  bool a_turned, b_turned;        /* lies as [inner, rows], [inner, cols] */
  pu_dtype type, y_type;          /* of a and b; of y */
  bool scaled;                    /* by alpha; else alpha is 1 */
  float alpha;
  float beta;       /* 0: overwrite; 1: add */
  const void *bias; /* [cols] of bias_type, added to each row; NULL: none */
  pu_dtype bias_type;
  /* a and b in FP8 instead of `type`, not turned (see fp8.h), and in device memory what each is to be multiplied with.
   * a_gradient: a is E5M2, else E4M3 as b. rough: sums may be kept in fewer bits than f32 has. */
  bool fp8, a_gradient, rough;
  bool int8;    /* a and b are int8 instead of `type`, not turned; y is PU_I32, and there is nothing else: of
                   pu_cuda_multiply */
  bool by_rows; /* a scale for each row of a, and of b; else one for each of them */
  bool blocks;  /* by_rows, but b's scales are of its blocks (PU_FP8_BLOCK): not of pu_cuda_multiply */
  const float *a_scale, *b_scale;
  /* b is a weight, which no kernel writes that lets the next one start before it has ended: it may be read before the
   * kernels before have ended. */
  bool b_rests;
  bool steady; /* a row of y is the same to the bit whatever the number of rows (inference) */
} pu_cuda_product;
pu_err pu_cuda_multiply(pu_cuda *d, const pu_cuda_product *p, pu_error *e) PU_MUST_USE;

/* The operations qk_norm and rope. */
pu_err pu_cuda_qk_norm(pu_cuda *d, const pu_qk_norm_args *a, pu_error *e) PU_MUST_USE;
pu_err pu_cuda_rope(pu_cuda *d, const pu_rope_args *a, pu_error *e) PU_MUST_USE;

/* db (+)= column sums of dy, in one order. parts: so many bytes of work memory. */
size_t pu_cuda_bias_back_bytes(const pu_tensor *dy);
pu_err pu_cuda_bias_back(pu_cuda *d, const pu_tensor *dy, pu_tensor *b, float *parts, pu_error *e) PU_MUST_USE;

/* Weights in few bits: see packed.h. `linear` where a->w is PACKED. Takes work memory. */
pu_err pu_cuda_packed_linear(pu_cuda *d, const pu_linear_args *a, pu_error *e) PU_MUST_USE;
/* y = swiglu of what `linear` would give, in one kernel, where there is one. Takes work memory. */
bool pu_cuda_packed_has_gated(const pu_linear_args *a);
pu_err pu_cuda_packed_gated(pu_cuda *d, const pu_linear_args *a, const pu_tensor *y, pu_error *e) PU_MUST_USE;
/* Rows [first, first + rows) of a PACKED matrix (of the matrix-th of [E, M, K]; else 0) as plain ones of its type,
 * their inputs in their own order, into [rows, K]. first: a multiple of 16. Takes no work memory. */
pu_err pu_cuda_packed_plain(pu_cuda *d, const pu_tensor *w, int64_t matrix, int64_t first, int64_t rows, void *out,
                            pu_error *e) PU_MUST_USE;
/* A weight in NF4 as a plain one of its type. Takes no work memory. */
pu_err pu_cuda_nf4_plain(pu_cuda *d, const pu_tensor *w, void *out, pu_error *e) PU_MUST_USE;
/* y[n] = w[e] x[n] for n in [offsets[e], offsets[e + 1]): products of a PACKED [E, M, K] with rows sorted by expert, in
 * one launch that knows nothing of the offsets, which lie in device memory ([E + 1]). room:
 * pu_cuda_packed_experts_bytes of work memory. */
pu_err pu_cuda_packed_experts(pu_cuda *d, const pu_tensor *x, const pu_tensor *w, const int32_t *offsets, pu_tensor *y,
                              void *room, pu_error *e) PU_MUST_USE;
size_t pu_cuda_packed_experts_bytes(const pu_tensor *x, const pu_tensor *w);

/* ---- in kernels ---- */

/* The next kernel of the stream may start, if it was launched so. */
__device__ static inline void let_next_start(void) {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
/* The kernels before this one have ended, and what they wrote is there: see pu_cuda_start. */
__device__ static inline void wait_for_before(void) {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ static inline uint32_t shared_address(const void *p) {
  return (uint32_t)__cvta_generic_to_shared(p);
}

/* Memory that is read soon. */
__device__ static inline void ahead_in_l2(const void *p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

/* 2^x and the logarithm to base 2, in one instruction each, right to some 22 bits. */
__device__ static inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ static inline float log2_fast(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

template <typename T> struct pu_type;
template <> struct pu_type<float> { static constexpr pu_dtype id = PU_F32; };
template <> struct pu_type<bf16> { static constexpr pu_dtype id = PU_BF16; };

__device__ static inline float to_f32(float v) {
  return v;
}
__device__ static inline float to_f32(bf16 v) {
  return __bfloat162float(v);
}
template <typename T> __device__ static inline T from_f32(float v);
template <> __device__ inline float from_f32<float>(float v) {
  return v;
}
template <> __device__ inline bf16 from_f32<bf16>(float v) {
  return __float2bfloat16_rn(v);
}

/* Rounded, `low` in the lower half. */
__device__ static inline uint32_t pair_bf16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

__device__ static inline void pu_cuda_report(pu_cuda_faults f, pu_cuda_fault kind, int64_t place, int32_t value) {
  atomicMin(&f.first[kind], (unsigned long long)place << 32 | (uint32_t)value);
  *(volatile int *)f.any = 1;
}

/* RoPE: x of a pair and the other one become x cos + other sin, for the first of them with the sine's sign changed. In
 * this order wherever heads are turned, so that all give the same bits. */
__device__ static inline float pu_turned(float x, float other, float cos, float sin) {
  return fmaf(x, cos, __fmul_rn(other, sin));
}

__device__ static inline float warp_sum(float v) {
  for (int step = 16; step; step >>= 1) v += __shfl_xor_sync(0xffffffffu, v, step);
  return v;
}
__device__ static inline float warp_max(float v) {
  for (int step = 16; step; step >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, step));
  return v;
}
/* Of `lanes` next to each other: a power of two. */
__device__ static inline float lanes_sum(float v, int lanes) {
#pragma unroll
  for (int step = 16; step; step >>= 1)
    if (step < lanes) v += __shfl_xor_sync(0xffffffffu, v, step);
  return v;
}
/* Of a norm. Squares that overflowed make the row NaN: 1 / sqrt(infinity) would make it zeros, which nobody would look
 * into. */
__device__ static inline float inverse_root(float mean) {
  return mean <= 3.402823466e38f ? rsqrtf(mean) : NAN;
}
/* Of all threads of a block (a multiple of 32, at most 1024); every thread gets it. room: 32 floats of shared memory.
 */
__device__ static inline float block_sum(float v, float *room) {
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
  v = warp_sum(v);
  __syncthreads(); /* room may still be read from before */
  if (lane == 0) room[warp] = v;
  __syncthreads();
  return warp_sum(lane < warps ? room[lane] : 0.0f);
}

/* Of n things that follow one another the last that begins at `at` or before; empty ones begin where the next does. */
template <typename T, typename P> __device__ static inline int last_begun(const T *all, int n, P at) {
  int low = 0, high = n; /* all[low].first <= at < all[high].first */
  while (high - low > 1) {
    int middle = (low + high) / 2;
    if (all[middle].first <= at)
      low = middle;
    else
      high = middle;
  }
  return low;
}

/* Sixteen bytes at once. */
template <typename T> struct alignas(16) pu_pack {
  static constexpr int n = 16 / sizeof(T);
  T v[n];
};

static inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

#endif
