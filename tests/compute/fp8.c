/* FP8 itself; linear_fp8 and mlp_fp8 on the CPU against products without rounding; the device that PUYU_TEST_DEVICE
 * names against the CPU. */
#include <math.h>

#include "tests/device.h"

/* ---- the types ------------------------------------------------------------------------------------------------------
 */

typedef struct code_type {
  int fraction, bias, last; /* bits of fraction; the largest finite code */
  float (*wide)(uint8_t v);
  uint8_t (*narrow)(float f);
} code_type;

static const code_type types[] = {{3, 7, 0x7e, pu_e4m3_to_f32, pu_f32_to_e4m3},
                                  {2, 15, 0x7b, pu_e5m2_to_f32, pu_f32_to_e5m2}};

static void every_code_is_its_value(void **state) {
  (void)state;
  for (size_t i = 0; i < PU_COUNT(types); i++) {
    const code_type *t = &types[i];
    for (int code = 0; code <= t->last; code++) {
      int exponent = code >> t->fraction, one = 1 << t->fraction, rest = code & (one - 1);
      double v = ldexp(exponent ? one + rest : rest, PU_MAX(exponent, 1) - t->bias - t->fraction);
      assert_true((double)t->wide((uint8_t)code) == v && (double)t->wide((uint8_t)(code | 0x80)) == -v);
      assert_int_equal(t->narrow((float)v), code);
      assert_int_equal(t->narrow(-(float)v), code | 0x80);
    }
    assert_true(isnan(t->wide(0x7f)) && isnan(t->wide(0xff)));
    assert_int_equal(t->narrow(NAN) & 0x7f, 0x7f);
  }
  assert_true(isinf(pu_e5m2_to_f32(0x7c)) && isnan(pu_e5m2_to_f32(0x7d)));
}

static void values_go_to_the_nearest_code(void **state) {
  (void)state;
  for (size_t i = 0; i < PU_COUNT(types); i++) {
    const code_type *t = &types[i];
    float last = t->wide((uint8_t)t->last);
    for (int code = 0; code < t->last; code++) {
      float low = t->wide((uint8_t)code), high = t->wide((uint8_t)(code + 1)), middle = (low + high) / 2;
      assert_int_equal(t->narrow(middle), code % 2 ? code + 1 : code); /* to even */
      assert_int_equal(t->narrow(nextafterf(middle, 0)), code);
      assert_int_equal(t->narrow(nextafterf(middle, INFINITY)), code + 1);
      assert_int_equal(t->narrow(-nextafterf(middle, INFINITY)), 0x80 | (code + 1));
    }
    const float beyond[] = {last * 1.01f, last * 1.07f, last * 2, 1e30f, INFINITY};
    for (size_t k = 0; k < PU_COUNT(beyond); k++) {
      assert_int_equal(t->narrow(beyond[k]), t->last);
      assert_int_equal(t->narrow(-beyond[k]), t->last | 0x80);
    }
    assert_int_equal(t->narrow(1e-40f), 0);
  }
}

/* ---- one run of one operation --------------------------------------------------------------------------------------
 */

enum { MEMORY = 64 << 20, MOST = 8 };

/* Sizes, and what is special about a run. */
typedef struct shape {
  int64_t n, k, m;    /* tokens, columns of x, of y */
  int64_t inner;      /* of an MLP; 0: a linear */
  bool bias, strided; /* x's rows lie apart */
  bool add;           /* gradients are added to what is there */
  bool odd;           /* blocks of zeros, of very small and of very large values */
} shape;

typedef struct run {
  pu_backend *be;
  pu_ctx c;
  pu_error e;
  void *memory;
  pu_rng rng;
  pu_tensor *out[MOST];
  int n;
} run;

static void run_open(run *r, const char *device, size_t memory) {
  *r = (run){0};
  assert_ok(pu_backend_open(device, 2, &r->be, &r->e), &r->e);
  r->memory = pu_test_memory(r->be, memory, &r->c.mem);
  assert_ok(pu_arena_create(8 << 20, &r->c.host, &r->e), &r->e);
  assert_ok(pu_tape_create(r->c.host, &r->c.tape, &r->e), &r->e);
  r->c.be = r->be;
  r->c.err = &r->e;
  pu_rng_seed(&r->rng, 7);
}

static void run_close(run *r) {
  pu_arena_free(r->c.mem);
  pu_arena_free(r->c.host);
  r->be->free(r->be, r->memory);
  r->be->close(r->be);
}

