/* One text held against the index, and cut. */
#include <stdlib.h>
#include <string.h>

#include "src/data/contam.h"
#include "src/data/dedup/passes.h"

enum { BATCH = 256, PAST = PU_ROLL_MAX, HITS_MANY = 1 << 14 };

/* What is in the stores of a pu_contam_found. All are bounded by the text or by the index, not by their product. */
enum { HITS, SPANS, TOUCHES, SEEN, SET, CANDIDATES, OVER };

/* An item's n-gram (its place in the lookup) where the text first has it. */
typedef struct touch {
  uint32_t gram, item;
  pu_span at;
} touch;

typedef struct checking {
  const pu_contam *c;
  pu_contam_found *f;
  pu_str text;
  size_t paragraphs;
  size_t tidy_at; /* hits from which those of one item are thinned out */
} checking;

static pu_err nomem(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "decontaminate: no memory");
}

/* The best hit of each item first: one that is over, the surer way, the larger share, the earlier place. */
static int by_worth(const void *x, const void *y) {
  const pu_contam_hit *a = x, *b = y;
  if (a->item != b->item) return a->item < b->item ? -1 : 1;
  if (a->over != b->over) return a->over ? -1 : 1;
  if (a->by != b->by) return a->by < b->by ? -1 : 1;
  if (a->share != b->share) return a->share > b->share ? -1 : 1;
  return (a->at.ptr > b->at.ptr) - (a->at.ptr < b->at.ptr);
}

/* One hit an item, by item; returns how many. */
static size_t thin_hits(pu_buf *hits) {
  pu_contam_hit *v = (pu_contam_hit *)(void *)hits->data;
  size_t n = hits->len / sizeof *v, kept = 0;
  if (n > 0) qsort(v, n, sizeof *v, by_worth);
  for (size_t i = 0; i < n; i++)
    if (kept == 0 || v[kept - 1].item != v[i].item) v[kept++] = v[i];
  hits->len = kept * sizeof *v;
  return kept;
}

static bool add_span(pu_buf *spans, pu_span at) {
  pu_span *last = spans->len > 0 ? (pu_span *)(void *)(spans->data + spans->len - sizeof *last) : NULL;
  if (!last || at.at < last->at || at.at > last->at + last->len) return pu_buf_append(spans, &at, sizeof at);
  last->len = PU_MAX(last->at + last->len, at.at + at.len) - last->at;
  return true;
}

static bool add_hit(checking *k, uint32_t number, pu_contam_by by, double share, pu_span at) {
  pu_buf *hits = &k->f->store[HITS];
  double bound = by == PU_CONTAM_NGRAM ? k->c->o.share : by == PU_CONTAM_NEAR ? k->c->o.similarity : 1;
  pu_contam_hit h = {number, by, share >= bound, share, pu_str_of(k->text.ptr + at.at, at.len)};
  if (hits->len / sizeof h >= k->tidy_at) k->tidy_at = 2 * thin_hits(hits) + HITS_MANY;
  return pu_buf_append(hits, &h, sizeof h) && (by == PU_CONTAM_NGRAM || add_span(&k->f->store[SPANS], at));
}

/* ---- n-grams and whole items --------------------------------------------------------------------------------------
 */

/* Notes those of a hash that the text did not have before. */
static pu_err touch_ngram(checking *k, uint64_t hash, pu_span at, pu_error *e) {
  const lookup *l = &k->c->ngrams;
  size_t n;
  const uint32_t *items = lookup_find(l, hash, &n);
  uint8_t *seen = (uint8_t *)k->f->store[SEEN].data;
  for (size_t i = 0; items && i < n; i++) {
    size_t gram = (size_t)(items - l->items) + i;
    if (seen[gram / 8] >> gram % 8 & 1) continue;
    seen[gram / 8] |= (uint8_t)(1 << gram % 8);
    if (!pu_buf_append(&k->f->store[TOUCHES], &(touch){(uint32_t)gram, items[i], at}, sizeof(touch))) return nomem(e);
  }
  return PU_OK;
}

