/* Charsets: which one bytes are in, and making them UTF-8 (iconv converts).
 *
 * Found out by reading the bytes in each charset that comes into question and looking at what letters that gives: real
 * text is made of common ones (a few hundred Han characters or Hangul syllables make more than half of any text), the
 * wrong charset gives rare ones, capitals within words, or nothing at all. */
#include <errno.h>
#include <iconv.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "src/data/reader.h"

enum { SAMPLE = 16 << 10, BEFORE = 64 };

/* iconv: its name for it, where a larger set of the same encoding is what is meant on the web. */
typedef struct charset {
  const char *name, *iconv;
  const char *labels; /* " label label ", lower case */
} charset;

static const charset charsets[] = {
    {"UTF-8", "UTF-8", " utf-8 utf8 unicode-1-1-utf-8 us-ascii ascii "},
    {"UTF-16LE", "UTF-16LE", " utf-16le utf-16 ucs-2 unicode "},
    {"UTF-16BE", "UTF-16BE", " utf-16be "},
    {"GB18030", "GB18030", " gb18030 gbk gb2312 gb_2312-80 x-gbk cp936 windows-936 chinese euc-cn "},
    {"Big5", "BIG5-HKSCS", " big5 big5-hkscs cn-big5 x-x-big5 cp950 "},
    {"Shift_JIS", "CP932", " shift_jis shift-jis sjis x-sjis ms_kanji windows-31j cp932 ms932 "},
    {"EUC-JP", "EUC-JP", " euc-jp x-euc-jp eucjp "},
    {"EUC-KR", "UHC", " euc-kr ks_c_5601-1987 ksc5601 ks_c_5601-1989 korean windows-949 cp949 uhc "},
    {"windows-1251", "CP1251", " windows-1251 cp1251 x-cp1251 "},
    {"windows-1252", "CP1252", " windows-1252 cp1252 iso-8859-1 iso8859-1 iso_8859-1 latin1 l1 ansi x-cp1252 "},
    {"ISO-2022-JP", "ISO-2022-JP", " iso-2022-jp csiso2022jp "},
    {"IBM866", "IBM866", " ibm866 cp866 866 "},
    {"KOI8-R", "KOI8-R", " koi8-r koi8 koi koi8_r "},
    {"KOI8-U", "KOI8-U", " koi8-u koi8-ru "},
    {"ISO-8859-2", "ISO-8859-2", " iso-8859-2 latin2 l2 iso8859-2 "},
    {"ISO-8859-3", "ISO-8859-3", " iso-8859-3 latin3 iso8859-3 "},
    {"ISO-8859-4", "ISO-8859-4", " iso-8859-4 latin4 iso8859-4 "},
    {"ISO-8859-5", "ISO-8859-5", " iso-8859-5 cyrillic iso8859-5 "},
    {"ISO-8859-6", "ISO-8859-6", " iso-8859-6 arabic iso8859-6 "},
    {"ISO-8859-7", "ISO-8859-7", " iso-8859-7 greek iso8859-7 "},
    {"ISO-8859-8", "ISO-8859-8", " iso-8859-8 iso-8859-8-i hebrew iso8859-8 "},
    {"ISO-8859-10", "ISO-8859-10", " iso-8859-10 latin6 iso8859-10 "},
    {"ISO-8859-13", "ISO-8859-13", " iso-8859-13 iso8859-13 "},
    {"ISO-8859-14", "ISO-8859-14", " iso-8859-14 iso8859-14 "},
    {"ISO-8859-15", "ISO-8859-15", " iso-8859-15 latin9 l9 iso8859-15 "},
    {"ISO-8859-16", "ISO-8859-16", " iso-8859-16 iso8859-16 "},
    {"macintosh", "MACINTOSH", " macintosh mac x-mac-roman "},
    {"windows-874", "CP874", " windows-874 tis-620 iso-8859-11 dos-874 "},
    {"windows-1250", "CP1250", " windows-1250 cp1250 x-cp1250 "},
    {"windows-1253", "CP1253", " windows-1253 cp1253 "},
    {"windows-1254", "CP1254", " windows-1254 cp1254 iso-8859-9 latin5 l5 iso8859-9 "},
    {"windows-1255", "CP1255", " windows-1255 cp1255 "},
    {"windows-1256", "CP1256", " windows-1256 cp1256 "},
    {"windows-1257", "CP1257", " windows-1257 cp1257 "},
    {"windows-1258", "CP1258", " windows-1258 cp1258 "},
};
enum { N_FOUND = 10 }; /* the first of them are what detection knows */

