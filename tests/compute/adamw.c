/* The gate of an AdamW step: what it lets pass, times what, and that nothing changes where it is shut; on every
 * instruction set, and on the device that PUYU_TEST_DEVICE names. */
#include <math.h>
#include <stdlib.h>

#include "tests/device.h"

enum {
  COUNT = 20011, /* values of a parameter: more than one piece of any version, and odd */
  LOSSES = 3001, /* more than a block has threads */
  FORMS = 3 * 4, /* p whole, in halves, rough; m, v and g of either type */
  MEMORY = 8 << 20,
  TRIALS = 200
};

typedef struct bed {
  pu_backend *be;
  pu_arena *mem, *host;
  void *memory;
  pu_ctx c;
  pu_error e;
  double *squares;
  pu_tensor *losses;
  pu_adamw_param of[FORMS];
} bed;

static pu_tensor *filled(bed *b, pu_dtype type, int64_t n, const float *values) {
  pu_tensor *t = pu_tensor_new(&b->c, type, 1, &n, false);
  assert_non_null(t);
  void *typed = malloc(pu_tensor_bytes(t));
  assert_non_null(typed);
  pu_convert(typed, type, values, PU_F32, n);
  pu_test_upload(b->be, t, typed);
  free(typed);
  return t;
}

/* All kinds of parameters, with random values. */
static void add_params(bed *b) {
  static const pu_dtype types[] = {PU_F32, PU_BF16};
  float *v = malloc(COUNT * sizeof *v), *squares = malloc(COUNT * sizeof *squares);
  uint16_t *low = malloc(COUNT * sizeof *low);
  pu_rng r;
  pu_rng_seed(&r, 1);
  for (int i = 0; i < COUNT; i++) {
    v[i] = (float)pu_rng_normal(&r);
    squares[i] = v[i] * v[i];
    low[i] = (uint16_t)pu_rng_next(&r);
  }
  v[COUNT - 1] = NAN; /* what is no number keeps its bits, too */
  for (int i = 0; i < FORMS; i++) {
    pu_dtype state = types[i / 3 % 2], grad = types[i / 6];
    pu_adamw_param *p = &b->of[i];
    *p = (pu_adamw_param){.p = filled(b, i % 3 ? PU_BF16 : PU_F32, COUNT, v),
                          .g = filled(b, grad, COUNT, squares),
                          .m = filled(b, state, COUNT, v),
                          .v = filled(b, state, COUNT, squares),
                          .weight_decay = 0.1f,
                          .seed = (uint64_t)i};
    if (i % 3 != 1) continue;
    p->low = pu_tensor_new(&b->c, PU_U16, 1, (int64_t[]){COUNT}, false);
    assert_non_null(p->low);
    pu_test_upload(b->be, p->low, low);
  }
  free(low);
  free(squares);
  free(v);
}

static void bed_open(bed *b, int isa) {
  *b = (bed){0};
  assert_ok(pu_test_open(2, (pu_isa)isa, &b->be, &b->e), &b->e);
  b->memory = pu_test_memory(b->be, MEMORY, &b->mem);
  assert_ok(pu_arena_create(1 << 20, &b->host, &b->e), &b->e);
  b->c = (pu_ctx){.be = b->be, .mem = b->mem, .host = b->host, .err = &b->e};
  b->squares = pu_arena_alloc(b->mem, sizeof *b->squares);
  b->losses = pu_tensor_new(&b->c, PU_F32, 1, (int64_t[]){LOSSES}, false);
  assert_true(b->squares && b->losses);
}

static void bed_close(bed *b) {
  pu_arena_free(b->mem);
  pu_arena_free(b->host);
  b->be->free(b->be, b->memory);
  b->be->close(b->be);
}

/* The device has one instruction set, far all of them. */
static int most_isa(void) {
  return !pu_test_elsewhere() || strcmp(pu_test_device(), "far") == 0 ? (int)pu_isa_best() : 0;
}

