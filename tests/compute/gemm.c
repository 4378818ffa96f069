/* Every instruction set's matrix products against the plain reference, over random shapes and layouts. */
#include "src/compute/cpu/gemm_kernel.h"

#include <math.h>
#include <stdlib.h>

#include "tests/test.h"

static pu_cpu *open_cpu(int threads, pu_isa isa) {
  pu_backend *be;
  pu_error e;
  assert_int_equal(pu_cpu_open(threads, isa, &be, &e), PU_OK);
  return (pu_cpu *)be;
}

static void close_cpu(pu_cpu *cpu) {
  cpu->base.close(&cpu->base);
}

static int64_t pick(pu_rng *r, int64_t lo, int64_t hi) {
  return lo + (int64_t)pu_rng_below(r, (uint64_t)(hi - lo + 1));
}

/* Sizes that touch the edges of tiles and depths: 0, 1, small, and around multiples. */
static int64_t pick_size(pu_rng *r, int64_t most) {
  switch (pu_rng_below(r, 8)) {
  case 0:
    return pick(r, 0, 1);
  case 1:
    return pick(r, 1, 17);
  case 2:
    return 16 * pick(r, 1, 4);
  case 3:
    return PU_MAX(32 * pick(r, 1, 4) + pick(r, -1, 1), 0);
  default:
    return pick(r, 1, most);
  }
}

static void *random_values(pu_rng *r, pu_dtype type, int64_t n) {
  void *out = malloc((size_t)n * 4 + 64);
  assert_non_null(out);
  for (int64_t i = 0; i < n; i++) {
    float v = (float)pu_rng_normal(r);
    if (type == PU_F32) ((float *)out)[i] = v;
    if (type == PU_BF16) ((uint16_t *)out)[i] = pu_f32_to_bf16(v);
  }
  return out;
}

static float value(const void *p, pu_dtype type, int64_t i) {
  return type == PU_F32 ? ((const float *)p)[i] : pu_bf16_to_f32(((const uint16_t *)p)[i]);
}

/* ||a - b|| / ||b|| over an [m, n] part; what lies between the rows must be the same bits. */
static double distance(const void *a, const void *b, pu_dtype type, int64_t m, int64_t n, int64_t row) {
  double diff = 0, norm = 0;
  size_t size = pu_dtype_size(type);
  for (int64_t i = 0; i < m; i++) {
    for (int64_t j = 0; j < n; j++) {
      double x = value(a, type, i * row + j), y = value(b, type, i * row + j);
      diff += (x - y) * (x - y), norm += y * y;
    }
    if (i + 1 < m)
      assert_memory_equal((const char *)a + (size_t)(i * row + n) * size,
                          (const char *)b + (size_t)(i * row + n) * size, (size_t)(row - n) * size);
  }
  assert_false(isnan(diff));
  return norm > 0 ? sqrt(diff / norm) : sqrt(diff);
}

/* bf16 values multiply exactly in f32, so only a result rounded to bf16 is far from the reference. */
static double bound(pu_dtype c_type) {
  return c_type == PU_F32 ? 1e-5 : 1e-2;
}

/* ---- general products ---- */

typedef struct product {
  pu_gemm g;
  void *a, *b, *bias, *c, *reference;
  size_t c_bytes;
} product;

