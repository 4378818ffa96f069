/* Passages for a query: those with all of its words, then those with some. */
#include <string.h>

#include "src/store/internal.h"

enum {
  OF_ONE = 3, /* passages of one document that come before those of others */
  SPARE = 4   /* times k candidates are looked at, so that there are others */
};

typedef struct candidate {
  int64_t passage, document;
  double score;
  bool taken;
} candidate;

typedef struct search {
  pu_store *s;
  const pu_store_ask *ask;
  store_query *q;
  candidate hits[PU_STORE_K_MAX]; /* taken so far */
  bool all[PU_STORE_K_MAX];
  size_t n;
  candidate found[PU_STORE_K_MAX * (SPARE + 1)]; /* by the expression at hand */
  size_t n_found;
} search;

/* ---- candidates ----------------------------------------------------------------------------------------------------
 */

static pu_err match(search *w, const pu_buf *expression, pu_error *e) {
  sqlite3_stmt *st;
  size_t most = w->ask->k * SPARE + w->n;
  w->n_found = 0;
  if (expression->len == 0) return PU_OK;
  PU_TRY(store_use(w->s, SQL_MATCH, &st, e));
  store_bind(st, 1, pu_str_of(expression->data, expression->len));
  (void)sqlite3_bind_int64(st, 2, (int64_t)most);
  for (bool row = true; row && w->n_found < most;) {
    PU_TRY(store_row(w->s, st, &row, e));
    if (row)
      w->found[w->n_found++] = (candidate){.passage = sqlite3_column_int64(st, 0),
                                           .score = sqlite3_column_double(st, 1),
                                           .document = sqlite3_column_int64(st, 2)};
  }
  store_done(st);
  return PU_OK;
}

static bool is_taken(const search *w, int64_t passage) {
  for (size_t i = 0; i < w->n; i++)
    if (w->hits[i].passage == passage) return true;
  return false;
}

static size_t taken_of(const search *w, int64_t document) {
  size_t n = 0;
  for (size_t i = 0; i < w->n; i++) n += w->hits[i].document == document;
  return n;
}

/* Takes the best, first without those that are too many of their document, then, where there is room, those. */
static void take(search *w, bool all) {
  for (int round = 0; round < 2; round++)
    for (size_t i = 0; i < w->n_found && w->n < w->ask->k; i++) {
      const candidate *c = &w->found[i];
      if (is_taken(w, c->passage) || (round == 0 && taken_of(w, c->document) >= OF_ONE)) continue;
      w->all[w->n] = all;
      w->hits[w->n++] = *c;
    }
}

/* ---- the two expressions -------------------------------------------------------------------------------------------
 */

static pu_err term_rows(void *arg, pu_str term, uint64_t *rows, pu_error *e) {
  pu_store *s = arg;
  sqlite3_stmt *st;
  bool row;
  *rows = 0;
  PU_TRY(store_use(s, SQL_TERM, &st, e));
  store_bind(st, 1, term);
  PU_TRY(store_row(s, st, &row, e));
  if (row) *rows = (uint64_t)sqlite3_column_int64(st, 0);
  store_done(st);
  return PU_OK;
}

static pu_err passage_count(pu_store *s, uint64_t *out, pu_error *e) {
  sqlite3_stmt *st;
  bool row;
  *out = 0;
  PU_TRY(store_use(s, SQL_PASSAGE_COUNT, &st, e));
  PU_TRY(store_row(s, st, &row, e));
  if (row) *out = (uint64_t)sqlite3_column_int64(st, 0);
  store_done(st);
  return PU_OK;
}

static pu_err find(search *w, pu_buf *expression, pu_error *e) {
  uint64_t passages;
  if (!store_query_all(w->q, expression)) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for a query", w->s->path);
  PU_TRY(match(w, expression, e));
  take(w, true);
  if (w->n == w->ask->k) return PU_OK;
  pu_buf_clear(expression);
  PU_TRY(passage_count(w->s, &passages, e));
  PU_TRY(store_query_any(w->q, passages, term_rows, w->s, expression, e));
  PU_TRY(match(w, expression, e));
  take(w, false);
  return PU_OK;
}

