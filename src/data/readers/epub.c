/* EPUB books: the chapters in the order of the spine, without the table of contents, one document a book (more where
 * it is very long). Books whose package cannot be read give their pages in the archive's order. Source: EPUB 3.3, W3C
 * 2023. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "src/data/html/html.h"
#include "src/data/zip.h"

enum { PACKAGE_MAX = 8 << 20, CHAPTERS = 8192, PATH_MAX_LEN = 4096 };

typedef struct epub {
  pu_input *in;
  pu_zip *archive; /* NULL: nothing is to be read */
  pu_buf package;  /* the OPF file */
  char *folder;    /* where it lies, with a slash; "": at the top */
  char **chapters;
  size_t n, at;
  pu_buf page;
} epub;

static pu_err nomem(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "epub: no memory");
}

/* ---- tags -------------------------------------------------------------------------------------------------------- */

/* The next tag of that name (its part behind a colon) from *at on: what is between name and bracket. */
static bool tag_next(pu_str s, size_t *at, const char *name, pu_str *inside) {
  size_t n = strlen(name);
  while (*at < s.len) {
    const char *open = memchr(s.ptr + *at, '<', s.len - *at);
    if (!open) break;
    const char *p = open + 1, *end = s.ptr + s.len, *close = memchr(p, '>', (size_t)(end - p));
    if (!close) break;
    *at = (size_t)(close - s.ptr) + 1;
    const char *colon = memchr(p, ':', PU_MIN((size_t)(close - p), (size_t)16));
    if (colon && !memchr(p, ' ', (size_t)(colon - p))) p = colon + 1;
    if ((size_t)(close - p) < n || memcmp(p, name, n) != 0) continue;
    if (p + n < close && !strchr(" \t\r\n/", p[n])) continue;
    *inside = pu_str_of(p + n, (size_t)(close - p) - n);
    return true;
  }
  *at = s.len;
  return false;
}

static pu_str attribute(pu_str tag, const char *name) {
  size_t n = strlen(name);
  for (size_t i = 0; i + n + 2 < tag.len; i++) {
    const char *p = tag.ptr + i;
    if (!strchr(" \t\r\n", *p) || *p == '\0' || memcmp(p + 1, name, n) != 0) continue;
    size_t at = i + 1 + n;
    while (at < tag.len && strchr(" \t\r\n=", tag.ptr[at])) at++;
    if (at >= tag.len || (tag.ptr[at] != '"' && tag.ptr[at] != '\'')) continue;
    const char *end = memchr(tag.ptr + at + 1, tag.ptr[at], tag.len - at - 1);
    return end ? pu_str_of(tag.ptr + at + 1, (size_t)(end - tag.ptr) - at - 1) : (pu_str){0};
  }
  return (pu_str){0};
}

/* The text of the first element of that name, without entities but the five of XML. */
static pu_str element_keep(pu_str s, const char *name, pu_doc *out) {
  static const char *const entities[][2] = {
      {"&lt;", "<"}, {"&gt;", ">"}, {"&quot;", "\""}, {"&apos;", "'"}, {"&amp;", "&"}};
  size_t at = 0;
  pu_str tag;
  if (!tag_next(s, &at, name, &tag) || (tag.len > 0 && tag.ptr[tag.len - 1] == '/')) return (pu_str){0};
  const char *end = memchr(s.ptr + at, '<', s.len - at);
  pu_str text = pu_str_of(s.ptr + at, end ? (size_t)(end - s.ptr) - at : 0);
  pu_buf_clear(&out->spare);
  while (text.len > 0) {
    size_t n = 1, e = PU_COUNT(entities);
    for (size_t i = 0; *text.ptr == '&' && i < PU_COUNT(entities); i++)
      if (text.len >= strlen(entities[i][0]) && memcmp(text.ptr, entities[i][0], strlen(entities[i][0])) == 0) e = i;
    if (e < PU_COUNT(entities)) n = strlen(entities[e][0]);
    pu_buf_append(&out->spare, e < PU_COUNT(entities) ? entities[e][1] : text.ptr, 1);
    text = pu_str_of(text.ptr + n, text.len - n);
  }
  return pu_doc_keep(out, pu_str_of(out->spare.data ? out->spare.data : "", out->spare.len));
}

/* ---- the package ------------------------------------------------------------------------------------------------- */

/* All of the member that the archive stands at; what is longer is cut. */
static pu_err member_all(epub *b, size_t max, pu_buf *out, pu_error *e) {
  pu_buf_clear(out);
  for (size_t got = 1; got > 0 && out->len < max;) {
    if (!pu_buf_reserve(out, (size_t)64 << 10)) return nomem(e);
    PU_TRY(pu_zip_read(b->archive, out->data + out->len, PU_MIN((size_t)64 << 10, max - out->len), &got, e));
    got = pu_input_unpacked(b->in, got);
    out->len += got;
  }
  return PU_OK;
}

