/* NF4: what its bytes are, how far values move, and products with it. */
#include "tests/device.h"

#include <math.h>
#include <stdlib.h>

static pu_error err;

static float *normal(int64_t n, uint64_t seed, float deviation) {
  pu_rng r;
  float *v = malloc((size_t)n * sizeof *v);
  assert_non_null(v);
  pu_rng_seed(&r, seed);
  for (int64_t i = 0; i < n; i++) v[i] = deviation * (float)pu_rng_normal(&r);
  return v;
}

/* The first of two values is in the high half; codes are the paper's table in its order. */
static void test_bytes(void **state) {
  (void)state;
  uint8_t *packed = malloc(pu_nf4_bytes(70));
  float w[70] = {0}, back[70];
  w[0] = -2;
  w[1] = 2;
  w[3] = 0.16f; /* 0.08 of the scale: code 8 */
  w[64] = 2;
  w[69] = -1.1f; /* -0.55: code 2 */
  assert_ok(pu_nf4_pack(NULL, packed, w, 70, &err), &err);
  assert_int_equal(packed[0], 0x0F);
  assert_int_equal(packed[1], 0x78);
  assert_int_equal(packed[32], 0xF7);
  assert_int_equal(packed[34], 0x72);
  /* Both scales are 2: their mean is 2, what is left of them 0, in the map's middle. */
  assert_int_equal(packed[64], packed[65]);
  pu_nf4_unpack(back, PU_F32, packed, 70, 0, 2);
  assert_true(back[0] == -2 && back[1] == 2 && back[2] == 0 && back[64] == 2);
  assert_true(fabsf(back[3] - 0.15916f) < 1e-4f && fabsf(back[69] + 1.05015f) < 1e-4f);
  free(packed);
}

/* 4.127 bits a value; the error of normal values is about a tenth of them, and little of it is the scales' codes. */
static void test_error(void **state) {
  (void)state;
  enum { N = 64 * 256 * 9 + 5 };
  float *w = normal(N, 3, 0.02f), *back = malloc(N * sizeof *back);
  void *packed = malloc(pu_nf4_bytes(N));
  assert_true((double)pu_nf4_bytes(N) * 8 / N < 4.15);
  assert_ok(pu_nf4_pack(NULL, packed, w, N, &err), &err);
  pu_nf4_unpack(back, PU_F32, packed, N, 0, N / 64 + 1);
  double wrong = 0, all = 0;
  for (int64_t b = 0; b < N; b += 64) {
    float most = 0;
    for (int64_t i = b; i < PU_MIN(b + 64, (int64_t)N); i++) most = fmaxf(most, fabsf(w[i]));
    for (int64_t i = b; i < PU_MIN(b + 64, (int64_t)N); i++) {
      assert_true(fabsf(back[i] - w[i]) <= 0.16f * most); /* half the widest gap, 0.152, and the scale's own error */
      wrong += pow((double)back[i] - (double)w[i], 2);
      all += pow((double)w[i], 2);
    }
  }
  assert_true(sqrt(wrong / all) < 0.1);
  print_message("relative error of normal values: %.4f\n", sqrt(wrong / all));
  /* Parts unpack as the whole does. */
  float *part = malloc(N * sizeof *part);
  pu_nf4_unpack(part, PU_F32, packed, N, 0, 100);
  pu_nf4_unpack(part, PU_F32, packed, N, 100, N / 64 + 1);
  assert_memory_equal(part, back, N * sizeof *part);
  free(part);
  free(w);
  free(back);
  free(packed);
}

static pu_tensor *made(pu_ctx *c, pu_dtype dtype, int64_t rows, int64_t cols, uint64_t seed, bool grad) {
  pu_tensor *t = pu_tensor_new(c, dtype, 2, (int64_t[]){rows, cols}, false);
  float *v = normal(rows * cols, seed, 1);
  void *typed = malloc((size_t)(rows * cols) * sizeof(float));
  assert_non_null(t);
  assert_non_null(typed);
  pu_convert(typed, dtype, v, PU_F32, rows * cols);
  pu_test_upload(c->be, t, typed);
  if (grad) t->grad = pu_tensor_new(c, dtype, 2, t->shape, false);
  free(typed);
  free(v);
  return t;
}

/* A weight in NF4 and the plain one that it stands for. */
static void both_weights(pu_ctx *c, pu_dtype dtype, int64_t rows, int64_t cols, pu_tensor *packed, pu_tensor *plain) {
  int64_t n = rows * cols;
  float *w = normal(n, 5, 0.1f);
  void *values = malloc((size_t)n * sizeof *w), *bytes = malloc(pu_nf4_bytes(n));
  assert_true(values && bytes);
  *plain = *packed = *made(c, dtype, rows, cols, 1, false);
  packed->layout = PU_LAYOUT_NF4;
  packed->data = pu_arena_alloc(c->mem, pu_nf4_bytes(n));
  assert_int_equal(pu_weight_bytes(packed), pu_nf4_bytes(n));
  assert_ok(pu_nf4_pack(c->be->pool, bytes, w, n, &err), &err);
  assert_ok(c->be->upload(c->be, packed->data, bytes, pu_nf4_bytes(n), &err), &err);
  pu_nf4_unpack(values, dtype, bytes, n, 0, (n + 63) / 64);
  pu_test_upload(c->be, plain, values);
  free(w);
  free(values);
  free(bytes);
}

static void assert_same(pu_backend *be, const pu_tensor *a, const pu_tensor *b) {
  void *x = pu_test_download(be, a), *y = pu_test_download(be, b);
  assert_memory_equal(x, y, pu_tensor_bytes(a));
  free(x);
  free(y);
}

static void one_linear(pu_backend *be, pu_dtype dtype, int64_t n, int64_t m, int64_t k) {
  pu_ctx c = {.err = &err, .be = be};
  pu_tensor w[2], *x[2], *y[2];
  void *memory = pu_test_memory(be, 1 << 24, &c.mem);
  assert_ok(pu_arena_create(1 << 20, &c.host, &err), &err);
  both_weights(&c, dtype, m, k, &w[0], &w[1]);
  for (int i = 0; i < 2; i++) {
    x[i] = made(&c, dtype, n, k, 9, true);
    y[i] = made(&c, dtype, n, m, 11, true);
    y[i]->grad = made(&c, dtype, n, m, 13, false);
    y[i]->grad_set = true;
    pu_linear_args a = {.x = x[i], .w = &w[i], .y = y[i]};
    assert_ok(be->forward[PU_OP_linear](be, &a, &err), &err);
    assert_ok(be->backward[PU_OP_linear](be, &a, &err), &err);
  }
  assert_same(be, y[0], y[1]);
  assert_same(be, x[0]->grad, x[1]->grad);
  pu_arena_free(c.mem);
  pu_arena_free(c.host);
  be->free(be, memory);
}

/* Forward and dx as with the plain weight that it stands for, to the bit; blocks end within rows, groups of scales
 * within the weight, and a block where the weight does. */
static void test_linear(void **state) {
  (void)state;
  pu_backend *be;
  assert_ok(pu_test_open(2, pu_isa_best(), &be, &err), &err);
  for (pu_dtype dtype = PU_F32; dtype <= PU_BF16; dtype++) {
    one_linear(be, dtype, 37, 96, 64);
    one_linear(be, dtype, 5, 33, 72);
    one_linear(be, dtype, 3, 7, 9);
    one_linear(be, dtype, 16, 300, 136);
  }
  be->close(be);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_bytes),
      cmocka_unit_test(test_error),
      cmocka_unit_test(test_linear),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
