/* Writing safetensors: the header first, then the tensors piece by piece into FILE.tmp, which takes the name of the
 * file only when all of it is on the disk. */
#include "src/model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE = 4 << 20 };

static pu_err source_bytes(const pu_st_source *t, size_t *out, pu_error *e) {
  *out = pu_dtype_size(t->dtype);
  if (!pu_st_dtype_name(t->dtype) || t->ndim < 0 || t->ndim > PU_MAX_DIMS)
    return pu_fail(e, PU_ERR_INTERNAL, "tensor '%s' cannot be written as safetensors", t->name);
  for (int i = 0; i < t->ndim; i++)
    if (t->shape[i] < 0 || pu_mul_overflows(*out, (size_t)t->shape[i], out))
      return pu_fail(e, PU_ERR_SHAPE, "tensor '%s': its size overflows", t->name);
  return PU_OK;
}

static void put_metadata(pu_buf *b, const char *const *pairs) {
  pu_buf_puts(b, "\"__metadata__\":{");
  for (size_t i = 0; pairs[i]; i += 2) {
    if (i) pu_buf_putc(b, ',');
    pu_buf_json_str(b, pu_str_c(pairs[i]));
    pu_buf_putc(b, ':');
    pu_buf_json_str(b, pu_str_c(pairs[i + 1]));
  }
  pu_buf_puts(b, "}");
}

/* The header's text, padded with spaces so that the tensors begin at a multiple of 8 bytes. */
static pu_err build_header(pu_buf *b, const pu_st_source *tensors, size_t n, const char *const *meta, pu_error *e) {
  size_t at = 0, bytes;
  bool comma = meta && meta[0];
  pu_buf_putc(b, '{');
  if (comma) put_metadata(b, meta);
  for (size_t i = 0; i < n; i++, comma = true) {
    const pu_st_source *t = &tensors[i];
    PU_TRY(source_bytes(t, &bytes, e));
    if (comma) pu_buf_putc(b, ',');
    pu_buf_json_str(b, pu_str_c(t->name));
    pu_buf_printf(b, ":{\"dtype\":\"%s\",\"shape\":[", pu_st_dtype_name(t->dtype));
    for (int d = 0; d < t->ndim; d++) pu_buf_printf(b, "%s%lld", d ? "," : "", (long long)t->shape[d]);
    if (pu_add_overflows(at, bytes, &bytes))
      return pu_fail(e, PU_ERR_SHAPE, "tensor '%s': the file overflows", t->name);
    pu_buf_printf(b, "],\"data_offsets\":[%zu,%zu]}", at, bytes);
    at = bytes;
  }
  pu_buf_putc(b, '}');
  while (b->len % 8) pu_buf_putc(b, ' ');
  if (b->failed) return pu_fail(e, PU_ERR_NOMEM, "the header of %zu tensors is too large", n);
  return PU_OK;
}

static pu_err write_all(int fd, const char *path, const void *data, size_t len, pu_error *e) {
  const char *p = data;
  while (len > 0) {
    ssize_t n = write(fd, p, PU_MIN(len, (size_t)1 << 30));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return pu_fail(e, PU_ERR_IO, "%s: cannot write: %s", path, strerror(errno));
    p += n;
    len -= (size_t)n;
  }
  return PU_OK;
}

static pu_err write_tensor(int fd, const char *path, const pu_st_source *t, void *piece, pu_error *e) {
  size_t bytes;
  PU_TRY(source_bytes(t, &bytes, e));
  if (t->data) return write_all(fd, path, t->data, bytes, e);
  for (size_t at = 0; at < bytes; at += PIECE) {
    size_t len = PU_MIN(bytes - at, (size_t)PIECE);
    PU_TRY(t->read(t->arg, at, piece, len, e));
    PU_TRY(write_all(fd, path, piece, len, e));
  }
  return PU_OK;
}

static pu_err write_body(int fd, const char *path, const pu_buf *header, const pu_st_source *tensors, size_t n,
                         pu_error *e) {
  uint8_t len[8];
  for (int i = 0; i < 8; i++) len[i] = (uint8_t)((uint64_t)header->len >> (8 * i));
  PU_TRY(write_all(fd, path, len, sizeof len, e));
  PU_TRY(write_all(fd, path, header->data, header->len, e));
  void *piece = malloc(PIECE);
  if (!piece) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory to write it", path);
  pu_err err = PU_OK;
  for (size_t i = 0; i < n && err == PU_OK; i++) err = write_tensor(fd, path, &tensors[i], piece, e);
  free(piece);
  if (err == PU_OK && fsync(fd) != 0) err = pu_fail(e, PU_ERR_IO, "%s: cannot sync: %s", path, strerror(errno));
  return err;
}

static pu_err sync_parent(const char *path, pu_error *e) {
  const char *slash = strrchr(path, '/');
  if (!slash) return pu_fsync_dir(".", e);
  char dir[PATH_MAX];
  int n = slash == path ? 1 : (int)(slash - path);
  snprintf(dir, sizeof dir, "%.*s", n, path);
  return pu_fsync_dir(dir, e);
}

static pu_err write_file(const char *path, const pu_buf *header, const pu_st_source *tensors, size_t n, pu_error *e) {
  char tmp[PATH_MAX];
  int len = snprintf(tmp, sizeof tmp, "%s.tmp", path);
  if (len < 0 || (size_t)len >= sizeof tmp) return pu_fail(e, PU_ERR_USAGE, "%.80s…: the name is too long", path);
  int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return pu_fail(e, PU_ERR_IO, "%s: cannot make the file: %s", path, strerror(errno));
  pu_err err = write_body(fd, path, header, tensors, n, e);
  if (close(fd) != 0 && err == PU_OK) err = pu_fail(e, PU_ERR_IO, "%s: cannot write: %s", path, strerror(errno));
  if (err == PU_OK && rename(tmp, path) != 0)
    err = pu_fail(e, PU_ERR_IO, "%s: cannot put the new file in its place: %s", path, strerror(errno));
  if (err != PU_OK) {
    unlink(tmp);
    return err;
  }
  return sync_parent(path, e);
}

pu_err pu_safetensors_write(const char *path, const pu_st_source *tensors, size_t n, const char *const *meta_pairs,
                            pu_error *e) {
  pu_buf header;
  pu_buf_init(&header, PU_ST_MAX_HEADER);
  pu_err err = build_header(&header, tensors, n, meta_pairs, e);
  if (err == PU_OK) err = write_file(path, &header, tensors, n, e);
  pu_buf_deinit(&header);
  return err;
}
