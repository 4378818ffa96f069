/* Documents in and out of an index, and what is found in it. */
#include "tests/test.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "puyu/store.h"
#include "puyu/text.h"

static char dir[64];

static int make_dir(void **state) {
  (void)state;
  strcpy(dir, "/tmp/puyu-store-XXXXXX");
  return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
  (void)state;
  return pu_remove_tree(dir, NULL) == PU_OK ? 0 : -1;
}

static const char *at(const char *name) {
  static char path[4][256];
  static int next;
  char *p = path[next++ % 4];
  snprintf(p, sizeof path[0], "%s/%s", dir, name);
  return p;
}

static pu_store *open_store(const char *path) {
  pu_store *s;
  pu_error e;
  assert_ok(pu_store_open(path, &s, &e), &e);
  return s;
}

static void put(pu_store *s, const char *source, const char *id, const char *title, const char *text) {
  pu_error e;
  const pu_store_document d = {pu_str_c(id), pu_str_c(title), pu_str_c(text)};
  bool same;
  assert_ok(pu_store_same(s, pu_str_c(source), (pu_store_stamp){1, 1}, &same, &e), &e);
  if (!same) assert_ok(pu_store_replace(s, pu_str_c(source), (pu_store_stamp){1, 1}, &e), &e);
  assert_ok(pu_store_put(s, pu_str_c(source), &d, &e), &e);
}

/* What a query finds: "source id" of each hit with + where it has all words, joined by '|'. */
static const char *found(pu_store *s, const char *query, size_t k) {
  static char line[1 << 14];
  pu_error e;
  pu_store_hits hits;
  const pu_store_ask ask = {.query = pu_str_c(query), .k = k, .open = "[", .close = "]"};
  assert_ok(pu_store_search(s, &ask, &hits, &e), &e);
  size_t n = 0;
  line[0] = 0;
  for (size_t i = 0; i < hits.n; i++)
    n += (size_t)snprintf(line + n, sizeof line - n, "%s%s%s%s", i ? "|" : "", hits.v[i].source.ptr, hits.v[i].id.ptr,
                          hits.v[i].all ? "+" : "");
  pu_store_hits_deinit(&hits);
  return line;
}

static const char *snippet(pu_store *s, const char *query) {
  static char line[1 << 14];
  pu_error e;
  pu_store_hits hits;
  const pu_store_ask ask = {.query = pu_str_c(query), .k = 1, .open = "[", .close = "]"};
  assert_ok(pu_store_search(s, &ask, &hits, &e), &e);
  snprintf(line, sizeof line, "%s", hits.n ? hits.v[0].snippet.ptr : "");
  pu_store_hits_deinit(&hits);
  return line;
}

/* ---- what is found --------------------------------------------------------------------------------------------------
 */

static void test_chinese(void **state) {
  (void)state;
  pu_store *s = open_store(NULL);
  put(s, "a", "1", "", "机器学习是人工智能的一个分支。");
  put(s, "a", "2", "", "今天天气很好，适合学画。");
  put(s, "a", "3", "", "自然科学");
  assert_string_equal(found(s, "学习", 5), "a1+");
  assert_string_equal(found(s, "机器 学习", 5), "a1+");
  assert_string_equal(found(s, "机器学习", 5), "a1+");
  assert_string_equal(found(s, "习是人", 5), "a1+");
  assert_string_equal(found(s, "机学", 5), "");       /* no such pair */
  assert_string_equal(found(s, "学习机器", 5), "a1"); /* pairs of it, but not as it is */
  assert_string_equal(found(s, "适", 5), "a2+");
  const char *three = found(s, "学", 5); /* at the beginning, in the middle and at the end of a run */
  assert_non_null(strstr(three, "a1+"));
  assert_non_null(strstr(three, "a2+"));
  assert_non_null(strstr(three, "a3+"));
  assert_string_equal(found(s, "学，很！分支", 1), "a1"); /* 很 is not in it */
  assert_string_equal(found(s, "火", 5), "");
  pu_store_close(s);
}

