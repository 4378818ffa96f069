/* Documents out of archives, whole and broken. */
#include "tests/data/reading.h"

#include <zlib.h>

/* ---- making zip archives ----------------------------------------------------------------------------------------- */

typedef struct maker {
  pu_buf file, directory;
  size_t n;
} maker;

static void maker_begin(maker *m) {
  pu_buf_init(&m->file, PU_BUF_MAX);
  pu_buf_init(&m->directory, PU_BUF_MAX);
  m->n = 0;
}

static void put16(pu_buf *b, size_t v) {
  pu_buf_putc(b, (char)(v & 255));
  pu_buf_putc(b, (char)(v >> 8 & 255));
}

static void put32(pu_buf *b, size_t v) {
  put16(b, v & 0xFFFF);
  put16(b, v >> 16 & 0xFFFF);
}

static void put64(pu_buf *b, uint64_t v) {
  put32(b, v & UINT32_MAX);
  put32(b, v >> 32);
}

static void deflate_to(pu_buf *out, const void *data, size_t len) {
  z_stream z = {0};
  assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY), Z_OK);
  size_t most = deflateBound(&z, len);
  assert_true(pu_buf_reserve(out, most));
  z.next_in = (uint8_t *)(uintptr_t)data;
  z.avail_in = (unsigned)len;
  z.next_out = (uint8_t *)out->data + out->len;
  z.avail_out = (unsigned)most;
  assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
  out->len += most - z.avail_out;
  deflateEnd(&z);
}

typedef struct member {
  const char *name;
  const void *data;
  size_t len;
  int method; /* 0 stored, 8 deflated; another one: stored under its name */
  int flags;
  bool wide; /* sizes and place in 64 bits */
} member;

/* What local header and directory have in common. */
static void put_fields(pu_buf *b, const member *m, size_t packed) {
  put16(b, 20);
  put16(b, (size_t)m->flags);
  put16(b, (size_t)m->method);
  put32(b, 0); /* time and date */
  put32(b, crc32(0, m->data, (unsigned)m->len));
  put32(b, m->wide ? UINT32_MAX : packed);
  put32(b, m->wide ? UINT32_MAX : m->len);
  put16(b, strlen(m->name));
}

static void add_entry(maker *z, const member *m, size_t packed, size_t at) {
  pu_buf *d = &z->directory;
  pu_buf_puts(d, "PK\1\2");
  put16(d, 20);
  put_fields(d, m, packed);
  put16(d, m->wide ? 28 : 0);
  put16(d, 0);
  put16(d, 0);
  put16(d, 0);
  put32(d, 0);
  put32(d, m->wide ? UINT32_MAX : at);
  pu_buf_puts(d, m->name);
  if (m->wide) {
    put16(d, 1);
    put16(d, 24);
    put64(d, m->len);
    put64(d, packed);
    put64(d, at);
  }
  z->n++;
}

static void add(maker *z, member m) {
  pu_buf packed;
  pu_buf_init(&packed, PU_BUF_MAX);
  if (m.method == 8)
    deflate_to(&packed, m.data, m.len);
  else
    pu_buf_append(&packed, m.data, m.len);
  size_t at = z->file.len;
  pu_buf_puts(&z->file, "PK\3\4");
  put_fields(&z->file, &m, packed.len);
  put16(&z->file, 0);
  pu_buf_puts(&z->file, m.name);
  pu_buf_append(&z->file, packed.data, packed.len);
  add_entry(z, &m, packed.len, at);
  pu_buf_deinit(&packed);
}

static void add_text(maker *z, const char *name, const char *text) {
  add(z, (member){.name = name, .data = text, .len = strlen(text), .method = z->n % 2 ? 8 : 0});
}

/* The directory goes to the end; shift: how far what it says is from where it is. */
static void close_zip(maker *z, size_t shift, const char *comment) {
  size_t at = z->file.len - shift;
  pu_buf_append(&z->file, z->directory.data, z->directory.len);
  pu_buf_puts(&z->file, "PK\5\6");
  put32(&z->file, 0);
  put16(&z->file, z->n);
  put16(&z->file, z->n);
  put32(&z->file, z->directory.len);
  put32(&z->file, at);
  put16(&z->file, strlen(comment));
  pu_buf_puts(&z->file, comment);
}

