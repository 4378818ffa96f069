#include "src/data/lang/chars.h"

#include <pthread.h>
#include <utf8proc.h>

#include "puyu/text.h"

static const struct {
  uint32_t from, to;
  lang_script script;
} ranges[] = {{0x41, 0x5A, LANG_LATIN},        {0x61, 0x7A, LANG_LATIN},        {0xAA, 0xAA, LANG_LATIN},
              {0xBA, 0xBA, LANG_LATIN},        {0xC0, 0x24F, LANG_LATIN},       {0x250, 0x2AF, LANG_LATIN},
              {0x2B0, 0x2FF, LANG_SKIP},       {0x300, 0x36F, LANG_SKIP},       {0x370, 0x3FF, LANG_GREEK},
              {0x400, 0x482, LANG_CYRILLIC},   {0x483, 0x489, LANG_SKIP},       {0x48A, 0x52F, LANG_CYRILLIC},
              {0x531, 0x58F, LANG_ARMENIAN},   {0x591, 0x5C7, LANG_SKIP},       {0x5D0, 0x5F2, LANG_HEBREW},
              {0x610, 0x61A, LANG_SKIP},       {0x620, 0x63F, LANG_ARABIC},     {0x640, 0x640, LANG_SKIP},
              {0x641, 0x64A, LANG_ARABIC},     {0x64B, 0x65F, LANG_SKIP},       {0x66E, 0x66F, LANG_ARABIC},
              {0x670, 0x670, LANG_SKIP},       {0x671, 0x6D3, LANG_ARABIC},     {0x6D5, 0x6D5, LANG_ARABIC},
              {0x6D6, 0x6ED, LANG_SKIP},       {0x6EE, 0x6EF, LANG_ARABIC},     {0x6FA, 0x6FF, LANG_ARABIC},
              {0x750, 0x77F, LANG_ARABIC},     {0x900, 0x963, LANG_DEVANAGARI}, {0x970, 0x97F, LANG_DEVANAGARI},
              {0x980, 0x9E5, LANG_BENGALI},    {0x9F0, 0x9F1, LANG_BENGALI},    {0xA01, 0xA65, LANG_GURMUKHI},
              {0xA70, 0xA7F, LANG_GURMUKHI},   {0xA81, 0xAE5, LANG_GUJARATI},   {0xB01, 0xB65, LANG_ORIYA},
              {0xB82, 0xBE5, LANG_TAMIL},      {0xC00, 0xC65, LANG_TELUGU},     {0xC80, 0xCE5, LANG_KANNADA},
              {0xD00, 0xD65, LANG_MALAYALAM},  {0xD80, 0xDE5, LANG_SINHALA},    {0xE01, 0xE4E, LANG_THAI},
              {0xE81, 0xECF, LANG_LAO},        {0xEDC, 0xEDF, LANG_LAO},        {0xF00, 0xFFF, LANG_TIBETAN},
              {0x1000, 0x109F, LANG_MYANMAR},  {0x10A0, 0x10FF, LANG_GEORGIAN}, {0x1100, 0x11FF, LANG_HANGUL},
              {0x1200, 0x139F, LANG_ETHIOPIC}, {0x1780, 0x17D3, LANG_KHMER},    {0x1C90, 0x1CBF, LANG_GEORGIAN},
              {0x1E00, 0x1EFF, LANG_LATIN},    {0x1F00, 0x1FFF, LANG_GREEK},    {0x3005, 0x3007, LANG_HAN},
              {0x3041, 0x3096, LANG_KANA},     {0x309D, 0x309F, LANG_KANA},     {0x30A1, 0x30FA, LANG_KANA},
              {0x30FC, 0x30FF, LANG_KANA},     {0x3130, 0x318F, LANG_HANGUL},   {0x31F0, 0x31FF, LANG_KANA},
              {0x3400, 0x4DBF, LANG_HAN},      {0x4E00, 0x9FFF, LANG_HAN},      {0xAC00, 0xD7A3, LANG_HANGUL},
              {0xF900, 0xFAFF, LANG_HAN},      {0xFB1D, 0xFB4F, LANG_HEBREW},   {0xFB50, 0xFDFF, LANG_ARABIC},
              {0xFE00, 0xFE0F, LANG_SKIP},     {0xFE70, 0xFEFC, LANG_ARABIC},   {0xFF21, 0xFF3A, LANG_LATIN},
              {0xFF41, 0xFF5A, LANG_LATIN},    {0xFF66, 0xFF9F, LANG_KANA}};

