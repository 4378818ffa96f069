/* The nodes that are left, as Markdown. */
#include <string.h>
#include <strings.h>

#include "src/data/html/entities.h"
#include "src/data/html/extract.h"

enum { NEST = 8 }; /* quotes and list items that are written as such inside each other; deeper ones are plain */

typedef struct nest {
  bool quote;
  bool started; /* a line of it was written: an item's mark, a quote's first */
  int number;   /* of an ordered item; 0: a dash */
} nest;

typedef struct writer {
  const html_dom *d;
  const html_stat *stats;
  pu_buf *out;
  size_t start; /* where the page's text begins in out */
  int breaks;   /* line ends that the next text has before it: 0, 1, 2 */
  bool space;   /* a space before the next text */
  bool flat;    /* no line ends */
  bool cell;    /* in a table's cell: flat, and bars are escaped */
  nest in[NEST];
  unsigned depth;
  pu_buf text; /* for what has to be looked at before it is written */
} writer;

/* ---- lines ------------------------------------------------------------------------------------------------------- */

static void want(writer *w, int breaks) {
  if (w->flat) {
    w->space = true;
    return;
  }
  if (w->depth && !w->in[w->depth - 1].quote && !w->in[w->depth - 1].started) return;
  w->breaks = PU_MAX(w->breaks, breaks);
}

/* The marks that a line begins with. An empty one has those of quotes only. */
static void prefix(writer *w, bool empty) {
  for (unsigned i = 0; i < w->depth; i++) {
    nest *n = &w->in[i];
    if (empty && (!n->quote || !n->started)) continue;
    if (n->quote)
      pu_buf_puts(w->out, empty ? ">" : "> ");
    else if (n->started)
      pu_buf_puts(w->out, n->number ? "   " : "  ");
    else if (n->number)
      pu_buf_printf(w->out, "%d. ", n->number);
    else
      pu_buf_puts(w->out, "- ");
  }
  for (unsigned i = 0; i < w->depth && !empty; i++) w->in[i].started = true;
}

/* Before text: line ends, marks or a space, whatever is due. */
static void begin(writer *w) {
  bool first = w->out->len == w->start;
  if (w->breaks || first) {
    if (!first) {
      pu_buf_putc(w->out, '\n');
      if (w->breaks > 1) {
        prefix(w, true);
        pu_buf_putc(w->out, '\n');
      }
    }
    prefix(w, false);
  } else if (w->space) {
    pu_buf_putc(w->out, ' ');
  }
  w->breaks = 0;
  w->space = false;
}

/* Is it a character that only takes room: a no-break or zero-width space and the like? */
static bool blank(uint32_t cp) {
  return cp <= ' ' || cp == 0xA0 || (cp >= 0x2000 && cp <= 0x200B) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F ||
         cp == 0x3000 || cp == 0xFEFF;
}

static void put_char(writer *w, const char *s, size_t n) {
  if (w->breaks || w->space || w->out->len == w->start) begin(w);
  if (w->cell && *s == '|') pu_buf_putc(w->out, '\\');
  pu_buf_append(w->out, s, n);
}

/* A character by its number. */
static void put_cp(writer *w, uint32_t cp) {
  if (blank(cp)) {
    if (cp != 0x200B && cp != 0xFEFF) w->space = true;
    return;
  }
  if (cp == 0xAD) return;
  char bytes[8];
  pu_buf one = {.data = bytes, .cap = sizeof bytes, .max = sizeof bytes};
  pu_utf8_put(&one, cp);
  put_char(w, bytes, one.len);
}

/* Text of the page: runs of spaces become one. */
static void put_text(writer *w, pu_str s) {
  size_t i = 0;
  while (i < s.len) {
    size_t from = i;
    while (i < s.len && (unsigned char)s.ptr[i] > ' ' && (unsigned char)s.ptr[i] < 0x80 && s.ptr[i] != '&' &&
           s.ptr[i] != '|')
      i++;
    if (i > from) {
      put_char(w, s.ptr + from, i - from);
      continue;
    }
    uint32_t cp;
    size_t n = s.ptr[i] == '&' ? html_entity(pu_str_of(s.ptr + i, s.len - i), &cp) : 0;
    if (!n) n = pu_utf8_next(pu_str_of(s.ptr + i, s.len - i), &cp);
    if (!n) n = 1, cp = 0xFFFD;
    put_cp(w, cp);
    i += n;
  }
}

