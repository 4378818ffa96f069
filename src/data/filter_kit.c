/* What several filters use: kinds of words, duplicates, ends of lines, lists in files. */
#include <string.h>

#include "src/data/filter_kit.h"
#include "src/data/script.h"

#define LISTS_MAX ((size_t)512 << 20) /* bytes of one file of a list */

pu_err pu_kit_no_memory(const char *filter, pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for a document", filter);
}

pu_err pu_kit_rewritten(pu_doc *d, const char *filter, pu_error *e) {
  if (d->spare.failed) return pu_kit_no_memory(filter, e);
  pu_doc_rewritten(d);
  return PU_OK;
}

size_t pu_kit_chars(const char *p, size_t len) {
  size_t n = 0, i = 0;
  for (; len - i >= 8; i += 8) { /* as pu_kit_chars_of does it */
    uint64_t x;
    memcpy(&x, p + i, 8);
    x &= ~(x << 1) & 0x8080808080808080u;
    n += 8 - (size_t)(((x >> 7) * 0x0101010101010101u) >> 56);
  }
  for (; i < len; i++) n += ((uint8_t)p[i] & 0xC0) != 0x80;
  return n;
}

/* ---- kinds of words ---- */

typedef struct found {
  bool letter, digit, symbol;
} found;

static pu_word_kind kind_by(const found *f) {
  return f->letter ? PU_WORD_ALPHABETIC : f->digit ? PU_WORD_NUMBER : f->symbol ? PU_WORD_SYMBOL : PU_WORD_MARK;
}

static void find_ascii(found *f, uint8_t c) {
  bool letter = (uint8_t)((c | 0x20) - 'a') < 26, digit = (uint8_t)(c - '0') < 10;
  f->letter |= letter;
  f->digit |= digit;
  f->symbol |= !letter && !digit;
}

static pu_word_kind wide_kind(const char *p, size_t len, size_t *chars) {
  found f = {0};
  size_t n = 0;
  for (size_t i = 0, step; i < len; i += step, n++) {
    uint32_t cp = (uint8_t)p[i];
    step = 1;
    if (cp < 0x80) {
      find_ascii(&f, (uint8_t)cp);
      continue;
    }
    if ((step = pu_utf8_next(pu_str_of(p + i, len - i), &cp)) == 0) step = 1, cp = 0xFFFD;
    pu_script is = pu_script_of(cp);
    if (is == PU_SCRIPT_UNSPACED && step == len) return *chars = 1, PU_WORD_UNSPACED;
    f.letter |= is == PU_SCRIPT_LETTER || is == PU_SCRIPT_UNSPACED;
    f.symbol |= is == PU_SCRIPT_SYMBOL;
  }
  *chars = n;
  return kind_by(&f);
}

pu_word_kind pu_word_kind_of(const char *p, size_t len, size_t *chars) {
  found f = {0};
  if (pu_word_is_han(p, len)) return *chars = 1, PU_WORD_UNSPACED;
  for (size_t i = 0; i < len; i++) {
    if ((uint8_t)p[i] >= 0x80) return wide_kind(p, len, chars);
    find_ascii(&f, (uint8_t)p[i]);
  }
  *chars = len;
  return kind_by(&f);
}

/* ---- duplicates ---- */

pu_err pu_kit_duplicates(pu_doc *d, const pu_span *spans, size_t n, pu_duplicates *out, pu_error *e) {
  size_t mark = pu_arena_mark(d->arena), cap = 16, again = 0, chars = 0, all = 0;
  while (cap < 2 * n) cap *= 2;
  uint64_t *table = pu_arena_zalloc(d->arena, cap * sizeof *table);
  if (!table) return pu_kit_no_memory("lines", e);
  for (size_t i = 0; i < n; i++) {
    const char *p = d->text.data + spans[i].at;
    size_t len = pu_kit_chars_of(d, spans[i]);
    uint64_t h = pu_hash64(p, spans[i].len, 0) | 1;
    size_t at = (h >> 20) & (cap - 1);
    while (table[at] && table[at] != h) at = (at + 1) & (cap - 1);
    again += table[at] == h;
    chars += table[at] == h ? len : 0;
    all += len;
    table[at] = h;
  }
  pu_arena_release(d->arena, mark);
  out->share = n ? (double)again / (double)n : 0;
  out->chars = all ? (double)chars / (double)all : 0;
  return PU_OK;
}