static product random_product(pu_rng *r, int64_t most) {
  product p = {.g = {.m = pick_size(r, most), .n = pick_size(r, most), .k = pick_size(r, 3 * most)}};
  pu_gemm *g = &p.g;
  bool a_turned = pu_rng_below(r, 2), b_turned = pu_rng_below(r, 2);
  int64_t pad_a = pick(r, 0, 3), pad_b = pick(r, 0, 3);
  g->ab_type = pu_rng_below(r, 2) ? PU_BF16 : PU_F32;
  g->c_type = pu_rng_below(r, 2) ? PU_BF16 : PU_F32;
  g->a_row = a_turned ? 1 : g->k + pad_a, g->a_col = a_turned ? g->m + pad_a : 1;
  g->b_row = b_turned ? 1 : g->n + pad_b, g->b_col = b_turned ? g->k + pad_b : 1;
  g->c_row = g->n + pick(r, 0, 3);
  g->alpha = pu_rng_below(r, 3) ? 1.0f : 0.125f;
  g->beta = pu_rng_below(r, 2) ? 1.0f : 0.0f;
  g->a = p.a = random_values(r, g->ab_type, (g->m + 4) * (g->k + 4));
  g->b = p.b = random_values(r, g->ab_type, (g->n + 4) * (g->k + 4));
  if (pu_rng_below(r, 2)) {
    g->bias_type = pu_rng_below(r, 2) ? PU_BF16 : PU_F32;
    g->bias = p.bias = random_values(r, g->bias_type, g->n);
  }
  p.c_bytes = (size_t)(g->m * g->c_row) * pu_dtype_size(g->c_type);
  p.c = random_values(r, g->c_type, g->m * g->c_row);
  if (g->beta == 0.0f) memset(p.c, 0xff, p.c_bytes); /* NaN: must not be read */
  p.reference = malloc(p.c_bytes + 64);
  assert_non_null(p.reference);
  memcpy(p.reference, p.c, p.c_bytes);
  pu_gemm plain = *g;
  plain.c = p.reference;
  pu_gemm_reference(&plain);
  return p;
}

static void free_product(product *p) {
  free(p->a), free(p->b), free(p->bias), free(p->c), free(p->reference);
}

/* On one worker, on one thread and on two; the same bits. */
static void check_product(const product *p, pu_cpu *const cpu[2]) {
  void *c[3];
  for (int way = 0; way < 3; way++) {
    c[way] = malloc(p->c_bytes + 64);
    assert_non_null(c[way]);
    memcpy(c[way], p->c, p->c_bytes);
    pu_gemm g = p->g;
    g.c = c[way];
    if (way < 2)
      pu_cpu_gemm(cpu[way], &g);
    else
      pu_cpu_gemm_one(cpu[1], &g, 1);
    if (way) assert_memory_equal(c[0], c[way], p->c_bytes);
  }
  double far = distance(c[0], p->reference, p->g.c_type, p->g.m, p->g.n, p->g.c_row);
  if (far > bound(p->g.c_type))
    fail_msg("%s %s->%s [%ld %ld %ld] a_row %ld b_row %ld c_row %ld alpha %g beta %g bias %d: off by %g",
             pu_isa_name(cpu[0]->isa), pu_dtype_name(p->g.ab_type), pu_dtype_name(p->g.c_type), (long)p->g.m,
             (long)p->g.n, (long)p->g.k, (long)p->g.a_row, (long)p->g.b_row, (long)p->g.c_row, (double)p->g.alpha,
             (double)p->g.beta, p->g.bias != NULL, far);
  for (int way = 0; way < 3; way++) free(c[way]);
}

static void check_products(pu_isa isa, uint64_t seed, int count, int64_t most) {
  pu_cpu *cpu[2] = {open_cpu(1, isa), open_cpu(2, isa)};
  pu_rng r;
  pu_rng_seed(&r, seed);
  for (int i = 0; i < count; i++) {
    product p = random_product(&r, most);
    check_product(&p, cpu);
    free_product(&p);
  }
  close_cpu(cpu[0]), close_cpu(cpu[1]);
}

static void test_products(void **state) {
  (void)state;
  for (pu_isa isa = PU_ISA_REF; isa <= pu_isa_best(); isa++) {
    check_products(isa, 1, PU_TSAN ? 20 : 200, 70);
    if (isa > PU_ISA_REF) check_products(isa, 2, PU_TSAN ? 1 : 8, 400); /* several depths, several blocks */
  }
}