static const char *put_archive(maker *z, const char *name) {
  const char *path = put(name, z->file.data, z->file.len);
  options.name = name;
  pu_buf_deinit(&z->file);
  pu_buf_deinit(&z->directory);
  return path;
}

static void expect(const char *path, const char *want, const char *skips) {
  pu_buf_clear(&got);
  pu_buf_clear(&skipped);
  read_range(path, 0, 0, false);
  assert_string_equal(got.data ? got.data : "", want);
  assert_string_equal(skipped.data ? skipped.data : "", skips);
}

static bool is_in_got(const char *text) {
  return got.len > 0 && memmem(got.data, got.len, text, strlen(text)) != NULL;
}

/* ---- zip --------------------------------------------------------------------------------------------------------- */

static void test_members(void **state) {
  (void)state;
  maker z;
  maker_begin(&z);
  add_text(&z, "a.txt", "one");
  add_text(&z, "dir/", "");
  add_text(&z, "dir/b.jsonl", "{\"content\": \"two\"}\n{\"content\": \"three\"}\n");
  add_text(&z, ".hidden/c.txt", "x");
  add_text(&z, "__MACOSX/d.txt", "x");
  add_text(&z, "e.png", "\x89PNG\r\n\x1A\n");
  add_text(&z, "dir\\\xD6\xD0\xCE\xC4\xB5\xC4.txt", "four");
  add(&z, (member){.name = "\xC3\xA9.txt", .data = "five", .len = 4, .method = 8, .flags = 0x800, .wide = true});
  add_text(&z, "page.html",
           "<p>A paragraph that is long enough, with several words in it, to be the main text of a page.</p>");
  add(&z, (member){.name = "f.txt", .data = "x", .len = 1, .method = 14});
  add(&z, (member){.name = "g.txt", .data = "x", .len = 1, .flags = 1});
  add_text(&z, "empty.txt", "");
  add_text(&z, "h.txt", "six");
  close_zip(&z, 0, "a comment, PK\5\6 in it");
  expect_docs(put_archive(&z, "n.zip"),
              "[s/n.zip/a.txt:1 text] one|[s/n.zip/dir/b.jsonl:1 text] two|[s/n.zip/dir/b.jsonl:2 text] three|"
              "[s/n.zip/dir/中文的.txt:1 text] four|[s/n.zip/é.txt:1 text] five|[s/n.zip/page.html:1 html] A paragraph "
              "that is long enough, with several words in it, to be the main text of a page.|[s/n.zip/h.txt:1 text] "
              "six|");
  expect_skips("0: not text, nor anything else that is read|516: f.txt: compressed in a way that is not read|"
               "552: g.txt: encrypted|");
}

/* Something before the archive; the name does not tell. */
static void test_shifted(void **state) {
  (void)state;
  maker z;
  maker_begin(&z);
  add_text(&z, "a.txt", "one");
  add_text(&z, "b.txt", "two");
  close_zip(&z, 0, "");
  pu_buf whole = z.file;
  pu_buf_init(&z.file, PU_BUF_MAX);
  pu_buf_puts(&z.file, "#!/bin/sh\n");
  pu_buf_append(&z.file, whole.data, whole.len);
  pu_buf_deinit(&whole);
  expect(put_archive(&z, "shifted.zip"), "one|two|", "");
}

/* Archives in archives in …, and in a gzip file: as deep as is allowed. */
static void test_nested(void **state) {
  (void)state;
  maker z[6];
  for (int i = 0; i < 6; i++) {
    maker_begin(&z[i]);
    if (i > 0)
      add(&z[i], (member){.name = "in.zip", .data = z[i - 1].file.data, .len = z[i - 1].file.len, .method = 8});
    char text[16];
    snprintf(text, sizeof text, "level %d", i);
    add_text(&z[i], "a.txt", text);
    close_zip(&z[i], 0, "");
  }
  for (int i = 0; i < 5; i++) {
    pu_buf_deinit(&z[i].file);
    pu_buf_deinit(&z[i].directory);
  }
  expect(put_archive(&z[5], "nested.zip"), "level 2|level 3|level 4|level 5|", "0: archives in archives, too many|");
}

