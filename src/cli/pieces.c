#include "src/cli/pieces.h"

#include <stdlib.h>

enum { SHORTEST = 16 };

typedef struct reader {
  pu_corpus *corpus;
  const pu_tokenizer *t;
  size_t length, most;
  pu_pieces *out;
} reader;

/* A piece lies in the ids, which move while they grow: until all are there only lengths are set, of pieces and of what
 * lies between them. */
static pu_err add(pu_pieces *p, size_t n, pu_error *e) {
  if (p->n == p->cap) {
    size_t cap = p->cap ? 2 * p->cap : 256;
    pu_ids_view *v = realloc(p->v, cap * sizeof *v);
    if (!v) return pu_fail(e, PU_ERR_NOMEM, "no memory for %zu pieces of text", cap);
    p->v = v;
    p->cap = cap;
  }
  p->v[p->n++] = (pu_ids_view){NULL, n};
  return PU_OK;
}

static pu_err cut(const reader *r, size_t from, pu_error *e) {
  size_t end = r->out->ids.n;
  for (size_t at = from; at < end; at += r->length) PU_TRY(add(r->out, PU_MIN(r->length, end - at), e));
  return PU_OK;
}

/* Where the pieces are; the very short ones go. */
static void settle(pu_pieces *p, size_t length) {
  size_t n = 0;
  const int32_t *at = p->ids.v;
  for (size_t i = 0; i < p->n; i++) {
    pu_ids_view piece = {at, p->v[i].n};
    at += piece.n;
    if (piece.n >= PU_MIN(length, (size_t)SHORTEST)) p->v[n++] = piece;
  }
  p->n = n;
}

static pu_err read_all(const reader *r, pu_error *e) {
  unsigned flags = pu_tokenizer_adds_bos(r->t) ? PU_ENCODE_BOS : 0;
  pu_pieces *p = r->out;
  bool found = true;
  while (p->ids.n < r->most) {
    pu_document d;
    size_t from = p->ids.n;
    if (pu_signals_stop()) return pu_fail(e, PU_ERR_STOPPED, "stopped by a signal");
    PU_TRY(pu_corpus_next(r->corpus, &d, &found, e));
    if (!found) break;
    PU_TRY(pu_encode(r->t, d.text, flags, &p->ids, e));
    p->ids.n = PU_MIN(p->ids.n, r->most);
    PU_TRY(cut(r, from, e));
  }
  settle(p, r->length);
  return PU_OK;
}

pu_err pu_pieces_read(const char *path, const char *key, const pu_tokenizer *t, int64_t length, int64_t most,
                      pu_pieces *out, pu_error *e) {
  pu_corpus *c;
  *out = (pu_pieces){0};
  PU_TRY(pu_corpus_open(&path, 1, PU_SPLIT_FILE, key, &c, e));
  reader r = {c, t, (size_t)length, (size_t)most, out};
  pu_err err = read_all(&r, e);
  pu_corpus_close(c);
  return err;
}

void pu_pieces_deinit(pu_pieces *p) {
  pu_ids_deinit(&p->ids);
  free(p->v);
  *p = (pu_pieces){0};
}
