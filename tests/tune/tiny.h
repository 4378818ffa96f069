/* A small random model with a tokenizer of its own, in a directory; conversations about sums; runs over them. */
#ifndef PUYU_TEST_TUNE_TINY_H
#define PUYU_TEST_TUNE_TINY_H

#include "puyu/tune.h"
#include "tests/tiny_model.h"
#include "tests/train/run.h"

static inline pu_tokenizer *tiny_learned(void) {
  static const char text[] = "how much is one and two? it is three. what is seven less five? it is two, hello\n\n you";
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

static inline void write_model(state *s, const char *name, const char *family) {
  pu_backend *be;
  pu_model *m;
  pu_tokenizer *t = tiny_learned();
  const pu_model_options mo = {.dtype = PU_F32};
  pu_hparams hp = pu_test_hparams(pu_tokenizer_size(t), 256);
  hp.bos = pu_tokenizer_bos(t);
  hp.eos[0] = pu_tokenizer_eos(t);
  hp.n_eos = 1;
  assert_ok(pu_backend_open("cpu", 1, &be, &s->e), &s->e);
  assert_ok(pu_model_random(pu_arch_find(family), &hp, 3, be, &mo, &m, &s->e), &s->e);
  assert_ok(pu_mkdirs(path_in(s, name), &s->e), &s->e);
  assert_ok(pu_model_save(m, path_in(s, name), PU_F32, 0, &s->e), &s->e);
  assert_ok(pu_tokenizer_save(t, path_in(s, name), &s->e), &s->e);
  pu_model_free(m);
  be->close(be);
  pu_tokenizer_free(t);
}

/* n conversations of one or two turns. */
static inline void write_sums(state *s, const char *name, int n, uint64_t seed) {
  static const char *const words[] = {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"};
  pu_rng r;
  pu_buf b;
  pu_rng_seed(&r, seed);
  pu_buf_init(&b, 1 << 22);
  for (int i = 0; i < n; i++) {
    pu_buf_puts(&b, "{\"messages\": [");
    for (int turns = 1 + (int)pu_rng_below(&r, 2); turns > 0; turns--) {
      int x = (int)pu_rng_below(&r, 5), y = (int)pu_rng_below(&r, 5);
      pu_buf_printf(&b, "{\"role\": \"user\", \"content\": \"how much is %s and %s?%s\"},", words[x], words[y],
                    pu_rng_below(&r, 3) ? "" : " hello hello");
      pu_buf_printf(&b, "{\"role\": \"assistant\", \"content\": \"it is %s.\"}%s", words[x + y], turns > 1 ? "," : "");
    }
    pu_buf_puts(&b, "]}\n");
  }
  assert_ok(pu_file_write(path_in(s, name), b.data, b.len, &s->e), &s->e);
  pu_buf_deinit(&b);
}

static const pu_train_hooks tune_hooks = {.feed = pu_tune_feed};

static inline bool stop_at(void *arg, int64_t step, double loss) {
  (void)loss;
  return step != *(const int64_t *)arg;
}

/* YAML of a run named `run` over "$D/m" and "$D/sums.jsonl"; more: keys of train and whole groups behind it. */
static inline const char *sft_yaml(state *s, const char *run, const char *train, const char *more) {
  return pu_arena_printf(s->a,
                         "task: sft\nrun: $D/%s\nmodel: {path: $D/m}\n"
                         "train: {precision: f32, threads: 1, %s}\n%s\n",
                         run, train, more);
}

/* A run's checkpoint. */
static inline const char *step_of(state *s, const char *run, int step) {
  return path_in(s, pu_arena_printf(s->a, "%s/step-%06d", run, step));
}

static inline bool same_files(state *s, const char *a, const char *b) {
  pu_buf x, y;
  pu_buf_init(&x, 64 << 20);
  pu_buf_init(&y, 64 << 20);
  assert_ok(pu_file_read(a, 64 << 20, &x, &s->e), &s->e);
  assert_ok(pu_file_read(b, 64 << 20, &y, &s->e), &s->e);
  bool same = x.len == y.len && memcmp(x.data, y.data, x.len) == 0;
  pu_buf_deinit(&x);
  pu_buf_deinit(&y);
  return same;
}

#endif