/* As it is, on the line that is being written. */
static void put_plain(writer *w, pu_str s) {
  if (!s.len) return;
  begin(w);
  for (size_t i = 0; i < s.len; i++) {
    if (w->cell && s.ptr[i] == '|') pu_buf_putc(w->out, '\\');
    pu_buf_putc(w->out, s.ptr[i]);
  }
}

void html_text(const html_dom *d, uint32_t node, pu_buf *out) {
  writer w = {.d = d, .out = out, .start = out->len, .flat = true};
  for (uint32_t i = node; i < d->nodes[node].end; i++) {
    const html_node *n = &d->nodes[i];
    if (n->tag == HTML_TEXT)
      put_text(&w, pu_str_of(n->ptr, n->len));
    else if (html_is(n, HTML_BLOCK) || n->tag == HTML_BR_)
      w.space = true;
    if (i > node && html_is(n, HTML_GONE)) i = n->end - 1;
  }
}

/* ---- code -------------------------------------------------------------------------------------------------------- */

static bool line_numbers(const html_node *n) {
  pu_str c = html_attr(n, "class");
  static const char *const words[] = {"gutter", "lineno", "line-number", "linenumber", "rouge-gutter"};
  for (size_t k = 0; k < PU_COUNT(words); k++)
    if (c.len && memmem(c.ptr, c.len, words[k], strlen(words[k]))) return true;
  return false;
}

/* Appends text below a node with its lines as they are. */
static void verbatim(writer *w, uint32_t node, pu_buf *out) {
  const html_dom *d = w->d;
  size_t start = out->len;
  uint32_t block_end = 0;
  for (uint32_t i = node + 1; i < d->nodes[node].end; i++) {
    const html_node *n = &d->nodes[i];
    if (block_end && i >= block_end) {
      if (out->len > start && out->data[out->len - 1] != '\n') pu_buf_putc(out, '\n');
      block_end = 0;
    }
    if (n->tag == HTML_TEXT)
      html_decode(out, pu_str_of(n->ptr, n->len));
    else if (html_is(n, HTML_GONE) || n->tag == HTML_BUTTON_ || line_numbers(n))
      i = n->end - 1;
    else if (n->tag == HTML_BR_)
      pu_buf_putc(out, '\n');
    else if (html_is(n, HTML_BLOCK) && n->tag != HTML_TD_)
      block_end = n->end;
  }
}

/* The language of code by a class such as language-c, lang-c, brush: c; empty: none. */
static pu_str language(const html_dom *d, uint32_t node) {
  static const char *const marks[] = {"language-", "lang-", "highlight-source-", "brush:"};
  for (uint32_t i = node; i < PU_MIN(node + 3, d->nodes[node].end); i++) {
    pu_str c = html_attr(&d->nodes[i], "class");
    for (size_t k = 0; k < PU_COUNT(marks) && c.len; k++) {
      const char *p = memmem(c.ptr, c.len, marks[k], strlen(marks[k]));
      if (!p) continue;
      size_t from = (size_t)(p - c.ptr) + strlen(marks[k]), to;
      while (from < c.len && html_space(c.ptr[from])) from++;
      for (to = from; to < c.len && !html_space(c.ptr[to]) && c.ptr[to] != ';' && c.ptr[to] != '`'; to++) {}
      if (to - from <= 20) return pu_str_of(c.ptr + from, to - from);
    }
  }
  return (pu_str){0};
}

static void put_pre(writer *w, uint32_t node) {
  pu_buf_clear(&w->text);
  verbatim(w, node, &w->text);
  pu_str s = pu_str_of(w->text.data, w->text.len);
  while (s.len && (s.ptr[0] == '\n' || s.ptr[0] == '\r')) s = pu_str_of(s.ptr + 1, s.len - 1);
  while (s.len && html_space(s.ptr[s.len - 1])) s.len--;
  if (!s.len) return;
  if (w->flat) {
    put_text(w, s);
    return;
  }
  const char *fence = memmem(s.ptr, s.len, "```", 3) ? "~~~~" : "```";
  want(w, 2);
  begin(w);
  pu_str lang = language(w->d, node);
  pu_buf_printf(w->out, "%s%.*s", fence, (int)lang.len, lang.len ? lang.ptr : "");
  for (size_t i = 0; i <= s.len;) {
    const char *end = i < s.len ? memchr(s.ptr + i, '\n', s.len - i) : NULL;
    size_t to = end ? (size_t)(end - s.ptr) : s.len, n = to - i;
    if (n && s.ptr[to - 1] == '\r') n--;
    pu_buf_putc(w->out, '\n');
    prefix(w, n == 0);
    if (n) pu_buf_append(w->out, s.ptr + i, n);
    i = to + 1;
  }
  pu_buf_putc(w->out, '\n');
  prefix(w, false);
  pu_buf_puts(w->out, fence);
  want(w, 2);
}

