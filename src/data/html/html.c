/* A page to its main text. */
#include "src/data/html/extract.h"

#include <string.h>

static pu_err extract(pu_str html, pu_html_mode mode, pu_arena *a, pu_buf *out, pu_html_page *page, pu_error *e) {
  html_dom dom;
  PU_TRY(html_parse(html, a, &dom, e));
  html_stat *stats = pu_arena_zalloc(a, dom.n * sizeof *stats);
  if (!stats) return pu_fail(e, PU_ERR_NOMEM, "no memory for a page of %u elements and texts", dom.n);
  for (uint32_t i = 1; i < dom.n; i++) stats[i].hints = (uint16_t)html_hints(&dom.nodes[i]);
  html_measure(&dom, stats);
  html_metadata(&dom, a, page);
  if (mode == PU_HTML_AUTO) mode = html_is_forum(&dom, stats) ? PU_HTML_FORUM : PU_HTML_ARTICLE;
  page->forum = mode == PU_HTML_FORUM;
  uint32_t main;
  html_choose(&dom, stats, mode, page->title, &main);
  size_t before = out->len;
  html_write(&dom, stats, main, out);
  if (!out->failed) return PU_OK;
  out->len = before;
  if (out->data) out->data[before] = 0;
  out->failed = false;
  return pu_fail(e, PU_ERR_NOMEM, "the text of a page does not fit into the memory given for it");
}

/* Puts the strings of a page, which lie behind the work space in the arena, at its beginning. */
static pu_err move_strings(pu_html_page *page, pu_arena *a, size_t mark, pu_error *e) {
  pu_str *fields[] = {&page->title, &page->author, &page->time, &page->lang, &page->url};
  pu_buf all;
  pu_buf_init(&all, 1 << 16);
  for (size_t k = 0; k < PU_COUNT(fields); k++)
    if (fields[k]->len) pu_buf_append(&all, fields[k]->ptr, fields[k]->len);
  pu_arena_release(a, mark);
  char *at = all.failed ? NULL : pu_arena_strndup(a, all.len ? all.data : "", all.len);
  pu_buf_deinit(&all);
  if (!at) return pu_fail(e, PU_ERR_NOMEM, "no memory for what a page says of itself");
  for (size_t k = 0; k < PU_COUNT(fields); k++) {
    fields[k]->ptr = fields[k]->len ? at : NULL;
    at += fields[k]->len;
  }
  return PU_OK;
}

pu_err pu_html_extract(pu_str html, pu_html_mode mode, pu_arena *a, pu_buf *out, pu_html_page *page, pu_error *e) {
  size_t mark = pu_arena_mark(a);
  *page = (pu_html_page){0};
  pu_err err = extract(html, mode, a, out, page, e);
  if (err) {
    pu_arena_release(a, mark);
    *page = (pu_html_page){0};
    return err;
  }
  return move_strings(page, a, mark, e);
}

const char *pu_html_charset(pu_str bytes, pu_arena *a) {
  pu_str head = pu_str_of(bytes.ptr, PU_MIN(bytes.len, (size_t)1024));
  for (size_t i = 0; i + 5 < head.len; i++) {
    if (head.ptr[i] != '<' || !html_same(pu_str_of(head.ptr + i + 1, 4), "meta")) continue;
    const char *end = memchr(head.ptr + i, '>', head.len - i);
    pu_str tag = pu_str_of(head.ptr + i, end ? (size_t)(end - head.ptr) - i : head.len - i);
    for (size_t k = 5; k + 8 < tag.len; k++) {
      if (!html_same(pu_str_of(tag.ptr + k, 7), "charset")) continue;
      size_t from = k + 7, to;
      while (from < tag.len &&
             (html_space(tag.ptr[from]) || tag.ptr[from] == '=' || tag.ptr[from] == '"' || tag.ptr[from] == '\''))
        from++;
      for (to = from; to < tag.len && !html_space(tag.ptr[to]) && !strchr("\"';/>", tag.ptr[to]);) to++;
      if (to > from && to - from < 40) return pu_arena_strndup(a, tag.ptr + from, to - from);
    }
  }
  return NULL;
}
