/* Products with weights in few bits: every instruction set against the plain reference, to the bit; a token alone
 * against the same among others, to the bit; and the whole against the product in double of the weights that the bits
 * stand for, within the bound that compute.h promises. PUYU_TEST_DEVICE=cuda tests a plug-in likewise, within the bound
 * of a product with x as it is. */
#include <math.h>
#include <stdlib.h>

#include "puyu/compute.h"
#include "tests/test.h"

enum { ROOM = 64 << 20, TRIALS = PU_TSAN ? 4 : 240 };

typedef struct machine {
  pu_backend *be;
  void *memory;
  pu_arena *mem, *host;
  pu_error e;
  pu_ctx c;
} machine;

static void open_memory(machine *x) {
  assert_int_equal(x->be->alloc(x->be, ROOM, &x->memory, &x->e), PU_OK);
  assert_int_equal(pu_arena_wrap(x->memory, ROOM, &x->mem, &x->e), PU_OK);
  assert_int_equal(pu_arena_create(1 << 20, &x->host, &x->e), PU_OK);
  x->c = (pu_ctx){.be = x->be, .mem = x->mem, .host = x->host, .err = &x->e};
}

static void open_machine(machine *x, int threads, pu_isa isa) {
  assert_int_equal(pu_cpu_open(threads, isa, &x->be, &x->e), PU_OK);
  open_memory(x);
}

static void close_machine(machine *x) {
  pu_arena_free(x->mem);
  pu_arena_free(x->host);
  x->be->free(x->be, x->memory);
  x->be->close(x->be);
}

/* A product: sizes, the weight's values, x and bias. */
typedef struct product {
  int64_t n, m, k, groups, places;
  pu_packing p;
  pu_dtype type;
  bool y_f32;
  uint8_t *q;          /* [m, k] */
  float *scale, *zero; /* [m, groups] */
  int32_t *order;      /* [places] */
  float *x, *b;        /* as the types hold them; b NULL: none */
} product;

static int64_t pick(pu_rng *r, int64_t lo, int64_t hi) {
  return lo + (int64_t)pu_rng_below(r, (uint64_t)(hi - lo + 1));
}

static float held(pu_dtype type, float v) {
  return type == PU_F32 ? v : pu_bf16_to_f32(pu_f32_to_bf16(v));
}

/* Inputs in any order, unused places anywhere. */
static void shuffle_order(pu_rng *r, product *d) {
  d->order = malloc((size_t)d->places * sizeof *d->order);
  for (int64_t i = 0; i < d->places; i++) d->order[i] = i < d->k ? (int32_t)i : -1;
  for (int64_t i = d->places - 1; i > 0; i--) {
    int64_t j = pick(r, 0, i);
    int32_t t = d->order[i];
    d->order[i] = d->order[j], d->order[j] = t;
  }
}

static const int groups[] = {32, 64, 128};

/* Values for its sizes. */
static void fill(pu_rng *r, product *d) {
  d->groups = pu_packed_groups(&d->p, d->k);
  d->places = d->groups * d->p.group;
  size_t values = (size_t)(d->m * d->k), scales = (size_t)(d->m * d->groups);
  d->q = malloc(values);
  d->scale = malloc(scales * sizeof *d->scale);
  d->zero = d->p.zeros ? malloc(scales * sizeof *d->zero) : NULL;
  d->x = malloc((size_t)(d->n * d->k) * sizeof *d->x);
  d->b = pu_rng_below(r, 2) ? malloc((size_t)d->m * sizeof *d->b) : NULL;
  for (size_t i = 0; i < values; i++) d->q[i] = (uint8_t)pu_rng_below(r, 1u << d->p.bits);
  const bool whole = pu_rng_below(r, 2); /* zeros */
  for (size_t i = 0; i < scales; i++) {
    d->scale[i] = pu_f16_to_f32(pu_f32_to_f16((float)pu_rng_normal(r) * 0.01f));
    if (d->zero) d->zero[i] = (float)pu_rng_below(r, 1u << d->p.bits) + (whole || pu_rng_below(r, 4) ? 0.0f : 0.25f);
  }
  for (int64_t i = 0; i < d->n * d->k; i++) d->x[i] = held(d->type, (float)pu_rng_normal(r));
  for (int64_t i = 0; i < d->k && !pu_rng_below(r, 4); i++) d->x[i] = 0; /* a token of zeros */
  for (int64_t i = 0; d->b && i < d->m; i++) d->b[i] = (float)pu_rng_normal(r);
  if (d->p.ordered) shuffle_order(r, d);
}

