/* What an answer says, found in its text. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <ctype.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "src/eval/internal.h"

enum { MOST_ANSWER = 16 << 20, MOST_STEPS = 2000000, MOST_DEPTH = 10000, LETTERS = 26 };

/* ---- texts ---- */

pu_str eval_trimmed(pu_str s) {
  while (s.len && isspace((unsigned char)s.ptr[s.len - 1])) s.len--;
  while (s.len && isspace((unsigned char)*s.ptr)) s = pu_str_of(s.ptr + 1, s.len - 1);
  return s;
}

void eval_narrow(pu_str text, pu_buf *out) {
  while (text.len) {
    uint32_t cp = (unsigned char)*text.ptr;
    size_t n = pu_utf8_next(text, &cp);
    if (n == 0) {
      pu_utf8_put(out, 0xFFFD); /* regular expressions want text */
      n = 1;
    } else if (cp >= 0xFF01 && cp <= 0xFF5E) {
      pu_buf_putc(out, (char)(cp - 0xFEE0));
    } else if (cp == 0x3000 || cp == 0xA0) {
      pu_buf_putc(out, ' ');
    } else if (cp == 0x2212) {
      pu_buf_putc(out, '-');
    } else {
      pu_buf_append(out, text.ptr, n);
    }
    text = pu_str_of(text.ptr + n, text.len - n);
  }
}

/* ---- numbers ---- */

static size_t digits(pu_str s, size_t at) {
  size_t n = 0;
  while (at + n < s.len && isdigit((unsigned char)s.ptr[at + n])) n++;
  return n;
}

/* Bytes of the whole part: "1,200,000", or "1200". */
static size_t whole_part(pu_str s, size_t at) {
  size_t n = digits(s, at);
  if (n == 0 || n > 3) return n;
  while (at + n < s.len && s.ptr[at + n] == ',' && digits(s, at + n + 1) == 3) n += 4;
  return n;
}

size_t eval_number(pu_str s, pu_buf *out) {
  size_t at = s.len && (*s.ptr == '-' || *s.ptr == '+'), first = at;
  if (at < s.len && s.ptr[at] == '$') first = ++at;
  size_t whole = whole_part(s, at);
  at += whole;
  size_t part = at < s.len && s.ptr[at] == '.' ? digits(s, at + 1) : 0;
  if (whole + part == 0) return 0;
  size_t end = part ? at + 1 + part : at;
  size_t begin = out->len;
  for (size_t i = first; i < first + whole; i++)
    if (s.ptr[i] != ',' && (s.ptr[i] != '0' || out->len > begin)) pu_buf_putc(out, s.ptr[i]);
  if (out->len == begin) pu_buf_putc(out, '0');
  while (part && s.ptr[at + part] == '0') part--;
  if (part) pu_buf_append(out, s.ptr + at, 1 + part);
  bool zero = out->len == begin + 1 && out->data[begin] == '0';
  if (*s.ptr == '-' && !zero && pu_buf_putc(out, '-')) { /* to the front */
    memmove(out->data + begin + 1, out->data + begin, out->len - begin - 1);
    out->data[begin] = '-';
  }
  return end;
}

/* ---- rules ---- */

static bool find_number(pu_str s, pu_buf *out) {
  size_t from = out->len;
  bool found = false;
  for (size_t i = 0; i < s.len;) {
    bool inside = i && (isalnum((unsigned char)s.ptr[i - 1]) || s.ptr[i - 1] == '_');
    char c = s.ptr[i];
    bool sign = (c == '-' || c == '+') && inside; /* "5-3": a difference */
    size_t before = out->len, n = 0;
    if ((isdigit((unsigned char)c) && !inside) || (!isdigit((unsigned char)c) && strchr("-+$.", c) && c && !sign))
      n = eval_number(pu_str_of(s.ptr + i, s.len - i), out);
    if (n) {
      if (found) memmove(out->data + from, out->data + before, out->len - before);
      out->len = from + out->len - before;
      if (out->data) out->data[out->len] = 0;
      found = true;
    }
    i += n ? n : 1;
  }
  return found;
}

