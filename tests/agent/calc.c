/* The calculator: what people write and what they expect, exactly. */
#include "src/agent/calc.h"
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>

static const char *value(const char *expression) {
  static char text[4096];
  pu_buf b;
  pu_error e;
  pu_buf_init(&b, sizeof text);
  pu_err err = agent_calculate(pu_str_c(expression), &b, &e);
  snprintf(text, sizeof text, "%s%s", err ? "Error: " : "", err ? e.msg : b.data);
  if (err) assert_int_equal(b.len, 0);
  pu_buf_deinit(&b);
  return text;
}

static void table(void **state) {
  (void)state;
  static const char *const rows[][2] = {
      /* order, signs */
      {"1 + 2 * 3", "7"},
      {"(1 + 2) * 3", "9"},
      {"10 - 4 - 3", "3"},
      {"2 ^ 3 ^ 2", "512"},
      {"-2 ^ 2", "-4"},
      {"(-2) ** 2", "4"},
      {"2 ^ -1", "0.5"},
      {"--3", "3"},
      {"2 * -3", "-6"},
      {"-+-5", "5"},
      {"100 / 5 / 4", "5"},
      {" 1+1 = ", "2"},
      {"= 1 + 1", "2"},
      /* exact */
      {"0.1 + 0.2", "0.3"},
      {"1.1 * 1.1", "1.21"},
      {"3 * 0.1", "0.3"},
      {"19.99 * 3 - 0.97", "59"},
      {"1 / 3 * 3", "1"},
      {"1 / 3", "0.333333333333333"},
      {"2 / 3", "0.666666666666667"},
      {"-2 / 3", "-0.666666666666667"},
      {"1 / 8", "0.125"},
      {"-1 / 8", "-0.125"},
      {"1 / 1024", "0.0009765625"},
      {"123456789 * 987654321", "121932631112635269"},
      {"2 ^ 100", "1267650600228229401496703205376"},
      {"99999999999999999999 + 1", "100000000000000000000"},
      {"factorial(20)", "2432902008176640000"},
      {"factorial(25)", "15511210043330985984000000"},
      {"1e3", "1000"},
      {"1.5e-3", "0.0015"},
      {"2.50", "2.5"},
      {".5 + 5.", "5.5"},
      {"0 * -1", "0"},
      /* whole division */
      {"7 // 2", "3"},
      {"-7 // 2", "-4"},
      {"7 % 3", "1"},
      {"-7 % 3", "2"},
      {"7.5 % 2", "1.5"},
      {"7 % -3", "-2"},
      {"7 % (-3)", "-2"},
      /* percent */
      {"50%", "0.5"},
      {"15% of 80", "12"},
      {"200 * 15%", "30"},
      {"20% + 5%", "0.25"},
      {"50% - 3", "-2.5"},
      {"10 % 4", "2"},
      /* roots, powers, functions */
      {"sqrt(16)", "4"},
      {"sqrt(2)", "1.4142135623731"},
      {"sqrt(2)^2", "2"},
      {"sqrt(1/4)", "0.5"},
      {"4 ^ 0.5", "2"},
      {"27 ^ (1/3)", "3"},
      {"cbrt(-27)", "-3"},
      {"(2/3) ^ 2 * 9", "4"},
      {"(2/3) ^ -2", "2.25"},
      {"0 ^ 0", "1"},
      {"(-1) ^ 99999999999999999999", "-1"},
      {"1 ^ 1e100", "1"},
      {"2 ^ 10000", "about 1.99506311688076e+3010"},
      {"2 ^ 100000", "Error: at character 3: the number is too large"},
      {"factorial(1000)", "about 4.02387260077094e+2567"},
      {"exp(0)", "1"},
      {"ln(e)", "1"},
      {"log(100, 10)", "2"},
      {"log10(1000)", "3"},
      {"log2(8)", "3"},
      {"sin(pi)", "0"},
      {"cos(pi / 2)", "0"},
      {"sin(radians(30))", "0.5"},
      {"cos(0)", "1"},
      {"tan(pi / 4)", "1"},
      {"degrees(pi)", "180"},
      {"sin(1e-30) * 1e30", "1"},
      {"pi", "3.14159265358979"},
      {"math.sqrt(9) + Math.PI - PI", "3"},
      {"abs(-3.5)", "3.5"},
      {"min(3, 1, 2)", "1"},
      {"max(1/3, 0.34, sqrt(0.1))", "0.34"},
      {"sum(1, 2, 3, 4)", "10"},
      {"gcd(12, 18, 27)", "3"},
      {"round(2.5)", "3"},
      {"round(-2.5)", "-3"},
      {"round(2.675, 2)", "2.68"},
      {"round(1234, -2)", "1200"},
      {"round(pi, 2)", "3.14"},
      {"floor(-0.5)", "-1"},
      {"ceil(0.2)", "1"},
      {"int(-2.7)", "-2"},
      {"floor(sqrt(2) * 1000)", "1414"},
      {"pow(2, 10)", "1024"},
      /* as other keyboards have it */
      {"３×（４＋５）", "27"},
      {"８÷２−１", "3"},
      {"５０％", "0.5"},
      {"2·3", "6"},
      {"3²+4²", "25"},
      {"2π / π", "Error: at character 2: an operator such as * is missing"},
      {"2*π/π", "2"},
      {"max（1，2）", "2"},
      /* mistakes */
      {"", "Error: at the end: a number is expected"},
      {"1 +", "Error: at the end: a number is expected"},
      {"(1 + 2", "Error: at the end: a ')' is missing"},
      {"1 + 2)", "Error: at character 6: ')' has no meaning here"},
      {"1 / 0", "Error: at character 3: division by zero"},
      {"1 // 0", "Error: at character 3: division by zero"},
      {"5 % 0", "Error: at character 3: division by zero"},
      {"1 / (sqrt(2) - sqrt(2))", "Error: at character 3: division by zero"},
      {"0 ^ -1", "Error: at character 3: division by zero"},
      {"sqrt(-1)", "Error: at character 1: it has no value among the real numbers"},
      {"(-8) ^ (1/3)", "Error: at character 6: it has no value among the real numbers"},
      {"ln(0)", "Error: at character 1: logarithms are of numbers above 0"},
      {"tan(pi / 2)", "Error: at character 1: tan has no value there"},
      {"1,000 + 1", "Error: at character 2: numbers are written without commas between thousands"},
      {"foo(1)", "Error: at character 1: 'foo' is not known"},
      {"x + 1", "Error: at character 1: 'x' is not known"},
      {"sqrt 4", "Error: at character 1: sqrt needs its numbers in parentheses"},
      {"sqrt(1, 2)", "Error: at character 1: sqrt takes 1 number"},
      {"pow(2)", "Error: at character 1: pow takes 2 numbers"},
      {"2 (3)", "Error: at character 3: an operator such as * is missing"},
      {"1 $ 2", "Error: at character 3: '$' has no meaning here"},
      {"十 + 1", "Error: at character 1: '十' has no meaning here"},
      {"factorial(-1)", "Error: at character 1: factorials are of whole numbers from 0"},
      {"factorial(9999)", "Error: at character 1: the number is too large"},
      {"10 ^ 10 ^ 10", "Error: at character 4: the number is too large"},
      {"1e99999", "Error: at character 1: the number is too long"},
      {"import os", "Error: at character 1: 'import' is not known"},
  };
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    const char *got = value(rows[i][0]);
    if (strcmp(got, rows[i][1]) != 0) fail_msg("%s: \"%s\" is not \"%s\"", rows[i][0], got, rows[i][1]);
  }
}

