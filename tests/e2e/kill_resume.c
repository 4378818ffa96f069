/* A run that is killed again and again, inside checkpoint writes too, has the losses of one that never was. */
#include "puyu/shards.h"
#include "tests/e2e/program.h"

#include <limits.h>
#include <math.h>

enum { VOCAB = 500, TOKENS = 20000, STEPS = 24, EVERY = 3, MAX_VALUES = 128 };

typedef struct state {
  char dir[64];
  pu_arena *a;
  pu_error e;
  const char *config;
} state;

static const char *path_in(state *s, const char *name) {
  return pu_arena_printf(s->a, "%s/%s", s->dir, name);
}

static void write_shards(state *s) {
  pu_shard_writer_options o = {.vocab_size = VOCAB};
  pu_shard_writer *w;
  pu_rng r;
  int32_t ids[100];
  pu_rng_seed(&r, 1);
  assert_ok(pu_mkdirs(path_in(s, "shards"), &s->e), &s->e);
  assert_ok(pu_shard_writer_open(path_in(s, "shards"), &o, &w, &s->e), &s->e);
  for (int n = 0; n < TOKENS; n += 100) {
    for (int i = 0; i < 100; i++) ids[i] = pu_rng_below(&r, 4) ? (n + i) % 17 : (int32_t)pu_rng_below(&r, VOCAB);
    assert_ok(pu_shard_writer_add(w, ids, 100, NULL, (uint64_t)n, &s->e), &s->e);
  }
  assert_ok(pu_shard_writer_close(w, &s->e), &s->e);
}

static pid_t start(state *s, const char *run) {
  const char *words[] = {"train", s->config, pu_arena_printf(s->a, "run=%s/%s", s->dir, run), NULL};
  return program_start(words, path_in(s, "out"), path_in(s, "err"));
}

/* ---- where to kill ---- */

static int64_t lines_of(state *s, const char *run) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s/%s/metrics.jsonl", s->dir, run);
  pu_map m;
  if (pu_map_open(path, &m, NULL) != PU_OK) return 0;
  int64_t n = 0;
  for (size_t i = 0; i < m.len; i++) n += m.data[i] == '\n';
  pu_map_close(&m);
  return n;
}

/* Is a checkpoint being written, with (or still without) that file in it? */
static bool inside_write(state *s, const char *run, const char *file) {
  char path[PATH_MAX];
  for (int step = EVERY; step <= STEPS; step += EVERY) {
    snprintf(path, sizeof path, "%s/%s/step-%06d.tmp/%s", s->dir, run, step, file);
    if (pu_path_exists(path)) return true;
  }
  return false;
}

typedef struct kill_point {
  int64_t lines;    /* not before so many lines of metrics beyond those at the start */
  const char *file; /* and this file in an unfinished checkpoint; NULL: anywhere */
} kill_point;

/* Starts the run and kills it at the point; false: it had ended before. */
static bool kill_at(state *s, const char *run, const kill_point *p) {
  int64_t before = lines_of(s, run);
  pid_t pid = start(s, run);
  bool there = false;
  while (!there && !program_ended(pid)) {
    int64_t now = lines_of(s, run);
    if (now < before) before = now; /* cut back to the checkpoint */
    there = now >= before + p->lines && (!p->file || inside_write(s, run, p->file));
    if (!there) usleep(200);
  }
  kill(pid, SIGKILL);
  return program_wait(pid) == 128 + SIGKILL;
}

/* ---- what must be the same ---- */

static size_t read_values(state *s, const char *run, const char *key, double out[MAX_VALUES]) {
  char *line = NULL;
  size_t cap = 0, n = 0;
  FILE *f = fopen(pu_arena_printf(s->a, "%s/%s/metrics.jsonl", s->dir, run), "r");
  assert_non_null(f);
  while (getline(&line, &cap, f) > 0) {
    json_t *o = json_loads(line, 0, NULL), *v = json_object_get(o, key);
    assert_non_null(o);
    if (v && n < MAX_VALUES) out[n++] = json_number_value(v);
    json_decref(o);
  }
  free(line);
  fclose(f);
  return n;
}

static void same_values(state *s, const char *key, size_t count) {
  double a[MAX_VALUES], b[MAX_VALUES];
  assert_int_equal(read_values(s, "whole", key, a), count);
  assert_int_equal(read_values(s, "killed", key, b), count);
  for (size_t i = 0; i < count; i++)
    if (memcmp(&a[i], &b[i], sizeof a[i]) != 0) fail_msg("%s %zu: %.17g unbroken, %.17g killed", key, i, a[i], b[i]);
}

