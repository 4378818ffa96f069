/* Evaluation sets and texts that hold them: hand-made cases at every border, and random ones against a plain reference.
 */
#include <stdlib.h>
#include <unistd.h>

#include "src/data/contam.h"
#include "tests/test.h"

static char folder[64];

static const char *put(const char *name, const char *text) {
  static char path[128];
  pu_error e;
  snprintf(path, sizeof path, "%s/%s", folder, name);
  assert_ok(pu_file_write(path, text, strlen(text), &e), &e);
  return path;
}

/* An index of one file. */
static pu_contam *index_of(const pu_contam_options *o, const char *name, const char *text) {
  pu_error e;
  pu_contam *c;
  const char *path = put(name, text);
  pu_contam_options with = *o;
  with.against = (pu_strs){&path, 1};
  assert_ok(pu_contam_open(&with, 0, &c, &e), &e);
  return c;
}

/* What a text has of the first item that it has most of; a share of -1: nothing. */
static pu_contam_hit held(const pu_contam *c, const char *text) {
  pu_error e;
  pu_contam_found f = {0};
  pu_contam_hit h = {.share = -1};
  assert_ok(pu_contam_check(c, pu_str_c(text), &f, &e), &e);
  if (f.n > 0) h = f.hits[0];
  assert_int_equal(f.n_over > 0, h.over);
  pu_contam_found_free(&f);
  return h;
}

static void assert_touches(const pu_contam *c, const char *text, double share) {
  pu_contam_hit h = held(c, text);
  if (!h.over || h.share != share) fail_msg("%s: share %g%s", text, h.share, h.over ? "" : ", not over");
}

static void assert_nothing(const pu_contam *c, const char *text) {
  pu_contam_hit h = held(c, text);
  if (h.share != -1) fail_msg("%s: share %g", text, h.share);
}

/* 22 words: 10 n-grams. */
#define ITEM                                                                                                           \
  "A farmer sells eighteen brown eggs every morning at the market and keeps four for her own breakfast, how "          \
  "much still remains?"

static void planted(void **state) {
  (void)state;
  pu_contam_options o = pu_contam_defaults();
  pu_contam *c = index_of(&o, "a.jsonl", "{\"id\": 1, \"question\": \"short\"}\n\n{\"question\": \"" ITEM "\"}\n");
  assert_touches(c, ITEM, 1);
  assert_touches(c, "Before. " ITEM " And behind it.", 1);
  assert_touches(c,
                 "x A FARMER sells eighteen \xE2\x80\x94 brown eggs; every morning at\n\n* the market (and keeps) four "
                 "for her own breakfast how much still remains y",
                 1);
  assert_touches(c,
                 "\xEF\xBC\xA1 farm\xC3\xA9r sells eighteen brown eggs every morning at the market and keeps four for "
                 "her own breakfast, how much still remains?",
                 1); /* Ａ, é */
  assert_nothing(c, "A farmer sells eighteen brown eggs every morning at the market");
  assert_nothing(c, "");
  assert_nothing(c, "\xFF\xFE no text \xC3");
  pu_contam_item x = pu_contam_item_of(c, held(c, ITEM).item);
  assert_int_equal(x.number, 3);
  assert_string_equal(x.field, "question");
  assert_true(pu_ends_with(x.file, "/a.jsonl"));
  /* Where it begins in the text. */
  const char *text = "one two: " ITEM;
  pu_contam_hit h = held(c, text);
  assert_ptr_equal(h.at.ptr, text + 9);
  assert_true(pu_str_ends(h.at, "keeps"));
  pu_contam_close(c);
}

