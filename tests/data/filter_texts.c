/* Filters that rewrite texts or look them up: what normalising and masking leave, and the lists of words, domains and
 * languages. */
#include "tests/data/filter_apply.h"

#include <stdlib.h>
#include <unistd.h>

typedef struct pair {
  const char *in, *out; /* out NULL: as it was */
} pair;

static void check(const char *filter, const char *type, const pair *pairs, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const char *want = pairs[i].out ? pairs[i].out : pairs[i].in;
    pu_doc_clear(&doc);
    doc.type = pu_str_c(type);
    pu_buf_puts(&doc.text, pairs[i].in);
    apply_to_doc(filter);
    if (strcmp(doc.text.data, want) != 0) fail_msg("'%s' became '%s', not '%s'", pairs[i].in, doc.text.data, want);
  }
}

/* ---- normalise ---- */

static void test_characters(void **state) {
  (void)state;
  static const pair pairs[] = {
      {"a\rb\r\nc\x0B"
       "d\x0C"
       "e\xC2\x85"
       "f\xE2\x80\xA8g\xE2\x80\xA9h",
       "a\nb\nc\nd\ne\nf\ng\nh"},
      {"a\x01\x1B\x7F\xC2\x9F"
       "b\tc",
       "ab\tc"},
      {"a\xC2\xA0"
       "b\xE3\x80\x80"
       "c\xE2\x80\xAF"
       "d",
       "a b c d"},
      {"\xE3\x80\x80\xE3\x80\x80段落", "段落"},
      {"a\xE2\x80\x8B"
       "b\xEF\xBB\xBF"
       "c\xC2\xAD"
       "d\xE2\x80\xAE"
       "e",
       "abcde"},
      {"ab\xE2\x80\x8D"
       "c汉\xE2\x80\x8C字",
       "abc汉字"},
      {"क्\xE2\x80\x8Dष 👩\xE2\x80\x8D🚀 می\xE2\x80\x8Cخواهم", NULL}, /* joiners that mean something */
      {"ﬁre ﬂy oﬃce ﬅ", "fire fly office st"},
      {"ｶﾞｷﾞﾊﾟｱｰ", "ガギパアー"},
      {"ﾡﾢ", "\xE1\x84\x80\xE1\x84\x81"},
      {"⼀⼆ ﹐﹖ ︵字︶", "一二 ,? (字)"},
      {"ﺍﻠﺳ", "الس"},
      {"x² ① ½ ℃ Ⅳ … ™ ﷺ", NULL}, /* these mean something */
      {"Ａ１，（字）：", NULL},
      {"e\xCC\x81 A\xCC\x8A o\xCC\x82\xCC\xA3", "é Å ộ"},
      {"か\xE3\x82\x99は\xE3\x82\x9A", "がぱ"},
      {"\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", "한"},
      {"\xE2\x84\xAB \xE2\x84\xA6 \xEF\xA4\x80", "Å Ω 豈"},
      {"ệ Ǆ Привет й", "ệ DŽ Привет й"},
      {"𠀀𪚥 emoji 😀 ", "𠀀𪚥 emoji 😀"},
  };
  check("normalise", "text", pairs, PU_COUNT(pairs));
  apply("normalise", "a\xE2\x80\x8B"
                     "b\x01");
  assert_true(value("normalise", "removed_characters") == 2);
  assert_true(value("normalise", "changed") == 1);
  apply("normalise", "plain");
  assert_true(value("normalise", "changed") == 0);
}

static void test_marks(void **state) {
  (void)state;
  pu_doc_clear(&doc); /* a mark after a mark, without end: bounded work, and it stays what it is */
  pu_buf_puts(&doc.text, "e");
  for (int i = 0; i < 100000; i++) pu_buf_puts(&doc.text, i % 2 ? "\xCC\xA3" : "\xCC\x81");
  apply_to_doc("normalise");
  assert_true(pu_utf8_valid(pu_str_of(doc.text.data, doc.text.len)));
  assert_true(doc.text.len > 190000);
  apply("normalise", "\xCC\x81 at the beginning\n\xCC\x81");
  assert_true(pu_utf8_valid(pu_str_of(doc.text.data, doc.text.len)));
}

