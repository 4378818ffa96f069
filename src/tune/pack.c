#include "src/tune/pack.h"

#include <stdlib.h>
#include <string.h>

enum { OPEN = 64 }; /* rows that may still be added to */

void pu_tune_plan_deinit(pu_tune_plan *p) {
  free(p->samples);
  free(p->begin);
  *p = (pu_tune_plan){0};
}

void pu_tune_shuffle(uint32_t *order, size_t n, uint32_t first, uint64_t seed, uint64_t stream) {
  pu_rng r;
  pu_rng_seed(&r, pu_random_at(seed, stream, n));
  for (size_t i = 0; i < n; i++) order[i] = first + (uint32_t)i;
  for (size_t i = n; i > 1; i--) {
    size_t k = (size_t)pu_rng_below(&r, i);
    uint32_t other = order[k];
    order[k] = order[i - 1];
    order[i - 1] = other;
  }
}

typedef struct open_row {
  uint32_t row;
  int64_t left;
} open_row;

typedef struct packer {
  open_row open[OPEN];
  size_t n_open;
  int64_t room;
  uint32_t rows;
} packer;

/* Which row the sample goes into. */
static uint32_t place(packer *k, int64_t len) {
  size_t best = k->n_open;
  for (size_t i = 0; i < k->n_open; i++)
    if (k->open[i].left >= len && (best == k->n_open || k->open[i].left < k->open[best].left)) best = i;
  if (best == k->n_open) {
    if (k->n_open == OPEN) memmove(k->open, k->open + 1, --k->n_open * sizeof *k->open);
    best = k->n_open++;
    k->open[best] = (open_row){k->rows++, k->room};
  }
  open_row *o = &k->open[best];
  uint32_t row = o->row;
  o->left -= len;
  if (o->left == 0) memmove(o, o + 1, (--k->n_open - best) * sizeof *o);
  return row;
}

static bool make_room(pu_tune_plan *p, size_t rows, size_t samples) {
  uint64_t *begin = realloc(p->begin, (p->rows + rows + 1) * sizeof *begin);
  if (begin) p->begin = begin;
  uint32_t *all = realloc(p->samples, samples * sizeof *all);
  if (all) p->samples = all;
  return begin && all;
}

pu_err pu_tune_plan_add(pu_tune_plan *p, const uint32_t *order, size_t n, const uint32_t *len, int64_t room, bool one,
                        pu_error *e) {
  packer k = {.room = room};
  uint32_t *row_of = malloc((n + 1) * sizeof *row_of);
  size_t before = p->rows ? p->begin[p->rows] : 0;
  for (size_t i = 0; row_of && i < n; i++) row_of[i] = one ? k.rows++ : place(&k, len[order[i]]);
  if (!row_of || !make_room(p, k.rows, before + n + 1)) {
    free(row_of);
    return pu_fail(e, PU_ERR_NOMEM, "no memory for rows of %zu samples", n);
  }
  uint64_t *begin = p->begin + p->rows; /* counts, then beginnings, by counting sort */
  memset(begin + 1, 0, k.rows * sizeof *begin);
  begin[0] = before;
  for (size_t i = 0; i < n; i++) begin[row_of[i] + 1]++;
  for (size_t r = 0; r < k.rows; r++) begin[r + 1] += begin[r];
  for (size_t i = 0; i < n; i++) p->samples[begin[row_of[i]]++] = order[i];
  for (size_t r = k.rows; r > 0; r--) begin[r] = begin[r - 1];
  begin[0] = before;
  p->rows += k.rows;
  free(row_of);
  return PU_OK;
}
