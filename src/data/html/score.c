/* Which node holds the main text, and what in it is none.
 *
 * Text is counted bottom-up in blocks; a block of running text (long enough, few links, sentences) is good. What its
 * names, tag or links show to be furniture is dropped, unless most of the page's good text would go with it: names are
 * only what an author chose. The main node is then the deepest that still holds nearly all the good text that is left,
 * with those that call themselves the article's body preferred (Kohlschütter et al. 2010 for densities; the walk down
 * the tree is our own). */
#include <string.h>

#include "src/data/html/extract.h"

/* ---- counting ---------------------------------------------------------------------------------------------------- */

typedef struct count {
  uint32_t units, ends;
} count;

/* The end of a reference that begins at i, or i. */
static size_t reference_end(pu_str s, size_t i) {
  size_t to = i + 1;
  while (to < s.len && to < i + 10 && s.ptr[to] > ' ' && s.ptr[to] != ';') to++;
  return to < s.len && s.ptr[to] == ';' ? to : i;
}

/* Commas and ends of sentences of three bytes, or two: Chinese and Arabic ones. */
static bool wide_end(pu_str s, size_t i) {
  unsigned char b = (unsigned char)s.ptr[i];
  if (i + 1 >= s.len) return false;
  if (b == 0xD8) return s.ptr[i + 1] == '\x8C';
  if (i + 2 >= s.len || !s.ptr[i + 2]) return false;
  if (b == 0xE3) return s.ptr[i + 1] == '\x80' && strchr("\x81\x82", s.ptr[i + 2]);
  return b == 0xEF && s.ptr[i + 1] == '\xBC' && strchr("\x8C\x81\x9F\x9B", s.ptr[i + 2]);
}

static count text_units(pu_str s) {
  count c = {0};
  bool space = true;
  for (size_t i = 0; i < s.len; i++) {
    unsigned char b = (unsigned char)s.ptr[i];
    if (b <= ' ') {
      c.units += !space;
      space = true;
      continue;
    }
    space = false;
    if (b < 0x80) {
      c.units++;
      c.ends += b == ',' || b == '.' || b == '!' || b == '?' || b == ';';
      if (b == '&') i = reference_end(s, i);
    } else if (b >= 0xC0) {
      c.units += b >= 0xE0 ? 2 : 1;
      c.ends += wide_end(s, i);
    }
  }
  return c;
}

static bool is_block(const html_node *n) {
  return html_is(n, HTML_BLOCK) || n->tag == HTML_OTHER;
}

/* Units of running text of a block by what stands in it directly. */
static uint32_t good_units(const html_node *n, const html_stat *s) {
  uint32_t plain = s->own - s->own_links;
  if (n->tag == HTML_PRE_) return plain;
  if (n->tag == HTML_BUTTON_ || (n->tag >= HTML_H1_ && n->tag <= HTML_H6_)) return 0;
  if (plain < 30 || s->own_links * 2 > s->own) return 0;
  if (n->tag == HTML_P_ || n->tag == HTML_BLOCKQUOTE_) return s->ends || plain > 80 ? plain : plain / 2;
  if (plain >= 80 && s->ends >= 1) return plain;
  return s->ends ? plain / 2 : plain / 4;
}

void html_measure(const html_dom *d, html_stat *stats) {
  uint32_t block[HTML_DEPTH + 2]; /* the innermost block at each depth */
  for (uint32_t i = 0; i < d->n;) {
    const html_node *n = &d->nodes[i];
    html_stat *s = &stats[i];
    *s = (html_stat){.hints = s->hints};
    if ((n->flags & HTML_DROPPED) || html_is(n, HTML_GONE)) {
      for (uint32_t k = i + 1; k < n->end; k++) stats[k] = (html_stat){.hints = stats[k].hints};
      i = n->end;
      continue;
    }
    uint32_t outer = i ? block[n->depth - 1] : 0;
    block[n->depth] = is_block(n) ? i : outer;
    if (n->tag == HTML_TEXT) {
      count c = text_units(pu_str_of(n->ptr, n->len));
      html_stat *b = &stats[outer];
      s->text = c.units;
      b->own += c.units;
      b->ends = (uint16_t)PU_MIN(b->ends + c.ends, 0xFFFFu);
      if (n->flags & HTML_LINKED) s->links = c.units, b->own_links += c.units;
    }
    i++;
  }
  for (uint32_t i = d->n; i-- > 1;) {
    html_stat *s = &stats[i], *up = &stats[d->nodes[i].parent];
    if (d->nodes[i].flags & HTML_DROPPED) continue;
    if (is_block(&d->nodes[i])) s->good += good_units(&d->nodes[i], s);
    up->text += s->text;
    up->links += s->links;
    up->good += s->good;
  }
  stats[0].good += good_units(&d->nodes[0], &stats[0]);
}

