/* The CUDA backend as a plug-in: finding the device, its memory, copies, and the table of operations. */
#include <stdlib.h>
#include <string.h>

#include "src/compute/cuda/graphs.h"
#include "src/compute/cuda/use.h"

static pu_cuda *of(pu_backend *be) {
  return (pu_cuda *)be;
}

pu_err pu_cuda_fail(cudaError_t err, const char *what, pu_error *e) {
  cudaGetLastError(); /* told here: the next operation must not find it */
  if (err == cudaErrorMemoryAllocation)
    return pu_fail(e, PU_ERR_NOMEM,
                   "cuda: no device memory for %s: use a smaller batch, a shorter context, weights of "
                   "fewer bits, or end what else is on the device",
                   what);
  return pu_fail(e, PU_ERR_IO, "cuda: %s: %s", what, cudaGetErrorString(err));
}

/* ---- waiting ---- */

/* What was reported first, and a clean sheet. */
static pu_err read_fault(pu_cuda *d, pu_error *e) {
  static const char *const texts[] = {"embedding: token %d at place %lld is outside the vocabulary",
                                      "cross entropy: target %d at place %lld is outside the vocabulary"};
  unsigned long long first[PU_CUDA_FAULTS];
  *d->faults.any = 0;
  PU_CUDA_TRY(cudaMemcpy(first, d->faults.first, sizeof first, cudaMemcpyDeviceToHost), "asking what went wrong", e);
  PU_CUDA_TRY(cudaMemsetAsync(d->faults.first, 0xff, sizeof first, d->stream), "clearing memory", e);
  for (int i = 0; i < PU_CUDA_FAULTS; i++)
    if (first[i] != ~0ull)
      return pu_fail(e, PU_ERR_SHAPE, texts[i], (int)(uint32_t)first[i], (long long)(first[i] >> 32));
  return PU_OK;
}

pu_err pu_cuda_wait(pu_cuda *d, const char *what, pu_error *e) {
  PU_CUDA_TRY(cudaStreamSynchronize(d->stream), what, e);
  d->waits++;
  return *(volatile int *)d->faults.any ? read_fault(d, e) : PU_OK;
}

/* ---- memory ---- */

static pu_err cuda_alloc(pu_backend *be, size_t bytes, void **out, pu_error *e) {
  size_t available, total;
  *out = NULL;
  if (bytes == 0) bytes = 256;
  PU_CUDA_TRY(cudaSetDevice(of(be)->device), "choosing the device", e);
  cudaError_t err = cudaMalloc(out, bytes);
  if (err == cudaSuccess) {
    pu_cuda_given_out(of(be), *out);
    return PU_OK;
  }
  cudaGetLastError(); /* told here: the next operation must not find it */
  if (err != cudaErrorMemoryAllocation || cudaMemGetInfo(&available, &total) != cudaSuccess)
    return pu_cuda_fail(err, "an allocation", e);
  return pu_fail(e, PU_ERR_NOMEM,
                 "cuda: %.2f GiB are wanted, %.2f of the device's %.2f GiB are left: use a smaller batch, a shorter "
                 "context or weights of fewer bits, or end what else is on the device",
                 (double)bytes / 0x1p30, (double)available / 0x1p30, (double)total / 0x1p30);
}

static void cuda_free(pu_backend *be, void *memory) {
  if (!memory) return;
  cudaSetDevice(of(be)->device);
  cudaStreamSynchronize(of(be)->stream);
  cudaFree(memory);
  pu_cuda_given_back(of(be), memory);
}

typedef struct host_copy {
  char *to;
  const char *from;
} host_copy;

static void copy_part(void *arg, int64_t begin, int64_t end, int worker) {
  const host_copy *c = (const host_copy *)arg;
  (void)worker;
  memcpy(c->to + begin, c->from + begin, (size_t)(end - begin));
}

/* One thread copies a fifth of what the link takes, and less where pages of a file are touched for the first time. */
static void copy_host(pu_cuda *d, void *to, const void *from, size_t bytes) {
  host_copy c = {(char *)to, (const char *)from};
  pu_pool_run(d->base.pool, (int64_t)bytes, 1 << 18, copy_part, &c);
}