static const charset *charset_of(const char *label) {
  char key[48];
  while (*label == ' ' || *label == '"' || *label == '\'') label++;
  size_t n = strcspn(label, " \"';,\t\r\n");
  if (n == 0 || n + 3 > sizeof key) return NULL;
  key[0] = ' ';
  for (size_t i = 0; i < n; i++)
    key[i + 1] = (char)(label[i] >= 'A' && label[i] <= 'Z' ? label[i] - 'A' + 'a' : label[i]);
  memcpy(key + n + 1, " ", 2);
  for (size_t i = 0; i < PU_COUNT(charsets); i++)
    if (strstr(charsets[i].labels, key)) return &charsets[i];
  return NULL;
}

const char *pu_charset_known(const char *label) {
  const charset *c = label ? charset_of(label) : NULL;
  return c ? c->name : NULL;
}

/* ---- UTF-8 ------------------------------------------------------------------------------------------------------- */

static size_t ascii_prefix(const char *p, size_t n) {
  size_t i = 0;
  for (uint64_t a, b; i + 16 <= n; i += 16) {
    memcpy(&a, p + i, 8);
    memcpy(&b, p + i + 8, 8);
    if ((a | b) & 0x8080808080808080u) break;
  }
  while (i < n && (uint8_t)p[i] < 0x80) i++;
  return i;
}

bool pu_charset_ascii(pu_str bytes) {
  return ascii_prefix(bytes.ptr, bytes.len) == bytes.len;
}

size_t pu_utf8_prefix(pu_str bytes) {
  const uint8_t *p = (const uint8_t *)bytes.ptr;
  size_t i = 0, n = bytes.len;
  while (i < n) {
    if (p[i] < 0x80) {
      i += ascii_prefix(bytes.ptr + i, n - i);
      continue;
    }
    /* Runs of three bytes a character are what most of the world's text beyond ASCII is. */
    while (n - i >= 3 && p[i] > 0xE0 && p[i] < 0xED && (p[i + 1] & 0xC0) == 0x80 && (p[i + 2] & 0xC0) == 0x80) i += 3;
    if (i == n || p[i] < 0x80) continue;
    uint32_t cp;
    size_t len = pu_utf8_next(pu_str_of(bytes.ptr + i, n - i), &cp);
    if (len == 0) return i;
    i += len;
  }
  return n;
}

/* The rest of a broken character stands for one U+FFFD with it. */
static size_t broken_len(pu_str s) {
  uint8_t first = (uint8_t)s.ptr[0];
  size_t want = first < 0xC2 || first > 0xF4 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4, n = 1;
  if (n < want && n < s.len) { /* the second byte has bounds of its own: an overlong form is broken at its first */
    uint8_t second = (uint8_t)s.ptr[1];
    uint8_t low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    uint8_t high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    if (second < low || second > high) return 1;
  }
  while (n < want && n < s.len && ((uint8_t)s.ptr[n] & 0xC0) == 0x80) n++;
  return n;
}

static pu_err utf8_repair(pu_str bytes, pu_buf *out, size_t *bad, pu_error *e) {
  for (;;) {
    size_t n = pu_utf8_prefix(bytes);
    if (!pu_buf_append(out, bytes.ptr, n)) return pu_fail(e, PU_ERR_NOMEM, "charset: no memory");
    if (n == bytes.len) return PU_OK;
    bytes = pu_str_of(bytes.ptr + n, bytes.len - n);
    n = broken_len(bytes);
    bytes = pu_str_of(bytes.ptr + n, bytes.len - n);
    ++*bad;
    if (!pu_buf_puts(out, "\xEF\xBF\xBD")) return pu_fail(e, PU_ERR_NOMEM, "charset: no memory");
  }
}

pu_err pu_text_append(pu_str s, pu_buf *out, pu_error *e) {
  size_t bad = 0, from = out->len;
  PU_TRY(utf8_repair(s, out, &bad, e));
  char *p = out->len > from ? memchr(out->data + from, '\r', out->len - from) : NULL;
  if (!p) return PU_OK;
  char *to = p, *end = out->data + out->len;
  while (p < end) { /* \r\n and \r become \n */
    *to++ = '\n';
    p += p + 1 < end && p[1] == '\n' ? 2 : 1;
    char *next = p < end ? memchr(p, '\r', (size_t)(end - p)) : NULL;
    size_t n = (size_t)((next ? next : end) - p);
    memmove(to, p, n);
    to += n;
    p += n;
  }
  *to = '\0';
  out->len = (size_t)(to - out->data);
  return PU_OK;
}

/* ---- converting -------------------------------------------------------------------------------------------------- */

