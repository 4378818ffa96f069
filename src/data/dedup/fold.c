/* Folding: a text as tokens that do not know case, width, accents, spaces and punctuation. */
#include <pthread.h>
#include <utf8proc.h>

#include "puyu/text.h"
#include "src/data/dedup/shingle.h"

/* What a code point becomes: the folded one with flags, or one of these. */
enum { ENDS = 0, NOTHING = 1, SEVERAL = 2 };
#define ALONE 0x80000000u /* a token of its own */

enum { FOLDED_MAX = 32 };

static uint32_t table[0x10000]; /* the basic plane */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static bool between(uint32_t c, uint32_t from, uint32_t to) {
  return c >= from && c <= to;
}

/* Scripts written without spaces between words. */
static bool unspaced(uint32_t c) {
  return between(c, 0x2e80, 0x2fdf) || between(c, 0x3005, 0x3007) || between(c, 0x3040, 0x30ff) ||
         between(c, 0x3100, 0x312f) || between(c, 0x31a0, 0x31bf) || between(c, 0x31f0, 0x31ff) ||
         between(c, 0x3400, 0x4dbf) || between(c, 0x4e00, 0x9fff) || between(c, 0xf900, 0xfaff) ||
         between(c, 0x20000, 0x3ffff) || between(c, 0x0e00, 0x0eff) || between(c, 0x0f00, 0x0fff) ||
         between(c, 0x1000, 0x109f) || between(c, 0x1780, 0x17ff);
}

static bool counts(uint32_t c) {
  utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
  return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO) ||
         (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO);
}

/* Marks and what cannot be seen stand inside of words without being part of them. */
static bool vanishes(uint32_t c) {
  utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
  return (k >= UTF8PROC_CATEGORY_MN && k <= UTF8PROC_CATEGORY_ME) || k == UTF8PROC_CATEGORY_CF;
}

/* The letters and digits of a code point's compatibility decomposition, folded; returns how many. */
static int fold_point(uint32_t c, uint32_t *out) {
  if (between(c, 0xac00, 0xd7a3)) { /* Hangul syllables stay whole */
    out[0] = c;
    return 1;
  }
  utf8proc_int32_t parts[FOLDED_MAX];
  int last = 0, n = 0;
  utf8proc_ssize_t got =
      utf8proc_decompose_char((utf8proc_int32_t)c, parts, FOLDED_MAX,
                              UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT | UTF8PROC_CASEFOLD | UTF8PROC_STRIPMARK, &last);
  for (utf8proc_ssize_t i = 0; i < got && i < FOLDED_MAX; i++)
    if (counts((uint32_t)parts[i])) out[n++] = (uint32_t)parts[i];
  return n;
}

static uint32_t class_of(uint32_t c) {
  uint32_t parts[FOLDED_MAX];
  int n = fold_point(c, parts);
  if (n == 0) return vanishes(c) ? NOTHING : ENDS;
  if (n > 1) return SEVERAL;
  return parts[0] | (unspaced(parts[0]) ? ALONE : 0);
}

static void table_make(void) {
  for (uint32_t c = 0; c < PU_COUNT(table); c++) table[c] = between(c, 0xd800, 0xdfff) ? ENDS : class_of(c);
}

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

#define STEP(h, c) (((h) ^ (c)) * 0x9fb21c651e98df25u)
#define START      0x243f6a8885a308d3u

/* The word that is being read, and where tokens go. */
typedef struct run {
  uint64_t hash;
  size_t from, end; /* of the word; from SIZE_MAX: none is open */
  pu_token *out;
  size_t n;
} run;

static inline void run_end(run *r) {
  if (r->from == SIZE_MAX) return;
  r->out[r->n++] = (pu_token){pu_mix64(r->hash), (uint32_t)r->from, (uint32_t)(r->end - r->from)};
  r->from = SIZE_MAX;
}

static inline void run_letter(run *r, uint32_t c, size_t at, size_t len) {
  if (r->from == SIZE_MAX) {
    r->from = at;
    r->hash = START;
  }
  r->hash = STEP(r->hash, c);
  r->end = at + len;
}