static void shares(void **state) {
  (void)state;
  static const char *const three = "a farmer sells eighteen brown eggs every morning at the market and keeps four for";
  static const char *const two = "a farmer sells eighteen brown eggs every morning at the market and keeps four";
  pu_contam_options o = pu_contam_defaults();
  o.share = 0.3;
  pu_contam *c = index_of(&o, "a.jsonl", "{\"question\": \"" ITEM "\"}");
  assert_touches(c, three, 0.3);
  pu_contam_hit h = held(c, two);
  assert_false(h.over);
  assert_true(h.share == 0.2);
  /* The same n-gram twice is one of them. */
  char twice[400];
  snprintf(twice, sizeof twice, "%s. %s.", two, two);
  assert_true(held(c, twice).share == 0.2 && !held(c, twice).over);
  pu_contam_close(c);
  o.share = 0;
  c = index_of(&o, "a.jsonl", "{\"question\": \"" ITEM "\"}");
  assert_touches(c, "a farmer sells eighteen brown eggs every morning at the market and keeps", 0.1);
  pu_contam_close(c);
  o.share = 1;
  c = index_of(&o, "a.jsonl", "{\"question\": \"" ITEM "\"}");
  assert_false(held(c, three).over);
  assert_touches(c, ITEM, 1);
  pu_contam_close(c);
  o.ngram = 5;
  c = index_of(&o, "a.jsonl", "{\"question\": \"" ITEM "\"}");
  assert_true(held(c, "keeps four for her own").share == 1 / 18.0);
  pu_contam_close(c);
}

static void chinese(void **state) {
  (void)state;
  pu_contam_options o = pu_contam_defaults();
  o.share = 0.5;
  /* 24 tokens: 12 n-grams. */
  pu_contam *c = index_of(&o, "zh.csv", "id,question,A\n0,某公司2023年购入一批原材料，应当计入存货成本的是哪项,甲\n");
  assert_touches(c, "题目：某公司２０２３年购入一批原材料应当计入存货成本的是哪项？", 1);
  assert_touches(c, "某 公 司2023 年购入。一批原材料,应当计入存货成本的是哪项", 1);
  assert_touches(c, "2023年购入一批原材料，应当计入存货成本的", 0.5);
  pu_contam_hit h = held(c, "2023年购入一批原材料，应当计入存货成本");
  assert_true(h.share == 5 / 12.0 && !h.over);
  pu_contam_item x = pu_contam_item_of(c, h.item);
  assert_int_equal(x.number, 1);
  assert_string_equal(x.field, "question");
  pu_contam_close(c);
}

static void short_items(void **state) {
  (void)state;
  pu_contam_options o = pu_contam_defaults();
  pu_contam *c = index_of(&o, "s.txt",
                          "What happens when you swallow a cherry stone?\n" /* 8 words */
                          "What happens when you swallow a cherry\n"        /* 7 */
                          "seven 1 2 3 4 5 6 7 8\n"                         /* mere numbers */
                          "https://example.org/one/two/three/four/five/six/seven/eight\n"
                          "我国第一部宪法颁布于\n" /* 10 characters */
                          "我国第一部宪法颁布\n"); /* 9 */
  assert_touches(c, "what happens when you swallow a cherry stone", 1);
  assert_touches(c, "Q: What happens, when you swallow a cherry-stone? A: nothing", 1);
  assert_touches(c, "First.\nWhat happens when you swallow a cherry stone\nNothing", 1);
  assert_true(held(c, "What happens when you swallow a cherry stone?").by == PU_CONTAM_WHOLE);
  assert_nothing(c, "tell me what happens when you swallow a cherry stone.");
  assert_nothing(c, "What happens when you swallow a cherry stone and a plum?");
  assert_nothing(c, "What happens when you swallow a cherry");
  assert_nothing(c, "seven 1 2 3 4 5 6 7 8");
  assert_nothing(c, "https://example.org/one/two/three/four/five/six/seven/eight");
  assert_touches(c, "问：我国第一部宪法颁布于（）年", 1);
  assert_nothing(c, "众所周知我国第一部宪法颁布于（）年");
  assert_nothing(c, "我国第一部宪法颁布于何年");
  assert_nothing(c, "我国第一部宪法颁布");
  pu_contam_close(c);
}

#define PHRASE                                                                                                         \
  "Which of the following statements about the passage above is best supported by the evidence that it gives"

static const char *const words[] = {"alder", "birch", "cedar", "fir",  "hazel",
                                    "larch", "maple", "oak",   "pine", "rowan"};

