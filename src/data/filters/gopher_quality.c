/* The quality rules of MassiveText (Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from
 * Training Gopher", appendix A.1.1): 50 to 100,000 words, of 3 to 10 characters on average, at most 0.1 '#' and 0.1
 * ellipses a word, at most 90 % of the lines bullets, at most 30 % ending in an ellipsis, at least 80 % of the words
 * with a letter, at least two of the stop words the, be, to, of, and, that, have, with.
 *
 * Where datatrove's code says more than the paper, it is followed: words of symbols alone are not counted as words nor
 * measured, but are among those of which 80 % must have a letter; "..." and U+2026 both are ellipses; two different
 * stop words are asked for. Not followed: stop words are found in any case and with punctuation around them, since
 * words here are runs between spaces; blank lines are no lines.
 *
 * Text without spaces: two characters are a word, "……" is one ellipsis, the mean length of words says nothing (NAN),
 * and the stop words are common function words of modern and classical Chinese, or of Japanese; of other such scripts
 * they say nothing, nor of a spaced language that is known not to be English. */
#include <string.h>

#include "src/data/filter_kit.h"

enum { WORDS, WORD_LENGTH, HASHES, ELLIPSES, BULLETS, ELLIPSIS_LINES, ALPHABETIC, STOP_WORDS };
enum { STOP_WORDS_COUNTED = 8 };

static const pu_measure measures[] = {
    [WORDS] = {"words", 50, 100000, "words; two characters are one in text without spaces (Gopher)"},
    [WORD_LENGTH] = {"mean_word_length", 3, 10, "characters a word; not in text without spaces (Gopher)"},
    [HASHES] = {"hashes", -INFINITY, 0.1, "'#' a word (Gopher)"},
    [ELLIPSES] = {"ellipses", -INFINITY, 0.1, "ellipses a word (Gopher)"},
    [BULLETS] = {"bullet_lines", -INFINITY, 0.9, "share of lines that begin with a bullet (Gopher)"},
    [ELLIPSIS_LINES] = {"ellipsis_lines", -INFINITY, 0.3, "share of lines that end with an ellipsis (Gopher)"},
    [ALPHABETIC] = {"alphabetic_words", 0.8, INFINITY, "share of words with a letter (Gopher)"},
    [STOP_WORDS] = {"stop_words", 2, INFINITY, "different stop words in the text, eight at most (Gopher)"},
    {0},
};

/* ---- stop words ---- */

/* Bit of an English stop word, punctuation around it ignored; 0: none. */
static unsigned english_stop(const char *p, size_t len) {
  static const char words[STOP_WORDS_COUNTED][5] = {"the", "be", "to", "of", "and", "that", "have", "with"};
  static const uint8_t first[32] = {['t' & 31] = 1, ['b' & 31] = 1, ['o' & 31] = 1,
                                    ['a' & 31] = 1, ['h' & 31] = 1, ['w' & 31] = 1};
  char low[5] = {0};
  size_t n = 0;
  while (len > 0 && (uint32_t)((*p | 0x20) - 'a') >= 26) p++, len--;
  while (len > 0 && (uint32_t)((p[len - 1] | 0x20) - 'a') >= 26) len--;
  if (len < 2 || len > 4 || !first[*p & 31]) return 0;
  for (; n < len; n++) low[n] = (char)(p[n] | 0x20);
  for (unsigned k = 0; k < STOP_WORDS_COUNTED; k++)
    if (strcmp(low, words[k]) == 0) return 1u << k;
  return 0;
}

/* Bit of a Chinese or Japanese one, the only character of its word; both forms of a character share it. */
static uint64_t unspaced_stop(const char *p, size_t len) {
  static const uint32_t words[] = {U'的', U'是', U'在', U'不', U'了', U'有', U'和', U'一', U'这', U'我', U'就',
                                   U'也', U'之', U'而', U'其', U'以', U'者', U'曰', U'为', U'于', U'与', U'矣',
                                   U'の', U'は', U'に', U'を', U'た', U'が', U'で', U'て', U'と'};
  static const uint32_t traditional[][2] = {{U'這', U'这'}, {U'為', U'为'}, {U'於', U'于'}, {U'與', U'与'}};
  uint32_t cp = 0;
  pu_utf8_next(pu_str_of(p, len), &cp);
  for (size_t k = 0; k < PU_COUNT(traditional); k++)
    if (cp == traditional[k][0]) cp = traditional[k][1];
  for (size_t k = 0; k < PU_COUNT(words); k++)
    if (cp == words[k]) return (uint64_t)1 << k;
  return 0;
}

/* ---- one document ---- */

typedef struct counts {
  size_t kinds[PU_WORD_KINDS]; /* words of each */
  size_t chars;                /* of those with letters or digits; not counted in text without spaces */
  size_t east_asian;           /* characters of unspaced scripts: Chinese and Japanese ones */
  uint64_t stops;
} counts;

/* The characters between words are none of words, nor are those of a word that does not count. */
static size_t no_chars(const pu_doc *d, size_t end_before, pu_span word, pu_word_kind kind) {
  size_t between = word.at - end_before == 1 ? 1 : pu_kit_chars(d->text.data + end_before, word.at - end_before);
  bool is_word = kind == PU_WORD_ALPHABETIC || kind == PU_WORD_NUMBER;
  return between + (is_word ? 0 : pu_kit_chars_of(d, word));
}

