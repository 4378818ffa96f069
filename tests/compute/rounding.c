/* f32 in two halves, and stochastic rounding to bf16: that nothing is lost, that the odds are right, and that the
 * choice is a function of (seed, step, element) alone. */
#include <math.h>
#include <stdlib.h>

#include "puyu/compute.h"
#include "tests/test.h"

enum { MANY = 1 << 18, SOME = 1000 };

static float float_of(uint32_t u) {
  union {
    uint32_t u;
    float f;
  } v = {u};
  return v.f;
}

static uint32_t bits_of(float f) {
  union {
    float f;
    uint32_t u;
  } v = {f};
  return v.u;
}

/* ---- halves ---- */

static void halves_lose_nothing(void **state) {
  (void)state;
  static const uint32_t lows[] = {0, 1, 0x1234, 0x7fff, 0x8000, 0x8001, 0xabcd, 0xffff};
  for (uint32_t u = 0; u < 0x10000; u++)
    for (size_t i = 0; i < PU_COUNT(lows); i++) {
      float f = float_of(u << 16 | lows[i]);
      uint16_t low, high = pu_split_f32(f, &low);
      float back = pu_join_f32(high, low);
      if (isnan(f)) {
        assert_true(isnan(back) && isnan(pu_bf16_to_f32(high)) && low == 0);
        continue;
      }
      assert_int_equal(bits_of(back), bits_of(f));
      if (lows[i] != 0x8000) assert_int_equal(high, pu_f32_to_bf16(f));
      assert_in_range(high, u, u + 1);
    }
  float many[3] = {1, -3.3f, 1e-40f}, back[3];
  uint16_t high[3], low[3];
  pu_split_halves(high, low, many, 3);
  pu_join_halves(back, high, low, 3);
  assert_memory_equal(many, back, sizeof many);
}

/* ---- stochastic rounding, as adamw has it ---- */

typedef struct run {
  pu_backend *be;
  pu_arena *mem;
  pu_error e;
  float *g;            /* [MANY] */
  uint16_t *p, *m, *v; /* [MANY] */
} run;

static void run_open(run *r, pu_isa isa) {
  *r = (run){0};
  assert_ok(pu_cpu_open(2, isa, &r->be, &r->e), &r->e);
  assert_ok(pu_arena_create(64 << 20, &r->mem, &r->e), &r->e);
  r->g = pu_arena_zalloc(r->mem, MANY * sizeof *r->g);
  r->p = pu_arena_zalloc(r->mem, MANY * sizeof *r->p);
  r->m = pu_arena_zalloc(r->mem, MANY * sizeof *r->m);
  r->v = pu_arena_zalloc(r->mem, MANY * sizeof *r->v);
}

static void run_close(run *r) {
  pu_arena_free(r->mem);
  r->be->close(r->be);
}

static void step(run *r, int64_t n, pu_adamw_args a, uint64_t seed) {
  size_t mark = pu_arena_mark(r->mem);
  pu_ctx c = {.be = r->be, .mem = r->mem, .host = r->mem, .err = &r->e};
  const pu_adamw_param of = {.p = pu_tensor_over(&c, PU_BF16, 1, &n, r->p),
                             .g = pu_tensor_over(&c, PU_F32, 1, &n, r->g),
                             .m = pu_tensor_over(&c, PU_BF16, 1, &n, r->m),
                             .v = pu_tensor_over(&c, PU_BF16, 1, &n, r->v),
                             .seed = seed};
  a.of = &of;
  a.n = 1;
  assert_ok(pu_adamw(&c, &a), &r->e);
  pu_arena_release(r->mem, mark);
}

/* With these, m becomes g rounded, v becomes g^2 rounded, and p stays. */
static pu_adamw_args only_round(int64_t at) {
  return (pu_adamw_args){.lr = 0, .beta1 = 0, .beta2 = 0, .eps = 1, .step = at};
}

static void same_odds(double hits, double n, double p) {
  double sigma = sqrt(n * p * (1 - p));
  if (!(fabs(hits - n * p) <= 6 * sigma)) fail_msg("%g of %g, where %g were expected", hits, n, n * p);
}

static void check_odds(run *r, uint32_t upper, uint32_t low) {
  float g = float_of(upper << 16 | low), square = g * g;
  uint32_t square_low = bits_of(square) & 0xffff, square_upper = bits_of(square) >> 16;
  for (int i = 0; i < MANY; i++) r->g[i] = g;
  step(r, MANY, only_round(3), 17);
  double up = 0, square_up = 0, both = 0, in_row = 0;
  for (int i = 0; i < MANY; i++) {
    assert_in_range(r->m[i], upper, upper + (low > 0));
    assert_in_range(r->v[i], square_upper, square_upper + (square_low > 0));
    up += r->m[i] - upper;
    square_up += r->v[i] - square_upper;
    both += (r->m[i] - upper) * (r->v[i] - square_upper);
    if (i > 0) in_row += (r->m[i] - upper) * (r->m[i - 1] - upper);
  }
  double p = low / 65536.0, q = square_low / 65536.0;
  same_odds(up, MANY, p);
  same_odds(square_up, MANY, q);
  same_odds(both, MANY, p * q); /* the two are independent, and so are neighbours */
  same_odds(in_row, MANY - 1, p * p);
}

static void odds_are_right(void **state) {
  (void)state;
  for (int isa = PU_ISA_REF; isa <= (int)pu_isa_best(); isa++) {
    run r;
    run_open(&r, (pu_isa)isa);
    check_odds(&r, 0x3f80, 0);
    check_odds(&r, 0x3f80, 0x0100);
    check_odds(&r, 0x4048, 0x4000);
    check_odds(&r, 0xbf12, 0x8000); /* below zero: away from it, as often */
    check_odds(&r, 0x3dcc, 0xfff0);
    run_close(&r);
  }
}

