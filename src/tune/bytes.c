#include "src/tune/bytes.h"

#include <string.h>
#include <zlib.h>
#include <zstd.h>

enum { PIECE = 1 << 18 };

/* ---- compression ---- */

static pu_err too_large(const char *path, size_t max, pu_error *e) {
  return pu_fail(e, PU_ERR_FORMAT, "%s: unpacks to more than %zu bytes: split it", path, max);
}

static pu_err room(const char *path, pu_buf *out, size_t max, pu_error *e) {
  if (pu_buf_reserve(out, PIECE)) return PU_OK;
  return out->len + PIECE > max ? too_large(path, max, e)
                                : pu_fail(e, PU_ERR_NOMEM, "%s: no memory to unpack it", path);
}

/* All members, one after the other. */
static pu_err gunzip(const char *path, pu_str in, size_t max, pu_buf *out, pu_error *e) {
  z_stream z = {0};
  if (inflateInit2(&z, 15 + 16) != Z_OK) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory to unpack it", path);
  pu_err err = PU_OK;
  int code = Z_OK;
  for (size_t at = 0; !err && (at < in.len || code == Z_OK);) {
    err = room(path, out, max, e);
    if (err) break;
    z.next_in = (Bytef *)(uintptr_t)(in.ptr + at);
    z.avail_in = (uInt)PU_MIN(in.len - at, (size_t)1 << 30);
    z.next_out = (Bytef *)out->data + out->len;
    z.avail_out = PIECE;
    uInt had = z.avail_in;
    code = inflate(&z, Z_NO_FLUSH);
    at += had - z.avail_in;
    out->len += PIECE - z.avail_out;
    bool stuck = had == z.avail_in && z.avail_out == PIECE;
    if ((code != Z_OK && code != Z_STREAM_END) || (stuck && code == Z_OK))
      err = pu_fail(e, PU_ERR_FORMAT, "%s: broken gzip data at byte %zu", path, at);
    else if (code == Z_STREAM_END)
      inflateReset(&z);
  }
  inflateEnd(&z);
  return err;
}

static pu_err unzstd(const char *path, pu_str in, size_t max, pu_buf *out, pu_error *e) {
  ZSTD_DStream *z = ZSTD_createDStream();
  if (!z) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory to unpack it", path);
  ZSTD_inBuffer from = {in.ptr, in.len, 0};
  pu_err err = PU_OK;
  for (size_t left = 1; !err && (from.pos < from.size || left > 0);) {
    err = room(path, out, max, e);
    if (err) break;
    ZSTD_outBuffer to = {out->data + out->len, PIECE, 0};
    size_t before = from.pos;
    left = ZSTD_decompressStream(z, &to, &from);
    out->len += to.pos;
    if (ZSTD_isError(left) || (left > 0 && from.pos == before && to.pos == 0))
      err = pu_fail(e, PU_ERR_FORMAT, "%s: broken zstd data at byte %zu", path, from.pos);
  }
  ZSTD_freeDStream(z);
  return err;
}

pu_err pu_tune_bytes_open(const char *path, size_t max, pu_tune_bytes *out, pu_error *e) {
  *out = (pu_tune_bytes){0};
  pu_buf_init(&out->unpacked, max);
  PU_TRY(pu_map_open(path, &out->map, e));
  out->text = pu_str_of((const char *)out->map.data, out->map.len);
  bool gzip = out->map.len >= 2 && memcmp(out->map.data, "\x1F\x8B", 2) == 0;
  bool zstd = out->map.len >= 4 && memcmp(out->map.data, "\x28\xB5\x2F\xFD", 4) == 0;
  if (!gzip && !zstd) return PU_OK;
  PU_TRY((gzip ? gunzip : unzstd)(path, out->text, max, &out->unpacked, e));
  if (out->unpacked.data) out->unpacked.data[out->unpacked.len] = 0;
  out->text = pu_str_of(out->unpacked.data, out->unpacked.len);
  return PU_OK;
}

void pu_tune_bytes_close(pu_tune_bytes *b) {
  pu_map_close(&b->map);
  pu_buf_deinit(&b->unpacked);
  b->text = (pu_str){0};
}

/* ---- objects ---- */

static void skip_space(pu_tune_objects *o) {
  for (; o->at < o->text.len && strchr(" \t\r\n", o->text.ptr[o->at]) && o->text.ptr[o->at]; o->at++)
    o->line += o->text.ptr[o->at] == '\n';
}

/* Where the object that begins at `at` ends; 0: it does not. What is inside is the parser's to judge. */
static size_t object_end(const pu_tune_objects *o) {
  size_t depth = 0;
  bool quoted = false;
  for (size_t i = o->at; i < o->text.len && i - o->at <= PU_TUNE_OBJECT_MAX; i++) {
    char c = o->text.ptr[i];
    if (quoted) {
      if (c == '\\') i++;
      quoted = c != '"';
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      depth++;
    } else if ((c == '}' || c == ']') && --depth == 0) {
      return i + 1;
    }
  }
  return 0;
}

static size_t line_end(const pu_tune_objects *o) {
  const char *end = memchr(o->text.ptr + o->at, '\n', o->text.len - o->at);
  return end ? (size_t)(end - o->text.ptr) : o->text.len;
}

static pu_err fail_at(const pu_tune_objects *o, const char *why, pu_error *e) {
  return pu_fail(e, PU_ERR_FORMAT, "%s:%llu: %s", o->name, (unsigned long long)o->line, why);
}

/* In an array: the comma before an element, or its end. */
static pu_err next_element(pu_tune_objects *o, bool *more, pu_error *e) {
  static const char cut_off[] = "the array does not end: is the file cut off?";
  *more = false;
  skip_space(o);
  if (o->at == o->text.len) return fail_at(o, cut_off, e);
  if (o->text.ptr[o->at] == ']') {
    o->at++;
    o->ended = true;
    skip_space(o);
    return o->at == o->text.len ? PU_OK : fail_at(o, "something follows the array", e);
  }
  if (!o->first) {
    if (o->text.ptr[o->at] != ',') return fail_at(o, "a comma is missing between two objects of the array", e);
    o->at++;
    skip_space(o);
    if (o->at == o->text.len) return fail_at(o, cut_off, e);
  }
  o->first = false;
  *more = true;
  return PU_OK;
}

pu_err pu_tune_objects_next(pu_tune_objects *o, pu_str *object, uint64_t *line, pu_error *e) {
  *object = (pu_str){0};
  if (!o->begun) {
    o->begun = o->first = true;
    o->line = 1;
    o->at = pu_str_mark(o->text);
    skip_space(o);
    o->array = o->at < o->text.len && o->text.ptr[o->at] == '[';
    o->at += o->array;
  }
  skip_space(o);
  bool more = o->at < o->text.len;
  if (o->array && !o->ended) PU_TRY(next_element(o, &more, e));
  if (!more) return PU_OK;
  if (o->text.ptr[o->at] != '{')
    return fail_at(o, "no JSON object: a file of conversations is JSON Lines or one array of objects", e);
  size_t end = o->array ? object_end(o) : line_end(o);
  if (end == 0 || end - o->at > PU_TUNE_OBJECT_MAX)
    return fail_at(o, "an object that does not end, or has more than 64 MiB", e);
  *line = o->line;
  *object = pu_str_of(o->text.ptr + o->at, end - o->at);
  for (const char *p = object->ptr; (p = memchr(p, '\n', (size_t)(o->text.ptr + end - p))); p++) o->line++;
  o->at = end;
  return PU_OK;
}