static void test_broken_members(void **state) {
  (void)state;
  maker z;
  maker_begin(&z);
  add_text(&z, "a.txt", "one");
  add_text(&z, "b.txt", "the text of a deflated member");
  add_text(&z, "c.txt", "three");
  close_zip(&z, 0, "");
  *(char *)memmem(z.file.data, z.file.len, "one", 3) = 'O';
  expect(put_archive(&z, "crc.zip"), "One|the text of a deflated member|three|",
         "38: a.txt: its checksum is another one|");
  maker_begin(&z);
  add_text(&z, "a.txt", "one");
  z.file.len -= 3;
  expect(put_archive(&z, "cut.zip"), "", "35: a zip archive without its directory: it is cut short|");
  expect(put("no.zip", "", 0), "", "0: a zip archive without its directory: it is cut short|");
}

/* Whatever one byte of the members or the directory becomes, the members that it is not of are read. */
static void test_each_byte_of_zip(void **state) {
  (void)state;
  static const char values[] = {0, 1, '\x7F', '\xFF'};
  static const char *const texts[] = {"the first text", "the second text, and more of the text", "the third text"};
  size_t starts[4], entries[4];
  maker z;
  maker_begin(&z);
  for (int i = 0; i < 3; i++) {
    char name[] = "0.txt";
    name[0] = (char)('0' + i);
    starts[i] = z.file.len;
    entries[i] = z.directory.len;
    add_text(&z, name, texts[i]);
  }
  starts[3] = z.file.len;
  entries[3] = z.directory.len;
  close_zip(&z, 0, "");
  char whole[1024];
  size_t len = z.file.len, told = starts[3] + entries[3];
  assert_true(len <= sizeof whole);
  memcpy(whole, z.file.data, len);
  put_archive(&z, "each.zip");
  for (size_t i = 0; i < len; i++) {
    for (size_t v = 0; v < sizeof values; v++) {
      char copy[sizeof whole];
      memcpy(copy, whole, len);
      copy[i] = values[v];
      pu_buf_clear(&got);
      pu_buf_clear(&skipped);
      read_range(put("each.zip", copy, len), 0, 0, false);
      for (int k = 0; k < 3; k++) {
        bool mine = (i >= starts[k] && i < starts[k + 1]) ||
                    (i >= starts[3] + entries[k] && i < starts[3] + entries[k + 1]) || i >= told;
        if (!mine && !is_in_got(texts[k])) fail_msg("byte %zu to %d loses '%s'", i, values[v], texts[k]);
      }
    }
  }
}

/* Many entries that share one member's bytes: what comes out ends at the bound, whatever they promise. */
static void test_bomb(void **state) {
  (void)state;
  enum { LEN = 8 << 20 };
  maker z;
  maker_begin(&z);
  char *data = malloc(LEN);
  assert_non_null(data);
  memset(data, 'a', LEN);
  member m = {.name = "a.txt", .data = data, .len = LEN, .method = 8};
  add(&z, m);
  size_t packed = z.file.len - 35;
  for (int i = 0; i < 100; i++) add_entry(&z, &m, packed, 0);
  free(data);
  close_zip(&z, 0, "");
  const char *path = put_archive(&z, "bomb.zip");
  read_range(path, 0, 0, false);
  assert_true(got.len <= PU_INPUT_LEAST + 16);
  assert_non_null(strstr(skipped.data, "unpacks to more than 200 times its size: the rest"));
  pu_buf_clear(&got);
}

/* ---- EPUB ---------------------------------------------------------------------------------------------------------
 */

static const char container[] =
    "<?xml version=\"1.0\"?><container><rootfiles><rootfile media-type='x' full-path='OEBPS/book.opf'/></rootfiles>"
    "</container>";
static const char package[] =
    "<package><metadata><dc:title id=\"t\">War &amp; Peace</dc:title><dc:creator>L. T.</dc:creator>"
    "<dc:language>en</dc:language><dc:date>1869</dc:date></metadata><manifest>"
    "<item id=\"one\" href=\"a%20b.xhtml#top\"/><item href='../two.html' id='two'/>"
    "<item id=\"nav\" properties=\"nav\" href=\"nav.xhtml\"/><item id=\"x\" href=\"notes.xhtml\"/>"
    "<item id=\"gone\" href=\"gone.xhtml\"/></manifest><spine><itemref idref=\"nav\"/><itemref idref=\"two\"/>"
    "<itemref idref=\"x\" linear=\"no\"/><itemref idref=\"gone\"/><itemref idref=\"one\"/></spine></package>";