/* The other half of the staging buffer, once the device has read what was in it. */
static pu_err turn_staging(pu_cuda *d, pu_error *e) {
  PU_CUDA_TRY(cudaEventRecord(d->staging_read[d->half], d->stream), "an upload", e);
  d->half ^= 1;
  d->staged = 0;
  PU_CUDA_TRY(cudaEventSynchronize(d->staging_read[d->half]), "an upload", e);
  return PU_OK;
}

/* Through pinned memory, so that the call does not wait for what is in the stream already: one half of the staging
 * buffer is filled while the device reads the other. */
static pu_err cuda_upload(pu_backend *be, void *device, const void *host, size_t bytes, pu_error *e) {
  pu_cuda *d = of(be);
  const char *from = (const char *)host;
  char *to = (char *)device;
  if (pu_cuda_is_recording(d)) { /* where it fails, play says so */
    pu_cuda_hand_over(d, &device, host, bytes);
    return PU_OK;
  }
  while (bytes) {
    size_t half = PU_CUDA_STAGING / 2, n = PU_MIN(bytes, half);
    if (d->staged + n > half) PU_TRY(turn_staging(d, e));
    char *staging = (char *)d->staging + d->half * half + d->staged;
    copy_host(d, staging, from, n);
    PU_CUDA_TRY(cudaMemcpyAsync(to, staging, n, cudaMemcpyHostToDevice, d->stream), "an upload", e);
    d->staged += (n + 63) / 64 * 64;
    from += n;
    to += n;
    bytes -= n;
  }
  return PU_OK;
}

/* Few bytes are written to the host by a kernel, which then tells: the host sees that sooner than the end of a copy, by
 * some 8 us. */
enum { TELL_THREADS = 1024, TELL_BYTES = 64 << 10, SPINS = 4096 };

__global__ void __launch_bounds__(TELL_THREADS)
    tell_kernel(const uint32_t *from, uint32_t *to, size_t n, int *told, int number) {
  for (size_t i = threadIdx.x; i < n; i += TELL_THREADS) to[i] = from[i];
  __threadfence_system();
  __syncthreads();
  if (threadIdx.x == 0) *(volatile int *)told = number;
}

static bool can_tell(const void *from, size_t bytes) {
  return bytes > 0 && bytes <= TELL_BYTES && ((uintptr_t)from | bytes) % sizeof(uint32_t) == 0;
}

/* Into the staging buffer; a wait for all that was asked of the device, as pu_cuda_wait is. */
static pu_err tell(pu_cuda *d, const void *from, size_t bytes, pu_error *e) {
  int *told = d->faults.any + 1, number = (int)(d->waits + 1);
  tell_kernel<<<1, TELL_THREADS, 0, d->stream>>>((const uint32_t *)from, (uint32_t *)d->staging,
                                                 bytes / sizeof(uint32_t), told, number);
  PU_TRY(pu_cuda_launched("a download", e));
  for (unsigned i = 1; __atomic_load_n(told, __ATOMIC_ACQUIRE) != number; i++)
    if (i % SPINS == 0 && cudaStreamQuery(d->stream) != cudaErrorNotReady)
      return pu_cuda_wait(d, "a download", e); /* it has ended, or failed */
  d->waits++;
  return *(volatile int *)d->faults.any ? read_fault(d, e) : PU_OK;
}

/* The stream orders a copy into the staging buffer behind the uploads that still read from it. */
static pu_err cuda_download(pu_backend *be, void *host, const void *device, size_t bytes, pu_error *e) {
  pu_cuda *d = of(be);
  char *to = (char *)host;
  const char *from = (const char *)device;
  PU_TRY(pu_cuda_may_wait(d, e));
  do {
    size_t n = PU_MIN(bytes, (size_t)PU_CUDA_STAGING);
    if (can_tell(from, n)) {
      PU_TRY(tell(d, from, n, e));
    } else {
      PU_CUDA_TRY(cudaMemcpyAsync(d->staging, from, n, cudaMemcpyDeviceToHost, d->stream), "a download", e);
      PU_TRY(pu_cuda_wait(d, "a download", e));
    }
    d->staged = 0;
    copy_host(d, to, d->staging, n);
    from += n;
    to += n;
    bytes -= n;
  } while (bytes);
  return PU_OK;
}

static pu_err cuda_clear(pu_backend *be, void *device, size_t bytes, pu_error *e) {
  pu_cuda *d = of(be);
  if (pu_cuda_is_recording(d) && !pu_cuda_note(d, device, bytes)) return PU_OK;
  PU_CUDA_TRY(cudaMemsetAsync(device, 0, bytes, d->stream), "clearing memory", e);
  return PU_OK;
}

