/* A web page, saved as it is. */
#include <string.h>
#include <strings.h>

#include "src/data/reader.h"

static bool html_looks(pu_str head) {
  static const char *const begins[] = {"<!doctype html", "<html", "<head", "<body"};
  size_t at = pu_str_mark(head);
  while (at < head.len && (head.ptr[at] == ' ' || (head.ptr[at] >= '\t' && head.ptr[at] <= '\r'))) at++;
  for (size_t i = 0; i < PU_COUNT(begins); i++) {
    size_t n = strlen(begins[i]);
    if (head.len - at >= n && strncasecmp(head.ptr + at, begins[i], n) == 0) return true;
  }
  return false;
}

static pu_err html_next(void *state, pu_input *in, pu_doc *out, bool *found, pu_error *e) {
  (void)state;
  pu_str page;
  bool cut;
  uint64_t at = pu_input_at(in);
  PU_TRY(pu_input_rest(in, PU_DOC_MAX, &page, &cut, e));
  *found = page.len > 0;
  if (!*found) return PU_OK;
  if (cut) pu_input_skip(in, at + page.len, "a page of more than 64 MiB: the rest");
  pu_input_set_number(in, 1);
  return pu_read_html(in, out, page, NULL, e);
}

const pu_reader pu_reader_html = {
    .name = "html", .endings = ".html .htm .xhtml .shtml", .looks = html_looks, .next = html_next};
