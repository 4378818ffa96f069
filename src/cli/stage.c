#include "src/cli/stage.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char *const pu_cli_companions[] = {"tokenizer.model",
                                         "tokenizer.json",
                                         "tokenizer_config.json",
                                         "special_tokens_map.json",
                                         "added_tokens.json",
                                         "vocab.json",
                                         "merges.txt",
                                         "chat_template.jinja",
                                         "chat_template.json",
                                         "generation_config.json",
                                         NULL};

static pu_err too_long(const char *dst, pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "%s: the name is too long", dst);
}

const char *pu_cli_parent(const char *path, pu_arena *a) {
  const char *slash = strrchr(path, '/');
  if (!slash) return ".";
  return pu_arena_strndup(a, path, slash == path ? 1 : (size_t)(slash - path));
}

/* ---- the place ---- */

pu_err pu_cli_place_open(pu_cli_place *p, const char *dst, pu_arena *a, pu_error *e) {
  *p = (pu_cli_place){.dir = pu_arena_printf(a, "%s.making", dst)};
  p->lock = p->dir ? pu_path_join(a, p->dir, "lock") : NULL;
  if (!p->lock) return too_long(dst, e);
  p->stale = pu_path_exists(p->dir);
  return pu_claim_open(p->dir, "lock", &p->claim, e);
}

void pu_cli_place_close(pu_cli_place *p) {
  if (p->stale) unlink(p->lock); /* while it is held; a claim takes away only what it made itself */
  pu_claim_close(p->claim);
  if (p->stale) rmdir(p->dir);
}

/* ---- beginning ---- */

/* OUT/ is OUT, and a link is what it leads to: what is made beside it must not lie in it. */
static const char *folder_itself(const char *dst, pu_arena *a) {
  char *real = realpath(dst, NULL);
  size_t n = strlen(dst);
  while (n > 1 && dst[n - 1] == '/') n--;
  const char *out = real ? pu_arena_strdup(a, real) : pu_arena_strndup(a, dst, n);
  free(real);
  return out;
}

/* The folder that goes away when the new one takes its place. Whoever stands in it, the shell that runs this for one,
 * would be nowhere then, and find no file any more. */
static bool stands_in(const char *dir) {
  char *here = realpath(".", NULL);
  size_t n = strlen(dir);
  bool in = here && strncmp(here, dir, n) == 0 && (here[n] == '/' || here[n] == 0);
  free(here);
  return in;
}

/* A folder that something is mounted on cannot change places. */
static pu_err check_there(const pu_cli_stage *s, pu_error *e) {
  struct stat is, beside;
  if (!pu_path_is_dir(s->dst)) return pu_fail(e, PU_ERR_USAGE, "%s: is no folder", s->dst);
  if (stands_in(s->dst))
    return pu_fail(e, PU_ERR_USAGE,
                   "%s: is the folder you are in, and would be replaced by another: go out of it first", s->dst);
  if (stat(s->dst, &is) == 0 && stat(s->place.dir, &beside) == 0 && is.st_dev == beside.st_dev) return PU_OK;
  return pu_fail(e, PU_ERR_USAGE, "%s: is another disk, which cannot be replaced as a whole: name a folder in it",
                 s->dst);
}

/* Of a run that was killed. */
static pu_err clear_place(pu_cli_stage *s, pu_error *e) {
  PU_TRY(pu_remove_tree(s->made, e));
  if (!pu_path_exists(s->dst) && pu_path_exists(s->old)) {
    if (rename(s->old, s->dst) != 0)
      return pu_fail(e, PU_ERR_IO, "%s: cannot become %s again: %s", s->old, s->dst, strerror(errno));
    if (!s->replaces)
      return pu_fail(e, PU_ERR_USAGE, "%s: is back from a run that was ended: take another folder, or --force", s->dst);
  }
  return pu_remove_tree(s->old, e);
}

static pu_err begin(pu_cli_stage *s, pu_error *e) {
  PU_TRY(clear_place(s, e));
  s->was_there = pu_path_exists(s->dst);
  return s->was_there ? check_there(s, e) : PU_OK;
}

pu_err pu_cli_stage_begin(pu_cli_stage *s, const char *dst, bool replaces, pu_arena *a, pu_error *e) {
  *s = (pu_cli_stage){.dst = folder_itself(dst, a), .replaces = replaces, .a = a};
  if (!s->dst) return too_long(dst, e);
  pu_signals_catch_writing();
  PU_TRY(pu_cli_place_open(&s->place, s->dst, a, e));
  s->made = pu_path_join(a, s->place.dir, "model");
  s->old = pu_path_join(a, s->place.dir, "old");
  pu_err err = s->made && s->old ? begin(s, e) : too_long(dst, e);
  if (err != PU_OK) pu_cli_place_close(&s->place);
  return err;
}

