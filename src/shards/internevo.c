/* InternEvo's pairs: NAME.bin holds one JSON object a line, {"tokens": [...]}, each a document; NAME.bin.meta is a
 * numpy array [documents, 2] of (byte offset of the line, tokens in it). A negative number is a token that is given but
 * not predicted. Text has no fixed width, so such a file is decoded into memory when it is opened (4 bytes a token):
 * for corpora beyond memory, write .pub. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "src/shards/shard.h"

#define NPY_MAGIC "\x93NUMPY"

bool pu_internevo_meta(const int64_t *rows, size_t n, pu_buf *out) {
  char head[128];
  int len = snprintf(head, sizeof head, "{'descr': '<i8', 'fortran_order': False, 'shape': (%zu, 2), }", n);
  if (len < 0 || (size_t)len >= sizeof head) return false;
  /* numpy wants the data 64-byte aligned: magic 6, version 2, header length 2, then the padded header. */
  size_t padded = ((size_t)len + 1 + 10 + 63) / 64 * 64 - 10;
  uint16_t size = (uint16_t)padded;
  bool ok = pu_buf_append(out, NPY_MAGIC "\x01\x00", 8) && pu_buf_append(out, &size, 2) &&
            pu_buf_append(out, head, (size_t)len);
  for (size_t i = (size_t)len; ok && i + 1 < padded; i++) ok = pu_buf_putc(out, ' ');
  return ok && pu_buf_putc(out, '\n') && (n == 0 || pu_buf_append(out, rows, n * 2 * sizeof rows[0]));
}

/* ---- reading the index ------------------------------------------------------------------------------------------- */

typedef struct meta {
  const uint8_t *rows;
  size_t n;
  int width; /* bytes a number: 4 or 8 */
} meta;

static int64_t meta_at(const meta *m, size_t row, int column) {
  const uint8_t *p = m->rows + (row * 2 + (size_t)column) * (size_t)m->width;
  int64_t wide = 0;
  int32_t narrow = 0;
  if (m->width == 8) {
    memcpy(&wide, p, 8);
    return wide;
  }
  memcpy(&narrow, p, 4);
  return narrow;
}

/* numpy's header is a Python dictionary; these are the only forms np.save gives an integer array of two columns. */
static pu_err meta_read(pu_str bytes, const char *path, meta *m, pu_error *e) {
  static const char wrong[] = "%s: not a numpy array of int32 or int64 [documents, 2]";
  const size_t fixed = 10;
  if (bytes.len < fixed || memcmp(bytes.ptr, NPY_MAGIC "\x01", 7) != 0) return pu_fail(e, PU_ERR_FORMAT, wrong, path);
  uint16_t size;
  memcpy(&size, bytes.ptr + 8, 2);
  char head[512];
  if (size >= sizeof head || bytes.len - fixed < size) return pu_fail(e, PU_ERR_FORMAT, wrong, path);
  memcpy(head, bytes.ptr + fixed, size);
  head[size] = '\0';
  m->width = strstr(head, "'<i8'") ? 8 : strstr(head, "'<i4'") ? 4 : 0;
  const char *shape = strstr(head, "'shape': (");
  if (!m->width || !shape || !strstr(head, "'fortran_order': False")) return pu_fail(e, PU_ERR_FORMAT, wrong, path);
  char *end;
  errno = 0;
  unsigned long long n = strtoull(shape + strlen("'shape': ("), &end, 10);
  size_t total;
  if (errno || strncmp(end, ", 2)", 4) != 0 || pu_mul_overflows(n, 2 * (size_t)m->width, &total) ||
      total != bytes.len - fixed - size)
    return pu_fail(e, PU_ERR_FORMAT, wrong, path);
  m->rows = (const uint8_t *)bytes.ptr + fixed + size;
  m->n = n;
  return PU_OK;
}

/* ---- reading the documents --------------------------------------------------------------------------------------- */

typedef struct cursor {
  const char *p, *end;
} cursor;

static void skip_space(cursor *c) {
  while (c->p < c->end && (*c->p == ' ' || *c->p == '\t')) c->p++;
}

static bool take(cursor *c, const char *text) {
  skip_space(c);
  size_t n = strlen(text);
  if ((size_t)(c->end - c->p) < n || memcmp(c->p, text, n) != 0) return false;
  c->p += n;
  return true;
}

