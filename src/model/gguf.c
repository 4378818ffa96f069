/* Reading GGUF: magic, version, counts; the keys; the tensors' names, shapes, types and places; then their bytes. Files
 * come from strangers: a cursor that cannot leave the file reads everything, and what is claimed is checked against the
 * file before any view is handed out. */
#include "src/model/gguf.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct pu_gguf {
  pu_map map; /* data NULL when parsed from memory */
  pu_arena *arena;
  pu_gguf_meta *metas; /* in the file's order */
  const pu_gguf_meta **by_key;
  size_t n_metas;
  pu_gguf_tensor *tensors; /* sorted by name */
  size_t n;
};

/* ---- a cursor ---- */

typedef struct cursor {
  const char *where;
  const char *data;
  size_t len, at;
} cursor;

static pu_err truncated(const cursor *c, pu_error *e) {
  return pu_fail(e, PU_ERR_FORMAT, "%s: ends inside its header, at byte %zu: truncated?", c->where, c->len);
}

static pu_err take(cursor *c, size_t n, pu_str *out, pu_error *e) {
  *out = (pu_str){0};
  if (n > c->len - c->at) return truncated(c, e);
  *out = pu_str_of(c->data + c->at, n);
  c->at += n;
  return PU_OK;
}

static uint64_t little_endian(const char *p, size_t n) {
  uint64_t v = 0;
  for (size_t i = n; i-- > 0;) v = v << 8 | (uint8_t)p[i];
  return v;
}

static pu_err take_number(cursor *c, size_t bytes, uint64_t *out, pu_error *e) {
  pu_str s;
  *out = 0;
  PU_TRY(take(c, bytes, &s, e));
  *out = little_endian(s.ptr, bytes);
  return PU_OK;
}

static pu_err take_string(cursor *c, size_t max, const char *what, pu_str *out, pu_error *e) {
  uint64_t len = 0;
  *out = (pu_str){0};
  PU_TRY(take_number(c, 8, &len, e));
  if (len > max)
    return pu_fail(e, PU_ERR_FORMAT, "%s: %s of %llu bytes at byte %zu is above the limit of %zu", c->where, what,
                   (unsigned long long)len, c->at - 8, max);
  return take(c, (size_t)len, out, e);
}

/* A string that names something: not empty, no NUL inside, NUL at the end. */
static pu_err take_name(cursor *c, size_t max, const char *what, pu_arena *a, const char **out, pu_error *e) {
  pu_str s;
  PU_TRY(take_string(c, max, what, &s, e));
  if (s.len == 0 || memchr(s.ptr, 0, s.len))
    return pu_fail(e, PU_ERR_FORMAT, "%s: %s before byte %zu is empty or holds a NUL", c->where, what, c->at);
  *out = pu_arena_strndup(a, s.ptr, s.len);
  return *out ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its names", c->where);
}

/* ---- keys ---- */

/* Bytes of one value; 0: of its own length. */
static const size_t kind_bytes[PU_GGUF_KIND_COUNT] = {
    [PU_GGUF_U8] = 1,  [PU_GGUF_I8] = 1,  [PU_GGUF_U16] = 2,  [PU_GGUF_I16] = 2, [PU_GGUF_U32] = 4, [PU_GGUF_I32] = 4,
    [PU_GGUF_F32] = 4, [PU_GGUF_U64] = 8, [PU_GGUF_BOOL] = 1, [PU_GGUF_I64] = 8, [PU_GGUF_F64] = 8};

static pu_err take_kind(cursor *c, const char *key, pu_gguf_kind *out, pu_error *e) {
  uint64_t kind;
  PU_TRY(take_number(c, 4, &kind, e));
  if (kind >= PU_GGUF_KIND_COUNT)
    return pu_fail(e, PU_ERR_FORMAT, "%s: key '%.100s' has a value of the unknown kind %llu", c->where, key,
                   (unsigned long long)kind);
  *out = (pu_gguf_kind)kind;
  return PU_OK;
}

