/* Texts made alike where nothing is lost by it.
 *
 * Characters: mojibake is mended (UTF-8 that was read as Latin-1 or Windows-1252, once or twice); control and
 * zero-width characters go; line ends become \n and other spaces a space; the rest is composed (Unicode's NFC). With
 * nfkc also those compatibility forms that are mere shapes of other characters: ligatures, half-width kana and hangul,
 * Arabic presentation forms, Kangxi radicals, small and vertical forms of punctuation. Superscripts, circled digits,
 * fractions and the like mean something and stay. On demand full-width letters and digits become ASCII, and traditional
 * characters simplified or the other way round (filter_han.c).
 *
 * White space: none at the ends of lines, one space for several inside a line, one blank line for several.
 *
 * Code (documents of type code, fenced blocks of the others) keeps everything but control characters and foreign line
 * ends; tables and indented lines keep their spaces, Markdown its line breaks of two spaces. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "src/data/filter_kit.h"

enum { CHANGED, REMOVED, MENDED };

static const pu_measure measures[] = {
    [CHANGED] = {"changed", -INFINITY, INFINITY, "1 where the text was changed"},
    [REMOVED] = {"removed_characters", -INFINITY, INFINITY, "control and zero-width characters that were taken out"},
    [MENDED] = {"mended_lines", -INFINITY, INFINITY, "lines whose mojibake was mended"},
    {0},
};

enum { HAN_FIRST = 0x3400, HAN_N = 0xA000 - HAN_FIRST, CLUSTER = 30 };

typedef struct tables {
  bool nfkc, half, fold;
  uint16_t han[HAN_N]; /* what a character becomes; 0: itself */
  uint8_t plain[256];  /* bytes of the character that begins so, where it always stays as it is; 0: look closer */
} tables;

typedef struct work {
  const tables *t;
  pu_buf *out;
  pu_str in;
  bool code;
  size_t removed, mended;
} work;

/* ---- mojibake ---- */

/* The byte that Windows-1252 (or Latin-1) shows as cp; -1: none. */
static int byte_of(uint32_t cp) {
  static const uint16_t high[32] = {0x20AC, 0x81,   0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021,
                                    0x02C6, 0x2030, 0x0160, 0x2039, 0x0152, 0x8D,   0x017D, 0x8F,
                                    0x90,   0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014,
                                    0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0x9D,   0x017E, 0x0178};
  if (cp < 0x100) return (int)cp;
  for (int i = 0; i < 32; i++)
    if (high[i] == cp) return 0x80 + i;
  return -1;
}

/* Is it likely that somebody wrote the character cp, which mojibake would stand for? */
static bool is_usual(uint32_t cp) {
  return cp < 0x800 || (cp >= 0x2000 && cp < 0x27C0) || (cp >= 0x3000 && cp < 0xD800) ||
         (cp >= 0xFE00 && cp < 0xFFFE) || (cp >= 0x1F000 && cp < 0x1FB00);
}

/* Certain by itself: what begins with Ã or Â (two bytes), â€ (quotes, dashes), ã€ and ï¼ (Chinese punctuation). */
static bool is_sure(const uint8_t *p) {
  return p[0] == 0xC2 || p[0] == 0xC3 || (p[0] == 0xE2 && p[1] == 0x80) || (p[0] == 0xE3 && p[1] == 0x80) ||
         (p[0] == 0xEF && p[1] == 0xBC);
}

/* The bytes of the run of non-ASCII characters at s that are bytes, in run (at most cap); *used: of s. */
static size_t run_bytes(pu_str s, uint8_t *run, size_t cap, size_t *used, bool *latin) {
  size_t n = 0, i = 0;
  *latin = false;
  while (i < s.len && n < cap) {
    uint32_t cp;
    size_t step = pu_utf8_next(pu_str_of(s.ptr + i, s.len - i), &cp);
    int b = step > 1 ? byte_of(cp) : -1;
    if (b < 0) break;
    *latin |= cp < 0x100;
    run[n++] = (uint8_t)b;
    i += step;
  }
  *used = i;
  return n;
}

/* Characters that the run is made of as UTF-8; -1: it is no such text. *sure is set where one is certain. */
static int run_chars(const uint8_t *run, size_t n, bool *sure) {
  int chars = 0;
  for (size_t i = 0, step; i < n; i += step, chars++) {
    uint32_t cp;
    step = pu_utf8_next(pu_str_of((const char *)run + i, n - i), &cp);
    if (step < 2 || !is_usual(cp)) return -1;
    *sure |= is_sure(run + i);
  }
  return chars;
}

