/* What `puyu env` prints of the device and of the libraries it is used through. */
#include <stdio.h>
#include <string.h>

#include "src/compute/cuda/attention.h"
#include "src/compute/cuda/use.h"

/* Which other devices this one reads and writes directly, and how fast a link that is by the runtime's own rank. */
static void put_peers(const pu_cuda *d, int devices, pu_buf *out) {
  for (int other = 0; other < devices; other++) {
    int can = 0, rank = 0, atomics = 0;
    if (other == d->device || cudaDeviceCanAccessPeer(&can, d->device, other) != cudaSuccess) continue;
    cudaDeviceGetP2PAttribute(&rank, cudaDevP2PAttrPerformanceRank, d->device, other);
    cudaDeviceGetP2PAttribute(&atomics, cudaDevP2PAttrNativeAtomicSupported, d->device, other);
    if (can)
      pu_buf_printf(out, "link to device %d: direct, rank %d%s\n", other, rank,
                    atomics ? ", with atomics (NVLink)" : "");
    else
      pu_buf_printf(out, "link to device %d: through the host\n", other);
  }
}

/* As the kernel's module says it: the first word of figures and dots of "NVRM version: … Kernel Module …  580.159.04
 * …". The runtime only knows for which CUDA a driver is. */
static void put_driver(int cuda, pu_buf *out) {
  char line[256] = "";
  FILE *f = fopen("/proc/driver/nvidia/version", "r");
  if (f && !fgets(line, sizeof line, f)) line[0] = 0;
  if (f) fclose(f);
  pu_buf_printf(out, "driver: ");
  for (char *rest = NULL, *word = strtok_r(line, " \t\n", &rest); word; word = strtok_r(NULL, " \t\n", &rest)) {
    if (!strchr(word, '.') || word[strspn(word, "0123456789.")]) continue;
    pu_buf_printf(out, "%s, ", word);
    break;
  }
  pu_buf_printf(out, "for CUDA %d.%d\n", cuda / 1000, cuda % 1000 / 10);
}

static void put_versions(pu_buf *out) {
  int driver = 0, runtime = 0;
  size_t blas = cublasLtGetVersion(), dnn = pu_cuda_cudnn_version();
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  put_driver(driver, out);
  pu_buf_printf(out, "CUDA runtime: %d.%d\n", runtime / 1000, runtime % 1000 / 10);
  pu_buf_printf(out, "cuBLASLt: %zu.%zu.%zu\n", blas / 10000, blas / 100 % 100, blas % 100);
  if (dnn)
    pu_buf_printf(out, "cuDNN: %zu.%zu.%zu\n", dnn / 10000, dnn / 100 % 100, dnn % 100);
  else
    pu_buf_printf(out, "cuDNN: not found; attention trains slower without it\n");
}

extern "C" pu_err pu_cuda_facts(const pu_backend *be, pu_buf *out, pu_error *e) {
  const pu_cuda *d = (const pu_cuda *)be;
  cudaDeviceProp p;
  int devices = 0, clock = 0, memory_clock = 0;
  char bus[32] = "";
  PU_CUDA_TRY(cudaGetDeviceProperties(&p, d->device), "asking what the device is", e);
  PU_CUDA_TRY(cudaGetDeviceCount(&devices), "counting devices", e);
  cudaDeviceGetPCIBusId(bus, sizeof bus, d->device);
  cudaDeviceGetAttribute(&clock, cudaDevAttrClockRate, d->device);
  cudaDeviceGetAttribute(&memory_clock, cudaDevAttrMemoryClockRate, d->device);
  pu_buf_printf(out, "devices: %d, of which number %d is used\nPCI bus: %s\ncompute capability: %d.%d\n", devices,
                d->device, bus, p.major, p.minor);
  pu_buf_printf(out, "multiprocessors: %d, at most %d MHz\nlevel 2 cache: %d MiB\n", p.multiProcessorCount,
                clock / 1000, p.l2CacheSize >> 20);
  pu_buf_printf(out, "memory bus: %d bits at %d MHz\n", p.memoryBusWidth, memory_clock / 1000);
  put_versions(out);
  put_peers(d, devices, out);
  return out->failed ? pu_fail(e, PU_ERR_NOMEM, "cuda: no memory for what there is to say") : PU_OK;
}
