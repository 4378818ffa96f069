/* Which language a text is in: sentences of each language, scripts, mixed texts, borders, odd bytes, and the finder
 * against a plain computation. */
#include "tests/test.h"

#include <math.h>
#include <string.h>

#include "src/data/lang/lang.h"
#include "src/data/lang/model.h"

/* Written for this test. */
/* clang-format does not agree with itself on the width of some scripts: */
/* clang-format off */
static const struct {
  const char *lang, *text;
} samples[] = {
    {"en",
     "The old bridge was closed last winter because the river had washed away part of its foundations, and nobody "
     "in the village knew when the workers would come back to repair it."},
    {"de", "Die alte Brücke wurde im letzten Winter gesperrt, weil der Fluss einen Teil ihrer Fundamente weggespült "
           "hatte, und niemand im Dorf wusste, wann die Arbeiter zurückkommen würden."},
    {"fr", "Le vieux pont a été fermé l'hiver dernier parce que la rivière avait emporté une partie de ses fondations, "
           "et personne au village ne savait quand les ouvriers reviendraient."},
    {"es", "El viejo puente se cerró el invierno pasado porque el río se había llevado una parte de sus cimientos, y "
           "nadie en el pueblo sabía cuándo volverían los obreros para repararlo."},
    {"it", "Il vecchio ponte è stato chiuso lo scorso inverno perché il fiume aveva portato via una parte delle sue "
           "fondamenta, e nessuno nel paese sapeva quando sarebbero tornati gli operai."},
    {"pt", "A velha ponte foi fechada no inverno passado porque o rio tinha levado uma parte das suas fundações, e "
           "ninguém na aldeia sabia quando é que os trabalhadores voltariam para a reparar."},
    {"nl", "De oude brug werd vorige winter afgesloten omdat de rivier een deel van de fundering had weggespoeld, en "
           "niemand in het dorp wist wanneer de arbeiders terug zouden komen om hem te herstellen."},
    {"sv", "Den gamla bron stängdes i vintras eftersom floden hade spolat bort en del av grunden, och ingen i byn "
           "visste när arbetarna skulle komma tillbaka för att laga den."},
    {"da", "Den gamle bro blev lukket sidste vinter, fordi floden havde skyllet en del af fundamentet væk, og ingen i "
           "landsbyen vidste, hvornår arbejderne ville komme tilbage for at reparere den."},
    {"pl", "Stary most zamknięto zeszłej zimy, ponieważ rzeka podmyła część jego fundamentów, i nikt we wsi nie "
           "wiedział, kiedy robotnicy wrócą, żeby go naprawić."},
    {"cs", "Starý most byl minulou zimu uzavřen, protože řeka odplavila část jeho základů, a nikdo ve vesnici nevěděl, "
           "kdy se dělníci vrátí, aby ho opravili."},
    {"fi", "Vanha silta suljettiin viime talvena, koska joki oli vienyt mukanaan osan sen perustuksista, eikä kukaan "
           "kylässä tiennyt, milloin työmiehet palaisivat korjaamaan sen."},
    {"hu", "A régi hidat tavaly télen lezárták, mert a folyó elmosta az alapjának egy részét, és a faluban senki sem "
           "tudta, mikor jönnek vissza a munkások, hogy megjavítsák."},
    {"tr", "Eski köprü geçen kış kapatıldı, çünkü nehir temellerinin bir kısmını alıp götürmüştü ve köyde hiç kimse "
           "işçilerin onu onarmak için ne zaman geri döneceğini bilmiyordu."},
    {"vi",
     "Cây cầu cũ đã bị đóng vào mùa đông năm ngoái vì dòng sông đã cuốn trôi một phần móng cầu, và không ai trong "
     "làng biết khi nào những người thợ sẽ quay lại sửa chữa nó."},
    {"id", "Jembatan tua itu ditutup pada musim hujan yang lalu karena sungai telah menghanyutkan sebagian fondasinya, "
           "dan tidak seorang pun di desa tahu kapan para pekerja akan kembali untuk memperbaikinya."},
    {"ru",
     "Старый мост закрыли прошлой зимой, потому что река размыла часть его фундамента, и никто в деревне не знал, "
     "когда рабочие вернутся, чтобы его починить."},
    {"uk", "Старий міст закрили минулої зими, бо річка розмила частину його фундаменту, і ніхто в селі не знав, коли "
           "робітники повернуться, щоб його полагодити."},
    {"bg", "Старият мост беше затворен миналата зима, защото реката беше отнесла част от основите му, и никой в селото "
           "не знаеше кога работниците ще се върнат, за да го поправят."},
    {"ar",
     "أُغلق الجسر القديم في الشتاء الماضي لأن النهر جرف جزءا من أساساته، ولم يكن أحد في القرية يعرف متى سيعود العمال "
     "لإصلاحه."},
    {"fa", "پل قدیمی زمستان گذشته بسته شد، چون رودخانه بخشی از پایه‌های آن را برده بود و هیچ کس "
           "در "
           "روستا "
           "نمی‌دانست "
           "کارگران چه "
           "زمانی برای تعمیر آن برمی‌گردند."},
    {"hi", "पुराना पुल पिछली सर्दियों में बंद कर दिया गया था क्योंकि नदी उसकी नींव का एक हिस्सा बहा ले गई थी, और गाँव में "
           "किसी को नहीं पता था कि मज़दूर कब लौटेंगे।"},
    {"zh", "去年冬天，河水冲走了桥墩的一部分，那座老桥就关闭了，村里没有人知道工人们什么时候会回来修理。"},
    {"zh-Hant", "去年冬天，河水沖走了橋墩的一部分，那座老橋就關閉了，村裡沒有人知道工人們什麼時候會回來修理。"},
    {"ja", "去年の冬、川が土台の一部を流してしまったため、その古い橋は閉鎖され、村の誰も作業員がいつ戻ってくるのか知ら"
           "なかった。"},
    {"ko", "지난겨울 강물이 기초의 일부를 쓸어 가는 바람에 그 낡은 다리는 폐쇄되었고, 마을 사람 누구도 일꾼들이 언제 "
           "돌아올지 몰랐다."},
    {"th", "สะพานเก่าถูกปิดเมื่อฤดูหนาวที่แล้วเพราะแม่น้ำพัดพาฐานรากบางส่วนไป และไม่มีใครในหมู่บ้านรู้ว่าคนงานจะกลับมาเมื่อไร"},
    {"el", "Η παλιά γέφυρα έκλεισε τον περασμένο χειμώνα επειδή το ποτάμι είχε παρασύρει ένα μέρος των θεμελίων της."},
    {"he", "הגשר הישן נסגר בחורף שעבר משום שהנהר סחף חלק מיסודותיו, ואיש בכפר לא ידע מתי יחזרו הפועלים לתקן אותו."},
};
/* clang-format on */

