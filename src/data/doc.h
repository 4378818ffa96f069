/* Inside data: one document on its way from a file to shards.
 *
 * A document is used again for the next one: its buffers keep their memory, its arena is reset. Readers fill it,
 * filters measure, rewrite or drop it, stages write and read it. One thread at a time. */
#ifndef PUYU_DATA_DOC_H
#define PUYU_DATA_DOC_H

#include "puyu/data.h"

#define PU_DOC_MAX ((size_t)64 << 20) /* bytes of one document's text */

/* Where the words, lines and paragraphs of a text are. A word is a run between spaces, but each character of a script
 * that is written without spaces (Han, kana, Thai, …) is a word of its own, and so is a run of such a script's
 * punctuation. A paragraph is what stands between blank lines. */
typedef struct pu_span {
  uint32_t at, len; /* bytes */
} pu_span;

typedef struct pu_view {
  pu_span *words, *lines, *paragraphs; /* lines and paragraphs without the spaces around them; no empty ones */
  uint64_t *word_hashes;               /* of each word's bytes */
  size_t n_words, n_lines, n_paragraphs;
  size_t n_chars; /* code points */
  size_t n_han;   /* of them, characters of a script written without spaces */
  bool unspaced;  /* more than 30 % of the letters are such: rules take their counterparts for Chinese */
} pu_view;

typedef struct pu_doc {
  pu_arena *arena; /* of this document: strings below and whatever a filter needs; reset by pu_doc_clear */
  pu_str id;
  pu_str source;                   /* the name of its source */
  pu_str repository;               /* its folder in ids, without the source; empty: the first one of the id, if any */
  pu_str url, title, author, time; /* empty: unknown; time is ISO 8601 as far as known ("2019-04-03", "2019") */
  pu_str lang;                     /* "en", "zh", "zh-Hant", …; empty: unknown */
  pu_str type;                     /* "text", "html", "markdown", "code", "latex", "table", "chat"; never empty */
  pu_buf text;                     /* valid UTF-8, lines end with \n */
  pu_buf spare;                    /* where a filter that rewrites puts the new text, before pu_doc_rewritten */
  pu_view view;                    /* see pu_doc_view */
  bool seen;                       /* view is of this text */
  size_t cap_words, cap_lines, cap_paragraphs;
} pu_doc;

pu_err pu_doc_init(pu_doc *d, pu_error *e) PU_MUST_USE;
void pu_doc_deinit(pu_doc *d); /* of all zeros: fine */
void pu_doc_clear(pu_doc *d);  /* no text, no strings; type "text" */
/* A copy in the document's arena, at most 64 KiB of it, cut at a character; invalid UTF-8 becomes U+FFFD. */
pu_str pu_doc_keep(pu_doc *d, pu_str s);
/* The view of the text as it is now, made when first asked for; NULL: no memory. */
const pu_view *pu_doc_view(pu_doc *d);
/* spare becomes the text, the text spare (emptied), the view is forgotten. */
void pu_doc_rewritten(pu_doc *d);

#endif
