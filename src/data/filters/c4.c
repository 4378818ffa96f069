/* The rules of C4 (Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
 * Transformer", section 2.2). Lines go that do not end in terminal punctuation, have fewer than three words, a word of
 * more than 1,000 characters, the word javascript, or a phrase of policy notices; marks of citations ([1], [edit],
 * [citation needed]) go out of the lines that stay. Documents go with a curly bracket, with "lorem ipsum", or with
 * fewer than five sentences left.
 *
 * Numbers of words and sentences as in the first version of the paper, C4's code and datatrove; the journal's version
 * has them the other way round. As in the code, a quotation mark ends a line, and an ellipsis does not. Curly brackets
 * and "lorem ipsum" are looked for in the whole document, as the paper says, not only in the lines that stay. Line
 * breaks between paragraphs are kept where lines on both sides are.
 *
 * Sentences end in . ! ? and white space; not after a single capital letter or a title (Mr., Dr.), nor before a small
 * letter. Text without spaces: 。！？ end lines and sentences, two characters are a word, and the notices are Chinese
 * ones, too. */
#include <stdlib.h>
#include <string.h>

#include "src/data/filter_kit.h"

enum { SENTENCES, CURLY, LOREM, KEPT };
enum { LINE_WORDS = 3, WORD_MAX = 1000 };

static const pu_measure measures[] = {
    [SENTENCES] = {"sentences", 5, INFINITY, "sentences in the lines that are kept (C4)"},
    [CURLY] = {"curly_brackets", -INFINITY, 0, "curly brackets (C4)"},
    [LOREM] = {"lorem_ipsum", -INFINITY, 0, "\"lorem ipsum\" (C4)"},
    [KEPT] = {"kept_lines", -INFINITY, INFINITY, "share of lines that are kept"},
    {0},
};

/* ---- phrases ---- */

typedef struct phrase {
  const char *text;
  int is; /* LINE, PAGE: what goes with it */
} phrase;
enum { LINE, PAGE };

static const phrase phrases[] = {
    {"javascript", LINE},   {"terms of use", LINE},   {"privacy policy", LINE}, {"cookie policy", LINE},
    {"uses cookies", LINE}, {"use of cookies", LINE}, {"use cookies", LINE},    {"使用条款", LINE},
    {"服务条款", LINE},     {"隐私政策", LINE},       {"隐私权政策", LINE},     {"cookie政策", LINE},
    {"使用cookie", LINE},   {"使用條款", LINE},       {"服務條款", LINE},       {"隱私政策", LINE},
    {"隱私權政策", LINE},   {"lorem ipsum", PAGE},
};

pu_err pu_c4_open(const pu_filter_options *o, void **shared, pu_error *e) {
  (void)o;
  pu_str v[PU_COUNT(phrases)];
  pu_match *m = NULL;
  for (size_t i = 0; i < PU_COUNT(phrases); i++) v[i] = pu_str_c(phrases[i].text);
  pu_err err = pu_match_make(v, PU_COUNT(v), &m, e);
  *shared = m;
  return err;
}

void pu_c4_close(void *shared) {
  pu_match_free(shared);
}

/* ---- lines ---- */

typedef struct c4 {
  pu_doc *d;
  const pu_view *v;
  bool strict;
  uint8_t *bad; /* [lines]: holds a phrase */
  size_t lorem;
} c4;

/* Bytes that the mark of a citation at the front of s takes; 0: there is none. */
static size_t citation(pu_str s) {
  static const char *const marks[] = {"[edit]", "[citation needed]"};
  size_t i = 1;
  for (size_t k = 0; k < PU_COUNT(marks); k++)
    if (s.len >= strlen(marks[k]) && memcmp(s.ptr, marks[k], strlen(marks[k])) == 0) return strlen(marks[k]);
  while (i < s.len && i < 8 && s.ptr[i] >= '0' && s.ptr[i] <= '9') i++;
  return i < s.len && s.ptr[i] == ']' ? i + 1 : 0;
}

/* The line without its citations at the end of `out`. */
static void put_line(pu_buf *out, pu_str line) {
  while (line.len > 0) {
    const char *open = memchr(line.ptr, '[', line.len);
    size_t plain = open ? (size_t)(open - line.ptr) : line.len;
    size_t gone = open ? citation(pu_str_of(open, line.len - plain)) : 0;
    size_t keep = gone || !open ? plain : plain + 1; /* a bracket that is none of them stays */
    pu_buf_append(out, line.ptr, keep);
    line = pu_str_of(line.ptr + keep + gone, line.len - keep - gone);
  }
}

