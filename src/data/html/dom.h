/* Inside data/html: a page as an array of nodes in the order of the page.
 *
 * A tolerant reader in the spirit of HTML 5 (13.2), not its tree to the letter: end tags that are left out are
 * supplied, what has no start is ignored, raw text (script, style, title, …) is taken as such, but nothing is moved (no
 * foster parents) and no mark is opened twice. Whether a text is linked goes by the last <a href> before it, so that a
 * link which is left open inside a block does not swallow the page. Elements deeper than HTML_DEPTH become siblings
 * there; after HTML_NODES nodes the rest of the page is not read. Time is linear in the page's size. */
#ifndef PUYU_DATA_HTML_DOM_H
#define PUYU_DATA_HTML_DOM_H

#include "src/data/html/html.h"
#include "src/data/html/tags.h"

enum { HTML_DEPTH = 400, HTML_NODES = 1 << 20 };

enum {
  HTML_LINKED = 1, /* text inside a link */
  HTML_DROPPED = 2 /* not of the main text, with all below it */
};

typedef struct html_node {
  const char *ptr; /* an element's attributes as written; a text, its references not decoded */
  uint32_t len;
  uint32_t parent; /* index; the root is its own */
  uint32_t end;    /* index after its last descendant */
  uint8_t tag;     /* html_tag */
  uint8_t flags;
  uint16_t depth;
} html_node;

typedef struct html_dom {
  html_node *nodes; /* nodes[0] is the root, an HTML_OTHER without attributes */
  uint32_t n;
} html_dom;

/* The nodes lie in the arena; they are views of the page. */
pu_err html_parse(pu_str page, pu_arena *a, html_dom *out, pu_error *e) PU_MUST_USE;

/* The value of an attribute as written, references not decoded; ptr NULL: there is none. Names are lower case. */
pu_str html_attr(const html_node *n, const char *name);
/* One attribute after the other: *at begins at 0; false at the end. A name may be in any case. */
bool html_attr_next(pu_str attrs, size_t *at, pu_str *name, pu_str *value);

static inline bool html_is(const html_node *n, unsigned flags) {
  return n->tag != HTML_TEXT && (html_tag_flags[n->tag] & flags) != 0;
}
static inline bool html_space(char c) {
  return c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == '\f';
}
/* Are the two the same but for ASCII case? */
bool html_same(pu_str a, const char *b);

#endif