/* The last \boxed{…}, with what is nested in it; "\boxed 5" up to a space. */
static bool find_boxed(pu_str s, pu_buf *out) {
  static const char word[] = "\\boxed";
  const char *at = NULL, *end = s.ptr + s.len;
  for (const char *p = s.ptr; (p = memmem(p, (size_t)(end - p), word, sizeof word - 1)); p++) at = p;
  if (!at) return false;
  at += sizeof word - 1;
  while (at < end && *at == ' ') at++;
  const char *begin = at;
  if (at < end && *at != '{') {
    while (at < end && !isspace((unsigned char)*at) && *at != '$') at++;
    return at > begin && pu_buf_append(out, begin, (size_t)(at - begin));
  }
  for (int depth = 0; at < end; at++) {
    depth += (*at == '{') - (*at == '}');
    if (depth == 0) return pu_buf_append(out, begin + 1, (size_t)(at - begin - 1));
  }
  return false;
}

typedef enum rule { LETTER, NUMBER, BOXED, TEXT, REGEX } rule;

struct eval_extractor {
  size_t n;
  rule *rules;
  pcre2_code **regex; /* [n] */
  pcre2_code *letters[3];
  pcre2_match_data *match;
  pcre2_match_context *limits;
};

static pu_err compile(const char *what, const char *pattern, pcre2_code **out, pu_error *e) {
  int code;
  PCRE2_SIZE at;
  PCRE2_UCHAR why[120];
  *out = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_MULTILINE, &code, &at, NULL);
  if (*out) return PU_OK;
  pcre2_get_error_message(code, why, sizeof why);
  return pu_fail(e, PU_ERR_USAGE,
                 "%s: extract: '%.100s' is no rule (letter, number, boxed, text), and as a regular "
                 "expression, at %zu: %s",
                 what, pattern, (size_t)at, (const char *)why);
}

/* Behind a word that says so, the last such; at the beginning; else the first that stands alone. An A or I before a
 * word is more often that word's. */
static pu_err compile_letters(eval_extractor *x, const char *what, size_t n_options, pu_error *e) {
  static const char behind_a_word[] =
      "(?:[Aa]nswer|ANSWER|答案|选项|选择|故选|选)(?:(?:is|为|是|选|应该|应|[Oo]ption|选项|:|[\\s*_\"'(\\[{$]|"
      "\\\\boxed|\\\\text))*([A-%c])(?![A-Za-z0-9'])";
  static const char *const forms[] = {behind_a_word,
                                      "\\A[\\s*_\"'(\\[{$#]*(?:[Oo]ption\\s*)?([A-%c])(?![A-Za-z0-9'])(?! [a-z])",
                                      "(?<![A-Za-z0-9'])([A-%c])(?![A-Za-z0-9'])(?! [a-z])"};
  char pattern[400];
  for (size_t i = 0; i < PU_COUNT(forms); i++) {
    snprintf(pattern, sizeof pattern, forms[i], (int)('A' + (n_options ? PU_MIN(n_options, LETTERS) : LETTERS) - 1));
    PU_TRY(compile(what, pattern, &x->letters[i], e));
  }
  return PU_OK;
}

/* Appends the first group of the first match, or of the last. */
static bool match(const eval_extractor *x, const pcre2_code *code, pu_str s, bool last, pu_buf *out) {
  size_t from = out->len;
  bool found = false;
  for (size_t at = 0; at <= s.len;) {
    int n = pcre2_match(code, (PCRE2_SPTR)s.ptr, s.len, at, PCRE2_NO_UTF_CHECK, x->match, x->limits);
    const PCRE2_SIZE *v = pcre2_get_ovector_pointer(x->match);
    if (n <= 0) break;
    size_t g = n > 1 && v[2] != PCRE2_UNSET ? 2 : 0;
    out->len = from;
    pu_buf_append(out, s.ptr + v[g], v[g + 1] - v[g]);
    found = true;
    if (!last || v[1] <= at) break;
    at = v[1];
  }
  return found;
}

static bool find_letter(const eval_extractor *x, pu_str s, pu_buf *out) {
  return match(x, x->letters[0], s, true, out) || match(x, x->letters[1], s, false, out) ||
         match(x, x->letters[2], s, false, out);
}

static bool find(const eval_extractor *x, size_t i, pu_str s, pu_buf *out) {
  switch (x->rules[i]) {
  case LETTER:
    return find_letter(x, s, out);
  case NUMBER:
    return find_number(s, out);
  case BOXED:
    return find_boxed(s, out);
  case TEXT:
    return s.len && pu_buf_append(out, s.ptr, s.len);
  default:
    return match(x, x->regex[i], s, false, out);
  }
}