/* ---- furniture --------------------------------------------------------------------------------------------------- */

typedef struct chooser {
  html_dom *d;
  html_stat *stats;
  bool forum;
  uint32_t all; /* good units of the page */
} chooser;

/* Holds the node so large a share of the page's running text that its name must mislead? */
static bool too_good(const chooser *c, uint32_t i, unsigned percent) {
  return c->all > 200 && (uint64_t)c->stats[i].good * 100 > (uint64_t)c->all * percent;
}

static bool has_math(const html_dom *d, uint32_t i) {
  uint32_t end = PU_MIN(d->nodes[i].end, i + 4);
  for (uint32_t k = i; k < end; k++)
    if (d->nodes[k].tag == HTML_MATH_) return true;
  return false;
}

static bool holds(const html_dom *d, uint32_t i, html_tag tag) {
  for (uint32_t k = i + 1; k < d->nodes[i].end; k++)
    if (d->nodes[k].tag == tag) return true;
  return false;
}

static bool furniture_by_tag(const chooser *c, uint32_t i) {
  const html_node *n = &c->d->nodes[i];
  const html_stat *s = &c->stats[i];
  switch ((html_tag)n->tag) {
  case HTML_NAV_:
  case HTML_MENU_:
  case HTML_DIALOG_:
  case HTML_SEARCH_:
  case HTML_ASIDE_:
  case HTML_FOOTER_:
    return !too_good(c, i, 40);
  case HTML_BUTTON_:
  case HTML_LABEL_:
    return s->text < 200;
  case HTML_FIGCAPTION_:
    return true;
  case HTML_FIGURE_:
    return !holds(c->d, i, HTML_TABLE_) && !holds(c->d, i, HTML_PRE_) && !holds(c->d, i, HTML_BLOCKQUOTE_) &&
           !too_good(c, i, 30);
  case HTML_FORM_:
    return s->good < 200 || !too_good(c, i, 20);
  case HTML_HEADER_:
    return !c->forum && s->good < 200 && !too_good(c, i, 20);
  default:
    return false;
  }
}

static bool furniture_by_name(const chooser *c, uint32_t i) {
  const html_node *n = &c->d->nodes[i];
  const html_stat *s = &c->stats[i];
  unsigned h = s->hints;
  if ((h & HTML_IS_HIDDEN) && !has_math(c->d, i) && !too_good(c, i, 50)) return true;
  if (n->tag == HTML_BODY_ || n->tag == HTML_MAIN_ || n->tag == HTML_ARTICLE_) return false;
  if (n->tag == HTML_CODE_ || n->tag == HTML_PRE_ || n->tag == HTML_MATH_) return false;
  if (c->forum && (h & HTML_IS_COMMENT) && s->good) h &= ~(unsigned)(HTML_IS_SOCIAL | HTML_IS_RELATED);
  if ((h & HTML_IS_SOCIAL) && holds(c->d, i, HTML_BLOCKQUOTE_)) h &= ~(unsigned)HTML_IS_SOCIAL; /* a quoted message */
  if ((h & HTML_IS_NOTICE) && !too_good(c, i, 90)) return true;
  if ((h & HTML_IS_CHROME) && !too_good(c, i, h & HTML_IS_BODY ? 20 : 50)) return true;
  if ((h & (HTML_IS_SOCIAL | HTML_IS_RELATED)) && !too_good(c, i, h & HTML_IS_BODY ? 20 : 35)) return true;
  if (!c->forum && (h & HTML_IS_COMMENT) && !(h & HTML_IS_BODY) && !too_good(c, i, 80)) return true;
  if (c->forum && (h & HTML_IS_PROFILE) && s->good < 200) return true;
  if ((h & HTML_IS_META) && !(h & HTML_IS_BODY) && s->text < 300 && s->good < 150) return true;
  return false;
}

