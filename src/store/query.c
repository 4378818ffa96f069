/* What a user typed, as FTS5's expressions. Only folded terms get into these, between quotes: letters, digits, marks
 * and nothing that is syntax. */
#include <stdlib.h>
#include <string.h>

#include "src/store/internal.h"
#include "src/store/terms.h"

enum {
  ITEMS = 64, /* words and runs that all have to be there */
  TERMS = STORE_QUERY_TERMS,
  TELLING = 24, /* terms of which any has to be there */
  FEW = 4       /* of which as many may be in a large share of all passages */
};

typedef struct term {
  uint32_t begin, len; /* in `terms` */
  bool prefix;         /* a single character of a run: any term that begins with it */
} term;

struct store_query {
  pu_buf terms;
  term list[TERMS]; /* different ones, in the order they came */
  size_t n;
  pu_buf items[ITEMS]; /* a word; the pairs of a run, a space between them; or a single character */
  bool prefix[ITEMS];
  size_t n_items;
  bool open; /* the last item is a run that goes on */
  bool failed;
};

static pu_str term_text(const store_query *q, const term *t) {
  return pu_str_of(q->terms.data + t->begin, t->len);
}

static int compare(pu_str a, pu_str b) {
  int order = memcmp(a.ptr, b.ptr, PU_MIN(a.len, b.len));
  return order ? order : (a.len > b.len) - (a.len < b.len);
}

/* ---- parsing -------------------------------------------------------------------------------------------------------
 */

static void term_add(store_query *q, pu_str text, bool prefix) {
  for (size_t i = 0; i < q->n; i++)
    if (q->list[i].prefix == prefix && pu_str_eq(term_text(q, &q->list[i]), text)) return;
  if (q->n == TERMS) return;
  q->list[q->n++] = (term){.begin = (uint32_t)q->terms.len, .len = (uint32_t)text.len, .prefix = prefix};
  q->failed = !pu_buf_append(&q->terms, text.ptr, text.len) || q->failed;
}

/* Ends the last item, which goes where it was there before. */
static void item_end(store_query *q) {
  q->open = false;
  if (q->n_items == 0) return;
  const pu_buf *last = &q->items[q->n_items - 1];
  for (size_t i = 0; i + 1 < q->n_items; i++) {
    if (q->prefix[i] != q->prefix[q->n_items - 1] || q->items[i].len != last->len) continue;
    if (memcmp(q->items[i].data, last->data, last->len) != 0) continue;
    pu_buf_deinit(&q->items[--q->n_items]);
    return;
  }
}

static void item_begin(store_query *q, const store_term *t) {
  item_end(q);
  if (q->n_items == ITEMS) return;
  pu_buf *item = &q->items[q->n_items];
  pu_buf_init(item, 4 * PU_STORE_QUERY_MAX);
  q->failed = !pu_buf_append(item, t->text.ptr, t->text.len) || q->failed;
  q->prefix[q->n_items++] = t->kind == STORE_LAST;
  q->open = t->kind == STORE_PAIR;
}

static int query_term(void *arg, const store_term *t) {
  store_query *q = arg;
  if (t->kind == STORE_LAST && !t->first) { /* its pairs have said it all */
    item_end(q);
    return 0;
  }
  term_add(q, t->text, t->kind == STORE_LAST);
  if (t->first) {
    item_begin(q, t);
  } else if (q->open) {
    pu_buf *item = &q->items[q->n_items - 1];
    pu_buf_putc(item, ' ');
    q->failed = !pu_buf_append(item, t->text.ptr, t->text.len) || q->failed;
  }
  return 0;
}

pu_err store_query_parse(pu_str text, store_query **out, pu_error *e) {
  *out = NULL;
  if (text.len > PU_STORE_QUERY_MAX)
    return pu_fail(e, PU_ERR_USAGE, "the query has %zu bytes, more than %zu", text.len, PU_STORE_QUERY_MAX);
  store_query *q = calloc(1, sizeof *q);
  if (!q) return pu_fail(e, PU_ERR_NOMEM, "store: no memory for a query");
  pu_buf_init(&q->terms, TERMS * STORE_TERM_MAX);
  (void)store_terms(text, query_term, q);
  item_end(q);
  if (q->failed) {
    store_query_free(q);
    return pu_fail(e, PU_ERR_NOMEM, "store: no memory for a query");
  }
  *out = q;
  return PU_OK;
}

void store_query_free(store_query *q) {
  if (!q) return;
  for (size_t i = 0; i < q->n_items; i++) pu_buf_deinit(&q->items[i]);
  pu_buf_deinit(&q->terms);
  free(q);
}

bool store_query_empty(const store_query *q) {
  return q->n == 0;
}

int store_query_find(const store_query *q, pu_str text) {
  for (size_t i = 0; i < q->n; i++) {
    pu_str t = term_text(q, &q->list[i]);
    bool is = q->list[i].prefix ? t.len <= text.len && memcmp(t.ptr, text.ptr, t.len) == 0 : pu_str_eq(t, text);
    if (is) return (int)i;
  }
  return -1;
}

bool store_query_prefix(const store_query *q, int which) {
  return q->list[which].prefix;
}

/* ---- expressions ---------------------------------------------------------------------------------------------------
 */

static void put(pu_buf *out, const char *between, pu_str text, bool prefix) {
  if (out->len > 0) pu_buf_puts(out, between);
  pu_buf_putc(out, '"');
  pu_buf_append(out, text.ptr, text.len);
  pu_buf_puts(out, prefix ? "\" *" : "\"");
}

bool store_query_all(const store_query *q, pu_buf *out) {
  for (size_t i = 0; i < q->n_items; i++) put(out, " AND ", pu_str_of(q->items[i].data, q->items[i].len), q->prefix[i]);
  return !out->failed;
}

typedef struct ranked {
  uint64_t rows;
  pu_str text;
} ranked;

static int by_rows(const void *a, const void *b) {
  const ranked *x = a, *y = b;
  if (x->rows != y->rows) return x->rows < y->rows ? -1 : 1;
  return compare(x->text, y->text);
}

/* Words that most passages have tell little and cost the most: of them only as many are looked for as it takes to have
 * a few. */
static void put_telling(const ranked *r, size_t n, uint64_t passages, pu_buf *out) {
  for (size_t i = 0; i < n && i < TELLING; i++)
    if (i < FEW || r[i].rows <= passages / 8) put(out, " OR ", r[i].text, false);
}

pu_err store_query_any(const store_query *q, uint64_t passages, store_rows_fn rows, void *arg, pu_buf *out,
                       pu_error *e) {
  ranked r[TERMS];
  size_t n = 0;
  for (size_t i = 0; i < q->n; i++) {
    if (q->list[i].prefix) continue;
    r[n] = (ranked){.text = term_text(q, &q->list[i])};
    PU_TRY(rows(arg, r[n].text, &r[n].rows, e));
    n += r[n].rows > 0;
  }
  qsort(r, n, sizeof *r, by_rows);
  put_telling(r, n, passages, out);
  /* Single characters are many terms each: they are looked for where there is nothing else. */
  for (size_t i = 0, put_so_far = 0; n == 0 && i < q->n && put_so_far < FEW; i++)
    if (q->list[i].prefix) {
      put(out, " OR ", term_text(q, &q->list[i]), true);
      put_so_far++;
    }
  return out->failed ? pu_fail(e, PU_ERR_NOMEM, "store: no memory for a query") : PU_OK;
}
