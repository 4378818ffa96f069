/* What a step's device tells of it: the sum of its gradients' squares and its losses, which come in one copy, ordered
 * before the update and waited for behind it, so that the device always has something to do. */
#ifndef PUYU_TRAIN_NEWS_H
#define PUYU_TRAIN_NEWS_H

#include "puyu/compute.h"

typedef struct pu_train_news {
  pu_backend *be;
  double *squares;     /* in the backend's memory, [1] */
  float *losses;       /* likewise, [tokens] */
  char *memory, *host; /* of the backend, of this machine: both hold squares, then losses */
  size_t bytes;        /* each */
  bool pinned;
  uint64_t sent; /* the mark behind the copy; 0: none is needed */
} pu_train_news;

/* Room for so many losses. Close also after an error. */
pu_err pu_train_news_open(pu_backend *be, int64_t tokens, pu_train_news *out, pu_error *e) PU_MUST_USE;
void pu_train_news_close(pu_train_news *n);
/* What each of the two memories takes for so many losses. */
size_t pu_train_news_bytes(int64_t tokens);
/* Asks for squares and the first `tokens` losses, as what was asked for before leaves them. */
pu_err pu_train_news_send(pu_train_news *n, int64_t tokens, pu_error *e) PU_MUST_USE;
/* Waits until what was sent last is here, and not for what was asked of the device since. Both stay until the next
 * send. */
pu_err pu_train_news_wait(pu_train_news *n, pu_error *e) PU_MUST_USE;
double pu_train_news_squares(const pu_train_news *n);
const float *pu_train_news_losses(const pu_train_news *n);

#endif
