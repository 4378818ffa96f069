/* Expressions of the calculator, read and computed in one walk:
 *
 *   sum     = product {("+" | "-") product}
 *   product = sign {("*" | "/" | "//" | "%") sign}
 *   sign    = {"+" | "-"} power
 *   power   = percent [("^" | "**") sign]
 *   percent = primary ["%"]                    a hundredth, where no operand follows, or the word `of`, which
 * multiplies primary = number | constant | function "(" sum {"," sum} ")" | "(" sum ")"
 */
#include "src/agent/calc.h"

#include <ctype.h>
#include <math.h>
#include <string.h>

#include "puyu/text.h"

enum { MOST_BYTES = 4096, MOST_DEPTH = 100, MOST_NAME = 16, MOST_DIGITS = 1400 };

typedef struct parser {
  char text[2 * MOST_BYTES + 1];      /* in ASCII */
  uint16_t place[2 * MOST_BYTES + 1]; /* of each byte, in characters from 1 */
  size_t at;
  int depth;
  bool failed;
  char why[160];
} parser;

static void fail_at(parser *p, size_t at, const char *fmt, ...) PU_PRINTF(3, 4);
static void fail_at(parser *p, size_t at, const char *fmt, ...) {
  if (p->failed) return;
  char what[120];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(what, sizeof what, fmt, ap);
  va_end(ap);
  p->failed = true;
  if (p->text[at])
    snprintf(p->why, sizeof p->why, "at character %d: %s", p->place[at], what);
  else
    snprintf(p->why, sizeof p->why, "at the end: %s", what);
}

static void note(parser *p, size_t at, const char *why) {
  if (why) fail_at(p, at, "%s", why);
}

/* ---- characters ---- */

/* What people write for a character of ASCII; NULL: itself, or nothing that is known. */
static const char *plain(uint32_t cp, char one[2]) {
  static const struct {
    uint32_t cp;
    const char *s;
  } rows[] = {{0xD7, "*"},   {0xB7, "*"},   {0x2219, "*"}, {0x2217, "*"}, {0x22C5, "*"}, {0xF7, "/"},  {0x2215, "/"},
              {0x2044, "/"}, {0x2212, "-"}, {0x2013, "-"}, {0x3C0, "pi"}, {0xB2, "^2"},  {0xB3, "^3"}, {0x3000, " "},
              {0xA0, " "},   {0x2009, " "}, {0x202F, " "}, {0x3001, ","}, {0x3002, "."}};
  for (size_t i = 0; i < PU_COUNT(rows); i++)
    if (rows[i].cp == cp) return rows[i].s;
  if (cp >= 0xFF01 && cp <= 0xFF5E) cp -= 0xFF01 - 0x21; /* of full width */
  if (cp >= 0x80 || (cp < 0x20 && cp != '\t' && cp != '\n' && cp != '\r')) return NULL;
  one[0] = isspace((int)cp) ? ' ' : (char)tolower((int)cp);
  one[1] = 0;
  return one;
}

static pu_err read_characters(parser *p, pu_str s, pu_error *e) {
  size_t n = 0;
  if (s.len > MOST_BYTES) return pu_fail(e, PU_ERR_USAGE, "an expression of more than %d bytes", MOST_BYTES);
  for (uint16_t place = 1; s.len > 0; place++) {
    uint32_t cp;
    char one[2];
    size_t len = pu_utf8_next(s, &cp);
    const char *c = len ? plain(cp, one) : NULL;
    if (!c) return pu_fail(e, PU_ERR_USAGE, "at character %d: '%.*s' has no meaning here", place, (int)len, s.ptr);
    for (; *c; c++) {
      p->text[n] = *c;
      p->place[n++] = place;
    }
    s = pu_str_of(s.ptr + len, s.len - len);
  }
  p->text[n] = 0;
  return PU_OK;
}

/* The next character that is no space. */
static char peek(parser *p) {
  while (p->text[p->at] == ' ') p->at++;
  return p->text[p->at];
}

static bool take(parser *p, const char *what) {
  peek(p);
  size_t n = strlen(what);
  if (strncmp(p->text + p->at, what, n) != 0) return false;
  p->at += n;
  return true;
}

static bool is_letter(char c) {
  return c >= 'a' && c <= 'z';
}

static bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

/* A name from `at` on: its length. */
static size_t name_at(const parser *p, size_t at) {
  size_t n = 0;
  while (is_letter(p->text[at + n]) || (n > 0 && is_digit(p->text[at + n]))) n++;
  return n;
}

/* ---- functions ---- */

typedef const char *(*function)(calc_number *a, const calc_number *b); /* b NULL: not given */

