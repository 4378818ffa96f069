/* Tags and text to an array of nodes. */
#include "src/data/html/dom.h"

#include <string.h>
#include <strings.h>

typedef struct reader {
  pu_str page;
  size_t at;
  html_node *nodes;
  uint32_t n, cap;
  uint32_t open[HTML_DEPTH];       /* the elements not closed yet, the root first */
  unsigned depth;                  /* how many */
  unsigned over;                   /* open ones that were too deep for the stack */
  uint32_t counts[HTML_TAG_COUNT]; /* of each tag among the open ones */
  uint64_t work;                   /* steps of the stack that may still be looked at for end tags */
  bool linked;
} reader;

bool html_same(pu_str a, const char *b) {
  return strlen(b) == a.len && strncasecmp(a.ptr, b, a.len) == 0;
}

static bool letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* ---- attributes -------------------------------------------------------------------------------------------------- */

bool html_attr_next(pu_str s, size_t *at, pu_str *name, pu_str *value) {
  size_t i = *at;
  while (i < s.len && (html_space(s.ptr[i]) || s.ptr[i] == '/' || s.ptr[i] == '=')) i++;
  if (i >= s.len) return false;
  size_t from = i;
  while (i < s.len && !html_space(s.ptr[i]) && s.ptr[i] != '=' && s.ptr[i] != '/') i++;
  *name = pu_str_of(s.ptr + from, i - from);
  *value = pu_str_of(s.ptr + i, 0);
  while (i < s.len && html_space(s.ptr[i])) i++;
  if (i < s.len && s.ptr[i] == '=') {
    i++;
    while (i < s.len && html_space(s.ptr[i])) i++;
    char quote = i < s.len && (s.ptr[i] == '"' || s.ptr[i] == '\'') ? s.ptr[i] : 0;
    from = i + (quote != 0);
    const char *end = quote ? memchr(s.ptr + from, quote, s.len - from) : NULL;
    size_t to = end ? (size_t)(end - s.ptr) : from;
    if (!end) {
      while (to < s.len && !html_space(s.ptr[to])) to++;
    }
    *value = pu_str_of(s.ptr + from, to - from);
    i = to + (end != NULL);
  }
  *at = i;
  return true;
}

pu_str html_attr(const html_node *n, const char *want) {
  pu_str name, value, attrs = pu_str_of(n->ptr, n->len);
  if (n->tag == HTML_TEXT) return (pu_str){0};
  for (size_t at = 0; html_attr_next(attrs, &at, &name, &value);)
    if (html_same(name, want)) return value;
  return (pu_str){0};
}

/* Where the tag whose attributes begin at `from` ends: the place of its '>', or the page's end. A quote that is never
 * closed is a plain character; there is one of each kind in a page at most, so that looking for its end costs little.
 */
static size_t tag_end(pu_str page, size_t from) {
  char before = 0;
  for (size_t i = from; i < page.len; i++) {
    char c = page.ptr[i];
    if (c == '>') return i;
    if ((c == '"' || c == '\'') && before == '=') {
      const char *end = memchr(page.ptr + i + 1, c, page.len - i - 1);
      if (end) i = (size_t)(end - page.ptr);
    }
    if (!html_space(c)) before = c;
  }
  return page.len;
}

/* ---- the open elements ------------------------------------------------------------------------------------------- */

static html_node *top(reader *r) {
  return &r->nodes[r->open[r->depth - 1]];
}

static html_node *add(reader *r, html_tag tag, pu_str s) {
  html_node *n = &r->nodes[r->n];
  *n = (html_node){s.ptr, (uint32_t)s.len,   r->depth ? r->open[r->depth - 1] : 0, r->n + 1, (uint8_t)tag,
                   0,     (uint16_t)r->depth};
  if (tag == HTML_TEXT && r->linked) n->flags |= HTML_LINKED;
  r->n++;
  return n;
}

static void pop(reader *r) {
  html_node *n = top(r);
  n->end = r->n;
  r->counts[n->tag]--;
  r->depth--;
}

/* The place in the stack of the last open `tag` that is not hidden by an element of `stops` flags; 0: none. */
static unsigned find_open(reader *r, html_tag tag, unsigned stops) {
  if (r->counts[tag] == 0) return 0;
  for (unsigned i = r->depth - 1; i > 0 && r->work > 0; i--, r->work--) {
    html_tag t = (html_tag)r->nodes[r->open[i]].tag;
    if (t == tag) return i;
    if (html_tag_flags[t] & stops) return 0;
  }
  return 0;
}

static void pop_to(reader *r, unsigned place) {
  while (r->depth > place) pop(r);
}

static void close_if_open(reader *r, html_tag tag, unsigned stops) {
  unsigned place = find_open(r, tag, stops);
  if (place) pop_to(r, place);
}

