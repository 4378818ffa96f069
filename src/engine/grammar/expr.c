/* Expressions: small immutable trees in an arena. */
#include <stdlib.h>
#include <string.h>

#include "src/engine/grammar/grammar.h"

enum { ARENA_MAX = 256 << 20, SURROGATES = 0xD800, AFTER_SURROGATES = 0xE000 };

pu_err g_rules_init(g_rules *g, pu_error *e) {
  *g = (g_rules){0};
  PU_TRY(pu_arena_create(ARENA_MAX, &g->a, e));
  g->v = pu_arena_zalloc(g->a, G_RULES_MAX * sizeof *g->v);
  if (g->v) return PU_OK;
  g_rules_deinit(g);
  return pu_fail(e, PU_ERR_NOMEM, "no memory for a grammar");
}

void g_rules_deinit(g_rules *g) {
  pu_arena_free(g->a);
  *g = (g_rules){0};
}

int32_t g_rule_new(g_rules *g) {
  if (g->n < G_RULES_MAX) return g->n++;
  g->failed = true;
  return 0;
}

static void *take(g_rules *g, size_t bytes) {
  void *p = g->failed ? NULL : pu_arena_zalloc(g->a, bytes);
  if (!p) g->failed = true;
  return p;
}

static g_expr *make(g_rules *g, g_expr like) {
  g_expr *x = take(g, sizeof *x);
  if (x) *x = like;
  return x;
}

g_expr *g_text(g_rules *g, pu_str text) {
  char *copy = take(g, text.len + 1);
  if (!copy) return NULL;
  memcpy(copy, text.ptr, text.len);
  return make(g, (g_expr){.kind = G_TEXT, .text = pu_str_of(copy, text.len)});
}

g_expr *g_join(g_rules *g, g_kind kind, g_expr *const *parts, size_t n) {
  if (n == 1) return parts[0];
  g_expr **copy = take(g, (n + 1) * sizeof *copy);
  if (!copy) return NULL;
  for (size_t i = 0; i < n; i++) copy[i] = parts[i];
  return make(g, (g_expr){.kind = kind, .parts = copy, .n = n});
}

g_expr *g_repeat(g_rules *g, g_expr *x, int32_t min, int32_t max) {
  g_expr **part = take(g, sizeof *part);
  if (!part) return NULL;
  part[0] = x;
  return make(g, (g_expr){.kind = G_REPEAT, .min = min, .max = max, .parts = part, .n = 1});
}

g_expr *g_call(g_rules *g, int32_t rule) {
  return make(g, (g_expr){.kind = G_RULE, .rule = rule});
}

/* Room for one more of `size` bytes; the old place stays in the arena, which doubling bounds. */
static bool more(g_rules *g, void **v, size_t n, size_t *cap, size_t size) {
  if (n < *cap) return true;
  size_t wanted = PU_MAX((size_t)8, 2 * n);
  void *bigger = take(g, wanted * size);
  if (!bigger) return false;
  if (n) memcpy(bigger, *v, n * size);
  *v = bigger;
  *cap = wanted;
  return true;
}

void g_list_add(g_rules *g, g_list *l, g_expr *x) {
  void *v = l->v;
  if (!more(g, &v, l->n, &l->cap, sizeof *l->v)) return;
  l->v = v;
  l->v[l->n++] = x;
}

void g_ranges_add(g_rules *g, g_ranges *r, uint32_t lo, uint32_t hi) {
  void *v = r->v;
  if (!more(g, &v, r->n, &r->cap, sizeof *r->v)) return;
  r->v = v;
  r->v[r->n++] = (g_range){lo, hi};
}

/* ---- sets of characters ---- */

static int by_lo(const void *a, const void *b) {
  const g_range *x = a, *y = b;
  return (x->lo > y->lo) - (x->lo < y->lo);
}

static void add_without_surrogates(g_rules *g, g_ranges *to, uint32_t lo, uint32_t hi) {
  if (lo < SURROGATES && hi >= lo) g_ranges_add(g, to, lo, PU_MIN(hi, (uint32_t)SURROGATES - 1));
  if (hi >= AFTER_SURROGATES && hi >= lo) g_ranges_add(g, to, PU_MAX(lo, (uint32_t)AFTER_SURROGATES), hi);
}