struct pu_recoder {
  iconv_t to_utf8;
  size_t unit, bad;
};

pu_err pu_recoder_open(const char *name, pu_recoder **out, pu_error *e) {
  const charset *c = charset_of(name);
  *out = NULL;
  if (!c) return pu_fail(e, PU_ERR_USAGE, "'%s' is no charset that is known", name);
  iconv_t to_utf8 = iconv_open("UTF-8", c->iconv);
  if (to_utf8 == (iconv_t)-1)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "the C library cannot convert %s: %s", c->iconv, strerror(errno));
  pu_recoder *r = calloc(1, sizeof *r);
  if (!r) {
    iconv_close(to_utf8);
    return pu_fail(e, PU_ERR_NOMEM, "charset: no memory");
  }
  *r = (pu_recoder){to_utf8, strncmp(c->name, "UTF-16", 6) == 0 ? 2 : 1, 0};
  *out = r;
  return PU_OK;
}

void pu_recoder_run(pu_recoder *r, const char *bytes, size_t *len, bool last, char *out, size_t cap, size_t *made) {
  char *from = (char *)(uintptr_t)bytes, *to = out;
  size_t left = *len, room = cap;
  while (left > 0) {
    if (iconv(r->to_utf8, &from, &left, &to, &room) != (size_t)-1) break;
    if (errno == E2BIG || (errno == EINVAL && !last)) break;
    if (room < 3) break;
    memcpy(to, "\xEF\xBF\xBD", 3);
    to += 3;
    room -= 3;
    size_t step = PU_MIN(r->unit, left);
    from += step;
    left -= step;
    r->bad++;
  }
  *len -= left;
  *made = cap - room;
}

void pu_recoder_close(pu_recoder *r) {
  if (!r) return;
  iconv_close(r->to_utf8);
  free(r);
}

static pu_err recode_all(pu_recoder *r, pu_str bytes, pu_buf *out, pu_error *e) {
  while (bytes.len > 0) {
    size_t len = bytes.len, made;
    if (!pu_buf_reserve(out, PU_MAX(PU_MIN(2 * len, (size_t)1 << 20), (size_t)64)))
      return pu_fail(e, PU_ERR_NOMEM, "charset: no memory");
    pu_recoder_run(r, bytes.ptr, &len, true, out->data + out->len, out->cap - out->len - 1, &made);
    out->len += made;
    out->data[out->len] = '\0';
    bytes = pu_str_of(bytes.ptr + len, bytes.len - len);
  }
  return PU_OK;
}

pu_err pu_charset_convert(pu_str bytes, const char *name, pu_buf *out, size_t *bad, pu_error *e) {
  size_t none = 0;
  if (!bad) bad = &none;
  *bad = 0;
  const char *known = pu_charset_known(name);
  if (known && strcmp(known, "UTF-8") == 0) return utf8_repair(bytes, out, bad, e);
  pu_recoder *r;
  PU_TRY(pu_recoder_open(name, &r, e));
  pu_err err = recode_all(r, bytes, out, e);
  *bad = r->bad;
  pu_recoder_close(r);
  return err;
}

/* ---- finding out ------------------------------------------------------------------------------------------------- */

/* The commonest characters: Chinese in both forms, Japanese, Korean. */
static const char common[] =
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所"
    "然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长"
    "把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身"
    "果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活"
    "尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指克许统区保至队形社便空决治"
    "展马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领"
    "共确传师观清今切院让识候带导争运"
    "這個們來為國說時會對於著過發後裡種經麼學現當沒動還進樣開從實軍無與長機將兩間問應戰頭體見產話給門兒東聲員論處"
    "義幾條氣題爾別變總電數報結務場計資許統區隊決業關點馬書則聽卻達強難權設記類據張該規萬術領傳師觀讓識帶導爭運並"
    "華線際臺灣語廣億網連單議選舉歲錢車視"
    "日会年本出同時政事自行社見月議前民連発対部党地合市業相定今回場金員選立開手米力問高代明円関決動京全目表経通外"
    "最言氏現理調体化田当八六約主題首意法気私思何様込変学読書食話電車駅店買売歩"
    "이다는의에을가고한하지기로사서도은인리자어를시그아대나해있일들라정으수보상전과여부스제오장주안면만공원게니조구우"
    "신성거동마연비위국경화미요유모선소생방적개관되당무야계때것와했문습까바업말학교실세년발러데치트없속명려저히예건음식"
    "물살군역출던었였";

typedef uint64_t charmap[0x10000 / 64];

