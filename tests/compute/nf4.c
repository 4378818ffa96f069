/* NF4: what its bytes are, how far values move, and products with it. */
#include "puyu/compute.h"
#include "tests/test.h"

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
  assert_ok(pu_nf4_pack(packed, w, 70, &err), &err);
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
  assert_ok(pu_nf4_pack(packed, w, N, &err), &err);
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
  assert_non_null(t);
  pu_convert(t->data, dtype, v, PU_F32, rows * cols);
  if (grad) t->grad = pu_tensor_new(c, dtype, 2, t->shape, false);
  free(v);
  return t;
}

/* Forward and dx as with the plain weight that it stands for, to the bit. */
static void test_linear(void **state) {
  (void)state;
  static const pu_dtype types[] = {PU_F32, PU_BF16};
  enum { N = 37, M = 96, K = 64 };
  for (size_t i = 0; i < 2; i++) {
    pu_backend *be;
    pu_ctx c = {.err = &err};
    assert_ok(pu_backend_open("cpu", 2, &be, &err), &err);
    assert_ok(pu_arena_create(1 << 24, &c.mem, &err), &err);
    assert_ok(pu_arena_create(1 << 20, &c.host, &err), &err);
    c.be = be;
    float *w = normal(M * K, 5, 0.1f);
    pu_tensor *plain = made(&c, types[i], M, K, 1, false), packed = *plain;
    packed.layout = PU_LAYOUT_NF4;
    packed.data = pu_arena_alloc(c.mem, pu_nf4_bytes(M * K));
    assert_int_equal(pu_weight_bytes(&packed), pu_nf4_bytes(M * K));
    assert_ok(pu_nf4_pack(packed.data, w, M * K, &err), &err);
    pu_nf4_unpack(plain->data, types[i], packed.data, M * K, 0, M * K / 64);
    pu_tensor *x[2], *y[2];
    for (int k = 0; k < 2; k++) {
      x[k] = made(&c, types[i], N, K, 9, true);
      y[k] = made(&c, types[i], N, M, 11, true);
      pu_tensor *dy = made(&c, types[i], N, M, 13, false);
      y[k]->grad = dy;
      y[k]->grad_set = true;
      pu_linear_args a = {.x = x[k], .w = k ? &packed : plain, .y = y[k]};
      assert_ok(be->forward[PU_OP_linear](be, &a, &err), &err);
      assert_ok(be->backward[PU_OP_linear](be, &a, &err), &err);
    }
    assert_memory_equal(y[0]->data, y[1]->data, pu_tensor_bytes(y[0]));
    assert_memory_equal(x[0]->grad->data, x[1]->grad->data, pu_tensor_bytes(x[0]->grad));
    free(w);
    pu_arena_free(c.mem);
    pu_arena_free(c.host);
    be->close(be);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_bytes),
      cmocka_unit_test(test_error),
      cmocka_unit_test(test_linear),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