static const char *rough(calc_number *a, long double v) {
  if (isnan(v)) return "it has no value among the real numbers";
  if (isinf(v)) return "the number is too large";
  calc_set_rough(a, v);
  return NULL;
}

/* Of an angle x with a relative error of 2^-64: what is less than that error is 0, so that sin(pi) is. */
static long double clean(long double v, long double x) {
  return fabsl(v) < fabsl(x) * 0x1p-62L ? 0 : v;
}

static const char *do_sin(calc_number *a, const calc_number *b) {
  long double x = calc_real(a);
  (void)b;
  return rough(a, clean(sinl(x), x));
}

static const char *do_cos(calc_number *a, const calc_number *b) {
  long double x = calc_real(a);
  (void)b;
  return rough(a, clean(cosl(x), x));
}

static const char *do_tan(calc_number *a, const calc_number *b) {
  long double x = calc_real(a), below = clean(cosl(x), x);
  (void)b;
  return below == 0 ? "tan has no value there" : rough(a, clean(sinl(x), x) / below);
}

#define ROUGH(name, formula)                                                                                           \
  static const char *do_##name(calc_number *a, const calc_number *b) {                                                 \
    long double x = calc_real(a);                                                                                      \
    (void)b;                                                                                                           \
    return rough(a, formula);                                                                                          \
  }
ROUGH(asin, asinl(x))
ROUGH(acos, acosl(x))
ROUGH(atan, atanl(x))
ROUGH(sinh, sinhl(x))
ROUGH(cosh, coshl(x))
ROUGH(tanh, tanhl(x))
ROUGH(exp, expl(x))
ROUGH(cbrt, cbrtl(x))
ROUGH(radians, x *M_PIl / 180)
ROUGH(degrees, x * 180 / M_PIl)

static const char *logarithm(calc_number *a, long double (*of)(long double)) {
  long double x = calc_real(a);
  return x > 0 ? rough(a, of(x)) : "logarithms are of numbers above 0";
}

static const char *do_ln(calc_number *a, const calc_number *b) {
  (void)b;
  return logarithm(a, logl);
}

static const char *do_log2(calc_number *a, const calc_number *b) {
  (void)b;
  return logarithm(a, log2l);
}

static const char *do_log10(calc_number *a, const calc_number *b) {
  (void)b;
  return logarithm(a, log10l);
}

static const char *do_log(calc_number *a, const calc_number *b) {
  const char *why = logarithm(a, logl);
  if (why || !b) return why;
  long double base = calc_real(b);
  return base > 0 && base != 1 ? rough(a, a->r / logl(base)) : "the base of a logarithm is above 0 and not 1";
}

static const char *do_abs(calc_number *a, const calc_number *b) {
  calc_number zero;
  (void)b;
  calc_init(&zero);
  if (calc_compare(a, &zero) < 0) calc_negate(a);
  calc_deinit(&zero);
  return NULL;
}

static const char *do_sqrt(calc_number *a, const calc_number *b) {
  (void)b;
  return calc_sqrt(a);
}

static const char *do_factorial(calc_number *a, const calc_number *b) {
  (void)b;
  return calc_factorial(a);
}

static void copy(calc_number *to, const calc_number *from) {
  to->rough = from->rough;
  to->r = from->r;
  mpq_set(to->q, from->q);
}

static const char *do_min(calc_number *a, const calc_number *b) {
  if (b && calc_compare(b, a) < 0) copy(a, b);
  return NULL;
}

static const char *do_max(calc_number *a, const calc_number *b) {
  if (b && calc_compare(b, a) > 0) copy(a, b);
  return NULL;
}

static const char *do_sum(calc_number *a, const calc_number *b) {
  return b ? calc_do('+', a, b) : NULL;
}

static const char *do_gcd(calc_number *a, const calc_number *b) {
  return b ? calc_gcd(a, b) : NULL;
}

static const char *do_pow(calc_number *a, const calc_number *b) {
  return calc_do('^', a, b);
}

static const char *do_floor(calc_number *a, const calc_number *b) {
  (void)b;
  return calc_round('f', a);
}

static const char *do_ceil(calc_number *a, const calc_number *b) {
  (void)b;
  return calc_round('c', a);
}

static const char *do_trunc(calc_number *a, const calc_number *b) {
  (void)b;
  return calc_round('t', a);
}