static product draw(pu_rng *r) {
  product d = {.n = pick(r, 0, 3) ? pick(r, 1, 12) : pick(r, 1, 70)};
  const int64_t large = PU_TSAN ? 9 : pick(r, 0, 9); /* more outputs, or inputs, than kernels take at a time */
  d.m = pick(r, 1, large == 0 ? 700 : 90);
  d.k = pick(r, 1, large == 1 ? 4500 : 300);
  d.p = (pu_packing){.bits = pu_rng_below(r, 2) ? 4 : 8,
                     .group = groups[pu_rng_below(r, 3)],
                     .zeros = pu_rng_below(r, 2),
                     .ordered = pu_rng_below(r, 2)};
  d.type = pu_rng_below(r, 2) ? PU_BF16 : PU_F32;
  d.y_f32 = d.type == PU_F32 || pu_rng_below(r, 2);
  fill(r, &d);
  return d;
}

/* So much that each block of threads of a device has several pieces, and the ends of rows at a piece's middle. */
static product draw_large(pu_rng *r, int trial) {
  product d = {
      .n = trial % 2 ? pick(r, 9, 16) : pick(r, 5, 8), .m = 9000, .k = 2300, .type = PU_BF16, .y_f32 = trial % 2};
  d.p = (pu_packing){.bits = trial < 2 ? 4 : 8, .group = trial % 3 ? 64 : 32, .zeros = trial % 2};
  fill(r, &d);
  return d;
}

static void drop(product *d) {
  free(d->q), free(d->scale), free(d->zero), free(d->order), free(d->x), free(d->b);
}

static pu_tensor *packed(machine *x, const product *d) {
  pu_tensor *w = pu_tensor_over(&x->c, d->type, 2, (int64_t[]){d->m, d->k}, NULL);
  size_t bytes = pu_packed_bytes(&d->p, d->m, d->k);
  assert_non_null(w);
  assert_int_equal(bytes % 64, 0);
  w->layout = PU_LAYOUT_PACKED;
  w->packing = d->p;
  w->data = pu_arena_alloc(x->mem, bytes);
  assert_non_null(w->data);
  pu_pack_weight_args a = {d->q, d->scale, d->zero, d->order, w};
  if (pu_pack_weight(&x->c, &a) != PU_OK) fail_msg("%s", x->e.msg);
  return w;
}

/* What comes from memory that nobody wrote is no number. */
static void spoil(machine *x) {
  static uint8_t ones[4 << 20];
  memset(ones, 0xff, sizeof ones);
  assert_int_equal(x->be->upload(x->be, x->memory, ones, sizeof ones, &x->e), PU_OK);
}

static void put(machine *x, pu_tensor *t, const float *from) {
  void *typed = malloc(pu_tensor_bytes(t));
  assert_non_null(t);
  pu_convert(typed, t->dtype, from, PU_F32, pu_tensor_count(t));
  assert_int_equal(x->be->upload(x->be, t->data, typed, pu_tensor_bytes(t), &x->e), PU_OK);
  free(typed);
}

static float *get(machine *x, const pu_tensor *t) {
  void *typed = malloc(pu_tensor_bytes(t));
  float *out = malloc((size_t)pu_tensor_count(t) * sizeof *out);
  assert_int_equal(x->be->download(x->be, typed, t->data, pu_tensor_bytes(t), &x->e), PU_OK);
  pu_convert(out, PU_F32, typed, t->dtype, pu_tensor_count(t));
  free(typed);
  return out;
}

