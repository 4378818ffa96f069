#include "src/train/chart.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
  MAX_POINTS = 700, /* a curve is thinned to what the eye can see */
  MAX_TICKS = 50,
};

/* ---- series ---- */

bool pu_train_series_add(pu_train_series *s, double x, double y) {
  if (!isfinite(x) || !isfinite(y)) return true;
  if (s->n == s->cap) {
    size_t cap = PU_MAX(s->cap * 2, 256);
    double *xs = realloc(s->x, cap * sizeof *xs);
    if (xs) s->x = xs;
    double *ys = xs ? realloc(s->y, cap * sizeof *ys) : NULL;
    if (!ys) return false;
    s->y = ys;
    s->cap = cap;
  }
  s->x[s->n] = x;
  s->y[s->n++] = y;
  return true;
}

void pu_train_series_deinit(pu_train_series *s) {
  free(s->x);
  free(s->y);
  *s = (pu_train_series){0};
}

bool pu_train_series_smooth(const pu_train_series *from, pu_train_series *to) {
  size_t widest = from->n / PU_TRAIN_SMOOTH_FROM;
  double sum = 0;
  for (size_t i = 0, begin = 0, end = 0; i < from->n; i++) {
    size_t left = PU_MIN(widest, i), right = PU_MIN(left, from->n - 1 - i);
    while (end < i + right + 1) sum += from->y[end++];
    while (begin < i - left) sum -= from->y[begin++];
    if (!pu_train_series_add(to, from->x[i], sum / (double)(end - begin))) return false;
  }
  return true;
}

