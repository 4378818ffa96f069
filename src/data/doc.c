/* Documents: their memory, and the view of words, lines and paragraphs that filters share. */
#include <stdlib.h>
#include <string.h>

#include "src/data/doc.h"
#include "src/data/script.h"

enum { KEPT_MAX = 64 << 10 };
#define ARENA_MAX ((size_t)8 << 30) /* address space only: an n-gram table of the longest text, and more */

pu_err pu_doc_init(pu_doc *d, pu_error *e) {
  *d = (pu_doc){0};
  pu_buf_init(&d->text, PU_BUF_MAX);
  pu_buf_init(&d->spare, PU_BUF_MAX);
  PU_TRY(pu_arena_create(ARENA_MAX, &d->arena, e));
  pu_doc_clear(d);
  return PU_OK;
}

void pu_doc_deinit(pu_doc *d) {
  pu_buf_deinit(&d->text);
  pu_buf_deinit(&d->spare);
  pu_arena_free(d->arena);
  free(d->view.words);
  free(d->view.word_hashes);
  free(d->view.lines);
  free(d->view.paragraphs);
  *d = (pu_doc){0};
}

void pu_doc_clear(pu_doc *d) {
  pu_arena_reset(d->arena);
  pu_buf_clear(&d->text);
  pu_buf_clear(&d->spare);
  d->id = d->source = d->repository = d->url = d->title = d->author = d->time = d->lang = (pu_str){0};
  d->type = pu_str_c("text");
  d->seen = false;
}

void pu_doc_rewritten(pu_doc *d) {
  pu_buf text = d->spare;
  d->spare = d->text;
  d->text = text;
  pu_buf_clear(&d->spare);
  d->seen = false;
}

pu_str pu_doc_keep(pu_doc *d, pu_str s) {
  size_t len = PU_MIN(s.len, (size_t)KEPT_MAX);
  while (len < s.len && len > 0 && ((uint8_t)s.ptr[len] & 0xC0) == 0x80) len--;
  s.len = len;
  char *copy = pu_arena_alloc(d->arena, 3 * len + 1);
  if (!copy) return (pu_str){0};
  size_t n = 0;
  for (size_t i = 0; i < len;) {
    uint32_t cp;
    size_t step = pu_utf8_next(pu_str_of(s.ptr + i, len - i), &cp);
    memcpy(copy + n, step ? s.ptr + i : "\xEF\xBF\xBD", step ? step : 3);
    n += step ? step : 3;
    i += step ? step : 1;
  }
  copy[n] = '\0';
  return pu_str_of(copy, n);
}

/* ---- the view ---- */