static pu_adamw_gate gate(bed *b, double squares, double clip, double most) {
  assert_ok(b->be->upload(b->be, b->squares, &squares, sizeof squares, &b->e), &b->e);
  return (pu_adamw_gate){.squares = b->squares, .clip = clip, .most = most};
}

/* Losses of 2, but for one. */
static void set_losses(bed *b, int at, float odd) {
  float v[LOSSES];
  for (int i = 0; i < LOSSES; i++) v[i] = i == at ? odd : 2;
  pu_test_upload(b->be, b->losses, v);
}

/* ---- shut ---- */

/* All of p, low, m and v, one after the other. */
static char *all_bytes(bed *b, size_t *n) {
  char *all = malloc(FORMS * 4 * COUNT * sizeof(float));
  assert_non_null(all);
  *n = 0;
  for (int i = 0; i < FORMS; i++) {
    const pu_tensor *const parts[] = {b->of[i].p, b->of[i].low, b->of[i].m, b->of[i].v};
    for (size_t k = 0; k < PU_COUNT(parts); k++) {
      if (!parts[k]) continue;
      assert_ok(b->be->download(b->be, all + *n, parts[k]->data, pu_tensor_bytes(parts[k]), &b->e), &b->e);
      *n += pu_tensor_bytes(parts[k]);
    }
  }
  return all;
}

/* Does a step change what it is of? All or none of its parts. */
static bool changes(bed *b, pu_adamw_gate g) {
  size_t n;
  char *before = all_bytes(b, &n);
  const pu_adamw_args a = {b->of, FORMS, 1e-2f, 0.9f, 0.95f, 1e-8f, 3, g};
  assert_ok(pu_adamw(&b->c, &a), &b->e);
  char *after = all_bytes(b, &n);
  bool changed = memcmp(before, after, n) != 0;
  size_t at = 0;
  for (int i = 0; i < FORMS; i++) {
    const pu_tensor *const parts[] = {b->of[i].p, b->of[i].m, b->of[i].v};
    for (size_t k = 0; k < PU_COUNT(parts); k++) {
      size_t bytes = pu_tensor_bytes(parts[k]);
      if (changed) assert_memory_not_equal(before + at, after + at, bytes);
      at += bytes + (k == 0 && b->of[i].low ? pu_tensor_bytes(b->of[i].low) : 0);
    }
  }
  free(before);
  free(after);
  return changed;
}

static void check_shut(bed *b) {
  static const float odd[] = {NAN, INFINITY, -INFINITY};
  static const int places[] = {0, 1023, 1024, LOSSES - 1};
  assert_false(changes(b, gate(b, (double)NAN, 1, INFINITY)));
  assert_false(changes(b, gate(b, (double)INFINITY, 1, INFINITY)));
  assert_false(changes(b, gate(b, (double)INFINITY, 0, INFINITY)));
  assert_false(changes(b, gate(b, 16, 1, nextafter(4, 0))));
  for (size_t i = 0; i < PU_COUNT(odd) * PU_COUNT(places); i++) {
    pu_adamw_gate g = gate(b, 16, 1, INFINITY);
    g.finite = b->losses;
    set_losses(b, places[i % PU_COUNT(places)], odd[i / PU_COUNT(places)]);
    assert_false(changes(b, g));
  }
}

static void check_open(bed *b) {
  pu_adamw_gate g = gate(b, 16, 1, 4);
  assert_true(changes(b, g));
  g.finite = b->losses;
  set_losses(b, LOSSES - 1, -3e38f);
  assert_true(changes(b, g));
  assert_true(changes(b, gate(b, 1e300, 1, INFINITY)));
  assert_true(changes(b, gate(b, 0, 1, INFINITY)));
  assert_true(changes(b, (pu_adamw_gate){0})); /* none */
}

static void shut_changes_nothing(void **state) {
  (void)state;
  for (int isa = 0; isa <= most_isa(); isa++) {
    bed b;
    bed_open(&b, isa);
    add_params(&b);
    check_shut(&b);
    check_open(&b);
    check_shut(&b);
    bed_close(&b);
  }
}

/* ---- open ---- */

