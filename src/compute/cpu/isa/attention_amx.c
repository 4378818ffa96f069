/* Attention with AMX: bf16 tiles multiplied by TDPBF16PS, everything between the products in AVX-512. */
#define PU_TILE_BF16 1
#define PU_TILE_AMX  1
#include "src/compute/cpu/isa/vec16_avx512.h"
#include "src/compute/cpu/isa/tile_product.h"

/* The matrix unit works beside the vector units, but the processor looks only some 500 instructions ahead: for the two to
 * overlap, their instructions must alternate in the program. So products wait in a queue, and the vector loops run a step
 * of it every few rows. A step is four tile products, 64 cycles of the unit; between steps the sums stay in the tile
 * registers: tiles 0..3 hold 2 x 2 tiles of C, 4 and 5 are for A, 6 and 7 for B. */
enum { TILE_QUEUE = 24 };
typedef struct tile_queue {
  tile_product task[TILE_QUEUE];
  int n, at;   /* tasks; the one that runs */
  int i, j, k; /* where in it */
  int left;    /* steps still to run, of all tasks */
} tile_queue;

/* All eight tiles are 16 rows of 64 bytes. The configuration is the thread's own. (Static: GCC 12 believes that
 * _tile_loadconfig reads 8 bytes, and drops the stores that fill the rest of a local one.) */
static inline void tile_begin(tile_queue *q) {
  static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
  } config __attribute__((aligned(64))) = {.palette = 1,
                                           .bytes = {64, 64, 64, 64, 64, 64, 64, 64},
                                           .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
  _tile_loadconfig(&config);
  q->n = q->at = q->i = q->j = q->k = q->left = 0;
}
static inline void tile_end(void) {
  _tile_release();
}

/* m, n > 0 and even, k > 0. */
static inline void tile_push(tile_queue *q, tile_product p) {
  q->task[q->n++] = p;
  q->left += p.m / 2 * (p.n / 2) * p.k;
}

/* GCC's tile intrinsics do not say that they touch memory. */
#define MEMORY_BARRIER() __asm__ volatile("" ::: "memory")

static inline void load_sums(const tile_product *p, const float *c) {
  if (!p->add) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    return;
  }
  _tile_loadd(0, c, 64);
  _tile_loadd(1, c + (int64_t)p->c_n * TILE_FLOATS, 64);
  _tile_loadd(2, c + (int64_t)p->c_m * TILE_FLOATS, 64);
  _tile_loadd(3, c + (int64_t)(p->c_m + p->c_n) * TILE_FLOATS, 64);
}

static inline void store_sums(const tile_product *p, float *c) {
  _tile_stored(0, c, 64);
  _tile_stored(1, c + (int64_t)p->c_n * TILE_FLOATS, 64);
  _tile_stored(2, c + (int64_t)p->c_m * TILE_FLOATS, 64);
  _tile_stored(3, c + (int64_t)(p->c_m + p->c_n) * TILE_FLOATS, 64);
}

static inline void tile_step(tile_queue *q) {
  const tile_product *p = &q->task[q->at];
  float *c = p->c + (int64_t)(q->i * p->c_m + q->j * p->c_n) * TILE_FLOATS;
  const char *a = p->a + (int64_t)(q->i * p->a_m + q->k * p->a_k) * TILE_BYTES;
  const char *b = p->b + (int64_t)(q->j * p->b_n + q->k * p->b_k) * TILE_BYTES;
  if (q->k == 0) load_sums(p, c);
  _tile_loadd(6, b, 64);
  _tile_loadd(4, a, 64);
  _tile_dpbf16ps(0, 4, 6);
  _tile_loadd(7, b + (int64_t)p->b_n * TILE_BYTES, 64);
  _tile_dpbf16ps(1, 4, 7);
  _tile_loadd(5, a + (int64_t)p->a_m * TILE_BYTES, 64);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
  q->left--;
  if (++q->k < p->k) return;
  store_sums(p, c);
  q->k = 0;
  if ((q->j += 2) < p->n) return;
  q->j = 0;
  if ((q->i += 2) < p->m) return;
  q->i = 0;
  if (++q->at == q->n) q->at = q->n = 0;
}

static inline void tile_run(tile_queue *q, int steps) {
  MEMORY_BARRIER();
  for (int i = PU_MIN(steps, q->left); i > 0; i--) tile_step(q);
  MEMORY_BARRIER();
}

#include "src/compute/cpu/isa/attention_body.h"

PU_ATTENTION_KERNEL(pu_attention_amx);
