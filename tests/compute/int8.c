/* Weights in PU_LAYOUT_INT8: the CPU against the definition, the device that PUYU_TEST_DEVICE names against the CPU, a
 * row among others against the row alone: all to the bit. */
#include <math.h>

#include "tests/device.h"

typedef struct shape {
  int64_t n, k, m; /* tokens, columns of x, of y */
  bool bias;
  bool strided; /* x's rows lie apart */
  bool odd;     /* rows of zeros, of very small and very large values, and of what is no number */
  bool f32;     /* y is of f32, not of bf16 */
} shape;

typedef struct run {
  pu_backend *be;
  pu_ctx c;
  pu_error e;
  void *memory;
  pu_tensor *x, *plain, *w, *b;
} run;

static float value(int64_t row, int64_t col, uint64_t seed, bool odd) {
  uint64_t r = pu_random_at(seed, (uint64_t)row, (uint64_t)col);
  float v = ((float)(r & 0xffff) + (float)(r >> 16 & 0xffff) - 65535.0f) / 65536;
  if (!odd) return v;
  switch (row % 7) {
  case 1:
    return 0;
  case 2:
    return v * 1e-34f;
  case 3:
    return v * 1e37f;
  case 4:
    return col == 3 ? (row % 2 ? INFINITY : NAN) : v;
  default:
    return col % 97 == 5 ? v * 100 : v;
  }
}

static pu_tensor *filled(run *r, int64_t rows, int64_t cols, int64_t step, uint64_t seed, bool odd) {
  pu_tensor *t = pu_tensor_new(&r->c, PU_BF16, 2, (int64_t[]){rows, step}, false);
  uint16_t *host = malloc((size_t)(rows * step) * sizeof *host);
  assert_non_null(t);
  assert_non_null(host);
  memset(host, 0xff, (size_t)(rows * step) * sizeof *host); /* what lies between rows is no number */
  for (int64_t n = 0; n < rows; n++)
    for (int64_t k = 0; k < cols; k++) host[n * step + k] = pu_f32_to_bf16(value(n, k, seed, odd));
  pu_test_upload(r->be, t, host);
  free(host);
  t->shape[1] = cols;
  return t;
}

static void open_run(run *r, const char *device, const shape *s) {
  *r = (run){0};
  size_t bytes = (size_t)((s->n + s->m) * (s->k + 64) * 4 + s->n * s->m * 160) + (1 << 20);
  assert_ok(pu_backend_open(device, 2, &r->be, &r->e), &r->e);
  r->memory = pu_test_memory(r->be, bytes, &r->c.mem);
  assert_ok(pu_arena_create(8 << 20, &r->c.host, &r->e), &r->e);
  r->c.be = r->be;
  r->c.err = &r->e;
  r->x = filled(r, s->n, s->k, s->k + (s->strided ? 24 : 0), 1, s->odd);
  r->plain = filled(r, s->m, s->k, s->k, 2, false);
  r->w = pu_tensor_over(&r->c, PU_BF16, 2, r->plain->shape, NULL);
  r->w->layout = PU_LAYOUT_INT8;
  r->w->data = pu_arena_alloc(r->c.mem, pu_weight_bytes(r->w));
  assert_non_null(r->w->data);
  assert_ok(pu_int8_weight(&r->c, r->plain, r->w), &r->e);
  if (!s->bias) return;
  r->b = filled(r, 1, s->m, s->m, 3, false);
  r->b = pu_tensor_over(&r->c, PU_BF16, 1, &s->m, r->b->data);
}

static void close_run(run *r) {
  pu_arena_free(r->c.mem);
  pu_arena_free(r->c.host);
  r->be->free(r->be, r->memory);
  r->be->close(r->be);
}

/* The first n rows. */
static void *product(run *r, const shape *s, int64_t n) {
  pu_tensor x = *r->x;
  x.shape[0] = n;
  pu_tensor *y = pu_linear(&r->c, &x, r->w, r->b, s->f32);
  if (!y) fail_msg("%s", r->e.msg);
  return pu_test_download(r->be, y);
}

