/* What WanJuan's cleaning looks for besides the rules of others (He et al. 2023, "WanJuan: A Comprehensive Multimodal
 * Dataset for Advancing English and Chinese Large Models", section 2.1; Qiu et al. 2024, "WanJuan-CC", section 3.2):
 * abnormal separators, abnormal line breaks, an abnormal share of strange characters, punctuation that is missing, too
 * much or not spread over the text. The papers name these rules without their numbers; the bounds here are puyu's own,
 * set so that clean prose, English and Chinese, is far within them. */
#include <string.h>

#include "src/data/filter_kit.h"

enum { SEPARATORS, LINE_LENGTH, BROKEN_LINES, STRANGE, PUNCTUATION, SPREAD };
enum { PIECE = 200, PIECES_LEAST = 2, PUNCTUATION_LEAST = 100 }; /* characters */

static const pu_measure measures[] = {
    [SEPARATORS] = {"separators", -INFINITY, 0.1, "share of separators (|, _, =, *, ---, …) among characters"},
    [LINE_LENGTH] = {"line_length", 10, INFINITY, "mean length of a line in columns: Chinese characters take two"},
    [BROKEN_LINES] = {"broken_lines", -INFINITY, 0.7, "share of line ends inside a sentence"},
    [STRANGE] = {"strange_characters", -INFINITY, 0.01, "share of U+FFFD, control and private-use characters"},
    [PUNCTUATION] = {"punctuation", 0.002, 0.3, "share of punctuation among characters, from 100 of them on"},
    [SPREAD] = {"punctuation_spread", 0.5, INFINITY, "share of pieces of 200 characters with punctuation in them"},
    {0},
};

typedef enum sort { PLAIN, SPACE, PUNCT, SEPARATOR, ODD } sort;

static sort sort_ascii(uint8_t c) {
  if (c == ' ' || (c >= '\t' && c <= '\r')) return SPACE;
  if (c < 0x20 || c == 0x7F) return ODD;
  if (strchr("|_=*#~^\\<>+`", c)) return SEPARATOR;
  return strchr(".,;:!?\"'()[]{}-/&%@$", c) ? PUNCT : PLAIN;
}

static sort sort_wide(uint32_t c) {
  if (c < 0xA0 || c == 0xFFFD || (c >= 0xE000 && c <= 0xF8FF) || c >= 0xF0000) return ODD;
  if (c >= 0x2500 && c <= 0x27BF) return SEPARATOR; /* box drawing, shapes, dingbats */
  if (c == 0x3000 || c == 0xA0) return SPACE;
  if ((c >= 0x2010 && c <= 0x2027) || (c >= 0x2030 && c <= 0x205E)) return PUNCT;
  if ((c >= 0x3001 && c <= 0x303F && (c < 0x3005 || c > 0x3007)) || (c >= 0xFE30 && c <= 0xFE4F)) return PUNCT;
  if ((c >= 0xFF01 && c <= 0xFF0F) || (c >= 0xFF1A && c <= 0xFF20) || (c >= 0xFF3B && c <= 0xFF40)) return PUNCT;
  if (c >= 0xFF5B && c <= 0xFF65) return PUNCT;
  return c == 0xA1 || c == 0xAB || c == 0xB7 || c == 0xBB || c == 0xBF ? PUNCT : PLAIN;
}

typedef struct counts {
  size_t chars, separators, odd, punct; /* chars: without spaces */
  size_t pieces, with;                  /* pieces, and those with punctuation */
} counts;

