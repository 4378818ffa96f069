/* A source: one or more shard files, end to end. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "src/shards/shard.h"

struct pu_shards {
  pu_shard_file *files;
  size_t n;
  uint64_t tokens, documents, tokenizer;
  _Atomic int64_t max_id; /* -1: not looked for yet */
};

void pu_shard_file_deinit(pu_shard_file *f) {
  if (f->map.data) pu_map_close(&f->map);
  free(f->owned);
  free(f->owned_offsets);
}

void pu_shards_close(pu_shards *s) {
  if (!s) return;
  for (size_t i = 0; i < s->n; i++) pu_shard_file_deinit(&s->files[i]);
  free(s->files);
  free(s);
}

static pu_shards *source_create(size_t max_files) {
  pu_shards *s = calloc(1, sizeof *s);
  if (!s) return NULL;
  s->files = calloc(max_files, sizeof *s->files);
  atomic_init(&s->max_id, -1);
  if (s->files) return s;
  free(s);
  return NULL;
}

/* Counts the file that was just read into files[n] as part of the source. */
static pu_err source_take(pu_shards *s, const char *name, pu_error *e) {
  pu_shard_file *f = &s->files[s->n++];
  f->first_token = s->tokens;
  f->first_document = s->documents;
  s->tokens += f->tokens;
  s->documents += f->documents;
  if (f->tokenizer && s->tokenizer && f->tokenizer != s->tokenizer)
    return pu_fail(e, PU_ERR_FORMAT, "%s: made with another tokenizer than the shards before it in the same folder",
                   name);
  if (f->tokenizer) s->tokenizer = f->tokenizer;
  return PU_OK;
}

static pu_err source_add(pu_shards *s, const char *path, bool verify, pu_error *e) {
  pu_shard_file *f = &s->files[s->n];
  pu_err err;
  if (pu_ends_with(path, ".bin")) {
    err = pu_internevo_read(path, f, e);
  } else {
    PU_TRY(pu_map_open(path, &f->map, e));
    err = pu_pub_read(pu_str_of((const char *)f->map.data, f->map.len), verify, path, f, e);
  }
  pu_err taken = err == PU_OK ? source_take(s, path, e) : PU_OK;
  if (err != PU_OK) {
    pu_shard_file_deinit(f);
    memset(f, 0, sizeof *f);
  }
  return err != PU_OK ? err : taken;
}

static pu_err open_folder(const char *dir, bool verify, pu_arena *a, pu_shards **out, pu_error *e) {
  char **names;
  size_t n;
  PU_TRY(pu_dir_list(a, dir, &names, &n, e));
  pu_shards *s = *out = source_create(n + 1);
  if (!s) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory", dir);
  for (size_t i = 0; i < n; i++) {
    if (!pu_ends_with(names[i], ".pub") && !pu_ends_with(names[i], ".bin")) continue;
    char *path = pu_path_join(a, dir, names[i]);
    if (!path) return pu_fail(e, PU_ERR_NOMEM, "%s: too many files", dir);
    PU_TRY(source_add(s, path, verify, e));
  }
  if (s->n == 0)
    return pu_fail(e, PU_ERR_IO, "%s: no .pub or .bin file in this folder; make some with puyu data tokenize", dir);
  return PU_OK;
}

pu_err pu_shards_open(const char *path, bool verify, pu_shards **out, pu_error *e) {
  *out = NULL;
  pu_arena *a;
  PU_TRY(pu_arena_create((size_t)64 << 20, &a, e));
  pu_err err;
  if (pu_path_is_dir(path)) {
    err = open_folder(path, verify, a, out, e);
  } else {
    *out = source_create(1);
    err = *out ? source_add(*out, path, verify, e) : pu_fail(e, PU_ERR_NOMEM, "%s: no memory", path);
  }
  pu_arena_free(a);
  if (err != PU_OK) {
    pu_shards_close(*out);
    *out = NULL;
  }
  return err;
}

pu_err pu_shards_parse(pu_str bytes, pu_shards **out, pu_error *e) {
  *out = NULL;
  pu_shards *s = source_create(1);
  if (!s) return pu_fail(e, PU_ERR_NOMEM, "shard: no memory");
  /* A copy, because the sections must lie 8-byte aligned. */
  pu_shard_file *f = &s->files[0];
  f->owned = malloc(bytes.len + 1);
  pu_err err;
  if (!f->owned) {
    err = pu_fail(e, PU_ERR_NOMEM, "shard: no memory");
  } else {
    if (bytes.len > 0) memcpy(f->owned, bytes.ptr, bytes.len);
    err = pu_pub_read(pu_str_of(f->owned, bytes.len), false, "shard", f, e);
  }
  if (err == PU_OK) {
    err = source_take(s, "shard", e);
  } else {
    pu_shard_file_deinit(f);
  }
  if (err == PU_OK)
    *out = s;
  else
    pu_shards_close(s);
  return err;
}

