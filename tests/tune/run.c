/* Fine-tuning runs: what is in a row, packed as unpacked, micro-batches, resuming to the bit, what is refused. */
#include "src/tune/pack.h"
#include "tests/tune/tiny.h"

enum { SEQ_LEN = 96 };

static const char data[] = "data: {seq_len: 96, pack: %s, too_long: %s, sources: [{path: $D/sums.jsonl}]}\n"
                           "optim: {lr: 3e-3, weight_decay: 0}\nschedule: {type: constant}\n"
                           "validate: {every: 2, batches: 100, path: $D/valid.jsonl}\n";

static const char *more_of(state *s, const char *pack, const char *too_long) {
  return pu_arena_printf(s->a, data, pack, too_long);
}

static void prepare(state *s) {
  write_model(s, "m", "internlm2");
  write_sums(s, "sums.jsonl", 60, 1);
  write_sums(s, "valid.jsonl", 20, 2);
}

/* ---- rows ---- */

typedef struct opened {
  pu_tokenizer *t;
  pu_train_config cfg;
  pu_train_source source;
  pu_train_feed feed;
  int32_t ids[SEQ_LEN], targets[SEQ_LEN], starts[SEQ_LEN];
  pu_train_row row;
} opened;

static void open_feed(state *s, opened *o, bool pack, int too_long, int64_t seq_len) {
  *o = (opened){.t = tiny_learned(), .source = {.path = path_in(s, "sums.jsonl")}};
  o->cfg.data.seq_len = seq_len;
  o->cfg.data.pack = pack;
  o->cfg.data.too_long = too_long;
  o->cfg.train.seed = 7;
  o->row = (pu_train_row){.ids = o->ids, .targets = o->targets, .starts = o->starts};
  const pu_train_feed_options fo = {.cfg = &o->cfg,
                                    .sources = &o->source,
                                    .n = 1,
                                    .tokenizer = o->t,
                                    .arch = pu_arch_find("internlm2"),
                                    .vocab = pu_tokenizer_size(o->t)};
  assert_ok(pu_tune_feed(NULL, &fo, &o->feed, &s->e), &s->e);
}

static void close_feed(opened *o) {
  o->feed.close(o->feed.arg);
  pu_tokenizer_free(o->t);
}

/* A sample of a row as a hash of its ids and targets, and how many ids are learned. */
static uint64_t hash_of(const pu_train_row *r, int i, size_t *learned) {
  int32_t from = r->starts[i], to = i + 1 < r->n_starts ? r->starts[i + 1] : (int32_t)r->n;
  for (int32_t k = from; k < to; k++) *learned += r->targets[k] >= 0;
  for (int32_t k = from; k + 1 < to; k++) assert_true(r->targets[k] == -1 || r->targets[k] == r->ids[k + 1]);
  assert_true(r->targets[to - 1] >= 0); /* nothing is computed that teaches nothing */
  uint64_t h = pu_hash64(r->ids + from, (size_t)(to - from) * 4, 0);
  return pu_hash64(r->targets + from, (size_t)(to - from) * 4, h);
}

/* Sum of the hashes of all samples of a pass, so that their order does not count. */
static uint64_t pass_of(opened *o, uint64_t pass, size_t *samples, size_t *learned, uint64_t *order) {
  uint64_t sum = 0;
  *samples = *learned = *order = 0;
  for (uint64_t i = 0; i < o->feed.rows; i++) {
    o->feed.read(o->feed.arg, pass * o->feed.rows + i, &o->row);
    assert_true(o->row.n > 0 && o->row.n <= o->cfg.data.seq_len && o->row.n_starts > 0 && o->row.starts[0] == 0);
    for (int k = 0; k < o->row.n_starts; k++) {
      uint64_t h = hash_of(&o->row, k, learned);
      sum += h;
      *order = *order * 31 + h;
    }
    *samples += (size_t)o->row.n_starts;
  }
  return sum;
}

static void test_rows(void **arg) {
  state *s = *arg;
  size_t n, learned, n2, learned2;
  uint64_t order, order2;
  opened packed, single;
  prepare(s);
  open_feed(s, &packed, true, 0, SEQ_LEN);
  open_feed(s, &single, false, 0, SEQ_LEN);
  uint64_t sum = pass_of(&packed, 0, &n, &learned, &order);
  assert_int_equal(n, 60);
  assert_true(sum == pass_of(&single, 0, &n2, &learned2, &order2));
  assert_int_equal(n2, 60);
  assert_int_equal(learned, learned2);
  assert_int_equal(single.feed.rows, 60);
  assert_true(packed.feed.rows < 50);
  assert_int_equal(packed.feed.tokens, single.feed.tokens);
  /* Another pass: the same, in another order; and back again to the first. */
  assert_true(sum == pass_of(&packed, 1, &n, &learned, &order2));
  assert_true(order != order2);
  assert_true(sum == pass_of(&packed, 0, &n, &learned, &order2));
  assert_true(order == order2);
  close_feed(&packed);
  close_feed(&single);
}

