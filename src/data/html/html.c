/* A page to its main text. */
#include "src/data/html/extract.h"

#include <string.h>
#include <strings.h>

#include "src/data/html/entities.h"

static pu_err extract(pu_str html, pu_html_mode mode, pu_arena *a, pu_buf *out, pu_html_page *page, pu_error *e) {
  html_dom dom;
  PU_TRY(html_parse(html, a, &dom, e));
  html_stat *stats = pu_arena_zalloc(a, dom.n * sizeof *stats);
  if (!stats) return pu_fail(e, PU_ERR_NOMEM, "no memory for a page of %u elements and texts", dom.n);
  for (uint32_t i = 1; i < dom.n; i++) stats[i].hints = (uint16_t)html_hints(&dom.nodes[i]);
  html_measure(&dom, stats);
  if (mode == PU_HTML_AUTO) mode = html_is_forum(&dom, stats) ? PU_HTML_FORUM : PU_HTML_ARTICLE;
  page->forum = mode == PU_HTML_FORUM;
  uint32_t main;
  html_choose(&dom, stats, mode, &main);
  html_write(&dom, stats, main, out);
  if (out->failed) return pu_fail(e, PU_ERR_NOMEM, "the text of a page does not fit into its buffer");
  return PU_OK;
}

pu_err pu_html_extract(pu_str html, pu_html_mode mode, pu_arena *a, pu_buf *out, pu_html_page *page, pu_error *e) {
  *page = (pu_html_page){0};
  return extract(html, mode, a, out, page, e);
}

const char *pu_html_charset(pu_str bytes, pu_arena *a) {
  const size_t look = PU_MIN(bytes.len, (size_t)1024);
  for (size_t i = 0; i + 8 < look; i++) {
    if (strncasecmp(bytes.ptr + i, "charset=", 8) != 0) continue;
    size_t at = i + 8, end;
    while (at < look && (bytes.ptr[at] == '"' || bytes.ptr[at] == '\'' || bytes.ptr[at] == ' ')) at++;
    for (end = at; end < look && !strchr("\"' />;\r\n\t", bytes.ptr[end]);) end++;
    if (end > at && end - at < 40) return pu_arena_strndup(a, bytes.ptr + at, end - at);
  }
  return NULL;
}