/* One deep and wide enough for blocks of every kind: several depths, rows and columns of blocks, for all layouts. */
static void test_many_blocks(void **state) {
  (void)state;
  enum { M = 530, N = 1090, K = 1100 };
  pu_rng r;
  pu_rng_seed(&r, 3);
  for (int type = 0; type < 2 && !PU_TSAN; type++) {
    pu_dtype dtype = type ? PU_BF16 : PU_F32;
    void *a = random_values(&r, dtype, M * K), *b = random_values(&r, dtype, N * K);
    float *plain = malloc(sizeof(float) * M * N), *c = malloc(sizeof(float) * M * N);
    assert_true(plain && c);
    for (int way = 0; way < 4; way++) {
      pu_gemm g = {.m = M,
                   .n = N,
                   .k = K,
                   .a = a,
                   .b = b,
                   .c = plain,
                   .a_row = way & 1 ? 1 : K,
                   .a_col = way & 1 ? M : 1,
                   .b_row = way & 2 ? 1 : N,
                   .b_col = way & 2 ? K : 1,
                   .c_row = N,
                   .ab_type = dtype,
                   .c_type = PU_F32,
                   .alpha = 1.0f};
      pu_cpu *best = open_cpu(1, PU_MIN(pu_isa_best(), PU_ISA_AVX2));
      pu_cpu_gemm(best, &g); /* AVX2 was compared with the reference above: it stands in for it, being faster */
      close_cpu(best);
      for (pu_isa isa = PU_ISA_AVX2; isa <= pu_isa_best(); isa++) {
        pu_cpu *cpu = open_cpu(2, isa);
        g.c = c;
        memset(c, 0xff, sizeof(float) * M * N);
        pu_cpu_gemm(cpu, &g);
        assert_true(distance(c, plain, PU_F32, M, N, N) < 1e-5);
        close_cpu(cpu);
      }
    }
    free(a), free(b), free(plain), free(c);
  }
}

/* Rows that begin on lines, which AMX reads where they lie (k 96, 4224) or packs (rows 4 KiB apart), and a C large
 * enough to be written past the caches. */
static void test_aligned_rows(void **state) {
  (void)state;
  static const int64_t sizes[][3] = {{1060, 2080, 96}, {75, 300, 4224}, {130, 290, 2048}};
  pu_rng r;
  pu_rng_seed(&r, 6);
  for (size_t i = 0; i < PU_COUNT(sizes) && !PU_TSAN; i++) {
    int64_t m = sizes[i][0], n = sizes[i][1], k = sizes[i][2];
    void *b = random_values(&r, PU_BF16, n * k), *values = random_values(&r, PU_BF16, m * k);
    void *a = aligned_alloc(64, (size_t)((m * k * 2 + 63) / 64 * 64));
    float *plain = malloc(sizeof(float) * (size_t)(m * n)), *c = malloc(sizeof(float) * (size_t)(m * n));
    assert_true(a && plain && c);
    memcpy(a, values, (size_t)(m * k) * 2);
    pu_gemm g = {.m = m,
                 .n = n,
                 .k = k,
                 .a = a,
                 .b = b,
                 .c = plain,
                 .a_row = k,
                 .a_col = 1,
                 .b_row = 1,
                 .b_col = k,
                 .c_row = n,
                 .ab_type = PU_BF16,
                 .c_type = PU_F32,
                 .alpha = 1.0f};
    pu_cpu *cpu = open_cpu(1, PU_MIN(pu_isa_best(), PU_ISA_AVX2));
    pu_cpu_gemm(cpu, &g);
    close_cpu(cpu);
    g.c = c;
    for (pu_isa isa = PU_ISA_AVX2; isa <= pu_isa_best(); isa++) {
      cpu = open_cpu(2, isa);
      memset(c, 0xff, sizeof(float) * (size_t)(m * n));
      pu_cpu_gemm(cpu, &g);
      assert_true(distance(c, plain, PU_F32, m, n, n) < 1e-5);
      close_cpu(cpu);
    }
    free(a), free(b), free(values), free(plain), free(c);
  }
}

/* ---- tiled weights ---- */

static pu_tensor matrix(pu_dtype type, int64_t rows, int64_t cols, int64_t row, void *data) {
  return (pu_tensor){.dtype = type, .ndim = 2, .shape = {rows, cols}, .stride = {row, 1}, .data = data};
}