g_expr *g_chars(g_rules *g, const g_range *ranges, size_t n, bool negated) {
  g_range *sorted = take(g, (n + 1) * sizeof *sorted);
  if (!sorted) return NULL;
  if (n) memcpy(sorted, ranges, n * sizeof *sorted);
  qsort(sorted, n, sizeof *sorted, by_lo);
  g_ranges merged = {0}, out = {0};
  for (size_t i = 0; i < n; i++) {
    if (merged.n && sorted[i].lo <= merged.v[merged.n - 1].hi + 1)
      merged.v[merged.n - 1].hi = PU_MAX(merged.v[merged.n - 1].hi, sorted[i].hi);
    else
      g_ranges_add(g, &merged, sorted[i].lo, sorted[i].hi);
  }
  uint32_t from = 0;
  for (size_t i = 0; i < merged.n; i++) {
    if (!negated) add_without_surrogates(g, &out, merged.v[i].lo, merged.v[i].hi);
    if (negated && merged.v[i].lo > from) add_without_surrogates(g, &out, from, merged.v[i].lo - 1);
    from = merged.v[i].hi + 1;
  }
  if (negated && from <= G_CHAR_MAX) add_without_surrogates(g, &out, from, G_CHAR_MAX);
  return make(g, (g_expr){.kind = G_CHARS, .ranges = out.v, .n = out.n});
}

/* ---- inside JSON strings ---- */

/* A character that cannot stand for itself between quotes, as RFC 8259 writes it. */
static g_expr *escape_of(g_rules *g, uint32_t c) {
  static const char pairs[] = "\"\"\\\\\bb\ff\nn\rr\tt";
  char text[8];
  for (const char *p = pairs; *p; p += 2)
    if ((uint8_t)*p == c) {
      snprintf(text, sizeof text, "\\%c", p[1]);
      return g_textc(g, text);
    }
  snprintf(text, sizeof text, "\\u%04x", (unsigned)c);
  return g_textc(g, text);
}

static g_expr *escaped_chars(g_rules *g, const g_range *ranges, size_t n) {
  g_ranges plain = {0};
  g_list all = {0};
  for (size_t i = 0; i < n; i++) {
    uint32_t from = ranges[i].lo;
    for (uint32_t c = from; c <= PU_MIN(ranges[i].hi, (uint32_t)'\\'); c++) {
      if (c >= 0x20 && c != '"' && c != '\\') continue;
      g_list_add(g, &all, escape_of(g, c));
      if (c > from) g_ranges_add(g, &plain, from, c - 1);
      from = c + 1;
    }
    if (from <= ranges[i].hi) g_ranges_add(g, &plain, from, ranges[i].hi);
  }
  g_list_add(g, &all, g_chars(g, plain.v, plain.n, false));
  return g_join(g, G_ALT, all.v, all.n);
}

static g_expr *escaped_text(g_rules *g, pu_str text) {
  pu_buf b;
  pu_buf_init(&b, PU_BUF_MAX);
  g_expr *x = NULL;
  if (pu_buf_json_str(&b, text))
    x = g_text(g, pu_str_of(b.data + 1, b.len - 2)); /* without its quotes */
  else
    g->failed = true;
  pu_buf_deinit(&b);
  return x;
}

g_expr *g_json_escaped(g_rules *g, const g_expr *x) {
  if (!x) return NULL;
  if (x->kind == G_CHARS) return escaped_chars(g, x->ranges, x->n);
  if (x->kind == G_TEXT) return escaped_text(g, x->text);
  g_expr **parts = take(g, (x->n + 1) * sizeof *parts);
  if (!parts) return NULL;
  for (size_t i = 0; i < x->n; i++) parts[i] = g_json_escaped(g, x->parts[i]);
  g_expr copy = *x;
  copy.parts = parts;
  return make(g, copy);
}