static void drop_furniture(chooser *c) {
  for (uint32_t i = 1; i < c->d->n;) {
    html_node *n = &c->d->nodes[i];
    if (n->tag == HTML_TEXT) {
      i++;
      continue;
    }
    bool drop = (n->flags & HTML_DROPPED) || html_is(n, HTML_GONE) || furniture_by_tag(c, i) || furniture_by_name(c, i);
    if (drop) n->flags |= HTML_DROPPED;
    i = drop ? n->end : i + 1;
  }
}

/* ---- teasers ----------------------------------------------------------------------------------------------------- */

/* Is a heading one link? Those of teasers are, those within a text hardly ever. */
static bool linked_heading(const chooser *c, uint32_t i) {
  const html_node *n = &c->d->nodes[i];
  const html_stat *s = &c->stats[i];
  return n->tag >= HTML_H2_ && n->tag <= HTML_H6_ && s->text > 8 && s->links * 10 >= s->text * 9;
}

static uint32_t next_linked_heading(const chooser *c, uint32_t from) {
  while (from < c->d->n && !linked_heading(c, from)) from++;
  return from;
}

/* The box of a linked heading: the outermost around it without another one (`last` and `next` are those before and
 * after it), of a few lines at most. */
static uint32_t teaser_of(const chooser *c, uint32_t heading, uint32_t last, uint32_t next) {
  const html_dom *d = c->d;
  uint32_t at = heading;
  for (;;) {
    uint32_t up = d->nodes[at].parent;
    if (!up || up <= last || d->nodes[up].end > next || d->nodes[up].tag == HTML_BODY_) return at;
    if (c->stats[up].good > (d->nodes[up].tag == HTML_LI_ ? 2000 : 1000)) return at;
    at = up;
  }
}

/* Boxes that tell of other pages: a linked heading and a few lines each, three and more of them beside each other. They
 * stay where there is little else. */
static void drop_teasers(chooser *c) {
  html_dom *d = c->d;
  enum { COUNT, WEIGH, DROP };
  uint32_t good = 0;
  for (int pass = COUNT; pass <= DROP; pass++) {
    if (pass == DROP && c->stats[0].good < good + 150) return;
    for (uint32_t last = 0, h = next_linked_heading(c, 1); h < d->n;) {
      uint32_t next = next_linked_heading(c, h + 1), box = teaser_of(c, h, last, next);
      html_stat *up = &c->stats[d->nodes[box].parent];
      if (pass == COUNT)
        up->teasers = (uint16_t)PU_MIN(up->teasers + 1, 3);
      else if (pass == WEIGH && up->teasers >= 3)
        good += c->stats[box].good;
      else if (up->teasers >= 3)
        d->nodes[box].flags |= HTML_DROPPED;
      last = h;
      h = next;
    }
  }
}

/* ---- the main node ----------------------------------------------------------------------------------------------- */

static uint64_t plain_text(const html_stat *s) {
  return s->text - s->links;
}

/* The deepest node below `from` that holds at least `percent` of its good text, and not much less of the other. */
static uint32_t walk_down(const chooser *c, uint32_t from, unsigned percent) {
  const html_dom *d = c->d;
  uint32_t at = from;
  uint64_t least = (uint64_t)c->stats[from].good * percent;
  for (;;) {
    uint32_t best = 0;
    for (uint32_t k = at + 1; k < d->nodes[at].end; k = d->nodes[k].end) {
      bool in = d->nodes[k].tag != HTML_TEXT && !(d->nodes[k].flags & HTML_DROPPED);
      if (in && (!best || c->stats[k].good > c->stats[best].good)) best = k;
    }
    if (!best || !c->stats[best].good || (uint64_t)c->stats[best].good * 100 < least || !is_block(&d->nodes[best]))
      return at;
    if (from && plain_text(&c->stats[best]) * 100 < plain_text(&c->stats[from]) * 70) return at;
    if (d->nodes[best].tag == HTML_P_) return at;
    at = best;
  }
}

static bool box(const html_node *n) {
  return n->tag != HTML_TEXT && is_block(n) && n->tag != HTML_P_ && n->tag != HTML_LI_ &&
         !(n->tag >= HTML_H1_ && n->tag <= HTML_H6_);
}

/* The best box that calls itself the body, or 0: the one with most good text, the deepest of those that nearly have it.
 */
