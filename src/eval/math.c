/* Expressions in TeX that differ only in how they are spelled, brought to one spelling. No algebra: 1/2 is \frac{1}{2},
 * and 0.5 is neither. What is taken away: spaces, dollar signs, \left and \right, sizes, text commands around a text,
 * degrees, per cent, units in \text at the end, a full stop at the end, "x=" at the beginning. */
#include <ctype.h>
#include <string.h>

#include "src/eval/internal.h"

/* Commands that say nothing of the value; and those that another one means. */
static const struct {
  const char *word, *instead;
} words[] = {{"left", ""},           {"right", ""},    {"displaystyle", ""}, {"textstyle", ""},
             {"degree", ""},         {"circ", ""},     {"dfrac", "\\frac"},  {"tfrac", "\\frac"},
             {"cfrac", "\\frac"},    {"geq", "\\ge"},  {"leq", "\\le"},      {"neq", "\\ne"},
             {"quad", ""},           {"qquad", ""},    {"dots", "\\ldots"},  {"cdots", "\\ldots"},
             {"rightarrow", "\\to"}, {"cup", "\\cup"}, {"bigl", ""},         {"bigr", ""},
             {"Bigl", ""},           {"Bigr", ""}};
static const char *const around[] = {"text", "mathrm", "textbf", "mbox", "textit", "mathbf", "operatorname"};

typedef struct place {
  const char *at, *end;
  pu_buf *out;
} place;

static size_t letters(const place *p, const char *from) {
  size_t n = 0;
  while (from + n < p->end && isalpha((unsigned char)from[n])) n++;
  return n;
}

static bool is(const char *word, const char *at, size_t n) {
  return strlen(word) == n && memcmp(word, at, n) == 0;
}

/* One argument in braces, whether it has some or is one character: \frac12. */
static void put_argument(place *p) {
  while (p->at < p->end && isspace((unsigned char)*p->at)) p->at++;
  if (p->at == p->end || *p->at == '{' || *p->at == '\\' || *p->at == '[') return;
  pu_buf_printf(p->out, "{%c}", *p->at++);
}

/* Braces of "\text{ cm}" go; what is in them stays. */
static void skip_group(place *p) {
  const char *q = p->at;
  while (q < p->end && *q == ' ') q++;
  if (q == p->end || *q != '{') return;
  const char *close = memchr(q, '}', (size_t)(p->end - q));
  if (!close) return;
  pu_str inner = eval_trimmed(pu_str_of(q + 1, (size_t)(close - q - 1)));
  for (size_t i = 0; i < inner.len; i++)
    if (!isspace((unsigned char)inner.ptr[i])) pu_buf_putc(p->out, inner.ptr[i]);
  p->at = close + 1;
}

static void put_command(place *p) {
  const char *name = p->at + 1;
  size_t n = letters(p, name);
  if (n == 0) { /* \! \, \; \: \ and \% \$ go, \{ stays */
    if (name < p->end && strchr("{}|\\", *name)) pu_buf_append(p->out, p->at, 2);
    p->at = name < p->end ? name + 1 : p->end;
    return;
  }
  p->at = name + n;
  for (size_t i = 0; i < PU_COUNT(around); i++)
    if (is(around[i], name, n)) {
      skip_group(p);
      return;
    }
  const char *instead = NULL;
  for (size_t i = 0; i < PU_COUNT(words) && !instead; i++)
    if (is(words[i].word, name, n)) instead = words[i].instead;
  if (instead)
    pu_buf_puts(p->out, instead);
  else
    pu_buf_append(p->out, name - 1, n + 1);
  bool frac = (instead && strcmp(instead, "\\frac") == 0) || is("frac", name, n);
  if (frac || is("sqrt", name, n)) put_argument(p);
  if (frac && p->out->len && p->out->data[p->out->len - 1] == '}') put_argument(p); /* \frac12, not \frac{1}2 */
}

/* "^{\circ}" has left "^{}". */
static void drop_empty_powers(pu_buf *b) {
  char *from = b->data, *to = b->data;
  for (const char *end = b->data + b->len; from < end;) {
    if (end - from >= 3 && memcmp(from, "^{}", 3) == 0)
      from += 3;
    else if (from + 1 == end && *from == '^')
      from++;
    else
      *to++ = *from++;
  }
  b->len = (size_t)(to - b->data);
  *to = 0;
}

/* a/b of two whole numbers. */
static bool put_quotient(pu_str s, pu_buf *out) {
  size_t sign = s.len && *s.ptr == '-', n = sign, m;
  while (n < s.len && isdigit((unsigned char)s.ptr[n])) n++;
  for (m = n + 1; m < s.len && isdigit((unsigned char)s.ptr[m]);) m++;
  if (n == sign || n >= s.len || s.ptr[n] != '/' || m != s.len || m == n + 1) return false;
  pu_buf_printf(out, "%s\\frac{%.*s}{%.*s}", sign ? "-" : "", (int)(n - sign), s.ptr + sign, (int)(m - n - 1),
                s.ptr + n + 1);
  return true;
}

void eval_math_plain(pu_str text, pu_buf *out) {
  pu_buf b;
  pu_buf_init(&b, 4 * text.len + 64);
  place p = {text.ptr, text.ptr + text.len, &b};
  while (p.at < p.end) {
    if (*p.at == '\\')
      put_command(&p);
    else if (isspace((unsigned char)*p.at) || *p.at == '$' || *p.at == '%')
      p.at++;
    else
      pu_buf_putc(&b, *p.at++);
  }
  if (b.data) drop_empty_powers(&b);
  pu_str s = pu_str_of(b.data ? b.data : "", b.len);
  if (s.len && s.ptr[s.len - 1] == '.') s.len--;
  const char *equals = s.len ? memchr(s.ptr, '=', PU_MIN(s.len, (size_t)3)) : NULL;
  if (equals && equals > s.ptr && isalpha((unsigned char)*s.ptr))
    s = pu_str_of(equals + 1, (size_t)(s.ptr + s.len - equals - 1));
  pu_buf number;
  pu_buf_init(&number, 4 * text.len + 64);
  if (s.len && eval_number(s, &number) == s.len)
    pu_buf_append(out, number.data, number.len);
  else if (!put_quotient(s, out) && s.len)
    pu_buf_append(out, s.ptr, s.len);
  pu_buf_deinit(&number);
  pu_buf_deinit(&b);
}