double pu_train_series_last(const pu_train_series *s) {
  return s->n ? s->y[s->n - 1] : NAN;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double *sorted_values(const pu_train_series *s) {
  double *v = s->n ? malloc(s->n * sizeof *v) : NULL;
  if (!v) return NULL;
  memcpy(v, s->y, s->n * sizeof *v);
  qsort(v, s->n, sizeof *v, by_value);
  return v;
}

double pu_train_series_median(const pu_train_series *s) {
  double *v = sorted_values(s), median = v ? v[s->n / 2] : NAN;
  free(v);
  return median;
}

/* ---- text ---- */

const char *pu_train_number_text(double v, char text[32]) {
  static const struct {
    double from, size; /* from: what three digits (four without a unit) would round up to a power of ten */
    const char *unit;
  } units[] = {
      {999.5e12, 1e15, "P"}, {999.5e9, 1e12, "T"}, {999.5e6, 1e9, "G"}, {999.5e3, 1e6, "M"}, {9999.5, 1e3, "k"}};
  if (!isfinite(v)) {
    snprintf(text, 32, "–");
    return text;
  }
  size_t i = 0;
  while (i < PU_COUNT(units) && fabs(v) < units[i].from) i++;
  if (i < PU_COUNT(units))
    snprintf(text, 32, "%.3g%s", v / units[i].size, units[i].unit);
  else
    snprintf(text, 32, "%.4g", v);
  return text;
}

/* ---- scales ---- */

typedef struct range {
  double low, high, step;
} range;

/* 1, 2 or 5 times a power of ten, so that about `ticks` of them span the range. */
static double nice_step(double span, int ticks) {
  double raw = span / ticks, power = pow(10, floor(log10(raw))), f = raw / power;
  return (f <= 1 ? 1 : f <= 2 ? 2 : f <= 5 ? 5 : 10) * power;
}

static range scale_of(double low, double high, bool from_zero, int ticks) {
  if (!(high > low)) {
    double around = fabs(low) > 0 ? fabs(low) * 0.1 : 1;
    low -= around, high += around;
  }
  double pad = (high - low) * 0.05;
  return (range){from_zero ? low : low - pad, high + pad, nice_step(high - low, ticks)};
}

static void widen(range *r, const pu_train_series *s, bool robust) {
  double *v = sorted_values(s);
  if (!v) return;
  size_t cut = robust ? s->n / 50 : 0;
  r->low = fmin(r->low, v[0]);
  r->high = fmax(r->high, v[s->n - 1 - cut]);
  free(v);
}

/* ---- drawing ---- */

typedef struct frame {
  range x, y;
  double left, top, right, bottom;
} frame;

static double at_x(const frame *f, double v) {
  return f->left + (v - f->x.low) / (f->x.high - f->x.low) * (f->right - f->left);
}

static double at_y(const frame *f, double v) {
  return f->bottom - (v - f->y.low) / (f->y.high - f->y.low) * (f->bottom - f->top);
}

/* The i-th tick of a scale. Counted, not summed up: beside a large number a small step may add nothing. */
static double tick(const range *r, int i) {
  double v = (ceil(r->low / r->step) + i) * r->step;
  return fabs(v) < r->step * 1e-9 ? 0 : v;
}

static void draw_axes(const frame *f, pu_buf *out) {
  char text[32];
  double v;
  for (int i = 0; i < MAX_TICKS && (v = tick(&f->y, i)) <= f->y.high; i++) {
    double y = at_y(f, v);
    pu_buf_printf(out, "<path class=grid d=\"M%.1f %.1fH%.1f\"/><text x=%.1f y=%.1f text-anchor=end>%s</text>", f->left,
                  y, f->right, f->left - 7, y + 4, pu_train_number_text(v, text));
  }
  for (int i = 0; i < MAX_TICKS && (v = tick(&f->x, i)) <= f->x.high * (1 + 1e-9); i++)
    pu_buf_printf(out, "<text x=%.1f y=%.1f text-anchor=middle>%s</text>", at_x(f, v), f->bottom + 19,
                  pu_train_number_text(v, text));
}

/* The highest and the lowest point of each of a few hundred stretches: spikes stay visible. */
static void draw_line(const frame *f, const pu_train_curve *c, pu_buf *out) {
  const pu_train_series *s = c->s;
  size_t stretch = PU_MAX((s->n + MAX_POINTS / 2 - 1) / (MAX_POINTS / 2), 1);
  pu_buf_printf(out, "<polyline class=\"%s\" points=\"", c->style);
  for (size_t begin = 0; begin < s->n; begin += stretch) {
    size_t end = PU_MIN(begin + stretch, s->n), low = begin, high = begin;
    for (size_t i = begin; i < end; i++) {
      if (s->y[i] < s->y[low]) low = i;
      if (s->y[i] > s->y[high]) high = i;
    }
    size_t first = PU_MIN(low, high), second = PU_MAX(low, high);
    pu_buf_printf(out, "%.1f,%.1f ", at_x(f, s->x[first]), at_y(f, s->y[first]));
    if (second != first) pu_buf_printf(out, "%.1f,%.1f ", at_x(f, s->x[second]), at_y(f, s->y[second]));
  }
  pu_buf_puts(out, "\"/>");
}

static void draw_dots(const frame *f, const pu_train_curve *c, pu_buf *out) {
  char x[32], y[32];
  for (size_t i = 0; i < c->s->n; i++)
    pu_buf_printf(out, "<circle class=\"%s dot\" cx=%.1f cy=%.1f r=3><title>step %s: %s</title></circle>", c->style,
                  at_x(f, c->s->x[i]), at_y(f, c->s->y[i]), pu_train_number_text(c->s->x[i], x),
                  pu_train_number_text(c->s->y[i], y));
}

static void draw_legend(const pu_train_chart *c, pu_buf *out) {
  pu_buf_puts(out, "<figcaption><b>");
  pu_buf_html(out, pu_str_c(c->title));
  pu_buf_puts(out, "</b>");
  for (size_t i = 0; i < c->n; i++) {
    if (!c->curves[i].label || c->curves[i].s->n == 0) continue;
    pu_buf_printf(out, "<span><i class=\"%s\"></i>", c->curves[i].style);
    pu_buf_html(out, pu_str_c(c->curves[i].label));
    pu_buf_puts(out, "</span>");
  }
  pu_buf_puts(out, "</figcaption>");
}

void pu_train_chart_svg(const pu_train_chart *c, pu_buf *out) {
  range x = {INFINITY, -INFINITY, 0}, y = {c->from_zero ? 0 : INFINITY, -INFINITY, 0};
  for (size_t i = 0; i < c->n; i++) {
    const pu_train_series *s = c->curves[i].s;
    if (s->n == 0) continue;
    x.low = fmin(x.low, s->x[0]);
    x.high = fmax(x.high, s->x[s->n - 1]);
    widen(&y, s, c->robust && s->n >= 100);
  }
  if (!(x.high >= x.low)) return;
  frame f = {.left = 56, .top = 10, .right = c->width - 22, .bottom = c->height - 28};
  f.y = scale_of(y.low, y.high, c->from_zero, c->height / 55);
  f.x = (range){x.low, x.high > x.low ? x.high : x.low + 1, 0};
  f.x.step = fmax(nice_step(f.x.high - f.x.low, c->width / 90), 1);
  pu_buf_printf(out, "<figure id=%s>", c->id);
  draw_legend(c, out);
  pu_buf_printf(out,
                "<svg viewBox=\"0 0 %d %d\" role=img aria-label=\"%s\"><clipPath id=%s-in><rect x=%.0f y=%.0f "
                "width=%.0f height=%.0f /></clipPath>",
                c->width, c->height, c->title, c->id, f.left, f.top - 4, f.right - f.left + 4, f.bottom - f.top + 4);
  draw_axes(&f, out);
  pu_buf_printf(out, "<g clip-path=\"url(#%s-in)\">", c->id);
  for (size_t i = 0; i < c->n; i++) {
    if (c->curves[i].s->n > 1 || !c->curves[i].dots) draw_line(&f, &c->curves[i], out);
    if (c->curves[i].dots) draw_dots(&f, &c->curves[i], out);
  }
  pu_buf_puts(out, "</g></svg></figure>\n");
}
