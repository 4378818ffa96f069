#include "src/train/news.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LOSSES_AT = 64 }; /* bytes from the beginning */

/* Whole pages, as pinning has them. */
size_t pu_train_news_bytes(int64_t tokens) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  return (LOSSES_AT + (size_t)tokens * sizeof(float) + page - 1) / page * page;
}

pu_err pu_train_news_open(pu_backend *be, int64_t tokens, pu_train_news *out, pu_error *e) {
  void *memory;
  pu_error why;
  *out = (pu_train_news){.be = be, .bytes = pu_train_news_bytes(tokens)};
  PU_TRY(be->alloc(be, out->bytes, &memory, e));
  out->memory = memory;
  out->squares = memory;
  out->losses = (float *)(void *)(out->memory + LOSSES_AT);
  out->host = aligned_alloc((size_t)sysconf(_SC_PAGESIZE), out->bytes);
  if (!out->host) return pu_fail(e, PU_ERR_NOMEM, "no memory for the losses of %lld tokens", (long long)tokens);
  memset(out->host, 0, out->bytes);
  /* What may not be pinned comes all the same, only slower. */
  out->pinned = be->pin && be->pin(be, out->host, out->bytes, &why) == PU_OK;
  return PU_OK;
}

void pu_train_news_close(pu_train_news *n) {
  pu_error e;
  if (!n->be) return;
  /* A copy may be on its way; what went wrong was told before, or is of no account any more. */
  if (n->host && n->be->sync(n->be, &e) != PU_OK) pu_log(PU_LOG_DEBUG, "%s", e.msg);
  if (n->pinned) n->be->unpin(n->be, n->host);
  free(n->host);
  if (n->memory) n->be->free(n->be, n->memory);
  *n = (pu_train_news){0};
}

pu_err pu_train_news_send(pu_train_news *n, int64_t tokens, pu_error *e) {
  size_t bytes = LOSSES_AT + (size_t)tokens * sizeof(float);
  n->sent = 0;
  PU_TRY(n->be->copy_rows(n->be, n->host, bytes, n->memory, bytes, bytes, 1, e));
  return n->be->mark ? n->be->mark(n->be, &n->sent, e) : PU_OK;
}

pu_err pu_train_news_wait(pu_train_news *n, pu_error *e) {
  return n->sent ? n->be->reach(n->be, n->sent, e) : PU_OK;
}

double pu_train_news_squares(const pu_train_news *n) {
  double squares;
  memcpy(&squares, n->host, sizeof squares);
  return squares;
}

const float *pu_train_news_losses(const pu_train_news *n) {
  return (const float *)(const void *)(n->host + LOSSES_AT);
}