static void put_code(writer *w, uint32_t node) {
  pu_buf_clear(&w->text);
  html_text(w->d, node, &w->text);
  const char *first = w->d->nodes[node].end > node + 1 ? w->d->nodes[node + 1].ptr : " ";
  if (w->d->nodes[node].end > node + 1 && w->d->nodes[node + 1].len && html_space(*first)) w->space = true;
  if (!w->text.len) return;
  bool ticks = !memchr(w->text.data, '`', w->text.len);
  begin(w);
  if (ticks) pu_buf_putc(w->out, '`');
  put_plain(w, pu_str_of(w->text.data, w->text.len));
  if (ticks) pu_buf_putc(w->out, '`');
}

/* ---- formulas ---------------------------------------------------------------------------------------------------- */

static bool has_word(pu_str s, const char *word) {
  return s.len && memmem(s.ptr, s.len, word, strlen(word)) != NULL;
}

static void put_tex(writer *w, bool display) {
  for (size_t i = 0; i < w->text.len; i++)
    if (w->text.data[i] == '\n') w->text.data[i] = ' ';
  if (!w->text.len) return;
  if (display) want(w, 2);
  begin(w);
  const char *dollars = display && !w->flat ? "$$" : "$";
  pu_buf_puts(w->out, dollars);
  put_plain(w, pu_str_of(w->text.data, w->text.len));
  pu_buf_puts(w->out, dollars);
  if (display) want(w, 2);
}

/* Stands it on a line of its own? Its own word, or that of the box which the page's renderer put it into. */
static bool displayed(const html_dom *d, uint32_t i) {
  pu_str how = html_attr(&d->nodes[i], "display");
  if (how.len) return html_same(how, "block");
  for (int up = 0; up < 5 && i; up++, i = d->nodes[i].parent) {
    pu_str c = html_attr(&d->nodes[i], "class");
    if (has_word(c, "katex-display") || has_word(c, "MathJax_Display") || has_word(c, "math-display")) return true;
    how = html_attr(&d->nodes[i], "display");
    if (how.len) return html_same(how, "true") || html_same(how, "block");
  }
  return false;
}

/* A formula in one of its shapes: <math>, MathJax's script, the picture of a formula. False: node i is none. */
static bool formula(writer *w, uint32_t i) {
  const html_node *n = &w->d->nodes[i];
  pu_buf_clear(&w->text);
  if (n->tag == HTML_MATH_) {
    html_math(w->d, i, &w->text);
    put_tex(w, displayed(w->d, i));
    return true;
  }
  if (n->tag == HTML_SCRIPT_) {
    pu_str type = html_attr(n, "type");
    if (!has_word(type, "math/tex")) return false;
    if (n->end > i + 1) pu_buf_append(&w->text, w->d->nodes[i + 1].ptr, w->d->nodes[i + 1].len);
    put_tex(w, has_word(type, "display"));
    return true;
  }
  if (n->tag == HTML_IMG_) {
    pu_str c = html_attr(n, "class"), alt = html_attr(n, "alt");
    bool tex = has_word(c, "latex") || has_word(c, "tex ") || html_same(c, "tex");
    if (!tex || has_word(c, "fallback") || !alt.len) return false;
    html_decode(&w->text, alt);
    put_tex(w, false);
    return true;
  }
  return false;
}

/* What a renderer shows beside the source of a formula: it would be said twice. */
static bool rendered(const html_node *n) {
  if (n->tag != HTML_SPAN_ && n->tag != HTML_DIV_) return false;
  pu_str c = html_attr(n, "class");
  return has_word(c, "katex-html") || has_word(c, "MathJax_Preview") || html_same(c, "MathJax") ||
         html_same(c, "MathJax_SVG") || html_same(c, "MathJax_CHTML") || html_same(c, "mjx-chtml");
}