/* What gradients were multiplied with: with these m becomes g, which is 1. NaN: the step was not taken. */
static float scale_of(bed *b, pu_adamw_gate g) {
  static const float one = 1, none = NAN;
  const pu_adamw_param p = {.p = filled(b, PU_F32, 1, &one),
                            .g = filled(b, PU_F32, 1, &one),
                            .m = filled(b, PU_F32, 1, &one),
                            .v = filled(b, PU_F32, 1, &one)};
  const pu_adamw_args a = {.of = &p, .n = 1, .lr = 0.5f, .eps = 1, .step = 1, .gate = g};
  float *m, *v, *w, scale = none;
  assert_ok(pu_adamw(&b->c, &a), &b->e);
  w = pu_test_download(b->be, p.p), m = pu_test_download(b->be, p.m), v = pu_test_download(b->be, p.v);
  if (*w != 1) {
    scale = *m;
    assert_true(*v == scale * scale);
    assert_float_equal(*w, 1 - 0.5 * (double)scale / ((double)scale + 1), 1e-6);
  }
  free(w);
  free(m);
  free(v);
  return scale;
}

static void known_scales(bed *b) {
  const struct {
    double squares, clip, most;
    float scale;
  } cases[] = {
      {16, 0, INFINITY, 1},
      {16, 4, INFINITY, 1}, /* not above */
      {16, 5, 4, 1},
      {16, 2, INFINITY, 0.499999875f},    /* 2 / 4.000001 */
      {9, 1, 3, 0.33333322f},             /* 1 / 3.000001 */
      {1e-6, 1e-4, INFINITY, 0.0999001f}, /* 0.0001 / 0.001001: the millionth is there */
      {16, 1, 3.5, NAN},
  };
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    size_t mark = pu_arena_mark(b->mem), host = pu_arena_mark(b->host);
    float got = scale_of(b, gate(b, cases[i].squares, cases[i].clip, cases[i].most)), want = cases[i].scale;
    if (isnan(want) ? !isnan(got) : !(fabsf(got - want) <= 6e-8f)) fail_msg("case %zu: %.9g, not %.9g", i, got, want);
    if (want == 1) assert_true(got == 1);
    pu_arena_release(b->mem, mark);
    pu_arena_release(b->host, host);
  }
}

/* The host, which sees the sum later, says the same to the last bit. */
static void host_agrees(bed *b) {
  pu_rng r;
  pu_rng_seed(&r, 5);
  for (int i = 0; i < TRIALS; i++) {
    double squares = exp(4 * pu_rng_normal(&r)), norm = sqrt(squares), clip = norm * exp(pu_rng_normal(&r));
    double most = i % 3 == 0 ? norm : nextafter(norm, i % 3 == 1 ? 0 : INFINITY);
    size_t mark = pu_arena_mark(b->mem), host = pu_arena_mark(b->host);
    float want = NAN, got = scale_of(b, gate(b, squares, clip, most));
    bool taken = pu_adamw_takes(norm, clip, most, &want);
    assert_int_equal(taken, i % 3 != 1);
    assert_int_equal(taken, !isnan(got));
    if (taken) assert_true(got == want);
    pu_arena_release(b->mem, mark);
    pu_arena_release(b->host, host);
  }
}

static void open_scales(void **state) {
  (void)state;
  for (int isa = 0; isa <= most_isa(); isa++) {
    bed b;
    bed_open(&b, isa);
    known_scales(&b);
    host_agrees(&b);
    bed_close(&b);
  }
}

static void refuses(void **state) {
  (void)state;
  bed b;
  bed_open(&b, 0);
  pu_adamw_args a = {.of = b.of, .n = 0, .step = 1, .gate = gate(&b, 1, 1, 1)};
  a.gate.finite = pu_tensor_new(&b.c, PU_I32, 1, (int64_t[]){4}, false);
  assert_int_equal(pu_adamw(&b.c, &a), PU_ERR_SHAPE);
  assert_non_null(strstr(b.e.msg, "adamw"));
  bed_close(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(shut_changes_nothing),
      cmocka_unit_test(open_scales),
      cmocka_unit_test(refuses),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
