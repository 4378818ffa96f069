/* In which charset text is, found out from the bytes of real sentences in each. */
#include "tests/test.h"

#include <iconv.h>
#include <stdlib.h>

#include "src/data/reader.h"

static const char simplified[] =
    "子曰：“学而时习之，不亦说乎？有朋自远方来，不亦乐乎？人不知而不愠，不亦君子乎？”\n"
    "计算机科学是系统性研究信息与计算的理论基础以及它们在计算机系统中如何实现与应用的实用技术的学科。\n";
static const char traditional[] =
    "子曰：「學而時習之，不亦說乎？有朋自遠方來，不亦樂乎？人不知而不慍，不亦君子乎？」\n"
    "臺灣位於亞洲東部，是太平洋西側的島嶼，北面東海，南面南海，西隔海峽與大陸相望，人口約有兩千三百萬。\n";
static const char japanese[] =
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所でニャーニャー"
    "泣いていた事だけは記憶している。\n日本の首都は東京である。\n";
static const char korean[] =
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 천부적으로 이성과 양심을 "
    "부여받았으며 서로 형제애의 정신으로 행동하여야 한다.\n";
static const char russian[] = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива "
                              "по-своему. Всё смешалось в доме Облонских.\n";
static const char french[] =
    "Longtemps, je me suis couché de bonne heure. Parfois, à peine ma bougie éteinte, mes yeux se "
    "fermaient si vite que je n’avais pas le temps de me dire : « Je m’endors. »\n";
static const char german[] =
    "Als Gregor Samsa eines Morgens aus unruhigen Träumen erwachte, fand er sich in seinem Bett "
    "zu einem ungeheueren Ungeziefer verwandelt. Größe, Übermut, süß.\n";
static const char english[] = "It was the best of times, it was the worst of times, it was the age of wisdom.\n";

static const struct {
  const char *name, *iconv, *text;
} cases[] = {
    {"UTF-8", "UTF-8", simplified},
    {"UTF-8", "UTF-8", russian},
    {"UTF-8", "UTF-8", french},
    {"UTF-8", "UTF-8", english},
    {"GB18030", "GB18030", simplified},
    {"GB18030", "GB18030", traditional}, /* as GBK has it */
    {"Big5", "BIG5", traditional},
    {"Shift_JIS", "SHIFT_JIS", japanese},
    {"EUC-JP", "EUC-JP", japanese},
    {"EUC-KR", "EUC-KR", korean},
    {"windows-1251", "CP1251", russian},
    {"windows-1252", "CP1252", french},
    {"windows-1252", "ISO-8859-1", german},
    {"UTF-16LE", "UTF-16LE", simplified},
    {"UTF-16BE", "UTF-16BE", simplified},
    {"UTF-16LE", "UTF-16LE", russian},
    {"UTF-16BE", "UTF-16BE", english},
    {"UTF-16LE", "UTF-16LE", english},
    {"UTF-16BE", "UTF-16BE", japanese},
    {"UTF-16LE", "UTF-16LE", korean},
};

static size_t encode(const char *to, const char *text, size_t len, char *out, size_t cap) {
  iconv_t c = iconv_open(to, "UTF-8");
  assert_true(c != (iconv_t)-1);
  char *from = (char *)(uintptr_t)text, *at = out;
  size_t left = len, room = cap;
  if (iconv(c, &from, &left, &at, &room) == (size_t)-1) fail_msg("%s has not: %.12s", to, from);
  iconv_close(c);
  return cap - room;
}

static void expect(pu_str bytes, const char *hint, const char *name, pu_str text) {
  pu_buf back;
  pu_error e;
  size_t bad;
  const char *found = pu_charset_find(bytes, hint);
  if (strcmp(found, name) != 0) fail_msg("%s is taken for %s: %.*s", name, found, (int)text.len, text.ptr);
  pu_buf_init(&back, 1 << 20);
  assert_ok(pu_charset_convert(bytes, found, &back, &bad, &e), &e);
  assert_int_equal(bad, 0);
  assert_int_equal(back.len, text.len);
  assert_memory_equal(back.data, text.ptr, text.len);
  pu_buf_deinit(&back);
}

static void test_found(void **state) {
  (void)state;
  char bytes[4096];
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    pu_str text = pu_str_c(cases[i].text);
    size_t len = encode(cases[i].iconv, text.ptr, text.len, bytes, sizeof bytes);
    expect(pu_str_of(bytes, len), NULL, cases[i].name, text);
    expect(pu_str_of(bytes, len), "utf-8", cases[i].name, text); /* a header may be wrong */
  }
}

/* A hundred bytes of text are enough, wherever they begin and end; a page has ASCII around it. */
static void test_pieces(void **state) {
  (void)state;
  char bytes[4096], page[512];
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    pu_str text = pu_str_c(cases[i].text);
    bool wide = strncmp(cases[i].name, "UTF-16", 6) == 0;
    for (size_t from = 0; from + 100 < text.len; from += 7) {
      while (((uint8_t)text.ptr[from] & 0xC0) == 0x80) from++;
      size_t to = PU_MIN(from + 100, text.len);
      while (to < text.len && ((uint8_t)text.ptr[to] & 0xC0) == 0x80) to++;
      int n = snprintf(page, sizeof page, "%s%.*s%s", wide ? "\n" : "<p class=\"a\">\n", (int)(to - from),
                       text.ptr + from, wide ? "\n" : "</p>\n");
      size_t len = encode(cases[i].iconv, page, (size_t)n, bytes, sizeof bytes);
      pu_str piece = pu_str_of(page, (size_t)n);
      if (pu_charset_ascii(piece) && !wide) continue;
      expect(pu_str_of(bytes, len), NULL, cases[i].name, piece);
    }
  }
}

/* Few bytes leave it open, and the header says it; marks say it before all else. */
static void test_hints(void **state) {
  (void)state;
  char bytes[64];
  size_t len = encode("BIG5", "中文", 6, bytes, sizeof bytes);
  expect(pu_str_of(bytes, len), "big5", "Big5", pu_str_c("中文"));
  len = encode("GBK", "中文", 6, bytes, sizeof bytes);
  expect(pu_str_of(bytes, len), "gb2312", "GB18030", pu_str_c("中文"));
  len = encode("KOI8-R", "Привет", 12, bytes, sizeof bytes);
  expect(pu_str_of(bytes, len), "koi8-r", "KOI8-R", pu_str_c("Привет"));
  assert_string_equal(pu_charset_find(pu_str_c("\xEF\xBB\xBFx"), "big5"), "UTF-8");
  assert_string_equal(pu_charset_find(pu_str_of("\xFF\xFEx\0", 4), "big5"), "UTF-16LE");
  assert_string_equal(pu_charset_find(pu_str_of("\xFE\xFF\0x", 4), "big5"), "UTF-16BE");
  assert_string_equal(pu_charset_find(pu_str_c("plain"), NULL), "UTF-8");
  assert_string_equal(pu_charset_find(pu_str_c(""), NULL), "UTF-8");
  assert_null(pu_charset_known("no such charset"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_found),
      cmocka_unit_test(test_pieces),
      cmocka_unit_test(test_hints),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