static float value(run *r, const shape *s, int64_t row, int64_t col, float size) {
  float v = (float)(pu_rng_uniform(&r->rng) + pu_rng_uniform(&r->rng) + pu_rng_uniform(&r->rng) - 1.5) * size;
  int64_t block = row / 128 * 3 + col / 128;
  if (!s->odd) return v;
  if (block % 4 == 1) return 0;
  return block % 4 == 2 ? v * 1e-30f : block % 4 == 3 && row % 128 == 5 ? v * 1000 : v;
}

static pu_tensor *filled(run *r, const shape *s, pu_dtype type, int64_t rows, int64_t cols, int64_t step, float size) {
  pu_tensor *t = pu_tensor_new(&r->c, type, 2, (int64_t[]){rows, step}, true);
  assert_non_null(t);
  size_t bytes = pu_tensor_bytes(t);
  char *host = malloc(bytes);
  assert_non_null(host);
  memset(host, 0xff, bytes); /* what lies between rows is no number */
  for (int64_t n = 0; n < rows; n++)
    for (int64_t k = 0; k < cols; k++) {
      float v = value(r, s, n, k, size);
      if (type == PU_F32)
        ((float *)host)[n * step + k] = v;
      else
        ((uint16_t *)host)[n * step + k] = pu_f32_to_bf16(v);
    }
  pu_test_upload(r->be, t, host);
  free(host);
  t->shape[1] = cols;
  return t;
}

static void with_grad(run *r, const shape *s, pu_tensor *t, pu_dtype type) {
  t->grad = filled(r, s, type, t->shape[0], t->shape[1], t->shape[1], s->add ? 0.1f : 0);
  t->grad_set = s->add;
}

static void keep(run *r, pu_tensor *t) {
  r->out[r->n++] = t;
}

static void back(run *r, pu_op op, void *args, pu_tensor *y, const shape *s) {
  y->grad = filled(r, s, PU_BF16, y->shape[0], y->shape[1], y->shape[1], 0.01f);
  y->grad_set = true;
  assert_ok(r->be->backward[op](r->be, args, &r->e), &r->e);
}

static void run_linear(run *r, const shape *s) {
  pu_tensor *x = filled(r, s, PU_BF16, s->n, s->k, s->k + (s->strided ? 8 : 0), 1);
  pu_tensor *w = filled(r, s, PU_BF16, s->m, s->k, s->k, 0.1f), *b = NULL;
  with_grad(r, s, x, PU_BF16);
  with_grad(r, s, w, PU_F32);
  if (s->bias) {
    const shape plain = {.add = s->add};
    b = filled(r, &plain, PU_F32, 1, s->m, s->m, 1);
    *b = *pu_tensor_over(&r->c, PU_F32, 1, &s->m, b->data);
    b->grad = pu_tensor_over(&r->c, PU_F32, 1, &s->m, filled(r, &plain, PU_F32, 1, s->m, s->m, 0.1f)->data);
    b->grad_set = s->add;
  }
  pu_tensor *y = pu_linear_fp8(&r->c, x, w, b);
  if (!y) fail_msg("%s", r->e.msg);
  pu_linear_fp8_args a = {.x = x, .w = w, .b = b, .y = y};
  back(r, PU_OP_linear_fp8, &a, y, s);
  keep(r, y), keep(r, x->grad), keep(r, w->grad);
  if (b) keep(r, b->grad);
}

static void run_mlp(run *r, const shape *s) {
  pu_tensor *x = filled(r, s, PU_BF16, s->n, s->k, s->k + (s->strided ? 8 : 0), 1);
  pu_tensor *gate_up = filled(r, s, PU_BF16, 2 * s->inner, s->k, s->k, 0.1f);
  pu_tensor *down = filled(r, s, PU_BF16, s->m, s->inner, s->inner, 0.1f);
  with_grad(r, s, x, PU_BF16);
  with_grad(r, s, gate_up, PU_F32);
  with_grad(r, s, down, PU_F32);
  pu_mlp_fp8_args a = {.x = x, .gate_up = gate_up, .down = down};
  a.gu = pu_tensor_new(&r->c, PU_BF16, 2, (int64_t[]){s->n, 2 * s->inner}, false);
  a.y = pu_tensor_new(&r->c, PU_BF16, 2, (int64_t[]){s->n, s->m}, true);
  assert_ok(r->be->forward[PU_OP_mlp_fp8](r->be, &a, &r->e), &r->e);
  back(r, PU_OP_mlp_fp8, &a, a.y, s);
  keep(r, a.gu), keep(r, a.y), keep(r, x->grad), keep(r, gate_up->grad), keep(r, down->grad);
}

