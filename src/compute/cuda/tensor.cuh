/* Tensor cores by mma.m16n8k16 with bf16 operands and f32 sums (compute capability 8.0 on), and what feeds them: copies
 * into shared memory ahead of their use (cp.async), fragments out of it (ldmatrix).
 *
 * A sum over k is one sequence of steps of 16. Fragments, for lane = 4 g + t: a holds (row g, k 2t and 2t + 1), (g + 8,
 * 2t…), (g, 2t + 8…), (g + 8, 2t + 8…); b holds (k 2t…, column g), (k 2t + 8…, column g); c holds (row g, columns 2t
 * and 2t + 1), (g + 8, 2t…). */
#ifndef PUYU_CUDA_TENSOR_CUH
#define PUYU_CUDA_TENSOR_CUH

#include "src/compute/cuda/cuda.h"

__device__ static inline uint32_t shared_at(const void *p) {
  return (uint32_t)__cvta_generic_to_shared(p);
}

/* Sixteen bytes: the first `bytes` of them from memory, zeros behind. */
__device__ static inline void copy_piece(uint32_t to, const void *from, int bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes));
}

__device__ static inline void copies_done() {
  asm volatile("cp.async.commit_group;");
}

/* Waits until at most n of the groups of copies are on their way. */
template <int N> __device__ static inline void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N));
}

/* Four matrices of 8 by 8; lane i gives the address of row i % 8 of matrix i / 8. */
__device__ static inline void load4(uint32_t *r, uint32_t at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at));
}
__device__ static inline void load4_turned(uint32_t *r, uint32_t at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at));
}

/* c += a b. */
__device__ static inline void multiply_add(float *c, const uint32_t *a, const uint32_t *b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* A place in a ring of stages in shared memory, and which turn it is. */
struct ring_place {
  int slot;
  uint32_t turn;
  __device__ void go_on(int stages) {
    if (++slot == stages) slot = 0, turn ^= 1;
  }
};

/* ---- from compute capability 9.0 on: the copy engine, barriers in shared memory ---- */

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

__device__ static inline void barrier_init(uint64_t *b, int count) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_at(b)), "r"(count) : "memory");
}
/* To the copy engine, after barrier_init. */
__device__ static inline void barriers_visible(void) {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ static inline void barrier_arrive(uint64_t *b) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(shared_at(b)) : "memory");
}
/* Arrives, and has the phase wait for so many bytes of copies. */
__device__ static inline void barrier_expect(uint64_t *b, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_at(b)), "r"(bytes) : "memory");
}
/* For the end of the phase of this parity. */
__device__ static inline void barrier_wait(uint64_t *b, uint32_t parity) {
  uint32_t done = 0;
  while (!done)
    asm volatile("{\n\t.reg .pred p;\n\tmbarrier.try_wait.parity.shared.b64 p, [%1], %2;\n\tselp.u32 %0, 1, 0, p;\n\t}"
                 : "=r"(done)
                 : "r"(shared_at(b)), "r"(parity)
                 : "memory");
}
/* A multiple of 16 bytes, 16-byte aligned on both sides; told to the barrier when it is there. */
__device__ static inline void bulk_copy(uint32_t to, const void *from, uint32_t bytes, uint64_t *b) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(shared_at(b))
               : "memory");
}
/* A box of a matrix by its tensor map, from value k of a line on; what lies outside the matrix is zeros. */
__device__ static inline void box_copy(uint32_t to, const void *map, int k, int line, uint64_t *b) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          to),
      "l"(map), "r"(k), "r"(line), "r"(shared_at(b))
      : "memory");
}
__device__ static inline void map_ahead(const void *map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

#endif

#endif
