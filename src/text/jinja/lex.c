/* Source to tokens. White space around tags is settled here: trim_blocks, lstrip_blocks, and the signs - and + inside
 * tags, as Jinja's lexer does. */
#include <string.h>

#include "src/text/jinja/jinja.h"
#include "src/text/unicode.h"

enum { DEEPEST_BRACKETS = 256 };

typedef struct lexer {
  jinja_mem *mem;
  const char *name;
  const char *p, *end; /* what is left */
  int line;
  bool line_starts; /* what came before ended with a line break, or there was nothing */
  jinja_token *v;
  size_t n, cap;
  char open[DEEPEST_BRACKETS]; /* the closing bracket each open one wants */
  size_t depth;
  pu_error *e;
} lexer;

static pu_err bad(lexer *x, const char *what) {
  return pu_fail(x->e, PU_ERR_FORMAT, "%s:%d: %s", x->name, x->line, what);
}

static pu_err no_memory(lexer *x) {
  return pu_fail(x->e, PU_ERR_NOMEM, "%s:%d: the template is too large", x->name, x->line);
}

static pu_err put(lexer *x, jinja_token_kind kind, uint16_t op, pu_str text) {
  if (x->n == x->cap) {
    size_t cap = x->cap ? 2 * x->cap : 256;
    jinja_token *v = jinja_take(x->mem, cap * sizeof *v);
    if (!v) return no_memory(x);
    if (x->n) memcpy(v, x->v, x->n * sizeof *v);
    x->v = v;
    x->cap = cap;
  }
  x->v[x->n++] = (jinja_token){kind, op, x->line, text};
  return PU_OK;
}

static void advance(lexer *x, const char *to) {
  for (; x->p < to; x->p++) x->line += *x->p == '\n';
}

static bool starts(const lexer *x, const char *with) {
  size_t n = strlen(with);
  return (size_t)(x->end - x->p) >= n && memcmp(x->p, with, n) == 0;
}

/* White space as Python sees it, for every kind of strip. */
static const char *skip_space(const char *p, const char *end) {
  uint32_t cp;
  for (size_t n; p < end && (n = pu_utf8_next(pu_str_of(p, (size_t)(end - p)), &cp)) > 0 && jinja_is_space(cp);) p += n;
  return p;
}

static const char *skip_space_back(const char *begin, const char *p) {
  uint32_t cp;
  for (size_t n;
       p > begin && (n = text_utf8_before((const uint8_t *)begin, (size_t)(p - begin), &cp)) > 0 && jinja_is_space(cp);)
    p -= n;
  return p;
}

/* ---- text between tags ---- */

/* Where text that a tag follows ends, by the tag's sign. */
static const char *text_end(const lexer *x, const char *begin, const char *tag, bool is_var) {
  char sign = tag + 2 < x->end ? tag[2] : 0;
  if (sign == '-') return skip_space_back(begin, tag);
  if (sign == '+' || is_var) return tag;
  const char *line = tag;
  while (line > begin && line[-1] != '\n') line--;
  if (line == begin && !x->line_starts) return tag;
  return skip_space(line, tag) == tag ? line : tag;
}

static const char *next_tag(const lexer *x, const char *p) {
  for (; p + 1 < x->end; p++)
    if (p[0] == '{' && (p[1] == '{' || p[1] == '%' || p[1] == '#')) return p;
  return NULL;
}

/* After a tag's end: -%} takes all white space, +%} nothing, %} one line break where trim_blocks holds. */
static void after_tag(lexer *x, char sign, bool trims) {
  const char *to = x->p;
  if (sign == '-')
    to = skip_space(to, x->end);
  else if (trims && sign != '+' && to < x->end && *to == '\n')
    to++;
  x->line_starts = to > x->p && to[-1] == '\n';
  advance(x, to);
}

static pu_err comment(lexer *x) {
  const char *p = x->p + 2;
  while (p + 1 < x->end && !(p[0] == '#' && p[1] == '}')) p++;
  if (p + 1 >= x->end) return bad(x, "a comment is not closed with #}");
  char sign = p > x->p + 2 ? p[-1] : 0;
  advance(x, p + 2);
  after_tag(x, sign == '-' || sign == '+' ? sign : 0, true);
  return PU_OK;
}