static double at(const pu_tensor *t, const void *host, int64_t i) {
  return t->dtype == PU_F32 ? (double)((const float *)host)[i] : (double)pu_bf16_to_f32(((const uint16_t *)host)[i]);
}

/* ||a - b|| / ||b||; of what is no number in one alone, infinity. */
static double distance(run *a, run *b, int i) {
  void *x = pu_test_download(a->be, a->out[i]), *y = pu_test_download(b->be, b->out[i]);
  double off = 0, all = 0;
  for (int64_t k = 0; k < pu_tensor_count(a->out[i]); k++) {
    double u = at(a->out[i], x, k), v = at(b->out[i], y, k);
    if (isnan(u) != isnan(v)) off = INFINITY;
    if (isnan(u) || isnan(v)) continue;
    off += (u - v) * (u - v);
    all += v * v;
  }
  free(x);
  free(y);
  return sqrt(off / fmax(all, 1e-60));
}

static const shape shapes[] = {
    {.n = 128, .k = 128, .m = 128},
    {.n = 256, .k = 640, .m = 384},
    {.n = 384, .k = 128, .m = 1152, .bias = true},
    {.n = 1152, .k = 256, .m = 128, .strided = true},
    {.n = 256, .k = 384, .m = 256, .bias = true, .add = true},
    {.n = 512, .k = 512, .m = 384, .odd = true},
    {.n = 128, .k = 128, .m = 128, .inner = 128},
    {.n = 384, .k = 256, .m = 128, .inner = 640},
    {.n = 640, .k = 384, .m = 384, .inner = 256, .strided = true, .add = true},
    {.n = 256, .k = 256, .m = 256, .inner = 512, .odd = true},
};

static void run_shape(run *r, const char *device, const shape *s) {
  run_open(r, device, MEMORY);
  if (s->inner)
    run_mlp(r, s);
  else
    run_linear(r, s);
}

/* ---- against products without rounding -----------------------------------------------------------------------------
 */

/* mlp_fp8 of the plain operations. Their own tensors lie in memory of this machine: of the CPU alone. */
static pu_tensor room(int64_t rows, int64_t cols) {
  pu_tensor t = {.dtype = PU_BF16, .ndim = 2, .shape = {rows, cols}, .stride = {cols, 1}};
  t.data = calloc((size_t)(rows * cols), sizeof(uint16_t));
  assert_non_null(t.data);
  return t;
}

static pu_err plain_mlp(pu_backend *be, void *args, pu_error *e) {
  const pu_mlp_fp8_args *a = args;
  pu_tensor act = room(a->x->shape[0], a->down->shape[1]);
  pu_linear_args up = {.x = a->x, .w = a->gate_up, .y = a->gu}, down = {.x = &act, .w = a->down, .y = a->y};
  pu_swiglu_args gates = {.gu = a->gu, .y = &act};
  pu_err err = be->forward[PU_OP_linear](be, &up, e);
  if (!err) err = be->forward[PU_OP_swiglu](be, &gates, e);
  if (!err) err = be->forward[PU_OP_linear](be, &down, e);
  free(act.data);
  return err;
}

static pu_err plain_mlp_back(pu_backend *be, void *args, pu_error *e) {
  const pu_mlp_fp8_args *a = args;
  int64_t n = a->x->shape[0], inner = a->down->shape[1];
  pu_tensor act = room(n, inner), dact = room(n, inner), dgu = room(n, 2 * inner), gu = *a->gu;
  act.grad = &dact;
  gu.grad = &dgu;
  gu.grad_set = false;
  pu_linear_args up = {.x = a->x, .w = a->gate_up, .y = &gu}, down = {.x = &act, .w = a->down, .y = a->y};
  pu_swiglu_args gates = {.gu = &gu, .y = &act};
  pu_err err = be->forward[PU_OP_swiglu](be, &gates, e);
  if (!err) err = be->backward[PU_OP_linear](be, &down, e);
  if (!err) err = be->backward[PU_OP_swiglu](be, &gates, e);
  if (!err) err = be->backward[PU_OP_linear](be, &up, e);
  free(act.data);
  free(dact.data);
  free(dgu.data);
  return err;
}

