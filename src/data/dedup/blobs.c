/* The third pass: of the documents that the parts name, what they are compared by: shingle sets, or the text with the
 * stretches in which passages may occur again. */
#include <stdlib.h>

#include "src/data/dedup/passes.h"

/* ---- what parts found ---------------------------------------------------------------------------------------------
 */

/* The first pair of a sorted array that is not before `least`. */
static size_t lower(const pu_pair *v, size_t n, uint64_t least) {
  size_t low = 0, high = n;
  while (low < high) {
    size_t mid = low + (high - low) / 2;
    if (v[mid].a < least)
      low = mid + 1;
    else
      high = mid;
  }
  return low;
}

pu_err found_begin(const pu_dedup *d, uint64_t least, found_iter *it, pu_error *e) {
  const pu_pair *arrays[256];
  size_t lengths[256];
  *it = (found_iter){0};
  for (size_t i = 0; i < d->parts; i++) {
    const pu_pair *v = (const pu_pair *)(const void *)d->found.maps[i].data;
    size_t n = d->found.counts[i], from = lower(v, n, least);
    arrays[i] = v + from;
    lengths[i] = n - from;
  }
  return pu_merge_open(arrays, lengths, d->parts, &it->merge, e);
}

bool found_next(found_iter *it, pu_pair *out) {
  while (pu_merge_next(it->merge, out)) {
    if (it->any && out->a == it->last.a && out->b == it->last.b) continue;
    it->any = true;
    it->last = *out;
    return true;
  }
  return false;
}

void found_end(found_iter *it) {
  pu_merge_close(it->merge);
}

static void name(pu_dedup *d, uint64_t place) {
  d->named[place >> 3] = (uint8_t)(d->named[place >> 3] | 1u << (place & 7));
}

static bool named(const pu_dedup *d, uint64_t place) {
  return d->named[place >> 3] >> (place & 7) & 1;
}

static pu_err name_all(pu_dedup *d, pu_error *e) {
  d->named = calloc(d->base[d->in.units] / 8 + 1, 1);
  if (!d->named) return pu_fail(e, PU_ERR_NOMEM, "dedup: no memory");
  found_iter it;
  PU_TRY(found_begin(d, 0, &it, e));
  for (pu_pair x; found_next(&it, &x);) {
    name(d, x.a >> d->shift);
    if (d->o.mode == PU_DEDUP_MINHASH) name(d, x.b);
    d->stats.pairs++;
  }
  found_end(&it);
  return PU_OK;
}

/* ---- units ------------------------------------------------------------------------------------------------------- */

typedef struct unit_blobs {
  const pu_dedup *d;
  pu_blob_writer out;
  uint64_t local, base;
  found_iter it;
  pu_pair next; /* the place that comes next */
  bool more;
  pu_buf blob;
} unit_blobs;

/* The stretches that hold every passage in which a named gram was chosen, then the text: [n], n times (from, to),
 * text. */
static pu_err text_blob(unit_blobs *b, pu_str text, pu_error *e) {
  uint64_t place = b->base + b->local, n = 0;
  uint64_t passage = b->d->passage, before = passage - winnow_gram(passage), from = 0, to = 0;
  pu_buf_append(&b->blob, &n, sizeof n);
  for (; b->more && b->next.a >> AT_BITS <= place; b->more = found_next(&b->it, &b->next)) {
    if (b->next.a >> AT_BITS < place) continue;
    uint64_t at = b->next.a & AT_MASK, least = at > before ? at - before : 0;
    if (least > to || n == 0) {
      if (n > 0) pu_buf_append(&b->blob, (uint64_t[]){from, to}, 2 * sizeof from);
      n++;
      from = least;
    }
    to = PU_MIN(at + passage, (uint64_t)text.len);
  }
  if (n > 0) pu_buf_append(&b->blob, (uint64_t[]){from, to}, 2 * sizeof from);
  if (!pu_buf_append(&b->blob, text.ptr, text.len)) return pu_fail(e, PU_ERR_NOMEM, "dedup: no memory for a text");
  *(uint64_t *)(void *)b->blob.data = n;
  return PU_OK;
}

static pu_err blob_take(void *arg, const pu_dedup_doc *doc, pu_error *e) {
  unit_blobs *b = arg;
  uint64_t local = b->local;
  if (named(b->d, b->base + local)) {
    pu_buf_clear(&b->blob);
    if (b->d->o.mode == PU_DEDUP_MINHASH)
      PU_TRY(pu_shingle_set(doc->text, &b->blob, e));
    else
      PU_TRY(text_blob(b, doc->text, e));
    PU_TRY(pu_blobs_add(&b->out, local, b->blob.data, b->blob.len, e));
  }
  b->local++;
  return PU_OK;
}

static pu_err blobs_unit(void *arg, size_t unit, pu_error *e) {
  pu_dedup *d = arg;
  unit_blobs b = {.d = d, .base = d->base[unit]};
  bool any = false;
  for (uint64_t p = d->base[unit]; p < d->base[unit + 1] && !any; p++) any = named(d, p);
  pu_buf_init(&b.blob, PU_BUF_MAX);
  PU_TRY(pu_blobs_begin(&d->w, unit, &b.out, e));
  pu_err err = any ? found_begin(d, b.base << d->shift, &b.it, e) : PU_OK;
  if (err == PU_OK && any) {
    b.more = found_next(&b.it, &b.next);
    err = d->in.each(d->in.arg, unit, blob_take, &b, e);
  }
  found_end(&b.it);
  pu_buf_deinit(&b.blob);
  return pu_blobs_end(&b.out, err, e);
}

pu_err dedup_blobs(pu_dedup *d, pu_error *e) {
  PU_TRY(name_all(d, e));
  PU_TRY(pu_work_each(&d->w, d->in.units, "blobs", "reading again", blobs_unit, d, e));
  return files_wait(d, &d->blobs, d->in.units, "blobs", e);
}