static void test_too_long(void **arg) {
  state *s = *arg;
  size_t n, learned, cut, cut_learned;
  uint64_t order;
  opened o;
  prepare(s);
  open_feed(s, &o, true, 0, 40);
  pass_of(&o, 0, &n, &learned, &order);
  assert_true(n > 0 && n < 60);
  close_feed(&o);
  open_feed(s, &o, true, 1, 40);
  pass_of(&o, 0, &cut, &cut_learned, &order);
  assert_int_equal(cut, 60); /* of two turns the first is left */
  assert_true(cut_learned > learned);
  close_feed(&o);
}

/* Every sample once, no row too full, the order kept, and few rows more than must be. */
static void test_plan(void **arg) {
  (void)arg;
  pu_error e;
  pu_rng r;
  pu_rng_seed(&r, 3);
  for (int round = 0; round < 50; round++) {
    uint32_t order[300], len[300], n = 1 + (uint32_t)pu_rng_below(&r, 300), room = 1 + (uint32_t)pu_rng_below(&r, 100);
    uint64_t total = 0, seen = 0;
    pu_tune_plan p = {0};
    pu_tune_shuffle(order, n, 0, 5, (uint64_t)round);
    for (uint32_t i = 0; i < n; i++) total += len[i] = 1 + (uint32_t)pu_rng_below(&r, room);
    for (int k = 0; k < 2; k++) assert_ok(pu_tune_plan_add(&p, order, n, len, room, k == 1, &e), &e);
    assert_int_equal(p.begin[p.rows], 2 * n);
    for (size_t row = 0; row < p.rows; row++) {
      uint64_t used = 0;
      for (uint64_t i = p.begin[row]; i < p.begin[row + 1]; i++) {
        used += len[p.samples[i]];
        seen += p.samples[i];
      }
      assert_true(p.begin[row + 1] > p.begin[row] && used <= room);
    }
    assert_true(seen == (uint64_t)n * (n - 1)); /* twice 0 + 1 + … */
    size_t packed = p.rows - n;
    assert_true(packed * room < 2 * total + room);
    pu_tune_plan_deinit(&p);
  }
}

/* ---- runs ---- */

static void close_enough(state *s, const char *a, const char *b, const char *key, double bound) {
  double x[64], y[64];
  size_t n = read_metrics(s, a, key, x, 64);
  assert_int_equal(read_metrics(s, b, key, y, 64), n);
  assert_true(n > 0);
  for (size_t i = 0; i < n; i++)
    if (!(fabs(x[i] - y[i]) <= bound * fabs(x[i]))) fail_msg("%s %zu: %.9g and %.9g", key, i, x[i], y[i]);
}

/* The whole set is one batch: whatever the rows and micro-batches, it is the same tokens that are learned. */
static void test_packed_as_unpacked(void **arg) {
  state *s = *arg;
  opened o;
  prepare(s);
  open_feed(s, &o, true, 0, SEQ_LEN);
  int rows = (int)o.feed.rows;
  close_feed(&o);
  const char *packed = pu_arena_printf(s->a, "steps: 4, global_batch: %d, micro_batch: %d", rows, rows);
  assert_ok(run_yaml(s, sft_yaml(s, "packed", packed, more_of(s, "true", "drop")), &tune_hooks), &s->e);
  const char *single = "steps: 4, global_batch: 60, micro_batch: 4";
  assert_ok(run_yaml(s, sft_yaml(s, "single", single, more_of(s, "false", "drop")), &tune_hooks), &s->e);
  const char *other = "steps: 4, global_batch: 60, micro_batch: 60, recompute: true";
  assert_ok(run_yaml(s, sft_yaml(s, "whole", other, more_of(s, "false", "drop")), &tune_hooks), &s->e);
  static const char *const keys[] = {"loss", "grad_norm", "valid_loss"};
  for (size_t i = 0; i < PU_COUNT(keys); i++) {
    close_enough(s, "packed", "single", keys[i], 2e-5);
    close_enough(s, "packed", "whole", keys[i], 2e-5);
  }
  double predicted[2][8];
  for (int i = 0; i < 2; i++) read_metrics(s, i ? "single" : "packed", "predicted", predicted[i], 8);
  assert_true(fabs(predicted[0][0] - predicted[1][0]) < 0.5);
}