/* Text over and over. */
static char *repeat(const char *s, int n) {
  char *text = malloc(strlen(s) * (size_t)n + 1), *at = text;
  for (int i = 0; i < n; i++) at = stpcpy(at, s);
  *at = 0;
  return text;
}

static void bounds(void **state) {
  (void)state;
  static const struct {
    const char *s;
    int n;
    const char *says;
  } rows[] = {{"(", 101, "more than 100 levels"},    {"2^", 200, "more than 100 levels"},
              {"abs(", 101, "more than 100 levels"}, {"-", 4000, "a number is expected"},
              {"1", 4097, "more than 4096 bytes"},   {"9", 2000, "the number is too long"},
              {"1+", 2048, "a number is expected"}};
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    char *text = repeat(rows[i].s, rows[i].n);
    if (!strstr(value(text), rows[i].says)) fail_msg("%d of %s: %s", rows[i].n, rows[i].s, value(text));
    free(text);
  }
}

/* Random expressions of whole numbers against the same computed in 128 bits. */
static void integers(void **state) {
  (void)state;
  pu_rng r;
  pu_rng_seed(&r, 5);
  for (int i = 0; i < 3000; i++) {
    char text[200], want[64];
    long a = (long)pu_rng_below(&r, 2000001) - 1000000, b = (long)pu_rng_below(&r, 2001) - 1000,
         c = (long)pu_rng_below(&r, 100) + 1;
    __int128 v = ((__int128)a * b - c) * a + b;
    long long q = (long long)(v / c), m = (long long)(v % c);
    if (m < 0) q--, m += c;
    snprintf(text, sizeof text, "((%ld) * (%ld) - %ld) * (%ld) + (%ld)", a, b, c, a, b);
    snprintf(want, sizeof want, "%lld", (long long)v);
    assert_string_equal(value(text), want);
    snprintf(text, sizeof text, "(((%ld) * (%ld) - %ld) * (%ld) + (%ld)) // %ld", a, b, c, a, b, c);
    snprintf(want, sizeof want, "%lld", q);
    assert_string_equal(value(text), want);
    snprintf(text, sizeof text, "(((%ld) * (%ld) - %ld) * (%ld) + (%ld)) %% %ld", a, b, c, a, b, c);
    snprintf(want, sizeof want, "%lld", m);
    assert_string_equal(value(text), want);
  }
}

/* Fractions and functions against double, to the digits that it has. */
static void reals(void **state) {
  (void)state;
  pu_rng r;
  pu_rng_seed(&r, 6);
  for (int i = 0; i < 3000; i++) {
    char text[200];
    double a = (double)pu_rng_below(&r, 100000) / 100, b = (double)(1 + pu_rng_below(&r, 100000)) / 1000;
    snprintf(text, sizeof text, "%.2f / %.3f + sqrt(%.2f) * sin(%.3f) - exp(-%.3f) + %.3f ^ 1.5 + log(%.3f)", a, b, a,
             b, b, b, b);
    double want = a / b + sqrt(a) * sin(b) - exp(-b) + pow(b, 1.5) + log(b), got = atof(value(text));
    if (fabs(got - want) > 1e-11 * (1 + fabs(a / b) + b * sqrt(b)))
      fail_msg("%s: %s, not %.17g", text, value(text), want);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(table), cmocka_unit_test(bounds), cmocka_unit_test(integers),
                                     cmocka_unit_test(reals)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