static pu_err take_array(cursor *c, pu_gguf_meta *m, pu_error *e) {
  uint64_t count;
  m->array = true;
  PU_TRY(take_kind(c, m->key, &m->kind, e));
  PU_TRY(take_number(c, 8, &count, e));
  if (m->kind == PU_GGUF_ARRAY)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: key '%.100s' is an array of arrays, which is not read", c->where,
                   m->key);
  if (count > PU_GGUF_MAX_ITEMS)
    return pu_fail(e, PU_ERR_FORMAT, "%s: key '%.100s' has %llu values, more than %d", c->where, m->key,
                   (unsigned long long)count, PU_GGUF_MAX_ITEMS);
  m->count = (size_t)count;
  if (m->kind != PU_GGUF_STR) return take(c, m->count * kind_bytes[m->kind], &m->bytes, e);
  size_t begin = c->at;
  for (size_t i = 0; i < m->count; i++) {
    pu_str one;
    PU_TRY(take_string(c, PU_GGUF_MAX_STRING, "a string", &one, e));
  }
  m->bytes = pu_str_of(c->data + begin, c->at - begin);
  return PU_OK;
}

static pu_err take_meta(cursor *c, pu_arena *a, pu_gguf_meta *m, pu_error *e) {
  *m = (pu_gguf_meta){.count = 1};
  PU_TRY(take_name(c, PU_GGUF_MAX_KEY, "a key", a, &m->key, e));
  PU_TRY(take_kind(c, m->key, &m->kind, e));
  if (m->kind == PU_GGUF_ARRAY) return take_array(c, m, e);
  if (m->kind == PU_GGUF_STR) return take_string(c, PU_GGUF_MAX_STRING, "a string", &m->bytes, e);
  return take(c, kind_bytes[m->kind], &m->bytes, e);
}

static int by_key(const void *a, const void *b) {
  return strcmp((*(const pu_gguf_meta *const *)a)->key, (*(const pu_gguf_meta *const *)b)->key);
}

static pu_err take_metas(pu_gguf *g, cursor *c, size_t n, pu_error *e) {
  g->metas = pu_arena_alloc(g->arena, (n + 1) * sizeof *g->metas);
  g->by_key = pu_arena_alloc(g->arena, (n + 1) * sizeof *g->by_key);
  if (!g->metas || !g->by_key) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its keys", c->where);
  for (; g->n_metas < n; g->n_metas++) {
    PU_TRY(take_meta(c, g->arena, &g->metas[g->n_metas], e));
    g->by_key[g->n_metas] = &g->metas[g->n_metas];
  }
  if (n) qsort(g->by_key, n, sizeof *g->by_key, by_key);
  for (size_t i = 1; i < n; i++)
    if (strcmp(g->by_key[i - 1]->key, g->by_key[i]->key) == 0)
      return pu_fail(e, PU_ERR_FORMAT, "%s: key '%.100s' is there twice", c->where, g->by_key[i]->key);
  return PU_OK;
}

/* ---- tensors ---- */

static pu_err take_shape(cursor *c, pu_gguf_tensor *t, pu_error *e) {
  uint64_t ndim, dim;
  PU_TRY(take_number(c, 4, &ndim, e));
  if (ndim > PU_MAX_DIMS)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: tensor '%s' has %llu dimensions, more than %d", c->where, t->name,
                   (unsigned long long)ndim, PU_MAX_DIMS);
  t->ndim = (int)ndim;
  for (int i = t->ndim - 1; i >= 0; i--) { /* the file's first dimension is the row's length: our last */
    PU_TRY(take_number(c, 8, &dim, e));
    if (dim > INT64_MAX) return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%s' has a negative size", c->where, t->name);
    t->shape[i] = (int64_t)dim;
  }
  return PU_OK;
}

