/* Formulas: a <math> element as TeX. */
#include <string.h>

#include "src/data/html/entities.h"
#include "src/data/html/extract.h"

enum { MATH_DEPTH = 64 };

typedef struct maker {
  const html_dom *d;
  pu_buf *out;
} maker;

static void node_tex(maker *m, uint32_t i, int depth);

static pu_str trimmed(pu_str s) {
  while (s.len && html_space(s.ptr[0])) s = pu_str_of(s.ptr + 1, s.len - 1);
  while (s.len && html_space(s.ptr[s.len - 1])) s.len--;
  return s;
}

/* The TeX name of a character, or NULL. Sorted by code point. */
static const char *tex_name(uint32_t cp) {
  static const struct {
    uint16_t cp;
    const char *name;
  } names[] = {{0x00AC, "\\neg"},
               {0x00B1, "\\pm"},
               {0x00B7, "\\cdot"},
               {0x00D7, "\\times"},
               {0x00F7, "\\div"},
               {0x0393, "\\Gamma"},
               {0x0394, "\\Delta"},
               {0x0398, "\\Theta"},
               {0x039B, "\\Lambda"},
               {0x03A0, "\\Pi"},
               {0x03A3, "\\Sigma"},
               {0x03A6, "\\Phi"},
               {0x03A8, "\\Psi"},
               {0x03A9, "\\Omega"},
               {0x03B1, "\\alpha"},
               {0x03B2, "\\beta"},
               {0x03B3, "\\gamma"},
               {0x03B4, "\\delta"},
               {0x03B5, "\\epsilon"},
               {0x03B6, "\\zeta"},
               {0x03B7, "\\eta"},
               {0x03B8, "\\theta"},
               {0x03B9, "\\iota"},
               {0x03BA, "\\kappa"},
               {0x03BB, "\\lambda"},
               {0x03BC, "\\mu"},
               {0x03BD, "\\nu"},
               {0x03BE, "\\xi"},
               {0x03C0, "\\pi"},
               {0x03C1, "\\rho"},
               {0x03C3, "\\sigma"},
               {0x03C4, "\\tau"},
               {0x03C5, "\\upsilon"},
               {0x03C6, "\\phi"},
               {0x03C7, "\\chi"},
               {0x03C8, "\\psi"},
               {0x03C9, "\\omega"},
               {0x03D5, "\\phi"},
               {0x2026, "\\ldots"},
               {0x2032, "'"},
               {0x2102, "\\mathbb{C}"},
               {0x210F, "\\hbar"},
               {0x2115, "\\mathbb{N}"},
               {0x211D, "\\mathbb{R}"},
               {0x2124, "\\mathbb{Z}"},
               {0x2190, "\\leftarrow"},
               {0x2192, "\\to"},
               {0x21D2, "\\Rightarrow"},
               {0x21D4, "\\Leftrightarrow"},
               {0x2200, "\\forall"},
               {0x2202, "\\partial"},
               {0x2203, "\\exists"},
               {0x2205, "\\emptyset"},
               {0x2207, "\\nabla"},
               {0x2208, "\\in"},
               {0x2209, "\\notin"},
               {0x220F, "\\prod"},
               {0x2211, "\\sum"},
               {0x2212, "-"},
               {0x221A, "\\sqrt"},
               {0x221E, "\\infty"},
               {0x2227, "\\wedge"},
               {0x2228, "\\vee"},
               {0x2229, "\\cap"},
               {0x222A, "\\cup"},
               {0x222B, "\\int"},
               {0x223C, "\\sim"},
               {0x2248, "\\approx"},
               {0x2260, "\\neq"},
               {0x2261, "\\equiv"},
               {0x2264, "\\leq"},
               {0x2265, "\\geq"},
               {0x2282, "\\subset"},
               {0x2286, "\\subseteq"},
               {0x22C5, "\\cdot"},
               {0x22EF, "\\cdots"}};
  for (size_t k = 0; k < PU_COUNT(names); k++)
    if (names[k].cp == cp) return names[k].name;
  return NULL;
}

/* Characters as TeX has them; a command that a letter follows gets a space after it. */
static void put_text(pu_buf *out, pu_str s) {
  for (size_t i = 0; i < s.len;) {
    uint32_t cp;
    size_t n = pu_utf8_next(pu_str_of(s.ptr + i, s.len - i), &cp);
    if (!n) n = 1, cp = 0xFFFD;
    const char *name = tex_name(cp);
    if (name) {
      pu_buf_puts(out, name);
      if (name[0] == '\\' && name[strlen(name) - 1] != '}') pu_buf_putc(out, ' ');
    } else if (cp < 0x80 && strchr("%#&_$", (int)cp) && cp) {
      pu_buf_printf(out, "\\%c", (char)cp);
    } else if (cp < 0x2061 || cp > 0x2064) { /* not the invisible operators */
      pu_buf_append(out, s.ptr + i, n);
    }
    i += n;
  }
}