/* Small copies are a kernel, which may start early and lets the next one: between layers of a step of decoding the
 * engine's copies would else be what all waits for. */
enum { COPY_THREADS = 256, COPY_BLOCKS = 64, COPY_BYTES = 1 << 20 };

__global__ void __launch_bounds__(COPY_THREADS) copy_kernel(const uint4 *from, uint4 *to, size_t n) {
  let_next_start();
  wait_for_before();
  for (size_t i = blockIdx.x * (size_t)COPY_THREADS + threadIdx.x; i < n; i += (size_t)gridDim.x * COPY_THREADS)
    to[i] = from[i];
}

static pu_err copy_small(pu_cuda *d, void *to, const void *from, size_t bytes, pu_error *e) {
  const size_t n = bytes / sizeof(uint4);
  const int64_t blocks = PU_MIN(ceil_div((int64_t)n, COPY_THREADS), (int64_t)COPY_BLOCKS);
  pu_cuda_start(d, true, copy_kernel, (unsigned)blocks, COPY_THREADS, 0, (const uint4 *)from, (uint4 *)to, n);
  return pu_cuda_launched("a copy", e);
}

static pu_err cuda_copy(pu_backend *be, void *to, const void *from, size_t bytes, pu_error *e) {
  pu_cuda *d = of(be);
  if (pu_cuda_is_recording(d)) {
    pu_cuda_note(d, from, bytes);
    if (!pu_cuda_note(d, to, bytes)) return PU_OK;
  }
  if (bytes && bytes <= COPY_BYTES && (((uintptr_t)to | (uintptr_t)from | bytes) % sizeof(uint4)) == 0)
    return copy_small(d, to, from, bytes, e);
  PU_CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, d->stream), "a copy", e);
  return PU_OK;
}

/* One call for all rows, as far apart as it takes them. */
static pu_err cuda_copy_rows(pu_backend *be, void *to, size_t to_stride, const void *from, size_t from_stride,
                             size_t bytes, int64_t rows, pu_error *e) {
  pu_cuda *d = of(be);
  PU_TRY(pu_cuda_may_wait(d, e)); /* the host's side may be another one each time */
  if (PU_MAX(to_stride, from_stride) <= d->most_pitch) {
    PU_CUDA_TRY(cudaMemcpy2DAsync(to, to_stride, from, from_stride, bytes, (size_t)rows, cudaMemcpyDefault, d->stream),
                "copying rows", e);
    return PU_OK;
  }
  for (size_t i = 0; i < (size_t)rows; i++)
    PU_CUDA_TRY(cudaMemcpyAsync((char *)to + i * to_stride, (const char *)from + i * from_stride, bytes,
                                cudaMemcpyDefault, d->stream),
                "copying rows", e);
  return PU_OK;
}

static pu_err cuda_pin(pu_backend *be, void *host, size_t bytes, pu_error *e) {
  PU_CUDA_TRY(cudaSetDevice(of(be)->device), "choosing the device", e);
  cudaError_t err = cudaHostRegister(host, bytes, cudaHostRegisterDefault);
  if (err == cudaSuccess) return PU_OK;
  cudaGetLastError(); /* told here: the next operation must not find it */
  return pu_cuda_fail(err, "pinning memory of this machine", e);
}

static void cuda_unpin(pu_backend *be, void *host) {
  (void)be;
  cudaHostUnregister(host);
}

static pu_err cuda_sync(pu_backend *be, pu_error *e) {
  PU_TRY(pu_cuda_may_wait(of(be), e));
  return pu_cuda_wait(of(be), "waiting for the device", e);
}

static pu_err cuda_mark(pu_backend *be, uint64_t *at, pu_error *e) {
  pu_cuda *d = of(be);
  PU_TRY(pu_cuda_may_wait(d, e));
  PU_CUDA_TRY(cudaEventRecord(d->marks[(d->marked + 1) % PU_CUDA_MARKS], d->stream), "a mark", e);
  *at = ++d->marked;
  return PU_OK;
}

