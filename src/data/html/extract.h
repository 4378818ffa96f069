/* Inside data/html: what is said of a page's nodes on the way from its tree to its text. */
#ifndef PUYU_DATA_HTML_EXTRACT_H
#define PUYU_DATA_HTML_EXTRACT_H

#include "src/data/html/dom.h"

/* What the names in an element's class, id and role say of it: bits. */
enum {
  HTML_IS_CHROME = 1,    /* navigation, menus, sidebars, cookie notices, log-in, search: the page's furniture */
  HTML_IS_SOCIAL = 2,    /* share bars, ratings */
  HTML_IS_RELATED = 4,   /* other pages, advertisements, newsletters */
  HTML_IS_COMMENT = 8,   /* what readers wrote below an article */
  HTML_IS_META = 16,     /* author, date, tags, captions: about the text */
  HTML_IS_BODY = 32,     /* the main text, by its own account */
  HTML_IS_MAIN = 64,     /* something that holds the main text */
  HTML_IS_POST = 128,    /* one contribution of a forum */
  HTML_IS_HIDDEN = 256,  /* not shown */
  HTML_IS_PROFILE = 512, /* who wrote a contribution: name, rank, picture, signature */
  HTML_IS_NOTICE = 1024, /* what a page asks its visitors to accept */
  HTML_HOLDS_FORM = 2048 /* not by its names: a form is in it */
};
unsigned html_hints(const html_node *n);

/* Of a node and all below it that is not dropped. A unit is a character, two for those of three bytes and more in UTF-8
 * (a Chinese character says about as much as two Latin ones); a run of spaces is one. */
typedef struct html_stat {
  uint32_t text;  /* units */
  uint32_t links; /* of them in links */
  uint32_t good;  /* units of running text: of blocks that look like paragraphs, without links */
  uint32_t own;   /* of a block: units in it and in no block below it */
  uint32_t own_links;
  uint32_t posts; /* good units of contributions: counted for forums only */
  uint16_t hints;
  uint16_t teasers; /* how many boxes right below are teasers, up to 3 */
  uint16_t ends;    /* of a block: how many commas and ends of sentences are in `own` */
} html_stat;

/* Counts again, without what is dropped. stats[i] is of nodes[i]; hints are left as they are. */
void html_measure(const html_dom *d, html_stat *stats);
/* Marks what is boilerplate as dropped, a heading that only says the title too; *main is the node whose text is the
 * page's. */
void html_choose(html_dom *d, html_stat *stats, pu_html_mode mode, pu_str title, uint32_t *main);
/* Does the page look like a forum's, or a page of questions and answers? */
bool html_is_forum(const html_dom *d, const html_stat *stats);

/* Fills what the page says of itself; strings are in the arena. */
void html_metadata(const html_dom *d, pu_arena *a, pu_html_page *page);

/* Appends a node's text as Markdown, without what is dropped. */
void html_write(const html_dom *d, const html_stat *stats, uint32_t node, pu_buf *out);
/* Appends the text of a node and all below it: references decoded, runs of spaces one space, none around it. */
void html_text(const html_dom *d, uint32_t node, pu_buf *out);
/* Is a line one of those that belong to the page and not to its text? */
bool html_noise(pu_str line);
/* Appends the formula of a <math> element as TeX, without dollars: its annotation, else from its tree. */
void html_math(const html_dom *d, uint32_t node, pu_buf *out);

#endif