/* Of each character of the first plane: its script in the low 8 bits, above them what it counts as. */
static uint32_t chars[0x10000];
static pthread_once_t made = PTHREAD_ONCE_INIT;

/* Lower case; full-width letters are narrow ones; Romanian's s and t are written with a comma or a cedilla. */
static uint32_t folded(uint32_t c) {
  if (c >= 0xFF21 && c <= 0xFF5A) c -= 0xFEE0;
  uint32_t low = (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
  if (low == 0x219) return 0x15F;
  if (low == 0x21B) return 0x163;
  return low & 0xFFFF;
}

static void make_chars(void) {
  for (size_t i = 0; i < PU_COUNT(ranges); i++)
    for (uint32_t c = ranges[i].from; c <= ranges[i].to; c++) chars[c] = folded(c) << 8 | (uint32_t)ranges[i].script;
  chars[0xD7] = chars[0xF7] = LANG_NONE;                   /* × and ÷ are among Latin's letters */
  chars[0x200C] = chars[0x200D] = chars[0xAD] = LANG_SKIP; /* joiners, soft hyphens */
}

enum { EDGE = 1 }; /* the letter that stands for a word's beginning and end */
static const uint64_t spread = 0x9E3779B97F4A7C15u;

static void flush(lang_scan *s) {
  if (s->n) s->take(s->arg, s->script, s->keys, s->n);
  s->n = 0;
}

/* The n-grams that end with the letter just read: up to n letters of s->last. */
static void put_grams(lang_scan *s, size_t from, size_t n) {
  if (s->n + 4 > LANG_BATCH) flush(s);
  for (size_t k = from; k <= n; k++) {
    uint64_t gram = s->last & (~(uint64_t)0 >> (64 - 16 * k));
    s->keys[s->n++] = (uint32_t)(gram * spread >> (64 - LANG_KEY_BITS));
  }
}

static void end_word(lang_scan *s) {
  if (s->length && s->script < LANG_HAN) {
    s->last = s->last << 16 | EDGE;
    put_grams(s, 2, PU_MIN(s->length + 2, 4));
    if (s->length >= 3) {
      if (s->n == LANG_BATCH) flush(s);
      s->keys[s->n++] = (uint32_t)((s->word ^ s->word >> 29) * spread >> (64 - LANG_KEY_BITS));
    }
  }
  s->length = 0;
}

static void begin_word(lang_scan *s, lang_script script) {
  end_word(s);
  if (s->script != script) flush(s);
  s->script = script;
  s->last = script < LANG_HAN ? EDGE : 0;
  s->word = 0;
}

static void put_letter(lang_scan *s, uint32_t c) {
  s->length++;
  s->letters[s->script]++;
  if (s->script > LANG_HAN) return;
  s->last = s->last << 16 | c;
  if (s->script == LANG_HAN) {
    put_grams(s, 1, PU_MIN(s->length, 2));
    return;
  }
  s->word = (s->word + c) * 0xD6E8FEB86659FD93u;
  put_grams(s, 1, PU_MIN(s->length + 1, 4));
}

void lang_scan_text(lang_scan *s, pu_str text) {
  pthread_once(&made, make_chars);
  size_t i = 0;
  while (i < text.len) {
    uint32_t c = (uint8_t)text.ptr[i];
    size_t n = c < 0x80 ? 1 : pu_utf8_next(pu_str_of(text.ptr + i, text.len - i), &c);
    i += n ? n : 1;
    uint32_t what = n == 0 ? LANG_NONE : c < 0x10000 ? chars[c] : c >> 17 == 1 ? (c & 0xFFFF) << 8 | LANG_HAN : 0;
    lang_script script = (lang_script)(what & 0xFF);
    if (script == LANG_SKIP) continue;
    if (script != s->script || s->length == 0) {
      if (script == LANG_NONE) {
        end_word(s);
        continue;
      }
      begin_word(s, script);
    }
    put_letter(s, what >> 8);
  }
}

void lang_scan_end(lang_scan *s) {
  end_word(s);
  flush(s);
}
