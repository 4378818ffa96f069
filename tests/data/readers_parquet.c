/* Documents out of Parquet tables that are written here, byte by byte. */
#include "tests/data/reading.h"

#include <zlib.h>
#include <zstd.h>

#include "src/data/parquet/snappy.h"

/* ---- Thrift's compact protocol ----------------------------------------------------------------------------------- */

enum { I64 = 6, BINARY = 8, LIST = 9, STRUCT = 12 };

static void varint(pu_buf *b, uint64_t v) {
  for (; v > 127; v >>= 7) pu_buf_putc(b, (char)(v | 128));
  pu_buf_putc(b, (char)v);
}

static void zigzag(pu_buf *b, int64_t v) {
  varint(b, (uint64_t)v << 1 ^ (uint64_t)(v >> 63));
}

/* Fields have their ids in full. */
static void field(pu_buf *b, int id, int type) {
  pu_buf_putc(b, (char)type);
  zigzag(b, id);
}

static void number(pu_buf *b, int id, int64_t v) {
  field(b, id, I64);
  zigzag(b, v);
}

static void string(pu_buf *b, int id, const char *s) {
  field(b, id, BINARY);
  varint(b, strlen(s));
  pu_buf_puts(b, s);
}

static void list(pu_buf *b, int id, size_t n, int of) {
  field(b, id, LIST);
  pu_buf_putc(b, (char)(0xF0 | of));
  varint(b, n);
}

static void stop(pu_buf *b) {
  pu_buf_putc(b, 0);
}

/* ---- tables ------------------------------------------------------------------------------------------------------ */

enum { NONE = 0, SNAPPY = 1, GZIP = 2, BROTLI = 4, ZSTD = 6 };
enum { PLAIN = 0, DELTA = 7, DICTIONARY = 8 };

typedef struct table {
  pu_buf file, schema, groups, columns;
  size_t n_elements, n_groups, n_columns;
  size_t chunk_at; /* of the column that is being written */
  int codec, version;
} table;

static void table_begin(table *t) {
  *t = (table){.version = 1};
  pu_buf *const all[] = {&t->file, &t->schema, &t->groups, &t->columns};
  for (size_t i = 0; i < PU_COUNT(all); i++) pu_buf_init(all[i], PU_BUF_MAX);
  pu_buf_puts(&t->file, "PAR1");
}

static void element(table *t, const char *name, int type, int repetition, int children) {
  if (type >= 0) number(&t->schema, 1, type);
  number(&t->schema, 3, repetition);
  string(&t->schema, 4, name);
  if (children > 0) number(&t->schema, 5, children);
  stop(&t->schema);
  t->n_elements++;
}

/* One literal, and what repeats in it is not seen. */
static void snappy_to(pu_buf *out, const char *data, size_t len) {
  varint(out, len);
  pu_buf_putc(out, (char)(61 << 2));
  pu_buf_putc(out, (char)((len - 1) & 255));
  pu_buf_putc(out, (char)((len - 1) >> 8));
  pu_buf_append(out, data, len);
}

static void pack_to(pu_buf *out, int codec, const char *data, size_t len) {
  assert_true(pu_buf_reserve(out, len + 1000));
  uLongf room = len + 1000;
  switch (len > 0 ? codec : NONE) {
  case SNAPPY:
    snappy_to(out, data, len);
    break;
  case GZIP: /* zlib's format stands for gzip's here */
    assert_int_equal(compress((Bytef *)out->data + out->len, &room, (const Bytef *)data, len), Z_OK);
    out->len += room;
    break;
  case ZSTD:
    out->len += ZSTD_compress(out->data + out->len, room, data, len, 3);
    break;
  default:
    pu_buf_append(out, data, len);
  }
}

static void page(table *t, int type, int encoding, size_t n, pu_str levels, pu_str values) {
  pu_buf raw, packed;
  pu_buf_init(&raw, PU_BUF_MAX);
  pu_buf_init(&packed, PU_BUF_MAX);
  bool second = type == 3;
  if (second) pu_buf_append(&packed, levels.ptr, levels.len);
  if (!second && levels.len > 0) {
    const uint32_t len = (uint32_t)levels.len;
    pu_buf_append(&raw, (const char *)&len, 4);
    pu_buf_append(&raw, levels.ptr, levels.len);
  }
  pu_buf_append(&raw, values.ptr, values.len);
  pack_to(&packed, t->codec, raw.data ? raw.data : "", raw.len);
  number(&t->file, 1, type);
  number(&t->file, 2, (int64_t)(raw.len + (second ? levels.len : 0)));
  number(&t->file, 3, (int64_t)packed.len);
  field(&t->file, second ? 8 : type == 2 ? 7 : 5, STRUCT);
  number(&t->file, 1, (int64_t)n);
  number(&t->file, second ? 4 : 2, encoding);
  if (type == 0) number(&t->file, 3, 3);
  if (second) {
    number(&t->file, 5, (int64_t)levels.len);
    number(&t->file, 6, 0);
  }
  stop(&t->file);
  stop(&t->file);
  pu_buf_append(&t->file, packed.data, packed.len);
  pu_buf_deinit(&raw);
  pu_buf_deinit(&packed);
}