static void templates(void **state) {
  (void)state;
  pu_contam_options o = pu_contam_defaults();
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  /* In most records of a file, in front of what is their own, and as a field. */
  for (size_t i = 0; i < 8; i++)
    pu_buf_printf(
        &b,
        "{\"prompt\": \"%s%s one tree of many that grows in the wood behind the house of number %s and others\", "
        "\"instruction\": \"Read the text with care, then answer with one letter and nothing else at all.\"}\n\n",
        i < 5 ? PHRASE " " : "", words[i], words[i]);
  pu_contam *c = index_of(&o, "t.jsonl", b.data);
  assert_nothing(c, PHRASE);
  assert_nothing(c, "Read the text with care, then answer with one letter and nothing else at all.");
  assert_nothing(c, "tree of many that grows in the wood behind the house of number");
  assert_touches(c, PHRASE " cedar one tree of many that grows in the wood behind the house of number cedar and others",
                 1);
  assert_int_equal(pu_contam_about_of(c).templates, 1);
  pu_contam_close(c);
  /* Half of the records is not most of them, and few records say nothing. */
  pu_buf_clear(&b);
  for (size_t i = 0; i < 8; i++)
    pu_buf_printf(&b, "{\"a\": \"%s %s\"}\n", words[i], i < 4 ? PHRASE : "and its leaves that are as small as a hand");
  c = index_of(&o, "t.jsonl", b.data);
  assert_true(held(c, PHRASE).over);
  pu_contam_close(c);
  /* In more items than `common`, whatever their files. */
  for (int n = 9; n <= 11; n++) {
    pu_buf_clear(&b);
    for (int i = 0; i < 40; i++)
      pu_buf_printf(&b, "{\"a\": \"%s %d %s\"}\n", words[i % 10], i, i < n ? PHRASE : "is the number of the tree");
    c = index_of(&o, "t.jsonl", b.data);
    if (n <= 10)
      assert_true(held(c, PHRASE).over);
    else
      assert_nothing(c, PHRASE);
    pu_contam_close(c);
  }
  /* A string in many files is one, though it is not in most records of any. */
  pu_error e;
  assert_ok(contam_create(&o, 0, &c, &e), &e);
  for (int i = 0; i < 11; i++) {
    char name[32];
    snprintf(name, sizeof name, "%d.jsonl", i);
    pu_buf_clear(&b);
    pu_buf_printf(&b,
                  "{\"a\": \"" PHRASE "\"}\n{\"a\": \"Number %s of %d, which is a tree with a name of its own that "
                  "nobody else has here\"}\n",
                  words[i % 10], i);
    assert_ok(contam_add(c, put(name, b.data), &e), &e);
  }
  assert_ok(contam_build(c, &e), &e);
  assert_nothing(c, PHRASE);
  assert_true(held(c, "Number birch of 1, which is a tree with a name of its own that nobody else has here").over);
  pu_contam_close(c);
  /* A row of numbers is nobody's. */
  c = index_of(&o, "n.jsonl",
               "{\"q\": \"Go on with 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 and say why that is so\"}");
  assert_nothing(c, "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22");
  assert_touches(c, "go on with 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 and say why that is so", 1);
  pu_contam_close(c);
  pu_buf_deinit(&b);
}

static void near_matches(void **state) {
  (void)state;
  pu_contam_options o = pu_contam_defaults();
  /* The word in the middle is in all n-grams. */
  static const char *const changed =
      "A farmer sells eighteen brown eggs every morning at the fair and keeps four for her own "
      "breakfast, how much still remains?";
  pu_contam *c = index_of(&o, "a.jsonl", "{\"question\": \"" ITEM "\"}");
  assert_nothing(c, changed);
  pu_contam_close(c);
  o.near = true;
  c = index_of(&o, "a.jsonl", "{\"question\": \"" ITEM "\"}");
  pu_contam_hit h = held(c, changed);
  assert_true(h.over && h.by == PU_CONTAM_NEAR);
  assert_true(h.share == 13 / 23.0); /* of 18 shingles each, the 5 around it differ */
  char text[600];
  snprintf(text, sizeof text, "Another paragraph, about other things.\n\nHere:\n%s\nAnd so on.\n\nAnother.", changed);
  h = held(c, text);
  assert_true(h.over && h.by == PU_CONTAM_NEAR);
  assert_int_equal(h.at.len, strlen(changed)); /* the line */
  assert_true(held(c, ITEM).by == PU_CONTAM_NGRAM && held(c, ITEM).share == 1);
  assert_nothing(
      c, "Another farmer sells other things at quite another place, and nobody knows how many of them she keeps");
  pu_contam_close(c);
}