static pu_err count_bytes(const cursor *c, pu_gguf_tensor *t, pu_error *e) {
  int64_t row = t->ndim ? t->shape[t->ndim - 1] : 1;
  if (row % t->type->block)
    return pu_fail(e, PU_ERR_FORMAT,
                   "%s: tensor '%s' has rows of %lld values, not a multiple of the %lld in a %s block", c->where,
                   t->name, (long long)row, (long long)t->type->block, t->type->name);
  bool overflows = pu_mul_overflows((size_t)(row / t->type->block), t->type->bytes, &t->bytes);
  for (int i = 0; i < t->ndim - 1; i++) overflows |= pu_mul_overflows(t->bytes, (size_t)t->shape[i], &t->bytes);
  size_t values = 1; /* what counts them later does so without checks */
  for (int i = 0; i < t->ndim; i++) overflows |= pu_mul_overflows(values, (size_t)t->shape[i], &values);
  return overflows || values > INT64_MAX
             ? pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%s': its size overflows", c->where, t->name)
             : PU_OK;
}

/* *offset: from the beginning of the tensors' bytes. */
static pu_err take_tensor(cursor *c, pu_arena *a, pu_gguf_tensor *t, uint64_t *offset, pu_error *e) {
  uint64_t type;
  *t = (pu_gguf_tensor){0};
  PU_TRY(take_name(c, PU_GGUF_MAX_NAME, "a tensor's name", a, &t->name, e));
  PU_TRY(take_shape(c, t, e));
  PU_TRY(take_number(c, 4, &type, e));
  t->type = pu_gguf_type_of((uint32_t)type);
  if (!t->type)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: tensor '%s' is of type %llu, which is not known", c->where, t->name,
                   (unsigned long long)type);
  PU_TRY(take_number(c, 8, offset, e));
  return count_bytes(c, t, e);
}

static pu_err alignment_of(const pu_gguf *g, const char *where, size_t *out, pu_error *e) {
  const pu_gguf_meta *m = pu_gguf_meta_find(g, "general.alignment");
  int64_t v = PU_GGUF_ALIGNMENT;
  if (m && (!pu_gguf_int(m, 0, &v) || v < 1 || v > PU_GGUF_MAX_ALIGNMENT || (v & (v - 1))))
    return pu_fail(e, PU_ERR_FORMAT, "%s: 'general.alignment' is not a power of two up to %d", where,
                   PU_GGUF_MAX_ALIGNMENT);
  *out = (size_t)v;
  return PU_OK;
}

/* The tensors' bytes come in the order of the list, each padded to the alignment; so no two can share any. */
static pu_err place_tensors(pu_gguf *g, const cursor *c, const uint64_t *offsets, pu_error *e) {
  size_t align = PU_GGUF_ALIGNMENT, at = 0, begin;
  PU_TRY(alignment_of(g, c->where, &align, e));
  begin = (c->at + align - 1) & ~(align - 1);
  size_t room = begin < c->len ? c->len - begin : 0;
  for (size_t i = 0; i < g->n; i++) {
    pu_gguf_tensor *t = &g->tensors[i];
    if (offsets[i] != at)
      return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%s' begins at byte %llu of the tensors, where %zu is expected",
                     c->where, t->name, (unsigned long long)offsets[i], at);
    if (at > room || t->bytes > room - at)
      return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%s' ends at byte %zu of %zu: the file is truncated or lies",
                     c->where, t->name, begin + at + t->bytes, c->len);
    t->data = c->data + begin + at;
    at = (at + t->bytes + align - 1) & ~(align - 1);
  }
  return PU_OK;
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const pu_gguf_tensor *)a)->name, ((const pu_gguf_tensor *)b)->name);
}

