/* Tokenizers as objects: made, asked, saved, freed. */
#include "src/text/tokenizer.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "src/text/split.h"

/* ---- making ------------------------------------------------------------------------------------------------------ */

pu_err text_tokenizer_new(size_t bytes, pu_tokenizer **out, pu_error *e) {
  pu_tokenizer *t = calloc(1, sizeof *t);
  if (!t) return pu_fail(e, PU_ERR_NOMEM, "no memory for a tokenizer");
  t->bos = t->eos = t->spm.unk = t->bytes.unk = -1;
  /* The bytes themselves, the pieces twice (each kept string starts on a line of 64 bytes), and fixed tables. */
  size_t max = bytes * 80 + ((size_t)16 << 20);
  pu_err err = pu_arena_create(max, &t->arena, e);
  if (err != PU_OK) {
    free(t);
    return err;
  }
  *out = t;
  return PU_OK;
}

void pu_tokenizer_free(pu_tokenizer *t) {
  if (!t) return;
  for (int i = 0; i < t->bytes.n_splits; i++) text_splitter_free(t->bytes.splits[i]);
  text_map_deinit(&t->bytes.raw);
  spm_deinit(&t->spm);
  text_map_deinit(&t->ids);
  text_trie_deinit(&t->added_raw);
  text_trie_deinit(&t->added_normalized);
  bpe_pairs_deinit(&t->pairs);
  free(t->pieces);
  free(t->added);
  pu_arena_free(t->arena);
  free(t);
}

pu_str text_keep(pu_tokenizer *t, pu_str s) {
  return pu_str_of(pu_arena_strndup(t->arena, s.len ? s.ptr : "", s.len), s.len);
}

pu_err text_grow_pieces(pu_tokenizer *t, int64_t id, pu_error *e) {
  if (id < 0 || id >= TEXT_PIECES_MAX) {
    return pu_fail(e, PU_ERR_FORMAT, "tokenizer: id %lld is outside [0, %d)", (long long)id, TEXT_PIECES_MAX);
  }
  if (id < t->n) return PU_OK;
  if (id >= t->cap) {
    int32_t cap = PU_MAX((int32_t)id + 1, PU_MAX(1024, t->cap * 2));
    text_piece *pieces = realloc(t->pieces, (size_t)cap * sizeof *pieces);
    if (!pieces) return pu_fail(e, PU_ERR_NOMEM, "tokenizer: no memory for %d pieces", cap);
    t->pieces = pieces;
    t->cap = cap;
  }
  memset(t->pieces + t->n, 0, (size_t)(id + 1 - t->n) * sizeof *t->pieces);
  t->n = (int32_t)id + 1;
  return PU_OK;
}

pu_err text_add_token(pu_tokenizer *t, text_added a, pu_str content, pu_error *e) {
  PU_TRY(text_grow_pieces(t, a.id, e));
  if (content.len == 0) return PU_OK;
  if (t->n_added == t->cap_added) {
    size_t cap = t->cap_added ? t->cap_added * 2 : 16;
    text_added *added = realloc(t->added, cap * sizeof *added);
    if (!added) return pu_fail(e, PU_ERR_NOMEM, "tokenizer: no memory for its added tokens");
    t->added = added;
    t->cap_added = cap;
  }
  text_piece *p = &t->pieces[a.id];
  if (!pu_str_eq(p->text, content)) p->text = text_keep(t, content);
  if (p->type == PIECE_NONE) p->type = PIECE_USER;
  if (t->byte_level || !p->raw.ptr) p->raw = p->text;
  p->special = a.special;
  text_trie *trie = a.normalized ? &t->added_normalized : &t->added_raw;
  t->added[t->n_added++] = a;
  if (!p->text.ptr || !text_map_put(&t->ids, p->text, a.id) ||
      !text_trie_put(trie, p->text, (int32_t)(t->n_added - 1))) {
    return pu_fail(e, PU_ERR_NOMEM, "tokenizer: no memory for its added tokens");
  }
  t->has_plain_added |= !a.special;
  return PU_OK;
}

