/* Passages that occur again: which ones exactly, and documents without them. */
#include <stdlib.h>
#include <string.h>

#include "src/data/dedup/passes.h"

/* ---- every passage of the candidate stretches -----------------------------------------------------------------------
 */

typedef struct stretches {
  uint64_t n;
  const uint64_t *v; /* [n][2] */
  const uint8_t *text;
} stretches;

static stretches stretches_of(pu_str bytes) {
  const uint64_t *p = (const uint64_t *)(const void *)bytes.ptr;
  return (stretches){p[0], p + 1, (const uint8_t *)(p + 1 + 2 * p[0])};
}

/* The passages of one document whose hash is in the part. */
static pu_err hash_passages(stretches s, uint64_t passage, uint64_t place, size_t part, pu_sorter *out, pu_error *e) {
  for (uint64_t i = 0; i < s.n; i++) {
    byte_roll roll = byte_roll_of(passage);
    uint64_t from = s.v[2 * i], to = s.v[2 * i + 1];
    for (uint64_t k = from; k < to; k++) {
      if (k < from + passage)
        byte_roll_in(&roll, s.text[k]);
      else
        byte_roll_on(&roll, s.text[k - passage], s.text[k]);
      uint64_t hash = pu_mix64(roll.sum);
      if (k + 1 < from + passage || hash >> 60 != part) continue;
      PU_TRY(pu_sorter_add(out, hash, place << AT_BITS | (k + 1 - passage), e));
    }
  }
  return PU_OK;
}

static const uint8_t *text_at(const pu_dedup *d, uint64_t where) {
  return stretches_of(place_blob(d, where >> AT_BITS)).text + (where & AT_MASK);
}

/* Of the passages of a hash all behind the first one. What only has the same hash is left where it is. */
static pu_err later_ones(const pu_dedup *d, pu_sorter *in, pu_sorter *out, pu_error *e) {
  uint64_t hash = 0;
  const uint8_t *first = NULL;
  for (pu_pair x;;) {
    bool more;
    PU_TRY(pu_sorter_next(in, &x, &more, e));
    if (!more) return PU_OK;
    const uint8_t *text = text_at(d, x.b);
    if (!first || x.a != hash) {
      hash = x.a;
      first = text;
    } else if (memcmp(first, text, d->passage) == 0) {
      PU_TRY(pu_sorter_add(out, x.b, 0, e));
    }
  }
}

static pu_err cuts_find(const pu_dedup *d, size_t part, pu_sorter *in, pu_sorter *out, pu_error *e) {
  for (size_t u = 0; u < d->in.units; u++) {
    const pu_map *m = &d->blobs.maps[u];
    uint64_t n = d->blobs.counts[u];
    for (uint64_t i = 0; i < n; i++)
      PU_TRY(hash_passages(stretches_of(pu_blobs_at(m, n, i)), d->passage, d->base[u] + pu_blobs_index(m, n)[i].place,
                           part, in, e));
  }
  return later_ones(d, in, out, e);
}

static pu_err cuts_write(pu_sorter *s, pu_work_file *f, uint64_t *count, pu_error *e) {
  for (pu_pair x;;) {
    bool more;
    PU_TRY(pu_sorter_next(s, &x, &more, e));
    if (!more) return PU_OK;
    ++*count;
    PU_TRY(pu_work_put(f, &x, sizeof x, e));
  }
}

static pu_err cuts_make(void *arg, size_t part, pu_error *e) {
  return part_sorted(arg, part, "cuts", cuts_find, cuts_write, e);
}

pu_err dedup_passages(pu_dedup *d, pu_error *e) {
  PU_TRY(dedup_blobs(d, e));
  PU_TRY(pu_work_each(&d->w, CUT_PARTS, "cuts", "comparing passages", cuts_make, d, e));
  return files_wait(d, &d->cuts, CUT_PARTS, "cuts", e);
}

/* ---- cutting --------------------------------------------------------------------------------------------------------
 */