/* ---- ends of lines ---- */

static size_t last_char(pu_str s, uint32_t *cp) {
  size_t i = s.len;
  while (i > 0 && s.len - i < 4 && ((uint8_t)s.ptr[i - 1] & 0xC0) == 0x80) i--;
  if (i == 0) return 0;
  return pu_utf8_next(pu_str_of(s.ptr + i - 1, s.len - i + 1), cp);
}

static bool is_quote(uint32_t c) {
  return c == '"' || c == '\'' || c == 0x2019 || c == 0x201D || c == 0x00BB || c == 0x300D || c == 0x300F;
}

static bool is_closer(uint32_t c) {
  return is_quote(c) || c == ')' || c == ']' || c == '*' || c == '_' || c == 0xFF09 || c == 0x3011 || c == 0x300B;
}

static bool is_end(uint32_t c) {
  static const uint16_t ends[] = {0x3002, 0xFF01, 0xFF1F, 0xFF0E, 0xFF61, 0x0964, 0x0965, 0x061F, 0x06D4, 0x1362,
                                  0x17D4, 0x17D5, 0x104B, 0x203C, 0x203D, 0x2047, 0x2048, 0x2049, 0x0589, 0x037E};
  if (c < 0x80) return c == '.' || c == '!' || c == '?';
  for (size_t i = 0; i < PU_COUNT(ends); i++)
    if (ends[i] == c) return true;
  return false;
}

bool pu_kit_line_ends(pu_str line, bool ellipsis, bool quotes) {
  uint32_t c = 0;
  size_t step = last_char(line, &c);
  if (step > 0 && quotes && is_quote(c)) return true;
  for (int k = 0; k < 4 && step > 0 && is_closer(c); k++) {
    line.len -= step;
    step = last_char(line, &c);
  }
  if (step == 0) return false;
  if (c == 0x2026 || (c == '.' && line.len >= 3 && memcmp(line.ptr + line.len - 3, "...", 3) == 0)) return ellipsis;
  return is_end(c);
}

/* ---- lists ---- */

void pu_kit_list(pu_str text, void (*fn)(void *arg, pu_str line), void *arg) {
  for (size_t at = 0; at < text.len;) {
    const char *nl = memchr(text.ptr + at, '\n', text.len - at);
    size_t end = nl ? (size_t)(nl - text.ptr) : text.len, begin = at;
    at = end + 1;
    while (begin < end && (uint8_t)text.ptr[begin] <= ' ') begin++;
    while (end > begin && (uint8_t)text.ptr[end - 1] <= ' ') end--;
    if (end > begin && text.ptr[begin] != '#') fn(arg, pu_str_of(text.ptr + begin, end - begin));
  }
}

pu_err pu_kit_lists(const pu_strs *files, pu_buf *text, pu_error *e) {
  pu_buf one;
  pu_err err = PU_OK;
  pu_buf_init(&one, LISTS_MAX);
  for (size_t i = 0; i < files->n && err == PU_OK; i++) {
    err = pu_file_read(files->v[i], LISTS_MAX, &one, e);
    if (err != PU_OK) break;
    pu_str s = pu_str_of(one.data, one.len);
    size_t mark = pu_str_mark(s);
    if (mark) s = pu_str_of(s.ptr + mark, s.len - mark);
    if (!pu_buf_append(text, s.ptr, s.len) || !pu_buf_putc(text, '\n'))
      err = pu_fail(e, PU_ERR_NOMEM, "%s: the lists together take more than %zu MiB", files->v[i], text->max >> 20);
  }
  pu_buf_deinit(&one);
  return err;
}
