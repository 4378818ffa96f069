/* A folder and the file of its index. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/rag/internal.h"

/* ---- where the index lies
 * -------------------------------------------------------------------------------------------- */

/* Texts of a user's documents are nobody else's, whatever their umask says. */
static pu_err make_private(const char *parent, const char *dir, pu_error *e) {
  PU_TRY(pu_mkdirs(parent, e));
  if (mkdir(dir, 0700) == 0 || errno == EEXIST) return PU_OK;
  return pu_fail(e, PU_ERR_IO, "%s: cannot make the folder: %s", dir, strerror(errno));
}

pu_err rag_cache_path(const char *dir, char **out, pu_error *e) {
  const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  char parent[PATH_MAX], folder[PATH_MAX + 16], file[PATH_MAX + 64];
  *out = NULL;
  bool own = cache && cache[0] == '/'; /* relative ones are to be ignored (XDG Base Directory Specification) */
  if (!own && !(home && home[0] == '/'))
    return pu_fail(e, PU_ERR_USAGE, "no HOME and no XDG_CACHE_HOME, so no place for an index: name a file for it");
  int n = snprintf(parent, sizeof parent, "%s%s/puyu", own ? cache : home, own ? "" : "/.cache");
  if (n < 0 || (size_t)n >= sizeof parent) return pu_fail(e, PU_ERR_USAGE, "the cache folder's path is too long");
  snprintf(folder, sizeof folder, "%s/search", parent);
  snprintf(file, sizeof file, "%s/%016llx.sqlite", folder, (unsigned long long)pu_hash64(dir, strlen(dir), 0));
  pu_error why;
  pu_err err = make_private(parent, folder, &why);
  if (err) return pu_fail(e, err, "%s; XDG_CACHE_HOME names another place for the index", why.msg);
  *out = strdup(file);
  return *out ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory");
}

/* ---- opening
 * ---------------------------------------------------------------------------------------------------------- */

static pu_err folder_find(const char *dir, char **out, pu_error *e) {
  *out = realpath(dir, NULL);
  if (!*out) return pu_fail(e, PU_ERR_IO, "%s: %s", dir, strerror(errno));
  if (pu_path_is_dir(*out)) return PU_OK;
  return pu_fail(e, PU_ERR_USAGE, "%s: no folder", dir);
}

static void index_remove(const char *path) {
  static const char *const endings[] = {"", "-wal", "-shm"};
  char name[PATH_MAX + 80];
  for (size_t i = 0; i < PU_COUNT(endings); i++) {
    snprintf(name, sizeof name, "%s%s", path, endings[i]);
    (void)unlink(name);
  }
}

/* What is in the cache can be had again; a file that the user named is theirs. */
static pu_err store_open(const char *path, bool cache, pu_store **out, pu_error *e) {
  pu_err err = pu_store_open(path, out, e);
  if (err != PU_ERR_FORMAT || !cache) return err;
  pu_log(PU_LOG_WARN, "%s: damaged, or another program's: it is made again", path);
  index_remove(path);
  return pu_store_open(path, out, e);
}

static pu_err owner_set(pu_rag *r, pu_error *e) {
  return pu_store_set(r->store, "folder", pu_str_c(r->dir), e);
}

/* Whose texts are in it? */
static pu_err owner_check(pu_rag *r, pu_error *e) {
  pu_buf owner;
  bool found;
  pu_buf_init(&owner, 2 * (size_t)PATH_MAX);
  pu_err err = pu_store_value(r->store, "folder", &owner, &found, e);
  if (err == PU_OK && found && !pu_str_eq(pu_str_of(owner.data ? owner.data : "", owner.len), pu_str_c(r->dir)))
    err = pu_fail(e, PU_ERR_USAGE, "%s: the index of another folder, %.*s", r->index,
                  (int)PU_MIN(owner.len, (size_t)300), owner.data ? owner.data : "");
  pu_buf_deinit(&owner);
  return err != PU_OK || found ? err : owner_set(r, e);
}

static pu_err prepare(pu_rag *r, const char *dir, const char *index, pu_error *e) {
  PU_TRY(folder_find(dir, &r->dir, e));
  char *path = NULL;
  if (!index) PU_TRY(rag_cache_path(r->dir, &path, e));
  pu_err err = store_open(index ? index : path, !index, &r->store, e);
  if (err == PU_OK && !(r->index = realpath(index ? index : path, NULL)))
    err = pu_fail(e, PU_ERR_IO, "%s: %s", index ? index : path, strerror(errno));
  free(path);
  return err == PU_OK ? owner_check(r, e) : err;
}

pu_err pu_rag_open(const char *dir, const char *index, pu_rag **out, pu_error *e) {
  *out = NULL;
  pu_rag *r = calloc(1, sizeof *r);
  if (!r) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory", dir);
  pu_err err = prepare(r, dir, index, e);
  if (err != PU_OK) {
    pu_rag_close(r);
    return err;
  }
  *out = r;
  return PU_OK;
}

void pu_rag_close(pu_rag *r) {
  if (!r) return;
  pu_store_close(r->store);
  free(r->dir);
  free(r->index);
  free(r);
}

const char *pu_rag_index(const pu_rag *r) {
  return r->index;
}

pu_store *pu_rag_store(pu_rag *r) {
  return r->store;
}
