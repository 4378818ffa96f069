/* Numbers within bounds and texts of known formats, as expressions. */
#include <string.h>

#include "src/engine/grammar/grammar.h"

enum { INTEGER_DIGITS = 16, FRACTION_DIGITS = 16 }; /* of numbers without bounds: no model counts for ever */

static g_expr *digit(g_rules *g, int lo, int hi) {
  return g_one_of(g, {(uint32_t)('0' + lo), (uint32_t)('0' + hi)});
}

static g_expr *digits(g_rules *g, int32_t min, int32_t max) {
  return g_repeat(g, digit(g, 0, 9), min, max);
}

/* ---- integers ---- */

/* Numbers of the same length, from lo to hi, digit by digit: the first one decides how much freedom the rest has. */
static g_expr *same_length(g_rules *g, const char *lo, const char *hi) {
  int32_t rest = (int32_t)strlen(lo) - 1;
  int first = lo[0] - '0', last = hi[0] - '0';
  if (rest == 0) return digit(g, first, last);
  if (first == last) return g_seq(g, digit(g, first, first), same_length(g, lo + 1, hi + 1));
  char nines[24], zeros[24];
  memset(nines, '9', sizeof nines);
  memset(zeros, '0', sizeof zeros);
  nines[rest] = zeros[rest] = 0;
  g_list l = {0};
  bool low_part = strcmp(lo + 1, zeros) != 0, high_part = strcmp(hi + 1, nines) != 0;
  if (low_part) g_list_add(g, &l, g_seq(g, digit(g, first, first), same_length(g, lo + 1, nines)));
  if (first + low_part <= last - high_part)
    g_list_add(g, &l, g_seq(g, digit(g, first + low_part, last - high_part), digits(g, rest, rest)));
  if (high_part) g_list_add(g, &l, g_seq(g, digit(g, last, last), same_length(g, zeros, hi + 1)));
  return g_join(g, G_ALT, l.v, l.n);
}

/* From lo to hi, 0 <= lo; NULL where there are none. */
static void natural(g_rules *g, g_list *to, uint64_t lo, uint64_t hi, g_expr *sign) {
  for (uint64_t most = 9;; most = most * 10 + 9) {
    uint64_t least = most / 10 + (most > 9), from = PU_MAX(lo, least), upto = PU_MIN(hi, most);
    if (from <= upto) {
      char a[24], b[24];
      snprintf(a, sizeof a, "%llu", (unsigned long long)from);
      snprintf(b, sizeof b, "%llu", (unsigned long long)upto);
      g_expr *x = same_length(g, a, b);
      g_list_add(g, to, sign ? g_seq(g, sign, x) : x);
    }
    if (hi <= most || most > UINT64_MAX / 10 - 9) return;
  }
}

static uint64_t size_of(int64_t v) {
  return v < 0 ? (uint64_t)0 - (uint64_t)v : (uint64_t)v;
}

/* A missing bound is one of sixteen digits. */
static int64_t bound(const int64_t *given, int sign) {
  static const int64_t free_bound = 9999999999999999;
  return given ? *given : sign * free_bound;
}

g_expr *g_integers(g_rules *g, const int64_t *min, const int64_t *max) {
  int64_t lo = bound(min, -1), hi = bound(max, 1);
  if (!min && hi < lo) lo = hi <= INT64_MIN / 10 ? INT64_MIN : hi * 10;
  if (!max && hi < lo) hi = lo >= INT64_MAX / 10 ? INT64_MAX : lo * 10;
  g_list l = {0};
  if (hi >= 0 && lo <= hi) natural(g, &l, (uint64_t)PU_MAX(lo, 0), (uint64_t)hi, NULL);
  if (lo < 0 && lo <= hi) natural(g, &l, size_of(PU_MIN(hi, -1)), size_of(lo), g_textc(g, "-"));
  return g_join(g, G_ALT, l.v, l.n);
}

/* ---- numbers with a fraction ---- */

static g_expr *fraction(g_rules *g) {
  return g_seq(g, g_textc(g, "."), digits(g, 1, FRACTION_DIGITS));
}

static g_expr *zero_fraction(g_rules *g) {
  return g_seq(g, g_textc(g, "."), g_repeat(g, digit(g, 0, 0), 1, FRACTION_DIGITS));
}

/* Not nothing: some digit is not zero. */
static g_expr *positive_fraction(g_rules *g) {
  return g_seq(g, g_textc(g, "."), g_repeat(g, digit(g, 0, 0), 0, FRACTION_DIGITS - 1), digit(g, 1, 9),
               digits(g, 0, FRACTION_DIGITS));
}