static pu_lang_guess first(pu_str text) {
  pu_lang_guess g;
  assert_int_equal(pu_lang_find(text, &g, 1), 1);
  return g;
}

static pu_str sample(const char *lang) {
  for (size_t i = 0; i < PU_COUNT(samples); i++)
    if (strcmp(samples[i].lang, lang) == 0) return pu_str_c(samples[i].text);
  fail_msg("no sample of %s", lang);
  return pu_str_c("");
}

/* What must hold of any answer. */
static size_t find(pu_str text, pu_lang_guess *g, size_t max) {
  size_t n = pu_lang_find(text, g, max);
  double all = 0;
  assert_true(n <= max && (n > 0 || max == 0));
  for (size_t i = 0; i < n; i++) {
    assert_true(g[i].share > 0 && g[i].share <= 1 + 1e-9);
    assert_true(g[i].score >= 0 && g[i].score <= 1 + 1e-6);
    assert_true(i < 2 || g[i - 1].share >= g[i].share);
    all += g[i].share;
  }
  if (n) assert_true(fabs(all - 1) < 1e-9);
  return n;
}

static void test_samples(void **state) {
  (void)state;
  for (size_t i = 0; i < PU_COUNT(samples); i++) {
    pu_lang_guess g = first(pu_str_c(samples[i].text));
    if (strcmp(g.lang, samples[i].lang) != 0) fail_msg("%s is taken for %s (%.2f)", samples[i].lang, g.lang, g.score);
    assert_true(g.score > 0.7);
  }
}

static void test_names(void **state) {
  (void)state;
  const char *const *names = pu_lang_names();
  size_t n = 0;
  for (; names[n]; n++)
    for (size_t i = 0; i < n; i++) assert_string_not_equal(names[i], names[n]);
  assert_true(n > 60);
  for (size_t i = 0; i < PU_COUNT(samples); i++) {
    size_t k = 0;
    while (names[k] && strcmp(names[k], samples[i].lang) != 0) k++;
    assert_non_null(names[k]);
  }
}

