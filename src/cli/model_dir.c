#include "src/cli/model_dir.h"

#include <sys/stat.h>

/* What belongs to a model besides config.json and weights. */
static const char *const companions[] = {
    "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json",      "merges.txt",     "chat_template.jinja",   "chat_template.json",      "generation_config.json",
};

static pu_err copy_companion(const char *from_dir, const char *to_dir, const char *name, pu_arena *a, pu_error *e) {
  enum { MAX_COMPANION = 256 << 20 };
  const char *from = pu_path_join(a, from_dir, name), *to = pu_path_join(a, to_dir, name);
  pu_buf b;
  if (!from || !to) return pu_fail(e, PU_ERR_NOMEM, "%s: the name is too long", name);
  if (!pu_path_exists(from)) return PU_OK;
  pu_buf_init(&b, MAX_COMPANION + 1);
  pu_err err = pu_file_read(from, MAX_COMPANION, &b, e);
  if (err == PU_OK) err = pu_file_write(to, b.data, b.len, e);
  pu_buf_deinit(&b);
  return err;
}

pu_err pu_cli_copy_companions(const char *from_dir, const char *to_dir, pu_arena *a, pu_error *e) {
  for (size_t i = 0; i < PU_COUNT(companions); i++) PU_TRY(copy_companion(from_dir, to_dir, companions[i], a, e));
  return PU_OK;
}

bool pu_cli_same_place(const char *a, const char *b) {
  struct stat x, y;
  return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* What only a run or its checkpoint holds. Other weights beneath an optimiser's state would bend the run silently. */
pu_err pu_cli_check_no_run(const char *dst, const char *what, pu_arena *a, pu_error *e) {
  static const char *const of_a_run[] = {"optimizer.safetensors", "metrics.jsonl"};
  for (size_t i = 0; i < PU_COUNT(of_a_run); i++) {
    const char *path = pu_path_join(a, dst, of_a_run[i]);
    if (!path) return pu_fail(e, PU_ERR_NOMEM, "%s: the name is too long", dst);
    if (pu_path_exists(path))
      return pu_fail(e, PU_ERR_USAGE,
                     "%s: belongs to a training run, which %s would spoil (it holds %s): "
                     "take another folder",
                     dst, what, of_a_run[i]);
  }
  return PU_OK;
}
