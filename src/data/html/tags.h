/* Inside data/html: the elements that puyu knows, and what it has to know of each. */
#ifndef PUYU_DATA_HTML_TAGS_H
#define PUYU_DATA_HTML_TAGS_H

#include "puyu/base.h"

enum {
  HTML_BLOCK = 1,  /* begins and ends a line */
  HTML_VOID = 2,   /* has no content and no end tag */
  HTML_RAW = 4,    /* its content is text up to its end tag */
  HTML_SCOPE = 8,  /* an end tag of something outside does not close what is inside */
  HTML_NO_P = 16,  /* its start closes an open paragraph */
  HTML_GONE = 32,  /* nothing of it is ever shown as text */
  HTML_INLINE = 64 /* a mark within a line: its end tag does not close blocks */
};

/* X(NAME, "name", flags), sorted by name. */
#define HTML_TAGS(X)                                                                                                   \
  X(A, "a", HTML_INLINE)                                                                                               \
  X(ABBR, "abbr", HTML_INLINE)                                                                                         \
  X(ACRONYM, "acronym", HTML_INLINE)                                                                                   \
  X(ADDRESS, "address", HTML_BLOCK | HTML_NO_P)                                                                        \
  X(ANNOTATION, "annotation", 0)                                                                                       \
  X(APPLET, "applet", HTML_SCOPE | HTML_GONE)                                                                          \
  X(AREA, "area", HTML_VOID | HTML_GONE)                                                                               \
  X(ARTICLE, "article", HTML_BLOCK | HTML_NO_P)                                                                        \
  X(ASIDE, "aside", HTML_BLOCK | HTML_NO_P)                                                                            \
  X(AUDIO, "audio", HTML_GONE)                                                                                         \
  X(B, "b", HTML_INLINE)                                                                                               \
  X(BASE, "base", HTML_VOID | HTML_GONE)                                                                               \
  X(BIG, "big", HTML_INLINE)                                                                                           \
  X(BLOCKQUOTE, "blockquote", HTML_BLOCK | HTML_NO_P)                                                                  \
  X(BODY, "body", HTML_BLOCK)                                                                                          \
  X(BR, "br", HTML_VOID)                                                                                               \
  X(BUTTON, "button", HTML_SCOPE)                                                                                      \
  X(CANVAS, "canvas", HTML_GONE)                                                                                       \
  X(CAPTION, "caption", HTML_BLOCK | HTML_SCOPE)                                                                       \
  X(CENTER, "center", HTML_BLOCK | HTML_NO_P)                                                                          \
  X(CITE, "cite", HTML_INLINE)                                                                                         \
  X(CODE, "code", HTML_INLINE)                                                                                         \
  X(COL, "col", HTML_VOID | HTML_GONE)                                                                                 \
  X(COLGROUP, "colgroup", HTML_GONE)                                                                                   \
  X(DATALIST, "datalist", HTML_GONE)                                                                                   \
  X(DD, "dd", HTML_BLOCK | HTML_NO_P)                                                                                  \
  X(DEL, "del", HTML_INLINE)                                                                                           \
  X(DETAILS, "details", HTML_BLOCK | HTML_NO_P)                                                                        \
  X(DFN, "dfn", HTML_INLINE)                                                                                           \
  X(DIALOG, "dialog", HTML_BLOCK | HTML_NO_P)                                                                          \
  X(DIR, "dir", HTML_BLOCK | HTML_NO_P)                                                                                \
  X(DIV, "div", HTML_BLOCK | HTML_NO_P)                                                                                \
  X(DL, "dl", HTML_BLOCK | HTML_NO_P)                                                                                  \
  X(DT, "dt", HTML_BLOCK | HTML_NO_P)                                                                                  \
  X(EM, "em", HTML_INLINE)                                                                                             \
  X(EMBED, "embed", HTML_VOID | HTML_GONE)                                                                             \
  X(FIELDSET, "fieldset", HTML_BLOCK | HTML_NO_P)                                                                      \
  X(FIGCAPTION, "figcaption", HTML_BLOCK | HTML_NO_P)                                                                  \
  X(FIGURE, "figure", HTML_BLOCK | HTML_NO_P)                                                                          \
  X(FONT, "font", HTML_INLINE)                                                                                         \
  X(FOOTER, "footer", HTML_BLOCK | HTML_NO_P)                                                                          \
  X(FORM, "form", HTML_BLOCK | HTML_NO_P)                                                                              \
  X(FRAME, "frame", HTML_VOID | HTML_GONE)                                                                             \
  X(FRAMESET, "frameset", 0)                                                                                           \
  X(H1, "h1", HTML_BLOCK | HTML_NO_P)                                                                                  \
  X(H2, "h2", HTML_BLOCK | HTML_NO_P)                                                                                  \
  X(H3, "h3", HTML_BLOCK | HTML_NO_P)                                                                                  \
  X(H4, "h4", HTML_BLOCK | HTML_NO_P)                                                                                  \
  X(H5, "h5", HTML_BLOCK | HTML_NO_P)                                                                                  \
  X(H6, "h6", HTML_BLOCK | HTML_NO_P)                                                                                  \
  X(HEAD, "head", HTML_GONE)                                                                                           \
  X(HEADER, "header", HTML_BLOCK | HTML_NO_P)                                                                          \
  X(HGROUP, "hgroup", HTML_BLOCK | HTML_NO_P)                                                                          \
  X(HR, "hr", HTML_BLOCK | HTML_NO_P | HTML_VOID)                                                                      \
  X(HTML, "html", HTML_BLOCK)                                                                                          \
  X(I, "i", HTML_INLINE)                                                                                               \
  X(IFRAME, "iframe", HTML_RAW | HTML_GONE)                                                                            \
  X(IMG, "img", HTML_VOID)                                                                                             \
  X(INPUT, "input", HTML_VOID | HTML_GONE)                                                                             \
  X(INS, "ins", HTML_INLINE)                                                                                           \
  X(KBD, "kbd", HTML_INLINE)                                                                                           \
  X(LABEL, "label", HTML_INLINE)                                                                                       \
  X(LEGEND, "legend", HTML_BLOCK)                                                                                      \
  X(LI, "li", HTML_BLOCK | HTML_NO_P)                                                                                  \
  X(LINK, "link", HTML_VOID | HTML_GONE)                                                                               \
  X(LISTING, "listing", HTML_BLOCK | HTML_NO_P)                                                                        \
  X(MAIN, "main", HTML_BLOCK | HTML_NO_P)                                                                              \
  X(MAP, "map", HTML_GONE)                                                                                             \
  X(MARK, "mark", HTML_INLINE)                                                                                         \
  X(MATH, "math", 0)                                                                                                   \
  X(MENU, "menu", HTML_BLOCK | HTML_NO_P)                                                                              \
  X(META, "meta", HTML_VOID | HTML_GONE)                                                                               \
  X(MFENCED, "mfenced", 0)                                                                                             \
  X(MFRAC, "mfrac", 0)                                                                                                 \
  X(MI, "mi", 0)                                                                                                       \
  X(MN, "mn", 0)                                                                                                       \
  X(MO, "mo", 0)                                                                                                       \
  X(MOVER, "mover", 0)                                                                                                 \
  X(MPHANTOM, "mphantom", 0)                                                                                           \
  X(MROOT, "mroot", 0)                                                                                                 \
  X(MSPACE, "mspace", 0)                                                                                               \
  X(MSQRT, "msqrt", 0)                                                                                                 \
  X(MSUB, "msub", 0)                                                                                                   \
  X(MSUBSUP, "msubsup", 0)                                                                                             \
  X(MSUP, "msup", 0)                                                                                                   \
  X(MTABLE, "mtable", 0)                                                                                               \
  X(MTD, "mtd", 0)                                                                                                     \
  X(MTEXT, "mtext", 0)                                                                                                 \
  X(MTR, "mtr", 0)                                                                                                     \
  X(MUNDER, "munder", 0)                                                                                               \
  X(MUNDEROVER, "munderover", 0)                                                                                       \
  X(NAV, "nav", HTML_BLOCK | HTML_NO_P)                                                                                \
  X(NOBR, "nobr", HTML_INLINE)                                                                                         \
  X(NOEMBED, "noembed", HTML_RAW | HTML_GONE)                                                                          \
  X(NOFRAMES, "noframes", HTML_RAW | HTML_GONE)                                                                        \
  X(NOSCRIPT, "noscript", HTML_RAW | HTML_GONE)                                                                        \
  X(OBJECT, "object", HTML_SCOPE | HTML_GONE)                                                                          \
  X(OL, "ol", HTML_BLOCK | HTML_NO_P)                                                                                  \
  X(OPTGROUP, "optgroup", HTML_GONE)                                                                                   \
  X(OPTION, "option", HTML_GONE)                                                                                       \
  X(P, "p", HTML_BLOCK | HTML_NO_P)                                                                                    \
  X(PARAM, "param", HTML_VOID | HTML_GONE)                                                                             \
  X(PICTURE, "picture", 0)                                                                                             \
  X(PLAINTEXT, "plaintext", HTML_BLOCK | HTML_NO_P)                                                                    \
  X(PRE, "pre", HTML_BLOCK | HTML_NO_P)                                                                                \
  X(Q, "q", HTML_INLINE)                                                                                               \
  X(RP, "rp", HTML_GONE)                                                                                               \
  X(RT, "rt", HTML_GONE)                                                                                               \
  X(RUBY, "ruby", 0)                                                                                                   \
  X(S, "s", HTML_INLINE)                                                                                               \
  X(SAMP, "samp", HTML_INLINE)                                                                                         \
  X(SCRIPT, "script", HTML_RAW | HTML_GONE)                                                                            \
  X(SEARCH, "search", HTML_BLOCK | HTML_NO_P)                                                                          \
  X(SECTION, "section", HTML_BLOCK | HTML_NO_P)                                                                        \
  X(SELECT, "select", HTML_GONE)                                                                                       \
  X(SEMANTICS, "semantics", 0)                                                                                         \
  X(SMALL, "small", HTML_INLINE)                                                                                       \
  X(SOURCE, "source", HTML_VOID | HTML_GONE)                                                                           \
  X(SPAN, "span", HTML_INLINE)                                                                                         \
  X(STRIKE, "strike", HTML_INLINE)                                                                                     \
  X(STRONG, "strong", HTML_INLINE)                                                                                     \
  X(STYLE, "style", HTML_RAW | HTML_GONE)                                                                              \
  X(SUB, "sub", HTML_INLINE)                                                                                           \
  X(SUMMARY, "summary", HTML_BLOCK | HTML_NO_P)                                                                        \
  X(SUP, "sup", HTML_INLINE)                                                                                           \
  X(SVG, "svg", HTML_GONE)                                                                                             \
  X(TABLE, "table", HTML_BLOCK | HTML_NO_P | HTML_SCOPE)                                                               \
  X(TBODY, "tbody", HTML_BLOCK)                                                                                        \
  X(TD, "td", HTML_BLOCK | HTML_SCOPE)                                                                                 \
  X(TEMPLATE, "template", HTML_SCOPE | HTML_GONE)                                                                      \
  X(TEXTAREA, "textarea", HTML_RAW | HTML_GONE)                                                                        \
  X(TFOOT, "tfoot", HTML_BLOCK)                                                                                        \
  X(TH, "th", HTML_BLOCK | HTML_SCOPE)                                                                                 \
  X(THEAD, "thead", HTML_BLOCK)                                                                                        \
  X(TIME, "time", HTML_INLINE)                                                                                         \
  X(TITLE, "title", HTML_RAW | HTML_GONE)                                                                              \
  X(TR, "tr", HTML_BLOCK)                                                                                              \
  X(TRACK, "track", HTML_VOID | HTML_GONE)                                                                             \
  X(TT, "tt", HTML_INLINE)                                                                                             \
  X(U, "u", HTML_INLINE)                                                                                               \
  X(UL, "ul", HTML_BLOCK | HTML_NO_P)                                                                                  \
  X(VAR, "var", HTML_INLINE)                                                                                           \
  X(VIDEO, "video", HTML_GONE)                                                                                         \
  X(WBR, "wbr", HTML_VOID)                                                                                             \
  X(XMP, "xmp", HTML_RAW | HTML_BLOCK | HTML_NO_P)

typedef enum html_tag {
  HTML_TEXT,  /* no element: text between tags */
  HTML_OTHER, /* an element whose name is not known */
#define HTML_ENUM(name, text, flags) HTML_##name##_,
  HTML_TAGS(HTML_ENUM)
#undef HTML_ENUM
      HTML_TAG_COUNT
} html_tag;

extern const uint8_t html_tag_flags[HTML_TAG_COUNT];
/* Any case; a prefix and its colon ("m:mi") are left out. */
html_tag html_tag_find(pu_str name);

/* ---- words of at most 15 bytes, sorted: what both names and classes are looked up in ----------------------------- */

typedef struct html_key {
  uint64_t hi, lo; /* the bytes in their order, zeros after them: keys compare as the words do */
} html_key;

typedef struct html_word {
  char text[16];
  uint16_t kind;
  bool begins; /* words that begin with it are of this kind too */
} html_word;

/* Lower-cased; no entry is as long as 16 bytes, where a longer word is cut. */
html_key html_key_of(pu_str word);
/* Index of the last entry that is not greater than the key; -1: none. */
int html_word_find(const html_word *table, size_t n, html_key key);

#endif
