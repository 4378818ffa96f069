/* Inside data: filters. A filter is one file in filters/ that defines one pu_filter. It measures a document, and may
 * rewrite it; what a value must be for a document to stay is a pair of bounds, which are data: presets and the user set
 * them, and they are applied again to the values in a stage's sidecars without reading a text. */
#ifndef PUYU_DATA_FILTER_H
#define PUYU_DATA_FILTER_H

#include <math.h>

#include "src/data/doc.h"

enum { PU_FILTER_MEASURES = 24 };

typedef struct pu_filter {
  const char *name;           /* "gopher_quality" */
  const char *summary;        /* one line */
  const pu_measure *measures; /* ends with a name of NULL; at most PU_FILTER_MEASURES */
  bool rewrites;              /* changes the text, or what is known of the document (its language) */
  /* What is shared by all threads and read only: tables, word lists. NULL: nothing. */
  pu_err (*open)(const pu_filter_options *o, void **shared, pu_error *e);
  void (*close)(void *shared);
  /* values: [measures], NAN when called. A filter that rewrites leaves the text in d->spare and calls pu_doc_rewritten,
   * or leaves all as it was. Work space: d->arena. */
  pu_err (*apply)(const void *shared, pu_doc *d, double *values, pu_error *e);
} pu_filter;
extern const pu_filter *const pu_filter_all[];
const pu_filter *pu_filter_find(const char *name); /* NULL: unknown */

/* A bound that a preset or the user sets: "gopher_quality.words.min=20", "…max=.inf". */
typedef struct pu_bound {
  const pu_filter *filter;
  int measure;
  double min, max;
} pu_bound;

/* Which filters run, in their order, with the bounds of each of their measures. */
typedef struct pu_filter_set {
  const pu_filter *v[64];
  pu_bound bounds[64][PU_FILTER_MEASURES];
  size_t n;
} pu_filter_set;
/* Presets ("gopher", "c4", "fineweb", "wanjuan", "web", "books", "code", …) and filters' names, joined; then changes.
 */
pu_err pu_filter_set_make(const pu_strs *names, const pu_strs *changes, pu_filter_set *out, pu_error *e) PU_MUST_USE;
/* The first measure out of its bounds, in order; -1: none. */
int pu_filter_drops(const pu_filter_set *s, size_t filter, const double *values);

#endif
