/* Writing GGUF, version 3: header, keys, the list of tensors, then their bytes piece by piece into FILE.tmp, which
 * takes the name of the file only when all of it is on the disk. */
#include "src/model/gguf.h"

#include <stdlib.h>
#include <string.h>

/* ---- keys ---- */

static void put(pu_buf *b, uint64_t v, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) pu_buf_putc(b, (char)(v >> (8 * i)));
}

static void put_string(pu_buf *b, pu_str s) {
  put(b, s.len, 8);
  if (s.len) pu_buf_append(b, s.ptr, s.len);
}

static void put_key(pu_gguf_keys *k, const char *key, pu_gguf_kind kind) {
  put_string(&k->bytes, pu_str_c(key));
  put(&k->bytes, kind, 4);
  k->n++;
}

static void put_array(pu_gguf_keys *k, const char *key, pu_gguf_kind kind, size_t n) {
  put_key(k, key, PU_GGUF_ARRAY);
  put(&k->bytes, kind, 4);
  put(&k->bytes, n, 8);
}

static void put_float(pu_buf *b, float v) {
  uint32_t bits;
  memcpy(&bits, &v, 4);
  put(b, bits, 4);
}

void pu_gguf_keys_init(pu_gguf_keys *k) {
  k->n = 0;
  pu_buf_init(&k->bytes, (size_t)1 << 30);
}

void pu_gguf_keys_deinit(pu_gguf_keys *k) {
  pu_buf_deinit(&k->bytes);
}

void pu_gguf_put_str(pu_gguf_keys *k, const char *key, pu_str value) {
  put_key(k, key, PU_GGUF_STR);
  put_string(&k->bytes, value);
}

void pu_gguf_put_u32(pu_gguf_keys *k, const char *key, uint32_t value) {
  put_key(k, key, PU_GGUF_U32);
  put(&k->bytes, value, 4);
}

void pu_gguf_put_f32(pu_gguf_keys *k, const char *key, float value) {
  put_key(k, key, PU_GGUF_F32);
  put_float(&k->bytes, value);
}

void pu_gguf_put_bool(pu_gguf_keys *k, const char *key, bool value) {
  put_key(k, key, PU_GGUF_BOOL);
  put(&k->bytes, value, 1);
}

void pu_gguf_put_strs(pu_gguf_keys *k, const char *key, const pu_str *v, size_t n) {
  put_array(k, key, PU_GGUF_STR, n);
  for (size_t i = 0; i < n; i++) put_string(&k->bytes, v[i]);
}

void pu_gguf_put_f32s(pu_gguf_keys *k, const char *key, const float *v, size_t n) {
  put_array(k, key, PU_GGUF_F32, n);
  for (size_t i = 0; i < n; i++) put_float(&k->bytes, v[i]);
}

void pu_gguf_put_u8s(pu_gguf_keys *k, const char *key, pu_str bytes) {
  put_array(k, key, PU_GGUF_U8, bytes.len);
  pu_buf_append(&k->bytes, bytes.ptr, bytes.len);
}

void pu_gguf_put_i32s(pu_gguf_keys *k, const char *key, const int32_t *v, size_t n) {
  put_array(k, key, PU_GGUF_I32, n);
  for (size_t i = 0; i < n; i++) put(&k->bytes, (uint32_t)v[i], 4);
}

/* ---- the file ---- */

static int64_t values_of(const pu_gguf_out *t) {
  int64_t n = 1;
  for (int i = 0; i < t->ndim; i++) n *= t->shape[i];
  return n;
}

static size_t bytes_of(const pu_gguf_type *type, int64_t values) {
  return (size_t)(values / type->block) * type->bytes;
}

static size_t padding(size_t bytes) {
  return -bytes & (PU_GGUF_ALIGNMENT - 1);
}

static void put_header(pu_buf *b, const pu_gguf_keys *keys, const pu_gguf_out *tensors, size_t n) {
  pu_buf_puts(b, "GGUF");
  put(b, PU_GGUF_VERSION, 4);
  put(b, n, 8);
  put(b, keys->n, 8);
  pu_buf_append(b, keys->bytes.data, keys->bytes.len);
  size_t at = 0;
  for (size_t i = 0; i < n; i++) {
    const pu_gguf_out *t = &tensors[i];
    size_t bytes = bytes_of(t->type, values_of(t));
    put_string(b, pu_str_c(t->name));
    put(b, (uint64_t)t->ndim, 4);
    for (int d = t->ndim - 1; d >= 0; d--) put(b, (uint64_t)t->shape[d], 8);
    put(b, t->type->id, 4);
    put(b, at, 8);
    at += bytes + padding(bytes);
  }
  for (size_t k = padding(b->len); k > 0; k--) pu_buf_putc(b, 0);
}

/* room: PU_GGUF_PIECE floats, and as many bytes of blocks behind them. */
static pu_err write_tensor(pu_writer *w, const pu_gguf_out *t, float *room, pu_error *e) {
  static const char zeros[PU_GGUF_ALIGNMENT];
  void *blocks = room + PU_GGUF_PIECE;
  int64_t all = values_of(t);
  for (int64_t at = 0; at < all; at += PU_GGUF_PIECE) {
    int64_t n = PU_MIN(all - at, (int64_t)PU_GGUF_PIECE);
    PU_TRY(t->read(t->arg, at, n, room, e));
    pu_gguf_from_f32(t->type, room, n, blocks);
    PU_TRY(pu_writer_put(w, blocks, bytes_of(t->type, n), e));
  }
  return pu_writer_put(w, zeros, padding(bytes_of(t->type, all)), e);
}

static pu_err write_all(pu_writer *w, const pu_buf *header, const pu_gguf_out *tensors, size_t n, pu_error *e) {
  PU_TRY(pu_writer_put(w, header->data, header->len, e));
  float *room = malloc(2 * (size_t)PU_GGUF_PIECE * sizeof *room);
  if (!room) return pu_fail(e, PU_ERR_NOMEM, "no memory to write %zu tensors", n);
  pu_err err = PU_OK;
  for (size_t i = 0; i < n && err == PU_OK; i++) err = write_tensor(w, &tensors[i], room, e);
  free(room);
  return err;
}

pu_err pu_gguf_write(const char *path, const pu_gguf_keys *keys, const pu_gguf_out *tensors, size_t n, pu_error *e) {
  pu_buf header;
  pu_buf_init(&header, (size_t)2 << 30);
  put_header(&header, keys, tensors, n);
  pu_writer *w = NULL;
  pu_err err = keys->bytes.failed || header.failed ? pu_fail(e, PU_ERR_NOMEM, "%s: its header is too large", path)
                                                   : pu_writer_begin(path, &w, e);
  if (w) err = pu_writer_end(w, write_all(w, &header, tensors, n, e), e);
  pu_buf_deinit(&header);
  return err;
}