static counts count_words(const pu_doc *d, const pu_view *v) {
  counts c = {.chars = v->n_chars};
  bool more = true; /* stop words are still looked for */
  size_t end = 0;   /* of the word before */
  for (size_t i = 0; i < v->n_words; i++) {
    size_t at = v->words[i].at, len = v->words[i].len;
    const char *p = d->text.data + at;
    pu_word_kind kind = pu_word_kind_fast(p, len);
    c.kinds[kind]++;
    if (!v->unspaced) c.chars -= no_chars(d, end, v->words[i], kind);
    end = at + len;
    c.east_asian += kind == PU_WORD_UNSPACED && (uint8_t)p[0] >= 0xE3;
    if (!more || kind != (v->unspaced ? PU_WORD_UNSPACED : PU_WORD_ALPHABETIC)) continue;
    uint64_t stop = v->unspaced ? unspaced_stop(p, len) : english_stop(p, len);
    if ((c.stops | stop) == c.stops) continue;
    c.stops |= stop;
    more = __builtin_popcountll(c.stops) < STOP_WORDS_COUNTED;
  }
  if (!v->unspaced) c.chars -= pu_kit_chars(d->text.data + end, d->text.len - end);
  return c;
}

/* How often `what` is there, occurrences that overlap once; found by its first byte, which is rare. */
static size_t count(pu_str s, const char *what) {
  size_t n = 0, len = strlen(what);
  for (size_t i = 0; i < s.len;) {
    const char *p = memchr(s.ptr + i, what[0], s.len - i);
    if (!p) break;
    i = (size_t)(p - s.ptr);
    bool is = s.len - i >= len && memcmp(p, what, len) == 0;
    n += is;
    i += is ? len : 1;
  }
  return n;
}

static void count_symbols(pu_str s, size_t *hashes, size_t *ellipses) {
  *hashes = count(s, "#");
  *ellipses = count(s, "...") + count(s, "…") - count(s, "……"); /* the Chinese one is two of these */
}

static bool begins_with_bullet(pu_str line) {
  static const char bullets[][4] = {"-", "•", "●", "▪", "‣", "◦", "·", "・"};
  for (size_t i = 0; i < PU_COUNT(bullets); i++)
    if (line.len >= strlen(bullets[i]) && memcmp(line.ptr, bullets[i], strlen(bullets[i])) == 0) return true;
  return false;
}

static bool ends_with_ellipsis(pu_str line) {
  return line.len >= 3 &&
         (memcmp(line.ptr + line.len - 3, "...", 3) == 0 || memcmp(line.ptr + line.len - 3, "…", 3) == 0);
}

static void measure_lines(const pu_doc *d, const pu_view *v, double *values) {
  size_t bullets = 0, ellipses = 0;
  for (size_t i = 0; i < v->n_lines; i++) {
    pu_str line = pu_str_of(d->text.data + v->lines[i].at, v->lines[i].len);
    bullets += begins_with_bullet(line);
    ellipses += ends_with_ellipsis(line);
  }
  values[BULLETS] = v->n_lines ? (double)bullets / (double)v->n_lines : 0;
  values[ELLIPSIS_LINES] = v->n_lines ? (double)ellipses / (double)v->n_lines : 0;
}

/* Is there a list of stop words for this text? */
static bool has_stops(const pu_doc *d, const pu_view *v, const counts *c) {
  if (v->unspaced) return 2 * c->east_asian >= c->kinds[PU_WORD_UNSPACED];
  return d->lang.len == 0 || (d->lang.len >= 2 && memcmp(d->lang.ptr, "en", 2) == 0);
}

static pu_err apply(const void *shared, pu_doc *d, double *values, pu_error *e) {
  (void)shared;
  const pu_view *v = pu_doc_view(d);
  if (!v) return pu_kit_no_memory("gopher_quality", e);
  counts c = count_words(d, v);
  size_t hashes, ellipses, spaced = c.kinds[PU_WORD_ALPHABETIC] + c.kinds[PU_WORD_NUMBER];
  size_t unspaced = c.kinds[PU_WORD_UNSPACED], all = spaced + unspaced + c.kinds[PU_WORD_SYMBOL];
  double words = (double)spaced + (double)unspaced / PU_KIT_UNSPACED_PER_WORD;
  count_symbols(pu_str_of(d->text.data, d->text.len), &hashes, &ellipses);
  values[WORDS] = words;
  if (!v->unspaced && spaced > 0) values[WORD_LENGTH] = (double)c.chars / (double)spaced;
  values[HASHES] = words > 0 ? (double)hashes / words : (double)hashes;
  values[ELLIPSES] = words > 0 ? (double)ellipses / words : (double)ellipses;
  values[ALPHABETIC] = all ? (double)(c.kinds[PU_WORD_ALPHABETIC] + unspaced) / (double)all : 0;
  if (has_stops(d, v, &c)) values[STOP_WORDS] = PU_MIN(__builtin_popcountll(c.stops), STOP_WORDS_COUNTED);
  measure_lines(d, v, values);
  return PU_OK;
}

const pu_filter pu_filter_gopher_quality = {
    .name = "gopher_quality",
    .summary = "MassiveText's rules for words, symbols and lines",
    .measures = measures,
    .apply = apply,
};