static int by_number(const void *x, const void *y) {
  uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
  return (a > b) - (a < b);
}

/* The second time: is it one of an item that is touched? */
static pu_err span_ngram(checking *k, uint64_t hash, pu_span at, pu_error *e) {
  size_t n;
  const uint32_t *items = lookup_find(&k->c->ngrams, hash, &n);
  const pu_buf *over = &k->f->store[OVER];
  for (size_t i = 0; items && i < n; i++)
    if (bsearch(&items[i], over->data, over->len / sizeof *items, sizeof *items, by_number))
      return add_span(&k->f->store[SPANS], at) ? PU_OK : nomem(e);
  return PU_OK;
}

/* Does something else than spaces stand between two tokens? */
static bool is_apart(pu_str text, size_t from, size_t to) {
  while (from < to && (text.ptr[from] == ' ' || text.ptr[from] == '\t')) from++;
  return from < to;
}

static bool ends_apart(pu_str text, size_t end) {
  pu_token next[2];
  pu_folder f = {text, end};
  return pu_fold_next(&f, next, PU_COUNT(next)) == 0 || is_apart(text, end, next[0].at);
}

/* Items that end with token t[0], of those in the text that stand before it. */
static pu_err touch_wholes(checking *k, const pu_token *t, uint64_t before, pu_error *e) {
  size_t end = t->at + (size_t)t->len, n;
  if (!ends_apart(k->text, end)) return PU_OK;
  for (int len = CONTAM_WORDS; len < k->c->o.ngram && (uint64_t)len <= before + 1; len++) {
    const pu_token *first = t + 1 - len;
    uint64_t hash = (uint64_t)len;
    for (int i = 0; i < len; i++) hash = contam_chain(hash, first[i].hash);
    const uint32_t *whole = lookup_find(&k->c->wholes, hash, &n);
    if (!whole) continue;
    bool begins = (uint64_t)len > before || is_apart(k->text, first[-1].at + (size_t)first[-1].len, first->at);
    pu_span at = {first->at, (uint32_t)(end - first->at)};
    if (begins && !add_hit(k, *whole, PU_CONTAM_WHOLE, 1, at)) return nomem(e);
  }
  return PU_OK;
}

typedef pu_err (*ngram_fn)(checking *k, uint64_t hash, pu_span at, pu_error *e);
typedef struct rolling {
  ngram_fn take;
  bool wholes; /* are they looked for? */
  pu_roll ngram, tail;
  uint64_t ngrams[BATCH], tails[BATCH];
  pu_token tokens[PAST + BATCH]; /* those of the batch behind some before it */
  uint64_t total;                /* tokens before the batch */
} rolling;

static pu_err look_up(checking *k, rolling *r, size_t n, pu_error *e) {
  const pu_contam *c = k->c;
  size_t width = (size_t)c->o.ngram;
  for (size_t i = 0; i < n; i++) {
    const pu_token *t = &r->tokens[PAST + i], *first = t + 1 - width;
    uint64_t before = r->total + i;
    if (before + 1 >= width && lookup_may(&c->ngrams, r->ngrams[i])) {
      pu_span at = {first->at, t->at + t->len - first->at};
      PU_TRY(r->take(k, r->ngrams[i], at, e));
    }
    size_t same;
    bool ends = r->wholes && before + 1 >= CONTAM_WORDS && lookup_find(&c->tails, r->tails[i], &same);
    if (ends) PU_TRY(touch_wholes(k, t, before, e));
  }
  return PU_OK;
}

static pu_err each_ngram(checking *k, ngram_fn take, bool wholes, pu_error *e) {
  const pu_contam *c = k->c;
  rolling r;
  r.take = take;
  r.wholes = wholes;
  r.total = 0;
  pu_roll_init(&r.ngram, (int)c->o.ngram);
  pu_roll_init(&r.tail, CONTAM_WORDS);
  pu_folder f = {k->text, 0};
  for (size_t n; (n = pu_fold_next(&f, r.tokens + PAST, BATCH)) > 0; r.total += n) {
    for (size_t i = 0; i < n; i++) {
      r.ngrams[i] = pu_roll_push(&r.ngram, r.tokens[PAST + i].hash);
      r.tails[i] = pu_roll_push(&r.tail, r.tokens[PAST + i].hash);
      lookup_fetch(&c->ngrams, r.ngrams[i]);
      lookup_fetch(&c->tails, r.tails[i]);
    }
    PU_TRY(look_up(k, &r, n, e));
    memmove(r.tokens, r.tokens + n, PAST * sizeof *r.tokens);
  }
  return PU_OK;
}

