/* Any bytes as a query (the first line) and a text. Neither may be an error, snippets are UTF-8, and the first word of
 * the text is found in it. */
#include <stdlib.h>
#include <string.h>

#include "puyu/store.h"
#include "puyu/text.h"
#include "src/store/terms.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { REOPEN = 512 }; /* inputs after which a new index is begun */

static void must(bool good) {
  if (!good) abort();
}

typedef struct beginning {
  store_term term[2];
  int n;
} beginning;

static int first_terms(void *arg, const store_term *t) {
  beginning *b = arg;
  b->term[b->n++] = *t;
  return b->n == 2;
}

/* One character may stand for several words (U+FDFA for four), of which the last goes on in the text: then the
 * character alone has another last word. */
static bool shares_character(const beginning *b) {
  return b->n == 2 && b->term[0].kind == STORE_WORD && b->term[1].begin < b->term[0].end;
}

/* How many passages have all of the words. */
static size_t search(pu_store *s, pu_str query) {
  const pu_store_ask ask = {.query = query, .k = 5, .open = "[", .close = "]"};
  pu_store_hits hits;
  pu_error e;
  size_t all = 0;
  must(pu_store_search(s, &ask, &hits, &e) == PU_OK);
  for (size_t i = 0; i < hits.n; i++) {
    must(pu_utf8_valid(hits.v[i].snippet));
    must(hits.v[i].begin <= hits.v[i].end);
    all += hits.v[i].all;
  }
  pu_store_hits_deinit(&hits);
  return all;
}

static void check(pu_store *s, pu_str query, pu_str text) {
  const pu_str source = pu_str_of("s", 1);
  const pu_store_document d = {pu_str_of("", 0), query, text};
  beginning b = {0};
  pu_error e;
  must(pu_store_begin(s, NULL, &e) == PU_OK);
  must(pu_store_replace(s, source, (pu_store_stamp){0}, &e) == PU_OK);
  must(pu_store_put(s, source, &d, &e) == PU_OK);
  must(pu_store_commit(s, &e) == PU_OK);
  (void)search(s, query);
  (void)store_terms(text, first_terms, &b);
  const store_term *first = &b.term[0];
  if (b.n == 0 || first->end - first->begin > PU_STORE_QUERY_MAX || shares_character(&b)) return;
  must(search(s, pu_str_of(text.ptr + first->begin, first->end - first->begin)) > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static pu_store *s;
  static int inputs;
  pu_error e;
  if (s && ++inputs % REOPEN == 0) {
    pu_store_close(s);
    s = NULL;
  }
  if (!s) must(pu_store_open(NULL, &s, &e) == PU_OK);
  const uint8_t *line = memchr(data, '\n', size);
  size_t n = line ? (size_t)(line - data) : size / 2, rest = line ? n + 1 : n;
  n = PU_MIN(n, PU_STORE_NAME_MAX / 4);
  char *exact = malloc(size - rest + 1); /* so that a read past its end is seen */
  memcpy(exact, data + rest, size - rest);
  char *text = realloc(exact, size > rest ? size - rest : 1);
  check(s, pu_str_of((const char *)data, n), pu_str_of(text, size - rest));
  free(text);
  return 0;
}