pu_err eval_extractor_open(const pu_eval_task *t, eval_extractor **out, pu_error *e) {
  static const char *const names[] = {"letter", "number", "boxed", "text"};
  eval_extractor *x = *out = calloc(1, sizeof *x);
  if (x) x->rules = calloc(t->extract.n + 1, sizeof *x->rules);
  if (x) x->regex = calloc(t->extract.n + 1, sizeof *x->regex);
  if (x) x->match = pcre2_match_data_create(8, NULL);
  if (x) x->limits = pcre2_match_context_create(NULL);
  if (!x || !x->rules || !x->regex || !x->match || !x->limits)
    return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its rules", t->name);
  pcre2_set_match_limit(x->limits, MOST_STEPS);
  pcre2_set_depth_limit(x->limits, MOST_DEPTH);
  x->n = t->extract.n;
  for (size_t i = 0; i < x->n; i++) {
    x->rules[i] = REGEX;
    for (size_t k = 0; k < PU_COUNT(names); k++)
      if (strcmp(t->extract.v[i], names[k]) == 0) x->rules[i] = (rule)k;
    if (x->rules[i] == REGEX) PU_TRY(compile(t->name, t->extract.v[i], &x->regex[i], e));
  }
  return compile_letters(x, t->name, t->choices.n, e);
}

void eval_extractor_close(eval_extractor *x) {
  if (!x) return;
  for (size_t i = 0; x->regex && i < x->n; i++) pcre2_code_free(x->regex[i]);
  for (size_t i = 0; i < PU_COUNT(x->letters); i++) pcre2_code_free(x->letters[i]);
  pcre2_match_data_free(x->match);
  pcre2_match_context_free(x->limits);
  free(x->regex);
  free(x->rules);
  free(x);
}

pu_err eval_extract(const eval_extractor *x, pu_str text, pu_buf *out, bool *found, pu_error *e) {
  pu_buf narrow;
  size_t from = out->len;
  pu_buf_init(&narrow, MOST_ANSWER);
  eval_narrow(text, &narrow);
  pu_str s = eval_trimmed(pu_str_of(narrow.data ? narrow.data : "", narrow.len));
  *found = false;
  for (size_t i = 0; i < x->n && !*found; i++) {
    out->len = from;
    *found = find(x, i, s, out);
  }
  if (!*found) out->len = from;
  bool failed = narrow.failed || out->failed;
  pu_buf_deinit(&narrow);
  return failed ? pu_fail(e, PU_ERR_NOMEM, "no memory for an answer") : PU_OK;
}

/* ---- is it the right one ---- */

static bool same_text(pu_str a, pu_str b) {
  a = eval_trimmed(a);
  b = eval_trimmed(b);
  return a.len == b.len && (a.len == 0 || strncasecmp(a.ptr, b.ptr, a.len) == 0);
}

/* Is all of it a number? */
static bool number_of(pu_str s, pu_buf *out) {
  s = eval_trimmed(s);
  size_t n = eval_number(s, out);
  if (n && n < s.len && s.ptr[n] == '%') n++;
  if (n && n < s.len && s.ptr[n] == '.') n++;
  return n && n == s.len;
}

static void plain(pu_eval_compare how, pu_str s, pu_buf *out) {
  pu_buf narrow;
  pu_buf_init(&narrow, MOST_ANSWER);
  eval_narrow(s, &narrow);
  s = pu_str_of(narrow.data ? narrow.data : "", narrow.len);
  if (how == PU_EVAL_EXACT || !number_of(s, out)) {
    pu_buf_clear(out);
    if (how == PU_EVAL_MATH)
      eval_math_plain(s, out);
    else if (s.len)
      pu_buf_append(out, s.ptr, s.len);
  }
  pu_buf_deinit(&narrow);
}

bool eval_same(pu_eval_compare how, pu_str got, pu_str wanted) {
  pu_buf a, b;
  pu_buf_init(&a, MOST_ANSWER);
  pu_buf_init(&b, MOST_ANSWER);
  plain(how, got, &a);
  plain(how, wanted, &b);
  pu_str x = pu_str_of(a.data ? a.data : "", a.len), y = pu_str_of(b.data ? b.data : "", b.len);
  bool same = how == PU_EVAL_MATH ? pu_str_eq(x, y) : same_text(x, y);
  pu_buf_deinit(&a);
  pu_buf_deinit(&b);
  return same;
}