/* ---- tables ------------------------------------------------------------------------------------------------------ */

static void put_nodes(writer *w, uint32_t from, uint32_t to);

/* A table of data: two rows and two columns at least, cells that are short, no table inside. */
static bool data_table(const writer *w, uint32_t node) {
  const html_dom *d = w->d;
  uint32_t rows = 0, cells = 0, most = 0, in_row = 0, long_cells = 0;
  for (uint32_t i = node + 1; i < d->nodes[node].end; i++) {
    const html_node *n = &d->nodes[i];
    if (n->tag == HTML_TABLE_ || n->tag == HTML_PRE_) return false;
    if (n->tag == HTML_TR_) rows++, in_row = 0;
    if (n->tag != HTML_TD_ && n->tag != HTML_TH_) continue;
    cells++;
    most = PU_MAX(most, ++in_row);
    long_cells += w->stats[i].text > 400;
  }
  return rows >= 2 && most >= 2 && most <= 64 && cells > rows && long_cells * 10 <= cells;
}

static void put_row(writer *w, uint32_t row, bool head) {
  const html_dom *d = w->d;
  unsigned cells = 0;
  w->breaks = PU_MAX(w->breaks, 1);
  begin(w);
  pu_buf_putc(w->out, '|');
  for (uint32_t c = row + 1; c < d->nodes[row].end; c = d->nodes[c].end) {
    if (d->nodes[c].tag != HTML_TD_ && d->nodes[c].tag != HTML_TH_) continue;
    w->flat = w->cell = true;
    w->space = true;
    size_t before = w->out->len;
    put_nodes(w, c, d->nodes[c].end);
    if (w->out->len == before) pu_buf_putc(w->out, ' ');
    pu_buf_puts(w->out, " |");
    w->flat = w->cell = false;
    w->space = false;
    cells++;
  }
  if (!head) return;
  pu_buf_putc(w->out, '\n');
  prefix(w, false);
  pu_buf_putc(w->out, '|');
  for (unsigned k = 0; k < cells; k++) pu_buf_puts(w->out, " --- |");
}

static void put_table(writer *w, uint32_t node) {
  const html_dom *d = w->d;
  want(w, 2);
  bool head = true;
  for (uint32_t i = node + 1; i < d->nodes[node].end;) {
    const html_node *n = &d->nodes[i];
    if (n->flags & HTML_DROPPED) {
      i = n->end;
    } else if (n->tag == HTML_CAPTION_) {
      put_nodes(w, i, n->end);
      want(w, 2);
      i = n->end;
    } else if (n->tag == HTML_TR_) {
      if (w->stats[i].text) {
        put_row(w, i, head);
        head = false;
      }
      i = n->end;
    } else {
      i++;
    }
  }
  want(w, 2);
}

/* ---- elements ---------------------------------------------------------------------------------------------------- */

static int item_number(const html_dom *d, uint32_t item) {
  uint32_t list = d->nodes[item].parent;
  if (d->nodes[list].tag != HTML_OL_) return 0;
  pu_str value = html_attr(&d->nodes[list], "start");
  int n = 1;
  if (value.len && value.len < 7 && value.ptr[0] >= '1' && value.ptr[0] <= '9') {
    n = 0;
    for (size_t i = 0; i < value.len && value.ptr[i] >= '0' && value.ptr[i] <= '9'; i++)
      n = n * 10 + value.ptr[i] - '0';
  }
  return n;
}

