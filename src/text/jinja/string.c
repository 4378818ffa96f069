/* Pieces of text put together and taken apart; the marks of origin go wherever their bytes go. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "src/text/jinja/jinja.h"
#include "src/text/unicode.h"

/* ---- building ---- */

static bool make_room(jinja_build *b, size_t more, bool marks) {
  size_t need;
  if (pu_add_overflows(b->n, more, &need) || !jinja_step(b->j, more)) return false;
  if (need > b->cap) {
    size_t cap = PU_MAX(need, PU_MAX(2 * b->cap, (size_t)64));
    char *p = jinja_alloc(b->j, cap);
    uint8_t *from = b->marked || marks ? jinja_alloc(b->j, cap) : NULL;
    if (!p || ((b->marked || marks) && !from)) return false;
    if (b->n) memcpy(p, b->p, b->n);
    if (from && b->marked) memcpy(from, b->from, b->n);
    if (from && !b->marked) memset(from, 0, b->n);
    b->p = p;
    b->from = from;
    b->cap = cap;
  } else if (marks && !b->marked) {
    b->from = jinja_alloc(b->j, b->cap);
    if (!b->from) return false;
    memset(b->from, 0, b->n);
  }
  b->marked |= marks;
  return true;
}

void jinja_add(jinja_build *b, const char *p, size_t n, const uint8_t *from) {
  if (n == 0 || !make_room(b, n, from != NULL)) return;
  memcpy(b->p + b->n, p, n);
  if (from)
    memcpy(b->from + b->n, from, n);
  else if (b->marked)
    memset(b->from + b->n, 0, n);
  b->n += n;
}

void jinja_add_c(jinja_build *b, const char *s) {
  jinja_add(b, s, strlen(s), NULL);
}

void jinja_add_str(jinja_build *b, const jinja_str *s) {
  jinja_add(b, s->p, s->n, s->from);
}

void jinja_add_char(jinja_build *b, uint32_t cp, bool from) {
  static const uint8_t marks[4] = {1, 1, 1, 1};
  uint8_t bytes[4];
  size_t n = (size_t)PU_MAX(utf8proc_encode_char((utf8proc_int32_t)cp, bytes), 0);
  jinja_add(b, (const char *)bytes, n, from ? marks : NULL);
}

jinja_value jinja_built(jinja_build *b) {
  return jinja_text(b->j, pu_str_of(b->p, b->n), b->marked ? b->from : NULL);
}

/* ---- characters ---- */

/* Python's str.isspace: White_Space and the four separators of ASCII. */
bool jinja_is_space(uint32_t cp) {
  return text_is_space(cp) || (cp >= 0x1C && cp <= 0x1F);
}

static bool is_tail(char c) {
  return ((uint8_t)c & 0xC0) == 0x80;
}

size_t jinja_count_chars(jinja *j, const jinja_str *s) {
  size_t n = 0;
  jinja_step(j, s->n / 16);
  for (size_t i = 0; i < s->n; i++) n += !is_tail(s->p[i]);
  return n;
}

size_t jinja_char_at(const jinja_str *s, size_t index) {
  for (size_t i = 0; i < s->n; i++)
    if (!is_tail(s->p[i]) && index-- == 0) return i;
  return s->n;
}

/* The character at byte i; its length is at least 1. */
static size_t char_at(const jinja_str *s, size_t i, uint32_t *cp) {
  size_t n = pu_utf8_next(pu_str_of(s->p + i, s->n - i), cp);
  if (n == 0) *cp = (uint8_t)s->p[i];
  return n ? n : 1;
}

size_t jinja_find(const jinja_str *s, const jinja_str *what, size_t begin) {
  if (begin > s->n) return SIZE_MAX;
  if (what->n == 0) return begin;
  const char *at = memmem(s->p + begin, s->n - begin, what->p, what->n);
  return at ? (size_t)(at - s->p) : SIZE_MAX;
}

static bool strips(uint32_t cp, const jinja_str *chars) {
  uint32_t c;
  if (!chars) return jinja_is_space(cp);
  for (size_t i = 0; i < chars->n;) {
    i += char_at(chars, i, &c);
    if (c == cp) return true;
  }
  return false;
}

