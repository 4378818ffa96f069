/* Regular expressions, as far as they are regular: no back references, no looking around. */
#include <stdlib.h>
#include <string.h>

#include "src/engine/grammar/grammar.h"

typedef struct parser {
  g_rules *g;
  pu_str s;
  size_t at;
  int depth;
  bool search;
  pu_error *e;
} parser;

static pu_err refuse(const parser *p, size_t at, pu_err code, const char *what) {
  return pu_fail(p->e, code, "regular expression, byte %zu: %s: '%.*s'", at + 1, what,
                 (int)PU_MIN(p->s.len - at, (size_t)20), p->s.ptr + at);
}

static int peek(const parser *p) {
  return p->at < p->s.len ? (uint8_t)p->s.ptr[p->at] : -1;
}

static bool skip(parser *p, const char *what) {
  size_t n = strlen(what);
  if (p->s.len - p->at < n || memcmp(p->s.ptr + p->at, what, n) != 0) return false;
  p->at += n;
  return true;
}

static uint32_t next_char(parser *p) {
  uint32_t c = 0;
  p->at += pu_utf8_next(pu_str_of(p->s.ptr + p->at, p->s.len - p->at), &c);
  return c;
}

/* ---- classes ---- */

static const g_range digits[] = {{'0', '9'}}, word[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
/* White space as ECMAScript has it. */
static const g_range space[] = {{9, 13},          {' ', ' '},       {0xA0, 0xA0},     {0x1680, 0x1680},
                                {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F},
                                {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
static const g_range line_ends[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

/* \d and its like; false: the letter means something else. */
static bool named_class(int letter, const g_range **ranges, size_t *n) {
  static const struct {
    char letter;
    const g_range *ranges;
    size_t n;
  } classes[] = {{'d', digits, PU_COUNT(digits)}, {'w', word, PU_COUNT(word)}, {'s', space, PU_COUNT(space)}};
  for (size_t i = 0; i < PU_COUNT(classes); i++)
    if (classes[i].letter == (letter | 0x20)) {
      *ranges = classes[i].ranges;
      *n = classes[i].n;
      return true;
    }
  return false;
}

static bool hex(parser *p, int least, int most, uint32_t *out) {
  int n = 0;
  for (*out = 0; n < most && p->at < p->s.len; n++, p->at++) {
    static const char letters[] = "0123456789abcdef";
    const char *at = memchr(letters, p->s.ptr[p->at] | 0x20, 16);
    if (!at || p->s.ptr[p->at] < '0') break;
    *out = *out * 16 + (uint32_t)(at - letters);
  }
  return n >= least;
}

/* \xHH, \uHHHH (two of them for a surrogate pair), \u{H…}, \x{H…}; p is behind the letter. */
static bool numbered_char(parser *p, int letter, uint32_t *c) {
  if (skip(p, "{")) return hex(p, 1, 6, c) && skip(p, "}") && *c <= G_CHAR_MAX;
  if (letter == 'x') return hex(p, 2, 2, c);
  uint32_t low;
  if (!hex(p, 4, 4, c)) return false;
  if (*c < 0xD800 || *c > 0xDFFF) return true;
  if (*c > 0xDBFF || !skip(p, "\\u") || !hex(p, 4, 4, &low) || low < 0xDC00 || low > 0xDFFF) return false;
  *c = 0x10000 + ((*c - 0xD800) << 10) + (low - 0xDC00);
  return true;
}

/* What stands after a backslash and means one character. */
static pu_err escaped_char(parser *p, bool in_class, uint32_t *c) {
  size_t from = p->at - 1;
  if (p->at >= p->s.len) return refuse(p, from, PU_ERR_FORMAT, "a backslash with nothing behind it");
  static const char letters[] = "n\nr\rt\tf\fv\va\ae\x1b";
  int letter = peek(p);
  *c = next_char(p);
  for (const char *l = letters; *l; l += 2)
    if (*l == letter || (letter == 'b' && in_class)) {
      *c = letter == 'b' ? '\b' : (uint8_t)l[1];
      return PU_OK;
    }
  if (letter == '0') {
    *c = 0;
    return peek(p) >= '0' && peek(p) <= '9' ? refuse(p, from, PU_ERR_UNSUPPORTED, "octal numbers are not read") : PU_OK;
  }
  if (letter == 'x' || letter == 'u')
    return numbered_char(p, letter, c) ? PU_OK : refuse(p, from, PU_ERR_FORMAT, "no character has this number");
  bool alphanumeric = letter < 0x80 && (letter == '_' || (letter >= '0' && letter <= '9') ||
                                        ((letter | 0x20) >= 'a' && (letter | 0x20) <= 'z'));
  return alphanumeric ? refuse(p, from, PU_ERR_UNSUPPORTED, "this escape is not supported") : PU_OK;
}

/* Adds \d and the like to a class; false: it is no such thing, and nothing was read. */
static bool add_named(parser *p, g_ranges *r) {
  const g_range *v;
  size_t n;
  if (peek(p) != '\\' || p->at + 1 >= p->s.len || !named_class(p->s.ptr[p->at + 1], &v, &n)) return false;
  g_expr *x = g_chars(p->g, v, n, p->s.ptr[p->at + 1] < 'a');
  for (size_t i = 0; x && i < x->n; i++) g_ranges_add(p->g, r, x->ranges[i].lo, x->ranges[i].hi);
  p->at += 2;
  return true;
}

static pu_err class_char(parser *p, uint32_t *c) {
  if (skip(p, "\\")) return escaped_char(p, true, c);
  *c = next_char(p);
  return PU_OK;
}

/* Behind the opening bracket. */
static pu_err parse_class(parser *p, g_expr **out) {
  size_t from = p->at - 1;
  bool negated = skip(p, "^");
  g_ranges r = {0};
  while (peek(p) != ']') {
    if (peek(p) < 0) return refuse(p, from, PU_ERR_FORMAT, "this class is not closed");
    size_t at = p->at;
    if (skip(p, "[:") || skip(p, "[=") || skip(p, "[."))
      return refuse(p, at, PU_ERR_UNSUPPORTED, "named classes are not supported; write the characters");
    if (add_named(p, &r)) continue;
    uint32_t lo, hi;
    PU_TRY(class_char(p, &lo));
    hi = lo;
    if (peek(p) == '-' && p->at + 1 < p->s.len && p->s.ptr[p->at + 1] != ']') {
      p->at++;
      if (peek(p) == '\\' && p->at + 1 < p->s.len && strchr("dDwWsS", p->s.ptr[p->at + 1]))
        return refuse(p, at, PU_ERR_FORMAT, "a range cannot end in a class");
      PU_TRY(class_char(p, &hi));
    }
    if (hi < lo) return refuse(p, at, PU_ERR_FORMAT, "the range is backwards");
    g_ranges_add(p->g, &r, lo, hi);
  }
  p->at++;
  *out = g_chars(p->g, r.v, r.n, negated);
  return PU_OK;
}

/* ---- repetition ---- */

static bool number(parser *p, int32_t *out) {
  size_t from = p->at;
  for (*out = 0; peek(p) >= '0' && peek(p) <= '9'; p->at++)
    *out = PU_MIN(*out * 10 + (p->s.ptr[p->at] - '0'), G_REPEAT_MAX + 1);
  return p->at > from;
}

/* {m}, {m,} or {m,n}; anything else in braces is refused, as it may have been meant so. */
static pu_err counted(parser *p, int32_t *min, int32_t *max) {
  size_t from = p->at++;
  bool ok = number(p, min);
  *max = *min;
  if (ok && skip(p, ",") && !number(p, max)) *max = -1;
  if (!ok || !skip(p, "}"))
    return refuse(p, from, PU_ERR_FORMAT, "this is no repetition such as {2,5}; write \\{ for the brace itself");
  if (*min > G_REPEAT_MAX || *max > G_REPEAT_MAX) return refuse(p, from, PU_ERR_UNSUPPORTED, "more than 65536 times");
  return *max >= 0 && *max < *min ? refuse(p, from, PU_ERR_FORMAT, "the repetition is backwards") : PU_OK;
}

static pu_err repeated(parser *p, g_expr **x) {
  for (int times = 0;; times++) {
    int32_t min = 0, max = -1;
    size_t from = p->at;
    int c = peek(p);
    if (c != '*' && c != '+' && c != '?' && c != '{') return PU_OK;
    if (times) return refuse(p, from, PU_ERR_FORMAT, "there is nothing to repeat here");
    if (c == '{') {
      PU_TRY(counted(p, &min, &max));
    } else {
      p->at++;
      min = c == '+';
      max = c == '?' ? 1 : -1;
    }
    if (peek(p) == '+') return refuse(p, from, PU_ERR_UNSUPPORTED, "possessive repetition is not supported");
    skip(p, "?"); /* lazy: the same texts */
    *x = g_repeat(p->g, *x, min, max);
  }
}

/* ---- the rest ---- */

static pu_err alternatives(parser *p, bool top, g_expr **out);

/* Behind the opening parenthesis. */
static pu_err group(parser *p, g_expr **out) {
  size_t from = p->at - 1;
  if (skip(p, "?:")) {
  } else if (skip(p, "?<=") || skip(p, "?<!") || skip(p, "?=") || skip(p, "?!")) {
    return refuse(p, from, PU_ERR_UNSUPPORTED, "looking ahead or behind is not supported");
  } else if (skip(p, "?P<") || skip(p, "?<")) {
    while (peek(p) >= 0 && peek(p) != '>') p->at++;
    if (!skip(p, ">")) return refuse(p, from, PU_ERR_FORMAT, "the group's name is not closed");
  } else if (peek(p) == '?' || peek(p) == '*') {
    return refuse(p, from, PU_ERR_UNSUPPORTED, "groups of this kind are not supported");
  }
  if (++p->depth > G_NESTING_MAX) return refuse(p, from, PU_ERR_UNSUPPORTED, "groups nest more than 200 deep");
  PU_TRY(alternatives(p, false, out));
  p->depth--;
  return skip(p, ")") ? PU_OK : refuse(p, from, PU_ERR_FORMAT, "this group is not closed");
}

static g_expr *one_char(g_rules *g, uint32_t c) {
  return g_chars(g, &(g_range){c, c}, 1, false);
}

static pu_err atom(parser *p, g_expr **out) {
  size_t from = p->at;
  g_ranges r = {0};
  if (add_named(p, &r)) {
    *out = g_chars(p->g, r.v, r.n, false);
    return PU_OK;
  }
  uint32_t c = next_char(p);
  switch (c) {
  case '(':
    return group(p, out);
  case '[':
    return parse_class(p, out);
  case '.':
    *out = g_chars(p->g, line_ends, PU_COUNT(line_ends), true);
    return PU_OK;
  case '\\':
    PU_TRY(escaped_char(p, false, &c));
    break;
  case '*':
  case '+':
  case '?':
  case '{':
    return refuse(p, from, PU_ERR_FORMAT, "there is nothing to repeat here");
  case '^':
  case '$':
    return refuse(p, from, PU_ERR_UNSUPPORTED, "^ and $ stand only at the ends of the expression");
  default:
    break;
  }
  *out = one_char(p->g, c);
  return PU_OK;
}

/* One alternative. At the top it may say ^ and $; a search without them has any text around it. */
static pu_err sequence(parser *p, bool top, g_expr **out) {
  g_list l = {0};
  g_expr *anything = g_repeat(p->g, g_chars(p->g, NULL, 0, true), 0, -1);
  bool begins = top && skip(p, "^"), ends = false;
  if (top && p->search && !begins) g_list_add(p->g, &l, anything);
  while (peek(p) >= 0 && peek(p) != '|' && peek(p) != ')' && !ends) {
    size_t after = p->at + 1;
    if (top && peek(p) == '$' && (after == p->s.len || p->s.ptr[after] == '|')) {
      p->at++;
      ends = true;
      continue;
    }
    g_expr *x = NULL;
    PU_TRY(atom(p, &x));
    PU_TRY(repeated(p, &x));
    g_list_add(p->g, &l, x);
  }
  if (top && p->search && !ends) g_list_add(p->g, &l, anything);
  *out = g_join(p->g, G_SEQ, l.v, l.n);
  return PU_OK;
}

static pu_err alternatives(parser *p, bool top, g_expr **out) {
  g_list l = {0};
  do {
    g_expr *x = NULL;
    PU_TRY(sequence(p, top, &x));
    g_list_add(p->g, &l, x);
  } while (skip(p, "|"));
  *out = g_join(p->g, G_ALT, l.v, l.n);
  return PU_OK;
}

pu_err g_regex(g_rules *g, pu_str source, bool search, g_expr **out, pu_error *e) {
  parser p = {.g = g, .s = source, .search = search, .e = e};
  PU_TRY(alternatives(&p, true, out));
  return p.at == source.len ? PU_OK : refuse(&p, p.at, PU_ERR_FORMAT, "this parenthesis was not opened");
}
