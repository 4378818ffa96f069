/* A row of a product with weights has the same bits alone and among others, on every instruction set: f32 and bf16, the
 * weight plain, tiled, in 8 and in 4 bits, with a bias and without; and a tiled weight gives what the plain one does.
 */
#include <stdlib.h>

#include "puyu/compute.h"
#include "tests/test.h"

enum { ROOM = 32 << 20, MOST_ROWS = 70 };

typedef enum kind { PLAIN, TILED, EIGHT, FOUR, KINDS } kind;

typedef struct machine {
  pu_backend *be;
  void *memory;
  pu_arena *mem, *host;
  pu_error e;
  pu_ctx c;
} machine;

static void open_machine(machine *x, int threads, pu_isa isa) {
  assert_int_equal(pu_cpu_open(threads, isa, &x->be, &x->e), PU_OK);
  assert_int_equal(x->be->alloc(x->be, ROOM, &x->memory, &x->e), PU_OK);
  assert_int_equal(pu_arena_wrap(x->memory, ROOM, &x->mem, &x->e), PU_OK);
  assert_int_equal(pu_arena_create(1 << 20, &x->host, &x->e), PU_OK);
  x->c = (pu_ctx){.be = x->be, .mem = x->mem, .host = x->host, .err = &x->e};
}

static void close_machine(machine *x) {
  pu_arena_free(x->mem);
  pu_arena_free(x->host);
  x->be->free(x->be, x->memory);
  x->be->close(x->be);
}

static pu_tensor *must(machine *x, pu_tensor *t) {
  if (!t) fail_msg("%s", x->e.msg);
  return t;
}

static pu_tensor *random_matrix(machine *x, pu_rng *r, pu_dtype type, int64_t rows, int64_t cols) {
  pu_tensor *t = must(x, pu_tensor_new(&x->c, type, 2, (int64_t[]){rows, cols}, false));
  for (int64_t i = 0; i < rows * cols; i++) {
    /* Magnitudes far apart, so that another order of the sums shows. */
    float v = (float)pu_rng_normal(r) * (pu_rng_below(r, 8) ? 1.0f : 64.0f);
    pu_convert((char *)t->data + (size_t)i * pu_dtype_size(type), type, &v, PU_F32, 1);
  }
  return t;
}

static pu_tensor *random_packed(machine *x, pu_rng *r, pu_dtype type, int64_t rows, int64_t cols, int bits) {
  const pu_packing p = {.bits = bits, .group = 32, .zeros = pu_rng_below(r, 2)};
  const int64_t scales = rows * pu_packed_groups(&p, cols);
  uint8_t *q = malloc((size_t)(rows * cols));
  float *scale = malloc((size_t)scales * sizeof *scale), *zero = malloc((size_t)scales * sizeof *zero);
  assert_true(q && scale && zero);
  for (int64_t i = 0; i < rows * cols; i++) q[i] = (uint8_t)pu_rng_below(r, 1u << bits);
  for (int64_t i = 0; i < scales; i++) {
    scale[i] = (float)pu_rng_normal(r);
    zero[i] = (float)pu_rng_below(r, 1u << bits);
  }
  pu_tensor *w = must(x, pu_tensor_over(&x->c, type, 2, (int64_t[]){rows, cols}, NULL));
  w->layout = PU_LAYOUT_PACKED;
  w->packing = p;
  w->data = pu_arena_alloc(x->mem, pu_packed_bytes(&p, rows, cols));
  assert_non_null(w->data);
  pu_pack_weight_args a = {q, scale, p.zeros ? zero : NULL, NULL, w};
  if (pu_pack_weight(&x->c, &a) != PU_OK) fail_msg("%s", x->e.msg);
  free(q), free(scale), free(zero);
  return w;
}

typedef struct product {
  pu_tensor *x, *w, *b;
  bool y_f32;
  size_t row; /* bytes of y */
} product;