static void common_make(charmap map) {
  memset(map, 0, sizeof(charmap));
  for (pu_str s = pu_str_c(common); s.len > 0;) {
    uint32_t cp;
    size_t n = pu_utf8_next(s, &cp);
    map[cp >> 6] |= (uint64_t)1 << (cp & 63);
    s = pu_str_of(s.ptr + n, s.len - n);
  }
}

static bool is_ascii_letter(uint32_t c) {
  return (c | 32) >= 'a' && (c | 32) <= 'z';
}

static bool is_cyrillic(uint32_t c) {
  return c >= 0x400 && c <= 0x45F;
}

/* Cyrillic letters beside Latin ones are accented Latin letters, and capitals do not follow small ones. */
static double cyrillic(uint32_t before, uint32_t c, uint32_t after) {
  if (is_ascii_letter(before) || is_ascii_letter(after)) return -1;
  bool capital = c < 0x430 || (c > 0x44F && c < 0x460 && c < 0x450);
  if (capital) return before >= 0x430 && is_cyrillic(before) ? -1 : 0.5;
  static const uint16_t often[] = {0x43E, 0x435, 0x430, 0x438, 0x43D, 0x442, 0x441, 0x440, 0x432, 0x43B};
  for (size_t i = 0; i < PU_COUNT(often); i++)
    if (c == often[i]) return 1;
  return c <= 0x44F ? 0.7 : 0.2;
}

/* Accented letters stand between plain ones. */
static double latin(uint32_t before, uint32_t c, uint32_t after) {
  bool letter = c >= 0xC0 && c != 0xD7 && c != 0xF7;
  bool among = is_ascii_letter(before) || is_ascii_letter(after);
  if (!letter) return before < 0x80 || after < 0x80 ? 0.6 : -0.5;
  if (before >= 0x80 && after >= 0x80) return -1;
  if (c < 0xDF && before >= 'a' && before <= 'z') return -1;
  return among ? 1 : 0.4;
}

static double east_asian(const charmap map, uint32_t c) {
  if (c < 0x10000 && map[c >> 6] >> (c & 63) & 1) return 1;
  if (c >= 0x3041 && c <= 0x3096) return 0.9; /* hiragana */
  if (c >= 0x30A1 && c <= 0x30FC) return 0.8;
  if ((c >= 0x3000 && c <= 0x3011) || (c >= 0xFF01 && c <= 0xFF1F)) return 0.8; /* 、。「」，！ */
  if (c >= 0xFF61 && c <= 0xFF9F) return -0.2;                                  /* half-width kana */
  if ((c >= 0x4E00 && c <= 0x9FFF) || (c >= 0xAC00 && c <= 0xD7A3)) return 0.25;
  if (c >= 0x2010 && c <= 0x2026) return 0.5; /* dashes, quotation marks */
  return c >= 0xE000 && c <= 0xF8FF ? -1 : -0.1;
}

static double letter_score(const charmap map, uint32_t before, uint32_t c, uint32_t after) {
  if (c == 0xFFFD) return -3;
  if (c < 0x80) return (c >= ' ' && c < 0x7F) || c == '\n' || c == '\r' || c == '\t' ? 1 : -3;
  if (c < 0xA0) return -2;
  if (is_cyrillic(c)) return cyrillic(before, c, after);
  if (c < 0x180 || (c >= 0x2010 && c <= 0x203A) || c == 0x20AC || c == 0x2122) {
    double score = latin(before, c, after);
    return c >= 0x2010 ? PU_MAX(score, 0.5) : score;
  }
  return east_asian(map, c);
}

/* The mean over all characters that are not ASCII; with every, over all. */
static double text_score(const charmap map, pu_str s, bool every) {
  double sum = 0;
  size_t n = 0;
  for (uint32_t before = ' ', c = 0, after; s.len > 0; before = c) {
    size_t len = PU_MAX(pu_utf8_next(s, &c), 1);
    s = pu_str_of(s.ptr + len, s.len - len);
    if (s.len == 0 || pu_utf8_next(s, &after) == 0) after = ' ';
    if (c < 0x80 && !every) continue;
    sum += letter_score(map, before, c, after);
    n++;
  }
  return n > 0 ? sum / (double)n : -3;
}

/* A stretch of the bytes that begins shortly before the first one that is not ASCII, on an even place. */
static pu_str sample_of(pu_str bytes) {
  size_t at = ascii_prefix(bytes.ptr, bytes.len);
  at = (at > BEFORE ? at - BEFORE : 0) & ~(size_t)1;
  return pu_str_of(bytes.ptr + at, PU_MIN(bytes.len - at, (size_t)SAMPLE));
}

