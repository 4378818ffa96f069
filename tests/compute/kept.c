/* record and play: what a device keeps under a key gives what the same operations give anew, for other contents of what
 * is handed over, for several keys in turn, and after memory was freed. What breaks the promise of being the same
 * is told or does no harm. Where a device keeps nothing there is nothing to test. */
#include <stdlib.h>

#include "tests/device.h"

enum { VOCAB = 96, WIDTH = 64, ROWS = 6, TOP = 5, MEMORY = 1 << 20 };

typedef struct env {
  pu_backend *be;
  void *memory;
  pu_arena *mem, *host;
  pu_tensor *w, *norm, *scale;
  size_t mark, host_mark;
  pu_error e;
} env;

/* What is downloaded of one run. */
typedef struct answer {
  float values[ROWS * TOP], sums[ROWS * 2];
  int32_t ids[ROWS * TOP];
  pu_tensor *on_values, *on_sums, *on_ids; /* where they lie */
  void *ids_at;                            /* what was handed over */
} answer;

static pu_tensor *filled(pu_ctx *c, int ndim, const int64_t *shape, uint64_t seed) {
  pu_tensor *t = pu_tensor_new(c, PU_F32, ndim, shape, false);
  assert_non_null(t);
  float v[VOCAB * WIDTH];
  for (int64_t i = 0; i < pu_tensor_count(t); i++)
    v[i] = (float)(pu_random_at(seed, 0, (uint64_t)i) % 2001) / 1000.0f - 1.0f;
  assert_ok(c->be->upload(c->be, t->data, v, pu_tensor_bytes(t), c->err), c->err);
  return t;
}

static env open_env(void) {
  env t = {0};
  assert_ok(pu_test_open(1, pu_isa_best(), &t.be, &t.e), &t.e);
  t.memory = pu_test_memory(t.be, MEMORY, &t.mem);
  assert_ok(pu_arena_create(MEMORY, &t.host, &t.e), &t.e);
  pu_ctx c = {.be = t.be, .mem = t.mem, .host = t.host, .err = &t.e};
  t.w = filled(&c, 2, (int64_t[]){VOCAB, WIDTH}, 1);
  t.norm = filled(&c, 1, (int64_t[]){WIDTH}, 2);
  t.scale = filled(&c, 1, (int64_t[]){ROWS}, 3);
  t.mark = pu_arena_mark(t.mem);
  t.host_mark = pu_arena_mark(t.host);
  return t;
}

static void close_env(env *t) {
  pu_arena_free(t->mem);
  pu_arena_free(t->host);
  t->be->free(t->be, t->memory);
  t->be->close(t->be);
}

static void choose_ids(int32_t *ids, int64_t n, uint64_t seed) {
  for (int64_t i = 0; i < n; i++) ids[i] = (int32_t)(pu_random_at(seed, 1, (uint64_t)i) % VOCAB);
}

/* A small step: ids are handed over, and the largest of their logits found. */
static pu_err step(env *t, int64_t n, uint64_t seed, answer *a) {
  pu_arena_release(t->mem, t->mark);
  pu_arena_release(t->host, t->host_mark);
  pu_ctx c = {.be = t->be, .mem = t->mem, .host = t->host, .err = &t->e};
  int32_t ids[ROWS];
  pu_tensor *h, *x = pu_tensor_new(&c, PU_I32, 1, &n, false);
  choose_ids(ids, n, seed);
  assert_non_null(x);
  a->ids_at = x->data;
  PU_TRY(t->be->upload(t->be, x->data, ids, (size_t)n * sizeof *ids, &t->e));
  pu_tensor *y = pu_rmsnorm_add(&c, pu_embedding(&c, x, t->w, PU_F32), NULL, t->norm, 1e-5f, PU_F32, &h);
  pu_tensor *scale = pu_tensor_over(&c, PU_F32, 1, &n, t->scale->data);
  a->on_ids = pu_top_logits(&c, pu_linear(&c, y, t->w, NULL, true), VOCAB, TOP, scale, &a->on_values, &a->on_sums);
  return c.status;
}

static void download(env *t, answer *a) {
  pu_backend *be = t->be;
  assert_ok(be->download(be, a->values, a->on_values->data, pu_tensor_bytes(a->on_values), &t->e), &t->e);
  assert_ok(be->download(be, a->sums, a->on_sums->data, pu_tensor_bytes(a->on_sums), &t->e), &t->e);
  assert_ok(be->download(be, a->ids, a->on_ids->data, pu_tensor_bytes(a->on_ids), &t->e), &t->e);
}

/* Skips the test where the backend keeps nothing. */
static env open_keeping(void) {
  env t = open_env();
  if (t.be->record) return t;
  close_env(&t);
  skip();
  return t;
}

static pu_err kept_step(env *t, uint64_t key, int64_t n, uint64_t seed, answer *a) {
  for (bool again = true; again;) {
    PU_TRY(t->be->record(t->be, key, NULL, &t->e));
    pu_err err = step(t, n, seed, a), other = t->be->play(t->be, &again, &t->e);
    if (err || other) return err ? err : other;
  }
  download(t, a);
  return PU_OK;
}