/* y [n, m] as f32, of tokens [first, first + n). */
static float *multiply(machine *x, const product *d, int64_t first, int64_t n) {
  pu_arena_reset(x->mem);
  pu_arena_reset(x->host);
  spoil(x);
  pu_tensor *w = packed(x, d);
  pu_tensor *in = pu_tensor_new(&x->c, d->type, 2, (int64_t[]){n, d->k}, false);
  pu_tensor *b = d->b ? pu_tensor_new(&x->c, PU_F32, 1, &d->m, false) : NULL;
  put(x, in, d->x + first * d->k);
  if (b) put(x, b, d->b);
  const pu_tensor *y = pu_linear(&x->c, in, w, b, d->y_f32);
  if (!y) fail_msg("%s", x->e.msg);
  return get(x, y);
}

/* The value of w at a place of row m; *input: which input stands there. */
static double weight_at(const product *d, int64_t m, int64_t place, int64_t *input) {
  *input = d->order ? d->order[place] : place < d->k ? place : -1;
  int64_t g = place / d->p.group;
  double zero = d->zero ? (double)d->zero[m * d->groups + g] : 1 << (d->p.bits - 1);
  return *input < 0 ? 0 : ((double)d->q[m * d->k + *input] - zero) * (double)d->scale[m * d->groups + g];
}

/* The product in double, and how far a correct result may be from it: of a device that takes x as it is, and weights
 * rounded to the compute type at most, or of one that rounds x. */
static double expected(const product *d, int64_t n, int64_t m, bool x_as_is, double *far) {
  double sum = d->b ? (double)d->b[m] : 0, size = fabs(sum), rounding = 0;
  for (int64_t g = 0; g < d->groups; g++) {
    double most = 0, weights = 0;
    for (int64_t i = 0; i < d->p.group; i++) {
      int64_t input;
      double w = weight_at(d, m, g * d->p.group + i, &input);
      if (input < 0) continue;
      double x = (double)d->x[n * d->k + input];
      sum += w * x, size += fabs(w * x), weights += fabs(w);
      most = fmax(most, fabs(x));
    }
    rounding += most / 254 * weights;
  }
  if (x_as_is) rounding = size * 0x1p-9;
  *far = 1e-5 * size + (d->type == PU_BF16 ? rounding * 1.0001 : 0) + (d->y_f32 ? 0 : fabs(sum) * 0x1p-8 + 1e-30);
  if (!d->y_f32) *far += rounding * 0x1p-8;
  return sum;
}

static void say(const product *d, const char *who, const char *what) {
  fail_msg("%s: %s: n %ld m %ld k %ld, %d bits, groups of %d, %s, %s, %s", who, what, (long)d->n, (long)d->m,
           (long)d->k, d->p.bits, d->p.group, d->zero ? "zeros" : "symmetric", d->order ? "ordered" : "in order",
           pu_dtype_name(d->type));
}

static void check_against_double(const product *d, bool x_as_is, const float *y) {
  for (int64_t n = 0; n < d->n; n++)
    for (int64_t m = 0; m < d->m; m++) {
      double far, want = expected(d, n, m, x_as_is, &far), got = (double)y[n * d->m + m];
      if (!(fabs(got - want) <= far)) say(d, x_as_is ? "device" : "ref", "outside its bound");
    }
}

static void test_products(void **state) {
  (void)state;
  machine x[PU_ISA_COUNT][2] = {0};
  pu_rng r;
  pu_rng_seed(&r, 7);
  for (pu_isa isa = 0; isa <= pu_isa_best(); isa++)
    for (int t = 0; t < 2; t++) open_machine(&x[isa][t], 1 + 2 * t, isa);
  for (int trial = 0; trial < TRIALS; trial++) {
    product d = draw(&r);
    float *want = multiply(&x[0][0], &d, 0, d.n);
    check_against_double(&d, false, want);
    for (pu_isa isa = 0; isa <= pu_isa_best(); isa++)
      for (int t = 0; t < 2; t++) {
        float *got = multiply(&x[isa][t], &d, 0, d.n);
        int64_t one = pick(&r, 0, d.n - 1);
        float *alone = multiply(&x[isa][t], &d, one, 1);
        if (memcmp(got, want, (size_t)(d.n * d.m) * sizeof *got) != 0) say(&d, pu_isa_name(isa), "not the reference");
        if (memcmp(got + one * d.m, alone, (size_t)d.m * sizeof *got) != 0)
          say(&d, pu_isa_name(isa), "another result alone");
        free(got), free(alone);
      }
    free(want);
    drop(&d);
  }
  for (pu_isa isa = 0; isa <= pu_isa_best(); isa++)
    for (int t = 0; t < 2; t++) close_machine(&x[isa][t]);
}

