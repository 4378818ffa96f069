/* One step of a run, watched: in which order it asks the device for what, when it waits, and what stops it. */
#include "src/train/loop.h"
#include "tests/train/run.h"

static const char yaml[] = "run: $D/r\nmodel: {path: " PU_FIXTURES "/hf-mini/internlm2-tiny}\n"
                           "data: {seq_len: 32, sources: [{path: $D/a}]}\n"
                           "train: {steps: 20, global_batch: 8, micro_batch: %d, precision: f32, spike: 2}\n"
                           "optim: {lr: 1e-3}\nschedule: {type: constant, warmup: 0}\ncheckpoint: {every: 0}\n";

/* ---- the backend, watched ---- */

static struct {
  pu_train_loop *l;
  pu_backend was;
  char trace[64]; /* a letter each */
  size_t n;
  int micro, odd_micro; /* micro-batches of this step so far; the one that gets a loss of... */
  float odd_loss;
  bool odd_grad;
} w;

static void note(char what) {
  assert_true(w.n + 1 < sizeof w.trace);
  w.trace[w.n++] = what;
  w.trace[w.n] = 0;
}

static pu_err watched_download(pu_backend *be, void *host, const void *device, size_t bytes, pu_error *e) {
  note('d');
  return w.was.download(be, host, device, bytes, e);
}
static pu_err watched_sync(pu_backend *be, pu_error *e) {
  note('s');
  return w.was.sync(be, e);
}
static pu_err watched_copy_rows(pu_backend *be, void *to, size_t to_stride, const void *from, size_t from_stride,
                                size_t bytes, int64_t rows, pu_error *e) {
  note('c');
  return w.was.copy_rows(be, to, to_stride, from, from_stride, bytes, rows, e);
}
static pu_err watched_mark(pu_backend *be, uint64_t *at, pu_error *e) {
  note('m');
  return w.was.mark(be, at, e);
}
static pu_err watched_reach(pu_backend *be, uint64_t at, pu_error *e) {
  note('r');
  return w.was.reach(be, at, e);
}

/* One loss, of a token that has a target, may become another. */
static pu_err watched_loss(pu_backend *be, void *args, pu_error *e) {
  const pu_linear_cross_entropy_args *a = args;
  const pu_train_pack *p = &w.l->pack;
  int64_t at = p->seqs.tokens - 1;
  note('L');
  PU_TRY(w.was.forward[PU_OP_linear_cross_entropy](be, args, e));
  if (w.micro++ != w.odd_micro) return PU_OK;
  while (p->targets[at] < 0) at--;
  return be->upload(be, (float *)a->loss->data + at, &w.odd_loss, sizeof w.odd_loss, e);
}

/* And so may one value of one gradient. */
static pu_err watched_sum(pu_backend *be, void *args, pu_error *e) {
  static const float nan = NAN;
  const pu_sum_squares_args *a = args;
  note('Q');
  if (w.odd_grad) PU_TRY(be->upload(be, (float *)a->t[a->n / 2]->data + 1, &nan, sizeof nan, e));
  return w.was.forward[PU_OP_sum_squares](be, args, e);
}
static pu_err watched_adamw(pu_backend *be, void *args, pu_error *e) {
  note('A');
  return w.was.forward[PU_OP_adamw](be, args, e);
}

/* Documents of up to so many tokens. */
static void write_shard(state *s, int most) {
  pu_shard_writer_options o = {.vocab_size = 61};
  pu_shard_writer *out;
  int32_t ids[40];
  assert_ok(pu_mkdirs(path_in(s, "a"), &s->e), &s->e);
  assert_ok(pu_shard_writer_open(path_in(s, "a"), &o, &out, &s->e), &s->e);
  for (int i = 0; i < 4000 / most; i++) {
    int n = 1 + (int)(pu_random_at(1, 0, (uint64_t)i) % (uint64_t)most);
    for (int k = 0; k < n; k++) ids[k] = (int32_t)(pu_random_at(1, (uint64_t)i + 1, (uint64_t)k) % 61);
    assert_ok(pu_shard_writer_add(out, ids, (size_t)n, NULL, (uint64_t)(40 * i), &s->e), &s->e);
  }
  assert_ok(pu_shard_writer_close(out, &s->e), &s->e);
}