static void test_mojibake(void **state) {
  (void)state;
  static const pair pairs[] = {
      {"fÃ¼nf cafÃ©s", "fünf cafés"},
      {"itâ€™s â€œsoâ€\xC2\x9D â€” â€¦", "it’s “so” — …"},
      {"ä¸­æ–‡", "中文"},                                           /* two characters of three bytes each */
      {"\xC3\xA4\xC2\xB8\xC2\xAD\xC3\xA6\xC2\x96\xC2\x87", "中文"}, /* by Latin-1 */
      {"CafÃƒÂ©", "Café"},                                          /* twice */
      {"Â© 2020", "© 2020"},
      {"cafÃ©, but ни", "café, but ни"},
      {"fünf Stück", NULL},
      {"NÃO é Ângela", NULL},
      {"dit-il « à » et l’été’", NULL},
      {"il a dit «\xC2\xA0là\xC2\xA0»", "il a dit « là »"},
      {"Ã¼ and a lone é", NULL}, /* not all of the line is */
      {"汉字 ÅÄÖ åäö", NULL},
  };
  check("normalise", "text", pairs, PU_COUNT(pairs));
  apply("normalise", "one\nfÃ¼nf\ncafÃ©");
  assert_true(value("normalise", "mended_lines") == 2);
}

static void test_spaces(void **state) {
  (void)state;
  static const pair text[] = {
      {"\n\n a  b \n\n\n\nc\t\n", " a b\n\nc"},
      {"    indented  code\n\n\n    more", "    indented  code\n\n    more"},
      {"| a  | b |\n|----|---|", NULL},
      {"```\nint  x;\n\n\n  ﬁ\xE2\x80\x8B Ａ  \n```\n  after  it",
       "```\nint  x;\n\n\n  ﬁ\xE2\x80\x8B Ａ  \n```\n  after it"},
      {"~~~\r\na\x01  b\r\n~~~", "~~~\na  b\n~~~"},
      {" \n\t\n", ""},
  };
  static const pair markdown[] = {{"a line  \nbroken   \n", "a line  \nbroken"}};
  static const pair table[] = {{"a   b\nc   d ", "a   b\nc   d"}};
  static const pair code[] = {{"int  x;  \r\n\r\n\r\n\tﬁ\xC2\xA0\n", "int  x;  \n\n\n\tﬁ\xC2\xA0\n"}};
  check("normalise", "text", text, PU_COUNT(text));
  check("normalise", "markdown", markdown, PU_COUNT(markdown));
  check("normalise", "table", table, PU_COUNT(table));
  check("normalise", "code", code, PU_COUNT(code));
}

static void test_folding(void **state) {
  (void)state;
  static const pair half[] = {{"ＡＢｃ１２，。！ ｶ", "ABc12，。！ ｶ"}};
  static const pair simplified[] = {{"漢語與電腦，頭髮與發展。乾坤、著名", "汉语与电脑，头发与发展。乾坤、著名"},
                                    {"简体字还是简体字", NULL}};
  static const pair traditional[] = {{"汉语与电脑，发展体育", "漢語與電腦，發展體育"}, {"公里、皇后、干", NULL}};
  options = (pu_filter_options){.width = PU_WIDTH_HALF};
  check("normalise", "text", half, PU_COUNT(half));
  options = (pu_filter_options){.han = PU_HAN_SIMPLIFIED};
  check("normalise", "text", simplified, PU_COUNT(simplified));
  options = (pu_filter_options){.han = PU_HAN_TRADITIONAL};
  check("normalise", "text", traditional, PU_COUNT(traditional) - 1);
  options = (pu_filter_options){.nfkc = true, .mask = true};
}

/* Once normalised, a text stays as it is. */
static void test_again(void **state) {
  (void)state;
  static const char *const pieces[] = {
      "a",  " ",  "\n", "字",   "　",           "ﬁ", "e\xCC\x81",    "\xCC\xA3",    "ｶ", "ﾞ", "Ã©", "â€", "\n```\n",
      "\r", "\t", "|",  "    ", "\xE2\x80\x8D", "é", "\xE1\x84\x92", "\xE1\x85\xA1"};
  pu_rng r;
  pu_rng_seed(&r, 3);
  for (int round = 0; round < 3000; round++) {
    static char once[2000];
    pu_doc_clear(&doc);
    for (size_t i = pu_rng_below(&r, 60); i > 0; i--)
      pu_buf_puts(&doc.text, pieces[pu_rng_below(&r, PU_COUNT(pieces))]);
    apply_to_doc("normalise");
    snprintf(once, sizeof once, "%s", doc.text.data);
    assert_true(pu_utf8_valid(pu_str_c(once)));
    apply("normalise", once);
    if (value("normalise", "mended_lines") > 0) continue; /* what was joined may look like mojibake only then */
    if (strcmp(doc.text.data, once) != 0) fail_msg("'%s' became '%s' the second time", once, doc.text.data);
  }
}

