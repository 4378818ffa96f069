/* Line charts as inline SVG, coloured by the page's style sheet (classes c0, c1, … and .dots). */
#ifndef PUYU_TRAIN_CHART_H
#define PUYU_TRAIN_CHART_H

#include "puyu/base.h"

typedef struct pu_train_series {
  double *x, *y;
  size_t n, cap;
} pu_train_series;
bool pu_train_series_add(pu_train_series *s, double x, double y); /* points that are not numbers are left out */
void pu_train_series_deinit(pu_train_series *s);
/* With fewer points than this the window below holds one: smoothing changes nothing. */
enum { PU_TRAIN_SMOOTH_FROM = 80 };
/* Mean over a window around each point, a fortieth of the curve wide: narrower at the steep beginning, and at the end
 * of what came before. */
bool pu_train_series_smooth(const pu_train_series *from, pu_train_series *to);
double pu_train_series_last(const pu_train_series *s); /* NaN: empty */
double pu_train_series_median(const pu_train_series *s);

typedef struct pu_train_curve {
  const pu_train_series *s;
  const char *style; /* class names: "c0 faint" */
  const char *label; /* in the legend; NULL: not there */
  bool dots;
} pu_train_curve;

enum { PU_TRAIN_CURVES = 12 };
typedef struct pu_train_chart {
  const char *id, *title;
  int width, height;
  bool from_zero; /* the scale begins at 0 */
  bool robust;    /* the scale leaves out the highest fiftieth: a spike must not flatten the curve */
  pu_train_curve curves[PU_TRAIN_CURVES];
  size_t n;
} pu_train_chart;
/* Appends a <figure>; nothing when there are no points. */
void pu_train_chart_svg(const pu_train_chart *c, pu_buf *out);

/* "12.3k", "0.0003" */
const char *pu_train_number_text(double v, char text[32]);

#endif