static void same_file(state *s, const char *name) {
  pu_map a, b;
  assert_ok(pu_map_open(pu_arena_printf(s->a, "%s/whole/step-%06d/%s", s->dir, STEPS, name), &a, &s->e), &s->e);
  assert_ok(pu_map_open(pu_arena_printf(s->a, "%s/killed/step-%06d/%s", s->dir, STEPS, name), &b, &s->e), &s->e);
  assert_int_equal(a.len, b.len);
  assert_memory_equal(a.data, b.data, a.len);
  pu_map_close(&a);
  pu_map_close(&b);
}

static void test_kill_resume(void **arg) {
  state *s = *arg;
  static const kill_point points[] = {{2, NULL},          {4, ""},  {2, "model.safetensors.tmp"}, {5, NULL},
                                      {1, "config.json"}, {7, NULL}};
  assert_int_equal(program_wait(start(s, "whole")), 0);
  int killed = 0, inside = 0;
  for (size_t i = 0; i < PU_COUNT(points); i++) {
    bool hit = kill_at(s, "killed", &points[i]);
    killed += hit;
    inside += hit && inside_write(s, "killed", "");
  }
  print_message("killed %d times, %d of them inside a checkpoint\n", killed, inside);
  assert_true(killed >= 3 && inside >= 1);
  int status = program_wait(start(s, "killed"));
  if (status != 0) file_says(path_in(s, "err"), "…"); /* shows it */
  assert_int_equal(status, 0);
  same_values(s, "step", STEPS + STEPS / 6);
  same_values(s, "loss", STEPS);
  same_values(s, "grad_norm", STEPS);
  same_values(s, "valid_loss", STEPS / 6);
  same_file(s, "model.safetensors");
  same_file(s, "optimizer.safetensors");
  assert_false(inside_write(s, "killed", ""));
}

static void test_sigterm(void **arg) {
  state *s = *arg;
  pid_t pid = start(s, "stopped");
  while (lines_of(s, "stopped") < 5 && !program_ended(pid)) usleep(500);
  kill(pid, SIGTERM);
  assert_int_equal(program_wait(pid), 1);
  assert_true(file_says(path_in(s, "err"), "is saved: the same command goes on from there"));
  double steps[MAX_VALUES];
  size_t n = read_values(s, "stopped", "step", steps);
  assert_true(n >= 5);
  const char *checkpoint = pu_arena_printf(s->a, "%s/stopped/step-%06d/state.json", s->dir, (int)steps[n - 1]);
  assert_true(pu_path_exists(checkpoint));
}

/* ---- two at once ---- */

static void test_lock(void **arg) {
  state *s = *arg;
  pid_t first = start(s, "locked");
  while (lines_of(s, "locked") < 1 && !program_ended(first)) usleep(500);
  kill(first, SIGSTOP); /* it must not end before the second has tried */
  const char *words[] = {"train", s->config, pu_arena_printf(s->a, "run=%s/locked", s->dir), NULL};
  pid_t second = program_start(words, path_in(s, "out2"), path_in(s, "err2"));
  assert_int_equal(program_wait(second), 1);
  assert_true(file_says(path_in(s, "err2"), "another training may be running"));
  kill(first, SIGKILL);
  kill(first, SIGCONT);
  assert_int_equal(program_wait(first), 128 + SIGKILL);
}

static int setup(void **arg) {
  static state s;
  strcpy(s.dir, "/tmp/puyu-e2e-XXXXXX");
  if (!mkdtemp(s.dir) || pu_arena_create(64 << 20, &s.a, &s.e) != PU_OK) return -1;
  s.config = path_in(&s, "t.yaml");
  const char *yaml =
      pu_arena_printf(s.a,
                      "run: %s/r\nmodel: {shape: puyu-2m}\ndata: {seq_len: 32, sources: [{path: %s/shards}]}\n"
                      "train: {steps: %d, global_batch: 2}\noptim: {lr: 2e-3}\nschedule: {warmup: 4, min_lr: 1e-4}\n"
                      "checkpoint: {every: %d, keep: 2}\nvalidate: {every: 6, batches: 1, path: %s/shards}\n",
                      s.dir, s.dir, STEPS, EVERY, s.dir);
  write_shards(&s);
  *arg = &s;
  return pu_file_write(s.config, yaml, strlen(yaml), &s.e) == PU_OK ? 0 : -1;
}

static int teardown(void **arg) {
  state *s = *arg;
  pu_err err = pu_remove_tree(s->dir, &s->e);
  pu_arena_free(s->a);
  return err == PU_OK ? 0 : -1;
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_kill_resume), cmocka_unit_test(test_sigterm),
                                     cmocka_unit_test(test_lock)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
