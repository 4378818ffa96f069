#include "src/data/places.h"

static pu_err hold_all(pu_places *p, pu_error *e) {
  pu_str s;
  bool cut;
  p->in_memory = true;
  PU_TRY(pu_input_rest(p->in, PU_DOC_MAX, &s, &cut, e));
  if (cut) {
    pu_input_skip(p->in, 0, "more than 64 MiB within an archive, or compressed, of what is read from several places");
    s.len = 0;
  }
  p->size = s.len;
  return pu_buf_append(&p->all, s.ptr, s.len) ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "reading: no memory");
}

pu_err pu_places_open(pu_places *p, pu_input *in, pu_error *e) {
  *p = (pu_places){.in = in};
  pu_buf_init(&p->all, PU_DOC_MAX);
  return pu_input_seekable(in, &p->size) ? PU_OK : hold_all(p, e);
}

void pu_places_close(pu_places *p) {
  pu_buf_deinit(&p->all);
}

pu_err pu_places_bytes(pu_places *p, uint64_t at, size_t len, pu_str *out, pu_error *e) {
  at = PU_MIN(at, p->size);
  len = (size_t)PU_MIN((uint64_t)len, p->size - at);
  if (p->in_memory) {
    *out = len > 0 ? pu_str_of(p->all.data + at, len) : pu_str_c("");
    return PU_OK;
  }
  pu_input_seek(p->in, at);
  PU_TRY(pu_input_peek(p->in, len, out, e));
  out->len = PU_MIN(out->len, len);
  return PU_OK;
}
