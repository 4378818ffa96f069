/* What models have in common, and what tells one from another. */
#include <stdlib.h>
#include <string.h>

#include "src/eval/internal.h"

bool eval_put_prompt(const eval_ask *ask, int64_t shots, pu_buf *b) {
  if (ask->head.len) pu_buf_append(b, ask->head.ptr, ask->head.len);
  for (int64_t i = 0; i < shots; i++) pu_buf_append(b, ask->shots[i].ptr, ask->shots[i].len);
  if (ask->question.len) pu_buf_append(b, ask->question.ptr, ask->question.len);
  return !b->failed;
}

pu_err eval_model_name(pu_eval_model *m, const char *name, const char *identity, pu_error *e) {
  m->name = strdup(name);
  m->identity = strdup(identity);
  if (m->name && m->identity) return PU_OK;
  pu_eval_model_close(m);
  return pu_fail(e, PU_ERR_NOMEM, "no memory for a model");
}

void pu_eval_model_close(pu_eval_model *m) {
  if (!m) return;
  m->close(m);
  free(m->name);
  free(m->identity);
  free(m);
}

const char *pu_eval_model_name(const pu_eval_model *m) {
  return m->name;
}

/* ---- identity ---- */

/* Of a file its size and 4 KiB of each MiB: training changes all of a matrix, and reading all of it would take as long
 * as the model's first answers. */
static pu_err hash_file(const char *path, uint64_t *hash, pu_error *e) {
  enum { PIECE = 4096, STEP = 1 << 20 };
  pu_map m;
  PU_TRY(pu_map_open(path, &m, e));
  *hash = pu_hash64(&m.len, sizeof m.len, *hash);
  for (size_t at = 0; at < m.len; at += STEP) *hash = pu_hash64(m.data + at, PU_MIN((size_t)PIECE, m.len - at), *hash);
  if (m.len > PIECE) *hash = pu_hash64(m.data + m.len - PIECE, PIECE, *hash);
  pu_map_close(&m);
  return PU_OK;
}

static pu_err hash_path(const char *path, pu_arena *a, uint64_t *hash, pu_error *e) {
  static const char *const kinds[] = {".json", ".safetensors", ".model", ".jinja", ".gguf"};
  char **names;
  size_t n;
  if (!pu_path_is_dir(path)) return hash_file(path, hash, e);
  PU_TRY(pu_dir_list(a, path, &names, &n, e));
  for (size_t i = 0; i < n; i++) {
    bool counts = false;
    for (size_t k = 0; k < PU_COUNT(kinds); k++) counts |= pu_ends_with(names[i], kinds[k]);
    const char *file = pu_path_join(a, path, names[i]);
    if (!file) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory", path);
    if (!counts || pu_path_is_dir(file)) continue;
    *hash = pu_hash64(names[i], strlen(names[i]), *hash);
    PU_TRY(hash_file(file, hash, e));
  }
  return PU_OK;
}

pu_err pu_eval_identity(const char *model, const char *adapter, const char *words, pu_arena *a, const char **out,
                        pu_error *e) {
  uint64_t hash = 0;
  PU_TRY(hash_path(model, a, &hash, e));
  if (adapter) PU_TRY(hash_path(adapter, a, &hash, e));
  *out = pu_arena_printf(a, "%016llx %s", (unsigned long long)hash, words);
  return *out ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "%s: no memory", model);
}
