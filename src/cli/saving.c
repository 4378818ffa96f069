#include "src/cli/saving.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* ---- the tokenizer's files ---- */

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
  for (const char *const *c = pu_cli_companions; *c; c++) PU_TRY(copy_companion(from_dir, to_dir, *c, a, e));
  return PU_OK;
}

/* ---- a directory as a whole ---- */

pu_err pu_cli_save_dir(const pu_model *m, const char *src, const char *dst, bool force, pu_dtype dtype,
                       size_t shard_bytes, pu_arena *a, pu_error *e) {
  bool from_gguf = pu_gguf_is(src);
  pu_tokenizer *t = NULL;
  pu_cli_stage s;
  if (from_gguf) PU_TRY(pu_engine_load_tokenizer(src, &t, e)); /* before anything is written */
  pu_err err = pu_cli_stage_begin(&s, dst, force, a, e);
  if (err == PU_OK) {
    err = pu_model_save(m, s.made, dtype, shard_bytes, e);
    if (err == PU_OK && t) err = pu_tokenizer_save(t, s.made, e);
    if (err == PU_OK && !from_gguf) err = pu_cli_copy_companions(src, s.made, a, e);
    err = pu_cli_stage_end(&s, err, e);
  }
  pu_tokenizer_free(t);
  return err;
}

/* ---- where it may go ---- */

bool pu_cli_is_gguf_name(const char *path) {
  return strlen(path) > 5 && pu_ends_with(path, ".gguf");
}

bool pu_cli_same_place(const char *a, const char *b) {
  struct stat x, y;
  return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* A running run would find a checkpoint there that it never wrote. */
static pu_err check_no_checkpoint(const char *dst, pu_arena *a, pu_error *e) {
  static const char *const of_a_run[] = {"metrics.jsonl", "lock"};
  size_t end = strlen(dst), at;
  while (end && dst[end - 1] == '/') end--;
  for (at = end; at && dst[at - 1] != '/';) at--;
  const char *run = at ? pu_arena_strndup(a, dst, at) : ".";
  if (!run) return pu_fail(e, PU_ERR_NOMEM, "%s: the name is too long", dst);
  for (size_t i = 0; i < PU_COUNT(of_a_run) && strncmp(dst + at, "step-", 5) == 0; i++) {
    const char *path = pu_path_join(a, run, of_a_run[i]);
    if (!path) return pu_fail(e, PU_ERR_NOMEM, "%s: the name is too long", dst);
    if (pu_path_exists(path))
      return pu_fail(e, PU_ERR_USAGE, "%s: would be a checkpoint of the training run %s: take another folder", dst,
                     run);
  }
  return PU_OK;
}

/* What only a run or its checkpoint holds. Other weights beneath an optimiser's state would bend the run silently. */
pu_err pu_cli_check_no_run(const char *dst, pu_arena *a, pu_error *e) {
  static const char *const of_a_run[] = {"optimizer.safetensors", "metrics.jsonl"};
  for (size_t i = 0; i < PU_COUNT(of_a_run); i++) {
    const char *path = pu_path_join(a, dst, of_a_run[i]);
    if (!path) return pu_fail(e, PU_ERR_NOMEM, "%s: the name is too long", dst);
    if (pu_path_exists(path))
      return pu_fail(e, PU_ERR_USAGE,
                     "%s: belongs to a training run, which other weights would spoil (it holds %s): "
                     "take another folder",
                     dst, of_a_run[i]);
  }
  return check_no_checkpoint(dst, a, e);
}

/* Files that belong to no model of DST's yet, and that would be replaced by src's. */
static pu_err check_companions(const char *src, const char *dst, pu_arena *a, pu_error *e) {
  bool all = pu_gguf_is(src);
  for (const char *const *c = pu_cli_companions; *c; c++) {
    const char *from = pu_path_join(a, src, *c), *to = pu_path_join(a, dst, *c);
    if (!from || !to) return pu_fail(e, PU_ERR_NOMEM, "%s: the name is too long", dst);
    if ((all || pu_path_exists(from)) && pu_path_exists(to))
      return pu_fail(e, PU_ERR_USAGE, "%s: would be replaced: take another folder, or --force", to);
  }
  return PU_OK;
}

pu_err pu_cli_check_place(const char *src, const char *dst, bool gguf, bool force, pu_arena *a, pu_error *e) {
  const char *config = gguf ? dst : pu_path_join(a, dst, "config.json"), *parent = pu_cli_parent(dst, a);
  if (!config || !parent) return pu_fail(e, PU_ERR_NOMEM, "%s: the name is too long", dst);
  /* The original would be lost; and where it is a checkpoint, its optimiser's state would no longer fit. */
  if (pu_cli_same_place(src, dst))
    return pu_fail(e, PU_ERR_USAGE, "%s: SRC and DST are the same %s: take another for DST", src,
                   gguf ? "file" : "folder");
  if (!gguf) PU_TRY(pu_cli_check_no_run(dst, a, e));
  if (gguf && pu_path_is_dir(dst)) return pu_fail(e, PU_ERR_USAGE, "%s: is a folder", dst);
  if (gguf && !pu_path_is_dir(parent)) return pu_fail(e, PU_ERR_IO, "%s: cannot create: there is no %s", dst, parent);
  if (!force && pu_path_exists(config))
    return pu_fail(e, PU_ERR_USAGE, "%s: there is a model already: take another %s, or --force", dst,
                   gguf ? "name" : "folder");
  return gguf || force ? PU_OK : check_companions(src, dst, a, e);
}