/* The line with its mojibake mended, in out: all of its runs of Latin-1 characters must be UTF-8, and there must be two
 * characters or one that is certain. False: it is left alone. */
static bool mend_line(pu_str line, pu_buf *out) {
  int chars = 0;
  bool sure = false, latin;
  uint8_t run[256];
  pu_buf_clear(out);
  for (size_t i = 0, used; i < line.len; i += used) {
    uint8_t c = (uint8_t)line.ptr[i];
    used = 1;
    if (c >= 0x80) {
      size_t n = run_bytes(pu_str_of(line.ptr + i, line.len - i), run, sizeof run, &used, &latin);
      int got = n > 0 && latin ? run_chars(run, n, &sure) : 0;
      if (got < 0 || n == sizeof run) return false;
      chars += got;
      if (got > 0) {
        pu_buf_append(out, run, n);
        continue;
      }
      for (used = PU_MAX(used, (size_t)1); i + used < line.len && ((uint8_t)line.ptr[i + used] & 0xC0) == 0x80;) used++;
    }
    pu_buf_append(out, line.ptr + i, used);
  }
  return (sure || chars >= 2) && !out->failed;
}

/* Where the next line with signs of mojibake may be: a character from Â to ô before one that would be its second byte.
 */
static size_t next_sign(pu_str s, size_t at) {
  while (at < s.len) {
    const uint8_t *p = memchr(s.ptr + at, 0xC3, s.len - at);
    if (!p) break;
    at = (size_t)((const char *)p - s.ptr);
    if (at + 2 < s.len && p[1] >= 0x82 && p[1] <= 0xB4 &&
        (p[2] == 0xC2 || p[2] == 0xC5 || p[2] == 0xC6 || p[2] == 0xCB || p[2] == 0xE2))
      return at;
    at++;
  }
  return SIZE_MAX;
}

/* ---- characters ---- */

/* Second characters of compositions that are no combining marks by their class (NFC_Quick_Check=Maybe). */
static bool is_second(uint32_t cp) {
  static const uint16_t seconds[] = {0x09BE, 0x09D7, 0x0B3E, 0x0B56, 0x0B57, 0x0BBE, 0x0BD7, 0x0CC2,
                                     0x0CD5, 0x0CD6, 0x0D3E, 0x0D57, 0x0DCF, 0x0DDF, 0x102E, 0x1B35};
  if (cp >= 0x1161 && cp <= 0x11C2) return true;
  for (size_t i = 0; i < PU_COUNT(seconds); i++)
    if (seconds[i] == cp) return true;
  return false;
}

static bool is_mark(uint32_t cp) {
  return cp >= 0x300 && (is_second(cp) || utf8proc_get_property((utf8proc_int32_t)cp)->combining_class != 0);
}

/* May NFC make something else of it, alone? */
static bool may_decompose(uint32_t cp) {
  if ((cp >= 0x1E00 && cp < 0x1F00) || (cp >= 0xAC00 && cp < 0xD7A4)) return false;
  const utf8proc_property_t *p = utf8proc_get_property((utf8proc_int32_t)cp);
  return p->decomp_type == 0 && p->decomp_seqindex != UINT16_MAX;
}

/* Compatibility forms that are shapes only. */
static bool is_shape(uint32_t cp) {
  return (cp >= 0xFB00 && cp <= 0xFDF9) || (cp >= 0xFE70 && cp <= 0xFEFC) || (cp >= 0xFF65 && cp <= 0xFFDC) ||
         (cp >= 0x2F00 && cp <= 0x2FD5) || cp == 0x2E9F || cp == 0x2EF3 || cp == 0xFE11 || cp == 0xFE12 ||
         (cp >= 0xFE35 && cp <= 0xFE44) || (cp >= 0xFE50 && cp <= 0xFE6B) || (cp >= 0x01C4 && cp <= 0x01CC) ||
         (cp >= 0x01F1 && cp <= 0x01F3);
}

static bool is_zero_width(uint32_t cp) {
  return cp == 0x00AD || cp == 0x200B || cp == 0x2060 || cp == 0xFEFF || cp == 0x180E ||
         (cp >= 0x200E && cp <= 0x200F) || (cp >= 0x202A && cp <= 0x202E) || (cp >= 0x2061 && cp <= 0x2069) ||
         (cp >= 0xFFF9 && cp <= 0xFFFB);
}

static bool is_other_space(uint32_t cp) {
  return cp == 0x00A0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) || cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