/* 1 x 16 as 4 x 4, although the micro-batches hold different numbers of tokens that are learned. */
static void test_micro_batches(void **arg) {
  state *s = *arg;
  prepare(s);
  static const char *const cuts[] = {"16", "4", "1"};
  for (size_t i = 0; i < PU_COUNT(cuts); i++) {
    const char *train = pu_arena_printf(s->a, "steps: 6, global_batch: 16, micro_batch: %s", cuts[i]);
    assert_ok(run_yaml(s, sft_yaml(s, cuts[i], train, more_of(s, "false", "drop")), &tune_hooks), &s->e);
    close_enough(s, "16", cuts[i], "loss", 2e-5);
    close_enough(s, "16", cuts[i], "grad_norm", 2e-5);
  }
}

static void test_learns(void **arg) {
  state *s = *arg;
  double loss[64], valid[64];
  prepare(s);
  assert_ok(run_yaml(s, sft_yaml(s, "r", "steps: 40, global_batch: 8", more_of(s, "true", "drop")), &tune_hooks),
            &s->e);
  size_t n = read_metrics(s, "r", "loss", loss, 64), m = read_metrics(s, "r", "valid_loss", valid, 64);
  assert_int_equal(n, 40);
  assert_true(loss[39] < 0.5 * loss[0] && valid[m - 1] < 0.7 * valid[0]);
  assert_true(pu_path_exists(pu_arena_printf(s->a, "%s/tokenizer.json", step_of(s, "r", 40))));
}

static void resumes(state *s, const char *name, const char *more, const char *weights) {
  const char *all = pu_arena_printf(s->a, "%s\n%s", more_of(s, "true", "drop"), more);
  const char *train = "steps: 12, global_batch: 4, micro_batch: 2", *whole = pu_arena_printf(s->a, "%s-whole", name),
             *broken = pu_arena_printf(s->a, "%s-broken", name);
  assert_ok(run_yaml(s, sft_yaml(s, whole, train, all), &tune_hooks), &s->e);
  const int64_t stops[] = {1, 5, 11};
  for (size_t i = 0; i < PU_COUNT(stops); i++) {
    pu_train_hooks hooks = tune_hooks;
    hooks.arg = (void *)(uintptr_t)&stops[i];
    hooks.step = stop_at;
    assert_int_equal(run_yaml(s, sft_yaml(s, broken, train, all), &hooks), PU_ERR_STOPPED);
  }
  assert_ok(run_yaml(s, sft_yaml(s, broken, train, all), &tune_hooks), &s->e);
  close_enough(s, whole, broken, "loss", 0);
  close_enough(s, whole, broken, "valid_loss", 0);
  assert_true(same_files(s, pu_arena_printf(s->a, "%s/%s", step_of(s, whole, 12), weights),
                         pu_arena_printf(s->a, "%s/%s", step_of(s, broken, 12), weights)));
  assert_ok(run_yaml(s, sft_yaml(s, broken, train, all), &tune_hooks), &s->e); /* nothing left to do */
}

static void test_resume(void **arg) {
  state *s = *arg;
  prepare(s);
  resumes(s, "full", "", "model.safetensors");
  resumes(s, "lora", "lora: {rank: 4}", "adapter_model.safetensors");
  resumes(s, "nf4", "lora: {rank: 4, base: nf4}", "adapter_model.safetensors");
}

/* Beside a base of 4 bits an adapter learns as beside the whole one, about; the base takes less. */
static void test_nf4(void **arg) {
  state *s = *arg;
  double loss[2][64], valid[2][64];
  size_t planned[2];
  prepare(s);
  static const char *const base[] = {"plain", "nf4"};
  for (int i = 0; i < 2; i++) {
    const char *more = pu_arena_printf(s->a, "%s\nlora: {rank: 4, base: %s}", more_of(s, "true", "drop"), base[i]);
    assert_ok(run_yaml(s, sft_yaml(s, base[i], "steps: 30, global_batch: 8", more), &tune_hooks), &s->e);
    assert_int_equal(read_metrics(s, base[i], "loss", loss[i], 64), 30);
    read_metrics(s, base[i], "valid_loss", valid[i], 64);
    planned[i] = s->result.planned_bytes;
  }
  assert_true(loss[1][29] < 0.9 * loss[1][0] && fabs(valid[0][14] - valid[1][14]) < 0.05 * valid[0][14]);
  assert_true(loss[0][0] != loss[1][0]);
  assert_true(planned[1] < planned[0]);
}

/* Passes over the data decide the steps. */
static void test_epochs(void **arg) {
  state *s = *arg;
  opened o;
  prepare(s);
  open_feed(s, &o, true, 0, SEQ_LEN);
  int64_t rows = (int64_t)o.feed.rows;
  close_feed(&o);
  const char *yaml = sft_yaml(s, "r", "epochs: 1.5, global_batch: 4", more_of(s, "true", "drop"));
  assert_ok(run_yaml(s, yaml, &tune_hooks), &s->e);
  assert_int_equal(s->result.steps, (3 * rows + 7) / 8);
  assert_ok(run_yaml(s, yaml, &tune_hooks), &s->e);
  assert_int_equal(s->result.steps, (3 * rows + 7) / 8);
}