static uint32_t named_body(const chooser *c, unsigned hint, html_tag tag, unsigned percent) {
  const html_dom *d = c->d;
  uint32_t best = 0;
  for (uint32_t i = 1; i < d->n; i++) {
    const html_node *n = &d->nodes[i];
    if (!box(n)) continue;
    if (!(c->stats[i].hints & hint) && n->tag != tag) continue;
    uint64_t good = c->stats[i].good;
    if (good == 0 || good * 100 < (uint64_t)c->stats[0].good * percent) continue;
    if (!best || good * 100 >= (uint64_t)c->stats[best].good * 90) best = i;
  }
  return best;
}

/* The box around a body that was cut into several, else the body itself. */
static uint32_t whole_body(const chooser *c, uint32_t at) {
  if (!at) return 0;
  const html_dom *d = c->d;
  uint32_t up = d->nodes[at].parent;
  for (uint32_t k = up + 1; k < d->nodes[up].end; k = d->nodes[k].end)
    if (k != at && (c->stats[k].hints & HTML_IS_BODY) && c->stats[k].good) return up;
  return at;
}

/* The <article> around a body that holds little of its text, else the body itself. */
static uint32_t wide_body(const chooser *c, uint32_t at) {
  for (uint32_t up = at; up; up = c->d->nodes[up].parent)
    if (c->d->nodes[up].tag == HTML_ARTICLE_ && plain_text(&c->stats[at]) * 100 < plain_text(&c->stats[up]) * 40)
      return up;
  return at;
}

/* Counts the good text of contributions, bottom-up; where one is to be written is none. */
static void count_posts(const chooser *c) {
  for (uint32_t i = c->d->n; i-- > 1;) {
    html_stat *s = &c->stats[i], *up = &c->stats[c->d->nodes[i].parent];
    if (c->d->nodes[i].flags & HTML_DROPPED) continue;
    if (c->d->nodes[i].tag == HTML_FORM_) s->hints |= HTML_HOLDS_FORM, s->posts = 0;
    if ((s->hints & (HTML_IS_POST | HTML_IS_BODY)) && !(s->hints & HTML_HOLDS_FORM)) s->posts = s->good;
    up->posts += s->posts;
    up->hints |= s->hints & HTML_HOLDS_FORM;
  }
}

/* The main node of a forum's page: where most of the text is, and as far up as contributions are what is added. */
static uint32_t forum_node(const chooser *c) {
  uint32_t at = walk_down(c, 0, 85);
  count_posts(c);
  for (uint32_t low = at; low;) {
    uint32_t up = c->d->nodes[low].parent;
    uint32_t posts = c->stats[up].posts - c->stats[low].posts, good = c->stats[up].good - c->stats[low].good;
    if ((uint64_t)posts * 100 < (uint64_t)good * 85) break;
    if (posts) at = up;
    low = up;
  }
  return at;
}

static uint32_t main_node(const chooser *c) {
  if (c->forum) return forum_node(c);
  uint32_t at = wide_body(c, whole_body(c, named_body(c, HTML_IS_BODY, HTML_TEXT, 35)));
  if (!at) at = named_body(c, 0, HTML_ARTICLE_, 35);
  if (!at) at = named_body(c, 0, HTML_MAIN_, 50);
  uint32_t down = walk_down(c, at, 85);
  /* Still the whole page: then a loose name is better than none. */
  if (!down || c->d->nodes[down].tag == HTML_BODY_ || c->d->nodes[down].tag == HTML_HTML_)
    down = walk_down(c, named_body(c, HTML_IS_MAIN, HTML_TEXT, 35), 85);
  return down;
}

/* ---- inside the main node ---------------------------------------------------------------------------------------- */

/* Lists, boxes and lines that are mostly links. */
static bool link_farm(const chooser *c, uint32_t i) {
  const html_node *n = &c->d->nodes[i];
  const html_stat *s = &c->stats[i];
  if (!html_is(n, HTML_BLOCK) || !s->text || n->tag == HTML_PRE_) return false;
  if (n->tag == HTML_TD_ || n->tag == HTML_TH_ || n->tag == HTML_TR_) return false;
  uint32_t percent = (uint32_t)((uint64_t)s->links * 100 / s->text);
  bool heading = n->tag >= HTML_H1_ && n->tag <= HTML_H6_;
  if (heading) return false;
  if (n->tag == HTML_LI_ || c->d->nodes[n->parent].tag == HTML_LI_) return false;
  if (n->tag == HTML_P_) return percent > 80 && s->text < 200;
  return percent > 50 && s->good * 4 < s->text;
}