/* Where the character before `end` begins; 0: there is none. */
static size_t char_before(const pu_buf *b, size_t end) {
  size_t i = end;
  while (i > 0 && end - i < 3 && ((uint8_t)b->data[i - 1] & 0xC0) == 0x80) i--;
  return i > 0 ? i - 1 : 0;
}

/* Joiners mean something in emoji and in Indic and Arabic scripts, nothing after Latin, Chinese or a space. */
static bool joins(const pu_buf *out) {
  uint32_t cp = 0;
  size_t at = char_before(out, out->len);
  if (out->len == 0 || pu_utf8_next(pu_str_of(out->data + at, out->len - at), &cp) == 0) return false;
  return cp >= 0x0590 && !(cp >= 0x3000 && cp <= 0xD7FF);
}

/* What stands at the end of out, back to the last starter, is composed and ordered. */
static void compose(pu_buf *out, size_t begin) {
  utf8proc_int32_t cps[256];
  const utf8proc_option_t how = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
  utf8proc_ssize_t n = utf8proc_decompose((const utf8proc_uint8_t *)out->data + begin,
                                          (utf8proc_ssize_t)(out->len - begin), cps, PU_COUNT(cps), how);
  if (n < 0 || n > (utf8proc_ssize_t)PU_COUNT(cps)) return;
  n = utf8proc_normalize_utf32(cps, n, how);
  if (n < 0) return;
  out->len = begin;
  for (utf8proc_ssize_t i = 0; i < n; i++) pu_utf8_put(out, (uint32_t)cps[i]);
}

/* Half-width voicing marks are combining ones after NFKC. */
static uint32_t unvoiced(uint32_t cp, bool nfkc) {
  return nfkc && cp == 0xFF9E ? 0x3099 : nfkc && cp == 0xFF9F ? 0x309A : cp;
}

static void put_shape(pu_buf *out, uint32_t cp) {
  utf8proc_int32_t cps[32];
  int boundary = 0;
  size_t begin = out->len;
  utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)cp, cps, PU_COUNT(cps),
                                               UTF8PROC_STABLE | UTF8PROC_COMPAT | UTF8PROC_DECOMPOSE, &boundary);
  if (n <= 0 || n > (utf8proc_ssize_t)PU_COUNT(cps) || cps[0] == ' ') n = 0;
  if (n == 0) pu_utf8_put(out, cp); /* spacing forms of Arabic marks would become a space and a mark */
  for (utf8proc_ssize_t i = 0; i < n; i++) pu_utf8_put(out, (uint32_t)cps[i]);
  if (n > 1 && !out->failed) compose(out, begin);
}

/* Where the character is that marks at the end of out stand on, some marks back at most. */
static size_t base_of(const pu_buf *out) {
  size_t at = out->len;
  for (int k = 0; k < CLUSTER && at > 0; k++) {
    uint32_t cp = 0;
    at = char_before(out, at);
    if (pu_utf8_next(pu_str_of(out->data + at, out->len - at), &cp) == 0 || !is_mark(cp)) break;
  }
  return at;
}

/* A character and the marks behind it, from i on; returns the bytes used. */
static size_t put_cluster(work *w, pu_str s, size_t i, uint32_t cp, size_t step) {
  size_t begin = is_mark(unvoiced(cp, w->t->nfkc)) ? base_of(w->out) : w->out->len, at = i;
  for (int k = 0; k < CLUSTER; k++) {
    pu_utf8_put(w->out, unvoiced(cp, w->t->nfkc));
    at += step;
    step = at < s.len ? pu_utf8_next(pu_str_of(s.ptr + at, s.len - at), &cp) : 0;
    if (step == 0 || !is_mark(unvoiced(cp, w->t->nfkc))) break;
  }
  if (!w->out->failed) compose(w->out, begin);
  return at - i;
}

/* Control characters and line ends; true: done with. */
static bool put_control(work *w, pu_str s, size_t i, uint32_t cp) {
  if (cp == '\r' || cp == 0x85 || cp == 0x2028 || cp == 0x2029 || cp == '\v' || cp == '\f') {
    if (cp != '\r' || i + 1 >= s.len || s.ptr[i + 1] != '\n') pu_buf_putc(w->out, '\n');
    return true;
  }
  if (!(cp < 0x20 && cp != '\t' && cp != '\n') && !(cp >= 0x7F && cp < 0xA0)) return false;
  w->removed++;
  return true;
}

/* Zero-width characters and other spaces; true: done with. */
static bool put_space(work *w, uint32_t cp) {
  if (is_zero_width(cp) || ((cp == 0x200C || cp == 0x200D) && !joins(w->out))) {
    w->removed++;
    return true;
  }
  if (!is_other_space(cp)) return false;
  /* The indentation of Chinese paragraphs is no information. */
  if (cp != 0x3000 || (w->out->len > 0 && w->out->data[w->out->len - 1] != '\n')) pu_buf_putc(w->out, ' ');
  return true;
}

