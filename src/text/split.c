#include "src/text/split.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "puyu/text.h"
#include "src/text/unicode.h"

#define REST  "[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define CALLS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
const char split_pattern_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char split_pattern_llama3[] = CALLS "\\p{N}{1,3}| ?" REST;
const char split_pattern_qwen2[] = CALLS "\\p{N}| ?" REST;

/* Length of the word at p; n > 0. */
typedef size_t (*scan_fn)(const uint8_t *p, size_t n);

struct text_splitter {
  scan_fn scan;     /* or */
  pcre2_code *code; /* a pattern, or */
  bool digits, individual;
  split_behavior behavior;
  bool invert;
};

/* ---- character classes ------------------------------------------------------------------------------------------- */

typedef enum char_class { OTHER, LETTER, NUMBER, SPACE, NEWLINE, END } char_class;

/* Rows of 32: controls, punctuation and digits, capitals, small letters. */
static const uint8_t ascii_class[128] = {
    [9] = SPACE,   [10] = NEWLINE,         [11] = SPACE,           [12] = SPACE,          [13] = NEWLINE,
    [' '] = SPACE, ['0' ... '9'] = NUMBER, ['A' ... 'Z'] = LETTER, ['a' ... 'z'] = LETTER};

static char_class wide_class(uint32_t c) {
  if (c >= 0x4E00 && c <= 0x9FFF) return LETTER; /* the common ideographs, without a look into the tables */
  if (text_is_space(c)) return SPACE;
  switch (utf8proc_category((utf8proc_int32_t)c)) {
  case UTF8PROC_CATEGORY_LU:
  case UTF8PROC_CATEGORY_LL:
  case UTF8PROC_CATEGORY_LT:
  case UTF8PROC_CATEGORY_LM:
  case UTF8PROC_CATEGORY_LO:
    return LETTER;
  case UTF8PROC_CATEGORY_ND:
  case UTF8PROC_CATEGORY_NL:
  case UTF8PROC_CATEGORY_NO:
    return NUMBER;
  default:
    return OTHER;
  }
}

/* Class and length of the character at p; a byte that is not UTF-8 is a character of its own. END where n is 0. */
static inline char_class class_at(const uint8_t *p, size_t n, size_t *len) {
  *len = 1;
  if (n == 0) return END;
  if (p[0] < 0x80) return (char_class)ascii_class[p[0]];
  uint32_t cp;
  size_t l = pu_utf8_next(pu_str_of((const char *)p, n), &cp);
  if (l == 0) return OTHER;
  *len = l;
  return wide_class(cp);
}

static inline bool is_space(char_class c) {
  return c == SPACE || c == NEWLINE;
}

/* End of the run of class c from i, of at most max characters. */
static size_t run_end(const uint8_t *p, size_t n, size_t i, char_class c, size_t max) {
  size_t len;
  while (max-- > 0 && class_at(p + i, n - i, &len) == c) i += len;
  return i;
}

/* ---- the scanners: each is its pattern, alternative by alternative ----------------------------------------------- */

/* 's 't 're 've 'm 'll 'd; without case also U+017F, which folds to s. 0: none. */
static size_t contraction(const uint8_t *p, size_t n, bool fold) {
  if (n < 2 || p[0] != '\'') return 0;
  uint8_t a = fold ? p[1] | 0x20 : p[1], b = n > 2 ? (fold ? p[2] | 0x20 : p[2]) : 0;
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
  return fold && n > 2 && p[1] == 0xC5 && p[2] == 0xBF ? 3 : 0;
}

/* \s+(?!\S)|\s+ : all of the run but its last character, which goes with the next word, unless that leaves nothing. */
static size_t space_run(const uint8_t *p, size_t n) {
  size_t i = 0, last = 0, len;
  while (is_space(class_at(p + i, n - i, &len))) {
    last = i;
    i += len;
  }
  return i == n || last == 0 ? i : last;
}

