/* Resuming to the bit, guards, refusals, disks that fill up. */
#include "tests/train/run.h"
#include "src/train/data.h"

#include <signal.h>
#include <sys/resource.h>

enum { VOCAB = 61, TEXT_TOKENS = 4000 };

/* ---- shards of a made-up language ---- */

/* Each token follows from the one before it, mostly: something a model can learn in a few steps. */
static void write_shards(state *s, const char *name, uint64_t seed, uint64_t hash) {
  pu_shard_writer_options o = {.vocab_size = VOCAB, .tokenizer_hash = hash};
  pu_shard_writer *w;
  pu_rng r;
  pu_rng_seed(&r, seed);
  assert_ok(pu_mkdirs(path_in(s, name), &s->e), &s->e);
  assert_ok(pu_shard_writer_open(path_in(s, name), &o, &w, &s->e), &s->e);
  int32_t ids[64];
  for (int total = 0; total < TEXT_TOKENS;) {
    int n = 5 + (int)pu_rng_below(&r, 59);
    ids[0] = (int32_t)pu_rng_below(&r, VOCAB);
    for (int i = 1; i < n; i++)
      ids[i] = pu_rng_below(&r, 8) ? (ids[i - 1] * 7 + 3) % VOCAB : (int32_t)pu_rng_below(&r, VOCAB);
    assert_ok(pu_shard_writer_add(w, ids, (size_t)n, NULL, (uint64_t)total, &s->e), &s->e);
    total += n;
  }
  assert_ok(pu_shard_writer_close(w, &s->e), &s->e);
}

static const char tiny[] = "run: $D/%s\nmodel: {path: " PU_FIXTURES "/hf-mini/internlm2-tiny}\n"
                           "data:\n  seq_len: 32\n  sources:\n    - {path: $D/a, weight: 0.7}\n"
                           "    - {path: $D/b, weight: 0.3}\n"
                           "train: {steps: 20, global_batch: 8, micro_batch: %d, precision: %s, %s}\n"
                           "optim: {lr: 3e-3}\nschedule: {warmup: 2, min_lr: 3e-4}\n"
                           "checkpoint: {every: 5, keep: 2}\nvalidate: {every: 5, batches: 2, path: $D/a}\n";

/* precision "rough": bf16 in everything, and a step is one micro-batch. */
static pu_err run_tiny(state *s, const char *run, const char *precision, const char *more,
                       const pu_train_hooks *hooks) {
  bool rough = strcmp(precision, "rough") == 0;
  const char *yaml =
      pu_arena_printf(s->a, tiny, run, rough ? 8 : 4, rough ? "bf16, weights: bf16, grads: bf16" : precision, more);
  return run_yaml(s, pu_arena_printf(s->a, "%s%s", yaml, rough ? "optim.state: bf16\n" : ""), hooks);
}

/* metrics.jsonl without what time changes. */
static void read_losses(state *s, const char *run, double losses[64], size_t *n, double valid[16], size_t *n_valid) {
  *n = read_metrics(s, run, "loss", losses, 64);
  *n_valid = read_metrics(s, run, "valid_loss", valid, 16);
}

static bool stop_at(void *arg, int64_t step, double loss) {
  (void)loss;
  return step != *(const int64_t *)arg;
}

static void same_run(state *s, const char *a, const char *b) {
  double x[64], y[64], xv[16], yv[16];
  size_t nx, ny, nxv, nyv;
  read_losses(s, a, x, &nx, xv, &nxv);
  read_losses(s, b, y, &ny, yv, &nyv);
  assert_int_equal(nx, ny);
  assert_int_equal(nxv, nyv);
  assert_memory_equal(x, y, nx * sizeof *x);
  assert_memory_equal(xv, yv, nxv * sizeof *xv);
}