static bool take_int(cursor *c, int64_t *out) {
  skip_space(c);
  bool negative = c->p < c->end && *c->p == '-';
  c->p += negative;
  int64_t v = 0;
  int digits = 0;
  for (; c->p < c->end && *c->p >= '0' && *c->p <= '9' && digits <= 10; c->p++, digits++) v = v * 10 + (*c->p - '0');
  *out = negative ? -v : v;
  return digits > 0 && v <= INT32_MAX;
}

/* {"tokens": [1, -2, 3]} with exactly n numbers. Only "tokens" is known; InternEvo writes nothing else. */
static bool document_read(cursor c, int64_t n, int32_t *ids, uint8_t *mask, uint64_t at) {
  if (!take(&c, "{") || !take(&c, "\"tokens\"") || !take(&c, ":") || !take(&c, "[")) return false;
  for (int64_t i = 0; i < n; i++) {
    int64_t v;
    if ((i > 0 && !take(&c, ",")) || !take_int(&c, &v)) return false;
    ids[i] = (int32_t)(v < 0 ? -v : v);
    if (v >= 0) mask[(at + (uint64_t)i) / 8] |= (uint8_t)(1u << ((at + (uint64_t)i) % 8));
  }
  if (!take(&c, "]") || !take(&c, "}")) return false;
  skip_space(&c);
  return c.p == c.end || *c.p == '\n' || *c.p == '\r';
}

static pu_err count_tokens(const meta *m, size_t bin_len, const char *path, uint64_t *out, pu_error *e) {
  uint64_t tokens = 0;
  for (size_t i = 0; i < m->n; i++) {
    int64_t at = meta_at(m, i, 0), n = meta_at(m, i, 1);
    /* A token takes at least two bytes of text, so a lying length cannot make us allocate more than the file's size. */
    if (at < 0 || n <= 0 || (uint64_t)at >= bin_len || (uint64_t)n > (bin_len - (uint64_t)at) / 2)
      return pu_fail(e, PU_ERR_FORMAT, "%s.meta: row %zu (%lld, %lld) points outside %s", path, i, (long long)at,
                     (long long)n, path);
    tokens += (uint64_t)n;
  }
  if (tokens > bin_len) return pu_fail(e, PU_ERR_FORMAT, "%s.meta: its rows overlap", path);
  *out = tokens;
  return PU_OK;
}

static pu_err decode(const meta *m, pu_str bin, const char *path, pu_shard_file *f, pu_error *e) {
  PU_TRY(count_tokens(m, bin.len, path, &f->tokens, e));
  size_t mask_bytes = f->tokens / 8 + 1;
  int32_t *ids = malloc(f->tokens * sizeof *ids + mask_bytes);
  uint64_t *offsets = malloc((m->n + 1) * sizeof *offsets);
  f->owned = ids;
  f->owned_offsets = offsets;
  if (!ids || !offsets) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its tokens", path);
  uint8_t *mask = (uint8_t *)(ids + f->tokens);
  memset(mask, 0, mask_bytes);
  uint64_t at = 0;
  for (size_t i = 0; i < m->n; i++) {
    int64_t n = meta_at(m, i, 1);
    offsets[i] = at;
    cursor c = {bin.ptr + meta_at(m, i, 0), bin.ptr + bin.len};
    if (!document_read(c, n, ids + at, mask, at))
      return pu_fail(e, PU_ERR_FORMAT, "%s: at byte %lld: not {\"tokens\": [...]} with %lld token ids", path,
                     (long long)meta_at(m, i, 0), (long long)n);
    at += (uint64_t)n;
  }
  offsets[m->n] = at;
  f->documents = m->n;
  f->offsets = offsets;
  f->data = ids;
  f->width = 4;
  f->mask = mask;
  return PU_OK;
}

pu_err pu_internevo_read(const char *path, pu_shard_file *f, pu_error *e) {
  char meta_path[4096];
  if ((size_t)snprintf(meta_path, sizeof meta_path, "%s.meta", path) >= sizeof meta_path)
    return pu_fail(e, PU_ERR_USAGE, "%s: the path is too long", path);
  pu_map index, bin;
  PU_TRY(pu_map_open(meta_path, &index, e));
  meta m = {0};
  pu_err err = meta_read(pu_str_of((const char *)index.data, index.len), meta_path, &m, e);
  if (err == PU_OK) err = pu_map_open(path, &bin, e);
  if (err == PU_OK) {
    err = decode(&m, pu_str_of((const char *)bin.data, bin.len), path, f, e);
    pu_map_close(&bin);
  }
  pu_map_close(&index);
  return err;
}
