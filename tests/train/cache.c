/* Tokenised text under RUN/cache: made once, kept while the run reads it, removed afterwards. */
#include "tests/train/run.h"

#include <sys/stat.h>

static const char yaml[] = "run: $D/r%s\nmodel: {shape: puyu-2m, tokenizer: $D/tok}\n"
                           "data: {seq_len: 16, sources: [{type: text, path: $D/a.txt}, {type: text, path: $D/%s}]}\n"
                           "train: {steps: 6, global_batch: 2}\nvalidate: {every: 2, batches: 1, path: $D/c.txt}\n";

static void write_text(state *s, const char *name, int lines) {
  pu_buf text;
  pu_buf_init(&text, 1 << 20);
  for (int i = 0; i < lines; i++) pu_buf_printf(&text, "The %d cats of %s sat on mat %d.\n", i % 7, name, i % 5);
  assert_ok(pu_file_write(path_in(s, name), text.data, text.len, &s->e), &s->e);
  pu_buf_deinit(&text);
}

static void make_tokenizer(state *s) {
  pu_bpe_trainer *t;
  pu_bpe_options o = {.vocab_size = 270};
  assert_ok(pu_mkdirs(path_in(s, "tok"), &s->e), &s->e);
  assert_ok(pu_bpe_trainer_create(&o, &t, &s->e), &s->e);
  assert_ok(pu_bpe_trainer_add(t, pu_str_c("The cats sat on the mat, the cats sat."), &s->e), &s->e);
  assert_ok(pu_bpe_trainer_save(t, path_in(s, "tok"), &s->e), &s->e);
  pu_bpe_trainer_free(t);
}

static size_t entries(state *s, char ***names) {
  size_t n;
  assert_ok(pu_dir_list(s->a, path_in(s, "r/cache"), names, &n, &s->e), &s->e);
  return n;
}

static bool stop(void *arg, int64_t step, double loss) {
  (void)arg, (void)step, (void)loss;
  return false;
}

/* One more step; slash: what follows the run's name. */
static pu_err one_step(state *s, const char *slash, const char *other) {
  pu_train_hooks hooks = {.step = stop};
  return run_yaml(s, pu_arena_printf(s->a, yaml, slash, other), &hooks);
}

static ino_t inode(state *s, const char *name) {
  struct stat st;
  assert_int_equal(stat(path_in(s, pu_arena_printf(s->a, "r/cache/%s", name)), &st), 0);
  return st.st_ino;
}

static void test_life_of_a_cache(void **arg) {
  state *s = *arg;
  char **first, **second;
  write_text(s, "a.txt", 40);
  write_text(s, "b.txt", 40);
  write_text(s, "c.txt", 40);
  make_tokenizer(s);
  assert_int_equal(one_step(s, "", "b.txt"), PU_ERR_STOPPED);
  assert_int_equal(entries(s, &first), 3);
  ino_t nodes[3];
  for (size_t i = 0; i < 3; i++) nodes[i] = inode(s, first[i]);

  /* What a killed process left goes, what puyu did not make stays, and what is read is not made again. */
  assert_ok(pu_mkdirs(path_in(s, "r/cache/text-0123456789abcdef.tmp"), &s->e), &s->e);
  assert_ok(pu_mkdirs(path_in(s, "r/cache/mine"), &s->e), &s->e);
  assert_int_equal(one_step(s, "/", "b.txt"), PU_ERR_STOPPED);
  assert_int_equal(entries(s, &second), 4);
  assert_string_equal(second[0], "mine");
  for (size_t i = 0; i < 3; i++) assert_int_equal(inode(s, first[i]), nodes[i]);

  /* A changed text makes a new cache; of two names for one text there is one. */
  write_text(s, "a.txt", 41);
  assert_int_equal(one_step(s, "", "c.txt"), PU_ERR_STOPPED);
  assert_int_equal(entries(s, &second), 3);

  /* A start that fails removes nothing. */
  assert_int_equal(one_step(s, "", "missing.txt"), PU_ERR_IO);
  assert_int_equal(entries(s, &second), 3);

  assert_ok(run_yaml(s, pu_arena_printf(s->a, yaml, "", "c.txt"), NULL), &s->e);
  assert_int_equal(s->result.steps, 6);
  assert_int_equal(entries(s, &second), 1);
  assert_string_equal(second[0], "mine");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_life_of_a_cache, setup, teardown)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