static void mark_lines(c4 *c, const pu_match *m) {
  pu_str text = pu_str_of(c->d->text.data, c->d->text.len);
  size_t line = 0;
  for (pu_match_at at = {0}; pu_match_next(m, text, &at);) {
    c->lorem += phrases[at.pattern].is == PAGE;
    if (phrases[at.pattern].is != LINE) continue;
    while (line + 1 < c->v->n_lines && at.begin >= c->v->lines[line + 1].at) line++;
    c->bad[line] = 1;
  }
}

/* Has a line that ends before `end` three words, and none that is too long? *word: the first word that may be in it;
 * left behind it. */
static bool words_fit(const c4 *c, size_t end, size_t *word) {
  const char *text = c->d->text.data;
  size_t i = *word, n = c->v->n_words, halves = 0; /* of a word: a character of an unspaced script is one */
  bool fit = true;
  for (; i < n && c->v->words[i].at < end; i++) {
    pu_span w = c->v->words[i];
    if (w.len > WORD_MAX) fit = fit && pu_kit_chars(text + w.at, w.len) <= WORD_MAX;
    if (halves >= PU_KIT_UNSPACED_PER_WORD * LINE_WORDS) continue;
    pu_word_kind kind = pu_word_kind_fast(text + w.at, w.len);
    halves += kind == PU_WORD_UNSPACED ? 1 : kind == PU_WORD_MARK ? 0 : PU_KIT_UNSPACED_PER_WORD;
  }
  *word = i;
  return fit && halves >= PU_KIT_UNSPACED_PER_WORD * LINE_WORDS;
}

/* The lines that stay, in spare; returns how many. */
static size_t keep_lines(c4 *c) {
  const pu_view *v = c->v;
  pu_buf *out = &c->d->spare;
  size_t kept = 0, word = 0, paragraph = 0, last = SIZE_MAX;
  pu_buf_clear(out);
  for (size_t i = 0; i < v->n_lines; i++) {
    pu_span line = v->lines[i];
    bool fit = words_fit(c, line.at + line.len, &word) && !c->bad[i];
    while (paragraph + 1 < v->n_paragraphs && line.at >= v->paragraphs[paragraph + 1].at) paragraph++;
    if (!fit) continue;
    size_t before = out->len;
    if (kept > 0) pu_buf_append(out, "\n\n", last != paragraph ? 2 : 1);
    size_t begin = out->len;
    put_line(out, pu_str_of(c->d->text.data + line.at, line.len));
    if (out->failed) return 0;
    while (out->len > begin && out->data[out->len - 1] == ' ') out->len--;
    if (c->strict && !pu_kit_line_ends(pu_str_of(out->data + begin, out->len - begin), false, true)) {
      out->len = before;
      continue;
    }
    kept++;
    last = paragraph;
  }
  if (out->data) out->data[out->len] = '\0'; /* it was cut above */
  return kept;
}

/* ---- sentences ---- */

static bool is_upper(char c) {
  return c >= 'A' && c <= 'Z';
}

/* Is the full stop at i that of an initial or a title? */
static bool abbreviates(pu_str s, size_t i) {
  static const char *const titles[] = {"Mr", "Mrs", "Ms", "Dr", "St", "Prof", "vs", "Jr", "Sr", "No"};
  size_t begin = i;
  while (begin > 0 && i - begin < 5 && ((s.ptr[begin - 1] | 0x20) - 'a' + 0u) < 26) begin--;
  if (i - begin == 1 && is_upper(s.ptr[begin]) && s.ptr[begin] != 'I') return true;
  for (size_t k = 0; k < PU_COUNT(titles); k++)
    if (i - begin == strlen(titles[k]) && memcmp(s.ptr + begin, titles[k], i - begin) == 0) return true;
  return false;
}

static bool ascii_end(char c) {
  return c == '.' || c == '!' || c == '?';
}