static void test_resume(void **arg) {
  state *s = *arg;
  write_shards(s, "a", 1, 0);
  write_shards(s, "b", 2, 0);
  const char *const precisions[] = {"f32", "bf16", "rough"};
  for (size_t p = 0; p < PU_COUNT(precisions); p++) {
    const char *whole = pu_arena_printf(s->a, "whole-%s", precisions[p]);
    const char *broken = pu_arena_printf(s->a, "broken-%s", precisions[p]);
    assert_ok(run_tiny(s, whole, precisions[p], "threads: 2", NULL), &s->e);
    assert_int_equal(s->result.steps, 20);
    assert_true(s->result.planned_bytes > 0);
    const int64_t stops[] = {3, 5, 11, 12};
    for (size_t i = 0; i < PU_COUNT(stops); i++) {
      pu_train_hooks hooks = {.arg = (void *)(uintptr_t)&stops[i], .step = stop_at};
      assert_int_equal(run_tiny(s, broken, precisions[p], "threads: 2", &hooks), PU_ERR_STOPPED);
    }
    assert_ok(run_tiny(s, broken, precisions[p], "threads: 1", NULL), &s->e); /* nor do threads matter */
    same_run(s, whole, broken);
    double first[64], valid[16];
    size_t n, n_valid;
    read_losses(s, whole, first, &n, valid, &n_valid);
    assert_int_equal(n, 20);
    assert_int_equal(n_valid, 4);
    assert_true(first[19] < first[0] - 0.2); /* it learns */
    double mfu[64];
    assert_int_equal(read_metrics(s, whole, "mfu", mfu, 64), 20);
    for (int i = 0; i < 20; i++) assert_true(mfu[i] > 0 && mfu[i] <= 1);
    assert_true(fabs(valid[3] - s->result.valid_loss) == 0);
    assert_true(pu_path_is_dir(path_in(s, pu_arena_printf(s->a, "%s/step-000020", broken))));
    assert_true(pu_path_is_dir(path_in(s, pu_arena_printf(s->a, "%s/step-000015", broken))));
    assert_false(pu_path_exists(path_in(s, pu_arena_printf(s->a, "%s/step-000012", broken))));
    assert_ok(run_tiny(s, broken, precisions[p], "threads: 1", NULL), &s->e); /* nothing left to do */
    same_run(s, whole, broken);
  }
}

/* Moments of the other type go on as they are, or rounded; the change is named. */
static void test_other_state(void **arg) {
  state *s = *arg;
  write_shards(s, "a", 1, 0);
  write_shards(s, "b", 2, 0);
  const int64_t stop = 7;
  pu_train_hooks hooks = {.arg = (void *)(uintptr_t)&stop, .step = stop_at};
  const char *const precisions[] = {"bf16", "rough", "bf16"};
  double losses[64], plain[64];
  assert_ok(run_tiny(s, "plain", "bf16", "seed: 1", NULL), &s->e);
  assert_int_equal(read_metrics(s, "plain", "loss", plain, 64), 20);
  for (int i = 0; i < 2; i++) {
    const char *run = precisions[i];
    assert_int_equal(run_tiny(s, run, precisions[i], "seed: 1", &hooks), PU_ERR_STOPPED);
    assert_ok(run_tiny(s, run, precisions[i + 1], "seed: 1", NULL), &s->e);
    assert_int_equal(read_metrics(s, run, "loss", losses, 64), 20);
    for (int t = 0; t < 20; t++) assert_true(fabs(losses[t] / plain[t] - 1) < 0.1);
  }
}

/* As a signal in the middle of the step after this one: it is heard between that step's two micro-batches. */
static bool signal_after(void *arg, int64_t step, double loss) {
  (void)loss;
  if (step == *(const int64_t *)arg) raise(SIGTERM);
  return true;
}

/* A stop does not wait for the end of a step; what was begun of it leaves no trace. */
static void test_stop_inside(void **arg) {
  state *s = *arg;
  write_shards(s, "a", 1, 0);
  write_shards(s, "b", 2, 0);
  assert_ok(run_tiny(s, "whole", "bf16", "seed: 1", NULL), &s->e);
  pu_signals_catch();
  raise(SIGTERM);
  assert_int_equal(run_tiny(s, "broken", "bf16", "seed: 1", NULL), PU_ERR_STOPPED);
  pu_signals_clear();
  assert_non_null(strstr(s->e.msg, "before the end of the first step"));
  assert_false(pu_path_exists(path_in(s, "broken/step-000000")));
  const int64_t stops[] = {3, 12};
  for (size_t i = 0; i < PU_COUNT(stops); i++) {
    pu_train_hooks hooks = {.arg = (void *)(uintptr_t)&stops[i], .step = signal_after};
    assert_int_equal(run_tiny(s, "broken", "bf16", "seed: 1", &hooks), PU_ERR_STOPPED);
    pu_signals_clear();
    assert_int_equal(s->result.steps, stops[i]);
    assert_true(pu_path_is_dir(path_in(s, pu_arena_printf(s->a, "broken/step-%06d", (int)stops[i]))));
    double losses[64];
    assert_int_equal(read_metrics(s, "broken", "loss", losses, 64), stops[i]);
  }
  assert_ok(run_tiny(s, "broken", "bf16", "seed: 1", NULL), &s->e);
  same_run(s, "whole", "broken");
  signal(SIGTERM, SIG_DFL);
  signal(SIGINT, SIG_DFL);
}