jinja_value jinja_strip(jinja *j, const jinja_str *s, const jinja_str *chars, int sides) {
  size_t begin = 0, end = s->n;
  uint32_t cp;
  if (!jinja_step(j, s->n)) return jinja_text(j, (pu_str){0}, NULL);
  size_t work = chars ? chars->n : 0; /* for each character that goes */
  while ((sides & JINJA_LEFT) && begin < end && jinja_step(j, work)) {
    size_t n = char_at(s, begin, &cp);
    if (!strips(cp, chars)) break;
    begin += n;
  }
  while ((sides & JINJA_RIGHT) && end > begin && jinja_step(j, work)) {
    size_t n = text_utf8_before((const uint8_t *)s->p, end, &cp);
    if (n == 0 || !strips(cp, chars)) break;
    end -= n;
  }
  return jinja_sub(j, s, begin, end);
}

jinja_value jinja_replace(jinja *j, const jinja_str *s, const jinja_str *old, const jinja_str *with, int64_t count) {
  jinja_build b = {.j = j};
  size_t done = 0;
  uint32_t cp;
  for (size_t at = 0; count != 0 && jinja_step(j, 1); count--) {
    at = jinja_find(s, old, at);
    if (at == SIZE_MAX) break;
    jinja_add(&b, s->p + done, at - done, s->from ? s->from + done : NULL);
    jinja_add_str(&b, with);
    done = at + old->n;
    if (old->n == 0 && at == s->n) break;
    at = old->n ? done : at + char_at(s, at, &cp); /* nothing is found before every character */
  }
  jinja_add(&b, s->p + done, s->n - done, s->from ? s->from + done : NULL);
  return jinja_built(&b);
}

typedef uint32_t (*map_fn)(uint32_t cp, bool first);