static pu_err take_tensors(pu_gguf *g, cursor *c, size_t n, pu_error *e) {
  g->tensors = pu_arena_alloc(g->arena, (n + 1) * sizeof *g->tensors);
  uint64_t *offsets = pu_arena_alloc(g->arena, (n + 1) * sizeof *offsets);
  if (!g->tensors || !offsets) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its tensors", c->where);
  for (; g->n < n; g->n++) PU_TRY(take_tensor(c, g->arena, &g->tensors[g->n], &offsets[g->n], e));
  PU_TRY(place_tensors(g, c, offsets, e));
  if (n) qsort(g->tensors, n, sizeof *g->tensors, by_name);
  for (size_t i = 1; i < n; i++)
    if (strcmp(g->tensors[i - 1].name, g->tensors[i].name) == 0)
      return pu_fail(e, PU_ERR_FORMAT, "%s: tensor '%s' is there twice", c->where, g->tensors[i].name);
  return PU_OK;
}

/* ---- the file ---- */

static pu_err take_head(cursor *c, size_t *tensors, size_t *keys, pu_error *e) {
  uint64_t version, n;
  pu_str magic;
  if (c->len < 4 || memcmp(c->data, "GGUF", 4) != 0)
    return pu_fail(e, PU_ERR_FORMAT, "%s: does not begin with \"GGUF\": not such a file", c->where);
  PU_TRY(take(c, 4, &magic, e));
  PU_TRY(take_number(c, 4, &version, e));
  if (version == 0 || version >> 24)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: a big-endian GGUF file, which is not read", c->where);
  if (version < 2 || version > PU_GGUF_VERSION)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: version %llu of GGUF is not read; 2 and 3 are", c->where,
                   (unsigned long long)version);
  PU_TRY(take_number(c, 8, &n, e));
  /* Any tensor takes 32 bytes of the header, any key 13: a count that cannot be true asks for no memory. */
  if (n > PU_GGUF_MAX_TENSORS || n > c->len / 32)
    return pu_fail(e, PU_ERR_FORMAT, "%s: claims %llu tensors, more than it can hold", c->where, (unsigned long long)n);
  *tensors = (size_t)n;
  PU_TRY(take_number(c, 8, &n, e));
  if (n > PU_GGUF_MAX_KEYS || n > c->len / 13)
    return pu_fail(e, PU_ERR_FORMAT, "%s: claims %llu keys, more than it can hold", c->where, (unsigned long long)n);
  *keys = (size_t)n;
  return PU_OK;
}

static pu_err read_file(pu_gguf *g, const char *where, pu_str bytes, pu_error *e) {
  cursor c = {.where = where, .data = bytes.ptr, .len = bytes.len};
  size_t tensors = 0, keys = 0;
  PU_TRY(take_head(&c, &tensors, &keys, e));
  /* Names are kept with a NUL, each on a line of 64 bytes; they cannot be longer than the file. */
  size_t each = sizeof *g->tensors + sizeof *g->metas + 256, max = (1 << 20) + (tensors + keys) * each;
  PU_TRY(pu_arena_create(max + PU_MIN(bytes.len, (tensors + keys) * ((size_t)PU_GGUF_MAX_KEY + 1)), &g->arena, e));
  PU_TRY(take_metas(g, &c, keys, e));
  return take_tensors(g, &c, tensors, e);
}

pu_err pu_gguf_parse(pu_str bytes, pu_gguf **out, pu_error *e) {
  *out = calloc(1, sizeof **out);
  if (!*out) return pu_fail(e, PU_ERR_NOMEM, "no memory to read a GGUF file");
  pu_err err = read_file(*out, "gguf", bytes, e);
  if (err == PU_OK) return PU_OK;
  pu_gguf_close(*out);
  *out = NULL;
  return err;
}

pu_err pu_gguf_open(const char *path, pu_gguf **out, pu_error *e) {
  *out = calloc(1, sizeof **out);
  if (!*out) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory to read it", path);
  pu_map *map = &(*out)->map;
  pu_err err = pu_map_open(path, map, e);
  if (err == PU_OK) err = read_file(*out, path, pu_str_of((const char *)map->data, map->len), e);
  if (err == PU_OK) return PU_OK;
  pu_gguf_close(*out);
  *out = NULL;
  return err;
}