/* Languages that no model knows, of several families. */
static void test_unknown(void **state) {
  (void)state;
  static const char *const texts[] = {
      "Daraja la zamani lilifungwa majira ya baridi yaliyopita kwa sababu mto ulikuwa umebomoa sehemu ya msingi wake, "
      "na hakuna mtu kijijini aliyejua ni lini mafundi wangerudi kulitengeneza.",
      "Ibhuloho elidala lavalwa ebusika obedlule ngoba umfula wawugugule ingxenye yesisekelo salo, futhi akekho umuntu "
      "emzaneni owayazi ukuthi abasebenzi babezobuya nini bezolilungisa.",
      "Isinara ang lumang tulay noong nakaraang taglamig dahil tinangay ng ilog ang bahagi ng pundasyon nito, at "
      "walang nakakaalam sa nayon kung kailan babalik ang mga manggagawa upang ayusin ito.",
      "Buundadii hore waa la xiray jiilaalkii hore sababtoo ah webigu wuxuu qaaday qayb ka mid ah aasaaskeeda, cidna "
      "tuulada kama ogeyn goorta shaqaalaha ay soo noqon doonaan si ay u dayactiraan.",
  };
  for (size_t i = 0; i < PU_COUNT(texts); i++) {
    pu_lang_guess g = first(pu_str_c(texts[i]));
    if (strcmp(g.lang, "und") != 0) fail_msg("%s: %s (%.2f)", texts[i], g.lang, g.score);
  }
  for (const char *const *name = pu_lang_names(); *name; name++) assert_string_not_equal(*name, "und");
}

static void test_nothing_to_tell(void **state) {
  (void)state;
  static const char *const texts[] = {"", " \n\n", "1234 5678 90", "+++ --- ***", "a", "\xff\xfe\x80", "\xe4\xbd"};
  for (size_t i = 0; i < PU_COUNT(texts); i++) {
    pu_lang_guess g = first(pu_str_c(texts[i]));
    assert_string_equal(g.lang, "und");
    assert_true(g.share == 1 && g.score < 0.5);
  }
  pu_lang_guess g;
  assert_int_equal(pu_lang_find(sample("en"), &g, 0), 0);
  assert_string_equal(first(pu_str_of("ab\0cd\0ef\0gh", 11)).lang, first(pu_str_c("ab cd ef gh")).lang);
}

/* Kana tells Japanese; Han alone does where the rest of the text is. */
static void test_han(void **state) {
  (void)state;
  static const struct {
    const char *lang, *text;
  } rows[] = {
      {"ja", "これはほんです。"},
      {"ja", "東京都の人口統計について"},
      {"zh", "这个软件的用户界面支持多种语言，详情请参阅说明书。"},
      {"zh-Hant", "這個軟體的使用者介面支援多種語言，詳情請參閱說明書。"},
      {"zh", "日本的「の」字很常见，这里只是说明一下这个现象而已，并没有别的意思。"},
      {"zh", "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。"},
      {"zh-Hant", "白日依山盡，黃河入海流。欲窮千里目，更上一層樓。"},
  };
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    pu_lang_guess g = first(pu_str_c(rows[i].text));
    if (strcmp(g.lang, rows[i].lang) != 0) fail_msg("%s: %s", rows[i].text, g.lang);
  }
  pu_buf b;
  pu_buf_init(&b, 1 << 16);
  pu_buf_puts(
      &b, "東京都庁舎建設計画概要説明資料目次一覧表東京都庁舎建設計画概要説明資料目次一覧表東京都庁舎建設計画概要\n");
  for (int i = 0; i < 6; i++) pu_buf_printf(&b, "%s\n", sample("ja").ptr);
  pu_lang_guess g[4];
  assert_int_equal(find(pu_str_of(b.data, b.len), g, 4), 1);
  assert_string_equal(g[0].lang, "ja");
  pu_buf_deinit(&b);
}

static void repeat(pu_buf *b, const char *lang, int times) {
  for (int i = 0; i < times; i++) pu_buf_printf(b, "%s\n", sample(lang).ptr);
}