static void rounding_is_small(void **state) {
  (void)state;
  for (size_t i = 0; i < PU_COUNT(shapes); i++) {
    if (shapes[i].odd) continue;
    run r, want;
    run_shape(&r, "cpu", &shapes[i]);
    run_open(&want, "cpu", MEMORY);
    /* The same values: the operation alone is another. */
    const pu_op_fn forward = want.be->forward[PU_OP_linear], backward = want.be->backward[PU_OP_linear];
    want.be->forward[PU_OP_linear_fp8] = forward, want.be->backward[PU_OP_linear_fp8] = backward;
    want.be->forward[PU_OP_mlp_fp8] = plain_mlp, want.be->backward[PU_OP_mlp_fp8] = plain_mlp_back;
    if (shapes[i].inner)
      run_mlp(&want, &shapes[i]);
    else
      run_linear(&want, &shapes[i]);
    for (int k = 0; k < r.n; k++) {
      double off = distance(&r, &want, k);
      /* Three bits of fraction: 2.6 % of a value; two: 5.2 %; sums keep the share. MLPs round up to three times. */
      if (off > (shapes[i].inner ? 0.11 : 0.075) || (k < 3 && !shapes[i].add && off < 0.01))
        fail_msg("shape %zu, result %d: %g from what is exact", i, k, off);
    }
    run_close(&r);
    run_close(&want);
  }
}

/* Rows of a gradient far below its largest value keep their bits, wherever that lies between two powers. */
static void small_gradients_stay_on(const char *device, float largest) {
  enum { N = 128 };
  const shape s = {.n = N, .k = N, .m = N};
  run r;
  run_open(&r, device, MEMORY);
  pu_tensor *x = filled(&r, &s, PU_BF16, N, N, N, 1), *w = filled(&r, &s, PU_BF16, N, N, N, 1);
  with_grad(&r, &s, x, PU_BF16);
  w->grad = NULL;
  pu_tensor *y = pu_linear_fp8(&r.c, x, w, NULL);
  if (!y) fail_msg("%s", r.e.msg);
  y->grad = filled(&r, &s, PU_BF16, N, N, N, largest);
  uint16_t *dy = pu_test_download(r.be, y->grad), *weight = pu_test_download(r.be, w);
  for (int i = 0; i < N * N; i++) dy[i] = pu_f32_to_bf16(ldexpf(pu_bf16_to_f32(dy[i]), -(i / N % 20)));
  pu_test_upload(r.be, y->grad, dy);
  y->grad_set = true;
  pu_linear_fp8_args a = {.x = x, .w = w, .y = y};
  assert_ok(r.be->backward[PU_OP_linear_fp8](r.be, &a, &r.e), &r.e);
  uint16_t *dx = pu_test_download(r.be, x->grad);
  for (int n = 0; n < N; n++) {
    double off = 0, all = 0;
    for (int k = 0; k < N; k++) {
      double want = 0;
      for (int m = 0; m < N; m++) want += pu_bf16_to_f32(dy[n * N + m]) * pu_bf16_to_f32(weight[m * N + k]);
      off += pow(pu_bf16_to_f32(dx[n * N + k]) - want, 2);
      all += want * want;
    }
    if (!(off < 0.08 * 0.08 * all)) fail_msg("%s: row %d of %g: %g off", device, n, (double)largest, sqrt(off / all));
  }
  free(dy), free(weight), free(dx);
  run_close(&r);
}

static void small_gradients_stay(void **state) {
  (void)state;
  for (float largest = 1e-3f; largest < 0.1f; largest *= 2) {
    small_gradients_stay_on("cpu", largest);
    if (pu_test_elsewhere()) small_gradients_stay_on(pu_test_device(), largest);
  }
}

static void other_sizes_are_linear_itself(void **state) {
  (void)state;
  run r;
  const shape s = {.n = 64};
  run_open(&r, "cpu", MEMORY);
  pu_tensor *x = filled(&r, &s, PU_BF16, 64, 128, 128, 1), *w = filled(&r, &s, PU_BF16, 128, 128, 128, 1);
  pu_tensor *up = filled(&r, &s, PU_BF16, 256, 128, 128, 1), *narrow = filled(&r, &s, PU_F32, 128, 128, 128, 1);
  keep(&r, pu_linear_fp8(&r.c, x, w, NULL));
  keep(&r, pu_linear(&r.c, x, w, NULL, false));
  keep(&r, pu_mlp_fp8(&r.c, x, up, w));
  keep(&r, pu_linear(&r.c, pu_swiglu(&r.c, pu_linear(&r.c, x, up, NULL, false)), w, NULL, false));
  for (int i = 0; i < 4; i += 2) assert_memory_equal(r.out[i]->data, r.out[i + 1]->data, pu_tensor_bytes(r.out[i]));
  assert_null(pu_linear_fp8(&r.c, x, narrow, NULL)); /* of another type */
  run_close(&r);
}