static bool function_name(pu_str s) {
  static const char *const names[] = {"sin", "cos", "tan", "cot", "sec", "csc", "log", "ln",  "exp", "lim",
                                      "max", "min", "sup", "inf", "det", "dim", "ker", "gcd", "arg", "deg"};
  for (size_t k = 0; k < PU_COUNT(names); k++)
    if (pu_str_eq(s, pu_str_c(names[k]))) return true;
  return false;
}

static void leaf(maker *m, uint32_t i) {
  pu_buf text;
  pu_buf_init(&text, 1 << 16);
  html_text(m->d, i, &text);
  pu_str s = pu_str_of(text.data, text.len);
  html_tag tag = (html_tag)m->d->nodes[i].tag;
  uint32_t cp;
  bool single = s.len && pu_utf8_next(s, &cp) == s.len;
  if (tag == HTML_MTEXT_ && s.len)
    pu_buf_printf(m->out, "\\text{%.*s}", (int)s.len, s.ptr);
  else if (tag == HTML_MI_ && function_name(s))
    pu_buf_printf(m->out, "\\%.*s ", (int)s.len, s.ptr);
  else if (tag == HTML_MI_ && s.len && !single) {
    pu_buf_puts(m->out, "\\mathrm{");
    put_text(m->out, s);
    pu_buf_putc(m->out, '}');
  } else if (tag == HTML_MO_ && single && (s.ptr[0] == '{' || s.ptr[0] == '}')) {
    pu_buf_printf(m->out, "\\%c", s.ptr[0]);
  } else {
    put_text(m->out, s);
  }
  pu_buf_deinit(&text);
}

/* Elements below i, at most max. */
static unsigned children(const html_dom *d, uint32_t i, uint32_t *out, unsigned max) {
  unsigned n = 0;
  for (uint32_t c = i + 1; c < d->nodes[i].end && n < max; c = d->nodes[c].end)
    if (d->nodes[c].tag != HTML_TEXT) out[n++] = c;
  return n;
}

static void all(maker *m, uint32_t i, int depth) {
  for (uint32_t c = i + 1; c < m->d->nodes[i].end; c = m->d->nodes[c].end)
    if (m->d->nodes[c].tag != HTML_TEXT) node_tex(m, c, depth);
}

static void group(maker *m, uint32_t i, int depth) {
  pu_buf_putc(m->out, '{');
  node_tex(m, i, depth);
  pu_buf_putc(m->out, '}');
}

static void scripts(maker *m, uint32_t i, int depth, const char *first, const char *second) {
  uint32_t c[3];
  unsigned n = children(m->d, i, c, 3);
  if (n > 0) node_tex(m, c[0], depth);
  if (n > 1) {
    while (m->out->len && m->out->data[m->out->len - 1] == ' ') m->out->data[--m->out->len] = 0;
    pu_buf_puts(m->out, first);
    group(m, c[1], depth);
  }
  if (n > 2 && second) {
    pu_buf_puts(m->out, second);
    group(m, c[2], depth);
  }
}

static void table(maker *m, uint32_t i, int depth) {
  const html_dom *d = m->d;
  pu_buf_puts(m->out, "\\begin{matrix}");
  bool first_row = true;
  for (uint32_t r = i + 1; r < d->nodes[i].end; r = d->nodes[r].end) {
    if (d->nodes[r].tag != HTML_MTR_) continue;
    if (!first_row) pu_buf_puts(m->out, " \\\\ ");
    first_row = false;
    bool first = true;
    for (uint32_t c = r + 1; c < d->nodes[r].end; c = d->nodes[c].end) {
      if (d->nodes[c].tag != HTML_MTD_) continue;
      if (!first) pu_buf_puts(m->out, " & ");
      first = false;
      all(m, c, depth);
    }
  }
  pu_buf_puts(m->out, "\\end{matrix}");
}

