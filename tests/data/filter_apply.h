/* One document through one filter, for tests. */
#ifndef PUYU_TESTS_FILTER_APPLY_H
#define PUYU_TESTS_FILTER_APPLY_H

#include "src/data/filter.h"
#include "tests/test.h"

static pu_doc doc;
static double values[PU_FILTER_MEASURES];
static pu_filter_options options = {.nfkc = true, .mask = true};

/* What stands in doc before (its type, language, URL) is kept. */
static void apply_to_doc(const char *name) {
  const pu_filter *f = pu_filter_find(name);
  pu_error e;
  void *shared = NULL;
  assert_non_null(f);
  for (int i = 0; i < PU_FILTER_MEASURES; i++) values[i] = NAN;
  if (f->open) assert_ok(f->open(&options, &shared, &e), &e);
  assert_ok(f->apply(shared, &doc, values, &e), &e);
  if (f->close) f->close(shared);
  assert_true(pu_buf_putc(&doc.text, '\0')); /* an empty text has a NUL, too */
  doc.text.len--;
  doc.seen = false;
}

static void apply(const char *name, const char *text) {
  pu_doc_clear(&doc);
  assert_true(pu_buf_puts(&doc.text, text));
  apply_to_doc(name);
}

static int measure_of(const pu_filter *f, const char *measure) {
  for (int i = 0; f->measures[i].name; i++)
    if (strcmp(f->measures[i].name, measure) == 0) return i;
  fail_msg("%s has no measure %s", f->name, measure);
  return 0;
}

static double value(const char *filter, const char *measure) {
  return values[measure_of(pu_filter_find(filter), measure)];
}

static int begin(void **state) {
  (void)state;
  pu_error e;
  return pu_doc_init(&doc, &e);
}

static int end(void **state) {
  (void)state;
  pu_doc_deinit(&doc);
  return 0;
}

#endif
