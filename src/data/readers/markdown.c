/* Markdown: the text as it stands, without the front matter (YAML between ---, TOML between +++), whose title, date,
 * author and language are the document's. Without one, the first heading is the title. */
#include <string.h>
#include <strings.h>

#include "src/data/reader.h"

static pu_err markdown_open(void *state, pu_input *in, pu_error *e) {
  (void)state;
  return pu_input_as_text(in, e);
}

static pu_str line_at(pu_str s, size_t at, size_t *next) {
  const char *end = memchr(s.ptr + at, '\n', s.len - at);
  *next = end ? (size_t)(end - s.ptr) + 1 : s.len;
  return pu_str_of(s.ptr + at, (end ? (size_t)(end - s.ptr) : s.len) - at);
}

static pu_str trim(pu_str s) {
  while (s.len > 0 && strchr(" \t\"'", s.ptr[s.len - 1])) s.len--;
  while (s.len > 0 && strchr(" \t\"'", s.ptr[0])) s = pu_str_of(s.ptr + 1, s.len - 1);
  return s;
}

/* "key: value", or "key = value" in TOML. */
static void matter_line(pu_doc *out, pu_str line, char sign) {
  const struct {
    const char *key;
    pu_str *to;
  } known[] = {{"title", &out->title}, {"date", &out->time}, {"author", &out->author},
               {"lang", &out->lang},   {"url", &out->url},   {"language", &out->lang}};
  const char *at = memchr(line.ptr, sign, line.len);
  if (!at) return;
  pu_str key = trim(pu_str_of(line.ptr, (size_t)(at - line.ptr)));
  pu_str value = trim(pu_str_of(at + 1, line.len - (size_t)(at + 1 - line.ptr)));
  if (value.len == 0 || value.ptr[0] == '[' || value.ptr[0] == '{') return; /* lists are no single value */
  for (size_t i = 0; i < PU_COUNT(known); i++)
    if (key.len == strlen(known[i].key) && strncasecmp(key.ptr, known[i].key, key.len) == 0)
      *known[i].to = pu_doc_keep(out, value);
}

/* Where the text begins: behind the front matter, where there is a whole one. */
static size_t matter_read(pu_doc *out, pu_str s) {
  size_t at, next;
  pu_str fence = line_at(s, 0, &at);
  if (fence.len != 3 || (memcmp(fence.ptr, "---", 3) != 0 && memcmp(fence.ptr, "+++", 3) != 0)) return 0;
  size_t from = at, end = 0;
  for (; at < s.len && end == 0; at = next)
    if (pu_str_eq(line_at(s, at, &next), fence)) end = at;
  if (end == 0) return 0;
  size_t behind = at;
  for (at = from; at < end; at = next) matter_line(out, line_at(s, at, &next), *fence.ptr == '-' ? ':' : '=');
  while (behind < s.len && s.ptr[behind] == '\n') behind++;
  return behind;
}

static void heading_read(pu_doc *out, pu_str s) {
  size_t at = 0, next;
  while (at < s.len && s.ptr[at] == '\n') at++;
  pu_str line = at < s.len ? line_at(s, at, &next) : (pu_str){0};
  if (line.len > 2 && memcmp(line.ptr, "# ", 2) == 0)
    out->title = pu_doc_keep(out, trim(pu_str_of(line.ptr + 2, line.len - 2)));
}

static pu_err markdown_next(void *state, pu_input *in, pu_doc *out, bool *found, pu_error *e) {
  (void)state;
  PU_TRY(pu_read_rest(in, out, found, e));
  if (!*found) return PU_OK;
  out->type = pu_str_c("markdown");
  pu_str s = pu_str_of(out->text.data ? out->text.data : "", out->text.len);
  size_t behind = matter_read(out, s);
  if (out->title.len == 0) heading_read(out, pu_str_of(s.ptr + behind, s.len - behind));
  if (behind == 0) return PU_OK;
  memmove(out->text.data, out->text.data + behind, s.len - behind);
  out->text.len -= behind;
  out->text.data[out->text.len] = '\0';
  return PU_OK;
}

const pu_reader pu_reader_markdown = {
    .name = "markdown", .endings = ".md .markdown .mdown .mkd .rmd .qmd", .open = markdown_open, .next = markdown_next};
