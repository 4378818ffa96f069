/* The first pass: what of each document may occur again. */
#include <stdlib.h>
#include <string.h>

#include "src/data/dedup/passes.h"

enum { CHECK_SEED = 1 };

/* ---- lines and paragraphs ---------------------------------------------------------------------------------------- */

static bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* The end of the line that begins at i, behind its \n. */
static size_t line_end(pu_str text, size_t i) {
  const char *end = memchr(text.ptr + i, '\n', text.len - i);
  return end ? (size_t)(end - text.ptr) + 1 : text.len;
}

static bool line_blank(pu_str text, size_t from, size_t to) {
  while (from < to && is_space(text.ptr[from])) from++;
  return from == to;
}

pu_err items_each(pu_str text, bool lines, size_t least, item_fn take, void *arg, pu_error *e) {
  size_t i = 0;
  while (i < text.len) {
    size_t from = i, to = i;
    while (i < text.len) { /* the lines of the item */
      size_t next = line_end(text, i);
      if (line_blank(text, i, next)) break;
      to = i = next;
      if (lines) break;
    }
    while (i < text.len) { /* blank ones behind it */
      size_t next = line_end(text, i);
      if (!line_blank(text, i, next)) break;
      i = next;
    }
    pu_str whole = pu_str_of(text.ptr + from, i - from);
    while (from < to && is_space(text.ptr[from])) from++;
    while (to > from && is_space(text.ptr[to - 1])) to--;
    if (to > from && to - from >= least) PU_TRY(take(arg, pu_str_of(text.ptr + from, to - from), whole, e));
  }
  return PU_OK;
}

/* ---- passages ---------------------------------------------------------------------------------------------------- */

size_t winnow_gram(size_t passage) {
  return PU_MAX((size_t)20, passage / 3);
}

/* Of every `window` grams in a row the one with the least hash. A place stays chosen while it is in the window and no
 * lesser hash comes: equal texts then still have an equal hash chosen in them, and a text of one letter is not chosen
 * at every place. */
pu_err winnow(pu_str text, size_t passage, winnow_fn take, void *arg, pu_error *e) {
  if (text.len < passage) return PU_OK;
  const uint8_t *p = (const uint8_t *)text.ptr;
  size_t gram = winnow_gram(passage), window = passage - gram + 1, chosen = SIZE_MAX;
  uint64_t *ring = malloc(window * sizeof *ring), least = 0;
  if (!ring) return pu_fail(e, PU_ERR_NOMEM, "dedup: no memory for a window of %zu", window);
  byte_roll roll = byte_roll_of(gram);
  for (size_t i = 0; i + 1 < gram; i++) byte_roll_in(&roll, p[i]);
  pu_err err = PU_OK;
  for (size_t at = 0; err == PU_OK && at + gram <= text.len; at++) {
    if (at == 0)
      byte_roll_in(&roll, p[gram - 1]);
    else
      byte_roll_on(&roll, p[at - 1], p[at + gram - 1]);
    uint64_t hash = pu_mix64(roll.sum);
    ring[at % window] = hash;
    if (at + 1 < window) continue;
    size_t first = at + 1 - window, was = chosen;
    if (chosen == SIZE_MAX || chosen < first) {
      chosen = first;
      for (size_t i = first + 1; i <= at; i++)
        if (ring[i % window] <= ring[chosen % window]) chosen = i;
      least = ring[chosen % window];
    } else if (hash < least) {
      chosen = at;
      least = hash;
    }
    if (chosen != was) err = take(arg, least, chosen, e);
  }
  free(ring);
  return err;
}

/* ---- units ------------------------------------------------------------------------------------------------------- */

typedef struct unit_scan {
  const pu_dedup *d;
  pu_work_file about, ids;
  key_writer keys;
  uint64_t documents;
  const char *text; /* of the document */
  uint64_t check;
} unit_scan;

/* "2019-04-03T12:30:00Z" as 20190403123000; missing digits are zeros, no digits 0: unknown, older than all. */
static uint64_t time_key(pu_str s) {
  uint64_t key = 0;
  int digits = 0;
  for (size_t i = 0; i < s.len && digits < 14; i++) {
    if (s.ptr[i] < '0' || s.ptr[i] > '9') continue;
    key = key * 10 + (uint64_t)(s.ptr[i] - '0');
    digits++;
  }
  for (; digits > 0 && digits < 14; digits++) key *= 10;
  return key;
}

