/* A server over a small random model with a tokenizer learned on the spot, and questions to it. */
#ifndef PUYU_TEST_TINY_H
#define PUYU_TEST_TINY_H

#include <pthread.h>

#include "puyu/serve.h"
#include "tests/device.h"
#include "tests/net/client.h"
#include "tests/tiny_model.h"

typedef struct tiny {
  pu_backend *be;
  pu_tokenizer *t;
  pu_model *m;
  pu_engine *en;
  pu_server *sv;
  pthread_t thread;
  int port;
  pu_error e;
} tiny;

enum { TINY_CONTEXT = 1024 };

static inline pu_tokenizer *tiny_tokenizer(void) {
  static const char text[] = "the quick brown fox jumps over the lazy dog and then the dog jumps over the fox again, "
                             "one two three four five six seven eight nine ten, \xE4\xBD\xA0\xE5\xA5\xBD";
  pu_error e;
  pu_bpe_trainer *trainer;
  pu_tokenizer *t;
  pu_buf json;
  const pu_bpe_options o = {.vocab_size = 340};
  pu_buf_init(&json, 1 << 24);
  assert_ok(pu_bpe_trainer_create(&o, &trainer, &e), &e);
  for (int i = 0; i < 4; i++) assert_ok(pu_bpe_trainer_add(trainer, pu_str_c(text), &e), &e);
  assert_ok(pu_bpe_trainer_finish(trainer, &json, &e), &e);
  assert_ok(pu_tokenizer_parse_json(pu_str_of(json.data, json.len), &t, &e), &e);
  pu_bpe_trainer_free(trainer);
  pu_buf_deinit(&json);
  return t;
}

static inline void *tiny_run(void *arg) {
  tiny *b = arg;
  pu_error e;
  return pu_server_run(b->sv, &e) ? b : NULL;
}

static inline void tiny_make_engine(tiny *b) {
  memset(b, 0, sizeof *b);
  b->t = tiny_tokenizer();
  pu_hparams hp = pu_test_hparams(pu_tokenizer_size(b->t), TINY_CONTEXT);
  hp.bos = pu_tokenizer_bos(b->t);
  hp.eos[0] = pu_tokenizer_eos(b->t);
  hp.n_eos = 1;
  assert_ok(pu_test_open(1, pu_isa_best(), &b->be, &b->e), &b->e);
  pu_model_options mo = {.dtype = PU_F32};
  assert_ok(pu_model_random(pu_arch_find("internlm2"), &hp, 3, b->be, &mo, &b->m, &b->e), &b->e);
  pu_engine_options eo = {.max_batch = 8, .kv_block = 8};
  assert_ok(pu_engine_over(b->m, b->t, &eo, &b->en, &b->e), &b->e);
}

static inline void tiny_serve(tiny *b, pu_server_options o) {
  if (!o.max_sessions) o.max_sessions = 8;
  assert_ok(pu_server_open(b->en, &o, &b->sv, &b->e), &b->e);
  b->port = pu_server_port(b->sv);
  pthread_create(&b->thread, NULL, tiny_run, b);
}

static inline void tiny_open(tiny *b, pu_server_options o) {
  tiny_make_engine(b);
  tiny_serve(b, o);
}

static inline void tiny_close(tiny *b) {
  void *failed;
  pu_server_stop(b->sv);
  pthread_join(b->thread, &failed);
  assert_null(failed);
  pu_server_free(b->sv);
  pu_engine_free(b->en);
  pu_model_free(b->m);
  pu_tokenizer_free(b->t);
  b->be->close(b->be);
}

/* The body of an answer with that status, as JSON: json_decref it. */
static inline json_t *tiny_json(answer a, int status) {
  if (a.status != status) fail_msg("status %d, not %d: %s", a.status, status, a.body.data ? a.body.data : "");
  assert_true(a.whole);
  assert_non_null(strcasestr(a.head.data, "content-type: application/json\r\n"));
  json_t *v = json_loadb(a.body.data, a.body.len, JSON_ALLOW_NUL, NULL);
  assert_non_null(v);
  answer_free(&a);
  return v;
}

static inline json_t *tiny_get(const tiny *b, const char *path) {
  return tiny_json(ask_once(b->port, "GET", path, "", NULL), 200);
}

static inline json_t *tiny_post(const tiny *b, const char *path, int status, const char *body) {
  return tiny_json(ask_once(b->port, "POST", path, "Content-Type: application/json\r\n", body), status);
}

/* "choices/0/text": the value at a path of keys and indexes. */
static inline const json_t *tiny_at(const json_t *v, const char *path) {
  char copy[200], *save;
  snprintf(copy, sizeof copy, "%s", path);
  for (char *key = strtok_r(copy, "/", &save); key; key = strtok_r(NULL, "/", &save))
    v = json_is_array(v) ? json_array_get(v, (size_t)atoi(key)) : json_object_get(v, key);
  if (!v) fail_msg("no %s", path);
  return v;
}

static inline const char *tiny_str(const json_t *v, const char *path) {
  const char *s = json_string_value(tiny_at(v, path));
  if (!s) fail_msg("%s is no string", path);
  return s;
}

/* What a model of random weights says has zeros in it, too; they are ones here. */
static inline void tiny_put_text(pu_buf *to, const json_t *text) {
  const char *from = json_string_value(text);
  for (size_t i = 0; i < json_string_length(text); i++) pu_buf_putc(to, from[i] ? from[i] : 1);
}

static inline long long tiny_int(const json_t *v, const char *path) {
  assert_true(json_is_integer(tiny_at(v, path)));
  return json_integer_value(tiny_at(v, path));
}

/* The next event of a stream (chunked), comments passed over: its data into out. False: the end of the stream. */
static inline bool tiny_event(client *c, pu_buf *out) {
  for (;;) {
    pu_buf line;
    pu_buf_init(&line, 1 << 20);
    bool good = client_line(c, &line);
    bool data = good && strncmp(line.data, "data: ", 6) == 0;
    pu_buf_clear(out);
    if (data) pu_buf_append(out, line.data + 6, line.len - 7);
    bool end = good && strcmp(line.data, "0\r\n") == 0;
    pu_buf_deinit(&line);
    if (data) return true;
    if (!good || end) return false;
  }
}

/* The value of a figure in /metrics. */
static inline double tiny_metric(const tiny *b, const char *name) {
  answer a = ask_once(b->port, "GET", "/metrics", "", NULL);
  char wanted[100];
  assert_int_equal(a.status, 200);
  snprintf(wanted, sizeof wanted, "\n%s ", name);
  const char *at = strstr(a.body.data, wanted);
  if (!at) fail_msg("/metrics has no %s", name);
  double value = atof(at + strlen(wanted));
  answer_free(&a);
  return value;
}

#endif