/* Bytes of the sentence's end at i, quotes and further marks included; 0: none ends there. */
static size_t sentence_end(pu_str s, size_t i) {
  uint8_t c = (uint8_t)s.ptr[i];
  if (c == 0xE3 || c == 0xEF) {
    static const char wide[][4] = {"。", "！", "？"};
    for (size_t k = 0; k < PU_COUNT(wide); k++)
      if (s.len - i >= 3 && memcmp(s.ptr + i, wide[k], 3) == 0) return 3;
    return 0;
  }
  size_t end = i;
  if (!ascii_end((char)c)) return 0;
  while (end < s.len && ascii_end(s.ptr[end])) end++;
  bool plain = c == '.' && end == i + 1;
  if (plain && abbreviates(s, i)) return 0;
  while (end < s.len && strchr("\"')]", s.ptr[end]) && s.ptr[end]) end++;
  while (end + 3 <= s.len && (!memcmp(s.ptr + end, "”", 3) || !memcmp(s.ptr + end, "’", 3))) end += 3;
  if (end < s.len && s.ptr[end] != ' ' && s.ptr[end] != '\n') return 0;
  if (plain && end + 1 < s.len && s.ptr[end + 1] >= 'a' && s.ptr[end + 1] <= 'z') return 0;
  return end - i;
}

/* Can a sentence begin with the character at i? Letters and digits; marks of typography cannot. */
static bool opens(pu_str s, size_t i) {
  uint8_t c = (uint8_t)s.ptr[i];
  if (c < 0xC0) return (uint8_t)((c | 0x20) - 'a') < 26 || (uint8_t)(c - '0') < 10;
  return !((c == 0xE2 || c == 0xE3) && i + 1 < s.len && (uint8_t)s.ptr[i + 1] == 0x80);
}

static size_t sentences(pu_str s) {
  static const uint8_t ends[256] = {['.'] = 1, ['!'] = 1, ['?'] = 1, [0xE3] = 1, [0xEF] = 1}; /* first bytes of marks */
  size_t n = 0, step;
  bool open = false; /* words since the last end */
  for (size_t i = 0; i < s.len; i += step) {
    step = 1;
    if (!ends[(uint8_t)s.ptr[i]]) {
      while (open && i + step < s.len && !ends[(uint8_t)s.ptr[i + step]]) step++;
      open = open || opens(s, i);
      continue;
    }
    if ((step = sentence_end(s, i)) > 0) {
      n += open;
      open = false;
      continue;
    }
    open = open || opens(s, i);
    step = 1;
  }
  return n + open;
}

/* ---- one document ---- */

static size_t count_curly(pu_str s) {
  size_t n = 0;
  for (const char *p = s.ptr, *end = p + s.len; s.len && (p = memchr(p, '{', (size_t)(end - p))); p++) n++;
  for (const char *p = s.ptr, *end = p + s.len; s.len && (p = memchr(p, '}', (size_t)(end - p))); p++) n++;
  return n;
}

pu_err pu_c4_apply(const void *shared, pu_doc *d, double *values, bool strict, pu_error *e) {
  const pu_view *v = pu_doc_view(d);
  size_t mark = pu_arena_mark(d->arena);
  if (!v) return pu_kit_no_memory("c4", e);
  c4 c = {.d = d, .v = v, .strict = strict, .bad = pu_arena_zalloc(d->arena, v->n_lines + 1)};
  if (!c.bad) return pu_kit_no_memory("c4", e);
  mark_lines(&c, shared);
  size_t all = v->n_lines, kept = keep_lines(&c);
  pu_arena_release(d->arena, mark);
  if (d->spare.failed) return pu_kit_no_memory("c4", e);
  values[CURLY] = (double)count_curly(pu_str_of(d->text.data, d->text.len));
  values[LOREM] = (double)c.lorem;
  values[KEPT] = all ? (double)kept / (double)all : 0;
  values[SENTENCES] = (double)sentences(pu_str_of(d->spare.data, d->spare.len));
  bool cited = kept == all && memmem(d->text.data, d->text.len, "[", 1);
  if (kept < all || cited) return pu_kit_rewritten(d, "c4", e);
  pu_buf_clear(&d->spare);
  return PU_OK;
}

static pu_err apply(const void *shared, pu_doc *d, double *values, pu_error *e) {
  return pu_c4_apply(shared, d, values, true, e);
}

const pu_filter pu_filter_c4 = {
    .name = "c4",
    .summary = "C4's rules: lines that are no sentences go, and pages of code, filler and few sentences",
    .measures = measures,
    .rewrites = true,
    .open = pu_c4_open,
    .close = pu_c4_close,
    .apply = apply,
};
