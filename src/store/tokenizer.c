/* The index's tokenizer, `puyu`: terms.h for texts. Queries are made here as well (query.c), of terms that are folded
 * already, a space between them: they are taken as they are, so that what is looked for is what was written there. */
#include <string.h>
#include <utf8proc.h>

#include "src/store/internal.h"
#include "src/store/terms.h"

typedef struct sink {
  void *ctx;
  int (*token)(void *ctx, int flags, const char *text, int len, int begin, int end);
} sink;

static int text_token(void *arg, const store_term *t) {
  const sink *k = arg;
  return k->token(k->ctx, 0, t->text.ptr, (int)t->text.len, (int)t->begin, (int)t->end);
}

static int query_tokens(const sink *k, const char *text, int len) {
  for (int at = 0; at < len;) {
    const char *space = memchr(text + at, ' ', (size_t)(len - at));
    int end = space ? (int)(space - text) : len;
    int rc = end > at ? k->token(k->ctx, 0, text + at, end - at, at, end) : SQLITE_OK;
    if (rc != SQLITE_OK) return rc;
    at = end + 1;
  }
  return SQLITE_OK;
}

static int tokenize(Fts5Tokenizer *t, void *ctx, int flags, const char *text, int len,
                    int (*token)(void *, int, const char *, int, int, int)) {
  sink k = {ctx, token};
  (void)t;
  if (len <= 0) return SQLITE_OK;
  if (flags & FTS5_TOKENIZE_QUERY) return query_tokens(&k, text, len);
  return store_terms(pu_str_of(text, (size_t)len), text_token, &k);
}

/* It has no state, but its users want a pointer that is not NULL. */
static int create(void *ctx, const char **args, int n_args, Fts5Tokenizer **out) {
  (void)ctx, (void)args, (void)n_args;
  static char any;
  *out = (Fts5Tokenizer *)&any;
  return SQLITE_OK;
}

static void delete (Fts5Tokenizer *t) {
  (void)t;
}

pu_err store_tokenizer_register(pu_store *s, pu_error *e) {
  static const fts5_tokenizer words = {create, delete, tokenize};
  fts5_api *api = NULL;
  sqlite3_stmt *st = NULL;
  int rc = sqlite3_prepare_v2(s->db, "SELECT fts5(?1)", -1, &st, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_bind_pointer(st, 1, &api, "fts5_api_ptr", NULL);
  if (rc == SQLITE_OK && sqlite3_step(st) != SQLITE_ROW) rc = SQLITE_ERROR;
  sqlite3_finalize(st);
  if (rc != SQLITE_OK || !api)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: this build of SQLite has no full-text search (FTS5)", s->path);
  fts5_tokenizer copy = words;
  rc = api->xCreateTokenizer(api, "puyu", NULL, &copy, NULL);
  return rc == SQLITE_OK ? PU_OK : store_fail(s, rc, e);
}

const char *store_words_version(void) {
  static char text[64];
  snprintf(text, sizeof text, "1, Unicode %s", utf8proc_unicode_version());
  return text;
}