/* ---- mask ---- */

static void test_mask(void **state) {
  (void)state;
  static const pair pairs[] = {
      {"Write to jane.doe+x@mail.example.com, or (a_b@example.org).", "Write to [EMAIL], or ([EMAIL])."},
      {"有什么问题请写到我的邮箱：zhang_san@example.com.cn。", "有什么问题请写到我的邮箱：[邮箱]。"},
      {"@name a@b user@host 3@4.5 x@y..com a@b.c1", NULL},
      {"手机13812345678，或138-1234-5678、+86 138 1234 5678。", "手机[电话]，或[电话]、[电话]。"},
      {"电话010-62345678，(021) 6123-4567，（0755）26543210转3", "电话[电话]，[电话]，[电话]转3"},
      {"热线400-820-8820", "热线[电话]"},
      {"Call (555) 234-5678, 555-234-5678, 1-555-234-5678 or +44 20 7946 0958.",
       "Call [PHONE], [PHONE], [PHONE] or [PHONE]."},
      {"12812345678 在0138123456789 id=13812345678 1381234567 a13812345678 13812345678b 0.13812345678", NULL},
      {"1990-2000, 2024-01-02, 12:30:45, 1,234,567, 3.14159265358979, +5 points, +1 2", NULL},
      {"身份证11010519491231002X，440524188001010014", "身份证[证件号]，[证件号]"},
      {"身份证110105194912310021，11010519491331002X，991010519491231002X", NULL}, /* check digit, month, length */
      {"SSN 123-45-6789 not 000-45-6789, 666-45-6789, 123-00-6789",
       "SSN [ID NUMBER] not 000-45-6789, 666-45-6789, 123-00-6789"},
      {"4111111111111111 and 4111-1111-1111-1111, 3782 822463 10005", "[CARD NUMBER] and [CARD NUMBER], [CARD NUMBER]"},
      {"卡号6222020000000000006。", NULL}, /* Luhn says no */
      {"卡号6222020000000000004。", NULL},
      {"4111111111111112, 1111111111111117, 41111111111111111", NULL},
      {"IBAN GB82 WEST 1234 5698 7654 32, DE89370400440532013000.", "IBAN [CARD NUMBER], [CARD NUMBER]."},
      {"GB83 WEST 1234 5698 7654 32, AB12, ISO8601", NULL},
      {"203.0.113.42 and 8.8.8.8:53", "[IP ADDRESS] and [IP ADDRESS]:53"},
      {"10.0.0.1 127.0.0.1 192.168.1.1 172.16.0.9 1.2.3 300.1.1.1 1.2.3.4.5 v1.2.3.4 01.2.3.4", NULL},
      {"at 2001:db8:85a3::8a2e:370:7334, ::1, std::vector, a::b, 12:30:45, fe80::1:2:3",
       "at [IP ADDRESS], ::1, std::vector, a::b, 12:30:45, fe80::1:2:3"},
      {"key AKIAIOSFODNN7EXAMPLE, ghp_abcdefghijklmnopqrstuvwxyz0123456789.", "key [KEY], [KEY]."},
      {"AKIAIOSFODNN7EXAMPL xAKIAIOSFODNN7EXAMPLE AKIAIOSFODNN7EXAMPLES sk-some-name-of-a-class-in-a-sheet", NULL},
      {"sk-aB3dEfGhIjKlMnOpQrStUvWx01 hf_abcdefghijklmnopqrstuvwxyzABCDEFGH", "[KEY] [KEY]"},
      {"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N", "[KEY]"},
      {"-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nafter", "[KEY]\nafter"},
      {"-----BEGIN PRIVATE KEY-----\n-----END 字字字字字字字字字字字字字字字字字字字字字", "[密钥]字字"},
      {"-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----", NULL},
      {"-----BEGIN PRIVATE KEY----- is how it begins", NULL},
  };
  check("mask", "text", pairs, PU_COUNT(pairs));
  apply("mask", "a@example.com, b@example.com, 8.8.8.8");
  assert_true(value("mask", "emails") == 2 && value("mask", "ip_addresses") == 1 && value("mask", "keys") == 0);
  options.mask = false;
  apply("mask", "a@example.com");
  assert_true(value("mask", "emails") == 1);
  assert_string_equal(doc.text.data, "a@example.com");
  options.mask = true;
}