/* What makes two tokenizers give the same ids: pieces with their ids and kinds, and rules of merging. */
static uint64_t hash_of(const pu_tokenizer *t) {
  uint64_t h = t->byte_level;
  for (int32_t id = 0; id < t->n; id++) {
    const text_piece *p = &t->pieces[id];
    struct {
      uint64_t len;
      float score;
      uint32_t type;
    } head = {p->text.len, p->score, p->type};
    h = pu_hash64(&head, sizeof head, h);
    if (p->text.len > 0) h = pu_hash64(p->text.ptr, p->text.len, h);
  }
  uint64_t rules = 0; /* a sum, for the table has no order of its own */
  for (size_t i = 0; t->pairs.slots && i <= t->pairs.mask; i++) {
    if (t->pairs.slots[i].key != UINT64_MAX) rules += pu_hash64(&t->pairs.slots[i], sizeof *t->pairs.slots, 0);
  }
  return pu_hash64(&rules, sizeof rules, h);
}

void text_finish(pu_tokenizer *t) {
  text_guard_markers(t);
  t->hash = hash_of(t);
}

static pu_err parse(pu_str bytes, const char *name, pu_err (*reader)(pu_tokenizer *, pu_str, pu_error *),
                    pu_tokenizer **out, pu_error *e) {
  if (bytes.len > TEXT_FILE_MAX) return pu_fail(e, PU_ERR_FORMAT, "%s: larger than %zu bytes", name, TEXT_FILE_MAX);
  pu_tokenizer *t = NULL;
  PU_TRY(text_tokenizer_new(bytes.len, &t, e));
  text_file *file = pu_arena_alloc(t->arena, sizeof *file);
  pu_err err = PU_OK;
  if (file) *file = (text_file){name, text_keep(t, bytes), NULL};
  if (!file || !file->bytes.ptr) err = pu_fail(e, PU_ERR_NOMEM, "%s: no memory to keep it", name);
  if (err == PU_OK) {
    t->files = file;
    err = reader(t, bytes, e);
  }
  if (err != PU_OK) {
    pu_tokenizer_free(t);
    return err;
  }
  *out = t;
  return PU_OK;
}

pu_err pu_tokenizer_parse_spm(pu_str bytes, pu_tokenizer **out, pu_error *e) {
  PU_TRY(parse(bytes, "tokenizer.model", spm_parse, out, e));
  text_finish(*out);
  return PU_OK;
}