/* One row by the definition, of values as they are in bf16. */
static float coded(int64_t row, int64_t cols, uint64_t seed, bool odd, int8_t *codes) {
  float most = 0x1p-100f;
  for (int64_t k = 0; k < cols; k++) {
    float v = fabsf(pu_bf16_to_f32(pu_f32_to_bf16(value(row, k, seed, odd))));
    if (!isfinite(v)) return NAN;
    most = fmaxf(most, v);
  }
  float scale = most * (1.0f / 127), by = 1 / scale;
  for (int64_t k = 0; k < cols; k++)
    codes[k] = (int8_t)lrintf(pu_bf16_to_f32(pu_f32_to_bf16(value(row, k, seed, odd))) * by);
  return scale;
}

static float *defined(const shape *s) {
  float *y = malloc((size_t)(s->n * s->m) * sizeof *y), *w_scale = malloc((size_t)s->m * sizeof *w_scale);
  int8_t *x = calloc((size_t)s->k, 1), *w = calloc((size_t)s->m, (size_t)s->k);
  assert_true(y && w_scale && x && w);
  for (int64_t m = 0; m < s->m; m++) w_scale[m] = coded(m, s->k, 2, false, w + m * s->k);
  for (int64_t n = 0; n < s->n; n++) {
    float x_scale = coded(n, s->k, 1, s->odd, x);
    for (int64_t m = 0; m < s->m; m++) {
      int64_t sum = 0;
      for (int64_t k = 0; k < s->k; k++) sum += x[k] * w[m * s->k + k];
      float v = (float)sum * x_scale;
      v *= w_scale[m];
      if (s->bias) v += pu_bf16_to_f32(pu_f32_to_bf16(value(0, m, 3, false)));
      y[n * s->m + m] = v;
    }
  }
  free(w_scale);
  free(x);
  free(w);
  return y;
}

static float at(const shape *s, const void *y, int64_t i) {
  return s->f32 ? ((const float *)y)[i] : pu_bf16_to_f32(((const uint16_t *)y)[i]);
}

/* The first n rows of b are a's. */
static void same(const shape *s, int64_t n, const void *a, const void *b, const char *what) {
  for (int64_t i = 0; i < n * s->m; i++) {
    float x = at(s, a, i), y = at(s, b, i);
    if (memcmp(&x, &y, sizeof x) != 0 && !(isnan(x) && isnan(y)))
      fail_msg("%s, %lld x %lld x %lld: row %lld, column %lld is %g, not %g", what, (long long)n, (long long)s->k,
               (long long)s->m, (long long)(i / s->m), (long long)(i % s->m), (double)y, (double)x);
  }
}

static const shape shapes[] = {
    {.n = 7, .k = 16, .m = 16, .f32 = true},
    {.n = 33, .k = 48, .m = 16, .bias = true},
    {.n = 9, .k = 1040, .m = 272, .bias = true, .strided = true},
    {.n = 70, .k = 384, .m = 144, .odd = true},
    {.n = 130, .k = 512, .m = 256, .bias = true, .f32 = true},
};

static void as_it_is_defined(void **state) {
  (void)state;
  for (size_t i = 0; i < PU_COUNT(shapes); i++) {
    const shape *s = &shapes[i];
    run r;
    open_run(&r, "cpu", s);
    float *want = defined(s);
    void *got = product(&r, s, s->n);
    for (int64_t k = 0; !s->f32 && k < s->n * s->m; k++) want[k] = pu_bf16_to_f32(pu_f32_to_bf16(want[k]));
    for (int64_t k = 0; k < s->n * s->m; k++) {
      float v = at(s, got, k);
      if (memcmp(&v, &want[k], sizeof v) != 0 && !(isnan(v) && isnan(want[k])))
        fail_msg("shape %zu: value %lld is %g, not %g", i, (long long)k, (double)v, (double)want[k]);
    }
    free(got);
    free(want);
    close_run(&r);
  }
}