/* Numbers made with their check digits are found, and with any other one they are not. */
static void test_check_digits(void **state) {
  (void)state;
  pu_rng r;
  pu_rng_seed(&r, 5);
  for (int round = 0; round < 300; round++) {
    char id[32], text[64];
    snprintf(id, sizeof id, "%02d%04d%04d%02d%02d%03d", 11 + (int)pu_rng_below(&r, 50), (int)pu_rng_below(&r, 10000),
             1900 + (int)pu_rng_below(&r, 120), 1 + (int)pu_rng_below(&r, 12), 1 + (int)pu_rng_below(&r, 28),
             (int)pu_rng_below(&r, 1000));
    int sum = 0, found = 0; /* ISO 7064: the weights are powers of two, the place of the check digit first */
    for (int k = 0, weight = 1; k <= 17; k++, weight = weight * 2 % 11)
      if (k > 0) sum += weight * (id[17 - k] - '0');
    int right = (12 - sum % 11) % 11;
    for (int digit = 0; digit <= 10; digit++) {
      snprintf(text, sizeof text, "号%.17s%c。", id, digit == 10 ? 'X' : '0' + digit);
      apply("mask", text);
      found += value("mask", "id_numbers") == 1;
      assert_int_equal(value("mask", "id_numbers") == 1, digit == right);
    }
    assert_int_equal(found, 1);
    snprintf(id, sizeof id, "62%08d%05d", (int)pu_rng_below(&r, 100000000), (int)pu_rng_below(&r, 100000));
    found = 0;
    for (int digit = 0; digit <= 9; digit++) {
      snprintf(text, sizeof text, "card %s%d.", id, digit);
      apply("mask", text);
      found += value("mask", "cards") == 1;
    }
    assert_int_equal(found, 1);
  }
}

/* ---- lists ---- */

static const char *list(const char *lines) {
  static char path[64];
  strcpy(path, "/tmp/puyu-list-XXXXXX");
  int fd = mkstemp(path);
  assert_true(fd >= 0);
  assert_int_equal(write(fd, lines, strlen(lines)), strlen(lines));
  close(fd);
  return path;
}

static double hits(const char *lines, const char *text) {
  const char *path = list(lines);
  options.words = (pu_strs){&path, 1};
  apply("words", text);
  unlink(path);
  options.words = (pu_strs){0};
  return value("words", "hits");
}

static void test_words(void **state) {
  (void)state;
  assert_true(hits("# why\n\n ass \n", "The class of an ASS, ass-like; assess.") == 2);
  assert_true(hits("ass\n", "No such word.") == 0);
  assert_true(hits("赌博\n博彩\n", "网上赌博彩票") == 2); /* they overlap */
  assert_true(hits("she\nhe\nhers\n", "hers and she") == 2);
  assert_true(hits("two words\n", "Two Words, two  words") == 1);
  assert_true(hits("STRAßE\nпривет\n", "straße ПРИВЕТ Привет") == 2); /* each in one case; mixed cases of ASCII only */
  assert_true(hits("c++\n", "C++ and c++17") == 2);
  assert_true(hits("\xEF\xBB\xBF"
                   "bad\r\nworse\r\n",
                   "bad and worse") == 2);
  assert_true(isnan(hits("# nothing\n", "a word")));
  assert_true(hits("bad\n", "good bad good good") == 1 && value("words", "per_thousand") == 250);
  const char *missing = "/nonexistent/list";
  pu_error e;
  void *shared;
  options.words = (pu_strs){&missing, 1};
  assert_int_equal(pu_filter_find("words")->open(&options, &shared, &e), PU_ERR_IO);
  assert_non_null(strstr(e.msg, missing));
  options.words = (pu_strs){0};
}