/* A block of one short line that says nothing of the page's matter. */
static bool noise(const chooser *c, uint32_t i, pu_buf *line) {
  const html_node *n = &c->d->nodes[i];
  const html_stat *s = &c->stats[i];
  if (!is_block(n) || !s->text || s->text > 200 || s->text != s->own || n->tag == HTML_PRE_ || n->tag == HTML_TD_ ||
      n->tag == HTML_TH_)
    return false;
  pu_buf_clear(line);
  html_text(c->d, i, line);
  return html_noise(pu_str_of(line->data, line->len));
}

/* A heading that says the page's title again; that of the whole page may say more or less of it. */
static bool is_title(const chooser *c, uint32_t i, pu_str title, pu_buf *line) {
  const html_node *n = &c->d->nodes[i];
  if (n->tag < HTML_H1_ || n->tag > HTML_H6_ || !title.len || c->forum) return false;
  pu_buf_clear(line);
  html_text(c->d, i, line);
  if (!line->len) return false;
  pu_str said = pu_str_of(line->data, line->len);
  if (pu_str_eq(said, title)) return true;
  if (n->tag != HTML_H1_ || said.len < 12 || title.len < 12) return false;
  pu_str more = said.len > title.len ? said : title, less = said.len > title.len ? title : said;
  return more.ptr && less.ptr && memmem(more.ptr, more.len, less.ptr, less.len);
}

/* ---- lines said again and again ---------------------------------------------------------------------------------- */

enum { LABELS = 1024, LABEL_MAX = 40, TIMES = 3 };

typedef struct labels {
  uint64_t hash[LABELS];
  uint8_t times[LABELS];
} labels;

/* How often a line was counted: its place in the table, which forgets what does not fit. */
static uint8_t *times_of(labels *l, uint64_t hash) {
  size_t at = hash % LABELS;
  for (size_t k = 0; k < 8; k++, at = (at + 1) % LABELS) {
    if (!l->times[at]) l->hash[at] = hash;
    if (l->hash[at] == hash) return &l->times[at];
  }
  return NULL;
}

/* May a block be a button's or a field's label? Its hash then, else 0. */
static uint64_t label_of(const chooser *c, uint32_t i, pu_buf *line) {
  const html_node *n = &c->d->nodes[i];
  const html_stat *s = &c->stats[i];
  if (!is_block(n) || !s->text || s->text > LABEL_MAX || s->text != s->own || n->tag == HTML_PRE_ ||
      n->tag == HTML_TD_ || n->tag == HTML_TH_ || n->tag == HTML_BLOCKQUOTE_)
    return 0;
  pu_buf_clear(line);
  html_text(c->d, i, line);
  return pu_hash64(line->data, line->len, 0) | 1;
}

/* Short lines that a page says again and again are its buttons and fields, not its text. */
static void drop_labels(chooser *c, uint32_t main, pu_buf *line) {
  labels l = {0};
  for (int drop = 0; drop < 2; drop++)
    for (uint32_t i = main + 1; i < c->d->nodes[main].end;) {
      html_node *n = &c->d->nodes[i];
      uint64_t hash = n->flags & HTML_DROPPED || n->tag == HTML_TEXT ? 0 : label_of(c, i, line);
      uint8_t *times = hash ? times_of(&l, hash) : NULL;
      if (times && !drop) *times = (uint8_t)PU_MIN(*times + 1, 200);
      if (times && drop && *times >= TIMES) n->flags |= HTML_DROPPED;
      i = n->flags & HTML_DROPPED ? n->end : i + 1;
    }
}

static void clean(chooser *c, uint32_t main, pu_str title) {
  pu_buf line;
  pu_buf_init(&line, 1 << 16);
  if (c->forum) drop_labels(c, main, &line);
  for (uint32_t i = main + 1; i < c->d->nodes[main].end;) {
    html_node *n = &c->d->nodes[i];
    if (!(n->flags & HTML_DROPPED) && (link_farm(c, i) || noise(c, i, &line) || is_title(c, i, title, &line)))
      n->flags |= HTML_DROPPED;
    i = n->flags & HTML_DROPPED ? n->end : i + 1;
  }
  pu_buf_deinit(&line);
}

