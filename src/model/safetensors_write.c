/* Writing safetensors: the header first, then the tensors piece by piece into FILE.tmp, which takes the name of the
 * file only when all of it is on the disk. */
#include "src/model/safetensors.h"

#include <stdlib.h>
#include <string.h>

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

static pu_err write_tensor(pu_writer *w, const pu_st_source *t, void *piece, pu_error *e) {
  size_t bytes;
  PU_TRY(source_bytes(t, &bytes, e));
  if (t->data) return pu_writer_put(w, t->data, bytes, e);
  for (size_t at = 0; at < bytes; at += PIECE) {
    size_t len = PU_MIN(bytes - at, (size_t)PIECE);
    PU_TRY(t->read(t->arg, at, piece, len, e));
    PU_TRY(pu_writer_put(w, piece, len, e));
  }
  return PU_OK;
}

static pu_err write_body(pu_writer *w, const pu_buf *header, const pu_st_source *tensors, size_t n, pu_error *e) {
  uint8_t len[8];
  for (int i = 0; i < 8; i++) len[i] = (uint8_t)((uint64_t)header->len >> (8 * i));
  PU_TRY(pu_writer_put(w, len, sizeof len, e));
  PU_TRY(pu_writer_put(w, header->data, header->len, e));
  void *piece = malloc(PIECE);
  if (!piece) return pu_fail(e, PU_ERR_NOMEM, "no memory to write %zu tensors", n);
  pu_err err = PU_OK;
  for (size_t i = 0; i < n && err == PU_OK; i++) err = write_tensor(w, &tensors[i], piece, e);
  free(piece);
  return err;
}

pu_err pu_safetensors_write(const char *path, const pu_st_source *tensors, size_t n, const char *const *meta_pairs,
                            pu_error *e) {
  pu_buf header;
  pu_buf_init(&header, PU_ST_MAX_HEADER);
  pu_err err = build_header(&header, tensors, n, meta_pairs, e);
  pu_writer *w = NULL;
  if (err == PU_OK) err = pu_writer_begin(path, &w, e);
  if (w) err = pu_writer_end(w, write_body(w, &header, tensors, n, e), e);
  pu_buf_deinit(&header);
  return err;
}