static void test_mixed(void **state) {
  (void)state;
  pu_store *s = open_store(NULL);
  put(s, "x", "", "", "用GPT-4模型写诗，Café里的ＡＢＣ。日本語のカタカナと한국어도 있다.");
  static const char *const there[] = {"gpt",      "GPT模型", "模型 4", "cafe",   "CAFÉ", "abc",  "ＡＢＣ",
                                      "カタカナ", "ｶﾀｶﾅ",    "本",     "日本語", "한국", "있다", "诗"};
  for (size_t i = 0; i < PU_COUNT(there); i++)
    if (strcmp(found(s, there[i], 5), "x+") != 0) fail_msg("'%s' finds '%s'", there[i], found(s, there[i], 5));
  static const char *const missing[] = {"gp", "ab", "型写写", "caf"};
  for (size_t i = 0; i < PU_COUNT(missing); i++)
    if (strstr(found(s, missing[i], 5), "+")) fail_msg("'%s' finds '%s'", missing[i], found(s, missing[i], 5));
  pu_store_close(s);
}

/* Nothing that is typed is syntax, of FTS5 or of SQL. */
static void test_syntax(void **state) {
  (void)state;
  static const char *const queries[] = {"",
                                        " ",
                                        "\"",
                                        "\"\"",
                                        "'",
                                        "*",
                                        "a*",
                                        "AND",
                                        "OR",
                                        "NOT",
                                        "a AND",
                                        "AND AND AND",
                                        "NEAR(a b, 2)",
                                        "NEAR(",
                                        "title:x",
                                        "title : a",
                                        "{title text} : a",
                                        "-title:a",
                                        "^a",
                                        "a + b",
                                        "(((",
                                        ")",
                                        "a OR (b",
                                        "'; DROP TABLE source; --",
                                        "%s%n",
                                        "\\",
                                        "a\"b",
                                        "\"a b\" *",
                                        "😀",
                                        "rank",
                                        "words MATCH 'a'",
                                        "\x01\x02",
                                        "é\xFF\xC3",
                                        "1e999 0x10 -1",
                                        ",",
                                        ":",
                                        "。"};
  pu_store *s = open_store(NULL);
  put(s, "a", "", "Drop", "a and b near title or not; table source. rank 1e999");
  for (size_t i = 0; i < PU_COUNT(queries); i++) (void)found(s, queries[i], 3);
  assert_string_equal(found(s, "AND", 3), "a+");
  assert_string_equal(found(s, "b AND a", 3), "a+");
  assert_string_equal(found(s, "NOT near", 3), "a+");
  assert_string_equal(found(s, "'; DROP TABLE source; --", 3), "a+");
  assert_string_equal(found(s, "tab*", 3), "");
  assert_string_equal(found(s, "text:table", 3), "a"); /* "text" is a word, and not there */
  assert_string_equal(found(s, "\"", 3), "");
  pu_store_close(s);
}

static void test_ranking(void **state) {
  (void)state;
  pu_store *s = open_store(NULL);
  char id[16];
  for (int i = 0; i < 40; i++) { /* so that a word is not in most of them */
    snprintf(id, sizeof id, "%d", i);
    put(s, "other", id, "nothing", "of interest here, whatever is looked for");
  }
  put(s, "body", "", "Cooking",
      "On rainy days an umbrella is of use. Soup is, too, and a book, and a fire, and much else.");
  put(s, "title", "", "The umbrella",
      "It keeps you dry, and it is black, and made of cloth, and has a handle of wood.");
  put(s, "both", "", "Soup and bread",
      "A soup of leek, and an umbrella in the stand by the door, which is open to all.");
  assert_string_equal(found(s, "umbrella", 3), "title+|body+|both+");
  assert_string_equal(found(s, "umbrella soup", 2), "both+|body+");
  assert_string_equal(found(s, "umbrella soup", 3), "both+|body+|title"); /* then those with some of the words */
  assert_string_equal(found(s, "umbrella leek qqq", 1), "both");
  /* As they stand: before all others, also where a run and a word alternate and where a run goes on. */
  put(s, "near", "", "", "New to York, and a York that is new; new, new York? York, York, new.");
  put(s, "exact", "", "",
      "Long ago, in a town that was called New York by some and by others something else, it rained.");
  assert_string_equal(found(s, "york new", 2), "near+|exact+");
  assert_string_equal(found(s, "by some", 1), "exact+");
  assert_string_equal(found(s, "called new york", 2), "exact+|near");
  put(s, "mixed", "", "", "有模型v2在内，机器学习GPT大模型很好");
  put(s, "apart", "", "", "GPT。模型。大。v2，机器学习，v2 模型 GPT大");
  assert_string_equal(found(s, "学习GPT大", 2), "mixed+|apart+");
  assert_string_equal(found(s, "模型v2", 2), "mixed+|apart+");
  pu_store_close(s);
}

