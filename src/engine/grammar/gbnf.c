/* GBNF, the notation of llama.cpp: rules of literals, character classes, groups, alternatives and repetitions. */
#include <stdlib.h>
#include <string.h>

#include "src/engine/grammar/grammar.h"

enum { NAME_MAX_BYTES = 200 };

typedef struct parser {
  g_rules *g;
  pu_str s;
  size_t at;
  int depth;
  json_t *names;   /* to rules */
  size_t *used_at; /* [G_RULES_MAX]: where a rule was first named */
  pu_error *e;
} parser;

static pu_err refuse(const parser *p, size_t at, const char *what) {
  size_t line = 1, begin = 0;
  for (size_t i = 0; i < at; i++)
    if (p->s.ptr[i] == '\n') {
      line++;
      begin = i + 1;
    }
  size_t rest = 0;
  while (rest < 20 && at + rest < p->s.len && p->s.ptr[at + rest] != '\n') rest++;
  return pu_fail(p->e, PU_ERR_FORMAT, "grammar:%zu:%zu: %s: '%.*s'", line, at - begin + 1, what, (int)rest,
                 p->s.ptr + at);
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

/* Blanks and comments; lines: over the ends of lines too. */
static void blanks(parser *p, bool lines) {
  for (int c; (c = peek(p)) >= 0; p->at++) {
    if (c == '#') {
      while (peek(p) >= 0 && peek(p) != '\n') p->at++;
      if (!lines || peek(p) < 0) return;
    } else if (c != ' ' && c != '\t' && !(lines && (c == '\n' || c == '\r'))) {
      return;
    }
  }
}

/* ---- characters ---- */

static bool is_name(int c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

static pu_err hex(parser *p, int digits, uint32_t *out) {
  size_t from = p->at;
  *out = 0;
  for (int i = 0; i < digits; i++, p->at++) {
    static const char letters[] = "0123456789abcdef";
    int c = peek(p);
    const char *at = c >= '0' && c < 0x80 ? memchr(letters, c | 0x20, 16) : NULL;
    if (!at) return refuse(p, from, "a character's number is written with 2, 4 or 8 hexadecimal digits");
    *out = *out * 16 + (uint32_t)(at - letters);
  }
  bool none = *out > G_CHAR_MAX || (*out >= 0xD800 && *out <= 0xDFFF);
  return none ? refuse(p, from, "no character has this number") : PU_OK;
}

static pu_err character(parser *p, uint32_t *c) {
  size_t from = p->at;
  if (!skip(p, "\\")) {
    p->at += pu_utf8_next(pu_str_of(p->s.ptr + p->at, p->s.len - p->at), c);
    return PU_OK;
  }
  int letter = peek(p);
  p->at += letter >= 0;
  switch (letter) {
  case 'x':
    return hex(p, 2, c);
  case 'u':
    return hex(p, 4, c);
  case 'U':
    return hex(p, 8, c);
  case 't':
    *c = '\t';
    return PU_OK;
  case 'r':
    *c = '\r';
    return PU_OK;
  case 'n':
    *c = '\n';
    return PU_OK;
  default:
    *c = (uint32_t)letter;
    return letter > 0 && letter < 0x80 && strchr("\\\"[]^-/", letter) ? PU_OK : refuse(p, from, "unknown escape");
  }
}

/* Behind the opening quote. */
static pu_err literal(parser *p, g_expr **out) {
  size_t from = p->at - 1;
  pu_buf b;
  pu_buf_init(&b, G_SOURCE_MAX);
  pu_err err = PU_OK;
  while (!err && !skip(p, "\"")) {
    uint32_t c;
    if (peek(p) < 0 || peek(p) == '\n')
      err = refuse(p, from, "this literal is not closed");
    else if (!(err = character(p, &c)))
      pu_utf8_put(&b, c);
  }
  if (!err) *out = g_text(p->g, pu_str_of(b.data ? b.data : "", b.len));
  p->g->failed |= b.failed;
  pu_buf_deinit(&b);
  return err;
}

/* Behind the opening bracket. */
static pu_err class(parser *p, g_expr **out) {
  size_t from = p->at - 1;
  g_ranges r = {0};
  bool negated = skip(p, "^");
  while (!skip(p, "]")) {
    uint32_t lo, hi;
    size_t at = p->at;
    if (peek(p) < 0 || peek(p) == '\n') return refuse(p, from, "this class is not closed");
    PU_TRY(character(p, &lo));
    hi = lo;
    if (peek(p) == '-' && p->at + 1 < p->s.len && p->s.ptr[p->at + 1] != ']') {
      p->at++;
      PU_TRY(character(p, &hi));
    }
    if (hi < lo) return refuse(p, at, "the range is backwards");
    g_ranges_add(p->g, &r, lo, hi);
  }
  *out = g_chars(p->g, r.v, r.n, negated);
  return PU_OK;
}

/* ---- rules ---- */

/* The number of a name, which is new where it was not used before. */
static int32_t rule_of(parser *p, const char *name, size_t at) {
  json_t *known = json_object_get(p->names, name);
  if (known) return (int32_t)json_integer_value(known);
  int32_t r = g_rule_new(p->g);
  p->used_at[r] = at;
  if (json_object_set_new(p->names, name, json_integer(r))) p->g->failed = true;
  return r;
}

static pu_err name(parser *p, char *out) {
  size_t from = p->at, n = 0;
  for (; is_name(peek(p)); p->at++) {
    if (n == NAME_MAX_BYTES) return refuse(p, from, "this name is longer than 200 characters");
    out[n++] = p->s.ptr[p->at];
  }
  out[n] = 0;
  return n ? PU_OK : refuse(p, from, "a rule's name should stand here");
}

static bool number(parser *p, int32_t *out) {
  size_t from = p->at;
  for (*out = 0; peek(p) >= '0' && peek(p) <= '9'; p->at++)
    *out = PU_MIN(*out * 10 + (p->s.ptr[p->at] - '0'), G_REPEAT_MAX + 1);
  return p->at > from;
}

/* *, +, ?, {m}, {m,}, {m,n} or {,n} behind an element. */
static pu_err repeated(parser *p, g_expr **x) {
  size_t from = p->at;
  int32_t min = 0, max = -1;
  if (skip(p, "?")) {
    max = 1;
  } else if (skip(p, "+")) {
    min = 1;
  } else if (skip(p, "{")) {
    blanks(p, false);
    bool has_min = number(p, &min);
    blanks(p, false);
    if (!skip(p, ","))
      max = has_min ? min : -2;
    else if (blanks(p, false), !number(p, &max))
      max = has_min ? -1 : -2;
    blanks(p, false);
    if (max == -2 || !skip(p, "}")) return refuse(p, from, "this is no repetition such as {2,5}");
    if (min > G_REPEAT_MAX || max > G_REPEAT_MAX) return refuse(p, from, "more than 65536 times");
    if (max >= 0 && max < min) return refuse(p, from, "the repetition is backwards");
  } else if (!skip(p, "*")) {
    return PU_OK;
  }
  *x = g_repeat(p->g, *x, min, max);
  blanks(p, p->depth > 0);
  return peek(p) >= 0 && strchr("*+?{", peek(p)) ? repeated(p, x) : PU_OK;
}

static pu_err alternatives(parser *p, g_expr **out);

static pu_err group(parser *p, g_expr **out) {
  size_t from = p->at - 1;
  if (++p->depth > G_NESTING_MAX) return refuse(p, from, "groups nest more than 200 deep");
  PU_TRY(alternatives(p, out));
  p->depth--;
  return skip(p, ")") ? PU_OK : refuse(p, from, "this group is not closed");
}

/* *out NULL: no element begins here. */
static pu_err element(parser *p, g_expr **out) {
  size_t from = p->at;
  *out = NULL;
  if (skip(p, "\"")) return literal(p, out);
  if (skip(p, "[")) return class(p, out);
  if (skip(p, "(")) return group(p, out);
  if (skip(p, ".")) {
    *out = g_chars(p->g, NULL, 0, true);
    return PU_OK;
  }
  if (skip(p, "<") || skip(p, "!")) return refuse(p, from, "tokens in a grammar are not supported; write their text");
  if (!is_name(peek(p))) return PU_OK;
  char text[NAME_MAX_BYTES + 1];
  PU_TRY(name(p, text));
  *out = g_call(p->g, rule_of(p, text, from));
  return PU_OK;
}

static pu_err sequence(parser *p, g_expr **out) {
  g_list l = {0};
  for (;;) {
    size_t from = p->at;
    g_expr *x;
    PU_TRY(element(p, &x));
    if (p->at == from) break;
    blanks(p, p->depth > 0);
    if (p->at < p->s.len && strchr("*+?{", peek(p))) PU_TRY(repeated(p, &x));
    g_list_add(p->g, &l, x);
  }
  *out = g_join(p->g, G_SEQ, l.v, l.n);
  return PU_OK;
}

static pu_err alternatives(parser *p, g_expr **out) {
  g_list l = {0};
  do {
    g_expr *x = NULL;
    blanks(p, l.n > 0 || p->depth > 0);
    PU_TRY(sequence(p, &x));
    g_list_add(p->g, &l, x);
  } while (skip(p, "|"));
  *out = g_join(p->g, G_ALT, l.v, l.n);
  return PU_OK;
}

static pu_err rule(parser *p) {
  size_t from = p->at;
  char text[NAME_MAX_BYTES + 1];
  PU_TRY(name(p, text));
  int32_t r = rule_of(p, text, from);
  if (p->g->failed) return PU_OK;
  blanks(p, false);
  if (!skip(p, "::=")) return refuse(p, p->at, "::= should stand behind a rule's name");
  if (p->g->v[r]) return refuse(p, from, "this rule is there twice");
  blanks(p, true);
  PU_TRY(alternatives(p, &p->g->v[r]));
  if (peek(p) >= 0 && peek(p) != '\n' && peek(p) != '\r') return refuse(p, p->at, "this is no part of a rule");
  return PU_OK;
}

static pu_err all_rules(parser *p) {
  rule_of(p, "root", 0);
  for (blanks(p, true); peek(p) >= 0 && !p->g->failed; blanks(p, true)) PU_TRY(rule(p));
  if (p->g->failed) return PU_OK;
  if (!p->g->v[0]) return pu_fail(p->e, PU_ERR_FORMAT, "grammar: there is no rule 'root', with which a text begins");
  for (int32_t r = 1; r < p->g->n; r++)
    if (!p->g->v[r]) return refuse(p, p->used_at[r], "this rule is not defined");
  return PU_OK;
}

pu_err g_gbnf(g_rules *g, pu_str source, pu_error *e) {
  parser p = {.g = g, .s = source, .e = e, .names = json_object(), .used_at = calloc(G_RULES_MAX, sizeof(size_t))};
  pu_err err = p.names && p.used_at ? all_rules(&p) : pu_fail(e, PU_ERR_NOMEM, "no memory for a grammar");
  json_decref(p.names);
  free(p.used_at);
  return err;
}
