/* What is shown of a passage: the stretch with most of the different words that were looked for. */
#include <string.h>

#include "src/store/internal.h"
#include "src/store/terms.h"

enum {
  SIZE = 240,  /* bytes of the passage that are shown */
  SLACK = 80,  /* of these may be left out for a snippet to end with a sentence or word */
  SPANS = 1024 /* places of one passage that are known: it is at most 2 KiB in a file that is in order */
};

typedef struct span {
  size_t begin, end;
  int term;
} span;

typedef struct places {
  const store_query *q;
  pu_str text;
  span v[SPANS];
  size_t n;
} places;

static int place_add(void *arg, const store_term *t) {
  places *p = arg;
  int term = store_query_find(p->q, t->text);
  if (term < 0) return 0;
  bool wider = store_query_prefix(p->q, term); /* one character was looked for, and the pair of it was found */
  size_t end = wider ? PU_MIN(t->end, store_next(p->text, t->begin)) : t->end;
  p->v[p->n++] = (span){t->begin, end, term};
  return p->n == SPANS;
}

/* The window that begins with a place and has the most different terms: the first and last place of it. */
static void best_window(const places *p, size_t *first, size_t *last) {
  static const size_t none = (size_t)-1;
  size_t seen[STORE_QUERY_TERMS], best = 0;
  for (size_t i = 0; i < PU_COUNT(seen); i++) seen[i] = none;
  *first = *last = 0;
  for (size_t i = 0; i < p->n; i++) {
    size_t different = 0, j = i;
    for (; j < p->n && p->v[j].end <= p->v[i].begin + SIZE; j++) {
      different += seen[p->v[j].term] != i;
      seen[p->v[j].term] = i;
    }
    if (different <= best) continue;
    best = different;
    *first = i;
    *last = j - 1;
  }
}

/* Where to begin: at a sentence in [from, to], else at a word, else at a character. */
static size_t begin_at(pu_str text, size_t from, size_t to) {
  if (from == 0) return 0;
  for (size_t at = from; at <= to; at++)
    if (store_sentence_ends(text.ptr, at) || store_line_ends(text.ptr, at)) return at;
  for (size_t at = from; at <= to; at++)
    if (store_word_ends(text.ptr, at)) return at;
  return store_border(text, from);
}

/* Where to end: behind the last sentence of [from, to], else behind a word, else behind a character. */
static size_t end_at(pu_str text, size_t from, size_t to) {
  if (to >= text.len) return text.len;
  for (size_t at = to; at > from; at--)
    if (store_sentence_ends(text.ptr, at) || store_line_ends(text.ptr, at)) return at;
  for (size_t at = to; at > from; at--)
    if (store_word_ends(text.ptr, at)) return at;
  return store_border(text, to);
}

static bool is_blank(char c) {
  return (uint8_t)c <= ' ' || c == 0x7F;
}

/* Appends [at, end) on one line; `gap` says whether the last thing was white space. C1 controls go, too. */
static void put_plain(pu_str text, size_t at, size_t end, bool *gap, pu_buf *out) {
  while (at < end) {
    bool c1 = at + 1 < end && (uint8_t)text.ptr[at] == 0xC2 && (uint8_t)text.ptr[at + 1] < 0xA0;
    if (is_blank(text.ptr[at]) || c1) {
      if (!*gap) pu_buf_putc(out, ' ');
      *gap = true;
      at += c1 ? 2 : 1;
      continue;
    }
    *gap = false;
    pu_buf_putc(out, text.ptr[at++]);
  }
}

bool store_snippet(const store_query *q, pu_str text, const char *open, const char *close, pu_buf *out) {
  places p = {.q = q, .text = text};
  (void)store_terms(text, place_add, &p);
  size_t first, last, from = 0, least = 0;
  best_window(&p, &first, &last);
  if (p.n > 0) {
    size_t wide = PU_MIN(p.v[last].end - p.v[first].begin, (size_t)SIZE), lead = (SIZE - wide) / 2;
    from = begin_at(text, p.v[first].begin - PU_MIN(lead, p.v[first].begin), p.v[first].begin);
    least = p.v[last].end;
  }
  size_t most = PU_MAX(from + SIZE, least), end = end_at(text, PU_MAX(least, most - SLACK), most);
  bool gap = true;
  if (from > 0) pu_buf_puts(out, "…");
  size_t at = from;
  for (size_t i = 0; i < p.n && p.v[i].begin < end; i++) {
    size_t begin = PU_MAX(p.v[i].begin, at), stop = PU_MIN(p.v[i].end, end);
    while (i + 1 < p.n && p.v[i + 1].begin <= stop && p.v[i + 1].begin < end)
      stop = PU_MIN(PU_MAX(stop, p.v[++i].end), end);
    if (stop <= at) continue;
    put_plain(text, at, begin, &gap, out);
    if (open) pu_buf_puts(out, open);
    put_plain(text, begin, stop, &gap, out);
    if (close) pu_buf_puts(out, close);
    at = stop;
  }
  put_plain(text, at, end, &gap, out);
  while (out->len > 0 && out->data[out->len - 1] == ' ') out->data[--out->len] = 0;
  if (end < text.len) pu_buf_puts(out, "…");
  return !out->failed;
}