/* Where in a document something goes, sorted: [n] bytes from its beginning. */
static pu_err places_of(const pu_dedup *d, uint64_t place, pu_buf *out, pu_error *e) {
  const file_set *f = d->o.mode == PU_DEDUP_SUBSTRING ? &d->cuts : &d->found;
  for (size_t i = 0; i < f->n; i++) {
    const pu_pair *v = (const pu_pair *)(const void *)f->maps[i].data;
    uint64_t low = 0, high = f->counts[i];
    while (low < high) {
      uint64_t mid = low + (high - low) / 2;
      if (v[mid].a < place << AT_BITS)
        low = mid + 1;
      else
        high = mid;
    }
    for (; low < f->counts[i] && v[low].a >> AT_BITS == place; low++) {
      pu_pair x = {v[low].a & AT_MASK, 0};
      if (!pu_buf_append(out, &x, sizeof x)) return pu_fail(e, PU_ERR_NOMEM, "dedup: no memory for cuts");
    }
  }
  if (out->len > 0) pu_pairs_sort((pu_pair *)(void *)out->data, out->len / sizeof(pu_pair));
  return PU_OK;
}

typedef struct cutter {
  const pu_pair *at;
  size_t n, next;
  pu_str text;
  size_t kept; /* all before it is written or gone */
  pu_buf *out;
  uint64_t cut;
} cutter;

static void cut(cutter *c, size_t from, size_t to) {
  pu_buf_append(c->out, c->text.ptr + c->kept, from - c->kept);
  c->cut += to - from;
  c->kept = to;
}

static pu_err cut_item(void *arg, pu_str item, pu_str whole, pu_error *e) {
  cutter *c = arg;
  (void)e;
  size_t at = (size_t)(item.ptr - c->text.ptr), from = (size_t)(whole.ptr - c->text.ptr);
  while (c->next < c->n && c->at[c->next].a < at) c->next++;
  if (c->next < c->n && c->at[c->next].a == at) cut(c, from, from + whole.len);
  return PU_OK;
}

static bool is_letter(char ch) {
  return (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9');
}

static bool is_inside(pu_str t, size_t at) { /* of a character, or of a word? */
  if (at == 0 || at >= t.len) return false;
  return (t.ptr[at] & 0xc0) == 0x80 || (is_letter(t.ptr[at - 1]) && is_letter(t.ptr[at]));
}

/* Characters and words that only partly occur again stay whole (words up to a length). */
enum { WORD = 32 };
static void cut_passage(cutter *c, size_t from, size_t to) {
  for (int i = 0; i < WORD && from < to && is_inside(c->text, from); i++) from++;
  for (int i = 0; i < WORD && from < to && is_inside(c->text, to); i++) to--;
  while (from < to && (c->text.ptr[from] & 0xc0) == 0x80) from++;
  while (from < to && to < c->text.len && (c->text.ptr[to] & 0xc0) == 0x80) to--;
  if (from < to) cut(c, from, to);
}

static void cut_passages(cutter *c, size_t passage) {
  for (size_t i = 0; i < c->n;) {
    size_t from = c->at[i].a, to = from + passage;
    for (i++; i < c->n && c->at[i].a <= to; i++) to = c->at[i].a + passage;
    cut_passage(c, from, to);
  }
}

pu_err pu_dedup_rewrite(const pu_dedup *d, uint64_t place, pu_str text, pu_buf *out, uint64_t *gone, pu_error *e) {
  pu_buf places;
  pu_buf_init(&places, PU_BUF_MAX);
  pu_err err = places_of(d, place, &places, e);
  cutter c = {
      .at = (const pu_pair *)(const void *)places.data, .n = places.len / sizeof(pu_pair), .text = text, .out = out};
  if (err == PU_OK && c.n > 0) {
    if (d->o.mode == PU_DEDUP_SUBSTRING)
      cut_passages(&c, d->passage);
    else
      err = items_each(text, d->o.mode == PU_DEDUP_LINE, d->passage, cut_item, &c, e);
  }
  if (err == PU_OK) {
    pu_buf_append(out, text.ptr + c.kept, text.len - c.kept);
    *gone = c.cut;
    if (out->failed) err = pu_fail(e, PU_ERR_NOMEM, "dedup: no memory for a text");
  }
  pu_buf_deinit(&places);
  return err;
}