static void open_watched(state *s, pu_train_loop *l, int micro_batch, int longest) {
  const pu_train_config cfg = config_of(s, pu_arena_printf(s->a, yaml, micro_batch));
  write_shard(s, longest);
  assert_ok(pu_train_loop_open(l, &cfg, NULL, &s->e), &s->e);
  pu_backend *be = l->be;
  memset(&w, 0, sizeof w);
  w.l = l;
  w.was = *be;
  be->download = watched_download;
  be->sync = watched_sync;
  be->copy_rows = watched_copy_rows;
  if (be->mark) be->mark = watched_mark, be->reach = watched_reach;
  be->forward[PU_OP_linear_cross_entropy] = watched_loss;
  be->forward[PU_OP_sum_squares] = watched_sum;
  be->forward[PU_OP_adamw] = watched_adamw;
}

static void close_watched(pu_train_loop *l) {
  pu_train_loop_close(l);
  w.l = NULL;
}

/* One step; odd_micro -1: as it is. */
static pu_err step(state *s, pu_train_loop *l, int odd_micro, float odd_loss, bool odd_grad) {
  bool stopped;
  w.n = 0;
  w.micro = 0;
  w.odd_micro = odd_micro;
  w.odd_loss = odd_loss;
  w.odd_grad = odd_grad;
  pu_err err = pu_train_loop_step(l, &stopped, &s->e);
  if (!err) assert_false(stopped);
  return err;
}

/* ---- tests ---- */

/* The update is asked for before anything is waited for, and the news before that; of the micro-batches the host waits
 * only for the one before the last that it asked for. A backend without marks has nothing to wait for. */
static void test_waits(void **arg) {
  state *s = *arg;
  static const struct {
    int micro_batch;
    const char *marked, *plain;
  } cases[] = {{8, "LQcmAr", "LQcA"}, {4, "LmLQcmAr", "LLQcA"}, {2, "LmLmrLmrLQcmAr", "LLLLQcA"}};
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    pu_train_loop l;
    open_watched(s, &l, cases[i].micro_batch, 40);
    for (int k = 0; k < 4; k++) {
      assert_ok(step(s, &l, -1, 0, false), &s->e);
      assert_string_equal(w.trace, w.was.mark ? cases[i].marked : cases[i].plain);
    }
    assert_int_equal(l.state.updates, 4);
    close_watched(&l);
    assert_ok(pu_remove_tree(path_in(s, "r"), &s->e), &s->e);
  }
}

/* All that an update changes, in host memory. */
static char *trained(state *s, const pu_train_loop *l, size_t *n) {
  const pu_train_optim *o = &l->optim;
  char *all = NULL;
  *n = 0;
  for (size_t i = 0; i < o->n_params; i++) {
    const pu_tensor *const parts[] = {o->params[i].w, o->params[i].low, &o->m[i], &o->v[i]};
    for (size_t k = 0; k < PU_COUNT(parts); k++) {
      size_t bytes = parts[k] ? pu_tensor_bytes(parts[k]) : 0;
      all = realloc(all, *n + bytes + 1);
      assert_non_null(all);
      if (bytes) assert_ok(w.was.download(l->be, all + *n, parts[k]->data, bytes, &s->e), &s->e);
      *n += bytes;
    }
  }
  return all;
}

/* A step that is not taken: nothing that is trained changes, and it is counted as skipped. */
static void skips(state *s, pu_train_loop *l, int odd_micro, float odd_loss, bool odd_grad) {
  const pu_train_state was = l->state;
  size_t n;
  char *before = trained(s, l, &n);
  assert_ok(step(s, l, odd_micro, odd_loss, odd_grad), &s->e);
  char *after = trained(s, l, &n);
  assert_memory_equal(before, after, n);
  assert_int_equal(l->state.step, was.step + 1);
  assert_int_equal(l->state.samples, was.samples + 8);
  assert_int_equal(l->state.updates, was.updates);
  assert_int_equal(l->state.skips, was.skips + 1);
  assert_int_equal(l->state.skips_in_row, was.skips_in_row + 1);
  assert_int_equal(l->state.norms, was.norms);
  assert_true(l->state.norm_mean == was.norm_mean);
  free(before);
  free(after);
}