static void near_the_plain_product(void **state) {
  const shape s = {.n = 20, .k = 512, .m = 128, .f32 = true};
  double off = 0, all = 0;
  run r;
  (void)state;
  open_run(&r, "cpu", &s);
  float *got = product(&r, &s, s.n);
  const float *want = pu_linear(&r.c, r.x, r.plain, NULL, true)->data;
  for (int64_t i = 0; i < s.n * s.m; i++) {
    off += (double)(got[i] - want[i]) * (double)(got[i] - want[i]);
    all += (double)want[i] * (double)want[i];
  }
  if (!(off < 1e-4 * all && off > 1e-7 * all)) fail_msg("%g of the size, squared, from what is exact", off / all);
  free(got);
  close_run(&r);
}

static void the_device_has_the_same_bits(void **state) {
  static const shape more[] = {
      {.n = 1, .k = 4096, .m = 4096},   {.n = 16, .k = 14336, .m = 512, .bias = true},
      {.n = 64, .k = 2048, .m = 4608},  {.n = 65, .k = 2064, .m = 1040, .f32 = true},
      {.n = 300, .k = 1024, .m = 1536}, {.n = 1030, .k = 528, .m = 2064, .bias = true},
      {.n = 3, .k = 256, .m = 36864},   {.n = 24, .k = 20496, .m = 32},
  };
  (void)state;
  if (!pu_test_elsewhere() || !pu_test_tiles()) skip();
  for (size_t i = 0; i < PU_COUNT(shapes) + PU_COUNT(more); i++) {
    const shape *s = i < PU_COUNT(shapes) ? &shapes[i] : &more[i - PU_COUNT(shapes)];
    run here, there;
    open_run(&here, "cpu", s);
    open_run(&there, pu_test_device(), s);
    void *want = product(&here, s, s->n), *got = product(&there, s, s->n);
    same(s, s->n, want, got, "the device");
    free(want);
    free(got);
    close_run(&here);
    close_run(&there);
  }
}

/* With swiglu in the product, and after it, of the first n rows. */
static void gates_inside_or_apart(run *r, int64_t n) {
  pu_tensor x = *r->x;
  x.shape[0] = n;
  pu_tensor *y = pu_linear_swiglu(&r->c, &x, r->w), *gu = pu_linear(&r->c, &x, r->w, NULL, false);
  if (!y || !gu) fail_msg("%s", r->e.msg);
  pu_tensor *apart = pu_swiglu(&r->c, gu);
  if (!apart) fail_msg("%s", r->e.msg);
  void *one = pu_test_download(r->be, y), *two = pu_test_download(r->be, apart);
  if (memcmp(one, two, pu_tensor_bytes(y)) != 0) fail_msg("%lld rows: other bits with swiglu inside", (long long)n);
  free(one);
  free(two);
}

/* Of numbers of rows for which kernels may differ. */
static void rows_stand_alone(void **state) {
  static const shape sizes[] = {{.n = 300, .k = 512, .m = 1024},
                                {.n = 600, .k = 272, .m = 144},
                                {.n = 80, .k = 272, .m = 17024}}; /* more lines a block of threads */
  static const int64_t counts[] = {1, 2, 5, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 128, 129, 200, 256};
  (void)state;
  if (!pu_test_tiles()) skip();
  for (size_t i = 0; i < PU_COUNT(sizes); i++) {
    const shape *s = &sizes[i];
    run r;
    open_run(&r, pu_test_device(), s);
    void *all = product(&r, s, s->n);
    for (size_t k = 0; k < PU_COUNT(counts) && counts[k] <= s->n; k++) {
      void *few = product(&r, s, counts[k]);
      same(s, counts[k], all, few, "rows among others");
      free(few);
      gates_inside_or_apart(&r, counts[k]);
    }
    free(all);
    close_run(&r);
  }
}

static void other_sizes_are_refused(void **state) {
  const shape s = {.n = 1, .k = 32, .m = 32};
  run r;
  (void)state;
  open_run(&r, "cpu", &s);
  pu_tensor *odd = filled(&r, 32, 24, 24, 1, false), w = *odd;
  w.layout = PU_LAYOUT_INT8;
  assert_int_equal(pu_int8_weight(&r.c, odd, &w), PU_ERR_SHAPE);
  close_run(&r);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(as_it_is_defined),
      cmocka_unit_test(near_the_plain_product),
      cmocka_unit_test(the_device_has_the_same_bits),
      cmocka_unit_test(rows_stand_alone),
      cmocka_unit_test(other_sizes_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