static uint32_t lower(uint32_t cp, bool first) {
  (void)first;
  return (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
}
static uint32_t upper(uint32_t cp, bool first) {
  (void)first;
  return (uint32_t)utf8proc_toupper((utf8proc_int32_t)cp);
}
static uint32_t capital(uint32_t cp, bool first) {
  return first ? (uint32_t)utf8proc_totitle((utf8proc_int32_t)cp) : lower(cp, false);
}

static jinja_value mapped(jinja *j, const jinja_str *s, map_fn map) {
  jinja_build b = {.j = j};
  uint32_t cp;
  for (size_t i = 0, n; i < s->n && !j->err; i += n) {
    n = char_at(s, i, &cp);
    if (cp == 0xDF && map == upper) /* ß: the one letter in use that has no capital of its own for Python */
      jinja_add_c(&b, "SS");
    else
      jinja_add_char(&b, map(cp, i == 0), s->from && s->from[i]);
  }
  return jinja_built(&b);
}

jinja_value jinja_lower(jinja *j, const jinja_str *s) {
  return mapped(j, s, lower);
}
jinja_value jinja_upper(jinja *j, const jinja_str *s) {
  return mapped(j, s, upper);
}
jinja_value jinja_capitalize(jinja *j, const jinja_str *s) {
  return mapped(j, s, capital);
}

jinja_value jinja_join(jinja *j, const jinja_list *items, const jinja_str *between) {
  jinja_build b = {.j = j};
  for (size_t i = 0; i < items->n && jinja_step(j, 1); i++) {
    if (i > 0) jinja_add_str(&b, between);
    jinja_add_str(&b, jinja_str_of(j, items->v[i]));
  }
  return jinja_built(&b);
}

jinja_value jinja_escape(jinja *j, const jinja_str *s) {
  static const char *const names[] = {
      ['&'] = "&amp;", ['<'] = "&lt;", ['>'] = "&gt;", ['\''] = "&#39;", ['"'] = "&#34;"};
  jinja_build b = {.j = j};
  for (size_t i = 0; !s->markup && i < s->n && !j->err; i++) {
    uint8_t c = (uint8_t)s->p[i];
    const char *name = c < PU_COUNT(names) ? names[c] : NULL;
    if (name)
      jinja_add_c(&b, name);
    else
      jinja_add(&b, s->p + i, 1, s->from ? s->from + i : NULL);
  }
  if (s->markup) jinja_add_str(&b, s);
  jinja_value v = jinja_built(&b);
  jinja_str *copy = jinja_alloc(j, sizeof *copy);
  if (!copy) return v;
  *copy = *v.s;
  copy->markup = true;
  return (jinja_value){.type = J_STR, .s = copy};
}

/* ---- format % args ---- */

typedef struct spec {
  char flags[8];
  int width, precision; /* -1: none */
  char letter;
} spec;

static int read_number(const jinja_str *s, size_t *i) {
  int n = 0;
  for (; *i < s->n && s->p[*i] >= '0' && s->p[*i] <= '9'; (*i)++) n = PU_MIN(n * 10 + s->p[*i] - '0', 1000);
  return n;
}

/* What stands after a %, from byte *i on. */
static bool read_spec(const jinja_str *s, size_t *i, spec *out) {
  size_t n = 0;
  *out = (spec){.width = 0, .precision = -1};
  for (; *i < s->n && strchr("-+ 0#", s->p[*i]) && s->p[*i] && n + 1 < sizeof out->flags; (*i)++)
    out->flags[n++] = s->p[*i];
  out->width = read_number(s, i);
  if (*i < s->n && s->p[*i] == '.') {
    ++*i;
    out->precision = read_number(s, i);
  }
  if (*i >= s->n) return false;
  out->letter = s->p[(*i)++];
  return out->letter && strchr("sridxXofFeEgG%", out->letter);
}

static void pad(jinja_build *b, size_t have, const spec *f) {
  for (size_t i = have; i < (size_t)f->width && !b->j->err; i++) jinja_add_c(b, " ");
}

static void put_text(jinja_build *b, const spec *f, jinja_value v) {
  jinja_build repr = {.j = b->j};
  if (f->letter == 'r') {
    jinja_repr(&repr, v);
    v = jinja_built(&repr);
  }
  const jinja_str *s = jinja_str_of(b->j, v);
  size_t n = f->precision < 0 ? s->n : jinja_char_at(s, (size_t)f->precision), chars = jinja_count_chars(b->j, s);
  bool left = strchr(f->flags, '-') != NULL;
  if (!left) pad(b, chars, f);
  jinja_add(b, s->p, n, s->from);
  if (left) pad(b, chars, f);
}

static void put_number(jinja_build *b, const spec *f, jinja_value v) {
  char format[32], text[1500];
  double d;
  int precision = f->precision < 0 ? (strchr("fFeEgG", f->letter) ? 6 : 1) : f->precision;
  if (!jinja_number(v, &d)) {
    jinja_fail(b->j, "%%%c format: a real number is required, not %s", f->letter, jinja_type_name(v));
    return;
  }
  if (strchr("fFeEgG", f->letter)) {
    snprintf(format, sizeof format, "%%%s%d.%d%c", f->flags, f->width, precision, f->letter);
    snprintf(text, sizeof text, format, d);
  } else {
    char letter = f->letter == 'i' ? 'd' : f->letter;
    int64_t i = v.type == J_FLOAT ? (int64_t)PU_MAX(PU_MIN(d, 9e18), -9e18) : 0;
    if (v.type != J_FLOAT) jinja_integer(v, &i);
    snprintf(format, sizeof format, precision > 1 ? "%%%s%d.%dll%c" : "%%%s%d%.0dll%c", f->flags, f->width,
             precision > 1 ? precision : 0, letter);
    snprintf(text, sizeof text, format, (long long)i);
  }
  jinja_add_c(b, text);
}

jinja_value jinja_percent(jinja *j, const jinja_str *s, jinja_value args) {
  jinja_build b = {.j = j};
  size_t used = 0, n = args.type == J_TUPLE ? args.list->n : 1;
  for (size_t i = 0; i < s->n && jinja_step(j, 1);) {
    spec f;
    size_t plain = i;
    while (i < s->n && s->p[i] != '%') i++;
    jinja_add(&b, s->p + plain, i - plain, s->from ? s->from + plain : NULL);
    if (i++ >= s->n) break;
    if (!read_spec(s, &i, &f)) return jinja_fail(j, "unsupported format after %%");
    if (f.letter == '%') {
      jinja_add_c(&b, "%");
      continue;
    }
    if (used >= n) return jinja_fail(j, "not enough arguments for format string");
    jinja_value v = args.type == J_TUPLE ? args.list->v[used] : args;
    used++;
    if (f.letter == 's' || f.letter == 'r')
      put_text(&b, &f, v);
    else
      put_number(&b, &f, v);
  }
  if (used < n && args.type != J_DICT) return jinja_fail(j, "not all arguments converted during string formatting");
  return jinja_built(&b);
}
