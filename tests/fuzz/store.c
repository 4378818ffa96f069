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

static int first_term(void *arg, const store_term *t) {
  *(store_term *)arg = *t;
  return 1;
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
  store_term term;
  pu_error e;
  must(pu_store_begin(s, NULL, &e) == PU_OK);
  must(pu_store_replace(s, source, (pu_store_stamp){0}, &e) == PU_OK);
  must(pu_store_put(s, source, &d, &e) == PU_OK);
  must(pu_store_commit(s, &e) == PU_OK);
  (void)search(s, query);
  if (store_terms(text, first_term, &term) == 0 || term.end - term.begin > PU_STORE_QUERY_MAX) return;
  must(search(s, pu_str_of(text.ptr + term.begin, term.end - term.begin)) > 0);
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