static pu_err take_item(void *arg, pu_str item, pu_str whole, pu_error *e) {
  unit_scan *s = arg;
  (void)whole;
  uint64_t hash = pu_hash64(item.ptr, item.len, 0);
  return keys_add(&s->keys, hash >> PART_SHIFT, hash, s->documents << AT_BITS | (uint64_t)(item.ptr - s->text), e);
}

static pu_err take_gram(void *arg, uint64_t hash, size_t at, pu_error *e) {
  unit_scan *s = arg;
  return keys_add(&s->keys, hash >> PART_SHIFT, hash, s->documents << AT_BITS | at, e);
}

static pu_err scan_bands(unit_scan *s, pu_str text, pu_error *e) {
  uint32_t signature[PU_MINHASHES];
  if (pu_minhash(text, signature) == 0) return PU_OK;
  for (int b = 0; b < s->d->bands.bands; b++)
    PU_TRY(keys_add(&s->keys, (size_t)b, pu_band_key(signature, s->d->bands, b), s->documents, e));
  return PU_OK;
}

static pu_err scan_keys(unit_scan *s, pu_str text, pu_error *e) {
  const pu_dedup *d = s->d;
  uint64_t hash;
  s->text = text.ptr;
  s->check = 0;
  switch (d->o.mode) {
  case PU_DEDUP_EXACT:
    hash = pu_hash64(text.ptr, text.len, 0);
    s->check = pu_hash64(text.ptr, text.len, CHECK_SEED);
    return keys_add(&s->keys, hash >> PART_SHIFT, hash, s->documents, e);
  case PU_DEDUP_MINHASH:
    return scan_bands(s, text, e);
  case PU_DEDUP_PARAGRAPH:
  case PU_DEDUP_LINE:
    return items_each(text, d->o.mode == PU_DEDUP_LINE, d->passage, take_item, s, e);
  default:
    return winnow(text, d->passage, take_gram, s, e);
  }
}

static pu_err scan_take(void *arg, const pu_dedup_doc *doc, pu_error *e) {
  unit_scan *s = arg;
  if (doc->text.len > PU_DOC_MAX)
    return pu_fail(e, PU_ERR_FORMAT, "dedup: document %llu of a unit has more than 64 MiB", (unsigned long long)doc->n);
  PU_TRY(scan_keys(s, doc->text, e));
  about a = {.n = doc->n,
             .check = s->check,
             .id_at = s->ids.bytes,
             .time = time_key(doc->time),
             .score = doc->score,
             .length = (uint32_t)doc->text.len,
             .id_len = (uint32_t)doc->id.len};
  s->documents++;
  PU_TRY(pu_work_put(&s->ids, doc->id.ptr, doc->id.len, e));
  return pu_work_put(&s->about, &a, sizeof a, e);
}

static pu_err scan_unit(void *arg, size_t unit, pu_error *e) {
  pu_dedup *d = arg;
  unit_scan s = {.d = d};
  pu_err err = pu_work_begin(&d->w, unit, "ids", &s.ids, e);
  if (err == PU_OK) err = pu_work_begin(&d->w, unit, "about", &s.about, e);
  if (err == PU_OK) err = keys_begin(&d->w, unit, d->parts, &s.keys, e);
  if (err == PU_OK) err = d->in.each(d->in.arg, unit, scan_take, &s, e);
  err = keys_end(&s.keys, err, e);
  err = pu_work_end(&s.ids, s.documents, err, e);
  return pu_work_end(&s.about, s.documents, err, e); /* the last one: it stands for all three */
}

pu_err dedup_scan(pu_dedup *d, pu_error *e) {
  size_t n = d->in.units;
  PU_TRY(pu_work_each(&d->w, n, "about", "reading", scan_unit, d, e));
  PU_TRY(files_wait(d, &d->abouts, n, "about", e));
  PU_TRY(files_wait(d, &d->ids, n, "ids", e));
  PU_TRY(files_wait(d, &d->keys, n, "keys", e));
  d->base = calloc(n + 1, sizeof *d->base);
  if (!d->base) return pu_fail(e, PU_ERR_NOMEM, "dedup: no memory");
  for (size_t i = 0; i < n; i++) {
    d->base[i + 1] = d->base[i] + d->abouts.counts[i];
    d->stats.keys += d->keys.counts[i];
  }
  d->stats.documents = d->base[n];
  if (d->base[n] >> (64 - AT_BITS)) return pu_fail(e, PU_ERR_UNSUPPORTED, "dedup: more than 2^38 documents");
  return PU_OK;
}