static void column_end(table *t, int type, size_t n) {
  pu_buf *b = &t->columns;
  field(b, 3, STRUCT);
  number(b, 1, type);
  number(b, 4, t->codec);
  number(b, 5, (int64_t)n);
  number(b, 6, (int64_t)(t->file.len - t->chunk_at));
  number(b, 7, (int64_t)(t->file.len - t->chunk_at));
  number(b, 9, (int64_t)t->chunk_at);
  stop(b);
  stop(b);
  t->n_columns++;
}

static void put_value(pu_buf *b, const char *s) {
  const uint32_t len = (uint32_t)strlen(s);
  pu_buf_append(b, (const char *)&len, 4);
  pu_buf_puts(b, s);
}

/* A column of strings in one page; NULL: none in that row. optional: levels are written, one packed run of them. */
static void strings(table *t, const char *const *v, size_t n, bool optional, int encoding) {
  pu_buf values, levels;
  pu_buf_init(&values, PU_BUF_MAX);
  pu_buf_init(&levels, PU_BUF_MAX);
  t->chunk_at = t->file.len;
  uint8_t bits[64] = {0};
  assert_true(n <= 64 * 8);
  for (size_t i = 0; i < n; i++) {
    if (v[i]) put_value(&values, v[i]);
    if (v[i]) bits[i / 8] |= (uint8_t)(1 << i % 8);
  }
  if (optional) {
    varint(&levels, (n + 7) / 8 << 1 | 1);
    pu_buf_append(&levels, (const char *)bits, (n + 7) / 8);
  }
  page(t, t->version == 2 ? 3 : 0, encoding, n, pu_str_of(levels.data ? levels.data : "", levels.len),
       pu_str_of(values.data ? values.data : "", values.len));
  column_end(t, 6, n);
  pu_buf_deinit(&values);
  pu_buf_deinit(&levels);
}

/* Words, and which of them each row has: `repeat` rows of the first one, as one run, then `indexes` in packed bits. */
static void coded(table *t, const char *const *words, size_t n_words, size_t repeat, const uint8_t *indexes, size_t n) {
  pu_buf values;
  pu_buf_init(&values, PU_BUF_MAX);
  t->chunk_at = t->file.len;
  for (size_t i = 0; i < n_words; i++) put_value(&values, words[i]);
  page(t, 2, PLAIN, n_words, (pu_str){0}, pu_str_of(values.data, values.len));
  pu_buf_clear(&values);
  pu_buf_putc(&values, 3); /* bits */
  if (repeat > 0) {
    varint(&values, repeat << 1);
    pu_buf_putc(&values, 0);
  }
  uint64_t window = 0;
  if (n > 0) varint(&values, (n + 7) / 8 << 1 | 1);
  for (size_t i = 0, held = 0; i < (n + 7) / 8 * 8; i++) {
    window |= (uint64_t)(i < n ? indexes[i] : 0) << held;
    for (held += 3; held >= 8; held -= 8, window >>= 8) pu_buf_putc(&values, (char)window);
  }
  page(t, t->version == 2 ? 3 : 0, DICTIONARY, repeat + n, (pu_str){0}, pu_str_of(values.data, values.len));
  column_end(t, 6, repeat + n);
  pu_buf_deinit(&values);
}

static void group_end(table *t, size_t rows) {
  list(&t->groups, 1, t->n_columns, STRUCT);
  pu_buf_append(&t->groups, t->columns.data, t->columns.len);
  number(&t->groups, 3, (int64_t)rows);
  stop(&t->groups);
  t->n_groups++;
  t->n_columns = 0;
  pu_buf_clear(&t->columns);
}

