/* Documents out of files: cut in three ways, JSON Lines, compressed, broken. And text to shards. */
#include "tests/test.h"

#include <stdlib.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "puyu/data.h"

static char dir[64];

static int make_dir(void **state) {
  (void)state;
  strcpy(dir, "/tmp/puyu-corpus-XXXXXX");
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

/* All documents of one path, joined by '|'. */
static pu_err read_all(const char *path, pu_split split, const char *key, pu_buf *out, pu_error *e) {
  pu_corpus *c;
  pu_buf_clear(out);
  PU_TRY(pu_corpus_open(&path, 1, split, key, &c, e));
  pu_err err;
  for (bool found = true;;) {
    pu_document d;
    err = pu_corpus_next(c, &d, &found, e);
    if (err != PU_OK || !found) break;
    if (out->len > 0) pu_buf_putc(out, '|');
    pu_buf_append(out, d.text.ptr, d.text.len);
  }
  if (err == PU_OK) assert_true(pu_corpus_done(c) == pu_corpus_bytes(c));
  pu_corpus_close(c);
  return err;
}

static void expect(const char *path, pu_split split, const char *want) {
  pu_error e;
  pu_buf got;
  pu_buf_init(&got, 1 << 24);
  pu_buf_putc(&got, '\0');
  assert_ok(read_all(path, split, NULL, &got, &e), &e);
  pu_buf_putc(&got, '\0');
  assert_string_equal(got.data, want);
  pu_buf_deinit(&got);
}

static void test_text(void **state) {
  (void)state;
  static const char text[] = "\xEF\xBB\xBF\n \none\r\ntwo\r\n\r\n \t\n\nthree\n\nfour";
  const char *path = put("a.txt", text, strlen(text));
  expect(path, PU_SPLIT_FILE, "\n \none\ntwo\n\n \t\n\nthree\n\nfour");
  expect(path, PU_SPLIT_BLANK, "one\ntwo|three|four");
  expect(path, PU_SPLIT_LINE, "one|two|three|four");
  expect(put("empty.txt", "", 0), PU_SPLIT_FILE, "");
  expect(put("blank.txt", "\n\n \n", 4), PU_SPLIT_BLANK, "");
  expect(put("two.txt", "ab", 2), PU_SPLIT_LINE, "ab");
}

/* Lines much longer than what is read at once, and a folder in the order of names. */
static void test_long(void **state) {
  (void)state;
  pu_buf want, text;
  pu_buf_init(&want, 1 << 24);
  pu_buf_init(&text, 1 << 24);
  for (int i = 0; i < 5; i++) {
    for (int k = 0; k < 300000 + i; k++) pu_buf_putc(&text, (char)('a' + (k + i) % 26));
    pu_buf_putc(&text, '\n');
  }
  for (size_t i = 0; i + 1 < text.len; i++) pu_buf_putc(&want, text.data[i] == '\n' ? '|' : text.data[i]);
  pu_buf_putc(&want, '\0');
  expect(put("long.txt", text.data, text.len), PU_SPLIT_LINE, want.data);
  pu_buf_deinit(&want);
  pu_buf_deinit(&text);
  pu_error e;
  assert_ok(pu_mkdirs(at("tree/b"), &e), &e);
  put("tree/c.txt", "third", 5);
  put("tree/b/x.txt", "second", 6);
  put("tree/a.txt", "first", 5);
  put("tree/.hidden.txt", "no", 2);
  expect(at("tree"), PU_SPLIT_FILE, "first|second|third");
}

static void test_json(void **state) {
  (void)state;
  static const char lines[] =
      "{\"id\": \"x\", \"content\": \"a\\u0000b\\n\"}\n\n{\"text\": \"\\u4e2d\"}\r\n{\"content\": \"\"}"; /* no text: no
                                                                                                             document */
  const char *path = put("a.jsonl", lines, strlen(lines));
  pu_error e;
  pu_corpus *c;
  pu_document d;
  bool found;
  assert_ok(pu_corpus_open(&path, 1, PU_SPLIT_FILE, NULL, &c, &e), &e);
  assert_ok(pu_corpus_next(c, &d, &found, &e), &e);
  assert_true(found && pu_str_eq(d.text, pu_str_of("a\0b\n", 4)) && pu_str_eq(d.id, pu_str_c("x")));
  assert_ok(pu_corpus_next(c, &d, &found, &e), &e);
  assert_true(found && pu_str_eq(d.text, pu_str_c("中")));
  assert_non_null(memmem(d.id.ptr, d.id.len, "a.jsonl:3", 9)); /* the file's line, blank ones counted */
  assert_ok(pu_corpus_next(c, &d, &found, &e), &e);
  assert_false(found);
  pu_corpus_close(c);
  pu_buf out;
  pu_buf_init(&out, 1 << 20);
  static const char *const wrong[] = {"{\"content\": \"a\"}\n{\"content\": 3}\n",
                                      "{\"content\": \"a\"}\n{\"other\": \"b\"}\n",
                                      "{\"content\": \"a\"}\n{\"content\": \"b\n", "{\"content\": \"a\"}\n[]\n"};
  for (size_t i = 0; i < PU_COUNT(wrong); i++) {
    assert_int_equal(read_all(put("w.jsonl", wrong[i], strlen(wrong[i])), PU_SPLIT_FILE, NULL, &out, &e),
                     PU_ERR_FORMAT);
    assert_non_null(strstr(e.msg, "w.jsonl:2"));
    assert_null(strstr(e.msg, "w.jsonl:2:1:")); /* the line once */
  }
  assert_ok(read_all(put("k.jsonl", "{\"body\": \"b\", \"text\": \"t\"}", 26), PU_SPLIT_FILE, "body", &out, &e), &e);
  assert_true(pu_str_eq(pu_str_of(out.data, out.len), pu_str_c("b")));
  assert_int_equal(read_all(at("missing.txt"), PU_SPLIT_FILE, NULL, &out, &e), PU_ERR_IO);
  pu_buf_deinit(&out);
}

static void test_json_array(void **state) {
  (void)state;
  static const char array[] =
      " \n[{\"content\": \"one\"},\n {\"text\": \"two\", \"id\": \"x\"},{\"content\":\"three\"}]\n";
  expect(put("array.json", array, strlen(array)), PU_SPLIT_FILE, "one|two|three");
  expect(put("none.json", "[]", 2), PU_SPLIT_FILE, "");
  pu_error e;
  pu_buf out;
  pu_buf_init(&out, 1 << 20);
  static const char wrong[] = "[{\"content\": \"one\"}, 5]";
  assert_int_equal(read_all(put("wrong.json", wrong, strlen(wrong)), PU_SPLIT_FILE, NULL, &out, &e), PU_ERR_FORMAT);
  assert_non_null(strstr(e.msg, "wrong.json:2"));
  assert_int_equal(read_all(put("cut.json", array, 30), PU_SPLIT_FILE, NULL, &out, &e), PU_ERR_FORMAT);
  assert_non_null(strstr(e.msg, "cut.json"));
  pu_buf_deinit(&out);
}

static void test_compressed(void **state) {
  (void)state;
  pu_error e;
  pu_buf out;
  pu_buf_init(&out, 1 << 24);
  char text[200000], zst[210000];
  for (size_t i = 0; i < sizeof text; i++) text[i] = i % 1000 == 999 ? '\n' : (char)('a' + i * i % 23);
  gzFile gz = gzopen(at("t.txt.gz"), "wb");
  assert_int_equal(gzwrite(gz, text, sizeof text), sizeof text);
  assert_int_equal(gzclose(gz), Z_OK);
  size_t n = ZSTD_compress(zst, sizeof zst, text, 100000, 3); /* two frames, as zstd's own cat makes them */
  assert_false(ZSTD_isError(n));
  size_t m = ZSTD_compress(zst + n, sizeof zst - n, text + 100000, 100000, 3);
  assert_false(ZSTD_isError(m));
  put("t.txt.zst", zst, n + m);
  static const char *const names[] = {"t.txt.gz", "t.txt.zst"};
  for (size_t i = 0; i < 2; i++) {
    assert_ok(read_all(at(names[i]), PU_SPLIT_FILE, NULL, &out, &e), &e);
    assert_int_equal(out.len, sizeof text);
    assert_memory_equal(out.data, text, sizeof text);
  }
  /* Cut short. */
  pu_buf raw;
  pu_buf_init(&raw, 1 << 20);
  assert_ok(pu_file_read(at("t.txt.gz"), 1 << 20, &raw, &e), &e);
  assert_int_not_equal(read_all(put("cut.txt.gz", raw.data, raw.len / 2), PU_SPLIT_FILE, NULL, &out, &e), PU_OK);
  assert_non_null(strstr(e.msg, "cut.txt.gz"));
  assert_int_equal(read_all(put("cut.txt.zst", zst, n + m / 2), PU_SPLIT_FILE, NULL, &out, &e), PU_ERR_FORMAT);
  assert_non_null(strstr(e.msg, "cut.txt.zst"));
  static const char *const liars[] = {"no.txt.zst", "no.txt.gz"};
  for (size_t i = 0; i < 2; i++) {
    assert_int_equal(read_all(put(liars[i], "plain text", 10), PU_SPLIT_FILE, NULL, &out, &e), PU_ERR_FORMAT);
    assert_non_null(strstr(e.msg, liars[i]));
    assert_non_null(strstr(e.msg, " data, though its name ends with "));
  }
  pu_buf_deinit(&raw);
  pu_buf_deinit(&out);
}

/* What is no text is refused; what is in another charset, and a stray byte, is not. */
static void test_binary(void **state) {
  (void)state;
  pu_error e;
  pu_buf out;
  pu_buf_init(&out, 1 << 20);
  assert_int_equal(read_all(put("zero.txt", "a\0b", 3), PU_SPLIT_FILE, NULL, &out, &e), PU_ERR_FORMAT);
  assert_non_null(strstr(e.msg, "zero.txt: not text"));
  expect(put("latin.txt", "d\xE9j\xE0 vu, \xE0 la carte", 19), PU_SPLIT_FILE, "déjà vu, à la carte");
  expect(put("stray.txt", "中文的句子里有一个\xE9 错", 32), PU_SPLIT_FILE, "中文的句子里有一个\xEF\xBF\xBD 错");
  assert_ok(pu_mkdirs(at("hollow"), &e), &e);
  assert_int_equal(read_all(at("hollow"), PU_SPLIT_FILE, NULL, &out, &e), PU_ERR_USAGE);
  assert_non_null(strstr(e.msg, "hollow: no file in this folder; text (.txt) or JSON Lines (.jsonl"));
  pu_buf_deinit(&out);
}

/* Other formats, told by names or first bytes. What a web archive holds that is no text is no error; what is broken is.
 */
static void test_formats(void **state) {
  (void)state;
  pu_error e;
  pu_buf out;
  pu_buf_init(&out, 1 << 20);
  static const char csv[] = "id,text\na,one\nb,two\n";
  static const char warc[] =
      "WARC/1.0\r\nWARC-Type: resource\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\none\r\n\r\n"
      "WARC/1.0\r\nWARC-Type: resource\r\nContent-Type: image/png\r\nContent-Length: 1\r\n\r\nx\r\n\r\n";
  expect(put("t.csv", csv, strlen(csv)), PU_SPLIT_FILE, "one|two");
  expect(put("t.warc", warc, strlen(warc)), PU_SPLIT_FILE, "one");
  expect(put("object", "{\"text\": \"one\"}", 15), PU_SPLIT_FILE, "one");
  assert_int_equal(read_all(put("cut.warc", warc, 80), PU_SPLIT_FILE, NULL, &out, &e), PU_ERR_FORMAT);
  assert_non_null(strstr(e.msg, "cut.warc:1: a record that is cut short"));
  pu_buf_deinit(&out);
}

/* ---- text to shards ---------------------------------------------------------------------------------------------- */

static pu_tokenizer *tokenizer_make(void) {
  pu_error e;
  pu_bpe_trainer *trainer;
  pu_tokenizer *t;
  const pu_bpe_options o = {.vocab_size = 400};
  static const char text[] = "Q: What is 37 + 45? A: 82. What is what? 问：37加45等于多少？答：82。等于多少？";
  assert_ok(pu_bpe_trainer_create(&o, &trainer, &e), &e);
  for (int i = 0; i < 3; i++) assert_ok(pu_bpe_trainer_add(trainer, pu_str_c(text), &e), &e);
  assert_ok(pu_bpe_trainer_save(trainer, at("tokenizer"), &e), &e);
  pu_bpe_trainer_free(trainer);
  assert_ok(pu_tokenizer_load(at("tokenizer"), &t, &e), &e);
  return t;
}

static void test_tokenizer(void **state) {
  (void)state;
  pu_error e;
  pu_tokenizer *t = tokenizer_make();
  assert_int_equal(pu_tokenizer_bos(t), 0);
  assert_int_equal(pu_tokenizer_eos(t), 1);
  assert_true(pu_tokenizer_adds_bos(t));
  assert_true(pu_tokenizer_is_special(t, pu_tokenizer_find(t, pu_str_c("<|im_start|>"))));
  assert_non_null(pu_chat_guess(t, NULL));
  assert_ptr_equal(pu_chat_guess(t, NULL), pu_chat_find("internlm2"));
  static const char text[] = "Q: What is 123?  \n\xff 答：多少 <s>";
  pu_ids ids = {0};
  pu_buf back;
  pu_buf_init(&back, 1 << 10);
  assert_ok(pu_encode(t, pu_str_c(text), PU_ENCODE_BOS | PU_ENCODE_EOS, &ids, &e), &e);
  assert_int_equal(ids.v[0], 0);
  assert_int_equal(ids.v[ids.n - 1], 1);
  for (size_t i = 1; i + 1 < ids.n; i++) assert_false(pu_tokenizer_is_special(t, ids.v[i]));
  assert_ok(pu_decode(t, ids.v, ids.n, PU_DECODE_SKIP_SPECIAL, &back, &e), &e);
  assert_true(pu_str_eq(pu_str_of(back.data, back.len), pu_str_c(text)));
  /* Digits stand alone: as many tokens as digits. */
  pu_ids digits = {0};
  assert_ok(pu_encode(t, pu_str_c("3745"), 0, &digits, &e), &e);
  assert_int_equal(digits.n, 4);
  pu_ids_deinit(&ids);
  pu_ids_deinit(&digits);
  pu_buf_deinit(&back);
  pu_tokenizer_free(t);
}

static void tokenize(const pu_tokenizer *t, const char *path, const char *out, int threads, double valid,
                     pu_tokenize_result *r) {
  pu_error e;
  pu_pool *pool;
  pu_corpus *c;
  assert_ok(pu_pool_create(threads, &pool, &e), &e);
  assert_ok(pu_corpus_open(&path, 1, PU_SPLIT_LINE, NULL, &c, &e), &e);
  const pu_tokenize_options o = {.tokenizer = t, .pool = pool, .valid_fraction = valid, .bos = true, .eos = true};
  assert_ok(pu_tokenize_run(c, out, &o, r, &e), &e);
  pu_corpus_close(c);
  pu_pool_free(pool);
}

static void test_tokenize(void **state) {
  (void)state;
  pu_error e;
  pu_tokenizer *t = tokenizer_make();
  pu_buf text, one, many;
  pu_buf_init(&text, 1 << 24);
  pu_buf_init(&one, 1 << 24);
  pu_buf_init(&many, 1 << 24);
  enum { LINES = 9000 };
  for (int i = 0; i < LINES; i++) pu_buf_printf(&text, "line %d: What is %d + %d? 问：等于多少？\n", i, i % 97, i % 89);
  const char *path = put("lines.txt", text.data, text.len);
  pu_tokenize_result r, r1, r3;
  tokenize(t, path, at("out1"), 1, 0, &r1);
  tokenize(t, path, at("out3"), 3, 0, &r3);
  assert_int_equal(r1.documents, LINES);
  assert_int_equal(r1.bytes, text.len - LINES);
  assert_memory_equal(&r1, &r3, sizeof r1);
  assert_ok(pu_file_read(at("out1/shard-00000.pub"), 1 << 24, &one, &e), &e);
  assert_ok(pu_file_read(at("out3/shard-00000.pub"), 1 << 24, &many, &e), &e);
  assert_int_equal(one.len, many.len);
  assert_memory_equal(one.data, many.data, one.len);
  /* What is in the shard is the text. */
  pu_shards *s;
  assert_ok(pu_shards_open(at("out1"), true, &s, &e), &e);
  assert_int_equal(pu_shards_documents(s), LINES);
  assert_int_equal(pu_shards_tokens(s), r1.tokens);
  assert_int_equal(pu_shards_tokenizer(s), pu_tokenizer_hash(t));
  uint64_t from = pu_shards_document_start(s, 5000), to = pu_shards_document_start(s, 5001);
  int32_t ids[200];
  assert_true(to - from < 200);
  pu_shards_read(s, from, (int64_t)(to - from), ids, NULL);
  assert_int_equal(ids[0], pu_tokenizer_bos(t));
  assert_int_equal(ids[to - from - 1], pu_tokenizer_eos(t));
  pu_buf_clear(&one);
  assert_ok(pu_decode(t, ids, to - from, PU_DECODE_SKIP_SPECIAL, &one, &e), &e);
  assert_true(pu_str_eq(pu_str_of(one.data, one.len), pu_str_c("line 5000: What is 53 + 16? 问：等于多少？")));
  pu_shards_close(s);
  /* A tenth for validation, by the documents' ids. */
  tokenize(t, path, at("split"), 2, 0.1, &r);
  assert_in_range(r.valid_documents, LINES / 10 - 120, LINES / 10 + 120);
  assert_ok(pu_shards_open(at("split/valid"), true, &s, &e), &e);
  assert_int_equal(pu_shards_documents(s), r.valid_documents);
  pu_shards_close(s);
  assert_ok(pu_shards_open(at("split/train"), true, &s, &e), &e);
  assert_int_equal(pu_shards_documents(s), LINES - r.valid_documents);
  pu_shards_close(s);
  pu_buf_deinit(&text);
  pu_buf_deinit(&one);
  pu_buf_deinit(&many);
  pu_tokenizer_free(t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_text),       cmocka_unit_test(test_long),       cmocka_unit_test(test_json),
      cmocka_unit_test(test_json_array), cmocka_unit_test(test_compressed), cmocka_unit_test(test_tokenizer),
      cmocka_unit_test(test_tokenize),   cmocka_unit_test(test_binary),     cmocka_unit_test(test_formats),
  };
  return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