static void test_mixed(void **state) {
  (void)state;
  pu_buf b;
  pu_lang_guess g[4];
  pu_buf_init(&b, 1 << 20);
  repeat(&b, "fr", 6); /* paragraphs of one script */
  repeat(&b, "de", 3);
  assert_int_equal(find(pu_str_of(b.data, b.len), g, 4), 2);
  assert_string_equal(g[0].lang, "fr");
  assert_string_equal(g[1].lang, "de");
  assert_true(fabs(g[1].share - 1.0 / 3) < 0.06);
  assert_int_equal(find(pu_str_of(b.data, b.len), g, 1), 1);
  assert_true(g[0].share == 1);
  pu_buf_clear(&b); /* two scripts, line by line */
  for (int i = 0; i < 10; i++) {
    repeat(&b, "en", 1);
    repeat(&b, "ru", 1);
  }
  assert_int_equal(find(pu_str_of(b.data, b.len), g, 4), 2);
  assert_true(fabs(g[0].share - 0.5) < 0.1);
  pu_buf_clear(&b); /* names and terms of another script are part of the text */
  for (int i = 0; i < 5; i++)
    pu_buf_puts(&b, "我们用 Python 和 PyTorch 写程序，然后把它放到服务器上运行，结果很好。\n");
  assert_int_equal(find(pu_str_of(b.data, b.len), g, 4), 1);
  assert_string_equal(g[0].lang, "zh");
  pu_buf_clear(&b); /* less than a thirtieth is not worth a line */
  repeat(&b, "en", 60);
  repeat(&b, "ko", 1);
  assert_int_equal(find(pu_str_of(b.data, b.len), g, 4), 1);
  pu_buf_deinit(&b);
}

/* A text longer than what is looked at: in pieces from its beginning to its end. */
static void test_long(void **state) {
  (void)state;
  pu_buf b;
  pu_lang_guess g[4];
  pu_buf_init(&b, 1 << 24);
  while (b.len < 1 << 20) repeat(&b, "zh", 1);
  while (b.len < 2 << 20) repeat(&b, "es", 1);
  assert_int_equal(find(pu_str_of(b.data, b.len), g, 4), 2);
  assert_string_equal(g[0].lang, "es"); /* as many bytes; a character of three counts for two letters */
  assert_string_equal(g[1].lang, "zh");
  for (size_t cut = 0; cut < 7; cut++) { /* pieces that begin within characters */
    find(pu_str_of(b.data + cut, (1 << 20) - 2 * cut), g, 4);
    assert_string_equal(g[0].lang, "zh");
  }
  pu_buf_clear(&b); /* a word of 100,000 letters */
  while (b.len < 100000) pu_buf_puts(&b, "abcdefghij");
  find(pu_str_of(b.data, b.len), g, 4);
  memset(b.data, 'a', b.len);
  find(pu_str_of(b.data, b.len), g, 4);
  pu_buf_deinit(&b);
}

/* Any bytes, and any cut of a text: an answer that is one, and the same again. */
static void test_any_bytes(void **state) {
  (void)state;
  pu_rng r;
  char text[3000];
  pu_lang_guess g[8], again[8];
  pu_rng_seed(&r, 5);
  for (int i = 0; i < 2000; i++) {
    size_t len = pu_rng_below(&r, sizeof text);
    pu_str from = pu_str_c(samples[pu_rng_below(&r, PU_COUNT(samples))].text);
    for (size_t k = 0; k < len; k++) {
      uint64_t what = pu_rng_below(&r, 40);
      text[k] = what == 0 ? (char)pu_rng_next(&r) : what == 1 ? '\n' : from.ptr[(k + (size_t)i) % from.len];
    }
    size_t n = find(pu_str_of(text, len), g, 8);
    assert_int_equal(pu_lang_find(pu_str_of(text, len), again, 8), n);
    for (size_t k = 0; k < n; k++)
      assert_true(g[k].lang == again[k].lang && g[k].share == again[k].share && g[k].score == again[k].score);
  }
}

/* ---- against a plain computation ----------------------------------------------------------------------------- */

typedef struct kept {
  lang_script script;
  uint32_t keys[20000];
  size_t n;
} kept;

static void keep(void *arg, lang_script s, const uint32_t *keys, size_t n) {
  kept *k = arg;
  assert_true(s == k->script && n <= LANG_BATCH && k->n + n <= PU_COUNT(k->keys));
  for (size_t i = 0; i < n; i++) {
    assert_true(keys[i] < LANG_KEYS);
    k->keys[k->n++] = keys[i];
  }
}