/* Of one document three passages come before those of others; where there are no others, more. */
static void test_one_document(void **state) {
  (void)state;
  pu_store *s = open_store(NULL);
  pu_buf text;
  pu_buf_init(&text, 1 << 20);
  for (int i = 0; i < 12; i++) {
    for (int j = 0; j < 60; j++) pu_buf_puts(&text, "lorem ipsum dolor sit ");
    pu_buf_puts(&text, "zebra.\n\n");
  }
  put(s, "long", "", "", text.data);
  put(s, "short", "", "", "One zebra stands in a field that is much wider than it would have to be for one alone.");
  assert_string_equal(found(s, "zebra", 4), "short+|long+|long+|long+");
  assert_string_equal(found(s, "zebra", 6), "short+|long+|long+|long+|long+|long+");
  pu_buf_deinit(&text);
  pu_store_close(s);
}

static void test_long_query(void **state) {
  (void)state;
  pu_store *s = open_store(NULL);
  pu_error e;
  pu_store_hits hits;
  pu_buf q;
  pu_buf_init(&q, 1 << 16);
  put(s, "a", "", "", "word7 一二三四五六七八九十");
  for (int i = 0; i < 500; i++) pu_buf_printf(&q, "word%d ", i);
  assert_string_equal(found(s, q.data, 3), "a"); /* more words than all can be asked for */
  pu_buf_clear(&q);
  for (int i = 0; i < 68; i++) pu_buf_puts(&q, "一二三四五六七八九十零百千万亿兆京垓秭穰");
  assert_true(q.len <= PU_STORE_QUERY_MAX);
  assert_string_equal(found(s, q.data, 3), "a");
  while (q.len <= PU_STORE_QUERY_MAX) pu_buf_puts(&q, "x");
  pu_store_ask ask = {.query = pu_str_of(q.data, q.len), .k = 3};
  assert_int_equal(pu_store_search(s, &ask, &hits, &e), PU_ERR_USAGE);
  ask = (pu_store_ask){.query = pu_str_c("a"), .k = PU_STORE_K_MAX + 1};
  assert_int_equal(pu_store_search(s, &ask, &hits, &e), PU_ERR_USAGE);
  ask.k = 0;
  assert_int_equal(pu_store_search(s, &ask, &hits, &e), PU_ERR_USAGE);
  pu_buf_deinit(&q);
  pu_store_close(s);
}

/* ---- snippets
 * -------------------------------------------------------------------------------------------------------- */

static void test_snippets(void **state) {
  (void)state;
  pu_store *s = open_store(NULL);
  put(s, "a", "1", "Title", "One short\n\n\tline with\x01\x1B[31m controls\xC2\x9B here.");
  assert_string_equal(snippet(s, "short controls"), "One [short] line with [31m [controls] here.");
  assert_string_equal(snippet(s, "title"), "One short line with [31m controls here.");
  put(s, "a", "2", "", "我们研究机器学习的理论。");
  assert_string_equal(snippet(s, "机器学习"), "我们研究[机器学习]的理论。");
  assert_string_equal(snippet(s, "器"), "我们研究机[器]学习的理论。");
  /* A sentence in the middle of a long text: from its beginning, to an end of a sentence. */
  pu_buf text;
  pu_buf_init(&text, 1 << 16);
  for (int i = 0; i < 6; i++) pu_buf_puts(&text, "Nothing to see in this sentence, which is filler and no more. ");
  pu_buf_puts(&text, "Here the gnu stands, and it drinks. ");
  for (int i = 0; i < 6; i++) pu_buf_puts(&text, "Nothing to see in this sentence, which is filler and no more. ");
  put(s, "a", "3", "", text.data);
  const char *gnu = snippet(s, "gnu");
  assert_non_null(strstr(gnu, "Here the [gnu] stands, and it drinks."));
  assert_memory_equal(gnu, "…Nothing", strlen("…Nothing"));
  assert_true(strlen(gnu) < 260);
  assert_string_equal(gnu + strlen(gnu) - strlen("no more.…"), "no more.…");
  pu_buf_deinit(&text);
  pu_store_close(s);
}

