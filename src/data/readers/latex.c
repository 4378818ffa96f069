/* LaTeX: what stands between \begin{document} and \end{document}, without comments. Macros stay as they are written,
 * and \input is not followed. A file without \begin{document} is a part of one: all of it is text. */
#include <string.h>

#include "src/data/reader.h"

enum { VERB_MAX = 1000, ARGUMENT_MAX = 1000 };

static pu_err latex_open(void *state, pu_input *in, pu_error *e) {
  (void)state;
  return pu_input_as_text(in, e);
}

static bool starts(pu_str s, size_t at, const char *with) {
  size_t n = strlen(with);
  return s.len - at >= n && memcmp(s.ptr + at, with, n) == 0;
}

static const char *find(pu_str s, size_t from, const char *what) {
  return from < s.len ? memmem(s.ptr + from, s.len - from, what, strlen(what)) : NULL;
}

/* Environments whose text is taken as it is, percent signs too: the length of one from \begin on to before its \end;
 * 0: none begins here. */
static size_t verbatim_len(pu_str s, size_t at) {
  static const char *const names[] = {"{verbatim}", "{verbatim*}", "{Verbatim}", "{lstlisting}", "{minted}"};
  if (!starts(s, at, "\\begin{")) return 0;
  for (size_t i = 0; i < PU_COUNT(names); i++) {
    char close[32];
    if (!starts(s, at + 6, names[i])) continue;
    snprintf(close, sizeof close, "\\end%s", names[i]);
    const char *end = find(s, at, close);
    return (end ? (size_t)(end - s.ptr) : s.len) - at;
  }
  return 0;
}

static bool is_letter(char c) {
  return (c | 32) >= 'a' && (c | 32) <= 'z';
}

/* \verb|…|, within a line. */
static size_t verb_len(pu_str s, size_t at) {
  size_t open = at + 5 + (starts(s, at, "\\verb*"));
  if (!starts(s, at, "\\verb") || open >= s.len || is_letter(s.ptr[open]) || s.ptr[open] == '\n') return 0;
  size_t near = PU_MIN(s.len - open, (size_t)VERB_MAX);
  const char *line_end = memchr(s.ptr + open, '\n', near);
  size_t room = (line_end ? (size_t)(line_end - s.ptr) : open + near) - open - 1;
  const char *end = memchr(s.ptr + open + 1, s.ptr[open], room);
  return end ? (size_t)(end - s.ptr) + 1 - at : 0;
}

/* A comment goes with its line's end and the next line's indent, as TeX reads it, but a line that is nothing else goes
 * whole, and a blank line behind one stays. */
static size_t comment_len(pu_str s, size_t at, bool line_begins) {
  const char *end = memchr(s.ptr + at, '\n', s.len - at);
  if (!end) return s.len - at;
  size_t next = (size_t)(end - s.ptr) + 1, text = next;
  if (line_begins) return next - at;
  while (text < s.len && (s.ptr[text] == ' ' || s.ptr[text] == '\t')) text++;
  return (text < s.len && s.ptr[text] == '\n' ? next - 1 : text) - at;
}

static void without_comments(pu_str s, pu_buf *out) {
  size_t kept = 0; /* what is behind is in out */
  for (size_t at = 0; at < s.len;) {
    at += strcspn(s.ptr + at, "\\%");
    if (at >= s.len) break;
    if (s.ptr[at] == '\0') { /* strcspn ends at a zero byte, too */
      at++;
    } else if (s.ptr[at] == '\\') {
      size_t n = verbatim_len(s, at);
      if (n == 0) n = verb_len(s, at);
      at += n > 0 ? n : 2;
    } else {
      size_t text = at;
      while (text > kept && (s.ptr[text - 1] == ' ' || s.ptr[text - 1] == '\t')) text--;
      bool line_begins = text == 0 || s.ptr[text - 1] == '\n';
      pu_buf_append(out, s.ptr + kept, (line_begins ? text : at) - kept);
      at += comment_len(s, at, line_begins);
      kept = at;
    }
  }
  pu_buf_append(out, s.ptr + kept, s.len - kept);
}

/* What is in the braces behind a command, without its own commands' backslashes being looked at. */
static pu_str argument_of(pu_str s, const char *command) {
  const char *at = find(s, 0, command);
  if (!at) return (pu_str){0};
  const char *p = at + strlen(command), *from = p, *end = s.ptr + s.len;
  int depth = 1;
  for (; p < end && p - from < ARGUMENT_MAX; p++) {
    if (*p == '\\' && p + 1 < end)
      p++;
    else if (*p == '{')
      depth++;
    else if (*p == '}' && --depth == 0)
      return pu_str_of(from, (size_t)(p - from));
  }
  return (pu_str){0};
}

static pu_err latex_next(void *state, pu_input *in, pu_doc *out, bool *found, pu_error *e) {
  (void)state;
  PU_TRY(pu_read_rest(in, out, found, e));
  if (!*found || out->text.len == 0) return PU_OK;
  out->type = pu_str_c("latex");
  pu_buf_clear(&out->spare);
  without_comments(pu_str_of(out->text.data, out->text.len), &out->spare);
  if (out->spare.failed) return pu_fail(e, PU_ERR_NOMEM, "latex: no memory");
  pu_str s = pu_str_of(out->spare.data, out->spare.len);
  pu_str title = argument_of(s, "\\title{"), author = argument_of(s, "\\author{");
  if (title.len > 0) out->title = pu_doc_keep(out, title);
  if (author.len > 0) out->author = pu_doc_keep(out, author);
  static const char open[] = "\\begin{document}";
  const char *from = find(s, 0, open);
  size_t begin = from ? (size_t)(from - s.ptr) + sizeof open - 1 : 0;
  while (from && begin < s.len && s.ptr[begin] == '\n') begin++;
  const char *to = find(s, begin, "\\end{document}");
  size_t end = to ? (size_t)(to - s.ptr) : s.len;
  pu_buf_clear(&out->text);
  if (!pu_buf_append(&out->text, s.ptr + begin, end - begin)) return pu_fail(e, PU_ERR_NOMEM, "latex: no memory");
  pu_buf_clear(&out->spare);
  return PU_OK;
}

const pu_reader pu_reader_latex = {
    .name = "latex", .endings = ".tex .latex .ltx", .open = latex_open, .next = latex_next};
