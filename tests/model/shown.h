/* What tests of files share: a model loaded from one and its logits; files that are changed, and what loading says of
 * them. */
#ifndef PUYU_TEST_SHOWN_H
#define PUYU_TEST_SHOWN_H

#include <math.h>
#include <stdlib.h>

#include "puyu/model.h"
#include "tests/device.h"
#include "tests/test.h"

typedef struct shown {
  pu_model *m;
  float *logits; /* [tokens, V] */
  int64_t n;
} shown;

static inline void run_model(pu_backend *be, pu_model *m, const int32_t *ids, int32_t n, shown *out) {
  enum { ROOM = 64 << 20 };
  pu_error e;
  pu_arena *mem, *host;
  int32_t cu[2] = {0, n}, positions[64];
  assert_true(n <= 64);
  for (int32_t i = 0; i < n; i++) positions[i] = i;
  void *memory = pu_test_memory(be, ROOM, &mem);
  assert_ok(pu_arena_create(ROOM, &host, &e), &e);
  pu_ctx c = {.be = be, .mem = mem, .host = host, .err = &e};
  pu_seqs seqs = {.n = 1, .tokens = n, .max_len = n, .cu = cu, .positions = positions};
  int64_t tokens = n;
  pu_tensor *t = pu_tensor_new(&c, PU_I32, 1, &tokens, false);
  assert_non_null(t);
  pu_test_upload(be, t, ids);
  pu_forward f = {.ids = t, .seqs = &seqs};
  pu_tensor *y = pu_model_logits(m, &c, pu_model_forward(m, &c, &f), NULL, 0);
  if (!y) fail_msg("%s", e.msg);
  out->n = pu_tensor_count(y);
  out->logits = pu_test_download(be, y);
  pu_arena_free(mem);
  pu_arena_free(host);
  be->free(be, memory);
}

static inline shown show(pu_backend *be, const char *dir, pu_model_options o) {
  shown s = {0};
  pu_error e;
  int32_t ids[20];
  assert_ok(pu_model_load(dir, be, &o, &s.m, &e), &e);
  for (int i = 0; i < 20; i++) ids[i] = (int32_t)((3 + 5 * i) % s.m->hp.vocab);
  run_model(be, s.m, ids, 20, &s);
  return s;
}

static inline void hide(shown *s) {
  pu_model_free(s->m);
  free(s->logits);
}

static inline double far(const shown *a, const shown *b) {
  double diff = 0, norm = 0;
  assert_int_equal(a->n, b->n);
  for (int64_t i = 0; i < a->n; i++) {
    diff += ((double)a->logits[i] - b->logits[i]) * ((double)a->logits[i] - b->logits[i]);
    norm += (double)b->logits[i] * b->logits[i];
  }
  return sqrt(diff / norm);
}

static inline void check_refused(pu_backend *be, const char *dir, const char *says) {
  pu_model *m;
  pu_error e;
  pu_model_options o = {.dtype = PU_F32, .tile = true};
  if (pu_model_load(dir, be, &o, &m, &e) == PU_OK) fail_msg("%s was loaded: %s", dir, says);
  if (!strstr(e.msg, says) || strchr(e.msg, '\n')) fail_msg("'%s' does not say '%s'", e.msg, says);
}

/* The first of what is in a file becomes another text. */
static inline void replace_in(const char *path, const char *from, const char *to) {
  pu_buf text, out;
  pu_error e;
  pu_buf_init(&text, 1 << 24);
  pu_buf_init(&out, 1 << 24);
  assert_ok(pu_file_read(path, 1 << 24, &text, &e), &e);
  const char *at = memmem(text.data, text.len, from, strlen(from));
  if (!at) fail_msg("%s has no %s", path, from);
  size_t before = (size_t)(at - text.data);
  pu_buf_append(&out, text.data, before);
  pu_buf_puts(&out, to);
  pu_buf_append(&out, at + strlen(from), text.len - before - strlen(from));
  assert_ok(pu_file_write(path, out.data, out.len, &e), &e);
  pu_buf_deinit(&text);
  pu_buf_deinit(&out);
}

#endif