/* round(x, n): to n decimals. */
static const char *do_round(calc_number *a, const calc_number *b) {
  enum { MOST = 300 };
  if (!b) return calc_round('r', a);
  long double n = calc_real(b);
  if (!calc_is_int(b) || fabsl(n) > MOST) return "the second number of round is a whole one, at most 300";
  calc_number scale;
  calc_init(&scale);
  calc_set(&scale, 10);
  const char *why = calc_do('^', &scale, b);
  if (!why) why = calc_do('*', a, &scale);
  if (!why) why = calc_round('r', a);
  if (!why) why = calc_do('/', a, &scale);
  calc_deinit(&scale);
  return why;
}

static const struct row {
  const char *name;
  int least, most; /* arguments; most 0: any number, taken one after the other */
  function fn;
} functions[] = {
    {"abs", 1, 1, do_abs},
    {"acos", 1, 1, do_acos},
    {"asin", 1, 1, do_asin},
    {"atan", 1, 1, do_atan},
    {"cbrt", 1, 1, do_cbrt},
    {"ceil", 1, 1, do_ceil},
    {"cos", 1, 1, do_cos},
    {"cosh", 1, 1, do_cosh},
    {"degrees", 1, 1, do_degrees},
    {"exp", 1, 1, do_exp},
    {"factorial", 1, 1, do_factorial},
    {"floor", 1, 1, do_floor},
    {"gcd", 1, 0, do_gcd},
    {"int", 1, 1, do_trunc},
    {"ln", 1, 1, do_ln},
    {"log", 1, 2, do_log},
    {"log10", 1, 1, do_log10},
    {"log2", 1, 1, do_log2},
    {"max", 1, 0, do_max},
    {"min", 1, 0, do_min},
    {"pow", 2, 2, do_pow},
    {"radians", 1, 1, do_radians},
    {"round", 1, 2, do_round},
    {"sin", 1, 1, do_sin},
    {"sinh", 1, 1, do_sinh},
    {"sqrt", 1, 1, do_sqrt},
    {"sum", 1, 0, do_sum},
    {"tan", 1, 1, do_tan},
    {"tanh", 1, 1, do_tanh},
    {"trunc", 1, 1, do_trunc},
};

/* ---- grammar ---- */

static void sum(parser *p, calc_number *v);

/* One level deeper; false: too deep. */
static bool enter(parser *p) {
  if (p->depth++ < MOST_DEPTH) return true;
  fail_at(p, p->at, "more than %d levels", MOST_DEPTH);
  return false;
}

static void number(parser *p, calc_number *v) {
  char digits[MOST_DIGITS];
  size_t from = p->at, n = 0, end = p->at;
  while (is_digit(p->text[end])) end++;
  if (p->text[end] == '.') end++;
  while (is_digit(p->text[end])) end++;
  size_t exponent = end + (p->text[end] == 'e');
  if (exponent > end && (p->text[exponent] == '-' || p->text[exponent] == '+')) exponent++;
  if (exponent > end && is_digit(p->text[exponent]))
    for (end = exponent; is_digit(p->text[end]);) end++;
  n = end - from;
  if (n == 1 && p->text[from] == '.') {
    fail_at(p, from, "a number is expected");
    return;
  }
  p->at = end;
  if (n < sizeof digits) {
    memcpy(digits, p->text + from, n);
    digits[n] = 0;
  }
  if (n >= sizeof digits || !calc_read(v, digits)) fail_at(p, from, "the number is too long");
}

/* The arguments after a function's name, and its value. */
static void call(parser *p, const struct row *f, size_t from, calc_number *v) {
  calc_number b;
  int n = 1;
  const char *why = NULL;
  if (!take(p, "(")) {
    fail_at(p, from, "%s needs its numbers in parentheses", f->name);
    return;
  }
  calc_init(&b);
  sum(p, v);
  while (!p->failed && take(p, ",")) {
    sum(p, &b);
    n++;
    if (!p->failed && !why && f->most == 0) why = f->fn(v, &b);
  }
  if (!p->failed && !take(p, ")")) fail_at(p, p->at, "a ')' is missing");
  if (n < f->least || (f->most && n > f->most))
    fail_at(p, from, "%s takes %d number%s", f->name, f->least, f->least > 1 ? "s" : f->most > 1 ? " or two" : "");
  if (!p->failed && f->most) why = f->fn(v, n > 1 ? &b : NULL);
  note(p, from, why);
  calc_deinit(&b);
}

static void name(parser *p, calc_number *v) {
  if (strncmp(p->text + p->at, "math.", 5) == 0) p->at += 5; /* as Python has it */
  size_t from = p->at, n = name_at(p, from);
  const char *s = p->text + from;
  p->at += n;
  if (n == 2 && memcmp(s, "pi", 2) == 0) {
    calc_set_rough(v, M_PIl);
    return;
  }
  if (n == 1 && *s == 'e') {
    calc_set_rough(v, M_El);
    return;
  }
  for (size_t i = 0; i < PU_COUNT(functions); i++) {
    if (strlen(functions[i].name) != n || memcmp(functions[i].name, s, n) != 0) continue;
    call(p, &functions[i], from, v);
    return;
  }
  fail_at(p, from, "'%.*s' is not known", (int)PU_MIN(n, (size_t)MOST_NAME), s);
}

