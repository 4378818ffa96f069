#include "src/train/run_dir.h"

#include "src/train/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static const size_t NAMES_MAX = (size_t)16 << 20; /* bytes of file names in a run's directory */

static pu_err join(char path[PATH_MAX], const char *run, const char *name, pu_error *e) {
  int n = snprintf(path, PATH_MAX, "%s/%s", run, name);
  if (n < 0 || n >= PATH_MAX) return pu_fail(e, PU_ERR_USAGE, "%.80s…: the name of the run is too long", run);
  return PU_OK;
}

/* "step-000200" -> 200; "step-000200.tmp" with *temporary; anything else -> -1. */
static int64_t parse_step(const char *name, bool *temporary) {
  if (strncmp(name, "step-", 5) != 0) return -1;
  const char *digits = name + 5;
  size_t n = strspn(digits, "0123456789");
  if (n < 6 || n > 18) return -1;
  *temporary = strcmp(digits + n, ".tmp") == 0;
  if (!*temporary && digits[n]) return -1;
  return strtoll(digits, NULL, 10);
}

/* Calls fn for every checkpoint of the run, in no order that matters. */
typedef pu_err (*step_fn)(void *arg, const char *path, int64_t step, bool temporary, pu_error *e);
static pu_err each_step(const char *run, step_fn fn, void *arg, pu_error *e) {
  pu_arena *a;
  PU_TRY(pu_arena_create(NAMES_MAX, &a, e));
  char **names, path[PATH_MAX];
  size_t n;
  pu_err err = pu_dir_list(a, run, &names, &n, e);
  for (size_t i = 0; err == PU_OK && i < n; i++) {
    bool temporary;
    int64_t step = parse_step(names[i], &temporary);
    if (step < 0) continue;
    err = join(path, run, names[i], e);
    if (err == PU_OK && pu_path_is_dir(path)) err = fn(arg, path, step, temporary, e);
  }
  pu_arena_free(a);
  return err;
}

static pu_err remove_temporary(void *arg, const char *path, int64_t step, bool temporary, pu_error *e) {
  (void)arg, (void)step;
  return temporary ? pu_remove_tree(path, e) : PU_OK;
}

/* Does another open file hold it? Otherwise the lock could not be made for a reason of the disk. */
static bool lock_is_held(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  bool held = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  if (fd >= 0) close(fd);
  return held;
}

pu_err pu_train_dir_open(const char *run, pu_claim **claim, pu_error *e) {
  static const char LOCK[] = "lock";
  char path[PATH_MAX];
  *claim = NULL;
  PU_TRY(join(path, run, LOCK, e));
  pu_err err = pu_claim_open(run, LOCK, claim, e);
  if (pu_path_is_dir(run) && access(run, W_OK | X_OK) != 0)
    err = pu_fail(e, PU_ERR_IO, "%s: the run's directory is read-only: choose another `run`, or make it writable", run);
  else if (err != PU_OK && lock_is_held(path))
    err = pu_fail_in(e, err, "another training may be running in %s", run);
  if (err == PU_OK) err = each_step(run, remove_temporary, NULL, e);
  if (err != PU_OK) {
    pu_claim_close(*claim);
    *claim = NULL;
  }
  return err;
}

pu_err pu_train_dir_step(const char *run, int64_t step, bool temporary, char path[PATH_MAX], pu_error *e) {
  char name[40];
  snprintf(name, sizeof name, "step-%06lld%s", (long long)step, temporary ? ".tmp" : "");
  return join(path, run, name, e);
}

typedef struct search {
  int64_t below, best;
} search;

static pu_err newest(void *arg, const char *path, int64_t step, bool temporary, pu_error *e) {
  (void)path, (void)e;
  search *s = arg;
  if (!temporary && step < s->below) s->best = PU_MAX(s->best, step);
  return PU_OK;
}

pu_err pu_train_dir_before(const char *run, int64_t step, int64_t *before, pu_error *e) {
  search s = {.below = step, .best = -1};
  pu_err err = each_step(run, newest, &s, e);
  *before = s.best;
  return err;
}

pu_err pu_train_dir_newest(const char *run, int64_t *step, pu_error *e) {
  return pu_train_dir_before(run, INT64_MAX, step, e);
}

/* The newest `keep` steps, largest first. */
typedef struct kept {
  int64_t *steps;
  int64_t n, keep;
} kept;

static pu_err note_step(void *arg, const char *path, int64_t step, bool temporary, pu_error *e) {
  (void)path, (void)e;
  kept *k = arg;
  if (temporary) return PU_OK;
  int64_t at = k->n < k->keep ? k->n++ : k->keep - 1;
  if (at == k->keep - 1 && k->n == k->keep && k->steps[at] > step) return PU_OK;
  for (; at > 0 && k->steps[at - 1] < step; at--) k->steps[at] = k->steps[at - 1];
  k->steps[at] = step;
  return PU_OK;
}

static pu_err remove_old(void *arg, const char *path, int64_t step, bool temporary, pu_error *e) {
  const kept *k = arg;
  if (temporary || k->n < k->keep || step >= k->steps[k->n - 1]) return PU_OK;
  return pu_remove_tree(path, e);
}

pu_err pu_train_dir_prune(const char *run, int64_t keep, pu_error *e) {
  kept k = {.keep = keep, .steps = calloc((size_t)keep, sizeof *k.steps)};
  if (!k.steps) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory to look through the checkpoints", run);
  pu_err err = each_step(run, note_step, &k, e);
  if (err == PU_OK) err = each_step(run, remove_old, &k, e);
  free(k.steps);
  return err;
}

/* Lines are in order of steps. */
typedef struct cut {
  int64_t step;
  size_t keep; /* bytes of the lines that belong to steps up to that one */
} cut;

static pu_err keep_line(void *arg, json_t *line, size_t end, bool *stop, pu_error *e) {
  cut *c = arg;
  int64_t step;
  (void)e;
  *stop = pu_json_int(line, "step", 0, c->step, &step, "metrics", NULL) != PU_OK;
  if (!*stop) c->keep = end;
  return PU_OK;
}

pu_err pu_train_dir_cut(const char *run, const char *name, int64_t step, pu_error *e) {
  char path[PATH_MAX];
  PU_TRY(join(path, run, name, e));
  if (!pu_path_exists(path)) return PU_OK;
  pu_buf text;
  pu_buf_init(&text, PU_BUF_MAX);
  pu_err err = pu_file_read(path, PU_BUF_MAX, &text, e);
  cut c = {.step = step};
  if (err == PU_OK) err = pu_train_log_each(path, pu_str_of(text.data, text.len), keep_line, &c, e);
  if (err == PU_OK && c.keep < text.len) err = pu_file_write(path, text.data, c.keep, e);
  pu_buf_deinit(&text);
  return err;
}