/* A mark whose event has been taken again since is waited for too long, but not wrongly. */
static pu_err cuda_reach(pu_backend *be, uint64_t at, pu_error *e) {
  pu_cuda *d = of(be);
  PU_TRY(pu_cuda_may_wait(d, e));
  PU_CUDA_TRY(cudaEventSynchronize(d->marks[at % PU_CUDA_MARKS]), "waiting for a mark", e);
  return *(volatile int *)d->faults.any ? pu_cuda_wait(d, "waiting for the device", e) : PU_OK;
}

pu_err pu_cuda_work(pu_cuda *d, size_t bytes, void **out, pu_error *e) {
  if (bytes > d->work_bytes) {
    if (pu_cuda_is_capturing(d)) return pu_fail(e, PU_ERR_INTERNAL, "cuda: work memory grows");
    cuda_free(&d->base, d->work);
    d->work = NULL;
    d->work_bytes = 0;
    PU_TRY(cuda_alloc(&d->base, bytes, &d->work, e));
    d->work_bytes = bytes;
  }
  *out = d->work;
  return PU_OK;
}

static pu_err mirror_grow(pu_cuda *d, pu_cuda_mirror *m, size_t bytes, pu_error *e) {
  size_t cap = PU_MAX(bytes, (size_t)4096) * 2;
  PU_CUDA_TRY(cudaStreamSynchronize(d->stream), "waiting for the device", e);
  cudaFreeHost(m->host);
  cudaFree(m->device);
  m->host = m->device = NULL;
  m->cap = m->bytes = 0;
  PU_TRY(cuda_alloc(&d->base, cap, &m->device, e));
  PU_CUDA_TRY(cudaMallocHost(&m->host, cap), "pinned memory", e);
  m->cap = cap;
  return PU_OK;
}

/* By contents, not by address: a caller may have written something else to the same place since. */
pu_err pu_cuda_mirrored(pu_cuda *d, const void *host, size_t bytes, void **out, pu_error *e) {
  pu_cuda_mirror *oldest = &d->mirrors[0];
  if (pu_cuda_is_recording(d)) {
    *out = NULL;
    return pu_cuda_hand_over(d, out, host, bytes) ? PU_OK : pu_fail(e, PU_ERR_INTERNAL, "cuda: a graph does not fit");
  }
  for (int i = 0; i < PU_CUDA_MIRRORS; i++) {
    pu_cuda_mirror *m = &d->mirrors[i];
    if (m->cap && m->bytes == bytes && memcmp(m->host, host, bytes) == 0) {
      m->used = ++d->clock;
      d->was_there = true;
      *out = m->device;
      return PU_OK;
    }
    if (m->used < oldest->used) oldest = m;
  }
  if (oldest->cap < bytes) PU_TRY(mirror_grow(d, oldest, bytes, e));
  /* The pinned copy may still be on its way to the device. */
  else
    PU_CUDA_TRY(cudaEventSynchronize(oldest->sent), "waiting for the device", e);
  memcpy(oldest->host, host, bytes);
  oldest->bytes = bytes;
  oldest->used = ++d->clock;
  PU_CUDA_TRY(cudaMemcpyAsync(oldest->device, oldest->host, bytes, cudaMemcpyHostToDevice, d->stream), "an upload", e);
  PU_CUDA_TRY(cudaEventRecord(oldest->sent, d->stream), "an upload", e);
  *out = oldest->device;
  return PU_OK;
}

/* ---- what it is, and what it can do ---- */

static pu_err cuda_memory(const pu_backend *be, size_t *available, size_t *total, pu_error *e) {
  PU_CUDA_TRY(cudaSetDevice(((const pu_cuda *)be)->device), "choosing the device", e);
  PU_CUDA_TRY(cudaMemGetInfo(available, total), "asking for its memory", e);
  return PU_OK;
}

static const char *cuda_describe(const pu_backend *be) {
  return ((const pu_cuda *)be)->description;
}

static size_t cuda_work_bytes(const pu_backend *be, const pu_work_shape *s) {
  const pu_cuda *d = (const pu_cuda *)be;
  size_t most = pu_cuda_attention_work_bytes(d, s);
  most = PU_MAX(most, PU_MAX(pu_cuda_lora_work_bytes(s), pu_cuda_embedding_work_bytes(s)));
  most = PU_MAX(most, PU_MAX(pu_cuda_norm_work_bytes(d, s), pu_cuda_fp8_work_bytes(s)));
  most = PU_MAX(most, (size_t)s->nf4 * pu_dtype_size(s->dtype)); /* as it is computed with */
  return PU_MAX(most, pu_cuda_moe_work_bytes(s)) + PU_CUDA_LT_BYTES;
}

