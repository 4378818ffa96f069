/* Words of texts: NFKC with case folded, marks dropped in Latin script (Unicode 15, chapters 3.11 and 5.18), and pairs
 * of characters where a script is written without spaces.
 *
 * A text is folded by clusters, a character with the marks behind it: nothing composes across their borders, so a
 * cluster is normalised by itself, and every folded character knows which bytes it came from. */
#include "src/store/terms.h"

#include <string.h>
#include <utf8proc.h>

enum {
  CLUSTER = 32, /* characters that are folded together; marks above that are a cluster of their own */
  UNFOLD = 18   /* the most characters that one becomes (U+FDFA) */
};

typedef enum class { OTHER, WORD, PACKED, MARK } class;

typedef struct piece {
  char text[4];
  size_t len, begin, end;
} piece;

typedef struct state {
  int (*fn)(void *arg, const store_term *t);
  void *arg;
  int rc;
  char word[STORE_TERM_MAX];
  size_t word_len, begin, end; /* end 0: no word has begun */
  bool full;                   /* the word is longer than what is kept of it */
  piece last;                  /* of a run; len 0: none has begun */
  bool paired;                 /* the run has given a pair */
  bool broken;                 /* a single line end stands behind `last`: the run may go on on the next line */
} state;

/* ---- kinds of characters ------------------------------------------------------------------------------------------
 */

/* Han, kana, Hangul and Bopomofo, sorted. */
static const uint32_t packed[][2] = {
    {0x1100, 0x11FF}, {0x2E80, 0x2FDF},   {0x3005, 0x3007},   {0x3021, 0x3029},   {0x3031, 0x3035}, {0x3038, 0x303C},
    {0x3041, 0x3096}, {0x309D, 0x309F},   {0x30A1, 0x30FA},   {0x30FC, 0x312F},   {0x3131, 0x318E}, {0x31A0, 0x31BF},
    {0x31F0, 0x31FF}, {0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xA960, 0xA97C},   {0xAC00, 0xD7FB}, {0xF900, 0xFAFF},
    {0xFF66, 0xFFDC}, {0x16FE0, 0x16FE3}, {0x1AFF0, 0x1B16F}, {0x20000, 0x3FFFD},
};

static bool is_packed(uint32_t c) {
  if (c < packed[0][0]) return false;
  size_t low = 0, high = PU_COUNT(packed);
  while (low < high) {
    size_t mid = (low + high) / 2;
    if (c > packed[mid][1])
      low = mid + 1;
    else
      high = mid;
  }
  return low < PU_COUNT(packed) && c >= packed[low][0];
}

static bool is_mark(utf8proc_category_t k) {
  return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_MC || k == UTF8PROC_CATEGORY_ME;
}

static bool is_latin(uint32_t c) {
  return (c >= 'a' && c <= 'z') || (c >= 0xAA && c <= 0x2AF && c != 0xD7 && c != 0xF7) ||
         (c >= 0x1D00 && c <= 0x1DBF) || (c >= 0x1E00 && c <= 0x1EFF) || (c >= 0x2C60 && c <= 0x2C7F) ||
         (c >= 0xA720 && c <= 0xA7FF) || (c >= 0xAB30 && c <= 0xAB6F);
}

static class class_of(uint32_t c) {
  if (c < 0x80) return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ? WORD : OTHER;
  if (is_packed(c)) return PACKED;
  utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
  if (is_mark(k)) return MARK;
  bool letter = k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
  return letter || (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO) ? WORD : OTHER;
}

/* Does the character belong to the cluster before it: a mark, a vowel or final consonant of Hangul, a sound mark of
 * half-width kana? */
static bool extends(uint32_t c) {
  if (c < 0x300) return false;
  if ((c >= 0x1160 && c <= 0x11FF) || (c >= 0xD7B0 && c <= 0xD7FB)) return true;
  if (c == 0xFF9E || c == 0xFF9F || (c >= 0xFFC2 && c <= 0xFFDC)) return true;
  return is_mark(utf8proc_category((utf8proc_int32_t)c));
}

/* ---- terms out of folded characters --------------------------------------------------------------------------------
 */

static void give(state *s, store_term_kind kind, bool first, pu_str text, size_t begin, size_t end) {
  const store_term t = {kind, first, text, begin, end};
  if (s->rc == 0) s->rc = s->fn(s->arg, &t);
}

static void word_end(state *s) {
  if (s->end == 0) return;
  give(s, STORE_WORD, true, pu_str_of(s->word, s->word_len), s->begin, s->end);
  s->word_len = s->end = 0;
}

static void run_end(state *s) {
  if (s->last.len > 0)
    give(s, STORE_LAST, !s->paired, pu_str_of(s->last.text, s->last.len), s->last.begin, s->last.end);
  s->last.len = 0;
  s->paired = s->broken = false;
}

