/* Numbers of the calculator. Exact ones are GMP's fractions of bounded size, so that sums of prices and large integers
 * come out as on paper; what leaves them becomes a long double. */
#include "src/agent/calc.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DIGITS = 15, MOST_DECIMALS = 40, MOST_EXPONENT = 1200 };

static const char BY_ZERO[] = "division by zero", TOO_LARGE[] = "the number is too large";

void calc_init(calc_number *n) {
  n->rough = false;
  n->r = 0;
  mpq_init(n->q);
}

void calc_deinit(calc_number *n) {
  mpq_clear(n->q);
}

void calc_set(calc_number *n, long v) {
  n->rough = false;
  mpq_set_si(n->q, v, 1);
}

void calc_set_rough(calc_number *n, long double v) {
  n->rough = true;
  n->r = v;
}

static size_t bits(const calc_number *n) {
  return PU_MAX(mpz_sizeinbase(mpq_numref(n->q), 2), mpz_sizeinbase(mpq_denref(n->q), 2));
}

bool calc_is_int(const calc_number *n) {
  return !n->rough && mpz_cmp_ui(mpq_denref(n->q), 1) == 0;
}

bool calc_is_zero(const calc_number *n) {
  return n->rough ? n->r == 0 : mpq_sgn(n->q) == 0;
}

/* The quotient of numerator and denominator to 64 bits, rounded down. */
long double calc_real(const calc_number *n) {
  if (n->rough) return n->r;
  if (mpq_sgn(n->q) == 0) return 0;
  mpz_t x;
  mpz_init(x);
  mpz_abs(x, mpq_numref(n->q));
  long shift = 64 - ((long)mpz_sizeinbase(x, 2) - (long)mpz_sizeinbase(mpq_denref(n->q), 2)); /* 64 or 65 bits stay */
  if (shift > 0) mpz_mul_2exp(x, x, (mp_bitcnt_t)shift);
  if (shift > 0)
    mpz_tdiv_q(x, x, mpq_denref(n->q));
  else
    mpz_tdiv_q(x, x, mpq_denref(n->q)), mpz_tdiv_q_2exp(x, x, (mp_bitcnt_t)-shift);
  if (mpz_sizeinbase(x, 2) > 64) mpz_tdiv_q_2exp(x, x, 1), shift--;
  long double v = ldexpl((long double)mpz_get_ui(x), (int)-shift);
  mpz_clear(x);
  return mpq_sgn(n->q) < 0 ? -v : v;
}

/* A whole number of a long double that has one, below 2^63. */
static void set_whole(calc_number *n, long double v) {
  if (fabsl(v) < 0x1p62L) {
    calc_set(n, (long)v);
  } else {
    n->r = v;
  }
}

bool calc_read(calc_number *n, const char *s) {
  char digits[1300];
  size_t k = 0;
  long exponent = 0;
  bool point = false;
  for (; *s && *s != 'e' && *s != 'E'; s++) {
    if (*s == '.') {
      point = true;
      continue;
    }
    if (k + 1 == sizeof digits) return false;
    digits[k++] = *s;
    exponent -= point;
  }
  digits[k] = 0;
  if (*s) exponent += PU_MAX(-100000, PU_MIN(100000, strtol(s + 1, NULL, 10)));
  if (labs(exponent) > MOST_EXPONENT) return false;
  n->rough = false;
  mpz_set_str(mpq_numref(n->q), digits, 10);
  mpz_set_ui(mpq_denref(n->q), 1);
  mpz_t scale;
  mpz_init(scale);
  mpz_ui_pow_ui(scale, 10, (unsigned long)labs(exponent));
  if (exponent < 0)
    mpz_set(mpq_denref(n->q), scale);
  else
    mpz_mul(mpq_numref(n->q), mpq_numref(n->q), scale);
  mpz_clear(scale);
  mpq_canonicalize(n->q);
  return bits(n) <= CALC_MOST_BITS;
}

/* ---- operations ---- */

/* What came out of an operation on long doubles. */
static const char *checked(calc_number *a) {
  if (isnan(a->r)) return "it has no value among the real numbers";
  return isinf(a->r) ? TOO_LARGE : NULL;
}

static const char *do_rough(char op, calc_number *a, const calc_number *b) {
  long double x = calc_real(a), y = calc_real(b);
  if ((op == '/' || op == 'f' || op == 'm') && y == 0) return BY_ZERO;
  a->rough = true;
  switch (op) {
  case '+':
    a->r = x + y;
    break;
  case '-':
    a->r = x - y;
    break;
  case '*':
    a->r = x * y;
    break;
  case '/':
    a->r = x / y;
    break;
  case 'f':
    set_whole(a, floorl(x / y));
    break;
  case 'm':
    a->r = x - y * floorl(x / y);
    break;
  default:
    a->r = powl(x, y);
    break;
  }
  return a->rough ? checked(a) : NULL;
}

