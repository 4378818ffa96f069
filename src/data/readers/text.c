/* Plain text in any charset: a file, a paragraph or a line a document. */
#include <string.h>

#include "src/data/reader.h"

typedef struct text {
  pu_buf paragraph; /* its lines so far */
} text;

static pu_err text_open(void *state, pu_input *in, pu_error *e) {
  text *t = state;
  pu_buf_init(&t->paragraph, PU_BUF_MAX);
  return pu_input_as_text(in, e);
}

static bool is_blank(pu_str s) {
  for (size_t i = 0; i < s.len; i++)
    if (s.ptr[i] != ' ' && s.ptr[i] != '\t' && s.ptr[i] != '\r') return false;
  return true;
}

/* The whole file; more than a document may have goes on as another one at the beginning of a line. */
static pu_err next_whole(pu_input *in, pu_doc *out, bool *found, pu_error *e) {
  pu_str s;
  PU_TRY(pu_input_peek(in, PU_DOC_MAX + 1, &s, e));
  *found = s.len > 0;
  if (!*found) return PU_OK;
  size_t len = PU_MIN(s.len, PU_DOC_MAX);
  if (len < s.len) {
    const char *end = memrchr(s.ptr, '\n', len);
    if (end) len = (size_t)(end - s.ptr) + 1;
    while (!end && len > PU_DOC_MAX - 4 && ((uint8_t)s.ptr[len] & 0xC0) == 0x80) len--;
  }
  pu_input_set_number(in, pu_input_number(in) + 1);
  PU_TRY(pu_read_text(in, out, pu_str_of(s.ptr, len), NULL, e));
  pu_input_take(in, len);
  return PU_OK;
}

static pu_err next_line(pu_input *in, pu_doc *out, bool *found, pu_error *e) {
  pu_str line;
  do PU_TRY(pu_input_line(in, &line, found, e));
  while (*found && is_blank(line));
  return *found ? pu_read_text(in, out, line, NULL, e) : PU_OK;
}

/* Lines up to the next blank one. */
static pu_err next_paragraph(text *t, pu_input *in, pu_doc *out, bool *found, pu_error *e) {
  pu_buf_clear(&t->paragraph);
  uint64_t first = 0;
  for (;;) {
    pu_str line;
    PU_TRY(pu_input_line(in, &line, found, e));
    bool blank = *found && is_blank(line);
    if (!*found || (blank && t->paragraph.len > 0)) break;
    if (blank) continue;
    if (t->paragraph.len > 0) pu_buf_putc(&t->paragraph, '\n');
    if (!pu_buf_append(&t->paragraph, line.ptr, line.len)) return pu_fail(e, PU_ERR_NOMEM, "reading: no memory");
    if (first == 0) first = pu_input_number(in);
    if (t->paragraph.len > PU_DOC_MAX / 2) break; /* cut here, at the end of a line */
  }
  *found = t->paragraph.len > 0;
  if (!*found) return PU_OK;
  uint64_t last = pu_input_number(in);
  pu_input_set_number(in, first);
  pu_err err = pu_read_text(in, out, pu_str_of(t->paragraph.data, t->paragraph.len), NULL, e);
  pu_input_set_number(in, last);
  return err;
}

static pu_err text_next(void *state, pu_input *in, pu_doc *out, bool *found, pu_error *e) {
  switch (pu_input_options(in)->split) {
  case PU_SPLIT_LINE:
    return next_line(in, out, found, e);
  case PU_SPLIT_BLANK:
    return next_paragraph(state, in, out, found, e);
  default:
    return next_whole(in, out, found, e);
  }
}

static bool text_lines(const pu_read_options *o, pu_str head) {
  (void)head;
  return o->split == PU_SPLIT_LINE;
}

static void text_close(void *state) {
  text *t = state;
  pu_buf_deinit(&t->paragraph);
}

const pu_reader pu_reader_text = {.name = "text",
                                  .endings = ".txt .text .log",
                                  .lines = text_lines,
                                  .state_size = sizeof(text),
                                  .open = text_open,
                                  .next = text_next,
                                  .close = text_close};