static void run_alone(run *r, uint32_t c, size_t at, size_t len) {
  run_end(r);
  run_letter(r, c, at, len);
  run_end(r);
}

/* Characters that fold to several (ß, ﬁ, ㍿) and those of the upper planes. The tokens of ㍿ are one: there may be no
 * more tokens than bytes. */
static void run_odd(run *r, uint32_t c, size_t at, size_t len) {
  uint32_t parts[FOLDED_MAX];
  int n = fold_point(c, parts);
  if (n == 0 && !vanishes(c)) run_end(r);
  bool alone = n > 0 && unspaced(parts[0]);
  if (alone) run_end(r);
  for (int i = 0; i < n; i++) run_letter(r, parts[i], at, len);
  if (alone) run_end(r);
}

/* One character behind ASCII; returns its length. */
static size_t run_wide(run *r, const uint8_t *p, size_t left, size_t at) {
  uint32_t c;
  size_t len;
  if ((p[0] & 0xf0) == 0xe0 && left >= 3 && (p[1] & 0xc0) == 0x80 && (p[2] & 0xc0) == 0x80) {
    c = (uint32_t)(p[0] & 15) << 12 | (uint32_t)(p[1] & 63) << 6 | (p[2] & 63);
    len = 3;
  } else {
    len = pu_utf8_next(pu_str_of((const char *)p, left), &c);
  }
  if (len == 0) {
    run_end(r);
    return 1;
  }
  uint32_t k = c < PU_COUNT(table) ? table[c] : SEVERAL;
  if (k & ALONE)
    run_alone(r, k & ~ALONE, at, len);
  else if (k > SEVERAL)
    run_letter(r, k, at, len);
  else if (k == SEVERAL)
    run_odd(r, c, at, len);
  else if (k == ENDS)
    run_end(r);
  return len;
}

size_t pu_fold_next(pu_folder *f, pu_token *out, size_t max) {
  pthread_once(&once, table_make);
  const uint8_t *p = (const uint8_t *)f->text.ptr;
  size_t n = f->text.len, i = f->at;
  run r = {.from = SIZE_MAX, .out = out};
  while (i < n && r.n + 2 <= max) { /* a character ends a word and is one: two tokens at most */
    if (p[i] >= 0x80) {
      i += run_wide(&r, p + i, n - i, i);
      continue;
    }
    uint32_t k = table[p[i]];
    if (k <= SEVERAL) {
      run_end(&r);
      i++;
      continue;
    }
    size_t from = i;
    uint64_t h = r.from == SIZE_MAX ? START : r.hash;
    do {
      h = STEP(h, k);
      i++;
    } while (i < n && p[i] < 0x80 && (k = table[p[i]]) > SEVERAL);
    if (r.from == SIZE_MAX) r.from = from;
    r.hash = h;
    r.end = i;
  }
  if (i < n && r.from != SIZE_MAX) i = r.from; /* no room: the word that is open comes again */
  if (i >= n) run_end(&r);
  f->at = i;
  return r.n;
}

/* ---- as text ----------------------------------------------------------------------------------------------------- */

bool pu_fold_text(pu_str text, pu_buf *out) {
  pu_token tokens[256];
  pu_folder f = {text, 0};
  for (size_t n; (n = pu_fold_next(&f, tokens, PU_COUNT(tokens))) > 0;)
    for (size_t i = 0; i < n; i++) {
      pu_str word = pu_str_of(text.ptr + tokens[i].at, tokens[i].len);
      for (size_t at = 0; at < word.len;) {
        uint32_t c, parts[FOLDED_MAX];
        size_t len = pu_utf8_next(pu_str_of(word.ptr + at, word.len - at), &c);
        int k = len ? fold_point(c, parts) : 0;
        for (int j = 0; j < k; j++) pu_utf8_put(out, parts[j]);
        at += PU_MAX(len, 1);
      }
      pu_buf_putc(out, ' ');
    }
  return !out->failed;
}