static void must_be_same(const answer *a, const answer *b, int64_t n) {
  assert_memory_equal(a->values, b->values, (size_t)n * TOP * sizeof(float));
  assert_memory_equal(a->ids, b->ids, (size_t)n * TOP * sizeof(int32_t));
  assert_memory_equal(a->sums, b->sums, (size_t)n * 2 * sizeof(float));
}

static void check(env *t, uint64_t key, int64_t n, uint64_t seed) {
  answer kept = {0}, anew = {0};
  assert_ok(kept_step(t, key, n, seed, &kept), &t->e);
  assert_ok(step(t, n, seed, &anew), &t->e);
  download(t, &anew);
  must_be_same(&kept, &anew, n);
}

static void the_same_as_anew(void **state) {
  (void)state;
  env t = open_keeping();
  void *other;
  for (uint64_t seed = 0; seed < 100; seed++) {
    check(&t, 7 + seed % 3, ROWS - (int64_t)(seed % 3), seed);
    if (seed % 17 == 10) assert_ok(t.be->alloc(t.be, 1000, &other, &t.e), &t.e);
    /* Steps ran while it was there, or, every second time, none did. */
    if (seed % 17 == (seed % 34 > 17 ? 16 : 10)) t.be->free(t.be, other);
  }
  for (uint64_t key = 100; key < 300; key++) check(&t, key, ROWS, key); /* more than are kept */
  close_env(&t);
}

static void broken_promises(void **state) {
  (void)state;
  env t = open_keeping();
  for (uint64_t seed = 0; seed < 12; seed++) {
    answer kept = {0}, anew = {0};
    int64_t n = seed % 4 == 3 ? ROWS - 1 : ROWS;
    pu_err err = kept_step(&t, 7, n, seed, &kept);
    if (err == PU_ERR_INTERNAL) continue;
    assert_ok(err, &t.e);
    assert_ok(step(&t, n, seed, &anew), &t.e);
    download(&t, &anew);
    must_be_same(&kept, &anew, n);
  }
  close_env(&t);
}

/* Made ready with one seed's ids, and gone on with another's; in between other things run and are waited for. */
static void made_ready(void **state) {
  (void)state;
  env t = open_keeping();
  int times = 0;
  for (uint64_t seed = 0; seed < 40; seed++) {
    answer ahead = {0}, other = {0}, anew = {0};
    uint64_t ready = 0;
    bool again;
    int32_t ids[ROWS];
    check(&t, 7, ROWS, seed);
    assert_ok(t.be->record(t.be, 7, &ready, &t.e), &t.e);
    if (!ready) continue;
    assert_ok(step(&t, ROWS, seed, &ahead), &t.e);
    assert_ok(t.be->play(t.be, &again, &t.e), &t.e);
    assert_false(again);
    pu_tensor values = *ahead.on_values, sums = *ahead.on_sums, at = *ahead.on_ids;
    ahead.on_values = &values, ahead.on_sums = &sums, ahead.on_ids = &at;
    assert_ok(step(&t, ROWS - 1, seed, &other), &t.e); /* in the same memory, and headers too */
    download(&t, &other);
    bool gone = seed % 4 == 3;
    if (gone) check(&t, 8, ROWS, seed);
    assert_ok(t.be->record(t.be, 7, &ready, &t.e), &t.e);
    assert_int_equal(ready == 0, gone);
    if (gone) continue;
    choose_ids(ids, ROWS, seed + 1000);
    assert_ok(t.be->upload(t.be, ahead.ids_at, ids, sizeof ids, &t.e), &t.e);
    assert_ok(t.be->play(t.be, &again, &t.e), &t.e);
    assert_false(again);
    download(&t, &ahead);
    assert_ok(step(&t, ROWS, seed + 1000, &anew), &t.e);
    download(&t, &anew);
    must_be_same(&ahead, &anew, ROWS);
    times++;
  }
  assert_in_range(times, 20, 40);
  close_env(&t);
}

static void nothing_waits_in_between(void **state) {
  (void)state;
  env t = open_keeping();
  bool again;
  float value;
  for (int i = 0; i < 8; i++) {
    assert_ok(t.be->record(t.be, 7, NULL, &t.e), &t.e);
    assert_int_equal(t.be->record(t.be, 8, NULL, &t.e), PU_ERR_INTERNAL);
    assert_int_equal(t.be->sync(t.be, &t.e), PU_ERR_INTERNAL);
    assert_int_equal(t.be->download(t.be, &value, t.w->data, sizeof value, &t.e), PU_ERR_INTERNAL);
    assert_ok(t.be->play(t.be, &again, &t.e), &t.e);
    assert_int_equal(t.be->play(t.be, &again, &t.e), PU_ERR_INTERNAL);
  }
  close_env(&t);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(the_same_as_anew), cmocka_unit_test(broken_promises),
                                     cmocka_unit_test(made_ready), cmocka_unit_test(nothing_waits_in_between)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