/* One character that is not plain; returns its bytes. */
static size_t put_char(work *w, pu_str s, size_t i) {
  const tables *t = w->t;
  uint32_t cp = (uint8_t)s.ptr[i];
  size_t step = cp < 0x80 ? 1 : pu_utf8_next(pu_str_of(s.ptr + i, s.len - i), &cp);
  if (step == 0) {
    pu_utf8_put(w->out, 0xFFFD);
    return 1;
  }
  if (put_control(w, s, i, cp) || (!w->code && put_space(w, cp))) return step;
  if (w->code || cp < 0x80) {
    pu_buf_append(w->out, s.ptr + i, step);
    return step;
  }
  bool wide = cp >= 0xFF10 && cp <= 0xFF5A && !(cp > 0xFF19 && cp < 0xFF21) && !(cp > 0xFF3A && cp < 0xFF41);
  uint32_t folded = cp >= HAN_FIRST && cp - HAN_FIRST < HAN_N ? t->han[cp - HAN_FIRST] : 0;
  if (folded || (wide && t->half))
    pu_utf8_put(w->out, folded ? folded : cp - 0xFEE0);
  else if (is_mark(unvoiced(cp, t->nfkc)) || may_decompose(cp))
    return put_cluster(w, s, i, cp, step);
  else if (t->nfkc && is_shape(cp))
    put_shape(w->out, cp);
  else
    pu_buf_append(w->out, s.ptr + i, step);
  return step;
}

/* Bytes of the plain character at i; 0: it is none. Kana and CJK punctuation are, but for the space and the voicing
 * marks. */
static size_t plain_char(const tables *t, pu_str s, size_t i) {
  uint8_t c = (uint8_t)s.ptr[i];
  size_t step = t->plain[c];
  if (step <= 1) return step;
  if (step > s.len - i) return 0;
  if (c != 0xE3) return step;
  uint8_t second = (uint8_t)s.ptr[i + 1], third = (uint8_t)s.ptr[i + 2];
  return (second == 0x80 && third == 0x80) || (second == 0x82 && (third == 0x99 || third == 0x9A)) ? 0 : step;
}

static void put_line(work *w, pu_str s) {
  for (size_t i = 0; i < s.len;) {
    size_t begin = i, step;
    while (i < s.len && (step = plain_char(w->t, s, i)) > 0) i += step;
    pu_buf_append(w->out, s.ptr + begin, i - begin);
    if (i < s.len) i += put_char(w, s, i);
  }
}

/* ---- lines ---- */

/* Does the line open or close a fenced block? */
static bool is_fence(pu_str line) {
  size_t i = 0;
  while (i < line.len && i < 4 && line.ptr[i] == ' ') i++;
  return line.len >= i + 3 && (memcmp(line.ptr + i, "```", 3) == 0 || memcmp(line.ptr + i, "~~~", 3) == 0);
}

static pu_err put_lines(work *w, bool code, pu_error *e) {
  size_t sign = next_sign(w->in, 0);
  bool fenced = false;
  pu_buf once, twice;
  pu_buf_init(&once, PU_BUF_MAX);
  pu_buf_init(&twice, PU_BUF_MAX);
  for (size_t at = 0; at < w->in.len;) {
    const char *nl = memchr(w->in.ptr + at, '\n', w->in.len - at);
    size_t end = nl ? (size_t)(nl - w->in.ptr) + 1 : w->in.len;
    pu_str line = pu_str_of(w->in.ptr + at, end - at);
    bool fence = is_fence(line);
    w->code = code || fenced || fence;
    fenced ^= fence;
    if (sign < end && !w->code && mend_line(line, &once)) {
      w->mended++;
      bool again = mend_line(pu_str_of(once.data, once.len), &twice);
      line = again ? pu_str_of(twice.data, twice.len) : pu_str_of(once.data, once.len);
    }
    if (sign < end) sign = next_sign(w->in, end);
    put_line(w, line);
    at = end;
  }
  bool failed = once.failed || twice.failed || w->out->failed;
  pu_buf_deinit(&once);
  pu_buf_deinit(&twice);
  return failed ? pu_kit_no_memory("normalise", e) : PU_OK;
}

/* ---- white space, in place: nothing here makes a text longer ---- */