/* Closes an open `tag` (or `other`) where only marks, paragraphs and plain boxes stand between: <li> after <li>. */
static void close_item(reader *r, html_tag tag, html_tag other) {
  if (r->counts[tag] + r->counts[other] == 0) return;
  for (unsigned i = r->depth - 1; i > 0 && r->work > 0; i--, r->work--) {
    html_tag t = (html_tag)r->nodes[r->open[i]].tag;
    if (t == tag || t == other) {
      pop_to(r, i);
      return;
    }
    bool passes =
        t == HTML_P_ || t == HTML_DIV_ || t == HTML_ADDRESS_ || !(html_tag_flags[t] & (HTML_BLOCK | HTML_SCOPE));
    if (!passes) return;
  }
}

static void close_cells(reader *r, bool row, bool body) {
  if (r->counts[HTML_TABLE_] == 0) return;
  unsigned place = r->depth;
  for (unsigned i = r->depth - 1; i > 0 && r->work > 0; i--, r->work--) {
    html_tag t = (html_tag)r->nodes[r->open[i]].tag;
    if (t == HTML_TABLE_) break;
    if (t == HTML_TD_ || t == HTML_TH_ || t == HTML_CAPTION_ || (row && t == HTML_TR_) ||
        (body && (t == HTML_TBODY_ || t == HTML_THEAD_ || t == HTML_TFOOT_)))
      place = i;
  }
  pop_to(r, place);
}

/* What a start tag closes of itself. */
static void imply_ends(reader *r, html_tag tag) {
  switch (tag) {
  case HTML_LI_:
    close_item(r, HTML_LI_, HTML_LI_);
    break;
  case HTML_DT_:
  case HTML_DD_:
    close_item(r, HTML_DT_, HTML_DD_);
    break;
  case HTML_TD_:
  case HTML_TH_:
    close_cells(r, false, false);
    return;
  case HTML_TR_:
    close_cells(r, true, false);
    return;
  case HTML_TBODY_:
  case HTML_THEAD_:
  case HTML_TFOOT_:
  case HTML_CAPTION_:
    close_cells(r, true, true);
    return;
  case HTML_OPTION_:
    close_item(r, HTML_OPTION_, HTML_OPTION_);
    return;
  case HTML_BODY_:
    close_if_open(r, HTML_HEAD_, 0);
    return;
  case HTML_A_: {
    unsigned place = find_open(r, HTML_A_, HTML_BLOCK | HTML_SCOPE);
    if (place) pop_to(r, place);
    return;
  }
  default:
    break;
  }
  if (html_tag_flags[tag] & HTML_NO_P) close_if_open(r, HTML_P_, HTML_SCOPE);
  if ((html_tag_flags[tag] & HTML_BLOCK) && r->counts[HTML_HEAD_]) close_if_open(r, HTML_HEAD_, 0);
}

static bool heading(html_tag t) {
  return t >= HTML_H1_ && t <= HTML_H6_;
}