/* Random texts and queries of them: snippets are UTF-8, short, and say what was found. */
static void test_snippets_random(void **state) {
  (void)state;
  static const char *const pieces[] = {
      "alpha", "beta", "é", "机", "器", "学", " ", " ", "。", ". ", "\n", "한", "か\xE3\x82\x99", "😀", "\xCC\x81"};
  pu_rng rng;
  pu_rng_seed(&rng, 5);
  for (int round = 0; round < 60; round++) {
    pu_store *s = open_store(NULL);
    pu_buf text;
    pu_buf_init(&text, 1 << 16);
    for (int i = 0; i < 700; i++) pu_buf_puts(&text, pieces[pu_rng_below(&rng, PU_COUNT(pieces))]);
    put(s, "a", "", "", text.data);
    const char *shown = snippet(s, round % 2 ? "alpha 机器" : "学 é 한");
    if (!pu_utf8_valid(pu_str_c(shown)) || strlen(shown) > 900 || !strchr(shown, '[')) fail_msg("%s", shown);
    pu_buf_deinit(&text);
    pu_store_close(s);
  }
}

/* ---- documents
 * ------------------------------------------------------------------------------------------------------- */

static void expect_text(pu_store *s, const char *id, uint64_t from, size_t max, const char *want) {
  pu_buf title, text;
  pu_error e;
  bool there;
  pu_buf_init(&title, 1 << 16);
  pu_buf_init(&text, 1 << 28);
  assert_ok(pu_store_get(s, pu_str_c("a"), pu_str_c(id), from, max, &title, &text, &there, &e), &e);
  assert_int_equal(there, want != NULL);
  if (want) {
    assert_int_equal(text.len, strlen(want));
    assert_memory_equal(text.data ? text.data : "", want, text.len);
  }
  pu_buf_deinit(&title);
  pu_buf_deinit(&text);
}

/* Passages put together are the text, and each of them is where it says. */
static void test_passages(void **state) {
  (void)state;
  pu_store *s = open_store(NULL);
  pu_error e;
  pu_buf text;
  pu_buf_init(&text, 1 << 20);
  for (int i = 0; i < 300; i++) {
    pu_buf_printf(&text, "Line number%d of a text. 第%d行，有字。", i, i);
    pu_buf_puts(&text, i % 7 ? " " : i % 3 ? "\n" : "\n\n");
  }
  put(s, "a", "", "", text.data);
  expect_text(s, "", 0, SIZE_MAX, text.data);
  expect_text(s, "", 17, SIZE_MAX, text.data + 17);
  expect_text(s, "", text.len, 10, "");
  expect_text(s, "", text.len + 99, 10, "");
  expect_text(s, "nobody", 0, 10, NULL);
  for (int i = 0; i < 300; i += 13) {
    char query[32];
    pu_store_hits hits;
    snprintf(query, sizeof query, "number%d", i);
    const pu_store_ask ask = {.query = pu_str_c(query), .k = 1};
    assert_ok(pu_store_search(s, &ask, &hits, &e), &e);
    assert_int_equal(hits.n, 1);
    const pu_store_hit *h = &hits.v[0];
    assert_true(h->begin < h->end && h->end <= text.len && h->end - h->begin <= 2048);
    assert_non_null(memmem(text.data + h->begin, h->end - h->begin, query, strlen(query)));
    pu_store_hits_deinit(&hits);
  }
  pu_buf_deinit(&text);
  pu_store_close(s);
}