/* ---- files --------------------------------------------------------------------------------------------------------
 */

static void assert_item(const char *name, const char *text, const char *field, uint64_t number) {
  pu_contam_options o = pu_contam_defaults();
  pu_contam *c = index_of(&o, name, text);
  pu_contam_hit h = held(c, ITEM);
  if (!h.over) fail_msg("%s: not found", name);
  pu_contam_item x = pu_contam_item_of(c, h.item);
  assert_string_equal(x.field, field);
  assert_int_equal(x.number, number);
  pu_contam_close(c);
}

static void files(void **state) {
  (void)state;
  assert_item("l.json", "[\n {\"q\": 1},\n {\"q\": [\"\", \"" ITEM "\"]} ]", "q[1]", 2);
  assert_item("l.json", "[[[\"" ITEM "\"], [{\"q\": \"x\"}]]]", "[0][0]", 1);
  assert_item("o.json",
              "{\"version\": \"1\", \"data\": [{\"t\": 1}, {\"paragraphs\": [{\"qas\": [{\"question\": \"" ITEM
              "\"}]}]}]}",
              "paragraphs[0].qas[0].question", 2);
  assert_item("one.json", "{\"question\": \"" ITEM "\", \"answer\": \"4\"}", "question", 1);
  assert_item("two.json", "{\"a\": [{\"x\": 1}], \"b\": [{\"x\": \"" ITEM "\"}]}", "b[0].x", 1);
  assert_item("lines.json", "{\"a\": 1}\n{\"a\": \"" ITEM "\"}\n", "a", 2);
  assert_item("bom.jsonl", "\xEF\xBB\xBF{\"a\": \"" ITEM "\"}\r\n", "a", 1);
  assert_item("u.jsonl",
              "{\"a\": \"\\u0041 farmer sells eighteen brown eggs\\nevery morning at the market and keeps four "
              "for her own breakfast, how much still remains? \\ud83d\"}",
              "a", 1);
  assert_item("n.csv", "Question,A\nx,y\n\"He said \"\"" ITEM "\"\"\",b\n", "Question", 2);
  assert_item("m.csv", "x y,2\n\"" ITEM "\",3\n", "1", 2);
  assert_item("t.tsv", "id\tquestion\n1\t" ITEM "\n", "question", 1);
  assert_item("t.txt", "\n" ITEM "\n", "", 2);
  assert_item("broken.jsonl", "{\"a\": 1}\n{\"a\": \n{\"a\": 3}\n{\"a\": \"" ITEM "\"}", "a", 4);
  assert_item("odd\xFF.txt", ITEM, "", 1);
  /* Known by the first record that has it. */
  assert_item("again.jsonl", "{\"a\": 1}\n{\"a\": \"" ITEM "\"}\n{\"b\": \"" ITEM "\"}\n", "a", 2);
}