static void end_tag(reader *r, html_tag tag) {
  if (tag == HTML_A_) r->linked = false;
  if (tag == HTML_BODY_ || tag == HTML_HTML_) return; /* what comes after is still shown */
  if (r->over && !(html_tag_flags[tag] & HTML_VOID)) {
    r->over--;
    return;
  }
  if (tag == HTML_FORM_ && (html_tag)top(r)->tag != tag) return; /* closes nothing but itself */
  unsigned flags = html_tag_flags[tag];
  unsigned stops = flags & HTML_INLINE ? HTML_BLOCK | HTML_SCOPE : HTML_SCOPE;
  if (tag == HTML_TR_ || tag == HTML_TABLE_ || tag == HTML_TBODY_ || tag == HTML_THEAD_ || tag == HTML_TFOOT_) {
    /* Cells end with their row; only an inner table keeps its own. */
    unsigned place = r->counts[tag] ? r->depth - 1 : 0;
    for (; place > 0 && r->work > 0; place--, r->work--) {
      html_tag t = (html_tag)r->nodes[r->open[place]].tag;
      if (t == tag) break;
      if (t == HTML_TABLE_) place = 1;
    }
    if (place) pop_to(r, place);
    return;
  }
  if (heading(tag) && r->depth > 1 && heading((html_tag)top(r)->tag)) tag = (html_tag)top(r)->tag;
  close_if_open(r, tag, stops);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* The text of a raw element, up to its end tag, which is read too. */
static void raw_text(reader *r, pu_str name) {
  pu_str page = r->page;
  size_t from = r->at, i = from;
  while (i < page.len) {
    const char *lt = memchr(page.ptr + i, '<', page.len - i);
    if (!lt)
      i = page.len;
    else
      i = (size_t)(lt - page.ptr);
    if (i + 2 + name.len <= page.len && page.ptr[i + 1] == '/' &&
        strncasecmp(page.ptr + i + 2, name.ptr, name.len) == 0 &&
        (i + 2 + name.len == page.len || !letter(page.ptr[i + 2 + name.len])))
      break;
    if (i < page.len) i++;
  }
  if (i > from) add(r, HTML_TEXT, pu_str_of(page.ptr + from, i - from));
  r->at = i < page.len ? PU_MIN(tag_end(page, i) + 1, page.len) : i;
}

static void start_tag(reader *r, html_tag tag, pu_str name, pu_str attrs) {
  unsigned flags = html_tag_flags[tag];
  if ((tag == HTML_BODY_ || tag == HTML_HTML_ || tag == HTML_HEAD_) && r->counts[tag]) return;
  imply_ends(r, tag);
  html_node *n = add(r, tag, attrs);
  if (tag == HTML_A_) r->linked = html_attr(n, "href").len > 0;
  /* HTML knows no empty tags but its own; SVG, MathML and what pages make up do. */
  bool closed = attrs.len && attrs.ptr[attrs.len - 1] == '/' && (!flags || tag == HTML_SVG_);
  if ((flags & HTML_VOID) || closed) return;
  if (r->depth == HTML_DEPTH) {
    if (!(flags & HTML_RAW)) r->over++;
  } else {
    r->open[r->depth++] = r->n - 1;
    r->counts[tag]++;
  }
  if (flags & HTML_RAW) {
    bool pushed = r->open[r->depth - 1] == r->n - 1;
    raw_text(r, name);
    if (pushed) pop(r);
  }
}

/* A comment, declaration or instruction: skipped. */
static void skip_comment(reader *r) {
  pu_str page = r->page;
  size_t left = page.len - r->at;
  const char *at = page.ptr + r->at, *end;
  if (left >= 4 && memcmp(at, "<!--", 4) == 0) {
    if (left > 4 && at[4] == '>')
      end = at + 4;
    else {
      end = memmem(at + 4, left - 4, "-->", 3);
      if (end) end += 2;
    }
  } else {
    end = memchr(at, '>', left);
  }
  r->at = end ? (size_t)(end - page.ptr) + 1 : page.len;
}

/* At a '<'. False: it is a plain character. */
static bool markup(reader *r) {
  pu_str page = r->page;
  size_t i = r->at + 1;
  if (i >= page.len) return false;
  if (page.ptr[i] == '!' || page.ptr[i] == '?') {
    skip_comment(r);
    return true;
  }
  bool ends = page.ptr[i] == '/';
  i += ends;
  if (i >= page.len || !letter(page.ptr[i])) {
    if (!ends) return false;
    skip_comment(r);
    return true;
  }
  size_t from = i;
  while (i < page.len && !html_space(page.ptr[i]) && page.ptr[i] != '/' && page.ptr[i] != '>') i++;
  pu_str name = pu_str_of(page.ptr + from, i - from);
  size_t to = tag_end(page, i);
  r->at = PU_MIN(to + 1, page.len);
  html_tag tag = html_tag_find(name);
  if (!ends)
    start_tag(r, tag, name, pu_str_of(page.ptr + i, to - i));
  else if (tag == HTML_BR_)
    start_tag(r, tag, name, (pu_str){page.ptr + i, 0});
  else
    end_tag(r, tag);
  return true;
}

static void read_page(reader *r) {
  pu_str page = r->page;
  size_t text = 0; /* where the text not added yet begins */
  while (r->n + 4 < r->cap) {
    const char *lt = r->at < page.len ? memchr(page.ptr + r->at, '<', page.len - r->at) : NULL;
    size_t at = lt ? (size_t)(lt - page.ptr) : page.len;
    uint32_t before = r->n;
    r->at = at;
    /* The text before a tag belongs to what is open there: it is added first, and taken back where there is no tag. */
    if (at > text) add(r, HTML_TEXT, pu_str_of(page.ptr + text, at - text));
    if (!lt) return;
    if (markup(r)) {
      text = r->at;
    } else {
      r->n = before;
      r->at = at + 1;
    }
  }
}

static uint32_t bound(pu_str page) {
  size_t n = 0;
  for (const char *p = page.ptr, *end = page.ptr + page.len; p && p < end; n++) {
    p = memchr(p, '<', (size_t)(end - p));
    if (p) p++;
  }
  return (uint32_t)PU_MIN(2 * n + 8, (size_t)HTML_NODES);
}

pu_err html_parse(pu_str page, pu_arena *a, html_dom *out, pu_error *e) {
  reader r = {.page = page, .cap = bound(page), .work = 16 * (uint64_t)page.len + 4096};
  if (page.len > PU_DOC_MAX)
    return pu_fail(e, PU_ERR_FORMAT, "a page of %zu bytes: at most %zu are read", page.len, PU_DOC_MAX);
  r.nodes = pu_arena_alloc(a, r.cap * sizeof *r.nodes);
  if (!r.nodes) return pu_fail(e, PU_ERR_NOMEM, "no memory for a page of up to %u elements and texts", r.cap);
  add(&r, HTML_OTHER, (pu_str){page.ptr, 0});
  r.open[r.depth++] = 0;
  r.counts[HTML_OTHER]++;
  read_page(&r);
  while (r.depth) pop(&r);
  *out = (html_dom){r.nodes, r.n};
  return PU_OK;
}