static int by_item(const void *x, const void *y) {
  const touch *a = x, *b = y;
  if (a->item != b->item) return a->item < b->item ? -1 : 1;
  return (a->at.at > b->at.at) - (a->at.at < b->at.at);
}

/* Touches of one item are a hit. */
static pu_err hits_of_touches(checking *k, pu_error *e) {
  touch *v = (touch *)(void *)k->f->store[TOUCHES].data;
  size_t n = k->f->store[TOUCHES].len / sizeof *v;
  uint8_t *seen = (uint8_t *)k->f->store[SEEN].data;
  for (size_t i = 0; i < n; i++) seen[v[i].gram / 8] = 0;
  if (n > 0) qsort(v, n, sizeof *v, by_item);
  for (size_t i = 0; i < n;) {
    size_t from = i;
    while (i < n && v[i].item == v[from].item) i++;
    double share = (double)(i - from) / contam_items(k->c)[v[from].item].ngrams;
    if (!add_hit(k, v[from].item, PU_CONTAM_NGRAM, share, v[from].at)) return nomem(e);
    bool over = share >= k->c->o.share;
    if (over && !pu_buf_append(&k->f->store[OVER], &v[from].item, sizeof v->item)) return nomem(e);
  }
  return PU_OK;
}

/* What n-grams touch, and where all n-grams of those items are. */
static pu_err find_tokens(checking *k, pu_error *e) {
  pu_buf *seen = &k->f->store[SEEN];
  size_t bytes = k->c->ngrams.n / 8 + 1;
  if (seen->len < bytes) { /* all zeros between two texts; of another index it may be too short */
    if (!pu_buf_reserve(seen, bytes - seen->len)) return nomem(e);
    memset(seen->data + seen->len, 0, bytes - seen->len);
    seen->len = bytes;
  }
  pu_err err = each_ngram(k, touch_ngram, true, e);
  if (err == PU_OK) err = hits_of_touches(k, e);
  if (err != PU_OK) seen->len = 0;
  PU_TRY(err);
  return k->f->store[OVER].len > 0 ? each_ngram(k, span_ngram, false, e) : PU_OK;
}

/* ---- near matches -------------------------------------------------------------------------------------------------
 */

/* An item that shares a band with a part of the text: is it like it? */
static pu_err compare(checking *k, pu_str part, uint32_t number, pu_error *e) {
  const pu_contam *c = k->c;
  const item *x = &contam_items(c)[number];
  pu_buf *set = &k->f->store[SET];
  if (set->len == 0) PU_TRY(pu_shingle_set(part, set, e));
  double j = pu_jaccard((const uint32_t *)(const void *)set->data, set->len / sizeof(uint32_t),
                        (const uint32_t *)(const void *)c->sets.data + x->set_at, x->set_n);
  pu_span at = {(uint32_t)(part.ptr - k->text.ptr), (uint32_t)part.len};
  return j < c->o.similarity || add_hit(k, number, PU_CONTAM_NEAR, j, at) ? PU_OK : nomem(e);
}

