/* Which reader an input takes, and its documents. */
#include <stdlib.h>
#include <string.h>

#include "src/data/html/html.h"
#include "src/data/reader.h"

enum { LOOK = 64 << 10 };

/* ---- which reader ------------------------------------------------------------------------------------------------ */

static char lower(char c) {
  return (char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
}

static bool ends_with(pu_str name, pu_str ending) {
  if (name.len < ending.len) return false;
  const char *tail = name.ptr + name.len - ending.len;
  for (size_t i = 0; i < ending.len; i++)
    if (lower(tail[i]) != ending.ptr[i]) return false;
  return true;
}

/* The longest of the endings (".a .b.c") that the name has: its length, or 0. */
static size_t ending_of(pu_str name, const char *endings) {
  size_t longest = 0;
  for (const char *at = endings; at && *at;) {
    size_t n = strcspn(at, " ");
    if (n > longest && ends_with(name, pu_str_of(at, n))) longest = n;
    at += n + (at[n] == ' ');
  }
  return longest;
}

static pu_str plain_name(const char *name) {
  pu_str s = pu_str_c(name);
  size_t n = ending_of(s, ".gz .zst");
  s.len -= n;
  return s;
}

/* What holds no text that puyu reads. Only what is not text by its bytes either is judged by its name. */
static const char nothing_endings[] =
    ".png .jpg .jpeg .gif .bmp .webp .ico .tif .tiff .svgz .psd .mp3 .mp4 .m4a .ogg .wav .flac .avi .mkv .mov .webm "
    ".woff .woff2 .ttf .otf .eot .pdf .doc .docx .xls .xlsx .ppt .pptx .odt .ods .odp .jar .apk .class .o .a .so .exe "
    ".dll .pyc .wasm .bin .dat .db .sqlite .safetensors .gguf .pt .npy .npz .arrow .rar .css .map .djvu .mobi";

static bool is_nothing(pu_str head) {
  static const struct {
    uint8_t len;
    char magic[8];
  } known[] = {{8, "\x89PNG\r\n\x1A\n"},
               {3, "\xFF\xD8\xFF"},
               {4, "GIF8"},
               {4, "\x7F"
                   "ELF"},
               {5, "%PDF-"},
               {4, "RIFF"},
               {4, "OggS"},
               {4, "Rar!"},
               {4, "wOFF"},
               {4, "wOF2"},
               {8, "\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1"}};
  for (size_t i = 0; i < PU_COUNT(known); i++)
    if (head.len >= known[i].len && memcmp(head.ptr, known[i].magic, known[i].len) == 0) return true;
  /* Zero bytes are in no text but UTF-16's, and detection says UTF-8 where they make no sense in that. */
  if (head.len == 0 || !memchr(head.ptr, 0, head.len)) return false;
  return strcmp(pu_charset_find(head, NULL), "UTF-8") == 0;
}

static const pu_reader *by_format(const char *format) {
  for (const pu_reader *const *r = pu_reader_all; *r; r++)
    if (strcmp((*r)->name, format) == 0) return *r;
  return NULL;
}

static const pu_reader *by_name(pu_str name) {
  const pu_reader *best = NULL;
  size_t longest = 0;
  for (const pu_reader *const *r = pu_reader_all; *r; r++) {
    size_t n = ending_of(name, (*r)->endings);
    if (n > longest) best = *r;
    longest = PU_MAX(n, longest);
  }
  return best;
}

static const pu_reader *by_looks(pu_str head) {
  for (const pu_reader *const *r = pu_reader_all; *r; r++)
    if ((*r)->looks && (*r)->looks(head)) return *r;
  return NULL;
}

pu_err pu_reader_find(pu_input *in, const pu_reader **out, pu_error *e) {
  const pu_read_options *o = pu_input_options(in);
  pu_str head, name = plain_name(pu_input_name(in));
  *out = NULL;
  PU_TRY(pu_input_peek(in, LOOK, &head, e));
  head.len = PU_MIN(head.len, (size_t)LOOK);
  const pu_reader *told = NULL;
  if (o->format && strcmp(o->format, "auto") != 0 && !(told = by_format(o->format)))
    return pu_fail(e, PU_ERR_USAGE, "'%s' is no format that puyu reads", o->format);
  /* What a format says is said of the documents, and these may be in archives. */
  const pu_reader *named = by_name(name), *looked = by_looks(head);
  if (told && told->archive && pu_input_depth(in) == 0) {
    *out = told;
    return PU_OK;
  }
  bool binary = looked && looked->archive;
  if (!binary && ((told && told->archive) || !told)) told = named ? named : looked;
  if (binary) told = named && named->archive ? named : ending_of(name, nothing_endings) ? NULL : looked;
  if (!binary && !(told && told->binary) && is_nothing(head) && !(told && told->looks && told->looks(head)))
    return PU_OK;
  if (!binary && !named && !told && ending_of(name, nothing_endings)) return PU_OK;
  *out = told || binary ? told : by_format("text");
  return PU_OK;
}

pu_err pu_file_in_ranges(const char *path, const pu_read_options *o, bool *out, pu_error *e) {
  pu_input *in;
  pu_str head;
  const pu_reader *r = NULL;
  *out = false;
  PU_TRY(pu_input_open(path, 0, 0, o, &in, e));
  pu_err err = pu_reader_find(in, &r, e);
  if (err == PU_OK) err = pu_input_peek(in, LOOK, &head, e);
  if (err == PU_OK && r && r->lines && !pu_input_packed(in)) {
    head.len = PU_MIN(head.len, (size_t)LOOK);
    *out = strncmp(pu_charset_find(head, o->charset), "UTF-16", 6) != 0 && r->lines(o, head);
  }
  pu_input_close(in);
  return err;
}

/* ---- documents --------------------------------------------------------------------------------------------------- */

struct pu_reading {
  pu_input *in;
  const pu_reader *reader; /* NULL: nothing to read */
  void *state;
};

static pu_err reading_begin(pu_reading *r, pu_error *e) {
  PU_TRY(pu_reader_find(r->in, &r->reader, e));
  if (!r->reader) {
    pu_str head;
    PU_TRY(pu_input_peek(r->in, 1, &head, e));
    static const char why[] = "not text, nor anything else that is read";
    if (pu_input_depth(r->in) > 0)
      pu_input_pass(r->in, 0, why);
    else
      pu_input_skip(r->in, 0, why);
    return PU_OK;
  }
  r->state = calloc(1, PU_MAX(r->reader->state_size, (size_t)1));
  if (!r->state) return pu_fail(e, PU_ERR_NOMEM, "reading: no memory");
  return r->reader->open ? r->reader->open(r->state, r->in, e) : PU_OK;
}

pu_err pu_reading_open(pu_input *in, pu_reading **out, pu_error *e) {
  *out = NULL;
  pu_reading *r = calloc(1, sizeof *r);
  if (!r) {
    pu_input_close(in);
    return pu_fail(e, PU_ERR_NOMEM, "reading: no memory");
  }
  r->in = in;
  pu_err err = reading_begin(r, e);
  if (err != PU_OK) {
    pu_reading_close(r);
    return err;
  }
  *out = r;
  return PU_OK;
}

pu_err pu_reading_next(pu_reading *r, pu_doc *out, bool *found, pu_error *e) {
  *found = false;
  if (!r->reader) return PU_OK;
  do {
    pu_doc_clear(out);
    PU_TRY(r->reader->next(r->state, r->in, out, found, e));
  } while (*found && out->text.len == 0);
  return PU_OK;
}

void pu_reading_close(pu_reading *r) {
  if (!r) return;
  if (r->state && r->reader->close) r->reader->close(r->state);
  free(r->state);
  pu_input_close(r->in);
  free(r);
}

/* ---- members ----------------------------------------------------------------------------------------------------- */

bool pu_member_ignored(const char *name) {
  for (const char *part = name;;) {
    size_t n = strcspn(part, "/");
    bool here = (n == 1 && *part == '.') || (n == 2 && memcmp(part, "..", 2) == 0);
    if (*part == '.' && !here) return true;
    if (part[n] == '\0') return n == 0 || strncmp(name, "__MACOSX/", 9) == 0;
    part += n + 1;
  }
}

static pu_err member_open(pu_members *m, pu_input *in, bool *more, pu_error *e) {
  char *name = NULL;
  pu_input *member;
  PU_TRY(m->begin(m->arg, &name, more, e));
  if (!*more) return PU_OK;
  pu_input_set_number(in, pu_input_number(in) + 1);
  PU_TRY(pu_input_member(in, name, m->read, m->arg, &member, e));
  return pu_reading_open(member, &m->now, e);
}

pu_err pu_members_next(pu_members *m, pu_input *in, pu_doc *out, bool *found, pu_error *e) {
  for (;;) {
    bool more = true;
    *found = false;
    if (!m->now && pu_input_full(in)) return PU_OK;
    if (!m->now) PU_TRY(member_open(m, in, &more, e));
    if (!more) return PU_OK;
    PU_TRY(pu_reading_next(m->now, out, found, e));
    if (*found) return PU_OK;
    pu_reading_close(m->now);
    m->now = NULL;
  }
}

void pu_members_close(pu_members *m) {
  pu_reading_close(m->now);
  m->now = NULL;
}

/* ---- pages ------------------------------------------------------------------------------------------------------- */

static void page_fill(pu_doc *out, const pu_html_page *page) {
  if (page->title.len > 0 && out->title.len == 0) out->title = pu_doc_keep(out, page->title);
  if (page->author.len > 0) out->author = pu_doc_keep(out, page->author);
  if (page->time.len > 0) out->time = pu_doc_keep(out, page->time);
  if (page->lang.len > 0) out->lang = pu_doc_keep(out, page->lang);
  if (page->url.len > 0 && out->url.len == 0) out->url = pu_doc_keep(out, page->url);
}

pu_err pu_read_html(pu_input *in, pu_doc *out, pu_str bytes, const char *charset, pu_error *e) {
  PU_TRY(pu_doc_place(in, out, e));
  out->type = pu_str_c("html");
  const char *told = pu_charset_known(pu_input_options(in)->charset);
  if (!charset) charset = pu_html_charset(bytes, out->arena);
  const char *found = told ? told : pu_charset_find(bytes, charset);
  pu_buf_clear(&out->spare);
  PU_TRY(pu_charset_convert(bytes, found, &out->spare, NULL, e));
  pu_html_page page = {0};
  int mode = pu_input_options(in)->html;
  PU_TRY(pu_html_extract(pu_str_of(out->spare.data ? out->spare.data : "", PU_MIN(out->spare.len, PU_DOC_MAX)),
                         (pu_html_mode)mode, out->arena, &out->text, &page, e));
  page_fill(out, &page);
  pu_buf_clear(&out->spare);
  return PU_OK;
}