/* Decimals between the natural numbers lo and hi (NULL: no end); the ends themselves where they are included. */
static void decimals(g_rules *g, g_list *to, int64_t lo, const int64_t *hi, bool lo_in, bool hi_in, g_expr *sign) {
  g_list l = {0};
  if (hi && lo > *hi) return;
  if (hi && lo == *hi) {
    if (lo_in && hi_in) g_list_add(g, &l, g_seq(g, g_integers(g, &lo, &lo), g_optional(g, zero_fraction(g))));
  } else {
    int64_t next = lo + 1, last = hi ? *hi - 1 : 0;
    g_expr *behind = lo_in ? g_optional(g, fraction(g)) : positive_fraction(g);
    g_list_add(g, &l, g_seq(g, g_integers(g, &lo, &lo), behind));
    if (!hi || next <= last)
      g_list_add(g, &l, g_seq(g, g_integers(g, &next, hi ? &last : NULL), g_optional(g, fraction(g))));
    if (hi && hi_in) g_list_add(g, &l, g_seq(g, g_integers(g, hi, hi), g_optional(g, zero_fraction(g))));
  }
  g_expr *x = g_join(g, G_ALT, l.v, l.n);
  g_list_add(g, to, sign ? g_seq(g, sign, x) : x);
}

static g_expr *any_number(g_rules *g) {
  g_expr *whole = g_alt(g, digit(g, 0, 0), g_seq(g, digit(g, 1, 9), digits(g, 0, INTEGER_DIGITS - 1)));
  g_expr *exponent = g_seq(g, g_one_of(g, {'e', 'e'}, {'E', 'E'}), g_optional(g, g_one_of(g, {'+', '+'}, {'-', '-'})),
                           digits(g, 1, 2));
  return g_seq(g, g_optional(g, g_textc(g, "-")), whole, g_optional(g, fraction(g)), g_optional(g, exponent));
}

g_expr *g_numbers(g_rules *g, const int64_t *min, const int64_t *max, bool above_min, bool below_max) {
  if (!min && !max) return any_number(g);
  g_list l = {0};
  int64_t zero = 0;
  if (!max || *max >= 0) {
    bool from_min = min && *min >= 0;
    decimals(g, &l, from_min ? *min : 0, max, from_min ? !above_min : true, !below_max, NULL);
  }
  if (!min || *min < 0) { /* the same, mirrored */
    bool from_max = max && *max < 0;
    int64_t far = min ? -*min : 0;
    decimals(g, &l, from_max ? -*max : zero, min ? &far : NULL, from_max ? !below_max : false, !above_min,
             g_textc(g, "-"));
  }
  return g_join(g, G_ALT, l.v, l.n);
}

/* ---- formats ---- */

#define DATE                                                                                                           \
  "[0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
#define TIME     "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
#define OCTET    "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
#define LABEL    "[A-Za-z0-9]([A-Za-z0-9-]{0,29}[A-Za-z0-9])?"
#define WORD     "[A-Za-z0-9_+-]{1,20}"
#define H16      "[0-9A-Fa-f]{1,4}"
#define URI_CHAR "([A-Za-z0-9._~:@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})"
#define COUNT    "[0-9]{1,9}"
#define CLOCK    "T(" COUNT "H(" COUNT "M(" COUNT "S)?)?|" COUNT "M(" COUNT "S)?|" COUNT "S)"
#define CALENDAR "(" COUNT "D|" COUNT "M(" COUNT "D)?|" COUNT "Y(" COUNT "M(" COUNT "D)?)?)"

/* RFC 3339 (without 29 February: whether there is one depends on the year), RFC 4122, and of RFC 5321, 1123, 2673, 4291
 * and 3986 what is usual, so short that the lengths that they allow as a whole are kept. */
static const struct {
  const char *name, *regex;
} formats[] = {
    {"date", DATE},
    {"time", TIME},
    {"date-time", DATE "T" TIME},
    {"duration", "P(" CALENDAR "(" CLOCK ")?|" CLOCK "|" COUNT "W)"},
    {"uuid", "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"},
    {"email", WORD "(\\." WORD "){0,2}@(" LABEL "\\.){1,5}[A-Za-z]{2,30}"},
    {"hostname", LABEL "(\\." LABEL "){0,6}"},
    {"ipv4", OCTET "(\\." OCTET "){3}"},
    {"ipv6", "(" H16 ":){7}" H16 "|(" H16 ":){1,7}:|(" H16 ":){1,6}:" H16 "|(" H16 ":){1,5}(:" H16 "){1,2}|(" H16
             ":){1,4}(:" H16 "){1,3}|(" H16 ":){1,3}(:" H16 "){1,4}|(" H16 ":){1,2}(:" H16 "){1,5}|" H16 ":(:" H16
             "){1,6}|:((:" H16 "){1,7}|:)"},
    {"uri", "[A-Za-z][A-Za-z0-9+.-]*://" LABEL "(\\." LABEL "){0,6}(:[0-9]{1,5})?(/" URI_CHAR "*)*(\\?(" URI_CHAR
            "|[/?])*)?(#(" URI_CHAR "|[/?])*)?"},
};

pu_err g_format(g_rules *g, const char *name, g_expr **out, pu_error *e) {
  *out = NULL;
  for (size_t i = 0; i < PU_COUNT(formats); i++)
    if (strcmp(formats[i].name, name) == 0) return g_regex(g, pu_str_c(formats[i].regex), false, out, e);
  return PU_OK;
}