static void assert_same_file(state *s, const char *name, const pu_buf *before) {
  pu_buf now;
  pu_buf_init(&now, 1 << 20);
  assert_ok(pu_file_read(path_in(s, name), 1 << 20, &now, &s->e), &s->e);
  assert_int_equal(now.len, before->len);
  assert_memory_equal(now.data, before->data, now.len);
  pu_buf_deinit(&now);
}

/* What is said of a run stays true where there is nothing to do, and where it is asked to become another. */
static void test_facts_stay(void **arg) {
  state *s = *arg;
  static const char yaml[] = "run: $D/facts\nmodel: {%s}\ndata: {seq_len: 16, sources: [{path: $D/a}]}\n"
                             "train: {steps: %d, global_batch: 2}\n";
  const char *model = "path: " PU_FIXTURES "/hf-mini/internlm2-tiny";
  write_shards(s, "a", 1, 0);
  assert_ok(run_yaml(s, pu_arena_printf(s->a, yaml, model, 2), NULL), &s->e);
  static const char old[] = "{\"steps\": 2}\n";
  assert_ok(pu_file_write(path_in(s, "facts/run.json"), old, strlen(old), &s->e), &s->e);
  pu_buf config, facts;
  pu_buf_init(&config, 1 << 20);
  pu_buf_init(&facts, 1 << 20);
  assert_ok(pu_file_read(path_in(s, "facts/config.yaml"), 1 << 20, &config, &s->e), &s->e);
  assert_ok(pu_file_read(path_in(s, "facts/run.json"), 1 << 20, &facts, &s->e), &s->e);
  assert_ok(run_yaml(s, pu_arena_printf(s->a, yaml, model, 1), NULL), &s->e);
  assert_int_equal(run_yaml(s, pu_arena_printf(s->a, yaml, "shape: puyu-2m", 5), NULL), PU_ERR_USAGE);
  assert_non_null(strstr(s->e.msg, "take another run directory"));
  assert_same_file(s, "facts/config.yaml", &config);
  assert_same_file(s, "facts/run.json", &facts);
  pu_buf_deinit(&config);
  pu_buf_deinit(&facts);
}