/* A page without running text, of a line or two in plain boxes: it has no main text. */
static bool nothing(const chooser *c, uint32_t main) {
  const html_stat *s = &c->stats[main];
  if (s->good >= 20 || s->text >= 100) return false;
  for (uint32_t i = main + 1; i < c->d->nodes[main].end;) {
    const html_node *n = &c->d->nodes[i];
    if (!(n->flags & HTML_DROPPED) && ((n->tag == HTML_P_ && c->stats[i].text) || n->tag == HTML_MATH_)) return false;
    i = n->flags & HTML_DROPPED ? n->end : i + 1;
  }
  return true;
}

/* Headings after which nothing comes any more. */
static void drop_last_headings(chooser *c, uint32_t main) {
  for (uint32_t i = c->d->nodes[main].end; i-- > main + 1;) {
    html_node *n = &c->d->nodes[i];
    if (n->tag == HTML_TEXT) continue;
    if (n->tag >= HTML_H1_ && n->tag <= HTML_H6_)
      n->flags |= HTML_DROPPED;
    else if (c->stats[i].own && is_block(n))
      return;
  }
}

void html_choose(html_dom *d, html_stat *stats, pu_html_mode mode, pu_str title, uint32_t *main) {
  chooser c = {d, stats, mode == PU_HTML_FORUM, stats[0].good};
  *main = 0;
  if (mode == PU_HTML_ALL) return;
  drop_furniture(&c);
  html_measure(d, stats);
  if (!c.forum) {
    drop_teasers(&c);
    html_measure(d, stats);
  }
  *main = main_node(&c);
  clean(&c, *main, title);
  html_measure(d, stats);
  if (nothing(&c, *main)) d->nodes[*main].flags |= HTML_DROPPED;
  if (!c.forum) drop_last_headings(&c, *main);
}

/* ---- forums ------------------------------------------------------------------------------------------------------ */

/* Does a value hold one of the words that forums name themselves by? Of <body>'s class and id, of the software that
 * made the page, of its kind in schema.org's words. */
static bool forum_word(pu_str s) {
  static const char *const marks[] = {"forum",
                                      "phpbb",
                                      "vbulletin",
                                      "discuz",
                                      "xenforo",
                                      "discourse",
                                      "mybb",
                                      "flarum",
                                      "viewtopic",
                                      "viewthread",
                                      "bbs",
                                      "QAPage",
                                      "DiscussionForumPosting",
                                      "/thread",
                                      "/topic",
                                      "/question",
                                      "showthread",
                                      "-question"};
  for (size_t k = 0; k < PU_COUNT(marks) && s.len; k++)
    if (memmem(s.ptr, PU_MIN(s.len, (size_t)400), marks[k], strlen(marks[k]))) return true;
  return false;
}

static bool says_forum(const html_node *n) {
  switch ((html_tag)n->tag) {
  case HTML_HTML_:
  case HTML_BODY_:
    return forum_word(html_attr(n, "class")) || forum_word(html_attr(n, "id")) || forum_word(html_attr(n, "itemtype"));
  case HTML_META_: {
    pu_str name = html_attr(n, "name"), property = html_attr(n, "property");
    bool tells = html_same(name, "generator") || html_same(property, "og:url");
    return tells && forum_word(html_attr(n, "content"));
  }
  case HTML_LINK_:
    return html_same(html_attr(n, "rel"), "canonical") && forum_word(html_attr(n, "href"));
  case HTML_DIV_:
  case HTML_SECTION_:
  case HTML_ARTICLE_:
  case HTML_MAIN_:
    return forum_word(html_attr(n, "itemtype"));
  default:
    return false;
  }
}

bool html_is_forum(const html_dom *d, const html_stat *stats) {
  uint32_t posts = 0, in_posts = 0, end = 0;
  bool says = false;
  for (uint32_t i = 1; i < d->n; i++) {
    if (!says) says = says_forum(&d->nodes[i]);
    if (i < end || !(stats[i].hints & HTML_IS_POST) || !stats[i].good || !is_block(&d->nodes[i])) continue;
    posts++;
    in_posts += stats[i].good;
    end = d->nodes[i].end;
  }
  return says && (posts > 0 || stats[0].good < 2000) && (posts == 0 || in_posts * 3 > stats[0].good);
}
