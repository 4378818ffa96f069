/* Arithmetic of the tool `calculator`: calc.c reads expressions, calc_number.c has the numbers. */
#ifndef PUYU_AGENT_CALC_H
#define PUYU_AGENT_CALC_H

#include <gmp.h>

#include "puyu/base.h"

/* Appends the value of an expression of at most 4 KiB, as people write it: "1234", "0.1", "1.4142135623731". Integers
 * and fractions are exact up to 4096 bits; what is not (roots, logarithms, powers that are larger) is computed with 64
 * bits and shown with 15 digits. Errors name the place, counted in characters from 1. */
pu_err agent_calculate(pu_str expression, pu_buf *out, pu_error *e) PU_MUST_USE;

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

enum { CALC_MOST_BITS = 4096 }; /* of numerator and denominator */

/* A fraction; or, where `rough`, a number of 64 bits. */
typedef struct calc_number {
  bool rough;
  long double r;
  mpq_t q;
} calc_number;
void calc_init(calc_number *n);
void calc_deinit(calc_number *n);
void calc_set(calc_number *n, long v);
void calc_set_rough(calc_number *n, long double v);
bool calc_is_int(const calc_number *n);
bool calc_is_zero(const calc_number *n);
/* As a number of 64 bits. */
long double calc_real(const calc_number *n);
/* "12.5e-3". False: its exponent is beyond the bits. */
bool calc_read(calc_number *n, const char *digits);

/* a = a OP b, for + - * / and, written `f` and `m`, // and % (both round down, as in Python), and ^. NULL: it went
 * well; else why not. */
const char *calc_do(char op, calc_number *a, const calc_number *b);
void calc_negate(calc_number *a);
/* -1, 0, 1. */
int calc_compare(const calc_number *a, const calc_number *b);
/* Whole numbers near it: 'f' below, 'c' above, 'r' nearest (halves away from 0), 't' towards 0. */
const char *calc_round(char how, calc_number *a);
/* Square root, exact where it can be. */
const char *calc_sqrt(calc_number *a);
const char *calc_factorial(calc_number *a);
const char *calc_gcd(calc_number *a, const calc_number *b);
/* Appends it. */
pu_err calc_write(const calc_number *a, pu_buf *out, pu_error *e) PU_MUST_USE;

#endif