static void folders_and_errors(void **state) {
  (void)state;
  pu_error e;
  pu_contam *c;
  char below[128];
  pu_contam_options o = pu_contam_defaults();
  snprintf(below, sizeof below, "%s/sets", folder);
  const char *path = below;
  o.against = (pu_strs){&path, 1};
  assert_int_equal(pu_contam_open(&o, 0, &c, &e), PU_ERR_IO); /* not there */
  strcat(below, "/x");
  assert_ok(pu_mkdirs(below, &e), &e);
  put("sets/README.txt",
      "One line of a file that is no set, with more than thirteen words in it, for nobody to be found");
  below[strlen(below) - 2] = 0;
  assert_int_equal(pu_contam_open(&o, 0, &c, &e), PU_ERR_USAGE); /* nothing in it */
  assert_non_null(strstr(e.msg, "nothing to look for"));
  put("sets/x/a.jsonl", "{\"question\": \"" ITEM "\"}\n{\"a\": \n");
  assert_ok(pu_contam_open(&o, 0, &c, &e), &e);
  assert_touches(c, ITEM, 1);
  pu_contam_about a = pu_contam_about_of(c);
  assert_int_equal(a.files, 1);
  assert_int_equal(a.records, 1);
  assert_int_equal(a.broken, 1);
  assert_int_equal(a.items, 1);
  assert_int_equal(a.ngrams, 10);
  assert_true(a.bytes > 0);
  pu_contam_close(c);
  assert_int_equal(pu_contam_open(&o, 1, &c, &e), PU_ERR_NOMEM);
  assert_non_null(strstr(e.msg, "allowed"));
  put("sets/x/a.jsonl", "no JSON\nat all\n{\"a\": 1}\n");
  assert_int_equal(pu_contam_open(&o, 0, &c, &e), PU_ERR_FORMAT);
  assert_non_null(strstr(e.msg, "a.jsonl"));
  o.ngram = 33;
  assert_int_equal(pu_contam_open(&o, 0, &c, &e), PU_ERR_USAGE);
  o = pu_contam_defaults();
  assert_int_equal(pu_contam_open(&o, 0, &c, &e), PU_ERR_USAGE); /* no files */
}

/* ---- cutting ------------------------------------------------------------------------------------------------------
 */

static void assert_cut(const pu_contam *c, const char *text, const char *want) {
  pu_error e;
  pu_contam_found f = {0};
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  assert_ok(pu_contam_check(c, pu_str_c(text), &f, &e), &e);
  assert_ok(pu_contam_cut(&f, pu_str_c(text), &b, &e), &e);
  assert_string_equal(b.data, want);
  pu_buf_deinit(&b);
  pu_contam_found_free(&f);
}

static void cutting(void **state) {
  (void)state;
  pu_contam_options o = pu_contam_defaults();
  pu_contam *c = index_of(&o, "a.jsonl", "{\"question\": \"" ITEM "\"}");
  assert_cut(c, "Before.\n\nBehind.\n", "Before.\n\nBehind.\n");
  assert_cut(c, "Before.\n\nQ: " ITEM "\nA. 14\nB. 15\n\nBehind.\n", "Before.\n\nBehind.\n");
  assert_cut(c, ITEM, "");
  assert_cut(c, ITEM "\n\nBehind.", "Behind.");
  assert_cut(c, ITEM "\n\nOne.\n\n" ITEM " " ITEM "\n\nTwo.\n\n" ITEM, "One.\n\nTwo.\n\n");
  /* Of a long paragraph only the sentences. */
  char text[8000], want[8000];
  size_t at = 0;
  while (at < 2400) at += (size_t)snprintf(text + at, sizeof text - at, "Word number %zu of 3.5 and more. ", at);
  snprintf(want, sizeof want, "%sAnd. Yes! %s", text, text);
  snprintf(text + at, sizeof text - at, "And. %s Yes! %.*s", ITEM, (int)at, want);
  /* The space before the sentence goes with it. */
  assert_cut(c, text, want);
  pu_contam_close(c);
}