/* ---- open, close ---- */

static void cuda_close(pu_backend *be) {
  pu_cuda *d = of(be);
  if (!d) return;
  cudaSetDevice(d->device);
  if (d->stream) cudaStreamSynchronize(d->stream);
  pu_cuda_graphs_close(d);
  pu_cuda_linear_close(d);
  pu_cuda_skinny_close(d);
  pu_cuda_attention_close(d);
  pu_cuda_fp8_close(d);
  for (int i = 0; i < PU_CUDA_MIRRORS; i++) {
    cudaFreeHost(d->mirrors[i].host);
    cudaFree(d->mirrors[i].device);
    if (d->mirrors[i].sent) cudaEventDestroy(d->mirrors[i].sent);
  }
  if (d->lt) cublasLtDestroy(d->lt);
  cudaFree(d->lt_work);
  cudaFree(d->work);
  cudaFree(d->faults.first);
  cudaFree(d->arrived);
  cudaFreeHost(d->faults.any);
  cudaFreeHost(d->staging);
  for (int i = 0; i < 2; i++)
    if (d->staging_read[i]) cudaEventDestroy(d->staging_read[i]);
  for (int i = 0; i < PU_CUDA_MARKS; i++)
    if (d->marks[i]) cudaEventDestroy(d->marks[i]);
  if (d->stream) cudaStreamDestroy(d->stream);
  pu_pool_free(d->base.pool);
  free(d);
}

static pu_err describe(pu_cuda *d, pu_error *e) {
  cudaDeviceProp p;
  int driver;
  PU_CUDA_TRY(cudaGetDeviceProperties(&p, d->device), "asking what the device is", e);
  PU_CUDA_TRY(cudaDriverGetVersion(&driver), "asking for the driver's version", e);
  d->sms = p.multiProcessorCount;
  d->capability = p.major * 10 + p.minor;
  d->base.fp8_files = d->capability == 90; /* skinny.cu, codes_product.cu */
  d->most_pitch = p.memPitch;
  snprintf(d->description, sizeof d->description,
           "%s, %d multiprocessors, %.1f GiB, compute capability %d.%d, driver for CUDA %d.%d", p.name, d->sms,
           (double)p.totalGlobalMem / 0x1p30, p.major, p.minor, driver / 1000, driver % 1000 / 10);
  if (d->capability < 80)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "cuda: %s: its compute capability is %d.%d, 8.0 (A100) or later is needed",
                   p.name, p.major, p.minor);
  return PU_OK;
}

static pu_err open_faults(pu_cuda *d, pu_error *e) {
  void *first;
  PU_TRY(cuda_alloc(&d->base, PU_CUDA_FAULTS * sizeof *d->faults.first, &first, e));
  d->faults.first = (unsigned long long *)first;
  PU_CUDA_TRY(cudaMallocHost(&d->faults.any, 2 * sizeof *d->faults.any), "pinned memory", e);
  d->faults.any[0] = d->faults.any[1] = 0; /* the second: what tell() waits for */
  PU_CUDA_TRY(cudaMemsetAsync(first, 0xff, PU_CUDA_FAULTS * sizeof *d->faults.first, d->stream), "clearing memory", e);
  return PU_OK;
}

static pu_err open_arrived(pu_cuda *d, pu_error *e) {
  const size_t bytes = PU_CUDA_MOST_BLOCKS * sizeof *d->arrived;
  void *memory;
  PU_TRY(cuda_alloc(&d->base, bytes, &memory, e));
  d->arrived = (uint32_t *)memory;
  PU_CUDA_TRY(cudaMemsetAsync(memory, 0, bytes, d->stream), "clearing memory", e);
  return PU_OK;
}