pu_err pu_tokenizer_parse_json(pu_str bytes, pu_tokenizer **out, pu_error *e) {
  PU_TRY(parse(bytes, "tokenizer.json", hf_parse, out, e));
  text_finish(*out);
  return PU_OK;
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

/* Readers begin with the usual name of their file ("tokenizer.json:192:14: …"): the path takes its place. */
static pu_err name_path(const char *path, const char *name, pu_err err, pu_error *e) {
  size_t n = strlen(name);
  if (!e || strncmp(e->msg, name, n) != 0 || e->msg[n] != ':') return pu_fail_in(e, err, "%s", path);
  const pu_error inner = *e;
  return pu_fail(e, err, "%s%s", path, inner.msg + n);
}

static pu_err load_file(const char *path, pu_tokenizer **out, pu_error *e) {
  size_t len = strlen(path);
  bool json = len >= 5 && strcmp(path + len - 5, ".json") == 0;
  pu_buf b;
  pu_buf_init(&b, TEXT_FILE_MAX + 1);
  pu_err err = pu_file_read(path, TEXT_FILE_MAX, &b, e);
  if (err == PU_OK) {
    pu_str bytes = pu_str_of(b.data ? b.data : "", b.len);
    const char *name = json ? "tokenizer.json" : "tokenizer.model";
    err = parse(bytes, name, json ? hf_parse : spm_parse, out, e);
    if (err != PU_OK) err = name_path(path, name, err, e);
  }
  pu_buf_deinit(&b);
  return err;
}

static const char *const names[] = {"tokenizer.json", "tokenizer.model"};

bool pu_tokenizer_in(const char *dir) {
  char path[PATH_MAX];
  for (size_t i = 0; i < PU_COUNT(names); i++)
    if (snprintf(path, sizeof path, "%s/%s", dir, names[i]) < PATH_MAX && pu_path_exists(path)) return true;
  return false;
}

static pu_err load_dir(const char *dir, pu_tokenizer **out, pu_error *e) {
  pu_arena *a;
  PU_TRY(pu_arena_create(1 << 16, &a, e));
  pu_err err = pu_fail(e, PU_ERR_IO, "%s: neither tokenizer.json nor tokenizer.model is there", dir);
  for (size_t i = 0; i < PU_COUNT(names); i++) {
    const char *path = pu_path_join(a, dir, names[i]);
    if (!path) {
      err = pu_fail(e, PU_ERR_NOMEM, "%s: the path is too long", dir);
    } else if (pu_path_exists(path)) {
      err = load_file(path, out, e);
      break;
    }
  }
  pu_arena_free(a);
  if (err != PU_OK) return err;
  err = text_read_config(*out, dir, e);
  if (err != PU_OK) {
    pu_tokenizer_free(*out);
    *out = NULL;
  }
  return err;
}

pu_err pu_tokenizer_load(const char *path, pu_tokenizer **out, pu_error *e) {
  PU_TRY(pu_path_is_dir(path) ? load_dir(path, out, e) : load_file(path, out, e));
  text_finish(*out);
  return PU_OK;
}

pu_err pu_tokenizer_save(const pu_tokenizer *t, const char *dir, pu_error *e) {
  PU_TRY(pu_mkdirs(dir, e));
  pu_arena *a;
  PU_TRY(pu_arena_create(1 << 16, &a, e));
  pu_err err = PU_OK;
  for (const text_file *f = t->files; f && err == PU_OK; f = f->next) {
    const char *path = pu_path_join(a, dir, f->name);
    err = path ? pu_file_write(path, f->bytes.ptr, f->bytes.len, e)
               : pu_fail(e, PU_ERR_NOMEM, "%s: the path is too long", dir);
  }
  pu_arena_free(a);
  return err;
}

/* ---- asking ------------------------------------------------------------------------------------------------------ */

int32_t pu_tokenizer_size(const pu_tokenizer *t) {
  return t->n;
}

int32_t pu_tokenizer_bos(const pu_tokenizer *t) {
  return t->bos;
}

int32_t pu_tokenizer_eos(const pu_tokenizer *t) {
  return t->eos;
}

bool pu_tokenizer_adds_bos(const pu_tokenizer *t) {
  return t->adds_bos;
}

uint64_t pu_tokenizer_hash(const pu_tokenizer *t) {
  return t->hash;
}

/* A renamed piece keeps its old name in the map, but no longer answers to it. */
int32_t pu_tokenizer_find(const pu_tokenizer *t, pu_str piece) {
  int32_t id = text_map_get(&t->ids, piece);
  return id >= 0 && pu_str_eq(t->pieces[id].text, piece) ? id : -1;
}

pu_str pu_tokenizer_piece(const pu_tokenizer *t, int32_t id) {
  return id >= 0 && id < t->n ? t->pieces[id].text : pu_str_of("", 0);
}

bool pu_tokenizer_is_special(const pu_tokenizer *t, int32_t id) {
  return id >= 0 && id < t->n && t->pieces[id].special;
}

/* ---- ids -------------------------------------------------------------------------------------------------------- */

void pu_ids_deinit(pu_ids *ids) {
  free(ids->v);
  *ids = (pu_ids){0};
}

bool pu_ids_push(pu_ids *ids, int32_t id) {
  if (ids->n == ids->cap) {
    size_t cap = ids->cap ? ids->cap * 2 : 64;
    int32_t *v = cap <= SIZE_MAX / sizeof *v / 2 ? realloc(ids->v, cap * sizeof *v) : NULL;
    if (!v) {
      ids->failed = true;
      return false;
    }
    ids->v = v;
    ids->cap = cap;
  }
  ids->v[ids->n++] = id;
  return true;
}