/* One work space for text after text, also of another index. */
static void used_again(void **state) {
  (void)state;
  pu_error e;
  pu_contam_options o = pu_contam_defaults();
  pu_contam_found f = {0};
  pu_contam *small = index_of(&o, "a.jsonl", "{\"q\": \"" ITEM "\"}");
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  for (int i = 0; i < 60; i++)
    pu_buf_printf(
        &b, "{\"q\": \"Tree number %d of the wood is an old %s with leaves that are as small as hand %d of %d\"}\n", i,
        words[i % 10], i, 7 * i);
  pu_buf_puts(&b, "{\"q\": \"" ITEM "\"}");
  pu_contam *large = index_of(&o, "b.jsonl", b.data);
  for (int i = 0; i < 6; i++) {
    const pu_contam *c = i % 2 ? large : small;
    const char *text = i == 2 ? "nothing of it" : ITEM;
    assert_ok(pu_contam_check(c, pu_str_c(text), &f, &e), &e);
    assert_int_equal(f.n, i != 2);
    assert_true(i == 2 || f.hits[0].share == 1);
  }
  assert_ok(pu_contam_check(large, pu_str_of(b.data, b.len), &f, &e), &e);
  assert_int_equal(f.n_over, 61);
  assert_ok(pu_contam_check(small, pu_str_of(b.data, b.len), &f, &e), &e);
  assert_int_equal(f.n_over, 1);
  pu_buf_deinit(&b);
  pu_contam_found_free(&f);
  pu_contam_close(small);
  pu_contam_close(large);
}

/* ---- against a plain reference ------------------------------------------------------------------------------------
 */

enum { RANDOM_ITEMS = 12, RANDOM_WORDS = 40, NGRAM = 5 };

typedef struct row {
  int v[200];
  int n;
} row;

static void put_row(pu_buf *b, const row *r, bool upper) {
  for (int i = 0; i < r->n; i++)
    pu_buf_printf(b, upper ? "W%cX%d, " : "w%cx%d ", r->v[i] % 26 + (upper ? 'A' : 'a'), r->v[i]);
}

static bool holds(const row *r, const int *gram) {
  for (int i = 0; i + NGRAM <= r->n; i++)
    if (memcmp(r->v + i, gram, NGRAM * sizeof *gram) == 0) return true;
  return false;
}

/* Enough different ones? */
static bool tells(const int *gram) {
  int different = 0;
  for (int i = 0; i < NGRAM; i++) {
    bool before = false;
    for (int k = 0; k < i; k++) before |= gram[k] == gram[i];
    different += !before;
  }
  return different >= CONTAM_DIFFERENT;
}

/* The share of an item's n-grams that a text has, and how many are its own. */
static double plain_share(const row *items, int which, const row *text, int common) {
  int own = 0, there = 0;
  const row *x = &items[which];
  for (int i = 0; i + NGRAM <= x->n; i++) {
    row before = {.n = i + NGRAM - 1};
    memcpy(before.v, x->v, (size_t)before.n * sizeof *before.v);
    if (holds(&before, x->v + i) || !tells(x->v + i)) continue;
    int in = 0;
    for (int k = 0; k < RANDOM_ITEMS; k++) in += holds(&items[k], x->v + i);
    if (in > common || 2 * in > RANDOM_ITEMS) continue;
    own++;
    there += holds(text, x->v + i);
  }
  return own > 0 && there > 0 ? (double)there / own : -1;
}

static row random_row(pu_rng *r, int least, int most, int vocabulary) {
  row x = {.n = least + (int)pu_rng_below(r, (uint64_t)(most - least + 1))};
  for (int i = 0; i < x.n; i++) x.v[i] = (int)pu_rng_below(r, (uint64_t)vocabulary);
  return x;
}