/* {% word %} at p, with signs: where it ends, or NULL. *before and *after are its signs. */
static const char *bare_tag(const lexer *x, const char *p, const char *word, char *before, char *after) {
  size_t n = strlen(word);
  *before = *after = 0;
  p += 2;
  if (p < x->end && (*p == '-' || *p == '+')) *before = *p++;
  p = skip_space(p, x->end);
  if ((size_t)(x->end - p) < n || memcmp(p, word, n) != 0) return NULL;
  p = skip_space(p + n, x->end);
  if (p < x->end && (*p == '-' || *p == '+')) *after = *p++;
  return x->end - p >= 2 && p[0] == '%' && p[1] == '}' ? p + 2 : NULL;
}

/* {% raw %} … {% endraw %}; *done: it was one. */
static pu_err raw(lexer *x, bool *done) {
  char before, after;
  const char *begin = bare_tag(x, x->p, "raw", &before, &after);
  *done = begin != NULL;
  if (!begin) return PU_OK;
  advance(x, begin);
  after_tag(x, after, false);
  for (const char *p = x->p; p + 1 < x->end; p++) {
    const char *end = p[0] == '{' && p[1] == '%' ? bare_tag(x, p, "endraw", &before, &after) : NULL;
    if (!end) continue;
    const char *stop = text_end(x, x->p, p, false);
    if (stop > x->p) PU_TRY(put(x, T_DATA, 0, pu_str_of(x->p, (size_t)(stop - x->p))));
    advance(x, end);
    after_tag(x, after, true);
    return PU_OK;
  }
  return bad(x, "{% raw %} is not closed with {% endraw %}");
}

/* ---- inside tags ---- */

static bool name_char(char c, bool first) {
  bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (uint8_t)c >= 0x80;
  return letter || (!first && c >= '0' && c <= '9');
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A number of up to `most` digits at *p. */
static uint32_t code_point(const char **p, const char *end, uint32_t base, int most, int *digits) {
  uint32_t cp = 0;
  for (*digits = 0; *p < end && *digits < most; (*digits)++, (*p)++) {
    int d = hex_digit(**p);
    if (d < 0 || (uint32_t)d >= base) break;
    cp = cp * base + (uint32_t)d;
  }
  return cp;
}

/* One escape after its backslash, as in Python's string literals; an unknown one stays as it is written. */
static pu_err escape(lexer *x, const char **p, const char *end, pu_buf *out) {
  static const char letters[] = "n\nt\tr\rb\bf\fv\va\a\\\\''\"\"";
  static const struct {
    char letter;
    int digits;
  } coded[] = {{'x', 2}, {'u', 4}, {'U', 8}};
  char c = *(*p)++;
  if (c == '\n') return PU_OK; /* a line that goes on */
  for (const char *l = letters; *l; l += 2) {
    if (*l != c) continue;
    pu_buf_putc(out, l[1]);
    return PU_OK;
  }
  int digits;
  if (c >= '0' && c <= '7') {
    (*p)--;
    pu_utf8_put(out, code_point(p, end, 8, 3, &digits));
    return PU_OK;
  }
  for (size_t i = 0; i < PU_COUNT(coded); i++) {
    if (coded[i].letter != c) continue;
    uint32_t cp = code_point(p, end, 16, coded[i].digits, &digits);
    if (digits != coded[i].digits || cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000))
      return bad(x, "a string has an escape that names no character");
    pu_utf8_put(out, cp);
    return PU_OK;
  }
  pu_buf_putc(out, '\\');
  pu_buf_putc(out, c);
  return PU_OK;
}

static pu_err unescape(lexer *x, const char *p, const char *end, pu_buf *out) {
  while (p < end) {
    if (*p++ != '\\') {
      pu_buf_putc(out, p[-1]);
      continue;
    }
    PU_TRY(escape(x, &p, end, out));
  }
  return out->failed ? no_memory(x) : PU_OK;
}