/* ---- the device against the CPU ------------------------------------------------------------------------------------
 */

static void device_agrees(const shape *s, double most) {
  run r, want;
  run_shape(&r, pu_test_device(), s);
  run_shape(&want, "cpu", s);
  for (int k = 0; k < r.n; k++) {
    double off = distance(&r, &want, k);
    if (!(off < most)) fail_msg("%lld tokens, result %d: %g from the CPU's", (long long)s->n, k, off);
  }
  run_close(&r);
  run_close(&want);
}

static void the_device_agrees(void **state) {
  static const shape many = {.n = 16384, .k = 256, .m = 256}; /* sums in few bits are roughest */
  (void)state;
  if (!pu_test_elsewhere()) skip();
  /* Rounded to bf16, and within MLPs rounded to FP8 once more from what differs in its last bit. */
  for (size_t i = 0; i < PU_COUNT(shapes); i++) device_agrees(&shapes[i], shapes[i].inner ? 1e-2 : 3e-3);
  device_agrees(&many, 5e-3);
}

/* ---- inference -----------------------------------------------------------------------------------------------------
 */

static const shape matrices[] = {
    {.n = 130, .k = 512, .m = 256},
    {.n = 33, .k = 48, .m = 16, .bias = true},
    {.n = 7, .k = 1040, .m = 272, .bias = true, .strided = true},
    {.n = 256, .k = 384, .m = 128, .odd = true},
};

static pu_tensor *fp8_weight(run *r, const shape *s) {
  pu_tensor *plain = filled(r, s, PU_BF16, s->m, s->k, s->k, 0.1f),
            *w = pu_tensor_over(&r->c, PU_BF16, 2, plain->shape, NULL);
  w->layout = PU_LAYOUT_FP8;
  w->data = pu_arena_alloc(r->c.mem, pu_weight_bytes(w));
  assert_non_null(w->data);
  assert_ok(pu_fp8_weight(&r->c, plain, w), &r->e);
  keep(r, plain);
  return w;
}

/* Products with a weight in FP8, in both types that they may have; the plain weight and x before them. */
static void run_inference(run *r, const char *device, const shape *s) {
  const shape plain = {0};
  run_open(r, device, MEMORY);
  pu_tensor *w = fp8_weight(r, s), *x = filled(r, s, PU_BF16, s->n, s->k, s->k + (s->strided ? 8 : 0), 1), *b = NULL;
  if (s->bias) b = pu_tensor_over(&r->c, PU_F32, 1, &s->m, filled(r, &plain, PU_F32, 1, s->m, s->m, 1)->data);
  r->c.tape = NULL;
  keep(r, x);
  for (int f32 = 0; f32 < 2; f32++) {
    pu_tensor *y = pu_linear(&r->c, x, w, b, f32);
    if (!y) fail_msg("%s", r->e.msg);
    keep(r, y);
  }
  if (s->strided) return;
  keep(r, pu_linear(&r->c, x, r->out[0], b, true)); /* with the plain weight */
}

static void weights_in_fp8(void **state) {
  bool both = pu_test_elsewhere() && pu_test_fp8();
  (void)state;
  for (size_t i = 0; i < PU_COUNT(matrices); i++) {
    run r;
    run_inference(&r, "cpu", &matrices[i]);
    if (!matrices[i].strided && !matrices[i].odd) {
      run exact = {.be = r.be, .out = {r.out[4]}};
      run rounded = {.be = r.be, .out = {r.out[3]}};
      double off = distance(&rounded, &exact, 0);
      if (off > 0.05 || off < 0.001) fail_msg("matrix %zu: %g from what is exact", i, off);
    }
    if (both) {
      run there;
      run_inference(&there, pu_test_device(), &matrices[i]);
      for (int k = 2; k < 4; k++) {
        double off = distance(&there, &r, k);
        if (!(off < 3e-3)) fail_msg("matrix %zu, result %d: %g from the CPU's", i, k, off);
      }
      run_close(&there);
    }
    run_close(&r);
  }
}

/* ---- inference, a scale a block ------------------------------------------------------------------------------------
 */