/* ---- hits ----------------------------------------------------------------------------------------------------------
 */

static bool keep(pu_arena *a, pu_str text, pu_str *out) {
  const char *copy = pu_arena_strndup(a, text.ptr, text.len);
  *out = pu_str_of(copy ? copy : "", copy ? text.len : 0);
  return copy != NULL;
}

static pu_err hit_fill(const search *w, sqlite3_stmt *st, pu_arena *a, pu_buf *snippet, pu_store_hit *h, pu_error *e) {
  pu_str passage = store_column(st, 3);
  pu_buf_clear(snippet);
  bool good = store_snippet(w->q, passage, w->ask->open, w->ask->close, snippet);
  good = good && keep(a, store_column(st, 0), &h->source) && keep(a, store_column(st, 1), &h->id);
  good = good && keep(a, store_column(st, 2), &h->title);
  good = good && keep(a, pu_str_of(snippet->data ? snippet->data : "", snippet->len), &h->snippet);
  h->begin = (uint64_t)sqlite3_column_int64(st, 4);
  h->end = h->begin + passage.len;
  h->passage = (uint32_t)sqlite3_column_int64(st, 5);
  return good ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "%s: no memory for what was found", w->s->path);
}

static pu_err fill(const search *w, pu_store_hits *out, pu_buf *snippet, pu_error *e) {
  PU_TRY(pu_arena_create((size_t)64 << 20, &out->arena, e));
  out->v = pu_arena_zalloc(out->arena, PU_MAX(w->n, (size_t)1) * sizeof *out->v);
  if (!out->v) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for what was found", w->s->path);
  for (size_t i = 0; i < w->n; i++) {
    sqlite3_stmt *st;
    bool row;
    PU_TRY(store_use(w->s, SQL_HIT, &st, e));
    (void)sqlite3_bind_int64(st, 1, w->hits[i].passage);
    PU_TRY(store_row(w->s, st, &row, e));
    pu_store_hit *h = &out->v[out->n];
    *h = (pu_store_hit){.score = w->hits[i].score, .all = w->all[i]};
    pu_err err = row ? hit_fill(w, st, out->arena, snippet, h, e) : PU_OK;
    out->n += row;
    store_done(st);
    if (err != PU_OK) return err;
  }
  return PU_OK;
}

/* One view of the file, whatever others commit meanwhile. */
static pu_err find_and_fill(search *w, pu_store_hits *out, pu_error *e) {
  pu_buf text;
  bool own = sqlite3_get_autocommit(w->s->db) != 0;
  if (own) PU_TRY(store_run_kept(w->s, SQL_READ, e));
  pu_buf_init(&text, (size_t)1 << 20);
  pu_err err = find(w, &text, e);
  if (err == PU_OK) err = fill(w, out, &text, e);
  pu_buf_deinit(&text);
  if (own && err == PU_OK) err = pu_store_commit(w->s, e);
  if (own && err != PU_OK) pu_store_rollback(w->s);
  return err;
}

pu_err pu_store_search(pu_store *s, const pu_store_ask *ask, pu_store_hits *out, pu_error *e) {
  *out = (pu_store_hits){0};
  if (ask->k == 0 || ask->k > PU_STORE_K_MAX)
    return pu_fail(e, PU_ERR_USAGE, "%zu hits: between 1 and %d can be asked for", ask->k, PU_STORE_K_MAX);
  search w = {.s = s, .ask = ask};
  PU_TRY(store_query_parse(ask->query, &w.q, e));
  pu_err err = find_and_fill(&w, out, e);
  store_query_free(w.q);
  if (err != PU_OK) pu_store_hits_deinit(out);
  return err;
}

void pu_store_hits_deinit(pu_store_hits *hits) {
  pu_arena_free(hits->arena);
  *hits = (pu_store_hits){0};
}