static pu_err string(lexer *x) {
  char quote = *x->p;
  const char *p = x->p + 1;
  bool plain = true;
  for (; p < x->end && *p != quote; p++) {
    if (*p != '\\') continue;
    plain = false;
    p++;
  }
  if (p >= x->end) return bad(x, "a string is not closed");
  pu_str text = pu_str_of(x->p + 1, (size_t)(p - x->p - 1));
  pu_buf out;
  pu_buf_init(&out, PU_BUF_MAX);
  pu_err err = plain ? PU_OK : unescape(x, text.ptr, p, &out);
  if (!err && !plain) {
    char *copy = jinja_take(x->mem, out.len + 1);
    if (copy && out.len) memcpy(copy, out.data, out.len);
    text = pu_str_of(copy, out.len);
    if (!copy) err = no_memory(x);
  }
  if (!err) err = put(x, T_STR, 0, text);
  advance(x, p + 1);
  pu_buf_deinit(&out);
  return err;
}

static bool is_digit(const lexer *x, const char *p) {
  return p < x->end && *p >= '0' && *p <= '9';
}

static const char *digits(const lexer *x, const char *p) {
  while (is_digit(x, p) || (p + 1 < x->end && *p == '_' && is_digit(x, p + 1))) p++;
  return p;
}

/* 0x1F, 0o17, 0b11: where it ends, or NULL. */
static const char *based(const lexer *x) {
  const char *p = x->p + 2;
  if (x->end - x->p < 3 || *x->p != '0' || !x->p[1] || !strchr("xXoObB", x->p[1])) return NULL;
  while (p < x->end && (hex_digit(*p) >= 0 || *p == '_')) p++;
  return p > x->p + 2 ? p : NULL;
}

static pu_err number(lexer *x) {
  const char *p = based(x);
  jinja_token_kind kind = T_INT;
  bool is_index = x->n > 0 && x->v[x->n - 1].op == JINJA_OP('.', 0); /* a.0.1: no fraction */
  bool whole = p || is_index;
  if (!p) p = digits(x, x->p);
  if (!whole && p + 1 < x->end && *p == '.' && is_digit(x, p + 1)) {
    kind = T_FLOAT;
    p = digits(x, p + 1);
  }
  if (!whole && p < x->end && (*p == 'e' || *p == 'E')) {
    const char *exponent = p + 1;
    if (exponent < x->end && (*exponent == '+' || *exponent == '-')) exponent++;
    if (is_digit(x, exponent)) {
      kind = T_FLOAT;
      p = digits(x, exponent);
    }
  }
  if (p - x->p > 300) return bad(x, "a number is too long");
  PU_TRY(put(x, kind, 0, pu_str_of(x->p, (size_t)(p - x->p))));
  x->p = p;
  return PU_OK;
}

static pu_err bracket(lexer *x, char c) {
  static const char pairs[] = "()[]{}";
  const char *at = strchr(pairs, c);
  if (!at) return PU_OK;
  if ((at - pairs) % 2 == 0) {
    if (x->depth == DEEPEST_BRACKETS) return bad(x, "brackets are nested too deeply");
    x->open[x->depth++] = at[1];
    return PU_OK;
  }
  if (x->depth == 0 || x->open[x->depth - 1] != c) return bad(x, "a closing bracket has no opening one");
  x->depth--;
  return PU_OK;
}

static pu_err operator(lexer *x) {
  static const char *const two[] = {"==", "!=", ">=", "<=", "//", "**"};
  for (size_t i = 0; i < PU_COUNT(two); i++) {
    if (!starts(x, two[i])) continue;
    PU_TRY(put(x, T_OP, JINJA_OP(two[i][0], two[i][1]), pu_str_of(x->p, 2)));
    x->p += 2;
    return PU_OK;
  }
  if (!*x->p || !strchr("+-/*%~[](){}><=.:|,;", *x->p))
    return pu_fail(x->e, PU_ERR_FORMAT, "%s:%d: unexpected character '%.1s'", x->name, x->line, x->p);
  PU_TRY(bracket(x, *x->p));
  PU_TRY(put(x, T_OP, JINJA_OP(*x->p, 0), pu_str_of(x->p, 1)));
  x->p++;
  return PU_OK;
}