static void test_any_bytes(void **state) {
  (void)state;
  pu_store *s = open_store(NULL);
  pu_error e;
  const pu_store_document d = {pu_str_of("i\xFF", 2), pu_str_of("t\xC3", 2),
                               pu_str_of("one\0two \xE6\x9C three\xF0\x9F", 18)};
  assert_ok(pu_store_replace(s, pu_str_c("a"), (pu_store_stamp){0}, &e), &e);
  assert_ok(pu_store_put(s, pu_str_c("a"), &d, &e), &e);
  assert_string_equal(found(s, "one two three", 3), "ai\xEF\xBF\xBD+");
  assert_string_equal(snippet(s, "two"), "one [two] \xEF\xBF\xBD\xEF\xBF\xBD three\xEF\xBF\xBD\xEF\xBF\xBD");
  pu_store_close(s);
}

static void test_replace_remove(void **state) {
  (void)state;
  pu_store *s = open_store(at("replace.sqlite"));
  pu_error e;
  bool same;
  pu_store_counts c;
  pu_str a = pu_str_c("a"), none = pu_str_of(NULL, 0);
  put(s, "a", "1", "first", "apples and pears");
  put(s, "a", "2", "second", "plums");
  put(s, "b", "1", "third", "apples");
  assert_ok(pu_store_same(s, a, (pu_store_stamp){1, 1}, &same, &e), &e);
  assert_true(same);
  assert_ok(pu_store_same(s, a, (pu_store_stamp){1, 2}, &same, &e), &e);
  assert_false(same);
  assert_ok(pu_store_same(s, pu_str_c("c"), (pu_store_stamp){1, 1}, &same, &e), &e);
  assert_false(same);
  put(s, "a", "1", "again", "cherries"); /* the same id: in its place */
  assert_string_equal(found(s, "apples", 5), "b1+");
  assert_string_equal(found(s, "pears", 5), "");
  assert_string_equal(found(s, "first", 5), "");
  assert_string_equal(found(s, "again cherries", 5), "a1+");
  assert_ok(pu_store_remove(s, a, pu_str_c("2"), &e), &e);
  assert_string_equal(found(s, "plums", 5), "");
  assert_ok(pu_store_remove(s, a, pu_str_c("9"), &e), &e); /* not there: fine */
  assert_ok(pu_store_replace(s, a, (pu_store_stamp){5, 6}, &e), &e);
  assert_string_equal(found(s, "cherries", 5), "");
  put(s, "b", "2", "", "quinces");
  assert_ok(pu_store_remove(s, pu_str_c("b"), none, &e), &e);
  assert_string_equal(found(s, "apples quinces", 5), "");
  assert_ok(pu_store_remove(s, pu_str_c("b"), none, &e), &e);
  assert_ok(pu_store_count(s, &c, &e), &e);
  assert_int_equal(c.sources, 1);
  assert_int_equal(c.documents, 0);
  assert_int_equal(c.passages, 0);
  const pu_store_document d = {pu_str_c("x"), pu_str_c(""), pu_str_c("")};
  assert_int_equal(pu_store_put(s, pu_str_c("b"), &d, &e), PU_ERR_USAGE); /* never begun */
  assert_ok(pu_store_put(s, a, &d, &e), &e);
  pu_store_close(s);
}

static pu_err list(void *arg, pu_str source, pu_str note, pu_error *e) {
  pu_buf *b = arg;
  (void)e;
  pu_buf_printf(b, "%.*s(%.*s) ", (int)source.len, source.ptr, (int)note.len, note.ptr);
  return PU_OK;
}

static pu_err stop(void *arg, pu_str source, pu_str note, pu_error *e) {
  (void)arg, (void)source, (void)note;
  return pu_fail(e, PU_ERR_STOPPED, "enough");
}

static void test_sources(void **state) {
  (void)state;
  pu_store *s = open_store(NULL);
  pu_error e;
  pu_buf b;
  pu_buf_init(&b, 1 << 16);
  put(s, "b", "", "", "x");
  put(s, "a/z", "", "", "x");
  put(s, "a", "", "", "x");
  assert_ok(pu_store_note(s, pu_str_c("a"), pu_str_c("why"), &e), &e);
  assert_ok(pu_store_sources(s, list, &b, &e), &e);
  assert_string_equal(b.data, "a(why) a/z() b() ");
  assert_int_equal(pu_store_sources(s, stop, NULL, &e), PU_ERR_STOPPED);
  assert_ok(pu_store_replace(s, pu_str_c("a"), (pu_store_stamp){0}, &e), &e); /* a note goes with what it was about */
  pu_buf_clear(&b);
  assert_ok(pu_store_sources(s, list, &b, &e), &e);
  assert_string_equal(b.data, "a() a/z() b() ");
  pu_buf_deinit(&b);
  pu_store_close(s);
}

