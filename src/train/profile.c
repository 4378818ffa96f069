#include "src/train/profile.h"

#include <string.h>

static pu_backend *inner_of(pu_backend *be) {
  return ((pu_train_profile *)be)->inner;
}

static pu_err timed(pu_backend *be, pu_op op, int way, void *args, pu_error *e) {
  pu_train_profile *p = (pu_train_profile *)be;
  double begin = pu_now();
  pu_err err = (way ? p->inner->backward : p->inner->forward)[op](p->inner, args, e);
  if (!err) err = p->inner->sync(p->inner, e);
  p->seconds[op][way] += pu_now() - begin;
  return err;
}

/* An operation is not told its number: so each has its own pair. */
#define PU_OP(name, has_backward)                                                                                      \
  static pu_err forward_##name(pu_backend *be, void *args, pu_error *e) {                                              \
    return timed(be, PU_OP_##name, 0, args, e);                                                                        \
  }                                                                                                                    \
  static pu_err backward_##name(pu_backend *be, void *args, pu_error *e) {                                             \
    return timed(be, PU_OP_##name, 1, args, e);                                                                        \
  }
#include "puyu/ops.def"
#undef PU_OP

static pu_err inner_alloc(pu_backend *be, size_t bytes, void **out, pu_error *e) {
  return inner_of(be)->alloc(inner_of(be), bytes, out, e);
}
static void inner_free(pu_backend *be, void *memory) {
  inner_of(be)->free(inner_of(be), memory);
}
static pu_err inner_upload(pu_backend *be, void *device, const void *host, size_t bytes, pu_error *e) {
  return inner_of(be)->upload(inner_of(be), device, host, bytes, e);
}
static pu_err inner_download(pu_backend *be, void *host, const void *device, size_t bytes, pu_error *e) {
  return inner_of(be)->download(inner_of(be), host, device, bytes, e);
}
static pu_err inner_clear(pu_backend *be, void *device, size_t bytes, pu_error *e) {
  return inner_of(be)->clear(inner_of(be), device, bytes, e);
}
static pu_err inner_copy(pu_backend *be, void *to, const void *from, size_t bytes, pu_error *e) {
  return inner_of(be)->copy(inner_of(be), to, from, bytes, e);
}
static pu_err inner_copy_rows(pu_backend *be, void *to, size_t to_stride, const void *from, size_t from_stride,
                              size_t bytes, int64_t rows, pu_error *e) {
  return inner_of(be)->copy_rows(inner_of(be), to, to_stride, from, from_stride, bytes, rows, e);
}
static pu_err inner_sync(pu_backend *be, pu_error *e) {
  return inner_of(be)->sync(inner_of(be), e);
}

static pu_err inner_mark(pu_backend *be, uint64_t *at, pu_error *e) {
  return inner_of(be)->mark(inner_of(be), at, e);
}
static pu_err inner_reach(pu_backend *be, uint64_t at, pu_error *e) {
  return inner_of(be)->reach(inner_of(be), at, e);
}

void pu_train_profile_init(pu_train_profile *p, pu_backend *inner) {
  *p = (pu_train_profile){.inner = inner};
  p->base = (pu_backend){.name = inner->name,
                         .alloc = inner_alloc,
                         .free = inner_free,
                         .upload = inner_upload,
                         .download = inner_download,
                         .clear = inner_clear,
                         .copy = inner_copy,
                         .copy_rows = inner_copy_rows,
                         .sync = inner_sync,
                         .mark = inner->mark ? inner_mark : NULL,
                         .reach = inner->reach ? inner_reach : NULL,
                         .loss_bytes = inner->loss_bytes,
                         .pool = inner->pool};
#define PU_OP(name, has_backward)                                                                                      \
  p->base.forward[PU_OP_##name] = inner->forward[PU_OP_##name] ? forward_##name : NULL;                                \
  p->base.backward[PU_OP_##name] = inner->backward[PU_OP_##name] ? backward_##name : NULL;
#include "puyu/ops.def"
#undef PU_OP
}

void pu_train_profile_clear(pu_train_profile *p) {
  memset(p->seconds, 0, sizeof p->seconds);
}