static product draw(machine *x, pu_rng *r, kind k, pu_dtype type, int64_t outputs, int64_t inputs) {
  product p = {.y_f32 = type == PU_F32 || pu_rng_below(r, 2)};
  p.x = random_matrix(x, r, type, MOST_ROWS, inputs);
  p.w = k == EIGHT || k == FOUR ? random_packed(x, r, type, outputs, inputs, k == EIGHT ? 8 : 4)
                                : random_matrix(x, r, type, outputs, inputs);
  p.b = pu_rng_below(r, 2) ? random_matrix(x, r, PU_F32, 1, outputs) : NULL;
  if (p.b) p.b->ndim = 1, p.b->shape[0] = outputs, p.b->stride[0] = 1;
  p.row = (size_t)outputs * (p.y_f32 ? sizeof(float) : pu_dtype_size(type));
  return p;
}

/* Rows [first, first + n) of y, into out. */
static void multiply(machine *x, const product *p, pu_tensor *w, int64_t first, int64_t n, char *out) {
  const size_t mem = pu_arena_mark(x->mem), host = pu_arena_mark(x->host);
  pu_tensor rows = *p->x;
  rows.shape[0] = n;
  rows.data = (char *)rows.data + (size_t)(first * rows.stride[0]) * pu_dtype_size(rows.dtype);
  pu_tensor *y = must(x, pu_linear(&x->c, &rows, w, p->b, p->y_f32));
  memcpy(out, y->data, (size_t)n * p->row);
  pu_arena_release(x->mem, mem);
  pu_arena_release(x->host, host);
}

static void check(machine *x, pu_isa isa, pu_rng *r, kind k, pu_dtype type, int64_t outputs, int64_t inputs) {
  static const char *const names[] = {"plain", "tiled", "8 bits", "4 bits"};
  pu_arena_reset(x->mem);
  pu_arena_reset(x->host);
  product p = draw(x, r, k, type, outputs, inputs);
  char *alone = malloc(p.row * MOST_ROWS), *among = malloc(p.row * MOST_ROWS);
  assert_true(alone && among);
  pu_tensor *w = k == TILED ? must(x, pu_tile_weight(&x->c, p.w)) : p.w;
  for (int64_t i = 0; i < MOST_ROWS; i++) multiply(x, &p, w, i, 1, alone + (size_t)i * p.row);
  for (int64_t n = 2; n <= MOST_ROWS; n += PU_TSAN ? 17 : 1) {
    const int64_t first = MOST_ROWS - n;
    multiply(x, &p, w, first, n, among);
    for (int64_t i = 0; i < n; i++)
      if (memcmp(among + (size_t)i * p.row, alone + (size_t)(first + i) * p.row, p.row))
        fail_msg("%s, %s %s [%lld %lld]: row %lld of %lld differs", pu_isa_name(isa), names[k], pu_dtype_name(type),
                 (long long)outputs, (long long)inputs, (long long)i, (long long)n);
  }
  if (k == TILED && isa != PU_ISA_REF) { /* the reference begins with the bias there */
    multiply(x, &p, p.w, 0, MOST_ROWS, among);
    assert_memory_equal(among, alone, p.row * MOST_ROWS);
  }
  free(alone), free(among);
}

/* Inputs below and above what kernels take at a time, whole tiles and not; outputs likewise. */
static void test_rows(void **state) {
  (void)state;
  static const int64_t sizes[][2] = {{70, 1}, {33, 45}, {16, 257}, {100, 900}, {48, 1700}};
  pu_rng r;
  pu_rng_seed(&r, 1);
  for (pu_isa isa = PU_ISA_REF; isa <= pu_isa_best(); isa++) {
    machine x;
    open_machine(&x, 2, isa);
    for (size_t i = 0; i < PU_COUNT(sizes); i++) {
      if ((isa == PU_ISA_REF || PU_TSAN) && sizes[i][1] > 300) continue; /* one value at a time, that takes long */
      for (kind k = 0; k < KINDS; k++) {
        check(&x, isa, &r, k, PU_F32, sizes[i][0], sizes[i][1]);
        check(&x, isa, &r, k, PU_BF16, sizes[i][0], sizes[i][1]);
      }
    }
    close_machine(&x);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