/* The quotient rounded down, as an integer. */
static void floor_quotient(mpq_t to, const mpq_t a, const mpq_t b) {
  mpq_div(to, a, b);
  mpz_fdiv_q(mpq_numref(to), mpq_numref(to), mpq_denref(to));
  mpz_set_ui(mpq_denref(to), 1);
}

static void floor_rest(mpq_t a, const mpq_t b) {
  mpq_t n;
  mpq_init(n);
  floor_quotient(n, a, b);
  mpq_mul(n, n, b);
  mpq_sub(a, a, n);
  mpq_clear(n);
}

/* To a whole power that stays within the bits; false: it does not. */
static bool power(calc_number *a, const calc_number *b) {
  if (!calc_is_int(b)) return false;
  bool unit = mpz_cmpabs_ui(mpq_numref(a->q), 1) <= 0 && calc_is_int(a); /* -1, 0, 1: any power is small */
  if (unit) {
    bool odd = mpz_odd_p(mpq_numref(b->q));
    if (mpq_sgn(b->q) == 0)
      calc_set(a, 1);
    else if (!odd)
      mpq_abs(a->q, a->q);
    return true;
  }
  if (!mpz_fits_sint_p(mpq_numref(b->q))) return false;
  long n = mpz_get_si(mpq_numref(b->q));
  size_t most;
  if (pu_mul_overflows(bits(a), (size_t)labs(n), &most) || most > 2 * CALC_MOST_BITS) return false;
  if (n < 0) mpq_inv(a->q, a->q);
  mpz_pow_ui(mpq_numref(a->q), mpq_numref(a->q), (unsigned long)labs(n)); /* stays in lowest terms */
  mpz_pow_ui(mpq_denref(a->q), mpq_denref(a->q), (unsigned long)labs(n));
  return true;
}

static const char *do_power(calc_number *a, const calc_number *b) {
  int sign = b->rough ? (b->r > 0) - (b->r < 0) : mpq_sgn(b->q);
  if (calc_is_zero(a) && sign < 0) return BY_ZERO;
  if (!a->rough && !b->rough && power(a, b)) return NULL;
  return do_rough('^', a, b);
}

const char *calc_do(char op, calc_number *a, const calc_number *b) {
  const char *why = NULL;
  if (op == '^') {
    why = do_power(a, b);
  } else if (a->rough || b->rough) {
    why = do_rough(op, a, b);
  } else {
    if ((op == '/' || op == 'f' || op == 'm') && mpq_sgn(b->q) == 0) return BY_ZERO;
    switch (op) {
    case '+':
      mpq_add(a->q, a->q, b->q);
      break;
    case '-':
      mpq_sub(a->q, a->q, b->q);
      break;
    case '*':
      mpq_mul(a->q, a->q, b->q);
      break;
    case '/':
      mpq_div(a->q, a->q, b->q);
      break;
    case 'f':
      floor_quotient(a->q, a->q, b->q);
      break;
    default:
      floor_rest(a->q, b->q);
      break;
    }
  }
  if (why || a->rough || bits(a) <= CALC_MOST_BITS) return why;
  calc_set_rough(a, calc_real(a));
  return checked(a);
}

void calc_negate(calc_number *a) {
  a->r = -a->r;
  mpq_neg(a->q, a->q);
}

int calc_compare(const calc_number *a, const calc_number *b) {
  if (!a->rough && !b->rough) return mpq_cmp(a->q, b->q);
  long double x = calc_real(a), y = calc_real(b);
  return (x > y) - (x < y);
}

static void round_rough(char how, calc_number *a) {
  long double v = a->r;
  set_whole(a, how == 'f' ? floorl(v) : how == 'c' ? ceill(v) : how == 't' ? truncl(v) : roundl(v));
}

const char *calc_round(char how, calc_number *a) {
  if (a->rough) {
    round_rough(how, a);
    return NULL;
  }
  mpz_ptr num = mpq_numref(a->q), den = mpq_denref(a->q);
  if (how == 'f') mpz_fdiv_q(num, num, den);
  if (how == 'c') mpz_cdiv_q(num, num, den);
  if (how == 't') mpz_tdiv_q(num, num, den);
  if (how == 'r') { /* |x| + 1/2, towards 0 */
    int sign = mpz_sgn(num);
    mpz_abs(num, num);
    mpz_mul_2exp(num, num, 1);
    mpz_add(num, num, den);
    mpz_mul_2exp(den, den, 1);
    mpz_tdiv_q(num, num, den);
    if (sign < 0) mpz_neg(num, num);
  }
  mpz_set_ui(den, 1);
  return NULL;
}