/* Moves the line of len bytes at from to `to`, runs of spaces inside it as one; returns its new length. */
static size_t collapse(char *to, const char *from, size_t len, bool spaces) {
  size_t n = 0, i = 0;
  if (!spaces) {
    memmove(to, from, len);
    return len;
  }
  while (i < len && from[i] == ' ') to[n++] = from[i++];
  for (; i < len; i++)
    if (from[i] != ' ' || to[n - 1] != ' ') to[n++] = from[i];
  return n;
}

static void tidy_space(pu_buf *b, bool table, bool markdown) {
  size_t out = 0, blank = 0;
  bool fenced = false;
  for (size_t at = 0; at < b->len;) {
    const char *nl = memchr(b->data + at, '\n', b->len - at);
    size_t end = nl ? (size_t)(nl - b->data) : b->len, len = end - at;
    char *line = b->data + at;
    bool fence = is_fence(pu_str_of(line, len)), inside = fenced && !fence;
    at = end + 1;
    fenced ^= fence;
    size_t full = len;
    while (!inside && len > 0 && (line[len - 1] == ' ' || line[len - 1] == '\t')) len--;
    if (len == 0 && !inside) {
      blank++;
      continue;
    }
    bool broken = markdown && !inside && full == len + 2 && line[len] == ' ' && line[len + 1] == ' ';
    bool indented = len >= 4 && (line[0] == '\t' || memcmp(line, "    ", 4) == 0);
    bool kept = table || inside || fence || indented || line[0] == '|';
    if (out > 0) b->data[out++] = '\n';
    if (out > 0 && blank > 0) b->data[out++] = '\n';
    blank = 0;
    out += collapse(b->data + out, line, len, !kept);
    for (int k = 0; broken && k < 2; k++) b->data[out++] = ' ';
  }
  while (out > 0 && b->data[out - 1] == '\n') out--;
  b->len = out;
  if (b->data) b->data[out] = '\0';
}

/* ---- the filter ---- */

static void fill_han(uint16_t *han, const char *pairs) {
  for (size_t i = 0, n = strlen(pairs); i < n;) {
    uint32_t from = 0, to = 0;
    i += pu_utf8_next(pu_str_of(pairs + i, n - i), &from);
    i += pu_utf8_next(pu_str_of(pairs + i, n - i), &to);
    han[from - HAN_FIRST] = (uint16_t)to;
  }
}

static pu_err open_tables(const pu_filter_options *o, void **shared, pu_error *e) {
  tables *t = calloc(1, sizeof *t);
  *shared = t;
  if (!t) return pu_fail(e, PU_ERR_NOMEM, "no memory for the tables of characters");
  t->nfkc = o->nfkc;
  t->half = o->width == PU_WIDTH_HALF;
  t->fold = o->han != PU_HAN_KEEP;
  if (t->fold) fill_han(t->han, o->han == PU_HAN_SIMPLIFIED ? pu_han_to_simplified : pu_han_to_traditional);
  for (int c = 0x20; c < 0x7F; c++) t->plain[c] = 1;
  t->plain['\n'] = t->plain['\t'] = 1;
  for (int c = 0xC3; c <= 0xC6; c++) t->plain[c] = 2; /* Latin */
  t->plain[0xD0] = t->plain[0xD1] = 2;                /* Cyrillic */
  for (int c = 0xE3; c <= 0xE9 && !t->fold; c++) t->plain[c] = 3;
  return PU_OK;
}

static bool is_type(const pu_doc *d, const char *type) {
  return pu_str_eq(d->type, pu_str_c(type));
}

static pu_err apply(const void *shared, pu_doc *d, double *values, pu_error *e) {
  work w = {.t = shared, .out = &d->spare, .in = pu_str_of(d->text.data, d->text.len)};
  bool code = is_type(d, "code");
  pu_buf_clear(w.out);
  PU_TRY(put_lines(&w, code, e));
  if (!code) tidy_space(w.out, is_type(d, "table") || is_type(d, "latex"), is_type(d, "markdown"));
  bool same = w.out->len == d->text.len && (w.out->len == 0 || memcmp(w.out->data, d->text.data, w.out->len) == 0);
  values[CHANGED] = !same;
  values[REMOVED] = (double)w.removed;
  values[MENDED] = (double)w.mended;
  if (!same) return pu_kit_rewritten(d, "normalise", e);
  pu_buf_clear(&d->spare);
  return PU_OK;
}

const pu_filter pu_filter_normalise = {
    .name = "normalise",
    .summary = "mends and unifies characters, spaces and line ends",
    .measures = measures,
    .rewrites = true,
    .open = open_tables,
    .close = free,
    .apply = apply,
};