static kept scan(const char *text, lang_script s) {
  kept k = {.script = s};
  lang_scan scanner = {.take = keep, .arg = &k};
  lang_scan_text(&scanner, pu_str_c(text));
  lang_scan_end(&scanner);
  return k;
}

static void test_grams(void **state) {
  (void)state;
  /* Letter i (from 1) ends min(4, i + 1) n-grams, the end of the word 2 to 4 long ones; from three letters on the word.
   */
  static const size_t counts[] = {0, 2 + 2, 2 + 3 + 3, 2 + 3 + 4 + 3 + 1, 2 + 3 + 4 + 4 + 3 + 1};
  static const char *const words[] = {"...", "a", "ab", "abc", "abcd"};
  for (size_t i = 0; i < PU_COUNT(words); i++) assert_int_equal(scan(words[i], LANG_LATIN).n, counts[i]);
  assert_int_equal(scan("abc, abcd!", LANG_LATIN).n, counts[3] + counts[4]);
  assert_int_equal(scan("天地玄", LANG_HAN).n, 1 + 2 + 2);
  kept a = scan("ÉCOLE ＡＢ ştiinț­e", LANG_LATIN), b = scan("école ab știinţe", LANG_LATIN);
  assert_int_equal(a.n, b.n); /* case, width, a soft hyphen, either way to write Romanian */
  assert_memory_equal(a.keys, b.keys, a.n * sizeof *a.keys);
}

/* A text of one block: the probabilities from rows that are looked for one by one. */
static void test_plain(void **state) {
  (void)state;
  const lang_model *m = lang_model_of(LANG_LATIN);
  static const char *const langs[] = {"en", "de", "da", "pl", "tr"};
  for (size_t i = 0; i < PU_COUNT(langs); i++) {
    kept k = scan(sample(langs[i]).ptr, LANG_LATIN);
    double logit[LANG_MOST], all = 0, again = 0, best = 0;
    for (size_t l = 0; l < m->n_names; l++) {
      double sum = 0;
      for (size_t g = 0; g < k.n; g++) sum += m->rows[m->row_of[k.keys[g]]][l];
      logit[l] = (double)m->bias[l] +
                 (double)m->scale * sqrt((double)PU_MIN(PU_MAX(k.n, 64u), 4096u) / 512) / (double)k.n * sum;
      all += exp(logit[l]);
    }
    for (size_t l = 0; l < m->n_names; l++) again += exp(logit[l]) / all * PU_MAX(0.03, exp(logit[l]) / all);
    for (size_t l = 0; l < m->n_names; l++) {
      double p = exp(logit[l]) / all * PU_MAX(0.03, exp(logit[l]) / all) / again;
      if (strcmp(m->names[l], langs[i]) == 0) best = p;
    }
    assert_true(fabs(first(sample(langs[i])).score - best) < 1e-5);
  }
}

/* Every row of the model is reached by its key, no two by the same, and its numbers are in range. */
static void test_model(void **state) {
  (void)state;
  size_t next = 1;
  for (int s = LANG_LATIN; s < LANG_MODELS; s++) {
    const lang_model *m = lang_model_of((lang_script)s);
    size_t reached = 0;
    assert_true(m->n_names > 1 && m->n_names <= LANG_MOST && m->first == next);
    for (size_t k = 0; k < LANG_KEYS; k++) {
      size_t row = m->row_of[k];
      assert_true(row == 0 || (row >= m->first && row < m->first + m->n_rows));
      reached += row != 0;
    }
    assert_int_equal(reached, m->n_rows);
    for (size_t r = m->first; r < m->first + m->n_rows; r++)
      for (size_t l = 0; l < LANG_MOST; l++)
        assert_true(abs(m->rows[r][l]) < LANG_SYMBOLS / 2 && (l < m->n_names || m->rows[r][l] == 0));
    next += m->n_rows;
  }
  for (size_t l = 0; l < LANG_MOST; l++) assert_int_equal(lang_model_of(LANG_LATIN)->rows[0][l], 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_samples), cmocka_unit_test(test_names), cmocka_unit_test(test_nothing_to_tell),
      cmocka_unit_test(test_unknown), cmocka_unit_test(test_han),   cmocka_unit_test(test_mixed),
      cmocka_unit_test(test_long),    cmocka_unit_test(test_grams), cmocka_unit_test(test_any_bytes),
      cmocka_unit_test(test_plain),   cmocka_unit_test(test_model),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