static void word_add(state *s, const piece *p) {
  if (s->end == 0) {
    s->begin = p->begin;
    s->full = false;
  }
  s->end = p->end;
  s->full = s->full || s->word_len + p->len > sizeof s->word;
  if (s->full) return;
  memcpy(s->word + s->word_len, p->text, p->len);
  s->word_len += p->len;
}

static void run_add(state *s, const piece *p) {
  if (s->last.len > 0) {
    char pair[8];
    memcpy(pair, s->last.text, s->last.len);
    memcpy(pair + s->last.len, p->text, p->len);
    give(s, STORE_PAIR, !s->paired, pu_str_of(pair, s->last.len + p->len), s->last.begin, p->end);
    s->paired = true;
  }
  s->last = *p;
  s->broken = false;
}

static void add(state *s, uint32_t c, size_t begin, size_t end) {
  piece p = {.begin = begin, .end = end};
  class k = class_of(c);
  if (k == WORD || k == PACKED || (k == MARK && s->end > 0))
    p.len = (size_t)utf8proc_encode_char((utf8proc_int32_t)c, (utf8proc_uint8_t *)p.text);
  if (k == PACKED) {
    word_end(s);
    run_add(s, &p);
  } else if (k == WORD) {
    run_end(s);
    word_add(s, &p);
  } else if (k == MARK) { /* alone, or behind a run, it says nothing */
    if (s->end > 0) word_add(s, &p);
  } else {
    word_end(s);
    if (c == '\n' && s->last.len > 0 && !s->broken)
      s->broken = true;
    else
      run_end(s);
  }
}

/* ---- folding ----------------------------------------------------------------------------------------------------- */

/* Drops marks behind Latin letters. */
static size_t strip(utf8proc_int32_t *c, size_t n) {
  uint32_t base = 0;
  size_t kept = 0;
  for (size_t i = 0; i < n; i++) {
    bool mark = c[i] >= 0x300 && is_mark(utf8proc_category(c[i]));
    if (mark && is_latin(base)) continue;
    if (!mark) base = (uint32_t)c[i];
    c[kept++] = c[i];
  }
  return kept;
}

static void fold(state *s, pu_str cluster, size_t at) {
  utf8proc_int32_t c[CLUSTER * UNFOLD];
  const int how = UTF8PROC_COMPAT | UTF8PROC_CASEFOLD | UTF8PROC_IGNORE | UTF8PROC_COMPOSE | UTF8PROC_STABLE;
  utf8proc_ssize_t n = utf8proc_decompose((const utf8proc_uint8_t *)cluster.ptr, (utf8proc_ssize_t)cluster.len, c,
                                          PU_COUNT(c), (utf8proc_option_t)how);
  if (n < 0 || n > (utf8proc_ssize_t)PU_COUNT(c)) n = 0;
  n = (utf8proc_ssize_t)strip(c, (size_t)n);
  n = utf8proc_normalize_utf32(c, n, (utf8proc_option_t)(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
  for (utf8proc_ssize_t i = 0; i < n; i++) add(s, (uint32_t)c[i], at, at + cluster.len);
}

static size_t next(pu_str text, size_t at, uint32_t *c) {
  utf8proc_int32_t cp = -1;
  if (at == text.len) return 0;
  utf8proc_ssize_t n =
      utf8proc_iterate((const utf8proc_uint8_t *)text.ptr + at, (utf8proc_ssize_t)(text.len - at), &cp);
  *c = (uint32_t)cp;
  return n > 0 && cp >= 0 ? (size_t)n : 0;
}

/* Folds the cluster at a place; the bytes it has. */
static size_t cluster(state *s, pu_str text, size_t at) {
  uint32_t c, behind;
  size_t len = next(text, at, &c);
  if (len == 0) {
    add(s, ' ', at, at + 1);
    return 1;
  }
  if (c >= 0x4E00 && c <= 0x9FFF) { /* folds to itself, and marks on it say nothing */
    add(s, c, at, at + len);
    return len;
  }
  for (int i = 1; i < CLUSTER; i++) {
    size_t more = next(text, at + len, &behind);
    if (more == 0 || !extends(behind)) break;
    len += more;
  }
  fold(s, pu_str_of(text.ptr + at, len), at);
  return len;
}

int store_terms(pu_str text, int (*fn)(void *arg, const store_term *t), void *arg) {
  state s = {.fn = fn, .arg = arg};
  for (size_t at = 0; at < text.len && s.rc == 0;) {
    uint8_t c = (uint8_t)text.ptr[at];
    bool plain = c < 0x80 && (at + 1 == text.len || (uint8_t)text.ptr[at + 1] < 0x80);
    if (plain) {
      add(&s, c >= 'A' && c <= 'Z' ? c + 32u : c, at, at + 1);
      at++;
    } else {
      at += cluster(&s, text, at);
    }
  }
  word_end(&s);
  run_end(&s);
  return s.rc;
}