/* One that is taken. */
static void takes(state *s, pu_train_loop *l) {
  const pu_train_state was = l->state;
  size_t n;
  char *before = trained(s, l, &n);
  assert_ok(step(s, l, -1, 0, false), &s->e);
  char *after = trained(s, l, &n);
  assert_memory_not_equal(before, after, n);
  assert_int_equal(l->state.updates, was.updates + 1);
  assert_int_equal(l->state.skips, was.skips);
  assert_int_equal(l->state.skips_in_row, 0);
  assert_int_equal(l->state.norms, was.norms + 1);
  assert_true(isfinite(l->loss));
  free(before);
  free(after);
}

/* Why steps were skipped, as metrics.jsonl has it; and whether loss and norm are numbers there. */
static void check_lines(state *s, const char *const *why, const char *const *numbers, size_t n) {
  FILE *f = fopen(path_in(s, "r/metrics.jsonl"), "r");
  char *line = NULL;
  size_t cap = 0;
  assert_non_null(f);
  for (size_t i = 0; i < n; i++) {
    assert_true(getline(&line, &cap, f) > 0);
    json_t *o = json_loads(line, 0, NULL);
    assert_non_null(o);
    const char *skipped = json_string_value(json_object_get(o, "skipped"));
    if (!why[i]) assert_null(skipped);
    if (why[i]) assert_string_equal(skipped, why[i]);
    assert_int_equal(json_is_number(json_object_get(o, "loss")), strchr(numbers[i], 'l') != NULL);
    assert_int_equal(json_is_number(json_object_get(o, "grad_norm")), strchr(numbers[i], 'n') != NULL);
    json_decref(o);
  }
  free(line);
  fclose(f);
}

static void test_skips(void **arg) {
  state *s = *arg;
  static const char *const no_loss = "the loss is not a number", *const no_grad = "a gradient is not a number",
                           *const spike = "the gradient norm is a spike";
  const char *const why[] = {NULL, no_loss, NULL, no_loss, no_loss, NULL, no_grad, no_loss, NULL, spike, NULL};
  static const char *const numbers[] = {"ln", "n", "ln", "n", "n", "ln", "l", "", "ln", "ln", "ln"};
  pu_train_loop l;
  open_watched(s, &l, 2, 40);
  takes(s, &l);
  skips(s, &l, 0, NAN, false); /* its own news are long there when the last micro-batch begins */
  takes(s, &l);
  skips(s, &l, 3, NAN, false);
  skips(s, &l, 2, INFINITY, false);
  takes(s, &l);
  skips(s, &l, -1, 0, true);
  skips(s, &l, 1, NAN, true); /* the loss is told of first */
  takes(s, &l);
  double mean = l.state.norm_mean;
  l.state.norms = 20; /* from then on there can be spikes */
  l.state.norm_mean = 1e-3 * mean;
  skips(s, &l, -1, 0, false);
  l.state.norm_mean = mean;
  takes(s, &l);
  assert_int_equal(l.state.updates, 5);
  close_watched(&l);
  check_lines(s, why, numbers, PU_COUNT(why));
}

/* Which steps were taken is what the number of an update goes by: with skips between, updates are those of a run
 * without. */
static void test_updates_are_counted(void **arg) {
  state *s = *arg;
  char *all[2];
  size_t n[2];
  for (int i = 0; i < 2; i++) {
    pu_train_loop l;
    open_watched(s, &l, 4, 40);
    for (int k = 0; k < 3; k++) {
      if (i) skips(s, &l, 0, NAN, false);
      l.state.samples = 8 * k; /* the same samples, whatever was skipped */
      takes(s, &l);
    }
    all[i] = trained(s, &l, &n[i]);
    close_watched(&l);
    assert_ok(pu_remove_tree(path_in(s, "r"), &s->e), &s->e);
  }
  assert_int_equal(n[0], n[1]);
  assert_memory_equal(all[0], all[1], n[0]);
  free(all[0]);
  free(all[1]);
}

/* Documents of one token: there is no loss, and no update is asked for. */
static void test_nothing_predicted(void **arg) {
  state *s = *arg;
  pu_train_loop l;
  open_watched(s, &l, 8, 1);
  skips(s, &l, -1, 0, false);
  assert_null(strchr(w.trace, 'A'));
  close_watched(&l);
  check_lines(s, (const char *const[]){"the loss is not a number"}, (const char *const[]){"n"}, 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_waits, setup, teardown),
      cmocka_unit_test_setup_teardown(test_skips, setup, teardown),
      cmocka_unit_test_setup_teardown(test_updates_are_counted, setup, teardown),
      cmocka_unit_test_setup_teardown(test_nothing_predicted, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