/* Does the tag end here? A closing inside brackets is theirs: {{ {'a': {}} }}. */
static bool tag_ends(const lexer *x, const char *closing, char *sign) {
  const char *p = x->p;
  *sign = 0;
  if (x->depth > 0) return false;
  if (*p == '-' || (*p == '+' && *closing == '%')) *sign = *p++;
  return x->end - p >= 2 && memcmp(p, closing, 2) == 0;
}

static pu_err one_token(lexer *x) {
  if (*x->p == '"' || *x->p == '\'') return string(x);
  if (is_digit(x, x->p)) return number(x);
  if (!name_char(*x->p, true)) return operator(x);
  const char *p = x->p;
  while (p < x->end && name_char(*p, false)) p++;
  PU_TRY(put(x, T_NAME, 0, pu_str_of(x->p, (size_t)(p - x->p))));
  x->p = p;
  return PU_OK;
}

static pu_err tag(lexer *x, bool is_var) {
  const char *closing = is_var ? "}}" : "%}";
  char sign = x->p + 2 < x->end ? x->p[2] : 0;
  PU_TRY(put(x, is_var ? T_VAR_BEGIN : T_BLOCK_BEGIN, 0, (pu_str){0}));
  x->p += sign == '-' || (sign == '+' && !is_var) ? 3 : 2;
  for (x->depth = 0;;) {
    advance(x, skip_space(x->p, x->end));
    if (x->p >= x->end) return bad(x, is_var ? "an expression is not closed with }}" : "a tag is not closed with %}");
    if (tag_ends(x, closing, &sign)) break;
    PU_TRY(one_token(x));
  }
  PU_TRY(put(x, is_var ? T_VAR_END : T_BLOCK_END, 0, (pu_str){0}));
  x->p += sign ? 3 : 2;
  after_tag(x, sign, !is_var);
  return PU_OK;
}

static pu_err lex(lexer *x) {
  while (x->p < x->end) {
    const char *at = next_tag(x, x->p), *stop = at ? at : x->end;
    bool is_var = at && at[1] == '{';
    const char *end = at ? text_end(x, x->p, at, is_var) : stop;
    if (end > x->p) PU_TRY(put(x, T_DATA, 0, pu_str_of(x->p, (size_t)(end - x->p))));
    advance(x, stop);
    if (!at) break;
    bool done = false;
    if (at[1] == '%') PU_TRY(raw(x, &done));
    if (!done) PU_TRY(at[1] == '#' ? comment(x) : tag(x, is_var));
  }
  return put(x, T_END, 0, (pu_str){0});
}

/* Line breaks of any kind become \n, and one at the very end goes. */
static pu_str normalised(jinja_mem *mem, pu_str source) {
  char *to = jinja_take(mem, source.len + 1);
  size_t n = 0;
  if (!to) return (pu_str){0};
  for (size_t i = 0; i < source.len; i++) {
    char c = source.ptr[i];
    if (c == '\r' && i + 1 < source.len && source.ptr[i + 1] == '\n') continue;
    to[n++] = c == '\r' ? '\n' : c;
  }
  if (n > 0 && to[n - 1] == '\n') n--;
  to[n] = 0;
  return pu_str_of(to, n);
}

pu_err jinja_lex(jinja_mem *mem, const char *name, pu_str source, jinja_token **out, pu_error *e) {
  lexer x = {.mem = mem, .name = name, .line = 1, .line_starts = true, .e = e};
  if (!pu_utf8_valid(source)) return pu_fail(e, PU_ERR_FORMAT, "%s: the template is not UTF-8", name);
  pu_str text = normalised(mem, source);
  if (!text.ptr) return no_memory(&x);
  x.p = text.ptr;
  x.end = text.ptr + text.len;
  pu_err err = lex(&x);
  *out = x.v;
  return err;
}