static void test_transactions(void **state) {
  (void)state;
  pu_store *s = open_store(at("transactions.sqlite"));
  pu_error e;
  put(s, "kept", "", "", "sparrow");
  assert_ok(pu_store_begin(s, NULL, &e), &e);
  put(s, "a", "", "", "sparrow");
  assert_ok(pu_store_remove(s, pu_str_c("kept"), pu_str_of(NULL, 0), &e), &e);
  assert_string_equal(found(s, "sparrow", 5), "a+"); /* within */
  pu_store_rollback(s);
  assert_string_equal(found(s, "sparrow", 5), "kept+");
  pu_store_rollback(s); /* nothing was begun: fine */
  assert_ok(pu_store_begin(s, NULL, &e), &e);
  put(s, "a", "", "", "sparrow");
  pu_store_close(s); /* not committed */
  s = open_store(at("transactions.sqlite"));
  assert_string_equal(found(s, "sparrow", 5), "kept+");
  pu_store_close(s);
}

static void test_bounds(void **state) {
  (void)state;
  pu_store *s = open_store(NULL);
  pu_error e;
  pu_buf big;
  pu_buf_init(&big, PU_STORE_TEXT_MAX + 16);
  while (big.len < PU_STORE_TEXT_MAX - 4096)
    pu_buf_puts(&big, "the same few words once more, and then again as before\n");
  size_t end = big.len;
  while (big.len < PU_STORE_TEXT_MAX + 1) pu_buf_putc(&big, 'q');
  pu_store_document d = {pu_str_c("1"), pu_str_c("t"), pu_str_of(big.data, big.len)};
  assert_ok(pu_store_replace(s, pu_str_c("a"), (pu_store_stamp){0}, &e), &e);
  assert_int_equal(pu_store_put(s, pu_str_c("a"), &d, &e), PU_ERR_USAGE);
  d.id = pu_str_of(big.data, PU_STORE_NAME_MAX + 1);
  d.text.len = 3;
  assert_int_equal(pu_store_put(s, pu_str_c("a"), &d, &e), PU_ERR_USAGE);
  d.id = pu_str_c("1");
  d.title = pu_str_of(big.data, 3 * PU_STORE_NAME_MAX); /* cut */
  assert_ok(pu_store_put(s, pu_str_c("a"), &d, &e), &e);
  assert_int_equal(pu_store_replace(s, pu_str_of(big.data, PU_STORE_NAME_MAX + 1), (pu_store_stamp){0}, &e),
                   PU_ERR_USAGE);
  /* A huge document, with one rare word at its end. */
  memcpy(big.data + end, "\nxylophone\n", 11);
  d.text.len = PU_MIN(end + 11, (size_t)8 << 20);
  memcpy(big.data + d.text.len - 11, "\nxylophone\n", 11);
  assert_ok(pu_store_put(s, pu_str_c("a"), &d, &e), &e);
  assert_string_equal(found(s, "xylophone", 2), "a1+");
  pu_buf_deinit(&big);
  pu_store_close(s);
}

/* ---- files
 * ----------------------------------------------------------------------------------------------------------- */

static void expect_refused(const char *path, pu_err want, const char *says) {
  pu_store *s;
  pu_error e;
  pu_err err = pu_store_open(path, &s, &e);
  if (err != want) fail_msg("%s: %d, %s", path, (int)err, err ? e.msg : "opened");
  if (!strstr(e.msg, says) || !strstr(e.msg, path)) fail_msg("\"%s\" does not say \"%s\"", e.msg, says);
  assert_null(s);
}

static void run_sql(const char *path, const char *sql) {
  sqlite3 *db;
  char *why = NULL;
  assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
  if (sqlite3_exec(db, sql, NULL, NULL, &why) != SQLITE_OK) fail_msg("%s: %s", sql, why);
  sqlite3_close(db);
}

static void write_file(const char *path, const void *data, size_t len) {
  pu_error e;
  assert_ok(pu_file_write(path, data, len, &e), &e);
}