/* All patterns at all places, against a search of each alone. */
static void test_match(void **state) {
  (void)state;
  pu_rng r;
  pu_rng_seed(&r, 9);
  for (int round = 0; round < 300; round++) {
    pu_buf lines, text;
    size_t want = 0;
    pu_buf_init(&lines, 1 << 16);
    pu_buf_init(&text, 1 << 16);
    char v[6][8];
    size_t n = 1 + pu_rng_below(&r, 6);
    for (size_t i = 0; i < n; i++) {
      size_t len = 1 + pu_rng_below(&r, 4);
      for (size_t k = 0; k < len; k++) v[i][k] = "-+="[pu_rng_below(&r, 3)]; /* no letters: no borders of words */
      v[i][len] = '\0';
      pu_buf_printf(&lines, "%s\n", v[i]);
    }
    for (size_t k = pu_rng_below(&r, 200); k > 0; k--) pu_buf_putc(&text, "-+=."[pu_rng_below(&r, 4)]);
    pu_buf_putc(&text, '\0');
    for (size_t at = 1; at < text.len; at++) { /* words that end together count once */
      bool ends = false;
      for (size_t i = 0; i < n; i++)
        ends |= at >= strlen(v[i]) && memcmp(text.data + at - strlen(v[i]), v[i], strlen(v[i])) == 0;
      want += ends;
    }
    assert_true(hits(lines.data, text.data) == (double)want);
    pu_buf_deinit(&lines);
    pu_buf_deinit(&text);
  }
}

static double listed(const char *lines, const char *url) {
  const char *path = list(lines);
  options.domains = (pu_strs){&path, 1};
  pu_doc_clear(&doc);
  doc.url = pu_str_c(url);
  apply_to_doc("domains");
  unlink(path);
  options.domains = (pu_strs){0};
  return value("domains", "listed");
}

static void test_domains(void **state) {
  (void)state;
  const char *lines =
      "# bad ones\nbad.example\n*.Worse.example # why\n0.0.0.0 ads.example\nhttps://x.example/path\n.co.bad\n";
  static const char *const in[] = {"http://bad.example/",
                                   "https://www.BAD.example:8080/x?y",
                                   "http://a.b.worse.example",
                                   "https://u:p@ads.example./x",
                                   "x.example",
                                   "http://a.co.bad#z"};
  static const char *const out[] = {"http://notbad.example/", "http://bad.example.org/", "http://example/bad.example",
                                    "http://bad", "http://co.uk/?u=bad.example"};
  for (size_t i = 0; i < PU_COUNT(in); i++)
    if (listed(lines, in[i]) != 1) fail_msg("not listed: %s", in[i]);
  for (size_t i = 0; i < PU_COUNT(out); i++)
    if (listed(lines, out[i]) != 0) fail_msg("listed: %s", out[i]);
  assert_true(isnan(listed(lines, "")));
  assert_true(isnan(listed("# none\n", "http://bad.example/")));
}

static void test_languages(void **state) {
  (void)state;
  static const char *const asked[] = {"zh"}, *const unknown[] = {"klingon"};
  const char *english =
      "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of "
      "foolishness, it was the epoch of belief.";
  apply("language", english);
  assert_memory_equal(doc.lang.ptr, "en", 3);
  assert_true(value("language", "score") > 0.65 && isnan(value("language", "wanted")));
  options.languages = (pu_strs){(const char **)asked, 1};
  apply("language", english);
  assert_true(value("language", "wanted") == 0);
  apply("language", "滚滚长江东逝水，浪花淘尽英雄。是非成败转头空，青山依旧在，几度夕阳红。");
  assert_true(value("language", "wanted") == 1);
  apply("language", "123");
  assert_true(value("language", "wanted") == 0 && isnan(value("language", "score")));
  pu_error e;
  void *shared;
  options.languages = (pu_strs){(const char **)unknown, 1};
  assert_int_equal(pu_filter_find("language")->open(&options, &shared, &e), PU_ERR_USAGE);
  assert_non_null(strstr(e.msg, "klingon"));
  options.languages = (pu_strs){0};
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_characters), cmocka_unit_test(test_marks),        cmocka_unit_test(test_mojibake),
      cmocka_unit_test(test_spaces),     cmocka_unit_test(test_folding),      cmocka_unit_test(test_again),
      cmocka_unit_test(test_mask),       cmocka_unit_test(test_check_digits), cmocka_unit_test(test_words),
      cmocka_unit_test(test_match),      cmocka_unit_test(test_domains),      cmocka_unit_test(test_languages),
  };
  return cmocka_run_group_tests(tests, begin, end);
}