static void check_linear(pu_rng *r, pu_cpu *const cpu[2], int64_t n, int64_t m, int64_t k) {
  pu_dtype type = pu_rng_below(r, 2) ? PU_BF16 : PU_F32, y_type = pu_rng_below(r, 2) ? type : PU_F32;
  pu_dtype b_type = pu_rng_below(r, 2) ? PU_BF16 : PU_F32;
  int64_t x_row = k + pick(r, 0, 3), y_row = m + pick(r, 0, 3);
  pu_tensor x = matrix(type, n, k, x_row, random_values(r, type, n * x_row));
  pu_tensor w = matrix(type, m, k, k, random_values(r, type, m * k));
  pu_tensor b = matrix(b_type, m, 1, 1, random_values(r, b_type, m)), *bias = pu_rng_below(r, 2) ? &b : NULL;
  size_t tiled = pu_tiled_bytes(type, m, k), y_bytes = (size_t)(n * y_row) * pu_dtype_size(y_type);
  pu_tensor out = w;
  out.layout = PU_LAYOUT_TILED;
  out.data = aligned_alloc(64, tiled + 64);
  assert_non_null(out.data);
  memset(out.data, 0xff, tiled);
  pu_cpu_tile_weight(cpu[1], &w, &out);
  void *y[3];
  for (int way = 0; way < 3; way++) {
    y[way] = malloc(y_bytes + 64);
    assert_non_null(y[way]);
    memset(y[way], 0xff, y_bytes);
  }
  pu_gemm g = {.m = n,
               .n = m,
               .k = k,
               .a = x.data,
               .b = w.data,
               .c = y[2],
               .a_row = x_row,
               .a_col = 1,
               .b_row = 1,
               .b_col = k,
               .c_row = y_row,
               .ab_type = type,
               .c_type = y_type,
               .alpha = 1.0f,
               .bias = bias ? b.data : NULL,
               .bias_type = b_type};
  pu_gemm_reference(&g);
  for (int way = 0; way < 2; way++) {
    pu_tensor to = matrix(y_type, n, m, y_row, y[way]);
    pu_cpu_linear_tiled(cpu[way], &x, &out, bias, &to);
  }
  assert_memory_equal(y[0], y[1], y_bytes);
  double far = distance(y[0], y[2], y_type, n, m, y_row);
  if (far > bound(y_type))
    fail_msg("%s tiled %s->%s x [%ld %ld] w [%ld %ld]: off by %g", pu_isa_name(cpu[0]->isa), pu_dtype_name(type),
             pu_dtype_name(y_type), (long)n, (long)k, (long)m, (long)k, far);
  for (int way = 0; way < 3; way++) free(y[way]);
  free(x.data), free(w.data), free(b.data), free(out.data);
}

static void test_tiled(void **state) {
  (void)state;
  for (pu_isa isa = PU_ISA_REF; isa <= pu_isa_best(); isa++) {
    pu_cpu *cpu[2] = {open_cpu(1, isa), open_cpu(2, isa)};
    pu_rng r;
    pu_rng_seed(&r, 4);
    for (int64_t n = 0; n <= 20; n += PU_TSAN ? 4 : 1) check_linear(&r, cpu, n, pick_size(&r, 100), pick_size(&r, 300));
    for (int i = 0; i < (PU_TSAN ? 4 : 25); i++)
      check_linear(&r, cpu, pick_size(&r, 140), pick_size(&r, 150), pick_size(&r, 700));
    if (isa > PU_ISA_REF) {
      check_linear(&r, cpu, 1, 1000, 2000);
      check_linear(&r, cpu, 5, 517, 1111);
      if (!PU_TSAN) check_linear(&r, cpu, 150, 300, 1111);
      if (!PU_TSAN) check_linear(&r, cpu, 70, 100, 4200);  /* k takes several depths */
      if (!PU_TSAN) check_linear(&r, cpu, 1030, 4100, 33); /* a large y */
    }
    close_cpu(cpu[0]), close_cpu(cpu[1]);
  }
}

static void test_isa_names(void **state) {
  (void)state;
  for (int isa = 0; isa < PU_ISA_COUNT; isa++) assert_true(strlen(pu_isa_name((pu_isa)isa)) > 2);
  pu_isa best = pu_isa_best();
  assert_int_equal(setenv("PUYU_ISA", "ref", 1), 0);
  assert_int_equal(pu_isa_best(), PU_ISA_REF);
  assert_int_equal(setenv("PUYU_ISA", "amx", 1), 0); /* only ever lowers */
  assert_true(pu_isa_best() <= PU_ISA_AMX);
  assert_int_equal(unsetenv("PUYU_ISA"), 0);
  assert_true(pu_isa_best() >= best);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_products), cmocka_unit_test(test_many_blocks),
                                     cmocka_unit_test(test_aligned_rows), cmocka_unit_test(test_tiled),
                                     cmocka_unit_test(test_isa_names)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