static void test_other_files(void **state) {
  (void)state;
  char text[4096];
  memset(text, 'x', sizeof text);
  write_file(at("text"), text, sizeof text);
  expect_refused(at("text"), PU_ERR_FORMAT, "no database");
  run_sql(at("theirs"), "CREATE TABLE t(x)");
  expect_refused(at("theirs"), PU_ERR_FORMAT, "another program");
  run_sql(at("marked"), "PRAGMA application_id = 77");
  expect_refused(at("marked"), PU_ERR_FORMAT, "another program");
  pu_store_close(open_store(at("newer")));
  run_sql(at("newer"), "PRAGMA user_version = 99");
  expect_refused(at("newer"), PU_ERR_UNSUPPORTED, "newer puyu");
  pu_store_close(open_store(at("lacking")));
  run_sql(at("lacking"), "DROP TABLE value");
  expect_refused(at("lacking"), PU_ERR_FORMAT, "damaged");
  expect_refused(at("no/such/folder"), PU_ERR_IO, "unable to open");
  expect_refused(dir, PU_ERR_IO, "unable to open");
  write_file(at("empty"), "", 0); /* as a file that is being made looks for a moment */
  pu_store_close(open_store(at("empty")));
}

/* Whatever byte of a file is another one: an error or an answer, and nothing worse. */
static void test_damaged(void **state) {
  (void)state;
  pu_store *s = open_store(at("good"));
  pu_error e;
  char id[16];
  assert_ok(pu_store_begin(s, NULL, &e), &e);
  for (int i = 0; i < 200; i++) {
    snprintf(id, sizeof id, "%d", i);
    put(s, "a", id, "A title", "Some words of a text, again and again. 还有中文的字。");
  }
  assert_ok(pu_store_commit(s, &e), &e);
  pu_store_close(s);
  pu_buf good;
  pu_buf_init(&good, 1 << 26);
  assert_ok(pu_file_read(at("good"), 1 << 26, &good, &e), &e);
  pu_rng rng;
  pu_rng_seed(&rng, 3);
  for (int round = 0; round < 150; round++) {
    const pu_store_document d = {pu_str_c("new"), pu_str_c("t"), pu_str_c("words")};
    const pu_store_ask ask = {.query = pu_str_c("words 中文 again"), .k = 10};
    pu_store_hits hits;
    pu_buf bad;
    pu_buf_init(&bad, 1 << 26);
    pu_buf_append(&bad, good.data, round % 10 ? good.len : pu_rng_below(&rng, good.len));
    for (uint64_t n = 1 + pu_rng_below(&rng, 40); n > 0 && bad.len > 0; n--)
      bad.data[pu_rng_below(&rng, bad.len)] = (char)pu_rng_next(&rng);
    write_file(at("bad"), bad.data, bad.len);
    pu_buf_deinit(&bad);
    if (pu_store_open(at("bad"), &s, &e) == PU_OK) {
      if (pu_store_search(s, &ask, &hits, &e) == PU_OK) pu_store_hits_deinit(&hits);
      (void)!pu_store_put(s, pu_str_c("a"), &d, &e);
      (void)!pu_store_remove(s, pu_str_c("a"), pu_str_of(NULL, 0), &e);
      pu_store_close(s);
    }
    (void)unlink(at("bad-wal"));
    (void)unlink(at("bad-shm"));
  }
  pu_buf_deinit(&good);
}

/* Words of a file that other tables of Unicode found are found anew. */
static void test_other_words(void **state) {
  (void)state;
  pu_store *s = open_store(at("words"));
  put(s, "a", "", "Title", "sunflower");
  pu_store_close(s);
  run_sql(at("words"), "UPDATE value SET value = 'older' WHERE key = 'words'");
  s = open_store(at("words"));
  assert_string_equal(found(s, "sunflower title", 3), "a+");
  pu_store_close(s);
}

/* ---- processes
 * ------------------------------------------------------------------------------------------------------- */

enum { PROCESSES = 3, EACH = 60 };