/* p's choice is as often up as it should be, whatever those of m and v are, and its neighbours'. */
static void p_goes_its_own_way(void **state) {
  (void)state;
  /* m / sqrt(v) is 1, so that p becomes 1 - lr. */
  const float lr = 3e-3f, after = 1 - lr, g = float_of(0x3f804000), square = g * g;
  double p = (bits_of(after) & 0xffff) / 65536.0, q = 0.25, r = (bits_of(square) & 0xffff) / 65536.0;
  for (int isa = PU_ISA_REF; isa <= (int)pu_isa_best(); isa++) {
    run o;
    double up = 0, with_m = 0, with_v = 0, in_row = 0;
    run_open(&o, (pu_isa)isa);
    for (int i = 0; i < MANY; i++) o.p[i] = pu_f32_to_bf16(1), o.g[i] = g;
    step(&o, MANY, (pu_adamw_args){.lr = lr, .beta1 = 0, .beta2 = 0, .eps = 0, .step = 4}, 11);
    uint32_t upper = bits_of(after) >> 16, m_upper = bits_of(g) >> 16, v_upper = bits_of(square) >> 16;
    for (int i = 0; i < MANY; i++) {
      assert_in_range(o.p[i], upper, upper + 1);
      up += o.p[i] - upper;
      with_m += (o.p[i] - upper) * (o.m[i] - m_upper);
      with_v += (o.p[i] - upper) * (o.v[i] - v_upper);
      if (i > 0) in_row += (o.p[i] - upper) * (o.p[i - 1] - upper);
    }
    same_odds(up, MANY, p);
    same_odds(with_m, MANY, p * q);
    same_odds(with_v, MANY, p * r);
    same_odds(in_row, MANY - 1, p * p);
    run_close(&o);
  }
}

static void choice_is_of_place(void **state) {
  (void)state;
  uint16_t *first = malloc(MANY * sizeof *first);
  for (int isa = PU_ISA_REF; isa <= (int)pu_isa_best(); isa++) {
    run r;
    run_open(&r, (pu_isa)isa);
    for (int i = 0; i < MANY; i++) r.g[i] = 1.003f;
    step(&r, MANY, only_round(5), 1);
    if (isa > PU_ISA_REF) assert_memory_equal(first, r.m, MANY * sizeof *first); /* the same on all instruction sets */
    memcpy(first, r.m, MANY * sizeof *first);
    for (int64_t n = SOME; n < SOME + 33; n++) {
      memset(r.m, 0, MANY * sizeof *r.m);
      step(&r, n, only_round(5), 1);
      assert_memory_equal(first, r.m, (size_t)n * sizeof *first);
      assert_int_equal(r.m[n], 0);
    }
    step(&r, MANY, only_round(6), 1);
    assert_memory_not_equal(first, r.m, MANY * sizeof *first);
    step(&r, MANY, only_round(5), 2);
    assert_memory_not_equal(first, r.m, MANY * sizeof *first);
    run_close(&r);
  }
  free(first);
}

static void what_is_no_number_stays_none(void **state) {
  (void)state;
  for (int isa = PU_ISA_REF; isa <= (int)pu_isa_best(); isa++) {
    run r;
    run_open(&r, (pu_isa)isa);
    for (int i = 0; i < SOME; i++)
      r.g[i] =
          float_of((const uint32_t[]){0x7fffffff, 0xffffffff, 0x7f800000, 0xff800000, 0x80000000, 0x00010000}[i % 6]);
    step(&r, SOME, only_round(1), 1);
    for (int i = 0; i < SOME; i++) {
      if (i % 6 < 2)
        assert_true(isnan(pu_bf16_to_f32(r.m[i])));
      else if (i % 6 != 4) /* of -0, 0 is left once 0 was added */
        assert_int_equal(r.m[i], bits_of(r.g[i]) >> 16);
    }
    run_close(&r);
  }
}

/* Updates of a hundredth of what bf16 can tell apart move it all the same, on average. */
static void small_updates_add_up(void **state) {
  (void)state;
  enum { STEPS = 200, N = 4096 };
  for (int isa = PU_ISA_REF; isa <= (int)pu_isa_best(); isa++) {
    run r;
    double sum = 0;
    run_open(&r, (pu_isa)isa);
    for (int i = 0; i < N; i++) r.p[i] = pu_f32_to_bf16(1), r.g[i] = 1;
    /* m / sqrt(v) is 1, so that each step takes lr; below 1 neighbours are 2^-8 apart. */
    for (int64_t t = 1; t <= STEPS; t++)
      step(&r, N, (pu_adamw_args){.lr = 4e-5f, .beta1 = 0, .beta2 = 0, .eps = 0, .step = t}, 7);
    for (int i = 0; i < N; i++) sum += 1 - (double)pu_bf16_to_f32(r.p[i]);
    double want = STEPS * 4e-5;
    if (!(fabs(sum / N - want) < 0.05 * want)) fail_msg("moved by %g, where %g were asked for", sum / N, want);
    run_close(&r);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(halves_lose_nothing),  cmocka_unit_test(odds_are_right),
      cmocka_unit_test(choice_is_of_place),   cmocka_unit_test(what_is_no_number_stays_none),
      cmocka_unit_test(small_updates_add_up), cmocka_unit_test(p_goes_its_own_way),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