static void add_book(maker *z, const char *opf) {
  maker_begin(z);
  add_text(z, "mimetype", "application/epub+zip");
  add_text(z, "META-INF/container.xml", container);
  if (opf) add_text(z, "OEBPS/book.opf", opf);
  add_text(z, "OEBPS/a b.xhtml", "<html><body><h1>One</h1><p>The first.</p></body></html>");
  add_text(z, "two.html", "<html><body><p>The second.</p></body></html>");
  add_text(z, "OEBPS/nav.xhtml", "<html><body><p>Contents.</p></body></html>");
  add_text(z, "OEBPS/notes.xhtml", "<html><body><p>Notes.</p></body></html>");
  close_zip(z, 0, "");
}

static void test_epub(void **state) {
  (void)state;
  maker z;
  add_book(&z, package);
  expect_docs(put_archive(&z, "a book"), "[s/a book:1 text title=War & Peace lang=en time=1869 author=L. T.] "
                                         "The second.\n\n# One\n\nThe first.|");
  expect_skips("0: OEBPS/gone.xhtml: a chapter that is missing|");
  add_book(&z, NULL);
  expect_docs(put_archive(&z, "b.epub"),
              "[s/b.epub:1 text] # One\n\nThe first.\n\nThe second.\n\nContents.\n\nNotes.|");
  expect_skips("0: an EPUB book without a spine that can be read: its pages in the archive's order|");
}

/* The spine names one chapter again and again. */
static void test_epub_bomb(void **state) {
  (void)state;
  enum { LEN = 4 << 20 };
  maker z;
  maker_begin(&z);
  char *data = calloc(1, LEN);
  pu_buf opf;
  pu_buf_init(&opf, 1 << 20);
  assert_non_null(data);
  memset(data, ' ', LEN);
  pu_buf_puts(&opf, "<manifest><item id=\"a\" href=\"a.html\"/></manifest><spine>");
  for (int i = 0; i < 1000; i++) pu_buf_puts(&opf, "<itemref idref=\"a\"/>");
  add_text(&z, "mimetype", "application/epub+zip");
  add_text(&z, "META-INF/container.xml", container);
  add(&z, (member){.name = "OEBPS/book.opf", .data = opf.data, .len = opf.len, .method = 8});
  add(&z, (member){.name = "OEBPS/a.html", .data = data, .len = LEN, .method = 8});
  close_zip(&z, 0, "");
  pu_buf_deinit(&opf);
  free(data);
  expect(put_archive(&z, "bomb.epub"), "", "50119: unpacks to more than 200 times its size: the rest|");
}

/* ---- tar --------------------------------------------------------------------------------------------------------- */

static void put_padded(pu_buf *b, const void *data, size_t len) {
  static const char zeros[512];
  pu_buf_append(b, data, len);
  pu_buf_append(b, zeros, (512 - len % 512) % 512);
}

static void add_to_tar(pu_buf *b, char type, const char *prefix, const char *name, const void *data, size_t len) {
  char h[512] = "";
  memcpy(h, name, strlen(name));
  memcpy(h + 100, "0000644", 7);
  snprintf(h + 124, 12, "%011zo", len);
  memset(h + 148, ' ', 8);
  h[156] = type;
  memcpy(h + 257,
         "ustar\0"
         "00",
         8);
  memcpy(h + 345, prefix, strlen(prefix));
  unsigned sum = 0;
  for (size_t i = 0; i < sizeof h; i++) sum += (uint8_t)h[i];
  snprintf(h + 148, 7, "%06o", sum);
  pu_buf_append(b, h, sizeof h);
  put_padded(b, data, len);
}

static void add_tar_text(pu_buf *b, const char *name, const char *text) {
  add_to_tar(b, '0', "", name, text, strlen(text));
}

static const char *put_tar(pu_buf *b, const char *name) {
  const char *path = put(name, b->data, b->len);
  options.name = name;
  pu_buf_clear(b);
  return path;
}