/* Losses by source, and rows of one source only. */
static void test_sources(void **arg) {
  state *s = *arg;
  prepare(s);
  const char *yaml = sft_yaml(s, "r", "steps: 2, global_batch: 64",
                              "data: {seq_len: 96, sources: [{path: $D/sums.jsonl}, {path: $D/valid.jsonl}]}");
  assert_ok(run_yaml(s, yaml, &tune_hooks), &s->e);
  json_t *line;
  pu_buf text;
  pu_buf_init(&text, 1 << 20);
  assert_ok(pu_file_read(path_in(s, "r/metrics.jsonl"), 1 << 20, &text, &s->e), &s->e);
  assert_ok(pu_json_parse("m", pu_str_of(text.data, (size_t)(strchr(text.data, '\n') - text.data)), &line, &s->e),
            &s->e);
  assert_int_equal(json_object_size(json_object_get(line, "source_loss")), 2);
  json_decref(line);
  pu_buf_deinit(&text);
}

static void refuses(state *s, const char *train, const char *more, const char *what) {
  pu_err err = run_yaml(s, sft_yaml(s, "refused", train, more), &tune_hooks);
  if (!err) fail_msg("taken: %s", more);
  if (!strstr(s->e.msg, what)) fail_msg("no \"%s\" in: %s", what, s->e.msg);
  assert_false(pu_path_exists(path_in(s, "refused")));
}

static void test_refusals(void **arg) {
  state *s = *arg;
  prepare(s);
  static const char silent[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", "
                               "\"content\": \"b\", \"loss\": false}]}\n";
  static const char stranger[] = "\n{\"messages\": [{\"role\": \"dog\", \"content\": \"a\"}]}\n";
  assert_ok(pu_file_write(path_in(s, "silent.jsonl"), silent, strlen(silent), &s->e), &s->e);
  assert_ok(pu_file_write(path_in(s, "stranger.jsonl"), stranger, strlen(stranger), &s->e), &s->e);
  refuses(s, "steps: 2", "data: {sources: [{path: $D/silent.jsonl}]}",
          "silent.jsonl:1: nothing in it is to be learned");
  refuses(s, "steps: 2", "data: {sources: [{path: $D/stranger.jsonl}]}", "stranger.jsonl:2: message 1: chat template");
  refuses(s, "steps: 2", "data: {seq_len: 4, sources: [{path: $D/sums.jsonl}]}", "none of its conversations fits");
  refuses(s, "steps: 2", "data: {chat_template: x, sources: [{path: $D/sums.jsonl}]}",
          "there is no 'x'; known: internlm,");
  refuses(s, "steps: 2", "data: {sources: [{path: $D/sums.jsonl, weight: 1}]}", "has a weight");
  refuses(s, "steps: 2", "data: {sources: [{path: $D/sums.jsonl, type: text}]}", "leave its type out");
  refuses(s, "steps: 2", "data: {sources: [{path: $D/sums.jsonl, form: x}]}", "there is no form 'x'");
  refuses(s, "epochs: 1", "schedule: {warmup: 900}\ndata: {sources: [{path: $D/sums.jsonl}]}", "schedule.warmup 900");
  refuses(s, "steps: 2", "lora: {base: nf4}\ndata: {sources: [{path: $D/sums.jsonl}]}", "set lora.rank");
  refuses(s, "steps: 2", "lora: {rank: 2, targets: [x_proj]}\ndata: {sources: [{path: $D/sums.jsonl}]}",
          "names no matrix");
  refuses(s, "steps: 2", "data: {sources: [{path: $D/sums.jsonl}]}\nvalidate: {path: $D/silent.jsonl}",
          "validate.path: ");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_rows, setup, teardown),
      cmocka_unit_test_setup_teardown(test_too_long, setup, teardown),
      cmocka_unit_test(test_plan),
      cmocka_unit_test_setup_teardown(test_packed_as_unpacked, setup, teardown),
      cmocka_unit_test_setup_teardown(test_micro_batches, setup, teardown),
      cmocka_unit_test_setup_teardown(test_learns, setup, teardown),
      cmocka_unit_test_setup_teardown(test_resume, setup, teardown),
      cmocka_unit_test_setup_teardown(test_nf4, setup, teardown),
      cmocka_unit_test_setup_teardown(test_epochs, setup, teardown),
      cmocka_unit_test_setup_teardown(test_sources, setup, teardown),
      cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