static double charset_score(const charmap map, pu_str sample, const char *name, pu_buf *text) {
  bool wide = strncmp(name, "UTF-16", 6) == 0;
  pu_recoder *r;
  if (pu_recoder_open(name, &r, NULL) != PU_OK) return -3;
  pu_buf_clear(text);
  size_t len = sample.len, made = 0;
  if (!pu_buf_reserve(text, 4 * (size_t)SAMPLE)) return -3;
  /* Unfinished at the end counts only where the bytes end, too; a sample is cut where it happens to be. */
  pu_recoder_run(r, sample.ptr, &len, sample.len < SAMPLE, text->data, 4 * (size_t)SAMPLE, &made);
  pu_recoder_close(r);
  return text_score(map, pu_str_of(text->data, made), wide);
}

/* Characters of several bytes, and bytes that are in none. */
static void utf8_count(pu_str bytes, size_t *good, size_t *bad) {
  *good = *bad = 0;
  for (;;) {
    size_t n = pu_utf8_prefix(bytes);
    for (size_t i = 0; i < n; i++) *good += (uint8_t)bytes.ptr[i] >= 0xC2;
    bytes = pu_str_of(bytes.ptr + n, bytes.len - n);
    if (bytes.len == 0) return;
    n = broken_len(bytes);
    if (n == bytes.len && n < 4 && (uint8_t)bytes.ptr[0] >= 0xC2) return; /* cut */
    ++*bad;
    bytes = pu_str_of(bytes.ptr + n, bytes.len - n);
  }
}

static const char *by_mark(pu_str s) {
  if (pu_str_mark(s)) return "UTF-8";
  if (s.len >= 2 && memcmp(s.ptr, "\xFF\xFE", 2) == 0) return "UTF-16LE";
  if (s.len >= 2 && memcmp(s.ptr, "\xFE\xFF", 2) == 0) return "UTF-16BE";
  return NULL;
}

static const char *by_score(pu_str bytes, const char *hint, pu_buf *text) {
  charmap map;
  common_make(map);
  pu_str sample = sample_of(bytes);
  bool zeros = memchr(sample.ptr, 0, sample.len) != NULL;
  const char *best = "windows-1252";
  double most = zeros ? 0.5 : -2.9; /* zeros in what is not UTF-16 are no text */
  for (size_t i = 1; i < N_FOUND; i++) {
    const char *name = charsets[i].name;
    bool wide = i <= 2;
    if (zeros ? !wide : wide && bytes.len % 2 != 0) continue;
    double score = charset_score(map, sample, name, text);
    if (wide && !zeros) score -= 0.1;
    if (hint && strcmp(hint, name) == 0) score += 0.5;
    if (score > most) {
      most = score;
      best = name;
    }
  }
  if (zeros && most <= 0.5) return "UTF-8";
  return best;
}

/* Does the hint, one that detection does not know, fit? */
static bool hint_fits(pu_str bytes, const char *hint, pu_buf *text) {
  pu_str sample = sample_of(bytes);
  size_t len = sample.len, made;
  pu_recoder *r;
  if (!pu_buf_reserve(text, 4 * (size_t)SAMPLE) || pu_recoder_open(hint, &r, NULL) != PU_OK) return false;
  pu_recoder_run(r, sample.ptr, &len, false, text->data, 4 * (size_t)SAMPLE, &made);
  bool fits = r->bad <= sample.len / 100;
  pu_recoder_close(r);
  return fits;
}

static bool is_detected(const char *name) {
  for (size_t i = 0; i < N_FOUND; i++)
    if (strcmp(charsets[i].name, name) == 0) return true;
  return false;
}

const char *pu_charset_find(pu_str bytes, const char *hint) {
  const char *mark = by_mark(bytes);
  if (mark) return mark;
  hint = pu_charset_known(hint);
  pu_str head = pu_str_of(bytes.ptr, PU_MIN(bytes.len, (size_t)SAMPLE));
  bool zeros = head.len > 0 && memchr(head.ptr, 0, head.len) != NULL;
  size_t good, bad;
  utf8_count(bytes, &good, &bad);
  bool escapes = hint && strcmp(hint, "ISO-2022-JP") == 0 && memchr(bytes.ptr, 27, bytes.len);
  if (!zeros && !escapes && good >= 4 * bad) return "UTF-8";
  pu_buf text;
  pu_buf_init(&text, 8 * (size_t)SAMPLE);
  const char *found =
      hint && !zeros && !is_detected(hint) && hint_fits(bytes, hint, &text) ? hint : by_score(bytes, hint, &text);
  pu_buf_deinit(&text);
  return found;
}