static int64_t blocks_of(int64_t n) {
  return (n + PU_FP8_BLOCK - 1) / PU_FP8_BLOCK;
}

/* Any code but NaN; scales of any size, zeros too. */
static uint8_t code_of(int64_t row, int64_t col) {
  uint8_t code = (uint8_t)pu_random_at(11, (uint64_t)row, (uint64_t)col);
  return (code & 0x7f) == 0x7f ? 0 : code;
}

static float scale_of(int64_t row, int64_t block) {
  uint64_t r = pu_random_at(12, (uint64_t)row, (uint64_t)block);
  return r % 16 == 0 ? 0 : ldexpf(1 + (float)(r >> 8 & 0xffff) / 65536, -9 - (int)(r % 6));
}

static pu_tensor *block_weight(run *r, int64_t rows, int64_t cols) {
  int64_t across = blocks_of(cols), n = blocks_of(rows) * across;
  pu_tensor *w = pu_tensor_over(&r->c, PU_BF16, 2, (int64_t[]){rows, cols}, NULL);
  w->layout = PU_LAYOUT_FP8;
  w->packing.group = PU_FP8_BLOCK;
  size_t bytes = pu_weight_bytes(w), at = pu_fp8_codes_bytes(rows, cols);
  assert_int_equal(bytes, at + (size_t)n * sizeof(float));
  w->data = pu_arena_alloc(r->c.mem, bytes);
  uint8_t *host = calloc(bytes, 1);
  assert_true(w->data && host);
  for (int64_t i = 0; i < rows * cols; i++) host[i] = code_of(i / cols, i % cols);
  for (int64_t i = 0; i < n; i++) ((float *)(host + at))[i] = scale_of(i / across, i % across);
  assert_ok(r->be->upload(r->be, w->data, host, bytes, &r->e), &r->e);
  free(host);
  return w;
}

/* One row of x in codes, by the definition; its scale. */
static float row_codes(const uint16_t *x, int64_t cols, float *codes) {
  float most = 0x1p-100f;
  for (int64_t k = 0; k < cols; k++) most = fmaxf(most, fabsf(pu_bf16_to_f32(x[k])));
  float scale = most * (1.0f / 448), by = 1 / scale;
  for (int64_t k = 0; k < cols; k++) codes[k] = pu_e4m3_to_f32(pu_f32_to_e4m3(pu_bf16_to_f32(x[k]) * by));
  return scale;
}

/* The weight's values, which f32 has exactly. */
static float *block_values(int64_t rows, int64_t cols) {
  float *w = malloc((size_t)(rows * cols) * sizeof *w);
  assert_non_null(w);
  for (int64_t i = 0; i < rows * cols; i++)
    w[i] = pu_e4m3_to_f32(code_of(i / cols, i % cols)) * scale_of(i / cols / PU_FP8_BLOCK, i % cols / PU_FP8_BLOCK);
  return w;
}

/* In double: the value of a row and a column, and the sum of its products' magnitudes. */
static double exact_value(const float *x, float x_scale, const float *w, int64_t cols, double *sum) {
  double y = 0;
  *sum = 0;
  for (int64_t k = 0; k < cols; k++) {
    double v = (double)x[k] * (double)w[k];
    y += v;
    *sum += fabs(v);
  }
  *sum *= (double)x_scale;
  return y * (double)x_scale;
}

/* Of so many bits that a product of a block keeps beside its largest one; y: rows y_step apart. */
static void blocks_are_exact(run *r, const shape *s, const pu_tensor *x, const float *w, const uint16_t *b,
                             const pu_tensor *y, int bits) {
  pu_tensor whole = *y, all = *x;
  whole.shape[1] = y->stride[0], all.shape[1] = x->stride[0];
  uint16_t *in = pu_test_download(r->be, &all);
  void *out = pu_test_download(r->be, &whole);
  float *codes = malloc((size_t)s->k * sizeof *codes);
  assert_non_null(codes);
  for (int64_t n = 0; n<s->n; n += s->n> 300 ? 37 : 1) {
    float scale = row_codes(in + n * x->stride[0], s->k, codes);
    for (int64_t m = n % 3; m<s->m; m += s->m> 1000 ? 7 : 1) {
      double sum, want = exact_value(codes, scale, w + m * s->k, s->k, &sum), got = at(y, out, n * y->stride[0] + m);
      if (b) want += (double)pu_bf16_to_f32(b[m]);
      double most = ldexp(sum, -bits) + (y->dtype == PU_BF16 ? fabs(want) * 0x1p-8 : fabs(want) * 0x1p-20);
      if (!(fabs(got - want) <= most))
        fail_msg("%lld x %lld x %lld: row %lld, column %lld is %g, not %g: off by 2^%g of its products' sum",
                 (long long)s->n, (long long)s->k, (long long)s->m, (long long)n, (long long)m, got, want,
                 log2(fabs(got - want) / sum));
    }
  }
  free(codes), free(in), free(out);
}