static void primary(parser *p, calc_number *v) {
  char c = peek(p);
  if (is_digit(c) || c == '.') {
    number(p, v);
  } else if (is_letter(c)) {
    name(p, v);
  } else if (take(p, "(")) {
    sum(p, v);
    if (!p->failed && !take(p, ")")) fail_at(p, p->at, "a ')' is missing");
  } else {
    fail_at(p, p->at, "a number is expected");
  }
}

/* Is the % at `at` a hundredth, and not the rest of a division? "50% - 3" is the first, "7 % -3" the second. */
static bool is_percent(const parser *p, size_t at) {
  bool spaced = at > 0 && p->text[at - 1] == ' ';
  for (at++; p->text[at] == ' ';) at++;
  char c = p->text[at];
  if (name_at(p, at) == 2 && memcmp(p->text + at, "of", 2) == 0) return true;
  if (c == '-' || c == '+') return !spaced;
  return !is_digit(c) && !is_letter(c) && c != '.' && c != '(';
}

static void percent(parser *p, calc_number *v) {
  primary(p, v);
  if (p->failed || peek(p) != '%' || !is_percent(p, p->at)) return;
  size_t from = p->at++;
  calc_number hundred;
  calc_init(&hundred);
  calc_set(&hundred, 100);
  note(p, from, calc_do('/', v, &hundred));
  calc_deinit(&hundred);
}

static void sign(parser *p, calc_number *v);

static void power(parser *p, calc_number *v) {
  percent(p, v);
  if (p->failed) return;
  peek(p);
  size_t from = p->at;
  if (!take(p, "^") && !take(p, "**")) return;
  calc_number b;
  calc_init(&b);
  sign(p, &b);
  if (!p->failed) note(p, from, calc_do('^', v, &b));
  calc_deinit(&b);
}

static void sign(parser *p, calc_number *v) {
  bool minus = false;
  if (!enter(p)) return;
  for (char c; (c = peek(p)) == '-' || c == '+'; p->at++) minus ^= c == '-';
  power(p, v);
  if (minus && !p->failed) calc_negate(v);
  p->depth--;
}

/* An operator of products, as calc_do has it; 0: there is none. */
static char product_sign(parser *p) {
  char c = peek(p);
  if (take(p, "//")) return 'f';
  if (take(p, "*")) return '*';
  if (take(p, "/")) return '/';
  if (take(p, "%")) return 'm';
  if (name_at(p, p->at) == 2 && take(p, "of")) return '*';
  if (is_digit(c) || is_letter(c) || c == '(' || c == '.') fail_at(p, p->at, "an operator such as * is missing");
  return 0;
}

static void product(parser *p, calc_number *v) {
  calc_number b;
  calc_init(&b);
  sign(p, v);
  while (!p->failed) {
    peek(p);
    size_t from = p->at;
    char op = product_sign(p);
    if (!op) break;
    sign(p, &b);
    if (!p->failed) note(p, from, calc_do(op, v, &b));
  }
  calc_deinit(&b);
}

static void sum(parser *p, calc_number *v) {
  calc_number b;
  if (!enter(p)) return;
  calc_init(&b);
  product(p, v);
  for (char c; !p->failed && ((c = peek(p)) == '+' || c == '-');) {
    size_t from = p->at++;
    product(p, &b);
    if (!p->failed) note(p, from, calc_do(c, v, &b));
  }
  calc_deinit(&b);
  p->depth--;
}

static void whole(parser *p, calc_number *v) {
  take(p, "=");
  sum(p, v);
  char c = peek(p);
  if (c == '=') p->at++; /* "12 * 3 =" */
  c = peek(p);
  if (c == ',')
    fail_at(p, p->at, "numbers are written without commas between thousands");
  else if (c)
    fail_at(p, p->at, "'%c' has no meaning here", c);
}

pu_err agent_calculate(pu_str expression, pu_buf *out, pu_error *e) {
  parser p;
  calc_number v;
  p.at = 0;
  p.depth = 0;
  p.failed = false;
  PU_TRY(read_characters(&p, expression, e));
  calc_init(&v);
  whole(&p, &v);
  pu_err err = p.failed ? pu_fail(e, PU_ERR_USAGE, "%s", p.why) : calc_write(&v, out, e);
  calc_deinit(&v);
  return err;
}