void pu_gguf_close(pu_gguf *g) {
  if (!g) return;
  if (g->map.data) pu_map_close(&g->map);
  pu_arena_free(g->arena);
  free(g);
}

bool pu_gguf_is(const char *path) {
  struct stat st;
  bool there = stat(path, &st) == 0;
  if (there && !S_ISREG(st.st_mode)) return false; /* what is read from a pipe is gone */
  if (strlen(path) > 5 && pu_ends_with(path, ".gguf")) return true;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  char magic[4];
  bool is = read(fd, magic, 4) == 4 && memcmp(magic, "GGUF", 4) == 0;
  close(fd);
  return is;
}

/* ---- looking ---- */

size_t pu_gguf_count(const pu_gguf *g) {
  return g->n;
}

const pu_gguf_tensor *pu_gguf_at(const pu_gguf *g, size_t i) {
  return i < g->n ? &g->tensors[i] : NULL;
}

const pu_gguf_tensor *pu_gguf_find(const pu_gguf *g, const char *name) {
  pu_gguf_tensor key = {.name = name};
  return g->n ? bsearch(&key, g->tensors, g->n, sizeof key, by_name) : NULL;
}

size_t pu_gguf_meta_count(const pu_gguf *g) {
  return g->n_metas;
}

const pu_gguf_meta *pu_gguf_meta_at(const pu_gguf *g, size_t i) {
  return i < g->n_metas ? &g->metas[i] : NULL;
}

const pu_gguf_meta *pu_gguf_meta_find(const pu_gguf *g, const char *key) {
  const pu_gguf_meta wanted = {.key = key}, *at = &wanted;
  const pu_gguf_meta **found = g->n_metas ? bsearch(&at, g->by_key, g->n_metas, sizeof at, by_key) : NULL;
  return found ? *found : NULL;
}

bool pu_gguf_int(const pu_gguf_meta *m, size_t i, int64_t *out) {
  if (!m || i >= m->count || m->kind == PU_GGUF_STR || m->kind == PU_GGUF_F32 || m->kind == PU_GGUF_F64) return false;
  size_t bytes = kind_bytes[m->kind];
  uint64_t v = little_endian(m->bytes.ptr + i * bytes, bytes);
  bool is_signed = m->kind == PU_GGUF_I8 || m->kind == PU_GGUF_I16 || m->kind == PU_GGUF_I32;
  if (m->kind == PU_GGUF_U64 && v > INT64_MAX) return false;
  uint64_t sign = (uint64_t)1 << (8 * bytes - 1);
  *out = (int64_t)(is_signed ? (v ^ sign) - sign : v);
  return true;
}

bool pu_gguf_num(const pu_gguf_meta *m, size_t i, double *out) {
  int64_t whole;
  if (pu_gguf_int(m, i, &whole)) {
    *out = (double)whole;
    return true;
  }
  if (!m || i >= m->count || (m->kind != PU_GGUF_F32 && m->kind != PU_GGUF_F64)) return false;
  float f;
  if (m->kind == PU_GGUF_F64)
    memcpy(out, m->bytes.ptr + 8 * i, 8);
  else
    *out = (double)*(float *)memcpy(&f, m->bytes.ptr + 4 * i, 4);
  return true;
}

bool pu_gguf_str(const pu_gguf_meta *m, size_t *at, pu_str *out) {
  if (!m || m->kind != PU_GGUF_STR) return false;
  if (!m->array) {
    *out = m->bytes;
    return (*at)++ == 0;
  }
  if (*at >= m->bytes.len) return false;
  size_t len = (size_t)little_endian(m->bytes.ptr + *at, 8);
  *out = pu_str_of(m->bytes.ptr + *at + 8, len);
  *at += 8 + len;
  return true;
}