/* The items that share a band with a signature, each once. */
static pu_err candidates_of(const pu_contam *c, const uint32_t *signature, pu_buf *out, pu_error *e) {
  uint64_t keys[PU_MINHASHES];
  pu_buf_clear(out);
  for (int b = 0; b < c->bands.bands; b++) {
    keys[b] = pu_band_key(signature, c->bands, b);
    lookup_fetch(&c->keys, keys[b]);
  }
  for (int b = 0; b < c->bands.bands; b++) {
    size_t n;
    const uint32_t *items = lookup_find(&c->keys, keys[b], &n);
    if (items && !pu_buf_append(out, items, n * sizeof *items)) return nomem(e);
  }
  uint32_t *v = (uint32_t *)(void *)out->data;
  size_t n = out->len / sizeof *v, kept = 0;
  if (n > 1) qsort(v, n, sizeof *v, by_number);
  for (size_t i = 0; i < n; i++)
    if (kept == 0 || v[kept - 1] != v[i]) v[kept++] = v[i];
  out->len = kept * sizeof *v;
  return PU_OK;
}

/* A part of the text that is neither too short nor too long to be like an item. */
static pu_err find_near(checking *k, pu_str part, pu_error *e) {
  const pu_contam *c = k->c;
  uint32_t signature[PU_MINHASHES];
  pu_buf *candidates = &k->f->store[CANDIDATES];
  if (part.len < c->near_bytes[0] || part.len > c->near_bytes[1]) return PU_OK;
  if (pu_minhash(part, signature) == 0) return PU_OK;
  PU_TRY(candidates_of(c, signature, candidates, e));
  pu_buf_clear(&k->f->store[SET]);
  for (size_t i = 0; i < candidates->len / sizeof(uint32_t); i++)
    PU_TRY(compare(k, part, ((const uint32_t *)(const void *)candidates->data)[i], e));
  return PU_OK;
}

static pu_err near_line(void *arg, pu_str line, pu_str whole, pu_error *e) {
  (void)whole;
  return find_near(arg, line, e);
}

/* A paragraph, and the lines of one that has several. */
static pu_err near_paragraph(void *arg, pu_str paragraph, pu_str whole, pu_error *e) {
  checking *k = arg;
  (void)whole;
  k->paragraphs++;
  PU_TRY(find_near(k, paragraph, e));
  return memchr(paragraph.ptr, '\n', paragraph.len) ? items_each(paragraph, true, 1, near_line, k, e) : PU_OK;
}

static pu_err find_parts(checking *k, pu_error *e) {
  PU_TRY(items_each(k->text, false, 1, near_paragraph, k, e));
  return k->paragraphs > 1 ? find_near(k, k->text, e) : PU_OK;
}

/* ---- what was found -----------------------------------------------------------------------------------------------
 */

static int by_share(const void *x, const void *y) {
  const pu_contam_hit *a = x, *b = y;
  if (a->over != b->over) return a->over ? -1 : 1;
  if (a->share != b->share) return a->share > b->share ? -1 : 1;
  return (a->item > b->item) - (a->item < b->item);
}

static int by_place(const void *x, const void *y) {
  const pu_span *a = x, *b = y;
  if (a->at != b->at) return a->at < b->at ? -1 : 1;
  return (a->len > b->len) - (a->len < b->len);
}

static void tidy_hits(pu_contam_found *f) {
  size_t n = thin_hits(&f->store[HITS]);
  pu_contam_hit *v = (pu_contam_hit *)(void *)f->store[HITS].data;
  if (n > 0) qsort(v, n, sizeof *v, by_share);
  f->hits = v;
  f->n = n;
  for (f->n_over = 0; f->n_over < n && v[f->n_over].over;) f->n_over++;
}

/* In order, without overlaps. */
static void tidy_spans(pu_contam_found *f) {
  pu_span *v = (pu_span *)(void *)f->store[SPANS].data;
  size_t n = f->store[SPANS].len / sizeof *v, kept = 0;
  if (n > 0) qsort(v, n, sizeof *v, by_place);
  for (size_t i = 0; i < n; i++) {
    pu_span *last = &v[kept ? kept - 1 : 0];
    if (kept > 0 && v[i].at <= last->at + last->len)
      last->len = PU_MAX(last->at + last->len, v[i].at + v[i].len) - last->at;
    else
      v[kept++] = v[i];
  }
  f->store[SPANS].len = kept * sizeof *v;
}

