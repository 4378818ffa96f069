/* Attention with AMX: bf16 tiles multiplied by TDPBF16PS, everything between the products in AVX-512.
 *
 * Products and softmax take turns. Alternating their instructions was tried (products of the next strip queued and run
 * every few rows of the softmax) and gained nothing: with tiles in flight, 512-bit arithmetic ran at one instruction a
 * cycle instead of two, which is what taking turns costs. */
#define PU_TILE_BF16 1
#define PU_TILE_AMX  1
/* In this order: each stands on the one before. */
#include "src/compute/cpu/isa/vec16_avx512.h"

#include "src/compute/cpu/isa/tile_product.h"

/* All eight tiles are 16 rows of 64 bytes. The configuration is the thread's own. (Static: GCC 12 believes that
 * _tile_loadconfig reads 8 bytes, and drops the stores that fill the rest of a local one.) */
static inline void tile_begin(void) {
  static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
  } config __attribute__((aligned(64))) = {
      .palette = 1, .bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
  _tile_loadconfig(&config);
}
static inline void tile_end(void) {
  _tile_release();
}

/* GCC's tile intrinsics do not say that they touch memory. */
#define MEMORY_BARRIER() __asm__ volatile("" ::: "memory")

/* Two by two tiles of C in registers 0..3, two of A in 4, 5 and two of B in 6, 7: four products for four loads. */
static inline void tile_quad(const tile_product *p, int i, int j) {
  float *c00 = p->c + (int64_t)(i * p->c_m + j * p->c_n) * TILE_FLOATS, *c01 = c00 + (int64_t)p->c_n * TILE_FLOATS;
  float *c10 = c00 + (int64_t)p->c_m * TILE_FLOATS, *c11 = c10 + (int64_t)p->c_n * TILE_FLOATS;
  const char *a = p->a + (int64_t)i * p->a_m * TILE_BYTES, *b = p->b + (int64_t)j * p->b_n * TILE_BYTES;
  if (p->add) {
    _tile_loadd(0, c00, 64);
    _tile_loadd(1, c01, 64);
    _tile_loadd(2, c10, 64);
    _tile_loadd(3, c11, 64);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int k = 0; k < p->k; k++) {
    _tile_loadd(6, b, 64);
    _tile_loadd(4, a, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + (int64_t)p->b_n * TILE_BYTES, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a + (int64_t)p->a_m * TILE_BYTES, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    a += (int64_t)p->a_k * TILE_BYTES;
    b += (int64_t)p->b_k * TILE_BYTES;
  }
  _tile_stored(0, c00, 64);
  _tile_stored(1, c01, 64);
  _tile_stored(2, c10, 64);
  _tile_stored(3, c11, 64);
}

static inline void tile_multiply(const tile_product *p) {
  MEMORY_BARRIER();
  for (int i = 0; i < p->m; i += 2)
    for (int j = 0; j < p->n; j += 2) tile_quad(p, i, j);
  MEMORY_BARRIER();
}

#include "src/compute/cpu/isa/attention_body.h"

PU_ATTENTION_KERNEL(pu_attention_amx);