/* In y of both types, and in one whose rows lie so that no fast way may write them. */
static void blocks_on(const char *device, const shape *s, int bits) {
  const shape plain = {0};
  run r;
  run_open(&r, device, MEMORY);
  r.c.tape = NULL;
  pu_tensor *w = block_weight(&r, s->m, s->k), *b = NULL;
  pu_tensor *x = filled(&r, s, PU_BF16, s->n, s->k, s->k + (s->strided ? 8 : 0), 1);
  float *values = block_values(s->m, s->k);
  uint16_t *bias = NULL;
  if (s->bias) {
    b = filled(&r, &plain, PU_BF16, 1, s->m, s->m, 1);
    bias = pu_test_download(r.be, b);
    b = pu_tensor_over(&r.c, PU_BF16, 1, &s->m, b->data);
  }
  for (int f32 = 0; f32 < 2; f32++) {
    pu_tensor *y = pu_linear(&r.c, x, w, b, f32);
    if (!y) fail_msg("%s", r.e.msg);
    blocks_are_exact(&r, s, x, values, bias, y, bits);
    pu_tensor *apart = pu_tensor_new(&r.c, y->dtype, 2, (int64_t[]){s->n, s->m + 1}, false);
    assert_non_null(apart);
    apart->shape[1] = s->m;
    pu_linear_args a = {.x = x, .w = w, .b = b, .y = apart};
    assert_ok(r.be->forward[PU_OP_linear](r.be, &a, &r.e), &r.e);
    blocks_are_exact(&r, s, x, values, bias, apart, bits);
  }
  free(bias), free(values);
  run_close(&r);
}

static void a_scale_a_block(void **state) {
  static const shape sizes[] = {{.n = 1, .k = 16, .m = 16},
                                {.n = 1, .k = 2064, .m = 272, .bias = true},
                                {.n = 4, .k = 1040, .m = 272, .strided = true},
                                {.n = 17, .k = 384, .m = 4240, .bias = true},
                                {.n = 64, .k = 272, .m = 144, .odd = true},
                                {.n = 65, .k = 272, .m = 144, .bias = true},
                                {.n = 65, .k = 656, .m = 4240},
                                {.n = 200, .k = 144, .m = 528, .strided = true},
                                {.n = 200, .k = 2064, .m = 16},
                                {.n = 2048, .k = 400, .m = 2320, .bias = true}};
  (void)state;
  for (size_t i = 0; i < PU_COUNT(sizes); i++) {
    blocks_on("cpu", &sizes[i], 18);
    if (pu_test_elsewhere() && pu_test_fp8()) blocks_on(pu_test_device(), &sizes[i], 10);
  }
}

static void no_numbers_stay_in_their_rows_on(const char *device, int64_t rows) {
  const shape s = {.n = rows, .k = 272, .m = 144};
  run r;
  run_open(&r, device, MEMORY);
  r.c.tape = NULL;
  pu_tensor *w = block_weight(&r, s.m, s.k), *x = filled(&r, &s, PU_BF16, s.n, s.k, s.k, 1);
  uint16_t *values = pu_test_download(r.be, x);
  values[3] = pu_f32_to_bf16(NAN), values[(rows - 1) * s.k + 200] = pu_f32_to_bf16(-INFINITY);
  pu_test_upload(r.be, x, values);
  pu_tensor *y = pu_linear(&r.c, x, w, NULL, false);
  if (!y) fail_msg("%s", r.e.msg);
  uint16_t *out = pu_test_download(r.be, y);
  for (int64_t i = 0; i < s.n * s.m; i++) {
    int64_t n = i / s.m;
    if (isfinite(pu_bf16_to_f32(out[i])) != (n > 0 && n < rows - 1))
      fail_msg("%s, %lld rows: row %lld, column %lld is %g", device, (long long)rows, (long long)n,
               (long long)(i % s.m), (double)pu_bf16_to_f32(out[i]));
  }
  free(values), free(out);
  run_close(&r);
}

