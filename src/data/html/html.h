/* Inside data: the main text of a web page, as Markdown. */
#ifndef PUYU_DATA_HTML_H
#define PUYU_DATA_HTML_H

#include "src/data/doc.h"

typedef enum pu_html_mode {
  PU_HTML_AUTO,    /* a forum where the page looks like one, else an article */
  PU_HTML_ARTICLE, /* one main text */
  PU_HTML_FORUM,   /* posts of several people, in their order */
  PU_HTML_ALL      /* all that is shown, boilerplate too */
} pu_html_mode;

typedef struct pu_html_page {
  pu_str title, author, time, lang, url; /* in the arena; empty: the page does not say */
  bool forum;                            /* how it was read */
} pu_html_page;

/* Appends the page's main text to `out`: paragraphs parted by blank lines, headings, lists, tables, code and formulas
 * (MathML, KaTeX, MathJax as $…$ and $$…$$) as Markdown. html is UTF-8; at most PU_DOC_MAX; depth and work are bounded.
 * A page without text appends nothing. One thread at a time for each arena. */
pu_err pu_html_extract(pu_str html, pu_html_mode mode, pu_arena *a, pu_buf *out, pu_html_page *page,
                       pu_error *e) PU_MUST_USE;
/* The charset that a <meta> in the first KiB names, in the arena; NULL: none. */
const char *pu_html_charset(pu_str bytes, pu_arena *a);

#endif