static void against_reference(void **state) {
  (void)state;
  pu_rng r;
  pu_rng_seed(&r, 7);
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  for (int round = 0; round < 60; round++) {
    row items[RANDOM_ITEMS], text = random_row(&r, 50, 100, 30);
    int vocabulary = 5 + (int)pu_rng_below(&r, 25), common = 1 + (int)pu_rng_below(&r, 4);
    pu_buf_clear(&b);
    for (int i = 0; i < RANDOM_ITEMS; i++) {
      items[i] = random_row(&r, NGRAM, RANDOM_WORDS, vocabulary);
      pu_buf_puts(&b, "{\"q\": \"");
      put_row(&b, &items[i], true);
      pu_buf_puts(&b, "\"}\n");
      if (i % 3 == 0 && text.n + 20 < 190) { /* a piece of it in the text */
        int from = (int)pu_rng_below(&r, (uint64_t)items[i].n), n = PU_MIN(items[i].n - from, 20);
        memcpy(text.v + text.n, items[i].v + from, (size_t)n * sizeof *text.v);
        text.n += n;
      }
    }
    pu_contam_options o = pu_contam_defaults();
    o.ngram = NGRAM;
    o.common = common;
    o.share = 0.25;
    pu_contam *c = index_of(&o, "r.jsonl", b.data);
    pu_buf_clear(&b);
    put_row(&b, &text, false);
    pu_contam_found f = {0};
    pu_error e;
    assert_ok(pu_contam_check(c, pu_str_of(b.data, b.len), &f, &e), &e);
    size_t expected = 0;
    for (int i = 0; i < RANDOM_ITEMS; i++) {
      double want = plain_share(items, i, &text, common), got = -1;
      for (size_t k = 0; k < f.n; k++)
        if (pu_contam_item_of(c, f.hits[k].item).number == (uint64_t)i + 1) {
          got = f.hits[k].share;
          assert_int_equal(f.hits[k].over, got >= 0.25);
        }
      if (got != want) fail_msg("round %d, item %d: share %g, not %g", round, i, got, want);
      expected += want > 0;
    }
    assert_int_equal(f.n, expected);
    for (size_t k = 1; k < f.n; k++) assert_true(f.hits[k - 1].share >= f.hits[k].share);
    pu_contam_found_free(&f);
    pu_contam_close(c);
  }
  pu_buf_deinit(&b);
}

/* ---- threads ------------------------------------------------------------------------------------------------------
 */

enum { CHECKS = 64 };

typedef struct checks {
  const pu_contam *c;
  uint64_t sums[CHECKS];
} checks;

static void check_some(void *arg, int64_t begin, int64_t end, int worker) {
  checks *k = arg;
  (void)worker;
  pu_contam_found f = {0};
  for (int64_t i = begin; i < end; i++) {
    char text[400];
    pu_error e;
    snprintf(text, sizeof text, "%.*s\n\nWhat happens when you swallow a cherry stone? %d\n\n" ITEM, (int)(3 * i), ITEM,
             (int)i);
    if (pu_contam_check(k->c, pu_str_c(text), &f, &e) != PU_OK) continue;
    uint64_t sum = f.n_over;
    for (size_t h = 0; h < f.n; h++) sum = pu_hash64(&f.hits[h].share, sizeof f.hits[h].share, sum + f.hits[h].item);
    k->sums[i] = sum + 1;
  }
  pu_contam_found_free(&f);
}

static void threads(void **state) {
  (void)state;
  pu_error e;
  pu_pool *pool;
  pu_contam_options o = pu_contam_defaults();
  o.near = true;
  checks one = {index_of(&o, "a.jsonl",
                         "{\"q\": \"" ITEM "\"}\n{\"q\": \"What happens when you swallow a cherry stone?\"}"),
                {0}},
         four = {one.c, {0}};
  check_some(&one, 0, CHECKS, 0);
  assert_ok(pu_pool_create(4, &pool, &e), &e);
  pu_pool_run(pool, CHECKS, 1, check_some, &four);
  pu_pool_free(pool);
  assert_memory_equal(one.sums, four.sums, sizeof one.sums);
  for (int i = 0; i < CHECKS; i++) assert_true(one.sums[i] > 1);
  pu_contam_close((pu_contam *)one.c);
}

static int begin(void **state) {
  (void)state;
  snprintf(folder, sizeof folder, "/tmp/puyu-contam-XXXXXX");
  return mkdtemp(folder) ? 0 : -1;
}

static int end(void **state) {
  (void)state;
  pu_error e;
  return pu_remove_tree(folder, &e);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(planted),
      cmocka_unit_test(shares),
      cmocka_unit_test(chinese),
      cmocka_unit_test(short_items),
      cmocka_unit_test(templates),
      cmocka_unit_test(near_matches),
      cmocka_unit_test(files),
      cmocka_unit_test(cutting),
      cmocka_unit_test(folders_and_errors),
      cmocka_unit_test(against_reference),
      cmocka_unit_test(threads),
      cmocka_unit_test(used_again),
  };
  return cmocka_run_group_tests(tests, begin, end);
}