static void no_numbers_stay_in_their_rows(void **state) {
  (void)state;
  for (int64_t rows = 3; rows < 200; rows += 90) {
    no_numbers_stay_in_their_rows_on("cpu", rows);
    if (pu_test_elsewhere() && pu_test_fp8()) no_numbers_stay_in_their_rows_on(pu_test_device(), rows);
  }
}

/* ---- rows among others, swiglu inside ------------------------------------------------------------------------------
 */

/* With swiglu in the product, and after it. */
static void gates_inside_or_apart(run *r, pu_tensor *x, pu_tensor *w) {
  pu_tensor *y = pu_linear_swiglu(&r->c, x, w), *gu = pu_linear(&r->c, x, w, NULL, false);
  if (!y || !gu) fail_msg("%s", r->e.msg);
  pu_tensor *apart = pu_swiglu(&r->c, gu);
  if (!apart) fail_msg("%s", r->e.msg);
  void *one = pu_test_download(r->be, y), *two = pu_test_download(r->be, apart);
  if (memcmp(one, two, pu_tensor_bytes(y)) != 0)
    fail_msg("%lld rows: other bits with swiglu inside", (long long)x->shape[0]);
  free(one);
  free(two);
}

/* A row does not depend on how many there are. */
static void rows_stand_alone_with(bool blocks) {
  static const shape sizes[] = {{.n = 1024, .k = 2048, .m = 2048},
                                {.n = 1024, .k = 8192, .m = 2048},
                                {.n = 1024, .k = 2048, .m = 4096},
                                {.n = 600, .k = 272, .m = 144},
                                {.n = 600, .k = 1024, .m = 288, .bias = true},
                                {.n = 80, .k = 272, .m = 9008, .bias = true}, /* more lines a block of threads */
                                {.n = 80, .k = 272, .m = 17024}};
  static const int64_t counts[] = {1, 2, 5, 8, 15, 16, 17, 31, 32, 33, 64, 65, 100, 128, 200, 256, 512};
  const shape plain = {0};
  for (size_t i = 0; i < PU_COUNT(sizes); i++) {
    run r;
    run_open(&r, pu_test_device(), (size_t)192 << 20);
    pu_tensor *w = blocks ? block_weight(&r, sizes[i].m, sizes[i].k) : fp8_weight(&r, &sizes[i]),
              *x = filled(&r, &sizes[i], PU_BF16, sizes[i].n, sizes[i].k, sizes[i].k, 1), *b = NULL;
    r.c.tape = NULL;
    if (sizes[i].bias)
      b = pu_tensor_over(&r.c, PU_F32, 1, &sizes[i].m, filled(&r, &plain, PU_F32, 1, sizes[i].m, sizes[i].m, 1)->data);
    pu_tensor *all = pu_linear(&r.c, x, w, b, i % 2);
    if (!all) fail_msg("%s", r.e.msg);
    char *want = pu_test_download(r.be, all);
    for (size_t k = 0; k < PU_COUNT(counts) && counts[k] <= sizes[i].n; k++) {
      pu_tensor few = *x;
      few.shape[0] = counts[k];
      pu_tensor *y = pu_linear(&r.c, &few, w, b, i % 2);
      if (!y) fail_msg("%lld rows: %s", (long long)counts[k], r.e.msg);
      char *got = pu_test_download(r.be, y);
      if (memcmp(got, want, pu_tensor_bytes(y)) != 0)
        fail_msg("size %zu, %lld rows: other bits than among all%s", i, (long long)counts[k],
                 blocks ? " with a scale a block" : "");
      free(got);
      gates_inside_or_apart(&r, &few, w);
    }
    free(want);
    run_close(&r);
  }
}

static void rows_stand_alone(void **state) {
  (void)state;
  if (!pu_test_elsewhere() || !pu_test_fp8()) skip();
  rows_stand_alone_with(false);
  rows_stand_alone_with(true);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_code_is_its_value),
      cmocka_unit_test(values_go_to_the_nearest_code),
      cmocka_unit_test(rounding_is_small),
      cmocka_unit_test(small_gradients_stay),
      cmocka_unit_test(other_sizes_are_linear_itself),
      cmocka_unit_test(the_device_agrees),
      cmocka_unit_test(weights_in_fp8),
      cmocka_unit_test(a_scale_a_block),
      cmocka_unit_test(no_numbers_stay_in_their_rows),
      cmocka_unit_test(rows_stand_alone),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
