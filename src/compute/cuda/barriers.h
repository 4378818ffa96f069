/* Barriers (compute capability 9.0 on): in shared memory, with the copy engine, which tells them what has arrived (PTX
 * ISA 9.0, "mbarrier", "cp.async.bulk"); of a cluster's threads; of some of a block's. */
#ifndef PUYU_CUDA_BARRIERS_H
#define PUYU_CUDA_BARRIERS_H

#include "src/compute/cuda/cuda.h"

/* A place in a ring of stages in shared memory, and which turn it is. */
struct ring_place {
  int slot;
  uint32_t turn;
  __device__ void go_on(int stages) {
    if (++slot == stages) slot = 0, turn ^= 1;
  }
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

/* ---- by their place in shared memory ---- */

__device__ static inline void barrier_init(uint32_t b, int count) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(b), "r"(count) : "memory");
}
__device__ static inline void barrier_arrive(uint32_t b) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(b) : "memory");
}
/* Arrives, and has the phase wait for so many bytes of copies. */
__device__ static inline void barrier_expect(uint32_t b, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(b), "r"(bytes) : "memory");
}
/* For the end of the phase of this parity. */
__device__ static inline void barrier_wait(uint32_t b, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\nwait:\nmbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n@!done bra wait;\n}" ::"r"(b),
      "r"(parity)
      : "memory");
}
/* A multiple of 16 bytes, 16-byte aligned on both sides; told to the barrier when it is there. */
__device__ static inline void bulk_copy(uint32_t to, const void *from, uint32_t bytes, uint32_t b) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(b)
               : "memory");
}
/* A box of a matrix by its tensor map, from value k of a line on; what lies outside the matrix is zeros. */
__device__ static inline void box_copy(uint32_t to, const void *map, int k, int line, uint32_t b) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          to),
      "l"(map), "r"(k), "r"(line), "r"(b)
      : "memory");
}
__device__ static inline void map_ahead(const void *map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* What was written to shared memory, barriers too, comes before what the copy engine does with it, and before what
 * warpgroup products read of it after a barrier of the threads. */
__device__ static inline void before_bulk() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* ---- by their address ---- */

__device__ static inline void barrier_init(uint64_t *b, int count) {
  barrier_init(shared_address(b), count);
}
__device__ static inline void barrier_arrive(uint64_t *b) {
  barrier_arrive(shared_address(b));
}
__device__ static inline void barrier_expect(uint64_t *b, uint32_t bytes) {
  barrier_expect(shared_address(b), bytes);
}
/* A loop that the compiler sees, unlike the one above, so that it lays out other code around it: kernels keep to the
 * one that they have been measured with. */
__device__ static inline void barrier_wait(uint64_t *b, uint32_t parity) {
  uint32_t done = 0;
  while (!done)
    asm volatile("{\n\t.reg .pred p;\n\tmbarrier.try_wait.parity.shared.b64 p, [%1], %2;\n\tselp.u32 %0, 1, 0, p;\n\t}"
                 : "=r"(done)
                 : "r"(shared_address(b)), "r"(parity)
                 : "memory");
}
__device__ static inline void bulk_copy(uint32_t to, const void *from, uint32_t bytes, uint64_t *b) {
  bulk_copy(to, from, bytes, shared_address(b));
}
__device__ static inline void box_copy(uint32_t to, const void *map, int k, int line, uint64_t *b) {
  box_copy(to, map, k, line, shared_address(b));
}

/* ---- of threads ---- */

/* All threads of a cluster arrive; what each has written to shared memory before is there for those who have waited. */
__device__ static inline void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.aligned;" ::: "memory");
}
__device__ static inline void cluster_wait() {
  asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
}
__device__ static inline void cluster_meet() {
  cluster_arrive();
  cluster_wait();
}
/* Where block `rank` of the cluster has what lies here. */
__device__ static inline uint32_t cluster_address(const void *mine, int rank) {
  uint32_t at;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"(shared_address(mine)), "r"(rank));
  return at;
}

/* N threads of the block, who all come here, wait for each other. */
template <int N> __device__ static inline void meet_threads() {
  asm volatile("bar.sync 1, %0;" ::"n"(N) : "memory");
}

#endif

#endif