static void enter(writer *w, uint32_t i, int *numbers) {
  const html_node *n = &w->d->nodes[i];
  html_tag tag = (html_tag)n->tag;
  if (!html_is(n, HTML_BLOCK)) return;
  if (tag == HTML_LI_) {
    int *number = &numbers[w->d->nodes[n->parent].depth];
    if (*number == 0) *number = item_number(w->d, i);
    want(w, 1);
    if (!w->flat && w->depth < NEST) w->in[w->depth] = (nest){.number = *number};
    if (*number) ++*number;
    w->depth += !w->flat && w->depth < NEST;
    return;
  }
  bool row = tag == HTML_TR_ || tag == HTML_DT_ || tag == HTML_DD_ || tag == HTML_TD_ || tag == HTML_TH_;
  bool list = tag == HTML_UL_ || tag == HTML_OL_ || tag == HTML_MENU_;
  if (list) numbers[n->depth] = 0;
  bool inner = list && w->depth && !w->in[w->depth - 1].quote;
  want(w, row || inner ? 1 : 2);
  if (tag == HTML_BLOCKQUOTE_ && !w->flat && w->depth < NEST) w->in[w->depth++] = (nest){.quote = true};
  if (tag >= HTML_H1_ && tag <= HTML_H6_ && !w->flat && w->stats[i].text) {
    begin(w);
    for (int k = 0; k <= (int)tag - (int)HTML_H1_; k++) pu_buf_putc(w->out, '#');
    w->space = true;
  }
}

static void leave(writer *w, uint32_t i, unsigned depth) {
  const html_node *n = &w->d->nodes[i];
  html_tag tag = (html_tag)n->tag;
  if (!html_is(n, HTML_BLOCK)) return;
  w->depth = depth;
  if (tag == HTML_LI_) {
    /* Items stand close, whatever blocks they hold. */
    if (!w->flat) w->breaks = PU_MIN(PU_MAX(w->breaks, 1), 1);
    return;
  }
  bool row = tag == HTML_TR_ || tag == HTML_DT_ || tag == HTML_DD_ || tag == HTML_TD_ || tag == HTML_TH_;
  want(w, row ? 1 : 2);
}

/* True: node i is written whole, with what is below it. */
static bool put_whole(writer *w, uint32_t i) {
  const html_node *n = &w->d->nodes[i];
  switch ((html_tag)n->tag) {
  case HTML_MATH_:
  case HTML_SCRIPT_:
  case HTML_IMG_:
    return formula(w, i) || html_is(n, HTML_GONE);
  case HTML_PRE_:
  case HTML_LISTING_:
  case HTML_XMP_:
    put_pre(w, i);
    return true;
  case HTML_CODE_:
    put_code(w, i);
    return true;
  case HTML_TABLE_:
    if (w->flat || !data_table(w, i)) return false;
    put_table(w, i);
    return true;
  default:
    return html_is(n, HTML_GONE) || rendered(n);
  }
}

/* A line end within a paragraph; two of them end it. */
static void line_break(writer *w) {
  if (w->flat)
    w->space = true;
  else
    w->breaks = w->breaks ? 2 : 1;
}

/* The nodes [from, to): whole subtrees. */
static void put_nodes(writer *w, uint32_t from, uint32_t to) {
  struct {
    uint32_t node;
    unsigned depth; /* of quotes and items before it */
  } open[HTML_DEPTH + 2];
  int numbers[HTML_DEPTH + 2];
  unsigned n_open = 0;
  memset(numbers, 0, sizeof numbers);
  for (uint32_t i = from; i < to || n_open;) {
    if (n_open && (i >= to || i >= w->d->nodes[open[n_open - 1].node].end)) {
      n_open--;
      leave(w, open[n_open].node, open[n_open].depth);
      continue;
    }
    const html_node *n = &w->d->nodes[i];
    if ((n->flags & HTML_DROPPED) && n->tag != HTML_SCRIPT_) {
      i = n->end;
    } else if (n->tag == HTML_TEXT) {
      put_text(w, pu_str_of(n->ptr, n->len));
      i++;
    } else if (n->tag == HTML_BR_) {
      line_break(w);
      i++;
    } else if (put_whole(w, i)) {
      i = n->end;
    } else {
      open[n_open].node = i;
      open[n_open++].depth = w->depth;
      enter(w, i, numbers);
      i++;
    }
  }
}

void html_write(const html_dom *d, const html_stat *stats, uint32_t node, pu_buf *out) {
  size_t before = out->len;
  if (out->len) pu_buf_puts(out, "\n\n");
  writer w = {.d = d, .stats = stats, .out = out, .start = out->len};
  pu_buf_init(&w.text, PU_DOC_MAX);
  put_nodes(&w, node, d->nodes[node].end);
  pu_buf_deinit(&w.text);
  if (w.text.failed) out->failed = true;
  if (out->len == w.start && before) { /* nothing to append */
    out->len = before;
    out->data[before] = 0;
  }
}