/* More tokens than are taken at a time, and what no number is. */
static void test_many_tokens(void **state) {
  (void)state;
  pu_rng r;
  machine x[2];
  pu_rng_seed(&r, 3);
  product d = draw(&r);
  while (d.type != PU_BF16 || d.p.bits != 4 || d.p.ordered) {
    drop(&d);
    d = draw(&r);
  }
  d.n = PU_TSAN ? 100 : 1100;
  d.x = realloc(d.x, (size_t)(d.n * d.k) * sizeof *d.x);
  for (int64_t i = 0; i < d.n * d.k; i++) d.x[i] = held(d.type, (float)pu_rng_normal(&r));
  d.x[5] = NAN, d.x[2 * d.k] = INFINITY;
  for (int i = 0; i < 2; i++) open_machine(&x[i], 2, i ? pu_isa_best() : PU_ISA_REF);
  float *want = multiply(&x[0], &d, 0, d.n), *got = multiply(&x[1], &d, 0, d.n);
  assert_memory_equal(got, want, (size_t)(d.n * d.m) * sizeof *got);
  float *last = multiply(&x[1], &d, d.n - 1, 1);
  assert_memory_equal(got + (d.n - 1) * d.m, last, (size_t)d.m * sizeof *got);
  assert_false(isfinite(got[2 * d.m]));
  free(want), free(got), free(last);
  for (int i = 0; i < 2; i++) close_machine(&x[i]);
  drop(&d);
}

/* Among how many tokens a device promises one the same bits (compute.h): f32 among up to 16, bf16 among up to four, and
 * among five to 16. */
enum { FEW = 16, FOUR = 4 };

/* The fewest of them, and the most, that d's tokens can show. */
static void alike(const product *d, int64_t *least, int64_t *most) {
  *least = d->type == PU_BF16 && d->n > FOUR ? FOUR + 1 : 1;
  *most = PU_MIN(d->n, FEW);
}

static void check_device(machine *x, pu_rng *r, const product *d) {
  float *got = multiply(x, d, 0, d->n), *again = multiply(x, d, 0, d->n);
  check_against_double(d, true, got);
  if (memcmp(got, again, (size_t)(d->n * d->m) * sizeof *got) != 0) say(d, "device", "another result the second time");
  int64_t least, most;
  alike(d, &least, &most);
  int64_t first = pick(r, 0, d->n - most), n = pick(r, least, most), one = pick(r, 0, most - n);
  float *many = multiply(x, d, first, most), *some = multiply(x, d, first + one, n);
  float *least_of = multiply(x, d, first + one, least);
  if (memcmp(many + one * d->m, some, (size_t)(n * d->m) * sizeof *many) != 0 ||
      memcmp(some, least_of, (size_t)(least * d->m) * sizeof *some) != 0)
    say(d, "device", "another result among fewer");
  free(got), free(again), free(many), free(some), free(least_of);
}

/* The device that PUYU_TEST_DEVICE names; without one the test is skipped. */
static void open_device(machine *x) {
  const char *name = getenv("PUYU_TEST_DEVICE");
  if (!name) skip();
  if (pu_backend_open(name, 0, &x->be, &x->e) != PU_OK) fail_msg("%s", x->e.msg);
  open_memory(x);
}