/* Attention begins anew at each document: a step of short documents has fewer FLOPs than one of long ones. */
static void test_squares(void **arg) {
  (void)arg;
  int32_t starts[] = {0, 3, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, cu[17], positions[16];
  int n_starts[] = {3, 1};
  int32_t ids[16] = {0}, packed[2][16];
  int64_t len[] = {8, 8};
  pu_train_rows rows = {.room = 2, .seq_len = 8, .rows = 2, .ids = ids, .targets = ids, .len = len};
  rows.starts = starts;
  rows.n_starts = n_starts;
  pu_train_pack pack = {.cu = cu, .positions = positions, .ids = packed[0], .targets = packed[1]};
  pu_train_pack_rows(&pack, &rows, 0, 2);
  assert_true(pack.squares == 3 * 3 + 2 * 2 + 3 * 3 + 8 * 8);
  pu_train_pack_rows(&pack, &rows, 1, 1);
  assert_true(pack.squares == 64);
}

/* What stands beside a model goes into all checkpoints, also after the one it was taken from is gone. */
static void test_companions(void **arg) {
  state *s = *arg;
  static const char yaml[] = "run: $D/beside\nmodel: {path: " PU_FIXTURES "/hf-mini/mixtral-tiny}\n"
                             "data: {seq_len: 16, sources: [{path: $D/a}]}\ntrain: {steps: 6, global_batch: 2}\n"
                             "checkpoint: {every: 2, keep: 1}\n";
  const int64_t stop = 1;
  write_shards(s, "a", 1, 0);
  pu_train_hooks hooks = {.arg = (void *)(uintptr_t)&stop, .step = stop_at};
  assert_int_equal(run_yaml(s, yaml, &hooks), PU_ERR_STOPPED);
  assert_ok(run_yaml(s, yaml, NULL), &s->e);
  assert_false(pu_path_exists(path_in(s, "beside/step-000001")));
  assert_true(pu_path_exists(path_in(s, "beside/step-000006/generation_config.json")));
}

/* The gradient does not know how the batch was cut, nor what recomputation left out. */
static void test_micro_batches(void **arg) {
  state *s = *arg;
  write_shards(s, "a", 1, 0);
  write_shards(s, "b", 2, 0);
  assert_ok(run_tiny(s, "four", "f32", "seed: 1", NULL), &s->e);
  static const char *const words[] = {"gates", "some", "all", "true", "false"};
  for (size_t i = 0; i < PU_COUNT(words); i++) {
    assert_ok(run_tiny(s, words[i], "f32", pu_arena_printf(s->a, "recompute: %s", words[i]), NULL), &s->e);
    same_run(s, "four", words[i]);
  }
  /* Sizes that FP8 does not take are multiplied as ever. */
  assert_ok(run_tiny(s, "bf16", "bf16", "seed: 1", NULL), &s->e);
  assert_ok(run_tiny(s, "fp8", "bf16", "linear: fp8", NULL), &s->e);
  same_run(s, "bf16", "fp8");
  assert_ok(run_yaml(s, pu_arena_printf(s->a, tiny, "eight", 8, "f32", "seed: 1"), NULL), &s->e);
  double x[64], y[64];
  assert_int_equal(read_metrics(s, "four", "loss", x, 64), 20);
  assert_int_equal(read_metrics(s, "eight", "loss", y, 64), 20);
  for (int i = 0; i < 20; i++) assert_true(fabs(x[i] - y[i]) < 1e-4 * x[i]);
}

/* ---- guards and refusals ---- */

/* An adapter beside a model of any family learns, beside 4 bits too, and the model stays out of it. */
static void test_adapters(void **arg) {
  state *s = *arg;
  static const char *const names[] = {"internlm1-tiny", "internlm2-tiny", "internlm3-tiny", "llama3-tiny",
                                      "mixtral-tiny",   "qwen2-tiny",     "qwen3-tiny"};
  static const char *const bases[] = {"plain", "nf4"};
  for (size_t i = 0; i < 2 * PU_COUNT(names); i++) {
    const char *name = names[i / 2], *run = pu_arena_printf(s->a, "%s-%s", name, bases[i % 2]);
    const char *yaml =
        pu_arena_printf(s->a,
                        "run: $D/%s\nmodel: {path: " PU_FIXTURES "/hf-mini/%s}\n"
                        "data: {sources: [{type: ids, path: " PU_FIXTURES "/hf-mini/%s/expected.safetensors}]}\n"
                        "train: {steps: 12, precision: %s}\noptim: {lr: 2e-2}\n"
                        "schedule: {type: constant}\nlora: {rank: 4, base: %s}\n",
                        run, name, name, i % 2 ? "bf16" : "f32", bases[i % 2]);
    double loss[16];
    assert_ok(run_yaml(s, yaml, NULL), &s->e);
    assert_int_equal(read_metrics(s, run, "loss", loss, 16), 12);
    if (!(loss[11] < loss[0] - 0.02)) fail_msg("%s: %g after %g", run, loss[11], loss[0]);
    assert_true(pu_path_exists(path_in(s, pu_arena_printf(s->a, "%s/step-000012/adapter_model.safetensors", run))));
    assert_false(pu_path_exists(path_in(s, pu_arena_printf(s->a, "%s/step-000012/model.safetensors", run))));
  }
}

static void test_diverging(void **arg) {
  state *s = *arg;
  write_shards(s, "a", 1, 0);
  const char *yaml = "run: $D/r\nmodel: {path: " PU_FIXTURES "/hf-mini/internlm2-tiny}\n"
                     "data: {seq_len: 32, sources: [{path: $D/a}]}\n"
                     "train: {steps: 30, global_batch: 4, precision: f32, grad_clip: 0, max_skips: 3}\n"
                     "optim: {lr: 1000, weight_decay: 1000}\nschedule: {type: constant}\ncheckpoint: {every: 0}\n";
  assert_int_equal(run_yaml(s, yaml, NULL), PU_ERR_STOPPED);
  assert_non_null(strstr(s->e.msg, "stopped after 3 skipped steps in a row"));
  double loss[64];
  size_t n = read_metrics(s, "r", "loss", loss, 64);
  assert_true(n >= 4 && n < 30);
  for (size_t i = n - 3; i < n; i++) assert_true(isnan(loss[i]));
  assert_false(pu_path_exists(path_in(s, "r/step-000030")));
}

/* A bound below what any gradient keeps: every step is a spike once there is a mean to hold it against. */
static void test_spikes(void **arg) {
  state *s = *arg;
  write_shards(s, "a", 1, 0);
  const char *yaml = "run: $D/r\nmodel: {path: " PU_FIXTURES "/hf-mini/internlm2-tiny}\n"
                     "data: {seq_len: 32, sources: [{path: $D/a}]}\n"
                     "train: {steps: 40, global_batch: 4, precision: f32, spike: %s, max_skips: 4}\n"
                     "optim: {lr: 1e-3}\nschedule: {type: constant}\ncheckpoint: {every: 2}\n";
  assert_int_equal(run_yaml(s, pu_arena_printf(s->a, yaml, "1e-3"), NULL), PU_ERR_STOPPED);
  assert_non_null(strstr(s->e.msg, "stopped after 4 skipped steps in a row (the gradient norm is a spike)"));
  double loss[64], skipped[64];
  assert_int_equal(read_metrics(s, "r", "loss", loss, 64), 24); /* of 20 the mean was made */
  assert_int_equal(read_metrics(s, "r", "skipped", skipped, 64), 4);
  for (int i = 0; i < 24; i++) assert_true(isfinite(loss[i]));
  assert_true(pu_path_exists(path_in(s, "r/step-000020")));
  assert_false(pu_path_exists(path_in(s, "r/step-000022")));
  assert_ok(pu_remove_tree(path_in(s, "r"), &s->e), &s->e);
  assert_ok(run_yaml(s, pu_arena_printf(s->a, yaml, "100"), NULL), &s->e);
  assert_int_equal(read_metrics(s, "r", "skipped", skipped, 64), 0);
}

/* The batch grows; a run that was stopped on the way goes on with the samples that come next. */
static void test_ramp(void **arg) {
  state *s = *arg;
  static const char more[] = "ramp_start: 4, ramp_steps: 3, threads: 1";
  static const double tokens[] = {4, 4, 6, 8, 8};
  const char *yaml[2];
  write_shards(s, "a", 1, 0);
  write_shards(s, "b", 2, 0);
  for (int i = 0; i < 2; i++) yaml[i] = pu_arena_printf(s->a, tiny, i ? "broken" : "whole", 2, "f32", more);
  assert_ok(run_yaml(s, yaml[0], NULL), &s->e);
  for (int64_t stop = 1; stop <= 4; stop++) {
    pu_train_hooks hooks = {.arg = &stop, .step = stop_at};
    assert_int_equal(run_yaml(s, yaml[1], &hooks), PU_ERR_STOPPED);
  }
  assert_ok(run_yaml(s, yaml[1], NULL), &s->e);
  same_run(s, "whole", "broken");
  double got[64];
  assert_int_equal(read_metrics(s, "broken", "step_tokens", got, 64), 20);
  for (size_t i = 0; i < PU_COUNT(tokens); i++) assert_true(got[i] == 32 * tokens[i]);
}

/* Where documents may be crossed, what stands before one predicts its first token too. */
static void test_crossing(void **arg) {
  state *s = *arg;
  write_shards(s, "a", 1, 0);
  const char *yaml = "run: $D/%s\nmodel: {path: " PU_FIXTURES "/hf-mini/internlm2-tiny}\n"
                     "data: {seq_len: 32, cross_document: %s, sources: [{path: $D/a}]}\n"
                     "train: {steps: 2, global_batch: 4, precision: f32}\n";
  assert_ok(run_yaml(s, pu_arena_printf(s->a, yaml, "apart", "false"), NULL), &s->e);
  assert_ok(run_yaml(s, pu_arena_printf(s->a, yaml, "across", "true"), NULL), &s->e);
  double apart[4], across[4], loss[2][4];
  assert_int_equal(read_metrics(s, "apart", "predicted", apart, 4), 2);
  assert_int_equal(read_metrics(s, "across", "predicted", across, 4), 2);
  assert_int_equal(read_metrics(s, "apart", "loss", loss[0], 4), 2);
  assert_int_equal(read_metrics(s, "across", "loss", loss[1], 4), 2);
  assert_true(across[0] == 4 * 32 && apart[0] < across[0]);
  assert_true(loss[0][0] != loss[1][0]);
}

static void refuses(state *s, const char *yaml, pu_err code, const char *message) {
  s->e.msg[0] = 0;
  assert_int_equal(run_yaml(s, yaml, NULL), code);
  if (!strstr(s->e.msg, message)) fail_msg("'%s' does not say '%s'", s->e.msg, message);
}

#define MODEL "run: $D/r\nmodel: {path: " PU_FIXTURES "/hf-mini/internlm2-tiny}\n"

static void test_refusals(void **arg) {
  state *s = *arg;
  write_shards(s, "a", 1, 0);
  pu_shard_writer_options o = {.vocab_size = 60000};
  pu_shard_writer *w;
  const int32_t big[] = {1, 2, 50000};
  assert_ok(pu_mkdirs(path_in(s, "big"), &s->e), &s->e);
  assert_ok(pu_shard_writer_open(path_in(s, "big"), &o, &w, &s->e), &s->e);
  assert_ok(pu_shard_writer_add(w, big, 3, NULL, 1, &s->e), &s->e);
  assert_ok(pu_shard_writer_close(w, &s->e), &s->e);
  refuses(s, MODEL "data: {seq_len: 8, sources: [{path: $D/big}]}\n", PU_ERR_FORMAT, "holds id 50000");
  refuses(s, MODEL "data: {sources: [{path: $D/nothing}]}\n", PU_ERR_IO, "nothing");
  refuses(s, MODEL "data: {sources: [{type: text, path: $D/a}]}\n", PU_ERR_USAGE, "set model.tokenizer");
  refuses(s, MODEL "data: {sources: [{type: ids, path: $D/nothing.safetensors}]}\n", PU_ERR_IO, "nothing");
  refuses(s,
          MODEL "data: {sources: [{type: ids, path: " PU_FIXTURES "/hf-mini/internlm2-tiny/expected.safetensors"
                ", key: logits}]}\n",
          PU_ERR_FORMAT, "'logits' must be i32 or i64 [B, T]");
  refuses(s,
          "run: $D/r\nmodel: {shape: internlm2-20b}\ndata: {sources: [{path: $D/a}]}\n"
          "train: {micro_batch: 1}\n",
          PU_ERR_NOMEM, "lower train.micro_batch");
  refuses(s, "run: $D/a/shard-00000.pub/r\nmodel: {shape: puyu-2m}\ndata: {sources: [{path: $D/a}]}\n", PU_ERR_IO,
          "cannot make the folder");
}

/* A start that fails leaves nothing that was not there before. */
static void test_no_trace(void **arg) {
  state *s = *arg;
  static const char data[] = "data: {seq_len: 8, sources: [{path: $D/a}]}\n";
  static const char *const wrong[][2] = {{"model: {shape: internlm2-20b}\n", ""},
                                         {"model: {shape: puyu-2m}\n", "train: {device: abacus}\n"},
                                         {"model: {shape: puyu-2m}\n", "validate: {path: nowhere}\n"}};
  write_shards(s, "a", 1, 0);
  for (size_t i = 0; i < PU_COUNT(wrong); i++) {
    assert_int_not_equal(
        run_yaml(s, pu_arena_printf(s->a, "run: $D/runs/r\n%s%s%s", wrong[i][0], data, wrong[i][1]), NULL), PU_OK);
    assert_false(pu_path_exists(path_in(s, "runs")));
  }
}

/* A disk that fills up inside a checkpoint, played by a limit on the size of files between metrics and weights. */
static bool fill_disk(void *arg, int64_t step, double loss) {
  (void)loss;
  if (step != 7) return true;
  while (!pu_path_is_dir(arg)) usleep(1000); /* the checkpoint before is complete */
  struct rlimit limit;
  getrlimit(RLIMIT_FSIZE, &limit);
  limit.rlim_cur = 60000;
  return setrlimit(RLIMIT_FSIZE, &limit) == 0;
}

static void test_disk_full(void **arg) {
  state *s = *arg;
  struct rlimit before;
  write_shards(s, "a", 1, 0);
  write_shards(s, "b", 2, 0);
  pu_train_hooks hooks = {.arg = (void *)(uintptr_t)path_in(s, "r/step-000005"), .step = fill_disk};
  getrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, SIG_IGN);
  pu_err err = run_tiny(s, "r", "f32", "seed: 1", &hooks);
  setrlimit(RLIMIT_FSIZE, &before);
  assert_int_equal(err, PU_ERR_IO);
  assert_non_null(strstr(s->e.msg, "was not saved (older ones are untouched)"));
  assert_true(pu_path_is_dir(path_in(s, "r/step-000005")));
  assert_false(pu_path_exists(path_in(s, "r/step-000010")));
  assert_false(pu_path_exists(path_in(s, "r/step-000010.tmp")));
  assert_ok(run_tiny(s, "r", "f32", "seed: 1", NULL), &s->e);
  assert_ok(run_tiny(s, "whole", "f32", "seed: 1", NULL), &s->e);
  same_run(s, "whole", "r");
  const struct rlimit full = {60000, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &full);
  err = run_tiny(s, "first", "f32", "seed: 1", NULL);
  setrlimit(RLIMIT_FSIZE, &before);
  assert_int_equal(err, PU_ERR_IO);
  assert_non_null(strstr(s->e.msg, "was not saved: ")); /* there are no older ones to speak of */
}