static size_t scan_gpt2(const uint8_t *p, size_t n) {
  size_t len, i = contraction(p, n, false);
  if (i > 0) return i;
  char_class c = class_at(p, n, &len);
  if (p[0] == ' ') {
    i = 1;
    c = class_at(p + 1, n - 1, &len);
  }
  if (is_space(c) || c == END) return space_run(p, n);
  return run_end(p, n, i, c, SIZE_MAX);
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ : to the last line break of the run. */
static size_t lines_run(const uint8_t *p, size_t n) {
  size_t len, after_break = 0;
  for (size_t i = 0;; i += len) {
    char_class c = class_at(p + i, n - i, &len);
    if (!is_space(c)) break;
    if (c == NEWLINE) after_break = i + len;
  }
  return after_break > 0 ? after_break : space_run(p, n);
}

static size_t scan_llama(const uint8_t *p, size_t n, size_t digits) {
  size_t len, len2, i = contraction(p, n, true);
  if (i > 0) return i;
  char_class c = class_at(p, n, &len);
  if (c == LETTER) return run_end(p, n, len, LETTER, SIZE_MAX);
  if (c == NUMBER) return run_end(p, n, len, NUMBER, digits - 1);
  char_class next = class_at(p + len, n - len, &len2);
  if (next == LETTER && c != NEWLINE) return run_end(p, n, len, LETTER, SIZE_MAX);
  if (c == OTHER || (p[0] == ' ' && next == OTHER)) {
    i = run_end(p, n, len, OTHER, SIZE_MAX);
    return run_end(p, n, i, NEWLINE, SIZE_MAX);
  }
  return lines_run(p, n);
}

static size_t scan_llama3(const uint8_t *p, size_t n) {
  return scan_llama(p, n, 3);
}

static size_t scan_qwen2(const uint8_t *p, size_t n) {
  return scan_llama(p, n, 1);
}

static const struct {
  const char *pattern;
  scan_fn scan;
} known[] = {{split_pattern_gpt2, scan_gpt2}, {split_pattern_llama3, scan_llama3}, {split_pattern_qwen2, scan_qwen2}};

const char *text_splitter_pattern(const text_splitter *s) {
  for (size_t i = 0; i < PU_COUNT(known); i++)
    if (s->scan == known[i].scan) return known[i].pattern;
  return NULL;
}

/* ---- making splitters -------------------------------------------------------------------------------------------- */

static pu_err new_splitter(text_splitter like, text_splitter **out, pu_error *e) {
  *out = malloc(sizeof **out);
  if (!*out) return pu_fail(e, PU_ERR_NOMEM, "tokenizer.json: no memory for its pre-tokenizer");
  **out = like;
  return PU_OK;
}

pu_err text_splitter_regex(pu_str pattern, split_behavior behavior, bool invert, bool plain, text_splitter **out,
                           pu_error *e) {
  text_splitter s = {.behavior = behavior, .invert = invert};
  for (size_t i = 0; i < PU_COUNT(known) && !plain && behavior == SPLIT_ISOLATED; i++) {
    if (pu_str_eq(pattern, pu_str_c(known[i].pattern))) s.scan = known[i].scan;
  }
  if (s.scan) return new_splitter(s, out, e);
  int number;
  PCRE2_SIZE at;
  s.code = pcre2_compile((PCRE2_SPTR)pattern.ptr, pattern.len, PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF, &number,
                         &at, NULL);
  if (!s.code) {
    char why[160];
    pcre2_get_error_message(number, (PCRE2_UCHAR *)why, sizeof why);
    return pu_fail(e, PU_ERR_UNSUPPORTED, "tokenizer.json: PCRE2 cannot compile the pre-tokenizer's pattern: %s at %zu",
                   why, (size_t)at);
  }
  (void)pcre2_jit_compile(s.code, PCRE2_JIT_COMPLETE); /* without JIT it is slower, no more */
  pu_err err = new_splitter(s, out, e);
  if (err != PU_OK) pcre2_code_free(s.code);
  return err;
}

pu_err text_splitter_digits(bool individual, text_splitter **out, pu_error *e) {
  return new_splitter((text_splitter){.digits = true, .individual = individual}, out, e);
}

void text_splitter_free(text_splitter *s) {
  if (!s) return;
  pcre2_code_free(s->code);
  free(s);
}

/* ---- splitting --------------------------------------------------------------------------------------------------- */

typedef struct splitting {
  text_splitter *const *splitters;
  int left; /* splitters still to come */
  split_fn fn;
  void *arg;
} splitting;

static pu_err emit(const splitting *s, const uint8_t *p, size_t n, pu_error *e) {
  if (n == 0) return PU_OK;
  return text_split(s->splitters + 1, s->left - 1, p, n, s->fn, s->arg, e);
}

static pu_err split_digits(const splitting *s, const uint8_t *p, size_t n, pu_error *e) {
  for (size_t i = 0, len; i < n;) {
    size_t begin = i;
    if (class_at(p + i, n - i, &len) == NUMBER) {
      i = run_end(p, n, i, NUMBER, s->splitters[0]->individual ? 1 : SIZE_MAX);
    } else {
      while (i < n && class_at(p + i, n - i, &len) != NUMBER) i += len;
    }
    PU_TRY(emit(s, p + begin, i - begin, e));
  }
  return PU_OK;
}

/* The words of a pattern come as stretches that match and stretches that do not; `held` is the beginning of a word
 * that the behaviour may still lengthen. */
typedef struct stretches {
  const splitting *s;
  const uint8_t *p;
  size_t held, end; /* [held, end) is not yet given out */
  bool was_match;
} stretches;

static pu_err flush(stretches *st, pu_error *e) {
  size_t begin = st->held;
  st->held = st->end;
  return emit(st->s, st->p + begin, st->end - begin, e);
}

static pu_err stretch(stretches *st, size_t end, bool match, pu_error *e) {
  if (end == st->end) return PU_OK;
  bool join = false;
  switch (st->s->splitters[0]->behavior) {
  case SPLIT_PREVIOUS:
    join = match && !st->was_match;
    break;
  case SPLIT_NEXT:
    join = !match && st->was_match;
    break;
  case SPLIT_CONTIGUOUS:
    join = match == st->was_match;
    break;
  default:
    break;
  }
  if (!join) PU_TRY(flush(st, e));
  st->end = end;
  st->was_match = match;
  if (match && st->s->splitters[0]->behavior == SPLIT_REMOVED) st->held = end;
  return PU_OK;
}

static pu_err split_regex(const splitting *s, const uint8_t *p, size_t n, pu_error *e) {
  const text_splitter *sp = s->splitters[0];
  pcre2_match_data *md = pcre2_match_data_create_from_pattern(sp->code, NULL);
  if (!md) return pu_fail(e, PU_ERR_NOMEM, "no memory to split a text");
  stretches st = {.s = s, .p = p};
  pu_err err = PU_OK;
  for (size_t from = 0; from < n && err == PU_OK;) {
    int rc = pcre2_match(sp->code, p, n, from, 0, md, NULL);
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) {
      err = pu_fail(e, PU_ERR_UNSUPPORTED, "the pre-tokenizer's pattern gave up on a text (PCRE2 error %d)", rc);
      break;
    }
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(md);
    from = at[1] > from ? at[1] : from + 1; /* an empty match: on by one byte */
    if (at[1] <= at[0]) continue;
    err = stretch(&st, at[0], sp->invert, e);
    if (err == PU_OK) err = stretch(&st, at[1], !sp->invert, e);
  }
  if (err == PU_OK) err = stretch(&st, n, sp->invert, e);
  if (err == PU_OK) err = flush(&st, e);
  pcre2_match_data_free(md);
  return err;
}

pu_err text_split(text_splitter *const *splitters, int n_splitters, const uint8_t *p, size_t n, split_fn fn, void *arg,
                  pu_error *e) {
  if (n_splitters == 0) return n > 0 ? fn(arg, p, n, e) : PU_OK;
  const splitting s = {splitters, n_splitters, fn, arg};
  if (splitters[0]->code) return split_regex(&s, p, n, e);
  if (splitters[0]->digits) return split_digits(&s, p, n, e);
  for (size_t i = 0, len; i < n; i += len) {
    len = splitters[0]->scan(p + i, n - i);
    PU_TRY(n_splitters == 1 ? fn(arg, p + i, len, e) : emit(&s, p + i, len, e));
  }
  return PU_OK;
}