void pu_contam_found_free(pu_contam_found *f) {
  for (size_t i = 0; i < PU_COUNT(f->store); i++) pu_buf_deinit(&f->store[i]);
  *f = (pu_contam_found){0};
}

pu_err pu_contam_check(const pu_contam *c, pu_str text, pu_contam_found *f, pu_error *e) {
  if (!c->built) return pu_fail(e, PU_ERR_INTERNAL, "decontaminate: the index is not built");
  if (text.len > PU_DOC_MAX) return pu_fail(e, PU_ERR_FORMAT, "decontaminate: a text of more than 64 MiB");
  for (size_t i = 0; i < PU_COUNT(f->store); i++) {
    if (f->store[i].max == 0) pu_buf_init(&f->store[i], (size_t)1 << 36);
    if (i != SEEN) pu_buf_clear(&f->store[i]);
  }
  checking k = {.c = c, .f = f, .text = text, .tidy_at = HITS_MANY};
  PU_TRY(find_tokens(&k, e));
  if (c->o.near && text.len > 0) PU_TRY(find_parts(&k, e));
  tidy_hits(f);
  tidy_spans(f);
  return PU_OK;
}

/* ---- cutting ------------------------------------------------------------------------------------------------------
 */

typedef struct cutting {
  const pu_span *spans;
  size_t n, next;
  pu_str text;
  size_t kept; /* all before it is written or gone */
  pu_buf *out;
} cutting;

static void cut(cutting *k, size_t from, size_t to) {
  if (from > k->kept) pu_buf_append(k->out, k->text.ptr + k->kept, from - k->kept);
  k->kept = PU_MAX(k->kept, to);
}

/* Does a sentence, or a line, end right before this place? */
static bool is_end(pu_str t, size_t at) {
  static const char *const marks[] = {"。", "？", "！", "；"};
  char c = t.ptr[at - 1];
  if (c == '\n') return true;
  if (c == '.' || c == '?' || c == '!') return at < t.len && (t.ptr[at] == ' ' || t.ptr[at] == '\n');
  for (size_t i = 0; i < PU_COUNT(marks); i++)
    if (at >= 3 && memcmp(t.ptr + at - 3, marks[i], 3) == 0) return true;
  return false;
}

/* The sentences of [low, high) that spans touch. */
static void cut_sentences(cutting *k, size_t low, size_t high) {
  for (size_t i = k->next; i < k->n && k->spans[i].at < high; i++) {
    size_t from = PU_MAX((size_t)k->spans[i].at, low), to = PU_MIN(k->spans[i].at + (size_t)k->spans[i].len, high);
    size_t least = PU_MAX(low, k->kept);
    while (from > least && !is_end(k->text, from)) from--;
    if (to <= k->kept) continue;
    while (to < high && !is_end(k->text, to)) to++;
    cut(k, from, to);
  }
}

static pu_err cut_paragraph(void *arg, pu_str paragraph, pu_str whole, pu_error *e) {
  cutting *k = arg;
  (void)e;
  size_t low = (size_t)(paragraph.ptr - k->text.ptr), high = low + paragraph.len,
         from = (size_t)(whole.ptr - k->text.ptr);
  while (k->next < k->n && k->spans[k->next].at + (size_t)k->spans[k->next].len <= low) k->next++;
  if (k->next == k->n || k->spans[k->next].at >= high) return PU_OK;
  if (paragraph.len <= CONTAM_PARAGRAPH)
    cut(k, from, from + whole.len);
  else
    cut_sentences(k, low, high);
  return PU_OK;
}

pu_err pu_contam_cut(const pu_contam_found *f, pu_str text, pu_buf *out, pu_error *e) {
  const pu_buf *spans = &f->store[SPANS];
  cutting k = {
      .spans = (const pu_span *)(const void *)spans->data, .n = spans->len / sizeof(pu_span), .text = text, .out = out};
  if (k.n > 0) PU_TRY(items_each(text, false, 1, cut_paragraph, &k, e));
  pu_buf_append(out, text.ptr + k.kept, text.len - k.kept);
  return out->failed ? nomem(e) : PU_OK;
}