/* What a checkpoint holds is checked before it is used. */
static void test_damaged(void **arg) {
  state *s = *arg;
  write_shards(s, "a", 1, 0);
  write_shards(s, "b", 2, 0);
  assert_ok(run_tiny(s, "r", "f32", "seed: 1", NULL), &s->e);
  const char *more = pu_arena_printf(s->a, tiny, "r", 4, "f32", "seed: 1");
  memcpy(strstr(more, "steps: 20"), "steps: 22", 9);
  static const char *const names[] = {"optimizer.safetensors", "model.safetensors", "state.json"};
  for (size_t i = 0; i < PU_COUNT(names); i++) {
    const char *path = pu_arena_printf(s->a, "%s/r/step-000020/%s", s->dir, names[i]);
    pu_buf whole;
    pu_buf_init(&whole, 1 << 20);
    assert_ok(pu_file_read(path, 1 << 20, &whole, &s->e), &s->e);
    assert_ok(pu_file_write(path, whole.data, whole.len / 2, &s->e), &s->e);
    assert_int_equal(run_yaml(s, more, NULL), PU_ERR_FORMAT);
    assert_non_null(strstr(s->e.msg, names[i]));
    assert_non_null(strstr(s->e.msg, "/step-000020 to go on from step-000015)"));
    assert_int_equal(run_tiny(s, "r", "f32", "seed: 1", NULL), PU_ERR_FORMAT); /* though there is nothing to do */
    assert_non_null(strstr(s->e.msg, names[i]));
    assert_ok(pu_file_write(path, whole.data, whole.len, &s->e), &s->e);
    pu_buf_deinit(&whole);
  }
  assert_ok(run_yaml(s, more, NULL), &s->e);
  assert_int_equal(s->result.steps, 22);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_resume, setup, teardown),
      cmocka_unit_test_setup_teardown(test_other_state, setup, teardown),
      cmocka_unit_test_setup_teardown(test_stop_inside, setup, teardown),
      cmocka_unit_test_setup_teardown(test_facts_stay, setup, teardown),
      cmocka_unit_test(test_squares),
      cmocka_unit_test_setup_teardown(test_companions, setup, teardown),
      cmocka_unit_test_setup_teardown(test_micro_batches, setup, teardown),
      cmocka_unit_test_setup_teardown(test_adapters, setup, teardown),
      cmocka_unit_test_setup_teardown(test_diverging, setup, teardown),
      cmocka_unit_test_setup_teardown(test_spikes, setup, teardown),
      cmocka_unit_test_setup_teardown(test_ramp, setup, teardown),
      cmocka_unit_test_setup_teardown(test_crossing, setup, teardown),
      cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
      cmocka_unit_test_setup_teardown(test_no_trace, setup, teardown),
      cmocka_unit_test_setup_teardown(test_disk_full, setup, teardown),
      cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