static int hex(char c) {
  return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* Folder and reference as a member's name: "%20" undone, "../" followed, what stands behind # left out. */
static char *path_of(const char *folder, pu_str href) {
  size_t n = strlen(folder), size = n + href.len + 1;
  char *path = malloc(size);
  if (!path) return NULL;
  memcpy(path, folder, n);
  for (size_t i = 0; i < href.len && href.ptr[i] != '#'; i++) {
    bool coded = href.ptr[i] == '%' && href.len - i > 2 && hex(href.ptr[i + 1]) >= 0 && hex(href.ptr[i + 2]) >= 0;
    if (href.len - i >= 3 && memcmp(href.ptr + i, "../", 3) == 0 && n > 0 && path[n - 1] == '/') {
      for (n--; n > 0 && path[n - 1] != '/';) n--;
      i += 2;
      continue;
    }
    path[n++] = coded ? (char)(hex(href.ptr[i + 1]) << 4 | hex(href.ptr[i + 2])) : href.ptr[i];
    i += coded ? 2 : 0;
  }
  path[n] = '\0';
  return path;
}

typedef struct item {
  pu_str id, href;
} item;

static int item_order(const void *a, const void *b) {
  const item *x = a, *y = b;
  int order = memcmp(x->id.ptr, y->id.ptr, PU_MIN(x->id.len, y->id.len));
  return order ? order : (x->id.len > y->id.len) - (x->id.len < y->id.len);
}

/* The manifest's items by their ids. */
static item *items_read(pu_str package, size_t *n) {
  item *items = calloc(CHAPTERS, sizeof *items);
  pu_str tag;
  *n = 0;
  for (size_t at = 0; items && *n < CHAPTERS && tag_next(package, &at, "item", &tag);) {
    item m = {attribute(tag, "id"), attribute(tag, "href")};
    if (pu_str_eq(attribute(tag, "properties"), pu_str_c("nav"))) continue;
    if (m.id.len > 0 && m.href.len > 0 && m.href.len < PATH_MAX_LEN) items[(*n)++] = m;
  }
  if (items) qsort(items, *n, sizeof *items, item_order);
  return items;
}

static pu_err spine_read(epub *b, pu_error *e) {
  pu_str package = pu_str_of(b->package.data ? b->package.data : "", b->package.len), tag;
  size_t n;
  item *items = items_read(package, &n);
  b->chapters = calloc(CHAPTERS, sizeof *b->chapters);
  pu_err err = items && b->chapters ? PU_OK : nomem(e);
  for (size_t at = 0; err == PU_OK && b->n < CHAPTERS && tag_next(package, &at, "itemref", &tag);) {
    item key = {.id = attribute(tag, "idref")};
    pu_str linear = attribute(tag, "linear");
    const item *m = key.id.len > 0 ? bsearch(&key, items, n, sizeof *items, item_order) : NULL;
    if (!m || pu_str_eq(linear, pu_str_c("no"))) continue;
    b->chapters[b->n] = path_of(b->folder, m->href);
    if (!b->chapters[b->n]) err = nomem(e);
    b->n += err == PU_OK;
  }
  free(items);
  return err;
}

static pu_err package_read(epub *b, pu_error *e) {
  bool found;
  size_t at = 0;
  pu_str tag;
  PU_TRY(pu_zip_find(b->archive, pu_str_c("META-INF/container.xml"), &found, e));
  if (!found) return PU_OK;
  PU_TRY(member_all(b, PACKAGE_MAX, &b->package, e));
  if (!tag_next(pu_str_of(b->package.data, b->package.len), &at, "rootfile", &tag)) return PU_OK;
  b->folder = path_of("", attribute(tag, "full-path"));
  if (!b->folder) return nomem(e);
  PU_TRY(pu_zip_find(b->archive, pu_str_c(b->folder), &found, e));
  char *slash = strrchr(b->folder, '/');
  *(slash ? slash + 1 : b->folder) = '\0';
  pu_buf_clear(&b->package);
  if (!found) return PU_OK;
  PU_TRY(member_all(b, PACKAGE_MAX, &b->package, e));
  return spine_read(b, e);
}

/* ---- the book ---------------------------------------------------------------------------------------------------- */

static pu_err epub_open(void *state, pu_input *in, pu_error *e) {
  epub *b = state;
  b->in = in;
  pu_buf_init(&b->package, PU_BUF_MAX);
  pu_buf_init(&b->page, PU_BUF_MAX);
  if (pu_input_depth(in) >= PU_INPUT_DEPTH) {
    pu_input_skip(in, 0, "archives in archives, too many");
    return PU_OK;
  }
  PU_TRY(pu_zip_open(in, &b->archive, e));
  PU_TRY(package_read(b, e));
  if (b->n > 0) return PU_OK;
  pu_input_skip(in, 0, "an EPUB book without a spine that can be read: its pages in the archive's order");
  pu_zip_rewind(b->archive);
  return PU_OK;
}

static bool is_page(const char *name) {
  const char *dot = strrchr(name, '.');
  return dot && (strcasecmp(dot, ".xhtml") == 0 || strcasecmp(dot, ".html") == 0 || strcasecmp(dot, ".htm") == 0);
}

/* Goes to the next chapter; *more false: the book is over. */
static pu_err chapter_next(epub *b, bool *more, pu_error *e) {
  char *name;
  *more = false;
  if (pu_input_full(b->in)) return PU_OK;
  if (b->n == 0) {
    do PU_TRY(pu_zip_next(b->archive, &name, more, e));
    while (*more && !is_page(name));
    return PU_OK;
  }
  for (; !*more && b->at < b->n; b->at++) {
    PU_TRY(pu_zip_find(b->archive, pu_str_c(b->chapters[b->at]), more, e));
    if (*more) continue;
    char why[300];
    snprintf(why, sizeof why, "%.200s: a chapter that is missing", b->chapters[b->at]);
    pu_input_skip(b->in, 0, why);
  }
  return PU_OK;
}

static pu_err chapter_add(epub *b, pu_doc *out, pu_error *e) {
  pu_html_page about = {0};
  PU_TRY(member_all(b, PU_DOC_MAX, &b->page, e));
  pu_str page = pu_str_of(b->page.data ? b->page.data : "", b->page.len);
  pu_buf_clear(&out->spare);
  PU_TRY(pu_charset_convert(page, pu_charset_find(page, NULL), &out->spare, NULL, e));
  size_t before = out->text.len; /* the extraction parts it from what comes by a blank line */
  PU_TRY(pu_html_extract(pu_str_of(out->spare.data ? out->spare.data : "", PU_MIN(out->spare.len, PU_DOC_MAX)),
                         PU_HTML_ALL, out->arena, &out->text, &about, e));
  while (out->text.len > before && out->text.data[out->text.len - 1] == '\n') out->text.len--;
  if (out->text.len > PU_DOC_MAX) pu_input_skip(b->in, 0, "a chapter that makes its book longer than 64 MiB");
  if (out->text.len > PU_DOC_MAX) out->text.len = before;
  if (out->text.data) out->text.data[out->text.len] = '\0';
  return PU_OK;
}

static pu_err epub_next(void *state, pu_input *in, pu_doc *out, bool *found, pu_error *e) {
  epub *b = state;
  bool more = b->archive != NULL;
  while (more && out->text.len < PU_DOC_MAX / 2) {
    PU_TRY(chapter_next(b, &more, e));
    if (more) PU_TRY(chapter_add(b, out, e));
  }
  *found = out->text.len > 0;
  if (!*found) return PU_OK;
  pu_str package = pu_str_of(b->package.data ? b->package.data : "", b->package.len);
  out->title = element_keep(package, "title", out);
  out->author = element_keep(package, "creator", out);
  out->lang = element_keep(package, "language", out);
  out->time = element_keep(package, "date", out);
  pu_buf_clear(&out->spare);
  pu_input_set_number(in, pu_input_number(in) + 1);
  return pu_doc_place(in, out, e);
}

static void epub_close(void *state) {
  epub *b = state;
  pu_zip_close(b->archive);
  for (size_t i = 0; i < b->n; i++) free(b->chapters[i]);
  free(b->chapters);
  free(b->folder);
  pu_buf_deinit(&b->package);
  pu_buf_deinit(&b->page);
}

static bool epub_looks(pu_str head) {
  static const char kind[] = "mimetypeapplication/epub+zip";
  return pu_zip_looks(head) && head.len >= 30 + sizeof kind - 1 && memcmp(head.ptr + 30, kind, sizeof kind - 1) == 0;
}

const pu_reader pu_reader_epub = {.name = "epub",
                                  .endings = ".epub",
                                  .binary = true,
                                  .archive = true,
                                  .looks = epub_looks,
                                  .state_size = sizeof(epub),
                                  .open = epub_open,
                                  .next = epub_next,
                                  .close = epub_close};