const char *calc_sqrt(calc_number *a) {
  if (!a->rough && mpq_sgn(a->q) >= 0 && mpz_perfect_square_p(mpq_numref(a->q)) &&
      mpz_perfect_square_p(mpq_denref(a->q))) {
    mpz_sqrt(mpq_numref(a->q), mpq_numref(a->q));
    mpz_sqrt(mpq_denref(a->q), mpq_denref(a->q));
    return NULL;
  }
  calc_set_rough(a, sqrtl(calc_real(a)));
  return checked(a);
}

const char *calc_factorial(calc_number *a) {
  enum { MOST_EXACT = 530, MOST = 1754 }; /* what fits into CALC_MOST_BITS, into a long double */
  if (!calc_is_int(a) || mpq_sgn(a->q) < 0) return "factorials are of whole numbers from 0";
  if (mpz_cmp_ui(mpq_numref(a->q), MOST) > 0) return TOO_LARGE;
  unsigned long n = mpz_get_ui(mpq_numref(a->q));
  if (n <= MOST_EXACT)
    mpz_fac_ui(mpq_numref(a->q), n);
  else
    calc_set_rough(a, tgammal((long double)n + 1));
  return NULL;
}

const char *calc_gcd(calc_number *a, const calc_number *b) {
  if (!calc_is_int(a) || !calc_is_int(b)) return "gcd is of whole numbers";
  mpz_gcd(mpq_numref(a->q), mpq_numref(a->q), mpq_numref(b->q));
  return NULL;
}

/* ---- text ---- */

static pu_err put_rough(long double v, pu_buf *out, pu_error *e) {
  char text[64];
  snprintf(text, sizeof text, "%.*Lg", DIGITS, v == 0 ? 0 : v);
  bool large = strchr(text, 'e') && fabsl(v) > 1; /* digits that a reader would expect are missing */
  return pu_buf_printf(out, "%s%s", large ? "about " : "", text) ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory");
}

static void strip(mpz_t x, unsigned long by, unsigned long *times) {
  for (*times = 0; mpz_divisible_ui_p(x, by) && *times <= MOST_DECIMALS; ++*times) mpz_divexact_ui(x, x, by);
}

/* Decimals that a fraction needs; -1: it has no end, or too many. */
static int decimals(const mpq_t q) {
  mpz_t x;
  unsigned long twos, fives;
  mpz_init_set(x, mpq_denref(q));
  strip(x, 2, &twos);
  strip(x, 5, &fives);
  bool ends = mpz_cmp_ui(x, 1) == 0;
  mpz_clear(x);
  unsigned long n = PU_MAX(twos, fives);
  return ends && n <= MOST_DECIMALS ? (int)n : -1;
}

static pu_err put_exact(const mpq_t q, int n, pu_buf *out, pu_error *e) {
  mpz_t x, scale;
  mpz_init(scale);
  mpz_init_set(x, mpq_numref(q));
  mpz_ui_pow_ui(scale, 10, (unsigned long)n);
  mpz_mul(x, x, scale);
  mpz_tdiv_q(x, x, mpq_denref(q));
  bool minus = mpz_sgn(x) < 0;
  mpz_abs(x, x);
  char *digits = malloc(mpz_sizeinbase(x, 10) + 2);
  if (digits) {
    mpz_get_str(digits, 10, x);
    size_t len = strlen(digits), whole = len > (size_t)n ? len - (size_t)n : 0;
    pu_buf_printf(out, "%s%.*s", minus ? "-" : "", (int)PU_MAX(whole, 1), whole ? digits : "0");
    if (n > 0) pu_buf_putc(out, '.');
    for (size_t i = len; n > 0 && i < (size_t)n; i++) pu_buf_putc(out, '0');
    if (n > 0) pu_buf_puts(out, digits + whole);
  }
  mpz_clear(x);
  mpz_clear(scale);
  bool good = digits && !out->failed;
  free(digits);
  return good ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory");
}

pu_err calc_write(const calc_number *a, pu_buf *out, pu_error *e) {
  int n = a->rough ? -1 : decimals(a->q);
  return n < 0 ? put_rough(calc_real(a), out, e) : put_exact(a->q, n, out, e);
}