static const char *table_put(table *t, const char *name) {
  size_t at = t->file.len;
  number(&t->file, 1, 2);
  list(&t->file, 2, t->n_elements, STRUCT);
  pu_buf_append(&t->file, t->schema.data, t->schema.len);
  list(&t->file, 4, t->n_groups, STRUCT);
  pu_buf_append(&t->file, t->groups.data, t->groups.len);
  string(&t->file, 6, "a test");
  stop(&t->file);
  const uint32_t len = (uint32_t)(t->file.len - at);
  pu_buf_append(&t->file, (const char *)&len, 4);
  pu_buf_puts(&t->file, "PAR1");
  const char *path = put(name, t->file.data, t->file.len);
  pu_buf *const all[] = {&t->file, &t->schema, &t->groups, &t->columns};
  for (size_t i = 0; i < PU_COUNT(all); i++) pu_buf_deinit(all[i]);
  options.name = name;
  return path;
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static const char *const texts[] = {"one", "two\r\nlines", "", "四"};
static const char *const some[] = {"T", NULL, "U", NULL};

static void test_plain(void **state) {
  (void)state;
  static const int codecs[] = {NONE, SNAPPY, GZIP, ZSTD};
  for (size_t i = 0; i < PU_COUNT(codecs); i++) {
    for (int version = 1; version <= 2; version++) {
      table t;
      table_begin(&t);
      t.codec = codecs[i];
      t.version = version;
      element(&t, "root", -1, 0, 3);
      element(&t, "Title", 6, 1, 0);
      element(&t, "text", 6, 0, 0);
      element(&t, "id", 2, 0, 0);
      strings(&t, some, 4, true, PLAIN);
      strings(&t, texts, 4, false, PLAIN);
      const int64_t ids[] = {7, -1, 5, INT64_MAX};
      t.chunk_at = t.file.len;
      page(&t, version == 2 ? 3 : 0, PLAIN, 4, (pu_str){0}, pu_str_of((const char *)ids, sizeof ids));
      column_end(&t, 2, 4);
      group_end(&t, 4);
      expect_docs(table_put(&t, "a.parquet"), "[s/a.parquet#7 text title=T] one|[s/a.parquet#-1 text] "
                                              "two\nlines|[s/a.parquet#9223372036854775807 text] 四|");
      expect_skips("");
    }
  }
}

static void test_dictionary(void **state) {
  (void)state;
  static const char *const words[] = {"zero", "one", "two", "three", "four"};
  static const uint8_t indexes[] = {4, 3, 2, 1, 0, 1, 2, 3, 4, 0};
  for (int version = 1; version <= 2; version++) {
    table t;
    table_begin(&t);
    t.codec = SNAPPY;
    t.version = version;
    element(&t, "root", -1, 0, 1);
    element(&t, "words", 6, 0, 0);
    for (int i = 0; i < 2; i++) {
      coded(&t, words, 5, 2, indexes, 10);
      group_end(&t, 12);
    }
    expect_docs(
        table_put(&t, "no ending"),
        "[s/no ending:1 text] zero|[s/no ending:2 text] zero|[s/no ending:3 text] four|[s/no ending:4 text] "
        "three|[s/no ending:5 text] two|[s/no ending:6 text] one|[s/no ending:7 text] zero|[s/no ending:8 text] "
        "one|[s/no ending:9 text] two|[s/no ending:10 text] three|[s/no ending:11 text] four|[s/no ending:12 "
        "text] zero|[s/no ending:13 text] zero|[s/no ending:14 text] zero|[s/no ending:15 text] four|[s/no "
        "ending:16 text] three|[s/no ending:17 text] two|[s/no ending:18 text] one|[s/no ending:19 text] "
        "zero|[s/no ending:20 text] one|[s/no ending:21 text] two|[s/no ending:22 text] three|[s/no ending:23 "
        "text] four|[s/no ending:24 text] zero|");
    expect_skips("");
  }
}

/* A field of a struct by its path; of several columns the one with most bytes; lists are refused. */
static void test_columns(void **state) {
  (void)state;
  static const char *const numbers[] = {"1", "2", "3", "4"};
  for (int i = 0; i < 4; i++) {
    table t;
    table_begin(&t);
    element(&t, "root", -1, 0, 3);
    element(&t, "n", 6, 0, 0);
    element(&t, "page", -1, 0, 1);
    element(&t, "body", 6, 0, 0);
    element(&t, "tags", 6, 2, 0);
    strings(&t, numbers, 4, false, PLAIN);
    strings(&t, texts, 4, false, PLAIN);
    strings(&t, numbers, 4, false, PLAIN);
    group_end(&t, 4);
    static const char *const keys[] = {NULL, "page.body", "n", "tags"};
    static const char *const want[] = {
        "[s/a.parquet:1 text] one|[s/a.parquet:2 text] two\nlines|[s/a.parquet:4 text] 四|",
        "[s/a.parquet:1 text] one|[s/a.parquet:2 text] two\nlines|[s/a.parquet:4 text] 四|",
        "[s/a.parquet:1 text] 1|[s/a.parquet:2 text] 2|[s/a.parquet:3 text] 3|[s/a.parquet:4 text] 4|", ""};
    options.key = keys[i];
    expect_docs(table_put(&t, "a.parquet"), want[i]);
    expect_skips(i < 3 ? "" : "0: the column \"tags\" holds no strings, or lists of them: all of the file|");
  }
}

static void test_refused(void **state) {
  (void)state;
  table t;
  table_begin(&t);
  element(&t, "root", -1, 0, 1);
  element(&t, "text", 6, 0, 0);
  t.codec = BROTLI;
  strings(&t, texts, 4, false, PLAIN);
  group_end(&t, 4);
  t.codec = NONE;
  strings(&t, texts, 4, false, DELTA);
  group_end(&t, 4);
  strings(&t, texts, 4, false, PLAIN);
  group_end(&t, 4);
  const char *path = table_put(&t, "a.parquet");
  expect_docs(path, "[s/a.parquet:1 text] one|[s/a.parquet:2 text] two\nlines|[s/a.parquet:4 text] 四|");
  assert_non_null(
      strstr(skipped.data, "packed in a way that is not read (LZO, Brotli or LZ4): the rest of the row group"));
  assert_non_null(
      strstr(skipped.data, "values in an encoding that is not read (only plain ones and dictionaries are)"));
  options.key = "none";
  expect_docs(path, "");
  expect_skips("0: no column \"none\": all of the file|");
  options.key = NULL;
  expect_docs(put("a.parquet", "PAR1 and no more", 16), "");
  expect_skips("16: a Parquet file without its footer: it is cut short|");
}

/* Whatever a byte becomes, and wherever it is cut: no more comes out than the rows there are, all of it valid. */
static void test_each_byte(void **state) {
  (void)state;
  static const char values[] = {0, 1, '\x7F', '\xFF'};
  static const uint8_t indexes[] = {4, 3, 2, 1};
  static const char *const words[] = {"zero", "one", "two", "three", "four"};
  table t;
  table_begin(&t);
  t.codec = ZSTD;
  element(&t, "root", -1, 0, 2);
  element(&t, "title", 6, 1, 0);
  element(&t, "text", 6, 0, 0);
  strings(&t, some, 4, true, PLAIN);
  coded(&t, words, 5, 0, indexes, 4);
  group_end(&t, 4);
  const char *path = table_put(&t, "a.parquet");
  pu_buf whole;
  pu_error e;
  pu_buf_init(&whole, 1 << 20);
  assert_ok(pu_file_read(path, 1 << 20, &whole, &e), &e);
  for (size_t i = 0; i < whole.len; i++) {
    for (size_t v = 0; v < sizeof values; v++) {
      char was = whole.data[i];
      whole.data[i] = values[v];
      pu_buf_clear(&got);
      read_range(put("a.parquet", whole.data, whole.len), 0, 0, true);
      whole.data[i] = was;
    }
    read_range(put("a.parquet", whole.data, i), 0, 0, true);
  }
  pu_buf_deinit(&whole);
}

/* A thousand million rows of one word, told in a few bytes. */
static void test_bomb(void **state) {
  (void)state;
  static const char *const words[] = {"a"};
  table t;
  table_begin(&t);
  element(&t, "root", -1, 0, 1);
  element(&t, "text", 6, 0, 0);
  coded(&t, words, 1, 1000000000, NULL, 0);
  group_end(&t, 1000000000);
  read_range(table_put(&t, "a.parquet"), 0, 0, false);
  assert_true(got.len <= 2 * (PU_INPUT_LEAST / 16 + 1));
  assert_non_null(strstr(skipped.data, "unpacks to more than 200 times its size: the rest"));
}

static void test_snappy(void **state) {
  (void)state;
  char out[64];
  /* "ab", then 10 bytes from 2 back with a short copy, a long copy of 4 from 12 back */
  static const char packed[] = "\x10\x04"
                               "ab"
                               "\x19\x02"
                               "\x0E\x0C\x00";
  assert_true(pu_snappy_unpack(pu_str_of(packed, sizeof packed - 1), out, 16));
  assert_memory_equal(out, "abababababababab", 16);
  for (size_t n = 0; n + 1 < sizeof packed; n++) assert_false(pu_snappy_unpack(pu_str_of(packed, n), out, 16));
  assert_false(pu_snappy_unpack(pu_str_of("\x04\x01\x01", 3), out, 4)); /* from before the beginning */
  assert_true(pu_snappy_unpack(pu_str_of("\0", 1), out, 0));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_plain, begin, end),
      cmocka_unit_test_setup_teardown(test_dictionary, begin, end),
      cmocka_unit_test_setup_teardown(test_columns, begin, end),
      cmocka_unit_test_setup_teardown(test_refused, begin, end),
      cmocka_unit_test_setup_teardown(test_each_byte, begin, end),
      cmocka_unit_test_setup_teardown(test_bomb, begin, end),
      cmocka_unit_test_setup_teardown(test_snappy, begin, end),
  };
  return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