static void test_tar(void **state) {
  (void)state;
  pu_buf b;
  pu_buf_init(&b, PU_BUF_MAX);
  add_to_tar(&b, '5', "", "dir/", "", 0);
  add_tar_text(&b, "./a.txt", "one");
  add_to_tar(&b, '0', "some/folder", "b.txt", "two", 3);
  add_to_tar(&b, 'L', "", "././@LongLink", "long.txt", 9);
  add_tar_text(&b, "short", "three");
  add_to_tar(&b, 'x', "", "pax", "12 mtime=12\n19 path=p/\xC3\xA9\xC3\xA9.txt\n", 31);
  add_tar_text(&b, "short", "four");
  add_to_tar(&b, '2', "", "link", "", 0);
  add_tar_text(&b, "._a.txt", "x");
  add_tar_text(&b, "e.jsonl", "{\"text\": \"five\"}");
  put_padded(&b, "", 0);
  pu_buf whole;
  pu_buf_init(&whole, PU_BUF_MAX);
  pu_buf_append(&whole, b.data, b.len);
  static const char want[] = "[s/n.tar/a.txt:1 text] one|[s/n.tar/some/folder/b.txt:1 text] two|"
                             "[s/n.tar/long.txt:1 text] three|[s/n.tar/p/éé.txt:1 text] four|"
                             "[s/n.tar/e.jsonl:1 text] five|";
  expect_docs(put_tar(&b, "n.tar"), want);
  expect_skips("");
  gzFile gz = gzopen(at("n.tgz"), "wb");
  gzwrite(gz, whole.data, (unsigned)whole.len);
  gzclose(gz);
  options.name = "n.tgz";
  expect(at("n.tgz"), "one|two|three|four|five|", "");
  options.name = "no ending";
  expect(at("n.tgz"), "one|two|three|four|five|", "");
  pu_buf_deinit(&whole);
  pu_buf_deinit(&b);
}

static void test_broken_tar(void **state) {
  (void)state;
  static const char *const texts[] = {"the first text", "the second text", "the third text"};
  pu_buf b;
  pu_buf_init(&b, PU_BUF_MAX);
  for (int i = 0; i < 3; i++) add_tar_text(&b, "a.txt", texts[i]);
  char whole[3 * 1024];
  assert_int_equal(b.len, sizeof whole);
  memcpy(whole, b.data, sizeof whole);
  for (size_t i = 0; i < sizeof whole; i += i % 1024 < 540 ? 1 : 100) {
    pu_buf_clear(&b);
    pu_buf_append(&b, whole, sizeof whole);
    b.data[i] ^= 0x15;
    pu_buf_clear(&got);
    read_range(put_tar(&b, "n.tar"), 0, 0, false);
    for (size_t k = 0; k < 3; k++)
      if (i / 1024 != k && !is_in_got(texts[k])) fail_msg("byte %zu loses '%s'", i, texts[k]);
  }
  pu_buf_append(&b, whole, 2 * 1024 + 512 + 5);
  expect(put_tar(&b, "n.tar"), "the first text|the second text|the t|", "2565: a tar archive that is cut short|");
  pu_buf_append(&b, whole, 1024);
  pu_buf_puts(&b, "some bytes in between");
  pu_buf_append(&b, whole + 1024, 2048);
  expect(put_tar(&b, "n.tar"), "the first text|the second text|the third text|", "1024: no header of a tar archive|");
  pu_buf_deinit(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_members, begin, end),
      cmocka_unit_test_setup_teardown(test_shifted, begin, end),
      cmocka_unit_test_setup_teardown(test_nested, begin, end),
      cmocka_unit_test_setup_teardown(test_broken_members, begin, end),
      cmocka_unit_test_setup_teardown(test_each_byte_of_zip, begin, end),
      cmocka_unit_test_setup_teardown(test_bomb, begin, end),
      cmocka_unit_test_setup_teardown(test_epub, begin, end),
      cmocka_unit_test_setup_teardown(test_epub_bomb, begin, end),
      cmocka_unit_test_setup_teardown(test_tar, begin, end),
      cmocka_unit_test_setup_teardown(test_broken_tar, begin, end),
  };
  return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