static counts count_chars(pu_str s) {
  counts c = {0};
  uint8_t ascii[128];
  size_t in_piece = 0, dashes = 0;
  bool with = false;
  for (int i = 0; i < 128; i++) ascii[i] = (uint8_t)sort_ascii((uint8_t)i);
  for (size_t i = 0, step; i < s.len; i += step) {
    uint32_t cp = (uint8_t)s.ptr[i];
    sort is;
    step = 1;
    if (cp < 0x80)
      is = (sort)ascii[cp];
    else if ((step = pu_utf8_next(pu_str_of(s.ptr + i, s.len - i), &cp)) > 0)
      is = cp >= 0x4E00 && cp <= 0x9FFF ? PLAIN : sort_wide(cp);
    else
      step = 1, is = ODD;
    dashes = cp == '-' ? dashes + 1 : 0;
    if (dashes >= 3) is = SEPARATOR; /* the first two of a rule pass for punctuation */
    if (is == SPACE) continue;
    c.chars++;
    c.separators += is == SEPARATOR;
    c.odd += is == ODD;
    c.punct += is == PUNCT;
    with |= is == PUNCT;
    if (++in_piece < PIECE) continue;
    c.pieces++;
    c.with += with;
    in_piece = 0;
    with = false;
  }
  return c;
}

static size_t columns(pu_str s) {
  size_t n = 0; /* characters of three or four bytes stand for wide ones: this is no measure for a terminal */
  for (size_t i = 0; i < s.len; i++) n += ((uint8_t)s.ptr[i] & 0xC0) != 0x80 ? ((uint8_t)s.ptr[i] >= 0xE0 ? 2 : 1) : 0;
  return n;
}

/* Does the line begin as a sentence goes on: with a small letter, or with a character of an unspaced script? */
static bool goes_on(pu_str line) {
  uint8_t c = (uint8_t)line.ptr[0];
  return (c >= 'a' && c <= 'z') || (c >= 0xE4 && c <= 0xE9) ||
         (c == 0xE3 && line.len > 1 && (uint8_t)line.ptr[1] > 0x80);
}

/* Would a line that ends so be gone on with? Not after any punctuation. */
static bool stays_open(pu_str line) {
  size_t i = line.len - 1;
  uint32_t cp;
  while (i > 0 && ((uint8_t)line.ptr[i] & 0xC0) == 0x80) i--;
  if (pu_utf8_next(pu_str_of(line.ptr + i, line.len - i), &cp) == 0) return false;
  return cp == ',' || cp == 0xFF0C || (cp < 0x80 ? sort_ascii((uint8_t)cp) : sort_wide(cp)) == PLAIN;
}

static void measure_lines(const pu_doc *d, const pu_view *v, double *values) {
  size_t broken = 0, wide = 0;
  for (size_t i = 0; i < v->n_lines; i++) {
    pu_str line = pu_str_of(d->text.data + v->lines[i].at, v->lines[i].len);
    wide += columns(line);
    if (i + 1 == v->n_lines) break;
    pu_str next = pu_str_of(d->text.data + v->lines[i + 1].at, v->lines[i + 1].len);
    broken += goes_on(next) && stays_open(line);
  }
  values[LINE_LENGTH] = v->n_lines ? (double)wide / (double)v->n_lines : 0;
  values[BROKEN_LINES] = v->n_lines > 1 ? (double)broken / (double)(v->n_lines - 1) : 0;
}

static pu_err apply(const void *shared, pu_doc *d, double *values, pu_error *e) {
  (void)shared;
  const pu_view *v = pu_doc_view(d);
  if (!v) return pu_kit_no_memory("wanjuan", e);
  counts c = count_chars(pu_str_of(d->text.data, d->text.len));
  double chars = c.chars ? (double)c.chars : 1;
  values[SEPARATORS] = (double)c.separators / chars;
  values[STRANGE] = (double)c.odd / chars;
  if (c.chars >= PUNCTUATION_LEAST) values[PUNCTUATION] = (double)c.punct / chars;
  if (c.pieces >= PIECES_LEAST) values[SPREAD] = (double)c.with / (double)c.pieces;
  measure_lines(d, v, values);
  return PU_OK;
}

const pu_filter pu_filter_wanjuan = {
    .name = "wanjuan",
    .summary = "WanJuan's rules for separators, line breaks, strange characters and punctuation",
    .measures = measures,
    .apply = apply,
};