/* ---- what stays ---- */

/* Other weights, or another way to read them, beside the new ones would make the directory ambiguous. */
static bool goes(const pu_cli_stage *s, const char *name) {
  static const char *const always[] = {"config.json", "model.safetensors", "model.safetensors.index.json",
                                       "model-*-of-*.safetensors", "quantize_config.json"};
  bool out = s->replaces && strcmp(name, "quantize_report.json") == 0;
  for (size_t i = 0; i < PU_COUNT(always); i++) out |= fnmatch(always[i], name, 0) == 0;
  for (const char *const *c = pu_cli_companions; s->replaces && *c; c++) out |= strcmp(*c, name) == 0;
  return out;
}

/* The same files under another name; folders are made anew. */
static pu_err link_tree(const pu_cli_stage *s, const char *from, const char *to, int depth, pu_error *e) {
  enum { MOST_DEPTH = 64 };
  struct stat st;
  char **names;
  size_t n, mark = pu_arena_mark(s->a);
  bool good = lstat(from, &st) == 0 && depth < MOST_DEPTH;
  if (good && !S_ISDIR(st.st_mode)) good = link(from, to) == 0;
  if (good && S_ISDIR(st.st_mode)) good = mkdir(to, st.st_mode & 07777) == 0;
  if (!good)
    return pu_fail(e, PU_ERR_IO, "%s: cannot be kept beside the new model: %s", from,
                   depth < MOST_DEPTH ? strerror(errno) : "it lies too deep");
  if (!S_ISDIR(st.st_mode)) return PU_OK;
  PU_TRY(pu_dir_list(s->a, from, &names, &n, e));
  for (size_t i = 0; i < n; i++) {
    const char *below = pu_path_join(s->a, from, names[i]), *above = pu_path_join(s->a, to, names[i]);
    if (!below || !above) return too_long(from, e);
    PU_TRY(link_tree(s, below, above, depth + 1, e));
  }
  pu_arena_release(s->a, mark);
  return PU_OK;
}

static pu_err keep_rest(const pu_cli_stage *s, pu_error *e) {
  struct stat st;
  char **names;
  size_t n;
  PU_TRY(pu_dir_list(s->a, s->dst, &names, &n, e));
  for (size_t i = 0; i < n; i++) {
    const char *from = pu_path_join(s->a, s->dst, names[i]), *to = pu_path_join(s->a, s->made, names[i]);
    if (!from || !to) return too_long(s->dst, e);
    if (!goes(s, names[i]) && !pu_path_exists(to)) PU_TRY(link_tree(s, from, to, 0, e));
  }
  if (stat(s->dst, &st) == 0 && chmod(s->made, st.st_mode & 07777) == 0) return PU_OK;
  return pu_fail(e, PU_ERR_IO, "%s: cannot get the rights of %s: %s", s->made, s->dst, strerror(errno));
}

/* ---- the end ---- */

static pu_err failed(const pu_cli_stage *s, pu_error *e) {
  return pu_fail(e, PU_ERR_IO, "%s: cannot be replaced: %s", s->dst, strerror(errno));
}

static pu_err change_places(const pu_cli_stage *s, pu_error *e) {
  if (!s->was_there) return rename(s->made, s->dst) == 0 ? PU_OK : failed(s, e);
  if (renameat2(AT_FDCWD, s->made, AT_FDCWD, s->dst, RENAME_EXCHANGE) == 0) return PU_OK;
  if (errno != EINVAL && errno != ENOSYS) return failed(s, e);
  if (rename(s->dst, s->old) != 0) return failed(s, e);
  if (rename(s->made, s->dst) == 0) return PU_OK;
  pu_err err = failed(s, e);
  if (rename(s->old, s->dst) != 0) pu_log(PU_LOG_ERROR, "%s: what was there is now %s", s->dst, s->old);
  return err;
}

static pu_err take_place(const pu_cli_stage *s, pu_error *e) {
  const char *parent = pu_cli_parent(s->dst, s->a);
  if (!parent) return too_long(s->dst, e);
  if (s->was_there) PU_TRY(keep_rest(s, e));
  PU_TRY(pu_fsync_dir(s->made, e));
  PU_TRY(change_places(s, e));
  return pu_fsync_dir(parent, e);
}

pu_err pu_cli_stage_end(pu_cli_stage *s, pu_err err, pu_error *e) {
  if (err == PU_OK) err = take_place(s, e);
  if (pu_remove_tree(s->made, NULL) != PU_OK || (pu_path_exists(s->dst) && pu_remove_tree(s->old, NULL) != PU_OK))
    pu_log(PU_LOG_WARN, "%s: what is left there cannot be removed", s->place.dir);
  pu_cli_place_close(&s->place);
  return err;
}