static void test_device(void **state) {
  (void)state;
  machine x = {0};
  pu_rng r;
  open_device(&x);
  pu_rng_seed(&r, 11);
  for (int trial = 0; trial < TRIALS; trial++) {
    product d = draw(&r);
    check_device(&x, &r, &d);
    drop(&d);
  }
  for (int trial = 0; trial < 4; trial++) {
    product d = draw_large(&r, trial);
    check_device(&x, &r, &d);
    drop(&d);
  }
  close_machine(&x);
}

/* swiglu of a product, inside it or apart. */
static float *gates(machine *x, const product *d, bool apart) {
  pu_arena_reset(x->mem);
  pu_arena_reset(x->host);
  spoil(x);
  pu_tensor *w = packed(x, d), *in = pu_tensor_new(&x->c, d->type, 2, (int64_t[]){d->n, d->k}, false);
  put(x, in, d->x);
  const pu_tensor *y = apart ? pu_swiglu(&x->c, pu_linear(&x->c, in, w, NULL, false)) : pu_linear_swiglu(&x->c, in, w);
  if (!y) fail_msg("%s", x->e.msg);
  return get(x, y);
}

static void test_device_gates(void **state) {
  (void)state;
  machine x = {0};
  pu_rng r;
  open_device(&x);
  pu_rng_seed(&r, 23);
  for (int trial = 0; trial < 60; trial++) {
    const bool large = trial % 20 == 19; /* more pairs than blocks of threads */
    product d = {.n = pick(&r, 1, 6), .m = 2 * (large ? 600 : pick(&r, 1, 40)) * (trial % 8 ? 16 : 1), .type = PU_BF16};
    d.k = large ? 1100 : pick(&r, 1, trial % 3 ? 4500 : 900);
    d.p = (pu_packing){.bits = trial % 2 ? 4 : 8,
                       .group = groups[pu_rng_below(&r, 3)],
                       .zeros = pu_rng_below(&r, 2),
                       .ordered = pu_rng_below(&r, 2)};
    fill(&r, &d);
    float *got = gates(&x, &d, false), *want = gates(&x, &d, true);
    if (memcmp(got, want, (size_t)(d.n * d.m / 2) * sizeof *got) != 0) say(&d, "device", "swiglu inside is another");
    free(got), free(want);
    drop(&d);
  }
  close_machine(&x);
}

/* A token with what no number is gives none, and leaves the others alone. */
static void test_device_numbers(void **state) {
  (void)state;
  machine x = {0};
  pu_rng r;
  open_device(&x);
  pu_rng_seed(&r, 5);
  for (int trial = 0; trial < 20; trial++) {
    product d = draw(&r);
    const int64_t n = PU_MIN(d.n, FEW);
    float *want = multiply(&x, &d, 0, n);
    d.x[pick(&r, 0, d.k - 1)] = trial % 2 ? NAN : INFINITY;
    float *got = multiply(&x, &d, 0, n);
    for (int64_t m = 0; m < d.m; m++) assert_false(isfinite(got[m]));
    assert_memory_equal(got + d.m, want + d.m, (size_t)((n - 1) * d.m) * sizeof *got);
    free(want), free(got);
    drop(&d);
  }
  close_machine(&x);
}

static void test_refused(void **state) {
  (void)state;
  machine x;
  open_machine(&x, 1, PU_ISA_REF);
  pu_tensor w = {.dtype = PU_BF16, .ndim = 2, .shape = {4, 32}, .layout = PU_LAYOUT_PACKED, .packing = {3, 32, 0, 0}};
  pu_pack_weight_args a = {.out = &w};
  assert_int_equal(pu_pack_weight(&x.c, &a), PU_ERR_SHAPE);
  /* 4 bits in groups of 128 with zeros: less than 4.3 bits a weight. */
  pu_packing p = {4, 128, true, false};
  assert_true((double)pu_packed_bytes(&p, 2048, 2048) * 8 / (2048.0 * 2048) < 4.3);
  close_machine(&x);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_products),     cmocka_unit_test(test_many_tokens),
                                     cmocka_unit_test(test_device),       cmocka_unit_test(test_device_numbers),
                                     cmocka_unit_test(test_device_gates), cmocka_unit_test(test_refused)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