static inline bool is_space(uint8_t c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool grow(void *v, size_t want, size_t *cap, size_t size) {
  if (want <= *cap) return true;
  size_t cap_new = PU_MAX(PU_MAX((size_t)256, want), 2 * *cap);
  void *old, *bigger;
  memcpy(&old, v, sizeof old); /* v points at a pointer of any type */
  if (!(bigger = realloc(old, cap_new * size))) return false;
  memcpy(v, &bigger, sizeof bigger);
  *cap = cap_new;
  return true;
}

/* Up to eight bytes as a number, NULs behind them. */
static inline uint64_t number_of(const char *p, size_t len) {
  uint64_t a = 0;
  if (len >= 8) {
    memcpy(&a, p, 8);
  } else if (len >= 4) {
    uint32_t first, last;
    memcpy(&first, p, 4);
    memcpy(&last, p + len - 4, 4);
    a = first | (uint64_t)last << 8 * (len - 4);
  } else {
    for (size_t k = 0; k < len; k++) a |= (uint64_t)(uint8_t)p[k] << 8 * k;
  }
  return a;
}

/* Of a word's bytes: those of up to eight bytes, most, share none (where they hold no NUL). Inlined: a call costs more.
 */
static inline uint64_t hash_of(const char *p, size_t len) {
  if (len > 16) return pu_hash64(p, len, 0);
  uint64_t a = number_of(p, len) * 0x9E3779B185EBCA87u;
  if (len > 8) {
    uint64_t b = number_of(p + len - 8, 8) * 0xC2B2AE3D27D4EB4Fu + len * 0x27D4EB2F165667C5u;
    a ^= b << 31 | b >> 33;
  }
  a = (a ^ a >> 29) * 0x165667B19E3779F9u;
  return a ^ a >> 32;
}

static bool grow_words(pu_doc *d) {
  size_t cap = d->cap_words;
  if (!grow(&d->view.word_hashes, cap + 1, &cap, sizeof *d->view.word_hashes)) return false;
  return grow(&d->view.words, d->cap_words + 1, &d->cap_words, sizeof *d->view.words);
}

static inline bool add_word(pu_doc *d, size_t at, size_t end) {
  pu_view *v = &d->view;
  if (v->n_words == d->cap_words && !grow_words(d)) return false;
  v->word_hashes[v->n_words] = hash_of(d->text.data + at, end - at);
  v->words[v->n_words++] = (pu_span){(uint32_t)at, (uint32_t)(end - at)};
  return true;
}

/* Is the character at s, of which left bytes are there, of the block that most Chinese is in (U+4E00 to U+9FFF)? */
static inline bool is_han(const uint8_t *s, size_t left) {
  return left >= 3 && ((s[0] >= 0xE5 && s[0] <= 0xE9) || (s[0] == 0xE4 && s[1] >= 0xB8));
}

/* Where the run of ASCII characters at i ends that are no spaces. */
static inline size_t ascii_run(const uint8_t *s, size_t i, size_t n) {
  while (i < n && s[i] < 0x80 && (s[i] > ' ' || !is_space(s[i]))) i++;
  return i;
}

static size_t ascii_letters(const uint8_t *s, size_t n) {
  size_t letters = 0;
  for (size_t i = 0; i < n;) { /* in pieces whose count a small number holds: so it is made of vectors */
    uint32_t some = 0;
    for (size_t end = PU_MIN(n, i + 4096); i < end; i++) some += (uint8_t)((s[i] | 0x20) - 'a') < 26;
    letters += some;
  }
  return letters;
}

/* Words, and counts of characters. A word ends where the kind of its characters does: one of an unspaced script at
 * once, a run of its marks where they end, any other at a space or such a character. */
static bool find_words(pu_doc *d) {
  const uint8_t *s = (const uint8_t *)d->text.data;
  size_t n = d->text.len, begin = 0, han = 0, chars = 0, letters = ascii_letters(s, n);
  pu_script open = PU_SCRIPT_SPACE; /* of the word that began at `begin`; of spaces: none */
  for (size_t i = 0, step, more; i < n; i += step, chars += more) {
    uint32_t cp = s[i];
    pu_script is;
    step = more = 1;
    if (cp < 0x80) {
      is = is_space((uint8_t)cp) ? PU_SCRIPT_SPACE : PU_SCRIPT_LETTER;
      if (is != PU_SCRIPT_SPACE) step = more = ascii_run(s, i, n) - i;
    } else if (is_han(s + i, n - i)) {
      is = PU_SCRIPT_UNSPACED;
      step = 3;
    } else {
      step = pu_utf8_next(pu_str_of((const char *)s + i, n - i), &cp);
      is = step ? pu_script_of(cp) : PU_SCRIPT_SPACE;
      step += step == 0;
      letters += is == PU_SCRIPT_LETTER;
    }
    han += is == PU_SCRIPT_UNSPACED;
    if (is == PU_SCRIPT_MARK || is == PU_SCRIPT_SYMBOL) is = PU_SCRIPT_LETTER;
    if (is == open && is != PU_SCRIPT_UNSPACED) continue;
    if (open != PU_SCRIPT_SPACE && !add_word(d, begin, i)) return false;
    open = is;
    begin = i;
  }
  if (open != PU_SCRIPT_SPACE && !add_word(d, begin, n)) return false;
  d->view.n_chars = chars;
  d->view.n_han = han;
  d->view.unspaced = (double)han > 0.3 * (double)(letters + han);
  return true;
}

static pu_span trimmed(const char *s, size_t at, size_t end) {
  while (at < end && is_space((uint8_t)s[at])) at++;
  while (end > at && is_space((uint8_t)s[end - 1])) end--;
  return (pu_span){(uint32_t)at, (uint32_t)(end - at)};
}

static bool find_lines(pu_doc *d) {
  const char *s = d->text.data;
  pu_view *v = &d->view;
  bool in_paragraph = false;
  for (size_t at = 0; at < d->text.len;) {
    const char *nl = memchr(s + at, '\n', d->text.len - at);
    size_t end = nl ? (size_t)(nl - s) : d->text.len;
    pu_span line = trimmed(s, at, end);
    at = end + 1;
    if (line.len == 0) {
      in_paragraph = false;
      continue;
    }
    if (!grow(&v->lines, v->n_lines + 1, &d->cap_lines, sizeof *v->lines)) return false;
    v->lines[v->n_lines++] = line;
    if (!in_paragraph) {
      if (!grow(&v->paragraphs, v->n_paragraphs + 1, &d->cap_paragraphs, sizeof *v->paragraphs)) return false;
      v->paragraphs[v->n_paragraphs++] = line;
    }
    pu_span *p = &v->paragraphs[v->n_paragraphs - 1];
    p->len = line.at + line.len - p->at;
    in_paragraph = true;
  }
  return true;
}

const pu_view *pu_doc_view(pu_doc *d) {
  if (d->seen) return &d->view;
  d->view.n_words = d->view.n_lines = d->view.n_paragraphs = d->view.n_chars = d->view.n_han = 0;
  if (!find_words(d) || !find_lines(d)) return NULL;
  d->seen = true;
  return &d->view;
}
