/* Whole runs through the library, in a directory of their own. */
#ifndef PUYU_TEST_TRAIN_RUN_H
#define PUYU_TEST_TRAIN_RUN_H

#include "puyu/train.h"
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct state {
  char dir[64];
  pu_arena *a;
  pu_error e;
  pu_train_result result;
} state;

static inline const char *path_in(state *s, const char *name) {
  return pu_arena_printf(s->a, "%s/%s", s->dir, name);
}

/* The configuration of YAML text; "$D" stands for the test's directory. */
static inline pu_train_config config_of(state *s, const char *yaml) {
  pu_buf text;
  pu_buf_init(&text, 1 << 16);
  for (const char *p = yaml; *p; p++) {
    if (p[0] == '$' && p[1] == 'D')
      pu_buf_puts(&text, s->dir), p++;
    else
      pu_buf_putc(&text, *p);
  }
  pu_train_config cfg = {0};
  assert_ok(pu_options_default(pu_train_options, &cfg, s->a, &s->e), &s->e);
  pu_err err = pu_options_parse_yaml(pu_train_options, &cfg, "t.yaml", pu_str_of(text.data, text.len), s->a, &s->e);
  pu_buf_deinit(&text);
  assert_ok(err, &s->e);
  return cfg;
}

static inline pu_err run_yaml(state *s, const char *yaml, const pu_train_hooks *hooks) {
  const pu_train_config cfg = config_of(s, yaml);
  return pu_train_run(&cfg, hooks, &s->result, &s->e);
}

/* One number of every line of metrics.jsonl that has it, in order. */
static inline size_t read_metrics(state *s, const char *run, const char *key, double *out, size_t max) {
  FILE *f = fopen(pu_arena_printf(s->a, "%s/%s/metrics.jsonl", s->dir, run), "r");
  assert_non_null(f);
  char *line = NULL;
  size_t cap = 0, n = 0;
  while (getline(&line, &cap, f) > 0) {
    json_t *o = json_loads(line, 0, NULL);
    assert_non_null(o);
    json_t *v = json_object_get(o, key);
    if (v && n < max) out[n++] = json_is_number(v) ? json_number_value(v) : NAN;
    json_decref(o);
  }
  free(line);
  fclose(f);
  return n;
}

static inline int setup(void **arg) {
  static state s;
  strcpy(s.dir, "/tmp/puyu-test-XXXXXX");
  if (!mkdtemp(s.dir) || pu_arena_create(64 << 20, &s.a, &s.e) != PU_OK) return -1;
  pu_log_set_level(PU_LOG_ERROR);
  *arg = &s;
  return 0;
}

static inline int teardown(void **arg) {
  state *s = *arg;
  pu_arena_free(s->a);
  return pu_remove_tree(s->dir, &s->e) == PU_OK ? 0 : -1;
}

#endif