static void write_many(const char *path, int who) {
  pu_store *s;
  pu_error e;
  char name[32], text[64];
  if (pu_store_open(path, &s, &e) != PU_OK) _exit(1);
  for (int i = 0; i < EACH; i++) {
    snprintf(name, sizeof name, "%d-%d", who, i);
    snprintf(text, sizeof text, "shared text of process%d, item%d", who, i);
    const pu_store_document d = {pu_str_c(""), pu_str_c(""), pu_str_c(text)};
    const pu_store_ask ask = {.query = pu_str_c("shared"), .k = 5};
    pu_store_hits hits;
    if (pu_store_begin(s, NULL, &e) != PU_OK) _exit(2);
    if (pu_store_replace(s, pu_str_c(name), (pu_store_stamp){1, 1}, &e) != PU_OK) _exit(3);
    if (pu_store_put(s, pu_str_c(name), &d, &e) != PU_OK) _exit(4);
    if (pu_store_commit(s, &e) != PU_OK) _exit(5);
    if (pu_store_search(s, &ask, &hits, &e) != PU_OK || hits.n == 0) _exit(6);
    pu_store_hits_deinit(&hits);
  }
  pu_store_close(s);
  _exit(0);
}

/* Several processes open a new file at once, and write and search in turns. */
static void test_processes(void **state) {
  (void)state;
  pid_t pids[PROCESSES];
  pu_store_counts c;
  pu_error e;
  fflush(NULL);
  for (int i = 0; i < PROCESSES; i++) {
    pids[i] = fork();
    assert_true(pids[i] >= 0);
    if (pids[i] == 0) write_many(at("many"), i);
  }
  for (int i = 0; i < PROCESSES; i++) {
    int status;
    assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
  }
  pu_store *s = open_store(at("many"));
  assert_ok(pu_store_count(s, &c, &e), &e);
  assert_int_equal(c.documents, PROCESSES * EACH);
  assert_string_equal(found(s, "process1 item7", 1), "1-7+");
  pu_store_close(s);
}

/* A reader sees what was committed while another connection writes. */
static void test_reader(void **state) {
  (void)state;
  pu_store *w = open_store(at("both")), *r = open_store(at("both"));
  pu_error e;
  put(w, "a", "", "", "heron");
  assert_string_equal(found(r, "heron", 5), "a+");
  assert_ok(pu_store_begin(w, NULL, &e), &e);
  put(w, "b", "", "", "heron");
  assert_string_equal(found(r, "heron", 5), "a+");
  assert_ok(pu_store_commit(w, &e), &e);
  assert_int_equal(strlen(found(r, "heron", 5)), strlen("a+|b+"));
  pu_store_close(w);
  pu_store_close(r);
}

static void test_values(void **state) {
  (void)state;
  pu_store *s = open_store(NULL);
  pu_error e;
  pu_buf b;
  bool there;
  pu_buf_init(&b, 1 << 10);
  assert_ok(pu_store_value(s, "folder", &b, &there, &e), &e);
  assert_false(there);
  assert_ok(pu_store_set(s, "folder", pu_str_of("a\0\xFF", 3), &e), &e);
  assert_ok(pu_store_set(s, "folder", pu_str_of("b\0\xFF", 3), &e), &e);
  assert_ok(pu_store_value(s, "folder", &b, &there, &e), &e);
  assert_true(there && b.len == 3);
  assert_memory_equal(b.data, "b\0\xFF", 3);
  pu_buf_deinit(&b);
  pu_store_close(s);
  pu_store_close(NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_chinese),      cmocka_unit_test(test_mixed),           cmocka_unit_test(test_syntax),
      cmocka_unit_test(test_ranking),      cmocka_unit_test(test_one_document),    cmocka_unit_test(test_long_query),
      cmocka_unit_test(test_snippets),     cmocka_unit_test(test_snippets_random), cmocka_unit_test(test_passages),
      cmocka_unit_test(test_any_bytes),    cmocka_unit_test(test_replace_remove),  cmocka_unit_test(test_sources),
      cmocka_unit_test(test_transactions), cmocka_unit_test(test_bounds),          cmocka_unit_test(test_other_files),
      cmocka_unit_test(test_damaged),      cmocka_unit_test(test_other_words),     cmocka_unit_test(test_processes),
      cmocka_unit_test(test_reader),       cmocka_unit_test(test_values),
  };
  return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