/* Whether there is anything to compute on, in words that say what to do about it. */
static pu_err find_devices(pu_error *e) {
  int n = 0, driver = 0;
  cudaError_t err = cudaGetDeviceCount(&n);
  if (err == cudaErrorInsufficientDriver && (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0))
    return pu_fail(e, PU_ERR_UNSUPPORTED, "cuda: there is no device here: no NVIDIA driver is installed");
  if (err == cudaErrorInsufficientDriver)
    return pu_fail(e, PU_ERR_UNSUPPORTED,
                   "cuda: the driver is for CUDA %d.%d, and this build needs one for %d.%d: update it", driver / 1000,
                   driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
  if (err == cudaErrorNoDevice || (err == cudaSuccess && n == 0))
    return pu_fail(e, PU_ERR_UNSUPPORTED, "cuda: there is no device here (%s)",
                   err ? cudaGetErrorString(err) : "none is visible");
  if (err != cudaSuccess)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "cuda: the driver cannot be used: %s", cudaGetErrorString(err));
  return PU_OK;
}

static pu_err open_all(pu_cuda *d, pu_error *e) {
  PU_TRY(find_devices(e));
  PU_TRY(describe(d, e)); /* refuses what is too old before anything is made on it */
  PU_CUDA_TRY(cudaSetDevice(d->device), "a context on the device", e);
  PU_CUDA_TRY(cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking), "making a stream", e);
  PU_CUDA_TRY(cudaMallocHost(&d->staging, PU_CUDA_STAGING), "pinned memory", e);
  for (int i = 0; i < 2; i++)
    PU_CUDA_TRY(cudaEventCreateWithFlags(&d->staging_read[i], cudaEventDisableTiming), "making an event", e);
  for (int i = 0; i < PU_CUDA_MARKS; i++)
    PU_CUDA_TRY(cudaEventCreateWithFlags(&d->marks[i], cudaEventDisableTiming), "making an event", e);
  PU_TRY(cuda_alloc(&d->base, PU_CUDA_LT_BYTES, &d->lt_work, e));
  PU_TRY(open_faults(d, e));
  PU_TRY(open_arrived(d, e));
  for (int i = 0; i < PU_CUDA_MIRRORS; i++)
    PU_CUDA_TRY(cudaEventCreateWithFlags(&d->mirrors[i].sent, cudaEventDisableTiming), "making an event", e);
  if (cublasLtCreate(&d->lt) != CUBLAS_STATUS_SUCCESS)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "cuda: cuBLASLt does not start on this device");
  return PU_OK;
}

extern "C" __attribute__((visibility("default"))) const char *pu_plugin_interface(void) {
  return pu_interface;
}

extern "C" __attribute__((visibility("default"))) pu_err pu_plugin_open(int threads, pu_backend **out, pu_error *e) {
  static void (*const use[])(pu_cuda *) = {
      pu_cuda_use_adamw, pu_cuda_use_attention, pu_cuda_use_embedding, pu_cuda_use_graphs, pu_cuda_use_linear,
      pu_cuda_use_lora,  pu_cuda_use_loss,      pu_cuda_use_moe,       pu_cuda_use_norm,   pu_cuda_use_packed,
      pu_cuda_use_paged, pu_cuda_use_rope,      pu_cuda_use_swiglu,    pu_cuda_use_top};
  pu_cuda *d = (pu_cuda *)calloc(1, sizeof *d);
  if (!d) return pu_fail(e, PU_ERR_NOMEM, "cuda: no memory");
  d->base.name = "cuda";
  d->base.alloc = cuda_alloc;
  d->base.free = cuda_free;
  d->base.upload = cuda_upload;
  d->base.download = cuda_download;
  d->base.clear = cuda_clear;
  d->base.copy = cuda_copy;
  d->base.copy_rows = cuda_copy_rows;
  d->base.pin = cuda_pin;
  d->base.unpin = cuda_unpin;
  d->base.sync = cuda_sync;
  d->base.mark = cuda_mark;
  d->base.reach = cuda_reach;
  d->base.close = cuda_close;
  d->base.work_bytes = cuda_work_bytes;
  d->base.memory = cuda_memory;
  d->base.describe = cuda_describe;
  d->base.facts = pu_cuda_facts;
  for (size_t i = 0; i < PU_COUNT(use); i++) use[i](d);
  pu_err err = pu_pool_create(threads, &d->base.pool, e);
  if (err == PU_OK) err = open_all(d, e);
  if (err == PU_OK) err = pu_cuda_attention_open(d, e);
  if (err == PU_OK) err = pu_cuda_use_fp8(d, e);
  if (err != PU_OK) {
    cuda_close(&d->base);
    return err;
  }
  *out = &d->base;
  return PU_OK;
}