static void fenced(maker *m, uint32_t i, int depth) {
  pu_str open = html_attr(&m->d->nodes[i], "open"), close = html_attr(&m->d->nodes[i], "close");
  put_text(m->out, open.ptr ? open : pu_str_c("("));
  bool first = true;
  for (uint32_t c = i + 1; c < m->d->nodes[i].end; c = m->d->nodes[c].end) {
    if (m->d->nodes[c].tag == HTML_TEXT) continue;
    if (!first) pu_buf_putc(m->out, ',');
    first = false;
    node_tex(m, c, depth);
  }
  put_text(m->out, close.ptr ? close : pu_str_c(")"));
}

static void command(maker *m, uint32_t i, int depth, const char *name) {
  uint32_t c[2];
  unsigned n = children(m->d, i, c, 2);
  pu_buf_puts(m->out, name);
  for (unsigned k = 0; k < n; k++) group(m, c[k], depth);
}

static void root(maker *m, uint32_t i, int depth) {
  uint32_t c[2];
  if (children(m->d, i, c, 2) < 2) return;
  pu_buf_puts(m->out, "\\sqrt[");
  node_tex(m, c[1], depth);
  pu_buf_putc(m->out, ']');
  group(m, c[0], depth);
}

static void node_tex(maker *m, uint32_t i, int depth) {
  if (depth > MATH_DEPTH) return;
  depth++;
  switch ((html_tag)m->d->nodes[i].tag) {
  case HTML_MI_:
  case HTML_MN_:
  case HTML_MO_:
  case HTML_MTEXT_:
    leaf(m, i);
    break;
  case HTML_MFRAC_:
    command(m, i, depth, "\\frac");
    break;
  case HTML_MSQRT_:
    pu_buf_puts(m->out, "\\sqrt{");
    all(m, i, depth);
    pu_buf_putc(m->out, '}');
    break;
  case HTML_MROOT_:
    root(m, i, depth);
    break;
  case HTML_MSUB_:
  case HTML_MUNDER_:
    scripts(m, i, depth, "_", NULL);
    break;
  case HTML_MSUP_:
  case HTML_MOVER_:
    scripts(m, i, depth, "^", NULL);
    break;
  case HTML_MSUBSUP_:
  case HTML_MUNDEROVER_:
    scripts(m, i, depth, "_", "^");
    break;
  case HTML_MTABLE_:
    table(m, i, depth);
    break;
  case HTML_MFENCED_:
    fenced(m, i, depth);
    break;
  case HTML_MSPACE_:
    pu_buf_putc(m->out, ' ');
    break;
  case HTML_MPHANTOM_:
  case HTML_ANNOTATION_:
    break;
  default:
    all(m, i, depth);
    break;
  }
}

/* {\displaystyle x} is how some wikis wrap every formula. */
static pu_str unwrapped(pu_str s) {
  static const char *const wraps[] = {"{\\displaystyle ", "{\\textstyle "};
  s = trimmed(s);
  for (size_t k = 0; k < PU_COUNT(wraps); k++) {
    size_t n = strlen(wraps[k]);
    if (s.len > n && memcmp(s.ptr, wraps[k], n) == 0 && s.ptr[s.len - 1] == '}')
      return trimmed(pu_str_of(s.ptr + n, s.len - n - 1));
  }
  return s;
}

static void put_decoded(pu_buf *out, pu_str s) {
  pu_buf text;
  pu_buf_init(&text, 1 << 20);
  html_decode(&text, s);
  pu_str tex = unwrapped(pu_str_of(text.data, text.len));
  for (size_t i = 0; i < tex.len; i++) pu_buf_putc(out, html_space(tex.ptr[i]) ? ' ' : tex.ptr[i]);
  pu_buf_deinit(&text);
}

void html_math(const html_dom *d, uint32_t node, pu_buf *out) {
  const html_node *math = &d->nodes[node];
  for (uint32_t i = node + 1; i < math->end; i++) {
    const html_node *n = &d->nodes[i];
    if (n->tag != HTML_ANNOTATION_ || n->end != i + 2 || d->nodes[i + 1].tag != HTML_TEXT) continue;
    pu_str encoding = html_attr(n, "encoding");
    if (!memmem(encoding.ptr ? encoding.ptr : "", encoding.len, "tex", 3) && !html_same(encoding, "latex") &&
        !html_same(encoding, "application/x-latex"))
      continue;
    put_decoded(out, pu_str_of(d->nodes[i + 1].ptr, d->nodes[i + 1].len));
    return;
  }
  pu_str alt = html_attr(math, "alttext");
  if (alt.len) {
    put_decoded(out, alt);
    return;
  }
  maker m = {d, out};
  size_t before = out->len;
  all(&m, node, 0);
  while (out->len > before && out->data[out->len - 1] == ' ') out->data[--out->len] = 0;
}