uint64_t pu_shards_tokens(const pu_shards *s) {
  return s->tokens;
}

uint64_t pu_shards_documents(const pu_shards *s) {
  return s->documents;
}

uint64_t pu_shards_tokenizer(const pu_shards *s) {
  return s->tokenizer;
}

static uint32_t file_max(const pu_shard_file *f) {
  uint32_t most = 0;
  const uint16_t *narrow = f->data;
  const uint32_t *wide = f->data;
  if (f->width == 2)
    for (uint64_t i = 0; i < f->tokens; i++) most = PU_MAX(most, narrow[i]);
  else
    for (uint64_t i = 0; i < f->tokens; i++) most = PU_MAX(most, wide[i]);
  return most;
}

int32_t pu_shards_max_id(const pu_shards *s) {
  /* Every thread that looks finds the same number, so a race only repeats work. */
  _Atomic int64_t *known = (_Atomic int64_t *)&s->max_id;
  int64_t most = atomic_load_explicit(known, memory_order_relaxed);
  if (most >= 0) return (int32_t)most;
  most = 0;
  for (size_t i = 0; i < s->n; i++) most = PU_MAX(most, (int64_t)file_max(&s->files[i]));
  most = PU_MIN(most, INT32_MAX);
  atomic_store_explicit(known, most, memory_order_relaxed);
  return (int32_t)most;
}

/* The last file that begins at or before `at`, by token or by document. */
static const pu_shard_file *file_at(const pu_shards *s, uint64_t at, bool by_document) {
  size_t low = 0, high = s->n;
  while (high - low > 1) {
    size_t middle = low + (high - low) / 2;
    const pu_shard_file *f = &s->files[middle];
    if ((by_document ? f->first_document : f->first_token) <= at)
      low = middle;
    else
      high = middle;
  }
  return &s->files[low];
}

int32_t pu_shards_domain(const pu_shards *s, uint64_t document) {
  if (document >= s->documents) return -1;
  const pu_shard_file *f = file_at(s, document, true);
  return f->domains ? f->domains[document - f->first_document] : -1;
}

uint64_t pu_shards_document_id(const pu_shards *s, uint64_t document) {
  if (document >= s->documents) return 0;
  const pu_shard_file *f = file_at(s, document, true);
  return f->ids ? f->ids[document - f->first_document] : 0;
}

uint64_t pu_shards_document_start(const pu_shards *s, uint64_t document) {
  if (document >= s->documents) return s->tokens;
  const pu_shard_file *f = file_at(s, document, true);
  return f->first_token + f->offsets[document - f->first_document];
}

uint64_t pu_shards_find(const pu_shards *s, uint64_t at) {
  if (at >= s->tokens) return s->documents;
  const pu_shard_file *f = file_at(s, at, false);
  uint64_t low = 0, high = f->documents, local = at - f->first_token;
  while (high - low > 1) {
    uint64_t middle = low + (high - low) / 2;
    if (f->offsets[middle] <= local)
      low = middle;
    else
      high = middle;
  }
  return f->first_document + low;
}

static void file_read(const pu_shard_file *f, uint64_t at, size_t n, int32_t *ids, uint8_t *mask) {
  if (f->width == 2) {
    const uint16_t *from = (const uint16_t *)f->data + at;
    for (size_t i = 0; i < n; i++) ids[i] = from[i];
  } else {
    memcpy(ids, (const uint32_t *)f->data + at, n * sizeof *ids);
  }
  if (!mask) return;
  if (!f->mask) {
    memset(mask, 1, n);
    return;
  }
  for (size_t i = 0; i < n; i++) mask[i] = (f->mask[(at + i) / 8] >> ((at + i) % 8)) & 1;
}

void pu_shards_read(const pu_shards *s, uint64_t at, int64_t n, int32_t *ids, uint8_t *mask) {
  int64_t done = 0;
  while (done < n && at < s->tokens) {
    const pu_shard_file *f = file_at(s, at, false);
    uint64_t local = at - f->first_token, left = f->tokens - local;
    size_t part = PU_MIN((uint64_t)(n - done), left);
    file_read(f, local, part, ids + done, mask ? mask + done : NULL);
    done += (int64_t)part;
    at += part;
  }
  if (done >= n) return;
  /* Past the end: nothing that is predicted. */
  memset(ids + done, 0, (size_t)(n - done) * sizeof *ids);
  if (mask) memset(mask + done, 0, (size_t)(n - done));
}
