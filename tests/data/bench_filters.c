/* Megabytes a second and core of each filter over files, and of those of gopher, c4 and fineweb together:
 * bench_filters [-FILTER…] FILE… measures all, or what is named: "-c4", "-c4 fineweb". Each file is a document; the
 * best of five runs counts. No test: nothing depends on it. */
#include <stdio.h>
#include <string.h>

#include "src/data/filter.h"
#include "tests/data/bench_time.h"

enum { RUNS = 5, DOCS = 64 };

typedef struct bench {
  pu_buf texts[DOCS];
  size_t n, bytes;
  pu_doc doc;
} bench;

static double spend(bench *b, const pu_filter *const *filters, void **shared, size_t n, pu_error *e) {
  double spent = 0;
  for (size_t i = 0; i < b->n; i++) {
    double values[PU_FILTER_MEASURES];
    pu_doc_clear(&b->doc);
    pu_buf_append(&b->doc.text, b->texts[i].data, b->texts[i].len);
    double begin = used();
    for (size_t f = 0; f < n; f++)
      if (filters[f]->apply(shared[f], &b->doc, values, e) != PU_OK) return INFINITY;
    if (n == 0 && !pu_doc_view(&b->doc)) return INFINITY;
    spent += used() - begin;
  }
  return spent;
}

/* name: one filter, several joined by spaces, or "" for the view alone. */
static int row(bench *b, const char *name) {
  static const pu_filter_options options = {.mask = true, .nfkc = true};
  const pu_filter *filters[8];
  void *shared[8] = {0};
  char names[256];
  size_t n = 0;
  double best = INFINITY;
  pu_error e = {0};
  snprintf(names, sizeof names, "%s", name);
  for (char *at = names, *one; (one = strsep(&at, " "));)
    if ((filters[n] = pu_filter_find(one))) n++;
  for (size_t f = 0; f < n; f++)
    if (filters[f]->open && filters[f]->open(&options, &shared[f], &e) != PU_OK) return fprintf(stderr, "%s\n", e.msg);
  for (int run = 0; run < RUNS; run++) best = PU_MIN(best, spend(b, filters, shared, n, &e));
  for (size_t f = 0; f < n; f++)
    if (filters[f]->close) filters[f]->close(shared[f]);
  printf("%-56s %8.1f MB/s\n", *name ? name : "(view)", (double)b->bytes / best / 1e6);
  return 0;
}

int main(int argc, char **argv) {
  static const char *const rows[] = {"",
                                     "normalise",
                                     "gopher_quality",
                                     "gopher_repetition",
                                     "c4",
                                     "c4_fineweb",
                                     "fineweb",
                                     "wanjuan",
                                     "mask",
                                     "gopher_quality gopher_repetition c4 fineweb"};
  static bench b;
  pu_error e = {0};
  if (pu_doc_init(&b.doc, &e) != PU_OK) return fprintf(stderr, "%s\n", e.msg);
  int named = 0;
  while (named + 1 < argc && argv[named + 1][0] == '-') named++;
  for (int i = named + 1; i < argc && b.n < DOCS; i++, b.n++) {
    pu_buf_init(&b.texts[b.n], PU_DOC_MAX);
    if (pu_file_read(argv[i], PU_DOC_MAX, &b.texts[b.n], &e) != PU_OK) return fprintf(stderr, "%s\n", e.msg);
    b.bytes += b.texts[b.n].len;
  }
  printf("%zu documents, %.1f MB\n", b.n, (double)b.bytes / 1e6);
  for (int i = 1; i <= named; i++)
    if (row(&b, argv[i] + 1)) return 1;
  for (size_t i = 0; i < PU_COUNT(rows) && named == 0; i++)
    if (row(&b, rows[i])) return 1;
  for (size_t i = 0; i < b.n; i++) pu_buf_deinit(&b.texts[i]);
  pu_doc_deinit(&b.doc);
  return 0;
}
