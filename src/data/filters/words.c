/* Words and phrases on the user's lists, a line each, found all at once whatever their case: as C4's list of bad words
 * (Raffel et al. 2020) a document with one of them goes, until the bounds say otherwise. A word that begins or ends
 * with a letter or digit of a spaced script is found only where none stands beside it ("ass" is not in "class"). */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "src/data/filter_kit.h"

enum { HITS, PER_THOUSAND };
#define LIST_MAX ((size_t)64 << 20)

static const pu_measure measures[] = {
    [HITS] = {"hits", -INFINITY, 0, "occurrences of words on the user's lists (C4 drops at the first)"},
    [PER_THOUSAND] = {"per_thousand", -INFINITY, INFINITY, "occurrences in a thousand words"},
    {0},
};

typedef struct words {
  pu_buf lists, cased; /* cased: forms in small and capital letters of what is not ASCII */
  pu_str *v;
  size_t n, cap;
  bool failed;
  pu_match *match;
} words;

static void add(words *w, pu_str s) {
  if (w->n == w->cap) {
    size_t cap = PU_MAX((size_t)256, 2 * w->cap);
    pu_str *v = realloc(w->v, cap * sizeof *v);
    if (!v) {
      w->failed = true;
      return;
    }
    w->v = v;
    w->cap = cap;
  }
  w->v[w->n++] = s;
}

static void add_word(void *arg, pu_str line) {
  add(arg, line);
}

/* The automaton knows the case of ASCII letters only; of other words the other forms are added. */
static bool add_cased(words *w) {
  size_t n = w->n;
  for (size_t i = 0; i < 2 * n; i++) {
    pu_str s = w->v[i / 2];
    size_t begin = w->cased.len;
    for (size_t k = 0, step; k < s.len; k += step) {
      uint32_t cp = (uint8_t)s.ptr[k];
      if ((step = pu_utf8_next(pu_str_of(s.ptr + k, s.len - k), &cp)) == 0) step = 1;
      cp = (uint32_t)(i % 2 ? utf8proc_toupper((utf8proc_int32_t)cp) : utf8proc_tolower((utf8proc_int32_t)cp));
      if (cp >= 0x80)
        pu_utf8_put(&w->cased, cp);
      else
        pu_buf_putc(&w->cased, s.ptr[k]);
    }
    pu_str other = pu_str_of((const char *)begin, w->cased.len - begin); /* an offset, until the buffer is whole */
    if (w->cased.failed) return false;
    if (other.len == s.len && memcmp(w->cased.data + begin, s.ptr, s.len) == 0)
      w->cased.len = begin;
    else
      add(w, other);
  }
  for (size_t i = n; i < w->n; i++) w->v[i].ptr = w->cased.data + (size_t)w->v[i].ptr;
  return !w->failed;
}

static void close_words(void *shared) {
  words *w = shared;
  if (!w) return;
  pu_buf_deinit(&w->lists);
  pu_buf_deinit(&w->cased);
  pu_match_free(w->match);
  free(w->v);
  free(w);
}

static pu_err fill(words *w, const pu_filter_options *o, pu_error *e) {
  PU_TRY(pu_kit_lists(&o->words, &w->lists, e));
  pu_kit_list(pu_str_of(w->lists.data, w->lists.len), add_word, w);
  if (w->failed || !add_cased(w)) return pu_fail(e, PU_ERR_NOMEM, "no memory for a list of words");
  return pu_match_make(w->v, w->n, &w->match, e);
}

static pu_err open_words(const pu_filter_options *o, void **shared, pu_error *e) {
  words *w = calloc(1, sizeof *w);
  *shared = w;
  if (!w) return pu_fail(e, PU_ERR_NOMEM, "no memory for a list of words");
  pu_buf_init(&w->lists, LIST_MAX);
  pu_buf_init(&w->cased, 4 * LIST_MAX);
  pu_err err = fill(w, o, e);
  if (err == PU_OK) return PU_OK;
  close_words(w);
  *shared = NULL;
  return err;
}

/* Is the character at p one that words of spaced scripts are made of? */
static bool in_word(pu_str s, size_t at) {
  size_t chars, len = 1;
  while (at + len < s.len && ((uint8_t)s.ptr[at + len] & 0xC0) == 0x80) len++;
  pu_word_kind kind = pu_word_kind_of(s.ptr + at, len, &chars);
  return kind == PU_WORD_ALPHABETIC || kind == PU_WORD_NUMBER;
}

static bool in_word_before(pu_str s, size_t at) {
  size_t begin = at;
  while (begin > 0 && at - begin < 4) {
    begin--;
    if (((uint8_t)s.ptr[begin] & 0xC0) != 0x80) break;
  }
  return begin < at && in_word(s, begin);
}

/* Does a word of a spaced script go on at `at`, from one side to the other? */
static bool goes_on(pu_str s, size_t at) {
  return at > 0 && at < s.len && in_word_before(s, at) && in_word(s, at);
}

static pu_err apply(const void *shared, pu_doc *d, double *values, pu_error *e) {
  const words *w = shared;
  pu_str text = pu_str_of(d->text.data, d->text.len);
  size_t hits = 0;
  if (w->n == 0) return PU_OK;
  const pu_view *v = pu_doc_view(d);
  if (!v) return pu_kit_no_memory("words", e);
  size_t last = SIZE_MAX; /* of words that end together one counts */
  for (pu_match_at at = {0}; pu_match_next(w->match, text, &at);) {
    if (at.end == last || goes_on(text, at.begin) || goes_on(text, at.end)) continue;
    hits++;
    last = at.end;
  }
  values[HITS] = (double)hits;
  values[PER_THOUSAND] = v->n_words ? 1000.0 * (double)hits / (double)v->n_words : 0;
  return PU_OK;
}

const pu_filter pu_filter_words = {
    .name = "words",
    .summary = "finds words and phrases on the user's lists",
    .measures = measures,
    .open = open_words,
    .close = close_words,
    .apply = apply,
};
