/* Reads files that a test has written, and says what came out as text. */
#ifndef PUYU_TESTS_DATA_READING_H
#define PUYU_TESTS_DATA_READING_H

#include "tests/test.h"

#include <stdlib.h>
#include <unistd.h>

#include "src/data/reader.h"

static char dir[64];

static int make_dir(void **state) {
  (void)state;
  strcpy(dir, "/tmp/puyu-readers-XXXXXX");
  return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
  (void)state;
  return pu_remove_tree(dir, NULL) == PU_OK ? 0 : -1;
}

static const char *at(const char *name) {
  static char path[8][256];
  static int next;
  char *p = path[next++ % 8];
  snprintf(p, sizeof path[0], "%s/%s", dir, name);
  return p;
}

static const char *put(const char *name, const void *data, size_t len) {
  const char *path = at(name);
  FILE *f = fopen(path, "wb");
  assert_non_null(f);
  assert_int_equal(fwrite(data, 1, len, f), len);
  assert_int_equal(fclose(f), 0);
  return path;
}

/* ---- what was read, as text: "[ID TYPE title=… ] TEXT|", and what was skipped: "OFFSET: WHY|" ---- */

static pu_buf got, skipped;
static pu_read_options options; /* of the test; cleared by begin */

static void on_skip(void *arg, const char *path, uint64_t offset, const char *why) {
  (void)arg, (void)path;
  pu_buf_printf(&skipped, "%llu: %s|", (unsigned long long)offset, why);
}

static int begin(void **state) {
  (void)state;
  pu_buf_init(&got, PU_BUF_MAX);
  pu_buf_init(&skipped, 1 << 20);
  options = (pu_read_options){.source = "s", .name = "n", .skips = {.skip = on_skip}};
  return 0;
}

static int end(void **state) {
  (void)state;
  pu_buf_deinit(&got);
  pu_buf_deinit(&skipped);
  return 0;
}

static void show_field(const char *name, pu_str value) {
  if (value.len > 0) pu_buf_printf(&got, " %s=%.*s", name, (int)value.len, value.ptr);
}

static void read_range(const char *path, uint64_t from, uint64_t to, bool fields) {
  pu_error e;
  pu_input *in;
  pu_reading *r;
  pu_doc d;
  assert_ok(pu_doc_init(&d, &e), &e);
  assert_ok(pu_input_open(path, from, to, &options, &in, &e), &e);
  assert_ok(pu_reading_open(in, &r, &e), &e);
  for (bool found = true;;) {
    assert_ok(pu_reading_next(r, &d, &found, &e), &e);
    if (!found) break;
    assert_true(pu_utf8_valid(pu_str_of(d.text.data, d.text.len)));
    if (fields) {
      pu_buf_printf(&got, "[%.*s %.*s", (int)d.id.len, d.id.ptr, (int)d.type.len, d.type.ptr);
      show_field("title", d.title);
      show_field("url", d.url);
      show_field("lang", d.lang);
      show_field("time", d.time);
      show_field("author", d.author);
      pu_buf_puts(&got, "] ");
    }
    pu_buf_append(&got, d.text.data, d.text.len);
    pu_buf_putc(&got, '|');
  }
  pu_reading_close(r);
  pu_doc_deinit(&d);
}

static void expect_docs(const char *path, const char *want) {
  pu_buf_clear(&got);
  pu_buf_clear(&skipped);
  read_range(path, 0, 0, true);
  assert_string_equal(got.data ? got.data : "", want);
}

static void expect_skips(const char *want) {
  assert_string_equal(skipped.data ? skipped.data : "", want);
}

#endif
